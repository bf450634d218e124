/* The hub's description of a repository: what it may leave out, and what it must not say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bake_model/http.h"
#include "bake_model/hub_listing.h"

#define SHA256 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define SHA1   "0123456789abcdef0123456789abcdef01234567"

static void files_and_their_sums(void **state)
{
    (void)state;
    static const char text[] =
        "{\"sha\": \"c0ffee\", \"siblings\": ["
        "{\"rfilename\": \"config.json\", \"size\": 12, \"blobId\": \"" SHA1 "\"},"
        "{\"rfilename\": \"m.safetensors\", \"size\": 99, \"blobId\": \"" SHA1 "\", "
        "\"lfs\": {\"sha256\": \"" SHA256 "\"}},"
        "{\"rfilename\": \"old.bin\", \"size\": -4, \"lfs\": {\"oid\": \"" SHA256 "\"}},"
        "{\"rfilename\": \"bad.bin\", \"blobId\": \"XYZ\"}, {\"rfilename\": \"\"}, 7]}";
    ofr_hub_listing l = {0};
    assert_int_equal(ofr_hub_listing_parse(&l, "hub", text, sizeof text - 1, NULL), 0);
    assert_string_equal(l.commit, "c0ffee");
    assert_int_equal(l.n, 4);
    assert_int_equal(l.entries[0].size, 12);
    assert_string_equal(l.entries[0].sha1, SHA1);
    assert_string_equal(l.entries[1].sha256, SHA256);
    assert_string_equal(l.entries[1].sha1, ""); /* that is of the pointer, not of the file */
    assert_int_equal(l.entries[2].size, -1);
    assert_string_equal(l.entries[2].sha256, SHA256);
    assert_string_equal(l.entries[3].sha1, "");
    ofr_hub_listing_done(&l);
    ofr_hub_listing_done(&l);
}

static void what_is_no_description_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "<html>",
        "[]",
        "{}",
        "{\"sha\": \"c0ffee\"}",
        "{\"siblings\": []}",
        "{\"sha\": \"../x\", \"siblings\": []}",
        "{\"sha\": \"\", \"siblings\": []}",
        "{\"sha\": \"c0ffee\", \"siblings\": {}}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        ofr_hub_listing l = {0};
        ofr_error err = {0};
        assert_int_equal(ofr_hub_listing_parse(&l, "hub", texts[i], strlen(texts[i]), &err),
                         OFR_EPROTOCOL);
        assert_non_null(strstr(err.text, "hub answered"));
        ofr_hub_listing_done(&l);
    }
}

/* The token goes where the origin is the endpoint's: nothing may pass for it. */
static void origins(void **state)
{
    (void)state;
    char a[300], b[300];
    assert_true(ofr_http_origin("HTTPS://Hub.Example/x?y", a, sizeof a));
    assert_string_equal(a, "https://hub.example:443");
    assert_true(ofr_http_origin("https://hub.example:444/", b, sizeof b));
    assert_string_not_equal(a, b);
    assert_true(ofr_http_origin("https://hub.example.evil.org/", b, sizeof b));
    assert_string_not_equal(a, b);
    static const char *const bad[] = {
        "file:///etc/passwd",       "ftp://x/", "https://hub.example@evil/",
        "https://u:p@hub.example/", "",         "//x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(ofr_http_origin(bad[i], b, sizeof b) && strcmp(a, b) == 0);
    assert_true(ofr_http_is_loopback("http://127.0.0.1:80"));
    assert_false(ofr_http_is_loopback("http://127.0.0.1.evil.org:80"));
    assert_false(ofr_http_is_loopback("http://localhost.evil.org:80"));
    char *path = ofr_http_escape_path("a b/c?#\r\n\xC3\xA9");
    assert_string_equal(path, "a%20b/c%3F%23%0D%0A%C3%A9");
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_and_their_sums),
        cmocka_unit_test(what_is_no_description_is_refused),
        cmocka_unit_test(origins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
