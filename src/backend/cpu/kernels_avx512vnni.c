/* Kernels for AVX-512 with VNNI (Ice Lake and later servers, Zen 4 and later). vpdpbusd multiplies
 * unsigned weights by signed activations; the formats it relies on are those of kernels.h. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

enum { PREFETCH_BYTES = 6144 };

static bool supported(const ofr_cpu_features *features)
{
    return features->avx512_vnni;
}

INLINE __mmask16 tail16(size_t n)
{
    return (__mmask16)(n >= 16 ? 0xffffU : (1U << n) - 1);
}

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

/* Even elements of each block of 64 (or 32) bytes to its first half, odd ones to the second. */
INLINE __m512i split64(__m512i x, bool halves)
{
    const __m512i pairs =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    const __m512i whole = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i half = _mm512_setr_epi64(0, 2, 1, 3, 4, 6, 5, 7);
    return _mm512_permutexvar_epi64(halves ? half : whole, _mm512_shuffle_epi8(x, pairs));
}

/* One group of n16 * 16 values; the int8 results stay in natural order. */
INLINE void quantize_group(const float *x, uint32_t n16, int8_t *values, float *scale, int32_t *sum)
{
    __m512 largest = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n16; i++) {
        largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_loadu_ps(x + 16 * i)));
    }
    float top = _mm512_reduce_max_ps(largest);
    __m512 inverse = _mm512_set1_ps(top > 0 ? 127 / top : 0);
    __m512i total = _mm512_setzero_si512();
    for (uint32_t i = 0; i < n16; i++) {
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * i), inverse));
        q = _mm512_min_epi32(_mm512_set1_epi32(127), _mm512_max_epi32(_mm512_set1_epi32(-127), q));
        total = _mm512_add_epi32(total, q);
        _mm_storeu_si128((__m128i *)(void *)(values + 16 * i), _mm512_cvtepi32_epi8(q));
    }
    *scale = top / 127;
    *sum = _mm512_reduce_add_epi32(total);
}

static void quantize(const float *x, const ofr_cpu_activations *a, size_t row)
{
    int8_t *values = a->values + row * a->value_stride;
    float *scales = a->scales + row * a->group_stride;
    int32_t *sums = a->sums + row * a->group_stride;
    for (uint32_t g = 0; g < a->n_groups; g++) {
        size_t first = (size_t)g * a->group;
        quantize_group(x + first, a->group / 16, values + first, &scales[g], &sums[g]);
    }
    if (a->split) {
        for (size_t k = 0; k < a->columns; k += 64) { /* rows are padded to 64 */
            __m512i *at = (__m512i *)(void *)(values + k);
            _mm512_storeu_si512(at, split64(_mm512_loadu_si512(at), a->group < 64));
        }
    }
}

/* Weight scale times activation scale of groups [g0, g0 + n) of a row, n <= GROUPS_AT_ONCE, padded
 * with 0 to 16; returns the zero-point correction of these groups, spread over lanes. */
