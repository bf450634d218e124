/* The inner loops of quantization, one table per instruction set. Every table gives the same bits:
 * sums run over eight lanes in a fixed order, and no product is fused with a sum. Any thread.
 *
 * A file that defines quantize_max and quantize_min for eight lanes gets the loops from
 * quantize_loops.h. */
#ifndef OFR_BAKE_MODEL_QUANTIZE_KERNEL_H
#define OFR_BAKE_MODEL_QUANTIZE_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "bake_model/quantize.h"
#include "base/cpu_features.h"

enum { OFR_QUANTIZE_SMALL_GROUP = 32 };

/* n and group are multiples of 8, values are finite. */
struct ofr_quantize_kernel {
    /* The element of the largest magnitude; of two with different signs, the positive one. */
    float (*extreme)(const float *w, size_t n);
    /* The INT4 scale that quantize.h describes, not yet rounded to f16, in units of -extreme:
     * `unit` is -1 / extreme. */
    float (*search)(const float *w, size_t group, float unit);
    /* q = round(w * inverse) within -8 .. 7, ties to even; adds the sums of (w - q scale)^2 and of
     * w^2. ret_data [n / 2], the even element in the low nibble. */
    void (*round_i4)(const float *w, size_t n, float scale, float inverse, uint8_t *ret_data,
                     ofr_quantize_error *add_error);
    /* The same within -127 .. 127; ret_data [n]. */
    void (*round_i8)(const float *w, size_t n, float scale, float inverse, int8_t *ret_data,
                     ofr_quantize_error *add_error);
    /* Adds the errors of integers that were made elsewhere. */
    void (*error)(const float *w, size_t n, const int8_t *q, float scale,
                  ofr_quantize_error *add_error);
};

const ofr_quantize_kernel *ofr_quantize_kernel_generic(void);
const ofr_quantize_kernel *ofr_quantize_kernel_avx2(void);

#endif
