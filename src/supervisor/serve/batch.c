/* The batch loop: admission, decode and prefill jobs, lost workers. */
#include "supervisor/serve/batch.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "supervisor/serve/slots.h"

enum {
    LOSSES_MAX = 3, /* of a worker or executive, without one job that succeeds */
    READY_TIMEOUT_MS = 120000,
    PREFILL_SHARE_MIN = 16, /* tokens of one sequence in a chunk */
};
static const uint64_t STALL_NS = 60000000;

enum state { STATE_PREFILL, STATE_DECODE };

struct sequence {
    ofr_batch_request request;
    struct sequence *next; /* of those that wait */
    int32_t *tokens;       /* [room], owned */
    uint32_t n_tokens, room;
    uint32_t n_prompt, n_reused, n_in_kv;
    uint32_t n_begin; /* tokens in the strips when the prefill began */
    uint32_t slot;
    enum state state;
    bool in_job;         /* of a lane: may not end before the job has */
    uint64_t id, leader; /* leader: not admitted while that one is not prefilled; 0: none */
    uint64_t submitted_ns, admitted_ns, prefilled_ns;
};

enum lane_kind { LANE_DECODE, LANE_PROMPT, LANE_COUNT };

/* A job of one kind: being made, or on its way. */
struct lane {
    bool busy, embed;
    uint32_t ticket, n, total;
    struct sequence **members; /* [n_slots], owned */
    ofr_segment *segments;     /* [n_slots], owned */
    int32_t *ids;              /* [chunk_max], owned: the tokens */
    enum ofr_forward_output output;
    uint32_t n_candidates; /* of a row, with OFR_FORWARD_OUTPUT_CANDIDATES */
    uint64_t begin_ns;
    ofr_client_result result;
};

struct ofr_batch {
    ofr_batch_options options;
    ofr_batch_counters counters;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* guards what follows, up to the next blank line */
    pthread_cond_t changed;
    struct sequence *waiting; /* oldest first */
    uint32_t n_waiting;
    uint64_t next_id;
    bool stop, woken;
    ofr_batch_slot_status *slot_status; /* [n_slots], owned */

    /* The batch thread's own. */
    struct sequence **running; /* [n_slots], owned; by slot; NULL: free */
    ofr_slot_view *views;      /* [n_slots], owned */
    uint64_t *last_used_ns;    /* [n_slots], owned */
    struct lane lanes[LANE_COUNT];
    uint32_t n_running;
    uint32_t losses;
    double prefill_ns_per_token;
    _Atomic uint64_t mean_run_ns; /* of sequences that ended, smoothed */
};

static void free_sequence(struct sequence *sequence)
{
    if (sequence)
        free(sequence->tokens);
    free(sequence);
}

static void end_sequence(struct ofr_batch *batch, struct sequence *sequence, int status,
                         const ofr_error *err)
{
    uint64_t now = ofr_clock_ns();
    ofr_batch_report report = {.n_prompt = sequence->n_prompt, .n_reused = sequence->n_reused};
    if (sequence->admitted_ns) {
        report.queued_ns = sequence->admitted_ns - sequence->submitted_ns;
        if (sequence->prefilled_ns)
            report.prefill_ns = sequence->prefilled_ns - sequence->admitted_ns;
        batch->running[sequence->slot] = NULL;
        batch->last_used_ns[sequence->slot] = now;
        batch->n_running--;
        uint64_t took = now - sequence->admitted_ns, mean = atomic_load(&batch->mean_run_ns);
        atomic_store(&batch->mean_run_ns, mean ? (mean * 7 + took) / 8 : took);
    }
    ofr_error plain = {0};
    if (status < 0 && !err)
        ofr_fail(&plain, status, "%s", ofr_status_message(status));
    sequence->request.end(sequence->request.user, status, err ? err : &plain, &report);
    free_sequence(sequence);
}

static void end_running(struct ofr_batch *batch, int status, const ofr_error *err)
{
    for (uint32_t i = 0; i < batch->options.engine.n_slots; i++)
        if (batch->running[i])
            end_sequence(batch, batch->running[i], status, err);
}

static bool is_canceled(const struct sequence *sequence)
{
    const atomic_bool *canceled = sequence->request.canceled;
    return canceled && atomic_load(canceled);
}

