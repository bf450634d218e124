/* GBNF: the parser. A rule's text becomes a tree, and the tree nodes, from its end. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "grammar/grammar_internal.h"

enum { GBNF_NESTING_MAX = 100, GBNF_REPEATS_MAX = 8 };

enum expression_kind { LITERAL, CLASS, REFERENCE, TOKEN, SEQUENCE, ALTERNATIVES, REPEAT };

typedef struct expression {
    enum expression_kind kind;
    char *text; /* LITERAL and TOKEN [size]; owned */
    size_t size;
    ofr_range *ranges;        /* CLASS [size]; owned */
    uint32_t rule;            /* REFERENCE */
    uint32_t min, max;        /* REPEAT */
    struct expression *first; /* child; SEQUENCE and ALTERNATIVES have a list of them */
    struct expression *sibling;
} expression;

typedef struct parser {
    ofr_builder builder;
    const char *text;
    size_t size, at;
    int nesting;
    size_t *places; /* [places_room] where each rule was first named */
    size_t places_room;
    ofr_error *err;
} parser;

static int fail_at(parser *p, size_t at, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static int fail_at(parser *p, size_t at, int code, const char *format, ...)
{
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < p->size; i++) {
        column = p->text[i] == '\n' ? 1 : column + 1;
        line += p->text[i] == '\n';
    }
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return ofr_fail(p->err, code, "line %zu, column %zu: %s", line, column, text);
}

static void free_expression(expression *e)
{
    while (e) {
        expression *next = e->sibling;
        free_expression(e->first);
        free(e->text);
        free(e->ranges);
        free(e);
        e = next;
    }
}

static int new_expression(parser *p, enum expression_kind kind, expression **ret)
{
    *ret = calloc(1, sizeof **ret);
    if (!*ret)
        return ofr_fail(p->err, OFR_ENOMEM, "no memory for a grammar");
    (*ret)->kind = kind;
    return 0;
}

static char peek(const parser *p)
{
    return p->at < p->size ? p->text[p->at] : '\0';
}

static bool at_end(const parser *p)
{
    return p->at >= p->size;
}

static void skip_space(parser *p, bool newlines)
{
    while (!at_end(p)) {
        char c = peek(p);
        if (c == '#')
            while (!at_end(p) && peek(p) != '\n')
                p->at++;
        else if (c == ' ' || c == '\t' || (newlines && (c == '\n' || c == '\r')))
            p->at++;
        else if (c == '\r' && p->at + 1 < p->size && p->text[p->at + 1] == '\n')
            p->at++;
        else
            return;
    }
}

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static size_t name_length(const parser *p)
{
    size_t n = 0;
    while (p->at + n < p->size && is_name_byte(p->text[p->at + n]))
        n++;
    return n;
}

/* The rule of a name; named here for the first time, it is made. */
static int find_rule(parser *p, const char *name, size_t size, uint32_t *ret_rule)
{
    const ofr_grammar *g = p->builder.grammar;
    for (uint32_t i = 0; i < g->n_rules; i++)
        if (g->rules[i].name && strlen(g->rules[i].name) == size &&
            memcmp(g->rules[i].name, name, size) == 0) {
            *ret_rule = i;
            return 0;
        }
    *ret_rule = ofr_builder_rule(&p->builder, name, size);
    if (ofr_builder_failed(&p->builder))
        return ofr_fail(p->err, p->builder.failure.code, "%s", p->builder.failure.text);
    if (*ret_rule >= p->places_room) {
        size_t room = p->places_room ? p->places_room * 2 : 64;
        void *grown = realloc(p->places, room * sizeof *p->places);
        if (!grown)
            return ofr_fail(p->err, OFR_ENOMEM, "no memory for a grammar");
        p->places = grown;
        p->places_room = room;
    }
    p->places[*ret_rule] = p->at;
    return 0;
}

static int parse_hex(parser *p, size_t digits, uint32_t *ret)
{
    uint32_t value = 0;
    for (size_t i = 0; i < digits; i++) {
        char c = peek(p);
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16)
            return fail_at(p, p->at, OFR_EFORMAT, "expected %zu hexadecimal digits", digits);
        value = value << 4 | digit;
        p->at++;
    }
    *ret = value;
    return 0;
}

