/* Steps: the arguments of each kernel of a pass. */
#include <stdio.h>
#include <string.h>

#include "backend/opencl/opencl_arguments.h"

static void add_place(arguments *a, const opencl_matrix *matrix)
{
    add_buffer(a, matrix->data);
    add_u64(a, matrix->data_offset);
    add_buffer(a, matrix->scales != NULL ? matrix->scales : matrix->data);
    add_u64(a, matrix->scale_offset);
}

static void add_plain_matrix(arguments *a, const opencl_matrix *matrix)
{
    add_place(a, matrix);
    add_u32(a, matrix->rows);
    add_u32(a, matrix->columns);
    add_u32(a, matrix->group > 0 ? matrix->group : 32);
}

enum { SINK_STORE, SINK_ADD, SINK_SWIGLU };

/* A product of x with `matrix` into y. */
typedef struct linear {
    const opencl_matrix *matrix;
    cl_mem x, y;
    uint32_t x_stride, y_stride, sink;
    uint32_t y_offset; /* floats: plain kernels have none, it goes into a view of the rows */
    const opencl_record *record;
    float epsilon; /* below 0: the record is not to be normalized */
    uint32_t count_word;
} linear;

static uint32_t part_width(const ofr_backend_session *session, uint32_t part)
{
    return part == OPENCL_PART_Q ? session->q_width : (session->qkv_width - session->q_width) / 2;
}

static float residual_scale(const ofr_backend_session *session)
{
    return ofr_scale_or_one(session->params->residual_scale);
}

/* O and down: added, or stored for the norm of what is added. */
static void to_residual(const ofr_backend_session *session, uint32_t norm, linear *l)
{
    bool normed = norm != (uint32_t)OPENCL_NO_VECTOR;
    l->y = normed ? session->branch : session->hidden;
    l->y_stride = session->params->d_model;
    l->sink = normed ? SINK_STORE : SINK_ADD;
}

/* Where a part of a layer reads and writes. */
static linear layer_linear(ofr_backend_session *session, uint32_t index, uint32_t part)
{
    const ofr_model_params *p = session->params;
    linear l = {.matrix = &session->layers[index].parts[part],
                .epsilon = -1,
                .count_word = OPENCL_PASS_TOKENS};
    switch (part) {
    case OPENCL_PART_Q:
    case OPENCL_PART_K:
    case OPENCL_PART_V:
        l.x = session->normed;
        l.x_stride = p->d_model;
        l.record = &session->input;
        l.epsilon = p->rms_epsilon;
        l.y = session->qkv;
        l.y_stride = session->qkv_width;
        l.y_offset = part == OPENCL_PART_Q   ? 0
                     : part == OPENCL_PART_K ? session->q_width
                                             : session->q_width + part_width(session, part);
        break;
    case OPENCL_PART_O:
        l.x = session->attention;
        l.x_stride = session->q_width;
        l.record = &session->attended;
        to_residual(session, session->layers[index].attention_output_norm, &l);
        break;
    case OPENCL_PART_GATE:
    case OPENCL_PART_UP:
        l.x = session->normed;
        l.x_stride = p->d_model;
        l.record = &session->input;
        l.epsilon = p->rms_epsilon;
        l.y = session->mlp;
        l.y_stride = p->d_ff;
        l.sink = part == OPENCL_PART_UP ? SINK_SWIGLU : SINK_STORE;
        break;
    default:
        l.x = session->mlp;
        l.x_stride = p->d_ff;
        l.record = &session->gated;
        to_residual(session, session->layers[index].mlp_output_norm, &l);
        break;
    }
    return l;
}

static linear head_linear(ofr_backend_session *session)
{
    const ofr_model_params *p = session->params;
    return (linear){.matrix = &session->head,
                    .x = session->normed,
                    .x_stride = p->d_model,
                    .record = &session->input,
                    .epsilon = p->rms_epsilon,
                    .y = session->logits,
                    .y_stride = p->vocab_size,
                    .sink = SINK_STORE};
}

