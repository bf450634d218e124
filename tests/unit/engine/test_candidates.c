/* Candidates: what is chosen against a plain sort of the row, and what a check lets pass. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/candidates.h"

enum { VOCAB_MAX = 3 * 2048 + 37 };

static int by_rank(const void *a, const void *b)
{
    return ofr_candidate_precedes(a, b) ? -1 : 1;
}

/* All numbers of the row in order, then none. */
static void sort_row(const float *logits, int32_t vocab, ofr_candidate *ret)
{
    size_t n = 0;
    for (int32_t i = 0; i < vocab; i++) {
        if (!isnan(logits[i])) {
            ret[n++] = (ofr_candidate){i, logits[i]};
        }
    }
    qsort(ret, n, sizeof *ret, by_rank);
    for (; n < VOCAB_MAX + OFR_CANDIDATES_MAX; n++) {
        ret[n] = (ofr_candidate){OFR_CANDIDATE_NONE, -INFINITY};
    }
}

static void compare(const float *logits, int32_t vocab)
{
    static ofr_candidate sorted[VOCAB_MAX + OFR_CANDIDATES_MAX];
    ofr_candidate got[OFR_CANDIDATES_MAX];
    ofr_error err = {0};
    sort_row(logits, vocab, sorted);
    const uint32_t counts[] = {1, 2, 7, 40, OFR_CANDIDATES_MAX};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        ofr_candidates_select(logits, vocab, counts[c], got);
        for (uint32_t i = 0; i < counts[c]; i++) {
            assert_int_equal(got[i].token, sorted[i].token);
            assert_true(got[i].logit == sorted[i].logit);
        }
        bool finite = true; /* nothing else may come from elsewhere */
        for (int32_t i = 0; i < vocab && i < (int32_t)counts[c]; i++) {
            finite = finite && isfinite(got[i].logit);
        }
        assert_int_equal(ofr_candidates_check(got, counts[c], vocab, &err),
                         finite ? 0 : OFR_EPROTOCOL);
    }
}

static void the_first_of_the_row_are_chosen(void **state)
{
    (void)state;
    static float logits[VOCAB_MAX];
    const int32_t sizes[] = {1, 5, 63, 64, 65, 1000, VOCAB_MAX};
    const int levels[] = {1, 3, 50, 1 << 20};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
            srandom((unsigned)(s * 10 + l));
            for (int32_t i = 0; i < sizes[s]; i++) {
                logits[i] = (float)(random() % levels[l]) - 1000;
            }
            compare(logits, sizes[s]);
            for (int32_t i = 0; i < sizes[s]; i++) { /* the last are the best, then the first */
                logits[i] = (float)(i / levels[l]);
            }
            compare(logits, sizes[s]);
            for (int32_t i = 0; i < sizes[s]; i++) {
                logits[i] = -logits[i];
            }
            compare(logits, sizes[s]);
        }
    }
}

static void what_is_no_number_is_passed_over(void **state)
{
    (void)state;
    static float logits[VOCAB_MAX];
    for (int32_t i = 0; i < VOCAB_MAX; i++) {
        logits[i] = NAN;
    }
    compare(logits, VOCAB_MAX);
    for (int32_t i = 100; i < VOCAB_MAX; i += 1000) {
        logits[i] = (float[]){-INFINITY, 5, INFINITY, -3}[i / 1000 % 4];
    }
    compare(logits, VOCAB_MAX);
    for (int32_t i = 0; i < VOCAB_MAX; i++) {
        logits[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    }
    compare(logits, VOCAB_MAX);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    const ofr_candidate good[] = {{4, 2}, {6, 2}, {0, -3}, {OFR_CANDIDATE_NONE, -INFINITY}};
    ofr_error err = {0};
    assert_int_equal(ofr_candidates_check(good, 3, 7, &err), 0);
    assert_int_equal(ofr_candidates_check(good, 4, 7, &err), OFR_EPROTOCOL); /* one too few */
    const ofr_candidate small[] = {{1, 2}, {0, 2}, {OFR_CANDIDATE_NONE, 0}};
    assert_int_equal(ofr_candidates_check(small + 1, 2, 1, &err), 0);
    assert_int_equal(ofr_candidates_check(small, 2, 1, &err), OFR_EPROTOCOL);
    const ofr_candidate bad[][3] = {
        {{-2, 2}, {1, 1}, {2, 0}},
        {{7, 2}, {1, 1}, {2, 0}},
        {{INT32_MAX, 2}, {1, 1}, {2, 0}},
        {{INT32_MIN, 2}, {1, 1}, {2, 0}},
        {{0, 2}, {1, 1}, {7, 0}},
        {{0, NAN}, {1, 1}, {2, 0}},
        {{0, INFINITY}, {1, 1}, {2, 0}},
        {{0, 2}, {1, 1}, {2, NAN}},
        {{0, 2}, {1, 1}, {2, -INFINITY}},
        {{0, 1}, {1, 2}, {2, 0}},
        {{1, 2}, {0, 2}, {2, 0}},
        {{1, 2}, {1, 2}, {2, 0}},
        {{1, 2}, {0, 1}, {1, 0}}, /* twice */
        {{0, 2}, {OFR_CANDIDATE_NONE, -INFINITY}, {2, 0}},
        {{OFR_CANDIDATE_NONE, 0}, {OFR_CANDIDATE_NONE, 0}, {OFR_CANDIDATE_NONE, 0}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(ofr_candidates_check(bad[i], 3, 7, &err), OFR_EPROTOCOL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_of_the_row_are_chosen),
        cmocka_unit_test(what_is_no_number_is_passed_over),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
