/* Thresholds with hysteresis, conditions from telemetry, energy per token. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "executive_shard/health.h"

static void thresholds_have_hysteresis(void **state)
{
    (void)state;
    const ofr_threshold threshold = {95, 88, 3, 2};
    ofr_threshold_state s = {0};
    static const struct {
        double value;
        bool on;
    } steps[] = {{96, false}, {96, false}, {90, false}, {95, false}, {97, false},
                 {95, true},  {90, true},  {87, true},  {89, true},  {87, true},
                 {NAN, true}, {80, false}, {94, false}};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        assert_int_equal(ofr_threshold_update(&threshold, &s, steps[i].value), steps[i].on);
}

static ofr_telemetry record(uint64_t seconds)
{
    ofr_telemetry t = {.magic = OFR_TELEMETRY_MAGIC, .n_devices = 2, .at_ns = seconds * 1000000000};
    for (size_t i = 0; i < OFR_DEVICES_MAX; i++)
        ofr_device_sample_init(&t.devices[i]);
    return t;
}

static ofr_health two_devices(void)
{
    ofr_health health = {.devices.count = 2};
    health.devices.devices[0] = (ofr_device){.name = "cpu", .kind = OFR_DEVICE_KIND_CPU};
    health.devices.devices[1] = (ofr_device){.name = "dgpu", .kind = OFR_DEVICE_KIND_DISCRETE_GPU};
    return health;
}

static void a_throttling_device_changes_the_plan(void **state)
{
    (void)state;
    ofr_health health = two_devices();
    ofr_conditions conditions = {0};
    const ofr_health_system system = {.memory_pressure = NAN};
    const ofr_health_work work = {0};
    double penalty = 0;
    uint64_t changes = 0;
    for (uint64_t i = 1; i <= 30; i++) {
        ofr_telemetry t = record(i);
        t.devices[1].throttle_known = 1;
        t.devices[1].throttled = i >= 5 && i < 12;
        t.devices[1].temperature_c = 93;
        snprintf(t.devices[1].throttle_reason, 48, "thermal");
        changes += ofr_health_update(&health, &t, &system, &work, &conditions);
        assert_true(ofr_conditions_usable(&conditions, "dgpu", &penalty, NULL));
        assert_int_equal(penalty > 1.0, i >= 7 && i < 21);
        if (i == 8)
            assert_string_equal(ofr_conditions_find(&conditions, "dgpu")->reason,
                                "throttled: thermal, 93 C");
    }
    assert_int_equal(changes, 2);
}

static void a_full_device_is_named(void **state)
{
    (void)state;
    ofr_health health = two_devices();
    ofr_conditions conditions = {0};
    const ofr_health_system system = {.memory_pressure = NAN};
    const ofr_health_work work = {0};
    for (uint64_t i = 1; i <= 3; i++) {
        ofr_telemetry t = record(i);
        t.devices[1].memory_total = 16e9;
        t.devices[1].memory_used = 15.9e9;
        ofr_health_update(&health, &t, &system, &work, &conditions);
    }
    const ofr_condition_entry *entry = ofr_conditions_find(&conditions, "dgpu");
    assert_int_equal(entry->condition, OFR_CONDITION_MEMORY);
    assert_non_null(strstr(entry->reason, "MiB"));
    assert_int_equal(ofr_conditions_find(&conditions, "cpu")->condition, OFR_CONDITION_OK);
}

static void energy_counts_where_only_decode_was(void **state)
{
    (void)state;
    ofr_health health = two_devices();
    ofr_conditions conditions = {0};
    const ofr_health_system system = {.memory_pressure = NAN};
    static const struct {
        double energy;
        uint64_t prefill, decode;
    } steps[] = {{0, 0, 0},      {50, 512, 0},   {80, 512, 10},
                 {110, 512, 20}, {140, 600, 25}, {200, 600, 25}};
    assert_true(isnan(ofr_health_energy_per_token(&health)));
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        ofr_telemetry t = record(i + 1);
        t.devices[0].energy_j = steps[i].energy;
        const ofr_health_work work = {steps[i].prefill, steps[i].decode};
        ofr_health_update(&health, &t, &system, &work, &conditions);
    }
    /* 60 J for 20 tokens: the second and third interval. */
    assert_true(fabs(ofr_health_energy_per_token(&health) - 3.0) < 1e-9);
    json_t *object = ofr_health_to_json(&health, &conditions);
    assert_non_null(object);
    assert_true(json_is_null(
        json_object_get(json_array_get(json_object_get(object, "devices"), 0), "temperature_c")));
    json_decref(object);
}

static void this_machine_is_read(void **state)
{
    (void)state;
    ofr_health_system system;
    ofr_health_system_read(&system);
    assert_true(system.memory_total > 0);
    assert_true(system.memory_available <= system.memory_total);
    assert_true(system.shm_free <= system.shm_total);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thresholds_have_hysteresis),
        cmocka_unit_test(a_throttling_device_changes_the_plan),
        cmocka_unit_test(a_full_device_is_named),
        cmocka_unit_test(energy_counts_where_only_decode_was),
        cmocka_unit_test(this_machine_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
