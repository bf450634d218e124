/* What the CPU can execute: the instruction sets that the kernels are chosen by, and the number of
 * physical cores. The description is a plain struct, so that tests can play any CPU. */
#ifndef OFR_BASE_CPU_FEATURES_H
#define OFR_BASE_CPU_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ofr_cpu_features {
    bool avx2;        /* AVX2, FMA and F16C, and the operating system saves ymm registers */
    bool avx_vnni;    /* VEX-coded vpdpbusd */
    bool avx512;      /* F, BW, VL and DQ, and the operating system saves zmm registers */
    bool avx512_vnni; /* EVEX-coded vpdpbusd, on top of avx512 */
    bool amx;         /* tile registers, int8 and bf16 products, and the kernel's permission */
    char name[64];    /* brand string, trimmed; "" where the CPU has none */
} ofr_cpu_features;

/* Asks the CPU and the operating system. The kernel grants AMX state per process and on request
 * (arch_prctl ARCH_REQ_XCOMP_PERM): this function asks for it where the CPU has AMX. */
void ofr_cpu_features_detect(ofr_cpu_features *ret_features);

/* Physical cores that this process may run on (its affinity mask), at least 1. Cores are told from
 * hardware threads by /sys/devices/system/cpu/cpu<n>/topology; where that is absent every CPU
 * counts. If `ret_cpus` is not NULL it receives up to `capacity` CPU numbers, one per core. */
uint32_t ofr_cpu_physical_cores(int *ret_cpus, uint32_t capacity);

#endif
