/* Hyper-parameters and tensor mapping of GGUF files of the llama architecture. */
#include "bake_model/gguf_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const known_architectures[] = {"llama"};

typedef struct loader {
    ofr_bake_model *model;
    const ofr_gguf *gguf;
    char architecture[32];
    uint32_t file;
    size_t n_used; /* tensors of the file that were mapped or are known to be unneeded */
    ofr_error *err;
} loader;

/* "llama." + suffix */
static const char *key_of(const loader *in, const char *suffix, char key[128])
{
    snprintf(key, 128, "%s.%s", in->architecture, suffix);
    return key;
}

static int get_u32(const loader *in, const char *suffix, bool required, uint32_t *value)
{
    char key[128];
    int r = ofr_gguf_get_u32(in->gguf, key_of(in, suffix, key), value, in->err);
    if (r == 0 && required)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: metadata '%s' is missing",
                        ofr_gguf_path(in->gguf), key);
    return r;
}

static int get_float(const loader *in, const char *suffix, float *value)
{
    char key[128];
    return ofr_gguf_get_float(in->gguf, key_of(in, suffix, key), value, in->err);
}

static int load_architecture(loader *in)
{
    ofr_gguf_string name;
    const char *path = ofr_gguf_path(in->gguf);
    int r = ofr_gguf_get_string(in->gguf, "general.architecture", &name, in->err);
    if (r == 0)
        r = ofr_fail(in->err, OFR_EFORMAT, "%s: metadata 'general.architecture' is missing", path);
    if (r < 0)
        return r;
    char list[256] = "";
    for (size_t i = 0; i < sizeof known_architectures / sizeof known_architectures[0]; i++) {
        const char *known = known_architectures[i];
        if (name.size == strlen(known) && memcmp(name.data, known, name.size) == 0) {
            snprintf(in->architecture, sizeof in->architecture, "%s", known);
            return 0;
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", known);
    }
    return ofr_fail(in->err, OFR_EUNSUPPORTED,
                    "%s: has the architecture '%.*s', which this build does not know; known: %s",
                    path, (int)(name.size < 64 ? name.size : 64), name.data, list);
}

static int load_rope_scaling(loader *in, ofr_rope_params *rope)
{
    char key[128];
    ofr_gguf_string type = {"", 0};
    int r = ofr_gguf_get_string(in->gguf, key_of(in, "rope.scaling.type", key), &type, in->err);
    if (r < 0)
        return r;
    rope->scaling = OFR_ROPE_SCALING_NONE;
    if (r == 0) { /* files of 2023 */
        r = get_float(in, "rope.scale_linear", &rope->factor);
        if (r > 0 && rope->factor != 1)
            rope->scaling = OFR_ROPE_SCALING_LINEAR;
        return r < 0 ? r : 0;
    }
    if (type.size == 4 && memcmp(type.data, "none", 4) == 0)
        return 0;
    if (type.size == 6 && memcmp(type.data, "linear", 6) == 0)
        rope->scaling = OFR_ROPE_SCALING_LINEAR;
    else if (type.size == 4 && memcmp(type.data, "yarn", 4) == 0)
        rope->scaling = OFR_ROPE_SCALING_YARN;
    else
        return ofr_fail(in->err, OFR_EUNSUPPORTED,
                        "%s: has the RoPE scaling '%.*s', which this build does not know; known: "
                        "none, linear, yarn, and llama-3's as a tensor",
                        ofr_gguf_path(in->gguf), (int)(type.size < 64 ? type.size : 64), type.data);
    rope->factor = 1;
    r = get_float(in, "rope.scaling.factor", &rope->factor);
    if (r < 0 || rope->scaling == OFR_ROPE_SCALING_LINEAR)
        return r < 0 ? r : 0;
    rope->original_context = in->model->params.context_length;
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    r = get_u32(in, "rope.scaling.original_context_length", false, &rope->original_context);
    if (r >= 0)
        r = get_float(in, "rope.scaling.yarn_beta_fast", &rope->beta_fast);
    if (r >= 0)
        r = get_float(in, "rope.scaling.yarn_beta_slow", &rope->beta_slow);
    float attention = 1;
    if (r >= 0)
        r = get_float(in, "rope.scaling.attn_factor", &attention);
    if (r > 0 && attention != 1) /* multiplies the usual magnitude, as llama.cpp does */
        rope->attention_factor = attention * (0.1f * logf(rope->factor) + 1);
    return r < 0 ? r : 0;
}

/* Switches of the architecture that change its graph in ways that the package does not describe. */
static int check_variants(const loader *in)
{
    static const char *const zero_keys[] = {"expert_count"};
    for (size_t i = 0; i < sizeof zero_keys / sizeof zero_keys[0]; i++) {
        uint32_t value = 0;
        int r = get_u32(in, zero_keys[i], false, &value);
        if (r < 0)
            return r;
        if (value != 0)
            return ofr_fail(in->err, OFR_EUNSUPPORTED,
                            "%s: is a variant of %s that this build does not run: %s is %u",
                            ofr_gguf_path(in->gguf), in->architecture, zero_keys[i], value);
    }
    return 0;
}

static int load_heads(loader *in, ofr_model_params *p)
{
    int r = get_u32(in, "attention.head_count", true, &p->n_heads);
    if (r < 0)
        return r;
    p->n_kv_heads = p->n_heads;
    r = get_u32(in, "attention.head_count_kv", false, &p->n_kv_heads);
    if (r < 0)
        return r;
    if (p->n_heads == 0 || p->n_kv_heads == 0)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: states 0 attention heads",
                        ofr_gguf_path(in->gguf));
    p->head_dim = p->d_model / p->n_heads;
    r = get_u32(in, "attention.key_length", false, &p->head_dim);
    if (r < 0)
        return r;
    if (r == 0 && p->d_model % p->n_heads != 0)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: %u heads do not divide %u elements",
                        ofr_gguf_path(in->gguf), p->n_heads, p->d_model);
    uint32_t value_length = p->head_dim;
    r = get_u32(in, "attention.value_length", false, &value_length);
    if (r < 0)
        return r;
    if (value_length != p->head_dim)
        return ofr_fail(in->err, OFR_EUNSUPPORTED,
                        "%s: keys have %u elements and values %u; this build needs them equal",
                        ofr_gguf_path(in->gguf), p->head_dim, value_length);
    return 0;
}

