/* Candidates: the largest logits of a row with their tokens. Where a draw needs no others, nothing
 * else has to leave the device. */
#ifndef OFR_ENGINE_CANDIDATES_H
#define OFR_ENGINE_CANDIDATES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum {
    OFR_CANDIDATES_MAX = 64, /* of a row */
    OFR_CANDIDATE_NONE = -1, /* token where a row has no more logits that are numbers */
};

/* In shared memory, too (executive_shard/session_abi.h). */
typedef struct ofr_candidate {
    int32_t token;
    float logit;
} ofr_candidate;

_Static_assert(sizeof(ofr_candidate) == 8, "candidates are shared");

/* What is known of a next token. */
typedef struct ofr_prediction {
    const float *logits;             /* [vocab_size]; NULL: the candidates are enough */
    const ofr_candidate *candidates; /* [n_candidates]; NULL where there are logits */
    uint32_t n_candidates;
} ofr_prediction;

/* Higher logit first; the lower id wins a tie. A total order of numbers, so that the same are
 * chosen everywhere. */
static inline bool ofr_candidate_precedes(const ofr_candidate *a, const ofr_candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

/* The first n (1 to OFR_CANDIDATES_MAX) of the row logits [vocab_size] in that order. NaN is passed
 * over; where fewer are numbers, the rest is OFR_CANDIDATE_NONE with -INFINITY. */
void ofr_candidates_select(const float *logits, int32_t vocab_size, uint32_t n,
                           ofr_candidate *ret_candidates);

/* Whether candidates [n] from elsewhere can be what ofr_candidates_select gives of vocab_size
 * finite logits, and workers give no others: all n, or the whole vocabulary and then
 * OFR_CANDIDATE_NONE; each token once, numbers, in order. OFR_EPROTOCOL otherwise. */
int ofr_candidates_check(const ofr_candidate *candidates, uint32_t n, int32_t vocab_size,
                         ofr_error *err);

#endif
