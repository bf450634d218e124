/* Dialects: told by the template; the messages they need; tools that are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tool_calls/dialect.h"

static json_t *load(const char *text)
{
    json_error_t where;
    json_t *json = json_loads(text, 0, &where);
    if (!json)
        fail_msg("%s: %s", text, where.text);
    return json;
}

static void told_by_the_template(void **state)
{
    (void)state;
    static const struct {
        const char *source, *name, *marker;
    } cases[] = {
        {"x <tool_call> y", "hermes", "<tool_call>"},
        {"x [TOOL_CALLS] y", "mistral", "[TOOL_CALLS]"},
        {"x <|tool_call|> y", "granite", "<|tool_call|>"},
        {"x <|python_tag|> y", "llama3", "<|python_tag|>"},
        {"x " OFR_DEEPSEEK_CALLS_BEGIN " y", "deepseek", OFR_DEEPSEEK_CALLS_BEGIN},
        {"nothing of the kind", "described", "<tool_call>"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum ofr_tool_dialect dialect =
            ofr_tool_dialect_detect(cases[i].source, strlen(cases[i].source));
        assert_string_equal(ofr_tool_dialect_name(dialect), cases[i].name);
        assert_string_equal(ofr_tool_dialect_markers(dialect)[0], cases[i].marker);
    }
    assert_int_equal(ofr_tool_dialect_detect(NULL, 0), OFR_TOOL_DIALECT_DESCRIBED);
}

static void checked_tools(void **state)
{
    (void)state;
    static const struct {
        const char *tools;
        int code;
        const char *word;
    } cases[] = {
        {"[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]", 0, ""},
        {"[]", 0, ""},
        {"[{\"type\":\"retrieval\"}]", OFR_EINVAL, "tool 0"},
        {"[{\"type\":\"function\",\"function\":{}}]", OFR_EINVAL, "tool 0"},
        {"[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},"
         "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
         OFR_EINVAL, "two tools"},
        {"[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":5}}]", OFR_EINVAL,
         "f"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ofr_error err = {0};
        json_t *tools = load(cases[i].tools);
        int r = ofr_tools_check(tools, &err);
        if (r != cases[i].code || !strstr(err.text, cases[i].word))
            fail_msg("%s: %d, %s", cases[i].tools, r, err.text);
        json_decref(tools);
    }
    json_t *many = json_array();
    for (int i = 0; i <= OFR_TOOLS_MAX; i++)
        json_array_append_new(many, json_object());
    ofr_error err;
    assert_int_equal(ofr_tools_check(many, &err), OFR_ELIMIT);
    json_decref(many);
}

static const char conversation[] =
    "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"\","
    "\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\","
    "\"arguments\":\"{\\\"a\\\": 1}\"}}]},"
    "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"r\"}]";

static const json_t *arguments_of(const json_t *messages)
{
    const json_t *calls = json_object_get(json_array_get(messages, 1), "tool_calls");
    const json_t *function = json_object_get(json_array_get(calls, 0), "function");
    return json_object_get(function, "arguments");
}

static void messages_as_templates_need_them(void **state)
{
    (void)state;
    json_t *given = load(conversation), *made = NULL, *before = json_deep_copy(given);
    json_t *tools = load("[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]");
    ofr_error err;
    for (int i = 0; i <= OFR_TOOL_DIALECT_DEEPSEEK; i++) {
        enum ofr_tool_dialect dialect = (enum ofr_tool_dialect)i;
        assert_int_equal(ofr_tools_messages(dialect, given, tools, &made, &err), 0);
        assert_true(json_equal(given, before)); /* the request is not changed */
        if (dialect == OFR_TOOL_DIALECT_DESCRIBED) {
            assert_null(arguments_of(made)); /* calls are text */
            char *text = json_dumps(made, 0);
            assert_non_null(strstr(text, "<tool_call>"));
            assert_non_null(strstr(text, "tool_response"));
            free(text);
        } else if (dialect == OFR_TOOL_DIALECT_DEEPSEEK) {
            assert_true(json_is_string(arguments_of(made)));
        } else {
            assert_true(json_is_object(arguments_of(made)));
        }
        json_decref(made);
    }
    json_decref(given);
    json_decref(before);
    json_decref(tools);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(told_by_the_template),
        cmocka_unit_test(checked_tools),
        cmocka_unit_test(messages_as_templates_need_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
