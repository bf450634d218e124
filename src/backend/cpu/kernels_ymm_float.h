/* The 256-bit kernels on floats and halves: vectors with tails, norms, activations, attention.
 * Included by kernels_ymm.h, whose including file defines INLINE. */
#ifndef OFR_BACKEND_CPU_KERNELS_YMM_FLOAT_H
#define OFR_BACKEND_CPU_KERNELS_YMM_FLOAT_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"

INLINE float add_lanes(__m256 x)
{
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

INLINE float max_lanes(__m256 x)
{
    __m128 top = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    top = _mm_max_ps(top, _mm_movehl_ps(top, top));
    return _mm_cvtss_f32(_mm_max_ss(top, _mm_movehdup_ps(top)));
}

/* All ones in the first n lanes. */
INLINE __m256i tail8(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n < 8 ? n : 8)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE __m256 load_floats(const float *x, size_t n)
{
    return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, tail8(n));
}

INLINE void store_floats(float *x, size_t n, __m256 value)
{
    if (n >= 8) {
        _mm256_storeu_ps(x, value);
    } else {
        _mm256_maskstore_ps(x, tail8(n), value);
    }
}

/* The first n of 8 halves, 0 behind. Put together in registers: what is read back right after it
 * was written in pieces waits until all of them are in the cache. */
INLINE __m256 load_halves(const uint16_t *x, size_t n)
{
    if (n >= 8) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)x));
    }
    uint64_t low = 0, high = 0;
    if (n >= 4) {
        memcpy(&low, x, 8);
        memcpy(&high, x + n - 4, 8);
        high = n == 4 ? 0 : high >> 16 * (8 - n);
    } else if (n > 0) {
        low = x[0] | (uint64_t)x[n / 2] << n / 2 * 16 | (uint64_t)x[n - 1] << (n - 1) * 16;
    }
    return _mm256_cvtph_ps(_mm_set_epi64x((int64_t)high, (int64_t)low));
}

/* exp with an error of about 2 ulp: 2^n p(r), polynomial of the Cephes library's expf (S. Moshier).
 */
INLINE __m256 exp8(__m256 x)
{
    x = _mm256_min_ps(_mm256_set1_ps(88.37f), _mm256_max_ps(_mm256_set1_ps(-87.33f), x));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1)));
    __m256i power =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

static float dot_f32(const float *x, const float *y, size_t n)
{
    __m256 sum = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += 8) {
        sum = _mm256_fmadd_ps(load_floats(x + i, n - i), load_floats(y + i, n - i), sum);
    }
    return add_lanes(sum);
}

static float dot_f16(const float *x, const uint16_t *y, size_t n)
{
    __m256 sum = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += 8) {
        sum = _mm256_fmadd_ps(load_floats(x + i, n - i), load_halves(y + i, n - i), sum);
    }
    return add_lanes(sum);
}

static void rms_norm(const float *x, const float *weight, size_t n, float epsilon, float *y)
{
    __m256 factor = _mm256_set1_ps(1 / sqrtf(dot_f32(x, x, n) / (float)n + epsilon));
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_mul_ps(load_floats(x + i, n - i), factor);
        store_floats(y + i, n - i, _mm256_mul_ps(v, load_floats(weight + i, n - i)));
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 8) {
        __m256 g = load_floats(gate + i, n - i);
        __m256 e = exp8(_mm256_sub_ps(_mm256_setzero_ps(), g));
        __m256 silu = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1), e));
        store_floats(y + i, n - i, _mm256_mul_ps(silu, load_floats(up + i, n - i)));
    }
}

static void float_to_half(const float *x, size_t n, uint16_t *y)
{
    for (size_t i = 0; i < n; i += 8) {
        uint16_t part[8];
        size_t left = n - i < 8 ? n - i : 8;
        _mm_storeu_si128((void *)part,
                         _mm256_cvtps_ph(load_floats(x + i, left), _MM_FROUND_TO_NEAREST_INT));
        memcpy(y + i, part, left * sizeof *y);
    }
}

static void half_to_float(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i += 8) {
        store_floats(y + i, n - i, load_halves(x + i, n - i));
    }
}

