/* Enumerating OpenCL devices and reading their capabilities. */
#include "backend/opencl/opencl_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLATFORMS_MAX = 8, EXTENSIONS_MAX = 16384 };

/* cl_intel_required_subgroup_size */
enum { INTEL_SUB_GROUP_SIZES = 0x4108 };

/* cl_khr_fp16 */
enum { HALF_FP_CONFIG = 0x1033 };

/* cl_nv_device_attribute_query */
enum { NV_CAPABILITY_MAJOR = 0x4000, NV_CAPABILITY_MINOR = 0x4001 };

static void device_text(const ofr_opencl_api *api, cl_device_id id, cl_device_info what, char *text,
                        size_t size)
{
    if (api->GetDeviceInfo(id, what, size, text, NULL) != CL_SUCCESS) {
        text[0] = '\0';
    }
    text[size - 1] = '\0';
    size_t length = strlen(text);
    while (length > 0 && text[length - 1] == ' ') {
        text[--length] = '\0';
    }
}

static uint64_t device_number(const ofr_opencl_api *api, cl_device_id id, cl_device_info what,
                              size_t size)
{
    uint64_t value = 0; /* little endian: a smaller value fills its low bytes */
    return api->GetDeviceInfo(id, what, size, &value, NULL) == CL_SUCCESS ? value : 0;
}

/* The extension is for sub-groups of the device's smallest size, which must be 8 or 16. */
static uint32_t matrix_lanes(const ofr_opencl_api *api, cl_device_id id)
{
    size_t sizes[8] = {0}, bytes = 0, smallest = 0;
    if (api->GetDeviceInfo(id, INTEL_SUB_GROUP_SIZES, sizeof sizes, sizes, &bytes) != CL_SUCCESS) {
        return 0;
    }
    for (size_t i = 0; i < bytes / sizeof sizes[0] && i < 8; i++) {
        smallest = smallest == 0 || sizes[i] < smallest ? sizes[i] : smallest;
    }
    return smallest == 8 || smallest == 16 ? (uint32_t)smallest : 0;
}

static bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = text; (at = strstr(at, word)) != NULL; at += length) {
        if ((at == text || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

static void read_capabilities(const ofr_opencl_api *api, ofr_opencl_device *device)
{
    cl_device_id id = device->id;
    char *extensions = calloc(1, EXTENSIONS_MAX);
    if (extensions != NULL) {
        device_text(api, id, CL_DEVICE_EXTENSIONS, extensions, EXTENSIONS_MAX);
    }
    const char *have = extensions != NULL ? extensions : "";
    if (has_word(have, "cl_nv_device_attribute_query")) {
        device->nvidia =
            10 * (uint32_t)device_number(api, id, NV_CAPABILITY_MAJOR, sizeof(cl_uint)) +
            (uint32_t)device_number(api, id, NV_CAPABILITY_MINOR, sizeof(cl_uint));
    }
    device->intel_subgroups =
        has_word(have, "cl_intel_required_subgroup_size") && has_word(have, "cl_intel_subgroups");
    if (device->intel_subgroups && has_word(have, "cl_intel_subgroups_short") &&
        has_word(have, "cl_intel_subgroup_matrix_multiply_accumulate")) {
        device->matrix_lanes = matrix_lanes(api, id);
    }
    uint64_t half_config = device_number(api, id, HALF_FP_CONFIG, sizeof(cl_ulong));
    const uint64_t half_needed = CL_FP_ROUND_TO_NEAREST | CL_FP_DENORM;
    device->half_arithmetic =
        has_word(have, "cl_khr_fp16") && (half_config & half_needed) == half_needed;
    device->byte_products = device->nvidia > 0 || has_word(have, "cl_khr_integer_dot_product");
    device->warp = device->nvidia > 0 ? 32 : device->intel_subgroups ? 16 : 1;
    free(extensions);
    cl_name_version versions[16];
    size_t bytes = 0;
    if (api->GetDeviceInfo(id, CL_DEVICE_OPENCL_C_ALL_VERSIONS, sizeof versions, versions,
                           &bytes) == CL_SUCCESS) {
        for (size_t i = 0; i < bytes / sizeof versions[0]; i++) {
            device->opencl_c_3 |= versions[i].version >= CL_MAKE_VERSION(3, 0, 0);
        }
    }
    uint64_t fences = device_number(api, id, CL_DEVICE_ATOMIC_FENCE_CAPABILITIES, sizeof(cl_ulong));
    const uint64_t needed = CL_DEVICE_ATOMIC_ORDER_ACQ_REL | CL_DEVICE_ATOMIC_SCOPE_DEVICE;
    device->device_fence =
        device->nvidia > 0 || (device->opencl_c_3 && (fences & needed) == needed);
}

static bool read_device(const ofr_opencl_api *api, cl_platform_id platform, cl_device_id id,
                        ofr_opencl_device *device)
{
    memset(device, 0, sizeof *device);
    device->platform = platform;
    device->id = id;
    if (!device_number(api, id, CL_DEVICE_AVAILABLE, sizeof(cl_bool)) ||
        !device_number(api, id, CL_DEVICE_COMPILER_AVAILABLE, sizeof(cl_bool))) {
        return false;
    }
    device_text(api, id, CL_DEVICE_NAME, device->name, sizeof device->name);
    device_text(api, id, CL_DEVICE_VENDOR, device->vendor, sizeof device->vendor);
    device_text(api, id, CL_DRIVER_VERSION, device->driver, sizeof device->driver);
    if (api->GetPlatformInfo(platform, CL_PLATFORM_VERSION, sizeof device->platform_version,
                             device->platform_version, NULL) != CL_SUCCESS) {
        device->platform_version[0] = '\0';
    }
    device->platform_version[sizeof device->platform_version - 1] = '\0';
    device->type = device_number(api, id, CL_DEVICE_TYPE, sizeof(cl_device_type));
    device->compute_units =
        (uint32_t)device_number(api, id, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof(cl_uint));
    device->max_work_group =
        (size_t)device_number(api, id, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof(size_t));
    device->memory_bytes = device_number(api, id, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof(cl_ulong));
    device->max_allocation = device_number(api, id, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof(cl_ulong));
    device->local_bytes = device_number(api, id, CL_DEVICE_LOCAL_MEM_SIZE, sizeof(cl_ulong));
    device->shares_host_memory =
        device_number(api, id, CL_DEVICE_HOST_UNIFIED_MEMORY, sizeof(cl_bool)) != 0;
    read_capabilities(api, device);
    return true;
}

static uint32_t rank(cl_device_type type)
{
    return type & CL_DEVICE_TYPE_GPU ? 0 : type & CL_DEVICE_TYPE_ACCELERATOR ? 1 : 2;
}

/* Keeps the order within a rank. */
static void insert(ofr_opencl_device *devices, uint32_t *count, const ofr_opencl_device *device)
{
    uint32_t at = *count;
    while (at > 0 && rank(devices[at - 1].type) > rank(device->type)) {
        devices[at] = devices[at - 1];
        at--;
    }
    devices[at] = *device;
    (*count)++;
}

int ofr_opencl_devices(const ofr_opencl_api *api, ofr_opencl_device *ret_devices, uint32_t capacity,
                       uint32_t *ret_count, ofr_error *err)
{
    cl_platform_id platforms[PLATFORMS_MAX];
    cl_uint n_platforms = 0;
    cl_int status = api->GetPlatformIDs(PLATFORMS_MAX, platforms, &n_platforms);
    if (status != CL_SUCCESS || n_platforms == 0) {
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "OpenCL backend: no OpenCL driver is installed (%s); for Intel GPUs "
                        "install intel-opencl-icd, for the CPU pocl-opencl-icd",
                        ofr_opencl_status_name(status));
    }
    n_platforms = n_platforms < PLATFORMS_MAX ? n_platforms : PLATFORMS_MAX;
    uint32_t count = 0;
    for (cl_uint p = 0; p < n_platforms; p++) {
        cl_device_id ids[OFR_OPENCL_DEVICES_MAX];
        cl_uint n = 0;
        status =
            api->GetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, OFR_OPENCL_DEVICES_MAX, ids, &n);
        n = n < OFR_OPENCL_DEVICES_MAX ? n : OFR_OPENCL_DEVICES_MAX;
        for (cl_uint d = 0; status == CL_SUCCESS && d < n && count < capacity; d++) {
            ofr_opencl_device device;
            if (read_device(api, platforms[p], ids[d], &device)) {
                insert(ret_devices, &count, &device);
            }
        }
    }
    if (count == 0) {
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "OpenCL backend: an OpenCL driver is installed but offers no device; is "
                        "the GPU's device file open to this user (group render)?");
    }
    *ret_count = count;
    return 0;
}

int ofr_opencl_device_index(const char *name, uint32_t *ret_index, ofr_error *err)
{
    if (name == NULL || strcmp(name, "opencl") == 0) {
        *ret_index = 0;
        return 0;
    }
    char *end = NULL;
    bool named = strncmp(name, "opencl:", 7) == 0 && name[7] >= '0' && name[7] <= '9';
    unsigned long index = named ? strtoul(name + 7, &end, 10) : 0;
    if (!named || *end != '\0' || index >= OFR_OPENCL_DEVICES_MAX) {
        return ofr_fail(err, OFR_EINVAL,
                        "OpenCL backend: '%s' is no device; use opencl or "
                        "opencl:<index>",
                        name);
    }
    *ret_index = (uint32_t)index;
    return 0;
}
