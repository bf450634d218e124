/* The growing text and its JSON strings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <string.h>

#include "supervisor/serve/text.h"

static void json_strings_are_read_back(void **state)
{
    (void)state;
    char all[200];
    for (size_t i = 0; i < 128; i++)
        all[i] = (char)i;
    memcpy(all + 128, "\xc3\xa9\xf0\x9f\x98\x80\\\"\n", 9);
    ofr_text text = {0};
    ofr_text_add(&text, "[", 1);
    ofr_text_add_json(&text, all, 137);
    ofr_text_add(&text, ",", 1);
    ofr_text_add_json_string(&text, NULL);
    ofr_text_print(&text, ",%d]", 7);
    json_t *array = json_loadb(text.data, text.size, JSON_ALLOW_NUL, NULL);
    assert_non_null(array);
    assert_int_equal(json_string_length(json_array_get(array, 0)), 137);
    assert_memory_equal(json_string_value(json_array_get(array, 0)), all, 137);
    assert_true(json_is_null(json_array_get(array, 1)));
    assert_int_equal(json_integer_value(json_array_get(array, 2)), 7);
    json_decref(array);
    ofr_text_done(&text);
}

static void it_grows(void **state)
{
    (void)state;
    ofr_text text = {0};
    for (int i = 0; i < 1000; i++)
        ofr_text_print(&text, "%03d", i);
    assert_int_equal(text.size, 3000);
    assert_memory_equal(text.data + 2997, "999", 3);
    ofr_text_clear(&text);
    assert_int_equal(text.size, 0);
    assert_true(text.room >= 3000);
    ofr_text_done(&text);
    assert_null(text.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_strings_are_read_back),
        cmocka_unit_test(it_grows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
