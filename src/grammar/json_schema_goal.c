/* Goals: from sets of schemas to constraints without branches. */
#include <stdlib.h>
#include <string.h>

#include "grammar/json_schema_internal.h"

int ofr_list_add(ofr_schema_compiler *c, ofr_list *list, const void *value)
{
    if (list->size == list->room) {
        size_t room = list->room ? list->room * 2 : 8;
        const void **grown = realloc(list->data, room * sizeof *grown);
        if (!grown)
            return ofr_schema_no_memory(c);
        list->data = grown;
        list->room = room;
    }
    list->data[list->size++] = value;
    return 0;
}

bool ofr_list_has_name(const ofr_list *list, const char *name)
{
    for (size_t i = 0; i < list->size; i++)
        if (strcmp(list->data[i], name) == 0)
            return true;
    return false;
}

/* Every list of a constraint. */
#define LISTS(X, k)                                                                                \
    X((k)->excluded)                                                                               \
    X((k)->multiples)                                                                              \
    X((k)->patterns)                                                                               \
    X((k)->not_patterns)                                                                           \
    X((k)->formats)                                                                                \
    X((k)->arrays)                                                                                 \
    X((k)->objects)                                                                                \
    X((k)->extras)                                                                                 \
    X((k)->required)                                                                               \
    X((k)->forbidden)                                                                              \
    X((k)->names)                                                                                  \
    X((k)->seen)                                                                                   \
    X((k)->pending)                                                                                \
    X((k)->branches)

static void constraint_done(ofr_constraint *k)
{
#define FREE_LIST(list) free(list.data);
    LISTS(FREE_LIST, k)
#undef FREE_LIST
}

static bool copy_list(ofr_list *list)
{
    const void **data = malloc((list->size + 1) * sizeof *data);
    if (data && list->size)
        memcpy(data, list->data, list->size * sizeof *data);
    list->data = data;
    list->room = list->size + 1;
    return data != NULL;
}

static int constraint_copy(ofr_schema_compiler *c, const ofr_constraint *k, ofr_constraint *ret)
{
    *ret = *k;
    bool ok = true;
#define COPY_LIST(list) ok = copy_list(&list) && ok;
    LISTS(COPY_LIST, ret)
#undef COPY_LIST
    if (ok)
        return 0;
    constraint_done(ret);
    return ofr_schema_no_memory(c);
}

/* Keywords that say nothing about which values are valid. */
static bool is_annotation(const char *key)
{
    static const char *const names[] = {"$schema",
                                        "$id",
                                        "$anchor",
                                        "$comment",
                                        "$defs",
                                        "definitions",
                                        "title",
                                        "description",
                                        "default",
                                        "examples",
                                        "deprecated",
                                        "readOnly",
                                        "writeOnly",
                                        "contentEncoding",
                                        "contentMediaType",
                                        "contentSchema",
                                        "discriminator",
                                        "$vocabulary",
                                        "then",
                                        "else",
                                        "if"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(key, names[i]) == 0)
            return true;
    return strncmp(key, "x-", 2) == 0;
}

static int bad(ofr_schema_compiler *c, const json_t *schema, const char *key, const char *wanted)
{
    return ofr_schema_fail(c, schema, OFR_EINVAL, "'%s' must be %s", key, wanted);
}

/* A count, which may be written 2.0. */
static int get_count(ofr_schema_compiler *c, const json_t *schema, const char *key,
                     const json_t *value, uint32_t *ret)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || number < 0 || number != (double)(uint64_t)number)
        return bad(c, schema, key, "a whole number, 0 or more");
    *ret = number >= OFR_DFA_UNBOUNDED ? OFR_DFA_UNBOUNDED - 1 : (uint32_t)number;
    return 0;
}

