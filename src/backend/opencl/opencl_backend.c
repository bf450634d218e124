/* The OpenCL backend's table: probing, opening, checked forward calls, closing. */
#include "backend/opencl/opencl_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/opencl/opencl_session.h"
#include "engine/forward_check.h"

static const char backend_name[] = "OpenCL backend";

enum { MAX_HEAD_DIM = 256, MAX_BLOCK_ROWS = 16, PREFERRED_CHUNK = 512, NARROW_TOKENS = 8 };

static int choose_device(const ofr_opencl_api *api, const char *name, ofr_opencl_device *ret_device,
                         ofr_error *err)
{
    ofr_opencl_device devices[OFR_OPENCL_DEVICES_MAX];
    uint32_t n = 0, index = 0;
    int result = ofr_opencl_device_index(name, &index, err);
    if (result == 0) {
        result = ofr_opencl_devices(api, devices, OFR_OPENCL_DEVICES_MAX, &n, err);
    }
    if (result < 0) {
        return result;
    }
    if (index >= n) {
        char present[512] = "";
        for (uint32_t i = 0; i < n; i++) {
            size_t used = strlen(present);
            snprintf(present + used, sizeof present - used, "%sopencl:%u (%s)", i > 0 ? ", " : "",
                     i, devices[i].name);
        }
        return ofr_fail(err, OFR_ENOENT, "OpenCL backend: no opencl:%u; present: %s", index,
                        present);
    }
    *ret_device = devices[index];
    return 0;
}

static void describe_device(const ofr_opencl_device *found, ofr_backend_capabilities *ret)
{
    ofr_backend_capabilities made = {.free_shapes = true,
                                     .binds_host_pointers = found->shares_host_memory,
                                     .memory_bytes =
                                         found->shares_host_memory ? 0 : found->memory_bytes,
                                     .chunk_preferred = PREFERRED_CHUNK,
                                     .chooses_candidates = true};
    snprintf(made.device_name, sizeof made.device_name, "%s", found->name);
    snprintf(made.kernels, sizeof made.kernels, "%s", found->byte_products ? "dot" : "plain");
    *ret = made;
}

int ofr_opencl_probe(const char *device, ofr_backend_capabilities *ret_capabilities, ofr_error *err)
{
    ofr_opencl_api api;
    ofr_opencl_device found;
    int result = ofr_opencl_api_open(NULL, &api, err);
    if (result == 0) {
        result = choose_device(&api, device, &found, err);
    }
    if (result < 0) {
        return result;
    }
    describe_device(&found, ret_capabilities);
    return 0;
}

static int backend_probe(ofr_backend_capabilities *ret_capabilities, ofr_error *err)
{
    return ofr_opencl_probe(NULL, ret_capabilities, err);
}

static void backend_close(ofr_backend_session *session)
{
    if (session == NULL) {
        return;
    }
    if (session->queue != NULL) {
        for (uint32_t i = 0; i < session->n_kv_windows; i++) {
            const opencl_kv_window *w = &session->kv_windows[i];
            if (w->mapped != NULL) {
                session->api->EnqueueUnmapMemObject(session->queue, w->buffer, w->mapped, 0, NULL,
                                                    NULL);
            }
        }
        if (session->stream_mapped != NULL) {
            session->api->EnqueueUnmapMemObject(session->queue, session->stream,
                                                session->stream_mapped, 0, NULL, NULL);
        }
        if (session->staging_host != NULL) {
            session->api->EnqueueUnmapMemObject(session->queue, session->staging,
                                                session->staging_host, 0, NULL, NULL);
        }
        session->api->Finish(session->queue);
    }
    ofr_opencl_release_steps(session);
    ofr_opencl_release_kv(session);
    ofr_opencl_release_memory(session);
    if (session->early_queue != NULL) {
        session->api->ReleaseCommandQueue(session->early_queue);
    }
    if (session->queue != NULL) {
        session->api->ReleaseCommandQueue(session->queue);
    }
    if (session->context != NULL) {
        session->api->ReleaseContext(session->context);
    }
    ofr_rope_done(&session->rope);
    ofr_rope_done(&session->rope_local);
    free(session->layers);
    free(session->cache_directory);
    free(session);
}

