/* Encoding and decoding of the three kinds, special tokens, spaces, adversarial lengths. */
#include "unit/tokenizer/expect.h"

#include <pthread.h>
#include <time.h>

#define MARK "\xE2\x96\x81"

static void byte_level_merges_by_rank(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    small_byte_level(&small, "gpt-2");
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, "hello", 0, "hello");
    small_expect(tokenizer, "  hello hellx", 0, "\xC4\xA0|\xC4\xA0hello|\xC4\xA0|hell|x");
    small_expect(tokenizer, "aaaaaaa", 0, "aaaa|aa|a");
    small_expect(tokenizer, "", 0, "");
    small_close(tokenizer, image);
}

static void digits_follow_the_rule(void **state)
{
    (void)state;
    static const struct {
        const char *pre, *expected;
    } cases[] = {{"gpt-2", "12"}, {"smollm", "1|2"}, {"qwen2", "1|2"}, {"llama-bpe", "12"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        small_vocab small;
        void *image;
        size_t size;
        small_byte_level(&small, cases[i].pre);
        ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
        small_expect(tokenizer, "12", 0, cases[i].expected);
        small_close(tokenizer, image);
    }
}

static void ignore_merges_takes_whole_words(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    small_byte_level(&small, "llama-bpe");
    assert_true(small.vocab.ignore_merges);
    small_add(&small, "\xC4\xA0word", OFR_TOKEN_TYPE_NORMAL, 0.0f);
    small.vocab.add_bos = false;
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, " word", 0, "\xC4\xA0word");
    small_expect(tokenizer, " words", 0, "\xC4\xA0|w|o|r|d|s");
    small_close(tokenizer, image);
    small.vocab.ignore_merges = false;
    tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, " word", 0, "\xC4\xA0|w|o|r|d");
    small_close(tokenizer, image);
}

static void control_tokens_are_text_unless_asked_for(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    small_byte_level(&small, "gpt-2");
    small.vocab.add_bos = true;
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, "he<|im_end|>[user]", OFR_TOKENIZE_PARSE_SPECIAL,
                 "he|<|im_end|>|[user]");
    small_expect(tokenizer, "<|im_end|>[user]", 0, "<|||i|m|_|e|n|d|||>|[user]");
    small_expect(tokenizer, "a", OFR_TOKENIZE_ADD_BOS_EOS, "<|im_start|>|a");
    small_expect(tokenizer, "", OFR_TOKENIZE_ADD_BOS_EOS, "<|im_start|>");
    assert_true(ofr_tokenizer_is_control(tokenizer, small.vocab.eos_id));
    assert_false(ofr_tokenizer_is_control(tokenizer, 0));
    assert_false(ofr_tokenizer_is_control(tokenizer, -1));
    assert_false(ofr_tokenizer_is_control(tokenizer, small.vocab.n_tokens));
    small_close(tokenizer, image);
}

static void longest_special_token_wins(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    small_byte_level(&small, "gpt-2");
    small_add(&small, "[u", OFR_TOKEN_TYPE_USER_DEFINED, 0.0f);
    small_add(&small, "[user]+", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, "[user]+[us[user", 0, "[user]|+|[u|s|[u|s|e|r");
    small_expect(tokenizer, "[user]+[us", OFR_TOKENIZE_PARSE_SPECIAL, "[user]+|[u|s");
    small_close(tokenizer, image);
}

static void special_tokens_take_white_space_with_them(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    uint8_t strip[SMALL_TOKENS_MAX] = {0};
    small_byte_level(&small, "gpt-2");
    strip[small.vocab.eos_id] = OFR_TOKEN_STRIP_BEFORE | OFR_TOKEN_STRIP_AFTER;
    small.vocab.strip = strip;
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, "a \xC2\xA0<|im_end|>\n\xE3\x80\x80he <|im_start|> a",
                 OFR_TOKENIZE_PARSE_SPECIAL, "a|<|im_end|>|he|\xC4\xA0|<|im_start|>|\xC4\xA0|a");
    small_expect(tokenizer, " \n<|im_end|> ", OFR_TOKENIZE_PARSE_SPECIAL, "<|im_end|>");
    small_close(tokenizer, image);
}

