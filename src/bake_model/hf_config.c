/* config.json, architecture by architecture. */
#include "bake_model/hf_config.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_JSON_BYTES = 16 << 20 };

typedef struct loader {
    const char *path;
    const json_t *json; /* the text model's own object */
    ofr_hf_config *config;
    ofr_model_params *params;
    ofr_error *err;
    int result; /* of the first failure; after it nothing is read any more */
} loader;

typedef struct architecture {
    const char *model_type; /* in config.json */
    const char *name;       /* in the package */
    unsigned traits;
    bool tied;           /* default of tie_word_embeddings */
    uint32_t n_kv_heads; /* default; 0: as many as heads */
    uint32_t head_dim;   /* default; 0: d_model / heads */
    double rms_epsilon;
    double rope_base;
    uint32_t context;
    void (*load)(loader *in); /* what only this one has */
} architecture;

/* ---- getters ---- */

static int fail(loader *in, const char *key, const char *what)
{
    if (in->result == 0)
        in->result = ofr_fail(in->err, OFR_EFORMAT, "%s: '%s' %s", in->path, key, what);
    return in->result;
}

/* NULL where it is absent or null. */
static const json_t *get(const loader *in, const json_t *object, const char *key)
{
    const json_t *value = in->result < 0 ? NULL : json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static uint32_t get_u32(loader *in, const char *key, uint32_t fallback)
{
    const json_t *value = get(in, in->json, key);
    if (!value)
        return fallback;
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || number > INT32_MAX) {
        fail(in, key, "is no integer that can be used");
        return fallback;
    }
    return (uint32_t)number;
}

static uint32_t require_u32(loader *in, const char *key)
{
    if (in->result == 0 && !get(in, in->json, key))
        fail(in, key, "is missing");
    return get_u32(in, key, 0);
}

static double number_of(loader *in, const json_t *object, const char *key, double fallback)
{
    const json_t *value = get(in, object, key);
    if (!value)
        return fallback;
    double number = json_number_value(value);
    if (!json_is_number(value) || !isfinite((float)number)) {
        fail(in, key, "is no number that can be used");
        return fallback;
    }
    return number;
}

static float get_float(loader *in, const char *key, double fallback)
{
    return (float)number_of(in, in->json, key, fallback);
}

static bool get_bool(loader *in, const char *key, bool fallback)
{
    const json_t *value = get(in, in->json, key);
    if (value && !json_is_boolean(value))
        fail(in, key, "is neither true nor false");
    return value ? json_is_true(value) : fallback;
}

static const char *text_of(loader *in, const json_t *object, const char *key, const char *fallback)
{
    const json_t *value = get(in, object, key);
    if (value && !json_is_string(value))
        fail(in, key, "is no text");
    return json_is_string(value) ? json_string_value(value) : fallback;
}

/* ---- RoPE ---- */

/* Transformers 5 keeps everything in rope_parameters; before, there was rope_theta beside
 * rope_scaling. `kind` is a layer type ("full_attention") where there are two sets, or NULL. */
static const json_t *rope_object(const loader *in, const char *kind)
{
    const json_t *parameters = get(in, in->json, "rope_parameters");
    const json_t *inner = kind ? json_object_get(parameters, kind) : NULL;
    if (json_is_object(inner))
        return inner;
    if (json_is_object(parameters) && !json_object_get(parameters, "full_attention"))
        return parameters;
    return get(in, in->json, "rope_scaling");
}

static void load_llama3(loader *in, const json_t *json, ofr_rope_params *rope)
{
    rope->scaling = OFR_ROPE_SCALING_LLAMA3;
    rope->low_freq_factor = (float)number_of(in, json, "low_freq_factor", 1);
    rope->high_freq_factor = (float)number_of(in, json, "high_freq_factor", 4);
}

static double yarn_magnitude(double factor, double scale)
{
    return factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1;
}

