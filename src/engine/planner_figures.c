/* JSON of the planner's figures and decisions. */
#include "engine/planner_figures.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double BYTES_MAX = 1e15;
static const double MS_MAX = 1e9;
static const double TOKENS_MAX = 16777216;

const char *ofr_planner_kind_name(enum ofr_plan_device_kind kind)
{
    switch (kind) {
    case OFR_PLAN_DEVICE_CPU:
        return "cpu";
    case OFR_PLAN_DEVICE_GPU:
        return "gpu";
    case OFR_PLAN_DEVICE_NPU:
        return "npu";
    }
    return "cpu";
}

void ofr_planner_device_busy(ofr_planner_device *device, double busy)
{
    if (!(busy > 0.1))
        return;
    double slowdown = 1 / (1 - fmin(busy, 0.9));
    device->slowdown = (device->slowdown > 1 ? device->slowdown : 1) * slowdown;
    size_t used = strlen(device->condition);
    snprintf(device->condition + used, sizeof device->condition - used,
             "%sothers use it %.0f %% of the time", used ? "; " : "", fmin(busy, 1) * 100);
}

/* Numbers of `object` within [0, maximum]; absent is 0 where `needed` is false. */
static int get_number(const json_t *object, const char *name, bool needed, double maximum,
                      double *ret_value, ofr_error *err)
{
    const json_t *value = json_object_get(object, name);
    if (!value && !needed) {
        *ret_value = 0;
        return 0;
    }
    double number = json_number_value(value);
    if (!json_is_number(value) || !isfinite(number) || number < 0 || number > maximum)
        return ofr_fail(err, OFR_EINVAL, "'%s' is %s", name,
                        value ? "no number, or out of range" : "missing");
    *ret_value = number;
    return 0;
}

static int get_count(const json_t *object, const char *name, bool needed, double maximum,
                     uint32_t *ret_value, ofr_error *err)
{
    double number = 0;
    int r = get_number(object, name, needed, maximum, &number, err);
    if (r == 0)
        *ret_value = (uint32_t)number;
    return r;
}

static int get_bytes(const json_t *object, const char *name, bool needed, uint64_t *ret_value,
                     ofr_error *err)
{
    double number = 0;
    int r = get_number(object, name, needed, BYTES_MAX, &number, err);
    if (r == 0)
        *ret_value = (uint64_t)number;
    return r;
}

/* A text that does not fit is refused: it would name another device, or be another key. */
static int get_text(const json_t *object, const char *name, bool needed, char *ret_text,
                    size_t size, ofr_error *err)
{
    const json_t *value = json_object_get(object, name);
    ret_text[0] = '\0';
    if (!value && !needed)
        return 0;
    if (!json_is_string(value) || json_string_length(value) >= size ||
        strlen(json_string_value(value)) != json_string_length(value))
        return ofr_fail(err, OFR_EINVAL, "'%s' is %s", name,
                        value ? "no text, or too long" : "missing");
    memcpy(ret_text, json_string_value(value), json_string_length(value) + 1);
    return 0;
}

static int get_points(const json_t *object, const char *name, ofr_planner_point *ret_points,
                      uint32_t *ret_count, ofr_error *err)
{
    const json_t *list = json_object_get(object, name);
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > OFR_PLANNER_POINTS_MAX)
        return ofr_fail(err, OFR_EINVAL, "'%s' is no list of at most %d points", name,
                        OFR_PLANNER_POINTS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *point = json_array_get(list, i);
        int r = get_count(point, "tokens", true, TOKENS_MAX, &ret_points[i].tokens, err);
        if (r == 0)
            r = get_number(point, "ms", true, MS_MAX, &ret_points[i].ms, err);
        if (r < 0)
            return ofr_error_prefix(err, r, "%s, point %zu", name, i + 1);
    }
    *ret_count = (uint32_t)n;
    return 0;
}

static int parse_kind(const json_t *object, enum ofr_plan_device_kind *ret_kind, ofr_error *err)
{
    const char *text = json_string_value(json_object_get(object, "kind"));
    for (int kind = OFR_PLAN_DEVICE_CPU; text && kind <= OFR_PLAN_DEVICE_NPU; kind++) {
        if (strcmp(text, ofr_planner_kind_name((enum ofr_plan_device_kind)kind)) == 0) {
            *ret_kind = (enum ofr_plan_device_kind)kind;
            return 0;
        }
    }
    return ofr_fail(err, OFR_EINVAL, "'kind' is not cpu, gpu or npu");
}

