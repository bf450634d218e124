/* Health: telemetry turned into conditions by thresholds with hysteresis, energy per token, and
 * what the machine as a whole is short of. Pure but for ofr_health_system_read. One thread. */
#ifndef OFR_EXECUTIVE_SHARD_HEALTH_H
#define OFR_EXECUTIVE_SHARD_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "device/condition.h"
#include "device/device.h"
#include "device/telemetry.h"

/* On at `enter` for enter_samples in a row, off below `leave` for leave_samples in a row. */
typedef struct ofr_threshold {
    double enter, leave;
    uint32_t enter_samples, leave_samples;
} ofr_threshold;
typedef struct ofr_threshold_state {
    bool on;
    uint32_t streak;
} ofr_threshold_state;
/* Returns whether it is on; NaN changes nothing. */
bool ofr_threshold_update(const ofr_threshold *threshold, ofr_threshold_state *state, double value);

/* Of the machine. */
typedef struct ofr_health_system {
    uint64_t memory_available, memory_total; /* bytes; 0: unknown */
    uint64_t shm_free, shm_total;
    double memory_pressure; /* percent of the last 10 s that something waited for memory; NaN */
    uint64_t refaults;      /* file pages read again soon after they were dropped, since boot */
} ofr_health_system;

/* What the workers have done, summed; tokens of prefill and of decode apart. */
typedef struct ofr_health_work {
    uint64_t prefill_tokens, decode_tokens;
} ofr_health_work;

typedef struct ofr_health {
    ofr_device_list devices;
    ofr_telemetry last;
    bool have_telemetry;
    struct ofr_health_device {
        ofr_threshold_state warm, throttled, memory;
    } states[OFR_DEVICES_MAX];
    ofr_health_system system, system_before;
    ofr_threshold_state pressure, shm_low;
    bool have_system;
    double refaults_per_s;
    /* Energy of the processor package, over intervals that held decode and nothing else. */
    ofr_health_work work_before;
    double energy_before_j;
    bool have_energy_before;
    double decode_energy_j;
    uint64_t decode_energy_tokens;
} ofr_health;

/* Takes in one record; sets conditions of devices. True where a condition changed (its version went
 * up): the planner is to look again. */
bool ofr_health_update(ofr_health *health, const ofr_telemetry *record,
                       const ofr_health_system *system, const ofr_health_work *work,
                       ofr_conditions *conditions);

/* /proc/meminfo, /proc/pressure/memory, /proc/vmstat, /dev/shm of this machine. */
void ofr_health_system_read(ofr_health_system *ret_system);

/* Joules per generated token; NaN where no counter or no decode was seen. */
double ofr_health_energy_per_token(const ofr_health *health);

/* {"devices":[...],"system":{...},"energy_per_token_j":...}; unknown figures are null. */
json_t *ofr_health_to_json(const ofr_health *health, const ofr_conditions *conditions);

#endif
