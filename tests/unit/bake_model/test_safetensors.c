/* Headers and indices of safetensors: what is accepted covers the data, and nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bake_model/safetensors.h"

static int parse(ofr_safetensors *set, const char *header, uint64_t data_bytes, ofr_error *err)
{
    return ofr_safetensors_parse(set, "file", header, strlen(header), data_bytes, err);
}

static void refuse(const char *header, uint64_t data_bytes, const char *text)
{
    ofr_safetensors set = {0};
    ofr_error err = {0};
    int r = parse(&set, header, data_bytes, &err);
    assert_true(r == OFR_EFORMAT || r == OFR_EUNSUPPORTED);
    if (!strstr(err.text, text))
        fail_msg("'%s' is not in '%s'", text, err.text);
    assert_int_equal(set.n, 0);
    ofr_safetensors_done(&set);
}

static void a_good_header(void **state)
{
    (void)state;
    ofr_safetensors set = {0};
    assert_int_equal(
        parse(&set,
              "{\"__metadata__\": {\"format\": \"pt\"},"
              "\"b\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [12, 20]},"
              "\"a\": {\"dtype\": \"BF16\", \"shape\": [2, 3], \"data_offsets\": [0, 12]},"
              "\"none\": {\"dtype\": \"F16\", \"shape\": [0, 3], \"data_offsets\": [12, 12]}}",
              20, NULL),
        0);
    assert_int_equal(ofr_safetensors_sort(&set, "file", NULL), 0);
    assert_int_equal(set.n, 3);
    const ofr_safetensor *a = ofr_safetensors_find(&set, "a"), *b = ofr_safetensors_find(&set, "b");
    assert_true(a->begin == 0 && a->bytes == 12 && a->n_dims == 2 && a->shape[1] == 3);
    assert_true(b->begin == 12 && b->type == OFR_GGUF_TYPE_F32 && a->type == OFR_GGUF_TYPE_BF16);
    assert_null(ofr_safetensors_find(&set, "c"));
    ofr_safetensors_done(&set);
}

#define TENSOR(name, begin, end)                                                                   \
    "\"" name "\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [" #begin ", " #end "]}"

static void lies_are_found(void **state)
{
    (void)state;
    refuse("{" TENSOR("a", 0, 4) ", " TENSOR("b", 2, 6) "}", 6, "overlap");
    refuse("{" TENSOR("a", 0, 4) ", " TENSOR("b", 0, 4) "}", 4, "overlap");
    refuse("{" TENSOR("a", 0, 4) ", " TENSOR("b", 8, 12) "}", 12, "hole of 4 bytes");
    refuse("{" TENSOR("a", 4, 8) "}", 8, "hole of 4 bytes");
    refuse("{" TENSOR("a", 0, 4) "}", 5, "1 bytes follow");
    refuse("{" TENSOR("a", 0, 4) "}", 3, "ends outside");
    refuse("{" TENSOR("a", 0, 5) "}", 5, "shape and dtype");
    refuse("{" TENSOR("a", 4, 0) "}", 4, "data_offsets");
    refuse("{" TENSOR("a", -4, 0) "}", 4, "data_offsets");
    refuse("{" TENSOR("a", 0, 4) ", " TENSOR("a", 0, 4) "}", 4, "no JSON object");
    refuse("{\"\": {}}", 0, "name");
    refuse("{\"a\": 1}", 0, "no dtype");
    refuse("{\"a\": {\"dtype\": \"F32\"}}", 0, "no shape");
    refuse("{\"a\": {\"dtype\": \"Z9\", \"shape\": [], \"data_offsets\": [0, 0]}}", 0, "'Z9'");
    refuse("{\"a\": {\"dtype\": \"U8\", \"shape\": [4294967296, 4294967296], "
           "\"data_offsets\": [0, 0]}}",
           0, "absurd shape");
    refuse("{\"a\": {\"dtype\": \"U8\", \"shape\": [9223372036854775807, 3], "
           "\"data_offsets\": [0, 0]}}",
           0, "absurd shape");
    refuse("", 0, "no JSON object");
    refuse("{} x", 0, "no JSON object");
}

static int files(const char *index, char ***ret_names, size_t *ret_count, ofr_error *err)
{
    return ofr_safetensors_index_files("index", index, strlen(index), ret_names, ret_count, err);
}

static void an_index_names_files_beside_it(void **state)
{
    (void)state;
    char **names = NULL;
    size_t count = 0;
    assert_int_equal(
        files("{\"weight_map\": {\"x\": \"b\", \"y\": \"a\", \"z\": \"b\"}}", &names, &count, NULL),
        0);
    assert_int_equal(count, 2);
    assert_string_equal(names[0], "a");
    assert_string_equal(names[1], "b");
    free(names[0]);
    free(names[1]);
    free(names);
    static const char *const climbing[] = {"../b", "/b", "a/b", ".b", "", "a\\\\b"};
    for (size_t i = 0; i < sizeof climbing / sizeof climbing[0]; i++) {
        char index[100];
        ofr_error err = {0};
        snprintf(index, sizeof index, "{\"weight_map\": {\"x\": \"%s\"}}", climbing[i]);
        assert_int_equal(files(index, &names, &count, &err), OFR_EFORMAT);
        assert_non_null(strstr(err.text, "not the name of a file beside it"));
    }
    static const char *const empty[] = {"", "{}", "[]", "{\"weight_map\": {}}"};
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++)
        assert_int_equal(files(empty[i], &names, &count, NULL), OFR_EFORMAT);
}

static void an_index_agrees_with_the_files(void **state)
{
    (void)state;
    ofr_safetensors set = {0};
    assert_int_equal(parse(&set, "{" TENSOR("x", 0, 4) "}", 4, NULL), 0);
    assert_int_equal(parse(&set, "{" TENSOR("y", 0, 4) "}", 4, NULL), 0);
    set.tensors[1].file = 1;
    assert_int_equal(ofr_safetensors_sort(&set, "file", NULL), 0);
    char *names[] = {"a", "b"};
    static const struct {
        const char *index;
        int result;
    } cases[] = {{"{\"weight_map\": {\"x\": \"a\", \"y\": \"b\"}}", 0},
                 {"{\"weight_map\": {\"x\": \"b\", \"y\": \"b\"}}", OFR_EFORMAT},
                 {"{\"weight_map\": {\"x\": \"a\"}}", OFR_EFORMAT},
                 {"{\"weight_map\": {\"x\": \"a\", \"y\": \"b\", \"z\": \"b\"}}", OFR_EFORMAT}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(ofr_safetensors_index_check("index", cases[i].index,
                                                     strlen(cases[i].index), &set, names, 2, 0,
                                                     NULL),
                         cases[i].result);
    assert_int_equal(parse(&set, "{" TENSOR("x", 0, 4) "}", 4, NULL), 0);
    assert_int_equal(ofr_safetensors_sort(&set, "file", NULL), OFR_EFORMAT); /* in two files */
    ofr_safetensors_done(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_header),
        cmocka_unit_test(lies_are_found),
        cmocka_unit_test(an_index_names_files_beside_it),
        cmocka_unit_test(an_index_agrees_with_the_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
