/* Command lines: long options from a table, the same in all three programs.
 *
 * "--model_id X", "--model-id X" and "--model-id=X" are one option; "--" ends the options; anything
 * else is positional. getopt_long is not used because it keeps global state, knows only one
 * spelling and reports errors on stderr by itself. */
#ifndef OFR_BASE_OPTIONS_H
#define OFR_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

enum ofr_option_kind {
    OFR_OPTION_FLAG,     /* bool *: set to true */
    OFR_OPTION_STRING,   /* const char **: points into argv */
    OFR_OPTION_OPTIONAL, /* const char **: as STRING, but the value may be missing: then "" */
    OFR_OPTION_INT,      /* int64_t *, checked against minimum and maximum */
    OFR_OPTION_DOUBLE,   /* double *, checked against minimum and maximum; must be finite */
};

typedef struct ofr_option {
    const char *name; /* with underscores, without dashes: "max_tokens" */
    enum ofr_option_kind kind;
    void *target;
    double minimum, maximum; /* INT and DOUBLE; both 0: unchecked */
    const char *argument;    /* for the help: "N", "DIR"; NULL for flags */
    const char *help;        /* one line */
} ofr_option;

/* Parses argv[1 .. argc). Positional arguments are moved to the front of argv (from argv[1]) in
 * their order; *ret_positional is their count. Errors (unknown option, missing or bad value) name
 * the option, suggest the nearest known one, and have code OFR_EINVAL: the program exits with 2. */
int ofr_options_parse(const ofr_option *table, size_t count, int argc, char **argv,
                      int *ret_positional, ofr_error *err);

/* The option part of a --help text: one aligned line per option. */
void ofr_options_print(const ofr_option *table, size_t count, FILE *out);

#endif
