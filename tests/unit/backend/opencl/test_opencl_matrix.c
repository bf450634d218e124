/* The kernel for Intel's matrix extension, the extension emulated as its specification has it, in
 * sub-groups of 8 and of 16: its products against those of bytes and models against the fp32
 * reference; that it compiles with the extension's own declarations; and who gets to use it. */
#include "backend/opencl/opencl_session.h"
#include "base/file.h"
#include "support/opencl_loader.h"

static const uint32_t lanes_of_devices[] = {8, 16};

/* Rows that fill no tile, groups of 32, 64, 128 and of a row, all types of weights. */
static const memory_model_options shapes[] = {
    {2, 64, 2, 2, 32, 96, 101, OFR_DTYPE_I4, OFR_DTYPE_I8, 32, false, false, false, {0}, 1},
    {2, 192, 9, 3, 64, 320, 517, OFR_DTYPE_I4M, OFR_DTYPE_I8, 64, false, false, false, {0}, 2},
    {1, 128, 8, 1, 80, 256, 77, OFR_DTYPE_I4, OFR_DTYPE_I4, 128, true, true, false, {0}, 3},
    {1, 320, 5, 5, 64, 448, 259, OFR_DTYPE_I8, OFR_DTYPE_I8, 0, true, true, true, {0}, 6},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

/* What devices say instead. */
static struct {
    const char *extensions;
    size_t sizes[3], n_sizes;
    bool is_gpu, is_small;
} fake;

/* On a GPU sessions share what is compiled alike. PoCL keeps kernels itself, and for a program's
 * binary would compile those that no test runs. */
static char cache_directory[] = "/tmp/offering_opencl_XXXXXX";
static bool caches;

static cl_int other_device(cl_device_id id, cl_device_info what, size_t size, void *value,
                           size_t *ret_size)
{
    if (what == CL_DEVICE_EXTENSIONS && fake.extensions != NULL) {
        snprintf(value, size, "%s", fake.extensions);
        return CL_SUCCESS;
    }
    if (what == 0x4108 && fake.n_sizes > 0) { /* CL_DEVICE_SUB_GROUP_SIZES_INTEL */
        memcpy(value, fake.sizes, fake.n_sizes * sizeof fake.sizes[0]);
        *ret_size = fake.n_sizes * sizeof fake.sizes[0];
        return CL_SUCCESS;
    }
    cl_int status = opencl_loader.real.GetDeviceInfo(id, what, size, value, ret_size);
    if (what == CL_DEVICE_TYPE && fake.is_gpu) {
        *(cl_device_type *)value = CL_DEVICE_TYPE_GPU;
    }
    if (what == CL_DEVICE_LOCAL_MEM_SIZE && fake.is_small) {
        *(cl_ulong *)value = 12000; /* of a gemm's tiles, what two sizes take */
    }
    return status;
}

static const ofr_opencl_api *fake_api(const char *find, const char *replace)
{
    memset(&fake, 0, sizeof fake);
    return opencl_loader_open(find, replace, other_device);
}

static ofr_backend_session *open_with(opencl_rig *rig, const ofr_opencl_options *wanted)
{
    ofr_error err = {0};
    ofr_backend_options options = rig_options(rig, "dot");
    ofr_opencl_options opencl = *wanted;
    /* The key of a program is of the source as it was before a loader altered it. */
    opencl.cache_directory = caches && wanted->api == NULL ? cache_directory : "";
    opencl.launches = OFR_OPENCL_LAUNCHES_STEPS;
    ofr_backend_session *session = NULL;
    rig_check(ofr_opencl_open(&options, &opencl, &session, &err), &err);
    return session;
}

static const opencl_tuning tiles = {
    .tile_tokens = 16, .tile_rows = 32, .item_tokens = 4, .item_rows = 4, .gemm_units = 1};

/* The session's sizes stay but for those of gemm. */
static void compare_products(ofr_backend_session *session, uint32_t size, uint32_t n)
{
    assert_true(ofr_opencl_matrix_size(session, size, &session->tuning));
    assert_int_equal(session->tuning.gemm_units, OPENCL_BY_MATRIX);
    if (!ofr_opencl_matrix_agrees(session, &tiles, n)) {
        fail_msg("%u tokens, tiles of %ux%u by %ux%u: not what byte products give (status %d)", n,
                 session->tuning.tile_tokens, session->tuning.tile_rows,
                 session->tuning.item_tokens, session->tuning.item_rows, (int)session->status);
    }
}

static void products_are_those_of_bytes(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t lanes = lanes_of_devices[i];
        for (uint32_t s = 0; s < N_SHAPES; s++) {
            opencl_rig rig;
            rig_model(&rig, &shapes[s]);
            rig.session = open_with(&rig, &(ofr_opencl_options){.emulated_matrix_lanes = lanes});
            assert_true(rig.session->tuning.gemm_units !=
                        OPENCL_BY_MATRIX); /* only when it is asked for */
            compare_products(rig.session, (2 * s + i) % 5, 9 + 14 * s + 13 * i); /* to 64 */
            rig_done(&rig);
        }
    }
}

