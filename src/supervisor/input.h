/* Text that comes from a file or from standard input. */
#ifndef OFR_SUPERVISOR_INPUT_H
#define OFR_SUPERVISOR_INPUT_H

#include <stddef.h>

#include "base/status.h"

enum { OFR_INPUT_CAP = 256 << 20 };

/* Reads all of `path`, "-" being standard input, of at most OFR_INPUT_CAP bytes. *ret_text is
 * malloc'ed and NUL-terminated. */
int ofr_input_read(const char *path, char **ret_text, size_t *ret_size, ofr_error *err);

/* OFR_EUTF8 naming `what` and the byte offset unless the text is valid UTF-8. */
int ofr_input_check_utf8(const char *what, const char *text, size_t size, ofr_error *err);

#endif