static int narrow_bound(ofr_schema_compiler *c, const json_t *schema, const char *key,
                        const json_t *value, bool strict, bool upper, ofr_bound *bound)
{
    ofr_bound other = {.set = true, .strict = strict};
    if (!json_is_number(value))
        return bad(c, schema, key, "a number");
    if (ofr_decimal_from_json(value, &other.value) < 0)
        return ofr_schema_fail(c, schema, OFR_EUNSUPPORTED, "'%s' with more than %d digits", key,
                               OFR_DECIMAL_DIGITS_MAX);
    int order = bound->set ? ofr_decimal_compare(&other.value, &bound->value) : upper ? -1 : 1;
    if (upper ? order < 0 : order > 0)
        *bound = other;
    else if (order == 0)
        bound->strict = bound->strict || strict;
    return 0;
}

static int add_types(ofr_schema_compiler *c, const json_t *schema, const json_t *value,
                     unsigned *ret_types)
{
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    *ret_types = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *name = json_is_array(value) ? json_array_get(value, i) : value;
        unsigned bits = json_is_string(name) ? ofr_schema_type_bits(json_string_value(name)) : 0;
        if (!bits)
            return bad(c, schema, "type", "the name of a type, or an array of them");
        *ret_types |= bits;
    }
    return 0;
}

static int add_names(ofr_schema_compiler *c, const json_t *schema, const char *key,
                     const json_t *value, ofr_list *list)
{
    size_t i;
    json_t *name;
    int r = 0;
    if (!json_is_array(value))
        return bad(c, schema, key, "an array of strings");
    json_array_foreach(value, i, name)
    {
        if (!json_is_string(name) || strlen(json_string_value(name)) != json_string_length(name))
            return bad(c, schema, key, "an array of strings");
        if (r == 0 && !ofr_list_has_name(list, json_string_value(name)))
            r = ofr_list_add(c, list, json_string_value(name));
    }
    return r;
}

static int add_extra(ofr_schema_compiler *c, ofr_constraint *k, const char *name,
                     ofr_literal literal)
{
    ofr_extra_property *extra = malloc(sizeof *extra);
    if (!extra)
        return ofr_schema_no_memory(c);
    *extra = (ofr_extra_property){name, literal, c->extras};
    c->extras = extra;
    return ofr_list_add(c, &k->extras, extra);
}

enum branch_kind { ANY_OF, NONE_OF, ONE_OF, NOT, IF_ELSE, REQUIRES, DEPENDS };

static int add_branch(ofr_schema_compiler *c, ofr_constraint *k, enum branch_kind kind,
                      const json_t *json)
{
    int r = ofr_list_add(c, &k->branches, (const void *)(uintptr_t)kind);
    return r < 0 ? r : ofr_list_add(c, &k->branches, json);
}

static int add_pending(ofr_schema_compiler *c, ofr_constraint *k, const json_t *schema,
                       bool negated)
{
    return ofr_list_add(c, &k->pending, ofr_literal_of(schema, negated));
}

static int check_schemas(ofr_schema_compiler *c, const json_t *schema, const char *key,
                         const json_t *array)
{
    size_t i;
    json_t *item;
    if (!json_is_array(array) || json_array_size(array) == 0)
        return bad(c, schema, key, "an array of schemas");
    json_array_foreach(array, i,
                       item) if (!json_is_object(item) &&
                                 !json_is_boolean(item)) return bad(c, schema, key,
                                                                    "an array of schemas");
    return 0;
}

static int check_schema(ofr_schema_compiler *c, const json_t *schema, const char *key,
                        const json_t *value)
{
    return json_is_object(value) || json_is_boolean(value) ? 0 : bad(c, schema, key, "a schema");
}

