/* Every kernel of every set this CPU can run: the portable ones against sums in double written
 * here, the others against the portable ones. A set that the CPU lacks is skipped and counted. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/kernels.h"
#include "base/fp16.h"

enum { MAX_ROWS = 300, MAX_TOKENS = 43 };

typedef const ofr_cpu_kernels *(*kernels_getter)(void);

typedef struct fixture {
    const ofr_cpu_kernels *kernels;
    uint64_t random;
} fixture;

static uint32_t next_random(fixture *f)
{
    f->random = f->random * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(f->random >> 32);
}

static float uniform(fixture *f, float low, float high)
{
    return low + (high - low) * (float)((double)next_random(f) / 4294967296.0);
}

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(p);
    memset(p, 0, (bytes + 63) / 64 * 64);
    return p;
}

static float *random_floats(fixture *f, size_t n, float limit)
{
    float *x = aligned(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = uniform(f, -limit, limit);
    }
    return x;
}

static uint16_t *random_halves(fixture *f, size_t n, float limit)
{
    uint16_t *x = aligned(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = ofr_float_to_half(uniform(f, -limit, limit));
    }
    return x;
}

/* Exactly as many bytes as the matrix has, so that the sanitizer sees an over-read. */
static ofr_cpu_matrix random_matrix(fixture *f, enum ofr_dtype dtype, uint32_t rows,
                                    uint32_t columns, uint32_t group)
{
    size_t bytes = (size_t)rows * columns / (dtype == OFR_DTYPE_I4 ? 2 : 1);
    uint8_t *data = malloc(bytes);
    uint16_t *scales = malloc((size_t)rows * (columns / group) * sizeof *scales);
    assert_non_null(data);
    assert_non_null(scales);
    for (size_t i = 0; i < bytes; i++) {
        data[i] = (uint8_t)next_random(f);
    }
    for (size_t i = 0; i < (size_t)rows * (columns / group); i++) {
        scales[i] = ofr_float_to_half(uniform(f, -0.02f, 0.02f));
    }
    return (ofr_cpu_matrix){.dtype = dtype,
                            .rows = rows,
                            .columns = columns,
                            .group = group,
                            .data = data,
                            .scales = scales};
}

static void add_minima(fixture *f, ofr_cpu_matrix *w)
{
    size_t n = (size_t)w->rows * (w->columns / w->group);
    uint16_t *minima = malloc(n * sizeof *minima);
    assert_non_null(minima);
    for (size_t i = 0; i < n; i++) {
        minima[i] = ofr_float_to_half(uniform(f, -0.2f, 0.05f));
    }
    w->minima = minima;
}

static void free_matrix(ofr_cpu_matrix *w)
{
    free((void *)(uintptr_t)w->minima);
    free((void *)(uintptr_t)w->data);
    free((void *)(uintptr_t)w->scales);
}

static ofr_cpu_activations new_activations(const ofr_cpu_matrix *w, size_t rows, size_t value_bytes)
{
    ofr_cpu_activations a = {.columns = w->columns,
                             .n_groups = w->columns / OFR_CPU_ACTIVATION_GROUP,
                             .split = w->dtype == OFR_DTYPE_I4,
                             .minima = w->minima != NULL};
    a.value_stride = ((size_t)a.columns * value_bytes + 127) / 128 * 128;
    a.group_stride = ((size_t)a.n_groups + 15) / 16 * 16;
    a.values = aligned(rows * a.value_stride);
    a.scales = aligned(rows * a.group_stride * sizeof *a.scales);
    a.sums = aligned(rows * a.group_stride * sizeof *a.sums);
    return a;
}

static void free_activations(ofr_cpu_activations *a)
{
    free(a->values);
    free(a->scales);
    free(a->sums);
}

