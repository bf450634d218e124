/* The loops of quantization for AVX2: eight lanes fill a register. */
#include <immintrin.h>

#include "bake_model/quantize_loops.h"

static inline lanes quantize_max(lanes x, lanes y)
{
    return (lanes)_mm256_max_ps((__m256)x, (__m256)y);
}

static inline lanes quantize_min(lanes x, lanes y)
{
    return (lanes)_mm256_min_ps((__m256)x, (__m256)y);
}

const ofr_quantize_kernel *ofr_quantize_kernel_avx2(void)
{
    return &table;
}
