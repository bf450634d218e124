/* The decoder's layer as operations, folded (weights are inputs) and whole (weights are constants).
 */
#include "graph/decoder.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "graph/decoder_internal.h"

static const struct {
    const char *input, *name;
} matrices[OFR_GRAPH_MATRICES] = {
    [OFR_GRAPH_Q] = {"q", "self_attn.q_proj"},    [OFR_GRAPH_K] = {"k", "self_attn.k_proj"},
    [OFR_GRAPH_V] = {"v", "self_attn.v_proj"},    [OFR_GRAPH_O] = {"o", "self_attn.o_proj"},
    [OFR_GRAPH_GATE] = {"gate", "mlp.gate_proj"}, [OFR_GRAPH_UP] = {"up", "mlp.up_proj"},
    [OFR_GRAPH_DOWN] = {"down", "mlp.down_proj"},
};

const char *ofr_graph_matrix_input(enum ofr_graph_matrix matrix)
{
    return matrices[matrix].input;
}

const char *ofr_graph_matrix_name(enum ofr_graph_matrix matrix)
{
    return matrices[matrix].name;
}

static const ofr_tensor *find_in_package(const void *user, const char *name)
{
    return ofr_package_find(user, name);
}

ofr_graph_source ofr_graph_source_package(const ofr_package *package)
{
    return (ofr_graph_source){
        .params = ofr_package_params(package), .find = find_in_package, .user = package};
}

static int ir_type_of_dtype(enum ofr_dtype dtype, enum ofr_ir_type *ret_type)
{
    switch (dtype) {
    case OFR_DTYPE_F32:
        *ret_type = OFR_IR_F32;
        return 0;
    case OFR_DTYPE_F16:
        *ret_type = OFR_IR_F16;
        return 0;
    case OFR_DTYPE_I8:
        *ret_type = OFR_IR_I8;
        return 0;
    case OFR_DTYPE_I4:
        *ret_type = OFR_IR_I4;
        return 0;
    case OFR_DTYPE_I4M: /* for plans without an NPU; the graphs are symmetric */
        break;
    }
    return OFR_EUNSUPPORTED;
}

const char *ofr_graph_explain_absence(const ofr_package *package)
{
    static const char layers[] = "model.layers.";
    enum ofr_ir_type ignored;
    for (size_t i = 0; i < ofr_package_tensor_count(package); i++) {
        const ofr_tensor *tensor = ofr_package_tensor(package, i);
        if (strncmp(tensor->name, layers, sizeof layers - 1) == 0 &&
            ir_type_of_dtype(tensor->dtype, &ignored) < 0)
            return "the package has no static graphs: it keeps asymmetric weights of its source "
                   "(Q4_1); 'bake_model --gguf FILE.gguf --output DIR' without "
                   "--keep_quantization makes one that has them";
    }
    return "the package has no static graphs; baked again with this version it has them";
}

static const ofr_tensor *find(graph *g, const char *name, const char *suffix)
{
    char full[256];
    snprintf(full, sizeof full, "%s.%s", name, suffix);
    return g->source->find(g->source->user, full);
}

static const ofr_tensor *need(graph *g, const char *name, const char *suffix)
{
    const ofr_tensor *tensor = find(g, name, suffix);
    if (!tensor && g->result == 0)
        g->result = ofr_fail(g->err, OFR_EFORMAT, "no graph: the package has no tensor '%s.%s'",
                             name, suffix);
    return tensor;
}

/* A tensor as an input of the graph or as a constant. */
static ofr_ir_value leaf(graph *g, const char *input, const char *suffix, enum ofr_ir_type type,
                         ofr_ir_shape shape, uint64_t offset, uint64_t bytes)
{
    char name[280];
    snprintf(name, sizeof name, "%s%s%s", input, suffix[0] ? "." : "", suffix);
    return g->folded ? ofr_ir_parameter(g->ir, name, type, shape)
                     : ofr_ir_tensor(g->ir, name, type, shape, offset, bytes);
}

static ofr_ir_value vector(graph *g, const char *input, const char *suffix,
                           const ofr_tensor *tensor, int64_t n)
{
    return leaf(g, input, suffix, OFR_IR_F32, OFR_IR_SHAPE(n), tensor->offset, tensor->bytes);
}

