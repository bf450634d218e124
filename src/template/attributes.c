/* Attributes, items and slices, as jinja2's immutable sandbox lets templates see them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

/* --- methods of dicts, lists and the rest --- */

static jinja_value view(jinja_value self, jinja_type type)
{
    self.type = type;
    return self;
}

static jinja_value dict_items(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return view(self, JINJA_ITEMS);
}

static jinja_value dict_keys(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return view(self, JINJA_KEYS);
}

static jinja_value dict_values(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return view(self, JINJA_VALUES);
}

static jinja_value dict_get(jinja_state *s, jinja_value self, const jinja_call *call)
{
    const jinja_value *found = jinja_dict_get(s, self.as.dict, call->arguments[0]);
    if (found) {
        return *found;
    }
    return call->arguments[1].type == JINJA_MISSING ? jinja_none() : call->arguments[1];
}

static jinja_value same(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return self; /* a copy of what cannot be changed */
}

static jinja_value array_count(jinja_state *s, jinja_value self, const jinja_call *call)
{
    int64_t count = 0;
    jinja_array array = jinja_items(s, self);
    for (size_t i = 0; i < array.count; i++) {
        count += jinja_equal(s, array.items[i], call->arguments[0]);
    }
    return jinja_int(count);
}

static jinja_value array_index(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_array array = jinja_items(s, self);
    int64_t count = (int64_t)array.count;
    int64_t bounds[2] = {0, count};
    for (int i = 0; i < 2; i++) {
        if (call->count > (size_t)i + 1 && call->arguments[i + 1].type != JINJA_MISSING) {
            bounds[i] = jinja_to_integer(s, call->arguments[i + 1]);
            bounds[i] += bounds[i] < 0 ? count : 0;
            bounds[i] = bounds[i] < 0 ? 0 : bounds[i] > count ? count : bounds[i];
        }
    }
    for (int64_t i = bounds[0]; i < bounds[1]; i++) {
        if (jinja_equal(s, array.items[i], call->arguments[0])) {
            return jinja_int(i);
        }
    }
    jinja_fail(s, OFR_ETEMPLATE, "the value is not in the %s", jinja_type_name(self));
}

static jinja_value float_is_integer(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.as.real - self.as.real == 0.0 && self.as.real < 1e300 &&
                      self.as.real > -1e300 &&
                      (self.as.real >= 9007199254740992.0 || self.as.real <= -9007199254740992.0 ||
                       self.as.real == (double)(int64_t)self.as.real));
}

static jinja_value int_bit_length(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    int64_t integer = jinja_integer(self);
    uint64_t magnitude = integer < 0 ? -(uint64_t)integer : (uint64_t)integer;
    int64_t bits = 0;
    for (; magnitude; magnitude >>= 1) {
        bits++;
    }
    return jinja_int(bits);
}

static const jinja_function dict_methods[] = {
    {"items", dict_items, "", 0, false},   {"keys", dict_keys, "", 0, false},
    {"values", dict_values, "", 0, false}, {"get", dict_get, "/key,default", 1, false},
    {"copy", same, "", 0, false},          {0},
};
static const jinja_function array_methods[] = {
    {"count", array_count, "/value", 1, false},
    {"index", array_index, "/value,start,stop", 1, false},
    {0},
};
static const jinja_function float_methods[] = {{"is_integer", float_is_integer, "", 0, false}, {0}};
static const jinja_function int_methods[] = {{"bit_length", int_bit_length, "", 0, false}, {0}};
static const jinja_function list_copy[] = {{"copy", same, "", 0, false}, {0}};

const jinja_function *jinja_find_function(const jinja_function *table, const char *name,
                                          size_t size)
{
    for (; table->name; table++) {
        if (strlen(table->name) == size && memcmp(table->name, name, size) == 0) {
            return table;
        }
    }
    return NULL;
}

static bool is_among(const jinja_string *name, const char *const *names)
{
    for (; *names; names++) {
        if (jinja_string_is(name, *names)) {
            return true;
        }
    }
    return false;
}

/* Methods that Python's objects have and the sandbox refuses, since they would change the object.
 */
static bool is_mutator(jinja_type type, const jinja_string *name)
{
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    static const char *const of_list[] = {"append", "clear",  "pop",    "reverse", "insert",
                                          "sort",   "extend", "remove", NULL};
    return (type == JINJA_DICT && is_among(name, of_dict)) ||
           (type == JINJA_LIST && is_among(name, of_list));
}

static const jinja_function *find_method(jinja_value object, const jinja_string *name)
{
    const jinja_function *found = NULL;
    switch (object.type) {
    case JINJA_STRING:
        return jinja_find_string_method(name->data, name->size);
    case JINJA_DICT:
        return jinja_find_function(dict_methods, name->data, name->size);
    case JINJA_LIST:
        found = jinja_find_function(list_copy, name->data, name->size);
        return found ? found : jinja_find_function(array_methods, name->data, name->size);
    case JINJA_TUPLE:
    case JINJA_RANGE:
        return jinja_find_function(array_methods, name->data, name->size);
    case JINJA_FLOAT:
        return jinja_find_function(float_methods, name->data, name->size);
    case JINJA_INT:
    case JINJA_BOOL:
        return jinja_find_function(int_methods, name->data, name->size);
    default:
        return NULL;
    }
}

