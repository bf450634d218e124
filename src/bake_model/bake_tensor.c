/* Converts one tensor in blocks of rows, with the rows of a block shared among threads. */
#include "bake_model/bake_tensor.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/gguf_dequantize.h"

enum { BLOCK_ELEMENTS = 1 << 20, MAX_THREADS = 16 };

/* A thread's rows of the block, and its own scratch. */
typedef struct worker {
    const ofr_bake_context *context;
    const ofr_bake_tensor *tensor;
    uint64_t row_begin, row_end; /* rows of the package's tensor */
    uint64_t k;
    char *data, *scales; /* where row_begin goes */
    ofr_quantize_error error;
    int result;
    ofr_error failure;
} worker;

void ofr_bake_tensor_spec(const ofr_bake_tensor *tensor, ofr_tensor *ret_spec)
{
    *ret_spec = (ofr_tensor){.name = tensor->name,
                             .dtype = tensor->dtype,
                             .n_dims = tensor->n_dims,
                             .shape = {tensor->shape[0], tensor->shape[1]},
                             .group_size = tensor->group_size};
}

static size_t row_data_bytes(const ofr_bake_tensor *tensor, uint64_t k)
{
    return (size_t)(k * ofr_dtype_bits(tensor->dtype) / 8);
}

static size_t row_scale_bytes(const ofr_bake_tensor *tensor, uint64_t k)
{
    return tensor->group_size ? (size_t)(k / tensor->group_size * 2) : 0;
}

static int check_finite(const ofr_bake_tensor *tensor, const float *values, size_t n,
                        const ofr_gguf *gguf, ofr_error *err)
{
    float sum = 0; /* x * 0 is 0, or NaN for infinity and NaN */
    for (size_t i = 0; i < n; i++)
        sum += values[i] * 0;
    if (sum == 0)
        return 0;
    return ofr_fail(err, OFR_EFORMAT,
                    "%s: tensor '%s' holds values that are not finite: the file is corrupt; get it "
                    "again",
                    ofr_gguf_path(gguf), tensor->source->name);
}

static void store_row(worker *w, const float *values, uint64_t row)
{
    const ofr_bake_tensor *t = w->tensor;
    uint64_t at = row - w->row_begin;
    char *data = w->data + at * row_data_bytes(t, w->k);
    uint16_t *scales = (uint16_t *)(void *)(w->scales + at * row_scale_bytes(t, w->k));
    if (t->dtype == OFR_DTYPE_I4)
        ofr_quantize_i4_row(values, (size_t)w->k, t->group_size, (uint8_t *)data, scales,
                            &w->error);
    else if (t->dtype == OFR_DTYPE_I8)
        ofr_quantize_i8_row(values, (size_t)w->k, t->group_size, (int8_t *)data, scales, &w->error);
    else
        memcpy(data, values, (size_t)w->k * sizeof *values);
}

static void *convert_rows(void *argument)
{
    worker *w = argument;
    const ofr_gguf_tensor *source = w->tensor->source;
    const ofr_model_params *p = w->context->params;
    size_t row_bytes = (size_t)source->row_bytes;
    float *values = malloc((size_t)w->k * sizeof *values);
    char *raw = malloc(row_bytes);
    if (!values || !raw)
        w->result = ofr_fail(&w->failure, OFR_ENOMEM, "%s: out of memory", source->name);
    for (uint64_t row = w->row_begin; row < w->row_end && w->result == 0; row++) {
        uint64_t from =
            w->tensor->rope_heads ? ofr_gguf_rope_row(row, p->head_dim, p->rope.dims) : row;
        w->result =
            ofr_gguf_read(w->context->gguf, source, from * row_bytes, raw, row_bytes, &w->failure);
        if (w->result < 0)
            break;
        ofr_gguf_dequantize(source->type, raw, (size_t)w->k, values);
        w->result = check_finite(w->tensor, values, (size_t)w->k, w->context->gguf, &w->failure);
        if (w->result == 0)
            store_row(w, values, row);
    }
    free(raw);
    free(values);
    return NULL;
}

/* Rows [begin, end) into the buffers. */
static int convert_block(ofr_bake_context *context, const ofr_bake_tensor *tensor, uint64_t k,
                         uint64_t begin, uint64_t end, ofr_quantize_error *add_error,
                         ofr_error *err)
{
    worker workers[MAX_THREADS] = {0};
    pthread_t threads[MAX_THREADS];
    bool started[MAX_THREADS] = {false};
    uint64_t rows = end - begin;
    unsigned n = context->threads < MAX_THREADS ? context->threads : MAX_THREADS;
    if (rows < 2 * (uint64_t)n)
        n = 1;
    for (unsigned i = 0; i < n; i++) {
        uint64_t first = begin + rows * i / n;
        workers[i] = (worker){
            .context = context,
            .tensor = tensor,
            .row_begin = first,
            .row_end = begin + rows * (i + 1) / n,
            .k = k,
            .data = (char *)context->buffers.data + (first - begin) * row_data_bytes(tensor, k),
            .scales =
                (char *)context->buffers.scales + (first - begin) * row_scale_bytes(tensor, k),
        };
        if (i > 0)
            started[i] = pthread_create(&threads[i], NULL, convert_rows, &workers[i]) == 0;
    }
    for (unsigned i = 0; i < n; i++) {
        if (!started[i])
            convert_rows(&workers[i]);
        else
            pthread_join(threads[i], NULL);
    }
    int r = 0;
    for (unsigned i = 0; i < n; i++) {
        if (workers[i].result < 0 && r == 0)
            r = ofr_fail(err, workers[i].result, "%s", workers[i].failure.text);
        add_error->error += workers[i].error.error;
        add_error->energy += workers[i].error.energy;
    }
    return r;
}

