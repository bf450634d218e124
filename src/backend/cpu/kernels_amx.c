/* Tiles of AMX in bf16. int8 tiles are twice as fast, but would have to leave the tile registers
 * after every group of 32 activations to be scaled, which costs more than bf16 does; with scales
 * folded into bf16 weights a sum stays in its tile over the whole row, and activations are rounded
 * to 8 bits of their own instead of 8 bits of their group's largest.
 *
 * y^T = W x^T: the rows of A are rows of weights, so that unpacking INT4 needs no transposition.
 * Steps of 32 columns, in an order that both sides share:
 *   i4  for each 64 columns a step of the even and a step of the odd ones; of a last 32 columns one
 *       step, the even ones first
 *   i8  as they come
 * Weights (A):      [steps][32 rows][32] bf16
 * Activations (B):  blocks of 16 tokens, each [steps][16 pairs][16 tokens][2] bf16
 * Tiles as in the Intel SDM volume 1, chapter 18. */
#include "backend/cpu/kernels_amx.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#include "backend/cpu/kernels_zmm.h"

enum {
    STEP = 32,         /* columns */
    LINE = 64,         /* bytes of a row of a tile */
    TILE_BYTES = 1024, /* 16 rows */
    BLOCK_TOKENS = 16,
    PITCH = OFR_CPU_GEMM_ROWS * LINE, /* from one step's weights to the next one's */
    SLICE = 512, /* columns: 32 rows of them, as bf16, stay in the first-level cache */
};

bool ofr_cpu_amx_supported(const ofr_cpu_features *features)
{
    return features->amx;
}

INLINE __m512i narrow(__m512 low, __m512 high)
{
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Words 0, 2, 4, ... of a and b; words 1, 3, 5, ... */
INLINE __m512i even_words(__m512i a, __m512i b)
{
    const __m512i order =
        _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                         24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_epi16(a, order, b);
}

INLINE __m512i odd_words(__m512i a, __m512i b)
{
    return even_words(_mm512_srli_epi32(a, 16), _mm512_srli_epi32(b, 16));
}

/* One token as lines of its block; finish() turns them. */
static void prepare(const float *x, const ofr_cpu_activations *a, size_t row)
{
    char *to = (char *)a->values + row / BLOCK_TOKENS * BLOCK_TOKENS * a->value_stride +
               row % BLOCK_TOKENS * LINE;
    for (uint32_t k = 0; k < a->columns; k += 2 * STEP) {
        __m512i first = narrow(_mm512_loadu_ps(x + k), _mm512_loadu_ps(x + k + 16));
        char *at = to + (size_t)k / STEP * TILE_BYTES;
        if (k + STEP == a->columns) {
            __m512i zero = _mm512_setzero_si512();
            __m512i both = _mm512_inserti64x4(even_words(first, zero),
                                              _mm512_castsi512_si256(odd_words(first, zero)), 1);
            _mm512_storeu_si512(at, a->split ? both : first);
            return;
        }
        __m512i second = narrow(_mm512_loadu_ps(x + k + 32), _mm512_loadu_ps(x + k + 48));
        _mm512_storeu_si512(at, a->split ? even_words(first, second) : first);
        _mm512_storeu_si512(at + TILE_BYTES, a->split ? odd_words(first, second) : second);
    }
}

static void finish(const ofr_cpu_activations *a, size_t row, uint32_t n)
{
    for (size_t block = row / BLOCK_TOKENS; block * BLOCK_TOKENS < row + n; block++) {
        char *tile = (char *)a->values + block * BLOCK_TOKENS * a->value_stride;
        for (uint32_t step = 0; step < a->columns / STEP; step++, tile += TILE_BYTES) {
            __m512i m[16];
            for (int i = 0; i < 16; i++) {
                m[i] = _mm512_load_si512(tile + i * LINE);
            }
            transpose16(m);
            for (int i = 0; i < 16; i++) {
                _mm512_store_si512(tile + i * LINE, m[i]);
            }
        }
    }
}

/* The values of all nibbles as bf16, scaled; of the first 32 columns in the low half, of the next
 * 32 in the high half. */
INLINE __m512i nibble_table(uint16_t low, uint16_t high)
{
    const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    return narrow(_mm512_mul_ps(values, _mm512_set1_ps(_cvtsh_ss(low))),
                  _mm512_mul_ps(values, _mm512_set1_ps(_cvtsh_ss(high))));
}

/* The same with minima: (q + 8) s + m. */
INLINE __m512i shifted_table(const uint16_t *scales, const uint16_t *minima, uint32_t g0,
                             uint32_t g1)
{
    const __m512 values = _mm512_setr_ps(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    return narrow(_mm512_fmadd_ps(values, _mm512_set1_ps(_cvtsh_ss(scales[g0])),
                                  _mm512_set1_ps(_cvtsh_ss(minima[g0]))),
                  _mm512_fmadd_ps(values, _mm512_set1_ps(_cvtsh_ss(scales[g1])),
                                  _mm512_set1_ps(_cvtsh_ss(minima[g1]))));
}

/* Columns [first, first + columns) of a row; `own` are the row's scales, `minima` its minima or
 * NULL. */
static void pack_i4(const uint8_t *row, const uint16_t *own, const uint16_t *minima, uint32_t group,
                    uint32_t first, uint32_t columns, char *to)
{
    const __m512i low = _mm512_set1_epi16(15);
    const __m512i half = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
    __m512i table = _mm512_setzero_si512();
    uint32_t known = UINT32_MAX; /* the group that both halves of the table are of */
    for (uint32_t k = first; k < first + columns; k += 2 * STEP) {
        bool tail = k + STEP == first + columns;
        uint32_t g0 = k / group, g1 = tail ? g0 : (k + STEP) / group;
        if (g0 != known || g1 != known) {
            table = minima != NULL ? shifted_table(own, minima, g0, g1)
                                   : nibble_table(own[g0], own[g1]);
            known = g0 == g1 ? g0 : UINT32_MAX;
        }
        __m256i bytes = tail ? _mm256_zextsi128_si256(_mm_loadu_si128((const void *)(row + k / 2)))
                             : _mm256_loadu_si256((const void *)(row + k / 2));
        __m512i words = _mm512_cvtepu8_epi16(bytes);
        /* (x & 15) | half */
        __m512i even =
            _mm512_permutexvar_epi16(_mm512_ternarylogic_epi32(words, low, half, 0xea), table);
        __m512i odd = _mm512_permutexvar_epi16(
            _mm512_ternarylogic_epi32(_mm512_srli_epi16(words, 4), low, half, 0xea), table);
        if (tail) {
            _mm512_store_si512(to, _mm512_inserti64x4(even, _mm512_castsi512_si256(odd), 1));
        } else {
            _mm512_store_si512(to, even);
            _mm512_store_si512(to + PITCH, odd);
        }
        to += 2 * PITCH;
    }
}

static void pack_i8(const uint8_t *row, const uint16_t *own, uint32_t group, uint32_t first,
                    uint32_t columns, char *to)
{
    for (uint32_t k = first; k < first + columns; k += STEP, to += PITCH) {
        __m512 s = _mm512_set1_ps(_cvtsh_ss(own[k / group]));
        __m512i x0 = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(row + k)));
        __m512i x1 = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(row + k + 16)));
        _mm512_store_si512(to, narrow(_mm512_mul_ps(_mm512_cvtepi32_ps(x0), s),
                                      _mm512_mul_ps(_mm512_cvtepi32_ps(x1), s)));
    }
}

