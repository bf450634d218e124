/* NaN and golden-prompt checks of a backend's logits. */
#include "executive_shard/canary.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const float NEAR_TIE = 0.5F;

bool ofr_canary_finite(const float *values, size_t n)
{
    uint32_t all = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        /* An exponent of all ones is infinity or NaN; adding 1 to it carries into the sign's place.
         */
        all |= (bits & 0x7fffffffU) + 0x00800000U;
    }
    return (all & 0x80000000U) == 0;
}

static int check_row(const float *logits, uint32_t vocab_size, int32_t expected, size_t at,
                     ofr_error *err)
{
    if (!ofr_canary_finite(logits, vocab_size))
        return ofr_fail(err, OFR_EDEVICE, "the golden prompt gives logits that are not numbers");
    if (expected < 0 || (uint32_t)expected >= vocab_size)
        return ofr_fail(err, OFR_EFORMAT, "golden.json expects token %" PRId32 " of %" PRIu32,
                        expected, vocab_size);
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab_size; i++)
        if (logits[i] > logits[best])
            best = i;
    if (logits[best] - logits[expected] > NEAR_TIE)
        return ofr_fail(err, OFR_EDEVICE,
                        "wrong logits: the golden prompt gives token %" PRIu32 " at place %zu, not "
                        "%" PRId32,
                        best, at, expected);
    return 0;
}

static int forward_parts(const ofr_canary_part *parts, uint32_t n_parts, ofr_forward *forward,
                         ofr_segment *segment, ofr_error *err)
{
    int r = 0;
    for (uint32_t i = 0; i < n_parts && r == 0; i++) {
        segment->slot = parts[i].slot;
        r = parts[i].backend->forward(parts[i].session, forward, err);
    }
    return r;
}

int ofr_canary_golden(const ofr_canary_part *parts, uint32_t n_parts, const ofr_golden *golden,
                      uint32_t vocab_size, uint32_t chunk_max, float *hidden, uint32_t hidden_rows,
                      ofr_error *err)
{
    if (!golden || golden->n_prompt == 0 || golden->n_prompt > chunk_max)
        return 0;
    float *logits = malloc(vocab_size * sizeof *logits);
    if (!logits)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the golden prompt");
    ofr_segment segment = {.n_tokens = (uint32_t)golden->n_prompt};
    const int32_t *tokens = golden->prompt_ids;
    int r = 0;
    for (size_t i = 0; i < golden->n_expected && r == 0; i++) {
        ofr_forward forward = {.segments = &segment,
                               .n_segments = 1,
                               .tokens = tokens,
                               .hidden_in = hidden,
                               .hidden_out = hidden,
                               .hidden_rows = hidden_rows,
                               .output = OFR_FORWARD_OUTPUT_LAST,
                               .logits = logits};
        r = forward_parts(parts, n_parts, &forward, &segment, err);
        if (r == 0)
            r = check_row(logits, vocab_size, golden->expected_ids[i], i, err);
        segment.position += segment.n_tokens;
        segment.n_tokens = 1;
        tokens = &golden->expected_ids[i];
    }
    free(logits);
    return r;
}
