/* The OpenCL backend's forward pass against the fp32 reference on small random models of many
 * shapes, with both kernel sets, memory shared and mirrored; and against itself, cut into chunks,
 * slots and layer ranges. */
#include "backend/cpu/cpu_backend.h"
#include "base/fp16.h"
#include "support/opencl_rig.h"

typedef struct variant {
    const char *kernels;
    enum ofr_opencl_memory memory;
    enum ofr_opencl_launches launches;
} variant;

static void set_up_with(opencl_rig *rig, const memory_model_options *options,
                        const memory_model_features *features, const variant *v)
{
    rig_model_with(rig, options, features);
    ofr_backend_options open = rig_options(rig, v->kernels);
    rig->session = rig_open_launching(&open, v->memory, v->launches);
}

static void set_up(opencl_rig *rig, const memory_model_options *options, const variant *v)
{
    set_up_with(rig, options, &(memory_model_features){0}, v);
}

/* Shapes: GQA ratios 1 to 9, head_dim 32 to 128 and odd ones, widths that tiles do not fill. */
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
};
/* Weights with minima. */
static const memory_model_options minima = {
    2, 64, 2, 2, 32, 96, 101, OFR_DTYPE_I4M, OFR_DTYPE_I8, 32, false, false, false, {0}, 11};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static ofr_reference *make_reference(const opencl_rig *rig)
{
    ofr_error err = {0};
    ofr_reference *reference = NULL;
    rig_check(ofr_reference_new(&rig->model->params, memory_model_source, rig->model, RIG_CONTEXT,
                                2, &reference, &err),
              &err);
    return reference;
}

/* Prefill of 40 tokens in one call, then 5 single tokens. */
static void compare_features(const memory_model_options *options,
                             const memory_model_features *features, const variant *v, double limit)
{
    opencl_rig rig;
    set_up_with(&rig, options, features, v);
    uint32_t vocab = options->vocab_size;
    int32_t *tokens = rig_tokens(45, vocab);
    float *expected = rig_floats((size_t)45 * vocab), *got = rig_floats((size_t)45 * vocab);
    ofr_reference *reference = make_reference(&rig);
    assert_int_equal(ofr_reference_forward(reference, tokens, 45, NULL, expected), 0);
    rig_segment(rig.session, 1, 0, 40, tokens, OFR_FORWARD_OUTPUT_ALL, got);
    for (uint32_t i = 40; i < 45; i++) {
        rig_segment(rig.session, 1, i, 1, tokens, OFR_FORWARD_OUTPUT_LAST, got + (size_t)i * vocab);
    }
    rig_near(got, expected, (size_t)40 * vocab, limit, "prefill logits");
    rig_near(got + (size_t)40 * vocab, expected + (size_t)40 * vocab, (size_t)5 * vocab, limit,
             "decode logits");
    rig_same_predictions(got, expected, 45, vocab);
    ofr_reference_free(reference);
    free(tokens);
    free(expected);
    free(got);
    rig_done(&rig);
}

static void compare_with_reference(const memory_model_options *options, const variant *v,
                                   double limit)
{
    compare_features(options, &(memory_model_features){0}, v, limit);
}

/* What each architecture asks for beyond llama, alone and together. */
static void architectures_match_the_reference(void **state)
{
    const variant *v = *state;
    static const memory_model_features features[] = {
        {.head_norms = true},
        {.output_norms = true,
         .activation = OFR_ACTIVATION_GELU_TANH,
         .embedding_scale = 8,
         .attention_softcap = 5,
         .logit_softcap = 4,
         .sliding_window = 12},
        {.output_norms = true,
         .head_norms = true,
         .activation = OFR_ACTIVATION_GELU_TANH,
         .sliding_window = 9,
         .rope_local = {.dims = 64, .base = 100}},
        {.embedding_scale = 3,
         .residual_scale = 0.4f,
         .attention_scale = 0.08f,
         .logit_scale = 0.3f},
        {.unrotated = 2, .sliding_window = 7},
        {.mixed = true},
        {.head_norms = true, .attention_softcap = 5, .sliding_window = 20},
    };
    bool dot = strcmp(v->kernels, "dot") == 0;
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++) {
        memory_model_options options = shapes[1];
        options.seed = 100 + i;
        options.n_layers = 2;
        options.weights = dot ? (i % 2 ? OFR_DTYPE_I4 : OFR_DTYPE_I4M) : OFR_DTYPE_F32;
        options.table = dot ? OFR_DTYPE_I8 : OFR_DTYPE_F32;
        compare_features(&options, &features[i], v, dot ? 0.05 : 1e-3);
    }
}

