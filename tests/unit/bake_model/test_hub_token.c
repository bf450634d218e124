/* Where endpoint and token come from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bake_model/hub_token.h"
#include "base/file.h"

static char directory[] = "/tmp/offering_test_token_XXXXXX";

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(directory) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return ofr_directory_remove(directory, NULL);
}

static int clear(void **state)
{
    (void)state;
    static const char *const names[] = {"HF_TOKEN",       "HF_TOKEN_PATH", "HF_HOME",
                                        "XDG_CACHE_HOME", "HOME",          "HF_ENDPOINT"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
    return 0;
}

static void put(const char *place, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", directory, place);
    char *parent = ofr_path_parent(path);
    assert_int_equal(ofr_directory_make(parent, 0700, NULL), 0);
    free(parent);
    assert_int_equal(ofr_file_replace(path, text, strlen(text), 0600, NULL), 0);
}

static void expect_token(const char *wanted)
{
    char *token = NULL;
    assert_int_equal(ofr_hub_token(&token, NULL), 0);
    if (wanted)
        assert_string_equal(token, wanted);
    else
        assert_null(token);
    free(token);
}

static void set(const char *name, const char *place)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", directory, place);
    setenv(name, path, 1);
}

static void the_first_place_that_is_named_counts(void **state)
{
    (void)state;
    expect_token(NULL);
    put("home/.cache/huggingface/token", "hf_home\n");
    set("HOME", "home");
    expect_token("hf_home");
    put("cache/huggingface/token", "  hf_cache \r\n");
    set("XDG_CACHE_HOME", "cache");
    expect_token("hf_cache");
    put("hf/token", "hf_hf");
    set("HF_HOME", "hf");
    expect_token("hf_hf");
    put("mine", "hf_mine\n");
    set("HF_TOKEN_PATH", "mine");
    expect_token("hf_mine");
    setenv("HF_TOKEN", "hf_env", 1);
    expect_token("hf_env");
    setenv("HF_TOKEN", "", 1); /* as good as unset */
    expect_token("hf_mine");
    set("HF_TOKEN_PATH", "nowhere");
    expect_token(NULL);
    put("empty", " \n");
    set("HF_TOKEN_PATH", "empty");
    expect_token(NULL);
}

/* What could end a header line, or is no token, is refused, and not repeated. */
static void what_is_no_token_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"hf_a\r\nX-Evil: 1", "hf_two words", "hf_\x01",
                                      "hf_\xC3\xA9"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char *token = NULL;
        ofr_error err = {0};
        setenv("HF_TOKEN", bad[i], 1);
        assert_int_equal(ofr_hub_token(&token, &err), OFR_EINVAL);
        assert_null(token);
        assert_null(strstr(err.text, bad[i]));
    }
}

static void the_endpoint_has_a_default(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{NULL, "https://huggingface.co"},
                                           {"", "https://huggingface.co"},
                                           {"http://127.0.0.1:80//", "http://127.0.0.1:80"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *endpoint = NULL;
        if (cases[i][0])
            setenv("HF_ENDPOINT", cases[i][0], 1);
        assert_int_equal(ofr_hub_endpoint(&endpoint, NULL), 0);
        assert_string_equal(endpoint, cases[i][1]);
        free(endpoint);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_first_place_that_is_named_counts, clear),
        cmocka_unit_test_setup(what_is_no_token_is_refused, clear),
        cmocka_unit_test_setup(the_endpoint_has_a_default, clear),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
