/* Sets of stacks: equal sets are equal numbers, unions are unions, compaction keeps what is kept.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "grammar/stacks.h"

static void equal_sets_are_equal_numbers(void **state)
{
    (void)state;
    ofr_stacks s;
    assert_int_equal(ofr_stacks_init(&s), 0);
    uint32_t a = ofr_stacks_push(&s, OFR_STACKS_BOTTOM, 5, 0);
    uint32_t b = ofr_stacks_push(&s, OFR_STACKS_BOTTOM, 6, 0);
    uint32_t counted = ofr_stacks_push(&s, OFR_STACKS_BOTTOM, 5, 1);
    assert_int_equal(ofr_stacks_push(&s, OFR_STACKS_BOTTOM, 5, 0), a);
    assert_true(a != b && a != counted && b != counted);
    uint32_t both = ofr_stacks_unite(&s, a, b);
    assert_int_equal(ofr_stacks_unite(&s, b, a), both);
    assert_int_equal(ofr_stacks_unite(&s, both, a), both);
    assert_int_equal(ofr_stacks_unite(&s, a, OFR_STACKS_NONE), a);
    assert_int_equal(ofr_stacks_unite(&s, ofr_stacks_unite(&s, counted, a), b),
                     ofr_stacks_unite(&s, counted, both));
    assert_int_equal(s.sets[both].count, 2);
    uint32_t deep = ofr_stacks_push(&s, both, 7, 0);
    assert_int_equal(s.sets[deep].depth, s.sets[both].depth + 1);
    assert_int_equal(s.frames[s.sets[deep].first].below, both);
    assert_false(s.failed);
    ofr_stacks_done(&s);
}

static void compaction(void **state)
{
    (void)state;
    ofr_stacks s;
    assert_int_equal(ofr_stacks_init(&s), 0);
    uint32_t chain = OFR_STACKS_BOTTOM, kept = 0;
    for (uint32_t i = 0; i < 5000; i++) {
        chain = ofr_stacks_push(&s, chain, i % 7, i); /* also grows the table */
        if (i == 99)
            kept = chain;
    }
    uint32_t before = s.n_sets, unknown = OFR_STACKS_UNKNOWN;
    uint32_t *const keep[] = {&kept, &unknown};
    assert_int_equal(s.sets[chain].depth, s.sets[kept].depth + 4900);
    assert_int_equal(ofr_stacks_compact(&s, keep, 2), 0);
    assert_true(s.n_sets < before && s.n_sets >= 100);
    assert_int_equal(unknown, OFR_STACKS_UNKNOWN);
    for (uint32_t i = 100; i-- > 0;) { /* the same stack, from its top */
        const ofr_frame *frame = &s.frames[s.sets[kept].first];
        assert_int_equal(frame->node, i % 7);
        assert_int_equal(frame->count, i);
        kept = frame->below;
    }
    assert_int_equal(kept, OFR_STACKS_BOTTOM);
    assert_int_equal(ofr_stacks_push(&s, OFR_STACKS_BOTTOM, 0, 0),
                     ofr_stacks_push(&s, OFR_STACKS_BOTTOM, 0, 0));
    ofr_stacks_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_sets_are_equal_numbers),
        cmocka_unit_test(compaction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