/* Takes those that wait and were canceled (all of them with `all`) out of the list. */
static struct sequence *take_canceled(struct ofr_batch *batch, bool all)
{
    struct sequence *taken = NULL;
    pthread_mutex_lock(&batch->lock);
    for (struct sequence **at = &batch->waiting; *at;) {
        struct sequence *sequence = *at;
        if (all || is_canceled(sequence)) {
            *at = sequence->next;
            sequence->next = taken;
            taken = sequence;
            batch->n_waiting--;
        } else {
            at = &sequence->next;
        }
    }
    atomic_store(&batch->counters.waiting, batch->n_waiting);
    pthread_mutex_unlock(&batch->lock);
    return taken;
}

static void end_canceled(struct ofr_batch *batch, bool all)
{
    for (struct sequence *taken = take_canceled(batch, all); taken;) {
        struct sequence *next = taken->next;
        end_sequence(batch, taken, OFR_ECANCELED, NULL);
        taken = next;
    }
    for (uint32_t i = 0; i < batch->options.engine.n_slots; i++)
        if (batch->running[i] && !batch->running[i]->in_job &&
            (all || is_canceled(batch->running[i])))
            end_sequence(batch, batch->running[i], OFR_ECANCELED, NULL);
}

static bool is_held_back(const struct ofr_batch *batch, const struct sequence *sequence)
{
    if (!sequence->leader)
        return false;
    for (const struct sequence *other = batch->waiting; other; other = other->next)
        if (other->id == sequence->leader)
            return true;
    for (uint32_t i = 0; i < batch->options.engine.n_slots; i++)
        if (batch->running[i] && batch->running[i]->id == sequence->leader)
            return batch->running[i]->state == STATE_PREFILL;
    return false;
}

static uint32_t running_of(const struct ofr_batch *batch, uint64_t owner)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < batch->options.engine.n_slots; i++)
        n += batch->running[i] && batch->running[i]->request.owner == owner;
    return n;
}

/* The next to be admitted, out of the list; NULL: none. */
static struct sequence *take_next(struct ofr_batch *batch)
{
    struct sequence **best = NULL;
    uint32_t best_running = 0;
    pthread_mutex_lock(&batch->lock);
    for (struct sequence **at = &batch->waiting; *at; at = &(*at)->next) {
        if (is_held_back(batch, *at))
            continue;
        uint32_t running = (*at)->request.first ? 0 : running_of(batch, (*at)->request.owner);
        if (!best || running < best_running || ((*at)->request.first && !(*best)->request.first)) {
            best = at;
            best_running = running;
            if ((*at)->request.first)
                break;
        }
    }
    struct sequence *sequence = best ? *best : NULL;
    if (sequence) {
        *best = sequence->next;
        batch->n_waiting--;
    }
    atomic_store(&batch->counters.waiting, batch->n_waiting);
    pthread_mutex_unlock(&batch->lock);
    return sequence;
}

static void look_at_slots(struct ofr_batch *batch)
{
    const ofr_batch_engine *engine = &batch->options.engine;
    for (uint32_t i = 0; i < engine->n_slots; i++) {
        ofr_slot_view *view = &batch->views[i];
        view->tokens = engine->slot_tokens(engine->engine.user, i, &view->n_tokens);
        view->busy = batch->running[i] != NULL;
        view->last_used_ns = batch->last_used_ns[i];
    }
}

static int recover(struct ofr_batch *batch, int code, ofr_error *err);
static void end_job(struct ofr_batch *batch, struct lane *lane);

/* Waits for all that is on its way. */
static void drain(struct ofr_batch *batch)
{
    for (int i = 0; i < LANE_COUNT; i++)
        if (batch->lanes[i].busy)
            end_job(batch, &batch->lanes[i]);
}

/* True if the sequence got a slot. */
static bool admit(struct ofr_batch *batch, struct sequence *sequence)
{
    const ofr_batch_engine *engine = &batch->options.engine;
    ofr_slot_choice choice;
    bool may_reuse = !sequence->request.fresh && !sequence->request.embed;
    look_at_slots(batch);
    if (!ofr_slot_choose(batch->views, engine->n_slots, sequence->tokens, sequence->n_tokens,
                         may_reuse, engine->copy != NULL, &choice))
        return false;
    if (choice.copy)
        drain(batch); /* the slot that is copied from may be in a job */
    sequence->slot = choice.slot;
    sequence->n_in_kv = sequence->n_reused = choice.reused;
    sequence->admitted_ns = ofr_clock_ns();
    batch->running[choice.slot] = sequence;
    batch->n_running++;
    if (choice.copy) {
        ofr_error err = {0};
        int r =
            engine->copy(engine->engine.user, choice.copy_from, choice.slot, choice.reused, &err);
        if (r == 0)
            atomic_fetch_add(&batch->counters.copied_tokens, choice.reused);
        else
            sequence->n_in_kv = sequence->n_reused = 0;
        if (r == OFR_EDEVICE || r == OFR_EGONE)
            recover(batch, r, &err);
    }
    sequence->n_begin = sequence->n_in_kv;
    atomic_fetch_add(&batch->counters.prompt_tokens, sequence->n_prompt);
    atomic_fetch_add(&batch->counters.reused_tokens, sequence->n_reused);
    return true;
}

