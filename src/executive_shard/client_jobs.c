/* A client's jobs: submitting them, handing them from worker to worker, waiting for them. */
#include <stdlib.h>
#include <string.h>

#include "executive_shard/client_internal.h"

static int push(ofr_client *client, ofr_client_flight *flight, ofr_error *err)
{
    uint32_t worker = flight->route.stages[flight->stage].worker;
    flight->entry.sequence = ++client->sequence;
    int r = ofr_ring_push(&client->jobs[worker], &flight->entry);
    return r < 0 ? ofr_fail(err, r, "worker %s does not take jobs",
                            client->table.workers[worker].name)
                 : 0;
}

/* Sets the entry up for its stage; the stream goes on from where the stage before left it. */
static void enter_stage(ofr_client_flight *flight)
{
    ofr_session_job *entry = &flight->entry;
    entry->layer_begin = flight->route.stages[flight->stage].layer_begin;
    entry->layer_end = flight->route.stages[flight->stage].layer_end;
    entry->hidden_in = flight->stage ? entry->hidden_out : 0;
    entry->hidden_out = flight->route.stages[flight->stage].in_place || entry->layer_begin == 0
                            ? entry->hidden_in
                            : 1 - entry->hidden_in;
}

static void note_in_ledger(ofr_client *client, const ofr_client_flight *flight)
{
    const int32_t *ids = flight->ids;
    for (uint32_t i = 0; i < flight->entry.n_segments; i++) {
        uint32_t n = flight->entry.segments[i].n_tokens;
        ofr_slot_ledger_add(&client->ledger, flight->entry.segments[i].slot,
                            flight->entry.segments[i].position, ids, n);
        ids += n;
    }
}

static void end_flight(ofr_client *client, ofr_client_flight *flight, int status, const char *text)
{
    flight->done = true;
    flight->status = status;
    snprintf(flight->text, sizeof flight->text, "%.*s", (int)sizeof flight->text - 1, text);
    if (status == 0 && flight->entry.kind == OFR_SESSION_JOB_FORWARD)
        note_in_ledger(client, flight);
}

static void take_completion(ofr_client *client, ofr_session_completion *completion)
{
    ofr_client_flight *flight = NULL;
    for (uint32_t i = 0; i < OFR_CLIENT_JOBS_MAX; i++) {
        ofr_client_flight *f = &client->flights[i];
        if (f->used && !f->done && f->entry.sequence == completion->sequence)
            flight = f;
    }
    if (!flight)
        return; /* of a job that was given up */
    completion->text[sizeof completion->text - 1] = 0;
    flight->worker_ns += completion->worker_ns;
    if (completion->status < 0 || flight->stage + 1 == flight->route.n_stages) {
        end_flight(client, flight, completion->status < 0 ? completion->status : 0,
                   completion->text);
        return;
    }
    ofr_error err = {0};
    flight->stage++;
    enter_stage(flight);
    int r = push(client, flight, &err);
    if (r < 0)
        end_flight(client, flight, r, err.text);
}

/* Takes what has come and hands it on. */
static int advance(ofr_client *client, ofr_error *err)
{
    for (uint32_t i = 0; i < client->layout.n_workers; i++) {
        ofr_session_completion completion;
        int r;
        while ((r = ofr_ring_pop(&client->completions[i], &completion)) == 0)
            take_completion(client, &completion);
        if (r != OFR_EAGAIN)
            return ofr_fail(err, r, "worker %s broke the completion ring",
                            client->table.workers[i].name);
    }
    return 0;
}

/* Waits until `flight` (NULL: any) is done. */
static int wait_for(ofr_client *client, const ofr_client_flight *flight, uint32_t *ret_ticket,
                    ofr_error *err)
{
    for (;;) {
        uint32_t bell = ofr_ring_bell(&client->completions[0]);
        int r = advance(client, err);
        if (r < 0)
            return r;
        for (uint32_t i = 0; i < OFR_CLIENT_JOBS_MAX; i++) {
            const ofr_client_flight *f = &client->flights[i];
            if (f->used && f->done && (!flight || f == flight)) {
                *ret_ticket = i;
                return 0;
            }
        }
        r = ofr_client_check_state(client, err);
        if (r < 0)
            return r;
        /* No spinning: a job takes longer, and a worker on the CPU has a use for the core. */
        ofr_ring_wait(&client->completions[0], bell, 0, UINT64_MAX);
    }
}

static bool rows_overlap(const ofr_client *client, uint32_t begin, uint32_t end)
{
    for (uint32_t i = 0; i < OFR_CLIENT_JOBS_MAX; i++) {
        const ofr_client_flight *f = &client->flights[i];
        if (f->used && f->has_rows && begin < f->entry.first_row + f->entry.n_segments &&
            f->entry.first_row < end)
            return true;
    }
    return false;
}

static int find_free(ofr_client *client, uint32_t *ret_ticket, ofr_error *err)
{
    uint32_t i = 0;
    while (i < OFR_CLIENT_JOBS_MAX && client->flights[i].used)
        i++;
    if (i == OFR_CLIENT_JOBS_MAX)
        return ofr_fail(err, OFR_EBUSY, "%d jobs are on their way already", OFR_CLIENT_JOBS_MAX);
    *ret_ticket = i;
    return 0;
}

