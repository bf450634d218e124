/* The sampler: penalties, the cuts of the candidate set, and the draw. Everything is computed in a
 * fixed order in double where sums are taken, so that a seed gives the same tokens everywhere. */
#include "engine/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A token this many temperatures below the best logit is never drawn: e^-30 of its weight. */
static const float NEGLIGIBLE = 30;

typedef struct candidate {
    ofr_candidate own;
    double weight;
} candidate;

struct ofr_sampler {
    ofr_sampling sampling;
    int32_t vocab_size;
    uint64_t random[4]; /* state of xoshiro256** */
    uint32_t *seen;     /* [vocab_size] occurrences within the window, owned */
    int32_t *window;    /* [repetition_window] ring of accepted tokens, owned; NULL: all count */
    uint32_t window_used, window_next;
    uint32_t *generated;   /* [vocab_size] occurrences; NULL: no penalty asks for them */
    ofr_logit_bias *bias;  /* [sampling.n_bias], owned */
    float *adjusted;       /* [vocab_size], owned; NULL until a stage changes logits */
    candidate *candidates; /* [vocab_size], owned; NULL where all is greedy */
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
    if (!isfinite(s->presence_penalty) || !isfinite(s->frequency_penalty)) {
        return ofr_fail(err, OFR_EINVAL, "presence_penalty and frequency_penalty must be finite");
    }
    for (uint32_t i = 0; i < s->n_bias; i++) {
        if (s->bias[i].token < 0 || s->bias[i].token >= vocab_size || isnan(s->bias[i].bias)) {
            return ofr_fail(err, OFR_EINVAL, "logit bias of token %d: tokens are from 0 to %d",
                            s->bias[i].token, vocab_size - 1);
        }
    }
    return 0;
}

static int allocate(ofr_sampler *sampler)
{
    const ofr_sampling *s = &sampler->sampling;
    size_t vocab = (size_t)sampler->vocab_size;
    bool failed = false;
    sampler->bias = NULL;
    sampler->seen = calloc(vocab, sizeof *sampler->seen);
    failed = failed || sampler->seen == NULL;
    if (s->temperature > 0) {
        sampler->candidates = calloc(vocab, sizeof *sampler->candidates);
        failed = failed || sampler->candidates == NULL;
    }
    if (s->repetition_window > 0) {
        sampler->window = calloc(s->repetition_window, sizeof *sampler->window);
        failed = failed || sampler->window == NULL;
    }
    if (s->presence_penalty != 0 || s->frequency_penalty != 0) {
        sampler->generated = calloc(vocab, sizeof *sampler->generated);
        failed = failed || sampler->generated == NULL;
    }
    if (s->n_bias > 0) {
        sampler->bias = calloc(s->n_bias, sizeof *sampler->bias);
        failed = failed || sampler->bias == NULL;
        if (sampler->bias != NULL) {
            memcpy(sampler->bias, s->bias, s->n_bias * sizeof *sampler->bias);
        }
    }
    return failed ? OFR_ENOMEM : 0;
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
    if (allocate(sampler) < 0) {
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
        free(sampler->generated);
        free(sampler->bias);
        free(sampler->adjusted);
        free(sampler->candidates);
        free(sampler);
    }
    return NULL;
}

void ofr_sampler_accept(ofr_sampler *sampler, int32_t token)
{
    if (token >= 0 && token < sampler->vocab_size && sampler->generated != NULL &&
        sampler->generated[token] < UINT32_MAX) {
        sampler->generated[token]++;
    }
    ofr_sampler_accept_prompt(sampler, token);
}

void ofr_sampler_accept_prompt(ofr_sampler *sampler, int32_t token)
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

