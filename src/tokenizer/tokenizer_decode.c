/* Decoding: whole sequences, and streams that come out in whole characters. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer_internal.h"

/* Text under construction. Where the vocabulary puts a space before each run of text, the run's
 * first space is that one and is not text. */
typedef struct decoder_state {
    const ofr_tokenizer *tokenizer;
    unsigned flags;
    bool at_run_start;
} decoder_state;

static void decoder_start(decoder_state *decoder)
{
    decoder->at_run_start = !(decoder->flags & OFR_DETOKENIZE_CONTINUATION);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c - 'a' + 10;
}

/* A token's text in the byte alphabet. */
static int append_alphabet(const char *text, size_t size, ofr_text_buffer *out, ofr_error *err)
{
    for (size_t at = 0; at < size;) {
        uint32_t codepoint;
        size_t length;
        enum ofr_utf8_state state = ofr_utf8_next(text + at, size - at, &codepoint, &length);
        int byte = state == OFR_UTF8_STATE_CHARACTER ? ofr_byte_alphabet_byte(codepoint) : -1;
        char single = (char)byte;
        /* What is not of the alphabet stands for itself. */
        int rc = byte >= 0 ? ofr_text_buffer_append(out, &single, 1, err)
                           : ofr_text_buffer_append(out, text + at, length, err);
        if (rc)
            return rc;
        at += length;
    }
    return 0;
}

/* A token's text in which U+2581 is a space. */
static int append_unescaped(const char *text, size_t size, ofr_text_buffer *out, ofr_error *err)
{
    while (size) {
        const char *mark = memmem(text, size, OFR_SPACE_MARK, OFR_SPACE_MARK_SIZE);
        size_t before = mark ? (size_t)(mark - text) : size;
        int rc = ofr_text_buffer_append(out, text, before, err);
        if (!rc && mark)
            rc = ofr_text_buffer_append(out, " ", 1, err);
        if (rc)
            return rc;
        size_t used = mark ? before + OFR_SPACE_MARK_SIZE : size;
        text += used;
        size -= used;
    }
    return 0;
}

static int append_token(decoder_state *decoder, int32_t id, ofr_text_buffer *out, ofr_error *err)
{
    const ofr_tokenizer *tokenizer = decoder->tokenizer;
    if (id < 0 || (uint32_t)id >= tokenizer->header->n_tokens)
        return ofr_fail(err, OFR_EINVAL, "token id %d is outside the vocabulary of %u", id,
                        tokenizer->header->n_tokens);
    size_t size;
    const char *text = token_text(tokenizer, id, &size);
    enum ofr_token_type type = token_type(tokenizer, id);
    bool special = type == OFR_TOKEN_TYPE_CONTROL || type == OFR_TOKEN_TYPE_UNKNOWN;
    if (special || type == OFR_TOKEN_TYPE_USER_DEFINED) {
        decoder->at_run_start = true;
        if (special && !(decoder->flags & OFR_DETOKENIZE_SPECIAL))
            return 0;
        return ofr_text_buffer_append(out, text, size, err);
    }
    bool first = decoder->at_run_start;
    decoder->at_run_start = false;
    if (!has_flag(tokenizer, OFR_TOKENIZER_FLAG_ESCAPE_SPACES))
        return append_alphabet(text, size, out, err);
    if (type == OFR_TOKEN_TYPE_BYTE) {
        /* "<0xHH>": checked when the file was made; any other text stands for itself. */
        if (size != 6)
            return ofr_text_buffer_append(out, text, size, err);
        char byte = (char)(hex_digit(text[3]) * 16 + hex_digit(text[4]));
        return ofr_text_buffer_append(out, &byte, 1, err);
    }
    if (first && has_flag(tokenizer, OFR_TOKENIZER_FLAG_SPACE_PREFIX) &&
        size >= OFR_SPACE_MARK_SIZE && !memcmp(text, OFR_SPACE_MARK, OFR_SPACE_MARK_SIZE)) {
        text += OFR_SPACE_MARK_SIZE;
        size -= OFR_SPACE_MARK_SIZE;
    }
    return append_unescaped(text, size, out, err);
}

int ofr_tokenizer_decode(const ofr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                         unsigned flags, char **ret_text, size_t *ret_size, ofr_error *err)
{
    decoder_state decoder = {.tokenizer = tokenizer, .flags = flags};
    decoder_start(&decoder);
    ofr_text_buffer out = {0};
    int rc = 0;
    for (size_t i = 0; !rc && i < count; i++)
        rc = append_token(&decoder, ids[i], &out, err);
    if (!rc)
        rc = ofr_text_buffer_append(&out, "", 1, err);
    if (rc) {
        free(out.data);
        return rc;
    }
    *ret_text = out.data;
    *ret_size = out.size - 1;
    return 0;
}

struct ofr_detokenizer {
    decoder_state decoder;
    ofr_text_buffer pending; /* bytes not yet given out: less than one character between calls */
    ofr_text_buffer out;
};

int ofr_detokenizer_new(const ofr_tokenizer *tokenizer, unsigned flags,
                        ofr_detokenizer **ret_detokenizer, ofr_error *err)
{
    ofr_detokenizer *made = calloc(1, sizeof *made);
    if (!made)
        return ofr_fail(err, OFR_ENOMEM, "tokenizer: out of memory");
    made->decoder = (decoder_state){.tokenizer = tokenizer, .flags = flags};
    decoder_start(&made->decoder);
    *ret_detokenizer = made;
    return 0;
}

ofr_detokenizer *ofr_detokenizer_free(ofr_detokenizer *detokenizer)
{
    if (detokenizer) {
        free(detokenizer->pending.data);
        free(detokenizer->out.data);
        free(detokenizer);
    }
    return NULL;
}

/* Moves whole characters from pending to out; with `everything`, the unfinished one too. */
static int give_out(ofr_detokenizer *detokenizer, bool everything, const char **ret_text,
                    size_t *ret_size, ofr_error *err)
{
    ofr_text_buffer *pending = &detokenizer->pending, *out = &detokenizer->out;
    size_t at = 0;
    int rc = 0;
    out->size = 0;
    while (!rc && at < pending->size) {
        uint32_t codepoint;
        size_t length;
        enum ofr_utf8_state state =
            ofr_utf8_next(pending->data + at, pending->size - at, &codepoint, &length);
        if (state == OFR_UTF8_STATE_INCOMPLETE && !everything)
            break;
        rc = state == OFR_UTF8_STATE_CHARACTER
                 ? ofr_text_buffer_append(out, pending->data + at, length, err)
                 : ofr_text_buffer_append(out, "\xEF\xBF\xBD", 3, err);
        at += length;
    }
    if (!rc)
        rc = ofr_text_buffer_append(out, "", 1, err);
    if (rc)
        return rc;
    if (at) {
        memmove(pending->data, pending->data + at, pending->size - at);
        pending->size -= at;
    }
    *ret_text = out->data;
    *ret_size = out->size - 1;
    return 0;
}

int ofr_detokenizer_push(ofr_detokenizer *detokenizer, int32_t id, const char **ret_text,
                         size_t *ret_size, ofr_error *err)
{
    int rc = append_token(&detokenizer->decoder, id, &detokenizer->pending, err);
    return rc ? rc : give_out(detokenizer, false, ret_text, ret_size, err);
}

int ofr_detokenizer_finish(ofr_detokenizer *detokenizer, const char **ret_text, size_t *ret_size,
                           ofr_error *err)
{
    decoder_start(&detokenizer->decoder);
    return give_out(detokenizer, true, ret_text, ret_size, err);
}
