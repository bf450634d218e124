/* Methods of str that change case, pad, join, format or classify. */
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

/* --- case --- */

/* Sigma is written differently at the end of a word: SpecialCasing.txt, Final_Sigma. */
static bool is_final_sigma(const jinja_string *text, const char *at, const char *behind)
{
    const char *start = text->data, *end = start + text->size, *p = at;
    bool cased_before = false;
    while (p > start) {
        p = jinja_utf8_previous(start, p);
        const char *q = p;
        uint32_t c = jinja_utf8_next(&q, end);
        if (!jinja_is_case_ignorable(c)) {
            cased_before = jinja_is_cased(c);
            break;
        }
    }
    for (p = behind; cased_before && p < end;) {
        uint32_t c = jinja_utf8_next(&p, end);
        if (!jinja_is_case_ignorable(c)) {
            return !jinja_is_cased(c);
        }
    }
    return cased_before;
}

jinja_value jinja_change_case(jinja_state *s, const jinja_string *text, enum jinja_case form)
{
    jinja_builder builder = {.state = s};
    const char *p = text->data, *end = p + text->size;
    bool word_start = true;
    jinja_charge(s, text->size / 8);
    while (p < end) {
        const char *at = p;
        uint32_t c = jinja_utf8_next(&p, end), mapped[3];
        size_t count;
        bool first = form == JINJA_CASE_TITLE || form == JINJA_CASE_CAPITALIZE ? word_start : false;
        if (form == JINJA_CASE_UPPER) {
            count = jinja_to_upper(c, mapped);
        } else if (first) {
            count = jinja_to_title(c, mapped);
        } else if (c == 0x3A3) {
            mapped[0] = is_final_sigma(text, at, p) ? 0x3C2 : 0x3C3;
            count = 1;
        } else {
            count = jinja_to_lower(c, mapped);
        }
        for (size_t i = 0; i < count; i++) {
            jinja_builder_char(&builder, mapped[i]);
        }
        word_start = form == JINJA_CASE_TITLE && !jinja_is_cased(c);
    }
    return jinja_builder_finish(&builder);
}

static jinja_value method_upper(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return jinja_change_case(s, self.as.string, JINJA_CASE_UPPER);
}

static jinja_value method_lower(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return jinja_change_case(s, self.as.string, JINJA_CASE_LOWER);
}

static jinja_value method_capitalize(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return jinja_change_case(s, self.as.string, JINJA_CASE_CAPITALIZE);
}

static jinja_value method_title(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return jinja_change_case(s, self.as.string, JINJA_CASE_TITLE);
}

static jinja_value method_swapcase(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    jinja_builder builder = {.state = s};
    const char *p = self.as.string->data, *end = p + self.as.string->size;
    jinja_charge(s, self.as.string->size / 8);
    while (p < end) {
        const char *at = p;
        uint32_t c = jinja_utf8_next(&p, end), mapped[3] = {c};
        size_t count = 1;
        if (c == 0x3A3) {
            mapped[0] = is_final_sigma(self.as.string, at, p) ? 0x3C2 : 0x3C3;
        } else if (jinja_is_upper(c)) {
            count = jinja_to_lower(c, mapped);
        } else if (jinja_is_lower(c)) {
            count = jinja_to_upper(c, mapped);
        }
        for (size_t i = 0; i < count; i++) {
            jinja_builder_char(&builder, mapped[i]);
        }
    }
    return jinja_builder_finish(&builder);
}

/* --- padding --- */

static jinja_value pad(jinja_state *s, jinja_value self, const jinja_call *call, char side)
{
    const jinja_string *text = self.as.string;
    int64_t missing = jinja_to_integer(s, call->arguments[0]) - (int64_t)text->length;
    uint32_t fill = ' ';
    if (call->arguments[1].type != JINJA_MISSING) {
        const jinja_string *given = jinja_to_string(s, call->arguments[1]);
        if (given->length != 1) {
            jinja_fail(s, OFR_ETEMPLATE, "The fill character must be exactly one character long");
        }
        const char *p = given->data;
        fill = jinja_utf8_next(&p, given->data + given->size);
    }
    missing = missing < 0 ? 0 : missing;
    int64_t left = side == 'l'   ? 0
                   : side == 'r' ? missing
                                 /* CPython's str.center(): where the odd one goes */
                                 : missing / 2 + (missing & ((int64_t)text->length + missing) & 1);
    jinja_builder builder = {.state = s};
    jinja_charge(s, (size_t)missing);
    jinja_builder_pad(&builder, fill, left);
    jinja_builder_put(&builder, text->data, text->size);
    jinja_builder_pad(&builder, fill, missing - left);
    return jinja_builder_finish(&builder);
}

