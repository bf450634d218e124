/* Sequences: what is forwarded again and what is not, chunks, lost workers, cancellation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "supervisor/sequence.h"

enum { CONTEXT = 32, CHUNK = 4, VOCAB = 8, JOBS = 64 };

/* A model that keeps the tokens it was given as its "KV", and whose logits say how many there are
 * and what they sum up to. */
struct model {
    int32_t kv[CONTEXT];
    uint32_t calls, tokens, waits;
    uint32_t fail_at; /* call that fails, from 1; 0: none */
    uint32_t fail_count;
    int fail_code;
    float logits[VOCAB];
    ofr_candidate candidate; /* (tokens, their sum), of a job that asks for candidates */
    uint32_t n_candidates;   /* of the last job */
    volatile sig_atomic_t *cancel_at_end; /* set after the first call */
    /* Of an engine that takes jobs ahead: */
    int status[2];
    ofr_error reason[2];
    uint32_t on_their_way, most_on_their_way, submitted;
    bool decoding;       /* what is on its way has one token */
    uint32_t jobs[JOBS]; /* tokens of each */
};

static int model_run(void *user, const ofr_client_job *job, ofr_client_result *ret_result,
                     ofr_error *err)
{
    struct model *m = user;
    m->calls++;
    if (m->fail_at && m->calls >= m->fail_at && m->calls < m->fail_at + m->fail_count) {
        memset(m->kv, 0xff, sizeof m->kv);
        return ofr_fail(err, m->fail_code, "worker lost in call %u", m->calls);
    }
    assert_int_equal(job->n_segments, 1);
    const ofr_segment *s = job->segments;
    assert_int_equal(s->slot, 3);
    assert_in_range(s->n_tokens, 1, CHUNK);
    assert_in_range(s->position + s->n_tokens, 1, CONTEXT);
    memcpy(m->kv + s->position, job->tokens, s->n_tokens * sizeof *m->kv);
    m->tokens += s->n_tokens;
    memset(m->logits, 0, sizeof m->logits);
    m->n_candidates = 0;
    if (job->output == OFR_FORWARD_OUTPUT_LAST || job->output == OFR_FORWARD_OUTPUT_CANDIDATES) {
        m->logits[0] = (float)(s->position + s->n_tokens);
        for (uint32_t i = 0; i < s->position + s->n_tokens; i++)
            m->logits[1] += (float)m->kv[i];
    } else {
        assert_int_equal(job->output, OFR_FORWARD_OUTPUT_NONE);
    }
    if (job->output == OFR_FORWARD_OUTPUT_CANDIDATES) {
        m->n_candidates = job->n_candidates;
        m->candidate = (ofr_candidate){(int32_t)m->logits[0], m->logits[1]};
        memset(m->logits, 0xff, sizeof m->logits); /* nobody is to read them */
    }
    ret_result->worker_ns = 10;
    if (m->cancel_at_end)
        *m->cancel_at_end = 1;
    return 0;
}

static const float *model_logits(void *user, uint32_t row)
{
    assert_int_equal(row, 0);
    return ((struct model *)user)->logits;
}

static const ofr_candidate *model_candidates(void *user, uint32_t row)
{
    struct model *m = user;
    assert_int_equal(row, 0);
    assert_true(m->n_candidates > 0);
    return &m->candidate;
}

static int model_wait_ready(void *user, uint32_t timeout_ms, ofr_error *err)
{
    (void)timeout_ms;
    (void)err;
    ((struct model *)user)->waits++;
    return 0;
}

static void begin(struct model *m, ofr_sequence *sequence)
{
    *m = (struct model){0};
    ofr_engine engine = {.run = model_run,
                         .logits = model_logits,
                         .wait_ready = model_wait_ready,
                         .user = m,
                         .context = CONTEXT,
                         .chunk_max = CHUNK,
                         .vocab_size = VOCAB};
    assert_int_equal(ofr_sequence_init(sequence, &engine, 3, NULL), 0);
}

static int model_submit(void *user, const ofr_client_job *job, uint32_t *ret_ticket, ofr_error *err)
{
    struct model *m = user;
    ofr_client_result result;
    (void)err;
    assert_int_equal(job->prompt_tokens, 11);
    uint32_t ticket = m->submitted++ % 2;
    m->status[ticket] = model_run(m, job, &result, &m->reason[ticket]);
    if (++m->on_their_way > m->most_on_their_way)
        m->most_on_their_way = m->on_their_way;
    *ret_ticket = ticket;
    return 0;
}

