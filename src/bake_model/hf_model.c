/* The tensor names of the HF transformers library, for all architectures that hf_config.c knows. */
#include "bake_model/hf_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct mapper {
    ofr_bake_model *model;
    const char *path;
    const ofr_hf_config *config;
    const ofr_safetensors *set;
    const char *prefix; /* "model.", or what a model that also sees puts there */
    ofr_error *err;
} mapper;

typedef struct mapping {
    const char *source; /* behind the layer's prefix */
    const char *name;   /* in the package, behind "model.layers.<i>." */
    uint64_t rows, k;   /* rows 0: a vector of k */
    enum ofr_tensor_class class;
    uint64_t first_row, all_rows; /* of a fused tensor: where this part begins; 0, 0: not fused */
    bool optional;
    float add;
} mapping;

static void format_shape(const ofr_safetensor *t, char text[96])
{
    size_t used = 0;
    for (uint32_t i = 0; i < t->n_dims && used < 80; i++)
        used += (size_t)snprintf(text + used, 96 - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)t->shape[i]);
    text[used < 96 ? used : 95] = '\0';
}

static int check_tensor(const mapper *in, const ofr_safetensor *t, uint64_t rows, uint64_t k)
{
    bool fits = rows ? t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == k
                     : t->n_dims == 1 && t->shape[0] == k;
    char shape[96] = "";
    format_shape(t, shape);
    if (!fits && rows)
        return ofr_fail(in->err, OFR_EFORMAT,
                        "%s: tensor '%s' has the shape [%s], config.json asks for [%llu, %llu]",
                        in->path, t->name, shape, (unsigned long long)rows, (unsigned long long)k);
    if (!fits)
        return ofr_fail(in->err, OFR_EFORMAT,
                        "%s: tensor '%s' has the shape [%s], config.json asks for [%llu]", in->path,
                        t->name, shape, (unsigned long long)k);
    if (!t->is_float)
        return ofr_fail(in->err, OFR_EUNSUPPORTED,
                        "%s: tensor '%s' is %s; F32, F16 and BF16 can be baked", in->path, t->name,
                        t->dtype);
    return 0;
}

/* 1: added; 0: absent and optional. */
static int map_named(const mapper *in, const char *source_name, const char *name, const mapping *m)
{
    ofr_safetensor *t = ofr_safetensors_find(in->set, source_name);
    if (!t && m->optional)
        return 0;
    if (!t)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: tensor '%s' is missing", in->path, source_name);
    int r = check_tensor(in, t, m->all_rows ? m->all_rows : m->rows, m->k);
    ofr_bake_tensor *made = NULL;
    if (r == 0)
        r = ofr_bake_model_add(in->model, in->path, name, m->rows, m->k, m->class, &made, in->err);
    if (r < 0)
        return r;
    uint64_t row_bytes = m->k * ofr_gguf_type_block_bytes(t->type);
    made->add = m->add;
    made->source = (ofr_source_tensor){.type = t->type,
                                       .file = t->file,
                                       .rows = m->rows ? m->rows : 1,
                                       .k = m->k,
                                       .row_bytes = row_bytes,
                                       .offset = t->begin + m->first_row * row_bytes};
    snprintf(made->source.name, sizeof made->source.name, "%s", t->name);
    t->used = true;
    return 1;
}

static int map_in_layer(const mapper *in, uint32_t layer, const mapping *m)
{
    char source_name[256], name[256];
    snprintf(source_name, sizeof source_name, "%slayers.%u.%s", in->prefix, layer, m->source);
    snprintf(name, sizeof name, "model.layers.%u.%s", layer, m->name);
    return map_named(in, source_name, name, m);
}

/* A bias is part of its matrix's mapping: same rows. */
static int map_with_bias(const mapper *in, uint32_t layer, const mapping *m, bool required)
{
    char source_name[128], name[128];
    int r = map_in_layer(in, layer, m);
    if (r < 0)
        return r;
    snprintf(source_name, sizeof source_name, "%.*s.bias", (int)(strlen(m->source) - 7), m->source);
    snprintf(name, sizeof name, "%.*s.bias", (int)(strlen(m->name) - 7), m->name);
    const mapping bias = {.source = source_name,
                          .name = name,
                          .k = m->rows,
                          .class = OFR_TENSOR_CLASS_VECTOR,
                          .optional = !required};
    return map_in_layer(in, layer, &bias);
}

