/* Plans: the grammar, what it refuses and in which words, and the check against devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/plan.h"

static const ofr_plan_device all_devices[] = {
    {"openvino:NPU", OFR_PLAN_DEVICE_NPU},
    {"opencl:0", OFR_PLAN_DEVICE_GPU},
    {"openvino:GPU", OFR_PLAN_DEVICE_GPU},
    {"cpu", OFR_PLAN_DEVICE_CPU},
};
static const ofr_plan_device only_cpu[] = {{"cpu", OFR_PLAN_DEVICE_CPU}};

/* Parsed against all devices and a model of 30 layers, written again. */
static void becomes(const char *text, const char *expected)
{
    ofr_plan plan;
    ofr_error err = {0};
    char written[256];
    if (ofr_plan_parse(text, &plan, &err) < 0)
        fail_msg("'%s': %s", text, err.text);
    if (ofr_plan_resolve(&plan, all_devices, 4, 30, &err) < 0)
        fail_msg("'%s': %s", text, err.text);
    assert_int_equal(ofr_plan_format(&plan, 30, written, sizeof written), 0);
    assert_string_equal(written, expected);
}

static void accepts_the_grammar(void **state)
{
    (void)state;
    becomes("auto", "auto");
    becomes("cpu", "prefill=cpu,decode=cpu");
    becomes("decode=cpu", "decode=cpu");
    becomes("prefill=openvino:NPU,decode=opencl", "prefill=openvino:NPU,decode=opencl:0");
    becomes("decode=opencl:0,prefill=cpu", "prefill=cpu,decode=opencl:0");
    becomes("npu", "prefill=openvino:NPU,decode=openvino:NPU");
    becomes("prefill=npu,decode=gpu", "prefill=openvino:NPU,decode=opencl:0");
    becomes("decode=openvino:NPU@0-4,opencl@4-", "decode=openvino:NPU@0-4,opencl:0@4-30");
    becomes("npu@0-10,gpu@10-20,cpu@20-30", "prefill=openvino:NPU@0-10,opencl:0@10-20,cpu@20-30,"
                                            "decode=openvino:NPU@0-10,opencl:0@10-20,cpu@20-30");
    becomes("prefill=npu,decode=cpu@0-", "prefill=openvino:NPU,decode=cpu");
    becomes("cpu@0-30", "prefill=cpu,decode=cpu");
}

static void accepts_lengths(void **state)
{
    (void)state;
    becomes("prefill=cpu,prefill[256-]=npu,decode=cpu",
            "prefill=cpu,prefill[256-]=openvino:NPU,decode=cpu");
    becomes("cpu,prefill[64-]=opencl,prefill[512-]=openvino:NPU",
            "prefill=cpu,prefill[64-]=opencl:0,prefill[512-]=openvino:NPU,decode=cpu");
    becomes("decode=gpu,prefill=cpu,prefill[1-]=npu@0-4,cpu@4-",
            "prefill=cpu,prefill[1-]=openvino:NPU@0-4,cpu@4-30,decode=opencl:0");
    becomes("prefill=cpu,prefill[100-]=npu", "prefill=cpu,prefill[100-]=openvino:NPU");
}

static void expect_prefill(const ofr_plan *plan, uint32_t tokens, const char *device)
{
    const ofr_plan_phase *phase = ofr_plan_prefill(plan, tokens);
    assert_int_equal(phase->n_stages, 1);
    assert_string_equal(phase->stages[0].device, device);
}

static void prompts_have_a_route(void **state)
{
    (void)state;
    ofr_plan plan;
    assert_int_equal(ofr_plan_parse("prefill=cpu@0-2,opencl@2-,decode=cpu", &plan, NULL), 0);
    const ofr_plan_phase *route = ofr_plan_prefill(&plan, 31);
    assert_int_equal(route->n_stages, 2);
    assert_string_equal(route->stages[1].device, "opencl");
    assert_ptr_equal(ofr_plan_prefill(&plan, 100000), route);
    assert_int_equal(ofr_plan_parse("cpu,prefill[64-]=opencl,prefill[512-]=npu", &plan, NULL), 0);
    expect_prefill(&plan, 0, "cpu");
    expect_prefill(&plan, 63, "cpu");
    expect_prefill(&plan, 64, "opencl");
    expect_prefill(&plan, 511, "opencl");
    expect_prefill(&plan, 512, "npu");
    expect_prefill(&plan, UINT32_MAX, "npu");
}

