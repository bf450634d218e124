/* What the GGUF parser (gguf.c) and the metadata getters (gguf_metadata.c) share. */
#ifndef OFR_BAKE_MODEL_GGUF_INTERNAL_H
#define OFR_BAKE_MODEL_GGUF_INTERNAL_H

#include "bake_model/gguf.h"
#include "base/file.h"

typedef struct gguf_entry {
    ofr_gguf_string key;
    uint32_t type;
    uint32_t element_type;      /* arrays */
    uint64_t count;             /* arrays */
    const unsigned char *value; /* arrays: the first element; checked to the end */
} gguf_entry;

struct ofr_gguf {
    char *path;
    ofr_file_map map; /* empty for memory */
    const unsigned char *data;
    uint64_t size;      /* of `data` */
    uint64_t file_size; /* of the whole file: more, where only its header is at hand */
    uint32_t version;
    gguf_entry *entries; /* [n_entries], sorted by key */
    size_t n_entries;
    ofr_gguf_tensor *tensors; /* [n_tensors], sorted by name */
    size_t n_tensors;
};

/* Bytes of a scalar; 0 for strings, arrays and unknown types. */
size_t ofr_gguf_scalar_bytes(uint32_t type);
uint64_t ofr_gguf_load_u64(const unsigned char *data);

#endif
