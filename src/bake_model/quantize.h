/* From floats to the package's integer formats (package.h): symmetric, with an f16 scale for each
 * group of G consecutive elements of a row.
 *
 * INT8: scale = max|w| / 127, round to nearest.
 * INT4: the scale is searched, without data: starting points map the extreme of the group to -8 or
 * to 7 with some slack; each gives integers, and for these the scale that minimises
 * sum c (w - q s)^2 in closed form. c stands in for what large weights matter more: w^2, and in
 * groups of 32 |w| + 0.3 max|w|, which measured better there (documentation/quantization.md). The
 * best is kept, rounded to f16, and the integers are rounded again for that scale.
 *
 * Pure and deterministic: the same floats give the same bytes on every machine and with every
 * kernel. Any thread. */
#ifndef OFR_BAKE_MODEL_QUANTIZE_H
#define OFR_BAKE_MODEL_QUANTIZE_H

#include <stddef.h>
#include <stdint.h>

#include "base/cpu_features.h"

/* What quantization cost: sums over elements of (w - q s)^2 and of w^2. */
typedef struct ofr_quantize_error {
    double error, energy;
} ofr_quantize_error;

/* The inner loops for one instruction set; static. */
typedef struct ofr_quantize_kernel ofr_quantize_kernel;

/* The fastest that the CPU has. */
const ofr_quantize_kernel *ofr_quantize_kernel_choose(const ofr_cpu_features *features);

/* One row: `values` [k], finite; `group` divides k and is a multiple of 8. ret_data is k/2 bytes
 * for INT4 (low nibble: even element) or k bytes for INT8; ret_scales [k / group] f16. The error is
 * added. */
void ofr_quantize_i4_row(const ofr_quantize_kernel *kernel, const float *values, size_t k,
                         size_t group, uint8_t *ret_data, uint16_t *ret_scales,
                         ofr_quantize_error *add_error);
void ofr_quantize_i8_row(const ofr_quantize_kernel *kernel, const float *values, size_t k,
                         size_t group, int8_t *ret_data, uint16_t *ret_scales,
                         ofr_quantize_error *add_error);
/* The error of a row that was quantized elsewhere. */
void ofr_quantize_i4_error(const ofr_quantize_kernel *kernel, const float *values, size_t k,
                           size_t group, const uint8_t *data, const uint16_t *scales,
                           ofr_quantize_error *add_error);
void ofr_quantize_i8_error(const ofr_quantize_kernel *kernel, const float *values, size_t k,
                           size_t group, const int8_t *data, const uint16_t *scales,
                           ofr_quantize_error *add_error);

#endif
