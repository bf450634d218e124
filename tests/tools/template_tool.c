/* Renders chat templates for tests written in Python: one JSON request per line on stdin,
 * {"template", "context", "now"} or {"template", "chat", "now"}, one JSON answer per line on
 * stdout,
 * {"text"} or {"error", "code"}. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template/chat_template.h"

static const char *string_member(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static int render_chat(const ofr_chat_template *tmpl, const json_t *chat, time_t now,
                       char **ret_text, size_t *ret_size, ofr_error *err)
{
    const json_t *tools = json_object_get(chat, "tools");
    ofr_chat_input input = {
        .messages = json_object_get(chat, "messages"),
        .tools = json_is_null(tools) ? NULL : tools,
        .extra = json_object_get(chat, "extra"),
        .bos_token = string_member(chat, "bos_token"),
        .eos_token = string_member(chat, "eos_token"),
        .add_generation_prompt = json_is_true(json_object_get(chat, "add_generation_prompt")),
    };
    return ofr_chat_template_render_chat(tmpl, &input, now, ret_text, ret_size, err);
}

static json_t *answer(const json_t *request)
{
    ofr_error err = {0};
    ofr_chat_template *tmpl = NULL;
    char *text = NULL;
    size_t size = 0;
    const json_t *source = json_object_get(request, "template");
    const json_t *chat = json_object_get(request, "chat");
    time_t now = (time_t)json_integer_value(json_object_get(request, "now"));
    int rc = ofr_chat_template_compile("t", json_string_value(source), json_string_length(source),
                                       &tmpl, &err);
    if (rc == 0) {
        rc = chat ? render_chat(tmpl, chat, now, &text, &size, &err)
                  : ofr_chat_template_render(tmpl, json_object_get(request, "context"), now, &text,
                                             &size, &err);
    }
    json_t *reply =
        rc == 0 ? json_pack("{s:s%}", "text", text, size)
                : json_pack("{s:s, s:s}", "error", err.text, "code", ofr_status_name(err.code));
    free(text);
    ofr_chat_template_free(tmpl);
    return reply ? reply : json_pack("{s:s}", "error", "the answer is not valid UTF-8");
}

int main(void)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size;
    while ((size = getline(&line, &capacity, stdin)) > 0) {
        json_t *request = json_loadb(line, (size_t)size, JSON_ALLOW_NUL, NULL);
        if (!json_is_string(json_object_get(request, "template"))) {
            fprintf(stderr, "template_tool: a line is not a request\n");
            return 2;
        }
        json_t *reply = answer(request);
        json_dumpf(reply, stdout, JSON_COMPACT);
        putchar('\n');
        fflush(stdout);
        json_decref(reply);
        json_decref(request);
    }
    free(line);
    return 0;
}
