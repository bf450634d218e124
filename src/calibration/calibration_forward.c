/* The parts of a layer over a chunk of tokens, shared out among threads. */
#include <math.h>
#include <string.h>

#include "calibration/calibration_internal.h"
#include "calibration/layer_math.h"

size_t calibration_next_chunk(const ofr_calibration *c, size_t *span, size_t *ret_first)
{
    if (*span >= c->n_spans)
        return 0;
    size_t n = 0, first = c->spans[*span].first;
    bool held_out = c->spans[*span].held_out;
    while (*span < c->n_spans && c->spans[*span].held_out == held_out &&
           (n == 0 || n + c->spans[*span].n <= c->chunk))
        n += c->spans[(*span)++].n;
    *ret_first = first;
    return n;
}

typedef struct rows_job {
    ofr_calibration *c;
    const float *x, *weight;
    float *y, *z;
    size_t n, first;
} rows_job;

static void norm_region(void *context, uint32_t thread)
{
    (void)thread;
    const rows_job *job = context;
    size_t d = job->c->params.d_model;
    for (;;) {
        size_t row = ofr_thread_pool_next(ofr_matrix_engine_pool(job->c->engine)) * (size_t)64;
        if (row >= job->n)
            return;
        for (size_t end = row + 64 < job->n ? row + 64 : job->n; row < end; row++)
            ofr_layer_rms_norm(job->x + row * d, job->weight, d, job->c->params.rms_epsilon,
                               job->y + row * d);
    }
}

void calibration_norm(ofr_calibration *c, const float *x, const float *weight, size_t n, float *y)
{
    rows_job job = {.c = c, .x = x, .weight = weight, .y = y, .n = n};
    ofr_thread_pool_run(ofr_matrix_engine_pool(c->engine), norm_region, &job);
}

void calibration_linear(ofr_calibration *c, enum calibration_stream stream, int matrix,
                        const float *x, size_t n, float *y)
{
    const calibration_weight *w = &c->weights[matrix];
    size_t rows = w->public.rows;
    ofr_matrix_multiply_nt(c->engine, x, stream == STREAM_SOURCE ? w->source : w->made, y, n, rows,
                           w->public.columns, false);
    if (w->bias)
        for (size_t t = 0; t < n; t++)
            for (size_t i = 0; i < rows; i++)
                y[t * rows + i] += w->bias[i];
}

static void gate_region(void *context, uint32_t thread)
{
    (void)thread;
    const rows_job *job = context;
    size_t width = job->c->params.d_ff;
    for (;;) {
        size_t row = ofr_thread_pool_next(ofr_matrix_engine_pool(job->c->engine)) * (size_t)16;
        if (row >= job->n)
            return;
        size_t count = row + 16 < job->n ? 16 : job->n - row;
        ofr_layer_swiglu(job->y + row * width, job->x + row * width, count * width);
    }
}

void calibration_gate(ofr_calibration *c, enum calibration_stream stream, const float *normed,
                      size_t n, float *gate)
{
    calibration_linear(c, stream, MATRIX_GATE, normed, n, gate);
    calibration_linear(c, stream, MATRIX_UP, normed, n, c->up);
    rows_job job = {.c = c, .x = c->up, .y = gate, .n = n};
    ofr_thread_pool_run(ofr_matrix_engine_pool(c->engine), gate_region, &job);
}

/* Attention of a chunk: a task is a sequence and a head, after all of K and Q are rotated. */
static void attend_region(void *context, uint32_t thread)
{
    const rows_job *job = context;
    ofr_calibration *c = job->c;
    ofr_thread_pool *pool = ofr_matrix_engine_pool(c->engine);
    const ofr_model_params *p = &c->params;
    size_t dims = p->head_dim, q_stride = (size_t)p->n_heads * dims;
    size_t kv_stride = (size_t)p->n_kv_heads * dims;
    size_t span = 0;
    while (c->spans[span].first < job->first)
        span++;
    size_t first_span = span;
    for (;;) {
        size_t task = ofr_thread_pool_next(pool), s = first_span + task / p->n_heads;
        if (s >= c->n_spans || c->spans[s].first >= job->first + job->n)
            return;
        size_t head = task % p->n_heads, at = c->spans[s].first - job->first, n = c->spans[s].n;
        size_t kv_head = head / (p->n_heads / p->n_kv_heads);
        ofr_layer_attention(
            c->q + at * q_stride + head * dims, q_stride, c->k + at * kv_stride + kv_head * dims,
            c->v + at * kv_stride + kv_head * dims, kv_stride, n, dims,
            c->attention_work + thread * c->attention_floats, job->y + at * q_stride + head * dims);
    }
}

static void rotate_all(ofr_calibration *c, size_t first, size_t n)
{
    const ofr_model_params *p = &c->params;
    size_t half = c->rope.half, span = 0;
    while (c->spans[span].first < first)
        span++;
    for (; span < c->n_spans && c->spans[span].first < first + n; span++)
        for (size_t t = 0; t < c->spans[span].n; t++) {
            size_t row = c->spans[span].first - first + t;
            const float *cosine = c->cosines + t * half, *sine = c->sines + t * half;
            for (size_t h = 0; h < p->n_heads; h++)
                ofr_layer_rotate(c->q + (row * p->n_heads + h) * p->head_dim, cosine, sine, half);
            for (size_t h = 0; h < p->n_kv_heads; h++)
                ofr_layer_rotate(c->k + (row * p->n_kv_heads + h) * p->head_dim, cosine, sine,
                                 half);
        }
}

void calibration_attend(ofr_calibration *c, enum calibration_stream stream, const float *hidden,
                        size_t first, size_t n, float *ret_attention)
{
    calibration_norm(c, hidden, c->attention_norm, n, c->normed);
    calibration_linear(c, stream, MATRIX_Q, c->normed, n, c->q);
    calibration_linear(c, stream, MATRIX_K, c->normed, n, c->k);
    calibration_linear(c, stream, MATRIX_V, c->normed, n, c->v);
    rotate_all(c, first, n);
    rows_job job = {.c = c, .y = ret_attention, .first = first, .n = n};
    ofr_thread_pool_run(ofr_matrix_engine_pool(c->engine), attend_region, &job);
}
