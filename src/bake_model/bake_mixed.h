/* --mixed: the most sensitive matrices of the layers as INT8, the others as INT4, under a budget.
 */
#ifndef OFR_BAKE_MODEL_BAKE_MIXED_H
#define OFR_BAKE_MODEL_BAKE_MIXED_H

#include "bake_model/bake_source.h"

/* Gives INT8 to INT4 matrices of the layers, most error for each additional byte first, until those
 * would grow by more than `percent` together. Where calibration has measured the error of outputs
 * (output_error), that decides; without, a rule: v_proj before down_proj before o_proj and k_proj
 * before the rest, the outer layers before the inner ones. Returns how many there are. */
size_t ofr_bake_mix(ofr_bake_model *model, double percent);

#endif