/* Activations by the kernels under test, over what a wider matrix left there. */
static ofr_cpu_activations quantized(const ofr_cpu_kernels *kernels, const ofr_cpu_matrix *w,
                                     const float *x, size_t rows)
{
    ofr_cpu_activations a = new_activations(w, rows, 1);
    memset(a.values, 55, rows * a.value_stride);
    for (size_t i = 0; i < rows * a.group_stride; i++) {
        a.scales[i] = NAN;
        a.sums[i] = NAN;
    }
    for (size_t i = 0; i < rows; i++) {
        kernels->quantize(x + i * w->columns, &a, i);
    }
    return a;
}

/* Rows as the gemm wants them; the rows beyond up to a whole block hold NaN. */
static ofr_cpu_activations prepared(const ofr_cpu_gemm *gemm, const ofr_cpu_matrix *w,
                                    const float *x, uint32_t rows)
{
    uint32_t whole = (rows + OFR_CPU_TOKEN_BLOCK - 1) / OFR_CPU_TOKEN_BLOCK * OFR_CPU_TOKEN_BLOCK;
    ofr_cpu_activations a = new_activations(w, whole, gemm->value_bytes);
    memset(a.values, 255, whole * a.value_stride);
    for (uint32_t i = 0; i < rows; i++) {
        gemm->prepare(x + (size_t)i * w->columns, &a, i);
    }
    if (gemm->finish != NULL) {
        gemm->finish(&a, 0, rows);
    }
    return a;
}

/* To the nearest bf16, ties to even. */
static double to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000U;
    memcpy(&x, &bits, sizeof bits);
    return (double)x;
}

static double weight_value(const ofr_cpu_matrix *w, uint32_t n, uint32_t k)
{
    size_t at = (size_t)n * w->columns + k;
    int value;
    if (w->dtype == OFR_DTYPE_I8) {
        value = (int8_t)w->data[at];
    } else {
        int nibble = k % 2 != 0 ? w->data[at / 2] / 16 : w->data[at / 2] % 16;
        value = nibble > 7 ? nibble - 16 : nibble;
    }
    size_t group = (size_t)n * (w->columns / w->group) + k / w->group;
    double scale = (double)ofr_half_to_float(w->scales[group]);
    if (w->minima != NULL) {
        return (value + 8) * scale + (double)ofr_half_to_float(w->minima[group]);
    }
    return value * scale;
}

/* What a row of activations stands for, by the description of the format in kernels.h. */
static double activation_value(const ofr_cpu_activations *a, size_t row, uint32_t k)
{
    uint32_t at = k;
    if (a->split) {
        at = k / 128 * 128 + (k % 2 != 0 ? 64 : 0) + k % 128 / 2;
    }
    return a->values[row * a->value_stride + at] *
           (double)a->scales[row * a->group_stride + k / 32];
}

static void assert_close(double got, double expected, double tolerance, const char *what, size_t at)
{
    if (!(fabs(got - expected) <= tolerance)) {
        fail_msg("%s: element %zu is %.9g, expected %.9g (tolerance %.3g)", what, at, got, expected,
                 tolerance);
    }
}

/* Groups that kernels know and others, whole rows, last blocks of every length, and more columns
 * than a gemv spreads at once. */
static const struct shape {
    uint32_t columns, group;
} shapes[] = {{32, 32},   {64, 64},     {96, 32},     {96, 96},    {128, 128},   {160, 160},
              {192, 64},  {224, 32},    {288, 96},    {320, 160},  {576, 64},    {576, 576},
              {576, 192}, {640, 128},   {768, 256},   {1536, 128}, {1536, 1536}, {2080, 32},
              {4160, 64}, {11008, 128}, {16512, 128}, {16448, 64}, {16416, 32}};
static const enum ofr_dtype dtypes[] = {OFR_DTYPE_I4, OFR_DTYPE_I8};

