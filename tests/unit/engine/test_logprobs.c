/* Log-probabilities of the chosen and the likeliest tokens. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/logprobs.h"

static void they_are_those_of_the_softmax(void **state)
{
    (void)state;
    const float logits[] = {1, 3, -2, 3, 0.5F};
    double sum = 0;
    for (int i = 0; i < 5; i++)
        sum += exp((double)logits[i]);
    ofr_token_logprob chosen, top[OFR_LOGPROBS_TOP_MAX];
    assert_int_equal(ofr_logprobs_compute(logits, 5, 4, 3, &chosen, top), 3);
    assert_int_equal(chosen.token, 4);
    assert_true(fabs((double)chosen.logprob - (0.5 - log(sum))) < 1e-5);
    const int32_t order[] = {1, 3, 0}; /* the lower id wins a tie */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(top[i].token, order[i]);
        assert_true(fabs((double)top[i].logprob - ((double)logits[order[i]] - log(sum))) < 1e-5);
    }
    assert_int_equal(ofr_logprobs_compute(logits, 5, 0, 0, &chosen, top), 0);
    assert_int_equal(ofr_logprobs_compute(logits, 5, 0, 20, &chosen, top), 5);
    assert_int_equal(top[4].token, 2);
}

static void what_is_no_number_is_left_out(void **state)
{
    (void)state;
    const float logits[] = {NAN, 2, -INFINITY, 1};
    ofr_token_logprob chosen, top[OFR_LOGPROBS_TOP_MAX];
    assert_int_equal(ofr_logprobs_compute(logits, 4, 2, 4, &chosen, top), 2);
    assert_int_equal(top[0].token, 1);
    assert_true(chosen.logprob == -9999);
    assert_true(isfinite(top[1].logprob));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_are_those_of_the_softmax),
        cmocka_unit_test(what_is_no_number_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
