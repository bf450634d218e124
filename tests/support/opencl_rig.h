/* What the tests of the OpenCL backend share: a random model, an arena, sessions, comparisons. */
#ifndef OFR_TESTS_SUPPORT_OPENCL_RIG_H
#define OFR_TESTS_SUPPORT_OPENCL_RIG_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/opencl/opencl_backend.h"
#include "reference/reference.h"
#include "support/memory_model.h"

enum { RIG_CONTEXT = 320, RIG_CHUNK = 64, RIG_SLOTS = 3 };

typedef struct opencl_rig {
    memory_model *model;
    ofr_kv_layout layout;
    void *arena;
    ofr_backend_session *session;
} opencl_rig;

/* Drivers and compilers keep what they allocated until the process ends. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libpocl\nleak:libLLVM\nleak:libclang\nleak:libOpenCL\nleak:libnvidia-opencl\n"
           "leak:libllvmspirv\nleak:<unknown module>\n";
}

static inline void rig_check(int result, const ofr_error *err)
{
    if (result != 0) {
        fail_msg("code %d: %s", result, err->text);
    }
}

static inline ofr_backend_options rig_options(opencl_rig *rig, const char *kernels)
{
    return (ofr_backend_options){.model = &rig->model->model,
                                 .layer_end = rig->model->params.n_layers,
                                 .kv_layout = rig->layout,
                                 .kv_arena = rig->arena,
                                 .max_batch_tokens = RIG_CHUNK,
                                 .kernels = kernels};
}

/* An arena for `context` tokens a slot, instead of what the rig had. Rows that no token wrote hold
 * garbage that is finite, as the layout promises. */
static inline void rig_arena(opencl_rig *rig, uint32_t context)
{
    ofr_error err = {0};
    free(rig->arena);
    rig_check(
        ofr_kv_layout_init(&rig->layout, &rig->model->params, RIG_SLOTS, context, RIG_CHUNK, &err),
        &err);
    rig->arena = aligned_alloc(4096, rig->layout.total_bytes);
    assert_non_null(rig->arena);
    uint16_t *halves = rig->arena;
    for (size_t i = 0; i < rig->layout.total_bytes / 2; i++) {
        halves[i] = 0x7bff; /* 65504 */
    }
}

static inline void rig_model_with(opencl_rig *rig, const memory_model_options *options,
                                  const memory_model_features *features)
{
    *rig = (opencl_rig){.model = memory_model_new_with(options, features)};
    rig_arena(rig, RIG_CONTEXT);
}

static inline void rig_model(opencl_rig *rig, const memory_model_options *options)
{
    rig_model_with(rig, options, &(memory_model_features){0});
}

static inline ofr_backend_session *rig_open_launching(const ofr_backend_options *options,
                                                      enum ofr_opencl_memory memory,
                                                      enum ofr_opencl_launches launches)
{
    ofr_error err = {0};
    ofr_backend_session *session = NULL;
    ofr_opencl_options opencl = {.memory = memory, .cache_directory = "", .launches = launches};
    int result = ofr_opencl_open(options, &opencl, &session, &err);
    bool one_launch = options->model->params->head_dim % 32 == 0;
    for (uint32_t i = options->layer_begin; i < options->layer_end; i++) {
        one_launch = one_launch && options->model->layers[i].attention_output_norm == NULL;
    }
    if (launches >= OFR_OPENCL_LAUNCHES_TOKEN && !one_launch) { /* not made for this model */
        assert_int_equal(result, OFR_EUNSUPPORTED);
        opencl.launches = OFR_OPENCL_LAUNCHES_STEPS;
        result = ofr_opencl_open(options, &opencl, &session, &err);
    }
    rig_check(result, &err);
    return session;
}

static inline ofr_backend_session *rig_open(const ofr_backend_options *options,
                                            enum ofr_opencl_memory memory)
{
    return rig_open_launching(options, memory, OFR_OPENCL_LAUNCHES_AUTO);
}

static inline void rig_done(opencl_rig *rig)
{
    ofr_opencl_backend()->close(rig->session);
    free(rig->arena);
    memory_model_free(rig->model);
}

static inline void rig_run(ofr_backend_session *session, const ofr_forward *forward)
{
    ofr_error err = {0};
    rig_check(ofr_opencl_backend()->forward(session, forward, &err), &err);
}

static inline void rig_segment(ofr_backend_session *session, uint32_t slot, uint32_t position,
                               uint32_t n, const int32_t *tokens, enum ofr_forward_output output,
                               float *logits)
{
    ofr_segment segment = {slot, position, n};
    ofr_forward forward = {.segments = &segment,
                           .n_segments = 1,
                           .tokens = tokens + position,
                           .output = output,
                           .logits = logits};
    rig_run(session, &forward);
}

static inline int32_t *rig_tokens(uint32_t n, uint32_t vocab)
{
    int32_t *tokens = malloc(n * sizeof *tokens);
    assert_non_null(tokens);
    uint64_t state = 7;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        tokens[i] = (int32_t)((state >> 33) % vocab);
    }
    return tokens;
}

static inline float *rig_floats(size_t n)
{
    float *x = calloc(n, sizeof *x);
    assert_non_null(x);
    return x;
}

/* Root mean square of the difference over that of what was expected. */
static inline double rig_error(const float *got, const float *expected, size_t n)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)expected[i];
        difference += d * d;
        size += (double)expected[i] * (double)expected[i];
    }
    return sqrt(difference / size);
}

static inline void rig_near(const float *got, const float *expected, size_t n, double limit,
                            const char *what)
{
    double error = rig_error(got, expected, n);
    if (!(error <= limit)) {
        fail_msg("%s: relative error %.3g is above %.3g", what, error, limit);
    }
}

/* Mean Kullback-Leibler divergence of rows of logits: at most 1e-3. */
static inline void rig_same_predictions(const float *got, const float *expected, uint32_t rows,
                                        uint32_t vocab)
{
    double total = 0;
    for (uint32_t t = 0; t < rows; t++) {
        const float *a = expected + (size_t)t * vocab, *b = got + (size_t)t * vocab;
        double sum_a = 0, sum_b = 0;
        for (uint32_t v = 0; v < vocab; v++) {
            sum_a += exp((double)a[v]);
            sum_b += exp((double)b[v]);
        }
        for (uint32_t v = 0; v < vocab; v++) {
            double p = (double)a[v] - log(sum_a), q = (double)b[v] - log(sum_b);
            total += exp(p) * (p - q) / rows;
        }
    }
    if (!(total <= 1e-3)) {
        fail_msg("divergence %.3g of the logits is above 1e-3", total);
    }
}

/* As tests want memory checked: where it was allocated matters less than how long compilers, which
 * allocate without end, take. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "malloc_context_size=0:quarantine_size_mb=1:thread_local_quarantine_size_kb=16";
}

/* Exit 77 where no OpenCL device is: every test program begins with it. PoCL compiles each kernel
 * for each shape; optimized, one of attention's takes it up to a minute. True if the device shares
 * host memory: one that does not sees what others write there only when it is told. */
static inline bool rig_require_device(void)
{
    setenv("POCL_EXTRA_BUILD_FLAGS", "-cl-opt-disable", 0);
    ofr_error err = {0};
    ofr_backend_capabilities found;
    if (ofr_opencl_backend()->probe(&found, &err) < 0) {
        printf("skipped: %s\n", err.text);
        exit(77);
    }
    printf("%s\n", found.device_name);
    return found.binds_host_pointers;
}

#endif
