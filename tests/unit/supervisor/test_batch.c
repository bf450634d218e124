/* Continuous batching over a model of the test's own, whose next token is a checksum of all tokens
 * in the slot's strips: a sequence that was mixed up with another, or lost a row, says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/serve/batch.h"

enum { SLOTS = 3, CONTEXT = 96, CHUNK = 16, VOCAB = 251, SEQUENCES = 12, CHANGES = 5 };

/* A job on its way, where prompts and answers are on different devices. */
struct model_job {
    bool used, prompt;
    int status;
    uint32_t n_slots, slots[SLOTS];
    float logits[SLOTS][VOCAB];
    uint32_t n_candidates;
};

struct model {
    bool overlaps;
    struct model_job on_way[2];
    uint32_t passed; /* decode jobs that ended while a prompt's was on its way */
    int32_t strips[SLOTS][CONTEXT];
    uint32_t n[SLOTS];
    float logits[SLOTS][VOCAB];
    uint32_t n_candidates; /* of a row of the last job; 0: logits */
    ofr_candidate candidates[OFR_CANDIDATES_MAX];
    uint32_t candidate_jobs, logit_jobs;
    uint32_t jobs, fail_at, reconnects, waits, copies;
    uint32_t change_every, asked; /* another plan is due every so many times that it is asked for */
    atomic_bool change_idle;      /* or when nothing runs, once */
    bool keeps_rows;              /* then */
    _Atomic uint32_t changes; /* up to CHANGES, so that what is forwarded again comes to an end */
    int fail_code;
    bool refuse_recovery, hold;
    pthread_mutex_t lock;
    pthread_cond_t go;
};

static int32_t after(const int32_t *tokens, uint32_t n)
{
    uint32_t sum = 17;
    for (uint32_t i = 0; i < n; i++)
        sum = sum * 31 + (uint32_t)tokens[i] + i;
    return (int32_t)(sum % VOCAB);
}

static int model_run(void *user, const ofr_client_job *job, ofr_client_result *ret, ofr_error *err)
{
    struct model *m = user;
    const int32_t *tokens = job->tokens;
    uint32_t total = 0;
    pthread_mutex_lock(&m->lock);
    while (m->hold)
        pthread_cond_wait(&m->go, &m->lock);
    pthread_mutex_unlock(&m->lock);
    if (m->fail_at && ++m->jobs == m->fail_at) {
        m->fail_at = 0;
        memset(m->n, 0, sizeof m->n);
        memset(m->strips, 0xff, sizeof m->strips);
        return ofr_fail(err, m->fail_code, "lost");
    }
    for (uint32_t i = 0; i < job->n_segments; i++) {
        const ofr_segment *s = &job->segments[i];
        assert_true(s->slot < SLOTS && s->n_tokens > 0 && s->position <= m->n[s->slot]);
        assert_true(s->position + s->n_tokens <= CONTEXT);
        memcpy(m->strips[s->slot] + s->position, tokens, s->n_tokens * sizeof *tokens);
        m->n[s->slot] = s->position + s->n_tokens;
        memset(m->logits[i], 0, sizeof m->logits[i]);
        m->logits[i][job->output == OFR_FORWARD_OUTPUT_HIDDEN_SUM
                         ? 0
                         : after(m->strips[s->slot], m->n[s->slot])] = 1;
        tokens += s->n_tokens;
        total += s->n_tokens;
    }
    assert_true(total <= CHUNK);
    bool chosen = job->output == OFR_FORWARD_OUTPUT_CANDIDATES;
    m->n_candidates = chosen ? job->n_candidates : 0;
    m->candidate_jobs += chosen;
    m->logit_jobs += job->output == OFR_FORWARD_OUTPUT_LAST;
    *ret = (ofr_client_result){0};
    return 0;
}

