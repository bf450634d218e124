/* The filter that turns a model's text into content and tool calls. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "supervisor/serve/structured.h"

enum { ID_MAX = 32, CALLS_MAX = 1024 };

typedef struct call {
    char id[ID_MAX];
    char *name;         /* owned */
    ofr_text arguments; /* as the model wrote them */
} call;

typedef struct filter {
    ofr_tool_parser *parser;
    enum ofr_tool_dialect dialect;
    call *calls; /* [n_calls], owned */
    uint32_t n_calls, room;
    ofr_text *content, *deltas; /* of the push that runs */
} filter;

/* Mistral's templates demand ids of nine letters and digits. */
static void make_id(enum ofr_tool_dialect dialect, char id[ID_MAX])
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    bool mistral = dialect == OFR_TOOL_DIALECT_MISTRAL;
    unsigned char bytes[24];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (unsigned char)(ofr_clock_ns() >> i);
    size_t used = (size_t)snprintf(id, ID_MAX, "%s", mistral ? "" : "call_");
    for (size_t i = 0; i < (mistral ? 9 : sizeof bytes); i++)
        id[used++] = alphabet[bytes[i] % 62];
    id[used] = '\0';
}

static int on_content(void *user, const char *text, size_t size, ofr_error *err)
{
    filter *f = user;
    ofr_text_add(f->content, text, size);
    return f->content->failed ? ofr_fail(err, OFR_ENOMEM, "no memory for an answer") : 0;
}

static int on_begin(void *user, uint32_t number, const char *name, ofr_error *err)
{
    filter *f = user;
    if (number >= CALLS_MAX)
        return ofr_fail(err, OFR_ELIMIT, "more than %d tool calls in one answer", CALLS_MAX);
    if (number == f->room) {
        uint32_t room = f->room ? f->room * 2 : 4;
        call *grown = realloc(f->calls, room * sizeof *grown);
        if (!grown)
            return ofr_fail(err, OFR_ENOMEM, "no memory for a tool call");
        f->calls = grown;
        f->room = room;
    }
    call *c = &f->calls[f->n_calls++];
    *c = (call){.name = strdup(name)};
    make_id(f->dialect, c->id);
    ofr_text_print(f->deltas,
                   "%s{\"index\":%u,\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":",
                   f->deltas->size ? "," : "", number, c->id);
    ofr_text_add_json_string(f->deltas, name);
    ofr_text_print(f->deltas, ",\"arguments\":\"\"}}");
    return c->name ? 0 : ofr_fail(err, OFR_ENOMEM, "no memory for a tool call");
}

static int on_arguments(void *user, uint32_t number, const char *text, size_t size, ofr_error *err)
{
    filter *f = user;
    ofr_text_print(f->deltas,
                   "%s{\"index\":%u,\"function\":{\"arguments\":", f->deltas->size ? "," : "",
                   number);
    ofr_text_add_json(f->deltas, text, size);
    ofr_text_print(f->deltas, "}}");
    ofr_text_add(&f->calls[number].arguments, text, size);
    return f->deltas->failed || f->calls[number].arguments.failed
               ? ofr_fail(err, OFR_ENOMEM, "no memory for a tool call")
               : 0;
}

static int filter_push(void *user, const char *text, size_t size, bool last, ofr_text *content,
                       ofr_text *tool_calls, ofr_error *err)
{
    filter *f = user;
    f->content = content;
    f->deltas = tool_calls;
    return ofr_tool_parser_push(f->parser, text, size, last, err);
}

static void filter_tool_calls(void *user, ofr_text *tool_calls)
{
    filter *f = user;
    for (uint32_t i = 0; i < f->n_calls; i++) {
        const call *c = &f->calls[i];
        ofr_text_print(tool_calls, "%s{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":",
                       i ? "," : "", c->id);
        ofr_text_add_json_string(tool_calls, c->name);
        ofr_text_print(tool_calls, ",\"arguments\":");
        ofr_text_add_json(tool_calls, c->arguments.data ? c->arguments.data : "",
                          c->arguments.size);
        ofr_text_print(tool_calls, "}}");
    }
}

static void filter_free(void *user)
{
    filter *f = user;
    for (uint32_t i = 0; i < f->n_calls; i++) {
        free(f->calls[i].name);
        ofr_text_done(&f->calls[i].arguments);
    }
    free(f->calls);
    ofr_tool_parser_free(f->parser);
    free(f);
}

int ofr_structured_filter(const ofr_structured *structured, ofr_output_filter *ret_filter,
                          ofr_error *err)
{
    if (!structured->tools)
        return 0;
    filter *f = calloc(1, sizeof *f);
    if (!f)
        return ofr_fail(err, OFR_ENOMEM, "no memory for tool calls");
    f->dialect = structured->dialect;
    ofr_tool_events events = {
        .content = on_content, .begin = on_begin, .arguments = on_arguments, .user = f};
    int r = ofr_tool_parser_new(structured->dialect, structured->tools, &events, &f->parser, err);
    if (r < 0) {
        free(f);
        return r;
    }
    *ret_filter = (ofr_output_filter){
        .push = filter_push, .tool_calls = filter_tool_calls, .free = filter_free, .user = f};
    return 0;
}
