/* A growing text, and JSON strings. */
#include "supervisor/serve/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ofr_text_done(ofr_text *text)
{
    free(text->data);
    *text = (ofr_text){0};
}

void ofr_text_clear(ofr_text *text)
{
    text->size = 0;
    text->failed = false;
}

static bool reserve(ofr_text *text, size_t more)
{
    if (text->failed)
        return false;
    if (more <= text->room - text->size)
        return true;
    size_t room = text->room < 256 ? 256 : text->room;
    while (room - text->size < more)
        room *= 2;
    char *grown = realloc(text->data, room);
    if (!grown) {
        text->failed = true;
        return false;
    }
    text->data = grown;
    text->room = room;
    return true;
}

void ofr_text_add(ofr_text *text, const char *data, size_t size)
{
    if (size == 0 || !reserve(text, size))
        return;
    memcpy(text->data + text->size, data, size);
    text->size += size;
}

void ofr_text_print(ofr_text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    int size = vsnprintf(NULL, 0, format, arguments);
    /* vsnprintf writes a NUL too, which is not counted. */
    if (size >= 0 && reserve(text, (size_t)size + 1)) {
        vsnprintf(text->data + text->size, (size_t)size + 1, format, again);
        text->size += (size_t)size;
    }
    va_end(again);
    va_end(arguments);
}

void ofr_text_add_json(ofr_text *text, const char *data, size_t size)
{
    static const char hex[] = "0123456789abcdef";
    ofr_text_add(text, "\"", 1);
    size_t begin = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)data[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        ofr_text_add(text, data + begin, i - begin);
        begin = i + 1;
        if (c == '"' || c == '\\') {
            ofr_text_add(text, (const char[]){'\\', (char)c}, 2);
        } else if (c == '\n') {
            ofr_text_add(text, "\\n", 2);
        } else {
            const char escape[] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            ofr_text_add(text, escape, sizeof escape);
        }
    }
    ofr_text_add(text, data + begin, size - begin);
    ofr_text_add(text, "\"", 1);
}

void ofr_text_add_json_string(ofr_text *text, const char *string)
{
    if (string)
        ofr_text_add_json(text, string, strlen(string));
    else
        ofr_text_add(text, "null", 4);
}
