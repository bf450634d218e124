/* The bodies of the 256-bit kernels, included once by each file that compiles them for its
 * instruction set. The including file defines before:
 *   step_unsigned(sum, u, s)  adds the products of unsigned u (at most 15) and signed s; at most 8
 *                             steps may follow one another before
 *   widen(sum)                turns such a sum, begun at zero, into 32-bit lanes;
 *   dot_nibbles(sum, u0, u1, s0, s1)
 *                             adds the products of u0 and s0 and of u1 and s1 (u at most 15) to
 *                             32-bit lanes;
 *   step_i8(sum, u, s)        adds products of (u - 128 + I8_ZERO) and s to 32-bit lanes;
 *   I8_ZERO                   the zero point that is still to be corrected for i8;
 *   TILE_TOKENS               tokens that a gemm takes at once: 2 sums for each, in registers. */
#ifndef OFR_BACKEND_CPU_KERNELS_YMM_H
#define OFR_BACKEND_CPU_KERNELS_YMM_H

#include <string.h>

#include "backend/cpu/kernels_ymm_float.h"

enum {
    GEMV_COLUMNS = 16384, /* columns whose inputs a gemv spreads on the stack at once */
    SCALES_AT_ONCE = 64,  /* weight scales of a row that a gemv widens at once */
    GROUP_OF_ROW = 1,     /* in place of a group size: one scale for a row */
    QUADS = OFR_CPU_ACTIVATION_GROUP / 4,
    SLICE = 512, /* columns: 32 rows of them, as bytes, stay in the first-level cache */
};

static void quantize(const float *x, const ofr_cpu_activations *a, size_t row)
{
    const __m128i pairs = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256 sign = _mm256_set1_ps(-0.0f);
    int8_t *values = a->values + row * a->value_stride;
    float *scales = a->scales + row * a->group_stride;
    float *sums = a->sums + row * a->group_stride;
    if (a->split) {
        memset(values, 0, a->value_stride); /* the padding of both halves of the last block */
    }
    for (uint32_t g = 0; g < a->n_groups; g++) {
        const float *group = x + (size_t)g * OFR_CPU_ACTIVATION_GROUP;
        __m256 largest = _mm256_setzero_ps();
        for (uint32_t i = 0; i < OFR_CPU_ACTIVATION_GROUP; i += 8) {
            largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, _mm256_loadu_ps(group + i)));
        }
        float top = max_lanes(largest);
        __m256 inverse = _mm256_set1_ps(top > OFR_CPU_SCALE_TINY ? 127 / top : 0);
        __m256i total = _mm256_setzero_si256();
        int8_t *out = values + ofr_cpu_group_offset(a, g);
        for (uint32_t i = 0; i < OFR_CPU_ACTIVATION_GROUP; i += 16) {
            __m256i q0 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(group + i), inverse));
            __m256i q1 = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(group + i + 8), inverse));
            total = _mm256_add_epi32(total, _mm256_add_epi32(q0, q1));
            __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(q0, q1), 0xd8);
            __m128i bytes =
                _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
            if (a->split) {
                bytes = _mm_shuffle_epi8(bytes, pairs);
                _mm_storel_epi64((void *)(out + i / 2), bytes);
                _mm_storel_epi64((void *)(out + i / 2 + OFR_CPU_SPLIT_BLOCK / 2),
                                 _mm_srli_si128(bytes, 8));
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
        sums[g] = scales[g] * (float)sum;
    }
    size_t groups = a->group_stride - a->n_groups;
    memset(scales + a->n_groups, 0, groups * sizeof *scales);
    memset(sums + a->n_groups, 0, groups * sizeof *sums);
    if (!a->split) {
        memset(values + a->columns, 0, a->value_stride - a->columns);
    }
}

/* What a gemv needs of the activations, the same for all rows: for each vector of weights, 64 of i4
 * or 32 of i8, the scales over its eight lanes, and the zero point's part of each lane. */
typedef struct gemv_inputs {
    _Alignas(32) float scales[GEMV_COLUMNS / 32][8];
    _Alignas(32) int32_t offsets[GEMV_COLUMNS / 32][8];
    _Alignas(32) float sums[GEMV_COLUMNS / 32];      /* of each group, for weights with minima */
    _Alignas(32) float zeros[GEMV_COLUMNS / 64 + 8]; /* what the zero point adds to each group of
                                                        i4 weights, times its scale; 0 behind */
} gemv_inputs;

