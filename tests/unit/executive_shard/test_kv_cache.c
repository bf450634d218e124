/* Files of KV: read back as written, refused when damaged, bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/shm.h"
#include "executive_shard/kv_cache.h"

enum { SLOTS = 3, CONTEXT = 100 };
static const char fingerprint[] =
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct fixture {
    char directory[64];
    ofr_kv_layout layout;
    ofr_slot_ledger_header ledger;
    ofr_kv_cache cache;
};

static void open_arena(struct fixture *f)
{
    ofr_error err = {0};
    f->cache = (ofr_kv_cache){.directory = f->directory,
                              .fingerprint = fingerprint,
                              .max_bytes = 1 << 20,
                              .layout = &f->layout,
                              .ledger = &f->ledger};
    assert_int_equal(ofr_shm_create(f->layout.total_bytes, &f->cache.kv_fd, &err), 0);
    assert_int_equal(ofr_slot_ledger_create(&f->ledger, &f->cache.ledger_fd, &err), 0);
}

static void close_arena(struct fixture *f)
{
    close(f->cache.kv_fd);
    close(f->cache.ledger_fd);
}

static int make(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    ofr_model_params params = {.n_layers = 2, .n_kv_heads = 1, .head_dim = 8};
    snprintf(f->directory, sizeof f->directory, "/tmp/offering_kv_XXXXXX");
    if (!mkdtemp(f->directory) ||
        ofr_kv_layout_init(&f->layout, &params, SLOTS, CONTEXT, 4, NULL) < 0 ||
        ofr_slot_ledger_layout(SLOTS, CONTEXT, 5000, &f->ledger, NULL) < 0)
        return -1;
    open_arena(f);
    *state = f;
    return 0;
}

static int drop(void **state)
{
    struct fixture *f = *state;
    close_arena(f);
    ofr_directory_remove(f->directory, NULL);
    free(f);
    return 0;
}

static unsigned char byte_of(uint32_t salt, uint32_t strip, uint64_t i)
{
    return (unsigned char)(salt * 31 + strip * 7 + i);
}

static void fill(const struct fixture *f, uint32_t slot, uint32_t n, uint32_t salt)
{
    int32_t tokens[CONTEXT];
    unsigned char row[CONTEXT * 64];
    ofr_error err = {0};
    size_t size = (size_t)(f->layout.row_bytes * n);
    assert_true(size <= sizeof row);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(salt * 100 + i);
    for (uint32_t strip = 0; strip < 4; strip++) {
        for (size_t i = 0; i < size; i++)
            row[i] = byte_of(salt, strip, i);
        uint64_t at = strip % 2 ? ofr_kv_strip_v(&f->layout, slot, strip / 2)
                                : ofr_kv_strip_k(&f->layout, slot, strip / 2);
        assert_int_equal(pwrite(f->cache.kv_fd, row, size, (off_t)at), (ssize_t)size);
    }
    assert_int_equal(ofr_slot_ledger_write(&f->ledger, f->cache.ledger_fd, slot, tokens, n, &err),
                     0);
}

/* The slot that holds `salt`; its rows are compared. */
static bool holds(const struct fixture *f, uint32_t n, uint32_t salt)
{
    ofr_error err = {0};
    unsigned char row[CONTEXT * 64];
    size_t size = (size_t)(f->layout.row_bytes * n);
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        int32_t *tokens = NULL;
        uint32_t held = 0;
        assert_int_equal(
            ofr_slot_ledger_read(&f->ledger, f->cache.ledger_fd, slot, &tokens, &held, &err), 0);
        bool same = held == n && tokens[n - 1] == (int32_t)(salt * 100 + n - 1);
        free(tokens);
        if (!same)
            continue;
        for (uint32_t strip = 0; strip < 4; strip++) {
            uint64_t at = strip % 2 ? ofr_kv_strip_v(&f->layout, slot, strip / 2)
                                    : ofr_kv_strip_k(&f->layout, slot, strip / 2);
            assert_int_equal(pread(f->cache.kv_fd, row, size, (off_t)at), (ssize_t)size);
            for (size_t i = 0; i < size; i++)
                assert_int_equal(row[i], byte_of(salt, strip, i));
        }
        return true;
    }
    return false;
}

