/* OpenCL's devices, as the backend numbers them, with the PCI addresses that the backend does not
 * need. */
#include <stdio.h>
#include <string.h>

#include "backend/opencl/opencl_device.h"
#include "device/runtime_devices.h"

/* cl_khr_pci_bus_info and cl_nv_device_attribute_query: in the headers only of later releases. */
enum {
    DEVICE_PCI_BUS_INFO = 0x410F,
    DEVICE_PCI_BUS_NV = 0x4008,
    DEVICE_PCI_SLOT_NV = 0x4009,
    DEVICE_PCI_DOMAIN_NV = 0x400A,
};
struct pci_bus_info {
    cl_uint domain, bus, device, function;
};

static void read_address(const ofr_opencl_api *api, cl_device_id id, ofr_pci_address *ret)
{
    struct pci_bus_info info;
    if (api->GetDeviceInfo(id, DEVICE_PCI_BUS_INFO, sizeof info, &info, NULL) == CL_SUCCESS) {
        *ret = (ofr_pci_address){true, info.domain, (uint8_t)info.bus, (uint8_t)info.device,
                                 (uint8_t)info.function};
        return;
    }
    cl_uint bus;
    cl_uint slot;
    cl_uint domain = 0;
    if (api->GetDeviceInfo(id, DEVICE_PCI_BUS_NV, sizeof bus, &bus, NULL) == CL_SUCCESS &&
        api->GetDeviceInfo(id, DEVICE_PCI_SLOT_NV, sizeof slot, &slot, NULL) == CL_SUCCESS) {
        api->GetDeviceInfo(id, DEVICE_PCI_DOMAIN_NV, sizeof domain, &domain, NULL);
        *ret = (ofr_pci_address){true, domain, (uint8_t)bus, (uint8_t)(slot >> 3),
                                 (uint8_t)(slot & 7)};
    }
}

static void describe(const ofr_opencl_api *api, const ofr_opencl_device *found, unsigned index,
                     ofr_device *d)
{
    cl_uint vendor = 0;
    cl_uint mhz = 0;
    *d = (ofr_device){0};
    d->kind = found->type & CL_DEVICE_TYPE_CPU ? OFR_DEVICE_KIND_CPU
              : found->shares_host_memory      ? OFR_DEVICE_KIND_INTEGRATED_GPU
                                               : OFR_DEVICE_KIND_DISCRETE_GPU;
    snprintf(d->model, sizeof d->model, "%s", found->name);
    snprintf(d->opencl, sizeof d->opencl, "opencl:%u", index);
    snprintf(d->opencl_version, sizeof d->opencl_version, "%s", found->driver);
    api->GetDeviceInfo(found->id, CL_DEVICE_VENDOR_ID, sizeof vendor, &vendor, NULL);
    api->GetDeviceInfo(found->id, CL_DEVICE_MAX_CLOCK_FREQUENCY, sizeof mhz, &mhz, NULL);
    d->max_mhz = mhz < 100000 ? mhz : 0;
    if (d->kind == OFR_DEVICE_KIND_CPU)
        return;
    d->vendor_id = vendor;
    read_address(api, found->id, &d->pci);
    if (d->kind == OFR_DEVICE_KIND_DISCRETE_GPU)
        d->memory_bytes = found->memory_bytes;
}

int ofr_runtime_list_opencl(ofr_stage_function *stage, void *user, ofr_device *ret_devices,
                            size_t *ret_count, char *ret_version, ofr_error *err)
{
    ofr_opencl_api api;
    ofr_opencl_device found[OFR_DEVICES_MAX];
    uint32_t count = 0;
    stage(user, "loading libOpenCL.so.1");
    int r = ofr_opencl_api_open(NULL, &api, err);
    if (r == 0) {
        stage(user, "listing OpenCL's platforms and devices");
        r = ofr_opencl_devices(&api, found, OFR_DEVICES_MAX, &count, err);
    }
    if (r < 0)
        return r == OFR_EUNSUPPORTED ? OFR_ENOENT : r;
    for (uint32_t i = 0; i < count; i++)
        describe(&api, &found[i], i, &ret_devices[i]);
    /* "OpenCL 3.0 PoCL 3.1+debian  Linux, ...": the numbers are enough. */
    int length = (int)strcspn(found[0].platform_version, ",");
    snprintf(ret_version, 64, "%.*s", length < 40 ? length : 40, found[0].platform_version);
    *ret_count = count;
    return 0;
}
