/* A Level Zero driver that plays a described machine (description.h). The real loader loads it
 * through ZE_ENABLE_ALT_DRIVERS. It is built as libfake_ze_gpu.so and libfake_ze_npu.so from the
 * same source, since a real machine has two drivers.
 *
 * It exports every table getter that loaders 1.8 to 1.32 ask for; what is newer than the headers it
 * is built with is written at its place in the table (the specification only ever appends), and
 * only where the loader's version says that the table has that place. */
#include <level_zero/ze_api.h>
#include <level_zero/ze_ddi.h>
#include <level_zero/zes_api.h>
#include <level_zero/zes_ddi.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "description.h"

#define EXPORT __attribute__((visibility("default")))
#define V1_5   ZE_MAKE_VERSION(1, 5)
#define V1_10  ZE_MAKE_VERSION(1, 10)

/* Loaders that intercept wrap a handle and look only at the pointer; those that do not, and newer
 * ones with several drivers, read a table of functions at its begin if the driver announces one. */
struct object {
    void *reserved[8];
    struct fake_device *device;
};

static struct fake_driver machine;
static struct object driver_object, device_objects[FAKE_DEVICES_MAX];
static bool loaded;

static void load(void)
{
    if (loaded)
        return;
    loaded = true;
    fake_description_read(getenv("OFFERING_FAKE_ZE"), FAKE_NAME, &machine);
    for (unsigned i = 0; i < machine.count; i++)
        device_objects[i].device = &machine.devices[i];
}

static ze_result_t behave(enum behaviour behaviour)
{
    switch (behaviour) {
    case BEHAVIOUR_CRASH:
        raise(SIGSEGV);
        _exit(1);
    case BEHAVIOUR_HANG:
        for (;;)
            pause();
    case BEHAVIOUR_ERROR:
        return ZE_RESULT_ERROR_DEVICE_LOST;
    case BEHAVIOUR_OK:
        break;
    }
    return ZE_RESULT_SUCCESS;
}

static struct fake_device *device_of(const void *handle)
{
    return ((const struct object *)handle)->device;
}

/* Core. */
static ze_result_t fake_init(ze_init_flags_t flags)
{
    (void)flags;
    load();
    if (!machine.found)
        return ZE_RESULT_ERROR_UNINITIALIZED;
    return behave(machine.init);
}

