/* Reads one JSON object {"name": ..., "arguments": ...} as it comes and gives its arguments out
 * before it has ended. Belongs to one thread. */
#ifndef OFR_TOOL_CALLS_CALL_SCANNER_H
#define OFR_TOOL_CALLS_CALL_SCANNER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum { OFR_CALL_NAME_MAX = 256 };

/* A growable text. */
typedef struct ofr_byte_buffer {
    char *data; /* owned */
    size_t size, room;
} ofr_byte_buffer;
int ofr_byte_buffer_add(ofr_byte_buffer *buffer, const char *data, size_t size, ofr_error *err);
/* Removes the first `size` bytes. */
void ofr_byte_buffer_drop(ofr_byte_buffer *buffer, size_t size);

enum ofr_call_state {
    OFR_CALL_START, /* before the brace */
    OFR_CALL_BEFORE_KEY,
    OFR_CALL_KEY,
    OFR_CALL_COLON,
    OFR_CALL_BEFORE_VALUE,
    OFR_CALL_VALUE,
    OFR_CALL_AFTER_VALUE,
    OFR_CALL_DONE,
    OFR_CALL_BAD, /* not such an object */
};

typedef struct ofr_call_scanner {
    enum ofr_call_state state;
    bool in_string, escaped;    /* inside the key or value */
    bool is_name, is_arguments; /* what the value belongs to */
    bool quoted;                /* the arguments are JSON in a string: they come at their end */
    size_t depth;               /* open brackets of the value */
    ofr_byte_buffer key;        /* with its quotes */
    ofr_byte_buffer value;      /* of the name, or quoted arguments */
    ofr_byte_buffer arguments;  /* read and not yet taken by the caller */
    bool has_arguments;
    char name[OFR_CALL_NAME_MAX]; /* "" until it is known */
} ofr_call_scanner;

/* Ready for the next object. */
void ofr_call_scanner_reset(ofr_call_scanner *scanner);
void ofr_call_scanner_done(ofr_call_scanner *scanner);

/* Reads until the object has ended (DONE) or is none (BAD), or all is read. *ret_used: bytes. */
int ofr_call_scanner_read(ofr_call_scanner *scanner, const char *text, size_t size,
                          size_t *ret_used, ofr_error *err);

#endif
