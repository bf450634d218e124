/* A worker's backend sessions, and the golden prompt run through them. */
#include "executive_shard/worker_layers.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"
#include "executive_shard/canary.h"

int ofr_worker_backend(const char *device, const ofr_backend **ret_backend, ofr_error *err)
{
    const ofr_backend *backend = NULL;
    if (strcmp(device, "cpu") == 0)
        backend = ofr_cpu_backend();
    else if (strncmp(device, "openvino:", strlen("openvino:")) == 0)
        backend = ofr_worker_backend_openvino();
    else if (strncmp(device, "opencl", strlen("opencl")) == 0)
        backend = ofr_worker_backend_opencl();
    if (!backend)
        return ofr_fail(err, OFR_EUNSUPPORTED, "this build has no backend for %s", device);
    *ret_backend = backend;
    return 0;
}

int ofr_worker_layers_open(ofr_worker_layers *layers, const char *package_directory,
                           const char *device, const ofr_backend_options *options, ofr_error *err)
{
    *layers = (ofr_worker_layers){.device = device, .options = *options};
    int r = ofr_worker_backend(device, &layers->backend, err);
    if (r == 0)
        r = ofr_package_open(package_directory, 0, &layers->package, err);
    if (r == 0)
        r = ofr_model_init(&layers->model, layers->package, err);
    layers->options.model = &layers->model;
    layers->options.device = strcmp(device, "cpu") == 0 ? NULL : device;
    return r;
}

ofr_backend_session *ofr_worker_layers_find(const ofr_worker_layers *layers, uint32_t begin,
                                            uint32_t end)
{
    for (uint32_t i = 0; i < layers->n_ranges; i++)
        if (layers->ranges[i].begin == begin && layers->ranges[i].end == end)
            return layers->ranges[i].session;
    return NULL;
}

int ofr_worker_layers_add(ofr_worker_layers *layers, uint32_t begin, uint32_t end, ofr_error *err)
{
    if (ofr_worker_layers_find(layers, begin, end))
        return 0;
    if (layers->n_ranges == OFR_WORKER_RANGES_MAX)
        return ofr_fail(err, OFR_ELIMIT, "more than %d ranges of layers on one device",
                        OFR_WORKER_RANGES_MAX);
    ofr_worker_range range = {.begin = begin, .end = end};
    ofr_backend_options options = layers->options;
    options.layer_begin = begin;
    options.layer_end = end;
    int r = layers->backend->open(&options, &range.session, err);
    if (r < 0)
        return r;
    layers->ranges[layers->n_ranges++] = range;
    ofr_backend_capabilities found;
    ofr_worker_layers_describe(layers, &found);
    layers->chooses_candidates = found.chooses_candidates;
    return 0;
}

static uint64_t copied_by(const ofr_worker_layers *layers, const ofr_worker_range *range)
{
    return layers->backend->handoff_bytes_copied
               ? layers->backend->handoff_bytes_copied(range->session)
               : 0;
}

/* The reference's part of a chain: the layers that are not the device's. */
static int open_reference(const ofr_worker_layers *layers, const ofr_kv_layout *layout, void *arena,
                          uint32_t begin, uint32_t end, ofr_canary_part *ret_part, ofr_error *err)
{
    ofr_backend_options options = layers->options;
    options.layer_begin = begin;
    options.layer_end = end;
    options.kv_layout = *layout;
    options.kv_arena = arena;
    options.max_batch_tokens = layout->chunk_max;
    options.device = options.kernels = NULL;
    *ret_part = (ofr_canary_part){.backend = ofr_cpu_backend()};
    return ret_part->backend->open(&options, &ret_part->session, err);
}

static int test_range(ofr_worker_layers *layers, const ofr_worker_range *range, float *hidden,
                      uint32_t hidden_rows, ofr_error *err)
{
    const ofr_golden *golden = ofr_package_golden(layers->package);
    const ofr_model_params *params = layers->model.params;
    uint32_t chunk_max = layers->options.max_batch_tokens;
    if (!golden || golden->n_prompt == 0 || golden->n_prompt > chunk_max)
        return 0;
    ofr_canary_part parts[3] = {{0}};
    uint32_t n = 0;
    ofr_kv_layout layout;
    void *arena = NULL;
    uint32_t rows = (uint32_t)(golden->n_prompt + golden->n_expected);
    int r = ofr_kv_layout_init(&layout, params, 1, rows, (uint32_t)golden->n_prompt, err);
    bool whole = range->begin == 0 && range->end == params->n_layers;
    if (r == 0 && !whole && posix_memalign(&arena, OFR_KV_STRIP_ALIGN, layout.total_bytes) != 0)
        r = ofr_fail(err, OFR_ENOMEM, "no memory for the self-test");
    if (r == 0 && arena)
        memset(arena, 0, layout.total_bytes);
    if (r == 0 && range->begin > 0)
        r = open_reference(layers, &layout, arena, 0, range->begin, &parts[n++], err);
    parts[n++] =
        (ofr_canary_part){layers->backend, range->session, layers->options.kv_layout.n_slots - 1};
    if (r == 0 && range->end < params->n_layers)
        r = open_reference(layers, &layout, arena, range->end, params->n_layers, &parts[n++], err);
    if (r == 0)
        r = ofr_canary_golden(parts, n, golden, params->vocab_size, chunk_max, hidden, hidden_rows,
                              err);
    for (uint32_t i = 0; i < n; i++)
        if (parts[i].session != range->session && parts[i].session)
            parts[i].backend->close(parts[i].session);
    free(arena);
    return r;
}

int ofr_worker_layers_test(ofr_worker_layers *layers, float *hidden, uint32_t hidden_rows,
                           ofr_error *err)
{
    int r = 0;
    for (uint32_t i = 0; i < layers->n_ranges && r == 0; i++) {
        ofr_worker_range *range = &layers->ranges[i];
        if (range->tested)
            continue;
        r = test_range(layers, range, hidden, hidden_rows, err);
        range->tested = r == 0;
        range->copied_in_tests = copied_by(layers, range);
    }
    return r;
}

void ofr_worker_layers_describe(const ofr_worker_layers *layers, ofr_backend_capabilities *ret)
{
    *ret = (ofr_backend_capabilities){0};
    if (layers->backend->describe && layers->n_ranges)
        layers->backend->describe(layers->ranges[0].session, ret);
    else
        layers->backend->probe(ret, NULL);
}

uint64_t ofr_worker_layers_copied(const ofr_worker_layers *layers)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < layers->n_ranges; i++)
        sum += copied_by(layers, &layers->ranges[i]) - layers->ranges[i].copied_in_tests;
    return sum;
}

uint64_t ofr_worker_layers_graph_kv(const ofr_worker_layers *layers)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; layers->backend->graph_kv_bytes && i < layers->n_ranges; i++)
        sum += layers->backend->graph_kv_bytes(layers->ranges[i].session);
    return sum;
}
