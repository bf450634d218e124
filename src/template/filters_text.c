/* Filters on text and single values: trim, replace, tojson, int, round, ... */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

static const jinja_string *self_text(jinja_state *s, jinja_value self)
{
    return jinja_str(s, self);
}

static jinja_value filter_trim(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_strip(s, self_text(s, self), call->arguments[0], true, true);
}

static jinja_value filter_upper(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return jinja_change_case(s, self_text(s, self), JINJA_CASE_UPPER);
}

static jinja_value filter_lower(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return jinja_change_case(s, self_text(s, self), JINJA_CASE_LOWER);
}

static jinja_value filter_capitalize(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return jinja_change_case(s, self_text(s, self), JINJA_CASE_CAPITALIZE);
}

static bool separates_words(uint32_t c)
{
    return jinja_is_space(c) || (c < 0x80 && c && strchr("-({[<", (int)c));
}

/* Unlike str.title(): words begin only behind space and opening brackets. */
static jinja_value filter_title(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    const jinja_string *text = self_text(s, self);
    jinja_builder builder = {.state = s};
    const char *p = text->data, *end = p + text->size;
    while (p < end) {
        const char *start = p;
        uint32_t c = jinja_utf8_next(&p, end);
        if (separates_words(c)) {
            jinja_builder_put(&builder, start, (size_t)(p - start));
            continue;
        }
        const char *rest = p, *next = p;
        while (next < end && !separates_words(jinja_utf8_next(&next, end))) {
            p = next;
        }
        jinja_value first = jinja_part(s, start, (size_t)(rest - start));
        jinja_value others = jinja_part(s, rest, (size_t)(p - rest));
        jinja_write_str(&builder, jinja_change_case(s, first.as.string, JINJA_CASE_UPPER));
        jinja_write_str(&builder, jinja_change_case(s, others.as.string, JINJA_CASE_LOWER));
    }
    return jinja_builder_finish(&builder);
}

static jinja_value filter_string(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return jinja_string_value(self_text(s, self));
}

static jinja_value filter_escape(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    const jinja_string *text = self_text(s, self);
    jinja_builder builder = {.state = s};
    for (size_t i = 0; i < text->size; i++) {
        char c = text->data[i];
        const char *entity = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '"'  ? "&#34;"
                             : c == '\'' ? "&#39;"
                                         : NULL;
        if (entity) {
            jinja_builder_text(&builder, entity);
        } else {
            jinja_builder_put(&builder, &c, 1);
        }
    }
    return jinja_builder_finish(&builder);
}

static jinja_value filter_replace(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_value limit = call->arguments[2];
    bool all = limit.type == JINJA_MISSING || limit.type == JINJA_NONE;
    const jinja_string *text = self_text(s, self);
    const jinja_string *old = jinja_str(s, call->arguments[0]);
    const jinja_string *new_text = jinja_str(s, call->arguments[1]);
    return jinja_replace(s, text, old, new_text, all ? -1 : jinja_to_integer(s, limit));
}

static jinja_value filter_default(jinja_state *s, jinja_value self, const jinja_call *call)
{
    bool boolean = jinja_truth(s, call->arguments[1]);
    if (self.type == JINJA_UNDEFINED || (boolean && !jinja_truth(s, self))) {
        return call->arguments[0].type == JINJA_MISSING ? jinja_part(s, "", 0) : call->arguments[0];
    }
    return self;
}

static jinja_value filter_indent(jinja_state *s, jinja_value self, const jinja_call *call)
{
    if (self.type == JINJA_UNDEFINED) {
        jinja_fail_undefined(s, self);
    }
    const jinja_string *text = jinja_to_string(s, self);
    jinja_builder indent = {.state = s};
    jinja_value width = call->arguments[0];
    if (width.type == JINJA_STRING) {
        jinja_write_str(&indent, width);
    } else {
        jinja_builder_pad(&indent, ' ',
                          width.type == JINJA_MISSING ? 4 : jinja_to_integer(s, width));
    }
    bool first = jinja_truth(s, call->arguments[1]), blank = jinja_truth(s, call->arguments[2]);
    jinja_string newline = {"\n", 1, 1};
    jinja_array lines = jinja_split_lines(s, jinja_concat(s, text, &newline).as.string, false);
    jinja_builder builder = {.state = s};
    for (size_t i = 0; i < lines.count; i++) {
        const jinja_string *line = lines.items[i].as.string;
        jinja_builder_text(&builder, i ? "\n" : "");
        if (i ? blank || line->size : first) {
            jinja_builder_put(&builder, indent.data, indent.size);
        }
        jinja_builder_put(&builder, line->data, line->size);
    }
    return jinja_builder_finish(&builder);
}

static jinja_value filter_center(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_value width = call->arguments[0];
    jinja_value values[2] = {width.type == JINJA_MISSING ? jinja_int(80) : width, jinja_missing()};
    jinja_call inner = {.arguments = values, .count = 2};
    return jinja_find_string_method("center", 6)
        ->function(s, jinja_string_value(self_text(s, self)), &inner);
}

