/* Attention in fp16, the device's own where it has cl_khr_fp16 and emulated everywhere: against
 * exact sums, at the edge of what fp16 can hold too; models against the fp32 reference; and who
 * gets to use it. */
#include <dirent.h>

#include "backend/opencl/opencl_session.h"
#include "base/file.h"
#include "base/fp16.h"
#include "support/opencl_loader.h"

enum { N_ARITHMETICS = 3 };
static const struct arithmetic {
    const char *name;
    enum ofr_opencl_attention attention;
    bool emulated;
} arithmetics[N_ARITHMETICS] = {
    {"f32", OFR_OPENCL_ATTENTION_F32, false},
    {"f16, emulated", OFR_OPENCL_ATTENTION_F16, true},
    {"f16", OFR_OPENCL_ATTENTION_F16, false},
};

/* What kernels/halves.cl derives for scores that deviate by 1, with a margin; opencl_attention.c
 * asks for the same. */
static const double half_error = 2e-3;

/* What devices say instead. */
static struct {
    const char *extensions;
    cl_ulong half_config;
    bool is_gpu; /* with room for few sizes, which are measured one by one */
} fake;

static cl_int other_device(cl_device_id id, cl_device_info what, size_t size, void *value,
                           size_t *ret_size)
{
    if (what == CL_DEVICE_EXTENSIONS && fake.extensions != NULL) {
        snprintf(value, size, "%s", fake.extensions);
        return CL_SUCCESS;
    }
    if (what == 0x1033 && fake.extensions != NULL) { /* CL_DEVICE_HALF_FP_CONFIG */
        *(cl_ulong *)value = fake.half_config;
        return CL_SUCCESS;
    }
    cl_int status = opencl_loader.real.GetDeviceInfo(id, what, size, value, ret_size);
    if (what == CL_DEVICE_TYPE && fake.is_gpu) {
        *(cl_device_type *)value = CL_DEVICE_TYPE_GPU;
    } else if (what == CL_DEVICE_MAX_WORK_GROUP_SIZE && fake.is_gpu) {
        *(size_t *)value = 256;
    } else if (what == CL_DEVICE_LOCAL_MEM_SIZE && fake.is_gpu) {
        *(cl_ulong *)value = 34000;
    }
    return status;
}

static const ofr_opencl_api *fake_api(const char *find, const char *replace)
{
    memset(&fake, 0, sizeof fake);
    return opencl_loader_open(find, replace, other_device);
}

static ofr_backend_session *open_with(opencl_rig *rig, const char *kernels,
                                      const ofr_opencl_options *wanted)
{
    ofr_error err = {0};
    ofr_backend_options options = rig_options(rig, kernels);
    ofr_opencl_options opencl = *wanted;
    opencl.cache_directory = "";
    opencl.launches = OFR_OPENCL_LAUNCHES_STEPS;
    ofr_backend_session *session = NULL;
    rig_check(ofr_opencl_open(&options, &opencl, &session, &err), &err);
    return session;
}

/* A session with that arithmetic; NULL: the device has no fp16 of its own. */
static ofr_backend_session *open_arithmetic(opencl_rig *rig, const char *kernels, uint32_t which)
{
    const struct arithmetic *a = &arithmetics[which];
    ofr_error err = {0};
    ofr_opencl_api api;
    ofr_opencl_device devices[OFR_OPENCL_DEVICES_MAX];
    uint32_t n = 0;
    ofr_opencl_options options = {.attention = a->attention, .emulated_halves = a->emulated};
    rig_check(ofr_opencl_api_open(NULL, &api, &err), &err);
    rig_check(ofr_opencl_devices(&api, devices, OFR_OPENCL_DEVICES_MAX, &n, &err), &err);
    if (a->attention == OFR_OPENCL_ATTENTION_F16 && !a->emulated && !devices[0].half_arithmetic) {
        ofr_backend_options open = rig_options(rig, kernels);
        ofr_backend_session *session = NULL;
        options.cache_directory = "";
        assert_int_equal(ofr_opencl_open(&open, &options, &session, &err), OFR_EUNSUPPORTED);
        assert_non_null(strstr(err.text, "fp16"));
        return NULL;
    }
    return open_with(rig, kernels, &options);
}

