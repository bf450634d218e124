/* Whether a value satisfies a schema: for enum and const beside other keywords. */
#include <math.h>
#include <string.h>

#include "grammar/json_schema_internal.h"

unsigned ofr_schema_type_bits(const char *name)
{
    static const struct {
        const char *name;
        unsigned bits;
    } types[] = {
        {"null", OFR_TYPE_NULL},     {"boolean", OFR_TYPE_BOOLEAN}, {"integer", OFR_TYPE_INTEGER},
        {"number", OFR_TYPE_NUMBER}, {"string", OFR_TYPE_STRING},   {"array", OFR_TYPE_ARRAY},
        {"object", OFR_TYPE_OBJECT},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(name, types[i].name) == 0)
            return types[i].bits;
    return 0;
}

unsigned ofr_schema_type_of(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_NULL:
        return OFR_TYPE_NULL;
    case JSON_TRUE:
    case JSON_FALSE:
        return OFR_TYPE_BOOLEAN;
    case JSON_INTEGER:
        return OFR_TYPE_INTEGER;
    case JSON_REAL:
        return floor(json_real_value(value)) == json_real_value(value) ? OFR_TYPE_INTEGER
                                                                       : OFR_TYPE_FRACTION;
    case JSON_STRING:
        return OFR_TYPE_STRING;
    case JSON_ARRAY:
        return OFR_TYPE_ARRAY;
    default:
        return OFR_TYPE_OBJECT;
    }
}

bool ofr_schema_equal(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) {
        ofr_decimal x, y;
        if (ofr_decimal_from_json(a, &x) == 0 && ofr_decimal_from_json(b, &y) == 0)
            return ofr_decimal_compare(&x, &y) == 0;
        return json_number_value(a) == json_number_value(b);
    }
    if (json_typeof(a) != json_typeof(b))
        return false;
    if (json_is_array(a)) {
        bool equal = json_array_size(a) == json_array_size(b);
        for (size_t i = 0; equal && i < json_array_size(a); i++)
            equal = ofr_schema_equal(json_array_get(a, i), json_array_get(b, i));
        return equal;
    }
    if (json_is_object(a)) {
        const char *key;
        json_t *value;
        if (json_object_size(a) != json_object_size(b))
            return false;
        json_object_foreach((json_t *)(uintptr_t)a, key, value)
        {
            const json_t *other = json_object_get(b, key);
            if (!other || !ofr_schema_equal(value, other))
                return false;
        }
        return true;
    }
    return json_equal(a, b);
}

#define OFR_DAY                                                                                    \
    "(([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-"  \
    "(0[1-9]|1[0-9]|2[0-8])))|([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])" \
    "00)-02-29)"
#define OFR_CLOCK                                                                                  \
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]" \
    ")"
#define OFR_LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define OFR_OCTET "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define OFR_IPV4  OFR_OCTET "(\\." OFR_OCTET "){3}"
#define OFR_H16   "[0-9A-Fa-f]{1,4}"
#define OFR_LS32  "(" OFR_H16 ":" OFR_H16 "|" OFR_IPV4 ")"
#define OFR_ATOM  "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"

