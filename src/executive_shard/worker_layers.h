/* What a worker computes with: the package, one backend, and a session of it for each range of
 * layers that plans gave to the device. One thread. */
#ifndef OFR_EXECUTIVE_SHARD_WORKER_LAYERS_H
#define OFR_EXECUTIVE_SHARD_WORKER_LAYERS_H

#include "engine/backend.h"
#include "engine/kv.h"

enum { OFR_WORKER_RANGES_MAX = 16 };

typedef struct ofr_worker_range {
    uint32_t begin, end;
    ofr_backend_session *session; /* owned */
    bool tested;
    uint64_t copied_in_tests; /* handoff bytes that the self-test moved */
} ofr_worker_range;

typedef struct ofr_worker_layers {
    const char *device; /* as plans name it; borrowed */
    const ofr_backend *backend;
    ofr_backend_options options; /* but for the range */
    ofr_package *package;
    ofr_model model;
    ofr_worker_range ranges[OFR_WORKER_RANGES_MAX];
    uint32_t n_ranges;
    bool chooses_candidates; /* as the backend's capabilities say of the device */
} ofr_worker_layers;

/* The backend that serves a device of plans. OFR_EUNSUPPORTED: this build has it not. */
int ofr_worker_backend(const char *device, const ofr_backend **ret_backend, ofr_error *err);
/* NULL where the build has no such backend. */
const ofr_backend *ofr_worker_backend_openvino(void);
const ofr_backend *ofr_worker_backend_opencl(void);

/* Opens the package and finds the backend. `options` without model, range and device; what it
 * points to is borrowed for as long as the process lives. */
int ofr_worker_layers_open(ofr_worker_layers *layers, const char *package_directory,
                           const char *device, const ofr_backend_options *options, ofr_error *err);

/* Opens a session for the range unless there is one. */
int ofr_worker_layers_add(ofr_worker_layers *layers, uint32_t begin, uint32_t end, ofr_error *err);
/* The session that runs exactly these layers; NULL: none. */
ofr_backend_session *ofr_worker_layers_find(const ofr_worker_layers *layers, uint32_t begin,
                                            uint32_t end);

/* Runs the golden prompt through every range that was not tested yet, in the last slot of the
 * arena. The layers before and after a range are the CPU backend's, in an arena of its own.
 * `hidden` is a strip of hidden_rows rows. OFR_EDEVICE: what comes out is wrong. */
int ofr_worker_layers_test(ofr_worker_layers *layers, float *hidden, uint32_t hidden_rows,
                           ofr_error *err);

void ofr_worker_layers_describe(const ofr_worker_layers *layers, ofr_backend_capabilities *ret);
/* Sums over the sessions; what tests moved is left out. */
uint64_t ofr_worker_layers_copied(const ofr_worker_layers *layers);
uint64_t ofr_worker_layers_graph_kv(const ofr_worker_layers *layers);

#endif
