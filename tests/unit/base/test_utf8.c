/* UTF-8: every scalar value survives, everything ill-formed is found at its offset. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/utf8.h"

static void every_scalar_value_round_trips(void **state)
{
    (void)state;
    for (uint32_t codepoint = 0; codepoint <= 0x10FFFF; codepoint++) {
        if (codepoint >= 0xD800 && codepoint <= 0xDFFF)
            continue;
        char bytes[4];
        size_t size = ofr_utf8_encode(codepoint, bytes);
        uint32_t decoded;
        size_t length;
        if (ofr_utf8_next(bytes, size, &decoded, &length) != OFR_UTF8_STATE_CHARACTER ||
            decoded != codepoint || length != size)
            fail_msg("U+%04X became U+%04X in %zu of %zu bytes", codepoint, decoded, length, size);
        assert_int_equal(ofr_utf8_decode(bytes, &length), codepoint);
        assert_int_equal(length, size);
        assert_int_equal(ofr_utf8_length(bytes[0]), size);
        for (size_t cut = 1; cut < size; cut++) {
            assert_int_equal(ofr_utf8_next(bytes, cut, &decoded, &length),
                             OFR_UTF8_STATE_INCOMPLETE);
            assert_int_equal(length, cut);
        }
    }
}

static void ill_formed_bytes_are_found(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t offset; /* of the first bad byte */
        size_t subpart;
    } cases[] = {
        {"\x80", 0, 1},
        {"abcdefghijk\xC0\x80", 11, 1},
        {"\xC1\xBF", 0, 1},
        {"\xE0\x9F\xBF", 0, 1},
        {"\xED\xA0\x80", 0, 1},
        {"\xF0\x8F\xBF\xBF", 0, 1},
        {"\xF4\x90\x80\x80", 0, 1},
        {"\xF5\x80\x80\x80", 0, 1},
        {"\xFF", 0, 1},
        {"\xC3\xA9\xE2\x82(", 2, 2},
        {"\xF0\x9F\x98(", 0, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t size = strlen(cases[i].bytes), offset = 99, length;
        uint32_t codepoint;
        assert_false(ofr_utf8_validate(cases[i].bytes, size, &offset));
        assert_int_equal(offset, cases[i].offset);
        assert_int_equal(ofr_utf8_next(cases[i].bytes + offset, size - offset, &codepoint, &length),
                         OFR_UTF8_STATE_INVALID);
        assert_int_equal(length, cases[i].subpart);
        assert_int_equal(codepoint, OFR_UTF8_REPLACEMENT);
    }
}

static void validation_covers_word_boundaries(void **state)
{
    (void)state;
    char text[40];
    for (size_t at = 0; at < sizeof text; at++) {
        memset(text, 'x', sizeof text);
        text[at] = (char)0xFE;
        size_t offset = 0;
        assert_false(ofr_utf8_validate(text, sizeof text, &offset));
        assert_int_equal(offset, at);
        /* A character cut by the end of the text is not valid either. */
        text[at] = (char)0xC3;
        assert_false(ofr_utf8_validate(text, at + 1, NULL));
    }
    assert_true(ofr_utf8_validate("", 0, NULL));
    assert_true(ofr_utf8_validate("a\0b", 3, NULL));
}

static void white_space_is_the_unicode_property(void **state)
{
    (void)state;
    size_t count = 0;
    for (uint32_t codepoint = 0; codepoint <= 0x10FFFF; codepoint++)
        count += ofr_utf8_is_space(codepoint);
    assert_int_equal(count, 25); /* PropList.txt: White_Space has 25 code points */
    assert_true(ofr_utf8_is_space(0x3000));
    assert_false(ofr_utf8_is_space(0x180E));
    assert_false(ofr_utf8_is_space(0x200B));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_scalar_value_round_trips),
        cmocka_unit_test(ill_formed_bytes_are_found),
        cmocka_unit_test(validation_covers_word_boundaries),
        cmocka_unit_test(white_space_is_the_unicode_property),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