static int check_schema_map(ofr_schema_compiler *c, const json_t *schema, const char *key,
                            const json_t *map)
{
    const char *name;
    json_t *value;
    if (!json_is_object(map))
        return bad(c, schema, key, "an object of schemas");
    json_object_foreach((json_t *)(uintptr_t)map, name, value)
    {
        if (!json_is_object(value) && !json_is_boolean(value))
            return bad(c, schema, key, "an object of schemas");
    }
    return 0;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Values and numbers. 1: it was one of these keywords. */
static int merge_value_keyword(ofr_schema_compiler *c, ofr_constraint *k, const json_t *schema,
                               const char *key, const json_t *value)
{
    unsigned types = 0;
    int r = 0;
    if (strcmp(key, "type") == 0) {
        r = add_types(c, schema, value, &types);
        k->types &= types;
    } else if (strcmp(key, "enum") == 0) {
        if (!json_is_array(value))
            r = bad(c, schema, key, "an array");
        k->values = k->values ? k->values : value;
    } else if (strcmp(key, "const") == 0) {
        k->value = k->value ? k->value : value;
    } else if (strcmp(key, "minimum") == 0 || strcmp(key, "exclusiveMinimum") == 0) {
        r = narrow_bound(c, schema, key, value, key[0] == 'e', false, &k->min);
    } else if (strcmp(key, "maximum") == 0 || strcmp(key, "exclusiveMaximum") == 0) {
        r = narrow_bound(c, schema, key, value, key[0] == 'e', true, &k->max);
    } else if (strcmp(key, "multipleOf") == 0) {
        r = json_is_number(value) && json_number_value(value) > 0
                ? ofr_list_add(c, &k->multiples, value)
                : bad(c, schema, key, "a number above 0");
    } else if (strcmp(key, "pattern") == 0) {
        r = json_is_string(value) ? ofr_list_add(c, &k->patterns, value)
                                  : bad(c, schema, key, "a string");
    } else if (strcmp(key, "format") == 0) {
        if (!json_is_string(value))
            r = bad(c, schema, key, "a string");
        else if (!ofr_schema_format(json_string_value(value)))
            r = ofr_schema_fail(c, schema, OFR_EUNSUPPORTED, "'format' '%s' is not supported",
                                json_string_value(value));
        else
            r = ofr_list_add(c, &k->formats, value);
    } else {
        return 0;
    }
    return r < 0 ? r : 1;
}

static int merge_count_keyword(ofr_schema_compiler *c, ofr_constraint *k, const json_t *schema,
                               const char *key, const json_t *value)
{
    struct {
        const char *key;
        uint32_t *min, *max;
    } counts[] = {
        {"minLength", &k->min_length, NULL},         {"maxLength", NULL, &k->max_length},
        {"minItems", &k->min_items, NULL},           {"maxItems", NULL, &k->max_items},
        {"minProperties", &k->min_properties, NULL}, {"maxProperties", NULL, &k->max_properties},
    };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        uint32_t count = 0;
        if (strcmp(key, counts[i].key) != 0)
            continue;
        int r = get_count(c, schema, key, value, &count);
        if (r < 0)
            return r;
        if (counts[i].min)
            *counts[i].min = most(*counts[i].min, count);
        else
            *counts[i].max = least(*counts[i].max, count);
        return 1;
    }
    return 0;
}

