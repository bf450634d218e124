/* The loops of quantization for AVX2: a candidate's eight lanes fill a register. */
#include <immintrin.h>

#define QUANTIZE_SETS 1
#include "bake_model/quantize_loops.h"

static inline wide quantize_max(wide x, float limit)
{
    return (wide)_mm256_max_ps(_mm256_set1_ps(limit), (__m256)x);
}

static inline wide quantize_min(wide x, float limit)
{
    return (wide)_mm256_min_ps(_mm256_set1_ps(limit), (__m256)x);
}

static inline wide quantize_spread(const float *eight)
{
    return load(eight);
}

const ofr_quantize_kernel *ofr_quantize_kernel_avx2(void)
{
    return &table;
}
