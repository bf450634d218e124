/* The planner's figures as JSON: written and read again, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/planner_figures.h"

static const char *const good =
    "{\"format\":1,\"kind\":\"measured\",\"title\":\"t\",\"date\":\"2026-11-28T00:00:00Z\","
    "\"key\":\"abc\",\"seconds\":3.5,\"circumstances\":\"2 threads\","
    "\"model\":{\"name\":\"m\",\"n_layers\":30,\"context\":8192,\"layer_bytes\":1000,"
    "\"head_bytes\":500,\"kv_bytes\":64,\"hidden_bytes\":32},"
    "\"devices\":[{\"name\":\"cpu\",\"kind\":\"cpu\",\"description\":\"d\",\"machine\":\"cpu\","
    "\"prefill\":[{\"tokens\":16,\"ms\":10.5},{\"tokens\":512,\"ms\":400}],"
    "\"decode\":[{\"tokens\":1,\"ms\":5.25}],\"hop_us\":12.5},"
    "{\"name\":\"openvino:NPU\",\"kind\":\"npu\",\"description\":\"n\",\"prefill\":[],"
    "\"decode\":[],\"hop_us\":0,\"failure\":\"no driver\"}]}";

static json_t *parse_text(const char *text)
{
    json_error_t at;
    json_t *root = json_loads(text, 0, &at);
    if (!root)
        fail_msg("%s", at.text);
    return root;
}

static void round_trip(void **state)
{
    (void)state;
    json_t *root = parse_text(good);
    ofr_planner_figures a, b;
    ofr_error err = {0};
    assert_int_equal(ofr_planner_figures_parse(root, &a, &err), 0);
    assert_true(a.measured);
    assert_string_equal(a.input.devices[1].failure, "no driver");
    assert_int_equal(a.input.devices[0].prefill[1].tokens, 512);
    json_t *written = ofr_planner_figures_to_json(&a);
    assert_non_null(written);
    assert_int_equal(ofr_planner_figures_parse(written, &b, &err), 0);
    assert_memory_equal(&a, &b, sizeof a);
    json_decref(written);
    json_decref(root);
}

/* `path` is "devices/0/name"; `value` is JSON, NULL removes the member. */
static void refused(const char *path, const char *value, int code, const char *part)
{
    json_t *root = parse_text(good), *at = root;
    char copy[64];
    snprintf(copy, sizeof copy, "%s", path);
    char *save = NULL, *name = strtok_r(copy, "/", &save), *next;
    for (; (next = strtok_r(NULL, "/", &save)); name = next)
        at = json_is_array(at) ? json_array_get(at, (size_t)(name[0] - '0'))
                               : json_object_get(at, name);
    if (value)
        json_object_set_new(at, name, json_loads(value, JSON_DECODE_ANY, NULL));
    else
        json_object_del(at, name);
    ofr_planner_figures figures;
    ofr_error err = {0};
    int r = ofr_planner_figures_parse(root, &figures, &err);
    if (r != code || !strstr(err.text, part))
        fail_msg("%s: %d '%s' instead of %d '%s'", path, r, err.text, code, part);
    json_decref(root);
}

static void refuses_bad_figures(void **state)
{
    (void)state;
    refused("format", "2", OFR_EVERSION, "format 2; this version reads format 1");
    refused("format", NULL, OFR_EINVAL, "'format' is missing");
    refused("kind", "\"guessed\"", OFR_EINVAL, "'kind' is not measured or published");
    refused("key", NULL, OFR_EINVAL, "'key' is missing");
    refused("seconds", "-1", OFR_EINVAL, "'seconds'");
    refused("model", "3", OFR_EINVAL, "model");
    refused("model/n_layers", "0", OFR_EINVAL, "'n_layers'");
    refused("model/n_layers", "1e9", OFR_EINVAL, "'n_layers'");
    refused("model/layer_bytes", "\"many\"", OFR_EINVAL, "'layer_bytes'");
    refused("devices", "{}", OFR_EINVAL, "'devices'");
    refused("devices", "[]", OFR_EINVAL, "'devices'");
    refused("devices", "[1,2,3,4,5,6,7,8,9]", OFR_EINVAL, "1 to 8 devices");
    refused("devices/0/name", "\"tpu\"", OFR_EINVAL, "device 1: 'tpu' is no device name");
    refused("devices/0/name", "\"cpu@0-4\"", OFR_EINVAL, "no device name");
    refused("devices/0/name", "\"cpu,npu\"", OFR_EINVAL, "no device name");
    refused("devices/0/name", "\"a name that is longer than any device's can be\"", OFR_EINVAL,
            "too long");
    refused("devices/1/name", "\"cpu\"", OFR_EINVAL, "same name");
    refused("devices/0/kind", "\"tpu\"", OFR_EINVAL, "'kind' is not cpu, gpu or npu");
    refused("devices/0/prefill", "3", OFR_EINVAL, "'prefill'");
    refused("devices/0/prefill", "[{\"tokens\":1}]", OFR_EINVAL, "prefill, point 1: 'ms'");
    refused("devices/0/prefill", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", OFR_EINVAL, "at most 16");
    refused("devices/0/decode", "[{\"tokens\":1e12,\"ms\":1}]", OFR_EINVAL, "'tokens'");
    refused("devices/0/hop_us", NULL, OFR_EINVAL, "'hop_us' is missing");
    refused("devices/0/busy", "1.5", OFR_EINVAL, "'busy'");
}

static void busy_devices_are_slow(void **state)
{
    (void)state;
    ofr_planner_device d = {0};
    ofr_planner_device_busy(&d, 0.05);
    assert_string_equal(d.condition, "");
    ofr_planner_device_busy(&d, 0.5);
    assert_true(d.slowdown == 2);
    assert_string_equal(d.condition, "others use it 50 % of the time");
    ofr_planner_device_busy(&d, 1);
    assert_in_range((int)(d.slowdown + 0.5), 20, 20);
}

static void decisions_are_written(void **state)
{
    (void)state;
    json_t *root = parse_text(good);
    ofr_planner_figures figures;
    assert_int_equal(ofr_planner_figures_parse(root, &figures, NULL), 0);
    json_decref(root);
    ofr_planner_decision *decision = NULL;
    assert_int_equal(ofr_planner_decide(&figures.input, &decision, NULL), 0);
    json_t *written = ofr_planner_decision_to_json(decision);
    assert_string_equal(json_string_value(json_object_get(written, "plan")),
                        "prefill=cpu,decode=cpu");
    const json_t *refused_list = json_object_get(written, "refused");
    assert_int_equal(json_array_size(refused_list), 1);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(refused_list, 0), "reason")), "no driver");
    const json_t *first = json_array_get(json_object_get(written, "candidates"), 0);
    assert_int_equal(json_integer_value(json_object_get(first, "prompt_tokens")), 16);
    assert_true(json_is_true(json_object_get(first, "chosen")));
    json_decref(written);
    ofr_planner_decision_free(decision);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(refuses_bad_figures),
        cmocka_unit_test(busy_devices_are_slow),
        cmocka_unit_test(decisions_are_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
