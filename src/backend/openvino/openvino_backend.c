/* The OpenVINO backend's table: probing, opening, forward, closing. */
#include "backend/openvino/openvino_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"
#include "backend/openvino/session.h"
#include "engine/forward_check.h"
#include "graph/decoder.h"

static const char BACKEND[] = "OpenVINO backend";
/* What a chunk is taken to cost beside its tokens, in tokens, until it was measured: unpacking the
 * weights, binding, waking. */
static const double CHUNK_OVERHEAD = 32;

static int device_of(const char *plan_name, char *ret_device, size_t size, ofr_error *err)
{
    static const char prefix[] = "openvino:";
    if (!plan_name)
        plan_name = "openvino:CPU";
    if (strncmp(plan_name, prefix, sizeof prefix - 1) != 0 ||
        strlen(plan_name) - (sizeof prefix - 1) >= size)
        return ofr_fail(err, OFR_EINVAL, "%s: '%s' is no device of it", BACKEND, plan_name);
    strcpy(ret_device, plan_name + sizeof prefix - 1);
    return 0;
}

static int describe(ofr_ov *ov, const char *device, ofr_backend_capabilities *ret, ofr_error *err)
{
    char full[96] = "";
    int r = ofr_ov_property(ov, device, "FULL_DEVICE_NAME", full, sizeof full, err);
    if (r < 0) {
        char present[256] = "none";
        ofr_ov_devices(ov, present, sizeof present, NULL);
        return ofr_fail(err, OFR_ENOENT, "OpenVINO %.20s has no device %s; it has %s",
                        ofr_ov_version(ov), device, present);
    }
    ofr_backend_capabilities made = {.binds_host_pointers = true};
    snprintf(made.device_name, sizeof made.device_name, "%s", full);
    snprintf(made.kernels, sizeof made.kernels, "OpenVINO %.20s", ofr_ov_version(ov));
    *ret = made;
    return 0;
}

static int backend_probe(ofr_backend_capabilities *ret_capabilities, ofr_error *err)
{
    ofr_ov *ov = NULL;
    int r = ofr_ov_open(NULL, &ov, err);
    if (r == 0)
        r = describe(ov, "CPU", ret_capabilities, err);
    ofr_ov_close(ov);
    return r;
}

static void backend_close(ofr_backend_session *session)
{
    if (!session)
        return;
    ofr_openvino_graphs_done(session);
    if (session->cpu) {
        session->cpu->close(session->embed);
        session->cpu->close(session->head);
    }
    ofr_ov_close(session->ov);
    ofr_rope_done(&session->rope);
    ofr_rope_done(&session->rope_local);
    free(session->kinds);
    free(session->memory);
    free(session);
}

/* The chunks and past lengths that the package has graphs for and the arena has rows for. */
static int choose_ladders(ofr_backend_session *session, ofr_error *err)
{
    const ofr_kv_layout *kv = &session->options.kv_layout;
    const ofr_package *package = session->model->package;
    uint32_t model_context = session->params->context_length;
    ofr_ladder pasts;
    ofr_ladder_pasts(model_context, &pasts);
    for (uint32_t i = 0; i < pasts.n; i++)
        if (pasts.steps[i] <= kv->context + kv->chunk_max)
            session->pasts.steps[session->pasts.n++] = pasts.steps[i];
    char name[64];
    for (uint32_t t = 1; t <= kv->chunk_max && session->chunks.n < OFR_LADDER_MAX; t++) {
        ofr_ladder_block_name(0, t, 0, name, sizeof name);
        if (ofr_package_has_file(package, name)) {
            session->guesses[session->chunks.n] = t + CHUNK_OVERHEAD;
            session->costs[session->chunks.n] = t + CHUNK_OVERHEAD;
            session->chunks.steps[session->chunks.n++] = t;
        }
    }
    uint32_t covered = 0;
    if (session->chunks.n == 0)
        return ofr_fail(err, OFR_EUNSUPPORTED, "%s: %s", BACKEND,
                        ofr_graph_explain_absence(package));
    if (ofr_ladder_cover(&session->pasts, kv->context - 1, &covered) < 0)
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "%s: no static graph covers a context of %u; use --context %u", BACKEND,
                        kv->context, session->pasts.steps[session->pasts.n - 1]);
    return 0;
}

static int open_head_and_embedding(ofr_backend_session *session, ofr_error *err)
{
    ofr_backend_options options = session->options;
    options.kernels = NULL;
    options.device = NULL;
    session->cpu = ofr_cpu_backend();
    int r = 0;
    if (options.layer_begin == 0) {
        options.layer_end = 0;
        options.max_batch_tokens = OV_EMBED_ROWS;
        r = session->cpu->open(&options, &session->embed, err);
    }
    if (r == 0 && session->options.layer_end == session->params->n_layers) {
        options.layer_begin = options.layer_end = session->params->n_layers;
        options.max_batch_tokens = OV_HEAD_ROWS;
        r = session->cpu->open(&options, &session->head, err);
    }
    return r;
}

