/* plan: which device does what, and why. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "supervisor/commands.h"
#include "supervisor/engine_session.h"
#include "supervisor/plan_auto.h"
#include "supervisor/plan_key.h"
#include "supervisor/report.h"
#include "supervisor/state_directory.h"

enum { PROFILE_MAX = 1 << 20, SHOWN = 4 };

static const ofr_command_help help = {
    .name = "plan",
    .usage = "supervisor plan [--why] [--measure] [--profile F] [options]",
    .text =
        "Prints which device runs which phase. With --why, the reason: the devices present, what\n"
        "was measured of them and when, the time of every combination that this predicts, and "
        "what\n"
        "was refused. --measure measures the devices again. --profile decides for another "
        "machine,\n"
        "from a file of figures such as those in data/device_profiles.\n",
};

struct plan_options {
    ofr_common_options common;
    bool why, measure;
    int64_t seconds;
    const char *profile;
};

/* The last 'supervisor bench' of this package, or NULL. */
static json_t *last_bench(const ofr_engine_session *session)
{
    char name[64];
    char *path = NULL;
    void *data = NULL;
    size_t size = 0;
    json_t *root = NULL;
    snprintf(name, sizeof name, "bench_%.16s.json", ofr_package_fingerprint(session->package));
    if (ofr_state_path(name, &path, NULL) == 0 &&
        ofr_file_read(path, 1 << 20, &data, &size, NULL) == 0)
        root = json_loadb(data, size, 0, NULL);
    free(data);
    free(path);
    return root;
}

static double median_of(const json_t *measured, const char *name)
{
    return json_number_value(json_object_get(json_object_get(measured, name), "median"));
}

static void print_bench(const json_t *bench)
{
    const char *date = json_string_value(json_object_get(bench, "date"));
    const char *plan = json_string_value(json_object_get(bench, "plan"));
    if (date && plan)
        printf("\n'supervisor bench' measured: prefill %.1f tok/s, decode %.1f tok/s (%s, %s)\n",
               median_of(bench, "prefill_tok_s"), median_of(bench, "decode_tok_s"), date, plan);
}

/* ---- --why ---- */

static void print_points(const ofr_planner_input *input, bool decode)
{
    /* Devices may have been measured at different points: one line for each. */
    for (uint32_t i = 0; i < input->n_devices; i++) {
        const ofr_planner_device *d = &input->devices[i];
        const ofr_planner_point *points = decode ? d->decode : d->prefill;
        uint32_t n = decode ? d->n_decode : d->n_prefill;
        if (n == 0)
            continue;
        printf("  %-14s", d->name);
        for (uint32_t k = 0; k < n; k++)
            printf("%s%u: %.4g ms", k ? ", " : "", points[k].tokens, points[k].ms);
        printf("\n");
    }
}

static void print_devices(const ofr_planner_figures *f)
{
    const ofr_planner_input *input = &f->input;
    printf("\nDevices\n");
    for (uint32_t i = 0; i < input->n_devices; i++) {
        const ofr_planner_device *d = &input->devices[i];
        printf("  %-14s%s", d->name, d->description);
        if (d->memory_bytes)
            printf(", %.1f GB of its own", (double)d->memory_bytes / 1e9);
        if (d->failure[0])
            printf("; not used: %s", d->failure);
        else if (d->slowdown > 1)
            printf("; counted as %.1f times slower: %s", d->slowdown, d->condition);
        printf("\n");
    }
}

static void print_figures(const ofr_planner_figures *f)
{
    const ofr_planner_input *input = &f->input;
    if (f->measured)
        printf("\nMeasured %s, in %.1f s, %s\n", f->date, f->seconds, f->circumstances);
    else
        printf("\nPublished figures, not measured, for %s\n", input->model.name);
    printf(" A prompt of so many tokens, to its last token's logits\n");
    print_points(input, false);
    printf(" One token more, after so many\n");
    print_points(input, true);
}

