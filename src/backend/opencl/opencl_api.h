/* The OpenCL functions that the backend calls, loaded at run time: a program starts without OpenCL
 * and learns here that there is none. The table is a plain struct, so that tests can stand in for
 * any function (a device that runs out of memory, refuses a mapping, is lost). */
#ifndef OFR_BACKEND_OPENCL_OPENCL_API_H
#define OFR_BACKEND_OPENCL_OPENCL_API_H

#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl.h>

#include "base/status.h"

#define OFR_OPENCL_FUNCTIONS(X)                                                                    \
    X(GetPlatformIDs)                                                                              \
    X(GetPlatformInfo)                                                                             \
    X(GetDeviceIDs)                                                                                \
    X(GetDeviceInfo)                                                                               \
    X(CreateContext)                                                                               \
    X(ReleaseContext)                                                                              \
    X(CreateCommandQueueWithProperties)                                                            \
    X(ReleaseCommandQueue)                                                                         \
    X(CreateBuffer)                                                                                \
    X(ReleaseMemObject)                                                                            \
    X(CreateProgramWithSource)                                                                     \
    X(CreateProgramWithBinary)                                                                     \
    X(BuildProgram)                                                                                \
    X(GetProgramInfo)                                                                              \
    X(GetProgramBuildInfo)                                                                         \
    X(ReleaseProgram)                                                                              \
    X(CreateKernel)                                                                                \
    X(GetKernelInfo)                                                                               \
    X(SetKernelArg)                                                                                \
    X(ReleaseKernel)                                                                               \
    X(EnqueueNDRangeKernel)                                                                        \
    X(EnqueueReadBuffer)                                                                           \
    X(EnqueueWriteBuffer)                                                                          \
    X(EnqueueReadBufferRect)                                                                       \
    X(EnqueueWriteBufferRect)                                                                      \
    X(EnqueueFillBuffer)                                                                           \
    X(EnqueueMapBuffer)                                                                            \
    X(EnqueueUnmapMemObject)                                                                       \
    X(GetEventProfilingInfo)                                                                       \
    X(ReleaseEvent)                                                                                \
    X(Flush)                                                                                       \
    X(Finish)

typedef struct ofr_opencl_api {
#define OFR_OPENCL_MEMBER(name) __typeof__(cl##name) *name;
    OFR_OPENCL_FUNCTIONS(OFR_OPENCL_MEMBER)
#undef OFR_OPENCL_MEMBER
} ofr_opencl_api;

/* Loads the ICD loader (library NULL: libOpenCL.so.1) and fills the table. OFR_EUNSUPPORTED where
 * it is absent or too old. The library stays loaded until the process ends: drivers keep threads
 * that run in it. */
int ofr_opencl_api_open(const char *library, ofr_opencl_api *ret_api, ofr_error *err);

/* "CL_OUT_OF_RESOURCES" for -5; "unknown OpenCL error" for what is not in the specification. */
const char *ofr_opencl_status_name(cl_int status);

/* The project's code for an OpenCL error: OFR_ENOMEM, OFR_EUNSUPPORTED, or OFR_EDEVICE. */
int ofr_opencl_status_code(cl_int status);

#endif