/* x W^T for a matrix [N, K], dequantized in the graph. */
static ofr_ir_value multiply(graph *g, ofr_ir_value x, const char *input, const ofr_tensor *t)
{
    int64_t n = (int64_t)t->shape[0], k = (int64_t)t->shape[1];
    enum ofr_ir_type type;
    if (ir_type_of_dtype(t->dtype, &type) < 0) {
        if (g->result == 0)
            g->result = ofr_fail(g->err, OFR_EUNSUPPORTED,
                                 "no graph: tensor '%s' is %s, static graphs know f32, f16, i8, i4",
                                 t->name, ofr_dtype_name(t->dtype));
        return x;
    }
    int64_t group = t->group_size;
    if (group == 0) {
        ofr_ir_value w = leaf(g, input, "weight", type, OFR_IR_SHAPE(n, k), t->offset, t->bytes);
        return ofr_ir_matmul(g->ir, x, ofr_ir_convert(g->ir, w, OFR_IR_F32), 1);
    }
    if (group == k && g->folded) {
        /* One scale for each row: after the product, [.., N] times [N]. */
        ofr_ir_value w = leaf(g, input, "weight", type, OFR_IR_SHAPE(n, k), t->offset, t->bytes);
        ofr_ir_value scale = leaf(g, input, "scale", OFR_IR_F16, OFR_IR_SHAPE(n), 0, 0);
        ofr_ir_value y = ofr_ir_matmul(g->ir, x, ofr_ir_convert(g->ir, w, OFR_IR_F32), 1);
        return ofr_ir_binary(g->ir, "Multiply", y, ofr_ir_convert(g->ir, scale, OFR_IR_F32));
    }
    bool grouped = group != k;
    ofr_ir_shape shape = grouped ? OFR_IR_SHAPE(n, k / group, group) : OFR_IR_SHAPE(n, k);
    ofr_ir_shape scales = grouped ? OFR_IR_SHAPE(n, k / group, 1) : OFR_IR_SHAPE(n, 1);
    ofr_ir_value w = leaf(g, input, "weight", type, shape, t->offset, t->bytes);
    ofr_ir_value scale =
        leaf(g, input, "scale", OFR_IR_F16, scales, t->scale_offset, t->scale_bytes);
    ofr_ir_value full =
        ofr_ir_binary(g->ir, "Multiply", ofr_ir_convert(g->ir, w, OFR_IR_F16), scale);
    if (grouped)
        full = ofr_ir_reshape(g->ir, full, OFR_IR_SHAPE(n, k));
    return ofr_ir_matmul(g->ir, x, ofr_ir_convert(g->ir, full, OFR_IR_F32), 1);
}

ofr_ir_value ofr_graph_linear(graph *g, ofr_ir_value x, const char *input, const char *name)
{
    const ofr_tensor *weight = need(g, name, "weight");
    const ofr_tensor *bias = find(g, name, "bias");
    if (!weight)
        return x;
    ofr_ir_value y = multiply(g, x, input, weight);
    if (bias)
        y = ofr_ir_binary(g->ir, "Add", y,
                          vector(g, input, "bias", bias, (int64_t)weight->shape[0]));
    return y;
}

/* x / rms(x) * weight over the last axis. Written as a division by the root: the pattern that
 * plug-ins fuse. */
ofr_ir_value ofr_graph_norm(graph *g, ofr_ir_value x, const char *input, const char *name)
{
    const ofr_tensor *weight = need(g, name, "weight");
    if (!weight)
        return x;
    ofr_ir *ir = g->ir;
    ofr_ir_value mean = ofr_ir_reduce_mean(ir, ofr_ir_binary(ir, "Power", x, ofr_ir_f32(ir, 2)));
    ofr_ir_value root = ofr_ir_unary(
        ir, "Sqrt", ofr_ir_binary(ir, "Add", mean, ofr_ir_f32(ir, g->source->params->rms_epsilon)));
    return ofr_ir_binary(ir, "Multiply", ofr_ir_binary(ir, "Divide", x, root),
                         vector(g, input, "", weight, (int64_t)weight->shape[0]));
}

static ofr_ir_value scaled(graph *g, ofr_ir_value x, float scale)
{
    return scale == 0 || scale == 1 ? x
                                    : ofr_ir_binary(g->ir, "Multiply", x, ofr_ir_f32(g->ir, scale));
}

/* c tanh(x / c) */
ofr_ir_value ofr_graph_cap(graph *g, ofr_ir_value x, float cap)
{
    if (cap == 0)
        return x;
    return scaled(g, ofr_ir_unary(g->ir, "Tanh", scaled(g, x, 1 / cap)), cap);
}

bool ofr_graph_layer_windowed(const ofr_model_params *p, uint32_t layer)
{
    return (p->layer_flags[layer] & OFR_LAYER_WINDOWED) && p->sliding_window < p->context_length;
}

const ofr_rope_params *ofr_graph_layer_rope(const ofr_model_params *p, uint32_t layer)
{
    if (p->layer_flags[layer] & OFR_LAYER_UNROTATED)
        return NULL;
    bool local = (p->layer_flags[layer] & OFR_LAYER_WINDOWED) && p->rope_local.dims > 0;
    return local ? &p->rope_local : &p->rope;
}