static cl_kernel plain_linear(ofr_backend_session *session, const linear *l, bool gemm)
{
    char name[32];
    enum ofr_dtype dtype = l->matrix->tensor->dtype;
    snprintf(name, sizeof name, "plain_%s_%s", gemm ? "gemm" : "gemv", ofr_opencl_type_name(dtype));
    arguments a = start(session, OPENCL_PROGRAM_PLAIN + dtype, name);
    if (a.kernel != NULL) {
        add_plain_matrix(&a, l->matrix);
        add_buffer(&a, session->vectors);
        add_u32(&a, l->matrix->bias);
        add_buffer(&a, l->x);
        add_u32(&a, l->x_stride);
        add_buffer(&a, l->y);
        add_u32(&a, l->y_offset);
        add_u32(&a, l->y_stride);
        add_f32(&a, residual_scale(session));
        add_u32(&a, l->sink);
        add_buffer(&a, session->pass);
        add_u32(&a, l->count_word);
    }
    return a.kernel;
}

/* matrix NULL: an argument that is not looked at. */
static void add_dot_matrix(arguments *a, const opencl_matrix *matrix, const opencl_matrix *any)
{
    add_place(a, matrix != NULL ? matrix : any);
    add_u32(a, matrix != NULL ? matrix->rows : 0);
    add_u32(a, matrix != NULL ? ofr_opencl_scale_shift(matrix) : 0);
    add_u32(a, matrix != NULL ? matrix->bias : (uint32_t)OPENCL_NO_VECTOR);
}

static void add_dot_input(arguments *a, const linear *l)
{
    add_u32(a, l->matrix->columns);
    add_buffer(a, l->record->values);
    add_buffer(a, l->record->scales);
    add_buffer(a, l->record->squares);
    add_f32(a, l->epsilon);
    add_buffer(a, a->session->vectors);
    add_buffer(a, a->session->pass);
    add_u32(a, l->count_word);
}

static arguments start_dot(ofr_backend_session *session, const opencl_matrix *matrix,
                           uint32_t program, const char *kind)
{
    static const char *const types[OPENCL_DOT_TYPES] = {"i4", "i8", "i4m"};
    char name[32];
    enum opencl_dot_type type = ofr_opencl_dot_type(matrix->tensor);
    snprintf(name, sizeof name, "%s_%s", kind, types[type]);
    uint32_t of_type = program >= OPENCL_PROGRAM_GEMM ? type : 2 * type;
    return start(session, program + of_type, name);
}

static cl_kernel dot_gemm(ofr_backend_session *session, const linear *l)
{
    arguments a = start_dot(session, l->matrix, OPENCL_PROGRAM_GEMM, "gemm");
    if (a.kernel != NULL) {
        add_dot_matrix(&a, l->matrix, NULL);
        add_dot_input(&a, l);
        add_buffer(&a, l->y);
        add_u32(&a, l->y_offset);
        add_u32(&a, l->y_stride);
        add_f32(&a, residual_scale(session));
        add_u32(&a, l->sink);
    }
    return a.kernel;
}

static cl_kernel dot_store(ofr_backend_session *session, const linear *l,
                           const opencl_matrix *second, const opencl_matrix *third,
                           uint32_t several)
{
    arguments a = start_dot(session, l->matrix, OPENCL_PROGRAM_DOT + several, "gemv_store");
    if (a.kernel != NULL) {
        add_dot_matrix(&a, l->matrix, NULL);
        add_dot_matrix(&a, second, l->matrix);
        add_dot_matrix(&a, third, l->matrix);
        add_dot_input(&a, l);
        add_buffer(&a, l->y);
        add_u32(&a, l->y_offset);
        add_u32(&a, l->y_stride);
    }
    return a.kernel;
}

static void add_record(arguments *a, uint32_t norm, const opencl_record *record)
{
    add_u32(a, norm);
    add_buffer(a, record->values);
    add_buffer(a, record->scales);
    add_buffer(a, record->squares);
}

