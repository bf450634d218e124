/* From a GGUF file to a model: hyper-parameters, and which tensor of the file becomes which tensor
 * of the package.
 *
 * Known architectures: "llama" (Llama 1 to 3, Mistral, SmolLM and others that llama.cpp files under
 * that name). Rows of Q and K in such files are ordered for a rotation of neighbours (2i, 2i+1);
 * the package pairs i with i + dims/2, so the rows are put back (ofr_gguf_rope_row). */
#ifndef OFR_BAKE_MODEL_GGUF_MODEL_H
#define OFR_BAKE_MODEL_GGUF_MODEL_H

#include "bake_model/gguf.h"
#include "package/package.h"

enum ofr_tensor_class {
    OFR_TENSOR_CLASS_EMBEDDING, /* embedding and head */
    OFR_TENSOR_CLASS_ATTENTION,
    OFR_TENSOR_CLASS_MLP,
    OFR_TENSOR_CLASS_VECTOR, /* norms, biases, factors: f32 */
    OFR_TENSOR_CLASS_COUNT,
};

typedef struct ofr_bake_tensor {
    char name[256]; /* in the package */
    const ofr_gguf_tensor *source;
    enum ofr_tensor_class class;
    enum ofr_dtype dtype;
    uint32_t n_dims;
    uint64_t shape[2];   /* [N, K], or [n] */
    uint32_t group_size; /* 0 for f32 */
    uint32_t rope_heads; /* > 0: rows are heads whose first rope dims are to be reordered */
} ofr_bake_tensor;

typedef struct ofr_bake_model {
    ofr_model_params params;
    ofr_bake_tensor *tensors; /* [n_tensors], in the order of the package; owned */
    size_t n_tensors;
} ofr_bake_model;

/* group_size: 128, 64, 32 (the largest of these that is at most this and divides a row), or -1 (one
 * group per row). max_context 0: the model's own. The result refers to `gguf`. */
int ofr_gguf_model_init(ofr_bake_model *model, const ofr_gguf *gguf, int group_size,
                        uint32_t max_context, ofr_error *err);
void ofr_gguf_model_done(ofr_bake_model *model);

/* The row of the file that holds row `row` of the package's Q or K. */
uint64_t ofr_gguf_rope_row(uint64_t row, uint32_t head_dim, uint32_t rope_dims);

#endif