static int model_wait(void *user, uint32_t ticket, ofr_client_result *ret_result, ofr_error *err)
{
    struct model *m = user;
    assert_in_range(m->on_their_way, 1, 2);
    m->on_their_way--;
    ret_result->worker_ns = 10;
    if (m->status[ticket] < 0)
        *err = m->reason[ticket];
    return m->status[ticket];
}

static uint32_t model_chunk(void *user, uint32_t prompt_tokens)
{
    (void)user;
    assert_int_equal(prompt_tokens, 11);
    return 3;
}

/* Sets the tokens, forwards, and checks that the model saw exactly them. */
static void forward(struct model *m, ofr_sequence *sequence, const int32_t *tokens, uint32_t n,
                    uint32_t reused_expected)
{
    uint32_t reused = 99;
    ofr_prediction next = {0};
    float sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (float)tokens[i];
    assert_int_equal(ofr_sequence_set(sequence, tokens, n, &reused, NULL), 0);
    assert_int_equal(reused, reused_expected);
    m->tokens = 0;
    assert_int_equal(ofr_sequence_forward(sequence, NULL, 0, &next, NULL), 0);
    assert_int_equal(m->tokens, n - reused);
    assert_true(next.logits[0] == (float)n);
    assert_true(next.logits[1] == sum);
    assert_memory_equal(m->kv, tokens, n * sizeof *tokens);
}

static void only_the_new_suffix_is_forwarded(void **state)
{
    (void)state;
    struct model m;
    ofr_sequence s;
    begin(&m, &s);
    forward(&m, &s, (int32_t[]){1, 2, 3, 4, 5, 6}, 6, 0);
    assert_int_equal(m.calls, 2); /* chunks of 4 */
    forward(&m, &s, (int32_t[]){1, 2, 3, 4, 5, 6, 7, 8}, 8, 6);
    forward(&m, &s, (int32_t[]){1, 2, 9, 4, 5, 6, 7, 8}, 8, 2); /* differs in the middle */
    forward(&m, &s, (int32_t[]){1, 2, 9, 4, 5, 6, 7, 8}, 8, 7); /* the same: its last again */
    forward(&m, &s, (int32_t[]){1, 2, 9}, 3, 2);                /* shorter */
    forward(&m, &s, (int32_t[]){1, 2, 9, 4, 5, 6, 7, 8}, 8, 3); /* what was cut is not kept */
    forward(&m, &s, (int32_t[]){5, 5}, 2, 0);
    ofr_sequence_invalidate(&s);
    forward(&m, &s, (int32_t[]){5, 5, 6}, 3, 0);
    ofr_sequence_done(&s);
}

static void appended_tokens_count_as_prefix(void **state)
{
    (void)state;
    struct model m;
    ofr_sequence s;
    ofr_prediction next = {0};
    begin(&m, &s);
    forward(&m, &s, (int32_t[]){1, 2}, 2, 0);
    assert_int_equal(ofr_sequence_append(&s, 7, NULL), 0);
    assert_int_equal(ofr_sequence_forward(&s, NULL, 0, &next, NULL), 0);
    assert_true(next.logits[0] == 3 && next.logits[1] == 10);
    assert_int_equal(ofr_sequence_append(&s, 6, NULL), 0); /* not forwarded */
    forward(&m, &s, (int32_t[]){1, 2, 7, 6, 5}, 5, 3);
    assert_int_equal(s.worker_ns, 10 * m.calls);
    ofr_sequence_done(&s);
}

static void a_lost_worker_costs_a_repetition(void **state)
{
    (void)state;
    struct model m;
    ofr_sequence s;
    ofr_prediction next = {0};
    begin(&m, &s);
    forward(&m, &s, (int32_t[]){1, 2, 3, 4, 5, 6}, 6, 0);
    m.fail_at = m.calls + 1;
    m.fail_count = 1;
    m.fail_code = OFR_EDEVICE;
    m.tokens = 0;
    assert_int_equal(ofr_sequence_append(&s, 7, NULL), 0);
    assert_int_equal(ofr_sequence_forward(&s, NULL, 0, &next, NULL), 0);
    assert_int_equal(m.tokens, 7);
    assert_int_equal(m.waits, 1);
    assert_int_equal(s.recoveries, 1);
    assert_true(next.logits[0] == 7 && next.logits[1] == 28);
    ofr_sequence_done(&s);
}

