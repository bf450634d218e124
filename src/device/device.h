/* The compute devices of a machine: one list, joined from the kernel (sysfs), Level Zero, OpenCL
 * and OpenVINO by PCI address, with names that stay the same as long as the hardware does.
 *
 *     "cpu"                    the processor
 *     "npu", "npu1", ...       by PCI address
 *     "igpu"                   the integrated GPU
 *     "dgpu", "dgpu1", ...     discrete GPUs, by PCI address
 *
 * Drivers are only ever loaded in child processes: one that crashes, hangs or writes over memory
 * costs what it would have told, never the caller. */
#ifndef OFR_DEVICE_DEVICE_H
#define OFR_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/status.h"

enum { OFR_DEVICES_MAX = 16 };

enum ofr_device_kind {
    OFR_DEVICE_KIND_CPU,
    OFR_DEVICE_KIND_NPU,
    OFR_DEVICE_KIND_INTEGRATED_GPU,
    OFR_DEVICE_KIND_DISCRETE_GPU,
};

typedef struct ofr_pci_address {
    bool known;
    uint32_t domain;
    uint8_t bus, device, function;
} ofr_pci_address;

typedef struct ofr_device {
    char name[16]; /* "npu": stable, see above */
    enum ofr_device_kind kind;
    ofr_pci_address pci;
    uint32_t vendor_id, device_id; /* of PCI; 0: unknown */
    char model[128];               /* "Intel(R) AI Boost" */
    /* The kernel's side (sysfs); "" where the kernel knows nothing of it. */
    char kernel_driver[32]; /* "intel_vpu", "xe", "i915" */
    char node[64];          /* "/dev/accel/accel0", "/dev/dri/renderD128" */
    char sysfs[64];         /* "/sys/class/accel/accel0", "/sys/class/drm/card0" */
    /* The user-space side. */
    char driver_version[64];   /* of the Level Zero driver; "" where it has none */
    char opencl[32];           /* "opencl:0", as plans name it; "" where OpenCL has it not */
    char opencl_version[64];   /* of the OpenCL driver */
    char openvino[32];         /* "openvino:NPU", likewise */
    uint64_t memory_bytes;     /* its own memory; 0: it shares the host's */
    uint32_t max_mhz, min_mhz; /* 0: unknown */
    uint32_t compute_engines, copy_engines; /* Level Zero queue groups: queues; 0: unknown */
} ofr_device;

/* What came of asking one source. */
enum ofr_source_state {
    OFR_SOURCE_STATE_OK,
    OFR_SOURCE_STATE_ABSENT,  /* the library is not installed */
    OFR_SOURCE_STATE_FAILED,  /* it answered with an error */
    OFR_SOURCE_STATE_CRASHED, /* its process died, or hung and was killed */
};

typedef struct ofr_device_source {
    enum ofr_source_state state;
    char version[64]; /* of the loader or runtime */
    char text[256];   /* why there is nothing from it */
    uint32_t n_devices;
} ofr_device_source;

typedef struct ofr_device_list {
    ofr_device devices[OFR_DEVICES_MAX]; /* CPU, NPUs, integrated, discrete */
    size_t count;
    ofr_device_source level_zero, opencl, openvino;
} ofr_device_list;

typedef struct ofr_device_options {
    const char *root;             /* of /sys, /proc and /dev; NULL: "/" */
    const char *openvino_library; /* path of libopenvino_c.so; NULL: searched */
    bool skip_drivers;            /* only what the kernel says */
    uint32_t timeout_ms;          /* for each source; 0: 20 s */
} ofr_device_options;

/* Fails only where /sys cannot be read at all; a source that fails is described in the list. The
 * caller should have one thread (children are forked from it). */
int ofr_devices_discover(const ofr_device_options *options, ofr_device_list *ret_list,
                         ofr_error *err);

/* "npu", "integrated_gpu", ... */
const char *ofr_device_kind_name(enum ofr_device_kind kind);
const char *ofr_source_state_name(enum ofr_source_state state);
/* NULL: no device of that name. */
const ofr_device *ofr_devices_find(const ofr_device_list *list, const char *name);

/* The device that a plan names: "cpu", "openvino:NPU", "openvino:GPU" (also "GPU.0" for "GPU"),
 * "opencl" (which is "opencl:0") or "opencl:1". NULL: none. Conditions (condition.h) are kept under
 * the stable name of what this returns. */
const ofr_device *ofr_devices_find_planned(const ofr_device_list *list, const char *plan_device);

/* "0000:00:0b.0" in both directions; writes 13 bytes with the NUL, "" for an unknown address. */
enum { OFR_PCI_TEXT_SIZE = 24 };
bool ofr_pci_parse(const char *text, ofr_pci_address *ret_address);
void ofr_pci_format(const ofr_pci_address *address, char ret_text[OFR_PCI_TEXT_SIZE]);
bool ofr_pci_equal(const ofr_pci_address *a, const ofr_pci_address *b);

/* {"devices":[...],"sources":{...}}; NULL without memory. */
json_t *ofr_devices_to_json(const ofr_device_list *list);

#endif
