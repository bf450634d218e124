/* The measurement of devices for the planner. */
#include "supervisor/plan_measure.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "supervisor/interrupt.h"
#include "supervisor/measure.h"

enum {
    DECODE_STEPS = 12,
    DECODE_MS = 250, /* enough for a depth */
    HANDOFFS = 5,
};
/* The steps of the ladder of static graphs: a prompt is covered by such chunks. */
static const uint32_t lengths[] = {16, 64, 256, 512, 1024};
/* Two samples that differ by less agree. */
static const double AGREE = 0.15;
/* Until it is measured: a job of another worker is a message in shared memory away. */
static const double HOP_US = 100, COPY_GB_S = 8;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    ofr_command_notify(NULL, line);
}

static double now_s(void)
{
    return (double)ofr_clock_ns() / 1e9;
}

/* A connection of its own, with the package and tokenizer of the caller's session. */
static int connect_plan(const ofr_plan_measure_options *options, const char *plan,
                        ofr_engine_session *ret_session, ofr_error *err)
{
    ofr_common_options common = *options->common;
    common.plan = plan;
    *ret_session = (ofr_engine_session){
        .package = options->session->package,
        .tokenizer = options->session->tokenizer,
        .tokenizer_info = options->session->tokenizer_info,
    };
    return ofr_engine_session_connect(ret_session, &common, err);
}

/* Why the executive does not use the device: its worker's words. */
static void find_refusal(ofr_engine_session *session, const char *device, char *text, size_t size)
{
    json_t *status = NULL;
    snprintf(text, size, "the executive refused it");
    if (ofr_engine_session_status(session, &status, NULL) < 0)
        return;
    size_t i;
    json_t *worker;
    json_array_foreach(json_object_get(status, "workers"), i, worker)
    {
        const char *name = json_string_value(json_object_get(worker, "name"));
        const char *failure = json_string_value(json_object_get(worker, "failure"));
        if (name && failure && failure[0] && strcmp(name, device) == 0)
            snprintf(text, size, "%s", failure);
    }
    json_decref(status);
}

/* The time of a prompt of `n` tokens: two samples, a third where they disagree (the first one may
 * have compiled something); fewer where the time is up. */
static int measure_length(ofr_engine_session *session, ofr_measure_source *source, uint32_t n,
                          double deadline, double *ret_ms, ofr_error *err)
{
    double ms[3] = {0};
    int taken = 0;
    while (taken < 3) {
        uint64_t ns = 0;
        ofr_measure_restart(&session->sequence, source);
        int r = ofr_measure_prefill(&session->sequence, source, n, &ns, NULL, err);
        if (r < 0)
            return r;
        ms[taken++] = (double)ns / 1e6;
        if ((taken == 2 && fabs(ms[0] - ms[1]) < AGREE * ms[1]) ||
            now_s() + ms[taken - 1] / 1e3 > deadline)
            break;
    }
    *ret_ms = taken == 1 ? ms[0] : taken == 2 ? fmin(ms[0], ms[1]) : fmin(ms[1], ms[2]);
    return 0;
}

/* The time of a token at the sequence's depth. */
static int measure_depth(ofr_engine_session *session, ofr_measure_source *source, double *ret_ms,
                         ofr_error *err)
{
    double ms[DECODE_STEPS + 1], spent = 0;
    size_t n = 0;
    while (n < DECODE_STEPS + 1 && (n < 4 || spent < DECODE_MS)) {
        uint64_t ns = 0;
        int r = ofr_measure_decode(&session->sequence, source, 1, &ns, err);
        if (r < 0)
            return r;
        ms[n] = (double)ns / 1e6;
        spent += ms[n++];
    }
    *ret_ms = ofr_measure_median(ms + 1, n - 1); /* the first one may have compiled something */
    return 0;
}

