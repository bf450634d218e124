/* What a grammar must be before it can be used: every path can end, no rule begins with itself, no
 * counted loop turns on nothing. */
#include <stdlib.h>
#include <string.h>

#include "grammar/grammar_internal.h"

static bool any_edge(const ofr_grammar *g, const ofr_node *node, const bool *set)
{
    for (uint32_t i = 0; i < node->b; i++)
        if (set[g->edges[node->a + i]])
            return true;
    return false;
}

/* Whether a path from the node can end, given what is known of the others. */
static bool can_end(const ofr_grammar *g, const ofr_node *node, const bool *ends)
{
    switch (node->kind) {
    case OFR_NODE_BYTE:
        return ends[node->next];
    case OFR_NODE_CLASS:
        return g->classes[node->a].count > 0 && ends[node->next];
    case OFR_NODE_SPLIT:
        return any_edge(g, node, ends);
    case OFR_NODE_CALL:
        return g->rules[node->a].defined && ends[g->rules[node->a].start] && ends[node->next];
    case OFR_NODE_LOOP:
        return ends[node->next] && (g->loops[node->a].min == 0 || ends[g->loops[node->a].body]);
    case OFR_NODE_NEXT:
        return ends[g->nodes[node->a].next];
    default:
        return true;
    }
}

/* Whether a path from the node reaches the rule's end without a byte. */
static bool is_empty(const ofr_grammar *g, const ofr_node *node, const bool *empty)
{
    switch (node->kind) {
    case OFR_NODE_SPLIT:
        return any_edge(g, node, empty);
    case OFR_NODE_CALL:
        return empty[g->rules[node->a].start] && empty[node->next];
    case OFR_NODE_LOOP:
        return empty[node->next] && (g->loops[node->a].min == 0 || empty[g->loops[node->a].body]);
    case OFR_NODE_NEXT:
        return empty[g->nodes[node->a].next];
    case OFR_NODE_RET:
        return true;
    default:
        return false;
    }
}

/* The least set of nodes that `holds` closes over; NULL without memory. Nodes lead mostly to
 * earlier ones, so that few passes do. */
static bool *least_set(const ofr_grammar *g,
                       bool (*holds)(const ofr_grammar *, const ofr_node *, const bool *))
{
    bool *set = calloc(g->n_nodes, sizeof *set);
    if (!set)
        return NULL;
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < g->n_nodes; i++)
            if (!set[i] && holds(g, &g->nodes[i], set))
                set[i] = changed = true;
    }
    return set;
}

int ofr_grammar_trim(ofr_grammar *grammar, const char *what, ofr_error *err)
{
    bool *ends = least_set(grammar, can_end);
    if (!ends)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a grammar");
    int r = 0;
    for (size_t i = 0; r == 0 && i < grammar->n_rules; i++) {
        const ofr_rule *rule = &grammar->rules[i];
        if (rule->name && rule->defined && !ends[rule->start])
            r = ofr_fail(err, OFR_EINVAL,
                         "rule '%s' can never end: one of its alternatives must lead to an end",
                         rule->name);
    }
    if (r == 0 && (grammar->n_rules == 0 || !ends[grammar->rules[0].start]))
        r = ofr_fail(err, OFR_EINVAL, "%s allows no text at all", what);
    for (size_t i = 0; r == 0 && i < grammar->n_nodes; i++) {
        ofr_node *node = &grammar->nodes[i];
        if (node->kind == OFR_NODE_SPLIT) {
            uint32_t kept = 0, *edges = grammar->edges + node->a;
            for (uint32_t e = 0; e < node->b; e++)
                if (ends[edges[e]])
                    edges[kept++] = edges[e];
            node->b = kept;
        } else if (node->kind == OFR_NODE_LOOP && !ends[grammar->loops[node->a].body]) {
            grammar->loops[node->a].max = 0;
        }
    }
    free(ends);
    return r;
}

/* Walks from a node over what needs no byte. */
typedef struct walk {
    uint32_t *stack; /* [n_nodes] */
    size_t size;
    uint32_t *seen; /* [n_nodes] the walk that saw it */
    uint32_t number;
} walk;

