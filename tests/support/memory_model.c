/* Random models for tests: tensors are exactly as large as their contents, so that the sanitizer
 * sees every over-read. */
#include "support/memory_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fp16.h"
#include "reference/reference.h"

enum { MAX_TENSORS = 4096 };

typedef struct builder {
    memory_model *made;
    uint64_t random;
    const memory_model_features *features;
} builder;

static void *checked(void *p)
{
    if (p == NULL) {
        abort();
    }
    return p;
}

static float uniform(builder *b)
{
    b->random = b->random * 6364136223846793005U + 1442695040888963407U;
    return (float)(b->random >> 40) / 8388608.0f - 1;
}

static ofr_tensor *add_tensor(builder *b, const char *name, enum ofr_dtype dtype, uint64_t rows,
                              uint64_t columns)
{
    if (b->made->n_tensors == MAX_TENSORS) {
        abort();
    }
    ofr_tensor *tensor = &b->made->tensors[b->made->n_tensors++];
    tensor->name = checked(strdup(name));
    tensor->dtype = dtype;
    tensor->n_dims = columns > 0 ? 2 : 1;
    tensor->shape[0] = rows;
    tensor->shape[1] = columns;
    return tensor;
}

static const float *add_vector(builder *b, const char *name, uint64_t n, float centre, float spread)
{
    ofr_tensor *tensor = add_tensor(b, name, OFR_DTYPE_F32, n, 0);
    float *values = checked(malloc(n * sizeof *values));
    for (uint64_t i = 0; i < n; i++) {
        values[i] = centre + spread * uniform(b);
    }
    tensor->bytes = n * sizeof *values;
    tensor->data = values;
    return values;
}

/* Values of variance about 1 / columns, which keeps activations near 1. */
static const ofr_tensor *add_matrix(builder *b, const char *name, enum ofr_dtype dtype,
                                    uint32_t group, uint64_t rows, uint64_t columns)
{
    ofr_tensor *tensor = add_tensor(b, name, dtype, rows, columns);
    uint64_t n = rows * columns;
    float limit = sqrtf(3.0f / (float)columns);
    if (dtype == OFR_DTYPE_F32 || dtype == OFR_DTYPE_F16) {
        float *wide = checked(malloc(n * sizeof(float)));
        uint16_t *narrow = (void *)wide;
        for (uint64_t i = 0; i < n; i++) {
            float value = limit * uniform(b);
            if (dtype == OFR_DTYPE_F32) {
                wide[i] = value;
            } else {
                narrow[i] = ofr_float_to_half(value);
            }
        }
        tensor->bytes = n * (dtype == OFR_DTYPE_F32 ? 4 : 2);
        tensor->data = wide;
        return tensor;
    }
    tensor->group_size = group > 0 && columns % group == 0 ? group : (uint32_t)columns;
    tensor->bytes = n * ofr_dtype_bits(dtype) / 8;
    uint8_t *bytes = checked(malloc(tensor->bytes));
    for (uint64_t i = 0; i < tensor->bytes; i++) {
        bytes[i] = (uint8_t)(128 + 127 * uniform(b));
    }
    uint64_t n_scales = n / tensor->group_size;
    tensor->scale_bytes = n_scales * 2 * ofr_dtype_group_numbers(dtype);
    uint16_t *scales = checked(malloc(tensor->scale_bytes));
    for (uint64_t i = 0; i < n_scales; i++) {
        scales[i] =
            ofr_float_to_half(limit * (1 + 0.3f * uniform(b)) / (dtype == OFR_DTYPE_I8 ? 128 : 8));
        if (dtype == OFR_DTYPE_I4M) {
            scales[n_scales + i] = ofr_float_to_half(-limit * (1 + 0.3f * uniform(b)));
        }
    }
    tensor->data = bytes;
    tensor->scales = scales;
    return tensor;
}

static ofr_linear add_linear(builder *b, const memory_model_options *o, uint32_t layer,
                             const char *part, uint64_t rows, uint64_t columns)
{
    char name[96];
    ofr_linear linear = {0};
    snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, part);
    enum ofr_dtype dtype = o->weights;
    if (b->features->mixed) {
        dtype = strstr(part, "v_proj") || strstr(part, "down") ? OFR_DTYPE_I8
                : strstr(part, "up_proj")                      ? OFR_DTYPE_I4
                                                               : dtype;
    }
    linear.weight = add_matrix(b, name, dtype, o->group, rows, columns);
    if (o->biases) {
        snprintf(name, sizeof name, "model.layers.%u.%s.bias", layer, part);
        linear.bias = add_vector(b, name, rows, 0, 0.3f);
    }
    return linear;
}

static const float *add_layer_vector(builder *b, uint32_t layer, const char *part, uint64_t n)
{
    char name[96];
    snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, part);
    return add_vector(b, name, n, 1, 0.5f);
}

