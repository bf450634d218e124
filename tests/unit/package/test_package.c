/* Packages: what is written is what is read, and every kind of damage is named. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/sha256.h"
#include "package/package.h"
#include "package/package_json.h"
#include "package/package_writer.h"

static char directory[] = "/tmp/offering_test_package_XXXXXX";
static char package_path[64], cache_path[64];

static const ofr_model_params PARAMS = {
    .architecture = "llama",
    .name = "test \"model\"",
    .n_layers = 2,
    .d_model = 64,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 16,
    .d_ff = 96,
    .vocab_size = 300,
    .context_length = 1024,
    .rms_epsilon = 1e-5f,
    .rope = {.dims = 16,
             .base = 10000,
             .scaling = OFR_ROPE_SCALING_YARN,
             .factor = 4,
             .original_context = 256,
             .beta_fast = 32,
             .beta_slow = 1,
             .attention_factor = 1.25f},
    .activation = OFR_ACTIVATION_GELU_TANH,
    .embedding_scale = 8.5f,
    .residual_scale = 0.22f,
    .attention_scale = 0.0625f,
    .logit_scale = 0.125f,
    .attention_softcap = 50,
    .logit_softcap = 30,
    .sliding_window = 128,
    .rope_local = {.dims = 16,
                   .base = 1e6f,
                   .scaling = OFR_ROPE_SCALING_LONGROPE,
                   .original_context = 4096,
                   .attention_factor = 1.19f},
    .layer_flags = {OFR_LAYER_WINDOWED, OFR_LAYER_WINDOWED | OFR_LAYER_UNROTATED},
};
static const char GOLDEN[] = "{\"prompt_ids\": [1, 2, 299], \"expected_ids\": [3]}";

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(package_path, sizeof package_path, "%s/package", directory);
    snprintf(cache_path, sizeof cache_path, "%s/cache", directory);
    return setenv("XDG_CACHE_HOME", cache_path, 1);
}

static int tear_down(void **state)
{
    (void)state;
    return ofr_directory_remove(directory, NULL);
}

static void write_tensor(ofr_package_writer *writer, const ofr_tensor *spec, size_t bytes,
                         size_t scale_bytes, unsigned char fill)
{
    ofr_error err = {0};
    unsigned char data[8192], scales[512];
    assert_true(bytes <= sizeof data && scale_bytes <= sizeof scales);
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(fill + i);
    memset(scales, fill ^ 0x55, sizeof scales);
    assert_int_equal(ofr_package_writer_begin(writer, spec, &err), 0);
    assert_int_equal(ofr_package_writer_data(writer, data, bytes / 2, &err), 0);
    assert_int_equal(ofr_package_writer_scales(writer, scales, scale_bytes, &err), 0);
    /* Neither too little nor too much. */
    assert_int_equal(ofr_package_writer_end(writer, NULL, &err), OFR_EINTERNAL);
    assert_int_equal(ofr_package_writer_data(writer, data + bytes / 2, bytes / 2 + 1, &err),
                     OFR_EINTERNAL);
    assert_int_equal(ofr_package_writer_data(writer, data + bytes / 2, bytes - bytes / 2, &err), 0);
    assert_int_equal(ofr_package_writer_end(writer, NULL, &err), 0);
}

static const ofr_tensor I4 = {
    .name = "w", .dtype = OFR_DTYPE_I4, .n_dims = 2, .shape = {10, 128}, .group_size = 64};
static const ofr_tensor F32 = {.name = "norm", .dtype = OFR_DTYPE_F32, .n_dims = 1, .shape = {64}};
static const ofr_tensor I8 = {
    .name = "e", .dtype = OFR_DTYPE_I8, .n_dims = 2, .shape = {64, 128}, .group_size = 32};

