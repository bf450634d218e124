/* One sequence on one slot: its tokens, and how many of them the KV strips hold.
 *
 * The sequence is what survives a worker: tokens live here, K and V in the strips. When a worker
 * dies the strips are lost, and ofr_sequence_forward fills them again from the tokens.
 *
 * Forward calls go through a table of functions, so that tests can put a model of their own in
 * place of the executive. A sequence belongs to one thread. */
#ifndef OFR_SUPERVISOR_SEQUENCE_H
#define OFR_SUPERVISOR_SEQUENCE_H

#include <signal.h>
#include <stdint.h>

#include "base/status.h"
#include "executive_shard/client.h"

/* Where forward calls go. The functions have the contracts of those of ofr_client_ with their
 * names. */
typedef struct ofr_engine {
    int (*run)(void *user, const ofr_client_job *job, ofr_client_result *ret_result,
               ofr_error *err);
    const float *(*logits)(void *user, uint32_t row);
    /* NULL: whole logits are asked for whatever is enough. */
    const ofr_candidate *(*candidates)(void *user, uint32_t row);
    int (*wait_ready)(void *user, uint32_t timeout_ms, ofr_error *err);
    void *user;
    uint32_t context;         /* tokens a slot may hold */
    uint32_t chunk_max;       /* tokens of one job */
    uint32_t chunk_preferred; /* 0: chunk_max */
    uint32_t vocab_size;
    /* All may be NULL: then one job is on its way at a time, of chunk_preferred tokens. */
    int (*submit)(void *user, const ofr_client_job *job, uint32_t *ret_ticket, ofr_error *err);
    int (*wait)(void *user, uint32_t ticket, ofr_client_result *ret_result, ofr_error *err);
    uint32_t (*chunk)(void *user, uint32_t prompt_tokens);
} ofr_engine;

enum {
    OFR_SEQUENCE_MAX_RECOVERIES = 3, /* of a worker, while forwarding one set of tokens */
    OFR_SEQUENCE_READY_TIMEOUT_MS = 120000,
};

typedef struct ofr_sequence {
    ofr_engine engine;
    uint32_t slot;
    int32_t *tokens; /* [engine.context], owned */
    uint32_t n_tokens;
    uint32_t n_in_kv;    /* the first n_in_kv tokens are in the strips; <= n_tokens */
    uint8_t *job_begins; /* [engine.context], owned: 1 where a job began; valid below n_in_kv and
                            n_replayed */
    uint32_t n_replayed; /* tokens that a lost worker held: they are forwarded in the same jobs
                            again, since another split rounds differently and a near-tie would end
                            in another text */
    uint64_t worker_ns;  /* time inside the backend, all calls together */
    uint64_t forwarded;  /* tokens forwarded, all calls together, repeated ones included */
    uint32_t recoveries; /* workers lost and waited for */
    /* Told that a worker was lost and is being waited for; may be NULL. */
    void (*notify)(void *user, const char *line);
    void *notify_user;
} ofr_sequence;

int ofr_sequence_init(ofr_sequence *sequence, const ofr_engine *engine, uint32_t slot,
                      ofr_error *err);
void ofr_sequence_done(ofr_sequence *sequence);

/* Makes `tokens` [n >= 1] the sequence. What the strips hold is kept as far as it is a prefix of
 * them, less the last token, which must be forwarded for its logits. *ret_reused (may be NULL) is
 * the number of tokens kept. OFR_ELIMIT if n exceeds the context. */
int ofr_sequence_set(ofr_sequence *sequence, const int32_t *tokens, uint32_t n,
                     uint32_t *ret_reused, ofr_error *err);
/* One token more. OFR_ELIMIT if the context is full. */
int ofr_sequence_append(ofr_sequence *sequence, int32_t token, ofr_error *err);
/* Forgets what the strips hold. */
void ofr_sequence_invalidate(ofr_sequence *sequence);

/* Forwards what is not in the strips yet, in chunks; two of them are on their way at a time where
 * the engine can, so that one device works on the next while another works on the last.
 * *ret_prediction follows the last token and is valid until the next call: n_candidates are enough
 * for it, or (0) it has logits. `cancel` (may be NULL)
 * is looked at before each chunk: OFR_ECANCELED keeps what was forwarded. A worker that dies is
 * waited for and everything is forwarded again, at most OFR_SEQUENCE_MAX_RECOVERIES times. */
int ofr_sequence_forward(ofr_sequence *sequence, const volatile sig_atomic_t *cancel,
                         uint32_t n_candidates, ofr_prediction *ret_prediction, ofr_error *err);

#endif