static int grow(void **buffer, size_t *bytes, size_t needed, ofr_error *err)
{
    if (needed <= *bytes)
        return 0;
    free(*buffer);
    *bytes = 0;
    *buffer = malloc(needed);
    if (!*buffer)
        return ofr_fail(err, OFR_ENOMEM, "out of memory for a block of %zu bytes", needed);
    *bytes = needed;
    return 0;
}

/* A vector whose elements are to be reordered like the rows of its matrix (the bias of Q or K). */
static int convert_rope_vector(ofr_bake_context *context, const ofr_bake_tensor *tensor,
                               ofr_error *err)
{
    const ofr_model_params *p = context->params;
    const ofr_gguf_tensor *source = tensor->source;
    size_t n = (size_t)tensor->shape[0];
    int r = 0;
    float *values = malloc(n * sizeof *values), *ordered = malloc(n * sizeof *ordered);
    char *raw = malloc((size_t)source->row_bytes);
    if (!values || !ordered || !raw)
        r = ofr_fail(err, OFR_ENOMEM, "%s: out of memory", source->name);
    else
        r = ofr_gguf_read(context->gguf, source, 0, raw, (size_t)source->row_bytes, err);
    if (r == 0) {
        ofr_gguf_dequantize(source->type, raw, n, values);
        r = check_finite(tensor, values, n, context->gguf, err);
    }
    if (r == 0) {
        for (size_t i = 0; i < n; i++)
            ordered[i] = values[ofr_gguf_rope_row(i, p->head_dim, p->rope.dims)];
        r = ofr_package_writer_data(context->writer, ordered, n * sizeof *ordered, err);
    }
    free(raw);
    free(values);
    free(ordered);
    return r;
}

static int convert_rows_in_blocks(ofr_bake_context *context, const ofr_bake_tensor *tensor,
                                  ofr_quantize_error *add_error, ofr_error *err)
{
    uint64_t rows = tensor->n_dims == 2 ? tensor->shape[0] : 1;
    uint64_t k = tensor->n_dims == 2 ? tensor->shape[1] : tensor->shape[0];
    uint64_t block = k < BLOCK_ELEMENTS ? BLOCK_ELEMENTS / k : 1;
    size_t data_bytes = row_data_bytes(tensor, k), scale_bytes = row_scale_bytes(tensor, k);
    ofr_bake_buffers *b = &context->buffers;
    int r = grow(&b->data, &b->data_bytes, (size_t)block * data_bytes, err);
    if (r == 0 && scale_bytes > 0)
        r = grow(&b->scales, &b->scales_bytes, (size_t)block * scale_bytes, err);
    for (uint64_t row = 0; row < rows && r == 0; row += block) {
        uint64_t end = rows - row < block ? rows : row + block;
        if (context->options->cancel && *context->options->cancel)
            return ofr_fail(err, OFR_ECANCELED,
                            "interrupted; run the same command again to continue");
        r = convert_block(context, tensor, k, row, end, add_error, err);
        if (r == 0)
            r = ofr_package_writer_data(context->writer, b->data, (size_t)(end - row) * data_bytes,
                                        err);
        if (r == 0 && scale_bytes > 0)
            r = ofr_package_writer_scales(context->writer, b->scales,
                                          (size_t)(end - row) * scale_bytes, err);
        if (r == 0)
            ofr_progress_add(context->progress, (end - row) * tensor->source->row_bytes);
    }
    return r;
}

int ofr_bake_tensor_convert(ofr_bake_context *context, const ofr_bake_tensor *tensor,
                            ofr_quantize_error *add_error, ofr_error *err)
{
    ofr_tensor spec;
    ofr_bake_tensor_spec(tensor, &spec);
    int r = ofr_package_writer_begin(context->writer, &spec, err);
    if (r < 0)
        return r;
    if (tensor->n_dims == 1 && tensor->rope_heads > 0) {
        r = convert_rope_vector(context, tensor, err);
        ofr_progress_add(context->progress, tensor->source->bytes);
    } else {
        r = convert_rows_in_blocks(context, tensor, add_error, err);
    }
    return r < 0 ? r : ofr_package_writer_end(context->writer, err);
}

void ofr_bake_buffers_done(ofr_bake_buffers *buffers)
{
    free(buffers->data);
    free(buffers->scales);
    *buffers = (ofr_bake_buffers){0};
}
