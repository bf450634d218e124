/* A growing text: what answers and events are written into before they go to a socket.
 *
 * Appending never fails visibly: without memory the text is marked `failed` and stays as it is, and
 * whoever sends it looks at the mark once. Belongs to one thread. */
#ifndef OFR_SUPERVISOR_SERVE_TEXT_H
#define OFR_SUPERVISOR_SERVE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ofr_text {
    char *data; /* [size], owned; not NUL-terminated; NULL while empty */
    size_t size, room;
    bool failed;
} ofr_text;

void ofr_text_done(ofr_text *text);
void ofr_text_clear(ofr_text *text); /* keeps the memory */
void ofr_text_add(ofr_text *text, const char *data, size_t size);
void ofr_text_print(ofr_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* `data`, valid UTF-8, as a JSON string with its quotes. */
void ofr_text_add_json(ofr_text *text, const char *data, size_t size);
/* A NUL-terminated text as a JSON string; "null" for NULL. */
void ofr_text_add_json_string(ofr_text *text, const char *string);

#endif
