/* Stages of matrix products: quantizes what they read, hands out rows of the weights, and combines
 * the results with what is there. */
#include <math.h>
#include <string.h>

#include "backend/cpu/session.h"

enum { CHUNK_BYTES = 64 * 1024, CHUNK_ROWS_MAX = 256, CHUNK_ROWS_MIN = 4, TOKENS_AHEAD = 8 };

static bool is_dense(const ofr_tensor *tensor)
{
    return tensor->dtype == OFR_DTYPE_F16 || tensor->dtype == OFR_DTYPE_F32;
}

static ofr_cpu_matrix matrix_of(const ofr_tensor *tensor)
{
    return (ofr_cpu_matrix){
        .dtype = tensor->dtype == OFR_DTYPE_I4M ? OFR_DTYPE_I4 : tensor->dtype,
        .rows = (uint32_t)tensor->shape[0],
        .columns = (uint32_t)tensor->shape[1],
        .group = tensor->group_size,
        .data = tensor->data,
        .scales = tensor->scales,
        .minima = tensor->dtype == OFR_DTYPE_I4M ? (const uint16_t *)tensor->scales +
                                                       tensor->shape[0] * (tensor->shape[1] / 32)
                                                 : NULL,
    };
}

static bool same_activations(const ofr_tensor *a, const ofr_tensor *b)
{
    if (is_dense(a) || is_dense(b)) {
        return is_dense(a) && is_dense(b);
    }
    return a->dtype == b->dtype;
}

/* How `n` tokens are multiplied; NULL: row by row. */
static const ofr_cpu_gemm *gemm_for(const ofr_backend_session *session, uint32_t n)
{
    for (const ofr_cpu_gemm *const *gemm = session->kernels->gemms; *gemm != NULL; gemm++) {
        if (n >= (*gemm)->min_tokens) {
            return *gemm;
        }
    }
    return NULL;
}

/* The activations' format for a matrix, in the buffers of `storage`. */
static ofr_cpu_activations format_for(const ofr_cpu_activations *storage,
                                      const ofr_cpu_matrix *matrix, const ofr_cpu_gemm *gemm)
{
    ofr_cpu_activations a = *storage;
    size_t width = (size_t)matrix->columns * (gemm != NULL ? gemm->value_bytes : 1);
    a.columns = matrix->columns;
    a.n_groups = matrix->columns / OFR_CPU_ACTIVATION_GROUP;
    a.split = matrix->dtype == OFR_DTYPE_I4;
    a.minima = matrix->minima != NULL;
    a.value_stride = (width + OFR_CPU_SPLIT_BLOCK - 1) / OFR_CPU_SPLIT_BLOCK * OFR_CPU_SPLIT_BLOCK;
    if (gemm != NULL) { /* rows a power of two apart would share the same few sets of the caches */
        a.value_stride += OFR_CPU_SPLIT_BLOCK;
    }
    a.group_stride = ((size_t)a.n_groups + 15) / 16 * 16;
    return a;
}

/* What the products of one stage read, ready for use. */
typedef struct prepared_rows {
    const float *x; /* after the norm; for dense weights */
    size_t stride;
    ofr_cpu_activations a;
    const ofr_cpu_gemm *gemm; /* NULL: row by row */
    bool dense;
} prepared_rows;

static void prepare_row(ofr_backend_session *session, const cpu_input *input, size_t row,
                        float *normed, const prepared_rows *ready)
{
    const float *x = input->x + row * input->stride;
    if (input->norm != NULL) {
        session->kernels->rms_norm(x, input->norm, session->params->d_model,
                                   session->params->rms_epsilon, normed);
        x = normed;
    }
    if (!ready->dense) {
        (ready->gemm != NULL ? ready->gemm->prepare : session->kernels->quantize)(x, &ready->a,
                                                                                  row);
    }
}

/* Blocks of rows, so that each is finished by the thread that prepared it. */
static void prepare_rows(ofr_backend_session *session, const cpu_input *input, uint32_t n,
                         float *scratch, const prepared_rows *ready)
{
    bool blocks = ready->gemm != NULL && ready->gemm->finish != NULL;
    uint32_t step = blocks ? OFR_CPU_TOKEN_BLOCK : n / (session->n_threads * 4) + 1;
    for (;;) {
        uint32_t begin = ofr_thread_pool_next(session->pool);
        if (begin >= (n + step - 1) / step) {
            break;
        }
        begin *= step;
        uint32_t end = begin + step < n ? begin + step : n;
        for (uint32_t row = begin; row < end; row++) {
            float *normed =
                ready->dense ? session->normed + (size_t)row * session->params->d_model : scratch;
            prepare_row(session, input, row, normed, ready);
        }
        if (blocks) {
            ready->gemm->finish(&ready->a, begin, end - begin);
        }
    }
    ofr_thread_pool_barrier(session->pool);
}

