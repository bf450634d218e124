/* One token in one launch (kernels/token.cl): where that is possible, its plan and its launches. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/opencl/opencl_arguments.h"

/* As kernels/token.cl has them. */
enum {
    PLAN_MATRIX_WORDS = 10,
    PLAN_NORM_O = 70,
    PLAN_NORM_DOWN,
    PLAN_STRIPS,
    PLAN_Q_NORM = 76,
    PLAN_K_NORM,
    PLAN_ROPE,
    PLAN_WINDOWED,
    PLAN_LAYER_WORDS,
    STEPS_OF_LAYER = 5,
    HEADS_MOST = 2,
    SYNC_FAULT = 0,
    SYNC_TRACE = 8, /* twice for each of TRACED steps */
    TRACED = 6,
    SYNC_WORDS = SYNC_TRACE + 2 * TRACED,
    WINDOWS = 4,
    ARGUMENT_LAYERS = 5, /* then flags, the tag */
    ARGUMENT_FIRST_LAYER = 30,
    EARLY_BYTES_LEAST = 256 << 10,
    EARLY_LAYERS_LEAST = 8,
    FLAG_HEAD = 1,
    FLAG_REHEARSAL = 2,
    FLAG_HIDDEN = 4,
    FLAG_ROWS = 8,
    LOCAL_BYTES_MOST = 47 << 10,
    PACKETS_BYTES = 48, /* of a unit of a record */
    COPIES = 8,         /* of a record, where work-groups wait for one another */
    STEP_PLAN_BYTES = 8 * PLAN_LAYER_WORDS + 2 * 8 * 48 + 6 * 28,
};

static uint32_t n_layers(const ofr_backend_session *session)
{
    return session->options.layer_end - session->options.layer_begin;
}

