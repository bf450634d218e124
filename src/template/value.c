/* Values: making them, dicts, iteration, and conversion from JSON. */
#include <inttypes.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

enum { SMALL_DICT = 8 };

const char *jinja_type_name(jinja_value value)
{
    static const char *const names[] = {
        [JINJA_MISSING] = "missing",
        [JINJA_UNDEFINED] = "Undefined",
        [JINJA_NONE] = "NoneType",
        [JINJA_BOOL] = "bool",
        [JINJA_INT] = "int",
        [JINJA_FLOAT] = "float",
        [JINJA_STRING] = "str",
        [JINJA_LIST] = "list",
        [JINJA_TUPLE] = "tuple",
        [JINJA_DICT] = "dict",
        [JINJA_KEYS] = "dict_keys",
        [JINJA_VALUES] = "dict_values",
        [JINJA_ITEMS] = "dict_items",
        [JINJA_RANGE] = "range",
        [JINJA_ITERATOR] = "generator",
        [JINJA_NAMESPACE] = "Namespace",
        [JINJA_LOOP] = "LoopContext",
        [JINJA_MACRO] = "Macro",
        [JINJA_FUNCTION] = "function",
        [JINJA_METHOD] = "builtin_function_or_method",
    };
    return names[value.type];
}

const jinja_string *jinja_string_new(jinja_state *s, const char *data, size_t size)
{
    jinja_string *string = jinja_alloc(s, sizeof *string);
    string->data = size ? data : "";
    string->size = size;
    string->length = jinja_utf8_length(data, size);
    return string;
}

const jinja_string *jinja_string_copy(jinja_state *s, const char *data, size_t size)
{
    char *copy = jinja_alloc(s, size);
    if (size) {
        memcpy(copy, data, size);
    }
    return jinja_string_new(s, copy, size);
}

jinja_value jinja_text(jinja_state *s, const char *text)
{
    return jinja_string_value(jinja_string_copy(s, text, strlen(text)));
}

jinja_value jinja_part(jinja_state *s, const char *data, size_t size)
{
    return jinja_string_value(jinja_string_new(s, data, size));
}

jinja_value jinja_array_value(jinja_state *s, jinja_type type, const jinja_value *items,
                              size_t count)
{
    jinja_array *array = jinja_alloc(s, sizeof *array);
    *array = (jinja_array){.items = items, .count = count};
    return (jinja_value){.type = type, .as.array = array};
}

jinja_value jinja_pair(jinja_state *s, jinja_value first, jinja_value second)
{
    jinja_value *items = jinja_alloc_array(s, 2, sizeof *items);
    items[0] = first;
    items[1] = second;
    return jinja_array_value(s, JINJA_TUPLE, items, 2);
}

jinja_value jinja_iterator_value(jinja_state *s, const jinja_value *items, size_t count)
{
    jinja_iterator *iterator = jinja_alloc(s, sizeof *iterator);
    *iterator = (jinja_iterator){.items = items, .count = count};
    return (jinja_value){.type = JINJA_ITERATOR, .as.iterator = iterator};
}

static jinja_value undefined_value(jinja_state *s, jinja_undefined why)
{
    jinja_undefined *copy = jinja_alloc(s, sizeof *copy);
    *copy = why;
    return (jinja_value){.type = JINJA_UNDEFINED, .as.undefined = copy};
}

jinja_value jinja_undefined_hint(jinja_state *s, const char *hint)
{
    return undefined_value(s, (jinja_undefined){.hint = hint});
}

jinja_value jinja_undefined_name(jinja_state *s, const char *owner, const jinja_string *name)
{
    return undefined_value(s, (jinja_undefined){.owner = owner, .name = name});
}

/* --- dicts --- */

jinja_dict *jinja_dict_new(jinja_state *s)
{
    jinja_dict *dict = jinja_alloc(s, sizeof *dict);
    *dict = (jinja_dict){0};
    return dict;
}