static void admit_all(struct ofr_batch *batch)
{
    while (batch->n_running < batch->options.engine.n_slots) {
        struct sequence *sequence = take_next(batch);
        if (!sequence)
            return;
        if (!admit(batch, sequence)) {
            ofr_error err = {0};
            int r = ofr_fail(&err, OFR_EINTERNAL, "no slot is free although one should be");
            end_sequence(batch, sequence, r, &err);
        }
    }
}

static void forget_rows(struct sequence *sequence)
{
    sequence->n_in_kv = sequence->n_begin = 0;
    sequence->state = STATE_PREFILL;
}

static void forget_strips(struct ofr_batch *batch)
{
    for (uint32_t i = 0; i < batch->options.engine.n_slots; i++)
        if (batch->running[i])
            forget_rows(batch->running[i]);
}

static void release(struct lane *lane)
{
    lane->busy = false;
    for (uint32_t i = 0; i < lane->n; i++)
        lane->members[i]->in_job = false;
}

/* Jobs that were on their way when a device was lost; their sequences are prefilled again. */
static void abandon(struct ofr_batch *batch)
{
    const ofr_engine *engine = &batch->options.engine.engine;
    for (int i = 0; i < LANE_COUNT; i++) {
        struct lane *lane = &batch->lanes[i];
        ofr_error ignored = {0};
        if (!lane->busy)
            continue;
        engine->wait(engine->user, lane->ticket, &lane->result, &ignored);
        release(lane);
    }
}

/* After a failed job: 0 if the loop can go on with every sequence prefilled again. */
static int recover(struct ofr_batch *batch, int code, ofr_error *err)
{
    const ofr_batch_engine *engine = &batch->options.engine;
    bool gone = code == OFR_EGONE;
    int r = code;
    abandon(batch);
    forget_strips(batch);
    if (batch->losses++ < LOSSES_MAX) {
        if (batch->options.notify)
            batch->options.notify(batch->options.notify_user, err->text);
        if (!gone) {
            atomic_fetch_add(&batch->counters.worker_losses, 1);
            r = engine->engine.wait_ready(engine->engine.user, READY_TIMEOUT_MS, err);
            gone = r == OFR_EGONE;
        }
        if (gone) {
            atomic_fetch_add(&batch->counters.executive_losses, 1);
            r = engine->reconnect ? engine->reconnect(engine->engine.user, err) : OFR_EGONE;
        }
    }
    if (r < 0) {
        end_running(batch, r, err);
        batch->losses = 0;
    }
    return r;
}

static void take_result(struct ofr_batch *batch, struct lane *lane, int r, ofr_error *err);

/* Where candidates are enough for all whose tokens end with this job, only they are asked for. */
static void settle_output(const struct ofr_batch *batch, struct lane *lane)
{
    uint32_t most = 0;
    if (lane->output != OFR_FORWARD_OUTPUT_LAST || !batch->options.engine.engine.candidates)
        return;
    for (uint32_t i = 0; i < lane->n; i++) {
        const struct sequence *sequence = lane->members[i];
        const ofr_batch_request *request = &sequence->request;
        if (sequence->n_in_kv + lane->segments[i].n_tokens < sequence->n_tokens)
            continue;
        uint32_t wanted =
            request->candidates_wanted ? request->candidates_wanted(request->user) : 0;
        if (wanted == 0)
            return;
        most = wanted > most ? wanted : most;
    }
    lane->output = OFR_FORWARD_OUTPUT_CANDIDATES;
    lane->n_candidates = most;
}

