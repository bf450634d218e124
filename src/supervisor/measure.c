/* Timed forward calls. */
#include "supervisor/measure.h"

#include <stdlib.h>
#include <sys/random.h>

#include "base/clock.h"
#include "supervisor/interrupt.h"

void ofr_measure_source_init(ofr_measure_source *source, const ofr_tokenizer *tokenizer)
{
    ofr_tokenizer_info info;
    ofr_tokenizer_get_info(tokenizer, &info);
    *source = (ofr_measure_source){.tokenizer = tokenizer, .vocab_size = info.vocab_size};
    if (getrandom(&source->random, sizeof source->random, 0) < 0)
        source->random = ofr_clock_ns();
}

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int32_t random_token(ofr_measure_source *source)
{
    int32_t token = 0;
    for (int attempt = 0; attempt < 64; attempt++) {
        token = (int32_t)(next_random(&source->random) % (uint64_t)source->vocab_size);
        if (!ofr_tokenizer_is_control(source->tokenizer, token))
            break;
    }
    return token;
}

static int32_t next_token(ofr_measure_source *source)
{
    if (!source->ids)
        return random_token(source);
    int32_t token = source->ids[source->next];
    source->next = (source->next + 1) % source->count;
    return token;
}

void ofr_measure_restart(ofr_sequence *sequence, ofr_measure_source *source)
{
    ofr_sequence_invalidate(sequence);
    sequence->n_tokens = 0;
    if (source->ids)
        source->next = next_random(&source->random) % source->count;
}

int ofr_measure_prefill(ofr_sequence *sequence, ofr_measure_source *source, int64_t n,
                        uint64_t *ret_ns, const float **ret_logits, ofr_error *err)
{
    ofr_prediction prediction = {0};
    uint32_t recoveries = sequence->recoveries;
    int r = 0;
    for (int64_t i = 0; r == 0 && i < n; i++)
        r = ofr_sequence_append(sequence, next_token(source), err);
    uint64_t begin = ofr_clock_ns();
    if (r == 0)
        r = ofr_sequence_forward(sequence, ofr_interrupt_flag(), 0, &prediction, err);
    if (r < 0)
        return r;
    if (ret_ns)
        *ret_ns = ofr_clock_ns() - begin;
    if (ret_logits)
        *ret_logits = prediction.logits;
    if (sequence->recoveries != recoveries)
        return ofr_fail(err, OFR_EDEVICE, "a worker was lost during the measurement; repeat it");
    return 0;
}

int ofr_measure_decode(ofr_sequence *sequence, ofr_measure_source *source, int64_t n,
                       uint64_t *ret_ns, ofr_error *err)
{
    int r = 0;
    uint64_t begin = ofr_clock_ns();
    for (int64_t i = 0; r == 0 && i < n; i++)
        r = ofr_measure_prefill(sequence, source, 1, NULL, NULL, err);
    if (r == 0)
        *ret_ns = ofr_clock_ns() - begin;
    return r;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double ofr_measure_median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}