static int map_norms(const mapper *in, uint32_t layer)
{
    const ofr_model_params *p = &in->config->params;
    unsigned traits = in->config->traits;
    bool four = traits & OFR_HF_OUTPUT_NORMS, heads = traits & OFR_HF_HEAD_NORMS;
    const struct {
        bool present;
        const char *source, *name;
        uint64_t k;
    } norms[] = {
        {true, "input_layernorm.weight", "input_layernorm.weight", p->d_model},
        {!four, "post_attention_layernorm.weight", "post_attention_layernorm.weight", p->d_model},
        {four, "post_attention_layernorm.weight", "attention_output_norm.weight", p->d_model},
        {four, "pre_feedforward_layernorm.weight", "post_attention_layernorm.weight", p->d_model},
        {four, "post_feedforward_layernorm.weight", "mlp_output_norm.weight", p->d_model},
        {heads, "self_attn.q_norm.weight", "self_attn.q_norm.weight", p->head_dim},
        {heads, "self_attn.k_norm.weight", "self_attn.k_norm.weight", p->head_dim},
    };
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++) {
        const mapping m = {.source = norms[i].source,
                           .name = norms[i].name,
                           .k = norms[i].k,
                           .class = OFR_TENSOR_CLASS_VECTOR,
                           .add = (traits & OFR_HF_NORM_PLUS_ONE) != 0 ? 1.0f : 0.0f};
        int r = norms[i].present ? map_in_layer(in, layer, &m) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static int map_matrices(const mapper *in, uint32_t layer)
{
    const ofr_model_params *p = &in->config->params;
    bool fused = in->config->traits & OFR_HF_FUSED;
    uint64_t d = p->d_model, q = (uint64_t)p->n_heads * p->head_dim, ff = p->d_ff;
    uint64_t kv = (uint64_t)p->n_kv_heads * p->head_dim, qkv = q + 2 * kv;
    enum ofr_tensor_class attention = OFR_TENSOR_CLASS_ATTENTION, mlp = OFR_TENSOR_CLASS_MLP;
    const char *all = "self_attn.qkv_proj.weight", *both = "mlp.gate_up_proj.weight";
    const mapping fused_parts[] = {
        {all, "self_attn.q_proj.weight", q, d, attention, 0, qkv, false, 0},
        {all, "self_attn.k_proj.weight", kv, d, attention, q, qkv, false, 0},
        {all, "self_attn.v_proj.weight", kv, d, attention, q + kv, qkv, false, 0},
        {both, "mlp.gate_proj.weight", ff, d, mlp, 0, 2 * ff, false, 0},
        {both, "mlp.up_proj.weight", ff, d, mlp, ff, 2 * ff, false, 0},
    };
    const mapping parts[] = {
        {"self_attn.q_proj.weight", "self_attn.q_proj.weight", q, d, attention, 0, 0, false, 0},
        {"self_attn.k_proj.weight", "self_attn.k_proj.weight", kv, d, attention, 0, 0, false, 0},
        {"self_attn.v_proj.weight", "self_attn.v_proj.weight", kv, d, attention, 0, 0, false, 0},
        {"mlp.gate_proj.weight", "mlp.gate_proj.weight", ff, d, mlp, 0, 0, false, 0},
        {"mlp.up_proj.weight", "mlp.up_proj.weight", ff, d, mlp, 0, 0, false, 0},
    };
    const mapping last[] = {
        {"self_attn.o_proj.weight", "self_attn.o_proj.weight", d, q, attention, 0, 0, false, 0},
        {"mlp.down_proj.weight", "mlp.down_proj.weight", d, ff, mlp, 0, 0, false, 0},
    };
    int r = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && r >= 0; i++) {
        bool required = i < 3 && (in->config->traits & OFR_HF_QKV_BIAS);
        r = fused ? map_in_layer(in, layer, &fused_parts[i])
                  : map_with_bias(in, layer, &parts[i], required);
    }
    for (size_t i = 0; i < sizeof last / sizeof last[0] && r >= 0; i++)
        r = map_with_bias(in, layer, &last[i], false);
    return r;
}