INLINE __m512 combine_scales(const ofr_cpu_matrix *w, uint32_t row, uint32_t g0, uint32_t n,
                             const float *scales, const int32_t *sums, float zero, float *combined)
{
    uint32_t ratio = w->group / w->activation_group;
    const uint16_t *own = w->scales + (size_t)row * (w->columns / w->group);
    __m512 correction = _mm512_setzero_ps();
    for (uint32_t g = 0; g < n; g += 16) {
        __mmask16 mask = tail16(n - g);
        __m512 s;
        if (ratio == 1) {
            s = load_half16(own + g0 + g, mask);
        } else if (w->group == w->columns) {
            s = _mm512_set1_ps(_cvtsh_ss(own[0]));
        } else if (ratio == 2 || ratio == 4) { /* g0 + g is a multiple of 16 */
            uint32_t shift = ratio / 2;
            s = load_half16(own + (g0 + g) / ratio,
                            tail16(((n - g < 16 ? n - g : 16) + ratio - 1) / ratio));
            s = _mm512_permutexvar_ps(_mm512_srl_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8,
                                                                         9, 10, 11, 12, 13, 14, 15),
                                                       _mm_cvtsi32_si128((int)shift)),
                                      s);
        } else {
            _Alignas(64) float each[16] = {0};
            for (uint32_t i = 0; i < 16 && g + i < n; i++) {
                each[i] = _cvtsh_ss(own[(g0 + g + i) / ratio]);
            }
            s = _mm512_load_ps(each);
        }
        s = _mm512_mul_ps(s, _mm512_maskz_loadu_ps(mask, scales + g0 + g));
        _mm512_store_ps(combined + g, s);
        __m512 sum = _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(mask, sums + g0 + g));
        correction = _mm512_fmadd_ps(s, sum, correction);
    }
    return _mm512_mul_ps(correction, _mm512_set1_ps(-zero));
}

/* 64 i4 weights at p as unsigned bytes: low nibbles, then high ones; with A = 32, per half. */
INLINE __m512i unpack64(const uint8_t *p, bool halves, bool tail)
{
    const __m512i spread = _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3);
    __m512i x;
    if (halves) {
        __m256i raw = tail ? _mm256_zextsi128_si256(_mm_loadu_si128((const void *)p))
                           : _mm256_loadu_si256((const void *)p);
        x = _mm512_permutexvar_epi64(spread, _mm512_castsi256_si512(raw));
        x = _mm512_srlv_epi64(x, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    } else {
        x = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)p));
        x = _mm512_srlv_epi64(x, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
    }
    /* (x & 15) ^ 8 */
    return _mm512_ternarylogic_epi32(x, _mm512_set1_epi8(15), _mm512_set1_epi8(8), 0x6a);
}

INLINE __m512i load64(enum ofr_dtype dtype, const uint8_t *row, size_t k, bool halves, bool tail)
{
    if (dtype == OFR_DTYPE_I4) {
        return unpack64(row + k / 2, halves, tail);
    }
    __m512i x = tail ? _mm512_zextsi256_si512(_mm256_loadu_si256((const void *)(row + k)))
                     : _mm512_loadu_si512(row + k);
    return _mm512_xor_si512(x, _mm512_set1_epi8(-128));
}

/* Four short rows side by side are a pattern that hardware prefetchers do not follow: whole blocks
 * of four rows ahead, at least PREFETCH_BYTES. Beyond the matrix it does nothing. */
INLINE size_t prefetch_distance(size_t row_bytes)
{
    return (PREFETCH_BYTES / (4 * row_bytes) + 1) * (4 * row_bytes);
}

