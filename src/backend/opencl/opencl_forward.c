/* One forward call: descriptor, layers by the plain, wide or fused steps, outputs. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "backend/opencl/opencl_session.h"

/* Indices of the arguments that are set for each use. */
enum {
    ARGUMENT_PLAIN_COUNT = 17,
    ARGUMENT_GEMM_COUNT = 14,
    ARGUMENT_STORE_COUNT = 28,
    ARGUMENT_GATHER_FIRST = 4,
    ARGUMENT_LOGPROB_FIRST = 4,
    ARGUMENT_SUM_FIRST = 6,
};

enum { ROW_ITEMS = 64, PLAIN_LANES = 32, SEVERAL_TOKENS = 4, PLAIN_GEMV_TOKENS = 3 };

static uint32_t divide_up(uint32_t n, uint32_t by)
{
    return (n + by - 1) / by;
}

void ofr_opencl_note_time(ofr_backend_session *session, const char *name, uint64_t launches,
                          uint64_t ns)
{
    uint32_t at = 0;
    while (at < session->n_profile && strcmp(session->profile[at].kernel, name) != 0) {
        at++;
    }
    if (at == OFR_OPENCL_PROFILE_MAX) {
        return;
    }
    if (at == session->n_profile) {
        snprintf(session->profile[session->n_profile++].kernel, sizeof session->profile[0].kernel,
                 "%s", name);
    }
    session->profile[at].launches += launches;
    session->profile[at].device_ns += ns;
}

/* Waits for a kernel and adds its time to the line of its name. */
static uint64_t time_kernel(ofr_backend_session *session, cl_kernel kernel, cl_event event)
{
    char name[48] = "";
    cl_ulong begin = 0, end = 0;
    session->api->GetKernelInfo(kernel, CL_KERNEL_FUNCTION_NAME, sizeof name - 1, name, NULL);
    ofr_opencl_note(session, session->api->Finish(session->queue), name);
    session->api->GetEventProfilingInfo(event, CL_PROFILING_COMMAND_START, sizeof begin, &begin,
                                        NULL);
    session->api->GetEventProfilingInfo(event, CL_PROFILING_COMMAND_END, sizeof end, &end, NULL);
    session->api->ReleaseEvent(event);
    ofr_opencl_note_time(session, name, 1, end - begin);
    return end - begin;
}

uint32_t ofr_opencl_profile(const ofr_backend_session *session, ofr_opencl_profile_line *ret_lines,
                            uint32_t capacity)
{
    uint32_t n = session->n_profile < capacity ? session->n_profile : capacity;
    memcpy(ret_lines, session->profile, n * sizeof *ret_lines);
    return n;
}

/* ret_event NULL: none is wanted. */
static void enqueue(ofr_backend_session *session, cl_kernel kernel, const size_t global[3],
                    uint32_t items, cl_event *ret_event)
{
    if (session->status != CL_SUCCESS || kernel == NULL) {
        return;
    }
    const size_t local[3] = {items, 1, 1};
    session->stats.launches++;
    ofr_opencl_note(session,
                    session->api->EnqueueNDRangeKernel(session->queue, kernel, 3, NULL, global,
                                                       local, 0, NULL, ret_event),
                    "starting a kernel");
}

uint64_t ofr_opencl_launch(ofr_backend_session *session, cl_kernel kernel, uint32_t items,
                           uint32_t x, uint32_t y, uint32_t z)
{
    cl_event event = NULL;
    enqueue(session, kernel, (const size_t[3]){(size_t)items * x, y, z}, items,
            session->profiled ? &event : NULL);
    return event != NULL ? time_kernel(session, kernel, event) : 0;
}

void ofr_opencl_launch_event(ofr_backend_session *session, cl_kernel kernel, uint32_t items,
                             uint32_t x, cl_event *ret_event)
{
    enqueue(session, kernel, (const size_t[3]){(size_t)items * x, 1, 1}, items, ret_event);
}

void ofr_opencl_set_u32(ofr_backend_session *session, cl_kernel kernel, cl_uint index,
                        uint32_t value)
{
    if (kernel != NULL) {
        ofr_opencl_note(session, session->api->SetKernelArg(kernel, index, sizeof value, &value),
                        "setting a kernel's arguments");
    }
}

