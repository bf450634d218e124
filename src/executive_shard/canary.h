/* Canaries: checks that tell a device that computes from one that returns garbage. */
#ifndef OFR_EXECUTIVE_SHARD_CANARY_H
#define OFR_EXECUTIVE_SHARD_CANARY_H

#include <stdbool.h>

#include "engine/backend.h"

/* True if no value is NaN or infinite. Cheap enough for the logits of every job. */
bool ofr_canary_finite(const float *values, size_t n);

/* A backend session that runs a part of the layers, in a slot of its own arena that nobody uses. */
typedef struct ofr_canary_part {
    const ofr_backend *backend;
    ofr_backend_session *session;
    uint32_t slot;
} ofr_canary_part;

/* Runs the package's golden prompt through the parts, one after the other, and compares what comes
 * out with what is expected: OFR_EDEVICE names the token that is wrong. Ties within half a logit
 * pass, since devices round differently. `hidden` is the stream between parts, in place, of
 * hidden_rows rows (NULL with one part). Overwrites the first rows of the slots. Without a golden
 * prompt, or with one longer than chunk_max, there is nothing to compare: 0. */
int ofr_canary_golden(const ofr_canary_part *parts, uint32_t n_parts, const ofr_golden *golden,
                      uint32_t vocab_size, uint32_t chunk_max, float *hidden, uint32_t hidden_rows,
                      ofr_error *err);

#endif
