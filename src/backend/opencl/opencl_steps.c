/* Programs and steps: which kernels are compiled with which sizes, and the arguments of each. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/opencl/opencl_session.h"

enum { ROW_ITEMS = 64, PLAIN_LANES = 32 };

void ofr_opencl_note(ofr_backend_session *session, cl_int status, const char *what)
{
    if (status != CL_SUCCESS && session->status == CL_SUCCESS) {
        session->status = status;
        session->failed = what;
    }
}

int ofr_opencl_error(const ofr_backend_session *session, ofr_error *err)
{
    if (session->status == CL_SUCCESS) {
        return 0;
    }
    int code = ofr_opencl_status_code(session->status);
    const char *advice = code == OFR_ENOMEM ? "use smaller batches, a shorter context or a layer "
                                              "range"
                                            : "start its worker again or use another device";
    return ofr_fail(err, code, "OpenCL backend: %s failed on %s (%s, error %d); %s",
                    session->failed, session->device.name, ofr_opencl_status_name(session->status),
                    (int)session->status, advice);
}

static bool quantized(const ofr_tensor *tensor)
{
    return tensor->dtype == OFR_DTYPE_I4 || tensor->dtype == OFR_DTYPE_I8;
}

/* A group is the whole row or a power of two of units. */
static bool dot_matrix_fits(const ofr_tensor *tensor)
{
    if (!quantized(tensor) || tensor->group_size % 32 != 0 || tensor->shape[1] % 32 != 0) {
        return false;
    }
    uint32_t units = tensor->group_size / 32;
    return tensor->group_size == tensor->shape[1] || (units & (units - 1)) == 0;
}

bool ofr_opencl_dot_fits(const ofr_backend_session *session)
{
    const ofr_model *model = session->model;
    bool fits = session->params->d_model % 32 == 0 && session->params->d_ff % 32 == 0;
    for (uint32_t i = session->options.layer_begin; fits && i < session->options.layer_end; i++) {
        const ofr_layer *l = &model->layers[i];
        const ofr_tensor *all[] = {l->q.weight,    l->k.weight,  l->v.weight,   l->o.weight,
                                   l->gate.weight, l->up.weight, l->down.weight};
        for (size_t p = 0; p < sizeof all / sizeof all[0]; p++) {
            fits = fits && dot_matrix_fits(all[p]);
        }
        /* What shares an input shares its order of bytes. */
        fits = fits && l->q.weight->dtype == l->k.weight->dtype &&
               l->q.weight->dtype == l->v.weight->dtype &&
               l->gate.weight->dtype == l->up.weight->dtype;
    }
    return fits && (session->options.layer_end < session->params->n_layers ||
                    dot_matrix_fits(model->head.weight));
}

/* Steps of `shift` for a matrix: index of a unit's scale is unit >> shift. */
static uint32_t scale_shift(const opencl_matrix *matrix)
{
    if (matrix->group == matrix->columns) {
        return 31;
    }
    uint32_t shift = 0;
    while ((32U << shift) < matrix->group) {
        shift++;
    }
    return shift;
}

static const char *const type_names[] = {"f32", "f16", "i8", "i4", "i4m"};

static int build(ofr_backend_session *session, uint32_t program, const char *const *sources,
                 uint32_t n, const char *options, ofr_error *err)
{
    if (session->programs[program] != NULL) {
        return 0;
    }
    return ofr_opencl_program_build(&session->compiler, sources, n, options,
                                    &session->programs[program], err);
}

static int build_plain(ofr_backend_session *session, enum ofr_dtype dtype, ofr_error *err)
{
    char options[160];
    const char *sources[] = {ofr_opencl_source_common, ofr_opencl_source_plain};
    snprintf(options, sizeof options, "-DPLAIN_LANES=%d -DTYPE=%d -DSUFFIX=_%s", PLAIN_LANES,
             (int)dtype, type_names[dtype]);
    return build(session, OPENCL_PROGRAM_PLAIN + dtype, sources, 2, options, err);
}

/* Tokens that one work-group of the fused steps takes at once. */
static uint32_t tokens_at_once(uint32_t several)
{
    return several ? 4 : 1;
}