/* The norm before what follows down: the next layer's, the head's, or none: another device's. */
uint32_t ofr_opencl_following_norm(const ofr_backend_session *session, uint32_t index)
{
    if (session->options.layer_begin + index + 1 < session->options.layer_end) {
        return session->layers[index + 1].attention_norm;
    }
    return session->options.layer_end == session->params->n_layers ? session->final_norm
                                                                   : (uint32_t)OPENCL_NO_VECTOR;
}

static cl_kernel dot_add(ofr_backend_session *session, uint32_t index, uint32_t part,
                         uint32_t several)
{
    linear l = layer_linear(session, index, part);
    if (l.sink == SINK_STORE) { /* to be normed first */
        return dot_store(session, &l, NULL, NULL, several);
    }
    arguments a = start_dot(session, l.matrix, OPENCL_PROGRAM_DOT + several, "gemv_add");
    if (a.kernel != NULL) {
        add_dot_matrix(&a, l.matrix, NULL);
        add_dot_input(&a, &l);
        add_buffer(&a, l.y);
        add_u32(&a, l.y_stride);
        add_f32(&a, residual_scale(session));
        add_record(&a,
                   part == OPENCL_PART_O ? session->layers[index].mlp_norm
                                         : ofr_opencl_following_norm(session, index),
                   &session->input);
    }
    return a.kernel;
}

static cl_kernel dot_swiglu(ofr_backend_session *session, uint32_t index, uint32_t several)
{
    linear l = layer_linear(session, index, OPENCL_PART_GATE);
    const opencl_matrix *parts = session->layers[index].parts;
    arguments a = start_dot(session, l.matrix, OPENCL_PROGRAM_DOT + several, "gemv_swiglu");
    if (a.kernel != NULL) {
        add_dot_matrix(&a, l.matrix, NULL);
        add_dot_matrix(&a, &parts[OPENCL_PART_UP], NULL);
        add_dot_input(&a, &l);
        add_record(&a, (uint32_t)OPENCL_NO_VECTOR, &session->gated);
    }
    return a.kernel;
}

static cl_kernel quantize(ofr_backend_session *session, cl_mem x, uint32_t norm,
                          const opencl_record *record)
{
    arguments a = start(session, OPENCL_PROGRAM_ROWS, "quantize");
    if (a.kernel != NULL) {
        add_buffer(&a, x);
        add_u32(&a, record->columns);
        add_buffer(&a, session->vectors);
        add_record(&a, norm, record);
    }
    return a.kernel;
}

static cl_kernel norm_rows(ofr_backend_session *session, cl_mem x, uint32_t norm)
{
    arguments a = start(session, OPENCL_PROGRAM_ROWS, "rmsnorm");
    if (a.kernel != NULL) {
        add_buffer(&a, x);
        add_buffer(&a, session->vectors);
        add_u32(&a, norm);
        add_u32(&a, session->params->d_model);
        add_f32(&a, session->params->rms_epsilon);
        add_buffer(&a, session->normed);
    }
    return a.kernel;
}

/* HEAD_ARGUMENTS of kernels/common.cl. */
static void add_heads(arguments *a, const opencl_layer *layer)
{
    add_u32(a, layer->rope_half);
    add_u32(a, layer->rope_table);
    add_u32(a, layer->q_norm);
    add_u32(a, layer->k_norm);
    add_u32(a, layer->window);
    add_buffer(a, a->session->vectors);
    add_f32(a, a->session->params->rms_epsilon);
}

static cl_kernel add_normed(ofr_backend_session *session, uint32_t norm)
{
    arguments a = start(session, OPENCL_PROGRAM_ROWS, "add_normed");
    if (a.kernel != NULL) {
        add_buffer(&a, session->branch);
        add_buffer(&a, session->vectors);
        add_u32(&a, norm);
        add_u32(&a, session->params->d_model);
        add_f32(&a, session->params->rms_epsilon);
        add_f32(&a, residual_scale(session));
        add_buffer(&a, session->hidden);
    }
    return a.kernel;
}