static int model_submit(void *user, const ofr_client_job *job, uint32_t *ret_ticket, ofr_error *err)
{
    struct model *m = user;
    uint32_t ticket = m->on_way[0].used;
    struct model_job *made = &m->on_way[ticket], *other = &m->on_way[!ticket];
    assert_false(made->used);
    *made = (struct model_job){.used = true, .n_slots = job->n_segments};
    for (uint32_t i = 0; i < job->n_segments; i++) {
        made->slots[i] = job->segments[i].slot;
        made->prompt = made->prompt || job->segments[i].n_tokens > 1;
        for (uint32_t k = 0; other->used && k < other->n_slots; k++)
            assert_true(other->slots[k] != made->slots[i]);
    }
    assert_true(!other->used || other->prompt != made->prompt);
    ofr_client_result result;
    made->status = model_run(m, job, &result, err);
    if (made->status < 0)
        other->status = made->status;
    memcpy(made->logits, m->logits, sizeof made->logits);
    made->n_candidates = m->n_candidates;
    *ret_ticket = ticket;
    return 0;
}

static int model_wait_ticket(void *user, uint32_t ticket, ofr_client_result *ret, ofr_error *err)
{
    struct model *m = user;
    struct model_job *job = &m->on_way[ticket];
    assert_true(job->used);
    job->used = false;
    memcpy(m->logits, job->logits, sizeof m->logits);
    m->n_candidates = job->n_candidates;
    *ret = (ofr_client_result){0};
    return job->status < 0 ? ofr_fail(err, job->status, "lost") : 0;
}

/* A prompt's job takes as long as three of the others. */
static int model_wait_any(void *user, uint32_t *ret_ticket, ofr_error *err)
{
    struct model *m = user;
    assert_true(m->on_way[0].used && m->on_way[1].used);
    if (m->on_way[0].status < 0)
        return ofr_fail(err, m->on_way[0].status, "lost");
    bool prompt = m->passed % 4 == 3;
    m->passed++;
    *ret_ticket = m->on_way[1].prompt == prompt;
    return 0;
}

static bool model_overlaps(void *user)
{
    return ((struct model *)user)->overlaps;
}

static const float *model_logits(void *user, uint32_t row)
{
    struct model *m = user;
    assert_int_equal(m->n_candidates, 0);
    return m->logits[row];
}

static const ofr_candidate *model_candidates(void *user, uint32_t row)
{
    struct model *m = user;
    assert_true(m->n_candidates > 0);
    ofr_candidates_select(m->logits[row], VOCAB, m->n_candidates, m->candidates);
    return m->candidates;
}

static int model_wait(void *user, uint32_t timeout_ms, ofr_error *err)
{
    struct model *m = user;
    (void)timeout_ms;
    m->waits++;
    return m->refuse_recovery ? ofr_fail(err, OFR_EINTERNAL, "quarantined") : 0;
}

static const int32_t *model_tokens(void *user, uint32_t slot, uint32_t *ret_n)
{
    struct model *m = user;
    *ret_n = m->n[slot];
    return m->strips[slot];
}

static int model_copy(void *user, uint32_t from, uint32_t to, uint32_t n, ofr_error *err)
{
    struct model *m = user;
    (void)err;
    assert_true(from != to && n <= m->n[from]);
    memcpy(m->strips[to], m->strips[from], n * sizeof m->strips[to][0]);
    m->n[to] = n;
    m->copies++;
    return 0;
}

static int model_reconnect(void *user, ofr_error *err)
{
    struct model *m = user;
    (void)err;
    m->reconnects++;
    return 0;
}

static bool model_plan_is_due(void *user, bool idle)
{
    struct model *m = user;
    if (idle)
        return m->change_idle && m->changes == 0;
    return m->change_every && m->changes < CHANGES && ++m->asked % m->change_every == 0;
}

/* A device that joins takes the last slot for its test; another slot loses some rows. */
static int model_change_plan(void *user, ofr_error *err)
{
    struct model *m = user;
    (void)err;
    assert_false(m->on_way[0].used || m->on_way[1].used);
    for (uint32_t slot = 0; slot < SLOTS && !m->keeps_rows; slot++) {
        m->n[slot] = slot == SLOTS - 1 ? 0 : slot == 0 ? m->n[slot] / 2 : m->n[slot];
        memset(m->strips[slot] + m->n[slot], 0xff,
               (CONTEXT - m->n[slot]) * sizeof m->strips[slot][0]);
    }
    m->overlaps = !m->overlaps;
    m->changes++;
    return 0;
}

