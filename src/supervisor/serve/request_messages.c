/* Messages of chat and items of responses, in the one form that templates take. */
#include <string.h>

#include "supervisor/serve/request_fields.h"
#include "supervisor/serve/text.h"

enum { MESSAGES_MAX = 16384 };

static json_t *text_to_json(ofr_text *text)
{
    json_t *string = text->failed ? NULL : json_stringn(text->data ? text->data : "", text->size);
    ofr_text_done(text);
    return string;
}

/* A content of parts as one text; *ret_content is the caller's. */
static int join_parts(const json_t *parts, const char *where, json_t **ret_content,
                      ofr_api_error *err)
{
    ofr_text text = {0};
    size_t i;
    const json_t *part;
    json_array_foreach(parts, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *value = json_object_get(part, "text");
        if (!type || (strcmp(type, "text") != 0 && strcmp(type, "input_text") != 0 &&
                      strcmp(type, "output_text") != 0 && strcmp(type, "refusal") != 0)) {
            ofr_text_done(&text);
            return ofr_api_fail(err, where,
                                "a content part of type '%.40s' is not supported: this model takes "
                                "text only",
                                type ? type : "?");
        }
        if (strcmp(type, "refusal") == 0)
            value = json_object_get(part, "refusal");
        if (!json_is_string(value)) {
            ofr_text_done(&text);
            return ofr_api_fail(err, where, "a text part has no text");
        }
        ofr_text_add(&text, json_string_value(value), json_string_length(value));
    }
    *ret_content = text_to_json(&text);
    return *ret_content ? 0 : ofr_api_fail(err, where, "no memory for the content");
}

static int make_content(const json_t *content, const char *where, json_t **ret_content,
                        ofr_api_error *err)
{
    if (json_is_array(content))
        return join_parts(content, where, ret_content, err);
    if (json_is_string(content)) {
        *ret_content = json_incref((json_t *)content);
        return 0;
    }
    return ofr_api_fail(err, where, "the content of a message must be a text or a list of parts");
}

static const char *known_role(const char *role)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool", "function"};
    for (size_t i = 0; role && i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(role, roles[i]) == 0)
            return roles[i];
    /* Templates know only "system". */
    return role && strcmp(role, "developer") == 0 ? "system" : NULL;
}

static int make_message(const json_t *message, json_t **ret_message, ofr_api_error *err)
{
    const char *role = known_role(json_string_value(json_object_get(message, "role")));
    if (!role)
        return ofr_api_fail(err, "messages",
                            "a message must be an object whose role is system, developer, user, "
                            "assistant or tool");
    const json_t *content = ofr_field(message, "content"),
                 *calls = ofr_field(message, "tool_calls");
    json_t *made = NULL;
    if (calls && (!json_is_array(calls) || strcmp(role, "assistant") != 0))
        return ofr_api_fail(err, "messages", "only an assistant's message has tool_calls, a list");
    if (content) {
        int r = make_content(content, "messages", &made, err);
        if (r < 0)
            return r;
    } else if (!calls) {
        return ofr_api_fail(err, "messages", "a message has no content");
    }
    json_t *copy = json_copy((json_t *)message);
    json_object_set_new(copy, "role", json_string(role));
    json_object_set_new(copy, "content", made ? made : json_string(""));
    if (!calls)
        json_object_del(copy, "tool_calls");
    *ret_message = copy;
    return copy ? 0 : ofr_api_fail(err, "messages", "no memory for the messages");
}

int ofr_messages_from_chat(const json_t *messages, json_t **ret_messages, ofr_api_error *err)
{
    if (!json_is_array(messages) || json_array_size(messages) == 0 ||
        json_array_size(messages) > MESSAGES_MAX)
        return ofr_api_fail(err, "messages", "'messages' must be a list of 1 to %d messages",
                            MESSAGES_MAX);
    json_t *made = json_array();
    size_t i;
    const json_t *message;
    json_array_foreach(messages, i, message)
    {
        json_t *copy = NULL;
        int r = make_message(message, &copy, err);
        if (r < 0) {
            json_decref(made);
            return r;
        }
        json_array_append_new(made, copy);
    }
    *ret_messages = made;
    return 0;
}

/* One item of the input of /v1/responses. */
static int make_item(const json_t *item, json_t **ret_message, ofr_api_error *err)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    if (!type || strcmp(type, "message") == 0)
        return make_message(item, ret_message, err);
    const json_t *id = json_object_get(item, "call_id");
    if (strcmp(type, "function_call") == 0) {
        const json_t *name = json_object_get(item, "name");
        const json_t *arguments = json_object_get(item, "arguments");
        if (!json_is_string(id) || !json_is_string(name) || !json_is_string(arguments))
            return ofr_api_fail(err, "input", "a function_call needs call_id, name and arguments");
        *ret_message = json_pack("{s:s, s:s, s:[{s:O, s:s, s:{s:O, s:O}}]}", "role", "assistant",
                                 "content", "", "tool_calls", "id", id, "type", "function",
                                 "function", "name", name, "arguments", arguments);
    } else if (strcmp(type, "function_call_output") == 0) {
        const json_t *output = json_object_get(item, "output");
        json_t *content = NULL;
        if (!json_is_string(id))
            return ofr_api_fail(err, "input", "a function_call_output needs a call_id");
        int r = make_content(output, "input", &content, err);
        if (r < 0)
            return r;
        *ret_message =
            json_pack("{s:s, s:o, s:O}", "role", "tool", "content", content, "tool_call_id", id);
    } else {
        return ofr_api_fail(err, "input", "an input item of type '%.40s' is not supported", type);
    }
    return *ret_message ? 0 : ofr_api_fail(err, "input", "no memory for the input");
}

int ofr_messages_from_input(const json_t *input, const char *instructions, json_t **ret_messages,
                            ofr_api_error *err)
{
    bool list = json_is_array(input) && json_array_size(input) > 0 &&
                json_array_size(input) <= MESSAGES_MAX;
    if (!json_is_string(input) && !list)
        return ofr_api_fail(err, "input", "'input' must be a text or a list of 1 to %d items",
                            MESSAGES_MAX);
    json_t *made = json_array();
    if (instructions)
        json_array_append_new(made,
                              json_pack("{s:s, s:s}", "role", "system", "content", instructions));
    if (json_is_string(input))
        json_array_append_new(made, json_pack("{s:s, s:O}", "role", "user", "content", input));
    size_t i;
    const json_t *item;
    if (list) {
        json_array_foreach(input, i, item)
        {
            json_t *message = NULL;
            int r = make_item(item, &message, err);
            if (r < 0) {
                json_decref(made);
                return r;
            }
            json_array_append_new(made, message);
        }
    }
    *ret_messages = made;
    return 0;
}

int ofr_tools_from_responses(const json_t *tools, json_t **ret_tools, ofr_api_error *err)
{
    if (!json_is_array(tools))
        return ofr_api_fail(err, "tools", "'tools' must be a list");
    json_t *made = json_array();
    size_t i;
    const json_t *tool;
    json_array_foreach(tools, i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        if (!type || strcmp(type, "function") != 0) {
            json_decref(made);
            return ofr_api_fail(err, "tools", "a tool of type '%.40s' is not supported",
                                type ? type : "?");
        }
        json_t *function = json_copy((json_t *)tool);
        json_object_del(function, "type");
        json_array_append_new(made,
                              json_pack("{s:s, s:o}", "type", "function", "function", function));
    }
    *ret_tools = made;
    return 0;
}
