/* Methods of str that search, split, strip and replace. */
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

size_t jinja_string_offset(const jinja_string *string, size_t index)
{
    if (string->length == string->size) {
        return index;
    }
    const char *p = string->data, *end = p + string->size;
    while (index-- > 0) {
        jinja_utf8_next(&p, end);
    }
    return (size_t)(p - string->data);
}

int64_t jinja_search(jinja_state *s, const jinja_string *text, size_t from,
                     const jinja_string *needle)
{
    const char *found = memmem(text->data + from, text->size - from, needle->data, needle->size);
    size_t end = found ? (size_t)(found - text->data) : text->size;
    jinja_charge(s, (end - from) / 64);
    return found ? (int64_t)end : -1;
}

static int64_t search_last(jinja_state *s, const jinja_string *text, const jinja_string *needle)
{
    jinja_charge(s, text->size / 16);
    for (size_t at = text->size + 1; at-- > 0;) {
        if (needle->size <= text->size - at &&
            memcmp(text->data + at, needle->data, needle->size) == 0) {
            return (int64_t)at;
        }
    }
    return -1;
}

/* The part of self that optional arguments `start` and `end` select; false where start lies
 * beyond the end, so that not even "" is found. */
static bool window(jinja_state *s, jinja_value self, const jinja_call *call, jinja_string *ret_part,
                   int64_t *ret_start)
{
    int64_t length = (int64_t)self.as.string->length, bounds[2] = {0, length};
    for (int i = 0; i < 2; i++) {
        jinja_value given = call->arguments[i + 1];
        if (given.type != JINJA_MISSING && given.type != JINJA_NONE) {
            bounds[i] = jinja_to_integer(s, given);
            bounds[i] += bounds[i] < 0 ? length : 0;
            bounds[i] = bounds[i] < 0 ? 0 : bounds[i];
        }
    }
    bounds[1] = bounds[1] > length ? length : bounds[1];
    if (bounds[0] > bounds[1]) {
        return false;
    }
    size_t first = jinja_string_offset(self.as.string, (size_t)bounds[0]);
    size_t end = jinja_string_offset(self.as.string, (size_t)bounds[1]);
    *ret_part =
        (jinja_string){self.as.string->data + first, end - first, (size_t)(bounds[1] - bounds[0])};
    *ret_start = bounds[0];
    return true;
}

static int64_t find(jinja_state *s, jinja_value self, const jinja_call *call, bool last)
{
    const jinja_string *needle = jinja_to_string(s, call->arguments[0]);
    jinja_string part;
    int64_t start;
    if (!window(s, self, call, &part, &start)) {
        return -1;
    }
    int64_t at = last ? search_last(s, &part, needle) : jinja_search(s, &part, 0, needle);
    return at < 0 ? -1 : start + (int64_t)jinja_utf8_length(part.data, (size_t)at);
}

static jinja_value method_find(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_int(find(s, self, call, false));
}

static jinja_value method_rfind(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_int(find(s, self, call, true));
}

static jinja_value method_index(jinja_state *s, jinja_value self, const jinja_call *call)
{
    int64_t at = find(s, self, call, false);
    if (at < 0) {
        jinja_fail(s, OFR_ETEMPLATE, "substring not found");
    }
    return jinja_int(at);
}

static jinja_value method_rindex(jinja_state *s, jinja_value self, const jinja_call *call)
{
    int64_t at = find(s, self, call, true);
    if (at < 0) {
        jinja_fail(s, OFR_ETEMPLATE, "substring not found");
    }
    return jinja_int(at);
}

static jinja_value method_count(jinja_state *s, jinja_value self, const jinja_call *call)
{
    const jinja_string *needle = jinja_to_string(s, call->arguments[0]);
    jinja_string part;
    int64_t start, count = 0;
    if (!window(s, self, call, &part, &start)) {
        return jinja_int(0);
    }
    if (needle->size == 0) {
        return jinja_int((int64_t)part.length + 1);
    }
    for (size_t from = 0; from <= part.size;) {
        int64_t at = jinja_search(s, &part, from, needle);
        if (at < 0) {
            break;
        }
        count++;
        from = (size_t)at + needle->size;
    }
    return jinja_int(count);
}

static bool has_affix(const jinja_string *text, const jinja_string *affix, bool at_end)
{
    return affix->size <= text->size && memcmp(text->data + (at_end ? text->size - affix->size : 0),
                                               affix->data, affix->size) == 0;
}

