/* Plans: the text form, and the check against the devices and layers that exist. */
#include "engine/plan.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *const phase_names[OFR_PLAN_PHASE_COUNT] = {
    [OFR_PLAN_PHASE_PREFILL] = "prefill",
    [OFR_PLAN_PHASE_DECODE] = "decode",
};

/* A piece of the plan's text, not NUL-terminated. */
typedef struct span {
    const char *data;
    size_t size;
} span;

static bool span_is(span s, const char *word)
{
    return s.size == strlen(word) && memcmp(s.data, word, s.size) == 0;
}

static bool span_begins(span s, const char *word)
{
    return s.size >= strlen(word) && memcmp(s.data, word, strlen(word)) == 0;
}

static span span_from(span s, size_t begin)
{
    return (span){s.data + begin, s.size - begin};
}

/* Decimal digits only, at most 9 of them. */
static bool parse_index(span s, uint32_t *ret_value)
{
    uint32_t value = 0;
    if (s.size == 0 || s.size > 9)
        return false;
    for (size_t i = 0; i < s.size; i++) {
        if (s.data[i] < '0' || s.data[i] > '9')
            return false;
        value = value * 10 + (uint32_t)(s.data[i] - '0');
    }
    *ret_value = value;
    return true;
}

static bool is_device_name(span s)
{
    uint32_t index;
    if (span_is(s, "cpu") || span_is(s, "npu") || span_is(s, "gpu") || span_is(s, "opencl") ||
        span_is(s, "openvino:CPU") || span_is(s, "openvino:GPU") || span_is(s, "openvino:NPU"))
        return true;
    if (span_begins(s, "opencl:"))
        return parse_index(span_from(s, strlen("opencl:")), &index);
    if (span_begins(s, "openvino:GPU."))
        return parse_index(span_from(s, strlen("openvino:GPU.")), &index);
    return false;
}

static int parse_device(span part, span name, ofr_plan_stage *stage, ofr_error *err)
{
    if (!is_device_name(name) || name.size >= sizeof stage->device)
        return ofr_fail(err, OFR_EINVAL,
                        "plan: '%.*s' in '%.*s' is no device name; devices are cpu, npu, gpu, "
                        "openvino:CPU, openvino:GPU, openvino:NPU, opencl and opencl:INDEX",
                        (int)name.size, name.data, (int)part.size, part.data);
    memcpy(stage->device, name.data, name.size);
    stage->device[name.size] = '\0';
    return 0;
}

/* "begin-" or "begin-end". */
static int parse_range(span part, span range, ofr_plan_stage *stage, ofr_error *err)
{
    const char *dash = memchr(range.data, '-', range.size);
    bool ok = dash != NULL;
    if (ok) {
        span begin = {range.data, (size_t)(dash - range.data)};
        span end = span_from(range, begin.size + 1);
        ok = parse_index(begin, &stage->layer_begin);
        if (end.size)
            ok = ok && parse_index(end, &stage->layer_end);
    }
    if (!ok)
        return ofr_fail(err, OFR_EINVAL,
                        "plan: '@%.*s' in '%.*s' is no layer range; write BEGIN-END (END not "
                        "included) or BEGIN-",
                        (int)range.size, range.data, (int)part.size, part.data);
    if (stage->layer_begin >= stage->layer_end)
        return ofr_fail(err, OFR_EINVAL, "plan: the layer range in '%.*s' is empty", (int)part.size,
                        part.data);
    return 0;
}

static int parse_stage(span part, span body, ofr_plan_stage *stage, ofr_error *err)
{
    *stage = (ofr_plan_stage){.layer_begin = 0, .layer_end = OFR_PLAN_TO_LAST_LAYER};
    const char *at = memchr(body.data, '@', body.size);
    span name = {body.data, at ? (size_t)(at - body.data) : body.size};
    int r = parse_device(part, name, stage, err);
    if (r == 0 && at)
        r = parse_range(part, span_from(body, name.size + 1), stage, err);
    return r;
}

