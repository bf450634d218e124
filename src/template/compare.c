/* Equality, order, membership, hashing and sorting with Python's rules. */
#include <math.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

bool jinja_string_equal(const jinja_string *left, const jinja_string *right)
{
    return left == right ||
           (left->size == right->size && memcmp(left->data, right->data, left->size) == 0);
}

bool jinja_string_is(const jinja_string *string, const char *text)
{
    return string->size == strlen(text) && memcmp(string->data, text, string->size) == 0;
}

/* Exact, unlike a conversion of the integer to double. */
static int compare_int_float(int64_t integer, double real)
{
    if (real >= 9223372036854775808.0) {
        return -1;
    }
    if (real < -9223372036854775808.0) {
        return 1;
    }
    int64_t whole = (int64_t)real;
    if (integer != whole) {
        return integer < whole ? -1 : 1;
    }
    double rest = real - (double)whole;
    return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

static bool any_nan(jinja_value left, jinja_value right)
{
    return (left.type == JINJA_FLOAT && isnan(left.as.real)) ||
           (right.type == JINJA_FLOAT && isnan(right.as.real));
}

static int compare_numbers(jinja_value left, jinja_value right)
{
    if (left.type == JINJA_FLOAT && right.type == JINJA_FLOAT) {
        return left.as.real < right.as.real ? -1 : left.as.real > right.as.real;
    }
    if (left.type == JINJA_FLOAT) {
        return -compare_int_float(jinja_integer(right), left.as.real);
    }
    if (right.type == JINJA_FLOAT) {
        return compare_int_float(jinja_integer(left), right.as.real);
    }
    int64_t a = jinja_integer(left), b = jinja_integer(right);
    return a < b ? -1 : a > b;
}

static bool arrays_equal(jinja_state *s, const jinja_array *left, const jinja_array *right)
{
    if (left->count != right->count) {
        return false;
    }
    for (size_t i = 0; i < left->count; i++) {
        if (!jinja_equal(s, left->items[i], right->items[i])) {
            return false;
        }
    }
    return true;
}

static bool dicts_equal(jinja_state *s, const jinja_dict *left, const jinja_dict *right)
{
    if (left->count != right->count) {
        return false;
    }
    for (size_t i = 0; i < left->count; i++) {
        const jinja_value *other = jinja_dict_get(s, right, left->entries[i].key);
        if (!other || !jinja_equal(s, left->entries[i].value, *other)) {
            return false;
        }
    }
    return true;
}

static bool keys_equal(jinja_state *s, const jinja_dict *left, const jinja_dict *right)
{
    if (left->count != right->count) {
        return false;
    }
    for (size_t i = 0; i < left->count; i++) {
        if (!jinja_dict_get(s, right, left->entries[i].key)) {
            return false;
        }
    }
    return true;
}

static bool ranges_equal(const jinja_range *left, const jinja_range *right)
{
    return left->count == right->count && (left->count == 0 || left->start == right->start) &&
           (left->count < 2 || left->step == right->step);
}

static bool same_type_equal(jinja_state *s, jinja_value left, jinja_value right)
{
    switch (left.type) {
    case JINJA_STRING:
        return jinja_string_equal(left.as.string, right.as.string);
    case JINJA_LIST:
    case JINJA_TUPLE:
        return left.as.array == right.as.array || arrays_equal(s, left.as.array, right.as.array);
    case JINJA_DICT:
    case JINJA_ITEMS:
        return left.as.dict == right.as.dict || dicts_equal(s, left.as.dict, right.as.dict);
    case JINJA_KEYS:
        return keys_equal(s, left.as.dict, right.as.dict);
    case JINJA_RANGE:
        return ranges_equal(left.as.range, right.as.range);
    case JINJA_METHOD:
        return left.as.method->function == right.as.method->function &&
               jinja_equal(s, left.as.method->self, right.as.method->self);
    case JINJA_VALUES:
        return false; /* each .values() is an object of its own */
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return true;
    default:
        return left.as.dict == right.as.dict; /* identity */
    }
}

bool jinja_equal(jinja_state *s, jinja_value left, jinja_value right)
{
    if (jinja_is_number(left) && jinja_is_number(right)) {
        return !any_nan(left, right) && compare_numbers(left, right) == 0;
    }
    if (left.type != right.type) {
        return false;
    }
    jinja_enter(s);
    jinja_charge(s, 1 + (left.type == JINJA_STRING ? left.as.string->size / 64 : 0));
    bool equal = same_type_equal(s, left, right);
    jinja_leave(s);
    return equal;
}

static int compare_strings(const jinja_string *left, const jinja_string *right)
{
    size_t common = left->size < right->size ? left->size : right->size;
    int order = memcmp(left->data, right->data, common);
    return order ? order : left->size < right->size ? -1 : left->size > right->size;
}

int jinja_compare(jinja_state *s, jinja_value left, jinja_value right, const char *operation)
{
    if (jinja_is_number(left) && jinja_is_number(right)) {
        return compare_numbers(left, right);
    }
    if (left.type == JINJA_STRING && right.type == JINJA_STRING) {
        jinja_charge(s, 1 + left.as.string->size / 64);
        return compare_strings(left.as.string, right.as.string);
    }
    if (jinja_is_array(left) && left.type == right.type) {
        jinja_enter(s);
        const jinja_array *a = left.as.array, *b = right.as.array;
        int order = a->count < b->count ? -1 : a->count > b->count;
        for (size_t i = 0; i < a->count && i < b->count; i++) {
            jinja_charge(s, 1);
            if (!jinja_equal(s, a->items[i], b->items[i])) {
                order = jinja_compare(s, a->items[i], b->items[i], operation);
                break;
            }
        }
        jinja_leave(s);
        return order;
    }
    if (left.type == JINJA_UNDEFINED) {
        jinja_fail_undefined(s, left);
    }
    if (right.type == JINJA_UNDEFINED) {
        jinja_fail_undefined(s, right);
    }
    jinja_fail(s, OFR_ETEMPLATE, "'%s' not supported between instances of '%s' and '%s'", operation,
               jinja_type_name(left), jinja_type_name(right));
}

bool jinja_ordered(jinja_state *s, enum jinja_operator operation, jinja_value left,
                   jinja_value right)
{
    static const char *const names[] = {
        [JINJA_OP_LT] = "<", [JINJA_OP_LE] = "<=", [JINJA_OP_GT] = ">", [JINJA_OP_GE] = ">="};
    if (jinja_is_number(left) && jinja_is_number(right) && any_nan(left, right)) {
        return false;
    }
    int order = jinja_compare(s, left, right, names[operation]);
    return operation == JINJA_OP_LT   ? order < 0
           : operation == JINJA_OP_LE ? order <= 0
           : operation == JINJA_OP_GT ? order > 0
                                      : order >= 0;
}

static bool range_contains(jinja_state *s, const jinja_range *range, jinja_value item)
{
    for (size_t i = 0; i < range->count; i++) {
        if (jinja_equal(s, jinja_int(range->start + (int64_t)i * range->step), item)) {
            return true;
        }
    }
    jinja_charge(s, range->count / 4);
    return false;
}

bool jinja_contains(jinja_state *s, jinja_value container, jinja_value item)
{
    switch (container.type) {
    case JINJA_STRING:
        if (item.type != JINJA_STRING) {
            jinja_fail(s, OFR_ETEMPLATE, "'in <string>' requires string as left operand, not %s",
                       jinja_type_name(item));
        }
        return jinja_search(s, container.as.string, 0, item.as.string) >= 0;
    case JINJA_DICT:
    case JINJA_KEYS:
        return jinja_dict_get(s, container.as.dict, item) != NULL;
    case JINJA_RANGE:
        return range_contains(s, container.as.range, item);
    case JINJA_NAMESPACE:
    case JINJA_NONE:
    case JINJA_BOOL:
    case JINJA_INT:
    case JINJA_FLOAT:
        jinja_fail(s, OFR_ETEMPLATE, "argument of type '%s' is not iterable",
                   jinja_type_name(container));
    default: {
        jinja_iterator *iterator = jinja_iterate(s, container);
        jinja_value candidate;
        while (jinja_next(iterator, &candidate)) {
            jinja_charge(s, 1);
            if (jinja_equal(s, candidate, item)) {
                return true;
            }
        }
        return false;
    }
    }
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
    hash ^= value + 0x9E3779B97F4A7C15u + (hash << 6) + (hash >> 2);
    return hash * 0xFF51AFD7ED558CCDu;
}

static uint64_t hash_bytes(const char *data, size_t size)
{
    uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a */
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ (unsigned char)data[i]) * 0x100000001B3u;
    }
    return hash ^ hash >> 29;
}

