/* The OpenCL backend on a model of a known shape with random weights, beside what the device can do
 * at most. Prints one JSON object.
 *
 *   opencl_speed [--device opencl:N] [--shape llama-7b|mistral-7b|smollm2-135m|tiny]
 *                [--kernels dot|plain] [--depth 512] [--tokens 64] [--prompt 512] [--repeat 3]
 *                [--no_autotune | --tune_token] [--profile] [--launches auto|steps|token]
 *                [--attention auto|f32|f16]
 *                [--candidates K]
 *
 * Decode: `tokens` single tokens from `depth` on, logits fetched each time; with --candidates only
 * the K best, chosen on the device. Prefill: `prompt` tokens in one call. Peaks: the best of the
 * repeats. With --profile a second session follows whose kernels are timed one by one, to stderr.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/opencl/opencl_backend.h"
#include "backend/opencl/opencl_program.h"
#include "base/clock.h"
#include "base/fp16.h"

extern const char ofr_opencl_source_common[], ofr_bench_source_opencl_peaks[];

typedef struct shape {
    const char *name;
    uint32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size, group;
} shape;

static const shape shapes[] = {
    {"llama-7b", 32, 4096, 32, 32, 128, 11008, 32000, 128},
    {"mistral-7b", 32, 4096, 32, 8, 128, 14336, 32000, 128},
    {"smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 64},
    {"tiny", 2, 256, 4, 2, 64, 512, 1000, 128},
};

typedef struct speed_options {
    const char *device, *shape, *kernels;
    uint32_t depth, tokens, prompt, repeat, candidates;
    unsigned autotune;
    bool profile;
    enum ofr_opencl_launches launches;
    enum ofr_opencl_attention attention;
} speed_options;

static _Noreturn void die(const char *what, const ofr_error *err)
{
    fprintf(stderr, "opencl_speed: %s%s%s\n", what, err != NULL ? ": " : "",
            err != NULL ? err->text : "");
    exit(1);
}

/* Weights in one anonymous mapping. */
typedef struct random_model {
    ofr_model model;
    ofr_model_params params;
    ofr_tensor *tensors;
    uint32_t n_tensors;
    char *base;
    size_t size, used;
    uint64_t state;
    uint64_t matrix_bytes; /* that a token reads */
} random_model;

static uint64_t next_random(random_model *m)
{
    m->state ^= m->state << 13;
    m->state ^= m->state >> 7;
    m->state ^= m->state << 17;
    return m->state;
}

static void *take(random_model *m, size_t bytes)
{
    char *at = m->base + m->used;
    m->used += (bytes + 4095) / 4096 * 4096;
    if (m->used > m->size) {
        die("the model is larger than was reckoned", NULL);
    }
    return at;
}

static const float *ones(random_model *m, uint32_t n)
{
    float *values = take(m, n * sizeof *values);
    for (uint32_t i = 0; i < n; i++) {
        values[i] = 1;
    }
    return values;
}

static const ofr_tensor *matrix(random_model *m, enum ofr_dtype dtype, uint32_t rows,
                                uint32_t columns, uint32_t group)
{
    ofr_tensor *t = &m->tensors[m->n_tensors++];
    size_t n = (size_t)rows * columns, bits = ofr_dtype_bits(dtype);
    *t = (ofr_tensor){.name = "random",
                      .dtype = dtype,
                      .n_dims = 2,
                      .shape = {rows, columns},
                      .group_size = columns % group == 0 ? group : 32,
                      .bytes = n * bits / 8};
    size_t n_scales = n / t->group_size;
    t->scale_bytes = 2 * n_scales;
    uint64_t *data = take(m, t->bytes);
    uint16_t *scales = take(m, t->scale_bytes);
    for (size_t i = 0; i < t->bytes / 8; i++) {
        data[i] = next_random(m);
    }
    uint16_t scale = ofr_float_to_half(bits == 4 ? 0.003f : 0.0002f);
    for (size_t i = 0; i < n_scales; i++) {
        scales[i] = (uint16_t)(scale + i % 7);
    }
    t->data = data;
    t->scales = scales;
    m->matrix_bytes += t->bytes + t->scale_bytes;
    return t;
}