/* `rows` rows from n on; dtype and group are constants where this is inlined. */
INLINE void gemv_rows(const ofr_cpu_matrix *w, enum ofr_dtype dtype, uint32_t group,
                      const ofr_cpu_activations *a, size_t row, uint32_t n, uint32_t rows, float *y)
{
    const int8_t *values = a->values + row * a->value_stride;
    const float *scales = a->scales + row * a->group_stride;
    const int32_t *sums = a->sums + row * a->group_stride;
    size_t row_bytes = dtype == OFR_DTYPE_I4 ? w->columns / 2 : w->columns;
    const uint8_t *data = w->data + n * row_bytes;
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    size_t ahead = prefetch_distance(row_bytes);
    _Alignas(64) float combined[4][OFR_CPU_GROUPS_AT_ONCE];
    __m512 total[4];
    for (uint32_t r = 0; r < rows; r++) {
        total[r] = _mm512_setzero_ps();
    }
    for (uint32_t g0 = 0; g0 < a->n_groups; g0 += OFR_CPU_GROUPS_AT_ONCE) {
        uint32_t count = a->n_groups - g0;
        count = count < OFR_CPU_GROUPS_AT_ONCE ? count : OFR_CPU_GROUPS_AT_ONCE;
        for (uint32_t r = 0; r < rows; r++) {
            total[r] = _mm512_add_ps(total[r],
                                     combine_scales(w, n + r, g0, count, scales, sums,
                                                    dtype == OFR_DTYPE_I4 ? 8 : 128, combined[r]));
        }
        uint32_t step = group == 32 ? 2 : 1;
        for (uint32_t g = 0; g < count; g += step) {
            size_t k = (size_t)(g0 + g) * group;
            bool tail = group == 32 && k + 32 == w->columns;
            __m512i first = _mm512_loadu_si512(values + k);
            __m512i second = group == 128 ? _mm512_loadu_si512(values + k + 64) : first;
            for (uint32_t r = 0; r < rows; r++) {
                const uint8_t *p = data + r * row_bytes;
                _mm_prefetch((const char *)(p + ahead + (dtype == OFR_DTYPE_I4 ? k / 2 : k)),
                             _MM_HINT_T0);
                __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(),
                                                  load64(dtype, p, k, group == 32, tail), first);
                if (group == 128) {
                    sum = _mm512_dpbusd_epi32(sum, load64(dtype, p, k + 64, false, false), second);
                }
                __m512 s;
                if (group == 32) {
                    s = _mm512_permutexvar_ps(
                        lanes, _mm512_castps128_ps512(
                                   _mm_castpd_ps(_mm_load_sd((const void *)&combined[r][g]))));
                } else {
                    s = _mm512_set1_ps(combined[r][g]);
                }
                total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), s, total[r]);
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        y[r] = _mm512_reduce_add_ps(total[r]);
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

/* The largest matrix whose activation scales a gemv spreads on the stack. */
enum { LANE_COLUMNS_MAX = 32768 };

/* What gemv_lanes needs of the activations, once for all rows of a call. */
typedef struct lane_scales {
    /* for each 64 columns the scales of their two groups of 32, over the lanes of a vpdpbusd */
    _Alignas(64) float lanes[LANE_COLUMNS_MAX / 64][16];
    /* for each weight group minus the zero point times the sum of its activations */
    _Alignas(64) float corrections[LANE_COLUMNS_MAX / 64];
} lane_scales;

static void spread_scales(const ofr_cpu_matrix *w, const ofr_cpu_activations *a, size_t row,
                          float zero, lane_scales *ret)
{
    const float *scales = a->scales + row * a->group_stride;
    const int32_t *sums = a->sums + row * a->group_stride;
    for (uint32_t b = 0; b < w->columns / 64; b++) {
        _mm256_store_ps(ret->lanes[b], _mm256_set1_ps(scales[2 * b]));
        _mm256_store_ps(ret->lanes[b] + 8, _mm256_set1_ps(scales[2 * b + 1]));
    }
    uint32_t ratio = w->group / 32, n_groups = w->columns / w->group;
    for (uint32_t g = 0; g < n_groups; g++) {
        float sum = 0;
        for (uint32_t i = g * ratio; i < (g + 1) * ratio; i++) {
            sum += scales[i] * (float)sums[i];
        }
        ret->corrections[g] = -zero * sum;
    }
}

/* Rows [n, n + rows) where activations have groups of 32 and weights groups of 64 * blocks (0: any
 * multiple of 64). The activations' scales are in the lanes already and the weights' scale is
 * applied once a group, so that 64 weights cost one conversion and one multiplication. */
INLINE void gemv_lanes(const ofr_cpu_matrix *w, enum ofr_dtype dtype, uint32_t blocks,
                       const lane_scales *scales, const int8_t *values, size_t n, uint32_t rows,
                       float *y)
{
    size_t row_bytes = dtype == OFR_DTYPE_I4 ? w->columns / 2 : w->columns;
    size_t step = dtype == OFR_DTYPE_I4 ? 32 : 64;
    uint32_t per_group = blocks ? blocks : w->group / 64, n_groups = w->columns / w->group;
    const uint8_t *data = w->data + n * row_bytes;
    const uint16_t *own = w->scales + n * n_groups;
    size_t ahead = prefetch_distance(row_bytes);
    __m512 total[4];
    for (uint32_t r = 0; r < rows; r++) {
        total[r] = _mm512_setzero_ps();
    }
    for (uint32_t g0 = 0; g0 < n_groups; g0 += 16) {
        _Alignas(64) float own_scales[4][16];
        uint32_t count = n_groups - g0 < 16 ? n_groups - g0 : 16;
        for (uint32_t r = 0; r < rows; r++) {
            __m512 s = load_half16(own + (size_t)r * n_groups + g0, tail16(count));
            _mm512_store_ps(own_scales[r], s);
            total[r] = _mm512_fmadd_ps(
                s, _mm512_maskz_loadu_ps(tail16(count), scales->corrections + g0), total[r]);
        }
        for (uint32_t g = 0; g < count; g++) {
            __m512 sum[4] = {0};
            for (uint32_t i = 0; i < per_group; i++) {
                size_t b = (size_t)(g0 + g) * per_group + i;
                __m512i x = _mm512_loadu_si512(values + 64 * b);
                __m512 lanes = _mm512_load_ps(scales->lanes[b]);
                for (uint32_t r = 0; r < rows; r++) {
                    const uint8_t *p = data + r * row_bytes;
                    _mm_prefetch((const char *)(p + ahead + b * step), _MM_HINT_T0);
                    __m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(),
                                                      load64(dtype, p, 64 * b, true, false), x);
                    __m512 value = _mm512_cvtepi32_ps(dot);
                    sum[r] = i == 0 ? _mm512_mul_ps(value, lanes)
                                    : _mm512_fmadd_ps(value, lanes, sum[r]);
                }
            }
            for (uint32_t r = 0; r < rows; r++) {
                total[r] = _mm512_fmadd_ps(sum[r], _mm512_set1_ps(own_scales[r][g]), total[r]);
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        y[r] = _mm512_reduce_add_ps(total[r]);
    }
}

INLINE void gemv_lanes_all(const ofr_cpu_matrix *w, enum ofr_dtype dtype, uint32_t blocks,
                           const lane_scales *scales, const int8_t *values, uint32_t begin,
                           uint32_t end, float *y)
{
    uint32_t n = begin;
    /* INT8 rows are read as fast as memory gives them, and memory gives one stream faster than
     * four; INT4 rows are bound by arithmetic, and four share their activations. */
    for (; dtype == OFR_DTYPE_I4 && n + 4 <= end; n += 4) {
        gemv_lanes(w, dtype, blocks, scales, values, n, 4, y + (n - begin));
    }
    for (; n < end; n++) {
        gemv_lanes(w, dtype, blocks, scales, values, n, 1, y + (n - begin));
    }
}

static void gemv_wide(const ofr_cpu_matrix *w, const ofr_cpu_activations *a, size_t row,
                      uint32_t begin, uint32_t end, float *y)
{
    lane_scales scales;
    spread_scales(w, a, row, w->dtype == OFR_DTYPE_I4 ? 8 : 128, &scales);
    const int8_t *values = a->values + row * a->value_stride;
    if (w->dtype == OFR_DTYPE_I4 && w->group == 64) {
        gemv_lanes_all(w, OFR_DTYPE_I4, 1, &scales, values, begin, end, y);
    } else if (w->dtype == OFR_DTYPE_I4 && w->group == 128) {
        gemv_lanes_all(w, OFR_DTYPE_I4, 2, &scales, values, begin, end, y);
    } else if (w->dtype == OFR_DTYPE_I4) {
        gemv_lanes_all(w, OFR_DTYPE_I4, 0, &scales, values, begin, end, y);
    } else if (w->group == 64) {
        gemv_lanes_all(w, OFR_DTYPE_I8, 1, &scales, values, begin, end, y);
    } else {
        gemv_lanes_all(w, OFR_DTYPE_I8, 0, &scales, values, begin, end, y);
    }
}

static void gemv(const ofr_cpu_matrix *w, const ofr_cpu_activations *a, size_t row, uint32_t begin,
                 uint32_t end, float *y)
{
    if (a->group == 32 && w->group % 64 == 0 && w->columns <= LANE_COLUMNS_MAX) {
        gemv_wide(w, a, row, begin, end, y);
        return;
    }
    if (w->dtype == OFR_DTYPE_I4) {
        switch (a->group) {
        case 128:
            gemv_all(w, OFR_DTYPE_I4, 128, a, row, begin, end, y);
            return;
        case 64:
            gemv_all(w, OFR_DTYPE_I4, 64, a, row, begin, end, y);
            return;
        default:
            gemv_all(w, OFR_DTYPE_I4, 32, a, row, begin, end, y);
            return;
        }
    }
    switch (a->group) {
    case 128:
        gemv_all(w, OFR_DTYPE_I8, 128, a, row, begin, end, y);
        return;
    case 64:
        gemv_all(w, OFR_DTYPE_I8, 64, a, row, begin, end, y);
        return;
    default:
        gemv_all(w, OFR_DTYPE_I8, 32, a, row, begin, end, y);
        return;
    }
}

static void gemm_pack(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n, const ofr_cpu_tile *tile)
{
    bool i4 = w->dtype == OFR_DTYPE_I4;
    size_t row_bytes = i4 ? w->columns / 2 : w->columns;
    uint32_t words = w->activation_group < 64 ? 4 : 8; /* 32-bit words of an i4 block of a row */
    const __m512i low = _mm512_set1_epi8(15), bias = _mm512_set1_epi8((char)tile->zero);
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t left = n > half * 16 ? n - half * 16 : 0;
        __mmask16 mask = tail16(left);
        const uint8_t *data = w->data + (size_t)(begin + (left > 0 ? half * 16 : 0)) * row_bytes;
        /* Distances between rows in units of 4 bytes: rows are multiples of 16 bytes. */
        __m512i rows = _mm512_mullo_epi32(
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            _mm512_set1_epi32((int)(row_bytes / 4)));
        uint8_t *out = tile->values + half * 64;
        for (uint32_t i = 0; i < row_bytes / 4; i++) {
            __m512i x = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, rows,
                                                    data + (size_t)i * 4, 4);
            if (i4) {
                size_t quad = (size_t)(i / words) * words * 2 + i % words;
                __m512i even = _mm512_ternarylogic_epi32(x, low, bias, 0x6a);
                __m512i odd = _mm512_ternarylogic_epi32(_mm512_srli_epi32(x, 4), low, bias, 0x6a);
                _mm512_store_si512(out + quad * (4 * OFR_CPU_TILE_ROWS), even);
                _mm512_store_si512(out + (quad + words) * (4 * OFR_CPU_TILE_ROWS), odd);
            } else {
                _mm512_store_si512(out + (size_t)i * (4 * OFR_CPU_TILE_ROWS),
                                   _mm512_xor_si512(x, bias));
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

/* `n` tokens (a constant where inlined) against the 32 rows of a tile. The integer sums of a group
 * stay in registers; the fp32 sums live in y, which is touched once per group. */
INLINE void tile_tokens(const ofr_cpu_tile *tile, const ofr_cpu_activations *a, size_t row,
                        uint32_t n, float *y)
{
    const int8_t *values = a->values + row * a->value_stride;
    const float *scales = a->scales + row * a->group_stride;
    const int32_t *sums = a->sums + row * a->group_stride;
    uint32_t quads = a->group / 4;
    const uint8_t *w = tile->values;
    for (uint32_t t = 0; t < n; t++) {
        _mm512_storeu_ps(y + t * OFR_CPU_TILE_ROWS, _mm512_setzero_ps());
        _mm512_storeu_ps(y + t * OFR_CPU_TILE_ROWS + 16, _mm512_setzero_ps());
    }
    for (uint32_t g = 0; g < a->n_groups; g++) {
        __m512i sum[OFR_CPU_TILE_TOKENS][2];
        for (uint32_t t = 0; t < n; t++) {
            sum[t][0] = sum[t][1] = _mm512_set1_epi32(-tile->zero * sums[t * a->group_stride + g]);
        }
        const int8_t *x = values + (size_t)g * a->group;
        for (uint32_t q = 0; q < quads; q++, w += 4 * OFR_CPU_TILE_ROWS) {
            __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);
            for (uint32_t t = 0; t < n; t++) {
                int32_t four;
                memcpy(&four, x + t * a->value_stride + 4 * q, sizeof four);
                __m512i each = _mm512_set1_epi32(four);
                sum[t][0] = _mm512_dpbusd_epi32(sum[t][0], w0, each);
                sum[t][1] = _mm512_dpbusd_epi32(sum[t][1], w1, each);
            }
        }
        __m512 s0 = _mm512_load_ps(tile->scales + g * OFR_CPU_TILE_ROWS);
        __m512 s1 = _mm512_load_ps(tile->scales + g * OFR_CPU_TILE_ROWS + 16);
        for (uint32_t t = 0; t < n; t++) {
            float *out = y + t * OFR_CPU_TILE_ROWS;
            __m512 s = _mm512_set1_ps(scales[t * a->group_stride + g]);
            __m512 y0 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][0]), _mm512_mul_ps(s, s0),
                                        _mm512_loadu_ps(out));
            __m512 y1 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][1]), _mm512_mul_ps(s, s1),
                                        _mm512_loadu_ps(out + 16));
            _mm512_storeu_ps(out, y0);
            _mm512_storeu_ps(out + 16, y1);
        }
    }
}

