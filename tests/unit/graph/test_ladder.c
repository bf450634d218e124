/* Chunk ladders: parsing, and covering prompts at least cost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "graph/ladder.h"

static ofr_ladder parsed(const char *text, uint32_t context)
{
    ofr_ladder ladder = {0};
    ofr_error err = {0};
    if (ofr_ladder_parse_chunks(text, context, &ladder, &err) < 0)
        fail_msg("%s: %s", text, err.text);
    return ladder;
}

static void chunks_are_parsed(void **state)
{
    (void)state;
    ofr_ladder ladder = parsed(OFR_LADDER_DEFAULT_CHUNKS, 8192);
    assert_int_equal(ladder.n, 7);
    assert_int_equal(ladder.steps[0], 1);
    assert_int_equal(ladder.steps[2], 32);
    assert_int_equal(ladder.steps[6], 1024);
    ladder = parsed("16,64,256", 100);
    assert_int_equal(ladder.n, 3);
    assert_int_equal(ladder.steps[2], 64);
}

static void bad_chunks_are_refused(void **state)
{
    (void)state;
    const char *const bad[] = {"",      ",",   "16,",  "64,16", "16,16",  "1",
                               "16 64", "-16", "0x10", "9000",  "16,,64", "99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ofr_ladder ladder = {0};
        ofr_error err = {0};
        if (ofr_ladder_parse_chunks(bad[i], 8192, &ladder, &err) != OFR_EINVAL)
            fail_msg("'%s' was accepted", bad[i]);
        assert_non_null(err.text);
    }
}

static void pasts_end_at_the_context(void **state)
{
    (void)state;
    ofr_ladder pasts;
    ofr_ladder_pasts(3000, &pasts);
    const uint32_t expected[] = {0, 256, 512, 1024, 2048, 3000};
    assert_int_equal(pasts.n, 6);
    for (uint32_t i = 0; i < pasts.n; i++)
        assert_int_equal(pasts.steps[i], expected[i]);
    uint32_t step = 0;
    assert_int_equal(ofr_ladder_cover(&pasts, 257, &step), 0);
    assert_int_equal(step, 512);
    assert_int_equal(ofr_ladder_cover(&pasts, 3001, &step), OFR_EUNSUPPORTED);
    ofr_ladder_pasts(100, &pasts);
    assert_int_equal(pasts.n, 2);
    assert_int_equal(pasts.steps[1], 100);
    ofr_ladder_pasts(UINT32_MAX, &pasts);
    assert_int_equal(pasts.steps[pasts.n - 1], UINT32_MAX);
}

/* The least cost of covering n tokens, by trying every first chunk. */
static double least(const ofr_ladder *ladder, const double *cost, uint32_t n)
{
    double best = 1e30;
    for (uint32_t i = 0; i < ladder->n; i++) {
        uint32_t step = ladder->steps[i];
        double total = cost[i] + (step < n ? least(ladder, cost, n - step) : 0);
        best = total < best ? total : best;
    }
    return best;
}

static void covers_are_the_cheapest(void **state)
{
    (void)state;
    ofr_ladder ladder = {.steps = {1, 8, 20}, .n = 3};
    const double costs[][3] = {{1, 8, 20}, {33, 40, 52}, {10, 11, 12}, {1, 100, 100}};
    for (size_t c = 0; c < sizeof costs / sizeof costs[0]; c++) {
        for (uint32_t n = 1; n <= 30; n++) {
            uint32_t chunks[64], count = 0, tokens = 0;
            double total = 0;
            assert_int_equal(ofr_ladder_chunks(&ladder, costs[c], n, chunks, 64, &count, NULL), 0);
            for (uint32_t i = 0; i < count; i++) {
                assert_true(tokens < n);
                tokens += chunks[i];
                for (uint32_t k = 0; k < ladder.n; k++)
                    total += ladder.steps[k] == chunks[i] ? costs[c][k] : 0;
            }
            assert_true(tokens >= n);
            if (total > least(&ladder, costs[c], n) + 1e-9)
                fail_msg("%u tokens cost %f, possible is %f", n, total,
                         least(&ladder, costs[c], n));
        }
    }
}

static void too_many_chunks_are_an_error(void **state)
{
    (void)state;
    ofr_ladder ladder = {.steps = {1}, .n = 1};
    double cost = 1;
    uint32_t chunks[4], count = 9;
    assert_int_equal(ofr_ladder_chunks(&ladder, &cost, 5, chunks, 4, &count, NULL), OFR_ELIMIT);
    assert_int_equal(count, 9);
    assert_int_equal(ofr_ladder_chunks(&ladder, &cost, 0, chunks, 4, &count, NULL), OFR_EINVAL);
    assert_int_equal(ofr_ladder_chunks(&ladder, &cost, 70000, chunks, 4, &count, NULL), OFR_EINVAL);
}

static void names_tell_kinds_apart(void **state)
{
    (void)state;
    char name[64];
    ofr_ladder_block_name(0, 64, 256, name, sizeof name);
    assert_string_equal(name, "block_64_256.xml");
    ofr_ladder_block_name(2, 64, 256, name, sizeof name);
    assert_string_equal(name, "block_64_256_kind2.xml");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_are_parsed),
        cmocka_unit_test(bad_chunks_are_refused),
        cmocka_unit_test(pasts_end_at_the_context),
        cmocka_unit_test(covers_are_the_cheapest),
        cmocka_unit_test(too_many_chunks_are_an_error),
        cmocka_unit_test(names_tell_kinds_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
