/* Compiling a session's graphs when they are first needed, and the numbers of their ports. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/openvino/blob_cache.h"
#include "backend/openvino/compile_limit.h"
#include "backend/openvino/device_options.h"
#include "backend/openvino/session.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/sha256.h"

enum { KEY_TEXT_MAX = 2048, BLOB_MAX = 1 << 30 };

/* Everything that a compiled graph depends on. */
static int cache_key(ofr_backend_session *session, const ofr_ov_compile *what,
                     char ret_key[OFR_SHA256_HEX_SIZE], ofr_error *err)
{
    char text[KEY_TEXT_MAX], graph[OFR_SHA256_HEX_SIZE], full[128] = "", driver[64] = "";
    int r = ofr_sha256_hex(what->xml, what->xml_size, graph, err);
    if (r < 0)
        return r;
    ofr_ov_property(session->ov, session->device, "FULL_DEVICE_NAME", full, sizeof full, NULL);
    const char *const driver_keys[] = {"NPU_DRIVER_VERSION", "GPU_DRIVER_VERSION"};
    for (size_t i = 0; i < 2 && !driver[0]; i++)
        if (ofr_ov_supports(session->ov, session->device, driver_keys[i]))
            ofr_ov_property(session->ov, session->device, driver_keys[i], driver, sizeof driver,
                            NULL);
    int used = snprintf(text, sizeof text, "%s|%s|%s|%s|%s|%s", session->device, full, driver,
                        ofr_ov_version(session->ov), graph,
                        ofr_package_fingerprint(session->model->package));
    for (size_t i = 0; i < what->n_options && (size_t)used < sizeof text; i++)
        used += snprintf(text + used, sizeof text - (size_t)used, "|%s=%s", what->options[i].key,
                         what->options[i].value);
    return ofr_sha256_hex(text, strlen(text), ret_key, err);
}

static void store(const ofr_ov_graph *graph, const char *directory, const char *key)
{
    char *path = NULL;
    void *data = NULL;
    size_t size = 0;
    if (asprintf(&path, "%s/export_%d.tmp", directory, (int)getpid()) < 0)
        return;
    /* Without an entry the graph is compiled again next time: no failure. */
    if (ofr_ov_graph_export(graph, path, NULL) == 0 &&
        ofr_file_read(path, BLOB_MAX, &data, &size, NULL) == 0)
        ofr_blob_cache_put(directory, key, data, size, OFR_BLOB_CACHE_BUDGET, NULL);
    unlink(path);
    free(path);
    free(data);
}

static int compile_or_import(ofr_backend_session *session, const ofr_ov_compile *what, bool cached,
                             ofr_ov_graph **ret_graph, ofr_error *err)
{
    char key[OFR_SHA256_HEX_SIZE] = "";
    char *directory = cached ? ofr_blob_cache_directory() : NULL;
    void *blob = NULL;
    size_t size = 0;
    int r = OFR_ENOENT;
    if (directory && cache_key(session, what, key, NULL) == 0 &&
        ofr_blob_cache_get(directory, key, &blob, &size, NULL) == 0) {
        r = ofr_ov_graph_import(session->ov, what, blob, size, ret_graph, NULL);
        session->figures.graphs_from_cache += r == 0;
    }
    if (r < 0) {
        ofr_compile_limit limit;
        ofr_compile_limit_begin(&limit);
        r = ofr_ov_graph_compile(session->ov, what, ret_graph, err);
        ofr_compile_limit_end(&limit, &r, err);
        session->figures.graphs_compiled += r == 0;
        if (r == 0 && directory && key[0])
            store(*ret_graph, directory, key);
    }
    free(directory);
    return r;
}

