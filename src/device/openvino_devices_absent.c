/* A build without the OpenVINO backend. */
#include "device/runtime_devices.h"

int ofr_runtime_list_openvino(const char *library, ofr_stage_function *stage, void *user,
                              ofr_device *ret_devices, size_t *ret_count, char *ret_version,
                              ofr_error *err)
{
    (void)library;
    (void)stage;
    (void)user;
    (void)ret_devices;
    (void)ret_version;
    *ret_count = 0;
    return ofr_fail(err, OFR_ENOENT, "this build has no OpenVINO backend");
}
