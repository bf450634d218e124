/* Formatting with "%": printf style, and with str.format(): replacement fields. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

/* --- "%s: %d" % (...) --- */

typedef struct conversion {
    bool left, plus, space, alternate, zero;
    int64_t width, precision; /* precision -1: not given */
    char type;
} conversion;

typedef struct percent_source {
    jinja_state *state;
    jinja_value arguments;
    size_t used;
} percent_source;

static jinja_value next_argument(percent_source *source)
{
    jinja_value arguments = source->arguments;
    if (arguments.type == JINJA_TUPLE) {
        if (source->used >= arguments.as.array->count) {
            jinja_fail(source->state, OFR_ETEMPLATE, "not enough arguments for format string");
        }
        return arguments.as.array->items[source->used++];
    }
    if (source->used++) {
        jinja_fail(source->state, OFR_ETEMPLATE, "not enough arguments for format string");
    }
    return arguments;
}

static const char *parse_amount(percent_source *source, const char *p, const char *end,
                                int64_t *ret_amount)
{
    *ret_amount = 0;
    if (p < end && *p == '*') {
        *ret_amount = jinja_to_integer(source->state, next_argument(source));
        return p + 1;
    }
    while (p < end && *p >= '0' && *p <= '9') {
        *ret_amount = *ret_amount * 10 + (*p++ - '0');
        if (*ret_amount > JINJA_MAX_OUTPUT) {
            jinja_fail(source->state, OFR_ELIMIT, "a format's width or precision is too large");
        }
    }
    return p;
}

static void write_padded(jinja_builder *builder, const conversion *how, const char *sign,
                         const jinja_string *body, bool numeric)
{
    int64_t missing = how->width - (int64_t)body->length - (int64_t)strlen(sign);
    jinja_charge(builder->state, missing > 0 ? (size_t)missing : 0);
    bool zero = numeric && how->zero && !how->left;
    jinja_builder_pad(builder, ' ', how->left || zero ? 0 : missing);
    jinja_builder_text(builder, sign);
    jinja_builder_pad(builder, '0', zero ? missing : 0);
    jinja_builder_put(builder, body->data, body->size);
    jinja_builder_pad(builder, ' ', how->left ? missing : 0);
}

static const char *sign_text(bool negative, const conversion *how)
{
    return negative ? "-" : how->plus ? "+" : how->space ? " " : "";
}

static void write_integer(jinja_builder *builder, const conversion *how, jinja_value value)
{
    jinja_state *s = builder->state;
    if (value.type == JINJA_FLOAT && strchr("diu", how->type)) {
        if (!(fabs(value.as.real) < 9.2e18)) {
            jinja_fail(s, OFR_ETEMPLATE, "the number cannot be formatted as an integer");
        }
        value = jinja_int((int64_t)value.as.real);
    }
    if (!jinja_is_integral(value)) {
        jinja_fail(s, OFR_ETEMPLATE, "%%%c format: a real number is required, not %s", how->type,
                   jinja_type_name(value));
    }
    int64_t integer = jinja_integer(value);
    uint64_t magnitude = integer < 0 ? -(uint64_t)integer : (uint64_t)integer;
    char digits[32];
    const char *form = how->type == 'o'   ? "%" PRIo64
                       : how->type == 'x' ? "%" PRIx64
                       : how->type == 'X' ? "%" PRIX64
                                          : "%" PRIu64;
    snprintf(digits, sizeof digits, form, magnitude);
    jinja_builder body = {.state = s};
    char sign[8];
    const char *prefix = !how->alternate || !strchr("oxX", how->type) ? ""
                         : how->type == 'o'                           ? "0o"
                         : how->type == 'x'                           ? "0x"
                                                                      : "0X";
    snprintf(sign, sizeof sign, "%s%s", sign_text(integer < 0, how), prefix);
    jinja_builder_pad(&body, '0', how->precision - (int64_t)strlen(digits));
    jinja_builder_text(&body, digits);
    write_padded(builder, how, sign, jinja_builder_finish(&body).as.string, true);
}

