/* The loops of quantization for AVX-512: a register holds eight lanes of two candidates. */
#include <immintrin.h>

#define QUANTIZE_SETS 2
#include "bake_model/quantize_loops.h"

static inline wide quantize_max(wide x, float limit)
{
    return (wide)_mm512_max_ps(_mm512_set1_ps(limit), (__m512)x);
}

static inline wide quantize_min(wide x, float limit)
{
    return (wide)_mm512_min_ps(_mm512_set1_ps(limit), (__m512)x);
}

static inline wide quantize_spread(const float *eight)
{
    return (wide)_mm512_broadcast_f32x8(_mm256_loadu_ps(eight));
}

const ofr_quantize_kernel *ofr_quantize_kernel_avx512(void)
{
    return &table;
}
