/* Building the automaton of a grammar, node by node. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "grammar/grammar_internal.h"

ofr_grammar *ofr_grammar_free(ofr_grammar *grammar)
{
    if (grammar) {
        for (size_t i = 0; i < grammar->n_rules; i++)
            free(grammar->rules[i].name);
        free(grammar->nodes);
        free(grammar->classes);
        free(grammar->ranges);
        free(grammar->loops);
        free(grammar->rules);
        free(grammar->edges);
        free(grammar);
    }
    return NULL;
}

void ofr_builder_fail(ofr_builder *builder, int code, const char *format, ...)
{
    if (ofr_builder_failed(builder))
        return;
    char text[OFR_ERROR_TEXT_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    ofr_fail(&builder->failure, code, "%s", text);
}

/* Room for `count` more elements; false after a failure. */
static bool reserve(ofr_builder *builder, void **data, size_t *room, size_t used, size_t count,
                    size_t size, size_t limit, const char *what)
{
    if (ofr_builder_failed(builder))
        return false;
    if (count > limit || used > limit - count) {
        ofr_builder_fail(builder, OFR_ELIMIT, "the grammar is too large: more than %zu %s", limit,
                         what);
        return false;
    }
    if (used + count <= *room)
        return true;
    size_t wanted = *room ? *room * 2 : 64;
    while (wanted < used + count)
        wanted *= 2;
    void *grown = realloc(*data, wanted * size);
    if (!grown) {
        ofr_builder_fail(builder, OFR_ENOMEM, "no memory for a grammar of %zu %s", wanted, what);
        return false;
    }
    *data = grown;
    *room = wanted;
    return true;
}

int ofr_builder_init(ofr_builder *builder, ofr_error *err)
{
    *builder = (ofr_builder){.grammar = calloc(1, sizeof(ofr_grammar))};
    if (!builder->grammar)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a grammar");
    /* Node 0, which all functions return after a failure, exists always. */
    builder->grammar->nodes = calloc(64, sizeof(ofr_node));
    if (!builder->grammar->nodes) {
        ofr_builder_done(builder);
        return ofr_fail(err, OFR_ENOMEM, "no memory for a grammar");
    }
    builder->nodes_room = 64;
    builder->grammar->nodes[0].kind = OFR_NODE_RET;
    builder->grammar->n_nodes = 1;
    return 0;
}

void ofr_builder_done(ofr_builder *builder)
{
    ofr_grammar_free(builder->grammar);
    builder->grammar = NULL;
}

static uint32_t add_node(ofr_builder *builder, enum ofr_node_kind kind, uint32_t a, uint32_t b,
                         uint32_t next)
{
    ofr_grammar *g = builder->grammar;
    if (!reserve(builder, (void **)&g->nodes, &builder->nodes_room, g->n_nodes, 1, sizeof *g->nodes,
                 OFR_GRAMMAR_NODES_MAX, "nodes"))
        return 0;
    g->nodes[g->n_nodes] =
        (ofr_node){.kind = (uint8_t)kind, .next = next, .a = a, .b = b, .loop = builder->loop};
    return (uint32_t)g->n_nodes++;
}

uint32_t ofr_builder_rule(ofr_builder *builder, const char *name, size_t size)
{
    ofr_grammar *g = builder->grammar;
    if (!reserve(builder, (void **)&g->rules, &builder->rules_room, g->n_rules, 1, sizeof *g->rules,
                 OFR_GRAMMAR_RULES_MAX, "rules"))
        return 0;
    g->rules[g->n_rules] = (ofr_rule){.name = name ? strndup(name, size) : NULL};
    if (name && !g->rules[g->n_rules].name)
        ofr_builder_fail(builder, OFR_ENOMEM, "no memory for the name of a rule");
    return (uint32_t)g->n_rules++;
}