static int walk_init(walk *w, const ofr_grammar *g, ofr_error *err)
{
    *w = (walk){.stack = calloc(g->n_nodes, sizeof *w->stack),
                .seen = calloc(g->n_nodes, sizeof *w->seen)};
    if (w->stack && w->seen)
        return 0;
    free(w->stack);
    free(w->seen);
    return ofr_fail(err, OFR_ENOMEM, "no memory for a grammar");
}

static void walk_add(walk *w, uint32_t node)
{
    if (w->seen[node] != w->number) {
        w->seen[node] = w->number;
        w->stack[w->size++] = node;
    }
}

static void walk_start(walk *w, uint32_t node)
{
    w->number++;
    w->size = 0;
    walk_add(w, node);
}

/* Adds what follows `node` without a byte. */
static void walk_on(walk *w, const ofr_grammar *g, const ofr_node *node)
{
    if (node->kind == OFR_NODE_SPLIT) {
        for (uint32_t i = 0; i < node->b; i++)
            walk_add(w, g->edges[node->a + i]);
    } else if (node->kind == OFR_NODE_CALL) {
        if (g->rules[node->a].nullable)
            walk_add(w, node->next);
    } else if (node->kind == OFR_NODE_LOOP) {
        const ofr_loop *loop = &g->loops[node->a];
        if (loop->max > 0)
            walk_add(w, loop->body);
        if (loop->min == 0)
            walk_add(w, node->next);
    } else if (node->kind == OFR_NODE_NEXT) {
        walk_add(w, node->a);
        walk_add(w, g->nodes[node->a].next);
    }
}

int ofr_grammar_check_empty_loops(ofr_grammar *grammar, ofr_error *err)
{
    bool *empty = least_set(grammar, is_empty);
    walk w;
    if (!empty || walk_init(&w, grammar, err) < 0) {
        free(empty);
        return ofr_fail(err, OFR_ENOMEM, "no memory for a grammar");
    }
    for (size_t i = 0; i < grammar->n_rules; i++)
        grammar->rules[i].nullable = grammar->rules[i].defined && empty[grammar->rules[i].start];
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < grammar->n_nodes; i++) {
        const ofr_node *node = &grammar->nodes[i];
        if (node->kind != OFR_NODE_LOOP || grammar->loops[node->a].max == 0)
            continue;
        ofr_loop *loop = &grammar->loops[node->a];
        bool turns = false;
        walk_start(&w, loop->body);
        while (w.size && !turns) {
            const ofr_node *at = &grammar->nodes[w.stack[--w.size]];
            turns = at->kind == OFR_NODE_NEXT && at->a == i;
            if (!turns)
                walk_on(&w, grammar, at);
        }
        /* Turns that write nothing count: the least number is no demand. */
        if (turns)
            loop->min = 0;
        if (turns && loop->max != OFR_REPEAT_UNBOUNDED && loop->max > OFR_GRAMMAR_EMPTY_REPEAT_MAX)
            r = ofr_fail(err, OFR_ELIMIT,
                         "a repetition of up to %u of what may be empty: at most %d are supported",
                         loop->max, OFR_GRAMMAR_EMPTY_REPEAT_MAX);
    }
    free(w.stack);
    free(w.seen);
    free(empty);
    return r;
}

/* Rules that a rule can begin with. */
typedef struct beginnings {
    uint32_t *callees; /* of rule i: [first[i], first[i + 1]) */
    size_t *first, used, room;
} beginnings;

static int collect_beginnings(const ofr_grammar *g, walk *w, beginnings *b)
{
    for (size_t i = 0; i < g->n_rules; i++) {
        b->first[i] = b->used;
        if (!g->rules[i].defined)
            continue;
        walk_start(w, g->rules[i].start);
        while (w->size) {
            const ofr_node *node = &g->nodes[w->stack[--w->size]];
            walk_on(w, g, node);
            if (node->kind != OFR_NODE_CALL)
                continue;
            if (b->used == b->room) {
                b->room = b->room ? b->room * 2 : 256;
                uint32_t *grown = realloc(b->callees, b->room * sizeof *grown);
                if (!grown)
                    return OFR_ENOMEM;
                b->callees = grown;
            }
            b->callees[b->used++] = node->a;
        }
    }
    b->first[g->n_rules] = b->used;
    return 0;
}