static int check_model(const ofr_backend_options *options, ofr_error *err)
{
    int result = ofr_backend_options_check(options, backend_name, err);
    const ofr_model_params *p = options->model->params;
    uint32_t group = p->n_heads / p->n_kv_heads;
    if (result == 0 &&
        (p->head_dim > MAX_HEAD_DIM || p->head_dim % 2 != 0 || group > MAX_BLOCK_ROWS)) {
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "OpenCL backend: head_dim %u (even, at most %d), %u heads for each KV head "
                        "(at most %d)",
                        p->head_dim, MAX_HEAD_DIM, group, MAX_BLOCK_ROWS);
    }
    return result;
}

static int choose_kernels(ofr_backend_session *session, ofr_error *err)
{
    const char *name = session->options.kernels;
    bool fits = ofr_opencl_dot_fits(session);
    if (name != NULL && strcmp(name, "plain") != 0 && strcmp(name, "dot") != 0) {
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "OpenCL backend: no kernels '%s'; there are dot, plain", name);
    }
    if (name != NULL && strcmp(name, "dot") == 0 && !fits) {
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "OpenCL backend: the kernels 'dot' need int4 or int8 weights in groups "
                        "that are a power of two; use plain");
    }
    session->dot = name != NULL ? strcmp(name, "dot") == 0 : session->device.byte_products && fits;
    session->stats.kernels = session->dot ? "dot" : "plain";
    return 0;
}

/* Sizes before tuning: what suits the kind of device. */
static void choose_sizes(ofr_backend_session *session)
{
    const ofr_opencl_device *device = &session->device;
    opencl_tuning *t = &session->tuning;
    bool gpu = (device->type & CL_DEVICE_TYPE_GPU) != 0;
    *t = (opencl_tuning){.lanes = {8, 8},
                         .team_rows = {8, 8},
                         .tile_tokens = 16,
                         .tile_rows = 32,
                         .item_tokens = 4,
                         .item_rows = 4,
                         .gemm_units = 1,
                         .token_items = device->warp == 32 ? 512 : 1,
                         .token_depth = device->warp == 32 ? 4 : 1,
                         .token_loads = 1};
    if (gpu) {
        *t = (opencl_tuning){.lanes = {32, 32},
                             .team_rows = {4, 4},
                             .tile_tokens = 64,
                             .tile_rows = 64,
                             .item_tokens = 4,
                             .item_rows = 4,
                             .gemm_units = 1,
                             .token_items = t->token_items,
                             .token_depth = t->token_depth,
                             .token_loads = 1};
    }
    if (device->nvidia > 0) {
        *t = (opencl_tuning){.lanes = {64, 32},
                             .team_rows = {2, 8},
                             .tile_tokens = 64,
                             .tile_rows = 64,
                             .item_tokens = 8,
                             .item_rows = 4,
                             .gemm_units = 2,
                             .token_items = 512,
                             .token_depth = 4,
                             .token_loads = 1};
    }
    const ofr_model_params *p = session->params;
    session->key_block = p->head_dim > 128 ? 32 : 64;
    session->attention_items = 128;
    uint32_t rows = p->head_dim > 128 ? MAX_BLOCK_ROWS / 2 : MAX_BLOCK_ROWS;
    uint32_t group = session->heads_per_group;
    session->block_rows = rows < group ? group : rows / group * group;
    session->split_target = device->compute_units * (gpu ? 4 : 2);
    session->quantizes_attention = session->dot && group * p->head_dim % 32 == 0;
    session->narrow_tokens = NARROW_TOKENS;
}

