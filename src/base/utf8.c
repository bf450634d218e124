/* UTF-8: validation, decoding and encoding of single characters. */
#include "base/utf8.h"

#include <string.h>

enum ofr_utf8_state ofr_utf8_next(const char *data, size_t size, uint32_t *ret_codepoint,
                                  size_t *ret_length)
{
    const unsigned char *bytes = (const unsigned char *)data;
    unsigned char lead = bytes[0];
    *ret_length = 1;
    if (lead < 0x80) {
        *ret_codepoint = lead;
        return OFR_UTF8_STATE_CHARACTER;
    }
    *ret_codepoint = OFR_UTF8_REPLACEMENT;
    if (lead < 0xC2 || lead > 0xF4)
        return OFR_UTF8_STATE_INVALID;
    size_t length = ofr_utf8_length((char)lead);
    uint32_t codepoint = lead & (0xFFu >> (length + 1));
    /* Only the second byte has a narrower range than 80..BF; it excludes overlong forms,
     * surrogates and what lies beyond U+10FFFF. */
    unsigned char low = 0x80, high = 0xBF;
    if (lead == 0xE0)
        low = 0xA0;
    else if (lead == 0xED)
        high = 0x9F;
    else if (lead == 0xF0)
        low = 0x90;
    else if (lead == 0xF4)
        high = 0x8F;
    for (size_t i = 1; i < length; i++) {
        if (i >= size) {
            *ret_length = i;
            return OFR_UTF8_STATE_INCOMPLETE;
        }
        if (bytes[i] < low || bytes[i] > high) {
            *ret_length = i;
            return OFR_UTF8_STATE_INVALID;
        }
        codepoint = (codepoint << 6) | (bytes[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *ret_codepoint = codepoint;
    *ret_length = length;
    return OFR_UTF8_STATE_CHARACTER;
}

bool ofr_utf8_validate(const char *data, size_t size, size_t *ret_offset)
{
    size_t i = 0;
    while (i < size) {
        /* Eight ASCII bytes at a time: most text is mostly ASCII. */
        uint64_t word;
        if (size - i >= sizeof word) {
            memcpy(&word, data + i, sizeof word);
            if (!(word & 0x8080808080808080u)) {
                i += sizeof word;
                continue;
            }
        }
        uint32_t codepoint;
        size_t length;
        if (ofr_utf8_next(data + i, size - i, &codepoint, &length) != OFR_UTF8_STATE_CHARACTER) {
            if (ret_offset)
                *ret_offset = i;
            return false;
        }
        i += length;
    }
    return true;
}

uint32_t ofr_utf8_decode(const char *data, size_t *ret_length)
{
    const unsigned char *bytes = (const unsigned char *)data;
    size_t length = ofr_utf8_length(data[0]);
    *ret_length = length;
    switch (length) {
    case 1:
        return bytes[0];
    case 2:
        return ((bytes[0] & 0x1Fu) << 6) | (bytes[1] & 0x3Fu);
    case 3:
        return ((bytes[0] & 0x0Fu) << 12) | ((bytes[1] & 0x3Fu) << 6) | (bytes[2] & 0x3Fu);
    default:
        return ((bytes[0] & 0x07u) << 18) | ((bytes[1] & 0x3Fu) << 12) | ((bytes[2] & 0x3Fu) << 6) |
               (bytes[3] & 0x3Fu);
    }
}

size_t ofr_utf8_encode(uint32_t codepoint, char out[4])
{
    if (codepoint < 0x80) {
        out[0] = (char)codepoint;
        return 1;
    }
    if (codepoint < 0x800) {
        out[0] = (char)(0xC0u | (codepoint >> 6));
        out[1] = (char)(0x80u | (codepoint & 0x3Fu));
        return 2;
    }
    if (codepoint < 0x10000) {
        out[0] = (char)(0xE0u | (codepoint >> 12));
        out[1] = (char)(0x80u | ((codepoint >> 6) & 0x3Fu));
        out[2] = (char)(0x80u | (codepoint & 0x3Fu));
        return 3;
    }
    out[0] = (char)(0xF0u | (codepoint >> 18));
    out[1] = (char)(0x80u | ((codepoint >> 12) & 0x3Fu));
    out[2] = (char)(0x80u | ((codepoint >> 6) & 0x3Fu));
    out[3] = (char)(0x80u | (codepoint & 0x3Fu));
    return 4;
}

bool ofr_utf8_is_space(uint32_t codepoint)
{
    return (codepoint >= 0x09 && codepoint <= 0x0D) || codepoint == 0x20 || codepoint == 0x85 ||
           codepoint == 0xA0 || codepoint == 0x1680 ||
           (codepoint >= 0x2000 && codepoint <= 0x200A) || codepoint == 0x2028 ||
           codepoint == 0x2029 || codepoint == 0x202F || codepoint == 0x205F || codepoint == 0x3000;
}
