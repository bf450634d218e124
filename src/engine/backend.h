/* The interface of a compute backend: one vtable, `static const`, every slot written.
 *
 * A backend runs a contiguous range of layers of one model for batches of sequence segments.
 * Prefill and decode are the same call with another token count. KV lives in an arena that the
 * caller owns (kv.h); a backend reads and writes it in place and keeps no sequence state of its
 * own, so that any backend can continue where another stopped.
 *
 * A session belongs to one thread at a time. No slot may abort or exit; none may allocate or lock
 * in `forward` once it has seen its largest batch. */
#ifndef OFR_ENGINE_BACKEND_H
#define OFR_ENGINE_BACKEND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/candidates.h"
#include "engine/kv.h"
#include "engine/model.h"

enum { OFR_BACKEND_INTERFACE_VERSION = 2 };

typedef struct ofr_backend_capabilities {
    char device_name[128];    /* "AMD EPYC ..., 2 threads" */
    char kernels[64];         /* what runs: "avx512-vnni" */
    bool free_shapes;         /* any token count; otherwise only those of `chunks` */
    uint32_t chunks[16];      /* static chunk ladder, ascending, 0-terminated */
    bool binds_host_pointers; /* weights and KV are used in place */
    uint64_t memory_bytes;    /* memory of the device; 0: host memory */
    uint32_t chunk_preferred; /* prefill chunk that is fastest; 0: the longest */
    bool chooses_candidates;  /* OFR_FORWARD_OUTPUT_CANDIDATES is taken */
} ofr_backend_capabilities;

typedef struct ofr_backend_options {
    const ofr_model *model; /* borrowed until close */
    /* [begin, end); the whole model: 0, n_layers. Empty at 0: the embedding only; empty at
     * n_layers: the head only. */
    uint32_t layer_begin, layer_end;
    ofr_kv_layout kv_layout;
    void *kv_arena;   /* kv_layout.total_bytes, 64-byte aligned at least; borrowed until close */
    uint32_t threads; /* 0: as many as measure best */
    uint32_t max_batch_tokens; /* most tokens of one forward call, all segments together */
    const char *kernels; /* kernel set by name, as capabilities.kernels names it; NULL: the best */
    const char *device;  /* as plans name it ("opencl:1"); NULL: the backend's first or only one */
    /* Adds 1 after every layer (or compiled block), so that a watchdog can tell slow from hung; may
     * lie in shared memory. NULL: nobody watches. */
    _Atomic uint64_t *progress;
    /* Not 0 while something is made ready for its first use (a graph is compiled): it takes long
     * and has no steps, which a watchdog must know. NULL: nobody watches. */
    _Atomic uint32_t *preparing;
} ofr_backend_options;

/* Consecutive new tokens of one sequence. Rows [position, position + n_tokens) of the slot's strips
 * are written; rows [0, position) are read. */
typedef struct ofr_segment {
    uint32_t slot;
    uint32_t position;
    uint32_t n_tokens; /* at least 1 */
} ofr_segment;

enum ofr_forward_output {
    OFR_FORWARD_OUTPUT_NONE,     /* fill the KV strips only */
    OFR_FORWARD_OUTPUT_LAST,     /* logits of each segment's last token: [n_segments, vocab] */
    OFR_FORWARD_OUTPUT_ALL,      /* logits of every token: [n_total, vocab] */
    OFR_FORWARD_OUTPUT_LOGPROBS, /* natural-log probability of targets[i] after token i: [n_total];
                                    a target of -1 gives 0 */
    OFR_FORWARD_OUTPUT_HIDDEN_SUM, /* the hidden states of a segment's tokens after the last norm,
                                      added up, in `logits`: [n_segments, d_model] */
    /* The n_candidates first logits of each segment's last token, as ofr_candidates_select orders
     * them: [n_segments, n_candidates]. Only where the backend has chooses_candidates: others give
     * LAST, from which the caller chooses. */
    OFR_FORWARD_OUTPUT_CANDIDATES,
};

typedef struct ofr_forward {
    const ofr_segment *segments; /* [n_segments] */
    uint32_t n_segments;
    const int32_t *tokens; /* [n_total] for layer_begin == 0, else unused */
    /* Residual streams, fp32 [n_total, d_model]: in for layer_begin > 0, out if layer_end <
     * n_layers, else unused. Both have room for hidden_rows rows (0: n_total), of which a backend
     * may overwrite any; they may be the same buffer, which is then worked on in place. */
    float *hidden_in;
    float *hidden_out;
    uint32_t hidden_rows;
    enum ofr_forward_output output; /* only for layer_end == n_layers */
    float *logits;                  /* LAST, ALL, HIDDEN_SUM */
    const int32_t *targets;         /* LOGPROBS: [n_total] */
    float *logprobs;                /* LOGPROBS: [n_total] */
    uint32_t n_candidates;          /* CANDIDATES: 1 to OFR_CANDIDATES_MAX */
    ofr_candidate *candidates;      /* CANDIDATES: [n_segments, n_candidates] */
    bool *ret_finite;               /* CANDIDATES: whether all logits of the rows were finite */
} ofr_forward;

typedef struct ofr_backend_session ofr_backend_session; /* each backend's own */

typedef struct ofr_backend {
    uint32_t interface_version; /* OFR_BACKEND_INTERFACE_VERSION */
    const char *name;           /* as plans name it: "cpu" */
    /* Can this backend run here? OFR_EUNSUPPORTED with the reason otherwise. */
    int (*probe)(ofr_backend_capabilities *ret_capabilities, ofr_error *err);
    int (*open)(const ofr_backend_options *options, ofr_backend_session **ret_session,
                ofr_error *err);
    /* Validates everything in `forward` against the options before any work. */
    int (*forward)(ofr_backend_session *session, const ofr_forward *forward, ofr_error *err);
    /* What the open session can: the device it runs on, its ladder. NULL: as `probe` says. */
    void (*describe)(const ofr_backend_session *session, ofr_backend_capabilities *ret);
    /* Bytes moved between strips (or hidden streams) and the backend's own buffers since opening.
     * NULL: always 0. */
    uint64_t (*handoff_bytes_copied)(const ofr_backend_session *session);
    /* Bytes of K and V that the device's own graphs converted or moved since opening. NULL: 0. */
    uint64_t (*graph_kv_bytes)(const ofr_backend_session *session);
    /* Accepts NULL. */
    void (*close)(ofr_backend_session *session);
} ofr_backend;

#endif
