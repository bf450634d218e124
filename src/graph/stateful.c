/* The stateful graph: batch and sequence dynamic, KV in variables, positions as inputs. */
#include "graph/stateful.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/rope.h"
#include "graph/decoder_internal.h"

static const uint32_t HEADS_FIRST[4] = {0, 2, 1, 3};
static const int64_t ANY = OFR_IR_DYNAMIC;

/* Values that all layers use. */
typedef struct stateful {
    graph g;
    ofr_ir_value ids, beams;
    ofr_ir_value batch; /* [1] i64 */
    ofr_ir_value total; /* tokens so far, i64 */
    graph_positions at[2];
} stateful;

/* One number of a shape, as a vector: [1] i64. */
static ofr_ir_value dimension(graph *g, ofr_ir_value x, int64_t axis)
{
    return ofr_ir_gather(g->ir, ofr_ir_shape_as_i64(g->ir, x), ofr_ir_i64s(g->ir, &axis, 1), 0);
}

/* ... and as a scalar, for Range. */
static ofr_ir_value length(graph *g, ofr_ir_value x, int64_t axis)
{
    return ofr_ir_gather(g->ir, ofr_ir_shape_as_i64(g->ir, x), ofr_ir_i64(g->ir, axis), 0);
}

static ofr_ir_value divide_by(graph *g, ofr_ir_value f, const char *name, int64_t half)
{
    const ofr_tensor *factors = g->source->find(g->source->user, name);
    if (!factors)
        return f;
    return ofr_ir_binary(g->ir, "Divide", f,
                         ofr_ir_tensor(g->ir, name, OFR_IR_F32, OFR_IR_SHAPE(half), factors->offset,
                                       factors->bytes));
}

/* f32 [1, 1, half]: the angle that one position adds. With long RoPE the other factors hold from
 * the token on that exceeds the original context, as in the models' own code. */
static ofr_ir_value frequencies(stateful *s, const ofr_rope *rope, bool own_factors)
{
    graph *g = &s->g;
    ofr_ir *ir = g->ir;
    const ofr_model_params *p = g->source->params;
    ofr_ir_value f = ofr_ir_f32s(ir, rope->inverse_frequency, OFR_IR_SHAPE(1, 1, rope->half));
    if (!own_factors)
        return f;
    ofr_ir_value usual = divide_by(g, f, "rope_freq_factors", rope->half);
    if (p->rope.scaling != OFR_ROPE_SCALING_LONGROPE ||
        p->context_length <= p->rope.original_context)
        return usual;
    ofr_ir_value beyond =
        ofr_ir_compare(ir, "Greater", s->total, ofr_ir_i64(ir, p->rope.original_context));
    return ofr_ir_select(ir, beyond, divide_by(g, f, "rope_freq_factors_long", rope->half), usual);
}

/* cos and sin of each position, [batch, T, 1, dims] as decoder.h describes them. */
static void make_rope(stateful *state, const ofr_rope_params *params, bool own_factors,
                      ofr_ir_value positions, graph_positions *at)
{
    graph *g = &state->g;
    ofr_ir *ir = g->ir;
    ofr_rope rope = {0};
    int r = ofr_rope_init(&rope, params, NULL, g->err);
    if (r < 0) {
        if (g->result == 0)
            g->result = r;
        return;
    }
    ofr_ir_value steps = ofr_ir_unsqueeze(ir, ofr_ir_convert(ir, positions, OFR_IR_F32), 2);
    ofr_ir_value angle =
        ofr_ir_binary(ir, "Multiply", steps, frequencies(state, &rope, own_factors));
    angle = ofr_ir_unsqueeze(ir, angle, 2);
    ofr_ir_value magnitude = ofr_ir_f32(ir, rope.magnitude);
    ofr_ir_value c = ofr_ir_binary(ir, "Multiply", ofr_ir_unary(ir, "Cos", angle), magnitude);
    ofr_ir_value s = ofr_ir_binary(ir, "Multiply", ofr_ir_unary(ir, "Sin", angle), magnitude);
    at->cosines = ofr_ir_concat(ir, (const ofr_ir_value[]){c, c}, 2, 3);
    at->sines = ofr_ir_concat(ir, (const ofr_ir_value[]){s, s}, 2, 3);
    ofr_rope_done(&rope);
}

/* [batch, 1, T, total]: 0 where a token sees another, else OFR_GRAPH_MASKED. Tokens are counted by
 * their places in the sequence, so padding on the left moves nothing. */