static void a_worker_lost_again_and_again_is_an_error(void **state)
{
    (void)state;
    struct model m;
    ofr_sequence s;
    ofr_prediction next = {0};
    ofr_error err = {0};
    begin(&m, &s);
    m.fail_at = 2;
    m.fail_count = 1000;
    m.fail_code = OFR_EDEVICE;
    assert_int_equal(ofr_sequence_set(&s, (int32_t[]){1, 2, 3, 4, 5, 6}, 6, NULL, NULL), 0);
    assert_int_equal(ofr_sequence_forward(&s, NULL, 0, &next, &err), OFR_EDEVICE);
    assert_non_null(strstr(err.text, "worker lost"));
    assert_int_equal(m.waits, OFR_SEQUENCE_MAX_RECOVERIES);
    m.fail_at = 0;
    forward(&m, &s, (int32_t[]){1, 2, 3, 4, 5, 6}, 6, 0);
    ofr_sequence_done(&s);
}

static void other_errors_are_passed_on(void **state)
{
    (void)state;
    struct model m;
    ofr_sequence s;
    ofr_prediction next = {0};
    ofr_error err = {0};
    begin(&m, &s);
    forward(&m, &s, (int32_t[]){1, 2}, 2, 0);
    m.fail_at = m.calls + 1;
    m.fail_count = 1;
    m.fail_code = OFR_EGONE;
    assert_int_equal(ofr_sequence_append(&s, 7, NULL), 0);
    assert_int_equal(ofr_sequence_forward(&s, NULL, 0, &next, &err), OFR_EGONE);
    assert_int_equal(m.waits, 0);
    forward(&m, &s, (int32_t[]){1, 2, 3}, 3, 0); /* nothing is believed to be kept */
    ofr_sequence_done(&s);
}

static void cancellation_keeps_what_was_forwarded(void **state)
{
    (void)state;
    struct model m;
    ofr_sequence s;
    ofr_prediction next = {0};
    volatile sig_atomic_t cancel = 0;
    begin(&m, &s);
    m.cancel_at_end = &cancel;
    const int32_t tokens[] = {1, 2, 3, 4, 5, 6};
    assert_int_equal(ofr_sequence_set(&s, tokens, 6, NULL, NULL), 0);
    assert_int_equal(ofr_sequence_forward(&s, &cancel, 0, &next, NULL), OFR_ECANCELED);
    assert_int_equal(m.calls, 1);
    forward(&m, &s, tokens, 6, CHUNK);
    ofr_sequence_done(&s);
}

/* Two chunks on their way at a time, of the length that the engine wants; a failure of one ends the
 * other, too. */
static void chunks_follow_each_other(void **state)
{
    (void)state;
    struct model m;
    ofr_sequence s;
    begin(&m, &s);
    s.engine.run = NULL;
    s.engine.submit = model_submit;
    s.engine.wait = model_wait;
    s.engine.chunk = model_chunk;
    const int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    forward(&m, &s, tokens, 11, 0);
    assert_int_equal(m.calls, 4);
    assert_int_equal(m.most_on_their_way, 2);
    assert_int_equal(m.on_their_way, 0);
    ofr_sequence_invalidate(&s);
    m.fail_at = m.calls + 2;
    m.fail_count = 1;
    m.fail_code = OFR_EDEVICE;
    ofr_prediction next = {0};
    assert_int_equal(ofr_sequence_set(&s, tokens, 11, NULL, NULL), 0);
    assert_int_equal(ofr_sequence_forward(&s, NULL, 0, &next, NULL), 0);
    assert_int_equal(m.waits, 1);
    assert_int_equal(m.on_their_way, 0);
    assert_true(next.logits[0] == 11 && next.logits[1] == 66);
    ofr_sequence_done(&s);
}

/* Two devices, prompts on one and single tokens on the other: a job of either that is submitted
 * while the other's is on its way would read rows that are not there yet. */
static int split_submit(void *user, const ofr_client_job *job, uint32_t *ret_ticket, ofr_error *err)
{
    struct model *m = user;
    (void)err;
    bool decodes = job->segments[0].n_tokens == 1;
    if (m->on_their_way > 0)
        assert_int_equal(decodes, m->decoding);
    m->decoding = decodes;
    m->jobs[m->submitted % JOBS] = job->segments[0].n_tokens;
    ofr_client_result result;
    uint32_t ticket = m->submitted++ % 2;
    m->status[ticket] = model_run(m, job, &result, &m->reason[ticket]);
    if (++m->on_their_way > m->most_on_their_way)
        m->most_on_their_way = m->on_their_way;
    *ret_ticket = ticket;
    return 0;
}