static void print_candidate(const ofr_planner_decision *d, const ofr_planner_candidate *c)
{
    char text[256];
    if (c->prefill == c->decode)
        snprintf(text, sizeof text, "%s", d->routes[c->prefill].text);
    else
        snprintf(text, sizeof text, "%s, then %s", d->routes[c->prefill].text,
                 d->routes[c->decode].text);
    printf("  %8u  %-32s %12.1f %12.2f %10.3f  %s%s%s\n", c->prompt_tokens, text, c->first_token_ms,
           c->per_token_ms, c->total_ms / 1e3, c->chosen ? "chosen" : "",
           c->chosen && c->best_single ? ", " : "", c->best_single ? "best single device" : "");
}

/* The best of each length, the chosen one and the best single device. */
static void print_candidates(const ofr_planner_decision *d)
{
    printf("\nPredicted, with an answer of %u tokens\n", d->answer_tokens);
    printf("  %8s  %-32s %12s %12s %10s\n", "prompt", "reads prompts, then writes", "first token",
           "a token", "in all");
    printf("  %8s  %-32s %12s %12s %10s\n", "tokens", "", "ms", "ms", "s");
    uint32_t rank = 0;
    for (size_t i = 0; i < d->n_candidates; i++) {
        const ofr_planner_candidate *c = &d->candidates[i];
        rank = i && d->candidates[i - 1].prompt_tokens == c->prompt_tokens ? rank + 1 : 0;
        if (rank < SHOWN || c->chosen || c->best_single)
            print_candidate(d, c);
    }
}

static void print_refusals(const ofr_planner_decision *d)
{
    if (d->n_refusals)
        printf("\nRefused\n");
    for (uint32_t i = 0; i < d->n_refusals; i++)
        printf("  %-14s%s\n", d->refusals[i].device, d->refusals[i].reason);
}

static void print_plan(const struct plan_options *o, const ofr_planner_figures *f,
                       const ofr_planner_decision *decision, const char *plan, const char *reason)
{
    printf("plan: %s\n", plan);
    if (!o->why)
        return;
    printf("reason: %s\n", reason);
    print_devices(f);
    if (!decision)
        return;
    print_figures(f);
    print_candidates(decision);
    print_refusals(decision);
}

/* ---- --json ---- */

static json_t *make_report(const ofr_planner_figures *f, const ofr_planner_decision *decision,
                           const char *plan, const char *reason)
{
    json_t *root = decision ? ofr_planner_decision_to_json(decision)
                            : json_pack("{s:s, s:s}", "plan", plan, "reason", reason);
    json_t *present = json_array();
    for (uint32_t i = 0; i < f->input.n_devices; i++)
        json_array_append_new(present, json_string(f->input.devices[i].name));
    json_object_set_new(root, "devices_present", present);
    json_object_set_new(root, "figures", ofr_planner_figures_to_json(f));
    return root;
}

/* ---- the three cases ---- */

/* A machine that is described in a file. */
static int plan_for_profile(const struct plan_options *o, ofr_error *err)
{
    void *data = NULL;
    size_t size = 0;
    json_error_t at;
    int r = ofr_file_read(o->profile, PROFILE_MAX, &data, &size, err);
    if (r < 0)
        return r;
    json_t *root = json_loadb(data, size, JSON_REJECT_DUPLICATES, &at);
    free(data);
    if (!root)
        return ofr_fail(err, OFR_EFORMAT, "%s: line %d: %s", o->profile, at.line, at.text);
    ofr_planner_figures *f = calloc(1, sizeof *f);
    ofr_planner_decision *decision = NULL;
    r = f ? ofr_planner_figures_parse(root, f, err) : ofr_fail(err, OFR_ENOMEM, "no memory");
    if (r == 0)
        r = ofr_planner_decide(&f->input, &decision, err);
    if (r < 0) {
        ofr_error_prefix(err, r, "%s", o->profile);
    } else if (o->common.json) {
        json_t *report = make_report(f, decision, decision->plan_text, decision->reason);
        json_object_set(report, "profile", root);
        r = ofr_report_print(report);
    } else {
        printf("machine: %s\n", f->title);
        print_plan(o, f, decision, decision->plan_text, decision->reason);
    }
    ofr_planner_decision_free(decision);
    free(f);
    json_decref(root);
    return r;
}

