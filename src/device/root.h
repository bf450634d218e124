/* The file system of the machine that is described: "/" or, in tests and with --root, a directory
 * that holds another machine's /sys, /proc, /dev and /etc. Symbolic links, absolute ones too, are
 * resolved inside it.
 *
 * Paths are given without the root and begin with a slash. Values only; one thread per object. */
#ifndef OFR_DEVICE_ROOT_H
#define OFR_DEVICE_ROOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/status.h"

enum { OFR_ROOT_NAME_SIZE = 256 };

typedef struct ofr_root {
    int fd;      /* O_PATH of the root directory */
    bool actual; /* it is "/" */
} ofr_root;

/* NULL or "" is "/". */
int ofr_root_open(const char *path, ofr_root *ret_root, ofr_error *err);
void ofr_root_close(ofr_root *root);

/* The first size - 1 bytes of a small file, NUL-terminated, without trailing white space. False
 * where it is absent or unreadable; then ret_text is "". */
bool ofr_root_read(const ofr_root *root, char *ret_text, size_t size, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* A decimal or 0x number; false where the file does not begin with one. */
bool ofr_root_read_u64(const ofr_root *root, uint64_t *ret_value, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool ofr_root_stat(const ofr_root *root, const char *path, struct stat *ret_info);
bool ofr_root_exists(const ofr_root *root, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Whether this process may open the file with these rights (R_OK | W_OK), access control lists of
 * its node included. */
bool ofr_root_may(const ofr_root *root, const char *path, int rights);
/* The target of the symbolic link, as it is written. */
bool ofr_root_link(const ofr_root *root, const char *path, char *ret_target, size_t size);
/* A whole file of at most `cap` bytes, malloc'ed and NUL-terminated; NULL where it cannot be read.
 */
char *ofr_root_load(const ofr_root *root, const char *path, size_t cap);

/* Names in a directory that begin with `prefix`, sorted as version numbers ("card2" before
 * "card10"); at most `capacity`. Returns their number. */
size_t ofr_root_list(const ofr_root *root, const char *path, const char *prefix,
                     char (*ret_names)[OFR_ROOT_NAME_SIZE], size_t capacity);

#endif
