/* What the kernel says of the devices: /sys/class/drm, /sys/class/accel, /proc/cpuinfo, hwmon and
 * RAPL. Nothing here loads a driver. */
#ifndef OFR_DEVICE_SYSFS_H
#define OFR_DEVICE_SYSFS_H

#include "device/device.h"
#include "device/root.h"
#include "device/telemetry.h"

/* Adds the processor, every PCI GPU and every NPU to an empty list; names are given later. */
void ofr_sysfs_scan(const ofr_root *root, ofr_device_list *list);

/* Fills what the kernel measures now for device i; fields that it does not know are left alone.
 * `previous` holds the counters between two samples of one device; zeroed at first. */
typedef struct ofr_sysfs_counters {
    uint64_t busy_us, total_us; /* of the source that utilisation is taken from */
    uint64_t energy_uj;         /* last reading of the energy counter */
    double energy_j;            /* accumulated over wraps since the first sample */
    uint64_t at_ns;
    uint64_t throttle_count;
    bool have_busy, have_energy, have_throttle;
} ofr_sysfs_counters;
void ofr_sysfs_sample(const ofr_root *root, const ofr_device *device, uint64_t now_ns,
                      ofr_sysfs_counters *previous, ofr_device_sample *sample);

#endif