static void replayed_tokens_wait_for_the_prompt(void **state)
{
    (void)state;
    struct model m;
    ofr_sequence s;
    ofr_prediction next = {0};
    begin(&m, &s);
    s.engine.run = NULL;
    s.engine.submit = split_submit;
    s.engine.wait = model_wait;
    int32_t tokens[] = {1, 2, 3, 4, 5, 6};
    forward(&m, &s, tokens, 6, 0); /* jobs of 4 and 2 */
    assert_int_equal(m.most_on_their_way, 2);
    for (int32_t token = 7; token < 10; token++) {
        assert_int_equal(ofr_sequence_append(&s, token, NULL), 0);
        assert_int_equal(ofr_sequence_forward(&s, NULL, 0, &next, NULL), 0);
    }
    /* The worker is lost at the next token: everything again, in the jobs of before. */
    m.fail_at = m.calls + 1;
    m.fail_count = 1;
    m.fail_code = OFR_EDEVICE;
    assert_int_equal(ofr_sequence_append(&s, 10, NULL), 0);
    uint32_t before = m.submitted;
    assert_int_equal(ofr_sequence_forward(&s, NULL, 0, &next, NULL), 0);
    assert_true(next.logits[0] == 10 && next.logits[1] == 55);
    const uint32_t expected[] = {1, 4, 2, 1, 1, 1, 1}; /* the one that failed first */
    assert_int_equal(m.submitted - before, sizeof expected / sizeof expected[0]);
    assert_memory_equal(m.jobs + before, expected, sizeof expected);
    assert_int_equal(m.on_their_way, 0);
    ofr_sequence_done(&s);
}

/* The last chunk gives them, after a lost worker too; logits where 0 are enough, or where the
 * engine has only those. */
static void candidates_come_where_they_are_enough(void **state)
{
    (void)state;
    struct model m;
    ofr_sequence s;
    ofr_prediction next = {0};
    begin(&m, &s);
    s.engine.candidates = model_candidates;
    m.fail_at = 2;
    m.fail_count = 1;
    m.fail_code = OFR_EDEVICE;
    assert_int_equal(ofr_sequence_set(&s, (int32_t[]){1, 2, 3, 4, 5, 6}, 6, NULL, NULL), 0);
    assert_int_equal(ofr_sequence_forward(&s, NULL, 5, &next, NULL), 0);
    assert_null(next.logits);
    assert_int_equal(next.n_candidates, 5);
    assert_int_equal(m.n_candidates, 5);
    assert_int_equal(next.candidates[0].token, 6);
    assert_true(next.candidates[0].logit == 21);
    assert_int_equal(ofr_sequence_append(&s, 7, NULL), 0);
    assert_int_equal(ofr_sequence_forward(&s, NULL, 0, &next, NULL), 0);
    assert_null(next.candidates);
    assert_int_equal(next.n_candidates, 0);
    assert_true(next.logits[0] == 7 && next.logits[1] == 28);
    s.engine.candidates = NULL;
    assert_int_equal(ofr_sequence_append(&s, 8, NULL), 0);
    assert_int_equal(ofr_sequence_forward(&s, NULL, 5, &next, NULL), 0);
    assert_null(next.candidates);
    assert_true(next.logits[0] == 8 && next.logits[1] == 36);
    ofr_sequence_done(&s);
}

static void limits(void **state)
{
    (void)state;
    struct model m;
    ofr_sequence s;
    ofr_prediction next = {0};
    int32_t tokens[CONTEXT + 1] = {0};
    ofr_error err = {0};
    begin(&m, &s);
    assert_int_equal(ofr_sequence_set(&s, tokens, 0, NULL, &err), OFR_EINVAL);
    assert_int_equal(ofr_sequence_set(&s, tokens, CONTEXT + 1, NULL, &err), OFR_ELIMIT);
    assert_non_null(strstr(err.text, "33 tokens do not fit into a context of 32"));
    forward(&m, &s, tokens, CONTEXT, 0);
    assert_int_equal(ofr_sequence_append(&s, 1, &err), OFR_ELIMIT);
    assert_int_equal(ofr_sequence_forward(&s, NULL, 0, &next, &err), OFR_EINVAL);
    ofr_sequence_done(&s);
    ofr_engine nothing = {0};
    assert_int_equal(ofr_sequence_init(&s, &nothing, 0, &err), OFR_EPROTOCOL);
    ofr_sequence_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_new_suffix_is_forwarded),
        cmocka_unit_test(appended_tokens_count_as_prefix),
        cmocka_unit_test(a_lost_worker_costs_a_repetition),
        cmocka_unit_test(a_worker_lost_again_and_again_is_an_error),
        cmocka_unit_test(other_errors_are_passed_on),
        cmocka_unit_test(cancellation_keeps_what_was_forwarded),
        cmocka_unit_test(chunks_follow_each_other),
        cmocka_unit_test(replayed_tokens_wait_for_the_prompt),
        cmocka_unit_test(candidates_come_where_they_are_enough),
        cmocka_unit_test(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