/* Heads without RoPE: what is put into qkv is what meets. */
enum { HEADS = 4, KV_HEADS = 2, DIM = 64, ROW = (HEADS + 2 * KV_HEADS) * DIM, TOKENS = 3 * 64 - 9 };
static const memory_model_options heads = {1,     64,    HEADS,         KV_HEADS,      DIM,
                                           96,    101,   OFR_DTYPE_F32, OFR_DTYPE_F32, 0,
                                           false, false, false,         {0},           1};

static float uniform(uint64_t *random)
{
    *random = *random * 6364136223846793005U + 1442695040888963407U;
    return (float)(*random >> 40) / 8388608.0f - 1;
}

/* Scores that deviate by about 1. */
static void random_heads(float *qkv)
{
    uint64_t random = 5;
    for (uint32_t i = 0; i < TOKENS * ROW; i++) {
        qkv[i] = uniform(&random) * (i % ROW < HEADS * DIM ? 3.0f : 1.0f);
    }
}

/* Products of the largest numbers, of one sign: each piece's sum ends at 65504. The queries are
 * rounded up to the power of two that they are scaled by. */
static void largest_heads(float *qkv)
{
    for (uint32_t i = 0; i < TOKENS * ROW; i++) {
        float sign = i % 2 > 0 && i % ROW < (HEADS + KV_HEADS) * DIM ? -1.0f : 1.0f;
        qkv[i] = sign * (i % ROW < HEADS * DIM ? 131072.0f * (1.0f - 0x1p-13f) : 65504.0f);
    }
}

/* All keys lie 15 below the first one, and only values of later blocks are not 0: what is left of
 * them is all there is. */
static void heads_behind_one_key(float *qkv)
{
    for (uint32_t i = 0; i < TOKENS * ROW; i++) {
        uint32_t t = i / ROW, part = i % ROW / DIM, d = i % DIM;
        qkv[i] = part < HEADS              ? (d == 0 ? 8.0f : 0.0f)
                 : part < HEADS + KV_HEADS ? (d == 0 && t == 0 ? 15.0f : 0.0f)
                                           : (t >= 64 ? 1.0f + (float)d / 64 : 0.0f);
    }
}

/* K and V as strips hold them, all else in double. */
static void exact_attention(const float *qkv, float *results)
{
    static double weights[TOKENS];
    for (uint32_t i = 0; i < TOKENS * HEADS; i++) {
        uint32_t t = i / HEADS, head = i % HEADS, kv = head / (HEADS / KV_HEADS);
        const float *q = qkv + (size_t)t * ROW + head * DIM;
        double top = -INFINITY, total = 0;
        for (uint32_t k = 0; k <= t; k++) {
            const float *key = qkv + (size_t)k * ROW + (HEADS + kv) * DIM;
            weights[k] = 0;
            for (uint32_t d = 0; d < DIM; d++) {
                weights[k] += (double)q[d] * (double)ofr_half_to_float(ofr_float_to_half(key[d]));
            }
            weights[k] /= sqrt(DIM);
            top = fmax(top, weights[k]);
        }
        for (uint32_t k = 0; k <= t; k++) {
            weights[k] = exp(weights[k] - top);
            total += weights[k];
        }
        for (uint32_t d = 0; d < DIM; d++) {
            double sum = 0;
            for (uint32_t k = 0; k <= t; k++) {
                float v = qkv[(size_t)k * ROW + (HEADS + KV_HEADS + kv) * DIM + d];
                sum += weights[k] * (double)ofr_half_to_float(ofr_float_to_half(v));
            }
            results[(size_t)i * DIM + d] = (float)(sum / total);
        }
    }
}

/* In calls of a chunk, so that later ones see keys of earlier ones. */
static void run_attention(ofr_backend_session *session, const float *qkv, float *results)
{
    const ofr_opencl_api *api = session->api;
    for (uint32_t at = 0; at < TOKENS; at += RIG_CHUNK) {
        uint32_t n = TOKENS - at < RIG_CHUNK ? TOKENS - at : RIG_CHUNK;
        const ofr_segment segment = {1, at, n};
        const ofr_forward call = {.segments = &segment, .n_segments = 1};
        session->call = &call;
        session->n_tokens = n;
        session->all_single = false;
        ofr_opencl_describe(session);
        api->EnqueueWriteBuffer(session->queue, session->qkv, CL_TRUE, 0,
                                (size_t)n * ROW * sizeof *qkv, qkv + (size_t)at * ROW, 0, NULL,
                                NULL);
        ofr_opencl_attend(session, 0, false);
        api->EnqueueReadBuffer(session->queue, session->attention, CL_TRUE, 0,
                               (size_t)n * HEADS * DIM * sizeof *results,
                               results + (size_t)at * HEADS * DIM, 0, NULL, NULL);
        session->call = NULL;
    }
    assert_int_equal(session->status, CL_SUCCESS);
}