/* The even and the odd activations of i4 vector b. */
INLINE const int8_t *split_at(const int8_t *values, uint32_t b)
{
    return values + (size_t)(b / 2) * OFR_CPU_SPLIT_BLOCK + b % 2 * 32;
}

INLINE void spread_inputs(enum ofr_dtype dtype, bool minima, const int8_t *values,
                          const float *scales, const float *sums, uint32_t columns,
                          gemv_inputs *ret)
{
    const __m256i zero = _mm256_setzero_si256();
    for (uint32_t g = 0; minima && g < columns / OFR_CPU_ACTIVATION_GROUP; g += 8) {
        _mm256_store_ps(ret->sums + g, _mm256_loadu_ps(sums + g));
    }
    if (dtype == OFR_DTYPE_I4) {
        const __m256i bias = _mm256_set1_epi8(minima ? 0 : 8);
        for (uint32_t b = 0; b * 64 < columns; b++) {
            const int8_t *x = split_at(values, b);
            __m256i sum = step_unsigned(zero, bias, _mm256_loadu_si256((const void *)x));
            sum = step_unsigned(sum, bias, _mm256_loadu_si256((const void *)(x + 64)));
            _mm_store_ps(ret->scales[b], _mm_set1_ps(scales[2 * b]));
            _mm_store_ps(ret->scales[b] + 4, _mm_set1_ps(scales[2 * b + 1]));
            _mm256_store_si256((void *)ret->offsets[b], _mm256_sub_epi32(zero, widen(sum)));
        }
        return;
    }
    for (uint32_t b = 0; b * 32 < columns; b++) {
        /* weights of 0 are unsigned 128: what is left of them is what must go */
        __m256i sum = step_i8(zero, _mm256_set1_epi8(-128),
                              _mm256_loadu_si256((const void *)(values + 32 * b)));
        _mm256_store_ps(ret->scales[b], _mm256_set1_ps(scales[b]));
        _mm256_store_si256((void *)ret->offsets[b], _mm256_sub_epi32(zero, sum));
    }
}

/* A vector of a row times the activations of its columns: 64 i4 or 32 i8. */
INLINE __m256i dot_vector(enum ofr_dtype dtype, __m256i x, __m256i offset, const int8_t *values)
{
    if (dtype == OFR_DTYPE_I8) {
        return step_i8(offset, _mm256_xor_si256(x, _mm256_set1_epi8(-128)),
                       _mm256_loadu_si256((const void *)values));
    }
    const __m256i low = _mm256_set1_epi8(15);
    x = _mm256_xor_si256(x, _mm256_set1_epi8((char)0x88));
    __m256i even = _mm256_and_si256(x, low);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
    return dot_nibbles(offset, even, odd, _mm256_loadu_si256((const void *)values),
                       _mm256_loadu_si256((const void *)(values + OFR_CPU_SPLIT_BLOCK / 2)));
}

/* Columns [first, first + columns) of `rows` rows from n on; dtype, group and rows are constants
 * where this is inlined. group: 32, 64 or more (any multiple of 64), GROUP_OF_ROW, or 0: any other.
 */
