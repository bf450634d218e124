/* The CPU backend's forward pass against the fp32 reference on small random models of many shapes,
 * with every kernel set this CPU runs; and against itself, cut into chunks, slots and layer ranges.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu_backend.h"
#include "reference/reference.h"
#include "support/memory_model.h"

enum { CONTEXT = 320, CHUNK = 256, SLOTS = 3 };

typedef struct test_rig {
    memory_model *model;
    ofr_kv_layout layout;
    void *arena;
    ofr_backend_session *session;
} test_rig;

static void check(int result, const ofr_error *err)
{
    if (result != 0) {
        fail_msg("code %d: %s", result, err->text);
    }
}

static void open_session(test_rig *rig, const char *kernels, uint32_t threads, uint32_t begin,
                         uint32_t end, ofr_backend_session **ret_session)
{
    ofr_error err = {0};
    ofr_backend_options options = {.model = &rig->model->model,
                                   .layer_begin = begin,
                                   .layer_end = end,
                                   .kv_layout = rig->layout,
                                   .kv_arena = rig->arena,
                                   .threads = threads,
                                   .max_batch_tokens = CHUNK,
                                   .kernels = kernels};
    check(ofr_cpu_backend()->open(&options, ret_session, &err), &err);
}

/* Rows that no token wrote hold garbage that is finite, as the layout promises. */
static void set_up_with(test_rig *rig, const memory_model_options *options,
                        const memory_model_features *features, const char *kernels,
                        uint32_t threads)
{
    ofr_error err = {0};
    rig->model = memory_model_new_with(options, features);
    check(ofr_kv_layout_init(&rig->layout, &rig->model->params, SLOTS, CONTEXT, CHUNK, &err), &err);
    rig->arena = aligned_alloc(4096, rig->layout.total_bytes);
    assert_non_null(rig->arena);
    uint16_t *halves = rig->arena;
    for (size_t i = 0; i < rig->layout.total_bytes / 2; i++) {
        halves[i] = 0x7bff; /* 65504 */
    }
    open_session(rig, kernels, threads, 0, options->n_layers, &rig->session);
}

static void set_up(test_rig *rig, const memory_model_options *options, const char *kernels,
                   uint32_t threads)
{
    set_up_with(rig, options, &(memory_model_features){0}, kernels, threads);
}

static void tear_down(test_rig *rig)
{
    ofr_cpu_backend()->close(rig->session);
    free(rig->arena);
    memory_model_free(rig->model);
}

static void run(ofr_backend_session *session, const ofr_forward *forward)
{
    ofr_error err = {0};
    check(ofr_cpu_backend()->forward(session, forward, &err), &err);
}

static void run_segment(test_rig *rig, uint32_t slot, uint32_t position, uint32_t n,
                        const int32_t *tokens, enum ofr_forward_output output, float *logits)
{
    ofr_segment segment = {slot, position, n};
    ofr_forward forward = {.segments = &segment,
                           .n_segments = 1,
                           .tokens = tokens + position,
                           .output = output,
                           .logits = logits};
    run(rig->session, &forward);
}

static int32_t *random_tokens(uint32_t n, uint32_t vocab)
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

static float *floats(size_t n)
{
    float *x = calloc(n, sizeof *x);
    assert_non_null(x);
    return x;
}

/* Root mean square of the difference over that of what was expected. */
static double relative_error(const float *got, const float *expected, size_t n)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)expected[i];
        difference += d * d;
        size += (double)expected[i] * (double)expected[i];
    }
    return sqrt(difference / size);
}

static void assert_near(const float *got, const float *expected, size_t n, double limit,
                        const char *what)
{
    double error = relative_error(got, expected, n);
    if (!(error <= limit)) {
        fail_msg("%s: relative error %.3g is above %.3g", what, error, limit);
    }
}