static void make_model(random_model *m, const shape *s)
{
    *m = (random_model){.state = 88172645463325252U, .size = (size_t)8 << 30};
    m->params = (ofr_model_params){.architecture = "llama",
                                   .name = "random",
                                   .n_layers = s->n_layers,
                                   .d_model = s->d_model,
                                   .n_heads = s->n_heads,
                                   .n_kv_heads = s->n_kv_heads,
                                   .head_dim = s->head_dim,
                                   .d_ff = s->d_ff,
                                   .vocab_size = s->vocab_size,
                                   .context_length = 8192,
                                   .rms_epsilon = 1e-5f,
                                   .rope = {.dims = s->head_dim, .base = 10000}};
    m->base = mmap(NULL, m->size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    m->tensors = calloc(s->n_layers * 7 + 2, sizeof *m->tensors);
    m->model.layers = calloc(s->n_layers, sizeof *m->model.layers);
    if (m->base == MAP_FAILED || m->tensors == NULL || m->model.layers == NULL) {
        die("out of memory", NULL);
    }
    uint32_t q = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim, d = s->d_model;
    m->model.params = &m->params;
    m->model.embedding = matrix(m, OFR_DTYPE_I8, s->vocab_size, d, s->group);
    m->matrix_bytes = 0; /* one row of it */
    for (uint32_t i = 0; i < s->n_layers; i++) {
        ofr_layer *l = &m->model.layers[i];
        l->attention_norm = ones(m, d);
        l->mlp_norm = ones(m, d);
        l->q.weight = matrix(m, OFR_DTYPE_I4, q, d, s->group);
        l->k.weight = matrix(m, OFR_DTYPE_I4, kv, d, s->group);
        l->v.weight = matrix(m, OFR_DTYPE_I4, kv, d, s->group);
        l->o.weight = matrix(m, OFR_DTYPE_I4, d, q, s->group);
        l->gate.weight = matrix(m, OFR_DTYPE_I4, s->d_ff, d, s->group);
        l->up.weight = matrix(m, OFR_DTYPE_I4, s->d_ff, d, s->group);
        l->down.weight = matrix(m, OFR_DTYPE_I4, d, s->d_ff, s->group);
    }
    m->model.final_norm = ones(m, d);
    m->model.head.weight = matrix(m, OFR_DTYPE_I8, s->vocab_size, d, s->group);
}

/* Peaks. */
typedef struct peaks {
    double read_gb_s, byte_tops, float_tflops, half_tflops, launch_us;
} peaks;

typedef struct bench_device {
    const ofr_opencl_api *api;
    cl_context context;
    cl_command_queue queue;
    cl_program program;
    cl_mem memory, out;
} bench_device;

static double best_seconds(bench_device *d, cl_kernel kernel, size_t global, size_t local,
                           uint32_t repeat, uint32_t launches)
{
    double best = 1e9;
    for (uint32_t r = 0; r <= repeat; r++) {
        uint64_t start = ofr_clock_ns();
        for (uint32_t i = 0; i < launches; i++) {
            if (d->api->EnqueueNDRangeKernel(d->queue, kernel, 1, NULL, &global, &local, 0, NULL,
                                             NULL) != CL_SUCCESS) {
                die("a peak kernel did not start", NULL);
            }
        }
        d->api->Finish(d->queue);
        double taken = (double)(ofr_clock_ns() - start) / 1e9;
        best = r > 0 && taken < best ? taken : best;
    }
    return best;
}

static cl_kernel kernel_of(const bench_device *d, const char *name)
{
    cl_int status = CL_SUCCESS;
    cl_kernel kernel = d->api->CreateKernel(d->program, name, &status);
    if (status != CL_SUCCESS) {
        die(name, NULL);
    }
    return kernel;
}

static double peak_operations(bench_device *d, const char *name, size_t groups, uint32_t rounds,
                              uint32_t repeat)
{
    cl_kernel kernel = kernel_of(d, name);
    uint32_t seed = 3;
    d->api->SetKernelArg(kernel, 0, sizeof rounds, &rounds);
    d->api->SetKernelArg(kernel, 1, sizeof seed, &seed);
    d->api->SetKernelArg(kernel, 2, sizeof d->out, &d->out);
    double seconds = best_seconds(d, kernel, groups * 256, 256, repeat, 1);
    d->api->ReleaseKernel(kernel);
    return (double)groups * 256 * 256 * rounds / seconds;
}

static peaks measure_peaks(const ofr_opencl_api *api, const ofr_opencl_device *device,
                           uint32_t repeat)
{
    peaks p = {0};
    ofr_error err = {0};
    cl_int status = CL_SUCCESS;
    bench_device d = {.api = api};
    bool gpu = (device->type & CL_DEVICE_TYPE_GPU) != 0;
    d.context = api->CreateContext(NULL, 1, &device->id, NULL, NULL, &status);
    d.queue = api->CreateCommandQueueWithProperties(d.context, device->id, NULL, &status);
    ofr_opencl_compiler compiler = {.api = api, .device = device, .context = d.context};
    const char *sources[] = {ofr_opencl_source_common, ofr_bench_source_opencl_peaks};
    if (ofr_opencl_program_build(&compiler, sources, 2, "", &d.program, &err) < 0) {
        die("peaks", &err);
    }
    uint64_t bytes = gpu ? (uint64_t)4 << 30 : (uint64_t)256 << 20;
    bytes = bytes < device->max_allocation / 2 ? bytes : device->max_allocation / 2;
    uint64_t n = bytes / 16;
    const cl_uint one = 0x01010101;
    d.memory = api->CreateBuffer(d.context, CL_MEM_READ_WRITE, bytes, NULL, &status);
    d.out = api->CreateBuffer(d.context, CL_MEM_READ_WRITE, 64, NULL, &status);
    api->EnqueueFillBuffer(d.queue, d.memory, &one, 4, 0, bytes, 0, NULL, NULL);
    api->EnqueueFillBuffer(d.queue, d.out, &one, 4, 0, 64, 0, NULL, NULL);
    cl_kernel read = kernel_of(&d, "peak_read");
    api->SetKernelArg(read, 0, sizeof d.memory, &d.memory);
    api->SetKernelArg(read, 1, sizeof n, &n);
    api->SetKernelArg(read, 2, sizeof d.out, &d.out);
    for (size_t per_unit = 2; per_unit <= 16; per_unit *= 2) {
        size_t groups = device->compute_units * per_unit;
        double s = best_seconds(&d, read, groups * 256, 256, repeat, gpu ? 4 : 1) / (gpu ? 4 : 1);
        double rate = (double)bytes / s / 1e9;
        p.read_gb_s = rate > p.read_gb_s ? rate : p.read_gb_s;
    }
    cl_kernel launch = kernel_of(&d, "peak_launch");
    api->SetKernelArg(launch, 0, sizeof d.out, &d.out);
    p.launch_us = best_seconds(&d, launch, 256, 256, repeat, 1000) / 1000 * 1e6;
    size_t groups = device->compute_units * (gpu ? 64 : 4);
    uint32_t rounds = gpu ? 200 : 4;
    p.byte_tops = peak_operations(&d, "peak_bytes", groups, rounds, repeat) * 8 / 1e12;
    p.float_tflops = peak_operations(&d, "peak_float", groups, rounds, repeat) * 2 / 1e12;
    if (device->nvidia > 0) {
        p.half_tflops = peak_operations(&d, "peak_half", groups, rounds, repeat) * 4 / 1e12;
    }
    api->ReleaseKernel(read);
    api->ReleaseKernel(launch);
    api->ReleaseMemObject(d.memory);
    api->ReleaseMemObject(d.out);
    api->ReleaseProgram(d.program);
    api->ReleaseCommandQueue(d.queue);
    api->ReleaseContext(d.context);
    return p;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double run_call(ofr_backend_session *session, const ofr_forward *call)
{
    ofr_error err = {0};
    uint64_t start = ofr_clock_ns();
    if (ofr_opencl_backend()->forward(session, call, &err) < 0) {
        die("forward", &err);
    }
    return (double)(ofr_clock_ns() - start) / 1e9;
}

/* Median seconds of a token. */
static double decode_seconds(ofr_backend_session *session, const speed_options *o, uint32_t n_slots,
                             float *logits)
{
    double *taken = calloc(o->tokens, sizeof *taken);
    ofr_segment segments[8];
    int32_t tokens[8];
    ofr_candidate candidates[8 * OFR_CANDIDATES_MAX];
    bool finite = true;
    for (uint32_t i = 0; taken != NULL && i < o->tokens; i++) {
        for (uint32_t s = 0; s < n_slots; s++) {
            segments[s] = (ofr_segment){s, o->depth + i, 1};
            tokens[s] = (int32_t)(i + 17 * s);
        }
        ofr_forward call = {.segments = segments,
                            .n_segments = n_slots,
                            .tokens = tokens,
                            .output = o->candidates > 0 ? OFR_FORWARD_OUTPUT_CANDIDATES
                                                        : OFR_FORWARD_OUTPUT_LAST,
                            .logits = logits,
                            .n_candidates = o->candidates,
                            .candidates = candidates,
                            .ret_finite = &finite};
        taken[i] = run_call(session, &call);
    }
    qsort(taken, o->tokens, sizeof *taken, by_value);
    double median = taken[o->tokens / 2];
    free(taken);
    return median;
}

static double prefill_seconds(ofr_backend_session *session, const speed_options *o, float *logits)
{
    double best = 1e9;
    int32_t *tokens = calloc(o->prompt, sizeof *tokens);
    for (uint32_t r = 0; tokens != NULL && r <= o->repeat; r++) {
        for (uint32_t i = 0; i < o->prompt; i++) {
            tokens[i] = (int32_t)((i * 31 + r) % 997);
        }
        ofr_segment segment = {0, 0, o->prompt};
        ofr_forward call = {.segments = &segment,
                            .n_segments = 1,
                            .tokens = tokens,
                            .output = OFR_FORWARD_OUTPUT_LAST,
                            .logits = logits};
        double taken = run_call(session, &call);
        best = r > 0 && taken < best ? taken : best;
    }
    free(tokens);
    return best;
}

static void report(const ofr_opencl_device *device, const speed_options *o, const random_model *m,
                   const peaks *p, ofr_backend_session *session, float *logits)
{
    const ofr_model_params *params = &m->params;
    double prefill = prefill_seconds(session, o, logits);
    ofr_opencl_stats before, after;
    ofr_opencl_session_stats(session, &before);
    double decode = decode_seconds(session, o, 1, logits);
    ofr_opencl_session_stats(session, &after);
    double four = decode_seconds(session, o, 4, logits);
    double kv = 2.0 * params->n_layers * params->n_kv_heads * params->head_dim * 2 *
                (o->depth + o->tokens / 2.0);
    double bytes = (double)m->matrix_bytes + kv;
    double layer = (double)params->d_model * (2.0 * params->n_heads + 2.0 * params->n_kv_heads) *
                       params->head_dim +
                   3.0 * params->d_model * params->d_ff;
    double operations = 2 * layer * params->n_layers * o->prompt;
    printf("{\"device\":\"%s\",\"driver\":\"%s\",\"shape\":\"%s\",\"kernels\":\"%s\",\"tuning\":\"%"
           "s\",\n"
           " \"peak_read_gb_s\":%.1f,\"peak_byte_tops\":%.2f,\"peak_fp32_tflops\":%.2f,"
           "\"peak_fp16_tflops\":%.2f,\"launch_us\":%.2f,\n",
           device->name, device->driver, o->shape, after.kernels, after.tuning, p->read_gb_s,
           p->byte_tops, p->float_tflops, p->half_tflops, p->launch_us);
    printf(" \"decode_depth\":%u,\"decode_tok_s\":%.2f,\"decode_ms\":%.3f,\"bytes_per_token\":%.0f,"
           "\"decode_gb_s\":%.1f,\"decode_share_of_read\":%.3f,\"launches_per_token\":%.1f,\n"
           " \"decode_4_slots_tok_s\":%.2f,\n",
           o->depth, 1 / decode, decode * 1e3, bytes, bytes / decode / 1e9,
           bytes / decode / 1e9 / p->read_gb_s,
           (double)(after.launches - before.launches) / o->tokens, 4 / four);
    double rate = operations / prefill / 1e12;
    printf(" \"prompt\":%u,\"prefill_tok_s\":%.1f,\"prefill_ms\":%.2f,\"prefill_tops\":%.2f,"
           "\"prefill_share_of_byte_peak\":%.3f,\"prefill_share_of_fp16_peak\":%.3f,\n"
           " \"weights_copied\":%" PRIu64 ",\"kv_uploaded\":%" PRIu64 ",\"kv_downloaded\":%" PRIu64
           ",\"programs_built\":%u}\n",
           o->prompt, o->prompt / prefill, prefill * 1e3, rate, rate / p->byte_tops,
           p->half_tflops > 0 ? rate / p->half_tflops : 0, after.weights_copied, after.kv_uploaded,
           after.kv_downloaded, after.program_builds);
}

/* Decode alone, each kernel timed. */
static void print_profile(const ofr_backend_options *options, const ofr_opencl_options *opencl,
                          const speed_options *o, float *logits)
{
    ofr_error err = {0};
    ofr_backend_session *session = NULL;
    ofr_opencl_profile_line lines[OFR_OPENCL_PROFILE_MAX];
    if (ofr_opencl_open(options, opencl, &session, &err) < 0) {
        die("open", &err);
    }
    for (uint32_t prefill = 0; prefill < 2; prefill++) {
        if (prefill) {
            prefill_seconds(session, o, logits);
        } else {
            decode_seconds(session, o, 1, logits);
        }
        uint32_t n = ofr_opencl_profile(session, lines, OFR_OPENCL_PROFILE_MAX);
        fprintf(stderr, "%s\n", prefill ? "and prefill:" : "decode:");
        for (uint32_t i = 0; i < n; i++) {
            fprintf(stderr, "  %-20s %8" PRIu64 " launches %10.2f us each\n", lines[i].kernel,
                    lines[i].launches,
                    (double)lines[i].device_ns / 1e3 / (double)lines[i].launches);
        }
    }
    ofr_opencl_backend()->close(session);
}

static void print_measured(void *context, const char *what, double us)
{
    (void)context;
    fprintf(stderr, "  %-40s %10.1f us\n", what, us);
}

static speed_options parse(int argc, char **argv)
{
    speed_options o = {.shape = "llama-7b",
                       .depth = 512,
                       .tokens = 64,
                       .prompt = 512,
                       .repeat = 3,
                       .autotune = OFR_OPENCL_AUTOTUNE_ALL};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--no_autotune") == 0) {
            o.autotune = 0;
            continue;
        } else if (strcmp(argv[i], "--tune_token") == 0) {
            o.autotune = OFR_OPENCL_AUTOTUNE_TOKEN;
            continue;
        } else if (strcmp(argv[i], "--profile") == 0) {
            o.profile = true;
            continue;
        } else if (strcmp(argv[i], "--device") == 0) {
            o.device = value;
        } else if (strcmp(argv[i], "--launches") == 0) {
            o.launches = strcmp(value, "steps") == 0   ? OFR_OPENCL_LAUNCHES_STEPS
                         : strcmp(value, "token") == 0 ? OFR_OPENCL_LAUNCHES_TOKEN
                                                       : OFR_OPENCL_LAUNCHES_AUTO;
        } else if (strcmp(argv[i], "--attention") == 0) {
            o.attention = strcmp(value, "f32") == 0   ? OFR_OPENCL_ATTENTION_F32
                          : strcmp(value, "f16") == 0 ? OFR_OPENCL_ATTENTION_F16
                                                      : OFR_OPENCL_ATTENTION_AUTO;
        } else if (strcmp(argv[i], "--candidates") == 0) {
            o.candidates = (uint32_t)atoi(value);
        } else if (strcmp(argv[i], "--shape") == 0) {
            o.shape = value;
        } else if (strcmp(argv[i], "--kernels") == 0) {
            o.kernels = value;
        } else if (strcmp(argv[i], "--depth") == 0) {
            o.depth = (uint32_t)atoi(value);
        } else if (strcmp(argv[i], "--tokens") == 0) {
            o.tokens = (uint32_t)atoi(value);
        } else if (strcmp(argv[i], "--prompt") == 0) {
            o.prompt = (uint32_t)atoi(value);
        } else if (strcmp(argv[i], "--repeat") == 0) {
            o.repeat = (uint32_t)atoi(value);
        } else {
            die("usage: see the head of bench/opencl_speed.c", NULL);
        }
        i++;
    }
    if (o.candidates > OFR_CANDIDATES_MAX || o.tokens == 0 || o.prompt == 0 || o.depth > 7000 ||
        o.tokens > 1000 || o.prompt > 4096) {
        die("sizes: 1 to 1000 tokens, 1 to 4096 of a prompt, at most 7000 deep", NULL);
    }
    return o;
}

