/* Grammars: which texts a model may write.
 *
 * A grammar is a set of rules over bytes, compiled to a pushdown automaton. It knows no vocabulary:
 * matcher.h says which tokens a grammar allows. A compiled grammar is immutable; any number of
 * matchers in any threads may use it at once, and must not outlive it.
 *
 * Bounds: OFR_GRAMMAR_NODES_MAX nodes, OFR_GRAMMAR_DEPTH_MAX rules inside each other at run time
 * (deeper text is not allowed by the mask). A rule that begins with itself (left recursion) and a
 * rule that can never end are refused by name. */
#ifndef OFR_GRAMMAR_GRAMMAR_H
#define OFR_GRAMMAR_GRAMMAR_H

#include <jansson.h>
#include <stddef.h>

#include "base/status.h"

enum {
    OFR_GRAMMAR_NODES_MAX = 1 << 19,
    OFR_GRAMMAR_DEPTH_MAX = 512,
    OFR_GRAMMAR_REPEAT_MAX = 1 << 20, /* of a counted repetition */
    OFR_GRAMMAR_TEXT_MAX = 1 << 18,   /* bytes of GBNF */
};

typedef struct ofr_grammar ofr_grammar;

/* Compiles GBNF, the notation of llama.cpp: rules `name ::= alternatives`, "literals", [classes],
 * . for any character, ( ) | * + ? {m,n}, # comments; a rule ends at the line's end, except inside
 * parentheses and after |. <name> is the token of that name where the vocabulary has it as a
 * control token, or the same text. The text is matched against `root`. Errors give line and column:
 * "line 3, column 7: rule 'item' is not defined". */
int ofr_grammar_from_gbnf(const char *text, size_t size, ofr_grammar **ret_grammar, ofr_error *err);

/* Compiles a JSON schema (draft 2020-12), an object or a boolean; borrowed for the call. What
 * cannot be held exactly is refused by its name and place: "#/properties/a: 'uniqueItems' is not
 * supported". What the texts of the grammar look like: documentation/structured_output.md. */
int ofr_grammar_from_json_schema(const json_t *schema, ofr_grammar **ret_grammar, ofr_error *err);

/* Any JSON object. */
int ofr_grammar_json_object(ofr_grammar **ret_grammar, ofr_error *err);

ofr_grammar *ofr_grammar_free(ofr_grammar *grammar);

#endif