/* Rotates pairs (i, i + dims/2) of each head; x [1, T, heads, head_dim]. Written as x * cos +
 * concat(-x2, x1) * sin: the pattern that plug-ins fuse. */
ofr_ir_value ofr_graph_rotate(graph *g, ofr_ir_value x, const ofr_rope_params *rope,
                              const graph_positions *at)
{
    ofr_ir *ir = g->ir;
    int64_t dims = rope->dims, rest = (int64_t)g->source->params->head_dim - dims;
    ofr_ir_value parts[2] = {x}, halves[2];
    if (rest)
        ofr_ir_split(ir, x, 3, (const int64_t[]){dims, rest}, 2, parts);
    ofr_ir_split(ir, parts[0], 3, (const int64_t[]){dims / 2, dims / 2}, 2, halves);
    halves[1] = ofr_ir_binary(ir, "Multiply", halves[1], ofr_ir_f32(ir, -1));
    ofr_ir_value turned = ofr_ir_concat(ir, (const ofr_ir_value[]){halves[1], halves[0]}, 2, 3);
    parts[0] = ofr_ir_binary(ir, "Add", ofr_ir_binary(ir, "Multiply", parts[0], at->cosines),
                             ofr_ir_binary(ir, "Multiply", turned, at->sines));
    return rest ? ofr_ir_concat(ir, parts, 2, 3) : parts[0];
}

static const uint32_t HEADS_FIRST[4] = {0, 2, 1, 3};

/* Queries are taken in blocks, so that a block is not multiplied with the keys that follow it. */
enum { ATTENTION_BLOCK = 128, ATTENTION_BLOCKS_MAX = OFR_IR_MAX_OUTPUTS };

static int64_t attention_block(int64_t tokens)
{
    int64_t blocks = ATTENTION_BLOCKS_MAX;
    while (blocks > 1 && (tokens % blocks != 0 || tokens / blocks < ATTENTION_BLOCK))
        blocks--;
    return tokens / blocks;
}

/* x cut along `axis` into pieces of `length`; x itself where that is all of it. */
static void cut(graph *g, ofr_ir_value x, uint32_t axis, int64_t length, int64_t total,
                ofr_ir_value ret_parts[ATTENTION_BLOCKS_MAX])
{
    int64_t lengths[ATTENTION_BLOCKS_MAX];
    for (int64_t i = 0; i < total / length; i++)
        lengths[i] = length;
    ret_parts[0] = x;
    if (length < total)
        ofr_ir_split(g->ir, x, axis, lengths, (uint32_t)(total / length), ret_parts);
}

/* The first `length` of `total` along `axis`. */
static ofr_ir_value prefix(graph *g, ofr_ir_value x, uint32_t axis, int64_t length, int64_t total)
{
    ofr_ir_value parts[2] = {x};
    if (length < total)
        ofr_ir_split(g->ir, x, axis, (const int64_t[]){length, total - length}, 2, parts);
    return parts[0];
}

/* Scores of all heads and `n` queries against `rows` keys: [1, n_heads, n, rows]. */
static ofr_ir_value scores(graph *g, ofr_ir_value q, ofr_ir_value keys, int64_t n, int64_t rows)
{
    const ofr_model_params *p = g->source->params;
    ofr_ir_value product = ofr_graph_cap(g, ofr_ir_matmul(g->ir, q, keys, 1), p->attention_softcap);
    return ofr_ir_reshape(g->ir, product, OFR_IR_SHAPE(1, p->n_heads, n, rows));
}

/* The heads of one KV head are rows of one matrix, so that K and V are not repeated. */
static ofr_ir_value weighted(graph *g, ofr_ir_value weights, ofr_ir_value values, int64_t n,
                             int64_t rows)
{
    const ofr_model_params *p = g->source->params;
    int64_t queries = (int64_t)(p->n_heads / p->n_kv_heads) * n;
    weights = ofr_ir_reshape(g->ir, weights, OFR_IR_SHAPE(1, p->n_kv_heads, queries, rows));
    return ofr_ir_matmul(g->ir, weights, values, 0);
}

/* What a block of queries is attended with: [1, n_kv_heads, rows, head_dim] f32 each. */
typedef struct attended {
    ofr_ir_value keys, values, past_keys, past_values;
    ofr_ir_value mask, mask_past; /* rows of the block */
} attended;

/* Rows that no token has filled may hold anything: NaN times 0 would be NaN, so they are selected
 * away before they are used. */