/* Without quantized activations only the fp16 KV differs: a wrong formula cannot hide. */
static void unquantized_models_match_the_reference(void **state)
{
    const variant *v = *state;
    for (size_t i = 0; strcmp(v->kernels, "plain") == 0 && i < N_SHAPES; i += 2) {
        memory_model_options options = shapes[i];
        options.weights = i % 4 == 0 ? OFR_DTYPE_F32 : OFR_DTYPE_F16;
        options.table = i % 3 == 0 ? OFR_DTYPE_F16 : OFR_DTYPE_F32;
        compare_with_reference(&options, v, 1e-3);
    }
}

/* "dot" rounds activations to 8 bits; "plain" computes with the weights as they are. */
static void quantized_models_match_the_reference(void **state)
{
    const variant *v = *state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        compare_with_reference(&shapes[i], v, strcmp(v->kernels, "dot") == 0 ? 0.04 : 1e-3);
    }
    compare_with_reference(&minima, v, strcmp(v->kernels, "dot") == 0 ? 0.04 : 1e-3);
}

/* Widths that are a multiple of nothing but what the format asks for, drawn anew for each seed.
 * Heads are those of `shapes`: attention is compiled for each kind of them. */
static void random_shapes_match_the_reference(void **state)
{
    const variant *v = *state;
    uint64_t random = 2024;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t draw[5];
        for (uint32_t k = 0; k < 5; k++) {
            random = random * 6364136223846793005U + 1442695040888963407U;
            draw[k] = (uint32_t)(random >> 40);
        }
        const memory_model_options *heads = &shapes[draw[1] % N_SHAPES];
        uint32_t kv = draw[0] % 3 + 1;
        memory_model_options options = {.n_layers = 1 + i % 2,
                                        .d_model = 32 * (draw[2] % 9 + 1),
                                        .n_heads = kv * (heads->n_heads / heads->n_kv_heads),
                                        .n_kv_heads = kv,
                                        .head_dim = heads->head_dim,
                                        .d_ff = 32 * (draw[3] % 13 + 1),
                                        .vocab_size = 40 + draw[4] % 500,
                                        .weights = i % 3 == 2 ? OFR_DTYPE_I8 : OFR_DTYPE_I4,
                                        .table = OFR_DTYPE_I8,
                                        .group = 32,
                                        .separate_head = i % 2 == 1,
                                        .biases = i % 2 == 0,
                                        .seed = random};
        compare_with_reference(&options, v, strcmp(v->kernels, "dot") == 0 ? 0.04 : 1e-3);
    }
}

/* Wherever a prompt is cut (every third place is tried), the logits of its last token stay, but for
 * the rounding of sums in another order, which may flip the last bit of a K or V in fp16 (and, in
 * "dot", of a byte). */
static void chunks_cut_anywhere_give_the_same(void **state)
{
    const variant *v = *state;
    opencl_rig rig;
    enum { N = 23 };
    set_up(&rig, &shapes[1], v);
    double limit = strcmp(v->kernels, "dot") == 0 ? 0.03 : 1e-3;
    uint32_t vocab = shapes[1].vocab_size;
    int32_t *tokens = rig_tokens(N, vocab);
    float *whole = rig_floats(vocab), *cut = rig_floats(vocab);
    rig_segment(rig.session, 0, 0, N, tokens, OFR_FORWARD_OUTPUT_LAST, whole);
    for (uint32_t at = 1; at < N; at += 3) {
        rig_segment(rig.session, 1, 0, at, tokens, OFR_FORWARD_OUTPUT_NONE, NULL);
        rig_segment(rig.session, 1, at, N - at, tokens, OFR_FORWARD_OUTPUT_LAST, cut);
        rig_near(cut, whole, vocab, limit, "cut prompt");
    }
    for (uint32_t i = 0; i < N; i++) {
        rig_segment(rig.session, 2, i, 1, tokens, OFR_FORWARD_OUTPUT_LAST, cut);
    }
    rig_near(cut, whole, vocab, limit, "token by token");
    free(tokens);
    free(whole);
    free(cut);
    rig_done(&rig);
}

