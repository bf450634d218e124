/* The arithmetic of KV strips: sizes, offsets that never overlap, and overflow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kv.h"

static ofr_model_params params(uint32_t layers, uint32_t heads, uint32_t dim)
{
    return (ofr_model_params){.n_layers = layers, .n_kv_heads = heads, .head_dim = dim};
}

static void sizes_are_those_of_the_format(void **state)
{
    (void)state;
    ofr_model_params p = params(30, 3, 64);
    ofr_kv_layout layout;
    ofr_error err = {0};
    assert_int_equal(ofr_kv_layout_init(&layout, &p, 2, 2048, 512, &err), 0);
    assert_int_equal(layout.row_bytes, 384);
    assert_int_equal(layout.strip_bytes, 983040); /* 2560 * 384, whole pages */
    assert_int_equal(layout.slot_bytes, 58982400);
    assert_int_equal(layout.layer_bytes, 3932160);
    assert_int_equal(layout.total_bytes, 117964800);
    p = params(1, 1, 32);
    assert_int_equal(ofr_kv_layout_init(&layout, &p, 1, 1, 1, &err), 0);
    assert_int_equal(layout.strip_bytes, 4096);
}

static void strips_follow_one_another(void **state)
{
    (void)state;
    ofr_model_params p = params(3, 2, 80);
    ofr_kv_layout layout;
    ofr_error err = {0};
    assert_int_equal(ofr_kv_layout_init(&layout, &p, 4, 100, 7, &err), 0);
    uint64_t expected = 0;
    for (uint32_t layer = 0; layer < 3; layer++) {
        for (uint32_t slot = 0; slot < 4; slot++) {
            assert_int_equal(ofr_kv_strip_k(&layout, slot, layer), expected);
            expected += layout.strip_bytes;
            assert_int_equal(ofr_kv_strip_v(&layout, slot, layer), expected);
            expected += layout.strip_bytes;
        }
    }
    assert_int_equal(layout.total_bytes, expected);
    assert_int_equal(layout.strip_bytes % OFR_KV_STRIP_ALIGN, 0);
    assert_true(layout.strip_bytes >= 107 * layout.row_bytes);
}

static void overflow_and_nonsense_are_refused(void **state)
{
    (void)state;
    ofr_kv_layout layout = {.version = 99};
    ofr_error err = {0};
    ofr_model_params p = params(1024, UINT32_MAX, UINT32_MAX);
    assert_int_equal(ofr_kv_layout_init(&layout, &p, 1, 1, 1, &err), OFR_ELIMIT);
    p = params(1024, 65536, 4096);
    assert_int_equal(ofr_kv_layout_init(&layout, &p, UINT32_MAX, UINT32_MAX, 1, &err), OFR_ELIMIT);
    p = params(4, 2, 64);
    assert_int_equal(ofr_kv_layout_init(&layout, &p, 0, 1, 1, &err), OFR_EINVAL);
    assert_int_equal(ofr_kv_layout_init(&layout, &p, 1, 0, 1, &err), OFR_EINVAL);
    assert_int_equal(ofr_kv_layout_init(&layout, &p, 1, 1, 0, &err), OFR_EINVAL);
    assert_int_equal(layout.version, 99); /* written only on success */
}

static void rows_are_copied_between_slots(void **state)
{
    (void)state;
    ofr_model_params params = {.n_layers = 2, .n_kv_heads = 1, .head_dim = 4};
    ofr_kv_layout layout;
    ofr_error err = {0};
    uint64_t bytes = 0;
    assert_int_equal(ofr_kv_layout_init(&layout, &params, 3, 10, 2, &err), 0);
    unsigned char *arena = calloc(1, layout.total_bytes);
    assert_non_null(arena);
    for (uint32_t layer = 0; layer < 2; layer++) {
        memset(arena + ofr_kv_strip_k(&layout, 0, layer), (int)(layer + 1), layout.row_bytes * 5);
        memset(arena + ofr_kv_strip_v(&layout, 0, layer), (int)(layer + 9), layout.row_bytes * 5);
    }
    assert_int_equal(ofr_kv_copy_rows(&layout, arena, 0, 2, 3, &bytes, &err), 0);
    assert_int_equal(bytes, 2 * 2 * 3 * layout.row_bytes);
    for (uint32_t layer = 0; layer < 2; layer++) {
        const unsigned char *k = arena + ofr_kv_strip_k(&layout, 2, layer);
        assert_int_equal(k[3 * layout.row_bytes - 1], layer + 1);
        assert_int_equal(k[3 * layout.row_bytes], 0);
        assert_int_equal(arena[ofr_kv_strip_v(&layout, 2, layer)], layer + 9);
        assert_int_equal(arena[ofr_kv_strip_v(&layout, 1, layer)], 0);
    }
    assert_int_equal(ofr_kv_copy_rows(&layout, arena, 0, 0, 3, &bytes, &err), OFR_EINVAL);
    assert_int_equal(ofr_kv_copy_rows(&layout, arena, 0, 3, 3, &bytes, &err), OFR_EINVAL);
    assert_int_equal(ofr_kv_copy_rows(&layout, arena, 0, 1, 11, &bytes, &err), OFR_EINVAL);
    free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_those_of_the_format),
        cmocka_unit_test(strips_follow_one_another),
        cmocka_unit_test(overflow_and_nonsense_are_refused),
        cmocka_unit_test(rows_are_copied_between_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
