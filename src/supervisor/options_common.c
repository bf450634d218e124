/* What all commands share: parsing, help and errors. */
#include "supervisor/options_common.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"

ofr_sampling ofr_sampling_from_options(const ofr_sampling_options *options)
{
    ofr_sampling sampling = {
        .temperature = (float)options->temperature,
        .top_k = (uint32_t)options->top_k,
        .top_p = (float)options->top_p,
        .min_p = (float)options->min_p,
        .repetition_penalty = (float)options->repetition_penalty,
        .seed = (uint64_t)options->seed,
    };
    if (options->seed < 0) {
        if (getrandom(&sampling.seed, sizeof sampling.seed, 0) != sizeof sampling.seed)
            sampling.seed = ofr_clock_ns();
        sampling.seed &= INT64_MAX; /* so that --seed takes what a report says */
    }
    return sampling;
}

bool ofr_command_parse(const ofr_command_help *help, const ofr_option *table, size_t count,
                       int argc, char **argv, ofr_common_options *common, int *ret_exit)
{
    int positional = 0;
    ofr_error err = {0};
    if (ofr_options_parse(table, count, argc, argv, &positional, &err) < 0) {
        *ret_exit = ofr_command_usage(help->name, "%s", err.text);
        return false;
    }
    if (common->help) {
        printf("usage: %s\n\n%s\n", help->usage, help->text);
        ofr_options_print(table, count, stdout);
        *ret_exit = ofr_command_finish(help->name);
        return false;
    }
    if (common->version) {
        printf("supervisor %s\n", OFR_VERSION);
        *ret_exit = ofr_command_finish(help->name);
        return false;
    }
    if (positional > 0) {
        *ret_exit = ofr_command_usage(help->name, "unexpected argument '%s'", argv[1]);
        return false;
    }
    const char *plan = getenv("OFFERING_PLAN");
    if (!common->plan && plan && plan[0])
        common->plan = plan;
    return true;
}

int ofr_command_fail(const char *command, const ofr_error *err)
{
    fflush(stdout);
    fprintf(stderr, "supervisor %s: %s\n", command,
            err->text[0] ? err->text : ofr_status_message(err->code));
    return OFR_EXIT_FAILURE;
}

int ofr_command_usage(const char *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "supervisor %s: ", command);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n'supervisor %s --help' says how it is used\n", command);
    va_end(arguments);
    return OFR_EXIT_USAGE;
}

int ofr_command_finish(const char *command)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return OFR_EXIT_OK;
    fprintf(stderr, "supervisor %s: stdout: cannot write: %s\n", command, strerror(errno));
    return OFR_EXIT_FAILURE;
}

void ofr_command_notify(void *user, const char *line)
{
    (void)user;
    fflush(stdout);
    fprintf(stderr, "supervisor: %s\n", line);
}
