/* Fuzz target of the safetensors reader: a file of this content, and the same text as an index. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct content {
    const uint8_t *data;
    size_t size;
} content;

static int fetch(void *context, unsigned worker, uint32_t file, uint64_t offset, void *data,
                 size_t size, const atomic_bool *stop, ofr_error *err)
{
    const content *c = context;
    (void)worker, (void)file, (void)stop, (void)err;
    if (offset > c->size || size > c->size - offset)
        abort(); /* the reader asks for what the file has */
    memcpy(data, c->data + offset, size);
    return 0;
}

/* What was accepted covers the file: every tensor within it, none over another. */
static void check(const ofr_safetensors *set, uint64_t size)
{
    uint64_t total = 0;
    for (size_t i = 0; i < set->n; i++) {
        const ofr_safetensor *t = &set->tensors[i];
        if (t->begin > size || t->bytes > size - t->begin)
            abort();
        if (ofr_safetensors_find(set, t->name) != t)
            abort();
        total += t->bytes;
    }
    if (total > size)
        abort();
}

static void read_index(const char *text, size_t size, const ofr_safetensors *set)
{
    char **names = NULL;
    size_t count = 0;
    ofr_error err;
    if (ofr_safetensors_index_files("fuzz", text, size, &names, &count, &err) < 0)
        return;
    for (size_t i = 0; i < count; i++)
        if (strchr(names[i], '/') || names[i][0] == '.')
            abort(); /* it would climb */
    (void)ofr_safetensors_index_check("fuzz", text, size, set, names, count, 0, &err);
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    content c = {data, size};
    ofr_source source = {.fetch = fetch, .context = &c, .workers = 1};
    ofr_safetensors set = {0};
    ofr_error err;
    uint32_t file = 0;
    if (ofr_source_add_remote(&source, "fuzz", "fuzz", size, "", &file, &err) == 0 &&
        ofr_safetensors_read(&set, &source, file, &err) == 0 &&
        ofr_safetensors_sort(&set, "fuzz", &err) == 0)
        check(&set, size);
    read_index((const char *)data, size, &set);
    ofr_safetensors_done(&set);
    ofr_source_done(&source);
    return 0;
}
