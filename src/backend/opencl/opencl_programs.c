/* Programs: which kernels are compiled, with which sizes; and the session's first failure. */
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
    return tensor->dtype == OFR_DTYPE_I4 || tensor->dtype == OFR_DTYPE_I8 ||
           tensor->dtype == OFR_DTYPE_I4M;
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
    }
    return fits && (session->options.layer_end < session->params->n_layers ||
                    dot_matrix_fits(model->head.weight));
}

/* Steps of `shift` for a matrix: index of a unit's scale is unit >> shift. */
uint32_t ofr_opencl_scale_shift(const opencl_matrix *matrix)
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

const char *ofr_opencl_type_name(enum ofr_dtype dtype)
{
    static const char *const names[] = {"f32", "f16", "i8", "i4", "i4m"};
    return names[dtype];
}

static int build(ofr_backend_session *session, uint32_t program, const char *const *sources,
                 uint32_t n, const char *options, ofr_error *err)
{
    if (session->programs[program] != NULL) {
        return 0;
    }
    return ofr_opencl_program_build(&session->compiler, sources, n, options,
                                    &session->programs[program], err);
}

static const char *activation_option(const ofr_backend_session *session)
{
    return session->params->activation == OFR_ACTIVATION_GELU_TANH ? " -DGELU" : "";
}

static int build_plain(ofr_backend_session *session, enum ofr_dtype dtype, ofr_error *err)
{
    char options[160];
    const char *sources[] = {ofr_opencl_source_common, ofr_opencl_source_plain};
    snprintf(options, sizeof options, "-DPLAIN_LANES=%d -DTYPE=%d -DSUFFIX=_%s%s", PLAIN_LANES,
             (int)dtype, ofr_opencl_type_name(dtype), activation_option(session));
    return build(session, OPENCL_PROGRAM_PLAIN + dtype, sources, 2, options, err);
}

/* Tokens that one work-group of the fused steps takes at once. */
static uint32_t tokens_at_once(uint32_t several)
{
    return several ? 4 : 1;
}

enum opencl_dot_type ofr_opencl_dot_type(const ofr_tensor *tensor)
{
    return tensor->dtype == OFR_DTYPE_I8    ? OPENCL_DOT_I8
           : tensor->dtype == OFR_DTYPE_I4M ? OPENCL_DOT_I4M
                                            : OPENCL_DOT_I4;
}

/* Of both GELU and the types: what all programs of byte products get. */
static int dot_options(const ofr_backend_session *session, enum opencl_dot_type type, char *text,
                       size_t size)
{
    static const char *const types[OPENCL_DOT_TYPES] = {
        "-DBITS=4 -DSUFFIX=_i4", "-DBITS=8 -DSUFFIX=_i8", "-DBITS=4 -DMINIMA -DSUFFIX=_i4m"};
    return snprintf(text, size, "%s%s", types[type], activation_option(session));
}

static int build_gemv(ofr_backend_session *session, enum opencl_dot_type type, uint32_t several,
                      ofr_error *err)
{
    const char *sources[] = {ofr_opencl_source_common, ofr_opencl_source_dot};
    char options[256];
    uint32_t lanes = session->tuning.lanes[several], rows = session->tuning.team_rows[several];
    int n = dot_options(session, type, options, sizeof options);
    snprintf(options + n, sizeof options - (size_t)n,
             " -DTOKENS=%u -DLANES=%u -DTEAM_ROWS=%u -DGEMV_ITEMS=%u", tokens_at_once(several),
             lanes, rows, lanes * 32 / rows);
    return build(session, OPENCL_PROGRAM_DOT + 2 * type + several, sources, 2, options, err);
}

static int build_gemm(ofr_backend_session *session, enum opencl_dot_type type, ofr_error *err)
{
    const char *sources[] = {ofr_opencl_source_common, ofr_opencl_source_dot,
                             ofr_opencl_source_matrix};
    const opencl_tuning *t = &session->tuning;
    char options[256], matrix[64] = "";
    int n = dot_options(session, type, options, sizeof options);
    bool by_matrix = t->gemm_units == OPENCL_BY_MATRIX;
    if (by_matrix) {
        snprintf(matrix, sizeof matrix, " -DMATRIX_LANES=%u%s", session->device.matrix_lanes,
                 session->matrix_emulated ? " -DMATRIX_EMULATED" : "");
    }
    snprintf(options + n, sizeof options - (size_t)n,
             " -DGEMM -DTILE_TOKENS=%u -DTILE_ROWS=%u -DITEM_TOKENS=%u -DITEM_ROWS=%u "
             "-DGEMM_UNITS=%u%s",
             t->tile_tokens, t->tile_rows, t->item_tokens, t->item_rows, t->gemm_units, matrix);
    return build(session, OPENCL_PROGRAM_GEMM + type, sources, by_matrix ? 3 : 2, options, err);
}

/* Blocks of one token, which are decoding's, are in fp32. */
static int build_attention(ofr_backend_session *session, uint32_t program, ofr_error *err)
{
    bool block = program == OPENCL_PROGRAM_ATTENTION_BLOCK;
    bool halves = block && session->tuning.attention_halves > 0;
    const char *sources[] = {ofr_opencl_source_common, ofr_opencl_source_attention,
                             ofr_opencl_source_attention};
    char options[256], softcap[32] = "";
    uint32_t heads = session->heads_per_group;
    if (halves) {
        sources[1] = ofr_opencl_source_halves;
    }
    if (session->params->attention_softcap != 0) {
        snprintf(softcap, sizeof softcap, " -DSOFTCAP=%ff",
                 (double)session->params->attention_softcap);
    }
    snprintf(options, sizeof options,
             "-DHEAD_DIM=%u -DHEADS=%u -DROWS=%u -DKEY_BLOCK=%u -DATTENTION_ITEMS=%u%s%s%s",
             session->params->head_dim, heads, block ? session->block_rows : heads,
             session->key_block, session->attention_items, softcap, halves ? " -DHALVES" : "",
             halves && session->halves_emulated ? " -DHALVES_EMULATED" : "");
    return build(session, program, sources, halves ? 3 : 2, options, err);
}

