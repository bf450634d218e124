/* Blocked products: panels of A and B are packed into each thread's buffer, tiles of C are shared
 * out among threads. */
#include "calibration/matrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calibration/matrix_kernel.h"

enum {
    BLOCK_ROWS = 192, /* a multiple of every kernel's rows */
    BLOCK_COLUMNS = 512,
    PANEL = 64,       /* columns of a step of the Cholesky factor */
    PANEL_LANES = 16, /* rows that its triangular solve takes at once */
};

typedef struct thread_buffers {
    float *a, *b; /* [DEPTH][BLOCK_ROWS], [DEPTH][BLOCK_COLUMNS], in panels of the kernel's width */
} thread_buffers;

struct ofr_matrix_engine {
    ofr_thread_pool *pool;
    const ofr_matrix_kernel *kernel;
    unsigned n_threads;
    void *memory;
    thread_buffers *buffers; /* [n_threads] */
    /* the work that runs */
    const ofr_matrix_product *product;
    float *factor;
    size_t factor_size, factor_at;
};

static void run_generic(size_t depth, const float *a, const float *b, float *c, size_t c_row)
{
    float sum[4][4] = {{0}};
    for (size_t k = 0; k < depth; k++)
        for (size_t i = 0; i < 4; i++)
            for (size_t j = 0; j < 4; j++)
                sum[i][j] = __builtin_fmaf(a[4 * k + i], b[4 * k + j], sum[i][j]);
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 4; j++)
            c[i * c_row + j] += sum[i][j];
}

const ofr_matrix_kernel *ofr_matrix_kernel_generic(void)
{
    static const ofr_matrix_kernel table = {4, 4, run_generic};
    return &table;
}

int ofr_matrix_engine_new(unsigned n_threads, ofr_matrix_engine **ret_engine, ofr_error *err)
{
    ofr_matrix_engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    engine->kernel = features.avx512 ? ofr_matrix_kernel_avx512()
                     : features.avx2 ? ofr_matrix_kernel_avx2()
                                     : ofr_matrix_kernel_generic();
    engine->n_threads = n_threads;
    size_t floats = (size_t)OFR_MATRIX_DEPTH * (BLOCK_ROWS + BLOCK_COLUMNS);
    engine->memory = aligned_alloc(64, n_threads * floats * sizeof(float));
    engine->buffers = calloc(n_threads, sizeof *engine->buffers);
    int r = 0;
    if (!engine->memory || !engine->buffers)
        r = ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    if (r == 0)
        r = ofr_thread_pool_new(n_threads, false, &engine->pool, err);
    if (r < 0) {
        ofr_matrix_engine_free(engine);
        return r;
    }
    for (unsigned i = 0; i < n_threads; i++) {
        engine->buffers[i].a = (float *)engine->memory + i * floats;
        engine->buffers[i].b = engine->buffers[i].a + (size_t)OFR_MATRIX_DEPTH * BLOCK_ROWS;
    }
    *ret_engine = engine;
    return 0;
}

ofr_matrix_engine *ofr_matrix_engine_free(ofr_matrix_engine *engine)
{
    if (!engine)
        return NULL;
    ofr_thread_pool_free(engine->pool);
    free(engine->buffers);
    free(engine->memory);
    free(engine);
    return NULL;
}

ofr_thread_pool *ofr_matrix_engine_pool(const ofr_matrix_engine *engine)
{
    return engine->pool;
}

/* ---- products ---- */

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Elements (i, k), i < n, k < depth, at from[i * stride + k * step], into panels of `width`:
 * to[(i / width) * depth * width + k * width + i % width]; rows beyond n are 0. */
static void pack(const float *from, size_t stride, size_t step, size_t n, size_t depth,
                 size_t width, float sign, float *to)
{
    for (size_t first = 0; first < n; first += width, to += depth * width) {
        size_t count = min_size(width, n - first);
        const float *source = from + first * stride;
        if (count < width)
            memset(to, 0, depth * width * sizeof *to);
        if (stride == 1) {
            for (size_t k = 0; k < depth; k++)
                for (size_t i = 0; i < count; i++)
                    to[k * width + i] = sign * source[k * step + i];
            continue;
        }
        for (size_t k0 = 0; k0 < depth; k0 += 16) {
            size_t end = min_size(k0 + 16, depth);
            for (size_t i = 0; i < count; i++)
                for (size_t k = k0; k < end; k++)
                    to[k * width + i] = sign * source[i * stride + k * step];
        }
    }
}

