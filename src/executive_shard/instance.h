/* Instances: one executive per package. Their names, who serves them, and which one a command that
 * names none means. */
#ifndef OFR_EXECUTIVE_SHARD_INSTANCE_H
#define OFR_EXECUTIVE_SHARD_INSTANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/runtime_dir.h"
#include "base/status.h"

#define OFR_DEFAULT_PACKAGE "./offering_int4_binary"

/* The default name for a package: the base name of its real path (what a name may hold of it) and
 * the first 8 hex digits of the path's sha256. */
int ofr_instance_for_package(const char *directory, char ret_name[OFR_INSTANCE_NAME_SIZE],
                             ofr_error *err);

/* Is an executive serving (or starting) under this name? *ret_pid is 0 where none is. */
int ofr_instance_holder(const char *name, pid_t *ret_pid, ofr_error *err);

/* The instance that a command means: `instance` if given, else that of `package` if given, else
 * that of the default package if it is served, else the only one that runs. OFR_ENOENT says what
 * runs instead; whether the named one is served is for the caller to find out. */
int ofr_instance_resolve(const char *package, const char *instance,
                         char ret_name[OFR_INSTANCE_NAME_SIZE], ofr_error *err);

/* Removes what a killed executive left in its runtime directory: its socket. Nothing where one
 * serves (again), or where a service manager holds the socket. */
void ofr_instance_clear(const char *name);

/* All that run, sorted; *ret_names is malloc'ed, one block. */
int ofr_instance_list(char (**ret_names)[OFR_INSTANCE_NAME_SIZE], size_t *ret_count,
                      ofr_error *err);

/* The lock that decides who serves. A starting executive takes the start lock, waiting for its
 * turn; then the serve lock, which it keeps for life; makes its socket; and drops the start lock.
 * So whoever is told "busy" finds a socket that listens. The kernel drops both locks with the
 * process.
 */
typedef struct ofr_instance_lock {
    int fd; /* -1: none */
} ofr_instance_lock;
/* OFR_EBUSY: another one serves; *ret_holder is its pid. */
int ofr_instance_lock_acquire(int directory_fd, ofr_instance_lock *ret_lock, pid_t *ret_holder,
                              ofr_error *err);
/* Once the socket listens. */
void ofr_instance_lock_started(ofr_instance_lock *lock);
void ofr_instance_lock_release(ofr_instance_lock *lock);

#endif
