/* Where a bake reads from: the files of one model, on this machine or behind a network, and the
 * tensors that lie in them. Immutable once it is filled; any thread may read. */
#ifndef OFR_BAKE_MODEL_SOURCE_H
#define OFR_BAKE_MODEL_SOURCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bake_model/gguf.h"
#include "base/sha256.h"

enum { OFR_SOURCE_MAX_FILES = 1024 };

typedef struct ofr_source_file {
    char *name;    /* as model.json lists it; owned */
    char *path;    /* for errors: the local path, or what the hub calls it; owned */
    int fd;        /* local, owned; -1: fetched through ofr_source.fetch */
    uint64_t size; /* bytes */
    int64_t mtime; /* local: nanoseconds; a change means another source */
    char sha256[OFR_SHA256_HEX_SIZE]; /* that the hub promises; "": it says nothing */
} ofr_source_file;

/* Bytes [offset, offset + size) of file `file`. Called by several threads at once, each with its
 * own `worker` number below ofr_source.workers; gives up soon after *stop is set. */
typedef int (*ofr_source_fetch)(void *context, unsigned worker, uint32_t file, uint64_t offset,
                                void *data, size_t size, const atomic_bool *stop, ofr_error *err);

typedef struct ofr_source {
    ofr_source_file *files; /* [n_files], owned */
    size_t n_files;
    ofr_source_fetch fetch; /* NULL: all files are local */
    void *context;          /* of `fetch`, borrowed */
    unsigned workers;       /* fetches that may run at once; 0: the default of local files */
} ofr_source;

/* A matrix [rows, k] or a vector [1, k], contiguous. A part of a fused tensor is one of its own. */
typedef struct ofr_source_tensor {
    char name[256]; /* in the source */
    enum ofr_gguf_type type;
    uint32_t file;
    uint64_t rows, k;
    uint64_t row_bytes;
    uint64_t offset; /* in the file */
} ofr_source_tensor;

/* Opens a local file and adds it; *ret_file is its number. */
int ofr_source_add_local(ofr_source *source, const char *path, uint32_t *ret_file, ofr_error *err);
/* Adds a file that `fetch` knows by its number. `sha256` may be "". */
int ofr_source_add_remote(ofr_source *source, const char *name, const char *path, uint64_t size,
                          const char *sha256, uint32_t *ret_file, ofr_error *err);
/* Bytes of a file, local or not. For headers; tensors go through ofr_source_stream. */
int ofr_source_read(const ofr_source *source, uint32_t file, uint64_t offset, void *data,
                    size_t size, ofr_error *err);
/* Accepts a zeroed object. */
void ofr_source_done(ofr_source *source);

#endif