static jinja_entry *find_entry(jinja_state *s, const jinja_dict *dict, jinja_value key,
                               uint64_t hash)
{
    if (!dict->index) {
        for (size_t i = 0; i < dict->count; i++) {
            if (dict->entries[i].hash == hash && jinja_equal(s, dict->entries[i].key, key)) {
                return &dict->entries[i];
            }
        }
        return NULL;
    }
    size_t mask = dict->index_size - 1;
    for (size_t i = (size_t)hash & mask; dict->index[i]; i = (i + 1) & mask) {
        jinja_entry *entry = &dict->entries[dict->index[i] - 1];
        if (entry->hash == hash && jinja_equal(s, entry->key, key)) {
            return entry;
        }
    }
    return NULL;
}

static void index_entry(jinja_dict *dict, size_t number)
{
    size_t mask = dict->index_size - 1;
    size_t i = (size_t)dict->entries[number].hash & mask;
    while (dict->index[i]) {
        i = (i + 1) & mask;
    }
    dict->index[i] = (uint32_t)(number + 1);
}

static void grow_dict(jinja_state *s, jinja_dict *dict)
{
    size_t capacity = dict->capacity ? dict->capacity * 2 : 4;
    if (capacity > UINT32_MAX / 4) {
        jinja_fail(s, OFR_ELIMIT, "a dict of %zu entries is too large", dict->count);
    }
    jinja_entry *entries = jinja_alloc_array(s, capacity, sizeof *entries);
    if (dict->count) {
        memcpy(entries, dict->entries, dict->count * sizeof *entries);
    }
    dict->entries = entries;
    dict->capacity = capacity;
    if (capacity > SMALL_DICT) {
        dict->index_size = capacity * 2;
        dict->index = jinja_alloc_array(s, dict->index_size, sizeof *dict->index);
        memset(dict->index, 0, dict->index_size * sizeof *dict->index);
        for (size_t i = 0; i < dict->count; i++) {
            index_entry(dict, i);
        }
    }
}

void jinja_dict_set(jinja_state *s, jinja_dict *dict, jinja_value key, jinja_value value)
{
    uint64_t hash = jinja_hash(s, key);
    jinja_entry *entry = find_entry(s, dict, key, hash);
    if (entry) {
        entry->value = value; /* the first key stays, as in Python */
        return;
    }
    if (dict->count == dict->capacity) {
        grow_dict(s, dict);
    }
    dict->entries[dict->count] = (jinja_entry){.key = key, .value = value, .hash = hash};
    dict->count++;
    if (dict->index) {
        index_entry(dict, dict->count - 1);
    }
}

const jinja_value *jinja_dict_get(jinja_state *s, const jinja_dict *dict, jinja_value key)
{
    jinja_entry *entry = find_entry(s, dict, key, jinja_hash(s, key));
    return entry ? &entry->value : NULL;
}

/* --- truth, length, iteration --- */

bool jinja_truth(jinja_state *s, jinja_value value)
{
    (void)s;
    switch (value.type) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return value.as.boolean;
    case JINJA_INT:
        return value.as.integer != 0;
    case JINJA_FLOAT:
        return value.as.real != 0.0;
    default: {
        int64_t length = jinja_length(value);
        return length != 0; /* things without a length are true */
    }
    }
}

int64_t jinja_length(jinja_value value)
{
    switch (value.type) {
    case JINJA_UNDEFINED:
        return 0;
    case JINJA_STRING:
        return (int64_t)value.as.string->length;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return (int64_t)value.as.array->count;
    case JINJA_DICT:
    case JINJA_KEYS:
    case JINJA_VALUES:
    case JINJA_ITEMS:
        return (int64_t)value.as.dict->count;
    case JINJA_RANGE:
        return (int64_t)value.as.range->count;
    default:
        return -1;
    }
}

bool jinja_is_iterable(jinja_value value)
{
    return value.type == JINJA_ITERATOR || value.type == JINJA_LOOP || jinja_length(value) >= 0;
}

static jinja_value *string_items(jinja_state *s, const jinja_string *string)
{
    jinja_value *items = jinja_alloc_array(s, string->length, sizeof *items);
    const char *p = string->data, *end = p + string->size;
    for (size_t i = 0; i < string->length; i++) {
        const char *start = p;
        jinja_utf8_next(&p, end);
        items[i] = jinja_part(s, start, (size_t)(p - start));
    }
    return items;
}