/* *ret_logits: `logits`, or a copy that penalties, bias and mask have changed. */
static int adjust(ofr_sampler *sampler, const float *logits, const uint32_t *mask,
                  const float **ret_logits)
{
    const ofr_sampling *s = &sampler->sampling;
    bool repetition = s->repetition_penalty != 1;
    *ret_logits = logits;
    if (!repetition && sampler->generated == NULL && s->n_bias == 0 && mask == NULL) {
        return 0;
    }
    size_t vocab = (size_t)sampler->vocab_size;
    if (sampler->adjusted == NULL) {
        sampler->adjusted = malloc(vocab * sizeof *sampler->adjusted);
        if (sampler->adjusted == NULL) {
            return OFR_ENOMEM;
        }
    }
    float *changed = sampler->adjusted;
    memcpy(changed, logits, vocab * sizeof *changed);
    for (size_t i = 0; repetition && i < vocab; i++) {
        if (sampler->seen[i] > 0) {
            changed[i] = changed[i] > 0 ? changed[i] / s->repetition_penalty
                                        : changed[i] * s->repetition_penalty;
        }
    }
    for (size_t i = 0; sampler->generated != NULL && i < vocab; i++) {
        uint32_t count = sampler->generated[i];
        changed[i] -= count > 0 ? s->presence_penalty + (float)count * s->frequency_penalty : 0;
    }
    for (uint32_t i = 0; i < s->n_bias; i++) {
        changed[sampler->bias[i].token] += sampler->bias[i].bias;
    }
    for (size_t i = 0; mask != NULL && i < vocab; i++) {
        if ((mask[i / 32] >> (i % 32) & 1) == 0) {
            changed[i] = -INFINITY;
        }
    }
    *ret_logits = changed;
    return 0;
}

/* The largest logit that is a number; -INFINITY where there is none. */
static float largest_logit(const float *logits, int32_t n)
{
    enum { LANES = 32 };
    float lanes[LANES];
    for (int j = 0; j < LANES; j++) {
        lanes[j] = -INFINITY;
    }
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
        }
    }
    float best = -INFINITY;
    for (int j = 0; j < LANES; j++) {
        best = lanes[j] > best ? lanes[j] : best;
    }
    for (; i < n; i++) {
        best = logits[i] > best ? logits[i] : best;
    }
    return best;
}