INLINE void gemv_rows(const ofr_cpu_matrix *w, enum ofr_dtype dtype, uint32_t group,
                      const gemv_inputs *inputs, const int8_t *values, uint32_t first,
                      uint32_t columns, size_t n, uint32_t rows, float *y)
{
    const uint32_t width = dtype == OFR_DTYPE_I4 ? 64 : 32;
    size_t row_bytes = dtype == OFR_DTYPE_I4 ? w->columns / 2 : w->columns;
    size_t row_scales = w->columns / w->group;
    const uint8_t *data = w->data + n * row_bytes + (size_t)first * 32 / width;
    const uint16_t *own = w->scales + n * row_scales;
    const uint8_t *ahead = ofr_cpu_ahead(data, rows * row_bytes);
    uint32_t vectors = (columns + width - 1) / width;
    float s[4][SCALES_AT_ONCE];
    __m256 total[4];
    for (uint32_t r = 0; r < rows; r++) {
        total[r] = _mm256_setzero_ps();
    }
    /* vectors that SCALES_AT_ONCE weight scales are enough for */
    const uint32_t window = group > 1 ? SCALES_AT_ONCE * group / width : vectors;
    for (uint32_t b0 = 0; b0 < vectors; b0 += window) {
        uint32_t end = vectors - b0 < window ? vectors : b0 + window;
        for (uint32_t r = 0; r < rows && group > 1; r++) {
            size_t at = (first + b0 * width) / group, left = row_scales - at;
            for (uint32_t i = 0; i < SCALES_AT_ONCE && i < left; i += 8) {
                _mm256_storeu_ps(s[r] + i, load_halves(own + r * row_scales + at + i, left - i));
                uint32_t g = b0 * width / 32 + i; /* of these columns */
                if (group == 32 && w->minima != NULL && g < columns / 32) {
                    const uint16_t *from = w->minima + (n + r) * row_scales + at + i;
                    total[r] = _mm256_fmadd_ps(load_halves(from, columns / 32 - g),
                                               _mm256_load_ps(inputs->sums + g), total[r]);
                }
            }
        }
        for (uint32_t b = b0; b < end; b++) {
            const int8_t *x = dtype == OFR_DTYPE_I4 ? split_at(values, b) : values + 32 * b;
            __m256i offset = _mm256_load_si256((const void *)inputs->offsets[b]);
            __m256 lanes = _mm256_load_ps(inputs->scales[b]);
            uint32_t column = first + b * width;
            bool tail = dtype == OFR_DTYPE_I4 && column + 32 == w->columns;
            for (uint32_t r = 0; r < rows; r++) {
                const uint8_t *p = data + r * row_bytes + (size_t)b * 32;
                _mm_prefetch((const char *)(ahead + (b * rows + r) * 32), _MM_HINT_T1);
                __m256i raw = tail ? _mm256_zextsi128_si256(_mm_loadu_si128((const void *)p))
                                   : _mm256_loadu_si256((const void *)p);
                __m256 dot = _mm256_cvtepi32_ps(dot_vector(dtype, raw, offset, x));
                if (group == GROUP_OF_ROW) {
                    total[r] = _mm256_fmadd_ps(dot, lanes, total[r]);
                    continue;
                }
                __m256 scale;
                if (group >= width) {
                    scale = _mm256_set1_ps(s[r][(b - b0) / (group / width)]);
                } else if (group > 1) { /* 32 of 64 columns */
                    __m128 low = _mm_set1_ps(s[r][2 * (b - b0)]);
                    scale = _mm256_set_m128(_mm_set1_ps(s[r][2 * (b - b0) + 1]), low);
                } else {
                    const uint16_t *scales = own + r * row_scales;
                    uint32_t second = tail || width == 32 ? column : column + 32;
                    scale = _mm256_set_m128(_mm_set1_ps(_cvtsh_ss(scales[second / w->group])),
                                            _mm_set1_ps(_cvtsh_ss(scales[column / w->group])));
                }
                total[r] = _mm256_fmadd_ps(_mm256_mul_ps(dot, lanes), scale, total[r]);
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        float sum = add_lanes(total[r]);
        y[r] += group == GROUP_OF_ROW ? sum * _cvtsh_ss(own[r]) : sum;
    }
}

/* Columns [first, first + columns) of `rows` rows of i4 from n on, in groups of `group` (64 or 128;
 * a constant where inlined, as rows). The zero point is corrected by one sum over the row's scales.
 */
INLINE void gemv_nibbles(const ofr_cpu_matrix *w, uint32_t group, const gemv_inputs *inputs,
                         const int8_t *values, uint32_t first, uint32_t columns, size_t n,
                         uint32_t rows, float *y)
{
    const uint32_t per_group = group / 64; /* vectors */
    const __m256i low = _mm256_set1_epi8(15), flip = _mm256_set1_epi8((char)0x88);
    size_t row_bytes = w->columns / 2, row_scales = w->columns / group;
    const uint8_t *data = w->data + n * row_bytes + first / 2;
    const uint16_t *own = w->scales + n * row_scales + first / group;
    const uint8_t *ahead = ofr_cpu_ahead(data, rows * row_bytes);
    uint32_t n_groups = columns / group;
    float s[4][SCALES_AT_ONCE];
    __m256 total[4];
    for (uint32_t r = 0; r < rows; r++) {
        total[r] = _mm256_setzero_ps();
    }
    for (uint32_t g0 = 0; g0 < n_groups; g0 += SCALES_AT_ONCE) {
        uint32_t count = n_groups - g0 < SCALES_AT_ONCE ? n_groups - g0 : SCALES_AT_ONCE;
        for (uint32_t r = 0; r < rows; r++) {
            for (uint32_t i = 0; i < count; i += 8) {
                __m256 scales = load_halves(own + r * row_scales + g0 + i, count - i);
                _mm256_storeu_ps(s[r] + i, scales);
                total[r] =
                    _mm256_fmadd_ps(scales, _mm256_load_ps(inputs->zeros + g0 + i), total[r]);
            }
        }
        for (uint32_t g = 0; g < count; g++) {
            __m256 part[4];
#pragma GCC unroll 2
            for (uint32_t v = 0; v < per_group; v++) {
                uint32_t b = (g0 + g) * per_group + v;
                const int8_t *x = split_at(values, b);
                __m256i even = _mm256_loadu_si256((const void *)x);
                __m256i odd = _mm256_loadu_si256((const void *)(x + OFR_CPU_SPLIT_BLOCK / 2));
                __m256 lanes = _mm256_load_ps(inputs->scales[b]);
#pragma GCC unroll 4
                for (uint32_t r = 0; r < rows; r++) {
                    const uint8_t *from = data + r * row_bytes + (size_t)b * 32;
                    if (v == 0) { /* a line of 64 bytes is two vectors */
                        _mm_prefetch((const char *)(ahead + ((g0 + g) * rows + r) * (group / 2)),
                                     _MM_HINT_T1);
                    }
                    __m256i raw = _mm256_xor_si256(_mm256_loadu_si256((const void *)from), flip);
                    __m256i dot =
                        dot_nibbles(_mm256_setzero_si256(), _mm256_and_si256(raw, low),
                                    _mm256_and_si256(_mm256_srli_epi16(raw, 4), low), even, odd);
                    __m256 sum = _mm256_cvtepi32_ps(dot);
                    part[r] =
                        v == 0 ? _mm256_mul_ps(sum, lanes) : _mm256_fmadd_ps(sum, lanes, part[r]);
                }
            }
            for (uint32_t r = 0; r < rows; r++) {
                total[r] = _mm256_fmadd_ps(part[r], _mm256_set1_ps(s[r][g]), total[r]);
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        y[r] += add_lanes(total[r]);
    }
}

/* What gemv_nibbles needs. */
INLINE void spread_zeros(uint32_t group, const float *sums, uint32_t columns, gemv_inputs *ret)
{
    uint32_t n = columns / group, ratio = group / OFR_CPU_ACTIVATION_GROUP;
    for (uint32_t g = 0; g < n; g++) {
        float sum = 0;
        for (uint32_t i = 0; i < ratio; i++) {
            sum += sums[g * ratio + i];
        }
        ret->zeros[g] = -8 * sum;
    }
    memset(ret->zeros + n, 0, 8 * sizeof *ret->zeros);
}

INLINE void gemv_group(const ofr_cpu_matrix *w, enum ofr_dtype dtype, uint32_t group,
                       const ofr_cpu_activations *a, size_t row, uint32_t begin, uint32_t end,
                       float *y)
{
    const int8_t *values = a->values + row * a->value_stride;
    const float *scales = a->scales + row * a->group_stride;
    const float *sums = a->sums + row * a->group_stride;
    gemv_inputs inputs;
    memset(y, 0, (end - begin) * sizeof *y);
    for (uint32_t first = 0; first < w->columns; first += GEMV_COLUMNS) {
        uint32_t left = w->columns - first, columns = left < GEMV_COLUMNS ? left : GEMV_COLUMNS;
        size_t group0 = first / OFR_CPU_ACTIVATION_GROUP;
        spread_inputs(dtype, w->minima != NULL, values + first, scales + group0, sums + group0,
                      columns, &inputs);
        uint32_t n = begin;
        if (dtype == OFR_DTYPE_I4 && (group == 64 || group == 128)) {
            spread_zeros(group, sums + group0, columns, &inputs);
            for (; n + 4 <= end; n += 4) {
                gemv_nibbles(w, group, &inputs, values + first, first, columns, n, 4,
                             y + (n - begin));
            }
            for (; n < end; n++) {
                gemv_nibbles(w, group, &inputs, values + first, first, columns, n, 1,
                             y + (n - begin));
            }
            continue;
        }
        for (; n + 4 <= end; n += 4) {
            gemv_rows(w, dtype, group, &inputs, values + first, first, columns, n, 4,
                      y + (n - begin));
        }
        for (; n < end; n++) {
            gemv_rows(w, dtype, group, &inputs, values + first, first, columns, n, 1,
                      y + (n - begin));
        }
    }
}

INLINE void gemv_type(const ofr_cpu_matrix *w, enum ofr_dtype dtype, const ofr_cpu_activations *a,
                      size_t row, uint32_t begin, uint32_t end, float *y)
{
    if (w->group == w->columns && w->minima == NULL) {
        gemv_group(w, dtype, GROUP_OF_ROW, a, row, begin, end, y);
    } else if (w->group == 128) {
        gemv_group(w, dtype, 128, a, row, begin, end, y);
    } else if (w->group == 64) {
        gemv_group(w, dtype, 64, a, row, begin, end, y);
    } else if (w->group == 32) {
        gemv_group(w, dtype, 32, a, row, begin, end, y);
    } else {
        gemv_group(w, dtype, 0, a, row, begin, end, y);
    }
}

static void gemv(const ofr_cpu_matrix *w, const ofr_cpu_activations *a, size_t row, uint32_t begin,
                 uint32_t end, float *y)
{
    if (w->dtype == OFR_DTYPE_I4) {
        gemv_type(w, OFR_DTYPE_I4, a, row, begin, end, y);
    } else {
        gemv_type(w, OFR_DTYPE_I8, a, row, begin, end, y);
    }
}

/* The slice of 32 rows that the int8 gemm has unpacked: unsigned bytes, 4 neighbours of the
 * activations' order at a time, group after group (of i4 the 16 even values, then the 16 odd ones):
 * [SLICE/4][GEMM_ROWS][4]. A 32-bit lane is then one row and needs no sum across lanes. */
typedef struct int8_tile {
    uint8_t *values;
    float *scales;       /* [SLICE/32][GEMM_ROWS], of each group of the weights */
    float *minima;       /* likewise; NULL: none */
    int32_t zero;        /* the zero point: 8, I8_ZERO, or 0 with minima */
    uint32_t ratio;      /* groups of activations to one of the weights */
    uint32_t first, end; /* groups of activations */
} int8_tile;

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

/* `bytes` (a multiple of 16) of 8 rows, which may be the same one, to 8 lanes of a tile. */
static void pack_rows(const uint8_t *const rows[8], size_t bytes, bool i4, uint8_t *to)
{
    enum { QUAD = 4 * OFR_CPU_GEMM_ROWS };
    const __m256i low = _mm256_set1_epi8(15), bias = _mm256_set1_epi8(i4 ? 8 : -128);
    for (size_t at = 0; at < bytes; at += 32) {
        bool half = bytes - at < 32;
        __m256i m[8];
#pragma GCC unroll 8
        for (int r = 0; r < 8; r++) {
            const uint8_t *p = rows[r] + at;
            m[r] = half ? _mm256_zextsi128_si256(_mm_loadu_si128((const void *)p))
                        : _mm256_loadu_si256((const void *)p);
        }
        transpose8(m);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            if (half && i >= 4) {
                break;
            }
            if (i4) { /* 16 bytes are a group: 4 quads of even values, 4 of odd ones */
                uint8_t *out = to + (at / 2 + (size_t)(i / 4 * 8 + i % 4)) * QUAD;
                __m256i even = _mm256_xor_si256(_mm256_and_si256(m[i], low), bias);
                __m256i odd =
                    _mm256_xor_si256(_mm256_and_si256(_mm256_srli_epi16(m[i], 4), low), bias);
                _mm256_store_si256((void *)out, even);
                _mm256_store_si256((void *)(out + 4 * QUAD), odd);
            } else {
                _mm256_store_si256((void *)(to + (at / 4 + (size_t)i) * QUAD),
                                   _mm256_xor_si256(m[i], bias));
            }
        }
    }
}

/* n_groups values of each row, row_values apart, as floats: [n_groups][GEMM_ROWS]; 0 behind the
 * rows. */
static void pack_scales(const uint16_t *from, size_t row_values, uint32_t rows, uint32_t n_groups,
                        float *to)
{
    for (uint32_t r = 0; r < OFR_CPU_GEMM_ROWS; r += 8) {
        for (uint32_t g = 0; g < n_groups; g += 8) {
            __m256i m[8];
            for (uint32_t i = 0; i < 8; i++) {
                m[i] = r + i < rows ? _mm256_castps_si256(load_halves(
                                          from + (r + i) * row_values + g, n_groups - g))
                                    : _mm256_setzero_si256();
            }
            transpose8(m);
            for (uint32_t i = 0; i < 8 && g + i < n_groups; i++) {
                _mm256_store_si256((void *)(to + (size_t)(g + i) * OFR_CPU_GEMM_ROWS + r), m[i]);
            }
        }
    }
}

/* Groups [tile->first, tile->end) of rows [begin, begin + n). */
static void gemm_pack(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n, const int8_tile *tile)
{
    bool i4 = w->dtype == OFR_DTYPE_I4;
    size_t row_bytes = i4 ? w->columns / 2 : w->columns;
    size_t group_bytes = i4 ? OFR_CPU_ACTIVATION_GROUP / 2 : OFR_CPU_ACTIVATION_GROUP;
    for (uint32_t r = 0; r < OFR_CPU_GEMM_ROWS; r += 8) {
        const uint8_t *rows[8];
        for (uint32_t i = 0; i < 8; i++) { /* in place of missing rows the last one, times 0 */
            size_t row = begin + (r + i < n ? r + i : n - 1);
            rows[i] = w->data + row * row_bytes + tile->first * group_bytes;
        }
        size_t bytes = (tile->end - tile->first) * group_bytes;
        if (i4) {
            pack_rows(rows, bytes, true, tile->values + (size_t)r * 4);
        } else {
            pack_rows(rows, bytes, false, tile->values + (size_t)r * 4);
        }
    }
    size_t row_scales = w->columns / w->group, first = tile->first / tile->ratio;
    uint32_t n_groups = (tile->end - 1) / tile->ratio + 1 - (uint32_t)first;
    pack_scales(w->scales + begin * row_scales + first, row_scales, n, n_groups, tile->scales);
    if (tile->minima != NULL) {
        pack_scales(w->minima + begin * row_scales + first, row_scales, n, n_groups, tile->minima);
    }
}

/* Where GCC 12 would move all products of a group before the first of their sums, and keep an
 * address for each of them, so that most of both lie on the stack. */
#define keep_in_registers(a, b) __asm__("" : "+x"(a), "+x"(b))
#define keep_address(p)         __asm__("" : "+r"(p))

/* One group of activations of `n` tokens (a constant where inlined) against 16 rows: products in
 * 32 bits, times the activations' scales, added to `part`. */
INLINE void tile_group(bool i4, const uint8_t *w, const int8_t *x, size_t x_stride,
                       const float *scales, size_t group_stride, uint32_t n,
                       __m256 part[TILE_TOKENS][2])
{
    const size_t odd = i4 ? OFR_CPU_SPLIT_BLOCK / 2 : OFR_CPU_ACTIVATION_GROUP / 2;
    const int8_t *from[TILE_TOKENS];
    __m256i sum[TILE_TOKENS][2];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < n; t++) {
        from[t] = x + t * x_stride;
        keep_address(from[t]);
        sum[t][0] = sum[t][1] = _mm256_setzero_si256();
    }
/* Unrolled: as a loop, GCC 12 moves every sum between two registers in each turn. */
#pragma GCC unroll 8
    for (uint32_t q = 0; q < QUADS; q++) {
        __m256i w0 = _mm256_load_si256((const void *)(w + q * (4 * OFR_CPU_GEMM_ROWS)));
        __m256i w1 = _mm256_load_si256((const void *)(w + q * (4 * OFR_CPU_GEMM_ROWS) + 32));
        size_t at = q < QUADS / 2 ? 4 * q : odd + 4 * (q - QUADS / 2);
#pragma GCC unroll 8
        for (uint32_t t = 0; t < n; t++) {
            int32_t four;
            memcpy(&four, from[t] + at, sizeof four);
            __m256i each = _mm256_set1_epi32(four);
            sum[t][0] = i4 ? step_unsigned(sum[t][0], w0, each) : step_i8(sum[t][0], w0, each);
            sum[t][1] = i4 ? step_unsigned(sum[t][1], w1, each) : step_i8(sum[t][1], w1, each);
            keep_in_registers(sum[t][0], sum[t][1]);
        }
    }
#pragma GCC unroll 8
    for (uint32_t t = 0; t < n; t++) {
        __m256 s = _mm256_set1_ps(scales[t * group_stride]);
        __m256i sum0 = i4 ? widen(sum[t][0]) : sum[t][0];
        __m256i sum1 = i4 ? widen(sum[t][1]) : sum[t][1];
        part[t][0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum0), s, part[t][0]);
        part[t][1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum1), s, part[t][1]);
    }
}

