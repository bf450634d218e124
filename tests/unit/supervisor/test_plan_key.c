/* The key of a plan's figures: what it depends on, below a root of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "supervisor/plan_key.h"

static void key_of(const char *root, const char *fingerprint, uint32_t threads, char *ret_key)
{
    ofr_error err = {0};
    if (ofr_plan_key(root, fingerprint, threads, ret_key, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(strlen(ret_key), 64);
}

static void write_below(const char *root, const char *directory, const char *name,
                        const char *content)
{
    char *path = ofr_path_join(root, directory);
    assert_int_equal(ofr_directory_make(path, 0700, NULL), 0);
    char *file = ofr_path_join(path, name);
    assert_int_equal(ofr_file_replace(file, content, strlen(content), 0600, NULL), 0);
    free(file);
    free(path);
}

static void changes_with_what_it_depends_on(void **state)
{
    (void)state;
    char root[] = "/tmp/offering_test_plan_key_XXXXXX";
    assert_non_null(mkdtemp(root));
    write_below(root, "sys/class", "nothing", "");
    write_below(root, "proc", "cpuinfo", "processor\t: 0\nmodel name\t: A\n");
    char first[OFR_SHA256_HEX_SIZE], other[OFR_SHA256_HEX_SIZE];
    key_of(root, "package", 2, first);
    key_of(root, "package", 2, other);
    assert_string_equal(other, first);
    key_of(root, "another package", 2, other);
    assert_string_not_equal(other, first);
    key_of(root, "package", 3, other);
    assert_string_not_equal(other, first);

    write_below(root, "usr/lib/x86_64-linux-gnu", "libze_intel_npu.so.1", "driver");
    key_of(root, "package", 2, other);
    assert_string_not_equal(other, first);
    write_below(root, "usr/lib/x86_64-linux-gnu", "libze_intel_npu.so.1", "a newer driver");
    key_of(root, "package", 2, first);
    assert_string_not_equal(other, first);
    write_below(root, "etc/OpenCL/vendors", "intel.icd", "libigdrcl.so");
    key_of(root, "package", 2, other);
    assert_string_not_equal(other, first);
    /* What is no driver changes nothing. */
    write_below(root, "usr/lib/x86_64-linux-gnu", "libm.so", "");
    key_of(root, "package", 2, first);
    assert_string_equal(other, first);
    write_below(root, "proc", "cpuinfo", "processor\t: 0\nmodel name\t: B\n");
    key_of(root, "package", 2, first);
    assert_string_not_equal(other, first);
    assert_int_equal(ofr_directory_remove(root, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(changes_with_what_it_depends_on)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