static bool find_field(jinja_state *s, jinja_value object, const jinja_string *name,
                       jinja_value *ret_value)
{
    bool found = false;
    switch (object.type) {
    case JINJA_NAMESPACE: {
        const jinja_value *value = jinja_dict_get(s, object.as.dict, jinja_string_value(name));
        *ret_value = value ? *value : jinja_none();
        return value != NULL;
    }
    case JINJA_LOOP:
        *ret_value = jinja_loop_attribute(s, object.as.loop, name, &found);
        return found;
    case JINJA_MACRO:
        if (jinja_string_is(name, "name")) {
            const jinja_string *label = object.as.macro->label;
            *ret_value = label ? jinja_string_value(label) : jinja_none();
            return true;
        }
        return false;
    case JINJA_TUPLE:
        if (object.as.array->grouped &&
            (jinja_string_is(name, "grouper") || jinja_string_is(name, "list"))) {
            *ret_value = object.as.array->items[jinja_string_is(name, "list")];
            return true;
        }
        return false;
    case JINJA_RANGE: {
        const jinja_range *range = object.as.range;
        static const char *const names[] = {"start", "stop", "step"};
        const int64_t values[] = {range->start, range->stop, range->step};
        for (int i = 0; i < 3; i++) {
            if (jinja_string_is(name, names[i])) {
                *ret_value = jinja_int(values[i]);
                return true;
            }
        }
        return false;
    }
    default:
        return false;
    }
}

bool jinja_find_attribute(jinja_state *s, jinja_value object, const jinja_string *name,
                          jinja_value *ret_value)
{
    if (object.type == JINJA_UNDEFINED) {
        if (name->size >= 4 && memcmp(name->data, "__", 2) == 0 &&
            memcmp(name->data + name->size - 2, "__", 2) == 0) {
            return false;
        }
        jinja_fail_undefined(s, object);
    }
    if (is_mutator(object.type, name)) {
        *ret_value = jinja_undefined_hint(
            s, "the attribute is unsafe: it would change the object, which templates may not");
        return true;
    }
    if (find_field(s, object, name, ret_value)) {
        return true;
    }
    const jinja_function *function = find_method(object, name);
    if (!function) {
        return false;
    }
    jinja_method *method = jinja_alloc(s, sizeof *method);
    *method = (jinja_method){.function = function, .self = object};
    *ret_value = (jinja_value){.type = JINJA_METHOD, .as.method = method};
    return true;
}

/* Python's obj[key]; false where that raises TypeError or LookupError. */
static bool find_item(jinja_state *s, jinja_value object, jinja_value key, jinja_value *ret_value)
{
    if (object.type == JINJA_UNDEFINED) {
        jinja_fail_undefined(s, object);
    }
    if (object.type == JINJA_DICT) {
        bool hashable = key.type != JINJA_LIST && key.type != JINJA_DICT;
        const jinja_value *found = hashable ? jinja_dict_get(s, object.as.dict, key) : NULL;
        *ret_value = found ? *found : jinja_none();
        return found != NULL;
    }
    if (!jinja_is_integral(key) ||
        (object.type != JINJA_STRING && object.type != JINJA_RANGE && !jinja_is_array(object))) {
        return false;
    }
    int64_t length = jinja_length(object), index = jinja_integer(key);
    index += index < 0 ? length : 0;
    if (index < 0 || index >= length) {
        return false;
    }
    if (object.type == JINJA_STRING) {
        size_t start = jinja_string_offset(object.as.string, (size_t)index);
        const char *p = object.as.string->data + start;
        jinja_utf8_next(&p, object.as.string->data + object.as.string->size);
        *ret_value = jinja_part(s, object.as.string->data + start,
                                (size_t)(p - object.as.string->data) - start);
    } else if (object.type == JINJA_RANGE) {
        *ret_value = jinja_int(object.as.range->start + index * object.as.range->step);
    } else {
        *ret_value = object.as.array->items[index];
    }
    return true;
}

jinja_value jinja_getattr(jinja_state *s, jinja_value object, const jinja_string *name)
{
    jinja_value value;
    if (jinja_find_attribute(s, object, name, &value) ||
        find_item(s, object, jinja_string_value(name), &value)) {
        return value;
    }
    return jinja_undefined_name(s, jinja_type_name(object), name);
}

jinja_value jinja_getitem(jinja_state *s, jinja_value object, jinja_value key)
{
    jinja_value value;
    if (find_item(s, object, key, &value) ||
        (key.type == JINJA_STRING && jinja_find_attribute(s, object, key.as.string, &value))) {
        return value;
    }
    return jinja_undefined_name(s, jinja_type_name(object), jinja_str(s, key));
}