static int load_params(loader *in, uint32_t max_context)
{
    ofr_model_params *p = &in->model->params;
    memcpy(p->architecture, in->architecture, sizeof in->architecture);
    ofr_gguf_string name = {"", 0};
    int r = ofr_gguf_get_string(in->gguf, "general.name", &name, in->err);
    if (r < 0)
        return r;
    snprintf(p->name, sizeof p->name, "%.*s", (int)(name.size < 127 ? name.size : 127), name.data);
    r = get_u32(in, "block_count", true, &p->n_layers);
    if (r >= 0)
        r = get_u32(in, "embedding_length", true, &p->d_model);
    if (r >= 0)
        r = get_u32(in, "feed_forward_length", true, &p->d_ff);
    if (r >= 0)
        r = get_u32(in, "context_length", true, &p->context_length);
    if (r >= 0)
        r = load_heads(in, p);
    if (r >= 0)
        r = get_float(in, "attention.layer_norm_rms_epsilon", &p->rms_epsilon);
    if (r < 0)
        return r;
    p->rope.dims = p->head_dim;
    p->rope.base = 10000;
    r = get_u32(in, "rope.dimension_count", false, &p->rope.dims);
    if (r >= 0)
        r = get_float(in, "rope.freq_base", &p->rope.base);
    if (r >= 0)
        r = load_rope_scaling(in, &p->rope);
    if (r >= 0)
        r = check_variants(in);
    if (r >= 0 && max_context > 0 && max_context < p->context_length)
        p->context_length = max_context;
    return r < 0 ? r : 0;
}

/* ---- tensors ---- */

static int check_shape(const loader *in, const ofr_gguf_tensor *source, uint64_t rows, uint64_t k)
{
    if (source->dims[0] == k && source->rows == rows && source->dims[2] == 1 &&
        source->dims[3] == 1)
        return 0;
    return ofr_fail(in->err, OFR_EFORMAT,
                    "%s: tensor '%s' has the shape [%llu, %llu], [%llu, %llu] is expected from the "
                    "metadata",
                    ofr_gguf_path(in->gguf), source->name, (unsigned long long)source->rows,
                    (unsigned long long)source->dims[0], (unsigned long long)rows,
                    (unsigned long long)k);
}

typedef struct mapping {
    const char *source; /* in the file, behind "blk.<i>." for layers */
    const char *name;   /* in the package, behind "model.layers.<i>." for layers */
    uint64_t rows, k;   /* rows 0: a vector of k */
    enum ofr_tensor_class class;
    uint32_t rope_heads;
    bool optional;
} mapping;

