/* Names of instances, the lock that decides who serves one, and the search for the one meant. */
#include "executive_shard/instance.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/sha256.h"
#include "executive_shard/control.h"

/* Byte ranges of the lock file. */
enum { LOCK_SERVE = 0, LOCK_START = 1, INSTANCES_MAX = 256 };

int ofr_instance_for_package(const char *directory, char ret_name[OFR_INSTANCE_NAME_SIZE],
                             ofr_error *err)
{
    char *path = realpath(directory, NULL);
    if (!path)
        return ofr_fail_errno(err, errno, "no package at %s", directory);
    char hex[OFR_SHA256_HEX_SIZE];
    int r = ofr_sha256_hex(path, strlen(path), hex, err);
    char *base = r == 0 ? ofr_path_base(path) : NULL;
    if (r == 0 && !base)
        r = ofr_fail(err, OFR_ENOMEM, "out of memory");
    if (r == 0) {
        for (char *c = base; *c; c++)
            if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
                *c = '_';
        if (base[0] == '.')
            base[0] = '_';
        snprintf(ret_name, OFR_INSTANCE_NAME_SIZE, "%.48s-%.8s", base, hex);
    }
    free(base);
    free(path);
    return r;
}

static struct flock range(short type, off_t start)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = 1};
}

static pid_t read_holder(int fd)
{
    char text[32] = "";
    if (pread(fd, text, sizeof text - 1, 0) <= 0)
        return 0;
    long pid = strtol(text, NULL, 10);
    return pid > 0 && pid <= INT32_MAX ? (pid_t)pid : 0;
}

