/* From a package's tensor table to the model the backends see: every tensor found, every shape and
 * type checked against the hyper-parameters once, so that no kernel has to. */
#include "engine/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct tensor_resolver {
    const ofr_package *package;
    ofr_error *err;
    int result; /* of the first failure */
} tensor_resolver;

static void fail_shape(tensor_resolver *resolver, const ofr_tensor *tensor, uint64_t rows,
                       uint64_t columns)
{
    char expected[48];
    if (columns > 0) {
        snprintf(expected, sizeof expected, "[%llu, %llu]", (unsigned long long)rows,
                 (unsigned long long)columns);
    } else {
        snprintf(expected, sizeof expected, "[%llu]", (unsigned long long)rows);
    }
    resolver->result = ofr_fail(
        resolver->err, OFR_EFORMAT,
        "tensor '%s' has %u dimensions of %llu x %llu, but the hyper-parameters ask for %s; bake "
        "the package again",
        tensor->name, tensor->n_dims, (unsigned long long)tensor->shape[0],
        (unsigned long long)(tensor->n_dims > 1 ? tensor->shape[1] : 1), expected);
}

static const float *find_vector(tensor_resolver *resolver, const char *name, uint64_t length,
                                bool required)
{
    if (resolver->result < 0) {
        return NULL;
    }
    const ofr_tensor *tensor = ofr_package_find(resolver->package, name);
    if (tensor == NULL) {
        if (required) {
            resolver->result = ofr_fail(resolver->err, OFR_EFORMAT,
                                        "the package has no tensor '%s'; bake it again", name);
        }
        return NULL;
    }
    if (tensor->n_dims != 1 || tensor->shape[0] != length) {
        fail_shape(resolver, tensor, length, 0);
        return NULL;
    }
    if (tensor->dtype != OFR_DTYPE_F32 || tensor->bytes < length * sizeof(float)) {
        resolver->result = ofr_fail(
            resolver->err, OFR_EFORMAT, "tensor '%s' is %s of %llu bytes, but f32 is needed", name,
            ofr_dtype_name(tensor->dtype), (unsigned long long)tensor->bytes);
        return NULL;
    }
    return tensor->data;
}

static bool matrix_fits(const ofr_tensor *tensor, uint64_t rows, uint64_t columns)
{
    uint64_t elements = rows * columns; /* both below 2^32 */
    unsigned bits = ofr_dtype_bits(tensor->dtype);
    if (tensor->data == NULL || tensor->bytes / bits < elements / 8) {
        return false;
    }
    if (!ofr_dtype_is_grouped(tensor->dtype)) {
        return tensor->dtype == OFR_DTYPE_F16 || tensor->dtype == OFR_DTYPE_F32;
    }
    uint32_t group = tensor->group_size;
    return group >= 32 && group % 32 == 0 && columns % group == 0 && tensor->scales != NULL &&
           tensor->scale_bytes / 2 / ofr_dtype_group_numbers(tensor->dtype) >=
               rows * (columns / group);
}

static const ofr_tensor *find_matrix(tensor_resolver *resolver, const char *name, uint64_t rows,
                                     uint64_t columns)
{
    if (resolver->result < 0) {
        return NULL;
    }
    const ofr_tensor *tensor = ofr_package_find(resolver->package, name);
    if (tensor == NULL) {
        resolver->result = ofr_fail(resolver->err, OFR_EFORMAT,
                                    "the package has no tensor '%s'; bake it again", name);
        return NULL;
    }
    if (tensor->n_dims != 2 || tensor->shape[0] != rows || tensor->shape[1] != columns) {
        fail_shape(resolver, tensor, rows, columns);
        return NULL;
    }
    if (!matrix_fits(tensor, rows, columns)) {
        resolver->result =
            ofr_fail(resolver->err, OFR_EFORMAT,
                     "tensor '%s' (%s, group size %u, %llu + %llu bytes) does not hold a %llu x "
                     "%llu matrix; "
                     "bake the package again",
                     name, ofr_dtype_name(tensor->dtype), tensor->group_size,
                     (unsigned long long)tensor->bytes, (unsigned long long)tensor->scale_bytes,
                     (unsigned long long)rows, (unsigned long long)columns);
        return NULL;
    }
    return tensor;
}

static ofr_linear find_linear(tensor_resolver *resolver, uint32_t layer, const char *part,
                              uint64_t rows, uint64_t columns)
{
    char name[96];
    ofr_linear linear;
    snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, part);
    linear.weight = find_matrix(resolver, name, rows, columns);
    snprintf(name, sizeof name, "model.layers.%u.%s.bias", layer, part);
    linear.bias = find_vector(resolver, name, rows, false);
    return linear;
}