static uint32_t files(const struct fixture *f, char *ret_path, size_t size)
{
    DIR *directory = opendir(f->directory);
    uint32_t n = 0;
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        if (strstr(entry->d_name, ".kv")) {
            n++;
            snprintf(ret_path, size, "%s/%.200s", f->directory, entry->d_name);
        }
    }
    closedir(directory);
    return n;
}

static uint64_t save(const struct fixture *f)
{
    ofr_error err = {0};
    uint64_t tokens = 0;
    if (ofr_kv_cache_save(&f->cache, &tokens, &err) < 0)
        fail_msg("%s", err.text);
    return tokens;
}

static uint64_t load_fresh(struct fixture *f)
{
    ofr_error err = {0};
    uint64_t tokens = 0;
    close_arena(f);
    open_arena(f);
    if (ofr_kv_cache_load(&f->cache, &tokens, &err) < 0)
        fail_msg("%s", err.text);
    return tokens;
}

static void rows_come_back(void **state)
{
    struct fixture *f = *state;
    char path[300];
    fill(f, 0, 90, 1);
    fill(f, 1, 40, 2);
    fill(f, 2, 5, 3); /* too short to keep */
    assert_int_equal(save(f), 130);
    assert_int_equal(files(f, path, sizeof path), 2);
    assert_int_equal(load_fresh(f), 130);
    assert_true(holds(f, 90, 1));
    assert_true(holds(f, 40, 2));
    assert_int_equal(save(f), 130); /* nothing new */
    assert_int_equal(files(f, path, sizeof path), 2);
}

static void a_beginning_is_not_kept_twice(void **state)
{
    struct fixture *f = *state;
    char path[300];
    fill(f, 0, 50, 1);
    fill(f, 1, 80, 1);
    fill(f, 2, 80, 1);
    assert_int_equal(save(f), 80);
    assert_int_equal(files(f, path, sizeof path), 1);
}

static void damage_is_found(void **state)
{
    struct fixture *f = *state;
    char path[300];
    fill(f, 0, 60, 1);
    save(f);
    assert_int_equal(files(f, path, sizeof path), 1);
    for (uint32_t at = 0; at < 3; at++) {
        static const off_t offsets[] = {9, 200, 700};
        fill(f, 0, 60, 1);
        save(f);
        int fd = open(path, O_RDWR);
        unsigned char byte = 0;
        assert_int_equal(pread(fd, &byte, 1, offsets[at]), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, offsets[at]), 1);
        close(fd);
        assert_int_equal(load_fresh(f), 0);
        char other[300];
        assert_int_equal(files(f, other, sizeof other), 0);
    }
    fill(f, 0, 60, 1);
    save(f);
    assert_int_equal(truncate(path, 300), 0);
    assert_int_equal(load_fresh(f), 0);
}

static void another_package_is_left_alone(void **state)
{
    struct fixture *f = *state;
    char path[300];
    char other[] = "f123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    fill(f, 0, 60, 1);
    save(f);
    ofr_error err = {0};
    uint64_t tokens = 9;
    f->cache.fingerprint = other;
    assert_int_equal(ofr_kv_cache_load(&f->cache, &tokens, &err), 0);
    assert_int_equal(tokens, 0);
    assert_int_equal(files(f, path, sizeof path), 1);
}

static void the_size_is_bounded(void **state)
{
    struct fixture *f = *state;
    char path[300];
    /* A file of 90 tokens has 192 + 384 + 4 * 16 * 90 bytes. */
    fill(f, 0, 90, 1);
    save(f);
    fill(f, 0, 90, 2);
    f->cache.max_bytes = 8000;
    assert_int_equal(save(f), 90);
    assert_int_equal(files(f, path, sizeof path), 1);
    load_fresh(f);
    assert_true(holds(f, 90, 2));
    f->cache.max_bytes = 100;
    assert_int_equal(save(f), 0);
    assert_int_equal(files(f, path, sizeof path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rows_come_back, make, drop),
        cmocka_unit_test_setup_teardown(a_beginning_is_not_kept_twice, make, drop),
        cmocka_unit_test_setup_teardown(damage_is_found, make, drop),
        cmocka_unit_test_setup_teardown(another_package_is_left_alone, make, drop),
        cmocka_unit_test_setup_teardown(the_size_is_bounded, make, drop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
