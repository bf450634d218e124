/* What can go wrong with an OpenCL device, each as an error that says what failed, on what, and
 * what to do: no loader, no driver, no such device, a kernel that does not compile, no memory, a
 * device lost in the middle. And the cache of binaries: used, ignored when damaged. */
#include <dirent.h>
#include <unistd.h>

#include "backend/opencl/opencl_program.h"
#include "base/file.h"
#include "support/opencl_rig.h"

static const memory_model_options small = {
    2, 64, 2, 1, 32, 96, 101, OFR_DTYPE_I4, OFR_DTYPE_I8, 32, false, false, false, {0}, 3};

static struct {
    ofr_opencl_api real;
    int64_t calls_left; /* until the function under test fails */
    cl_int failure;
} fake;

static ofr_opencl_api fake_api(void)
{
    ofr_error err = {0};
    memset(&fake, 0, sizeof fake);
    rig_check(ofr_opencl_api_open(NULL, &fake.real, &err), &err);
    return fake.real;
}

static void expect_text(const ofr_error *err, const char *part)
{
    if (strstr(err->text, part) == NULL) {
        fail_msg("'%s' does not say '%s'", err->text, part);
    }
}

static void no_loader_is_said(void **state)
{
    (void)state;
    ofr_error err = {0};
    ofr_opencl_api api;
    assert_int_equal(ofr_opencl_api_open("libNoSuchOpenCL.so.1", &api, &err), OFR_EUNSUPPORTED);
    expect_text(&err, "libNoSuchOpenCL.so.1");
    expect_text(&err, "install");
    assert_int_equal(ofr_opencl_api_open("libm.so.6", &api, &err), OFR_EUNSUPPORTED);
    expect_text(&err, "has no cl");
}

static cl_int no_platforms(cl_uint capacity, cl_platform_id *platforms, cl_uint *ret_n)
{
    (void)capacity;
    (void)platforms;
    *ret_n = 0;
    return -1001;
}

static cl_int no_devices(cl_platform_id platform, cl_device_type type, cl_uint capacity,
                         cl_device_id *devices, cl_uint *ret_n)
{
    (void)platform;
    (void)type;
    (void)capacity;
    (void)devices;
    *ret_n = 0;
    return CL_DEVICE_NOT_FOUND;
}

static void no_driver_and_no_device_are_said(void **state)
{
    (void)state;
    ofr_error err = {0};
    ofr_opencl_device devices[OFR_OPENCL_DEVICES_MAX];
    uint32_t n = 0;
    ofr_opencl_api api = fake_api();
    rig_check(ofr_opencl_devices(&api, devices, OFR_OPENCL_DEVICES_MAX, &n, &err), &err);
    assert_true(n >= 1 && devices[0].max_work_group > 0 && devices[0].name[0] != '\0');
    api.GetDeviceIDs = no_devices;
    assert_int_equal(ofr_opencl_devices(&api, devices, OFR_OPENCL_DEVICES_MAX, &n, &err),
                     OFR_EUNSUPPORTED);
    expect_text(&err, "no device");
    api.GetPlatformIDs = no_platforms;
    assert_int_equal(ofr_opencl_devices(&api, devices, OFR_OPENCL_DEVICES_MAX, &n, &err),
                     OFR_EUNSUPPORTED);
    expect_text(&err, "no OpenCL driver");
}

static void device_names_are_parsed(void **state)
{
    (void)state;
    uint32_t index = 7;
    assert_int_equal(ofr_opencl_device_index(NULL, &index, NULL), 0);
    assert_int_equal(index, 0);
    assert_int_equal(ofr_opencl_device_index("opencl:3", &index, NULL), 0);
    assert_int_equal(index, 3);
    const char *bad[] = {"opencl:", "opencl:x", "opencl:1x", "opencl:-1", "cpu", "opencl:99", ""};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(ofr_opencl_device_index(bad[i], &index, NULL), OFR_EINVAL);
    }
    ofr_backend_capabilities found;
    ofr_error err = {0};
    assert_int_equal(ofr_opencl_probe("opencl:15", &found, &err), OFR_ENOENT);
    expect_text(&err, "opencl:0");
}

static int open_with(opencl_rig *rig, const ofr_opencl_api *api, enum ofr_opencl_memory memory,
                     ofr_error *err)
{
    ofr_backend_options options = rig_options(rig, "plain");
    ofr_opencl_options opencl = {.api = api, .memory = memory, .cache_directory = ""};
    return ofr_opencl_open(&options, &opencl, &rig->session, err);
}