/* Arrays, objects and combinations. */
static int merge_other_keyword(ofr_schema_compiler *c, ofr_constraint *k, const json_t *schema,
                               const char *key, const json_t *value)
{
    int r = 0;
    size_t i;
    json_t *item;
    if (strcmp(key, "items") == 0) {
        if (json_is_array(value))
            return ofr_schema_fail(c, schema, OFR_EUNSUPPORTED,
                                   "'items' as an array is not supported: it is 'prefixItems' "
                                   "since draft 2020-12");
        r = check_schema(c, schema, key, value);
        if (r == 0 && !json_object_get(schema, "prefixItems"))
            r = ofr_list_add(c, &k->arrays, schema);
    } else if (strcmp(key, "prefixItems") == 0) {
        r = check_schemas(c, schema, key, value);
        if (r == 0)
            r = ofr_list_add(c, &k->arrays, schema);
    } else if (strcmp(key, "properties") == 0 || strcmp(key, "patternProperties") == 0) {
        r = check_schema_map(c, schema, key, value);
    } else if (strcmp(key, "additionalProperties") == 0) {
        r = check_schema(c, schema, key, value);
    } else if (strcmp(key, "required") == 0) {
        r = add_names(c, schema, key, value, &k->required);
    } else if (strcmp(key, "propertyNames") == 0) {
        r = check_schema(c, schema, key, value);
        if (r == 0)
            r = ofr_list_add(c, &k->names, value);
    } else if (strcmp(key, "allOf") == 0) {
        r = check_schemas(c, schema, key, value);
        json_array_foreach(value, i, item) r = r < 0 ? r : add_pending(c, k, item, false);
    } else if (strcmp(key, "anyOf") == 0 || strcmp(key, "oneOf") == 0) {
        r = check_schemas(c, schema, key, value);
        if (r == 0)
            r = add_branch(c, k, key[0] == 'a' ? ANY_OF : ONE_OF, value);
    } else if (strcmp(key, "not") == 0) {
        r = check_schema(c, schema, key, value);
        if (r == 0)
            r = add_pending(c, k, value, true);
    } else if (strcmp(key, "$ref") == 0) {
        const json_t *target = NULL;
        r = json_is_string(value) ? ofr_schema_resolve(c, schema, json_string_value(value), &target)
                                  : bad(c, schema, key, "a string");
        if (r == 0)
            r = add_pending(c, k, target, false);
    } else if (strcmp(key, "dependentSchemas") == 0 || strcmp(key, "dependentRequired") == 0) {
        const char *name;
        if (!json_is_object(value))
            return bad(c, schema, key, "an object");
        json_object_foreach((json_t *)(uintptr_t)value, name, item)
        {
            r = r < 0 ? r : add_branch(c, k, key[9] == 'S' ? DEPENDS : REQUIRES, item);
            r = r < 0 ? r : ofr_list_add(c, &k->branches, name);
        }
    } else if (strcmp(key, "uniqueItems") == 0 && json_is_false(value)) {
        r = 0;
    } else if (!is_annotation(key)) {
        r = ofr_schema_fail(c, schema, OFR_EUNSUPPORTED, "'%s' is not supported", key);
    }
    return r;
}

static int merge_schema(ofr_schema_compiler *c, ofr_constraint *k, const json_t *schema)
{
    const char *key;
    json_t *value;
    int r = 0;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value)
    {
        r = merge_value_keyword(c, k, schema, key, value);
        if (r == 0)
            r = merge_count_keyword(c, k, schema, key, value);
        if (r == 0)
            r = merge_other_keyword(c, k, schema, key, value);
        if (r < 0)
            return r;
    }
    if (json_object_get(schema, "properties") || json_object_get(schema, "patternProperties") ||
        json_object_get(schema, "additionalProperties"))
        r = ofr_list_add(c, &k->objects, schema);
    const json_t *condition = json_object_get(schema, "if");
    if (r >= 0 && condition &&
        (json_object_get(schema, "then") || json_object_get(schema, "else"))) {
        r = check_schema(c, schema, "if", condition);
        if (r == 0)
            r = add_branch(c, k, IF_ELSE, schema);
    }
    return r < 0 ? r : 0;
}

