/* Log-probabilities of the chosen and the likeliest tokens. */
#include "engine/logprobs.h"

#include <math.h>

static const float LOWEST = -9999;

static float clamp(double logprob)
{
    return logprob > (double)LOWEST ? (float)logprob : LOWEST; /* also what is no number */
}

uint32_t ofr_logprobs_compute(const float *logits, int32_t vocab_size, int32_t token,
                              uint32_t n_top, ofr_token_logprob *ret_chosen,
                              ofr_token_logprob *ret_top)
{
    n_top = n_top < OFR_LOGPROBS_TOP_MAX ? n_top : OFR_LOGPROBS_TOP_MAX;
    float best = -INFINITY;
    for (int32_t i = 0; i < vocab_size; i++)
        best = logits[i] > best ? logits[i] : best;
    double sum = 0;
    uint32_t n = 0;
    for (int32_t i = 0; i < vocab_size; i++) {
        float logit = logits[i];
        if (!(logit > -INFINITY))
            continue;
        sum += (double)expf(logit - best);
        if (n == n_top && (n == 0 || logit <= ret_top[n - 1].logprob))
            continue;
        uint32_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && ret_top[at - 1].logprob < logit; at--)
            ret_top[at] = ret_top[at - 1];
        ret_top[at] = (ofr_token_logprob){i, logit};
    }
    double shift = (double)best + log(sum);
    for (uint32_t i = 0; i < n; i++)
        ret_top[i].logprob = clamp((double)ret_top[i].logprob - shift);
    *ret_chosen = (ofr_token_logprob){token, clamp((double)logits[token] - shift)};
    return n;
}