static int build_gemv(ofr_backend_session *session, bool i4, uint32_t several, ofr_error *err)
{
    const char *sources[] = {ofr_opencl_source_common, ofr_opencl_source_dot};
    char options[256];
    uint32_t lanes = session->tuning.lanes[several], rows = session->tuning.team_rows[several];
    snprintf(options, sizeof options,
             "-DBITS=%d -DSUFFIX=_i%d -DTOKENS=%u -DLANES=%u -DTEAM_ROWS=%u -DGEMV_ITEMS=%u",
             i4 ? 4 : 8, i4 ? 4 : 8, tokens_at_once(several), lanes, rows, lanes * 32 / rows);
    uint32_t program = (i4 ? OPENCL_PROGRAM_DOT4 : OPENCL_PROGRAM_DOT8) + several;
    return build(session, program, sources, 2, options, err);
}

static int build_gemm(ofr_backend_session *session, bool i4, ofr_error *err)
{
    const char *sources[] = {ofr_opencl_source_common, ofr_opencl_source_dot};
    const opencl_tuning *t = &session->tuning;
    char options[256];
    snprintf(options, sizeof options,
             "-DGEMM -DBITS=%d -DSUFFIX=_i%d -DTILE_TOKENS=%u -DTILE_ROWS=%u -DITEM_TOKENS=%u "
             "-DITEM_ROWS=%u -DGEMM_UNITS=%u",
             i4 ? 4 : 8, i4 ? 4 : 8, t->tile_tokens, t->tile_rows, t->item_tokens, t->item_rows,
             t->gemm_units);
    return build(session, i4 ? OPENCL_PROGRAM_GEMM4 : OPENCL_PROGRAM_GEMM8, sources, 2, options,
                 err);
}

static int build_dot(ofr_backend_session *session, enum ofr_dtype dtype, ofr_error *err)
{
    bool i4 = dtype == OFR_DTYPE_I4;
    int result = build_gemv(session, i4, 0, err);
    result = result == 0 ? build_gemv(session, i4, 1, err) : result;
    return result == 0 ? build_gemm(session, i4, err) : result;
}

static void release_program(ofr_backend_session *session, uint32_t program)
{
    if (session->programs[program] != NULL) {
        session->api->ReleaseProgram(session->programs[program]);
        session->programs[program] = NULL;
    }
}

static void release_kernel(const ofr_backend_session *session, cl_kernel *kernel)
{
    if (*kernel != NULL) {
        session->api->ReleaseKernel(*kernel);
        *kernel = NULL;
    }
}

int ofr_opencl_rebuild(ofr_backend_session *session, enum opencl_tuned what, ofr_error *err)
{
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    uint32_t several = what == OPENCL_TUNED_GEMV_SEVERAL;
    bool gemm = what == OPENCL_TUNED_GEMM;
    for (uint32_t i = 0; i < n_layers; i++) {
        cl_kernel *steps = session->layers[i].steps;
        for (uint32_t s = 0; gemm && s < OPENCL_PART_COUNT; s++) {
            release_kernel(session, &steps[OPENCL_STEP_DOT_GEMM + s]);
        }
        for (uint32_t s = OPENCL_STEP_DOT_QKV; !gemm && s < OPENCL_STEP_DOT_ATTENTION; s += 2) {
            release_kernel(session, &steps[s + several]);
        }
    }
    release_kernel(session, &session->model_steps[gemm ? OPENCL_MODEL_STEP_DOT_HEAD_GEMM
                                                       : OPENCL_MODEL_STEP_DOT_HEAD + several]);
    int result = 0;
    for (uint32_t i4 = 0; i4 < 2; i4++) {
        uint32_t program = gemm ? (i4 ? OPENCL_PROGRAM_GEMM4 : OPENCL_PROGRAM_GEMM8)
                                : (i4 ? OPENCL_PROGRAM_DOT4 : OPENCL_PROGRAM_DOT8) + several;
        if (session->programs[program] != NULL && result == 0) {
            release_program(session, program);
            result = gemm ? build_gemm(session, i4, err) : build_gemv(session, i4, several, err);
        }
    }
    return result;
}

static int build_matrix(ofr_backend_session *session, const ofr_tensor *tensor, ofr_error *err)
{
    return session->dot ? build_dot(session, tensor->dtype, err)
                        : build_plain(session, tensor->dtype, err);
}

