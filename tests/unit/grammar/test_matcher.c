/* Masks: at every state, a token is allowed exactly if its bytes can follow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "support/grammar_vocab.h"

static grammar_vocab vocab;

static const char json[] =
    "root ::= object\n"
    "value ::= object | array | string | number | \"true\" | \"false\" | \"null\"\n"
    "object ::= \"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)*)? \"}\" ws\n"
    "array ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\n"
    "string ::= \"\\\"\" ([^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt] | \"u\" "
    "[0-9a-fA-F]{4}))* \"\\\"\" ws\n"
    "number ::= \"-\"? ([0-9] | [1-9] [0-9]{0,15}) (\".\" [0-9]+)? ([eE] [-+]? [0-9]+)? ws\n"
    "ws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n";

static const char *const grammars[] = {
    json,
    "root ::= \"\\\"\" [^\"\\\\\\x00-\\x1F]{2,9} \"\\\"\"",
    "root ::= \"\\\"\" ([^\"\\\\\\x00-\\x1F] | \"\\\\\" [n\\\"])* \"\\\"\" [a-z]{0,3}",
    "root ::= ([^\"\\\\\\x00-\\x1F]{3} | [a-f]+ [^a]{0,4})",
    "root ::= [^\"\\\\\\x00-\\x1F]{1,30} [a-z]?",
    "root ::= .{0,5} | (\"(\" root \")\")+",
    "root ::= ((\"a\" | \"ab\" | \"abc\") \" \"?){2,7} (\"\xC3\xA9\" | "
    "[\xE2\x82\xA0-\xE2\x82\xBF])*",
    "root ::= s\ns ::= \"a\" s \"b\" | \"a\" s \"c\" | \"\"",
    "root ::= <tool_call> \"{\" [^}]* \"}\" <|tool_call|>? | [TOOLCS_\\[\\]]+",
    "root ::= (item \",\"){3} item\nitem ::= [a-z]+ | \"[\" item (\",\" item)* \"]\"",
};

static uint32_t random_state = 12345;
static uint32_t next_random(uint32_t below)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(random_state >> 8) * below >> 24);
}

/* The mask of `matcher`, which has read `text`, against every token tried on its own. */
static void compare(const ofr_grammar *grammar, const uint32_t *mask, const char *text, size_t size)
{
    ofr_matcher *probe;
    ofr_error err;
    const ofr_vocabulary *v = vocab.vocabulary;
    assert_int_equal(ofr_matcher_new(grammar, v, &probe, &err), 0);
    for (int32_t id = 0; id < v->size; id++) {
        ofr_matcher_reset(probe);
        assert_int_equal(ofr_matcher_accept_bytes(probe, text, size, &err), 0);
        bool may = ofr_matcher_accept(probe, id, &err) == 0;
        if (may != ofr_mask_allows(mask, id))
            fail_msg("after \"%.*s\": token %d \"%.*s\" is %s, the mask says %s", (int)size, text,
                     id, (int)(v->offsets[id + 1] - v->offsets[id]), v->bytes + v->offsets[id],
                     may ? "possible" : "impossible", may ? "no" : "yes");
    }
    ofr_matcher_free(probe);
}

static void masks_are_exact(void **state)
{
    (void)state;
    const ofr_vocabulary *v = vocab.vocabulary;
    for (size_t g = 0; g < sizeof grammars / sizeof grammars[0]; g++) {
        ofr_grammar *grammar = NULL;
        ofr_error err = {0};
        ofr_matcher *matcher;
        if (ofr_grammar_from_gbnf(grammars[g], strlen(grammars[g]), &grammar, &err) < 0 ||
            ofr_matcher_new(grammar, v, &matcher, &err) < 0)
            fail_msg("%s\n%s", grammars[g], err.text);
        for (int round = 0; round < 6; round++) {
            char text[1024];
            size_t size = 0;
            ofr_matcher_reset(matcher);
            for (int step = 0; step < 14 && !ofr_matcher_is_done(matcher) && size < 800; step++) {
                const uint32_t *mask;
                if (ofr_matcher_mask(matcher, &mask, &err) < 0)
                    fail_msg("%s", err.text);
                compare(grammar, mask, text, size);
                int32_t id;
                do {
                    id = (int32_t)next_random((uint32_t)v->size);
                } while (!ofr_mask_allows(mask, id));
                assert_int_equal(ofr_matcher_accept(matcher, id, &err), 0);
                if (id == vocab.end)
                    break;
                memcpy(text + size, v->bytes + v->offsets[id], v->offsets[id + 1] - v->offsets[id]);
                size += v->offsets[id + 1] - v->offsets[id];
            }
        }
        ofr_matcher_free(matcher);
        ofr_grammar_free(grammar);
    }
}

