/* Fuzz target: tool calls in a model's text. The first byte is the dialect, the second how the text
 * is cut; the events must be the same as for the whole text, and nothing of it is lost. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tool_calls/tool_calls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXT_MAX = 4096, EVENTS_MAX = 4 * TEXT_MAX };

typedef struct record {
    char events[EVENTS_MAX]; /* content, and behind it the calls */
    size_t n_content, n_calls;
    char calls[EVENTS_MAX];
} record;

static void add(char *to, size_t *used, const char *text, size_t size)
{
    if (*used + size > EVENTS_MAX)
        abort(); /* more than the text had */
    memcpy(to + *used, text, size);
    *used += size;
}

static int on_content(void *user, const char *text, size_t size, ofr_error *err)
{
    record *r = user;
    (void)err;
    add(r->events, &r->n_content, text, size);
    return 0;
}

static int on_begin(void *user, uint32_t call, const char *name, ofr_error *err)
{
    record *r = user;
    (void)err;
    (void)call;
    add(r->calls, &r->n_calls, "|", 1);
    add(r->calls, &r->n_calls, name, strlen(name));
    return 0;
}

static int on_arguments(void *user, uint32_t call, const char *text, size_t size, ofr_error *err)
{
    record *r = user;
    (void)call;
    (void)err;
    add(r->calls, &r->n_calls, text, size);
    return 0;
}

static int parse(enum ofr_tool_dialect dialect, const json_t *tools, const char *text, size_t size,
                 size_t step, record *r)
{
    ofr_tool_events events = {on_content, on_begin, on_arguments, r};
    ofr_tool_parser *parser = NULL;
    ofr_error err;
    r->n_content = r->n_calls = 0;
    int result = ofr_tool_parser_new(dialect, tools, &events, &parser, &err);
    size_t at = 0;
    do {
        size_t n = step < size - at ? step : size - at;
        if (result == 0)
            result = ofr_tool_parser_push(parser, text + at, n, at + n == size, &err);
        at += n;
    } while (at < size && result == 0);
    ofr_tool_parser_free(parser);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static record whole, pieces;
    if (size < 3 || size > TEXT_MAX)
        return 0;
    json_t *tools = json_loads("[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},"
                               "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]",
                               0, NULL);
    enum ofr_tool_dialect dialect =
        (enum ofr_tool_dialect)(data[0] % (OFR_TOOL_DIALECT_DEEPSEEK + 1));
    size_t step = data[1] % 16 + 1;
    const char *text = (const char *)data + 2;
    int a = parse(dialect, tools, text, size - 2, size, &whole);
    int b = parse(dialect, tools, text, size - 2, step, &pieces);
    if (a != b ||
        (a == 0 && (whole.n_content != pieces.n_content || whole.n_calls != pieces.n_calls ||
                    memcmp(whole.events, pieces.events, whole.n_content) != 0 ||
                    memcmp(whole.calls, pieces.calls, whole.n_calls) != 0)))
        abort();
    json_decref(tools);
    return 0;
}
