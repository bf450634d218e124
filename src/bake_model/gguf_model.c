/* Hyper-parameters and tensor mapping of GGUF files, architecture by architecture. */
#include "bake_model/gguf_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum trait {
    TRAIT_NEIGHBOURS = 1 << 0,   /* rows of Q and K are ordered for a rotation of neighbours */
    TRAIT_FUSED = 1 << 1,        /* Q, K and V in one tensor, gate and up in another */
    TRAIT_OUTPUT_NORMS = 1 << 2, /* four norms a layer */
    TRAIT_HEAD_NORMS = 1 << 3,   /* norms of Q and K */
    TRAIT_GEMMA = 1 << 4,        /* GELU, scaled embedding */
};

struct loader;
typedef struct architecture {
    const char *name;
    unsigned traits;                /* enum trait */
    int (*load)(struct loader *in); /* what only this one has; NULL: nothing */
} architecture;

struct loader {
    ofr_bake_model *model;
    const ofr_gguf *const *parts; /* [n_parts] */
    size_t n_parts;
    const ofr_gguf *gguf; /* the first part: the metadata */
    const architecture *known;
    size_t n_used; /* tensors that were mapped or are known to be unneeded */
    ofr_error *err;
};
typedef struct loader loader;

/* *ret_part: where it lies. NULL: in none. */
static const ofr_gguf_tensor *find_tensor(const loader *in, const char *name, size_t *ret_part)
{
    const ofr_gguf_tensor *found = NULL;
    for (size_t i = 0; i < in->n_parts && !found; i++) {
        found = ofr_gguf_find_tensor(in->parts[i], name);
        *ret_part = i;
    }
    return found;
}

/* "llama." + suffix */
static const char *key_of(const loader *in, const char *suffix, char key[128])
{
    snprintf(key, 128, "%s.%s", in->known->name, suffix);
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
    if (type.size == 8 && memcmp(type.data, "longrope", 8) == 0 &&
        (in->known->traits & TRAIT_FUSED))
        return 0; /* what counts are its tensors: load_phi3 */
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
                            ofr_gguf_path(in->gguf), in->known->name, zero_keys[i], value);
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

/* ---- what only one architecture has ---- */

/* Layers are windowed but for every period-th; 1: all of them, 2: every other. */
static int load_windows(loader *in, uint32_t fallback, uint32_t period)
{
    ofr_model_params *p = &in->model->params;
    uint32_t window = fallback;
    int r = get_u32(in, "attention.sliding_window", false, &window);
    for (uint32_t i = 0; window > 0 && i < p->n_layers && i < OFR_PACKAGE_MAX_LAYERS; i++)
        if (period == 1 || (i + 1) % period != 0) {
            p->layer_flags[i] |= OFR_LAYER_WINDOWED;
            p->sliding_window = window;
        }
    return r;
}

/* The largest of each family scales by the model's width, and files do not say so; it is known by
 * its layers, as llama.cpp knows it. */
static int load_gemma(loader *in, uint32_t largest)
{
    ofr_model_params *p = &in->model->params;
    p->activation = OFR_ACTIVATION_GELU_TANH;
    p->embedding_scale = sqrtf((float)p->d_model);
    if (p->n_layers == largest)
        p->attention_scale = 1 / sqrtf((float)p->d_model / (float)p->n_heads);
    return 0;
}

static int load_gemma2(loader *in)
{
    ofr_model_params *p = &in->model->params;
    p->attention_softcap = 50;
    p->logit_softcap = 30;
    int r = load_gemma(in, 46);
    if (r >= 0)
        r = get_float(in, "attn_logit_softcapping", &p->attention_softcap);
    if (r >= 0)
        r = get_float(in, "final_logit_softcapping", &p->logit_softcap);
    return r < 0 ? r : load_windows(in, 4096, 2);
}

static int load_gemma3(loader *in)
{
    ofr_model_params *p = &in->model->params;
    float base = 10000;
    int r = load_gemma(in, 62);
    if (r >= 0)
        r = get_float(in, "final_logit_softcapping", &p->logit_softcap);
    if (r >= 0)
        r = load_windows(in, 0, 6);
    if (r >= 0)
        r = get_float(in, "rope.freq_base_swa", &base);
    if (p->sliding_window > 0)
        p->rope_local = (ofr_rope_params){.dims = p->rope.dims, .base = base};
    return r;
}

