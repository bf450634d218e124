/* Sets of numbers, by the comparison of digits. */
#include "grammar/number.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ofr_decimal_from_json(const json_t *number, ofr_decimal *ret_decimal)
{
    char text[64];
    if (json_is_integer(number)) {
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(number));
    } else {
        for (int digits = 1; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*e", digits - 1, json_real_value(number));
            if (strtod(text, NULL) == json_real_value(number))
                break;
        }
    }
    /* Digits and where the point stands among them. */
    char digits[64];
    int n = 0, point = -1, exponent = 0;
    bool negative = text[0] == '-';
    for (const char *c = text + negative; *c; c++) {
        if (*c == '.') {
            point = n;
        } else if (*c == 'e') {
            exponent = atoi(c + 1);
            break;
        } else {
            digits[n++] = *c;
        }
    }
    point = (point < 0 ? n : point) + exponent;
    while (n > 0 && digits[n - 1] == '0' && n > point)
        n--;
    ofr_decimal d = {.negative = negative};
    if (point > OFR_DECIMAL_DIGITS_MAX || n - point > OFR_DECIMAL_DIGITS_MAX)
        return OFR_ELIMIT;
    int w = 0, f = 0;
    for (int i = 0; i < point; i++) {
        char c = i < n ? digits[i] : '0';
        if (w > 0 || c != '0')
            d.whole[w++] = c;
    }
    if (w == 0)
        d.whole[w++] = '0';
    for (int i = point; i < n; i++)
        d.fraction[f++] = i < 0 ? '0' : digits[i];
    while (f > 0 && d.fraction[f - 1] == '0')
        d.fraction[--f] = '\0';
    if (f == 0 && strcmp(d.whole, "0") == 0)
        d.negative = false;
    *ret_decimal = d;
    return 0;
}

static int compare_magnitudes(const ofr_decimal *a, const ofr_decimal *b)
{
    size_t n = strlen(a->whole), m = strlen(b->whole);
    if (n != m)
        return n < m ? -1 : 1;
    int order = strcmp(a->whole, b->whole);
    return order ? order : strcmp(a->fraction, b->fraction);
}

int ofr_decimal_compare(const ofr_decimal *a, const ofr_decimal *b)
{
    if (a->negative != b->negative)
        return a->negative ? -1 : 1;
    return a->negative ? compare_magnitudes(b, a) : compare_magnitudes(a, b);
}

/* An expression under construction; OFR_DECIMAL_DIGITS_MAX bounds its size. */
typedef struct expression {
    char text[16384];
    size_t size;
} expression;

