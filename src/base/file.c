/* Files and directories: the only place that knows how to map, read, write and replace them
 * completely. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IO_PIECE_BYTES = 1 << 30 }; /* the kernel moves at most 2 GiB a call */

int ofr_file_open_read(const char *path, int *ret_fd, uint64_t *ret_size, ofr_error *err)
{
    /* O_NONBLOCK: opening a FIFO must not hang before we can refuse it. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return ofr_fail_errno(err, errno, "%s: cannot be opened", path);
    struct stat st;
    if (fstat(fd, &st) < 0) {
        int r = ofr_fail_errno(err, errno, "%s: cannot be examined", path);
        close(fd);
        return r;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return ofr_fail(err, OFR_EINVAL, "%s: is %s, not a file", path,
                        S_ISDIR(st.st_mode) ? "a directory" : "a special file");
    }
    if (ret_size)
        *ret_size = (uint64_t)st.st_size;
    *ret_fd = fd;
    return 0;
}

int ofr_file_map_open(const char *path, ofr_file_map *ret_map, ofr_error *err)
{
    int fd;
    uint64_t size;
    int r = ofr_file_open_read(path, &fd, &size, err);
    if (r < 0)
        return r;
    void *data = NULL;
    if (size > 0) {
        data =
            size > SIZE_MAX ? MAP_FAILED : mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) {
            r = ofr_fail_errno(err, errno, "%s: cannot be mapped (%llu bytes)", path,
                               (unsigned long long)size);
            close(fd);
            return r;
        }
    }
    *ret_map = (ofr_file_map){.data = data, .size = (size_t)size, .fd = fd};
    return 0;
}

void ofr_file_map_close(ofr_file_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    if (map->fd >= 0)
        close(map->fd);
    *map = (ofr_file_map)OFR_FILE_MAP_EMPTY;
}

int ofr_file_read(const char *path, size_t cap, void **ret_data, size_t *ret_size, ofr_error *err)
{
    int fd;
    uint64_t size;
    int r = ofr_file_open_read(path, &fd, &size, err);
    if (r < 0)
        return r;
    char *data = NULL;
    if (size > cap) {
        r = ofr_fail(err, OFR_ELIMIT, "%s: %llu bytes, at most %zu are expected", path,
                     (unsigned long long)size, cap);
        goto out;
    }
    data = malloc((size_t)size + 1);
    if (!data) {
        r = ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
        goto out;
    }
    r = ofr_file_pread(fd, path, data, (size_t)size, 0, err);
    if (r < 0)
        goto out;
    data[size] = '\0';
    *ret_data = data;
    *ret_size = (size_t)size;
    data = NULL;
out:
    free(data);
    close(fd);
    return r;
}

int ofr_file_pread(int fd, const char *path, void *data, size_t size, uint64_t offset,
                   ofr_error *err)
{
    if (offset > INT64_MAX || size > INT64_MAX - offset)
        return ofr_fail(err, OFR_EINVAL, "%s: offset out of range", path);
    char *to = data;
    while (size > 0) {
        ssize_t n = pread(fd, to, size < IO_PIECE_BYTES ? size : IO_PIECE_BYTES, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ofr_fail_errno(err, errno, "%s: cannot be read", path);
        if (n == 0)
            return ofr_fail(err, OFR_EFORMAT, "%s: is truncated at byte %llu", path,
                            (unsigned long long)offset);
        to += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int ofr_file_pwrite(int fd, const char *path, const void *data, size_t size, uint64_t offset,
                    ofr_error *err)
{
    if (offset > INT64_MAX || size > INT64_MAX - offset)
        return ofr_fail(err, OFR_EINVAL, "%s: offset out of range", path);
    const char *from = data;
    while (size > 0) {
        ssize_t n = pwrite(fd, from, size < IO_PIECE_BYTES ? size : IO_PIECE_BYTES, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ofr_fail_errno(err, errno, "%s: cannot be written", path);
        from += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int ofr_file_write_all(int fd, const char *path, const void *data, size_t size, ofr_error *err)
{
    const char *from = data;
    while (size > 0) {
        ssize_t n = write(fd, from, size < IO_PIECE_BYTES ? size : IO_PIECE_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ofr_fail_errno(err, errno, "%s: cannot be written", path);
        from += n;
        size -= (size_t)n;
    }
    return 0;
}

int ofr_file_replace(const char *path, const void *data, size_t size, mode_t mode, ofr_error *err)
{
    char *temporary = NULL;
    char *parent = ofr_path_parent(path);
    if (!parent || asprintf(&temporary, "%s.XXXXXX", path) < 0) {
        free(parent);
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    }
    int r = 0;
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        r = ofr_fail_errno(err, errno, "%s: cannot be made", path);
        goto out;
    }
    r = ofr_file_write_all(fd, path, data, size, err);
    if (r == 0 && (fchmod(fd, mode) < 0 || fsync(fd) < 0))
        r = ofr_fail_errno(err, errno, "%s: cannot be written", path);
    if (close(fd) < 0 && r == 0)
        r = ofr_fail_errno(err, errno, "%s: cannot be written", path);
    if (r == 0 && rename(temporary, path) < 0)
        r = ofr_fail_errno(err, errno, "%s: cannot be replaced", path);
    if (r < 0)
        unlink(temporary);
    else
        r = ofr_directory_sync(parent, err);
out:
    free(temporary);
    free(parent);
    return r;
}

int ofr_directory_make(const char *path, mode_t mode, ofr_error *err)
{
    char *copy = strdup(path);
    if (!copy)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    int r = 0;
    for (char *p = copy; *p; p++) {
        bool end = p[1] == '\0';
        if (!end && !(p[0] != '/' && p[1] == '/'))
            continue;
        char kept = p[1];
        p[1] = '\0';
        if (mkdir(copy, mode) < 0 && errno != EEXIST) {
            r = ofr_fail_errno(err, errno, "%s: the directory cannot be made", copy);
            break;
        }
        p[1] = kept;
    }
    struct stat st;
    if (r == 0 && stat(path, &st) < 0)
        r = ofr_fail_errno(err, errno, "%s: the directory cannot be made", path);
    else if (r == 0 && !S_ISDIR(st.st_mode))
        r = ofr_fail(err, OFR_EEXIST, "%s: exists and is not a directory", path);
    free(copy);
    return r;
}

int ofr_directory_sync(const char *path, ofr_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ofr_fail_errno(err, errno, "%s: cannot be opened", path);
    int r = 0;
    /* Some file systems cannot sync a directory and say EINVAL: they have nothing to sync. */
    if (fsync(fd) < 0 && errno != EINVAL)
        r = ofr_fail_errno(err, errno, "%s: cannot be synced", path);
    close(fd);
    return r;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *position)
{
    (void)st;
    (void)type;
    (void)position;
    return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

int ofr_directory_remove(const char *path, ofr_error *err)
{
    struct stat st;
    if (lstat(path, &st) < 0) {
        if (errno == ENOENT)
            return 0;
        return ofr_fail_errno(err, errno, "%s: cannot be examined", path);
    }
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0)
        return ofr_fail_errno(err, errno, "%s: cannot be removed", path);
    return 0;
}

