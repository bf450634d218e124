/* The CPU backend's table: probing, opening (choice of kernels, buffers), validation of every
 * forward call, closing. */
#include "backend/cpu/cpu_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/session.h"
#include "engine/forward_check.h"

typedef const ofr_cpu_kernels *(*kernels_getter)(void);

/* Best first. */
static const kernels_getter kernel_sets[] = {
    ofr_cpu_kernels_amx,  ofr_cpu_kernels_avx512vnni, ofr_cpu_kernels_avxvnni,
    ofr_cpu_kernels_avx2, ofr_cpu_kernels_generic,
};
enum {
    N_KERNEL_SETS = sizeof kernel_sets / sizeof kernel_sets[0],
    PREFERRED_CHUNK = 512,
    HUGE_PAGE = 2 << 20
};

uint32_t ofr_cpu_kernel_names(const ofr_cpu_features *features, const char **ret_names,
                              uint32_t capacity)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < N_KERNEL_SETS; i++) {
        const ofr_cpu_kernels *kernels = kernel_sets[i]();
        if (kernels->supported(features) && n < capacity) {
            ret_names[n++] = kernels->name;
        }
    }
    return n;
}

static int choose_kernels(const char *name, const ofr_cpu_kernels **ret_kernels, ofr_error *err)
{
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    char have[128] = "";
    for (uint32_t i = 0; i < N_KERNEL_SETS; i++) {
        const ofr_cpu_kernels *kernels = kernel_sets[i]();
        if (!kernels->supported(&features)) {
            continue;
        }
        if (name == NULL || strcmp(name, kernels->name) == 0) {
            *ret_kernels = kernels;
            return 0;
        }
        size_t used = strlen(have);
        snprintf(have + used, sizeof have - used, "%s%s", used > 0 ? ", " : "", kernels->name);
    }
    return ofr_fail(err, OFR_EUNSUPPORTED, "CPU backend: no kernels '%s' on this CPU; it has %s",
                    name != NULL ? name : "", have);
}

static int backend_probe(ofr_backend_capabilities *ret_capabilities, ofr_error *err)
{
    const ofr_cpu_kernels *kernels = NULL;
    int result = choose_kernels(NULL, &kernels, err);
    if (result < 0) {
        return result;
    }
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    ofr_backend_capabilities made = {
        .free_shapes = true, .binds_host_pointers = true, .chunk_preferred = PREFERRED_CHUNK};
    uint32_t cores = ofr_cpu_physical_cores(NULL, 0);
    snprintf(made.device_name, sizeof made.device_name, "%s, %u threads",
             features.name[0] != '\0' ? features.name : "CPU", cores);
    snprintf(made.kernels, sizeof made.kernels, "%s", kernels->name);
    *ret_capabilities = made;
    return 0;
}

/* Cuts one allocation into aligned pieces: first called with a NULL base to add up the size. */
typedef struct arena_carver {
    char *base;
    size_t used;
} arena_carver;

static void *carve(arena_carver *carver, size_t count, size_t size)
{
    void *at = carver->base != NULL ? carver->base + carver->used : NULL;
    carver->used += (count * size + 63) / 64 * 64;
    return at;
}

static void carve_activations(arena_carver *carver, ofr_cpu_activations *a, size_t rows,
                              size_t widest, size_t value_bytes)
{
    size_t groups = (widest / OFR_CPU_ACTIVATION_GROUP + 15) / 16 * 16 + 16;
    size_t stride = (widest * value_bytes / OFR_CPU_SPLIT_BLOCK + 2) * OFR_CPU_SPLIT_BLOCK;
    a->values = carve(carver, rows * stride, 1);
    a->scales = carve(carver, rows * groups, sizeof *a->scales);
    a->sums = carve(carver, rows * groups, sizeof *a->sums);
}

static size_t widest_value(const ofr_cpu_kernels *kernels)
{
    size_t bytes = 1;
    for (const ofr_cpu_gemm *const *gemm = kernels->gemms; *gemm != NULL; gemm++) {
        bytes = (*gemm)->value_bytes > bytes ? (*gemm)->value_bytes : bytes;
    }
    return bytes;
}

