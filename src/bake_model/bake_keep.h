/* --keep_quantization: integers of a GGUF file go to the package as they are. Q4_0 becomes i4, Q4_1
 * i4m, Q8_0 i8, all in groups of 32; only the order of nibbles differs, so that every element is
 * bit for bit what the source says. Tensors of other types are quantized as usual. */
#ifndef OFR_BAKE_MODEL_BAKE_KEEP_H
#define OFR_BAKE_MODEL_BAKE_KEEP_H

#include "bake_model/bake_source.h"

/* Marks the matrices whose type can be kept and gives them the dtype and group size for it. */
void ofr_bake_keep_quantization(ofr_bake_model *model);
/* One row of `k` elements of the source's `type`. ret_minima [k / 32] is written for Q4_1 only. */
void ofr_bake_keep_row(enum ofr_gguf_type type, const void *raw, size_t k, uint8_t *ret_data,
                       uint16_t *ret_scales, uint16_t *ret_minima);

#endif
