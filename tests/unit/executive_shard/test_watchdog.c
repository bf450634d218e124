/* The watchdog's rules, with a clock of the test's own. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "executive_shard/watchdog.h"

#define MS UINT64_C(1000000)

/* Observes every 200 ms from `*now` on until the verdict or for `ms`; returns when it fell, or 0.
 */
static uint64_t run(ofr_watchdog *w, ofr_watchdog_observation o, uint64_t *now, uint64_t ms)
{
    char reason[128] = "";
    for (uint64_t t = 0; t <= ms; t += 200) {
        o.now_ns = *now;
        *now += 200 * MS;
        if (ofr_watchdog_observe(w, &o, reason, sizeof reason)) {
            assert_non_null(strstr(reason, "no progress for"));
            return t ? t : 1;
        }
    }
    return 0;
}

static void an_idle_worker_never_hangs(void **state)
{
    (void)state;
    ofr_watchdog w = {0};
    uint64_t now = 1;
    ofr_watchdog_observation o = {.working = false, .activity = OFR_THREAD_ACTIVITY_ASLEEP};
    assert_int_equal(run(&w, o, &now, 100000), 0);
}

static void a_stopped_one_is_given_up_soon(void **state)
{
    (void)state;
    ofr_watchdog w = {0};
    uint64_t now = 1;
    ofr_watchdog_observation o = {.working = true, .activity = OFR_THREAD_ACTIVITY_STOPPED};
    uint64_t at = run(&w, o, &now, 5000);
    assert_in_range(at, 400, 800);
}

static void a_sleeping_one_too_but_not_a_device(void **state)
{
    (void)state;
    ofr_watchdog w = {0};
    uint64_t now = 1;
    ofr_watchdog_observation o = {.working = true, .activity = OFR_THREAD_ACTIVITY_ASLEEP};
    assert_in_range(run(&w, o, &now, 5000), 600, 1000);
    w = (ofr_watchdog){0};
    o.device = true;
    assert_in_range(run(&w, o, &now, 30000), 10000, 10400);
    w = (ofr_watchdog){0};
    o.device = false;
    o.starting = true;
    assert_in_range(run(&w, o, &now, 30000), 6000, 6400);
}

static void a_starved_one_has_half_a_minute(void **state)
{
    (void)state;
    ofr_watchdog w = {0};
    uint64_t now = 1;
    ofr_watchdog_observation o = {.working = true, .activity = OFR_THREAD_ACTIVITY_RUNNABLE};
    assert_int_equal(run(&w, o, &now, 29000), 0);
    assert_true(run(&w, o, &now, 2000) > 0);
}

static void progress_keeps_it_alive(void **state)
{
    (void)state;
    ofr_watchdog w = {0};
    uint64_t now = 1;
    ofr_watchdog_observation o = {.working = true, .activity = OFR_THREAD_ACTIVITY_ASLEEP};
    for (int i = 0; i < 200; i++) {
        o.progress++;
        assert_int_equal(run(&w, o, &now, 400), 0);
    }
}

static void long_steps_teach_patience(void **state)
{
    (void)state;
    ofr_watchdog w = {0};
    uint64_t now = 1;
    ofr_watchdog_observation o = {.working = true, .activity = OFR_THREAD_ACTIVITY_RUNNABLE};
    for (int i = 0; i < 3; i++) {
        o.progress++;
        assert_int_equal(run(&w, o, &now, 1000), 0); /* a step of about 1.2 s */
    }
    o.activity = OFR_THREAD_ACTIVITY_ASLEEP;
    assert_int_equal(run(&w, o, &now, 5000), 0);
    assert_true(run(&w, o, &now, 8000) > 0);
}

static void a_suspended_machine_is_no_alarm(void **state)
{
    (void)state;
    ofr_watchdog w = {0};
    uint64_t now = 1;
    char reason[128];
    ofr_watchdog_observation o = {.working = true, .activity = OFR_THREAD_ACTIVITY_STOPPED};
    assert_int_equal(run(&w, o, &now, 0), 0);
    for (int i = 0; i < 10; i++) {
        now += 3600 * 1000 * MS;
        o.now_ns = now;
        assert_false(ofr_watchdog_observe(&w, &o, reason, sizeof reason));
    }
}

static void waking_up_starts_the_clock_again(void **state)
{
    (void)state;
    ofr_watchdog w = {0};
    uint64_t now = 1;
    ofr_watchdog_observation o = {.working = true, .activity = OFR_THREAD_ACTIVITY_RUNNABLE};
    assert_int_equal(run(&w, o, &now, 10000), 0);
    /* It ran for ten seconds and now sleeps: only the sleep counts. */
    o.activity = OFR_THREAD_ACTIVITY_ASLEEP;
    assert_int_equal(run(&w, o, &now, 200), 0);
}

static void thread_states_are_read(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    assert_true(pid > 0);
    while (ofr_thread_activity_of(pid) != OFR_THREAD_ACTIVITY_ASLEEP)
        usleep(1000);
    kill(pid, SIGSTOP);
    int status = 0;
    waitpid(pid, &status, WUNTRACED);
    assert_int_equal(ofr_thread_activity_of(pid), OFR_THREAD_ACTIVITY_STOPPED);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_int_equal(ofr_thread_activity_of(getpid()), OFR_THREAD_ACTIVITY_RUNNABLE);
}

/* A graph that is compiled for its first use: ten times the patience, and what it took says nothing
 * of the steps that follow. */
static void compiling_is_no_step(void **state)
{
    (void)state;
    ofr_watchdog w = {0};
    uint64_t now = 1;
    ofr_watchdog_observation o = {.working = true, .activity = OFR_THREAD_ACTIVITY_RUNNABLE};
    assert_int_equal(run(&w, o, &now, 20000), 0);
    o.starting = true;
    assert_int_equal(run(&w, o, &now, 50000), 0);
    o.progress++;
    o.starting = false;
    assert_in_range(run(&w, o, &now, 100000), 30000, 30400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_worker_never_hangs),
        cmocka_unit_test(a_stopped_one_is_given_up_soon),
        cmocka_unit_test(a_sleeping_one_too_but_not_a_device),
        cmocka_unit_test(a_starved_one_has_half_a_minute),
        cmocka_unit_test(compiling_is_no_step),
        cmocka_unit_test(progress_keeps_it_alive),
        cmocka_unit_test(long_steps_teach_patience),
        cmocka_unit_test(a_suspended_machine_is_no_alarm),
        cmocka_unit_test(waking_up_starts_the_clock_again),
        cmocka_unit_test(thread_states_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
