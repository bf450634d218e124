/* Attention of several tokens in fp16 (kernels/halves.cl): where it can run, and whether it
 * computes what fp32 does. Both are tried on strips of their own, so that no caller's are touched.
 */
#include <math.h>
#include <stdlib.h>

#include "backend/opencl/opencl_session.h"

/* Blocks of keys beyond the first, and a last one that is not full. */
enum { AGREE_TOKENS = 96 };

/* Of a layer's results, relative; kernels/halves.cl says what to expect. Rounding activations to
 * bytes, which these kernels do elsewhere, costs more. */
static const double largest_error = 2e-3;

bool ofr_opencl_halves_run(const ofr_backend_session *session)
{
    return (session->device.half_arithmetic || session->halves_emulated) &&
           session->params->head_dim % 16 == 0;
}

static void drop_attention(ofr_backend_session *session, uint32_t index)
{
    static const uint32_t steps[] = {OPENCL_STEP_STORE_KV, OPENCL_STEP_ATTENTION_BLOCK,
                                     OPENCL_STEP_MERGE_BLOCK};
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
        ofr_opencl_release_kernel(session, &session->layers[index].steps[steps[s]]);
    }
}

/* The layers' strips become one of n rows in a buffer of its own, or what they were. */
static void exchange_strips(ofr_backend_session *session, opencl_scratch *scratch)
{
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    for (uint32_t i = 0; i < n_layers; i++) {
        opencl_layer *layer = &session->layers[i];
        opencl_strips own = {layer->kv, layer->k_offset, layer->v_offset};
        drop_attention(session, i);
        layer->kv = scratch->strips[i].buffer;
        layer->k_offset = scratch->strips[i].k_offset;
        layer->v_offset = scratch->strips[i].v_offset;
        scratch->strips[i] = own;
    }
}

/* Hidden states of n tokens in [-1, 1). */
static bool send_hidden(ofr_backend_session *session, uint32_t n)
{
    size_t count = (size_t)n * session->params->d_model;
    float *x = malloc(count * sizeof *x);
    uint32_t random = 1;
    for (size_t i = 0; x != NULL && i < count; i++) {
        random = random * 1664525 + 1013904223;
        x[i] = (float)(int32_t)random * 0x1p-31f;
    }
    if (x != NULL) {
        ofr_opencl_note(session,
                        session->api->EnqueueWriteBuffer(session->queue, session->hidden, CL_TRUE,
                                                         0, count * sizeof *x, x, 0, NULL, NULL),
                        "sending made-up input");
    }
    bool sent = x != NULL && session->status == CL_SUCCESS;
    free(x);
    return sent;
}

bool ofr_opencl_scratch_begin(ofr_backend_session *session, uint32_t n, opencl_scratch *ret_scratch)
{
    const ofr_model_params *p = session->params;
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    uint64_t halves = (uint64_t)n * p->n_kv_heads * p->head_dim;
    opencl_scratch made = {.strips = calloc(n_layers, sizeof *made.strips)};
    if (made.strips == NULL ||
        ofr_opencl_make_buffer(session, CL_MEM_READ_WRITE, 4 * halves, NULL, "strips to measure on",
                               &made.buffer, NULL) < 0) {
        free(made.strips);
        return false;
    }
    for (uint32_t i = 0; i < n_layers; i++) {
        made.strips[i] = (opencl_strips){made.buffer, 0, halves};
    }
    const ofr_segment segment = {0, 0, n};
    const ofr_forward call = {.segments = &segment, .n_segments = 1};
    session->call = &call;
    session->n_tokens = n;
    session->all_single = false;
    ofr_opencl_describe(session);
    session->call = NULL;
    exchange_strips(session, &made);
    *ret_scratch = made;
    if (!send_hidden(session, n)) {
        ofr_opencl_scratch_end(session, ret_scratch);
        return false;
    }
    ofr_opencl_run_heads(session, 0, n);
    return true;
}

void ofr_opencl_scratch_end(ofr_backend_session *session, opencl_scratch *scratch)
{
    ofr_opencl_note(session, session->api->Finish(session->queue), "measuring attention");
    exchange_strips(session, scratch);
    session->api->ReleaseMemObject(scratch->buffer);
    free(scratch->strips);
}

static bool near(const float *got, const float *expected, size_t n)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)expected[i];
        difference += d * d;
        size += (double)expected[i] * (double)expected[i];
    }
    return sqrt(difference) <= largest_error * sqrt(size); /* false for what is no number */
}

/* Attention of every layer of the session, one after another: into results [n_layers][n][q_width],
 * or (expected, of that shape, not NULL) into results [n][q_width], each to be near. */
static bool attended(ofr_backend_session *session, uint32_t halves, uint32_t n,
                     const float *expected, float *results)
{
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    size_t floats = (size_t)n * session->q_width;
    session->tuning.attention_halves = halves;
    if (ofr_opencl_rebuild(session, OPENCL_TUNED_ATTENTION, NULL) < 0) {
        return false;
    }
    for (uint32_t i = 0; i < n_layers; i++) {
        float *own = expected != NULL ? results : results + i * floats;
        ofr_opencl_run_heads(session, i, n);
        ofr_opencl_attend(session, i, false);
        ofr_opencl_note(session,
                        session->api->EnqueueReadBuffer(session->queue, session->attention, CL_TRUE,
                                                        0, floats * sizeof *own, own, 0, NULL,
                                                        NULL),
                        "fetching attention's results");
        if (session->status != CL_SUCCESS ||
            (expected != NULL && !near(own, expected + i * floats, floats))) {
            return false;
        }
    }
    return true;
}

bool ofr_opencl_halves_agree(ofr_backend_session *session)
{
    uint32_t n = session->options.max_batch_tokens, own = session->tuning.attention_halves;
    n = n < AGREE_TOKENS ? n : (uint32_t)AGREE_TOKENS;
    n = n < session->options.kv_layout.context ? n : session->options.kv_layout.context;
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    size_t floats = (size_t)n * session->q_width;
    float *expected = malloc(n_layers * floats * sizeof *expected);
    float *got = malloc(floats * sizeof *got);
    opencl_scratch scratch;
    bool agree = expected != NULL && got != NULL && ofr_opencl_scratch_begin(session, n, &scratch);
    if (agree) {
        agree = attended(session, 0, n, NULL, expected) && attended(session, 1, n, expected, got);
        ofr_opencl_scratch_end(session, &scratch);
    }
    session->tuning.attention_halves = own;
    free(expected);
    free(got);
    return agree;
}