static void put(expression *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(expression *e, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(e->text + e->size, sizeof e->text - e->size, format, arguments);
    va_end(arguments);
    e->size += n > 0 && (size_t)n < sizeof e->text - e->size ? (size_t)n : 0;
}

#define ANY_FRACTION "(\\.[0-9]+)?"

/* Alternatives, each followed by '|': whole parts greater or less than `digits`, any fraction. */
static void put_greater(expression *e, const char *digits)
{
    int n = (int)strlen(digits);
    put(e, "[1-9][0-9]{%d,}" ANY_FRACTION "|", n);
    for (int i = 0; i < n; i++)
        if (digits[i] < '9')
            put(e, "%.*s[%c-9][0-9]{%d}" ANY_FRACTION "|", i, digits, digits[i] + 1, n - i - 1);
}

static void put_less(expression *e, const char *digits)
{
    int n = (int)strlen(digits);
    if (n > 1)
        put(e, "0" ANY_FRACTION "|[1-9][0-9]{0,%d}" ANY_FRACTION "|", n - 2);
    for (int i = 0; i < n; i++) {
        char least = i == 0 && n > 1 ? '1' : '0';
        if (digits[i] > least)
            put(e, "%.*s[%c-%c][0-9]{%d}" ANY_FRACTION "|", i, digits, least, digits[i] - 1,
                n - i - 1);
    }
}

/* Magnitudes at least `d`; the whole parts that equal d's come last. */
static void put_at_least(expression *e, const ofr_decimal *d, bool strict)
{
    const char *f = d->fraction;
    put_greater(e, d->whole);
    if (!f[0]) {
        put(e, strict ? "%s\\.[0-9]*[1-9][0-9]*" : "%s" ANY_FRACTION, d->whole);
        return;
    }
    for (int i = 0; f[i]; i++)
        if (f[i] < '9')
            put(e, "%s\\.%.*s[%c-9][0-9]*|", d->whole, i, f, f[i] + 1);
    put(e, strict ? "%s\\.%s[0-9]*[1-9][0-9]*" : "%s\\.%s[0-9]*", d->whole, f);
}

/* Nothing at all for magnitudes below zero. */
static void put_at_most(expression *e, const ofr_decimal *d, bool strict)
{
    const char *f = d->fraction;
    put_less(e, d->whole);
    if (f[0])
        put(e, "%s|", d->whole);
    for (int i = 0; f[i]; i++) {
        if (i > 0)
            put(e, "%s\\.%.*s|", d->whole, i, f);
        if (f[i] > '0')
            put(e, "%s\\.%.*s[0-%c][0-9]*|", d->whole, i, f, f[i] - 1);
    }
    if (strict)
        put(e, "[]"); /* matches nothing: closes the list of alternatives */
    else
        put(e, f[0] ? "%s\\.%s0*" : "%s(\\.0+)?%s", d->whole, f);
}

static int compile(const expression *e, ofr_dfa **ret_dfa, ofr_error *err)
{
    return ofr_dfa_from_regex(e->text, e->size, ret_dfa, err);
}

/* Values at least `d` where `up`, at most `d` otherwise. */
static int compile_bound(const ofr_decimal *d, bool up, bool strict, ofr_dfa **ret_dfa,
                         ofr_error *err)
{
    expression *e = calloc(1, sizeof *e);
    if (!e)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a range of numbers");
    /* On the side of zero that the bound is not on, all or none. */
    bool zero = !d->negative && strcmp(d->whole, "0") == 0 && !d->fraction[0];
    put(e, "^(");
    if (up != d->negative) { /* |x| >= |d| on d's side */
        put(e, d->negative ? "-(" : "(");
        put_at_least(e, d, strict);
        put(e, ")");
    } else {
        if (up)
            put(e, "[0-9.]+|-("); /* d < 0: every number above zero, and small negative ones */
        else if (zero && strict)
            put(e, "-[0-9.]*[1-9][0-9.]*|("); /* below zero */
        else
            put(e, "-[0-9.]+|(");
        put_at_most(e, d, strict);
        put(e, ")");
    }
    put(e, ")$");
    int r = compile(e, ret_dfa, err);
    free(e);
    return r;
}

int ofr_number_at_least(const ofr_decimal *bound, bool strict, ofr_dfa **ret_dfa, ofr_error *err)
{
    return compile_bound(bound, true, strict, ret_dfa, err);
}

int ofr_number_at_most(const ofr_decimal *bound, bool strict, ofr_dfa **ret_dfa, ofr_error *err)
{
    return compile_bound(bound, false, strict, ret_dfa, err);
}

int ofr_number_texts(bool whole, bool fractional, uint32_t digits, ofr_dfa **ret_dfa,
                     ofr_error *err)
{
    static const char zeros[] = "^-?[0-9]+(\\.0*)?$"; /* whole, however it is spelled */
    char text[128];
    ofr_dfa *other = NULL, *rest = NULL;
    snprintf(text, sizeof text, "^-?(0|[1-9][0-9]{0,%u})(\\.[0-9]{1,%u})%s$",
             digits ? digits - 1 : 0, digits,
             !fractional ? "{0}"
             : whole     ? "?"
                         : "");
    int r = ofr_dfa_from_regex(text, strlen(text), ret_dfa, err);
    if (r < 0 || whole)
        return r;
    r = ofr_dfa_from_regex(zeros, sizeof zeros - 1, &other, err);
    if (r == 0)
        r = ofr_dfa_complement(other, &rest, err);
    ofr_dfa_free(other);
    return r < 0 ? r : ofr_dfa_narrow(ret_dfa, rest, err);
}

int ofr_number_equal(const ofr_decimal *value, ofr_dfa **ret_dfa, ofr_error *err)
{
    expression *e = calloc(1, sizeof *e);
    if (!e)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a range of numbers");
    bool zero = strcmp(value->whole, "0") == 0 && !value->fraction[0];
    put(e, "^%s%s%s%s%s$",
        value->negative ? "-"
        : zero          ? "-?"
                        : "",
        value->whole, value->fraction[0] ? "\\." : "", value->fraction,
        value->fraction[0] ? "0*" : "(\\.0+)?");
    int r = compile(e, ret_dfa, err);
    free(e);
    return r;
}

/* States: 0 start, 1 after the sign, then for each phase (0: before the point; 1 + j: after the
 * point and j digits) the remainders. */
int ofr_number_multiple(const ofr_decimal *divisor, ofr_dfa **ret_dfa, ofr_error *err)
{
    uint32_t places = (uint32_t)strlen(divisor->fraction);
    uint64_t m = 0;
    for (const char *c = divisor->whole; *c && m < OFR_DFA_STATES_MAX; c++)
        m = m * 10 + (uint64_t)(*c - '0');
    for (const char *c = divisor->fraction; *c && m < OFR_DFA_STATES_MAX; c++)
        m = m * 10 + (uint64_t)(*c - '0');
    if (m == 0 || (places + 2) * m + 2 > OFR_DFA_STATES_MAX)
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "'multipleOf' %s.%s is not supported: its digits, times two more than its "
                        "decimal places, must stay below %d",
                        divisor->whole, divisor->fraction, OFR_DFA_STATES_MAX);
    uint32_t n = (uint32_t)m;
    ofr_dfa_builder b = {0};
    ofr_dfa_add_state(&b, false);
    ofr_dfa_add_state(&b, false);
    for (uint32_t phase = 0; phase < places + 2; phase++) {
        /* What the digits still missing multiply the remainder by. */
        uint32_t factor = 1;
        for (uint32_t i = phase ? phase - 1 : 0; i < places; i++)
            factor = (uint32_t)((uint64_t)factor * 10 % n);
        for (uint32_t r = 0; r < n; r++)
            ofr_dfa_add_state(&b, phase != 1 && (uint64_t)r * factor % n == 0);
    }
    for (uint32_t sign = 0; sign < 2; sign++) {
        if (sign == 0)
            ofr_dfa_add_edge(&b, 0, '-', '-', 1);
        for (uint32_t d = 0; d < 10; d++)
            ofr_dfa_add_edge(&b, sign, '0' + d, '0' + d, 2 + d % n);
    }
    for (uint32_t phase = 0; phase < places + 2; phase++)
        for (uint32_t r = 0; r < n; r++) {
            uint32_t state = 2 + phase * n + r;
            if (phase == 0)
                ofr_dfa_add_edge(&b, state, '.', '.', state + n);
            bool last = phase == places + 1; /* no digits left but zeros */
            for (uint32_t d = 0; d < (last ? 1 : 10); d++)
                ofr_dfa_add_edge(&b, state, '0' + d, '0' + d,
                                 last ? state
                                      : 2 + (phase ? phase + 1 : 0) * n +
                                            (uint32_t)(((uint64_t)r * 10 + d) % n));
        }
    return ofr_dfa_finish(&b, ret_dfa, err);
}
