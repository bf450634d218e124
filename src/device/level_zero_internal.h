/* The loader's functions, looked up by name, and the handles of its devices. */
#ifndef OFR_DEVICE_LEVEL_ZERO_INTERNAL_H
#define OFR_DEVICE_LEVEL_ZERO_INTERNAL_H

#include <level_zero/loader/ze_loader.h>
#include <level_zero/ze_api.h>
#include <level_zero/zes_api.h>

#include "device/level_zero.h"

/* In every loader from 1.8 on. */
#define OFR_ZE_FUNCTIONS(X)                                                                        \
    X(zeInit)                                                                                      \
    X(zeDriverGet)                                                                                 \
    X(zeDriverGetProperties)                                                                       \
    X(zeDeviceGet)                                                                                 \
    X(zeDeviceGetProperties)                                                                       \
    X(zeDeviceGetMemoryProperties)                                                                 \
    X(zeDeviceGetCommandQueueGroupProperties)                                                      \
    X(zeDevicePciGetPropertiesExt)                                                                 \
    X(zelLoaderGetVersions)                                                                        \
    X(zesDevicePciGetProperties)                                                                   \
    X(zesDeviceEnumEngineGroups)                                                                   \
    X(zesEngineGetProperties)                                                                      \
    X(zesEngineGetActivity)                                                                        \
    X(zesDeviceEnumFrequencyDomains)                                                               \
    X(zesFrequencyGetProperties)                                                                   \
    X(zesFrequencyGetState)                                                                        \
    X(zesDeviceEnumMemoryModules)                                                                  \
    X(zesMemoryGetState)                                                                           \
    X(zesDeviceEnumPowerDomains)                                                                   \
    X(zesPowerGetEnergyCounter)                                                                    \
    X(zesDeviceEnumTemperatureSensors)                                                             \
    X(zesTemperatureGetState)

/* Newer than the headers of Debian 12; layouts from the Level Zero specification 1.10 (zeInit
 * drivers) and 1.5 (zesInit). */
enum {
    OFR_ZE_STRUCTURE_TYPE_INIT_DRIVER_TYPE_DESC = 0x00020021,
    OFR_ZE_INIT_DRIVER_TYPE_GPU = 1 << 0,
    OFR_ZE_INIT_DRIVER_TYPE_NPU = 1 << 1,
};
typedef struct ofr_ze_init_driver_type_desc {
    uint32_t stype;
    const void *pNext;
    uint32_t flags;
} ofr_ze_init_driver_type_desc;
typedef ze_result_t ofr_ze_init_drivers(uint32_t *count, ze_driver_handle_t *drivers,
                                        ofr_ze_init_driver_type_desc *desc);
typedef ze_result_t ofr_zes_init(uint32_t flags);
typedef ze_result_t ofr_zes_driver_get(uint32_t *count, zes_driver_handle_t *drivers);
typedef ze_result_t ofr_zes_device_get(zes_driver_handle_t driver, uint32_t *count,
                                       zes_device_handle_t *devices);

enum { OFR_ZE_DRIVERS_MAX = 8, OFR_ZE_HANDLES_MAX = 16 };

struct ofr_level_zero_device {
    ofr_device description;
    zes_device_handle_t sysman; /* NULL: none */
    bool sysman_listed;         /* the handles below are there */
    zes_engine_handle_t engines[OFR_ZE_HANDLES_MAX];
    zes_freq_handle_t frequencies[OFR_ZE_HANDLES_MAX];
    zes_mem_handle_t memories[OFR_ZE_HANDLES_MAX];
    zes_pwr_handle_t powers[OFR_ZE_HANDLES_MAX];
    zes_temp_handle_t temperatures[OFR_ZE_HANDLES_MAX];
    uint32_t n_engines, n_frequencies, n_memories, n_powers, n_temperatures;
    zes_engine_stats_t activity[OFR_ZE_HANDLES_MAX]; /* of the sample before */
    zes_power_energy_counter_t energy[OFR_ZE_HANDLES_MAX];
    bool have_previous;
    double energy_j;
};

struct ofr_level_zero {
    void *library;
#define OFR_ZE_FIELD(name) __typeof__(name) *name;
    OFR_ZE_FUNCTIONS(OFR_ZE_FIELD)
#undef OFR_ZE_FIELD
    ofr_ze_init_drivers *init_drivers; /* NULL: an older loader */
    ofr_zes_init *zes_init;
    ofr_zes_driver_get *zes_driver_get;
    ofr_zes_device_get *zes_device_get;
    ofr_stage_function *stage;
    void *user;
    char version[64];
    struct ofr_level_zero_device devices[OFR_DEVICES_MAX];
    size_t count;
};

/* Gives each device its sysman handle: with zesInit by PCI address, else the core handle itself. */
void ofr_level_zero_sysman_open(ofr_level_zero *lz, const ze_device_handle_t *core);

#endif
