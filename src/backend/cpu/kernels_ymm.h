/* The bodies of the 256-bit kernels, included once by each file that compiles them for its
 * instruction set. The including file defines before:
 *   step_unsigned(sum, u, s)  adds the products of unsigned u (at most 15) and signed s; at most 8
 *                             steps may follow one another before
 *   widen(sum)                turns such a sum, begun at zero, into 32-bit lanes;
 *   step_i8(sum, u, s)        adds products of (u - 128 + I8_ZERO) and s to 32-bit lanes;
 *   I8_ZERO                   the zero point that is still to be corrected for i8. */
#ifndef OFR_BACKEND_CPU_KERNELS_YMM_H
#define OFR_BACKEND_CPU_KERNELS_YMM_H

#include <math.h>
#include <string.h>

enum { STEPS_MAX = 8, PREFETCH_BYTES = 2048 };

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

INLINE __m256 load_halves(const uint16_t *x, size_t n)
{
    if (n >= 8) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)x));
    }
    uint16_t part[8] = {0};
    memcpy(part, x, n * sizeof *x);
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)part));
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

static void quantize(const float *x, const ofr_cpu_activations *a, size_t row)
{
    const __m128i pairs = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256 sign = _mm256_set1_ps(-0.0f);
    int8_t *values = a->values + row * a->value_stride;
    float *scales = a->scales + row * a->group_stride;
    int32_t *sums = a->sums + row * a->group_stride;
    uint32_t block = a->group < 64 ? a->group : 64;
    for (uint32_t g = 0; g < a->n_groups; g++) {
        const float *group = x + (size_t)g * a->group;
        __m256 largest = _mm256_setzero_ps();
        for (uint32_t i = 0; i < a->group; i += 8) {
            largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, _mm256_loadu_ps(group + i)));
        }
        float top = max_lanes(largest);
        __m256 inverse = _mm256_set1_ps(top > 0 ? 127 / top : 0);
        __m256i total = _mm256_setzero_si256();
        for (uint32_t i = 0; i < a->group; i += 16) {
            __m256i q0 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(group + i), inverse));
            __m256i q1 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(group + i + 8), inverse));
            total = _mm256_add_epi32(total, _mm256_add_epi32(q0, q1));
            __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(q0, q1), 0xd8);
            __m128i bytes =
                _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
            int8_t *out = values + (size_t)g * a->group;
            if (a->split) {
                bytes = _mm_shuffle_epi8(bytes, pairs);
                out += i / block * block + i % block / 2;
                _mm_storel_epi64((void *)out, bytes);
                _mm_storel_epi64((void *)(out + block / 2), _mm_srli_si128(bytes, 8));
            } else {
                _mm_storeu_si128((void *)(out + i), bytes);
            }
        }
        int32_t lanes[8], sum = 0;
        _mm256_storeu_si256((void *)lanes, total);
        for (int i = 0; i < 8; i++) {
            sum += lanes[i];
        }
        scales[g] = top / 127;
        sums[g] = sum;
    }
}

/* Weight scale times activation scale of groups [g0, g0 + n) of a row; returns the sum of their
 * zero-point corrections. */
