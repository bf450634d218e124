/* A model as the hub keeps it (config.json, safetensors, tokenizer.json or tokenizer.model, chat
 * template) as the source of a bake, in a directory or behind a network. */
#ifndef OFR_BAKE_MODEL_HF_SOURCE_H
#define OFR_BAKE_MODEL_HF_SOURCE_H

#include "bake_model/bake.h"
#include "bake_model/bake_source.h"

/* Where the files are. */
typedef struct ofr_hf_files {
    const char *where; /* for errors: the directory, or the repository */
    void *context;
    /* A small whole file of at most `cap` bytes: 1, 0 where there is none, or a negative code.
     * *ret_text is malloc'ed and has a NUL behind it. */
    int (*read)(void *context, const char *name, size_t cap, char **ret_text, size_t *ret_size,
                ofr_error *err);
    /* Adds a file to the source; OFR_ENOENT where there is none. */
    int (*add)(void *context, const char *name, ofr_source *source, uint32_t *ret_file,
               ofr_error *err);
} ofr_hf_files;

/* Fills a zeroed source. */
int ofr_hf_source_load_files(const ofr_bake_options *options, const ofr_hf_files *files,
                             ofr_bake_source *source, ofr_error *err);
/* The same from options->model_dir. */
int ofr_hf_source_load(const ofr_bake_options *options, ofr_bake_source *source, ofr_error *err);

#endif