/* One tile of C that reaches over its edge: through a copy. */
static void run_edge(const ofr_matrix_kernel *kernel, size_t depth, const float *a, const float *b,
                     float *c, size_t c_row, size_t rows, size_t columns)
{
    float tile[OFR_MATRIX_MAX_ROWS * OFR_MATRIX_MAX_COLUMNS];
    memset(tile, 0, sizeof tile);
    for (size_t i = 0; i < rows; i++)
        memcpy(tile + i * kernel->columns, c + i * c_row, columns * sizeof *c);
    kernel->run(depth, a, b, tile, kernel->columns);
    for (size_t i = 0; i < rows; i++)
        memcpy(c + i * c_row, tile + i * kernel->columns, columns * sizeof *c);
}

static void multiply_block(const ofr_matrix_engine *engine, const thread_buffers *buffers,
                           size_t row, size_t column)
{
    const ofr_matrix_product *p = engine->product;
    const ofr_matrix_kernel *kernel = engine->kernel;
    size_t rows = min_size(BLOCK_ROWS, p->m - row),
           columns = min_size(BLOCK_COLUMNS, p->n - column);
    float *c = p->c + row * p->c_row + column;
    if (!p->accumulate)
        for (size_t i = 0; i < rows; i++)
            memset(c + i * p->c_row, 0, columns * sizeof *c);
    for (size_t k = 0; k < p->k; k += OFR_MATRIX_DEPTH) {
        size_t depth = min_size(OFR_MATRIX_DEPTH, p->k - k);
        pack(p->a + row * p->a_row + k * p->a_column, p->a_row, p->a_column, rows, depth,
             kernel->rows, p->negate ? -1 : 1, buffers->a);
        pack(p->b + k * p->b_row + column * p->b_column, p->b_column, p->b_row, columns, depth,
             kernel->columns, 1, buffers->b);
        for (size_t j = 0; j < columns; j += kernel->columns) {
            const float *b = buffers->b + j * depth;
            size_t n = min_size(kernel->columns, columns - j);
            for (size_t i = 0; i < rows; i += kernel->rows) {
                size_t m = min_size(kernel->rows, rows - i);
                float *tile = c + i * p->c_row + j;
                if (m == kernel->rows && n == kernel->columns)
                    kernel->run(depth, buffers->a + i * depth, b, tile, p->c_row);
                else
                    run_edge(kernel, depth, buffers->a + i * depth, b, tile, p->c_row, m, n);
            }
        }
    }
}

