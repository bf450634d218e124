/* Parses the header of a GGUF file; every figure in it is checked before it is used. */
#include "bake_model/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "bake_model/gguf_internal.h"

enum { MAX_KEY_BYTES = 65535, MAX_ARRAY_DEPTH = 4, MAX_ALIGNMENT = 1 << 16 };

const char *ofr_gguf_type_name(uint32_t type)
{
    switch (type) {
#define TYPE_NAME(symbol, number, name, elements, bytes)                                           \
    case number:                                                                                   \
        return name;
        OFR_GGUF_TYPE_TABLE(TYPE_NAME)
#undef TYPE_NAME
    default:
        return NULL;
    }
}

uint32_t ofr_gguf_type_block_elements(uint32_t type)
{
    switch (type) {
#define TYPE_ELEMENTS(symbol, number, name, elements, bytes)                                       \
    case number:                                                                                   \
        return elements;
        OFR_GGUF_TYPE_TABLE(TYPE_ELEMENTS)
#undef TYPE_ELEMENTS
    default:
        return 0;
    }
}

uint32_t ofr_gguf_type_block_bytes(uint32_t type)
{
    switch (type) {
#define TYPE_BYTES(symbol, number, name, elements, bytes)                                          \
    case number:                                                                                   \
        return bytes;
        OFR_GGUF_TYPE_TABLE(TYPE_BYTES)
#undef TYPE_BYTES
    default:
        return 0;
    }
}

size_t ofr_gguf_scalar_bytes(uint32_t type)
{
    switch (type) {
    case OFR_GGUF_VALUE_U8:
    case OFR_GGUF_VALUE_I8:
    case OFR_GGUF_VALUE_BOOL:
        return 1;
    case OFR_GGUF_VALUE_U16:
    case OFR_GGUF_VALUE_I16:
        return 2;
    case OFR_GGUF_VALUE_U32:
    case OFR_GGUF_VALUE_I32:
    case OFR_GGUF_VALUE_F32:
        return 4;
    case OFR_GGUF_VALUE_U64:
    case OFR_GGUF_VALUE_I64:
    case OFR_GGUF_VALUE_F64:
        return 8;
    default:
        return 0;
    }
}

uint64_t ofr_gguf_load_u64(const unsigned char *data)
{
    uint64_t value;
    memcpy(&value, data, sizeof value);
    return value;
}

/* ---- cursor: keeps the first failure; after it nothing is read any more ---- */

typedef struct cursor {
    const ofr_gguf *gguf;
    uint64_t at;
    ofr_error *err;
    int result;
} cursor;

static const unsigned char *take(cursor *in, uint64_t size)
{
    if (in->result < 0)
        return NULL;
    if (size > in->gguf->size - in->at && size <= in->gguf->file_size - in->at) {
        in->result = ofr_fail(in->err, OFR_EAGAIN, "%s: the header is longer than what was read",
                              in->gguf->path);
        return NULL;
    }
    if (size > in->gguf->size - in->at) {
        in->result = ofr_fail(in->err, OFR_EFORMAT,
                              "%s: is truncated or corrupt: the header needs %llu bytes at byte "
                              "%llu, the file has %llu; get the file again",
                              in->gguf->path, (unsigned long long)size, (unsigned long long)in->at,
                              (unsigned long long)in->gguf->size);
        return NULL;
    }
    const unsigned char *data = in->gguf->data + in->at;
    in->at += size;
    return data;
}

static uint32_t take_u32(cursor *in)
{
    const unsigned char *data = take(in, 4);
    uint32_t value = 0;
    if (data)
        memcpy(&value, data, sizeof value);
    return value;
}

static uint64_t take_u64(cursor *in)
{
    const unsigned char *data = take(in, 8);
    return data ? ofr_gguf_load_u64(data) : 0;
}

static ofr_gguf_string take_string(cursor *in)
{
    uint64_t size = take_u64(in);
    const unsigned char *data = take(in, size);
    return data ? (ofr_gguf_string){(const char *)data, (size_t)size} : (ofr_gguf_string){"", 0};
}

