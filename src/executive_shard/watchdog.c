/* The watchdog's rules, and the states of a process's threads. */
#include "executive_shard/watchdog.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MS UINT64_C(1000000)

static const uint64_t GAP_NS = 1000 * MS;
static const uint64_t STOPPED_NS = 400 * MS;
static const uint64_t ASLEEP_NS = 600 * MS;
static const uint64_t DEVICE_NS = 10000 * MS;
static const uint64_t RUNNABLE_NS = 30000 * MS;
static const uint64_t LONGEST_MAX_NS = 60000 * MS;

static void restart(ofr_watchdog *w, const ofr_watchdog_observation *o)
{
    w->have = true;
    w->starting = o->starting;
    w->progress = o->progress;
    w->since_ns = w->activity_since_ns = o->now_ns;
    w->activity = o->activity;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

bool ofr_watchdog_observe(ofr_watchdog *watchdog, const ofr_watchdog_observation *observation,
                          char *ret_reason, size_t size)
{
    ofr_watchdog *w = watchdog;
    const ofr_watchdog_observation *o = observation;
    uint64_t gap = o->now_ns - w->observed_ns;
    w->observed_ns = o->now_ns;
    if (!w->have || gap > GAP_NS || !o->working || o->starting != w->starting) {
        restart(w, o);
        return false;
    }
    if (o->progress != w->progress) {
        uint64_t step = o->now_ns - w->since_ns;
        if (!o->starting && step > w->longest_ns && step < LONGEST_MAX_NS)
            w->longest_ns = step;
        restart(w, o);
        return false;
    }
    if (o->activity != w->activity) {
        w->activity = o->activity;
        w->activity_since_ns = o->now_ns;
    }
    /* Only the time in this state counts: a worker that ran until now was not hanging. */
    uint64_t still = o->now_ns - w->activity_since_ns;
    uint64_t patience = o->starting ? 10 : 1;
    uint64_t limit = 0;
    const char *how = "";
    switch (o->activity) {
    case OFR_THREAD_ACTIVITY_STOPPED:
        limit = STOPPED_NS;
        how = "all its threads are stopped";
        break;
    case OFR_THREAD_ACTIVITY_ASLEEP:
        limit = larger(o->device ? DEVICE_NS : ASLEEP_NS, 8 * w->longest_ns) * patience;
        how = "all its threads sleep";
        break;
    case OFR_THREAD_ACTIVITY_RUNNABLE:
        limit = larger(RUNNABLE_NS, 30 * w->longest_ns) * patience;
        still = o->now_ns - w->since_ns;
        how = "it runs without an end";
        break;
    }
    if (still < limit)
        return false;
    snprintf(ret_reason, size, "no progress for %.1f s: %s",
             (double)(o->now_ns - w->since_ns) / 1e9, how);
    return true;
}

/* The state letter of one thread; 0: gone. */
static char thread_state(int directory, const char *name)
{
    char path[300];
    char text[512];
    snprintf(path, sizeof path, "%s/stat", name);
    int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    const char *end = strrchr(text, ')');
    return end && end[1] == ' ' ? end[2] : 0;
}

enum ofr_thread_activity ofr_thread_activity_of(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return OFR_THREAD_ACTIVITY_ASLEEP;
    unsigned stopped = 0;
    unsigned others = 0;
    unsigned runnable = 0;
    struct dirent *entry;
    while ((entry = readdir(tasks)) != NULL) {
        char state = entry->d_name[0] == '.' ? 0 : thread_state(dirfd(tasks), entry->d_name);
        stopped += state == 'T' || state == 't';
        runnable += state == 'R' || state == 'D';
        others += state == 'S' || state == 'I';
    }
    closedir(tasks);
    return runnable                 ? OFR_THREAD_ACTIVITY_RUNNABLE
           : stopped && others == 0 ? OFR_THREAD_ACTIVITY_STOPPED
                                    : OFR_THREAD_ACTIVITY_ASLEEP;
}