/* Merges pending literals. 1: the constraint cannot hold. */
static int merge_pending(ofr_schema_compiler *c, ofr_constraint *k)
{
    while (k->pending.size) {
        ofr_literal literal = k->pending.data[--k->pending.size];
        const json_t *schema = ofr_literal_schema(literal);
        bool negated = ofr_literal_negated(literal), seen = false;
        for (size_t i = 0; i < k->seen.size && !seen; i++)
            seen = k->seen.data[i] == literal;
        if (seen)
            continue;
        int r = ofr_list_add(c, &k->seen, literal);
        if (r == 0 && json_is_boolean(schema)) {
            if (json_is_true(schema) == negated)
                return 1;
        } else if (r == 0 && negated) {
            r = add_branch(c, k, NOT, schema);
        } else if (r == 0) {
            r = merge_schema(c, k, schema);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

/* Reversed bounds. */
static int exclude_bound(ofr_schema_compiler *c, ofr_constraint *k, const json_t *schema,
                         const char *key, const json_t *value)
{
    bool upper = strstr(key, "aximum") != NULL, strict = key[0] == 'e';
    k->types &= OFR_TYPE_NUMBER;
    return narrow_bound(c, schema, key, value, !strict, !upper, upper ? &k->min : &k->max);
}

static int exclude_count(ofr_schema_compiler *c, ofr_constraint *k, const json_t *schema,
                         const char *key, const json_t *value)
{
    uint32_t count = 0;
    int r = get_count(c, schema, key, value, &count);
    if (r < 0)
        return r;
    bool lower = strncmp(key, "min", 3) == 0;
    if (lower && count == 0)
        return 1; /* always holds: nothing is left */
    bool length = strcmp(key + 3, "Length") == 0, items = strcmp(key + 3, "Items") == 0;
    uint32_t *min = length ? &k->min_length : items ? &k->min_items : &k->min_properties;
    uint32_t *max = length ? &k->max_length : items ? &k->max_items : &k->max_properties;
    k->types &= length ? OFR_TYPE_STRING : items ? OFR_TYPE_ARRAY : OFR_TYPE_OBJECT;
    if (lower)
        *max = least(*max, count - 1);
    else
        *min = most(*min, count + 1);
    return 0;
}

/* Applies the negation of one keyword: its `part`-th way. 0 done, 1 this way is none, 2 there are
 * no more ways. */
static int exclude_keyword(ofr_schema_compiler *c, ofr_constraint *k, const json_t *schema,
                           const char *key, const json_t *value, size_t part)
{
    unsigned types = 0;
    const json_t *target = NULL;
    size_t i, n = 1;
    json_t *item;
    int r = 0;
    if (strcmp(key, "required") == 0 || strcmp(key, "allOf") == 0)
        n = json_array_size(value);
    else if (strcmp(key, "properties") == 0)
        n = json_object_size(value);
    if (part >= n || is_annotation(key))
        return 2;
    if (strcmp(key, "type") == 0) {
        r = add_types(c, schema, value, &types);
        k->types &= ~types;
    } else if (strcmp(key, "const") == 0) {
        r = ofr_list_add(c, &k->excluded, value);
    } else if (strcmp(key, "enum") == 0 && json_is_array(value)) {
        json_array_foreach(value, i, item) r = r < 0 ? r : ofr_list_add(c, &k->excluded, item);
    } else if (strstr(key, "inimum") || strstr(key, "aximum")) {
        r = exclude_bound(c, k, schema, key, value);
    } else if (strcmp(key, "pattern") == 0 && json_is_string(value)) {
        k->types &= OFR_TYPE_STRING;
        r = ofr_list_add(c, &k->not_patterns, value);
    } else if (strcmp(key + (strlen(key) > 3 ? 3 : 0), "Length") == 0 ||
               strcmp(key + (strlen(key) > 3 ? 3 : 0), "Items") == 0 ||
               strcmp(key + (strlen(key) > 3 ? 3 : 0), "Properties") == 0) {
        r = exclude_count(c, k, schema, key, value);
    } else if (strcmp(key, "required") == 0) {
        k->types &= OFR_TYPE_OBJECT;
        r = json_is_string(json_array_get(value, part))
                ? ofr_list_add(c, &k->forbidden, json_string_value(json_array_get(value, part)))
                : bad(c, schema, key, "an array of strings");
    } else if (strcmp(key, "properties") == 0 && json_is_object(value)) {
        void *at = json_object_iter((json_t *)(uintptr_t)value);
        for (i = 0; i < part; i++)
            at = json_object_iter_next((json_t *)(uintptr_t)value, at);
        if (json_is_true(json_object_iter_value(at)))
            return 1;
        k->types &= OFR_TYPE_OBJECT;
        r = ofr_list_add(c, &k->required, json_object_iter_key(at));
        if (r == 0)
            r = add_extra(c, k, json_object_iter_key(at),
                          ofr_literal_of(json_object_iter_value(at), true));
    } else if (strcmp(key, "allOf") == 0) {
        r = add_pending(c, k, json_array_get(value, part), true);
    } else if (strcmp(key, "anyOf") == 0) {
        json_array_foreach(value, i, item) r = r < 0 ? r : add_pending(c, k, item, true);
    } else if (strcmp(key, "not") == 0) {
        r = add_pending(c, k, value, false);
    } else if (strcmp(key, "$ref") == 0 && json_is_string(value)) {
        r = ofr_schema_resolve(c, schema, json_string_value(value), &target);
        if (r == 0)
            r = add_pending(c, k, target, true);
    } else {
        r = ofr_schema_fail(c, schema, OFR_EUNSUPPORTED,
                            "'%s' cannot be negated, as 'not', 'if' or a 'oneOf' with alternatives "
                            "that overlap would demand",
                            key);
    }
    return r;
}

typedef struct expansion {
    int (*each)(ofr_schema_compiler *c, const ofr_constraint *constraint, void *user);
    void *user;
    size_t alternatives;
} expansion;

static int expand(ofr_schema_compiler *c, ofr_constraint *k, expansion *e, int depth);

/* One alternative of a branch: `k` is a copy and may be changed. 0 go on with it, 1 this
 * alternative is none, 2 there are no more. */
static int take_alternative(ofr_schema_compiler *c, ofr_constraint *k, enum branch_kind kind,
                            const json_t *json, const char *name, size_t index)
{
    int r = 0;
    size_t i;
    json_t *item;
    if (kind == ANY_OF) {
        return index < json_array_size(json) ? add_pending(c, k, json_array_get(json, index), false)
                                             : 2;
    }
    if (kind == ONE_OF) {
        if (index >= json_array_size(json))
            return 2;
        const json_t *chosen = json_array_get(json, index);
        r = add_pending(c, k, chosen, false);
        json_array_foreach(json, i, item)
        {
            bool overlap = true;
            ofr_literal both[] = {ofr_literal_of(chosen, false), ofr_literal_of(item, false)};
            if (r < 0 || i == index)
                continue;
            r = ofr_schema_may_hold(c, both, 2, 4, &overlap);
            if (r == 0 && overlap)
                r = add_pending(c, k, item, true);
        }
        return r;
    }
    if (kind == IF_ELSE) {
        const json_t *then = json_object_get(json, index == 0 ? "then" : "else");
        if (index > 1)
            return 2;
        r = add_pending(c, k, json_object_get(json, "if"), index == 1);
        if (r == 0 && then)
            r = check_schema(c, json, index == 0 ? "then" : "else", then);
        return r < 0 || !then ? r : add_pending(c, k, then, false);
    }
    /* dependent...: the property is missing, or what it demands holds. */
    if (index == 0)
        return ofr_list_add(c, &k->forbidden, name);
    if (index > 1)
        return 2;
    if (kind == REQUIRES)
        return add_names(c, NULL, "dependentRequired", json, &k->required);
    r = check_schema(c, NULL, "dependentSchemas", json);
    return r < 0 ? r : add_pending(c, k, json, false);
}

static int expand_not(ofr_schema_compiler *c, const ofr_constraint *k, const json_t *schema,
                      expansion *e, int depth)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value)
    {
        for (size_t part = 0;; part++) {
            ofr_constraint copy;
            int r = constraint_copy(c, k, &copy);
            if (r < 0)
                return r;
            r = exclude_keyword(c, &copy, schema, key, value, part);
            bool more = r != 2;
            if (r == 0)
                r = expand(c, &copy, e, depth - 1);
            constraint_done(&copy);
            if (r < 0)
                return r;
            if (!more)
                break;
        }
    }
    return 0;
}

static int expand(ofr_schema_compiler *c, ofr_constraint *k, expansion *e, int depth)
{
    if (depth == 0 || ++c->n_branches > OFR_SCHEMA_BRANCHES_MAX)
        return ofr_schema_fail(c, NULL, OFR_ELIMIT, "too many alternatives inside each other");
    int r = merge_pending(c, k);
    if (r != 0)
        return r < 0 ? r : 0;
    if (k->types == 0 && !k->branches.size)
        return 0;
    if (!k->branches.size) {
        if (++e->alternatives > OFR_SCHEMA_ALTERNATIVES_MAX)
            return ofr_schema_fail(c, NULL, OFR_ELIMIT,
                                   "a part of the schema has more than %d alternatives",
                                   OFR_SCHEMA_ALTERNATIVES_MAX);
        return e->each(c, k, e->user);
    }
    const char *name = NULL;
    ofr_list *branches = &k->branches;
    const json_t *json = branches->data[branches->size - 1];
    uintptr_t kind = (uintptr_t)branches->data[branches->size - 2];
    branches->size -= 2;
    if (branches->size && kind > DEPENDS) { /* the name of a property comes third */
        name = (const char *)json;
        json = (const json_t *)kind;
        kind = (uintptr_t)branches->data[--branches->size];
    }
    if (kind == NOT)
        return expand_not(c, k, json, e, depth);
    for (size_t index = 0;; index++) {
        ofr_constraint copy;
        r = constraint_copy(c, k, &copy);
        if (r < 0)
            return r;
        int way = take_alternative(c, &copy, (enum branch_kind)kind, json, name, index);
        r = way == 0 ? expand(c, &copy, e, depth - 1) : way < 0 ? way : 0;
        constraint_done(&copy);
        if (r < 0 || way == 2)
            return r;
    }
}

int ofr_schema_expand(ofr_schema_compiler *c, const ofr_literal *literals, size_t count,
                      int (*each)(ofr_schema_compiler *c, const ofr_constraint *constraint,
                                  void *user),
                      void *user)
{
    ofr_constraint k = {
        .types = OFR_TYPE_ALL,
        .max_length = OFR_DFA_UNBOUNDED,
        .max_items = OFR_DFA_UNBOUNDED,
        .max_properties = OFR_DFA_UNBOUNDED,
    };
    expansion e = {.each = each, .user = user};
    int r = 0;
    for (size_t i = count; r == 0 && i-- > 0;)
        r = ofr_list_add(c, &k.pending, literals[i]);
    if (r == 0)
        r = expand(c, &k, &e, OFR_SCHEMA_NESTING_MAX);
    constraint_done(&k);
    return r;
}

static int compare_literals(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (const ofr_literal *)a, y = (uintptr_t) * (const ofr_literal *)b;
    return (x > y) - (x < y);
}

int ofr_schema_goal(ofr_schema_compiler *c, const ofr_literal *literals, size_t count,
                    uint32_t *ret_rule)
{
    ofr_literal *own = malloc((count + 1) * sizeof *own);
    if (!own)
        return ofr_schema_no_memory(c);
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *schema = ofr_literal_schema(literals[i]);
        bool empty =
            json_is_true(schema) || (json_is_object(schema) && json_object_size(schema) == 0);
        if (!empty || ofr_literal_negated(literals[i]))
            own[n++] = literals[i];
    }
    qsort(own, n, sizeof *own, compare_literals);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || own[kept - 1] != own[i])
            own[kept++] = own[i];
    if (kept == 0) { /* anything */
        free(own);
        *ret_rule = c->value_rule;
        return 0;
    }
    for (size_t i = 0; i < c->n_goals; i++)
        if (c->goals[i].count == kept &&
            memcmp(c->goals[i].literals, own, kept * sizeof *own) == 0) {
            free(own);
            *ret_rule = c->goals[i].rule;
            return 0;
        }
    if (c->n_goals == OFR_SCHEMA_GOALS_MAX) {
        free(own);
        return ofr_schema_fail(c, NULL, OFR_ELIMIT, "more than %d different parts",
                               OFR_SCHEMA_GOALS_MAX);
    }
    if (c->n_goals == c->goals_room) {
        size_t room = c->goals_room ? c->goals_room * 2 : 32;
        ofr_goal *grown = realloc(c->goals, room * sizeof *grown);
        if (!grown) {
            free(own);
            return ofr_schema_no_memory(c);
        }
        c->goals = grown;
        c->goals_room = room;
    }
    *ret_rule = ofr_builder_rule(&c->builder, NULL, 0);
    c->goals[c->n_goals++] = (ofr_goal){own, kept, *ret_rule};
    return 0;
}