static jinja_value test_affix(jinja_state *s, jinja_value self, const jinja_call *call, bool at_end)
{
    jinja_string part;
    int64_t start;
    jinja_value affix = call->arguments[0];
    if (affix.type != JINJA_TUPLE && affix.type != JINJA_STRING) {
        jinja_fail(s, OFR_ETEMPLATE, "%s first arg must be str or a tuple of str, not %s",
                   at_end ? "endswith" : "startswith", jinja_type_name(affix));
    }
    bool inside = window(s, self, call, &part, &start);
    if (affix.type == JINJA_STRING) {
        return jinja_bool(inside && has_affix(&part, affix.as.string, at_end));
    }
    for (size_t i = 0; i < affix.as.array->count; i++) {
        const jinja_string *one = jinja_to_string(s, affix.as.array->items[i]);
        if (inside && has_affix(&part, one, at_end)) {
            return jinja_bool(true);
        }
    }
    return jinja_bool(false);
}

static jinja_value method_startswith(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return test_affix(s, self, call, false);
}

static jinja_value method_endswith(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return test_affix(s, self, call, true);
}

static jinja_value method_removeprefix(jinja_state *s, jinja_value self, const jinja_call *call)
{
    const jinja_string *text = self.as.string, *affix = jinja_to_string(s, call->arguments[0]);
    size_t cut = has_affix(text, affix, false) ? affix->size : 0;
    return jinja_part(s, text->data + cut, text->size - cut);
}

static jinja_value method_removesuffix(jinja_state *s, jinja_value self, const jinja_call *call)
{
    const jinja_string *text = self.as.string, *affix = jinja_to_string(s, call->arguments[0]);
    size_t cut = has_affix(text, affix, true) ? affix->size : 0;
    return jinja_part(s, text->data, text->size - cut);
}

/* --- strip --- */

static bool is_stripped(uint32_t c, const jinja_string *chars)
{
    if (!chars) {
        return jinja_is_space(c);
    }
    const char *p = chars->data, *end = p + chars->size;
    while (p < end) {
        if (jinja_utf8_next(&p, end) == c) {
            return true;
        }
    }
    return false;
}

jinja_value jinja_strip(jinja_state *s, const jinja_string *text, jinja_value chars, bool left,
                        bool right)
{
    bool any = chars.type == JINJA_MISSING || chars.type == JINJA_NONE;
    const jinja_string *set = any ? NULL : jinja_to_string(s, chars);
    const char *p = text->data, *end = p + text->size;
    while (left && p < end) {
        const char *next = p;
        if (!is_stripped(jinja_utf8_next(&next, end), set)) {
            break;
        }
        p = next;
    }
    while (right && p < end) {
        const char *previous = jinja_utf8_previous(p, end), *q = previous;
        if (!is_stripped(jinja_utf8_next(&q, end), set)) {
            break;
        }
        end = previous;
    }
    jinja_charge(s, (text->size - (size_t)(end - p)) / 16 * (set ? set->length : 1));
    return jinja_part(s, p, (size_t)(end - p));
}

static jinja_value method_strip(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_strip(s, self.as.string, call->arguments[0], true, true);
}

static jinja_value method_lstrip(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_strip(s, self.as.string, call->arguments[0], true, false);
}

static jinja_value method_rstrip(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_strip(s, self.as.string, call->arguments[0], false, true);
}

/* --- split --- */

typedef struct value_list {
    jinja_state *state;
    jinja_value *items;
    size_t count, capacity;
} value_list;

static void append_part(value_list *list, const char *start, const char *end)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 8;
        jinja_value *grown = jinja_alloc_array(list->state, capacity, sizeof *grown);
        if (list->count) {
            memcpy(grown, list->items, list->count * sizeof *grown);
        }
        list->items = grown;
        list->capacity = capacity;
    }
    jinja_charge(list->state, 1);
    list->items[list->count++] = jinja_part(list->state, start, (size_t)(end - start));
}

static void split_space(value_list *list, const jinja_string *text, int64_t limit)
{
    const char *p = text->data, *end = p + text->size;
    for (int64_t cuts = 0; p < end;) {
        const char *start = p;
        if (jinja_is_space(jinja_utf8_next(&p, end))) {
            continue;
        }
        if (limit >= 0 && cuts == limit) {
            const char *last = end;
            while (last > start) { /* the rest keeps its inner space, not its trailing one */
                const char *previous = jinja_utf8_previous(start, last), *q = previous;
                if (!jinja_is_space(jinja_utf8_next(&q, end))) {
                    break;
                }
                last = previous;
            }
            append_part(list, start, last);
            return;
        }
        const char *word_end = p;
        while (p < end) {
            word_end = p;
            if (jinja_is_space(jinja_utf8_next(&p, end))) {
                break;
            }
            word_end = p;
        }
        append_part(list, start, word_end);
        cuts++;
    }
}