/* Attention's blocks and splits for the call. */
static void plan_attention(ofr_backend_session *session, uint32_t *blocks)
{
    const ofr_forward *call = session->call;
    uint32_t longest = 0, token = 0, n = 0;
    uint32_t block = session->block_rows / session->heads_per_group;
    for (uint32_t i = 0; i < call->n_segments; i++) {
        const ofr_segment *s = &call->segments[i];
        uint32_t keys = s->position + s->n_tokens;
        longest = keys > longest ? keys : longest;
        uint32_t size = session->all_single ? 1 : block;
        for (uint32_t t = 0; t < s->n_tokens; t += size) {
            uint32_t left = s->n_tokens - t;
            memcpy(&blocks[4 * n++], (uint32_t[4]){token + t, left < size ? left : size, 0, 0},
                   4 * sizeof *blocks);
        }
        token += s->n_tokens;
    }
    uint32_t pairs = n * session->params->n_kv_heads;
    uint32_t splits = pairs < session->split_target ? divide_up(session->split_target, pairs) : 1;
    splits = splits < OPENCL_MAX_SPLITS ? splits : OPENCL_MAX_SPLITS;
    uint32_t keys = divide_up(divide_up(longest, splits), session->key_block) * session->key_block;
    session->n_blocks = n;
    session->n_splits = divide_up(longest, keys);
    session->pass_host[OPENCL_PASS_SPLITS] = session->n_splits;
    session->pass_host[OPENCL_PASS_SPLIT_KEYS] = keys;
}

/* The descriptor is left alone until the queue is finished. */
void ofr_opencl_describe(ofr_backend_session *session)
{
    const ofr_forward *call = session->call;
    uint32_t *header = session->pass_host, at = OPENCL_PASS_HEADER, n = session->n_tokens, t = 0;
    uint32_t half = session->rope.half;
    header[OPENCL_PASS_TOKENS] = n;
    session->n_outputs = 0;
    uint32_t *tokens = header + at;
    for (uint32_t i = 0; i < call->n_segments; i++) {
        const ofr_segment *s = &call->segments[i];
        for (uint32_t k = 0; k < s->n_tokens; k++, t++) {
            tokens[4 * t] = call->tokens != NULL ? (uint32_t)call->tokens[t] : 0;
            tokens[4 * t + 1] = s->slot;
            tokens[4 * t + 2] = s->position + k;
            tokens[4 * t + 3] = 0;
        }
    }
    at += 4 * n;
    header[OPENCL_PASS_BLOCKS_AT] = at;
    plan_attention(session, header + at);
    at += 4 * session->n_blocks;
    header[OPENCL_PASS_OUTPUTS_AT] = at;
    t = 0;
    for (uint32_t i = 0; i < call->n_segments; i++) {
        uint32_t count = call->segments[i].n_tokens;
        bool last = call->output == OFR_FORWARD_OUTPUT_LAST ||
                    call->output == OFR_FORWARD_OUTPUT_CANDIDATES;
        for (uint32_t k = last ? count - 1 : 0; k < count; k++) {
            header[at + session->n_outputs++] = t + k;
        }
        t += count;
    }
    at += session->n_outputs;
    header[OPENCL_PASS_TARGETS_AT] = at;
    if (call->output == OFR_FORWARD_OUTPUT_LOGPROBS && call->targets != NULL) {
        memcpy(header + at, call->targets, n * sizeof *header);
        at += n;
    }
    header[OPENCL_PASS_COSINES_AT] = at;
    header[OPENCL_PASS_SINES_AT] = at + n * half;
    for (t = 0; t < n; t++) {
        float *cosines = (float *)(void *)(header + at + (size_t)t * half);
        ofr_rope_fill(&session->rope, tokens[4 * t + 2], 1, cosines, cosines + (size_t)n * half);
    }
    at += 2 * n * half;
    half = session->rope_local.half;
    header[OPENCL_PASS_LOCAL_COSINES_AT] = at;
    header[OPENCL_PASS_LOCAL_SINES_AT] = at + n * half;
    for (t = 0; half > 0 && t < n; t++) {
        float *cosines = (float *)(void *)(header + at + (size_t)t * half);
        ofr_rope_fill(&session->rope_local, tokens[4 * t + 2], 1, cosines,
                      cosines + (size_t)n * half);
    }
    at += 2 * n * half;
    ofr_opencl_note(session,
                    session->api->EnqueueWriteBuffer(session->queue, session->pass, CL_FALSE, 0,
                                                     (size_t)at * 4, header, 0, NULL, NULL),
                    "sending a batch");
}

