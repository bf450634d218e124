/* What the kernel measures: frequencies, busy times, temperatures, energy counters, throttling. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/sysfs.h"

enum { NAMES_MAX = 32 };

void ofr_device_sample_init(ofr_device_sample *sample)
{
    *sample = (ofr_device_sample){.utilisation = NAN,
                                  .temperature_c = NAN,
                                  .frequency_mhz = NAN,
                                  .power_w = NAN,
                                  .energy_j = NAN,
                                  .memory_used = NAN,
                                  .memory_total = NAN};
}

/* Busy and total are counters of the same unit. */
static void sample_busy(uint64_t busy, uint64_t total, ofr_sysfs_counters *previous,
                        ofr_device_sample *sample)
{
    if (previous->have_busy && total > previous->total_us && busy >= previous->busy_us) {
        double share = (double)(busy - previous->busy_us) / (double)(total - previous->total_us);
        sample->utilisation = share > 1.0 ? 1.0 : share;
    }
    previous->busy_us = busy;
    previous->total_us = total;
    previous->have_busy = true;
}

/* range: the value at which the counter wraps to 0; 0: it does not. */
static void sample_energy(uint64_t energy_uj, uint64_t range, uint64_t now_ns,
                          ofr_sysfs_counters *previous, ofr_device_sample *sample)
{
    if (previous->have_energy) {
        uint64_t used = energy_uj - previous->energy_uj;
        if (energy_uj < previous->energy_uj)
            used = range > previous->energy_uj ? range - previous->energy_uj + energy_uj : 0;
        double joules = (double)used / 1e6;
        previous->energy_j += joules;
        if (now_ns > previous->at_ns)
            sample->power_w = joules / ((double)(now_ns - previous->at_ns) / 1e9);
    }
    sample->energy_j = previous->energy_j;
    previous->energy_uj = energy_uj;
    previous->at_ns = now_ns;
    previous->have_energy = true;
}

/* The hottest temp*_input below a hwmon directory; NaN where there is none. */
static double hottest(const ofr_root *root, const char *hwmon)
{
    char names[NAMES_MAX][OFR_ROOT_NAME_SIZE];
    size_t count = ofr_root_list(root, hwmon, "temp", names, NAMES_MAX);
    double found = NAN;
    for (size_t i = 0; i < count; i++) {
        uint64_t milli = 0;
        size_t length = strlen(names[i]);
        if (length < 7 || strcmp(names[i] + length - 6, "_input") != 0 ||
            !ofr_root_read_u64(root, &milli, "%s/%s", hwmon, names[i]) || milli > 200000)
            continue;
        double celsius = (double)milli / 1000.0;
        if (isnan(found) || celsius > found)
            found = celsius;
    }
    return found;
}

/* A RAPL domain by name, "package-0" or "uncore". */
static void sample_rapl(const ofr_root *root, const char *wanted, uint64_t now_ns,
                        ofr_sysfs_counters *previous, ofr_device_sample *sample)
{
    char names[NAMES_MAX][OFR_ROOT_NAME_SIZE];
    size_t count = ofr_root_list(root, "/sys/class/powercap", "intel-rapl:", names, NAMES_MAX);
    for (size_t i = 0; i < count; i++) {
        char name[64];
        uint64_t energy = 0;
        uint64_t range = 0;
        if (!ofr_root_read(root, name, sizeof name, "/sys/class/powercap/%s/name", names[i]) ||
            strcmp(name, wanted) != 0)
            continue;
        ofr_root_read_u64(root, &range, "/sys/class/powercap/%s/max_energy_range_uj", names[i]);
        if (ofr_root_read_u64(root, &energy, "/sys/class/powercap/%s/energy_uj", names[i]))
            sample_energy(energy, range, now_ns, previous, sample);
        return;
    }
}

static void sample_processor(const ofr_root *root, uint64_t now_ns, ofr_sysfs_counters *previous,
                             ofr_device_sample *sample)
{
    char line[512];
    unsigned long long v[8] = {0};
    if (ofr_root_read(root, line, sizeof line, "/proc/stat") &&
        sscanf(line, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3],
               &v[4], &v[5], &v[6], &v[7]) >= 4) {
        uint64_t total = 0;
        for (size_t i = 0; i < 8; i++)
            total += v[i];
        sample_busy(total - v[3] - v[4], total, previous, sample);
    }
    char names[NAMES_MAX][OFR_ROOT_NAME_SIZE];
    size_t count = ofr_root_list(root, "/sys/class/hwmon", "hwmon", names, NAMES_MAX);
    for (size_t i = 0; i < count; i++) {
        char name[64];
        char path[512];
        if (ofr_root_read(root, name, sizeof name, "/sys/class/hwmon/%s/name", names[i]) &&
            (strcmp(name, "coretemp") == 0 || strcmp(name, "k10temp") == 0)) {
            snprintf(path, sizeof path, "/sys/class/hwmon/%s", names[i]);
            sample->temperature_c = hottest(root, path);
        }
    }
    uint64_t khz = 0;
    double fastest = NAN;
    /* A reading may cost an interrupt on that core: the first few are enough. */
    for (unsigned cpu = 0; cpu < 4; cpu++)
        if (ofr_root_read_u64(root, &khz, "/sys/devices/system/cpu/cpu%u/cpufreq/scaling_cur_freq",
                              cpu) &&
            !((double)khz / 1000.0 <= fastest))
            fastest = (double)khz / 1000.0;
    sample->frequency_mhz = fastest;
    sample_rapl(root, "package-0", now_ns, previous, sample);
    uint64_t events = 0;
    if (ofr_root_read_u64(root, &events,
                          "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count")) {
        sample->throttle_known = 1;
        if (previous->have_throttle && events > previous->throttle_count) {
            sample->throttled = 1;
            snprintf(sample->throttle_reason, sizeof sample->throttle_reason, "thermal");
        }
        previous->throttle_count = events;
        previous->have_throttle = true;
    }
}

