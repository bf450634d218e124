/* Choosing the largest logits of a row, and checking what others chose. */
#include "engine/candidates.h"

#include <math.h>

enum { BLOCK = 64, LANES = 16 };

/* The largest number of a block; a loop that compilers vectorize. */
static float largest_of_block(const float *logits)
{
    float lanes[LANES];
    for (int j = 0; j < LANES; j++) {
        lanes[j] = -INFINITY;
    }
    for (int i = 0; i < BLOCK; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
        }
    }
    float best = -INFINITY;
    for (int j = 0; j < LANES; j++) {
        best = lanes[j] > best ? lanes[j] : best;
    }
    return best;
}

void ofr_candidates_select(const float *logits, int32_t vocab_size, uint32_t n,
                           ofr_candidate *ret_candidates)
{
    ofr_candidate *kept = ret_candidates;
    uint32_t used = 0;
    for (int32_t begin = 0; begin < vocab_size; begin += BLOCK) {
        int32_t size = vocab_size - begin < BLOCK ? vocab_size - begin : BLOCK;
        /* Tokens come in ascending order, so that an equal logit is none that is better. */
        if (used == n && size == BLOCK && !(largest_of_block(logits + begin) > kept[n - 1].logit)) {
            continue;
        }
        for (int32_t token = begin; token < begin + size; token++) {
            float logit = logits[token];
            if (isnan(logit) || (used == n && !(logit > kept[n - 1].logit))) {
                continue;
            }
            uint32_t at = used < n ? used++ : n - 1;
            for (; at > 0 && kept[at - 1].logit < logit; at--) {
                kept[at] = kept[at - 1];
            }
            kept[at] = (ofr_candidate){token, logit};
        }
    }
    for (; used < n; used++) {
        kept[used] = (ofr_candidate){OFR_CANDIDATE_NONE, -INFINITY};
    }
}

static bool is_named_before(const ofr_candidate *candidates, uint32_t i)
{
    bool found = false;
    for (uint32_t j = 0; j < i; j++) {
        found |= candidates[j].token == candidates[i].token;
    }
    return found;
}

int ofr_candidates_check(const ofr_candidate *candidates, uint32_t n, int32_t vocab_size,
                         ofr_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        const ofr_candidate *own = &candidates[i];
        bool possible = own->token == OFR_CANDIDATE_NONE;
        if (i < (uint32_t)vocab_size) {
            possible = own->token >= 0 && own->token < vocab_size && isfinite(own->logit) &&
                       (i == 0 || ofr_candidate_precedes(own - 1, own)) &&
                       !is_named_before(candidates, i);
        }
        if (!possible) {
            return ofr_fail(err, OFR_EPROTOCOL,
                            "candidate %u of %u is token %d with logit %g, which cannot follow "
                            "those before it in a vocabulary of %d",
                            i + 1, n, own->token, (double)own->logit, vocab_size);
        }
    }
    return 0;
}
