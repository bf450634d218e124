/* Converts rows of a tensor: dequantizes the source's, quantizes for the package. Pure; any thread.
 */
#ifndef OFR_BAKE_MODEL_BAKE_TENSOR_H
#define OFR_BAKE_MODEL_BAKE_TENSOR_H

#include "bake_model/bake_source.h"
#include "bake_model/quantize.h"

/* The tensor as the package describes it, without offsets. */
void ofr_bake_tensor_spec(const ofr_bake_tensor *tensor, ofr_tensor *ret_spec);
/* Rows that are converted at once: they take a few MiB, and are whole heads where heads are
 * reordered. */
uint64_t ofr_bake_block_rows(const ofr_bake_tensor *tensor, const ofr_model_params *params);
/* Bytes of one row of the package's data and scales. */
size_t ofr_bake_row_data_bytes(const ofr_bake_tensor *tensor);
size_t ofr_bake_row_scale_bytes(const ofr_bake_tensor *tensor);

typedef struct ofr_bake_block {
    const ofr_bake_tensor *tensor;
    const ofr_model_params *params;
    const ofr_quantize_kernel *kernel;
    const char *path;            /* of the source's file, for errors */
    bool allow_nan;              /* NaN becomes 0, infinity 65504 */
    uint64_t row_begin, row_end; /* a block as ofr_bake_block_rows cuts it */
    const char *raw;             /* the same rows of the source */
    char *data, *scales;         /* where they go */
    uint16_t *minima;            /* likewise, of i4m: they follow the scales of all rows */
    ofr_quantize_error error;    /* out */
} ofr_bake_block;

/* Rows [first, first + n) of the source as floats in the package's order: for calibration, one
 * thread. */
int ofr_bake_tensor_read(const ofr_source *files, const ofr_model_params *params,
                         const ofr_bake_tensor *tensor, uint64_t first, uint64_t n,
                         float *ret_values, ofr_error *err);

/* OFR_EFORMAT where the source holds NaN or infinity and that is not allowed. */
int ofr_bake_block_convert(ofr_bake_block *block, ofr_error *err);

#endif
