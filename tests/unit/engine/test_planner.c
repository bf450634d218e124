/* The planner: its cost model on figures made for the purpose, and its choices on the profiles of
 * data/device_profiles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/planner.h"
#include "engine/planner_figures.h"

static const ofr_planner_model model_7b = {
    .name = "7b",
    .n_layers = 32,
    .context = 4096,
    .layer_bytes = 100000000,
    .head_bytes = 100000000,
    .kv_bytes = 131072,
    .hidden_bytes = 16384,
};

/* `rate` ms a token of prefill, beside `fixed` ms; `decode` ms a token. */
static ofr_planner_device device(const char *name, enum ofr_plan_device_kind kind, double fixed,
                                 double rate, double decode)
{
    ofr_planner_device d = {.kind = kind, .n_prefill = 2, .n_decode = 1, .hop_us = 100};
    snprintf(d.name, sizeof d.name, "%s", name);
    d.prefill[0] = (ofr_planner_point){16, fixed + 16 * rate};
    d.prefill[1] = (ofr_planner_point){1024, fixed + 1024 * rate};
    d.decode[0] = (ofr_planner_point){512, decode};
    return d;
}

static ofr_planner_decision *decide(const ofr_planner_input *input)
{
    ofr_planner_decision *decision = NULL;
    ofr_error err = {0};
    if (ofr_planner_decide(input, &decision, &err) < 0)
        fail_msg("%s", err.text);
    return decision;
}

static void expect_plan(const ofr_planner_input *input, const char *plan)
{
    ofr_planner_decision *decision = decide(input);
    if (strcmp(decision->plan_text, plan) != 0)
        fail_msg("'%s' instead of '%s': %s", decision->plan_text, plan, decision->reason);
    ofr_planner_decision_free(decision);
}

static void near(double value, double expected)
{
    if (value < expected * 0.999 || value > expected * 1.001)
        fail_msg("%f instead of %f", value, expected);
}

static void interpolates(void **state)
{
    (void)state;
    const ofr_planner_point points[] = {{16, 10}, {64, 34}, {256, 226}};
    near(ofr_planner_interpolate(points, 3, 1), 10);
    near(ofr_planner_interpolate(points, 3, 16), 10);
    near(ofr_planner_interpolate(points, 3, 40), 22);
    near(ofr_planner_interpolate(points, 3, 160), 130);
    near(ofr_planner_interpolate(points, 3, 512), 482);
    near(ofr_planner_interpolate(points, 1, 5000), 10);
    const ofr_planner_point noisy[] = {{16, 10}, {64, 9}};
    near(ofr_planner_interpolate(noisy, 2, 4096), 9);
}

/* Two noisy points whose line is flat, or falls, do not make long prompts free. */
static void a_flat_line_does_not_win_long_prompts(void **state)
{
    (void)state;
    ofr_planner_input input = {.model = model_7b, .n_devices = 2, .answer_tokens = 100};
    input.devices[0] = device("cpu", OFR_PLAN_DEVICE_CPU, 0, 1, 20);
    input.devices[1] = device("openvino:NPU", OFR_PLAN_DEVICE_NPU, 0, 2, 80);
    input.devices[1].n_prefill = 3;
    input.devices[1].prefill[1] = (ofr_planner_point){512, 3000};
    input.devices[1].prefill[2] = (ofr_planner_point){1024, 2048};
    expect_plan(&input, "prefill=cpu,decode=cpu");
    ofr_planner_decision *d = decide(&input);
    near(ofr_planner_find(d, 2048, "openvino:NPU", "cpu")->first_token_ms, 4096);
    near(ofr_planner_find(d, 2048, "cpu", "cpu")->first_token_ms, 2048);
    ofr_planner_decision_free(d);
}