INLINE float combine_scales(const ofr_cpu_matrix *w, uint32_t row, uint32_t g0, uint32_t n,
                            const float *scales, const int32_t *sums, float zero, float *combined)
{
    uint32_t ratio = w->group / w->activation_group;
    const uint16_t *own = w->scales + (size_t)row * (w->columns / w->group);
    __m256 correction = _mm256_setzero_ps();
    for (uint32_t g = 0; g < n; g += 8) {
        __m256 s;
        if (ratio == 1) {
            s = load_halves(own + g0 + g, n - g);
        } else if (w->group == w->columns) {
            s = _mm256_set1_ps(_cvtsh_ss(own[0]));
        } else if (ratio == 2 || ratio == 4) { /* g0 + g is a multiple of 8 */
            uint32_t left = n - g < 8 ? n - g : 8;
            s = load_halves(own + (g0 + g) / ratio, (left + ratio - 1) / ratio);
            s = _mm256_permutevar8x32_ps(s,
                                         _mm256_srl_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                                          _mm_cvtsi32_si128((int)ratio / 2)));
        } else {
            float each[8] = {0};
            for (uint32_t i = 0; i < 8 && g + i < n; i++) {
                each[i] = _cvtsh_ss(own[(g0 + g + i) / ratio]);
            }
            s = _mm256_loadu_ps(each);
        }
        /* Rows of activation scales and sums are padded with zeros to 16. */
        s = _mm256_mul_ps(s, _mm256_loadu_ps(scales + g0 + g));
        _mm256_storeu_ps(combined + g, s);
        __m256 sum = _mm256_cvtepi32_ps(_mm256_loadu_si256((const void *)(sums + g0 + g)));
        correction = _mm256_fmadd_ps(s, sum, correction);
    }
    return -zero * add_lanes(correction);
}

/* One group (a constant where inlined) of a row against the activations, as 32-bit lanes. */
INLINE __m256i dot_group(enum ofr_dtype dtype, uint32_t group, const uint8_t *p, const int8_t *a)
{
    const __m256i low = _mm256_set1_epi8(15);
    __m256i sum = _mm256_setzero_si256();
    if (dtype == OFR_DTYPE_I8) {
        for (uint32_t i = 0; i < group; i += 32) {
            __m256i x =
                _mm256_xor_si256(_mm256_loadu_si256((const void *)(p + i)), _mm256_set1_epi8(-128));
            sum = step_i8(sum, x, _mm256_loadu_si256((const void *)(a + i)));
        }
        return sum;
    }
    if (group == 32) {
        __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)p));
        x = _mm256_srlv_epi64(x, _mm256_setr_epi64x(0, 0, 4, 4));
        x = _mm256_xor_si256(_mm256_and_si256(x, low), _mm256_set1_epi8(8));
        return widen(step_unsigned(sum, x, _mm256_loadu_si256((const void *)a)));
    }
    for (uint32_t i = 0; i < group; i += 64) {
        __m256i x = _mm256_xor_si256(_mm256_loadu_si256((const void *)(p + i / 2)),
                                     _mm256_set1_epi8((char)0x88));
        __m256i even = _mm256_and_si256(x, low);
        __m256i odd = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
        sum = step_unsigned(sum, even, _mm256_loadu_si256((const void *)(a + i)));
        sum = step_unsigned(sum, odd, _mm256_loadu_si256((const void *)(a + i + 32)));
    }
    return widen(sum);
}

