/* The fp32 and fp16 kernels on 512-bit vectors: norms, activation functions, attention. Included
 * once by the file that compiles them; it defines INLINE before. */
#ifndef OFR_BACKEND_CPU_KERNELS_ZMM_FLOAT_H
#define OFR_BACKEND_CPU_KERNELS_ZMM_FLOAT_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels_zmm.h"

INLINE __m512 load_half16(const uint16_t *x, __mmask16 mask)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, x));
}

/* exp with an error below 2 ulp: 2^n p(r), polynomial of the Cephes library's expf (S. Moshier). */
INLINE __m512 exp16(__m512 x)
{
    x = _mm512_min_ps(_mm512_set1_ps(88.72f), _mm512_max_ps(_mm512_set1_ps(-103.0f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1)));
    return _mm512_scalef_ps(p, n);
}

static float dot_f32(const float *x, const float *y, size_t n)
{
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail16(n - i);
        sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, x + i),
                              _mm512_maskz_loadu_ps(mask, y + i), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

static float dot_f16(const float *x, const uint16_t *y, size_t n)
{
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail16(n - i);
        sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, x + i), load_half16(y + i, mask), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

static void rms_norm(const float *x, const float *weight, size_t n, float epsilon, float *y)
{
    __m512 factor = _mm512_set1_ps(1 / sqrtf(dot_f32(x, x, n) / (float)n + epsilon));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail16(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factor);
        _mm512_mask_storeu_ps(y + i, mask,
                              _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, weight + i)));
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *y)
{
    const __m512 one = _mm512_set1_ps(1);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail16(n - i);
        __m512 g = _mm512_maskz_loadu_ps(mask, gate + i);
        __m512 e = exp16(_mm512_sub_ps(_mm512_setzero_ps(), g));
        __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, e));
        _mm512_mask_storeu_ps(y + i, mask,
                              _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(mask, up + i)));
    }
}

static void float_to_half(const float *x, size_t n, uint16_t *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail16(n - i);
        __m256i half = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(mask, x + i),
                                       _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16(y + i, mask, half);
    }
}

static void half_to_float(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail16(n - i);
        _mm512_mask_storeu_ps(y + i, mask, load_half16(x + i, mask));
    }
}

/* The same part of a row of the next block of keys: those of the other heads come in between. */
INLINE void prefetch_row(const uint16_t *row, uint32_t head_dim)
{
#pragma GCC unroll 4
    for (uint32_t i = 0; i < head_dim; i += 32) {
        _mm_prefetch((const char *)(row + i), _MM_HINT_T1);
    }
}

/* The sums of the lanes of 4 vectors, in 4 lanes of each 128-bit part of which they are parts. */
INLINE __m512 add_quads(const __m512 v[4])
{
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    return _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}

/* The lanes' sums of v[h][j]: part h of the result, lane j of it. */
INLINE __m512 add_all(__m512 v[4][4])
{
    __m512 q0 = add_quads(v[0]), q1 = add_quads(v[1]), q2 = add_quads(v[2]), q3 = add_quads(v[3]);
    __m512 low =
        _mm512_add_ps(_mm512_shuffle_f32x4(q0, q1, 0x44), _mm512_shuffle_f32x4(q0, q1, 0xee));
    __m512 high =
        _mm512_add_ps(_mm512_shuffle_f32x4(q2, q3, 0x44), _mm512_shuffle_f32x4(q2, q3, 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88),
                         _mm512_shuffle_f32x4(low, high, 0xdd));
}

/* 16 elements, or those of the mask, of 4 keys times those of n heads. Unrolled, or GCC 12 keeps
 * the sums on the stack. */
INLINE void score_step(const float *q, size_t q_stride, uint32_t n, const uint16_t *const row[4],
                       uint32_t e, bool whole, __mmask16 mask, __m512 sum[4][4])
{
    __m512 key[4];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) {
        key[i] = whole ? _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(row[i] + e)))
                       : load_half16(row[i] + e, mask);
    }
#pragma GCC unroll 4
    for (uint32_t h = 0; h < n; h++) {
        const float *from = q + h * q_stride + e;
        __m512 query = whole ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(mask, from);
#pragma GCC unroll 4
        for (uint32_t i = 0; i < 4; i++) {
            sum[h][i] = _mm512_fmadd_ps(key[i], query, sum[h][i]);
        }
    }
}