/* A single row is prepared by every thread for itself: cheaper than a barrier. */
static prepared_rows prepare(ofr_backend_session *session, uint32_t thread, const cpu_input *input,
                             uint32_t n, const ofr_tensor *weight)
{
    cpu_scratch *scratch = &session->scratch[thread];
    prepared_rows ready = {.x = input->x, .stride = input->stride, .dense = is_dense(weight)};
    if (!ready.dense) {
        ofr_cpu_matrix matrix = matrix_of(weight);
        ready.gemm = gemm_for(session, n);
        ready.a = format_for(n == 1 ? &scratch->row : &session->rows, &matrix, ready.gemm);
    }
    if (n == 1) {
        ready.x = input->norm != NULL ? scratch->normed : input->x;
        prepare_row(session, input, 0, scratch->normed, &ready);
        return ready;
    }
    if (ready.dense && input->norm != NULL) {
        ready.x = session->normed;
        ready.stride = session->params->d_model;
    }
    if (!ready.dense || input->norm != NULL) {
        prepare_rows(session, input, n, scratch->normed, &ready);
    }
    return ready;
}

/* As many rows at once as a gemm can take, since the activations are read again for each chunk, but
 * so that no thread has more than it must. */
static uint32_t gemm_rows(uint32_t all, uint32_t threads, uint32_t max_rows)
{
    uint32_t best = OFR_CPU_GEMM_ROWS, least = UINT32_MAX;
    for (uint32_t rows = max_rows; rows >= OFR_CPU_GEMM_ROWS; rows -= OFR_CPU_GEMM_ROWS) {
        uint32_t chunks = (all - 1) / rows + 1;
        uint32_t most = ((chunks - 1) / threads + 1) * rows; /* of one thread */
        if (most < least) {
            least = most;
            best = rows;
        }
    }
    return best;
}

/* Rows of a matrix that are handed out at once. */
static uint32_t chunk_rows(const ofr_backend_session *session, const ofr_tensor *weight, uint32_t n)
{
    const ofr_cpu_gemm *gemm = is_dense(weight) ? NULL : gemm_for(session, n);
    uint64_t threads = session->n_threads, all = (uint64_t)weight->shape[0];
    if (gemm != NULL) {
        return gemm_rows((uint32_t)all, session->n_threads, gemm->max_rows);
    }
    uint64_t row_bytes = (uint64_t)weight->shape[1] * ofr_dtype_bits(weight->dtype) / 8;
    uint64_t rows = CHUNK_BYTES / (row_bytes > 0 ? row_bytes : 1);
    uint64_t share = (all + threads * 4 - 1) / (threads * 4);
    rows = rows < share ? rows : share;
    rows = rows < CHUNK_ROWS_MAX ? rows : CHUNK_ROWS_MAX;
    rows = rows / CHUNK_ROWS_MIN * CHUNK_ROWS_MIN;
    return rows > CHUNK_ROWS_MIN ? (uint32_t)rows : CHUNK_ROWS_MIN;
}

static uint32_t n_chunks(const ofr_backend_session *session, const ofr_tensor *weight, uint32_t n)
{
    return ((uint32_t)weight->shape[0] - 1) / chunk_rows(session, weight, n) + 1;
}

static void add_bias(const ofr_linear *linear, uint32_t begin, uint32_t n, float *y)
{
    if (linear->bias != NULL) {
        for (uint32_t i = 0; i < n; i++) {
            y[i] += linear->bias[begin + i];
        }
    }
}

/* y = activation(x) * up; y may be x or up. */
static void gate(const ofr_backend_session *session, const float *x, const float *up, uint32_t n,
                 float *y)
{
    if (session->params->activation == OFR_ACTIVATION_SILU) {
        session->kernels->swiglu(x, up, n, y);
        return;
    }
    for (uint32_t i = 0; i < n; i++) { /* sqrt(2 / pi) */
        float inner = 0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        y[i] = 0.5f * x[i] * (1 + tanhf(inner)) * up[i];
    }
}

static void emit(const ofr_backend_session *session, const cpu_product *product, size_t token,
                 uint32_t begin, uint32_t n, float *value, float *up)
{
    float *y = product->y + token * product->y_stride + begin;
    add_bias(product->linear, begin, n, value);
    if (up != NULL) {
        add_bias(product->gated_up, begin, n, up);
        gate(session, value, up, n, y);
        return;
    }
    switch (product->sink) {
    case CPU_SINK_STORE:
        memcpy(y, value, n * sizeof *y);
        break;
    case CPU_SINK_ADD:
        for (uint32_t i = 0; i < n; i++) {
            y[i] += value[i] * session->residual_scale;
        }
        break;
    case CPU_SINK_SWIGLU:
        gate(session, y, value, n, y);
        break;
    }
}

static void dense_rows(const ofr_cpu_kernels *kernels, const ofr_cpu_matrix *matrix, const float *x,
                       uint32_t begin, uint32_t end, float *y)
{
    for (uint32_t row = begin; row < end; row++) {
        size_t at = (size_t)row * matrix->columns;
        y[row - begin] =
            matrix->dtype == OFR_DTYPE_F32
                ? kernels->dot_f32(x, (const float *)(const void *)matrix->data + at,
                                   matrix->columns)
                : kernels->dot_f16(x, (const uint16_t *)(const void *)matrix->data + at,
                                   matrix->columns);
    }
}