static int fail_at(cursor *in, const char *what, uint64_t value)
{
    if (in->result == 0)
        in->result = ofr_fail(
            in->err, OFR_EFORMAT, "%s: is corrupt: %s %llu before byte %llu; get the file again",
            in->gguf->path, what, (unsigned long long)value, (unsigned long long)in->at);
    return in->result;
}

/* ---- metadata ---- */

static void skip_value(cursor *in, uint32_t type, unsigned depth);

/* Walks an array and leaves the cursor behind it. */
static void skip_elements(cursor *in, uint32_t type, uint64_t count, unsigned depth)
{
    size_t bytes = ofr_gguf_scalar_bytes(type);
    if (bytes > 0) {
        take(in, count * bytes); /* count is capped: no overflow */
        return;
    }
    for (uint64_t i = 0; i < count && in->result == 0; i++)
        skip_value(in, type, depth);
}

static void skip_value(cursor *in, uint32_t type, unsigned depth)
{
    if (type == OFR_GGUF_VALUE_STRING) {
        take_string(in);
    } else if (type == OFR_GGUF_VALUE_ARRAY) {
        uint32_t element_type = take_u32(in);
        uint64_t count = take_u64(in);
        if (depth >= MAX_ARRAY_DEPTH)
            fail_at(in, "arrays are nested deeper than", MAX_ARRAY_DEPTH);
        else if (count > OFR_GGUF_MAX_ARRAY)
            fail_at(in, "an array has the absurd count", count);
        else
            skip_elements(in, element_type, count, depth + 1);
    } else if (ofr_gguf_scalar_bytes(type) > 0) {
        take(in, ofr_gguf_scalar_bytes(type));
    } else {
        fail_at(in, "a value has the unknown type", type);
    }
}

static void parse_entry(cursor *in, gguf_entry *entry)
{
    entry->key = take_string(in);
    if (in->result == 0 && (entry->key.size == 0 || entry->key.size > MAX_KEY_BYTES ||
                            memchr(entry->key.data, '\0', entry->key.size)))
        fail_at(in, "a metadata key has the bad size", entry->key.size);
    entry->type = take_u32(in);
    uint64_t begin = in->at;
    skip_value(in, entry->type, 0);
    if (in->result < 0)
        return;
    entry->value = in->gguf->data + begin;
    if (entry->type == OFR_GGUF_VALUE_ARRAY) {
        memcpy(&entry->element_type, entry->value, 4);
        entry->count = ofr_gguf_load_u64(entry->value + 4);
        entry->value += 12;
    }
}

static int compare_entries(const void *a, const void *b)
{
    const gguf_entry *x = a, *y = b;
    size_t n = x->key.size < y->key.size ? x->key.size : y->key.size;
    int order = memcmp(x->key.data, y->key.data, n);
    return order ? order : (x->key.size > y->key.size) - (x->key.size < y->key.size);
}

static int parse_metadata(ofr_gguf *gguf, cursor *in, uint64_t count)
{
    gguf->entries = calloc(count > 0 ? (size_t)count : 1, sizeof *gguf->entries);
    if (!gguf->entries)
        return ofr_fail(in->err, OFR_ENOMEM, "%s: out of memory", gguf->path);
    for (uint64_t i = 0; i < count && in->result == 0; i++)
        parse_entry(in, &gguf->entries[i]);
    if (in->result < 0)
        return in->result;
    gguf->n_entries = (size_t)count;
    qsort(gguf->entries, gguf->n_entries, sizeof *gguf->entries, compare_entries);
    for (size_t i = 1; i < gguf->n_entries; i++)
        if (compare_entries(&gguf->entries[i - 1], &gguf->entries[i]) == 0)
            return ofr_fail(in->err, OFR_EFORMAT, "%s: is corrupt: metadata '%.*s' appears twice",
                            gguf->path, (int)(gguf->entries[i].key.size & 0xff),
                            gguf->entries[i].key.data);
    return 0;
}

