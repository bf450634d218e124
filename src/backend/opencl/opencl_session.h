/* What the files of the OpenCL backend share: the session, its buffers and its steps.
 *
 * A step is a kernel object with its arguments set, made on first use and kept: what changes from
 * call to call is in the pass descriptor (kernels/common.cl), so that a step costs one enqueue. */
#ifndef OFR_BACKEND_OPENCL_OPENCL_SESSION_H
#define OFR_BACKEND_OPENCL_OPENCL_SESSION_H

#include "backend/opencl/opencl_backend.h"
#include "backend/opencl/opencl_program.h"
#include "engine/rope.h"

enum {
    OPENCL_NO_VECTOR = -1,     /* 0xffffffff in kernels */
    OPENCL_OUTPUT_ROWS = 32,   /* rows of logits on the device at once */
    OPENCL_PASS_HEADER = 16,   /* words */
    OPENCL_COUNT_IS = 1 << 31, /* "the number itself", see row_count in kernels/common.cl */
    OPENCL_WINDOWS_MAX = 256,
    OPENCL_TILE_TOKENS_MAX = 256, /* of gemm, and a multiple of any */
    OPENCL_TOP_CHUNK = 2048,
    OPENCL_MAX_SPLITS = 64, /* of attention, kernels/attention.cl */
    OPENCL_STAGED_MAX = 32,
    OPENCL_STAGING_BYTES = 8 << 20,
};

/* Words of the descriptor's header. */
enum opencl_pass_word {
    OPENCL_PASS_TOKENS = 0,
    OPENCL_PASS_SPLITS = 2,
    OPENCL_PASS_SPLIT_KEYS = 3,
    OPENCL_PASS_BLOCKS_AT = 5,
    OPENCL_PASS_OUTPUTS_AT = 6,
    OPENCL_PASS_TARGETS_AT = 7,
    OPENCL_PASS_COSINES_AT = 8,
    OPENCL_PASS_SINES_AT = 9,
    OPENCL_PASS_LOCAL_COSINES_AT = 10, /* of the second table of RoPE */
    OPENCL_PASS_LOCAL_SINES_AT = 11,
};

/* A matrix where the device finds it. */
typedef struct opencl_matrix {
    const ofr_tensor *tensor;
    cl_mem data, scales; /* borrowed from the windows; scales is data where there are none */
    uint64_t data_offset, scale_offset; /* bytes */
    uint32_t rows, columns, group;
    uint32_t bias; /* offset in the vectors, OPENCL_NO_VECTOR: none */
} opencl_matrix;

enum opencl_part {
    OPENCL_PART_Q,
    OPENCL_PART_K,
    OPENCL_PART_V,
    OPENCL_PART_O,
    OPENCL_PART_GATE,
    OPENCL_PART_UP,
    OPENCL_PART_DOWN,
    OPENCL_PART_COUNT,
};

/* Steps of a layer, or (HEAD, EMBED, ...) of the model. */
enum opencl_step {
    /* plain */
    OPENCL_STEP_ATTENTION_NORM,
    OPENCL_STEP_MLP_NORM,
    OPENCL_STEP_GEMV,                                        /* + part */
    OPENCL_STEP_GEMM = OPENCL_STEP_GEMV + OPENCL_PART_COUNT, /* + part */
    /* both */
    OPENCL_STEP_STORE_KV = OPENCL_STEP_GEMM + OPENCL_PART_COUNT,
    OPENCL_STEP_ATTENTION_ONE,   /* blocks of one token; stores K and V itself */
    OPENCL_STEP_ATTENTION_BLOCK, /* after STORE_KV */
    OPENCL_STEP_MERGE_ONE,
    OPENCL_STEP_MERGE_BLOCK,
    /* dot, wide */
    OPENCL_STEP_DOT_GEMM,                                                /* + part */
    OPENCL_STEP_QUANTIZE_QKV = OPENCL_STEP_DOT_GEMM + OPENCL_PART_COUNT, /* hidden, norm */
    OPENCL_STEP_QUANTIZE_O,                                              /* attention's result */
    OPENCL_STEP_QUANTIZE_MLP,                                            /* hidden, norm */
    OPENCL_STEP_QUANTIZE_DOWN,                                           /* silu(gate) * up */
    /* dot, narrow: fused; + 1 for several tokens */
    OPENCL_STEP_DOT_QKV,
    OPENCL_STEP_DOT_O = OPENCL_STEP_DOT_QKV + 2,
    OPENCL_STEP_DOT_SWIGLU = OPENCL_STEP_DOT_O + 2,
    OPENCL_STEP_DOT_DOWN = OPENCL_STEP_DOT_SWIGLU + 2,
    OPENCL_STEP_DOT_ATTENTION = OPENCL_STEP_DOT_DOWN + 2, /* result quantized */
    OPENCL_STEP_DOT_PART,                                 /* Q, K, V alone, + 2 * part */
    OPENCL_STEP_ADD_O = OPENCL_STEP_DOT_PART + 6,         /* branch, normed, to the residual */
    OPENCL_STEP_ADD_DOWN,
    OPENCL_STEP_COUNT,
};