static void quantization_is_within_half_a_step(void **state)
{
    fixture *f = *state;
    for (size_t s = 0; s < 2 * sizeof shapes / sizeof shapes[0]; s++) {
        const struct shape *shape = &shapes[s / 2];
        ofr_cpu_matrix w = random_matrix(f, dtypes[s % 2], 1, shape->columns, shape->group);
        float *x = random_floats(f, w.columns, 3);
        memset(x, 0, 32 * sizeof *x); /* a group of zeros has scale 0 */
        x[w.columns - 1] = 1e-36f;
        ofr_cpu_activations a = quantized(f->kernels, &w, x, 1);
        double sum = 0, sums = 0, magnitude = 0;
        int32_t nonzero = 0;
        for (uint32_t k = 0; k < w.columns; k++) {
            double scale = (double)a.scales[k / 32];
            assert_close(activation_value(&a, 0, k), (double)x[k], 0.5001 * scale + 1e-30,
                         "quantized activation", k);
            sum += activation_value(&a, 0, k);
            magnitude += fabs(activation_value(&a, 0, k));
            nonzero -= activation_value(&a, 0, k) != 0;
        }
        for (size_t i = 0; i < a.value_stride; i++) { /* the padding is zeros */
            assert_true(a.values[i] >= -127);
            nonzero += a.values[i] != 0;
        }
        assert_int_equal(nonzero, 0);
        for (size_t g = 0; g < a.group_stride; g++) {
            assert_true(g < a.n_groups || (a.scales[g] == 0 && a.sums[g] == 0));
            sums += (double)a.sums[g];
        }
        assert_close(sums, sum, 1e-6 * magnitude, "sum of a row", s);
        free(x);
        free_activations(&a);
        free_matrix(&w);
    }
}

static void check_gemv(fixture *f, const ofr_cpu_matrix *w, const float *x)
{
    ofr_cpu_activations a = quantized(f->kernels, w, x, 2);
    float *y = aligned(MAX_ROWS * sizeof *y);
    uint32_t begin = w->rows / 3;
    f->kernels->gemv(w, &a, 1, begin, w->rows, y);
    for (uint32_t n = begin; n < w->rows; n++) {
        double expected = 0, magnitude = 0;
        for (uint32_t k = 0; k < w->columns; k++) {
            double term = weight_value(w, n, k) * activation_value(&a, 1, k);
            expected += term;
            magnitude += fabs(term);
        }
        assert_close((double)y[n - begin], expected, 1e-5 * magnitude + 1e-9, "gemv", n);
    }
    free(y);
    free_activations(&a);
}

/* What the gemm multiplies: int8 activations, or both sides as bf16. */
static double gemm_term(const ofr_cpu_gemm *gemm, const ofr_cpu_matrix *w, uint32_t n,
                        const ofr_cpu_activations *rounded, const float *x, uint32_t t, uint32_t k)
{
    if (gemm->value_bytes == 1) {
        return weight_value(w, n, k) * activation_value(rounded, t, k);
    }
    return to_bf16((float)weight_value(w, n, k)) * to_bf16(x[(size_t)t * w->columns + k]);
}

static void check_gemm(fixture *f, const ofr_cpu_gemm *gemm, const ofr_cpu_matrix *w,
                       const float *x, uint32_t n_tokens)
{
    ofr_cpu_activations a = prepared(gemm, w, x, n_tokens);
    ofr_cpu_activations rounded = quantized(f->kernels, w, x, n_tokens);
    size_t stride = OFR_CPU_GEMM_ROWS_MAX + 5;
    void *scratch = aligned(gemm->scratch_bytes(w->columns, n_tokens));
    float *y = aligned(n_tokens * stride * sizeof *y);
    for (uint32_t begin = 0; begin < w->rows; begin += gemm->max_rows) {
        uint32_t n = w->rows - begin < gemm->max_rows ? w->rows - begin : gemm->max_rows;
        gemm->multiply(w, begin, n, &a, n_tokens, scratch, y, stride);
        for (uint32_t i = 0; i < n_tokens * n; i++) {
            uint32_t t = i / n, r = i % n;
            double expected = 0, magnitude = 0;
            for (uint32_t k = 0; k < w->columns; k++) {
                double term = gemm_term(gemm, w, begin + r, &rounded, x, t, k);
                expected += term;
                magnitude += fabs(term);
            }
            assert_close((double)y[t * stride + r], expected, 1e-5 * magnitude + 1e-9, gemm->name,
                         begin + r);
        }
    }
    free(y);
    free(scratch);
    free_activations(&rounded);
    free_activations(&a);
}

