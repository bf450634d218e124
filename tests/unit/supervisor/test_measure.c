/* Timed forwards over a model in place of the executive. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "supervisor/measure.h"

struct model {
    uint32_t calls, tokens;
    int fail; /* code of the next call; 0: it works */
    float logits[4];
    int32_t last;
};

static int model_run(void *user, const ofr_client_job *job, ofr_client_result *ret_result,
                     ofr_error *err)
{
    struct model *m = user;
    int code = m->fail;
    m->calls++;
    m->fail = 0;
    if (code)
        return ofr_fail(err, code, "lost");
    for (uint32_t i = 0; i < job->segments[0].n_tokens; i++)
        m->last = job->tokens[i];
    m->tokens += job->segments[0].n_tokens;
    *ret_result = (ofr_client_result){0};
    struct timespec ms = {.tv_nsec = 1000000};
    nanosleep(&ms, NULL);
    return 0;
}

static const float *model_logits(void *user, uint32_t row)
{
    (void)row;
    return ((struct model *)user)->logits;
}

static int model_wait_ready(void *user, uint32_t timeout_ms, ofr_error *err)
{
    (void)user;
    (void)timeout_ms;
    (void)err;
    return 0;
}

static void open_sequence(struct model *m, ofr_sequence *sequence)
{
    ofr_engine engine = {.run = model_run,
                         .logits = model_logits,
                         .wait_ready = model_wait_ready,
                         .user = m,
                         .context = 64,
                         .chunk_max = 16,
                         .vocab_size = 4};
    assert_int_equal(ofr_sequence_init(sequence, &engine, 0, NULL), 0);
}

static void times_what_it_forwards(void **state)
{
    (void)state;
    struct model m = {0};
    ofr_sequence sequence;
    open_sequence(&m, &sequence);
    int32_t ids[] = {1, 2, 3};
    ofr_measure_source source = {.ids = ids, .count = 3};
    uint64_t ns = 0;
    const float *logits = NULL;
    ofr_measure_restart(&sequence, &source);
    assert_int_equal(ofr_measure_prefill(&sequence, &source, 40, &ns, &logits, NULL), 0);
    assert_int_equal(m.tokens, 40);
    assert_ptr_equal(logits, m.logits);
    assert_true(ns >= 3000000); /* three chunks of a millisecond at least */
    uint32_t calls = m.calls;
    assert_int_equal(ofr_measure_decode(&sequence, &source, 4, &ns, NULL), 0);
    assert_int_equal(m.calls, calls + 4);
    assert_int_equal(sequence.n_tokens, 44);
    assert_true(ns >= 4000000);
    ofr_measure_restart(&sequence, &source);
    assert_int_equal(sequence.n_tokens, 0);
    assert_int_equal(ofr_measure_prefill(&sequence, &source, 65, NULL, NULL, NULL), OFR_ELIMIT);
    ofr_sequence_done(&sequence);
}

static void lost_workers_spoil_the_time(void **state)
{
    (void)state;
    struct model m = {.fail = OFR_EDEVICE};
    ofr_sequence sequence;
    open_sequence(&m, &sequence);
    int32_t ids[] = {1};
    ofr_measure_source source = {.ids = ids, .count = 1};
    ofr_error err = {0};
    assert_int_equal(ofr_measure_prefill(&sequence, &source, 4, NULL, NULL, &err), OFR_EDEVICE);
    assert_int_equal(m.tokens, 4); /* the sequence itself went on */
    ofr_sequence_done(&sequence);
}

static void medians(void **state)
{
    (void)state;
    double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2}, one[] = {7};
    assert_true(ofr_measure_median(odd, 3) == 2);
    assert_true(ofr_measure_median(even, 4) == 2.5);
    assert_true(ofr_measure_median(one, 1) == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_what_it_forwards),
        cmocka_unit_test(lost_workers_spoil_the_time),
        cmocka_unit_test(medians),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