/* A product that is wrong is noticed: one that is taken away, and columns that are not a lane's. */
static void wrong_products_are_noticed(void **state)
{
    (void)state;
    static const char *const wrong[][2] = {{"made[m] += w", "made[m] -= w"},
                                           {"barrier(CLK_LOCAL_MEM_FENCE);\n    int column[8]",
                                            "b += 1; b <<= 1;             \n    int column[8]"}};
    for (uint32_t i = 0; i < 2; i++) {
        opencl_rig rig;
        rig_model(&rig, &shapes[0]);
        rig.session =
            open_with(&rig, &(ofr_opencl_options){.api = fake_api(wrong[i][0], wrong[i][1]),
                                                  .emulated_matrix_lanes = 8});
        assert_true(ofr_opencl_matrix_size(rig.session, 0, &rig.session->tuning));
        assert_false(ofr_opencl_matrix_agrees(rig.session, &tiles, 40));
        assert_true(opencl_loader.replaced > 0);
        assert_int_equal(rig.session->status, CL_SUCCESS);
        rig_done(&rig);
    }
}

/* Prompts that no tile divides, whole models: O, down, SwiGLU and the head go the same way. */
static void models_match_the_reference(void **state)
{
    (void)state;
    enum { N = 61 };
    const memory_model_features features[N_SHAPES] = {
        {0}, {.mixed = true, .residual_scale = 0.4f}, {.head_norms = true}, {.output_norms = true}};
    for (uint32_t i = 0; i < 2 * N_SHAPES; i++) {
        const memory_model_options *options = &shapes[i / 2];
        opencl_rig rig;
        ofr_error err = {0};
        ofr_reference *reference = NULL;
        rig_model_with(&rig, options, &features[i / 2]);
        rig.session =
            open_with(&rig, &(ofr_opencl_options){.emulated_matrix_lanes = lanes_of_devices[i % 2],
                                                  .matrix_untuned = true});
        ofr_opencl_stats stats;
        ofr_opencl_session_stats(rig.session, &stats);
        assert_non_null(strstr(stats.tuning, "matrix"));
        uint32_t vocab = options->vocab_size;
        int32_t *tokens = rig_tokens(N, vocab);
        float *expected = rig_floats((size_t)N * vocab), *got = rig_floats((size_t)N * vocab);
        rig_check(ofr_reference_new(&rig.model->params, memory_model_source, rig.model, RIG_CONTEXT,
                                    2, &reference, &err),
                  &err);
        assert_int_equal(ofr_reference_forward(reference, tokens, N, NULL, expected), 0);
        rig_segment(rig.session, 1, 0, 27, tokens, OFR_FORWARD_OUTPUT_ALL, got);
        rig_segment(rig.session, 1, 27, N - 27, tokens, OFR_FORWARD_OUTPUT_ALL,
                    got + (size_t)27 * vocab);
        rig_near(got, expected, (size_t)N * vocab, 0.04, "logits");
        rig_same_predictions(got, expected, N, vocab);
        ofr_reference_free(reference);
        free(tokens);
        free(expected);
        free(got);
        rig_done(&rig);
    }
}

