/* From the block formats of GGUF to floats (ggml's documentation of its quantization types).
 *
 * Bit-exact with the Python package `gguf`: every product and sum is rounded to float on its own,
 * in the order written here. Pure; any thread. */
#ifndef OFR_BAKE_MODEL_GGUF_DEQUANTIZE_H
#define OFR_BAKE_MODEL_GGUF_DEQUANTIZE_H

#include "bake_model/gguf.h"

/* `n` elements, a multiple of the type's block, from `data` (n / block * block bytes, any
 * alignment) to `ret_values` [n]. */
void ofr_gguf_dequantize(enum ofr_gguf_type type, const void *data, size_t n, float *ret_values);

#endif
