/* What the files of the tokenizer share: the opened vocabulary, growable arrays, and the steps of
 * encoding. Nothing outside src/tokenizer includes this, except its tests. */
#ifndef OFR_TOKENIZER_TOKENIZER_INTERNAL_H
#define OFR_TOKENIZER_TOKENIZER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_build.h"
#include "tokenizer/tokenizer_format.h"

/* U+2581, which SentencePiece vocabularies write for a space. */
#define OFR_SPACE_MARK "\xE2\x96\x81"
enum { OFR_SPACE_MARK_SIZE = 3 };

/* Pointers into the caller's memory; all indices in them were checked by ofr_tokenizer_open. */
struct ofr_tokenizer {
    const ofr_tokenizer_header *header;
    const char *pre;
    const uint32_t *offsets; /* [n_tokens + 1] */
    const char *text;
    const uint8_t *types;  /* [n_tokens] with strip bits */
    const float *scores;   /* [n_tokens] or NULL */
    const uint32_t *table; /* [table_mask + 1] */
    uint64_t table_mask;
    const ofr_tokenizer_merge *merges; /* [merge_mask + 1] or NULL */
    uint64_t merge_mask;
    const int32_t *byte_ids; /* [256] */
    const int32_t *specials; /* [n_specials] sorted by text */
    size_t n_specials;
    const int32_t *stop_ids; /* [n_stop_ids] */
    size_t n_stop_ids;
    const int32_t *sorted; /* [n_sorted], unigram */
    size_t n_sorted;
    const uint32_t *sorted_index; /* [65537], unigram */
    const char *charsmap_units;   /* [n_charsmap_units] u32, any alignment */
    size_t n_charsmap_units;
    const char *charsmap_texts; /* [charsmap_texts_size] NUL-terminated strings */
    size_t charsmap_texts_size;

    size_t token_size_max;          /* bytes of the longest token */
    uint32_t special_by_first[257]; /* place in `specials` of the first with first byte >= index */
    ofr_pre_tokenizer *pre_tokenizer; /* byte-level BPE only, owned */
};

static inline enum ofr_token_type token_type(const ofr_tokenizer *tokenizer, int32_t id)
{
    return (enum ofr_token_type)(tokenizer->types[id] & OFR_TOKEN_TYPE_MASK);
}

static inline const char *token_text(const ofr_tokenizer *tokenizer, int32_t id, size_t *ret_size)
{
    uint32_t offset = tokenizer->offsets[id];
    *ret_size = tokenizer->offsets[id + 1] - offset;
    return tokenizer->text + offset;
}

static inline bool has_flag(const ofr_tokenizer *tokenizer, uint32_t flag)
{
    return (tokenizer->header->flags & flag) != 0;
}

/* Tokens that ordinary text may become: not control, unknown or byte tokens. */
static inline bool is_plain_type(enum ofr_token_type type)
{
    return type == OFR_TOKEN_TYPE_NORMAL || type == OFR_TOKEN_TYPE_USER_DEFINED ||
           type == OFR_TOKEN_TYPE_UNUSED;
}

/* Growable arrays. Zero-initialise; free `data` when done. Appending fails only with OFR_ENOMEM. */
typedef struct ofr_text_buffer {
    char *data;
    size_t size, capacity;
} ofr_text_buffer;
int ofr_text_buffer_append(ofr_text_buffer *buffer, const char *data, size_t size, ofr_error *err);

typedef struct ofr_id_buffer {
    int32_t *data;
    size_t size, capacity;
} ofr_id_buffer;
int ofr_id_buffer_append(ofr_id_buffer *buffer, int32_t id, ofr_error *err);

/* Makes room for `count` elements of `element_size` bytes in *data, doubling. */
int ofr_array_reserve(void **data, size_t *capacity, size_t count, size_t element_size,
                      ofr_error *err);

/* The byte-level alphabet of GPT-2: printable bytes stand for themselves, the other 68 for
 * U+0100... in order. -1 where the character is not of the alphabet. */
uint32_t ofr_byte_alphabet_codepoint(unsigned char byte);
int ofr_byte_alphabet_byte(uint32_t codepoint);

/* Narrows the range [*low, *high) of `sorted`, whose texts agree in their first `depth` bytes, to
 * those that have `byte` next. */
void ofr_sorted_narrow(const ofr_tokenizer *tokenizer, const int32_t *sorted, size_t *low,
                       size_t *high, size_t depth, unsigned char byte);

/* Result of merging two adjacent tokens, or NULL. */
const ofr_tokenizer_merge *ofr_tokenizer_find_merge(const ofr_tokenizer *tokenizer, int32_t left,
                                                    int32_t right);

/* Normalises `text` into *out, replacing its contents: charsmap, NFC/NFKC, spaces as the flags of
 * the vocabulary say. */
int ofr_normalize(const ofr_tokenizer *tokenizer, const char *text, size_t size, bool first,
                  ofr_text_buffer *out, ofr_error *err);

/* Merges one pre-tokenized word and appends its ids. `scratch` is reused between words;
 * ofr_merge_begin says that a new run of text begins (unknown characters in a row are one unknown
 * token, also across words). */
typedef struct ofr_merge_scratch ofr_merge_scratch;
int ofr_merge_scratch_new(ofr_merge_scratch **ret_scratch, ofr_error *err);
ofr_merge_scratch *ofr_merge_scratch_free(ofr_merge_scratch *scratch);
void ofr_merge_begin(ofr_merge_scratch *scratch);
int ofr_merge_word(const ofr_tokenizer *tokenizer, const char *word, size_t size,
                   ofr_merge_scratch *scratch, ofr_id_buffer *ids, ofr_error *err);

/* Best path by the sum of scores; appends its ids. */
int ofr_unigram_encode(const ofr_tokenizer *tokenizer, const char *text, size_t size,
                       ofr_id_buffer *ids, ofr_error *err);

/* Appends the byte tokens of one character that no token covers, or else the unknown token once
 * for a run of them; *was_unknown carries the run from call to call. */
int ofr_append_fallback(const ofr_tokenizer *tokenizer, const char *character, size_t size,
                        bool *was_unknown, ofr_id_buffer *ids, ofr_error *err);

#endif
