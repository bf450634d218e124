/* From constraints to rules. */
#include <stdlib.h>
#include <string.h>

#include "grammar/json_schema_internal.h"

static const ofr_range digits[] = {{'0', '9'}};
static const ofr_range hex[] = {{'0', '9'}, {'A', 'F'}, {'a', 'f'}};

/* Nothing, one space, or a new line with its indentation. */
uint32_t ofr_schema_space(ofr_schema_compiler *c, uint32_t next)
{
    ofr_builder *b = &c->builder;
    uint32_t split = ofr_builder_split(b, 3);
    ofr_builder_edge(b, split, 0, next);
    ofr_builder_edge(b, split, 1, ofr_builder_bytes(b, " ", 1, next));
    ofr_builder_edge(b, split, 2, ofr_builder_call(b, c->newline_rule, next));
    return split;
}

static uint32_t hex_digits(ofr_builder *b, int count, uint32_t next)
{
    while (count-- > 0)
        next = ofr_builder_class(b, hex, 3, next);
    return next;
}

/* What follows a backslash, one character in all: a pair of surrogates counts as one. */
static void emit_escape_rule(ofr_schema_compiler *c)
{
    static const ofr_range letters[] = {{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'},
                                        {'f', 'f'}, {'n', 'n'},   {'r', 'r'}, {'t', 't'}};
    static const ofr_range not_d[] = {{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}};
    static const ofr_range d[] = {{'D', 'D'}, {'d', 'd'}};
    static const ofr_range below_8[] = {{'0', '7'}};
    static const ofr_range high[] = {{'8', '9'}, {'A', 'B'}, {'a', 'b'}};
    static const ofr_range low[] = {{'C', 'F'}, {'c', 'f'}};
    ofr_builder *b = &c->builder;
    uint32_t end = ofr_builder_end(b), pair = hex_digits(b, 2, end);
    pair = ofr_builder_class(b, d, 2, ofr_builder_class(b, low, 2, pair));
    pair = ofr_builder_class(b, high, 3, hex_digits(b, 2, ofr_builder_bytes(b, "\\u", 2, pair)));
    uint32_t with_d = ofr_builder_class(
        b, d, 2,
        ofr_builder_either(b, ofr_builder_class(b, below_8, 1, hex_digits(b, 2, end)), pair));
    uint32_t unicode = ofr_builder_bytes(
        b, "u", 1,
        ofr_builder_either(b, ofr_builder_class(b, not_d, 5, hex_digits(b, 3, end)), with_d));
    ofr_builder_define(b, c->escape_rule,
                       ofr_builder_either(b, ofr_builder_class(b, letters, 8, end), unicode));
}

/* A string of min to max characters, with its quotes. */
static uint32_t emit_string(ofr_schema_compiler *c, uint32_t min, uint32_t max, uint32_t next)
{
    static const ofr_range raw[] = {{0x20, '!'}, {'#', '['}, {']', OFR_CODEPOINT_MAX}};
    ofr_builder *b = &c->builder;
    ofr_repeat repeat;
    next = ofr_builder_bytes(b, "\"", 1, next);
    uint32_t after = ofr_repeat_begin(b, &repeat, min, max, next);
    uint32_t escape = ofr_builder_bytes(b, "\\", 1, ofr_builder_call(b, c->escape_rule, after));
    uint32_t body = ofr_builder_either(b, ofr_builder_class(b, raw, 3, after), escape);
    return ofr_builder_bytes(b, "\"", 1, ofr_repeat_end(b, &repeat, body));
}

static uint32_t emit_repeated_digits(ofr_builder *b, uint32_t min, uint32_t max, uint32_t next)
{
    ofr_repeat repeat;
    uint32_t after = ofr_repeat_begin(b, &repeat, min, max, next);
    return ofr_repeat_end(b, &repeat, ofr_builder_class(b, digits, 1, after));
}

/* As many digits as 64-bit integers and doubles have: a text of digits ends. */
static uint32_t emit_integer(ofr_builder *b, uint32_t next)
{
    static const ofr_range first[] = {{'1', '9'}};
    uint32_t more = emit_repeated_digits(b, 0, 17, next);
    uint32_t number = ofr_builder_either(b, ofr_builder_bytes(b, "0", 1, next),
                                         ofr_builder_class(b, first, 1, more));
    return ofr_builder_either(b, ofr_builder_bytes(b, "-", 1, number), number);
}

static uint32_t emit_number(ofr_builder *b, uint32_t next)
{
    static const ofr_range e[] = {{'E', 'E'}, {'e', 'e'}};
    static const ofr_range sign[] = {{'+', '+'}, {'-', '-'}};
    static const ofr_range hundreds[] = {{'1', '2'}};
    static const ofr_range zero[] = {{'0', '0'}};
    /* Exponents below 300: every such number is a double. */
    uint32_t two = ofr_builder_class(b, digits, 1, ofr_builder_class(b, digits, 1, next));
    uint32_t exponent = ofr_builder_split(b, 3);
    ofr_builder_edge(b, exponent, 0, emit_repeated_digits(b, 1, 2, next));
    ofr_builder_edge(b, exponent, 1, ofr_builder_class(b, hundreds, 1, two));
    ofr_builder_edge(b, exponent, 2, ofr_builder_class(b, zero, 1, two));
    exponent = ofr_builder_either(b, exponent, ofr_builder_class(b, sign, 2, exponent));
    uint32_t tail = ofr_builder_either(b, next, ofr_builder_class(b, e, 2, exponent));
    uint32_t fraction = ofr_builder_bytes(b, ".", 1, emit_repeated_digits(b, 1, 17, tail));
    return emit_integer(b, ofr_builder_either(b, tail, fraction));
}

/* '[' ... ']' or '{' ... '}': items apart by commas, any number. `item` is built to lead to its
 * argument. */
static uint32_t emit_any_array(ofr_schema_compiler *c, uint32_t next)
{
    ofr_builder *b = &c->builder;
    uint32_t close = ofr_builder_bytes(b, "]", 1, next), more = ofr_builder_split(b, 2);
    uint32_t item = ofr_builder_call(b, c->value_rule, ofr_schema_space(c, more));
    ofr_builder_edge(b, more, 0, close);
    ofr_builder_edge(b, more, 1, ofr_builder_bytes(b, ",", 1, ofr_schema_space(c, item)));
    return ofr_builder_bytes(b, "[", 1, ofr_schema_space(c, ofr_builder_either(b, close, item)));
}

static uint32_t emit_any_object(ofr_schema_compiler *c, uint32_t next)
{
    ofr_builder *b = &c->builder;
    uint32_t close = ofr_builder_bytes(b, "}", 1, next), more = ofr_builder_split(b, 2);
    uint32_t value = ofr_builder_call(b, c->value_rule, ofr_schema_space(c, more));
    uint32_t colon = ofr_builder_bytes(b, ":", 1, ofr_schema_space(c, value));
    uint32_t pair = ofr_builder_call(b, c->string_rule, ofr_schema_space(c, colon));
    ofr_builder_edge(b, more, 0, close);
    ofr_builder_edge(b, more, 1, ofr_builder_bytes(b, ",", 1, ofr_schema_space(c, pair)));
    return ofr_builder_bytes(b, "{", 1, ofr_schema_space(c, ofr_builder_either(b, close, pair)));
}

int ofr_schema_emit_shared(ofr_schema_compiler *c)
{
    static const ofr_range blank[] = {{' ', ' '}, {'\t', '\t'}};
    ofr_builder *b = &c->builder;
    c->value_rule = ofr_builder_rule(b, NULL, 0);
    c->object_rule = ofr_builder_rule(b, NULL, 0);
    c->array_rule = ofr_builder_rule(b, NULL, 0);
    c->string_rule = ofr_builder_rule(b, NULL, 0);
    c->number_rule = ofr_builder_rule(b, NULL, 0);
    c->newline_rule = ofr_builder_rule(b, NULL, 0);
    c->escape_rule = ofr_builder_rule(b, NULL, 0);
    ofr_repeat repeat;
    uint32_t after = ofr_repeat_begin(b, &repeat, 0, 20, ofr_builder_end(b));
    uint32_t indent = ofr_repeat_end(b, &repeat, ofr_builder_class(b, blank, 2, after));
    uint32_t second = ofr_builder_either(b, ofr_builder_bytes(b, "\n", 1, indent), indent);
    ofr_builder_define(b, c->newline_rule, ofr_builder_bytes(b, "\n", 1, second));
    emit_escape_rule(c);
    ofr_builder_define(b, c->string_rule,
                       emit_string(c, 0, OFR_REPEAT_UNBOUNDED, ofr_builder_end(b)));
    ofr_builder_define(b, c->number_rule, emit_number(b, ofr_builder_end(b)));
    ofr_builder_define(b, c->array_rule, emit_any_array(c, ofr_builder_end(b)));
    ofr_builder_define(b, c->object_rule, emit_any_object(c, ofr_builder_end(b)));
    uint32_t end = ofr_builder_end(b), any = ofr_builder_split(b, 7);
    const uint32_t calls[] = {c->object_rule, c->array_rule, c->string_rule, c->number_rule};
    for (uint32_t i = 0; i < 4; i++)
        ofr_builder_edge(b, any, i, ofr_builder_call(b, calls[i], end));
    ofr_builder_edge(b, any, 4, ofr_builder_bytes(b, "true", 4, end));
    ofr_builder_edge(b, any, 5, ofr_builder_bytes(b, "false", 5, end));
    ofr_builder_edge(b, any, 6, ofr_builder_bytes(b, "null", 4, end));
    ofr_builder_define(b, c->value_rule, any);
    return ofr_builder_failed(b) ? ofr_fail(c->err, b->failure.code, "%s", b->failure.text) : 0;
}

uint32_t ofr_schema_string_text(ofr_schema_compiler *c, const char *text, size_t size,
                                uint32_t next)
{
    json_t *string = json_stringn(text, size);
    char *dumped = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    if (dumped)
        next = ofr_builder_bytes(&c->builder, dumped, strlen(dumped), next);
    else
        ofr_builder_fail(&c->builder, OFR_ENOMEM, "no memory for a grammar");
    free(dumped);
    json_decref(string);
    return next;
}

static uint32_t number_text(ofr_schema_compiler *c, const json_t *value, uint32_t next)
{
    ofr_decimal d;
    char text[2 * OFR_DECIMAL_DIGITS_MAX + 8];
    if (ofr_decimal_from_json(value, &d) == 0) {
        snprintf(text, sizeof text, "%s%s%s%s", d.negative ? "-" : "", d.whole,
                 d.fraction[0] ? "." : "", d.fraction);
        return ofr_builder_bytes(&c->builder, text, strlen(text), next);
    }
    char *dumped = json_dumps(value, JSON_ENCODE_ANY);
    if (dumped)
        next = ofr_builder_bytes(&c->builder, dumped, strlen(dumped), next);
    free(dumped);
    return next;
}

uint32_t ofr_schema_value_text(ofr_schema_compiler *c, const json_t *value, uint32_t next)
{
    ofr_builder *b = &c->builder;
    size_t n = json_is_array(value) ? json_array_size(value) : json_object_size(value);
    if (json_is_string(value))
        return ofr_schema_string_text(c, json_string_value(value), json_string_length(value), next);
    if (json_is_number(value))
        return number_text(c, value, next);
    if (!json_is_array(value) && !json_is_object(value)) {
        const char *word = json_is_null(value) ? "null" : json_is_true(value) ? "true" : "false";
        return ofr_builder_bytes(b, word, strlen(word), next);
    }
    next = ofr_builder_bytes(b, json_is_array(value) ? "]" : "}", 1, next);
    if (n > 0)
        next = ofr_schema_space(c, next);
    /* From the last member; iterators of objects go forwards. */
    for (size_t i = n; i-- > 0;) {
        if (json_is_array(value)) {
            next = ofr_schema_value_text(c, json_array_get(value, i), next);
        } else {
            void *at = json_object_iter((json_t *)(uintptr_t)value);
            for (size_t k = 0; k < i; k++)
                at = json_object_iter_next((json_t *)(uintptr_t)value, at);
            const char *key = json_object_iter_key(at);
            next = ofr_schema_value_text(c, json_object_iter_value(at), next);
            next = ofr_builder_bytes(b, ":", 1, ofr_schema_space(c, next));
            next = ofr_schema_string_text(c, key, strlen(key), ofr_schema_space(c, next));
        }
        next = ofr_schema_space(c, next);
        if (i > 0)
            next = ofr_schema_space(c, ofr_builder_bytes(b, ",", 1, next));
    }
    return ofr_builder_bytes(b, json_is_array(value) ? "[" : "{", 1, next);
}

int ofr_schema_string_dfa(ofr_schema_compiler *c, const ofr_constraint *k, bool lengths,
                          ofr_dfa **ret_dfa)
{
    ofr_dfa *all = NULL, *one = NULL;
    int r = 0;
    size_t n = k->patterns.size + k->formats.size + k->not_patterns.size;
    for (size_t i = 0; r == 0 && i < n; i++) {
        size_t f = i - k->patterns.size, x = f - k->formats.size;
        const json_t *string = i < k->patterns.size  ? k->patterns.data[i]
                               : f < k->formats.size ? k->formats.data[f]
                                                     : k->not_patterns.data[x];
        const char *regex = json_string_value(string);
        bool format = i >= k->patterns.size && f < k->formats.size;
        if (format)
            regex = ofr_schema_format(regex);
        r = ofr_dfa_from_regex(regex, format ? strlen(regex) : json_string_length(string), &one,
                               c->err);
        if (r == 0 && i >= k->patterns.size + k->formats.size) {
            ofr_dfa *other = NULL;
            r = ofr_dfa_complement(one, &other, c->err);
            ofr_dfa_free(one);
            one = other;
        }
        if (r == 0)
            r = ofr_dfa_narrow(&all, one, c->err);
    }
    for (size_t i = 0; r == 0 && i < k->excluded.size; i++) {
        const json_t *value = k->excluded.data[i];
        const char *text = json_string_value(value);
        size_t size = json_string_length(value);
        ofr_dfa *other = NULL;
        if (!json_is_string(value))
            continue;
        r = ofr_dfa_from_literals(&text, &size, 1, &one, c->err);
        if (r == 0)
            r = ofr_dfa_complement(one, &other, c->err);
        if (r == 0) {
            ofr_dfa_free(one);
            r = ofr_dfa_narrow(&all, other, c->err);
        }
    }
    uint32_t min = 0, max = 0;
    if (r == 0 && (all || lengths) && (k->min_length > 0 || k->max_length != OFR_DFA_UNBOUNDED) &&
        (!all || !ofr_dfa_lengths(all, &min, &max) || min < k->min_length || max > k->max_length)) {
        r = k->min_length > k->max_length
                ? ofr_dfa_from_literals(NULL, NULL, 0, &one, c->err)
                : ofr_dfa_from_lengths(k->min_length, k->max_length, &one, c->err);
        if (r == 0)
            r = ofr_dfa_narrow(&all, one, c->err);
    }
    if (r < 0) {
        ofr_dfa_free(all);
        const json_t *first = k->patterns.size  ? k->patterns.data[0]
                              : k->formats.size ? k->formats.data[0]
                                                : NULL;
        ofr_error reason = {0};
        if (c->err)
            reason = *c->err;
        return ofr_schema_fail(c, first, r, "%s", reason.text);
    }
    *ret_dfa = all;
    return 0;
}

static int emit_strings(ofr_schema_compiler *c, const ofr_constraint *k, uint32_t next,
                        uint32_t *ret_node)
{
    ofr_builder *b = &c->builder;
    ofr_dfa *dfa = NULL;
    int r = ofr_schema_string_dfa(c, k, false, &dfa);
    if (r < 0)
        return r;
    if (dfa) {
        next = ofr_builder_bytes(b, "\"", 1, next);
        *ret_node = ofr_builder_bytes(b, "\"", 1, ofr_dfa_emit(b, dfa, true, next));
    } else if (k->min_length > k->max_length) {
        *ret_node = ofr_builder_split(b, 0);
    } else if (k->min_length == 0 && k->max_length == OFR_DFA_UNBOUNDED) {
        *ret_node = ofr_builder_call(b, c->string_rule, next);
    } else {
        *ret_node = emit_string(c, k->min_length, k->max_length, next);
    }
    ofr_dfa_free(dfa);
    return 0;
}

static int narrow_multiples(ofr_schema_compiler *c, const ofr_constraint *k, ofr_dfa **dfa)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < k->multiples.size; i++) {
        ofr_decimal divisor;
        ofr_dfa *one = NULL;
        if (ofr_decimal_from_json(k->multiples.data[i], &divisor) < 0)
            return ofr_fail(c->err, OFR_EUNSUPPORTED, "'multipleOf' with more than %d digits",
                            OFR_DECIMAL_DIGITS_MAX);
        r = ofr_number_multiple(&divisor, &one, c->err);
        if (r == 0)
            r = ofr_dfa_narrow(dfa, one, c->err);
    }
    return r;
}