/* Steps that the model has once. */
enum opencl_model_step {
    OPENCL_MODEL_STEP_EMBED,
    OPENCL_MODEL_STEP_GATHER,         /* outputs' rows of hidden to `gathered` */
    OPENCL_MODEL_STEP_FINAL_NORM,     /* gathered to normed */
    OPENCL_MODEL_STEP_HEAD_GEMV,      /* plain, from normed */
    OPENCL_MODEL_STEP_HEAD_GEMM,      /* plain */
    OPENCL_MODEL_STEP_QUANTIZE_FINAL, /* gathered, final norm */
    OPENCL_MODEL_STEP_DOT_HEAD,       /* + 1 for several tokens */
    OPENCL_MODEL_STEP_DOT_HEAD_GEMM = OPENCL_MODEL_STEP_DOT_HEAD + 2,
    OPENCL_MODEL_STEP_LOGPROB,
    OPENCL_MODEL_STEP_TOP_K,
    OPENCL_MODEL_STEP_SUM_ROWS,
    OPENCL_MODEL_STEP_FINISH_LOGITS,
    OPENCL_MODEL_STEP_COLLECT_ROWS,
    OPENCL_MODEL_STEP_TOKEN, /* all layers, and the head, for one token */
    OPENCL_MODEL_STEP_COUNT,
};

enum opencl_program {
    OPENCL_PROGRAM_ROWS,
    OPENCL_PROGRAM_ATTENTION_ONE,
    OPENCL_PROGRAM_ATTENTION_BLOCK,
    OPENCL_PROGRAM_PLAIN,                          /* + enum ofr_dtype */
    OPENCL_PROGRAM_DOT = OPENCL_PROGRAM_PLAIN + 5, /* + 2 * enum opencl_dot_type, + 1: several */
    OPENCL_PROGRAM_GEMM = OPENCL_PROGRAM_DOT + 6,  /* + enum opencl_dot_type */
    OPENCL_PROGRAM_TOKEN = OPENCL_PROGRAM_GEMM + 3,
    OPENCL_PROGRAM_COUNT,
};

/* Weights that the byte products take. */
enum opencl_dot_type { OPENCL_DOT_I4, OPENCL_DOT_I8, OPENCL_DOT_I4M, OPENCL_DOT_TYPES };

enum { OPENCL_BY_MATRIX = 0 };

/* Sizes that are tuned for a device. */
typedef struct opencl_tuning {
    uint32_t lanes[2], team_rows[2]; /* gemv for one token, and for several */
    uint32_t tile_tokens, tile_rows; /* gemm */
    /* gemm_units OPENCL_BY_MATRIX: by the matrix extension, "items" are its sub-groups. */
    uint32_t item_tokens, item_rows, gemm_units;
    uint32_t token_items, token_depth, token_loads; /* kernels/token.cl; 0 items: not used */
    uint32_t attention_halves; /* of several tokens: 1: in fp16 (kernels/halves.cl) */
} opencl_tuning;

/* A row of activations quantized for byte products (kernels/common.cl). */
typedef struct opencl_record {
    cl_mem values, scales, squares;
    uint32_t columns;
} opencl_record;

