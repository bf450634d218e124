/* The fp32 reference and the CPU backend on a real model, for tests written in Python; token ids
 * come as text on stdin, one sequence a line, results go out as JSON:
 *   forward_tool score PACKAGE CONTEXT THREADS KERNELS   nll of both, windows of CONTEXT tokens
 *                                                        (forward_plain_tool: no sanitizers)
 *   forward_tool layers PACKAGE KERNELS                  relative errors layer by layer
 *   forward_tool both PACKAGE STEP KERNELS OUT           raw fp32 [2][n][vocab]: the reference's,
 * and the backend's in batches of STEP tokens forward_tool generate PACKAGE|FILE.gguf N THREADS
 * greedy ids of the reference and margins forward_tool logits PACKAGE                          of
 * the reference, one line: raw f32
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"
#include "bake_model/gguf_dequantize.h"
#include "bake_model/gguf_model.h"
#include "reference/reference.h"

typedef struct sequence {
    int32_t *tokens;
    size_t n;
} sequence;

static void die(const char *what, const ofr_error *err)
{
    fprintf(stderr, "forward_tool: %s: %s\n", what, err != NULL ? err->text : "");
    exit(1);
}

static void *checked(void *p)
{
    if (p == NULL) {
        die("out of memory", NULL);
    }
    return p;
}

/* The next line of ids; false at the end. */
static bool read_sequence(sequence *line)
{
    char *text = NULL;
    size_t capacity = 0;
    ssize_t length = getline(&text, &capacity, stdin);
    line->n = 0;
    line->tokens = checked(calloc(length > 0 ? (size_t)length + 1 : 1, sizeof *line->tokens));
    if (length < 0) {
        free(text);
        free(line->tokens);
        return false;
    }
    for (char *at = text, *end;; at = end) {
        long value = strtol(at, &end, 10);
        if (end == at) {
            break;
        }
        line->tokens[line->n++] = (int32_t)value;
    }
    free(text);
    return true;
}

typedef struct engine {
    ofr_package *package;
    ofr_model model;
    ofr_kv_layout layout;
    void *arena;
} engine;

static void open_engine(engine *e, const char *path, uint32_t context)
{
    ofr_error err = {0};
    if (ofr_package_open(path, 0, &e->package, &err) < 0 ||
        ofr_model_init(&e->model, e->package, &err) < 0 ||
        ofr_kv_layout_init(&e->layout, e->model.params, 1, context, context, &err) < 0) {
        die(path, &err);
    }
    e->arena = checked(aligned_alloc(4096, e->layout.total_bytes));
    memset(e->arena, 0, e->layout.total_bytes);
}

static void close_engine(engine *e)
{
    free(e->arena);
    ofr_model_done(&e->model);
    ofr_package_close(e->package);
}

static ofr_backend_session *open_session(engine *e, uint32_t begin, uint32_t end, uint32_t threads,
                                         const char *kernels)
{
    ofr_error err = {0};
    ofr_backend_session *session = NULL;
    ofr_backend_options options = {.model = &e->model,
                                   .layer_begin = begin,
                                   .layer_end = end,
                                   .kv_layout = e->layout,
                                   .kv_arena = e->arena,
                                   .threads = threads,
                                   .max_batch_tokens = e->layout.context,
                                   .kernels = kernels};
    if (ofr_cpu_backend()->open(&options, &session, &err) < 0) {
        die("open", &err);
    }
    return session;
}

static ofr_reference *open_reference(engine *e, uint32_t threads)
{
    ofr_error err = {0};
    ofr_reference *reference = NULL;
    if (ofr_reference_new(e->model.params, ofr_reference_from_package, e->package,
                          e->layout.context, threads, &reference, &err) < 0) {
        die("reference", &err);
    }
    return reference;
}