static void sums_are_near_exact_ones(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        void (*make)(float *qkv);
    } inputs[] = {{"random heads", random_heads},
                  {"largest heads", largest_heads},
                  {"heads behind one key", heads_behind_one_key}};
    const size_t n = (size_t)TOKENS * HEADS * DIM;
    float *qkv = rig_floats((size_t)TOKENS * ROW), *expected = rig_floats(n), *got = rig_floats(n);
    opencl_rig rig;
    rig_model_with(&rig, &heads, &(memory_model_features){.unrotated = 1});
    for (uint32_t a = 0; a < N_ARITHMETICS; a++) {
        rig.session = open_arithmetic(&rig, "plain", a);
        for (size_t i = 0; rig.session != NULL && i < sizeof inputs / sizeof inputs[0]; i++) {
            char what[64];
            snprintf(what, sizeof what, "%s, %s", inputs[i].what, arithmetics[a].name);
            inputs[i].make(qkv);
            exact_attention(qkv, expected);
            run_attention(rig.session, qkv, got);
            /* The first block sees nothing but zeros behind one key. */
            size_t from = inputs[i].make == heads_behind_one_key ? (size_t)64 * HEADS * DIM : 0;
            rig_near(got + from, expected + from, n - from, a == 0 ? 1e-4 : half_error, what);
        }
        ofr_opencl_backend()->close(rig.session);
    }
    rig.session = NULL;
    free(qkv);
    free(expected);
    free(got);
    rig_done(&rig);
}

/* Whole models, both kernel sets, what attention can differ in. Unquantized, nothing but the KV and
 * this arithmetic is not fp32. */
static const struct {
    memory_model_options options;
    memory_model_features features;
    const char *kernels;
    double limit;
} models[] = {
    {{2, 192, 9, 3, 64, 320, 517, OFR_DTYPE_F32, OFR_DTYPE_F32, 64, false, false, false, {0}, 2},
     {0},
     "plain",
     2e-3},
    {{2, 128, 8, 1, 80, 256, 77, OFR_DTYPE_I4, OFR_DTYPE_I8, 128, true, true, false, {0}, 3},
     {.head_norms = true},
     "dot",
     0.04},
    {{2, 256, 4, 2, 128, 384, 301, OFR_DTYPE_I4M, OFR_DTYPE_I8, 64, false, false, false, {0}, 4},
     {.attention_softcap = 5, .sliding_window = 12},
     "dot",
     0.04},
};
enum { N_MODELS = sizeof models / sizeof models[0], PROMPT = 61 };

static void models_match_the_reference(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < N_MODELS; i++) {
        const memory_model_options *options = &models[i].options;
        uint32_t vocab = options->vocab_size;
        size_t n = (size_t)PROMPT * vocab;
        opencl_rig rig;
        ofr_error err = {0};
        ofr_reference *reference = NULL;
        rig_model_with(&rig, options, &models[i].features);
        int32_t *tokens = rig_tokens(PROMPT, vocab);
        float *expected = rig_floats(n), *got = rig_floats(n);
        rig_check(ofr_reference_new(&rig.model->params, memory_model_source, rig.model, RIG_CONTEXT,
                                    2, &reference, &err),
                  &err);
        assert_int_equal(ofr_reference_forward(reference, tokens, PROMPT, NULL, expected), 0);
        for (uint32_t a = 1; a < N_ARITHMETICS; a++) {
            ofr_opencl_stats stats;
            rig.session = open_arithmetic(&rig, models[i].kernels, a);
            if (rig.session == NULL) {
                continue;
            }
            ofr_opencl_session_stats(rig.session, &stats);
            assert_non_null(strstr(stats.tuning, "attention f16"));
            rig_segment(rig.session, 1, 0, 27, tokens, OFR_FORWARD_OUTPUT_ALL, got);
            rig_segment(rig.session, 1, 27, PROMPT - 27, tokens, OFR_FORWARD_OUTPUT_ALL,
                        got + (size_t)27 * vocab);
            rig_near(got, expected, n, models[i].limit, arithmetics[a].name);
            rig_same_predictions(got, expected, PROMPT, vocab);
            ofr_opencl_backend()->close(rig.session);
            rig.session = NULL;
        }
        ofr_reference_free(reference);
        free(tokens);
        free(expected);
        free(got);
        rig_done(&rig);
    }
}