static int append_stage(ofr_plan_phase *p, const char *phase_name, span part,
                        const ofr_plan_stage *stage, ofr_error *err)
{
    if (p->n_stages == OFR_PLAN_MAX_STAGES)
        return ofr_fail(err, OFR_EINVAL, "plan: more than %d stages in phase %s",
                        OFR_PLAN_MAX_STAGES, phase_name);
    uint32_t expected = p->n_stages ? p->stages[p->n_stages - 1].layer_end : 0;
    if (stage->layer_begin != expected) {
        if (expected == OFR_PLAN_TO_LAST_LAYER)
            return ofr_fail(err, OFR_EINVAL,
                            "plan: '%.*s' follows a stage of phase %s that already runs to the "
                            "last layer",
                            (int)part.size, part.data, phase_name);
        return ofr_fail(err, OFR_EINVAL,
                        "plan: '%.*s' begins at layer %u, but phase %s goes on at layer %u",
                        (int)part.size, part.data, stage->layer_begin, phase_name, expected);
    }
    p->stages[p->n_stages++] = *stage;
    return 0;
}

/* Where the parser is. */
struct cursor {
    ofr_plan_phase *phase; /* that parts without a name belong to; NULL: none is named yet, both */
    char name[24];         /* "prefill[256-]" */
};

/* "prefill[256-]": opens a longer length. */
static int begin_length(ofr_plan *plan, span name, struct cursor *cursor, ofr_error *err)
{
    span tokens = span_from(name, strlen("prefill["));
    uint32_t min_tokens = 0;
    bool ok = tokens.size > 2 && memcmp(tokens.data + tokens.size - 2, "-]", 2) == 0;
    if (ok) {
        tokens.size -= 2;
        ok = parse_index(tokens, &min_tokens) && min_tokens > 0;
    }
    if (!ok)
        return ofr_fail(err, OFR_EINVAL,
                        "plan: '%.*s' names no length of a prompt; write prefill[N-] for prompts "
                        "of N tokens and more",
                        (int)name.size, name.data);
    if (plan->phases[OFR_PLAN_PHASE_PREFILL].n_stages == 0)
        return ofr_fail(err, OFR_EINVAL,
                        "plan: '%.*s' needs a 'prefill=' before it, for shorter prompts",
                        (int)name.size, name.data);
    if (plan->n_longer == OFR_PLAN_MAX_LENGTHS)
        return ofr_fail(err, OFR_EINVAL, "plan: more than %d lengths of prompts",
                        OFR_PLAN_MAX_LENGTHS);
    if (plan->n_longer && plan->longer[plan->n_longer - 1].min_tokens >= min_tokens)
        return ofr_fail(err, OFR_EINVAL, "plan: '%.*s' is not longer than the length before it",
                        (int)name.size, name.data);
    ofr_plan_length *length = &plan->longer[plan->n_longer++];
    length->min_tokens = min_tokens;
    cursor->phase = &length->prefill;
    snprintf(cursor->name, sizeof cursor->name, "prefill[%u-]", min_tokens);
    return 0;
}

static int begin_phase(ofr_plan *plan, span name, struct cursor *cursor, ofr_error *err)
{
    if (span_begins(name, "prefill["))
        return begin_length(plan, name, cursor, err);
    int named = 0;
    while (named < OFR_PLAN_PHASE_COUNT && !span_is(name, phase_names[named]))
        named++;
    if (named == OFR_PLAN_PHASE_COUNT)
        return ofr_fail(err, OFR_EINVAL,
                        "plan: unknown phase '%.*s'; phases are prefill, prefill[N-] and decode",
                        (int)name.size, name.data);
    if (plan->phases[named].n_stages)
        return ofr_fail(err, OFR_EINVAL, "plan: phase %s is given twice", phase_names[named]);
    cursor->phase = &plan->phases[named];
    snprintf(cursor->name, sizeof cursor->name, "%s", phase_names[named]);
    return 0;
}

static int parse_part(ofr_plan *plan, span part, struct cursor *cursor, ofr_error *err)
{
    span body = part;
    const char *equals = memchr(part.data, '=', part.size);
    int r = 0;
    if (equals) {
        span name = {part.data, (size_t)(equals - part.data)};
        r = begin_phase(plan, name, cursor, err);
        body = span_from(part, name.size + 1);
    }
    ofr_plan_stage stage;
    if (r == 0)
        r = parse_stage(part, body, &stage, err);
    if (r < 0)
        return r;
    if (cursor->phase)
        return append_stage(cursor->phase, cursor->name, part, &stage, err);
    for (int i = 0; i < OFR_PLAN_PHASE_COUNT && r == 0; i++)
        r = append_stage(&plan->phases[i], phase_names[i], part, &stage, err);
    return r;
}