static int map_ends(const mapper *in)
{
    const ofr_model_params *p = &in->config->params;
    char source_name[256];
    const mapping embedding = {
        .rows = p->vocab_size, .k = p->d_model, .class = OFR_TENSOR_CLASS_EMBEDDING};
    const mapping norm = {.k = p->d_model,
                          .class = OFR_TENSOR_CLASS_VECTOR,
                          .add = (in->config->traits & OFR_HF_NORM_PLUS_ONE) != 0 ? 1.0f : 0.0f};
    snprintf(source_name, sizeof source_name, "%snorm.weight", in->prefix);
    int r = map_named(in, source_name, "model.norm.weight", &norm);
    if (r < 0 || p->tied_embedding)
        return r;
    r = map_named(in, "lm_head.weight", "lm_head.weight", &embedding);
    if (r == OFR_EFORMAT && !ofr_safetensors_find(in->set, "lm_head.weight"))
        return ofr_fail(in->err, r,
                        "%s: tensor 'lm_head.weight' is missing, and config.json does not say that "
                        "the embedding is the head (tie_word_embeddings)",
                        in->path);
    return r;
}

/* Long RoPE's factors lie in config.json. */
static int add_factors(const mapper *in, const char *name, const float *values)
{
    if (!values)
        return 0;
    ofr_bake_tensor *made = NULL;
    uint64_t n = in->config->params.rope.dims / 2;
    int r = ofr_bake_model_add(in->model, in->path, name, 0, n, OFR_TENSOR_CLASS_VECTOR, &made,
                               in->err);
    if (r < 0)
        return r;
    made->values = malloc(n * sizeof *values);
    if (!made->values)
        return ofr_fail(in->err, OFR_ENOMEM, "%s: out of memory", in->path);
    memcpy(made->values, values, n * sizeof *values);
    return 0;
}

static bool begins_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* A tensor that no mapping took would be left out of the computation in silence. */
static int check_all_used(const mapper *in)
{
    static const char *const unneeded[] = {"vision_tower.", "multi_modal_projector.",
                                           "model.vision_tower.", "model.multi_modal_projector."};
    bool sees = strcmp(in->prefix, "model.") != 0;
    for (size_t i = 0; i < in->set->n; i++) {
        const ofr_safetensor *t = &in->set->tensors[i];
        bool known = t->used || strstr(t->name, "rotary_emb.inv_freq") != NULL;
        known |= in->config->params.tied_embedding && strcmp(t->name, "lm_head.weight") == 0;
        for (size_t j = 0; j < sizeof unneeded / sizeof unneeded[0]; j++)
            known |= sees && begins_with(t->name, unneeded[j]);
        if (!known)
            return ofr_fail(in->err, OFR_EUNSUPPORTED,
                            "%s: tensor '%s' is not part of the %s architecture that config.json "
                            "describes",
                            in->path, t->name, in->config->params.architecture);
    }
    return 0;
}

int ofr_hf_model_map(ofr_bake_model *model, const char *path, const ofr_hf_config *config,
                     const ofr_safetensors *set, ofr_error *err)
{
    static const char *const prefixes[] = {"model.", "language_model.model.",
                                           "model.language_model."};
    mapper in = {.model = model, .path = path, .config = config, .set = set, .err = err};
    char name[128];
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        snprintf(name, sizeof name, "%sembed_tokens.weight", prefixes[i]);
        if (!in.prefix && ofr_safetensors_find(set, name))
            in.prefix = prefixes[i];
    }
    if (!in.prefix)
        in.prefix = prefixes[0];
    const ofr_model_params *p = &config->params;
    const mapping embedding = {
        .rows = p->vocab_size, .k = p->d_model, .class = OFR_TENSOR_CLASS_EMBEDDING};
    snprintf(name, sizeof name, "%sembed_tokens.weight", in.prefix);
    int r = map_named(&in, name, "model.embed_tokens.weight", &embedding);
    for (uint32_t i = 0; i < p->n_layers && r >= 0; i++) {
        r = map_norms(&in, i);
        if (r >= 0)
            r = map_matrices(&in, i);
    }
    if (r >= 0)
        r = map_ends(&in);
    if (r >= 0)
        r = add_factors(&in, "rope_freq_factors", config->short_factors);
    if (r >= 0)
        r = add_factors(&in, "rope_freq_factors_long", config->long_factors);
    return r < 0 ? r : check_all_used(&in);
}