static void gemm_tile(const ofr_cpu_tile *tile, const ofr_cpu_activations *a, size_t row,
                      uint32_t n_tokens, float *y)
{
    uint32_t t = 0;
    for (; t + 8 <= n_tokens; t += 8) {
        tile_tokens(tile, a, row + t, 8, y + t * OFR_CPU_TILE_ROWS);
    }
    for (; t + 4 <= n_tokens; t += 4) {
        tile_tokens(tile, a, row + t, 4, y + t * OFR_CPU_TILE_ROWS);
    }
    for (; t + 2 <= n_tokens; t += 2) {
        tile_tokens(tile, a, row + t, 2, y + t * OFR_CPU_TILE_ROWS);
    }
    for (; t < n_tokens; t++) {
        tile_tokens(tile, a, row + t, 1, y + t * OFR_CPU_TILE_ROWS);
    }
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

static void transpose_keys(const uint16_t *k, size_t k_stride, uint32_t n_keys, uint32_t head_dim,
                           float *y)
{
    for (uint32_t j = 0; j < OFR_CPU_KEY_BLOCK; j += 16) {
        __mmask16 mask = n_keys > j ? tail16(n_keys - j) : 0;
        const uint16_t *base = k + (mask != 0 ? j * k_stride : 0);
        __m512i rows = _mm512_mullo_epi32(
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            _mm512_set1_epi32((int)k_stride));
        for (uint32_t i = 0; i < head_dim; i += 2) { /* head_dim is even */
            __m512i pair =
                _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, rows, base + i, 2);
            float *out = y + (size_t)i * OFR_CPU_KEY_BLOCK + j;
            _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pair)));
            _mm512_storeu_ps(out + OFR_CPU_KEY_BLOCK,
                             _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pair, 16))));
        }
    }
}

