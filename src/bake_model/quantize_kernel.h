/* The inner loops of quantization, one table per instruction set. Every table gives the same bits:
 * sums run over eight lanes in a fixed order, and no product is fused with a sum. Any thread.
 *
 * A file that defines QUANTIZE_SETS (candidates that share a register, eight lanes each), and
 * quantize_max, quantize_min and quantize_spread for such registers, gets the loops from
 * quantize_loops.h. */
#ifndef OFR_BAKE_MODEL_QUANTIZE_KERNEL_H
#define OFR_BAKE_MODEL_QUANTIZE_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "bake_model/quantize.h"
#include "base/cpu_features.h"

enum { OFR_QUANTIZE_LANES = 8, OFR_QUANTIZE_CANDIDATES = 18, OFR_QUANTIZE_SMALL_GROUP = 32 };

/* For each candidate, by lane: sums of c w q and of c q^2, where w is in units of the group's
 * extreme and q = round(w * inverse). */
typedef struct ofr_quantize_sums {
    _Alignas(64) float wq[OFR_QUANTIZE_CANDIDATES][OFR_QUANTIZE_LANES];
    _Alignas(64) float qq[OFR_QUANTIZE_CANDIDATES][OFR_QUANTIZE_LANES];
} ofr_quantize_sums;

struct ofr_quantize_kernel {
    /* w [group]; group is a multiple of the lanes, here and below. */
    void (*search)(const float *w, size_t group, float unit,
                   const float inverses[OFR_QUANTIZE_CANDIDATES], ofr_quantize_sums *ret_sums);
    /* The element of the largest magnitude; of several, the first. 0 for zeros only. */
    float (*extreme)(const float *w, size_t n);
    /* q = round(w * inverse) within [low, high], ties to even. */
    void (*round)(const float *w, size_t n, float inverse, float low, float high, int8_t *ret_q);
    /* Adds the sums of (w - q scale)^2 and of w^2. */
    void (*error)(const float *w, size_t n, const int8_t *q, float scale,
                  ofr_quantize_error *add_error);
};

const ofr_quantize_kernel *ofr_quantize_kernel_generic(void);
const ofr_quantize_kernel *ofr_quantize_kernel_avx2(void);
const ofr_quantize_kernel *ofr_quantize_kernel_avx512(void);

#endif
