/* Values of the template language: Python's, as far as templates can see them.
 *
 * A value is 16 bytes, passed by value; what it points to lives in an arena (the template's for
 * constants, the rendering's for all else) or, for strings, in the JSON the caller lent. Everything
 * but a namespace, an iterator and a loop is immutable, so that arrays and text can be shared. */
#ifndef OFR_TEMPLATE_VALUE_H
#define OFR_TEMPLATE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum jinja_type {
    JINJA_MISSING, /* an argument that was not given; no template ever sees it */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_KEYS, /* views of a dict */
    JINJA_VALUES,
    JINJA_ITEMS,
    JINJA_RANGE,
    JINJA_ITERATOR, /* what Python calls a generator: consumed by the first use */
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_MACRO,
    JINJA_FUNCTION, /* range, dict, ... */
    JINJA_METHOD,   /* function bound to a value */
} jinja_type;

/* Text, not NUL-terminated. `length` counts code points: equal to `size` means ASCII. */
typedef struct jinja_string {
    const char *data;
    size_t size;
    size_t length;
} jinja_string;

typedef struct jinja_array jinja_array;
typedef struct jinja_dict jinja_dict;
typedef struct jinja_iterator jinja_iterator;
typedef struct jinja_loop jinja_loop;
typedef struct jinja_macro jinja_macro;
typedef struct jinja_function jinja_function;
typedef struct jinja_method jinja_method;
typedef struct jinja_undefined jinja_undefined;

typedef struct jinja_range {
    int64_t start, stop, step;
    size_t count;
} jinja_range;

typedef struct jinja_value {
    jinja_type type;
    union {
        bool boolean;
        int64_t integer;
        double real;
        const jinja_string *string;
        const jinja_array *array; /* list, tuple */
        jinja_dict *dict;         /* dict, its views, namespace */
        const jinja_range *range;
        jinja_iterator *iterator;
        jinja_loop *loop;
        const jinja_macro *macro;
        const jinja_function *function;
        const jinja_method *method;
        const jinja_undefined *undefined;
    } as;
} jinja_value;

struct jinja_array {
    const jinja_value *items;
    size_t count;
    bool grouped; /* a (grouper, list) pair of groupby, whose parts have names too */
};

struct jinja_iterator {
    const jinja_value *items;
    size_t count, position;
    const struct jinja_deferred *deferred; /* what makes the items at first use, or NULL */
};

/* Why a value is undefined: a hint, or the name looked up and the type it was looked up in. */
struct jinja_undefined {
    const char *hint;
    const char *owner; /* type name, or NULL for a variable */
    const jinja_string *name;
};

/* Insertion-ordered; no deletion. */
typedef struct jinja_entry {
    jinja_value key, value;
    uint64_t hash;
} jinja_entry;

struct jinja_dict {
    jinja_entry *entries;
    size_t count, capacity;
    uint32_t *index; /* [index_size] entry number + 1, or 0; NULL for small dicts */
    size_t index_size;
};

static inline jinja_value jinja_none(void)
{
    return (jinja_value){.type = JINJA_NONE};
}

static inline jinja_value jinja_missing(void)
{
    return (jinja_value){.type = JINJA_MISSING};
}

static inline jinja_value jinja_bool(bool boolean)
{
    return (jinja_value){.type = JINJA_BOOL, .as.boolean = boolean};
}

static inline jinja_value jinja_int(int64_t integer)
{
    return (jinja_value){.type = JINJA_INT, .as.integer = integer};
}

static inline jinja_value jinja_float(double real)
{
    return (jinja_value){.type = JINJA_FLOAT, .as.real = real};
}

static inline jinja_value jinja_string_value(const jinja_string *string)
{
    return (jinja_value){.type = JINJA_STRING, .as.string = string};
}

static inline bool jinja_is_array(jinja_value value)
{
    return value.type == JINJA_LIST || value.type == JINJA_TUPLE;
}

static inline bool jinja_is_integral(jinja_value value)
{
    return value.type == JINJA_INT || value.type == JINJA_BOOL;
}

static inline bool jinja_is_number(jinja_value value)
{
    return jinja_is_integral(value) || value.type == JINJA_FLOAT;
}

/* The integer of an int or bool. */
static inline int64_t jinja_integer(jinja_value value)
{
    return value.type == JINJA_BOOL ? value.as.boolean : value.as.integer;
}

static inline double jinja_real(jinja_value value)
{
    return value.type == JINJA_FLOAT ? value.as.real : (double)jinja_integer(value);
}

#endif