static void products_match_sums_in_double(void **state)
{
    fixture *f = *state;
    static const uint32_t row_counts[] = {1, 3, 4, 33, 300}, token_counts[] = {1, 11, 16, 17, 43};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (size_t d = 0; d < (shapes[s].group == 32 ? 3 : 2); d++) { /* the third has minima */
            uint32_t rows = row_counts[(s + d) % 5], n_tokens = token_counts[(s + 2 * d) % 5];
            ofr_cpu_matrix w =
                random_matrix(f, dtypes[d % 2], rows, shapes[s].columns, shapes[s].group);
            if (d == 2) {
                add_minima(f, &w);
            }
            float *x = random_floats(f, (size_t)MAX_TOKENS * w.columns, 2);
            check_gemv(f, &w, x);
            for (const ofr_cpu_gemm *const *gemm = f->kernels->gemms; *gemm != NULL; gemm++) {
                check_gemm(f, *gemm, &w, x, n_tokens);
            }
            free(x);
            free_matrix(&w);
        }
    }
}

static const size_t lengths[] = {1, 2, 15, 16, 17, 31, 33, 64, 100, 576};
enum { N_LENGTHS = sizeof lengths / sizeof lengths[0] };

static void elementwise_kernels_match_double(void **state)
{
    fixture *f = *state;
    for (size_t l = 0; l < N_LENGTHS; l++) {
        size_t n = lengths[l];
        float *x = random_floats(f, n, 12), *z = random_floats(f, n, 2), *y = aligned(4 * n + 4);
        uint16_t *h = aligned(2 * n + 2);
        double squares = 0, dot = 0, dot_half = 0, magnitude = 1;
        f->kernels->float_to_half(x, n, h);
        y[n] = 77;
        f->kernels->half_to_float(h, n, y);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(h[i], ofr_float_to_half(x[i]));
            assert_true(y[i] == ofr_half_to_float(h[i]));
            squares += (double)x[i] * (double)x[i];
            dot += (double)x[i] * (double)z[i];
            dot_half += (double)z[i] * (double)y[i];
            magnitude += fabs((double)z[i] * (double)x[i]);
        }
        assert_true(y[n] == 77);
        assert_int_equal(h[n], 0);
        assert_close((double)f->kernels->dot_f32(x, z, n), dot, 1e-6 * magnitude, "dot_f32", n);
        assert_close((double)f->kernels->dot_f16(z, h, n), dot_half, 1e-6 * magnitude, "dot_f16",
                     n);
        f->kernels->rms_norm(x, z, n, 1e-5f, y);
        double factor = 1 / sqrt(squares / (double)n + 1e-5);
        for (size_t i = 0; i < n; i++) {
            assert_close((double)y[i], (double)x[i] * factor * (double)z[i], 1e-5, "rms_norm", i);
        }
        f->kernels->swiglu(x, z, n, y);
        for (size_t i = 0; i < n; i++) {
            assert_close((double)y[i], (double)x[i] / (1 + exp(-(double)x[i])) * (double)z[i], 1e-5,
                         "swiglu", i);
        }
        memcpy(y, x, n * sizeof *y);
        f->kernels->scale(y, n, -0.5f);
        float largest = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            assert_true(y[i] == x[i] * -0.5f);
            largest = x[i] > largest ? x[i] : largest;
        }
        assert_true(f->kernels->maximum(x, n) == largest);
        memcpy(y, x, n * sizeof *y);
        double sum = 0, got = (double)f->kernels->exp_sum(y, n, largest);
        for (size_t i = 0; i < n; i++) {
            double expected = exp((double)x[i] - (double)largest);
            sum += expected;
            assert_close((double)y[i], expected, 3e-7 * expected + 1e-9, "exp", i);
        }
        assert_close(got, sum, 1e-5 * sum, "exp_sum", n);
        assert_true(y[n] == 77);
        free(x);
        free(z);
        free(y);
        free(h);
    }
}

