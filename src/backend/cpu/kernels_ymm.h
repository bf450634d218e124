/* The bodies of the 256-bit kernels, included once by each file that compiles them for its
 * instruction set. The including file defines before:
 *   step_unsigned(sum, u, s)  adds the products of unsigned u and signed s, of which one is an i4
 *                             weight; at most 8 steps may follow one another before
 *   widen(sum)                turns such a sum into 32-bit lanes;
 *   negate(sum)               such a sum's negative;
 *   dot_nibbles(sum, u0, u1, s0, s1)
 *                             adds the products of u0 and s0 and of u1 and s1 (u at most 15) to
 *                             32-bit lanes;
 *   step_i8(sum, u, s)        adds products of (u - 128 + I8_ZERO) and s to 32-bit lanes;
 *   step_bytes(sum, x, w)     adds products of x, + I8_ZERO, and signed w to 32-bit lanes;
 *   step_words(sum, x, y)     adds products of pairs of signed words to 32-bit lanes;
 *   I8_ZERO                   the zero point that is still to be corrected for i8: 128 or 0;
 *   TILE_TOKENS               tokens that a gemm takes at once, with 4 sums for each. */
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

/* A group of activations in -127 .. 127, in 32-bit lanes; returns its scale. */
INLINE float quantize_group(const float *x, __m256i ret_q[4])
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 part[4], largest = _mm256_setzero_ps();
    for (uint32_t i = 0; i < 4; i++) {
        part[i] = _mm256_loadu_ps(x + 8 * i);
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, part[i]));
    }
    float top = max_lanes(largest);
    __m256 inverse = _mm256_set1_ps(top > OFR_CPU_SCALE_TINY ? 127 / top : 0);
    for (uint32_t i = 0; i < 4; i++) {
        ret_q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(part[i], inverse));
    }
    return top / 127;
}

/* The same as bytes; split: the 16 even ones, then the odd ones. */
INLINE __m256i bytes_of_group(const __m256i q[4], bool split)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i evens_first = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    __m256i bytes = _mm256_permutevar8x32_epi32(
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])), order);
    /* within 16 bytes, then the eights of even values before those of odd ones */
    return split ? _mm256_permute4x64_epi64(_mm256_shuffle_epi8(bytes, evens_first), 0xd8) : bytes;
}

INLINE float sum_of_group(const __m256i q[4])
{
    return add_lanes(_mm256_cvtepi32_ps(
        _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]))));
}