/* `n` heads (a constant where inlined) against each key. */
INLINE void score_heads(const float *q, size_t q_stride, uint32_t n, const uint16_t *k,
                        size_t k_stride, uint32_t n_keys, uint32_t head_dim, float *scores)
{
    for (uint32_t j = 0; j < n_keys; j++) {
        __m512 sum[4];
        for (uint32_t h = 0; h < n; h++) {
            sum[h] = _mm512_setzero_ps();
        }
        for (uint32_t i = 0; i < head_dim; i += 16) {
            __mmask16 mask = tail16(head_dim - i);
            __m512 key = load_half16(k + j * k_stride + i, mask);
            for (uint32_t h = 0; h < n; h++) {
                sum[h] =
                    _mm512_fmadd_ps(key, _mm512_maskz_loadu_ps(mask, q + h * q_stride + i), sum[h]);
            }
        }
        for (uint32_t h = 0; h < n; h++) {
            scores[h * OFR_CPU_KEY_BLOCK + j] = _mm512_reduce_add_ps(sum[h]);
        }
    }
}

static void attention_scores(const float *q, size_t q_stride, uint32_t n_heads, const uint16_t *k,
                             size_t k_stride, uint32_t n_keys, uint32_t head_dim, float *scores)
{
    uint32_t h = 0;
    for (; h + 4 <= n_heads; h += 4) {
        score_heads(q + h * q_stride, q_stride, 4, k, k_stride, n_keys, head_dim,
                    scores + h * OFR_CPU_KEY_BLOCK);
    }
    q += h * q_stride;
    scores += h * OFR_CPU_KEY_BLOCK;
    switch (n_heads - h) {
    case 3:
        score_heads(q, q_stride, 3, k, k_stride, n_keys, head_dim, scores);
        break;
    case 2:
        score_heads(q, q_stride, 2, k, k_stride, n_keys, head_dim, scores);
        break;
    case 1:
        score_heads(q, q_stride, 1, k, k_stride, n_keys, head_dim, scores);
        break;
    default:
        break;
    }
}

