/* JSON schemas on the way to a grammar.
 *
 * A goal is a set of schemas, some of them negated, that one value must satisfy together. Each goal
 * becomes a rule; goals are equal if their sets are, so that recursive schemas end. A goal is
 * expanded into alternatives without branches (constraints), whose keywords are merged: allOf, $ref
 * and their siblings by union of the sets, anyOf, oneOf, if, not and dependent... by branching. */
#ifndef OFR_GRAMMAR_JSON_SCHEMA_INTERNAL_H
#define OFR_GRAMMAR_JSON_SCHEMA_INTERNAL_H

#include <jansson.h>

#include "grammar/dfa.h"
#include "grammar/grammar_internal.h"
#include "grammar/number.h"

enum {
    OFR_SCHEMA_GOALS_MAX = 1 << 14,
    OFR_SCHEMA_BRANCHES_MAX = 1 << 16, /* of all goals together */
    OFR_SCHEMA_ALTERNATIVES_MAX = 512, /* of one goal */
    OFR_SCHEMA_NESTING_MAX = 200,
    OFR_SCHEMA_PATTERNS_MAX = 6, /* patternProperties that apply to one object */
};

enum ofr_schema_types {
    OFR_TYPE_NULL = 1 << 0,
    OFR_TYPE_BOOLEAN = 1 << 1,
    OFR_TYPE_INTEGER = 1 << 2,
    OFR_TYPE_FRACTION = 1 << 3, /* numbers that are not whole */
    OFR_TYPE_STRING = 1 << 4,
    OFR_TYPE_ARRAY = 1 << 5,
    OFR_TYPE_OBJECT = 1 << 6,
    OFR_TYPE_NUMBER = OFR_TYPE_INTEGER | OFR_TYPE_FRACTION,
    OFR_TYPE_ALL = (1 << 7) - 1,
};

/* A growable list of borrowed pointers. */
typedef struct ofr_list {
    const void **data;
    size_t size, room;
} ofr_list;

/* A schema or, as an odd address, its negation. Lists hold them as they are. */
typedef const void *ofr_literal;
static inline ofr_literal ofr_literal_of(const json_t *schema, bool negated)
{
    return (ofr_literal)((uintptr_t)schema | (uintptr_t)negated);
}
static inline const json_t *ofr_literal_schema(ofr_literal literal)
{
    return (const json_t *)((uintptr_t)literal & ~(uintptr_t)1);
}
static inline bool ofr_literal_negated(ofr_literal literal)
{
    return (uintptr_t)literal & 1;
}

typedef struct ofr_goal {
    ofr_literal *literals; /* [count], ascending */
    size_t count;
    uint32_t rule;
} ofr_goal;

typedef struct ofr_bound {
    bool set, strict;
    ofr_decimal value;
} ofr_bound;

/* A property that must (or must not) satisfy a schema, beside what the objects say. */
typedef struct ofr_extra_property {
    const char *name;
    ofr_literal literal;
    struct ofr_extra_property *next; /* of the compiler, to free */
} ofr_extra_property;

/* What is known of a value. */
typedef struct ofr_constraint {
    unsigned types;
    const json_t *values; /* enum, or NULL */
    const json_t *value;  /* const, or NULL */
    ofr_list excluded;    /* json_t: not these values */
    ofr_bound min, max;
    ofr_list multiples;              /* json_t */
    uint32_t min_length, max_length; /* OFR_DFA_UNBOUNDED: none; likewise below */
    ofr_list patterns, not_patterns; /* json_t strings */
    ofr_list formats;                /* json_t strings */
    uint32_t min_items, max_items, min_properties, max_properties;
    ofr_list arrays;   /* json_t schemas with items or prefixItems */
    ofr_list objects;  /* json_t schemas with properties, patternProperties, additionalProperties */
    ofr_list extras;   /* ofr_extra_property */
    ofr_list required; /* char: names */
    ofr_list forbidden;
    ofr_list names; /* json_t: propertyNames */
    ofr_list seen;  /* literals that were merged */
    ofr_list pending;
    ofr_list branches; /* of enum branch kind and json_t, alternating */
} ofr_constraint;

typedef struct ofr_resource {
    char *uri; /* absolute where the schema says so, without a fragment; owned */
    const json_t *root;
} ofr_resource;

