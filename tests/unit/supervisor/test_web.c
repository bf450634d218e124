/* The page in the program: all its files, with types, and nothing from elsewhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "supervisor/serve/web.h"

static void files(void **state)
{
    (void)state;
    static const struct {
        const char *path, *type, *word;
    } cases[] = {
        {"/", "text/html", "<!doctype html>"},
        {"/app.js", "javascript", "\"use strict\""},
        {"/markdown.js", "javascript", "\"use strict\""},
        {"/style.css", "text/css", "--accent"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ofr_web_asset asset;
        assert_true(ofr_web_find(cases[i].path, &asset));
        assert_non_null(strstr(asset.content_type, cases[i].type));
        assert_non_null(memmem(asset.data, asset.size, cases[i].word, strlen(cases[i].word)));
        static const char *const foreign[] = {"src=\"http", "href=\"http", "@import", "url(http"};
        for (size_t k = 0; k < sizeof foreign / sizeof foreign[0]; k++)
            assert_null(memmem(asset.data, asset.size, foreign[k], strlen(foreign[k])));
    }
    static const char *const none[] = {"", "/index", "/app.js/", "/../app.js", "/APP.JS"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        ofr_web_asset asset;
        assert_false(ofr_web_find(none[i], &asset));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
