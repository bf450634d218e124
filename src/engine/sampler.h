/* Sampling: from logits to the next token.
 *
 * Order of the stages: repetition penalty, presence and frequency penalties, bias, mask; then
 * temperature 0 is greedy (lowest id wins a tie); otherwise top-k, softmax at the temperature,
 * top-p, min-p, draw. A token less than e^-30 times as likely as the likeliest is never drawn.
 * Deterministic for a seed on every machine. A sampler belongs to one sequence and one thread. */
#ifndef OFR_ENGINE_SAMPLER_H
#define OFR_ENGINE_SAMPLER_H

#include <stdint.h>

#include "base/status.h"
#include "engine/candidates.h"

/* Added to a token's logit; -INFINITY forbids the token. */
typedef struct ofr_logit_bias {
    int32_t token;
    float bias;
} ofr_logit_bias;

typedef struct ofr_sampling {
    float temperature;          /* 0: greedy */
    uint32_t top_k;             /* 0: off */
    float top_p;                /* 1: off; in (0, 1] */
    float min_p;                /* 0: off; in [0, 1) */
    float repetition_penalty;   /* 1: off; > 0; logits of seen tokens are divided (positive) or
                                   multiplied */
    uint32_t repetition_window; /* last tokens that count as seen, prompt included; 0: all */
    float presence_penalty;     /* 0: off; taken off the logit of every token generated so far */
    float frequency_penalty;    /* 0: off; likewise, times its occurrences */
    const ofr_logit_bias *bias; /* [n_bias], copied by ofr_sampler_new */
    uint32_t n_bias;
    uint64_t seed;
} ofr_sampling;

/* Greedy, nothing else on. */
#define OFR_SAMPLING_DEFAULT                                                                       \
    {                                                                                              \
        .temperature = 0, .top_p = 1, .repetition_penalty = 1                                      \
    }

typedef struct ofr_sampler ofr_sampler;
int ofr_sampler_new(const ofr_sampling *sampling, int32_t vocab_size, ofr_sampler **ret_sampler,
                    ofr_error *err);
ofr_sampler *ofr_sampler_free(ofr_sampler *sampler);
/* Tells the sampler of a token of the prompt: only the repetition penalty counts it. */
void ofr_sampler_accept_prompt(ofr_sampler *sampler, int32_t token);
/* Tells the sampler of a token that was generated. */
void ofr_sampler_accept(ofr_sampler *sampler, int32_t token);
/* Draws from logits [vocab_size], which are only read. Logits that are NaN throughout give
 * OFR_EDEVICE. No allocation. */
int ofr_sampler_sample(ofr_sampler *sampler, const float *logits, int32_t *ret_token,
                       ofr_error *err);
/* The same among the tokens whose bit is set in `mask` [(vocab_size + 31) / 32], token 0 being bit
 * 0 of the first word. OFR_EINVAL where none of them can be drawn. */
int ofr_sampler_sample_masked(ofr_sampler *sampler, const float *logits, const uint32_t *mask,
                              int32_t *ret_token, ofr_error *err);

/* How many candidates of a row (candidates.h) are enough to draw the very token that all its logits
 * would give: 1 where it is greedy, top_k where that is at most OFR_CANDIDATES_MAX. 0: logits are
 * needed, since penalties or bias may change their order, or the weights of all are added up. */
uint32_t ofr_sampler_candidates_wanted(const ofr_sampler *sampler);
/* As ofr_sampler_sample with the logits that `candidates` [n] are the first of; n is at least what
 * is wanted, OFR_EINVAL otherwise. */
int ofr_sampler_sample_candidates(ofr_sampler *sampler, const ofr_candidate *candidates, uint32_t n,
                                  int32_t *ret_token, ofr_error *err);

#endif
