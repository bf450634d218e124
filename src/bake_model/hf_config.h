/* config.json of the hub's models: hyper-parameters, with the defaults that the HF transformers
 * library has for what a file leaves out. */
#ifndef OFR_BAKE_MODEL_HF_CONFIG_H
#define OFR_BAKE_MODEL_HF_CONFIG_H

#include "package/package.h"

/* What the tensors of an architecture are like. */
enum ofr_hf_trait {
    OFR_HF_FUSED = 1 << 0,         /* qkv_proj and gate_up_proj (phi3) */
    OFR_HF_NORM_PLUS_ONE = 1 << 1, /* norms are stored as w - 1 (gemma) */
    OFR_HF_OUTPUT_NORMS = 1 << 2,  /* four norms a layer (gemma) */
    OFR_HF_HEAD_NORMS = 1 << 3,    /* norms of Q and K */
    OFR_HF_QKV_BIAS = 1 << 4,      /* biases of Q, K and V are required */
};

typedef struct ofr_hf_config {
    ofr_model_params params;             /* vocab_size as the file states it; name is empty */
    unsigned traits;                     /* enum ofr_hf_trait */
    float *short_factors, *long_factors; /* longrope: [rope.dims / 2], owned */
} ofr_hf_config;

/* `path` is for errors. max_context 0: the model's own. An unknown architecture is refused by name,
 * with the list of those known. */
int ofr_hf_config_parse(ofr_hf_config *config, const char *path, const char *text, size_t size,
                        uint32_t max_context, ofr_error *err);
/* Accepts a zeroed object. */
void ofr_hf_config_done(ofr_hf_config *config);

#endif