static double log_probability(const float *logits, uint32_t n, int32_t target)
{
    double top = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        top = fmax(top, (double)logits[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        sum += exp((double)logits[i] - top);
    }
    return (double)logits[target] - top - log(sum);
}

static int run_score(const char *path, uint32_t context, uint32_t threads, const char *kernels)
{
    engine e;
    ofr_error err = {0};
    sequence line;
    open_engine(&e, path, context);
    uint32_t vocab = e.model.params->vocab_size;
    ofr_backend_session *session = open_session(&e, 0, e.model.params->n_layers, threads, kernels);
    ofr_reference *reference = open_reference(&e, threads);
    float *logits = checked(malloc((size_t)context * vocab * sizeof *logits));
    float *logprobs = checked(malloc(context * sizeof *logprobs));
    double nll = 0, reference_nll = 0;
    size_t count = 0;
    while (read_sequence(&line)) {
        for (size_t at = 0; at + 1 < line.n; at += context) {
            uint32_t n = (uint32_t)(line.n - 1 - at < context ? line.n - 1 - at : context);
            ofr_segment segment = {0, 0, n};
            ofr_forward forward = {.segments = &segment,
                                   .n_segments = 1,
                                   .tokens = line.tokens + at,
                                   .output = OFR_FORWARD_OUTPUT_LOGPROBS,
                                   .targets = line.tokens + at + 1,
                                   .logprobs = logprobs};
            if (ofr_cpu_backend()->forward(session, &forward, &err) < 0) {
                die("forward", &err);
            }
            ofr_reference_rewind(reference, 0);
            if (ofr_reference_forward(reference, line.tokens + at, n, NULL, logits) < 0) {
                die("reference", NULL);
            }
            for (uint32_t i = 0; i < n; i++) {
                nll -= (double)logprobs[i];
                reference_nll -=
                    log_probability(logits + (size_t)i * vocab, vocab, line.tokens[at + i + 1]);
            }
            count += n;
            fprintf(stderr, "\r%zu tokens", count);
        }
        free(line.tokens);
    }
    printf("{\"tokens\":%zu,\"perplexity\":%.6f,\"reference_perplexity\":%.6f}\n", count,
           exp(nll / (double)count), exp(reference_nll / (double)count));
    free(logits);
    free(logprobs);
    ofr_reference_free(reference);
    ofr_cpu_backend()->close(session);
    close_engine(&e);
    return 0;
}

static double relative_error(const float *got, const float *expected, size_t n)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        difference += pow((double)got[i] - (double)expected[i], 2);
        size += pow((double)expected[i], 2);
    }
    return sqrt(difference / size);
}

/* Each layer by itself from the reference's own input, so that errors do not add up; the whole
 * model; and the Kullback-Leibler divergence of the predictions. */
static int run_layers(const char *path, const char *kernels)
{
    engine e;
    ofr_error err = {0};
    sequence line;
    if (!read_sequence(&line) || line.n == 0) {
        die("no tokens on stdin", NULL);
    }
    uint32_t n = (uint32_t)line.n;
    open_engine(&e, path, n);
    const ofr_model_params *p = e.model.params;
    size_t rows = (size_t)n * p->d_model, vocab = p->vocab_size;
    float *hidden = checked(malloc((p->n_layers + 1) * rows * sizeof *hidden));
    float *out = checked(malloc(rows * sizeof *out));
    float *expected = checked(malloc(n * vocab * sizeof *expected));
    float *logits = checked(malloc(n * vocab * sizeof *logits));
    ofr_reference *reference = open_reference(&e, 2);
    if (ofr_reference_forward(reference, line.tokens, n, hidden, expected) < 0) {
        die("reference", NULL);
    }
    ofr_segment segment = {0, 0, n};
    printf("{\"layers\":[");
    for (uint32_t i = 0; i + 1 < p->n_layers; i++) {
        ofr_backend_session *session = open_session(&e, i, i + 1, 2, kernels);
        ofr_forward forward = {.segments = &segment,
                               .n_segments = 1,
                               .tokens = line.tokens,
                               .hidden_in = hidden + i * rows,
                               .hidden_out = out};
        if (ofr_cpu_backend()->forward(session, &forward, &err) < 0) {
            die("forward", &err);
        }
        printf("%s%.6f", i > 0 ? "," : "", relative_error(out, hidden + (i + 1) * rows, rows));
        ofr_cpu_backend()->close(session);
    }
    ofr_backend_session *session = open_session(&e, 0, p->n_layers, 2, kernels);
    ofr_forward forward = {.segments = &segment,
                           .n_segments = 1,
                           .tokens = line.tokens,
                           .output = OFR_FORWARD_OUTPUT_ALL,
                           .logits = logits};
    if (ofr_cpu_backend()->forward(session, &forward, &err) < 0) {
        die("forward", &err);
    }
    double divergence = 0;
    for (uint32_t t = 0; t < n; t++) {
        const float *a = expected + t * vocab, *b = logits + t * vocab;
        double shift_a = (double)a[0] - log_probability(a, p->vocab_size, 0);
        double shift_b = (double)b[0] - log_probability(b, p->vocab_size, 0);
        for (size_t v = 0; v < vocab; v++) {
            double own = (double)a[v] - shift_a;
            divergence += exp(own) * (own - ((double)b[v] - shift_b)) / n;
        }
    }
    printf("],\"logits\":%.6f,\"kl\":%.8f}\n", relative_error(logits, expected, n * vocab),
           divergence);
    ofr_cpu_backend()->close(session);
    free(hidden);
    free(out);
    free(expected);
    free(logits);
    free(line.tokens);
    ofr_reference_free(reference);
    close_engine(&e);
    return 0;
}