/* One character of a literal or class, escapes resolved. */
static int parse_character(parser *p, uint32_t *ret)
{
    size_t start = p->at;
    if (peek(p) != '\\') {
        size_t length = 1;
        if (ofr_utf8_next(p->text + p->at, p->size - p->at, ret, &length) !=
            OFR_UTF8_STATE_CHARACTER)
            return fail_at(p, p->at, OFR_EUTF8, "the text is not valid UTF-8");
        p->at += length;
        return 0;
    }
    p->at++;
    char c = peek(p);
    p->at++;
    static const char escapes[] = "t\tr\rn\n\\\\\"\"[[]]";
    if (c == 'x' || c == 'u' || c == 'U') {
        int r = parse_hex(p, c == 'x' ? 2 : c == 'u' ? 4 : 8, ret);
        if (r == 0 && (*ret > OFR_CODEPOINT_MAX || (*ret >= 0xD800 && *ret <= 0xDFFF)))
            r = fail_at(p, start, OFR_EFORMAT, "U+%X is no character", *ret);
        return r;
    }
    for (size_t i = 0; c && i < sizeof escapes - 1; i += 2)
        if (escapes[i] == c) {
            *ret = (unsigned char)escapes[i + 1];
            return 0;
        }
    return fail_at(p, start, OFR_EFORMAT,
                   "unknown escape; known are \\t \\r \\n \\\\ \\\" \\[ \\] \\xHH \\uHHHH "
                   "\\UHHHHHHHH");
}

static int append_text(parser *p, expression *e, const char *bytes, size_t size, size_t *room)
{
    if (e->size + size > *room) {
        *room = (e->size + size) * 2;
        char *grown = realloc(e->text, *room);
        if (!grown)
            return ofr_fail(p->err, OFR_ENOMEM, "no memory for a grammar");
        e->text = grown;
    }
    memcpy(e->text + e->size, bytes, size);
    e->size += size;
    return 0;
}

static int parse_literal(parser *p, expression **ret)
{
    size_t start = p->at++, room = 0;
    int r = new_expression(p, LITERAL, ret);
    while (r == 0 && peek(p) != '"') {
        uint32_t codepoint = 0;
        char bytes[4];
        if (at_end(p) || peek(p) == '\n')
            return fail_at(p, start, OFR_EFORMAT, "the literal is not closed");
        r = parse_character(p, &codepoint);
        if (r == 0)
            r = append_text(p, *ret, bytes, ofr_utf8_encode(codepoint, bytes), &room);
    }
    p->at++;
    return r;
}

static int add_range(parser *p, expression *e, uint32_t low, uint32_t high, size_t *room)
{
    if (e->size + 1 >= *room) {
        *room = *room ? *room * 2 : 16;
        ofr_range *grown = realloc(e->ranges, *room * sizeof *grown);
        if (!grown)
            return ofr_fail(p->err, OFR_ENOMEM, "no memory for a grammar");
        e->ranges = grown;
    }
    e->ranges[e->size++] = (ofr_range){low, high};
    return 0;
}

/* Everything but the ranges, in place; there is room for one more. */
static void invert(expression *e)
{
    e->size = ofr_ranges_normalize(e->ranges, e->size);
    uint32_t low = 0;
    size_t used = 0;
    for (size_t i = 0; i < e->size; i++) {
        ofr_range r = e->ranges[i];
        if (r.low > low)
            e->ranges[used++] = (ofr_range){low, r.low - 1};
        low = r.high + 1;
    }
    if (low <= OFR_CODEPOINT_MAX)
        e->ranges[used++] = (ofr_range){low, OFR_CODEPOINT_MAX};
    e->size = used;
}

