/* Loading the OpenCL ICD loader, and names of its errors. */
#include "backend/opencl/opencl_api.h"

#include <dlfcn.h>
#include <string.h>

int ofr_opencl_api_open(const char *library, ofr_opencl_api *ret_api, ofr_error *err)
{
    const char *name = library != NULL ? library : "libOpenCL.so.1";
    void *handle = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (handle == NULL) {
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "OpenCL backend: cannot load %s (%s); install ocl-icd-libopencl1 and the "
                        "driver of your GPU",
                        name, dlerror());
    }
    ofr_opencl_api api;
    memset(&api, 0, sizeof api);
    const char *missing = NULL;
#define OFR_OPENCL_LOAD(function)                                                                  \
    *(void **)&api.function = dlsym(handle, "cl" #function);                                       \
    if (api.function == NULL) {                                                                    \
        missing = "cl" #function;                                                                  \
    }
    OFR_OPENCL_FUNCTIONS(OFR_OPENCL_LOAD)
#undef OFR_OPENCL_LOAD
    dlclose(handle);
    if (missing != NULL) {
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "OpenCL backend: %s has no %s; an OpenCL 3.0 loader is needed", name,
                        missing);
    }
    *ret_api = api;
    return 0;
}

const char *ofr_opencl_status_name(cl_int status)
{
    switch (status) {
#define OFR_OPENCL_NAME(symbol)                                                                    \
    case symbol:                                                                                   \
        return #symbol;
        OFR_OPENCL_NAME(CL_SUCCESS)
        OFR_OPENCL_NAME(CL_DEVICE_NOT_FOUND)
        OFR_OPENCL_NAME(CL_DEVICE_NOT_AVAILABLE)
        OFR_OPENCL_NAME(CL_COMPILER_NOT_AVAILABLE)
        OFR_OPENCL_NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE)
        OFR_OPENCL_NAME(CL_OUT_OF_RESOURCES)
        OFR_OPENCL_NAME(CL_OUT_OF_HOST_MEMORY)
        OFR_OPENCL_NAME(CL_MAP_FAILURE)
        OFR_OPENCL_NAME(CL_MISALIGNED_SUB_BUFFER_OFFSET)
        OFR_OPENCL_NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)
        OFR_OPENCL_NAME(CL_BUILD_PROGRAM_FAILURE)
        OFR_OPENCL_NAME(CL_INVALID_VALUE)
        OFR_OPENCL_NAME(CL_INVALID_PLATFORM)
        OFR_OPENCL_NAME(CL_INVALID_DEVICE)
        OFR_OPENCL_NAME(CL_INVALID_CONTEXT)
        OFR_OPENCL_NAME(CL_INVALID_QUEUE_PROPERTIES)
        OFR_OPENCL_NAME(CL_INVALID_COMMAND_QUEUE)
        OFR_OPENCL_NAME(CL_INVALID_HOST_PTR)
        OFR_OPENCL_NAME(CL_INVALID_MEM_OBJECT)
        OFR_OPENCL_NAME(CL_INVALID_BINARY)
        OFR_OPENCL_NAME(CL_INVALID_BUILD_OPTIONS)
        OFR_OPENCL_NAME(CL_INVALID_PROGRAM)
        OFR_OPENCL_NAME(CL_INVALID_PROGRAM_EXECUTABLE)
        OFR_OPENCL_NAME(CL_INVALID_KERNEL_NAME)
        OFR_OPENCL_NAME(CL_INVALID_KERNEL)
        OFR_OPENCL_NAME(CL_INVALID_ARG_INDEX)
        OFR_OPENCL_NAME(CL_INVALID_ARG_VALUE)
        OFR_OPENCL_NAME(CL_INVALID_ARG_SIZE)
        OFR_OPENCL_NAME(CL_INVALID_KERNEL_ARGS)
        OFR_OPENCL_NAME(CL_INVALID_WORK_DIMENSION)
        OFR_OPENCL_NAME(CL_INVALID_WORK_GROUP_SIZE)
        OFR_OPENCL_NAME(CL_INVALID_WORK_ITEM_SIZE)
        OFR_OPENCL_NAME(CL_INVALID_GLOBAL_OFFSET)
        OFR_OPENCL_NAME(CL_INVALID_EVENT_WAIT_LIST)
        OFR_OPENCL_NAME(CL_INVALID_OPERATION)
        OFR_OPENCL_NAME(CL_INVALID_BUFFER_SIZE)
        OFR_OPENCL_NAME(CL_INVALID_GLOBAL_WORK_SIZE)
#undef OFR_OPENCL_NAME
    case -1001: /* cl_khr_icd */
        return "CL_PLATFORM_NOT_FOUND_KHR";
    case -9999: /* NVIDIA: illegal access or a reset device */
        return "the driver lost the device";
    default:
        return "unknown OpenCL error";
    }
}

int ofr_opencl_status_code(cl_int status)
{
    switch (status) {
    case CL_MEM_OBJECT_ALLOCATION_FAILURE:
    case CL_OUT_OF_HOST_MEMORY:
    case CL_INVALID_BUFFER_SIZE:
        return OFR_ENOMEM;
    case CL_DEVICE_NOT_FOUND:
    case CL_COMPILER_NOT_AVAILABLE:
    case -1001:
        return OFR_EUNSUPPORTED;
    default:
        return OFR_EDEVICE;
    }
}