/* A name that a plan could not carry would make every plan with it wrong. */
static int check_name(const char *name, ofr_error *err)
{
    ofr_plan plan;
    if (strpbrk(name, "=@,") || ofr_plan_parse(name, &plan, NULL) < 0 ||
        plan.phases[OFR_PLAN_PHASE_DECODE].n_stages != 1)
        return ofr_fail(err, OFR_EINVAL, "'%s' is no device name", name);
    return 0;
}

static int parse_device(const json_t *object, ofr_planner_device *d, ofr_error *err)
{
    double busy = 0;
    int r = get_text(object, "name", true, d->name, sizeof d->name, err);
    if (r == 0)
        r = check_name(d->name, err);
    if (r == 0)
        r = parse_kind(object, &d->kind, err);
    if (r == 0)
        r = get_text(object, "description", true, d->description, sizeof d->description, err);
    if (r == 0)
        r = get_text(object, "machine", false, d->machine, sizeof d->machine, err);
    if (r == 0)
        r = get_text(object, "failure", false, d->failure, sizeof d->failure, err);
    if (r == 0)
        r = get_text(object, "condition", false, d->condition, sizeof d->condition, err);
    if (r == 0)
        r = get_points(object, "prefill", d->prefill, &d->n_prefill, err);
    if (r == 0)
        r = get_points(object, "decode", d->decode, &d->n_decode, err);
    if (r == 0)
        r = get_number(object, "hop_us", true, 1e9, &d->hop_us, err);
    if (r == 0)
        r = get_number(object, "copy_gb_s", false, 1e6, &d->copy_gb_s, err);
    if (r == 0)
        r = get_bytes(object, "memory_bytes", false, &d->memory_bytes, err);
    if (r == 0)
        r = get_number(object, "slowdown", false, 1000, &d->slowdown, err);
    if (r == 0)
        r = get_number(object, "busy", false, 1, &busy, err);
    if (r == 0)
        ofr_planner_device_busy(d, busy);
    return r;
}

static int parse_model(const json_t *object, ofr_planner_model *m, ofr_error *err)
{
    int r = get_text(object, "name", true, m->name, sizeof m->name, err);
    if (r == 0)
        r = get_count(object, "n_layers", true, 65536, &m->n_layers, err);
    if (r == 0 && m->n_layers == 0)
        r = ofr_fail(err, OFR_EINVAL, "'n_layers' is 0");
    if (r == 0)
        r = get_count(object, "context", true, TOKENS_MAX, &m->context, err);
    if (r == 0)
        r = get_bytes(object, "layer_bytes", true, &m->layer_bytes, err);
    if (r == 0)
        r = get_bytes(object, "head_bytes", true, &m->head_bytes, err);
    if (r == 0)
        r = get_bytes(object, "kv_bytes", true, &m->kv_bytes, err);
    if (r == 0)
        r = get_bytes(object, "hidden_bytes", true, &m->hidden_bytes, err);
    return r < 0 ? ofr_error_prefix(err, r, "model") : 0;
}

static int parse_devices(const json_t *list, ofr_planner_input *input, ofr_error *err)
{
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0 || n > OFR_PLANNER_DEVICES_MAX)
        return ofr_fail(err, OFR_EINVAL, "'devices' is no list of 1 to %d devices",
                        OFR_PLANNER_DEVICES_MAX);
    for (size_t i = 0; i < n; i++) {
        int r = parse_device(json_array_get(list, i), &input->devices[i], err);
        for (size_t k = 0; r == 0 && k < i; k++)
            if (strcmp(input->devices[k].name, input->devices[i].name) == 0)
                r = ofr_fail(err, OFR_EINVAL, "the device before it has the same name");
        if (r < 0)
            return ofr_error_prefix(err, r, "device %zu", i + 1);
    }
    input->n_devices = (uint32_t)n;
    return 0;
}

int ofr_planner_figures_parse(const json_t *root, ofr_planner_figures *ret_figures, ofr_error *err)
{
    ofr_planner_figures f = {0};
    double format = 0;
    if (!json_is_object(root))
        return ofr_fail(err, OFR_EINVAL, "no JSON object");
    int r = get_number(root, "format", true, 1e6, &format, err);
    if (r == 0 && (int)format != OFR_PLANNER_FIGURES_FORMAT)
        r = ofr_fail(err, OFR_EVERSION, "format %.0f; this version reads format %d", format,
                     OFR_PLANNER_FIGURES_FORMAT);
    char kind[16];
    if (r == 0)
        r = get_text(root, "kind", true, kind, sizeof kind, err);
    if (r == 0) {
        f.measured = strcmp(kind, "measured") == 0;
        if (!f.measured && strcmp(kind, "published") != 0)
            r = ofr_fail(err, OFR_EINVAL, "'kind' is not measured or published");
    }
    if (r == 0)
        r = get_text(root, "title", true, f.title, sizeof f.title, err);
    if (r == 0)
        r = get_text(root, "date", true, f.date, sizeof f.date, err);
    if (r == 0)
        r = get_text(root, "key", f.measured, f.key, sizeof f.key, err);
    if (r == 0)
        r = get_text(root, "circumstances", false, f.circumstances, sizeof f.circumstances, err);
    if (r == 0)
        r = get_number(root, "seconds", false, 1e6, &f.seconds, err);
    if (r == 0)
        r = parse_model(json_object_get(root, "model"), &f.input.model, err);
    if (r == 0)
        r = parse_devices(json_object_get(root, "devices"), &f.input, err);
    if (r == 0)
        *ret_figures = f;
    return r;
}