/* The lane's job: runs it, or puts it on its way where another may be at the same time. */
static void begin_job(struct ofr_batch *batch, struct lane *lane, bool overlap)
{
    const ofr_engine *engine = &batch->options.engine.engine;
    lane->total = 0;
    for (uint32_t i = 0; i < lane->n; i++) {
        const ofr_segment *segment = &lane->segments[i];
        memcpy(lane->ids + lane->total, lane->members[i]->tokens + segment->position,
               segment->n_tokens * sizeof *lane->ids);
        lane->total += segment->n_tokens;
        lane->members[i]->in_job = true;
    }
    settle_output(batch, lane);
    const struct sequence *first = lane->members[0];
    ofr_client_job job = {.segments = lane->segments,
                          .n_segments = lane->n,
                          .tokens = lane->ids,
                          .output = lane->output,
                          .n_candidates = lane->n_candidates,
                          .prompt_tokens = first->n_tokens - first->n_begin};
    ofr_error err = {0};
    lane->result = (ofr_client_result){0};
    lane->begin_ns = ofr_clock_ns();
    int r = overlap ? engine->submit(engine->user, &job, &lane->ticket, &err)
                    : engine->run(engine->user, &job, &lane->result, &err);
    if (overlap && r == 0)
        lane->busy = true;
    else
        take_result(batch, lane, r, &err);
}

static void end_job(struct ofr_batch *batch, struct lane *lane)
{
    const ofr_engine *engine = &batch->options.engine.engine;
    ofr_error err = {0};
    int r = engine->wait(engine->user, lane->ticket, &lane->result, &err);
    lane->busy = false;
    take_result(batch, lane, r, &err);
}

static int append(struct ofr_batch *batch, struct sequence *sequence, int32_t token)
{
    if (sequence->n_tokens + 1 >= batch->options.engine.engine.context)
        return OFR_ELIMIT;
    if (sequence->n_tokens == sequence->room) {
        uint32_t room = sequence->room * 2;
        int32_t *grown = realloc(sequence->tokens, room * sizeof *grown);
        if (!grown)
            return OFR_ENOMEM;
        sequence->tokens = grown;
        sequence->room = room;
    }
    sequence->tokens[sequence->n_tokens++] = token;
    return 0;
}

/* Everything is in the strips, and row `row` of what the lane's job gave is the sequence's. */
static void choose_next(struct ofr_batch *batch, const struct lane *lane, struct sequence *sequence,
                        uint32_t row)
{
    const ofr_engine *engine = &batch->options.engine.engine;
    ofr_error err = {0};
    int32_t token = -1;
    ofr_prediction prediction = {0};
    if (lane->output == OFR_FORWARD_OUTPUT_CANDIDATES) {
        prediction.candidates = engine->candidates(engine->user, row);
        prediction.n_candidates = lane->n_candidates;
    } else {
        prediction.logits = engine->logits(engine->user, row);
    }
    int r = sequence->request.next(sequence->request.user, &prediction, &token, &err);
    if (!sequence->prefilled_ns)
        sequence->prefilled_ns = ofr_clock_ns();
    if (r == 0) {
        atomic_store(&batch->counters.last_token_ns, ofr_clock_ns());
        atomic_fetch_add(&batch->counters.generated_tokens, 1);
    }
    if (r == 0 && token >= 0) {
        r = append(batch, sequence, token);
        sequence->state = STATE_DECODE;
        if (r == 0)
            return;
    }
    end_sequence(batch, sequence, r, err.text[0] ? &err : NULL);
}

static uint32_t remaining(const struct sequence *sequence)
{
    return sequence->n_tokens - sequence->n_in_kv;
}

/* One token: of every answer, and of prompts that have no more. */
static void begin_decode(struct ofr_batch *batch, bool overlap)
{
    struct lane *lane = &batch->lanes[LANE_DECODE];
    uint32_t n = 0, limit = batch->options.engine.engine.chunk_max;
    for (uint32_t i = 0; i < batch->options.engine.n_slots && n < limit; i++) {
        struct sequence *sequence = batch->running[i];
        if (!sequence || sequence->in_job || sequence->request.embed || remaining(sequence) != 1)
            continue;
        lane->segments[n] = (ofr_segment){sequence->slot, sequence->n_in_kv, 1};
        lane->members[n++] = sequence;
    }
    lane->n = n;
    lane->output = OFR_FORWARD_OUTPUT_LAST;
    if (n)
        begin_job(batch, lane, overlap);
}