static int emit_numbers(ofr_schema_compiler *c, const ofr_constraint *k, uint32_t next,
                        uint32_t *ret_node)
{
    ofr_builder *b = &c->builder;
    bool whole = k->types & OFR_TYPE_INTEGER, fractional = k->types & OFR_TYPE_FRACTION;
    size_t excluded = 0;
    for (size_t i = 0; i < k->excluded.size; i++)
        excluded += json_is_number((const json_t *)k->excluded.data[i]);
    if (whole && !k->min.set && !k->max.set && !k->multiples.size && !excluded) {
        *ret_node = fractional ? ofr_builder_call(b, c->number_rule, next) : emit_integer(b, next);
        return 0;
    }
    uint32_t count = 17; /* digits; more where a bound has more */
    for (int i = 0; i < 2; i++) {
        const ofr_bound *bound = i ? &k->max : &k->min;
        uint32_t longest = (uint32_t)strlen(bound->value.whole);
        if (strlen(bound->value.fraction) > longest)
            longest = (uint32_t)strlen(bound->value.fraction);
        count = bound->set && longest >= count ? longest + 1 : count;
    }
    ofr_dfa *dfa = NULL, *one = NULL;
    int r = ofr_number_texts(whole, fractional, count, &dfa, c->err);
    if (r == 0 && k->min.set)
        r = ofr_number_at_least(&k->min.value, k->min.strict, &one, c->err);
    if (r == 0 && k->min.set)
        r = ofr_dfa_narrow(&dfa, one, c->err);
    if (r == 0 && k->max.set)
        r = ofr_number_at_most(&k->max.value, k->max.strict, &one, c->err);
    if (r == 0 && k->max.set)
        r = ofr_dfa_narrow(&dfa, one, c->err);
    if (r == 0)
        r = narrow_multiples(c, k, &dfa);
    for (size_t i = 0; r == 0 && i < k->excluded.size; i++) {
        ofr_decimal value;
        ofr_dfa *other = NULL;
        if (!json_is_number((const json_t *)k->excluded.data[i]))
            continue;
        if (ofr_decimal_from_json(k->excluded.data[i], &value) < 0)
            continue; /* not among numbers of so few digits */
        r = ofr_number_equal(&value, &one, c->err);
        if (r == 0)
            r = ofr_dfa_complement(one, &other, c->err);
        if (r == 0) {
            ofr_dfa_free(one);
            r = ofr_dfa_narrow(&dfa, other, c->err);
        }
    }
    if (r == 0)
        *ret_node = ofr_dfa_emit(b, dfa, false, next);
    ofr_dfa_free(dfa);
    if (r < 0 && c->err) {
        ofr_error reason = *c->err;
        return ofr_schema_fail(c, k->multiples.size ? k->multiples.data[0] : NULL, r, "%s",
                               reason.text);
    }
    return r;
}

