/* GGUF metadata: types, ranges, arrays; what the parser refuses beside what the process tests try.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bake_model/gguf.h"
#include "bake_model/gguf_model.h"

/* Composes a file in memory. */
typedef struct composer {
    unsigned char data[4096];
    size_t size;
    uint64_t n_metadata;
} composer;

static void put(composer *out, const void *data, size_t size)
{
    assert_true(size <= sizeof out->data - out->size);
    memcpy(out->data + out->size, data, size);
    out->size += size;
}

static void put_u32(composer *out, uint32_t value)
{
    put(out, &value, 4);
}

static void put_u64(composer *out, uint64_t value)
{
    put(out, &value, 8);
}

static void put_string(composer *out, const char *text)
{
    put_u64(out, strlen(text));
    put(out, text, strlen(text));
}

static void begin(composer *out)
{
    memset(out, 0, sizeof *out);
    put(out, "GGUF", 4);
    put_u32(out, 3);
    put_u64(out, 0);
    put_u64(out, 0);
}

static void put_key(composer *out, const char *key, uint32_t type)
{
    out->n_metadata++;
    memcpy(out->data + 16, &out->n_metadata, 8);
    put_string(out, key);
    put_u32(out, type);
}

static void put_array(composer *out, const char *key, uint32_t type, uint64_t count)
{
    put_key(out, key, OFR_GGUF_VALUE_ARRAY);
    put_u32(out, type);
    put_u64(out, count);
}

/* A copy of exact size, so that the address sanitizer sees any read beyond it. */
static int open_composed(const composer *out, void **ret_copy, ofr_gguf **ret_gguf, ofr_error *err)
{
    *ret_copy = malloc(out->size);
    assert_non_null(*ret_copy);
    memcpy(*ret_copy, out->data, out->size);
    return ofr_gguf_open_memory("test", *ret_copy, out->size, ret_gguf, err);
}