static ofr_batch *start(struct model *m, uint32_t waiting_max)
{
    ofr_batch_options options = {
        .engine = {.engine = {.run = model_run,
                              .logits = model_logits,
                              .candidates = model_candidates,
                              .wait_ready = model_wait,
                              .submit = model_submit,
                              .wait = model_wait_ticket,
                              .user = m,
                              .context = CONTEXT,
                              .chunk_max = CHUNK,
                              .vocab_size = VOCAB},
                   .n_slots = SLOTS,
                   .slot_tokens = model_tokens,
                   .copy = model_copy,
                   .reconnect = model_reconnect,
                   .overlaps = model_overlaps,
                   .wait_any = model_wait_any,
                   .plan_is_due = model_plan_is_due,
                   .change_plan = model_change_plan},
        .waiting_max = waiting_max,
    };
    ofr_batch *batch = NULL;
    ofr_error err = {0};
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->go, NULL);
    assert_int_equal(ofr_batch_new(&options, &batch, &err), 0);
    return batch;
}

static void hold(struct model *m, bool held)
{
    pthread_mutex_lock(&m->lock);
    m->hold = held;
    pthread_cond_broadcast(&m->go);
    pthread_mutex_unlock(&m->lock);
}

/* What a test knows of one sequence. */
struct heard {
    int32_t tokens[CONTEXT];
    uint32_t n_prompt, n, wanted;
    uint32_t candidates; /* that are enough for it */
    int status;
    bool ended;
    uint32_t order, chunks;
    double sum;
    atomic_bool canceled;
    ofr_batch_report report;
};
static pthread_mutex_t heard_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t heard_end = PTHREAD_COND_INITIALIZER;
static uint32_t ends;

static uint32_t hear_wanted(void *user)
{
    return ((struct heard *)user)->candidates;
}

static int hear(void *user, const ofr_prediction *prediction, int32_t *ret_token, ofr_error *err)
{
    struct heard *h = user;
    int32_t token = 0;
    (void)err;
    if (prediction->logits) {
        assert_null(prediction->candidates);
        while (prediction->logits[token] == 0)
            token++;
    } else {
        assert_true(h->candidates > 0 && prediction->n_candidates >= h->candidates);
        token = prediction->candidates[0].token;
    }
    h->tokens[h->n++] = token;
    *ret_token = h->n == h->n_prompt + h->wanted ? -1 : token;
    return 0;
}

static int hear_sum(void *user, const float *sums, uint32_t position, uint32_t n, ofr_error *err)
{
    struct heard *h = user;
    (void)err;
    if (position == 0) {
        h->sum = 0;
        h->n = h->chunks = 0;
    }
    assert_int_equal(position, h->n);
    h->sum += (double)sums[0];
    h->chunks++;
    h->n += n;
    return 0;
}

static void hear_end(void *user, int status, const ofr_error *err, const ofr_batch_report *report)
{
    struct heard *h = user;
    (void)err;
    pthread_mutex_lock(&heard_lock);
    h->status = status;
    h->report = *report;
    h->ended = true;
    h->order = ends++;
    pthread_cond_broadcast(&heard_end);
    pthread_mutex_unlock(&heard_lock);
}

static void wait_for(struct heard *h)
{
    pthread_mutex_lock(&heard_lock);
    while (!h->ended)
        pthread_cond_wait(&heard_end, &heard_lock);
    pthread_mutex_unlock(&heard_lock);
}

static ofr_batch_request request(struct heard *h, uint32_t n_prompt, uint32_t wanted, int32_t salt)
{
    h->n_prompt = h->n = n_prompt;
    h->wanted = wanted;
    for (uint32_t i = 0; i < n_prompt; i++)
        h->tokens[i] = (int32_t)((uint32_t)salt * 7 + i * 3) % VOCAB;
    return (ofr_batch_request){.tokens = h->tokens,
                               .n_tokens = n_prompt,
                               .owner = (uint64_t)salt,
                               .canceled = &h->canceled,
                               .next = hear,
                               .candidates_wanted = hear_wanted,
                               .embed_sum = hear_sum,
                               .end = hear_end,
                               .user = h};
}

static void check_text(const struct heard *h)
{
    assert_int_equal(h->status, 0);
    assert_int_equal(h->n, h->n_prompt + h->wanted);
    for (uint32_t i = h->n_prompt; i < h->n; i++)
        assert_int_equal(h->tokens[i], after(h->tokens, i));
}