/* Rows [begin, begin + n), columns [first, first + columns); up to 32 rows, the others are 0. */
static void pack(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n, uint32_t first,
                 uint32_t columns, char *to)
{
    size_t row_scales = w->columns / w->group;
    for (uint32_t r = 0; r < OFR_CPU_GEMM_ROWS; r++, to += LINE) {
        size_t row = begin + r;
        if (r >= n) {
            for (uint32_t k = 0; k < columns; k += STEP) {
                _mm512_store_si512(to + k / STEP * PITCH, _mm512_setzero_si512());
            }
        } else if (w->dtype == OFR_DTYPE_I4) {
            /* The next part of the row: rows are far apart, and come from memory. */
            for (uint32_t i = 0; i < columns / 2; i += LINE) {
                _mm_prefetch(
                    (const char *)(w->data + row * (w->columns / 2) + (first + columns) / 2 + i),
                    _MM_HINT_T1);
            }
            pack_i4(w->data + row * (w->columns / 2), w->scales + row * row_scales,
                    w->minima != NULL ? w->minima + row * row_scales : NULL, w->group, first,
                    columns, to);
        } else {
            pack_i8(w->data + row * w->columns, w->scales + row * row_scales, w->group, first,
                    columns, to);
        }
    }
}

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

_Static_assert(sizeof(tile_config) == 64, "the operand of LDTILECFG");