static void reverse_parts(value_list *list)
{
    for (size_t i = 0; i + 1 < list->count - i; i++) {
        jinja_value swapped = list->items[i];
        list->items[i] = list->items[list->count - 1 - i];
        list->items[list->count - 1 - i] = swapped;
    }
}

static void rsplit_space(value_list *list, const jinja_string *text, int64_t limit)
{
    const char *start = text->data, *p = start + text->size;
    for (int64_t cuts = 0; p > start;) {
        const char *word_end = p, *q;
        p = q = jinja_utf8_previous(start, p);
        if (jinja_is_space(jinja_utf8_next(&q, word_end))) {
            continue;
        }
        if (limit >= 0 && cuts == limit) {
            const char *first = start;
            while (first < word_end) {
                const char *next = first;
                if (!jinja_is_space(jinja_utf8_next(&next, word_end))) {
                    break;
                }
                first = next;
            }
            append_part(list, first, word_end);
            break;
        }
        while (p > start) {
            const char *previous = jinja_utf8_previous(start, p), *r = previous;
            if (jinja_is_space(jinja_utf8_next(&r, p))) {
                break;
            }
            p = previous;
        }
        append_part(list, p, word_end);
        cuts++;
    }
    reverse_parts(list);
}

static void split_at(value_list *list, const jinja_string *text, const jinja_string *separator,
                     int64_t limit)
{
    size_t from = 0;
    for (int64_t cuts = 0; limit < 0 || cuts < limit; cuts++) {
        int64_t at = jinja_search(list->state, text, from, separator);
        if (at < 0) {
            break;
        }
        append_part(list, text->data + from, text->data + at);
        from = (size_t)at + separator->size;
    }
    append_part(list, text->data + from, text->data + text->size);
}

static void rsplit_at(value_list *list, const jinja_string *text, const jinja_string *separator,
                      int64_t limit)
{
    jinja_string rest = *text;
    for (int64_t cuts = 0; cuts < limit; cuts++) {
        int64_t at = search_last(list->state, &rest, separator);
        if (at < 0) {
            break;
        }
        append_part(list, rest.data + at + separator->size, rest.data + rest.size);
        rest.size = (size_t)at;
    }
    append_part(list, rest.data, rest.data + rest.size);
    reverse_parts(list);
}

static jinja_value split(jinja_state *s, jinja_value self, const jinja_call *call, bool from_right)
{
    const jinja_string *text = self.as.string;
    jinja_value given = call->arguments[0];
    int64_t limit =
        call->arguments[1].type == JINJA_MISSING ? -1 : jinja_to_integer(s, call->arguments[1]);
    value_list list = {.state = s};
    if (given.type == JINJA_MISSING || given.type == JINJA_NONE) {
        jinja_charge(s, text->size / 16);
        if (from_right) {
            rsplit_space(&list, text, limit);
        } else {
            split_space(&list, text, limit);
        }
    } else {
        const jinja_string *separator = jinja_to_string(s, given);
        if (separator->size == 0) {
            jinja_fail(s, OFR_ETEMPLATE, "empty separator");
        }
        if (from_right && limit >= 0) {
            rsplit_at(&list, text, separator, limit);
        } else {
            split_at(&list, text, separator, limit);
        }
    }
    return jinja_array_value(s, JINJA_LIST, list.items, list.count);
}

static jinja_value method_split(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return split(s, self, call, false);
}

static jinja_value method_rsplit(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return split(s, self, call, true);
}

jinja_array jinja_split_lines(jinja_state *s, const jinja_string *text, bool keep_ends)
{
    value_list list = {.state = s};
    const char *p = text->data, *end = p + text->size, *start = p;
    jinja_charge(s, text->size / 16);
    while (p < end) {
        const char *line_end = p;
        uint32_t c = jinja_utf8_next(&p, end);
        if (!jinja_is_line_break(c)) {
            continue;
        }
        p += c == '\r' && p < end && *p == '\n';
        append_part(&list, start, keep_ends ? p : line_end);
        start = p;
    }
    if (start < end) {
        append_part(&list, start, end);
    }
    return (jinja_array){.items = list.items, .count = list.count};
}

static jinja_value method_splitlines(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_array lines = jinja_split_lines(s, self.as.string, jinja_truth(s, call->arguments[0]));
    return jinja_array_value(s, JINJA_LIST, lines.items, lines.count);
}