static int run_both(const char *path, uint32_t step, const char *kernels, const char *out_path)
{
    engine e;
    ofr_error err = {0};
    sequence line;
    if (!read_sequence(&line) || line.n == 0) {
        die("no tokens on stdin", NULL);
    }
    uint32_t n = (uint32_t)line.n;
    open_engine(&e, path, n);
    size_t vocab = e.model.params->vocab_size;
    float *logits = checked(malloc(2 * n * vocab * sizeof *logits));
    ofr_reference *reference = open_reference(&e, 2);
    if (ofr_reference_forward(reference, line.tokens, n, NULL, logits) < 0) {
        die("reference", NULL);
    }
    ofr_backend_session *session =
        open_session(&e, 0, e.model.params->n_layers, 2, *kernels ? kernels : NULL);
    for (uint32_t at = 0; at < n; at += step) {
        ofr_segment segment = {0, at, n - at < step ? n - at : step};
        ofr_forward forward = {.segments = &segment,
                               .n_segments = 1,
                               .tokens = line.tokens + at,
                               .output = OFR_FORWARD_OUTPUT_ALL,
                               .logits = logits + (n + at) * vocab};
        if (ofr_cpu_backend()->forward(session, &forward, &err) < 0) {
            die("forward", &err);
        }
    }
    FILE *out = fopen(out_path, "wbe");
    if (out == NULL || fwrite(logits, sizeof *logits, 2 * n * vocab, out) != 2 * n * vocab ||
        fclose(out) != 0) {
        die(out_path, NULL);
    }
    ofr_cpu_backend()->close(session);
    ofr_reference_free(reference);
    free(logits);
    free(line.tokens);
    close_engine(&e);
    return 0;
}

typedef struct gguf_source {
    ofr_gguf *gguf;
    ofr_bake_model model;
} gguf_source;

/* The unquantized values of the source, under the package's names and in its order of rows. */
static int source_values(void *data, const char *name, uint64_t n, float *ret_values,
                         ofr_error *err)
{
    const gguf_source *source = data;
    const ofr_bake_tensor *found = NULL;
    for (size_t i = 0; i < source->model.n_tensors; i++) {
        if (strcmp(source->model.tensors[i].name, name) == 0) {
            found = &source->model.tensors[i];
        }
    }
    if (found == NULL) {
        return 0;
    }
    const ofr_gguf_tensor *tensor = ofr_gguf_find_tensor(source->gguf, found->source.name);
    if (tensor == NULL || tensor->rows * tensor->dims[0] != n) {
        return ofr_fail(err, OFR_EFORMAT, "%s has another size in the source", name);
    }
    void *raw = checked(malloc(tensor->bytes));
    int result = ofr_gguf_read(source->gguf, tensor, 0, raw, tensor->bytes, err);
    float *values = checked(malloc(n * sizeof *values));
    if (result == 0) {
        ofr_gguf_dequantize(tensor->type, raw, n, values);
        uint64_t rows = found->shape[0], columns = found->n_dims > 1 ? found->shape[1] : 1;
        for (uint64_t row = 0; row < rows; row++) {
            uint64_t from = found->rope_heads > 0
                                ? ofr_bake_rope_row(row, source->model.params.head_dim,
                                                    source->model.params.rope.dims)
                                : row;
            memcpy(ret_values + row * columns, values + from * columns, columns * sizeof *values);
        }
        result = 1;
    }
    free(values);
    free(raw);
    return result;
}