static void multiply_region(void *context, uint32_t thread)
{
    ofr_matrix_engine *engine = context;
    const ofr_matrix_product *p = engine->product;
    size_t across = (p->n + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
    size_t down = (p->m + BLOCK_ROWS - 1) / BLOCK_ROWS;
    for (;;) {
        size_t block = ofr_thread_pool_next(engine->pool);
        if (block >= across * down)
            return;
        size_t row = block % down * BLOCK_ROWS, column = block / down * BLOCK_COLUMNS;
        if (!p->lower || column < row + BLOCK_ROWS)
            multiply_block(engine, &engine->buffers[thread], row, column);
    }
}

void ofr_matrix_multiply(ofr_matrix_engine *engine, const ofr_matrix_product *product)
{
    engine->product = product;
    ofr_thread_pool_run(engine->pool, multiply_region, engine);
    engine->product = NULL;
}

void ofr_matrix_multiply_nt(ofr_matrix_engine *engine, const float *a, const float *b, float *c,
                            size_t m, size_t n, size_t k, bool accumulate)
{
    ofr_matrix_product product = {.m = m,
                                  .n = n,
                                  .k = k,
                                  .a = a,
                                  .a_row = k,
                                  .a_column = 1,
                                  .b = b,
                                  .b_row = 1,
                                  .b_column = k,
                                  .c = c,
                                  .c_row = n,
                                  .accumulate = accumulate};
    ofr_matrix_multiply(engine, &product);
}

void ofr_matrix_add_gram(ofr_matrix_engine *engine, const float *a, const float *b, float *c,
                         size_t m, size_t n, size_t t)
{
    ofr_matrix_product product = {.m = m,
                                  .n = n,
                                  .k = t,
                                  .a = a,
                                  .a_row = 1,
                                  .a_column = m,
                                  .b = b,
                                  .b_row = n,
                                  .b_column = 1,
                                  .c = c,
                                  .c_row = n,
                                  .accumulate = true,
                                  .lower = a == b && m == n};
    ofr_matrix_multiply(engine, &product);
}

/* ---- Cholesky: a panel of columns at a time, then the rest loses the panel's product ---- */

/* The diagonal block, in double. */
static bool factor_block(float *a, size_t row_stride, size_t n)
{
    double l[PANEL][PANEL];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = (double)a[i * row_stride + j];
            for (size_t k = 0; k < j; k++)
                sum -= l[i][k] * l[j][k];
            if (i == j) {
                if (!(sum > 0) || !isfinite(sum))
                    return false;
                l[i][i] = sqrt(sum);
            } else {
                l[i][j] = sum / l[j][j];
            }
            a[i * row_stride + j] = (float)l[i][j];
        }
    return true;
}

/* Rows below the diagonal block: x L^T = a for PANEL_LANES rows at once. */
static void solve_rows(const ofr_matrix_engine *engine, size_t row, size_t rows, size_t n)
{
    size_t stride = engine->factor_size, at = engine->factor_at;
    const float *l = engine->factor + at * stride + at;
    float *a = engine->factor + row * stride + at;
    float x[PANEL][PANEL_LANES] = {{0}};
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++)
            x[j][i] = a[i * stride + j];
    for (size_t j = 0; j < n; j++) {
        for (size_t k = 0; k < j; k++) {
            float factor = l[j * stride + k];
            for (size_t i = 0; i < PANEL_LANES; i++)
                x[j][i] -= factor * x[k][i];
        }
        float inverse = 1 / l[j * stride + j];
        for (size_t i = 0; i < PANEL_LANES; i++)
            x[j][i] *= inverse;
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++)
            a[i * stride + j] = x[j][i];
}

static void solve_region(void *context, uint32_t thread)
{
    (void)thread;
    ofr_matrix_engine *engine = context;
    size_t n = min_size(PANEL, engine->factor_size - engine->factor_at);
    for (;;) {
        size_t row =
            engine->factor_at + n + ofr_thread_pool_next(engine->pool) * (size_t)PANEL_LANES;
        if (row >= engine->factor_size)
            return;
        solve_rows(engine, row, min_size(PANEL_LANES, engine->factor_size - row), n);
    }
}

bool ofr_matrix_cholesky(ofr_matrix_engine *engine, float *a, size_t n)
{
    engine->factor = a;
    engine->factor_size = n;
    for (size_t at = 0; at < n; at += PANEL) {
        size_t width = min_size(PANEL, n - at), rest = n - at - width;
        if (!factor_block(a + at * n + at, n, width))
            return false;
        if (rest == 0)
            break;
        engine->factor_at = at;
        ofr_thread_pool_run(engine->pool, solve_region, engine);
        const float *panel = a + (at + width) * n + at;
        ofr_matrix_product update = {.m = rest,
                                     .n = rest,
                                     .k = width,
                                     .a = panel,
                                     .a_row = n,
                                     .a_column = 1,
                                     .b = panel,
                                     .b_row = 1,
                                     .b_column = n,
                                     .c = a + (at + width) * n + at + width,
                                     .c_row = n,
                                     .accumulate = true,
                                     .lower = true,
                                     .negate = true};
        ofr_matrix_multiply(engine, &update);
    }
    return true;
}
