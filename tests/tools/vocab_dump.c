/* Reading the vocabularies that the Python tests write down. */
#include "vocab_dump.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct vocab_dump {
    ofr_vocab vocab;
    char *data;
    char *pre;
    ofr_bytes *texts;
    float *scores;
    int32_t *types;
};

typedef struct reader {
    const char *at, *end;
    bool failed;
} reader;

int read_whole_file(const char *path, char **ret_data, size_t *ret_size, ofr_error *err)
{
    FILE *file = fopen(path, "rbe");
    if (!file)
        return ofr_fail_errno(err, errno, "cannot open %s", path);
    char *data = NULL;
    size_t size = 0, capacity = 0, got;
    do {
        if (size == capacity) {
            capacity = capacity ? capacity * 2 : 1 << 16;
            char *grown = realloc(data, capacity);
            if (!grown) {
                free(data);
                fclose(file);
                return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
            }
            data = grown;
        }
        got = fread(data + size, 1, capacity - size, file);
        size += got;
    } while (got);
    fclose(file);
    *ret_data = data;
    *ret_size = size;
    return 0;
}

static const char *take(reader *from, size_t size)
{
    if (from->failed || (size_t)(from->end - from->at) < size) {
        from->failed = true;
        return NULL;
    }
    const char *taken = from->at;
    from->at += size;
    return taken;
}

static int32_t take_i32(reader *from)
{
    int32_t value = -1;
    const char *bytes = take(from, sizeof value);
    if (bytes)
        memcpy(&value, bytes, sizeof value);
    return value;
}

static void take_texts(reader *from, ofr_bytes *texts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int32_t size = take_i32(from);
        texts[i].size = size > 0 ? (size_t)size : 0;
        texts[i].data = take(from, texts[i].size);
        if (size < 0)
            from->failed = true;
    }
}

/* Numbers at any alignment, copied to where they may be read. */
static void *take_array(reader *from, size_t size)
{
    const char *bytes = take(from, size);
    void *copy = bytes ? malloc(size ? size : 1) : NULL;
    if (copy)
        memcpy(copy, bytes, size);
    else
        from->failed = true;
    return copy;
}

void vocab_dump_free(vocab_dump *dump)
{
    if (!dump)
        return;
    free(dump->data);
    free(dump->pre);
    free(dump->texts);
    free(dump->scores);
    free(dump->types);
    free(dump);
}

static void fill(vocab_dump *dump, reader *from)
{
    ofr_vocab *vocab = &dump->vocab;
    int32_t fields[11];
    for (size_t i = 0; i < 11; i++)
        fields[i] = take_i32(from);
    int32_t flags = fields[8];
    size_t n = fields[1] > 0 ? (size_t)fields[1] : 0, m = fields[2] > 0 ? (size_t)fields[2] : 0;
    if (fields[9] < 0 || fields[10] < 0 || n > (1 << 24) || m > (1 << 24)) {
        from->failed = true;
        return;
    }
    const char *pre = take(from, (size_t)fields[9]);
    dump->pre = pre ? strndup(pre, (size_t)fields[9]) : NULL;
    ofr_vocab_init(vocab, (enum ofr_vocab_kind)fields[0], dump->pre);
    vocab->precompiled_charsmap_size = (size_t)fields[10];
    vocab->precompiled_charsmap = take(from, (size_t)fields[10]);
    dump->texts = calloc(n + m + 1, sizeof *dump->texts);
    if (!dump->texts) {
        from->failed = true;
        return;
    }
    take_texts(from, dump->texts, n + m);
    vocab->n_tokens = (int32_t)n;
    vocab->tokens = dump->texts;
    vocab->n_merges = m;
    vocab->merges = dump->texts + n;
    vocab->bos_id = fields[3];
    vocab->eos_id = fields[4];
    vocab->unk_id = fields[5];
    vocab->pad_id = fields[6];
    vocab->eot_id = fields[7];
    vocab->add_bos = flags & VOCAB_DUMP_ADD_BOS;
    vocab->add_eos = flags & VOCAB_DUMP_ADD_EOS;
    vocab->add_space_prefix = flags & VOCAB_DUMP_SPACE_PREFIX;
    vocab->prefix_first_only = flags & VOCAB_DUMP_PREFIX_FIRST;
    vocab->prefix_unless_space = flags & VOCAB_DUMP_PREFIX_UNLESS_SPACE;
    vocab->remove_extra_whitespaces = flags & VOCAB_DUMP_REMOVE_EXTRA_WHITESPACES;
    vocab->ignore_merges = flags & VOCAB_DUMP_IGNORE_MERGES;
    vocab->byte_fallback = flags & VOCAB_DUMP_BYTE_FALLBACK;
    vocab->normalization = flags & VOCAB_DUMP_NFC    ? OFR_NORMALIZATION_NFC
                           : flags & VOCAB_DUMP_NFKC ? OFR_NORMALIZATION_NFKC
                                                     : OFR_NORMALIZATION_NONE;
    if (flags & VOCAB_DUMP_SCORES)
        vocab->scores = dump->scores = take_array(from, n * sizeof(float));
    if (flags & VOCAB_DUMP_TYPES)
        vocab->types = dump->types = take_array(from, n * sizeof(int32_t));
    if (flags & VOCAB_DUMP_STRIP)
        vocab->strip = (const uint8_t *)take(from, n);
}

int vocab_dump_read(const char *path, vocab_dump **ret_dump, ofr_error *err)
{
    vocab_dump *dump = calloc(1, sizeof *dump);
    if (!dump)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    size_t size;
    int rc = read_whole_file(path, &dump->data, &size, err);
    if (!rc) {
        reader from = {dump->data, dump->data + size, false};
        const char *magic = take(&from, 8);
        if (magic && !memcmp(magic, "OFRVOCAB", 8))
            fill(dump, &from);
        else
            from.failed = true;
        if (from.failed || from.at != from.end)
            rc =
                ofr_fail(err, OFR_EFORMAT, "%s: not a vocabulary as vocab_dump.py writes it", path);
    }
    if (rc) {
        vocab_dump_free(dump);
        return rc;
    }
    *ret_dump = dump;
    return 0;
}

const ofr_vocab *vocab_dump_vocab(const vocab_dump *dump)
{
    return &dump->vocab;
}
