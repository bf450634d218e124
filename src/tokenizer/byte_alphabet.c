/* The byte-level alphabet of GPT-2: bytes as printable characters, and back.
 * Defined in encoder.py of the GPT-2 release (bytes_to_unicode). */
#include "tokenizer/tokenizer_internal.h"

/* Bytes that stand for themselves: 21-7E, A1-AC, AE-FF. The 68 others, in order, are 00-20, 7F,
 * 80-A0 and AD; they stand at U+0100 to U+0143. */
uint32_t ofr_byte_alphabet_codepoint(unsigned char byte)
{
    if (byte <= 0x20)
        return 0x100u + byte;
    if (byte < 0x7F)
        return byte;
    if (byte <= 0xA0)
        return 0x121u + (byte - 0x7Fu);
    return byte == 0xAD ? 0x143u : byte;
}

int ofr_byte_alphabet_byte(uint32_t codepoint)
{
    if (codepoint >= 0x100) {
        if (codepoint <= 0x120)
            return (int)(codepoint - 0x100);
        if (codepoint <= 0x142)
            return (int)(codepoint - 0x121 + 0x7F);
        return codepoint == 0x143 ? 0xAD : -1;
    }
    bool itself = (codepoint > 0x20 && codepoint < 0x7F) || (codepoint > 0xA0 && codepoint != 0xAD);
    return itself ? (int)codepoint : -1;
}