int ofr_instance_holder(const char *name, pid_t *ret_pid, ofr_error *err)
{
    char path[OFR_RUNTIME_PATH_SIZE];
    int directory_fd = -1;
    int r = ofr_runtime_dir_open(name, false, &directory_fd, path, err);
    if (r == OFR_ENOENT) {
        *ret_pid = 0;
        return 0;
    }
    if (r < 0)
        return r;
    pid_t pid = 0;
    int fd = openat(directory_fd, "lock", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    close(directory_fd);
    if (fd >= 0) {
        struct flock lock = range(F_WRLCK, LOCK_SERVE);
        if (fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
            pid = read_holder(fd);
        close(fd);
    }
    *ret_pid = pid;
    return 0;
}

/* A service manager binds the path itself; an executive binds through /proc, so that nobody finds
 * this name among the sockets that are bound. */
static bool bound_by_name(const char *path)
{
    char line[OFR_RUNTIME_PATH_SIZE + 256];
    bool found = false;
    FILE *file = fopen("/proc/net/unix", "re");
    while (file && !found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        const char *name = strchr(line, '/');
        found = name && strcmp(name, path) == 0;
    }
    if (file)
        fclose(file);
    return found;
}

void ofr_instance_clear(const char *name)
{
    char path[OFR_RUNTIME_PATH_SIZE];
    char socket[OFR_RUNTIME_PATH_SIZE + 32];
    int fd = -1;
    ofr_instance_lock lock = {-1};
    pid_t holder = 0;
    if (ofr_runtime_dir_open(name, false, &fd, path, NULL) < 0)
        return;
    snprintf(socket, sizeof socket, "%s/" OFR_CONTROL_SOCKET, path);
    if (ofr_instance_lock_acquire(fd, &lock, &holder, NULL) == 0) {
        if (!bound_by_name(socket))
            unlinkat(fd, OFR_CONTROL_SOCKET, 0);
        ofr_instance_lock_release(&lock);
    }
    close(fd);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

int ofr_instance_list(char (**ret_names)[OFR_INSTANCE_NAME_SIZE], size_t *ret_count, ofr_error *err)
{
    *ret_names = NULL;
    *ret_count = 0;
    char path[OFR_RUNTIME_PATH_SIZE];
    int fd = -1;
    int r = ofr_runtime_dir_open(NULL, false, &fd, path, err);
    if (r == OFR_ENOENT)
        return 0;
    if (r < 0)
        return r;
    DIR *directory = fdopendir(fd);
    char(*names)[OFR_INSTANCE_NAME_SIZE] = calloc(INSTANCES_MAX, sizeof *names);
    if (!directory || !names) {
        free(names);
        if (directory)
            closedir(directory);
        else
            close(fd);
        return ofr_fail(err, OFR_ENOMEM, "cannot list %s", path);
    }
    size_t count = 0;
    struct dirent *entry;
    while (count < INSTANCES_MAX && (entry = readdir(directory)) != NULL) {
        pid_t pid = 0;
        /* What is no instance, or not ours to look into, is not one that runs. */
        if (ofr_instance_name_check(entry->d_name, NULL) == 0 &&
            ofr_instance_holder(entry->d_name, &pid, NULL) == 0 && pid != 0)
            snprintf(names[count++], sizeof *names, "%.63s", entry->d_name);
    }
    closedir(directory);
    qsort(names, count, sizeof *names, compare_names);
    *ret_names = names;
    *ret_count = count;
    return 0;
}

static int resolve_only(char ret_name[OFR_INSTANCE_NAME_SIZE], ofr_error *err)
{
    char(*names)[OFR_INSTANCE_NAME_SIZE] = NULL;
    size_t count = 0;
    int r = ofr_instance_list(&names, &count, err);
    if (r < 0)
        return r;
    if (count == 1) {
        memcpy(ret_name, names[0], OFR_INSTANCE_NAME_SIZE);
    } else if (count == 0) {
        r = ofr_fail(err, OFR_ENOENT, "no executive is running; start one: executive_shard run");
    } else {
        char list[512] = "";
        for (size_t i = 0; i < count && strlen(list) + OFR_INSTANCE_NAME_SIZE + 2 < sizeof list;
             i++)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "",
                     names[i]);
        r = ofr_fail(err, OFR_ENOENT, "%zu executives run: name one with --instance: %s", count,
                     list);
    }
    free(names);
    return r;
}

int ofr_instance_resolve(const char *package, const char *instance,
                         char ret_name[OFR_INSTANCE_NAME_SIZE], ofr_error *err)
{
    if (instance) {
        int r = ofr_instance_name_check(instance, err);
        if (r == 0)
            snprintf(ret_name, OFR_INSTANCE_NAME_SIZE, "%s", instance);
        return r;
    }
    if (package)
        return ofr_instance_for_package(package, ret_name, err);
    char name[OFR_INSTANCE_NAME_SIZE];
    pid_t pid = 0;
    if (ofr_instance_for_package(OFR_DEFAULT_PACKAGE, name, NULL) == 0 &&
        ofr_instance_holder(name, &pid, NULL) == 0 && pid != 0) {
        memcpy(ret_name, name, sizeof name);
        return 0;
    }
    return resolve_only(ret_name, err);
}

int ofr_instance_lock_acquire(int directory_fd, ofr_instance_lock *ret_lock, pid_t *ret_holder,
                              ofr_error *err)
{
    int fd = openat(directory_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return ofr_fail_errno(err, errno, "cannot open the lock file of the runtime directory");
    /* Locks of the open file description, not of the process: they survive the closing of other
     * descriptors of the same file, and the kernel drops them when the process dies. */
    struct flock start = range(F_WRLCK, LOCK_START);
    int r = 0;
    do
        r = fcntl(fd, F_OFD_SETLKW, &start);
    while (r < 0 && errno == EINTR);
    struct flock serve = range(F_WRLCK, LOCK_SERVE);
    if (r < 0 || fcntl(fd, F_OFD_SETLK, &serve) < 0) {
        if (r == 0 && (errno == EAGAIN || errno == EACCES)) {
            *ret_holder = read_holder(fd);
            r = ofr_fail(err, OFR_EBUSY, "another executive already serves it (pid %d)",
                         (int)*ret_holder);
        } else {
            r = ofr_fail_errno(err, errno, "cannot lock the runtime directory");
        }
        close(fd);
        return r;
    }
    char text[32];
    int size = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)size, 0) != size) {
        r = ofr_fail_errno(err, errno, "cannot write the lock file of the runtime directory");
        close(fd);
        return r;
    }
    ret_lock->fd = fd;
    return 0;
}

void ofr_instance_lock_started(ofr_instance_lock *lock)
{
    struct flock start = range(F_UNLCK, LOCK_START);
    fcntl(lock->fd, F_OFD_SETLK, &start);
}

void ofr_instance_lock_release(ofr_instance_lock *lock)
{
    if (lock->fd >= 0)
        close(lock->fd);
    lock->fd = -1;
}
