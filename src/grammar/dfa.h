/* Sets of strings, as deterministic automata over characters: made from regular expressions and
 * literals, intersected and complemented. An automaton is immutable after it was made. */
#ifndef OFR_GRAMMAR_DFA_H
#define OFR_GRAMMAR_DFA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "grammar/grammar_internal.h"

enum { OFR_DFA_STATES_MAX = 4096, OFR_DFA_EDGES_MAX = 1 << 17 };
#define OFR_DFA_UNBOUNDED UINT32_MAX

typedef struct ofr_dfa_edge {
    uint32_t low, high; /* code points, inclusive; no surrogates */
    uint32_t target;
} ofr_dfa_edge;

/* State 0 is the start. What has no edge leads nowhere. Every state but perhaps the start can reach
 * an accepting one. */
typedef struct ofr_dfa {
    uint32_t n_states, n_edges;
    bool *accepts;   /* [n_states] */
    uint32_t *first; /* [n_states + 1] edges of state i: [first[i], first[i + 1]), ascending */
    ofr_dfa_edge *edges;
} ofr_dfa;

ofr_dfa *ofr_dfa_free(ofr_dfa *dfa);

/* The strings in which the expression matches somewhere, as JSON Schema's `pattern`: the syntax of
 * ECMA 262 with the u flag, less look-around, back-references and \b. Those are OFR_EUNSUPPORTED
 * and named. */
int ofr_dfa_from_regex(const char *regex, size_t size, ofr_dfa **ret_dfa, ofr_error *err);
/* The strings of `length` [min, max] characters; max may be OFR_DFA_UNBOUNDED. */
int ofr_dfa_from_lengths(uint32_t min, uint32_t max, ofr_dfa **ret_dfa, ofr_error *err);
/* The literals [count], which are UTF-8. */
int ofr_dfa_from_literals(const char *const *texts, const size_t *sizes, size_t count,
                          ofr_dfa **ret_dfa, ofr_error *err);
int ofr_dfa_intersect(const ofr_dfa *a, const ofr_dfa *b, ofr_dfa **ret_dfa, ofr_error *err);
int ofr_dfa_complement(const ofr_dfa *a, ofr_dfa **ret_dfa, ofr_error *err);

/* *dfa = *dfa ∩ other, where *dfa may be NULL for all strings. `other` is freed. */
int ofr_dfa_narrow(ofr_dfa **dfa, ofr_dfa *other, ofr_error *err);

bool ofr_dfa_is_empty(const ofr_dfa *dfa);
bool ofr_dfa_matches(const ofr_dfa *dfa, const char *text, size_t size);
/* Characters of the shortest and the longest string; false if there is none. */
bool ofr_dfa_lengths(const ofr_dfa *dfa, uint32_t *ret_min, uint32_t *ret_max);

/* For the functions that make automata: an automaton under construction, by states of any kind. */
typedef struct ofr_dfa_builder {
    ofr_dfa dfa;
    uint32_t states_room, edges_room;
    int failure;
} ofr_dfa_builder;
/* A new state; states get their edges in the order in which they are made. */
uint32_t ofr_dfa_add_state(ofr_dfa_builder *builder, bool accepts);
/* An edge of the state numbered `state`, which must be the one whose edges are being made; edges
 * ascend. Adjacent ones to the same target become one. */
void ofr_dfa_add_edge(ofr_dfa_builder *builder, uint32_t state, uint32_t low, uint32_t high,
                      uint32_t target);
/* Removes states that lead nowhere; hands over, or fails with what ran out. */
int ofr_dfa_finish(ofr_dfa_builder *builder, ofr_dfa **ret_dfa, ofr_error *err);

/* Nodes for the strings of the automaton, leading to `next`. With `json` as the inside of a JSON
 * string, escaped as JSON demands and no more; otherwise as they are. */
uint32_t ofr_dfa_emit(ofr_builder *builder, const ofr_dfa *dfa, bool json, uint32_t next);
/* Nodes for text that goes on until it is one of the automaton's strings, where `found` follows. At
 * any place before, `stop` is an alternative. */
uint32_t ofr_dfa_emit_until(ofr_builder *builder, const ofr_dfa *dfa, uint32_t found,
                            uint32_t stop);

#endif
