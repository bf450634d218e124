/* One call as JSON, byte by byte and in one piece: name, arguments as they come, what is no call.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tool_calls/call_scanner.h"

static const struct {
    const char *text;
    enum ofr_call_state state;
    const char *name, *arguments;
    size_t used; /* 0: all of it */
} cases[] = {
    {"{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}", OFR_CALL_DONE, "f",
     "{\"a\": [1, \"}\"]}", 0},
    {"{\"parameters\" : {} , \"name\":\"f\"} rest", OFR_CALL_DONE, "f", "{}", 32},
    {"{\"id\": 5, \"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}", OFR_CALL_DONE, "f",
     "{\"a\": 1}", 0},
    {"{\"name\": \"\\u0066\\\"\", \"arguments\": {}}", OFR_CALL_DONE, "f\"", "{}", 0},
    {"{\"name\": \"f\"}", OFR_CALL_DONE, "f", "", 0},
    {"{\"name\": \"f\", \"arguments\": {\"a\": \"wo", OFR_CALL_VALUE, "f", "{\"a\": \"wo", 0},
    {"{\"name\": \"f\", \"name\": \"g\"}", OFR_CALL_BAD, "f", "", 0},
    {"{\"arguments\": {}}", OFR_CALL_BAD, "", "{}", 0},
    {"{\"name\": 5}", OFR_CALL_BAD, "", "", 0},
    {"{\"name\": \"\"}", OFR_CALL_BAD, "", "", 0},
    {"[1]", OFR_CALL_BAD, "", "", 1},
    {"{name: 1}", OFR_CALL_BAD, "", "", 2},
    {"{\"name\" \"f\"}", OFR_CALL_BAD, "", "", 9},
};

static void read_in_pieces(void **state)
{
    (void)state;
    ofr_call_scanner s = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t step = 1; step < 64; step += step) {
            const char *text = cases[i].text;
            size_t size = strlen(text), at = 0;
            ofr_error err;
            ofr_call_scanner_reset(&s);
            while (at < size && s.state < OFR_CALL_DONE) {
                size_t used = 0, n = step < size - at ? step : size - at;
                assert_int_equal(ofr_call_scanner_read(&s, text + at, n, &used, &err), 0);
                assert_true(used <= n && (used == n || s.state >= OFR_CALL_DONE));
                at += used;
            }
            if (s.state != cases[i].state || strcmp(s.name, cases[i].name) != 0 ||
                (cases[i].used && at != cases[i].used))
                fail_msg("%s, pieces of %zu: state %d, name '%s', %zu bytes", text, step,
                         (int)s.state, s.name, at);
            if (s.state != OFR_CALL_BAD) {
                assert_int_equal(s.arguments.size, strlen(cases[i].arguments));
                assert_memory_equal(s.arguments.data ? s.arguments.data : "", cases[i].arguments,
                                    s.arguments.size);
            }
        }
    ofr_call_scanner_done(&s);
}

static void buffers(void **state)
{
    (void)state;
    ofr_byte_buffer b = {0};
    ofr_error err;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(ofr_byte_buffer_add(&b, "0123456789", 10, &err), 0);
    assert_int_equal(b.size, 10000);
    ofr_byte_buffer_drop(&b, 9995);
    assert_int_equal(b.size, 5);
    assert_memory_equal(b.data, "56789", 5);
    ofr_byte_buffer_drop(&b, 5);
    assert_int_equal(b.size, 0);
    free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(read_in_pieces), cmocka_unit_test(buffers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
