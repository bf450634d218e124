/* The choice of a slot: the longest prefix, and what is lost by taking it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "supervisor/serve/slots.h"

enum { LONG = 200 };
static int32_t counting[LONG], other[LONG];

static int prepare(void **state)
{
    (void)state;
    for (int32_t i = 0; i < LONG; i++) {
        counting[i] = i;
        other[i] = i < 100 ? i : 1000 + i;
    }
    return 0;
}

static void shared_prefix_leaves_one_token(void **state)
{
    (void)state;
    ofr_slot_view slot = {.tokens = counting, .n_tokens = 50};
    assert_int_equal(ofr_slot_shared(&slot, counting, 50), 49);
    assert_int_equal(ofr_slot_shared(&slot, counting, 51), 50);
    assert_int_equal(ofr_slot_shared(&slot, counting, 10), 9);
    assert_int_equal(ofr_slot_shared(&slot, counting, 1), 0);
    slot.n_tokens = 0;
    assert_int_equal(ofr_slot_shared(&slot, counting, 10), 0);
}

static void a_conversation_goes_on_in_its_slot(void **state)
{
    (void)state;
    const ofr_slot_view slots[] = {
        {.tokens = other, .n_tokens = LONG, .last_used_ns = 5},
        {.tokens = counting, .n_tokens = 150, .last_used_ns = 9},
        {.n_tokens = 0},
    };
    ofr_slot_choice choice;
    assert_true(ofr_slot_choose(slots, 3, counting, LONG, true, true, &choice));
    assert_int_equal(choice.slot, 1);
    assert_int_equal(choice.reused, 150);
    assert_false(choice.copy);
}

static void a_shared_beginning_is_copied(void **state)
{
    (void)state;
    ofr_slot_view slots[] = {
        {.tokens = counting, .n_tokens = LONG, .last_used_ns = 9},
        {.n_tokens = 0},
    };
    ofr_slot_choice choice;
    /* Taking slot 0 would lose 100 rows of it. */
    assert_true(ofr_slot_choose(slots, 2, other, LONG, true, true, &choice));
    assert_int_equal(choice.slot, 1);
    assert_true(choice.copy);
    assert_int_equal(choice.copy_from, 0);
    assert_int_equal(choice.reused, 100);
    /* The same from one that is busy. */
    slots[0].busy = true;
    assert_true(ofr_slot_choose(slots, 2, other, LONG, true, true, &choice));
    assert_true(choice.copy);
    assert_int_equal(choice.slot, 1);
    /* An engine that cannot copy forwards. */
    assert_true(ofr_slot_choose(slots, 2, other, LONG, true, false, &choice));
    assert_false(choice.copy);
    assert_int_equal(choice.slot, 1);
    assert_int_equal(choice.reused, 0);
}

static void without_a_match_the_oldest_is_taken(void **state)
{
    (void)state;
    static const int32_t fresh[] = {-5, -6};
    const ofr_slot_view slots[] = {
        {.tokens = counting, .n_tokens = LONG, .last_used_ns = 9},
        {.tokens = other, .n_tokens = LONG, .last_used_ns = 3},
        {.tokens = other, .n_tokens = LONG, .last_used_ns = 1, .busy = true},
    };
    ofr_slot_choice choice;
    assert_true(ofr_slot_choose(slots, 3, fresh, 2, true, true, &choice));
    assert_int_equal(choice.slot, 1);
    assert_int_equal(choice.reused, 0);
    /* Nothing may be reused: not even a whole match. */
    assert_true(ofr_slot_choose(slots, 3, counting, LONG, false, true, &choice));
    assert_int_equal(choice.slot, 1);
    assert_int_equal(choice.reused, 0);
    assert_false(choice.copy);
}

static void none_is_free(void **state)
{
    (void)state;
    const ofr_slot_view slots[] = {{.busy = true}, {.busy = true}};
    ofr_slot_choice choice;
    assert_false(ofr_slot_choose(slots, 2, counting, 5, true, true, &choice));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_prefix_leaves_one_token),
        cmocka_unit_test(a_conversation_goes_on_in_its_slot),
        cmocka_unit_test(a_shared_beginning_is_copied),
        cmocka_unit_test(without_a_match_the_oldest_is_taken),
        cmocka_unit_test(none_is_free),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
