/* The session segment: what a client and the workers of its plan share while it is attached. Layout
 * version 4, little-endian, offsets from the segment's base; documentation/shared_memory.md
 * explains it.
 *
 *      0  header            OFR_SESSION_HEADER_BYTES, written by the executive before anyone maps
 *   4096  rings             [n_workers] of ring_stride bytes, each
 *           job ring          client -> worker, OFR_SESSION_RING_CAPACITY of ofr_session_job
 *           completion ring   worker -> client, as many of ofr_session_completion
 *      …  buffers           [OFR_SESSION_BUFFERS] of buffer_stride bytes, each
 *           tokens            [chunk_max] i32, written by the client
 *           targets           [chunk_max] i32, written by the client
 *           logprobs          [chunk_max] f32, written by a worker
 *      …  candidates        [n_slots, OFR_CANDIDATES_MAX] of ofr_candidate, written by workers
 *      …  logits            [n_slots, vocab_size] f32, written by workers
 *
 * Every part starts on a 64-byte boundary, the logits on a page.
 *
 * A segment serves one client and one set of workers; after the client or one of them ends, a new
 * one is made. All sides compute the layout from the figures they were told over their sockets,
 * compare the header with it once, and never read the header again.
 *
 * A client waits for all its workers at one bell, that of worker 0's completion ring: a worker
 * rings it after it has put a completion into its own ring.
 *
 * The hidden segment is beside it: the residual streams that cross from one worker to the next,
 *     [OFR_SESSION_BUFFERS][2][2 * chunk_max, d_model] fp32
 * strips of OFR_SESSION_HIDDEN_ALIGN bytes' multiples. Only workers map it, once, for as long as
 * they live: devices that share host memory work in it in place. */
#ifndef OFR_EXECUTIVE_SHARD_SESSION_ABI_H
#define OFR_EXECUTIVE_SHARD_SESSION_ABI_H

#include <stddef.h>
#include <stdint.h>

#include "base/ring.h"
#include "base/status.h"
#include "engine/candidates.h"

#define OFR_SESSION_MAGIC UINT64_C(0x4e4f49535345534f) /* "OSESSION" */
#define OFR_BOARD_MAGIC   UINT64_C(0x4452414f4252464f) /* "OFRBOARD" */

enum {
    OFR_SESSION_ABI_VERSION = 4,
    OFR_SESSION_HEADER_BYTES = 4096,
    OFR_SESSION_RING_CAPACITY = 8,
    OFR_SESSION_BUFFERS = 4,     /* jobs that may be on their way at once */
    OFR_SESSION_WORKERS_MAX = 8, /* of one plan */
    OFR_SESSION_HIDDEN_ALIGN = 4096,
    OFR_SESSION_SEGMENTS_MAX = 64, /* slots, and segments of one job */
    OFR_SESSION_TEXT_BYTES = 232,
};

typedef struct ofr_session_header {
    uint64_t magic;
    uint32_t abi_version;
    uint32_t header_bytes;
    uint64_t total_bytes;
    uint32_t owner_pid;  /* of the executive */
    uint32_t generation; /* of the set of workers, from 1 */
    uint32_t n_slots;
    uint32_t vocab_size;
    uint32_t chunk_max;
    uint32_t context;
    uint64_t jobs_offset;
    uint64_t completions_offset;
    uint64_t tokens_offset;
    uint64_t targets_offset;
    uint64_t logprobs_offset;
    uint64_t logits_offset;
    uint64_t features; /* 0; a bit that is not known is refused */
    uint32_t n_workers;
    uint32_t n_buffers;
    uint64_t ring_stride;   /* jobs_offset and completions_offset are worker 0's */
    uint64_t buffer_stride; /* tokens_offset and the like are buffer 0's */
    uint64_t candidates_offset;
} ofr_session_header;

enum ofr_session_job_kind {
    OFR_SESSION_JOB_FORWARD,
    /* Rows [0, segments[1].n_tokens) of slot segments[1].slot are copied to segments[0].slot, which
     * has the same n_tokens; n_segments is 2, positions and the job's n_tokens are 0. */
    OFR_SESSION_JOB_COPY,
};

typedef struct ofr_session_job {
    uint64_t sequence; /* chosen by the client, returned in the completion */
    uint32_t output;   /* enum ofr_forward_output */
    uint32_t n_segments;
    uint32_t n_tokens; /* of all segments together */
    uint32_t kind;     /* enum ofr_session_job_kind */
    struct {
        uint32_t slot, position, n_tokens;
    } segments[OFR_SESSION_SEGMENTS_MAX];
    /* The layers to run, as the worker was told to open them; layer_end 0: to the last. */
    uint32_t layer_begin, layer_end;
    uint32_t buffer;       /* of tokens, targets, logprobs and hidden strips */
    uint32_t first_row;    /* of logits and candidates: row first_row + i is segment i's */
    uint32_t hidden_in;    /* which of the buffer's two strips the stream is in, 0 or 1 */
    uint32_t hidden_out;   /* and where it goes; the same: in place */
    uint32_t n_candidates; /* of a row, with OFR_FORWARD_OUTPUT_CANDIDATES */
    uint32_t padding[3];
} ofr_session_job;

typedef struct ofr_session_completion {
    uint64_t sequence;
    int32_t status; /* 0 or OFR_E* */
    uint32_t reserved;
    uint64_t worker_ns;                /* time inside the backend */
    char text[OFR_SESSION_TEXT_BYTES]; /* why it failed; NUL-terminated */
} ofr_session_completion;

