/* Normalisation: spaces, the character map, NFC; each only where the vocabulary asks for it. */
#include "unit/tokenizer/expect.h"

#include <time.h>

#define MARK OFR_SPACE_MARK

static void expect(const ofr_vocab *vocab, const char *text, const char *expected)
{
    void *image;
    size_t size;
    ofr_error err = {0};
    ofr_text_buffer out = {0};
    ofr_tokenizer *tokenizer = small_open(vocab, &image, &size);
    assert_int_equal(ofr_normalize(tokenizer, text, strlen(text), true, &out, &err), 0);
    assert_int_equal(ofr_text_buffer_append(&out, "", 1, &err), 0);
    assert_string_equal(out.data, expected);
    free(out.data);
    small_close(tokenizer, image);
}

static void spaces_follow_the_flags(void **state)
{
    (void)state;
    small_vocab small;
    small_pieces(&small, OFR_VOCAB_KIND_SPM);
    expect(&small.vocab, " a  b ", MARK MARK "a" MARK MARK "b" MARK);
    expect(&small.vocab, "", "");
    small.vocab.add_space_prefix = false;
    expect(&small.vocab, " a  b ", MARK "a" MARK MARK "b" MARK);
    small.vocab.remove_extra_whitespaces = true;
    expect(&small.vocab, "  a  b  ", "a" MARK "b");
    small.vocab.add_space_prefix = true;
    expect(&small.vocab, "  a  b  ", MARK "a" MARK "b");
    expect(&small.vocab, "   ", "");
}

/* A map of one rule, "a" -> "bc", in the double array's terms: the root's children are at 256; unit
 * 256 ^ 'a' is labelled 'a', has a value, and its children at that index ^ 512; the value is 0. */
static void the_character_map_replaces_the_longest_match(void **state)
{
    (void)state;
    uint32_t map[1 + 1024] = {0};
    map[0] = 1024 * sizeof(uint32_t);
    uint32_t *units = map + 1;
    units[0] = 256u << 10;
    units[256 ^ 'a'] = 'a' | 0x100u | (512u << 10);
    units[(256 ^ 'a') ^ 512] = 0x80000000u;
    char blob[sizeof map + 3];
    memcpy(blob, map, sizeof map);
    memcpy(blob + sizeof map, "bc", 3);
    small_vocab small;
    small_pieces(&small, OFR_VOCAB_KIND_UNIGRAM);
    small.vocab.precompiled_charsmap = blob;
    small.vocab.precompiled_charsmap_size = sizeof blob;
    expect(&small.vocab,
           "xa\xC3\xA9"
           "a",
           MARK "xbc\xC3\xA9"
                "bc");
}

static void composition_is_linear(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    ofr_error err = {0};
    ofr_text_buffer out = {0};
    small_byte_level(&small, "qwen2");
    expect(&small.vocab, "e\xCC\x81", "e\xCC\x81");
    small.vocab.normalization = OFR_NORMALIZATION_NFC;
    expect(&small.vocab, "e\xCC\x81 \xEF\xAC\x81", "\xC3\xA9 \xEF\xAC\x81");
    expect(&small.vocab, "a\xCC\x81\xCC\xA3", "\xE1\xBA\xA1\xCC\x81"); /* marks in order */
    small.vocab.normalization = OFR_NORMALIZATION_NFKC;
    expect(&small.vocab, "\xEF\xAC\x81", "fi");
    /* A run of marks in the worst order. */
    enum { PAIRS = 100000 };
    char *text = malloc(PAIRS * 4);
    for (size_t i = 0; i < PAIRS; i++)
        memcpy(text + 4 * i, "\xCC\x81\xCC\xA3", 4);
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    clock_t begin = clock();
    assert_int_equal(ofr_normalize(tokenizer, text, PAIRS * 4, true, &out, &err), 0);
    assert_true((double)(clock() - begin) / CLOCKS_PER_SEC < 10.0);
    assert_int_equal(out.size, PAIRS * 4);
    assert_memory_equal(out.data, "\xCC\xA3\xCC\xA3", 4);
    free(out.data);
    free(text);
    small_close(tokenizer, image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spaces_follow_the_flags),
        cmocka_unit_test(the_character_map_replaces_the_longest_match),
        cmocka_unit_test(composition_is_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
