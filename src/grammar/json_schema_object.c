/* Objects: named properties in the order of the schema, then others. */
#include <stdlib.h>
#include <string.h>

#include "grammar/json_schema_internal.h"

/* Whether `pattern` matches the name. */
static int matches(ofr_schema_compiler *c, const json_t *schema, const char *pattern,
                   const char *name, bool *ret)
{
    ofr_dfa *dfa = NULL;
    ofr_error reason = {0};
    int r = ofr_dfa_from_regex(pattern, strlen(pattern), &dfa, &reason);
    if (r < 0)
        return ofr_schema_fail(c, schema, r, "%s", reason.text);
    *ret = ofr_dfa_matches(dfa, name, strlen(name));
    ofr_dfa_free(dfa);
    return 0;
}

int ofr_schema_property_goal(ofr_schema_compiler *c, const ofr_constraint *k, const char *name,
                             ofr_list *literals)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < k->objects.size; i++) {
        const json_t *schema = k->objects.data[i];
        const json_t *own = json_object_get(json_object_get(schema, "properties"), name);
        const json_t *additional = json_object_get(schema, "additionalProperties");
        bool named = own != NULL;
        const char *pattern;
        json_t *wanted;
        if (own)
            r = ofr_list_add(c, literals, ofr_literal_of(own, false));
        json_object_foreach(json_object_get(schema, "patternProperties"), pattern, wanted)
        {
            bool hit = false;
            if (r == 0)
                r = matches(c, schema, pattern, name, &hit);
            if (r == 0 && hit)
                r = ofr_list_add(c, literals, ofr_literal_of(wanted, false));
            named = named || hit;
        }
        if (r == 0 && !named && additional)
            r = ofr_list_add(c, literals, ofr_literal_of(additional, false));
    }
    for (size_t i = 0; r == 0 && i < k->extras.size; i++) {
        const ofr_extra_property *extra = k->extras.data[i];
        if (strcmp(extra->name, name) == 0)
            r = ofr_list_add(c, literals, extra->literal);
    }
    return r;
}

/* One kind of property: a name, or all names of a set. */
typedef struct property {
    const char *name; /* NULL: `names` */
    ofr_dfa *names;   /* NULL: all */
    uint32_t rule;
    bool required;
} property;

typedef struct object {
    property *named, *others;
    size_t n_named, named_room, n_others;
    ofr_list names;   /* all that are named or forbidden */
    ofr_dfa *allowed; /* by propertyNames; NULL: all */
} object;

static void object_done(object *o)
{
    for (size_t i = 0; i < o->n_others; i++)
        ofr_dfa_free(o->others[i].names);
    free(o->named);
    free(o->others);
    free(o->names.data);
    ofr_dfa_free(o->allowed);
}

/* The names that one alternative of propertyNames allows. */
static int allow_names(ofr_schema_compiler *c, const ofr_constraint *k, void *user)
{
    object *o = user;
    ofr_dfa *names = NULL;
    if (!(k->types & OFR_TYPE_STRING))
        return 0;
    if (o->allowed)
        return ofr_schema_fail(c, k->names.size ? k->names.data[0] : NULL, OFR_EUNSUPPORTED,
                               "'propertyNames' with alternatives is not supported");
    if (k->value || k->values) {
        size_t n = k->value ? 1 : json_array_size(k->values), used = 0;
        const char **texts = calloc(n + 1, sizeof *texts);
        size_t *sizes = calloc(n + 1, sizeof *sizes);
        for (size_t i = 0; texts && sizes && i < n; i++) {
            const json_t *value = k->value ? k->value : json_array_get(k->values, i);
            if (!json_is_string(value))
                continue;
            texts[used] = json_string_value(value);
            sizes[used++] = json_string_length(value);
        }
        int r = texts && sizes ? ofr_dfa_from_literals(texts, sizes, used, &names, c->err)
                               : ofr_schema_no_memory(c);
        free(texts);
        free(sizes);
        if (r < 0)
            return r;
        o->allowed = names;
    }
    int r = ofr_schema_string_dfa(c, k, true, &names);
    if (r == 0 && names)
        r = ofr_dfa_narrow(&o->allowed, names, c->err);
    if (r == 0 && !o->allowed)
        r = ofr_dfa_from_lengths(0, OFR_DFA_UNBOUNDED, &o->allowed, c->err);
    return r;
}

