/* Building: what a vocabulary may be, what is refused and how, determinism, stop tokens. */
#include "unit/tokenizer/expect.h"

#include <math.h>

static void refuse(const ofr_vocab *vocab, int code, const char *says)
{
    ofr_error err = {0};
    void *image = NULL;
    size_t size = 0;
    assert_int_equal(ofr_tokenizer_build(vocab, &image, &size, &err), code);
    if (!strstr(err.text, says))
        fail_msg("'%s' does not say '%s'", err.text, says);
    assert_null(image);
}

static void bad_vocabularies_are_refused(void **state)
{
    (void)state;
    small_vocab small;
    small_byte_level(&small, "no-such-rule");
    refuse(&small.vocab, OFR_EUNSUPPORTED, "'no-such-rule'");
    refuse(&small.vocab, OFR_EUNSUPPORTED, "llama-bpe");
    small_byte_level(&small, "gpt-2");
    small.vocab.eos_id = small.vocab.n_tokens;
    refuse(&small.vocab, OFR_EFORMAT, "EOS");
    small_byte_level(&small, "gpt-2");
    small.vocab.bos_id = -1;
    small.vocab.add_bos = true;
    refuse(&small.vocab, OFR_EFORMAT, "BOS");
    small_byte_level(&small, "gpt-2");
    small_merge(&small, "nospace");
    refuse(&small.vocab, OFR_EFORMAT, "merge 10");
    small_byte_level(&small, "gpt-2");
    small.vocab.n_tokens = 0;
    refuse(&small.vocab, OFR_EFORMAT, "0 tokens");
    small_pieces(&small, OFR_VOCAB_KIND_SPM);
    small.vocab.scores = NULL;
    refuse(&small.vocab, OFR_EFORMAT, "scores");
    small_pieces(&small, OFR_VOCAB_KIND_UNIGRAM);
    small.scores[5] = NAN;
    refuse(&small.vocab, OFR_EFORMAT, "token 5");
    small_pieces(&small, OFR_VOCAB_KIND_UNIGRAM);
    small.vocab.precompiled_charsmap = "\xFF\xFF\xFF\xFF";
    small.vocab.precompiled_charsmap_size = 4;
    refuse(&small.vocab, OFR_EFORMAT, "character map");
}

static void the_same_vocabulary_gives_the_same_bytes(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        small_vocab small;
        void *images[2];
        size_t sizes[2];
        for (int i = 0; i < 2; i++) {
            if (kind == OFR_VOCAB_KIND_BPE)
                small_byte_level(&small, "smollm");
            else
                small_pieces(&small, (enum ofr_vocab_kind)kind);
            small_close(small_open(&small.vocab, &images[i], &sizes[i]), NULL);
        }
        assert_int_equal(sizes[0], sizes[1]);
        assert_memory_equal(images[0], images[1], sizes[0]);
        free(images[0]);
        free(images[1]);
    }
}

static void facts_survive(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size, count;
    ofr_tokenizer_info info;
    small_byte_level(&small, "smollm");
    small.vocab.pad_id = 3;
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    ofr_tokenizer_get_info(tokenizer, &info);
    assert_int_equal(info.vocab_size, small.vocab.n_tokens);
    assert_int_equal(info.bos_id, small.vocab.bos_id);
    assert_int_equal(info.eos_id, small.vocab.eos_id);
    assert_int_equal(info.unk_id, -1);
    assert_int_equal(info.pad_id, 3);
    assert_string_equal(info.kind, "bpe");
    assert_string_equal(info.pre, "smollm");
    for (int32_t id = 0; id < info.vocab_size; id++) {
        const char *text = ofr_tokenizer_token_text(tokenizer, id, &size);
        assert_int_equal(size, small.tokens[id].size);
        assert_memory_equal(text, small.tokens[id].data, size);
        assert_int_equal(ofr_tokenizer_find(tokenizer, text, size), id);
    }
    assert_int_equal(ofr_tokenizer_find(tokenizer, "no such token", 13), -1);
    const int32_t *stops = ofr_tokenizer_stop_ids(tokenizer, &count);
    assert_int_equal(count, 1);
    assert_int_equal(stops[0], small.vocab.eos_id);
    small_close(tokenizer, image);
}

