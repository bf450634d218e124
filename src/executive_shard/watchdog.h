/* The watchdog of one worker: decides by progress, and by whether the worker could have made any,
 * not by wall time alone.
 *
 * Progress is the board's counter: it moves at the begin and end of a job and after every layer.
 * While it stands still, the states of the worker's threads say why:
 *   - all asleep: it waits for something that does not come; given up after 0.6 s (10 s where
 *     a device computes and the process waits for it), or eight times the longest step so far
 *   - stopped (SIGSTOP, a debugger): given up after 0.4 s
 *   - running, or waiting for a disk: it may be slow or starved, so only after 30 s, or thirty
 *     times the longest step
 * The clocks begin again where starting begins or ends, and none of its steps counts as the
 * longest. A gap between two observations means that the observer itself did not run (the machine
 * was suspended, the session stopped): then all clocks begin again. Pure: the caller brings the
 * time.
 */
#ifndef OFR_EXECUTIVE_SHARD_WATCHDOG_H
#define OFR_EXECUTIVE_SHARD_WATCHDOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { OFR_WATCHDOG_PERIOD_MS = 200 };

enum ofr_thread_activity {
    OFR_THREAD_ACTIVITY_ASLEEP,   /* every thread sleeps */
    OFR_THREAD_ACTIVITY_STOPPED,  /* every thread is stopped */
    OFR_THREAD_ACTIVITY_RUNNABLE, /* at least one runs, wants to, or waits for a disk */
};

typedef struct ofr_watchdog_observation {
    uint64_t now_ns;
    bool working;  /* a job is running or waiting, or the worker is starting */
    bool starting; /* the backend opens, or compiles what is used for the first time: nothing is
                      known of its steps, so ten times the patience */
    bool device;   /* the work is done by a device while the threads sleep */
    uint64_t progress;
    enum ofr_thread_activity activity;
} ofr_watchdog_observation;

typedef struct ofr_watchdog {
    bool have, starting;
    uint64_t progress, since_ns, observed_ns, longest_ns;
    uint64_t activity_since_ns;
    enum ofr_thread_activity activity;
} ofr_watchdog;

/* Zeroed is ready. True: the worker hangs; ret_reason says how. */
bool ofr_watchdog_observe(ofr_watchdog *watchdog, const ofr_watchdog_observation *observation,
                          char *ret_reason, size_t size);

/* Of a process, from /proc; ASLEEP where there is nothing to read. */
enum ofr_thread_activity ofr_thread_activity_of(pid_t pid);

#endif
