/* The sampler: greedy and ties, every cut at its edges, penalties, unusable logits, the drawn
 * distribution by a chi-square test, and draws from candidates, which are those from all logits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/sampler.h"

static ofr_sampler *make(ofr_sampling sampling, int32_t vocab)
{
    ofr_sampler *sampler = NULL;
    ofr_error err = {0};
    assert_int_equal(ofr_sampler_new(&sampling, vocab, &sampler, &err), 0);
    return sampler;
}

static int32_t draw(ofr_sampler *sampler, const float *logits)
{
    int32_t token = -1;
    ofr_error err = {0};
    assert_int_equal(ofr_sampler_sample(sampler, logits, &token, &err), 0);
    return token;
}

static void greedy_takes_the_first_of_the_best(void **state)
{
    (void)state;
    ofr_sampler *sampler = make((ofr_sampling)OFR_SAMPLING_DEFAULT, 5);
    assert_int_equal(draw(sampler, (float[]){1, 3, 2, 3, -1}), 1);
    assert_int_equal(draw(sampler, (float[]){NAN, -5, NAN, -4, NAN}), 3);
    assert_int_equal(draw(sampler, (float[]){-INFINITY, -INFINITY, INFINITY, 0, INFINITY}), 2);
    ofr_sampler_free(sampler);
}

static void unusable_logits_are_a_device_error(void **state)
{
    (void)state;
    const float bad[3] = {NAN, NAN, NAN}, low[3] = {-INFINITY, NAN, -INFINITY};
    ofr_error err = {0};
    int32_t token = 77;
    ofr_sampling sampling = OFR_SAMPLING_DEFAULT;
    ofr_sampler *sampler = make(sampling, 3);
    assert_int_equal(ofr_sampler_sample(sampler, bad, &token, &err), OFR_EDEVICE);
    ofr_sampler_free(sampler);
    sampling.temperature = 1;
    sampler = make(sampling, 3);
    assert_int_equal(ofr_sampler_sample(sampler, bad, &token, &err), OFR_EDEVICE);
    assert_int_equal(ofr_sampler_sample(sampler, low, &token, &err), OFR_EDEVICE);
    assert_int_equal(token, 77);
    for (int i = 0; i < 50; i++) { /* a few NaN are passed over */
        assert_int_equal(draw(sampler, (float[]){NAN, 2, -INFINITY}), 1);
    }
    ofr_sampler_free(sampler);
}

/* Counts `n` draws and compares with the expected probabilities; tokens of probability 0 must never
 * come. The limit is the 99.99 % quantile for 7 degrees of freedom or fewer. */
static void assert_distribution(ofr_sampling sampling, const float *logits, int32_t vocab,
                                const double *expected)
{
    enum { N = 40000 };
    int counts[8] = {0};
    ofr_sampler *sampler = make(sampling, vocab);
    for (int i = 0; i < N; i++) {
        counts[draw(sampler, logits)]++;
    }
    ofr_sampler_free(sampler);
    double statistic = 0;
    for (int32_t i = 0; i < vocab; i++) {
        if (expected[i] == 0) {
            assert_int_equal(counts[i], 0);
        } else {
            double difference = counts[i] - N * expected[i];
            statistic += difference * difference / (N * expected[i]);
        }
    }
    if (statistic > 29.9) {
        fail_msg("chi-square statistic %g", statistic);
    }
}

/* logits = ln of these times any constant */
static const double odds[8] = {0.05, 0.3, 0.1, 0.2, 0.15, 0.08, 0.07, 0.05};

static void fill(float logits[8], double temperature)
{
    for (int i = 0; i < 8; i++) {
        logits[i] = (float)(log(odds[i]) * temperature + 3);
    }
}

static void draws_follow_the_softmax(void **state)
{
    (void)state;
    float logits[8];
    for (int i = 0; i < 3; i++) {
        float temperature = (float[]){0.5f, 1, 2}[i];
        fill(logits, (double)temperature);
        ofr_sampling sampling = {.temperature = temperature,
                                 .top_p = 1,
                                 .repetition_penalty = 1,
                                 .seed = 11 + (uint64_t)i};
        assert_distribution(sampling, logits, 8, odds);
    }
}

