/* Telemetry: what each device is doing now. A child process reads sysfs and Level Zero's sysman
 * once per period and sends one record per reading over a pipe, so that neither a slow sysfs file
 * nor a crashing driver is felt by the token loop or the executive. */
#ifndef OFR_DEVICE_TELEMETRY_H
#define OFR_DEVICE_TELEMETRY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "device/device.h"

/* A field that nobody measures is NaN. */
typedef struct ofr_device_sample {
    double utilisation;      /* 0 to 1 since the sample before */
    double temperature_c;    /* hottest sensor */
    double frequency_mhz;    /* now */
    double power_w;          /* mean since the sample before */
    double energy_j;         /* since the sampler began */
    double memory_used;      /* bytes; of the device's own memory, or what an NPU has taken */
    double memory_total;     /* bytes; NaN where it shares the host's */
    uint32_t throttled;      /* 1: the device runs slower than it could */
    uint32_t throttle_known; /* 1: `throttled` was measured */
    char throttle_reason[48];
} ofr_device_sample;

enum { OFR_TELEMETRY_MAGIC = 0x4d54464f, OFR_TELEMETRY_VERSION = 1 };

/* One record, as it goes through the pipe. */
typedef struct ofr_telemetry {
    uint32_t magic, version;
    uint32_t n_devices;  /* as in the list that the sampler was started with */
    uint32_t level_zero; /* 1: sysman answered */
    uint64_t at_ns;      /* CLOCK_MONOTONIC */
    ofr_device_sample devices[OFR_DEVICES_MAX];
} ofr_telemetry;
_Static_assert(sizeof(ofr_telemetry) <= 4096, "a record is written to a pipe in one piece");

typedef struct ofr_sampler {
    pid_t pid; /* 0: not running */
    int fd;    /* poll it for POLLIN; -1: none */
    uint32_t crashes;
} ofr_sampler;

/* Starts the sampler for the devices of `list`. The child ends with this process. */
int ofr_sampler_start(ofr_sampler *sampler, const ofr_device_list *list, const char *root,
                      uint32_t period_ms, ofr_error *err);
/* Reads the newest record. OFR_EAGAIN: none yet; OFR_EGONE: the child died (it is reaped and the
 * descriptor closed; `crashes` counts it; after the first one a new sampler leaves drivers alone).
 */
int ofr_sampler_read(ofr_sampler *sampler, ofr_telemetry *ret_record, ofr_error *err);
/* Kills and reaps; accepts one that is not running. */
void ofr_sampler_stop(ofr_sampler *sampler);

/* All fields NaN or 0. */
void ofr_device_sample_init(ofr_device_sample *sample);

#endif