/* Transposes 8 x 8 lanes of 32 bits. */
INLINE void transpose8(__m256i m[8])
{
    __m256i t[8];
    for (int i = 0; i < 8; i += 4) {
        __m256i a = _mm256_unpacklo_epi32(m[i], m[i + 1]);
        __m256i b = _mm256_unpackhi_epi32(m[i], m[i + 1]);
        __m256i c = _mm256_unpacklo_epi32(m[i + 2], m[i + 3]);
        __m256i d = _mm256_unpackhi_epi32(m[i + 2], m[i + 3]);
        t[i] = _mm256_unpacklo_epi64(a, c);
        t[i + 1] = _mm256_unpackhi_epi64(a, c);
        t[i + 2] = _mm256_unpacklo_epi64(b, d);
        t[i + 3] = _mm256_unpackhi_epi64(b, d);
    }
    /* t[4 j + i] holds columns i and 4 + i of rows 4 j to 4 j + 3 */
    for (int i = 0; i < 4; i++) {
        m[i] = _mm256_permute2x128_si256(t[i], t[4 + i], 0x20);
        m[4 + i] = _mm256_permute2x128_si256(t[i], t[4 + i], 0x31);
    }
}

/* 8 elements, or the first `left`, of 4 keys times those of n heads. Unrolled, or GCC 12 keeps the
 * sums on the stack. */
INLINE void score_step(const float *q, size_t q_stride, uint32_t n, const uint16_t *const row[4],
                       uint32_t e, uint32_t left, __m256 sum[3][4])
{
    __m256 query[3];
#pragma GCC unroll 3
    for (uint32_t h = 0; h < n; h++) {
        const float *from = q + h * q_stride + e;
        query[h] = left >= 8 ? _mm256_loadu_ps(from) : load_floats(from, left);
    }
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) {
        __m256 key = left >= 8 ? _mm256_cvtph_ps(_mm_loadu_si128((const void *)(row[i] + e)))
                               : load_halves(row[i] + e, left);
#pragma GCC unroll 3
        for (uint32_t h = 0; h < n; h++) {
            sum[h][i] = _mm256_fmadd_ps(key, query[h], sum[h][i]);
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
        __m256 sum[3][4];
#pragma GCC unroll 4
        for (uint32_t i = 0; i < 4; i++) {
            row[i] = k + (j + i < n_keys ? j + i : n_keys - 1) * k_stride;
            sum[0][i] = sum[1][i] = sum[2][i] = _mm256_setzero_ps();
        }
        uint32_t e = 0;
        for (; e + 32 <= head_dim; e += 32) {
#pragma GCC unroll 4
            for (uint32_t i = 0; i < 4; i++) {
                _mm_prefetch((const char *)(next + i * ahead_stride + e), _MM_HINT_T1);
            }
#pragma GCC unroll 4
            for (uint32_t i = 0; i < 32; i += 8) {
                score_step(q, q_stride, n, row, e + i, 8, sum);
            }
        }
        for (; e < head_dim; e += 8) {
            score_step(q, q_stride, n, row, e, head_dim - e, sum);
        }
#pragma GCC unroll 3
        for (uint32_t h = 0; h < n; h++) {
            __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(sum[h][0], sum[h][1]),
                                        _mm256_hadd_ps(sum[h][2], sum[h][3]));
            _mm_storeu_ps(scores + h * OFR_CPU_KEY_BLOCK + j,
                          _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
        }
    }
}

static void attention_scores(const float *q, size_t q_stride, uint32_t n_heads, const uint16_t *k,
                             size_t k_stride, uint32_t n_keys, uint32_t head_dim,
                             const uint16_t *ahead, size_t ahead_stride, float *scores)
{
    for (uint32_t h = 0, n; h < n_heads; h += n) {
        const float *from = q + h * q_stride;
        float *to = scores + h * OFR_CPU_KEY_BLOCK;
        uint32_t left = n_heads - h;
        if (left == 3 || left > 4) {
            n = 3;
            score_heads(from, q_stride, 3, k, k_stride, n_keys, head_dim, ahead, ahead_stride, to);
        } else if (left > 1) { /* four as two and two */
            n = 2;
            score_heads(from, q_stride, 2, k, k_stride, n_keys, head_dim, ahead, ahead_stride, to);
        } else {
            n = 1;
            score_heads(from, q_stride, 1, k, k_stride, n_keys, head_dim, ahead, ahead_stride, to);
        }
    }
}