static void cuts_keep_what_they_should(void **state)
{
    (void)state;
    float logits[8];
    fill(logits, 1);
    ofr_sampling base = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 5};
    ofr_sampling s = base;
    s.top_k = 3;
    const double top3[8] = {0, 0.3 / 0.65, 0, 0.2 / 0.65, 0.15 / 0.65, 0, 0, 0};
    assert_distribution(s, logits, 8, top3);
    s = base;
    s.top_p = 0.6f; /* 0.3 + 0.2 + 0.15 is the first sum that reaches it */
    assert_distribution(s, logits, 8, top3);
    s = base;
    s.min_p = 0.45f; /* of 0.3: 0.135 */
    assert_distribution(s, logits, 8, top3);
    s = base;
    s.top_k = 4; /* 0.3 0.2 0.15 0.1: top-p counts within the 0.75 that top-k left */
    s.top_p = 0.66f;
    const double top2[8] = {0, 0.6, 0, 0.4, 0, 0, 0, 0};
    assert_distribution(s, logits, 8, top2);
    s.top_p = 0.8f;
    s.min_p = 0.6f; /* of 0.3: 0.18 */
    assert_distribution(s, logits, 8, top2);
}

static void edges_of_the_cuts(void **state)
{
    (void)state;
    float logits[8];
    fill(logits, 1);
    const double all_on_best[8] = {0, 1, 0, 0, 0, 0, 0, 0};
    ofr_sampling base = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 9};
    ofr_sampling s = base;
    s.top_k = 1;
    assert_distribution(s, logits, 8, all_on_best);
    s = base;
    s.top_p = 1e-6f;
    assert_distribution(s, logits, 8, all_on_best);
    s = base;
    s.min_p = 0.999f;
    assert_distribution(s, logits, 8, all_on_best);
    s = base;
    s.top_k = 1000; /* more than there are */
    assert_distribution(s, logits, 8, odds);
    s = base;
    s.temperature = 1e-4f;
    assert_distribution(s, logits, 8, all_on_best);
    const float ties[4] = {1, 2, 2, 2};
    const double two[4] = {0, 0.5, 0.5, 0};
    s = base;
    s.top_k = 2; /* lower ids win ties */
    assert_distribution(s, ties, 4, two);
    const float infinite[3] = {INFINITY, 1, INFINITY};
    const double halves[3] = {0.5, 0, 0.5};
    assert_distribution(base, infinite, 3, halves);
}

static void penalties_count_the_window(void **state)
{
    (void)state;
    ofr_sampling s = OFR_SAMPLING_DEFAULT;
    s.repetition_penalty = 2;
    s.repetition_window = 2;
    ofr_sampler *sampler = make(s, 4);
    const float logits[4] = {4, 3, -1, -1.5f}, negative[4] = {-1, -1.5f, -9, -9};
    assert_int_equal(draw(sampler, logits), 0);
    ofr_sampler_accept(sampler, 0);
    assert_int_equal(draw(sampler, logits), 1);   /* 4 / 2 < 3 */
    assert_int_equal(draw(sampler, negative), 1); /* -1 * 2 < -1.5 */
    ofr_sampler_accept(sampler, 0);
    ofr_sampler_accept(sampler, 3); /* one 0 leaves the window, one stays */
    assert_int_equal(draw(sampler, logits), 1);
    ofr_sampler_accept(sampler, 3);
    assert_int_equal(draw(sampler, logits), 0);
    ofr_sampler_accept(sampler, -1); /* no token of this vocabulary: ignored */
    ofr_sampler_accept(sampler, 4);
    assert_int_equal(draw(sampler, logits), 0);
    ofr_sampler_free(sampler);
    s.repetition_window = 0; /* all count */
    sampler = make(s, 4);
    ofr_sampler_accept(sampler, 0);
    for (int i = 0; i < 1000; i++) {
        ofr_sampler_accept(sampler, 3);
    }
    assert_int_equal(draw(sampler, logits), 1);
    ofr_sampler_free(sampler);
}

static void a_seed_gives_one_sequence(void **state)
{
    (void)state;
    float logits[8];
    fill(logits, 1);
    ofr_sampling s = {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1, .seed = 42};
    ofr_sampler *first = make(s, 8), *second = make(s, 8);
    s.seed = 43;
    ofr_sampler *other = make(s, 8);
    int same = 0;
    for (int i = 0; i < 200; i++) {
        int32_t token = draw(first, logits);
        assert_int_equal(token, draw(second, logits));
        same += token == draw(other, logits);
    }
    assert_true(same < 120);
    ofr_sampler_free(first);
    ofr_sampler_free(second);
    ofr_sampler_free(other);
}