static void spm_merges_by_score_and_falls_back_to_bytes(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size;
    small_pieces(&small, OFR_VOCAB_KIND_SPM);
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    small_expect(tokenizer, "hello", 0, MARK "hello");
    small_expect(tokenizer, "hello hello", OFR_TOKENIZE_ADD_BOS_EOS,
                 "<s>|" MARK "hello|" MARK "hello");
    small_expect(tokenizer, "\xE2\x82\xAC", 0, MARK "|<0xE2>|<0x82>|<0xAC>");
    /* Neither byte tokens nor control tokens come from ordinary text. */
    small_expect(tokenizer, "<0x41><s>", 0,
                 MARK "|<0x3C>|<0x30>|<0x78>|<0x34>|<0x31>|<0x3E>|<0x3C>|<0x73>|<0x3E>");
    small_expect(tokenizer, "a</s>a[user]a", OFR_TOKENIZE_PARSE_SPECIAL,
                 MARK "|a|</s>|" MARK "|a|[user]|" MARK "|a");
    small_close(tokenizer, image);
}

static void unknown_characters_in_a_row_are_one_token(void **state)
{
    (void)state;
    static const enum ofr_vocab_kind kinds[] = {OFR_VOCAB_KIND_SPM, OFR_VOCAB_KIND_UNIGRAM};
    for (size_t i = 0; i < 2; i++) {
        small_vocab small;
        void *image;
        size_t size;
        small_pieces(&small, kinds[i]);
        for (int32_t id = 3; id < 259; id++) {
            small.types[id] = OFR_TOKEN_TYPE_NORMAL;
            small.tokens[id] = (ofr_bytes){"", 0};
        }
        ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
        small_expect(tokenizer,
                     "\xE2\x82\xAC\xE2\x82\xAC"
                     "aa\xE2\x82\xAC",
                     0, MARK "|<unk>|aa|<unk>");
        small_close(tokenizer, image);
    }
}

static void lossless_kinds_give_the_text_back(void **state)
{
    (void)state;
    static const char text[] = "  hello\n\nhello  \xF0\x9F\xA6\x99 caf\xC3\xA9\0\x01 e\xCC\x81 "
                               "\xEE\x80\x80\xF4\x8F\xBF\xBD \xD7\xA9[user]  <|im_end|> x </s> ";
    small_vocab small;
    void *image;
    size_t size;
    for (int kind = 0; kind < 3; kind++) {
        if (kind == 0)
            small_byte_level(&small, "qwen2");
        else
            small_pieces(&small, kind == 1 ? OFR_VOCAB_KIND_SPM : OFR_VOCAB_KIND_UNIGRAM);
        ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
        for (size_t length = 0; length < sizeof text; length++) {
            if (!ofr_utf8_validate(text, length, NULL))
                continue;
            small_round_trip(tokenizer, text, length, false);
            small_round_trip(tokenizer, text, length, true);
        }
        small_close(tokenizer, image);
    }
}

static void invalid_text_is_refused_at_its_offset(void **state)
{
    (void)state;
    small_vocab small;
    void *image;
    size_t size, count;
    int32_t *ids;
    ofr_error err = {0};
    small_byte_level(&small, "gpt-2");
    ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
    assert_int_equal(ofr_tokenizer_encode(tokenizer, "abc\xFFz", 5, 0, &ids, &count, &err),
                     OFR_EUTF8);
    assert_non_null(strstr(err.text, "byte 3"));
    small_close(tokenizer, image);
}

