/* Filters on sequences: join, first, sort, unique, batch, groupby, ... */
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

/* What sorting, grouping and comparing filters look at: an attribute, in lower case if wanted. */
static jinja_value key_of(jinja_state *s, jinja_value item, jinja_value attribute,
                          jinja_value default_value, bool case_sensitive)
{
    jinja_value key = jinja_lookup_path(s, item, attribute, default_value);
    if (!case_sensitive && key.type == JINJA_STRING) {
        key = jinja_change_case(s, key.as.string, JINJA_CASE_LOWER);
    }
    return key;
}

static jinja_value list_value(jinja_state *s, const jinja_value *items, size_t count)
{
    return jinja_array_value(s, JINJA_LIST, items, count);
}

static jinja_value *copy_items(jinja_state *s, jinja_array array)
{
    jinja_value *items = jinja_alloc_array(s, array.count, sizeof *items);
    if (array.count) {
        memcpy(items, array.items, array.count * sizeof *items);
    }
    return items;
}

static jinja_value filter_join(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_array items = jinja_items(s, self);
    jinja_value separator = call->arguments[0], attribute = call->arguments[1];
    const jinja_string *between = separator.type == JINJA_MISSING ? NULL : jinja_str(s, separator);
    jinja_builder builder = {.state = s};
    for (size_t i = 0; i < items.count; i++) {
        if (i && between) {
            jinja_builder_put(&builder, between->data, between->size);
        }
        jinja_write_str(&builder, jinja_lookup_path(s, items.items[i], attribute, jinja_missing()));
    }
    return jinja_builder_finish(&builder);
}

static jinja_value filter_length(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    static const jinja_string length_name = {"length", 6, 6};
    if (self.type == JINJA_LOOP) {
        return jinja_getattr(s, self, &length_name);
    }
    int64_t length = jinja_length(self);
    if (length < 0) {
        jinja_fail(s, OFR_ETEMPLATE, "object of type '%s' has no len()", jinja_type_name(self));
    }
    return jinja_int(length);
}

static jinja_value filter_first(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    jinja_value first;
    if (jinja_next(jinja_iterate(s, self), &first)) {
        return first;
    }
    return jinja_undefined_hint(s, "No first item, sequence was empty.");
}

/* Python's reversed() takes what has a length and an order. */
static jinja_array reversible(jinja_state *s, jinja_value self)
{
    if (jinja_length(self) < 0) {
        jinja_fail(s, OFR_ETEMPLATE, "'%s' object is not reversible", jinja_type_name(self));
    }
    return jinja_items(s, self);
}

static jinja_value filter_last(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    jinja_array items = reversible(s, self);
    return items.count ? items.items[items.count - 1]
                       : jinja_undefined_hint(s, "No last item, sequence was empty.");
}

static jinja_value filter_reverse(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    if (self.type == JINJA_STRING) {
        return jinja_slice(s, self, jinja_missing(), jinja_missing(), jinja_int(-1));
    }
    jinja_array array = jinja_items(s, self);
    jinja_value *items = jinja_alloc_array(s, array.count, sizeof *items);
    for (size_t i = 0; i < array.count; i++) {
        items[i] = array.items[array.count - 1 - i];
    }
    /* A generator is reversed by way of a list, all else by an iterator. */
    return self.type == JINJA_ITERATOR ? list_value(s, items, array.count)
                                       : jinja_iterator_value(s, items, array.count);
}

static jinja_value filter_list(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    jinja_array items = jinja_items(s, self);
    return list_value(s, items.items, items.count);
}

static jinja_value filter_items(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    if (self.type == JINJA_UNDEFINED) {
        return jinja_iterator_value(s, NULL, 0);
    }
    if (self.type != JINJA_DICT) {
        jinja_fail(s, OFR_ETEMPLATE, "Can only get item pairs from a mapping.");
    }
    self.type = JINJA_ITEMS;
    jinja_array items = jinja_items(s, self);
    return jinja_iterator_value(s, items.items, items.count);
}

/* Sort keys of several attributes, "a,b", as a list each. */
static jinja_value multi_key(jinja_state *s, jinja_value item, jinja_value attribute,
                             bool case_sensitive)
{
    if (attribute.type != JINJA_STRING) {
        jinja_value *one = jinja_alloc_array(s, 1, sizeof *one);
        one[0] = key_of(s, item, attribute, jinja_missing(), case_sensitive);
        return list_value(s, one, 1);
    }
    const jinja_string *text = attribute.as.string;
    size_t count = 1, used = 0;
    for (size_t i = 0; i < text->size; i++) {
        count += text->data[i] == ',';
    }
    jinja_value *keys = jinja_alloc_array(s, count, sizeof *keys);
    for (size_t start = 0; used < count; used++) {
        size_t end = start;
        while (end < text->size && text->data[end] != ',') {
            end++;
        }
        jinja_value path = jinja_part(s, text->data + start, end - start);
        keys[used] = key_of(s, item, path, jinja_missing(), case_sensitive);
        start = end + 1;
    }
    return list_value(s, keys, count);
}

