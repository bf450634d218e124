/* SHA-256 against the examples of FIPS 180-4, in one call, in pieces, and from a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/sha256.h"

static const char MESSAGE[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
static const char DIGEST[] = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";

static void known_answers(void **state)
{
    (void)state;
    char hex[OFR_SHA256_HEX_SIZE];
    assert_int_equal(ofr_sha256_hex("", 0, hex, NULL), 0);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_int_equal(ofr_sha256_hex("abc", 3, hex, NULL), 0);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(ofr_sha256_hex(MESSAGE, strlen(MESSAGE), hex, NULL), 0);
    assert_string_equal(hex, DIGEST);
}

static void pieces_give_the_same(void **state)
{
    (void)state;
    for (size_t cut = 0; cut <= strlen(MESSAGE); cut++) {
        ofr_sha256 sha;
        char hex[OFR_SHA256_HEX_SIZE];
        assert_int_equal(ofr_sha256_init(&sha, NULL), 0);
        assert_int_equal(ofr_sha256_update(&sha, MESSAGE, cut, NULL), 0);
        assert_int_equal(ofr_sha256_update(&sha, MESSAGE + cut, strlen(MESSAGE) - cut, NULL), 0);
        assert_int_equal(ofr_sha256_finish_hex(&sha, hex, NULL), 0);
        ofr_sha256_done(&sha);
        ofr_sha256_done(&sha);
        assert_string_equal(hex, DIGEST);
    }
}

static int count_bytes(void *context, size_t bytes, ofr_error *err)
{
    (void)err;
    *(size_t *)context += bytes;
    return 0;
}

static int refuse(void *context, size_t bytes, ofr_error *err)
{
    (void)context;
    (void)bytes;
    return ofr_fail(err, OFR_ECANCELED, "enough");
}

static void a_range_of_a_file(void **state)
{
    (void)state;
    FILE *file = tmpfile();
    assert_non_null(file);
    fprintf(file, "xx%syy", MESSAGE);
    fflush(file);
    char hex[OFR_SHA256_HEX_SIZE];
    size_t seen = 0;
    ofr_error err = {0};
    assert_int_equal(
        ofr_sha256_file(fileno(file), "f", 2, strlen(MESSAGE), count_bytes, &seen, hex, &err), 0);
    assert_string_equal(hex, DIGEST);
    assert_int_equal(seen, strlen(MESSAGE));
    assert_int_equal(ofr_sha256_file(fileno(file), "f", 2, 1000, NULL, NULL, hex, &err),
                     OFR_EFORMAT);
    assert_non_null(strstr(err.text, "f: is truncated at byte 60"));
    assert_int_equal(ofr_sha256_file(fileno(file), "f", 0, 4, refuse, NULL, hex, &err),
                     OFR_ECANCELED);
    fclose(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(pieces_give_the_same),
        cmocka_unit_test(a_range_of_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