static cl_mem create_until(cl_context context, cl_mem_flags flags, size_t size, void *host,
                           cl_int *status)
{
    if (fake.calls_left-- <= 0) {
        *status = fake.failure;
        return NULL;
    }
    return fake.real.CreateBuffer(context, flags, size, host, status);
}

/* Wherever memory ends: an error, nothing half-open, and the sanitizer finds no leak. */
static void no_memory_is_an_error_at_every_buffer(void **state)
{
    (void)state;
    opencl_rig rig;
    rig_model(&rig, &small);
    ofr_opencl_api api = fake_api();
    api.CreateBuffer = create_until;
    uint32_t failures = 0;
    for (int64_t allowed = 0;; allowed++) {
        ofr_error err = {0};
        fake.calls_left = allowed;
        fake.failure = CL_MEM_OBJECT_ALLOCATION_FAILURE;
        int result = open_with(&rig, &api, OFR_OPENCL_MEMORY_DISCRETE, &err);
        if (result == 0) {
            break;
        }
        assert_int_equal(result, OFR_ENOMEM);
        expect_text(&err, "MiB");
        assert_null(rig.session);
        failures++;
    }
    assert_true(failures >= 15);
    rig_done(&rig);
}

static cl_int enqueue_until(cl_command_queue queue, cl_kernel kernel, cl_uint dimensions,
                            const size_t *offset, const size_t *global, const size_t *local,
                            cl_uint n_events, const cl_event *events, cl_event *event)
{
    if (fake.calls_left-- <= 0) {
        return fake.failure;
    }
    return fake.real.EnqueueNDRangeKernel(queue, kernel, dimensions, offset, global, local,
                                          n_events, events, event);
}

static void a_lost_device_stays_lost(void **state)
{
    (void)state;
    opencl_rig rig;
    rig_model(&rig, &small);
    ofr_opencl_api api = fake_api();
    api.EnqueueNDRangeKernel = enqueue_until;
    for (uint32_t shared = 0; shared < 2; shared++) {
        ofr_error err = {0};
        float logits[101];
        int32_t token = 1;
        ofr_segment segment = {0, 0, 1};
        ofr_forward forward = {.segments = &segment,
                               .n_segments = 1,
                               .tokens = &token,
                               .output = OFR_FORWARD_OUTPUT_LAST,
                               .logits = logits};
        fake.calls_left = INT64_MAX;
        fake.failure = CL_OUT_OF_RESOURCES;
        rig_check(open_with(&rig, &api,
                            shared ? OFR_OPENCL_MEMORY_SHARED : OFR_OPENCL_MEMORY_DISCRETE, &err),
                  &err);
        rig_run(rig.session, &forward);
        fake.calls_left = 9;
        segment.position = 1;
        assert_int_equal(ofr_opencl_backend()->forward(rig.session, &forward, &err), OFR_EDEVICE);
        expect_text(&err, "CL_OUT_OF_RESOURCES");
        expect_text(&err, "another device");
        fake.calls_left = INT64_MAX; /* even if it came back: its memory is not believed */
        assert_int_equal(ofr_opencl_backend()->forward(rig.session, &forward, &err), OFR_EDEVICE);
        ofr_opencl_backend()->close(rig.session);
        rig.session = NULL;
    }
    rig_done(&rig);
}

typedef struct compiler_rig {
    ofr_opencl_api api;
    ofr_opencl_device devices[OFR_OPENCL_DEVICES_MAX];
    ofr_opencl_compiler compiler;
} compiler_rig;

static void compiler_set_up(compiler_rig *rig, const char *directory)
{
    ofr_error err = {0};
    uint32_t n = 0;
    cl_int status = CL_SUCCESS;
    rig->api = fake_api();
    rig_check(ofr_opencl_devices(&rig->api, rig->devices, OFR_OPENCL_DEVICES_MAX, &n, &err), &err);
    rig->compiler = (ofr_opencl_compiler){
        .api = &rig->api, .device = &rig->devices[0], .cache_directory = directory};
    rig->compiler.context =
        rig->api.CreateContext(NULL, 1, &rig->devices[0].id, NULL, NULL, &status);
    assert_int_equal(status, CL_SUCCESS);
}

