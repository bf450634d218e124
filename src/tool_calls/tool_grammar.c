/* Grammars of answers that may call tools. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/dfa.h"
#include "grammar/grammar_internal.h"
#include "tool_calls/dialect.h"

typedef struct plan {
    const ofr_tool_grammar_options *options;
    const char *names[OFR_TOOLS_MAX];   /* of the tools that may be called */
    json_t *schemas[OFR_TOOLS_MAX + 1]; /* of their arguments, and the format; owned */
    size_t count;
    ofr_dfa *until; /* AUTO: text up to the marker that begins calls; owned */
} plan;

static const char *opening(enum ofr_tool_dialect dialect)
{
    return ofr_tool_dialect_markers(dialect)[0];
}

/* A marker as the control token of that name, or as text. */
static uint32_t marker(ofr_builder *b, const char *text, uint32_t next)
{
    return ofr_builder_either(b, ofr_builder_token(b, text, strlen(text), next),
                              ofr_builder_bytes(b, text, strlen(text), next));
}

static uint32_t optional(ofr_builder *b, const char *text, uint32_t next)
{
    return ofr_builder_either(b, ofr_builder_bytes(b, text, strlen(text), next), next);
}

/* Up to two of space and new line. */
static uint32_t blank(ofr_builder *b, uint32_t next)
{
    static const ofr_range ranges[] = {{' ', ' '}, {'\n', '\n'}};
    ofr_repeat repeat;
    uint32_t after = ofr_repeat_begin(b, &repeat, 0, 2, next);
    return ofr_repeat_end(b, &repeat, ofr_builder_class(b, ranges, 2, after));
}

static uint32_t key(ofr_builder *b, const char *name, uint32_t next)
{
    char text[32];
    int size = snprintf(text, sizeof text, "\"%s\":", name);
    return ofr_builder_bytes(b, text, (size_t)size, optional(b, " ", next));
}

/* {"name": "f", "arguments": {...}}; the id of Mistral may follow. */
static uint32_t call_object(ofr_builder *b, const plan *p, const uint32_t *rules, uint32_t next)
{
    static const ofr_range id[] = {{'0', '9'}, {'A', 'Z'}, {'a', 'z'}};
    enum ofr_tool_dialect dialect = p->options->dialect;
    const char *arguments = dialect == OFR_TOOL_DIALECT_LLAMA3 ? "parameters" : "arguments";
    uint32_t end = ofr_builder_bytes(b, "}", 1, next);
    if (dialect == OFR_TOOL_DIALECT_MISTRAL) {
        ofr_repeat repeat;
        uint32_t close = ofr_builder_bytes(b, "\"", 1, end);
        uint32_t after = ofr_repeat_begin(b, &repeat, 9, 9, close);
        uint32_t characters = ofr_repeat_end(b, &repeat, ofr_builder_class(b, id, 3, after));
        uint32_t with_id = key(b, "id", ofr_builder_bytes(b, "\"", 1, characters));
        end = ofr_builder_either(b, end, ofr_builder_bytes(b, ",", 1, optional(b, " ", with_id)));
    }
    uint32_t choice = ofr_builder_split(b, (uint32_t)p->count);
    for (uint32_t i = 0; i < p->count; i++) {
        uint32_t value = key(b, arguments, ofr_builder_call(b, rules[i], end));
        value = ofr_builder_bytes(b, "\",", 2, optional(b, " ", value));
        ofr_builder_edge(b, choice, i,
                         ofr_builder_bytes(b, p->names[i], strlen(p->names[i]), value));
    }
    return ofr_builder_bytes(b, "{", 1, key(b, "name", ofr_builder_bytes(b, "\"", 1, choice)));
}

/* After the opening marker: <tool_call> ... </tool_call>, and perhaps more of them. */
static uint32_t hermes(ofr_builder *b, const plan *p, const uint32_t *rules, uint32_t end)
{
    uint32_t after = ofr_builder_split(b, 2);
    uint32_t close = blank(b, marker(b, "</tool_call>", after));
    uint32_t call = blank(b, call_object(b, p, rules, close));
    uint32_t again = blank(b, marker(b, "<tool_call>", call));
    ofr_builder_edge(b, after, 0, end);
    ofr_builder_edge(b, after, 1, p->options->parallel ? again : end);
    return call;
}

/* [call, call]: Mistral, Granite. */
static uint32_t list(ofr_builder *b, const plan *p, const uint32_t *rules, uint32_t end)
{
    uint32_t close = ofr_builder_bytes(b, "]", 1, end), after = ofr_builder_split(b, 2);
    uint32_t call = call_object(b, p, rules, after);
    ofr_builder_edge(b, after, 0, close);
    ofr_builder_edge(b, after, 1,
                     p->options->parallel ? ofr_builder_bytes(b, ",", 1, optional(b, " ", call))
                                          : close);
    return optional(b, " ", ofr_builder_bytes(b, "[", 1, call));
}

