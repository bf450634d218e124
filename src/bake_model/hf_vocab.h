/* A vocabulary being put together from the files of a model of the hub: tokenizer.json or a
 * SentencePiece model first, then what tokenizer_config.json adds. */
#ifndef OFR_BAKE_MODEL_HF_VOCAB_H
#define OFR_BAKE_MODEL_HF_VOCAB_H

#include "tokenizer/tokenizer_build.h"

enum { OFR_HF_VOCAB_MAX_TOKENS = 1 << 22, OFR_HF_VOCAB_MAX_MERGES = 1 << 23 };

typedef struct ofr_hf_vocab {
    ofr_vocab vocab; /* as ofr_tokenizer_build takes it; its arrays are those below */
    ofr_bytes *tokens;
    float *scores; /* NULL: none */
    int32_t *types;
    uint8_t *strip;
    ofr_bytes *merges;
    size_t capacity;
    void *kept[4];  /* what texts point into: freed, and json_t *, decref'ed, in this order */
    bool knows_bos; /* the source has said whether BOS and EOS are added */
} ofr_hf_vocab;

/* Room for ids below `n`; new ones are empty and unused. */
int ofr_hf_vocab_grow(ofr_hf_vocab *v, const char *path, size_t n, ofr_error *err);
/* A token of its own that text is cut at. `text` is borrowed. */
int ofr_hf_vocab_add(ofr_hf_vocab *v, const char *path, int64_t id, const char *text, size_t size,
                     bool special, unsigned strip, ofr_error *err);
/* The id of a text, or -1; of several, the first. */
int32_t ofr_hf_vocab_find(const ofr_hf_vocab *v, const char *text, size_t size);

/* Fill a zeroed object. `path` is for errors; `text` is borrowed until ofr_hf_vocab_done. */
int ofr_tokenizer_json_read(ofr_hf_vocab *v, const char *path, const char *text, size_t size,
                            ofr_error *err);
/* A SentencePiece model (BPE or unigram): a protocol buffer, sentencepiece_model.proto. */
int ofr_sentencepiece_read(ofr_hf_vocab *v, const char *path, const void *data, size_t size,
                           ofr_error *err);
/* Accepts a zeroed object. */
void ofr_hf_vocab_done(ofr_hf_vocab *v);

#endif