static void write_real(jinja_builder *builder, const conversion *how, jinja_value value)
{
    jinja_state *s = builder->state;
    if (!jinja_is_number(value)) {
        jinja_fail(s, OFR_ETEMPLATE, "must be real number, not %s", jinja_type_name(value));
    }
    double real = jinja_real(value);
    int precision = how->precision < 0 ? 6 : how->precision > 1000 ? 1000 : (int)how->precision;
    char form[8], digits[1500];
    snprintf(form, sizeof form, how->alternate ? "%%#.*%c" : "%%.*%c", how->type);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(digits, sizeof digits, form, precision, fabs(real));
#pragma GCC diagnostic pop
    jinja_string body = {digits, strlen(digits), strlen(digits)};
    bool negative = signbit(real) && !isnan(real);
    write_padded(builder, how, sign_text(negative, how), &body, isfinite(real));
}

static void write_text(jinja_builder *builder, const conversion *how, jinja_value value)
{
    jinja_state *s = builder->state;
    jinja_builder text = {.state = s};
    if (how->type == 's') {
        jinja_write_str(&text, value);
    } else if (how->type == 'a') {
        jinja_write_ascii(&text, value);
    } else {
        jinja_write_repr(&text, value);
    }
    jinja_string body = *jinja_builder_finish(&text).as.string;
    if (how->precision >= 0 && (size_t)how->precision < body.length) {
        body.size = jinja_string_offset(&body, (size_t)how->precision);
        body.length = (size_t)how->precision;
    }
    write_padded(builder, how, "", &body, false);
}

static void write_character(jinja_builder *builder, const conversion *how, jinja_value value)
{
    jinja_state *s = builder->state;
    jinja_builder one = {.state = s};
    if (value.type == JINJA_STRING && value.as.string->length == 1) {
        jinja_write_str(&one, value);
    } else {
        int64_t code = jinja_to_integer(s, value);
        if (code < 0 || code > 0x10FFFF) {
            jinja_fail(s, OFR_ETEMPLATE, "%%c arg not in range(0x110000)");
        }
        jinja_builder_char(&one, (uint32_t)code);
    }
    write_padded(builder, how, "", jinja_builder_finish(&one).as.string, false);
}

static void convert(jinja_builder *builder, const conversion *how, jinja_value value)
{
    if (strchr("diuoxX", how->type)) {
        write_integer(builder, how, value);
    } else if (strchr("eEfFgG", how->type)) {
        write_real(builder, how, value);
    } else if (strchr("sra", how->type)) {
        write_text(builder, how, value);
    } else if (how->type == 'c') {
        write_character(builder, how, value);
    } else {
        jinja_fail(builder->state, OFR_ETEMPLATE, "unsupported format character '%c'", how->type);
    }
}

/* One conversion, behind its '%'. */
static const char *format_one(jinja_builder *builder, percent_source *source, const char *p,
                              const char *end)
{
    jinja_state *s = source->state;
    conversion how = {.precision = -1};
    jinja_value value = jinja_missing();
    if (p < end && *p == '(') {
        const char *close = memchr(p, ')', (size_t)(end - p));
        if (!close) {
            jinja_fail(s, OFR_ETEMPLATE, "incomplete format key");
        }
        if (source->arguments.type != JINJA_DICT) {
            jinja_fail(s, OFR_ETEMPLATE, "format requires a mapping");
        }
        jinja_value key = jinja_part(s, p + 1, (size_t)(close - p - 1));
        const jinja_value *found = jinja_dict_get(s, source->arguments.as.dict, key);
        if (!found) {
            jinja_fail(s, OFR_ETEMPLATE, "no key '%.*s' for the format", JINJA_TEXT(key.as.string));
        }
        value = *found;
        p = close + 1;
    }
    for (; p < end && *p && strchr("-+ #0", *p); p++) {
        how.left |= *p == '-';
        how.plus |= *p == '+';
        how.space |= *p == ' ';
        how.alternate |= *p == '#';
        how.zero |= *p == '0';
    }
    p = parse_amount(source, p, end, &how.width);
    if (how.width < 0) {
        how.left = true;
        how.width = -how.width;
    }
    if (p < end && *p == '.') {
        p = parse_amount(source, p + 1, end, &how.precision);
        how.precision = how.precision < 0 ? 0 : how.precision;
    }
    while (p < end && (*p == 'l' || *p == 'h' || *p == 'L')) {
        p++;
    }
    if (p >= end || !*p) {
        jinja_fail(s, OFR_ETEMPLATE, "incomplete format");
    }
    how.type = *p++;
    if (how.type == '%' && p[-2] == '%') {
        jinja_builder_text(builder, "%");
        return p;
    }
    convert(builder, &how, value.type == JINJA_MISSING ? next_argument(source) : value);
    return p;
}

