/* A small model with random weights in memory, for tests of backends: any shape, any type of
 * weights, without a package. */
#ifndef OFR_TESTS_SUPPORT_MEMORY_MODEL_H
#define OFR_TESTS_SUPPORT_MEMORY_MODEL_H

#include "engine/model.h"

typedef struct memory_model_options {
    uint32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size;
    enum ofr_dtype weights, table; /* of the layers; of embedding and head */
    uint32_t group;                /* 0: one group per row */
    bool separate_head, biases, freq_factors;
    ofr_rope_params rope; /* dims 0: plain RoPE over the whole head */
    uint64_t seed;
} memory_model_options;

/* What some architectures have beyond llama. */
typedef struct memory_model_features {
    bool head_norms, output_norms; /* qwen3; gemma */
    bool mixed;                    /* V and down in int8, up in int4, whatever the rest is */
    enum ofr_activation activation;
    float embedding_scale, residual_scale, attention_scale, logit_scale; /* granite */
    float attention_softcap, logit_softcap;                              /* gemma2 */
    uint32_t sliding_window; /* of every second layer, from the first on; 0: of none */
    ofr_rope_params rope_local;
    uint32_t unrotated; /* every n-th layer is not rotated; 0: all are */
} memory_model_features;

typedef struct memory_model {
    ofr_model model;
    ofr_model_params params;
    ofr_tensor *tensors; /* [n_tensors], owned with their data and names */
    size_t n_tensors;
} memory_model;

/* Aborts on a failure: the options are the test's own. */
memory_model *memory_model_new(const memory_model_options *options);
memory_model *memory_model_new_with(const memory_model_options *options,
                                    const memory_model_features *features);
memory_model *memory_model_free(memory_model *model);
/* An ofr_reference_source; `data` is the memory_model. */
int memory_model_source(void *data, const char *name, uint64_t n, float *ret_values,
                        ofr_error *err);

#endif
