/* Kernels for AVX2 with AVX-VNNI (Alder Lake and later, Core Ultra): vpdpbusd on 256 bits. */
#include <immintrin.h>

#include "backend/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    I8_ZERO = 128,
    TILE_TOKENS = 6,
};

static bool supported(const ofr_cpu_features *features)
{
    return features->avx_vnni;
}

INLINE __m256i step_unsigned(__m256i sum, __m256i u, __m256i s)
{
    return _mm256_dpbusd_avx_epi32(sum, u, s);
}

INLINE __m256i widen(__m256i sum)
{
    return sum;
}

INLINE __m256i negate(__m256i sum)
{
    return _mm256_sub_epi32(_mm256_setzero_si256(), sum);
}

INLINE __m256i step_bytes(__m256i sum, __m256i x, __m256i w)
{
    return _mm256_dpbusd_avx_epi32(sum, x, w);
}

INLINE __m256i dot_nibbles(__m256i sum, __m256i even, __m256i odd, __m256i x_even, __m256i x_odd)
{
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum, even, x_even), odd, x_odd);
}

INLINE __m256i step_i8(__m256i sum, __m256i u, __m256i s)
{
    return _mm256_dpbusd_avx_epi32(sum, u, s);
}

INLINE __m256i step_words(__m256i sum, __m256i x, __m256i y)
{
    return _mm256_dpwssd_avx_epi32(sum, x, y);
}

#include "backend/cpu/kernels_ymm.h"

static const ofr_cpu_kernels table = {.name = "avx-vnni", YMM_KERNELS};

const ofr_cpu_kernels *ofr_cpu_kernels_avxvnni(void)
{
    return &table;
}