static jinja_value method_ljust(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return pad(s, self, call, 'l');
}

static jinja_value method_rjust(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return pad(s, self, call, 'r');
}

static jinja_value method_center(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return pad(s, self, call, 'c');
}

static jinja_value method_zfill(jinja_state *s, jinja_value self, const jinja_call *call)
{
    const jinja_string *text = self.as.string;
    int64_t missing = jinja_to_integer(s, call->arguments[0]) - (int64_t)text->length;
    size_t sign = text->size && (text->data[0] == '-' || text->data[0] == '+');
    jinja_builder builder = {.state = s};
    jinja_builder_put(&builder, text->data, sign);
    jinja_builder_pad(&builder, '0', missing);
    jinja_builder_put(&builder, text->data + sign, text->size - sign);
    return jinja_builder_finish(&builder);
}

static jinja_value method_expandtabs(jinja_state *s, jinja_value self, const jinja_call *call)
{
    int64_t width =
        call->arguments[0].type == JINJA_MISSING ? 8 : jinja_to_integer(s, call->arguments[0]);
    jinja_builder builder = {.state = s};
    const char *p = self.as.string->data, *end = p + self.as.string->size;
    int64_t column = 0;
    while (p < end) {
        const char *start = p;
        uint32_t c = jinja_utf8_next(&p, end);
        if (c == '\t') {
            int64_t count = width > 0 ? width - column % width : 0;
            jinja_charge(s, (size_t)count / 8);
            jinja_builder_pad(&builder, ' ', count);
            column += count;
        } else {
            jinja_builder_put(&builder, start, (size_t)(p - start));
            column = c == '\n' || c == '\r' ? 0 : column + 1;
        }
    }
    return jinja_builder_finish(&builder);
}

/* --- joining and formatting --- */

static jinja_value method_join(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_array items = jinja_items(s, call->arguments[0]);
    jinja_builder builder = {.state = s};
    for (size_t i = 0; i < items.count; i++) {
        if (items.items[i].type != JINJA_STRING) {
            jinja_fail(s, OFR_ETEMPLATE, "sequence item %zu: expected str instance, %s found", i,
                       jinja_type_name(items.items[i]));
        }
        if (i) {
            jinja_builder_put(&builder, self.as.string->data, self.as.string->size);
        }
        jinja_builder_put(&builder, items.items[i].as.string->data, items.items[i].as.string->size);
    }
    return jinja_builder_finish(&builder);
}

static jinja_value method_format(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_brace_format(s, self.as.string, call, NULL);
}

static jinja_value method_format_map(jinja_state *s, jinja_value self, const jinja_call *call)
{
    static const jinja_call nothing = {0};
    if (call->arguments[0].type != JINJA_DICT) {
        jinja_fail(s, OFR_ETEMPLATE, "format_map() needs a mapping");
    }
    return jinja_brace_format(s, self.as.string, &nothing, call->arguments[0].as.dict);
}

/* --- classification --- */

static jinja_value all_are(jinja_value self, bool (*is_class)(uint32_t), bool when_empty)
{
    const char *p = self.as.string->data, *end = p + self.as.string->size;
    if (p == end) {
        return jinja_bool(when_empty);
    }
    while (p < end) {
        if (!is_class(jinja_utf8_next(&p, end))) {
            return jinja_bool(false);
        }
    }
    return jinja_bool(true);
}

#define CLASS_METHOD(method, is_class, when_empty)                                                 \
    static jinja_value method(jinja_state *s, jinja_value self, const jinja_call *call)            \
    {                                                                                              \
        (void)call;                                                                                \
        jinja_charge(s, self.as.string->size / 16);                                                \
        return all_are(self, is_class, when_empty);                                                \
    }