static void the_end(void **state)
{
    (void)state;
    ofr_grammar *grammar;
    ofr_matcher *matcher;
    ofr_error err;
    const uint32_t *mask;
    assert_int_equal(ofr_grammar_from_gbnf("root ::= \"a\" \"b\"?", 17, &grammar, &err), 0);
    assert_int_equal(ofr_matcher_new(grammar, vocab.vocabulary, &matcher, &err), 0);
    assert_int_equal(ofr_matcher_mask(matcher, &mask, &err), 0);
    assert_false(ofr_mask_allows(mask, vocab.end));
    assert_false(ofr_matcher_can_end(matcher));
    assert_int_equal(ofr_matcher_accept(matcher, vocab.end, &err), OFR_EINVAL);
    assert_int_equal(ofr_matcher_accept(matcher, 'b', &err), OFR_EINVAL);
    assert_int_equal(ofr_matcher_accept(matcher, -1, &err), OFR_EINVAL);
    assert_int_equal(ofr_matcher_accept(matcher, vocab.vocabulary->size, &err), OFR_EINVAL);
    assert_int_equal(ofr_matcher_accept(matcher, 'a', &err), 0);
    assert_int_equal(ofr_matcher_mask(matcher, &mask, &err), 0);
    assert_true(ofr_mask_allows(mask, vocab.end));
    assert_true(ofr_matcher_can_end(matcher) && !ofr_matcher_is_done(matcher));
    assert_int_equal(ofr_matcher_accept(matcher, 'b', &err), 0);
    assert_true(ofr_matcher_is_done(matcher));
    assert_int_equal(ofr_matcher_mask(matcher, &mask, &err), 0);
    for (int32_t id = 0; id < vocab.vocabulary->size; id++)
        assert_int_equal(ofr_mask_allows(mask, id), id == vocab.end);
    ofr_matcher_reset(matcher);
    assert_int_equal(ofr_matcher_accept(matcher, 'a', &err), 0);
    assert_int_equal(ofr_matcher_accept(matcher, vocab.end, &err), 0);
    assert_true(ofr_matcher_is_done(matcher));
    assert_int_equal(ofr_matcher_accept(matcher, 'b', &err), OFR_EINVAL);
    ofr_matcher_free(matcher);
    ofr_grammar_free(grammar);
}

/* A long text with ever new stacks: what is not needed any more is dropped, and the masks stay
 * right. */
static void a_long_text(void **state)
{
    (void)state;
    ofr_grammar *grammar;
    ofr_matcher *matcher;
    ofr_error err;
    const uint32_t *mask;
    static const char gbnf[] = "root ::= \"[\" (item \",\"){0,1000000} \"]\"\nitem ::= \"(\" item "
                               "\")\" | [0-9]";
    assert_int_equal(ofr_grammar_from_gbnf(gbnf, sizeof gbnf - 1, &grammar, &err), 0);
    assert_int_equal(ofr_matcher_new(grammar, vocab.vocabulary, &matcher, &err), 0);
    assert_int_equal(ofr_matcher_accept_bytes(matcher, "[", 1, &err), 0);
    for (int i = 0; i < 60000; i++)
        assert_int_equal(ofr_matcher_accept_bytes(matcher, "((1)),", 6, &err), 0);
    assert_int_equal(ofr_matcher_mask(matcher, &mask, &err), 0);
    assert_true(ofr_mask_allows(mask, '(') && ofr_mask_allows(mask, '7') &&
                ofr_mask_allows(mask, ']'));
    assert_false(ofr_mask_allows(mask, ')') || ofr_mask_allows(mask, ','));
    assert_int_equal(ofr_matcher_accept_bytes(matcher, "1]", 2, &err), OFR_EINVAL);
    assert_int_equal(ofr_matcher_accept_bytes(matcher, "1,]", 3, &err), 0);
    assert_true(ofr_matcher_is_done(matcher));
    ofr_matcher_free(matcher);
    ofr_grammar_free(grammar);
}

/* Near the greatest depth tokens are tried with what is below them. */
static void the_deepest_text(void **state)
{
    (void)state;
    ofr_grammar *grammar;
    ofr_matcher *matcher;
    ofr_error err;
    const uint32_t *mask;
    static const char gbnf[] = "root ::= \"[\" (root (\",\" root)*)? \"]\"";
    assert_int_equal(ofr_grammar_from_gbnf(gbnf, sizeof gbnf - 1, &grammar, &err), 0);
    assert_int_equal(ofr_matcher_new(grammar, vocab.vocabulary, &matcher, &err), 0);
    char text[OFR_GRAMMAR_DEPTH_MAX + 8];
    size_t size = 0;
    for (; size < sizeof text; size++) {
        text[size] = '[';
        if (size % 64 == 0 || size > OFR_GRAMMAR_DEPTH_MAX - 4) {
            assert_int_equal(ofr_matcher_mask(matcher, &mask, &err), 0);
            compare(grammar, mask, text, size);
        }
        if (ofr_matcher_accept_bytes(matcher, "[", 1, &err) < 0)
            break;
    }
    assert_in_range(size, OFR_GRAMMAR_DEPTH_MAX - 1, OFR_GRAMMAR_DEPTH_MAX + 2);
    ofr_matcher_free(matcher);
    ofr_grammar_free(grammar);
}

static void too_ambiguous(void **state)
{
    (void)state;
    /* Exponentially many counters; the work of a call is bounded. */
    static const char gbnf[] = "root ::= ((((\"a\"{0,200} \"a\"?){0,200} \"a\"?){0,200} "
                               "\"a\"?){0,200} \"b\"){0,200}";
    ofr_grammar *grammar = NULL;
    ofr_matcher *matcher = NULL;
    ofr_error err = {0};
    if (ofr_grammar_from_gbnf(gbnf, sizeof gbnf - 1, &grammar, &err) < 0)
        fail_msg("%s", err.text);
    int r = ofr_matcher_new(grammar, vocab.vocabulary, &matcher, &err);
    const uint32_t *mask;
    for (int i = 0; r == 0 && i < 20; i++) {
        r = ofr_matcher_mask(matcher, &mask, &err);
        if (r == 0)
            r = ofr_matcher_accept_bytes(matcher, "aaaaaaaa", 8, &err);
    }
    assert_true(r == 0 || r == OFR_ELIMIT);
    ofr_matcher_free(matcher);
    ofr_grammar_free(grammar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_are_exact), cmocka_unit_test(the_end),
        cmocka_unit_test(a_long_text),     cmocka_unit_test(the_deepest_text),
        cmocka_unit_test(too_ambiguous),
    };
    grammar_vocab_init(&vocab);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    grammar_vocab_done(&vocab);
    return failed;
}
