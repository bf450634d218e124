/* The writer's resuming: finished tensors are kept, and only those; other sources start anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "package/package_writer.h"

static char directory[] = "/tmp/offering_test_writer_XXXXXX";
static char output[64], partial[80];

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(directory))
        return -1;
    snprintf(output, sizeof output, "%s/out", directory);
    snprintf(partial, sizeof partial, "%s.partial", output);
    return setenv("XDG_CACHE_HOME", directory, 1);
}

static int tear_down(void **state)
{
    (void)state;
    return ofr_directory_remove(directory, NULL);
}

static ofr_package_writer *open_writer(const char *source)
{
    ofr_package_writer_options options = {.output = output, .source = source};
    ofr_package_writer *writer = NULL;
    ofr_error err = {0};
    if (ofr_package_writer_open(&options, &writer, &err) < 0)
        fail_msg("%s", err.text);
    return writer;
}

static void add(ofr_package_writer *writer, const char *name, float value)
{
    ofr_tensor spec = {.name = name, .dtype = OFR_DTYPE_F32, .n_dims = 1, .shape = {1}};
    assert_int_equal(ofr_package_writer_begin(writer, &spec, NULL), 0);
    assert_int_equal(ofr_package_writer_data(writer, &value, sizeof value, NULL), 0);
    assert_int_equal(ofr_package_writer_end(writer, NULL, NULL), 0);
}

static void finished_tensors_are_kept(void **state)
{
    (void)state;
    ofr_package_writer *writer = open_writer("one");
    assert_false(ofr_package_writer_has(writer, "a"));
    add(writer, "a", 1);
    add(writer, "b", 2);
    ofr_tensor spec = {.name = "c", .dtype = OFR_DTYPE_F32, .n_dims = 1, .shape = {2}};
    assert_int_equal(ofr_package_writer_begin(writer, &spec, NULL), 0);
    assert_int_equal(ofr_package_writer_data(writer, "abcd", 4, NULL), 0);
    ofr_package_writer_close(writer);
    assert_int_equal(access(output, F_OK), -1);

    writer = open_writer("one");
    assert_true(ofr_package_writer_has(writer, "a"));
    assert_false(ofr_package_writer_has(writer, "c")); /* b is next */
    add(writer, "x", 3);                               /* another order: b is dropped */
    assert_false(ofr_package_writer_has(writer, "b"));
    ofr_package_writer_close(writer);

    writer = open_writer("one");
    assert_true(ofr_package_writer_has(writer, "a"));
    assert_true(ofr_package_writer_has(writer, "x"));
    assert_false(ofr_package_writer_has(writer, "b"));
    ofr_package_writer_close(writer);

    writer = open_writer("two");
    assert_false(ofr_package_writer_has(writer, "a"));
    ofr_package_writer_close(writer); /* with nothing in it, the directory goes */
    assert_int_equal(access(partial, F_OK), -1);
}

static void a_second_writer_is_refused_and_harmless(void **state)
{
    (void)state;
    ofr_package_writer *writer = open_writer("one");
    ofr_package_writer_options options = {.output = output, .source = "one"};
    ofr_package_writer *second = NULL;
    ofr_error err = {0};
    assert_int_equal(ofr_package_writer_open(&options, &second, &err), OFR_EBUSY);
    assert_int_equal(access(partial, F_OK), 0);
    add(writer, "a", 1);
    ofr_package_writer_discard(writer);
    assert_int_equal(access(partial, F_OK), -1);
    assert_null(ofr_package_writer_close(NULL));
    assert_null(ofr_package_writer_discard(NULL));
}

static void too_little_space_is_said_at_once(void **state)
{
    (void)state;
    ofr_package_writer_options options = {
        .output = output, .source = "one", .expected_bytes = UINT64_MAX / 4};
    ofr_package_writer *writer = NULL;
    ofr_error err = {0};
    assert_int_equal(ofr_package_writer_open(&options, &writer, &err), OFR_ENOSPACE);
    assert_non_null(strstr(err.text, "MiB are free"));
    assert_int_equal(access(partial, F_OK), -1);
}

static void put(const char *name, const char *text)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", partial, name);
    FILE *file = fopen(path, "ab");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* A kill between the last tensor and the rename leaves graphs behind. */
static void graphs_of_an_earlier_run_are_no_ones_files(void **state)
{
    (void)state;
    static const char *const names[] = {"block_16_256.xml",   "block_16_0_kind1.xml.Ab3dEf",
                                        "prefill_64.xml",     "decode.xml",
                                        "openvino_model.xml", "golden.json",
                                        "chat_template.jinja"};
    ofr_package_writer *writer = open_writer("one");
    add(writer, "a", 1);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        put(names[i], "x");
    ofr_package_writer_close(writer);
    writer = open_writer("one");
    assert_true(ofr_package_writer_has(writer, "a"));
    put("notes.txt", "mine");
    ofr_package_writer_close(writer);
    ofr_package_writer_options options = {.output = output, .source = "one"};
    ofr_error err = {0};
    assert_int_equal(ofr_package_writer_open(&options, &writer, &err), OFR_EEXIST);
    assert_non_null(strstr(err.text, "notes.txt"));
    assert_int_equal(ofr_directory_remove(partial, NULL), 0);
}

static void set_weights(const char *bytes, size_t size, bool cut)
{
    char path[160];
    snprintf(path, sizeof path, "%s/weights.bin", partial);
    if (cut) {
        assert_int_equal(truncate(path, (off_t)size), 0);
        return;
    }
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, 64, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* After a loss of power the state file may be ahead of weights.bin, or end in zeros or rubbish:
 * what the checksums vouch for is kept, and no more. */
static void what_a_loss_of_power_took_is_written_again(void **state)
{
    (void)state;
    for (int loss = 0; loss < 4; loss++) {
        ofr_package_writer *writer = open_writer("one");
        add(writer, "a", 1);
        add(writer, "b", 2);
        ofr_package_writer_close(writer);
        bool keeps_b = loss >= 2;
        if (loss == 0) /* the bytes of b never came to the disk */
            set_weights("\0\0\0\0", 4, false);
        else if (loss == 1) /* the file's size did not */
            set_weights(NULL, 60, true);
        else
            put("bake_state", loss == 2 ? "" : "\x01\x02garbage");
        if (loss == 2) { /* a block of zeros behind the last line */
            char path[160];
            snprintf(path, sizeof path, "%s/bake_state", partial);
            FILE *file = fopen(path, "ab");
            static const char zeros[600];
            assert_int_equal(fwrite(zeros, 1, sizeof zeros, file), sizeof zeros);
            assert_int_equal(fclose(file), 0);
        }
        writer = open_writer("one");
        assert_true(ofr_package_writer_has(writer, "a"));
        assert_int_equal(ofr_package_writer_has(writer, "b"), keeps_b);
        if (!keeps_b)
            add(writer, "b", 2);
        add(writer, "c", 3);
        ofr_package_writer_close(writer);
        writer = open_writer("one");
        for (const char *name = "abc"; *name; name++)
            assert_true(ofr_package_writer_has(writer, (char[]){*name, 0}));
        ofr_package_writer_discard(writer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(graphs_of_an_earlier_run_are_no_ones_files),
        cmocka_unit_test(what_a_loss_of_power_took_is_written_again),
        cmocka_unit_test(finished_tensors_are_kept),
        cmocka_unit_test(a_second_writer_is_refused_and_harmless),
        cmocka_unit_test(too_little_space_is_said_at_once),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
