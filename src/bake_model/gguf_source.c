/* Reads the headers of GGUF files, wherever they are, and takes from them what a bake needs. */
#include "bake_model/gguf_source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/gguf_model.h"
#include "bake_model/gguf_vocab.h"

enum {
    FIRST_BYTES = 4 << 20,
    MAX_HEADER_BYTES = 256 << 20,
    SUFFIX = 20 /* -00001-of-00002.gguf */
};

/* The headers of all parts. */
typedef struct headers {
    ofr_gguf **parts; /* [n] */
    void **data;      /* [n] what they borrow */
    size_t n;
} headers;

/* Reads more of the file until the header is complete. *ret_data stays the caller's in any case. */
static int open_header(const ofr_source *files, uint32_t number, void **ret_data,
                       ofr_gguf **ret_gguf, ofr_error *err)
{
    const ofr_source_file *file = &files->files[number];
    size_t have = 0;
    for (size_t wanted = FIRST_BYTES;; wanted *= 4) {
        size_t size = file->size < wanted ? (size_t)file->size : wanted;
        char *data = realloc(*ret_data, size + 1);
        if (!data)
            return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", file->path);
        *ret_data = data;
        int r = ofr_source_read(files, number, have, data + have, size - have, err);
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

static int load(const ofr_bake_options *options, const headers *all, ofr_bake_source *source,
                ofr_error *err)
{
    int r = 0;
    size_t size = 0;
    const ofr_gguf *gguf = all->parts[0];
    source->format = "gguf";
    if (!options->tokenizer_only)
        r = ofr_gguf_model_init(&source->model, (const ofr_gguf *const *)all->parts, all->n,
                                options->group_size, options->max_context, err);
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

/* ---- parts ---- */

/* The numbers in "...-00002-of-00003.gguf". */
static bool parse_part(const char *name, unsigned *ret_number, unsigned *ret_count)
{
    size_t n = strlen(name);
    int end = 0;
    return n > SUFFIX &&
           sscanf(name + n - SUFFIX, "-%5u-of-%5u.gguf%n", ret_number, ret_count, &end) == 2 &&
           end == SUFFIX;
}

bool ofr_gguf_is_later_part(const char *name)
{
    unsigned number, count;
    return parse_part(name, &number, &count) && number > 1 && number <= count;
}

/* split.count; 1 where the file is whole. */
static int part_count(const ofr_gguf *gguf, uint32_t *ret_count, ofr_error *err)
{
    *ret_count = 1;
    int r = ofr_gguf_get_u32(gguf, "split.count", ret_count, err);
    if (r < 0)
        return r;
    if (*ret_count > OFR_SOURCE_MAX_FILES)
        return ofr_fail(err, OFR_ELIMIT, "%s: split into %u files; at most %d are read",
                        ofr_gguf_path(gguf), *ret_count, OFR_SOURCE_MAX_FILES);
    *ret_count = *ret_count ? *ret_count : 1;
    return 0;
}

/* What the first file says of itself must be what its name says. */
static int check_first(const ofr_gguf *gguf, const char *name, uint32_t count, ofr_error *err)
{
    uint32_t number = 0;
    unsigned named = 0, named_count = 0;
    int r = ofr_gguf_get_u32(gguf, "split.no", &number, err);
    if (r < 0)
        return r;
    if (!parse_part(name, &named, &named_count) || named_count != count || named != number + 1)
        return ofr_fail(err, OFR_EFORMAT,
                        "%s: is part %u of a model split into %u files; where the others are "
                        "cannot be told from its name, which should end in -%05u-of-%05u.gguf",
                        ofr_gguf_path(gguf), number + 1, count, number + 1, count);
    if (number > 0)
        return ofr_fail(err, OFR_EINVAL,
                        "%s: is part %u of %u of a split model; name the first: %.*s-00001-of-%05u"
                        ".gguf",
                        ofr_gguf_path(gguf), number + 1, count, (int)(strlen(name) - SUFFIX), name,
                        count);
    return 0;
}

static int check_part(const headers *all, size_t index, ofr_error *err)
{
    const ofr_gguf *part = all->parts[index];
    uint32_t number = UINT32_MAX, count = 0;
    int r = ofr_gguf_get_u32(part, "split.no", &number, err);
    if (r >= 0)
        r = ofr_gguf_get_u32(part, "split.count", &count, err);
    if (r < 0)
        return r;
    if (number != index || count != all->n)
        return ofr_fail(err, OFR_EFORMAT,
                        "%s: should be part %zu of %zu, but says (split.no, split.count) that it "
                        "is another: the parts are not of one model",
                        ofr_gguf_path(part), index + 1, all->n);
    for (size_t i = 0; i < ofr_gguf_tensor_count(part); i++) {
        const char *name = ofr_gguf_tensor_at(part, i)->name;
        for (size_t before = 0; before < index; before++)
            if (ofr_gguf_find_tensor(all->parts[before], name))
                return ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' is in %s, too",
                                ofr_gguf_path(part), name, ofr_gguf_path(all->parts[before]));
    }
    return 0;
}

static int check_total(const headers *all, ofr_error *err)
{
    uint32_t wanted = 0;
    size_t n = 0;
    for (size_t i = 0; i < all->n; i++)
        n += ofr_gguf_tensor_count(all->parts[i]);
    int r = ofr_gguf_get_u32(all->parts[0], "split.tensors.count", &wanted, err);
    if (r > 0 && wanted != n)
        return ofr_fail(err, OFR_EFORMAT,
                        "%s: the model has %u tensors (split.tensors.count), its %zu parts hold "
                        "%zu: the parts are not of one model",
                        ofr_gguf_path(all->parts[0]), wanted, all->n, n);
    return r < 0 ? r : 0;
}

static int open_parts(const char *name, ofr_gguf_add add, void *context, ofr_source *files,
                      headers *all, ofr_error *err)
{
    size_t length = strlen(name);
    char *other = malloc(length + 1);
    int r = other ? 0 : ofr_fail(err, OFR_ENOMEM, "%s: out of memory", name);
    for (size_t i = 1; i < all->n && r == 0; i++) {
        uint32_t file = 0;
        snprintf(other, length + 1, "%.*s-%05zu-of-%05zu.gguf", (int)(length - SUFFIX), name, i + 1,
                 all->n);
        r = add(context, other, files, &file, err);
        if (r == OFR_ENOENT)
            r = ofr_fail(err, r, "%s: is missing: it is part %zu of %zu of a split model", other,
                         i + 1, all->n);
        if (r == 0)
            r = open_header(files, file, &all->data[i], &all->parts[i], err);
        if (r == 0)
            r = check_part(all, i, err);
    }
    free(other);
    return r < 0 ? r : check_total(all, err);
}

static int open_all(const char *name, ofr_gguf_add add, void *context, ofr_source *files,
                    headers *all, ofr_error *err)
{
    uint32_t file = 0, count = 1;
    void *data = NULL;
    ofr_gguf *first = NULL;
    int r = add(context, name, files, &file, err);
    if (r == 0)
        r = open_header(files, file, &data, &first, err);
    if (r == 0)
        r = part_count(first, &count, err);
    if (r == 0 && count > 1)
        r = check_first(first, name, count, err);
    all->parts = calloc(count, sizeof *all->parts);
    all->data = calloc(count, sizeof *all->data);
    if (r == 0 && (!all->parts || !all->data))
        r = ofr_fail(err, OFR_ENOMEM, "%s: out of memory", name);
    if (r < 0) {
        ofr_gguf_close(first);
        free(data);
        return r;
    }
    all->n = count;
    all->parts[0] = first;
    all->data[0] = data;
    return count > 1 ? open_parts(name, add, context, files, all, err) : 0;
}

int ofr_gguf_source_load(const ofr_bake_options *options, const char *name, ofr_gguf_add add,
                         void *context, ofr_bake_source *source, ofr_error *err)
{
    headers all = {0};
    int r = open_all(name, add, context, &source->files, &all, err);
    if (r == 0)
        r = load(options, &all, source, err);
    for (size_t i = 0; i < all.n; i++) {
        ofr_gguf_close(all.parts[i]);
        free(all.data[i]);
    }
    free(all.parts);
    free(all.data);
    return r;
}