/* Tokens that one round may prefill. */
static uint32_t prefill_budget(const struct ofr_batch *batch, const struct sequence *first,
                               bool overlap)
{
    const ofr_engine *engine = &batch->options.engine.engine;
    uint32_t most = engine->chunk_max;
    if (overlap) {
        uint32_t chunk = engine->chunk
                             ? engine->chunk(engine->user, first->n_tokens - first->n_begin)
                             : engine->chunk_preferred;
        return chunk && chunk < most ? chunk : most;
    }
    bool decoding = false;
    for (uint32_t i = 0; i < batch->options.engine.n_slots; i++)
        decoding = decoding || (batch->running[i] && batch->running[i]->state == STATE_DECODE);
    if (!decoding)
        return most;
    double tokens = (double)batch->options.stall_ns / batch->prefill_ns_per_token;
    if (tokens < PREFILL_SHARE_MIN)
        return PREFILL_SHARE_MIN < most ? PREFILL_SHARE_MIN : most;
    return tokens < most ? (uint32_t)tokens : most;
}

/* Puts the sequences to prefill into the lane's members: the one admitted first, then those with
 * least left to do. Returns their number. */
static uint32_t order_prefill(const struct ofr_batch *batch, struct lane *lane, bool embed)
{
    struct sequence **members = lane->members;
    uint32_t n = 0;
    for (uint32_t i = 0; i < batch->options.engine.n_slots; i++) {
        struct sequence *sequence = batch->running[i];
        if (sequence && sequence->state == STATE_PREFILL && !sequence->in_job &&
            sequence->request.embed == embed && (embed || remaining(sequence) > 1))
            members[n++] = sequence;
    }
    for (uint32_t i = 1; i < n; i++) {
        struct sequence *moved = members[i];
        uint32_t at = i;
        for (; at > 0 && remaining(members[at - 1]) > remaining(moved); at--)
            members[at] = members[at - 1];
        members[at] = moved;
    }
    uint32_t first = 0;
    for (uint32_t i = 1; i < n; i++)
        if (members[i]->id < members[first]->id)
            first = i;
    for (; first > 0; first--) {
        struct sequence *swap = members[first];
        members[first] = members[first - 1];
        members[first - 1] = swap;
    }
    return n;
}

static void note_prefill(struct ofr_batch *batch, uint32_t tokens, uint64_t ns)
{
    atomic_fetch_add(&batch->counters.prefill_ns, ns);
    atomic_fetch_add(&batch->counters.prefill_tokens, tokens);
    double sample = (double)ns / tokens;
    /* A few tokens say nothing of what a chunk costs. */
    if (tokens >= PREFILL_SHARE_MIN)
        batch->prefill_ns_per_token = batch->prefill_ns_per_token * 0.7 + sample * 0.3;
}

static void begin_prefill(struct ofr_batch *batch, bool overlap)
{
    struct lane *lane = &batch->lanes[LANE_PROMPT];
    uint32_t count = order_prefill(batch, lane, false), n = 0;
    uint32_t left = count ? prefill_budget(batch, lane->members[0], overlap) : 0;
    bool complete = false;
    for (uint32_t i = 0; i < count && left > 0; i++) {
        struct sequence *sequence = lane->members[i];
        /* The one that came first gets half at least, so that it is done some time. */
        uint32_t share = i == 0 && count > 1 ? (left + 1) / 2 : left;
        uint32_t tokens = remaining(sequence) < share ? remaining(sequence) : share;
        lane->segments[n] = (ofr_segment){sequence->slot, sequence->n_in_kv, tokens};
        lane->members[n++] = sequence;
        complete = complete || tokens == remaining(sequence);
        left -= tokens;
    }
    lane->n = n;
    lane->embed = false;
    lane->output = complete ? OFR_FORWARD_OUTPUT_LAST : OFR_FORWARD_OUTPUT_NONE;
    if (n)
        begin_job(batch, lane, overlap);
}

/* One chunk of one sequence that is to be embedded. */
static void begin_embed(struct ofr_batch *batch, bool overlap)
{
    struct lane *lane = &batch->lanes[LANE_PROMPT];
    lane->n = order_prefill(batch, lane, true) > 0;
    if (lane->n == 0)
        return;
    struct sequence *sequence = lane->members[0];
    uint32_t tokens = prefill_budget(batch, sequence, overlap);
    tokens = remaining(sequence) < tokens ? remaining(sequence) : tokens;
    if (overlap && tokens == 1) {
        /* One token goes the way of answers, whose results it would be mixed up with. */
        uint32_t slot = sequence->slot;
        uint64_t id = sequence->id;
        drain(batch);
        if (!batch->running[slot] || batch->running[slot]->id != id || remaining(sequence) != 1)
            return; /* a device was lost meanwhile */
        overlap = false;
    }
    lane->n = 1;
    lane->embed = true;
    lane->segments[0] = (ofr_segment){sequence->slot, sequence->n_in_kv, tokens};
    lane->members[0] = sequence;
    lane->output = OFR_FORWARD_OUTPUT_HIDDEN_SUM;
    begin_job(batch, lane, overlap);
}