static ofr_ir_value make_mask(stateful *s, ofr_ir_value attention_mask, uint32_t window)
{
    ofr_ir *ir = s->g.ir;
    ofr_ir_value zero = ofr_ir_i64(ir, 0);
    ofr_ir_value keys = ofr_ir_range(ir, zero, s->total);
    ofr_ir_value begin = ofr_ir_binary(ir, "Subtract", s->total, length(&s->g, s->ids, 1));
    ofr_ir_value queries = ofr_ir_range(ir, begin, s->total);
    queries = ofr_ir_unsqueeze(ir, queries, 1); /* [T, 1] against [total] */
    ofr_ir_value seen = ofr_ir_compare(ir, "LessEqual", keys, queries);
    if (window) {
        ofr_ir_value oldest = ofr_ir_binary(ir, "Subtract", queries, ofr_ir_i64(ir, window));
        seen = ofr_ir_compare(ir, "LogicalAnd", seen, ofr_ir_compare(ir, "Greater", keys, oldest));
    }
    ofr_ir_value present = ofr_ir_compare(ir, "Greater", attention_mask, zero);
    present = ofr_ir_unsqueeze(ir, ofr_ir_unsqueeze(ir, present, 1), 1);
    seen = ofr_ir_compare(ir, "LogicalAnd", present, seen);
    return ofr_ir_select(ir, seen, ofr_ir_f32(ir, 0), ofr_ir_f32(ir, OFR_GRAPH_MASKED));
}

/* The rows of all tokens so far, [batch, n_kv_heads, total, head_dim], f32; kept for the next
 * inference. */
static ofr_ir_value remember(stateful *s, uint32_t layer, const char *what, ofr_ir_value now)
{
    ofr_ir *ir = s->g.ir;
    const ofr_model_params *p = s->g.source->params;
    char variable[96];
    snprintf(variable, sizeof variable, "past_key_values.%u.%spresent.%u.%s", layer, what, layer,
             what);
    int64_t rest[3] = {p->n_kv_heads, 0, p->head_dim};
    ofr_ir_value parts[2] = {s->batch, ofr_ir_i64s(ir, rest, 3)};
    ofr_ir_value empty = ofr_ir_broadcast(ir, ofr_ir_f32(ir, 0), ofr_ir_concat(ir, parts, 2, 0),
                                          OFR_IR_SHAPE(ANY, p->n_kv_heads, 0, p->head_dim));
    ofr_ir_shape shape = OFR_IR_SHAPE(ANY, p->n_kv_heads, ANY, p->head_dim);
    ofr_ir_value past = ofr_ir_read_value(ir, variable, empty, shape);
    past = ofr_ir_gather(ir, past, s->beams, 0);
    ofr_ir_value all = ofr_ir_concat(ir, (const ofr_ir_value[]){past, now}, 2, 2);
    ofr_ir_assign(ir, variable, all);
    return all;
}

/* K or V once for each query head, [batch, n_heads, total, head_dim]. */
static ofr_ir_value repeat_heads(graph *g, ofr_ir_value x)
{
    ofr_ir *ir = g->ir;
    const ofr_model_params *p = g->source->params;
    int64_t times = p->n_heads / p->n_kv_heads, kv = p->n_kv_heads, d = p->head_dim;
    if (times == 1)
        return x;
    ofr_ir_value b = dimension(g, x, 0), n = dimension(g, x, 2);
    ofr_ir_value parts[5] = {b, ofr_ir_i64s(ir, &kv, 1), ofr_ir_i64s(ir, &times, 1), n,
                             ofr_ir_i64s(ir, &d, 1)};
    x = ofr_ir_broadcast(ir, ofr_ir_unsqueeze(ir, x, 2), ofr_ir_concat(ir, parts, 5, 0),
                         OFR_IR_SHAPE(ANY, kv, times, ANY, d));
    int64_t pattern[4] = {0, p->n_heads, -1, d};
    return ofr_ir_reshape_by(ir, x, ofr_ir_i64s(ir, pattern, 4),
                             OFR_IR_SHAPE(ANY, p->n_heads, ANY, d));
}

