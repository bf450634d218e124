/* Kernels for AVX2 with FMA and F16C. Products of bytes are added in 16 bits: a pair of i4 products
 * is at most 2 * 15 * 127 = 3,810, so that 8 of them fit before they are widened. With the zero
 * point of the activations in them (a gemm), a pair is at most 2 * 15 * 255 = 7,650, which is not
 * saturated; sums on the way may wrap around, what is left after the correction fits again. */
#include <immintrin.h>

#include "backend/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    I8_ZERO = 0, /* step_i8 below leaves nothing to correct */
    TILE_TOKENS = 3,
};

static bool supported(const ofr_cpu_features *features)
{
    return features->avx2;
}

INLINE __m256i step_unsigned(__m256i sum, __m256i u, __m256i s)
{
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, s));
}

INLINE __m256i widen(__m256i sum)
{
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

INLINE __m256i negate(__m256i sum)
{
    return _mm256_sub_epi16(_mm256_setzero_si256(), sum);
}

/* Two pairs of i4 products are at most 7,620. */
INLINE __m256i dot_nibbles(__m256i sum, __m256i even, __m256i odd, __m256i x_even, __m256i x_odd)
{
    __m256i pairs =
        _mm256_add_epi16(_mm256_maddubs_epi16(even, x_even), _mm256_maddubs_epi16(odd, x_odd));
    return _mm256_add_epi32(sum, widen(pairs));
}

/* |w| (sign(w) a): a pair is at most 2 * 128 * 127 = 32,512, which vpmaddubsw does not saturate;
 * one of unsigned bytes would. */
INLINE __m256i step_bytes(__m256i sum, __m256i x, __m256i w)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

INLINE __m256i step_i8(__m256i sum, __m256i u, __m256i s)
{
    return step_bytes(sum, s, _mm256_xor_si256(u, _mm256_set1_epi8(-128)));
}

INLINE __m256i step_words(__m256i sum, __m256i x, __m256i y)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x, y));
}

#include "backend/cpu/kernels_ymm.h"

static const ofr_cpu_kernels table = {.name = "avx2", YMM_KERNELS};

const ofr_cpu_kernels *ofr_cpu_kernels_avx2(void)
{
    return &table;
}