void ofr_opencl_attend(ofr_backend_session *session, uint32_t layer, bool into_record)
{
    bool one = session->all_single;
    uint32_t heads = session->params->n_kv_heads;
    uint32_t step = into_record ? OPENCL_STEP_DOT_ATTENTION
                    : one       ? OPENCL_STEP_ATTENTION_ONE
                                : OPENCL_STEP_ATTENTION_BLOCK;
    if (!one) {
        ofr_opencl_launch(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_STORE_KV),
                          session->params->head_dim / 2, 1, heads, session->n_tokens);
    }
    ofr_opencl_launch(session, ofr_opencl_layer_step(session, layer, step),
                      session->attention_items, session->n_blocks, heads, session->n_splits);
    if (session->n_splits > 1 && !session->device.device_fence) {
        step = one ? OPENCL_STEP_MERGE_ONE : OPENCL_STEP_MERGE_BLOCK;
        ofr_opencl_launch(session, ofr_opencl_layer_step(session, layer, step),
                          session->attention_items, session->n_blocks, heads, 1);
    }
}

/* A product by the plain kernels: `gemv` and `gemm` are the steps' kernels. */
static void plain_product(ofr_backend_session *session, cl_kernel gemv, cl_kernel gemm,
                          uint32_t rows, uint32_t n)
{
    if (n <= PLAIN_GEMV_TOKENS) {
        ofr_opencl_launch(session, gemv, PLAIN_LANES, rows, n, 1);
    } else {
        ofr_opencl_launch(session, gemm, 128, divide_up(rows, 32), divide_up(n, 16), 1);
    }
}

static void plain_part(ofr_backend_session *session, uint32_t layer, uint32_t part)
{
    bool few = session->n_tokens <= PLAIN_GEMV_TOKENS;
    cl_kernel kernel =
        ofr_opencl_layer_step(session, layer, (few ? OPENCL_STEP_GEMV : OPENCL_STEP_GEMM) + part);
    plain_product(session, kernel, kernel, session->layers[layer].parts[part].rows,
                  session->n_tokens);
}

static void norm(ofr_backend_session *session, cl_kernel kernel, uint32_t rows)
{
    ofr_opencl_launch(session, kernel, ROW_ITEMS, rows, 1, 1);
}

static bool present(uint32_t norm)
{
    return norm != (uint32_t)OPENCL_NO_VECTOR;
}

/* What O or down left in the branch, normed, to the residual; nothing where it is there already. */
static void add_branch(ofr_backend_session *session, uint32_t layer, uint32_t step)
{
    const opencl_layer *l = &session->layers[layer];
    if (present(step == OPENCL_STEP_ADD_O ? l->attention_output_norm : l->mlp_output_norm)) {
        norm(session, ofr_opencl_layer_step(session, layer, step), session->n_tokens);
    }
}

static void plain_layer(ofr_backend_session *session, uint32_t layer)
{
    uint32_t n = session->n_tokens;
    norm(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_ATTENTION_NORM), n);
    plain_part(session, layer, OPENCL_PART_Q);
    plain_part(session, layer, OPENCL_PART_K);
    plain_part(session, layer, OPENCL_PART_V);
    ofr_opencl_attend(session, layer, false);
    plain_part(session, layer, OPENCL_PART_O);
    add_branch(session, layer, OPENCL_STEP_ADD_O);
    norm(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_MLP_NORM), n);
    plain_part(session, layer, OPENCL_PART_GATE);
    plain_part(session, layer, OPENCL_PART_UP);
    plain_part(session, layer, OPENCL_PART_DOWN);
    add_branch(session, layer, OPENCL_STEP_ADD_DOWN);
}

static void gemm(ofr_backend_session *session, cl_kernel kernel, uint32_t rows, uint32_t n)
{
    const opencl_tuning *t = &session->tuning;
    uint32_t items = t->tile_tokens / t->item_tokens * (t->tile_rows / t->item_rows);
    items *= t->gemm_units == OPENCL_BY_MATRIX ? session->device.matrix_lanes : 1;
    ofr_opencl_launch(session, kernel, items, divide_up(rows, t->tile_rows),
                      divide_up(n, t->tile_tokens), 1);
}

