/* The executive's side of health monitoring. */
#include "executive_shard/monitor.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"

enum { SAMPLER_CRASHES_MAX = 3 };
static const uint64_t LOOK_GAP_NS = UINT64_C(2000000000);

int ofr_monitor_init(ofr_monitor *monitor, const char *root, ofr_error *err)
{
    *monitor = (ofr_monitor){.sampler = {.fd = -1}, .timer_fd = -1, .root = root};
    monitor->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (monitor->timer_fd < 0)
        return ofr_fail(err, OFR_EIO, "cannot make a timer");
    ofr_device_options options = {.root = root, .skip_drivers = true};
    int r = ofr_devices_discover(&options, &monitor->health.devices, err);
    if (r == 0)
        r = ofr_sampler_start(&monitor->sampler, &monitor->health.devices, monitor->root,
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

static void restart_sampler(ofr_monitor *monitor)
{
    if (monitor->sampler.crashes < SAMPLER_CRASHES_MAX)
        ofr_sampler_start(&monitor->sampler, &monitor->health.devices, monitor->root,
                          OFR_MONITOR_PERIOD_MS, NULL);
}

void ofr_monitor_look_at_sampler(ofr_monitor *monitor, uint64_t now_ns)
{
    bool gap = now_ns - monitor->looked_ns > LOOK_GAP_NS;
    monitor->looked_ns = now_ns;
    if (gap || monitor->sampler.fd < 0)
        monitor->heard_ns = now_ns;
    if (now_ns < monitor->heard_ns || monitor->sampler.pid <= 0 ||
        now_ns - monitor->heard_ns < (uint64_t)OFR_MONITOR_SILENCE_MS * 1000000)
        return;
    /* Not waited for: one that hangs inside the kernel cannot be killed. SIGCHLD reaps it. */
    kill(monitor->sampler.pid, SIGKILL);
    close(monitor->sampler.fd);
    monitor->sampler = (ofr_sampler){.fd = -1, .crashes = monitor->sampler.crashes + 1};
    monitor->heard_ns = now_ns;
    restart_sampler(monitor);
}

/* What the condition means for plans. */
static const char *consequence(enum ofr_condition condition)
{
    switch (condition) {
    case OFR_CONDITION_THROTTLED:
        return "; plans count it as slower from now on";
    case OFR_CONDITION_MEMORY:
        return "; plans avoid it from now on";
    case OFR_CONDITION_OK:
    case OFR_CONDITION_WARM:
    case OFR_CONDITION_QUARANTINED:
        break;
    }
    return "";
}

static bool next_of_machine(ofr_monitor *monitor, ofr_monitor_change *ret_change)
{
    const ofr_health *health = &monitor->health;
    const char *text = "";
    if (health->pressure.on != monitor->told_memory) {
        monitor->told_memory = health->pressure.on;
        text = health->pressure.on
                   ? "the machine is short of memory: weights are read from the disk again and "
                     "again; end other programs or use a smaller model"
                   : "the machine has memory again";
    } else if (health->shm_low.on != monitor->told_shm) {
        monitor->told_shm = health->shm_low.on;
        text = health->shm_low.on ? "/dev/shm is nearly full; another executive or program fills it"
                                  : "/dev/shm has room again";
    } else {
        return false;
    }
    *ret_change = (ofr_monitor_change){.device = "", .condition = ""};
    snprintf(ret_change->text, sizeof ret_change->text, "%s", text);
    return true;
}

bool ofr_monitor_next_change(ofr_monitor *monitor, ofr_monitor_change *ret_change)
{
    for (size_t i = 0; i < monitor->conditions.count; i++) {
        const ofr_condition_entry *entry = &monitor->conditions.entries[i];
        enum ofr_condition before = monitor->told[i];
        monitor->told[i] = entry->condition;
        if (entry->condition == before || entry->condition == OFR_CONDITION_QUARANTINED)
            continue;
        *ret_change = (ofr_monitor_change){.device = entry->device,
                                           .condition = ofr_condition_name(entry->condition)};
        const char *reason = entry->reason;
        if (strncmp(reason, "throttled: ", 11) == 0) /* it is said before */
            reason += 11;
        snprintf(ret_change->text, sizeof ret_change->text, "%s is %s%s%s%s", entry->device,
                 entry->condition == OFR_CONDITION_MEMORY ? "out of memory"
                 : entry->condition == OFR_CONDITION_OK   ? "well again"
                                                          : ret_change->condition,
                 reason[0] ? ": " : "", reason, consequence(entry->condition));
        return true;
    }
    return next_of_machine(monitor, ret_change);
}

bool ofr_monitor_take_sample(ofr_monitor *monitor, const ofr_health_work *work)
{
    ofr_telemetry record;
    int r = ofr_sampler_read(&monitor->sampler, &record, NULL);
    if (r == OFR_EGONE)
        restart_sampler(monitor);
    monitor->heard_ns = ofr_clock_ns();
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
    ofr_monitor_look_at_sampler(monitor, ofr_clock_ns());
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
        .starting = !worker->ready || atomic_load(&board.preparing),
        .device = worker->device,
        .working = !worker->ready || atomic_load(&board.state) == OFR_BOARD_STATE_BUSY ||
                   job_waits(worker),
        .progress = atomic_load(&board.progress),
        .activity = ofr_thread_activity_of(worker->pid),
    };
    return ofr_watchdog_observe(watchdog, &observation, ret_reason, size);
}