/* Tiles 0 to 3: sums; 4, 5: weights; 6, 7: activations. */
static const tile_config config = {
    .palette = 1,
    .row_bytes = {LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

/* Sums of 32 rows x 32 tokens: tiles of rows 0 to 15 and 16 to 31 of the first 16 tokens, then of
 * the others. */
typedef float block_sums[4][256];

INLINE void load_sums(bool begin, bool pair, block_sums sums)
{
    if (begin) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, sums[0], LINE);
    _tile_loadd(1, sums[1], LINE);
    if (pair) {
        _tile_loadd(2, sums[2], LINE);
        _tile_loadd(3, sums[3], LINE);
    }
}

/* One block of tokens, or half of one, against 32 rows; `begin`: the sums begin here. A tile is
 * loaded for the next step right after its last use in this one: on cores whose other hardware
 * thread is busy, loads are slow and do not overlap with the product that waits for them. */
INLINE void multiply_block(const char *weights, const char *x, size_t next_tokens, uint32_t steps,
                           bool pair, bool begin, block_sums sums)
{
    load_sums(begin, pair, sums);
    _tile_loadd(4, weights, LINE);
    _tile_loadd(6, x, LINE);
    _tile_loadd(5, weights + TILE_BYTES, LINE);
    if (pair) {
        _tile_loadd(7, x + next_tokens, LINE);
    }
    for (uint32_t i = 1; i < steps; i++) {
        weights += PITCH;
        x += TILE_BYTES;
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(6, x, LINE);
        if (pair) {
            _tile_dpbf16ps(2, 4, 7);
            _tile_loadd(4, weights, LINE);
            _tile_dpbf16ps(3, 5, 7);
            _tile_loadd(5, weights + TILE_BYTES, LINE);
            _tile_loadd(7, x + next_tokens, LINE);
        } else {
            _tile_loadd(4, weights, LINE);
            _tile_loadd(5, weights + TILE_BYTES, LINE);
        }
    }
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    _tile_stored(0, sums[0], LINE);
    _tile_stored(1, sums[1], LINE);
    if (pair) {
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        _tile_stored(2, sums[2], LINE);
        _tile_stored(3, sums[3], LINE);
    }
}

/* To y [tokens][y_stride]. */
static void store_turned(const block_sums sums, uint32_t tokens, float *y, size_t y_stride)
{
    for (uint32_t half = 0; half < 4 && half / 2 * BLOCK_TOKENS < tokens; half++) {
        uint32_t first = half / 2 * BLOCK_TOKENS;
        __m512i m[16];
        for (int i = 0; i < 16; i++) {
            m[i] = _mm512_load_si512(sums[half] + 16 * i);
        }
        transpose16(m);
        for (uint32_t i = 0; i < 16; i++) {
            if (first + i < tokens) {
                _mm512_storeu_si512(y + (first + i) * y_stride + half % 2 * 16, m[i]);
            }
        }
    }
}

/* Rows are cut into equal slices of at most SLICE columns. */
INLINE uint32_t slice_columns(uint32_t columns)
{
    uint32_t n = (columns - 1) / SLICE + 1;
    return ((columns - 1) / n + 2 * STEP) / (2 * STEP) * (2 * STEP);
}

static size_t scratch_bytes(uint32_t columns, uint32_t n_tokens)
{
    (void)columns;
    size_t blocks = (n_tokens - 1) / OFR_CPU_TOKEN_BLOCK + 1;
    return SLICE / STEP * PITCH +
           blocks * (OFR_CPU_GEMM_ROWS_MAX / OFR_CPU_GEMM_ROWS) * sizeof(block_sums);
}

/* One slice of 32 rows, in the first-level cache, against all tokens. */
static void multiply_slice(const char *weights, const ofr_cpu_activations *a, uint32_t n_tokens,
                           uint32_t first, uint32_t columns, block_sums *sums)
{
    const char *x = (const char *)a->values + (size_t)first / STEP * TILE_BYTES;
    size_t next = BLOCK_TOKENS * a->value_stride;
    for (uint32_t t = 0; t < n_tokens; t += OFR_CPU_TOKEN_BLOCK, x += 2 * next, sums++) {
        if (n_tokens - t > BLOCK_TOKENS) {
            multiply_block(weights, x, next, columns / STEP, true, first == 0, *sums);
        } else {
            multiply_block(weights, x, next, columns / STEP, false, first == 0, *sums);
        }
    }
}

static void multiply(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n,
                     const ofr_cpu_activations *a, uint32_t n_tokens, void *scratch, float *y,
                     size_t y_stride)
{
    uint32_t at_once = slice_columns(w->columns);
    uint32_t subtiles = (n - 1) / OFR_CPU_GEMM_ROWS + 1;
    uint32_t blocks = (n_tokens - 1) / OFR_CPU_TOKEN_BLOCK + 1;
    char *weights = scratch;
    block_sums *sums = (block_sums *)(void *)(weights + SLICE / STEP * PITCH);
    _tile_loadconfig(&config);
    for (uint32_t k = 0; k < w->columns; k += at_once) {
        uint32_t columns = w->columns - k < at_once ? w->columns - k : at_once;
        for (uint32_t s = 0; s < subtiles; s++) {
            uint32_t row = s * OFR_CPU_GEMM_ROWS;
            pack(w, begin + row, n - row, k, columns, weights);
            multiply_slice(weights, a, n_tokens, k, columns, sums + (size_t)s * blocks);
        }
    }
    _tile_release();
    for (uint32_t s = 0; s < subtiles; s++) {
        for (uint32_t b = 0; b < blocks; b++) {
            uint32_t t = b * OFR_CPU_TOKEN_BLOCK;
            store_turned(sums[(size_t)s * blocks + b], n_tokens - t,
                         y + t * y_stride + s * OFR_CPU_GEMM_ROWS, y_stride);
        }
    }
}

const ofr_cpu_gemm ofr_cpu_gemm_amx = {
    .name = "amx-bf16",
    .min_tokens = 4,
    .max_rows = OFR_CPU_GEMM_ROWS_MAX,
    .value_bytes = 2,
    .prepare = prepare,
    .finish = finish,
    .scratch_bytes = scratch_bytes,
    .multiply = multiply,
};