static cl_kernel store_kv(ofr_backend_session *session, const opencl_layer *layer)
{
    arguments a = start(session, OPENCL_PROGRAM_ROWS, "store_kv");
    if (a.kernel != NULL) {
        add_buffer(&a, session->qkv);
        add_u32(&a, session->q_width);
        add_u32(&a, session->params->n_kv_heads);
        add_u32(&a, session->params->head_dim);
        add_heads(&a, layer);
        add_buffer(&a, layer->kv);
        add_u64(&a, session->kv_slot_stride);
        add_u64(&a, layer->k_offset);
        add_u64(&a, layer->v_offset);
        add_buffer(&a, session->pass);
    }
    return a.kernel;
}

static cl_kernel attention(ofr_backend_session *session, const opencl_layer *layer, bool one,
                           bool into_record)
{
    arguments a = start(
        session, one ? OPENCL_PROGRAM_ATTENTION_ONE : OPENCL_PROGRAM_ATTENTION_BLOCK, "attention");
    if (a.kernel != NULL) {
        const opencl_record *record = &session->attended;
        add_buffer(&a, session->qkv);
        add_u32(&a, session->params->n_kv_heads);
        add_heads(&a, layer);
        add_buffer(&a, layer->kv);
        add_u64(&a, session->kv_slot_stride);
        add_u64(&a, layer->k_offset);
        add_u64(&a, layer->v_offset);
        add_buffer(&a, session->pass);
        add_f32(&a, ofr_model_params_attention_scale(session->params));
        add_u32(&a, one);
        add_u32(&a, session->device.device_fence);
        add_u32(&a, into_record);
        add_buffer(&a, session->attention);
        add_buffer(&a, session->partial);
        add_buffer(&a, session->counters);
        /* Not looked at unless into_record. */
        add_buffer(&a, into_record ? record->values : session->attention);
        add_buffer(&a, into_record ? record->scales : session->attention);
    }
    return a.kernel;
}

static cl_kernel merge(ofr_backend_session *session, const opencl_layer *layer, bool one)
{
    arguments a =
        start(session, one ? OPENCL_PROGRAM_ATTENTION_ONE : OPENCL_PROGRAM_ATTENTION_BLOCK,
              "merge_splits");
    if (a.kernel != NULL) {
        add_u32(&a, session->params->n_kv_heads);
        add_u32(&a, layer->window);
        add_buffer(&a, session->pass);
        add_buffer(&a, session->partial);
        add_buffer(&a, session->attention);
    }
    return a.kernel;
}

