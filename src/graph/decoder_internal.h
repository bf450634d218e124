/* Pieces of a decoder that the static and the stateful graphs share. Internal to src/graph. */
#ifndef OFR_GRAPH_DECODER_INTERNAL_H
#define OFR_GRAPH_DECODER_INTERNAL_H

#include <stdbool.h>

#include "graph/decoder.h"

typedef struct graph {
    const ofr_graph_source *source;
    ofr_ir *ir;
    bool folded; /* weights are inputs */
    int64_t tokens, past;
    ofr_ir_value cosines, sines, mask, mask_past, past_rows;
    int result; /* of the first failure */
    ofr_error *err;
} graph;

typedef struct graph_past {
    ofr_ir_value key, value;
} graph_past;

int ofr_graph_begin(graph *g, const ofr_graph_source *source, const char *name, ofr_ir_pool *pool,
                    ofr_error *err);
int ofr_graph_end(graph *g, char **ret_text, size_t *ret_size);
ofr_ir_value ofr_graph_linear(graph *g, ofr_ir_value x, const char *input, const char *name);
ofr_ir_value ofr_graph_norm(graph *g, ofr_ir_value x, const char *input, const char *name);
ofr_ir_value ofr_graph_rotate(graph *g, ofr_ir_value x);
ofr_ir_value ofr_graph_layer_linear(graph *g, uint32_t layer, enum ofr_graph_matrix matrix,
                                    ofr_ir_value x);
ofr_ir_value ofr_graph_layer_norm(graph *g, uint32_t layer, const char *input, const char *name,
                                  ofr_ir_value x);
ofr_ir_value ofr_graph_mlp(graph *g, uint32_t layer, ofr_ir_value hidden);
ofr_ir_value ofr_graph_embed(graph *g, ofr_ir_value ids);
ofr_ir_value ofr_graph_head(graph *g, ofr_ir_value hidden);

#endif