static void adds_up(void **state)
{
    (void)state;
    ofr_planner_input input = {.model = model_7b, .n_devices = 2, .answer_tokens = 100};
    input.devices[0] = device("openvino:NPU", OFR_PLAN_DEVICE_NPU, 0, 1, 80);
    input.devices[1] = device("opencl:1", OFR_PLAN_DEVICE_GPU, 0, 4, 20);
    input.devices[1].copy_gb_s = 10;
    input.devices[1].memory_bytes = UINT64_C(16) << 30;
    input.devices[0].slowdown = 1.5;
    ofr_planner_decision *d = decide(&input);
    const ofr_planner_candidate *c = ofr_planner_find(d, 512, "openvino:NPU", "opencl:1");
    assert_non_null(c);
    near(c->first_token_ms, 768);
    /* A hop, and 512 rows of K and V at 10 GB/s. */
    near(c->handoff_ms, 0.1 + 512 * 131072 / 10e6);
    near(c->per_token_ms, 20);
    near(c->total_ms, 768 + 0.1 + 512 * 131072 / 10e6 + 100 * 20);
    c = ofr_planner_find(d, 512, "opencl:1", "opencl:1");
    near(c->handoff_ms + 1, 1);
    near(c->total_ms, 2048 + 100 * 20);
    assert_true(c->best_single);
    assert_null(ofr_planner_find(d, 513, "opencl:1", "opencl:1"));
    ofr_planner_decision_free(d);
}

static void chooses_by_length(void **state)
{
    (void)state;
    ofr_planner_input input = {.model = model_7b, .n_devices = 2};
    /* The NPU needs 300 ms for anything, then less: worth it from about 250 tokens on. */
    input.devices[0] = device("openvino:NPU", OFR_PLAN_DEVICE_NPU, 300, 1, 80);
    input.devices[1] = device("cpu", OFR_PLAN_DEVICE_CPU, 0, 3, 20);
    ofr_planner_decision *d = decide(&input);
    const ofr_plan *plan = &d->plan;
    assert_string_equal(plan->phases[OFR_PLAN_PHASE_DECODE].stages[0].device, "cpu");
    assert_string_equal(ofr_plan_prefill(plan, 16)->stages[0].device, "cpu");
    assert_string_equal(ofr_plan_prefill(plan, 100)->stages[0].device, "cpu");
    assert_string_equal(ofr_plan_prefill(plan, 1024)->stages[0].device, "openvino:NPU");
    assert_int_equal(plan->n_longer, 1);
    /* It begins where the first token wins by a tenth, 300 + n + 0.1 < 0.9 * 3 n, and by a
     * hundredth of the whole, 2560 + 3 n. */
    assert_in_range(plan->longer[0].min_tokens, 176, 180);
    ofr_planner_decision_free(d);
}

static void noise_decides_nothing(void **state)
{
    (void)state;
    ofr_planner_input input = {.model = model_7b, .n_devices = 2};
    input.devices[0] = device("opencl:0", OFR_PLAN_DEVICE_GPU, 0, 0.95, 20.2);
    input.devices[1] = device("cpu", OFR_PLAN_DEVICE_CPU, 0, 1, 20);
    expect_plan(&input, "prefill=cpu,decode=cpu");
    /* Half the wait is worth a second device, where it is felt. */
    input.devices[0] = device("opencl:0", OFR_PLAN_DEVICE_GPU, 0, 0.5, 22);
    ofr_planner_decision *d = decide(&input);
    assert_string_equal(d->plan.phases[OFR_PLAN_PHASE_DECODE].stages[0].device, "cpu");
    assert_string_equal(ofr_plan_prefill(&d->plan, 16)->stages[0].device, "cpu");
    assert_string_equal(ofr_plan_prefill(&d->plan, 1024)->stages[0].device, "opencl:0");
    ofr_planner_decision_free(d);
    /* But not where the handoff costs more than it saves. */
    input.devices[1].copy_gb_s = 0.1;
    input.devices[1].memory_bytes = UINT64_C(16) << 30;
    d = decide(&input);
    assert_int_equal(d->plan.n_longer, 0);
    assert_true(ofr_plan_phase_equal(&d->plan.phases[0], &d->plan.phases[1]));
    ofr_planner_decision_free(d);
}