static void submit(ofr_batch *batch, const ofr_batch_request *requests, uint32_t n)
{
    ofr_error err = {0};
    assert_int_equal(ofr_batch_submit(batch, requests, n, &err), 0);
}

static const uint32_t mixed[3] = {0, 1, 5}, few[3] = {7, 1, 5}, none[3] = {0, 0, 0};

/* i-th sequence: `candidates[i % 3]` are enough for it. */
static void run_many(struct model *m, const uint32_t candidates[3])
{
    static struct heard heard[SEQUENCES];
    memset(heard, 0, sizeof heard);
    ofr_batch *batch = start(m, SEQUENCES);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        ofr_batch_request r = request(&heard[i], 1 + i * 5, 10 + i % 4, (int32_t)i);
        heard[i].candidates = candidates[i % 3];
        submit(batch, &r, 1);
    }
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        wait_for(&heard[i]);
        check_text(&heard[i]);
    }
    const ofr_batch_counters *counters = ofr_batch_get_counters(batch);
    assert_int_equal(atomic_load(&counters->waiting), 0);
    if (!m->change_every)
        assert_int_equal(atomic_load(&counters->overlapped_jobs) > 0, m->overlaps);
    ofr_batch_free(batch);
}

static void sequences_are_not_mixed_up(void **state)
{
    (void)state;
    struct model m = {0};
    run_many(&m, mixed);
}

/* A job of sequences that candidates are enough for gives no logits; one that serves another, too,
 * gives logits to all. */
static void candidates_come_where_they_are_enough_for_all(void **state)
{
    (void)state;
    for (int overlaps = 0; overlaps < 2; overlaps++) {
        struct model m = {.overlaps = overlaps};
        run_many(&m, few);
        assert_true(m.candidate_jobs > 0 && m.logit_jobs == 0);
        m = (struct model){.overlaps = overlaps};
        run_many(&m, none);
        assert_true(m.candidate_jobs == 0 && m.logit_jobs > 0);
        m = (struct model){.overlaps = overlaps};
        run_many(&m, mixed);
        assert_true(m.candidate_jobs > 0 && m.logit_jobs > 0);
    }
}

static void a_lost_worker_costs_no_sequence(void **state)
{
    (void)state;
    for (uint32_t at = 1; at < 40; at += 3) {
        struct model m = {.fail_at = at, .fail_code = OFR_EDEVICE};
        run_many(&m, mixed);
        assert_int_equal(m.waits, 1);
    }
}

static void prompts_and_answers_go_on_at_once(void **state)
{
    (void)state;
    struct model m = {.overlaps = true};
    run_many(&m, mixed);
    assert_true(m.passed > 0);
    for (uint32_t at = 3; at < 40; at += 2) {
        struct model lost = {.overlaps = true, .fail_at = at, .fail_code = OFR_EDEVICE};
        run_many(&lost, mixed);
        assert_int_equal(lost.waits, 1);
    }
    struct model gone = {.overlaps = true, .fail_at = 9, .fail_code = OFR_EGONE};
    run_many(&gone, mixed);
    assert_int_equal(gone.reconnects, 1);
}

static void another_plan_costs_no_sequence(void **state)
{
    (void)state;
    for (uint32_t every = 1; every < 12; every++) {
        struct model m = {.change_every = every, .overlaps = every % 2};
        run_many(&m, mixed);
        assert_int_equal(m.changes, CHANGES);
        assert_int_equal(m.reconnects + m.waits, 0);
    }
    /* Rows that are left are not forwarded again. */
    struct model m = {.change_every = 2, .keeps_rows = true};
    static struct heard h[2];
    memset(h, 0, sizeof h);
    ofr_batch *batch = start(&m, 9);
    hold(&m, true);
    for (int32_t i = 0; i < 2; i++) {
        ofr_batch_request r = request(&h[i], 8, 12, i);
        submit(batch, &r, 1);
    }
    hold(&m, false);
    for (uint32_t i = 0; i < 2; i++) {
        wait_for(&h[i]);
        check_text(&h[i]);
    }
    assert_int_equal(m.changes, CHANGES);
    assert_int_equal(atomic_load(&ofr_batch_get_counters(batch)->prefill_tokens), 8 + 8);
    ofr_batch_free(batch);
}