static void expect_fast(const ofr_tokenizer *tokenizer, const char *unit, size_t total,
                        const char *tail)
{
    size_t unit_size = strlen(unit), tail_size = strlen(tail), count;
    char *text = malloc(total + unit_size + tail_size);
    size_t size = 0;
    while (size < total) {
        memcpy(text + size, unit, unit_size);
        size += unit_size;
    }
    memcpy(text + size, tail, tail_size);
    size += tail_size;
    struct timespec begin, end;
    int32_t *ids;
    ofr_error err = {0};
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_int_equal(ofr_tokenizer_encode(tokenizer, text, size, 0, &ids, &count, &err), 0);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double taken =
        (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    /* Quadratic work on a megabyte would take hours; sanitizers cost a factor of ten or so. */
    if (taken > 30.0)
        fail_msg("%zu bytes of '%s' took %.1f s", size, unit, taken);
    char *back;
    size_t back_size;
    assert_int_equal(ofr_tokenizer_decode(tokenizer, ids, count, 0, &back, &back_size, &err), 0);
    assert_int_equal(back_size, size);
    assert_memory_equal(back, text, size);
    free(back);
    free(ids);
    free(text);
}

static void long_runs_are_not_quadratic(void **state)
{
    (void)state;
    static const char *const rules[] = {"gpt-2",  "llama-bpe",   "qwen2",  "deepseek-llm",
                                        "tekken", "deepseek-v3", "falcon", "deepseek-coder"};
    static const char *const units[] = {"a", " ",  "\n",           "7",        "!",
                                        "A", "aA", "\xE6\xBC\xA2", "e\xCC\x81"};
    small_vocab small;
    void *image;
    size_t size;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        small_byte_level(&small, rules[i]);
        small.vocab.add_bos = false;
        ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
        for (size_t j = 0; j < sizeof units / sizeof units[0]; j++)
            expect_fast(tokenizer, units[j], i ? 100000 : 1000000, "\xE6\xBC\xA2");
        small_close(tokenizer, image);
    }
    for (int kind = OFR_VOCAB_KIND_SPM; kind <= OFR_VOCAB_KIND_UNIGRAM; kind++) {
        small_pieces(&small, (enum ofr_vocab_kind)kind);
        ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
        for (size_t j = 0; j < sizeof units / sizeof units[0]; j++)
            expect_fast(tokenizer, units[j], 300000, "x");
        small_close(tokenizer, image);
    }
}

enum { THREADS = 4, ROUNDS = 200 };
static const char shared_text[] =
    "  hello hello 12 caf\xC3\xA9 [user] aaaaaaa\n\n \xE6\xBC\xA2 it's";

typedef struct thread_case {
    const ofr_tokenizer *tokenizer;
    const int32_t *expected;
    size_t count;
    bool equal;
} thread_case;

static void *encode_repeatedly(void *argument)
{
    thread_case *mine = argument;
    mine->equal = true;
    for (int round = 0; round < ROUNDS; round++) {
        int32_t *ids;
        size_t count;
        if (ofr_tokenizer_encode(mine->tokenizer, shared_text, sizeof shared_text - 1, 0, &ids,
                                 &count, NULL)) {
            mine->equal = false;
            return NULL;
        }
        mine->equal = mine->equal && count == mine->count &&
                      !memcmp(ids, mine->expected, count * sizeof *ids);
        free(ids);
    }
    return NULL;
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        small_vocab small;
        void *image;
        size_t size, count;
        int32_t *expected;
        ofr_error err = {0};
        if (kind == OFR_VOCAB_KIND_BPE)
            small_byte_level(&small, "deepseek-llm");
        else
            small_pieces(&small, (enum ofr_vocab_kind)kind);
        ofr_tokenizer *tokenizer = small_open(&small.vocab, &image, &size);
        assert_int_equal(ofr_tokenizer_encode(tokenizer, shared_text, sizeof shared_text - 1, 0,
                                              &expected, &count, &err),
                         0);
        pthread_t threads[THREADS];
        thread_case cases[THREADS];
        for (int i = 0; i < THREADS; i++) {
            cases[i] = (thread_case){tokenizer, expected, count, false};
            assert_int_equal(pthread_create(&threads[i], NULL, encode_repeatedly, &cases[i]), 0);
        }
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < THREADS; i++)
            assert_true(cases[i].equal);
        free(expected);
        small_close(tokenizer, image);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level_merges_by_rank),
        cmocka_unit_test(digits_follow_the_rule),
        cmocka_unit_test(ignore_merges_takes_whole_words),
        cmocka_unit_test(control_tokens_are_text_unless_asked_for),
        cmocka_unit_test(longest_special_token_wins),
        cmocka_unit_test(special_tokens_take_white_space_with_them),
        cmocka_unit_test(spm_merges_by_score_and_falls_back_to_bytes),
        cmocka_unit_test(unknown_characters_in_a_row_are_one_token),
        cmocka_unit_test(lossless_kinds_give_the_text_back),
        cmocka_unit_test(invalid_text_is_refused_at_its_offset),
        cmocka_unit_test(long_runs_are_not_quadratic),
        cmocka_unit_test(threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
