/* OpenCL's devices, through the ICD loader opened at run time. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl.h>

#include "device/runtime_devices.h"

/* cl_khr_pci_bus_info and cl_nv_device_attribute_query: in the headers only of later releases. */
enum {
    DEVICE_PCI_BUS_INFO = 0x410F,
    DEVICE_PCI_BUS_NV = 0x4008,
    DEVICE_PCI_SLOT_NV = 0x4009,
    DEVICE_PCI_DOMAIN_NV = 0x400A,
    PLATFORMS_MAX = 16,
};
struct pci_bus_info {
    cl_uint domain, bus, device, function;
};

struct functions {
    __typeof__(clGetPlatformIDs) *platforms;
    __typeof__(clGetPlatformInfo) *platform_info;
    __typeof__(clGetDeviceIDs) *devices;
    __typeof__(clGetDeviceInfo) *device_info;
};

static void read_address(const struct functions *cl, cl_device_id id, ofr_pci_address *ret)
{
    struct pci_bus_info info;
    if (cl->device_info(id, DEVICE_PCI_BUS_INFO, sizeof info, &info, NULL) == CL_SUCCESS) {
        *ret = (ofr_pci_address){true, info.domain, (uint8_t)info.bus, (uint8_t)info.device,
                                 (uint8_t)info.function};
        return;
    }
    cl_uint bus;
    cl_uint slot;
    cl_uint domain = 0;
    if (cl->device_info(id, DEVICE_PCI_BUS_NV, sizeof bus, &bus, NULL) == CL_SUCCESS &&
        cl->device_info(id, DEVICE_PCI_SLOT_NV, sizeof slot, &slot, NULL) == CL_SUCCESS) {
        cl->device_info(id, DEVICE_PCI_DOMAIN_NV, sizeof domain, &domain, NULL);
        *ret = (ofr_pci_address){true, domain, (uint8_t)bus, (uint8_t)(slot >> 3),
                                 (uint8_t)(slot & 7)};
    }
}

static void describe(const struct functions *cl, cl_device_id id, unsigned index, ofr_device *d)
{
    cl_device_type type = 0;
    cl_uint vendor = 0;
    cl_uint mhz = 0;
    cl_bool unified = CL_FALSE;
    cl_ulong memory = 0;
    *d = (ofr_device){0};
    cl->device_info(id, CL_DEVICE_TYPE, sizeof type, &type, NULL);
    cl->device_info(id, CL_DEVICE_VENDOR_ID, sizeof vendor, &vendor, NULL);
    cl->device_info(id, CL_DEVICE_MAX_CLOCK_FREQUENCY, sizeof mhz, &mhz, NULL);
    cl->device_info(id, CL_DEVICE_HOST_UNIFIED_MEMORY, sizeof unified, &unified, NULL);
    cl->device_info(id, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof memory, &memory, NULL);
    cl->device_info(id, CL_DEVICE_NAME, sizeof d->model - 1, d->model, NULL);
    cl->device_info(id, CL_DRIVER_VERSION, sizeof d->opencl_version - 1, d->opencl_version, NULL);
    d->kind = type & CL_DEVICE_TYPE_CPU ? OFR_DEVICE_KIND_CPU
              : unified                 ? OFR_DEVICE_KIND_INTEGRATED_GPU
                                        : OFR_DEVICE_KIND_DISCRETE_GPU;
    d->vendor_id = d->kind == OFR_DEVICE_KIND_CPU ? 0 : vendor;
    d->max_mhz = mhz < 100000 ? mhz : 0;
    d->memory_bytes = d->kind == OFR_DEVICE_KIND_DISCRETE_GPU ? memory : 0;
    snprintf(d->opencl, sizeof d->opencl, "opencl:%u", index);
    if (d->kind != OFR_DEVICE_KIND_CPU)
        read_address(cl, id, &d->pci);
}

static bool look_up(void *library, const char *name, void *ret_function)
{
    void *symbol = dlsym(library, name);
    memcpy(ret_function, &symbol, sizeof symbol);
    return symbol != NULL;
}

int ofr_opencl_devices(ofr_stage_function *stage, void *user, ofr_device *ret_devices,
                       size_t *ret_count, char *ret_version, ofr_error *err)
{
    stage(user, "loading libOpenCL.so.1");
    void *library = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
    struct functions cl;
    if (!library)
        return ofr_fail(err, OFR_ENOENT, "no OpenCL loader: %s", dlerror());
    if (!look_up(library, "clGetPlatformIDs", &cl.platforms) ||
        !look_up(library, "clGetPlatformInfo", &cl.platform_info) ||
        !look_up(library, "clGetDeviceIDs", &cl.devices) ||
        !look_up(library, "clGetDeviceInfo", &cl.device_info))
        return ofr_fail(err, OFR_EVERSION, "libOpenCL.so.1 lacks functions of OpenCL 1.0");
    stage(user, "clGetPlatformIDs");
    cl_platform_id platforms[PLATFORMS_MAX];
    cl_uint n_platforms = 0;
    cl_int result = cl.platforms(PLATFORMS_MAX, platforms, &n_platforms);
    if (result != CL_SUCCESS || n_platforms == 0)
        return ofr_fail(err, OFR_ENOENT, "OpenCL has no platform: no ICD is installed (%d)",
                        (int)result);
    size_t count = 0;
    for (cl_uint i = 0; i < n_platforms && i < PLATFORMS_MAX; i++) {
        cl_device_id ids[OFR_DEVICES_MAX];
        cl_uint n_ids = 0;
        char text[96];
        char version[256] = "";
        /* "OpenCL 3.0 PoCL 3.1+debian  Linux, ...": the numbers are enough. */
        if (!ret_version[0] && cl.platform_info(platforms[i], CL_PLATFORM_VERSION,
                                                sizeof version - 1, version, NULL) == CL_SUCCESS)
            snprintf(ret_version, 64, "%.*s",
                     (int)strcspn(version, ",") < 40 ? (int)strcspn(version, ",") : 40, version);
        snprintf(text, sizeof text, "clGetDeviceIDs of platform %u", i);
        stage(user, text);
        if (cl.devices(platforms[i], CL_DEVICE_TYPE_ALL, OFR_DEVICES_MAX, ids, &n_ids) !=
            CL_SUCCESS)
            continue;
        for (cl_uint j = 0; j < n_ids && j < OFR_DEVICES_MAX && count < OFR_DEVICES_MAX; j++) {
            describe(&cl, ids[j], (unsigned)count, &ret_devices[count]);
            count++;
        }
    }
    *ret_count = count;
    return 0;
}
