/* The model as the backends see it: hyper-parameters and per-layer weights, pointers into the
 * package's mapping. Immutable; valid while the package is open. */
#ifndef OFR_ENGINE_MODEL_H
#define OFR_ENGINE_MODEL_H

#include "package/package.h"

/* A linear layer y = W x + b. `weight` is never NULL in a loaded model; `bias` may be. */
typedef struct ofr_linear {
    const ofr_tensor *weight; /* [N, K] i4 or i8 with group scales, or f16/f32 */
    const float *bias;        /* [N] or NULL */
} ofr_linear;

typedef struct ofr_layer {
    const float *attention_norm; /* [d_model] */
    ofr_linear q;                /* [n_heads * head_dim, d_model] */
    ofr_linear k, v;             /* [n_kv_heads * head_dim, d_model] */
    ofr_linear o;                /* [d_model, n_heads * head_dim] */
    const float *mlp_norm;       /* [d_model] */
    /* RMSNorm of what attention and MLP add to the residual, [d_model], or NULL */
    const float *attention_output_norm, *mlp_output_norm;
    const float *q_norm, *k_norm; /* RMSNorm of each head before RoPE, [head_dim]; NULL: none */
    ofr_linear gate, up;          /* [d_ff, d_model] */
    ofr_linear down;              /* [d_model, d_ff] */
    unsigned flags;               /* enum ofr_layer_flag */
} ofr_layer;

typedef struct ofr_model {
    const ofr_package *package; /* borrowed */
    const ofr_model_params *params;
    const ofr_tensor *embedding;         /* [vocab, d_model] */
    const float *final_norm;             /* [d_model] */
    ofr_linear head;                     /* [vocab, d_model]; the embedding where tied */
    const float *rope_freq_factors;      /* [rope.dims / 2] or NULL */
    const float *rope_freq_factors_long; /* longrope, for contexts beyond the original; else NULL */
    ofr_layer *layers;                   /* [n_layers], owned */
} ofr_model;

/* Resolves all tensors and checks their shapes and types against the hyper-parameters; an error
 * names the tensor. `model` is filled in place. */
int ofr_model_init(ofr_model *model, const ofr_package *package, ofr_error *err);
void ofr_model_done(ofr_model *model);

/* The frequency factors of `rope` for sequences of up to `context` tokens; NULL: none. */
const float *ofr_model_freq_factors(const ofr_model *model, uint32_t context);

#endif
