/* Text to token ids and back: byte-level BPE, SentencePiece-style BPE and unigram.
 *
 * A tokenizer is opened from the package's tokenizer.bin (format: tokenizer_format.h), which is
 * used in place: no parsing, no copies, so that opening costs microseconds. It is immutable after
 * opening; any number of threads may use it at once. A stream decoder belongs to one thread. */
#ifndef OFR_TOKENIZER_TOKENIZER_H
#define OFR_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct ofr_tokenizer ofr_tokenizer;

/* Opens the tokenizer in `data` [size bytes]; the memory (a mapping of tokenizer.bin) stays the
 * caller's and must outlive the tokenizer. Every offset and index in it is checked here, so that a
 * corrupt file is refused and cannot make a later call read outside. */
int ofr_tokenizer_open(const void *data, size_t size, ofr_tokenizer **ret_tokenizer,
                       ofr_error *err);
ofr_tokenizer *ofr_tokenizer_close(ofr_tokenizer *tokenizer);

enum ofr_tokenize_flags {
    OFR_TOKENIZE_ADD_BOS_EOS = 1 << 0,   /* add BOS/EOS where the vocabulary asks for them */
    OFR_TOKENIZE_PARSE_SPECIAL = 1 << 1, /* recognise control tokens written in the text */
};

/* Encodes `text` [size bytes], which must be valid UTF-8 (OFR_EUTF8 names the byte offset
 * otherwise). *ret_ids is malloc'ed, the caller frees it; *ret_count may be 0. */
int ofr_tokenizer_encode(const ofr_tokenizer *tokenizer, const char *text, size_t size,
                         unsigned flags, int32_t **ret_ids, size_t *ret_count, ofr_error *err);

enum ofr_detokenize_flags {
    /* Write control tokens too; otherwise they decode to nothing. */
    OFR_DETOKENIZE_SPECIAL = 1 << 0,
    /* The ids continue a text: keep the first one's leading space, which SentencePiece
     * vocabularies otherwise put before every text and decoding takes away. */
    OFR_DETOKENIZE_CONTINUATION = 1 << 1,
};

/* Decodes a whole sequence. *ret_text is malloc'ed and NUL-terminated; it may contain NUL bytes, so
 * *ret_size counts. Bytes are what the tokens say: they are valid UTF-8 only if the tokens are. */
int ofr_tokenizer_decode(const ofr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                         unsigned flags, char **ret_text, size_t *ret_size, ofr_error *err);

/* Streaming decode: text comes out in whole UTF-8 characters, never a part of one. Bytes that can
 * no longer become a character are replaced by U+FFFD. */
typedef struct ofr_detokenizer ofr_detokenizer;
int ofr_detokenizer_new(const ofr_tokenizer *tokenizer, unsigned flags,
                        ofr_detokenizer **ret_detokenizer, ofr_error *err);
ofr_detokenizer *ofr_detokenizer_free(ofr_detokenizer *detokenizer);
/* *ret_text points into the decoder, NUL-terminated, valid until its next call; may be "". */
int ofr_detokenizer_push(ofr_detokenizer *detokenizer, int32_t id, const char **ret_text,
                         size_t *ret_size, ofr_error *err);
/* What is still held back (an unfinished character becomes U+FFFD); resets the decoder. */
int ofr_detokenizer_finish(ofr_detokenizer *detokenizer, const char **ret_text, size_t *ret_size,
                           ofr_error *err);

/* Facts about the vocabulary. Ids are -1 where the vocabulary has none. */
typedef struct ofr_tokenizer_info {
    int32_t vocab_size;
    int32_t bos_id, eos_id, unk_id, pad_id;
    bool add_bos, add_eos;
    const char *kind; /* "bpe", "spm" or "unigram" */
    const char *pre;  /* pre-tokenizer rule, "smollm"; "" where there is none */
} ofr_tokenizer_info;
void ofr_tokenizer_get_info(const ofr_tokenizer *tokenizer, ofr_tokenizer_info *ret_info);

/* Tokens that end generation: EOS and the end-of-turn tokens of the known chat formats. The array
 * belongs to the tokenizer. */
const int32_t *ofr_tokenizer_stop_ids(const ofr_tokenizer *tokenizer, size_t *ret_count);

/* Text of one token as stored ("<|im_end|>", "Ġthe"), not NUL-terminated; NULL if out of range. */
const char *ofr_tokenizer_token_text(const ofr_tokenizer *tokenizer, int32_t id, size_t *ret_size);
/* Id of the token stored under exactly this text, or -1. */
int32_t ofr_tokenizer_find(const ofr_tokenizer *tokenizer, const char *text, size_t size);
/* Control tokens: never part of ordinary text. */
bool ofr_tokenizer_is_control(const ofr_tokenizer *tokenizer, int32_t id);

#endif
