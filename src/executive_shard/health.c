/* Thresholds, energy per token, and the health object of the status. */
#include "executive_shard/health.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/shm.h"

/* Intel's processors throttle at 100 to 110 C, Arc cards at 100: warm is a warning before that. */
static const ofr_threshold WARM = {95, 88, 3, 5};
/* The driver's own word; short dips under a power limit are normal, so three samples in a row. */
static const ofr_threshold THROTTLED = {1, 1, 3, 10};
static const ofr_threshold MEMORY = {0.95, 0.88, 2, 3};
/* Percent of time in which some task waited for memory. */
static const ofr_threshold PRESSURE = {20, 5, 3, 5};
/* Share of /dev/shm that is in use. */
static const ofr_threshold SHM = {0.95, 0.9, 1, 1};

bool ofr_threshold_update(const ofr_threshold *threshold, ofr_threshold_state *state, double value)
{
    if (isnan(value))
        return state->on;
    bool against = state->on ? value < threshold->leave : value >= threshold->enter;
    state->streak = against ? state->streak + 1 : 0;
    if (state->streak >= (state->on ? threshold->leave_samples : threshold->enter_samples)) {
        state->on = !state->on;
        state->streak = 0;
    }
    return state->on;
}

static void judge_device(ofr_health *health, size_t i, ofr_conditions *conditions)
{
    const ofr_device *device = &health->devices.devices[i];
    const ofr_device_sample *s = &health->last.devices[i];
    struct ofr_health_device *state = &health->states[i];
    char reason[192] = "";
    enum ofr_condition condition = OFR_CONDITION_OK;
    double memory = s->memory_total > 0 ? s->memory_used / s->memory_total : NAN;
    bool warm = ofr_threshold_update(&WARM, &state->warm, s->temperature_c);
    bool throttled = ofr_threshold_update(&THROTTLED, &state->throttled,
                                          s->throttle_known ? (double)s->throttled : NAN);
    bool full = ofr_threshold_update(&MEMORY, &state->memory, memory);
    if (full) {
        condition = OFR_CONDITION_MEMORY;
        snprintf(reason, sizeof reason, "%.0f of %.0f MiB of its memory are in use",
                 s->memory_used / (1 << 20), s->memory_total / (1 << 20));
    } else if (throttled) {
        condition = OFR_CONDITION_THROTTLED;
        snprintf(reason, sizeof reason, "throttled%s%s", s->throttle_reason[0] ? ": " : "",
                 s->throttle_reason);
        if (!isnan(s->temperature_c))
            snprintf(reason + strlen(reason), sizeof reason - strlen(reason), ", %.0f C",
                     s->temperature_c);
        if (!isnan(s->frequency_mhz))
            snprintf(reason + strlen(reason), sizeof reason - strlen(reason), ", %.0f MHz",
                     s->frequency_mhz);
    } else if (warm) {
        condition = OFR_CONDITION_WARM;
        snprintf(reason, sizeof reason, "%.0f C", s->temperature_c);
    }
    ofr_conditions_set(conditions, device->name, condition, reason);
}

/* An interval counts where tokens were generated and none were prefilled. */
static void count_energy(ofr_health *health, const ofr_health_work *work)
{
    double energy = NAN;
    for (size_t i = 0; i < health->devices.count; i++)
        if (health->devices.devices[i].kind == OFR_DEVICE_KIND_CPU)
            energy = health->last.devices[i].energy_j;
    uint64_t decoded = work->decode_tokens - health->work_before.decode_tokens;
    bool decode_only = work->decode_tokens > health->work_before.decode_tokens &&
                       work->prefill_tokens == health->work_before.prefill_tokens;
    if (health->have_energy_before && decode_only && energy > health->energy_before_j) {
        health->decode_energy_j += energy - health->energy_before_j;
        health->decode_energy_tokens += decoded;
    }
    health->have_energy_before = !isnan(energy);
    health->energy_before_j = energy;
    health->work_before = *work;
}

