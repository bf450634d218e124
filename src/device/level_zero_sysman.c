/* Sysman: engine activity, temperature, frequency and throttling, power, memory. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "device/level_zero_internal.h"

static void stage(const ofr_level_zero *lz, const char *text)
{
    if (lz->stage)
        lz->stage(lz->user, text);
}

static bool sysman_address(const ofr_level_zero *lz, zes_device_handle_t handle,
                           ofr_pci_address *ret_address)
{
    zes_pci_properties_t pci = {.stype = ZES_STRUCTURE_TYPE_PCI_PROPERTIES};
    if (lz->zesDevicePciGetProperties(handle, &pci) != ZE_RESULT_SUCCESS)
        return false;
    *ret_address = (ofr_pci_address){.known = true,
                                     .domain = pci.address.domain,
                                     .bus = (uint8_t)pci.address.bus,
                                     .device = (uint8_t)pci.address.device,
                                     .function = (uint8_t)pci.address.function};
    return true;
}

static bool open_separately(ofr_level_zero *lz)
{
    zes_driver_handle_t drivers[OFR_ZE_DRIVERS_MAX];
    uint32_t n_drivers = 0;
    stage(lz, "zesInit");
    if (!lz->zes_driver_get || !lz->zes_device_get || lz->zes_init(0) != ZE_RESULT_SUCCESS ||
        lz->zes_driver_get(&n_drivers, NULL) != ZE_RESULT_SUCCESS || n_drivers == 0)
        return false;
    if (n_drivers > OFR_ZE_DRIVERS_MAX)
        n_drivers = OFR_ZE_DRIVERS_MAX;
    if (lz->zes_driver_get(&n_drivers, drivers) != ZE_RESULT_SUCCESS)
        return false;
    for (uint32_t i = 0; i < n_drivers && i < OFR_ZE_DRIVERS_MAX; i++) {
        zes_device_handle_t handles[OFR_DEVICES_MAX];
        uint32_t count = OFR_DEVICES_MAX;
        stage(lz, "zesDeviceGet");
        if (lz->zes_device_get(drivers[i], &count, handles) != ZE_RESULT_SUCCESS)
            continue;
        for (uint32_t j = 0; j < count && j < OFR_DEVICES_MAX; j++) {
            ofr_pci_address address;
            if (!sysman_address(lz, handles[j], &address))
                continue;
            for (size_t k = 0; k < lz->count; k++)
                if (ofr_pci_equal(&lz->devices[k].description.pci, &address))
                    lz->devices[k].sysman = handles[j];
        }
    }
    return true;
}

void ofr_level_zero_sysman_open(ofr_level_zero *lz, const ze_device_handle_t *core)
{
    if (lz->zes_init && open_separately(lz))
        return;
    for (size_t i = 0; i < lz->count; i++)
        lz->devices[i].sysman = (zes_device_handle_t)core[i];
}

#define LIST(function, array, counter)                                                             \
    do {                                                                                           \
        uint32_t n = OFR_ZE_HANDLES_MAX;                                                           \
        if (lz->function(d->sysman, &n, d->array) != ZE_RESULT_SUCCESS)                            \
            n = 0;                                                                                 \
        d->counter = n < OFR_ZE_HANDLES_MAX ? n : OFR_ZE_HANDLES_MAX;                              \
    } while (0)

static void list_handles(const ofr_level_zero *lz, struct ofr_level_zero_device *d)
{
    LIST(zesDeviceEnumEngineGroups, engines, n_engines);
    LIST(zesDeviceEnumFrequencyDomains, frequencies, n_frequencies);
    LIST(zesDeviceEnumMemoryModules, memories, n_memories);
    LIST(zesDeviceEnumPowerDomains, powers, n_powers);
    LIST(zesDeviceEnumTemperatureSensors, temperatures, n_temperatures);
    d->sysman_listed = true;
}
#undef LIST

static void sample_engines(const ofr_level_zero *lz, struct ofr_level_zero_device *d,
                           ofr_device_sample *sample)
{
    double busiest = NAN;
    double all = NAN;
    for (uint32_t i = 0; i < d->n_engines; i++) {
        zes_engine_stats_t now;
        zes_engine_properties_t properties = {.stype = ZES_STRUCTURE_TYPE_ENGINE_PROPERTIES};
        if (lz->zesEngineGetActivity(d->engines[i], &now) != ZE_RESULT_SUCCESS)
            continue;
        const zes_engine_stats_t *before = &d->activity[i];
        if (d->have_previous && now.timestamp > before->timestamp &&
            now.activeTime >= before->activeTime) {
            double share = (double)(now.activeTime - before->activeTime) /
                           (double)(now.timestamp - before->timestamp);
            share = share > 1.0 ? 1.0 : share;
            if (!(share <= busiest))
                busiest = share;
            if (lz->zesEngineGetProperties(d->engines[i], &properties) == ZE_RESULT_SUCCESS &&
                properties.type == ZES_ENGINE_GROUP_ALL)
                all = share;
        }
        d->activity[i] = now;
    }
    if (!isnan(all) || !isnan(busiest))
        sample->utilisation = isnan(all) ? busiest : all;
}

static void sample_frequencies(const ofr_level_zero *lz, const struct ofr_level_zero_device *d,
                               ofr_device_sample *sample)
{
    static const struct {
        uint32_t flag;
        const char *name;
    } reasons[] = {{ZES_FREQ_THROTTLE_REASON_FLAG_AVE_PWR_CAP, "power"},
                   {ZES_FREQ_THROTTLE_REASON_FLAG_BURST_PWR_CAP, "burst power"},
                   {ZES_FREQ_THROTTLE_REASON_FLAG_CURRENT_LIMIT, "current"},
                   {ZES_FREQ_THROTTLE_REASON_FLAG_THERMAL_LIMIT, "thermal"},
                   {ZES_FREQ_THROTTLE_REASON_FLAG_PSU_ALERT, "power supply"}};
    for (uint32_t i = 0; i < d->n_frequencies; i++) {
        zes_freq_properties_t properties = {.stype = ZES_STRUCTURE_TYPE_FREQ_PROPERTIES};
        zes_freq_state_t state = {.stype = ZES_STRUCTURE_TYPE_FREQ_STATE};
        if (lz->zesFrequencyGetProperties(d->frequencies[i], &properties) != ZE_RESULT_SUCCESS ||
            properties.type != ZES_FREQ_DOMAIN_GPU ||
            lz->zesFrequencyGetState(d->frequencies[i], &state) != ZE_RESULT_SUCCESS)
            continue;
        if (state.actual >= 0)
            sample->frequency_mhz = state.actual;
        sample->throttle_known = 1;
        for (size_t k = 0; k < sizeof reasons / sizeof reasons[0]; k++)
            if (state.throttleReasons & reasons[k].flag) {
                sample->throttled = 1;
                snprintf(sample->throttle_reason, sizeof sample->throttle_reason, "%s",
                         reasons[k].name);
            }
    }
}

static void sample_power(const ofr_level_zero *lz, struct ofr_level_zero_device *d,
                         ofr_device_sample *sample)
{
    double watts = 0;
    bool any = false;
    bool any_power = false;
    for (uint32_t i = 0; i < d->n_powers; i++) {
        zes_power_energy_counter_t now;
        if (lz->zesPowerGetEnergyCounter(d->powers[i], &now) != ZE_RESULT_SUCCESS)
            continue;
        const zes_power_energy_counter_t *before = &d->energy[i];
        /* The first domain is the card's or package's; further ones are parts of it. */
        if (!any && d->have_previous && now.timestamp > before->timestamp &&
            now.energy >= before->energy) {
            d->energy_j += (double)(now.energy - before->energy) / 1e6;
            watts =
                (double)(now.energy - before->energy) / (double)(now.timestamp - before->timestamp);
            any_power = true;
        }
        d->energy[i] = now;
        any = true;
    }
    if (any)
        sample->energy_j = d->energy_j;
    if (any_power)
        sample->power_w = watts;
}