int ofr_opencl_build_programs(ofr_backend_session *session, ofr_error *err)
{
    char options[256];
    const ofr_model *model = session->model;
    const char *rows[] = {ofr_opencl_source_common, ofr_opencl_source_rows,
                          ofr_opencl_source_quantize};
    const char *attention[] = {ofr_opencl_source_common, ofr_opencl_source_attention};
    uint32_t head_dim = session->params->head_dim, heads = session->heads_per_group;
    snprintf(options, sizeof options, "-DROW_ITEMS=%d -DTOP_CHUNK=%d", ROW_ITEMS, OPENCL_TOP_CHUNK);
    int result = build(session, OPENCL_PROGRAM_ROWS, rows, 3, options, err);
    for (uint32_t i = 0; result == 0 && i < 2; i++) {
        snprintf(options, sizeof options,
                 "-DHEAD_DIM=%u -DHEADS=%u -DROWS=%u -DKEY_BLOCK=%u -DATTENTION_ITEMS=%u", head_dim,
                 heads, i == 0 ? heads : session->block_rows, session->key_block,
                 session->attention_items);
        result = build(session, OPENCL_PROGRAM_ATTENTION_ONE + i, attention, 2, options, err);
    }
    if (result == 0 && session->options.layer_begin == 0) {
        result = build_plain(session, model->embedding->dtype, err); /* has the embedding */
    }
    for (uint32_t i = session->options.layer_begin; i < session->options.layer_end; i++) {
        const ofr_layer *l = &model->layers[i];
        const ofr_tensor *all[] = {l->q.weight,    l->k.weight,  l->v.weight,   l->o.weight,
                                   l->gate.weight, l->up.weight, l->down.weight};
        for (size_t p = 0; result == 0 && p < sizeof all / sizeof all[0]; p++) {
            result = build_matrix(session, all[p], err);
        }
    }
    if (result == 0 && session->options.layer_end == session->params->n_layers) {
        result = build_matrix(session, model->head.weight, err);
    }
    return result;
}

/* Arguments of a kernel, one after another. */
typedef struct arguments {
    ofr_backend_session *session;
    cl_kernel kernel;
    cl_uint n;
} arguments;

static void add(arguments *a, size_t size, const void *value)
{
    ofr_opencl_note(a->session, a->session->api->SetKernelArg(a->kernel, a->n++, size, value),
                    "setting a kernel's arguments");
}

static void add_buffer(arguments *a, cl_mem buffer)
{
    add(a, sizeof buffer, &buffer);
}

static void add_u32(arguments *a, uint32_t value)
{
    add(a, sizeof value, &value);
}

static void add_u64(arguments *a, uint64_t value)
{
    add(a, sizeof value, &value);
}

static void add_f32(arguments *a, float value)
{
    add(a, sizeof value, &value);
}

static arguments start(ofr_backend_session *session, uint32_t program, const char *name)
{
    cl_int status = CL_SUCCESS;
    arguments a = {.session = session};
    a.kernel = session->api->CreateKernel(session->programs[program], name, &status);
    ofr_opencl_note(session, status, name);
    if (status != CL_SUCCESS) {
        a.kernel = NULL;
    }
    return a;
}

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
        l.y = session->hidden;
        l.y_stride = p->d_model;
        l.sink = SINK_ADD;
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
        l.y = session->hidden;
        l.y_stride = p->d_model;
        l.sink = SINK_ADD;
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
    snprintf(name, sizeof name, "plain_%s_%s", gemm ? "gemm" : "gemv", type_names[dtype]);
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
    add_u32(a, matrix != NULL ? scale_shift(matrix) : 0);
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

static uint32_t dot_program(const opencl_matrix *matrix, uint32_t several)
{
    return (matrix->tensor->dtype == OFR_DTYPE_I4 ? OPENCL_PROGRAM_DOT4 : OPENCL_PROGRAM_DOT8) +
           several;
}

static arguments start_dot(ofr_backend_session *session, const opencl_matrix *matrix,
                           uint32_t several, const char *kind)
{
    char name[32];
    snprintf(name, sizeof name, "%s_i%d", kind, matrix->tensor->dtype == OFR_DTYPE_I4 ? 4 : 8);
    return start(session, dot_program(matrix, several), name);
}

