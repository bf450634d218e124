/* Unicode text as Python's str sees it: code points, character classes, case mappings.
 * Text is UTF-8; lone surrogates, which Python strings may hold, are kept as three bytes. */
#ifndef OFR_TEMPLATE_TEXT_H
#define OFR_TEMPLATE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Code points in `text` [size bytes]. */
size_t jinja_utf8_length(const char *text, size_t size);
/* Decodes one code point at *position and moves it on; `end` is beyond *position. */
uint32_t jinja_utf8_next(const char **position, const char *end);
/* Start of the code point that ends at `position`, which is beyond `start`. */
const char *jinja_utf8_previous(const char *start, const char *position);
/* Writes one code point; returns its bytes, 1 to 4. */
size_t jinja_utf8_put(uint32_t code_point, char ret_bytes[4]);
/* True for strict UTF-8; otherwise *ret_offset is that of the first bad byte. */
bool jinja_utf8_valid(const char *text, size_t size, size_t *ret_offset);

/* Classes of str.isspace(), isalpha(), ... */
bool jinja_is_space(uint32_t code_point);
bool jinja_is_alpha(uint32_t code_point);
bool jinja_is_decimal(uint32_t code_point);
bool jinja_is_digit(uint32_t code_point);
bool jinja_is_numeric(uint32_t code_point);
bool jinja_is_alnum(uint32_t code_point);
bool jinja_is_lower(uint32_t code_point);
bool jinja_is_upper(uint32_t code_point);
bool jinja_is_title(uint32_t code_point);
bool jinja_is_cased(uint32_t code_point);
bool jinja_is_case_ignorable(uint32_t code_point);
bool jinja_is_printable(uint32_t code_point);
bool jinja_is_line_break(uint32_t code_point);

/* Full case mappings (SpecialCasing.txt, unconditional): return the number of code points. */
size_t jinja_to_upper(uint32_t code_point, uint32_t ret_mapped[3]);
size_t jinja_to_title(uint32_t code_point, uint32_t ret_mapped[3]);
size_t jinja_to_lower(uint32_t code_point, uint32_t ret_mapped[3]);

#endif
