/* The runtime directory of an instance: where its socket, its lock and its log are.
 *
 * $XDG_RUNTIME_DIR/offering/<instance> where that variable names a directory of this user, else
 * /tmp/offering-<uid>/<instance>. Both levels are mode 0700, belong to this user and are no
 * symbolic links: a directory that another user made first is refused, never used. */
#ifndef OFR_BASE_RUNTIME_DIR_H
#define OFR_BASE_RUNTIME_DIR_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum { OFR_INSTANCE_NAME_SIZE = 64, OFR_RUNTIME_PATH_SIZE = 4096 };

/* A name is 1 to 63 of [A-Za-z0-9._-] and does not begin with a dot. */
int ofr_instance_name_check(const char *name, ofr_error *err);

/* Opens the directory of all instances (instance NULL) or of one; `create` makes what is absent.
 * OFR_ENOENT: absent; OFR_EACCESS: not this user's or open to others, with the fix.
 * *ret_fd is close-on-exec, the caller closes it; ret_path has OFR_RUNTIME_PATH_SIZE bytes. */
int ofr_runtime_dir_open(const char *instance, bool create, int *ret_fd, char *ret_path,
                         ofr_error *err);

#endif