static void load_yarn(loader *in, const json_t *json, ofr_rope_params *rope)
{
    rope->scaling = OFR_ROPE_SCALING_YARN;
    rope->beta_fast = (float)number_of(in, json, "beta_fast", 32);
    rope->beta_slow = (float)number_of(in, json, "beta_slow", 1);
    double scale = number_of(in, json, "mscale", 0), all = number_of(in, json, "mscale_all_dim", 0);
    double factor = (double)rope->factor;
    double attention = yarn_magnitude(factor, 1);
    if (scale != 0 && all != 0)
        attention = yarn_magnitude(factor, scale) / yarn_magnitude(factor, all);
    rope->attention_factor = (float)number_of(in, json, "attention_factor", attention);
    const json_t *truncate = get(in, json, "truncate");
    if (truncate && !json_is_true(truncate))
        fail(in, "truncate", "is false in a yarn scaling, which this build does not know");
}

static float *load_factors(loader *in, const json_t *json, const char *key, uint32_t n)
{
    const json_t *list = get(in, json, key);
    if (json_array_size(list) != n) {
        fail(in, key, "has not one factor for each pair of rotated elements");
        return NULL;
    }
    float *factors = calloc(n, sizeof *factors);
    if (!factors) {
        in->result = ofr_fail(in->err, OFR_ENOMEM, "%s: out of memory", in->path);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++) {
        factors[i] = (float)json_number_value(json_array_get(list, i));
        if (!isfinite(factors[i]) || factors[i] <= 0)
            fail(in, key, "holds what is no positive number");
    }
    return factors;
}

static void load_longrope(loader *in, const json_t *json, ofr_rope_params *rope)
{
    rope->scaling = OFR_ROPE_SCALING_LONGROPE;
    double factor = number_of(in, json, "factor", 1), original = rope->original_context;
    if (get(in, in->json, "original_max_position_embeddings"))
        factor = in->params->context_length / original;
    double attention = factor <= 1 ? 1 : sqrt(1 + log(factor) / log(original));
    rope->attention_factor = (float)number_of(in, json, "attention_factor", attention);
    rope->factor = 0;
    in->config->short_factors = load_factors(in, json, "short_factor", rope->dims / 2);
    in->config->long_factors = load_factors(in, json, "long_factor", rope->dims / 2);
}

static void load_rope(loader *in, const char *kind, double base, ofr_rope_params *rope)
{
    const ofr_model_params *p = in->params;
    const json_t *json = rope_object(in, kind);
    double share = number_of(in, in->json, "partial_rotary_factor", 1);
    share = number_of(in, json, "partial_rotary_factor", share);
    rope->dims = share > 0 && share <= 1 ? (uint32_t)(p->head_dim * share) : 0;
    rope->base = (float)number_of(in, json, "rope_theta", base);
    rope->scaling = OFR_ROPE_SCALING_NONE;
    if (!json || in->result < 0)
        return;
    const char *type = text_of(in, json, "rope_type", text_of(in, json, "type", "default"));
    if (strcmp(type, "default") == 0)
        return;
    rope->factor = (float)number_of(in, json, "factor", 1);
    double original =
        number_of(in, in->json, "original_max_position_embeddings", p->context_length);
    original = number_of(in, json, "original_max_position_embeddings", original);
    rope->original_context = original >= 1 && original < 1u << 30 ? (uint32_t)original : 0;
    if (strcmp(type, "linear") == 0) {
        rope->scaling = OFR_ROPE_SCALING_LINEAR;
        rope->original_context = 0;
    } else if (strcmp(type, "llama3") == 0) {
        load_llama3(in, json, rope);
    } else if (strcmp(type, "yarn") == 0) {
        load_yarn(in, json, rope);
    } else if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) {
        load_longrope(in, json, rope);
    } else if (in->result == 0) {
        in->result = ofr_fail(in->err, OFR_EUNSUPPORTED,
                              "%s: has the RoPE scaling '%.64s', which this build does not know; "
                              "known: linear, llama3, yarn, longrope",
                              in->path, type);
    }
}

/* ---- layers ---- */

static void set_flag(loader *in, uint32_t layer, enum ofr_layer_flag flag)
{
    in->params->layer_flags[layer] = (uint8_t)(in->params->layer_flags[layer] | flag);
}

