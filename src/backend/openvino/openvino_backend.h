/* The OpenVINO backend: static graphs of the package on the CPU, GPU or NPU plug-in.
 *
 * Devices (ofr_backend_options.device): "openvino:CPU", "openvino:GPU", "openvino:GPU.1",
 * "openvino:NPU". Layers run one by one through folded graphs: the layer's matrices are bound from
 * the package's mapping, KV rows from the arena, so nothing is copied and no second copy of the
 * weights exists. Embedding and head run on the CPU backend: a plug-in would expand them.
 * ofr_backend_options.kernels "whole" runs whole graphs where the session has all layers and the
 * package has a fitting one; "folded" and NULL never do.
 *
 * Opening loads OpenVINO and its drivers, which may abort the process: in a worker only. Graphs are
 * compiled when first needed; compiled ones are kept in the cache directory (blob_cache.h). On the
 * CPU plug-in those that are ready work in at most a tenth of the weights' bytes (256 MiB at
 * least), as far as one chunk allows; others are given up and made ready again. */
#ifndef OFR_BACKEND_OPENVINO_OPENVINO_BACKEND_H
#define OFR_BACKEND_OPENVINO_OPENVINO_BACKEND_H

#include "engine/backend.h"

/* The table; static const, valid for ever. */
const ofr_backend *ofr_openvino_backend(void);

/* What the session did since opening, for status and tests. */
typedef struct ofr_openvino_figures {
    uint32_t graphs_compiled, graphs_from_cache;
    uint32_t graphs_given_up; /* for room: compiled graphs of a large model do not all stay */
    uint64_t compile_ns;
    uint64_t chunks, padded_tokens; /* run, and computed in vain */
    uint32_t imports_refused;       /* ranges of memory that an NPU could not import */
} ofr_openvino_figures;
ofr_openvino_figures ofr_openvino_session_figures(const ofr_backend_session *session);

#endif
