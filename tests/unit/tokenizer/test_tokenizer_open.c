/* Opening: what is damaged is refused, and damage behind a valid checksum cannot lead outside. */
#include "unit/tokenizer/expect.h"

static uint64_t next_random(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    return ofr_tokenizer_mix(*state);
}

/* Uses everything in an image that opened. */
static void exercise(const ofr_tokenizer *tokenizer)
{
    static const char text[] =
        "  hello</s>12 [user]caf\xC3\xA9 \xF0\x9F\xA6\x99\n\n aaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa<|im_end|>\xE2\x82\xAC";
    ofr_error err = {0};
    int32_t *ids = NULL;
    size_t count = 0, size;
    char *back;
    ofr_tokenizer_info info;
    ofr_tokenizer_get_info(tokenizer, &info);
    (void)ofr_tokenizer_stop_ids(tokenizer, &count);
    unsigned flags = OFR_TOKENIZE_PARSE_SPECIAL | OFR_TOKENIZE_ADD_BOS_EOS;
    if (!ofr_tokenizer_encode(tokenizer, text, sizeof text - 1, flags, &ids, &count, &err)) {
        for (size_t i = 0; i < count; i++)
            assert_in_range(ids[i], 0, info.vocab_size - 1);
        if (!ofr_tokenizer_decode(tokenizer, ids, count, 0, &back, &size, &err))
            free(back);
        free(ids);
    }
    for (int32_t id = 0; id < info.vocab_size; id += 7)
        if (!ofr_tokenizer_decode(tokenizer, &id, 1, OFR_DETOKENIZE_SPECIAL, &back, &size, &err))
            free(back);
}

static void make_image(int kind, void **ret_image, size_t *ret_size)
{
    small_vocab small;
    if (kind == OFR_VOCAB_KIND_BPE)
        small_byte_level(&small, "gpt-2");
    else
        small_pieces(&small, (enum ofr_vocab_kind)kind);
    small_close(small_open(&small.vocab, ret_image, ret_size), NULL);
}

static void truncated_files_are_refused(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        void *image;
        size_t size;
        make_image(kind, &image, &size);
        for (size_t cut = 0; cut < size; cut += cut < 400 ? 1 : 97) {
            char *copy = malloc(cut ? cut : 1); /* so that reading beyond shows */
            memcpy(copy, image, cut);
            ofr_tokenizer *tokenizer = NULL;
            ofr_error err = {0};
            assert_int_not_equal(ofr_tokenizer_open(copy, cut, &tokenizer, &err), 0);
            assert_true(strlen(err.text) > 0);
            free(copy);
        }
        free(image);
    }
}

static void every_flipped_byte_is_refused(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        void *image;
        size_t size;
        make_image(kind, &image, &size);
        unsigned char *bytes = image;
        for (size_t at = 0; at < size; at += at < 512 ? 1 : 61) {
            bytes[at] ^= (unsigned char)(1u << (at % 8));
            ofr_tokenizer *tokenizer = NULL;
            ofr_error err = {0};
            if (!ofr_tokenizer_open(image, size, &tokenizer, &err))
                fail_msg("a flipped bit at byte %zu of %zu was not noticed", at, size);
            bytes[at] ^= (unsigned char)(1u << (at % 8));
        }
        free(image);
    }
}

static void damage_under_a_valid_checksum_stays_inside(void **state)
{
    (void)state;
    uint64_t seed = 42;
    size_t opened = 0, refused = 0;
    for (int kind = 0; kind < 3; kind++) {
        void *image;
        size_t size;
        make_image(kind, &image, &size);
        char *copy = malloc(size);
        for (int round = 0; round < 1500; round++) {
            memcpy(copy, image, size);
            for (uint64_t changes = 1 + next_random(&seed) % 4; changes; changes--) {
                /* Half of the changes hit the header, where they do most harm. */
                size_t range = next_random(&seed) & 1 ? 288 : size - sizeof(uint64_t);
                size_t at = 32 + next_random(&seed) % (range - 32);
                uint64_t value = next_random(&seed);
                memcpy(copy + at, &value, 1 + next_random(&seed) % 4);
            }
            ((ofr_tokenizer_header *)(void *)copy)->checksum = ofr_tokenizer_checksum(copy, size);
            ofr_tokenizer *tokenizer = NULL;
            ofr_error err = {0};
            if (ofr_tokenizer_open(copy, size, &tokenizer, &err)) {
                refused++;
                continue;
            }
            opened++;
            exercise(tokenizer);
            ofr_tokenizer_close(tokenizer);
        }
        free(copy);
        free(image);
    }
    /* Both must happen, or the test looks at nothing. */
    assert_true(opened > 100);
    assert_true(refused > 100);
}

static void other_versions_and_files_are_named(void **state)
{
    (void)state;
    void *image;
    size_t size;
    ofr_tokenizer *tokenizer;
    ofr_error err = {0};
    make_image(0, &image, &size);
    ((ofr_tokenizer_header *)image)->version = 2;
    assert_int_equal(ofr_tokenizer_open(image, size, &tokenizer, &err), OFR_EVERSION);
    assert_non_null(strstr(err.text, "version 2"));
    memset(image, 'x', 16);
    assert_int_equal(ofr_tokenizer_open(image, size, &tokenizer, &err), OFR_EFORMAT);
    assert_non_null(strstr(err.text, "not a tokenizer.bin"));
    assert_int_equal(ofr_tokenizer_open(NULL, 0, &tokenizer, &err), OFR_EINVAL);
    assert_int_equal(ofr_tokenizer_open((char *)image + 1, size - 1, &tokenizer, &err), OFR_EINVAL);
    assert_null(ofr_tokenizer_close(NULL));
    free(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(every_flipped_byte_is_refused),
        cmocka_unit_test(damage_under_a_valid_checksum_stays_inside),
        cmocka_unit_test(other_versions_and_files_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
