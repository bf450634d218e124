/* Figures that are kept, and the decision from them. */
#include "supervisor/plan_auto.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "device/condition.h"
#include "device/device.h"
#include "executive_shard/control.h"
#include "executive_shard/executive.h"
#include "executive_shard/instance.h"
#include "supervisor/plan_key.h"
#include "supervisor/plan_measure.h"
#include "supervisor/state_directory.h"

enum { FILE_MAX = 1 << 20, KEY_DIGITS = 16, END_MS = 20000 };

static void tell(const char *line)
{
    ofr_command_notify(NULL, line);
}

/* ---- where the figures are ---- */

/* In the package, or in the state directory; malloc'ed. NULL: no memory, no such directory. */
static char *figures_path(const ofr_engine_session *session, const char *key, bool in_package)
{
    char name[128];
    char *path = NULL;
    if (in_package) {
        snprintf(name, sizeof name, "plans/%.*s.json", KEY_DIGITS, key);
        return ofr_path_join(ofr_package_directory(session->package), name);
    }
    snprintf(name, sizeof name, "plan_%.*s.json", KEY_DIGITS, key);
    return ofr_state_path(name, &path, NULL) == 0 ? path : NULL;
}

static int load(const char *path, const ofr_engine_session *session, const char *key,
                ofr_planner_figures *ret_figures, ofr_error *err)
{
    void *data = NULL;
    size_t size = 0;
    json_error_t at;
    int r = ofr_file_read(path, FILE_MAX, &data, &size, err);
    if (r < 0)
        return r;
    json_t *root = json_loadb(data, size, JSON_REJECT_DUPLICATES, &at);
    free(data);
    if (!root)
        return ofr_fail(err, OFR_EFORMAT, "%s: %s", path, at.text);
    r = ofr_planner_figures_parse(root, ret_figures, err);
    json_decref(root);
    if (r < 0)
        return ofr_error_prefix(err, r, "%s", path);
    const ofr_model_params *params = ofr_package_params(session->package);
    if (!ret_figures->measured || strcmp(ret_figures->key, key) != 0 ||
        ret_figures->input.model.n_layers != params->n_layers ||
        strcmp(ret_figures->input.devices[0].name, "cpu") != 0)
        return ofr_fail(err, OFR_EVERSION, "%s: of another machine or package", path);
    return 0;
}

/* OFR_ENOENT: nothing is saved. A file that is broken is as good as none, and is replaced. */
static int find_saved(const ofr_engine_session *session, const char *key, ofr_plan_auto *plan)
{
    for (int in_package = 1; in_package >= 0; in_package--) {
        char *path = figures_path(session, key, in_package);
        ofr_error why = {0};
        int r = path ? load(path, session, key, &plan->figures, &why) : OFR_ENOENT;
        if (r == 0)
            snprintf(plan->path, sizeof plan->path, "%s", path);
        else if (r != OFR_ENOENT)
            tell(why.text);
        free(path);
        if (r == 0)
            return 0;
    }
    return OFR_ENOENT;
}

static int save_in(const ofr_engine_session *session, bool in_package, const char *text,
                   ofr_plan_auto *plan)
{
    char *path = figures_path(session, plan->figures.key, in_package);
    char *directory = path ? ofr_path_parent(path) : NULL;
    int r = directory ? ofr_directory_make(directory, 0755, NULL) : OFR_ENOMEM;
    if (r == 0)
        r = ofr_file_replace(path, text, strlen(text), 0644, NULL);
    if (r == 0)
        snprintf(plan->path, sizeof plan->path, "%s", path);
    free(directory);
    free(path);
    return r;
}

/* That they cannot be kept costs the next start some seconds, no more. */
static void save(const ofr_engine_session *session, ofr_plan_auto *plan)
{
    json_t *root = ofr_planner_figures_to_json(&plan->figures);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    if (!text ||
        (save_in(session, true, text, plan) < 0 && save_in(session, false, text, plan) < 0))
        tell("the figures of this machine cannot be saved, neither in the package nor in the state "
             "directory: they will be measured again");
    free(text);
    json_decref(root);
}

/* ---- what is there ---- */

