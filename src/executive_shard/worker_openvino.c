/* The OpenVINO backend as workers see it. */
#include "backend/openvino/openvino_backend.h"
#include "executive_shard/worker_layers.h"

const ofr_backend *ofr_worker_backend_openvino(void)
{
    return ofr_openvino_backend();
}