INLINE void value_heads(const float *weights, uint32_t n, const uint16_t *v, size_t v_stride,
                        uint32_t n_keys, uint32_t head_dim, float *out)
{
    for (uint32_t i = 0; i < head_dim; i += 32) {
        __mmask16 m0 = tail16(head_dim - i);
        __mmask16 m1 = head_dim > i + 16 ? tail16(head_dim - i - 16) : 0;
        __m512 sum[4][2];
        for (uint32_t h = 0; h < n; h++) {
            sum[h][0] = _mm512_maskz_loadu_ps(m0, out + h * head_dim + i);
            sum[h][1] = _mm512_maskz_loadu_ps(m1, out + h * head_dim + i + 16);
        }
        for (uint32_t j = 0; j < n_keys; j++) {
            __m512 v0 = load_half16(v + j * v_stride + i, m0);
            __m512 v1 = load_half16(v + j * v_stride + i + 16, m1);
            for (uint32_t h = 0; h < n; h++) {
                __m512 weight = _mm512_set1_ps(weights[h * OFR_CPU_KEY_BLOCK + j]);
                sum[h][0] = _mm512_fmadd_ps(weight, v0, sum[h][0]);
                sum[h][1] = _mm512_fmadd_ps(weight, v1, sum[h][1]);
            }
        }
        for (uint32_t h = 0; h < n; h++) {
            _mm512_mask_storeu_ps(out + h * head_dim + i, m0, sum[h][0]);
            _mm512_mask_storeu_ps(out + h * head_dim + i + 16, m1, sum[h][1]);
        }
    }
}