static void scalars_of_every_type(void **state)
{
    (void)state;
    composer out;
    begin(&out);
    put_key(&out, "u8", OFR_GGUF_VALUE_U8);
    put(&out, "\xff", 1);
    put_key(&out, "i8", OFR_GGUF_VALUE_I8);
    put(&out, "\xff", 1);
    put_key(&out, "u16", OFR_GGUF_VALUE_U16);
    put(&out, "\x01\x02", 2);
    put_key(&out, "i16", OFR_GGUF_VALUE_I16);
    put(&out, "\x01\x02", 2);
    put_key(&out, "i32", OFR_GGUF_VALUE_I32);
    put_u32(&out, 77);
    put_key(&out, "u64", OFR_GGUF_VALUE_U64);
    put_u64(&out, 88);
    put_key(&out, "u64 large", OFR_GGUF_VALUE_U64);
    put_u64(&out, 1ull << 32);
    put_key(&out, "i64", OFR_GGUF_VALUE_I64);
    put_u64(&out, UINT64_MAX);
    put_key(&out, "f64", OFR_GGUF_VALUE_F64);
    put(&out, &(double){0.5}, 8);
    put_key(&out, "f64 large", OFR_GGUF_VALUE_F64);
    put(&out, &(double){1e300}, 8);
    put_key(&out, "bool", OFR_GGUF_VALUE_BOOL);
    put(&out, "\x01", 1);
    put_key(&out, "bool bad", OFR_GGUF_VALUE_BOOL);
    put(&out, "\x02", 1);
    put_key(&out, "text", OFR_GGUF_VALUE_STRING);
    put_string(&out, "hello");

    void *copy;
    ofr_gguf *gguf;
    ofr_error err = {0};
    assert_int_equal(open_composed(&out, &copy, &gguf, &err), 0);
    uint32_t number = 0;
    float value = 0;
    bool flag = false;
    ofr_gguf_string text;
    assert_int_equal(ofr_gguf_get_u32(gguf, "u8", &number, &err), 1);
    assert_int_equal(number, 255);
    assert_int_equal(ofr_gguf_get_u32(gguf, "u16", &number, &err), 1);
    assert_int_equal(number, 0x201);
    assert_int_equal(ofr_gguf_get_u32(gguf, "i16", &number, &err), 1);
    assert_int_equal(number, 0x201);
    assert_int_equal(ofr_gguf_get_u32(gguf, "i32", &number, &err), 1);
    assert_int_equal(number, 77);
    assert_int_equal(ofr_gguf_get_u32(gguf, "u64", &number, &err), 1);
    assert_int_equal(number, 88);
    static const char *const refused[] = {"i8", "u64 large", "i64", "f64", "bool", "text"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_int_equal(ofr_gguf_get_u32(gguf, refused[i], &number, &err), OFR_EFORMAT);
        assert_non_null(strstr(err.text, refused[i]));
    }
    assert_int_equal(number, 88);
    assert_int_equal(ofr_gguf_get_u32(gguf, "none", &number, &err), 0);
    assert_int_equal(ofr_gguf_get_float(gguf, "f64", &value, &err), 1);
    assert_true(value == 0.5f);
    assert_int_equal(ofr_gguf_get_float(gguf, "i8", &value, &err), 1);
    assert_true(value == -1.0f);
    assert_int_equal(ofr_gguf_get_float(gguf, "f64 large", &value, &err), OFR_EFORMAT);
    assert_int_equal(ofr_gguf_get_bool(gguf, "bool", &flag, &err), 1);
    assert_true(flag);
    assert_int_equal(ofr_gguf_get_bool(gguf, "bool bad", &flag, &err), OFR_EFORMAT);
    assert_int_equal(ofr_gguf_get_string(gguf, "text", &text, &err), 1);
    assert_int_equal(text.size, 5);
    assert_memory_equal(text.data, "hello", 5);
    assert_int_equal(ofr_gguf_get_string(gguf, "u8", &text, &err), OFR_EFORMAT);
    assert_true(ofr_gguf_has(gguf, "u64 large"));
    assert_false(ofr_gguf_has(gguf, "u6"));
    ofr_gguf_close(gguf);
    free(copy);
}

static void arrays(void **state)
{
    (void)state;
    composer out;
    begin(&out);
    put_array(&out, "strings", OFR_GGUF_VALUE_STRING, 2);
    put_string(&out, "a");
    put_string(&out, "");
    put_array(&out, "equal", OFR_GGUF_VALUE_I32, 3);
    for (int i = 0; i < 3; i++)
        put_u32(&out, 9);
    put_array(&out, "different", OFR_GGUF_VALUE_I32, 2);
    put_u32(&out, 9);
    put_u32(&out, 10);
    put_array(&out, "nested", OFR_GGUF_VALUE_ARRAY, 1);
    put_u32(&out, OFR_GGUF_VALUE_U8);
    put_u64(&out, 3);
    put(&out, "xyz", 3);
    put_array(&out, "bytes", OFR_GGUF_VALUE_U8, 3);
    put(&out, "xyz", 3);
    put_array(&out, "empty", OFR_GGUF_VALUE_STRING, 0);

    void *copy;
    ofr_gguf *gguf;
    ofr_error err = {0};
    assert_int_equal(open_composed(&out, &copy, &gguf, &err), 0);
    ofr_gguf_string *strings, bytes;
    int32_t *numbers;
    size_t count;
    uint32_t number;
    assert_int_equal(ofr_gguf_get_strings(gguf, "strings", &strings, &count, &err), 1);
    assert_int_equal(count, 2);
    assert_int_equal(strings[0].size, 1);
    assert_int_equal(strings[1].size, 0);
    free(strings);
    assert_int_equal(ofr_gguf_get_strings(gguf, "empty", &strings, &count, &err), 1);
    assert_int_equal(count, 0);
    free(strings);
    assert_int_equal(ofr_gguf_get_i32s(gguf, "different", &numbers, &count, &err), 1);
    assert_int_equal(numbers[1], 10);
    free(numbers);
    assert_int_equal(ofr_gguf_get_u32(gguf, "equal", &number, &err), 1);
    assert_int_equal(number, 9);
    assert_int_equal(ofr_gguf_get_u32(gguf, "different", &number, &err), OFR_EFORMAT);
    assert_int_equal(ofr_gguf_get_u32(gguf, "empty", &number, &err), OFR_EFORMAT);
    assert_int_equal(ofr_gguf_get_bytes(gguf, "bytes", &bytes, &err), 1);
    assert_memory_equal(bytes.data, "xyz", 3);
    assert_int_equal(ofr_gguf_get_i32s(gguf, "nested", &numbers, &count, &err), OFR_EFORMAT);
    ofr_gguf_close(gguf);
    free(copy);
}