static void bad_settings_are_refused(void **state)
{
    (void)state;
    const ofr_sampling good = OFR_SAMPLING_DEFAULT;
    ofr_sampler *sampler = NULL;
    ofr_error err;
    for (int i = 0; i < 9; i++) {
        ofr_sampling s = good;
        s.temperature = i == 0 ? -1 : i == 1 ? NAN : i == 2 ? INFINITY : 0;
        s.top_p = i == 3 ? 0 : i == 4 ? 1.01f : 1;
        s.min_p = i == 5 ? 1 : i == 6 ? -0.1f : 0;
        s.repetition_penalty = i == 7 ? 0 : 1;
        assert_int_equal(ofr_sampler_new(&s, i == 8 ? 0 : 10, &sampler, &err), OFR_EINVAL);
    }
    assert_null(sampler);
    assert_null(ofr_sampler_free(NULL));
}

static void bias_and_masks(void **state)
{
    (void)state;
    const float logits[] = {1, 5, 3, 4};
    const ofr_logit_bias bias[] = {{2, 3}, {1, -INFINITY}};
    ofr_sampling sampling = OFR_SAMPLING_DEFAULT;
    ofr_sampler *sampler = NULL;
    ofr_error err = {0};
    int32_t token = -1;
    sampling.bias = bias;
    sampling.n_bias = 2;
    assert_int_equal(ofr_sampler_new(&sampling, 4, &sampler, &err), 0);
    assert_int_equal(ofr_sampler_sample(sampler, logits, &token, &err), 0);
    assert_int_equal(token, 2); /* 6 against 4; 1 is forbidden */
    const uint32_t mask = 0x9, none = 0, forbidden = 0x2;
    assert_int_equal(ofr_sampler_sample_masked(sampler, logits, &mask, &token, &err), 0);
    assert_int_equal(token, 3);
    assert_int_equal(ofr_sampler_sample_masked(sampler, logits, &none, &token, &err), OFR_EINVAL);
    assert_int_equal(ofr_sampler_sample_masked(sampler, logits, &forbidden, &token, &err),
                     OFR_EINVAL);
    ofr_sampler_free(sampler);
    sampling.temperature = 1;
    assert_int_equal(ofr_sampler_new(&sampling, 4, &sampler, &err), 0);
    for (int i = 0; i < 200; i++) {
        assert_int_equal(ofr_sampler_sample_masked(sampler, logits, &mask, &token, &err), 0);
        assert_true(token == 0 || token == 3);
        assert_int_equal(ofr_sampler_sample(sampler, logits, &token, &err), 0);
        assert_int_not_equal(token, 1);
    }
    ofr_sampler_free(sampler);
    const ofr_logit_bias outside[] = {{4, 1}};
    sampling.bias = outside;
    sampling.n_bias = 1;
    assert_int_equal(ofr_sampler_new(&sampling, 4, &sampler, &err), OFR_EINVAL);
}

static void penalties_count_what_was_generated(void **state)
{
    (void)state;
    const float logits[] = {5, 4.5F, 4};
    ofr_sampling sampling = OFR_SAMPLING_DEFAULT;
    ofr_sampler *sampler = NULL;
    ofr_error err = {0};
    int32_t token = -1;
    sampling.presence_penalty = 0.3F;
    sampling.frequency_penalty = 0.3F;
    assert_int_equal(ofr_sampler_new(&sampling, 3, &sampler, &err), 0);
    ofr_sampler_accept_prompt(sampler, 0);
    assert_int_equal(ofr_sampler_sample(sampler, logits, &token, &err), 0);
    assert_int_equal(token, 0); /* the prompt does not count */
    ofr_sampler_accept(sampler, 0);
    assert_int_equal(ofr_sampler_sample(sampler, logits, &token, &err), 0);
    assert_int_equal(token, 1); /* 5 - 0.6 against 4.5 */
    ofr_sampler_accept(sampler, 1);
    ofr_sampler_accept(sampler, 1);
    ofr_sampler_accept(sampler, 0);
    assert_int_equal(ofr_sampler_sample(sampler, logits, &token, &err), 0);
    assert_int_equal(token, 0); /* 4.1, 3.6, 4 */
    ofr_sampler_free(sampler);
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return *state >> 33;
}

