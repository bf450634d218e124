/* Stop texts: found where they begin earliest, held back while they may begin. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "supervisor/serve/choice.h"

static void check(const char *text, size_t from, const char *a, const char *b, size_t found,
                  size_t held)
{
    char *const stops[] = {(char *)a, (char *)b};
    size_t got_held = 99;
    size_t got = ofr_stop_find(text, strlen(text), from, stops, b ? 2 : 1, &got_held);
    assert_int_equal(got, found);
    if (found == SIZE_MAX)
        assert_int_equal(got_held, held);
}

static void stop_texts(void **state)
{
    (void)state;
    check("hello world", 0, "world", NULL, 6, 0);
    check("hello world", 10, "world", NULL, 6, 0); /* it began before what is new */
    check("hello wor", 0, "world", NULL, SIZE_MAX, 3);
    check("hello wxr", 0, "world", NULL, SIZE_MAX, 0);
    check("aab", 0, "b", "ab", 1, 0); /* the earlier one */
    check("xaa", 0, "aaab", NULL, SIZE_MAX, 2);
    check("\n", 0, "\n\n", "\nUser:", SIZE_MAX, 1);
    check("", 0, "a", NULL, SIZE_MAX, 0);
    check("ab", 0, "abc", "bcd", SIZE_MAX, 2); /* the longest that may begin */
    check("wor", 0, "world of text", NULL, SIZE_MAX, 3);
}

static void without_stop_texts_nothing_is_held(void **state)
{
    (void)state;
    size_t held = 5;
    assert_int_equal(ofr_stop_find("abc", 3, 0, NULL, 0, &held), SIZE_MAX);
    assert_int_equal(held, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_texts),
        cmocka_unit_test(without_stop_texts_nothing_is_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
