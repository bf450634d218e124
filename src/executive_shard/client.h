/* The executive as its clients see it: find or start it, attach, submit work, read logits.
 *
 * Control messages go over the executive's Unix socket (control.h); jobs and completions go
 * straight to the worker processes through single-producer single-consumer rings in shared memory
 * (session_abi.h), so the executive is not in the token loop. Token ids, logits and
 * log-probabilities are read and written in the shared segments in place.
 *
 * The plan says which workers a job goes through. Where layers are split, the client hands the job
 * from one worker to the next while it waits; the residual stream stays where it is. Several jobs
 * may be on their way: the chunks of a prompt follow each other through the workers, and a prompt
 * on one device goes on while another device decodes.
 *
 * A client belongs to one thread. A background thread of its own watches the control socket, so
 * that a wait ends at once when a worker or the executive dies. */
#ifndef OFR_EXECUTIVE_SHARD_CLIENT_H
#define OFR_EXECUTIVE_SHARD_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"
#include "engine/backend.h"

typedef struct ofr_client ofr_client;

typedef struct ofr_client_options {
    const char *package_directory;
    const char *instance; /* NULL: derived from the package's real path */
    const char *plan;     /* plan.h's text form; NULL: "auto", what the executive has chosen */
    bool start;           /* start an executive when none serves the package */
    const char *executive_path; /* program to start; NULL: executive_shard beside this program */
    uint32_t threads;           /* passed to an executive that is started; 0: its default */
    uint32_t context;           /* likewise; 0: default */
    uint32_t slots;             /* likewise; 0: what memory allows */
    const char *cache_dir;      /* likewise; NULL: KV ends with the executive */
    /* Told what is happening ("starting an executive ..."), for stderr; may be NULL. */
    void (*notify)(void *user, const char *line);
    /* Told, on a thread of the client's own, that ofr_client_take_conditions has something to say:
     * for an owner that waits for something else meanwhile. May be NULL; must not wait. */
    void (*conditions_changed)(void *user);
    void *user;
} ofr_client_options;

typedef struct ofr_client_info {
    pid_t executive_pid;
    char instance[64];
    char package_fingerprint[65];
    char device[512]; /* "cpu: AMD EPYC ..., 2 threads, avx512-vnni"; all of the plan's */
    char plan[512];   /* "prefill=cpu,decode=cpu": as it is, after devices were refused */
    uint32_t n_slots;
    uint32_t context;         /* tokens a slot may hold */
    uint32_t chunk_max;       /* tokens of one job */
    uint32_t chunk_preferred; /* tokens of a job that suit a long prompt best */
    uint32_t vocab_size;
    uint32_t n_workers;
    bool started; /* this call started the executive */
} ofr_client_info;

/* Connects and attaches; returns once the plan's workers are ready. Errors: OFR_ENOENT no executive
 * and `start` is false, or the plan names a device that is absent; OFR_EINVAL the plan is none;
 * OFR_EBUSY another client is attached (the text names program and pid); OFR_EVERSION,
 * OFR_EPROTOCOL; whatever made a started executive fail, in its own words. */
int ofr_client_connect(const ofr_client_options *options, ofr_client **ret_client, ofr_error *err);
ofr_client *ofr_client_close(ofr_client *client);
const ofr_client_info *ofr_client_get_info(const ofr_client *client);

/* One forward call. Tokens and targets are copied into a shared buffer. ALL is not offered. */
typedef struct ofr_client_job {
    const ofr_segment *segments;
    uint32_t n_segments;
    const int32_t *tokens;  /* all segments' tokens in order */
    const int32_t *targets; /* LOGPROBS only */
    enum ofr_forward_output output;
    uint32_t n_candidates; /* CANDIDATES only: 1 to OFR_CANDIDATES_MAX */
    /* Length of the prompt that this is a piece of: the plan's route for prompts may depend on it.
     * 0: the job's own tokens. A job whose segments have one token each takes the route of
     * decoding. */
    uint32_t prompt_tokens;
} ofr_client_job;

