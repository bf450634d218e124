/* Writes every graph of the ladder. The graphs are built twice: once to learn their small
 * constants, which become a tensor of weights.bin, then with that tensor's place known. */
#include "bake_model/bake_graphs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/decoder.h"
#include "graph/ladder.h"
#include "graph/stateful.h"

static const char CONSTANTS[] = "graph_constants";

typedef struct graph_bake {
    ofr_package_writer *writer; /* NULL: only the constants are wanted */
    ofr_graph_source source;
    ofr_ladder chunks, pasts;
    uint32_t *kinds; /* [n_layers] */
    uint32_t n_kinds;
    ofr_ir_pool pool;
    uint32_t n_written;
} graph_bake;

static const ofr_tensor *find_written(const void *user, const char *name)
{
    return ofr_package_writer_tensor(user, name);
}

/* Takes over `text`. */
static int keep(graph_bake *bake, const char *name, char *text, size_t size, ofr_error *err)
{
    int r = bake->writer ? ofr_package_writer_file(bake->writer, name, text, size, err) : 0;
    free(text);
    bake->n_written++;
    return r;
}

static int write_blocks(graph_bake *bake, uint32_t kind, ofr_error *err)
{
    uint32_t layer = 0;
    while (bake->kinds[layer] != kind)
        layer++;
    int r = 0;
    for (uint32_t i = 0; i < bake->chunks.n && r == 0; i++) {
        for (uint32_t k = 0; k < bake->pasts.n && r == 0; k++) {
            char name[64];
            char *text = NULL;
            size_t size = 0;
            uint32_t tokens = bake->chunks.steps[i], past = bake->pasts.steps[k];
            ofr_ladder_block_name(kind, tokens, past, name, sizeof name);
            r = ofr_graph_block(&bake->source, layer, tokens, past, &bake->pool, &text, &size, err);
            if (r == 0)
                r = keep(bake, name, text, size, err);
        }
    }
    return r;
}

static int write_whole(graph_bake *bake, const char *name, uint32_t tokens, uint32_t past,
                       ofr_error *err)
{
    char file[64];
    char *text = NULL;
    size_t size = 0;
    int r = ofr_graph_whole(&bake->source, name, tokens, past, &bake->pool, &text, &size, err);
    snprintf(file, sizeof file, "%s.xml", name);
    return r < 0 ? r : keep(bake, file, text, size, err);
}

static int write_all(graph_bake *bake, ofr_error *err)
{
    uint32_t context = bake->source.params->context_length;
    int r = 0;
    bake->n_written = 0;
    for (uint32_t kind = 0; kind < bake->n_kinds && r == 0; kind++)
        r = write_blocks(bake, kind, err);
    for (uint32_t i = 0; i < bake->chunks.n && r == 0; i++) {
        char name[32];
        snprintf(name, sizeof name, "prefill_%u", bake->chunks.steps[i]);
        if (bake->chunks.steps[i] > 1)
            r = write_whole(bake, name, bake->chunks.steps[i], 0, err);
    }
    if (r == 0)
        r = write_whole(bake, "decode", 1,
                        context < OFR_LADDER_DECODE_PAST ? context : OFR_LADDER_DECODE_PAST, err);
    char *text = NULL;
    size_t size = 0;
    if (r == 0)
        r = ofr_graph_stateful(&bake->source, &bake->pool, &text, &size, err);
    return r < 0 ? r : keep(bake, "openvino_model.xml", text, size, err);
}

static int write_constants(ofr_package_writer *writer, graph_bake *bake, ofr_error *err)
{
    if (ofr_package_writer_has(writer, CONSTANTS))
        return 0;
    ofr_tensor spec = {.name = CONSTANTS,
                       .dtype = OFR_DTYPE_F32,
                       .n_dims = 1,
                       .shape = {bake->pool.size / sizeof(float)}};
    int r = ofr_package_writer_begin(writer, &spec, err);
    if (r == 0)
        r = ofr_package_writer_data(writer, bake->pool.bytes, bake->pool.size, err);
    return r < 0 ? r : ofr_package_writer_end(writer, NULL, err);
}

static int bake_all(graph_bake *bake, ofr_package_writer *writer, ofr_error *err)
{
    int r = ofr_graph_layer_kinds(&bake->source, bake->kinds, &bake->n_kinds, err);
    if (r == 0)
        r = write_all(bake, err);
    if (r == 0)
        r = write_constants(writer, bake, err);
    if (r < 0)
        return r;
    size_t size = bake->pool.size;
    bake->pool.base = ofr_package_writer_tensor(writer, CONSTANTS)->offset;
    bake->writer = writer;
    r = write_all(bake, err);
    if (r == 0 && bake->pool.size != size)
        r = ofr_fail(err, OFR_EINTERNAL, "graphs differ from one writing to the next");
    return r < 0 ? r : ofr_package_writer_link(writer, "openvino_model.bin", err);
}

int ofr_bake_graphs(ofr_package_writer *writer, const ofr_model_params *params, const char *chunks,
                    ofr_bake_result *result, ofr_error *err)
{
    graph_bake bake = {.source = {.params = params, .find = find_written, .user = writer}};
    int r = ofr_ladder_parse_chunks(chunks ? chunks : OFR_LADDER_DEFAULT_CHUNKS,
                                    params->context_length, &bake.chunks, err);
    if (r < 0)
        return r;
    ofr_ladder_pasts(params->context_length, &bake.pasts);
    bake.kinds = calloc(params->n_layers, sizeof *bake.kinds);
    if (!bake.kinds)
        return ofr_fail(err, OFR_ENOMEM, "graphs: out of memory");
    ofr_error reason = {0};
    r = bake_all(&bake, writer, &reason);
    if (r == OFR_EUNSUPPORTED) {
        snprintf(result->graphs_left_out, sizeof result->graphs_left_out, "%.255s", reason.text);
        r = 0;
    } else if (r < 0) {
        ofr_fail(err, r, "%s", reason.text);
    } else {
        result->n_graphs = bake.n_written;
    }
    ofr_ir_pool_done(&bake.pool);
    free(bake.kinds);
    return r;
}