int main(int argc, char **argv)
{
    speed_options o = parse(argc, argv);
    ofr_error err = {0};
    ofr_opencl_api api;
    ofr_opencl_device devices[OFR_OPENCL_DEVICES_MAX];
    uint32_t n = 0, index = 0;
    const shape *s = NULL;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        s = strcmp(shapes[i].name, o.shape) == 0 ? &shapes[i] : s;
    }
    if (s == NULL) {
        die("no such shape", NULL);
    }
    if (ofr_opencl_api_open(NULL, &api, &err) < 0 ||
        ofr_opencl_devices(&api, devices, OFR_OPENCL_DEVICES_MAX, &n, &err) < 0 ||
        ofr_opencl_device_index(o.device, &index, &err) < 0) {
        die("devices", &err);
    }
    if (index >= n) {
        die("no such device", NULL);
    }
    peaks p = measure_peaks(&api, &devices[index], o.repeat);
    fprintf(stderr,
            "read %.0f GB/s, bytes %.1f TOPS, fp32 %.1f, fp16 %.1f TFLOPS, launch %.2f us\n",
            p.read_gb_s, p.byte_tops, p.float_tflops, p.half_tflops, p.launch_us);
    random_model m;
    uint64_t start = ofr_clock_ns();
    make_model(&m, s);
    fprintf(stderr, "model made in %.1f s\n", (double)(ofr_clock_ns() - start) / 1e9);
    uint32_t longest = o.depth + o.tokens > o.prompt ? o.depth + o.tokens : o.prompt;
    ofr_kv_layout layout;
    if (ofr_kv_layout_init(&layout, &m.params, 4, longest, o.prompt, &err) < 0) {
        die("KV", &err);
    }
    void *arena = mmap(NULL, layout.total_bytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0); /* no faults are timed */
    float *logits = calloc((size_t)s->vocab_size * 8, sizeof *logits);
    if (arena == MAP_FAILED || logits == NULL) {
        die("out of memory", NULL);
    }
    ofr_backend_options options = {.model = &m.model,
                                   .layer_end = s->n_layers,
                                   .kv_layout = layout,
                                   .kv_arena = arena,
                                   .max_batch_tokens = o.prompt > 8 ? o.prompt : 8,
                                   .kernels = o.kernels,
                                   .device = o.device};
    ofr_opencl_options opencl = {.api = &api,
                                 .autotune = o.autotune,
                                 .launches = o.launches,
                                 .attention = o.attention,
                                 .measured = print_measured};
    ofr_backend_session *session = NULL;
    start = ofr_clock_ns();
    if (ofr_opencl_open(&options, &opencl, &session, &err) < 0) {
        die("open", &err);
    }
    fprintf(stderr, "opened in %.1f s\n", (double)(ofr_clock_ns() - start) / 1e9);
    report(&devices[index], &o, &m, &p, session, logits);
    ofr_opencl_backend()->close(session);
    if (o.profile) {
        opencl.profile = true;
        opencl.autotune = 0;
        print_profile(&options, &opencl, &o, logits);
    }
    return 0;
}
