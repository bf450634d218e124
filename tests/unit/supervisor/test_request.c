/* Requests: what is taken, what is refused, and with which field's name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "supervisor/serve/request.h"

enum { VOCAB = 100 };

static void refused(enum ofr_api api, const char *body, const char *param)
{
    ofr_api_request request;
    ofr_api_error err = {0};
    assert_int_equal(ofr_api_request_parse(api, body, strlen(body), VOCAB, &request, &err),
                     OFR_EINVAL);
    assert_int_equal(err.status, 400);
    assert_string_equal(err.type, "invalid_request_error");
    if (strcmp(err.param, param) != 0)
        fail_msg("%s: the field is '%s', expected '%s' (%s)", body, err.param, param, err.text);
}

static ofr_api_request taken(enum ofr_api api, const char *body)
{
    ofr_api_request request = {0};
    ofr_api_error err = {0};
    if (ofr_api_request_parse(api, body, strlen(body), VOCAB, &request, &err) < 0)
        fail_msg("%s: %s", body, err.text);
    return request;
}

static void chat(void **state)
{
    (void)state;
    ofr_api_request r = taken(
        OFR_API_CHAT,
        "{\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":\"user\",\"content\":"
        "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}],\"seed\":-3,"
        "\"stop\":[\"x\",\"\"],\"logit_bias\":{\"7\":-100},\"max_tokens\":5,"
        "\"max_completion_tokens\":6,\"stream\":true,\"stream_options\":{\"include_usage\":true},"
        "\"temperature\":null,\"n\":2,\"unknown\":{}}");
    assert_string_equal(json_string_value(json_object_get(json_array_get(r.messages, 0), "role")),
                        "system");
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(r.messages, 1), "content")), "ab");
    assert_true(r.has_seed && r.stream && r.include_usage);
    assert_int_equal(r.n_stops, 1);
    assert_int_equal(r.max_tokens, 6);
    assert_int_equal(r.sampling.n_bias, 1);
    assert_int_equal(r.sampling.bias[0].token, 7);
    assert_true(r.sampling.temperature == 1 && r.n == 2);
    ofr_api_request_done(&r);
    refused(OFR_API_CHAT, "{}", "messages");
    refused(OFR_API_CHAT, "{\"messages\":[]}", "messages");
    refused(OFR_API_CHAT, "{\"messages\":[{\"role\":\"king\",\"content\":\"a\"}]}", "messages");
    refused(OFR_API_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", "messages");
#define USER "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"
    refused(OFR_API_CHAT, USER "\"temperature\":-1}", "temperature");
    refused(OFR_API_CHAT, USER "\"logit_bias\":{\"100\":1}}", "logit_bias");
    refused(OFR_API_CHAT, USER "\"top_logprobs\":2}", "top_logprobs");
    refused(OFR_API_CHAT, USER "\"stop\":[\"a\\u0000b\"]}", "stop");
    refused(OFR_API_CHAT, USER "\"n\":100000}", "n");
    refused(OFR_API_CHAT, USER "\"model\":5}", "model");
    refused(OFR_API_CHAT, "[1]", "");
    refused(OFR_API_CHAT, "{\"messages\":", "");
}

static void prompts(void **state)
{
    (void)state;
    ofr_api_request r = taken(OFR_API_COMPLETION, "{\"prompt\":[\"a\",[1,2,99]],\"logprobs\":0}");
    assert_int_equal(r.n_prompts, 2);
    assert_string_equal(r.prompts[0].text, "a");
    assert_int_equal(json_array_size(r.prompts[1].ids), 3);
    assert_true(r.logprobs && r.top_logprobs == 0 && r.max_tokens == 16);
    ofr_api_request_done(&r);
    r = taken(OFR_API_COMPLETION, "{\"prompt\":[1,2]}");
    assert_int_equal(r.n_prompts, 1);
    ofr_api_request_done(&r);
    refused(OFR_API_COMPLETION, "{\"prompt\":[1,100]}", "prompt");
    refused(OFR_API_COMPLETION, "{\"prompt\":[]}", "prompt");
    refused(OFR_API_COMPLETION, "{\"prompt\":{}}", "prompt");
    refused(OFR_API_COMPLETION, "{\"prompt\":\"a\",\"suffix\":\"b\"}", "suffix");
    refused(OFR_API_COMPLETION, "{\"prompt\":\"a\",\"best_of\":3}", "best_of");
    refused(OFR_API_COMPLETION, "{\"prompt\":[\"a\",\"b\"],\"n\":100}", "n");
    refused(OFR_API_EMBEDDINGS, "{\"input\":\"a\",\"encoding_format\":\"x\"}", "encoding_format");
    refused(OFR_API_TOKENIZE, "{\"prompt\":[1]}", "prompt");
    refused(OFR_API_DETOKENIZE, "{\"tokens\":[1,\"a\"]}", "tokens");
    r = taken(OFR_API_DETOKENIZE, "{\"tokens\":[]}");
    assert_null(r.prompts[0].ids);
    ofr_api_request_done(&r);
}

static void responses(void **state)
{
    (void)state;
    ofr_api_request r = taken(
        OFR_API_RESPONSES,
        "{\"instructions\":\"i\",\"input\":[{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":"
        "\"f\",\"arguments\":\"{}\"},{\"type\":\"function_call_output\",\"call_id\":\"c\","
        "\"output\":\"o\"}],\"tools\":[{\"type\":\"function\",\"name\":\"f\"}],"
        "\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"n\",\"schema\":{}}}}");
    assert_int_equal(json_array_size(r.messages), 3);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(r.messages, 2), "tool_call_id")), "c");
    const json_t *function = json_object_get(json_array_get(r.tools, 0), "function");
    assert_string_equal(json_string_value(json_object_get(function, "name")), "f");
    const json_t *schema = json_object_get(r.response_format, "json_schema");
    assert_string_equal(json_string_value(json_object_get(schema, "name")), "n");
    ofr_api_request_done(&r);
    refused(OFR_API_RESPONSES, "{\"input\":5}", "input");
    refused(OFR_API_RESPONSES, "{\"input\":\"a\",\"previous_response_id\":\"r\"}",
            "previous_response_id");
    refused(OFR_API_RESPONSES, "{\"input\":\"a\",\"tools\":[{\"type\":\"web_search\"}]}", "tools");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chat),
        cmocka_unit_test(prompts),
        cmocka_unit_test(responses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
