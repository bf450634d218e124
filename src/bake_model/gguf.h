/* GGUF files, versions 2 and 3, little-endian (ggml's documentation docs/gguf.md):
 *
 *   offset 0   u32  magic "GGUF"
 *          4   u32  version
 *          8   u64  n_tensors
 *         16   u64  n_metadata
 *         24   metadata [n_metadata]:  string key, u32 value type, value
 *              tensors [n_tensors]:    string name, u32 n_dims, u64 dims[n_dims], u32 type, u64
 *                                      offset from the start of the data
 *              padding to a multiple of general.alignment (32 where it is not given)
 *              data: each tensor at its offset, a multiple of the alignment
 *
 *   string: u64 size, bytes. array: u32 element type, u64 count, elements. bool: one byte, 0 or 1.
 *   dims[0] is the fastest: the length of a row.
 *
 * The header is mapped and every count, size, offset and type in it is checked when it is opened;
 * afterwards lookups cannot leave the file. Tensor data is not mapped: ofr_gguf_read reads it, so
 * that a large file costs no resident memory. Immutable after opening: any thread may read. */
#ifndef OFR_BAKE_MODEL_GGUF_H
#define OFR_BAKE_MODEL_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    OFR_GGUF_MAX_METADATA = 1 << 16,
    OFR_GGUF_MAX_TENSORS = 1 << 16,
    OFR_GGUF_MAX_ARRAY = 1 << 24, /* elements of an array */
    OFR_GGUF_MAX_DIMENSIONS = 4,
};

enum ofr_gguf_value_type {
    OFR_GGUF_VALUE_U8 = 0,
    OFR_GGUF_VALUE_I8 = 1,
    OFR_GGUF_VALUE_U16 = 2,
    OFR_GGUF_VALUE_I16 = 3,
    OFR_GGUF_VALUE_U32 = 4,
    OFR_GGUF_VALUE_I32 = 5,
    OFR_GGUF_VALUE_F32 = 6,
    OFR_GGUF_VALUE_BOOL = 7,
    OFR_GGUF_VALUE_STRING = 8,
    OFR_GGUF_VALUE_ARRAY = 9,
    OFR_GGUF_VALUE_U64 = 10,
    OFR_GGUF_VALUE_I64 = 11,
    OFR_GGUF_VALUE_F64 = 12,
};

/* X(symbol, number in the file, name, elements of a block, bytes of a block) */
#define OFR_GGUF_TYPE_TABLE(X)                                                                     \
    X(OFR_GGUF_TYPE_F32, 0, "F32", 1, 4)                                                           \
    X(OFR_GGUF_TYPE_F16, 1, "F16", 1, 2)                                                           \
    X(OFR_GGUF_TYPE_Q4_0, 2, "Q4_0", 32, 18)                                                       \
    X(OFR_GGUF_TYPE_Q4_1, 3, "Q4_1", 32, 20)                                                       \
    X(OFR_GGUF_TYPE_Q5_0, 6, "Q5_0", 32, 22)                                                       \
    X(OFR_GGUF_TYPE_Q5_1, 7, "Q5_1", 32, 24)                                                       \
    X(OFR_GGUF_TYPE_Q8_0, 8, "Q8_0", 32, 34)                                                       \
    X(OFR_GGUF_TYPE_Q2_K, 10, "Q2_K", 256, 84)                                                     \
    X(OFR_GGUF_TYPE_Q3_K, 11, "Q3_K", 256, 110)                                                    \
    X(OFR_GGUF_TYPE_Q4_K, 12, "Q4_K", 256, 144)                                                    \
    X(OFR_GGUF_TYPE_Q5_K, 13, "Q5_K", 256, 176)                                                    \
    X(OFR_GGUF_TYPE_Q6_K, 14, "Q6_K", 256, 210)                                                    \
    X(OFR_GGUF_TYPE_BF16, 30, "BF16", 1, 2)
enum ofr_gguf_type {
#define OFR_GGUF_TYPE_ENUM(symbol, number, name, elements, bytes) symbol = (number),
    OFR_GGUF_TYPE_TABLE(OFR_GGUF_TYPE_ENUM)
#undef OFR_GGUF_TYPE_ENUM
};

