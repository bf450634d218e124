/* What all commands share: common options, help, and how errors reach the user.
 *
 * Commands are functions from argv to an exit code; they, and only they, write to stdout and
 * stderr. */
#ifndef OFR_SUPERVISOR_OPTIONS_COMMON_H
#define OFR_SUPERVISOR_OPTIONS_COMMON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/options.h"
#include "base/status.h"
#include "engine/sampler.h"

typedef struct ofr_common_options {
    const char *model; /* NULL: OFR_DEFAULT_MODEL */
    const char *plan;  /* --plan, or else $OFFERING_PLAN; NULL: "auto" */
    const char *instance;
    int64_t threads; /* 0: the executive's default */
    int64_t context; /* likewise */
    bool json;
    bool help;
    bool version;
} ofr_common_options;

#define OFR_DEFAULT_MODEL "./offering_int4_binary"

/* Rows of an option table, for an ofr_common_options `c`. */
#define OFR_OPTIONS_HELP(c)                                                                        \
    {"help", OFR_OPTION_FLAG, &(c).help, 0, 0, NULL, "print this text"},                           \
    {                                                                                              \
        "version", OFR_OPTION_FLAG, &(c).version, 0, 0, NULL, "print the version"                  \
    }
#define OFR_OPTIONS_MODEL(c)                                                                       \
    {                                                                                              \
        "model", OFR_OPTION_STRING, &(c).model, 0, 0, "DIR",                                       \
            "package (default " OFR_DEFAULT_MODEL ")"                                              \
    }
#define OFR_OPTIONS_JSON(c)                                                                        \
    {                                                                                              \
        "json", OFR_OPTION_FLAG, &(c).json, 0, 0, NULL, "one JSON object on stdout"                \
    }
/* For the commands that talk to an executive. */
#define OFR_OPTIONS_ENGINE(c)                                                                      \
    OFR_OPTIONS_MODEL(c), {"plan",                                                                 \
                           OFR_OPTION_STRING,                                                      \
                           &(c).plan,                                                              \
                           0,                                                                      \
                           0,                                                                      \
                           "PLAN",                                                                 \
                           "devices per phase and layers (default auto)"},                         \
        {"threads",                                                                                \
         OFR_OPTION_INT,                                                                           \
         &(c).threads,                                                                             \
         1,                                                                                        \
         1024,                                                                                     \
         "N",                                                                                      \
         "CPU threads, of an executive that this command starts"},                                 \
    {                                                                                              \
        "instance", OFR_OPTION_STRING, &(c).instance, 0, 0, "NAME",                                \
            "executive to use (default: one per package)"                                          \
    }
#define OFR_OPTIONS_CONTEXT(c)                                                                     \
    {                                                                                              \
        "context", OFR_OPTION_INT, &(c).context, 16, 1 << 24, "N",                                 \
            "tokens a sequence may have, of an executive that this command starts"                 \
    }

/* Sampling options of chat and run. */
typedef struct ofr_sampling_options {
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k, seed; /* seed -1: a different one each time */
    int64_t max_tokens;  /* 0: until the model stops or the context is full */
} ofr_sampling_options;
#define OFR_OPTIONS_SAMPLING(s, default_temperature, default_top_p)                                \
    {"max_tokens",                                                                                 \
     OFR_OPTION_INT,                                                                               \
     &(s).max_tokens,                                                                              \
     1,                                                                                            \
     1 << 24,                                                                                      \
     "N",                                                                                          \
     "most tokens of an answer (default: until the model stops)"},                                 \
        {"temperature",                                                                            \
         OFR_OPTION_DOUBLE,                                                                        \
         &(s).temperature,                                                                         \
         0,                                                                                        \
         100,                                                                                      \
         "T",                                                                                      \
         "0: greedy, the likeliest token (default " default_temperature ")"},                      \
        {"top_k",                                                                                  \
         OFR_OPTION_INT,                                                                           \
         &(s).top_k,                                                                               \
         0,                                                                                        \
         1 << 24,                                                                                  \
         "K",                                                                                      \
         "only the K likeliest tokens (default 0: off)"},                                          \
        {"top_p",                                                                                  \
         OFR_OPTION_DOUBLE,                                                                        \
         &(s).top_p,                                                                               \
         1e-6,                                                                                     \
         1,                                                                                        \
         "P",                                                                                      \
         "only the likeliest tokens that make up P (default " default_top_p ")"},                  \
        {"min_p",                                                                                  \
         OFR_OPTION_DOUBLE,                                                                        \
         &(s).min_p,                                                                               \
         0,                                                                                        \
         0.999999,                                                                                 \
         "P",                                                                                      \
         "only tokens at least P times as likely as the likeliest (default 0: off)"},              \
        {"repetition_penalty",                                                                     \
         OFR_OPTION_DOUBLE,                                                                        \
         &(s).repetition_penalty,                                                                  \
         0.01,                                                                                     \
         100,                                                                                      \
         "R",                                                                                      \
         "makes seen tokens less likely (default 1: off)"},                                        \
    {                                                                                              \
        "seed", OFR_OPTION_INT, &(s).seed, 0, 9.2e18, "S",                                         \
            "same seed, same answer (default: random)"                                             \
    }
/* A random seed where none was given. Also says so to nobody: reports carry it. */
ofr_sampling ofr_sampling_from_options(const ofr_sampling_options *options);

/* A command's --help text. */
typedef struct ofr_command_help {
    const char *name;  /* "run" */
    const char *usage; /* "supervisor run --prompt TEXT [options]" */
    const char *text;  /* what it does; lines */
} ofr_command_help;

/* Parses the command's options (argv[0] is the command). True: go on. False: *ret_exit is the exit
 * code, after --help, --version or an error, which were printed. Positional arguments are errors.
 */
bool ofr_command_parse(const ofr_command_help *help, const ofr_option *table, size_t count,
                       int argc, char **argv, ofr_common_options *common, int *ret_exit);

/* "supervisor run: <text>" on stderr; OFR_EXIT_FAILURE. */
int ofr_command_fail(const char *command, const ofr_error *err);
/* Likewise for a wrong command line, with a pointer to --help; OFR_EXIT_USAGE. */
int ofr_command_usage(const char *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Flushes stdout; a write that failed (full disk, closed pipe) is a failure like any other. */
int ofr_command_finish(const char *command);
/* For notify callbacks: "supervisor: <line>" on stderr. */
void ofr_command_notify(void *user, const char *line);

#endif