static int parse_class(parser *p, expression **ret)
{
    size_t start = p->at++, room = 0;
    int r = new_expression(p, CLASS, ret);
    bool inverted = r == 0 && peek(p) == '^';
    p->at += inverted;
    while (r == 0 && peek(p) != ']') {
        uint32_t low = 0, high = 0;
        size_t begin = p->at;
        if (at_end(p) || peek(p) == '\n')
            return fail_at(p, start, OFR_EFORMAT, "the class is not closed");
        r = parse_character(p, &low);
        high = low;
        if (r == 0 && peek(p) == '-' && p->at + 1 < p->size && p->text[p->at + 1] != ']') {
            p->at++;
            r = parse_character(p, &high);
            if (r == 0 && high < low)
                r = fail_at(p, begin, OFR_EFORMAT, "the range ends before it begins");
        }
        if (r == 0)
            r = add_range(p, *ret, low, high, &room);
    }
    p->at++;
    /* Normalising may split a range: [0, 0] more keeps the room. */
    if (r == 0 && !(*ret)->ranges)
        r = add_range(p, *ret, 1, 0, &room);
    if (r == 0 && inverted) {
        /* Surrogates are no characters, in or out. */
        r = add_range(p, *ret, 0xD800, 0xDFFF, &room);
        if (r == 0)
            invert(*ret);
    }
    return r;
}

static int parse_alternatives(parser *p, bool nested, expression **ret);

static int parse_group(parser *p, expression **ret)
{
    size_t start = p->at++;
    if (++p->nesting > GBNF_NESTING_MAX)
        return fail_at(p, start, OFR_ELIMIT, "more than %d parentheses inside each other",
                       GBNF_NESTING_MAX);
    skip_space(p, true);
    int r = parse_alternatives(p, true, ret);
    p->nesting--;
    if (r == 0 && peek(p) != ')')
        r = fail_at(p, at_end(p) ? start : p->at, OFR_EFORMAT,
                    at_end(p) ? "the parenthesis is not closed" : "expected )");
    p->at++;
    return r;
}

/* <name>: the token of that name, angle brackets included. */
static int parse_token(parser *p, expression **ret)
{
    size_t start = p->at, room = 0;
    const char *end = memchr(p->text + start, '>', p->size - start);
    if (!end || memchr(p->text + start, '\n', (size_t)(end - p->text) - start))
        return fail_at(p, start, OFR_EFORMAT, "the token is not closed with >");
    size_t size = (size_t)(end - p->text) + 1 - start;
    if (size == 2 || p->text[start + 1] == '[')
        return fail_at(p, start, OFR_EUNSUPPORTED,
                       "tokens are named by their text, as in <|python_tag|>");
    int r = new_expression(p, TOKEN, ret);
    if (r == 0)
        r = append_text(p, *ret, p->text + start, size, &room);
    p->at += size;
    return r;
}

static int parse_item(parser *p, expression **ret)
{
    char c = peek(p);
    if (c == '"')
        return parse_literal(p, ret);
    if (c == '[')
        return parse_class(p, ret);
    if (c == '(')
        return parse_group(p, ret);
    if (c == '<')
        return parse_token(p, ret);
    int r;
    size_t room = 0;
    if (c == '.') {
        p->at++;
        r = new_expression(p, CLASS, ret);
        return r < 0 ? r : add_range(p, *ret, 0, OFR_CODEPOINT_MAX, &room);
    }
    size_t length = name_length(p);
    if (length == 0)
        return fail_at(p, p->at, OFR_EFORMAT, "unexpected '%c'", c);
    r = new_expression(p, REFERENCE, ret);
    if (r == 0)
        r = find_rule(p, p->text + p->at, length, &(*ret)->rule);
    p->at += length;
    return r;
}

static int parse_number(parser *p, uint32_t *ret)
{
    size_t start = p->at;
    uint64_t value = 0;
    while (peek(p) >= '0' && peek(p) <= '9' && value <= OFR_GRAMMAR_REPEAT_MAX)
        value = value * 10 + (uint64_t)(p->text[p->at++] - '0');
    if (p->at == start)
        return fail_at(p, start, OFR_EFORMAT, "expected a number");
    if (value > OFR_GRAMMAR_REPEAT_MAX)
        return fail_at(p, start, OFR_ELIMIT, "at most %d repetitions are supported",
                       OFR_GRAMMAR_REPEAT_MAX);
    *ret = (uint32_t)value;
    return 0;
}