/* Cuts one allocation into pieces: with a NULL base it only adds up the size. */
static void *carve(char *base, size_t *used, size_t count, size_t size)
{
    size_t at = *used;
    *used += (count * size + 4095) / 4096 * 4096;
    return base ? base + at : NULL;
}

static void carve_masks(ov_positions *at, char *base, size_t *used, size_t t, size_t s)
{
    at->mask = carve(base, used, t * t, sizeof(float));
    at->mask_past = carve(base, used, t * s, sizeof(float));
    at->past_rows = carve(base, used, s, sizeof(float));
}

static void carve_rope(ov_positions *at, char *base, size_t *used, size_t t, ofr_rope *rope)
{
    at->rope = rope;
    at->cosines = carve(base, used, t * rope->half * 2, sizeof(float));
    at->sines = carve(base, used, t * rope->half * 2, sizeof(float));
}

/* Windowed layers share what is no different for them. */
static void carve_positions(ofr_backend_session *session, char *base, size_t *used)
{
    const ofr_model_params *p = session->params;
    size_t t = session->chunks.steps[session->chunks.n - 1];
    size_t s = session->pasts.steps[session->pasts.n - 1];
    ov_positions *at = session->at;
    carve_rope(&at[0], base, used, t, &session->rope);
    carve_masks(&at[0], base, used, t, s);
    at[1] = at[0];
    at[1].rope = NULL;
    if (session->rope_local.half)
        carve_rope(&at[1], base, used, t, &session->rope_local);
    bool windowed = false;
    for (uint32_t i = 0; i < p->n_layers; i++)
        windowed |= ofr_graph_layer_windowed(p, i);
    if (windowed) {
        at[1].window = p->sliding_window;
        carve_masks(&at[1], base, used, t, s);
    }
    uint32_t half = session->rope.half;
    if (half < session->rope_local.half)
        half = session->rope_local.half;
    session->rope_rows = carve(base, used, t * half * 2, sizeof(float));
}

static size_t carve_all(ofr_backend_session *session, char *base)
{
    const ofr_model_params *p = session->params;
    size_t t = session->chunks.steps[session->chunks.n - 1];
    size_t slots = session->options.kv_layout.n_slots, used = 0;
    session->hidden[0] = carve(base, &used, t * p->d_model, sizeof(float));
    session->hidden[1] = carve(base, &used, t * p->d_model, sizeof(float));
    carve_positions(session, base, &used);
    session->last_rows = carve(base, &used, slots * p->d_model, sizeof(float));
    session->last_by_whole = carve(base, &used, slots, 1);
    session->ids = carve(base, &used, t, sizeof *session->ids);
    session->last_id = carve(base, &used, 1, sizeof *session->last_id);
    session->logits = carve(base, &used, p->vocab_size, sizeof(float));
    session->partial_sum = carve(base, &used, p->d_model, sizeof(float));
    session->slot_used = carve(base, &used, slots, 1);
    return used;
}

/* Each on pages of its own: devices take page-aligned memory in place. */
static int make_buffers(ofr_backend_session *session, ofr_error *err)
{
    size_t size = carve_all(session, NULL);
    if (posix_memalign(&session->memory, 4096, size) != 0)
        return ofr_fail(err, OFR_ENOMEM, "%s: no %zu MiB for its chunks", BACKEND, size >> 20);
    carve_all(session, session->memory);
    return 0;
}

static int open_graphs(ofr_backend_session *session, ofr_error *err)
{
    uint32_t n_layers = session->params->n_layers;
    session->source = ofr_graph_source_package(session->model->package);
    session->kinds = calloc(n_layers, sizeof *session->kinds);
    if (!session->kinds)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", BACKEND);
    int r = ofr_graph_layer_kinds(&session->source, session->kinds, &session->n_kinds, err);
    if (r == 0)
        r = choose_ladders(session, err);
    if (r < 0)
        return r;
    session->blocks = calloc((size_t)session->n_kinds * session->chunks.n * session->pasts.n,
                             sizeof *session->blocks);
    return session->blocks ? 0 : ofr_fail(err, OFR_ENOMEM, "%s: out of memory", BACKEND);
}

static int open_device(ofr_backend_session *session, ofr_error *err)
{
    ofr_backend_capabilities found;
    int r = device_of(session->options.device, session->device, sizeof session->device, err);
    if (r == 0)
        r = ofr_ov_open(NULL, &session->ov, err);
    if (r == 0)
        r = describe(session->ov, session->device, &found, err);
    if (r < 0)
        return r;
    session->weights = ofr_package_weights(session->model->package, &session->weights_size);
    snprintf(session->precision, sizeof session->precision, "%s",
             strcmp(session->device, "CPU") == 0 ? "f32" : "f16");
    if (session->options.threads)
        snprintf(session->threads, sizeof session->threads, "%u", session->options.threads);
    /* What cannot be imported is copied, and counted. */
    const struct {
        const void *base;
        size_t bytes;
    } ranges[] = {{session->options.kv_arena, session->options.kv_layout.total_bytes},
                  {session->weights, session->weights_size}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        ofr_error why = {0};
        if (ofr_ov_import_memory(session->ov, session->device, ranges[i].base, ranges[i].bytes,
                                 &why) < 0)
            session->figures.imports_refused++;
    }
    return 0;
}