/* Reads a graph of the package and makes it ready to run. */
static int make_ready(ofr_backend_session *session, const char *file, bool cached,
                      ofr_ov_graph **ret_graph, ofr_error *err)
{
    char *xml = NULL;
    size_t size = 0;
    ofr_ov_option options[OFR_OPENVINO_OPTIONS_MAX];
    uint64_t begin = ofr_clock_ns();
    int r = ofr_package_read_file(session->model->package, file, &xml, &size, err);
    if (r < 0)
        return r;
    if (session->options.preparing)
        atomic_store(session->options.preparing, 1);
    ofr_ov_compile what = {.device = session->device,
                           .name = file,
                           .xml = xml,
                           .xml_size = size,
                           .weights = session->weights,
                           .weights_size = session->weights_size,
                           .options = options,
                           .n_options = ofr_openvino_device_options(session->ov, session->device,
                                                                    session->precision,
                                                                    session->threads, options)};
    r = compile_or_import(session, &what, cached, ret_graph, err);
    free(xml);
    if (session->options.preparing)
        atomic_store(session->options.preparing, 0);
    malloc_trim(0); /* what a compiler has used stays with the allocator: 120 MiB of a 7B layer */
    session->figures.compile_ns += ofr_clock_ns() - begin;
    return r;
}

/* ---- folded ---- */

static int need_port(const ofr_ov_graph *graph, const char *name, int *ret_port, int *result,
                     ofr_error *err)
{
    *ret_port = ofr_ov_graph_port(graph, name);
    if (*ret_port < 0 && *result == 0)
        *result =
            ofr_fail(err, OFR_EFORMAT, "a graph of the package has no '%s'; bake it again", name);
    return *result;
}

/* cos, sin: not in graphs of layers without RoPE. */
static void number_positions(const ofr_ov_graph *graph, uint32_t past, int ret_ports[5],
                             int *result, ofr_error *err)
{
    ret_ports[0] = ofr_ov_graph_port(graph, "cos");
    ret_ports[1] = ofr_ov_graph_port(graph, "sin");
    need_port(graph, "mask", &ret_ports[2], result, err);
    ret_ports[3] = ret_ports[4] = OFR_ENOENT;
    if (past) {
        need_port(graph, "mask_past", &ret_ports[3], result, err);
        need_port(graph, "past_rows", &ret_ports[4], result, err);
    }
}

static int number_block(ov_block *block, uint32_t past, ofr_error *err)
{
    const ofr_ov_graph *g = block->graph;
    int r = 0;
    need_port(g, "hidden", &block->hidden, &r, err);
    need_port(g, "hidden_out", &block->hidden_out, &r, err);
    number_positions(g, past, block->positions, &r, err);
    need_port(g, "key", &block->key, &r, err);
    need_port(g, "value", &block->value, &r, err);
    static const char *const norms[OV_NORMS] = {[OV_NORM_ATTENTION] = "attention_norm",
                                                [OV_NORM_MLP] = "mlp_norm",
                                                [OV_NORM_Q] = "q_norm",
                                                [OV_NORM_K] = "k_norm",
                                                [OV_NORM_ATTENTION_OUT] = "attention_output_norm",
                                                [OV_NORM_MLP_OUT] = "mlp_output_norm"};
    for (int i = 0; i < OV_NORMS; i++)
        block->norms[i] = ofr_ov_graph_port(g, norms[i]);
    if (past) {
        need_port(g, "past_key", &block->past_key, &r, err);
        need_port(g, "past_value", &block->past_value, &r, err);
    }
    for (int i = 0; i < OFR_GRAPH_MATRICES; i++) {
        char name[32];
        const char *input = ofr_graph_matrix_input((enum ofr_graph_matrix)i);
        snprintf(name, sizeof name, "%s.weight", input);
        need_port(g, name, &block->weights[i], &r, err);
        snprintf(name, sizeof name, "%s.scale", input);
        block->scales[i] = ofr_ov_graph_port(g, name);
        snprintf(name, sizeof name, "%s.bias", input);
        block->biases[i] = ofr_ov_graph_port(g, name);
    }
    return r;
}

static uint32_t step_index(const ofr_ladder *ladder, uint32_t step)
{
    uint32_t i = 0;
    while (i + 1 < ladder->n && ladder->steps[i] != step)
        i++;
    return i;
}

