/* OpenCL devices of the machine and what they can do. A description is a plain struct: what the
 * backend chooses by is here and nowhere else, so that tests can play any device. */
#ifndef OFR_BACKEND_OPENCL_OPENCL_DEVICE_H
#define OFR_BACKEND_OPENCL_OPENCL_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/opencl/opencl_api.h"

enum { OFR_OPENCL_DEVICES_MAX = 16 };

typedef struct ofr_opencl_device {
    cl_platform_id platform;
    cl_device_id id;
    char name[128], vendor[64], driver[64], platform_version[128];
    cl_device_type type;
    uint32_t compute_units;
    uint32_t warp;           /* work-items of a sub-group that kernels rely on; 1: none */
    size_t max_work_group;   /* work-items */
    uint64_t memory_bytes;   /* global memory */
    uint64_t max_allocation; /* bytes of one buffer */
    uint64_t local_bytes;
    bool shares_host_memory; /* buffers over host memory are used in place */
    uint32_t nvidia;       /* takes NVIDIA's inline assembly: compute capability times 10; else 0 */
    bool intel_subgroups;  /* cl_intel_required_subgroup_size */
    uint32_t matrix_lanes; /* work-items of a sub-group for
                              cl_intel_subgroup_matrix_multiply_accumulate, 8 or 16; 0: not there */
    bool half_arithmetic; /* cl_khr_fp16, rounding to nearest, with numbers below the normal ones */
    bool byte_products;   /* dp4a or cl_khr_integer_dot_product */
    bool device_fence;    /* work-groups can hand data to one another within a launch */
    bool opencl_c_3;      /* compiles -cl-std=CL3.0 */
} ofr_opencl_device;

/* All devices that can compile kernels: GPUs first, then accelerators, then CPUs, each in the
 * platforms' order; that is the order of "opencl:<index>". OFR_EUNSUPPORTED: no platform or no
 * device, with what to install. */
int ofr_opencl_devices(const ofr_opencl_api *api, ofr_opencl_device *ret_devices, uint32_t capacity,
                       uint32_t *ret_count, ofr_error *err);

/* The index in a device's name: "opencl" and NULL are 0, "opencl:3" is 3. OFR_EINVAL otherwise. */
int ofr_opencl_device_index(const char *name, uint32_t *ret_index, ofr_error *err);

#endif
