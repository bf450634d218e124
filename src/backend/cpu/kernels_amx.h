/* The products of many tokens on AMX tiles in bf16 (Sapphire Rapids and later servers). */
#ifndef OFR_BACKEND_CPU_KERNELS_AMX_H
#define OFR_BACKEND_CPU_KERNELS_AMX_H

#include "backend/cpu/kernels.h"

bool ofr_cpu_amx_supported(const ofr_cpu_features *features);
extern const ofr_cpu_gemm ofr_cpu_gemm_amx;

#endif