static void quantize(const float *x, const ofr_cpu_activations *a, size_t row)
{
    int8_t *values = a->values + row * a->value_stride;
    float *scales = a->scales + row * a->group_stride;
    float *sums = a->sums + row * a->group_stride;
    if (a->split) {
        memset(values, 0, a->value_stride); /* the padding of both halves of the last block */
    }
    for (uint32_t g = 0; g < a->n_groups; g++, x += OFR_CPU_ACTIVATION_GROUP) {
        __m256i q[4];
        scales[g] = quantize_group(x, q);
        sums[g] = scales[g] * sum_of_group(q);
        int8_t *out = values + ofr_cpu_group_offset(a, g);
        __m256i bytes = bytes_of_group(q, a->split);
        if (a->split) {
            _mm_storeu_si128((void *)out, _mm256_castsi256_si128(bytes));
            _mm_storeu_si128((void *)(out + OFR_CPU_SPLIT_BLOCK / 2),
                             _mm256_extracti128_si256(bytes, 1));
        } else {
            _mm256_storeu_si256((void *)out, bytes);
        }
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
    _Alignas(32) float sums[GEMV_COLUMNS / 32];     /* of each group, for weights with minima */
    _Alignas(32) float zeros[GEMV_COLUMNS / 64][8]; /* gemv_nibbles: instead of the offsets, times
                                                       the scales, in a group's first vector */
} gemv_inputs;

/* The even and the odd activations of i4 vector b. */
INLINE const int8_t *split_at(const int8_t *values, uint32_t b)
{
    return values + (size_t)(b / 2) * OFR_CPU_SPLIT_BLOCK + b % 2 * 32;
}

/* `zeros`: the zero point of i4 is left to spread_zeros. */
INLINE void spread_inputs(enum ofr_dtype dtype, bool minima, bool zeros, const int8_t *values,
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
            _mm_store_ps(ret->scales[b], _mm_set1_ps(scales[2 * b]));
            _mm_store_ps(ret->scales[b] + 4, _mm_set1_ps(scales[2 * b + 1]));
            if (zeros) {
                continue;
            }
            const int8_t *x = split_at(values, b);
            __m256i sum = step_unsigned(zero, bias, _mm256_loadu_si256((const void *)x));
            sum = step_unsigned(sum, bias, _mm256_loadu_si256((const void *)(x + 64)));
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

/* n halves as floats. Behind the last eight of them nothing is read or written. */
INLINE void widen_halves(const uint16_t *x, uint32_t n, float *y)
{
    if (n < 8) {
        float part[8];
        _mm256_storeu_ps(part, load_halves(x, n));
        memcpy(y, part, n * sizeof *y);
        return;
    }
    for (uint32_t i = 0; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(y + i, load_halves(x + i, 8));
    }
    _mm256_storeu_ps(y + n - 8, load_halves(x + n - 8, 8));
}

/* A group's scale for all lanes; of two groups of 32 columns, for four lanes each. */
INLINE __m256 scale_lanes(const float *scale, uint32_t group)
{
    if (group != 32) {
        return _mm256_broadcast_ss(scale);
    }
    const __m256i halves = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    return _mm256_permutevar_ps(_mm256_castpd_ps(_mm256_broadcast_sd((const void *)scale)), halves);
}

/* y[r] += the sum of total[r]. */
INLINE void add_totals(const __m256 *total, uint32_t rows, float *y)
{
    if (rows == 4) {
        __m256 pairs =
            _mm256_hadd_ps(_mm256_hadd_ps(total[0], total[1]), _mm256_hadd_ps(total[2], total[3]));
        __m128 sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
        _mm_storeu_ps(y, _mm_add_ps(_mm_loadu_ps(y), sums));
        return;
    }
    for (uint32_t r = 0; r < rows; r++) {
        y[r] += add_lanes(total[r]);
    }
}

/* Columns [first, first + columns), a multiple of 64, of `rows` rows of i4 from n on, in groups of
 * `group`: 32, 64 or 128, a constant where inlined, as rows. */
INLINE void gemv_nibbles(const ofr_cpu_matrix *w, uint32_t group, const gemv_inputs *inputs,
                         const int8_t *values, uint32_t first, uint32_t columns, size_t n,
                         uint32_t rows, float *y)
{
    const uint32_t per_scale = group == 128 ? 2 : 1; /* vectors that share a scale, or two */
    const uint32_t scales = group == 32 ? 2 : 1;
    const __m256i low = _mm256_set1_epi8(15), flip = _mm256_set1_epi8((char)0x88);
    const size_t row_bytes = w->columns / 2, row_scales = w->columns / group;
    const uint8_t *data = w->data + n * row_bytes + first / 2;
    const size_t own = n * row_scales + first / group;
    const uint8_t *ahead = ofr_cpu_ahead(data, rows * row_bytes);
    const uint32_t n_groups = columns / group;
    float s[4 * GEMV_COLUMNS / 32];
    __m256 total[4];
    if (n_groups == row_scales) {
        widen_halves(w->scales + own, rows * n_groups, s);
    }
    for (uint32_t r = 0; r < rows; r++) {
        total[r] = _mm256_setzero_ps();
        if (n_groups != row_scales) {
            widen_halves(w->scales + own + r * row_scales, n_groups, s + r * n_groups);
        }
        for (uint32_t i = 0; w->minima != NULL && i < n_groups; i += 8) {
            total[r] =
                _mm256_fmadd_ps(load_halves(w->minima + own + r * row_scales + i, n_groups - i),
                                _mm256_load_ps(inputs->sums + i), total[r]);
        }
    }
    for (uint32_t g = 0; g < columns / 64 / per_scale; g++) {
        __m256 part[4];
        for (uint32_t r = 0; r < rows; r++) {
            part[r] = _mm256_load_ps(inputs->zeros[g * per_scale]);
        }
#pragma GCC unroll 2
        for (uint32_t v = 0; v < per_scale; v++) {
            uint32_t b = g * per_scale + v;
            const int8_t *x = split_at(values, b);
            __m256i even = _mm256_loadu_si256((const void *)x);
            __m256i odd = _mm256_loadu_si256((const void *)(x + OFR_CPU_SPLIT_BLOCK / 2));
            __m256 lanes = _mm256_load_ps(inputs->scales[b]);
#pragma GCC unroll 4
            for (uint32_t r = 0; r < rows; r++) {
                if (r % 2 == 0) { /* a line of 64 bytes is two vectors */
                    _mm_prefetch((const char *)(ahead + (b * rows + r) * 32), _MM_HINT_T1);
                }
                const uint8_t *from = data + r * row_bytes + (size_t)b * 32;
                __m256i raw = _mm256_xor_si256(_mm256_loadu_si256((const void *)from), flip);
                __m256i dot =
                    dot_nibbles(_mm256_setzero_si256(), _mm256_and_si256(raw, low),
                                _mm256_and_si256(_mm256_srli_epi16(raw, 4), low), even, odd);
                part[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), lanes, part[r]);
            }
        }
#pragma GCC unroll 4
        for (uint32_t r = 0; r < rows; r++) {
            total[r] = _mm256_fmadd_ps(part[r], scale_lanes(s + r * n_groups + g * scales, group),
                                       total[r]);
        }
    }
    add_totals(total, rows, y);
}

/* What gemv_nibbles needs. A group's zero point goes into its first vector, that of either half of
 * 32 columns into one of its four lanes. */
INLINE void spread_zeros(uint32_t group, const float *sums, uint32_t columns, gemv_inputs *ret)
{
    for (uint32_t b = 0; b < columns / 64; b++) {
        float low = -8 * sums[2 * b], high = -8 * sums[2 * b + 1];
        if (group == 128) {
            bool first = b % 2 == 0;
            low = first ? low - 8 * sums[2 * b + 2] : 0;
            high = first ? high - 8 * sums[2 * b + 3] : 0;
        }
        _mm_store_ps(ret->zeros[b], _mm_set_ss(low));
        _mm_store_ps(ret->zeros[b] + 4, _mm_set_ss(high));
    }
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
        bool nibbles = dtype == OFR_DTYPE_I4 && columns % 64 == 0 &&
                       (group == 32 || group == 64 || group == 128);
        spread_inputs(dtype, w->minima != NULL, nibbles, values + first, scales + group0,
                      sums + group0, columns, &inputs);
        uint32_t n = begin;
        if (nibbles) {
            if (w->minima != NULL) {
                memset(inputs.zeros, 0, columns / 64 * sizeof *inputs.zeros);
            } else {
                spread_zeros(group, sums + group0, columns, &inputs);
            }
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

#include "backend/cpu/kernels_ymm_blocks.h"
#include "backend/cpu/kernels_ymm_gemm.h"

/* The members of the table that this header defines. */
#define YMM_KERNELS                                                                                \
    .supported = supported, .quantize = quantize, .gemv = gemv, .gemms = {&gemm_int8},             \
    .dot_f32 = dot_f32, .dot_f16 = dot_f16, .rms_norm = rms_norm, .swiglu = swiglu,                \
    .float_to_half = float_to_half, .half_to_float = half_to_float,                                \
    .attention_scores = attention_scores, .attention_values = attention_values,                    \
    .exp_sum = exp_sum, .maximum = maximum_of, .scale = scale, .rotate = rotate,                   \
    .quantize_query = quantize_query, .quantize_keys = quantize_keys,                              \
    .quantize_values = quantize_values, .block_scores = block_scores,                              \
    .block_weights = block_weights, .block_values = block_values

#endif