static jinja_value filter_truncate(jinja_state *s, jinja_value self, const jinja_call *call)
{
    const jinja_string *text = jinja_to_string(s, self);
    const jinja_value *given = call->arguments;
    int64_t length = given[0].type == JINJA_MISSING ? 255 : jinja_to_integer(s, given[0]);
    jinja_string dots = {"...", 3, 3};
    const jinja_string *end = given[2].type == JINJA_MISSING ? &dots : jinja_to_string(s, given[2]);
    bool no_leeway = given[3].type == JINJA_MISSING || given[3].type == JINJA_NONE;
    int64_t leeway = no_leeway ? 5 : jinja_to_integer(s, given[3]);
    if (length < (int64_t)end->length || leeway < 0) {
        jinja_fail(s, OFR_ETEMPLATE,
                   "truncate: expected a length of at least %zu and a leeway of "
                   "at least 0",
                   end->length);
    }
    if ((int64_t)text->length - leeway <= length) {
        return self;
    }
    size_t kept = jinja_string_offset(text, (size_t)length - end->length);
    if (!jinja_truth(s, given[1])) {
        const char *space = memrchr(text->data, ' ', kept);
        kept = space ? (size_t)(space - text->data) : kept;
    }
    return jinja_concat(s, jinja_string_new(s, text->data, kept), end);
}

static jinja_value filter_wordcount(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    const jinja_string *text = self_text(s, self);
    const char *p = text->data, *end = p + text->size;
    int64_t count = 0;
    bool in_word = false;
    while (p < end) {
        uint32_t c = jinja_utf8_next(&p, end);
        bool is_word = c == '_' || jinja_is_alnum(c);
        count += is_word && !in_word;
        in_word = is_word;
    }
    return jinja_int(count);
}

static jinja_value filter_format(jinja_state *s, jinja_value self, const jinja_call *call)
{
    if (call->count && call->keyword_count) {
        jinja_fail(s, OFR_ETEMPLATE,
                   "format: can't handle positional and keyword arguments at the same time");
    }
    jinja_value arguments = jinja_array_value(s, JINJA_TUPLE, call->arguments, call->count);
    if (call->keyword_count) {
        jinja_dict *dict = jinja_dict_new(s);
        for (size_t i = 0; i < call->keyword_count; i++) {
            jinja_dict_set(s, dict, jinja_string_value(call->keywords[i].name),
                           call->keywords[i].value);
        }
        arguments = (jinja_value){.type = JINJA_DICT, .as.dict = dict};
    }
    return jinja_percent_format(s, self_text(s, self), arguments);
}

/* As transformers defines it: json.dumps with ensure_ascii off by default. */
static jinja_value filter_tojson(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_value ensure_ascii = call->arguments[0], indent = call->arguments[1],
                separators = call->arguments[2], sort_keys = call->arguments[3];
    jinja_builder builder = {.state = s}, spaces = {.state = s};
    jinja_string item_separator = {", ", 2, 2}, key_separator = {": ", 2, 2};
    bool has_indent = indent.type != JINJA_MISSING && indent.type != JINJA_NONE;
    if (has_indent) {
        item_separator = (jinja_string){",", 1, 1};
        if (indent.type == JINJA_STRING) {
            jinja_write_str(&spaces, indent);
        } else {
            jinja_builder_pad(&spaces, ' ', jinja_to_integer(s, indent));
        }
    }
    if (separators.type != JINJA_MISSING && separators.type != JINJA_NONE) {
        jinja_array pair = jinja_items(s, separators);
        if (pair.count != 2) {
            jinja_fail(s, OFR_ETEMPLATE, "tojson: separators must be two");
        }
        item_separator = *jinja_to_string(s, pair.items[0]);
        key_separator = *jinja_to_string(s, pair.items[1]);
    }
    jinja_write_json(&builder, self, has_indent ? (spaces.data ? spaces.data : "") : NULL,
                     spaces.size, &item_separator, &key_separator, jinja_truth(s, ensure_ascii),
                     jinja_truth(s, sort_keys));
    return jinja_builder_finish(&builder);
}

/* --- numbers --- */

static jinja_value float_to_integer(jinja_state *s, double real, jinja_value otherwise)
{
    if (!isfinite(real)) {
        return otherwise;
    }
    double whole = trunc(real);
    if (whole >= 9223372036854775808.0 || whole < -9223372036854775808.0) {
        jinja_fail(s, OFR_ETEMPLATE, "an integer does not fit 64 bits");
    }
    return jinja_int((int64_t)whole);
}