INLINE void gemv_rows(const ofr_cpu_matrix *w, enum ofr_dtype dtype, uint32_t group,
                      const ofr_cpu_activations *a, size_t row, uint32_t n, uint32_t rows, float *y)
{
    const int8_t *values = a->values + row * a->value_stride;
    const float *scales = a->scales + row * a->group_stride;
    const int32_t *sums = a->sums + row * a->group_stride;
    size_t shift = dtype == OFR_DTYPE_I4 ? 1 : 0;
    size_t row_bytes = (size_t)w->columns >> shift;
    const uint8_t *data = w->data + n * row_bytes;
    /* Four short rows side by side are a pattern that hardware prefetchers do not follow: whole
     * blocks of four rows ahead. */
    size_t ahead = (PREFETCH_BYTES / (4 * row_bytes) + 1) * (4 * row_bytes);
    float combined[4][OFR_CPU_GROUPS_AT_ONCE];
    float correction[4] = {0};
    __m256 total[4];
    for (uint32_t r = 0; r < rows; r++) {
        total[r] = _mm256_setzero_ps();
    }
    for (uint32_t g0 = 0; g0 < a->n_groups; g0 += OFR_CPU_GROUPS_AT_ONCE) {
        uint32_t count = a->n_groups - g0;
        count = count < OFR_CPU_GROUPS_AT_ONCE ? count : OFR_CPU_GROUPS_AT_ONCE;
        for (uint32_t r = 0; r < rows; r++) {
            correction[r] += combine_scales(w, n + r, g0, count, scales, sums,
                                            dtype == OFR_DTYPE_I4 ? 8 : I8_ZERO, combined[r]);
        }
        for (uint32_t g = 0; g < count; g++) {
            size_t k = (size_t)(g0 + g) * group;
            for (uint32_t r = 0; r < rows; r++) {
                const uint8_t *p = data + r * row_bytes + (k >> shift);
                _mm_prefetch((const char *)(p + ahead), _MM_HINT_T0);
                __m256i sum = dot_group(dtype, group, p, values + k);
                total[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(combined[r][g]),
                                           total[r]);
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        y[r] = add_lanes(total[r]) + correction[r];
    }
}

INLINE void gemv_all(const ofr_cpu_matrix *w, enum ofr_dtype dtype, uint32_t group,
                     const ofr_cpu_activations *a, size_t row, uint32_t begin, uint32_t end,
                     float *y)
{
    uint32_t n = begin;
    for (; n + 4 <= end; n += 4) {
        gemv_rows(w, dtype, group, a, row, n, 4, y + (n - begin));
    }
    for (; n < end; n++) {
        gemv_rows(w, dtype, group, a, row, n, 1, y + (n - begin));
    }
}

static void gemv(const ofr_cpu_matrix *w, const ofr_cpu_activations *a, size_t row, uint32_t begin,
                 uint32_t end, float *y)
{
    bool i4 = w->dtype == OFR_DTYPE_I4;
    if (a->group == 128 && i4) {
        gemv_all(w, OFR_DTYPE_I4, 128, a, row, begin, end, y);
    } else if (a->group == 64 && i4) {
        gemv_all(w, OFR_DTYPE_I4, 64, a, row, begin, end, y);
    } else if (i4) {
        gemv_all(w, OFR_DTYPE_I4, 32, a, row, begin, end, y);
    } else if (a->group == 128) {
        gemv_all(w, OFR_DTYPE_I8, 128, a, row, begin, end, y);
    } else if (a->group == 64) {
        gemv_all(w, OFR_DTYPE_I8, 64, a, row, begin, end, y);
    } else {
        gemv_all(w, OFR_DTYPE_I8, 32, a, row, begin, end, y);
    }
}

static void gemm_pack(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n, const ofr_cpu_tile *tile)
{
    bool i4 = w->dtype == OFR_DTYPE_I4;
    size_t row_bytes = i4 ? w->columns / 2 : w->columns;
    uint32_t words = w->activation_group < 64 ? 4 : 8; /* 32-bit words of an i4 block of a row */
    const __m256i low = _mm256_set1_epi8(15), bias = _mm256_set1_epi8((char)tile->zero);
    for (uint32_t part = 0; part < OFR_CPU_TILE_ROWS / 8; part++) {
        uint32_t left = n > part * 8 ? n - part * 8 : 0;
        const uint8_t *data = w->data + (size_t)(begin + (left > 0 ? part * 8 : 0)) * row_bytes;
        /* Distances between rows in units of 4 bytes: rows are multiples of 16 bytes. */
        __m256i rows = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                          _mm256_set1_epi32((int)(row_bytes / 4)));
        uint8_t *out = tile->values + (size_t)part * 32;
        for (uint32_t i = 0; i < row_bytes / 4; i++) {
            __m256i x = _mm256_mask_i32gather_epi32(
                _mm256_setzero_si256(), (const void *)(data + (size_t)i * 4), rows, tail8(left), 4);
            if (i4) {
                size_t quad = (size_t)(i / words) * words * 2 + i % words;
                __m256i even = _mm256_xor_si256(_mm256_and_si256(x, low), bias);
                __m256i odd =
                    _mm256_xor_si256(_mm256_and_si256(_mm256_srli_epi16(x, 4), low), bias);
                _mm256_store_si256((void *)(out + quad * (4 * OFR_CPU_TILE_ROWS)), even);
                _mm256_store_si256((void *)(out + (quad + words) * (4 * OFR_CPU_TILE_ROWS)), odd);
            } else {
                _mm256_store_si256((void *)(out + (size_t)i * (4 * OFR_CPU_TILE_ROWS)),
                                   _mm256_xor_si256(x, bias));
            }
        }
    }
    uint32_t ratio = w->group / w->activation_group, own = w->columns / w->group;
    for (uint32_t r = 0; r < OFR_CPU_TILE_ROWS; r++) {
        for (uint32_t g = 0; g < w->columns / w->activation_group; g++) {
            tile->scales[g * OFR_CPU_TILE_ROWS + r] =
                r < n ? _cvtsh_ss(w->scales[(size_t)(begin + r) * own + g / ratio]) : 0;
        }
    }
}

/* `n` tokens (a constant where inlined) against 16 rows of the tile from `first` on. */
INLINE void tile_tokens(const ofr_cpu_tile *tile, bool i4, uint32_t first,
                        const ofr_cpu_activations *a, size_t row, uint32_t n, float *y)
{
    const int8_t *values = a->values + row * a->value_stride;
    const float *scales = a->scales + row * a->group_stride;
    const int32_t *sums = a->sums + row * a->group_stride;
    uint32_t quads = a->group / 4;
    int32_t zero = i4 ? 8 : I8_ZERO;
    const uint8_t *w = tile->values + (size_t)first * 4;
    __m256 total[4][2];
    for (uint32_t t = 0; t < n; t++) {
        total[t][0] = total[t][1] = _mm256_setzero_ps();
    }
    for (uint32_t g = 0; g < a->n_groups; g++) {
        __m256i wide[4][2];
        const int8_t *x = values + (size_t)g * a->group;
        for (uint32_t t = 0; t < n; t++) {
            wide[t][0] = wide[t][1] = _mm256_set1_epi32(-zero * sums[t * a->group_stride + g]);
        }
        for (uint32_t q0 = 0; q0 < quads; q0 += STEPS_MAX) {
            __m256i sum[4][2];
            for (uint32_t t = 0; t < n; t++) {
                sum[t][0] = sum[t][1] = _mm256_setzero_si256();
            }
            for (uint32_t q = q0; q < q0 + STEPS_MAX; q++, w += 4 * OFR_CPU_TILE_ROWS) {
                __m256i w0 = _mm256_load_si256((const void *)w);
                __m256i w1 = _mm256_load_si256((const void *)(w + 32));
                for (uint32_t t = 0; t < n; t++) {
                    int32_t four;
                    memcpy(&four, x + t * a->value_stride + 4 * q, sizeof four);
                    __m256i each = _mm256_set1_epi32(four);
                    sum[t][0] =
                        i4 ? step_unsigned(sum[t][0], w0, each) : step_i8(sum[t][0], w0, each);
                    sum[t][1] =
                        i4 ? step_unsigned(sum[t][1], w1, each) : step_i8(sum[t][1], w1, each);
                }
            }
            for (uint32_t t = 0; t < n; t++) {
                for (uint32_t i = 0; i < 2; i++) {
                    wide[t][i] = _mm256_add_epi32(wide[t][i], i4 ? widen(sum[t][i]) : sum[t][i]);
                }
            }
        }
        const float *own = tile->scales + g * OFR_CPU_TILE_ROWS + first;
        for (uint32_t t = 0; t < n; t++) {
            __m256 s = _mm256_set1_ps(scales[t * a->group_stride + g]);
            for (uint32_t i = 0; i < 2; i++) {
                total[t][i] =
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(wide[t][i]),
                                    _mm256_mul_ps(s, _mm256_load_ps(own + 8 * i)), total[t][i]);
            }
        }
    }
    for (uint32_t t = 0; t < n; t++) {
        _mm256_storeu_ps(y + t * OFR_CPU_TILE_ROWS + first, total[t][0]);
        _mm256_storeu_ps(y + t * OFR_CPU_TILE_ROWS + first + 8, total[t][1]);
    }
}

