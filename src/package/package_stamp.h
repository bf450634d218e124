/* "Known good" stamps: which weights.bin was found to have its checksum, so that opening a package
 * need not read gigabytes each time. Internal to src/package.
 *
 * A stamp names device, inode, size, mtime, ctime and checksum of the file; it lies in
 * $XDG_CACHE_HOME/offering/verified or ~/.cache/offering/verified, in a file named by the checksum
 * of the path. All of it is best effort: without a usable cache directory every opening verifies.
 */
#ifndef OFR_PACKAGE_PACKAGE_STAMP_H
#define OFR_PACKAGE_PACKAGE_STAMP_H

#include <stdbool.h>

typedef struct ofr_package_stamp {
    char text[512]; /* "" where the file cannot be examined */
} ofr_package_stamp;

/* The identity of the open file as it is now; taken before the file is read. */
void ofr_package_stamp_take(int fd, const char *sha256, ofr_package_stamp *ret_stamp);
/* `path` (absolute) is known to be good under this identity. */
bool ofr_package_stamp_is_known(const ofr_package_stamp *stamp, const char *path);
/* Records that the content, read after the stamp was taken, has the checksum. Nothing is recorded
 * if the file has changed since. */
void ofr_package_stamp_record(const ofr_package_stamp *stamp, const char *path, int fd,
                              const char *sha256);

#endif