typedef struct opencl_layer {
    opencl_matrix parts[OPENCL_PART_COUNT];
    /* Offsets in the vectors, OPENCL_NO_VECTOR: none. */
    uint32_t attention_norm, mlp_norm;
    uint32_t attention_output_norm, mlp_output_norm; /* of what is added to the residual */
    uint32_t q_norm, k_norm;
    uint32_t rope_half, rope_table, window;
    cl_mem kv;                   /* borrowed from the window that has the layer */
    uint64_t k_offset, v_offset; /* of slot 0's strips in it, in halves */
    cl_kernel steps[OPENCL_STEP_COUNT];
} opencl_layer;

/* Strips of the layers [layer_begin, layer_end), counted from the session's first, in one buffer:
 * of all slots, as the arena has them. */
typedef struct opencl_kv_window {
    cl_mem buffer;
    uint32_t layer_begin, layer_end;
    void *mapped; /* while the host may look at it */
} opencl_kv_window;

/* Where a layer's strips are, as opencl_layer has them. */
typedef struct opencl_strips {
    cl_mem buffer;
    uint64_t k_offset, v_offset;
} opencl_strips;

/* Strips for trying attention, and the layers' own meanwhile. */
typedef struct opencl_scratch {
    cl_mem buffer;
    opencl_strips *strips; /* [n_layers] */
} opencl_scratch;

/* n groups of rows in staging, one after another, and where they belong: rows are to_pitch apart,
 * groups group_pitch. */
typedef struct opencl_staged {
    char *to;
    const char *from;
    size_t bytes, to_pitch, group_pitch;
    uint64_t n, group_rows;
} opencl_staged;

struct ofr_backend_session {
    ofr_backend_options options;
    const ofr_model *model;
    const ofr_model_params *params;
    ofr_opencl_api own_api;
    const ofr_opencl_api *api;
    ofr_opencl_device device;
    bool shared; /* host memory is used in place */
    bool dot;    /* kernel set */
    bool matrix_emulated, halves_emulated;
    enum ofr_opencl_attention attention_wanted;
    char *cache_directory;
    ofr_opencl_compiler compiler;
    cl_context context;
    cl_command_queue queue;
    cl_program programs[OPENCL_PROGRAM_COUNT];
    opencl_tuning tuning;
    ofr_rope rope, rope_local; /* rope_local.half 0: one table for all layers */
    bool normed_outputs;       /* some layer norms what it adds */
    uint32_t heads_per_group, qkv_width, q_width;
    uint32_t key_block, attention_items;
    uint32_t block_rows;      /* most rows of a block of ATTENTION_BLOCK */
    uint32_t split_target;    /* work-groups of attention that splitting aims for */
    bool quantizes_attention; /* a KV head's result is whole units of 32 */
    uint32_t narrow_tokens;   /* as many tokens go through the fused steps */

    /* Weights (opencl_memory.c). */
    cl_mem windows[OPENCL_WINDOWS_MAX];
    uint32_t n_windows;
    void *memory_file; /* mapping of the sealed memory file, NULL: none */
    uint64_t memory_file_bytes;
    cl_mem vectors;
    uint32_t final_norm;
    opencl_matrix embedding, head;
    opencl_layer *layers; /* [layer_end - layer_begin] */
    cl_kernel model_steps[OPENCL_MODEL_STEP_COUNT];

    /* KV. */
    opencl_kv_window *kv_windows;
    uint32_t n_kv_windows;
    uint64_t kv_slot_stride; /* halves */
    uint32_t *mirrored;      /* [n_slots] rows that the mirror holds */
    uint64_t *fingerprints;  /* [n_slots][context] of those rows; mirror only */

    /* Activations, [max_batch_tokens] rows unless noted. */
    cl_mem hidden; /* own_hidden, or a stream over the caller's memory */
    cl_mem own_hidden, normed, qkv, attention, mlp;
    cl_mem branch;            /* what a layer adds, before its norm; [1] without such norms */
    cl_mem gathered;          /* [OUTPUT_ROWS, d_model] */
    cl_mem logits, logprobs;  /* [OUTPUT_ROWS, vocab], [OUTPUT_ROWS] */
    cl_mem partial, counters; /* attention over splits */
    cl_mem chosen[2];         /* candidates of chunks of the logits, in turn */
    cl_mem not_finite; /* [1] not 0: a logit of which candidates were chosen was NaN or infinite */
    uint32_t found_not_finite;            /* fetched after a call for candidates */
    opencl_record input, attended, gated; /* d_model, q_width, d_ff; dot only */
    cl_mem pass;
    uint32_t *pass_host;
    size_t pass_words;
    uint8_t *slot_used;