/* {m}, {m,} or {m,n}, at the opening brace. */
static int parse_bounds(parser *p, uint32_t *ret_min, uint32_t *ret_max)
{
    size_t start = p->at++;
    skip_space(p, false);
    *ret_min = 0;
    int r = peek(p) == ',' ? 0 : parse_number(p, ret_min);
    *ret_max = *ret_min;
    skip_space(p, false);
    if (r == 0 && peek(p) == ',') {
        p->at++;
        skip_space(p, false);
        *ret_max = OFR_REPEAT_UNBOUNDED;
        if (peek(p) != '}')
            r = parse_number(p, ret_max);
        skip_space(p, false);
    }
    if (r == 0 && peek(p) != '}')
        r = fail_at(p, p->at, OFR_EFORMAT, "expected }");
    if (r == 0 && *ret_max < *ret_min)
        r = fail_at(p, start, OFR_EFORMAT, "at least %u and at most %u", *ret_min, *ret_max);
    p->at++;
    return r;
}

/* Wraps *item in the repetitions that follow it. */
static int parse_repeats(parser *p, expression **item)
{
    for (int n = 0;; n++) {
        char c = peek(p);
        uint32_t min = c == '+', max = c == '?' ? 1 : OFR_REPEAT_UNBOUNDED;
        int r = 0;
        if (c == '{')
            r = parse_bounds(p, &min, &max);
        else if (c == '*' || c == '+' || c == '?')
            p->at++;
        else
            return 0;
        expression *repeat = NULL;
        if (r == 0 && n == GBNF_REPEATS_MAX)
            r = fail_at(p, p->at, OFR_ELIMIT, "more than %d repetitions of one item",
                        GBNF_REPEATS_MAX);
        if (r == 0)
            r = new_expression(p, REPEAT, &repeat);
        if (r < 0)
            return r;
        repeat->min = min;
        repeat->max = max;
        repeat->first = *item;
        *item = repeat;
        skip_space(p, false);
    }
}

static int parse_sequence(parser *p, bool nested, expression **ret)
{
    int r = new_expression(p, SEQUENCE, ret);
    expression **last = r == 0 ? &(*ret)->first : NULL;
    while (r == 0) {
        skip_space(p, nested);
        char c = peek(p);
        if (at_end(p) || c == '|' || c == ')' || c == '\n' || c == '\r')
            return 0;
        r = parse_item(p, last);
        if (r == 0) {
            skip_space(p, nested);
            r = parse_repeats(p, last);
        }
        if (*last)
            last = &(*last)->sibling;
    }
    return r;
}

static int parse_alternatives(parser *p, bool nested, expression **ret)
{
    int r = new_expression(p, ALTERNATIVES, ret);
    expression **last = r == 0 ? &(*ret)->first : NULL;
    while (r == 0) {
        r = parse_sequence(p, nested, last);
        if (*last)
            last = &(*last)->sibling;
        if (r < 0 || peek(p) != '|')
            return r;
        p->at++;
        skip_space(p, true);
    }
    return r;
}

static uint32_t emit(ofr_builder *b, const expression *e, uint32_t next);

/* The items from `e` on; built from the last one. The list is as long as its text, so that
 * recursion would be too deep. */
static uint32_t emit_sequence(ofr_builder *b, const expression *e, uint32_t next)
{
    size_t n = 0;
    for (const expression *i = e; i; i = i->sibling)
        n++;
    const expression **items = calloc(n ? n : 1, sizeof *items);
    if (!items) {
        ofr_builder_fail(b, OFR_ENOMEM, "no memory for a grammar");
        return next;
    }
    for (size_t i = 0; i < n; i++, e = e->sibling)
        items[i] = e;
    while (n > 0)
        next = emit(b, items[--n], next);
    free(items);
    return next;
}

