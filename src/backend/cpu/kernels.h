/* The kernels of the CPU backend: one struct of function pointers per instruction set, and the
 * formats of what they exchange.
 *
 * Quantized activations. A row of K values is cut into groups of 32. A group has one scale (largest
 * magnitude / 127), int8 values in -127 .. 127 and their sum, times the scale, by which zero points
 * of weights are corrected. 32 is what accuracy needs: on SmolLM2-135M (G = 64), perplexity over
 * 4,096 tokens of licence texts is 0.06 % above the fp32 reference of the same weights with groups
 * of 32, and 0.66 % with 64. Two orders of values:
 *   natural  as they come, for i8 weights;
 *   split    per block of 128: the 64 even ones, then the 64 odd ones (the last block is padded
 *            with zeros). The low and the high nibbles of the bytes of an i4 block then match them
 *            without a shuffle, and 4 neighbouring bytes of both stay within one group. With w the
 *            nibble XOR 8 (0 .. 15): sum (w - 8) a = sum w a - 8 sum a; likewise 128 for i8.
 *
 * Products of many tokens unpack some rows of weights once and use them for all tokens. How a set
 * wants weights and activations for that is its own business: ofr_cpu_gemm.
 *
 * Attention of a block of queries. Queries, keys, values and weights are words, signed 16-bit
 * integers times a scale, of a magnitude that keeps sums over a head, or over a block of keys,
 * within 32 bits: 5,792 for 64 terms, 4,095 for 128 (halves have 2,048 steps between powers of
 * two). A pair of words is multiplied in the time of one float. Every token has scales of its own,
 * so that its result does not depend on what other tokens the pass has. Layouts, in words: query
 * [query_stride], in an order of elements that is the set's own; padded with zeros; keys
 * [query_stride / 2 pairs of elements, in that order][KEY_BLOCK][2]; values [KEY_BLOCK / 2 pairs of
 * keys][value_stride][2]; padded with zeros.
 *
 * All buffers are 64-byte aligned; strides are in elements. Kernels are pure functions. */
#ifndef OFR_BACKEND_CPU_KERNELS_H
#define OFR_BACKEND_CPU_KERNELS_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/cpu_features.h"
#include "package/package.h"

enum {
    OFR_CPU_GEMM_ROWS = 32,     /* rows of one gemm call are a multiple, but for the last ones */
    OFR_CPU_GEMM_ROWS_MAX = 64, /* and at most this */
    OFR_CPU_TOKEN_BLOCK = 32,   /* rows of activations are made in blocks of this */
    OFR_CPU_ACTIVATION_GROUP = 32,
    OFR_CPU_SPLIT_BLOCK = 128,
    OFR_CPU_KEY_BLOCK = 64, /* keys that attention takes at a time */
    OFR_CPU_MAX_HEAD_DIM = 256,
};

/* A weight matrix as the kernels see it. */
typedef struct ofr_cpu_matrix {
    enum ofr_dtype dtype;
    uint32_t rows, columns;
    uint32_t group;         /* of the weight scales: a multiple of 32; 0 for f16 and f32 */
    const uint8_t *data;    /* [rows, columns] */
    const uint16_t *scales; /* [rows, columns / group] */
    const uint16_t *minima; /* of i4m, as many; NULL otherwise */
} ofr_cpu_matrix;

/* Rows of activations, quantized or as a gemm wants them. */
typedef struct ofr_cpu_activations {
    uint32_t columns, n_groups;
    bool split;
    bool minima;         /* the weights have minima: a gemm's rows need sums */
    size_t value_stride; /* of quantized rows: columns rounded up to 128, the rest is 0 */
    size_t group_stride; /* n_groups rounded up to 16; the rest is 0 */
    int8_t *values;      /* [rows, value_stride] */
    float *scales;       /* [rows, group_stride] */
    float *sums;         /* [rows, group_stride], times the scale */
} ofr_cpu_activations;

