/* "Known good" stamps of weights.bin in the user's cache directory. */
#include "package/package_stamp.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "base/sha256.h"

enum { STAMP_CAP = 4096 };

static char *stamp_directory(void)
{
    const char *cache = getenv("XDG_CACHE_HOME");
    if (cache && cache[0] == '/')
        return ofr_path_join(cache, "offering/verified");
    const char *home = getenv("HOME");
    if (!home || home[0] != '/')
        return NULL;
    return ofr_path_join(home, ".cache/offering/verified");
}

/* NULL: there is no usable place. */
static char *stamp_path(const char *directory, const char *path)
{
    char hex[OFR_SHA256_HEX_SIZE];
    if (!directory || path[0] != '/' || ofr_sha256_hex(path, strlen(path), hex, NULL) < 0)
        return NULL;
    return ofr_path_join(directory, hex);
}

void ofr_package_stamp_take(int fd, const char *sha256, ofr_package_stamp *ret_stamp)
{
    struct stat st;
    ret_stamp->text[0] = '\0';
    if (fstat(fd, &st) < 0)
        return;
    snprintf(ret_stamp->text, sizeof ret_stamp->text, "1 %llu %llu %lld %lld.%09ld %lld.%09ld %s\n",
             (unsigned long long)st.st_dev, (unsigned long long)st.st_ino, (long long)st.st_size,
             (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (long long)st.st_ctim.tv_sec,
             st.st_ctim.tv_nsec, sha256);
}

bool ofr_package_stamp_is_known(const ofr_package_stamp *stamp, const char *path)
{
    char *directory = stamp_directory();
    char *file = stamp_path(directory, path);
    void *text = NULL;
    size_t size = 0, expected = strlen(stamp->text);
    bool known = expected > 0 && file && ofr_file_read(file, STAMP_CAP, &text, &size, NULL) == 0 &&
                 size == expected && memcmp(text, stamp->text, size) == 0;
    free(text);
    free(file);
    free(directory);
    return known;
}

/* A write that follows within the clock's granularity of the one before leaves the same times: a
 * file that young is not stamped. */
static bool is_settled(int fd)
{
    struct stat st;
    struct timespec now;
    if (fstat(fd, &st) < 0 || clock_gettime(CLOCK_REALTIME, &now) < 0)
        return false;
    int64_t age_ns =
        ((int64_t)now.tv_sec - st.st_ctim.tv_sec) * 1000000000 + (now.tv_nsec - st.st_ctim.tv_nsec);
    return age_ns > 20 * 1000000;
}

void ofr_package_stamp_record(const ofr_package_stamp *stamp, const char *path, int fd,
                              const char *sha256)
{
    ofr_package_stamp now;
    ofr_package_stamp_take(fd, sha256, &now);
    if (now.text[0] == '\0' || strcmp(now.text, stamp->text) != 0 || !is_settled(fd))
        return;
    char *directory = stamp_directory();
    char *file = stamp_path(directory, path);
    if (file && ofr_directory_make(directory, 0700, NULL) == 0)
        (void)ofr_file_replace(file, now.text, strlen(now.text), 0600, NULL);
    free(file);
    free(directory);
}