/* "blk.3.attn_q.weight"; without a layer, the name alone. */
static void compose_name(char name[256], const char *prefix, int layer, const char *rest)
{
    if (layer < 0)
        snprintf(name, 256, "%s", rest);
    else
        snprintf(name, 256, "%s%d.%s", prefix, layer, rest);
}

/* Adds one tensor; 1 if it is there, 0 if it is absent and optional. */
static int map_tensor(loader *in, const mapping *m, int layer)
{
    char source_name[256];
    compose_name(source_name, "blk.", layer, m->source);
    const ofr_gguf_tensor *source = ofr_gguf_find_tensor(in->gguf, source_name);
    if (!source && m->optional)
        return 0;
    if (!source)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: tensor '%s' is missing", ofr_gguf_path(in->gguf),
                        source_name);
    int r = check_shape(in, source, m->rows ? m->rows : 1, m->k);
    if (r < 0)
        return r;
    char name[256];
    compose_name(name, "model.layers.", layer, m->name);
    ofr_bake_tensor *t = NULL;
    r = ofr_bake_model_add(in->model, ofr_gguf_path(in->gguf), name, m->rows, m->k, m->class, &t,
                           in->err);
    if (r < 0)
        return r;
    t->rope_heads = m->rope_heads;
    t->source = (ofr_source_tensor){.type = source->type,
                                    .file = in->file,
                                    .rows = m->rows ? m->rows : 1,
                                    .k = m->k,
                                    .row_bytes = source->row_bytes,
                                    .offset = source->offset};
    snprintf(t->source.name, sizeof t->source.name, "%s", source->name);
    in->n_used++;
    return 1;
}