/* Lengths one after the other, with decode at the depth that each leaves. */
static int measure_points(ofr_engine_session *session, ofr_planner_device *d, double deadline,
                          ofr_error *err)
{
    ofr_measure_source source;
    ofr_measure_source_init(&source, session->tokenizer);
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof lengths / sizeof lengths[0]; i++) {
        uint32_t n = lengths[i];
        if (i && n + DECODE_STEPS + 1 > session->info.context)
            break;
        double last = i ? d->prefill[i - 1].ms / 1e3 * n / lengths[i - 1] : 0;
        /* Only what fits into the time, and the longest only where it is quick: the line through
         * the others goes on. */
        if (i && (now_s() + 2 * last > deadline || (n > 512 && last > 0.3)))
            break;
        double ms = 0;
        r = measure_length(session, &source, n, deadline, &ms, err);
        if (r < 0)
            return r;
        d->prefill[d->n_prefill++] = (ofr_planner_point){n, ms};
        if (n == 64 || (d->n_decode && now_s() > deadline))
            continue;
        r = measure_depth(session, &source, &ms, err);
        if (r == 0)
            d->decode[d->n_decode++] = (ofr_planner_point){n, ms};
    }
    if (r == 0 && d->n_prefill == 1) { /* a device this slow, or a context this short */
        d->prefill[1] = (ofr_planner_point){2 * d->prefill[0].tokens, 2 * d->prefill[0].ms};
        d->n_prefill = 2;
    }
    return r;
}

static void fail_device(ofr_planner_device *d, const char *why)
{
    snprintf(d->failure, sizeof d->failure, "%.255s", why);
    d->n_prefill = d->n_decode = 0;
    say("  %s: not used: %s", d->name, d->failure);
}

static int measure_device(const ofr_plan_measure_options *options, ofr_planner_device *d,
                          double deadline, ofr_plan_measure_result *result, ofr_error *err)
{
    ofr_engine_session session = {0};
    char expected[2 * OFR_PLAN_NAME_MAX + 32];
    double begin = now_s();
    int r = connect_plan(options, d->name, &session, err);
    if (r == 0 && session.info.started) {
        result->started = session.info.executive_pid;
        snprintf(result->instance, sizeof result->instance, "%s", session.info.instance);
    }
    snprintf(expected, sizeof expected, "prefill=%s,decode=%s", d->name, d->name);
    if (r == 0 && strcmp(session.info.plan, expected) != 0) {
        char why[sizeof d->failure];
        find_refusal(&session, d->name, why, sizeof why);
        r = ofr_fail(err, OFR_EDEVICE, "%s", why);
    }
    if (r == 0) {
        const char *text = strstr(session.info.device, d->name);
        snprintf(d->description, sizeof d->description, "%.127s",
                 text == session.info.device ? text + strlen(d->name) + 2 : session.info.device);
        d->hop_us = HOP_US;
        d->copy_gb_s = d->memory_bytes ? COPY_GB_S : 0;
        r = measure_points(&session, d, deadline, err);
    }
    ofr_engine_session_disconnect(&session);
    if (r == 0) {
        const ofr_planner_point *p = &d->prefill[d->n_prefill - 1], *q = &d->decode[0];
        say("  %s: reads prompts at %.0f tokens a second, writes at %.0f (%.1f s)", d->name,
            p->tokens * 1e3 / p->ms, 1e3 / q->ms, now_s() - begin);
    }
    return r;
}

/* From number `first` on. */
static uint32_t count_unmeasured(const ofr_planner_input *input, uint32_t first)
{
    uint32_t n = 0;
    for (uint32_t i = first; i < input->n_devices; i++)
        n += input->devices[i].failure[0] == 0;
    return n;
}

