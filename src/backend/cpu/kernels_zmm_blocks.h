/* Attention of a block of queries on 512-bit vectors, in integers of 16 bits (kernels.h). Included
 * once by the file that compiles it; it defines INLINE before.
 *
 * The order of a head's elements: of 32, what packing two vectors of 16 gives, pairs of elements in
 * the order 0, 1, 8, 9, 2, 3, 10, 11, 4, ... of pairs. Queries and keys share it. */
#ifndef OFR_BACKEND_CPU_KERNELS_ZMM_BLOCKS_H
#define OFR_BACKEND_CPU_KERNELS_ZMM_BLOCKS_H

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels_zmm.h"

/* The largest magnitude of n halves. By their bits, so that a NaN is larger than all numbers. */
INLINE float top_half(const uint16_t *x, uint32_t n)
{
    __m512i top = _mm512_setzero_si512();
    for (uint32_t i = 0; i < n; i += 32) {
        __mmask32 mask = n - i >= 32 ? 0xffffffffU : (1U << (n - i)) - 1;
        __m512i bits = _mm512_maskz_loadu_epi16(mask, x + i);
        top = _mm512_max_epu16(top, _mm512_and_si512(bits, _mm512_set1_epi16(0x7fff)));
    }
    __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(top), _mm512_extracti64x4_epi64(top, 1));
    __m128i most = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    /* The only search across lanes is for the least. */
    most = _mm_minpos_epu16(_mm_xor_si128(most, _mm_set1_epi16(-1)));
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_xor_si128(most, _mm_set1_epi16(-1))));
}

/* 16 halves, or those of the mask, times `factor`, as integers. */
INLINE __m512i load_words(const uint16_t *x, __mmask16 mask, __m512 factor)
{
    __m256i halves =
        mask == 0xffff ? _mm256_loadu_si256((const void *)x) : _mm256_maskz_loadu_epi16(mask, x);
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtph_ps(halves), factor));
}

static float quantize_query(const float *x, uint32_t head_dim, int16_t *y)
{
    __m512i top = _mm512_setzero_si512();
    for (uint32_t e = 0; e < head_dim; e += 16) {
        __m512i bits = _mm512_maskz_loadu_epi32(tail16(head_dim - e), x + e);
        top = _mm512_max_epi32(top, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    float most = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(top))));
    float scale = most / (float)ofr_cpu_word_limit(head_dim);
    __m512 factor = _mm512_set1_ps(ofr_cpu_word_factor(scale));
    for (uint32_t e = 0; e < head_dim; e += 32) {
        uint32_t left = head_dim - e;
        __m512 low = _mm512_maskz_loadu_ps(tail16(left), x + e);
        __m512 high = _mm512_maskz_loadu_ps(left > 16 ? tail16(left - 16) : 0, x + e + 16);
        _mm512_storeu_si512(y + e,
                            _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(low, factor)),
                                               _mm512_cvtps_epi32(_mm512_mul_ps(high, factor))));
    }
    return scale;
}

static void quantize_keys(const uint16_t *k, size_t k_stride, uint32_t n_keys, uint32_t head_dim,
                          int16_t *y, float *scales)
{
    float limit = (float)ofr_cpu_word_limit(head_dim);
    for (uint32_t j = 0; j < n_keys; j += 16) {
        uint32_t n = n_keys - j < 16 ? n_keys - j : 16;
        float factors[16];
        for (uint32_t i = 0; i < 16; i++) {
            scales[j + i] = i < n ? top_half(k + (j + i) * k_stride, head_dim) / limit : 0;
            factors[i] = ofr_cpu_word_factor(scales[j + i]);
        }
        for (uint32_t e = 0; e < head_dim; e += 32) {
            uint32_t left = head_dim - e;
            __mmask16 low = tail16(left), high = left > 16 ? tail16(left - 16) : 0;
            __m512i r[16];
#pragma GCC unroll 16
            for (uint32_t i = 0; i < 16; i++) {
                const uint16_t *row = k + (j + (i < n ? i : 0)) * k_stride + e;
                __m512 factor = _mm512_set1_ps(factors[i]);
                r[i] = _mm512_packs_epi32(load_words(row, low, factor),
                                          load_words(row + (left > 16 ? 16 : 0), high, factor));
            }
            transpose16(r);
#pragma GCC unroll 16
            for (uint32_t i = 0; i < 16; i++) {
                _mm512_storeu_si512(y + 2 * ((size_t)(e / 2 + i) * OFR_CPU_KEY_BLOCK + j), r[i]);
            }
        }
    }
}

