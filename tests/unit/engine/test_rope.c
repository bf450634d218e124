/* RoPE frequencies under each scaling, against values computed in Python from the definitions of
 * the HF transformers library (modeling_rope_utils), and the rows of cos and sin. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/rope.h"

/* dims 16; bases 100000, 10000, 500000, 10000 */
static const double plain[] = {1,
                               0.2371373706,
                               0.05623413252,
                               0.01333521432,
                               0.00316227766,
                               0.0007498942093,
                               0.000177827941,
                               4.216965034e-05};
static const double linear[] = {0.25,   0.0790569415,   0.025,   0.00790569415,
                                0.0025, 0.000790569415, 0.00025, 7.90569415e-05};
static const double llama3[] = {1,
                                0.1939227447,
                                0.03760603093,
                                0.007292664737,
                                0.000524846161,
                                3.428102196e-05,
                                6.647869871e-06,
                                1.289173172e-06};
static const double yarn[] = {1,       0.316227766,    0.1,     0.02569350599,
                              0.00625, 0.001383496476, 0.00025, 7.90569415e-05};
static const double yarn_magnitude[] = {1.138629436};

static void assert_frequencies(const ofr_rope_params *params, const float *factors,
                               const double *expected, double magnitude)
{
    ofr_rope rope;
    ofr_error err = {0};
    assert_int_equal(ofr_rope_init(&rope, params, factors, &err), 0);
    assert_int_equal(rope.half, 8);
    assert_true(fabs((double)rope.magnitude - magnitude) < 1e-6);
    for (int i = 0; i < 8; i++) {
        double got = (double)rope.inverse_frequency[i];
        if (!(fabs(got / expected[i] - 1) < 2e-7)) {
            fail_msg("frequency %d is %.9g, expected %.9g", i, got, expected[i]);
        }
    }
    ofr_rope_done(&rope);
}

static void frequencies_match_the_definitions(void **state)
{
    (void)state;
    ofr_rope_params p = {.dims = 16, .base = 100000};
    assert_frequencies(&p, NULL, plain, 1);
    p = (ofr_rope_params){
        .dims = 16, .base = 10000, .scaling = OFR_ROPE_SCALING_LINEAR, .factor = 4};
    assert_frequencies(&p, NULL, linear, 1);
    p = (ofr_rope_params){.dims = 16,
                          .base = 500000,
                          .scaling = OFR_ROPE_SCALING_LLAMA3,
                          .factor = 8,
                          .original_context = 8192,
                          .low_freq_factor = 1,
                          .high_freq_factor = 4};
    assert_frequencies(&p, NULL, llama3, 1);
    p = (ofr_rope_params){.dims = 16,
                          .base = 10000,
                          .scaling = OFR_ROPE_SCALING_YARN,
                          .factor = 4,
                          .original_context = 4096,
                          .beta_fast = 32,
                          .beta_slow = 1};
    assert_frequencies(&p, NULL, yarn, yarn_magnitude[0]);
    p.attention_factor = 0.75f;
    assert_frequencies(&p, NULL, yarn, 0.75);
}

/* A GGUF of Llama 3 carries its scaling as factors that divide the plain frequencies. */
static void factors_divide_the_frequencies(void **state)
{
    (void)state;
    ofr_rope_params p = {.dims = 16, .base = 500000};
    float factors[8];
    for (int i = 0; i < 8; i++) {
        factors[i] = (float)(pow(500000, -i / 8.0) / llama3[i]);
    }
    assert_frequencies(&p, factors, llama3, 1);
}

static void rows_are_cos_and_sin_of_the_angle(void **state)
{
    (void)state;
    enum { N = 5, FIRST = 131000 };
    ofr_rope_params p = {.dims = 16,
                         .base = 10000,
                         .scaling = OFR_ROPE_SCALING_YARN,
                         .factor = 4,
                         .original_context = 4096,
                         .beta_fast = 32,
                         .beta_slow = 1};
    ofr_rope rope;
    ofr_error err = {0};
    float cosines[N * 8], sines[N * 8];
    assert_int_equal(ofr_rope_init(&rope, &p, NULL, &err), 0);
    ofr_rope_fill(&rope, FIRST, N, cosines, sines);
    for (int t = 0; t < N; t++) {
        for (int i = 0; i < 8; i++) {
            double angle = (FIRST + t) * (double)rope.inverse_frequency[i];
            assert_true(fabs((double)cosines[t * 8 + i] - cos(angle) * yarn_magnitude[0]) < 1e-6);
            assert_true(fabs((double)sines[t * 8 + i] - sin(angle) * yarn_magnitude[0]) < 1e-6);
        }
    }
    ofr_rope_done(&rope);
}

static void bad_parameters_are_refused(void **state)
{
    (void)state;
    const ofr_rope_params bad[] = {
        {.dims = 0, .base = 10000},
        {.dims = 7, .base = 10000},
        {.dims = 8, .base = 1},
        {.dims = 8, .base = NAN},
        {.dims = 8, .base = 10000, .scaling = OFR_ROPE_SCALING_LINEAR},
        {.dims = 8, .base = 10000, .scaling = OFR_ROPE_SCALING_LLAMA3, .factor = 8},
        {.dims = 8, .base = 10000, .scaling = OFR_ROPE_SCALING_YARN, .factor = 4},
        {.dims = 8, .base = 10000, .scaling = (enum ofr_rope_scaling)9, .factor = 4},
    };
    ofr_rope rope;
    ofr_error err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_true(ofr_rope_init(&rope, &bad[i], NULL, &err) < 0);
        ofr_rope_done(&rope); /* half-built is fine */
    }
    const float zero[4] = {1, 1, 0, 1};
    const ofr_rope_params good = {.dims = 8, .base = 10000};
    assert_int_equal(ofr_rope_init(&rope, &good, zero, &err), OFR_EFORMAT);
    ofr_rope_done(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_match_the_definitions),
        cmocka_unit_test(factors_divide_the_frequencies),
        cmocka_unit_test(rows_are_cos_and_sin_of_the_angle),
        cmocka_unit_test(bad_parameters_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
