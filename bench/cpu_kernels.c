/* What the CPU kernels reach on this machine: matrix-vector and matrix-matrix products for each
 * instruction set and weight format, with weights from cache and from memory, beside a plain read;
 * the cost of a barrier; and the decode and prefill rate of a package without any other process.
 *
 *   bench_cpu_kernels                     the products
 *   bench_cpu_kernels PACKAGE [THREADS]   decode and prefill, in this process
 *   bench_cpu_kernels shape:mistral-7b [THREADS]   the same of random weights, beside what the
 *                                         machine's memory and tiles can do
 * KERNELS in the environment chooses the instruction set.
 *
 * Medians of RUNS; prints a table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/kernels.h"
#include "base/clock.h"
#include "base/cpu_features.h"
#include "base/thread_pool.h"
#include "bench/amx_peak.h"
#include "bench/random_model.h"
#include "engine/kv.h"
#include "engine/model.h"
#include "package/package.h"

enum { RUNS = 9, TOKENS = 512, BARRIERS = 20000 };

typedef const ofr_cpu_kernels *(*kernels_getter)(void);

static void die(const char *what, const ofr_error *err)
{
    fprintf(stderr, "bench_cpu_kernels: %s: %s\n", what, err != NULL ? err->text : "");
    exit(1);
}

static void *memory(size_t bytes)
{
    size_t huge = (size_t)2 << 20;
    bytes = (bytes + huge - 1) / huge * huge;
    void *p = aligned_alloc(huge, bytes);
    if (p == NULL) {
        die("out of memory", NULL);
    }
    madvise(p, bytes, MADV_HUGEPAGE);
    memset(p, 1, bytes);
    return p;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare);
    return values[n / 2];
}

typedef struct shape {
    enum ofr_dtype dtype;
    uint32_t rows, columns, group;
} shape;

static ofr_cpu_matrix make_matrix(const shape *s)
{
    size_t values = (size_t)s->rows * s->columns;
    size_t bytes = s->dtype == OFR_DTYPE_I4 ? values / 2 : values;
    uint8_t *data = memory(bytes + 4096);
    uint16_t *scales = memory(values / s->group * sizeof *scales + 4096);
    for (size_t i = 0; i < bytes; i++) {
        data[i] = (uint8_t)(i * 2654435761U >> 13);
    }
    for (size_t i = 0; i < values / s->group; i++) {
        scales[i] = 0x2000;
    }
    return (ofr_cpu_matrix){.dtype = s->dtype,
                            .rows = s->rows,
                            .columns = s->columns,
                            .group = s->group,
                            .data = data,
                            .scales = scales};
}

/* `gemm` NULL: quantized rows */
static ofr_cpu_activations make_activations(const ofr_cpu_kernels *kernels,
                                            const ofr_cpu_matrix *matrix, const ofr_cpu_gemm *gemm,
                                            uint32_t n)
{
    size_t width = (size_t)matrix->columns * (gemm != NULL ? gemm->value_bytes : 1);
    ofr_cpu_activations a = {
        .columns = matrix->columns,
        .n_groups = matrix->columns / OFR_CPU_ACTIVATION_GROUP,
        .split = matrix->dtype == OFR_DTYPE_I4,
        .value_stride = (width / OFR_CPU_SPLIT_BLOCK + 1) * OFR_CPU_SPLIT_BLOCK,
    };
    a.group_stride = ((size_t)a.n_groups / 16 + 1) * 16;
    a.values = memory(n * a.value_stride);
    a.scales = memory(n * a.group_stride * sizeof *a.scales);
    a.sums = memory(n * a.group_stride * sizeof *a.sums);
    float *x = memory(matrix->columns * sizeof *x);
    for (uint32_t i = 0; i < matrix->columns; i++) {
        x[i] = (float)((i * 7) % 13) - 6;
    }
    for (uint32_t row = 0; row < n; row++) {
        (gemm != NULL ? gemm->prepare : kernels->quantize)(x, &a, row);
    }
    if (gemm != NULL && gemm->finish != NULL) {
        gemm->finish(&a, 0, n);
    }
    free(x);
    return a;
}

static void free_activations(ofr_cpu_activations *a)
{
    free(a->values);
    free(a->scales);
    free(a->sums);
}