jinja_value jinja_percent_format(jinja_state *s, const jinja_string *format, jinja_value arguments)
{
    jinja_builder builder = {.state = s};
    percent_source source = {.state = s, .arguments = arguments};
    const char *p = format->data, *end = p + format->size;
    while (p < end) {
        const char *percent = memchr(p, '%', (size_t)(end - p));
        const char *stop = percent ? percent : end;
        jinja_builder_put(&builder, p, (size_t)(stop - p));
        jinja_charge(s, 1);
        p = percent ? format_one(&builder, &source, percent + 1, end) : end;
    }
    bool is_mapping = arguments.type == JINJA_DICT || arguments.type == JINJA_LIST ||
                      arguments.type == JINJA_RANGE || arguments.type == JINJA_UNDEFINED;
    bool left_over = arguments.type == JINJA_TUPLE ? source.used < arguments.as.array->count
                                                   : source.used == 0 && !is_mapping;
    if (left_over) {
        jinja_fail(s, OFR_ETEMPLATE, "not all arguments converted during string formatting");
    }
    return jinja_builder_finish(&builder);
}

/* --- "{} {name!r:>10}".format(...) --- */

typedef struct brace_source {
    jinja_state *state;
    const jinja_call *call;
    const jinja_dict *mapping;
    int64_t automatic; /* next number of "{}"; -1 once fields are numbered by hand */
} brace_source;

static jinja_value field_root(brace_source *source, const jinja_string *name)
{
    jinja_state *s = source->state;
    int64_t number = -1;
    bool numbered = name->size && strspn(name->data, "0123456789") >= name->size;
    if (name->size == 0) {
        if (source->automatic < 0) {
            jinja_fail(s, OFR_ETEMPLATE, "cannot switch from manual to automatic field numbering");
        }
        number = source->automatic++;
    } else if (numbered) {
        if (source->automatic > 0 || !jinja_parse_integer(name, 10, &number)) {
            jinja_fail(s, OFR_ETEMPLATE, "cannot switch from automatic to manual field numbering");
        }
        source->automatic = -1;
    }
    if (number >= 0) {
        if ((uint64_t)number >= source->call->count) {
            jinja_fail(s, OFR_ETEMPLATE, "replacement index %" PRId64 " is out of range", number);
        }
        return source->call->arguments[number];
    }
    for (size_t i = 0; i < source->call->keyword_count; i++) {
        if (jinja_string_equal(source->call->keywords[i].name, name)) {
            return source->call->keywords[i].value;
        }
    }
    const jinja_value *found =
        source->mapping ? jinja_dict_get(s, source->mapping, jinja_string_value(name)) : NULL;
    if (!found) {
        jinja_fail(s, OFR_ETEMPLATE, "no argument is named '%.*s'", JINJA_TEXT(name));
    }
    return *found;
}

