/* Candidates chosen on the device against those that the host chooses: rows of made-up logits with
 * ties and what is no number, more rows than are on the device at once, and what leaves the device.
 */
#include "backend/opencl/opencl_session.h"
#include "support/opencl_rig.h"

static const memory_model_options small = {
    2, 64, 2, 2, 32, 96, 101, OFR_DTYPE_I4, OFR_DTYPE_I8, 32, false, false, false, {0}, 1};
static const enum ofr_opencl_memory memories[] = {OFR_OPENCL_MEMORY_SHARED,
                                                  OFR_OPENCL_MEMORY_DISCRETE};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005U + 1442695040888963407U;
    return *state >> 33;
}

static void compare(const ofr_candidate *got, const float *logits, uint32_t vocab, uint32_t k)
{
    ofr_candidate expected[OFR_CANDIDATES_MAX];
    ofr_candidates_select(logits, (int32_t)vocab, k, expected);
    for (uint32_t i = 0; i < k; i++) {
        assert_int_equal(got[i].token, expected[i].token);
        assert_true(got[i].logit == expected[i].logit);
    }
}

/* Few levels make ties; `odd` puts what is no number, or infinite, among them. */
static bool fill(float *logits, size_t n, uint64_t levels, bool odd, uint64_t *random)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        logits[i] = (float)(next_random(random) % levels) / 8 - 20;
        if (odd && next_random(random) % 5 == 0) {
            logits[i] = (float[]){NAN, -NAN, INFINITY, -INFINITY}[next_random(random) % 4];
        }
        finite = finite && isfinite(logits[i]);
    }
    return finite;
}

static void choose(ofr_backend_session *session, const float *logits, uint32_t rows, uint32_t k,
                   bool finite)
{
    uint32_t vocab = session->params->vocab_size;
    ofr_candidate got[OPENCL_OUTPUT_ROWS * OFR_CANDIDATES_MAX];
    memset(got, 0xee, sizeof got);
    assert_int_equal(session->api->EnqueueWriteBuffer(session->queue, session->logits, CL_TRUE, 0,
                                                      (size_t)rows * vocab * sizeof *logits, logits,
                                                      0, NULL, NULL),
                     CL_SUCCESS);
    ofr_opencl_choose(session, rows, k, got);
    ofr_opencl_fetch_not_finite(session);
    assert_int_equal(session->api->Finish(session->queue), CL_SUCCESS);
    ofr_opencl_unstage(session);
    assert_int_equal(session->status, CL_SUCCESS);
    for (uint32_t row = 0; row < rows; row++) {
        compare(got + (size_t)row * k, logits + (size_t)row * vocab, vocab, k);
    }
    assert_int_equal(ofr_opencl_take_finite(session), finite);
}

static void rows_of_any_logits(void **state)
{
    (void)state;
    const uint32_t vocabs[] = {33, OPENCL_TOP_CHUNK, 2 * OPENCL_TOP_CHUNK + 37};
    const uint32_t counts[] = {1, 2, 7, 40, OFR_CANDIDATES_MAX};
    const uint64_t levels[] = {1, 60, 1 << 20};
    uint64_t random = 5;
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++) {
        memory_model_options options = small;
        options.vocab_size = vocabs[v];
        float *logits = rig_floats((size_t)OPENCL_OUTPUT_ROWS * vocabs[v]);
        for (size_t m = 0; m < 2; m++) {
            opencl_rig rig;
            rig_model(&rig, &options);
            ofr_backend_options open = rig_options(&rig, "plain");
            rig.session = rig_open(&open, memories[m]);
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
                uint32_t rows = c == 2 ? OPENCL_OUTPUT_ROWS : 1 + (uint32_t)c;
                for (size_t l = 0; l < 2 * sizeof levels / sizeof *levels; l++) {
                    bool finite =
                        fill(logits, (size_t)rows * vocabs[v], levels[l / 2], l % 2 > 0, &random);
                    choose(rig.session, logits, rows, counts[c], finite);
                }
            }
            for (uint32_t i = 0; i < vocabs[v]; i++) {
                logits[i] = NAN;
            }
            choose(rig.session, logits, 1, 3, false);
            rig_done(&rig);
        }
        free(logits);
    }
}

static uint64_t fetched(const ofr_backend_session *session)
{
    ofr_opencl_stats stats;
    ofr_opencl_session_stats(session, &stats);
    return stats.outputs_fetched;
}

/* More sequences than rows of logits are on the device at once; nothing but the candidates, and
 * whether all was finite, comes back. */