/* Layer i is windowed if the file says so; else if `windowed`(i, period). */
static void load_windows(loader *in, uint32_t window, uint32_t period,
                         bool (*windowed)(uint32_t, uint32_t))
{
    ofr_model_params *p = in->params;
    const json_t *types = get(in, in->json, "layer_types");
    if (types && json_array_size(types) != p->n_layers) {
        fail(in, "layer_types", "has not one entry for each layer");
        return;
    }
    if (window == 0)
        return;
    bool any = false;
    for (uint32_t i = 0; i < p->n_layers && in->result == 0; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        bool is_windowed =
            types ? type && strcmp(type, "sliding_attention") == 0 : windowed(i, period);
        if (types && (!type || (!is_windowed && strcmp(type, "full_attention") != 0)))
            fail(in, "layer_types", "names a kind of layer that this build does not know");
        if (is_windowed)
            set_flag(in, i, OFR_LAYER_WINDOWED);
        any |= is_windowed;
    }
    if (any)
        p->sliding_window = window;
}

static bool every_layer(uint32_t layer, uint32_t period)
{
    (void)layer, (void)period;
    return true;
}

static bool from_layer(uint32_t layer, uint32_t first)
{
    return layer >= first;
}

static bool but_every_nth(uint32_t layer, uint32_t period)
{
    return (layer + 1) % period != 0;
}

/* ---- architectures ---- */

static void load_mistral(loader *in)
{
    bool stated = json_object_get(in->json, "sliding_window") != NULL;
    load_windows(in, get_u32(in, "sliding_window", stated ? 0 : 4096), 0, every_layer);
}

static void load_qwen(loader *in)
{
    if (get_bool(in, "use_sliding_window", false))
        load_windows(in, get_u32(in, "sliding_window", 4096), get_u32(in, "max_window_layers", 28),
                     from_layer);
}

static void load_phi3(loader *in)
{
    load_windows(in, get_u32(in, "sliding_window", 0), 0, every_layer);
}

static void load_gemma(loader *in)
{
    ofr_model_params *p = in->params;
    p->activation = OFR_ACTIVATION_GELU_TANH;
    p->embedding_scale = sqrtf((float)p->d_model);
    double scalar = number_of(in, in->json, "query_pre_attn_scalar", 256);
    if (scalar > 0)
        p->attention_scale = (float)(1 / sqrt(scalar));
    else
        fail(in, "query_pre_attn_scalar", "is not positive");
}

static void load_gemma2(loader *in)
{
    load_gemma(in);
    bool attention = json_object_get(in->json, "attn_logit_softcapping") != NULL;
    bool final = json_object_get(in->json, "final_logit_softcapping") != NULL;
    in->params->attention_softcap = get_float(in, "attn_logit_softcapping", attention ? 0 : 50);
    in->params->logit_softcap = get_float(in, "final_logit_softcapping", final ? 0 : 30);
    load_windows(in, get_u32(in, "sliding_window", 4096), 2, but_every_nth);
}

static void load_gemma3(loader *in)
{
    load_gemma(in);
    ofr_model_params *p = in->params;
    p->attention_softcap = get_float(in, "attn_logit_softcapping", 0);
    p->logit_softcap = get_float(in, "final_logit_softcapping", 0);
    uint32_t period = get_u32(in, "sliding_window_pattern", 6);
    period = get_u32(in, "_sliding_window_pattern", period);
    load_windows(in, get_u32(in, "sliding_window", 4096), period > 0 ? period : 6, but_every_nth);
    const json_t *both = get(in, in->json, "rope_parameters");
    double base = number_of(in, in->json, "rope_local_base_freq", 10000);
    base = number_of(in, json_object_get(both, "sliding_attention"), "rope_theta", base);
    if (p->sliding_window > 0)
        p->rope_local = (ofr_rope_params){.dims = p->head_dim, .base = (float)base};
}

static void load_smollm3(loader *in)
{
    ofr_model_params *p = in->params;
    if (get_bool(in, "use_sliding_window", false))
        load_windows(in, get_u32(in, "sliding_window", 0), 0, every_layer);
    const json_t *list = get(in, in->json, "no_rope_layers");
    uint32_t period = get_u32(in, "no_rope_layer_interval", 4);
    if (list && json_array_size(list) != p->n_layers) {
        fail(in, "no_rope_layers", "has not one entry for each layer");
        return;
    }
    for (uint32_t i = 0; i < p->n_layers; i++) {
        bool rotated = list ? json_integer_value(json_array_get(list, i)) != 0
                            : period == 0 || (i + 1) % period != 0;
        if (!rotated)
            set_flag(in, i, OFR_LAYER_UNROTATED);
    }
}