    /* Host memory that a device of its own memory writes to at full speed; what it wrote goes where
     * it belongs when the queue is finished. NULL where memory is shared. */
    cl_mem staging, collected; /* collected: on the device, as large */
    char *staging_host;
    size_t staging_used;
    opencl_staged staged[OPENCL_STAGED_MAX];
    uint32_t n_staged;

    /* A token whose launch is cut in two: rows of the layers before the last ones travel while
     * those are computed. */
    cl_command_queue early_queue;
    uint32_t early_layers; /* of the call that runs; 0: all at the end */
    cl_event early_event;  /* that they are through */

    /* The residual stream that the caller gave last, bound in place; shared memory only. */
    cl_mem stream;
    void *stream_host, *stream_mapped;
    size_t stream_bytes;

    /* One token in one launch (opencl_token.c). */
    cl_mem token_plan, token_sync, token_heads, token_partial;
    cl_mem token_records[3]; /* between steps: d_model, q_width, d_ff */
    cl_mem token_helped;     /* up's rows that one work-group makes for another */
    uint32_t token_groups;   /* work-groups, all of which run at once; 0: not used */
    uint32_t token_tag;      /* of the next launch's first step */
    uint32_t token_fault;    /* fetched after a launch: work-groups waited in vain */
    bool token_cut;          /* in two launches wherever that can be */

    /* The call that runs. */
    const ofr_forward *call;
    uint32_t n_tokens, n_blocks, n_splits, n_outputs;
    bool all_single;
    cl_int status;      /* of the first failure; sticky: the device is not used again */
    const char *failed; /* what failed */
    ofr_opencl_stats stats;
    bool profiled;
    unsigned tunes; /* sizes to be measured at opening, enum ofr_opencl_autotune */
    void (*measured)(void *context, const char *what, double us); /* NULL: nobody listens */
    void *measured_context;
    ofr_opencl_profile_line profile[OFR_OPENCL_PROFILE_MAX];
    uint32_t n_profile;
};

/* opencl_memory.c: weights and buffers. */
int ofr_opencl_bind_weights(ofr_backend_session *session, ofr_error *err);
int ofr_opencl_make_buffers(ofr_backend_session *session, ofr_error *err);
void ofr_opencl_release_memory(ofr_backend_session *session);
/* One buffer; an error says what for, and what to do. */
int ofr_opencl_make_buffer(ofr_backend_session *session, cl_mem_flags flags, uint64_t bytes,
                           void *host, const char *what, cl_mem *ret_buffer, ofr_error *err);

/* opencl_kv.c */
int ofr_opencl_bind_kv(ofr_backend_session *session, ofr_error *err);
void ofr_opencl_release_kv(ofr_backend_session *session);
/* Zeroes a buffer, in pieces: drivers are slow or fail at filling gigabytes at once. */
void ofr_opencl_clear(ofr_backend_session *session, cl_mem buffer, uint64_t bytes);
/* Room in staging for n rows of `bytes`, which ofr_opencl_unstage copies to `to` (rows to_pitch
 * apart) once they are there; NULL: no room, or no staging. */
char *ofr_opencl_stage(ofr_backend_session *session, void *to, size_t to_pitch, size_t bytes,
                       uint64_t n);
void ofr_opencl_unstage(ofr_backend_session *session);
/* Gives KV to the device before a call, and back to the host after it. */
void ofr_opencl_kv_to_device(ofr_backend_session *session);
void ofr_opencl_kv_to_host(ofr_backend_session *session);
/* Makes session->hidden what the call asks for: the caller's stream in place where memory is
 * shared, else the session's own with the input written into it. */
void ofr_opencl_stream_to_device(ofr_backend_session *session);
void ofr_opencl_stream_to_host(ofr_backend_session *session);

