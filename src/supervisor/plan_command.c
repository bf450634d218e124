/* plan: which device does what, and why. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "supervisor/commands.h"
#include "supervisor/engine_session.h"
#include "supervisor/report.h"
#include "supervisor/state_directory.h"

static const ofr_command_help help = {
    .name = "plan",
    .usage = "supervisor plan [--why] [options]",
    .text = "Prints which device runs which phase. With --why, the reason: the devices present and "
            "what\n'supervisor bench' measured last.\n",
};

/* The last measurement of this package, or NULL. */
static json_t *last_measurement(const ofr_engine_session *session)
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

static void print_reason(const ofr_engine_session *session, const json_t *measured)
{
    printf("device: %s\n", session->info.device);
    printf("reason: the CPU is the only device that this version can use\n");
    const char *date = json_string_value(json_object_get(measured, "date"));
    const char *device = json_string_value(json_object_get(measured, "device"));
    if (date && device)
        printf("measured: prefill %.1f tok/s, decode %.1f tok/s (%s, on %s)\n",
               median_of(measured, "prefill_tok_s"), median_of(measured, "decode_tok_s"), date,
               device);
    else
        printf("measured: nothing yet; 'supervisor bench' measures this package\n");
}

int ofr_command_plan(int argc, char **argv)
{
    ofr_common_options common = {0};
    bool why = false;
    const ofr_option table[] = {
        {"why", OFR_OPTION_FLAG, &why, 0, 0, NULL, "say why"},
        OFR_OPTIONS_ENGINE(common),
        OFR_OPTIONS_JSON(common),
        OFR_OPTIONS_HELP(common),
    };
    int exit_code;
    if (!ofr_command_parse(&help, table, sizeof table / sizeof table[0], argc, argv, &common,
                           &exit_code))
        return exit_code;
    ofr_error err = {0};
    ofr_engine_session session = {0};
    int r = ofr_engine_session_open(&session, &common, false, false, &err);
    if (r == 0)
        r = ofr_engine_session_connect(&session, &common, &err);
    if (r == 0) {
        json_t *measured = last_measurement(&session);
        if (common.json) {
            r = ofr_report_print(json_pack("{s:s, s:s, s:[s], s:O?}", "plan", session.info.plan,
                                           "device", session.info.device, "devices_present", "cpu",
                                           "measured", measured));
        } else {
            printf("plan: %s\n", session.info.plan);
            if (why)
                print_reason(&session, measured);
        }
        json_decref(measured);
    }
    ofr_engine_session_done(&session);
    return r < 0 ? ofr_command_fail(help.name, &err) : ofr_command_finish(help.name);
}