static void load_granite(loader *in)
{
    ofr_model_params *p = in->params;
    p->embedding_scale = get_float(in, "embedding_multiplier", 1);
    p->residual_scale = get_float(in, "residual_multiplier", 1);
    p->attention_scale = get_float(in, "attention_multiplier", 1);
    double divisor = number_of(in, in->json, "logits_scaling", 1);
    p->logit_scale = divisor > 0 ? (float)(1 / divisor) : -1;
}

static const architecture architectures[] = {
    {"gemma2", "gemma2", OFR_HF_NORM_PLUS_ONE | OFR_HF_OUTPUT_NORMS, true, 4, 256, 1e-6, 10000,
     8192, load_gemma2},
    {"gemma3_text", "gemma3", OFR_HF_NORM_PLUS_ONE | OFR_HF_OUTPUT_NORMS | OFR_HF_HEAD_NORMS, true,
     4, 256, 1e-6, 1000000, 131072, load_gemma3},
    {"granite", "granite", 0, false, 0, 0, 1e-6, 10000, 2048, load_granite},
    {"llama", "llama", 0, false, 0, 0, 1e-6, 10000, 2048, NULL},
    {"mistral", "mistral", 0, false, 8, 0, 1e-6, 10000, 131072, load_mistral},
    {"phi3", "phi3", OFR_HF_FUSED, false, 0, 0, 1e-5, 10000, 4096, load_phi3},
    {"qwen2", "qwen2", OFR_HF_QKV_BIAS, false, 32, 0, 1e-6, 10000, 32768, load_qwen},
    {"qwen3", "qwen3", OFR_HF_HEAD_NORMS, false, 32, 128, 1e-6, 10000, 32768, load_qwen},
    {"smollm3", "smollm3", 0, true, 4, 0, 1e-6, 2000000, 32768, load_smollm3},
};
enum { N_ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

/* A model that also sees (gemma3) keeps its text model in an object of its own. */
static const architecture *find_architecture(loader *in)
{
    const char *type = text_of(in, in->json, "model_type", "");
    const json_t *text_model = get(in, in->json, "text_config");
    if (strcmp(type, "gemma3") == 0 && json_is_object(text_model)) {
        in->json = text_model;
        type = "gemma3_text";
    }
    char list[256] = "";
    for (size_t i = 0; i < N_ARCHITECTURES; i++) {
        if (strcmp(architectures[i].model_type, type) == 0)
            return &architectures[i];
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "",
                 architectures[i].model_type);
    }
    if (in->result == 0)
        in->result = ofr_fail(in->err, OFR_EUNSUPPORTED,
                              "%s: has the architecture '%.64s', which this build does not know; "
                              "known: %s",
                              in->path, type, list);
    return NULL;
}

static void check_variants(loader *in)
{
    static const char *const experts[] = {"num_local_experts", "num_experts"};
    for (size_t i = 0; i < sizeof experts / sizeof experts[0]; i++)
        if (get_u32(in, experts[i], 0) > 0)
            in->result =
                ofr_fail(in->err, OFR_EUNSUPPORTED,
                         "%s: is a mixture of experts, which this build does not run", in->path);
    const json_t *quantization = get(in, in->json, "quantization_config");
    if (quantization && in->result == 0)
        in->result =
            ofr_fail(in->err, OFR_EUNSUPPORTED,
                     "%s: the weights are quantized already (%.64s); bake the original model",
                     in->path, text_of(in, quantization, "quant_method", "unknown method"));
}

static void check_activation(loader *in)
{
    const char *name = text_of(in, in->json, "hidden_act", "silu");
    bool gelu = in->params->activation == OFR_ACTIVATION_GELU_TANH;
    if (gelu) /* "gelu" in early files means the same */
        name = text_of(in, in->json, "hidden_activation", "gelu_pytorch_tanh");
    bool known = gelu ? strcmp(name, "gelu_pytorch_tanh") == 0 || strcmp(name, "gelu") == 0
                      : strcmp(name, "silu") == 0;
    if (!known && in->result == 0)
        in->result = ofr_fail(
            in->err, OFR_EUNSUPPORTED, "%s: has the activation '%.64s'; this build knows %s for %s",
            in->path, name, gelu ? "gelu_pytorch_tanh" : "silu", in->params->architecture);
}