typedef struct ofr_client_result {
    uint64_t worker_ns; /* time inside backends */
    /* LAST: [n_segments, vocab_size]; HIDDEN_SUM (one segment only): [d_model]. Valid until the
     * next job of the same kind (prompt or decoding) is submitted. Else NULL. */
    const float *logits;
    const float *logprobs; /* LOGPROBS: one per token; valid until the next submit. Else NULL */
    const ofr_candidate *candidates; /* CANDIDATES: row 0 of ofr_client_candidates. Else NULL */
} ofr_client_result;

enum { OFR_CLIENT_JOBS_MAX = 4 };

/* Puts a job on its way; *ret_ticket stands for it until ofr_client_wait. At most
 * OFR_CLIENT_JOBS_MAX are on their way, and no slot is in two of them, but for pieces of one prompt
 * in order. Jobs that a worker gets are done in the order of submission. OFR_EBUSY: too many. */
int ofr_client_submit(ofr_client *client, const ofr_client_job *job, uint32_t *ret_ticket,
                      ofr_error *err);
/* Waits for the job. OFR_EDEVICE: a worker died or was refused; the KV of every slot is lost, and
 * so are all jobs; the caller fills it again from position 0, once ofr_client_wait_ready returns.
 * OFR_EGONE: the executive died. OFR_EPROTOCOL: candidates that none can be. Other codes: what the
 * worker answered. Ends the ticket. */
int ofr_client_wait(ofr_client *client, uint32_t ticket, ofr_client_result *ret_result,
                    ofr_error *err);
/* Waits until one of the jobs on their way is done: ofr_client_wait will not wait for it. Errors
 * are those of a lost worker or executive. */
int ofr_client_wait_any(ofr_client *client, uint32_t *ret_ticket, ofr_error *err);
/* Hands jobs on without waiting; true if this one is done, or its worker is lost. */
bool ofr_client_poll(ofr_client *client, uint32_t ticket);
/* submit + wait. */
int ofr_client_run(ofr_client *client, const ofr_client_job *job, ofr_client_result *ret_result,
                   ofr_error *err);
/* After OFR_EDEVICE: waits until the plan's workers are ready; the plan may be another one. */
int ofr_client_wait_ready(ofr_client *client, uint32_t timeout_ms, ofr_error *err);
/* Row of the logits of the job that was waited for last. */
const float *ofr_client_logits(const ofr_client *client, uint32_t row); /* [vocab_size] */
/* Row of its candidates, [n_candidates], checked as ofr_candidates_check does; the client's own
 * copy, valid until another job is waited for. */
const ofr_candidate *ofr_client_candidates(const ofr_client *client, uint32_t row);
/* Tokens of a job that suit a prompt of that length best. */
uint32_t ofr_client_chunk(const ofr_client *client, uint32_t prompt_tokens);

/* Copies the first `n` rows of K and V of slot `from` to slot `to`, which no job on its way uses;
 * waits for it. Errors as for
 * ofr_client_wait. Counted in the executive's handoff_bytes_copied. */
int ofr_client_copy(ofr_client *client, uint32_t from, uint32_t to, uint32_t n, ofr_error *err);

/* The tokens whose K and V the slot's strips hold: what this client forwarded, and at first what
 * earlier clients left there. Valid until the slot is part of a job, or a worker is lost. */
const int32_t *ofr_client_slot_tokens(const ofr_client *client, uint32_t slot, uint32_t *ret_n);

/* Whether a device's condition changed since the last call (it throttles, runs out of memory, is
 * well again): what was said of it is told now, and a plan that was chosen may be chosen again.
 * Between jobs. */
bool ofr_client_take_conditions(ofr_client *client);

/* Figures of the executive and its workers, as `executive_shard status --json` prints them:
 * resident bytes, handoff_bytes_copied, restarts, ... *ret_json is malloc'ed. */
int ofr_client_status(ofr_client *client, char **ret_json, ofr_error *err);
/* The same of any executive, by its instance's name; any thread. */
int ofr_client_instance_status(const char *instance, char **ret_json, ofr_error *err);

#endif