static void phases_are_compared(void **state)
{
    (void)state;
    ofr_plan a, b;
    assert_int_equal(ofr_plan_parse("prefill=cpu@0-2,npu@2-,decode=cpu@0-2,npu@2-", &a, NULL), 0);
    assert_true(ofr_plan_phase_equal(&a.phases[0], &a.phases[1]));
    const char *others[] = {"cpu@0-3,npu@3-", "cpu@0-2,gpu@2-", "cpu@0-2,npu@2-9", "cpu"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        assert_int_equal(ofr_plan_parse(others[i], &b, NULL), 0);
        assert_false(ofr_plan_phase_equal(&a.phases[0], &b.phases[0]));
    }
}

static void parse_fails(const char *text, const char *part)
{
    ofr_plan plan;
    ofr_error err = {0};
    assert_int_equal(ofr_plan_parse(text, &plan, &err), OFR_EINVAL);
    if (!strstr(err.text, part))
        fail_msg("'%s': '%s' does not contain '%s'", text, err.text, part);
}

static void refuses_bad_grammar(void **state)
{
    (void)state;
    parse_fails("", "empty part");
    parse_fails("cpu,", "empty part");
    parse_fails(",cpu", "empty part");
    parse_fails("tpu", "'tpu'");
    parse_fails("CPU", "'CPU'");
    parse_fails("prefill=", "no device name");
    parse_fails("prefil=cpu", "unknown phase 'prefil'");
    parse_fails("prefill=cpu,prefill=npu", "given twice");
    parse_fails("openvino:XPU", "'openvino:XPU'");
    parse_fails("opencl:", "'opencl:'");
    parse_fails("opencl:1x", "'opencl:1x'");
    parse_fails("opencl:9999999999", "no device name");
    parse_fails("cpu@", "no layer range");
    parse_fails("cpu@4", "no layer range");
    parse_fails("cpu@-4", "no layer range");
    parse_fails("cpu@a-4", "no layer range");
    parse_fails("cpu@0-4-8", "no layer range");
    parse_fails("cpu@0-0", "empty");
    parse_fails("cpu@5-4", "empty");
    parse_fails("cpu@2-4", "begins at layer 2, but phase prefill goes on at layer 0");
    parse_fails("cpu@0-4,npu@5-", "begins at layer 5, but phase prefill goes on at layer 4");
    parse_fails("cpu,npu", "already runs to the last layer");
    parse_fails("auto,cpu", "'auto'");
    parse_fails("prefill[256-]=cpu", "needs a 'prefill=' before it");
    parse_fails("decode=cpu,prefill[256-]=npu", "needs a 'prefill=' before it");
    parse_fails("cpu,prefill[=npu", "'prefill[' names no length");
    parse_fails("cpu,prefill[]=npu", "names no length");
    parse_fails("cpu,prefill[-]=npu", "names no length");
    parse_fails("cpu,prefill[0-]=npu", "names no length");
    parse_fails("cpu,prefill[64]=npu", "names no length");
    parse_fails("cpu,prefill[64-128]=npu", "names no length");
    parse_fails("cpu,prefill[9999999999-]=npu", "names no length");
    parse_fails("cpu,decode[64-]=npu", "unknown phase 'decode[64-]'");
    parse_fails("cpu,prefill[64-]=npu,prefill[64-]=gpu", "is not longer than");
    parse_fails("cpu,prefill[64-]=npu,prefill[32-]=gpu", "is not longer than");
    parse_fails("cpu,prefill[64-]=npu@0-4,cpu@5-", "phase prefill[64-] goes on at layer 4");
    parse_fails("cpu,prefill[1-]=npu,prefill[2-]=npu,prefill[3-]=npu,prefill[4-]=npu,"
                "prefill[5-]=npu",
                "more than 4 lengths");
}