static int find_allowed(ofr_schema_compiler *c, const ofr_constraint *k, object *o)
{
    ofr_list literals = {0};
    int r = 0;
    for (size_t i = 0; r == 0 && i < k->names.size; i++)
        r = ofr_list_add(c, &literals, ofr_literal_of(k->names.data[i], false));
    if (r == 0 && literals.size) {
        r = ofr_schema_expand(c, literals.data, literals.size, allow_names, o);
        if (r == 0 && !o->allowed) /* no name at all */
            r = ofr_dfa_from_literals(NULL, NULL, 0, &o->allowed, c->err);
    }
    free(literals.data);
    return r;
}

static int add_named(ofr_schema_compiler *c, const ofr_constraint *k, object *o, const char *name)
{
    if (ofr_list_has_name(&o->names, name))
        return 0;
    int r = ofr_list_add(c, &o->names, name);
    bool required = ofr_list_has_name(&k->required, name);
    bool possible = !ofr_list_has_name(&k->forbidden, name) &&
                    (!o->allowed || ofr_dfa_matches(o->allowed, name, strlen(name)));
    if (r < 0 || (!possible && !required))
        return r;
    if (o->n_named == o->named_room) {
        o->named_room = o->named_room ? o->named_room * 2 : 16;
        property *grown = realloc(o->named, o->named_room * sizeof *grown);
        if (!grown)
            return ofr_schema_no_memory(c);
        o->named = grown;
    }
    property *p = &o->named[o->n_named++];
    *p = (property){.name = name, .required = required};
    ofr_list literals = {0};
    r = possible ? ofr_schema_property_goal(c, k, name, &literals)
                 : ofr_list_add(c, &literals, ofr_literal_of(json_false(), false));
    if (r == 0)
        r = ofr_schema_goal(c, literals.data, literals.size, &p->rule);
    free(literals.data);
    return r;
}

static int find_named(ofr_schema_compiler *c, const ofr_constraint *k, object *o)
{
    const char *name;
    json_t *value;
    int r = 0;
    for (size_t i = 0; i < k->objects.size; i++)
        json_object_foreach(json_object_get(k->objects.data[i], "properties"), name, value)
        {
            r = r < 0 ? r : add_named(c, k, o, name);
        }
    for (size_t i = 0; r == 0 && i < k->extras.size; i++)
        r = add_named(c, k, o, ((const ofr_extra_property *)k->extras.data[i])->name);
    for (size_t i = 0; r == 0 && i < k->required.size; i++)
        r = add_named(c, k, o, k->required.data[i]);
    for (size_t i = 0; r == 0 && i < k->forbidden.size; i++)
        r = add_named(c, k, o, k->forbidden.data[i]);
    return r;
}

/* Every pattern of the objects, with the object it belongs to. */
typedef struct pattern {
    const json_t *object, *schema;
    ofr_dfa *names;
} pattern;

static int find_patterns(ofr_schema_compiler *c, const ofr_constraint *k,
                         pattern patterns[OFR_SCHEMA_PATTERNS_MAX], size_t *ret_count)
{
    const char *text;
    json_t *schema;
    for (size_t i = 0; i < k->objects.size; i++)
        json_object_foreach(json_object_get(k->objects.data[i], "patternProperties"), text, schema)
        {
            ofr_error reason = {0};
            if (*ret_count == OFR_SCHEMA_PATTERNS_MAX)
                return ofr_schema_fail(c, k->objects.data[i], OFR_EUNSUPPORTED,
                                       "'patternProperties' with more than %d patterns on one "
                                       "object is not supported",
                                       OFR_SCHEMA_PATTERNS_MAX);
            pattern *p = &patterns[*ret_count];
            *p = (pattern){k->objects.data[i], schema, NULL};
            int r = ofr_dfa_from_regex(text, strlen(text), &p->names, &reason);
            if (r < 0)
                return ofr_schema_fail(c, k->objects.data[i], r, "%s", reason.text);
            ++*ret_count;
        }
    return 0;
}

