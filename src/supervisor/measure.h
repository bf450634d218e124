/* Timed forward calls over a sequence: what 'bench' and the measurement of a plan share. */
#ifndef OFR_SUPERVISOR_MEASURE_H
#define OFR_SUPERVISOR_MEASURE_H

#include "supervisor/sequence.h"
#include "tokenizer/tokenizer.h"

/* Where the measured tokens come from. */
typedef struct ofr_measure_source {
    const ofr_tokenizer *tokenizer; /* borrowed */
    int32_t vocab_size;
    uint64_t random;
    int32_t *ids; /* [count] of a text, the caller's; NULL: random tokens, no control tokens */
    size_t count, next; /* of ids */
} ofr_measure_source;

/* Random tokens of the vocabulary; `ids` may be set afterwards. */
void ofr_measure_source_init(ofr_measure_source *source, const ofr_tokenizer *tokenizer);

/* An empty past; of a text, another place. */
void ofr_measure_restart(ofr_sequence *sequence, ofr_measure_source *source);

/* `n` more tokens, forwarded together. *ret_ns (may be NULL) is the time from the first job to the
 * logits of the last token, *ret_logits (may be NULL) those logits, valid until the next call. A
 * worker that is lost meanwhile is OFR_EDEVICE; an interrupt OFR_ECANCELED. */
int ofr_measure_prefill(ofr_sequence *sequence, ofr_measure_source *source, int64_t n,
                        uint64_t *ret_ns, const float **ret_logits, ofr_error *err);
/* `n` more tokens, one after the other. */
int ofr_measure_decode(ofr_sequence *sequence, ofr_measure_source *source, int64_t n,
                       uint64_t *ret_ns, ofr_error *err);

/* Of n values, which are sorted in place; n is at least 1. */
double ofr_measure_median(double *values, size_t n);

#endif