/* Fills everything but the stage. */
static int fill_entry(const ofr_client *client, const ofr_client_job *job, uint32_t ticket,
                      ofr_session_job *ret, bool *ret_prompt, ofr_error *err)
{
    uint64_t total = 0;
    bool prompt = false;
    uint32_t n_slots = client->layout.n_slots;
    for (uint32_t i = 0; i < job->n_segments; i++) {
        total += job->segments[i].n_tokens;
        prompt = prompt || job->segments[i].n_tokens > 1;
    }
    if (job->n_segments == 0 || job->n_segments > n_slots || total == 0 ||
        total > client->layout.chunk_max || job->output == OFR_FORWARD_OUTPUT_ALL ||
        (job->output == OFR_FORWARD_OUTPUT_CANDIDATES &&
         (job->n_candidates == 0 || job->n_candidates > OFR_CANDIDATES_MAX)))
        return ofr_fail(err, OFR_EINVAL, "a job of %u segments and %llu tokens", job->n_segments,
                        (unsigned long long)total);
    ofr_session_job entry = {.output = (uint32_t)job->output,
                             .n_segments = job->n_segments,
                             .n_tokens = (uint32_t)total,
                             .buffer = ticket,
                             .n_candidates = job->n_candidates,
                             /* Prompts from the end, so that both kinds have room at once. */
                             .first_row = prompt ? n_slots - job->n_segments : 0};
    for (uint32_t i = 0; i < job->n_segments; i++) {
        entry.segments[i].slot = job->segments[i].slot;
        entry.segments[i].position = job->segments[i].position;
        entry.segments[i].n_tokens = job->segments[i].n_tokens;
    }
    *ret = entry;
    *ret_prompt = prompt;
    return 0;
}

int ofr_client_submit(ofr_client *client, const ofr_client_job *job, uint32_t *ret_ticket,
                      ofr_error *err)
{
    uint32_t ticket = 0;
    bool prompt = false;
    ofr_session_job entry;
    int r = ofr_client_check_state(client, err);
    if (r == 0)
        r = find_free(client, &ticket, err);
    if (r == 0)
        r = fill_entry(client, job, ticket, &entry, &prompt, err);
    if (r < 0)
        return r;
    bool has_rows = job->output == OFR_FORWARD_OUTPUT_LAST ||
                    job->output == OFR_FORWARD_OUTPUT_CANDIDATES ||
                    job->output == OFR_FORWARD_OUTPUT_HIDDEN_SUM;
    if (has_rows && rows_overlap(client, entry.first_row, entry.first_row + entry.n_segments))
        return ofr_fail(err, OFR_EBUSY, "a job on its way gives the same rows of logits");
    ofr_client_flight *flight = &client->flights[ticket];
    *flight =
        (ofr_client_flight){.used = true, .entry = entry, .has_rows = has_rows, .ids = flight->ids};
    uint32_t length = job->prompt_tokens > entry.n_tokens ? job->prompt_tokens : entry.n_tokens;
    ofr_client_table_route(&client->table, prompt ? length : 0, &flight->route);
    enter_stage(flight);
    size_t bytes = entry.n_tokens * sizeof(int32_t);
    memcpy(ofr_session_tokens(client->base, &client->layout, ticket), job->tokens, bytes);
    if (job->output == OFR_FORWARD_OUTPUT_LOGPROBS)
        memcpy(ofr_session_targets(client->base, &client->layout, ticket), job->targets, bytes);
    memcpy(flight->ids, job->tokens, bytes);
    for (uint32_t i = 0; i < job->n_segments; i++)
        ofr_slot_ledger_cut(&client->ledger, job->segments[i].slot, job->segments[i].position);
    r = push(client, flight, err);
    if (r < 0)
        flight->used = false;
    else
        *ret_ticket = ticket;
    return r;
}

/* Copies what is shared before looking at it. */
static int take_candidates(ofr_client *client, const ofr_client_flight *flight, ofr_error *err)
{
    const ofr_session_job *entry = &flight->entry;
    const char *worker = client->table.workers[flight->route.stages[flight->stage].worker].name;
    const ofr_candidate *rows = ofr_session_candidates(client->base, &client->layout) +
                                (size_t)entry->first_row * OFR_CANDIDATES_MAX;
    for (uint32_t i = 0; i < entry->n_segments; i++) {
        memcpy(client->candidates[i], rows + (size_t)i * OFR_CANDIDATES_MAX,
               entry->n_candidates * sizeof *rows);
        int r = ofr_candidates_check(client->candidates[i], entry->n_candidates,
                                     (int32_t)client->layout.vocab_size, err);
        if (r < 0)
            return ofr_error_prefix(err, r, "worker %s", worker);
    }
    return 0;
}

