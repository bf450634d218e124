/* Attention of a block of queries on 256-bit vectors, in integers of 16 bits (kernels.h). Included
 * by kernels_ymm.h, whose including file defines INLINE and step_words.
 *
 * The order of a head's elements: of 16, what packing two vectors of 8 gives, pairs of elements in
 * the order 0, 1, 4, 5, 2, 3, 6, 7 of pairs. Queries and keys share it. */
#ifndef OFR_BACKEND_CPU_KERNELS_YMM_BLOCKS_H
#define OFR_BACKEND_CPU_KERNELS_YMM_BLOCKS_H

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels_ymm_float.h"

/* The first n of 8 halves, 0 behind; n may be 0 or less, then nothing is read. */
INLINE __m256 load_head(const uint16_t *x, int32_t n)
{
    return n > 0 ? load_halves(x, (size_t)n) : _mm256_setzero_ps();
}

/* The largest magnitude of n halves. By their bits, so that a NaN is larger than all numbers. */
INLINE float top_half(const uint16_t *x, uint32_t n)
{
    const __m128i magnitude = _mm_set1_epi16(0x7fff);
    __m128i top = _mm_setzero_si128();
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        top = _mm_max_epu16(top, _mm_and_si128(_mm_loadu_si128((const void *)(x + i)), magnitude));
    }
    for (; i < n; i++) {
        top = _mm_max_epu16(top, _mm_set1_epi16((short)(x[i] & 0x7fff)));
    }
    /* The only search across lanes is for the least. */
    top = _mm_minpos_epu16(_mm_xor_si128(top, _mm_set1_epi16(-1)));
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_xor_si128(top, _mm_set1_epi16(-1))));
}

INLINE __m256i to_words(__m256 x, __m256 factor)
{
    return _mm256_cvtps_epi32(_mm256_mul_ps(x, factor));
}

static float quantize_query(const float *x, uint32_t head_dim, int16_t *y)
{
    __m256i top = _mm256_setzero_si256();
    for (uint32_t e = 0; e < head_dim; e += 8) {
        __m256i bits = _mm256_castps_si256(load_floats(x + e, head_dim - e));
        top = _mm256_max_epi32(top, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)));
    }
    __m128i most = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
    most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1));
    float scale = _mm_cvtss_f32(_mm_castsi128_ps(most)) / (float)ofr_cpu_word_limit(head_dim);
    __m256 factor = _mm256_set1_ps(ofr_cpu_word_factor(scale));
    for (uint32_t e = 0; e < ofr_cpu_query_stride(head_dim); e += 16) {
        __m256 low = e < head_dim ? load_floats(x + e, head_dim - e) : _mm256_setzero_ps();
        __m256 high =
            e + 8 < head_dim ? load_floats(x + e + 8, head_dim - e - 8) : _mm256_setzero_ps();
        _mm256_storeu_si256((void *)(y + e),
                            _mm256_packs_epi32(to_words(low, factor), to_words(high, factor)));
    }
    return scale;
}

static void quantize_keys(const uint16_t *k, size_t k_stride, uint32_t n_keys, uint32_t head_dim,
                          int16_t *y, float *scales)
{
    float limit = (float)ofr_cpu_word_limit(head_dim);
    uint32_t padded = (uint32_t)ofr_cpu_query_stride(head_dim);
    for (uint32_t j = 0; j < (n_keys + 15) / 16 * 16; j += 8) {
        uint32_t n = n_keys > j ? n_keys - j : 0;
        float factors[8];
        for (uint32_t i = 0; i < 8; i++) {
            scales[j + i] = i < n ? top_half(k + (j + i) * k_stride, head_dim) / limit : 0;
            factors[i] = ofr_cpu_word_factor(scales[j + i]);
        }
        for (uint32_t e = 0; e < padded; e += 16) {
            int32_t left = (int32_t)head_dim - (int32_t)e;
            __m256i m[8];
#pragma GCC unroll 8
            for (uint32_t i = 0; i < 8; i++) {
                const uint16_t *row = k + (i < n ? j + i : 0) * k_stride + (left > 0 ? e : 0);
                __m256 factor = _mm256_set1_ps(factors[i]);
                m[i] = _mm256_packs_epi32(to_words(load_head(row, left), factor),
                                          to_words(load_head(row + 8, left - 8), factor));
            }
            transpose8(m);
#pragma GCC unroll 8
            for (uint32_t i = 0; i < 8; i++) {
                _mm256_storeu_si256((void *)(y + 2 * ((size_t)(e / 2 + i) * OFR_CPU_KEY_BLOCK + j)),
                                    m[i]);
            }
        }
    }
}

