/* Printing values: Python's str() and repr(), and json.dumps(). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

/* The shortest digits that read back as the same double, laid out as Python's repr() does. */
void jinja_write_float(jinja_builder *builder, double real)
{
    if (isnan(real) || isinf(real)) {
        jinja_builder_text(builder, isnan(real) ? "nan" : real < 0 ? "-inf" : "inf");
        return;
    }
    char digits[40];
    for (int precision = 0; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*e", precision, real);
        if (strtod(digits, NULL) == real) {
            break;
        }
    }
    char *exponent_text = strchr(digits, 'e');
    int exponent = atoi(exponent_text + 1);
    *exponent_text = '\0';
    const char *mantissa = digits;
    if (*mantissa == '-') {
        jinja_builder_text(builder, "-");
        mantissa++;
    }
    char plain[40];
    int count = 0;
    for (const char *c = mantissa; *c; c++) {
        if (*c != '.') {
            plain[count++] = *c;
        }
    }
    if (exponent < -4 || exponent >= 16) {
        char tail[16];
        jinja_builder_put(builder, plain, 1);
        if (count > 1) {
            jinja_builder_text(builder, ".");
            jinja_builder_put(builder, plain + 1, (size_t)(count - 1));
        }
        snprintf(tail, sizeof tail, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        jinja_builder_text(builder, tail);
    } else if (exponent < 0) {
        jinja_builder_text(builder, "0.");
        jinja_builder_pad(builder, '0', -exponent - 1);
        jinja_builder_put(builder, plain, (size_t)count);
    } else if (count <= exponent + 1) {
        jinja_builder_put(builder, plain, (size_t)count);
        jinja_builder_pad(builder, '0', exponent + 1 - count);
        jinja_builder_text(builder, ".0");
    } else {
        jinja_builder_put(builder, plain, (size_t)exponent + 1);
        jinja_builder_text(builder, ".");
        jinja_builder_put(builder, plain + exponent + 1, (size_t)(count - exponent - 1));
    }
}

static void write_integer(jinja_builder *builder, int64_t integer)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, integer);
    jinja_builder_text(builder, text);
}

static void write_string_repr(jinja_builder *builder, const jinja_string *string)
{
    bool single = memchr(string->data, '\'', string->size) != NULL;
    bool twofold = memchr(string->data, '"', string->size) != NULL;
    char quote = single && !twofold ? '"' : '\'';
    jinja_builder_put(builder, &quote, 1);
    const char *p = string->data, *end = p + string->size;
    while (p < end) {
        const char *start = p;
        uint32_t c = jinja_utf8_next(&p, end);
        char escape[16] = "";
        if (c == (uint32_t)quote || c == '\\') {
            snprintf(escape, sizeof escape, "\\%c", (char)c);
        } else if (c == '\n' || c == '\r' || c == '\t') {
            snprintf(escape, sizeof escape, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        } else if (!jinja_is_printable(c)) {
            snprintf(escape, sizeof escape,
                     c < 0x100     ? "\\x%02x"
                     : c < 0x10000 ? "\\u%04x"
                                   : "\\U%08x",
                     (unsigned)c);
        }
        if (escape[0]) {
            jinja_builder_text(builder, escape);
        } else {
            jinja_builder_put(builder, start, (size_t)(p - start));
        }
    }
    jinja_builder_put(builder, &quote, 1);
}

static void write_sequence(jinja_builder *builder, const jinja_array *array, const char *open,
                           const char *close)
{
    jinja_builder_text(builder, open);
    for (size_t i = 0; i < array->count; i++) {
        jinja_builder_text(builder, i ? ", " : "");
        jinja_write_repr(builder, array->items[i]);
    }
    jinja_builder_text(builder, close);
}

static void write_dict(jinja_builder *builder, const jinja_dict *dict)
{
    jinja_builder_text(builder, "{");
    for (size_t i = 0; i < dict->count; i++) {
        jinja_builder_text(builder, i ? ", " : "");
        jinja_write_repr(builder, dict->entries[i].key);
        jinja_builder_text(builder, ": ");
        jinja_write_repr(builder, dict->entries[i].value);
    }
    jinja_builder_text(builder, "}");
}

static void write_view(jinja_builder *builder, jinja_value value)
{
    jinja_array items = jinja_items(builder->state, value);
    jinja_builder_text(builder, jinja_type_name(value));
    write_sequence(builder, &items, "([", "])");
}

static void write_range(jinja_builder *builder, const jinja_range *range)
{
    jinja_builder_text(builder, "range(");
    write_integer(builder, range->start);
    jinja_builder_text(builder, ", ");
    write_integer(builder, range->stop);
    if (range->step != 1) {
        jinja_builder_text(builder, ", ");
        write_integer(builder, range->step);
    }
    jinja_builder_text(builder, ")");
}

/* Objects whose Python form holds an address, or that no template prints. */
static void write_object(jinja_builder *builder, jinja_value value)
{
    if (value.type == JINJA_NAMESPACE) {
        jinja_builder_text(builder, "<Namespace ");
        write_dict(builder, value.as.dict);
        jinja_builder_text(builder, ">");
    } else if (value.type == JINJA_MACRO) {
        jinja_builder_text(builder, "<Macro ");
        if (value.as.macro->label) {
            write_string_repr(builder, value.as.macro->label);
        } else {
            jinja_builder_text(builder, "anonymous");
        }
        jinja_builder_text(builder, ">");
    } else {
        jinja_builder_text(builder, "<");
        jinja_builder_text(builder, jinja_type_name(value));
        jinja_builder_text(builder, " object>");
    }
}

void jinja_write_repr(jinja_builder *builder, jinja_value value)
{
    jinja_enter(builder->state);
    jinja_charge(builder->state, 1);
    switch (value.type) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
        jinja_builder_text(builder, "Undefined");
        break;
    case JINJA_NONE:
        jinja_builder_text(builder, "None");
        break;
    case JINJA_BOOL:
        jinja_builder_text(builder, value.as.boolean ? "True" : "False");
        break;
    case JINJA_INT:
        write_integer(builder, value.as.integer);
        break;
    case JINJA_FLOAT:
        jinja_write_float(builder, value.as.real);
        break;
    case JINJA_STRING:
        write_string_repr(builder, value.as.string);
        break;
    case JINJA_LIST:
        write_sequence(builder, value.as.array, "[", "]");
        break;
    case JINJA_TUPLE:
        write_sequence(builder, value.as.array, "(", value.as.array->count == 1 ? ",)" : ")");
        break;
    case JINJA_DICT:
        write_dict(builder, value.as.dict);
        break;
    case JINJA_KEYS:
    case JINJA_VALUES:
    case JINJA_ITEMS:
        write_view(builder, value);
        break;
    case JINJA_RANGE:
        write_range(builder, value.as.range);
        break;
    default:
        write_object(builder, value);
        break;
    }
    jinja_leave(builder->state);
}