static void fill_model(const ofr_package *package, uint32_t context, ofr_planner_model *model)
{
    const ofr_model_params *params = ofr_package_params(package);
    *model = (ofr_planner_model){.n_layers = params->n_layers, .context = context};
    snprintf(model->name, sizeof model->name, "%s", params->name);
    uint64_t layers = 0;
    for (size_t i = 0; i < ofr_package_tensor_count(package); i++) {
        const ofr_tensor *tensor = ofr_package_tensor(package, i);
        uint64_t bytes = tensor->bytes + tensor->scale_bytes;
        if (strncmp(tensor->name, "model.layers.", strlen("model.layers.")) == 0)
            layers += bytes;
        else if (params->tied_embedding || strcmp(tensor->name, "model.embed_tokens.weight") != 0)
            model->head_bytes += bytes;
    }
    model->layer_bytes = layers / params->n_layers;
    model->kv_bytes = UINT64_C(4) * params->n_kv_heads * params->head_dim * params->n_layers;
    model->hidden_bytes = UINT64_C(4) * params->d_model;
}

static void add_device(ofr_planner_input *input, const ofr_device *device, const char *name,
                       enum ofr_plan_device_kind kind)
{
    if (!name[0] || input->n_devices == OFR_PLANNER_DEVICES_MAX)
        return;
    ofr_planner_device *d = &input->devices[input->n_devices++];
    *d = (ofr_planner_device){.kind = kind};
    snprintf(d->name, sizeof d->name, "%s", name);
    snprintf(d->description, sizeof d->description, "%s", device->model);
    snprintf(d->machine, sizeof d->machine, "%s", device->name);
    /* Room for buffers and the display is left. */
    d->memory_bytes = device->memory_bytes - device->memory_bytes / 8;
}

/* An OpenCL device that is the CPU computes on the cores that "cpu" has, and its measuring took
 * most of the first start. */
static void leave_out(ofr_planner_input *input, const char *name)
{
    ofr_planner_device *last = &input->devices[input->n_devices - 1];
    if (strcmp(last->name, name) == 0)
        snprintf(last->failure, sizeof last->failure,
                 "not measured: OpenCL on the CPU, the same cores as 'cpu'; '--plan %s' uses it, "
                 "'supervisor plan --measure' measures it",
                 name);
}

/* The CPU first, then what is likely to be worth its measurement: time may be up for the rest.
 * `all`: with devices that are measured only where somebody asks for it. */
static int list_devices(ofr_planner_input *input, bool all, ofr_error *err)
{
    static const enum ofr_device_kind order[] = {OFR_DEVICE_KIND_DISCRETE_GPU,
                                                 OFR_DEVICE_KIND_INTEGRATED_GPU,
                                                 OFR_DEVICE_KIND_NPU, OFR_DEVICE_KIND_CPU};
    ofr_device_options options = {0};
    ofr_device_list *list = calloc(1, sizeof *list);
    if (!list)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the list of devices");
    int r = ofr_devices_discover(&options, list, err);
    const ofr_device *cpu = ofr_devices_find(list, "cpu");
    static const ofr_device unknown = {.name = "cpu"};
    if (r == 0)
        add_device(input, cpu ? cpu : &unknown, "cpu", OFR_PLAN_DEVICE_CPU);
    for (size_t k = 0; r == 0 && k < sizeof order / sizeof order[0]; k++) {
        for (size_t i = 0; i < list->count; i++) {
            const ofr_device *device = &list->devices[i];
            enum ofr_plan_device_kind kind = order[k] == OFR_DEVICE_KIND_NPU ? OFR_PLAN_DEVICE_NPU
                                             : order[k] == OFR_DEVICE_KIND_CPU
                                                 ? OFR_PLAN_DEVICE_CPU
                                                 : OFR_PLAN_DEVICE_GPU;
            if (device->kind != order[k])
                continue;
            add_device(input, device, device->openvino, kind);
            add_device(input, device, device->opencl, kind);
            if (!all && order[k] == OFR_DEVICE_KIND_CPU && device->opencl[0])
                leave_out(input, device->opencl);
        }
    }
    free(list);
    return r;
}

/* ---- measuring ---- */

static void describe_circumstances(const ofr_common_options *common, char *text, size_t size)
{
    double load[1] = {0};
    if (getloadavg(load, 1) != 1)
        load[0] = 0;
    if (common->threads)
        snprintf(text, size, "%d CPU threads, load %.1f before", (int)common->threads, load[0]);
    else
        snprintf(text, size, "load %.1f before", load[0]);
}