static int load_granite(loader *in)
{
    ofr_model_params *p = &in->model->params;
    float divisor = 1;
    int r = get_float(in, "embedding_scale", &p->embedding_scale);
    if (r >= 0)
        r = get_float(in, "residual_scale", &p->residual_scale);
    if (r >= 0)
        r = get_float(in, "attention.scale", &p->attention_scale);
    if (r >= 0)
        r = get_float(in, "logit_scale", &divisor);
    if (r >= 0 && !(divisor > 0))
        r = ofr_fail(in->err, OFR_EFORMAT, "%s: granite.logit_scale is %g", ofr_gguf_path(in->gguf),
                     (double)divisor);
    p->logit_scale = 1 / divisor;
    return r;
}

static int load_phi3(loader *in)
{
    ofr_rope_params *rope = &in->model->params.rope;
    size_t part;
    if (find_tensor(in, "rope_factors_long.weight", &part)) {
        rope->scaling = OFR_ROPE_SCALING_LONGROPE;
        rope->factor = 0;
        rope->original_context = in->model->params.context_length;
        int r = get_u32(in, "rope.scaling.original_context_length", false, &rope->original_context);
        if (r >= 0)
            r = get_float(in, "rope.scaling.attn_factor", &rope->attention_factor);
        if (r < 0)
            return r;
    }
    return load_windows(in, 0, 1);
}

static int load_smollm3(loader *in)
{
    ofr_model_params *p = &in->model->params;
    for (uint32_t i = 3; i < p->n_layers && i < OFR_PACKAGE_MAX_LAYERS; i += 4)
        p->layer_flags[i] |= OFR_LAYER_UNROTATED;
    return 0;
}

static const architecture architectures[] = {
    {"gemma2", TRAIT_GEMMA | TRAIT_OUTPUT_NORMS, load_gemma2},
    {"gemma3", TRAIT_GEMMA | TRAIT_OUTPUT_NORMS | TRAIT_HEAD_NORMS, load_gemma3},
    {"granite", TRAIT_NEIGHBOURS, load_granite},
    {"llama", TRAIT_NEIGHBOURS, NULL},
    {"phi3", TRAIT_FUSED, load_phi3},
    {"qwen2", 0, NULL},
    {"qwen3", TRAIT_HEAD_NORMS, NULL},
    {"smollm3", TRAIT_NEIGHBOURS, load_smollm3},
};
enum { N_ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

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
    for (size_t i = 0; i < N_ARCHITECTURES; i++) {
        const char *known = architectures[i].name;
        if (name.size == strlen(known) && memcmp(name.data, known, name.size) == 0) {
            in->known = &architectures[i];
            return 0;
        }
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", known);
    }
    return ofr_fail(in->err, OFR_EUNSUPPORTED,
                    "%s: has the architecture '%.*s', which this build does not know; known: %s",
                    path, (int)(name.size < 64 ? name.size : 64), name.data, list);
}

static int load_params(loader *in, uint32_t max_context)
{
    ofr_model_params *p = &in->model->params;
    snprintf(p->architecture, sizeof p->architecture, "%s", in->known->name);
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
    if (r >= 0 && in->known->load)
        r = in->known->load(in);
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
    uint64_t first_row, all_rows; /* of a fused tensor: where this part begins; 0, 0: not fused */
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
    size_t part;
    const ofr_gguf_tensor *source = find_tensor(in, source_name, &part);
    if (!source && m->optional)
        return 0;
    if (!source)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: tensor '%s' is missing", ofr_gguf_path(in->gguf),
                        source_name);
    uint64_t rows = m->all_rows ? m->all_rows : m->rows;
    int r = check_shape(in, source, rows ? rows : 1, m->k);
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
                                    .file = (uint32_t)part,
                                    .rows = m->rows ? m->rows : 1,
                                    .k = m->k,
                                    .row_bytes = source->row_bytes,
                                    .offset = source->offset + m->first_row * source->row_bytes};
    snprintf(t->source.name, sizeof t->source.name, "%s", source->name);
    in->n_used += m->first_row == 0;
    return 1;
}

