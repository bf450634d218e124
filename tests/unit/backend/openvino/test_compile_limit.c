/* The bound on a compilation's memory: it holds, it goes away, and an error names it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "backend/openvino/compile_limit.h"

static bool can_have(size_t mib)
{
    void *p = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return false;
    munmap(p, mib << 20);
    return true;
}

static void growth_is_bounded_and_then_free(void **state)
{
    (void)state;
    ofr_compile_limit limit;
    int good = 0;
    setenv("OFFERING_COMPILE_MIB", "64", 1);
    ofr_compile_limit_begin(&limit);
    assert_true(limit.active);
    assert_true(can_have(32));
    assert_false(can_have(128));
    ofr_compile_limit_end(&limit, &good, NULL);
    assert_true(can_have(128));
}

static void errors_name_the_limit(void **state)
{
    (void)state;
    ofr_compile_limit limit;
    ofr_error err = {0};
    setenv("OFFERING_COMPILE_MIB", "64", 1);
    ofr_compile_limit_begin(&limit);
    int bad = ofr_fail(&err, OFR_EDEVICE, "cannot compile");
    ofr_compile_limit_end(&limit, &bad, &err);
    assert_non_null(strstr(err.text, "64 MiB"));
    assert_non_null(strstr(err.text, "cannot compile"));
}

static void without_a_choice_it_is_half_of_what_is_available(void **state)
{
    (void)state;
    ofr_compile_limit limit;
    int good = 0;
    unsetenv("OFFERING_COMPILE_MIB");
    ofr_compile_limit_begin(&limit);
    assert_true(limit.active);
    assert_true(limit.bytes > 16 << 20);
    ofr_compile_limit_end(&limit, &good, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(growth_is_bounded_and_then_free),
        cmocka_unit_test(errors_name_the_limit),
        cmocka_unit_test(without_a_choice_it_is_half_of_what_is_available),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