INLINE void tile_rows(const ofr_cpu_tile *tile, bool i4, const ofr_cpu_activations *a, size_t row,
                      uint32_t n_tokens, float *y)
{
    for (uint32_t first = 0; first < OFR_CPU_TILE_ROWS; first += 16) {
        uint32_t t = 0;
        for (; t + 4 <= n_tokens; t += 4) {
            tile_tokens(tile, i4, first, a, row + t, 4, y + t * OFR_CPU_TILE_ROWS);
        }
        for (; t < n_tokens; t++) {
            tile_tokens(tile, i4, first, a, row + t, 1, y + t * OFR_CPU_TILE_ROWS);
        }
    }
}

static void gemm_tile(const ofr_cpu_tile *tile, const ofr_cpu_activations *a, size_t row,
                      uint32_t n_tokens, float *y)
{
    if (tile->zero == 8) {
        tile_rows(tile, true, a, row, n_tokens, y);
    } else {
        tile_rows(tile, false, a, row, n_tokens, y);
    }
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

static void transpose_keys(const uint16_t *k, size_t k_stride, uint32_t n_keys, uint32_t head_dim,
                           float *y)
{
    for (uint32_t j = 0; j < OFR_CPU_KEY_BLOCK; j += 8) {
        __m256i mask = tail8(n_keys > j ? n_keys - j : 0);
        const uint16_t *base = k + (n_keys > j ? j * k_stride : 0);
        __m256i rows = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                          _mm256_set1_epi32((int)k_stride));
        for (uint32_t i = 0; i < head_dim; i += 2) { /* head_dim is even */
            __m256i pair = _mm256_mask_i32gather_epi32(_mm256_setzero_si256(),
                                                       (const void *)(base + i), rows, mask, 2);
            __m256i even = _mm256_and_si256(pair, _mm256_set1_epi32(0xffff));
            __m256i odd = _mm256_srli_epi32(pair, 16);
            __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(even, odd), 0xd8);
            float *out = y + (size_t)i * OFR_CPU_KEY_BLOCK + j;
            _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm256_castsi256_si128(both)));
            _mm256_storeu_ps(out + OFR_CPU_KEY_BLOCK,
                             _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1)));
        }
    }
}