static int map_layer(loader *in, int layer)
{
    const ofr_model_params *p = &in->model->params;
    uint64_t d = p->d_model, q = (uint64_t)p->n_heads * p->head_dim;
    uint64_t kv = (uint64_t)p->n_kv_heads * p->head_dim, ff = p->d_ff;
    enum ofr_tensor_class attention = OFR_TENSOR_CLASS_ATTENTION, mlp = OFR_TENSOR_CLASS_MLP,
                          vector = OFR_TENSOR_CLASS_VECTOR;
    unsigned traits = in->known->traits;
    bool four = traits & TRAIT_OUTPUT_NORMS, heads = traits & TRAIT_HEAD_NORMS;
    bool fused = traits & TRAIT_FUSED;
    uint32_t turned = traits & TRAIT_NEIGHBOURS ? p->n_heads : 0;
    uint32_t turned_kv = traits & TRAIT_NEIGHBOURS ? p->n_kv_heads : 0;
    uint64_t qkv = q + 2 * kv, h = p->head_dim;
    const struct {
        bool present;
        mapping m;
    } mappings[] = {
        {true, {"attn_norm.weight", "input_layernorm.weight", 0, d, vector, 0, false, 0, 0}},
        {heads, {"attn_q_norm.weight", "self_attn.q_norm.weight", 0, h, vector, 0, false, 0, 0}},
        {heads, {"attn_k_norm.weight", "self_attn.k_norm.weight", 0, h, vector, 0, false, 0, 0}},
        {!fused,
         {"attn_q.weight", "self_attn.q_proj.weight", q, d, attention, turned, false, 0, 0}},
        {!fused, {"attn_q.bias", "self_attn.q_proj.bias", 0, q, vector, turned, true, 0, 0}},
        {!fused,
         {"attn_k.weight", "self_attn.k_proj.weight", kv, d, attention, turned_kv, false, 0, 0}},
        {!fused, {"attn_k.bias", "self_attn.k_proj.bias", 0, kv, vector, turned_kv, true, 0, 0}},
        {!fused, {"attn_v.weight", "self_attn.v_proj.weight", kv, d, attention, 0, false, 0, 0}},
        {!fused, {"attn_v.bias", "self_attn.v_proj.bias", 0, kv, vector, 0, true, 0, 0}},
        {fused, {"attn_qkv.weight", "self_attn.q_proj.weight", q, d, attention, 0, false, 0, qkv}},
        {fused, {"attn_qkv.weight", "self_attn.k_proj.weight", kv, d, attention, 0, false, q, qkv}},
        {fused,
         {"attn_qkv.weight", "self_attn.v_proj.weight", kv, d, attention, 0, false, q + kv, qkv}},
        {true, {"attn_output.weight", "self_attn.o_proj.weight", d, q, attention, 0, false, 0, 0}},
        {true, {"attn_output.bias", "self_attn.o_proj.bias", 0, d, vector, 0, true, 0, 0}},
        {four,
         {"post_attention_norm.weight", "attention_output_norm.weight", 0, d, vector, 0, false, 0,
          0}},
        {true,
         {"ffn_norm.weight", "post_attention_layernorm.weight", 0, d, vector, 0, false, 0, 0}},
        {!fused, {"ffn_gate.weight", "mlp.gate_proj.weight", ff, d, mlp, 0, false, 0, 0}},
        {!fused, {"ffn_gate.bias", "mlp.gate_proj.bias", 0, ff, vector, 0, true, 0, 0}},
        {!fused, {"ffn_up.weight", "mlp.up_proj.weight", ff, d, mlp, 0, false, 0, 0}},
        {!fused, {"ffn_up.bias", "mlp.up_proj.bias", 0, ff, vector, 0, true, 0, 0}},
        {fused, {"ffn_up.weight", "mlp.gate_proj.weight", ff, d, mlp, 0, false, 0, 2 * ff}},
        {fused, {"ffn_up.weight", "mlp.up_proj.weight", ff, d, mlp, 0, false, ff, 2 * ff}},
        {true, {"ffn_down.weight", "mlp.down_proj.weight", d, ff, mlp, 0, false, 0, 0}},
        {true, {"ffn_down.bias", "mlp.down_proj.bias", 0, d, vector, 0, true, 0, 0}},
        {four, {"post_ffw_norm.weight", "mlp_output_norm.weight", 0, d, vector, 0, false, 0, 0}},
    };
    for (size_t i = 0; i < sizeof mappings / sizeof mappings[0]; i++) {
        int r = mappings[i].present ? map_tensor(in, &mappings[i].m, layer) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

/* A tensor that no mapping took would be left out of the computation in silence. */
static int check_part_used(const loader *in, const ofr_gguf *part)
{
    for (size_t i = 0; i < ofr_gguf_tensor_count(part); i++) {
        const ofr_gguf_tensor *source = ofr_gguf_tensor_at(part, i);
        bool used = false;
        for (size_t j = 0; j < in->model->n_tensors && !used; j++)
            used = strcmp(in->model->tensors[j].source.name, source->name) == 0;
        if (!used)
            return ofr_fail(in->err, OFR_EUNSUPPORTED,
                            "%s: tensor '%s' is not part of the %s architecture that this build "
                            "knows",
                            ofr_gguf_path(part), source->name, in->known->name);
    }
    return 0;
}

static int check_all_used(const loader *in)
{
    size_t n = 0;
    for (size_t i = 0; i < in->n_parts; i++)
        n += ofr_gguf_tensor_count(in->parts[i]);
    int r = 0;
    for (size_t i = 0; i < in->n_parts && in->n_used != n && r == 0; i++)
        r = check_part_used(in, in->parts[i]);
    return r;
}

static int map_tensors(loader *in)
{
    ofr_model_params *p = &in->model->params;
    size_t part;
    const ofr_gguf_tensor *embedding = find_tensor(in, "token_embd.weight", &part);
    if (!embedding)
        return ofr_fail(in->err, OFR_EFORMAT,
                        "%s: tensor 'token_embd.weight' is missing: the file holds no model (use "
                        "--tokenizer_only for its tokenizer)",
                        ofr_gguf_path(in->gguf));
    if (embedding->rows > UINT32_MAX)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: the vocabulary has an absurd size",
                        ofr_gguf_path(in->gguf));
    p->vocab_size = (uint32_t)embedding->rows;
    const mapping first = {.source = "token_embd.weight",
                           .name = "model.embed_tokens.weight",
                           .rows = p->vocab_size,
                           .k = p->d_model,
                           .class = OFR_TENSOR_CLASS_EMBEDDING};
    int r = map_tensor(in, &first, -1);
    for (uint32_t i = 0; i < p->n_layers && r >= 0; i++)
        r = map_layer(in, (int)i);
    if (r < 0)
        return r;
    const mapping norm = {.source = "output_norm.weight",
                          .name = "model.norm.weight",
                          .k = p->d_model,
                          .class = OFR_TENSOR_CLASS_VECTOR};
    const mapping head = {.source = "output.weight",
                          .name = "lm_head.weight",
                          .rows = p->vocab_size,
                          .k = p->d_model,
                          .class = OFR_TENSOR_CLASS_EMBEDDING,
                          .optional = true};
    bool is_long = p->rope.scaling == OFR_ROPE_SCALING_LONGROPE;
    const mapping factors = {.source = is_long ? "rope_factors_short.weight" : "rope_freqs.weight",
                             .name = "rope_freq_factors",
                             .k = p->rope.dims / 2,
                             .class = OFR_TENSOR_CLASS_VECTOR,
                             .optional = !is_long};
    const mapping long_factors = {.source = "rope_factors_long.weight",
                                  .name = "rope_freq_factors_long",
                                  .k = p->rope.dims / 2,
                                  .class = OFR_TENSOR_CLASS_VECTOR};
    r = map_tensor(in, &norm, -1);
    if (r >= 0)
        r = map_tensor(in, &head, -1);
    p->tied_embedding = r == 0;
    if (r >= 0)
        r = map_tensor(in, &factors, -1);
    if (r >= 0 && is_long)
        r = map_tensor(in, &long_factors, -1);
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
                            ofr_gguf_path(in->gguf), in->known->name, limits[i].name,
                            limits[i].value);
    if (p->rope.dims < 2 || p->rope.dims % 2 != 0 || p->rope.dims > p->head_dim)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: %s.rope.dimension_count is the absurd %u",
                        ofr_gguf_path(in->gguf), in->known->name, p->rope.dims);
    return 0;
}

int ofr_gguf_model_init(ofr_bake_model *model, const ofr_gguf *const *parts, size_t n_parts,
                        int group_size, uint32_t max_context, ofr_error *err)
{
    *model = (ofr_bake_model){.group_size = group_size};
    loader in = {.model = model, .parts = parts, .n_parts = n_parts, .gguf = parts[0], .err = err};
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
