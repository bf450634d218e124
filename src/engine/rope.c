/* RoPE frequencies under each scaling, and cos/sin rows. The scalings follow the definitions of the
 * HF transformers library, which the models' configurations are written for. */
#include "engine/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double two_pi = 6.283185307179586476925286766559;

/* Llama 3.1: long wavelengths are stretched by the factor, short ones kept, those between are
 * interpolated linearly in original_context / wavelength. */
static double scale_llama3(const ofr_rope_params *params, double frequency)
{
    double wavelength = two_pi / frequency;
    double low = params->original_context / (double)params->low_freq_factor;
    double high = params->original_context / (double)params->high_freq_factor;
    if (wavelength > low) {
        return frequency / params->factor;
    }
    if (wavelength < high) {
        return frequency;
    }
    double smooth = (params->original_context / wavelength - params->low_freq_factor) /
                    ((double)params->high_freq_factor - params->low_freq_factor);
    return (1 - smooth) * frequency / params->factor + smooth * frequency;
}

/* YaRN: the dimension (of the half) whose wavelength fits `rotations` times in the original
 * context. */
static double yarn_dimension(const ofr_rope_params *params, double rotations)
{
    return params->dims * log(params->original_context / (rotations * two_pi)) /
           (2 * log((double)params->base));
}

static double scale_yarn(const ofr_rope_params *params, double frequency, uint32_t index)
{
    double low = floor(yarn_dimension(params, params->beta_fast));
    double high = ceil(yarn_dimension(params, params->beta_slow));
    low = fmax(low, 0);
    high = fmin(high, params->dims - 1.0);
    if (low == high) {
        high += 0.001; /* as the source does, against a division by zero */
    }
    double ramp = fmin(fmax((index - low) / (high - low), 0), 1);
    double keep = 1 - ramp; /* extrapolated share */
    return frequency / params->factor * (1 - keep) + frequency * keep;
}

static int check_params(const ofr_rope_params *params, ofr_error *err)
{
    if (params->dims == 0 || params->dims % 2 != 0) {
        return ofr_fail(err, OFR_EFORMAT, "RoPE: %u rotated dimensions; an even number is needed",
                        params->dims);
    }
    if (!(params->base > 1) || !isfinite(params->base)) {
        return ofr_fail(err, OFR_EFORMAT, "RoPE: base %g is not above 1", (double)params->base);
    }
    if (params->scaling == OFR_ROPE_SCALING_NONE || params->scaling == OFR_ROPE_SCALING_LONGROPE) {
        return 0;
    }
    if (!(params->factor > 0) || !isfinite(params->factor)) {
        return ofr_fail(err, OFR_EFORMAT, "RoPE: scaling factor %g is not positive",
                        (double)params->factor);
    }
    switch (params->scaling) {
    case OFR_ROPE_SCALING_LINEAR:
        return 0;
    case OFR_ROPE_SCALING_LLAMA3:
        if (params->original_context == 0 || !(params->low_freq_factor > 0) ||
            !(params->high_freq_factor > params->low_freq_factor)) {
            return ofr_fail(
                err, OFR_EFORMAT,
                "RoPE llama3 scaling: needs an original context and 0 < low_freq_factor "
                "< high_freq_factor (got %u, %g, %g)",
                params->original_context, (double)params->low_freq_factor,
                (double)params->high_freq_factor);
        }
        return 0;
    case OFR_ROPE_SCALING_YARN:
        if (params->original_context == 0 || !(params->beta_slow > 0) ||
            !(params->beta_fast >= params->beta_slow)) {
            return ofr_fail(err, OFR_EFORMAT,
                            "RoPE yarn scaling: needs an original context and 0 < beta_slow <= "
                            "beta_fast (got %u, %g, %g)",
                            params->original_context, (double)params->beta_slow,
                            (double)params->beta_fast);
        }
        return 0;
    case OFR_ROPE_SCALING_NONE:
    case OFR_ROPE_SCALING_LONGROPE:
        break;
    }
    return ofr_fail(err, OFR_EUNSUPPORTED, "RoPE: unknown scaling %d", (int)params->scaling);
}

int ofr_rope_init(ofr_rope *rope, const ofr_rope_params *params, const float *freq_factors,
                  ofr_error *err)
{
    memset(rope, 0, sizeof *rope);
    int result = check_params(params, err);
    if (result < 0) {
        return result;
    }
    uint32_t half = params->dims / 2;
    float *frequencies = malloc(half * sizeof *frequencies);
    if (frequencies == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "RoPE: out of memory");
    }
    for (uint32_t i = 0; i < half; i++) {
        double frequency = pow((double)params->base, -2.0 * i / params->dims);
        if (freq_factors != NULL) {
            frequency /= (double)freq_factors[i];
        }
        switch (params->scaling) {
        case OFR_ROPE_SCALING_NONE:
        case OFR_ROPE_SCALING_LONGROPE:
            break;
        case OFR_ROPE_SCALING_LINEAR:
            frequency /= (double)params->factor;
            break;
        case OFR_ROPE_SCALING_LLAMA3:
            frequency = scale_llama3(params, frequency);
            break;
        case OFR_ROPE_SCALING_YARN:
            frequency = scale_yarn(params, frequency, i);
            break;
        }
        frequencies[i] = (float)frequency;
        if (!isfinite(frequencies[i])) {
            free(frequencies);
            return ofr_fail(err, OFR_EFORMAT, "RoPE: frequency factor %u is not usable", i);
        }
    }
    double magnitude = 1;
    if (params->scaling == OFR_ROPE_SCALING_YARN) {
        magnitude = params->attention_factor != 0 ? (double)params->attention_factor
                    : params->factor > 1          ? 0.1 * log((double)params->factor) + 1
                                                  : 1;
    }
    if (params->scaling == OFR_ROPE_SCALING_LONGROPE && params->attention_factor != 0) {
        magnitude = (double)params->attention_factor;
    }
    *rope =
        (ofr_rope){.half = half, .magnitude = (float)magnitude, .inverse_frequency = frequencies};
    return 0;
}

void ofr_rope_done(ofr_rope *rope)
{
    if (rope != NULL) {
        free(rope->inverse_frequency);
        memset(rope, 0, sizeof *rope);
    }
}

void ofr_rope_fill(const ofr_rope *rope, uint32_t position, uint32_t n, float *ret_cos,
                   float *ret_sin)
{
    for (uint32_t t = 0; t < n; t++) {
        for (uint32_t i = 0; i < rope->half; i++) {
            /* In double: an angle of 100,000 radians has only three decimals left in fp32. */
            double angle = ((double)position + t) * (double)rope->inverse_frequency[i];
            ret_cos[(size_t)t * rope->half + i] = (float)(cos(angle) * (double)rope->magnitude);
            ret_sin[(size_t)t * rope->half + i] = (float)(sin(angle) * (double)rope->magnitude);
        }
    }
}
