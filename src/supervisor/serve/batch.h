/* Continuous batching: many sequences on the slots of one engine.
 *
 * One thread of the batch's own runs the loop. Each round it gives free slots to waiting sequences,
 * forwards one token of every sequence that decodes, and then a chunk of the prompts that are still
 * being prefilled, sized so that running answers do not stall. It is the only user of the engine.
 *
 * Where the plan has prompts and answers on different devices, both go on at once: one job of each
 * kind is on its way at a time, and a chunk is as large as suits its device. A prompt of which one
 * token is left joins the answers' jobs.
 *
 * Another plan is taken between two jobs; sequences go on from the rows that are left to them.
 *
 * A lost worker costs every sequence its K and V, not its tokens: all are prefilled again and go
 * on. A lost executive is replaced through `reconnect`.
 *
 * Waiting sequences are admitted by owner: the owner with the fewest running ones first, then the
 * one that has waited longest. */
#ifndef OFR_SUPERVISOR_SERVE_BATCH_H
#define OFR_SUPERVISOR_SERVE_BATCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "supervisor/sequence.h"

typedef struct ofr_batch ofr_batch;

/* Forward calls as for a sequence (sequence.h), and what only a batch needs. */
typedef struct ofr_batch_engine {
    ofr_engine engine;
    uint32_t n_slots;
    /* What the slot's strips hold; the contract of ofr_client_slot_tokens. */
    const int32_t *(*slot_tokens)(void *user, uint32_t slot, uint32_t *ret_n);
    /* Copies rows [0, n) between slots; NULL: cannot. OFR_EDEVICE as for run. */
    int (*copy)(void *user, uint32_t from, uint32_t to, uint32_t n, ofr_error *err);
    /* After OFR_EGONE: a new executive, every slot empty or as it says. NULL: cannot. The shape
     * (slots, context, chunk, vocabulary) must be the same. */
    int (*reconnect)(void *user, ofr_error *err);
    /* Whether prompts and answers are on different devices now; with engine.submit, engine.wait and
     * wait_any, which has the contract of ofr_client_wait_any. NULL: never. */
    bool (*overlaps)(void *user);
    int (*wait_any)(void *user, uint32_t *ret_ticket, ofr_error *err);
    /* Asked between jobs, and when the batch is woken: should another plan be taken now? `idle`: no
     * sequence runs or waits. Cheap. NULL: never. */
    bool (*plan_is_due)(void *user, bool idle);
    /* Then, with no job on its way. Strips keep what slot_tokens says afterwards. An error is that
     * of a lost executive. */
    int (*change_plan)(void *user, ofr_error *err);
} ofr_batch_engine;

/* What the batch counts; read at any time by any thread. */
typedef struct ofr_batch_counters {
    _Atomic uint64_t prompt_tokens;         /* of admitted sequences */
    _Atomic uint64_t reused_tokens;         /* of those, found in the strips */
    _Atomic uint64_t copied_tokens;         /* of those, copied from another slot */
    _Atomic uint64_t prefill_tokens;        /* forwarded in prefill jobs, repeated ones included */
    _Atomic uint64_t generated_tokens;      /* chosen */
    _Atomic uint64_t prefill_ns, decode_ns; /* inside jobs, as the batch sees them */
    _Atomic uint64_t decode_jobs;
    _Atomic uint64_t overlapped_jobs; /* decode jobs that ended while a prompt's job went on */
    _Atomic uint64_t last_token_ns;   /* CLOCK_MONOTONIC of the last token chosen; 0: none yet */
    _Atomic uint32_t running, waiting, prefilling;
    _Atomic uint32_t worker_losses, executive_losses;
    _Atomic uint64_t kv_tokens; /* rows that running sequences hold */
} ofr_batch_counters;

typedef struct ofr_batch_options {
    ofr_batch_engine engine;
    uint32_t waiting_max; /* sequences that may wait for a slot */
    uint64_t stall_ns;    /* most time of a prefill chunk while others decode; 0: 60 ms */
    void (*notify)(void *user, const char *line); /* lost workers; may be NULL */
    void *notify_user;
} ofr_batch_options;

/* What became of a sequence, told with its end. */
typedef struct ofr_batch_report {
    uint32_t n_prompt, n_reused;
    uint64_t queued_ns, prefill_ns; /* until a slot was free; from there to the first logits */
} ofr_batch_report;

/* A sequence to run. Callbacks run on the batch's thread and must not wait. */
typedef struct ofr_batch_request {
    const int32_t *tokens; /* [n_tokens >= 1, below the context]; copied */
    uint32_t n_tokens;
    uint64_t owner;              /* fairness: any value that stands for who asks */
    bool fresh;                  /* reuse nothing */
    bool first;                  /* before all others: probes */
    bool embed;                  /* no decoding: `embed_sum` gets what run gives, then the end */
    const atomic_bool *canceled; /* looked at between jobs; outlives the sequence; may be NULL */
    /* The prediction follows the tokens so far. *ret_token is the next one, or -1: the end. */
    int (*next)(void *user, const ofr_prediction *prediction, int32_t *ret_token, ofr_error *err);
    /* How many candidates are enough for the `next` that comes; 0: it needs logits. A job that
     * serves several gives as many as one of them wants, or logits. NULL: always 0. */
    uint32_t (*candidates_wanted)(void *user);
    /* embed: sums over the tokens of one chunk, [d_model]; `n` tokens from `position` on. Position
     * 0 again: a device was lost, all chunks come anew. */
    int (*embed_sum)(void *user, const float *sums, uint32_t position, uint32_t n, ofr_error *err);
    /* Exactly once, last: 0, OFR_ELIMIT (the context is full), OFR_ECANCELED, or why it failed. */
    void (*end)(void *user, int status, const ofr_error *err, const ofr_batch_report *report);
    void *user;
} ofr_batch_request;

int ofr_batch_new(const ofr_batch_options *options, ofr_batch **ret_batch, ofr_error *err);
/* Ends what runs with OFR_ECANCELED, joins the thread. Accepts NULL. */
ofr_batch *ofr_batch_free(ofr_batch *batch);

/* Any thread. All of the requests are accepted, or none. The second and later of one call are held
 * back until the first is prefilled where their tokens are the same, so that its rows can be
 * copied. OFR_EBUSY: too many wait; OFR_ELIMIT: a prompt leaves no room for a token. */
int ofr_batch_submit(ofr_batch *batch, const ofr_batch_request *requests, uint32_t n,
                     ofr_error *err);

/* The engine may have another plan to take (plan_is_due). Any thread. */
void ofr_batch_wake(ofr_batch *batch);

const ofr_batch_counters *ofr_batch_get_counters(const ofr_batch *batch);
/* Seconds until a slot is likely free, for Retry-After; at least 1. */
uint32_t ofr_batch_retry_after(const ofr_batch *batch);

/* One line of /status per slot; any thread. */
typedef struct ofr_batch_slot_status {
    const char *state; /* "free", "prefill", "decode" */
    uint32_t n_tokens; /* in the strips */
} ofr_batch_slot_status;
void ofr_batch_slots(ofr_batch *batch, ofr_batch_slot_status *ret_slots); /* [n_slots] */

#endif
