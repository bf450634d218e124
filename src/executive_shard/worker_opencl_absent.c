/* A build without the OpenCL backend. */
#include "executive_shard/worker_layers.h"

const ofr_backend *ofr_worker_backend_opencl(void)
{
    return NULL;
}