/* What the extensions declare, as functions that compute nothing: overloads are exact, so that a
 * call with other types is no call of theirs. */
static const char declarations[] =
    "#define OVERLOADED __attribute__((overloadable))\n"
    "#if MATRIX_LANES == 8\n"
    "int8 OVERLOADED intel_sub_group_i8_i8_matrix_mad_k32(int8 a, int8 b, int8 acc)\n"
    "#else\n"
    "int8 OVERLOADED intel_sub_group_i8_i8_matrix_mad_k32(short8 a, int8 b, int8 acc)\n"
    "#endif\n"
    "{ return acc; }\n"
    "uint OVERLOADED intel_sub_group_block_read(const global uint *p) { return *p; }\n"
    "ushort OVERLOADED intel_sub_group_block_read_us(const global ushort *p) { return *p; }\n"
    "uint OVERLOADED get_sub_group_id(void) { return 0; }\n"
    "uint OVERLOADED get_sub_group_local_id(void) { return 0; }\n"
    "float OVERLOADED sub_group_broadcast(float x, uint lane) { return x; }\n";

static void it_compiles_as_the_extension_is_declared(void **state)
{
    (void)state;
    static const char *const types[] = {"-DBITS=4 -DSUFFIX=_i4", "-DBITS=8 -DSUFFIX=_i8",
                                        "-DBITS=4 -DMINIMA -DSUFFIX=_i4m"};
    opencl_rig rig;
    ofr_error err = {0};
    rig_model(&rig, &shapes[0]);
    rig.session = open_with(&rig, &(ofr_opencl_options){0});
    if (rig.session->device.nvidia > 0) { /* whose compiler has functions of these names */
        rig_done(&rig);
        skip();
    }
    const char *sources[] = {declarations, ofr_opencl_source_common, ofr_opencl_source_dot,
                             ofr_opencl_source_matrix};
    for (uint32_t i = 0; i < 6; i++) {
        char options[256];
        cl_program program = NULL;
        uint32_t lanes = lanes_of_devices[i % 2];
        snprintf(options, sizeof options,
                 "%s -DGEMM -DMATRIX_LANES=%u -DTILE_TOKENS=64 -DTILE_ROWS=%u -DITEM_TOKENS=32 "
                 "-DITEM_ROWS=%u",
                 types[i / 2], lanes, 8 * lanes, 2 * lanes);
        rig_check(
            ofr_opencl_program_build(&rig.session->compiler, sources, 4, options, &program, &err),
            &err);
        rig.session->api->ReleaseProgram(program);
        /* Without them it is refused: nothing of the emulation is left in it. */
        assert_true(ofr_opencl_program_build(&rig.session->compiler, sources + 1, 3, options,
                                             &program, &err) < 0);
        assert_non_null(strstr(err.text, "sub_group"));
    }
    rig_done(&rig);
}