static void never_slower_than_one(void **state)
{
    (void)state;
    /* Figures that are drawn, so that no rule of thumb holds. */
    uint32_t random = 7;
    for (int run = 0; run < 2000; run++) {
        ofr_planner_input input = {.model = model_7b, .n_devices = 3};
        const char *names[] = {"cpu", "opencl:0", "openvino:NPU"};
        for (uint32_t i = 0; i < 3; i++) {
            ofr_planner_device *d = &input.devices[i];
            *d = device(names[i], (enum ofr_plan_device_kind)i, 0, 1, 1);
            d->n_prefill = d->n_decode = 3;
            double prefill = 1, decode = 1;
            for (uint32_t k = 0; k < 3; k++) {
                random = random * 1664525 + 1013904223;
                prefill += (random >> 20) * (k + 1);
                decode += (random >> 10 & 1023) / 10.0;
                d->prefill[k] = (ofr_planner_point){16u << (3 * k), prefill};
                d->decode[k] = (ofr_planner_point){1024 * k, decode};
            }
            d->hop_us = random & 0xffff;
        }
        ofr_planner_decision *d = decide(&input);
        for (size_t i = 0; i < d->n_candidates; i++) {
            const ofr_planner_candidate *single = &d->candidates[i];
            for (size_t k = 0; single->best_single && k < d->n_candidates; k++) {
                const ofr_planner_candidate *chosen = &d->candidates[k];
                if (chosen->chosen && chosen->prompt_tokens == single->prompt_tokens &&
                    chosen->total_ms > single->total_ms)
                    fail_msg("run %d, %u tokens: %s", run, chosen->prompt_tokens, d->plan_text);
            }
        }
        ofr_planner_decision_free(d);
    }
}

static void splits_what_does_not_fit(void **state)
{
    (void)state;
    ofr_planner_input input = {.model = model_7b, .n_devices = 2};
    /* 2.4 GB: with 0.117 GB of weights and KV a layer, 20 layers. */
    input.devices[0] = device("opencl:1", OFR_PLAN_DEVICE_GPU, 0, 0.1, 5);
    input.devices[0].memory_bytes = 2400000000;
    input.devices[0].copy_gb_s = 12;
    input.devices[1] = device("cpu", OFR_PLAN_DEVICE_CPU, 0, 8, 100);
    ofr_planner_decision *d = decide(&input);
    assert_string_equal(d->plan_text, "prefill=opencl:1@0-20,cpu@20-32,"
                                      "decode=opencl:1@0-20,cpu@20-32");
    assert_int_equal(d->n_refusals, 1);
    assert_string_equal(d->refusals[0].device, "opencl:1");
    assert_non_null(strstr(d->refusals[0].reason, "holds 20 of the 32 layers"));
    const ofr_planner_candidate *c =
        ofr_planner_find(d, 512, "opencl:1@0-20,cpu@20-", "opencl:1@0-20,cpu@20-");
    assert_non_null(c);
    near(c->first_token_ms, 512 * (20 * 0.1 + 12 * 8) / 32 + 0.1);
    /* 33 shares: 32 layers and a head as large as one. */
    near(c->per_token_ms, (20 * 5 + 13 * 100) / 33.0 + 0.1);
    assert_false(c->best_single);
    ofr_planner_decision_free(d);
    /* Alone it cannot do it. */
    input.n_devices = 1;
    ofr_error err = {0};
    assert_int_equal(ofr_planner_decide(&input, &d, &err), OFR_EDEVICE);
    assert_non_null(strstr(err.text, "holds 20 of the 32 layers"));
    /* Two that hold a part each. */
    input.n_devices = 2;
    input.devices[1].memory_bytes = 2400000000;
    expect_plan(&input, "prefill=opencl:1@0-20,cpu@20-32,decode=opencl:1@0-20,cpu@20-32");
}