/* ---- tensors ---- */

static void parse_tensor(cursor *in, ofr_gguf_tensor *tensor)
{
    ofr_gguf_string name = take_string(in);
    if (in->result == 0 &&
        (name.size == 0 || name.size >= sizeof tensor->name || memchr(name.data, '\0', name.size)))
        fail_at(in, "a tensor's name has the bad size", name.size);
    tensor->n_dims = take_u32(in);
    if (in->result == 0 && (tensor->n_dims < 1 || tensor->n_dims > OFR_GGUF_MAX_DIMENSIONS))
        fail_at(in, "a tensor has the bad dimension count", tensor->n_dims);
    for (uint32_t i = 0; i < OFR_GGUF_MAX_DIMENSIONS; i++)
        tensor->dims[i] = in->result == 0 && i < tensor->n_dims ? take_u64(in) : 1;
    uint32_t type = take_u32(in);
    tensor->offset = take_u64(in);
    if (in->result < 0)
        return;
    memcpy(tensor->name, name.data, name.size);
    const char *path = in->gguf->path;
    if (!ofr_gguf_type_name(type)) {
        in->result = ofr_fail(in->err, OFR_EUNSUPPORTED,
                              "%s: tensor '%s' has type %u, which this build cannot read; known "
                              "are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K",
                              path, tensor->name, type);
        return;
    }
    tensor->type = (enum ofr_gguf_type)type;
    uint64_t block = ofr_gguf_type_block_elements(type);
    uint64_t elements;
    tensor->rows = 1;
    bool overflow = tensor->dims[0] == 0;
    for (uint32_t i = 1; i < OFR_GGUF_MAX_DIMENSIONS; i++)
        overflow |= tensor->dims[i] == 0 ||
                    __builtin_mul_overflow(tensor->rows, tensor->dims[i], &tensor->rows);
    overflow |= tensor->dims[0] % block != 0;
    overflow |= __builtin_mul_overflow(tensor->dims[0] / block, ofr_gguf_type_block_bytes(type),
                                       &tensor->row_bytes);
    overflow |= __builtin_mul_overflow(tensor->rows, tensor->row_bytes, &tensor->bytes);
    overflow |= __builtin_mul_overflow(tensor->rows, tensor->dims[0], &elements);
    if (overflow)
        in->result =
            ofr_fail(in->err, OFR_EFORMAT,
                     "%s: is corrupt: tensor '%s' has the absurd shape [%llu, %llu, %llu, "
                     "%llu] for %s",
                     path, tensor->name, (unsigned long long)tensor->dims[0],
                     (unsigned long long)tensor->dims[1], (unsigned long long)tensor->dims[2],
                     (unsigned long long)tensor->dims[3], ofr_gguf_type_name(type));
}

