/* UTF-8: validation, decoding and encoding of single characters.
 * Well-formed as in the Unicode Standard, table 3-7: no overlong forms, no surrogates, at most
 * U+10FFFF. NUL is an ordinary character; every length is counted in bytes. */
#ifndef OFR_BASE_UTF8_H
#define OFR_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OFR_UTF8_REPLACEMENT = 0xFFFD };

/* What stands at the beginning of some bytes. */
enum ofr_utf8_state {
    OFR_UTF8_STATE_CHARACTER,  /* a whole character */
    OFR_UTF8_STATE_INCOMPLETE, /* the bytes end inside what may still become a character */
    OFR_UTF8_STATE_INVALID,    /* bytes that no character begins with */
};

/* Looks at the first character of `data` [size bytes, size > 0]. *ret_length is the number of
 * bytes of the character, of the incomplete prefix, or of the invalid sequence (its maximal
 * subpart: what one U+FFFD replaces); *ret_codepoint is the character, or U+FFFD. */
enum ofr_utf8_state ofr_utf8_next(const char *data, size_t size, uint32_t *ret_codepoint,
                                  size_t *ret_length);

/* True if all of `data` is valid; otherwise *ret_offset (NULL is allowed) is the offset of the
 * first byte that is not. */
bool ofr_utf8_validate(const char *data, size_t size, size_t *ret_offset);

/* Bytes of the character that the lead byte `lead` of valid text begins. */
static inline size_t ofr_utf8_length(char lead)
{
    unsigned char byte = (unsigned char)lead;
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/* Decodes one character of text known to be valid; *ret_length is its bytes. */
uint32_t ofr_utf8_decode(const char *data, size_t *ret_length);

/* Writes `codepoint` (a valid scalar value) to out [4 bytes]; returns the bytes written. */
size_t ofr_utf8_encode(uint32_t codepoint, char out[4]);

/* The White_Space property of Unicode. */
bool ofr_utf8_is_space(uint32_t codepoint);

#endif