static void says_what_is_refused(void **state)
{
    (void)state;
    ofr_planner_input input = {.model = model_7b, .n_devices = 2};
    input.devices[0] = device("openvino:NPU", OFR_PLAN_DEVICE_NPU, 0, 0.1, 5);
    snprintf(input.devices[0].failure, sizeof input.devices[0].failure, "its logits are wrong");
    input.devices[0].n_prefill = input.devices[0].n_decode = 0;
    input.devices[1] = device("cpu", OFR_PLAN_DEVICE_CPU, 0, 8, 100);
    ofr_planner_decision *d = decide(&input);
    assert_string_equal(d->plan_text, "prefill=cpu,decode=cpu");
    assert_string_equal(d->reason, "cpu is the only device to choose from");
    assert_int_equal(d->n_refusals, 1);
    assert_string_equal(d->refusals[0].reason, "its logits are wrong");
    ofr_planner_decision_free(d);
    ofr_error err = {0};
    input.n_devices = 1;
    assert_int_equal(ofr_planner_decide(&input, &d, &err), OFR_EDEVICE);
    assert_non_null(strstr(err.text, "openvino:NPU: its logits are wrong"));
    input.n_devices = 0;
    assert_int_equal(ofr_planner_decide(&input, &d, &err), OFR_EDEVICE);
    assert_non_null(strstr(err.text, "none is present"));
}

static void refuses_senseless_figures(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        ofr_planner_input input = {.model = model_7b, .n_devices = 1};
        ofr_planner_device *d = &input.devices[0];
        *d = device("cpu", OFR_PLAN_DEVICE_CPU, 0, 1, 10);
        if (i == 0)
            d->prefill[0].ms = 0;
        else if (i == 1)
            d->prefill[1].tokens = d->prefill[0].tokens;
        else if (i == 2)
            d->n_decode = 0;
        else if (i == 3)
            d->decode[0].ms = -1;
        else if (i == 4)
            d->hop_us = -1;
        else
            input.model.n_layers = 0;
        ofr_planner_decision *decision = NULL;
        ofr_error err = {0};
        assert_int_equal(ofr_planner_decide(&input, &decision, &err), OFR_EINVAL);
        assert_null(decision);
    }
}

static void short_contexts_have_a_plan(void **state)
{
    (void)state;
    ofr_planner_input input = {.model = model_7b, .n_devices = 1};
    input.devices[0] = device("cpu", OFR_PLAN_DEVICE_CPU, 0, 1, 10);
    input.model.context = 8;
    ofr_planner_decision *d = decide(&input);
    assert_int_equal(d->n_candidates, 1);
    ofr_planner_decision_free(d);
    input.model.context = 1 << 24;
    d = decide(&input);
    assert_int_equal(d->n_candidates, OFR_PLANNER_LENGTHS_MAX);
    ofr_planner_decision_free(d);
}

static ofr_planner_figures read_profile(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, OFR_TEST_SOURCE_DIR "/data/device_profiles/%s.json", name);
    json_error_t at;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &at);
    if (!root)
        fail_msg("%s: %s", path, at.text);
    ofr_planner_figures figures;
    ofr_error err = {0};
    if (ofr_planner_figures_parse(root, &figures, &err) < 0)
        fail_msg("%s: %s", path, err.text);
    json_decref(root);
    assert_false(figures.measured);
    return figures;
}

static ofr_planner_device *find(ofr_planner_figures *figures, const char *name)
{
    for (uint32_t i = 0; i < figures->input.n_devices; i++)
        if (strcmp(figures->input.devices[i].name, name) == 0)
            return &figures->input.devices[i];
    fail_msg("%s has no %s", figures->title, name);
    return NULL;
}

/* Does the plan prefill this many tokens on the device? */
static bool prefills_on(const ofr_planner_figures *figures, uint32_t tokens, const char *name)
{
    ofr_planner_decision *d = decide(&figures->input);
    bool is = strcmp(ofr_plan_prefill(&d->plan, tokens)->stages[0].device, name) == 0;
    ofr_planner_decision_free(d);
    return is;
}

