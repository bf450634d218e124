/* Checked fields, and what failures inside look like to a client. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "supervisor/serve/request_fields.h"

static void numbers(void **state)
{
    (void)state;
    json_t *o = json_loads("{\"n\":3,\"f\":0.5,\"big\":99999999999,\"half\":1.5,\"whole\":2.0,"
                           "\"word\":\"3\",\"null\":null,\"flag\":true}",
                           0, NULL);
    ofr_api_error err = {0};
    int64_t i = 7;
    uint32_t u = 7;
    double d = 7;
    float f = 7;
    bool b = false;
    const char *s = NULL;
    assert_int_equal(ofr_field_int(o, "n", 0, 10, &i, &err), 0);
    assert_int_equal(i, 3);
    assert_int_equal(ofr_field_u32(o, "n", 0, 10, &u, &err), 0);
    assert_int_equal(u, 3);
    assert_int_equal(ofr_field_double(o, "f", 0, 1, &d, &err), 0);
    assert_int_equal(ofr_field_float(o, "n", 0, 10, &f, &err), 0);
    assert_true(d == 0.5 && f == 3);
    /* Absent or null: as it was. */
    assert_int_equal(ofr_field_int(o, "none", 0, 10, &i, &err), 0);
    assert_int_equal(ofr_field_int(o, "null", 0, 10, &i, &err), 0);
    assert_int_equal(i, 3);
    assert_int_equal(ofr_field_bool(o, "flag", &b, &err), 0);
    assert_true(b);
    assert_int_equal(ofr_field_string(o, "word", &s, &err), 0);
    assert_string_equal(s, "3");
    static const char *const bad[] = {"big", "half", "word", "flag"};
    for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
        assert_int_equal(ofr_field_u32(o, bad[k], 0, 10, &u, &err), OFR_EINVAL);
        assert_string_equal(err.param, bad[k]);
        assert_int_equal(err.status, 400);
    }
    assert_int_equal(u, 3);
    assert_int_equal(ofr_field_double(o, "n", 4, 5, &d, &err), OFR_EINVAL);
    assert_int_equal(ofr_field_bool(o, "n", &b, &err), OFR_EINVAL);
    assert_int_equal(ofr_field_string(o, "n", &s, &err), OFR_EINVAL);
    json_decref(o);
}

static void failures(void **state)
{
    (void)state;
    static const struct {
        int code;
        unsigned status;
        const char *type, *name;
    } cases[] = {
        {OFR_EBUSY, 429, "rate_limit_error", "server_busy"},
        {OFR_ELIMIT, 400, "invalid_request_error", "context_length_exceeded"},
        {OFR_EINVAL, 400, "invalid_request_error", NULL},
        {OFR_EGONE, 503, "server_error", "unavailable"},
        {OFR_EDEVICE, 503, "server_error", "unavailable"},
        {OFR_ENOMEM, 500, "server_error", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ofr_error inside = {0};
        ofr_api_error err = {0};
        ofr_fail(&inside, cases[i].code, "because %d", 5);
        assert_int_equal(ofr_api_fail_from(&err, &inside), cases[i].code);
        assert_int_equal(err.status, cases[i].status);
        assert_string_equal(err.type, cases[i].type);
        assert_string_equal(err.code ? err.code : "", cases[i].name ? cases[i].name : "");
        assert_string_equal(err.text, "because 5");
    }
}

static void items_of_responses(void **state)
{
    (void)state;
    static const struct {
        const char *input, *param;
    } bad[] = {
        {"[]", "input"},
        {"[{\"type\":\"image\"}]", "input"},
        {"[{\"type\":\"function_call\",\"name\":\"f\"}]", "input"},
        {"[{\"type\":\"function_call_output\",\"output\":\"x\"}]", "input"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"input_image\"}]}]", "messages"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", "messages"},
        {"[{\"role\":\"user\",\"content\":7}]", "messages"},
        {"[{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[]}]", "messages"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ofr_api_error err = {0};
        json_t *input = json_loads(bad[i].input, JSON_DECODE_ANY, NULL), *made = NULL;
        if (ofr_messages_from_input(input, NULL, &made, &err) != OFR_EINVAL ||
            strcmp(err.param, bad[i].param) != 0)
            fail_msg("%s: '%s' %s", bad[i].input, err.param, err.text);
        json_decref(input);
    }
    ofr_api_error err = {0};
    json_t *input = json_loads("[{\"role\":\"developer\",\"content\":[{\"type\":\"input_text\","
                               "\"text\":\"a\"},{\"type\":\"refusal\",\"refusal\":\"b\"}]}]",
                               0, NULL);
    json_t *made = NULL;
    assert_int_equal(ofr_messages_from_input(input, "first", &made, &err), 0);
    json_t *wanted = json_loads("[{\"role\":\"system\",\"content\":\"first\"},"
                                "{\"role\":\"system\",\"content\":\"ab\"}]",
                                0, NULL);
    assert_true(json_equal(made, wanted));
    json_decref(input);
    json_decref(made);
    json_decref(wanted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers),
        cmocka_unit_test(failures),
        cmocka_unit_test(items_of_responses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