INLINE void score_heads(const float *q, size_t q_stride, uint32_t n, const uint16_t *k,
                        size_t k_stride, uint32_t n_keys, uint32_t head_dim, float *scores)
{
    for (uint32_t j = 0; j < n_keys; j++) {
        __m256 sum[4];
        for (uint32_t h = 0; h < n; h++) {
            sum[h] = _mm256_setzero_ps();
        }
        for (uint32_t i = 0; i < head_dim; i += 8) {
            __m256 key = load_halves(k + j * k_stride + i, head_dim - i);
            for (uint32_t h = 0; h < n; h++) {
                sum[h] =
                    _mm256_fmadd_ps(key, load_floats(q + h * q_stride + i, head_dim - i), sum[h]);
            }
        }
        for (uint32_t h = 0; h < n; h++) {
            scores[h * OFR_CPU_KEY_BLOCK + j] = add_lanes(sum[h]);
        }
    }
}

static void attention_scores(const float *q, size_t q_stride, uint32_t n_heads, const uint16_t *k,
                             size_t k_stride, uint32_t n_keys, uint32_t head_dim, float *scores)
{
    uint32_t h = 0;
    for (; h + 3 <= n_heads; h += 3) {
        score_heads(q + h * q_stride, q_stride, 3, k, k_stride, n_keys, head_dim,
                    scores + h * OFR_CPU_KEY_BLOCK);
    }
    for (; h < n_heads; h++) {
        score_heads(q + h * q_stride, q_stride, 1, k, k_stride, n_keys, head_dim,
                    scores + h * OFR_CPU_KEY_BLOCK);
    }
}