/* `n` tokens (a constant where inlined) against 16 rows of the tile from `row0` on. Sums of a group
 * of the weights are scaled once; those over the row live in y, where a later slice adds. */
INLINE void tile_tokens(const int8_tile *tile, bool i4, uint32_t row0, const ofr_cpu_activations *a,
                        size_t row, uint32_t n, float *y, size_t y_stride)
{
    const int8_t *values = a->values + row * a->value_stride;
    const float *scales = a->scales + row * a->group_stride;
    const float *sums = a->sums + row * a->group_stride;
    const uint8_t *w = tile->values + (size_t)row0 * 4;
    const float *own = tile->scales + row0;
    const float *minima = tile->minima != NULL ? tile->minima + row0 : NULL;
    for (uint32_t g = tile->first, next; g < tile->end; g = next) {
        next = (g / tile->ratio + 1) * tile->ratio;
        next = next < tile->end ? next : tile->end;
        __m256 part[TILE_TOKENS][2];
#pragma GCC unroll 8
        for (uint32_t t = 0; t < n; t++) {
            float sum = 0;
            for (uint32_t i = g; i < next; i++) {
                sum += sums[t * a->group_stride + i];
            }
            part[t][0] = part[t][1] = _mm256_set1_ps((float)-tile->zero * sum);
        }
        for (uint32_t i = g; i < next; i++) {
            tile_group(i4, w, values + ofr_cpu_group_offset(a, i), a->value_stride, scales + i,
                       a->group_stride, n, part);
            w += (size_t)OFR_CPU_ACTIVATION_GROUP * OFR_CPU_GEMM_ROWS;
        }
        __m256 s0 = _mm256_load_ps(own), s1 = _mm256_load_ps(own + 8);
#pragma GCC unroll 8
        for (uint32_t t = 0; t < n; t++) {
            float *out = y + t * y_stride;
            __m256 y0 = _mm256_setzero_ps(), y1 = y0;
            if (g > 0) {
                y0 = _mm256_loadu_ps(out);
                y1 = _mm256_loadu_ps(out + 8);
            }
            if (minima != NULL) { /* groups of 32, as those of the activations */
                __m256 sum = _mm256_set1_ps(sums[t * a->group_stride + g]);
                y0 = _mm256_fmadd_ps(sum, _mm256_load_ps(minima), y0);
                y1 = _mm256_fmadd_ps(sum, _mm256_load_ps(minima + 8), y1);
            }
            _mm256_storeu_ps(out, _mm256_fmadd_ps(part[t][0], s0, y0));
            _mm256_storeu_ps(out + 8, _mm256_fmadd_ps(part[t][1], s1, y1));
        }
        own += OFR_CPU_GEMM_ROWS;
        minima = minima != NULL ? minima + OFR_CPU_GEMM_ROWS : NULL;
    }
}