/* A decision that joins two devices is tried: what the handoff costs, and that it works. */
static int try_combination(const ofr_plan_measure_options *options, ofr_planner_input *input,
                           ofr_error *err)
{
    ofr_planner_decision *d = NULL;
    int r = ofr_planner_decide(input, &d, err);
    if (r < 0)
        return r;
    const char *prefill = NULL, *decode = NULL;
    for (size_t i = 0; i < d->n_candidates; i++) {
        const ofr_planner_candidate *c = &d->candidates[i];
        if (c->chosen && c->prefill != c->decode) {
            prefill = d->routes[c->prefill].text;
            decode = d->routes[c->decode].text;
        }
    }
    if (prefill && decode) {
        ofr_error why = {0};
        r = ofr_plan_measure_handoff(options, prefill, decode, input, &why);
        if (r == OFR_EBUSY || r == OFR_ECANCELED) {
            r = ofr_fail(err, r, "%s", why.text);
        } else if (r < 0) {
            tell(why.text);
            r = 0;
        }
    }
    ofr_planner_decision_free(d);
    return r;
}

static int measure(const ofr_engine_session *session, const ofr_common_options *common,
                   double seconds, ofr_plan_auto *plan, ofr_error *err)
{
    ofr_planner_figures *f = &plan->figures;
    char line[512];
    ofr_plan_measure_options options = {session, common, seconds};
    size_t used =
        (size_t)snprintf(line, sizeof line, "finding the fastest plan for this model: measuring");
    for (uint32_t i = 0; i < f->input.n_devices && used < sizeof line; i++)
        if (!f->input.devices[i].failure[0])
            used += (size_t)snprintf(line + used, sizeof line - used, "%s %s", i ? "," : "",
                                     f->input.devices[i].name);
    if (used < sizeof line)
        snprintf(line + used, sizeof line - used, " (about %.0f s at most, only once)", seconds);
    tell(line);
    double load[1] = {0};
    if (getloadavg(load, 1) == 1 && load[0] > 0.75 * (double)sysconf(_SC_NPROCESSORS_ONLN))
        tell("other programs keep this machine busy: the figures may be off; 'supervisor plan "
             "--measure' measures again");
    time_t now = time(NULL);
    struct tm tm;
    strftime(f->date, sizeof f->date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    describe_circumstances(common, f->circumstances, sizeof f->circumstances);
    ofr_plan_measure_result result = {0};
    int r = ofr_plan_measure_devices(&options, &f->input, &result, err);
    f->seconds = result.seconds;
    plan->started = result.started;
    snprintf(plan->instance, sizeof plan->instance, "%s", result.instance);
    if (r == 0)
        r = try_combination(&options, &f->input, err);
    plan->measured_now = r == 0;
    return r;
}

/* ---- conditions ---- */

static enum ofr_condition condition_of(const char *name)
{
    for (int c = OFR_CONDITION_OK; name && c <= OFR_CONDITION_QUARANTINED; c++)
        if (strcmp(name, ofr_condition_name((enum ofr_condition)c)) == 0)
            return (enum ofr_condition)c;
    return OFR_CONDITION_OK;
}

/* The status of the executive that serves the package; NULL where none does. */
static json_t *executive_status(const ofr_engine_session *session, const ofr_common_options *common)
{
    char instance[OFR_INSTANCE_NAME_SIZE];
    char *text = NULL;
    if (ofr_instance_resolve(ofr_package_directory(session->package), common->instance, instance,
                             NULL) < 0 ||
        ofr_client_instance_status(instance, &text, NULL) < 0)
        return NULL;
    json_t *status = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    return status;
}

/* What it says of its devices. */
static void read_conditions(const json_t *status, ofr_conditions *conditions)
{
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(json_object_get(status, "health"), "devices"), i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        const char *reason = json_string_value(json_object_get(entry, "reason"));
        const char *condition = json_string_value(json_object_get(entry, "condition"));
        if (name)
            ofr_conditions_set(conditions, name, condition_of(condition), reason ? reason : "");
    }
    json_array_foreach(json_object_get(status, "workers"), i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        const char *state = json_string_value(json_object_get(entry, "state"));
        const char *failure = json_string_value(json_object_get(entry, "failure"));
        if (name && state && strcmp(state, "quarantined") == 0)
            ofr_conditions_set(conditions, name, OFR_CONDITION_QUARANTINED, failure ? failure : "");
    }
}