static void another_plan_is_taken_while_idle(void **state)
{
    (void)state;
    struct model m = {0};
    static struct heard h;
    memset(&h, 0, sizeof h);
    ofr_batch *batch = start(&m, 9);
    ofr_batch_request r = request(&h, 8, 12, 1);
    submit(batch, &r, 1);
    wait_for(&h);
    assert_int_equal(m.changes, 0);
    m.change_idle = true;
    ofr_batch_wake(batch);
    while (atomic_load(&m.changes) == 0)
        sched_yield();
    h.ended = false;
    r = request(&h, 8, 12, 1);
    submit(batch, &r, 1);
    wait_for(&h);
    check_text(&h);
    ofr_batch_free(batch);
    assert_int_equal(m.changes, 1);
}

static void a_lost_executive_is_replaced(void **state)
{
    (void)state;
    struct model m = {.fail_at = 5, .fail_code = OFR_EGONE};
    run_many(&m, mixed);
    assert_int_equal(m.reconnects, 1);
}

static void a_device_that_stays_away_ends_them(void **state)
{
    (void)state;
    struct model m = {.fail_at = 3, .fail_code = OFR_EDEVICE, .refuse_recovery = true};
    struct heard a = {0}, b = {0};
    ofr_batch *batch = start(&m, 9);
    ofr_batch_request r = request(&a, 5, 20, 1);
    submit(batch, &r, 1);
    wait_for(&a);
    assert_int_equal(a.status, OFR_EINTERNAL);
    r = request(&b, 5, 20, 2);
    submit(batch, &r, 1); /* the next one finds the device back */
    wait_for(&b);
    check_text(&b);
    ofr_batch_free(batch);
}

static void prefixes_are_reused_and_copied(void **state)
{
    (void)state;
    struct model m = {0};
    static struct heard first, second, group[3];
    memset(&first, 0, sizeof first);
    memset(&second, 0, sizeof second);
    memset(group, 0, sizeof group);
    ofr_batch *batch = start(&m, 9);
    ofr_batch_request r = request(&first, 50, 3, 1);
    submit(batch, &r, 1);
    wait_for(&first);
    r = request(&second, 50, 3, 1);
    r.n_tokens = 53;
    second.n_prompt = second.n = 53;
    memcpy(second.tokens, first.tokens, sizeof second.tokens);
    submit(batch, &r, 1);
    wait_for(&second);
    check_text(&second);
    assert_int_equal(second.report.n_reused, 52);
    ofr_batch_request three[3];
    for (uint32_t i = 0; i < 3; i++)
        three[i] = request(&group[i], 40, 5 + i, 99);
    submit(batch, three, 3);
    for (uint32_t i = 0; i < 3; i++) {
        wait_for(&group[i]);
        check_text(&group[i]);
    }
    assert_int_equal(m.copies, 2);
    assert_int_equal(group[1].report.n_reused, 39);
    r = request(&first, 50, 3, 1);
    first.ended = false;
    r.fresh = true;
    submit(batch, &r, 1);
    wait_for(&first);
    check_text(&first);
    assert_int_equal(first.report.n_reused, 0);
    ofr_batch_free(batch);
}

static void limits_and_refusals(void **state)
{
    (void)state;
    struct model m = {0};
    static struct heard full, many[SLOTS + 3];
    memset(&full, 0, sizeof full);
    memset(many, 0, sizeof many);
    ofr_batch *batch = start(&m, 2);
    ofr_error err = {0};
    ofr_batch_request r = request(&full, CONTEXT, 1, 1);
    assert_int_equal(ofr_batch_submit(batch, &r, 1, &err), OFR_ELIMIT);
    r.n_tokens = 0;
    assert_int_equal(ofr_batch_submit(batch, &r, 1, &err), OFR_EINVAL);
    r = request(&full, 80, CONTEXT, 1);
    submit(batch, &r, 1);
    wait_for(&full);
    assert_int_equal(full.status, OFR_ELIMIT);
    assert_int_equal(full.n, CONTEXT);
    hold(&m, true);
    for (uint32_t i = 0; i < SLOTS; i++) {
        r = request(&many[i], 4, 4, (int32_t)i);
        submit(batch, &r, 1);
        /* Only when it runs, so that the queue is as long as the test thinks. */
        while (atomic_load(&ofr_batch_get_counters(batch)->waiting) > (i > 0 ? i : 0))
            ;
    }
    uint32_t accepted = SLOTS;
    int result = 0;
    while (accepted < SLOTS + 3 && result == 0) {
        r = request(&many[accepted], 4, 4, (int32_t)accepted);
        result = ofr_batch_submit(batch, &r, 1, &err);
        accepted += result == 0;
    }
    assert_int_equal(result, OFR_EBUSY);
    assert_true(ofr_batch_retry_after(batch) >= 1);
    hold(&m, false);
    for (uint32_t i = 0; i < accepted; i++) {
        wait_for(&many[i]);
        check_text(&many[i]);
    }
    ofr_batch_free(batch);
}