static void wide_part(ofr_backend_session *session, uint32_t layer, uint32_t part)
{
    gemm(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_DOT_GEMM + part),
         session->layers[layer].parts[part].rows, session->n_tokens);
}

static void quantize(ofr_backend_session *session, cl_kernel kernel, uint32_t columns, uint32_t n)
{
    ofr_opencl_launch(session, kernel, 32, divide_up(columns / 32, 32), n, 1);
}

void ofr_opencl_run_heads(ofr_backend_session *session, uint32_t layer, uint32_t n)
{
    session->n_tokens = n;
    quantize(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_QUANTIZE_QKV),
             session->params->d_model, n);
    wide_part(session, layer, OPENCL_PART_Q);
    wide_part(session, layer, OPENCL_PART_K);
    wide_part(session, layer, OPENCL_PART_V);
}

static void wide_layer(ofr_backend_session *session, uint32_t layer)
{
    uint32_t n = session->n_tokens, d = session->params->d_model;
    ofr_opencl_run_heads(session, layer, n);
    ofr_opencl_attend(session, layer, false);
    quantize(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_QUANTIZE_O),
             session->q_width, n);
    wide_part(session, layer, OPENCL_PART_O);
    add_branch(session, layer, OPENCL_STEP_ADD_O);
    quantize(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_QUANTIZE_MLP), d, n);
    wide_part(session, layer, OPENCL_PART_GATE);
    wide_part(session, layer, OPENCL_PART_UP);
    quantize(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_QUANTIZE_DOWN),
             session->params->d_ff, n);
    wide_part(session, layer, OPENCL_PART_DOWN);
    add_branch(session, layer, OPENCL_STEP_ADD_DOWN);
}

/* rows of all matrices of the step, each rounded up to tiles of 32. */
static void gemv(ofr_backend_session *session, cl_kernel kernel, uint32_t tiles, uint32_t n)
{
    const opencl_tuning *t = &session->tuning;
    uint32_t several = n > 1, items = t->lanes[several] * 32 / t->team_rows[several];
    ofr_opencl_launch(session, kernel, items, tiles, several ? divide_up(n, SEVERAL_TOKENS) : 1, 1);
}

static bool same_type(const opencl_matrix *a, const opencl_matrix *b)
{
    return a->tensor->dtype == b->tensor->dtype;
}

/* Q, K, V in one launch where their types are the same. */
static void narrow_heads(ofr_backend_session *session, uint32_t layer, uint32_t n)
{
    const opencl_matrix *parts = session->layers[layer].parts;
    uint32_t several = n > 1, kv_tiles = divide_up(parts[OPENCL_PART_K].rows, 32);
    if (same_type(&parts[OPENCL_PART_Q], &parts[OPENCL_PART_K]) &&
        same_type(&parts[OPENCL_PART_Q], &parts[OPENCL_PART_V])) {
        gemv(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_DOT_QKV + several),
             divide_up(parts[OPENCL_PART_Q].rows, 32) + 2 * kv_tiles, n);
        return;
    }
    for (uint32_t p = OPENCL_PART_Q; p <= OPENCL_PART_V; p++) {
        gemv(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_DOT_PART + 2 * p + several),
             divide_up(parts[p].rows, 32), n);
    }
}

static void narrow_mlp(ofr_backend_session *session, uint32_t layer, uint32_t n)
{
    const opencl_matrix *parts = session->layers[layer].parts;
    uint32_t several = n > 1;
    if (same_type(&parts[OPENCL_PART_GATE], &parts[OPENCL_PART_UP])) {
        gemv(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_DOT_SWIGLU + several),
             session->params->d_ff / 32, n);
        return;
    }
    wide_part(session, layer, OPENCL_PART_GATE);
    wide_part(session, layer, OPENCL_PART_UP);
    quantize(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_QUANTIZE_DOWN),
             session->params->d_ff, n);
}

/* Five launches: every stage leaves the record that the next one reads; more where types are mixed
 * or what is added is normed. */