/* Parts of rows are too short for hardware prefetchers. Beyond the activations it does nothing. */
INLINE void prefetch_tokens(const int8_tile *tile, const ofr_cpu_activations *a, size_t row)
{
    const uint32_t line = 64;
    size_t first = (size_t)tile->first * OFR_CPU_ACTIVATION_GROUP;
    size_t bytes = (size_t)(tile->end - tile->first) * OFR_CPU_ACTIVATION_GROUP;
    for (uint32_t t = 0; t < TILE_TOKENS; t++) {
        const int8_t *values = a->values + (row + t) * a->value_stride + first;
        for (size_t i = 0; i < bytes; i += line) {
            _mm_prefetch((const char *)(values + i), _MM_HINT_T0);
        }
    }
}

INLINE void tile_all(const int8_tile *tile, bool i4, const ofr_cpu_activations *a,
                     uint32_t n_tokens, float *y, size_t y_stride)
{
    uint32_t t = 0;
    for (; t + TILE_TOKENS <= n_tokens; t += TILE_TOKENS) {
        prefetch_tokens(tile, a, t + TILE_TOKENS);
        for (uint32_t row = 0; row < OFR_CPU_GEMM_ROWS; row += 16) {
            tile_tokens(tile, i4, row, a, t, TILE_TOKENS, y + t * y_stride + row, y_stride);
        }
    }
    for (; t + 2 <= n_tokens; t += 2) {
        for (uint32_t row = 0; row < OFR_CPU_GEMM_ROWS; row += 16) {
            tile_tokens(tile, i4, row, a, t, 2, y + t * y_stride + row, y_stride);
        }
    }
    for (uint32_t row = 0; t < n_tokens && row < OFR_CPU_GEMM_ROWS; row += 16) {
        tile_tokens(tile, i4, row, a, t, 1, y + t * y_stride + row, y_stride);
    }
}

