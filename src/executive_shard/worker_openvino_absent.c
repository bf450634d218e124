/* A build without the OpenVINO backend. */
#include "executive_shard/worker_layers.h"

const ofr_backend *ofr_worker_backend_openvino(void)
{
    return NULL;
}