static void attention_values(const float *weights, uint32_t n_heads, const uint16_t *v,
                             size_t v_stride, uint32_t n_keys, uint32_t head_dim, float *out)
{
    uint32_t h = 0;
    for (; h + 4 <= n_heads; h += 4) {
        value_heads(weights + h * OFR_CPU_KEY_BLOCK, 4, v, v_stride, n_keys, head_dim,
                    out + h * head_dim);
    }
    weights += h * OFR_CPU_KEY_BLOCK;
    out += h * head_dim;
    switch (n_heads - h) {
    case 3:
        value_heads(weights, 3, v, v_stride, n_keys, head_dim, out);
        break;
    case 2:
        value_heads(weights, 2, v, v_stride, n_keys, head_dim, out);
        break;
    case 1:
        value_heads(weights, 1, v, v_stride, n_keys, head_dim, out);
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

/* `rows` x (16 * vectors) of c, both constants where inlined. */
INLINE void matmul_block(const float *a, size_t a_stride, const float *b, size_t b_stride, float *c,
                         size_t c_stride, uint32_t rows, uint32_t vectors, uint32_t depth)
{
    __m512 sum[6][4];
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t v = 0; v < vectors; v++) {
            sum[r][v] = _mm512_loadu_ps(c + r * c_stride + 16 * v);
        }
    }
    for (uint32_t k = 0; k < depth; k++) {
        __m512 row[4];
        for (uint32_t v = 0; v < vectors; v++) {
            row[v] = _mm512_loadu_ps(b + k * b_stride + 16 * v);
        }
        for (uint32_t r = 0; r < rows; r++) {
            __m512 factor = _mm512_set1_ps(a[r * a_stride + k]);
            for (uint32_t v = 0; v < vectors; v++) {
                sum[r][v] = _mm512_fmadd_ps(factor, row[v], sum[r][v]);
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t v = 0; v < vectors; v++) {
            _mm512_storeu_ps(c + r * c_stride + 16 * v, sum[r][v]);
        }
    }
}

INLINE void matmul_columns(const float *a, size_t a_stride, const float *b, size_t b_stride,
                           float *c, size_t c_stride, uint32_t rows, uint32_t vectors,
                           uint32_t depth)
{
    uint32_t r = 0;
    for (; r + 6 <= rows; r += 6) {
        matmul_block(a + r * a_stride, a_stride, b, b_stride, c + r * c_stride, c_stride, 6,
                     vectors, depth);
    }
    for (; r + 2 <= rows; r += 2) {
        matmul_block(a + r * a_stride, a_stride, b, b_stride, c + r * c_stride, c_stride, 2,
                     vectors, depth);
    }
    for (; r < rows; r++) {
        matmul_block(a + r * a_stride, a_stride, b, b_stride, c + r * c_stride, c_stride, 1,
                     vectors, depth);
    }
}

static void matmul(const float *a, size_t a_stride, const float *b, size_t b_stride, float *c,
                   size_t c_stride, uint32_t rows, uint32_t columns, uint32_t depth)
{
    uint32_t i = 0;
    for (; i + 64 <= columns; i += 64) {
        matmul_columns(a, a_stride, b + i, b_stride, c + i, c_stride, rows, 4, depth);
    }
    for (; i < columns; i += 16) {
        matmul_columns(a, a_stride, b + i, b_stride, c + i, c_stride, rows, 1, depth);
    }
}

static const ofr_cpu_kernels table = {
    .name = "avx512-vnni",
    .supported = supported,
    .quantize = quantize,
    .gemv = gemv,
    .gemm_pack = gemm_pack,
    .gemm_tile = gemm_tile,
    .dot_f32 = dot_f32,
    .dot_f16 = dot_f16,
    .rms_norm = rms_norm,
    .swiglu = swiglu,
    .float_to_half = float_to_half,
    .half_to_float = half_to_float,
    .transpose_keys = transpose_keys,
    .attention_scores = attention_scores,
    .attention_values = attention_values,
    .exp_sum = exp_sum,
    .maximum = maximum_of,
    .scale = scale,
    .matmul = matmul,
};

const ofr_cpu_kernels *ofr_cpu_kernels_avx512vnni(void)
{
    return &table;
}
