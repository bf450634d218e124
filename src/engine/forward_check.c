/* The checks that all backends share. */
#include "engine/forward_check.h"

#include <string.h>

int ofr_backend_options_check(const ofr_backend_options *options, const char *backend,
                              ofr_error *err)
{
    const ofr_model_params *params = options->model->params;
    const ofr_kv_layout *kv = &options->kv_layout;
    bool empty = options->layer_begin == options->layer_end && options->layer_begin > 0 &&
                 options->layer_end < params->n_layers;
    if (options->layer_begin > options->layer_end || options->layer_end > params->n_layers ||
        empty) {
        return ofr_fail(err, OFR_EINVAL, "%s: layers %u to %u of a model that has %u", backend,
                        options->layer_begin, options->layer_end, params->n_layers);
    }
    if (kv->version != OFR_KV_LAYOUT_VERSION || kv->n_layers != params->n_layers ||
        kv->n_kv_heads != params->n_kv_heads || kv->head_dim != params->head_dim) {
        return ofr_fail(err, OFR_EINVAL, "%s: the KV layout is not of this model", backend);
    }
    if (options->kv_arena == NULL || (uintptr_t)options->kv_arena % 64 != 0) {
        return ofr_fail(err, OFR_EINVAL, "%s: the KV arena is not 64-byte aligned", backend);
    }
    if (options->max_batch_tokens == 0 || options->max_batch_tokens > 1U << 20) {
        return ofr_fail(err, OFR_EINVAL, "%s: batches of %u tokens; use 1 to %u", backend,
                        options->max_batch_tokens, 1U << 20);
    }
    return 0;
}

static int check_segments(const ofr_backend_options *options, const ofr_forward *forward,
                          const char *backend, uint8_t *slot_used, uint32_t *ret_tokens,
                          ofr_error *err)
{
    const ofr_kv_layout *kv = &options->kv_layout;
    uint64_t total = 0;
    memset(slot_used, 0, kv->n_slots);
    for (uint32_t i = 0; i < forward->n_segments; i++) {
        const ofr_segment *segment = &forward->segments[i];
        if (segment->slot >= kv->n_slots || segment->n_tokens == 0 ||
            segment->position >= kv->context ||
            segment->n_tokens > kv->context - segment->position) {
            return ofr_fail(err, OFR_EINVAL,
                            "%s: segment %u (slot %u, position %u, %u tokens) is outside "
                            "%u slots of %u tokens",
                            backend, i, segment->slot, segment->position, segment->n_tokens,
                            kv->n_slots, kv->context);
        }
        if (slot_used[segment->slot]) {
            return ofr_fail(err, OFR_EINVAL, "%s: slot %u is in two segments of one batch", backend,
                            segment->slot);
        }
        slot_used[segment->slot] = 1;
        total += segment->n_tokens;
    }
    if (total == 0 || total > options->max_batch_tokens) {
        return ofr_fail(err, OFR_EINVAL, "%s: a batch of %llu tokens; 1 to %u are allowed", backend,
                        (unsigned long long)total, options->max_batch_tokens);
    }
    *ret_tokens = (uint32_t)total;
    return 0;
}

static int check_candidates(const ofr_forward *forward, const char *backend,
                            bool chooses_candidates, ofr_error *err)
{
    if (!chooses_candidates) {
        return ofr_fail(err, OFR_EINVAL, "%s: gives logits, not candidates", backend);
    }
    if (forward->n_candidates == 0 || forward->n_candidates > OFR_CANDIDATES_MAX) {
        return ofr_fail(err, OFR_EINVAL, "%s: %u candidates; use 1 to %d", backend,
                        forward->n_candidates, OFR_CANDIDATES_MAX);
    }
    if (forward->candidates == NULL || forward->ret_finite == NULL) {
        return ofr_fail(err, OFR_EINVAL, "%s: the batch has no buffer for its output", backend);
    }
    return 0;
}

static int check_buffers(const ofr_backend_options *options, const ofr_forward *forward,
                         const char *backend, uint32_t n, ofr_error *err)
{
    const ofr_model_params *params = options->model->params;
    int64_t vocab = params->vocab_size;
    bool last_layer = options->layer_end == params->n_layers;
    bool wants_logits = forward->output == OFR_FORWARD_OUTPUT_LAST ||
                        forward->output == OFR_FORWARD_OUTPUT_ALL ||
                        forward->output == OFR_FORWARD_OUTPUT_HIDDEN_SUM;
    bool wants_logprobs = forward->output == OFR_FORWARD_OUTPUT_LOGPROBS;
    if (options->layer_begin == 0 ? forward->tokens == NULL : forward->hidden_in == NULL) {
        return ofr_fail(err, OFR_EINVAL, "%s: the batch has no %s", backend,
                        options->layer_begin == 0 ? "tokens" : "hidden states");
    }
    if ((!last_layer && forward->hidden_out == NULL) ||
        (last_layer && wants_logits && forward->logits == NULL) ||
        (last_layer && wants_logprobs && (forward->targets == NULL || forward->logprobs == NULL))) {
        return ofr_fail(err, OFR_EINVAL, "%s: the batch has no buffer for its output", backend);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (options->layer_begin == 0 && (forward->tokens[i] < 0 || forward->tokens[i] >= vocab)) {
            return ofr_fail(err, OFR_EINVAL,
                            "%s: token %d at %u of the batch is not in the vocabulary of %lld",
                            backend, forward->tokens[i], i, (long long)vocab);
        }
        if (last_layer && wants_logprobs &&
            (forward->targets[i] < -1 || forward->targets[i] >= vocab)) {
            return ofr_fail(err, OFR_EINVAL,
                            "%s: target %d at %u of the batch is not in the vocabulary of %lld",
                            backend, forward->targets[i], i, (long long)vocab);
        }
    }
    return 0;
}

int ofr_forward_check(const ofr_backend_options *options, const ofr_forward *forward,
                      const char *backend, bool chooses_candidates, uint8_t *slot_used,
                      uint32_t *ret_tokens, ofr_error *err)
{
    uint32_t n = 0;
    bool last_layer = options->layer_end == options->model->params->n_layers;
    int result = check_segments(options, forward, backend, slot_used, &n, err);
    if (result == 0) {
        result = check_buffers(options, forward, backend, n, err);
    }
    if (result == 0 && last_layer && forward->output == OFR_FORWARD_OUTPUT_CANDIDATES) {
        result = check_candidates(forward, backend, chooses_candidates, err);
    }
    if (result == 0) {
        *ret_tokens = n;
    }
    return result;
}