static void narrow_layer(ofr_backend_session *session, uint32_t layer)
{
    uint32_t n = session->n_tokens, several = n > 1, d = session->params->d_model;
    const opencl_layer *own = &session->layers[layer];
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    narrow_heads(session, layer, n);
    bool into_record = session->all_single && session->quantizes_attention &&
                       (session->device.device_fence || session->n_splits == 1);
    ofr_opencl_attend(session, layer, into_record);
    if (!into_record) {
        quantize(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_QUANTIZE_O),
                 session->q_width, n);
    }
    gemv(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_DOT_O + several), d / 32, n);
    if (present(own->attention_output_norm)) {
        add_branch(session, layer, OPENCL_STEP_ADD_O);
        quantize(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_QUANTIZE_MLP), d, n);
    }
    narrow_mlp(session, layer, n);
    gemv(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_DOT_DOWN + several), d / 32, n);
    if (present(own->mlp_output_norm)) {
        add_branch(session, layer, OPENCL_STEP_ADD_DOWN);
        if (layer + 1 < n_layers) {
            quantize(session, ofr_opencl_layer_step(session, layer + 1, OPENCL_STEP_QUANTIZE_QKV),
                     d, n);
        }
    }
}

void ofr_opencl_run_stored(ofr_backend_session *session, uint32_t n, uint32_t head_rows)
{
    ofr_opencl_run_heads(session, 0, n);
    wide_part(session, 0, OPENCL_PART_GATE);
    if (head_rows > 0) {
        cl_kernel kernel = ofr_opencl_model_step(session, OPENCL_MODEL_STEP_DOT_HEAD_GEMM);
        ofr_opencl_set_u32(session, kernel, ARGUMENT_GEMM_COUNT,
                           (uint32_t)OPENCL_COUNT_IS | head_rows);
        gemm(session, kernel, session->params->vocab_size, head_rows);
    }
}

/* The products of a layer, a launch each. */
static void run_products(ofr_backend_session *session, uint32_t layer, uint32_t n)
{
    uint32_t several = n > 1, d = session->params->d_model;
    narrow_heads(session, layer, n);
    gemv(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_DOT_O + several), d / 32, n);
    narrow_mlp(session, layer, n);
    gemv(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_DOT_DOWN + several), d / 32, n);
}

void ofr_opencl_run_tuned(ofr_backend_session *session, uint32_t layer, enum opencl_tuned what,
                          uint32_t n)
{
    uint32_t several = what == OPENCL_TUNED_GEMV_SEVERAL;
    session->n_tokens = n;
    switch (what) {
    case OPENCL_TUNED_GEMM:
        wide_part(session, layer, OPENCL_PART_GATE);
        return;
    case OPENCL_TUNED_ATTENTION:
        ofr_opencl_attend(session, layer, false);
        return;
    case OPENCL_TUNED_STEPS:
        run_products(session, layer, n);
        return;
    case OPENCL_TUNED_TOKEN:
        if (layer == 0) { /* all layers at once */
            ofr_opencl_token_launch(session, false, true);
        }
        return;
    default:
        gemv(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_DOT_SWIGLU + several),
             session->params->d_ff / 32, n);
        gemv(session, ofr_opencl_layer_step(session, layer, OPENCL_STEP_DOT_DOWN + several),
             session->params->d_model / 32, n);
    }
}

/* A watchdog wants to see layers go by, and a queue shows nothing: long layers are waited for. */
static void note_progress(ofr_backend_session *session, bool narrow, uint32_t n_layers)
{
    if (session->options.progress == NULL) {
        return;
    }
    if (!narrow) {
        ofr_opencl_note(session, session->api->Finish(session->queue), "waiting for a layer");
    }
    atomic_fetch_add_explicit(session->options.progress, n_layers, memory_order_relaxed);
}

/* Whether the call's token goes through all layers in one launch. */
static bool in_one_launch(const ofr_backend_session *session)
{
    return session->token_groups > 0 && session->n_tokens == 1;
}

/* Whether that launch makes the logits, too. */
static bool launch_has_head(const ofr_backend_session *session)
{
    enum ofr_forward_output output = session->call->output;
    return in_one_launch(session) && session->options.layer_end == session->params->n_layers &&
           output != OFR_FORWARD_OUTPUT_NONE && output != OFR_FORWARD_OUTPUT_HIDDEN_SUM;
}