/* The rule of the items at `index`; beyond all prefixes with index SIZE_MAX. */
static int item_rule(ofr_schema_compiler *c, const ofr_constraint *k, size_t index,
                     uint32_t *ret_rule)
{
    ofr_list literals = {0};
    int r = 0;
    for (size_t i = 0; r == 0 && i < k->arrays.size; i++) {
        const json_t *prefix = json_object_get(k->arrays.data[i], "prefixItems");
        const json_t *items = json_object_get(k->arrays.data[i], "items");
        const json_t *wanted =
            index < json_array_size(prefix) ? json_array_get(prefix, index) : items;
        if (wanted)
            r = ofr_list_add(c, &literals, ofr_literal_of(wanted, false));
    }
    if (r == 0)
        r = ofr_schema_goal(c, literals.data, literals.size, ret_rule);
    free(literals.data);
    return r;
}

/* Comma, item: min to max times, then ']'. */
static uint32_t emit_tail(ofr_schema_compiler *c, uint32_t rule, uint32_t min, uint32_t max,
                          uint32_t close)
{
    ofr_builder *b = &c->builder;
    ofr_repeat repeat;
    uint32_t after = ofr_repeat_begin(b, &repeat, min, max, close);
    uint32_t item = ofr_builder_call(b, rule, ofr_schema_space(c, after));
    return ofr_repeat_end(b, &repeat, ofr_builder_bytes(b, ",", 1, ofr_schema_space(c, item)));
}