static cl_kernel make_layer_step(ofr_backend_session *session, uint32_t index, uint32_t step)
{
    opencl_layer *layer = &session->layers[index];
    if (step >= OPENCL_STEP_GEMV && step < OPENCL_STEP_STORE_KV) {
        uint32_t part = (step - OPENCL_STEP_GEMV) % OPENCL_PART_COUNT;
        linear l = layer_linear(session, index, part);
        return plain_linear(session, &l, step >= OPENCL_STEP_GEMM);
    }
    if (step >= OPENCL_STEP_DOT_GEMM && step < OPENCL_STEP_QUANTIZE_QKV) {
        linear l = layer_linear(session, index, step - OPENCL_STEP_DOT_GEMM);
        return dot_gemm(session, &l);
    }
    if (step >= OPENCL_STEP_DOT_QKV && step < OPENCL_STEP_DOT_O) {
        linear l = layer_linear(session, index, OPENCL_PART_Q);
        return dot_store(session, &l, &layer->parts[OPENCL_PART_K], &layer->parts[OPENCL_PART_V],
                         step - OPENCL_STEP_DOT_QKV);
    }
    if (step >= OPENCL_STEP_DOT_PART && step < OPENCL_STEP_ADD_O) {
        linear l = layer_linear(session, index, (step - OPENCL_STEP_DOT_PART) / 2);
        return dot_store(session, &l, NULL, NULL, (step - OPENCL_STEP_DOT_PART) % 2);
    }
    if (step >= OPENCL_STEP_DOT_O && step < OPENCL_STEP_DOT_SWIGLU) {
        return dot_add(session, index, OPENCL_PART_O, step - OPENCL_STEP_DOT_O);
    }
    if (step >= OPENCL_STEP_DOT_SWIGLU && step < OPENCL_STEP_DOT_DOWN) {
        return dot_swiglu(session, index, step - OPENCL_STEP_DOT_SWIGLU);
    }
    if (step >= OPENCL_STEP_DOT_DOWN && step < OPENCL_STEP_DOT_ATTENTION) {
        return dot_add(session, index, OPENCL_PART_DOWN, step - OPENCL_STEP_DOT_DOWN);
    }
    const uint32_t none = (uint32_t)OPENCL_NO_VECTOR;
    switch (step) {
    case OPENCL_STEP_ATTENTION_NORM:
        return norm_rows(session, session->hidden, layer->attention_norm);
    case OPENCL_STEP_MLP_NORM:
        return norm_rows(session, session->hidden, layer->mlp_norm);
    case OPENCL_STEP_STORE_KV:
        return store_kv(session, layer);
    case OPENCL_STEP_ATTENTION_ONE:
    case OPENCL_STEP_ATTENTION_BLOCK:
        return attention(session, layer, step == OPENCL_STEP_ATTENTION_ONE, false);
    case OPENCL_STEP_DOT_ATTENTION:
        return attention(session, layer, true, true);
    case OPENCL_STEP_MERGE_ONE:
    case OPENCL_STEP_MERGE_BLOCK:
        return merge(session, layer, step == OPENCL_STEP_MERGE_ONE);
    case OPENCL_STEP_ADD_O:
        return add_normed(session, layer->attention_output_norm);
    case OPENCL_STEP_ADD_DOWN:
        return add_normed(session, layer->mlp_output_norm);
    case OPENCL_STEP_QUANTIZE_QKV:
        return quantize(session, session->hidden, layer->attention_norm, &session->input);
    case OPENCL_STEP_QUANTIZE_O:
        return quantize(session, session->attention, none, &session->attended);
    case OPENCL_STEP_QUANTIZE_MLP:
        return quantize(session, session->hidden, layer->mlp_norm, &session->input);
    default:
        return quantize(session, session->mlp, none, &session->gated);
    }
}

cl_kernel ofr_opencl_layer_step(ofr_backend_session *session, uint32_t index, uint32_t step)
{
    cl_kernel *kernel = &session->layers[index].steps[step];
    if (*kernel == NULL) {
        *kernel = make_layer_step(session, index, step);
    }
    return *kernel;
}

static cl_kernel embed(ofr_backend_session *session)
{
    char name[32];
    enum ofr_dtype dtype = session->embedding.tensor->dtype;
    snprintf(name, sizeof name, "embed_%s", ofr_opencl_type_name(dtype));
    arguments a = start(session, OPENCL_PROGRAM_PLAIN + dtype, name);
    if (a.kernel != NULL) {
        add_plain_matrix(&a, &session->embedding);
        add_buffer(&a, session->pass);
        add_f32(&a, ofr_scale_or_one(session->params->embedding_scale));
        add_buffer(&a, session->hidden);
    }
    return a.kernel;
}

/* The last arguments of these are set for each use. */
static cl_kernel gather(ofr_backend_session *session)
{
    arguments a = start(session, OPENCL_PROGRAM_ROWS, "gather_rows");
    if (a.kernel != NULL) {
        add_buffer(&a, session->hidden);
        add_u32(&a, session->params->d_model);
        add_buffer(&a, session->pass);
        add_buffer(&a, session->gathered);
    }
    return a.kernel;
}

static cl_kernel logprob(ofr_backend_session *session)
{
    arguments a = start(session, OPENCL_PROGRAM_ROWS, "logprob");
    if (a.kernel != NULL) {
        add_buffer(&a, session->logits);
        add_u32(&a, session->params->vocab_size);
        add_buffer(&a, session->pass);
        add_buffer(&a, session->logprobs);
    }
    return a.kernel;
}