static jinja_value *dict_items(jinja_state *s, jinja_value value)
{
    const jinja_dict *dict = value.as.dict;
    jinja_value *items = jinja_alloc_array(s, dict->count, sizeof *items);
    for (size_t i = 0; i < dict->count; i++) {
        const jinja_entry *entry = &dict->entries[i];
        items[i] = value.type == JINJA_VALUES  ? entry->value
                   : value.type == JINJA_ITEMS ? jinja_pair(s, entry->key, entry->value)
                                               : entry->key;
    }
    return items;
}

jinja_array jinja_items(jinja_state *s, jinja_value value)
{
    jinja_array array = {.count = (size_t)jinja_length(value)};
    switch (value.type) {
    case JINJA_UNDEFINED:
        return array;
    case JINJA_STRING:
        array.items = string_items(s, value.as.string);
        break;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return *value.as.array;
    case JINJA_DICT:
    case JINJA_KEYS:
    case JINJA_VALUES:
    case JINJA_ITEMS:
        array.items = dict_items(s, value);
        break;
    case JINJA_RANGE: {
        const jinja_range *range = value.as.range;
        jinja_value *items = jinja_alloc_array(s, range->count, sizeof *items);
        for (size_t i = 0; i < range->count; i++) {
            items[i] = jinja_int(range->start + (int64_t)i * range->step);
        }
        array.items = items;
        break;
    }
    case JINJA_ITERATOR: {
        jinja_iterator *iterator = jinja_iterate(s, value);
        array.items = iterator->count ? iterator->items + iterator->position : NULL;
        array.count = iterator->count - iterator->position;
        iterator->position = iterator->count;
        break;
    }
    default:
        jinja_fail(s, OFR_ETEMPLATE, "'%s' object is not iterable", jinja_type_name(value));
    }
    jinja_charge(s, array.count / 4);
    return array;
}

jinja_iterator *jinja_iterate(jinja_state *s, jinja_value value)
{
    if (value.type == JINJA_ITERATOR) {
        jinja_iterator *iterator = value.as.iterator;
        const struct jinja_deferred *deferred = iterator->deferred;
        if (deferred) {
            jinja_enter(s); /* lazy results may wait on one another */
            iterator->deferred = NULL;
            jinja_value made = deferred->function->function(s, deferred->self, &deferred->call);
            *iterator = *made.as.iterator;
            jinja_leave(s);
        }
        return iterator;
    }
    jinja_array array = jinja_items(s, value);
    return jinja_iterator_value(s, array.items, array.count).as.iterator;
}

bool jinja_next(jinja_iterator *iterator, jinja_value *ret_item)
{
    if (iterator->position >= iterator->count) {
        return false;
    }
    *ret_item = iterator->items[iterator->position++];
    return true;
}

/* --- from JSON --- */

static jinja_value dict_from_json(jinja_state *s, const json_t *json)
{
    jinja_dict *dict = jinja_dict_new(s);
    const char *key;
    json_t *member;
    size_t key_size;
    json_object_keylen_foreach((json_t *)(uintptr_t)json, key, key_size, member)
    {
        jinja_dict_set(s, dict, jinja_part(s, key, key_size), jinja_from_json(s, member));
    }
    return (jinja_value){.type = JINJA_DICT, .as.dict = dict};
}

jinja_value jinja_from_json(jinja_state *s, const json_t *json)
{
    switch (json_typeof(json)) {
    case JSON_TRUE:
    case JSON_FALSE:
        return jinja_bool(json_is_true(json));
    case JSON_INTEGER:
        return jinja_int(json_integer_value(json));
    case JSON_REAL:
        return jinja_float(json_real_value(json));
    case JSON_STRING:
        return jinja_part(s, json_string_value(json), json_string_length(json));
    case JSON_ARRAY: {
        jinja_enter(s);
        size_t count = json_array_size(json);
        jinja_value *items = jinja_alloc_array(s, count, sizeof *items);
        for (size_t i = 0; i < count; i++) {
            items[i] = jinja_from_json(s, json_array_get(json, i));
        }
        jinja_leave(s);
        return jinja_array_value(s, JINJA_LIST, items, count);
    }
    case JSON_OBJECT: {
        jinja_enter(s);
        jinja_value dict = dict_from_json(s, json);
        jinja_leave(s);
        return dict;
    }
    default:
        return jinja_none();
    }
}
