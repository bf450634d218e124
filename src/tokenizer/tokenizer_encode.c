/* Encoding: special tokens cut the text into runs; each run is normalised, cut into words and
 * merged. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer_internal.h"

typedef struct encoder_state {
    const ofr_tokenizer *tokenizer;
    unsigned flags;
    ofr_id_buffer ids;
    ofr_text_buffer normalized;
    ofr_merge_scratch *scratch;
} encoder_state;

/* Longest special token that `text` begins with, or -1. User-defined tokens are recognised always,
 * control and unknown tokens only where the caller asked for it. */
static int32_t match_special(const encoder_state *encoder, const char *text, size_t size)
{
    const ofr_tokenizer *tokenizer = encoder->tokenizer;
    unsigned char first = (unsigned char)text[0];
    size_t low = tokenizer->special_by_first[first];
    size_t high = tokenizer->special_by_first[first + 1];
    int32_t longest = -1;
    for (size_t depth = 1; low < high; depth++) {
        for (size_t i = low; i < high; i++) {
            int32_t id = tokenizer->specials[i];
            size_t token_size;
            token_text(tokenizer, id, &token_size);
            if (token_size != depth)
                break; /* those of this length come first */
            if (encoder->flags & OFR_TOKENIZE_PARSE_SPECIAL ||
                token_type(tokenizer, id) == OFR_TOKEN_TYPE_USER_DEFINED) {
                longest = id;
                break;
            }
        }
        if (depth >= size)
            break;
        ofr_sorted_narrow(tokenizer, tokenizer->specials, &low, &high, depth,
                          (unsigned char)text[depth]);
    }
    return longest;
}

/* Where the word that begins at `at` ends, for vocabularies whose words begin with U+2581. */
static size_t word_end(const char *text, size_t size, size_t at)
{
    bool in_marks = true;
    for (; at < size; at += ofr_utf8_length(text[at])) {
        bool mark = (unsigned char)text[at] == 0xE2 && size - at >= OFR_SPACE_MARK_SIZE &&
                    !memcmp(text + at, OFR_SPACE_MARK, OFR_SPACE_MARK_SIZE);
        if (mark && !in_marks)
            return at;
        in_marks = mark;
    }
    return size;
}

static int encode_words(encoder_state *encoder, const char *text, size_t size, ofr_error *err)
{
    const ofr_tokenizer *tokenizer = encoder->tokenizer;
    int rc = 0;
    if (!tokenizer->pre_tokenizer) {
        bool apart = has_flag(tokenizer, OFR_TOKENIZER_FLAG_WORDS_APART);
        for (size_t at = 0, end; !rc && at < size; at = end) {
            end = apart ? word_end(text, size, at) : size;
            rc = ofr_merge_word(tokenizer, text + at, end - at, encoder->scratch, &encoder->ids,
                                err);
        }
        return rc;
    }
    uint32_t *ends;
    size_t count;
    rc = ofr_pre_tokenizer_split(tokenizer->pre_tokenizer, text, size, &ends, &count, err);
    if (rc)
        return rc;
    size_t at = 0;
    for (size_t i = 0; !rc && i < count; i++) {
        rc = ofr_merge_word(tokenizer, text + at, ends[i] - at, encoder->scratch, &encoder->ids,
                            err);
        at = ends[i];
    }
    free(ends);
    return rc;
}

/* A run of text between special tokens; `first`: the text begins with it. */
static int encode_run(encoder_state *encoder, const char *text, size_t size, bool first,
                      ofr_error *err)
{
    const ofr_tokenizer *tokenizer = encoder->tokenizer;
    const uint32_t normalizing =
        OFR_TOKENIZER_FLAG_ESCAPE_SPACES | OFR_TOKENIZER_FLAG_NFC | OFR_TOKENIZER_FLAG_NFKC;
    if (!size)
        return 0;
    if (has_flag(tokenizer, normalizing) || tokenizer->n_charsmap_units) {
        int rc = ofr_normalize(tokenizer, text, size, first, &encoder->normalized, err);
        if (rc)
            return rc;
        text = encoder->normalized.data;
        size = encoder->normalized.size;
        if (size > INT32_MAX)
            return ofr_fail(err, OFR_ELIMIT, "text of %zu bytes is too long to tokenize", size);
    }
    if (tokenizer->header->kind == OFR_VOCAB_KIND_UNIGRAM)
        return ofr_unigram_encode(tokenizer, text, size, &encoder->ids, err);
    ofr_merge_begin(encoder->scratch);
    return encode_words(encoder, text, size, err);
}