/* Slowed by the condition; out where it is quarantined and to `blame`. */
static void apply(ofr_planner_device *d, const ofr_conditions *conditions, const char *name,
                  bool blame)
{
    double penalty = 1;
    const char *reason = "";
    if (!ofr_conditions_usable(conditions, name, &penalty, &reason) && blame)
        snprintf(d->failure, sizeof d->failure, "quarantined: %s", reason);
    if (penalty > 1) {
        d->slowdown = penalty;
        snprintf(d->condition, sizeof d->condition, "%s", reason);
    }
}

static void apply_conditions(ofr_planner_input *input, const ofr_conditions *conditions)
{
    for (uint32_t i = 0; i < input->n_devices; i++) {
        ofr_planner_device *d = &input->devices[i];
        if (d->failure[0])
            continue;
        apply(d, conditions, d->name, true);
        /* What runs on the CPU is as slow as the CPU, but not to blame for its faults. */
        if (d->failure[0] == 0)
            apply(d, conditions, d->machine, strcmp(d->machine, "cpu") != 0);
    }
}

/* ---- the decision ---- */

static int decide(ofr_plan_auto *plan, ofr_error *err)
{
    const ofr_planner_input *input = &plan->figures.input;
    if (input->devices[0].n_prefill == 0) { /* nothing was measured */
        snprintf(plan->plan, sizeof plan->plan, "prefill=cpu,decode=cpu");
        snprintf(plan->reason, sizeof plan->reason, "%s",
                 input->n_devices == 1
                     ? "the CPU is the only device of this machine that can run the model"
                     : "the other devices of this machine are its CPU under other names");
        return 0;
    }
    int r = ofr_planner_decide(input, &plan->decision, err);
    if (r < 0)
        return r;
    snprintf(plan->plan, sizeof plan->plan, "%s", plan->decision->plan_text);
    snprintf(plan->reason, sizeof plan->reason, "%s", plan->decision->reason);
    return 0;
}

static uint32_t count_usable(const ofr_planner_input *input)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < input->n_devices; i++)
        n += input->devices[i].failure[0] == 0;
    return n;
}

static int find_figures(const ofr_engine_session *session, const ofr_common_options *common,
                        bool saved_only, double seconds, ofr_plan_auto *plan, ofr_error *err)
{
    char key[OFR_SHA256_HEX_SIZE];
    int r = ofr_plan_key(NULL, ofr_package_fingerprint(session->package), (uint32_t)common->threads,
                         key, err);
    if (r < 0 || (seconds <= 0 && find_saved(session, key, plan) == 0))
        return r;
    if (saved_only)
        return ofr_fail(err, OFR_ENOENT, "no figures of this machine are saved");
    ofr_planner_figures *f = &plan->figures;
    uint32_t context = ofr_package_params(session->package)->context_length;
    if (common->context)
        context = (uint32_t)common->context;
    else if (context > OFR_EXECUTIVE_CONTEXT_ENOUGH)
        context = OFR_EXECUTIVE_CONTEXT_ENOUGH;
    *f = (ofr_planner_figures){.measured = true};
    snprintf(f->key, sizeof f->key, "%s", key);
    fill_model(session->package, context, &f->input.model);
    r = list_devices(&f->input, seconds > 0, err);
    if (r == 0)
        snprintf(f->title, sizeof f->title, "%.127s", f->input.devices[0].description);
    if (r == 0 && (seconds > 0 || count_usable(&f->input) > 1))
        r = measure(session, common, seconds > 0 ? seconds : OFR_PLAN_SECONDS, plan, err);
    if (r == 0)
        save(session, plan);
    return r;
}

/* `status` of the executive before, NULL where none served; what was measured since has begun one.
 */
static int open_plan(const ofr_engine_session *session, const ofr_common_options *common,
                     const json_t *status, bool saved_only, double seconds, ofr_plan_auto *ret_plan,
                     ofr_error *err)
{
    ofr_plan_auto *plan = calloc(1, sizeof *plan);
    if (!plan)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a plan");
    int r = find_figures(session, common, saved_only, seconds, plan, err);
    if (r == 0) {
        ofr_conditions conditions = {0};
        json_t *now = plan->measured_now ? executive_status(session, common) : NULL;
        read_conditions(now ? now : status, &conditions);
        json_decref(now);
        apply_conditions(&plan->figures.input, &conditions);
        r = decide(plan, err);
    }
    if (r == 0 && plan->measured_now) {
        char line[OFR_PLAN_TEXT_MAX + OFR_PLANNER_TEXT_MAX + 64];
        snprintf(line, sizeof line, "plan: %s (%s)", plan->plan, plan->reason);
        tell(line);
    }
    if (r == 0)
        *ret_plan = *plan;
    else
        ofr_plan_auto_done(plan);
    free(plan);
    return r;
}