_Static_assert(sizeof(ofr_session_header) == 136, "session layout");
_Static_assert(offsetof(ofr_session_header, total_bytes) == 16, "session layout");
_Static_assert(offsetof(ofr_session_header, n_slots) == 32, "session layout");
_Static_assert(offsetof(ofr_session_header, jobs_offset) == 48, "session layout");
_Static_assert(offsetof(ofr_session_header, features) == 96, "session layout");
_Static_assert(offsetof(ofr_session_header, ring_stride) == 112, "session layout");
_Static_assert(offsetof(ofr_session_header, candidates_offset) == 128, "session layout");
_Static_assert(sizeof(ofr_session_job) == 832, "session layout");
_Static_assert(offsetof(ofr_session_job, segments) == 24, "session layout");
_Static_assert(offsetof(ofr_session_job, layer_begin) == 792, "session layout");
_Static_assert(offsetof(ofr_session_job, n_candidates) == 816, "session layout");
_Static_assert(sizeof(ofr_session_completion) == 256, "session layout");
_Static_assert(offsetof(ofr_session_completion, text) == 24, "session layout");

/* Fills a header from the five figures; overflow-checked. The layout's offsets are then those of
 * the header. */
int ofr_session_layout_init(ofr_session_header *header, uint32_t n_workers, uint32_t n_slots,
                            uint32_t vocab_size, uint32_t chunk_max, uint32_t context,
                            ofr_error *err);

/* Compares what a segment says of itself with the layout that is expected; owner_pid and
 * generation are not compared. */
int ofr_session_header_check(const ofr_session_header *expected, const ofr_session_header *found,
                             ofr_error *err);

/* Pointers into a mapped segment; `buffer` is below OFR_SESSION_BUFFERS. */
static inline void *ofr_session_part(void *base, const ofr_session_header *layout, uint64_t offset,
                                     uint32_t buffer)
{
    return (char *)base + offset + buffer * layout->buffer_stride;
}
static inline int32_t *ofr_session_tokens(void *base, const ofr_session_header *layout,
                                          uint32_t buffer)
{
    return ofr_session_part(base, layout, layout->tokens_offset, buffer);
}
static inline int32_t *ofr_session_targets(void *base, const ofr_session_header *layout,
                                           uint32_t buffer)
{
    return ofr_session_part(base, layout, layout->targets_offset, buffer);
}
static inline float *ofr_session_logprobs(void *base, const ofr_session_header *layout,
                                          uint32_t buffer)
{
    return ofr_session_part(base, layout, layout->logprobs_offset, buffer);
}
static inline float *ofr_session_logits(void *base, const ofr_session_header *layout)
{
    return (float *)(void *)((char *)base + layout->logits_offset);
}
/* Row i is at i * OFR_CANDIDATES_MAX; a job's first n_candidates of it are written. */
static inline ofr_candidate *ofr_session_candidates(void *base, const ofr_session_header *layout)
{
    return (ofr_candidate *)(void *)((char *)base + layout->candidates_offset);
}
/* The rings of one worker. */
void ofr_session_rings_init(void *base, const ofr_session_header *layout, uint32_t worker,
                            ofr_ring *ret_jobs, ofr_ring *ret_completions);
/* What a client that waits sleeps on. */
static inline ofr_ring_header *ofr_session_bell(void *base, const ofr_session_header *layout)
{
    return (ofr_ring_header *)(void *)((char *)base + layout->completions_offset);
}

/* The hidden segment. */
static inline uint32_t ofr_hidden_rows(uint32_t chunk_max)
{
    return 2 * chunk_max; /* the last piece of a chunk may be padded to a chunk of its own */
}
uint64_t ofr_hidden_strip_bytes(uint32_t chunk_max, uint32_t d_model);
uint64_t ofr_hidden_total_bytes(uint32_t chunk_max, uint32_t d_model);

/* The board: one page per worker, written by the worker and read by the executive with pread(), so
 * that neither a truncated segment nor anything written there can harm the executive. Clients never
 * see it. */
enum ofr_board_state {
    OFR_BOARD_STATE_STARTING,
    OFR_BOARD_STATE_IDLE,
    OFR_BOARD_STATE_BUSY,
};

typedef struct ofr_board {
    uint64_t magic;
    uint32_t abi_version;
    uint32_t worker_pid;
    _Atomic uint64_t heartbeat_ns; /* CLOCK_MONOTONIC of the last change of state */
    _Atomic uint64_t progress; /* adds 1 at the begin and the end of each job and after a layer */
    _Atomic uint64_t jobs;     /* completed without an error */
    _Atomic uint64_t tokens;
    _Atomic uint64_t busy_ns; /* inside the backend */
    _Atomic uint64_t handoff_bytes_copied;
    _Atomic uint32_t state;          /* enum ofr_board_state */
    _Atomic uint32_t preparing;      /* not 0: something is compiled for its first use */
    _Atomic uint64_t decode_tokens;  /* of `tokens`, those that were alone in their segment */
    _Atomic uint64_t graph_kv_bytes; /* K and V that graphs converted or moved inside a device */
    /* Rows that came from the device: whole logits, or only the candidates that it chose. */
    _Atomic uint64_t logit_rows, candidate_rows;
} ofr_board;

enum { OFR_BOARD_BYTES = 4096 };
_Static_assert(sizeof(_Atomic uint64_t) == 8, "board layout");
_Static_assert(sizeof(ofr_board) == 104, "board layout");
_Static_assert(offsetof(ofr_board, heartbeat_ns) == 16, "board layout");
_Static_assert(offsetof(ofr_board, state) == 64, "board layout");

#endif