void ofr_openvino_learn_cost(ofr_backend_session *session, uint32_t tokens, double seconds)
{
    double *least = &session->seconds[step_index(&session->chunks, tokens)], scale = 0;
    if (*least > 0 && *least <= seconds)
        return;
    *least = seconds;
    uint32_t n = 0;
    for (uint32_t i = 0; i < session->chunks.n; i++) {
        if (session->seconds[i] > 0) {
            scale += session->seconds[i] / session->guesses[i];
            n++;
        }
    }
    scale /= n;
    for (uint32_t i = 0; i < session->chunks.n; i++)
        session->costs[i] =
            session->seconds[i] > 0 ? session->seconds[i] : session->guesses[i] * scale;
}

/* The CPU plug-in keeps, for each compiled graph, what the graph works in: above all the f32 form
 * of the largest matrix, 224 MiB of a 7B layer, whatever the chunk. Devices that multiply
 * compressed weights do not. */
static uint64_t working_bytes(const ofr_backend_session *session, uint32_t tokens)
{
    const ofr_model_params *p = session->params;
    if (strcmp(session->device, "CPU") != 0)
        return 0;
    return sizeof(float) * p->d_ff * ((uint64_t)p->d_model + 3 * (uint64_t)tokens);
}

/* What all compiled graphs together may work in. */
static uint64_t working_bytes_max(const ofr_backend_session *session)
{
    enum { MIB_MAX = 1 << 24 };
    static const uint64_t ENOUGH = UINT64_C(256) << 20, SHARE = 10; /* of the weights */
    const char *chosen = getenv("OFFERING_GRAPHS_MIB");
    uint64_t mib = chosen ? strtoull(chosen, NULL, 10) : 0;
    if (mib > 0 && mib <= MIB_MAX)
        return mib << 20;
    uint64_t share = session->weights_size / SHARE;
    return share > ENOUGH ? share : ENOUGH;
}

/* Gives up compiled graphs, the longest unused first, until there is room for one more; those of
 * this chunk stay. They come back from the cache, or are compiled again. */
static void make_room(ofr_backend_session *session, uint64_t bytes)
{
    uint64_t most = working_bytes_max(session);
    size_t n = (size_t)session->n_kinds * session->chunks.n * session->pasts.n;
    while (session->blocks_bytes + bytes > most) {
        ov_block *oldest = NULL;
        for (size_t i = 0; i < n; i++) {
            ov_block *b = &session->blocks[i];
            if (b->graph && b->used_in < session->figures.chunks &&
                (!oldest || b->used_in < oldest->used_in))
                oldest = b;
        }
        if (!oldest)
            return;
        session->copied += ofr_ov_graph_copied(oldest->graph);
        session->blocks_bytes -= oldest->bytes;
        session->figures.graphs_given_up++;
        ofr_ov_graph_free(oldest->graph);
        *oldest = (ov_block){0};
        malloc_trim(0);
    }
}

int ofr_openvino_block(ofr_backend_session *session, uint32_t kind, uint32_t chunk, uint32_t past,
                       ov_block **ret_block, ofr_error *err)
{
    size_t at = ((size_t)kind * session->chunks.n + step_index(&session->chunks, chunk)) *
                    session->pasts.n +
                step_index(&session->pasts, past);
    ov_block *block = &session->blocks[at];
    if (!block->graph) {
        char file[64];
        ofr_ladder_block_name(kind, chunk, past, file, sizeof file);
        uint64_t bytes = working_bytes(session, chunk);
        make_room(session, bytes);
        int r = make_ready(session, file, true, &block->graph, err);
        if (r == 0)
            r = number_block(block, past, err);
        if (r < 0) {
            block->graph = ofr_ov_graph_free(block->graph);
            return r;
        }
        block->bytes = bytes;
        session->blocks_bytes += bytes;
    }
    block->used_in = session->figures.chunks;
    *ret_block = block;
    return 0;
}

/* ---- whole ---- */