static jinja_value filter_int(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_value otherwise =
        call->arguments[0].type == JINJA_MISSING ? jinja_int(0) : call->arguments[0];
    int64_t base =
        call->arguments[1].type == JINJA_MISSING ? 10 : jinja_to_integer(s, call->arguments[1]);
    int64_t integer;
    double real;
    switch (self.type) {
    case JINJA_BOOL:
    case JINJA_INT:
        return jinja_int(jinja_integer(self));
    case JINJA_FLOAT:
        if (isinf(self.as.real)) { /* int() raises OverflowError, which the filter lets through */
            jinja_fail(s, OFR_ETEMPLATE, "cannot convert float infinity to integer");
        }
        return float_to_integer(s, self.as.real, otherwise);
    case JINJA_STRING:
        if (jinja_parse_integer(self.as.string, base, &integer)) {
            return jinja_int(integer);
        }
        if (jinja_parse_float(self.as.string, &real)) {
            return float_to_integer(s, real, otherwise);
        }
        return otherwise;
    case JINJA_UNDEFINED:
        jinja_fail_undefined(s, self);
    default:
        return otherwise;
    }
}

static jinja_value filter_float(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_value otherwise =
        call->arguments[0].type == JINJA_MISSING ? jinja_float(0.0) : call->arguments[0];
    double real;
    if (self.type == JINJA_UNDEFINED) {
        jinja_fail_undefined(s, self);
    }
    if (jinja_is_number(self)) {
        return jinja_float(jinja_real(self));
    }
    if (self.type == JINJA_STRING && jinja_parse_float(self.as.string, &real)) {
        return jinja_float(real);
    }
    return otherwise;
}

static jinja_value filter_abs(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    if (self.type == JINJA_FLOAT) {
        return jinja_float(fabs(self.as.real));
    }
    if (!jinja_is_integral(self)) {
        jinja_fail(s, OFR_ETEMPLATE, "bad operand type for abs(): '%s'", jinja_type_name(self));
    }
    return jinja_negate(s, self, jinja_integer(self) < 0);
}

static jinja_value filter_round(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_value places = call->arguments[0], method = call->arguments[1];
    int64_t precision = places.type == JINJA_MISSING ? 0 : jinja_to_integer(s, places);
    bool is_common = method.type == JINJA_MISSING ||
                     (method.type == JINJA_STRING && jinja_string_is(method.as.string, "common"));
    if (is_common) {
        return jinja_round(s, self, precision);
    }
    bool up = method.type == JINJA_STRING && jinja_string_is(method.as.string, "ceil");
    if (!up && !(method.type == JINJA_STRING && jinja_string_is(method.as.string, "floor"))) {
        jinja_fail(s, OFR_ETEMPLATE, "round: method must be common, ceil or floor");
    }
    if (!jinja_is_number(self)) {
        jinja_fail(s, OFR_ETEMPLATE, "round: a number is needed, not '%s'", jinja_type_name(self));
    }
    jinja_value unit = jinja_binary(s, JINJA_OP_POW, jinja_int(10), jinja_int(precision));
    double scaled = jinja_real(jinja_binary(s, JINJA_OP_MUL, self, unit));
    jinja_value whole = float_to_integer(s, up ? ceil(scaled) : floor(scaled), jinja_missing());
    if (whole.type == JINJA_MISSING) {
        jinja_fail(s, OFR_ETEMPLATE, "round: a finite number is needed");
    }
    return jinja_binary(s, JINJA_OP_DIV, whole, unit);
}

static jinja_value filter_safe(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return jinja_string_value(self_text(s, self));
}

static jinja_value filter_attr(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_value value;
    const jinja_string *name = jinja_to_string(s, call->arguments[0]);
    if (jinja_find_attribute(s, self, name, &value)) {
        return value;
    }
    return jinja_undefined_name(s, jinja_type_name(self), name);
}

const jinja_function *jinja_find_text_filter(const char *name, size_t size)
{
    static const jinja_function filters[] = {
        {"trim", filter_trim, "chars", 0, false},
        {"upper", filter_upper, "", 0, false},
        {"lower", filter_lower, "", 0, false},
        {"capitalize", filter_capitalize, "", 0, false},
        {"title", filter_title, "", 0, false},
        {"string", filter_string, "", 0, false},
        {"escape", filter_escape, "", 0, false},
        {"e", filter_escape, "", 0, false},
        {"forceescape", filter_escape, "", 0, false},
        {"safe", filter_safe, "", 0, false},
        {"replace", filter_replace, "old,new,count", 2, false},
        {"default", filter_default, "default_value,boolean", 0, false},
        {"d", filter_default, "default_value,boolean", 0, false},
        {"indent", filter_indent, "width,first,blank", 0, false},
        {"center", filter_center, "width", 0, false},
        {"truncate", filter_truncate, "length,killwords,end,leeway", 0, false},
        {"wordcount", filter_wordcount, "", 0, false},
        {"format", filter_format, NULL, 0, false},
        {"tojson", filter_tojson, "ensure_ascii,indent,separators,sort_keys", 0, false},
        {"int", filter_int, "default,base", 0, false},
        {"float", filter_float, "default", 0, false},
        {"abs", filter_abs, "", 0, false},
        {"round", filter_round, "precision,method", 0, false},
        {"attr", filter_attr, "name", 1, false},
        {0},
    };
    return jinja_find_function(filters, name, size);
}
