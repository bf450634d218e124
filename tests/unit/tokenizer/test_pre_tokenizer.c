/* Pre-tokenizers: pieces cover the text, rules cut where they should, every rule compiles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tokenizer/pre_tokenizer.h"

static void expect(const char *name, const char *text, const char *expected)
{
    ofr_error err = {0};
    ofr_pre_tokenizer *pre_tokenizer = NULL;
    uint32_t *ends = NULL;
    size_t count = 0, begin = 0;
    char joined[512] = "";
    const ofr_pre_rule *rule = ofr_pre_rule_find(name);
    assert_non_null(rule);
    if (ofr_pre_tokenizer_new(rule, &pre_tokenizer, &err) ||
        ofr_pre_tokenizer_split(pre_tokenizer, text, strlen(text), &ends, &count, &err))
        fail_msg("%s: %s", name, err.text);
    for (size_t i = 0; i < count; i++) {
        size_t used = strlen(joined);
        assert_true(ends[i] > begin);
        snprintf(joined + used, sizeof joined - used, "%s%.*s", i ? "|" : "",
                 (int)(ends[i] - begin), text + begin);
        begin = ends[i];
    }
    assert_int_equal(begin, strlen(text));
    assert_string_equal(joined, expected);
    free(ends);
    ofr_pre_tokenizer_free(pre_tokenizer);
}

static void words_are_cut_as_the_models_cut_them(void **state)
{
    (void)state;
    static const char text[] = "Don't 'LL camelCase  x 1234\r\n\n y!?\t";
    expect("gpt-2", text, "Don|'t| '|LL| camelCase| | x| 1234|\r\n\n| y|!?|\t");
    expect("smollm", text, "Don|'t| '|LL| camelCase| | x| |1|2|3|4|\r\n\n| y|!?|\t");
    expect("llama-bpe", text, "Don|'t| '|LL| camelCase| | x| |123|4|\r\n\n| y|!?|\t");
    expect("qwen2", text, "Don|'t| '|LL| camelCase| | x| |1|2|3|4|\r\n\n| y|!?|\t");
    expect("tekken", text, "Don|'t| '|LL| camel|Case| | x| |1|2|3|4|\r\n\n| y|!?|\t");
    expect("gpt-4o", text, "Don't| '|LL| camel|Case| | x| |123|4|\r\n\n| y|!?|\t");
    expect("deepseek-coder", text, "Don|'|t| '|LL| camelCase| | x| |1|2|3|4|\r|\n|\n| y|!?|\t");
    expect("falcon", text, "Don|'|t| |'|LL| camelCase| | x| |123|4|\r\n\n| y|!?|\t");
    expect("llama-bpe", "'LL'\xC5\xBF", "'LL|'\xC5\xBF");    /* s and long s are one letter */
    expect("gpt-2", "a\xE1\xA0\x8E b", "a|\xE1\xA0\x8E| b"); /* U+180E is no white space */
    expect("gpt-2", "", "");
}

static void every_rule_compiles_and_covers_the_text(void **state)
{
    (void)state;
    static const char text[] =
        "A\xC3\xA9'S 12 \xE6\xBC\xA2\xE5\xAD\x97\n\n \xC2\xA0 x\0y \xF0\x9F\xA6\x99\xCC\x81 "
        "$+<=>^~|`. \r\n \xEE\x80\x80 \xC2\xBD";
    size_t rules;
    const ofr_pre_rule *all = ofr_pre_rule_all(&rules);
    assert_true(rules > 40);
    for (size_t i = 0; i < rules; i++) {
        ofr_error err = {0};
        ofr_pre_tokenizer *pre_tokenizer;
        uint32_t *ends;
        size_t count, end = 0;
        if (i && strcmp(all[i - 1].name, all[i].name) >= 0)
            fail_msg("'%s' is not in order", all[i].name);
        assert_ptr_equal(ofr_pre_rule_find(all[i].name), &all[i]);
        if (ofr_pre_tokenizer_new(&all[i], &pre_tokenizer, &err))
            fail_msg("%s: %s", all[i].name, err.text);
        for (size_t size = 0; size < sizeof text; size++) {
            if (size < sizeof text - 1 && ((unsigned char)text[size] & 0xC0) == 0x80)
                continue;
            assert_int_equal(
                ofr_pre_tokenizer_split(pre_tokenizer, text, size, &ends, &count, &err), 0);
            end = 0;
            for (size_t j = 0; j < count; j++) {
                assert_true(ends[j] > end);
                end = ends[j];
            }
            assert_int_equal(end, size);
            free(ends);
        }
        ofr_pre_tokenizer_free(pre_tokenizer);
    }
    assert_null(ofr_pre_rule_find("no-such-rule"));
    assert_null(ofr_pre_tokenizer_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_cut_as_the_models_cut_them),
        cmocka_unit_test(every_rule_compiles_and_covers_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