static void product_rows(const ofr_backend_session *session, const ofr_cpu_matrix *matrix,
                         const prepared_rows *ready, size_t token, uint32_t begin, uint32_t end,
                         float *y)
{
    if (ready->dense) {
        dense_rows(session->kernels, matrix, ready->x + token * ready->stride, begin, end, y);
    } else {
        session->kernels->gemv(matrix, &ready->a, token, begin, end, y);
    }
}

static void run_rows(ofr_backend_session *session, const cpu_product *product,
                     const prepared_rows *ready, uint32_t n, uint32_t begin, uint32_t end)
{
    _Alignas(64) float value[CHUNK_ROWS_MAX];
    _Alignas(64) float up[CHUNK_ROWS_MAX];
    ofr_cpu_matrix matrix = matrix_of(product->linear->weight);
    for (uint32_t token = 0; token < n; token++) {
        product_rows(session, &matrix, ready, token, begin, end, value);
        if (product->gated_up != NULL) {
            ofr_cpu_matrix second = matrix_of(product->gated_up->weight);
            product_rows(session, &second, ready, token, begin, end, up);
        }
        emit(session, product, token, begin, end - begin, value,
             product->gated_up != NULL ? up : NULL);
    }
}

/* A few columns of each row, last written or read by another core: a pattern that no prefetcher of
 * the hardware follows. Beyond the last token it does nothing. */
static void prefetch_sink(const cpu_product *product, size_t token, uint32_t begin, uint32_t n)
{
    const float *y = product->y + token * product->y_stride + begin;
    for (uint32_t i = 0; i < n; i += 16) {
        __builtin_prefetch(y + i, 1);
    }
}

static void run_gemm(ofr_backend_session *session, uint32_t thread, const cpu_product *product,
                     const prepared_rows *ready, uint32_t n, uint32_t begin, uint32_t end)
{
    cpu_scratch *scratch = &session->scratch[thread];
    const ofr_linear *linears[2] = {product->linear, product->gated_up};
    uint32_t n_linears = product->gated_up != NULL ? 2 : 1, rows = end - begin;
    size_t stride = (rows + OFR_CPU_GEMM_ROWS - 1) / OFR_CPU_GEMM_ROWS * OFR_CPU_GEMM_ROWS;
    for (uint32_t i = 0; i < n_linears; i++) {
        ofr_cpu_matrix matrix = matrix_of(linears[i]->weight);
        ready->gemm->multiply(&matrix, begin, rows, &ready->a, n, scratch->gemm,
                              scratch->products[i], stride);
    }
    for (uint32_t t = 0; t < n; t++) {
        prefetch_sink(product, t + TOKENS_AHEAD, begin, rows);
        emit(session, product, t, begin, rows, scratch->products[0] + t * stride,
             n_linears == 2 ? scratch->products[1] + t * stride : NULL);
    }
}

/* Products that share one preparation. */
static void run_products(ofr_backend_session *session, uint32_t thread, const prepared_rows *ready,
                         uint32_t n, const cpu_product *products, uint32_t n_products)
{
    uint32_t total = 0, chunk;
    for (uint32_t i = 0; i < n_products; i++) {
        total += n_chunks(session, products[i].linear->weight, n);
    }
    while (ofr_thread_pool_take(session->pool, thread, total, &chunk)) {
        uint32_t i = 0;
        for (uint32_t own; chunk >= (own = n_chunks(session, products[i].linear->weight, n)); i++) {
            chunk -= own;
        }
        uint32_t rows = chunk_rows(session, products[i].linear->weight, n), begin = chunk * rows;
        uint32_t all = (uint32_t)products[i].linear->weight->shape[0];
        uint32_t end = all - begin < rows ? all : begin + rows;
        if (ready->gemm != NULL) {
            run_gemm(session, thread, &products[i], ready, n, begin, end);
        } else {
            run_rows(session, &products[i], ready, n, begin, end);
        }
    }
    ofr_thread_pool_barrier(session->pool);
}

void ofr_cpu_linear(ofr_backend_session *session, uint32_t thread, const cpu_input *input,
                    uint32_t n, const cpu_product *products, uint32_t n_products)
{
    uint32_t begin = 0;
    while (begin < n_products) {
        const ofr_tensor *weight = products[begin].linear->weight;
        uint32_t end = begin + 1;
        /* A SWIGLU sink reads what the product before it stored: not in the same stage. */
        while (end < n_products && products[end].sink != CPU_SINK_SWIGLU &&
               same_activations(weight, products[end].linear->weight)) {
            end++;
        }
        prepared_rows ready = prepare(session, thread, input, n, weight);
        run_products(session, thread, &ready, n, products + begin, end - begin);
        begin = end;
    }
}
