/* Products of many tokens with vpdpbusd: weights signed, activations unsigned, so that the zero
 * point of the activations, not that of the weights, is to be corrected: by a number of a row and
 * group of the weights, which all tokens share and with which a sum of products simply begins.
 *
 * Of the activations a group of 32 is stored as it comes for i8; for i4 its 16 even values, then
 * its 16 odd ones. A byte is the quantized value + 128.
 *
 * Of the weights 32 rows lie side by side, 4 bytes of each (values in the activations' order): a
 * lane of 32 bits is one row and needs no sum across lanes. */
#include "backend/cpu/kernels_avx512vnni.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#include "backend/cpu/kernels_zmm.h"

enum {
    ROWS = OFR_CPU_GEMM_ROWS,
    GROUP = OFR_CPU_ACTIVATION_GROUP,
    ZERO_POINT = 128, /* of activations */
    TILE_TOKENS = 6,  /* 12 sums of a group, 12 of the row, weights, scales: 29 of 32 registers */
};

/* Unpacked weights of ROWS rows. */
typedef struct unpacked_rows {
    int8_t *values;       /* [K/4][ROWS][4] */
    int32_t *corrections; /* [K/32][ROWS]: -ZERO_POINT times the sum of a group's weights */
    float *scales;        /* [K/G][ROWS] */
    float *minima;        /* [K/32][ROWS]; NULL: none */
    uint32_t ratio;       /* groups of activations to one of the weights */
} unpacked_rows;

static void prepare(const float *x, const ofr_cpu_activations *a, size_t row)
{
    const __m128i evens_first = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    int8_t *values = a->values + row * a->value_stride;
    float *scales = a->scales + row * a->group_stride, *sums = a->sums + row * a->group_stride;
    for (uint32_t g = 0; g < a->n_groups; g++, x += GROUP) {
        __m512i q[2];
        scales[g] = quantize_group(x, q);
        if (a->minima) {
            sums[g] = scales[g] * (float)_mm512_reduce_add_epi32(_mm512_add_epi32(q[0], q[1]));
        }
        __m128i low = _mm512_cvtsepi32_epi8(q[0]), high = _mm512_cvtsepi32_epi8(q[1]);
        if (a->split) {
            __m128i l = _mm_shuffle_epi8(low, evens_first), h = _mm_shuffle_epi8(high, evens_first);
            low = _mm_unpacklo_epi64(l, h);
            high = _mm_unpackhi_epi64(l, h);
        }
        __m128i *to = (__m128i *)(void *)(values + (size_t)g * GROUP);
        const __m128i zero_point = _mm_set1_epi8(-ZERO_POINT);
        _mm_storeu_si128(to, _mm_xor_si128(low, zero_point));
        _mm_storeu_si128(to + 1, _mm_xor_si128(high, zero_point));
    }
}

/* fp16 [16 rows][columns], of which n rows exist, to fp32 [columns][ROWS]. */
INLINE void unpack_halves(const uint16_t *from, uint32_t columns, uint32_t n, float *to)
{
    for (uint32_t c = 0; c < columns; c += 16) {
        __mmask16 mask = tail16(columns - c);
        __m512i r[16];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < 16; i++) {
            const uint16_t *row = from + (size_t)(i < n ? i : 0) * columns + c;
            r[i] = _mm512_castps_si512(
                _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(i < n ? mask : 0, row)));
        }
        transpose16(r);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < 16; i++) {
            if (i < columns - c) {
                _mm512_store_ps(to + (size_t)(c + i) * ROWS, _mm512_castsi512_ps(r[i]));
            }
        }
    }
}

