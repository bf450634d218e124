/* Grammars and tools of requests. */
#include "supervisor/serve/structured.h"

#include <string.h>

#include "supervisor/serve/request_fields.h"

static int refuse(ofr_api_error *ret, const char *param, const ofr_error *err)
{
    return ofr_api_fail(ret, param, "%s", err->text);
}

/* The JSON schema that the format asks for; *ret_schema is a new reference, NULL for plain text. */
static int format_schema(const json_t *format, json_t **ret_schema, ofr_api_error *err)
{
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!format || (type && strcmp(type, "text") == 0))
        return 0;
    if (!type)
        return ofr_api_fail(err, "response_format", "'response_format' must have a type");
    if (strcmp(type, "json_object") == 0) {
        *ret_schema = json_pack("{s:s}", "type", "object");
        return *ret_schema ? 0 : ofr_api_fail(err, "response_format", "no memory for the format");
    }
    if (strcmp(type, "json_schema") != 0)
        return ofr_api_fail(err, "response_format",
                            "'%.40s' is no format: use text, json_object or json_schema", type);
    const json_t *schema = ofr_field(ofr_field(format, "json_schema"), "schema");
    if (!schema)
        return ofr_api_fail(err, "response_format",
                            "'json_schema' must be an object with a "
                            "'schema'");
    *ret_schema = json_incref((json_t *)(uintptr_t)schema);
    return 0;
}

/* What tool_choice says. *ret_none: no tool may be called. */
static int parse_tool_choice(const ofr_api_request *request, ofr_tool_grammar_options *options,
                             bool *ret_none, ofr_api_error *err)
{
    const json_t *choice = request->tool_choice;
    const char *word = json_string_value(choice);
    bool parallel = true;
    int r = ofr_field_bool(request->body, "parallel_tool_calls", &parallel, err);
    options->parallel = parallel;
    *ret_none = word && strcmp(word, "none") == 0;
    if (r < 0 || !choice || *ret_none || (word && strcmp(word, "auto") == 0))
        return r;
    options->choice = OFR_TOOL_CHOICE_REQUIRED;
    if (word && strcmp(word, "required") == 0)
        return 0;
    const char *type = json_string_value(json_object_get(choice, "type"));
    const json_t *function = json_object_get(choice, "function");
    const json_t *name = json_object_get(function ? function : choice, "name");
    if (!type || strcmp(type, "function") != 0 || !json_is_string(name))
        return ofr_api_fail(err, "tool_choice",
                            "'tool_choice' must be none, auto, required, or {\"type\": "
                            "\"function\", \"function\": {\"name\": ...}}");
    options->name = json_string_value(name);
    options->parallel = false;
    size_t i;
    const json_t *tool;
    json_array_foreach(request->tools, i, tool)
    {
        const char *own = json_string_value(ofr_field(ofr_field(tool, "function"), "name"));
        if (own && strcmp(own, options->name) == 0)
            return 0;
    }
    return ofr_api_fail(err, "tool_choice", "'tool_choice' names '%.64s', which is not in 'tools'",
                        options->name);
}

/* Control tokens of the dialect, which the parser must see. */
static void find_shown(const ofr_service *service, ofr_structured *s)
{
    const ofr_tokenizer *tokenizer = service->session->tokenizer;
    for (const char *const *marker = ofr_tool_dialect_markers(s->dialect); *marker; marker++) {
        int32_t id = ofr_tokenizer_find(tokenizer, *marker, strlen(*marker));
        if (id >= 0 && ofr_tokenizer_is_control(tokenizer, id) &&
            s->n_shown < OFR_STRUCTURED_SHOWN_MAX)
            s->shown[s->n_shown++] = id;
    }
}

