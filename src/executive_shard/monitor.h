/* What the executive's event loop needs for health: the sampler's pipe and the watchdog's timer,
 * behind two descriptors to poll. Belongs to the loop's thread. */
#ifndef OFR_EXECUTIVE_SHARD_MONITOR_H
#define OFR_EXECUTIVE_SHARD_MONITOR_H

#include <jansson.h>

#include "executive_shard/health.h"
#include "executive_shard/session_abi.h"
#include "executive_shard/watchdog.h"

enum { OFR_MONITOR_PERIOD_MS = 1000, OFR_MONITOR_SILENCE_MS = 15000 };

typedef struct ofr_monitor {
    ofr_health health;
    ofr_conditions conditions; /* for the planner: see device/condition.h */
    ofr_sampler sampler;       /* .fd is to be polled; -1: none */
    int timer_fd;              /* to be polled; ticks while armed */
    bool armed;
    const char *root;
    uint64_t heard_ns, looked_ns; /* when the sampler last spoke; when it was last looked at */
    enum ofr_condition told[OFR_DEVICES_MAX]; /* as conditions.entries */
    bool told_memory, told_shm;
} ofr_monitor;

/* Lists the devices that the kernel knows and starts the sampler for them. `root` (device/root.h;
 * NULL: "/") is borrowed for the monitor's life. Without one (no /sys, no
 * process) the executive still serves: the error is for the log. */
int ofr_monitor_init(ofr_monitor *monitor, const char *root, ofr_error *err);
void ofr_monitor_done(ofr_monitor *monitor);
/* In a child of the executive: closes what is the executive's. */
void ofr_monitor_forget(ofr_monitor *monitor);

/* After POLLIN or POLLHUP on sampler.fd. True where a device's condition changed. `work` is what
 * the workers have done so far. A sampler that died is started again, twice at most. */
bool ofr_monitor_take_sample(ofr_monitor *monitor, const ofr_health_work *work);

/* What is to be said of the devices and the machine since the last call: false where there is
 * nothing more, else one line ("igpu is throttled: thermal, 97 C; ..."). A quarantine is not: who
 * sets it says so. */
typedef struct ofr_monitor_change {
    const char *device,
        *condition; /* stable name, ofr_condition_name; "" where it is the machine */
    char text[400];
} ofr_monitor_change;
bool ofr_monitor_next_change(ofr_monitor *monitor, ofr_monitor_change *ret_change);

/* The watchdog ticks only while somebody waits for work. */
void ofr_monitor_arm(ofr_monitor *monitor, bool armed);
/* After POLLIN on timer_fd; looks at the sampler, too. */
void ofr_monitor_take_tick(ofr_monitor *monitor);
/* A sampler that is silent for OFR_MONITOR_SILENCE_MS hangs in a driver: it is killed and started
 * again without drivers. A gap between two looks (a suspended machine, nobody at work) begins the
 * time again. */
void ofr_monitor_look_at_sampler(ofr_monitor *monitor, uint64_t now_ns);

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