void jinja_write_ascii(jinja_builder *builder, jinja_value value)
{
    jinja_builder whole = {.state = builder->state};
    jinja_write_repr(&whole, value);
    const char *p = whole.data, *end = p + whole.size;
    while (p < end) {
        char escape[16] = {*p};
        uint32_t c = jinja_utf8_next(&p, end);
        if (c >= 0x80) {
            snprintf(escape, sizeof escape,
                     c < 0x100     ? "\\x%02x"
                     : c < 0x10000 ? "\\u%04x"
                                   : "\\U%08x",
                     (unsigned)c);
        }
        jinja_builder_text(builder, escape);
    }
}

void jinja_write_str(jinja_builder *builder, jinja_value value)
{
    if (value.type == JINJA_STRING) {
        jinja_builder_put(builder, value.as.string->data, value.as.string->size);
    } else if (value.type != JINJA_UNDEFINED) {
        jinja_write_repr(builder, value);
    }
}

const jinja_string *jinja_str(jinja_state *s, jinja_value value)
{
    if (value.type == JINJA_STRING) {
        return value.as.string;
    }
    jinja_builder builder = {.state = s};
    jinja_write_str(&builder, value);
    return jinja_builder_finish(&builder).as.string;
}

/* --- json.dumps --- */

typedef struct json_style {
    const char *indent; /* NULL: one line */
    size_t indent_size;
    const jinja_string *item_separator, *key_separator;
    bool ensure_ascii, sort_keys;
} json_style;

static void write_json_string(jinja_builder *builder, const jinja_string *string, bool ascii)
{
    jinja_builder_put(builder, "\"", 1);
    const char *p = string->data, *end = p + string->size;
    while (p < end) {
        const char *start = p;
        uint32_t c = jinja_utf8_next(&p, end);
        static const char short_escapes[][2] = {{'"', '"'},  {'\\', '\\'}, {'\n', 'n'}, {'\r', 'r'},
                                                {'\t', 't'}, {'\f', 'f'},  {'\b', 'b'}};
        char escape[16] = "";
        for (size_t i = 0; i < sizeof short_escapes / sizeof short_escapes[0]; i++) {
            if (c == (uint32_t)short_escapes[i][0]) {
                snprintf(escape, sizeof escape, "\\%c", short_escapes[i][1]);
            }
        }
        if (!escape[0] && (c < 0x20 || (ascii && c > 0x7E))) {
            if (c == 0x7F) {
                escape[0] = '\0'; /* json.dumps leaves DEL as it is */
            } else if (c >= 0x10000) {
                snprintf(escape, sizeof escape, "\\u%04x\\u%04x",
                         (unsigned)(0xD800 + ((c - 0x10000) >> 10)),
                         (unsigned)(0xDC00 + ((c - 0x10000) & 0x3FF)));
            } else {
                snprintf(escape, sizeof escape, "\\u%04x", (unsigned)c);
            }
        }
        if (escape[0]) {
            jinja_builder_text(builder, escape);
        } else {
            jinja_builder_put(builder, start, (size_t)(p - start));
        }
    }
    jinja_builder_put(builder, "\"", 1);
}

