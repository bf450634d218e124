/* model.json: from the structures to text and back. Internal to src/package.
 *
 * The text begins with the bytes
 *     {\n  "checksum": "<64 hex digits>",
 * where the digits are the sha256 of the whole text with those digits replaced by '0'. Damage is
 * thereby found before anything is parsed. */
#ifndef OFR_PACKAGE_PACKAGE_JSON_H
#define OFR_PACKAGE_PACKAGE_JSON_H

#include <jansson.h>

#include "base/sha256.h"
#include "package/package.h"

enum {
    OFR_PACKAGE_MODEL_JSON_CAP = 64 << 20,
    OFR_PACKAGE_GOLDEN_JSON_CAP = 16 << 20,
    OFR_PACKAGE_MAX_TENSORS = 1 << 17,
    OFR_PACKAGE_MAX_FILES = 1024,
    OFR_PACKAGE_NAME_MAX = 256,
    OFR_PACKAGE_MAX_JSON_DEPTH = 32,
};

typedef struct ofr_package_file {
    char name[64];
    uint64_t size;
    char sha256[OFR_SHA256_HEX_SIZE];
} ofr_package_file;

typedef struct ofr_package_description {
    bool has_params; /* false: a package of a tokenizer only */
    ofr_model_params params;
    ofr_package_file files[OFR_PACKAGE_MAX_FILES];
    size_t n_files;
    ofr_tensor *tensors; /* [n_tensors]; names owned (malloc'ed), data and scales NULL */
    size_t n_tensors;
    char *quantization; /* JSON text, owned */
} ofr_package_description;

/* *ret_text is malloc'ed. `extra` (may be NULL) is an object whose members are added. */
int ofr_package_json_write(const ofr_package_description *description, const json_t *extra,
                           char **ret_text, size_t *ret_size, ofr_error *err);
/* Checks the checksum, the version and every value; tensors are checked against the size of
 * weights.bin among the files (see ofr_package_check_tensors). `path` is for errors. */
int ofr_package_json_read(const char *path, const char *text, size_t size,
                          ofr_package_description *ret_description, ofr_error *err);
/* Accepts a zeroed object. */
void ofr_package_description_done(ofr_package_description *description);

/* Shared by reader and writer. */
int ofr_package_check_params(const char *path, const ofr_model_params *params, ofr_error *err);
/* Name, dtype, shape and group size; fills bytes and scale_bytes, overflow-checked. */
int ofr_package_size_tensor(const char *path, ofr_tensor *tensor, ofr_error *err);
/* Sizes, alignment, bounds within `weights_size`, overlaps, duplicate names. */
int ofr_package_check_tensors(const char *path, const ofr_tensor *tensors, size_t n_tensors,
                              uint64_t weights_size, ofr_error *err);
/* Offset at which `bytes` bytes may start, at or after `offset`. */
uint64_t ofr_package_align(uint64_t offset, uint64_t bytes);
const ofr_package_file *ofr_package_description_file(const ofr_package_description *description,
                                                     const char *name);
/* Greatest nesting of brackets outside strings: bounds the parser's recursion before it starts. */
size_t ofr_package_json_depth(const char *text, size_t size);

#endif