static jinja_value partition(jinja_state *s, jinja_value self, const jinja_call *call, bool last)
{
    const jinja_string *text = self.as.string, *separator = jinja_to_string(s, call->arguments[0]);
    if (separator->size == 0) {
        jinja_fail(s, OFR_ETEMPLATE, "empty separator");
    }
    int64_t at = last ? search_last(s, text, separator) : jinja_search(s, text, 0, separator);
    jinja_value *parts = jinja_alloc_array(s, 3, sizeof *parts);
    parts[0] = parts[1] = parts[2] = jinja_part(s, "", 0);
    if (at < 0) {
        parts[last ? 2 : 0] = self;
    } else {
        size_t behind = (size_t)at + separator->size;
        parts[0] = jinja_part(s, text->data, (size_t)at);
        parts[1] = call->arguments[0];
        parts[2] = jinja_part(s, text->data + behind, text->size - behind);
    }
    return jinja_array_value(s, JINJA_TUPLE, parts, 3);
}

static jinja_value method_partition(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return partition(s, self, call, false);
}

static jinja_value method_rpartition(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return partition(s, self, call, true);
}

/* --- replace --- */

/* An empty `old` matches before each character and at the end. */
static jinja_value interleave(jinja_state *s, const jinja_string *text, const jinja_string *between,
                              int64_t limit)
{
    jinja_builder builder = {.state = s};
    const char *p = text->data, *end = p + text->size;
    for (int64_t count = 0;; count++) {
        if (limit < 0 || count < limit) {
            jinja_charge(s, 1);
            jinja_builder_put(&builder, between->data, between->size);
        }
        if (p >= end) {
            break;
        }
        const char *start = p;
        jinja_utf8_next(&p, end);
        jinja_builder_put(&builder, start, (size_t)(p - start));
    }
    return jinja_builder_finish(&builder);
}

jinja_value jinja_replace(jinja_state *s, const jinja_string *text, const jinja_string *old,
                          const jinja_string *new_text, int64_t limit)
{
    if (old->size == 0) {
        return interleave(s, text, new_text, limit);
    }
    jinja_builder builder = {.state = s};
    size_t from = 0;
    for (int64_t count = 0; limit < 0 || count < limit; count++) {
        int64_t at = jinja_search(s, text, from, old);
        if (at < 0) {
            break;
        }
        jinja_charge(s, 1);
        jinja_builder_put(&builder, text->data + from, (size_t)at - from);
        jinja_builder_put(&builder, new_text->data, new_text->size);
        from = (size_t)at + old->size;
    }
    if (from == 0) {
        return jinja_string_value(text);
    }
    jinja_builder_put(&builder, text->data + from, text->size - from);
    return jinja_builder_finish(&builder);
}

static jinja_value method_replace(jinja_state *s, jinja_value self, const jinja_call *call)
{
    const jinja_string *old = jinja_to_string(s, call->arguments[0]);
    const jinja_string *new_text = jinja_to_string(s, call->arguments[1]);
    jinja_value limit = call->arguments[2];
    return jinja_replace(s, self.as.string, old, new_text,
                         limit.type == JINJA_MISSING ? -1 : jinja_to_integer(s, limit));
}

const jinja_function jinja_search_methods[] = {
    {"find", method_find, "/sub,start,end", 1, false},
    {"rfind", method_rfind, "/sub,start,end", 1, false},
    {"index", method_index, "/sub,start,end", 1, false},
    {"rindex", method_rindex, "/sub,start,end", 1, false},
    {"count", method_count, "/sub,start,end", 1, false},
    {"startswith", method_startswith, "/prefix,start,end", 1, false},
    {"endswith", method_endswith, "/suffix,start,end", 1, false},
    {"removeprefix", method_removeprefix, "/prefix", 1, false},
    {"removesuffix", method_removesuffix, "/suffix", 1, false},
    {"strip", method_strip, "/chars", 0, false},
    {"lstrip", method_lstrip, "/chars", 0, false},
    {"rstrip", method_rstrip, "/chars", 0, false},
    {"split", method_split, "sep,maxsplit", 0, false},
    {"rsplit", method_rsplit, "sep,maxsplit", 0, false},
    {"splitlines", method_splitlines, "keepends", 0, false},
    {"partition", method_partition, "/sep", 1, false},
    {"rpartition", method_rpartition, "/sep", 1, false},
    {"replace", method_replace, "/old,new,count", 2, false},
    {0},
};