static void sample_npu(const ofr_root *root, const ofr_device *device, uint64_t now_ns,
                       ofr_sysfs_counters *previous, ofr_device_sample *sample)
{
    uint64_t value = 0;
    if (ofr_root_read_u64(root, &value, "%s/device/npu_busy_time_us", device->sysfs))
        sample_busy(value, now_ns / 1000, previous, sample);
    if (ofr_root_read_u64(root, &value, "%s/device/npu_current_frequency_mhz", device->sysfs))
        sample->frequency_mhz = (double)value;
    if (ofr_root_read_u64(root, &value, "%s/device/npu_memory_utilization", device->sysfs))
        sample->memory_used = (double)value;
}

/* The names of the set reason files: "pl1,thermal". */
static void read_reasons(const ofr_root *root, const char *directory, const char *prefix,
                         ofr_device_sample *sample)
{
    char names[NAMES_MAX][OFR_ROOT_NAME_SIZE];
    size_t count = ofr_root_list(root, directory, prefix, names, NAMES_MAX);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t set = 0;
        const char *reason = names[i] + strlen(prefix);
        if (strcmp(reason, "status") == 0 ||
            !ofr_root_read_u64(root, &set, "%s/%s", directory, names[i]) || set == 0)
            continue;
        int n = snprintf(sample->throttle_reason + used, sizeof sample->throttle_reason - used,
                         "%s%.24s", used ? "," : "", reason);
        if (n < 0 || used + (size_t)n >= sizeof sample->throttle_reason)
            break;
        used += (size_t)n;
    }
}

static void sample_gpu(const ofr_root *root, const ofr_device *device, uint64_t now_ns,
                       ofr_sysfs_counters *previous, ofr_device_sample *sample)
{
    static const char *const frequencies[] = {"gt_act_freq_mhz", "device/tile0/gt0/freq0/act_freq",
                                              "gt_cur_freq_mhz", NULL};
    static const char *const idle[] = {"gt/gt0/rc6_residency_ms",
                                       "device/tile0/gt0/gtidle/idle_residency_ms", NULL};
    uint64_t value = 0;
    char path[512];
    for (size_t i = 0; frequencies[i] && isnan(sample->frequency_mhz); i++)
        if (ofr_root_read_u64(root, &value, "%s/%s", device->sysfs, frequencies[i]))
            sample->frequency_mhz = (double)value;
    for (size_t i = 0; idle[i]; i++) {
        /* What is not idle is busy; counted from now so that both counters grow. */
        if (ofr_root_read_u64(root, &value, "%s/%s", device->sysfs, idle[i])) {
            uint64_t now_ms = now_ns / 1000000;
            sample_busy(now_ms > value ? now_ms - value : 0, now_ms, previous, sample);
            break;
        }
    }
    if (ofr_root_read_u64(root, &value, "%s/gt/gt0/throttle_reason_status", device->sysfs)) {
        sample->throttle_known = 1;
        sample->throttled = value != 0;
        snprintf(path, sizeof path, "%s/gt/gt0", device->sysfs);
        read_reasons(root, path, "throttle_reason_", sample);
    } else if (ofr_root_read_u64(root, &value, "%s/device/tile0/gt0/freq0/throttle/status",
                                 device->sysfs)) {
        sample->throttle_known = 1;
        sample->throttled = value != 0;
        snprintf(path, sizeof path, "%s/device/tile0/gt0/freq0/throttle", device->sysfs);
        read_reasons(root, path, "reason_", sample);
    }
    char names[4][OFR_ROOT_NAME_SIZE];
    snprintf(path, sizeof path, "%s/device/hwmon", device->sysfs);
    bool have_energy = false;
    size_t count = ofr_root_list(root, path, "hwmon", names, 4);
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/device/hwmon/%s", device->sysfs, names[i]);
        double celsius = hottest(root, path);
        if (!isnan(celsius))
            sample->temperature_c = celsius;
        if (!have_energy && ofr_root_read_u64(root, &value, "%s/energy1_input", path)) {
            have_energy = true;
            sample_energy(value, 0, now_ns, previous, sample);
        }
    }
    if (!have_energy && device->kind == OFR_DEVICE_KIND_INTEGRATED_GPU)
        sample_rapl(root, "uncore", now_ns, previous, sample);
}

void ofr_sysfs_sample(const ofr_root *root, const ofr_device *device, uint64_t now_ns,
                      ofr_sysfs_counters *previous, ofr_device_sample *sample)
{
    switch (device->kind) {
    case OFR_DEVICE_KIND_CPU:
        sample_processor(root, now_ns, previous, sample);
        break;
    case OFR_DEVICE_KIND_NPU:
        sample_npu(root, device, now_ns, previous, sample);
        break;
    case OFR_DEVICE_KIND_INTEGRATED_GPU:
    case OFR_DEVICE_KIND_DISCRETE_GPU:
        sample_gpu(root, device, now_ns, previous, sample);
        break;
    }
}