int ofr_plan_auto_open(const ofr_engine_session *session, const ofr_common_options *common,
                       double seconds, ofr_plan_auto *ret_plan, ofr_error *err)
{
    json_t *status = executive_status(session, common);
    int r = open_plan(session, common, status, false, seconds, ret_plan, err);
    json_decref(status);
    return r;
}

int ofr_plan_auto_again(const ofr_engine_session *session, const ofr_common_options *common,
                        ofr_plan_auto *ret_plan, ofr_error *err)
{
    json_t *status = executive_status(session, common);
    int r = open_plan(session, common, status, true, 0, ret_plan, err);
    json_decref(status);
    return r;
}

void ofr_plan_auto_done(ofr_plan_auto *plan)
{
    ofr_planner_decision_free(plan->decision);
    plan->decision = NULL;
}

/* Phases that `plan` leaves open, as in `chosen`. */
static void fill_in(ofr_plan *plan, const ofr_plan *chosen)
{
    for (int i = 0; i < OFR_PLAN_PHASE_COUNT; i++) {
        if (plan->phases[i].n_stages)
            continue;
        plan->phases[i] = chosen->phases[i];
        if (i == OFR_PLAN_PHASE_PREFILL) {
            memcpy(plan->longer, chosen->longer, sizeof plan->longer);
            plan->n_longer = chosen->n_longer;
        }
    }
}

/* Ends the executive that was started for measuring, and waits for its end. */
static int end_executive(const ofr_plan_auto *decided, ofr_error *err)
{
    char path[OFR_RUNTIME_PATH_SIZE];
    int directory_fd = -1, fd = -1;
    pid_t pid = 0;
    int process = (int)syscall(SYS_pidfd_open, decided->started, 0);
    int r = ofr_runtime_dir_open(decided->instance, false, &directory_fd, path, err);
    if (r == 0)
        r = ofr_control_connect(directory_fd, &fd, &pid, err);
    if (r == 0) {
        json_t *request = json_pack("{s:s}", "op", "stop");
        r = ofr_control_call(fd, request, NULL, err);
        json_decref(request);
    }
    if (r == 0 && process >= 0) {
        struct pollfd end = {.fd = process, .events = POLLIN};
        if (poll(&end, 1, END_MS) != 1)
            r = ofr_fail(err, OFR_ETIMEDOUT, "the executive (pid %d) does not end",
                         (int)decided->started);
    }
    int fds[] = {directory_fd, fd, process};
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return r;
}

static bool names_all(const ofr_plan *plan)
{
    return plan->phases[OFR_PLAN_PHASE_PREFILL].n_stages &&
           plan->phases[OFR_PLAN_PHASE_DECODE].n_stages;
}

int ofr_plan_auto_text(const ofr_engine_session *session, const ofr_common_options *common,
                       bool end_started, char ret_text[OFR_PLAN_TEXT_MAX], ofr_error *err)
{
    const char *text = common->plan ? common->plan : "auto";
    ofr_plan plan, chosen;
    int r = ofr_plan_parse(text, &plan, err);
    json_t *status = r == 0 && !names_all(&plan) ? executive_status(session, common) : NULL;
    /* The plan that the running executive was started with. */
    const char *given = json_string_value(json_object_get(status, "plan_given"));
    if (r == 0 && strcmp(text, "auto") == 0 && given)
        r = ofr_plan_parse(given, &plan, err);
    if (r == 0 && !names_all(&plan)) {
        ofr_plan_auto decided = {0};
        r = open_plan(session, common, status, false, 0, &decided, err);
        if (r == 0)
            r = ofr_plan_parse(decided.plan, &chosen, err);
        if (r == 0 && end_started && decided.started)
            r = end_executive(&decided, err);
        if (r == 0)
            fill_in(&plan, &chosen);
        ofr_plan_auto_done(&decided);
    }
    json_decref(status);
    if (r == 0 && ofr_plan_format(&plan, 0, ret_text, OFR_PLAN_TEXT_MAX) < 0)
        r = ofr_fail(err, OFR_ELIMIT, "the plan is too long");
    return r;
}
