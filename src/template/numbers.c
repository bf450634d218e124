/* Numbers from text, and rounding, with Python's rules. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

enum { MAX_NUMBER_TEXT = 400 };

/* Copies a number's text without surrounding space and single underscores between digits. */
static bool clean_number(const jinja_string *text, char ret_clean[MAX_NUMBER_TEXT])
{
    const char *p = text->data, *end = p + text->size;
    while (p < end) {
        const char *next = p;
        if (!jinja_is_space(jinja_utf8_next(&next, end))) {
            break;
        }
        p = next;
    }
    while (end > p) {
        const char *previous = jinja_utf8_previous(p, end), *q = previous;
        if (!jinja_is_space(jinja_utf8_next(&q, end))) {
            break;
        }
        end = previous;
    }
    size_t used = 0;
    for (const char *c = p; c < end; c++) {
        if (*c == '_') {
            bool between = c > p && c + 1 < end && c[-1] != '_' && c[1] != '_' &&
                           strchr("0123456789abcdefABCDEFxXoO", c[-1]) && c[-1] &&
                           strchr("0123456789abcdefABCDEF", c[1]) && c[1];
            if (!between) {
                return false;
            }
            continue;
        }
        if (used + 1 >= MAX_NUMBER_TEXT || (unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7F) {
            return false;
        }
        ret_clean[used++] = *c;
    }
    ret_clean[used] = '\0';
    return used > 0;
}

bool jinja_parse_integer(const jinja_string *text, int64_t base, int64_t *ret_integer)
{
    char clean[MAX_NUMBER_TEXT];
    if ((base != 0 && (base < 2 || base > 36)) || !clean_number(text, clean)) {
        return false;
    }
    bool negative = clean[0] == '-';
    const char *digits = clean + (clean[0] == '-' || clean[0] == '+');
    char mark = digits[0] == '0' ? (char)(digits[1] | 0x20) : '\0';
    int prefix = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (prefix && (base == 0 || base == prefix)) {
        base = prefix;
        digits += 2;
    } else if (base == 0) {
        base = 10;
    }
    if (!*digits) {
        return false;
    }
    uint64_t value = 0;
    for (; *digits; digits++) {
        char c = *digits;
        int digit = c >= '0' && c <= '9'                     ? c - '0'
                    : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10
                                                             : 99;
        if (digit >= base || value > (uint64_t)INT64_MAX / (uint64_t)base) {
            return false;
        }
        value = value * (uint64_t)base + (uint64_t)digit;
        if (value > (uint64_t)INT64_MAX) {
            return false;
        }
    }
    *ret_integer = negative ? -(int64_t)value : (int64_t)value;
    return true;
}

bool jinja_parse_float(const jinja_string *text, double *ret_real)
{
    char clean[MAX_NUMBER_TEXT];
    if (!clean_number(text, clean)) {
        return false;
    }
    const char *body = clean + (clean[0] == '-' || clean[0] == '+');
    static const char *const words[] = {"inf", "infinity", "nan"};
    bool is_word = false;
    for (size_t i = 0; i < 3; i++) {
        is_word |= strcasecmp(body, words[i]) == 0;
    }
    if (!is_word && strspn(body, "0123456789.eE+-") != strlen(body)) {
        return false; /* strtod would take hexadecimal too */
    }
    char *end;
    *ret_real = strtod(clean, &end);
    return *end == '\0';
}

static int64_t round_integer(jinja_state *s, int64_t value, int64_t places)
{
    if (places > 18) {
        return 0;
    }
    int64_t unit = 1;
    for (int64_t i = 0; i < places; i++) {
        unit *= 10;
    }
    int64_t rest = value % unit;
    int64_t down = value - rest;
    if (rest < 0) {
        rest += unit;
        if (down < INT64_MIN + unit) {
            jinja_fail(s, OFR_ETEMPLATE, "an integer does not fit 64 bits");
        }
        down -= unit;
    }
    bool odd = down / unit % 2 != 0;
    bool up = rest > unit - rest || (rest == unit - rest && odd);
    int64_t rounded;
    if (__builtin_add_overflow(down, up ? unit : 0, &rounded)) {
        jinja_fail(s, OFR_ETEMPLATE, "an integer does not fit 64 bits");
    }
    return rounded;
}

jinja_value jinja_round(jinja_state *s, jinja_value value, int64_t precision)
{
    if (jinja_is_integral(value)) {
        int64_t integer = jinja_integer(value);
        return jinja_int(precision >= 0
                             ? integer
                             : round_integer(s, integer, precision < -19 ? 19 : -precision));
    }
    if (value.type != JINJA_FLOAT) {
        if (value.type == JINJA_UNDEFINED) {
            jinja_fail_undefined(s, value);
        }
        jinja_fail(s, OFR_ETEMPLATE, "type %s cannot be rounded", jinja_type_name(value));
    }
    double real = value.as.real;
    if (!isfinite(real) || precision > 330) {
        return value;
    }
    if (precision >= 0) {
        /* Correctly rounded from the exact decimal value, ties to even, as Python's round(). */
        char text[1024];
        snprintf(text, sizeof text, "%.*f", (int)precision, real);
        return jinja_float(strtod(text, NULL));
    }
    /* To tens, hundreds, ...: as many significant digits as remain, again exactly rounded. */
    char text[400];
    snprintf(text, sizeof text, "%.0f", trunc(fabs(real)));
    int64_t digits = (int64_t)strlen(text) + precision;
    if (digits > 0) {
        snprintf(text, sizeof text, "%.*e", (int)digits - 1, real);
        return jinja_float(strtod(text, NULL));
    }
    double unit = digits == 0 ? pow(10.0, (double)-precision) : 0.0;
    return jinja_float(copysign(fabs(real) > unit / 2 ? unit : 0.0, real));
}
