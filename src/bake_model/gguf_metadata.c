/* Typed access to the metadata of a GGUF file. The parser has checked that every value lies in the
 * file; here it is checked to be what the caller expects. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/gguf_internal.h"

static int compare_key_with_entry(const void *a, const void *b)
{
    const char *key = a;
    const gguf_entry *entry = b;
    size_t key_size = strlen(key);
    size_t n = key_size < entry->key.size ? key_size : entry->key.size;
    int order = memcmp(key, entry->key.data, n);
    return order ? order : (key_size > entry->key.size) - (key_size < entry->key.size);
}

static const gguf_entry *find(const ofr_gguf *gguf, const char *key)
{
    return bsearch(key, gguf->entries, gguf->n_entries, sizeof *gguf->entries,
                   compare_key_with_entry);
}

static int fail_type(const ofr_gguf *gguf, const char *key, const char *expected, ofr_error *err)
{
    return ofr_fail(err, OFR_EFORMAT, "%s: metadata '%s' is not %s", gguf->path, key, expected);
}

bool ofr_gguf_has(const ofr_gguf *gguf, const char *key)
{
    return find(gguf, key) != NULL;
}

#define LOAD(type, data)                                                                           \
    ({                                                                                             \
        type loaded;                                                                               \
        memcpy(&loaded, data, sizeof loaded);                                                      \
        loaded;                                                                                    \
    })

/* False: the type is no integer, or the value does not fit into int64. */
static bool load_integer(uint32_t type, const unsigned char *data, int64_t *ret)
{
    switch (type) {
    case OFR_GGUF_VALUE_U8:
    case OFR_GGUF_VALUE_BOOL:
        *ret = *data;
        return true;
    case OFR_GGUF_VALUE_I8:
        *ret = LOAD(int8_t, data);
        return true;
    case OFR_GGUF_VALUE_U16:
        *ret = LOAD(uint16_t, data);
        return true;
    case OFR_GGUF_VALUE_I16:
        *ret = LOAD(int16_t, data);
        return true;
    case OFR_GGUF_VALUE_U32:
        *ret = LOAD(uint32_t, data);
        return true;
    case OFR_GGUF_VALUE_I32:
        *ret = LOAD(int32_t, data);
        return true;
    case OFR_GGUF_VALUE_I64:
        *ret = LOAD(int64_t, data);
        return true;
    case OFR_GGUF_VALUE_U64: {
        uint64_t value = LOAD(uint64_t, data);
        *ret = (int64_t)value;
        return value <= INT64_MAX;
    }
    default:
        return false;
    }
}

/* A scalar, or an array whose elements are equal, byte by byte. */
static bool uniform_scalar(const gguf_entry *entry, uint32_t *ret_type)
{
    if (entry->type != OFR_GGUF_VALUE_ARRAY) {
        *ret_type = entry->type;
        return true;
    }
    size_t bytes = ofr_gguf_scalar_bytes(entry->element_type);
    if (bytes == 0 || entry->count == 0)
        return false;
    for (uint64_t i = 1; i < entry->count; i++)
        if (memcmp(entry->value, entry->value + i * bytes, bytes) != 0)
            return false;
    *ret_type = entry->element_type;
    return true;
}

int ofr_gguf_get_u32(const ofr_gguf *gguf, const char *key, uint32_t *ret_value, ofr_error *err)
{
    const gguf_entry *entry = find(gguf, key);
    if (!entry)
        return 0;
    uint32_t type;
    int64_t value;
    if (!uniform_scalar(entry, &type) || type == OFR_GGUF_VALUE_BOOL ||
        !load_integer(type, entry->value, &value) || value < 0 || value > UINT32_MAX)
        return fail_type(gguf, key, "one integer from 0 to 4294967295", err);
    *ret_value = (uint32_t)value;
    return 1;
}

int ofr_gguf_get_float(const ofr_gguf *gguf, const char *key, float *ret_value, ofr_error *err)
{
    const gguf_entry *entry = find(gguf, key);
    if (!entry)
        return 0;
    float value = NAN;
    int64_t integer;
    if (entry->type == OFR_GGUF_VALUE_F32)
        value = LOAD(float, entry->value);
    else if (entry->type == OFR_GGUF_VALUE_F64)
        value = (float)LOAD(double, entry->value);
    else if (entry->type != OFR_GGUF_VALUE_BOOL &&
             load_integer(entry->type, entry->value, &integer))
        value = (float)integer;
    if (!isfinite(value))
        return fail_type(gguf, key, "a finite number", err);
    *ret_value = value;
    return 1;
}