static int prepare_tools(const ofr_service *service, ofr_api_request *request, const json_t *format,
                         ofr_structured *s, ofr_api_error *err)
{
    ofr_tool_grammar_options options = {.dialect = s->dialect, .format = format};
    ofr_error reason = {0};
    bool none = false;
    if (ofr_tools_check(request->tools, &reason) < 0)
        return refuse(err, "tools", &reason);
    int r = parse_tool_choice(request, &options, &none, err);
    if (r < 0 || none) {
        json_decref(request->tools);
        request->tools = NULL;
        return r;
    }
    options.tools = request->tools;
    if (ofr_tool_grammar(&options, &s->grammar, &reason) < 0)
        return refuse(err, "tools", &reason);
    s->tools = json_incref(request->tools);
    find_shown(service, s);
    return 0;
}

/* Templates differ in how they take calls and results. */
static int prepare_messages(ofr_api_request *request, const ofr_structured *s, ofr_api_error *err)
{
    json_t *messages = NULL;
    ofr_error reason = {0};
    if (!request->messages)
        return 0;
    if (ofr_tools_messages(s->dialect, request->messages, s->tools, &messages, &reason) < 0)
        return refuse(err, "messages", &reason);
    json_decref(request->messages);
    request->messages = messages;
    return 0;
}

static int prepare_grammar(const ofr_api_request *request, const json_t *format, ofr_structured *s,
                           ofr_api_error *err)
{
    const json_t *grammar = ofr_field(request->body, "grammar");
    ofr_error reason = {0};
    if (grammar && (s->tools || format))
        return ofr_api_fail(err, "grammar",
                            "'grammar' and 'response_format' or 'tools' exclude "
                            "each other");
    if (grammar && !json_is_string(grammar))
        return ofr_api_fail(err, "grammar", "'grammar' must be a text in GBNF");
    if (grammar && ofr_grammar_from_gbnf(json_string_value(grammar), json_string_length(grammar),
                                         &s->grammar, &reason) < 0)
        return refuse(err, "grammar", &reason);
    if (format && !s->tools && ofr_grammar_from_json_schema(format, &s->grammar, &reason) < 0)
        return refuse(err, "response_format", &reason);
    return 0;
}

int ofr_structured_prepare(const ofr_service *service, ofr_api_request *request,
                           ofr_structured *ret_structured, ofr_api_error *err)
{
    ofr_structured s = {.vocabulary = service->vocabulary};
    json_t *format = NULL;
    size_t size = 0;
    const char *source = ofr_package_chat_template(service->session->package, &size);
    s.dialect = ofr_tool_dialect_detect(source, size);
    int r = format_schema(request->response_format, &format, err);
    if (r == 0 && request->tools)
        r = prepare_tools(service, request, format, &s, err);
    if (r == 0)
        r = prepare_grammar(request, format, &s, err);
    if (r == 0)
        r = prepare_messages(request, &s, err);
    if (r == 0 && s.grammar && request->ignore_eos)
        r = ofr_api_fail(err, "ignore_eos",
                         "'ignore_eos' and a format exclude each other: a format says where to "
                         "end");
    json_decref(format);
    if (r < 0)
        ofr_structured_done(&s);
    else
        *ret_structured = s;
    return r;
}

void ofr_structured_done(ofr_structured *structured)
{
    ofr_grammar_free(structured->grammar);
    json_decref(structured->tools);
    *structured = (ofr_structured){0};
}

static int constraint_mask(void *user, const uint32_t **ret_mask, ofr_error *err)
{
    return ofr_matcher_mask(user, ret_mask, err);
}

static int constraint_accept(void *user, int32_t token, ofr_error *err)
{
    return ofr_matcher_accept(user, token, err);
}

static bool constraint_done(void *user)
{
    return ofr_matcher_is_done(user);
}

static void constraint_free(void *user)
{
    ofr_matcher_free(user);
}

int ofr_structured_constrain(const ofr_structured *structured, ofr_token_constraint *ret_constraint,
                             ofr_error *err)
{
    ofr_matcher *matcher = NULL;
    if (!structured->grammar)
        return 0;
    int r = ofr_matcher_new(structured->grammar, structured->vocabulary, &matcher, err);
    if (r == 0)
        *ret_constraint = (ofr_token_constraint){
            .mask = constraint_mask,
            .accept = constraint_accept,
            .done = constraint_done,
            .free = constraint_free,
            .user = matcher,
        };
    return r;
}
