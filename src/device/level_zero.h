/* Level Zero through the system's loader, opened at run time: its devices, and what sysman measures
 * of them.
 *
 * The loader runs driver code, which may crash: call only in a process that may be lost. Works with
 * every loader from 1.8 (Debian 12) on; what a newer one adds (zeInitDrivers, zesInit) is looked up
 * and used where it is there. One thread. */
#ifndef OFR_DEVICE_LEVEL_ZERO_H
#define OFR_DEVICE_LEVEL_ZERO_H

#include "device/device.h"
#include "device/telemetry.h"

typedef struct ofr_level_zero ofr_level_zero;

/* Told before each step that runs driver code ("zeDeviceGet of driver 1"), so that whoever watches
 * knows where a crash was. */
typedef void ofr_stage_function(void *user, const char *stage);

/* Loads the loader, initializes all drivers, enumerates. OFR_ENOENT: no loader; OFR_EDEVICE: no
 * driver could be initialized, with Level Zero's own error. */
int ofr_level_zero_open(ofr_stage_function *stage, void *user, ofr_level_zero **ret_level_zero,
                        ofr_error *err);
/* Accepts NULL. The library stays loaded. */
ofr_level_zero *ofr_level_zero_close(ofr_level_zero *level_zero);

const char *ofr_level_zero_version(const ofr_level_zero *level_zero); /* loader: "1.8.12" */
size_t ofr_level_zero_count(const ofr_level_zero *level_zero);
/* Fields of Level Zero only: kind, PCI address and ids, model, driver_version, memory, clock,
 * engines. */
const ofr_device *ofr_level_zero_device(const ofr_level_zero *level_zero, size_t index);
/* Fills what sysman knows of the device; the rest is left alone. */
void ofr_level_zero_sample(ofr_level_zero *level_zero, size_t index, ofr_device_sample *sample);

#endif
