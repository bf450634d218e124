/* RLIMIT_DATA around a compilation. */
#include "backend/openvino/compile_limit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A line "Name:   123 kB" of a file below /proc; 0: there is none. */
static uint64_t kib_of(const char *path, const char *name)
{
    char line[256];
    uint64_t value = 0;
    size_t length = strlen(name);
    FILE *f = fopen(path, "re");
    while (f && value == 0 && fgets(line, sizeof line, f))
        if (strncmp(line, name, length) == 0 && line[length] == ':')
            value = strtoull(line + length + 1, NULL, 10);
    if (f)
        fclose(f);
    return value;
}

void ofr_compile_limit_begin(ofr_compile_limit *ret_limit)
{
    enum { MIB_MAX = 1 << 24 };
    *ret_limit = (ofr_compile_limit){0};
    const char *chosen = getenv("OFFERING_COMPILE_MIB");
    uint64_t mib = chosen ? strtoull(chosen, NULL, 10) : 0;
    uint64_t room =
        mib > 0 && mib <= MIB_MAX ? mib << 20 : kib_of("/proc/meminfo", "MemAvailable") * 1024 / 2;
    uint64_t used = kib_of("/proc/self/status", "VmData") * 1024;
    if (room == 0 || used == 0 || getrlimit(RLIMIT_DATA, &ret_limit->before) < 0)
        return;
    struct rlimit now = ret_limit->before;
    if (now.rlim_cur != RLIM_INFINITY && now.rlim_cur <= used + room)
        return; /* a stricter limit is there already */
    now.rlim_cur = used + room;
    ret_limit->bytes = room;
    ret_limit->active = setrlimit(RLIMIT_DATA, &now) == 0;
}

void ofr_compile_limit_end(const ofr_compile_limit *limit, const int *result, ofr_error *err)
{
    if (!limit->active)
        return;
    setrlimit(RLIMIT_DATA, &limit->before);
    if (*result < 0)
        ofr_error_prefix(err, *result, "with up to %llu MiB for compiling (OFFERING_COMPILE_MIB)",
                         (unsigned long long)(limit->bytes >> 20));
}
