/* Control messages: requests, fields, descriptors, and messages that are not what they should be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "executive_shard/control.h"

static int parse(const char *text, ofr_control_request *request, ofr_error *err)
{
    return ofr_control_request_parse(text, strlen(text), request, err);
}

static void requests_are_read(void **state)
{
    (void)state;
    ofr_control_request request;
    ofr_error err = {0};
    assert_int_equal(parse("{\"op\":\"status\"}", &request, &err), 0);
    assert_int_equal(request.operation, OFR_CONTROL_OPERATION_STATUS);
    assert_int_equal(
        parse("{\"op\":\"hello\",\"version\":1,\"program\":\"a\\u0007b\"}", &request, &err), 0);
    assert_int_equal(request.operation, OFR_CONTROL_OPERATION_HELLO);
    assert_string_equal(request.program, "a?b");
}

static void what_is_no_request_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "{}",
                                      "{\"op\":1}",
                                      "{\"op\":\"fly\"}",
                                      "{\"op\":\"hello\"}",
                                      "{\"op\":\"hello\",\"version\":-1,\"program\":\"x\"}",
                                      "{\"op\":\"hello\",\"version\":1}",
                                      "{\"op\":\"stop\",\"op\":\"status\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ofr_control_request request = {.version = 77};
        ofr_error err = {0};
        assert_int_equal(parse(bad[i], &request, &err), OFR_EPROTOCOL);
        assert_true(err.text[0] != 0);
        assert_int_equal(request.version, 77); /* written only on success */
    }
    ofr_control_request request;
    ofr_error err = {0};
    assert_int_equal(parse("{\"op\":\"hello\",\"version\":9,\"program\":\"x\"}", &request, &err),
                     OFR_EVERSION);
}

static void messages_carry_descriptors(void **state)
{
    (void)state;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    int pipe_ends[2];
    assert_int_equal(pipe(pipe_ends), 0);
    json_t *object = json_pack("{s:s}", "op", "attach");
    ofr_error err = {0};
    assert_int_equal(ofr_control_send(pair[0], object, &pipe_ends[1], 1, true, &err), 0);
    json_decref(object);
    static char data[OFR_CONTROL_MESSAGE_MAX];
    size_t size = 0, count = 0;
    int received[OFR_CONTROL_DESCRIPTORS_MAX];
    assert_int_equal(ofr_control_receive(pair[1], data, true, &size, received, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_int_equal(write(received[0], "x", 1), 1);
    char byte = 0;
    assert_int_equal(read(pipe_ends[0], &byte, 1), 1);
    assert_int_equal(byte, 'x');
    close(received[0]);
    assert_int_equal(ofr_control_receive(pair[1], data, false, &size, received, &count, &err),
                     OFR_EAGAIN);
    close(pair[0]);
    assert_int_equal(ofr_control_receive(pair[1], data, true, &size, received, &count, &err),
                     OFR_EGONE);
    close(pair[1]);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

static void errors_cross_with_their_code(void **state)
{
    (void)state;
    json_t *answer = ofr_control_error_new("attach", OFR_EBUSY, "in use by x");
    ofr_error err = {0};
    assert_int_equal(ofr_control_answer_check(answer, &err), OFR_EBUSY);
    assert_string_equal(err.text, "in use by x");
    json_decref(answer);
    answer = json_object();
    assert_int_equal(ofr_control_answer_check(answer, &err), OFR_EPROTOCOL);
    json_decref(answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_read),
        cmocka_unit_test(what_is_no_request_is_refused),
        cmocka_unit_test(messages_carry_descriptors),
        cmocka_unit_test(errors_cross_with_their_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
