/* Backends in one process, as a plan arranges them, for tests written in Python: token ids on stdin
 * (one line), the result as JSON on stdout.
 *   backend_tool PACKAGE PLAN KERNELS CHUNK GENERATE [poison|unjudged|repeat:N]
 * Prefill in jobs of CHUNK tokens and GENERATE greedy tokens through the plan's stages, the strips
 * shared between all. "poison": every row that holds no token of the sequence is NaN before each
 * job. "repeat:N": the prompt N times over, from the beginning each time; nothing is judged. Prints
 * the ids, the margin of each choice in the fp32 reference, the mean KL divergence of the
 * predictions from the reference, the bytes copied and the time of each job in ms. KERNELS is for
 * the OpenVINO backend: "folded" or "whole". */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "backend/cpu/cpu_backend.h"
#include "backend/openvino/openvino_backend.h"
#include "base/clock.h"
#include "base/fp16.h"
#include "engine/plan.h"
#include "reference/reference.h"

enum { TOKENS_MAX = 16384, SESSIONS_MAX = 2 * OFR_PLAN_MAX_STAGES };

typedef struct opened {
    ofr_plan_stage stage;
    const ofr_backend *backend;
    ofr_backend_session *session;
} opened;

typedef struct tool {
    ofr_package *package;
    ofr_model model;
    ofr_kv_layout layout;
    char *arena;
    ofr_plan plan;
    opened sessions[SESSIONS_MAX];
    size_t n_sessions;
    float *hidden; /* [2 * chunk_max, d_model] */
    float *logits;
    bool poison;
} tool;

static void die(const char *what, const ofr_error *err)
{
    fprintf(stderr, "backend_tool: %s: %s\n", what, err ? err->text : "");
    exit(1);
}

static void *checked(void *p)
{
    if (!p)
        die("out of memory", NULL);
    return p;
}

static opened *session_of(tool *t, const ofr_plan_stage *stage, const char *kernels, uint32_t chunk)
{
    for (size_t i = 0; i < t->n_sessions; i++)
        if (memcmp(&t->sessions[i].stage, stage, sizeof *stage) == 0)
            return &t->sessions[i];
    opened *made = &t->sessions[t->n_sessions++];
    bool cpu = strcmp(stage->device, "cpu") == 0;
    ofr_error err = {0};
    made->stage = *stage;
    made->backend = cpu ? ofr_cpu_backend() : ofr_openvino_backend();
    ofr_backend_options options = {.model = &t->model,
                                   .layer_begin = stage->layer_begin,
                                   .layer_end = stage->layer_end,
                                   .kv_layout = t->layout,
                                   .kv_arena = t->arena,
                                   .threads = 2,
                                   .max_batch_tokens = chunk,
                                   .device = cpu ? NULL : made->stage.device,
                                   .kernels = cpu ? NULL : kernels};
    if (made->backend->open(&options, &made->session, &err) < 0)
        die(stage->device, &err);
    return made;
}

static void poison(tool *t, uint32_t position)
{
    uint32_t rows = t->layout.context + t->layout.chunk_max;
    for (uint32_t layer = 0; layer < t->layout.n_layers; layer++) {
        uint64_t strips[2] = {ofr_kv_strip_k(&t->layout, 0, layer),
                              ofr_kv_strip_v(&t->layout, 0, layer)};
        for (int i = 0; i < 2; i++)
            memset(t->arena + strips[i] + position * t->layout.row_bytes, 0xff,
                   (rows - position) * t->layout.row_bytes);
    }
}

static double run(tool *t, const int32_t *tokens, uint32_t position, uint32_t n,
                  const char *kernels, uint32_t chunk)
{
    ofr_error err = {0};
    const ofr_plan_phase *phase =
        &t->plan.phases[n == 1 ? OFR_PLAN_PHASE_DECODE : OFR_PLAN_PHASE_PREFILL];
    ofr_segment segment = {0, position, n};
    if (t->poison)
        poison(t, position);
    uint64_t begin = ofr_clock_ns();
    for (uint32_t i = 0; i < phase->n_stages; i++) {
        opened *o = session_of(t, &phase->stages[i], kernels, chunk);
        ofr_forward forward = {.segments = &segment,
                               .n_segments = 1,
                               .tokens = tokens,
                               .hidden_in = t->hidden,
                               .hidden_out = t->hidden,
                               .hidden_rows = 2 * t->layout.chunk_max,
                               .output = OFR_FORWARD_OUTPUT_LAST,
                               .logits = t->logits};
        if (o->backend->forward(o->session, &forward, &err) < 0)
            die(o->stage.device, &err);
    }
    return (double)(ofr_clock_ns() - begin) * 1e-6;
}