static ofr_ir_value past_values(graph *g, ofr_ir_value value, const graph_positions *at)
{
    ofr_ir *ir = g->ir;
    ofr_ir_value filled = ofr_ir_compare(ir, "Greater", at->past_rows, ofr_ir_f32(ir, 0.5F));
    value = ofr_ir_select(ir, filled, ofr_ir_convert(ir, value, OFR_IR_F32), ofr_ir_f32(ir, 0));
    return ofr_ir_transpose(ir, value, HEADS_FIRST);
}

/* `n` queries [1, n, n_heads, head_dim], of which the last sees `rows` of the chunk's tokens. */
static ofr_ir_value attend_block(graph *g, ofr_ir_value q, const attended *with, int64_t n,
                                 int64_t rows)
{
    ofr_ir *ir = g->ir;
    const ofr_model_params *p = g->source->params;
    int64_t s = g->past, queries = (int64_t)(p->n_heads / p->n_kv_heads) * n;
    q = ofr_ir_transpose(ir, q, HEADS_FIRST);
    q = ofr_ir_reshape(ir, q, OFR_IR_SHAPE(1, p->n_kv_heads, queries, p->head_dim));
    ofr_ir_value out, now = scores(g, q, with->keys, n, rows);
    now = ofr_ir_binary(ir, "Add", now, with->mask);
    if (s == 0) {
        out = weighted(g, ofr_ir_softmax(ir, now), with->values, n, rows);
    } else {
        ofr_ir_value seen = ofr_ir_compare(ir, "Greater", with->mask_past, ofr_ir_f32(ir, -1));
        ofr_ir_value before = scores(g, q, with->past_keys, n, s);
        ofr_ir_value both[2] = {ofr_ir_select(ir, seen, before, ofr_ir_f32(ir, OFR_GRAPH_MASKED)),
                                now};
        int64_t lengths[2] = {s, rows};
        ofr_ir_split(ir, ofr_ir_softmax(ir, ofr_ir_concat(ir, both, 2, 3)), 3, lengths, 2, both);
        out = ofr_ir_binary(ir, "Add", weighted(g, both[0], with->past_values, n, s),
                            weighted(g, both[1], with->values, n, rows));
    }
    out = ofr_ir_reshape(ir, out, OFR_IR_SHAPE(1, p->n_heads, n, p->head_dim));
    return ofr_ir_transpose(ir, out, HEADS_FIRST);
}

/* `n` queries: those of all tokens, or one, which may see any of them. */
static ofr_ir_value attention(graph *g, ofr_ir_value q, int64_t n, ofr_ir_value k, ofr_ir_value v,
                              const graph_past *past, const graph_positions *at)
{
    ofr_ir *ir = g->ir;
    const ofr_model_params *p = g->source->params;
    int64_t t = g->tokens, s = g->past, block = attention_block(n);
    ofr_ir_value queries[ATTENTION_BLOCKS_MAX], masks[ATTENTION_BLOCKS_MAX],
        masks_past[ATTENTION_BLOCKS_MAX], out[ATTENTION_BLOCKS_MAX];
    attended with = {0};
    cut(g, q, 1, block, n, queries);
    cut(g, at->mask, 2, block, n, masks);
    if (s) {
        cut(g, at->mask_past, 2, block, n, masks_past);
        with.past_keys =
            ofr_ir_transpose(ir, ofr_ir_convert(ir, past->key, OFR_IR_F32), HEADS_FIRST);
        with.past_values = past_values(g, past->value, at);
    }
    /* Cut before they are transposed: the first rows of all heads are a view, of each head a copy.
     */
    for (int64_t i = 0; i < n / block; i++) {
        int64_t rows = t - n + (i + 1) * block;
        with.keys = ofr_ir_transpose(ir, prefix(g, k, 1, rows, t), HEADS_FIRST);
        with.values = ofr_ir_transpose(ir, prefix(g, v, 1, rows, t), HEADS_FIRST);
        with.mask = prefix(g, masks[i], 3, rows, t);
        if (s)
            with.mask_past = masks_past[i];
        out[i] = attend_block(g, queries[i], &with, block, rows);
    }
    ofr_ir_value all = block < n ? ofr_ir_concat(ir, out, (uint32_t)(n / block), 1) : out[0];
    return ofr_ir_reshape(ir, all, OFR_IR_SHAPE(1, n, (int64_t)p->n_heads * p->head_dim));
}

/* "q" or "layers.3.q": names of the inputs or constants of a layer. */
typedef struct layer_names {
    char input[64], name[96];
} layer_names;

static layer_names names_of(const graph *g, uint32_t layer, const char *input, const char *name)
{
    layer_names names;
    if (g->folded)
        snprintf(names.input, sizeof names.input, "%s", input);
    else
        snprintf(names.input, sizeof names.input, "layers.%u.%s", layer, input);
    snprintf(names.name, sizeof names.name, "model.layers.%u.%s", layer, name);
    return names;
}

