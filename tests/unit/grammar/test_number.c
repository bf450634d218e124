/* Numbers as texts: bounds, multiples and equality against arithmetic on every small decimal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "grammar/number.h"

static ofr_decimal decimal(double value)
{
    ofr_decimal d;
    json_t *json = json_real(value);
    assert_int_equal(ofr_decimal_from_json(json, &d), 0);
    json_decref(json);
    return d;
}

static void decimals(void **state)
{
    (void)state;
    static const struct {
        const char *json, *whole, *fraction;
        bool negative;
    } cases[] = {
        {"0", "0", "", false},        {"-0.0", "0", "", false},   {"12", "12", "", false},
        {"-3.50", "3", "5", true},    {"1e3", "1000", "", false}, {"2.5e-3", "0", "0025", false},
        {"1.25e1", "12", "5", false}, {"-100", "100", "", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ofr_decimal d;
        json_t *json = json_loads(cases[i].json, JSON_DECODE_ANY, NULL);
        assert_int_equal(ofr_decimal_from_json(json, &d), 0);
        if (strcmp(d.whole, cases[i].whole) || strcmp(d.fraction, cases[i].fraction) ||
            d.negative != cases[i].negative)
            fail_msg("%s: %s%s.%s", cases[i].json, d.negative ? "-" : "", d.whole, d.fraction);
        json_decref(json);
    }
    ofr_decimal d;
    json_t *huge = json_real(1e300);
    assert_int_equal(ofr_decimal_from_json(huge, &d), OFR_ELIMIT);
    json_decref(huge);
    static const double ascending[] = {-10, -9.5, -0.5, -0.05, 0, 0.05, 0.5, 9, 9.01, 10, 100};
    for (size_t i = 0; i < sizeof ascending / sizeof ascending[0]; i++)
        for (size_t k = 0; k < sizeof ascending / sizeof ascending[0]; k++) {
            ofr_decimal a = decimal(ascending[i]), b = decimal(ascending[k]);
            int got = ofr_decimal_compare(&a, &b), want = (i > k) - (i < k);
            if ((got > 0) - (got < 0) != want)
                fail_msg("%g against %g: %d", ascending[i], ascending[k], got);
        }
}

/* Every decimal from -25 to 25 in steps of 0.05, in its shortest spelling. */
static void sets(void **state)
{
    (void)state;
    static const double bounds[] = {-20, -7.5, -1, 0, 0.05, 3, 12.3};
    ofr_error err;
    for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++) {
        ofr_decimal bound = decimal(bounds[i]);
        ofr_dfa *least, *above, *most, *below, *equal, *multiple = NULL;
        assert_int_equal(ofr_number_at_least(&bound, false, &least, &err), 0);
        assert_int_equal(ofr_number_at_least(&bound, true, &above, &err), 0);
        assert_int_equal(ofr_number_at_most(&bound, false, &most, &err), 0);
        assert_int_equal(ofr_number_at_most(&bound, true, &below, &err), 0);
        assert_int_equal(ofr_number_equal(&bound, &equal, &err), 0);
        if (bounds[i] > 0)
            assert_int_equal(ofr_number_multiple(&bound, &multiple, &err), 0);
        for (int n = -500; n <= 500; n++) {
            char text[32];
            double x = n / 20.0;
            int units = (int)lround(bounds[i] * 20);
            size_t size = (size_t)snprintf(text, sizeof text, "%.10g", x);
#define CHECK(set, want)                                                                           \
    if (ofr_dfa_matches(set, text, size) != (want))                                                \
    fail_msg("%s, " #set " of %g", text, bounds[i])
            CHECK(least, n >= units);
            CHECK(above, n > units);
            CHECK(most, n <= units);
            CHECK(below, n < units);
            CHECK(equal, n == units);
            if (multiple)
                CHECK(multiple, n % units == 0);
#undef CHECK
        }
        assert_true(ofr_dfa_matches(equal, "0", 1) == (bounds[i] == 0));
        ofr_dfa_free(least);
        ofr_dfa_free(above);
        ofr_dfa_free(most);
        ofr_dfa_free(below);
        ofr_dfa_free(equal);
        ofr_dfa_free(multiple);
    }
}

static void spellings(void **state)
{
    (void)state;
    ofr_dfa *whole, *fractional, *any;
    ofr_error err;
    assert_int_equal(ofr_number_texts(true, false, 3, &whole, &err), 0);
    assert_int_equal(ofr_number_texts(false, true, 3, &fractional, &err), 0);
    assert_int_equal(ofr_number_texts(true, true, 3, &any, &err), 0);
    static const struct {
        const char *text;
        bool whole, fractional;
    } cases[] = {{"0", true, false},     {"-12", true, false},  {"123", true, false},
                 {"1234", false, false}, {"1.5", false, true},  {"-0.125", false, true},
                 {"01", false, false},   {"1.", false, false},  {".5", false, false},
                 {"+1", false, false},   {"1e3", false, false}, {"", false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t size = strlen(cases[i].text);
        if (ofr_dfa_matches(whole, cases[i].text, size) != cases[i].whole ||
            ofr_dfa_matches(fractional, cases[i].text, size) != cases[i].fractional ||
            ofr_dfa_matches(any, cases[i].text, size) != (cases[i].whole || cases[i].fractional))
            fail_msg("'%s'", cases[i].text);
    }
    ofr_dfa_free(whole);
    ofr_dfa_free(fractional);
    ofr_dfa_free(any);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decimals),
        cmocka_unit_test(sets),
        cmocka_unit_test(spellings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
