/* Format specifications of str.format(): [[fill]align][sign][#][0][width][,_][.precision][type]. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

typedef struct format_spec {
    uint32_t fill;
    char align, sign, grouping, type; /* 0 where not given */
    bool alternate, zero;             /* zero: '0' before the width, where no alignment was given */
    int64_t width, precision;         /* -1 where not given */
} format_spec;

static const char *parse_count(jinja_state *s, const char *p, const char *end, int64_t *ret_count)
{
    while (p < end && *p >= '0' && *p <= '9') {
        *ret_count = (*ret_count < 0 ? 0 : *ret_count) * 10 + (*p++ - '0');
        if (*ret_count > JINJA_MAX_OUTPUT) {
            jinja_fail(s, OFR_ELIMIT, "a format's width or precision is too large");
        }
    }
    return p;
}

static bool is_any(const char *p, const char *end, const char *set)
{
    return p < end && *p && strchr(set, *p);
}

static format_spec parse_spec(jinja_state *s, const jinja_string *text)
{
    format_spec spec = {.fill = ' ', .width = -1, .precision = -1};
    const char *p = text->data, *end = p + text->size, *behind_fill = p;
    if (p < end) {
        uint32_t fill = jinja_utf8_next(&behind_fill, end);
        if (is_any(behind_fill, end, "<>=^")) {
            spec.fill = fill;
            spec.align = *behind_fill;
            p = behind_fill + 1;
        } else if (is_any(p, end, "<>=^")) {
            spec.align = *p++;
        }
    }
    if (is_any(p, end, "+- ")) {
        spec.sign = *p++;
    }
    if (is_any(p, end, "#")) {
        spec.alternate = true;
        p++;
    }
    if (is_any(p, end, "0")) {
        if (!spec.align) {
            spec.fill = '0';
            spec.align = '=';
            spec.zero = true;
        }
        p++;
    }
    p = parse_count(s, p, end, &spec.width);
    if (is_any(p, end, ",_")) {
        spec.grouping = *p++;
    }
    if (is_any(p, end, ".")) {
        const char *digits = ++p;
        p = parse_count(s, p, end, &spec.precision);
        if (p == digits) {
            jinja_fail(s, OFR_ETEMPLATE, "Format specifier missing precision");
        }
    }
    if (p < end) {
        spec.type = *p++;
    }
    if (p < end) {
        jinja_fail(s, OFR_ETEMPLATE, "Invalid format specifier '%.*s'", JINJA_TEXT(text));
    }
    return spec;
}

static void write_aligned(jinja_builder *builder, const format_spec *spec, char default_align,
                          const char *sign, const jinja_string *body)
{
    char align = spec->align ? spec->align : default_align;
    int64_t missing = spec->width - (int64_t)body->length - (int64_t)strlen(sign);
    missing = missing < 0 ? 0 : missing;
    jinja_charge(builder->state, (size_t)missing);
    int64_t left = align == '<' || align == '=' ? 0 : align == '^' ? missing / 2 : missing;
    jinja_builder_pad(builder, spec->fill, left);
    jinja_builder_text(builder, sign);
    jinja_builder_pad(builder, spec->fill, align == '=' ? missing : 0);
    jinja_builder_put(builder, body->data, body->size);
    jinja_builder_pad(builder, spec->fill, align == '=' ? 0 : missing - left);
}

/* Digits with a separator every `every` of them, and what follows the digits; zero padding by '='
 * takes part in the grouping, as in Python. */
static jinja_value group_digits(jinja_state *s, const format_spec *spec, const char *digits,
                                size_t sign_size)
{
    size_t count = strspn(digits, "0123456789abcdefABCDEF");
    bool is_decimal = !spec->type || !strchr("xXob", spec->type);
    count = is_decimal ? strspn(digits, "0123456789") : count;
    size_t every = is_decimal ? 3 : 4, rest = strlen(digits) - count, zeros = 0;
    if (spec->fill == '0' && spec->align == '=' && spec->width > 0) {
        while ((int64_t)(count + zeros + (count + zeros - 1) / every + rest + sign_size) <
               spec->width) {
            zeros++;
        }
        if ((count + zeros - 1) % every == 0 && zeros && /* a group never starts with its mark */
            (int64_t)(count + zeros + (count + zeros - 1) / every + rest + sign_size) >
                spec->width + 1) {
            zeros--;
        }
    }
    jinja_builder builder = {.state = s};
    for (size_t i = 0; i < count + zeros; i++) {
        if (i && (count + zeros - i) % every == 0) {
            jinja_builder_put(&builder, &spec->grouping, 1);
        }
        jinja_builder_put(&builder, i < zeros ? "0" : digits + i - zeros, 1);
    }
    jinja_builder_text(&builder, digits + count);
    return jinja_builder_finish(&builder);
}

static void write_number(jinja_builder *builder, const format_spec *spec, bool negative,
                         const char *prefix, const char *digits)
{
    char sign[8];
    snprintf(sign, sizeof sign, "%s%s",
             negative            ? "-"
             : spec->sign == '+' ? "+"
             : spec->sign == ' ' ? " "
                                 : "",
             prefix);
    jinja_value body = spec->grouping ? group_digits(builder->state, spec, digits, strlen(sign))
                                      : jinja_text(builder->state, digits);
    write_aligned(builder, spec, '>', sign, body.as.string);
}