static jinja_value filter_sort(jinja_state *s, jinja_value self, const jinja_call *call)
{
    bool reverse = jinja_truth(s, call->arguments[0]);
    bool case_sensitive = jinja_truth(s, call->arguments[1]);
    jinja_array array = jinja_items(s, self);
    jinja_value *items = copy_items(s, array);
    jinja_value *keys = jinja_alloc_array(s, array.count, sizeof *keys);
    for (size_t i = 0; i < array.count; i++) {
        keys[i] = multi_key(s, items[i], call->arguments[2], case_sensitive);
    }
    jinja_sort(s, keys, items, array.count, reverse);
    return list_value(s, items, array.count);
}

static jinja_value filter_dictsort(jinja_state *s, jinja_value self, const jinja_call *call)
{
    bool case_sensitive = jinja_truth(s, call->arguments[0]);
    jinja_value by = call->arguments[1];
    bool by_value = by.type == JINJA_STRING && jinja_string_is(by.as.string, "value");
    if (!by_value && by.type != JINJA_MISSING &&
        !(by.type == JINJA_STRING && jinja_string_is(by.as.string, "key"))) {
        jinja_fail(s, OFR_ETEMPLATE, "You can only sort by either \"key\" or \"value\"");
    }
    if (self.type != JINJA_DICT) {
        jinja_fail(s, OFR_ETEMPLATE, "dictsort: a mapping is needed, not '%s'",
                   jinja_type_name(self));
    }
    self.type = JINJA_ITEMS;
    jinja_array array = jinja_items(s, self);
    jinja_value *items = copy_items(s, array);
    jinja_value *keys = jinja_alloc_array(s, array.count, sizeof *keys);
    for (size_t i = 0; i < array.count; i++) {
        keys[i] = key_of(s, items[i].as.array->items[by_value], jinja_none(), jinja_missing(),
                         case_sensitive);
    }
    jinja_sort(s, keys, items, array.count, jinja_truth(s, call->arguments[2]));
    return list_value(s, items, array.count);
}

static jinja_value filter_unique(jinja_state *s, jinja_value self, const jinja_call *call)
{
    bool case_sensitive = jinja_truth(s, call->arguments[0]);
    jinja_array array = jinja_items(s, self);
    jinja_value *items = jinja_alloc_array(s, array.count, sizeof *items);
    jinja_dict *seen = jinja_dict_new(s);
    size_t count = 0;
    for (size_t i = 0; i < array.count; i++) {
        jinja_value key =
            key_of(s, array.items[i], call->arguments[1], jinja_missing(), case_sensitive);
        if (!jinja_dict_get(s, seen, key)) {
            jinja_dict_set(s, seen, key, jinja_none());
            items[count++] = array.items[i];
        }
    }
    return jinja_iterator_value(s, items, count);
}

static jinja_value extreme(jinja_state *s, jinja_value self, const jinja_call *call, bool largest)
{
    bool case_sensitive = jinja_truth(s, call->arguments[0]);
    jinja_array array = jinja_items(s, self);
    if (array.count == 0) {
        return jinja_undefined_hint(s, "No aggregated item, sequence was empty.");
    }
    size_t best = 0;
    jinja_value best_key = jinja_none();
    for (size_t i = 0; i < array.count; i++) {
        jinja_value key =
            key_of(s, array.items[i], call->arguments[1], jinja_missing(), case_sensitive);
        if (i == 0 || jinja_ordered(s, largest ? JINJA_OP_GT : JINJA_OP_LT, key, best_key)) {
            best = i;
            best_key = key;
        }
    }
    return array.items[best];
}

static jinja_value filter_min(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return extreme(s, self, call, false);
}

static jinja_value filter_max(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return extreme(s, self, call, true);
}

static jinja_value filter_sum(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_value total =
        call->arguments[1].type == JINJA_MISSING ? jinja_int(0) : call->arguments[1];
    jinja_array array = jinja_items(s, self);
    if (total.type == JINJA_STRING) {
        jinja_fail(s, OFR_ETEMPLATE, "sum() can't sum strings [use ''.join(seq) instead]");
    }
    for (size_t i = 0; i < array.count; i++) {
        jinja_value item =
            jinja_lookup_path(s, array.items[i], call->arguments[0], jinja_missing());
        total = jinja_binary(s, JINJA_OP_ADD, total, item);
    }
    return total;
}

