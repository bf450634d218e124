/* The executive's monitor: samplers that hang are replaced, what changes is said once, and workers
 * that stop are found through their boards. */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/shm.h"
#include "executive_shard/monitor.h"

static const uint64_t MS = 1000000;

static void wait_for_sample(ofr_monitor *monitor)
{
    ofr_health_work work = {0};
    struct pollfd polled = {.fd = monitor->sampler.fd, .events = POLLIN};
    while (!monitor->health.have_telemetry) {
        assert_int_equal(poll(&polled, 1, 120000), 1);
        ofr_monitor_take_sample(monitor, &work);
    }
}

static void a_silent_sampler_is_replaced(void **state)
{
    (void)state;
    ofr_monitor monitor;
    ofr_error err = {0};
    assert_int_equal(ofr_monitor_init(&monitor, NULL, &err), 0);
    wait_for_sample(&monitor);
    pid_t first = monitor.sampler.pid;
    assert_int_equal(kill(first, SIGSTOP), 0); /* as a driver that never returns */
    uint64_t now = ofr_clock_ns();
    ofr_monitor_look_at_sampler(&monitor, now);
    for (int i = 0; i < OFR_MONITOR_SILENCE_MS / 200 - 1; i++)
        ofr_monitor_look_at_sampler(&monitor, now += 200 * MS);
    assert_int_equal(monitor.sampler.pid, first);
    /* The machine was suspended for an hour: that is not silence. */
    ofr_monitor_look_at_sampler(&monitor, now += 3600000 * MS);
    assert_int_equal(monitor.sampler.pid, first);
    for (int i = 0; i < OFR_MONITOR_SILENCE_MS / 200 + 1; i++)
        ofr_monitor_look_at_sampler(&monitor, now += 200 * MS);
    assert_int_not_equal(monitor.sampler.pid, first);
    assert_int_equal(monitor.sampler.crashes, 1);
    int status = 0;
    assert_int_equal(waitpid(first, &status, 0), first);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    monitor.health.have_telemetry = false;
    wait_for_sample(&monitor);
    assert_int_equal(monitor.health.last.level_zero, 0); /* without drivers this time */
    ofr_monitor_done(&monitor);
    ofr_monitor_done(&monitor);
}

static void a_killed_sampler_is_replaced_but_not_for_ever(void **state)
{
    (void)state;
    ofr_monitor monitor;
    ofr_error err = {0};
    ofr_health_work work = {0};
    assert_int_equal(ofr_monitor_init(&monitor, NULL, &err), 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(monitor.sampler.fd >= 0);
        assert_int_equal(kill(monitor.sampler.pid, SIGKILL), 0);
        struct pollfd polled = {.fd = monitor.sampler.fd, .events = POLLIN};
        while (monitor.sampler.crashes == i) {
            assert_int_equal(poll(&polled, 1, 120000), 1);
            ofr_monitor_take_sample(&monitor, &work);
        }
    }
    assert_int_equal(monitor.sampler.fd, -1);
    ofr_monitor_done(&monitor);
}

