/* Nameless POSIX shared memory segments and the space that is left for them. */
#include "base/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int check_space(uint64_t bytes, ofr_error *err)
{
    uint64_t free_bytes = 0;
    uint64_t total = 0;
    int r = ofr_shm_space(&free_bytes, &total, err);
    if (r < 0)
        return r;
    if (bytes > free_bytes)
        return ofr_fail(err, OFR_ENOSPACE,
                        "/dev/shm has %" PRIu64 " MiB free, %" PRIu64
                        " MiB are needed; enlarge it (mount -o remount,size=%" PRIu64
                        "M /dev/shm; in a container: --shm-size) or ask for a smaller --context",
                        free_bytes >> 20, (bytes + (1 << 20) - 1) >> 20,
                        ((total - free_bytes + bytes) >> 20) + 64);
    return 0;
}

int ofr_shm_create(uint64_t bytes, int *ret_fd, ofr_error *err)
{
    if (bytes == 0 || bytes > INT64_MAX)
        return ofr_fail(err, OFR_EINVAL, "a shared memory segment of %" PRIu64 " bytes", bytes);
    int r = check_space(bytes, err);
    if (r < 0)
        return r;
    int fd = -1;
    /* The name lives for microseconds; a collision is answered with another one. */
    for (int attempt = 0; fd < 0 && attempt < 8; attempt++) {
        uint64_t random[2];
        if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
            return ofr_fail_errno(err, errno, "cannot get random bytes");
        char name[64];
        snprintf(name, sizeof name, "/offering-%016" PRIx64 "%016" PRIx64, random[0], random[1]);
        fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd >= 0)
            shm_unlink(name);
        else if (errno != EEXIST)
            return ofr_fail_errno(err, errno, "cannot create shared memory in /dev/shm");
    }
    if (fd < 0)
        return ofr_fail(err, OFR_EEXIST, "cannot find a free name in /dev/shm");
    if (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t)bytes) < 0) {
        r = ofr_fail_errno(err, errno, "cannot size a shared memory segment of %" PRIu64 " bytes",
                           bytes);
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

int ofr_shm_map(int fd, uint64_t bytes, void **ret_base, ofr_error *err)
{
    struct stat info;
    if (fstat(fd, &info) < 0)
        return ofr_fail_errno(err, errno, "cannot inspect a shared memory segment");
    if (bytes == 0 || !S_ISREG(info.st_mode) || info.st_size < 0 || bytes > (uint64_t)info.st_size)
        return ofr_fail(err, OFR_EPROTOCOL,
                        "a shared memory segment has %" PRId64 " bytes, %" PRIu64 " are expected",
                        (int64_t)info.st_size, bytes);
    void *base = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return ofr_fail_errno(err, errno, "cannot map %" PRIu64 " bytes of shared memory", bytes);
    *ret_base = base;
    return 0;
}

void ofr_shm_unmap(void *base, uint64_t bytes)
{
    if (base)
        munmap(base, (size_t)bytes);
}

uint64_t ofr_shm_committed(int fd)
{
    struct stat info;
    if (fstat(fd, &info) < 0)
        return 0;
    return (uint64_t)info.st_blocks * 512;
}

int ofr_shm_space(uint64_t *ret_free, uint64_t *ret_total, ofr_error *err)
{
    struct statvfs space;
    if (statvfs("/dev/shm", &space) < 0)
        return ofr_fail_errno(err, errno, "/dev/shm cannot be used; mount a tmpfs there");
    /* A tmpfs without a size limit reports 0 blocks. */
    if (space.f_blocks == 0) {
        *ret_free = *ret_total = INT64_MAX;
        return 0;
    }
    *ret_free = (uint64_t)space.f_bavail * space.f_frsize;
    *ret_total = (uint64_t)space.f_blocks * space.f_frsize;
    return 0;
}

uint64_t ofr_memory_available(void)
{
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file)
        return 0;
    char line[256];
    uint64_t kib = 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, "MemAvailable:", 13) == 0)
            kib = strtoull(line + 13, NULL, 10);
    fclose(file);
    return kib > UINT64_MAX / 1024 ? UINT64_MAX : kib * 1024;
}
