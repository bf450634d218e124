/* Command lines: long options from a table. */
#include "base/options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool same_name(const char *name, const char *written, size_t size)
{
    size_t i = 0;
    for (; i < size && name[i]; i++) {
        char c = written[i] == '-' ? '_' : written[i];
        if (c != name[i])
            return false;
    }
    return i == size && !name[i];
}

/* Levenshtein distance, bounded by the short names of options. */
static unsigned edit_distance(const char *a, const char *b, size_t b_size)
{
    enum { LONGEST = 64 };
    size_t a_size = strlen(a);
    if (a_size >= LONGEST || b_size >= LONGEST)
        return LONGEST;
    unsigned row[LONGEST];
    for (size_t j = 0; j <= b_size; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= a_size; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= b_size; j++) {
            char c = b[j - 1] == '-' ? '_' : b[j - 1];
            unsigned best = diagonal + (a[i - 1] != c);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[b_size];
}

static int fail_unknown(const ofr_option *table, size_t count, const char *name, size_t size,
                        ofr_error *err)
{
    const char *nearest = NULL;
    unsigned best = 4;
    for (size_t i = 0; i < count; i++) {
        unsigned distance = edit_distance(table[i].name, name, size);
        if (distance < best) {
            best = distance;
            nearest = table[i].name;
        }
    }
    if (nearest)
        return ofr_fail(err, OFR_EINVAL, "unknown option '--%.*s'; did you mean '--%s'?", (int)size,
                        name, nearest);
    return ofr_fail(err, OFR_EINVAL, "unknown option '--%.*s'; --help lists the options", (int)size,
                    name);
}

static bool out_of_range(const ofr_option *option, double value)
{
    if (option->minimum == 0 && option->maximum == 0)
        return false;
    return value < option->minimum || value > option->maximum;
}

static int store_number(const ofr_option *option, const char *value, ofr_error *err)
{
    char *end = NULL;
    errno = 0;
    double number;
    int64_t integer = 0;
    if (option->kind == OFR_OPTION_INT) {
        integer = strtoll(value, &end, 10);
        number = (double)integer;
    } else {
        number = strtod(value, &end);
    }
    if (errno || end == value || *end || !isfinite(number))
        return ofr_fail(err, OFR_EINVAL, "option '--%s' takes %s, not '%s'", option->name,
                        option->kind == OFR_OPTION_INT ? "a whole number" : "a number", value);
    if (out_of_range(option, number))
        return ofr_fail(err, OFR_EINVAL, "option '--%s' must be from %g to %g, not %s",
                        option->name, option->minimum, option->maximum, value);
    if (option->kind == OFR_OPTION_INT)
        *(int64_t *)option->target = integer;
    else
        *(double *)option->target = number;
    return 0;
}

static int store(const ofr_option *option, const char *value, ofr_error *err)
{
    switch (option->kind) {
    case OFR_OPTION_FLAG:
        *(bool *)option->target = true;
        return 0;
    case OFR_OPTION_STRING:
    case OFR_OPTION_OPTIONAL:
        *(const char **)option->target = value;
        return 0;
    case OFR_OPTION_INT:
    case OFR_OPTION_DOUBLE:
        return store_number(option, value, err);
    }
    return ofr_fail(err, OFR_EINTERNAL, "option '--%s' has no kind", option->name);
}

int ofr_options_parse(const ofr_option *table, size_t count, int argc, char **argv,
                      int *ret_positional, ofr_error *err)
{
    int positional = 0;
    int i = 1;
    for (; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--") == 0) {
            i++;
            break;
        }
        if (strncmp(word, "--", 2) != 0) {
            if (word[0] == '-' && word[1])
                return ofr_fail(err, OFR_EINVAL, "unknown option '%s'; options begin with '--'",
                                word);
            argv[1 + positional++] = argv[i];
            continue;
        }
        const char *name = word + 2;
        const char *equals = strchr(name, '=');
        size_t size = equals ? (size_t)(equals - name) : strlen(name);
        const ofr_option *option = NULL;
        for (size_t k = 0; k < count && !option; k++)
            if (same_name(table[k].name, name, size))
                option = &table[k];
        if (!option)
            return fail_unknown(table, count, name, size, err);
        const char *value = equals ? equals + 1 : NULL;
        if (option->kind == OFR_OPTION_FLAG) {
            if (value)
                return ofr_fail(err, OFR_EINVAL, "option '--%s' takes no value", option->name);
        } else if (!value && option->kind == OFR_OPTION_OPTIONAL) {
            value = i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0 ? argv[++i] : "";
        } else if (!value) {
            if (i + 1 >= argc)
                return ofr_fail(err, OFR_EINVAL, "option '--%s' needs a value (%s)", option->name,
                                option->argument);
            value = argv[++i];
        }
        int r = store(option, value, err);
        if (r < 0)
            return r;
    }
    for (; i < argc; i++)
        argv[1 + positional++] = argv[i];
    *ret_positional = positional;
    return 0;
}

void ofr_options_print(const ofr_option *table, size_t count, FILE *out)
{
    int width = 0;
    for (size_t i = 0; i < count; i++) {
        int w = (int)(strlen(table[i].name) + (table[i].argument ? strlen(table[i].argument) : 0));
        if (w > width)
            width = w;
    }
    for (size_t i = 0; i < count; i++) {
        const char *argument = table[i].argument ? table[i].argument : "";
        int used = (int)(strlen(table[i].name) + strlen(argument));
        fprintf(out, "  --%s %s%*s  %s\n", table[i].name, argument, width - used, "",
                table[i].help);
    }
}