static void add_features(builder *b, const memory_model_options *o, uint32_t index,
                         ofr_layer *layer)
{
    const memory_model_features *f = b->features;
    if (f->head_norms) {
        layer->q_norm = add_layer_vector(b, index, "self_attn.q_norm", o->head_dim);
        layer->k_norm = add_layer_vector(b, index, "self_attn.k_norm", o->head_dim);
    }
    if (f->output_norms) {
        layer->attention_output_norm =
            add_layer_vector(b, index, "attention_output_norm", o->d_model);
        layer->mlp_output_norm = add_layer_vector(b, index, "mlp_output_norm", o->d_model);
    }
    layer->flags = f->sliding_window > 0 && index % 2 == 0 ? OFR_LAYER_WINDOWED : 0;
    layer->flags |= f->unrotated > 0 && index % f->unrotated == 0 ? OFR_LAYER_UNROTATED : 0;
    b->made->params.layer_flags[index] = (uint8_t)layer->flags;
}

static void add_layer(builder *b, const memory_model_options *o, uint32_t index, ofr_layer *layer)
{
    char name[96];
    uint64_t q = (uint64_t)o->n_heads * o->head_dim, kv = (uint64_t)o->n_kv_heads * o->head_dim;
    snprintf(name, sizeof name, "model.layers.%u.input_layernorm.weight", index);
    layer->attention_norm = add_vector(b, name, o->d_model, 1, 0.5f);
    layer->q = add_linear(b, o, index, "self_attn.q_proj", q, o->d_model);
    layer->k = add_linear(b, o, index, "self_attn.k_proj", kv, o->d_model);
    layer->v = add_linear(b, o, index, "self_attn.v_proj", kv, o->d_model);
    layer->o = add_linear(b, o, index, "self_attn.o_proj", o->d_model, q);
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", index);
    layer->mlp_norm = add_vector(b, name, o->d_model, 1, 0.5f);
    layer->gate = add_linear(b, o, index, "mlp.gate_proj", o->d_ff, o->d_model);
    layer->up = add_linear(b, o, index, "mlp.up_proj", o->d_ff, o->d_model);
    layer->down = add_linear(b, o, index, "mlp.down_proj", o->d_model, o->d_ff);
    add_features(b, o, index, layer);
}

memory_model *memory_model_new(const memory_model_options *o)
{
    return memory_model_new_with(o, &(memory_model_features){0});
}

memory_model *memory_model_new_with(const memory_model_options *o, const memory_model_features *f)
{
    memory_model *made = checked(calloc(1, sizeof *made));
    builder b = {.made = made, .random = o->seed, .features = f};
    made->tensors = checked(calloc(MAX_TENSORS, sizeof *made->tensors));
    made->params = (ofr_model_params){
        .architecture = "llama",
        .name = "random",
        .n_layers = o->n_layers,
        .d_model = o->d_model,
        .n_heads = o->n_heads,
        .n_kv_heads = o->n_kv_heads,
        .head_dim = o->head_dim,
        .d_ff = o->d_ff,
        .vocab_size = o->vocab_size,
        .context_length = 4096,
        .rms_epsilon = 1e-5f,
        .tied_embedding = !o->separate_head,
        .rope = o->rope,
        .activation = f->activation,
        .embedding_scale = f->embedding_scale,
        .residual_scale = f->residual_scale,
        .attention_scale = f->attention_scale,
        .logit_scale = f->logit_scale,
        .attention_softcap = f->attention_softcap,
        .logit_softcap = f->logit_softcap,
        .sliding_window = f->sliding_window,
        .rope_local = f->rope_local,
    };
    if (o->rope.dims == 0) {
        made->params.rope = (ofr_rope_params){.dims = o->head_dim, .base = 10000};
    }
    ofr_model *model = &made->model;
    model->params = &made->params;
    model->embedding =
        add_matrix(&b, "model.embed_tokens.weight", o->table, o->group, o->vocab_size, o->d_model);
    model->final_norm = add_vector(&b, "model.norm.weight", o->d_model, 1, 0.5f);
    model->head.weight = model->embedding;
    if (o->separate_head) {
        model->head.weight =
            add_matrix(&b, "lm_head.weight", o->table, o->group, o->vocab_size, o->d_model);
    }
    if (o->freq_factors) {
        model->rope_freq_factors =
            add_vector(&b, "rope_freq_factors", made->params.rope.dims / 2, 2, 1);
    }
    model->layers = checked(calloc(o->n_layers, sizeof *model->layers));
    for (uint32_t i = 0; i < o->n_layers; i++) {
        add_layer(&b, o, i, &model->layers[i]);
    }
    return made;
}

memory_model *memory_model_free(memory_model *made)
{
    if (made != NULL) {
        for (size_t i = 0; i < made->n_tensors; i++) {
            free((void *)(uintptr_t)made->tensors[i].name);
            free((void *)(uintptr_t)made->tensors[i].data);
            free((void *)(uintptr_t)made->tensors[i].scales);
        }
        free(made->tensors);
        ofr_model_done(&made->model);
        free(made);
    }
    return NULL;
}

int memory_model_source(void *data, const char *name, uint64_t n, float *ret_values, ofr_error *err)
{
    const memory_model *made = data;
    for (size_t i = 0; i < made->n_tensors; i++) {
        if (strcmp(made->tensors[i].name, name) == 0) {
            return ofr_reference_from_tensor(&made->tensors[i], n, ret_values, err);
        }
    }
    return 0;
}