static double divergence(const float *a, const float *b, uint32_t n)
{
    double top_a = -INFINITY, top_b = -INFINITY, sum_a = 0, sum_b = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        top_a = fmax(top_a, (double)a[i]);
        top_b = fmax(top_b, (double)b[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        sum_a += exp((double)a[i] - top_a);
        sum_b += exp((double)b[i] - top_b);
    }
    for (uint32_t i = 0; i < n; i++) {
        double x = (double)a[i] - top_a - log(sum_a), y = (double)b[i] - top_b - log(sum_b);
        sum += exp(x) * (x - y);
    }
    return sum;
}

static uint32_t best_of(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static void open_tool(tool *t, const char *path, const char *plan, uint32_t context, uint32_t chunk)
{
    static const ofr_plan_device devices[] = {{"cpu", OFR_PLAN_DEVICE_CPU},
                                              {"openvino:CPU", OFR_PLAN_DEVICE_CPU}};
    ofr_error err = {0};
    if (ofr_package_open(path, 0, &t->package, &err) < 0 ||
        ofr_model_init(&t->model, t->package, &err) < 0)
        die(path, &err);
    const ofr_model_params *p = t->model.params;
    if (context > p->context_length)
        context = p->context_length;
    if (ofr_kv_layout_init(&t->layout, p, 1, context, chunk, &err) < 0 ||
        ofr_plan_parse(plan, &t->plan, &err) < 0 ||
        ofr_plan_resolve(&t->plan, devices, 2, p->n_layers, &err) < 0)
        die(plan, &err);
    t->arena = checked(aligned_alloc(4096, t->layout.total_bytes));
    memset(t->arena, 0, t->layout.total_bytes);
    size_t hidden = (size_t)2 * chunk * p->d_model * sizeof(float);
    t->hidden = checked(aligned_alloc(4096, (hidden + 4095) / 4096 * 4096));
    memset(t->hidden, 0, hidden);
    t->logits = checked(malloc(p->vocab_size * sizeof(float)));
}

static uint32_t read_ids(int32_t *tokens)
{
    uint32_t n = 0;
    int value;
    while (n < TOKENS_MAX && scanf("%d", &value) == 1)
        tokens[n++] = value;
    return n;
}

/* Jobs of `chunk` tokens, then single ones; `judge` sees the logits after each prediction. */
int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: see the head of the source\n");
        return 2;
    }
    static int32_t tokens[TOKENS_MAX + 4096];
    tool t = {.poison = argc > 6 && strcmp(argv[6], "poison") == 0};
    uint32_t repeats = 1;
    if (argc > 6 && sscanf(argv[6], "repeat:%u", &repeats) != 1)
        repeats = 1;
    bool judged = repeats == 1 && !(argc > 6 && strcmp(argv[6], "unjudged") == 0);
    uint32_t n = read_ids(tokens), chunk = (uint32_t)atoi(argv[4]);
    uint32_t generate = (uint32_t)atoi(argv[5]);
    if (n == 0 || generate > 4096)
        die("no ids on stdin", NULL);
    open_tool(&t, argv[1], argv[2], 8192, chunk);
    uint32_t vocab = t.model.params->vocab_size;
    ofr_reference *reference = NULL;
    float *expected = checked(calloc((size_t)(n + generate) * vocab, sizeof *expected));
    ofr_error err = {0};
    if (judged && ofr_reference_new(t.model.params, ofr_reference_from_package, t.package,
                                    n + generate, 2, &reference, &err) < 0)
        die("reference", &err);
    if (judged && ofr_reference_forward(reference, tokens, n, NULL, expected) < 0)
        die("reference", NULL);
    double kl = 0;
    printf("{\"jobs_ms\":[");
    for (uint32_t k = 0; k < repeats; k++)
        for (uint32_t i = 0; i < n; i += chunk)
            printf("%s%.3f", i || k ? "," : "",
                   run(&t, tokens + i, i, n - i < chunk ? n - i : chunk, argv[3], chunk));
    printf("],\"steps\":[");
    for (uint32_t i = 0; i < generate; i++) {
        const float *row = expected + (size_t)(n + i - 1) * vocab;
        uint32_t chosen = best_of(t.logits, vocab);
        double margin = judged ? (double)row[best_of(row, vocab)] - (double)row[chosen] : 0;
        if (judged)
            kl += divergence(row, t.logits, vocab) / generate;
        tokens[n + i] = (int32_t)chosen;
        if (judged && ofr_reference_forward(reference, tokens + n + i, 1, NULL,
                                            expected + (size_t)(n + i) * vocab) < 0)
            die("reference", NULL);
        double ms = run(&t, tokens + n + i, n + i, 1, argv[3], chunk);
        printf("%s{\"id\":%u,\"below_best\":%.5f,\"ms\":%.3f}", i ? "," : "", chosen, margin, ms);
    }
    uint64_t copied = 0;
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    ofr_openvino_figures figures = {0};
    for (size_t i = 0; i < t.n_sessions; i++) {
        copied += t.sessions[i].backend->handoff_bytes_copied(t.sessions[i].session);
        if (t.sessions[i].backend == ofr_openvino_backend())
            figures = ofr_openvino_session_figures(t.sessions[i].session);
        t.sessions[i].backend->close(t.sessions[i].session);
    }
    printf("],\"kl\":%.8f,\"copied\":%" PRIu64 ",\"compiled\":%u,\"from_cache\":%u,"
           "\"given_up\":%u,\"compile_ms\":%.1f,\"chunks\":%" PRIu64 ",\"padded\":%" PRIu64
           ",\"peak_rss_mib\":%ld}\n",
           kl, copied, figures.graphs_compiled, figures.graphs_from_cache, figures.graphs_given_up,
           (double)figures.compile_ns * 1e-6, figures.chunks, figures.padded_tokens,
           usage.ru_maxrss >> 10);
    free(expected);
    free(t.arena);
    free(t.hidden);
    free(t.logits);
    ofr_reference_free(reference);
    ofr_model_done(&t.model);
    ofr_package_close(t.package);
    return 0;
}