static void run_layers(ofr_backend_session *session)
{
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    uint32_t n = session->n_tokens, d = session->params->d_model;
    bool narrow = session->dot && n <= session->narrow_tokens;
    if (session->options.layer_begin == 0) {
        ofr_opencl_launch(session, ofr_opencl_model_step(session, OPENCL_MODEL_STEP_EMBED), 32,
                          divide_up(d, 32), n, 1);
    }
    if (in_one_launch(session)) {
        ofr_opencl_token_launch(session, launch_has_head(session), false);
        note_progress(session, true, n_layers);
        return;
    }
    if (narrow) {
        quantize(session, ofr_opencl_layer_step(session, 0, OPENCL_STEP_QUANTIZE_QKV), d, n);
    }
    for (uint32_t i = 0; i < n_layers && session->status == CL_SUCCESS; i++) {
        if (!session->dot) {
            plain_layer(session, i);
        } else if (narrow) {
            narrow_layer(session, i);
        } else {
            wide_layer(session, i);
        }
        note_progress(session, narrow, 1);
    }
}

static void run_head_products(ofr_backend_session *session, uint32_t first, uint32_t n)
{
    uint32_t vocab = session->params->vocab_size, d = session->params->d_model;
    uint32_t count = (uint32_t)OPENCL_COUNT_IS | n;
    cl_kernel kernel;
    /* The last layer left the head's input. */
    bool ready = session->dot && session->n_tokens <= session->narrow_tokens &&
                 session->all_single && !session->normed_outputs;
    if (!ready) {
        kernel = ofr_opencl_model_step(session, OPENCL_MODEL_STEP_GATHER);
        ofr_opencl_set_u32(session, kernel, ARGUMENT_GATHER_FIRST, first);
        ofr_opencl_launch(session, kernel, 32, divide_up(d, 32), n, 1);
    }
    if (!session->dot) {
        bool few = n <= PLAIN_GEMV_TOKENS;
        norm(session, ofr_opencl_model_step(session, OPENCL_MODEL_STEP_FINAL_NORM), n);
        kernel = ofr_opencl_model_step(session, few ? OPENCL_MODEL_STEP_HEAD_GEMV
                                                    : OPENCL_MODEL_STEP_HEAD_GEMM);
        ofr_opencl_set_u32(session, kernel, ARGUMENT_PLAIN_COUNT, count);
        plain_product(session, kernel, kernel, vocab, n);
        return;
    }
    if (!ready) {
        quantize(session, ofr_opencl_model_step(session, OPENCL_MODEL_STEP_QUANTIZE_FINAL), d, n);
    }
    if (n <= session->narrow_tokens) {
        kernel = ofr_opencl_model_step(session, OPENCL_MODEL_STEP_DOT_HEAD + (n > 1));
        ofr_opencl_set_u32(session, kernel, ARGUMENT_STORE_COUNT, count);
        gemv(session, kernel, divide_up(vocab, 32), n);
    } else {
        kernel = ofr_opencl_model_step(session, OPENCL_MODEL_STEP_DOT_HEAD_GEMM);
        ofr_opencl_set_u32(session, kernel, ARGUMENT_GEMM_COUNT, count);
        gemm(session, kernel, vocab, n);
    }
}

/* Logits of output rows [first, first + n) into session->logits. */
static void run_head(ofr_backend_session *session, uint32_t first, uint32_t n)
{
    const ofr_model_params *p = session->params;
    if (!launch_has_head(session)) {
        run_head_products(session, first, n);
    }
    if (ofr_scale_or_one(p->logit_scale) != 1 || p->logit_softcap != 0) {
        ofr_opencl_launch(session, ofr_opencl_model_step(session, OPENCL_MODEL_STEP_FINISH_LOGITS),
                          32, divide_up(p->vocab_size, 32), n, 1);
    }
}

void ofr_opencl_fetch(ofr_backend_session *session, cl_mem from, size_t bytes, void *to)
{
    char *staged = ofr_opencl_stage(session, to, bytes, bytes, 1);
    to = staged != NULL ? staged : to;
    session->stats.outputs_fetched += bytes;
    if (session->status == CL_SUCCESS) {
        ofr_opencl_note(session,
                        session->api->EnqueueReadBuffer(session->queue, from, CL_FALSE, 0, bytes,
                                                        to, 0, NULL, NULL),
                        "fetching results");
    }
}

