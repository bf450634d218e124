/* Whether a device is fit to be planned with: what health monitoring tells the planner.
 *
 * The executive keeps one table per run. Telemetry, the watchdog and worker deaths write it; the
 * planner reads it and looks at `version` to know that it should plan again. One thread. */
#ifndef OFR_DEVICE_CONDITION_H
#define OFR_DEVICE_CONDITION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/device.h"

enum ofr_condition {
    OFR_CONDITION_OK,
    OFR_CONDITION_WARM,        /* near a limit; plans stay as they are */
    OFR_CONDITION_THROTTLED,   /* slower than measured: prefer another device */
    OFR_CONDITION_MEMORY,      /* out of memory: no new work, prefer another device */
    OFR_CONDITION_QUARANTINED, /* failed too often: never used until the executive restarts */
};

typedef struct ofr_condition_entry {
    char device[16]; /* stable name, "npu" */
    enum ofr_condition condition;
    char reason[192]; /* "97 C, throttled by its thermal limit" */
} ofr_condition_entry;

typedef struct ofr_conditions {
    ofr_condition_entry entries[OFR_DEVICES_MAX];
    size_t count;
    uint64_t version; /* adds 1 whenever an entry's condition changes */
} ofr_conditions;

/* Sets a device's condition; true where it differs from before. Quarantine is only left with
 * ofr_conditions_clear. A table that is full ignores new names. */
bool ofr_conditions_set(ofr_conditions *conditions, const char *device,
                        enum ofr_condition condition, const char *reason);
/* Forgets what is known of the device, quarantine too. */
void ofr_conditions_clear(ofr_conditions *conditions, const char *device);
/* NULL: nothing is known, so the device is fit. */
const ofr_condition_entry *ofr_conditions_find(const ofr_conditions *conditions,
                                               const char *device);

/* What a planner asks: may new work go to the device (`*ret_penalty` 1.0), should another be
 * preferred (above 1: its measured time is to be multiplied), or must it not be used (false)?
 * ret_reason (may be NULL) is valid until the table changes; "" where there is nothing to say. */
bool ofr_conditions_usable(const ofr_conditions *conditions, const char *device,
                           double *ret_penalty, const char **ret_reason);

const char *ofr_condition_name(enum ofr_condition condition);

#endif
