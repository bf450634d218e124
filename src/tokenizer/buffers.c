/* The growable arrays of the tokenizer: text and ids under construction.
 * Capacity doubles, so that appending costs amortized constant time. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer_internal.h"

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