int ofr_plan_measure_devices(const ofr_plan_measure_options *options, ofr_planner_input *input,
                             ofr_plan_measure_result *ret_result, ofr_error *err)
{
    ofr_plan_measure_result result = {0};
    struct sigaction before;
    double begin = now_s();
    int r = 0;
    sigaction(SIGINT, NULL, &before);
    ofr_interrupt_catch(true);
    for (uint32_t i = 0; r == 0 && i < input->n_devices; i++) {
        ofr_planner_device *d = &input->devices[i];
        double now = now_s(), left = begin + options->seconds - now;
        if (d->failure[0])
            continue;
        if (i && left <= 0) {
            fail_device(d, "not measured, the time for measuring was up; 'supervisor plan "
                           "--measure' takes longer");
            continue;
        }
        ofr_error why = {0};
        r = measure_device(options, d, now + left / count_unmeasured(input, i), &result, &why);
        if (*ofr_interrupt_flag())
            r = ofr_fail(&why, OFR_ECANCELED,
                         "measuring the devices was interrupted and nothing was saved; '--plan "
                         "cpu' starts without measuring");
        if (r < 0 && (i == 0 || r == OFR_EBUSY || r == OFR_ECANCELED)) {
            r = ofr_fail(err, r, "%s", why.text);
        } else if (r < 0) {
            fail_device(d, why.text);
            r = 0;
        }
    }
    sigaction(SIGINT, &before, NULL);
    result.seconds = now_s() - begin;
    *ret_result = result;
    return r;
}

static ofr_planner_device *find_device(ofr_planner_input *input, const char *name)
{
    for (uint32_t i = 0; i < input->n_devices; i++)
        if (strcmp(input->devices[i].name, name) == 0)
            return &input->devices[i];
    return NULL;
}

/* What the first token after a prompt of `n` takes longer than those that follow. */
static int measure_excess(ofr_engine_session *session, ofr_measure_source *source, uint32_t n,
                          double *ret_ms, ofr_error *err)
{
    double excess[HANDOFFS];
    for (size_t i = 0; i < HANDOFFS; i++) {
        uint64_t first = 0, second = 0, third = 0;
        ofr_sequence *sequence = &session->sequence;
        ofr_measure_restart(sequence, source);
        int r = ofr_measure_prefill(sequence, source, n, NULL, NULL, err);
        if (r == 0)
            r = ofr_measure_decode(sequence, source, 1, &first, err);
        if (r == 0)
            r = ofr_measure_decode(sequence, source, 1, &second, err);
        if (r == 0)
            r = ofr_measure_decode(sequence, source, 1, &third, err);
        if (r < 0)
            return r;
        excess[i] = ((double)first - ((double)second + (double)third) / 2) / 1e6;
    }
    *ret_ms = fmax(ofr_measure_median(excess, HANDOFFS), 0);
    return 0;
}

int ofr_plan_measure_handoff(const ofr_plan_measure_options *options, const char *prefill,
                             const char *decode, ofr_planner_input *input, ofr_error *err)
{
    char plan[512];
    ofr_planner_device *d = find_device(input, decode);
    if (!d || strchr(prefill, '@'))
        return 0; /* split by layers: every prompt hands over, there is no plain figure */
    snprintf(plan, sizeof plan, "prefill=%s,decode=%s", prefill, decode);
    ofr_engine_session session = {0};
    ofr_measure_source source;
    ofr_measure_source_init(&source, options->session->tokenizer);
    double small = 0, large = 0;
    int r = connect_plan(options, plan, &session, err);
    if (r == 0 && strcmp(session.info.plan, plan) != 0)
        r = ofr_fail(err, OFR_EDEVICE, "the executive does not run '%s', but '%s'", plan,
                     session.info.plan);
    if (r == 0)
        r = measure_excess(&session, &source, 16, &small, err);
    if (r == 0)
        d->hop_us = small * 1e3;
    if (r == 0 && d->memory_bytes && session.info.context > 256 + 8) {
        r = measure_excess(&session, &source, 256, &large, err);
        if (r == 0 && large > small)
            d->copy_gb_s = 240.0 * (double)input->model.kv_bytes / ((large - small) * 1e6);
    }
    ofr_engine_session_disconnect(&session);
    return r;
}
