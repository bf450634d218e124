/* Which device does what: the devices that are present, plans resolved against them, and what
 * becomes of a plan when a device fails. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device/child.h"
#include "executive_shard/executive_internal.h"

enum { PLAN_DEVICES_MAX = 2 * OFR_DEVICES_MAX + 2 };

static void search_body(int fd, void *user)
{
    (void)user;
    ofr_device_list *list = calloc(1, sizeof *list);
    ofr_error err = {0};
    ofr_device_options options = {0};
    if (!list || ofr_devices_discover(&options, list, &err) < 0)
        _exit(1);
    const char *data = (const char *)list;
    size_t left = sizeof *list;
    while (left) {
        ssize_t n = write(fd, data, left);
        if (n < 0 && errno != EINTR)
            _exit(1);
        if (n > 0) {
            data += n;
            left -= (size_t)n;
        }
    }
    _exit(0);
}

void ofr_executive_end_search(ofr_executive *x)
{
    ofr_executive_search *search = &x->search;
    if (search->pid > 0) {
        kill(search->pid, SIGKILL);
        while (waitpid(search->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    search->pid = 0;
    ofr_executive_close(&search->fd);
}

bool ofr_executive_read_search(ofr_executive *x)
{
    ofr_executive_search *search = &x->search;
    char *data = (char *)&search->list;
    ssize_t n = read(search->fd, data + search->used, sizeof search->list - search->used);
    if (n < 0 && errno == EINTR)
        return false;
    if (n > 0)
        search->used += (size_t)n;
    if (n > 0 && search->used < sizeof search->list)
        return false;
    if (search->used < sizeof search->list || search->list.count > OFR_DEVICES_MAX) {
        ofr_device_source failed = {.state = OFR_SOURCE_STATE_FAILED,
                                    .text = "the search for devices failed"};
        search->list =
            (ofr_device_list){.level_zero = failed, .opencl = failed, .openvino = failed};
    }
    ofr_executive_end_search(x);
    search->done = true;
    return true;
}

/* Its own driver first, then OpenVINO's: "gpu" and "npu" take the first that fits. */
static size_t list_devices(const ofr_device_list *list, ofr_plan_device *ret)
{
    static const enum ofr_device_kind order[] = {OFR_DEVICE_KIND_DISCRETE_GPU,
                                                 OFR_DEVICE_KIND_INTEGRATED_GPU,
                                                 OFR_DEVICE_KIND_NPU, OFR_DEVICE_KIND_CPU};
    static const enum ofr_plan_device_kind kinds[] = {OFR_PLAN_DEVICE_GPU, OFR_PLAN_DEVICE_GPU,
                                                      OFR_PLAN_DEVICE_NPU, OFR_PLAN_DEVICE_CPU};
    size_t n = 0;
    ret[n++] = (ofr_plan_device){"cpu", OFR_PLAN_DEVICE_CPU};
    for (size_t k = 0; k < sizeof order / sizeof order[0]; k++) {
        for (size_t i = 0; i < list->count; i++) {
            const ofr_device *d = &list->devices[i];
            if (d->kind != order[k])
                continue;
            if (d->opencl[0])
                ret[n++] = (ofr_plan_device){d->opencl, kinds[k]};
            if (d->openvino[0])
                ret[n++] = (ofr_plan_device){d->openvino, kinds[k]};
        }
    }
    return n;
}

/* A runtime that failed is another matter than a device that is absent: plans that name a device of
 * it go on without, with the runtime's words. */
static const ofr_device_source *failed_source(const ofr_device_list *list, const char *device,
                                              const char **ret_name)
{
    bool openvino = strncmp(device, "openvino:", strlen("openvino:")) == 0;
    bool opencl = strncmp(device, "opencl", strlen("opencl")) == 0;
    const ofr_device_source *source = openvino ? &list->openvino : &list->opencl;
    *ret_name = openvino ? "OpenVINO" : "OpenCL";
    return (openvino || opencl) && source->state != OFR_SOURCE_STATE_OK ? source : NULL;
}

static void say_refused(ofr_executive *x, const char *device, const char *why)
{
    ofr_log(OFR_LOG_LEVEL_WARNING, "device %s is refused: %s", device, why);
    json_t *event = json_pack("{s:s, s:s, s:s%}", "event", "notice", "device", device, "text", why,
                              strlen(why));
    ofr_executive_tell(x, event, NULL, 0);
}

