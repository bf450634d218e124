/* Tool calls out of text, as it comes. */
#include <stdlib.h>
#include <string.h>

#include "tool_calls/call_scanner.h"
#include "tool_calls/dialect.h"

enum mode {
    CONTENT,   /* looks for the marker that begins calls */
    FIRST,     /* Llama 3: the message may begin with a call */
    WHOLE,     /* Llama 3: a JSON object that may be a call */
    PLAIN,     /* nothing but content follows */
    BETWEEN,   /* among calls: before an object, or the closing marker */
    OBJECT,    /* in the scanner's object */
    DEEP_NAME, /* DeepSeek: up to ```json */
    DEEP_BODY, /* DeepSeek: arguments up to ``` */
};

struct ofr_tool_parser {
    enum ofr_tool_dialect dialect;
    const json_t *tools;
    ofr_tool_events events;
    enum mode mode;
    ofr_byte_buffer pending; /* read, and not yet decided */
    ofr_call_scanner scanner;
    ofr_byte_buffer object; /* OBJECT: its text, in case that it is no call */
    bool begun;             /* the object's call was told */
    bool arguments_told;
    uint32_t calls;
};

int ofr_tool_parser_new(enum ofr_tool_dialect dialect, const json_t *tools,
                        const ofr_tool_events *events, ofr_tool_parser **ret_parser, ofr_error *err)
{
    ofr_tool_parser *p = calloc(1, sizeof *p);
    if (!p)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a parser of tool calls");
    p->dialect = dialect;
    p->tools = tools;
    p->events = *events;
    p->mode = dialect == OFR_TOOL_DIALECT_LLAMA3 ? FIRST : CONTENT;
    *ret_parser = p;
    return 0;
}