static ze_result_t give(uint32_t *count, void **handles, void *first, size_t stride, unsigned n)
{
    if (*count == 0 || *count > n)
        *count = n;
    for (uint32_t i = 0; handles && i < *count; i++)
        handles[i] = (char *)first + i * stride;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_driver_get(uint32_t *count, ze_driver_handle_t *drivers)
{
    return give(count, (void **)drivers, &driver_object, sizeof driver_object, 1);
}

static ze_result_t fake_init_drivers(uint32_t *count, ze_driver_handle_t *drivers, void *desc)
{
    (void)desc;
    ze_result_t result = fake_init(0);
    return result == ZE_RESULT_SUCCESS ? fake_driver_get(count, drivers) : result;
}

static ze_result_t fake_api_version(ze_driver_handle_t driver, ze_api_version_t *version)
{
    (void)driver;
    *version = (ze_api_version_t)V1_10;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_driver_properties(ze_driver_handle_t driver, ze_driver_properties_t *p)
{
    (void)driver;
    memset(&p->uuid, 0x0f, sizeof p->uuid);
    p->driverVersion = machine.version;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_extensions(ze_driver_handle_t driver, uint32_t *count,
                                   ze_driver_extension_properties_t *extensions)
{
    (void)driver;
    (void)extensions;
    *count = 0;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_device_get(ze_driver_handle_t driver, uint32_t *count,
                                   ze_device_handle_t *devices)
{
    (void)driver;
    load();
    ze_result_t result = behave(machine.enumerate);
    if (result != ZE_RESULT_SUCCESS)
        return result;
    return give(count, (void **)devices, device_objects, sizeof device_objects[0], machine.count);
}

static ze_result_t fake_device_properties(ze_device_handle_t handle, ze_device_properties_t *p)
{
    const struct fake_device *d = device_of(handle);
    p->type = d->npu ? ZE_DEVICE_TYPE_VPU : ZE_DEVICE_TYPE_GPU;
    p->vendorId = d->vendor;
    p->deviceId = d->device;
    p->flags = d->integrated ? ZE_DEVICE_PROPERTY_FLAG_INTEGRATED : 0;
    p->coreClockRate = d->clock_mhz;
    memcpy(p->name, d->name, sizeof d->name);
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_memory(ze_device_handle_t handle, uint32_t *count,
                               ze_device_memory_properties_t *memory)
{
    *count = 1;
    if (memory)
        memory[0].totalSize = device_of(handle)->memory_bytes;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_queues(ze_device_handle_t handle, uint32_t *count,
                               ze_command_queue_group_properties_t *groups)
{
    const struct fake_device *d = device_of(handle);
    if (*count == 0 || *count > 2)
        *count = 2;
    if (groups && *count >= 1) {
        groups[0].flags = ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COMPUTE;
        groups[0].numQueues = d->compute_queues;
    }
    if (groups && *count >= 2) {
        groups[1].flags = ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COPY;
        groups[1].numQueues = d->copy_queues;
    }
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_pci(ze_device_handle_t handle, ze_pci_ext_properties_t *pci)
{
    const struct fake_device *d = device_of(handle);
    pci->address = (ze_pci_address_ext_t){d->domain, d->bus, d->slot, d->function};
    return ZE_RESULT_SUCCESS;
}

/* Sysman. */
static ze_result_t sysman(void)
{
    load();
    return behave(machine.sysman);
}

static ze_result_t fake_sysman_init(uint32_t flags)
{
    (void)flags;
    load();
    return machine.found ? ZE_RESULT_SUCCESS : ZE_RESULT_ERROR_UNINITIALIZED;
}

static ze_result_t fake_sysman_device_get(zes_driver_handle_t driver, uint32_t *count,
                                          zes_device_handle_t *devices)
{
    (void)driver;
    return give(count, (void **)devices, device_objects, sizeof device_objects[0], machine.count);
}

static ze_result_t fake_sysman_pci(zes_device_handle_t handle, zes_pci_properties_t *pci)
{
    const struct fake_device *d = device_of(handle);
    pci->address = (zes_pci_address_t){d->domain, d->bus, d->slot, d->function};
    return ZE_RESULT_SUCCESS;
}

/* Every domain is the device itself. */
static ze_result_t one_domain(zes_device_handle_t handle, uint32_t *count, void **domains,
                              const struct series *series)
{
    ze_result_t result = sysman();
    if (result != ZE_RESULT_SUCCESS)
        return result;
    return give(count, domains, (void *)handle, 0, series->count > 0);
}

#define ENUMERATE(function, type, field)                                                           \
    static ze_result_t function(zes_device_handle_t handle, uint32_t *count, type *domains)        \
    {                                                                                              \
        return one_domain(handle, count, (void **)domains, &device_of(handle)->field);             \
    }
ENUMERATE(fake_enum_engines, zes_engine_handle_t, utilisation)
ENUMERATE(fake_enum_frequencies, zes_freq_handle_t, frequency)
ENUMERATE(fake_enum_memories, zes_mem_handle_t, memory_used)
ENUMERATE(fake_enum_powers, zes_pwr_handle_t, power)
ENUMERATE(fake_enum_temperatures, zes_temp_handle_t, temperature)

static ze_result_t fake_engine_properties(zes_engine_handle_t handle, zes_engine_properties_t *p)
{
    (void)handle;
    p->type = ZES_ENGINE_GROUP_ALL;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_engine_activity(zes_engine_handle_t handle, zes_engine_stats_t *stats)
{
    struct fake_device *d = device_of(handle);
    double share = 0;
    fake_series_next(&d->utilisation, &share);
    d->engine_us += 1000000;
    d->active_us += (uint64_t)(share * 1e6);
    *stats = (zes_engine_stats_t){.activeTime = d->active_us, .timestamp = d->engine_us};
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_frequency_properties(zes_freq_handle_t handle, zes_freq_properties_t *p)
{
    p->type = ZES_FREQ_DOMAIN_GPU;
    p->min = 300;
    p->max = device_of(handle)->clock_mhz;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_frequency_state(zes_freq_handle_t handle, zes_freq_state_t *state)
{
    struct fake_device *d = device_of(handle);
    double flags = 0;
    fake_series_next(&d->frequency, &state->actual);
    fake_series_next(&d->throttle, &flags);
    state->throttleReasons = (zes_freq_throttle_reason_flags_t)flags;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_memory_state(zes_mem_handle_t handle, zes_mem_state_t *state)
{
    struct fake_device *d = device_of(handle);
    double used = 0;
    fake_series_next(&d->memory_used, &used);
    state->size = d->memory_bytes;
    state->free = used < (double)d->memory_bytes ? d->memory_bytes - (uint64_t)used : 0;
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_energy(zes_pwr_handle_t handle, zes_power_energy_counter_t *counter)
{
    struct fake_device *d = device_of(handle);
    double watts = 0;
    fake_series_next(&d->power, &watts);
    d->power_us += 1000000;
    d->energy_uj += (uint64_t)(watts * 1e6);
    *counter = (zes_power_energy_counter_t){.energy = d->energy_uj, .timestamp = d->power_us};
    return ZE_RESULT_SUCCESS;
}

static ze_result_t fake_temperature(zes_temp_handle_t handle, double *celsius)
{
    return fake_series_next(&device_of(handle)->temperature, celsius)
               ? ZE_RESULT_SUCCESS
               : ZE_RESULT_ERROR_UNSUPPORTED_FEATURE;
}

/* Puts a function at place `index` of a table that the headers do not know that far. */
static void put(void *table, size_t index, void (*function)(void))
{
    memcpy((char *)table + index * sizeof function, &function, sizeof function);
}

#define GETTER(name, table)                                                                        \
    EXPORT ze_result_t name(ze_api_version_t version, table *t);                                   \
    EXPORT ze_result_t name(ze_api_version_t version, table *t)

GETTER(zeGetGlobalProcAddrTable, ze_global_dditable_t)
{
    t->pfnInit = fake_init;
    if (version >= V1_10)
        put(t, 1, (void (*)(void))fake_init_drivers);
    return ZE_RESULT_SUCCESS;
}

GETTER(zeGetDriverProcAddrTable, ze_driver_dditable_t)
{
    (void)version;
    t->pfnGet = fake_driver_get;
    t->pfnGetApiVersion = fake_api_version;
    t->pfnGetProperties = fake_driver_properties;
    t->pfnGetExtensionProperties = fake_extensions;
    return ZE_RESULT_SUCCESS;
}

GETTER(zeGetDeviceProcAddrTable, ze_device_dditable_t)
{
    (void)version;
    t->pfnGet = fake_device_get;
    t->pfnGetProperties = fake_device_properties;
    t->pfnGetMemoryProperties = fake_memory;
    t->pfnGetCommandQueueGroupProperties = fake_queues;
    t->pfnPciGetPropertiesExt = fake_pci;
    return ZE_RESULT_SUCCESS;
}

EXPORT ze_result_t zesGetGlobalProcAddrTable(ze_api_version_t version, void *t);
EXPORT ze_result_t zesGetGlobalProcAddrTable(ze_api_version_t version, void *t)
{
    (void)version;
    put(t, 0, (void (*)(void))fake_sysman_init);
    return ZE_RESULT_SUCCESS;
}

GETTER(zesGetDriverProcAddrTable, zes_driver_dditable_t)
{
    if (version >= V1_5)
        put(t, 2, (void (*)(void))fake_driver_get);
    return ZE_RESULT_SUCCESS;
}

GETTER(zesGetDeviceProcAddrTable, zes_device_dditable_t)
{
    t->pfnPciGetProperties = fake_sysman_pci;
    t->pfnEnumEngineGroups = fake_enum_engines;
    t->pfnEnumFrequencyDomains = fake_enum_frequencies;
    t->pfnEnumMemoryModules = fake_enum_memories;
    t->pfnEnumPowerDomains = fake_enum_powers;
    t->pfnEnumTemperatureSensors = fake_enum_temperatures;
    if (version >= V1_5)
        put(t, 29, (void (*)(void))fake_sysman_device_get);
    return ZE_RESULT_SUCCESS;
}

GETTER(zesGetEngineProcAddrTable, zes_engine_dditable_t)
{
    (void)version;
    t->pfnGetProperties = fake_engine_properties;
    t->pfnGetActivity = fake_engine_activity;
    return ZE_RESULT_SUCCESS;
}

GETTER(zesGetFrequencyProcAddrTable, zes_frequency_dditable_t)
{
    (void)version;
    t->pfnGetProperties = fake_frequency_properties;
    t->pfnGetState = fake_frequency_state;
    return ZE_RESULT_SUCCESS;
}

GETTER(zesGetMemoryProcAddrTable, zes_memory_dditable_t)
{
    (void)version;
    t->pfnGetState = fake_memory_state;
    return ZE_RESULT_SUCCESS;
}

GETTER(zesGetPowerProcAddrTable, zes_power_dditable_t)
{
    (void)version;
    t->pfnGetEnergyCounter = fake_energy;
    return ZE_RESULT_SUCCESS;
}

GETTER(zesGetTemperatureProcAddrTable, zes_temperature_dditable_t)
{
    (void)version;
    t->pfnGetState = fake_temperature;
    return ZE_RESULT_SUCCESS;
}
