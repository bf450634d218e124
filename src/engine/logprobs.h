/* Log-probabilities of tokens, from logits: natural logarithms of the softmax at temperature 1,
 * before penalties, bias and masks. */
#ifndef OFR_ENGINE_LOGPROBS_H
#define OFR_ENGINE_LOGPROBS_H

#include <stdint.h>

enum { OFR_LOGPROBS_TOP_MAX = 20 };

typedef struct ofr_token_logprob {
    int32_t token;
    float logprob; /* at least -9999 */
} ofr_token_logprob;

/* logits [vocab_size]. *ret_chosen is that of `token`; ret_top [n_top, at most
 * OFR_LOGPROBS_TOP_MAX] the likeliest, best first, the lower id winning a tie. Returns how many
 * are there (fewer where fewer logits are numbers). */
uint32_t ofr_logprobs_compute(const float *logits, int32_t vocab_size, int32_t token,
                              uint32_t n_top, ofr_token_logprob *ret_chosen,
                              ofr_token_logprob *ret_top);

#endif
