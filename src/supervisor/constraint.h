/* A grammar from a file, and the matcher that follows an answer through it. */
#ifndef OFR_SUPERVISOR_CONSTRAINT_H
#define OFR_SUPERVISOR_CONSTRAINT_H

#include <stdbool.h>

#include "grammar/grammar.h"
#include "grammar/matcher.h"
#include "grammar/vocabulary.h"

/* All owned; all NULL: no constraint. */
typedef struct ofr_constraint_set {
    ofr_grammar *grammar;
    ofr_vocabulary *vocabulary;
    ofr_matcher *matcher;
} ofr_constraint_set;

/* Compiles the grammar, or JSON schema, in the file, "-" being standard input. */
int ofr_constraint_load(ofr_constraint_set *constraint, const char *path, bool json_schema,
                        ofr_error *err);
/* Makes the matcher where there is a grammar. */
int ofr_constraint_match(ofr_constraint_set *constraint, const ofr_tokenizer *tokenizer,
                         ofr_error *err);
void ofr_constraint_done(ofr_constraint_set *constraint);

#endif