/* Long enough that decoding splits the context. */
static void long_contexts_are_split_and_merged(void **state)
{
    const variant *v = *state;
    opencl_rig rig;
    enum { N = 300 };
    set_up(&rig, &shapes[0], v);
    double limit = strcmp(v->kernels, "dot") == 0 ? 0.06 : 1e-3;
    uint32_t vocab = shapes[0].vocab_size;
    int32_t *tokens = rig_tokens(N, vocab);
    float *expected = rig_floats((size_t)N * vocab), *got = rig_floats(vocab);
    ofr_reference *reference = make_reference(&rig);
    assert_int_equal(ofr_reference_forward(reference, tokens, N, NULL, expected), 0);
    for (uint32_t i = 0; i < 256; i += RIG_CHUNK) {
        rig_segment(rig.session, 0, i, RIG_CHUNK, tokens, OFR_FORWARD_OUTPUT_LAST, got);
        rig_near(got, expected + (size_t)(i + RIG_CHUNK - 1) * vocab, vocab, limit, "prefill");
    }
    for (uint32_t i = 256; i < N; i++) {
        rig_segment(rig.session, 0, i, 1, tokens, OFR_FORWARD_OUTPUT_LAST, got);
        rig_near(got, expected + (size_t)i * vocab, vocab, limit, "decode at depth");
    }
    ofr_reference_free(reference);
    free(tokens);
    free(expected);
    free(got);
    rig_done(&rig);
}

/* Batches that mix slots: long and single segments together, and singles only. */
static void slots_do_not_disturb_one_another(void **state)
{
    const variant *v = *state;
    opencl_rig rig;
    set_up(&rig, &shapes[3], v);
    double limit = strcmp(v->kernels, "dot") == 0 ? 0.03 : 1e-3;
    uint32_t vocab = shapes[3].vocab_size;
    int32_t *tokens = rig_tokens(64, vocab);
    float *alone = rig_floats((size_t)3 * vocab), *together = rig_floats((size_t)3 * vocab);
    const uint32_t lengths[RIG_SLOTS] = {9, 17, 30};
    for (uint32_t s = 0; s < RIG_SLOTS; s++) { /* alone, in slot 0 */
        rig_segment(rig.session, 0, 0, lengths[s], tokens + s, OFR_FORWARD_OUTPUT_LAST,
                    alone + (size_t)s * vocab);
    }
    int32_t mixed[64];
    ofr_segment segments[RIG_SLOTS];
    uint32_t n = 0;
    for (uint32_t s = 0; s < RIG_SLOTS; s++) { /* slot 1 brings all but its last token earlier */
        uint32_t from = s == 1 ? lengths[s] - 1 : 0;
        if (from > 0) {
            rig_segment(rig.session, s, 0, from, tokens + s, OFR_FORWARD_OUTPUT_NONE, NULL);
        }
        segments[s] = (ofr_segment){s, from, lengths[s] - from};
        memcpy(mixed + n, tokens + s + from, segments[s].n_tokens * sizeof *mixed);
        n += segments[s].n_tokens;
    }
    ofr_forward forward = {.segments = segments,
                           .n_segments = RIG_SLOTS,
                           .tokens = mixed,
                           .output = OFR_FORWARD_OUTPUT_LAST,
                           .logits = together};
    rig_run(rig.session, &forward);
    rig_near(together, alone, (size_t)3 * vocab, limit, "mixed batch");
    for (uint32_t s = 0; s < RIG_SLOTS; s++) { /* the last token again, as singles */
        segments[s] = (ofr_segment){s, lengths[s] - 1, 1};
        mixed[s] = tokens[s + lengths[s] - 1];
    }
    memset(together, 0, (size_t)3 * vocab * sizeof *together);
    rig_run(rig.session, &forward);
    rig_near(together, alone, (size_t)3 * vocab, limit, "batch of singles");
    free(tokens);
    free(alone);
    free(together);
    rig_done(&rig);
}