uint64_t jinja_hash(jinja_state *s, jinja_value value)
{
    switch (value.type) {
    case JINJA_STRING:
        jinja_charge(s, value.as.string->size / 64);
        return hash_bytes(value.as.string->data, value.as.string->size);
    case JINJA_BOOL:
    case JINJA_INT:
        return mix(1, (uint64_t)jinja_integer(value));
    case JINJA_FLOAT: {
        double real = value.as.real;
        /* An integral float equals its int: both hash alike. */
        if (real >= -9.2e18 && real <= 9.2e18 && real == floor(real)) {
            return mix(1, (uint64_t)(int64_t)real);
        }
        uint64_t bits;
        memcpy(&bits, &real, sizeof bits);
        return mix(2, bits);
    }
    case JINJA_TUPLE: {
        jinja_enter(s);
        uint64_t hash = 3;
        for (size_t i = 0; i < value.as.array->count; i++) {
            hash = mix(hash, jinja_hash(s, value.as.array->items[i]));
        }
        jinja_leave(s);
        return hash;
    }
    case JINJA_LIST:
    case JINJA_DICT:
    case JINJA_KEYS:
    case JINJA_ITEMS:
        jinja_fail(s, OFR_ETEMPLATE, "unhashable type: '%s'", jinja_type_name(value));
    case JINJA_RANGE:
        return mix(4, value.as.range->count);
    default:
        return (uint64_t)value.type;
    }
}

