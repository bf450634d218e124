/* A client's jobs with workers that the test plays: what is handed from one to the next, and what a
 * worker that lies in shared memory gets. The segment is ordinary memory of the exact size, so that
 * AddressSanitizer sees who leaves it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "executive_shard/client_internal.h"

enum { SLOTS = 4, VOCAB = 100, CHUNK = 8, CONTEXT = 64, ROWS = 2, WANTED = 5 };

struct rig {
    ofr_client client;
    ofr_ring jobs[OFR_SESSION_WORKERS_MAX],
        completions[OFR_SESSION_WORKERS_MAX]; /* workers' ends */
};

static void open_rig(struct rig *rig, const char *plan, uint32_t vocab)
{
    ofr_error err = {0};
    memset(rig, 0, sizeof *rig);
    ofr_client *client = &rig->client;
    json_t *session =
        json_pack("{s:s, s:i, s:[{s:s, s:i}, {s:s, s:i}]}", "plan", plan, "n_layers", 30, "workers",
                  "name", "cpu", "chunk", CHUNK, "name", "opencl:0", "chunk", CHUNK);
    assert_int_equal(ofr_client_table_read(&client->table, session, CHUNK, &err), 0);
    json_decref(session);
    assert_int_equal(
        ofr_session_layout_init(&client->layout, 2, SLOTS, vocab, CHUNK, CONTEXT, &err), 0);
    client->base = aligned_alloc(4096, client->layout.total_bytes);
    assert_non_null(client->base);
    memset(client->base, 0, client->layout.total_bytes);
    for (uint32_t i = 0; i < 2; i++) {
        ofr_session_rings_init(client->base, &client->layout, i, &client->jobs[i],
                               &client->completions[i]);
        ofr_session_rings_init(client->base, &client->layout, i, &rig->jobs[i],
                               &rig->completions[i]);
    }
    for (uint32_t i = 0; i < OFR_CLIENT_JOBS_MAX; i++) {
        client->flights[i].ids = calloc(CHUNK, sizeof *client->flights[i].ids);
        assert_non_null(client->flights[i].ids);
    }
    pthread_mutex_init(&client->lock, NULL);
}

static void close_rig(struct rig *rig)
{
    for (uint32_t i = 0; i < OFR_CLIENT_JOBS_MAX; i++) {
        free(rig->client.flights[i].ids);
    }
    pthread_mutex_destroy(&rig->client.lock);
    free(rig->client.base);
}

/* One token of each of the first ROWS slots; candidates of each. */
static uint32_t submit(struct rig *rig, uint32_t n_candidates)
{
    static const int32_t tokens[ROWS] = {7, 8};
    const ofr_segment segments[ROWS] = {{.slot = 0, .n_tokens = 1}, {.slot = 1, .n_tokens = 1}};
    const ofr_client_job job = {
        .segments = segments,
        .n_segments = ROWS,
        .tokens = tokens,
        .output = OFR_FORWARD_OUTPUT_CANDIDATES,
        .n_candidates = n_candidates,
    };
    uint32_t ticket = 0;
    ofr_error err = {0};
    assert_int_equal(ofr_client_submit(&rig->client, &job, &ticket, &err), 0);
    return ticket;
}

static ofr_session_job take(struct rig *rig, uint32_t worker)
{
    ofr_session_job job;
    assert_int_equal(ofr_ring_pop(&rig->jobs[worker], &job), 0);
    return job;
}

static void complete(struct rig *rig, uint32_t worker, ofr_session_completion completion)
{
    assert_int_equal(ofr_ring_push(&rig->completions[worker], &completion), 0);
}

static ofr_candidate *row(struct rig *rig, uint32_t i)
{
    return ofr_session_candidates(rig->client.base, &rig->client.layout) +
           (size_t)i * OFR_CANDIDATES_MAX;
}

static void fill_rows(struct rig *rig, uint32_t n, int32_t vocab)
{
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t i = 0; i < n; i++) {
            row(rig, r)[i] = i < (uint32_t)vocab
                                 ? (ofr_candidate){vocab - 1 - (int32_t)i, -(float)i}
                                 : (ofr_candidate){OFR_CANDIDATE_NONE, 0};
        }
    }
}

static int wait(struct rig *rig, uint32_t ticket, ofr_error *err)
{
    ofr_client_result result = {0};
    *err = (ofr_error){0};
    int r = ofr_client_wait(&rig->client, ticket, &result, err);
    assert_true((r == 0) == (result.candidates != NULL));
    return r;
}

static void candidates_that_are_some_are_given(void **state)
{
    (void)state;
    struct rig rig;
    ofr_error err;
    const struct {
        int32_t vocab;
        uint32_t n;
    } cases[] = {{VOCAB, 1}, {VOCAB, WANTED}, {VOCAB, OFR_CANDIDATES_MAX}, {3, WANTED}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        open_rig(&rig, "cpu", (uint32_t)cases[c].vocab);
        uint32_t ticket = submit(&rig, cases[c].n);
        ofr_session_job job = take(&rig, 0);
        assert_int_equal(job.n_candidates, cases[c].n);
        fill_rows(&rig, cases[c].n, cases[c].vocab);
        complete(&rig, 0, (ofr_session_completion){.sequence = job.sequence});
        assert_int_equal(wait(&rig, ticket, &err), 0);
        /* What the worker writes afterwards is not seen. */
        memset(row(&rig, 0), 0xee, OFR_CANDIDATES_MAX * sizeof(ofr_candidate));
        for (uint32_t r = 0; r < ROWS; r++) {
            assert_int_equal(ofr_client_candidates(&rig.client, r)[0].token, cases[c].vocab - 1);
        }
        close_rig(&rig);
    }
}

