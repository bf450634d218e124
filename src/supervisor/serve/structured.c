/* Grammars of requests. */
#include "supervisor/serve/structured.h"

#include <string.h>

#include "supervisor/serve/request_fields.h"

static int refuse(ofr_api_error *ret, const char *param, const ofr_error *err)
{
    return ofr_api_fail(ret, param, "%s", err->text);
}

static int from_format(const json_t *format, ofr_grammar **ret_grammar, ofr_api_error *err)
{
    const char *type = json_string_value(json_object_get(format, "type"));
    ofr_error reason = {0};
    if (!type)
        return ofr_api_fail(err, "response_format", "'response_format' must have a type");
    if (strcmp(type, "text") == 0)
        return 0;
    if (strcmp(type, "json_object") == 0)
        return ofr_grammar_json_object(ret_grammar, &reason) < 0
                   ? refuse(err, "response_format", &reason)
                   : 0;
    if (strcmp(type, "json_schema") != 0)
        return ofr_api_fail(err, "response_format",
                            "'%.40s' is no format: use text, json_object or json_schema", type);
    const json_t *schema = ofr_field(ofr_field(format, "json_schema"), "schema");
    if (!schema)
        return ofr_api_fail(err, "response_format",
                            "'json_schema' must be an object with a "
                            "'schema'");
    return ofr_grammar_from_json_schema(schema, ret_grammar, &reason) < 0
               ? refuse(err, "response_format", &reason)
               : 0;
}

int ofr_structured_prepare(const ofr_service *service, const ofr_api_request *request,
                           ofr_structured *ret_structured, ofr_api_error *err)
{
    ofr_structured s = {.vocabulary = service->vocabulary};
    const json_t *grammar = ofr_field(request->body, "grammar");
    ofr_error reason = {0};
    int r = 0;
    if (request->response_format)
        r = from_format(request->response_format, &s.grammar, err);
    if (r == 0 && grammar && s.grammar)
        r = ofr_api_fail(err, "grammar", "'grammar' and 'response_format' exclude each other");
    else if (r == 0 && grammar && !json_is_string(grammar))
        r = ofr_api_fail(err, "grammar", "'grammar' must be a text in GBNF");
    else if (r == 0 && grammar &&
             ofr_grammar_from_gbnf(json_string_value(grammar), json_string_length(grammar),
                                   &s.grammar, &reason) < 0)
        r = refuse(err, "grammar", &reason);
    if (r == 0 && s.grammar && request->ignore_eos)
        r = ofr_api_fail(err, "ignore_eos",
                         "'ignore_eos' and a format exclude each other: a format says where to "
                         "end");
    if (r < 0)
        ofr_structured_done(&s);
    else
        *ret_structured = s;
    return r;
}

void ofr_structured_done(ofr_structured *structured)
{
    ofr_grammar_free(structured->grammar);
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
