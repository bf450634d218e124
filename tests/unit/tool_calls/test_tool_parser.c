/* Tool calls out of text: every dialect, with every way to cut the text in pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tool_calls/tool_calls.h"

/* DeepSeek's markers. */
#define MARK(text) "<\xEF\xBD\x9Ctool\xE2\x96\x81" text "\xEF\xBD\x9C>"
#define CALLS_BEGIN                                                                                \
    MARK("calls\xE2\x96\x81"                                                                       \
         "begin")
#define CALL_BEGIN                                                                                 \
    MARK("call\xE2\x96\x81"                                                                        \
         "begin")
#define CALL_END                                                                                   \
    MARK("call\xE2\x96\x81"                                                                        \
         "end")
#define CALLS_END                                                                                  \
    MARK("calls\xE2\x96\x81"                                                                       \
         "end")

/* "content|name(arguments)|..." in the order of the events; neighbours of a kind are joined. */
typedef struct record {
    char content[2048], calls[2048];
    uint32_t n_calls;
} record;

static int on_content(void *user, const char *text, size_t size, ofr_error *err)
{
    record *r = user;
    (void)err;
    strncat(r->content, text, size);
    return 0;
}

static int on_begin(void *user, uint32_t call, const char *name, ofr_error *err)
{
    record *r = user;
    (void)err;
    assert_int_equal(call, r->n_calls);
    r->n_calls++;
    if (call)
        strcat(r->calls, "|");
    strcat(r->calls, name);
    strcat(r->calls, "=");
    return 0;
}

static int on_arguments(void *user, uint32_t call, const char *text, size_t size, ofr_error *err)
{
    record *r = user;
    (void)err;
    assert_int_equal(call + 1, r->n_calls);
    strncat(r->calls, text, size);
    return 0;
}

static json_t *tools;

/* The text in pieces of `step` bytes; 0: whole. */
static void parse(enum ofr_tool_dialect dialect, const char *text, size_t step, record *r,
                  const char *expected_content)
{
    ofr_tool_events events = {on_content, on_begin, on_arguments, r};
    ofr_tool_parser *parser;
    ofr_error err = {0};
    memset(r, 0, sizeof *r);
    assert_int_equal(ofr_tool_parser_new(dialect, tools, &events, &parser, &err), 0);
    size_t size = strlen(text);
    for (size_t at = 0; at < size;) {
        size_t n = step && step < size - at ? step : size - at;
        /* An exact copy, so that reading beyond it is found. */
        char *piece = malloc(n);
        memcpy(piece, text + at, n);
        at += n;
        assert_int_equal(ofr_tool_parser_push(parser, piece, n, false, &err), 0);
        free(piece);
        /* Nothing is given out that turns out to be part of a call. */
        if (strncmp(r->content, expected_content, strlen(r->content)) != 0)
            fail_msg("after %zu bytes of \"%s\": content \"%s\"", at, text, r->content);
    }
    assert_int_equal(ofr_tool_parser_push(parser, "", 0, true, &err), 0);
    ofr_tool_parser_free(parser);
}