/* Products of many tokens at once. */
typedef struct ofr_cpu_gemm {
    const char *name;
    uint32_t min_tokens;  /* from how many tokens on this is the fastest way */
    uint32_t max_rows;    /* most rows of one call */
    uint32_t value_bytes; /* of one activation */
    /* x [columns] fp32 into row `row`; value_stride is at least columns * value_bytes. */
    void (*prepare)(const float *x, const ofr_cpu_activations *a, size_t row);
    /* After `prepare` of rows [row, row + n), row a multiple of TOKEN_BLOCK, which together are all
     * or end at a multiple of it. NULL: nothing to do. */
    void (*finish)(const ofr_cpu_activations *a, size_t row, uint32_t n);
    size_t (*scratch_bytes)(uint32_t columns, uint32_t n_tokens);
    /* y[t * y_stride + r] = W[begin + r] . a[t] for r in [0, n), n <= max_rows; y_stride is n
     * rounded up to GEMM_ROWS at least, and what is behind n is written too. */
    void (*multiply)(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n,
                     const ofr_cpu_activations *a, uint32_t n_tokens, void *scratch, float *y,
                     size_t y_stride);
} ofr_cpu_gemm;

typedef struct ofr_cpu_kernels {
    const char *name;
    bool (*supported)(const ofr_cpu_features *features);
    /* x [columns] fp32 into row `row`. */
    void (*quantize)(const float *x, const ofr_cpu_activations *a, size_t row);
    /* y[n - begin] = W[n] . a[row] for n in [begin, end). i4 and i8. */
    void (*gemv)(const ofr_cpu_matrix *w, const ofr_cpu_activations *a, size_t row, uint32_t begin,
                 uint32_t end, float *y);
    /* The one that wants most tokens first; NULL ends the list. */
    const ofr_cpu_gemm *gemms[3];
    /* sum x[i] y[i] */
    float (*dot_f32)(const float *x, const float *y, size_t n);
    float (*dot_f16)(const float *x, const uint16_t *y, size_t n);
    /* y = x / rms(x) * weight (RMSNorm, arXiv 1910.07467). */
    void (*rms_norm)(const float *x, const float *weight, size_t n, float epsilon, float *y);
    /* y = silu(gate) * up (SwiGLU, arXiv 2002.05202); y may be gate or up. */
    void (*swiglu)(const float *gate, const float *up, size_t n, float *y);
    void (*float_to_half)(const float *x, size_t n, uint16_t *y);
    void (*half_to_float)(const uint16_t *x, size_t n, float *y);
    /* scores[h * KEY_BLOCK + j] = q[h] . k[j]: q [n_heads][stride q_stride], k rows k_stride apart.
     * With row j, head_dim elements of the memory that comes next are prefetched, from ahead + j *
     * ahead_stride on, which may be anywhere. */
    void (*attention_scores)(const float *q, size_t q_stride, uint32_t n_heads, const uint16_t *k,
                             size_t k_stride, uint32_t n_keys, uint32_t head_dim,
                             const uint16_t *ahead, size_t ahead_stride, float *scores);
    /* out[h] += sum_j weights[h * KEY_BLOCK + j] v[j]; out [n_heads][head_dim]. */
    void (*attention_values)(const float *weights, uint32_t n_heads, const uint16_t *v,
                             size_t v_stride, uint32_t n_keys, uint32_t head_dim,
                             const uint16_t *ahead, size_t ahead_stride, float *out);
    /* x[i] = exp(x[i] - maximum); returns their sum. */
    float (*exp_sum)(float *x, size_t n, float maximum);
    float (*maximum)(const float *x, size_t n);
    /* x[i] *= factor */
    void (*scale)(float *x, size_t n, float factor);
    /* RoPE of one head (arXiv 2104.09864, halves apart): y[i] = (x[i] c[i] - x[i + half] s[i]) *
     * factor and y[i + half] = (x[i + half] c[i] + x[i] s[i]) * factor for i < half; elements from
     * 2 half on are only multiplied. y may be x. */
    void (*rotate)(const float *x, const float *cosine, const float *sine, uint32_t half,
                   uint32_t head_dim, float factor, float *y);
    /* Blocks of queries, of one head or of a group of heads, in words. */
    float (*quantize_query)(const float *x, uint32_t head_dim, int16_t *y); /* the scale of y */
    /* y: a block of keys, scales [KEY_BLOCK]; up to n_keys rounded up to 16, the rest is 0. */
    void (*quantize_keys)(const uint16_t *k, size_t k_stride, uint32_t n_keys, uint32_t head_dim,
                          int16_t *y, float *scales);
    /* y: a block of values, scales [KEY_BLOCK]; up to n_keys rounded up to 2, the rest is 0. */
    void (*quantize_values)(const uint16_t *v, size_t v_stride, uint32_t n_keys, uint32_t head_dim,
                            int16_t *y, float *scales);
    /* scores[r * KEY_BLOCK + j] = q[r] . key j. What is behind n_keys is written, too. */
    void (*block_scores)(const int16_t *q, const float *q_scales, uint32_t rows,
                         const int16_t *keys, const float *key_scales, uint32_t n_keys,
                         uint32_t head_dim, float *scores);
    /* weights[j] = exp(scores[j] - largest) * value_scales[j] * factor, rounded; returns the sum of
     * the exponentials. No score is above `largest`. */
    float (*block_weights)(const float *scores, const float *value_scales, uint32_t n,
                           float largest, float factor, int16_t *weights);
    /* out[r] = out[r] * corrections[r] + factors[r] * sum_j weights[r * KEY_BLOCK + j] value j; out
     * [rows][value_stride]; weights behind n_keys are 0 up to the next even number. */
    void (*block_values)(const int16_t *weights, const float *corrections, const float *factors,
                         uint32_t rows, const int16_t *values, uint32_t n_keys, uint32_t head_dim,
                         float *out);
} ofr_cpu_kernels;

