/* The arithmetic of the session segment's layout. */
#include "executive_shard/session_abi.h"

#include <inttypes.h>

enum { LAYOUT_VOCAB_MAX = 1 << 24, LAYOUT_CHUNK_MAX = 1 << 20 };

static uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) / alignment * alignment;
}

int ofr_session_layout_init(ofr_session_header *header, uint32_t n_workers, uint32_t n_slots,
                            uint32_t vocab_size, uint32_t chunk_max, uint32_t context,
                            ofr_error *err)
{
    /* With these bounds no sum or product below comes near 2^64. */
    if (n_workers == 0 || n_workers > OFR_SESSION_WORKERS_MAX || n_slots == 0 ||
        n_slots > OFR_SESSION_SEGMENTS_MAX || vocab_size == 0 || vocab_size > LAYOUT_VOCAB_MAX ||
        chunk_max == 0 || chunk_max > LAYOUT_CHUNK_MAX || context == 0)
        return ofr_fail(err, OFR_ELIMIT,
                        "no session for %" PRIu32 " workers, %" PRIu32 " slots (1 to %d), %" PRIu32
                        " tokens of vocabulary, chunks of %" PRIu32 " and a context of %" PRIu32,
                        n_workers, n_slots, OFR_SESSION_SEGMENTS_MAX, vocab_size, chunk_max,
                        context);
    ofr_session_header h = {
        .magic = OFR_SESSION_MAGIC,
        .abi_version = OFR_SESSION_ABI_VERSION,
        .header_bytes = OFR_SESSION_HEADER_BYTES,
        .n_slots = n_slots,
        .vocab_size = vocab_size,
        .chunk_max = chunk_max,
        .context = context,
        .n_workers = n_workers,
        .n_buffers = OFR_SESSION_BUFFERS,
    };
    uint64_t chunk_bytes = align_up((uint64_t)chunk_max * 4, OFR_RING_LINE);
    h.jobs_offset = OFR_SESSION_HEADER_BYTES;
    h.completions_offset =
        h.jobs_offset + ofr_ring_bytes(OFR_SESSION_RING_CAPACITY, sizeof(ofr_session_job));
    h.ring_stride =
        align_up(ofr_ring_bytes(OFR_SESSION_RING_CAPACITY, sizeof(ofr_session_job)) +
                     ofr_ring_bytes(OFR_SESSION_RING_CAPACITY, sizeof(ofr_session_completion)),
                 OFR_RING_LINE);
    h.buffer_stride = 3 * chunk_bytes;
    h.tokens_offset = h.jobs_offset + n_workers * h.ring_stride;
    h.targets_offset = h.tokens_offset + chunk_bytes;
    h.logprobs_offset = h.targets_offset + chunk_bytes;
    h.candidates_offset = h.tokens_offset + OFR_SESSION_BUFFERS * h.buffer_stride;
    uint64_t candidates = (uint64_t)n_slots * OFR_CANDIDATES_MAX * sizeof(ofr_candidate);
    h.logits_offset = align_up(h.candidates_offset + candidates, 4096);
    h.total_bytes = align_up(h.logits_offset + (uint64_t)n_slots * vocab_size * 4, 4096);
    *header = h;
    return 0;
}

int ofr_session_header_check(const ofr_session_header *expected, const ofr_session_header *found,
                             ofr_error *err)
{
    if (found->magic != expected->magic)
        return ofr_fail(err, OFR_EPROTOCOL, "the shared memory is no session segment");
    if (found->abi_version != expected->abi_version || found->features != 0)
        return ofr_fail(err, OFR_EVERSION,
                        "session layout version %" PRIu32 " (features %" PRIx64
                        "), this program knows %d; stop the executive and start it again",
                        found->abi_version, found->features, OFR_SESSION_ABI_VERSION);
    if (found->header_bytes != expected->header_bytes ||
        found->total_bytes != expected->total_bytes || found->n_slots != expected->n_slots ||
        found->vocab_size != expected->vocab_size || found->chunk_max != expected->chunk_max ||
        found->context != expected->context || found->jobs_offset != expected->jobs_offset ||
        found->completions_offset != expected->completions_offset ||
        found->tokens_offset != expected->tokens_offset ||
        found->targets_offset != expected->targets_offset ||
        found->logprobs_offset != expected->logprobs_offset ||
        found->logits_offset != expected->logits_offset ||
        found->candidates_offset != expected->candidates_offset ||
        found->n_workers != expected->n_workers || found->n_buffers != expected->n_buffers ||
        found->ring_stride != expected->ring_stride ||
        found->buffer_stride != expected->buffer_stride)
        return ofr_fail(err, OFR_EPROTOCOL,
                        "the session segment has another layout than announced");
    return 0;
}

void ofr_session_rings_init(void *base, const ofr_session_header *layout, uint32_t worker,
                            ofr_ring *ret_jobs, ofr_ring *ret_completions)
{
    char *bytes = (char *)base + worker * layout->ring_stride;
    ofr_ring_init(ret_jobs, bytes + layout->jobs_offset, OFR_SESSION_RING_CAPACITY,
                  sizeof(ofr_session_job));
    ofr_ring_init(ret_completions, bytes + layout->completions_offset, OFR_SESSION_RING_CAPACITY,
                  sizeof(ofr_session_completion));
}

uint64_t ofr_hidden_strip_bytes(uint32_t chunk_max, uint32_t d_model)
{
    return align_up((uint64_t)ofr_hidden_rows(chunk_max) * d_model * sizeof(float),
                    OFR_SESSION_HIDDEN_ALIGN);
}

uint64_t ofr_hidden_total_bytes(uint32_t chunk_max, uint32_t d_model)
{
    return ofr_hidden_strip_bytes(chunk_max, d_model) * 2 * OFR_SESSION_BUFFERS;
}
