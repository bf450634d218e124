/* Building, opening and checking the small vocabularies in the tokenizer's unit tests. */
#ifndef OFR_TESTS_TOKENIZER_EXPECT_H
#define OFR_TESTS_TOKENIZER_EXPECT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/small_vocab.h"

/* Builds and opens; *ret_image is what small_close frees. */
static inline ofr_tokenizer *small_open(const ofr_vocab *vocab, void **ret_image, size_t *ret_size)
{
    ofr_error err = {0};
    ofr_tokenizer *tokenizer = NULL;
    if (ofr_tokenizer_build(vocab, ret_image, ret_size, &err))
        fail_msg("build: %s", err.text);
    if (ofr_tokenizer_open(*ret_image, *ret_size, &tokenizer, &err))
        fail_msg("open: %s", err.text);
    return tokenizer;
}

static inline void small_close(ofr_tokenizer *tokenizer, void *image)
{
    ofr_tokenizer_close(tokenizer);
    free(image);
}

/* Texts of the tokens of `text`, joined with '|'. */
static inline void small_expect(const ofr_tokenizer *tokenizer, const char *text, unsigned flags,
                                const char *expected)
{
    ofr_error err = {0};
    int32_t *ids = NULL;
    size_t count = 0;
    char joined[2048] = "";
    if (ofr_tokenizer_encode(tokenizer, text, strlen(text), flags, &ids, &count, &err))
        fail_msg("encode '%s': %s", text, err.text);
    for (size_t i = 0; i < count; i++) {
        size_t size, used = strlen(joined);
        const char *token = ofr_tokenizer_token_text(tokenizer, ids[i], &size);
        snprintf(joined + used, sizeof joined - used, "%s%.*s", i ? "|" : "", (int)size, token);
    }
    free(ids);
    assert_string_equal(joined, expected);
}

/* decode(encode(text)) == text, and so is what a stream gives, in valid pieces. */
static inline void small_round_trip(const ofr_tokenizer *tokenizer, const char *text, size_t size,
                                    bool special)
{
    ofr_error err = {0};
    int32_t *ids = NULL;
    size_t count = 0, back_size = 0, streamed = 0;
    char *back = NULL;
    unsigned encode = special ? OFR_TOKENIZE_PARSE_SPECIAL : 0;
    unsigned decode = special ? OFR_DETOKENIZE_SPECIAL : 0;
    assert_int_equal(ofr_tokenizer_encode(tokenizer, text, size, encode, &ids, &count, &err), 0);
    assert_int_equal(ofr_tokenizer_decode(tokenizer, ids, count, decode, &back, &back_size, &err),
                     0);
    assert_int_equal(back_size, size);
    assert_memory_equal(back, text, size);
    ofr_detokenizer *stream;
    assert_int_equal(ofr_detokenizer_new(tokenizer, decode, &stream, &err), 0);
    for (size_t i = 0; i <= count; i++) {
        const char *piece;
        size_t piece_size;
        int rc = i < count ? ofr_detokenizer_push(stream, ids[i], &piece, &piece_size, &err)
                           : ofr_detokenizer_finish(stream, &piece, &piece_size, &err);
        assert_int_equal(rc, 0);
        assert_true(ofr_utf8_validate(piece, piece_size, NULL));
        assert_int_equal(piece[piece_size], '\0');
        assert_true(streamed + piece_size <= size);
        assert_memory_equal(piece, text + streamed, piece_size);
        streamed += piece_size;
    }
    assert_int_equal(streamed, size);
    ofr_detokenizer_free(stream);
    free(back);
    free(ids);
}

#endif
