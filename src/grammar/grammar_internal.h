/* The automaton of a grammar, and the builder that makes one. Nothing outside src/grammar and
 * src/tool_calls includes this, except their tests.
 *
 * Rules are graphs of nodes; a node's successors are nodes of the same rule. What a node means, for
 * a reader at that node with a counter c (0 outside of counted loops):
 *   BYTE   the byte `a` leads to `next`
 *   CLASS  one character of classes[a], in UTF-8, leads to `next`
 *   SPLIT  continues at each of edges[a .. a + b)
 *   CALL   goes through rule `a`, then continues at `next`
 *   LOOP   of loops[a]: with c < max continues at its body, with c >= min at `next` with c = 0
 *   NEXT   end of the body of the LOOP node `a`: continues there with c + 1
 *   RET    end of the rule
 * Control tokens are literals too: OFR_GRAMMAR_TOKEN_BYTE, the token's name,
 * OFR_GRAMMAR_TOKEN_BYTE; no UTF-8 text holds that byte.
 *
 * Graphs are built from their end: every function takes the node to continue at, and returns the
 * node to enter at. A failure (memory, limits) is remembered by the builder and reported by
 * ofr_builder_finish; until then all functions return some valid node. */
#ifndef OFR_GRAMMAR_GRAMMAR_INTERNAL_H
#define OFR_GRAMMAR_GRAMMAR_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "grammar/grammar.h"

enum {
    OFR_GRAMMAR_TOKEN_BYTE = 0xFF,
    OFR_CODEPOINT_MAX = 0x10FFFF,
    OFR_GRAMMAR_RULES_MAX = 1 << 16,
    OFR_GRAMMAR_EDGES_MAX = 1 << 20,
    OFR_GRAMMAR_CLASSES_MAX = 1 << 12,
    OFR_GRAMMAR_RANGES_MAX = 1 << 18,
    /* Iterations of a counted repetition whose body can be empty. */
    OFR_GRAMMAR_EMPTY_REPEAT_MAX = 256,
};
#define OFR_REPEAT_UNBOUNDED UINT32_MAX

enum ofr_node_kind {
    OFR_NODE_BYTE,
    OFR_NODE_CLASS,
    OFR_NODE_SPLIT,
    OFR_NODE_CALL,
    OFR_NODE_LOOP,
    OFR_NODE_NEXT,
    OFR_NODE_RET,
};

typedef struct ofr_node {
    uint8_t kind;
    bool plain;    /* entering here, each plain character (vocabulary.h) leads back here, once
                      more of `loop` if this is a LOOP, and a LOOP has no other way to go on with
                      one; set by ofr_builder_finish */
    uint32_t next; /* node */
    uint32_t a, b;
    uint32_t loop; /* 1 + the loop in whose body (or at whose head) this is; 0: none */
} ofr_node;

typedef struct ofr_range {
    uint32_t low, high; /* code points, inclusive */
} ofr_range;

typedef struct ofr_class {
    uint32_t first, count; /* ranges, ascending, apart; no surrogates */
    uint64_t bytes[4];     /* bit b: a character of the class begins with byte b */
    bool plain;            /* holds every plain character */
} ofr_class;

typedef struct ofr_loop {
    uint32_t min, max; /* max OFR_REPEAT_UNBOUNDED: none */
    uint32_t body;     /* node */
} ofr_loop;

typedef struct ofr_rule {
    uint32_t start; /* node */
    char *name;     /* for errors; owned, may be NULL */
    bool defined;
    bool nullable;
} ofr_rule;

struct ofr_grammar {
    ofr_node *nodes;
    ofr_class *classes;
    ofr_range *ranges;
    ofr_loop *loops;
    ofr_rule *rules; /* rules[0] is the root */
    uint32_t *edges;
    size_t n_nodes, n_classes, n_ranges, n_loops, n_rules, n_edges;
};

typedef struct ofr_builder {
    ofr_grammar *grammar;
    size_t nodes_room, classes_room, ranges_room, loops_room, rules_room, edges_room;
    uint32_t loop; /* of the nodes being made, as ofr_node.loop */
    ofr_error failure;
} ofr_builder;