static void take_sums(struct ofr_batch *batch, struct lane *lane)
{
    const ofr_engine *engine = &batch->options.engine.engine;
    struct sequence *sequence = lane->members[0];
    ofr_error err = {0};
    int r = sequence->request.embed_sum(sequence->request.user, engine->logits(engine->user, 0),
                                        lane->segments[0].position, lane->total, &err);
    if (r < 0 || remaining(sequence) == 0)
        end_sequence(batch, sequence, r, err.text[0] ? &err : NULL);
}

/* The lane's job is done, or has failed with `r`. */
static void take_result(struct ofr_batch *batch, struct lane *lane, int r, ofr_error *err)
{
    uint64_t ns = ofr_clock_ns() - lane->begin_ns;
    bool prompts = lane == &batch->lanes[LANE_PROMPT];
    release(lane);
    if (r == OFR_EDEVICE || r == OFR_EGONE) {
        recover(batch, r, err);
        return;
    }
    if (r < 0) {
        for (uint32_t i = 0; i < lane->n; i++)
            end_sequence(batch, lane->members[i], r, err);
        return;
    }
    batch->losses = 0;
    for (uint32_t i = 0; i < lane->n; i++)
        lane->members[i]->n_in_kv += lane->segments[i].n_tokens;
    if (prompts) {
        note_prefill(batch, lane->total, ns);
    } else {
        atomic_fetch_add(&batch->counters.decode_ns, ns);
        atomic_fetch_add(&batch->counters.decode_jobs, 1);
        atomic_fetch_add(&batch->counters.overlapped_jobs, batch->lanes[LANE_PROMPT].busy);
        for (uint32_t i = 0; i < lane->n; i++)
            if (lane->members[i]->state == STATE_PREFILL)
                atomic_fetch_add(&batch->counters.prefill_tokens, 1);
    }
    if (prompts && lane->embed) {
        take_sums(batch, lane);
        return;
    }
    for (uint32_t i = 0; i < lane->n; i++)
        if (remaining(lane->members[i]) == 0)
            choose_next(batch, lane, lane->members[i], i);
}

static void publish(struct ofr_batch *batch)
{
    uint64_t kv_tokens = 0;
    uint32_t prefilling = 0;
    const ofr_batch_engine *engine = &batch->options.engine;
    pthread_mutex_lock(&batch->lock);
    for (uint32_t i = 0; i < engine->n_slots; i++) {
        const struct sequence *sequence = batch->running[i];
        ofr_batch_slot_status *status = &batch->slot_status[i];
        if (sequence) {
            status->state = sequence->state == STATE_PREFILL ? "prefill" : "decode";
            status->n_tokens = sequence->n_in_kv;
            kv_tokens += sequence->n_in_kv;
            prefilling += sequence->state == STATE_PREFILL;
        } else {
            status->state = "free";
            engine->slot_tokens(engine->engine.user, i, &status->n_tokens);
        }
    }
    pthread_mutex_unlock(&batch->lock);
    atomic_store(&batch->counters.running, batch->n_running);
    atomic_store(&batch->counters.prefilling, prefilling);
    atomic_store(&batch->counters.kv_tokens, kv_tokens);
}

static bool can_overlap(const struct ofr_batch *batch)
{
    const ofr_batch_engine *engine = &batch->options.engine;
    return engine->engine.submit && engine->engine.wait && engine->wait_any && engine->overlaps &&
           engine->overlaps(engine->engine.user);
}

/* Until one of the jobs on their way is done. */
static void wait_for_job(struct ofr_batch *batch)
{
    const ofr_batch_engine *engine = &batch->options.engine;
    struct lane *decode = &batch->lanes[LANE_DECODE], *prompt = &batch->lanes[LANE_PROMPT];
    if (!decode->busy && !prompt->busy)
        return;
    ofr_error err = {0};
    uint32_t ticket = decode->busy ? decode->ticket : prompt->ticket;
    if (decode->busy && prompt->busy) {
        int r = engine->wait_any(engine->engine.user, &ticket, &err);
        if (r < 0) {
            recover(batch, r, &err);
            return;
        }
    }
    end_job(batch, decode->busy && decode->ticket == ticket ? decode : prompt);
}