/* Names that are not named apart, as propertyNames allows. */
static int unnamed(ofr_schema_compiler *c, const object *o, ofr_dfa **ret)
{
    size_t n = o->names.size;
    size_t *sizes = calloc(n + 1, sizeof *sizes);
    const char **texts = calloc(n + 1, sizeof *texts);
    ofr_dfa *names = NULL, *both = NULL;
    int r = sizes && texts ? 0 : ofr_schema_no_memory(c);
    for (size_t i = 0; r == 0 && i < n; i++) {
        texts[i] = o->names.data[i];
        sizes[i] = strlen(texts[i]);
    }
    if (r == 0 && n > 0) {
        r = ofr_dfa_from_literals(texts, sizes, n, &names, c->err);
        if (r == 0)
            r = ofr_dfa_complement(names, ret, c->err);
        ofr_dfa_free(names);
    }
    if (r == 0 && o->allowed && *ret) {
        r = ofr_dfa_intersect(*ret, o->allowed, &both, c->err);
        ofr_dfa_free(*ret);
        *ret = both;
    } else if (r == 0 && o->allowed) {
        r = ofr_dfa_from_lengths(0, OFR_DFA_UNBOUNDED, &names, c->err);
        if (r == 0)
            r = ofr_dfa_intersect(names, o->allowed, ret, c->err);
        ofr_dfa_free(names);
    }
    free(texts);
    free(sizes);
    return r;
}

/* What a property must satisfy whose name matches exactly the patterns of `set`. */
static int other_rule(ofr_schema_compiler *c, const ofr_constraint *k, const pattern *patterns,
                      size_t count, unsigned set, uint32_t *ret_rule, bool *ret_possible)
{
    ofr_list literals = {0};
    int r = 0;
    for (size_t i = 0; r == 0 && i < k->objects.size; i++) {
        bool named = false;
        for (size_t p = 0; r == 0 && p < count; p++)
            if (patterns[p].object == k->objects.data[i] && (set >> p & 1)) {
                r = ofr_list_add(c, &literals, ofr_literal_of(patterns[p].schema, false));
                named = true;
            }
        const json_t *additional = json_object_get(k->objects.data[i], "additionalProperties");
        if (r == 0 && !named && additional)
            r = ofr_list_add(c, &literals, ofr_literal_of(additional, false));
    }
    *ret_possible = true;
    for (size_t i = 0; i < literals.size; i++)
        *ret_possible = *ret_possible && !json_is_false(ofr_literal_schema(literals.data[i]));
    if (r == 0 && *ret_possible)
        r = ofr_schema_goal(c, literals.data, literals.size, ret_rule);
    free(literals.data);
    return r;
}

static int find_others(ofr_schema_compiler *c, const ofr_constraint *k, object *o)
{
    pattern patterns[OFR_SCHEMA_PATTERNS_MAX];
    size_t count = 0;
    o->others = calloc(1u << OFR_SCHEMA_PATTERNS_MAX, sizeof *o->others);
    if (!o->others)
        return ofr_schema_no_memory(c);
    int r = find_patterns(c, k, patterns, &count);
    for (unsigned set = 0; r == 0 && set < 1u << count; set++) {
        property p = {0};
        bool possible = false;
        r = other_rule(c, k, patterns, count, set, &p.rule, &possible);
        if (r < 0 || !possible)
            continue;
        r = unnamed(c, o, &p.names);
        for (size_t i = 0; r == 0 && i < count; i++) {
            ofr_dfa *part = NULL;
            if (set >> i & 1) {
                ofr_dfa *twice = NULL; /* a copy, by complementing twice */
                r = ofr_dfa_complement(patterns[i].names, &twice, c->err);
                if (r == 0)
                    r = ofr_dfa_complement(twice, &part, c->err);
                ofr_dfa_free(twice);
            } else {
                r = ofr_dfa_complement(patterns[i].names, &part, c->err);
            }
            if (r == 0)
                r = ofr_dfa_narrow(&p.names, part, c->err);
        }
        if (r == 0 && (!p.names || !ofr_dfa_is_empty(p.names)))
            o->others[o->n_others++] = p;
        else
            ofr_dfa_free(p.names);
    }
    for (size_t i = 0; i < count; i++)
        ofr_dfa_free(patterns[i].names);
    return r;
}

/* "name": value, leading to `next`. */
static uint32_t emit_property(ofr_schema_compiler *c, const property *p, uint32_t next)
{
    ofr_builder *b = &c->builder;
    uint32_t value = ofr_builder_call(b, p->rule, ofr_schema_space(c, next));
    uint32_t colon = ofr_schema_space(c, ofr_builder_bytes(b, ":", 1, ofr_schema_space(c, value)));
    if (p->name)
        return ofr_schema_string_text(c, p->name, strlen(p->name), colon);
    if (!p->names)
        return ofr_builder_call(b, c->string_rule, colon);
    return ofr_builder_bytes(b, "\"", 1,
                             ofr_dfa_emit(b, p->names, true, ofr_builder_bytes(b, "\"", 1, colon)));
}