/* Shapes: GQA ratios 1 to 9, head_dim 32 to 128 and odd ones, widths that groups do not fill. */
static const memory_model_options shapes[] = {
    {2, 64, 2, 2, 32, 96, 101, OFR_DTYPE_I4, OFR_DTYPE_I8, 32, false, false, false, {0}, 1},
    {3, 192, 9, 3, 64, 320, 517, OFR_DTYPE_I4, OFR_DTYPE_I8, 64, false, false, false, {0}, 2},
    {2, 128, 8, 1, 80, 256, 77, OFR_DTYPE_I4, OFR_DTYPE_I8, 128, true, true, false, {0}, 3},
    {2, 256, 4, 2, 128, 384, 1000, OFR_DTYPE_I4, OFR_DTYPE_I8, 0, true, false, true, {0}, 4},
    {1, 96, 9, 1, 96, 160, 33, OFR_DTYPE_I8, OFR_DTYPE_I8, 32, false, true, false, {0}, 5},
    {2, 320, 5, 5, 64, 448, 259, OFR_DTYPE_I8, OFR_DTYPE_I8, 0, true, true, true, {0}, 6},
    {2,
     160,
     3,
     1,
     32,
     224,
     65,
     OFR_DTYPE_I4,
     OFR_DTYPE_I4,
     32,
     false,
     false,
     false,
     {24, 500, 0, 0, 0, 0, 0, 0, 0, 0},
     7},
    {1, 1024, 16, 4, 64, 1408, 300, OFR_DTYPE_I4, OFR_DTYPE_I8, 128, false, false, false, {0}, 8},
    {2, 192, 9, 3, 64, 352, 130, OFR_DTYPE_I4M, OFR_DTYPE_I8, 32, true, false, false, {0}, 9},
    {1, 96, 3, 3, 32, 160, 50, OFR_DTYPE_I4M, OFR_DTYPE_I4M, 32, false, true, false, {0}, 10},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static ofr_reference *make_reference(const test_rig *rig)
{
    ofr_error err = {0};
    ofr_reference *reference = NULL;
    check(ofr_reference_new(&rig->model->params, memory_model_source, rig->model, CONTEXT, 2,
                            &reference, &err),
          &err);
    return reference;
}

/* Prefill of 40 tokens in one call, then 5 single tokens. */
static void compare_with_reference(const memory_model_options *options, const char *kernels,
                                   double limit)
{
    test_rig rig;
    set_up(&rig, options, kernels, 2);
    uint32_t vocab = options->vocab_size;
    int32_t *tokens = random_tokens(45, vocab);
    float *expected = floats((size_t)45 * vocab), *got = floats((size_t)45 * vocab);
    ofr_reference *reference = make_reference(&rig);
    assert_int_equal(ofr_reference_forward(reference, tokens, 45, NULL, expected), 0);
    run_segment(&rig, 1, 0, 40, tokens, OFR_FORWARD_OUTPUT_ALL, got);
    for (uint32_t i = 40; i < 45; i++) {
        run_segment(&rig, 1, i, 1, tokens, OFR_FORWARD_OUTPUT_LAST, got + (size_t)i * vocab);
    }
    assert_near(got, expected, (size_t)40 * vocab, limit, "prefill logits");
    assert_near(got + (size_t)40 * vocab, expected + (size_t)40 * vocab, (size_t)5 * vocab, limit,
                "decode logits");
    ofr_reference_free(reference);
    free(tokens);
    free(expected);
    free(got);
    tear_down(&rig);
}

/* Without quantized activations only the fp16 KV differs: a wrong formula cannot hide. */
static void unquantized_models_match_the_reference(void **state)
{
    for (size_t i = 0; i < N_SHAPES; i++) {
        memory_model_options options = shapes[i];
        options.weights = i % 2 == 0 ? OFR_DTYPE_F32 : OFR_DTYPE_F16;
        options.table = i % 3 == 0 ? OFR_DTYPE_F16 : OFR_DTYPE_F32;
        compare_with_reference(&options, *state, 1e-3);
    }
}

/* Rounding activations to 8 bits leaves about 0.6 % per product, some ten of which follow one
 * another here. */
static void quantized_models_match_the_reference(void **state)
{
    for (size_t i = 0; i < N_SHAPES; i++) {
        compare_with_reference(&shapes[i], *state, 0.04);
    }
}

static void rope_scalings_match_the_reference(void **state)
{
    const ofr_rope_params scalings[] = {
        {32, 10000, OFR_ROPE_SCALING_LINEAR, 4, 0, 0, 0, 0, 0, 0},
        {32, 500000, OFR_ROPE_SCALING_LLAMA3, 8, 16, 1, 4, 0, 0, 0},
        {32, 10000, OFR_ROPE_SCALING_YARN, 4, 16, 0, 0, 32, 1, 0},
    };
    for (size_t i = 0; i < 3; i++) {
        memory_model_options options = shapes[0];
        options.weights = options.table = OFR_DTYPE_F32;
        options.rope = scalings[i];
        compare_with_reference(&options, *state, 1e-3);
    }
}

/* Between attention of single tokens, in floats, and of blocks of queries, in words of 13 bits. */
#define WORDS_ERROR 1e-3

/* Wherever a prompt is cut, the logits of its last token stay, but for the rounding of sums in
 * another order, which may flip the last bit of a K or V in fp16. */
static void chunks_cut_anywhere_give_the_same(void **state)
{
    test_rig rig;
    enum { N = 23 };
    memory_model_options options = shapes[1];
    options.weights = options.table = OFR_DTYPE_F32;
    set_up(&rig, &options, *state, 2);
    uint32_t vocab = options.vocab_size;
    int32_t *tokens = random_tokens(N, vocab);
    float *whole = floats(vocab), *cut = floats(vocab);
    run_segment(&rig, 0, 0, N, tokens, OFR_FORWARD_OUTPUT_LAST, whole);
    for (uint32_t at = 1; at < N; at++) {
        run_segment(&rig, 1, 0, at, tokens, OFR_FORWARD_OUTPUT_NONE, NULL);
        run_segment(&rig, 1, at, N - at, tokens, OFR_FORWARD_OUTPUT_LAST, cut);
        bool single = at == 1 || at == N - 1;
        assert_near(cut, whole, vocab, single ? WORDS_ERROR : 1e-4, "cut prompt");
    }
    for (uint32_t i = 0; i < N; i++) {
        run_segment(&rig, 2, i, 1, tokens, OFR_FORWARD_OUTPUT_LAST, cut);
    }
    assert_near(cut, whole, vocab, WORDS_ERROR, "token by token");
    free(tokens);
    free(whole);
    free(cut);
    tear_down(&rig);
}

/* Long enough that decoding splits the context; more threads than cores. */
static void long_contexts_are_split_and_merged(void **state)
{
    test_rig rig;
    enum { N = 300 };
    memory_model_options options = shapes[1];
    options.weights = options.table = OFR_DTYPE_F32;
    set_up(&rig, &options, *state, 4);
    uint32_t vocab = options.vocab_size;
    int32_t *tokens = random_tokens(N, vocab);
    float *expected = floats((size_t)N * vocab), *got = floats(vocab);
    ofr_reference *reference = make_reference(&rig);
    assert_int_equal(ofr_reference_forward(reference, tokens, N, NULL, expected), 0);
    run_segment(&rig, 0, 0, CHUNK, tokens, OFR_FORWARD_OUTPUT_LAST, got);
    assert_near(got, expected + (size_t)(CHUNK - 1) * vocab, vocab, 1e-3, "prefill of 256");
    for (uint32_t i = CHUNK; i < N; i++) {
        run_segment(&rig, 0, i, 1, tokens, OFR_FORWARD_OUTPUT_LAST, got);
        assert_near(got, expected + (size_t)i * vocab, vocab, 1e-3, "decode at depth");
    }
    ofr_reference_free(reference);
    free(tokens);
    free(expected);
    free(got);
    tear_down(&rig);
}

/* Blocks of queries of every size, of which one or several parts are scored at once: those that
 * threads leave, ends that fill no part, beginnings within a block of keys, windows. After 33 and
 * 17 tokens a part of 32 (of 3 heads) and of 48 (of 2) ends with the first key of a block; a part
 * begins where a window of 67 shows but the last key of one. */
static void long_prompts_are_cut_into_blocks(void **state)
{
    enum { N = 300 };
    static const uint32_t windows[] = {0, 67}, threads[] = {1, 3}, heads[] = {9, 6};
    static const uint32_t cuts[] = {CHUNK, 33, 227, 33, 197, 17, 107, 17};
    for (uint32_t i = 0; i < 8; i++) {
        test_rig rig;
        memory_model_options options = shapes[1];
        options.weights = options.table = OFR_DTYPE_F32;
        options.n_layers = 2;
        options.n_heads = heads[i / 4];
        options.vocab_size = 64;
        memory_model_features features = {.sliding_window = windows[i % 2]};
        set_up_with(&rig, &options, &features, *state, threads[i / 2 % 2]);
        uint32_t vocab = options.vocab_size, cut = cuts[i];
        int32_t *tokens = random_tokens(N, vocab);
        float *expected = floats((size_t)N * vocab), *got = floats((size_t)N * vocab);
        ofr_reference *reference = make_reference(&rig);
        assert_int_equal(ofr_reference_forward(reference, tokens, N, NULL, expected), 0);
        run_segment(&rig, 2, 0, cut, tokens, OFR_FORWARD_OUTPUT_ALL, got);
        for (uint32_t at = cut, n; at < N; at += n) {
            n = N - at < CHUNK ? N - at : CHUNK;
            run_segment(&rig, 2, at, n, tokens, OFR_FORWARD_OUTPUT_ALL, got + (size_t)at * vocab);
        }
        for (uint32_t t = 0; t < N; t++) {
            size_t row = (size_t)t * vocab;
            assert_near(got + row, expected + row, vocab, 3e-3, "a token of a long prompt");
        }
        ofr_reference_free(reference);
        free(tokens);
        free(expected);
        free(got);
        tear_down(&rig);
    }
}

/* Batches that mix slots: long and single segments together, and singles only. */
static void slots_do_not_disturb_one_another(void **state)
{
    test_rig rig;
    memory_model_options options = shapes[3];
    options.weights = options.table = OFR_DTYPE_F32;
    set_up(&rig, &options, *state, 2);
    uint32_t vocab = options.vocab_size;
    int32_t *tokens = random_tokens(64, vocab);
    float *alone = floats((size_t)3 * vocab), *together = floats((size_t)3 * vocab);
    const uint32_t lengths[SLOTS] = {9, 17, 30};
    for (uint32_t s = 0; s < SLOTS; s++) { /* alone, in slot 0 */
        run_segment(&rig, 0, 0, lengths[s], tokens + s, OFR_FORWARD_OUTPUT_LAST,
                    alone + (size_t)s * vocab);
    }
    int32_t mixed[64];
    ofr_segment segments[SLOTS];
    uint32_t n = 0;
    for (uint32_t s = 0; s < SLOTS; s++) { /* slot 1 brings all but its last token earlier */
        uint32_t from = s == 1 ? lengths[s] - 1 : 0;
        if (from > 0) {
            run_segment(&rig, s, 0, from, tokens + s, OFR_FORWARD_OUTPUT_NONE, NULL);
        }
        segments[s] = (ofr_segment){s, from, lengths[s] - from};
        memcpy(mixed + n, tokens + s + from, segments[s].n_tokens * sizeof *mixed);
        n += segments[s].n_tokens;
    }
    ofr_forward forward = {.segments = segments,
                           .n_segments = SLOTS,
                           .tokens = mixed,
                           .output = OFR_FORWARD_OUTPUT_LAST,
                           .logits = together};
    run(rig.session, &forward);
    assert_near(together, alone, (size_t)3 * vocab, 1e-5, "mixed batch");
    for (uint32_t s = 0; s < SLOTS; s++) { /* the last token again, as singles */
        segments[s] = (ofr_segment){s, lengths[s] - 1, 1};
        mixed[s] = tokens[s + lengths[s] - 1];
    }
    memset(together, 0, (size_t)3 * vocab * sizeof *together);
    run(rig.session, &forward);
    assert_near(together, alone, (size_t)3 * vocab, WORDS_ERROR, "batch of singles");
    free(tokens);
    free(alone);
    free(together);
    tear_down(&rig);
}

static void log_probabilities_are_those_of_the_logits(void **state)
{
    test_rig rig;
    enum { N = 75 };
    set_up(&rig, &shapes[1], *state, 2);
    uint32_t vocab = shapes[1].vocab_size;
    int32_t *tokens = random_tokens(N + 1, vocab);
    float *logits = floats((size_t)N * vocab), logprobs[N];
    int32_t targets[N];
    for (uint32_t i = 0; i < N; i++) {
        targets[i] = i % 10 == 3 ? -1 : tokens[i + 1];
    }
    ofr_segment segment = {0, 0, N};
    ofr_forward forward = {.segments = &segment,
                           .n_segments = 1,
                           .tokens = tokens,
                           .output = OFR_FORWARD_OUTPUT_ALL,
                           .logits = logits};
    run(rig.session, &forward);
    forward.output = OFR_FORWARD_OUTPUT_LOGPROBS;
    forward.logits = NULL;
    forward.targets = targets;
    forward.logprobs = logprobs;
    run(rig.session, &forward);
    for (uint32_t i = 0; i < N; i++) {
        double sum = 0, expected = 0;
        for (uint32_t v = 0; v < vocab; v++) {
            sum += exp((double)logits[(size_t)i * vocab + v]);
        }
        if (targets[i] >= 0) {
            expected = (double)logits[(size_t)i * vocab + (uint32_t)targets[i]] - log(sum);
        }
        assert_true(fabs((double)logprobs[i] - expected) < 1e-4);
    }
    free(tokens);
    free(logits);
    tear_down(&rig);
}

/* Layers [0, 1) in one session, [1, n) in another, over the same strips. */
static void layer_ranges_compose(void **state)
{
    test_rig rig;
    enum { N = 12 };
    const memory_model_options *options = &shapes[1];
    set_up(&rig, options, *state, 2);
    uint32_t vocab = options->vocab_size;
    int32_t *tokens = random_tokens(N, vocab);
    float *whole = floats(vocab), *parts = floats(vocab);
    float *hidden = floats((size_t)N * options->d_model);
    run_segment(&rig, 0, 0, N, tokens, OFR_FORWARD_OUTPUT_LAST, whole);
    ofr_backend_session *first, *second;
    open_session(&rig, *state, 2, 0, 1, &first);
    open_session(&rig, *state, 1, 1, options->n_layers, &second);
    ofr_segment segment = {2, 0, N};
    ofr_forward forward = {
        .segments = &segment, .n_segments = 1, .tokens = tokens, .hidden_out = hidden};
    run(first, &forward);
    forward = (ofr_forward){.segments = &segment,
                            .n_segments = 1,
                            .hidden_in = hidden,
                            .output = OFR_FORWARD_OUTPUT_LAST,
                            .logits = parts};
    run(second, &forward);
    assert_near(parts, whole, vocab, 1e-6, "two sessions");
    ofr_cpu_backend()->close(first);
    ofr_cpu_backend()->close(second);
    free(tokens);
    free(whole);
    free(parts);
    free(hidden);
    tear_down(&rig);
}

static void expect_refusal(test_rig *rig, const ofr_forward *forward, const char *part)
{
    ofr_error err = {0};
    assert_int_equal(ofr_cpu_backend()->forward(rig->session, forward, &err), OFR_EINVAL);
    if (strstr(err.text, part) == NULL) {
        fail_msg("'%s' does not say '%s'", err.text, part);
    }
}

static void bad_batches_are_refused(void **state)
{
    test_rig rig;
    set_up(&rig, &shapes[0], *state, 1);
    int32_t tokens[4] = {1, 2, 3, 4}, bad_tokens[4] = {1, 2, 101, 3};
    float logits[4 * 101];
    ofr_segment segments[2] = {{0, 0, 4}, {0, 0, 1}};
    ofr_forward good = {.segments = segments,
                        .n_segments = 1,
                        .tokens = tokens,
                        .output = OFR_FORWARD_OUTPUT_LAST,
                        .logits = logits};
    run(rig.session, &good);
    ofr_forward bad = good;
    bad.tokens = bad_tokens;
    expect_refusal(&rig, &bad, "not in the vocabulary");
    bad = good;
    bad.logits = NULL;
    expect_refusal(&rig, &bad, "no buffer");
    bad.output = OFR_FORWARD_OUTPUT_CANDIDATES;
    expect_refusal(&rig, &bad, "gives logits");
    bad = good;
    bad.tokens = NULL;
    expect_refusal(&rig, &bad, "no tokens");
    bad = good;
    bad.n_segments = 0;
    expect_refusal(&rig, &bad, "0 tokens");
    bad.n_segments = 2;
    expect_refusal(&rig, &bad, "two segments");
    bad.n_segments = 1;
    segments[0] = (ofr_segment){SLOTS, 0, 4};
    expect_refusal(&rig, &bad, "outside");
    segments[0] = (ofr_segment){0, CONTEXT - 3, 4};
    expect_refusal(&rig, &bad, "outside");
    segments[0] = (ofr_segment){0, UINT32_MAX, 4};
    expect_refusal(&rig, &bad, "outside");
    segments[0] = (ofr_segment){0, 0, 0};
    expect_refusal(&rig, &bad, "outside");
    segments[0] = (ofr_segment){0, 0, CHUNK + 1};
    expect_refusal(&rig, &bad, "are allowed");
    tear_down(&rig);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    test_rig rig;
    ofr_error err = {0};
    ofr_backend_session *session = NULL;
    set_up(&rig, &shapes[0], NULL, 1);
    ofr_backend_options good = {.model = &rig.model->model,
                                .layer_end = 2,
                                .kv_layout = rig.layout,
                                .kv_arena = rig.arena,
                                .max_batch_tokens = 1};
    ofr_backend_options bad = good;
    bad.kernels = "mmx";
    assert_int_equal(ofr_cpu_backend()->open(&bad, &session, &err), OFR_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "generic"));
    bad = good;
    bad.layer_end = 3;
    assert_int_equal(ofr_cpu_backend()->open(&bad, &session, &err), OFR_EINVAL);
    bad = good;
    bad.kv_layout.head_dim++;
    assert_int_equal(ofr_cpu_backend()->open(&bad, &session, &err), OFR_EINVAL);
    bad = good;
    bad.kv_arena = (char *)rig.arena + 2;
    assert_int_equal(ofr_cpu_backend()->open(&bad, &session, &err), OFR_EINVAL);
    bad = good;
    bad.max_batch_tokens = 0;
    assert_int_equal(ofr_cpu_backend()->open(&bad, &session, &err), OFR_EINVAL);
    assert_null(session);
    tear_down(&rig);
}

