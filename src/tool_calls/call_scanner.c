/* One tool call as a JSON object, read as it comes. */
#include "tool_calls/call_scanner.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int ofr_byte_buffer_add(ofr_byte_buffer *buffer, const char *data, size_t size, ofr_error *err)
{
    if (size == 0)
        return 0;
    if (size > buffer->room - buffer->size) {
        size_t room = (buffer->size + size) * 2;
        char *grown = realloc(buffer->data, room);
        if (!grown)
            return ofr_fail(err, OFR_ENOMEM, "no memory for a tool call of %zu bytes", room);
        buffer->data = grown;
        buffer->room = room;
    }
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    return 0;
}

void ofr_byte_buffer_drop(ofr_byte_buffer *buffer, size_t size)
{
    if (size && size < buffer->size)
        memmove(buffer->data, buffer->data + size, buffer->size - size);
    buffer->size -= size;
}

void ofr_call_scanner_done(ofr_call_scanner *scanner)
{
    free(scanner->key.data);
    free(scanner->value.data);
    free(scanner->arguments.data);
    *scanner = (ofr_call_scanner){0};
}

void ofr_call_scanner_reset(ofr_call_scanner *scanner)
{
    ofr_call_scanner_done(scanner);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool is_key(const ofr_call_scanner *scanner, const char *name)
{
    size_t size = strlen(name);
    return scanner->key.size == size + 2 && memcmp(scanner->key.data + 1, name, size) == 0;
}

static json_t *parse(const ofr_byte_buffer *buffer)
{
    return json_loadb(buffer->data ? buffer->data : "", buffer->size,
                      JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
}

/* The value of the name, or of quoted arguments, is complete. */
static int end_value(ofr_call_scanner *s, ofr_error *err)
{
    int r = 0;
    json_t *value = s->is_name || s->quoted ? parse(&s->value) : NULL;
    if (s->is_name) {
        const char *name = json_string_value(value);
        if (!name || !name[0] || json_string_length(value) >= sizeof s->name ||
            strlen(name) != json_string_length(value))
            s->state = OFR_CALL_BAD;
        else
            memcpy(s->name, name, strlen(name) + 1);
    } else if (s->quoted) {
        if (json_is_string(value))
            r = ofr_byte_buffer_add(&s->arguments, json_string_value(value),
                                    json_string_length(value), err);
        else
            s->state = OFR_CALL_BAD;
    }
    json_decref(value);
    s->is_name = s->is_arguments = s->quoted = false;
    return r;
}

static int keep(ofr_call_scanner *s, char c, ofr_error *err)
{
    if (s->is_name || s->quoted)
        return ofr_byte_buffer_add(&s->value, &c, 1, err);
    return s->is_arguments ? ofr_byte_buffer_add(&s->arguments, &c, 1, err) : 0;
}

static void begin_value(ofr_call_scanner *s, char c)
{
    s->is_name = is_key(s, "name");
    s->is_arguments = is_key(s, "arguments") || is_key(s, "parameters");
    if ((s->is_name && s->name[0]) || (s->is_arguments && s->has_arguments)) {
        s->state = OFR_CALL_BAD; /* twice */
        return;
    }
    s->has_arguments = s->has_arguments || s->is_arguments;
    s->quoted = s->is_arguments && c == '"';
    s->value.size = 0;
    s->depth = 0;
    s->in_string = s->escaped = false;
    s->state = OFR_CALL_VALUE;
}

/* One byte of a value. Numbers and words end with what follows them. */
static int read_value(ofr_call_scanner *s, char c, ofr_error *err)
{
    if (s->in_string) {
        s->in_string = s->escaped || c != '"';
        s->escaped = !s->escaped && c == '\\';
    } else if (s->depth == 0 && (c == ',' || c == '}' || is_space(c))) {
        int r = end_value(s, err);
        if (s->state != OFR_CALL_BAD)
            s->state = c == ','   ? OFR_CALL_BEFORE_KEY
                       : c == '}' ? OFR_CALL_DONE
                                  : OFR_CALL_AFTER_VALUE;
        return r;
    } else if (c == '"') {
        s->in_string = true;
    } else if (c == '{' || c == '[') {
        s->depth++;
    } else if (c == '}' || c == ']') {
        if (s->depth == 0) {
            s->state = OFR_CALL_BAD;
            return 0;
        }
        s->depth--;
    }
    return keep(s, c, err);
}

static int read_byte(ofr_call_scanner *s, char c, ofr_error *err)
{
    enum ofr_call_state next = OFR_CALL_BAD;
    switch (s->state) {
    case OFR_CALL_START:
        s->state = c == '{' ? OFR_CALL_BEFORE_KEY : OFR_CALL_BAD;
        return 0;
    case OFR_CALL_KEY:
        if (!s->escaped && c == '"')
            s->state = OFR_CALL_COLON;
        s->escaped = !s->escaped && c == '\\';
        return ofr_byte_buffer_add(&s->key, &c, 1, err);
    case OFR_CALL_VALUE:
        return read_value(s, c, err);
    default:
        break;
    }
    if (is_space(c))
        return 0;
    if (s->state == OFR_CALL_BEFORE_KEY && c == '"') {
        s->key.size = 0;
        s->escaped = false;
        s->state = OFR_CALL_KEY;
        return ofr_byte_buffer_add(&s->key, &c, 1, err);
    }
    if (s->state == OFR_CALL_BEFORE_VALUE) {
        begin_value(s, c);
        return s->state == OFR_CALL_VALUE ? read_value(s, c, err) : 0;
    }
    if (s->state == OFR_CALL_COLON && c == ':')
        next = OFR_CALL_BEFORE_VALUE;
    else if (s->state == OFR_CALL_AFTER_VALUE && (c == ',' || c == '}'))
        next = c == ',' ? OFR_CALL_BEFORE_KEY : OFR_CALL_DONE;
    s->state = next;
    return 0;
}

int ofr_call_scanner_read(ofr_call_scanner *scanner, const char *text, size_t size,
                          size_t *ret_used, ofr_error *err)
{
    size_t i = 0;
    int r = 0;
    while (r == 0 && i < size && scanner->state < OFR_CALL_DONE)
        r = read_byte(scanner, text[i++], err);
    if (scanner->state == OFR_CALL_DONE && !scanner->name[0])
        scanner->state = OFR_CALL_BAD;
    *ret_used = i;
    return r;
}
