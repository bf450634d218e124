/* Loading the Level Zero loader, initializing its drivers, listing their devices. */
#include "device/level_zero.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/level_zero_internal.h"

static void at_stage(const ofr_level_zero *lz, const char *format, unsigned number)
{
    char text[96];
    snprintf(text, sizeof text, format, number);
    if (lz->stage)
        lz->stage(lz->user, text);
}

/* A function of the library under its own type; ISO C has no conversion from void *. */
static void look_up(void *library, const char *name, void *ret_function)
{
    void *symbol = dlsym(library, name);
    memcpy(ret_function, &symbol, sizeof symbol);
}

static int load(ofr_level_zero *lz, ofr_error *err)
{
    at_stage(lz, "loading libze_loader.so.1", 0);
    lz->library = dlopen("libze_loader.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!lz->library)
        return ofr_fail(err, OFR_ENOENT, "no Level Zero loader: %s", dlerror());
    const char *missing = NULL;
#define LOOK_UP(name)                                                                              \
    look_up(lz->library, #name, &lz->name);                                                        \
    if (!lz->name)                                                                                 \
        missing = #name;
    OFR_ZE_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    look_up(lz->library, "zeInitDrivers", &lz->init_drivers);
    look_up(lz->library, "zesInit", &lz->zes_init);
    look_up(lz->library, "zesDriverGet", &lz->zes_driver_get);
    look_up(lz->library, "zesDeviceGet", &lz->zes_device_get);
    if (missing)
        return ofr_fail(err, OFR_EVERSION, "the Level Zero loader has no %s: it is too old",
                        missing);
    return 0;
}

/* Loaders before 1.17.17 know the NPU's driver only as libze_intel_vpu.so.1; its packages have
 * named it libze_intel_npu.so.1 since. Both libraries are then named to the loader explicitly. */
static void name_new_npu_driver(const ofr_level_zero *lz)
{
    if (lz->init_drivers || getenv("ZE_ENABLE_ALT_DRIVERS"))
        return;
    at_stage(lz, "loading libze_intel_npu.so.1", 0);
    if (dlopen("libze_intel_npu.so.1", RTLD_LAZY | RTLD_LOCAL))
        setenv("ZE_ENABLE_ALT_DRIVERS", "libze_intel_gpu.so.1,libze_intel_npu.so.1", 1);
}

static void read_version(ofr_level_zero *lz)
{
    zel_component_version_t versions[8];
    size_t count = 8;
    snprintf(lz->version, sizeof lz->version, "unknown");
    if (lz->zelLoaderGetVersions(&count, NULL) != ZE_RESULT_SUCCESS || count > 8 ||
        lz->zelLoaderGetVersions(&count, versions) != ZE_RESULT_SUCCESS)
        return;
    for (size_t i = 0; i < count; i++)
        if (strncmp(versions[i].component_name, "loader", 6) == 0)
            snprintf(lz->version, sizeof lz->version, "%d.%d.%d",
                     versions[i].component_lib_version.major,
                     versions[i].component_lib_version.minor,
                     versions[i].component_lib_version.patch);
}

static int get_drivers(ofr_level_zero *lz, ze_driver_handle_t drivers[OFR_ZE_DRIVERS_MAX],
                       uint32_t *ret_count, ofr_error *err)
{
    uint32_t count = 0;
    ze_result_t result = ZE_RESULT_ERROR_UNINITIALIZED;
    if (lz->init_drivers) {
        at_stage(lz, "zeInitDrivers", 0);
        ofr_ze_init_driver_type_desc desc = {
            .stype = OFR_ZE_STRUCTURE_TYPE_INIT_DRIVER_TYPE_DESC,
            .flags = OFR_ZE_INIT_DRIVER_TYPE_GPU | OFR_ZE_INIT_DRIVER_TYPE_NPU,
        };
        result = lz->init_drivers(&count, NULL, &desc);
        if (result == ZE_RESULT_SUCCESS && count > 0) {
            if (count > OFR_ZE_DRIVERS_MAX)
                count = OFR_ZE_DRIVERS_MAX;
            result = lz->init_drivers(&count, drivers, &desc);
        }
    }
    if (result != ZE_RESULT_SUCCESS || count == 0) {
        at_stage(lz, "zeInit", 0);
        result = lz->zeInit(0);
        if (result != ZE_RESULT_SUCCESS)
            return ofr_fail(err, OFR_EDEVICE,
                            "Level Zero found no driver that starts (zeInit: 0x%x)",
                            (unsigned)result);
        at_stage(lz, "zeDriverGet", 0);
        count = 0;
        result = lz->zeDriverGet(&count, NULL);
        if (result == ZE_RESULT_SUCCESS && count > OFR_ZE_DRIVERS_MAX)
            count = OFR_ZE_DRIVERS_MAX;
        if (result == ZE_RESULT_SUCCESS && count > 0)
            result = lz->zeDriverGet(&count, drivers);
        if (result != ZE_RESULT_SUCCESS)
            return ofr_fail(err, OFR_EDEVICE, "Level Zero lists no drivers (zeDriverGet: 0x%x)",
                            (unsigned)result);
    }
    *ret_count = count > OFR_ZE_DRIVERS_MAX ? OFR_ZE_DRIVERS_MAX : count;
    return 0;
}

static void read_engines(const ofr_level_zero *lz, ze_device_handle_t handle, ofr_device *d)
{
    ze_command_queue_group_properties_t groups[8];
    uint32_t count = 8;
    memset(groups, 0, sizeof groups);
    for (size_t i = 0; i < 8; i++)
        groups[i].stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_GROUP_PROPERTIES;
    if (lz->zeDeviceGetCommandQueueGroupProperties(handle, &count, groups) != ZE_RESULT_SUCCESS)
        return;
    for (uint32_t i = 0; i < count && i < 8; i++) {
        if (groups[i].flags & ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COMPUTE)
            d->compute_engines += groups[i].numQueues;
        else if (groups[i].flags & ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COPY)
            d->copy_engines += groups[i].numQueues;
    }
}

/* False for what is no device of ours (FPGA, the driver's own CPU device). */
static bool describe(const ofr_level_zero *lz, ze_device_handle_t handle, uint32_t driver_version,
                     ofr_device *d)
{
    ze_device_properties_t properties = {.stype = ZE_STRUCTURE_TYPE_DEVICE_PROPERTIES};
    if (lz->zeDeviceGetProperties(handle, &properties) != ZE_RESULT_SUCCESS)
        return false;
    *d = (ofr_device){.vendor_id = properties.vendorId, .device_id = properties.deviceId};
    if (properties.type == ZE_DEVICE_TYPE_VPU)
        d->kind = OFR_DEVICE_KIND_NPU;
    else if (properties.type == ZE_DEVICE_TYPE_GPU)
        d->kind = properties.flags & ZE_DEVICE_PROPERTY_FLAG_INTEGRATED
                      ? OFR_DEVICE_KIND_INTEGRATED_GPU
                      : OFR_DEVICE_KIND_DISCRETE_GPU;
    else
        return false;
    snprintf(d->model, sizeof d->model, "%.*s", (int)strnlen(properties.name, ZE_MAX_DEVICE_NAME),
             properties.name);
    d->max_mhz = properties.coreClockRate < 100000 ? properties.coreClockRate : 0;
    snprintf(d->driver_version, sizeof d->driver_version, "%u.%u.%u", driver_version >> 24,
             driver_version >> 16 & 0xff, driver_version & 0xffff);
    ze_pci_ext_properties_t pci = {.stype = ZE_STRUCTURE_TYPE_PCI_EXT_PROPERTIES};
    if (lz->zeDevicePciGetPropertiesExt(handle, &pci) == ZE_RESULT_SUCCESS)
        d->pci = (ofr_pci_address){.known = true,
                                   .domain = pci.address.domain,
                                   .bus = (uint8_t)pci.address.bus,
                                   .device = (uint8_t)pci.address.device,
                                   .function = (uint8_t)pci.address.function};
    if (d->kind == OFR_DEVICE_KIND_DISCRETE_GPU) {
        ze_device_memory_properties_t memories[4];
        uint32_t count = 4;
        memset(memories, 0, sizeof memories);
        for (size_t i = 0; i < 4; i++)
            memories[i].stype = ZE_STRUCTURE_TYPE_DEVICE_MEMORY_PROPERTIES;
        if (lz->zeDeviceGetMemoryProperties(handle, &count, memories) == ZE_RESULT_SUCCESS)
            for (uint32_t i = 0; i < count && i < 4; i++)
                d->memory_bytes += memories[i].totalSize;
    }
    read_engines(lz, handle, d);
    return true;
}

static void list_devices(ofr_level_zero *lz, ze_driver_handle_t driver, unsigned number,
                         ze_device_handle_t core[OFR_DEVICES_MAX])
{
    ze_driver_properties_t properties = {.stype = ZE_STRUCTURE_TYPE_DRIVER_PROPERTIES};
    ze_device_handle_t handles[OFR_DEVICES_MAX];
    uint32_t count = 0;
    at_stage(lz, "zeDriverGetProperties of driver %u", number);
    lz->zeDriverGetProperties(driver, &properties);
    at_stage(lz, "zeDeviceGet of driver %u", number);
    if (lz->zeDeviceGet(driver, &count, NULL) != ZE_RESULT_SUCCESS || count == 0)
        return;
    if (count > OFR_DEVICES_MAX)
        count = OFR_DEVICES_MAX;
    if (lz->zeDeviceGet(driver, &count, handles) != ZE_RESULT_SUCCESS)
        return;
    for (uint32_t i = 0; i < count && i < OFR_DEVICES_MAX && lz->count < OFR_DEVICES_MAX; i++) {
        at_stage(lz, "zeDeviceGetProperties of driver %u", number);
        struct ofr_level_zero_device *device = &lz->devices[lz->count];
        if (describe(lz, handles[i], properties.driverVersion, &device->description))
            core[lz->count++] = handles[i];
    }
}

int ofr_level_zero_open(ofr_stage_function *stage, void *user, ofr_level_zero **ret_level_zero,
                        ofr_error *err)
{
    ofr_level_zero *lz = calloc(1, sizeof *lz);
    if (!lz)
        return ofr_fail(err, OFR_ENOMEM, "no memory for Level Zero");
    lz->stage = stage;
    lz->user = user;
    ze_driver_handle_t drivers[OFR_ZE_DRIVERS_MAX];
    ze_device_handle_t core[OFR_DEVICES_MAX];
    uint32_t count = 0;
    int r = load(lz, err);
    if (r == 0) {
        /* Without zesInit, sysman is switched on by this variable, before the drivers start. */
        if (!lz->zes_init)
            setenv("ZES_ENABLE_SYSMAN", "1", 1);
        name_new_npu_driver(lz);
        r = get_drivers(lz, drivers, &count, err);
    }
    if (r < 0) {
        ofr_level_zero_close(lz);
        return r;
    }
    read_version(lz);
    for (uint32_t i = 0; i < count; i++)
        list_devices(lz, drivers[i], i, core);
    ofr_level_zero_sysman_open(lz, core);
    *ret_level_zero = lz;
    return 0;
}

ofr_level_zero *ofr_level_zero_close(ofr_level_zero *level_zero)
{
    /* Drivers keep threads that cannot be stopped: the library is left loaded. */
    free(level_zero);
    return NULL;
}

const char *ofr_level_zero_version(const ofr_level_zero *level_zero)
{
    return level_zero->version;
}

size_t ofr_level_zero_count(const ofr_level_zero *level_zero)
{
    return level_zero->count;
}

const ofr_device *ofr_level_zero_device(const ofr_level_zero *level_zero, size_t index)
{
    return &level_zero->devices[index].description;
}