static const struct {
    enum ofr_tool_dialect dialect;
    const char *text, *content, *calls;
} cases[] = {
    {OFR_TOOL_DIALECT_HERMES, "Hello <b>", "Hello <b>", ""},
    {OFR_TOOL_DIALECT_HERMES, "a <tool_cal", "a <tool_cal", ""},
    {OFR_TOOL_DIALECT_HERMES,
     "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n"
     "</tool_call>",
     "", "f={\"a\": 1}"},
    {OFR_TOOL_DIALECT_HERMES,
     "Let me see. \n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}</tool_call>\\\"\"}}\n"
     "</tool_call>\n<tool_call>{\"arguments\": {}, \"name\": \"g\"}</tool_call>\n",
     "Let me see.", "f={\"a\": \"}</tool_call>\\\"\"}|g={}"},
    {OFR_TOOL_DIALECT_HERMES,
     "<tool_call>[{\"name\": \"f\"}, {\"name\": \"g\", \"arguments\": "
     "{}}]</tool_call> done",
     " done", "f={}|g={}"},
    {OFR_TOOL_DIALECT_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}", "",
     "f={\"a\": 1}"},
    {OFR_TOOL_DIALECT_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1, {", "",
     "f={\"a\": [1, {"},
    {OFR_TOOL_DIALECT_HERMES, "<tool_call>{\"nam", "{\"nam", ""},
    {OFR_TOOL_DIALECT_HERMES, "<tool_call>{oops} x", "{oops} x", ""},
    {OFR_TOOL_DIALECT_DESCRIBED, "x <tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>", "x",
     "g={}"},
    {OFR_TOOL_DIALECT_LLAMA3, "Hello {\"name\": 1}", "Hello {\"name\": 1}", ""},
    {OFR_TOOL_DIALECT_LLAMA3, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", "", "f={\"a\": 1}"},
    {OFR_TOOL_DIALECT_LLAMA3,
     "\n<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"arguments\": {}}",
     "", "f={}|g={}"},
    {OFR_TOOL_DIALECT_LLAMA3, "{\"answer\": {\"name\": \"f\"}}", "{\"answer\": {\"name\": \"f\"}}",
     ""},
    {OFR_TOOL_DIALECT_LLAMA3, "{\"name\": \"Marie\", \"age\": 3} is JSON",
     "{\"name\": \"Marie\", \"age\": 3} is JSON", ""},
    {OFR_TOOL_DIALECT_LLAMA3, "{\"name\": \"f\", \"par", "{\"name\": \"f\", \"par", ""},
    {OFR_TOOL_DIALECT_LLAMA3, "<|python", "<|python", ""},
    {OFR_TOOL_DIALECT_MISTRAL,
     "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"abcdef123\"}, "
     "{\"name\": \"g\", \"arguments\": {}}]",
     "", "f={\"a\": 1}|g={}"},
    {OFR_TOOL_DIALECT_MISTRAL, "[TOOL] is [TOOL_CALL]", "[TOOL] is [TOOL_CALL]", ""},
    {OFR_TOOL_DIALECT_GRANITE, "<|tool_call|>[{\"arguments\": {\"a\": 1}, \"name\": \"f\"}]", "",
     "f={\"a\": 1}"},
    {OFR_TOOL_DIALECT_DEEPSEEK,
     "Thinking.\n" CALLS_BEGIN CALL_BEGIN
     "function" MARK("sep") "f\n```json\n{\"a\": \"``\"}\n```" CALL_END "\n" CALL_BEGIN
                            "function" MARK("sep") "g\n```json\n{}\n```" CALL_END CALLS_END,
     "Thinking.", "f={\"a\": \"``\"}|g={}"},
    {OFR_TOOL_DIALECT_DEEPSEEK, "a " MARK("x"), "a " MARK("x"), ""},
};

static void every_dialect_in_pieces(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t step = 0; step < 14; step++) {
            record r;
            parse(cases[i].dialect, cases[i].text, step, &r, cases[i].content);
            if (strcmp(r.content, cases[i].content) != 0 || strcmp(r.calls, cases[i].calls) != 0)
                fail_msg("%s, pieces of %zu: \"%s\"\ncontent \"%s\", calls %s\nexpected \"%s\", %s",
                         ofr_tool_dialect_name(cases[i].dialect), step, cases[i].text, r.content,
                         r.calls, cases[i].content, cases[i].calls);
        }
}

/* Arguments come while the model writes them. */
static void arguments_are_not_held_back(void **state)
{
    (void)state;
    record r = {0};
    ofr_tool_events events = {on_content, on_begin, on_arguments, &r};
    ofr_tool_parser *parser;
    ofr_error err;
    static const char begin[] = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"long te";
    assert_int_equal(ofr_tool_parser_new(OFR_TOOL_DIALECT_HERMES, tools, &events, &parser, &err),
                     0);
    assert_int_equal(ofr_tool_parser_push(parser, begin, sizeof begin - 1, false, &err), 0);
    assert_string_equal(r.calls, "f={\"a\": \"long te");
    ofr_tool_parser_free(parser);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dialect_in_pieces),
        cmocka_unit_test(arguments_are_not_held_back),
    };
    tools = json_loads("[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"type\":"
                       "\"function\",\"function\":{\"name\":\"g\"}}]",
                       0, NULL);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(tools);
    return failed;
}