static void refuses_too_many_stages(void **state)
{
    (void)state;
    char text[512] = "decode=cpu@0-1";
    for (int i = 1; i <= OFR_PLAN_MAX_STAGES; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), ",cpu@%d-%d", i, i + 1);
    parse_fails(text, "more than 16 stages");
}

static void resolve_fails(const char *text, const ofr_plan_device *devices, size_t n, int code,
                          const char *part)
{
    ofr_plan plan;
    ofr_error err = {0};
    assert_int_equal(ofr_plan_parse(text, &plan, &err), 0);
    ofr_plan before = plan;
    assert_int_equal(ofr_plan_resolve(&plan, devices, n, 30, &err), code);
    assert_memory_equal(&before, &plan, sizeof plan);
    if (!strstr(err.text, part))
        fail_msg("'%s': '%s' does not contain '%s'", text, err.text, part);
}

static void refuses_what_is_absent(void **state)
{
    (void)state;
    resolve_fails("npu", only_cpu, 1, OFR_ENOENT, "no device 'npu' on this machine; present: cpu");
    resolve_fails("decode=gpu", only_cpu, 1, OFR_ENOENT, "'gpu'");
    resolve_fails("opencl", only_cpu, 1, OFR_ENOENT, "'opencl'");
    resolve_fails("opencl:1", all_devices, 4, OFR_ENOENT,
                  "present: openvino:NPU, opencl:0, openvino:GPU, cpu");
    resolve_fails("cpu", NULL, 0, OFR_ENOENT, "present: none");
    resolve_fails("cpu,prefill[64-]=npu", only_cpu, 1, OFR_ENOENT, "no device 'npu'");
    resolve_fails("cpu,prefill[64-]=cpu@0-4", only_cpu, 1, OFR_EINVAL,
                  "phase prefill[64-] ends at layer 4");
    resolve_fails("cpu@0-31", only_cpu, 1, OFR_EINVAL, "the model has layers 0-30");
    resolve_fails("cpu@0-4", only_cpu, 1, OFR_EINVAL, "ends at layer 4, but the model has 30");
    resolve_fails("cpu@0-30,cpu@30-", only_cpu, 1, OFR_EINVAL, "the model has layers 0-30");
}

static void devices_are_replaced(void **state)
{
    (void)state;
    ofr_plan plan;
    char text[256];
    assert_int_equal(
        ofr_plan_parse("prefill=cpu@0-2,npu@2-9,cpu@9-,prefill[64-]=npu,decode=cpu", &plan, NULL),
        0);
    assert_string_equal(ofr_plan_phase_at(&plan, 2)->stages[0].device, "npu");
    assert_null(ofr_plan_phase_at(&plan, 3));
    ofr_plan_replace_device(&plan, "npu", "cpu");
    assert_int_equal(ofr_plan_format(&plan, 0, text, sizeof text), 0);
    assert_string_equal(text, "prefill=cpu,prefill[64-]=cpu,decode=cpu");
}

static void format_reports_lack_of_room(void **state)
{
    (void)state;
    ofr_plan plan;
    char text[12];
    assert_int_equal(ofr_plan_parse("decode=cpu", &plan, NULL), 0);
    assert_int_equal(ofr_plan_format(&plan, 0, text, 10), OFR_ELIMIT);
    assert_int_equal(ofr_plan_format(&plan, 0, text, 11), 0);
    assert_string_equal(text, "decode=cpu");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_lengths),
        cmocka_unit_test(prompts_have_a_route),
        cmocka_unit_test(phases_are_compared),
        cmocka_unit_test(devices_are_replaced),
        cmocka_unit_test(accepts_the_grammar),
        cmocka_unit_test(refuses_bad_grammar),
        cmocka_unit_test(refuses_too_many_stages),
        cmocka_unit_test(refuses_what_is_absent),
        cmocka_unit_test(format_reports_lack_of_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