static uint32_t deepseek(ofr_builder *b, const plan *p, const uint32_t *rules, uint32_t end)
{
    uint32_t after = ofr_builder_split(b, 2);
    uint32_t close = ofr_builder_bytes(b, "\n```", 4, marker(b, OFR_DEEPSEEK_CALL_END, after));
    uint32_t choice = ofr_builder_split(b, (uint32_t)p->count);
    for (uint32_t i = 0; i < p->count; i++) {
        uint32_t arguments = ofr_builder_call(b, rules[i], close);
        uint32_t body = ofr_builder_bytes(b, "\n```json\n", 9, arguments);
        ofr_builder_edge(b, choice, i,
                         ofr_builder_bytes(b, p->names[i], strlen(p->names[i]), body));
    }
    uint32_t call =
        marker(b, OFR_DEEPSEEK_CALL_BEGIN,
               ofr_builder_bytes(b, "function", 8, marker(b, OFR_DEEPSEEK_SEP, choice)));
    uint32_t calls_end = marker(b, OFR_DEEPSEEK_CALLS_END, end);
    ofr_builder_edge(b, after, 0, calls_end);
    ofr_builder_edge(b, after, 1,
                     p->options->parallel ? ofr_builder_bytes(b, "\n", 1, call) : calls_end);
    return call;
}

static uint32_t answer(ofr_builder *b, const uint32_t *rules, void *user)
{
    const plan *p = user;
    enum ofr_tool_dialect dialect = p->options->dialect;
    uint32_t end = ofr_builder_end(b);
    bool format = p->options->choice == OFR_TOOL_CHOICE_AUTO && p->options->format;
    uint32_t value = format ? ofr_builder_call(b, rules[p->count], end) : 0;
    if (dialect == OFR_TOOL_DIALECT_LLAMA3) {
        uint32_t call = call_object(b, p, rules, end);
        return format ? ofr_builder_either(b, call, value) : call;
    }
    uint32_t calls = dialect == OFR_TOOL_DIALECT_DEEPSEEK ? deepseek(b, p, rules, end)
                     : dialect == OFR_TOOL_DIALECT_MISTRAL || dialect == OFR_TOOL_DIALECT_GRANITE
                         ? list(b, p, rules, end)
                         : hermes(b, p, rules, end);
    const char *open = opening(dialect);
    if (format)
        return ofr_builder_either(b, marker(b, open, calls), value);
    if (!p->until)
        return marker(b, open, calls);
    /* Anywhere in the text: its end, or the marker as a control token; or the marker as text. */
    uint32_t stop = ofr_builder_either(b, end, ofr_builder_token(b, open, strlen(open), calls));
    return ofr_dfa_emit_until(b, p->until, calls, stop);
}

/* The schema of a tool's arguments: an object, whatever it says. */
static int arguments_schema(const json_t *tool, json_t **ret_schema, ofr_error *err)
{
    const json_t *function = json_object_get(tool, "function");
    json_t *parameters = json_object_get(function, "parameters");
    json_t *schema = json_is_object(parameters) ? json_copy(parameters) : json_object();
    ofr_grammar *grammar = NULL;
    if (!schema || (!json_object_get(schema, "type") &&
                    json_object_set_new(schema, "type", json_string("object")) < 0)) {
        json_decref(schema);
        return ofr_fail(err, OFR_ENOMEM, "no memory for a grammar");
    }
    int r = ofr_grammar_from_json_schema(schema, &grammar, err);
    ofr_grammar_free(grammar);
    if (r < 0 && !json_is_true(json_object_get(function, "strict"))) {
        json_decref(schema);
        schema = json_pack("{s:s}", "type", "object");
        r = schema ? 0 : ofr_fail(err, OFR_ENOMEM, "no memory for a grammar");
    }
    if (r < 0) {
        json_decref(schema);
        return ofr_error_prefix(err, r, "tool '%s'", ofr_tool_name(tool));
    }
    *ret_schema = schema;
    return 0;
}

/* All texts in which the marker stands. */
static int find_marker(const char *text, ofr_dfa **ret_dfa, ofr_error *err)
{
    char regex[128];
    size_t n = 0;
    for (; *text; text++) {
        if (strchr("[]|^$.*+?(){}\\/", *text))
            regex[n++] = '\\';
        regex[n++] = *text;
    }
    return ofr_dfa_from_regex(regex, n, ret_dfa, err);
}

int ofr_tool_grammar(const ofr_tool_grammar_options *options, ofr_grammar **ret_grammar,
                     ofr_error *err)
{
    size_t i;
    const json_t *tool;
    *ret_grammar = NULL;
    bool is_auto = options->choice == OFR_TOOL_CHOICE_AUTO;
    if (is_auto && options->dialect == OFR_TOOL_DIALECT_LLAMA3 && !options->format)
        return 0;
    plan *p = calloc(1, sizeof *p);
    if (!p)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a grammar");
    p->options = options;
    int r = 0;
    json_array_foreach(options->tools, i, tool)
    {
        const char *name = ofr_tool_name(tool);
        if (r < 0 || (options->name && strcmp(options->name, name) != 0) ||
            p->count == OFR_TOOLS_MAX)
            continue;
        p->names[p->count] = name;
        r = arguments_schema(tool, &p->schemas[p->count], err);
        p->count += r == 0;
    }
    if (r == 0 && p->count == 0)
        r = ofr_fail(err, OFR_EINVAL, "there is no tool named '%s'",
                     options->name ? options->name : "");
    size_t n = p->count;
    if (r == 0 && is_auto && options->format)
        p->schemas[n++] = json_incref((json_t *)(uintptr_t)options->format);
    else if (r == 0 && is_auto)
        r = find_marker(opening(options->dialect), &p->until, err);
    if (r == 0)
        r = ofr_grammar_around_schemas((const json_t *const *)p->schemas, n, answer, p, "the tools",
                                       ret_grammar, err);
    for (i = 0; i < n; i++)
        json_decref(p->schemas[i]);
    ofr_dfa_free(p->until);
    free(p);
    return r;
}
