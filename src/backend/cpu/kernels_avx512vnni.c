/* Kernels for AVX-512 with VNNI (Ice Lake and later servers, Zen 4 and later). vpdpbusd multiplies
 * unsigned weights by signed activations; the formats it relies on are those of kernels.h. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/kernels_amx.h"
#include "backend/cpu/kernels_avx512vnni.h"

#define INLINE static inline __attribute__((always_inline))

#include "backend/cpu/kernels_zmm_blocks.h"
#include "backend/cpu/kernels_zmm_float.h"

enum {
    GEMV_COLUMNS = 16384, /* columns whose inputs a gemv spreads on the stack at once */
    GROUP_OF_ROW = 1,     /* in place of a group size: one scale for a row */
};

static bool supported(const ofr_cpu_features *features)
{
    return features->avx512_vnni;
}

/* Bytes 0 to 63 of a split block are those of x0 and x1 at even places, 64 to 127 at odd ones. */
INLINE void store_split(__m512i x0, __m512i x1, int8_t *to)
{
    const __m512i low = _mm512_set1_epi16(0xff);
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    __m512i even = _mm512_packus_epi16(_mm512_and_si512(x0, low), _mm512_and_si512(x1, low));
    __m512i odd = _mm512_packus_epi16(_mm512_srli_epi16(x0, 8), _mm512_srli_epi16(x1, 8));
    _mm512_storeu_si512(to, _mm512_permutexvar_epi64(order, even));
    _mm512_storeu_si512(to + 64, _mm512_permutexvar_epi64(order, odd));
}

static void quantize(const float *x, const ofr_cpu_activations *a, size_t row)
{
    int8_t *values = a->values + row * a->value_stride;
    float *scales = a->scales + row * a->group_stride;
    float *sums = a->sums + row * a->group_stride;
    for (uint32_t g = 0; g < a->n_groups; g++, x += OFR_CPU_ACTIVATION_GROUP) {
        __m512i q[2];
        scales[g] = quantize_group(x, q);
        sums[g] = scales[g] * (float)_mm512_reduce_add_epi32(_mm512_add_epi32(q[0], q[1]));
        __m128i *to = (__m128i *)(void *)(values + (size_t)g * OFR_CPU_ACTIVATION_GROUP);
        _mm_storeu_si128(to, _mm512_cvtsepi32_epi8(q[0]));
        _mm_storeu_si128(to + 1, _mm512_cvtsepi32_epi8(q[1]));
    }
    ofr_cpu_clear_padding(a, row);
    for (size_t k = 0; a->split && k < a->columns; k += OFR_CPU_SPLIT_BLOCK) {
        store_split(_mm512_loadu_si512(values + k), _mm512_loadu_si512(values + k + 64),
                    values + k);
    }
}

/* What a gemv needs of the activations, the same for all rows: for each vector of weights, 128 of
 * i4 or 64 of i8, the scales over the lanes of a vpdpbusd, and the zero point's part of each lane.
 */
typedef struct gemv_inputs {
    _Alignas(64) float scales[GEMV_COLUMNS / 64][16];
    _Alignas(64) int32_t offsets[GEMV_COLUMNS / 64][16];
    _Alignas(64) float sums[GEMV_COLUMNS / 32]; /* of each group, for weights with minima */
} gemv_inputs;

INLINE void spread_inputs(enum ofr_dtype dtype, bool minima, const int8_t *values,
                          const float *scales, const float *sums, uint32_t columns,
                          gemv_inputs *ret)
{
    const __m512i zero = _mm512_setzero_si512();
    for (uint32_t g = 0; minima && g < columns / OFR_CPU_ACTIVATION_GROUP; g += 16) {
        _mm512_store_ps(ret->sums + g, _mm512_loadu_ps(sums + g));
    }
    if (dtype == OFR_DTYPE_I4) {
        const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        const __m512i bias = _mm512_set1_epi8(minima ? 0 : 8);
        for (uint32_t b = 0; b * 128 < columns; b++) {
            __m512i sum = _mm512_dpbusd_epi32(zero, bias, _mm512_loadu_si512(values + 128 * b));
            sum = _mm512_dpbusd_epi32(sum, bias, _mm512_loadu_si512(values + 128 * b + 64));
            __m512 four = _mm512_castps128_ps512(_mm_loadu_ps(scales + 4 * b));
            _mm512_store_ps(ret->scales[b], _mm512_permutexvar_ps(spread, four));
            _mm512_store_si512(ret->offsets[b], _mm512_sub_epi32(zero, sum));
        }
        return;
    }
    for (uint32_t b = 0; b * 64 < columns; b++) {
        __m512i sum =
            _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(-128), _mm512_loadu_si512(values + 64 * b));
        _mm256_store_ps(ret->scales[b], _mm256_set1_ps(scales[2 * b]));
        _mm256_store_ps(ret->scales[b] + 8, _mm256_set1_ps(scales[2 * b + 1]));
        _mm512_store_si512(ret->offsets[b], _mm512_sub_epi32(zero, sum));
    }
}