static cl_kernel finish_logits(ofr_backend_session *session)
{
    arguments a = start(session, OPENCL_PROGRAM_ROWS, "finish_logits");
    if (a.kernel != NULL) {
        add_buffer(&a, session->logits);
        add_u32(&a, session->params->vocab_size);
        add_f32(&a, ofr_scale_or_one(session->params->logit_scale));
        add_f32(&a, session->params->logit_softcap);
    }
    return a.kernel;
}

static cl_kernel sum_rows(ofr_backend_session *session)
{
    arguments a = start(session, OPENCL_PROGRAM_ROWS, "sum_rows");
    if (a.kernel != NULL) {
        add_buffer(&a, session->hidden);
        add_buffer(&a, session->vectors);
        add_u32(&a, session->final_norm);
        add_u32(&a, session->params->d_model);
        add_f32(&a, session->params->rms_epsilon);
        add_buffer(&a, session->gathered);
    }
    return a.kernel;
}

static cl_kernel make_model_step(ofr_backend_session *session, uint32_t step)
{
    linear l = head_linear(session);
    switch (step) {
    case OPENCL_MODEL_STEP_EMBED:
        return embed(session);
    case OPENCL_MODEL_STEP_GATHER:
        return gather(session);
    case OPENCL_MODEL_STEP_FINAL_NORM:
        return norm_rows(session, session->gathered, session->final_norm);
    case OPENCL_MODEL_STEP_HEAD_GEMV:
    case OPENCL_MODEL_STEP_HEAD_GEMM:
        return plain_linear(session, &l, step == OPENCL_MODEL_STEP_HEAD_GEMM);
    case OPENCL_MODEL_STEP_QUANTIZE_FINAL:
        return quantize(session, session->gathered, session->final_norm, &session->input);
    case OPENCL_MODEL_STEP_DOT_HEAD:
    case OPENCL_MODEL_STEP_DOT_HEAD + 1:
        return dot_store(session, &l, NULL, NULL, step - OPENCL_MODEL_STEP_DOT_HEAD);
    case OPENCL_MODEL_STEP_DOT_HEAD_GEMM:
        return dot_gemm(session, &l);
    case OPENCL_MODEL_STEP_LOGPROB:
        return logprob(session);
    case OPENCL_MODEL_STEP_SUM_ROWS:
        return sum_rows(session);
    case OPENCL_MODEL_STEP_FINISH_LOGITS:
        return finish_logits(session);
    case OPENCL_MODEL_STEP_COLLECT_ROWS: /* arguments set for each use */
        return start(session, OPENCL_PROGRAM_ROWS, "collect_rows").kernel;
    case OPENCL_MODEL_STEP_TOKEN:
        return ofr_opencl_token_step(session);
    default:
        return start(session, OPENCL_PROGRAM_ROWS, "top_k").kernel;
    }
}

cl_kernel ofr_opencl_model_step(ofr_backend_session *session, uint32_t step)
{
    cl_kernel *kernel = &session->model_steps[step];
    if (*kernel == NULL) {
        *kernel = make_model_step(session, step);
    }
    return *kernel;
}

void ofr_opencl_drop_steps(ofr_backend_session *session)
{
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    for (uint32_t i = 0; session->layers != NULL && i < n_layers; i++) {
        for (uint32_t s = 0; s < OPENCL_STEP_COUNT; s++) {
            ofr_opencl_release_kernel(session, &session->layers[i].steps[s]);
        }
    }
    for (uint32_t s = 0; s < OPENCL_MODEL_STEP_COUNT; s++) {
        ofr_opencl_release_kernel(session, &session->model_steps[s]);
    }
}

void ofr_opencl_release_steps(ofr_backend_session *session)
{
    ofr_opencl_drop_steps(session);
    for (uint32_t p = 0; p < OPENCL_PROGRAM_COUNT; p++) {
        ofr_opencl_release_program(session, p);
    }
}
