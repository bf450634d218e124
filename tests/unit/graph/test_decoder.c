/* Decoder graphs of models with every feature, judged by the check: static, symmetric, whole; kinds
 * of layers; inputs that a feature brings. What the graphs compute is compared in tests/parity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "graph/decoder.h"
#include "graph/ir_check.h"
#include "graph/stateful.h"

enum { BINARY_BYTES = 1 << 30, LAYERS = 3 };

/* A model of one's choice: tensors are made as they are asked for. */
typedef struct model {
    ofr_model_params params;
    uint32_t group; /* of matrices; 0: as long as a row */
    bool head_norms, output_norms, bias, odd_layer, minima;
} model;

static model plain(void)
{
    return (model){.params = {.n_layers = LAYERS,
                              .d_model = 256,
                              .n_heads = 4,
                              .n_kv_heads = 2,
                              .head_dim = 64,
                              .d_ff = 384,
                              .vocab_size = 320,
                              .context_length = 2048,
                              .rms_epsilon = 1e-5F,
                              .tied_embedding = true,
                              .rope = {.dims = 64, .base = 10000}},
                   .group = 128};
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Valid until the fourth call after. */
static const ofr_tensor *tensor(const char *name, enum ofr_dtype dtype, uint64_t rows, uint64_t k,
                                uint32_t group)
{
    static ofr_tensor slots[4];
    static char names[4][128];
    static unsigned next;
    unsigned at = next++ % 4;
    ofr_tensor *t = &slots[at];
    snprintf(names[at], sizeof names[at], "%s", name);
    uint64_t n = rows * k, bits = dtype == OFR_DTYPE_F32 ? 32 : dtype == OFR_DTYPE_I8 ? 8 : 4;
    *t = (ofr_tensor){.name = names[at],
                      .dtype = dtype,
                      .n_dims = rows > 1 ? 2 : 1,
                      .shape = {rows > 1 ? rows : k, k},
                      .group_size = group,
                      .offset = 4096,
                      .bytes = n * bits / 8,
                      .scale_offset = 65536,
                      .scale_bytes = group ? n / group * 2 : 0};
    return t;
}

static const ofr_tensor *find(const void *user, const char *name)
{
    const model *m = user;
    const ofr_model_params *p = &m->params;
    uint32_t q = p->n_heads * p->head_dim, kv = p->n_kv_heads * p->head_dim;
    if (ends_with(name, "q_norm.weight") || ends_with(name, "k_norm.weight"))
        return m->head_norms ? tensor(name, OFR_DTYPE_F32, 1, p->head_dim, 0) : NULL;
    if (ends_with(name, "output_norm.weight"))
        return m->output_norms ? tensor(name, OFR_DTYPE_F32, 1, p->d_model, 0) : NULL;
    if (ends_with(name, "norm.weight"))
        return tensor(name, OFR_DTYPE_F32, 1, p->d_model, 0);
    if (strncmp(name, "rope_freq", 9) == 0)
        return p->rope.scaling == OFR_ROPE_SCALING_LONGROPE
                   ? tensor(name, OFR_DTYPE_F32, 1, p->rope.dims / 2, 0)
                   : NULL;
    if (ends_with(name, ".bias"))
        return m->bias && ends_with(name, "q_proj.bias") ? tensor(name, OFR_DTYPE_F32, 1, q, 0)
                                                         : NULL;
    if (strcmp(name, "model.embed_tokens.weight") == 0)
        return tensor(name, OFR_DTYPE_I8, p->vocab_size, p->d_model, 128);
    const struct {
        const char *end;
        uint32_t rows, k;
    } matrices[] = {
        {"q_proj.weight", q, p->d_model},          {"k_proj.weight", kv, p->d_model},
        {"v_proj.weight", kv, p->d_model},         {"o_proj.weight", p->d_model, q},
        {"gate_proj.weight", p->d_ff, p->d_model}, {"up_proj.weight", p->d_ff, p->d_model},
        {"down_proj.weight", p->d_model, p->d_ff}};
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
        if (!ends_with(name, matrices[i].end))
            continue;
        bool odd = m->odd_layer && strstr(name, "layers.1.") && i == 6;
        enum ofr_dtype dtype = odd ? OFR_DTYPE_I8 : m->minima ? OFR_DTYPE_I4M : OFR_DTYPE_I4;
        return tensor(name, dtype, matrices[i].rows, matrices[i].k,
                      m->group ? m->group : matrices[i].k);
    }
    return NULL;
}

typedef struct judgement {
    const char *graph;
    unsigned findings;
} judgement;

static void on_finding(void *user, const ofr_ir_finding *finding)
{
    judgement *j = user;
    j->findings++;
    print_error("%s: '%s': %s\n", j->graph, finding->node, finding->what);
}

/* Frees `text`. */
static void judge(const char *graph, char *text, size_t size, enum ofr_ir_check_kind kind)
{
    judgement j = {.graph = graph};
    ofr_error err = {0};
    ofr_ir_check_options options = {
        .kind = kind, .binary_bytes = BINARY_BYTES, .report = on_finding, .user = &j};
    if (ofr_ir_check(text, size, &options, &err) < 0)
        fail_msg("%s: %s", graph, err.text);
    assert_int_equal(j.findings, 0);
    free(text);
}

