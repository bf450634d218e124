/* The dialects: which template means which, and what messages they need. */
#include <stdlib.h>
#include <string.h>

#include "tool_calls/dialect.h"

const char *ofr_tool_dialect_name(enum ofr_tool_dialect dialect)
{
    switch (dialect) {
#define OFR_TOOL_DIALECT_CASE(symbol, name)                                                        \
    case symbol:                                                                                   \
        return name;
        OFR_TOOL_DIALECT_TABLE(OFR_TOOL_DIALECT_CASE)
#undef OFR_TOOL_DIALECT_CASE
    }
    return "unknown";
}

enum ofr_tool_dialect ofr_tool_dialect_detect(const char *chat_template, size_t size)
{
    static const struct {
        const char *text;
        enum ofr_tool_dialect dialect;
    } signs[] = {
        {OFR_DEEPSEEK_CALLS_BEGIN, OFR_TOOL_DIALECT_DEEPSEEK},
        {"[TOOL_CALLS]", OFR_TOOL_DIALECT_MISTRAL},
        {"<|tool_call|>", OFR_TOOL_DIALECT_GRANITE},
        {"<tool_call>", OFR_TOOL_DIALECT_HERMES},
        {"<|python_tag|>", OFR_TOOL_DIALECT_LLAMA3},
        {"\"parameters\": dictionary of argument name", OFR_TOOL_DIALECT_LLAMA3},
    };
    for (size_t i = 0; chat_template && i < sizeof signs / sizeof signs[0]; i++)
        if (memmem(chat_template, size, signs[i].text, strlen(signs[i].text)))
            return signs[i].dialect;
    return OFR_TOOL_DIALECT_DESCRIBED;
}

const char *const *ofr_tool_dialect_markers(enum ofr_tool_dialect dialect)
{
    static const char *const hermes[] = {"<tool_call>", "</tool_call>", NULL};
    static const char *const llama3[] = {"<|python_tag|>", NULL};
    static const char *const mistral[] = {"[TOOL_CALLS]", NULL};
    static const char *const granite[] = {"<|tool_call|>", NULL};
    static const char *const deepseek[] = {OFR_DEEPSEEK_CALLS_BEGIN, OFR_DEEPSEEK_CALL_BEGIN,
                                           OFR_DEEPSEEK_SEP,         OFR_DEEPSEEK_CALL_END,
                                           OFR_DEEPSEEK_CALLS_END,   NULL};
    switch (dialect) {
    case OFR_TOOL_DIALECT_LLAMA3:
        return llama3;
    case OFR_TOOL_DIALECT_MISTRAL:
        return mistral;
    case OFR_TOOL_DIALECT_GRANITE:
        return granite;
    case OFR_TOOL_DIALECT_DEEPSEEK:
        return deepseek;
    default:
        return hermes;
    }
}

const char *ofr_tool_name(const json_t *tool)
{
    return json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
}

int ofr_tools_check(const json_t *tools, ofr_error *err)
{
    size_t i;
    const json_t *tool;
    if (json_array_size(tools) > OFR_TOOLS_MAX)
        return ofr_fail(err, OFR_ELIMIT, "%zu tools: at most %d are supported",
                        json_array_size(tools), OFR_TOOLS_MAX);
    json_array_foreach(tools, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");
        const json_t *parameters = json_object_get(function, "parameters");
        const char *type = json_string_value(json_object_get(tool, "type"));
        const char *name = ofr_tool_name(tool);
        if (!type || strcmp(type, "function") != 0 || !name)
            return ofr_fail(err, OFR_EINVAL,
                            "tool %zu must be {\"type\": \"function\", \"function\": {\"name\": "
                            "...}}",
                            i);
        size_t length = strlen(name);
        if (length == 0 || length > 128 ||
            strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/") !=
                length)
            return ofr_fail(err, OFR_EINVAL,
                            "tool %zu: '%.64s' is no name of a function: letters, digits, _ and - "
                            "are",
                            i, name);
        if (parameters && !json_is_object(parameters) && !json_is_null(parameters))
            return ofr_fail(err, OFR_EINVAL, "tool '%s': 'parameters' must be a JSON schema", name);
        for (size_t k = 0; k < i; k++)
            if (strcmp(ofr_tool_name(json_array_get(tools, k)), name) == 0)
                return ofr_fail(err, OFR_EINVAL, "two tools are named '%s'", name);
    }
    return 0;
}

static json_t *append_text(const json_t *content, const char *separator, const char *text)
{
    const char *before = json_is_string(content) ? json_string_value(content) : "";
    return json_sprintf("%s%s%s", before, before[0] ? separator : "", text);
}