/* "0.name[key]" */
static jinja_value field_value(brace_source *source, const char *p, const char *end)
{
    jinja_state *s = source->state;
    const char *root = p;
    while (p < end && *p != '.' && *p != '[') {
        p++;
    }
    jinja_value value = field_root(source, jinja_string_new(s, root, (size_t)(p - root)));
    while (p < end) {
        bool is_item = *p++ == '[';
        const char *start = p;
        while (p < end && (is_item ? *p != ']' : *p != '.' && *p != '[')) {
            p++;
        }
        if (p == start || (is_item && p == end)) {
            jinja_fail(s, OFR_ETEMPLATE, "an empty or unfinished attribute in a format string");
        }
        jinja_value key = jinja_part(s, start, (size_t)(p - start));
        int64_t number;
        if (is_item && strspn(start, "0123456789") >= (size_t)(p - start) &&
            jinja_parse_integer(key.as.string, 10, &number)) {
            key = jinja_int(number);
        }
        value = is_item ? jinja_getitem(s, value, key) : jinja_getattr(s, value, key.as.string);
        p += is_item;
        if (is_item && p < end && *p != '.' && *p != '[') {
            jinja_fail(s, OFR_ETEMPLATE, "only '.' or '[' may follow ']' in a format string");
        }
    }
    return value;
}

static void brace_text(jinja_builder *builder, brace_source *source, const char *p, const char *end,
                       int level);

/* One field, between its braces. */
static void brace_field(jinja_builder *builder, brace_source *source, const char *p,
                        const char *end, int level)
{
    jinja_state *s = source->state;
    const char *name_end = p;
    while (name_end < end && *name_end != '!' && *name_end != ':') {
        name_end += *name_end == '[' && memchr(name_end, ']', (size_t)(end - name_end))
                        ? (const char *)memchr(name_end, ']', (size_t)(end - name_end)) - name_end
                        : 1;
    }
    jinja_value value = field_value(source, p, name_end);
    p = name_end;
    if (p < end && *p == '!') {
        bool known = p + 1 < end && strchr("sra", p[1]) && p[1];
        if (!known || (p + 2 < end && p[2] != ':')) {
            jinja_fail(s, OFR_ETEMPLATE, "a bad conversion in a format string");
        }
        jinja_builder text = {.state = s};
        if (p[1] == 's') {
            jinja_write_str(&text, value);
        } else if (p[1] == 'a') {
            jinja_write_ascii(&text, value);
        } else {
            jinja_write_repr(&text, value);
        }
        value = jinja_builder_finish(&text);
        p += 2;
    }
    jinja_builder spec = {.state = s};
    if (p < end) {
        brace_text(&spec, source, p + 1, end, level + 1);
    }
    jinja_format_value(builder, value, jinja_builder_finish(&spec).as.string);
}

static void brace_text(jinja_builder *builder, brace_source *source, const char *p, const char *end,
                       int level)
{
    jinja_state *s = source->state;
    if (level > 2) {
        jinja_fail(s, OFR_ETEMPLATE, "a format string nests its fields too deeply");
    }
    while (p < end) {
        jinja_charge(s, 1);
        if ((*p == '{' || *p == '}') && level == 1 && p + 1 < end && p[1] == *p) {
            jinja_builder_put(builder, p, 1);
            p += 2;
        } else if (*p == '}') {
            jinja_fail(s, OFR_ETEMPLATE, "a single '}' in a format string");
        } else if (*p != '{') {
            jinja_builder_put(builder, p++, 1);
        } else {
            const char *start = ++p;
            for (int open = 1; p < end; p++) {
                open += (*p == '{') - (*p == '}');
                if (open == 0) {
                    break;
                }
            }
            if (p >= end) {
                jinja_fail(s, OFR_ETEMPLATE, "a single '{' in a format string");
            }
            brace_field(builder, source, start, p, level);
            p++;
        }
    }
}

jinja_value jinja_brace_format(jinja_state *s, const jinja_string *format, const jinja_call *call,
                               const jinja_dict *mapping)
{
    jinja_builder builder = {.state = s};
    brace_source source = {.state = s, .call = call, .mapping = mapping};
    brace_text(&builder, &source, format->data, format->data + format->size, 1);
    return jinja_builder_finish(&builder);
}