/* [batch, n_heads, T, head_dim] from the same. */
static ofr_ir_value attend(graph *g, ofr_ir_value q, ofr_ir_value k, ofr_ir_value v,
                           ofr_ir_value mask)
{
    ofr_ir *ir = g->ir;
    const ofr_model_params *p = g->source->params;
    ofr_ir_value scale = ofr_ir_f32(ir, ofr_model_params_attention_scale(p));
    if (p->attention_softcap == 0)
        return ofr_ir_attention(ir, q, k, v, mask, scale);
    /* The operation knows no cap. */
    ofr_ir_value scores = ofr_ir_matmul(ir, ofr_ir_binary(ir, "Multiply", q, scale), k, 1);
    scores = ofr_ir_binary(ir, "Add", ofr_graph_cap(g, scores, p->attention_softcap), mask);
    return ofr_ir_matmul(ir, ofr_ir_softmax(ir, scores), v, 0);
}

static ofr_ir_value run_layer(stateful *s, uint32_t layer, ofr_ir_value hidden)
{
    graph *g = &s->g;
    ofr_ir *ir = g->ir;
    const ofr_model_params *p = g->source->params;
    const graph_positions *at = ofr_graph_layer_positions(g, s->at, layer);
    ofr_ir_shape q_heads = OFR_IR_SHAPE(ANY, ANY, p->n_heads, p->head_dim);
    ofr_ir_shape kv_heads = OFR_IR_SHAPE(ANY, ANY, p->n_kv_heads, p->head_dim);
    ofr_ir_value qkv[3];
    ofr_graph_qkv(g, layer, hidden, (const ofr_ir_shape[]){q_heads, kv_heads, kv_heads}, at, qkv);
    for (int i = 0; i < 3; i++)
        qkv[i] = ofr_ir_transpose(ir, qkv[i], HEADS_FIRST);
    ofr_ir_value k = repeat_heads(g, remember(s, layer, "key", qkv[1]));
    ofr_ir_value v = repeat_heads(g, remember(s, layer, "value", qkv[2]));
    ofr_ir_value mixed = ofr_ir_transpose(ir, attend(g, qkv[0], k, v, at->mask), HEADS_FIRST);
    int64_t width = (int64_t)p->n_heads * p->head_dim;
    mixed = ofr_ir_reshape_by(ir, mixed, ofr_ir_i64s(ir, (const int64_t[]){0, 0, width}, 3),
                              OFR_IR_SHAPE(ANY, ANY, width));
    return ofr_graph_after_attention(g, layer, hidden, mixed);
}

static void make_positions(stateful *s, ofr_ir_value attention_mask, ofr_ir_value position_ids)
{
    graph *g = &s->g;
    const ofr_model_params *p = g->source->params;
    graph_needs needs = ofr_graph_needs(p);
    if (needs.rotated)
        make_rope(s, &p->rope, true, position_ids, &s->at[0]);
    s->at[0].mask = make_mask(s, attention_mask, 0);
    s->at[1] = s->at[0];
    if (needs.local)
        make_rope(s, &p->rope_local, false, position_ids, &s->at[1]);
    if (needs.window)
        s->at[1].mask = make_mask(s, attention_mask, p->sliding_window);
}

int ofr_graph_stateful(const ofr_graph_source *source, ofr_ir_pool *pool, char **ret_text,
                       size_t *ret_size, ofr_error *err)
{
    stateful s = {0};
    graph *g = &s.g;
    const ofr_model_params *p = source->params;
    int r = ofr_graph_begin(g, source, "openvino_model", pool, err);
    if (r < 0)
        return r;
    ofr_ir *ir = g->ir;
    s.ids = ofr_ir_parameter(ir, "input_ids", OFR_IR_I64, OFR_IR_SHAPE(ANY, ANY));
    ofr_ir_value mask = ofr_ir_parameter(ir, "attention_mask", OFR_IR_I64, OFR_IR_SHAPE(ANY, ANY));
    ofr_ir_value at = ofr_ir_parameter(ir, "position_ids", OFR_IR_I64, OFR_IR_SHAPE(ANY, ANY));
    s.beams = ofr_ir_parameter(ir, "beam_idx", OFR_IR_I32, OFR_IR_SHAPE(1));
    s.batch = dimension(g, s.ids, 0);
    s.total = length(g, mask, 1);
    ofr_ir_value hidden = ofr_graph_embed(g, s.ids);
    ofr_ir_shape shape = OFR_IR_SHAPE(ANY, ANY, p->d_model);
    hidden = ofr_ir_reshape_by(ir, hidden, ofr_graph_pattern(g, shape), shape);
    make_positions(&s, mask, at);
    for (uint32_t i = 0; i < p->n_layers && g->result == 0; i++)
        hidden = run_layer(&s, i, hidden);
    ofr_ir_result(ir, "logits", ofr_graph_head(g, hidden));
    return ofr_graph_end(g, ret_text, ret_size);
}
