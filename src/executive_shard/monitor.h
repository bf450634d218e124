/* What the executive's event loop needs for health: the sampler's pipe and the watchdog's timer,
 * behind two descriptors to poll. Belongs to the loop's thread. */
#ifndef OFR_EXECUTIVE_SHARD_MONITOR_H
#define OFR_EXECUTIVE_SHARD_MONITOR_H

#include <jansson.h>

#include "executive_shard/health.h"
#include "executive_shard/session_abi.h"
#include "executive_shard/watchdog.h"

enum { OFR_MONITOR_PERIOD_MS = 1000 };

typedef struct ofr_monitor {
    ofr_health health;
    ofr_conditions conditions; /* for the planner: see device/condition.h */
    ofr_sampler sampler;       /* .fd is to be polled; -1: none */
    int timer_fd;              /* to be polled; ticks while armed */
    bool armed;
} ofr_monitor;

/* Lists the devices that the kernel knows and starts the sampler for them. Without one (no /sys, no
 * process) the executive still serves: the error is for the log. */
int ofr_monitor_init(ofr_monitor *monitor, ofr_error *err);
void ofr_monitor_done(ofr_monitor *monitor);
/* In a child of the executive: closes what is the executive's. */
void ofr_monitor_forget(ofr_monitor *monitor);

/* After POLLIN or POLLHUP on sampler.fd. True where a device's condition changed. `work` is what
 * the workers have done so far. A sampler that died is started again, twice at most. */
bool ofr_monitor_take_sample(ofr_monitor *monitor, const ofr_health_work *work);

/* The watchdog ticks only while somebody waits for work. */
void ofr_monitor_arm(ofr_monitor *monitor, bool armed);
/* After POLLIN on timer_fd. */
void ofr_monitor_take_tick(ofr_monitor *monitor);

/* Looks at one worker by its board and its job ring (descriptors of the segments, read with
 * pread(); session_fd -1: no session). True: it hangs, ret_reason says how. */
typedef struct ofr_monitored_worker {
    pid_t pid;
    bool ready;
    bool device; /* its work is done by a device while its threads sleep */
    int board_fd, session_fd;
    uint64_t jobs_offset; /* of the job ring in the session segment */
} ofr_monitored_worker;
bool ofr_monitor_worker_hangs(ofr_watchdog *watchdog, const ofr_monitored_worker *worker,
                              char *ret_reason, size_t size);

#endif