typedef struct ofr_schema_place {
    const json_t *schema;
    uint32_t resource;
} ofr_schema_place;

typedef struct ofr_schema_compiler {
    ofr_builder builder;
    const json_t *const *roots; /* [n_roots] */
    size_t n_roots;
    ofr_error *err;
    ofr_goal *goals;
    size_t n_goals, goals_room, n_done;
    size_t n_branches;
    uint32_t value_rule, object_rule, array_rule, string_rule, number_rule, newline_rule;
    uint32_t escape_rule;
    /* json_schema_refs.c */
    ofr_resource *resources;
    size_t n_resources, resources_room;
    ofr_schema_place *places; /* sorted by address */
    size_t n_places, places_room;
    ofr_extra_property *extras; /* all of them */
} ofr_schema_compiler;

/* Fails with "<place of schema>: <text>". */
int ofr_schema_fail(ofr_schema_compiler *c, const json_t *schema, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
int ofr_schema_no_memory(ofr_schema_compiler *c);
int ofr_list_add(ofr_schema_compiler *c, ofr_list *list, const void *value);
bool ofr_list_has_name(const ofr_list *list, const char *name);

/* json_schema_refs.c: finds all $id and $anchor; then resolves. */
int ofr_schema_index(ofr_schema_compiler *c);
void ofr_schema_index_done(ofr_schema_compiler *c);
int ofr_schema_resolve(ofr_schema_compiler *c, const json_t *schema, const char *reference,
                       const json_t **ret_target);

/* json_schema_goal.c */
/* The rule of a goal, which is made now or later. Literals [count] need not be sorted; those of the
 * schema `true` are dropped. */
int ofr_schema_goal(ofr_schema_compiler *c, const ofr_literal *literals, size_t count,
                    uint32_t *ret_rule);
/* Calls `each` for every alternative of the literals. */
int ofr_schema_expand(ofr_schema_compiler *c, const ofr_literal *literals, size_t count,
                      int (*each)(ofr_schema_compiler *c, const ofr_constraint *constraint,
                                  void *user),
                      void *user);
/* False if no value can satisfy the literals, as far as a look `depth` levels deep tells. */
int ofr_schema_may_hold(ofr_schema_compiler *c, const ofr_literal *literals, size_t count,
                        int depth, bool *ret_may);

/* json_schema_object.c: what a property of this name must satisfy; `literals` gets them. */
int ofr_schema_property_goal(ofr_schema_compiler *c, const ofr_constraint *k, const char *name,
                             ofr_list *literals);
int ofr_schema_emit_object(ofr_schema_compiler *c, const ofr_constraint *k, uint32_t next,
                           uint32_t *ret_node);

/* json_schema_emit.c */
int ofr_schema_emit_shared(ofr_schema_compiler *c);
int ofr_schema_emit_goal(ofr_schema_compiler *c, size_t goal);
uint32_t ofr_schema_space(ofr_schema_compiler *c, uint32_t next);
/* The value as JSON text, with space where JSON allows it. */
uint32_t ofr_schema_value_text(ofr_schema_compiler *c, const json_t *value, uint32_t next);
uint32_t ofr_schema_string_text(ofr_schema_compiler *c, const char *text, size_t size,
                                uint32_t next);
/* The strings of a constraint; NULL for all. Lengths are in it only with `lengths`. */
int ofr_schema_string_dfa(ofr_schema_compiler *c, const ofr_constraint *k, bool lengths,
                          ofr_dfa **ret_dfa);

/* json_schema_check.c: whether a value satisfies a schema. Fails where a keyword is not supported.
 */
int ofr_schema_check(ofr_schema_compiler *c, const json_t *schema, const json_t *value, int depth,
                     bool *ret_valid);
/* Equal as JSON Schema compares: 1 equals 1.0. */
bool ofr_schema_equal(const json_t *a, const json_t *b);
/* The regular expression of a format, or NULL. */
const char *ofr_schema_format(const char *name);
/* How a value counts: one bit of ofr_schema_types. */
unsigned ofr_schema_type_of(const json_t *value);
/* Bits of a type's name; 0 if unknown. */
unsigned ofr_schema_type_bits(const char *name);

#endif