int ofr_plan_parse(const char *text, ofr_plan *ret_plan, ofr_error *err)
{
    ofr_plan plan = {0};
    if (strcmp(text, "auto") == 0) {
        *ret_plan = plan;
        return 0;
    }
    struct cursor cursor = {0};
    const char *at = text;
    for (;;) {
        span part = {at, strcspn(at, ",")};
        if (part.size == 0)
            return ofr_fail(err, OFR_EINVAL, "plan: '%s' has an empty part", text);
        int r = parse_part(&plan, part, &cursor, err);
        if (r < 0)
            return r;
        at += part.size;
        if (!*at)
            break;
        at++;
    }
    *ret_plan = plan;
    return 0;
}

static const ofr_plan_device *find_device(const char *name, const ofr_plan_device *devices,
                                          size_t n_devices)
{
    bool npu = strcmp(name, "npu") == 0, gpu = strcmp(name, "gpu") == 0;
    if (strcmp(name, "opencl") == 0)
        name = "opencl:0";
    for (size_t i = 0; i < n_devices; i++) {
        if ((npu && devices[i].kind == OFR_PLAN_DEVICE_NPU) ||
            (gpu && devices[i].kind == OFR_PLAN_DEVICE_GPU) || strcmp(devices[i].name, name) == 0)
            return &devices[i];
    }
    return NULL;
}

static int fail_absent(const char *name, const ofr_plan_device *devices, size_t n_devices,
                       ofr_error *err)
{
    char present[512] = "";
    size_t used = 0;
    for (size_t i = 0; i < n_devices && used < sizeof present; i++)
        used += (size_t)snprintf(present + used, sizeof present - used, "%s%s", i ? ", " : "",
                                 devices[i].name);
    return ofr_fail(err, OFR_ENOENT, "plan: no device '%s' on this machine; present: %s", name,
                    present[0] ? present : "none");
}

static int resolve_phase(ofr_plan_phase *phase, const char *phase_name,
                         const ofr_plan_device *devices, size_t n_devices, uint32_t n_layers,
                         ofr_error *err)
{
    for (uint32_t i = 0; i < phase->n_stages; i++) {
        ofr_plan_stage *stage = &phase->stages[i];
        const ofr_plan_device *device = find_device(stage->device, devices, n_devices);
        if (!device)
            return fail_absent(stage->device, devices, n_devices, err);
        if (strlen(device->name) >= sizeof stage->device)
            return ofr_fail(err, OFR_EINTERNAL, "plan: device name '%s' is too long", device->name);
        strcpy(stage->device, device->name);
        if (stage->layer_end == OFR_PLAN_TO_LAST_LAYER)
            stage->layer_end = n_layers;
        if (stage->layer_end > n_layers || stage->layer_begin >= stage->layer_end)
            return ofr_fail(err, OFR_EINVAL,
                            "plan: phase %s asks for layers %u-%u, but the model has layers 0-%u",
                            phase_name, stage->layer_begin, stage->layer_end, n_layers);
    }
    uint32_t covered = phase->n_stages ? phase->stages[phase->n_stages - 1].layer_end : n_layers;
    if (covered != n_layers)
        return ofr_fail(err, OFR_EINVAL,
                        "plan: phase %s ends at layer %u, but the model has %u; add a device for "
                        "'@%u-'",
                        phase_name, covered, n_layers, covered);
    return 0;
}

int ofr_plan_resolve(ofr_plan *plan, const ofr_plan_device *devices, size_t n_devices,
                     uint32_t n_layers, ofr_error *err)
{
    ofr_plan resolved = *plan;
    int r = 0;
    for (int i = 0; i < OFR_PLAN_PHASE_COUNT && r == 0; i++)
        r = resolve_phase(&resolved.phases[i], phase_names[i], devices, n_devices, n_layers, err);
    for (uint32_t i = 0; i < resolved.n_longer && r == 0; i++) {
        char name[24];
        snprintf(name, sizeof name, "prefill[%u-]", resolved.longer[i].min_tokens);
        r = resolve_phase(&resolved.longer[i].prefill, name, devices, n_devices, n_layers, err);
    }
    if (r == 0)
        *plan = resolved;
    return r;
}