static arguments start_gemm(ofr_backend_session *session, const opencl_matrix *matrix)
{
    bool i4 = matrix->tensor->dtype == OFR_DTYPE_I4;
    return start(session, i4 ? OPENCL_PROGRAM_GEMM4 : OPENCL_PROGRAM_GEMM8,
                 i4 ? "gemm_i4" : "gemm_i8");
}

static cl_kernel dot_gemm(ofr_backend_session *session, const linear *l)
{
    arguments a = start_gemm(session, l->matrix);
    if (a.kernel != NULL) {
        add_dot_matrix(&a, l->matrix, NULL);
        add_dot_input(&a, l);
        add_buffer(&a, l->y);
        add_u32(&a, l->y_offset);
        add_u32(&a, l->y_stride);
        add_u32(&a, l->sink);
    }
    return a.kernel;
}

static cl_kernel dot_store(ofr_backend_session *session, const linear *l,
                           const opencl_matrix *second, const opencl_matrix *third,
                           uint32_t several)
{
    arguments a = start_dot(session, l->matrix, several, "gemv_store");
    if (a.kernel != NULL) {
        add_dot_matrix(&a, l->matrix, NULL);
        add_dot_matrix(&a, second, l->matrix);
        add_dot_matrix(&a, third, l->matrix);
        add_dot_input(&a, l);
        add_buffer(&a, l->y);
        add_u32(&a, l->y_stride);
    }
    return a.kernel;
}

static bool split_order(const opencl_matrix *consumer)
{
    return consumer->tensor->dtype == OFR_DTYPE_I4;
}

static void add_record(arguments *a, uint32_t norm, bool split, const opencl_record *record)
{
    add_u32(a, norm);
    add_u32(a, split);
    add_buffer(a, record->values);
    add_buffer(a, record->scales);
    add_buffer(a, record->squares);
}

/* o and down: what comes next is the MLP, the next layer, the head, or another device. */
static cl_kernel dot_add(ofr_backend_session *session, uint32_t index, uint32_t part,
                         uint32_t several)
{
    linear l = layer_linear(session, index, part);
    const opencl_layer *layer = &session->layers[index];
    uint32_t norm = layer->mlp_norm;
    const opencl_matrix *next = &layer->parts[OPENCL_PART_GATE];
    if (part == OPENCL_PART_DOWN) {
        bool last = session->options.layer_begin + index + 1 == session->options.layer_end;
        bool head = session->options.layer_end == session->params->n_layers;
        norm = !last  ? layer[1].attention_norm
               : head ? session->final_norm
                      : (uint32_t)OPENCL_NO_VECTOR;
        next = !last ? &layer[1].parts[OPENCL_PART_Q] : head ? &session->head : l.matrix;
    }
    arguments a = start_dot(session, l.matrix, several, "gemv_add");
    if (a.kernel != NULL) {
        add_dot_matrix(&a, l.matrix, NULL);
        add_dot_input(&a, &l);
        add_buffer(&a, l.y);
        add_u32(&a, l.y_stride);
        add_record(&a, norm, split_order(next), &session->input);
    }
    return a.kernel;
}

static cl_kernel dot_swiglu(ofr_backend_session *session, uint32_t index, uint32_t several)
{
    linear l = layer_linear(session, index, OPENCL_PART_GATE);
    const opencl_matrix *parts = session->layers[index].parts;
    arguments a = start_dot(session, l.matrix, several, "gemv_swiglu");
    if (a.kernel != NULL) {
        add_dot_matrix(&a, l.matrix, NULL);
        add_dot_matrix(&a, &parts[OPENCL_PART_UP], NULL);
        add_dot_input(&a, &l);
        add_record(&a, (uint32_t)OPENCL_NO_VECTOR, split_order(&parts[OPENCL_PART_DOWN]),
                   &session->gated);
    }
    return a.kernel;
}