/* `n` heads (a constant where inlined) against the keys, 4 at a time; scores of missing keys of the
 * last 4 are those of the last one. */
INLINE void score_heads(const float *q, size_t q_stride, uint32_t n, const uint16_t *k,
                        size_t k_stride, uint32_t n_keys, uint32_t head_dim, const uint16_t *ahead,
                        size_t ahead_stride, float *scores)
{
    for (uint32_t j = 0; j < n_keys; j += 4) {
        const uint16_t *row[4];
        const uint16_t *next = ahead + j * ahead_stride;
        __m512 sum[4][4];
#pragma GCC unroll 4
        for (uint32_t i = 0; i < 4; i++) {
            row[i] = k + (j + i < n_keys ? j + i : n_keys - 1) * k_stride;
            sum[0][i] = sum[1][i] = sum[2][i] = sum[3][i] = _mm512_setzero_ps();
        }
        uint32_t e = 0;
        for (; e + 32 <= head_dim; e += 32) {
#pragma GCC unroll 4
            for (uint32_t i = 0; i < 4; i++) {
                _mm_prefetch((const char *)(next + i * ahead_stride + e), _MM_HINT_T1);
            }
            score_step(q, q_stride, n, row, e, true, 0, sum);
            score_step(q, q_stride, n, row, e + 16, true, 0, sum);
        }
        for (; e < head_dim; e += 16) {
            score_step(q, q_stride, n, row, e, false, tail16(head_dim - e), sum);
        }
        __m512 all = add_all(sum);
        _mm_storeu_ps(scores + j, _mm512_castps512_ps128(all));
        if (n > 1) {
            _mm_storeu_ps(scores + OFR_CPU_KEY_BLOCK + j, _mm512_extractf32x4_ps(all, 1));
        }
        if (n > 2) {
            _mm_storeu_ps(scores + 2 * OFR_CPU_KEY_BLOCK + j, _mm512_extractf32x4_ps(all, 2));
        }
        if (n > 3) {
            _mm_storeu_ps(scores + 3 * OFR_CPU_KEY_BLOCK + j, _mm512_extractf32x4_ps(all, 3));
        }
    }
}

static void attention_scores(const float *q, size_t q_stride, uint32_t n_heads, const uint16_t *k,
                             size_t k_stride, uint32_t n_keys, uint32_t head_dim,
                             const uint16_t *ahead, size_t ahead_stride, float *scores)
{
    uint32_t h = 0;
    for (; h + 4 <= n_heads; h += 4) {
        score_heads(q + h * q_stride, q_stride, 4, k, k_stride, n_keys, head_dim, ahead,
                    ahead_stride, scores + h * OFR_CPU_KEY_BLOCK);
    }
    q += h * q_stride;
    scores += h * OFR_CPU_KEY_BLOCK;
    switch (n_heads - h) {
    case 3:
        score_heads(q, q_stride, 3, k, k_stride, n_keys, head_dim, ahead, ahead_stride, scores);
        break;
    case 2:
        score_heads(q, q_stride, 2, k, k_stride, n_keys, head_dim, ahead, ahead_stride, scores);
        break;
    case 1:
        score_heads(q, q_stride, 1, k, k_stride, n_keys, head_dim, ahead, ahead_stride, scores);
        break;
    default:
        break;
    }
}

/* `n` heads and 16 * `vectors` elements (both constants where inlined), the last vector masked. */
INLINE void value_vectors(const float *weights, uint32_t n, uint32_t vectors, __mmask16 mask,
                          const uint16_t *v, size_t v_stride, uint32_t n_keys, uint32_t head_dim,
                          const uint16_t *ahead, size_t ahead_stride, float *out)
{
    __m512 sum[4][4];
    for (uint32_t h = 0; h < n; h++) {
        for (uint32_t i = 0; i < vectors; i++) {
            sum[h][i] = _mm512_maskz_loadu_ps(i + 1 == vectors ? mask : 0xffff,
                                              out + h * head_dim + 16 * i);
        }
    }
    for (uint32_t j = 0; j < n_keys; j++) {
        const uint16_t *row = v + j * v_stride;
        prefetch_row(ahead + j * ahead_stride, 16 * vectors);
        __m512 value[4];
        for (uint32_t i = 0; i < vectors; i++) {
            value[i] = load_half16(row + 16 * i, i + 1 == vectors ? mask : 0xffff);
        }
        for (uint32_t h = 0; h < n; h++) {
            __m512 weight = _mm512_set1_ps(weights[h * OFR_CPU_KEY_BLOCK + j]);
            for (uint32_t i = 0; i < vectors; i++) {
                sum[h][i] = _mm512_fmadd_ps(weight, value[i], sum[h][i]);
            }
        }
    }
    for (uint32_t h = 0; h < n; h++) {
        for (uint32_t i = 0; i < vectors; i++) {
            _mm512_mask_storeu_ps(out + h * head_dim + 16 * i, i + 1 == vectors ? mask : 0xffff,
                                  sum[h][i]);
        }
    }
}

