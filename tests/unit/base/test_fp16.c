/* Half precision: every half, and roundings of floats around each, against the compiler's own. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/fp16.h"

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The value of a half by its definition. */
static float by_definition(uint16_t half)
{
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    float magnitude = exponent == 0 ? ldexpf((float)mantissa, -24)
                                    : ldexpf((float)(1024 + mantissa), exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void every_half_is_exact_and_comes_back(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 0x10000; i++) {
        uint16_t half = (uint16_t)i;
        float value = ofr_half_to_float(half);
        if ((half & 0x7c00) == 0x7c00) {
            assert_int_equal(isnan(value) != 0, (half & 0x3ff) != 0);
            if (isnan(value)) {
                assert_true(isnan(ofr_half_to_float(ofr_float_to_half(value))));
                continue;
            }
        } else {
            assert_int_equal(bits_of(value), bits_of(by_definition(half)));
        }
        assert_int_equal(ofr_float_to_half(value), half);
    }
}

static void floats_round_to_the_nearest_half_ties_to_even(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 0x7bff; i++) {
        float low = by_definition((uint16_t)i), high = by_definition((uint16_t)(i + 1));
        float middle = (low + high) / 2; /* exact: one bit more than a half */
        uint32_t even = i % 2 == 0 ? i : i + 1;
        assert_int_equal(ofr_float_to_half(middle), even);
        assert_int_equal(ofr_float_to_half(nextafterf(middle, low)), i);
        assert_int_equal(ofr_float_to_half(nextafterf(middle, high)), i + 1);
        assert_int_equal(ofr_float_to_half(-middle), even | 0x8000);
    }
    assert_int_equal(ofr_float_to_half(65519.996f), 0x7bff);
    assert_int_equal(ofr_float_to_half(65520.0f), 0x7c00);
    assert_int_equal(ofr_float_to_half(-3e38f), 0xfc00);
    assert_int_equal(ofr_float_to_half(0x1p-149f), 0);
}

static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 0x7f80; i++) {
        assert_int_equal(bits_of(ofr_bf16_to_float((uint16_t)i)), i << 16);
        assert_int_equal(ofr_float_to_bf16(ofr_bf16_to_float((uint16_t)i)), i);
    }
    assert_int_equal(ofr_float_to_bf16(1.00390625f), 0x3f80); /* tie, down to even */
    assert_int_equal(ofr_float_to_bf16(1.01171875f), 0x3f82); /* tie, up to even */
    assert_true(isnan(ofr_bf16_to_float(ofr_float_to_bf16(NAN))));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_is_exact_and_comes_back),
        cmocka_unit_test(floats_round_to_the_nearest_half_ties_to_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