static bool needs_search(ofr_plan *plan)
{
    const ofr_plan_phase *phase = NULL;
    for (uint32_t k = 0; (phase = ofr_plan_phase_at(plan, k)) != NULL; k++)
        for (uint32_t i = 0; i < phase->n_stages; i++)
            if (strcmp(phase->stages[i].device, "cpu") != 0)
                return true;
    return false;
}

static int resolve(ofr_executive *x, ofr_plan *plan, ofr_error *err)
{
    static const ofr_device_list none;
    ofr_plan_device devices[PLAN_DEVICES_MAX + OFR_PLAN_MAX_STAGES];
    const ofr_device_list *list = x->search.done ? &x->search.list : &none;
    size_t n = list_devices(list, devices);
    const ofr_plan_phase *phase = NULL;
    for (uint32_t k = 0; (phase = ofr_plan_phase_at(plan, k)) != NULL; k++) {
        for (uint32_t i = 0; i < phase->n_stages; i++) {
            const char *name = "";
            const char *device = phase->stages[i].device;
            if (strcmp(device, "opencl") == 0)
                device = "opencl:0";
            const ofr_device_source *failed = failed_source(list, device, &name);
            if (!failed || !x->search.done)
                continue;
            ofr_executive_worker *worker = ofr_executive_add_worker(x, device);
            if (!worker)
                return ofr_fail(err, OFR_ELIMIT, "the plan names more than %d devices",
                                OFR_EXECUTIVE_WORKERS_MAX);
            if (n < sizeof devices / sizeof devices[0])
                devices[n++] = (ofr_plan_device){worker->device, OFR_PLAN_DEVICE_CPU};
            worker->refused = true;
            snprintf(worker->failure, sizeof worker->failure, "%s: %s", name, failed->text);
        }
    }
    return ofr_plan_resolve(plan, devices, n, x->n_layers, err);
}

static bool is_refused(ofr_executive *x, const char *device)
{
    const ofr_executive_worker *worker = ofr_executive_find_worker(x, device);
    return worker && worker->refused;
}

/* What takes the stages of a refused device: another one of the plan, or the CPU. */
static const char *find_substitute(ofr_executive *x, ofr_plan *plan)
{
    const ofr_plan_phase *phase = NULL;
    for (uint32_t k = 0; (phase = ofr_plan_phase_at(plan, k)) != NULL; k++)
        for (uint32_t i = 0; i < phase->n_stages; i++)
            if (!is_refused(x, phase->stages[i].device))
                return phase->stages[i].device;
    return is_refused(x, "cpu") ? NULL : "cpu";
}

static int replace_refused(ofr_executive *x, ofr_plan *plan, ofr_error *err)
{
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        const ofr_executive_worker *worker = &x->workers[i];
        if (!worker->device[0] || !worker->refused)
            continue;
        bool named = false;
        const ofr_plan_phase *phase = NULL;
        for (uint32_t k = 0; (phase = ofr_plan_phase_at(plan, k)) != NULL; k++)
            for (uint32_t s = 0; s < phase->n_stages; s++)
                named = named || strcmp(phase->stages[s].device, worker->device) == 0;
        if (!named)
            continue;
        char by[OFR_PLAN_NAME_MAX];
        const char *found = find_substitute(x, plan);
        if (!found)
            return ofr_fail(err, OFR_EDEVICE, "the %s worker failed: %s", worker->device,
                            worker->failure);
        snprintf(by, sizeof by, "%s", found);
        say_refused(x, worker->device, worker->failure);
        ofr_plan_replace_device(plan, worker->device, by);
    }
    return 0;
}

static int add_range(ofr_executive_worker *worker, const ofr_plan_stage *stage, ofr_error *err)
{
    for (uint32_t i = 0; i < worker->n_ranges; i++)
        if (worker->ranges[i][0] == stage->layer_begin && worker->ranges[i][1] == stage->layer_end)
            return 0;
    if (worker->n_ranges == OFR_WORKER_RANGES_MAX)
        return ofr_fail(err, OFR_ELIMIT,
                        "device %s was asked for more than %d ranges of layers; stop the executive "
                        "and start it again",
                        worker->device, OFR_WORKER_RANGES_MAX);
    worker->ranges[worker->n_ranges][0] = stage->layer_begin;
    worker->ranges[worker->n_ranges++][1] = stage->layer_end;
    return 0;
}

