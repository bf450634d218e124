/* The cache of compiled graphs: what is damaged counts as absent, the oldest goes first. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/openvino/blob_cache.h"
#include "base/file.h"

static char directory[] = "/tmp/offering_test_blobs_XXXXXX";

static int set_up(void **state)
{
    (void)state;
    strcpy(directory + strlen(directory) - 6, "XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return ofr_directory_remove(directory, NULL);
}

static void put(const char *key, const char *content, uint64_t budget)
{
    ofr_error err = {0};
    if (ofr_blob_cache_put(directory, key, content, strlen(content), budget, &err) < 0)
        fail_msg("%s", err.text);
}

static int get(const char *key, const char *expected)
{
    void *data = NULL;
    size_t size = 0;
    int r = ofr_blob_cache_get(directory, key, &data, &size, NULL);
    if (r == 0) {
        assert_int_equal(size, strlen(expected));
        assert_memory_equal(data, expected, size);
    }
    free(data);
    return r;
}

static void what_is_put_is_got(void **state)
{
    (void)state;
    assert_int_equal(get("ab", ""), OFR_ENOENT);
    put("ab", "content", OFR_BLOB_CACHE_BUDGET);
    put("cd", "", OFR_BLOB_CACHE_BUDGET);
    assert_int_equal(get("ab", "content"), 0);
    assert_int_equal(get("cd", ""), 0);
    put("ab", "other", OFR_BLOB_CACHE_BUDGET);
    assert_int_equal(get("ab", "other"), 0);
}

static void damage(size_t at, char by, long cut)
{
    char path[128];
    snprintf(path, sizeof path, "%s/ab.blob", directory);
    if (cut >= 0)
        assert_int_equal(truncate(path, cut), 0);
    FILE *f = cut < 0 ? fopen(path, "r+") : NULL;
    if (f) {
        fseek(f, (long)at, SEEK_SET);
        fputc(by, f);
        fclose(f);
    }
}

static void damaged_entries_are_absent(void **state)
{
    (void)state;
    const struct {
        size_t at;
        long cut;
    } cases[] = {{0, -1},  {8, -1}, {20, -1}, {OFR_BLOB_HEADER_BYTES + 2, -1},
                 {0, 130}, {0, 5},  {0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put("ab", "content", OFR_BLOB_CACHE_BUDGET);
        damage(cases[i].at, '#', cases[i].cut);
        assert_int_equal(get("ab", "content"), OFR_ENOENT);
        char path[128];
        snprintf(path, sizeof path, "%s/ab.blob", directory);
        assert_int_equal(access(path, F_OK), -1);
    }
}

static void set_age(const char *key, time_t seconds)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s.blob", directory, key);
    struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void the_oldest_is_pruned(void **state)
{
    (void)state;
    const uint64_t two = 2 * (OFR_BLOB_HEADER_BYTES + 7);
    put("aa", "content", two);
    put("bb", "content", two);
    set_age("aa", 2000);
    set_age("bb", 1000);
    assert_int_equal(get("bb", "content"), 0); /* used now, so "aa" is the oldest */
    put("cc", "content", two);
    assert_int_equal(get("aa", "content"), OFR_ENOENT);
    assert_int_equal(get("bb", "content"), 0);
    assert_int_equal(get("cc", "content"), 0);
}

static void a_path_through_a_file_is_an_error_only(void **state)
{
    (void)state;
    assert_int_not_equal(ofr_blob_cache_put("/dev/null/offering", "aa", "x", 1, 100, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_put_is_got, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_entries_are_absent, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_oldest_is_pruned, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_path_through_a_file_is_an_error_only, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