static size_t gemm_scratch(const ofr_backend_session *session)
{
    size_t most = 0;
    for (const ofr_cpu_gemm *const *gemm = session->kernels->gemms; *gemm != NULL; gemm++) {
        size_t bytes =
            (*gemm)->scratch_bytes((uint32_t)session->widest, session->options.max_batch_tokens);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static void carve_scratch(arena_carver *carver, const ofr_backend_session *session,
                          cpu_scratch *scratch)
{
    uint32_t d = session->params->head_dim;
    size_t padded = ofr_cpu_value_stride(d), words = ofr_cpu_query_stride(d);
    size_t rows = session->query_rows;
    scratch->gemm = carve(carver, gemm_scratch(session), 1);
    for (int i = 0; i < 2; i++) {
        scratch->products[i] =
            carve(carver, (size_t)session->options.max_batch_tokens * OFR_CPU_GEMM_ROWS_MAX,
                  sizeof(float));
    }
    carve_activations(carver, &scratch->row, 1, session->widest, 1);
    scratch->normed = carve(carver, session->widest, sizeof(float));
    scratch->query = carve(carver, rows * d, sizeof(float));
    scratch->scores = carve(carver, rows * OFR_CPU_KEY_BLOCK, sizeof(float));
    scratch->out = carve(carver, OFR_CPU_BLOCK_PARTS * rows * padded, sizeof(float));
    scratch->query_words = carve(carver, OFR_CPU_BLOCK_PARTS * rows * words, sizeof(int16_t));
    scratch->weights = carve(carver, rows * OFR_CPU_KEY_BLOCK, sizeof(int16_t));
    scratch->keys = carve(carver, words * OFR_CPU_KEY_BLOCK, sizeof(int16_t));
    scratch->values = carve(carver, OFR_CPU_KEY_BLOCK * padded, sizeof(int16_t));
}

static bool has_output_norms(const ofr_model *model)
{
    bool found = false;
    for (uint32_t i = 0; i < model->params->n_layers; i++) {
        const ofr_layer *layer = &model->layers[i];
        found = found || layer->attention_output_norm != NULL || layer->mlp_output_norm != NULL;
    }
    return found;
}

static void carve_all(arena_carver *carver, ofr_backend_session *session)
{
    const ofr_model_params *params = session->params;
    size_t n = session->options.max_batch_tokens;
    size_t q = (size_t)params->n_heads * params->head_dim;
    size_t kv = (size_t)params->n_kv_heads * params->head_dim;
    cpu_scratch unused, *scratch = carve(carver, session->n_threads, sizeof *scratch);
    session->scratch = scratch;
    for (uint32_t i = 0; i < session->n_threads; i++) {
        carve_scratch(carver, session, scratch != NULL ? &scratch[i] : &unused);
    }
    size_t blocks = (n + OFR_CPU_TOKEN_BLOCK - 1) / OFR_CPU_TOKEN_BLOCK;
    carve_activations(carver, &session->rows, blocks * OFR_CPU_TOKEN_BLOCK, session->widest,
                      widest_value(session->kernels));
    session->tokens = carve(carver, n, sizeof *session->tokens);
    session->own_hidden = carve(carver, n * params->d_model, sizeof(float));
    session->normed = carve(carver, session->has_dense ? n * params->d_model : 0, sizeof(float));
    session->q = carve(carver, n * q, sizeof(float));
    session->k = carve(carver, n * kv, sizeof(float));
    session->v = carve(carver, n * kv, sizeof(float));
    session->attention = carve(carver, n * q, sizeof(float));
    session->mlp = carve(carver, n * params->d_ff, sizeof(float));
    session->cosines = carve(carver, n * session->rope.half, sizeof(float));
    session->sines = carve(carver, n * session->rope.half, sizeof(float));
    session->local_cosines = carve(carver, n * session->rope_local.half, sizeof(float));
    session->local_sines = carve(carver, n * session->rope_local.half, sizeof(float));
    session->branch =
        carve(carver, has_output_norms(session->model) ? n * params->d_model : 0, sizeof(float));
    session->partial = carve(carver, ofr_cpu_partial_floats(session), sizeof(float));
    session->slot_used = carve(carver, session->options.kv_layout.n_slots, 1);
}

static bool is_dense(enum ofr_dtype dtype)
{
    return dtype == OFR_DTYPE_F16 || dtype == OFR_DTYPE_F32;
}

static bool any_dense(const ofr_model *model)
{
    bool found = is_dense(model->head.weight->dtype);
    for (uint32_t i = 0; i < model->params->n_layers; i++) {
        const ofr_layer *l = &model->layers[i];
        const ofr_linear *all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        for (size_t j = 0; j < sizeof all / sizeof all[0]; j++) {
            found = found || is_dense(all[j]->weight->dtype);
        }
    }
    return found;
}

static int check_options(const ofr_backend_options *options, ofr_error *err)
{
    int result = ofr_backend_options_check(options, "CPU backend", err);
    if (result < 0) {
        return result;
    }
    const ofr_model_params *params = options->model->params;
    if (params->head_dim > OFR_CPU_MAX_HEAD_DIM ||
        params->n_heads / params->n_kv_heads > OFR_CPU_QUERY_ROWS) {
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "CPU backend: head_dim %u (at most %d), %u heads for each KV head (at most "
                        "%d)",
                        params->head_dim, OFR_CPU_MAX_HEAD_DIM,
                        params->n_heads / params->n_kv_heads, OFR_CPU_QUERY_ROWS);
    }
    return 0;
}

static void backend_close(ofr_backend_session *session)
{
    if (session == NULL) {
        return;
    }
    ofr_thread_pool_free(session->pool);
    ofr_rope_done(&session->rope);
    ofr_rope_done(&session->rope_local);
    free(session->memory);
    free(session->block_logits);
    free(session);
}

static int make_buffers(ofr_backend_session *session, ofr_error *err)
{
    arena_carver carver = {0};
    carve_all(&carver, session);
    size_t size = (carver.used + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    session->memory = aligned_alloc(HUGE_PAGE, size);
    if (session->memory == NULL) {
        return ofr_fail(err, OFR_ENOMEM,
                        "CPU backend: no %zu MiB for batches of %u tokens; use smaller ones",
                        size >> 20, session->options.max_batch_tokens);
    }
    /* Activations are read with strides of whole rows: fewer pages, fewer misses. Best effort. */
    madvise(session->memory, size, MADV_HUGEPAGE);
    memset(session->memory, 0, size);
    carver.base = session->memory;
    carver.used = 0;
    carve_all(&carver, session);
    return 0;
}

static int backend_open(const ofr_backend_options *options, ofr_backend_session **ret_session,
                        ofr_error *err)
{
    int result = check_options(options, err);
    if (result < 0) {
        return result;
    }
    ofr_backend_session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "CPU backend: out of memory");
    }
    const ofr_model_params *params = options->model->params;
    session->options = *options;
    session->model = options->model;
    session->params = params;
    session->heads_per_group = params->n_heads / params->n_kv_heads;
    session->query_rows = OFR_CPU_QUERY_ROWS / session->heads_per_group * session->heads_per_group;
    size_t q_width = (size_t)params->n_heads * params->head_dim;
    session->widest = params->d_model > params->d_ff ? params->d_model : params->d_ff;
    session->widest = q_width > session->widest ? q_width : session->widest;
    session->residual_scale = ofr_scale_or_one(params->residual_scale);
    session->has_dense = any_dense(options->model);
    result = choose_kernels(options->kernels, &session->kernels, err);
    if (result == 0) {
        const float *factors = ofr_model_freq_factors(options->model, options->kv_layout.context);
        result = ofr_rope_init(&session->rope, &params->rope, factors, err);
    }
    if (result == 0 && params->rope_local.dims > 0) {
        result = ofr_rope_init(&session->rope_local, &params->rope_local, NULL, err);
    }
    if (result == 0) {
        uint32_t threads =
            options->threads > 0 ? options->threads : ofr_cpu_physical_cores(NULL, 0);
        threads = threads > OFR_THREAD_POOL_MAX ? OFR_THREAD_POOL_MAX : threads;
        result = ofr_thread_pool_new(threads, true, &session->pool, err);
        session->n_threads = threads;
    }
    if (result == 0) {
        result = make_buffers(session, err);
    }
    if (result < 0) {
        backend_close(session);
        return result;
    }
    *ret_session = session;
    return 0;
}