/* Candidates are those of the logits, however these were made. */
static void candidates_are_those_of_the_logits(void **state)
{
    opencl_rig rig;
    memory_model_options options = shapes[0];
    options.vocab_size = 2 * 2048 + 37; /* three chunks, the last one short */
    set_up(&rig, &options, *state);
    uint32_t vocab = options.vocab_size;
    int32_t tokens[9] = {5, 9, 1, 2, 3, 4, 6, 7, 8};
    float *logits = rig_floats(2 * (size_t)vocab);
    /* One token, one of each of two, a chunk of one and a token of the other. */
    const ofr_segment segments[3][2] = {
        {{0, 0, 1}}, {{0, 1, 1}, {2, 0, 1}}, {{0, 2, 8}, {2, 1, 1}}};
    const uint32_t counts[] = {1, 7, OFR_CANDIDATES_MAX};
    for (uint32_t i = 0; i < 3; i++) {
        ofr_candidate got[2 * OFR_CANDIDATES_MAX], expected[OFR_CANDIDATES_MAX];
        bool finite = false;
        uint32_t rows = i == 0 ? 1 : 2, k = counts[i];
        ofr_forward forward = {.segments = segments[i],
                               .n_segments = rows,
                               .tokens = tokens,
                               .output = OFR_FORWARD_OUTPUT_LAST,
                               .logits = logits,
                               .n_candidates = k,
                               .candidates = got,
                               .ret_finite = &finite};
        rig_run(rig.session, &forward);
        forward.output = OFR_FORWARD_OUTPUT_CANDIDATES;
        forward.logits = NULL;
        rig_run(rig.session, &forward);
        assert_true(finite);
        for (uint32_t row = 0; row < rows; row++) {
            ofr_candidates_select(logits + (size_t)row * vocab, (int32_t)vocab, k, expected);
            for (uint32_t c = 0; c < k; c++) {
                const ofr_candidate *own = &got[row * k + c];
                assert_int_equal(own->token, expected[c].token);
                assert_true(fabsf(own->logit - expected[c].logit) <= 1e-5f * fabsf(own->logit));
            }
        }
    }
    free(logits);
    rig_done(&rig);
}

/* As the CPU backend adds them up. */
static void hidden_sums_are_the_cpus(void **state)
{
    const variant *v = *state;
    opencl_rig rig;
    ofr_error err = {0};
    const memory_model_options *options = &shapes[1];
    set_up(&rig, options, v);
    ofr_backend_options open = rig_options(&rig, NULL);
    ofr_backend_session *cpu = NULL;
    open.threads = 1;
    rig_check(ofr_cpu_backend()->open(&open, &cpu, &err), &err);
    uint32_t d = options->d_model;
    int32_t *tokens = rig_tokens(20, options->vocab_size);
    float *expected = rig_floats(2 * (size_t)d), *got = rig_floats(2 * (size_t)d);
    ofr_segment segments[2] = {{1, 0, 13}, {0, 0, 7}};
    ofr_forward forward = {.segments = segments,
                           .n_segments = 2,
                           .tokens = tokens,
                           .output = OFR_FORWARD_OUTPUT_HIDDEN_SUM,
                           .logits = expected};
    rig_check(ofr_cpu_backend()->forward(cpu, &forward, &err), &err);
    forward.logits = got;
    rig_run(rig.session, &forward);
    rig_near(got, expected, 2 * (size_t)d, 0.04, "sums of hidden states");
    ofr_cpu_backend()->close(cpu);
    free(tokens);
    free(expected);
    free(got);
    rig_done(&rig);
}

static void log_probabilities_are_those_of_the_logits(void **state)
{
    opencl_rig rig;
    enum { N = 60 };
    set_up(&rig, &shapes[1], *state);
    uint32_t vocab = shapes[1].vocab_size;
    int32_t *tokens = rig_tokens(N + 1, vocab);
    float *logits = rig_floats((size_t)N * vocab), logprobs[N];
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
    rig_run(rig.session, &forward);
    forward.output = OFR_FORWARD_OUTPUT_LOGPROBS;
    forward.logits = NULL;
    forward.targets = targets;
    forward.logprobs = logprobs;
    rig_run(rig.session, &forward);
    for (uint32_t i = 0; i < N; i++) {
        double sum = 0, expected = 0;
        for (uint32_t w = 0; w < vocab; w++) {
            sum += exp((double)logits[(size_t)i * vocab + w]);
        }
        if (targets[i] >= 0) {
            expected = (double)logits[(size_t)i * vocab + (uint32_t)targets[i]] - log(sum);
        }
        assert_true(fabs((double)logprobs[i] - expected) < 1e-4);
    }
    free(tokens);
    free(logits);
    rig_done(&rig);
}

/* Layers [0, 1) in one session, [1, n) in another, over the same strips; and the CPU backend in
 * either place, as a hybrid plan would have it. */