static int emit_arrays(ofr_schema_compiler *c, const ofr_constraint *k, uint32_t next,
                       uint32_t *ret_node)
{
    ofr_builder *b = &c->builder;
    size_t prefix = 0;
    uint32_t min = k->min_items, max = k->max_items, rule = 0;
    for (size_t i = 0; i < k->arrays.size; i++) {
        size_t n = json_array_size(json_object_get(k->arrays.data[i], "prefixItems"));
        prefix = n > prefix ? n : prefix;
    }
    if (!k->arrays.size && min == 0 && max == OFR_DFA_UNBOUNDED) {
        *ret_node = ofr_builder_call(b, c->array_rule, next);
        return 0;
    }
    if (min > max) {
        *ret_node = ofr_builder_split(b, 0);
        return 0;
    }
    int r = item_rule(c, k, SIZE_MAX, &rule);
    if (r < 0)
        return r;
    /* One item at least stands before the tail's first comma. */
    size_t fixed = prefix > 0 ? prefix : 1;
    uint32_t close = ofr_builder_bytes(b, "]", 1, next), node = ofr_builder_split(b, 0);
    if (fixed <= max)
        node = emit_tail(c, rule, min > fixed ? min - (uint32_t)fixed : 0,
                         max == OFR_DFA_UNBOUNDED ? OFR_REPEAT_UNBOUNDED : max - (uint32_t)fixed,
                         close);
    for (size_t i = fixed; r == 0 && i-- > 0;) {
        if (i + 1 > max)
            continue;
        r = item_rule(c, k, i < prefix ? i : SIZE_MAX, &rule);
        /* After this item: the array may end, or goes on with what was made before. */
        uint32_t after = node;
        if (i + 1 < fixed) {
            after = i + 1 < max ? ofr_builder_bytes(b, ",", 1, ofr_schema_space(c, node))
                                : ofr_builder_split(b, 0);
            if (i + 1 >= min)
                after = ofr_builder_either(b, close, after);
        }
        node = ofr_builder_call(b, rule, ofr_schema_space(c, after));
    }
    if (max == 0)
        node = close;
    else if (min == 0)
        node = ofr_builder_either(b, close, node);
    *ret_node = ofr_builder_bytes(b, "[", 1, ofr_schema_space(c, node));
    return r;
}

