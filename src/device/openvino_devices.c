/* OpenVINO's devices, through the backend's runtime. */
#include <stdio.h>
#include <string.h>

#include "backend/openvino/ov_runtime.h"
#include "device/runtime_devices.h"

/* "{domain: 0 bus: 0 device: 0x2 function: 0}" */
static void read_address(const char *text, ofr_pci_address *ret)
{
    int domain;
    int bus;
    int device;
    int function;
    if (sscanf(text, " { domain : %i bus : %i device : %i function : %i", &domain, &bus, &device,
               &function) == 4 &&
        domain >= 0 && bus >= 0 && bus < 256 && device >= 0 && device < 32 && function >= 0 &&
        function < 8)
        *ret = (ofr_pci_address){true, (uint32_t)domain, (uint8_t)bus, (uint8_t)device,
                                 (uint8_t)function};
}

static bool read_property(ofr_ov *ov, const char *device, const char *key, char *ret_text,
                          size_t size)
{
    return ofr_ov_supports(ov, device, key) &&
           ofr_ov_property(ov, device, key, ret_text, size, NULL) == 0;
}

static void describe(ofr_ov *ov, const char *name, ofr_device *d)
{
    char text[256];
    *d = (ofr_device){0};
    d->kind = strncmp(name, "NPU", 3) == 0   ? OFR_DEVICE_KIND_NPU
              : strncmp(name, "GPU", 3) == 0 ? OFR_DEVICE_KIND_INTEGRATED_GPU
                                             : OFR_DEVICE_KIND_CPU;
    snprintf(d->openvino, sizeof d->openvino, "openvino:%.16s", name);
    read_property(ov, name, "FULL_DEVICE_NAME", d->model, sizeof d->model);
    if (d->kind != OFR_DEVICE_KIND_CPU &&
        read_property(ov, name, "DEVICE_PCI_INFO", text, sizeof text))
        read_address(text, &d->pci);
    if (d->kind == OFR_DEVICE_KIND_INTEGRATED_GPU &&
        read_property(ov, name, "DEVICE_TYPE", text, sizeof text) && strstr(text, "discrete"))
        d->kind = OFR_DEVICE_KIND_DISCRETE_GPU;
}

int ofr_runtime_list_openvino(const char *library, ofr_stage_function *stage, void *user,
                              ofr_device *ret_devices, size_t *ret_count, char *ret_version,
                              ofr_error *err)
{
    ofr_ov *ov = NULL;
    char names[512];
    stage(user, "loading OpenVINO");
    int r = ofr_ov_open(library, &ov, err);
    if (r < 0)
        return r == OFR_EUNSUPPORTED ? OFR_ENOENT : r;
    snprintf(ret_version, 64, "%.63s", ofr_ov_version(ov));
    stage(user, "listing OpenVINO's devices");
    r = ofr_ov_devices(ov, names, sizeof names, err);
    size_t count = 0;
    char *rest = NULL;
    for (char *name = r == 0 ? strtok_r(names, ", ", &rest) : NULL; name && count < OFR_DEVICES_MAX;
         name = strtok_r(NULL, ", ", &rest)) {
        char text[64];
        snprintf(text, sizeof text, "properties of OpenVINO's %.16s", name);
        stage(user, text);
        describe(ov, name, &ret_devices[count++]);
    }
    /* Left open: closing unloads plug-ins, which is code of theirs that this process can do
     * without.
     */
    *ret_count = count;
    return r;
}