/* Workers that the plan shares with the one before stay. */
static int adopt(ofr_executive *x, const ofr_plan *chosen, ofr_error *err)
{
    ofr_plan plan = *chosen;
    const ofr_plan_phase *phase = NULL;
    int r = 0;
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        x->workers[i].needed = false;
    for (int pass = 0; pass < 2 && r == 0; pass++) {
        for (uint32_t k = 0; (phase = ofr_plan_phase_at(&plan, k)) != NULL; k++) {
            for (uint32_t i = 0; i < phase->n_stages && r == 0; i++) {
                const ofr_plan_stage *stage = &phase->stages[i];
                /* First those that exist, so that none of them makes room for a new one. */
                ofr_executive_worker *worker = pass == 0
                                                   ? ofr_executive_find_worker(x, stage->device)
                                                   : ofr_executive_add_worker(x, stage->device);
                if (worker)
                    worker->needed = true;
                if (worker && pass == 1)
                    r = add_range(worker, stage, err);
                else if (pass == 1)
                    r = ofr_fail(err, OFR_ELIMIT, "the plan names more than %d devices",
                                 OFR_EXECUTIVE_WORKERS_MAX);
            }
        }
    }
    if (r == 0)
        r = ofr_plan_format(&plan, x->n_layers, x->plan_text, sizeof x->plan_text);
    x->plan = plan;
    x->settled = false;
    snprintf(x->broken, sizeof x->broken, "%s", r < 0 && err ? err->text : "");
    return r;
}

/* A phase that is not named, and "auto". */
static void fill_in(ofr_plan *plan)
{
    ofr_plan_phase *phase = NULL;
    for (uint32_t k = 0; (phase = ofr_plan_phase_at(plan, k)) != NULL; k++)
        if (phase->n_stages == 0)
            *phase =
                (ofr_plan_phase){.stages = {{"cpu", 0, OFR_PLAN_TO_LAST_LAYER}}, .n_stages = 1};
}

int ofr_executive_choose(ofr_executive *x, const char *text, ofr_error *err)
{
    ofr_plan plan;
    if (!text && x->options->first_plan)
        text = x->options->first_plan;
    else if ((!text || strcmp(text, "auto") == 0) && x->options->plan)
        text = x->options->plan;
    int r = ofr_plan_parse(text ? text : "auto", &plan, err);
    if (r < 0)
        return r;
    fill_in(&plan);
    if (needs_search(&plan) && !x->search.done) {
        x->choosing = true;
        if (x->search.fd >= 0)
            return OFR_EAGAIN;
        r = ofr_child_start(search_body, NULL, 1, &x->search.pid, &x->search.fd, err);
        return r < 0 ? r : OFR_EAGAIN;
    }
    x->choosing = false;
    r = resolve(x, &plan, err);
    if (r == 0)
        r = replace_refused(x, &plan, err);
    return r < 0 ? r : adopt(x, &plan, err);
}

/* Conditions are kept by the machine's device; a runtime on the CPU is not the CPU. */
static void set_condition(ofr_executive *x, const char *device, const char *why)
{
    const ofr_device *found =
        x->search.done ? ofr_devices_find_planned(&x->search.list, device) : NULL;
    bool physical = found && found->kind != OFR_DEVICE_KIND_CPU;
    ofr_conditions_set(&x->monitor.conditions, physical ? found->name : device,
                       OFR_CONDITION_QUARANTINED, why);
}

void ofr_executive_refuse(ofr_executive *x, ofr_executive_worker *worker, const char *why)
{
    bool needed = worker->needed;
    worker->refused = true;
    snprintf(worker->failure, sizeof worker->failure, "%s", why);
    set_condition(x, worker->device, why);
    ofr_executive_lose_worker(x, worker);
    if (!needed)
        return;
    ofr_error err = {0};
    ofr_plan plan = x->plan;
    int r = replace_refused(x, &plan, &err);
    if (r == 0)
        r = adopt(x, &plan, &err);
    if (r == 0) {
        ofr_log(OFR_LOG_LEVEL_WARNING, "the plan is now %s", x->plan_text);
        return;
    }
    ofr_log(OFR_LOG_LEVEL_ERROR, "no device is left: %s", err.text);
    snprintf(x->broken, sizeof x->broken, "%s", err.text);
    if (x->pending)
        ofr_executive_refuse_client(x, &err);
    else
        ofr_executive_tell(
            x,
            json_pack("{s:s, s:s%}", "event", "worker_failed", "text", err.text, strlen(err.text)),
            NULL, 0);
}