typedef struct emission {
    const ofr_goal *goal; /* a copy: goals may move */
    uint32_t end;
    ofr_list entries; /* nodes, as pointers */
} emission;

static int add_entry(ofr_schema_compiler *c, emission *e, uint32_t node)
{
    return ofr_list_add(c, &e->entries, (const void *)(uintptr_t)node);
}

static int emit_values(ofr_schema_compiler *c, const ofr_constraint *k, emission *e)
{
    size_t n = k->value ? 1 : json_array_size(k->values);
    int r = 0;
    for (size_t i = 0; r == 0 && i < n; i++) {
        const json_t *value = k->value ? k->value : json_array_get(k->values, i);
        bool valid = true;
        for (size_t l = 0; r == 0 && valid && l < e->goal->count; l++) {
            ofr_literal literal = e->goal->literals[l];
            r = ofr_schema_check(c, ofr_literal_schema(literal), value, OFR_SCHEMA_NESTING_MAX,
                                 &valid);
            valid = valid != ofr_literal_negated(literal);
        }
        if (r == 0 && valid)
            r = add_entry(c, e, ofr_schema_value_text(c, value, e->end));
    }
    return r;
}

static bool excludes(const ofr_constraint *k, const json_t *value)
{
    for (size_t i = 0; i < k->excluded.size; i++)
        if (ofr_schema_equal(k->excluded.data[i], value))
            return true;
    return false;
}