/* "Q4_K"; NULL for a number that is not in the table. */
const char *ofr_gguf_type_name(uint32_t type);
uint32_t ofr_gguf_type_block_elements(uint32_t type);
uint32_t ofr_gguf_type_block_bytes(uint32_t type);

typedef struct ofr_gguf_string {
    const char *data; /* in the mapping, not NUL-terminated */
    size_t size;
} ofr_gguf_string;

typedef struct ofr_gguf_tensor {
    char name[256];
    enum ofr_gguf_type type;
    uint32_t n_dims;
    uint64_t dims[OFR_GGUF_MAX_DIMENSIONS]; /* dims[0] is a row; unused ones are 1 */
    uint64_t rows;                          /* product of the others */
    uint64_t row_bytes;
    uint64_t offset; /* in the file */
    uint64_t bytes;
} ofr_gguf_tensor;

typedef struct ofr_gguf ofr_gguf;

int ofr_gguf_open(const char *path, ofr_gguf **ret_gguf, ofr_error *err);
/* A whole file in memory (borrowed until close); `name` is for errors and is copied. */
int ofr_gguf_open_memory(const char *name, const void *data, size_t size, ofr_gguf **ret_gguf,
                         ofr_error *err);
/* The first `size` bytes of a file of `file_size`: OFR_EAGAIN where the header needs more of them.
 * Tensors cannot be read from it. */
int ofr_gguf_open_header(const char *name, const void *data, size_t size, uint64_t file_size,
                         ofr_gguf **ret_gguf, ofr_error *err);
ofr_gguf *ofr_gguf_close(ofr_gguf *gguf);

const char *ofr_gguf_path(const ofr_gguf *gguf);
uint32_t ofr_gguf_version(const ofr_gguf *gguf);
uint64_t ofr_gguf_size(const ofr_gguf *gguf);
int ofr_gguf_fd(const ofr_gguf *gguf); /* -1 for memory */
size_t ofr_gguf_tensor_count(const ofr_gguf *gguf);
const ofr_gguf_tensor *ofr_gguf_tensor_at(const ofr_gguf *gguf, size_t index);
const ofr_gguf_tensor *ofr_gguf_find_tensor(const ofr_gguf *gguf, const char *name); /* or NULL */

/* Bytes [offset, offset + size) of the tensor's data. */
int ofr_gguf_read(const ofr_gguf *gguf, const ofr_gguf_tensor *tensor, uint64_t offset, void *data,
                  size_t size, ofr_error *err);

/* Metadata. Each getter returns 1 and writes the value, 0 where the key is absent (nothing is
 * written), or a negative code where the value is of another type or out of range. Integers of any
 * width are taken where they fit; an array whose elements are all equal counts as that element. */
bool ofr_gguf_has(const ofr_gguf *gguf, const char *key);
int ofr_gguf_get_u32(const ofr_gguf *gguf, const char *key, uint32_t *ret_value, ofr_error *err);
int ofr_gguf_get_float(const ofr_gguf *gguf, const char *key, float *ret_value, ofr_error *err);
int ofr_gguf_get_bool(const ofr_gguf *gguf, const char *key, bool *ret_value, ofr_error *err);
int ofr_gguf_get_string(const ofr_gguf *gguf, const char *key, ofr_gguf_string *ret_value,
                        ofr_error *err);
/* Arrays; *ret_values is malloc'ed, the caller frees it. */
int ofr_gguf_get_strings(const ofr_gguf *gguf, const char *key, ofr_gguf_string **ret_values,
                         size_t *ret_count, ofr_error *err);
int ofr_gguf_get_floats(const ofr_gguf *gguf, const char *key, float **ret_values,
                        size_t *ret_count, ofr_error *err);
int ofr_gguf_get_i32s(const ofr_gguf *gguf, const char *key, int32_t **ret_values,
                      size_t *ret_count, ofr_error *err);
/* An array of u8 or i8, in place. */
int ofr_gguf_get_bytes(const ofr_gguf *gguf, const char *key, ofr_gguf_string *ret_value,
                       ofr_error *err);

#endif
