/* Canaries against a backend that answers what the test says. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "executive_shard/canary.h"

enum { VOCAB = 1000 };

struct ofr_backend_session {
    uint32_t answers[8]; /* token with the highest logit, per call */
    float runner_up;     /* logit of the token after it; the highest is 10 */
    bool nan;
    uint32_t calls, position;
};

static int forward(ofr_backend_session *session, const ofr_forward *pass, ofr_error *err)
{
    (void)err;
    assert_int_equal(pass->segments[0].position, session->position);
    session->position += pass->segments[0].n_tokens;
    for (uint32_t i = 0; i < VOCAB; i++)
        pass->logits[i] = -1.0F;
    uint32_t answer = session->answers[session->calls++];
    pass->logits[answer] = 10.0F;
    pass->logits[answer + 1] = session->runner_up;
    if (session->nan)
        pass->logits[500] = NAN;
    return 0;
}

static const ofr_backend backend = {.name = "stub", .forward = forward};
static const int32_t prompt[] = {1, 2, 3};
static const int32_t expected[] = {40, 50, 60};
static const ofr_golden golden = {prompt, 3, expected, 3};

static int check(ofr_backend_session session, ofr_error *err)
{
    const ofr_canary_part part = {&backend, &session, 0};
    return ofr_canary_golden(&part, 1, &golden, VOCAB, 512, NULL, 0, err);
}

static void right_answers_pass(void **state)
{
    (void)state;
    ofr_error err = {0};
    assert_int_equal(check((ofr_backend_session){.answers = {40, 50, 60}}, &err), 0);
    /* A near tie in the other order. */
    assert_int_equal(check((ofr_backend_session){.answers = {39, 49, 59}, .runner_up = 9.8F}, &err),
                     0);
    assert_int_equal(ofr_canary_golden(NULL, 0, NULL, VOCAB, 512, NULL, 0, &err), 0);
}

static void wrong_ones_are_named(void **state)
{
    (void)state;
    ofr_error err = {0};
    assert_int_equal(check((ofr_backend_session){.answers = {40, 51, 60}}, &err), OFR_EDEVICE);
    assert_non_null(strstr(err.text, "token 51 at place 1, not 50"));
    assert_int_equal(check((ofr_backend_session){.answers = {40, 50, 60}, .nan = true}, &err),
                     OFR_EDEVICE);
    assert_non_null(strstr(err.text, "not numbers"));
}

/* The first part hands its stream to the second, in a slot of its own each. */
static int first_forward(ofr_backend_session *session, const ofr_forward *pass, ofr_error *err)
{
    (void)err;
    assert_int_equal(pass->segments[0].slot, 4);
    assert_int_equal(pass->hidden_rows, 6);
    session->calls++;
    pass->hidden_out[0] = (float)(session->calls * 100 + pass->segments[0].n_tokens);
    return 0;
}

static int second_forward(ofr_backend_session *session, const ofr_forward *pass, ofr_error *err)
{
    assert_int_equal(pass->segments[0].slot, 1);
    uint32_t n = session->calls == 0 ? 3 : 1;
    assert_true(pass->hidden_in[0] == (float)((session->calls + 1) * 100 + n));
    return forward(session, pass, err);
}

static void parts_are_chained(void **state)
{
    (void)state;
    static const ofr_backend first = {.name = "first", .forward = first_forward};
    static const ofr_backend second = {.name = "second", .forward = second_forward};
    ofr_backend_session a = {0}, b = {.answers = {40, 50, 60}};
    const ofr_canary_part parts[] = {{&first, &a, 4}, {&second, &b, 1}};
    float hidden[6] = {0};
    ofr_error err = {0};
    assert_int_equal(ofr_canary_golden(parts, 2, &golden, VOCAB, 512, hidden, 6, &err), 0);
    assert_int_equal(a.calls, 3);
    assert_int_equal(b.calls, 3);
}

static void every_place_is_looked_at(void **state)
{
    (void)state;
    static const float strange[] = {NAN, -NAN, INFINITY, -INFINITY};
    float values[67];
    for (size_t i = 0; i < 67; i++)
        values[i] = i % 2 ? -3.4e38F : 1e-42F;
    assert_true(ofr_canary_finite(values, 67));
    assert_true(ofr_canary_finite(values, 0));
    for (size_t k = 0; k < 4; k++) {
        for (size_t i = 0; i < 67; i++) {
            float kept = values[i];
            values[i] = strange[k];
            assert_false(ofr_canary_finite(values, 67));
            values[i] = kept;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_answers_pass),
        cmocka_unit_test(wrong_ones_are_named),
        cmocka_unit_test(parts_are_chained),
        cmocka_unit_test(every_place_is_looked_at),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
