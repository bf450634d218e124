/* A matcher follows one text through a grammar, token by token, and says which tokens may come
 * next.
 *
 *     ofr_matcher_new(grammar, vocabulary, &matcher, &err);
 *     loop: ofr_matcher_mask(matcher, &mask, &err);   which tokens are allowed
 *           token = sample(logits, mask);
 *           ofr_matcher_accept(matcher, token, &err);
 *           if (ofr_matcher_is_done(matcher)) stop;   nothing can follow
 *
 * Masks are kept: a mask that was computed once costs nothing again, also after ofr_matcher_reset,
 * so that a matcher is worth keeping for the next text of the same grammar. A matcher belongs to
 * one thread at a time; grammar and vocabulary are borrowed and must outlive it. */
#ifndef OFR_GRAMMAR_MATCHER_H
#define OFR_GRAMMAR_MATCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "grammar/grammar.h"
#include "grammar/vocabulary.h"

typedef struct ofr_matcher ofr_matcher;

int ofr_matcher_new(const ofr_grammar *grammar, const ofr_vocabulary *vocabulary,
                    ofr_matcher **ret_matcher, ofr_error *err);
ofr_matcher *ofr_matcher_free(ofr_matcher *matcher);
/* Back to the beginning of a text. */
void ofr_matcher_reset(ofr_matcher *matcher);

/* *ret_mask [vocabulary->mask_words]: bit id % 32 of word id / 32 is set if the token is allowed.
 * Tokens that end generation are allowed where the text may end. Valid until the next call with
 * this matcher. OFR_EUNSUPPORTED if no token of the vocabulary can go on (the grammar needs a
 * control token that the vocabulary lacks, or text deeper than OFR_GRAMMAR_DEPTH_MAX), OFR_ELIMIT
 * if the grammar is too ambiguous. */
int ofr_matcher_mask(ofr_matcher *matcher, const uint32_t **ret_mask, ofr_error *err);

/* The token is part of the text from now on. A token that ends generation ends the text. OFR_EINVAL
 * if the mask does not allow it; the state is unchanged then. */
int ofr_matcher_accept(ofr_matcher *matcher, int32_t token, ofr_error *err);
/* Likewise for bytes, which may end inside a character. */
int ofr_matcher_accept_bytes(ofr_matcher *matcher, const char *bytes, size_t size, ofr_error *err);

/* The text may end here. */
bool ofr_matcher_can_end(const ofr_matcher *matcher);
/* The text may end here and cannot go on, or has ended. */
bool ofr_matcher_is_done(const ofr_matcher *matcher);

static inline bool ofr_mask_allows(const uint32_t *mask, int32_t token)
{
    return mask[token >> 5] >> (token & 31) & 1;
}

#endif