static void quantize_values(const uint16_t *v, size_t v_stride, uint32_t n_keys, uint32_t head_dim,
                            int16_t *y, float *scales)
{
    const size_t stride = ofr_cpu_value_stride(head_dim);
    float limit = (float)ofr_cpu_word_limit(OFR_CPU_KEY_BLOCK);
    for (uint32_t j = 0; j < n_keys; j += 2) {
        const uint16_t *first = v + j * v_stride, *second = first;
        scales[j] = top_half(first, head_dim) / limit;
        scales[j + 1] = 0;
        if (j + 1 < n_keys) {
            second += v_stride;
            scales[j + 1] = top_half(second, head_dim) / limit;
        }
        __m256 factor0 = _mm256_set1_ps(ofr_cpu_word_factor(scales[j]));
        __m256 factor1 = _mm256_set1_ps(ofr_cpu_word_factor(scales[j + 1]));
        int16_t *to = y + j * stride;
        for (uint32_t e = 0; e < stride; e += 8) {
            int32_t left = (int32_t)head_dim - (int32_t)e;
            uint32_t from = left > 0 ? e : 0;
            __m256i even = to_words(load_head(first + from, left), factor0);
            __m256i odd = to_words(load_head(second + from, left), factor1);
            _mm256_storeu_si256((void *)(to + 2 * (size_t)e),
                                _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa));
        }
    }
}

/* sum[rows][2] += pairs of words of x, one row after the other, times those of y, whose rows are
 * y_stride apart; `rows` is a constant where inlined. */
INLINE void add_words(const int16_t *x, size_t x_stride, const int16_t *y, size_t y_stride,
                      uint32_t rows, uint32_t pairs, __m256i sum[6][2])
{
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++) {
        sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    }
    for (uint32_t p = 0; p < pairs; p++, x += 2, y += y_stride) {
        __m256i y0 = _mm256_loadu_si256((const void *)y);
        __m256i y1 = _mm256_loadu_si256((const void *)(y + 16));
#pragma GCC unroll 6
        for (uint32_t r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, x + r * x_stride, sizeof pair);
            __m256i both = _mm256_set1_epi32(pair);
            sum[r][0] = step_words(sum[r][0], both, y0);
            sum[r][1] = step_words(sum[r][1], both, y1);
            /* or GCC 12 keeps copies of most on the stack */
            __asm__("" : "+x"(sum[r][0]), "+x"(sum[r][1]));
        }
    }
}

INLINE void score_tile(const int16_t *q, size_t q_stride, const float *q_scales, uint32_t rows,
                       const int16_t *keys, const float *key_scales, float *scores)
{
    __m256i sum[6][2];
    add_words(q, q_stride, keys, 2 * OFR_CPU_KEY_BLOCK, rows, (uint32_t)(q_stride / 2), sum);
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++) {
        __m256 scale = _mm256_set1_ps(q_scales[r]);
#pragma GCC unroll 2
        for (uint32_t v = 0; v < 2; v++) {
            __m256 both = _mm256_mul_ps(scale, _mm256_loadu_ps(key_scales + 8 * v));
            _mm256_storeu_ps(scores + r * OFR_CPU_KEY_BLOCK + 8 * v,
                             _mm256_mul_ps(_mm256_cvtepi32_ps(sum[r][v]), both));
        }
    }
}