static int map_layer(loader *in, int layer)
{
    const ofr_model_params *p = &in->model->params;
    uint64_t d = p->d_model, q = (uint64_t)p->n_heads * p->head_dim;
    uint64_t kv = (uint64_t)p->n_kv_heads * p->head_dim, ff = p->d_ff;
    enum ofr_tensor_class attention = OFR_TENSOR_CLASS_ATTENTION, mlp = OFR_TENSOR_CLASS_MLP,
                          vector = OFR_TENSOR_CLASS_VECTOR;
    const mapping mappings[] = {
        {"attn_norm.weight", "input_layernorm.weight", 0, d, vector, 0, false},
        {"attn_q.weight", "self_attn.q_proj.weight", q, d, attention, p->n_heads, false},
        {"attn_q.bias", "self_attn.q_proj.bias", 0, q, vector, p->n_heads, true},
        {"attn_k.weight", "self_attn.k_proj.weight", kv, d, attention, p->n_kv_heads, false},
        {"attn_k.bias", "self_attn.k_proj.bias", 0, kv, vector, p->n_kv_heads, true},
        {"attn_v.weight", "self_attn.v_proj.weight", kv, d, attention, 0, false},
        {"attn_v.bias", "self_attn.v_proj.bias", 0, kv, vector, 0, true},
        {"attn_output.weight", "self_attn.o_proj.weight", d, q, attention, 0, false},
        {"attn_output.bias", "self_attn.o_proj.bias", 0, d, vector, 0, true},
        {"ffn_norm.weight", "post_attention_layernorm.weight", 0, d, vector, 0, false},
        {"ffn_gate.weight", "mlp.gate_proj.weight", ff, d, mlp, 0, false},
        {"ffn_gate.bias", "mlp.gate_proj.bias", 0, ff, vector, 0, true},
        {"ffn_up.weight", "mlp.up_proj.weight", ff, d, mlp, 0, false},
        {"ffn_up.bias", "mlp.up_proj.bias", 0, ff, vector, 0, true},
        {"ffn_down.weight", "mlp.down_proj.weight", d, ff, mlp, 0, false},
        {"ffn_down.bias", "mlp.down_proj.bias", 0, d, vector, 0, true},
    };
    for (size_t i = 0; i < sizeof mappings / sizeof mappings[0]; i++) {
        int r = map_tensor(in, &mappings[i], layer);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A tensor that no mapping took would be left out of the computation in silence. */
static int check_all_used(const loader *in)
{
    if (in->n_used == ofr_gguf_tensor_count(in->gguf))
        return 0;
    for (size_t i = 0; i < ofr_gguf_tensor_count(in->gguf); i++) {
        const ofr_gguf_tensor *source = ofr_gguf_tensor_at(in->gguf, i);
        bool used = false;
        for (size_t j = 0; j < in->model->n_tensors && !used; j++)
            used = strcmp(in->model->tensors[j].source.name, source->name) == 0;
        if (!used)
            return ofr_fail(in->err, OFR_EUNSUPPORTED,
                            "%s: tensor '%s' is not part of the %s architecture that this build "
                            "knows",
                            ofr_gguf_path(in->gguf), source->name, in->architecture);
    }
    return 0;
}

static int map_tensors(loader *in)
{
    ofr_model_params *p = &in->model->params;
    const ofr_gguf_tensor *embedding = ofr_gguf_find_tensor(in->gguf, "token_embd.weight");
    if (!embedding)
        return ofr_fail(in->err, OFR_EFORMAT,
                        "%s: tensor 'token_embd.weight' is missing: the file holds no model (use "
                        "--tokenizer_only for its tokenizer)",
                        ofr_gguf_path(in->gguf));
    if (embedding->rows > UINT32_MAX)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: the vocabulary has an absurd size",
                        ofr_gguf_path(in->gguf));
    p->vocab_size = (uint32_t)embedding->rows;
    const mapping first = {"token_embd.weight",
                           "model.embed_tokens.weight",
                           p->vocab_size,
                           p->d_model,
                           OFR_TENSOR_CLASS_EMBEDDING,
                           0,
                           false};
    int r = map_tensor(in, &first, -1);
    for (uint32_t i = 0; i < p->n_layers && r >= 0; i++)
        r = map_layer(in, (int)i);
    if (r < 0)
        return r;
    const mapping norm = {"output_norm.weight",
                          "model.norm.weight",
                          0,
                          p->d_model,
                          OFR_TENSOR_CLASS_VECTOR,
                          0,
                          false};
    const mapping head = {"output.weight",
                          "lm_head.weight",
                          p->vocab_size,
                          p->d_model,
                          OFR_TENSOR_CLASS_EMBEDDING,
                          0,
                          true};
    const mapping factors = {"rope_freqs.weight",
                             "rope_freq_factors",
                             0,
                             p->rope.dims / 2,
                             OFR_TENSOR_CLASS_VECTOR,
                             0,
                             true};
    r = map_tensor(in, &norm, -1);
    if (r >= 0)
        r = map_tensor(in, &head, -1);
    p->tied_embedding = r == 0;
    if (r >= 0)
        r = map_tensor(in, &factors, -1);
    return r < 0 ? r : check_all_used(in);
}

/* Bounds that keep every later product and buffer small enough. */
static int check_params(const loader *in)
{
    const ofr_model_params *p = &in->model->params;
    const struct {
        const char *name;
        uint32_t value, maximum;
    } limits[] = {
        {"block_count", p->n_layers, OFR_PACKAGE_MAX_LAYERS},
        {"embedding_length", p->d_model, 1u << 20},
        {"feed_forward_length", p->d_ff, 1u << 22},
        {"attention.head_count", p->n_heads, 1u << 14},
        {"attention.key_length", p->head_dim, 1u << 12},
        {"context_length", p->context_length, 1u << 30},
    };
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        if (limits[i].value == 0 || limits[i].value > limits[i].maximum)
            return ofr_fail(in->err, OFR_EFORMAT, "%s: %s.%s is the absurd %u",
                            ofr_gguf_path(in->gguf), in->architecture, limits[i].name,
                            limits[i].value);
    if (p->rope.dims < 2 || p->rope.dims % 2 != 0 || p->rope.dims > p->head_dim)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: %s.rope.dimension_count is the absurd %u",
                        ofr_gguf_path(in->gguf), in->architecture, p->rope.dims);
    return 0;
}

int ofr_gguf_model_init(ofr_bake_model *model, const ofr_gguf *gguf, uint32_t file, int group_size,
                        uint32_t max_context, ofr_error *err)
{
    *model = (ofr_bake_model){.group_size = group_size};
    loader in = {.model = model, .gguf = gguf, .file = file, .err = err};
    int r = load_architecture(&in);
    if (r == 0)
        r = load_params(&in, max_context);
    if (r == 0)
        r = check_params(&in);
    if (r == 0)
        r = map_tensors(&in);
    if (r < 0)
        ofr_bake_model_done(model);
    return r;
}
