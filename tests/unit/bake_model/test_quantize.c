/* Quantization: the layout of nibbles, exactness where it is possible, quality where it is not,
 * extreme values. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bake_model/quantize.h"
#include "bake_model/quantize_kernel.h"
#include "base/fp16.h"

enum { K = 512, GROUP = 64 };

static const ofr_quantize_kernel *best(void)
{
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    return ofr_quantize_kernel_choose(&features);
}

static float noise(uint32_t *seed)
{
    float sum = 0; /* of twelve uniform numbers: close to normal */
    for (int i = 0; i < 12; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        sum += (float)(*seed >> 8) * 0x1p-24f;
    }
    return sum - 6;
}

static int nibble(const uint8_t *data, size_t i)
{
    int q = data[i / 2] >> (i % 2 * 4) & 15;
    return q >= 8 ? q - 16 : q;
}

static void values_on_a_grid_are_exact(void **state)
{
    (void)state;
    float values[K];
    for (size_t i = 0; i < K; i++)
        values[i] = (float)((int)(i * 7 % 16) - 8) * 0.25f;
    uint8_t data[K / 2];
    uint16_t scales[K / GROUP];
    ofr_quantize_error error = {0};
    ofr_quantize_i4_row(best(), values, K, GROUP, data, scales, &error);
    for (size_t i = 0; i < K; i++)
        assert_true((float)nibble(data, i) * ofr_half_to_float(scales[i / GROUP]) == values[i]);
    assert_true(error.error == 0 && error.energy > 0);
}

static double plain_error(const float *w, size_t n)
{
    float largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(w[i]));
    double error = 0;
    for (size_t i = 0; i < n; i++) {
        double difference = (double)w[i] - (double)(rintf(w[i] / (largest / 7)) * (largest / 7));
        error += (double)w[i] * (double)w[i] * difference * difference;
    }
    return error;
}

static void weighted_error_is_below_plain_rounding(void **state)
{
    (void)state;
    uint32_t seed = 1;
    double searched = 0, plain = 0;
    for (int row = 0; row < 100; row++) {
        float values[K];
        for (size_t i = 0; i < K; i++)
            values[i] = noise(&seed);
        uint8_t data[K / 2];
        uint16_t scales[K / GROUP];
        ofr_quantize_error error = {0};
        ofr_quantize_i4_row(best(), values, K, GROUP, data, scales, &error);
        double check = 0;
        for (size_t i = 0; i < K; i++) {
            float back = (float)nibble(data, i) * ofr_half_to_float(scales[i / GROUP]);
            double difference = (double)values[i] - (double)back;
            check += difference * difference;
            searched += (double)values[i] * (double)values[i] * difference * difference;
        }
        assert_true(fabs(check - error.error) <= 1e-5 * check);
        for (size_t g = 0; g < K; g += GROUP)
            plain += plain_error(values + g, GROUP);
    }
    assert_true(searched < 0.85 * plain);
}

static void i8_is_within_half_a_step(void **state)
{
    (void)state;
    uint32_t seed = 2;
    float values[K];
    for (size_t i = 0; i < K; i++)
        values[i] = noise(&seed) * 3;
    int8_t data[K];
    uint16_t scales[K / GROUP];
    ofr_quantize_error error = {0};
    ofr_quantize_i8_row(best(), values, K, GROUP, data, scales, &error);
    for (size_t i = 0; i < K; i++) {
        float scale = ofr_half_to_float(scales[i / GROUP]);
        /* The scale's own rounding to f16 may clip the extreme by 127 * 2^-11 steps. */
        assert_true(fabsf(values[i] - (float)data[i] * scale) <= 0.57f * scale);
    }
}

static void extremes_stay_finite(void **state)
{
    (void)state;
    static const float magnitudes[] = {0, 1e-45f, 1e-30f, 1e-8f, 1, 6e4f, 1e30f, 3e38f};
    for (size_t m = 0; m < sizeof magnitudes / sizeof magnitudes[0]; m++)
        for (int sign = -1; sign <= 1; sign += 2) {
            float values[GROUP];
            for (size_t i = 0; i < GROUP; i++)
                values[i] = (i % 3 == 0 ? -0.5f : 1.0f) * magnitudes[m] * (float)sign;
            uint8_t data[GROUP / 2];
            int8_t bytes[GROUP];
            uint16_t scale;
            ofr_quantize_error error = {0};
            ofr_quantize_i4_row(best(), values, GROUP, GROUP, data, &scale, &error);
            assert_true(isfinite(ofr_half_to_float(scale)));
            if (magnitudes[m] >= 1 && magnitudes[m] <= 6e4f)
                assert_true(error.error < 0.01 * error.energy);
            ofr_quantize_i8_row(best(), values, GROUP, GROUP, bytes, &scale, &error);
            assert_true(isfinite(ofr_half_to_float(scale)));
        }
}

/* Two rows by one kernel: bytes, scales and errors. */
typedef struct outcome {
    uint8_t i4[K / 2];
    int8_t i8[K];
    uint16_t i4_scales[K / 32], i8_scales[K / 32];
    ofr_quantize_error i4_error, i8_error;
} outcome;

static void quantize(const ofr_quantize_kernel *kernel, const float *values, size_t group,
                     outcome *ret)
{
    memset(ret, 0, sizeof *ret);
    ofr_quantize_i4_row(kernel, values, K, group, ret->i4, ret->i4_scales, &ret->i4_error);
    ofr_quantize_i8_row(kernel, values, K, group, ret->i8, ret->i8_scales, &ret->i8_error);
    ofr_quantize_error again = {0};
    ofr_quantize_i4_error(kernel, values, K, group, ret->i4, ret->i4_scales, &again);
    assert_memory_equal(&again, &ret->i4_error, sizeof again);
}

/* Also groups longer than the kernels' chunks, and values at the ends of what a float holds. */
static void all_kernels_give_the_same_bits(void **state)
{
    (void)state;
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    const ofr_quantize_kernel *kernel = ofr_quantize_kernel_choose(&features);
    static const size_t groups[] = {32, 64, 128, K};
    static const float magnitudes[] = {1e-44f, 1e-20f, 0.02f, 1, 5e4f, 1e37f};
    uint32_t seed = 3;
    for (int row = 0; row < 400; row++) {
        float values[K];
        float magnitude = magnitudes[row % 6];
        for (size_t i = 0; i < K; i++) {
            values[i] = noise(&seed) * magnitude;
            if (row % 7 == 0 && i % 5 == 0)
                values[i] = i % 2 ? 0.0f : -0.0f;
            if (row % 11 == 0) /* ties */
                values[i] = rintf(values[i] / magnitude * 2) * magnitude;
        }
        outcome wanted, got;
        quantize(ofr_quantize_kernel_generic(), values, groups[row % 4], &wanted);
        quantize(kernel, values, groups[row % 4], &got);
        assert_memory_equal(&got, &wanted, sizeof got);
    }
}

static void the_kernel_fits_the_processor(void **state)
{
    (void)state;
    ofr_cpu_features none = {0}, avx2 = {.avx2 = true};
    assert_ptr_equal(ofr_quantize_kernel_choose(&none), ofr_quantize_kernel_generic());
    assert_ptr_equal(ofr_quantize_kernel_choose(&avx2), ofr_quantize_kernel_avx2());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_kernels_give_the_same_bits),
        cmocka_unit_test(the_kernel_fits_the_processor),
        cmocka_unit_test(values_on_a_grid_are_exact),
        cmocka_unit_test(weighted_error_is_below_plain_rounding),
        cmocka_unit_test(i8_is_within_half_a_step),
        cmocka_unit_test(extremes_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
