/* Plans: which device runs which phase and which layers.
 *
 * Text form:
 *     plan   = "auto" | part { "," part }
 *     part   = [ phase "=" ] device [ "@" begin "-" [ end ] ]
 *     phase  = "prefill" | "prefill[" tokens "-]" | "decode"
 *     device = "cpu" | "npu" | "gpu" | "openvino:" ("CPU" | "GPU" [ "." index ] | "NPU")
 *            | "opencl" [ ":" index ]
 * A part without a phase continues the phase before it; before any phase it belongs to both.
 * Layers are [begin, end); without a range the whole model, without an end to the last layer. A
 * phase that is not named is chosen as by "auto". Example: "decode=openvino:NPU@0-4,opencl@4-".
 *
 * "prefill[256-]=openvino:NPU" holds for prompts of at least 256 tokens, instead of "prefill=",
 * which must be given, too, and holds for shorter ones. There may be several, ascending:
 * "prefill=cpu,prefill[64-]=opencl,prefill[512-]=openvino:NPU,decode=opencl".
 *
 * Values only; any thread. */
#ifndef OFR_ENGINE_PLAN_H
#define OFR_ENGINE_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    OFR_PLAN_MAX_STAGES = 16,
    OFR_PLAN_MAX_LENGTHS = 4, /* phases "prefill[N-]" */
    OFR_PLAN_NAME_MAX = 32,
    OFR_PLAN_TO_LAST_LAYER = UINT32_MAX
};

enum ofr_plan_phase_name {
    OFR_PLAN_PHASE_PREFILL,
    OFR_PLAN_PHASE_DECODE,
    OFR_PLAN_PHASE_COUNT,
};

typedef struct ofr_plan_stage {
    char device[OFR_PLAN_NAME_MAX]; /* as written; after ofr_plan_resolve the device's own name */
    uint32_t layer_begin, layer_end;
} ofr_plan_stage;

/* n_stages 0: chosen automatically. */
typedef struct ofr_plan_phase {
    ofr_plan_stage stages[OFR_PLAN_MAX_STAGES];
    uint32_t n_stages;
} ofr_plan_phase;

/* What prompts of at least min_tokens go through. */
typedef struct ofr_plan_length {
    uint32_t min_tokens; /* at least 1 */
    ofr_plan_phase prefill;
} ofr_plan_length;

typedef struct ofr_plan {
    ofr_plan_phase phases[OFR_PLAN_PHASE_COUNT];
    ofr_plan_length longer[OFR_PLAN_MAX_LENGTHS]; /* ascending in min_tokens */
    uint32_t n_longer;
} ofr_plan;

/* What a device is, for the names "npu" and "gpu". */
enum ofr_plan_device_kind {
    OFR_PLAN_DEVICE_CPU,
    OFR_PLAN_DEVICE_GPU,
    OFR_PLAN_DEVICE_NPU,
};

/* A device that is present. Best first: "gpu" means the first GPU in the list. */
typedef struct ofr_plan_device {
    const char *name; /* "cpu", "openvino:NPU", "opencl:0"; "opencl" in a plan is "opencl:0" */
    enum ofr_plan_device_kind kind;
} ofr_plan_device;

/* Parses the text form; checks the grammar and the order of the layer ranges, not the devices.
 * Errors (OFR_EINVAL) quote the part that is wrong. */
int ofr_plan_parse(const char *text, ofr_plan *ret_plan, ofr_error *err);

/* Checks a parsed plan against the devices present and a model of n_layers: every device must be
 * present (OFR_ENOENT lists those that are), every phase must cover each layer exactly once. "npu"
 * and "gpu" become the name of the device, an open range ends at n_layers. `plan` is unchanged on
 * error. */
int ofr_plan_resolve(ofr_plan *plan, const ofr_plan_device *devices, size_t n_devices,
                     uint32_t n_layers, ofr_error *err);

/* The stages that a prompt of this many tokens goes through; those that the strips hold already do
 * not count. Points into `plan`. */
const ofr_plan_phase *ofr_plan_prefill(const ofr_plan *plan, uint32_t prompt_tokens);
/* The same stages in the same order? Names are compared as they are: resolve first. */
bool ofr_plan_phase_equal(const ofr_plan_phase *a, const ofr_plan_phase *b);

/* Every phase of the plan, those of longer prompts too, by index from 0; NULL: there are no more.
 */
ofr_plan_phase *ofr_plan_phase_at(ofr_plan *plan, uint32_t index);

/* Gives the stages of `device` to `by`; stages that are now one device's become one. */
void ofr_plan_replace_device(ofr_plan *plan, const char *device, const char *by);

/* Writes the text form: "prefill=cpu,decode=cpu"; "auto" where nothing is chosen. OFR_ELIMIT if
 * `size` is too small. A range that is the whole model of n_layers is left out (0: none is). */
int ofr_plan_format(const ofr_plan *plan, uint32_t n_layers, char *text, size_t size);

#endif