static int open_device(ofr_backend_session *session, const ofr_opencl_options *opencl,
                       ofr_error *err)
{
    int result = 0;
    session->api = opencl->api;
    if (session->api == NULL) {
        result = ofr_opencl_api_open(NULL, &session->own_api, err);
        session->api = &session->own_api;
    }
    if (result == 0) {
        result = choose_device(session->api, session->options.device, &session->device, err);
    }
    if (result < 0) {
        return result;
    }
    if (opencl->emulated_matrix_lanes > 0) {
        session->device.matrix_lanes = opencl->emulated_matrix_lanes;
        session->matrix_emulated = true;
    }
    session->halves_emulated = opencl->emulated_halves;
    session->shared = opencl->memory == OFR_OPENCL_MEMORY_AUTO
                          ? session->device.shares_host_memory
                          : opencl->memory == OFR_OPENCL_MEMORY_SHARED;
    if (opencl->cache_directory == NULL) {
        session->cache_directory = ofr_opencl_cache_directory();
    } else if (opencl->cache_directory[0] != '\0') {
        session->cache_directory = strdup(opencl->cache_directory);
    }
    cl_int status = CL_SUCCESS;
    session->context =
        session->api->CreateContext(NULL, 1, &session->device.id, NULL, NULL, &status);
    if (status == CL_SUCCESS) {
        const cl_queue_properties timed[] = {CL_QUEUE_PROPERTIES, CL_QUEUE_PROFILING_ENABLE, 0};
        session->profiled = opencl->profile;
        session->queue = session->api->CreateCommandQueueWithProperties(
            session->context, session->device.id, opencl->profile ? timed : NULL, &status);
    }
    if (status != CL_SUCCESS) {
        return ofr_fail(err, ofr_opencl_status_code(status),
                        "OpenCL backend: cannot open %s (%s, error %d)", session->device.name,
                        ofr_opencl_status_name(status), (int)status);
    }
    session->compiler = (ofr_opencl_compiler){.api = session->api,
                                              .device = &session->device,
                                              .context = session->context,
                                              .cache_directory = session->cache_directory};
    return 0;
}

/* What layers differ in, but for their weights. */
static void describe_layers(ofr_backend_session *session)
{
    for (uint32_t i = session->options.layer_begin; i < session->options.layer_end; i++) {
        const ofr_layer *from = &session->model->layers[i];
        opencl_layer *to = &session->layers[i - session->options.layer_begin];
        bool windowed = (from->flags & OFR_LAYER_WINDOWED) != 0;
        to->window = windowed ? session->params->sliding_window : 0;
        to->rope_table = windowed && session->rope_local.half > 0;
        to->rope_half = to->rope_table ? session->rope_local.half : session->rope.half;
        if (from->flags & OFR_LAYER_UNROTATED) {
            to->rope_half = 0;
        }
        session->normed_outputs = session->normed_outputs || from->attention_output_norm != NULL ||
                                  from->mlp_output_norm != NULL;
    }
}

static int prepare(ofr_backend_session *session, const ofr_opencl_options *opencl, ofr_error *err)
{
    const ofr_model_params *p = session->params;
    session->heads_per_group = p->n_heads / p->n_kv_heads;
    session->q_width = p->n_heads * p->head_dim;
    session->qkv_width = (p->n_heads + 2 * p->n_kv_heads) * p->head_dim;
    session->layers =
        calloc(session->options.layer_end - session->options.layer_begin, sizeof *session->layers);
    if (session->layers == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "OpenCL backend: out of memory");
    }
    const float *factors =
        ofr_model_freq_factors(session->model, session->options.kv_layout.context);
    int result = ofr_rope_init(&session->rope, &p->rope, factors, err);
    if (result == 0 && p->rope_local.dims > 0) {
        result = ofr_rope_init(&session->rope_local, &p->rope_local, NULL, err);
    }
    if (result == 0) {
        describe_layers(session);
    }
    result = result == 0 ? open_device(session, opencl, err) : result;
    result = result == 0 ? choose_kernels(session, err) : result;
    if (result < 0) {
        return result;
    }
    choose_sizes(session);
    if (opencl->matrix_untuned) {
        ofr_opencl_matrix_size(session, 0, &session->tuning);
    }
    session->tuning.attention_halves = session->attention_wanted == OFR_OPENCL_ATTENTION_F16;
    if (session->tuning.attention_halves > 0 && !ofr_opencl_halves_run(session)) {
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "OpenCL backend: no fp16 attention on %s (cl_khr_fp16) with heads of %u "
                        "(multiples of 16); use f32",
                        session->device.name, p->head_dim);
    }
    result = ofr_opencl_build_programs(session, err);
    result = result == 0 ? ofr_opencl_bind_weights(session, err) : result;
    result = result == 0 ? ofr_opencl_bind_kv(session, err) : result;
    result = result == 0 ? ofr_opencl_make_buffers(session, err) : result;
    if (result == 0) {
        ofr_opencl_note(session, session->api->Finish(session->queue), "preparing");
        result = ofr_opencl_error(session, err);
    }
    if (result == 0 && session->dot && opencl->launches != OFR_OPENCL_LAUNCHES_STEPS) {
        session->token_cut = opencl->launches == OFR_OPENCL_LAUNCHES_CUT;
        result =
            ofr_opencl_token_prepare(session, opencl->launches != OFR_OPENCL_LAUNCHES_AUTO, err);
    }
    if (result == 0 && session->dot) {
        session->tunes = (session->device.type & CL_DEVICE_TYPE_GPU) != 0 ? opencl->autotune : 0;
        if (opencl->launches == OFR_OPENCL_LAUNCHES_STEPS) { /* nothing that others may read */
            session->tunes &= ~(unsigned)OFR_OPENCL_AUTOTUNE_TOKEN;
        }
        bool decided = ofr_opencl_tune(session, session->tunes);
        if (!decided && opencl->launches == OFR_OPENCL_LAUNCHES_AUTO) {
            session->token_groups = 0;
        }
        result = ofr_opencl_error(session, err);
    }
    return result;
}