/* Weight bytes per second of one core. */
static double gemv_rate(const ofr_cpu_kernels *kernels, const ofr_cpu_matrix *matrix)
{
    ofr_cpu_activations a = make_activations(kernels, matrix, NULL, 1);
    double bytes = (double)matrix->rows * matrix->columns *
                   ((matrix->dtype == OFR_DTYPE_I4 ? 0.5 : 1) + 2.0 / matrix->group);
    uint32_t passes = bytes < 64e6 ? (uint32_t)(64e6 / bytes) : 1;
    float *y = memory(matrix->rows * sizeof *y);
    double rates[RUNS];
    for (int run = 0; run < RUNS; run++) {
        uint64_t begin = ofr_clock_ns();
        for (uint32_t pass = 0; pass < passes; pass++) {
            kernels->gemv(matrix, &a, 0, 0, matrix->rows, y);
        }
        rates[run] = bytes * passes / (double)(ofr_clock_ns() - begin);
    }
    free(y);
    free_activations(&a);
    return median(rates, RUNS);
}

/* Multiplications and additions per second of one core. */
static double gemm_rate(const ofr_cpu_kernels *kernels, const ofr_cpu_matrix *matrix)
{
    const ofr_cpu_gemm *gemm = kernels->gemms[0];
    ofr_cpu_activations a = make_activations(kernels, matrix, gemm, TOKENS);
    void *scratch = memory(gemm->scratch_bytes(matrix->columns, TOKENS));
    float *y = memory(sizeof(float) * TOKENS * OFR_CPU_GEMM_ROWS_MAX);
    uint32_t rows = gemm->max_rows;
    double rates[RUNS];
    for (int run = 0; run < RUNS; run++) {
        uint64_t begin = ofr_clock_ns();
        for (uint32_t row = 0; row + rows <= matrix->rows; row += rows) {
            gemm->multiply(matrix, row, rows, &a, TOKENS, scratch, y, rows);
        }
        uint64_t end = ofr_clock_ns();
        rates[run] =
            2.0 * (matrix->rows / rows * rows) * matrix->columns * TOKENS / (double)(end - begin);
    }
    free(y);
    free(scratch);
    free_activations(&a);
    return median(rates, RUNS);
}

static void print_products(void)
{
    static const kernels_getter sets[] = {ofr_cpu_kernels_amx, ofr_cpu_kernels_avx512vnni,
                                          ofr_cpu_kernels_avxvnni, ofr_cpu_kernels_avx2};
    static const shape shapes[] = {
        {OFR_DTYPE_I4, 576, 1536, 64},     {OFR_DTYPE_I4, 576, 1536, 32},
        {OFR_DTYPE_I4, 576, 1536, 128},    {OFR_DTYPE_I8, 576, 576, 64},
        {OFR_DTYPE_I4, 4096, 4096, 128},   {OFR_DTYPE_I4, 4096, 14336, 128},
        {OFR_DTYPE_I4, 65536, 14336, 128}, {OFR_DTYPE_I4, 65536, 4096, 64},
        {OFR_DTYPE_I4, 65536, 4096, 32},   {OFR_DTYPE_I8, 65536, 4096, 128},
    };
    const char *only = getenv("KERNELS");
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    printf("%-12s %-4s %6s %6s %5s %12s %12s\n", "kernels", "type", "rows", "cols", "group",
           "gemv GB/s", "gemm Gop/s");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        ofr_cpu_matrix matrix = make_matrix(&shapes[i]);
        for (size_t s = 0; s < sizeof sets / sizeof sets[0]; s++) {
            const ofr_cpu_kernels *kernels = sets[s]();
            if (!kernels->supported(&features) ||
                (only != NULL && strcmp(only, kernels->name) != 0)) {
                continue;
            }
            bool small = shapes[i].rows <= 4096;
            printf("%-12s %-4s %6u %6u %5u %12.1f ", kernels->name,
                   matrix.dtype == OFR_DTYPE_I4 ? "i4" : "i8", matrix.rows, matrix.columns,
                   matrix.group, gemv_rate(kernels, &matrix));
            if (small) {
                printf("%12.0f\n", gemm_rate(kernels, &matrix));
            } else {
                printf("%12s\n", "-");
            }
        }
        free((void *)(uintptr_t)matrix.data);
        free((void *)(uintptr_t)matrix.scales);
    }
}

static void barriers(void *context, uint32_t thread)
{
    (void)thread;
    for (int i = 0; i < BARRIERS; i++) {
        ofr_thread_pool_barrier(context);
    }
}