static cl_kernel quantize(ofr_backend_session *session, cl_mem x, uint32_t norm,
                          const opencl_matrix *consumer, const opencl_record *record)
{
    arguments a = start(session, OPENCL_PROGRAM_ROWS, "quantize");
    if (a.kernel != NULL) {
        add_buffer(&a, x);
        add_u32(&a, record->columns);
        add_buffer(&a, session->vectors);
        add_record(&a, norm, split_order(consumer), record);
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

static cl_kernel store_kv(ofr_backend_session *session, const opencl_layer *layer)
{
    arguments a = start(session, OPENCL_PROGRAM_ROWS, "store_kv");
    if (a.kernel != NULL) {
        add_buffer(&a, session->qkv);
        add_u32(&a, session->q_width);
        add_u32(&a, session->params->n_kv_heads);
        add_u32(&a, session->params->head_dim);
        add_u32(&a, session->rope.half);
        add_buffer(&a, session->kv);
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
        add_u32(&a, session->rope.half);
        add_buffer(&a, session->kv);
        add_u64(&a, session->kv_slot_stride);
        add_u64(&a, layer->k_offset);
        add_u64(&a, layer->v_offset);
        add_buffer(&a, session->pass);
        add_f32(&a, 1 / sqrtf((float)session->params->head_dim));
        add_u32(&a, one);
        add_u32(&a, session->device.device_fence);
        add_u32(&a, into_record);
        add_u32(&a, split_order(&layer->parts[OPENCL_PART_O]));
        add_buffer(&a, session->attention);
        add_buffer(&a, session->partial);
        add_buffer(&a, session->counters);
        /* Not looked at unless into_record. */
        add_buffer(&a, into_record ? record->values : session->attention);
        add_buffer(&a, into_record ? record->scales : session->attention);
    }
    return a.kernel;
}

static cl_kernel merge(ofr_backend_session *session, bool one)
{
    arguments a =
        start(session, one ? OPENCL_PROGRAM_ATTENTION_ONE : OPENCL_PROGRAM_ATTENTION_BLOCK,
              "merge_splits");
    if (a.kernel != NULL) {
        add_u32(&a, session->params->n_kv_heads);
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
        return merge(session, step == OPENCL_STEP_MERGE_ONE);
    case OPENCL_STEP_QUANTIZE_QKV:
        return quantize(session, session->hidden, layer->attention_norm,
                        &layer->parts[OPENCL_PART_Q], &session->input);
    case OPENCL_STEP_QUANTIZE_O:
        return quantize(session, session->attention, none, &layer->parts[OPENCL_PART_O],
                        &session->attended);
    case OPENCL_STEP_QUANTIZE_MLP:
        return quantize(session, session->hidden, layer->mlp_norm, &layer->parts[OPENCL_PART_GATE],
                        &session->input);
    default:
        return quantize(session, session->mlp, none, &layer->parts[OPENCL_PART_DOWN],
                        &session->gated);
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
    snprintf(name, sizeof name, "embed_%s", type_names[dtype]);
    arguments a = start(session, OPENCL_PROGRAM_PLAIN + dtype, name);
    if (a.kernel != NULL) {
        add_plain_matrix(&a, &session->embedding);
        add_buffer(&a, session->pass);
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
        return quantize(session, session->gathered, session->final_norm, &session->head,
                        &session->input);
    case OPENCL_MODEL_STEP_DOT_HEAD:
    case OPENCL_MODEL_STEP_DOT_HEAD + 1:
        return dot_store(session, &l, NULL, NULL, step - OPENCL_MODEL_STEP_DOT_HEAD);
    case OPENCL_MODEL_STEP_DOT_HEAD_GEMM:
        return dot_gemm(session, &l);
    case OPENCL_MODEL_STEP_LOGPROB:
        return logprob(session);
    case OPENCL_MODEL_STEP_SUM_ROWS:
        return sum_rows(session);
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
            release_kernel(session, &session->layers[i].steps[s]);
        }
    }
    for (uint32_t s = 0; s < OPENCL_MODEL_STEP_COUNT; s++) {
        release_kernel(session, &session->model_steps[s]);
    }
}

void ofr_opencl_release_steps(ofr_backend_session *session)
{
    ofr_opencl_drop_steps(session);
    for (uint32_t p = 0; p < OPENCL_PROGRAM_COUNT; p++) {
        release_program(session, p);
    }
}