void ofr_builder_define(ofr_builder *builder, uint32_t rule, uint32_t start)
{
    if (ofr_builder_failed(builder))
        return;
    builder->grammar->rules[rule].start = start;
    builder->grammar->rules[rule].defined = true;
}

uint32_t ofr_builder_end(ofr_builder *builder)
{
    return add_node(builder, OFR_NODE_RET, 0, 0, 0);
}

uint32_t ofr_builder_bytes(ofr_builder *builder, const char *bytes, size_t size, uint32_t next)
{
    while (size > 0)
        next = add_node(builder, OFR_NODE_BYTE, (unsigned char)bytes[--size], 0, next);
    return next;
}

uint32_t ofr_builder_token(ofr_builder *builder, const char *name, size_t size, uint32_t next)
{
    next = add_node(builder, OFR_NODE_BYTE, OFR_GRAMMAR_TOKEN_BYTE, 0, next);
    next = ofr_builder_bytes(builder, name, size, next);
    return add_node(builder, OFR_NODE_BYTE, OFR_GRAMMAR_TOKEN_BYTE, 0, next);
}

static int compare_ranges(const void *a, const void *b)
{
    const ofr_range *x = a, *y = b;
    return (x->low > y->low) - (x->low < y->low);
}

static size_t merge_ranges(ofr_range *ranges, size_t count)
{
    qsort(ranges, count, sizeof *ranges, compare_ranges);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].low > ranges[i].high)
            continue;
        if (used && ranges[i].low <= ranges[used - 1].high + 1) {
            if (ranges[i].high > ranges[used - 1].high)
                ranges[used - 1].high = ranges[i].high;
        } else {
            ranges[used++] = ranges[i];
        }
    }
    return used;
}

size_t ofr_ranges_normalize(ofr_range *ranges, size_t count)
{
    size_t used = merge_ranges(ranges, count);
    /* At most one range crosses the surrogates on both sides: it becomes two. */
    size_t n = used;
    for (size_t i = 0; i < n; i++) {
        ofr_range *r = &ranges[i];
        if (r->high > OFR_CODEPOINT_MAX)
            r->high = OFR_CODEPOINT_MAX;
        if (r->high < 0xD800 || r->low > 0xDFFF)
            continue;
        if (r->low < 0xD800 && r->high > 0xDFFF) {
            ranges[used++] = (ofr_range){0xE000, r->high};
            r->high = 0xD7FF;
        } else if (r->low < 0xD800) {
            r->high = 0xD7FF;
        } else if (r->high > 0xDFFF) {
            r->low = 0xE000;
        } else {
            *r = (ofr_range){1, 0};
        }
    }
    qsort(ranges, used, sizeof *ranges, compare_ranges);
    size_t kept = 0;
    for (size_t i = 0; i < used; i++)
        if (ranges[i].low <= ranges[i].high)
            ranges[kept++] = ranges[i];
    return kept;
}

bool ofr_class_meets(const ofr_grammar *grammar, const ofr_class *class, uint32_t low,
                     uint32_t high)
{
    size_t from = class->first, to = from + class->count;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (grammar->ranges[middle].high < low)
            from = middle + 1;
        else
            to = middle;
    }
    return from < class->first + class->count && grammar->ranges[from].low <= high;
}

/* Which bytes begin a character of the class. */
static void find_first_bytes(const ofr_grammar *grammar, ofr_class *class)
{
    for (uint32_t byte = 0; byte < 0xF5; byte++) {
        uint32_t low = byte, high = byte;
        if (byte >= 0x80 && byte < 0xC2)
            continue;
        if (byte >= 0xF0) {
            low = byte == 0xF0 ? 0x10000 : (byte & 7) << 18;
            high = (byte & 7) << 18 | 0x3FFFF;
        } else if (byte >= 0xE0) {
            low = byte == 0xE0 ? 0x800 : (byte & 15) << 12;
            high = (byte & 15) << 12 | 0xFFF;
        } else if (byte >= 0xC2) {
            low = (byte & 31) << 6;
            high = low | 63;
        }
        if (ofr_class_meets(grammar, class, low, high))
            class->bytes[byte >> 6] |= UINT64_C(1) << (byte & 63);
    }
}