static void canceled_and_stopped(void **state)
{
    (void)state;
    struct model m = {0};
    static struct heard heard[6];
    memset(heard, 0, sizeof heard);
    ofr_batch *batch = start(&m, 9);
    hold(&m, true);
    for (uint32_t i = 0; i < 6; i++) {
        ofr_batch_request r = request(&heard[i], 6, 80, (int32_t)i);
        submit(batch, &r, 1);
    }
    atomic_store(&heard[0].canceled, true); /* runs */
    atomic_store(&heard[5].canceled, true); /* waits */
    hold(&m, false);
    wait_for(&heard[0]);
    wait_for(&heard[5]);
    assert_int_equal(heard[0].status, OFR_ECANCELED);
    assert_int_equal(heard[5].status, OFR_ECANCELED);
    ofr_batch_free(batch);
    for (uint32_t i = 0; i < 6; i++)
        assert_true(heard[i].ended);
}

static void owners_share_the_slots(void **state)
{
    (void)state;
    struct model m = {0};
    static struct heard greedy[8], modest;
    memset(greedy, 0, sizeof greedy);
    memset(&modest, 0, sizeof modest);
    ofr_batch *batch = start(&m, 20);
    hold(&m, true);
    for (uint32_t i = 0; i < 8; i++) {
        ofr_batch_request r = request(&greedy[i], 6, 20, (int32_t)i);
        r.owner = 1;
        submit(batch, &r, 1);
    }
    ofr_batch_request r = request(&modest, 6, 20, 77);
    r.owner = 2;
    submit(batch, &r, 1);
    ends = 0;
    hold(&m, false);
    wait_for(&modest);
    for (uint32_t i = 0; i < 8; i++)
        wait_for(&greedy[i]);
    /* It came last, and did not wait for all that came before it. */
    assert_true(modest.order < 6);
    ofr_batch_free(batch);
}

static void embeddings_see_every_token(void **state)
{
    (void)state;
    struct model models[] = {
        {0},
        {.fail_at = 4, .fail_code = OFR_EDEVICE},
        {.change_every = 4},
    };
    static struct heard h;
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        memset(&h, 0, sizeof h);
        ofr_batch *batch = start(&models[i], 9);
        ofr_batch_request r = request(&h, CONTEXT, 0, 3);
        r.embed = true;
        submit(batch, &r, 1);
        wait_for(&h);
        assert_int_equal(h.status, 0);
        /* Each once, also where a device was lost or the plan changed on the way. */
        assert_int_equal(h.n, CONTEXT);
        assert_int_equal(h.chunks, CONTEXT / CHUNK);
        assert_true(h.sum == CONTEXT / CHUNK);
        ofr_batch_free(batch);
    }
    assert_int_equal(models[1].waits, 1);
    assert_int_equal(models[2].changes > 0, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_are_not_mixed_up),
        cmocka_unit_test(candidates_come_where_they_are_enough_for_all),
        cmocka_unit_test(a_lost_worker_costs_no_sequence),
        cmocka_unit_test(prompts_and_answers_go_on_at_once),
        cmocka_unit_test(another_plan_costs_no_sequence),
        cmocka_unit_test(another_plan_is_taken_while_idle),
        cmocka_unit_test(a_lost_executive_is_replaced),
        cmocka_unit_test(a_device_that_stays_away_ends_them),
        cmocka_unit_test(prefixes_are_reused_and_copied),
        cmocka_unit_test(limits_and_refusals),
        cmocka_unit_test(canceled_and_stopped),
        cmocka_unit_test(owners_share_the_slots),
        cmocka_unit_test(embeddings_see_every_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
