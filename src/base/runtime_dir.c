/* Opens the runtime directory of an instance so that no other user can have prepared it. */
#include "base/runtime_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int ofr_instance_name_check(const char *name, ofr_error *err)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t size = strlen(name);
    if (size == 0 || size >= OFR_INSTANCE_NAME_SIZE || name[0] == '.' ||
        strspn(name, allowed) != size)
        return ofr_fail(
            err, OFR_EINVAL,
            "'%.80s' is no instance name: 1 to %d letters, digits, '.', '_' or '-', not "
            "beginning with '.'",
            name, OFR_INSTANCE_NAME_SIZE - 1);
    return 0;
}

/* Opens (or makes) `name` in parent_fd and refuses it unless it is this user's alone. */
static int open_private(int parent_fd, const char *name, const char *path, bool create, int *ret_fd,
                        ofr_error *err)
{
    if (create && mkdirat(parent_fd, name, 0700) < 0 && errno != EEXIST)
        return ofr_fail_errno(err, errno, "cannot make the directory %s", path);
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT)
            return ofr_fail_errno(err, errno, "%s", path);
        return ofr_fail(err, OFR_EACCESS,
                        "%s is not a directory that this user can open (%s); remove it or set "
                        "XDG_RUNTIME_DIR to a private directory",
                        path, strerror(errno));
    }
    struct stat info;
    int r = 0;
    if (fstat(fd, &info) < 0)
        r = ofr_fail_errno(err, errno, "cannot inspect %s", path);
    else if (info.st_uid != geteuid())
        r = ofr_fail(err, OFR_EACCESS,
                     "%s belongs to user %u, not to this user (%u); set XDG_RUNTIME_DIR to a "
                     "private directory",
                     path, (unsigned)info.st_uid, (unsigned)geteuid());
    else if (info.st_mode & 077)
        r = ofr_fail(err, OFR_EACCESS, "%s is open to other users; run: chmod 700 %s", path, path);
    if (r < 0) {
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

/* The directory above all instances; the name of ours in it goes to ret_name. */
static int open_parent(int *ret_fd, char *ret_parent, size_t size, char *ret_name, size_t name_size,
                       ofr_error *err)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (runtime && runtime[0] == '/' && strlen(runtime) < size) {
        int fd = open(runtime, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct stat info;
        /* After su or sudo the variable may still name another user's directory. */
        if (fd >= 0 && fstat(fd, &info) == 0 && info.st_uid == geteuid()) {
            snprintf(ret_parent, size, "%s", runtime);
            snprintf(ret_name, name_size, "offering");
            *ret_fd = fd;
            return 0;
        }
        if (fd >= 0)
            close(fd);
    }
    int fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ofr_fail_errno(err, errno, "cannot open /tmp; set XDG_RUNTIME_DIR");
    snprintf(ret_parent, size, "/tmp");
    snprintf(ret_name, name_size, "offering-%u", (unsigned)geteuid());
    *ret_fd = fd;
    return 0;
}

int ofr_runtime_dir_open(const char *instance, bool create, int *ret_fd, char *ret_path,
                         ofr_error *err)
{
    if (instance) {
        int r = ofr_instance_name_check(instance, err);
        if (r < 0)
            return r;
    }
    char parent[OFR_RUNTIME_PATH_SIZE - 128];
    char name[32];
    int parent_fd = -1;
    int r = open_parent(&parent_fd, parent, sizeof parent, name, sizeof name, err);
    if (r < 0)
        return r;
    char path[OFR_RUNTIME_PATH_SIZE];
    int used = snprintf(path, sizeof path, "%s/%s", parent, name);
    int fd = -1;
    r = open_private(parent_fd, name, path, create, &fd, err);
    close(parent_fd);
    if (r == 0 && instance) {
        int all = fd;
        snprintf(path + used, sizeof path - (size_t)used, "/%s", instance);
        r = open_private(all, instance, path, create, &fd, err);
        close(all);
    }
    if (r < 0)
        return r;
    memcpy(ret_path, path, strlen(path) + 1);
    *ret_fd = fd;
    return 0;
}
