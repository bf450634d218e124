/* Reads the header of a GGUF file, wherever it is, and takes from it what a bake needs. */
#include "bake_model/gguf_source.h"

#include <stdlib.h>
#include <string.h>

#include "bake_model/gguf_model.h"
#include "bake_model/gguf_vocab.h"

enum { FIRST_BYTES = 4 << 20, MAX_HEADER_BYTES = 256 << 20 };

/* Reads more of the file until the header is complete. *ret_data stays the caller's in any case. */
static int open_header(const ofr_source *files, void **ret_data, ofr_gguf **ret_gguf,
                       ofr_error *err)
{
    const ofr_source_file *file = &files->files[0];
    size_t have = 0;
    for (size_t wanted = FIRST_BYTES;; wanted *= 4) {
        size_t size = file->size < wanted ? (size_t)file->size : wanted;
        char *data = realloc(*ret_data, size + 1);
        if (!data)
            return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", file->path);
        *ret_data = data;
        int r = ofr_source_read(files, 0, have, data + have, size - have, err);
        if (r == 0)
            r = ofr_gguf_open_header(file->path, data, size, file->size, ret_gguf, err);
        if (r != OFR_EAGAIN)
            return r;
        have = size;
        if (have >= MAX_HEADER_BYTES)
            return ofr_fail(err, OFR_ELIMIT, "%s: the header is longer than %d MiB", file->path,
                            MAX_HEADER_BYTES >> 20);
    }
}

/* *ret_text stays NULL where the key is absent. */
static int copy_text(const ofr_gguf *gguf, const char *key, char **ret_text, size_t *ret_size,
                     ofr_error *err)
{
    ofr_gguf_string text;
    int r = ofr_gguf_get_string(gguf, key, &text, err);
    if (r <= 0)
        return r;
    *ret_text = malloc(text.size + 1);
    if (!*ret_text)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", ofr_gguf_path(gguf));
    memcpy(*ret_text, text.data, text.size);
    (*ret_text)[text.size] = '\0';
    *ret_size = text.size;
    return 0;
}

static int load(const ofr_bake_options *options, const ofr_gguf *gguf, ofr_bake_source *source,
                ofr_error *err)
{
    int r = 0;
    size_t size = 0;
    source->format = "gguf";
    if (!options->tokenizer_only)
        r = ofr_gguf_model_init(&source->model, gguf, 0, options->group_size, options->max_context,
                                err);
    if (r == 0)
        r = ofr_gguf_vocab_build(gguf, &source->tokenizer, &source->tokenizer_size,
                                 &source->n_vocab, err);
    if (r == 0)
        r = copy_text(gguf, "tokenizer.chat_template", &source->chat_template,
                      &source->chat_template_size, err);
    if (r == 0 && copy_text(gguf, "general.name", &source->name, &size, NULL) == OFR_ENOMEM)
        r = OFR_ENOMEM;
    if (r == 0 && copy_text(gguf, "general.license", &source->license, &size, NULL) == OFR_ENOMEM)
        r = OFR_ENOMEM;
    return r;
}

int ofr_gguf_source_load(const ofr_bake_options *options, ofr_bake_source *source, ofr_error *err)
{
    void *header = NULL;
    ofr_gguf *gguf = NULL;
    int r = open_header(&source->files, &header, &gguf, err);
    if (r == 0)
        r = load(options, gguf, source, err);
    ofr_gguf_close(gguf);
    free(header);
    return r;
}