static void many_sequences(void **state)
{
    (void)state;
    enum { N = OPENCL_OUTPUT_ROWS + 5, K = 9 };
    for (size_t m = 0; m < 2; m++) {
        opencl_rig rig;
        ofr_error err = {0};
        rig_model(&rig, &small);
        free(rig.arena);
        rig_check(ofr_kv_layout_init(&rig.layout, &rig.model->params, N, 16, RIG_CHUNK, &err),
                  &err);
        rig.arena = aligned_alloc(4096, rig.layout.total_bytes);
        assert_non_null(rig.arena);
        memset(rig.arena, 0, rig.layout.total_bytes);
        ofr_backend_options open = rig_options(&rig, NULL);
        rig.session = rig_open(&open, memories[m]);
        ofr_segment segments[N];
        int32_t tokens[N];
        for (uint32_t i = 0; i < N; i++) {
            segments[i] = (ofr_segment){i, 0, 1};
            tokens[i] = (int32_t)(i * 7 % small.vocab_size);
        }
        float *logits = rig_floats((size_t)N * small.vocab_size);
        ofr_candidate candidates[N * K];
        bool finite = false;
        ofr_forward forward = {.segments = segments,
                               .n_segments = N,
                               .tokens = tokens,
                               .output = OFR_FORWARD_OUTPUT_LAST,
                               .logits = logits};
        rig_run(rig.session, &forward);
        assert_int_equal(fetched(rig.session), N * small.vocab_size * sizeof(float));
        forward.output = OFR_FORWARD_OUTPUT_CANDIDATES;
        forward.logits = NULL;
        forward.n_candidates = K;
        forward.candidates = candidates;
        forward.ret_finite = &finite;
        uint64_t before = fetched(rig.session);
        rig_run(rig.session, &forward);
        assert_int_equal(fetched(rig.session) - before, N * K * sizeof(ofr_candidate) + 4);
        assert_true(finite);
        for (uint32_t i = 0; i < N; i++) {
            compare(candidates + (size_t)i * K, logits + (size_t)i * small.vocab_size,
                    small.vocab_size, K);
        }
        free(logits);
        rig_done(&rig);
    }
}

/* A row of V that is no number makes logits that are none; the next call is not blamed for it. */
static void logits_that_are_no_numbers_are_told(void **state)
{
    (void)state;
    for (size_t m = 0; m < 2; m++) {
        opencl_rig rig;
        rig_model(&rig, &small);
        uint16_t *values =
            (uint16_t *)(void *)((char *)rig.arena + ofr_kv_strip_v(&rig.layout, 1, 0));
        for (size_t i = 0; i < rig.layout.row_bytes / 2; i++) {
            values[i] = 0x7e00; /* NaN */
        }
        ofr_backend_options open = rig_options(&rig, "plain");
        rig.session = rig_open(&open, memories[m]);
        for (uint32_t slot = 0; slot < 3; slot++) {
            ofr_segment segment = {slot, slot == 1, 1};
            int32_t token = 5;
            bool finite = slot == 1;
            ofr_candidate candidates[2];
            ofr_forward forward = {.segments = &segment,
                                   .n_segments = 1,
                                   .tokens = &token,
                                   .output = OFR_FORWARD_OUTPUT_CANDIDATES,
                                   .n_candidates = 2,
                                   .candidates = candidates,
                                   .ret_finite = &finite};
            rig_run(rig.session, &forward);
            assert_int_equal(finite, slot != 1);
            assert_int_equal(candidates[0].token == OFR_CANDIDATE_NONE, slot == 1);
        }
        rig_done(&rig);
    }
}

static void calls_that_cannot_be_are_refused(void **state)
{
    (void)state;
    opencl_rig rig;
    rig_model(&rig, &small);
    ofr_backend_options open = rig_options(&rig, NULL);
    rig.session = rig_open(&open, OFR_OPENCL_MEMORY_AUTO);
    ofr_segment segment = {0, 0, 1};
    int32_t token = 5;
    bool finite = false;
    ofr_candidate candidates[OFR_CANDIDATES_MAX];
    const ofr_forward good = {.segments = &segment,
                              .n_segments = 1,
                              .tokens = &token,
                              .output = OFR_FORWARD_OUTPUT_CANDIDATES,
                              .n_candidates = OFR_CANDIDATES_MAX,
                              .candidates = candidates,
                              .ret_finite = &finite};
    rig_run(rig.session, &good);
    for (int i = 0; i < 5; i++) {
        ofr_forward bad = good;
        ofr_error err = {0};
        bad.n_candidates = i == 0 ? 0 : i == 1 ? OFR_CANDIDATES_MAX + 1 : i == 2 ? UINT32_MAX : 1;
        bad.candidates = i == 3 ? NULL : candidates;
        bad.ret_finite = i == 4 ? NULL : &finite;
        assert_int_equal(ofr_opencl_backend()->forward(rig.session, &bad, &err), OFR_EINVAL);
    }
    rig_done(&rig);
}

int main(void)
{
    rig_require_device();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_any_logits),
        cmocka_unit_test(many_sequences),
        cmocka_unit_test(logits_that_are_no_numbers_are_told),
        cmocka_unit_test(calls_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
