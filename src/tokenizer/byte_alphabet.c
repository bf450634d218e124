/* The byte-level alphabet of GPT-2, and the growable arrays of the tokenizer. */
#include <stdlib.h>
#include <string.h>

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

int ofr_array_reserve(void **data, size_t *capacity, size_t count, size_t element_size,
                      ofr_error *err)
{
    if (count <= *capacity)
        return 0;
    size_t grown_capacity = *capacity ? *capacity : 64;
    while (grown_capacity < count) {
        if (grown_capacity > SIZE_MAX / 2 / element_size)
            return ofr_fail(err, OFR_ENOMEM, "tokenizer: array of %zu elements is too large",
                            count);
        grown_capacity *= 2;
    }
    void *grown = realloc(*data, grown_capacity * element_size);
    if (!grown)
        return ofr_fail(err, OFR_ENOMEM, "tokenizer: out of memory for %zu elements", count);
    *data = grown;
    *capacity = grown_capacity;
    return 0;
}

int ofr_text_buffer_append(ofr_text_buffer *buffer, const char *data, size_t size, ofr_error *err)
{
    void *array = buffer->data;
    int rc = ofr_array_reserve(&array, &buffer->capacity, buffer->size + size, 1, err);
    if (rc)
        return rc;
    buffer->data = array;
    if (size)
        memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    return 0;
}

int ofr_id_buffer_append(ofr_id_buffer *buffer, int32_t id, ofr_error *err)
{
    if (buffer->size == buffer->capacity) {
        void *array = buffer->data;
        int rc = ofr_array_reserve(&array, &buffer->capacity, buffer->size + 1,
                                   sizeof *buffer->data, err);
        if (rc)
            return rc;
        buffer->data = array;
    }
    buffer->data[buffer->size++] = id;
    return 0;
}
