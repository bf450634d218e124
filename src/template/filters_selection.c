/* Filters that apply another filter or a test to each item: map, select, reject and their
 * attribute forms. Their results can be used once, as Python's generators. */
#include <string.h>

#include "template/interpreter.h"

static jinja_call rest_of(const jinja_call *call, size_t skipped)
{
    jinja_call rest = *call;
    rest.arguments = rest.count > skipped ? rest.arguments + skipped : NULL;
    rest.count = rest.count > skipped ? rest.count - skipped : 0;
    return rest;
}

static jinja_value map_attribute(jinja_state *s, jinja_array array, const jinja_call *call)
{
    jinja_value attribute = jinja_missing(), default_value = jinja_missing();
    for (size_t i = 0; i < call->keyword_count; i++) {
        if (jinja_string_is(call->keywords[i].name, "attribute")) {
            attribute = call->keywords[i].value;
        } else if (jinja_string_is(call->keywords[i].name, "default")) {
            default_value = call->keywords[i].value;
        } else {
            jinja_fail(s, OFR_ETEMPLATE, "map: unexpected keyword argument '%.*s'",
                       JINJA_TEXT(call->keywords[i].name));
        }
    }
    if (attribute.type == JINJA_MISSING) {
        jinja_fail(s, OFR_ETEMPLATE, "map requires a filter argument");
    }
    jinja_value *items = jinja_alloc_array(s, array.count, sizeof *items);
    for (size_t i = 0; i < array.count; i++) {
        items[i] = jinja_lookup_path(s, array.items[i], attribute, default_value);
    }
    return jinja_iterator_value(s, items, array.count);
}

static jinja_value filter_map(jinja_state *s, jinja_value self, const jinja_call *call)
{
    if (!jinja_truth(s, self)) {
        return jinja_iterator_value(s, NULL, 0);
    }
    jinja_array array = jinja_items(s, self);
    if (call->count == 0) {
        return map_attribute(s, array, call);
    }
    const jinja_string *name = jinja_to_string(s, call->arguments[0]);
    jinja_call rest = rest_of(call, 1);
    jinja_value *items = jinja_alloc_array(s, array.count, sizeof *items);
    for (size_t i = 0; i < array.count; i++) {
        jinja_charge(s, 1);
        items[i] = jinja_call_filter(s, name, array.items[i], &rest);
    }
    return jinja_iterator_value(s, items, array.count);
}

static jinja_value select_items(jinja_state *s, jinja_value self, const jinja_call *call,
                                bool wanted, bool by_attribute)
{
    if (!jinja_truth(s, self)) {
        return jinja_iterator_value(s, NULL, 0);
    }
    if (by_attribute && call->count == 0) {
        jinja_fail(s, OFR_ETEMPLATE, "Missing parameter for attribute name");
    }
    jinja_array array = jinja_items(s, self);
    size_t test_at = by_attribute ? 1 : 0;
    bool has_test = call->count > test_at;
    const jinja_string *test = has_test ? jinja_to_string(s, call->arguments[test_at]) : NULL;
    jinja_call rest = rest_of(call, test_at + 1);
    jinja_value *items = jinja_alloc_array(s, array.count, sizeof *items);
    size_t count = 0;
    for (size_t i = 0; i < array.count; i++) {
        jinja_charge(s, 1);
        jinja_value subject = array.items[i];
        if (by_attribute) {
            subject = jinja_lookup_path(s, subject, call->arguments[0], jinja_missing());
        }
        bool passes = has_test ? jinja_call_test(s, test, subject, &rest) : jinja_truth(s, subject);
        if (passes == wanted) {
            items[count++] = array.items[i];
        }
    }
    return jinja_iterator_value(s, items, count);
}

static jinja_value filter_select(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return select_items(s, self, call, true, false);
}

static jinja_value filter_reject(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return select_items(s, self, call, false, false);
}

static jinja_value filter_selectattr(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return select_items(s, self, call, true, true);
}

static jinja_value filter_rejectattr(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return select_items(s, self, call, false, true);
}

const jinja_function *jinja_find_selection_filter(const char *name, size_t size)
{
    static const jinja_function filters[] = {
        {"map", filter_map, NULL, 0, true},
        {"select", filter_select, NULL, 0, true},
        {"reject", filter_reject, NULL, 0, true},
        {"selectattr", filter_selectattr, NULL, 0, true},
        {"rejectattr", filter_rejectattr, NULL, 0, true},
        {0},
    };
    return jinja_find_function(filters, name, size);
}
