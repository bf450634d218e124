/* Unigram: the path found is the best of all paths, by enumeration. */
#include "unit/tokenizer/expect.h"

/* The best sum of scores of text[at, size), trying every token at every place. */
static double best_sum(const ofr_tokenizer *tokenizer, const char *text, size_t size, size_t at)
{
    if (at == size)
        return 0.0;
    double best = -1e30;
    for (size_t length = 1; length <= size - at; length++) {
        int32_t id = ofr_tokenizer_find(tokenizer, text + at, length);
        if (id < 0 || !is_plain_type(token_type(tokenizer, id)))
            continue;
        double sum = (double)tokenizer->scores[id] + best_sum(tokenizer, text, size, at + length);
        best = sum > best ? sum : best;
    }
    return best;
}

static void the_best_path_is_found(void **state)
{
    (void)state;
    static const char letters[] = "heloa";
    small_vocab small;
    void *image;
    size_t size;
    ofr_error err = {0};
    small_pieces(&small, OFR_VOCAB_KIND_UNIGRAM);
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    uint64_t random = 9;
    for (int round = 0; round < 300; round++) {
        char text[12];
        size_t length = 1 + (size_t)round % sizeof text;
        for (size_t i = 0; i < length; i++) {
            random = ofr_tokenizer_mix(random + 0x9E3779B97F4A7C15u);
            text[i] = letters[random % (sizeof letters - 1)];
        }
        ofr_id_buffer ids = {0};
        assert_int_equal(ofr_unigram_encode(tokenizer, text, length, &ids, &err), 0);
        double sum = 0.0;
        size_t covered = 0;
        for (size_t i = 0; i < ids.size; i++) {
            size_t token_size;
            const char *token = ofr_tokenizer_token_text(tokenizer, ids.data[i], &token_size);
            assert_true(covered + token_size <= length);
            assert_memory_equal(token, text + covered, token_size);
            covered += token_size;
            sum += (double)tokenizer->scores[ids.data[i]];
        }
        assert_int_equal(covered, length);
        assert_true(sum == best_sum(tokenizer, text, length, 0));
        free(ids.data);
    }
    small_close(tokenizer, image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_best_path_is_found)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
