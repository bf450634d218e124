/* The sampler process and the pipe to it. */
#include "device/telemetry.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "device/child.h"
#include "device/level_zero.h"
#include "device/root.h"
#include "device/sysfs.h"

struct work {
    const ofr_device_list *list;
    const char *root;
    uint32_t period_ms;
    bool drivers;
};

static void no_stage(void *user, const char *stage)
{
    (void)user;
    (void)stage;
}

/* Which of Level Zero's devices is device i; -1: none. */
static int find_level_zero(const ofr_level_zero *lz, const ofr_device *device)
{
    for (size_t i = 0; i < ofr_level_zero_count(lz); i++)
        if (ofr_pci_equal(&ofr_level_zero_device(lz, i)->pci, &device->pci))
            return (int)i;
    return -1;
}

static void wait_period(struct timespec *next, uint32_t period_ms)
{
    next->tv_nsec += (long)(period_ms % 1000) * 1000000;
    next->tv_sec += (time_t)(period_ms / 1000) + next->tv_nsec / 1000000000;
    next->tv_nsec %= 1000000000;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    /* After a stop (SIGSTOP) readings are not caught up with. */
    if (now.tv_sec > next->tv_sec + 1)
        *next = now;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, next, NULL) == EINTR)
        ;
}

static void sample_all(int fd, void *user)
{
    const struct work *work = user;
    const ofr_device_list *list = work->list;
    ofr_root root;
    if (ofr_root_open(work->root, &root, NULL) < 0)
        return;
    ofr_sysfs_counters *counters = calloc(OFR_DEVICES_MAX, sizeof *counters);
    ofr_telemetry *record = calloc(1, sizeof *record);
    if (!counters || !record)
        return;
    ofr_level_zero *lz = NULL;
    bool tried = !work->drivers;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (;;) {
        *record = (ofr_telemetry){.magic = OFR_TELEMETRY_MAGIC,
                                  .version = OFR_TELEMETRY_VERSION,
                                  .n_devices = (uint32_t)list->count,
                                  .level_zero = lz != NULL,
                                  .at_ns = ofr_clock_ns()};
        for (size_t i = 0; i < OFR_DEVICES_MAX; i++)
            ofr_device_sample_init(&record->devices[i]);
        for (size_t i = 0; i < list->count; i++) {
            const ofr_device *device = &list->devices[i];
            ofr_sysfs_sample(&root, device, record->at_ns, &counters[i], &record->devices[i]);
            int index = lz ? find_level_zero(lz, device) : -1;
            if (index >= 0)
                ofr_level_zero_sample(lz, (size_t)index, &record->devices[i]);
        }
        ssize_t n = write(fd, record, sizeof *record);
        if (n != (ssize_t)sizeof *record)
            return;
        /* After the first record: what the kernel says is there even if a driver crashes now. */
        if (!tried && ofr_level_zero_open(no_stage, NULL, &lz, NULL) < 0)
            lz = NULL;
        tried = true;
        wait_period(&next, work->period_ms);
    }
}

int ofr_sampler_start(ofr_sampler *sampler, const ofr_device_list *list, const char *root,
                      uint32_t period_ms, ofr_error *err)
{
    struct work work = {list, root, period_ms, sampler->crashes == 0};
    int r = ofr_child_start(sample_all, &work, 1, &sampler->pid, &sampler->fd, err);
    if (r < 0) {
        sampler->pid = 0;
        sampler->fd = -1;
        return r;
    }
    fcntl(sampler->fd, F_SETFL, O_NONBLOCK);
    return 0;
}

void ofr_sampler_stop(ofr_sampler *sampler)
{
    if (sampler->fd >= 0)
        close(sampler->fd);
    if (sampler->pid > 0) {
        kill(sampler->pid, SIGKILL);
        while (waitpid(sampler->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    sampler->fd = -1;
    sampler->pid = 0;
}

static bool record_ok(const ofr_telemetry *record)
{
    if (record->magic != OFR_TELEMETRY_MAGIC || record->version != OFR_TELEMETRY_VERSION ||
        record->n_devices > OFR_DEVICES_MAX)
        return false;
    for (uint32_t i = 0; i < record->n_devices; i++) {
        const ofr_device_sample *s = &record->devices[i];
        if (isinf(s->utilisation) || isinf(s->temperature_c) || isinf(s->frequency_mhz) ||
            isinf(s->power_w) || isinf(s->energy_j) || isinf(s->memory_used) ||
            isinf(s->memory_total))
            return false;
    }
    return true;
}

int ofr_sampler_read(ofr_sampler *sampler, ofr_telemetry *ret_record, ofr_error *err)
{
    ofr_telemetry record;
    bool any = false;
    ssize_t n = -1;
    while (sampler->fd >= 0 && (n = read(sampler->fd, &record, sizeof record)) > 0) {
        if (n != (ssize_t)sizeof record || !record_ok(&record)) {
            n = 0;
            break;
        }
        for (size_t i = 0; i < OFR_DEVICES_MAX; i++) {
            char *reason = record.devices[i].throttle_reason;
            reason[sizeof record.devices[i].throttle_reason - 1] = 0;
            for (; *reason; reason++)
                if ((unsigned char)*reason < 0x20 || (unsigned char)*reason >= 0x7f)
                    *reason = '?';
        }
        *ret_record = record;
        any = true;
    }
    if (n == 0 || sampler->fd < 0) {
        bool was = sampler->fd >= 0;
        ofr_sampler_stop(sampler);
        sampler->crashes += was;
        return ofr_fail(err, OFR_EGONE, "the telemetry process died");
    }
    return any ? 0 : OFR_EAGAIN;
}