INLINE void value_heads(const float *weights, uint32_t n, const uint16_t *v, size_t v_stride,
                        uint32_t n_keys, uint32_t head_dim, const uint16_t *ahead,
                        size_t ahead_stride, float *out)
{
    uint32_t e = 0;
    bool contiguous = ahead_stride == head_dim; /* then each turn prefetches one piece of it */
    for (; e + 64 <= head_dim; e += 64) {
        value_vectors(weights, n, 4, 0xffff, v + e, v_stride, n_keys, head_dim,
                      ahead + e * (contiguous ? OFR_CPU_KEY_BLOCK : 1),
                      contiguous ? 64 : ahead_stride, out + e);
    }
    for (; e < head_dim; e += 16) {
        value_vectors(weights, n, 1, tail16(head_dim - e), v + e, v_stride, n_keys, head_dim,
                      ahead + e, ahead_stride, out + e);
    }
}

static void attention_values(const float *weights, uint32_t n_heads, const uint16_t *v,
                             size_t v_stride, uint32_t n_keys, uint32_t head_dim,
                             const uint16_t *ahead, size_t ahead_stride, float *out)
{
    uint32_t h = 0;
    for (; h + 4 <= n_heads; h += 4) {
        value_heads(weights + h * OFR_CPU_KEY_BLOCK, 4, v, v_stride, n_keys, head_dim, ahead,
                    ahead_stride, out + h * head_dim);
    }
    weights += h * OFR_CPU_KEY_BLOCK;
    out += h * head_dim;
    switch (n_heads - h) {
    case 3:
        value_heads(weights, 3, v, v_stride, n_keys, head_dim, ahead, ahead_stride, out);
        break;
    case 2:
        value_heads(weights, 2, v, v_stride, n_keys, head_dim, ahead, ahead_stride, out);
        break;
    case 1:
        value_heads(weights, 1, v, v_stride, n_keys, head_dim, ahead, ahead_stride, out);
        break;
    default:
        break;
    }
}

static float exp_sum(float *x, size_t n, float maximum)
{
    __m512 sum = _mm512_setzero_ps(), shift = _mm512_set1_ps(maximum);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail16(n - i);
        __m512 e = exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), shift));
        _mm512_mask_storeu_ps(x + i, mask, e);
        sum = _mm512_mask_add_ps(sum, mask, sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

static float maximum_of(const float *x, size_t n)
{
    __m512 largest = _mm512_set1_ps(-INFINITY);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail16(n - i);
        largest = _mm512_mask_max_ps(largest, mask, largest, _mm512_maskz_loadu_ps(mask, x + i));
    }
    return _mm512_reduce_max_ps(largest);
}

static void scale(float *x, size_t n, float factor)
{
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail16(n - i);
        _mm512_mask_storeu_ps(
            x + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(factor)));
    }
}

static void rotate(const float *x, const float *cosine, const float *sine, uint32_t half,
                   uint32_t head_dim, float factor, float *y)
{
    const __m512 f = _mm512_set1_ps(factor);
    for (uint32_t i = 0; i < half; i += 16) {
        __mmask16 mask = tail16(half - i);
        __m512 first = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), f);
        __m512 second = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + half + i), f);
        __m512 c = _mm512_maskz_loadu_ps(mask, cosine + i);
        __m512 s = _mm512_maskz_loadu_ps(mask, sine + i);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_fnmadd_ps(second, s, _mm512_mul_ps(first, c)));
        _mm512_mask_storeu_ps(y + half + i, mask,
                              _mm512_fmadd_ps(first, s, _mm512_mul_ps(second, c)));
    }
    for (uint32_t i = 2 * half; i < head_dim; i += 16) {
        __mmask16 mask = tail16(head_dim - i);
        _mm512_mask_storeu_ps(y + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), f));
    }
}

#endif