static int number_whole(const ofr_backend_session *session, ov_whole *whole, ofr_error *err)
{
    const ofr_ov_graph *g = whole->graph;
    uint32_t n = session->params->n_layers;
    int r = 0;
    need_port(g, "input_ids", &whole->ids, &r, err);
    need_port(g, "beam_idx", &whole->beams, &r, err);
    need_port(g, "last", &whole->last, &r, err);
    need_port(g, "logits", &whole->logits, &r, err);
    number_positions(g, whole->past, whole->positions, &r, err);
    static const char *const window[4] = {"cos_local", "sin_local", "mask_window",
                                          "mask_past_window"};
    for (int i = 0; i < 4; i++)
        whole->window[i] = ofr_ov_graph_port(g, window[i]);
    int *numbers = r == 0 ? calloc((size_t)n * 4, sizeof *numbers) : NULL;
    if (r == 0 && !numbers)
        return ofr_fail(err, OFR_ENOMEM, "OpenVINO backend: out of memory");
    whole->past_keys = numbers;
    for (uint32_t i = 0; i < n && r == 0; i++) {
        char name[32];
        whole->past_values = numbers + n;
        whole->keys = numbers + 2 * (size_t)n;
        whole->values = numbers + 3 * (size_t)n;
        snprintf(name, sizeof name, "key.%u", i);
        need_port(g, name, &whole->keys[i], &r, err);
        snprintf(name, sizeof name, "value.%u", i);
        need_port(g, name, &whole->values[i], &r, err);
        snprintf(name, sizeof name, "past_key.%u", i);
        if (whole->past)
            need_port(g, name, &whole->past_keys[i], &r, err);
        snprintf(name, sizeof name, "past_value.%u", i);
        if (whole->past)
            need_port(g, name, &whole->past_values[i], &r, err);
    }
    return r;
}

static void free_whole(ov_whole *whole)
{
    whole->graph = ofr_ov_graph_free(whole->graph);
    free(whole->past_keys);
    whole->past_keys = NULL;
}

int ofr_openvino_whole(ofr_backend_session *session, uint32_t tokens, uint32_t position,
                       ov_whole **ret_whole, ofr_error *err)
{
    uint32_t context = session->params->context_length;
    uint32_t past = context < OFR_LADDER_DECODE_PAST ? context : OFR_LADDER_DECODE_PAST;
    uint32_t rows = session->options.kv_layout.context + session->options.kv_layout.chunk_max;
    if (!session->use_whole || (tokens > 1 && position > 0) ||
        (tokens == 1 && (position > past || past > rows)))
        return OFR_ENOENT;
    ov_whole *whole = &session->wholes[step_index(&session->chunks, tokens)];
    if (!whole->graph && !whole->failed) {
        char file[64] = "decode.xml";
        if (tokens > 1)
            snprintf(file, sizeof file, "prefill_%u.xml", tokens);
        whole->tokens = tokens;
        whole->past = tokens > 1 ? 0 : past;
        /* With its weights inside, a compiled whole graph for the CPU is too large to keep. */
        bool cached = strcmp(session->device, "CPU") != 0;
        int r = ofr_package_has_file(session->model->package, file)
                    ? make_ready(session, file, cached, &whole->graph, err)
                    : OFR_ENOENT;
        if (r == 0)
            r = number_whole(session, whole, err);
        if (r < 0) {
            free_whole(whole);
            whole->failed = r == OFR_ENOENT;
            return r;
        }
    }
    if (whole->failed)
        return OFR_ENOENT;
    *ret_whole = whole;
    return 0;
}

void ofr_openvino_graphs_done(ofr_backend_session *session)
{
    size_t n = (size_t)session->n_kinds * session->chunks.n * session->pasts.n;
    for (size_t i = 0; session->blocks && i < n; i++)
        ofr_ov_graph_free(session->blocks[i].graph);
    for (size_t i = 0; i < sizeof session->wholes / sizeof session->wholes[0]; i++)
        free_whole(&session->wholes[i]);
    free(session->blocks);
    session->blocks = NULL;
}