static bool has_head(const ofr_backend_session *session)
{
    return session->options.layer_end == session->params->n_layers;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Most tiles of 32 rows whose results a work-group keeps. */
static uint32_t waves(const ofr_backend_session *session)
{
    uint32_t rows = larger(session->params->d_model, session->params->d_ff);
    return (rows / 32 - 1) / session->token_groups + 1;
}

static uint32_t warps(const ofr_backend_session *session)
{
    return session->tuning.token_items / (session->device.warp == 32 ? 32 : 1);
}

/* Query heads that a work-group of attention takes. */
static uint32_t heads_at_once(const ofr_backend_session *session)
{
    return session->heads_per_group < HEADS_MOST ? session->heads_per_group : HEADS_MOST;
}

/* Local memory for a step's input, or for attention that gathers so many heads' sums at once. */
static uint32_t scratch_bytes(const ofr_backend_session *session, uint32_t gather)
{
    const ofr_model_params *p = session->params;
    uint32_t columns = larger(larger(p->d_model, p->d_ff), session->q_width);
    uint32_t attention = 4 * ((2 * heads_at_once(session) + 2) * p->head_dim +
                              gather * warps(session) * (p->head_dim + 2));
    return (larger(columns + columns / 32 * 8, attention) + 15) / 16 * 16;
}

static uint64_t local_bytes(const ofr_backend_session *session, uint32_t gather)
{
    return scratch_bytes(session, gather) + 256 * (uint64_t)waves(session) + STEP_PLAN_BYTES +
           12 * (uint64_t)session->params->head_dim + 256;
}

static uint64_t local_limit(const ofr_backend_session *session)
{
    return session->device.local_bytes < LOCAL_BYTES_MOST ? session->device.local_bytes
                                                          : LOCAL_BYTES_MOST;
}

/* As many heads as there is local memory for. */
static uint32_t gather_heads(const ofr_backend_session *session)
{
    uint32_t gather = heads_at_once(session);
    while (gather > 1 && local_bytes(session, gather) > local_limit(session)) {
        gather--;
    }
    return gather;
}

static bool fits(const ofr_backend_session *session)
{
    const ofr_model_params *p = session->params;
    return !session->normed_outputs && p->head_dim % 32 == 0 && session->n_windows <= WINDOWS &&
           session->n_kv_windows == 1 && n_layers(session) > 0 &&
           local_bytes(session, 1) <= local_limit(session) &&
           session->tuning.token_items <= session->device.max_work_group &&
           (session->device.warp != 32 || /* a warp keeps its tile's hidden state */
            p->d_model / 32 <= session->token_groups * warps(session));
}

static uint32_t window_of(const ofr_backend_session *session, cl_mem buffer)
{
    uint32_t i = 0;
    while (i + 1 < session->n_windows && session->windows[i] != buffer) {
        i++;
    }
    return i;
}

static void describe_matrix(const ofr_backend_session *session, const opencl_matrix *matrix,
                            uint32_t *words)
{
    cl_mem scales = matrix->scales != NULL ? matrix->scales : matrix->data;
    words[0] = window_of(session, matrix->data);
    words[1] = (uint32_t)matrix->data_offset;
    words[2] = (uint32_t)(matrix->data_offset >> 32);
    words[3] = window_of(session, scales);
    words[4] = (uint32_t)matrix->scale_offset;
    words[5] = (uint32_t)(matrix->scale_offset >> 32);
    words[6] = matrix->rows;
    words[7] = ofr_opencl_scale_shift(matrix);
    words[8] = matrix->bias;
    words[9] = matrix->tensor->dtype;
}

static void describe_layer(const ofr_backend_session *session, uint32_t index, uint32_t *words)
{
    const opencl_layer *layer = &session->layers[index];
    for (uint32_t p = 0; p < OPENCL_PART_COUNT; p++) {
        describe_matrix(session, &layer->parts[p], words + p * PLAN_MATRIX_WORDS);
    }
    words[PLAN_NORM_O] = layer->mlp_norm;
    words[PLAN_NORM_DOWN] = ofr_opencl_following_norm(session, index);
    words[PLAN_STRIPS] = (uint32_t)layer->k_offset;
    words[PLAN_STRIPS + 1] = (uint32_t)(layer->k_offset >> 32);
    words[PLAN_STRIPS + 2] = (uint32_t)layer->v_offset;
    words[PLAN_STRIPS + 3] = (uint32_t)(layer->v_offset >> 32);
    words[PLAN_Q_NORM] = layer->q_norm;
    words[PLAN_K_NORM] = layer->k_norm;
    words[PLAN_ROPE] = layer->rope_half | layer->rope_table << 16;
    words[PLAN_WINDOWED] = layer->window;
}

static int make_plan(ofr_backend_session *session, ofr_error *err)
{
    size_t bytes = 4 * ((size_t)n_layers(session) + 1) * PLAN_LAYER_WORDS;
    uint32_t *words = calloc(1, bytes);
    if (words == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "OpenCL backend: out of memory");
    }
    for (uint32_t i = 0; i < n_layers(session); i++) {
        describe_layer(session, i, words + (size_t)i * PLAN_LAYER_WORDS);
    }
    if (has_head(session)) {
        describe_matrix(session, &session->head,
                        words + (size_t)n_layers(session) * PLAN_LAYER_WORDS);
    }
    int result = ofr_opencl_make_buffer(session, CL_MEM_READ_ONLY, bytes, NULL, "a plan",
                                        &session->token_plan, err);
    if (result == 0) {
        ofr_opencl_note(session,
                        session->api->EnqueueWriteBuffer(session->queue, session->token_plan,
                                                         CL_TRUE, 0, bytes, words, 0, NULL, NULL),
                        "sending a plan");
    }
    free(words);
    return result;
}

static bool uses_minima(const ofr_backend_session *session)
{
    bool found = has_head(session) && session->head.tensor->dtype == OFR_DTYPE_I4M;
    for (uint32_t i = 0; i < n_layers(session); i++) {
        for (uint32_t p = 0; p < OPENCL_PART_COUNT; p++) {
            found = found || session->layers[i].parts[p].tensor->dtype == OFR_DTYPE_I4M;
        }
    }
    return found;
}

/* Whether a matrix's groups are of at least four pieces of 16 bytes: 128 columns of INT4. */
static bool has_wide_groups(const opencl_matrix *matrix)
{
    return ofr_opencl_scale_shift(matrix) + (matrix->tensor->dtype == OFR_DTYPE_I8) >= 2;
}

static bool all_groups_wide(const ofr_backend_session *session)
{
    bool all = !has_head(session) || has_wide_groups(&session->head);
    for (uint32_t i = 0; i < n_layers(session); i++) {
        for (uint32_t p = 0; p < OPENCL_PART_COUNT; p++) {
            all = all && has_wide_groups(&session->layers[i].parts[p]);
        }
    }
    return all;
}

