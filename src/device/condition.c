/* The table of device conditions. */
#include "device/condition.h"

#include <stdio.h>
#include <string.h>

const char *ofr_condition_name(enum ofr_condition condition)
{
    switch (condition) {
    case OFR_CONDITION_OK:
        return "ok";
    case OFR_CONDITION_WARM:
        return "warm";
    case OFR_CONDITION_THROTTLED:
        return "throttled";
    case OFR_CONDITION_MEMORY:
        return "out_of_memory";
    case OFR_CONDITION_QUARANTINED:
        return "quarantined";
    }
    return "unknown";
}

static ofr_condition_entry *find(ofr_conditions *conditions, const char *device)
{
    for (size_t i = 0; i < conditions->count; i++)
        if (strcmp(conditions->entries[i].device, device) == 0)
            return &conditions->entries[i];
    return NULL;
}

const ofr_condition_entry *ofr_conditions_find(const ofr_conditions *conditions, const char *device)
{
    for (size_t i = 0; i < conditions->count; i++)
        if (strcmp(conditions->entries[i].device, device) == 0)
            return &conditions->entries[i];
    return NULL;
}

bool ofr_conditions_set(ofr_conditions *conditions, const char *device,
                        enum ofr_condition condition, const char *reason)
{
    ofr_condition_entry *entry = find(conditions, device);
    if (!entry) {
        if (conditions->count == OFR_DEVICES_MAX)
            return false;
        entry = &conditions->entries[conditions->count++];
        *entry = (ofr_condition_entry){.condition = OFR_CONDITION_OK};
        snprintf(entry->device, sizeof entry->device, "%s", device);
    }
    if (entry->condition == OFR_CONDITION_QUARANTINED)
        return false;
    snprintf(entry->reason, sizeof entry->reason, "%s", reason);
    if (entry->condition == condition)
        return false;
    entry->condition = condition;
    conditions->version++;
    return true;
}

void ofr_conditions_clear(ofr_conditions *conditions, const char *device)
{
    ofr_condition_entry *entry = find(conditions, device);
    if (!entry)
        return;
    if (entry->condition != OFR_CONDITION_OK)
        conditions->version++;
    entry->condition = OFR_CONDITION_OK;
    entry->reason[0] = 0;
}

bool ofr_conditions_usable(const ofr_conditions *conditions, const char *device,
                           double *ret_penalty, const char **ret_reason)
{
    const ofr_condition_entry *entry = ofr_conditions_find(conditions, device);
    enum ofr_condition condition = entry ? entry->condition : OFR_CONDITION_OK;
    if (ret_reason)
        *ret_reason = entry ? entry->reason : "";
    /* A throttled device is usually between half and all of its speed; one without memory would
     * have to swap, which only a machine with nothing else should do. */
    *ret_penalty = condition == OFR_CONDITION_THROTTLED ? 1.5
                   : condition == OFR_CONDITION_MEMORY  ? 8.0
                                                        : 1.0;
    return condition != OFR_CONDITION_QUARANTINED;
}
