/* The OpenCL backend: the forward pass of the llama family on a GPU, or on any OpenCL device.
 *
 * Kernel sets, for ofr_backend_options.kernels:
 *   "dot"    int8 activations in units of 32, byte products (dp4a, cl_khr_integer_dot_product; in
 *            plain C where the device has neither), fused: five launches a layer in decoding, or
 *            one for all layers where the device runs all work-groups of a launch at once
 *   "plain"  fp32 activations, any weights, no extensions
 * NULL takes "dot" where the device has byte products and the model is quantized, else "plain".
 *
 * A device that shares host memory binds the weights' mapping and the KV arena in place; where it
 * refuses the read-only mapping, the weights are moved once into a sealed memory file. Others get
 * one copy of the weights and a mirror of the KV of their layers: rows that the host has and they
 * lack go up, new rows come down, both counted by handoff_bytes_copied. Hidden states of a layer
 * range are worked on in place too where memory is shared: what a call gave as hidden_in or
 * hidden_out must stay mapped until another call gives other memory or the session is closed. */
#ifndef OFR_BACKEND_OPENCL_OPENCL_BACKEND_H
#define OFR_BACKEND_OPENCL_OPENCL_BACKEND_H

#include "backend/opencl/opencl_device.h"
#include "engine/backend.h"

/* The table; static const, valid for ever. `probe` describes the first device. */
const ofr_backend *ofr_opencl_backend(void);

/* As `probe`, for the device of that name ("opencl:1"; NULL: the first). */
int ofr_opencl_probe(const char *device, ofr_backend_capabilities *ret_capabilities,
                     ofr_error *err);

enum ofr_opencl_memory {
    OFR_OPENCL_MEMORY_AUTO,     /* as the device says */
    OFR_OPENCL_MEMORY_SHARED,   /* in place */
    OFR_OPENCL_MEMORY_DISCRETE, /* upload and mirror, also where memory is shared */
};

/* How single tokens go through the layers. */
enum ofr_opencl_launches {
    OFR_OPENCL_LAUNCHES_AUTO,  /* in one launch where tuning measured that it is faster */
    OFR_OPENCL_LAUNCHES_STEPS, /* a launch a step */
    OFR_OPENCL_LAUNCHES_TOKEN, /* in one launch, with one work-group where no more are sure to run
                                */
    OFR_OPENCL_LAUNCHES_CUT,   /* the same in two wherever that can be, for tests */
};

/* Arithmetic of attention of several tokens. */
enum ofr_opencl_attention {
    OFR_OPENCL_ATTENTION_AUTO, /* fp16 where tuning measured that it is faster and near enough */
    OFR_OPENCL_ATTENTION_F32,
    OFR_OPENCL_ATTENTION_F16, /* OFR_EUNSUPPORTED where the device or the heads do not allow it */
};

enum ofr_opencl_autotune {
    OFR_OPENCL_AUTOTUNE_GEMV = 1 << 0,      /* products of few tokens */
    OFR_OPENCL_AUTOTUNE_TOKEN = 1 << 1,     /* of one launch for all layers */
    OFR_OPENCL_AUTOTUNE_GEMM = 1 << 2,      /* products of many tokens */
    OFR_OPENCL_AUTOTUNE_ATTENTION = 1 << 3, /* of several tokens: fp32 or fp16 */
    OFR_OPENCL_AUTOTUNE_PRODUCTS = OFR_OPENCL_AUTOTUNE_GEMV | OFR_OPENCL_AUTOTUNE_GEMM,
    OFR_OPENCL_AUTOTUNE_ALL =
        OFR_OPENCL_AUTOTUNE_PRODUCTS | OFR_OPENCL_AUTOTUNE_TOKEN | OFR_OPENCL_AUTOTUNE_ATTENTION,
};

/* What the table's `open` decides by itself. */
typedef struct ofr_opencl_options {
    const ofr_opencl_api *api; /* NULL: load the ICD loader; else borrowed until close */
    enum ofr_opencl_memory memory;
    const char *cache_directory; /* NULL: the user's; "": none */
    bool profile;                /* time every kernel; slower, for ofr_opencl_profile */
    unsigned autotune; /* enum ofr_opencl_autotune: sizes to measure where the cache has none */
    enum ofr_opencl_launches launches;
    enum ofr_opencl_attention attention;
    /* For tests: work-items of a sub-group, 8 or 16, of a matrix extension that is emulated, 0: the
     * device's own; and whether it is used untuned, where there is one. */
    uint32_t emulated_matrix_lanes;
    bool matrix_untuned;
    bool emulated_halves; /* for tests: fp16 arithmetic emulated, also where the device has it */
    /* Called with what autotuning measured; NULL: nobody listens. */
    void (*measured)(void *context, const char *what, double us);
    void *measured_context;
} ofr_opencl_options;

int ofr_opencl_open(const ofr_backend_options *options, const ofr_opencl_options *opencl,
                    ofr_backend_session **ret_session, ofr_error *err);

/* Counters since opening. */
typedef struct ofr_opencl_stats {
    const char *kernels;                 /* "dot" or "plain" */
    uint64_t weights_in_place;           /* bytes bound from the package's mapping */
    uint64_t weights_copied;             /* bytes uploaded, or moved into the memory file */
    uint64_t kv_uploaded, kv_downloaded; /* bytes; 0 where memory is shared */
    uint64_t hidden_copied;              /* bytes of hidden states that were not used in place */
    uint64_t outputs_fetched; /* bytes of logits, candidates, log-probabilities and hidden sums */
    uint64_t launches;        /* kernels enqueued */
    uint32_t program_builds, program_cache_hits;
    /* "gemv 128x4, 64x4; gemm 128x128 by 8x8, 2 units": lanes x rows of a team; "matrix" instead of
     * "gemm" where the matrix extension does that; "attention f32" or "f16". */
    char tuning[128];
} ofr_opencl_stats;

void ofr_opencl_session_stats(const ofr_backend_session *session, ofr_opencl_stats *ret_stats);

/* Of a session opened with `profile`: the time that kernels took on the device since opening, by
 * name, into ret_lines (at most `capacity`); returns their number. */
typedef struct ofr_opencl_profile_line {
    char kernel[48];
    uint64_t launches, device_ns;
} ofr_opencl_profile_line;
enum { OFR_OPENCL_PROFILE_MAX = 32 };
uint32_t ofr_opencl_profile(const ofr_backend_session *session, ofr_opencl_profile_line *ret_lines,
                            uint32_t capacity);

#endif