ofr_ir_value ofr_graph_layer_linear(graph *g, uint32_t layer, enum ofr_graph_matrix matrix,
                                    ofr_ir_value x)
{
    layer_names names = names_of(g, layer, matrices[matrix].input, matrices[matrix].name);
    return ofr_graph_linear(g, x, names.input, names.name);
}

ofr_ir_value ofr_graph_layer_norm(graph *g, uint32_t layer, const char *input, const char *name,
                                  ofr_ir_value x)
{
    layer_names names = names_of(g, layer, input, name);
    return ofr_graph_norm(g, x, names.input, names.name);
}

/* As ofr_graph_layer_norm where the model has one, else x. */
static ofr_ir_value layer_norm_if_any(graph *g, uint32_t layer, const char *input, const char *name,
                                      ofr_ir_value x)
{
    layer_names names = names_of(g, layer, input, name);
    return find(g, names.name, "weight") ? ofr_graph_norm(g, x, names.input, names.name) : x;
}

/* What attention or MLP adds to the residual. */
static ofr_ir_value add_branch(graph *g, uint32_t layer, ofr_ir_value hidden, ofr_ir_value branch,
                               const char *norm)
{
    branch = layer_norm_if_any(g, layer, norm, norm, branch);
    branch = scaled(g, branch, g->source->params->residual_scale);
    return ofr_ir_binary(g->ir, "Add", hidden, branch);
}

static ofr_ir_value mlp(graph *g, uint32_t layer, ofr_ir_value hidden)
{
    ofr_ir *ir = g->ir;
    ofr_ir_value x = ofr_graph_layer_norm(g, layer, "mlp_norm", "post_attention_layernorm", hidden);
    ofr_ir_value gate = ofr_graph_layer_linear(g, layer, OFR_GRAPH_GATE, x);
    ofr_ir_value up = ofr_graph_layer_linear(g, layer, OFR_GRAPH_UP, x);
    gate = g->source->params->activation == OFR_ACTIVATION_SILU ? ofr_ir_swish(ir, gate)
                                                                : ofr_ir_gelu_tanh(ir, gate);
    ofr_ir_value gated = ofr_ir_binary(ir, "Multiply", gate, up);
    return add_branch(g, layer, hidden, ofr_graph_layer_linear(g, layer, OFR_GRAPH_DOWN, gated),
                      "mlp_output_norm");
}

ofr_ir_value ofr_graph_pattern(graph *g, ofr_ir_shape shape)
{
    for (uint32_t i = 0; i < shape.rank; i++)
        if (shape.dims[i] == OFR_IR_DYNAMIC)
            shape.dims[i] = 0;
    return ofr_ir_i64s(g->ir, shape.dims, shape.rank);
}

/* Q, K or V of normed tokens as heads, normed, multiplied by `scale` and rotated as the layer does
 * it. The scale comes right behind the product or the norm, into which plug-ins fuse it. */
static ofr_ir_value project(graph *g, uint32_t layer, enum ofr_graph_matrix matrix, ofr_ir_value x,
                            ofr_ir_shape heads, float scale, const graph_positions *at)
{
    static const char *const norms[2][2] = {{"q_norm", "self_attn.q_norm"},
                                            {"k_norm", "self_attn.k_norm"}};
    const ofr_rope_params *rope = ofr_graph_layer_rope(g->source->params, layer);
    const char *const *norm = matrix == OFR_GRAPH_V ? NULL : norms[matrix - OFR_GRAPH_Q];
    bool normed = norm && find(g, names_of(g, layer, norm[0], norm[1]).name, "weight");
    x = ofr_graph_layer_linear(g, layer, matrix, x);
    if (!normed)
        x = scaled(g, x, scale);
    x = ofr_ir_reshape_by(g->ir, x, ofr_graph_pattern(g, heads), heads);
    if (normed)
        x = scaled(g, ofr_graph_layer_norm(g, layer, norm[0], norm[1], x), scale);
    return rope && matrix != OFR_GRAPH_V ? ofr_graph_rotate(g, x, rope, at) : x;
}

void ofr_graph_qkv(graph *g, uint32_t layer, ofr_ir_value hidden, const ofr_ir_shape heads[3],
                   const graph_positions *at, ofr_ir_value ret_qkv[3])
{
    ofr_ir_value x = ofr_graph_layer_norm(g, layer, "attention_norm", "input_layernorm", hidden);
    for (int i = 0; i < 3; i++)
        ret_qkv[i] = project(g, layer, OFR_GRAPH_Q + i, x, heads[i], 1, at);
}

ofr_ir_value ofr_graph_after_attention(graph *g, uint32_t layer, ofr_ir_value hidden,
                                       ofr_ir_value mixed)
{
    ofr_ir_value branch = ofr_graph_layer_linear(g, layer, OFR_GRAPH_O, mixed);
    hidden = add_branch(g, layer, hidden, branch, "attention_output_norm");
    return mlp(g, layer, hidden);
}

