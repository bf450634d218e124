/* The arrays of a vocabulary that grows. */
#include "bake_model/hf_vocab.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static int resize(void **array, size_t n, size_t size)
{
    void *grown = realloc(*array, n * size);
    if (grown)
        *array = grown;
    return grown ? 0 : OFR_ENOMEM;
}

int ofr_hf_vocab_grow(ofr_hf_vocab *v, const char *path, size_t n, ofr_error *err)
{
    size_t have = (size_t)v->vocab.n_tokens;
    if (n <= have)
        return 0;
    if (n > OFR_HF_VOCAB_MAX_TOKENS)
        return ofr_fail(err, OFR_EFORMAT, "%s: token ids up to %zu are absurd", path, n);
    if (n > v->capacity) {
        size_t capacity = n + n / 4 + 64;
        if (resize((void **)&v->tokens, capacity, sizeof *v->tokens) < 0 ||
            resize((void **)&v->types, capacity, sizeof *v->types) < 0 ||
            resize((void **)&v->strip, capacity, sizeof *v->strip) < 0 ||
            (v->scores && resize((void **)&v->scores, capacity, sizeof *v->scores) < 0))
            return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
        v->capacity = capacity;
    }
    for (size_t i = have; i < n; i++) {
        v->tokens[i] = (ofr_bytes){"", 0};
        v->types[i] = OFR_TOKEN_TYPE_UNUSED;
        v->strip[i] = 0;
        if (v->scores)
            v->scores[i] = 0;
    }
    v->vocab.n_tokens = (int32_t)n;
    v->vocab.tokens = v->tokens;
    v->vocab.types = v->types;
    v->vocab.strip = v->strip;
    v->vocab.scores = v->scores;
    return 0;
}

int ofr_hf_vocab_add(ofr_hf_vocab *v, const char *path, int64_t id, const char *text, size_t size,
                     bool special, unsigned strip, ofr_error *err)
{
    if (id < 0 || id >= OFR_HF_VOCAB_MAX_TOKENS || size == 0)
        return ofr_fail(err, OFR_EFORMAT, "%s: an added token has the bad id %lld", path,
                        (long long)id);
    int r = ofr_hf_vocab_grow(v, path, (size_t)id + 1, err);
    if (r < 0)
        return r;
    v->tokens[id] = (ofr_bytes){text, size};
    if (v->types[id] != OFR_TOKEN_TYPE_UNKNOWN && v->types[id] != OFR_TOKEN_TYPE_BYTE)
        v->types[id] = special ? OFR_TOKEN_TYPE_CONTROL : OFR_TOKEN_TYPE_USER_DEFINED;
    v->strip[id] = (uint8_t)strip;
    return 0;
}

int32_t ofr_hf_vocab_find(const ofr_hf_vocab *v, const char *text, size_t size)
{
    for (int32_t id = 0; id < v->vocab.n_tokens; id++)
        if (v->tokens[id].size == size && memcmp(v->tokens[id].data, text, size) == 0)
            return id;
    return -1;
}

void ofr_hf_vocab_done(ofr_hf_vocab *v)
{
    free(v->tokens);
    free(v->scores);
    free(v->types);
    free(v->strip);
    free(v->merges);
    free(v->kept[0]);
    free(v->kept[1]);
    json_decref(v->kept[2]);
    json_decref(v->kept[3]);
    *v = (ofr_hf_vocab){0};
}