/* opencl_programs.c */
bool ofr_opencl_dot_fits(const ofr_backend_session *session);
int ofr_opencl_build_programs(ofr_backend_session *session, ofr_error *err);
/* Builds what a changed tuning needs again. */
enum opencl_tuned {
    OPENCL_TUNED_GEMV_ONE,
    OPENCL_TUNED_GEMV_SEVERAL,
    OPENCL_TUNED_GEMM,
    OPENCL_TUNED_ATTENTION,
    OPENCL_TUNED_TOKEN,
    OPENCL_TUNED_STEPS, /* what TOKEN does, a launch a step; nothing to build */
};
int ofr_opencl_rebuild(ofr_backend_session *session, enum opencl_tuned what, ofr_error *err);
void ofr_opencl_release_program(ofr_backend_session *session, uint32_t program);
void ofr_opencl_release_kernel(const ofr_backend_session *session, cl_kernel *kernel);
const char *ofr_opencl_type_name(enum ofr_dtype dtype);
/* Of a matrix that ofr_opencl_dot_fits allows. */
enum opencl_dot_type ofr_opencl_dot_type(const ofr_tensor *tensor);
/* The scale of unit u of a row has index u >> shift. */
uint32_t ofr_opencl_scale_shift(const opencl_matrix *matrix);

/* opencl_steps.c */
/* The step's kernel, or NULL after a failure (session->status). `index` counts from layer_begin. */
cl_kernel ofr_opencl_layer_step(ofr_backend_session *session, uint32_t index, uint32_t step);
cl_kernel ofr_opencl_model_step(ofr_backend_session *session, uint32_t step);
/* Offset of the norm that what follows layer `index` begins with; OPENCL_NO_VECTOR: none here. */
uint32_t ofr_opencl_following_norm(const ofr_backend_session *session, uint32_t index);
/* Forgets all steps: their arguments have changed. */
void ofr_opencl_drop_steps(ofr_backend_session *session);
void ofr_opencl_release_steps(ofr_backend_session *session);

/* Notes the first failure of the session. */
void ofr_opencl_note(ofr_backend_session *session, cl_int status, const char *what);
/* The noted failure as an error; 0 if there is none. */
int ofr_opencl_error(const ofr_backend_session *session, ofr_error *err);

/* opencl_tune.c: sizes from the cache directory, or measured on the model's own weights and then
 * kept there. Without a result the sizes stay as they are: tuning never fails an open. True if
 * the cache or a measurement says whether one launch for all layers is faster. */
bool ofr_opencl_tune(ofr_backend_session *session, unsigned sizes);
/* Sends a descriptor that has a number of tokens and nothing else. */
void ofr_opencl_describe_tokens(ofr_backend_session *session, uint32_t n);

/* opencl_matrix.c: sizes for the matrix extension, where the device has it. Writes the index-th of
 * them that runs into the gemm's part of `tuning`; false: there is none. */
bool ofr_opencl_matrix_size(const ofr_backend_session *session, uint32_t index,
                            opencl_tuning *tuning);
bool ofr_opencl_matrix_runs(const ofr_backend_session *session, const opencl_tuning *tuning);
/* Whether products by the session's sizes, which are the extension's, are those by `tiles`, for n
 * tokens of made-up input; of each type of weights. The activations' buffers are overwritten. */
bool ofr_opencl_matrix_agrees(ofr_backend_session *session, const opencl_tuning *tiles, uint32_t n);

/* opencl_attention.c: whether the device and the model's heads allow attention in fp16, and whether
 * it computes what fp32 does, in each of the session's layers with made-up input. The activations'
 * buffers are overwritten; the steps of attention are to be rebuilt. */
bool ofr_opencl_halves_run(const ofr_backend_session *session);
bool ofr_opencl_halves_agree(ofr_backend_session *session);
/* Describes a call of n tokens at the beginning of a slot, with heads of made-up input, and gives
 * all layers strips for it that are not the caller's; false: it cannot. */
bool ofr_opencl_scratch_begin(ofr_backend_session *session, uint32_t n,
                              opencl_scratch *ret_scratch);
void ofr_opencl_scratch_end(ofr_backend_session *session, opencl_scratch *scratch);

