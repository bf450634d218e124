/* A build without the OpenCL backend. */
#include "device/runtime_devices.h"

int ofr_runtime_list_opencl(ofr_stage_function *stage, void *user, ofr_device *ret_devices,
                            size_t *ret_count, char *ret_version, ofr_error *err)
{
    (void)stage;
    (void)user;
    (void)ret_devices;
    (void)ret_version;
    *ret_count = 0;
    return ofr_fail(err, OFR_ENOENT, "this build has no OpenCL backend");
}