/* The search behind ofr_schema_may_hold. */
typedef struct look {
    const ofr_literal *literals;
    size_t count;
    int depth;
    bool found;
} look;

/* Whether any of the values satisfies all literals. */
static int any_value_holds(ofr_schema_compiler *c, const look *l, const json_t *value, bool *ret)
{
    *ret = true;
    for (size_t i = 0; i < l->count && *ret; i++) {
        const json_t *schema = ofr_literal_schema(l->literals[i]);
        bool valid = false;
        int r = ofr_schema_check(c, schema, value, OFR_SCHEMA_NESTING_MAX, &valid);
        if (r < 0)
            return r;
        *ret = valid != ofr_literal_negated(l->literals[i]);
    }
    return 0;
}

static int look_at(ofr_schema_compiler *c, const ofr_constraint *k, void *user)
{
    look *l = user;
    int r = 0;
    if (l->found)
        return 0;
    if (k->value || k->values) {
        size_t n = k->value ? 1 : json_array_size(k->values);
        for (size_t i = 0; r == 0 && i < n && !l->found; i++)
            r = any_value_holds(c, l, k->value ? k->value : json_array_get(k->values, i),
                                &l->found);
        return r;
    }
    unsigned types = k->types;
    int order = k->min.set && k->max.set ? ofr_decimal_compare(&k->min.value, &k->max.value) : -1;
    if (order > 0 || (order == 0 && (k->min.strict || k->max.strict)))
        types &= ~(unsigned)OFR_TYPE_NUMBER;
    if (k->min_length > k->max_length)
        types &= ~(unsigned)OFR_TYPE_STRING;
    if (k->min_items > k->max_items)
        types &= ~(unsigned)OFR_TYPE_ARRAY;
    for (size_t i = 0; (types & OFR_TYPE_OBJECT) && i < k->required.size; i++) {
        bool may = !ofr_list_has_name(&k->forbidden, k->required.data[i]);
        ofr_list literals = {0};
        if (may && l->depth > 0) {
            r = ofr_schema_property_goal(c, k, k->required.data[i], &literals);
            if (r == 0)
                r = ofr_schema_may_hold(c, literals.data, literals.size, l->depth - 1, &may);
            free(literals.data);
        }
        if (r < 0)
            return r;
        if (!may)
            types &= ~(unsigned)OFR_TYPE_OBJECT;
    }
    l->found = types != 0;
    return 0;
}

int ofr_schema_may_hold(ofr_schema_compiler *c, const ofr_literal *literals, size_t count,
                        int depth, bool *ret_may)
{
    look l = {.literals = literals, .count = count, .depth = depth};
    /* Looking is no demand: what is not supported may hold. */
    ofr_error *err = c->err;
    c->err = NULL;
    int r = ofr_schema_expand(c, literals, count, look_at, &l);
    c->err = err;
    if (r == OFR_ENOMEM)
        return ofr_schema_no_memory(c);
    *ret_may = r < 0 || l.found;
    return 0;
}