static void extreme_values_of_exp_and_silu(void **state)
{
    fixture *f = *state;
    float x[4] = {-INFINITY, -200, -90, 0}, gate[4] = {-1000, -100, 0, 1000};
    float up[4] = {1, 1, 1, 1}, y[4];
    assert_close((double)f->kernels->exp_sum(x, 4, 0), 1, 1e-6, "exp_sum", 0);
    assert_close((double)x[0], 0, 1e-30, "exp(-inf)", 0);
    assert_close((double)x[1], 0, 1e-30, "exp(-200)", 1);
    f->kernels->swiglu(gate, up, 4, y);
    assert_close((double)y[0], 0, 1e-30, "silu(-1000)", 0);
    assert_close((double)y[1], 0, 1e-30, "silu(-100)", 1);
    assert_close((double)y[2], 0, 1e-30, "silu(0)", 2);
    assert_close((double)y[3], 1000, 1e-3, "silu(1000)", 3);
}

/* Heads of any even size, rotated whole, in part or not at all, elsewhere and in place. */
static void rotation_matches_double(void **state)
{
    fixture *f = *state;
    static const uint32_t dims[][2] = {{2, 1},   {16, 8},  {48, 24},  {64, 32},  {80, 16},
                                       {96, 48}, {100, 3}, {128, 64}, {256, 33}, {64, 0}};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        uint32_t d = dims[i][0], half = dims[i][1];
        float *x = random_floats(f, d, 1), *y = random_floats(f, d + 1, 1);
        float *c = random_floats(f, half + 1, 1), *s = random_floats(f, half + 1, 1);
        float after = y[d];
        f->kernels->rotate(x, c, s, half, d, 0.25f, y);
        assert_true(y[d] == after);
        for (uint32_t j = 0; j < d; j++) {
            double expected = (double)x[j];
            if (j < half) {
                expected = (double)x[j] * (double)c[j] - (double)x[j + half] * (double)s[j];
            } else if (j < 2 * half) {
                uint32_t k = j - half;
                expected = (double)x[j] * (double)c[k] + (double)x[k] * (double)s[k];
            }
            assert_close((double)y[j], 0.25 * expected, 1e-6, "rotate", j);
        }
        f->kernels->rotate(x, c, s, half, d, 0.25f, x);
        assert_memory_equal(x, y, d * sizeof *x);
        free(x);
        free(y);
        free(c);
        free(s);
    }
}

static void attention_kernels_match_double(void **state)
{
    fixture *f = *state;
    static const uint32_t dims[] = {2, 16, 32, 48, 64, 80, 96, 100, 128, 256};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        uint32_t d = dims[i], heads = 1 + (uint32_t)i % 9, n = 1 + next_random(f) % 64;
        size_t stride = 3 * (size_t)d;
        uint16_t *k = random_halves(f, n * stride, 1);
        float *q = random_floats(f, (size_t)heads * d, 1), *out = random_floats(f, heads * d, 1);
        float *before = aligned((size_t)heads * d * 4);
        float *scores = aligned((size_t)heads * OFR_CPU_KEY_BLOCK * 4);
        memcpy(before, out, (size_t)heads * d * 4);
        f->kernels->attention_scores(q, d, heads, k, stride, n, d, k, stride, scores);
        f->kernels->attention_values(scores, heads, k, stride, n, d, k, stride, out);
        for (uint32_t h = 0; h < heads; h++) {
            for (uint32_t j = 0; j < n; j++) {
                double sum = 0;
                for (uint32_t e = 0; e < d; e++) {
                    sum += (double)q[h * d + e] * (double)ofr_half_to_float(k[j * stride + e]);
                }
                assert_close((double)scores[h * OFR_CPU_KEY_BLOCK + j], sum, 1e-4, "score", j);
            }
            for (uint32_t e = 0; e < d; e++) {
                double sum = (double)before[h * d + e];
                for (uint32_t j = 0; j < n; j++) {
                    sum += (double)scores[h * OFR_CPU_KEY_BLOCK + j] *
                           (double)ofr_half_to_float(k[j * stride + e]);
                }
                assert_close((double)out[h * d + e], sum, 1e-3, "value", e);
            }
        }
        free(k);
        free(q);
        free(out);
        free(before);
        free(scores);
    }
}