/* A sequence whose slot does not hold its rows any more is prefilled again. */
static void keep_strips(struct ofr_batch *batch)
{
    const ofr_batch_engine *engine = &batch->options.engine;
    for (uint32_t i = 0; i < engine->n_slots; i++) {
        struct sequence *sequence = batch->running[i];
        uint32_t n = 0;
        const int32_t *tokens = engine->slot_tokens(engine->engine.user, i, &n);
        if (sequence && (n < sequence->n_in_kv ||
                         memcmp(tokens, sequence->tokens, sequence->n_in_kv * sizeof *tokens) != 0))
            forget_rows(sequence);
    }
}

static void look_at_plan(struct ofr_batch *batch)
{
    const ofr_batch_engine *engine = &batch->options.engine;
    bool idle = batch->n_running == 0 && atomic_load(&batch->counters.waiting) == 0;
    if (!engine->plan_is_due || !engine->plan_is_due(engine->engine.user, idle))
        return;
    drain(batch);
    ofr_error err = {0};
    int r = engine->change_plan(engine->engine.user, &err);
    if (r < 0)
        recover(batch, r, &err);
    else
        keep_strips(batch);
}

static void *loop(void *argument)
{
    struct ofr_batch *batch = argument;
    for (;;) {
        look_at_plan(batch);
        publish(batch);
        pthread_mutex_lock(&batch->lock);
        while (!batch->stop && !batch->woken && !batch->waiting && batch->n_running == 0)
            pthread_cond_wait(&batch->changed, &batch->lock);
        bool stop = batch->stop;
        batch->woken = false;
        pthread_mutex_unlock(&batch->lock);
        if (stop)
            drain(batch);
        end_canceled(batch, stop);
        if (stop)
            break;
        admit_all(batch);
        bool overlap = can_overlap(batch);
        if (!batch->lanes[LANE_DECODE].busy)
            begin_decode(batch, overlap);
        if (!batch->lanes[LANE_PROMPT].busy)
            begin_prefill(batch, overlap);
        if (!batch->lanes[LANE_PROMPT].busy)
            begin_embed(batch, overlap);
        wait_for_job(batch);
    }
    publish(batch);
    return NULL;
}

int ofr_batch_new(const ofr_batch_options *options, ofr_batch **ret_batch, ofr_error *err)
{
    struct ofr_batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the batch");
    uint32_t n = options->engine.n_slots;
    batch->options = *options;
    if (!batch->options.stall_ns)
        batch->options.stall_ns = STALL_NS;
    batch->prefill_ns_per_token = 1e6;
    batch->next_id = 1;
    pthread_mutex_init(&batch->lock, NULL);
    pthread_cond_init(&batch->changed, NULL);
    batch->running = calloc(n, sizeof *batch->running);
    batch->views = calloc(n, sizeof *batch->views);
    batch->last_used_ns = calloc(n, sizeof *batch->last_used_ns);
    batch->slot_status = calloc(n, sizeof *batch->slot_status);
    bool complete =
        n && batch->running && batch->views && batch->last_used_ns && batch->slot_status;
    for (int i = 0; i < LANE_COUNT; i++) {
        struct lane *lane = &batch->lanes[i];
        lane->members = calloc(n, sizeof *lane->members);
        lane->segments = calloc(n, sizeof *lane->segments);
        lane->ids = calloc(options->engine.engine.chunk_max, sizeof *lane->ids);
        complete = complete && lane->members && lane->segments && lane->ids;
    }
    int r = 0;
    if (!complete)
        r = ofr_fail(err, OFR_ENOMEM, "no memory for a batch of %u slots", n);
    if (r == 0 && pthread_create(&batch->thread, NULL, loop, batch) != 0)
        r = ofr_fail(err, OFR_ENOMEM, "cannot start a thread");
    if (r < 0) {
        ofr_batch_free(batch);
        return r;
    }
    batch->started = true;
    *ret_batch = batch;
    return 0;
}

ofr_batch *ofr_batch_free(ofr_batch *batch)
{
    if (!batch)
        return NULL;
    if (batch->started) {
        pthread_mutex_lock(&batch->lock);
        batch->stop = true;
        pthread_cond_signal(&batch->changed);
        pthread_mutex_unlock(&batch->lock);
        pthread_join(batch->thread, NULL);
        end_canceled(batch, true); /* submitted while the loop ended */
    }
    pthread_cond_destroy(&batch->changed);
    pthread_mutex_destroy(&batch->lock);
    free(batch->running);
    free(batch->views);
    free(batch->last_used_ns);
    free(batch->slot_status);
    for (int i = 0; i < LANE_COUNT; i++) {
        free(batch->lanes[i].members);
        free(batch->lanes[i].segments);
        free(batch->lanes[i].ids);
    }
    free(batch);
    return NULL;
}