/* Rows with many equal logits, and sometimes some that are infinite or no numbers. */
static void fill_random(float *logits, int32_t vocab, uint64_t *random)
{
    uint64_t levels = 1 + next_random(random) % 40, odd = next_random(random) % 4;
    for (int32_t i = 0; i < vocab; i++) {
        logits[i] = (float)(next_random(random) % levels) / 3 - 5;
        if (odd == 0 && next_random(random) % 16 == 0) {
            logits[i] = (float[]){NAN, INFINITY, -INFINITY, NAN}[next_random(random) % 4];
        } else if (odd == 1 && next_random(random) % 4 > 0) {
            logits[i] = next_random(random) % 2 ? NAN : -INFINITY;
        }
    }
}

static void candidates_give_the_tokens_of_all_logits(void **state)
{
    (void)state;
    enum { VOCAB_MAX = 700, ROUNDS = 1500, DRAWS = 20 };
    static float logits[VOCAB_MAX];
    uint64_t random = 3;
    uint32_t failures = 0, drawn = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        int32_t vocab = 1 + (int32_t)(next_random(&random) % (round % 4 > 0 ? VOCAB_MAX : 8));
        ofr_sampling s = OFR_SAMPLING_DEFAULT;
        s.temperature = (float[]){0, 0.1f, 0.8f, 3}[next_random(&random) % 4];
        s.top_k = (uint32_t[]){1, 2, 7, 40, OFR_CANDIDATES_MAX}[next_random(&random) % 5];
        s.top_p = (float[]){1, 0.9f, 0.5f}[next_random(&random) % 3];
        s.min_p = (float[]){0, 0.05f}[next_random(&random) % 2];
        s.seed = round;
        ofr_sampler *whole = make(s, vocab), *few = make(s, vocab);
        uint32_t wanted = ofr_sampler_candidates_wanted(few);
        assert_int_equal(wanted, s.temperature == 0 ? 1 : s.top_k);
        /* More than are wanted, where another sequence wants them. */
        uint32_t n = wanted + (uint32_t)next_random(&random) % (OFR_CANDIDATES_MAX + 1 - wanted);
        for (int i = 0; i < DRAWS; i++) {
            ofr_candidate candidates[OFR_CANDIDATES_MAX];
            int32_t expected = -1, token = -1;
            ofr_error err = {0};
            fill_random(logits, vocab, &random);
            ofr_candidates_select(logits, vocab, n, candidates);
            int r = ofr_sampler_sample(whole, logits, &expected, &err);
            assert_int_equal(ofr_sampler_sample_candidates(few, candidates, n, &token, &err), r);
            assert_int_equal(token, expected);
            failures += r < 0;
            drawn += r == 0;
        }
        ofr_sampler_free(whole);
        ofr_sampler_free(few);
    }
    assert_true(failures > 50 && drawn > ROUNDS * DRAWS / 2);
}

static void candidates_are_not_wanted_where_they_are_not_enough(void **state)
{
    (void)state;
    const ofr_logit_bias bias = {1, 1};
    const ofr_candidate candidates[2] = {{1, 3}, {0, 2}};
    for (int i = 0; i < 7; i++) {
        ofr_sampling s = {.temperature = 1, .top_k = 3, .top_p = 1, .repetition_penalty = 1};
        ofr_error err = {0};
        int32_t token = -1;
        s.temperature = i == 6 ? 0 : 1;
        s.top_k = i == 1 ? 0 : i == 2 ? OFR_CANDIDATES_MAX + 1 : 3;
        s.repetition_penalty = i == 3 || i == 6 ? 1.1f : 1;
        s.presence_penalty = i == 4 ? 0.1f : 0;
        s.bias = &bias;
        s.n_bias = i == 5;
        ofr_sampler *sampler = make(s, 4);
        assert_int_equal(ofr_sampler_candidates_wanted(sampler), i == 0 ? 3 : 0);
        assert_int_equal(ofr_sampler_sample_candidates(sampler, candidates, 2, &token, &err),
                         OFR_EINVAL);
        assert_int_equal(token, -1);
        ofr_sampler_free(sampler);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_first_of_the_best),
        cmocka_unit_test(unusable_logits_are_a_device_error),
        cmocka_unit_test(draws_follow_the_softmax),
        cmocka_unit_test(cuts_keep_what_they_should),
        cmocka_unit_test(edges_of_the_cuts),
        cmocka_unit_test(penalties_count_the_window),
        cmocka_unit_test(a_seed_gives_one_sequence),
        cmocka_unit_test(bad_settings_are_refused),
        cmocka_unit_test(bias_and_masks),
        cmocka_unit_test(penalties_count_what_was_generated),
        cmocka_unit_test(candidates_give_the_tokens_of_all_logits),
        cmocka_unit_test(candidates_are_not_wanted_where_they_are_not_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