static uint32_t emit(ofr_builder *b, const expression *e, uint32_t next)
{
    uint32_t node, i = 0;
    ofr_repeat repeat;
    switch (e->kind) {
    case LITERAL:
        return ofr_builder_bytes(b, e->text, e->size, next);
    case CLASS:
        return ofr_builder_class(b, e->ranges, e->size, next);
    case REFERENCE:
        return ofr_builder_call(b, e->rule, next);
    case TOKEN:
        return ofr_builder_either(b, ofr_builder_token(b, e->text, e->size, next),
                                  ofr_builder_bytes(b, e->text, e->size, next));
    case SEQUENCE:
        return emit_sequence(b, e->first, next);
    case ALTERNATIVES:
        if (!e->first->sibling)
            return emit(b, e->first, next);
        for (const expression *a = e->first; a; a = a->sibling)
            i++;
        node = ofr_builder_split(b, i);
        i = 0;
        for (const expression *a = e->first; a; a = a->sibling)
            ofr_builder_edge(b, node, i++, emit(b, a, next));
        return node;
    case REPEAT:
        node = ofr_repeat_begin(b, &repeat, e->min, e->max, next);
        return ofr_repeat_end(b, &repeat, emit(b, e->first, node));
    }
    return next;
}

static int parse_rule(parser *p)
{
    size_t start = p->at, length = name_length(p);
    if (length == 0)
        return fail_at(p, start, OFR_EFORMAT, "expected the name of a rule");
    uint32_t rule;
    int r = find_rule(p, p->text + start, length, &rule);
    if (r < 0)
        return r;
    if (p->builder.grammar->rules[rule].defined)
        return fail_at(p, start, OFR_EINVAL, "rule '%.*s' is defined twice", (int)length,
                       p->text + start);
    p->at += length;
    skip_space(p, false);
    if (p->size - p->at < 3 || memcmp(p->text + p->at, "::=", 3) != 0)
        return fail_at(p, p->at, OFR_EFORMAT, "expected ::=");
    p->at += 3;
    skip_space(p, true);
    expression *body = NULL;
    r = parse_alternatives(p, false, &body);
    if (r == 0 && peek(p) == ')')
        r = fail_at(p, p->at, OFR_EFORMAT, "there is no open parenthesis");
    if (r == 0) {
        ofr_builder *b = &p->builder;
        ofr_builder_define(b, rule, emit(b, body, ofr_builder_end(b)));
    }
    free_expression(body);
    return r;
}

static int parse_rules(parser *p)
{
    int r = 0;
    if (ofr_builder_rule(&p->builder, "root", 4) != 0)
        return p->builder.failure.code;
    p->places = calloc(64, sizeof *p->places);
    p->places_room = 64;
    if (!p->places)
        return ofr_fail(p->err, OFR_ENOMEM, "no memory for a grammar");
    for (skip_space(p, true); r == 0 && !at_end(p); skip_space(p, true))
        r = parse_rule(p);
    const ofr_grammar *g = p->builder.grammar;
    if (r == 0 && !g->rules[0].defined)
        return ofr_fail(p->err, OFR_EINVAL, "the grammar has no rule 'root'");
    for (size_t i = 0; r == 0 && !ofr_builder_failed(&p->builder) && i < g->n_rules; i++)
        if (g->rules[i].name && !g->rules[i].defined)
            r = fail_at(p, p->places[i], OFR_EINVAL, "rule '%s' is not defined", g->rules[i].name);
    return r;
}

int ofr_grammar_from_gbnf(const char *text, size_t size, ofr_grammar **ret_grammar, ofr_error *err)
{
    if (size > OFR_GRAMMAR_TEXT_MAX)
        return ofr_fail(err, OFR_ELIMIT, "the grammar has %zu bytes: at most %d are supported",
                        size, OFR_GRAMMAR_TEXT_MAX);
    parser p = {.text = text, .size = size, .err = err};
    int r = ofr_builder_init(&p.builder, err);
    if (r < 0)
        return r;
    r = parse_rules(&p);
    free(p.places);
    if (r < 0) {
        ofr_builder_done(&p.builder);
        return r;
    }
    return ofr_builder_finish(&p.builder, "the grammar", ret_grammar, err);
}