static void strong_gpus_need_no_npu(void **state)
{
    (void)state;
    const char *names[] = {"arrow_lake_h", "lunar_lake", "panther_lake"};
    for (size_t i = 0; i < 3; i++) {
        ofr_planner_figures figures = read_profile(names[i]);
        expect_plan(&figures.input, "prefill=openvino:GPU,decode=openvino:GPU");
        /* Others use the GPU: it is not what it was. */
        ofr_planner_device_busy(find(&figures, "openvino:GPU"), 0.8);
        ofr_planner_decision *d = decide(&figures.input);
        assert_string_equal(ofr_plan_prefill(&d->plan, 1024)->stages[0].device, "openvino:NPU");
        assert_non_null(strstr(d->reason, "others use it 80 % of the time"));
        assert_string_not_equal(d->plan.phases[OFR_PLAN_PHASE_DECODE].stages[0].device,
                                "openvino:GPU");
        ofr_planner_decision_free(d);
    }
}

static void meteor_lake_needs_its_npu(void **state)
{
    (void)state;
    ofr_planner_figures figures = read_profile("meteor_lake");
    for (uint32_t tokens = 64; tokens <= 4000; tokens *= 2)
        assert_true(prefills_on(&figures, tokens, "openvino:NPU"));
    ofr_planner_decision *d = decide(&figures.input);
    assert_string_equal(d->plan.phases[OFR_PLAN_PHASE_DECODE].stages[0].device, "openvino:GPU");
    ofr_planner_decision_free(d);
    /* A throttled NPU takes half as long again. */
    ofr_planner_device *npu = find(&figures, "openvino:NPU");
    npu->slowdown = 1.5;
    snprintf(npu->condition, sizeof npu->condition, "97 C, throttled");
    d = decide(&figures.input);
    assert_string_equal(ofr_plan_prefill(&d->plan, 1024)->stages[0].device, "openvino:GPU");
    assert_non_null(strstr(d->reason, "openvino:NPU counts as 1.5 times slower: 97 C, throttled"));
    ofr_planner_decision_free(d);
    /* Quarantined, it is not used and the decision says so. */
    snprintf(npu->failure, sizeof npu->failure, "quarantined: failed 3 times");
    d = decide(&figures.input);
    assert_string_equal(d->plan_text, "prefill=openvino:GPU,decode=openvino:GPU");
    assert_string_equal(d->refusals[0].reason, "quarantined: failed 3 times");
    ofr_planner_decision_free(d);
}

static void discrete_gpu_of_4_gb(void **state)
{
    (void)state;
    ofr_planner_figures figures = read_profile("arrow_lake_h");
    ofr_planner_device *gpu = find(&figures, "openvino:GPU");
    /* In place of the integrated one: fast, but 3 GB. */
    snprintf(gpu->name, sizeof gpu->name, "opencl:1");
    for (uint32_t i = 0; i < gpu->n_prefill; i++)
        gpu->prefill[i].ms /= 3;
    for (uint32_t i = 0; i < gpu->n_decode; i++)
        gpu->decode[i].ms /= 5;
    gpu->memory_bytes = 3000000000;
    gpu->copy_gb_s = 12;
    ofr_planner_decision *d = decide(&figures.input);
    const ofr_plan_phase *decode = &d->plan.phases[OFR_PLAN_PHASE_DECODE];
    assert_int_equal(decode->n_stages, 2);
    assert_string_equal(decode->stages[0].device, "opencl:1");
    assert_string_equal(decode->stages[1].device, "cpu");
    assert_int_equal(ofr_plan_prefill(&d->plan, 1024)->n_stages, 2);
    ofr_planner_decision_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interpolates),
        cmocka_unit_test(a_flat_line_does_not_win_long_prompts),
        cmocka_unit_test(adds_up),
        cmocka_unit_test(chooses_by_length),
        cmocka_unit_test(noise_decides_nothing),
        cmocka_unit_test(never_slower_than_one),
        cmocka_unit_test(splits_what_does_not_fit),
        cmocka_unit_test(says_what_is_refused),
        cmocka_unit_test(refuses_senseless_figures),
        cmocka_unit_test(short_contexts_have_a_plan),
        cmocka_unit_test(strong_gpus_need_no_npu),
        cmocka_unit_test(meteor_lake_needs_its_npu),
        cmocka_unit_test(discrete_gpu_of_4_gb),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