/* --- stable merge sort; an own one, since jinja_fail must not jump out of qsort --- */

typedef struct sorter {
    jinja_state *state;
    jinja_value *keys, *items, *spare_keys, *spare_items;
    bool reverse;
} sorter;

static bool comes_before(const sorter *sort, jinja_value later, jinja_value earlier)
{
    return sort->reverse ? jinja_ordered(sort->state, JINJA_OP_LT, earlier, later)
                         : jinja_ordered(sort->state, JINJA_OP_LT, later, earlier);
}

static void merge_sort(sorter *sort, size_t first, size_t end)
{
    if (end - first < 2) {
        return;
    }
    size_t middle = first + (end - first) / 2;
    merge_sort(sort, first, middle);
    merge_sort(sort, middle, end);
    size_t left = first, right = middle;
    for (size_t out = first; out < end; out++) {
        jinja_charge(sort->state, 1);
        bool take_right = left == middle ||
                          (right < end && comes_before(sort, sort->keys[right], sort->keys[left]));
        size_t from = take_right ? right++ : left++;
        sort->spare_keys[out] = sort->keys[from];
        sort->spare_items[out] = sort->items[from];
    }
    memcpy(sort->keys + first, sort->spare_keys + first, (end - first) * sizeof *sort->keys);
    memcpy(sort->items + first, sort->spare_items + first, (end - first) * sizeof *sort->items);
}

void jinja_sort(jinja_state *s, jinja_value *keys, jinja_value *items, size_t count, bool reverse)
{
    sorter sort = {.state = s, .keys = keys, .items = items, .reverse = reverse};
    sort.spare_keys = jinja_alloc_array(s, count, sizeof *keys);
    sort.spare_items = jinja_alloc_array(s, count, sizeof *items);
    merge_sort(&sort, 0, count);
}
