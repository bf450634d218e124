/* Maps tokenizer.ggml.* metadata to the vocabulary that the tokenizer builder takes. */
#include "bake_model/gguf_vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer_build.h"

enum { MAX_TOKENS = 1 << 22, MAX_MERGES = 1 << 23 };

_Static_assert(sizeof(ofr_gguf_string) == sizeof(ofr_bytes) &&
                   offsetof(ofr_gguf_string, data) == offsetof(ofr_bytes, data) &&
                   offsetof(ofr_gguf_string, size) == offsetof(ofr_bytes, size),
               "strings of a GGUF file are handed to the tokenizer as they are");

typedef struct vocab_arrays {
    ofr_gguf_string *tokens, *merges;
    float *scores;
    int32_t *types;
    char pre[64];
} vocab_arrays;

static int get_kind(const ofr_gguf *gguf, enum ofr_vocab_kind *ret_kind, ofr_error *err)
{
    static const struct {
        const char *name;
        enum ofr_vocab_kind kind;
    } kinds[] = {{"gpt2", OFR_VOCAB_KIND_BPE},
                 {"llama", OFR_VOCAB_KIND_SPM},
                 {"t5", OFR_VOCAB_KIND_UNIGRAM}};
    ofr_gguf_string model;
    int r = ofr_gguf_get_string(gguf, "tokenizer.ggml.model", &model, err);
    if (r == 0)
        r = ofr_fail(err, OFR_EFORMAT,
                     "%s: metadata 'tokenizer.ggml.model' is missing: the file holds no tokenizer",
                     ofr_gguf_path(gguf));
    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (model.size == strlen(kinds[i].name) &&
            memcmp(model.data, kinds[i].name, model.size) == 0) {
            *ret_kind = kinds[i].kind;
            return 0;
        }
    return ofr_fail(err, OFR_EUNSUPPORTED,
                    "%s: has the tokenizer model '%.*s', which this build does not know; known: "
                    "gpt2, llama, t5",
                    ofr_gguf_path(gguf), (int)(model.size < 64 ? model.size : 64), model.data);
}

/* *ret_id stays as it is where the key is absent; an id outside the vocabulary is refused. */
static int get_id(const ofr_gguf *gguf, const char *key, int32_t n_tokens, int32_t *ret_id,
                  ofr_error *err)
{
    uint32_t id;
    int r = ofr_gguf_get_u32(gguf, key, &id, err);
    if (r <= 0 || id == UINT32_MAX) /* some converters write -1 for "none" */
        return r < 0 ? r : 0;
    if (id >= (uint32_t)n_tokens)
        return ofr_fail(err, OFR_EFORMAT, "%s: metadata '%s' is %u, the vocabulary has %d tokens",
                        ofr_gguf_path(gguf), key, id, n_tokens);
    *ret_id = (int32_t)id;
    return 0;
}

