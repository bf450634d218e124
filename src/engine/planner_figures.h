/* The planner's figures and decisions as JSON. Two kinds of files have one form: what was measured
 * on this machine (<package>/plans/<machine>.json), and profiles of machines from published
 * figures (data/device_profiles):
 *
 *     {"format": 1, "kind": "measured" | "published",
 *      "title": "Meteor Lake, Core Ultra 7 155H", "date": "2026-11-28T17:00:00Z",
 *      "key": sha256 of what the figures depend on, "seconds": what measuring took,
 *      "circumstances": "2 threads, load 0.1",
 *      "model": {"name", "n_layers", "context", "layer_bytes", "head_bytes", "kv_bytes",
 *                "hidden_bytes"},
 *      "devices": [{"name": "openvino:NPU", "kind": "cpu" | "gpu" | "npu", "description",
 * "machine", "prefill": [{"tokens", "ms"}, ...], "decode": [{"tokens", "ms"}, ...], "hop_us",
 * "copy_gb_s", "memory_bytes", "failure": why it cannot be used, "busy": share of its time that
 * others take, 0 to 1, "slowdown", "condition"}, ...]}
 *
 * Units and meanings are those of planner.h. "machine", "failure", "busy", "slowdown" and
 * "condition" may be absent, as may "key", "seconds" and "circumstances" of a published file. Other
 * members (each figure's "source") are for people. Values only; any thread. */
#ifndef OFR_ENGINE_PLANNER_FIGURES_H
#define OFR_ENGINE_PLANNER_FIGURES_H

#include <jansson.h>

#include "engine/planner.h"

enum { OFR_PLANNER_FIGURES_FORMAT = 1 };

typedef struct ofr_planner_figures {
    bool measured; /* otherwise published */
    char title[128];
    char date[32];
    char key[65];
    char circumstances[256];
    double seconds;
    ofr_planner_input input;
} ofr_planner_figures;

/* Every member is checked for type and range: OFR_EINVAL names it; OFR_EVERSION: of a newer
 * format. */
int ofr_planner_figures_parse(const json_t *root, ofr_planner_figures *ret_figures, ofr_error *err);
/* NULL without memory. */
json_t *ofr_planner_figures_to_json(const ofr_planner_figures *figures);

/* {"plan", "reason", "answer_tokens", "candidates": [{"prompt_tokens", "prefill", "decode",
 * "first_token_ms", "handoff_ms", "per_token_ms", "total_ms", "chosen", "best_single"}],
 * "refused": [{"device", "reason"}]}; NULL without memory. */
json_t *ofr_planner_decision_to_json(const ofr_planner_decision *decision);

/* A device of whose time others take this share has what is left: 0.5 is twice as slow. Below a
 * tenth nothing changes, above nine tenths neither. Multiplies the device's slowdown. */
void ofr_planner_device_busy(ofr_planner_device *device, double busy);

const char *ofr_planner_kind_name(enum ofr_plan_device_kind kind);

#endif