/* A block of queries against a block of keys and values, in words. */
typedef struct word_block {
    uint32_t rows, n, d;
    size_t stride; /* of k and v */
    uint16_t *k, *v;
    float *q; /* [rows][d] */
    int16_t *query, *keys, *values, *weights;
    float *query_scales, *key_scales, *value_scales, *scores, *out;
} word_block;

static word_block make_word_block(fixture *f, uint32_t rows, uint32_t n, uint32_t d, float limit)
{
    size_t stride = 3 * (size_t)d, words = ofr_cpu_query_stride(d);
    word_block b = {
        .rows = rows,
        .n = n,
        .d = d,
        .stride = stride,
        .k = random_halves(f, n * stride, limit),
        .v = random_halves(f, n * stride, limit),
        .q = random_floats(f, (size_t)rows * d, 1),
        .query = aligned(rows * words * sizeof(int16_t)),
        .keys = aligned(words * OFR_CPU_KEY_BLOCK * sizeof(int16_t)),
        .values = aligned(ofr_cpu_value_stride(d) * OFR_CPU_KEY_BLOCK * sizeof(int16_t)),
        .weights = aligned((size_t)rows * OFR_CPU_KEY_BLOCK * sizeof(int16_t)),
        .query_scales = aligned(rows * sizeof(float)),
        .key_scales = aligned(OFR_CPU_KEY_BLOCK * sizeof(float)),
        .value_scales = aligned(OFR_CPU_KEY_BLOCK * sizeof(float)),
        .scores = aligned((size_t)rows * OFR_CPU_KEY_BLOCK * sizeof(float)),
        .out = random_floats(f, rows * ofr_cpu_value_stride(d), 1),
    };
    return b;
}

static void free_word_block(word_block *b)
{
    free(b->k);
    free(b->v);
    free(b->q);
    free(b->query);
    free(b->keys);
    free(b->values);
    free(b->weights);
    free(b->query_scales);
    free(b->key_scales);
    free(b->value_scales);
    free(b->scores);
    free(b->out);
}

static void quantize_word_block(const ofr_cpu_kernels *kernels, word_block *b)
{
    for (uint32_t r = 0; r < b->rows; r++) {
        b->query_scales[r] = kernels->quantize_query(b->q + (size_t)r * b->d, b->d,
                                                     b->query + r * ofr_cpu_query_stride(b->d));
    }
    /* What was there before must not matter. */
    memset(b->keys, 0x5a, ofr_cpu_query_stride(b->d) * OFR_CPU_KEY_BLOCK * sizeof(int16_t));
    memset(b->values, 0x5a, ofr_cpu_value_stride(b->d) * OFR_CPU_KEY_BLOCK * sizeof(int16_t));
    kernels->quantize_keys(b->k, b->stride, b->n, b->d, b->keys, b->key_scales);
    kernels->quantize_values(b->v, b->stride, b->n, b->d, b->values, b->value_scales);
}

static float largest_of(const float *x, uint32_t n)
{
    float largest = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        largest = fmaxf(largest, x[i]);
    }
    return largest;
}

