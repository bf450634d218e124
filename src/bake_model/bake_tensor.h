/* Converts one tensor: reads rows of the source, dequantizes, quantizes, hands blocks of rows to
 * the package writer. */
#ifndef OFR_BAKE_MODEL_BAKE_TENSOR_H
#define OFR_BAKE_MODEL_BAKE_TENSOR_H

#include "bake_model/bake.h"
#include "base/progress.h"
#include "package/package_writer.h"

/* Buffers of one block of rows; owned by the bake, reused for all tensors. */
typedef struct ofr_bake_buffers {
    void *data, *scales;
    size_t data_bytes, scales_bytes;
} ofr_bake_buffers;

typedef struct ofr_bake_context {
    const ofr_bake_options *options;
    const ofr_gguf *gguf;
    const ofr_model_params *params;
    ofr_package_writer *writer;
    ofr_progress *progress;
    ofr_bake_buffers buffers;
    unsigned threads;
} ofr_bake_context;

/* The tensor as the package describes it, without offsets. */
void ofr_bake_tensor_spec(const ofr_bake_tensor *tensor, ofr_tensor *ret_spec);
/* OFR_EFORMAT where the source holds NaN or infinity. The error of quantization is added. */
int ofr_bake_tensor_convert(ofr_bake_context *context, const ofr_bake_tensor *tensor,
                            ofr_quantize_error *add_error, ofr_error *err);
void ofr_bake_buffers_done(ofr_bake_buffers *buffers);

#endif
