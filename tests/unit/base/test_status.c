/* Status codes: every code has a name, errors carry their text and never overrun. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

static void every_code_has_a_distinct_name(void **state)
{
    (void)state;
    static const int codes[] = {
#define CODE(symbol, value, name, message) symbol,
        OFR_STATUS_TABLE(CODE)
#undef CODE
    };
    size_t n = sizeof codes / sizeof codes[0];
    for (size_t i = 0; i < n; i++) {
        assert_string_not_equal(ofr_status_name(codes[i]), "unknown");
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(codes[i], codes[j]);
            assert_string_not_equal(ofr_status_name(codes[i]), ofr_status_name(codes[j]));
        }
    }
    assert_string_equal(ofr_status_name(1), "unknown");
}

static void fail_writes_and_returns_the_code(void **state)
{
    (void)state;
    ofr_error err;
    assert_int_equal(ofr_fail(&err, OFR_EFORMAT, "file %s", "a.gguf"), OFR_EFORMAT);
    assert_int_equal(err.code, OFR_EFORMAT);
    assert_string_equal(err.text, "file a.gguf");
    assert_int_equal(ofr_fail(NULL, OFR_EIO, "ignored"), OFR_EIO);
}

static void errno_is_mapped_and_appended(void **state)
{
    (void)state;
    ofr_error err;
    assert_int_equal(ofr_fail_errno(&err, ENOSPC, "cannot write x"), OFR_ENOSPACE);
    assert_string_equal(err.text, "cannot write x: No space left on device");
}

static void long_texts_are_cut_not_overrun(void **state)
{
    (void)state;
    char big[4096];
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    ofr_error err;
    ofr_fail(&err, OFR_EIO, "%s", big);
    assert_int_equal(strlen(err.text), OFR_ERROR_TEXT_MAX - 1);
    ofr_error_prefix(&err, err.code, "prefix");
    assert_memory_equal(err.text, "prefix: aaa", 11);
    assert_int_equal(strlen(err.text), OFR_ERROR_TEXT_MAX - 1);
    ofr_fail_errno(&err, EIO, "%s", big);
    assert_int_equal(strlen(err.text), OFR_ERROR_TEXT_MAX - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_a_distinct_name),
        cmocka_unit_test(fail_writes_and_returns_the_code),
        cmocka_unit_test(errno_is_mapped_and_appended),
        cmocka_unit_test(long_texts_are_cut_not_overrun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
