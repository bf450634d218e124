/* Symmetric integer quantization by groups, with a search for the INT4 scale. */
#include "bake_model/quantize.h"

#include <math.h>

#include "bake_model/quantize_kernel.h"
#include "base/fp16.h"

enum { PIECE = 256 };

const ofr_quantize_kernel *ofr_quantize_kernel_choose(const ofr_cpu_features *features)
{
    return features->avx2 ? ofr_quantize_kernel_avx2() : ofr_quantize_kernel_generic();
}

/* Works on w / |extreme|, so that the sums can neither overflow nor vanish. 0: nothing found. */
static float search_scale(const ofr_quantize_kernel *kernel, const float *w, size_t group,
                          float extreme)
{
    float unit = -1 / extreme;
    if (!isfinite(unit)) /* the group is all but zero */
        return 0;
    return -kernel->search(w, group, unit) * extreme;
}

/* The f16 nearest to `scale`, kept finite. */
static uint16_t scale_to_half(float scale)
{
    if (scale > 65504)
        scale = 65504;
    if (scale < -65504)
        scale = -65504;
    return ofr_float_to_half(scale);
}

static float inverse_of(float scale)
{
    float inverse = scale != 0 ? 1 / scale : 0;
    return isfinite(inverse) ? inverse : 0;
}

static void unpack(const uint8_t *data, size_t n, int8_t *ret_q)
{
    for (size_t i = 0; i < n; i += 2) {
        ret_q[i] = (int8_t)(((data[i / 2] & 15) ^ 8) - 8);
        ret_q[i + 1] = (int8_t)((data[i / 2] >> 4 ^ 8) - 8);
    }
}

void ofr_quantize_i4_row(const ofr_quantize_kernel *kernel, const float *values, size_t k,
                         size_t group, uint8_t *ret_data, uint16_t *ret_scales,
                         ofr_quantize_error *add_error)
{
    for (size_t begin = 0; begin < k; begin += group) {
        const float *w = values + begin;
        float extreme = kernel->extreme(w, group);
        float scale = extreme != 0 ? search_scale(kernel, w, group, extreme) : 0;
        uint16_t half = scale_to_half(scale);
        float stored = ofr_half_to_float(half), inverse = inverse_of(stored);
        ret_scales[begin / group] = half;
        kernel->round_i4(w, group, stored, inverse, ret_data + begin / 2, add_error);
    }
}

void ofr_quantize_i4_error(const ofr_quantize_kernel *kernel, const float *values, size_t k,
                           size_t group, const uint8_t *data, const uint16_t *scales,
                           ofr_quantize_error *add_error)
{
    int8_t q[PIECE];
    for (size_t begin = 0; begin < k; begin += group)
        for (size_t i = 0; i < group; i += PIECE) {
            size_t n = group - i < PIECE ? group - i : PIECE;
            unpack(data + (begin + i) / 2, n, q);
            kernel->error(values + begin + i, n, q, ofr_half_to_float(scales[begin / group]),
                          add_error);
        }
}

void ofr_quantize_i8_error(const ofr_quantize_kernel *kernel, const float *values, size_t k,
                           size_t group, const int8_t *data, const uint16_t *scales,
                           ofr_quantize_error *add_error)
{
    for (size_t i = 0; i < k; i += group)
        kernel->error(values + i, group, data + i, ofr_half_to_float(scales[i / group]), add_error);
}

void ofr_quantize_i8_row(const ofr_quantize_kernel *kernel, const float *values, size_t k,
                         size_t group, int8_t *ret_data, uint16_t *ret_scales,
                         ofr_quantize_error *add_error)
{
    for (size_t i = 0; i < k; i += group) {
        const float *w = values + i;
        uint16_t half = scale_to_half(fabsf(kernel->extreme(w, group)) / 127);
        float stored = ofr_half_to_float(half);
        ret_scales[i / group] = half;
        kernel->round_i8(w, group, stored, inverse_of(stored), ret_data + i, add_error);
    }
}
