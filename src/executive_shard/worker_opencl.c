/* The OpenCL backend as workers see it. */
#include "backend/opencl/opencl_backend.h"
#include "executive_shard/worker_layers.h"

const ofr_backend *ofr_worker_backend_opencl(void)
{
    return ofr_opencl_backend();
}