static void quantize_values(const uint16_t *v, size_t v_stride, uint32_t n_keys, uint32_t head_dim,
                            int16_t *y, float *scales)
{
    const size_t y_stride = 2 * ofr_cpu_value_stride(head_dim);
    float limit = (float)ofr_cpu_word_limit(OFR_CPU_KEY_BLOCK);
    for (uint32_t j = 0; j < n_keys; j += 2) {
        const uint16_t *first = v + j * v_stride, *second = first;
        scales[j] = top_half(first, head_dim) / limit;
        scales[j + 1] = 0;
        if (j + 1 < n_keys) {
            second += v_stride;
            scales[j + 1] = top_half(second, head_dim) / limit;
        }
        __m512 factor0 = _mm512_set1_ps(ofr_cpu_word_factor(scales[j]));
        __m512 factor1 = _mm512_set1_ps(ofr_cpu_word_factor(scales[j + 1]));
        int16_t *to = y + j / 2 * y_stride;
        for (uint32_t e = 0; e < head_dim; e += 16) {
            __mmask16 mask = tail16(head_dim - e);
            __m512i even = load_words(first + e, mask, factor0);
            __m512i odd = _mm512_slli_epi32(load_words(second + e, mask, factor1), 16);
            _mm512_storeu_si512(to + 2 * (size_t)e,
                                _mm512_mask_blend_epi16(0xaaaaaaaaU, even, odd));
        }
    }
}

/* sum[rows][vectors] += pairs of words of x, one row after the other, times those of y, whose rows
 * are y_stride apart; both counts are constants where inlined. */
INLINE void add_words(const int16_t *x, size_t x_stride, const int16_t *y, size_t y_stride,
                      uint32_t rows, uint32_t vectors, uint32_t pairs, __m512i sum[6][4])
{
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (uint32_t v = 0; v < vectors; v++) {
            sum[r][v] = _mm512_setzero_si512();
        }
    }
    for (uint32_t p = 0; p < pairs; p++, x += 2, y += y_stride) {
        __m512i row[4];
#pragma GCC unroll 4
        for (uint32_t v = 0; v < vectors; v++) {
            row[v] = _mm512_loadu_si512(y + 32 * v);
        }
#pragma GCC unroll 6
        for (uint32_t r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, x + r * x_stride, sizeof pair);
#pragma GCC unroll 4
            for (uint32_t v = 0; v < vectors; v++) {
                sum[r][v] = _mm512_dpwssd_epi32(sum[r][v], _mm512_set1_epi32(pair), row[v]);
                __asm__("" : "+v"(sum[r][v])); /* or GCC 12 keeps copies of most on the stack */
            }
        }
    }
}

INLINE void score_tile(const int16_t *q, size_t q_stride, const float *q_scales, uint32_t rows,
                       const int16_t *keys, const float *key_scales, uint32_t vectors,
                       float *scores)
{
    __m512i sum[6][4];
    add_words(q, q_stride, keys, 2 * OFR_CPU_KEY_BLOCK, rows, vectors, (uint32_t)(q_stride / 2),
              sum);
#pragma GCC unroll 4
    for (uint32_t v = 0; v < vectors; v++) {
        __m512 scale = _mm512_loadu_ps(key_scales + 16 * v);
#pragma GCC unroll 6
        for (uint32_t r = 0; r < rows; r++) {
            __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(q_scales[r]));
            _mm512_storeu_ps(scores + r * OFR_CPU_KEY_BLOCK + 16 * v,
                             _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][v]), both));
        }
    }
}

INLINE void score_columns(const int16_t *q, size_t q_stride, const float *q_scales, uint32_t rows,
                          const int16_t *keys, const float *key_scales, uint32_t vectors,
                          float *scores)
{
    uint32_t r = 0;
    for (; r + 6 <= rows; r += 6) {
        score_tile(q + r * q_stride, q_stride, q_scales + r, 6, keys, key_scales, vectors,
                   scores + r * OFR_CPU_KEY_BLOCK);
    }
    for (; r + 2 <= rows; r += 2) {
        score_tile(q + r * q_stride, q_stride, q_scales + r, 2, keys, key_scales, vectors,
                   scores + r * OFR_CPU_KEY_BLOCK);
    }
    for (; r < rows; r++) {
        score_tile(q + r * q_stride, q_stride, q_scales + r, 1, keys, key_scales, vectors,
                   scores + r * OFR_CPU_KEY_BLOCK);
    }
}

