/* One sequence on one slot: prefix reuse, chunks, and filling the strips again after a fault. */
#include "supervisor/sequence.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ofr_sequence_init(ofr_sequence *sequence, const ofr_engine *engine, uint32_t slot,
                      ofr_error *err)
{
    *sequence = (ofr_sequence){.engine = *engine, .slot = slot};
    if (engine->context == 0 || engine->chunk_max == 0)
        return ofr_fail(err, OFR_EPROTOCOL,
                        "the executive offers a context of %u tokens and chunks of %u",
                        engine->context, engine->chunk_max);
    sequence->tokens = calloc(engine->context, sizeof *sequence->tokens);
    sequence->job_begins = calloc(engine->context, sizeof *sequence->job_begins);
    if (!sequence->tokens || !sequence->job_begins) {
        ofr_sequence_done(sequence);
        return ofr_fail(err, OFR_ENOMEM, "no memory for a sequence of %u tokens", engine->context);
    }
    return 0;
}

void ofr_sequence_done(ofr_sequence *sequence)
{
    free(sequence->tokens);
    free(sequence->job_begins);
    *sequence = (ofr_sequence){0};
}

int ofr_sequence_set(ofr_sequence *sequence, const int32_t *tokens, uint32_t n,
                     uint32_t *ret_reused, ofr_error *err)
{
    if (n == 0)
        return ofr_fail(err, OFR_EINVAL, "there is nothing to forward: the prompt has no tokens");
    if (n > sequence->engine.context)
        return ofr_fail(err, OFR_ELIMIT, "%u tokens do not fit into a context of %u", n,
                        sequence->engine.context);
    uint32_t kept = 0;
    while (kept < sequence->n_in_kv && kept + 1 < n && sequence->tokens[kept] == tokens[kept])
        kept++;
    memcpy(sequence->tokens, tokens, n * sizeof *tokens);
    sequence->n_tokens = n;
    sequence->n_in_kv = kept;
    sequence->n_replayed = 0;
    if (ret_reused)
        *ret_reused = kept;
    return 0;
}

int ofr_sequence_append(ofr_sequence *sequence, int32_t token, ofr_error *err)
{
    if (sequence->n_tokens == sequence->engine.context)
        return ofr_fail(err, OFR_ELIMIT, "the context of %u tokens is full",
                        sequence->engine.context);
    sequence->tokens[sequence->n_tokens++] = token;
    return 0;
}

void ofr_sequence_invalidate(ofr_sequence *sequence)
{
    sequence->n_in_kv = 0;
    sequence->n_replayed = 0;
}

enum { JOBS_MAX = 2 };

/* A chunk on its way. */
struct chunk_job {
    uint32_t ticket, begin, n_tokens;
    ofr_client_result result; /* where the engine only runs: it is done already */
};

/* Tokens of the job that begins at `begin`: as the lost worker was given them, then by the engine's
 * chunks. */
static uint32_t next_job_tokens(const ofr_sequence *sequence, uint32_t begin, uint32_t chunk)
{
    uint32_t end = begin < sequence->n_replayed ? sequence->n_replayed : sequence->n_tokens;
    if (end - begin > chunk)
        end = begin + chunk;
    for (uint32_t i = begin + 1; begin < sequence->n_replayed && i < end; i++)
        if (sequence->job_begins[i])
            return i - begin;
    return end - begin;
}

static uint32_t choose_chunk(const ofr_sequence *sequence)
{
    const ofr_engine *engine = &sequence->engine;
    uint32_t left = sequence->n_tokens - sequence->n_in_kv;
    uint32_t chunk = engine->chunk ? engine->chunk(engine->user, left) : engine->chunk_preferred;
    return chunk && chunk < engine->chunk_max ? chunk : engine->chunk_max;
}

/* `length` of the prompt, `chunk` tokens at most; the last gives candidates, or (0) logits. */
static int begin_job(ofr_sequence *sequence, uint32_t begin, uint32_t length, uint32_t chunk,
                     uint32_t n_candidates, struct chunk_job *ret, ofr_error *err)
{
    const ofr_engine *engine = &sequence->engine;
    ofr_segment segment = {
        .slot = sequence->slot,
        .position = begin,
        .n_tokens = next_job_tokens(sequence, begin, chunk),
    };
    ofr_client_job job = {
        .segments = &segment,
        .n_segments = 1,
        .tokens = sequence->tokens + begin,
        .output = OFR_FORWARD_OUTPUT_NONE,
        .n_candidates = n_candidates,
        .prompt_tokens = length,
    };
    if (begin + segment.n_tokens == sequence->n_tokens)
        job.output = n_candidates ? OFR_FORWARD_OUTPUT_CANDIDATES : OFR_FORWARD_OUTPUT_LAST;
    *ret = (struct chunk_job){.begin = begin, .n_tokens = segment.n_tokens};
    return engine->submit ? engine->submit(engine->user, &job, &ret->ticket, err)
                          : engine->run(engine->user, &job, &ret->result, err);
}