static int write_package(bool overwrite, ofr_error *err)
{
    ofr_package_writer_options options = {
        .output = package_path, .source = "test", .overwrite = overwrite};
    ofr_package_writer *writer;
    int r = ofr_package_writer_open(&options, &writer, err);
    if (r < 0)
        return r;
    assert_int_equal(ofr_package_writer_file(writer, "tokenizer.bin", "TOKENS", 6, err), 0);
    assert_int_equal(ofr_package_writer_file(writer, "chat_template.jinja", "{{ x }}", 7, err), 0);
    assert_int_equal(ofr_package_writer_file(writer, "golden.json", GOLDEN, strlen(GOLDEN), err),
                     0);
    write_tensor(writer, &I4, 640, 40, 1);
    write_tensor(writer, &F32, 256, 0, 2);
    write_tensor(writer, &I8, 8192, 512, 3);
    r = ofr_package_writer_finish(writer, &PARAMS, "{\"quantization\": {\"weights\": \"i4\"}}",
                                  err);
    ofr_package_writer_close(writer);
    return r;
}

static int open_and_close(unsigned flags, ofr_error *err)
{
    ofr_package *package;
    int r = ofr_package_open(package_path, flags, &package, err);
    if (r == 0)
        ofr_package_close(package);
    return r;
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    ofr_error err = {0};
    assert_int_equal(write_package(true, &err), 0);
    assert_int_equal(write_package(false, &err), OFR_EEXIST);
    ofr_package *package;
    assert_int_equal(ofr_package_open(package_path, 0, &package, &err), 0);
    assert_string_equal(ofr_package_directory(package), package_path);
    assert_int_equal(strlen(ofr_package_fingerprint(package)), 64);
    assert_memory_equal(ofr_package_params(package), &PARAMS, sizeof PARAMS);
    assert_string_equal(ofr_package_quantization_json(package), "{\"weights\":\"i4\"}");
    size_t size;
    assert_memory_equal(ofr_package_tokenizer(package, &size), "TOKENS", 6);
    assert_int_equal(size, 6);
    assert_string_equal(ofr_package_chat_template(package, &size), "{{ x }}");
    const ofr_golden *golden = ofr_package_golden(package);
    assert_non_null(golden);
    assert_int_equal(golden->n_prompt, 3);
    assert_int_equal(golden->prompt_ids[2], 299);
    assert_int_equal(golden->expected_ids[0], 3);
    assert_int_equal(ofr_package_tensor_count(package), 3);
    assert_null(ofr_package_find(package, "none"));
    assert_null(ofr_package_tensor(package, 3));
    const ofr_tensor *w = ofr_package_find(package, "w"), *e = ofr_package_find(package, "e");
    assert_non_null(w);
    assert_non_null(e);
    assert_int_equal(w->scale_bytes, 40);
    assert_int_equal((uintptr_t)w->data % OFR_PACKAGE_TENSOR_ALIGN, 0);
    assert_int_equal((uintptr_t)e->data % OFR_PACKAGE_PAGE_ALIGN, 0);
    for (size_t i = 0; i < e->bytes; i++)
        assert_int_equal(((const unsigned char *)e->data)[i], (unsigned char)(3 + i));
    assert_int_equal(((const unsigned char *)e->scales)[511], 3 ^ 0x55);
    assert_null(ofr_package_find(package, "norm")->scales);
    ofr_package_close(package);
}