static const memory_model_options small = {
    2, 64, 4, 2, 32, 96, 101, OFR_DTYPE_I4, OFR_DTYPE_I4, 32, false, false, false, {0}, 1};

static bool agrees(opencl_rig *rig, const ofr_opencl_api *api)
{
    rig->session =
        open_with(rig, "dot", &(ofr_opencl_options){.api = api, .emulated_halves = true});
    assert_int_equal(rig->session->tuning.attention_halves, 0); /* only when it is asked for */
    bool agree = ofr_opencl_halves_agree(rig->session);
    assert_int_equal(rig->session->status, CL_SUCCESS);
    return agree;
}

/* Wrong arithmetic is noticed, and so are weights whose scores are too large for it; strips stay
 * what they were. */
static void disagreement_is_noticed(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {{"own_share * sums.y", "own_share * sums.x"},
                                           {"halves k = halves_of(tile[own * (PAIRS + 1) + e])",
                                            "halves k = halves_of(tile[own * (PAIRS + 1) + p])"}};
    opencl_rig rig;
    rig_model(&rig, &small);
    char *before = malloc(rig.layout.total_bytes);
    assert_non_null(before);
    memcpy(before, rig.arena, rig.layout.total_bytes);
    assert_true(agrees(&rig, NULL));
    assert_memory_equal(rig.arena, before, rig.layout.total_bytes);
    free(before);
    /* Prompts go through the caller's strips again. */
    ofr_opencl_rebuild(rig.session, OPENCL_TUNED_ATTENTION, NULL);
    const int32_t tokens[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    float logits[2][101];
    rig_segment(rig.session, 0, 0, 12, tokens, OFR_FORWARD_OUTPUT_LAST, logits[0]);
    ofr_opencl_backend()->close(rig.session);
    rig.session = open_with(&rig, "dot", &(ofr_opencl_options){0});
    rig_segment(rig.session, 0, 0, 12, tokens, OFR_FORWARD_OUTPUT_LAST, logits[1]);
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    ofr_opencl_backend()->close(rig.session);
    for (uint32_t i = 0; i < 2; i++) {
        assert_false(agrees(&rig, fake_api(wrong[i][0], wrong[i][1])));
        assert_true(opencl_loader.replaced > 0);
        ofr_opencl_backend()->close(rig.session);
    }
    for (uint32_t i = 0; i < small.d_model; i++) {
        ((float *)(uintptr_t)rig.model->model.layers[1].attention_norm)[i] *= 60;
    }
    assert_false(agrees(&rig, NULL));
    rig_done(&rig);
}

/* What tuning measured, in microseconds. */
typedef struct measured_times {
    double f32, f16;
} measured_times;

static void note_measured(void *context, const char *what, double us)
{
    measured_times *m = context;
    if (strcmp(what, "attention f32") == 0) {
        m->f32 = us;
    } else if (strcmp(what, "attention f16") == 0) {
        m->f16 = us;
    }
}

static void tuning_takes_the_faster_one(void **state)
{
    (void)state;
    opencl_rig rig;
    measured_times times = {0};
    ofr_opencl_stats stats;
    rig_model(&rig, &small);
    ofr_opencl_options options = {.api = fake_api(NULL, NULL),
                                  .emulated_halves = true,
                                  .autotune = OFR_OPENCL_AUTOTUNE_ATTENTION,
                                  .measured = note_measured,
                                  .measured_context = &times};
    fake.is_gpu = true;
    rig.session = open_with(&rig, "dot", &options);
    ofr_opencl_session_stats(rig.session, &stats);
    assert_true(times.f32 > 0 && times.f16 > 0);
    const char *taken = times.f16 < times.f32 ? "attention f16" : "attention f32";
    if (strstr(stats.tuning, taken) == NULL) {
        fail_msg("f32 took %g us, f16 %g us; taken was %s", times.f32, times.f16, stats.tuning);
    }
    rig_done(&rig);
}

/* Makes the tuning file in `directory` say that fp16 was faster. */
static void choose_halves(const char *directory)
{
    DIR *listing = opendir(directory);
    uint32_t changed = 0;
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        char path[512], line[256] = "";
        if (strncmp(entry->d_name, "tuning-", 7) == 0) {
            snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
            FILE *file = fopen(path, "r+");
            assert_true(file != NULL && fgets(line, sizeof line, file) != NULL);
            fseek(file, (long)strlen(line) - 2, SEEK_SET); /* the last number */
            fputc('1', file);
            fclose(file);
            changed++;
        }
    }
    closedir(listing);
    assert_int_equal(changed, 1);
}