/* Depth first; UINT32_MAX, or a rule on a cycle. state: 0 new, 1 open, 2 done. */
static uint32_t find_cycle(const ofr_grammar *g, const beginnings *b, uint8_t *state,
                           uint32_t *stack, size_t *place)
{
    for (uint32_t root = 0; root < g->n_rules; root++) {
        if (state[root])
            continue;
        size_t depth = 0;
        stack[depth] = root;
        place[depth++] = b->first[root];
        state[root] = 1;
        while (depth) {
            uint32_t rule = stack[depth - 1];
            if (place[depth - 1] == b->first[rule + 1]) {
                state[rule] = 2;
                depth--;
                continue;
            }
            uint32_t callee = b->callees[place[depth - 1]++];
            if (state[callee] == 1)
                return callee;
            if (state[callee] == 0) {
                state[callee] = 1;
                stack[depth] = callee;
                place[depth++] = b->first[callee];
            }
        }
    }
    return UINT32_MAX;
}

int ofr_grammar_check_left_recursion(ofr_grammar *grammar, ofr_error *err)
{
    size_t n = grammar->n_rules;
    beginnings b = {.first = calloc(n + 1, sizeof *b.first)};
    uint8_t *state = calloc(n, 1);
    uint32_t *stack = calloc(n, sizeof *stack);
    size_t *place = calloc(n, sizeof *place);
    walk w = {0};
    int r = b.first && state && stack && place ? walk_init(&w, grammar, err) : OFR_ENOMEM;
    if (r == 0)
        r = collect_beginnings(grammar, &w, &b);
    if (r < 0) {
        r = ofr_fail(err, OFR_ENOMEM, "no memory for a grammar");
    } else {
        uint32_t rule = find_cycle(grammar, &b, state, stack, place);
        if (rule != UINT32_MAX)
            r = ofr_fail(err, OFR_EUNSUPPORTED,
                         "rule '%s' can begin with itself (left recursion): write it with a "
                         "repetition, item*, or with the recursion at the end",
                         grammar->rules[rule].name ? grammar->rules[rule].name : "of the schema");
    }
    free(w.stack);
    free(w.seen);
    free(place);
    free(stack);
    free(state);
    free(b.first);
    free(b.callees);
    return r;
}

/* Whether splits from `from` lead to all plain characters, after which `back` comes. */
static bool leads_back(const ofr_grammar *g, uint32_t from, uint32_t back)
{
    uint32_t stack[64];
    size_t size = 0, steps = 0;
    stack[size++] = from;
    while (size && steps++ < 64) {
        const ofr_node *node = &g->nodes[stack[--size]];
        if (node->kind == OFR_NODE_CLASS && g->classes[node->a].plain) {
            const ofr_node *after = &g->nodes[node->next];
            if (node->next == back || (after->kind == OFR_NODE_NEXT && after->a == back))
                return true;
        } else if (node->kind == OFR_NODE_SPLIT) {
            for (uint32_t i = 0; i < node->b && size < 64; i++)
                stack[size++] = g->edges[node->a + i];
        }
    }
    return false;
}

static bool is_other_byte(const ofr_node *node)
{
    return node->kind == OFR_NODE_BYTE && node->a < 0x80 && !ofr_is_plain(node->a);
}

void ofr_grammar_mark_plain(ofr_grammar *grammar)
{
    for (uint32_t i = 0; i < grammar->n_nodes; i++) {
        ofr_node *node = &grammar->nodes[i];
        if (node->kind == OFR_NODE_SPLIT)
            node->plain = leads_back(grammar, i, i);
        else if (node->kind == OFR_NODE_LOOP && grammar->loops[node->a].max > 0)
            node->plain = leads_back(grammar, grammar->loops[node->a].body, i) &&
                          (grammar->loops[node->a].max == OFR_REPEAT_UNBOUNDED ||
                           is_other_byte(&grammar->nodes[node->next]));
    }
}
