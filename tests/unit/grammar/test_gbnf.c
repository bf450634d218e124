/* GBNF: what the notation means, and what is refused with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "support/grammar_vocab.h"

static grammar_vocab vocab;

static ofr_grammar *compile(const char *text)
{
    ofr_grammar *grammar = NULL;
    ofr_error err = {0};
    if (ofr_grammar_from_gbnf(text, strlen(text), &grammar, &err) < 0)
        fail_msg("%s\n%s", text, err.text);
    return grammar;
}

/* `texts` and `others` end with NULL. */
static void check(const char *gbnf, const char *const *texts, const char *const *others)
{
    ofr_grammar *grammar = compile(gbnf);
    for (; *texts; texts++)
        if (!grammar_accepts(grammar, &vocab, *texts, strlen(*texts)))
            fail_msg("%s\ndoes not accept \"%s\"", gbnf, *texts);
    for (; *others; others++)
        if (grammar_accepts(grammar, &vocab, *others, strlen(*others)))
            fail_msg("%s\naccepts \"%s\"", gbnf, *others);
    ofr_grammar_free(grammar);
}
#define LIST(...)                                                                                  \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

static void notation(void **state)
{
    (void)state;
    check("root ::= \"yes\" | \"no\"", LIST("yes", "no"), LIST("", "y", "yesno", "maybe"));
    check("root ::= [a-c]+ [^a-c\\]]?", LIST("a", "abcd", "cc\xC3\xA9"), LIST("", "ad]", "d"));
    check("root ::= (\"a\" | b)* \"!\" # comment\n\nb ::= \"b\"", LIST("!", "abba!"),
          LIST("ab", "c!"));
    check("root ::= \"a\"{3} | \"b\"{2,} | \"c\"{1,3} | \"d\"{,2}",
          LIST("aaa", "bb", "bbbbb", "c", "ccc", "", "dd"), LIST("aa", "aaaa", "b", "cccc", "ddd"));
    check("root ::= \"\\x41\\u00e9\\U0001F999\\n\\\\\\\"\"",
          LIST("A\xC3\xA9\xF0\x9F\xA6\x99\n\\\""), LIST("A"));
    check("root ::= .\n", LIST("a", "\xE2\x82\xAC", "\n"), LIST("", "aa", "\x80", "\xE2\x82"));
    check("root ::=\n  \"a\" |\n  \"b\"\nrest-1 ::= (\n\"x\"\n)\n", LIST("a", "b"), LIST("x"));
    check("root ::= \"\" | \"x\"", LIST("", "x"), LIST("xx"));
    check("root ::= [-a] [a-]", LIST("--", "aa"), LIST("b-"));
    check("root ::= ([a-z]{2} \",\"){2} (\"x\"{2} \"y\"?){1,2}", LIST("ab,cd,xxy", "ab,cd,xxyxx"),
          LIST("ab,xx", "abc,cd,xx", "ab,cd,xxxxxx", "ab,cd,x"));
    check("root ::= [\xC3\xA0-\xC3\xBC]+", LIST("\xC3\xA9", "\xC3\xA0\xC3\xBC"),
          LIST("\xC3\xBD", "e"));
    check("root ::= [^\\x00-\\x7F]", LIST("\xC3\xA9", "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF"),
          LIST("a", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC0\x80", "\xE0\x80\x80"));
}

static void recursion(void **state)
{
    (void)state;
    check("root ::= \"(\" root \")\" | \"x\"", LIST("x", "((x))"), LIST("((x)", "(x))"));
    check("root ::= expr\nexpr ::= term (\"+\" term)*\nterm ::= [0-9]+ | \"(\" expr \")\"",
          LIST("1", "1+(2+3)", "((4))"), LIST("1+", "(1", "()"));
    check("root ::= item root | item\nitem ::= [ab]", LIST("a", "abab"), LIST("", "c"));
    /* Twice as many ways to read each further letter: the state must not grow with them. */
    check("root ::= s\ns ::= \"a\" s \"b\" | \"a\" s \"c\" | \"\"",
          LIST("", "aabc", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabcbcbcbcbcbcbcbcbcbcbcbcbcbcbcbc"),
          LIST("aab", "abc"));
    /* Right recursion needs no depth. */
    char text[4096];
    memset(text, 'a', sizeof text);
    ofr_grammar *grammar = compile("root ::= [a-b] root | \"!\"");
    text[sizeof text - 1] = '!';
    assert_true(grammar_accepts(grammar, &vocab, text, sizeof text));
    ofr_grammar_free(grammar);
    /* Nesting ends at OFR_GRAMMAR_DEPTH_MAX. */
    grammar = compile("root ::= \"(\" root \")\" | \"x\"");
    ofr_matcher *matcher;
    ofr_error err;
    assert_int_equal(ofr_matcher_new(grammar, vocab.vocabulary, &matcher, &err), 0);
    size_t depth = 0;
    while (ofr_matcher_accept_bytes(matcher, "(", 1, &err) == 0 && depth < 10000)
        depth++;
    assert_in_range(depth, OFR_GRAMMAR_DEPTH_MAX - 1, OFR_GRAMMAR_DEPTH_MAX + 1);
    assert_int_equal(ofr_matcher_accept_bytes(matcher, "x", 1, &err), 0);
    for (size_t i = 0; i < depth; i++)
        assert_int_equal(ofr_matcher_accept_bytes(matcher, ")", 1, &err), 0);
    assert_true(ofr_matcher_is_done(matcher));
    ofr_matcher_free(matcher);
    ofr_grammar_free(grammar);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *words;
    } cases[] = {
        {"", OFR_EINVAL, "no rule 'root'"},
        {"item ::= \"a\"", OFR_EINVAL, "no rule 'root'"},
        {"root ::= item", OFR_EINVAL, "line 1, column 10: rule 'item' is not defined"},
        {"root ::= \"a\"\nroot ::= \"b\"", OFR_EINVAL,
         "line 2, column 1: rule 'root' is defined "
         "twice"},
        {"root ::= \"a", OFR_EFORMAT, "line 1, column 10: the literal is not closed"},
        {"root ::= [a-", OFR_EFORMAT, "the class is not closed"},
        {"root ::= (\"a\"", OFR_EFORMAT, "the parenthesis is not closed"},
        {"root ::= \"a\")", OFR_EFORMAT, "no open parenthesis"},
        {"root = \"a\"", OFR_EFORMAT, "line 1, column 6: expected ::="},
        {"root ::= \"\\q\"", OFR_EFORMAT, "unknown escape"},
        {"root ::= \"\\uD800\"", OFR_EFORMAT, "U+D800 is no character"},
        {"root ::= [z-a]", OFR_EFORMAT, "ends before it begins"},
        {"root ::= \"a\"{3,2}", OFR_EFORMAT, "at least 3 and at most 2"},
        {"root ::= \"a\"{99999999}", OFR_ELIMIT, "repetitions"},
        {"root ::= \"a\"{", OFR_EFORMAT, "expected a number"},
        {"root ::= root \"a\" | \"a\"", OFR_EUNSUPPORTED, "rule 'root' can begin with itself"},
        {"root ::= a\na ::= b* a \"x\" | \"y\"\nb ::= \"b\"?", OFR_EUNSUPPORTED,
         "can begin with itself"},
        {"root ::= \"a\" | item\nitem ::= \"x\" item", OFR_EINVAL, "rule 'item' can never end"},
        {"root ::= []", OFR_EINVAL, "never end"},
        {"root ::= \"\xFF\"", OFR_EUTF8, "not valid UTF-8"},
        {"root ::= <[12]>", OFR_EUNSUPPORTED, "named by their text"},
        {"root ::= <abc", OFR_EFORMAT, "not closed"},
        {"root ::= (\"a\"?){1,1000}", OFR_ELIMIT, "of what may be empty"},
        {"root ::= * \"a\"", OFR_EFORMAT, "unexpected '*'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ofr_grammar *grammar = NULL;
        ofr_error err = {0};
        int r = ofr_grammar_from_gbnf(cases[i].text, strlen(cases[i].text), &grammar, &err);
        if (r != cases[i].code || !strstr(err.text, cases[i].words))
            fail_msg("%s\n%d: %s\nexpected %d: %s", cases[i].text, r, err.text, cases[i].code,
                     cases[i].words);
    }
}

static void control_tokens(void **state)
{
    (void)state;
    ofr_grammar *grammar = compile("root ::= <|tool_call|> \"x\" | <tool_call> \"y\"");
    ofr_matcher *matcher;
    ofr_error err;
    const uint32_t *mask;
    int32_t control = ofr_tokenizer_find(vocab.tokenizer, "<|tool_call|>", 13);
    int32_t text = ofr_tokenizer_find(vocab.tokenizer, "<tool_call>", 11);
    assert_int_equal(ofr_matcher_new(grammar, vocab.vocabulary, &matcher, &err), 0);
    assert_int_equal(ofr_matcher_mask(matcher, &mask, &err), 0);
    assert_true(ofr_mask_allows(mask, control) && ofr_mask_allows(mask, text));
    assert_true(ofr_mask_allows(mask, '<')); /* the text may be spelled, too */
    assert_false(ofr_mask_allows(mask, 'x'));
    assert_int_equal(ofr_matcher_accept(matcher, control, &err), 0);
    assert_int_equal(ofr_matcher_mask(matcher, &mask, &err), 0);
    assert_true(ofr_mask_allows(mask, 'x'));
    assert_false(ofr_mask_allows(mask, 'y'));
    ofr_matcher_free(matcher);
    ofr_grammar_free(grammar);
    /* A token that the vocabulary lacks has no way to be written, but its text has. */
    grammar = compile("root ::= <|missing|>");
    assert_true(grammar_accepts(grammar, &vocab, "<|missing|>", 11));
    ofr_grammar_free(grammar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(notation),
        cmocka_unit_test(recursion),
        cmocka_unit_test(refusals),
        cmocka_unit_test(control_tokens),
    };
    grammar_vocab_init(&vocab);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    grammar_vocab_done(&vocab);
    return failed;
}
