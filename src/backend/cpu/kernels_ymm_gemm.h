/* Products of many tokens on 256-bit vectors, included by kernels_ymm.h. Weights are signed,
 * activations unsigned, so that the zero point of the activations, not that of the weights, is to
 * be corrected: by numbers of a row and group of the weights, which all tokens share and with which
 * sums begin.
 *
 * Of the activations a group of 32 is stored as it comes for i8; for i4 its 16 even values, then
 * its 16 odd ones. A byte is the quantized value + 128, for i8 + I8_ZERO.
 *
 * Of the weights a slice of the columns of 32 rows lies side by side, 4 bytes of each (values in
 * the activations' order): a lane of 32 bits is one row and needs no sum across lanes. */
#ifndef OFR_BACKEND_CPU_KERNELS_YMM_GEMM_H
#define OFR_BACKEND_CPU_KERNELS_YMM_GEMM_H

/* The unpacked slice. */
typedef struct int8_tile {
    int8_t *values;       /* [SLICE/4][GEMM_ROWS][4] */
    int32_t *corrections; /* [SLICE/32][GEMM_ROWS]: what sums of a group begin with */
    float *scales;        /* [SLICE/32][GEMM_ROWS], of each group of the weights */
    float *minima;        /* likewise; NULL: none */
    uint32_t ratio;       /* groups of activations to one of the weights */
    uint32_t first, end;  /* groups of activations */
} int8_tile;

/* As `quantize`, in the gemm's format. */
static void prepare(const float *x, const ofr_cpu_activations *a, size_t row)
{
    const __m256i zero_point = _mm256_set1_epi8(a->split || I8_ZERO != 0 ? -128 : 0);
    int8_t *values = a->values + row * a->value_stride;
    float *scales = a->scales + row * a->group_stride, *sums = a->sums + row * a->group_stride;
    for (uint32_t g = 0; g < a->n_groups; g++, x += OFR_CPU_ACTIVATION_GROUP) {
        __m256i q[4];
        scales[g] = quantize_group(x, q);
        if (a->minima) {
            sums[g] = scales[g] * sum_of_group(q);
        }
        _mm256_storeu_si256((void *)(values + (size_t)g * OFR_CPU_ACTIVATION_GROUP),
                            _mm256_xor_si256(bytes_of_group(q, a->split), zero_point));
    }
}

/* `bytes` (a multiple of 16) of 8 rows, which may be the same one, to 8 lanes of a tile. `table`:
 * what nibbles stand for. */