int ofr_builder_init(ofr_builder *builder, ofr_error *err);
void ofr_builder_done(ofr_builder *builder);
/* Remembers the first failure. */
void ofr_builder_fail(ofr_builder *builder, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static inline bool ofr_builder_failed(const ofr_builder *builder)
{
    return builder->failure.code != 0;
}

/* A rule without nodes yet; `name` [size] is copied. The first rule is the root. */
uint32_t ofr_builder_rule(ofr_builder *builder, const char *name, size_t size);
void ofr_builder_define(ofr_builder *builder, uint32_t rule, uint32_t start);
/* A new RET node. */
uint32_t ofr_builder_end(ofr_builder *builder);

uint32_t ofr_builder_bytes(ofr_builder *builder, const char *bytes, size_t size, uint32_t next);
/* The control token `name` [size]. */
uint32_t ofr_builder_token(ofr_builder *builder, const char *name, size_t size, uint32_t next);
/* Ranges [count] in any order, overlapping or not; none: nothing matches. */
uint32_t ofr_builder_class(ofr_builder *builder, const ofr_range *ranges, size_t count,
                           uint32_t next);
uint32_t ofr_builder_call(ofr_builder *builder, uint32_t rule, uint32_t next);
/* A SPLIT of `count` edges, each to itself until ofr_builder_edge sets it. */
uint32_t ofr_builder_split(ofr_builder *builder, uint32_t count);
void ofr_builder_edge(ofr_builder *builder, uint32_t split, uint32_t index, uint32_t node);
uint32_t ofr_builder_either(ofr_builder *builder, uint32_t one, uint32_t other);

/* Counted repetition of what is built between begin and end:
 *     ofr_repeat repeat;
 *     uint32_t after = ofr_repeat_begin(builder, &repeat, min, max, next);
 *     uint32_t body = build(builder, ..., after);
 *     uint32_t entry = ofr_repeat_end(builder, &repeat, body);
 * Loops may contain loops. */
typedef struct ofr_repeat {
    uint32_t min, max, loop, outer, rule, node, next;
} ofr_repeat;
uint32_t ofr_repeat_begin(ofr_builder *builder, ofr_repeat *repeat, uint32_t min, uint32_t max,
                          uint32_t next);
uint32_t ofr_repeat_end(ofr_builder *builder, const ofr_repeat *repeat, uint32_t body);

/* Checks the grammar, removes what can never end, and hands it over. The builder keeps nothing.
 * A grammar without any text is OFR_EINVAL: "<what> allows no text at all". */
int ofr_builder_finish(ofr_builder *builder, const char *what, ofr_grammar **ret_grammar,
                       ofr_error *err);

/* A grammar around JSON values: `wrap` builds what the whole text is, calling rule i where a value
 * of schemas[i] stands, and returns the node to enter at. `what` names the whole in errors. */
typedef uint32_t (*ofr_schema_wrap)(ofr_builder *builder, const uint32_t *rules, void *user);
int ofr_grammar_around_schemas(const json_t *const *schemas, size_t count, ofr_schema_wrap wrap,
                               void *user, const char *what, ofr_grammar **ret_grammar,
                               ofr_error *err);

/* analysis.c: the steps of ofr_builder_finish. */
int ofr_grammar_check_left_recursion(ofr_grammar *grammar, ofr_error *err);
int ofr_grammar_trim(ofr_grammar *grammar, const char *what, ofr_error *err);
int ofr_grammar_check_empty_loops(ofr_grammar *grammar, ofr_error *err);
void ofr_grammar_mark_plain(ofr_grammar *grammar);

/* Sorts and merges in place, drops surrogates; returns the new count. `ranges` must have room for
 * one more than `count`. */
size_t ofr_ranges_normalize(ofr_range *ranges, size_t count);
/* True if the class has a character in [low, high]. */
bool ofr_class_meets(const ofr_grammar *grammar, const ofr_class *class, uint32_t low,
                     uint32_t high);

/* Plain characters: what a string mostly consists of; all stand for themselves in JSON. */
static inline bool ofr_is_plain(uint32_t codepoint)
{
    return codepoint >= 0x20 && codepoint != '"' && codepoint != '\\' && codepoint != 0x7F;
}

#endif