int ofr_gguf_get_bool(const ofr_gguf *gguf, const char *key, bool *ret_value, ofr_error *err)
{
    const gguf_entry *entry = find(gguf, key);
    if (!entry)
        return 0;
    if (entry->type != OFR_GGUF_VALUE_BOOL || *entry->value > 1)
        return fail_type(gguf, key, "true or false", err);
    *ret_value = *entry->value;
    return 1;
}

/* The parser has checked that the string lies in the file. */
static ofr_gguf_string load_string(const unsigned char *data)
{
    return (ofr_gguf_string){(const char *)data + 8, (size_t)ofr_gguf_load_u64(data)};
}

int ofr_gguf_get_string(const ofr_gguf *gguf, const char *key, ofr_gguf_string *ret_value,
                        ofr_error *err)
{
    const gguf_entry *entry = find(gguf, key);
    if (!entry)
        return 0;
    if (entry->type != OFR_GGUF_VALUE_STRING)
        return fail_type(gguf, key, "a string", err);
    *ret_value = load_string(entry->value);
    return 1;
}

/* An array of `count` elements of `size` bytes for the caller; 0 elements give a non-NULL one. */
static void *new_values(const ofr_gguf *gguf, const gguf_entry *entry, size_t size, ofr_error *err)
{
    void *values = calloc(entry->count > 0 ? (size_t)entry->count : 1, size);
    if (!values)
        ofr_fail(err, OFR_ENOMEM, "%s: out of memory", gguf->path);
    return values;
}

int ofr_gguf_get_strings(const ofr_gguf *gguf, const char *key, ofr_gguf_string **ret_values,
                         size_t *ret_count, ofr_error *err)
{
    const gguf_entry *entry = find(gguf, key);
    if (!entry)
        return 0;
    if (entry->type != OFR_GGUF_VALUE_ARRAY || entry->element_type != OFR_GGUF_VALUE_STRING)
        return fail_type(gguf, key, "an array of strings", err);
    ofr_gguf_string *values = new_values(gguf, entry, sizeof *values, err);
    if (!values)
        return OFR_ENOMEM;
    const unsigned char *data = entry->value;
    for (uint64_t i = 0; i < entry->count; i++) {
        values[i] = load_string(data);
        data += 8 + values[i].size;
    }
    *ret_values = values;
    *ret_count = (size_t)entry->count;
    return 1;
}

int ofr_gguf_get_floats(const ofr_gguf *gguf, const char *key, float **ret_values,
                        size_t *ret_count, ofr_error *err)
{
    const gguf_entry *entry = find(gguf, key);
    if (!entry)
        return 0;
    if (entry->type != OFR_GGUF_VALUE_ARRAY || entry->element_type != OFR_GGUF_VALUE_F32)
        return fail_type(gguf, key, "an array of floats", err);
    float *values = new_values(gguf, entry, sizeof *values, err);
    if (!values)
        return OFR_ENOMEM;
    memcpy(values, entry->value, (size_t)entry->count * sizeof *values);
    *ret_values = values;
    *ret_count = (size_t)entry->count;
    return 1;
}

int ofr_gguf_get_i32s(const ofr_gguf *gguf, const char *key, int32_t **ret_values,
                      size_t *ret_count, ofr_error *err)
{
    const gguf_entry *entry = find(gguf, key);
    if (!entry)
        return 0;
    size_t bytes =
        entry->type == OFR_GGUF_VALUE_ARRAY ? ofr_gguf_scalar_bytes(entry->element_type) : 0;
    if (bytes == 0)
        return fail_type(gguf, key, "an array of integers", err);
    int32_t *values = new_values(gguf, entry, sizeof *values, err);
    if (!values)
        return OFR_ENOMEM;
    for (uint64_t i = 0; i < entry->count; i++) {
        int64_t value;
        if (!load_integer(entry->element_type, entry->value + i * bytes, &value) ||
            value < INT32_MIN || value > INT32_MAX) {
            free(values);
            return fail_type(gguf, key, "an array of 32-bit integers", err);
        }
        values[i] = (int32_t)value;
    }
    *ret_values = values;
    *ret_count = (size_t)entry->count;
    return 1;
}

int ofr_gguf_get_bytes(const ofr_gguf *gguf, const char *key, ofr_gguf_string *ret_value,
                       ofr_error *err)
{
    const gguf_entry *entry = find(gguf, key);
    if (!entry)
        return 0;
    if (entry->type != OFR_GGUF_VALUE_ARRAY ||
        (entry->element_type != OFR_GGUF_VALUE_U8 && entry->element_type != OFR_GGUF_VALUE_I8))
        return fail_type(gguf, key, "an array of bytes", err);
    *ret_value = (ofr_gguf_string){(const char *)entry->value, (size_t)entry->count};
    return 1;
}