enum { TOKEN_SOURCES = 4 };

/* Without warps a work-item goes through whole heads: unrolled, such loops take minutes to compile.
 * Blanks the pragmas of a copy of the source; NULL: no memory. */
static char *rolled(const char *source)
{
    static const char pragma[] = "#pragma unroll";
    char *copy = strdup(source);
    for (char *at = copy; at != NULL && (at = strstr(at, pragma)) != NULL;) {
        memset(at, ' ', sizeof pragma - 1);
    }
    return copy;
}

int ofr_opencl_token_build(ofr_backend_session *session, ofr_error *err)
{
    const ofr_model_params *p = session->params;
    const opencl_tuning *t = &session->tuning;
    char options[464], cap[48] = "", *copies[TOKEN_SOURCES] = {NULL};
    uint32_t gather = gather_heads(session);
    const char *sources[1 + TOKEN_SOURCES] = {
        ofr_opencl_source_common, ofr_opencl_source_token_exchange,
        ofr_opencl_source_token_products, ofr_opencl_source_token_attention,
        ofr_opencl_source_token};
    for (uint32_t i = 0; session->device.warp != 32 && i < TOKEN_SOURCES; i++) {
        copies[i] = rolled(sources[1 + i]);
        sources[1 + i] = copies[i] != NULL ? copies[i] : sources[1 + i];
    }
    if (p->attention_softcap != 0) {
        snprintf(cap, sizeof cap, " -DSOFTCAP=%ff", (double)p->attention_softcap);
    }
    snprintf(options, sizeof options,
             "-DITEMS=%u -DDEPTH=%u -DLOADS=%u -DHEAD_DIM=%u -DHEADS=%u -DGATHER=%u "
             "-DSCRATCH_BYTES=%u -DWAVES=%u%s%s%s%s%s",
             t->token_items, t->token_depth, t->token_loads, p->head_dim, session->heads_per_group,
             gather, scratch_bytes(session, gather), waves(session),
             uses_minima(session) ? " -DHAS_MINIMA" : "",
             all_groups_wide(session) ? " -DWIDE_GROUPS" : "",
             p->activation == OFR_ACTIVATION_GELU_TANH ? " -DGELU" : "", cap,
             session->profiled ? " -DTRACE" : "");
    int result = ofr_opencl_program_build(&session->compiler, sources, 1 + TOKEN_SOURCES, options,
                                          &session->programs[OPENCL_PROGRAM_TOKEN], err);
    for (uint32_t i = 0; i < TOKEN_SOURCES; i++) {
        free(copies[i]);
    }
    return result;
}

static uint64_t record_bytes(const ofr_backend_session *session, uint32_t columns)
{
    uint32_t copies = session->device.warp == 32 ? COPIES : 1;
    return (uint64_t)PACKETS_BYTES * copies * (columns / 32);
}

static int make_buffers(ofr_backend_session *session, ofr_error *err)
{
    const ofr_model_params *p = session->params;
    uint32_t heads = heads_at_once(session);
    uint64_t pairs = (uint64_t)p->n_kv_heads * ((session->heads_per_group - 1) / heads + 1);
    const struct {
        cl_mem *ret_buffer;
        uint64_t bytes;
    } wanted[] = {
        /* tags are 0 at first */
        {&session->token_sync, 4 * SYNC_WORDS},
        {&session->token_heads, 8 * (uint64_t)session->qkv_width},
        {&session->token_partial, pairs * OPENCL_MAX_SPLITS * heads * (p->head_dim + 2) * 8},
        {&session->token_helped, 32 * 8 * (uint64_t)session->token_groups},
        {&session->token_records[0], record_bytes(session, p->d_model)},
        {&session->token_records[1], record_bytes(session, session->q_width)},
        {&session->token_records[2], record_bytes(session, p->d_ff)},
    };
    int result = 0;
    for (size_t i = 0; result == 0 && i < sizeof wanted / sizeof wanted[0]; i++) {
        result = ofr_opencl_make_buffer(session, CL_MEM_READ_WRITE, wanted[i].bytes, NULL,
                                        "activations", wanted[i].ret_buffer, err);
        if (result == 0) {
            ofr_opencl_clear(session, *wanted[i].ret_buffer, wanted[i].bytes);
        }
    }
    return result == 0 ? make_plan(session, err) : result;
}

