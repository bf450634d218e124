/* A child process for code that may crash, hang or leak: drivers. */
#ifndef OFR_DEVICE_CHILD_H
#define OFR_DEVICE_CHILD_H

#include <sys/types.h>

#include "base/status.h"

/* Forks. The child runs body(fd, user), with the write end of a pipe as its only descriptor above
 * stderr, standard input and output on /dev/null, default signals, no core dump, and ends with its
 * parent; then it exits. *ret_fd is the read end, close-on-exec. With `quiet` stderr goes to
 * /dev/null too: drivers print what is no message of ours. */
int ofr_child_start(void (*body)(int fd, void *user), void *user, int quiet, pid_t *ret_pid,
                    int *ret_fd, ofr_error *err);

#endif