static int get_ids(const ofr_gguf *gguf, ofr_vocab *vocab, ofr_error *err)
{
    const struct {
        const char *key;
        int32_t *id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", &vocab->bos_id},
               {"tokenizer.ggml.eos_token_id", &vocab->eos_id},
               {"tokenizer.ggml.unknown_token_id", &vocab->unk_id},
               {"tokenizer.ggml.padding_token_id", &vocab->pad_id},
               {"tokenizer.ggml.eot_token_id", &vocab->eot_id}};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        int r = get_id(gguf, ids[i].key, vocab->n_tokens, ids[i].id, err);
        if (r < 0)
            return r;
    }
    const struct {
        const char *key;
        bool *flag;
    } flags[] = {{"tokenizer.ggml.add_bos_token", &vocab->add_bos},
                 {"tokenizer.ggml.add_eos_token", &vocab->add_eos},
                 {"tokenizer.ggml.add_space_prefix", &vocab->add_space_prefix},
                 {"tokenizer.ggml.remove_extra_whitespaces", &vocab->remove_extra_whitespaces}};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        int r = ofr_gguf_get_bool(gguf, flags[i].key, flags[i].flag, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int check_count(const ofr_gguf *gguf, const char *key, size_t count, size_t expected,
                       ofr_error *err)
{
    if (count == expected)
        return 0;
    return ofr_fail(err, OFR_EFORMAT, "%s: metadata '%s' has %zu elements for %zu tokens",
                    ofr_gguf_path(gguf), key, count, expected);
}

static int get_arrays(const ofr_gguf *gguf, vocab_arrays *arrays, ofr_vocab *vocab, ofr_error *err)
{
    size_t n_tokens = 0, n = 0;
    int r = ofr_gguf_get_strings(gguf, "tokenizer.ggml.tokens", &arrays->tokens, &n_tokens, err);
    if (r == 0 || (r > 0 && (n_tokens == 0 || n_tokens > MAX_TOKENS)))
        r = ofr_fail(err, OFR_EFORMAT, "%s: metadata 'tokenizer.ggml.tokens' is missing or absurd",
                     ofr_gguf_path(gguf));
    if (r < 0)
        return r;
    vocab->n_tokens = (int32_t)n_tokens;
    vocab->tokens = (const ofr_bytes *)arrays->tokens;
    r = ofr_gguf_get_floats(gguf, "tokenizer.ggml.scores", &arrays->scores, &n, err);
    if (r > 0)
        r = check_count(gguf, "tokenizer.ggml.scores", n, n_tokens, err);
    if (r < 0)
        return r;
    vocab->scores = arrays->scores;
    r = ofr_gguf_get_i32s(gguf, "tokenizer.ggml.token_type", &arrays->types, &n, err);
    if (r > 0)
        r = check_count(gguf, "tokenizer.ggml.token_type", n, n_tokens, err);
    if (r < 0)
        return r;
    vocab->types = arrays->types;
    r = ofr_gguf_get_strings(gguf, "tokenizer.ggml.merges", &arrays->merges, &n, err);
    if (r > 0 && n > MAX_MERGES)
        r = ofr_fail(err, OFR_EFORMAT, "%s: metadata 'tokenizer.ggml.merges' is absurd",
                     ofr_gguf_path(gguf));
    if (r > 0) {
        vocab->merges = (const ofr_bytes *)arrays->merges;
        vocab->n_merges = n;
    }
    return r < 0 ? r : 0;
}

static int build(const ofr_gguf *gguf, vocab_arrays *arrays, void **ret_data, size_t *ret_size,
                 size_t *ret_count, ofr_error *err)
{
    enum ofr_vocab_kind kind = OFR_VOCAB_KIND_BPE;
    ofr_gguf_string pre, charsmap;
    int r = get_kind(gguf, &kind, err);
    if (r == 0)
        r = ofr_gguf_get_string(gguf, "tokenizer.ggml.pre", &pre, err);
    if (r < 0)
        return r;
    if (r > 0 && pre.size >= sizeof arrays->pre)
        return ofr_fail(err, OFR_EFORMAT, "%s: metadata 'tokenizer.ggml.pre' is too long",
                        ofr_gguf_path(gguf));
    if (r > 0)
        snprintf(arrays->pre, sizeof arrays->pre, "%.*s", (int)pre.size, pre.data);
    ofr_vocab vocab;
    ofr_vocab_init(&vocab, kind, r > 0 ? arrays->pre : NULL);
    r = get_arrays(gguf, arrays, &vocab, err);
    if (r == 0)
        r = get_ids(gguf, &vocab, err);
    if (r == 0)
        r = ofr_gguf_get_bytes(gguf, "tokenizer.ggml.precompiled_charsmap", &charsmap, err);
    if (r > 0) {
        vocab.precompiled_charsmap = charsmap.data;
        vocab.precompiled_charsmap_size = charsmap.size;
    }
    if (r >= 0)
        r = ofr_tokenizer_build(&vocab, ret_data, ret_size, err);
    if (r == 0)
        *ret_count = (size_t)vocab.n_tokens;
    return r;
}

int ofr_gguf_vocab_build(const ofr_gguf *gguf, void **ret_data, size_t *ret_size, size_t *ret_count,
                         ofr_error *err)
{
    vocab_arrays arrays = {0};
    int r = build(gguf, &arrays, ret_data, ret_size, ret_count, err);
    free(arrays.tokens);
    free(arrays.merges);
    free(arrays.scores);
    free(arrays.types);
    return r;
}
