/* Everything that a bake needs to know of a model before its weights: read from a GGUF file or from
 * a directory of the hub's kind (hf_source.h). */
#ifndef OFR_BAKE_MODEL_BAKE_SOURCE_H
#define OFR_BAKE_MODEL_BAKE_SOURCE_H

#include "bake_model/quantize.h"
#include "bake_model/source.h"
#include "package/package.h"

enum ofr_tensor_class {
    OFR_TENSOR_CLASS_EMBEDDING, /* embedding and head */
    OFR_TENSOR_CLASS_ATTENTION,
    OFR_TENSOR_CLASS_MLP,
    OFR_TENSOR_CLASS_VECTOR, /* norms, biases, factors: f32 */
    OFR_TENSOR_CLASS_COUNT,
};

typedef struct ofr_bake_tensor {
    char name[256];           /* in the package */
    ofr_source_tensor source; /* unused where `values` is set */
    float *values;            /* [shape[0]] a vector that lies in no tensor of the source; owned */
    enum ofr_tensor_class class;
    enum ofr_dtype dtype;
    uint32_t n_dims;
    uint64_t shape[2];   /* [N, K], or [n] */
    uint32_t group_size; /* 0 for f32 */
    uint32_t rope_heads; /* > 0: rows are heads whose first rope dims are to be reordered */
    float add;           /* to every element of a vector: norms that the source keeps as w - 1 */
    bool keep;           /* the source's integers are taken as they are */
    /* What calibration made of it: data as in the package, then scales; owned, NULL without. */
    uint8_t *made;
    ofr_quantize_error output_error; /* of calibration: over its tokens; energy 0: not measured */
} ofr_bake_tensor;

typedef struct ofr_bake_model {
    ofr_model_params params;
    ofr_bake_tensor *tensors; /* [n_tensors], in the order of the package; owned */
    size_t n_tensors, capacity;
    int group_size; /* 128, 64, 32, or -1 */
} ofr_bake_model;

/* Appends a tensor of the package. rows 0: a vector of k. Chooses dtype and group size; `path` is
 * for errors. The result may be changed until the next call. */
int ofr_bake_model_add(ofr_bake_model *model, const char *path, const char *name, uint64_t rows,
                       uint64_t k, enum ofr_tensor_class tensor_class, ofr_bake_tensor **ret_tensor,
                       ofr_error *err);
void ofr_bake_model_done(ofr_bake_model *model);

/* The row of the source that holds row `row` of the package's Q or K, where the source pairs
 * neighbours for RoPE (GGUF llama). */
uint64_t ofr_bake_rope_row(uint64_t row, uint32_t head_dim, uint32_t rope_dims);

typedef struct ofr_bake_source {
    ofr_source files;
    ofr_bake_model model; /* empty with tokenizer_only */
    void *tokenizer;      /* image of tokenizer.bin, owned */
    size_t tokenizer_size;
    size_t n_vocab;
    char *chat_template; /* owned; NULL: none */
    size_t chat_template_size;
    /* What model.json says of the source; owned, NULL where it is silent. */
    const char *format; /* "gguf", "safetensors"; static */
    char *name, *license, *repository, *revision;
    char *identity; /* of what decides the weights besides the files: the configuration; owned */
} ofr_bake_source;

/* Accepts a zeroed object. */
void ofr_bake_source_done(ofr_bake_source *source);

#endif