int ofr_opencl_token_prepare(ofr_backend_session *session, bool any_device, ofr_error *err)
{
    const ofr_opencl_device *device = &session->device;
    /* One work-group a compute unit, nothing else on the device: NVIDIA's run at once, though no
     * specification says so; a launch that finds otherwise gives up (ofr_opencl_token_held). */
    session->token_groups = device->nvidia > 0 ? device->compute_units : any_device ? 1 : 0;
    if (session->token_groups == 0 || !fits(session)) {
        session->token_groups = 0;
        return any_device ? ofr_fail(err, OFR_EUNSUPPORTED,
                                     "OpenCL backend: this model cannot go through %s in one "
                                     "launch; leave it to launch its steps",
                                     device->name)
                          : 0;
    }
    int result = make_buffers(session, err);
    if (result < 0) {
        return result;
    }
    result = ofr_opencl_token_build(session, err);
    if (result < 0) {
        session->token_groups = 0;
        return any_device ? result : 0; /* its steps may compile all the same */
    }
    session->token_tag = 1;
    ofr_opencl_token_launch(session, has_head(session), true);
    ofr_opencl_note(session, session->api->Finish(session->queue), "rehearsing a token");
    ofr_opencl_token_held(session);
    return 0;
}

cl_kernel ofr_opencl_token_step(ofr_backend_session *session)
{
    const ofr_model_params *p = session->params;
    arguments a = start(session, OPENCL_PROGRAM_TOKEN, "token_layers");
    if (a.kernel == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < WINDOWS; i++) {
        add_buffer(&a, session->windows[i < session->n_windows ? i : 0]);
    }
    add_buffer(&a, session->token_plan);
    add_u32(&a, n_layers(session));
    add_u32(&a, 0);
    add_u32(&a, 0);
    add_buffer(&a, session->token_sync);
    add_buffer(&a, session->vectors);
    add_u32(&a, session->layers[0].attention_norm);
    add_buffer(&a, session->pass);
    add_u32(&a, p->d_model);
    add_u32(&a, p->d_ff);
    add_u32(&a, p->n_kv_heads);
    add_u32(&a, p->vocab_size);
    add_f32(&a, p->rms_epsilon);
    add_f32(&a, ofr_model_params_attention_scale(p));
    add_f32(&a, ofr_scale_or_one(p->residual_scale));
    add_buffer(&a, session->kv_windows[0].buffer);
    add_u64(&a, session->kv_slot_stride);
    add_buffer(&a, session->collected != NULL ? session->collected : session->kv_windows[0].buffer);
    add_buffer(&a, session->hidden);
    add_buffer(&a, session->logits);
    add_buffer(&a, session->token_heads);
    add_buffer(&a, session->token_partial);
    for (uint32_t i = 0; i < 3; i++) {
        add_buffer(&a, session->token_records[i]);
    }
    add_buffer(&a, session->token_helped);
    add_u32(&a, 0); /* the first layer */
    return a.kernel;
}

/* Shares the launch's time out among the steps, by the cycles of the first work-group. */
static void note_steps(ofr_backend_session *session, uint64_t launch_ns)
{
    static const char *const names[TRACED] = {"Q, K, V",  "attention", "O",
                                              "gate, up", "down",      "head"};
    uint32_t cycles[2 * TRACED] = {0};
    const uint32_t zero[2 * TRACED] = {0};
    uint64_t all = 0;
    const ofr_opencl_api *api = session->api;
    ofr_opencl_note(session,
                    api->EnqueueReadBuffer(session->queue, session->token_sync, CL_TRUE,
                                           SYNC_TRACE * 4, sizeof cycles, cycles, 0, NULL, NULL),
                    "fetching times");
    ofr_opencl_note(session,
                    api->EnqueueWriteBuffer(session->queue, session->token_sync, CL_TRUE,
                                            SYNC_TRACE * 4, sizeof zero, zero, 0, NULL, NULL),
                    "clearing times");
    for (uint32_t i = 0; i < 2 * TRACED; i++) {
        all += cycles[i];
    }
    for (uint32_t i = 0; all > 0 && i < 2 * TRACED; i++) {
        char name[48];
        bool last = i / 2 == TRACED - 1;
        snprintf(name, sizeof name, "  %s: %s", names[i / 2], i % 2 ? "work" : "wait");
        ofr_opencl_note_time(session, name, last ? 1 : n_layers(session),
                             (uint64_t)((double)launch_ns * cycles[i] / (double)all));
    }
}