void ofr_level_zero_sample(ofr_level_zero *level_zero, size_t index, ofr_device_sample *sample)
{
    ofr_level_zero *lz = level_zero;
    struct ofr_level_zero_device *d = &lz->devices[index];
    if (!d->sysman)
        return;
    if (!d->sysman_listed)
        list_handles(lz, d);
    sample_engines(lz, d, sample);
    sample_frequencies(lz, d, sample);
    sample_power(lz, d, sample);
    d->have_previous = true;
    for (uint32_t i = 0; i < d->n_temperatures; i++) {
        double celsius = NAN;
        if (lz->zesTemperatureGetState(d->temperatures[i], &celsius) == ZE_RESULT_SUCCESS &&
            celsius > -50 && celsius < 200 && !(celsius <= sample->temperature_c))
            sample->temperature_c = celsius;
    }
    double size = 0;
    double used = 0;
    for (uint32_t i = 0; i < d->n_memories; i++) {
        zes_mem_state_t state = {.stype = ZES_STRUCTURE_TYPE_MEM_STATE};
        if (lz->zesMemoryGetState(d->memories[i], &state) == ZE_RESULT_SUCCESS &&
            state.size >= state.free) {
            size += (double)state.size;
            used += (double)(state.size - state.free);
        }
    }
    if (size > 0) {
        sample->memory_total = size;
        sample->memory_used = used;
    }
}