static bool precedes(const candidate *a, const candidate *b)
{
    return ofr_candidate_precedes(&a->own, &b->own);
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

/* Best first. */
static void sort(candidate *kept, size_t n)
{
    make_heap(kept, n, false);
    while (n > 1) {
        candidate last = kept[0];
        kept[0] = kept[--n];
        kept[n] = last;
        sift_down(kept, n, 0, false);
    }
}

/* Not beside a token with the logit `best`, nor what is no number. */
static bool is_usable(const ofr_sampler *sampler, float logit, float best)
{
    float lowest = best - NEGLIGIBLE * sampler->sampling.temperature;
    return logit >= lowest && !(isinf(logit) && logit < 0);
}

/* Whether candidates can be enough, as far as the cuts are concerned. */
static bool keeps_few(const ofr_sampler *sampler)
{
    return sampler->sampling.top_k > 0 && sampler->sampling.top_k <= OFR_CANDIDATES_MAX;
}

/* Collects what can be drawn: all tokens with a usable logit, or the top_k of them. */
static size_t collect(ofr_sampler *sampler, const float *logits)
{
    candidate *kept = sampler->candidates;
    size_t limit = sampler->sampling.top_k > 0 ? sampler->sampling.top_k : SIZE_MAX;
    size_t n = 0;
    float best = largest_logit(logits, sampler->vocab_size);
    for (int32_t token = 0; token < sampler->vocab_size; token++) {
        candidate next = {.own = {token, logits[token]}};
        if (!is_usable(sampler, next.own.logit, best)) {
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
    if (keeps_few(sampler)) {
        sort(kept, n); /* the order in which candidates come: sums are rounded the same */
    }
    return n;
}

/* The same from candidates, which are all that `collect` could keep. */
static size_t collect_candidates(ofr_sampler *sampler, const ofr_candidate *candidates, size_t n)
{
    size_t used = 0, room = (size_t)sampler->vocab_size;
    for (; used < n && used < room && candidates[used].token != OFR_CANDIDATE_NONE &&
           is_usable(sampler, candidates[used].logit, candidates[0].logit);
         used++) {
        sampler->candidates[used] = (candidate){.own = candidates[used]};
    }
    return used;
}

/* Softmax weights at the temperature, relative to the best token, which has 1. Returns their sum.
 */
static double weigh(ofr_sampler *sampler, size_t n)
{
    candidate *kept = sampler->candidates;
    double temperature = (double)sampler->sampling.temperature, sum = 0;
    float best = kept[0].own.logit;
    for (size_t i = 1; i < n; i++) {
        best = kept[i].own.logit > best ? kept[i].own.logit : best;
    }
    for (size_t i = 0; i < n; i++) {
        /* An infinite best logit would give inf - inf: all infinite ones weigh the same. */
        double distance = kept[i].own.logit == best
                              ? 0
                              : ((double)kept[i].own.logit - (double)best) / temperature;
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
    float best = largest_logit(logits, sampler->vocab_size);
    for (int32_t token = 0; token < sampler->vocab_size; token++) {
        if (logits[token] == best) {
            return token;
        }
    }
    return -1;
}

/* Draws from the first n that were collected. */
static int draw(ofr_sampler *sampler, size_t n, int32_t *ret_token, ofr_error *err)
{
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
    *ret_token = kept[chosen].own.token;
    return 0;
}

/* The token that greedy sampling found; -1: none. */
static int give(int32_t token, int32_t *ret_token, ofr_error *err)
{
    if (token < 0) {
        return ofr_fail(err, OFR_EDEVICE, "the device returned logits that are not numbers");
    }
    *ret_token = token;
    return 0;
}

int ofr_sampler_sample(ofr_sampler *sampler, const float *logits, int32_t *ret_token,
                       ofr_error *err)
{
    return ofr_sampler_sample_masked(sampler, logits, NULL, ret_token, err);
}

int ofr_sampler_sample_masked(ofr_sampler *sampler, const float *logits, const uint32_t *mask,
                              int32_t *ret_token, ofr_error *err)
{
    if (adjust(sampler, logits, mask, &logits) < 0) {
        return ofr_fail(err, OFR_ENOMEM, "sampler: out of memory");
    }
    if (mask != NULL && isinf(largest_logit(logits, sampler->vocab_size)) &&
        largest_logit(logits, sampler->vocab_size) < 0) {
        return ofr_fail(err, OFR_EINVAL, "no token is allowed here");
    }
    if (sampler->sampling.temperature == 0) {
        return give(greedy(sampler, logits), ret_token, err);
    }
    return draw(sampler, collect(sampler, logits), ret_token, err);
}

uint32_t ofr_sampler_candidates_wanted(const ofr_sampler *sampler)
{
    const ofr_sampling *s = &sampler->sampling;
    if (s->repetition_penalty != 1 || sampler->generated != NULL || s->n_bias > 0) {
        return 0;
    }
    if (s->temperature == 0) {
        return 1;
    }
    return keeps_few(sampler) ? s->top_k : 0;
}

int ofr_sampler_sample_candidates(ofr_sampler *sampler, const ofr_candidate *candidates, uint32_t n,
                                  int32_t *ret_token, ofr_error *err)
{
    uint32_t wanted = ofr_sampler_candidates_wanted(sampler);
    if (wanted == 0 || n < wanted) {
        return ofr_fail(err, OFR_EINVAL, "the sampler has %u candidates and needs %s", n,
                        wanted == 0 ? "all logits" : "more");
    }
    if (sampler->sampling.temperature == 0) {
        return give(candidates[0].token, ret_token, err);
    }
    return draw(sampler, collect_candidates(sampler, candidates, wanted), ret_token, err);
}
