/* Decoding: streams hold back unfinished characters, leading spaces, control tokens. */
#include "unit/tokenizer/expect.h"

static void push(ofr_detokenizer *stream, int32_t id, const char *expected)
{
    const char *text;
    size_t size;
    ofr_error err = {0};
    assert_int_equal(ofr_detokenizer_push(stream, id, &text, &size, &err), 0);
    assert_string_equal(text, expected);
    assert_int_equal(size, strlen(expected));
}

static void finish(ofr_detokenizer *stream, const char *expected)
{
    const char *text;
    size_t size;
    ofr_error err = {0};
    assert_int_equal(ofr_detokenizer_finish(stream, &text, &size, &err), 0);
    assert_string_equal(text, expected);
}

static void characters_come_out_whole(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    ofr_error err = {0};
    ofr_detokenizer *stream;
    small_byte_level(&small, "gpt-2");
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    assert_int_equal(ofr_detokenizer_new(tokenizer, 0, &stream, &err), 0);
    push(stream, 'a', "a");
    push(stream, 0xF0, "");
    push(stream, 0x9F, "");
    push(stream, 0xA6, "");
    push(stream, 0x99, "\xF0\x9F\xA6\x99");
    /* A character that is cut by another: U+FFFD for what was there, then the other. */
    push(stream, 0xE2, "");
    push(stream, 0x82, "");
    push(stream, 'b',
         "\xEF\xBF\xBD"
         "b");
    push(stream, 0x80, "\xEF\xBF\xBD");
    push(stream, 0xC3, "");
    finish(stream, "\xEF\xBF\xBD");
    finish(stream, "");
    push(stream, 'c', "c");
    ofr_detokenizer_free(stream);
    small_close(tokenizer, image);
}

static void control_tokens_show_only_on_demand(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    ofr_error err = {0};
    ofr_detokenizer *stream;
    small_byte_level(&small, "gpt-2");
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    for (unsigned flags = 0; flags <= OFR_DETOKENIZE_SPECIAL; flags++) {
        assert_int_equal(ofr_detokenizer_new(tokenizer, flags, &stream, &err), 0);
        push(stream, small.vocab.eos_id, flags ? "<|im_end|>" : "");
        push(stream, ofr_tokenizer_find(tokenizer, "[user]", 6), "[user]");
        ofr_detokenizer_free(stream);
    }
    small_close(tokenizer, image);
}

static void the_prefixed_space_is_taken_away_once(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    ofr_error err = {0};
    ofr_detokenizer *stream;
    small_pieces(&small, OFR_VOCAB_KIND_SPM);
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    int32_t hello = ofr_tokenizer_find(tokenizer, OFR_SPACE_MARK "hello", 8);
    int32_t spaces = ofr_tokenizer_find(tokenizer, OFR_SPACE_MARK OFR_SPACE_MARK, 6);
    assert_int_equal(ofr_detokenizer_new(tokenizer, 0, &stream, &err), 0);
    push(stream, small.vocab.bos_id, "");
    push(stream, hello, "hello");
    push(stream, hello, " hello");
    push(stream, small.vocab.eos_id, "");
    push(stream, spaces, " ");
    push(stream, spaces, "  ");
    ofr_detokenizer_free(stream);
    /* What continues a text keeps its space. */
    assert_int_equal(ofr_detokenizer_new(tokenizer, OFR_DETOKENIZE_CONTINUATION, &stream, &err), 0);
    push(stream, hello, " hello");
    ofr_detokenizer_free(stream);
    small_close(tokenizer, image);
}

static void ids_outside_the_vocabulary_are_refused(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size, text_size;
    ofr_error err = {0};
    char *text;
    const char *piece;
    ofr_detokenizer *stream;
    small_byte_level(&small, "gpt-2");
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    const int32_t bad[] = {-1, small.vocab.n_tokens, INT32_MIN, INT32_MAX};
    assert_int_equal(ofr_detokenizer_new(tokenizer, 0, &stream, &err), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(ofr_tokenizer_decode(tokenizer, &bad[i], 1, 0, &text, &text_size, &err),
                         OFR_EINVAL);
        assert_int_equal(ofr_detokenizer_push(stream, bad[i], &piece, &text_size, &err),
                         OFR_EINVAL);
        assert_null(ofr_tokenizer_token_text(tokenizer, bad[i], &text_size));
    }
    push(stream, 'a', "a");
    ofr_detokenizer_free(stream);
    small_close(tokenizer, image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_come_out_whole),
        cmocka_unit_test(control_tokens_show_only_on_demand),
        cmocka_unit_test(the_prefixed_space_is_taken_away_once),
        cmocka_unit_test(ids_outside_the_vocabulary_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