static void probe_names_the_cpu_and_the_kernels(void **state)
{
    (void)state;
    ofr_error err = {0};
    ofr_backend_capabilities capabilities;
    check(ofr_cpu_backend()->probe(&capabilities, &err), &err);
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    const char *names[8];
    assert_true(ofr_cpu_kernel_names(&features, names, 8) >= 1);
    assert_string_equal(capabilities.kernels, names[0]);
    assert_true(capabilities.free_shapes);
    const ofr_cpu_features none = {0}, core_ultra = {.avx2 = true, .avx_vnni = true};
    assert_int_equal(ofr_cpu_kernel_names(&none, names, 8), 1);
    assert_string_equal(names[0], "generic");
    assert_int_equal(ofr_cpu_kernel_names(&core_ultra, names, 8), 3);
    assert_string_equal(names[0], "avx-vnni");
}

int main(void)
{
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    const char *names[8];
    uint32_t n = ofr_cpu_kernel_names(&features, names, 8);
    const struct CMUnitTest common[] = {cmocka_unit_test(bad_options_are_refused),
                                        cmocka_unit_test(probe_names_the_cpu_and_the_kernels)};
    int failed = cmocka_run_group_tests_name("backend", common, NULL, NULL);
    for (uint32_t i = 0; i < n; i++) {
        void *name = (void *)(uintptr_t)names[i];
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(unquantized_models_match_the_reference, name),
            cmocka_unit_test_prestate(quantized_models_match_the_reference, name),
            cmocka_unit_test_prestate(rope_scalings_match_the_reference, name),
            cmocka_unit_test_prestate(chunks_cut_anywhere_give_the_same, name),
            cmocka_unit_test_prestate(long_contexts_are_split_and_merged, name),
            cmocka_unit_test_prestate(long_prompts_are_cut_into_blocks, name),
            cmocka_unit_test_prestate(slots_do_not_disturb_one_another, name),
            cmocka_unit_test_prestate(log_probabilities_are_those_of_the_logits, name),
            cmocka_unit_test_prestate(layer_ranges_compose, name),
            cmocka_unit_test_prestate(bad_batches_are_refused, name),
        };
        failed += cmocka_run_group_tests_name(names[i], tests, NULL, NULL);
    }
    return failed;
}
