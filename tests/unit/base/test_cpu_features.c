/* CPU features against /proc/cpuinfo, which the kernel fills from the same registers. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cpu_features.h"

/* The flags line of the first CPU, with a blank at both ends. */
static char *read_flags(void)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char *line = NULL, *found = NULL;
    size_t capacity = 0;
    while (file != NULL && found == NULL && getline(&line, &capacity, file) > 0) {
        if (strncmp(line, "flags", 5) == 0) {
            found = strdup(line);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    free(line);
    if (found != NULL) {
        found[strcspn(found, "\n")] = ' ';
    }
    return found;
}

static bool listed(const char *flags, const char *flag)
{
    char padded[64];
    snprintf(padded, sizeof padded, " %s ", flag);
    return strstr(flags, padded) != NULL;
}

static void features_are_those_of_cpuinfo(void **state)
{
    (void)state;
    char *flags = read_flags();
    if (flags == NULL) {
        skip();
    }
    ofr_cpu_features f;
    ofr_cpu_features_detect(&f);
    bool avx2 = listed(flags, "avx2") && listed(flags, "fma") && listed(flags, "f16c");
    bool avx512 = avx2 && listed(flags, "avx512f") && listed(flags, "avx512bw") &&
                  listed(flags, "avx512vl") && listed(flags, "avx512dq");
    assert_int_equal(f.avx2, avx2);
    assert_int_equal(f.avx_vnni, avx2 && listed(flags, "avx_vnni"));
    assert_int_equal(f.avx512, avx512);
    assert_int_equal(f.avx512_vnni, avx512 && listed(flags, "avx512_vnni"));
    if (f.amx) { /* the permission may be refused where the CPU has it */
        assert_true(listed(flags, "amx_int8"));
    }
    free(flags);
}

static void cores_are_within_the_affinity_mask(void **state)
{
    (void)state;
    int cpus[1024];
    uint32_t cores = ofr_cpu_physical_cores(cpus, 1024);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t allowed, one;
    assert_true(cores >= 1 && cores <= (uint32_t)online);
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    for (uint32_t i = 0; i < cores; i++) {
        assert_true(CPU_ISSET((size_t)cpus[i], &allowed));
        for (uint32_t j = 0; j < i; j++) {
            assert_int_not_equal(cpus[i], cpus[j]);
        }
    }
    CPU_ZERO(&one);
    CPU_SET((size_t)cpus[cores - 1], &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(ofr_cpu_physical_cores(cpus, 0), 1);
    assert_int_equal(sched_setaffinity(0, sizeof allowed, &allowed), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_are_those_of_cpuinfo),
        cmocka_unit_test(cores_are_within_the_affinity_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
