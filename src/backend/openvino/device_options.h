/* What each kind of device is told when a graph is compiled for it. */
#ifndef OFR_BACKEND_OPENVINO_DEVICE_OPTIONS_H
#define OFR_BACKEND_OPENVINO_DEVICE_OPTIONS_H

#include "backend/openvino/ov_runtime.h"

enum { OFR_OPENVINO_OPTIONS_MAX = 8 };

/* Only what the device says it supports. `precision` ("f32") and `threads` ("2", "": as many as
 * OpenVINO likes; CPU only) are borrowed by the result. Returns how many there are. */
size_t ofr_openvino_device_options(ofr_ov *ov, const char *device, const char *precision,
                                   const char *threads,
                                   ofr_ov_option ret_options[OFR_OPENVINO_OPTIONS_MAX]);

#endif