int ofr_opencl_open(const ofr_backend_options *options, const ofr_opencl_options *opencl,
                    ofr_backend_session **ret_session, ofr_error *err)
{
    int result = check_model(options, err);
    if (result < 0) {
        return result;
    }
    ofr_backend_session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "OpenCL backend: out of memory");
    }
    session->options = *options;
    session->model = options->model;
    session->attention_wanted = opencl->attention;
    session->measured = opencl->measured;
    session->measured_context = opencl->measured_context;
    session->params = options->model->params;
    result = prepare(session, opencl, err);
    if (result < 0) {
        bool tuning = session->tunes != 0;
        backend_close(session);
        if (tuning) { /* a size that the driver cannot run must not cost the device */
            ofr_opencl_options untuned = *opencl;
            untuned.autotune = 0;
            return ofr_opencl_open(options, &untuned, ret_session, err);
        }
        return result;
    }
    *ret_session = session;
    return 0;
}

static int backend_open(const ofr_backend_options *options, ofr_backend_session **ret_session,
                        ofr_error *err)
{
    const ofr_opencl_options automatic = {.autotune = OFR_OPENCL_AUTOTUNE_ALL};
    return ofr_opencl_open(options, &automatic, ret_session, err);
}

static int backend_forward(ofr_backend_session *session, const ofr_forward *forward, ofr_error *err)
{
    int result = ofr_opencl_error(session, err);
    if (result < 0) {
        return result;
    }
    result = ofr_forward_check(&session->options, forward, backend_name, true, session->slot_used,
                               &session->n_tokens, err);
    return result < 0 ? result : ofr_opencl_run(session, forward, err);
}

void ofr_opencl_session_stats(const ofr_backend_session *session, ofr_opencl_stats *ret_stats)
{
    *ret_stats = session->stats;
    ret_stats->program_builds = session->compiler.builds;
    ret_stats->program_cache_hits = session->compiler.cache_hits;
    const opencl_tuning *t = &session->tuning;
    snprintf(ret_stats->tuning, sizeof ret_stats->tuning,
             "gemv %ux%u, %ux%u; %s %ux%u by %ux%u, %u units; token %u by %u, loads %u; "
             "attention %s",
             t->lanes[0], t->team_rows[0], t->lanes[1], t->team_rows[1],
             t->gemm_units != OPENCL_BY_MATRIX ? "gemm" : "matrix", t->tile_tokens, t->tile_rows,
             t->item_tokens, t->item_rows, t->gemm_units,
             session->token_groups > 0 ? t->token_items : 0, t->token_depth, t->token_loads,
             t->attention_halves > 0 ? "f16" : "f32");
}

static void backend_describe(const ofr_backend_session *session, ofr_backend_capabilities *ret)
{
    describe_device(&session->device, ret);
    ret->binds_host_pointers = session->shared;
    snprintf(ret->kernels, sizeof ret->kernels, "%s", session->stats.kernels);
}

static uint64_t backend_handoff(const ofr_backend_session *session)
{
    return session->stats.kv_uploaded + session->stats.kv_downloaded + session->stats.hidden_copied;
}

static const ofr_backend table = {
    .interface_version = OFR_BACKEND_INTERFACE_VERSION,
    .name = "opencl",
    .probe = backend_probe,
    .open = backend_open,
    .forward = backend_forward,
    .describe = backend_describe,
    .handoff_bytes_copied = backend_handoff,
    .graph_kv_bytes = NULL, /* no graphs: kernels read the strips, or their mirror, as they are */
    .close = backend_close,
};

const ofr_backend *ofr_opencl_backend(void)
{
    return &table;
}
