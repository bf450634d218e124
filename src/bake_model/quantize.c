/* Symmetric integer quantization by groups, with a search for the INT4 scale. */
#include "bake_model/quantize.h"

#include <math.h>
#include <stdbool.h>

#include "base/fp16.h"

enum { LANES = 8, STEPS = 9, SMALL_GROUP = 32 };

/* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, for |x| < 2^22,
 * and vectorizes without any instruction set extension. */
static inline float round_even(float x)
{
    return (x + 12582912.0f) - 12582912.0f;
}

static inline float clamp_i4(float x)
{
    x = x < -8 ? -8 : x;
    return x > 7 ? 7 : x;
}

/* With q = round(w * inverse): how much of sum c w^2 the best scale for these q explains, and that
 * scale. Sums run over lanes in a fixed order, so that every compiler gives the same bits. */
static float try_inverse(const float *w, size_t group, float unit, float inverse, float *ret_scale)
{
    float wq[LANES] = {0}, qq[LANES] = {0};
    bool small = group <= SMALL_GROUP;
    for (size_t i = 0; i < group; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++) {
            float x = w[i + lane] * unit;
            float q = round_even(clamp_i4(x * inverse));
            float c = small ? fabsf(x) + 0.3f : x * x;
            wq[lane] += c * (x * q);
            qq[lane] += c * (q * q);
        }
    float sum_wq = 0, sum_qq = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        sum_wq += wq[lane];
        sum_qq += qq[lane];
    }
    if (!(sum_qq > 0) || !isfinite(sum_wq) || !isfinite(sum_qq))
        return 0;
    *ret_scale = sum_wq / sum_qq;
    return sum_wq * *ret_scale;
}

/* Works on w / |extreme|, so that the sums can neither overflow nor vanish. 0: nothing found. */
static float search_scale(const float *w, size_t group, float extreme)
{
    float unit = 1 / fabsf(extreme);
    if (!isfinite(unit)) /* the group is all but zero */
        return 0;
    float best_gain = 0, best_scale = 0;
    for (int sign = -1; sign <= 1; sign += 2)
        for (int step = 0; step < STEPS; step++) {
            /* The extreme lands on sign * (6.5 .. 8.9); beyond the range it is clipped. */
            float target = (float)sign * (6.5f + 0.3f * (float)step);
            float scale = 0;
            float gain = try_inverse(w, group, unit, extreme < 0 ? -target : target, &scale);
            if (gain > best_gain) {
                best_gain = gain;
                best_scale = scale;
            }
        }
    return best_scale * fabsf(extreme);
}

static float find_extreme(const float *values, size_t n)
{
    float extreme = 0;
    for (size_t i = 0; i < n; i++)
        if (fabsf(values[i]) > fabsf(extreme))
            extreme = values[i];
    return extreme;
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

static void add_group_error(const float *values, size_t group, const int8_t *q, float scale,
                            ofr_quantize_error *add_error)
{
    for (size_t i = 0; i < group; i++) {
        double difference = (double)values[i] - (double)((float)q[i] * scale);
        add_error->error += difference * difference;
        add_error->energy += (double)values[i] * (double)values[i];
    }
}

static int8_t to_integer(float value, float inverse, float low, float high)
{
    float q = value * inverse;
    q = q < low ? low : q;
    q = q > high ? high : q;
    return (int8_t)round_even(q);
}

void ofr_quantize_i4_row(const float *values, size_t k, size_t group, uint8_t *ret_data,
                         uint16_t *ret_scales, ofr_quantize_error *add_error)
{
    for (size_t g = 0; g < k / group; g++) {
        const float *w = values + g * group;
        float extreme = find_extreme(w, group);
        float scale = extreme != 0 ? search_scale(w, group, extreme) : 0;
        uint16_t half = scale_to_half(scale);
        float stored = ofr_half_to_float(half);
        float inverse = stored != 0 ? 1 / stored : 0;
        if (!isfinite(inverse))
            inverse = 0;
        ret_scales[g] = half;
        for (size_t i = 0; i < group; i += 2) {
            int8_t q[2] = {to_integer(w[i], inverse, -8, 7), to_integer(w[i + 1], inverse, -8, 7)};
            ret_data[(g * group + i) / 2] = (uint8_t)((q[0] & 15) | (q[1] & 15) << 4);
            add_group_error(w + i, 2, q, stored, add_error);
        }
    }
}

void ofr_quantize_i4_error(const float *values, size_t k, size_t group, const uint8_t *data,
                           const uint16_t *scales, ofr_quantize_error *add_error)
{
    for (size_t i = 0; i < k; i += 2) {
        int8_t q[2] = {(int8_t)(((data[i / 2] & 15) ^ 8) - 8),
                       (int8_t)((data[i / 2] >> 4 ^ 8) - 8)};
        add_group_error(values + i, 2, q, ofr_half_to_float(scales[i / group]), add_error);
    }
}

void ofr_quantize_i8_error(const float *values, size_t k, size_t group, const int8_t *data,
                           const uint16_t *scales, ofr_quantize_error *add_error)
{
    for (size_t i = 0; i < k; i += group)
        add_group_error(values + i, group, data + i, ofr_half_to_float(scales[i / group]),
                        add_error);
}

void ofr_quantize_i8_row(const float *values, size_t k, size_t group, int8_t *ret_data,
                         uint16_t *ret_scales, ofr_quantize_error *add_error)
{
    for (size_t g = 0; g < k / group; g++) {
        const float *w = values + g * group;
        uint16_t half = scale_to_half(fabsf(find_extreme(w, group)) / 127);
        float stored = ofr_half_to_float(half);
        float inverse = stored != 0 ? 1 / stored : 0;
        if (!isfinite(inverse))
            inverse = 0;
        ret_scales[g] = half;
        for (size_t i = 0; i < group; i++)
            ret_data[g * group + i] = to_integer(w[i], inverse, -127, 127);
        add_group_error(w, group, ret_data + g * group, stored, add_error);
    }
}
