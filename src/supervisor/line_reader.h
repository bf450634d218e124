/* Lines that a person types, or that come from a pipe.
 *
 * On a terminal: line editing, history in a file (mode 0600), Ctrl-C clears the line, and a pasted
 * text of several lines is one entry (bracketed paste). Otherwise plain lines of standard input.
 * One thread. */
#ifndef OFR_SUPERVISOR_LINE_READER_H
#define OFR_SUPERVISOR_LINE_READER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct ofr_line_reader ofr_line_reader;

/* `history_path` may be NULL: no history. It is only used on a terminal. */
int ofr_line_reader_new(bool terminal, const char *history_path, ofr_line_reader **ret_reader,
                        ofr_error *err);
ofr_line_reader *ofr_line_reader_free(ofr_line_reader *reader);

enum ofr_line {
    OFR_LINE_END,         /* end of input, Ctrl-D, or Ctrl-C twice */
    OFR_LINE_TEXT,        /* *ret_line holds it */
    OFR_LINE_INTERRUPTED, /* Ctrl-C: the line is dropped */
};
/* *ret_line is malloc'ed, without its newline; it may contain newlines of a paste and NUL bytes.
 * `remember` puts it into the history. */
enum ofr_line ofr_line_reader_next(ofr_line_reader *reader, const char *prompt, bool remember,
                                   char **ret_line, size_t *ret_size);
/* Whether the terminal shows what is typed while no line is read: off during an answer, so that
 * keys pressed ahead do not end up inside of it. They are in the next line all the same. */
void ofr_line_reader_echo(const ofr_line_reader *reader, bool on);

#endif