/* opencl_forward.c: a checked call. */
int ofr_opencl_run(ofr_backend_session *session, const ofr_forward *call, ofr_error *err);
/* Without blocking: to be there when the call's queue is finished. */
void ofr_opencl_fetch(ofr_backend_session *session, cl_mem from, size_t bytes, void *to);
/* One tuned step of a layer for n tokens, as the forward pass starts it; for measurements. */
void ofr_opencl_run_tuned(ofr_backend_session *session, uint32_t layer, enum opencl_tuned what,
                          uint32_t n);

/* Fills and sends the descriptor of session->call. */
void ofr_opencl_describe(ofr_backend_session *session);
/* Q, K and V of a layer, for many tokens, from the hidden states. */
void ofr_opencl_run_heads(ofr_backend_session *session, uint32_t layer, uint32_t n);
/* From those to attention's result: a float row a token, or (into_record, single tokens) quantized.
 */
void ofr_opencl_attend(ofr_backend_session *session, uint32_t layer, bool into_record);
/* Products of the first layer that store what they make, and (head_rows above 0) logits of as many
 * rows, from the hidden states of n tokens: into qkv, mlp and logits. */
void ofr_opencl_run_stored(ofr_backend_session *session, uint32_t n, uint32_t head_rows);

/* opencl_candidates.c: chooses the k first of each of the first rows of session->logits, and
 * fetches them, [rows][k]. */
void ofr_opencl_choose(ofr_backend_session *session, uint32_t rows, uint32_t k, ofr_candidate *ret);
/* Fetches, and after the queue is finished tells and forgets, whether all logits that candidates
 * were chosen from were finite. */
void ofr_opencl_fetch_not_finite(ofr_backend_session *session);
bool ofr_opencl_take_finite(ofr_backend_session *session);

/* opencl_token.c: a token in one launch. Prepares what it needs, or leaves token_groups 0 where the
 * model or the device is not made for it; `any_device`: also where only one work-group is sure to
 * run. Fails only for want of memory. */
int ofr_opencl_token_prepare(ofr_backend_session *session, bool any_device, ofr_error *err);
int ofr_opencl_token_build(ofr_backend_session *session, ofr_error *err);
cl_kernel ofr_opencl_token_step(ofr_backend_session *session);
/* Starts it for the call's only token; rehearsal: without attention, whose KV is left alone. */
void ofr_opencl_token_launch(ofr_backend_session *session, bool with_head, bool rehearsal);
/* Whether that launch has put the call's new rows of K and V together in `collected`. */
bool ofr_opencl_token_collected(const ofr_backend_session *session);
/* After the queue is finished: false if work-groups waited in vain and the call is to be made
 * again; either way such launches are not used any more. */
bool ofr_opencl_token_held(ofr_backend_session *session);

/* Enqueues x, y, z work-groups of `items` work-items (the first dimension). Returns the nanoseconds
 * that it took where kernels are timed. */
uint64_t ofr_opencl_launch(ofr_backend_session *session, cl_kernel kernel, uint32_t items,
                           uint32_t x, uint32_t y, uint32_t z);
/* The same, one-dimensional, whose end another queue can wait for; it is not timed. No event where
 * something failed before. */
void ofr_opencl_launch_event(ofr_backend_session *session, cl_kernel kernel, uint32_t items,
                             uint32_t x, cl_event *ret_event);

/* Sets an argument of a kernel; nothing where it is NULL. */
void ofr_opencl_set_u32(ofr_backend_session *session, cl_kernel kernel, cl_uint index,
                        uint32_t value);

/* Adds to a line of the profile. */
void ofr_opencl_note_time(ofr_backend_session *session, const char *name, uint64_t launches,
                          uint64_t ns);

/* Generated from kernels/. */
extern const char ofr_opencl_source_common[], ofr_opencl_source_plain[], ofr_opencl_source_rows[],
    ofr_opencl_source_attention[], ofr_opencl_source_halves[], ofr_opencl_source_quantize[],
    ofr_opencl_source_dot[], ofr_opencl_source_matrix[], ofr_opencl_source_token_exchange[],
    ofr_opencl_source_token_products[], ofr_opencl_source_token_attention[],
    ofr_opencl_source_token[];

#endif