static void find_layer(tensor_resolver *resolver, const ofr_model_params *params, uint32_t index,
                       ofr_layer *layer)
{
    char name[96];
    uint64_t q = (uint64_t)params->n_heads * params->head_dim;
    uint64_t kv = (uint64_t)params->n_kv_heads * params->head_dim;
    uint64_t d = params->d_model;
    snprintf(name, sizeof name, "model.layers.%u.input_layernorm.weight", index);
    layer->attention_norm = find_vector(resolver, name, d, true);
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", index);
    layer->mlp_norm = find_vector(resolver, name, d, true);
    layer->q = find_linear(resolver, index, "self_attn.q_proj", q, d);
    layer->k = find_linear(resolver, index, "self_attn.k_proj", kv, d);
    layer->v = find_linear(resolver, index, "self_attn.v_proj", kv, d);
    layer->o = find_linear(resolver, index, "self_attn.o_proj", d, q);
    layer->gate = find_linear(resolver, index, "mlp.gate_proj", params->d_ff, d);
    layer->up = find_linear(resolver, index, "mlp.up_proj", params->d_ff, d);
    layer->down = find_linear(resolver, index, "mlp.down_proj", d, params->d_ff);
    layer->flags = params->layer_flags[index];
    const struct {
        const char *part;
        uint64_t length;
        const float **to;
    } norms[] = {
        {"attention_output_norm", d, &layer->attention_output_norm},
        {"mlp_output_norm", d, &layer->mlp_output_norm},
        {"self_attn.q_norm", params->head_dim, &layer->q_norm},
        {"self_attn.k_norm", params->head_dim, &layer->k_norm},
    };
    for (size_t i = 0; i < sizeof norms / sizeof norms[0]; i++) {
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", index, norms[i].part);
        *norms[i].to = find_vector(resolver, name, norms[i].length, false);
    }
    if (resolver->result == 0 && (layer->q_norm == NULL) != (layer->k_norm == NULL)) {
        resolver->result = ofr_fail(resolver->err, OFR_EFORMAT,
                                    "layer %u has a norm for only one of Q and K; bake the package "
                                    "again",
                                    index);
    }
}

static int check_params(const ofr_model_params *params, ofr_error *err)
{
    if (params->n_layers == 0 || params->n_layers > OFR_PACKAGE_MAX_LAYERS ||
        params->d_model == 0 || params->n_heads == 0 || params->n_kv_heads == 0 ||
        params->head_dim == 0 || params->d_ff == 0 || params->vocab_size == 0) {
        return ofr_fail(err, OFR_EFORMAT,
                        "the model's hyper-parameters are out of range: %u layers, d_model %u, %u "
                        "heads, %u KV heads, head_dim %u, d_ff %u, vocabulary %u",
                        params->n_layers, params->d_model, params->n_heads, params->n_kv_heads,
                        params->head_dim, params->d_ff, params->vocab_size);
    }
    if (params->n_heads % params->n_kv_heads != 0) {
        return ofr_fail(err, OFR_EFORMAT, "%u heads are not a multiple of %u KV heads",
                        params->n_heads, params->n_kv_heads);
    }
    if (params->rope.dims == 0 || params->rope.dims % 2 != 0 ||
        params->rope.dims > params->head_dim) {
        return ofr_fail(err, OFR_EFORMAT, "RoPE rotates %u of %u elements of a head",
                        params->rope.dims, params->head_dim);
    }
    if (!(params->rms_epsilon > 0)) {
        return ofr_fail(err, OFR_EFORMAT, "rms_epsilon %g is not positive",
                        (double)params->rms_epsilon);
    }
    return 0;
}

int ofr_model_init(ofr_model *model, const ofr_package *package, ofr_error *err)
{
    memset(model, 0, sizeof *model);
    const ofr_model_params *params = ofr_package_params(package);
    int result = check_params(params, err);
    if (result < 0) {
        return result;
    }
    tensor_resolver resolver = {.package = package, .err = err};
    model->package = package;
    model->params = params;
    model->layers = calloc(params->n_layers, sizeof *model->layers);
    if (model->layers == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "out of memory for %u layers", params->n_layers);
    }
    model->embedding =
        find_matrix(&resolver, "model.embed_tokens.weight", params->vocab_size, params->d_model);
    model->final_norm = find_vector(&resolver, "model.norm.weight", params->d_model, true);
    model->rope_freq_factors =
        find_vector(&resolver, "rope_freq_factors", params->rope.dims / 2, false);
    bool is_long = params->rope.scaling == OFR_ROPE_SCALING_LONGROPE;
    if (is_long) {
        model->rope_freq_factors_long =
            find_vector(&resolver, "rope_freq_factors_long", params->rope.dims / 2, true);
    }
    model->head.weight = params->tied_embedding ? model->embedding
                                                : find_matrix(&resolver, "lm_head.weight",
                                                              params->vocab_size, params->d_model);
    model->head.bias = find_vector(&resolver, "lm_head.bias", params->vocab_size, false);
    for (uint32_t i = 0; i < params->n_layers && resolver.result == 0; i++) {
        find_layer(&resolver, params, i, &model->layers[i]);
    }
    if (resolver.result < 0) {
        ofr_model_done(model);
    }
    return resolver.result;
}

void ofr_model_done(ofr_model *model)
{
    if (model != NULL) {
        free(model->layers);
        memset(model, 0, sizeof *model);
    }
}

const float *ofr_model_freq_factors(const ofr_model *model, uint32_t context)
{
    const ofr_rope_params *rope = &model->params->rope;
    if (rope->scaling == OFR_ROPE_SCALING_LONGROPE && context > rope->original_context) {
        return model->rope_freq_factors_long;
    }
    return model->rope_freq_factors;
}