/* Segments' sums go through `gathered`, as many rows at a time as it has. */
static void sum_hidden(ofr_backend_session *session)
{
    const ofr_forward *call = session->call;
    uint32_t d = session->params->d_model, token = 0;
    cl_kernel kernel = ofr_opencl_model_step(session, OPENCL_MODEL_STEP_SUM_ROWS);
    for (uint32_t i = 0; i < call->n_segments; i++) {
        uint32_t row = i % OPENCL_OUTPUT_ROWS;
        ofr_opencl_set_u32(session, kernel, ARGUMENT_SUM_FIRST, token);
        ofr_opencl_set_u32(session, kernel, ARGUMENT_SUM_FIRST + 1, call->segments[i].n_tokens);
        ofr_opencl_set_u32(session, kernel, ARGUMENT_SUM_FIRST + 2, row);
        ofr_opencl_launch(session, kernel, ROW_ITEMS, 1, 1, 1);
        token += call->segments[i].n_tokens;
        if (row + 1 == OPENCL_OUTPUT_ROWS || i + 1 == call->n_segments) {
            ofr_opencl_fetch(session, session->gathered, (size_t)(row + 1) * d * sizeof(float),
                             call->logits + (size_t)(i - row) * d);
        }
    }
}

static void run_outputs(ofr_backend_session *session)
{
    const ofr_forward *call = session->call;
    uint32_t vocab = session->params->vocab_size;
    if (session->options.layer_end < session->params->n_layers) {
        return;
    }
    if (call->output == OFR_FORWARD_OUTPUT_HIDDEN_SUM) {
        sum_hidden(session);
        return;
    }
    for (uint32_t i = 0; call->output != OFR_FORWARD_OUTPUT_NONE && i < session->n_outputs;
         i += OPENCL_OUTPUT_ROWS) {
        uint32_t left = session->n_outputs - i;
        uint32_t n = left < OPENCL_OUTPUT_ROWS ? left : OPENCL_OUTPUT_ROWS;
        run_head(session, i, n);
        if (call->output == OFR_FORWARD_OUTPUT_LOGPROBS) {
            cl_kernel kernel = ofr_opencl_model_step(session, OPENCL_MODEL_STEP_LOGPROB);
            ofr_opencl_set_u32(session, kernel, ARGUMENT_LOGPROB_FIRST, i);
            ofr_opencl_launch(session, kernel, ROW_ITEMS, n, 1, 1);
            ofr_opencl_fetch(session, session->logprobs, n * sizeof(float), call->logprobs + i);
        } else if (call->output == OFR_FORWARD_OUTPUT_CANDIDATES) {
            ofr_opencl_choose(session, n, call->n_candidates,
                              call->candidates + (size_t)i * call->n_candidates);
        } else {
            ofr_opencl_fetch(session, session->logits, (size_t)n * vocab * sizeof(float),
                             call->logits + (size_t)i * vocab);
        }
    }
    if (call->output == OFR_FORWARD_OUTPUT_CANDIDATES) {
        ofr_opencl_fetch_not_finite(session);
    }
}

int ofr_opencl_run(ofr_backend_session *session, const ofr_forward *call, ofr_error *err)
{
    session->call = call;
    session->all_single = true;
    for (uint32_t i = 0; i < call->n_segments; i++) {
        session->all_single = session->all_single && call->segments[i].n_tokens == 1;
    }
    ofr_opencl_describe(session);
    ofr_opencl_kv_to_device(session);
    ofr_opencl_stream_to_device(session);
    run_layers(session);
    run_outputs(session);
    ofr_opencl_stream_to_host(session);
    ofr_opencl_kv_to_host(session);
    /* Also after a failure: nothing may still be reading the caller's memory. */
    ofr_opencl_note(session, session->api->Finish(session->queue), "waiting for the device");
    ofr_opencl_unstage(session);
    if (in_one_launch(session) && !ofr_opencl_token_held(session)) {
        ofr_opencl_take_finite(session);           /* of logits that were not made */
        return ofr_opencl_run(session, call, err); /* step by step from now on */
    }
    session->call = NULL;
    int result = ofr_opencl_error(session, err);
    bool last_layer = session->options.layer_end == session->params->n_layers;
    if (result == 0 && last_layer && call->output == OFR_FORWARD_OUTPUT_CANDIDATES) {
        *call->ret_finite = ofr_opencl_take_finite(session);
    }
    return result;
}