jinja_value jinja_lookup_path(jinja_state *s, jinja_value item, jinja_value path,
                              jinja_value default_value)
{
    if (path.type == JINJA_NONE || path.type == JINJA_MISSING) {
        return item;
    }
    if (path.type != JINJA_STRING) {
        jinja_value found = jinja_getitem(s, item, path);
        bool replace = found.type == JINJA_UNDEFINED && default_value.type != JINJA_MISSING &&
                       default_value.type != JINJA_NONE;
        return replace ? default_value : found;
    }
    const char *p = path.as.string->data, *end = p + path.as.string->size;
    for (;;) {
        const char *dot = memchr(p, '.', (size_t)(end - p));
        jinja_value key = jinja_part(s, p, (size_t)((dot ? dot : end) - p));
        int64_t number;
        if (key.as.string->size &&
            strspn(key.as.string->data, "0123456789") >= key.as.string->size &&
            jinja_parse_integer(key.as.string, 10, &number)) {
            key = jinja_int(number);
        }
        item = jinja_getitem(s, item, key);
        if (item.type == JINJA_UNDEFINED && default_value.type != JINJA_MISSING &&
            default_value.type != JINJA_NONE) {
            item = default_value;
        }
        if (!dot) {
            return item;
        }
        p = dot + 1;
    }
}

/* --- slices --- */

static int64_t clamp(int64_t index, int64_t length, int64_t low, int64_t high)
{
    index += index < 0 ? length : 0;
    return index < low ? low : index > high ? high : index;
}

static bool is_open(jinja_value bound)
{
    return bound.type == JINJA_MISSING || bound.type == JINJA_NONE;
}

static int64_t slice_bound(jinja_state *s, jinja_value bound)
{
    if (!jinja_is_integral(bound)) {
        jinja_fail(s, OFR_ETEMPLATE, "slice indices must be integers or None, not %s",
                   jinja_type_name(bound));
    }
    return jinja_integer(bound);
}

static jinja_value slice_string(jinja_state *s, const jinja_string *string, int64_t start,
                                int64_t step, size_t count)
{
    if (step == 1) {
        size_t first = jinja_string_offset(string, (size_t)start);
        jinja_string rest = {string->data + first, string->size - first,
                             string->length - (size_t)start};
        return jinja_part(s, string->data + first, jinja_string_offset(&rest, count));
    }
    jinja_array characters = jinja_items(s, jinja_string_value(string));
    jinja_builder builder = {.state = s};
    for (size_t i = 0; i < count; i++) {
        jinja_write_str(&builder, characters.items[start + (int64_t)i * step]);
    }
    return jinja_builder_finish(&builder);
}

static jinja_value slice_range(jinja_state *s, const jinja_range *range, int64_t start,
                               int64_t stop, int64_t step, size_t count)
{
    jinja_range *copy = jinja_alloc(s, sizeof *copy);
    if (__builtin_mul_overflow(range->step, step, &copy->step)) {
        jinja_fail(s, OFR_ETEMPLATE, "an integer does not fit 64 bits");
    }
    copy->start = range->start + start * range->step;
    copy->stop = range->start + stop * range->step;
    copy->count = count;
    return (jinja_value){.type = JINJA_RANGE, .as.range = copy};
}

jinja_value jinja_slice(jinja_state *s, jinja_value object, jinja_value start_value,
                        jinja_value stop_value, jinja_value step_value)
{
    if (object.type == JINJA_UNDEFINED) {
        jinja_fail_undefined(s, object);
    }
    if (object.type != JINJA_STRING && object.type != JINJA_RANGE && !jinja_is_array(object)) {
        jinja_fail(s, OFR_ETEMPLATE, "'%s' object cannot be sliced", jinja_type_name(object));
    }
    int64_t length = jinja_length(object);
    int64_t step = is_open(step_value) ? 1 : slice_bound(s, step_value);
    if (step == 0) {
        jinja_fail(s, OFR_ETEMPLATE, "slice step cannot be zero");
    }
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? length - 1 : length;
    int64_t start = is_open(start_value) ? (step < 0 ? high : low)
                                         : clamp(slice_bound(s, start_value), length, low, high);
    int64_t stop = is_open(stop_value) ? (step < 0 ? low : high)
                                       : clamp(slice_bound(s, stop_value), length, low, high);
    size_t count = 0;
    if (step > 0 && start < stop) {
        count = (size_t)((stop - start - 1) / step) + 1;
    } else if (step < 0 && stop < start) {
        count = (size_t)((uint64_t)(start - stop - 1) / -(uint64_t)step) + 1;
    }
    jinja_charge(s, count / 64);
    if (object.type == JINJA_RANGE) {
        return slice_range(s, object.as.range, start, stop, step, count);
    }
    if (count == 0) {
        return object.type == JINJA_STRING ? jinja_part(s, "", 0)
                                           : jinja_array_value(s, object.type, NULL, 0);
    }
    if (object.type == JINJA_STRING) {
        return slice_string(s, object.as.string, start, step, count);
    }
    const jinja_value *items = object.as.array->items + start;
    if (step != 1) {
        jinja_value *picked = jinja_alloc_array(s, count, sizeof *picked);
        for (size_t i = 0; i < count; i++) {
            picked[i] = items[(int64_t)i * step];
        }
        items = picked;
    }
    return jinja_array_value(s, object.type, items, count);
}