static jinja_value filter_batch(jinja_state *s, jinja_value self, const jinja_call *call)
{
    int64_t size = jinja_to_integer(s, call->arguments[0]);
    jinja_value fill = call->arguments[1];
    bool fills = fill.type != JINJA_MISSING && fill.type != JINJA_NONE;
    jinja_array array = jinja_items(s, self);
    if (size <= 0 || (uint64_t)size >= SIZE_MAX / 2) {
        size = size == 0 && array.count ? 1 : INT64_MAX / 2;
        fills = false;
    }
    size_t width = (size_t)size, count = array.count ? (array.count - 1) / width + 1 : 0;
    jinja_value *rows = jinja_alloc_array(s, count, sizeof *rows);
    for (size_t i = 0; i < count; i++) {
        size_t first = i * width;
        size_t have = array.count - first < width ? array.count - first : width;
        rows[i] = list_value(s, array.items + first, have);
        if (fills && have < width) {
            jinja_charge(s, width);
            jinja_value *row = jinja_alloc_array(s, width, sizeof *row);
            for (size_t j = 0; j < width; j++) {
                row[j] = j < have ? array.items[first + j] : fill;
            }
            rows[i] = list_value(s, row, width);
        }
    }
    return jinja_iterator_value(s, rows, count);
}

static jinja_value filter_slice(jinja_state *s, jinja_value self, const jinja_call *call)
{
    int64_t slices = jinja_to_integer(s, call->arguments[0]);
    jinja_value fill = call->arguments[1];
    bool fills = fill.type != JINJA_MISSING && fill.type != JINJA_NONE;
    jinja_array array = jinja_items(s, self);
    if (slices == 0) {
        jinja_fail(s, OFR_ETEMPLATE, "integer division or modulo by zero");
    }
    if (slices < 0) {
        return jinja_iterator_value(s, NULL, 0);
    }
    jinja_charge(s, (size_t)slices);
    size_t count = (size_t)slices, each = array.count / count, extra = array.count % count;
    jinja_value *columns = jinja_alloc_array(s, count, sizeof *columns);
    size_t start = 0;
    for (size_t i = 0; i < count; i++) {
        size_t size = each + (i < extra);
        columns[i] = list_value(s, size ? array.items + start : NULL, size);
        if (fills && i >= extra) {
            jinja_value *column = jinja_alloc_array(s, size + 1, sizeof *column);
            for (size_t j = 0; j < size; j++) {
                column[j] = array.items[start + j];
            }
            column[size] = fill;
            columns[i] = list_value(s, column, size + 1);
        }
        start += size;
    }
    return jinja_iterator_value(s, columns, count);
}

static jinja_value make_group(jinja_state *s, jinja_value key, const jinja_value *items,
                              size_t count)
{
    jinja_value pair = jinja_pair(s, key, list_value(s, items, count));
    jinja_array *array = jinja_alloc(s, sizeof *array);
    *array = *pair.as.array;
    array->grouped = true;
    pair.as.array = array;
    return pair;
}

static jinja_value filter_groupby(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_value attribute = call->arguments[0], default_value = call->arguments[1];
    bool case_sensitive = jinja_truth(s, call->arguments[2]);
    jinja_array array = jinja_items(s, self);
    jinja_value *items = copy_items(s, array);
    jinja_value *keys = jinja_alloc_array(s, array.count, sizeof *keys);
    for (size_t i = 0; i < array.count; i++) {
        keys[i] = key_of(s, items[i], attribute, default_value, case_sensitive);
    }
    jinja_sort(s, keys, items, array.count, false);
    jinja_value *groups = jinja_alloc_array(s, array.count, sizeof *groups);
    size_t count = 0;
    for (size_t first = 0, end; first < array.count; first = end) {
        for (end = first + 1; end < array.count && jinja_equal(s, keys[first], keys[end]); end++) {
        }
        jinja_value key = jinja_lookup_path(s, items[first], attribute, default_value);
        groups[count++] = make_group(s, key, items + first, end - first);
    }
    return list_value(s, groups, count);
}

const jinja_function *jinja_find_sequence_filter(const char *name, size_t size)
{
    static const jinja_function filters[] = {
        {"join", filter_join, "d,attribute", 0, false},
        {"length", filter_length, "", 0, false},
        {"count", filter_length, "", 0, false},
        {"first", filter_first, "", 0, false},
        {"last", filter_last, "", 0, false},
        {"reverse", filter_reverse, "", 0, false},
        {"list", filter_list, "", 0, false},
        {"items", filter_items, "", 0, true},
        {"sort", filter_sort, "reverse,case_sensitive,attribute", 0, false},
        {"dictsort", filter_dictsort, "case_sensitive,by,reverse", 0, false},
        {"unique", filter_unique, "case_sensitive,attribute", 0, true},
        {"min", filter_min, "case_sensitive,attribute", 0, false},
        {"max", filter_max, "case_sensitive,attribute", 0, false},
        {"sum", filter_sum, "attribute,start", 0, false},
        {"batch", filter_batch, "linecount,fill_with", 1, true},
        {"slice", filter_slice, "slices,fill_with", 1, true},
        {"groupby", filter_groupby, "attribute,default,case_sensitive", 1, false},
        {0},
    };
    return jinja_find_function(filters, name, size);
}
