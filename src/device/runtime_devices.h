/* The devices that OpenCL and OpenVINO list. Both load drivers: only in a process that may be lost.
 */
#ifndef OFR_DEVICE_RUNTIME_DEVICES_H
#define OFR_DEVICE_RUNTIME_DEVICES_H

#include "device/device.h"
#include "device/level_zero.h"

/* Fills `ret_devices` (OFR_DEVICES_MAX) with what the runtime knows: kind, PCI address, ids, model,
 * and `opencl` with `opencl_version`, or `openvino`. ret_version (64 bytes) is the runtime's.
 * OFR_ENOENT: the library, or any platform, is absent. */
int ofr_opencl_devices(ofr_stage_function *stage, void *user, ofr_device *ret_devices,
                       size_t *ret_count, char *ret_version, ofr_error *err);
/* library: path of libopenvino_c.so; NULL: OFFERING_OPENVINO_LIBRARY, else venv_offering near the
 * program and the working directory, then by the system. */
int ofr_openvino_devices(const char *library, ofr_stage_function *stage, void *user,
                         ofr_device *ret_devices, size_t *ret_count, char *ret_version,
                         ofr_error *err);
/* The path that ofr_openvino_devices would load first; false: only the system's search is left. */
bool ofr_openvino_find_library(char *ret_path, size_t size);

#endif