static int build_dot(ofr_backend_session *session, enum opencl_dot_type type, ofr_error *err)
{
    int result = build_gemv(session, type, 0, err);
    result = result == 0 ? build_gemv(session, type, 1, err) : result;
    return result == 0 ? build_gemm(session, type, err) : result;
}

void ofr_opencl_release_program(ofr_backend_session *session, uint32_t program)
{
    if (session->programs[program] != NULL) {
        session->api->ReleaseProgram(session->programs[program]);
        session->programs[program] = NULL;
    }
}

void ofr_opencl_release_kernel(const ofr_backend_session *session, cl_kernel *kernel)
{
    if (*kernel != NULL) {
        session->api->ReleaseKernel(*kernel);
        *kernel = NULL;
    }
}

static int rebuild_attention(ofr_backend_session *session, ofr_error *err)
{
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    cl_program *program = &session->programs[OPENCL_PROGRAM_ATTENTION_BLOCK], before = *program;
    for (uint32_t i = 0; i < n_layers; i++) {
        cl_kernel *steps = session->layers[i].steps;
        ofr_opencl_release_kernel(session, &steps[OPENCL_STEP_ATTENTION_BLOCK]);
        ofr_opencl_release_kernel(session, &steps[OPENCL_STEP_MERGE_BLOCK]);
    }
    *program = NULL;
    int result = build_attention(session, OPENCL_PROGRAM_ATTENTION_BLOCK, err);
    if (result < 0) { /* there must be one for what is tried next to replace */
        *program = before;
    } else {
        session->api->ReleaseProgram(before);
    }
    return result;
}

int ofr_opencl_rebuild(ofr_backend_session *session, enum opencl_tuned what, ofr_error *err)
{
    if (what == OPENCL_TUNED_STEPS) {
        return 0;
    }
    if (what == OPENCL_TUNED_ATTENTION) {
        return rebuild_attention(session, err);
    }
    if (what == OPENCL_TUNED_TOKEN) {
        ofr_opencl_release_kernel(session, &session->model_steps[OPENCL_MODEL_STEP_TOKEN]);
        ofr_opencl_release_program(session, OPENCL_PROGRAM_TOKEN);
        return ofr_opencl_token_build(session, err);
    }
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    uint32_t several = what == OPENCL_TUNED_GEMV_SEVERAL;
    bool gemm = what == OPENCL_TUNED_GEMM;
    for (uint32_t i = 0; i < n_layers; i++) {
        cl_kernel *steps = session->layers[i].steps;
        for (uint32_t s = 0; gemm && s < OPENCL_PART_COUNT; s++) {
            ofr_opencl_release_kernel(session, &steps[OPENCL_STEP_DOT_GEMM + s]);
        }
        for (uint32_t s = OPENCL_STEP_DOT_QKV; !gemm && s < OPENCL_STEP_DOT_ATTENTION; s += 2) {
            ofr_opencl_release_kernel(session, &steps[s + several]);
        }
        for (uint32_t s = OPENCL_STEP_DOT_PART; !gemm && s < OPENCL_STEP_ADD_O; s += 2) {
            ofr_opencl_release_kernel(session, &steps[s + several]);
        }
    }
    ofr_opencl_release_kernel(session,
                              &session->model_steps[gemm ? OPENCL_MODEL_STEP_DOT_HEAD_GEMM
                                                         : OPENCL_MODEL_STEP_DOT_HEAD + several]);
    int result = 0;
    for (uint32_t type = 0; type < OPENCL_DOT_TYPES; type++) {
        uint32_t program =
            gemm ? OPENCL_PROGRAM_GEMM + type : OPENCL_PROGRAM_DOT + 2 * type + several;
        cl_program before = session->programs[program];
        if (before != NULL && result == 0) {
            session->programs[program] = NULL;
            result =
                gemm ? build_gemm(session, type, err) : build_gemv(session, type, several, err);
            if (result < 0) { /* there must be one for the next size to replace */
                session->programs[program] = before;
            } else {
                session->api->ReleaseProgram(before);
            }
        }
    }
    return result;
}

static int build_matrix(ofr_backend_session *session, const ofr_tensor *tensor, ofr_error *err)
{
    return session->dot ? build_dot(session, ofr_opencl_dot_type(tensor), err)
                        : build_plain(session, tensor->dtype, err);
}

int ofr_opencl_build_programs(ofr_backend_session *session, ofr_error *err)
{
    char options[256];
    const ofr_model *model = session->model;
    const char *rows[] = {ofr_opencl_source_common, ofr_opencl_source_rows,
                          ofr_opencl_source_quantize};
    snprintf(options, sizeof options, "-DROW_ITEMS=%d -DTOP_CHUNK=%d", ROW_ITEMS, OPENCL_TOP_CHUNK);
    int result = build(session, OPENCL_PROGRAM_ROWS, rows, 3, options, err);
    result = result == 0 ? build_attention(session, OPENCL_PROGRAM_ATTENTION_ONE, err) : result;
    result = result == 0 ? build_attention(session, OPENCL_PROGRAM_ATTENTION_BLOCK, err) : result;
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
