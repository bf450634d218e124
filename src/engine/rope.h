/* Rotary position embedding tables (RoFormer, arXiv 2104.09864), with the scalings that
 * llama-family models use: linear position interpolation (arXiv 2306.15595), llama-3's frequency
 * bands, and YaRN (arXiv 2309.00071). Backends and static graphs take cos/sin rows from here, so
 * that a scaling needs no other kernel and no other graph. */
#ifndef OFR_ENGINE_ROPE_H
#define OFR_ENGINE_ROPE_H

#include "engine/model.h"

typedef struct ofr_rope {
    uint32_t half;            /* rope.dims / 2 */
    float magnitude;          /* multiplies cos and sin; 1 but for YaRN */
    float *inverse_frequency; /* [half], owned */
} ofr_rope;

int ofr_rope_init(ofr_rope *rope, const ofr_rope_params *params, const float *freq_factors,
                  ofr_error *err);
void ofr_rope_done(ofr_rope *rope);

/* cos and sin of positions [position, position + n): each [n, half] fp32. Any thread. */
void ofr_rope_fill(const ofr_rope *rope, uint32_t position, uint32_t n, float *ret_cos,
                   float *ret_sin);

#endif
