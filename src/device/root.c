/* Reading below an injectable root: openat2(2) with RESOLVE_IN_ROOT, plain opens for "/". */
#include "device/root.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int ofr_root_open(const char *path, ofr_root *ret_root, ofr_error *err)
{
    bool actual = !path || !path[0] || strcmp(path, "/") == 0;
    int fd = open(actual ? "/" : path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ofr_fail_errno(err, errno, "cannot open the root directory %s", path);
    *ret_root = (ofr_root){.fd = fd, .actual = actual};
    return 0;
}

void ofr_root_close(ofr_root *root)
{
    if (root->fd >= 0)
        close(root->fd);
    root->fd = -1;
}

static int open_below(const ofr_root *root, const char *path, int flags)
{
    if (root->actual)
        return open(path, flags | O_CLOEXEC);
    struct open_how how = {.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC),
                           .resolve = RESOLVE_IN_ROOT};
    long fd = syscall(SYS_openat2, root->fd, path, &how, sizeof how);
    /* Some containers do not know the call: then links of a described machine must be relative. */
    if (fd < 0 && (errno == ENOSYS || errno == EPERM))
        fd = openat(root->fd, path[0] == '/' ? path + 1 : path, flags | O_CLOEXEC);
    return (int)fd;
}

static bool format_path(char *path, size_t size, const char *format, va_list args)
{
    int used = vsnprintf(path, size, format, args);
    return used > 0 && (size_t)used < size;
}

/* O_NONBLOCK: a described machine's /dev may hold anything, also a pipe without a writer. */
static ssize_t read_path(const ofr_root *root, const char *path, char *data, size_t size)
{
    int fd = open_below(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -1;
    size_t used = 0;
    ssize_t n = 0;
    while (used < size && (n = read(fd, data + used, size - used)) > 0)
        used += (size_t)n;
    close(fd);
    return n < 0 && used == 0 ? -1 : (ssize_t)used;
}

static bool read_text(const ofr_root *root, const char *path, char *ret_text, size_t size)
{
    ret_text[0] = 0;
    ssize_t n = read_path(root, path, ret_text, size - 1);
    if (n < 0)
        n = 0;
    else
        ret_text[n] = 0;
    size_t used = strnlen(ret_text, (size_t)n);
    while (used && strchr(" \t\r\n", ret_text[used - 1]))
        used--;
    ret_text[used] = 0;
    return used > 0;
}

bool ofr_root_read(const ofr_root *root, char *ret_text, size_t size, const char *format, ...)
{
    char path[1024];
    va_list args;
    va_start(args, format);
    bool fits = format_path(path, sizeof path, format, args);
    va_end(args);
    ret_text[0] = 0;
    return fits && read_text(root, path, ret_text, size);
}

bool ofr_root_read_u64(const ofr_root *root, uint64_t *ret_value, const char *format, ...)
{
    char path[1024];
    char text[64];
    va_list args;
    va_start(args, format);
    bool fits = format_path(path, sizeof path, format, args);
    va_end(args);
    if (!fits || !read_text(root, path, text, sizeof text) || text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    char *end;
    unsigned long long value = strtoull(text, &end, text[1] == 'x' ? 16 : 10);
    if (errno != 0 || end == text)
        return false;
    *ret_value = value;
    return true;
}

bool ofr_root_stat(const ofr_root *root, const char *path, struct stat *ret_info)
{
    int fd = open_below(root, path, O_PATH);
    if (fd < 0)
        return false;
    bool found = fstat(fd, ret_info) == 0;
    close(fd);
    return found;
}

bool ofr_root_exists(const ofr_root *root, const char *format, ...)
{
    char path[1024];
    struct stat info;
    va_list args;
    va_start(args, format);
    bool fits = format_path(path, sizeof path, format, args);
    va_end(args);
    return fits && ofr_root_stat(root, path, &info);
}

bool ofr_root_may(const ofr_root *root, const char *path, int rights)
{
    char name[64];
    int fd = open_below(root, path, O_PATH);
    if (fd < 0)
        return false;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    bool may = faccessat(AT_FDCWD, name, rights, AT_EACCESS) == 0;
    close(fd);
    return may;
}

bool ofr_root_link(const ofr_root *root, const char *path, char *ret_target, size_t size)
{
    ret_target[0] = 0;
    int fd = open_below(root, path, O_PATH | O_NOFOLLOW);
    if (fd < 0)
        return false;
    ssize_t n = readlinkat(fd, "", ret_target, size - 1);
    close(fd);
    ret_target[n > 0 ? n : 0] = 0;
    return n > 0;
}

char *ofr_root_load(const ofr_root *root, const char *path, size_t cap)
{
    char *data = malloc(cap + 1);
    ssize_t n = data ? read_path(root, path, data, cap) : -1;
    if (n < 0) {
        free(data);
        return NULL;
    }
    data[n] = 0;
    return data;
}

static int compare_names(const void *a, const void *b)
{
    return strverscmp(a, b);
}

size_t ofr_root_list(const ofr_root *root, const char *path, const char *prefix,
                     char (*ret_names)[OFR_ROOT_NAME_SIZE], size_t capacity)
{
    int fd = open_below(root, path, O_RDONLY | O_DIRECTORY);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (!directory) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    size_t count = 0;
    struct dirent *entry;
    while (count < capacity && (entry = readdir(directory)) != NULL)
        if (entry->d_name[0] != '.' && strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
            snprintf(ret_names[count++], OFR_ROOT_NAME_SIZE, "%s", entry->d_name);
    closedir(directory);
    qsort(ret_names, count, OFR_ROOT_NAME_SIZE, compare_names);
    return count;
}
