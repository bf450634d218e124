/* Half precision (IEEE 754 binary16) and bfloat16 to and from float: scalar, exact, round to
 * nearest even. Pure functions, any thread. */
#ifndef OFR_BASE_FP16_H
#define OFR_BASE_FP16_H

#include <stdint.h>

float ofr_half_to_float(uint16_t half);
/* Values beyond 65504 (after rounding) become infinity; NaN stays a NaN. */
uint16_t ofr_float_to_half(float value);

float ofr_bf16_to_float(uint16_t bits);
uint16_t ofr_float_to_bf16(float value);

#endif
