/* The slot ledger: it never says more than what was forwarded, and refuses what is impossible. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "executive_shard/slot_ledger.h"

static void open_fresh(ofr_slot_ledger *ledger, int *ret_fd)
{
    ofr_slot_ledger_header header;
    ofr_error err = {0};
    assert_int_equal(ofr_slot_ledger_layout(3, 100, 50, &header, &err), 0);
    assert_int_equal(ofr_slot_ledger_create(&header, ret_fd, &err), 0);
    assert_int_equal(ofr_slot_ledger_open(ledger, *ret_fd, &header, &err), 0);
}

static void it_follows_the_strips(void **state)
{
    (void)state;
    ofr_slot_ledger ledger = {0};
    int fd = -1;
    open_fresh(&ledger, &fd);
    const int32_t tokens[] = {1, 2, 3, 4};
    uint32_t n = 9;
    ofr_slot_ledger_tokens(&ledger, 1, &n);
    assert_int_equal(n, 0);
    ofr_slot_ledger_add(&ledger, 1, 0, tokens, 4);
    ofr_slot_ledger_add(&ledger, 1, 4, tokens, 2);
    const int32_t *held = ofr_slot_ledger_tokens(&ledger, 1, &n);
    assert_int_equal(n, 6);
    assert_int_equal(held[5], 2);
    /* A job that overwrites row 3 and then fails. */
    ofr_slot_ledger_cut(&ledger, 1, 3);
    ofr_slot_ledger_tokens(&ledger, 1, &n);
    assert_int_equal(n, 3);
    /* A gap, and rows beyond the context, are not noted. */
    ofr_slot_ledger_add(&ledger, 1, 5, tokens, 1);
    ofr_slot_ledger_add(&ledger, 1, 99, tokens, 4);
    ofr_slot_ledger_add(&ledger, 7, 0, tokens, 4);
    ofr_slot_ledger_tokens(&ledger, 1, &n);
    assert_int_equal(n, 3);
    /* What another client finds. */
    ofr_slot_ledger second = {0};
    ofr_error err = {0};
    assert_int_equal(ofr_slot_ledger_open(&second, fd, &ledger.header, &err), 0);
    held = ofr_slot_ledger_tokens(&second, 1, &n);
    assert_int_equal(n, 3);
    assert_int_equal(held[2], 3);
    ofr_slot_ledger_tokens(&second, 2, &n);
    assert_int_equal(n, 0);
    ofr_slot_ledger_close(&second);
    ofr_slot_ledger_close(&ledger);
    close(fd);
}

static void impossible_slots_are_empty(void **state)
{
    (void)state;
    ofr_slot_ledger ledger = {0};
    int fd = -1;
    open_fresh(&ledger, &fd);
    const int32_t good[] = {1, 2}, bad[] = {1, 50};
    ofr_slot_ledger_add(&ledger, 0, 0, good, 2);
    ofr_slot_ledger_add(&ledger, 1, 0, bad, 2);
    uint32_t too_many = 101;
    size_t third = OFR_SLOT_LEDGER_HEADER_BYTES + 2 * (64 + 448);
    assert_int_equal(pwrite(fd, &too_many, 4, (off_t)third), 4);
    ofr_slot_ledger second = {0};
    ofr_error err = {0};
    uint32_t n = 9;
    assert_int_equal(ofr_slot_ledger_open(&second, fd, &ledger.header, &err), 0);
    ofr_slot_ledger_tokens(&second, 0, &n);
    assert_int_equal(n, 2);
    ofr_slot_ledger_tokens(&second, 1, &n);
    assert_int_equal(n, 0);
    ofr_slot_ledger_tokens(&second, 2, &n);
    assert_int_equal(n, 0);
    ofr_slot_ledger_close(&second);
    ofr_slot_ledger_header other = ledger.header;
    other.vocab_size++;
    assert_int_equal(ofr_slot_ledger_open(&second, fd, &other, &err), OFR_EPROTOCOL);
    assert_int_equal(ftruncate(fd, 64), 0);
    assert_int_equal(ofr_slot_ledger_open(&second, fd, &ledger.header, &err), OFR_EPROTOCOL);
    close(fd);
    ofr_slot_ledger_close(&ledger);
}

static void a_new_one_says_the_same(void **state)
{
    (void)state;
    ofr_slot_ledger first, second;
    ofr_error err = {0};
    int fd = -1, renewed = -1;
    uint32_t n = 0;
    static const int32_t tokens[] = {5, 6, 7};
    open_fresh(&first, &fd);
    ofr_slot_ledger_add(&first, 0, 0, tokens, 3);
    ofr_slot_ledger_add(&first, 2, 0, tokens, 2);
    assert_int_equal(ofr_slot_ledger_renew(&first.header, fd, &renewed, &err), 0);
    assert_int_equal(ofr_slot_ledger_open(&second, renewed, &first.header, &err), 0);
    assert_memory_equal(ofr_slot_ledger_tokens(&second, 0, &n), tokens, sizeof tokens);
    assert_int_equal(n, 3);
    ofr_slot_ledger_tokens(&second, 1, &n);
    assert_int_equal(n, 0);
    ofr_slot_ledger_tokens(&second, 2, &n);
    assert_int_equal(n, 2);
    /* What is done to the old one is not seen in the new one. */
    ofr_slot_ledger_cut(&first, 0, 0);
    ofr_slot_ledger_tokens(&second, 0, &n);
    assert_int_equal(n, 3);
    ofr_slot_ledger_close(&second);
    close(renewed);
    const ofr_slot_ledger_header header = first.header;
    ofr_slot_ledger_close(&first);
    /* A truncated one is an empty one. */
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(ofr_slot_ledger_renew(&header, fd, &renewed, &err), 0);
    assert_int_equal(ofr_slot_ledger_open(&second, renewed, &header, &err), 0);
    for (uint32_t slot = 0; slot < 3; slot++) {
        ofr_slot_ledger_tokens(&second, slot, &n);
        assert_int_equal(n, 0);
    }
    ofr_slot_ledger_close(&second);
    close(renewed);
    close(fd);
}

static void layouts_are_bounded(void **state)
{
    (void)state;
    ofr_slot_ledger_header header;
    ofr_error err = {0};
    assert_int_equal(ofr_slot_ledger_layout(0, 1, 1, &header, &err), OFR_ELIMIT);
    assert_int_equal(ofr_slot_ledger_layout(1, 0, 1, &header, &err), OFR_ELIMIT);
    assert_int_equal(ofr_slot_ledger_layout(1, UINT32_MAX, 1, &header, &err), OFR_ELIMIT);
    assert_int_equal(ofr_slot_ledger_layout(UINT32_MAX, 1, 1, &header, &err), OFR_ELIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_follows_the_strips),
        cmocka_unit_test(impossible_slots_are_empty),
        cmocka_unit_test(a_new_one_says_the_same),
        cmocka_unit_test(layouts_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