static bool holds_all_plain(const ofr_range *ranges, size_t count)
{
    static const ofr_range wanted[] = {
        {0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0x7E}, {0x80, 0xD7FF}, {0xE000, OFR_CODEPOINT_MAX}};
    for (size_t w = 0; w < sizeof wanted / sizeof wanted[0]; w++) {
        bool found = false;
        for (size_t i = 0; i < count; i++)
            found = found || (ranges[i].low <= wanted[w].low && ranges[i].high >= wanted[w].high);
        if (!found)
            return false;
    }
    return true;
}

static uint32_t find_class(const ofr_grammar *g, const ofr_range *ranges, size_t count)
{
    for (size_t i = 0; i < g->n_classes; i++)
        if (g->classes[i].count == count &&
            (count == 0 ||
             memcmp(g->ranges + g->classes[i].first, ranges, count * sizeof *ranges) == 0))
            return (uint32_t)i;
    return UINT32_MAX;
}

uint32_t ofr_builder_class(ofr_builder *builder, const ofr_range *ranges, size_t count,
                           uint32_t next)
{
    ofr_grammar *g = builder->grammar;
    if (!reserve(builder, (void **)&g->ranges, &builder->ranges_room, g->n_ranges, count + 1,
                 sizeof *g->ranges, OFR_GRAMMAR_RANGES_MAX, "ranges of characters"))
        return 0;
    ofr_range *own = g->ranges + g->n_ranges;
    if (count)
        memcpy(own, ranges, count * sizeof *own);
    count = ofr_ranges_normalize(own, count);
    /* A single ASCII character is a byte. */
    if (count == 1 && own->low == own->high && own->low < 0x80)
        return add_node(builder, OFR_NODE_BYTE, own->low, 0, next);
    uint32_t class = find_class(g, own, count);
    if (class == UINT32_MAX) {
        if (!reserve(builder, (void **)&g->classes, &builder->classes_room, g->n_classes, 1,
                     sizeof *g->classes, OFR_GRAMMAR_CLASSES_MAX, "classes"))
            return 0;
        class = (uint32_t)g->n_classes++;
        g->classes[class] = (ofr_class){.first = (uint32_t)g->n_ranges, .count = (uint32_t)count};
        g->n_ranges += count;
        find_first_bytes(g, &g->classes[class]);
        g->classes[class].plain = holds_all_plain(own, count);
    }
    return add_node(builder, OFR_NODE_CLASS, class, 0, next);
}

uint32_t ofr_builder_call(ofr_builder *builder, uint32_t rule, uint32_t next)
{
    return add_node(builder, OFR_NODE_CALL, rule, 0, next);
}

uint32_t ofr_builder_split(ofr_builder *builder, uint32_t count)
{
    ofr_grammar *g = builder->grammar;
    if (!reserve(builder, (void **)&g->edges, &builder->edges_room, g->n_edges, count,
                 sizeof *g->edges, OFR_GRAMMAR_EDGES_MAX, "alternatives"))
        return 0;
    uint32_t split = add_node(builder, OFR_NODE_SPLIT, (uint32_t)g->n_edges, count, 0);
    for (uint32_t i = 0; i < count; i++)
        g->edges[g->n_edges++] = split;
    return split;
}

void ofr_builder_edge(ofr_builder *builder, uint32_t split, uint32_t index, uint32_t node)
{
    ofr_grammar *g = builder->grammar;
    if (!ofr_builder_failed(builder))
        g->edges[g->nodes[split].a + index] = node;
}

uint32_t ofr_builder_either(ofr_builder *builder, uint32_t one, uint32_t other)
{
    uint32_t split = ofr_builder_split(builder, 2);
    ofr_builder_edge(builder, split, 0, one);
    ofr_builder_edge(builder, split, 1, other);
    return split;
}