static int backend_open(const ofr_backend_options *options, ofr_backend_session **ret_session,
                        ofr_error *err)
{
    int r = ofr_backend_options_check(options, BACKEND, err);
    if (r < 0)
        return r;
    const char *kernels = options->kernels;
    bool whole = kernels && strcmp(kernels, "whole") == 0;
    if (kernels && !whole && strcmp(kernels, "folded") != 0)
        return ofr_fail(err, OFR_EUNSUPPORTED, "%s: no kernels '%s'; it has folded and whole",
                        BACKEND, kernels);
    ofr_backend_session *session = calloc(1, sizeof *session);
    if (!session)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", BACKEND);
    session->options = *options;
    session->model = options->model;
    session->params = options->model->params;
    session->use_whole =
        whole && options->layer_begin == 0 && options->layer_end == session->params->n_layers;
    r = open_graphs(session, err);
    if (r == 0)
        r = ofr_rope_init(&session->rope, &session->params->rope,
                          ofr_model_freq_factors(options->model, options->kv_layout.context), err);
    if (r == 0 && session->params->rope_local.dims > 0)
        r = ofr_rope_init(&session->rope_local, &session->params->rope_local, NULL, err);
    if (r == 0)
        r = open_device(session, err);
    if (r == 0)
        r = open_head_and_embedding(session, err);
    if (r == 0)
        r = make_buffers(session, err);
    if (r < 0)
        backend_close(session);
    else
        *ret_session = session;
    return r;
}

static int backend_forward(ofr_backend_session *session, const ofr_forward *forward, ofr_error *err)
{
    uint32_t n = 0, first = 0;
    int r =
        ofr_forward_check(&session->options, forward, BACKEND, false, session->slot_used, &n, err);
    if (r < 0)
        return r;
    memset(session->last_by_whole, 0, forward->n_segments);
    for (uint32_t i = 0; i < forward->n_segments && r == 0; i++) {
        r = ofr_openvino_run_segment(session, forward, i, first, err);
        first += forward->segments[i].n_tokens;
    }
    bool last = forward->output == OFR_FORWARD_OUTPUT_LAST &&
                session->options.layer_end == session->params->n_layers;
    size_t d = session->params->d_model, vocab = session->params->vocab_size;
    /* Together what lies together: the head reads its matrix once for up to OV_HEAD_ROWS rows. */
    for (uint32_t i = 0; last && r == 0 && i < forward->n_segments;) {
        uint32_t end = i;
        while (end < forward->n_segments && !session->last_by_whole[end])
            end++;
        ofr_forward what = *forward;
        what.logits = forward->logits + i * vocab;
        if (end > i)
            r = ofr_openvino_run_head(session, session->last_rows + i * d, end - i, &what, err);
        i = end + 1;
    }
    return r;
}

static void backend_describe(const ofr_backend_session *session, ofr_backend_capabilities *ret)
{
    ofr_backend_capabilities made = {.binds_host_pointers = true};
    describe(session->ov, session->device, &made, NULL);
    uint32_t room = sizeof made.chunks / sizeof made.chunks[0] - 1;
    for (uint32_t i = 0; i < session->chunks.n && i < room; i++)
        made.chunks[i] = session->chunks.steps[i];
    made.chunk_preferred = session->chunks.steps[session->chunks.n - 1];
    *ret = made;
}

static uint64_t backend_copied(const ofr_backend_session *session)
{
    uint64_t copied = session->copied;
    size_t n = (size_t)session->n_kinds * session->chunks.n * session->pasts.n;
    for (size_t i = 0; i < n; i++)
        if (session->blocks[i].graph)
            copied += ofr_ov_graph_copied(session->blocks[i].graph);
    for (size_t i = 0; i < sizeof session->wholes / sizeof session->wholes[0]; i++)
        if (session->wholes[i].graph)
            copied += ofr_ov_graph_copied(session->wholes[i].graph);
    return copied;
}

static uint64_t backend_graph_kv(const ofr_backend_session *session)
{
    return session->graph_kv_bytes;
}

ofr_openvino_figures ofr_openvino_session_figures(const ofr_backend_session *session)
{
    return session->figures;
}

const ofr_backend *ofr_openvino_backend(void)
{
    static const ofr_backend table = {
        .interface_version = OFR_BACKEND_INTERFACE_VERSION,
        .name = "openvino",
        .probe = backend_probe,
        .open = backend_open,
        .forward = backend_forward,
        .describe = backend_describe,
        .handoff_bytes_copied = backend_copied,
        .graph_kv_bytes = backend_graph_kv,
        .close = backend_close,
    };
    return &table;
}