/* What divisions and loops below rely on; the rest is checked with the finished parameters. */
static void check_sizes(loader *in)
{
    const ofr_model_params *p = in->params;
    const struct {
        const char *key;
        uint32_t value, maximum;
    } sizes[] = {
        {"hidden_size", p->d_model, 1u << 20},
        {"num_hidden_layers", p->n_layers, OFR_PACKAGE_MAX_LAYERS},
        {"num_attention_heads", p->n_heads, 1u << 14},
        {"num_key_value_heads", p->n_kv_heads, p->n_heads},
        {"intermediate_size", p->d_ff, 1u << 22},
        {"vocab_size", p->vocab_size, 1u << 24},
        {"max_position_embeddings", p->context_length, 1u << 30},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && in->result == 0; i++)
        if (sizes[i].value == 0 || sizes[i].value > sizes[i].maximum)
            in->result = ofr_fail(in->err, OFR_EFORMAT, "%s: '%s' is the absurd %u", in->path,
                                  sizes[i].key, sizes[i].value);
}

static void load(loader *in, const architecture *a)
{
    ofr_model_params *p = in->params;
    snprintf(p->architecture, sizeof p->architecture, "%s", a->name);
    in->config->traits = a->traits;
    check_variants(in);
    p->n_layers = require_u32(in, "num_hidden_layers");
    p->d_model = require_u32(in, "hidden_size");
    p->d_ff = require_u32(in, "intermediate_size");
    bool is_gemma3 = strcmp(a->model_type, "gemma3_text") == 0; /* writes only what is unusual */
    p->n_heads =
        is_gemma3 ? get_u32(in, "num_attention_heads", 8) : require_u32(in, "num_attention_heads");
    p->vocab_size = is_gemma3 ? get_u32(in, "vocab_size", 262208) : require_u32(in, "vocab_size");
    p->n_kv_heads = get_u32(in, "num_key_value_heads", a->n_kv_heads ? a->n_kv_heads : p->n_heads);
    p->context_length = get_u32(in, "max_position_embeddings", a->context);
    p->rms_epsilon = get_float(in, "rms_norm_eps", a->rms_epsilon);
    p->tied_embedding = get_bool(in, "tie_word_embeddings", a->tied);
    check_sizes(in);
    if (in->result < 0)
        return;
    uint32_t fallback = a->head_dim ? a->head_dim : p->d_model / p->n_heads;
    if (!get(in, in->json, "head_dim") && !a->head_dim && p->d_model % p->n_heads != 0)
        fail(in, "num_attention_heads", "does not divide hidden_size");
    p->head_dim = get_u32(in, "head_dim", fallback);
    load_rope(in, "full_attention", number_of(in, in->json, "rope_theta", a->rope_base), &p->rope);
    if (a->load && in->result == 0)
        a->load(in);
    check_activation(in);
}

int ofr_hf_config_parse(ofr_hf_config *config, const char *path, const char *text, size_t size,
                        uint32_t max_context, ofr_error *err)
{
    *config = (ofr_hf_config){0};
    json_error_t problem;
    json_t *root =
        size <= MAX_JSON_BYTES ? json_loadb(text, size, JSON_REJECT_DUPLICATES, &problem) : NULL;
    if (!json_is_object(root)) {
        json_decref(root);
        return ofr_fail(err, OFR_EFORMAT, "%s: is no JSON object", path);
    }
    loader in = {
        .path = path, .json = root, .config = config, .params = &config->params, .err = err};
    const architecture *found = find_architecture(&in);
    if (found)
        load(&in, found);
    json_decref(root);
    if (in.result == 0 && max_context > 0 && max_context < config->params.context_length)
        config->params.context_length = max_context;
    if (in.result < 0)
        ofr_hf_config_done(config);
    return in.result;
}

void ofr_hf_config_done(ofr_hf_config *config)
{
    free(config->short_factors);
    free(config->long_factors);
    config->short_factors = config->long_factors = NULL;
}