static int emit_constraint(ofr_schema_compiler *c, const ofr_constraint *k, void *user)
{
    emission *e = user;
    ofr_builder *b = &c->builder;
    uint32_t node = 0;
    int r = 0;
    if (k->value || k->values)
        return emit_values(c, k, e);
    for (size_t i = 0; i < k->excluded.size; i++)
        if (ofr_schema_type_of(k->excluded.data[i]) & k->types & (OFR_TYPE_ARRAY | OFR_TYPE_OBJECT))
            return ofr_schema_fail(c, k->excluded.data[i], OFR_EUNSUPPORTED,
                                   "excluding an array or object is not supported");
    if ((k->types & OFR_TYPE_NULL) && !excludes(k, json_null()))
        r = add_entry(c, e, ofr_builder_bytes(b, "null", 4, e->end));
    if (r == 0 && (k->types & OFR_TYPE_BOOLEAN) && !excludes(k, json_true()))
        r = add_entry(c, e, ofr_builder_bytes(b, "true", 4, e->end));
    if (r == 0 && (k->types & OFR_TYPE_BOOLEAN) && !excludes(k, json_false()))
        r = add_entry(c, e, ofr_builder_bytes(b, "false", 5, e->end));
    static const struct {
        unsigned types;
        int (*emit)(ofr_schema_compiler *, const ofr_constraint *, uint32_t, uint32_t *);
    } kinds[] = {
        {OFR_TYPE_NUMBER, emit_numbers},
        {OFR_TYPE_STRING, emit_strings},
        {OFR_TYPE_ARRAY, emit_arrays},
        {OFR_TYPE_OBJECT, ofr_schema_emit_object},
    };
    for (size_t i = 0; i < 4; i++) {
        if (r == 0 && (k->types & kinds[i].types)) {
            r = kinds[i].emit(c, k, e->end, &node);
            if (r == 0)
                r = add_entry(c, e, node);
        }
    }
    return r;
}

int ofr_schema_emit_goal(ofr_schema_compiler *c, size_t goal)
{
    ofr_builder *b = &c->builder;
    ofr_goal copy = c->goals[goal];
    emission e = {.goal = &copy, .end = ofr_builder_end(b)};
    int r = ofr_schema_expand(c, copy.literals, copy.count, emit_constraint, &e);
    if (r == 0) {
        uint32_t split = ofr_builder_split(b, (uint32_t)e.entries.size);
        for (uint32_t i = 0; i < e.entries.size; i++)
            ofr_builder_edge(b, split, i, (uint32_t)(uintptr_t)e.entries.data[i]);
        ofr_builder_define(b, copy.rule, split);
    }
    free(e.entries.data);
    return r;
}