/* Groups whose largest magnitude is below are zeros. */
#define OFR_CPU_SCALE_TINY 1e-30f

/* The largest magnitude of words of which n pairs are multiplied and added up. */
static inline int32_t ofr_cpu_word_limit(uint32_t n)
{
    double limit = sqrt(INT32_MAX / (double)n);
    return limit < INT16_MAX ? (int32_t)limit : INT16_MAX;
}

/* What values are multiplied by to become words of this scale; 0 for scales that are 0 or NaN. */
static inline float ofr_cpu_word_factor(float scale)
{
    return scale > OFR_CPU_SCALE_TINY ? 1 / scale : 0;
}

/* Words of a query. */
static inline size_t ofr_cpu_query_stride(uint32_t head_dim)
{
    return ((size_t)head_dim + 31) / 32 * 32;
}

/* Elements of a row of results, and pairs of words of a pair of values. */
static inline size_t ofr_cpu_value_stride(uint32_t head_dim)
{
    return ((size_t)head_dim + 15) / 16 * 16;
}

/* What lies behind the columns and groups of a quantized row. */
static inline void ofr_cpu_clear_padding(const ofr_cpu_activations *a, size_t row)
{
    size_t groups = a->group_stride - a->n_groups, first = row * a->group_stride + a->n_groups;
    memset(a->values + row * a->value_stride + a->columns, 0, a->value_stride - a->columns);
    memset(a->scales + first, 0, groups * sizeof *a->scales);
    memset(a->sums + first, 0, groups * sizeof *a->sums);
}

/* Where group g of a quantized row begins; of a split row its even half. */
static inline size_t ofr_cpu_group_offset(const ofr_cpu_activations *a, uint32_t g)
{
    if (!a->split) {
        return (size_t)g * OFR_CPU_ACTIVATION_GROUP;
    }
    return (size_t)(g / 4) * OFR_CPU_SPLIT_BLOCK + (size_t)(g % 4) * (OFR_CPU_ACTIVATION_GROUP / 2);
}

/* Where a gemv begins to prefetch when it begins to read `block` bytes at p, rows side by side. It
 * prefetches in the order of memory and to the second-level cache, whatever the order of its reads:
 * prefetchers, and the queues of misses beyond the first level, want one stream. At least a block
 * ahead, since the reads go to all of a block at once. Beyond the matrix it does nothing. */
static inline const uint8_t *ofr_cpu_ahead(const uint8_t *p, size_t block)
{
    const size_t least = 8192;
    return p + (block > least ? block : least);
}

const ofr_cpu_kernels *ofr_cpu_kernels_generic(void);
const ofr_cpu_kernels *ofr_cpu_kernels_avx2(void);
const ofr_cpu_kernels *ofr_cpu_kernels_avxvnni(void);
const ofr_cpu_kernels *ofr_cpu_kernels_avx512vnni(void);
const ofr_cpu_kernels *ofr_cpu_kernels_amx(void);

#endif