/* `n` heads and 8 * `vectors` elements (both constants where inlined), `width` of them valid. */
INLINE void value_vectors(const float *weights, uint32_t n, uint32_t vectors, uint32_t width,
                          const uint16_t *v, size_t v_stride, uint32_t n_keys, uint32_t head_dim,
                          const uint16_t *ahead, size_t ahead_stride, float *out)
{
    __m256 sum[3][4];
    for (uint32_t h = 0; h < n; h++) {
        for (uint32_t i = 0; i < vectors; i++) {
            sum[h][i] = load_floats(out + h * head_dim + 8 * i, width - 8 * i);
        }
    }
    for (uint32_t j = 0; j < n_keys; j++) {
        const uint16_t *row = v + j * v_stride;
        _mm_prefetch((const char *)(ahead + j * ahead_stride), _MM_HINT_T1);
        for (uint32_t i = 0; i < vectors; i++) {
            __m256 value = load_halves(row + 8 * i, width - 8 * i);
            for (uint32_t h = 0; h < n; h++) {
                sum[h][i] = _mm256_fmadd_ps(_mm256_set1_ps(weights[h * OFR_CPU_KEY_BLOCK + j]),
                                            value, sum[h][i]);
            }
        }
    }
    for (uint32_t h = 0; h < n; h++) {
        for (uint32_t i = 0; i < vectors; i++) {
            store_floats(out + h * head_dim + 8 * i, width - 8 * i, sum[h][i]);
        }
    }
}

INLINE void value_heads(const float *weights, uint32_t n, const uint16_t *v, size_t v_stride,
                        uint32_t n_keys, uint32_t head_dim, const uint16_t *ahead,
                        size_t ahead_stride, float *out)
{
    uint32_t e = 0;
    bool contiguous = ahead_stride == head_dim; /* then each turn prefetches one piece of it */
    for (; e + 32 <= head_dim; e += 32) {
        value_vectors(weights, n, 4, 32, v + e, v_stride, n_keys, head_dim,
                      ahead + e * (contiguous ? OFR_CPU_KEY_BLOCK : 1),
                      contiguous ? 32 : ahead_stride, out + e);
    }
    for (; e < head_dim; e += 8) {
        value_vectors(weights, n, 1, head_dim - e, v + e, v_stride, n_keys, head_dim, ahead + e,
                      ahead_stride, out + e);
    }
}

static void attention_values(const float *weights, uint32_t n_heads, const uint16_t *v,
                             size_t v_stride, uint32_t n_keys, uint32_t head_dim,
                             const uint16_t *ahead, size_t ahead_stride, float *out)
{
    uint32_t h = 0;
    for (; h + 3 <= n_heads; h += 3) {
        value_heads(weights + h * OFR_CPU_KEY_BLOCK, 3, v, v_stride, n_keys, head_dim, ahead,
                    ahead_stride, out + h * head_dim);
    }
    for (; h < n_heads; h++) {
        value_heads(weights + h * OFR_CPU_KEY_BLOCK, 1, v, v_stride, n_keys, head_dim, ahead,
                    ahead_stride, out + h * head_dim);
    }
}

static float exp_sum(float *x, size_t n, float maximum)
{
    __m256 sum = _mm256_setzero_ps(), shift = _mm256_set1_ps(maximum);
    for (size_t i = 0; i < n; i += 8) {
        __m256 e = exp8(_mm256_sub_ps(load_floats(x + i, n - i), shift));
        e = _mm256_and_ps(e, _mm256_castsi256_ps(tail8(n - i)));
        store_floats(x + i, n - i, e);
        sum = _mm256_add_ps(sum, e);
    }
    return add_lanes(sum);
}

static float maximum_of(const float *x, size_t n)
{
    __m256 largest = _mm256_set1_ps(-INFINITY);
    for (size_t i = 0; i < n; i += 8) {
        __m256 next =
            _mm256_blendv_ps(largest, load_floats(x + i, n - i), _mm256_castsi256_ps(tail8(n - i)));
        largest = _mm256_max_ps(largest, next);
    }
    return max_lanes(largest);
}

static void scale(float *x, size_t n, float factor)
{
    for (size_t i = 0; i < n; i += 8) {
        store_floats(x + i, n - i,
                     _mm256_mul_ps(load_floats(x + i, n - i), _mm256_set1_ps(factor)));
    }
}

static void rotate(const float *x, const float *cosine, const float *sine, uint32_t half,
                   uint32_t head_dim, float factor, float *y)
{
    const __m256 f = _mm256_set1_ps(factor);
    for (uint32_t i = 0; i < half; i += 8) {
        size_t n = half - i;
        __m256 first = _mm256_mul_ps(load_floats(x + i, n), f);
        __m256 second = _mm256_mul_ps(load_floats(x + half + i, n), f);
        __m256 c = load_floats(cosine + i, n), s = load_floats(sine + i, n);
        store_floats(y + i, n, _mm256_fnmadd_ps(second, s, _mm256_mul_ps(first, c)));
        store_floats(y + half + i, n, _mm256_fmadd_ps(first, s, _mm256_mul_ps(second, c)));
    }
    for (uint32_t i = 2 * half; i < head_dim; i += 8) {
        store_floats(y + i, head_dim - i, _mm256_mul_ps(load_floats(x + i, head_dim - i), f));
    }
}

#endif