static void format_integer(jinja_builder *builder, const format_spec *spec, int64_t integer)
{
    jinja_state *s = builder->state;
    uint64_t magnitude = integer < 0 ? -(uint64_t)integer : (uint64_t)integer;
    char digits[80], type = spec->type;
    const char *prefix = "";
    if (spec->precision >= 0) {
        jinja_fail(s, OFR_ETEMPLATE, "Precision not allowed in integer format specifier");
    }
    if (type == 'c') {
        jinja_builder one = {.state = s};
        if (integer < 0 || integer > 0x10FFFF) {
            jinja_fail(s, OFR_ETEMPLATE, "%%c arg not in range(0x110000)");
        }
        jinja_builder_char(&one, (uint32_t)integer);
        write_aligned(builder, spec, '<', "", jinja_builder_finish(&one).as.string);
        return;
    }
    if (type == 'b') {
        size_t at = sizeof digits - 1;
        digits[at] = '\0';
        do {
            digits[--at] = (char)('0' + (magnitude & 1));
        } while (magnitude >>= 1);
        memmove(digits, digits + at, sizeof digits - at);
        prefix = "0b";
    } else if (type == 'x' || type == 'X' || type == 'o') {
        snprintf(digits, sizeof digits,
                 type == 'x'   ? "%" PRIx64
                 : type == 'X' ? "%" PRIX64
                               : "%" PRIo64,
                 magnitude);
        prefix = type == 'x' ? "0x" : type == 'X' ? "0X" : "0o";
    } else {
        snprintf(digits, sizeof digits, "%" PRIu64, magnitude);
    }
    write_number(builder, spec, integer < 0, spec->alternate ? prefix : "", digits);
}

static void format_float(jinja_builder *builder, const format_spec *spec, double real)
{
    char form[8], digits[1500];
    bool negative = signbit(real) && !isnan(real);
    char type = spec->type == 'n' ? 'g' : spec->type;
    int precision = spec->precision > 1000 ? 1000 : (int)spec->precision;
    if (!type && spec->precision < 0) {
        jinja_builder text = {.state = builder->state};
        jinja_write_float(&text, fabs(real));
        const jinja_string *body = jinja_builder_finish(&text).as.string;
        snprintf(digits, sizeof digits, "%.*s", (int)body->size, body->data);
    } else {
        bool percent = type == '%';
        char conversion = percent ? 'f' : type ? type : 'g';
        precision = precision < 0 ? 6 : precision;
        snprintf(form, sizeof form, spec->alternate ? "%%#.*%c" : "%%.*%c", conversion);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(digits, sizeof digits - 2, form, precision,
                 percent ? fabs(real) * 100 : fabs(real));
#pragma GCC diagnostic pop
        if (!type && isfinite(real) && !strpbrk(digits, ".e")) {
            strcat(digits, ".0"); /* no type: like repr(), always a fraction or an exponent */
        }
        if (percent) {
            strcat(digits, "%");
        }
    }
    write_number(builder, spec, negative, "", digits);
}

static void format_string(jinja_builder *builder, const format_spec *spec,
                          const jinja_string *string)
{
    jinja_string body = *string;
    if (spec->type && spec->type != 's') {
        jinja_fail(builder->state, OFR_ETEMPLATE,
                   "Unknown format code '%c' for object of type "
                   "'str'",
                   spec->type);
    }
    if ((spec->align == '=' && !spec->zero) || spec->sign || spec->grouping || spec->alternate) {
        jinja_fail(builder->state, OFR_ETEMPLATE,
                   "a sign, '=', '#' or ',' is not allowed in a string's format");
    }
    if (spec->precision >= 0 && (size_t)spec->precision < body.length) {
        body.size = jinja_string_offset(&body, (size_t)spec->precision);
        body.length = (size_t)spec->precision;
    }
    format_spec left = *spec;
    left.align = spec->zero ? '<' : spec->align;
    write_aligned(builder, &left, '<', "", &body);
}

void jinja_format_value(jinja_builder *builder, jinja_value value, const jinja_string *text)
{
    jinja_state *s = builder->state;
    if (text->size == 0) {
        jinja_write_str(builder, value);
        return;
    }
    format_spec spec = parse_spec(s, text);
    bool real_type = spec.type && strchr("eEfFgG%", spec.type);
    if (value.type == JINJA_STRING) {
        format_string(builder, &spec, value.as.string);
    } else if (value.type == JINJA_FLOAT && (real_type || !spec.type || spec.type == 'n')) {
        format_float(builder, &spec, value.as.real);
    } else if (jinja_is_integral(value) && real_type) {
        format_float(builder, &spec, jinja_real(value));
    } else if (jinja_is_integral(value) && (!spec.type || strchr("bcdoxXn", spec.type))) {
        format_integer(builder, &spec, jinja_integer(value));
    } else if (jinja_is_number(value)) {
        jinja_fail(s, OFR_ETEMPLATE, "Unknown format code '%c' for object of type '%s'", spec.type,
                   jinja_type_name(value));
    } else {
        jinja_fail(s, OFR_ETEMPLATE, "unsupported format string passed to %s.__format__",
                   jinja_type_name(value));
    }
}
