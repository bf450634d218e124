/* Merging: the heap of long words and the scan of short ones give what a naive merge gives. */
#include "unit/tokenizer/expect.h"

/* Best pair first, leftmost of equals, one at a time over the whole word: the definition. */
static size_t merge_naively(const ofr_tokenizer *tokenizer, int32_t *ids, size_t count)
{
    for (;;) {
        const ofr_tokenizer_merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            const ofr_tokenizer_merge *merge =
                ofr_tokenizer_find_merge(tokenizer, ids[i], ids[i + 1]);
            if (merge && (!best || merge->rank < best->rank)) {
                best = merge;
                at = i;
            }
        }
        if (!best)
            return count;
        ids[at] = (int32_t)best->result;
        memmove(ids + at + 1, ids + at + 2, (count - at - 2) * sizeof *ids);
        count--;
    }
}

static void words_of_every_length_merge_as_defined(void **state)
{
    (void)state;
    static const char letters[] = "helloaaaa ";
    small_vocab small;
    void *image;
    size_t size;
    ofr_error err = {0};
    ofr_merge_scratch *scratch;
    small_byte_level(&small, "gpt-2");
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    assert_int_equal(ofr_merge_scratch_new(&scratch, &err), 0);
    uint64_t random = 3;
    for (size_t length = 1; length <= 150; length++) {
        for (int round = 0; round < 20; round++) {
            char word[150];
            int32_t expected[150];
            for (size_t i = 0; i < length; i++) {
                random = ofr_tokenizer_mix(random + 0x9E3779B97F4A7C15u);
                word[i] = letters[random % (sizeof letters - 1)];
                expected[i] = tokenizer->byte_ids[(unsigned char)word[i]];
            }
            size_t count = merge_naively(tokenizer, expected, length);
            ofr_id_buffer ids = {0};
            assert_int_equal(ofr_merge_word(tokenizer, word, length, scratch, &ids, &err), 0);
            assert_int_equal(ids.size, count);
            assert_memory_equal(ids.data, expected, count * sizeof *expected);
            free(ids.data);
        }
    }
    assert_null(ofr_merge_scratch_free(scratch));
    assert_null(ofr_merge_scratch_free(NULL));
    small_close(tokenizer, image);
}

static void a_missing_byte_is_left_out(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    small_byte_level(&small, "gpt-2");
    small.tokens['b'] = (ofr_bytes){"bbbb", 4};
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, "abc", 0, "a|c");
    small_close(tokenizer, image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_of_every_length_merge_as_defined),
        cmocka_unit_test(a_missing_byte_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