/* "<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>" of each call, after the content. */
static json_t *calls_as_text(const json_t *message, const json_t *calls)
{
    json_t *content = json_incref(json_object_get(message, "content"));
    size_t i;
    const json_t *call;
    json_array_foreach(calls, i, call)
    {
        const json_t *function = json_object_get(call, "function");
        const json_t *arguments = json_object_get(function, "arguments");
        char *dumped = json_is_string(arguments) ? NULL : json_dumps(arguments, JSON_ENCODE_ANY);
        json_t *block = json_sprintf("<tool_call>\n{\"name\": \"%s\", \"arguments\": %s}\n"
                                     "</tool_call>",
                                     json_string_value(json_object_get(function, "name")),
                                     dumped                      ? dumped
                                     : json_is_string(arguments) ? json_string_value(arguments)
                                                                 : "{}");
        json_t *joined = block ? append_text(content, "\n", json_string_value(block)) : NULL;
        free(dumped);
        json_decref(block);
        json_decref(content);
        content = joined;
    }
    return content;
}

/* One message as plain text of roles that every template knows. */
static void describe_message(json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *calls = json_object_get(message, "tool_calls");
    if (json_is_array(calls)) {
        json_object_set_new(message, "content", calls_as_text(message, calls));
        json_object_del(message, "tool_calls");
    } else if (role && strcmp(role, "tool") == 0) {
        const char *text = json_string_value(json_object_get(message, "content"));
        json_object_set_new(
            message, "content",
            json_sprintf("<tool_response>\n%s\n</tool_response>", text ? text : ""));
        json_object_set_new(message, "role", json_string("user"));
        json_object_del(message, "tool_call_id");
    }
}

/* The tools, in the system message or else before the first user message. */
static void describe_tools(json_t *messages, const json_t *tools)
{
    static const char head[] =
        "You may call functions to assist with the user's query. The functions, as JSON:\n<tools>";
    static const char tail[] =
        "\n</tools>\nTo call a function, answer with its name and arguments as JSON:\n<tool_call>\n"
        "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";
    json_t *text = json_string(head);
    size_t i;
    const json_t *tool;
    json_array_foreach(tools, i, tool)
    {
        char *dumped = json_dumps(tool, 0);
        json_t *more = append_text(text, "\n", dumped ? dumped : "");
        free(dumped);
        json_decref(text);
        text = more;
    }
    json_t *whole = append_text(text, "", tail), *message;
    json_decref(text);
    json_array_foreach(messages, i, message)
    {
        const char *role = json_string_value(json_object_get(message, "role"));
        const char *content = json_string_value(json_object_get(message, "content"));
        bool system = role && strcmp(role, "system") == 0;
        if (!system && !(role && strcmp(role, "user") == 0))
            continue;
        json_t *joined = system ? append_text(json_object_get(message, "content"), "\n\n",
                                              json_string_value(whole))
                                : append_text(whole, "\n\n", content ? content : "");
        json_object_set_new(message, "content", joined);
        break;
    }
    json_decref(whole);
}

/* Templates print arguments as JSON: they must be values, not text. */
static void parse_arguments(json_t *message)
{
    json_t *calls = json_object_get(message, "tool_calls"), *call;
    size_t i;
    json_array_foreach(calls, i, call)
    {
        json_t *function = json_object_get(call, "function");
        const json_t *arguments = json_object_get(function, "arguments");
        json_t *value = json_is_string(arguments)
                            ? json_loadb(json_string_value(arguments),
                                         json_string_length(arguments), JSON_ALLOW_NUL, NULL)
                            : NULL;
        if (value)
            json_object_set_new(function, "arguments", value);
    }
}

/* DeepSeek's template joins arguments to text, and knows calls by a content that is none. */
static void print_arguments(json_t *message)
{
    json_t *calls = json_object_get(message, "tool_calls"), *call;
    const json_t *content = json_object_get(message, "content");
    size_t i;
    if (json_array_size(calls) && json_string_length(content) == 0)
        json_object_set_new(message, "content", json_null());
    json_array_foreach(calls, i, call)
    {
        json_t *function = json_object_get(call, "function");
        const json_t *arguments = json_object_get(function, "arguments");
        char *dumped = json_is_string(arguments) ? NULL : json_dumps(arguments, JSON_ENCODE_ANY);
        if (dumped)
            json_object_set_new(function, "arguments", json_string(dumped));
        free(dumped);
    }
}

int ofr_tools_messages(enum ofr_tool_dialect dialect, const json_t *messages, const json_t *tools,
                       json_t **ret_messages, ofr_error *err)
{
    json_t *copy = json_deep_copy(messages), *message;
    size_t i;
    if (!copy)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the messages");
    json_array_foreach(copy, i, message)
    {
        if (dialect == OFR_TOOL_DIALECT_DESCRIBED)
            describe_message(message);
        else if (dialect == OFR_TOOL_DIALECT_DEEPSEEK)
            print_arguments(message);
        else
            parse_arguments(message);
    }
    if (dialect == OFR_TOOL_DIALECT_DESCRIBED && json_array_size(tools))
        describe_tools(copy, tools);
    *ret_messages = copy;
    return 0;
}