static void layer_ranges_compose_also_with_the_cpu(void **state)
{
    const variant *v = *state;
    opencl_rig rig;
    enum { N = 12 };
    const memory_model_options *options = &shapes[1];
    double limit = strcmp(v->kernels, "dot") == 0 ? 0.03 : 0.04;
    set_up(&rig, options, v);
    uint32_t vocab = options->vocab_size;
    int32_t *tokens = rig_tokens(N, vocab);
    float *whole = rig_floats(vocab), *parts = rig_floats(vocab);
    float *hidden = rig_floats((size_t)N * options->d_model);
    rig_segment(rig.session, 0, 0, N, tokens, OFR_FORWARD_OUTPUT_LAST, whole);
    for (uint32_t order = 0; order < 3; order++) { /* bit 0: CPU first; bit 1: CPU second */
        ofr_error err = {0};
        ofr_backend_session *sessions[2];
        const ofr_backend *backends[2];
        for (uint32_t i = 0; i < 2; i++) {
            bool cpu = order >> i & 1;
            ofr_backend_options open = rig_options(&rig, cpu ? NULL : v->kernels);
            open.layer_begin = i;
            open.layer_end = i == 0 ? 1 : options->n_layers;
            backends[i] = cpu ? ofr_cpu_backend() : ofr_opencl_backend();
            if (cpu) {
                open.threads = 1;
                rig_check(backends[i]->open(&open, &sessions[i], &err), &err);
            } else {
                sessions[i] = rig_open_launching(&open, v->memory, v->launches);
            }
        }
        ofr_segment segment = {2, 0, N - 1};
        for (uint32_t step = 0; step < 2; step++) { /* the prompt but its last token, then that */
            ofr_forward forward = {.segments = &segment,
                                   .n_segments = 1,
                                   .tokens = tokens + segment.position,
                                   .hidden_out = hidden};
            rig_check(backends[0]->forward(sessions[0], &forward, &err), &err);
            forward = (ofr_forward){.segments = &segment,
                                    .n_segments = 1,
                                    .hidden_in = hidden,
                                    .output = OFR_FORWARD_OUTPUT_LAST,
                                    .logits = parts};
            rig_check(backends[1]->forward(sessions[1], &forward, &err), &err);
            segment = (ofr_segment){2, N - 1, 1};
        }
        rig_near(parts, whole, vocab, limit, "two sessions");
        for (uint32_t i = 0; i < 2; i++) { /* hidden states and KV are used where they are */
            bool cpu = order >> i & 1;
            uint64_t copied = cpu ? 0 : backends[i]->handoff_bytes_copied(sessions[i]);
            assert_true(v->memory == OFR_OPENCL_MEMORY_SHARED ? copied == 0 : cpu || copied > 0);
        }
        backends[0]->close(sessions[0]);
        backends[1]->close(sessions[1]);
    }
    free(tokens);
    free(whole);
    free(parts);
    free(hidden);
    rig_done(&rig);
}

/* Rows of slot 0, which came back from the device, are slot 1's but for rounding. */
static void compare_rows(const opencl_rig *rig, uint32_t n_layers, uint32_t first, uint32_t n)
{
    const ofr_kv_layout *kv = &rig->layout;
    size_t halves = n * kv->row_bytes / 2;
    float *rows[2] = {rig_floats(halves), rig_floats(halves)};
    for (uint32_t i = 0; i < 2 * n_layers; i++) {
        for (uint32_t slot = 0; slot < 2; slot++) {
            uint64_t strip =
                i % 2 ? ofr_kv_strip_v(kv, slot, i / 2) : ofr_kv_strip_k(kv, slot, i / 2);
            const uint8_t *at = (const uint8_t *)rig->arena + strip + first * kv->row_bytes;
            for (size_t e = 0; e < halves; e++) {
                uint16_t half = 0;
                memcpy(&half, at + 2 * e, sizeof half);
                rows[slot][e] = ofr_half_to_float(half);
            }
        }
        rig_near(rows[0], rows[1], halves, 0.1, "rows of K or V that came back");
    }
    free(rows[0]);
    free(rows[1]);
}

/* Prefill on the CPU, decode on the device, the next prompt over the same rows on the CPU again:
 * the device must see what the CPU wrote, and count what it moved. */
