/* What a session of the OpenVINO backend holds. Internal to src/backend/openvino. */
#ifndef OFR_BACKEND_OPENVINO_SESSION_H
#define OFR_BACKEND_OPENVINO_SESSION_H

#include "backend/openvino/openvino_backend.h"
#include "backend/openvino/ov_runtime.h"
#include "engine/rope.h"
#include "graph/decoder.h"
#include "graph/ladder.h"

enum {
    OV_EMBED_ROWS = 64, /* rows that the CPU backend embeds at a time */
    OV_HEAD_ROWS = 16,  /* rows of logits at a time */
    OV_DEVICE_MAX = 32,
};

/* Norms of a layer, as inputs of its graph. */
enum {
    OV_NORM_ATTENTION,
    OV_NORM_MLP,
    OV_NORM_Q,
    OV_NORM_K,
    OV_NORM_ATTENTION_OUT,
    OV_NORM_MLP_OUT,
    OV_NORMS
};

/* What a graph is told of positions, each NULL where the model has no use for it. A layer that sees
 * a window takes its past rows from `begin` on, and has masks of its own. */
typedef struct ov_positions {
    ofr_rope *rope;          /* NULL: that of the other layers */
    float *cosines, *sines;  /* [chunk, dims] as the graphs take them */
    float *mask, *mask_past; /* [chunk, chunk]; [chunk, past] for the longest of each */
    float *past_rows;        /* [past] */
    uint32_t window;         /* 0: sees all */
    uint32_t begin, past;    /* rows [begin, begin + past) of the strips are bound */
    uint32_t mask_tokens;    /* T that `mask` is made for; 0: none */
} ov_positions;

/* A compiled graph and the numbers of its ports; -1: it has no such port. */
typedef struct ov_block {
    ofr_ov_graph *graph; /* NULL: not compiled yet, or given up for room */
    uint64_t bytes;      /* what it works in, about */
    uint64_t used_in;    /* the chunk, counted from 1 */
    int hidden, hidden_out;
    int positions[5]; /* cos, sin, mask, mask_past, past_rows */
    int past_key, past_value, key, value;
    int norms[OV_NORMS];
    int weights[OFR_GRAPH_MATRICES], scales[OFR_GRAPH_MATRICES], biases[OFR_GRAPH_MATRICES];
} ov_block;

typedef struct ov_whole {
    ofr_ov_graph *graph;
    uint32_t tokens, past;
    bool failed; /* not tried again */
    int ids, beams, last, logits;
    int positions[5];
    int window[4]; /* cos_local, sin_local, mask_window, mask_past_window */
    int *past_keys, *past_values, *keys, *values; /* [n_layers] each, one allocation */
} ov_whole;

struct ofr_backend_session {
    ofr_backend_options options;
    const ofr_model *model;
    const ofr_model_params *params;
    char device[OV_DEVICE_MAX]; /* as OpenVINO names it: "NPU" */
    char precision[8];
    char threads[12];
    bool use_whole;
    ofr_ov *ov;
    ofr_graph_source source;
    const void *weights; /* the package's mapping */
    size_t weights_size;
    ofr_ladder chunks, pasts;       /* those that package and arena allow */
    double costs[OFR_LADDER_MAX];   /* of a chunk of each length: see ofr_openvino_learn_cost */
    double guesses[OFR_LADDER_MAX]; /* in tokens */
    double seconds[OFR_LADDER_MAX]; /* the least that was measured; 0: not yet */
    uint32_t *kinds;                /* [n_layers] */
    uint32_t n_kinds;
    ov_block *blocks;                    /* [n_kinds][chunks.n][pasts.n] */
    uint64_t blocks_bytes;               /* of those that are compiled */
    ov_whole wholes[OFR_LADDER_MAX + 1]; /* one per chunk */
    ofr_rope rope, rope_local;
    const ofr_backend *cpu;
    ofr_backend_session *embed, *head;
    float *hidden[2];       /* [chunk, d_model]; the residual stream goes from one to the other */
    float *rope_rows;       /* [2, chunk, dims / 2] as rope.h gives them */
    ov_positions at[2];     /* [1]: of windowed layers */
    float *last_rows;       /* [n_slots, d_model]: what LAST needs of each segment */
    int64_t *ids;           /* [chunk] */
    int64_t *last_id;       /* [1] */
    float *logits;          /* [vocab] of a whole graph */
    float *partial_sum;     /* [d_model] */
    uint8_t *last_by_whole; /* [n_slots]: a whole graph gave the logits already */
    uint8_t *slot_used;     /* [n_slots] */
    void *memory;           /* all of these */
    uint64_t copied;
    uint64_t graph_kv_bytes;
    ofr_openvino_figures figures;
};

/* Compiles on first use. The pointers stay valid until the session is closed. */
int ofr_openvino_block(ofr_backend_session *session, uint32_t kind, uint32_t chunk, uint32_t past,
                       ov_block **ret_block, ofr_error *err);
/* The whole graph for a chunk at a position; OFR_ENOENT: there is none that fits. */
int ofr_openvino_whole(ofr_backend_session *session, uint32_t tokens, uint32_t position,
                       ov_whole **ret_whole, ofr_error *err);
void ofr_openvino_graphs_done(ofr_backend_session *session);
/* A chunk of `tokens` took this long, nothing compiled: prompts are covered by what was measured,
 * and guesses only for lengths that never ran. The least time of a length counts: what disturbs
 * makes a chunk slower, and a length that looks slow is not run again, so that a mean would never
 * learn better. */
void ofr_openvino_learn_cost(ofr_backend_session *session, uint32_t tokens, double seconds);

/* One segment: `first` is its first row in the batch. */
int ofr_openvino_run_segment(ofr_backend_session *session, const ofr_forward *forward,
                             uint32_t segment, uint32_t first, ofr_error *err);
/* Logits of OFR_FORWARD_OUTPUT_LAST from last_rows. */
int ofr_openvino_run_head(ofr_backend_session *session, float *hidden, uint32_t n,
                          const ofr_forward *what, ofr_error *err);

#endif