uint32_t ofr_repeat_begin(ofr_builder *builder, ofr_repeat *repeat, uint32_t min, uint32_t max,
                          uint32_t next)
{
    ofr_grammar *g = builder->grammar;
    *repeat = (ofr_repeat){.min = min, .max = max, .outer = builder->loop, .next = next};
    if (max != OFR_REPEAT_UNBOUNDED && max > OFR_GRAMMAR_REPEAT_MAX)
        ofr_builder_fail(builder, OFR_ELIMIT, "a repetition of up to %u: at most %d are supported",
                         max, OFR_GRAMMAR_REPEAT_MAX);
    if (min > OFR_GRAMMAR_REPEAT_MAX)
        ofr_builder_fail(builder, OFR_ELIMIT,
                         "a repetition of at least %u: at most %d are "
                         "supported",
                         min, OFR_GRAMMAR_REPEAT_MAX);
    if (max == OFR_REPEAT_UNBOUNDED && min <= 1) {
        repeat->node = ofr_builder_split(builder, 2);
        return repeat->node;
    }
    if (max <= 1)
        return next;
    if (!reserve(builder, (void **)&g->loops, &builder->loops_room, g->n_loops, 1, sizeof *g->loops,
                 OFR_GRAMMAR_NODES_MAX, "repetitions"))
        return 0;
    repeat->loop = (uint32_t)++g->n_loops;
    g->loops[repeat->loop - 1] = (ofr_loop){.min = min, .max = max};
    /* A counted loop in a counted loop is a rule of its own, so that each has its counter. */
    if (repeat->outer)
        repeat->rule = ofr_builder_rule(builder, NULL, 0);
    builder->loop = repeat->loop;
    repeat->node = add_node(builder, OFR_NODE_LOOP, repeat->loop - 1, 0, 0);
    return add_node(builder, OFR_NODE_NEXT, repeat->node, 0, 0);
}

uint32_t ofr_repeat_end(ofr_builder *builder, const ofr_repeat *repeat, uint32_t body)
{
    uint32_t next = repeat->next;
    builder->loop = repeat->outer;
    if (ofr_builder_failed(builder))
        return 0;
    ofr_grammar *g = builder->grammar;
    if (repeat->max <= 1)
        return repeat->max == 0 ? next
               : repeat->min    ? body
                                : ofr_builder_either(builder, body, next);
    if (!repeat->loop) {
        ofr_builder_edge(builder, repeat->node, 0, body);
        ofr_builder_edge(builder, repeat->node, 1, next);
        return repeat->min ? body : repeat->node;
    }
    g->loops[repeat->loop - 1].body = body;
    if (!repeat->outer) {
        g->nodes[repeat->node].next = next;
        return repeat->node;
    }
    builder->loop = 0;
    uint32_t end = ofr_builder_end(builder);
    builder->loop = repeat->outer;
    if (ofr_builder_failed(builder))
        return 0;
    g->nodes[repeat->node].next = end;
    ofr_builder_define(builder, repeat->rule, repeat->node);
    return ofr_builder_call(builder, repeat->rule, next);
}

int ofr_builder_finish(ofr_builder *builder, const char *what, ofr_grammar **ret_grammar,
                       ofr_error *err)
{
    ofr_grammar *g = builder->grammar;
    int r = builder->failure.code;
    if (r < 0)
        r = ofr_fail(err, r, "%s", builder->failure.text);
    if (r == 0)
        r = ofr_grammar_trim(g, what, err);
    if (r == 0)
        r = ofr_grammar_check_empty_loops(g, err);
    if (r == 0)
        r = ofr_grammar_check_left_recursion(g, err);
    if (r == 0) {
        ofr_grammar_mark_plain(g);
        *ret_grammar = g;
        builder->grammar = NULL;
    }
    ofr_builder_done(builder);
    return r;
}
