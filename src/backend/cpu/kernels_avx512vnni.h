/* The products of many tokens of AVX-512 VNNI, which AMX uses for a few tokens, too. */
#ifndef OFR_BACKEND_CPU_KERNELS_AVX512VNNI_H
#define OFR_BACKEND_CPU_KERNELS_AVX512VNNI_H

#include "backend/cpu/kernels.h"

extern const ofr_cpu_gemm ofr_cpu_gemm_avx512vnni;

#endif