static void block_scores(const int16_t *q, const float *q_scales, uint32_t rows,
                         const int16_t *keys, const float *key_scales, uint32_t n_keys,
                         uint32_t head_dim, float *scores)
{
    size_t stride = ofr_cpu_query_stride(head_dim);
    for (uint32_t j = 0; j < n_keys; j += 16) {
        uint32_t r = 0;
        for (; r + 6 <= rows; r += 6) {
            score_tile(q + r * stride, stride, q_scales + r, 6, keys + 2 * j, key_scales + j,
                       scores + r * OFR_CPU_KEY_BLOCK + j);
        }
        for (; r < rows; r++) {
            score_tile(q + r * stride, stride, q_scales + r, 1, keys + 2 * j, key_scales + j,
                       scores + r * OFR_CPU_KEY_BLOCK + j);
        }
    }
}

/* exp(x), x <= 0, with a relative error below 3e-6, which is enough for weights of 13 bits: 2^n
 * p(f), p the polynomial of degree 4 with the least relative error for -0.5 <= f <= 0.5. */
INLINE __m256 weight8(__m256 x)
{
    const __m256 log2e = _mm256_set1_ps(1.44269504f);
    x = _mm256_max_ps(_mm256_set1_ps(-87), x); /* in this order a NaN stays one */
    __m256i n = _mm256_cvtps_epi32(_mm256_mul_ps(x, log2e));
    __m256 f = _mm256_fmsub_ps(x, log2e, _mm256_cvtepi32_ps(n)),
           p = _mm256_set1_ps(0.009570101276f);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.05591785908f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.2402474433f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.6931217909f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0.9999992847f));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(n, 23)));
}

static float block_weights(const float *scores, const float *value_scales, uint32_t n,
                           float largest, float factor, int16_t *weights)
{
    const __m256 shift = _mm256_set1_ps(largest), one = _mm256_set1_ps(factor);
    __m256 sum = _mm256_setzero_ps();
    for (uint32_t j = 0; j < n; j += 8) {
        uint32_t left = n - j;
        __m256 e = weight8(_mm256_sub_ps(load_floats(scores + j, left), shift));
        e = _mm256_and_ps(e, _mm256_castsi256_ps(tail8(left)));
        sum = _mm256_add_ps(sum, e);
        __m256 scale = _mm256_mul_ps(load_floats(value_scales + j, left), one);
        __m256i words = to_words(e, scale);
        __m128i packed =
            _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        if (left >= 8) {
            _mm_storeu_si128((void *)(weights + j), packed);
        } else {
            int16_t part[8];
            _mm_storeu_si128((void *)part, packed);
            memcpy(weights + j, part, left * sizeof *part);
        }
    }
    return add_lanes(sum);
}

INLINE void value_tile(const int16_t *weights, const float *corrections, const float *factors,
                       uint32_t rows, const int16_t *values, size_t stride, uint32_t pairs,
                       float *out)
{
    __m256i sum[6][2];
    add_words(weights, OFR_CPU_KEY_BLOCK, values, 2 * stride, rows, pairs, sum);
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++) {
        __m256 correction = _mm256_set1_ps(corrections[r]), factor = _mm256_set1_ps(factors[r]);
#pragma GCC unroll 2
        for (uint32_t v = 0; v < 2; v++) {
            float *to = out + r * stride + 8 * v;
            __m256 before = _mm256_mul_ps(_mm256_loadu_ps(to), correction);
            _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r][v]), factor, before));
        }
    }
}

static void block_values(const int16_t *weights, const float *corrections, const float *factors,
                         uint32_t rows, const int16_t *values, uint32_t n_keys, uint32_t head_dim,
                         float *out)
{
    size_t stride = ofr_cpu_value_stride(head_dim);
    uint32_t pairs = (n_keys + 1) / 2;
    for (uint32_t e = 0; e < stride; e += 16) {
        uint32_t r = 0;
        for (; r + 6 <= rows; r += 6) {
            value_tile(weights + r * OFR_CPU_KEY_BLOCK, corrections + r, factors + r, 6,
                       values + 2 * (size_t)e, stride, pairs, out + r * stride + e);
        }
        for (; r < rows; r++) {
            value_tile(weights + r * OFR_CPU_KEY_BLOCK, corrections + r, factors + r, 1,
                       values + 2 * (size_t)e, stride, pairs, out + r * stride + e);
        }
    }
}

#endif