INLINE void pack_rows(const uint8_t *const rows[8], size_t bytes, bool i4, __m256i table,
                      int8_t *to, int32_t *corrections)
{
    enum { QUAD = 4 * OFR_CPU_GEMM_ROWS };
    const __m256i low = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
    const __m256i zero_point = _mm256_set1_epi8(i4 || I8_ZERO != 0 ? -128 : 0);
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
        __m256i sum = zero;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            if (half && i >= 4) {
                break;
            }
            if (i4) { /* 16 bytes are a group: 4 quads of even values, 4 of odd ones */
                int8_t *out = to + (at / 2 + (size_t)(i / 4 * 8 + i % 4)) * QUAD;
                __m256i even = _mm256_shuffle_epi8(table, _mm256_and_si256(m[i], low));
                __m256i odd =
                    _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(m[i], 4), low));
                _mm256_store_si256((void *)out, even);
                _mm256_store_si256((void *)(out + 4 * QUAD), odd);
                sum = step_unsigned(step_unsigned(sum, zero_point, even), zero_point, odd);
                if (i % 4 == 3) {
                    _mm256_store_si256((void *)(corrections + at / 16 * OFR_CPU_GEMM_ROWS +
                                                (size_t)(i / 4) * OFR_CPU_GEMM_ROWS),
                                       negate(sum));
                    sum = zero;
                }
            } else {
                _mm256_store_si256((void *)(to + (at / 4 + (size_t)i) * QUAD), m[i]);
                sum = I8_ZERO != 0 ? step_bytes(sum, zero_point, m[i]) : sum;
            }
        }
        if (!i4) {
            _mm256_store_si256((void *)(corrections + at / 32 * OFR_CPU_GEMM_ROWS),
                               _mm256_sub_epi32(zero, sum));
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
    const __m256i table = _mm256_broadcastsi128_si256(
        w->minima != NULL ? _mm_setr_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
                          : _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
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
            pack_rows(rows, bytes, true, table, tile->values + (size_t)r * 4,
                      tile->corrections + r);
        } else {
            pack_rows(rows, bytes, false, table, tile->values + (size_t)r * 4,
                      tile->corrections + r);
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

/* `n` tokens (a constant where inlined) against 16 rows of the tile from `row0` on, added to y or,
 * of the first slice, put there. */
INLINE void tile_tokens(const int8_tile *tile, bool i4, uint32_t row0, const ofr_cpu_activations *a,
                        size_t row, uint32_t n, float *y, size_t y_stride)
{
    const float *scales = a->scales + row * a->group_stride;
    const float *sums = a->sums + row * a->group_stride;
    const int8_t *w = tile->values + (size_t)row0 * 4;
    const int32_t *corrections = tile->corrections + row0;
    const float *own = tile->scales + row0;
    const float *minima = tile->minima != NULL ? tile->minima + row0 : NULL;
    uint32_t left = tile->ratio - tile->first % tile->ratio; /* to the weights' next scale */
    const uint8_t *from[TILE_TOKENS];
    __m256 total[TILE_TOKENS][2];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < n; t++) {
        from[t] = (const uint8_t *)a->values + (row + t) * a->value_stride +
                  (size_t)tile->first * OFR_CPU_ACTIVATION_GROUP;
        total[t][0] = tile->first > 0 ? _mm256_loadu_ps(y + t * y_stride) : _mm256_setzero_ps();
        total[t][1] = tile->first > 0 ? _mm256_loadu_ps(y + t * y_stride + 8) : _mm256_setzero_ps();
    }
    for (uint32_t g = tile->first; g < tile->end; g++) {
        __m256i sum[TILE_TOKENS][2];
#pragma GCC unroll 8
        for (uint32_t t = 0; t < n; t++) {
            keep_address(from[t]);
            sum[t][0] = _mm256_load_si256((const void *)corrections);
            sum[t][1] = _mm256_load_si256((const void *)(corrections + 8));
        }
/* Unrolled: as a loop, GCC 12 moves every sum between two registers in each turn. */
#pragma GCC unroll 8
        for (uint32_t q = 0; q < QUADS; q++) {
            __m256i w0 = _mm256_load_si256((const void *)(w + q * (4 * OFR_CPU_GEMM_ROWS)));
            __m256i w1 = _mm256_load_si256((const void *)(w + q * (4 * OFR_CPU_GEMM_ROWS) + 32));
#pragma GCC unroll 8
            for (uint32_t t = 0; t < n; t++) {
                int32_t four;
                memcpy(&four, from[t] + 4 * q, sizeof four);
                __m256i each = _mm256_set1_epi32(four);
                sum[t][0] =
                    i4 ? step_unsigned(sum[t][0], each, w0) : step_bytes(sum[t][0], each, w0);
                sum[t][1] =
                    i4 ? step_unsigned(sum[t][1], each, w1) : step_bytes(sum[t][1], each, w1);
                keep_in_registers(sum[t][0], sum[t][1]);
            }
        }
#pragma GCC unroll 8
        for (uint32_t t = 0; t < n; t++) {
            __m256 s = _mm256_set1_ps(scales[t * a->group_stride + g]);
            __m256 x0 = _mm256_cvtepi32_ps(i4 ? widen(sum[t][0]) : sum[t][0]);
            __m256 x1 = _mm256_cvtepi32_ps(i4 ? widen(sum[t][1]) : sum[t][1]);
            total[t][0] = _mm256_fmadd_ps(_mm256_mul_ps(x0, s), _mm256_load_ps(own), total[t][0]);
            total[t][1] =
                _mm256_fmadd_ps(_mm256_mul_ps(x1, s), _mm256_load_ps(own + 8), total[t][1]);
            from[t] += OFR_CPU_ACTIVATION_GROUP;
        }
        if (minima != NULL) { /* groups of 32, as those of the activations */
#pragma GCC unroll 8
            for (uint32_t t = 0; t < n; t++) {
                __m256 s = _mm256_set1_ps(sums[t * a->group_stride + g]);
                total[t][0] = _mm256_fmadd_ps(s, _mm256_load_ps(minima), total[t][0]);
                total[t][1] = _mm256_fmadd_ps(s, _mm256_load_ps(minima + 8), total[t][1]);
            }
            minima += OFR_CPU_GEMM_ROWS;
        }
        w += (size_t)OFR_CPU_ACTIVATION_GROUP * OFR_CPU_GEMM_ROWS;
        corrections += OFR_CPU_GEMM_ROWS;
        if (--left == 0) {
            left = tile->ratio;
            own += OFR_CPU_GEMM_ROWS;
        }
    }
#pragma GCC unroll 8
    for (uint32_t t = 0; t < n; t++) {
        _mm256_storeu_ps(y + t * y_stride, total[t][0]);
        _mm256_storeu_ps(y + t * y_stride + 8, total[t][1]);
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
           3 * (size_t)SLICE / OFR_CPU_ACTIVATION_GROUP * OFR_CPU_GEMM_ROWS * sizeof(float);
}

/* Slice after slice of the columns, so that the tile stays in the first-level cache. */
static void gemm_multiply(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n,
                          const ofr_cpu_activations *a, uint32_t n_tokens, void *scratch, float *y,
                          size_t y_stride)
{
    enum {
        SLICE_GROUPS = SLICE / OFR_CPU_ACTIVATION_GROUP,
        NUMBERS = SLICE_GROUPS * OFR_CPU_GEMM_ROWS
    };
    float *scales = (float *)(void *)((char *)scratch + (size_t)SLICE * OFR_CPU_GEMM_ROWS);
    int8_tile tile = {
        .values = scratch,
        .scales = scales,
        .corrections = (int32_t *)(void *)(scales + NUMBERS),
        .minima = w->minima != NULL ? scales + 2 * (size_t)NUMBERS : NULL,
        .ratio = w->group / OFR_CPU_ACTIVATION_GROUP,
    };
    for (uint32_t g = 0; g < a->n_groups; g += SLICE_GROUPS) {
        tile.first = g;
        tile.end = a->n_groups - g < SLICE_GROUPS ? a->n_groups : g + SLICE_GROUPS;
        gemm_pack(w, begin, n, &tile);
        if (w->dtype == OFR_DTYPE_I4) {
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
    .prepare = prepare,
    .scratch_bytes = gemm_scratch,
    .multiply = gemm_multiply,
};

#endif