const char *ofr_schema_format(const char *name)
{
    static const char *const formats[][2] = {
        {"date", "^" OFR_DAY "$"},
        {"time", "^" OFR_CLOCK "$"},
        {"date-time", "^" OFR_DAY "T" OFR_CLOCK "$"},
        {"duration", "^P([0-9]+W|(([0-9]+Y)?([0-9]+M)?[0-9]+D|([0-9]+Y)?[0-9]+M|[0-9]+Y)(T(([0-9]+H"
                     ")?([0-9]+M)?[0-9]+S|([0-9]+H)?[0-9]+M|[0-9]+H))?|T(([0-9]+H)?([0-9]+M)?[0-9]+"
                     "S|([0-9]+H)?[0-9]+M|[0-9]+H))$"},
        {"uuid", "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"},
        {"email", "^" OFR_ATOM "(\\." OFR_ATOM ")*@" OFR_LABEL "(\\." OFR_LABEL ")*$"},
        {"hostname", "^" OFR_LABEL "(\\." OFR_LABEL ")*$"},
        {"ipv4", "^" OFR_IPV4 "$"},
        {"ipv6",
         "^((" OFR_H16 ":){6}" OFR_LS32 "|::(" OFR_H16 ":){5}" OFR_LS32 "|(" OFR_H16 ")?::(" OFR_H16
         ":){4}" OFR_LS32 "|((" OFR_H16 ":)?" OFR_H16 ")?::(" OFR_H16 ":){3}" OFR_LS32 "|((" OFR_H16
         ":){0,2}" OFR_H16 ")?::(" OFR_H16 ":){2}" OFR_LS32 "|((" OFR_H16 ":){0,3}" OFR_H16
         ")?::" OFR_H16 ":" OFR_LS32 "|((" OFR_H16 ":){0,4}" OFR_H16 ")?::" OFR_LS32 "|((" OFR_H16
         ":){0,5}" OFR_H16 ")?::" OFR_H16 "|((" OFR_H16 ":){0,6}" OFR_H16 ")?::)$"},
        {"uri", "^[A-Za-z][A-Za-z0-9+.-]*:([A-Za-z0-9._~:/?#@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$"},
        {"uri-reference", "^([A-Za-z0-9._~:/?#@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*$"},
        {"json-pointer", "^(/([^~/]|~[01])*)*$"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(name, formats[i][0]) == 0)
            return formats[i][1];
    return NULL;
}

static size_t count_characters(const json_t *string)
{
    const char *text = json_string_value(string);
    size_t count = 0;
    for (size_t i = 0; i < json_string_length(string); i++)
        count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

static int matches(ofr_schema_compiler *c, const char *pattern, const json_t *string, bool *ret)
{
    ofr_dfa *dfa = NULL;
    int r = ofr_dfa_from_regex(pattern, strlen(pattern), &dfa, c->err);
    if (r == 0)
        *ret = ofr_dfa_matches(dfa, json_string_value(string), json_string_length(string));
    ofr_dfa_free(dfa);
    return r;
}

static bool is_multiple(const json_t *value, const json_t *divisor)
{
    double quotient = json_number_value(value) / json_number_value(divisor);
    return fabs(quotient - nearbyint(quotient)) <= 1e-9 * fmax(1, fabs(quotient));
}

/* Types, values, numbers and strings; *ret_known is false for other keywords. */
static int check_scalar(ofr_schema_compiler *c, const char *key, const json_t *wanted,
                        const json_t *value, bool *ret_valid, bool *ret_known)
{
    double number = json_is_number(value) ? json_number_value(value) : 0;
    double limit = json_is_number(wanted) ? json_number_value(wanted) : 0;
    bool valid = true, is_number = json_is_number(value), is_string = json_is_string(value);
    int r = 0;
    *ret_known = true;
    if (strcmp(key, "type") == 0) {
        unsigned bits = 0;
        for (size_t i = 0; json_is_array(wanted) && i < json_array_size(wanted); i++)
            if (json_is_string(json_array_get(wanted, i)))
                bits |= ofr_schema_type_bits(json_string_value(json_array_get(wanted, i)));
        if (json_is_string(wanted))
            bits = ofr_schema_type_bits(json_string_value(wanted));
        valid = (bits & ofr_schema_type_of(value)) != 0;
    } else if (strcmp(key, "const") == 0) {
        valid = ofr_schema_equal(wanted, value);
    } else if (strcmp(key, "enum") == 0) {
        valid = false;
        for (size_t i = 0; !valid && i < json_array_size(wanted); i++)
            valid = ofr_schema_equal(json_array_get(wanted, i), value);
    } else if (strcmp(key, "minimum") == 0) {
        valid = !is_number || number >= limit;
    } else if (strcmp(key, "maximum") == 0) {
        valid = !is_number || number <= limit;
    } else if (strcmp(key, "exclusiveMinimum") == 0) {
        valid = !is_number || number > limit;
    } else if (strcmp(key, "exclusiveMaximum") == 0) {
        valid = !is_number || number < limit;
    } else if (strcmp(key, "multipleOf") == 0) {
        valid = !is_number || (limit > 0 && is_multiple(value, wanted));
    } else if (strcmp(key, "minLength") == 0) {
        valid = !is_string || (double)count_characters(value) >= limit;
    } else if (strcmp(key, "maxLength") == 0) {
        valid = !is_string || (double)count_characters(value) <= limit;
    } else if (strcmp(key, "pattern") == 0 && json_is_string(wanted)) {
        if (is_string)
            r = matches(c, json_string_value(wanted), value, &valid);
    } else if (strcmp(key, "format") == 0 && json_is_string(wanted) &&
               ofr_schema_format(json_string_value(wanted))) {
        if (is_string)
            r = matches(c, ofr_schema_format(json_string_value(wanted)), value, &valid);
    } else if (strcmp(key, "minItems") == 0) {
        valid = !json_is_array(value) || (double)json_array_size(value) >= limit;
    } else if (strcmp(key, "maxItems") == 0) {
        valid = !json_is_array(value) || (double)json_array_size(value) <= limit;
    } else if (strcmp(key, "minProperties") == 0) {
        valid = !json_is_object(value) || (double)json_object_size(value) >= limit;
    } else if (strcmp(key, "maxProperties") == 0) {
        valid = !json_is_object(value) || (double)json_object_size(value) <= limit;
    } else {
        *ret_known = false;
    }
    *ret_valid = valid;
    return r;
}

/* properties, patternProperties and additionalProperties together. */
static int check_members(ofr_schema_compiler *c, const json_t *schema, const json_t *value,
                         int depth, bool *ret_valid)
{
    const json_t *properties = json_object_get(schema, "properties");
    const json_t *patterns = json_object_get(schema, "patternProperties");
    const json_t *additional = json_object_get(schema, "additionalProperties");
    const char *name, *pattern;
    json_t *member, *wanted;
    int r = 0;
    json_object_foreach((json_t *)(uintptr_t)value, name, member)
    {
        json_t *string = json_string(name);
        const json_t *own = json_object_get(properties, name);
        bool named = own != NULL;
        if (!string)
            return ofr_schema_no_memory(c);
        if (own)
            r = ofr_schema_check(c, own, member, depth - 1, ret_valid);
        json_object_foreach((json_t *)(uintptr_t)patterns, pattern, wanted)
        {
            bool hit = false;
            if (r == 0 && *ret_valid)
                r = matches(c, pattern, string, &hit);
            named = named || hit;
            if (r == 0 && hit)
                r = ofr_schema_check(c, wanted, member, depth - 1, ret_valid);
        }
        if (r == 0 && *ret_valid && !named && additional)
            r = ofr_schema_check(c, additional, member, depth - 1, ret_valid);
        json_decref(string);
        if (r < 0 || !*ret_valid)
            return r;
    }
    return 0;
}

static int check_items(ofr_schema_compiler *c, const json_t *schema, const json_t *value, int depth,
                       bool *ret_valid)
{
    const json_t *prefix = json_object_get(schema, "prefixItems");
    const json_t *items = json_object_get(schema, "items");
    int r = 0;
    for (size_t i = 0; r == 0 && *ret_valid && i < json_array_size(value); i++) {
        const json_t *wanted = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
        if (wanted)
            r = ofr_schema_check(c, wanted, json_array_get(value, i), depth - 1, ret_valid);
    }
    return r;
}

static int check_combination(ofr_schema_compiler *c, const char *key, const json_t *schemas,
                             const json_t *value, int depth, bool *ret_valid)
{
    size_t count = 0, n = json_array_size(schemas);
    for (size_t i = 0; i < n; i++) {
        bool valid = false;
        int r = ofr_schema_check(c, json_array_get(schemas, i), value, depth - 1, &valid);
        if (r < 0)
            return r;
        count += valid;
    }
    *ret_valid = strcmp(key, "allOf") == 0   ? count == n
                 : strcmp(key, "anyOf") == 0 ? count > 0
                                             : count == 1;
    return 0;
}

static int check_keyword(ofr_schema_compiler *c, const json_t *schema, const char *key,
                         const json_t *wanted, const json_t *value, int depth, bool *ret_valid)
{
    bool known = false, inner = false;
    *ret_valid = true;
    int r = check_scalar(c, key, wanted, value, ret_valid, &known);
    if (r < 0 || known)
        return r;
    if (strcmp(key, "properties") == 0 || strcmp(key, "patternProperties") == 0 ||
        strcmp(key, "additionalProperties") == 0)
        return json_is_object(value) ? check_members(c, schema, value, depth, ret_valid) : 0;
    if (strcmp(key, "items") == 0 || strcmp(key, "prefixItems") == 0)
        return json_is_array(value) ? check_items(c, schema, value, depth, ret_valid) : 0;
    if (strcmp(key, "allOf") == 0 || strcmp(key, "anyOf") == 0 || strcmp(key, "oneOf") == 0)
        return check_combination(c, key, wanted, value, depth, ret_valid);
    if (strcmp(key, "required") == 0) {
        for (size_t i = 0; json_is_object(value) && i < json_array_size(wanted); i++) {
            const char *name = json_string_value(json_array_get(wanted, i));
            *ret_valid = *ret_valid && name && json_object_get(value, name);
        }
        return 0;
    }
    if (strcmp(key, "not") == 0) {
        r = ofr_schema_check(c, wanted, value, depth - 1, &inner);
        *ret_valid = !inner;
        return r;
    }
    if (strcmp(key, "$ref") == 0 && json_is_string(wanted)) {
        const json_t *target;
        r = ofr_schema_resolve(c, schema, json_string_value(wanted), &target);
        return r < 0 ? r : ofr_schema_check(c, target, value, depth - 1, ret_valid);
    }
    if (strcmp(key, "if") == 0) {
        r = ofr_schema_check(c, wanted, value, depth - 1, &inner);
        const json_t *then = json_object_get(schema, inner ? "then" : "else");
        return r < 0 || !then ? r : ofr_schema_check(c, then, value, depth - 1, ret_valid);
    }
    if (strcmp(key, "propertyNames") == 0 || strncmp(key, "dependent", 9) == 0)
        return !json_is_object(value)
                   ? 0
                   : ofr_schema_fail(c, schema, OFR_EUNSUPPORTED,
                                     "'%s' beside an enum or const of objects is not supported",
                                     key);
    return 0; /* annotations; what is not supported was refused when it was merged */
}

int ofr_schema_check(ofr_schema_compiler *c, const json_t *schema, const json_t *value, int depth,
                     bool *ret_valid)
{
    const char *key;
    json_t *wanted;
    if (depth <= 0)
        return ofr_schema_fail(c, NULL, OFR_ELIMIT, "more than %d levels", OFR_SCHEMA_NESTING_MAX);
    *ret_valid = !json_is_false(schema);
    if (!json_is_object(schema))
        return 0;
    json_object_foreach((json_t *)(uintptr_t)schema, key, wanted)
    {
        int r = check_keyword(c, schema, key, wanted, value, depth, ret_valid);
        if (r < 0 || !*ret_valid)
            return r;
    }
    return 0;
}