/* The positions of the token in row `row` as those of queries. */
static graph_positions positions_of_row(graph *g, const graph_positions *at, bool rotated,
                                        ofr_ir_value row)
{
    graph_positions own = *at;
    if (rotated) {
        own.cosines = ofr_ir_gather(g->ir, at->cosines, row, 1);
        own.sines = ofr_ir_gather(g->ir, at->sines, row, 1);
    }
    own.mask = ofr_ir_gather(g->ir, at->mask, row, 2);
    if (g->past)
        own.mask_past = ofr_ir_gather(g->ir, at->mask_past, row, 2);
    return own;
}

/* One layer; ret_key and ret_value are the new rows as the strips hold them, f16. With `only`, what
 * comes after K and V is computed for the token in that row alone, and returned for it. */
static ofr_ir_value run_layer(graph *g, uint32_t layer, ofr_ir_value hidden,
                              const ofr_ir_value *only, const graph_past *past,
                              const graph_positions *at, ofr_ir_value *ret_key,
                              ofr_ir_value *ret_value)
{
    const ofr_model_params *p = g->source->params;
    ofr_ir *ir = g->ir;
    int64_t n = only ? 1 : g->tokens;
    ofr_ir_shape q_heads = OFR_IR_SHAPE(1, n, p->n_heads, p->head_dim);
    ofr_ir_shape kv_heads = OFR_IR_SHAPE(1, g->tokens, p->n_kv_heads, p->head_dim);
    graph_positions queries = *at;
    ofr_ir_value x = ofr_graph_layer_norm(g, layer, "attention_norm", "input_layernorm", hidden);
    ofr_ir_value asking = x;
    if (only) {
        queries = positions_of_row(g, at, ofr_graph_layer_rope(p, layer) != NULL, *only);
        asking = ofr_ir_gather(ir, x, *only, 1);
        hidden = ofr_ir_gather(ir, hidden, *only, 1);
    }
    ofr_ir_value q = project(g, layer, OFR_GRAPH_Q, asking, q_heads,
                             ofr_model_params_attention_scale(p), &queries);
    ofr_ir_value k = project(g, layer, OFR_GRAPH_K, x, kv_heads, 1, at);
    ofr_ir_value v = project(g, layer, OFR_GRAPH_V, x, kv_heads, 1, at);
    *ret_key = ofr_ir_convert(ir, k, OFR_IR_F16);
    *ret_value = ofr_ir_convert(ir, v, OFR_IR_F16);
    ofr_ir_value mixed = attention(g, q, n, k, v, past, &queries);
    return ofr_graph_after_attention(g, layer, hidden, mixed);
}

/* The rows of cos and sin, "cos" and "sin" or, where `local`, "cos_local" and "sin_local". */
static void rope_inputs(graph *g, const ofr_rope_params *rope, bool local, graph_positions *at)
{
    ofr_ir_shape shape = OFR_IR_SHAPE(1, g->tokens, 1, rope->dims);
    at->cosines = ofr_ir_parameter(g->ir, local ? "cos_local" : "cos", OFR_IR_F32, shape);
    at->sines = ofr_ir_parameter(g->ir, local ? "sin_local" : "sin", OFR_IR_F32, shape);
}

static void mask_inputs(graph *g, bool window, graph_positions *at)
{
    ofr_ir *ir = g->ir;
    int64_t t = g->tokens, s = g->past;
    at->mask =
        ofr_ir_parameter(ir, window ? "mask_window" : "mask", OFR_IR_F32, OFR_IR_SHAPE(1, 1, t, t));
    if (s)
        at->mask_past = ofr_ir_parameter(ir, window ? "mask_past_window" : "mask_past", OFR_IR_F32,
                                         OFR_IR_SHAPE(1, 1, t, s));
}

static void row_inputs(graph *g, graph_positions *at)
{
    if (g->past)
        at->past_rows =
            ofr_ir_parameter(g->ir, "past_rows", OFR_IR_F32, OFR_IR_SHAPE(1, g->past, 1, 1));
}

static graph_past past_inputs(graph *g, const char *suffix)
{
    const ofr_model_params *p = g->source->params;
    ofr_ir_shape shape = OFR_IR_SHAPE(1, g->past, p->n_kv_heads, p->head_dim);
    char name[64];
    graph_past past = {0};
    if (g->past == 0)
        return past;
    snprintf(name, sizeof name, "past_key%s", suffix);
    past.key = ofr_ir_parameter(g->ir, name, OFR_IR_F16, shape);
    snprintf(name, sizeof name, "past_value%s", suffix);
    past.value = ofr_ir_parameter(g->ir, name, OFR_IR_F16, shape);
    return past;
}

