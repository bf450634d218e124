/* Where the OpenCL backend puts things: the weights' file mapping and the KV arena bound in place,
 * a device that refuses the mapping, one whose buffers are small, and one with memory of its own.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "support/opencl_rig.h"

static const memory_model_options small = {
    2, 64, 2, 1, 32, 96, 301, OFR_DTYPE_I4, OFR_DTYPE_I8, 32, true, false, false, {0}, 3};

/* The rig's tensors moved into one read-only mapping, as a package has them. */
typedef struct mapped_rig {
    opencl_rig rig;
    void *base;
    size_t size, tensor_bytes;
    const void **originals; /* [n_tensors][2] data and scales, which belong to the model */
} mapped_rig;

static size_t place(size_t *at, size_t bytes)
{
    size_t from = (*at + 63) / 64 * 64;
    *at = from + bytes;
    return from;
}

static void mapped_set_up(mapped_rig *m, const memory_model_options *options)
{
    rig_model(&m->rig, options);
    memory_model *model = m->rig.model;
    size_t at = 0;
    m->tensor_bytes = 0;
    for (size_t i = 0; i < model->n_tensors; i++) {
        place(&at, model->tensors[i].bytes);
        place(&at, model->tensors[i].scale_bytes);
    }
    m->size = (at + 4095) / 4096 * 4096;
    m->originals = calloc(2 * model->n_tensors, sizeof *m->originals);
    int fd = memfd_create("weights", MFD_CLOEXEC);
    assert_true(fd >= 0 && ftruncate(fd, (off_t)m->size) == 0);
    char *writable = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    m->base = mmap(NULL, m->size, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(writable != MAP_FAILED && m->base != MAP_FAILED && m->originals != NULL);
    at = 0;
    for (size_t i = 0; i < model->n_tensors; i++) {
        ofr_tensor *t = &model->tensors[i];
        m->originals[2 * i] = t->data;
        m->originals[2 * i + 1] = t->scales;
        size_t data = place(&at, t->bytes), scales = place(&at, t->scale_bytes);
        memcpy(writable + data, t->data, t->bytes);
        t->data = (char *)m->base + data;
        if (t->scales != NULL) {
            memcpy(writable + scales, t->scales, t->scale_bytes);
            t->scales = (char *)m->base + scales;
            m->tensor_bytes += t->bytes + t->scale_bytes; /* matrices: vectors go elsewhere */
        }
    }
    munmap(writable, m->size);
    close(fd);
    /* Only whether there is one is looked at. */
    model->model.package = (const ofr_package *)m->base;
}

static void mapped_tear_down(mapped_rig *m)
{
    for (size_t i = 0; i < m->rig.model->n_tensors; i++) {
        m->rig.model->tensors[i].data = m->originals[2 * i];
        m->rig.model->tensors[i].scales = m->originals[2 * i + 1];
    }
    free(m->originals);
    rig_done(&m->rig);
    munmap(m->base, m->size);
}

enum { SMALL_BUFFER = 4 << 20 };

/* A loader whose CreateBuffer is watched and can refuse. */
static struct {
    ofr_opencl_api real;
    const char *mapping, *arena;
    size_t mapping_size, arena_size;
    bool refuses_mapping;
    cl_ulong largest;    /* bytes of a buffer, for small_device_info; 0: as the device says */
    cl_uint least_units; /* compute units, likewise, where it has fewer */
    size_t largest_own;  /* bytes of a buffer over no host memory */
    uint32_t arena_buffers;
    uint64_t mapping_bound, arena_bound, others; /* bytes of buffers over host memory */
    uint32_t mapping_buffers;
    cl_int refusal;
} watch;

static cl_mem watched_create(cl_context context, cl_mem_flags flags, size_t size, void *host,
                             cl_int *status)
{
    const char *at = host;
    if (flags & CL_MEM_USE_HOST_PTR) {
        bool mapping = at >= watch.mapping && at < watch.mapping + watch.mapping_size;
        if (mapping && watch.refuses_mapping) {
            *status = watch.refusal;
            return NULL;
        }
        bool arena = at >= watch.arena && at < watch.arena + watch.arena_size;
        assert_true(!mapping || at + size <= watch.mapping + watch.mapping_size);
        assert_true(!arena || at + size <= watch.arena + watch.arena_size);
        watch.mapping_buffers += mapping;
        watch.arena_buffers += arena;
        *(mapping ? &watch.mapping_bound : arena ? &watch.arena_bound : &watch.others) += size;
    } else if (size > watch.largest_own) {
        watch.largest_own = size;
    }
    return watch.real.CreateBuffer(context, flags, size, host, status);
}

static ofr_opencl_api watched_api(const mapped_rig *m)
{
    ofr_error err = {0};
    memset(&watch, 0, sizeof watch);
    rig_check(ofr_opencl_api_open(NULL, &watch.real, &err), &err);
    watch.mapping = m->base;
    watch.mapping_size = m->size;
    watch.arena = m->rig.arena;
    watch.arena_size = m->rig.layout.total_bytes;
    watch.refusal = CL_INVALID_HOST_PTR;
    watch.largest = SMALL_BUFFER;
    ofr_opencl_api api = watch.real;
    api.CreateBuffer = watched_create;
    return api;
}

static void open_watched(mapped_rig *m, const ofr_opencl_api *api, enum ofr_opencl_memory memory)
{
    ofr_error err = {0};
    ofr_backend_options options = rig_options(&m->rig, "plain");
    ofr_opencl_options opencl = {.api = api, .memory = memory, .cache_directory = ""};
    rig_check(ofr_opencl_open(&options, &opencl, &m->rig.session, &err), &err);
}

static void run_three(mapped_rig *m, float *logits)
{
    const int32_t tokens[3] = {1, 2, 3};
    rig_segment(m->rig.session, 0, 0, 3, tokens, OFR_FORWARD_OUTPUT_LAST, logits);
}

static void shared_memory_is_bound_in_place(void **state)
{
    (void)state;
    mapped_rig m;
    ofr_opencl_stats stats;
    float first[301], second[301];
    mapped_set_up(&m, &small);
    ofr_opencl_api api = watched_api(&m);
    open_watched(&m, &api, OFR_OPENCL_MEMORY_SHARED);
    run_three(&m, first);
    ofr_opencl_session_stats(m.rig.session, &stats);
    assert_true(stats.weights_in_place >= m.tensor_bytes);
    assert_int_equal(stats.weights_copied, 0);
    assert_int_equal(ofr_opencl_backend()->handoff_bytes_copied(m.rig.session), 0);
    assert_true(watch.mapping_bound >= m.tensor_bytes);
    assert_int_equal(watch.arena_bound, m.rig.layout.total_bytes);
    assert_int_equal(watch.others, 0);
    ofr_opencl_backend()->close(m.rig.session);
    /* A mapping that the device refuses: one copy, in a memory file, and the same logits. */
    api = watched_api(&m);
    watch.refuses_mapping = true;
    open_watched(&m, &api, OFR_OPENCL_MEMORY_SHARED);
    run_three(&m, second);
    ofr_opencl_session_stats(m.rig.session, &stats);
    assert_int_equal(stats.weights_in_place, 0);
    assert_int_equal(stats.weights_copied, m.tensor_bytes);
    assert_int_equal(watch.mapping_bound, 0);
    assert_true(watch.others >= m.tensor_bytes);
    assert_memory_equal(first, second, sizeof first);
    mapped_tear_down(&m);
}

static void memory_of_its_own_gets_one_copy(void **state)
{
    (void)state;
    mapped_rig m;
    ofr_opencl_stats stats;
    float logits[301];
    mapped_set_up(&m, &small);
    ofr_opencl_api api = watched_api(&m);
    open_watched(&m, &api, OFR_OPENCL_MEMORY_DISCRETE);
    run_three(&m, logits);
    ofr_opencl_session_stats(m.rig.session, &stats);
    assert_int_equal(stats.weights_in_place, 0);
    assert_int_equal(stats.weights_copied, m.tensor_bytes);
    assert_int_equal(watch.mapping_bound + watch.arena_bound + watch.others, 0);
    uint64_t row = 2 * (uint64_t)small.n_layers * m.rig.layout.row_bytes;
    assert_int_equal(stats.kv_downloaded, 3 * row);
    assert_int_equal(stats.kv_uploaded, 0);
    /* Only the new row crosses. */
    const int32_t tokens[4] = {1, 2, 3, 4};
    rig_segment(m.rig.session, 0, 3, 1, tokens, OFR_FORWARD_OUTPUT_LAST, logits);
    ofr_opencl_session_stats(m.rig.session, &stats);
    assert_int_equal(stats.kv_downloaded, 4 * row);
    assert_int_equal(stats.kv_uploaded, 0);
    /* A rewound sequence needs nothing; another slot's text is another text. */
    rig_segment(m.rig.session, 0, 2, 1, tokens, OFR_FORWARD_OUTPUT_LAST, logits);
    rig_segment(m.rig.session, 1, 2, 1, tokens, OFR_FORWARD_OUTPUT_LAST, logits);
    ofr_opencl_session_stats(m.rig.session, &stats);
    assert_int_equal(stats.kv_uploaded, 2 * row);
    mapped_tear_down(&m);
}

/* As the device's, but for what one buffer may hold, and compute units. */
static cl_int small_device_info(cl_device_id id, cl_device_info what, size_t size, void *value,
                                size_t *ret_size)
{
    cl_int status = watch.real.GetDeviceInfo(id, what, size, value, ret_size);
    if (what == CL_DEVICE_MAX_MEM_ALLOC_SIZE && status == CL_SUCCESS && watch.largest > 0) {
        *(cl_ulong *)value = watch.largest;
    }
    if (what == CL_DEVICE_MAX_COMPUTE_UNITS && status == CL_SUCCESS &&
        *(cl_uint *)value < watch.least_units) {
        *(cl_uint *)value = watch.least_units;
    }
    return status;
}

/* Embedding and head of 2.5 MB each do not share a buffer of 4 MiB: two windows, the same logits.
 */
static void small_buffers_split_the_weights(void **state)
{
    (void)state;
    enum { VOCAB = 20000 };
    mapped_rig m;
    memory_model_options large = small;
    large.vocab_size = VOCAB;
    large.d_model = 128;
    float *expected = rig_floats(VOCAB), *got = rig_floats(VOCAB);
    mapped_set_up(&m, &large);
    ofr_opencl_api api = watched_api(&m);
    open_watched(&m, &api, OFR_OPENCL_MEMORY_SHARED);
    run_three(&m, expected);
    ofr_opencl_backend()->close(m.rig.session);
    assert_int_equal(watch.mapping_buffers, 1);
    api = watched_api(&m);
    api.GetDeviceInfo = small_device_info;
    for (uint32_t discrete = 0; discrete < 2; discrete++) {
        open_watched(&m, &api, discrete ? OFR_OPENCL_MEMORY_DISCRETE : OFR_OPENCL_MEMORY_SHARED);
        run_three(&m, got);
        assert_memory_equal(expected, got, VOCAB * sizeof *got);
        assert_true(watch.mapping_buffers >= 2);
        ofr_opencl_backend()->close(m.rig.session);
    }
    m.rig.session = NULL;
    free(expected);
    free(got);
    mapped_tear_down(&m);
}

/* 23 tokens in slot 0 and 5 in slot 2, then one more of each, and 3 and 1: logits of the last. */
static void run_slots(ofr_backend_session *session, uint32_t vocab, float *logits)
{
    static const ofr_segment calls[3][2] = {
        {{0, 0, 23}, {2, 0, 5}}, {{2, 5, 1}, {0, 23, 1}}, {{0, 24, 3}, {2, 6, 1}}};
    int32_t *tokens = rig_tokens(28, vocab);
    for (uint32_t i = 0; i < 3; i++) {
        const ofr_forward forward = {.segments = calls[i],
                                     .n_segments = 2,
                                     .tokens = tokens,
                                     .output = OFR_FORWARD_OUTPUT_LAST,
                                     .logits = logits + (size_t)i * 2 * vocab};
        rig_run(session, &forward);
    }
    free(tokens);
}

enum { KV_LAYERS = 12, KV_VOCAB = 97 };

/* Short heads: what attention over splits takes grows with them, strips with the row of all. */
static const memory_model_options many_layers = {
    KV_LAYERS,    64, 8,     8,     32,    96,  KV_VOCAB, OFR_DTYPE_I4,
    OFR_DTYPE_I8, 32, false, false, false, {0}, 9};

static ofr_backend_session *open_limited(opencl_rig *rig, const ofr_backend_options *options,
                                         enum ofr_opencl_memory memory, cl_ulong largest,
                                         cl_uint least_units)
{
    ofr_error err = {0};
    memset(&watch, 0, sizeof watch);
    rig_check(ofr_opencl_api_open(NULL, &watch.real, &err), &err);
    watch.arena = rig->arena;
    watch.arena_size = rig->layout.total_bytes;
    watch.mapping = "";
    watch.largest = largest;
    watch.least_units = least_units;
    ofr_opencl_api api = watch.real;
    api.CreateBuffer = watched_create;
    api.GetDeviceInfo = small_device_info;
    static ofr_opencl_api kept; /* sessions borrow it */
    kept = api;
    ofr_opencl_options opencl = {.api = &kept,
                                 .memory = memory,
                                 .cache_directory = "",
                                 .launches = OFR_OPENCL_LAUNCHES_STEPS};
    ofr_backend_session *session = NULL;
    rig_check(ofr_opencl_open(options, &opencl, &session, &err), &err);
    return session;
}

/* The strips of a layer are as large as the largest buffer of activations, which grows with the
 * device's compute units: a limit that splits KV leaves room for those. */
static void set_up_large_layers(opencl_rig *rig, cl_uint least_units)
{
    rig_model(rig, &many_layers);
    ofr_backend_options options = rig_options(rig, "dot");
    rig->session = open_limited(rig, &options, OFR_OPENCL_MEMORY_SHARED, 0, least_units);
    ofr_opencl_backend()->close(rig->session);
    rig->session = NULL;
    for (uint32_t n = 2; rig->layout.layer_bytes < watch.largest_own; n++) {
        rig_arena(rig, n * RIG_CONTEXT);
    }
}

/* Buffers of seven layers (mirrored: above 8 MiB new rows are collected on the device), of two, and
 * of one (below, they are fetched strip by strip): logits and strips as with one buffer. With as
 * many compute units as need the activations of a GPU of 132, at least. */
static void small_buffers_split_the_kv(void **state)
{
    (void)state;
    enum { UNITS = 2 * 132 }; /* a CPU's get half as many work-groups each */
    opencl_rig rig;
    set_up_large_layers(&rig, UNITS);
    size_t n = (size_t)6 * KV_VOCAB;
    float *expected = rig_floats(n), *got = rig_floats(n);
    char *strips = malloc(rig.layout.total_bytes), *before = malloc(rig.layout.total_bytes);
    assert_true(strips != NULL && before != NULL);
    memcpy(before, rig.arena, rig.layout.total_bytes);
    ofr_backend_options options = rig_options(&rig, "dot");
    uint64_t layer = rig.layout.layer_bytes;
    assert_true(layer > 2 << 20); /* what those activations take */
    const struct {
        cl_ulong largest;
        uint32_t windows;
    } limits[] = {{0, 1}, {7 * layer + layer / 2, 2}, {2 * layer + layer / 4, 6}, {layer, 12}};
    for (uint32_t i = 0; i < 4; i++) {
        for (uint32_t mirrored = 0; mirrored < 2; mirrored++) {
            memcpy(rig.arena, before, rig.layout.total_bytes);
            rig.session = open_limited(
                &rig, &options, mirrored ? OFR_OPENCL_MEMORY_DISCRETE : OFR_OPENCL_MEMORY_SHARED,
                limits[i].largest, UNITS);
            assert_int_equal(watch.arena_buffers, mirrored ? 0 : limits[i].windows);
            assert_int_equal(watch.arena_bound, mirrored ? 0 : rig.layout.total_bytes);
            run_slots(rig.session, KV_VOCAB, i + mirrored == 0 ? expected : got);
            uint64_t rows = mirrored ? 2 * (uint64_t)KV_LAYERS * rig.layout.row_bytes : 0;
            assert_int_equal(ofr_opencl_backend()->handoff_bytes_copied(rig.session), 34 * rows);
            ofr_opencl_backend()->close(rig.session);
            if (i + mirrored == 0) {
                memcpy(strips, rig.arena, rig.layout.total_bytes);
            } else {
                assert_memory_equal(got, expected, n * sizeof *got);
                assert_memory_equal(rig.arena, strips, rig.layout.total_bytes);
            }
        }
    }
    rig.session = NULL;
    free(before);
    free(strips);
    free(expected);
    free(got);
    rig_done(&rig);
}

/* Layers [0, 3) and [3, 12) in sessions of their own, the second's strips in five buffers: each
 * binds its own layers, the logits are those of one session, and what one writes the other leaves
 * alone. */
static void layer_ranges_bind_their_own_strips(void **state)
{
    (void)state;
    enum { N = 9, FIRST = 3 };
    opencl_rig rig;
    set_up_large_layers(&rig, 0);
    const uint64_t two_layers = 2 * rig.layout.layer_bytes + rig.layout.layer_bytes / 4;
    int32_t *tokens = rig_tokens(N, KV_VOCAB);
    float *expected = rig_floats(KV_VOCAB), *got = rig_floats(KV_VOCAB);
    float *hidden = rig_floats((size_t)N * many_layers.d_model);
    ofr_backend_options options = rig_options(&rig, "dot");
    rig.session = open_limited(&rig, &options, OFR_OPENCL_MEMORY_SHARED, 0, 0);
    rig_segment(rig.session, 0, 0, N, tokens, OFR_FORWARD_OUTPUT_LAST, expected);
    ofr_opencl_backend()->close(rig.session);
    for (uint32_t mirrored = 0; mirrored < 2; mirrored++) {
        enum ofr_opencl_memory memory =
            mirrored ? OFR_OPENCL_MEMORY_DISCRETE : OFR_OPENCL_MEMORY_SHARED;
        ofr_segment segment = {1, 0, N};
        ofr_forward forward = {
            .segments = &segment, .n_segments = 1, .tokens = tokens, .hidden_out = hidden};
        options.layer_end = FIRST;
        rig.session = open_limited(&rig, &options, memory, two_layers, 0);
        assert_int_equal(watch.arena_bound, mirrored ? 0 : FIRST * rig.layout.layer_bytes);
        rig_run(rig.session, &forward);
        ofr_opencl_backend()->close(rig.session);
        options.layer_begin = FIRST;
        options.layer_end = KV_LAYERS;
        forward = (ofr_forward){.segments = &segment,
                                .n_segments = 1,
                                .hidden_in = hidden,
                                .output = OFR_FORWARD_OUTPUT_LAST,
                                .logits = got};
        rig.session = open_limited(&rig, &options, memory, two_layers, 0);
        assert_int_equal(watch.arena_buffers, mirrored ? 0 : 5);
        assert_int_equal(watch.arena_bound,
                         mirrored ? 0 : (KV_LAYERS - FIRST) * rig.layout.layer_bytes);
        rig_run(rig.session, &forward);
        ofr_opencl_backend()->close(rig.session);
        options.layer_begin = 0;
        assert_memory_equal(got, expected, KV_VOCAB * sizeof *got);
    }
    for (uint32_t strip = 0; strip < 2 * KV_LAYERS; strip++) { /* as slot 0 has them */
        const char *first = (char *)rig.arena + ofr_kv_strip_k(&rig.layout, 0, strip / 2) +
                            strip % 2 * rig.layout.strip_bytes;
        assert_memory_equal(first, first + 2 * rig.layout.strip_bytes, N * rig.layout.row_bytes);
    }
    rig.session = NULL;
    free(tokens);
    free(expected);
    free(got);
    free(hidden);
    rig_done(&rig);
}

/* What fits into no buffer is a limit, named. */
static void too_large_for_a_buffer_is_said(void **state)
{
    (void)state;
    mapped_rig m;
    ofr_error err = {0};
    ofr_backend_session *session = NULL;
    memory_model_options large = small;
    large.vocab_size = 100000;
    mapped_set_up(&m, &large);
    ofr_opencl_api api = watched_api(&m);
    api.GetDeviceInfo = small_device_info;
    ofr_backend_options options = rig_options(&m.rig, "plain");
    ofr_opencl_options opencl = {
        .api = &api, .memory = OFR_OPENCL_MEMORY_SHARED, .cache_directory = ""};
    assert_int_equal(ofr_opencl_open(&options, &opencl, &session, &err), OFR_ELIMIT);
    assert_non_null(strstr(err.text, "tensor"));
    mapped_tear_down(&m);
    mapped_set_up(&m, &small);
    options = rig_options(&m.rig, "plain");
    options.kv_layout.layer_bytes = SMALL_BUFFER + 4096;
    assert_int_equal(ofr_opencl_open(&options, &opencl, &session, &err), OFR_ELIMIT);
    assert_non_null(strstr(err.text, "KV strips"));
    assert_null(session);
    mapped_tear_down(&m);
}

int main(void)
{
    rig_require_device();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_memory_is_bound_in_place),
        cmocka_unit_test(memory_of_its_own_gets_one_copy),
        cmocka_unit_test(small_buffers_split_the_weights),
        cmocka_unit_test(small_buffers_split_the_kv),
        cmocka_unit_test(layer_ranges_bind_their_own_strips),
        cmocka_unit_test(too_large_for_a_buffer_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