/* What was asked for with --plan: the executive says what becomes of it. */
static int plan_as_asked(const struct plan_options *o, ofr_engine_session *session, ofr_error *err)
{
    int r = ofr_engine_session_connect(session, &o->common, err);
    if (r < 0)
        return r;
    char key[OFR_SHA256_HEX_SIZE];
    r = ofr_plan_key(NULL, ofr_package_fingerprint(session->package), (uint32_t)o->common.threads,
                     key, err);
    if (r < 0)
        return r;
    json_t *bench = last_bench(session);
    if (o->common.json) {
        r = ofr_report_print(json_pack("{s:s, s:s, s:s, s:s, s:O?}", "key", key, "plan",
                                       session->info.plan, "reason", "as asked for", "device",
                                       session->info.device, "measured", bench));
    } else {
        printf("plan: %s\n", session->info.plan);
        if (o->why) {
            printf("reason: asked for with '%s'; without it the plan is chosen\ndevice: %s\n",
                   o->common.plan, session->info.device);
            print_bench(bench);
        }
    }
    json_decref(bench);
    return r;
}

static int plan_for_machine(const struct plan_options *o, const ofr_engine_session *session,
                            ofr_error *err)
{
    ofr_plan_auto *plan = calloc(1, sizeof *plan);
    if (!plan)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a plan");
    int r = ofr_plan_auto_open(session, &o->common, o->measure ? (double)o->seconds : 0, plan, err);
    if (r == 0) {
        json_t *bench = last_bench(session);
        if (o->common.json) {
            json_t *root = make_report(&plan->figures, plan->decision, plan->plan, plan->reason);
            json_object_set_new(root, "path", json_string(plan->path));
            json_object_set_new(root, "measured_now", json_boolean(plan->measured_now));
            json_object_set(root, "measured", bench ? bench : json_null());
            r = ofr_report_print(root);
        } else {
            print_plan(o, &plan->figures, plan->decision, plan->plan, plan->reason);
            if (o->why && plan->path[0])
                printf("\nKept in %s;\n'supervisor plan --measure' measures again, and so does a "
                       "new driver or package\n",
                       plan->path);
            if (o->why)
                print_bench(bench);
        }
        json_decref(bench);
    }
    ofr_plan_auto_done(plan);
    free(plan);
    return r;
}

int ofr_command_plan(int argc, char **argv)
{
    struct plan_options o = {.seconds = 4 * OFR_PLAN_SECONDS};
    const ofr_option table[] = {
        {"why", OFR_OPTION_FLAG, &o.why, 0, 0, NULL, "say why"},
        {"measure", OFR_OPTION_FLAG, &o.measure, 0, 0, NULL, "measure the devices again"},
        {"seconds", OFR_OPTION_INT, &o.seconds, 1, 3600, "N",
         "with --measure: about as long, at most, for all devices (default 80)"},
        {"profile", OFR_OPTION_STRING, &o.profile, 0, 0, "F",
         "decide for the machine that this file describes"},
        OFR_OPTIONS_ENGINE(o.common),
        OFR_OPTIONS_CONTEXT(o.common),
        OFR_OPTIONS_JSON(o.common),
        OFR_OPTIONS_HELP(o.common),
    };
    int exit_code;
    if (!ofr_command_parse(&help, table, sizeof table / sizeof table[0], argc, argv, &o.common,
                           &exit_code))
        return exit_code;
    if (o.profile && o.measure)
        return ofr_command_usage(help.name, "--profile and --measure exclude each other");
    ofr_error err = {0};
    ofr_engine_session session = {0};
    bool asked = o.common.plan && strcmp(o.common.plan, "auto") != 0 && !o.measure;
    int r = o.profile ? plan_for_profile(&o, &err)
                      : ofr_engine_session_open(&session, &o.common, false, false, &err);
    if (r == 0 && !o.profile)
        r = asked ? plan_as_asked(&o, &session, &err) : plan_for_machine(&o, &session, &err);
    ofr_engine_session_done(&session);
    return r < 0 ? ofr_command_fail(help.name, &err) : ofr_command_finish(help.name);
}