static bool is_ascii(uint32_t c)
{
    return c < 0x80;
}

CLASS_METHOD(method_isalpha, jinja_is_alpha, false)
CLASS_METHOD(method_isdigit, jinja_is_digit, false)
CLASS_METHOD(method_isdecimal, jinja_is_decimal, false)
CLASS_METHOD(method_isnumeric, jinja_is_numeric, false)
CLASS_METHOD(method_isalnum, jinja_is_alnum, false)
CLASS_METHOD(method_isspace, jinja_is_space, false)
CLASS_METHOD(method_isascii, is_ascii, true)
CLASS_METHOD(method_isprintable, jinja_is_printable, true)

/* At least one cased character, and all of them of one case. */
static jinja_value one_case(jinja_state *s, jinja_value self, bool (*is_case)(uint32_t))
{
    const char *p = self.as.string->data, *end = p + self.as.string->size;
    bool seen = false;
    jinja_charge(s, self.as.string->size / 16);
    while (p < end) {
        uint32_t c = jinja_utf8_next(&p, end);
        if (is_case(c)) {
            seen = true;
        } else if (jinja_is_cased(c)) {
            return jinja_bool(false);
        }
    }
    return jinja_bool(seen);
}

static jinja_value method_islower(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return one_case(s, self, jinja_is_lower);
}

static jinja_value method_isupper(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return one_case(s, self, jinja_is_upper);
}

static jinja_value method_istitle(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    const char *p = self.as.string->data, *end = p + self.as.string->size;
    bool seen = false, in_word = false;
    while (p < end) {
        uint32_t c = jinja_utf8_next(&p, end);
        bool upper = jinja_is_upper(c) || jinja_is_title(c), lower = jinja_is_lower(c);
        if ((upper && in_word) || (lower && !in_word)) {
            return jinja_bool(false);
        }
        seen |= upper || lower;
        in_word = upper || lower;
    }
    return jinja_bool(seen);
}

static jinja_value method_isidentifier(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    const char *p = self.as.string->data, *end = p + self.as.string->size;
    bool valid = p < end;
    for (bool first = true; valid && p < end; first = false) {
        uint32_t c = jinja_utf8_next(&p, end);
        valid = c == '_' || jinja_is_alpha(c) || (!first && jinja_is_decimal(c));
    }
    return jinja_bool(valid);
}

static const jinja_function methods[] = {
    {"upper", method_upper, "", 0, false},
    {"lower", method_lower, "", 0, false},
    {"casefold", method_lower, "", 0, false},
    {"capitalize", method_capitalize, "", 0, false},
    {"title", method_title, "", 0, false},
    {"swapcase", method_swapcase, "", 0, false},
    {"ljust", method_ljust, "/width,fillchar", 1, false},
    {"rjust", method_rjust, "/width,fillchar", 1, false},
    {"center", method_center, "/width,fillchar", 1, false},
    {"zfill", method_zfill, "/width", 1, false},
    {"expandtabs", method_expandtabs, "tabsize", 0, false},
    {"join", method_join, "/iterable", 1, false},
    {"format", method_format, NULL, 0, false},
    {"format_map", method_format_map, "/mapping", 1, false},
    {"isalpha", method_isalpha, "", 0, false},
    {"isdigit", method_isdigit, "", 0, false},
    {"isdecimal", method_isdecimal, "", 0, false},
    {"isnumeric", method_isnumeric, "", 0, false},
    {"isalnum", method_isalnum, "", 0, false},
    {"isspace", method_isspace, "", 0, false},
    {"isascii", method_isascii, "", 0, false},
    {"isprintable", method_isprintable, "", 0, false},
    {"islower", method_islower, "", 0, false},
    {"isupper", method_isupper, "", 0, false},
    {"istitle", method_istitle, "", 0, false},
    {"isidentifier", method_isidentifier, "", 0, false},
    {0},
};

const jinja_function *jinja_find_string_method(const char *name, size_t size)
{
    const jinja_function *found = jinja_find_function(methods, name, size);
    return found ? found : jinja_find_function(jinja_search_methods, name, size);
}
