/* Tool calls for tests: reads {"template", "tools", "choice", "name", "texts": [...]} on stdin and
 * prints {"dialect", "accepted": [...], "parsed": [{"content", "calls": [[name, arguments]]}]}, or
 * {"error"}. Without "choice" no grammar is made. With "messages", the messages for the template.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/matcher.h"
#include "tool_calls/tool_calls.h"

typedef struct record {
    json_t *calls;
    char *content;
    size_t size;
} record;

static int on_content(void *user, const char *text, size_t size, ofr_error *err)
{
    record *r = user;
    char *grown = realloc(r->content, r->size + size + 1);
    if (!grown)
        return ofr_fail(err, OFR_ENOMEM, "no memory");
    memcpy(grown + r->size, text, size);
    r->content = grown;
    r->size += size;
    return 0;
}

static int on_begin(void *user, uint32_t call, const char *name, ofr_error *err)
{
    (void)call;
    (void)err;
    return json_array_append_new(((record *)user)->calls, json_pack("[s, s]", name, ""));
}

static int on_arguments(void *user, uint32_t call, const char *text, size_t size, ofr_error *err)
{
    json_t *pair = json_array_get(((record *)user)->calls, call);
    (void)err;
    return json_array_set_new(
        pair, 1,
        json_sprintf("%s%.*s", json_string_value(json_array_get(pair, 1)), (int)size, text));
}

static json_t *parse(enum ofr_tool_dialect dialect, const json_t *tools, const json_t *text)
{
    record r = {.calls = json_array()};
    ofr_tool_events events = {on_content, on_begin, on_arguments, &r};
    ofr_tool_parser *parser;
    ofr_error err;
    if (ofr_tool_parser_new(dialect, tools, &events, &parser, &err) < 0 ||
        ofr_tool_parser_push(parser, json_string_value(text), json_string_length(text), true,
                             &err) < 0)
        exit(1);
    ofr_tool_parser_free(parser);
    json_t *result = json_pack("{s:o, s:o}", "content",
                               json_stringn(r.content ? r.content : "", r.size), "calls", r.calls);
    free(r.content);
    return result;
}

static bool accepts(const ofr_grammar *grammar, const json_t *text)
{
    static uint32_t offsets[2];
    static ofr_trie_node node = {.end = 1};
    static ofr_vocabulary v = {.size = 1, .mask_words = 1, .offsets = offsets, .token_max = 1};
    v.all.nodes = v.rest.nodes = &node;
    v.all.n_nodes = v.rest.n_nodes = 1;
    ofr_matcher *matcher;
    ofr_error err;
    if (ofr_matcher_new(grammar, &v, &matcher, &err) < 0)
        exit(1);
    bool result = ofr_matcher_accept_bytes(matcher, json_string_value(text),
                                           json_string_length(text), &err) == 0 &&
                  ofr_matcher_can_end(matcher);
    ofr_matcher_free(matcher);
    return result;
}

int main(void)
{
    json_t *in = json_loadf(stdin, 0, NULL), *out = json_object(), *text;
    const json_t *tools = json_object_get(in, "tools"), *source = json_object_get(in, "template");
    const char *choice = json_string_value(json_object_get(in, "choice"));
    ofr_grammar *grammar = NULL;
    ofr_error err = {0};
    size_t i;
    enum ofr_tool_dialect dialect =
        ofr_tool_dialect_detect(json_string_value(source), json_string_length(source));
    json_object_set_new(out, "dialect", json_string(ofr_tool_dialect_name(dialect)));
    ofr_tool_grammar_options options = {
        .dialect = dialect,
        .tools = tools,
        .choice =
            choice && !strcmp(choice, "auto") ? OFR_TOOL_CHOICE_AUTO : OFR_TOOL_CHOICE_REQUIRED,
        .name = json_string_value(json_object_get(in, "name")),
        .parallel = !json_is_false(json_object_get(in, "parallel")),
        .format = json_object_get(in, "format"),
    };
    int r = ofr_tools_check(tools, &err);
    if (r == 0 && choice)
        r = ofr_tool_grammar(&options, &grammar, &err);
    json_t *messages = NULL;
    if (r == 0 && json_object_get(in, "messages"))
        r = ofr_tools_messages(dialect, json_object_get(in, "messages"), tools, &messages, &err);
    if (messages)
        json_object_set_new(out, "messages", messages);
    if (r < 0)
        json_object_set_new(out, "error", json_string(err.text));
    json_t *accepted = json_array(), *parsed = json_array();
    json_array_foreach(json_object_get(in, "texts"), i, text)
    {
        if (r == 0 && grammar)
            json_array_append_new(accepted, json_boolean(accepts(grammar, text)));
        json_array_append_new(parsed, parse(dialect, tools, text));
    }
    json_object_set_new(out, "accepted", accepted);
    json_object_set_new(out, "parsed", parsed);
    char *dumped = json_dumps(out, JSON_COMPACT);
    puts(dumped);
    free(dumped);
    json_decref(out);
    json_decref(in);
    ofr_grammar_free(grammar);
    return 0;
}