static void print_barrier(uint32_t threads)
{
    ofr_thread_pool *pool = NULL;
    ofr_error err = {0};
    if (ofr_thread_pool_new(threads, true, &pool, &err) < 0) {
        die("threads", &err);
    }
    ofr_thread_pool_run(pool, barriers, pool);
    uint64_t begin = ofr_clock_ns();
    ofr_thread_pool_run(pool, barriers, pool);
    printf("barrier of %u threads: %.0f ns\n", threads,
           (double)(ofr_clock_ns() - begin) / BARRIERS);
    ofr_thread_pool_free(pool);
}

typedef struct peak {
    double int8[OFR_THREAD_POOL_MAX], bf16[OFR_THREAD_POOL_MAX];
} peak;

static void measure_peak(void *context, uint32_t thread)
{
    peak *p = context;
    bench_amx_peak(&p->int8[thread], &p->bf16[thread]);
}

/* All cores at once: their clocks and power are shared. */
static void print_peak(uint32_t threads)
{
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    if (!features.amx) {
        return;
    }
    static peak p;
    ofr_thread_pool *pool = NULL;
    ofr_error err = {0};
    if (ofr_thread_pool_new(threads, true, &pool, &err) < 0) {
        die("threads", &err);
    }
    ofr_thread_pool_run(pool, measure_peak, &p);
    ofr_thread_pool_free(pool);
    double int8 = 0, bf16 = 0;
    for (uint32_t i = 0; i < threads; i++) {
        int8 += p.int8[i];
        bf16 += p.bf16[i];
    }
    printf("AMX peak of %u threads: int8 %.0f Gop/s, bf16 %.0f Gop/s\n", threads, int8, bf16);
}

static double forward_ns(const ofr_backend *backend, ofr_backend_session *session,
                         uint32_t position, uint32_t n, const int32_t *tokens, float *logits)
{
    ofr_error err = {0};
    ofr_segment segment = {0, position, n};
    ofr_forward forward = {.segments = &segment,
                           .n_segments = 1,
                           .tokens = tokens,
                           .output = OFR_FORWARD_OUTPUT_LAST,
                           .logits = logits};
    uint64_t begin = ofr_clock_ns();
    if (backend->forward(session, &forward, &err) < 0) {
        die("forward", &err);
    }
    return (double)(ofr_clock_ns() - begin);
}

static void print_model(const ofr_model *model, uint32_t threads)
{
    static const uint32_t depths[] = {0, 512, 2048};
    static const uint32_t prompts[] = {16, 128, 512, 2048};
    enum { CONTEXT = 2560, STEPS = 64, CHUNK_MAX = 512 };
    const uint64_t enough_ns = 20000000000;
    ofr_error err = {0};
    ofr_kv_layout layout;
    if (ofr_kv_layout_init(&layout, model->params, 1, CONTEXT, CONTEXT, &err) < 0) {
        die("KV", &err);
    }
    void *arena = memory(layout.total_bytes);
    memset(arena, 0, layout.total_bytes);
    const ofr_backend *backend = ofr_cpu_backend();
    ofr_backend_options options = {.model = model,
                                   .layer_end = model->params->n_layers,
                                   .kv_layout = layout,
                                   .kv_arena = arena,
                                   .threads = threads,
                                   .max_batch_tokens = CHUNK_MAX,
                                   .kernels = getenv("KERNELS")};
    ofr_backend_session *session = NULL;
    if (backend->open(&options, &session, &err) < 0) {
        die("open", &err);
    }
    int32_t tokens[CHUNK_MAX];
    for (int i = 0; i < CHUNK_MAX; i++) {
        tokens[i] = (int32_t)((uint32_t)(i * 7919 + 11) % model->params->vocab_size);
    }
    float *logits = memory(model->params->vocab_size * sizeof *logits);
    for (size_t d = 0; d < sizeof depths / sizeof depths[0]; d++) {
        double times[STEPS];
        for (uint32_t i = 0; i < STEPS; i++) {
            times[i] =
                forward_ns(backend, session, depths[d] + i, 1, &tokens[i % CHUNK_MAX], logits);
        }
        double typical = median(times, STEPS);
        printf("decode at depth %4u: %7.1f tok/s (median step %.3f ms, best %.3f ms)\n", depths[d],
               1e9 / typical, typical / 1e6, times[0] / 1e6);
    }
    for (size_t p = 0; p < sizeof prompts / sizeof prompts[0]; p++) {
        double times[5] = {0};
        size_t runs = 0;
        /* A large model on few cores takes a minute for the longest prompt. */
        for (uint64_t begin = ofr_clock_ns(); runs < 5 && ofr_clock_ns() - begin < enough_ns;
             runs++) {
            for (uint32_t at = 0; at < prompts[p]; at += CHUNK_MAX) {
                uint32_t n = prompts[p] - at < CHUNK_MAX ? prompts[p] - at : CHUNK_MAX;
                times[runs] += forward_ns(backend, session, at, n, tokens, logits);
            }
        }
        printf("prefill of %4u: %7.1f tok/s\n", prompts[p], prompts[p] * 1e9 / median(times, runs));
    }
    backend->close(session);
    free(logits);
    free(arena);
}

