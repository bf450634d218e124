/* Pieces of a decoder that the static and the stateful graphs share. Internal to src/graph. */
#ifndef OFR_GRAPH_DECODER_INTERNAL_H
#define OFR_GRAPH_DECODER_INTERNAL_H

#include <stdbool.h>

#include "graph/decoder.h"

/* What attention knows of positions: inputs of the static graphs, computed in the stateful one. */
typedef struct graph_positions {
    ofr_ir_value cosines, sines, mask, mask_past, past_rows;
} graph_positions;

/* Which of them any layer asks for. */
typedef struct graph_needs {
    bool rotated; /* the model's RoPE */
    bool local;   /* the RoPE of windowed layers */
    bool window;
} graph_needs;
graph_needs ofr_graph_needs(const ofr_model_params *params);

typedef struct graph {
    const ofr_graph_source *source;
    ofr_ir *ir;
    bool folded; /* weights are inputs */
    int64_t tokens, past;
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
ofr_ir_value ofr_graph_rotate(graph *g, ofr_ir_value x, const ofr_rope_params *rope,
                              const graph_positions *at);
ofr_ir_value ofr_graph_cap(graph *g, ofr_ir_value x, float cap); /* cap 0: x */
ofr_ir_value ofr_graph_layer_linear(graph *g, uint32_t layer, enum ofr_graph_matrix matrix,
                                    ofr_ir_value x);
ofr_ir_value ofr_graph_layer_norm(graph *g, uint32_t layer, const char *input, const char *name,
                                  ofr_ir_value x);
/* What Reshape takes for `shape`: a dynamic dimension is the input's own. */
ofr_ir_value ofr_graph_pattern(graph *g, ofr_ir_shape shape);
/* Q, K and V of a layer as heads, normed and rotated as the layer does it; heads [batch, T, heads,
 * head_dim] for each. */
void ofr_graph_qkv(graph *g, uint32_t layer, ofr_ir_value hidden, const ofr_ir_shape heads[3],
                   const graph_positions *at, ofr_ir_value ret_qkv[3]);
/* Output projection, MLP and the residual. */
ofr_ir_value ofr_graph_after_attention(graph *g, uint32_t layer, ofr_ir_value hidden,
                                       ofr_ir_value mixed);
/* at[1] for windowed layers, else at[0]. */
const graph_positions *ofr_graph_layer_positions(const graph *g, const graph_positions at[2],
                                                 uint32_t layer);
ofr_ir_value ofr_graph_embed(graph *g, ofr_ir_value ids);
ofr_ir_value ofr_graph_head(graph *g, ofr_ir_value hidden);

#endif
