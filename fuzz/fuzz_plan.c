/* Fuzz target: a plan's text form, and a file of figures with the decision from it. */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/planner_figures.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decide(const char *text, size_t size)
{
    static ofr_planner_figures figures; /* large */
    ofr_planner_decision *decision = NULL;
    ofr_error err;
    json_t *root = json_loadb(text, size, 0, NULL);
    if (root && ofr_planner_figures_parse(root, &figures, &err) == 0 &&
        ofr_planner_decide(&figures.input, &decision, &err) == 0)
        json_decref(ofr_planner_decision_to_json(decision));
    ofr_planner_decision_free(decision);
    json_decref(root);
}

static void plan(const char *text)
{
    static const ofr_plan_device devices[] = {{"cpu", OFR_PLAN_DEVICE_CPU},
                                              {"openvino:NPU", OFR_PLAN_DEVICE_NPU},
                                              {"opencl:0", OFR_PLAN_DEVICE_GPU}};
    static ofr_plan parsed, again;
    char written[4096];
    ofr_error err;
    if (ofr_plan_parse(text, &parsed, &err) < 0)
        return;
    ofr_plan_resolve(&parsed, devices, 3, 32, &err);
    /* What is written is read as the same plan. */
    if (ofr_plan_format(&parsed, 0, written, sizeof written) < 0)
        return;
    if (ofr_plan_parse(written, &again, &err) < 0 || parsed.n_longer != again.n_longer)
        abort();
    for (uint32_t i = 0; ofr_plan_phase_at(&parsed, i); i++)
        if (!ofr_plan_phase_equal(ofr_plan_phase_at(&parsed, i), ofr_plan_phase_at(&again, i)))
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (size && text[0] == '{')
        decide(text, size);
    else
        plan(text);
    free(text);
    return 0;
}