static void expect_stops(small_vocab *small, const int32_t *expected, size_t expected_count)
{
    void *image;
    size_t size, count;
    ofr_tokenizer *tokenizer = small_open(&small->vocab, &image, &size);
    const int32_t *stops = ofr_tokenizer_stop_ids(tokenizer, &count);
    assert_int_equal(count, expected_count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(stops[i], expected[i]);
    small_close(tokenizer, image);
}

static void end_of_turn_tokens_are_known_by_name(void **state)
{
    (void)state;
    small_vocab small;
    int32_t ids[4];
    small_byte_level(&small, "gpt-2");
    ids[0] = small.vocab.eos_id;
    small.vocab.eot_id = ids[1] = small_add(&small, "<eot>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    /* Marked as ordinary by mistake: its name leaves no doubt. */
    ids[2] = small_add(&small, "<|eot_id|>", OFR_TOKEN_TYPE_NORMAL, 0.0f);
    /* A text that ordinary vocabularies may contain is one only if it is marked so. */
    small_add(&small, "</s>", OFR_TOKEN_TYPE_NORMAL, 0.0f);
    expect_stops(&small, ids, 3);
    void *image;
    size_t size;
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    assert_true(ofr_tokenizer_is_control(tokenizer, ids[2]));
    small_close(tokenizer, image);

    /* gpt-oss: <|end|> ends a message and generation goes on. */
    small_byte_level(&small, "gpt-4o");
    ids[0] = small.vocab.eos_id;
    small_add(&small, "<|end|>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    expect_stops(&small, (int32_t[]){ids[0], small.vocab.n_tokens - 1}, 2);
    ids[1] = small_add(&small, "<|return|>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    ids[2] = small_add(&small, "<|call|>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    expect_stops(&small, ids, 3);
}

static void phi3_tokens_take_the_space_after_them(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    small_pieces(&small, OFR_VOCAB_KIND_SPM);
    small_add(&small, "<|assistant|>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    small_add(&small, "<|end|>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, "<|assistant|>\nhello", OFR_TOKENIZE_PARSE_SPECIAL,
                 "<|assistant|>|" OFR_SPACE_MARK "|<0x0A>|hello");
    small_close(tokenizer, image);
    small_add(&small, "<|placeholder1|>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, "<|assistant|>\nhello<|end|> \n<s>\n", OFR_TOKENIZE_PARSE_SPECIAL,
                 "<|assistant|>|" OFR_SPACE_MARK "hello|<|end|>|<s>|" OFR_SPACE_MARK "|<0x0A>");
    small_close(tokenizer, image);
}

static void odd_vocabularies_work(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    /* Two tokens with one text, an empty token, a merge of what is no token. */
    small_byte_level(&small, "gpt-2");
    int32_t first = ofr_byte_alphabet_byte('h');
    small_add(&small, "h", OFR_TOKEN_TYPE_NORMAL, 0.0f);
    small_add(&small, "", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    small_merge(&small, "hello world");
    small_merge(&small, "q q");
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    assert_int_equal(ofr_tokenizer_find(tokenizer, "h", 1), first);
    small_expect(tokenizer, "qqh", 0, "q|q|h");
    small_close(tokenizer, image);
    /* No types at all. */
    small.vocab.types = NULL;
    tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, "a<|im_end|>", OFR_TOKENIZE_PARSE_SPECIAL, "a|<|im_end|>");
    small_close(tokenizer, image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_vocabularies_are_refused),
        cmocka_unit_test(the_same_vocabulary_gives_the_same_bytes),
        cmocka_unit_test(facts_survive),
        cmocka_unit_test(end_of_turn_tokens_are_known_by_name),
        cmocka_unit_test(phi3_tokens_take_the_space_after_them),
        cmocka_unit_test(odd_vocabularies_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
