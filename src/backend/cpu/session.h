/* What the files of the CPU backend share: the session, its buffers, and the stages of a pass.
 *
 * A pass is one forward call. It runs as one parallel region: every thread goes through the same
 * stages, takes chunks of each from the pool's counter, and meets the others at the barrier that
 * ends it. */
#ifndef OFR_BACKEND_CPU_SESSION_H
#define OFR_BACKEND_CPU_SESSION_H

#include "backend/cpu/kernels.h"
#include "base/thread_pool.h"
#include "engine/backend.h"
#include "engine/rope.h"

enum {
    OFR_CPU_LOGPROB_ROWS = 32, /* tokens whose logits are held at once for LOGPROBS */
    OFR_CPU_QUERY_ROWS = 96,   /* query rows (tokens x heads of a group) scored at once */
    OFR_CPU_BLOCK_PARTS = 4,   /* so many times as many are in a block at most */
    OFR_CPU_SPLIT_TASKS = 4,   /* attention tasks per thread that splitting aims for */
};

/* One thread's own memory; all pointers into the session's arena. */
typedef struct cpu_scratch {
    void *gemm;              /* what a gemm asks for */
    float *products[2];      /* [max_batch_tokens][GEMM_ROWS_MAX]: gate and up at once */
    ofr_cpu_activations row; /* one row: decoding quantizes redundantly instead of waiting */
    float *normed;           /* [widest] */
    /* Attention: [QUERY_ROWS][D], [QUERY_ROWS][KEY_BLOCK], [rows of a block][D padded]. */
    float *query, *scores, *out;
    /* The same in words (kernels.h): queries of a block, weights, a block of keys and of values. */
    int16_t *query_words, *weights, *keys, *values;
} cpu_scratch;

/* One token of a pass. */
typedef struct cpu_token {
    uint32_t slot, position;
} cpu_token;

/* How attention of single tokens is cut into tasks. */
typedef struct cpu_split {
    uint32_t groups; /* of heads, that one task takes */
    uint32_t keys;   /* that one task covers: a multiple of KEY_BLOCK */
    uint32_t n;      /* parts of the longest context */
} cpu_split;

struct ofr_backend_session {
    ofr_backend_options options;
    const ofr_model *model;
    const ofr_model_params *params;
    const ofr_cpu_kernels *kernels;
    ofr_thread_pool *pool;
    ofr_rope rope;
    ofr_rope rope_local; /* of windowed layers; half 0: as `rope` */
    float residual_scale;
    uint32_t n_threads;
    uint32_t heads_per_group; /* n_heads / n_kv_heads */
    uint32_t query_rows;      /* rows scored at once: a multiple of heads_per_group */
    size_t widest;            /* longest row of activations */
    bool has_dense;           /* some weights are f16 or f32 */
    void *memory;             /* everything below, owned */
    cpu_scratch *scratch;     /* [n_threads] */
    ofr_cpu_activations rows; /* [max_batch_tokens, widest] */
    cpu_token *tokens;        /* [max_batch_tokens] */
    float *hidden;     /* [n_tokens, d_model] the residual stream: the caller's or own_hidden */
    float *own_hidden; /* [max_batch_tokens, d_model] */
    uint64_t copied;   /* bytes of the caller's streams */
    float *normed;     /* [max_batch_tokens, d_model] only for dense weights */
    float *q, *k, *v;  /* [max_batch_tokens, heads * head_dim] */
    float *attention;  /* [max_batch_tokens, n_heads * head_dim] */
    float *mlp;        /* [max_batch_tokens, d_ff] */
    float *cosines, *sines;             /* [max_batch_tokens, rope.half] */
    float *local_cosines, *local_sines; /* the same of rope_local */
    float *branch;       /* [max_batch_tokens, d_model] only where a layer's outputs are normed */
    float *partial;      /* attention over parts of the context, cpu_partial_stride each */
    uint8_t *slot_used;  /* [n_slots] */
    float *block_logits; /* [LOGPROB_ROWS, vocab], owned, made by the first LOGPROBS */
    /* The pass that runs. */
    const ofr_forward *pass;
    uint32_t n_tokens;
    bool all_single;                 /* every segment is one token */
    cpu_split split, split_windowed; /* when all_single; of layers with a window */
};

/* What a stage of matrix products reads. */
typedef struct cpu_input {
    const float *x; /* [n, stride] */
    size_t stride;
    const float *norm; /* RMSNorm weight applied first, or NULL */
} cpu_input;

enum cpu_sink { CPU_SINK_STORE, CPU_SINK_ADD, CPU_SINK_SWIGLU };

typedef struct cpu_product {
    const ofr_linear *linear;
    const ofr_linear *gated_up; /* with it: y = silu(linear x) * (gated_up x) */
    enum cpu_sink sink;         /* SWIGLU: y = silu(y) * (linear x) */
    float *y;
    size_t y_stride;
} cpu_product;

/* y = products of the n rows of the input; ends with a barrier. Consecutive products whose weights
 * want the same activations share their quantization. */
void ofr_cpu_linear(ofr_backend_session *session, uint32_t thread, const cpu_input *input,
                    uint32_t n, const cpu_product *products, uint32_t n_products);
/* Norms of heads and RoPE on q and k, k and v into the strips, attention into session->attention;
 * ends with a barrier.
 */
void ofr_cpu_attention(ofr_backend_session *session, uint32_t thread, uint32_t layer);
/* Chooses how attention is split for the pass. */
void ofr_cpu_attention_plan(ofr_backend_session *session);
/* Fills the buffers' sizes: floats of `partial`. */
size_t ofr_cpu_partial_floats(const ofr_backend_session *session);

/* The whole pass, on every thread. `context` is the session. */
void ofr_cpu_forward_region(void *context, uint32_t thread);

#endif