static void prefill_elsewhere_decode_here(void **state)
{
    const variant *v = *state;
    opencl_rig rig;
    enum { N = 24 };
    ofr_error err = {0};
    const memory_model_options *options = &shapes[1];
    set_up(&rig, options, v);
    uint32_t vocab = options->vocab_size;
    ofr_backend_options open = rig_options(&rig, NULL);
    ofr_backend_session *cpu = NULL;
    open.threads = 1;
    rig_check(ofr_cpu_backend()->open(&open, &cpu, &err), &err);
    int32_t *tokens = rig_tokens(2 * N, vocab);
    float *expected = rig_floats(vocab), *got = rig_floats(vocab);
    for (uint32_t prompt = 0; prompt < 2; prompt++) {
        const int32_t *own = tokens + prompt * N;
        ofr_segment segment = {0, 0, N - 2};
        ofr_forward forward = {.segments = &segment, .n_segments = 1, .tokens = own};
        rig_check(ofr_cpu_backend()->forward(cpu, &forward, &err), &err);
        for (uint32_t i = N - 2; i < N; i++) {
            rig_segment(rig.session, 0, i, 1, own, OFR_FORWARD_OUTPUT_LAST, got);
        }
        segment = (ofr_segment){1, 0, N};
        forward.output = OFR_FORWARD_OUTPUT_LAST;
        forward.logits = expected;
        rig_check(ofr_cpu_backend()->forward(cpu, &forward, &err), &err);
        rig_near(got, expected, vocab, 0.04, "decode after another backend's prefill");
        compare_rows(&rig, options->n_layers, N - 2, 2);
    }
    uint64_t row = 2 * (uint64_t)options->n_layers * rig.layout.row_bytes;
    uint64_t moved = v->memory == OFR_OPENCL_MEMORY_DISCRETE ? 2 * (N - 2) * row + 4 * row : 0;
    assert_int_equal(ofr_opencl_backend()->handoff_bytes_copied(rig.session), moved);
    ofr_cpu_backend()->close(cpu);
    free(tokens);
    free(expected);
    free(got);
    rig_done(&rig);
}

/* Greedy decoding follows the CPU backend but where the two best are nearly equal. */
static void greedy_tokens_are_the_cpus(void **state)
{
    const variant *v = *state;
    opencl_rig rig;
    ofr_error err = {0};
    const memory_model_options *options = &shapes[1];
    set_up(&rig, options, v);
    uint32_t vocab = options->vocab_size;
    ofr_backend_options open = rig_options(&rig, NULL);
    ofr_backend_session *cpu = NULL;
    open.threads = 2;
    rig_check(ofr_cpu_backend()->open(&open, &cpu, &err), &err);
    float *theirs = rig_floats(vocab), *ours = rig_floats(vocab);
    int32_t token = 5;
    for (uint32_t i = 0; i < 40; i++) {
        ofr_segment segment = {1, i, 1};
        ofr_forward forward = {.segments = &segment,
                               .n_segments = 1,
                               .tokens = &token,
                               .output = OFR_FORWARD_OUTPUT_LAST,
                               .logits = theirs};
        rig_check(ofr_cpu_backend()->forward(cpu, &forward, &err), &err);
        segment.slot = 0;
        forward.logits = ours;
        rig_run(rig.session, &forward);
        int32_t best = 0, chosen = 0;
        for (int32_t t = 1; t < (int32_t)vocab; t++) {
            best = theirs[t] > theirs[best] ? t : best;
            chosen = ours[t] > ours[chosen] ? t : chosen;
        }
        float margin = theirs[best] - theirs[chosen];
        if (best != chosen && margin > 0.1f) {
            fail_msg("step %u: %d instead of %d, whose logit is %.3f higher", i, chosen, best,
                     (double)margin);
        }
        token = best;
    }
    ofr_cpu_backend()->close(cpu);
    free(theirs);
    free(ours);
    rig_done(&rig);
}

/* One launch for all layers against the reference: what its own kernel does otherwise than the
 * steps do. Compiling it costs more than anything else here, so that each shape brings many things.
 */
static void whole_tokens_match_the_reference(void **state)
{
    const variant *v = *state;
    const memory_model_features plain = {0};
    const memory_model_features all = {.head_norms = true,
                                       .mixed = true,
                                       .attention_softcap = 5,
                                       .sliding_window = 20,
                                       .residual_scale = 0.4f,
                                       .activation = OFR_ACTIVATION_GELU_TANH};
    memory_model_options options = shapes[1];
    options.n_layers = 2;
    options.weights = OFR_DTYPE_I4M;
    compare_features(&options, &all, v, 0.05);
    compare_features(&shapes[3], &plain, v, 0.04); /* biases, groups of a row, no tied head */
    compare_features(&shapes[4], &plain, v, 0.04); /* nine heads of one KV head, bytes */
}

