/* Names of devices, PCI addresses, and the list as JSON. */
#include "device/device.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *ofr_device_kind_name(enum ofr_device_kind kind)
{
    switch (kind) {
    case OFR_DEVICE_KIND_CPU:
        return "cpu";
    case OFR_DEVICE_KIND_NPU:
        return "npu";
    case OFR_DEVICE_KIND_INTEGRATED_GPU:
        return "integrated_gpu";
    case OFR_DEVICE_KIND_DISCRETE_GPU:
        return "discrete_gpu";
    }
    return "unknown";
}

const char *ofr_source_state_name(enum ofr_source_state state)
{
    switch (state) {
    case OFR_SOURCE_STATE_OK:
        return "ok";
    case OFR_SOURCE_STATE_ABSENT:
        return "absent";
    case OFR_SOURCE_STATE_FAILED:
        return "failed";
    case OFR_SOURCE_STATE_CRASHED:
        return "crashed";
    }
    return "unknown";
}

const ofr_device *ofr_devices_find(const ofr_device_list *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->devices[i].name, name) == 0)
            return &list->devices[i];
    return NULL;
}

const ofr_device *ofr_devices_find_planned(const ofr_device_list *list, const char *plan_device)
{
    char name[40];
    snprintf(name, sizeof name, "%s",
             strcmp(plan_device, "opencl") == 0 ? "opencl:0" : plan_device);
    if (strcmp(name, "cpu") == 0)
        return ofr_devices_find(list, name);
    if (!name[0]) /* a device that a runtime does not have has "" as its name there */
        return NULL;
    for (int attempt = 0; attempt < 2; attempt++) {
        for (size_t i = 0; i < list->count; i++)
            if (strcmp(list->devices[i].opencl, name) == 0 ||
                strcmp(list->devices[i].openvino, name) == 0)
                return &list->devices[i];
        /* OpenVINO says "GPU" where there is one and "GPU.0" where there are several. */
        if (strcmp(name, "openvino:GPU.0") == 0)
            snprintf(name, sizeof name, "openvino:GPU");
        else if (strcmp(name, "openvino:GPU") == 0)
            snprintf(name, sizeof name, "openvino:GPU.0");
    }
    return NULL;
}

bool ofr_pci_parse(const char *text, ofr_pci_address *ret_address)
{
    unsigned domain, bus, device, function;
    int used = 0;
    if (sscanf(text, "%8x:%2x:%2x.%1x%n", &domain, &bus, &device, &function, &used) != 4 ||
        text[used] != 0 || device > 31 || function > 7)
        return false;
    *ret_address = (ofr_pci_address){.known = true,
                                     .domain = domain,
                                     .bus = (uint8_t)bus,
                                     .device = (uint8_t)device,
                                     .function = (uint8_t)function};
    return true;
}

void ofr_pci_format(const ofr_pci_address *address, char ret_text[OFR_PCI_TEXT_SIZE])
{
    ret_text[0] = 0;
    if (address->known)
        snprintf(ret_text, OFR_PCI_TEXT_SIZE, "%04x:%02x:%02x.%x", address->domain, address->bus,
                 address->device, address->function);
}

bool ofr_pci_equal(const ofr_pci_address *a, const ofr_pci_address *b)
{
    return a->known && b->known && a->domain == b->domain && a->bus == b->bus &&
           a->device == b->device && a->function == b->function;
}

static json_t *source_to_json(const ofr_device_source *source)
{
    return json_pack("{s:s, s:s, s:s, s:i}", "state", ofr_source_state_name(source->state),
                     "version", source->version, "text", source->text, "devices",
                     (int)source->n_devices);
}

json_t *ofr_devices_to_json(const ofr_device_list *list)
{
    json_t *devices = json_array();
    for (size_t i = 0; i < list->count; i++) {
        const ofr_device *d = &list->devices[i];
        char pci[OFR_PCI_TEXT_SIZE];
        char ids[16] = "";
        ofr_pci_format(&d->pci, pci);
        if (d->vendor_id)
            snprintf(ids, sizeof ids, "%04x:%04x", d->vendor_id & 0xffff, d->device_id & 0xffff);
        json_array_append_new(
            devices,
            json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:i, s:i, s:i, "
                      "s:i}",
                      "name", d->name, "kind", ofr_device_kind_name(d->kind), "model", d->model,
                      "pci", pci, "ids", ids, "kernel_driver", d->kernel_driver, "node", d->node,
                      "driver_version", d->driver_version, "opencl", d->opencl, "opencl_version",
                      d->opencl_version, "openvino", d->openvino, "memory_bytes",
                      (json_int_t)d->memory_bytes, "min_mhz", (int)d->min_mhz, "max_mhz",
                      (int)d->max_mhz, "compute_engines", (int)d->compute_engines, "copy_engines",
                      (int)d->copy_engines));
    }
    return json_pack("{s:o, s:{s:o, s:o, s:o}}", "devices", devices, "sources", "level_zero",
                     source_to_json(&list->level_zero), "opencl", source_to_json(&list->opencl),
                     "openvino", source_to_json(&list->openvino));
}