/* Each step against doubles: an element of a word is off by half a step of its row's largest. */
static void word_block_matches_double(void **state)
{
    fixture *f = *state;
    static const uint32_t dims[] = {2, 16, 32, 48, 64, 80, 96, 100, 128, 256};
    for (uint32_t i = 0; i < 3 * sizeof dims / sizeof dims[0]; i++) {
        uint32_t d = dims[i / 3], rows = 1 + next_random(f) % 21, n = 1 + next_random(f) % 64;
        word_block b = make_word_block(f, rows, n, d, 2);
        quantize_word_block(f->kernels, &b);
        f->kernels->block_scores(b.query, b.query_scales, rows, b.keys, b.key_scales, n, d,
                                 b.scores);
        float largest_scale = largest_of(b.value_scales, n);
        float limit = (float)ofr_cpu_word_limit(OFR_CPU_KEY_BLOCK);
        float corrections[21], factors[21];
        size_t stride = ofr_cpu_value_stride(d);
        float *before = aligned(rows * stride * sizeof *before);
        memcpy(before, b.out, rows * stride * sizeof *before);
        for (uint32_t r = 0; r < rows; r++) {
            float *scores = b.scores + (size_t)r * OFR_CPU_KEY_BLOCK, sum = 0;
            for (uint32_t j = 0; j < n; j++) {
                double dot = 0;
                for (uint32_t e = 0; e < d; e++) {
                    dot +=
                        (double)b.q[r * d + e] * (double)ofr_half_to_float(b.k[j * b.stride + e]);
                }
                double step = 3.0 / ofr_cpu_word_limit(d); /* |q| <= 1, |k| <= 2 */
                assert_close((double)scores[j], dot, step * sqrt(d), "score", j);
            }
            float largest = largest_of(scores, n);
            float got =
                f->kernels->block_weights(scores, b.value_scales, n, largest, limit / largest_scale,
                                          b.weights + (size_t)r * OFR_CPU_KEY_BLOCK);
            for (uint32_t j = 0; j < n; j++) {
                float e = expf(scores[j] - largest);
                sum += e;
                float expected = e * b.value_scales[j] * limit / largest_scale;
                assert_close((double)b.weights[r * OFR_CPU_KEY_BLOCK + j], (double)expected, 0.55,
                             "weight", j);
            }
            assert_close((double)got, (double)sum, 1e-5 * (double)sum, "sum", r);
            corrections[r] = uniform(f, 0, 1);
            factors[r] = uniform(f, 0, 1) / limit;
        }
        f->kernels->block_values(b.weights, corrections, factors, rows, b.values, n, d, b.out);
        for (uint32_t r = 0; r < rows; r++) {
            for (uint32_t e = 0; e < d; e++) {
                double sum = 0, step = 0;
                for (uint32_t j = 0; j < n; j++) {
                    double weight = (double)b.weights[r * OFR_CPU_KEY_BLOCK + j];
                    sum += weight * (double)ofr_half_to_float(b.v[j * b.stride + e]) /
                           (double)b.value_scales[j];
                    step += 0.51 * weight;
                }
                double factor = (double)factors[r];
                double expected = (double)before[r * stride + e] * (double)corrections[r];
                assert_close((double)b.out[r * stride + e], expected + factor * sum,
                             factor * step + 1e-4, "value", e);
            }
        }
        free(before);
        free_word_block(&b);
    }
}