/* The weight scales of vector b, as its lanes want them, where the group is not one that
 * gemv_rows knows. */
INLINE __m512 scales_of_vector(const ofr_cpu_matrix *w, const uint16_t *own, uint32_t column,
                               uint32_t per_lane)
{
    float each[4];
    for (uint32_t i = 0; i < 4; i++) { /* a lane never crosses a multiple of 16 */
        uint32_t at = column + i * 4 * per_lane;
        each[i] = at < w->columns ? _cvtsh_ss(own[at / w->group]) : 0;
    }
    const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(spread, _mm512_castps128_ps512(_mm_loadu_ps(each)));
}

/* 64 bytes of a row times the activations of their columns. */
INLINE __m512i dot_vector(enum ofr_dtype dtype, __m512i x, __m512i offset, const int8_t *values)
{
    if (dtype == OFR_DTYPE_I8) {
        return _mm512_dpbusd_epi32(offset, _mm512_xor_si512(x, _mm512_set1_epi8(-128)),
                                   _mm512_loadu_si512(values));
    }
    const __m512i low = _mm512_set1_epi8(15), bias = _mm512_set1_epi8(8);
    /* (x & 15) ^ 8 */
    __m512i even = _mm512_ternarylogic_epi32(x, low, bias, 0x6a);
    __m512i odd = _mm512_ternarylogic_epi32(_mm512_srli_epi16(x, 4), low, bias, 0x6a);
    offset = _mm512_dpbusd_epi32(offset, even, _mm512_loadu_si512(values));
    return _mm512_dpbusd_epi32(offset, odd, _mm512_loadu_si512(values + 64));
}

/* Columns [first, first + columns) of `rows` rows from n on; dtype, group and rows are constants
 * where this is inlined. group: 32, 64, 128, GROUP_OF_ROW, or 0 for any other. */