static bool collects_rows(const ofr_backend_session *session)
{
    return session->collected != NULL &&
           2 * n_layers(session) * session->options.kv_layout.row_bytes <= OPENCL_STAGING_BYTES;
}

bool ofr_opencl_token_collected(const ofr_backend_session *session)
{
    return session->token_groups > 0 && session->n_tokens == 1 && collects_rows(session);
}

/* Layers after which the launch is cut in two, so that their rows of K and V travel while the
 * others are computed; 0: not cut. */
static uint32_t layers_early(const ofr_backend_session *session)
{
    uint32_t n = n_layers(session);
    uint64_t bytes = 2 * n * session->options.kv_layout.row_bytes;
    bool worth = bytes >= EARLY_BYTES_LEAST && n >= EARLY_LAYERS_LEAST;
    bool can = session->early_queue != NULL && n > 1 && !session->profiled;
    return can && collects_rows(session) && (worth || session->token_cut) ? n - 1 - (n - 1) / 8 : 0;
}

static void set_words(ofr_backend_session *session, cl_kernel kernel, uint32_t first,
                      uint32_t layers, uint32_t flags)
{
    ofr_opencl_set_u32(session, kernel, ARGUMENT_LAYERS, layers);
    ofr_opencl_set_u32(session, kernel, ARGUMENT_LAYERS + 1, flags);
    ofr_opencl_set_u32(session, kernel, ARGUMENT_LAYERS + 2, session->token_tag);
    ofr_opencl_set_u32(session, kernel, ARGUMENT_FIRST_LAYER, first);
}

void ofr_opencl_token_launch(ofr_backend_session *session, bool with_head, bool rehearsal)
{
    cl_kernel kernel = ofr_opencl_model_step(session, OPENCL_MODEL_STEP_TOKEN);
    uint32_t flags = (with_head ? FLAG_HEAD : 0U) | (rehearsal ? FLAG_REHEARSAL : 0U) |
                     (with_head || rehearsal ? 0U : FLAG_HIDDEN) |
                     (rehearsal || !collects_rows(session) ? 0U : FLAG_ROWS);
    if (kernel == NULL || session->status != CL_SUCCESS) {
        return;
    }
    const ofr_opencl_api *api = session->api;
    uint32_t early = rehearsal ? 0 : layers_early(session);
    session->early_layers = early;
    if (early > 0) {
        set_words(session, kernel, 0, early, (flags & ~(uint32_t)FLAG_HEAD) | FLAG_HIDDEN);
        ofr_opencl_launch_event(session, kernel, session->tuning.token_items, session->token_groups,
                                &session->early_event);
        session->token_tag += early * STEPS_OF_LAYER + 2;
    }
    set_words(session, kernel, early, n_layers(session) - early, flags);
    uint64_t launch_ns = ofr_opencl_launch(session, kernel, session->tuning.token_items,
                                           session->token_groups, 1, 1);
    if (session->profiled && !rehearsal) {
        note_steps(session, launch_ns);
    }
    session->token_tag += (n_layers(session) - early) * STEPS_OF_LAYER + 2;
    size_t bytes = sizeof session->token_fault;
    char *staged = ofr_opencl_stage(session, &session->token_fault, bytes, bytes, 1);
    void *to = staged != NULL ? (void *)staged : &session->token_fault;
    ofr_opencl_note(session,
                    api->EnqueueReadBuffer(session->queue, session->token_sync, CL_FALSE,
                                           SYNC_FAULT * 4, bytes, to, 0, NULL, NULL),
                    "fetching results");
}

bool ofr_opencl_token_held(ofr_backend_session *session)
{
    ofr_opencl_unstage(session);
    if (session->status != CL_SUCCESS || session->token_fault == 0) {
        return true; /* or another failure, which is reported */
    }
    session->token_groups = 0;
    if (session->call != NULL && session->options.layer_begin > 0) { /* its input is gone */
        ofr_opencl_note(session, CL_OUT_OF_RESOURCES, "running all work-groups at once");
        return true;
    }
    return false;
}
