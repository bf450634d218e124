/* The cache of compiled graphs: verified at every hit, pruned at every store. */
#include "backend/openvino/blob_cache.h"

#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/sha256.h"

enum { CONTENT_MAX = 1 << 30, ENTRIES_MAX = 4096 };
static const char MAGIC[8] = "OFRBLOB1";

typedef struct blob_header {
    char magic[8];
    uint64_t size; /* little-endian */
    char sha256[64];
    char zero[48];
} blob_header;
_Static_assert(sizeof(blob_header) == OFR_BLOB_HEADER_BYTES, "blob header");

char *ofr_blob_cache_directory(void)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int n = -1;
    if (cache && cache[0] == '/')
        n = asprintf(&path, "%s/offering/blobs", cache);
    else if (home && home[0] == '/')
        n = asprintf(&path, "%s/.cache/offering/blobs", home);
    if (n < 0)
        return NULL;
    if (ofr_directory_make(path, 0700, NULL) < 0) {
        free(path);
        return NULL;
    }
    return path;
}

static char *entry_path(const char *directory, const char *key)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s.blob", directory, key) < 0 ? NULL : path;
}

static int check_entry(const char *path, const uint8_t *data, size_t size, ofr_error *err)
{
    blob_header header;
    char sha256[OFR_SHA256_HEX_SIZE];
    if (size < sizeof header)
        return ofr_fail(err, OFR_ENOENT, "%s: too short", path);
    memcpy(&header, data, sizeof header);
    if (memcmp(header.magic, MAGIC, sizeof MAGIC) != 0 ||
        le64toh(header.size) != size - sizeof header)
        return ofr_fail(err, OFR_ENOENT, "%s: not a whole entry", path);
    int r = ofr_sha256_hex(data + sizeof header, size - sizeof header, sha256, err);
    if (r == 0 && memcmp(sha256, header.sha256, sizeof header.sha256) != 0)
        r = ofr_fail(err, OFR_ENOENT, "%s: its checksum does not match", path);
    return r;
}

int ofr_blob_cache_get(const char *directory, const char *key, void **ret_data, size_t *ret_size,
                       ofr_error *err)
{
    char *path = entry_path(directory, key);
    if (!path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", directory);
    void *data = NULL;
    size_t size = 0;
    int r = ofr_file_read(path, CONTENT_MAX, &data, &size, err);
    if (r == 0) {
        r = check_entry(path, data, size, err);
        if (r < 0)
            unlink(path);
    }
    if (r == 0) {
        size -= OFR_BLOB_HEADER_BYTES;
        memmove(data, (char *)data + OFR_BLOB_HEADER_BYTES, size);
        *ret_data = data;
        *ret_size = size;
        utimensat(AT_FDCWD, path, NULL, 0); /* used now: pruned last */
    } else {
        free(data);
    }
    free(path);
    return r;
}

typedef struct entry {
    char name[96];
    struct timespec used;
    uint64_t size;
} entry;

static int compare_age(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return x->used.tv_nsec < y->used.tv_nsec ? -1 : x->used.tv_nsec > y->used.tv_nsec;
}

static void prune(const char *directory, uint64_t budget)
{
    DIR *dir = opendir(directory);
    entry *entries = dir ? calloc(ENTRIES_MAX, sizeof *entries) : NULL;
    size_t n = 0;
    uint64_t total = 0;
    const struct dirent *found;
    while (entries && n < ENTRIES_MAX && (found = readdir(dir)) != NULL) {
        struct stat st;
        size_t length = strlen(found->d_name);
        if (length < 6 || length >= sizeof entries->name ||
            strcmp(found->d_name + length - 5, ".blob") != 0 ||
            fstatat(dirfd(dir), found->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        memcpy(entries[n].name, found->d_name, length + 1);
        entries[n].used = st.st_mtim;
        entries[n].size = (uint64_t)st.st_size;
        total += entries[n++].size;
    }
    if (entries)
        qsort(entries, n, sizeof *entries, compare_age);
    for (size_t i = 0; i < n && total > budget; i++)
        if (unlinkat(dirfd(dir), entries[i].name, 0) == 0)
            total -= entries[i].size;
    free(entries);
    if (dir)
        closedir(dir);
}

int ofr_blob_cache_put(const char *directory, const char *key, const void *data, size_t size,
                       uint64_t budget, ofr_error *err)
{
    char sha256[OFR_SHA256_HEX_SIZE];
    char *path = entry_path(directory, key);
    uint8_t *whole = malloc(OFR_BLOB_HEADER_BYTES + size);
    int r = path && whole ? ofr_sha256_hex(data, size, sha256, err)
                          : ofr_fail(err, OFR_ENOMEM, "%s: out of memory", directory);
    if (r == 0) {
        blob_header header = {.size = htole64(size)};
        memcpy(header.magic, MAGIC, sizeof header.magic);
        memcpy(header.sha256, sha256, sizeof header.sha256);
        memcpy(whole, &header, sizeof header);
        memcpy(whole + sizeof header, data, size);
        r = ofr_file_replace(path, whole, sizeof header + size, 0600, err);
    }
    if (r == 0)
        prune(directory, budget);
    free(whole);
    free(path);
    return r;
}