static void past_outputs(graph *g, const char *suffix, ofr_ir_value key, ofr_ir_value value)
{
    char name[64];
    snprintf(name, sizeof name, "key%s", suffix);
    ofr_ir_result(g->ir, name, key);
    snprintf(name, sizeof name, "value%s", suffix);
    ofr_ir_result(g->ir, name, value);
}

/* ---- kinds of layers ---- */

static void describe_layer(const ofr_graph_source *source, uint32_t layer, char *text, size_t size)
{
    static const char *const norms[] = {"self_attn.q_norm", "attention_output_norm",
                                        "mlp_output_norm"};
    const ofr_rope_params *rope = ofr_graph_layer_rope(source->params, layer);
    size_t used = (size_t)snprintf(text, size, "rope %u ", rope ? rope->dims : 0);
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, norms[i]);
        used += (size_t)snprintf(text + used, size - used, "%d",
                                 source->find(source->user, name) != NULL);
    }
    for (int i = 0; i < OFR_GRAPH_MATRICES && used < size; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, matrices[i].name);
        const ofr_tensor *t = source->find(source->user, name);
        snprintf(name, sizeof name, "model.layers.%u.%s.bias", layer, matrices[i].name);
        bool bias = source->find(source->user, name) != NULL;
        used += (size_t)snprintf(text + used, size - used, "%s/%u%s ",
                                 t ? ofr_dtype_name(t->dtype) : "none", t ? t->group_size : 0,
                                 bias ? "+bias" : "");
    }
}

int ofr_graph_layer_kinds(const ofr_graph_source *source, uint32_t *ret_kinds,
                          uint32_t *ret_n_kinds, ofr_error *err)
{
    enum { KINDS_MAX = 16 };
    char known[KINDS_MAX][256];
    uint32_t n = 0;
    for (uint32_t layer = 0; layer < source->params->n_layers; layer++) {
        char text[256];
        describe_layer(source, layer, text, sizeof text);
        uint32_t kind = 0;
        while (kind < n && strcmp(known[kind], text) != 0)
            kind++;
        if (kind == KINDS_MAX)
            return ofr_fail(err, OFR_ELIMIT, "no graphs: more than %d kinds of layers", KINDS_MAX);
        if (kind == n)
            memcpy(known[n++], text, sizeof text);
        ret_kinds[layer] = kind;
    }
    *ret_n_kinds = n;
    return 0;
}

/* ---- graphs ---- */

int ofr_graph_begin(graph *g, const ofr_graph_source *source, const char *name, ofr_ir_pool *pool,
                    ofr_error *err)
{
    g->source = source;
    g->err = err;
    return ofr_ir_new(name, pool, &g->ir, err);
}

int ofr_graph_end(graph *g, char **ret_text, size_t *ret_size)
{
    int r = g->result < 0 ? g->result : ofr_ir_write(g->ir, ret_text, ret_size, g->err);
    ofr_ir_free(g->ir);
    return r;
}

int ofr_graph_block(const ofr_graph_source *source, uint32_t layer, uint32_t tokens, uint32_t past,
                    ofr_ir_pool *pool, char **ret_text, size_t *ret_size, ofr_error *err)
{
    graph g = {.tokens = tokens, .past = past, .folded = true};
    char name[64];
    snprintf(name, sizeof name, "block_%u_%u", tokens, past);
    int r = ofr_graph_begin(&g, source, name, pool, err);
    if (r < 0)
        return r;
    ofr_ir_value key, value;
    ofr_ir_value hidden = ofr_ir_parameter(g.ir, "hidden", OFR_IR_F32,
                                           OFR_IR_SHAPE(1, tokens, source->params->d_model));
    const ofr_rope_params *rope = ofr_graph_layer_rope(source->params, layer);
    graph_positions at = {0};
    if (rope)
        rope_inputs(&g, rope, false, &at);
    mask_inputs(&g, false, &at);
    row_inputs(&g, &at);
    graph_past rows = past_inputs(&g, "");
    hidden = run_layer(&g, layer, hidden, NULL, &rows, &at, &key, &value);
    ofr_ir_result(g.ir, "hidden_out", hidden);
    past_outputs(&g, "", key, value);
    return ofr_graph_end(&g, ret_text, ret_size);
}