static void changes_are_said_once(void **state)
{
    (void)state;
    ofr_monitor monitor = {.sampler = {.fd = -1}, .timer_fd = -1};
    ofr_monitor_change change;
    assert_false(ofr_monitor_next_change(&monitor, &change));
    ofr_conditions_set(&monitor.conditions, "igpu", OFR_CONDITION_THROTTLED, "thermal, 97 C");
    ofr_conditions_set(&monitor.conditions, "dgpu", OFR_CONDITION_MEMORY, "15 of 16 GiB");
    ofr_conditions_set(&monitor.conditions, "npu", OFR_CONDITION_QUARANTINED, "it failed");
    assert_true(ofr_monitor_next_change(&monitor, &change));
    assert_string_equal(change.device, "igpu");
    assert_string_equal(change.condition, "throttled");
    assert_non_null(strstr(change.text, "igpu is throttled: thermal, 97 C; plans"));
    assert_true(ofr_monitor_next_change(&monitor, &change));
    assert_string_equal(change.condition, "out_of_memory");
    assert_non_null(strstr(change.text, "dgpu is out of memory: 15 of 16 GiB; plans"));
    assert_false(ofr_monitor_next_change(&monitor, &change));
    /* Another reason for the same condition is no news. */
    ofr_conditions_set(&monitor.conditions, "igpu", OFR_CONDITION_THROTTLED, "thermal, 99 C");
    assert_false(ofr_monitor_next_change(&monitor, &change));
    ofr_conditions_set(&monitor.conditions, "igpu", OFR_CONDITION_OK, "");
    monitor.health.pressure.on = true;
    monitor.health.shm_low.on = true;
    assert_true(ofr_monitor_next_change(&monitor, &change));
    assert_string_equal(change.text, "igpu is well again");
    assert_true(ofr_monitor_next_change(&monitor, &change));
    assert_string_equal(change.device, "");
    assert_non_null(strstr(change.text, "short of memory"));
    assert_true(ofr_monitor_next_change(&monitor, &change));
    assert_non_null(strstr(change.text, "/dev/shm"));
    assert_false(ofr_monitor_next_change(&monitor, &change));
}

/* A process that stands for a worker, its board and its session's job ring. */
static void a_stopped_worker_hangs_where_it_has_work(void **state)
{
    (void)state;
    ofr_error err = {0};
    int board_fd = -1;
    int session_fd = -1;
    assert_int_equal(ofr_shm_create(OFR_BOARD_BYTES, &board_fd, &err), 0);
    assert_int_equal(ofr_shm_create(8192, &session_fd, &err), 0);
    pid_t pid = fork();
    if (pid == 0) {
        for (;;)
            pause();
    }
    assert_int_equal(kill(pid, SIGSTOP), 0);
    while (ofr_thread_activity_of(pid) != OFR_THREAD_ACTIVITY_STOPPED)
        usleep(1000);
    ofr_board board = {0};
    atomic_store(&board.state, OFR_BOARD_STATE_IDLE);
    assert_int_equal(pwrite(board_fd, &board, sizeof board, 0), sizeof board);
    ofr_monitored_worker worker = {.pid = pid,
                                   .ready = true,
                                   .board_fd = board_fd,
                                   .session_fd = session_fd,
                                   .jobs_offset = 4096};
    ofr_watchdog watchdog = {0};
    char reason[128] = "";
    /* Idle: nobody waits, however long it is stopped. */
    for (int i = 0; i < 10; i++) {
        assert_false(ofr_monitor_worker_hangs(&watchdog, &worker, reason, sizeof reason));
        usleep(60000);
    }
    /* A job that it does not take. */
    uint32_t head = 1;
    assert_int_equal(pwrite(session_fd, &head, sizeof head, 4096), sizeof head);
    bool hangs = false;
    for (int i = 0; i < 6000 && !hangs; i++) {
        hangs = ofr_monitor_worker_hangs(&watchdog, &worker, reason, sizeof reason);
        usleep(50000);
    }
    assert_true(hangs);
    assert_non_null(strstr(reason, "stopped"));
    /* A board that was truncated says nothing, and harms nobody. */
    assert_int_equal(ftruncate(board_fd, 0), 0);
    assert_false(ofr_monitor_worker_hangs(&watchdog, &worker, reason, sizeof reason));
    worker.pid = 0;
    assert_false(ofr_monitor_worker_hangs(&watchdog, &worker, reason, sizeof reason));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(board_fd);
    close(session_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_silent_sampler_is_replaced),
        cmocka_unit_test(a_killed_sampler_is_replaced_but_not_for_ever),
        cmocka_unit_test(changes_are_said_once),
        cmocka_unit_test(a_stopped_worker_hangs_where_it_has_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