static char *block(const model *m, uint32_t layer, uint32_t tokens, uint32_t past)
{
    ofr_graph_source source = {.params = &m->params, .find = find, .user = m};
    ofr_ir_pool pool = {0};
    char *text = NULL, *copy;
    size_t size = 0;
    ofr_error err = {0};
    if (ofr_graph_block(&source, layer, tokens, past, &pool, &text, &size, &err) < 0)
        fail_msg("%s", err.text);
    copy = strdup(text);
    judge("block", text, size, OFR_IR_CHECK_FOLDED);
    ofr_ir_pool_done(&pool);
    return copy;
}

static void has(char *text, const char *input, bool wanted)
{
    char name[80];
    snprintf(name, sizeof name, "name=\"%s\" type=\"Parameter\"", input);
    if ((strstr(text, name) != NULL) != wanted)
        fail_msg("input '%s' is %sthere", input, wanted ? "not " : "");
}

static void all_graphs(const model *m)
{
    ofr_graph_source source = {.params = &m->params, .find = find, .user = m};
    ofr_ir_pool pool = {0};
    char *text = NULL;
    size_t size = 0;
    ofr_error err = {0};
    static const uint32_t shapes[][2] = {{1, 0}, {1, 256}, {16, 0}, {512, 2048}, {1024, 0}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        free(block(m, (uint32_t)i % LAYERS, shapes[i][0], shapes[i][1]));
    for (uint32_t past = 0; past <= 1024; past += 1024) {
        if (ofr_graph_whole(&source, "whole", past ? 1 : 256, past, &pool, &text, &size, &err) < 0)
            fail_msg("%s", err.text);
        judge("whole", text, size, OFR_IR_CHECK_WHOLE);
    }
    if (ofr_graph_stateful(&source, &pool, &text, &size, &err) < 0)
        fail_msg("%s", err.text);
    judge("stateful", text, size, OFR_IR_CHECK_STATEFUL);
    ofr_ir_pool_done(&pool);
}

static void every_feature_gives_graphs(void **state)
{
    (void)state;
    model m = plain();
    all_graphs(&m);
    m.group = 0;
    all_graphs(&m);
    m.head_norms = m.output_norms = m.bias = m.odd_layer = true;
    m.params.activation = OFR_ACTIVATION_GELU_TANH;
    m.params.embedding_scale = 16;
    m.params.residual_scale = 0.5F;
    m.params.logit_scale = 0.25F;
    m.params.attention_softcap = 50;
    m.params.logit_softcap = 30;
    m.params.sliding_window = 512;
    m.params.layer_flags[0] = OFR_LAYER_WINDOWED;
    m.params.layer_flags[2] = OFR_LAYER_UNROTATED;
    m.params.rope_local = (ofr_rope_params){.dims = 32, .base = 500};
    all_graphs(&m);
    m.params.rope = (ofr_rope_params){
        .dims = 48, .base = 10000, .scaling = OFR_ROPE_SCALING_LONGROPE, .original_context = 512};
    all_graphs(&m);
}

static void features_bring_inputs(void **state)
{
    (void)state;
    model m = plain();
    char *text = block(&m, 0, 16, 256);
    has(text, "cos", true);
    has(text, "mask_past", true);
    has(text, "q.scale", true);
    has(text, "q.bias", false);
    has(text, "q_norm", false);
    free(text);
    text = block(&m, 0, 16, 0);
    has(text, "past_key", false);
    free(text);
    m.params.layer_flags[1] = OFR_LAYER_UNROTATED;
    m.head_norms = m.output_norms = m.bias = true;
    text = block(&m, 1, 16, 256);
    has(text, "cos", false);
    has(text, "q_norm", true);
    has(text, "mlp_output_norm", true);
    has(text, "q.bias", true);
    free(text);
}

static void layers_that_differ_are_other_kinds(void **state)
{
    (void)state;
    model m = plain();
    ofr_graph_source source = {.params = &m.params, .find = find, .user = &m};
    uint32_t kinds[LAYERS], n = 0;
    ofr_error err = {0};
    assert_int_equal(ofr_graph_layer_kinds(&source, kinds, &n, &err), 0);
    assert_int_equal(n, 1);
    /* Windows are masks: no kind of their own. */
    m.params.sliding_window = 512;
    m.params.layer_flags[0] = OFR_LAYER_WINDOWED;
    assert_int_equal(ofr_graph_layer_kinds(&source, kinds, &n, &err), 0);
    assert_int_equal(n, 1);
    m.params.layer_flags[2] = OFR_LAYER_UNROTATED;
    m.odd_layer = true;
    assert_int_equal(ofr_graph_layer_kinds(&source, kinds, &n, &err), 0);
    assert_int_equal(n, 3);
    assert_int_equal(kinds[2], 2);
}

static void asymmetric_weights_have_no_graph(void **state)
{
    (void)state;
    model m = plain();
    m.minima = true;
    ofr_graph_source source = {.params = &m.params, .find = find, .user = &m};
    ofr_ir_pool pool = {0};
    char *text = NULL;
    size_t size = 0;
    ofr_error err = {0};
    assert_int_equal(ofr_graph_block(&source, 0, 16, 0, &pool, &text, &size, &err),
                     OFR_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "q_proj.weight' is i4m"));
    ofr_ir_pool_done(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_feature_gives_graphs),
        cmocka_unit_test(features_bring_inputs),
        cmocka_unit_test(layers_that_differ_are_other_kinds),
        cmocka_unit_test(asymmetric_weights_have_no_graph),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
