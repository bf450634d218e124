/* Sets of strings: regular expressions against what they match, lengths, literals, and their
 * algebra. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "grammar/dfa.h"

static ofr_dfa *from(const char *regex)
{
    ofr_dfa *dfa = NULL;
    ofr_error err = {0};
    if (ofr_dfa_from_regex(regex, strlen(regex), &dfa, &err) < 0)
        fail_msg("%s: %s", regex, err.text);
    return dfa;
}

static bool matches(const ofr_dfa *dfa, const char *text)
{
    return ofr_dfa_matches(dfa, text, strlen(text));
}

/* As `pattern`: somewhere in the text, unless anchored. */
static void expressions(void **state)
{
    (void)state;
    static const struct {
        const char *regex, *in[4], *out[4];
    } cases[] = {
        {"^abc$", {"abc"}, {"ab", "abcd", "xabc", ""}},
        {"b", {"b", "abc", "bb"}, {"", "ac"}},
        {"^a*$", {"", "a", "aaaa"}, {"b", "aab"}},
        {"^(ab|c)+?d{2,3}$", {"abdd", "cabddd"}, {"dd", "abd", "abdddd"}},
        {"^[a-cx]{2}$", {"ab", "xx"}, {"a", "ad", "abc"}},
        {"^[^0-9]$", {"a", "\xC3\xA9", "\xF0\x9F\xA6\x99"}, {"5", "", "ab"}},
        {"^\\d\\w\\s$", {"1a ", "0_\n"}, {"aa ", "1a"}},
        {"^.$", {"a", "\xE2\x82\xAC"}, {"\n", ""}},
        {"^\\u00e9\\x41$",
         {"\xC3\xA9"
          "A"},
         {"eA"}},
        {"^\\p{Lu}$", {"A", "\xC3\x89"}, {"a", "1"}},
        {"^(a|)b?$", {"", "a", "b", "ab"}, {"ba"}},
        {"^\\.\\*$", {".*"}, {"ab"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ofr_dfa *dfa = from(cases[i].regex), *other = NULL;
        ofr_error err;
        assert_int_equal(ofr_dfa_complement(dfa, &other, &err), 0);
        for (size_t k = 0; k < 4; k++) {
            const char *in = cases[i].in[k], *out = cases[i].out[k];
            if (in && (!matches(dfa, in) || matches(other, in)))
                fail_msg("%s does not match '%s'", cases[i].regex, in);
            if (out && (matches(dfa, out) || !matches(other, out)))
                fail_msg("%s matches '%s'", cases[i].regex, out);
        }
        ofr_dfa_free(dfa);
        ofr_dfa_free(other);
    }
}

static void refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *regex, *word;
        int code;
    } cases[] = {
        {"a(?=b)", "look", OFR_EUNSUPPORTED}, {"(a)\\1", "back-reference", OFR_EUNSUPPORTED},
        {"\\bword", "\\b", OFR_EUNSUPPORTED}, {"(a", "", OFR_EFORMAT},
        {"[b-a]", "", OFR_EFORMAT},           {"*", "", OFR_EFORMAT},
        {"a{3,1}", "", OFR_EFORMAT},          {"[", "", OFR_EFORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ofr_dfa *dfa = NULL;
        ofr_error err = {0};
        int r = ofr_dfa_from_regex(cases[i].regex, strlen(cases[i].regex), &dfa, &err);
        if (r != cases[i].code || !strstr(err.text, cases[i].word))
            fail_msg("%s: %d, %s", cases[i].regex, r, err.text);
    }
    /* (a|b)*a(a|b){n} needs 2^n states: it ends with an error, not without memory. */
    ofr_dfa *dfa = NULL;
    ofr_error err = {0};
    static const char big[] = "^(a|b)*a(a|b){40}$";
    assert_int_equal(ofr_dfa_from_regex(big, sizeof big - 1, &dfa, &err), OFR_ELIMIT);
}

static void algebra(void **state)
{
    (void)state;
    ofr_dfa *set = NULL, *lengths = NULL, *both = NULL, *words = NULL;
    ofr_error err;
    uint32_t min = 0, max = 0;
    assert_int_equal(ofr_dfa_narrow(&set, from("^[ab]*$"), &err), 0);
    assert_int_equal(ofr_dfa_from_lengths(2, 3, &lengths, &err), 0);
    assert_int_equal(ofr_dfa_narrow(&set, lengths, &err), 0);
    assert_true(matches(set, "ab") && matches(set, "bbb"));
    assert_false(matches(set, "a") || matches(set, "abab") || matches(set, "ac"));
    assert_true(ofr_dfa_lengths(set, &min, &max));
    assert_int_equal(min, 2);
    assert_int_equal(max, 3);
    static const char *const texts[] = {"ba", "c", "\xC3\xA9"};
    static const size_t sizes[] = {2, 1, 2};
    assert_int_equal(ofr_dfa_from_literals(texts, sizes, 3, &words, &err), 0);
    assert_true(matches(words, "ba") && matches(words, "\xC3\xA9"));
    assert_false(matches(words, "b") || matches(words, ""));
    assert_int_equal(ofr_dfa_intersect(set, words, &both, &err), 0);
    assert_true(matches(both, "ba"));
    assert_false(matches(both, "c") || matches(both, "ab"));
    ofr_dfa *nothing = NULL, *empty = from("^$");
    assert_int_equal(ofr_dfa_intersect(both, empty, &nothing, &err), 0);
    assert_true(ofr_dfa_is_empty(nothing));
    assert_false(ofr_dfa_is_empty(both) || ofr_dfa_is_empty(empty));
    assert_false(ofr_dfa_lengths(nothing, &min, &max));
    ofr_dfa_free(set);
    ofr_dfa_free(both);
    ofr_dfa_free(words);
    ofr_dfa_free(nothing);
    ofr_dfa_free(empty);
    assert_null(ofr_dfa_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expressions),
        cmocka_unit_test(refused_by_name),
        cmocka_unit_test(algebra),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
