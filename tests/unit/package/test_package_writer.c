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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finished_tensors_are_kept),
        cmocka_unit_test(a_second_writer_is_refused_and_harmless),
        cmocka_unit_test(too_little_space_is_said_at_once),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
