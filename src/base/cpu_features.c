/* Detection of instruction sets by CPUID and XGETBV (Intel SDM volume 2A, CPUID; volume 1, 13.2),
 * and of physical cores by the topology files of sysfs. */
#include "base/cpu_features.h"

#include <cpuid.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    XCR0_AVX = 0x6,                    /* xmm, ymm */
    XCR0_AVX512 = 0xe6,                /* and opmask, zmm high halves, zmm 16-31 */
    XCR0_AMX = 0x60000,                /* tile configuration and data */
    REQUEST_XCOMP_PERMISSION = 0x1023, /* ARCH_REQ_XCOMP_PERM of asm/prctl.h */
    XFEATURE_TILE_DATA = 18,
};

static bool has_bit(unsigned value, unsigned bit)
{
    return (value >> bit & 1U) != 0;
}

static uint64_t enabled_state(void)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static void read_brand(char name[64])
{
    unsigned words[12];
    name[0] = '\0';
    if (__get_cpuid_max(0x80000000U, NULL) < 0x80000004U) {
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        __get_cpuid(0x80000002U + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                    &words[4 * i + 3]);
    }
    char text[sizeof words + 1];
    memcpy(text, words, sizeof words);
    text[sizeof words] = '\0';
    const char *begin = text + strspn(text, " ");
    size_t length = strlen(begin);
    while (length > 0 && begin[length - 1] == ' ') {
        length--;
    }
    memcpy(name, begin, length);
    name[length] = '\0';
}

void ofr_cpu_features_detect(ofr_cpu_features *ret_features)
{
    memset(ret_features, 0, sizeof *ret_features);
    read_brand(ret_features->name);
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_bit(c, 27)) { /* OSXSAVE */
        return;
    }
    bool fma = has_bit(c, 12), f16c = has_bit(c, 29);
    uint64_t state = enabled_state();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return;
    }
    ret_features->avx2 = has_bit(b, 5) && fma && f16c && (state & XCR0_AVX) == XCR0_AVX;
    ret_features->avx512 = ret_features->avx2 && has_bit(b, 16) && has_bit(b, 17) &&
                           has_bit(b, 30) && has_bit(b, 31) && (state & XCR0_AVX512) == XCR0_AVX512;
    ret_features->avx512_vnni = ret_features->avx512 && has_bit(c, 11);
    bool amx = has_bit(d, 22) && has_bit(d, 24) && has_bit(d, 25) && (state & XCR0_AMX) == XCR0_AMX;
    bool bf16 = false;
    unsigned a1, b1, c1, d1;
    if (__get_cpuid_count(7, 1, &a1, &b1, &c1, &d1)) {
        ret_features->avx_vnni = ret_features->avx2 && has_bit(a1, 4);
        bf16 = has_bit(a1, 5);
    }
    ret_features->amx = amx && bf16 && ret_features->avx512_vnni &&
                        syscall(SYS_arch_prctl, REQUEST_XCOMP_PERMISSION, XFEATURE_TILE_DATA) == 0;
}

/* First CPU of the core's list of sibling threads; the CPU itself if sysfs does not say. */
static int first_sibling(int cpu)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *file = fopen(path, "re");
    int first = cpu;
    if (file != NULL) {
        if (fscanf(file, "%d", &first) != 1 || first < 0) {
            first = cpu;
        }
        fclose(file);
    }
    return first;
}

uint32_t ofr_cpu_physical_cores(int *ret_cpus, uint32_t capacity)
{
    cpu_set_t allowed;
    uint32_t count = 0;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        return 1;
    }
    cpu_set_t seen;
    CPU_ZERO(&seen);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET((size_t)cpu, &allowed)) {
            continue;
        }
        int core = first_sibling(cpu);
        if (core >= CPU_SETSIZE || CPU_ISSET((size_t)core, &seen)) {
            continue;
        }
        CPU_SET((size_t)core, &seen);
        if (ret_cpus != NULL && count < capacity) {
            ret_cpus[count] = cpu;
        }
        count++;
    }
    return count > 0 ? count : 1;
}