/* Two best logits of a row. */
static int32_t best_two(const float *logits, uint32_t n, double *ret_margin)
{
    uint32_t best = 0;
    double second = -INFINITY;
    for (uint32_t i = 1; i < n; i++) {
        if (logits[i] > logits[best]) {
            second = (double)logits[best];
            best = i;
        } else if ((double)logits[i] > second) {
            second = (double)logits[i];
        }
    }
    *ret_margin = (double)logits[best] - second;
    return (int32_t)best;
}

static void generate_lines(ofr_reference *reference, uint32_t vocab, uint32_t n)
{
    sequence line;
    float *logits = NULL;
    bool first = true;
    printf("[");
    while (read_sequence(&line)) {
        uint32_t count = (uint32_t)line.n;
        const int32_t *next = line.tokens;
        int32_t token = 0;
        logits = checked(realloc(logits, (count + 1) * (size_t)vocab * sizeof *logits));
        ofr_reference_rewind(reference, 0);
        printf("%s{\"steps\":[", first ? "" : ",\n");
        for (uint32_t i = 0; i < n; i++) {
            double margin = 0;
            if (ofr_reference_forward(reference, next, count, NULL, logits) < 0) {
                die("the prompt and its continuation are too long", NULL);
            }
            token = best_two(logits + (size_t)(count - 1) * vocab, vocab, &margin);
            printf("%s{\"id\":%" PRId32 ",\"margin\":%.5f}", i > 0 ? "," : "", token, margin);
            next = &token;
            count = 1;
        }
        printf("]}");
        first = false;
        free(line.tokens);
    }
    printf("]\n");
    free(logits);
}

static int run_generate(const char *path, uint32_t n, uint32_t threads)
{
    ofr_error err = {0};
    ofr_reference *reference = NULL;
    size_t length = strlen(path);
    if (length > 5 && strcmp(path + length - 5, ".gguf") == 0) {
        gguf_source source = {0};
        if (ofr_gguf_open(path, &source.gguf, &err) < 0 ||
            ofr_gguf_model_init(&source.model, (const ofr_gguf *const *)&source.gguf, 1, 128, 0,
                                &err) < 0 ||
            ofr_reference_new(&source.model.params, source_values, &source, 2048, threads,
                              &reference, &err) < 0) {
            die(path, &err);
        }
        generate_lines(reference, source.model.params.vocab_size, n);
        ofr_bake_model_done(&source.model);
        ofr_gguf_close(source.gguf);
    } else {
        engine e;
        open_engine(&e, path, 2048);
        reference = open_reference(&e, threads);
        generate_lines(reference, e.model.params->vocab_size, n);
        close_engine(&e);
    }
    ofr_reference_free(reference);
    return 0;
}

/* [n, vocab] as raw floats on stdout. */
static int run_logits(const char *path)
{
    engine e;
    sequence line;
    if (!read_sequence(&line) || line.n == 0) {
        die("no tokens on stdin", NULL);
    }
    open_engine(&e, path, (uint32_t)line.n);
    size_t count = line.n * e.model.params->vocab_size;
    float *logits = checked(malloc(count * sizeof *logits));
    ofr_reference *reference = open_reference(&e, 2);
    if (ofr_reference_forward(reference, line.tokens, (uint32_t)line.n, NULL, logits) < 0) {
        die("reference", NULL);
    }
    if (fwrite(logits, sizeof *logits, count, stdout) != count) {
        die("stdout", NULL);
    }
    free(logits);
    free(line.tokens);
    ofr_reference_free(reference);
    close_engine(&e);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "both") == 0) {
        return run_both(argv[2], (uint32_t)strtoul(argv[3], NULL, 10), argv[4], argv[5]);
    }
    if (argc == 6 && strcmp(argv[1], "score") == 0) {
        return run_score(argv[2], (uint32_t)atoi(argv[3]), (uint32_t)atoi(argv[4]), argv[5]);
    }
    if (argc == 4 && strcmp(argv[1], "layers") == 0) {
        return run_layers(argv[2], argv[3]);
    }
    if (argc == 3 && strcmp(argv[1], "logits") == 0) {
        return run_logits(argv[2]);
    }
    if (argc == 5 && strcmp(argv[1], "generate") == 0) {
        return run_generate(argv[2], (uint32_t)atoi(argv[3]), (uint32_t)atoi(argv[4]));
    }
    fprintf(stderr, "usage: forward_tool score|layers|generate ... (see the head of its source)\n");
    return 2;
}