/* Sums of the largest words do not overflow, and weights stay words. */
static void word_block_takes_extremes(void **state)
{
    fixture *f = *state;
    static const uint32_t dims[] = {2, 64, 128, 256};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        uint32_t d = dims[i], n = OFR_CPU_KEY_BLOCK;
        word_block b = make_word_block(f, 1, n, d, 1);
        for (size_t e = 0; e < d; e++) {
            b.q[e] = e % 2 == 0 ? 3 : -3;
        }
        for (size_t e = 0; e < n * b.stride; e++) {
            float x = e % b.stride % 2 == 0 ? 65504.0f : -65504.0f;
            b.k[e] = b.v[e] = ofr_float_to_half(x);
        }
        quantize_word_block(f->kernels, &b);
        f->kernels->block_scores(b.query, b.query_scales, 1, b.keys, b.key_scales, n, d, b.scores);
        float factor = (float)ofr_cpu_word_limit(n) / b.value_scales[0];
        float sum =
            f->kernels->block_weights(b.scores, b.value_scales, n, b.scores[0], factor, b.weights);
        assert_close((double)sum, n, 1e-3, "sum", d);
        float correction = 0, scale = 1 / factor;
        f->kernels->block_values(b.weights, &correction, &scale, 1, b.values, n, d, b.out);
        for (uint32_t j = 0; j < n; j++) {
            assert_close((double)b.scores[j], 3 * 65504.0 * d, 3 * 65504.0 * d * 1e-6, "score", j);
            assert_int_equal(b.weights[j], ofr_cpu_word_limit(n));
        }
        for (uint32_t e = 0; e < d; e++) {
            double expected = (e % 2 == 0 ? 65504.0 : -65504.0) * n;
            assert_close((double)b.out[e], expected, 65504.0 * n * 1e-5, "value", e);
        }
        free_word_block(&b);
    }
}

/* What is no number must not become one; zeros must not become NaN. */
static void word_block_keeps_nan(void **state)
{
    fixture *f = *state;
    const uint32_t d = 80, n = 37;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        word_block b = make_word_block(f, 2, n, d, 1);
        b.q[d + 71] = bad[i];
        b.k[20 * b.stride + 77] = ofr_float_to_half(bad[i]);
        b.v[36 * b.stride + 3] = ofr_float_to_half(bad[i]);
        memset(b.k, 0, d * sizeof *b.k);
        memset(b.v, 0, d * sizeof *b.v);
        quantize_word_block(f->kernels, &b);
        f->kernels->block_scores(b.query, b.query_scales, 2, b.keys, b.key_scales, n, d, b.scores);
        assert_true(b.scores[0] == 0 && b.value_scales[0] == 0);
        assert_true(!isfinite(b.query_scales[1]));
        assert_true(!isfinite(b.scores[OFR_CPU_KEY_BLOCK + 5]));
        assert_true(isfinite(b.scores[19]));
        assert_true(!isfinite(b.scores[20]));
        assert_true(isfinite(b.scores[21]));
        assert_true(isfinite(b.value_scales[35]));
        assert_true(!isfinite(b.value_scales[36]));
        free_word_block(&b);
    }
}

int main(void)
{
    static const kernels_getter getters[] = {ofr_cpu_kernels_generic, ofr_cpu_kernels_avx2,
                                             ofr_cpu_kernels_avxvnni, ofr_cpu_kernels_avx512vnni,
                                             ofr_cpu_kernels_amx};
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    int failed = 0;
    for (size_t i = 0; i < sizeof getters / sizeof getters[0]; i++) {
        fixture f = {.kernels = getters[i](), .random = 20260101 + i};
        if (!f.kernels->supported(&features)) {
            print_message("SKIPPED: this CPU lacks %s\n", f.kernels->name);
            continue;
        }
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(quantization_is_within_half_a_step, &f),
            cmocka_unit_test_prestate(products_match_sums_in_double, &f),
            cmocka_unit_test_prestate(rotation_matches_double, &f),
            cmocka_unit_test_prestate(elementwise_kernels_match_double, &f),
            cmocka_unit_test_prestate(extreme_values_of_exp_and_silu, &f),
            cmocka_unit_test_prestate(attention_kernels_match_double, &f),
            cmocka_unit_test_prestate(word_block_matches_double, &f),
            cmocka_unit_test_prestate(word_block_takes_extremes, &f),
            cmocka_unit_test_prestate(word_block_keeps_nan, &f),
        };
        failed += cmocka_run_group_tests_name(f.kernels->name, tests, NULL, NULL);
    }
    return failed;
}