static size_t skip_spaces(const char *text, size_t size, size_t at)
{
    while (at < size) {
        size_t length;
        if (!ofr_utf8_is_space(ofr_utf8_decode(text + at, &length)))
            break;
        at += length;
    }
    return at;
}

static size_t drop_spaces_before(const char *text, size_t begin, size_t end)
{
    while (end > begin) {
        size_t last = end - 1, length;
        while (last > begin && ((unsigned char)text[last] & 0xC0) == 0x80)
            last--;
        if (!ofr_utf8_is_space(ofr_utf8_decode(text + last, &length)))
            break;
        end = last;
    }
    return end;
}

static int encode_text(encoder_state *encoder, const char *text, size_t size, ofr_error *err)
{
    const ofr_tokenizer *tokenizer = encoder->tokenizer;
    size_t run = 0; /* where the text not yet encoded begins */
    int rc = 0;
    for (size_t at = 0; !rc && at < size;) {
        int32_t id = tokenizer->n_specials ? match_special(encoder, text + at, size - at) : -1;
        if (id < 0) {
            at += ofr_utf8_length(text[at]);
            continue;
        }
        uint8_t strip = tokenizer->types[id];
        size_t end = strip & OFR_TOKEN_STRIP_LEFT ? drop_spaces_before(text, run, at) : at;
        rc = encode_run(encoder, text + run, end - run, run == 0, err);
        if (!rc)
            rc = ofr_id_buffer_append(&encoder->ids, id, err);
        size_t token_size;
        token_text(tokenizer, id, &token_size);
        at += token_size;
        if (strip & OFR_TOKEN_STRIP_RIGHT)
            at = skip_spaces(text, size, at);
        run = at;
    }
    if (!rc)
        rc = encode_run(encoder, text + run, size - run, run == 0, err);
    return rc;
}

int ofr_tokenizer_encode(const ofr_tokenizer *tokenizer, const char *text, size_t size,
                         unsigned flags, int32_t **ret_ids, size_t *ret_count, ofr_error *err)
{
    size_t bad;
    if (size > INT32_MAX)
        return ofr_fail(err, OFR_ELIMIT, "text of %zu bytes is too long to tokenize", size);
    if (!ofr_utf8_validate(text, size, &bad))
        return ofr_fail(err, OFR_EUTF8, "text is not valid UTF-8 at byte %zu", bad);
    encoder_state encoder = {.tokenizer = tokenizer, .flags = flags};
    const ofr_tokenizer_header *header = tokenizer->header;
    int rc = ofr_merge_scratch_new(&encoder.scratch, err);
    if (!rc && flags & OFR_TOKENIZE_ADD_BOS_EOS && header->flags & OFR_TOKENIZER_FLAG_ADD_BOS)
        rc = ofr_id_buffer_append(&encoder.ids, header->bos_id, err);
    if (!rc)
        rc = encode_text(&encoder, text, size, err);
    if (!rc && flags & OFR_TOKENIZE_ADD_BOS_EOS && header->flags & OFR_TOKENIZER_FLAG_ADD_EOS)
        rc = ofr_id_buffer_append(&encoder.ids, header->eos_id, err);
    ofr_merge_scratch_free(encoder.scratch);
    free(encoder.normalized.data);
    if (rc) {
        free(encoder.ids.data);
        return rc;
    }
    *ret_ids = encoder.ids.data;
    *ret_count = encoder.ids.size;
    return 0;
}