/* Rows of the embedding, dequantized after they are taken: the table itself is never expanded. */
ofr_ir_value ofr_graph_embed(graph *g, ofr_ir_value ids)
{
    const ofr_tensor *t = need(g, "model.embed_tokens", "weight");
    enum ofr_ir_type type;
    if (!t || ir_type_of_dtype(t->dtype, &type) < 0)
        return ids;
    int64_t v = (int64_t)t->shape[0], d = (int64_t)t->shape[1], group = t->group_size;
    ofr_ir_shape shape = group ? OFR_IR_SHAPE(v, d / group, group) : OFR_IR_SHAPE(v, d);
    ofr_ir_value table = ofr_ir_tensor(g->ir, "embedding.weight", type, shape, t->offset, t->bytes);
    ofr_ir_value rows = ofr_ir_convert(g->ir, ofr_ir_gather(g->ir, table, ids, 0), OFR_IR_F32);
    if (group) {
        ofr_ir_value scales =
            ofr_ir_tensor(g->ir, "embedding.scale", OFR_IR_F16, OFR_IR_SHAPE(v, d / group, 1),
                          t->scale_offset, t->scale_bytes);
        rows =
            ofr_ir_binary(g->ir, "Multiply", rows,
                          ofr_ir_convert(g->ir, ofr_ir_gather(g->ir, scales, ids, 0), OFR_IR_F32));
    }
    return scaled(g, rows, g->source->params->embedding_scale);
}

ofr_ir_value ofr_graph_head(graph *g, ofr_ir_value hidden)
{
    const ofr_model_params *p = g->source->params;
    ofr_ir_value x = ofr_graph_norm(g, hidden, "final_norm", "model.norm");
    x = ofr_graph_linear(g, x, "head", p->tied_embedding ? "model.embed_tokens" : "lm_head");
    return ofr_graph_cap(g, scaled(g, x, p->logit_scale), p->logit_softcap);
}

graph_needs ofr_graph_needs(const ofr_model_params *p)
{
    graph_needs needs = {0};
    for (uint32_t i = 0; i < p->n_layers; i++) {
        const ofr_rope_params *rope = ofr_graph_layer_rope(p, i);
        needs.rotated |= rope == &p->rope;
        needs.local |= rope == &p->rope_local;
        needs.window |= ofr_graph_layer_windowed(p, i);
    }
    return needs;
}

/* What the layers of a whole graph share: [0] for most layers, [1] for windowed ones. */
static void whole_positions(graph *g, graph_positions at[2])
{
    const ofr_model_params *p = g->source->params;
    graph_needs needs = ofr_graph_needs(p);
    if (needs.rotated)
        rope_inputs(g, &p->rope, false, &at[0]);
    mask_inputs(g, false, &at[0]);
    row_inputs(g, &at[0]);
    at[1] = at[0];
    if (needs.local)
        rope_inputs(g, &p->rope_local, true, &at[1]);
    if (needs.window)
        mask_inputs(g, true, &at[1]);
}

const graph_positions *ofr_graph_layer_positions(const graph *g, const graph_positions at[2],
                                                 uint32_t layer)
{
    return &at[(g->source->params->layer_flags[layer] & OFR_LAYER_WINDOWED) != 0];
}

int ofr_graph_whole(const ofr_graph_source *source, const char *name, uint32_t tokens,
                    uint32_t past, ofr_ir_pool *pool, char **ret_text, size_t *ret_size,
                    ofr_error *err)
{
    graph g = {.tokens = tokens, .past = past};
    const ofr_model_params *p = source->params;
    int r = ofr_graph_begin(&g, source, name, pool, err);
    if (r < 0)
        return r;
    ofr_ir *ir = g.ir;
    ofr_ir_value ids = ofr_ir_parameter(ir, "input_ids", OFR_IR_I64, OFR_IR_SHAPE(1, tokens));
    ofr_ir_value beams = ofr_ir_parameter(ir, "beam_idx", OFR_IR_I32, OFR_IR_SHAPE(1));
    ofr_ir_value last = ofr_ir_parameter(ir, "last", OFR_IR_I64, OFR_IR_SHAPE(1));
    graph_positions at[2] = {0};
    whole_positions(&g, at);
    ofr_ir_value hidden = ofr_graph_embed(&g, ofr_ir_gather(ir, ids, beams, 0));
    hidden = ofr_ir_reshape(ir, hidden, OFR_IR_SHAPE(1, tokens, p->d_model));
    for (uint32_t i = 0; i < p->n_layers && g.result == 0; i++) {
        char suffix[16];
        ofr_ir_value key, value;
        snprintf(suffix, sizeof suffix, ".%u", i);
        graph_past rows = past_inputs(&g, suffix);
        hidden = run_layer(&g, i, hidden, i + 1 == p->n_layers ? &last : NULL, &rows,
                           ofr_graph_layer_positions(&g, at, i), &key, &value);
        past_outputs(&g, suffix, key, value);
    }
    ofr_ir_result(ir, "logits", ofr_graph_head(&g, hidden));
    return ofr_graph_end(&g, ret_text, ret_size);
}