static void write_json_float(jinja_builder *builder, double real)
{
    if (isnan(real)) {
        jinja_builder_text(builder, "NaN");
    } else if (isinf(real)) {
        jinja_builder_text(builder, real < 0 ? "-Infinity" : "Infinity");
    } else {
        jinja_write_float(builder, real);
    }
}

static bool write_json_scalar(jinja_builder *builder, const json_style *style, jinja_value value)
{
    switch (value.type) {
    case JINJA_NONE:
        jinja_builder_text(builder, "null");
        return true;
    case JINJA_BOOL:
        jinja_builder_text(builder, value.as.boolean ? "true" : "false");
        return true;
    case JINJA_INT:
        write_integer(builder, value.as.integer);
        return true;
    case JINJA_FLOAT:
        write_json_float(builder, value.as.real);
        return true;
    case JINJA_STRING:
        write_json_string(builder, value.as.string, style->ensure_ascii);
        return true;
    default:
        return false;
    }
}

static void json_newline(jinja_builder *builder, const json_style *style, unsigned level)
{
    if (style->indent) {
        jinja_builder_text(builder, "\n");
        for (unsigned i = 0; i < level; i++) {
            jinja_builder_put(builder, style->indent, style->indent_size);
        }
    }
}

static void write_json_value(jinja_builder *builder, const json_style *style, jinja_value value,
                             unsigned level);

static void write_json_key(jinja_builder *builder, const json_style *style, jinja_value key)
{
    if (key.type == JINJA_STRING) {
        write_json_scalar(builder, style, key);
        return;
    }
    jinja_builder_text(builder, "\"");
    if (!write_json_scalar(builder, style, key)) {
        jinja_fail(builder->state, OFR_ETEMPLATE,
                   "keys must be str, int, float, bool or None, not %s", jinja_type_name(key));
    }
    jinja_builder_text(builder, "\"");
}

static void write_json_dict(jinja_builder *builder, const json_style *style, const jinja_dict *dict,
                            unsigned level)
{
    jinja_state *s = builder->state;
    jinja_value *keys = jinja_alloc_array(s, dict->count, sizeof *keys);
    jinja_value *values = jinja_alloc_array(s, dict->count, sizeof *values);
    jinja_value *order = jinja_alloc_array(s, dict->count, sizeof *order);
    for (size_t i = 0; i < dict->count; i++) {
        keys[i] = dict->entries[i].key;
        order[i] = jinja_int((int64_t)i);
    }
    if (style->sort_keys) {
        jinja_sort(s, keys, order, dict->count, false);
    }
    for (size_t i = 0; i < dict->count; i++) {
        values[i] = dict->entries[order[i].as.integer].value;
    }
    jinja_builder_text(builder, "{");
    for (size_t i = 0; i < dict->count; i++) {
        if (i) {
            jinja_builder_put(builder, style->item_separator->data, style->item_separator->size);
        }
        json_newline(builder, style, level + 1);
        write_json_key(builder, style, keys[i]);
        jinja_builder_put(builder, style->key_separator->data, style->key_separator->size);
        write_json_value(builder, style, values[i], level + 1);
    }
    if (dict->count) {
        json_newline(builder, style, level);
    }
    jinja_builder_text(builder, "}");
}

static void write_json_value(jinja_builder *builder, const json_style *style, jinja_value value,
                             unsigned level)
{
    jinja_state *s = builder->state;
    jinja_enter(s);
    jinja_charge(s, 1);
    if (jinja_is_array(value)) {
        const jinja_array *array = value.as.array;
        jinja_builder_text(builder, "[");
        for (size_t i = 0; i < array->count; i++) {
            if (i) {
                jinja_builder_put(builder, style->item_separator->data,
                                  style->item_separator->size);
            }
            json_newline(builder, style, level + 1);
            write_json_value(builder, style, array->items[i], level + 1);
        }
        if (array->count) {
            json_newline(builder, style, level);
        }
        jinja_builder_text(builder, "]");
    } else if (value.type == JINJA_DICT) {
        write_json_dict(builder, style, value.as.dict, level);
    } else if (!write_json_scalar(builder, style, value)) {
        jinja_fail(s, OFR_ETEMPLATE, "Object of type %s is not JSON serializable",
                   jinja_type_name(value));
    }
    jinja_leave(s);
}

void jinja_write_json(jinja_builder *builder, jinja_value value, const char *indent,
                      size_t indent_size, const jinja_string *item_separator,
                      const jinja_string *key_separator, bool ensure_ascii, bool sort_keys)
{
    json_style style = {.indent = indent,
                        .indent_size = indent_size,
                        .item_separator = item_separator,
                        .key_separator = key_separator,
                        .ensure_ascii = ensure_ascii,
                        .sort_keys = sort_keys};
    write_json_value(builder, &style, value, 0);
}