/* 16 rows, of which n exist, to the first or second half of each ROWS. */
INLINE void unpack_half(const ofr_cpu_matrix *w, enum ofr_dtype dtype, uint32_t begin, uint32_t n,
                        const unpacked_rows *to, uint32_t half)
{
    const bool i4 = dtype == OFR_DTYPE_I4;
    /* What a nibble stands for. */
    const __m512i table = _mm512_broadcast_i32x4(
        w->minima != NULL ? _mm_setr_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
                          : _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
    const __m512i low = _mm512_set1_epi8(15), zero_point = _mm512_set1_epi8(-ZERO_POINT);
    size_t row_bytes = i4 ? w->columns / 2 : w->columns;
    uint32_t words = (uint32_t)(row_bytes / 4), words_of_group = i4 ? GROUP / 8 : GROUP / 4;
    const uint8_t *data = w->data + begin * row_bytes;
    int8_t *values = to->values + half * 64;
    int32_t *corrections = to->corrections + half * 16;
    for (uint32_t first = 0; first < words; first += 16) {
        __mmask16 mask = tail16(words - first);
        __m512i r[16];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < 16; i++) {
            r[i] = _mm512_maskz_loadu_epi32(i < n ? mask : 0,
                                            data + (i < n ? i : 0) * row_bytes + (size_t)first * 4);
        }
        transpose16(r);
        __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 16
        for (uint32_t i = 0; i < 16; i++) {
            if (i >= words - first) {
                break;
            }
            if (i4) {
                int8_t *out = values + (size_t)((first + i) / 4 * 8 + i % 4) * (4 * ROWS);
                __m512i even = _mm512_shuffle_epi8(table, _mm512_and_si512(r[i], low));
                __m512i odd =
                    _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi32(r[i], 4), low));
                _mm512_store_si512(out, even);
                _mm512_store_si512(out + 4 * (4 * ROWS), odd);
                sum = _mm512_dpbusd_epi32(sum, zero_point, even);
                sum = _mm512_dpbusd_epi32(sum, zero_point, odd);
            } else {
                _mm512_store_si512(values + (size_t)(first + i) * (4 * ROWS), r[i]);
                sum = _mm512_dpbusd_epi32(sum, zero_point, r[i]);
            }
            if (i % words_of_group == words_of_group - 1) {
                _mm512_store_si512(corrections + (size_t)((first + i) / words_of_group) * ROWS,
                                   _mm512_sub_epi32(_mm512_setzero_si512(), sum));
                sum = _mm512_setzero_si512();
            }
        }
    }
    uint32_t own = w->columns / w->group;
    unpack_halves(w->scales + (size_t)begin * own, own, n, to->scales + half * 16);
    if (to->minima != NULL) {
        unpack_halves(w->minima + (size_t)begin * own, own, n, to->minima + half * 16);
    }
}

static void unpack(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n, const unpacked_rows *to)
{
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t left = n > half * 16 ? n - half * 16 : 0;
        uint32_t from = left > 0 ? begin + half * 16 : begin; /* none are read then */
        if (w->dtype == OFR_DTYPE_I4) {
            unpack_half(w, OFR_DTYPE_I4, from, left, to, half);
        } else {
            unpack_half(w, OFR_DTYPE_I8, from, left, to, half);
        }
    }
}