/* The row keeps its other candidates, which are in order: tokens 99, 98, ... with logits 0, -1, ...
 */
struct lie {
    const char *name;
    uint32_t at;
    ofr_candidate candidate;
};

static const struct lie lies[] = {
    {"an id below the vocabulary", 2, {-7, -2}},
    {"the least id", 0, {INT32_MIN, 0}},
    {"an id just beyond the vocabulary", 0, {VOCAB, 0}},
    {"the greatest id", WANTED - 1, {INT32_MAX, -4}},
    {"NaN at the head", 0, {99, NAN}},
    {"NaN at the end", WANTED - 1, {95, NAN}},
    {"infinity", 0, {99, INFINITY}},
    {"minus infinity", WANTED - 1, {95, -INFINITY}},
    {"a logit above the one before it", 3, {96, 1}},
    {"equal logits, the higher id first", 1, {99, 0}},
    {"a token twice", 4, {99, -4}},
    {"no token at all", 0, {OFR_CANDIDATE_NONE, -INFINITY}},
    {"a token fewer than asked for", WANTED - 1, {OFR_CANDIDATE_NONE, -INFINITY}},
    {"a hole", 2, {OFR_CANDIDATE_NONE, -2}},
};

static void candidates_that_cannot_be_are_refused(void **state)
{
    (void)state;
    struct rig rig;
    ofr_error err;
    open_rig(&rig, "cpu", VOCAB);
    for (size_t l = 0; l < sizeof lies / sizeof *lies; l++) {
        for (uint32_t r = 0; r < ROWS; r++) {
            uint32_t ticket = submit(&rig, WANTED);
            ofr_session_job job = take(&rig, 0);
            fill_rows(&rig, WANTED, VOCAB);
            row(&rig, r)[lies[l].at] = lies[l].candidate;
            complete(&rig, 0, (ofr_session_completion){.sequence = job.sequence});
            int code = wait(&rig, ticket, &err);
            if (code != OFR_EPROTOCOL || !strstr(err.text, "worker cpu: candidate ")) {
                fail_msg("%s in row %u: %d, \"%s\"", lies[l].name, r, code, err.text);
            }
        }
    }
    /* The ticket has ended each time, and an honest answer is taken. */
    uint32_t ticket = submit(&rig, WANTED);
    fill_rows(&rig, WANTED, VOCAB);
    complete(&rig, 0, (ofr_session_completion){.sequence = take(&rig, 0).sequence});
    assert_int_equal(wait(&rig, ticket, &err), 0);
    close_rig(&rig);
}

/* A worker that says what nobody asked: of other jobs, in rings that cannot be, without an end. */
static void completions_that_cannot_be_do_no_harm(void **state)
{
    (void)state;
    struct rig rig;
    ofr_error err;
    open_rig(&rig, "cpu", VOCAB);
    uint32_t ticket = submit(&rig, 1);
    ofr_session_job job = take(&rig, 0);
    ofr_session_completion endless = {.sequence = job.sequence, .status = OFR_EDEVICE};
    memset(endless.text, 'x', sizeof endless.text);
    complete(&rig, 0, (ofr_session_completion){.sequence = job.sequence + 1});
    complete(&rig, 0, (ofr_session_completion){.sequence = 0});
    complete(&rig, 0, endless);
    complete(&rig, 0, (ofr_session_completion){.sequence = job.sequence}); /* has ended */
    assert_int_equal(wait(&rig, ticket, &err), OFR_EDEVICE);
    assert_non_null(strstr(err.text, "the worker: xxx"));
    ticket = submit(&rig, 1);
    rig.completions[0].header->head += 1000;
    assert_int_equal(wait(&rig, ticket, &err), OFR_EPROTOCOL);
    assert_non_null(strstr(err.text, "worker cpu broke the completion ring"));
    close_rig(&rig);
}

/* Candidates are the last worker's, and so is the blame. */
static void split_layers_give_the_candidates_of_the_last(void **state)
{
    (void)state;
    struct rig rig;
    ofr_error err;
    open_rig(&rig, "cpu@0-12,opencl:0@12-", VOCAB);
    for (int honest = 1; honest >= 0; honest--) {
        uint32_t ticket = submit(&rig, WANTED);
        ofr_session_job first = take(&rig, 0);
        assert_int_equal(first.layer_end, 12);
        complete(&rig, 0, (ofr_session_completion){.sequence = first.sequence});
        assert_false(ofr_client_poll(&rig.client, ticket));
        ofr_session_job second = take(&rig, 1);
        assert_int_equal(second.layer_begin, 12);
        assert_int_equal(second.n_candidates, WANTED);
        fill_rows(&rig, WANTED, VOCAB);
        row(&rig, 0)[0].token = honest ? 99 : VOCAB;
        complete(&rig, 1, (ofr_session_completion){.sequence = second.sequence});
        assert_int_equal(wait(&rig, ticket, &err), honest ? 0 : OFR_EPROTOCOL);
    }
    assert_non_null(strstr(err.text, "worker opencl:0: candidate 1 of 5 is token 100"));
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(candidates_that_are_some_are_given),
        cmocka_unit_test(candidates_that_cannot_be_are_refused),
        cmocka_unit_test(completions_that_cannot_be_do_no_harm),
        cmocka_unit_test(split_layers_give_the_candidates_of_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
