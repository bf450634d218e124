/* The byte alphabet: a bijection onto printable characters, as GPT-2 defined it. */
#include "unit/tokenizer/expect.h"

static void the_alphabet_is_a_bijection(void **state)
{
    (void)state;
    /* The definition: printable Latin-1 stays, the rest follows from U+0100 in order. */
    uint32_t following = 0x100;
    for (int byte = 0; byte < 256; byte++) {
        bool printable =
            (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
        uint32_t expected = printable ? (uint32_t)byte : following++;
        assert_int_equal(ofr_byte_alphabet_codepoint((unsigned char)byte), expected);
        assert_int_equal(ofr_byte_alphabet_byte(expected), byte);
    }
    size_t members = 0;
    for (uint32_t codepoint = 0; codepoint < 0x20000; codepoint++)
        members += ofr_byte_alphabet_byte(codepoint) >= 0;
    assert_int_equal(members, 256);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_alphabet_is_a_bijection)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