/* test_opencl_forward [PATTERN of tests] [PART of a variant's name]: all without. */
int main(int argc, char **argv)
{
    bool in_place = rig_require_device();
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    static variant variants[] = {
        {"plain", OFR_OPENCL_MEMORY_SHARED, OFR_OPENCL_LAUNCHES_STEPS},
        {"dot", OFR_OPENCL_MEMORY_SHARED, OFR_OPENCL_LAUNCHES_STEPS},
        {"plain", OFR_OPENCL_MEMORY_DISCRETE, OFR_OPENCL_LAUNCHES_STEPS},
        {"dot", OFR_OPENCL_MEMORY_DISCRETE, OFR_OPENCL_LAUNCHES_STEPS},
        {"dot", OFR_OPENCL_MEMORY_SHARED, OFR_OPENCL_LAUNCHES_TOKEN},
        {"dot", OFR_OPENCL_MEMORY_DISCRETE, OFR_OPENCL_LAUNCHES_TOKEN},
        {"dot", OFR_OPENCL_MEMORY_DISCRETE, OFR_OPENCL_LAUNCHES_CUT},
    };
    int failed = 0;
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        variant *v = &variants[i];
        bool shared = v->memory == OFR_OPENCL_MEMORY_SHARED;
        bool token = v->launches >= OFR_OPENCL_LAUNCHES_TOKEN;
        char name[64];
        snprintf(name, sizeof name, "%s, %s%s", v->kernels, shared ? "shared" : "mirrored",
                 v->launches == OFR_OPENCL_LAUNCHES_CUT ? ", one launch cut in two"
                 : token                                ? ", one launch"
                                                        : "");
        if (argc > 2 && strstr(name, argv[2]) == NULL) {
            continue;
        }
        v->memory = in_place ? v->memory : OFR_OPENCL_MEMORY_DISCRETE;
        const struct CMUnitTest models[] = {
            cmocka_unit_test_prestate(unquantized_models_match_the_reference, v),
            cmocka_unit_test_prestate(quantized_models_match_the_reference, v),
            cmocka_unit_test_prestate(random_shapes_match_the_reference, v),
            cmocka_unit_test_prestate(architectures_match_the_reference, v),
            cmocka_unit_test_prestate(chunks_cut_anywhere_give_the_same, v),
            cmocka_unit_test_prestate(log_probabilities_are_those_of_the_logits, v),
            cmocka_unit_test_prestate(greedy_tokens_are_the_cpus, v),
            cmocka_unit_test_prestate(candidates_are_those_of_the_logits, v),
            cmocka_unit_test_prestate(hidden_sums_are_the_cpus, v),
        };
        const struct CMUnitTest memory[] = {
            cmocka_unit_test_prestate(long_contexts_are_split_and_merged, v),
            cmocka_unit_test_prestate(slots_do_not_disturb_one_another, v),
            cmocka_unit_test_prestate(layer_ranges_compose_also_with_the_cpu, v),
            cmocka_unit_test_prestate(prefill_elsewhere_decode_here, v),
        };
        const struct CMUnitTest whole[] = {
            cmocka_unit_test_prestate(whole_tokens_match_the_reference, v),
            cmocka_unit_test_prestate(long_contexts_are_split_and_merged, v),
            cmocka_unit_test_prestate(layer_ranges_compose_also_with_the_cpu, v),
        };
        const struct CMUnitTest whole_mirrored[] = {
            cmocka_unit_test_prestate(prefill_elsewhere_decode_here, v),
            cmocka_unit_test_prestate(layer_ranges_compose_also_with_the_cpu, v),
        };
        if (token) {
            failed += shared ? cmocka_run_group_tests_name(name, whole, NULL, NULL)
                             : cmocka_run_group_tests_name(name, whole_mirrored, NULL, NULL);
            continue;
        }
        if (shared) {
            failed += cmocka_run_group_tests_name(name, models, NULL, NULL);
        }
        failed += cmocka_run_group_tests_name(name, memory, NULL, NULL);
    }
    return failed;
}
