/* The sampler: penalties, the cuts of the candidate set, and the draw. Everything is computed in a
 * fixed order in double where sums are taken, so that a seed gives the same tokens everywhere. */
#include "engine/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct candidate {
    int32_t token;
    float logit;
    double weight;
} candidate;

struct ofr_sampler {
    ofr_sampling sampling;
    int32_t vocab_size;
    uint64_t random[4]; /* state of xoshiro256** */
    uint32_t *seen;     /* [vocab_size] occurrences within the window, owned */
    int32_t *window;    /* [repetition_window] ring of accepted tokens, owned; NULL: all count */
    uint32_t window_used, window_next;
    candidate *candidates; /* [vocab_size], owned */
};

/* splitmix64 and xoshiro256**, by David Blackman and Sebastiano Vigna, public domain
 * (https://prng.di.unimi.it). */
static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

static uint64_t xoshiro256(uint64_t s[4])
{
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

/* Uniform in [0, 1) with 53 bits. */
static double draw_uniform(ofr_sampler *sampler)
{
    return (double)(xoshiro256(sampler->random) >> 11) * 0x1.0p-53;
}

static int check_sampling(const ofr_sampling *s, int32_t vocab_size, ofr_error *err)
{
    if (vocab_size <= 0) {
        return ofr_fail(err, OFR_EINVAL, "sampler: a vocabulary of %d tokens", vocab_size);
    }
    if (!(s->temperature >= 0) || !isfinite(s->temperature)) {
        return ofr_fail(err, OFR_EINVAL, "temperature %g: use 0 (greedy) or a positive number",
                        (double)s->temperature);
    }
    if (!(s->top_p > 0 && s->top_p <= 1)) {
        return ofr_fail(err, OFR_EINVAL, "top_p %g: use a number in (0, 1]", (double)s->top_p);
    }
    if (!(s->min_p >= 0 && s->min_p < 1)) {
        return ofr_fail(err, OFR_EINVAL, "min_p %g: use a number in [0, 1)", (double)s->min_p);
    }
    if (!(s->repetition_penalty > 0) || !isfinite(s->repetition_penalty)) {
        return ofr_fail(err, OFR_EINVAL, "repetition_penalty %g: use a positive number",
                        (double)s->repetition_penalty);
    }
    return 0;
}

int ofr_sampler_new(const ofr_sampling *sampling, int32_t vocab_size, ofr_sampler **ret_sampler,
                    ofr_error *err)
{
    int result = check_sampling(sampling, vocab_size, err);
    if (result < 0) {
        return result;
    }
    ofr_sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "sampler: out of memory");
    }
    sampler->sampling = *sampling;
    sampler->vocab_size = vocab_size;
    sampler->seen = calloc((size_t)vocab_size, sizeof *sampler->seen);
    sampler->candidates = calloc((size_t)vocab_size, sizeof *sampler->candidates);
    if (sampling->repetition_window > 0) {
        sampler->window = calloc(sampling->repetition_window, sizeof *sampler->window);
    }
    if (sampler->seen == NULL || sampler->candidates == NULL ||
        (sampling->repetition_window > 0 && sampler->window == NULL)) {
        ofr_sampler_free(sampler);
        return ofr_fail(err, OFR_ENOMEM, "sampler: out of memory for %d tokens", vocab_size);
    }
    uint64_t state = sampling->seed;
    for (int i = 0; i < 4; i++) {
        sampler->random[i] = splitmix64(&state);
    }
    *ret_sampler = sampler;
    return 0;
}

ofr_sampler *ofr_sampler_free(ofr_sampler *sampler)
{
    if (sampler != NULL) {
        free(sampler->seen);
        free(sampler->window);
        free(sampler->candidates);
        free(sampler);
    }
    return NULL;
}

void ofr_sampler_accept(ofr_sampler *sampler, int32_t token)
{
    if (token < 0 || token >= sampler->vocab_size) {
        return;
    }
    if (sampler->window != NULL) {
        uint32_t size = sampler->sampling.repetition_window;
        if (sampler->window_used == size) {
            sampler->seen[sampler->window[sampler->window_next]]--;
        } else {
            sampler->window_used++;
        }
        sampler->window[sampler->window_next] = token;
        sampler->window_next = (sampler->window_next + 1) % size;
    }
    if (sampler->seen[token] < UINT32_MAX) {
        sampler->seen[token]++;
    }
}

static float penalized(const ofr_sampler *sampler, const float *logits, int32_t token)
{
    float logit = logits[token];
    if (sampler->seen[token] > 0) {
        float penalty = sampler->sampling.repetition_penalty;
        logit = logit > 0 ? logit / penalty : logit * penalty;
    }
    return logit;
}

/* Higher logit first; the lower id wins a tie. A total order, so that the same are kept everywhere.
 */
