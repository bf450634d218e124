/* The executive's side of health monitoring. */
#include "executive_shard/monitor.h"

#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"

enum { SAMPLER_CRASHES_MAX = 3 };

int ofr_monitor_init(ofr_monitor *monitor, ofr_error *err)
{
    *monitor = (ofr_monitor){.sampler = {.fd = -1}, .timer_fd = -1};
    monitor->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (monitor->timer_fd < 0)
        return ofr_fail(err, OFR_EIO, "cannot make a timer");
    ofr_device_options options = {.skip_drivers = true};
    int r = ofr_devices_discover(&options, &monitor->health.devices, err);
    if (r == 0)
        r = ofr_sampler_start(&monitor->sampler, &monitor->health.devices, NULL,
                              OFR_MONITOR_PERIOD_MS, err);
    return r;
}

void ofr_monitor_done(ofr_monitor *monitor)
{
    ofr_sampler_stop(&monitor->sampler);
    if (monitor->timer_fd >= 0)
        close(monitor->timer_fd);
    monitor->timer_fd = -1;
}

void ofr_monitor_forget(ofr_monitor *monitor)
{
    if (monitor->sampler.fd >= 0)
        close(monitor->sampler.fd);
    if (monitor->timer_fd >= 0)
        close(monitor->timer_fd);
    monitor->sampler = (ofr_sampler){.fd = -1};
    monitor->timer_fd = -1;
}

bool ofr_monitor_take_sample(ofr_monitor *monitor, const ofr_health_work *work)
{
    ofr_telemetry record;
    int r = ofr_sampler_read(&monitor->sampler, &record, NULL);
    if (r == OFR_EGONE && monitor->sampler.crashes < SAMPLER_CRASHES_MAX)
        ofr_sampler_start(&monitor->sampler, &monitor->health.devices, NULL, OFR_MONITOR_PERIOD_MS,
                          NULL);
    if (r < 0)
        return false;
    ofr_health_system system;
    ofr_health_system_read(&system);
    return ofr_health_update(&monitor->health, &record, &system, work, &monitor->conditions);
}

void ofr_monitor_arm(ofr_monitor *monitor, bool armed)
{
    if (armed == monitor->armed || monitor->timer_fd < 0)
        return;
    struct timespec period = {0, armed ? OFR_WATCHDOG_PERIOD_MS * 1000000L : 0};
    struct itimerspec timer = {period, period};
    timerfd_settime(monitor->timer_fd, 0, &timer, NULL);
    monitor->armed = armed;
}

void ofr_monitor_take_tick(ofr_monitor *monitor)
{
    uint64_t ticks;
    ssize_t n = read(monitor->timer_fd, &ticks, sizeof ticks);
    (void)n;
}

/* A job that was put into the ring and not taken out. Only a hint: clients can write there. */
static bool job_waits(const ofr_monitored_worker *worker)
{
    uint32_t head = 0;
    uint32_t tail = 0;
    uint64_t at = worker->jobs_offset;
    return worker->session_fd >= 0 &&
           pread(worker->session_fd, &head, sizeof head,
                 (off_t)(at + offsetof(ofr_ring_header, head))) == (ssize_t)sizeof head &&
           pread(worker->session_fd, &tail, sizeof tail,
                 (off_t)(at + offsetof(ofr_ring_header, tail))) == (ssize_t)sizeof tail &&
           head != tail;
}

bool ofr_monitor_worker_hangs(ofr_watchdog *watchdog, const ofr_monitored_worker *worker,
                              char *ret_reason, size_t size)
{
    ofr_board board;
    if (worker->pid <= 0 ||
        pread(worker->board_fd, &board, sizeof board, 0) != (ssize_t)sizeof board)
        return false;
    ofr_watchdog_observation observation = {
        .now_ns = ofr_clock_ns(),
        .starting = !worker->ready,
        .device = worker->device,
        .working = !worker->ready || atomic_load(&board.state) == OFR_BOARD_STATE_BUSY ||
                   job_waits(worker),
        .progress = atomic_load(&board.progress),
        .activity = ofr_thread_activity_of(worker->pid),
    };
    return ofr_watchdog_observe(watchdog, &observation, ret_reason, size);
}