static void block_scores(const int16_t *q, const float *q_scales, uint32_t rows,
                         const int16_t *keys, const float *key_scales, uint32_t n_keys,
                         uint32_t head_dim, float *scores)
{
    size_t q_stride = ofr_cpu_query_stride(head_dim);
    if (n_keys > 48) {
        score_columns(q, q_stride, q_scales, rows, keys, key_scales, 4, scores);
        return;
    }
    for (uint32_t j = 0; j < n_keys; j += 16) {
        score_columns(q, q_stride, q_scales, rows, keys + 2 * j, key_scales + j, 1, scores + j);
    }
}

/* exp(x) with a relative error below 3e-6, which is enough for weights of 13 bits: 2^n p(f), p the
 * polynomial of degree 4 with the least relative error for -0.5 <= f <= 0.5. */
INLINE __m512 weight16(__m512 x)
{
    const __m512 log2e = _mm512_set1_ps(1.44269504f);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, log2e),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_fmsub_ps(x, log2e, n), p = _mm512_set1_ps(0.009570101276f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05591785908f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.2402474433f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931217909f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.9999992847f));
    return _mm512_scalef_ps(p, n);
}

static float block_weights(const float *scores, const float *value_scales, uint32_t n,
                           float largest, float factor, int16_t *weights)
{
    const __m512 shift = _mm512_set1_ps(largest), one = _mm512_set1_ps(factor);
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t j = 0; j < n; j += 16) {
        __mmask16 mask = tail16(n - j);
        __m512 score = _mm512_maskz_loadu_ps(mask, scores + j);
        __m512 e = weight16(_mm512_sub_ps(score, shift));
        __m512 scale = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, value_scales + j), one);
        _mm512_mask_cvtepi32_storeu_epi16(weights + j, mask,
                                          _mm512_cvtps_epi32(_mm512_mul_ps(e, scale)));
        sum = _mm512_mask_add_ps(sum, mask, sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

INLINE void value_tile(const int16_t *weights, const float *corrections, const float *factors,
                       uint32_t rows, const int16_t *values, size_t stride, uint32_t pairs,
                       uint32_t vectors, float *out)
{
    __m512i sum[6][4];
    add_words(weights, OFR_CPU_KEY_BLOCK, values, 2 * stride, rows, vectors, pairs, sum);
#pragma GCC unroll 6
    for (uint32_t r = 0; r < rows; r++) {
        __m512 correction = _mm512_set1_ps(corrections[r]), factor = _mm512_set1_ps(factors[r]);
#pragma GCC unroll 4
        for (uint32_t v = 0; v < vectors; v++) {
            float *to = out + r * stride + 16 * v;
            __m512 before = _mm512_mul_ps(_mm512_loadu_ps(to), correction);
            _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]), factor, before));
        }
    }
}

INLINE void value_columns(const int16_t *weights, const float *corrections, const float *factors,
                          uint32_t rows, const int16_t *values, size_t stride, uint32_t pairs,
                          uint32_t vectors, float *out)
{
    uint32_t r = 0;
    for (; r + 6 <= rows; r += 6) {
        value_tile(weights + r * OFR_CPU_KEY_BLOCK, corrections + r, factors + r, 6, values, stride,
                   pairs, vectors, out + r * stride);
    }
    for (; r + 2 <= rows; r += 2) {
        value_tile(weights + r * OFR_CPU_KEY_BLOCK, corrections + r, factors + r, 2, values, stride,
                   pairs, vectors, out + r * stride);
    }
    for (; r < rows; r++) {
        value_tile(weights + r * OFR_CPU_KEY_BLOCK, corrections + r, factors + r, 1, values, stride,
                   pairs, vectors, out + r * stride);
    }
}

static void block_values(const int16_t *weights, const float *corrections, const float *factors,
                         uint32_t rows, const int16_t *values, uint32_t n_keys, uint32_t head_dim,
                         float *out)
{
    size_t stride = ofr_cpu_value_stride(head_dim);
    uint32_t e = 0, pairs = (n_keys + 1) / 2;
    for (; e + 64 <= stride; e += 64) {
        value_columns(weights, corrections, factors, rows, values + 2 * (size_t)e, stride, pairs, 4,
                      out + e);
    }
    for (; e < stride; e += 16) {
        value_columns(weights, corrections, factors, rows, values + 2 * (size_t)e, stride, pairs, 1,
                      out + e);
    }
}

#endif
