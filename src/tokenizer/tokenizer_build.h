/* Makes tokenizer.bin from a vocabulary as GGUF or tokenizer.json describe it.
 * Used by bake_model and by tests; nothing here runs when a package is used. */
#ifndef OFR_TOKENIZER_TOKENIZER_BUILD_H
#define OFR_TOKENIZER_TOKENIZER_BUILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum ofr_vocab_kind {
    OFR_VOCAB_KIND_BPE,     /* byte-level BPE, ranks from `merges` */
    OFR_VOCAB_KIND_SPM,     /* SentencePiece BPE: merges by `scores`, byte fallback */
    OFR_VOCAB_KIND_UNIGRAM, /* SentencePiece unigram: best path by `scores`, byte fallback */
};

/* The values are those of GGUF's tokenizer.ggml.token_type. */
enum ofr_token_type {
    OFR_TOKEN_TYPE_NORMAL = 1,
    OFR_TOKEN_TYPE_UNKNOWN = 2,
    OFR_TOKEN_TYPE_CONTROL = 3,
    OFR_TOKEN_TYPE_USER_DEFINED = 4,
    OFR_TOKEN_TYPE_UNUSED = 5,
    OFR_TOKEN_TYPE_BYTE = 6,
};

/* Unicode normalisation of text before it is tokenized. */
enum ofr_normalization {
    OFR_NORMALIZATION_NONE,
    OFR_NORMALIZATION_NFC,
    OFR_NORMALIZATION_NFKC,
};

/* Bits of ofr_vocab.strip: white space in the text that a special token takes with it ("lstrip" and
 * "rstrip" of tokenizer.json). */
enum ofr_token_strip {
    OFR_TOKEN_STRIP_BEFORE = 1 << 0,
    OFR_TOKEN_STRIP_AFTER = 1 << 1,
};

typedef struct ofr_bytes {
    const char *data; /* not NUL-terminated */
    size_t size;
} ofr_bytes;

/* All pointers are borrowed for the duration of the call. Ids that do not exist are -1. */
typedef struct ofr_vocab {
    enum ofr_vocab_kind kind;
    const char *pre; /* pre-tokenizer rule as GGUF's tokenizer.ggml.pre names it; NULL: none */
    int32_t n_tokens;
    const ofr_bytes
        *tokens; /* [n_tokens] text as stored: byte-level alphabet for BPE, U+2581 for SPM */
    const float *scores;  /* [n_tokens] or NULL */
    const int32_t *types; /* [n_tokens] enum ofr_token_type, or NULL: all normal */
    const uint8_t *strip; /* [n_tokens] enum ofr_token_strip, or NULL: none, but for phi-3, whose
                             GGUF files cannot say it */
    size_t n_merges;
    const ofr_bytes *merges; /* [n_merges] "left right", best rank first; BPE only. A
                                merge of or to a text that is no token cannot happen: left out */
    int32_t bos_id, eos_id, unk_id, pad_id;
    int32_t eot_id; /* end of turn where the source names one, else -1 */
    bool add_bos, add_eos;
    bool add_space_prefix;         /* SPM: a space before the text */
    bool prefix_first_only;        /* ... not behind a special token */
    bool prefix_unless_space;      /* ... not where there is one */
    bool remove_extra_whitespaces; /* SPM/unigram normaliser */
    bool ignore_merges; /* BPE: a pre-token that is itself a token is taken whole (llama-3) */
    bool byte_fallback; /* BPE written by SentencePiece converters (tokenizer.json of llama-2):
                           spaces are U+2581, missing characters <0xHH>, no pre-tokenizer */
    enum ofr_normalization normalization; /* GGUF does not name one; tokenizer.json does */
    const void *precompiled_charsmap;     /* SentencePiece normaliser table, or NULL */
    size_t precompiled_charsmap_size;
} ofr_vocab;

/* Sets everything to what a source that says no more means by it: no ids, and what GGUF leaves
 * implicit per kind and pre-tokenizer (add_bos, add_eos, add_space_prefix, ignore_merges). Call it
 * first, then set what the source does say. */
void ofr_vocab_init(ofr_vocab *vocab, enum ofr_vocab_kind kind, const char *pre);

/* Builds the file image. *ret_data is malloc'ed, the caller frees it. An unknown `pre` is refused
 * by name with the list of those known. Deterministic: the same vocabulary gives the same bytes. */
int ofr_tokenizer_build(const ofr_vocab *vocab, void **ret_data, size_t *ret_size, ofr_error *err);

#endif