const ofr_plan_phase *ofr_plan_prefill(const ofr_plan *plan, uint32_t prompt_tokens)
{
    const ofr_plan_phase *phase = &plan->phases[OFR_PLAN_PHASE_PREFILL];
    for (uint32_t i = 0; i < plan->n_longer && prompt_tokens >= plan->longer[i].min_tokens; i++)
        phase = &plan->longer[i].prefill;
    return phase;
}

bool ofr_plan_phase_equal(const ofr_plan_phase *a, const ofr_plan_phase *b)
{
    if (a->n_stages != b->n_stages)
        return false;
    for (uint32_t i = 0; i < a->n_stages; i++)
        if (strcmp(a->stages[i].device, b->stages[i].device) != 0 ||
            a->stages[i].layer_begin != b->stages[i].layer_begin ||
            a->stages[i].layer_end != b->stages[i].layer_end)
            return false;
    return true;
}

ofr_plan_phase *ofr_plan_phase_at(ofr_plan *plan, uint32_t index)
{
    if (index < OFR_PLAN_PHASE_COUNT)
        return &plan->phases[index];
    index -= OFR_PLAN_PHASE_COUNT;
    return index < plan->n_longer ? &plan->longer[index].prefill : NULL;
}

void ofr_plan_replace_device(ofr_plan *plan, const char *device, const char *by)
{
    ofr_plan_phase *phase = NULL;
    for (uint32_t k = 0; (phase = ofr_plan_phase_at(plan, k)) != NULL; k++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < phase->n_stages; i++) {
            ofr_plan_stage stage = phase->stages[i];
            if (strcmp(stage.device, device) == 0)
                snprintf(stage.device, sizeof stage.device, "%s", by);
            if (n > 0 && strcmp(phase->stages[n - 1].device, stage.device) == 0)
                phase->stages[n - 1].layer_end = stage.layer_end;
            else
                phase->stages[n++] = stage;
        }
        phase->n_stages = n;
    }
}

/* Appends to text; `*used` goes beyond `size` when it does not fit. */
static void append_text(char *text, size_t size, size_t *used, const char *piece)
{
    size_t length = strlen(piece);
    if (*used < size && length < size - *used)
        memcpy(text + *used, piece, length + 1);
    *used += length;
}

static void format_phase(const ofr_plan_phase *phase, const char *name, uint32_t n_layers,
                         char *text, size_t size, size_t *used)
{
    for (uint32_t k = 0; k < phase->n_stages; k++) {
        const ofr_plan_stage *stage = &phase->stages[k];
        char piece[OFR_PLAN_NAME_MAX + 64];
        bool whole = stage->layer_begin == 0 && (stage->layer_end == OFR_PLAN_TO_LAST_LAYER ||
                                                 (n_layers && stage->layer_end == n_layers));
        int n = snprintf(piece, sizeof piece, "%s%s%s%s", *used ? "," : "", k ? "" : name,
                         k ? "" : "=", stage->device);
        if (!whole && stage->layer_end == OFR_PLAN_TO_LAST_LAYER)
            snprintf(piece + n, sizeof piece - (size_t)n, "@%u-", stage->layer_begin);
        else if (!whole)
            snprintf(piece + n, sizeof piece - (size_t)n, "@%u-%u", stage->layer_begin,
                     stage->layer_end);
        append_text(text, size, used, piece);
    }
}

int ofr_plan_format(const ofr_plan *plan, uint32_t n_layers, char *text, size_t size)
{
    size_t used = 0;
    for (int i = 0; i < OFR_PLAN_PHASE_COUNT; i++) {
        format_phase(&plan->phases[i], phase_names[i], n_layers, text, size, &used);
        for (uint32_t k = 0; i == OFR_PLAN_PHASE_PREFILL && k < plan->n_longer; k++) {
            char name[24];
            snprintf(name, sizeof name, "prefill[%u-]", plan->longer[k].min_tokens);
            format_phase(&plan->longer[k].prefill, name, n_layers, text, size, &used);
        }
    }
    if (used == 0)
        append_text(text, size, &used, "auto");
    return used < size ? 0 : OFR_ELIMIT;
}