static void a_kernel_that_does_not_compile_is_said(void **state)
{
    (void)state;
    compiler_rig rig;
    ofr_error err = {0};
    cl_program program = NULL;
    const char *source = "kernel void broken(global int *x) { x[0] = no_such_name; }";
    compiler_set_up(&rig, NULL);
    assert_int_equal(ofr_opencl_program_build(&rig.compiler, &source, 1, "", &program, &err),
                     OFR_EDEVICE);
    expect_text(&err, "cannot compile");
    expect_text(&err, rig.devices[0].name);
    assert_null(program);
    rig.api.ReleaseContext(rig.compiler.context);
}

static void build_once(compiler_rig *rig, const char *options, uint32_t builds, uint32_t hits)
{
    ofr_error err = {0};
    cl_program program = NULL;
    const char *source = "kernel void one(global int *x) { x[0] = VALUE; }";
    rig_check(ofr_opencl_program_build(&rig->compiler, &source, 1, options, &program, &err), &err);
    assert_int_equal(rig->compiler.builds, builds);
    assert_int_equal(rig->compiler.cache_hits, hits);
    rig->api.ReleaseProgram(program);
}

static void binaries_are_cached_and_checked(void **state)
{
    (void)state;
    compiler_rig rig;
    char directory[] = "/tmp/offering_opencl_XXXXXX", path[512] = "";
    assert_non_null(mkdtemp(directory));
    compiler_set_up(&rig, directory);
    build_once(&rig, "-DVALUE=1", 1, 0);
    build_once(&rig, "-DVALUE=1", 1, 1);
    build_once(&rig, "-DVALUE=2", 2, 1); /* other options, another binary */
    DIR *listing = opendir(directory);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        if (strstr(entry->d_name, ".bin") != NULL) { /* a byte of each file flipped */
            snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
            FILE *file = fopen(path, "r+b");
            assert_non_null(file);
            fseek(file, 200, SEEK_SET);
            int byte = fgetc(file);
            fseek(file, 200, SEEK_SET);
            fputc(byte ^ 1, file);
            fclose(file);
        }
    }
    closedir(listing);
    assert_true(path[0] != '\0');
    build_once(&rig, "-DVALUE=1", 3, 1); /* found damaged, compiled and replaced */
    build_once(&rig, "-DVALUE=1", 3, 2);
    assert_int_equal(truncate(path, 40), 0);
    build_once(&rig, "-DVALUE=2", 4, 2);
    rig.api.ReleaseContext(rig.compiler.context);
    ofr_directory_remove(directory, NULL);
}

static void bad_options_and_batches_are_refused(void **state)
{
    (void)state;
    opencl_rig rig;
    ofr_error err = {0};
    ofr_backend_session *session = NULL;
    rig_model(&rig, &small);
    ofr_backend_options good = rig_options(&rig, "plain"), bad = good;
    const ofr_opencl_options opencl = {.cache_directory = ""};
    bad.kernels = "mmx";
    assert_int_equal(ofr_opencl_open(&bad, &opencl, &session, &err), OFR_EUNSUPPORTED);
    expect_text(&err, "plain");
    bad = good;
    bad.device = "opencl:15";
    assert_int_equal(ofr_opencl_open(&bad, &opencl, &session, &err), OFR_ENOENT);
    bad = good;
    bad.layer_end = 3;
    assert_int_equal(ofr_opencl_open(&bad, &opencl, &session, &err), OFR_EINVAL);
    assert_null(session);
    rig.session = rig_open(&good, OFR_OPENCL_MEMORY_AUTO);
    int32_t token = 101; /* beyond the vocabulary */
    float logits[101];
    ofr_segment segment = {0, 0, 1};
    ofr_forward forward = {.segments = &segment,
                           .n_segments = 1,
                           .tokens = &token,
                           .output = OFR_FORWARD_OUTPUT_LAST,
                           .logits = logits};
    assert_int_equal(ofr_opencl_backend()->forward(rig.session, &forward, &err), OFR_EINVAL);
    expect_text(&err, "not in the vocabulary");
    rig_done(&rig);
}

int main(void)
{
    rig_require_device();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_loader_is_said),
        cmocka_unit_test(no_driver_and_no_device_are_said),
        cmocka_unit_test(device_names_are_parsed),
        cmocka_unit_test(no_memory_is_an_error_at_every_buffer),
        cmocka_unit_test(a_lost_device_stays_lost),
        cmocka_unit_test(a_kernel_that_does_not_compile_is_said),
        cmocka_unit_test(binaries_are_cached_and_checked),
        cmocka_unit_test(bad_options_and_batches_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