static void print_package(const char *path, uint32_t threads)
{
    ofr_error err = {0};
    ofr_package *package = NULL;
    ofr_model model;
    if (ofr_package_open(path, 0, &package, &err) < 0 ||
        ofr_model_init(&model, package, &err) < 0) {
        die(path, &err);
    }
    print_model(&model, threads);
    ofr_model_done(&model);
    ofr_package_close(package);
}

typedef struct reading {
    const char *data; /* [threads][part] */
    size_t part;
    ofr_thread_pool *pool;
    _Atomic uint64_t sum;
} reading;

static void read_part(void *context, uint32_t thread)
{
    typedef uint64_t vector __attribute__((vector_size(64), aligned(64)));
    reading *r = context;
    const char *data = r->data + thread * r->part;
    vector sums[4] = {{0}};
    for (size_t at = 0; at < r->part; at += sizeof sums) {
        for (size_t i = 0; i < 4; i++) {
            __builtin_prefetch(data + at + 4096 + i * 64);
            sums[i] += *(const vector *)(const void *)(data + at + i * 64);
        }
    }
    r->sum += sums[0][0] + sums[1][0] + sums[2][0] + sums[3][0];
}

/* Bytes per second that all threads read together from memory, best of a few. */
static double read_rate(uint32_t threads)
{
    enum { PART = 512 << 20, PASSES = 7 };
    ofr_error err = {0};
    reading r = {.part = PART};
    if (ofr_thread_pool_new(threads, true, &r.pool, &err) < 0) {
        die("threads", &err);
    }
    char *data = memory((size_t)PART * threads);
    r.data = data;
    double best = 0;
    for (int i = 0; i < PASSES; i++) {
        uint64_t begin = ofr_clock_ns();
        ofr_thread_pool_run(r.pool, read_part, &r);
        double rate = (double)PART * threads / (double)(ofr_clock_ns() - begin);
        best = rate > best ? rate : best;
    }
    ofr_thread_pool_free(r.pool);
    free(data);
    return best;
}

/* Beside what the machine can do: the peak of its tiles, and its memory. */
static void print_shape(const char *name, uint32_t threads)
{
    random_model *m = random_model_new(name, 128);
    if (m == NULL) {
        die("no such shape, or no memory for it", NULL);
    }
    double bytes = 0, products = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const ofr_tensor *t = &m->tensors[i];
        bool table = t == m->model.embedding && !m->params.tied_embedding;
        bytes += table ? 0 : (double)(t->bytes + t->scale_bytes);
        products += t->dtype == OFR_DTYPE_I4 ? 2.0 * (double)t->shape[0] * (double)t->shape[1] : 0;
    }
    printf("%s: %.2f GB a token, %.2f Gop of products a token before the head\n", name, bytes / 1e9,
           products / 1e9);
    printf("plain read, %u threads: %.1f GB/s\n", threads, read_rate(threads));
    print_peak(threads);
    print_model(&m->model, threads);
    random_model_free(m);
}

int main(int argc, char **argv)
{
    uint32_t threads = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    if (threads == 0) {
        threads = ofr_cpu_physical_cores(NULL, 0);
    }
    if (argc > 1 && strncmp(argv[1], "shape:", 6) == 0) {
        print_shape(argv[1] + 6, threads);
        return 0;
    }
    if (argc > 1) {
        print_package(argv[1], threads);
        return 0;
    }
    print_barrier(threads);
    print_peak(threads);
    print_products();
    return 0;
}