/* XORs one byte of a file of the package in place. */
static void flip(const char *name, off_t at)
{
    char path[128];
    unsigned char byte;
    snprintf(path, sizeof path, "%s/%s", package_path, name);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static off_t size_of(const char *name)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", package_path, name);
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

static const char *const FILES[] = {"model.json", "weights.bin", "tokenizer.bin",
                                    "chat_template.jinja", "golden.json"};
enum { N_FILES = sizeof FILES / sizeof FILES[0] };

static void every_flipped_byte_is_found_and_its_file_named(void **state)
{
    (void)state;
    ofr_error err = {0};
    assert_int_equal(write_package(true, &err), 0);
    usleep(30000); /* old enough for a stamp: the flip must be found in spite of it */
    for (size_t i = 0; i < N_FILES; i++) {
        off_t size = size_of(FILES[i]);
        off_t step = size / 40 + 1;
        for (off_t at = 0; at < size; at += step) {
            assert_int_equal(open_and_close(0, &err), 0);
            flip(FILES[i], at);
            assert_int_equal(open_and_close(0, &err), OFR_ECORRUPT);
            assert_non_null(strstr(err.text, FILES[i]));
            flip(FILES[i], at);
        }
    }
    assert_int_equal(open_and_close(OFR_PACKAGE_VERIFY_ALL, &err), 0);
}

static void missing_and_truncated_files_are_named(void **state)
{
    (void)state;
    ofr_error err = {0};
    for (size_t i = 0; i < N_FILES; i++) {
        char path[128], away[128];
        snprintf(path, sizeof path, "%s/%s", package_path, FILES[i]);
        snprintf(away, sizeof away, "%s/away", directory);
        assert_int_equal(write_package(true, &err), 0);
        assert_int_equal(rename(path, away), 0);
        assert_int_equal(open_and_close(0, &err), OFR_ENOENT);
        assert_non_null(strstr(err.text, FILES[i]));
        assert_non_null(strstr(err.text, "bake_model"));
        if (strcmp(FILES[i], "weights.bin") == 0)
            assert_int_equal(open_and_close(OFR_PACKAGE_TOKENIZER_ONLY, &err), 0);
        assert_int_equal(rename(away, path), 0);
        assert_int_equal(truncate(path, size_of(FILES[i]) - 1), 0);
        assert_int_equal(open_and_close(0, &err), OFR_ECORRUPT);
        assert_non_null(strstr(err.text, FILES[i]));
    }
    char none[128];
    snprintf(none, sizeof none, "%s/none", directory);
    ofr_package *package;
    assert_int_equal(ofr_package_open(none, 0, &package, &err), OFR_ENOENT);
    assert_non_null(strstr(err.text, "bake_model"));
}

static void a_stamp_spares_reading_and_an_unwritable_cache_does_no_harm(void **state)
{
    (void)state;
    ofr_error err = {0};
    assert_int_equal(ofr_directory_remove(cache_path, &err), 0);
    assert_int_equal(write_package(true, &err), 0);
    usleep(30000);
    assert_int_equal(open_and_close(0, &err), 0);
    char stamps[128];
    bool empty = true;
    snprintf(stamps, sizeof stamps, "%s/offering/verified", cache_path);
    assert_int_equal(ofr_directory_is_empty(stamps, &empty, &err), 0);
    assert_false(empty);
    /* The cache directory is a file: nothing can be stored. */
    assert_int_equal(ofr_directory_remove(cache_path, &err), 0);
    assert_int_equal(ofr_file_replace(cache_path, "", 0, 0600, &err), 0);
    assert_int_equal(open_and_close(0, &err), 0);
    assert_int_equal(unlink(cache_path), 0);
}

/* Replaces text in model.json and mends its checksum. */
static void edit(const char *from, const char *to)
{
    char path[128];
    void *data;
    size_t size;
    ofr_error err = {0};
    assert_int_equal(write_package(true, &err), 0);
    snprintf(path, sizeof path, "%s/model.json", package_path);
    assert_int_equal(ofr_file_read(path, 1 << 20, &data, &size, &err), 0);
    char *text = data, *at = strstr(text, from);
    if (!at)
        fail_msg("'%s' is not in model.json", from);
    char *edited = calloc(1, size + strlen(to) + 1);
    assert_non_null(edited);
    memcpy(edited, text, (size_t)(at - text));
    strcat(edited, to);
    strcat(edited, at + strlen(from));
    char *digits = strstr(edited, "\"checksum\": \"") + strlen("\"checksum\": \"");
    char hex[OFR_SHA256_HEX_SIZE];
    memset(digits, '0', 64);
    assert_int_equal(ofr_sha256_hex(edited, strlen(edited), hex, &err), 0);
    memcpy(digits, hex, 64);
    assert_int_equal(ofr_file_replace(path, edited, strlen(edited), 0644, &err), 0);
    free(edited);
    free(data);
}

static void values_out_of_range_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        int code;
        const char *text;
    } cases[] = {
        {"\"format_version\": 1", "\"format_version\": 2", OFR_EVERSION, "update Offering"},
        {"\"n_layers\": 2", "\"n_layers\": 2000000", OFR_EFORMAT, "n_layers"},
        {"\"n_layers\": 2", "\"n_layers\": -2", OFR_EFORMAT, "n_layers"},
        {"\"n_layers\": 2", "\"n_layers\": \"2\"", OFR_EFORMAT, "n_layers"},
        {"\"n_layers\": 2,", "", OFR_EFORMAT, "n_layers"},
        {"\"n_layers\": 2", "\"n_layers\": 4294967298", OFR_EFORMAT, "n_layers"},
        {"\"n_kv_heads\": 2", "\"n_kv_heads\": 3", OFR_EFORMAT, "n_kv_heads"},
        {"\"base\": 10000.0", "\"base\": 1e39", OFR_EFORMAT, "base"},
        {"\"base\": 10000.0", "\"base\": 1e400", OFR_EFORMAT, "model.json"},
        {"\"rms_epsilon\": 1e-5", "\"rms_epsilon\": 0", OFR_EFORMAT, "rms_epsilon"},
        {"\"dims\": 16", "\"dims\": 18", OFR_EFORMAT, "rope.dims"},
        {"\"yarn\"", "\"nonsense\"", OFR_EFORMAT, "nonsense"},
        {"\"dtype\": \"i4\"", "\"dtype\": \"i3\"", OFR_EFORMAT, "i3"},
        {"\"name\": \"norm\"", "\"name\": \"w\"", OFR_EFORMAT, "twice"},
        {"\"group_size\": 64", "\"group_size\": 48", OFR_EFORMAT, "'w'"},
        {"\"group_size\": 64", "\"group_size\": 32", OFR_EFORMAT, "'w'"},
        {"\"offset\": 0", "\"offset\": 64", OFR_EFORMAT, "overlap"},
        {"\"offset\": 0", "\"offset\": 1", OFR_EFORMAT, "aligned"},
        {"\"offset\": 0", "\"offset\": 9223372036854775744", OFR_EFORMAT, "outside"},
        {"\"bytes\": 640", "\"bytes\": 641", OFR_EFORMAT, "'w'"},
        {"10,\n", "4611686018427387904,\n", OFR_EFORMAT, "absurd"},
        {"\"tokenizer.bin\"", "\"../tokenizer.bin\"", OFR_EFORMAT, "bad name"},
        {"\"format_version\": 1", "\"format_version\": 1, \"format_version\": 1", OFR_EFORMAT,
         "duplicate"},
        {"\"quantization\": {",
         "\"quantization\": {\"a\": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]"
         "]]]]]]]]]]]]]]]]]]]]],",
         OFR_EFORMAT, "nested"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ofr_error err = {0};
        edit(cases[i].from, cases[i].to);
        int r = open_and_close(0, &err);
        if (r != cases[i].code || !strstr(err.text, cases[i].text))
            fail_msg("%s -> %s: code %d, '%s'; expected %d, '%s'", cases[i].from, cases[i].to, r,
                     err.text, cases[i].code, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(every_flipped_byte_is_found_and_its_file_named),
        cmocka_unit_test(missing_and_truncated_files_are_named),
        cmocka_unit_test(a_stamp_spares_reading_and_an_unwritable_cache_does_no_harm),
        cmocka_unit_test(values_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