INLINE void value_heads(const float *weights, uint32_t n, const uint16_t *v, size_t v_stride,
                        uint32_t n_keys, uint32_t head_dim, float *out)
{
    for (uint32_t i = 0; i < head_dim; i += 8) {
        __m256 sum[4];
        for (uint32_t h = 0; h < n; h++) {
            sum[h] = load_floats(out + h * head_dim + i, head_dim - i);
        }
        for (uint32_t j = 0; j < n_keys; j++) {
            __m256 value = load_halves(v + j * v_stride + i, head_dim - i);
            for (uint32_t h = 0; h < n; h++) {
                sum[h] = _mm256_fmadd_ps(_mm256_set1_ps(weights[h * OFR_CPU_KEY_BLOCK + j]), value,
                                         sum[h]);
            }
        }
        for (uint32_t h = 0; h < n; h++) {
            store_floats(out + h * head_dim + i, head_dim - i, sum[h]);
        }
    }
}

static void attention_values(const float *weights, uint32_t n_heads, const uint16_t *v,
                             size_t v_stride, uint32_t n_keys, uint32_t head_dim, float *out)
{
    uint32_t h = 0;
    for (; h + 3 <= n_heads; h += 3) {
        value_heads(weights + h * OFR_CPU_KEY_BLOCK, 3, v, v_stride, n_keys, head_dim,
                    out + h * head_dim);
    }
    for (; h < n_heads; h++) {
        value_heads(weights + h * OFR_CPU_KEY_BLOCK, 1, v, v_stride, n_keys, head_dim,
                    out + h * head_dim);
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

/* `rows` x (8 * vectors) of c, both constants where inlined. */
INLINE void matmul_block(const float *a, size_t a_stride, const float *b, size_t b_stride, float *c,
                         size_t c_stride, uint32_t rows, uint32_t depth)
{
    __m256 sum[6][2];
    for (uint32_t r = 0; r < rows; r++) {
        sum[r][0] = _mm256_loadu_ps(c + r * c_stride);
        sum[r][1] = _mm256_loadu_ps(c + r * c_stride + 8);
    }
    for (uint32_t k = 0; k < depth; k++) {
        __m256 b0 = _mm256_loadu_ps(b + k * b_stride);
        __m256 b1 = _mm256_loadu_ps(b + k * b_stride + 8);
        for (uint32_t r = 0; r < rows; r++) {
            __m256 factor = _mm256_set1_ps(a[r * a_stride + k]);
            sum[r][0] = _mm256_fmadd_ps(factor, b0, sum[r][0]);
            sum[r][1] = _mm256_fmadd_ps(factor, b1, sum[r][1]);
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        _mm256_storeu_ps(c + r * c_stride, sum[r][0]);
        _mm256_storeu_ps(c + r * c_stride + 8, sum[r][1]);
    }
}

static void matmul(const float *a, size_t a_stride, const float *b, size_t b_stride, float *c,
                   size_t c_stride, uint32_t rows, uint32_t columns, uint32_t depth)
{
    for (uint32_t i = 0; i < columns; i += 16) {
        uint32_t r = 0;
        for (; r + 6 <= rows; r += 6) {
            matmul_block(a + r * a_stride, a_stride, b + i, b_stride, c + r * c_stride + i,
                         c_stride, 6, depth);
        }
        for (; r < rows; r++) {
            matmul_block(a + r * a_stride, a_stride, b + i, b_stride, c + r * c_stride + i,
                         c_stride, 1, depth);
        }
    }
}

/* The members of the table that this header defines. */
#define YMM_KERNELS                                                                                \
    .supported = supported, .quantize = quantize, .gemv = gemv, .gemm_pack = gemm_pack,            \
    .gemm_tile = gemm_tile, .dot_f32 = dot_f32, .dot_f16 = dot_f16, .rms_norm = rms_norm,          \
    .swiglu = swiglu, .float_to_half = float_to_half, .half_to_float = half_to_float,              \
    .transpose_keys = transpose_keys, .attention_scores = attention_scores,                        \
    .attention_values = attention_values, .exp_sum = exp_sum, .maximum = maximum_of,               \
    .scale = scale, .matmul = matmul

#endif
