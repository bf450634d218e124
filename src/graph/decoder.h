/* Static graphs of a decoder-only transformer: RMSNorm, grouped-query attention, RoPE, a gated MLP,
 * and what the architectures that bake_model knows add to these: norms of heads and of outputs,
 * windowed and unrotated layers, multipliers, soft caps.
 *
 * Folded: one layer, for T tokens after a window of S past rows; weights, KV, RoPE rows and masks
 * are inputs, so one compiled graph serves all layers of the same kind at any position. Inputs, f32
 * unless noted (S = 0 has no past):
 *     hidden         [1, T, d_model]
 *     cos, sin       [1, T, 1, dims]: the table of engine/rope.h twice in a row, for
 *                    x * cos + concat(-x2, x1) * sin, x1 and x2 being the halves. Absent in layers
 *                    without RoPE
 *     mask           [1, 1, T, T] added to the scores of the T tokens among themselves
 *     mask_past      [1, 1, T, S] a past row that is not seen: OFR_GRAPH_MASKED, else 0
 *     past_rows      [1, S, 1, 1] 1 where the strips hold a token's row, else 0
 *     past_key, past_value  [1, S, n_kv_heads, head_dim] f16: rows of a KV strip, in place
 *     attention_norm, mlp_norm  [d_model]; where the model has them q_norm, k_norm [head_dim],
 *                    attention_output_norm, mlp_output_norm [d_model]
 *     X.weight       for X in q k v o gate up down; grouped [N, K/G, G], channel-wise [N, K]; i4 or
 *                    i8 (or f16, f32 [N, K])
 *     X.scale        grouped [N, K/G, 1], channel-wise [N]; f16
 *     X.bias         [N], where the model has one
 * Outputs: hidden_out [1, T, d_model] f32; key, value [1, T, n_kv_heads, head_dim] f16: the T rows
 * that follow in the strips. What past rows hold where no token is may be anything, NaN too: scores
 * and values are selected, not multiplied by 0. Rows of padding after the last token are computed
 * like others and mean nothing.
 *
 * Whole: all layers with embedding and head, weights as constants that point into weights.bin.
 * Inputs: input_ids [1, T] i64; beam_idx [1] i32 (0: the one sequence there is); last [1] i64, the
 * row whose logits are wanted, the only one for which the last layer does more than K and V; cos,
 * sin, mask, mask_past, past_rows; past_key.<i>, past_value.<i>; cos_local, sin_local where
 * windowed layers have a RoPE of their own; mask_window, mask_past_window where layers see less
 * than the context. Outputs: logits [1, 1, vocab] f32; key.<i>, value.<i>.
 *
 * Attention is computed in two parts, past and present, with one softmax over both: K and V are not
 * concatenated. RoPE scalings come in through cos and sin, sliding windows through the masks. */
#ifndef OFR_GRAPH_DECODER_H
#define OFR_GRAPH_DECODER_H

#include <stdbool.h>

#include "graph/ir.h"
#include "package/package.h"

/* Added to a score that must not count: its weight is 0 in f32 and f16 alike. */
#define OFR_GRAPH_MASKED (-30000.0F)

/* Where the tensors are: a package, or a package that is being written. */
typedef struct ofr_graph_source {
    const ofr_model_params *params;
    const ofr_tensor *(*find)(const void *user, const char *name); /* NULL: no such tensor */
    const void *user;
} ofr_graph_source;

/* The tensors of an open package. */
ofr_graph_source ofr_graph_source_package(const ofr_package *package);

/* Of a package without graphs: why it has none, and what makes one that has them. */
const char *ofr_graph_explain_absence(const ofr_package *package);

/* The matrices of a layer, in the order in which the layer uses them. */
enum ofr_graph_matrix {
    OFR_GRAPH_Q,
    OFR_GRAPH_K,
    OFR_GRAPH_V,
    OFR_GRAPH_O,
    OFR_GRAPH_GATE,
    OFR_GRAPH_UP,
    OFR_GRAPH_DOWN,
    OFR_GRAPH_MATRICES,
};
/* "q", ... as in the graph's inputs; "self_attn.q_proj", ... as in the package. */
const char *ofr_graph_matrix_input(enum ofr_graph_matrix matrix);
const char *ofr_graph_matrix_name(enum ofr_graph_matrix matrix);

/* Does the layer see fewer tokens than the context has? */
bool ofr_graph_layer_windowed(const ofr_model_params *params, uint32_t layer);
/* The RoPE of a layer; NULL: it has none. */
const ofr_rope_params *ofr_graph_layer_rope(const ofr_model_params *params, uint32_t layer);

/* Layers whose matrices have the same types, groups and biases, whose norms and RoPE are alike,
 * share folded graphs. Gives each layer the number of its kind, from 0 in order of appearance;
 * ret_kinds [n_layers]. */
int ofr_graph_layer_kinds(const ofr_graph_source *source, uint32_t *ret_kinds,
                          uint32_t *ret_n_kinds, ofr_error *err);

/* `layer` stands for its kind. *ret_text is malloc'ed. Small constants go to `pool`. */
int ofr_graph_block(const ofr_graph_source *source, uint32_t layer, uint32_t tokens, uint32_t past,
                    ofr_ir_pool *pool, char **ret_text, size_t *ret_size, ofr_error *err);
int ofr_graph_whole(const ofr_graph_source *source, const char *name, uint32_t tokens,
                    uint32_t past, ofr_ir_pool *pool, char **ret_text, size_t *ret_size,
                    ofr_error *err);

#endif
