/* Reader of the safetensors format, in which the hub keeps weights.
 *
 *   byte 0     u64, little-endian: N, bytes of the header
 *   byte 8     header: a JSON object. "__metadata__" is an object of texts; every other member is a
 *              tensor: {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]},
 *              offsets counted from the end of the header
 *   byte 8+N   data. Tensors neither overlap nor leave holes, and end where the file ends
 *
 * A model of several files has an index, model.safetensors.index.json:
 *   {"weight_map": {"<tensor>": "<file>", ...}}
 * whose files lie in the same directory. */
#ifndef OFR_BAKE_MODEL_SAFETENSORS_H
#define OFR_BAKE_MODEL_SAFETENSORS_H

#include "bake_model/source.h"

enum {
    OFR_SAFETENSORS_MAX_HEADER = 32 << 20,
    OFR_SAFETENSORS_MAX_TENSORS = 1 << 17,
    OFR_SAFETENSORS_MAX_DIMENSIONS = 8,
};

typedef struct ofr_safetensor {
    char name[256];
    char dtype[16]; /* "BF16" */
    bool is_float;  /* F32, F16 or BF16: `type` holds it */
    enum ofr_gguf_type type;
    uint32_t n_dims;
    uint64_t shape[OFR_SAFETENSORS_MAX_DIMENSIONS];
    uint64_t begin, bytes; /* begin: in the data; in the file, once it is in a set */
    uint32_t file;
    bool used; /* free for the owner of the set */
} ofr_safetensor;

typedef struct ofr_safetensors {
    ofr_safetensor *tensors; /* [n], sorted by name; owned */
    size_t n;
} ofr_safetensors;

/* Parses the JSON of a header [size] in front of `data_bytes` of data and appends its tensors. */
int ofr_safetensors_parse(ofr_safetensors *set, const char *path, const char *header, size_t size,
                          uint64_t data_bytes, ofr_error *err);
/* Reads the header of file `file` and appends its tensors, with their places in the file. */
int ofr_safetensors_read(ofr_safetensors *set, const ofr_source *source, uint32_t file,
                         ofr_error *err);
/* Sorts; refuses a name that appears twice. To be called once, before any lookup. */
int ofr_safetensors_sort(ofr_safetensors *set, const char *path, ofr_error *err);
ofr_safetensor *ofr_safetensors_find(const ofr_safetensors *set, const char *name); /* or NULL */
void ofr_safetensors_done(ofr_safetensors *set);

/* The files that an index names, without repetition, sorted. *ret_names [*ret_count] and its texts
 * are malloc'ed. Names with a directory part are refused. */
int ofr_safetensors_index_files(const char *path, const char *text, size_t size, char ***ret_names,
                                size_t *ret_count, ofr_error *err);
/* Does the index agree with what the files hold? `names` is what the call above gave; names[i] was
 * read as file first_file + i. */
int ofr_safetensors_index_check(const char *path, const char *text, size_t size,
                                const ofr_safetensors *set, char *const *names, size_t count,
                                uint32_t first_file, ofr_error *err);

#endif
