/* Processes: starting a program, and what /proc says of a running one. */
#ifndef OFR_BASE_PROCESS_H
#define OFR_BASE_PROCESS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"

typedef struct ofr_spawn_options {
    const char *path;        /* program; its real path or found as it is, no search */
    const char *const *argv; /* NULL-terminated */
    int inherit_fd;          /* becomes descriptor 3 of the child; -1: none */
    int stdout_fd;           /* -1: /dev/null */
    int stderr_fd;           /* -1: this process's */
} ofr_spawn_options;

/* Starts a program with standard input from /dev/null, default signal handling and an empty signal
 * mask. All other descriptors must be close-on-exec. The caller reaps the child. */
int ofr_process_spawn(const ofr_spawn_options *options, pid_t *ret_pid, ofr_error *err);

/* Resident bytes and consumed processor time of a process; 0 where /proc does not say. */
uint64_t ofr_process_resident_bytes(pid_t pid);
uint64_t ofr_process_cpu_ns(pid_t pid);

/* The path of this program's file. */
int ofr_process_self_path(char *ret_path, size_t size, ofr_error *err);

/* "exit code 1" or "signal 9 (Killed)" for a status of waitpid(2). */
void ofr_process_describe_status(int wait_status, char *ret_text, size_t size);

#endif