/* As many digits as mean something. */
static json_t *number(double value)
{
    double scale = value != 0 ? pow(10, 4 - floor(log10(fabs(value)))) : 1;
    return json_real(isfinite(scale) && scale > 0 ? round(value * scale) / scale : value);
}

static json_t *points_to_json(const ofr_planner_point *points, uint32_t n)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:i, s:o}", "tokens", (int)points[i].tokens, "ms",
                                              number(points[i].ms)));
    return list;
}

static json_t *device_to_json(const ofr_planner_device *d)
{
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:I}", "name", d->name, "kind",
                  ofr_planner_kind_name(d->kind), "description", d->description, "prefill",
                  points_to_json(d->prefill, d->n_prefill), "decode",
                  points_to_json(d->decode, d->n_decode), "hop_us", number(d->hop_us), "copy_gb_s",
                  number(d->copy_gb_s), "memory_bytes", (json_int_t)d->memory_bytes);
    if (d->machine[0])
        json_object_set_new(object, "machine", json_string(d->machine));
    if (d->failure[0])
        json_object_set_new(object, "failure", json_string(d->failure));
    if (d->slowdown > 1) {
        json_object_set_new(object, "slowdown", number(d->slowdown));
        json_object_set_new(object, "condition", json_string(d->condition));
    }
    return object;
}

json_t *ofr_planner_figures_to_json(const ofr_planner_figures *f)
{
    const ofr_planner_model *m = &f->input.model;
    json_t *devices = json_array();
    for (uint32_t i = 0; i < f->input.n_devices; i++)
        json_array_append_new(devices, device_to_json(&f->input.devices[i]));
    return json_pack(
        "{s:i, s:s, s:s, s:s, s:s, s:s, s:o, s:{s:s, s:i, s:i, s:I, s:I, s:I, s:I}, s:o}", "format",
        OFR_PLANNER_FIGURES_FORMAT, "kind", f->measured ? "measured" : "published", "title",
        f->title, "date", f->date, "key", f->key, "circumstances", f->circumstances, "seconds",
        number(f->seconds), "model", "name", m->name, "n_layers", (int)m->n_layers, "context",
        (int)m->context, "layer_bytes", (json_int_t)m->layer_bytes, "head_bytes",
        (json_int_t)m->head_bytes, "kv_bytes", (json_int_t)m->kv_bytes, "hidden_bytes",
        (json_int_t)m->hidden_bytes, "devices", devices);
}

json_t *ofr_planner_decision_to_json(const ofr_planner_decision *d)
{
    json_t *candidates = json_array(), *refused = json_array();
    for (size_t i = 0; i < d->n_candidates; i++) {
        const ofr_planner_candidate *c = &d->candidates[i];
        json_array_append_new(
            candidates,
            json_pack("{s:i, s:s, s:s, s:o, s:o, s:o, s:o, s:b, s:b}", "prompt_tokens",
                      (int)c->prompt_tokens, "prefill", d->routes[c->prefill].text, "decode",
                      d->routes[c->decode].text, "first_token_ms", number(c->first_token_ms),
                      "handoff_ms", number(c->handoff_ms), "per_token_ms", number(c->per_token_ms),
                      "total_ms", number(c->total_ms), "chosen", (int)c->chosen, "best_single",
                      (int)c->best_single));
    }
    for (uint32_t i = 0; i < d->n_refusals; i++)
        json_array_append_new(refused, json_pack("{s:s, s:s}", "device", d->refusals[i].device,
                                                 "reason", d->refusals[i].reason));
    return json_pack("{s:s, s:s, s:i, s:o, s:o}", "plan", d->plan_text, "reason", d->reason,
                     "answer_tokens", (int)d->answer_tokens, "candidates", candidates, "refused",
                     refused);
}