INLINE void gemv_rows(const ofr_cpu_matrix *w, enum ofr_dtype dtype, uint32_t group,
                      const gemv_inputs *inputs, const int8_t *values, uint32_t first,
                      uint32_t columns, size_t n, uint32_t rows, float *y)
{
    const uint32_t width = dtype == OFR_DTYPE_I4 ? 128 : 64, per_lane = width / 16;
    const uint32_t window = group > 1 ? 16 * group / width : 16; /* vectors of 16 scales */
    size_t row_bytes = dtype == OFR_DTYPE_I4 ? w->columns / 2 : w->columns;
    size_t row_scales = w->columns / w->group;
    const uint8_t *data = w->data + n * row_bytes + (size_t)first * 64 / width;
    const uint16_t *own = w->scales + n * row_scales + first / w->group;
    const uint8_t *ahead = ofr_cpu_ahead(data, rows * row_bytes);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint32_t vectors = (columns + width - 1) / width;
    __m512 total[4], s[4];
    for (uint32_t r = 0; r < rows; r++) {
        total[r] = s[r] = _mm512_setzero_ps();
    }
    for (uint32_t b0 = 0; b0 < vectors; b0 += window) {
        uint32_t end = vectors - b0 < window ? vectors : b0 + window;
        uint32_t at = group > 1 ? b0 * width / group : 0;
        for (uint32_t r = 0; r < rows && group > 1; r++) {
            __mmask16 mask = tail16((columns - 1) / group + 1 - at);
            s[r] = load_half16(own + r * row_scales + at, mask);
            if (group == 32 && w->minima != NULL) {
                size_t from = (n + r) * row_scales + first / 32 + at;
                total[r] =
                    _mm512_fmadd_ps(load_half16(w->minima + from, mask),
                                    _mm512_maskz_loadu_ps(mask, inputs->sums + at), total[r]);
            }
        }
        for (uint32_t b = b0; b < end; b++) {
            const int8_t *x = values + (size_t)b * (dtype == OFR_DTYPE_I4 ? 128 : 64);
            __m512i offset = _mm512_load_si512(inputs->offsets[b]);
            __m512 lanes = _mm512_load_ps(inputs->scales[b]);
            uint32_t left = (columns - b * width) / (width / 64); /* bytes of a row */
            __m512i index = lane;
            if (group > 1) {
                index =
                    group >= width
                        ? _mm512_set1_epi32((int)((b - b0) / (group / width)))
                        : _mm512_add_epi32(_mm512_set1_epi32((int)((b - b0) * width / group)),
                                           _mm512_srli_epi32(lane, group / per_lane == 4   ? 2
                                                                   : group / per_lane == 8 ? 3
                                                                                           : 4));
            }
            for (uint32_t r = 0; r < rows; r++) {
                const uint8_t *p = data + r * row_bytes + (size_t)b * 64;
                _mm_prefetch((const char *)(ahead + (b * rows + r) * 64), _MM_HINT_T1);
                __m512i raw = left >= 64 ? _mm512_loadu_si512(p)
                                         : _mm512_maskz_loadu_epi8(((__mmask64)1 << left) - 1, p);
                __m512 dot = _mm512_cvtepi32_ps(dot_vector(dtype, raw, offset, x));
                if (group == GROUP_OF_ROW) {
                    total[r] = _mm512_fmadd_ps(dot, lanes, total[r]);
                } else {
                    __m512 scale = group > 1 ? _mm512_permutexvar_ps(index, s[r])
                                             : scales_of_vector(w, w->scales + (n + r) * row_scales,
                                                                first + b * width, per_lane);
                    total[r] = _mm512_fmadd_ps(_mm512_mul_ps(dot, lanes), scale, total[r]);
                }
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        float sum = _mm512_reduce_add_ps(total[r]);
        y[r] += group == GROUP_OF_ROW ? sum * _cvtsh_ss(w->scales[n + r]) : sum;
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
        spread_inputs(dtype, w->minima != NULL, values + first, scales + group0, sums + group0,
                      columns, &inputs);
        uint32_t n = begin;
        /* INT8 rows are read as fast as memory gives them, and memory gives one stream faster than
         * four; INT4 rows are bound by arithmetic, and four share their activations. */
        for (; dtype == OFR_DTYPE_I4 && n + 4 <= end; n += 4) {
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

/* The members of the tables below that do not differ. */
#define ZMM_KERNELS                                                                                \
    .quantize = quantize, .gemv = gemv, .dot_f32 = dot_f32, .dot_f16 = dot_f16,                    \
    .rms_norm = rms_norm, .swiglu = swiglu, .float_to_half = float_to_half,                        \
    .half_to_float = half_to_float, .attention_scores = attention_scores,                          \
    .attention_values = attention_values, .exp_sum = exp_sum, .maximum = maximum_of,               \
    .scale = scale, .rotate = rotate, .quantize_query = quantize_query,                            \
    .quantize_keys = quantize_keys, .quantize_values = quantize_values,                            \
    .block_scores = block_scores, .block_weights = block_weights, .block_values = block_values

static const ofr_cpu_kernels table = {.name = "avx512-vnni",
                                      .supported = supported,
                                      .gemms = {&ofr_cpu_gemm_avx512vnni},
                                      ZMM_KERNELS};

const ofr_cpu_kernels *ofr_cpu_kernels_avx512vnni(void)
{
    return &table;
}

/* AMX has tiles for many tokens; all else is AVX-512's. */
static const ofr_cpu_kernels table_amx = {.name = "amx",
                                          .supported = ofr_cpu_amx_supported,
                                          .gemms = {&ofr_cpu_gemm_amx, &ofr_cpu_gemm_avx512vnni},
                                          ZMM_KERNELS};

const ofr_cpu_kernels *ofr_cpu_kernels_amx(void)
{
    return &table_amx;
}
