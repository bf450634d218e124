/* Bakes a package from a GGUF file or from a directory as the hub has it: in blocks of rows, so
 * that peak memory does not depend on the model's size. Resumes where an earlier bake of the same
 * source stopped. */
#ifndef OFR_BAKE_MODEL_BAKE_H
#define OFR_BAKE_MODEL_BAKE_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "bake_model/bake_source.h"
#include "bake_model/quantize.h"

typedef struct ofr_bake_options {
    /* One of the first three; with model_id, `gguf` is a path in the repository. */
    const char *gguf;        /* file */
    const char *model_dir;   /* directory with config.json */
    const char *model_id;    /* ORG/NAME on the hub */
    const char *revision;    /* of model_id; NULL: main */
    const char *keep_source; /* directory for the files of model_id; NULL: they are not kept */
    unsigned connections, network_timeout_s, network_retries; /* to the hub; 0: the defaults */
    const char *output;                                       /* directory to be made */
    int group_size;       /* 128, 64, 32, or -1: one group per row */
    uint32_t max_context; /* 0: the model's own */
    const char *chunks;   /* chunk lengths of the static graphs; NULL: the default ladder */
    bool tokenizer_only;
    bool overwrite;
    bool calibrate;               /* whatever the model's size */
    const char *calibration_text; /* file; NULL: the built-in text */
    bool data_free;               /* no calibration, whatever the model's size */
    bool keep_quantization;       /* tensors of the source that are 4 or 8 bits stay as they are */
    double mixed_percent;         /* what INT8 for sensitive matrices may add to INT4; 0: nothing */
    bool allow_nan;               /* weights that are not finite are replaced instead of refused */
    unsigned threads;             /* 0: one per CPU, at most 8. The result does not depend on it. */
    int progress_fd;              /* -1: quiet */
    const volatile sig_atomic_t *cancel; /* NULL: never. Nonzero ends the bake with OFR_ECANCELED */
} ofr_bake_options;

/* What quantization costs on a text that was not fitted to: sums of -ln p, by the source's weights
 * and by the package's. */
typedef struct ofr_bake_kind_loss {
    const char *name; /* "prose"; static */
    uint64_t tokens;
    double source_nll, nll;
} ofr_bake_kind_loss;

enum { OFR_BAKE_KINDS_MAX = 8 };

typedef struct ofr_bake_loss {
    uint64_t fitted_tokens; /* calibrated on; 0: no loss was measured */
    int n_kinds;
    ofr_bake_kind_loss kinds[OFR_BAKE_KINDS_MAX];
} ofr_bake_loss;

/* One matrix of the package. */
typedef struct ofr_bake_tensor_result {
    char name[256];
    enum ofr_dtype dtype;
    uint32_t group_size;
    uint64_t bytes;                  /* with scales */
    ofr_quantize_error weight_error; /* energy 0: resumed, or kept: not known, or none */
    ofr_quantize_error output_error; /* of calibration; energy 0: not measured */
    bool kept;
} ofr_bake_tensor_result;

typedef struct ofr_bake_result {
    uint64_t weights_bytes; /* of weights.bin */
    uint32_t n_tensors;
    uint32_t n_resumed; /* of these, kept from an earlier run: not in `quantization_error` */
    uint32_t n_vocab;
    uint32_t n_graphs;         /* static graphs written */
    char graphs_left_out[256]; /* why there are none; "" otherwise */
    /* Why OpenVINO GenAI gets no tokenizer with the graphs; "" otherwise. */
    char tokenizer_left_out[256];
    uint32_t dtype_counts[OFR_DTYPE_I4M + 1];
    ofr_quantize_error quantization_error[OFR_TENSOR_CLASS_COUNT];
    ofr_bake_loss loss;
    ofr_bake_tensor_result *tensors; /* [n_matrices], in the order of the package; owned */
    size_t n_matrices;
    char not_calibrated[256]; /* why a model of that size is not; "" otherwise */
} ofr_bake_result;

int ofr_bake(const ofr_bake_options *options, ofr_bake_result *ret_result, ofr_error *err);

void ofr_bake_result_done(ofr_bake_result *result);

/* "embedding", "attention", "mlp", "vector". */
const char *ofr_tensor_class_name(enum ofr_tensor_class tensor_class);

#endif