int ofr_directory_is_empty(const char *path, bool *ret_empty, ofr_error *err)
{
    DIR *directory = opendir(path);
    if (!directory)
        return ofr_fail_errno(err, errno, "%s: cannot be opened", path);
    bool empty = true;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(directory);
        if (!entry)
            break;
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            empty = false;
            break;
        }
    }
    int failed = empty ? errno : 0;
    closedir(directory);
    if (failed)
        return ofr_fail_errno(err, failed, "%s: cannot be read", path);
    *ret_empty = empty;
    return 0;
}

char *ofr_path_join(const char *directory, const char *name)
{
    size_t n = strlen(directory);
    while (n > 1 && directory[n - 1] == '/')
        n--;
    while (*name == '/')
        name++;
    char *path = NULL;
    const char *slash = n > 0 && directory[n - 1] == '/' ? "" : "/";
    if (asprintf(&path, "%.*s%s%s", (int)n, directory, n > 0 ? slash : "", name) < 0)
        return NULL;
    return path;
}

char *ofr_path_parent(const char *path)
{
    char *copy = strdup(path);
    if (!copy)
        return NULL;
    char *parent = strdup(dirname(copy));
    free(copy);
    return parent;
}

char *ofr_path_base(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t begin = n;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    return strndup(path + begin, n - begin);
}