static bool precedes(const candidate *a, const candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

/* Restores a binary heap below `root`. `best_first`: the root precedes all others; otherwise it is
 * the last of them. */
static void sift_down(candidate *heap, size_t size, size_t root, bool best_first)
{
    for (;;) {
        size_t top = root;
        for (size_t child = 2 * root + 1; child <= 2 * root + 2 && child < size; child++) {
            bool earlier = precedes(&heap[child], &heap[top]);
            if (earlier == best_first) {
                top = child;
            }
        }
        if (top == root) {
            return;
        }
        candidate swap = heap[root];
        heap[root] = heap[top];
        heap[top] = swap;
        root = top;
    }
}

static void make_heap(candidate *heap, size_t size, bool best_first)
{
    for (size_t i = size / 2; i-- > 0;) {
        sift_down(heap, size, i, best_first);
    }
}

/* Collects what can be drawn: all tokens with a usable logit, or the top_k of them. */
static size_t collect(ofr_sampler *sampler, const float *logits)
{
    candidate *kept = sampler->candidates;
    size_t limit = sampler->sampling.top_k > 0 ? sampler->sampling.top_k : SIZE_MAX;
    size_t n = 0;
    for (int32_t token = 0; token < sampler->vocab_size; token++) {
        candidate next = {.token = token, .logit = penalized(sampler, logits, token)};
        if (isnan(next.logit) || (isinf(next.logit) && next.logit < 0)) {
            continue;
        }
        if (n < limit) {
            kept[n++] = next;
            if (n == limit) {
                make_heap(kept, n, false);
            }
        } else if (precedes(&next, &kept[0])) {
            kept[0] = next;
            sift_down(kept, n, 0, false);
        }
    }
    return n;
}

/* Softmax weights at the temperature, relative to the best token, which has 1. Returns their sum.
 */
static double weigh(ofr_sampler *sampler, size_t n)
{
    candidate *kept = sampler->candidates;
    double temperature = (double)sampler->sampling.temperature, sum = 0;
    float best = kept[0].logit;
    for (size_t i = 1; i < n; i++) {
        best = kept[i].logit > best ? kept[i].logit : best;
    }
    for (size_t i = 0; i < n; i++) {
        /* An infinite best logit would give inf - inf: all infinite ones weigh the same. */
        double distance =
            kept[i].logit == best ? 0 : ((double)kept[i].logit - (double)best) / temperature;
        kept[i].weight = exp(distance);
        sum += kept[i].weight;
    }
    return sum;
}

/* Moves the fewest tokens whose weights reach top_p of the sum, best first, to the end of
 * [0, n). Returns how many. A heap finds them without sorting the whole vocabulary. */
static size_t cut_top_p(ofr_sampler *sampler, size_t n, double sum)
{
    candidate *heap = sampler->candidates;
    double target = (double)sampler->sampling.top_p * sum, cumulated = 0;
    size_t left = n;
    make_heap(heap, n, true);
    while (left > 0 && (left == n || cumulated < target)) {
        candidate best = heap[0];
        cumulated += best.weight;
        left--;
        heap[0] = heap[left];
        heap[left] = best;
        sift_down(heap, left, 0, true);
    }
    return n - left;
}

static int32_t greedy(const ofr_sampler *sampler, const float *logits)
{
    int32_t best = -1;
    float best_logit = 0;
    for (int32_t token = 0; token < sampler->vocab_size; token++) {
        float logit = penalized(sampler, logits, token);
        if (!isnan(logit) && (best < 0 || logit > best_logit)) {
            best = token;
            best_logit = logit;
        }
    }
    return best;
}

int ofr_sampler_sample(ofr_sampler *sampler, const float *logits, int32_t *ret_token,
                       ofr_error *err)
{
    if (sampler->sampling.temperature == 0) {
        int32_t token = greedy(sampler, logits);
        if (token < 0) {
            return ofr_fail(err, OFR_EDEVICE, "the device returned logits that are not numbers");
        }
        *ret_token = token;
        return 0;
    }
    size_t n = collect(sampler, logits);
    if (n == 0) {
        return ofr_fail(err, OFR_EDEVICE, "the device returned no usable logits");
    }
    double sum = weigh(sampler, n);
    candidate *kept = sampler->candidates;
    if (sampler->sampling.top_p < 1) {
        size_t count = cut_top_p(sampler, n, sum);
        kept += n - count;
        n = count;
    }
    size_t used = 0; /* min-p: the best weight is 1 */
    sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (kept[i].weight >= (double)sampler->sampling.min_p) {
            sum += kept[i].weight;
            kept[used++] = kept[i];
        }
    }
    double target = draw_uniform(sampler) * sum, cumulated = 0;
    size_t chosen = used - 1; /* where rounding leaves the sum short of the target */
    for (size_t i = 0; i < used; i++) {
        cumulated += kept[i].weight;
        if (target < cumulated) {
            chosen = i;
            break;
        }
    }
    *ret_token = kept[chosen].token;
    return 0;
}