static int make_sequence(const struct ofr_batch *batch, const ofr_batch_request *request,
                         struct sequence **ret_sequence, ofr_error *err)
{
    uint32_t context = batch->options.engine.engine.context;
    if (request->n_tokens == 0)
        return ofr_fail(err, OFR_EINVAL, "the prompt has no tokens");
    if (request->n_tokens >= context + request->embed)
        return ofr_fail(err, OFR_ELIMIT,
                        "the prompt has %u tokens and the context holds %u, which leaves no room "
                        "for an answer",
                        request->n_tokens, context);
    struct sequence *sequence = calloc(1, sizeof *sequence);
    uint32_t room = request->n_tokens + 64;
    if (sequence)
        sequence->tokens = malloc(room * sizeof *sequence->tokens);
    if (!sequence || !sequence->tokens) {
        free_sequence(sequence);
        return ofr_fail(err, OFR_ENOMEM, "no memory for %u tokens", room);
    }
    memcpy(sequence->tokens, request->tokens, request->n_tokens * sizeof *sequence->tokens);
    sequence->request = *request;
    sequence->request.tokens = NULL;
    sequence->n_tokens = sequence->n_prompt = request->n_tokens;
    sequence->room = room;
    sequence->submitted_ns = ofr_clock_ns();
    *ret_sequence = sequence;
    return 0;
}

static bool same_tokens(const struct sequence *a, const struct sequence *b)
{
    return a->n_tokens == b->n_tokens &&
           memcmp(a->tokens, b->tokens, a->n_tokens * sizeof *a->tokens) == 0;
}

int ofr_batch_submit(ofr_batch *batch, const ofr_batch_request *requests, uint32_t n,
                     ofr_error *err)
{
    struct sequence *first = NULL, **end = &first;
    int r = 0;
    for (uint32_t i = 0; i < n && r == 0; i++) {
        r = make_sequence(batch, &requests[i], end, err);
        if (r == 0)
            end = &(*end)->next;
    }
    if (r == 0) {
        pthread_mutex_lock(&batch->lock);
        if (batch->stop)
            r = ofr_fail(err, OFR_ECANCELED, "the server is stopping");
        else if (batch->n_waiting + n > batch->options.waiting_max &&
                 !(n == 1 && requests[0].first))
            r = ofr_fail(err, OFR_EBUSY, "%u sequences wait already; try again later",
                         batch->n_waiting);
        if (r == 0) {
            for (struct sequence *sequence = first; sequence; sequence = sequence->next) {
                sequence->id = batch->next_id++;
                if (sequence != first && batch->options.engine.copy && !sequence->request.fresh &&
                    same_tokens(first, sequence))
                    sequence->leader = first->id;
            }
            struct sequence **at = &batch->waiting;
            while (*at)
                at = &(*at)->next;
            *at = first;
            first = NULL;
            batch->n_waiting += n;
            atomic_store(&batch->counters.waiting, batch->n_waiting);
            pthread_cond_signal(&batch->changed);
        }
        pthread_mutex_unlock(&batch->lock);
    }
    while (first) {
        struct sequence *next = first->next;
        free_sequence(first);
        first = next;
    }
    return r;
}

void ofr_batch_wake(ofr_batch *batch)
{
    pthread_mutex_lock(&batch->lock);
    batch->woken = true;
    pthread_cond_signal(&batch->changed);
    pthread_mutex_unlock(&batch->lock);
}

const ofr_batch_counters *ofr_batch_get_counters(const ofr_batch *batch)
{
    return &batch->counters;
}

uint32_t ofr_batch_retry_after(const ofr_batch *batch)
{
    uint64_t ahead = atomic_load(&batch->counters.waiting) + 1;
    uint64_t ns = atomic_load(&batch->mean_run_ns) * ahead / batch->options.engine.n_slots;
    uint64_t seconds = ns / 1000000000 + 1;
    return seconds > 60 ? 60 : (uint32_t)seconds;
}

void ofr_batch_slots(ofr_batch *batch, ofr_batch_slot_status *ret_slots)
{
    pthread_mutex_lock(&batch->lock);
    memcpy(ret_slots, batch->slot_status, batch->options.engine.n_slots * sizeof *ret_slots);
    pthread_mutex_unlock(&batch->lock);
}