/* What tuning left in the cache is taken, fp16 only if this model's weights allow it. */
static void a_cached_choice_is_checked_again(void **state)
{
    (void)state;
    char directory[] = "/tmp/offering_opencl_XXXXXX";
    opencl_rig rig;
    ofr_error err = {0};
    assert_non_null(mkdtemp(directory));
    rig_model(&rig, &small);
    ofr_backend_options options = rig_options(&rig, "dot");
    ofr_opencl_options opencl = {.api = fake_api(NULL, NULL),
                                 .emulated_halves = true,
                                 .cache_directory = directory,
                                 .autotune = OFR_OPENCL_AUTOTUNE_ALL};
    fake.is_gpu = true;
    const int32_t tokens[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    float logits[2][101];
    for (uint32_t i = 0; i < 4; i++) {
        ofr_opencl_stats stats;
        if (i == 3) { /* another model of the same shape */
            for (uint32_t d = 0; d < small.d_model; d++) {
                ((float *)(uintptr_t)rig.model->model.layers[1].attention_norm)[d] *= 60;
            }
        }
        opencl.attention = i == 1 ? OFR_OPENCL_ATTENTION_F32 : OFR_OPENCL_ATTENTION_AUTO;
        rig_check(ofr_opencl_open(&options, &opencl, &rig.session, &err), &err);
        ofr_opencl_session_stats(rig.session, &stats);
        if (i > 0) {
            assert_non_null(strstr(stats.tuning, i == 2 ? "attention f16" : "attention f32"));
        } else {
            choose_halves(directory);
        }
        if (i == 1 || i == 2) {
            rig_segment(rig.session, 0, 0, 12, tokens, OFR_FORWARD_OUTPUT_LAST, logits[i - 1]);
        }
        ofr_opencl_backend()->close(rig.session);
    }
    rig_near(logits[1], logits[0], 101, 0.03, "fp16 beside fp32");
    assert_memory_not_equal(logits[1], logits[0], sizeof logits[0]);
    rig.session = NULL;
    rig_done(&rig);
    ofr_directory_remove(directory, NULL);
}

static void devices_say_what_they_have(void **state)
{
    (void)state;
    static const struct {
        const char *extensions;
        cl_ulong config;
        bool halves;
    } devices[] = {
        {"cl_khr_fp64 cl_khr_fp16", CL_FP_ROUND_TO_NEAREST | CL_FP_DENORM | CL_FP_FMA, true},
        {"cl_khr_fp16", CL_FP_ROUND_TO_NEAREST | CL_FP_INF_NAN, false},
        {"cl_khr_fp16", CL_FP_ROUND_TO_ZERO | CL_FP_DENORM, false},
        {"cl_khr_fp64", CL_FP_ROUND_TO_NEAREST | CL_FP_DENORM, false},
    };
    for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++) {
        ofr_opencl_device found[OFR_OPENCL_DEVICES_MAX];
        ofr_error err = {0};
        uint32_t n = 0;
        const ofr_opencl_api *api = fake_api(NULL, NULL);
        fake.extensions = devices[i].extensions;
        fake.half_config = devices[i].config;
        rig_check(ofr_opencl_devices(api, found, OFR_OPENCL_DEVICES_MAX, &n, &err), &err);
        if (found[0].half_arithmetic != devices[i].halves) {
            fail_msg("device %zu: fp16 arithmetic %d, not %d", i, found[0].half_arithmetic,
                     devices[i].halves);
        }
    }
}

/* test_opencl_halves [PATTERN of tests] */
int main(int argc, char **argv)
{
    rig_require_device();
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_near_exact_ones),
        cmocka_unit_test(models_match_the_reference),
        cmocka_unit_test(disagreement_is_noticed),
        cmocka_unit_test(tuning_takes_the_faster_one),
        cmocka_unit_test(a_cached_choice_is_checked_again),
        cmocka_unit_test(devices_say_what_they_have),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