static int compare_offsets(const void *a, const void *b)
{
    const ofr_gguf_tensor *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static int compare_tensor_names(const void *a, const void *b)
{
    const ofr_gguf_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Offsets become offsets in the file; each tensor must lie in it, aligned, apart from the others.
 */
static int place_tensors(ofr_gguf *gguf, uint64_t begin, uint32_t alignment, ofr_error *err)
{
    uint64_t available = begin <= gguf->file_size ? gguf->file_size - begin : 0;
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        ofr_gguf_tensor *t = &gguf->tensors[i];
        if (t->offset % alignment != 0)
            return ofr_fail(err, OFR_EFORMAT,
                            "%s: is corrupt: tensor '%s' has offset %llu, not a multiple of %u",
                            gguf->path, t->name, (unsigned long long)t->offset, alignment);
        if (t->offset > available || t->bytes > available - t->offset)
            return ofr_fail(err, OFR_EFORMAT,
                            "%s: is truncated or corrupt: tensor '%s' ends outside the file of "
                            "%llu bytes; get the file again",
                            gguf->path, t->name, (unsigned long long)gguf->file_size);
        t->offset += begin;
    }
    qsort(gguf->tensors, gguf->n_tensors, sizeof *gguf->tensors, compare_offsets);
    for (size_t i = 1; i < gguf->n_tensors; i++) {
        const ofr_gguf_tensor *before = &gguf->tensors[i - 1];
        if (before->offset + before->bytes > gguf->tensors[i].offset)
            return ofr_fail(err, OFR_EFORMAT, "%s: is corrupt: tensors '%s' and '%s' overlap",
                            gguf->path, before->name, gguf->tensors[i].name);
    }
    qsort(gguf->tensors, gguf->n_tensors, sizeof *gguf->tensors, compare_tensor_names);
    for (size_t i = 1; i < gguf->n_tensors; i++)
        if (strcmp(gguf->tensors[i - 1].name, gguf->tensors[i].name) == 0)
            return ofr_fail(err, OFR_EFORMAT, "%s: is corrupt: tensor '%s' appears twice",
                            gguf->path, gguf->tensors[i].name);
    return 0;
}

static int parse_tensors(ofr_gguf *gguf, cursor *in, uint64_t count)
{
    gguf->tensors = calloc(count > 0 ? (size_t)count : 1, sizeof *gguf->tensors);
    if (!gguf->tensors)
        return ofr_fail(in->err, OFR_ENOMEM, "%s: out of memory", gguf->path);
    for (uint64_t i = 0; i < count && in->result == 0; i++)
        parse_tensor(in, &gguf->tensors[i]);
    if (in->result < 0)
        return in->result;
    gguf->n_tensors = (size_t)count;
    uint32_t alignment = 32;
    int r = ofr_gguf_get_u32(gguf, "general.alignment", &alignment, in->err);
    if (r < 0)
        return r;
    if (alignment == 0 || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: is corrupt: general.alignment is %u", gguf->path,
                        alignment);
    uint64_t begin = (in->at + alignment - 1) / alignment * alignment;
    return place_tensors(gguf, begin, alignment, in->err);
}

static int parse(ofr_gguf *gguf, ofr_error *err)
{
    cursor in = {.gguf = gguf, .err = err};
    if (gguf->size < 4 || memcmp(gguf->data, "GGUF", 4) != 0)
        return ofr_fail(err, OFR_EFORMAT, "%s: %s", gguf->path,
                        gguf->size == 0 ? "is empty; get the file again"
                                        : "is not a GGUF file (it does not begin with 'GGUF')");
    in.at = 4;
    gguf->version = take_u32(&in);
    if (in.result == 0 && gguf->version != 0 && (gguf->version & 0xffff) == 0)
        return ofr_fail(err, OFR_EVERSION,
                        "%s: is a big-endian GGUF file; get the little-endian "
                        "one",
                        gguf->path);
    if (in.result == 0 && gguf->version != 2 && gguf->version != 3)
        return ofr_fail(err, OFR_EVERSION, "%s: is GGUF version %u, this build reads 2 and 3",
                        gguf->path, gguf->version);
    uint64_t n_tensors = take_u64(&in), n_entries = take_u64(&in);
    if (in.result < 0)
        return in.result;
    if (n_tensors > OFR_GGUF_MAX_TENSORS || n_tensors > gguf->file_size / 24)
        return fail_at(&in, "the tensor count is the absurd", n_tensors);
    if (n_entries > OFR_GGUF_MAX_METADATA || n_entries > gguf->file_size / 13)
        return fail_at(&in, "the metadata count is the absurd", n_entries);
    int r = parse_metadata(gguf, &in, n_entries);
    return r < 0 ? r : parse_tensors(gguf, &in, n_tensors);
}

static int open_parsed(ofr_gguf *gguf, ofr_gguf **ret_gguf, ofr_error *err)
{
    int r = parse(gguf, err);
    if (r < 0) {
        ofr_gguf_close(gguf);
        return r;
    }
    *ret_gguf = gguf;
    return 0;
}

static int new_gguf(const char *path, ofr_gguf **ret_gguf, ofr_error *err)
{
    ofr_gguf *gguf = calloc(1, sizeof *gguf);
    char *copy = strdup(path);
    if (!gguf || !copy) {
        free(gguf);
        free(copy);
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    }
    gguf->path = copy;
    gguf->map = (ofr_file_map)OFR_FILE_MAP_EMPTY;
    *ret_gguf = gguf;
    return 0;
}

int ofr_gguf_open(const char *path, ofr_gguf **ret_gguf, ofr_error *err)
{
    ofr_gguf *gguf = NULL;
    int r = new_gguf(path, &gguf, err);
    if (r < 0)
        return r;
    r = ofr_file_map_open(path, &gguf->map, err);
    if (r < 0) {
        ofr_gguf_close(gguf);
        return r;
    }
    gguf->data = gguf->map.data;
    gguf->size = gguf->file_size = gguf->map.size;
    return open_parsed(gguf, ret_gguf, err);
}

int ofr_gguf_open_memory(const char *name, const void *data, size_t size, ofr_gguf **ret_gguf,
                         ofr_error *err)
{
    ofr_gguf *gguf = NULL;
    int r = new_gguf(name, &gguf, err);
    if (r < 0)
        return r;
    gguf->data = data;
    gguf->size = gguf->file_size = size;
    return open_parsed(gguf, ret_gguf, err);
}

int ofr_gguf_open_header(const char *name, const void *data, size_t size, uint64_t file_size,
                         ofr_gguf **ret_gguf, ofr_error *err)
{
    ofr_gguf *gguf = NULL;
    int r = new_gguf(name, &gguf, err);
    if (r < 0)
        return r;
    gguf->data = data;
    gguf->size = size;
    gguf->file_size = file_size;
    return open_parsed(gguf, ret_gguf, err);
}

ofr_gguf *ofr_gguf_close(ofr_gguf *gguf)
{
    if (!gguf)
        return NULL;
    ofr_file_map_close(&gguf->map);
    free(gguf->entries);
    free(gguf->tensors);
    free(gguf->path);
    free(gguf);
    return NULL;
}

const char *ofr_gguf_path(const ofr_gguf *gguf)
{
    return gguf->path;
}

uint32_t ofr_gguf_version(const ofr_gguf *gguf)
{
    return gguf->version;
}

uint64_t ofr_gguf_size(const ofr_gguf *gguf)
{
    return gguf->file_size;
}

int ofr_gguf_fd(const ofr_gguf *gguf)
{
    return gguf->map.fd;
}

size_t ofr_gguf_tensor_count(const ofr_gguf *gguf)
{
    return gguf->n_tensors;
}

const ofr_gguf_tensor *ofr_gguf_tensor_at(const ofr_gguf *gguf, size_t index)
{
    return index < gguf->n_tensors ? &gguf->tensors[index] : NULL;
}

static int compare_name_with_tensor(const void *name, const void *tensor)
{
    return strcmp(name, ((const ofr_gguf_tensor *)tensor)->name);
}

const ofr_gguf_tensor *ofr_gguf_find_tensor(const ofr_gguf *gguf, const char *name)
{
    return bsearch(name, gguf->tensors, gguf->n_tensors, sizeof *gguf->tensors,
                   compare_name_with_tensor);
}

int ofr_gguf_read(const ofr_gguf *gguf, const ofr_gguf_tensor *tensor, uint64_t offset, void *data,
                  size_t size, ofr_error *err)
{
    if (offset > tensor->bytes || size > tensor->bytes - offset)
        return ofr_fail(err, OFR_EINVAL, "%s: tensor '%s' is read beyond its end", gguf->path,
                        tensor->name);
    if (gguf->map.fd >= 0)
        return ofr_file_pread(gguf->map.fd, gguf->path, data, size, tensor->offset + offset, err);
    if (tensor->offset + offset + size > gguf->size)
        return ofr_fail(err, OFR_EINVAL, "%s: only the header was read", gguf->path);
    memcpy(data, gguf->data + tensor->offset + offset, size);
    return 0;
}