int ofr_client_wait(ofr_client *client, uint32_t ticket, ofr_client_result *ret_result,
                    ofr_error *err)
{
    ofr_client_flight *flight = ticket < OFR_CLIENT_JOBS_MAX ? &client->flights[ticket] : NULL;
    if (!flight || !flight->used) {
        int r = ofr_client_check_state(client, err);
        return r < 0 ? r : ofr_fail(err, OFR_EINVAL, "no job has the ticket %u", ticket);
    }
    int r = wait_for(client, flight, &ticket, err);
    flight->used = false;
    if (r < 0)
        return r;
    if (flight->status < 0)
        return ofr_fail(err, flight->status, "the worker: %s", flight->text);
    const ofr_session_header *layout = &client->layout;
    ofr_client_result result = {.worker_ns = flight->worker_ns};
    if (flight->entry.output == OFR_FORWARD_OUTPUT_CANDIDATES) {
        r = take_candidates(client, flight, err);
        if (r < 0)
            return r;
        result.candidates = ofr_client_candidates(client, 0);
    } else if (flight->has_rows) {
        client->logits_row = flight->entry.first_row;
        result.logits = ofr_client_logits(client, 0);
    }
    if (flight->entry.output == OFR_FORWARD_OUTPUT_LOGPROBS)
        result.logprobs = ofr_session_logprobs(client->base, layout, flight->entry.buffer);
    *ret_result = result;
    return 0;
}

int ofr_client_wait_any(ofr_client *client, uint32_t *ret_ticket, ofr_error *err)
{
    bool any = false;
    for (uint32_t i = 0; i < OFR_CLIENT_JOBS_MAX; i++)
        any = any || client->flights[i].used;
    int r = ofr_client_check_state(client, err);
    if (r == 0 && !any)
        r = ofr_fail(err, OFR_EINVAL, "no job is on its way");
    return r < 0 ? r : wait_for(client, NULL, ret_ticket, err);
}

bool ofr_client_poll(ofr_client *client, uint32_t ticket)
{
    if (ofr_client_check_state(client, NULL) < 0 || advance(client, NULL) < 0)
        return true;
    return ticket < OFR_CLIENT_JOBS_MAX && client->flights[ticket].used &&
           client->flights[ticket].done;
}

int ofr_client_run(ofr_client *client, const ofr_client_job *job, ofr_client_result *ret_result,
                   ofr_error *err)
{
    uint32_t ticket = 0;
    int r = ofr_client_submit(client, job, &ticket, err);
    return r < 0 ? r : ofr_client_wait(client, ticket, ret_result, err);
}

int ofr_client_copy(ofr_client *client, uint32_t from, uint32_t to, uint32_t n, ofr_error *err)
{
    uint32_t ticket = 0;
    int r = ofr_client_check_state(client, err);
    if (r == 0)
        r = find_free(client, &ticket, err);
    if (r < 0)
        return r;
    if (from >= client->layout.n_slots || to >= client->layout.n_slots || from == to || n == 0 ||
        n > client->layout.context)
        return ofr_fail(err, OFR_EINVAL, "a copy of %u rows from slot %u to slot %u", n, from, to);
    ofr_client_flight *flight = &client->flights[ticket];
    *flight = (ofr_client_flight){.used = true, .ids = flight->ids};
    flight->entry = (ofr_session_job){.kind = OFR_SESSION_JOB_COPY, .n_segments = 2};
    flight->entry.segments[0].slot = to;
    flight->entry.segments[1].slot = from;
    flight->entry.segments[0].n_tokens = flight->entry.segments[1].n_tokens = n;
    /* Any worker can: all have the arena mapped. */
    ofr_client_table_route(&client->table, 0, &flight->route);
    flight->route.n_stages = 1;
    ofr_slot_ledger_cut(&client->ledger, to, 0);
    r = push(client, flight, err);
    if (r == 0)
        r = wait_for(client, flight, &ticket, err);
    flight->used = false;
    if (r == 0 && flight->status < 0)
        r = ofr_fail(err, flight->status, "the worker: %s", flight->text);
    if (r < 0)
        return r;
    uint32_t held = 0;
    const int32_t *tokens = ofr_slot_ledger_tokens(&client->ledger, from, &held);
    ofr_slot_ledger_add(&client->ledger, to, 0, tokens, held < n ? held : n);
    return 0;
}

const float *ofr_client_logits(const ofr_client *client, uint32_t row)
{
    return ofr_session_logits(client->base, &client->layout) +
           (size_t)(client->logits_row + row) * client->layout.vocab_size;
}

const ofr_candidate *ofr_client_candidates(const ofr_client *client, uint32_t row)
{
    return client->candidates[row];
}

const int32_t *ofr_client_slot_tokens(const ofr_client *client, uint32_t slot, uint32_t *ret_n)
{
    return ofr_slot_ledger_tokens(&client->ledger, slot, ret_n);
}

uint32_t ofr_client_chunk(const ofr_client *client, uint32_t prompt_tokens)
{
    ofr_client_route route;
    ofr_client_table_route(&client->table, prompt_tokens ? prompt_tokens : 1, &route);
    return route.chunk;
}
