/* Command lines: both spellings, values, ranges, positionals, errors that help. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/options.h"

struct values {
    bool json;
    const char *model;
    int64_t max_tokens;
    double temperature;
    const char *text;
};

static int parse(struct values *v, char **argv, int *ret_positional, ofr_error *err)
{
    const ofr_option table[] = {
        {"json", OFR_OPTION_FLAG, &v->json, 0, 0, NULL, "one JSON object on stdout"},
        {"model_dir", OFR_OPTION_STRING, &v->model, 0, 0, "DIR", "package"},
        {"max_tokens", OFR_OPTION_INT, &v->max_tokens, 1, 1000, "N", "tokens"},
        {"temperature", OFR_OPTION_DOUBLE, &v->temperature, 0, 10, "T", "temperature"},
        {"text", OFR_OPTION_OPTIONAL, &v->text, 0, 0, "[FILE]", "text, or the built-in one"},
    };
    int argc = 0;
    while (argv[argc])
        argc++;
    return ofr_options_parse(table, sizeof table / sizeof table[0], argc, argv, ret_positional,
                             err);
}

static void both_spellings_and_both_forms(void **state)
{
    (void)state;
    struct values v = {0};
    char *argv[] = {"p",    "run",    "--model-dir",       "a",  "--max_tokens=7",
                    "rest", "--json", "--temperature=0.5", "--", "--json",
                    NULL};
    int positional = 0;
    ofr_error err;
    assert_int_equal(parse(&v, argv, &positional, &err), 0);
    assert_true(v.json);
    assert_string_equal(v.model, "a");
    assert_int_equal(v.max_tokens, 7);
    assert_true(v.temperature == 0.5);
    assert_int_equal(positional, 3);
    assert_string_equal(argv[1], "run");
    assert_string_equal(argv[2], "rest");
    assert_string_equal(argv[3], "--json");
}

static void a_value_may_be_missing(void **state)
{
    (void)state;
    static char *lines[][4] = {{"p", "--text", NULL},
                               {"p", "--text", "--json", NULL},
                               {"p", "--text", "file", NULL},
                               {"p", "--text=--file", NULL}};
    static const char *const expected[] = {"", "", "file", "--file"};
    for (size_t i = 0; i < 4; i++) {
        struct values v = {0};
        int positional = 0;
        assert_int_equal(parse(&v, lines[i], &positional, NULL), 0);
        assert_string_equal(v.text, expected[i]);
        assert_int_equal(positional, 0);
        assert_int_equal(v.json, i == 1);
    }
}

static void refuses(char **argv, const char *part)
{
    struct values v = {0};
    int positional = 0;
    ofr_error err = {0};
    assert_int_equal(parse(&v, argv, &positional, &err), OFR_EINVAL);
    if (!strstr(err.text, part))
        fail_msg("'%s' does not contain '%s'", err.text, part);
}

static void errors_name_the_option(void **state)
{
    (void)state;
    refuses((char *[]){"p", "--max-token", "3", NULL}, "did you mean '--max_tokens'");
    refuses((char *[]){"p", "--quite-other-thing", NULL}, "unknown option '--quite-other-thing'");
    refuses((char *[]){"p", "--max_tokens", "x", NULL}, "takes a whole number, not 'x'");
    refuses((char *[]){"p", "--max_tokens", "", NULL}, "takes a whole number");
    refuses((char *[]){"p", "--max_tokens", "1001", NULL}, "must be from 1 to 1000");
    refuses((char *[]){"p", "--temperature", "nan", NULL}, "takes a number");
    refuses((char *[]){"p", "--model_dir", NULL}, "needs a value (DIR)");
    refuses((char *[]){"p", "--json=1", NULL}, "takes no value");
    refuses((char *[]){"p", "-j", NULL}, "begin with '--'");
    refuses((char *[]){"p", "--=3", NULL}, "unknown option");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_spellings_and_both_forms),
        cmocka_unit_test(a_value_may_be_missing),
        cmocka_unit_test(errors_name_the_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