bool ofr_health_update(ofr_health *health, const ofr_telemetry *record,
                       const ofr_health_system *system, const ofr_health_work *work,
                       ofr_conditions *conditions)
{
    uint64_t version = conditions->version;
    uint64_t before_ns = health->last.at_ns;
    health->last = *record;
    health->have_telemetry = true;
    for (size_t i = 0; i < health->devices.count && i < record->n_devices; i++)
        judge_device(health, i, conditions);
    count_energy(health, work);
    if (health->have_system && record->at_ns > before_ns && before_ns &&
        system->refaults >= health->system.refaults)
        health->refaults_per_s = (double)(system->refaults - health->system.refaults) /
                                 ((double)(record->at_ns - before_ns) / 1e9);
    health->system = *system;
    health->have_system = true;
    ofr_threshold_update(&PRESSURE, &health->pressure, system->memory_pressure);
    double used =
        system->shm_total ? 1.0 - (double)system->shm_free / (double)system->shm_total : NAN;
    ofr_threshold_update(&SHM, &health->shm_low, used);
    return conditions->version != version;
}

static uint64_t proc_number(const char *path, const char *key)
{
    char line[256];
    uint64_t value = 0;
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            value = strtoull(line + strlen(key), NULL, 10);
    if (file)
        fclose(file);
    return value;
}

void ofr_health_system_read(ofr_health_system *ret_system)
{
    ofr_health_system s = {.memory_pressure = NAN};
    s.memory_available = ofr_memory_available();
    s.memory_total = proc_number("/proc/meminfo", "MemTotal:") * 1024;
    ofr_shm_space(&s.shm_free, &s.shm_total, NULL);
    char line[256];
    FILE *file = fopen("/proc/pressure/memory", "re");
    double average = NAN;
    if (file && fgets(line, sizeof line, file) && sscanf(line, "some avg10=%lf", &average) == 1)
        s.memory_pressure = average;
    if (file)
        fclose(file);
    s.refaults = proc_number("/proc/vmstat", "workingset_refault_file");
    *ret_system = s;
}

double ofr_health_energy_per_token(const ofr_health *health)
{
    return health->decode_energy_tokens
               ? health->decode_energy_j / (double)health->decode_energy_tokens
               : NAN;
}

static json_t *figure(double value)
{
    return isnan(value) || isinf(value) ? json_null() : json_real(value);
}

json_t *ofr_health_to_json(const ofr_health *health, const ofr_conditions *conditions)
{
    json_t *devices = json_array();
    for (size_t i = 0; health->have_telemetry && i < health->devices.count; i++) {
        const ofr_device *d = &health->devices.devices[i];
        const ofr_device_sample *s = &health->last.devices[i];
        const ofr_condition_entry *entry = ofr_conditions_find(conditions, d->name);
        json_array_append_new(
            devices,
            json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name",
                      d->name, "model", d->model, "condition",
                      ofr_condition_name(entry ? entry->condition : OFR_CONDITION_OK), "reason",
                      entry ? entry->reason : "", "utilisation", figure(s->utilisation),
                      "temperature_c", figure(s->temperature_c), "frequency_mhz",
                      figure(s->frequency_mhz), "power_w", figure(s->power_w), "energy_j",
                      figure(s->energy_j), "memory_used_bytes", figure(s->memory_used),
                      "memory_total_bytes", figure(s->memory_total), "throttled",
                      s->throttle_known ? json_boolean(s->throttled) : json_null()));
    }
    const ofr_health_system *m = &health->system;
    return json_pack("{s:o, s:{s:I, s:I, s:I, s:I, s:o, s:o, s:b, s:b}, s:o, s:I}", "devices",
                     devices, "system", "memory_available_bytes", (json_int_t)m->memory_available,
                     "memory_total_bytes", (json_int_t)m->memory_total, "shm_free_bytes",
                     (json_int_t)m->shm_free, "shm_total_bytes", (json_int_t)m->shm_total,
                     "memory_pressure_percent", figure(m->memory_pressure), "refaults_per_s",
                     figure(health->refaults_per_s), "memory_short", health->pressure.on,
                     "shm_short", health->shm_low.on, "energy_per_token_j",
                     figure(ofr_health_energy_per_token(health)), "conditions_version",
                     (json_int_t)conditions->version);
}