/* `n` tokens (a constant where inlined) from row `row` on against the unpacked rows. */
INLINE void multiply_tokens(const unpacked_rows *w, const ofr_cpu_activations *a, size_t row,
                            uint32_t n, float *y, size_t y_stride)
{
    const uint8_t *values = (const uint8_t *)a->values + row * a->value_stride;
    const float *scales = a->scales + row * a->group_stride;
    const float *sums = a->sums + row * a->group_stride;
    const int8_t *weights = w->values;
    const float *weight_scales = w->scales;
    uint32_t left = w->ratio; /* groups of activations to the weights' next scale */
    __m512 total[TILE_TOKENS][2];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < n; t++) {
        total[t][0] = total[t][1] = _mm512_setzero_ps();
    }
    for (uint32_t g = 0; g < a->n_groups; g++) {
        __m512i sum[TILE_TOKENS][2];
        const int32_t *corrections = w->corrections + (size_t)g * ROWS;
        __m512i c0 = _mm512_load_si512(corrections), c1 = _mm512_load_si512(corrections + 16);
#pragma GCC unroll 8
        for (uint32_t t = 0; t < n; t++) {
            sum[t][0] = c0;
            sum[t][1] = c1;
        }
/* Unrolled: as a loop, GCC 12 moves every sum between two registers in each turn. */
#pragma GCC unroll 8
        for (uint32_t q = 0; q < GROUP / 4; q++) {
            __m512i w0 = _mm512_load_si512(weights + q * (4 * ROWS));
            __m512i w1 = _mm512_load_si512(weights + q * (4 * ROWS) + 64);
#pragma GCC unroll 8
            for (uint32_t t = 0; t < n; t++) {
                int32_t four;
                memcpy(&four, values + t * a->value_stride + 4 * q, sizeof four);
                __m512i each = _mm512_set1_epi32(four);
                sum[t][0] = _mm512_dpbusd_epi32(sum[t][0], each, w0);
                sum[t][1] = _mm512_dpbusd_epi32(sum[t][1], each, w1);
            }
        }
        __m512 s0 = _mm512_load_ps(weight_scales), s1 = _mm512_load_ps(weight_scales + 16);
#pragma GCC unroll 8
        for (uint32_t t = 0; t < n; t++) {
            __m512 s = _mm512_set1_ps(scales[t * a->group_stride + g]);
            total[t][0] =
                _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum[t][0]), s), s0, total[t][0]);
            total[t][1] =
                _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum[t][1]), s), s1, total[t][1]);
        }
        if (w->minima != NULL) {
            const float *minima = w->minima + (size_t)g * ROWS;
            __m512 m0 = _mm512_load_ps(minima), m1 = _mm512_load_ps(minima + 16);
#pragma GCC unroll 8
            for (uint32_t t = 0; t < n; t++) {
                __m512 s = _mm512_set1_ps(sums[t * a->group_stride + g]);
                total[t][0] = _mm512_fmadd_ps(s, m0, total[t][0]);
                total[t][1] = _mm512_fmadd_ps(s, m1, total[t][1]);
            }
        }
        values += GROUP;
        weights += GROUP * ROWS;
        if (--left == 0) {
            left = w->ratio;
            weight_scales += ROWS;
        }
    }
#pragma GCC unroll 8
    for (uint32_t t = 0; t < n; t++) {
        _mm512_storeu_ps(y + t * y_stride, total[t][0]);
        _mm512_storeu_ps(y + t * y_stride + 16, total[t][1]);
    }
}

static size_t scratch_bytes(uint32_t columns, uint32_t n_tokens)
{
    (void)n_tokens;
    return (size_t)columns * ROWS + 3 * (size_t)(columns / GROUP) * ROWS * sizeof(float);
}

static void multiply(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n,
                     const ofr_cpu_activations *a, uint32_t n_tokens, void *scratch, float *y,
                     size_t y_stride)
{
    size_t numbers = (size_t)(w->columns / GROUP) * ROWS;
    float *scales = (float *)(void *)((char *)scratch + (size_t)w->columns * ROWS);
    unpacked_rows rows = {
        .values = scratch,
        .scales = scales,
        .corrections = (int32_t *)(void *)(scales + numbers),
        .minima = w->minima != NULL ? scales + 2 * numbers : NULL,
        .ratio = w->group / GROUP,
    };
    unpack(w, begin, n, &rows);
    uint32_t t = 0;
    for (; t + TILE_TOKENS <= n_tokens; t += TILE_TOKENS) {
        multiply_tokens(&rows, a, t, TILE_TOKENS, y + t * y_stride, y_stride);
    }
    for (; t + 4 <= n_tokens; t += 4) {
        multiply_tokens(&rows, a, t, 4, y + t * y_stride, y_stride);
    }
    for (; t + 2 <= n_tokens; t += 2) {
        multiply_tokens(&rows, a, t, 2, y + t * y_stride, y_stride);
    }
    for (; t < n_tokens; t++) {
        multiply_tokens(&rows, a, t, 1, y + t * y_stride, y_stride);
    }
}

const ofr_cpu_gemm ofr_cpu_gemm_avx512vnni = {
    .name = "int8",
    .min_tokens = 4,
    .max_rows = ROWS,
    .value_bytes = 1,
    .prepare = prepare,
    .scratch_bytes = scratch_bytes,
    .multiply = multiply,
};
