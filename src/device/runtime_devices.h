/* The devices that OpenCL and OpenVINO list, through the backends' own enumeration, so that the
 * names here are the names in plans. Both load drivers: only in a process that may be lost. A build
 * without one of the backends says OFR_ENOENT for it. */
#ifndef OFR_DEVICE_RUNTIME_DEVICES_H
#define OFR_DEVICE_RUNTIME_DEVICES_H

#include "device/device.h"
#include "device/level_zero.h"

/* Fills `ret_devices` (OFR_DEVICES_MAX) with what the runtime knows: kind, PCI address, ids, model,
 * and `opencl` with `opencl_version`, or `openvino`. ret_version (64 bytes) is the runtime's.
 * OFR_ENOENT: the library, or any platform, is absent. */
int ofr_runtime_list_opencl(ofr_stage_function *stage, void *user, ofr_device *ret_devices,
                            size_t *ret_count, char *ret_version, ofr_error *err);
/* library: path of libopenvino_c.so; NULL: where the backend looks. */
int ofr_runtime_list_openvino(const char *library, ofr_stage_function *stage, void *user,
                              ofr_device *ret_devices, size_t *ret_count, char *ret_version,
                              ofr_error *err);

#endif