static uint32_t emit_others(ofr_schema_compiler *c, const object *o, uint32_t next)
{
    ofr_builder *b = &c->builder;
    uint32_t split = ofr_builder_split(b, (uint32_t)o->n_others);
    for (uint32_t i = 0; i < o->n_others; i++)
        ofr_builder_edge(b, split, i, emit_property(c, &o->others[i], next));
    return split;
}

/* How many of the other properties there may be; refuses what cannot be counted. */
static int count_others(ofr_schema_compiler *c, const ofr_constraint *k, const object *o,
                        uint32_t *ret_max, bool *ret_one)
{
    size_t required = 0;
    for (size_t i = 0; i < o->n_named; i++)
        required += o->named[i].required;
    const json_t *at = k->objects.size ? k->objects.data[0] : NULL;
    *ret_max = OFR_REPEAT_UNBOUNDED;
    *ret_one = k->min_properties > required; /* one at least */
    if (k->min_properties > required && k->min_properties > 1)
        return ofr_schema_fail(c, at, OFR_EUNSUPPORTED,
                               "'minProperties' %u is supported only where so many properties are "
                               "required",
                               k->min_properties);
    bool fits = k->max_properties == OFR_DFA_UNBOUNDED ||
                (o->n_others == 0 && o->n_named <= k->max_properties);
    if (fits)
        return 0;
    if (required < o->n_named && k->max_properties > 0)
        return ofr_schema_fail(c, at, OFR_EUNSUPPORTED,
                               "'maxProperties' %u beside properties that are not required is not "
                               "supported",
                               k->max_properties);
    *ret_max = required <= k->max_properties ? k->max_properties - (uint32_t)required : 0;
    return 0;
}

int ofr_schema_emit_object(ofr_schema_compiler *c, const ofr_constraint *k, uint32_t next,
                           uint32_t *ret_node)
{
    ofr_builder *b = &c->builder;
    object o = {0};
    uint32_t max = 0;
    bool one = false;
    if (!k->objects.size && !k->extras.size && !k->required.size && !k->forbidden.size &&
        !k->names.size && k->min_properties == 0 && k->max_properties == OFR_DFA_UNBOUNDED) {
        *ret_node = ofr_builder_call(b, c->object_rule, next);
        return 0;
    }
    int r = find_allowed(c, k, &o);
    if (r == 0)
        r = find_named(c, k, &o);
    if (r == 0)
        r = find_others(c, k, &o);
    if (r == 0)
        r = count_others(c, k, &o, &max, &one);
    bool impossible = k->min_properties > k->max_properties || o.n_named < k->required.size;
    if (r < 0 || impossible) {
        object_done(&o);
        *ret_node = impossible ? ofr_builder_split(b, 0) : 0;
        return r;
    }
    /* `more`: what follows a property; `first`: what follows the brace. From the end. */
    uint32_t close = ofr_builder_bytes(b, "}", 1, next), more = close;
    uint32_t first = one ? ofr_builder_split(b, 0) : close;
    if (o.n_others && max > 0) {
        ofr_repeat repeat;
        uint32_t after = ofr_repeat_begin(b, &repeat, 0, max, close);
        uint32_t other = emit_others(c, &o, after);
        more = ofr_repeat_end(b, &repeat, ofr_builder_bytes(b, ",", 1, ofr_schema_space(c, other)));
        /* The first of them has no comma before it. */
        uint32_t rest = more;
        if (max != OFR_REPEAT_UNBOUNDED) {
            after = ofr_repeat_begin(b, &repeat, 0, max - 1, close);
            other = emit_others(c, &o, after);
            rest = ofr_repeat_end(b, &repeat,
                                  ofr_builder_bytes(b, ",", 1, ofr_schema_space(c, other)));
        }
        first = ofr_builder_either(b, first, emit_others(c, &o, rest));
    }
    bool none = k->max_properties == 0;
    for (size_t i = o.n_named; i-- > 0;) {
        const property *p = &o.named[i];
        if (none && !p->required)
            continue;
        uint32_t begin = emit_property(c, p, more);
        uint32_t go_on =
            ofr_builder_bytes(b, ",", 1, ofr_schema_space(c, emit_property(c, p, more)));
        first = p->required ? begin : ofr_builder_either(b, begin, first);
        more = p->required ? go_on : ofr_builder_either(b, go_on, more);
    }
    *ret_node = ofr_builder_bytes(b, "{", 1, ofr_schema_space(c, first));
    object_done(&o);
    return 0;
}