static int end_job(ofr_sequence *sequence, struct chunk_job *job, ofr_error *err)
{
    const ofr_engine *engine = &sequence->engine;
    int r = engine->submit ? engine->wait(engine->user, job->ticket, &job->result, err) : 0;
    if (r < 0)
        return r;
    memset(sequence->job_begins + job->begin, 0, job->n_tokens);
    sequence->job_begins[job->begin] = 1;
    sequence->n_in_kv += job->n_tokens;
    sequence->forwarded += job->n_tokens;
    sequence->worker_ns += job->result.worker_ns;
    return 0;
}

/* Jobs of one device are done in order; one of another device must not begin before the rows that
 * it reads are there: what is replayed changes between prompts and decoding, and so does one token.
 */
static bool must_wait(const ofr_sequence *sequence, uint32_t begin, uint32_t chunk)
{
    return sequence->n_in_kv < sequence->n_replayed || next_job_tokens(sequence, begin, chunk) == 1;
}

/* All that is not in the strips. OFR_ECANCELED after the chunks that were on their way. */
static int forward_rest(ofr_sequence *sequence, const volatile sig_atomic_t *cancel,
                        uint32_t n_candidates, ofr_error *err)
{
    struct chunk_job jobs[JOBS_MAX];
    uint32_t n = 0;
    uint32_t most = sequence->engine.submit ? JOBS_MAX : 1;
    uint32_t sent = sequence->n_in_kv;
    uint32_t length = sequence->n_tokens - sent;
    uint32_t chunk = choose_chunk(sequence);
    int r = 0;
    while (r == 0 && sequence->n_in_kv < sequence->n_tokens) {
        bool canceled = cancel && *cancel;
        while (r == 0 && !canceled && n < most && sent < sequence->n_tokens &&
               (n == 0 || !must_wait(sequence, sent, chunk))) {
            r = begin_job(sequence, sent, length, chunk, n_candidates, &jobs[n], err);
            if (r == 0)
                sent += jobs[n++].n_tokens;
        }
        if (r == 0 && n == 0)
            return ofr_fail(err, OFR_ECANCELED, "interrupted");
        if (r == 0)
            r = end_job(sequence, &jobs[0], err);
        if (r == 0)
            memmove(jobs, jobs + 1, --n * sizeof *jobs);
    }
    /* What follows a job that failed is worth nothing. */
    for (uint32_t i = 1; r < 0 && sequence->engine.submit && i < n; i++) {
        ofr_error ignored = {0};
        sequence->engine.wait(sequence->engine.user, jobs[i].ticket, &jobs[i].result, &ignored);
    }
    return r;
}

static int recover(ofr_sequence *sequence, ofr_error *err)
{
    char line[OFR_ERROR_TEXT_MAX + 80];
    sequence->recoveries++;
    if (sequence->n_replayed < sequence->n_in_kv)
        sequence->n_replayed = sequence->n_in_kv;
    sequence->n_in_kv = 0;
    if (sequence->notify) {
        snprintf(line, sizeof line, "%s; waiting for the worker, then going on",
                 err->text[0] ? err->text : "the worker was lost");
        sequence->notify(sequence->notify_user, line);
    }
    return sequence->engine.wait_ready(sequence->engine.user, OFR_SEQUENCE_READY_TIMEOUT_MS, err);
}

int ofr_sequence_forward(ofr_sequence *sequence, const volatile sig_atomic_t *cancel,
                         uint32_t n_candidates, ofr_prediction *ret_prediction, ofr_error *err)
{
    const ofr_engine *engine = &sequence->engine;
    n_candidates = engine->candidates ? n_candidates : 0;
    if (sequence->n_in_kv >= sequence->n_tokens)
        return ofr_fail(err, OFR_EINVAL, "no token is left to forward");
    uint32_t recoveries = 0;
    while (sequence->n_in_kv < sequence->n_tokens) {
        ofr_error reason = {0};
        int r = forward_rest(sequence, cancel, n_candidates, &reason);
        if (r == OFR_ECANCELED)
            return ofr_fail(err, r, "%s", reason.text);
        if (r == OFR_EDEVICE && recoveries++ < OFR_SEQUENCE_MAX_RECOVERIES)
            r = recover(sequence, &reason);
        if (r < 0) {
            /* What a failed job wrote is not known. */
            ofr_sequence_invalidate(sequence);
            return ofr_fail(err, r, "%s", reason.text[0] ? reason.text : ofr_status_message(r));
        }
    }
    ofr_prediction prediction = {.n_candidates = n_candidates};
    if (n_candidates)
        prediction.candidates = engine->candidates(engine->user, 0);
    else
        prediction.logits = engine->logits(engine->user, 0);
    if (!prediction.logits && !prediction.candidates)
        return ofr_fail(err, OFR_EPROTOCOL, "the worker's answer has no logits");
    *ret_prediction = prediction;
    return 0;
}