static void check_refused(const composer *out, const char *text)
{
    void *copy;
    ofr_gguf *gguf = NULL;
    ofr_error err = {0};
    int r = open_composed(out, &copy, &gguf, &err);
    if (r != OFR_EFORMAT || !strstr(err.text, text))
        fail_msg("code %d, '%s'; expected '%s'", r, err.text, text);
    free(copy);
}

static void bad_metadata(void **state)
{
    (void)state;
    composer out;
    begin(&out);
    for (int i = 0; i < 2; i++) {
        put_key(&out, "same", OFR_GGUF_VALUE_U8);
        put(&out, "x", 1);
    }
    check_refused(&out, "'same' appears twice");
    begin(&out);
    put_key(&out, "a", 13);
    put_u64(&out, 0);
    check_refused(&out, "unknown type 13");
    begin(&out);
    put_array(&out, "a", OFR_GGUF_VALUE_U64, UINT64_MAX / 8);
    check_refused(&out, "absurd count");
    begin(&out);
    put_array(&out, "a", OFR_GGUF_VALUE_U64, 1 << 20);
    check_refused(&out, "truncated");
    begin(&out);
    put_array(&out, "a", OFR_GGUF_VALUE_ARRAY, 1);
    for (int i = 0; i < 8; i++) {
        put_u32(&out, OFR_GGUF_VALUE_ARRAY);
        put_u64(&out, 1);
    }
    check_refused(&out, "nested deeper");
    begin(&out);
    put_key(&out, "general.alignment", OFR_GGUF_VALUE_U32);
    put_u32(&out, 48);
    check_refused(&out, "general.alignment is 48");
    begin(&out);
    put_key(&out, "", OFR_GGUF_VALUE_U8);
    put(&out, "x", 1);
    check_refused(&out, "key");
}

/* What llama.cpp's converter does: reshape(heads, 2, dim / 2).swapaxes(1, 2). */
static void rope_rows_undo_the_converter(void **state)
{
    (void)state;
    enum { HEADS = 3, DIM = 8 };
    uint64_t file[HEADS * DIM]; /* which original row lies where in the file */
    size_t at = 0;
    for (uint64_t head = 0; head < HEADS; head++)
        for (uint64_t i = 0; i < DIM / 2; i++)
            for (uint64_t j = 0; j < 2; j++)
                file[at++] = head * DIM + j * (DIM / 2) + i;
    for (uint64_t row = 0; row < HEADS * DIM; row++)
        assert_int_equal(file[ofr_bake_rope_row(row, DIM, DIM)], row);
    /* Partly rotated heads: neighbours of the first 4 elements pair as i and i + 2. */
    static const uint64_t expected[DIM] = {0, 2, 1, 3, 4, 5, 6, 7};
    for (uint64_t row = 0; row < DIM; row++)
        assert_int_equal(ofr_bake_rope_row(DIM + row, DIM, 4), DIM + expected[row]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_of_every_type),
        cmocka_unit_test(arrays),
        cmocka_unit_test(bad_metadata),
        cmocka_unit_test(rope_rows_undo_the_converter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