static size_t gemm_scratch(uint32_t columns, uint32_t n_tokens)
{
    (void)columns;
    (void)n_tokens;
    return (size_t)SLICE * OFR_CPU_GEMM_ROWS +
           2 * (size_t)SLICE / OFR_CPU_ACTIVATION_GROUP * OFR_CPU_GEMM_ROWS * sizeof(float);
}

/* Slice after slice of the columns, so that the tile stays in the first-level cache. */
static void gemm_multiply(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n,
                          const ofr_cpu_activations *a, uint32_t n_tokens, void *scratch, float *y,
                          size_t y_stride)
{
    enum { SLICE_GROUPS = SLICE / OFR_CPU_ACTIVATION_GROUP };
    bool i4 = w->dtype == OFR_DTYPE_I4;
    float *scales = (float *)(void *)((char *)scratch + (size_t)SLICE * OFR_CPU_GEMM_ROWS);
    int8_tile tile = {
        .values = scratch,
        .scales = scales,
        .minima = w->minima != NULL ? scales + (size_t)SLICE_GROUPS * OFR_CPU_GEMM_ROWS : NULL,
        .zero = w->minima != NULL ? 0
                : i4              ? 8
                                  : I8_ZERO,
        .ratio = w->group / OFR_CPU_ACTIVATION_GROUP,
    };
    for (uint32_t g = 0; g < a->n_groups; g += SLICE_GROUPS) {
        tile.first = g;
        tile.end = a->n_groups - g < SLICE_GROUPS ? a->n_groups : g + SLICE_GROUPS;
        gemm_pack(w, begin, n, &tile);
        if (i4) {
            tile_all(&tile, true, a, n_tokens, y, y_stride);
        } else {
            tile_all(&tile, false, a, n_tokens, y, y_stride);
        }
    }
}

static const ofr_cpu_gemm gemm_int8 = {
    .name = "int8",
    .min_tokens = 4,
    .max_rows = OFR_CPU_GEMM_ROWS,
    .value_bytes = 1,
    .prepare = quantize,
    .scratch_bytes = gemm_scratch,
    .multiply = gemm_multiply,
};

/* The members of the table that this header defines. */
#define YMM_KERNELS                                                                                \
    .supported = supported, .quantize = quantize, .gemv = gemv, .gemms = {&gemm_int8},             \
    .dot_f32 = dot_f32, .dot_f16 = dot_f16, .rms_norm = rms_norm, .swiglu = swiglu,                \
    .float_to_half = float_to_half, .half_to_float = half_to_float,                                \
    .transpose_keys = transpose_keys, .attention_scores = attention_scores,                        \
    .attention_values = attention_values, .exp_sum = exp_sum, .maximum = maximum_of,               \
    .scale = scale, .rotate = rotate, .matmul = matmul

#endif
