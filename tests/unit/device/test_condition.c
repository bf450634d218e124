/* The table of device conditions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "device/condition.h"

static void changes_are_counted(void **state)
{
    (void)state;
    ofr_conditions table = {0};
    double penalty = 0;
    const char *reason = NULL;
    assert_true(ofr_conditions_usable(&table, "npu", &penalty, &reason));
    assert_true(penalty == 1.0);
    assert_string_equal(reason, "");
    assert_true(ofr_conditions_set(&table, "npu", OFR_CONDITION_THROTTLED, "97 C"));
    assert_int_equal(table.version, 1);
    assert_false(ofr_conditions_set(&table, "npu", OFR_CONDITION_THROTTLED, "98 C"));
    assert_int_equal(table.version, 1);
    assert_true(ofr_conditions_usable(&table, "npu", &penalty, &reason));
    assert_true(penalty > 1.0);
    assert_string_equal(reason, "98 C");
    assert_true(ofr_conditions_set(&table, "npu", OFR_CONDITION_OK, ""));
    assert_int_equal(table.version, 2);
}

static void quarantine_stays(void **state)
{
    (void)state;
    ofr_conditions table = {0};
    double penalty = 0;
    assert_true(ofr_conditions_set(&table, "igpu", OFR_CONDITION_QUARANTINED, "died 3 times"));
    assert_false(ofr_conditions_set(&table, "igpu", OFR_CONDITION_OK, ""));
    assert_false(ofr_conditions_usable(&table, "igpu", &penalty, NULL));
    assert_string_equal(ofr_conditions_find(&table, "igpu")->reason, "died 3 times");
    ofr_conditions_clear(&table, "igpu");
    assert_true(ofr_conditions_usable(&table, "igpu", &penalty, NULL));
    assert_int_equal(table.version, 2);
}

static void a_full_table_ignores_more(void **state)
{
    (void)state;
    ofr_conditions table = {0};
    char name[16];
    for (int i = 0; i < OFR_DEVICES_MAX + 4; i++) {
        snprintf(name, sizeof name, "dgpu%d", i);
        bool set = ofr_conditions_set(&table, name, OFR_CONDITION_WARM, "");
        assert_int_equal(set, i < OFR_DEVICES_MAX);
    }
    assert_int_equal(table.count, OFR_DEVICES_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes_are_counted),
        cmocka_unit_test(quarantine_stays),
        cmocka_unit_test(a_full_table_ignores_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