ofr_tool_parser *ofr_tool_parser_free(ofr_tool_parser *parser)
{
    if (parser) {
        ofr_call_scanner_done(&parser->scanner);
        free(parser->pending.data);
        free(parser->object.data);
        free(parser);
    }
    return NULL;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Gives the first `size` pending bytes out as content, and drops `more` after them. */
static int give(ofr_tool_parser *p, size_t size, size_t more, ofr_error *err)
{
    int r = size ? p->events.content(p->events.user, p->pending.data, size, err) : 0;
    ofr_byte_buffer_drop(&p->pending, size + more);
    return r;
}

/* Bytes at the end of the pending text that may begin `marker`. */
static size_t partial(const ofr_tool_parser *p, const char *marker)
{
    size_t length = strlen(marker), n = p->pending.size;
    for (size_t held = n < length - 1 ? n : length - 1; held > 0; held--)
        if (memcmp(p->pending.data + n - held, marker, held) == 0)
            return held;
    return 0;
}

static char *find(const ofr_tool_parser *p, const char *marker)
{
    return p->pending.size ? memmem(p->pending.data, p->pending.size, marker, strlen(marker))
                           : NULL;
}

/* Space before a call belongs to it; space at the end may be such. */
static size_t without_space(const ofr_tool_parser *p, size_t size)
{
    while (size > 0 && is_space(p->pending.data[size - 1]))
        size--;
    return size;
}

/* 1: another mode goes on, 0: more text is needed; likewise below. */
static int read_content(ofr_tool_parser *p, bool last, ofr_error *err)
{
    const char *marker = ofr_tool_dialect_markers(p->dialect)[0], *hit = find(p, marker);
    if (hit) {
        size_t before = (size_t)(hit - p->pending.data), kept = without_space(p, before);
        p->mode = p->dialect == OFR_TOOL_DIALECT_DEEPSEEK ? DEEP_NAME : BETWEEN;
        int r = give(p, kept, before - kept + strlen(marker), err);
        return r < 0 ? r : 1;
    }
    size_t all = p->pending.size;
    if (!last)
        return give(p, without_space(p, all - partial(p, marker)), 0, err);
    /* Space after calls is no content, whatever piece it came in. */
    size_t kept = p->calls ? without_space(p, all) : all;
    return give(p, kept, all - kept, err);
}

/* Space and what joins a list of calls. */
static void skip_joints(ofr_tool_parser *p)
{
    size_t n = 0;
    while (n < p->pending.size &&
           (is_space(p->pending.data[n]) || memchr("[],;", p->pending.data[n], 4)))
        n++;
    ofr_byte_buffer_drop(&p->pending, n);
}

static int read_between(ofr_tool_parser *p, bool last, ofr_error *err)
{
    bool hermes = p->dialect == OFR_TOOL_DIALECT_HERMES || p->dialect == OFR_TOOL_DIALECT_DESCRIBED;
    const char *close = "</tool_call>";
    skip_joints(p);
    if (p->pending.size == 0)
        return 0;
    if (p->pending.data[0] == '{') {
        p->mode = OBJECT;
        p->begun = p->arguments_told = false;
        p->object.size = 0;
        ofr_call_scanner_reset(&p->scanner);
        return 1;
    }
    size_t length = strlen(close), n = p->pending.size < length ? p->pending.size : length;
    if (hermes && memcmp(p->pending.data, close, n) == 0) {
        if (n < length && !last)
            return 0;
        if (n == length)
            ofr_byte_buffer_drop(&p->pending, length);
    }
    (void)err;
    p->mode = CONTENT; /* whatever it is, it is no call */
    return 1;
}

/* Tells of the call once its name is known, and of the arguments that are there. */
static int tell(ofr_tool_parser *p, bool ended, ofr_error *err)
{
    ofr_call_scanner *s = &p->scanner;
    int r = 0;
    if (!s->name[0])
        return 0;
    if (!p->begun) {
        r = p->events.begin(p->events.user, p->calls, s->name, err);
        p->begun = r == 0;
        p->calls += r == 0;
    }
    if (r == 0 && ended && !p->arguments_told && s->arguments.size == 0)
        r = ofr_byte_buffer_add(&s->arguments, "{}", 2, err);
    if (r == 0 && s->arguments.size) {
        r = p->events.arguments(p->events.user, p->calls - 1, s->arguments.data, s->arguments.size,
                                err);
        s->arguments.size = 0;
        p->arguments_told = true;
    }
    return r;
}

static int read_object(ofr_tool_parser *p, bool last, ofr_error *err)
{
    size_t used = 0;
    int r = ofr_call_scanner_read(&p->scanner, p->pending.data, p->pending.size, &used, err);
    if (r == 0 && !p->begun)
        r = ofr_byte_buffer_add(&p->object, p->pending.data, used, err);
    ofr_byte_buffer_drop(&p->pending, used);
    bool ended = p->scanner.state == OFR_CALL_DONE, bad = p->scanner.state == OFR_CALL_BAD;
    if (r == 0)
        r = tell(p, ended, err);
    if (r < 0)
        return r;
    if ((bad || (last && !ended)) && !p->begun) {
        r = p->events.content(p->events.user, p->object.data, p->object.size, err);
        p->object.size = 0;
        p->mode = CONTENT;
    } else if (bad || last) {
        p->mode = bad ? CONTENT : BETWEEN;
    } else if (ended) {
        p->mode = BETWEEN;
    } else {
        return 0;
    }
    return r < 0 ? r : p->pending.size > 0;
}

/* Bytes of the JSON object that the pending text begins with; 0: it has not ended. */
static size_t object_size(const ofr_tool_parser *p)
{
    size_t depth = 0;
    bool string = false, escaped = false;
    for (size_t i = 0; i < p->pending.size; i++) {
        char c = p->pending.data[i];
        if (string) {
            string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if (c == '"') {
            string = true;
        } else if (c == '{') {
            depth++;
        } else if (c == '}' && --depth == 0) {
            return i + 1;
        }
    }
    return 0;
}

static bool is_tool(const ofr_tool_parser *p, const char *name)
{
    size_t i;
    const json_t *tool;
    json_array_foreach(p->tools, i, tool)
    {
        if (name && ofr_tool_name(tool) && strcmp(ofr_tool_name(tool), name) == 0)
            return true;
    }
    return false;
}

/* Whether an object that begins so may be a call: its first key, as far as it is there. */
static bool may_be_call(const ofr_tool_parser *p)
{
    static const char *const keys[] = {"\"name\"", "\"type\"", "\"parameters\"", "\"function\"",
                                       "\"arguments\""};
    size_t i = 1;
    while (i < p->pending.size && is_space(p->pending.data[i]))
        i++;
    size_t n = p->pending.size - i;
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        size_t length = strlen(keys[k]);
        if (memcmp(p->pending.data + i, keys[k], n < length ? n : length) == 0)
            return true;
    }
    return n == 0;
}

static int read_whole(ofr_tool_parser *p, bool last, ofr_error *err)
{
    size_t size = object_size(p);
    if (!may_be_call(p)) {
        p->mode = PLAIN;
        return 1;
    }
    if (size == 0 && !last)
        return 0;
    json_t *call =
        size ? json_loadb(p->pending.data, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL)
             : NULL;
    const char *name = json_string_value(json_object_get(call, "name"));
    const json_t *arguments = json_object_get(call, "parameters");
    if (!arguments)
        arguments = json_object_get(call, "arguments");
    int r = 0;
    if (is_tool(p, name) && (!arguments || json_is_object(arguments))) {
        char *text = arguments ? json_dumps(arguments, 0) : strdup("{}");
        r = text ? p->events.begin(p->events.user, p->calls++, name, err)
                 : ofr_fail(err, OFR_ENOMEM, "no memory for a tool call");
        if (r == 0)
            r = p->events.arguments(p->events.user, p->calls - 1, text, strlen(text), err);
        free(text);
        ofr_byte_buffer_drop(&p->pending, size);
        p->mode = FIRST;
    } else {
        p->mode = PLAIN;
    }
    json_decref(call);
    return r < 0 ? r : 1;
}

static int read_first(ofr_tool_parser *p, bool last, ofr_error *err)
{
    static const char tag[] = "<|python_tag|>";
    size_t space = 0, length = sizeof tag - 1;
    while (space < p->pending.size &&
           (is_space(p->pending.data[space]) || (p->calls && p->pending.data[space] == ';')))
        space++;
    size_t left = p->pending.size - space, n = left < length ? left : length;
    if (left == 0) {
        if (last && !p->calls)
            return give(p, space, 0, err);
        return 0;
    }
    const char *at = p->pending.data + space;
    if (at[0] == '{') {
        ofr_byte_buffer_drop(&p->pending, space);
        p->mode = WHOLE;
    } else if (memcmp(at, tag, n) == 0 && (n == length || !last)) {
        if (n < length)
            return 0;
        ofr_byte_buffer_drop(&p->pending, space + length);
    } else {
        p->mode = PLAIN;
    }
    return 1;
}

/* function<sep>NAME\n```json\n, or the end of the calls. */
static int read_deep_name(ofr_tool_parser *p, bool last, ofr_error *err)
{
    static const char fence[] = "\n```json\n";
    const char *separator = find(p, OFR_DEEPSEEK_SEP), *json = find(p, fence);
    const char *end = find(p, OFR_DEEPSEEK_CALLS_END);
    if (end && (!separator || end < separator)) {
        ofr_byte_buffer_drop(&p->pending,
                             (size_t)(end - p->pending.data) + strlen(OFR_DEEPSEEK_CALLS_END));
        p->mode = CONTENT;
        return 1;
    }
    if (!separator || !json || json < separator) {
        if (!last)
            return 0;
        if (p->calls) /* the end was cut: what is left is markers */
            p->pending.size = 0;
        return give(p, p->pending.size, 0, err);
    }
    const char *name = separator + strlen(OFR_DEEPSEEK_SEP);
    char *copy = strndup(name, (size_t)(json - name));
    int r = copy ? p->events.begin(p->events.user, p->calls++, copy, err)
                 : ofr_fail(err, OFR_ENOMEM, "no memory for a tool call");
    free(copy);
    ofr_byte_buffer_drop(&p->pending, (size_t)(json - p->pending.data) + sizeof fence - 1);
    p->mode = DEEP_BODY;
    return r < 0 ? r : 1;
}

static int read_deep_body(ofr_tool_parser *p, bool last, ofr_error *err)
{
    static const char fence[] = "\n```";
    const char *end = find(p, fence);
    size_t size =
        end ? (size_t)(end - p->pending.data) : p->pending.size - (last ? 0 : partial(p, fence));
    int r =
        size ? p->events.arguments(p->events.user, p->calls - 1, p->pending.data, size, err) : 0;
    ofr_byte_buffer_drop(&p->pending, size + (end ? sizeof fence - 1 : 0));
    if (end)
        p->mode = DEEP_NAME;
    return r < 0 ? r : end != NULL;
}

static int read_plain(ofr_tool_parser *p, bool last, ofr_error *err)
{
    (void)last;
    return give(p, p->pending.size, 0, err);
}

int ofr_tool_parser_push(ofr_tool_parser *parser, const char *text, size_t size, bool last,
                         ofr_error *err)
{
    static int (*const readers[])(ofr_tool_parser *, bool, ofr_error *) = {
        [CONTENT] = read_content,     [FIRST] = read_first,         [WHOLE] = read_whole,
        [PLAIN] = read_plain,         [BETWEEN] = read_between,     [OBJECT] = read_object,
        [DEEP_NAME] = read_deep_name, [DEEP_BODY] = read_deep_body,
    };
    int r = ofr_byte_buffer_add(&parser->pending, text, size, err);
    do {
        if (r >= 0)
            r = readers[parser->mode](parser, last, err);
    } while (r > 0);
    return r;
}