/* The residual stream is the caller's, where there is one: layers add to it in place. */
static void place_residual(ofr_backend_session *session, const ofr_forward *forward)
{
    const ofr_backend_options *options = &session->options;
    bool in = options->layer_begin > 0, out = options->layer_end < session->params->n_layers;
    session->hidden = out ? forward->hidden_out : in ? forward->hidden_in : session->own_hidden;
    if (in && session->hidden != forward->hidden_in) {
        session->copied += (uint64_t)session->n_tokens * session->params->d_model * sizeof(float);
    }
}

static int backend_forward(ofr_backend_session *session, const ofr_forward *forward, ofr_error *err)
{
    uint32_t n = 0;
    int result = ofr_forward_check(&session->options, forward, "CPU backend", false,
                                   session->slot_used, &n, err);
    if (result < 0) {
        return result;
    }
    bool logprobs = session->options.layer_end == session->params->n_layers &&
                    forward->output == OFR_FORWARD_OUTPUT_LOGPROBS;
    if (logprobs && session->block_logits == NULL) {
        size_t size = (size_t)OFR_CPU_LOGPROB_ROWS * session->params->vocab_size * sizeof(float);
        session->block_logits = aligned_alloc(64, (size + 63) / 64 * 64);
        if (session->block_logits == NULL) {
            return ofr_fail(err, OFR_ENOMEM, "CPU backend: no %zu MiB for logits", size >> 20);
        }
    }
    session->pass = forward;
    session->n_tokens = n;
    place_residual(session, forward);
    session->all_single = true;
    uint32_t at = 0;
    for (uint32_t i = 0; i < forward->n_segments; i++) {
        const ofr_segment *segment = &forward->segments[i];
        session->all_single = session->all_single && segment->n_tokens == 1;
        for (uint32_t t = 0; t < segment->n_tokens; t++) {
            session->tokens[at++] = (cpu_token){segment->slot, segment->position + t};
        }
    }
    ofr_cpu_attention_plan(session);
    ofr_thread_pool_run(session->pool, ofr_cpu_forward_region, session);
    session->pass = NULL;
    return 0;
}

static uint64_t backend_copied(const ofr_backend_session *session)
{
    return session->copied;
}

static const ofr_backend table = {
    .interface_version = OFR_BACKEND_INTERFACE_VERSION,
    .name = "cpu",
    .probe = backend_probe,
    .open = backend_open,
    .forward = backend_forward,
    .describe = NULL,
    .handoff_bytes_copied = backend_copied,
    .graph_kv_bytes = NULL, /* no graphs: kernels read the strips as they are */
    .close = backend_close,
};

const ofr_backend *ofr_cpu_backend(void)
{
    return &table;
}