static void devices_say_what_they_have(void **state)
{
    (void)state;
#define OLDER  "cl_khr_fp16 cl_intel_subgroups cl_intel_required_subgroup_size "
#define INTEL  OLDER "cl_intel_subgroups_short "
#define MATRIX "cl_intel_subgroup_matrix_multiply_accumulate"
    static const struct {
        const char *extensions;
        size_t sizes[3], n_sizes;
        uint32_t lanes;
    } devices[] = {
        {INTEL MATRIX, {8, 16, 32}, 3, 8}, /* Xe-HPG */
        {INTEL MATRIX, {16, 32}, 2, 16},   /* Xe-HPC, Xe2 */
        {INTEL MATRIX, {32}, 1, 0},
        {INTEL MATRIX, {0}, 0, 0}, /* does not answer */
        {INTEL, {8, 16, 32}, 3, 0},
        {OLDER MATRIX, {8, 16, 32}, 3, 0},
        {INTEL MATRIX "_tf32", {16, 32}, 2, 0},
        {MATRIX, {8, 16, 32}, 3, 0},
    };
    for (size_t i = 0; i < sizeof devices / sizeof devices[0]; i++) {
        ofr_opencl_device found[OFR_OPENCL_DEVICES_MAX];
        ofr_error err = {0};
        uint32_t n = 0;
        const ofr_opencl_api *api = fake_api(NULL, NULL);
        fake.extensions = devices[i].extensions;
        fake.n_sizes = devices[i].n_sizes;
        memcpy(fake.sizes, devices[i].sizes, sizeof fake.sizes);
        rig_check(ofr_opencl_devices(api, found, OFR_OPENCL_DEVICES_MAX, &n, &err), &err);
        if (found[0].matrix_lanes != devices[i].lanes) {
            fail_msg("device %zu: sub-groups of %u, not %u", i, found[0].matrix_lanes,
                     devices[i].lanes);
        }
    }
}

/* What tuning measured, the fastest of gemm last. */
typedef struct measured_sizes {
    uint32_t tiles, matrix;
    double fastest;
    char best[64];
} measured_sizes;

static void note_measured(void *context, const char *what, double us)
{
    measured_sizes *m = context;
    m->tiles += strncmp(what, "gemm", 4) == 0;
    m->matrix += strncmp(what, "matrix", 6) == 0;
    if (us > 0 && (m->fastest == 0 || us < m->fastest)) {
        m->fastest = us;
        snprintf(m->best, sizeof m->best, "%s", what);
    }
}

/* Tuning measures the sizes of both and takes the fastest. */
static void tuning_takes_the_faster_one(void **state)
{
    (void)state;
    opencl_rig rig;
    measured_sizes sizes = {0};
    ofr_opencl_stats stats;
    memory_model_options one_type = shapes[0];
    one_type.table = one_type.weights;
    rig_model(&rig, &one_type);
    ofr_opencl_options options = {.api = fake_api(NULL, NULL),
                                  .emulated_matrix_lanes = 8,
                                  .autotune = OFR_OPENCL_AUTOTUNE_GEMM,
                                  .measured = note_measured,
                                  .measured_context = &sizes};
    fake.is_gpu = true;
    fake.is_small = true;
    rig.session = open_with(&rig, &options);
    ofr_opencl_session_stats(rig.session, &stats);
    assert_true(sizes.tiles >= 2 && sizes.matrix >= 2);
    if (strstr(stats.tuning, sizes.best) == NULL) {
        fail_msg("%s was the fastest, taken was %s", sizes.best, stats.tuning);
    }
    rig_done(&rig);
}

static int make_cache(void **state)
{
    (void)state;
    ofr_error err = {0};
    ofr_opencl_api api;
    ofr_opencl_device devices[OFR_OPENCL_DEVICES_MAX];
    uint32_t n = 0;
    rig_check(ofr_opencl_api_open(NULL, &api, &err), &err);
    rig_check(ofr_opencl_devices(&api, devices, OFR_OPENCL_DEVICES_MAX, &n, &err), &err);
    caches = (devices[0].type & CL_DEVICE_TYPE_GPU) != 0;
    return mkdtemp(cache_directory) != NULL ? 0 : -1;
}

static int remove_cache(void **state)
{
    (void)state;
    return ofr_directory_remove(cache_directory, NULL);
}

/* test_opencl_matrix [PATTERN of tests] */
int main(int argc, char **argv)
{
    rig_require_device();
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_of_bytes),
        cmocka_unit_test(wrong_products_are_noticed),
        cmocka_unit_test(models_match_the_reference),
        cmocka_unit_test(it_compiles_as_the_extension_is_declared),
        cmocka_unit_test(devices_say_what_they_have),
        cmocka_unit_test(tuning_takes_the_faster_one),
    };
    return cmocka_run_group_tests(tests, make_cache, remove_cache);
}
