/* The graph builder: shapes are inferred, misfits are errors, constants are stored once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "graph/ir.h"

static ofr_ir_pool pool;
static ofr_ir *ir;

static int set_up(void **state)
{
    (void)state;
    return ofr_ir_new("test", &pool, &ir, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    ir = ofr_ir_free(ir);
    ofr_ir_pool_done(&pool);
    return 0;
}

static void expect_shape(ofr_ir_value value, ofr_ir_shape expected)
{
    ofr_ir_shape shape = ofr_ir_shape_of(ir, value);
    assert_int_equal(shape.rank, expected.rank);
    for (uint32_t i = 0; i < shape.rank; i++)
        assert_int_equal(shape.dims[i], expected.dims[i]);
}

static void shapes_are_inferred(void **state)
{
    (void)state;
    ofr_ir_value x = ofr_ir_parameter(ir, "x", OFR_IR_F32, OFR_IR_SHAPE(1, 4, 6));
    ofr_ir_value w = ofr_ir_parameter(ir, "w", OFR_IR_F32, OFR_IR_SHAPE(10, 6));
    ofr_ir_value y = ofr_ir_matmul(ir, x, w, 1);
    expect_shape(y, OFR_IR_SHAPE(1, 4, 10));
    expect_shape(ofr_ir_reduce_mean(ir, y), OFR_IR_SHAPE(1, 4, 1));
    expect_shape(ofr_ir_binary(ir, "Add", y, ofr_ir_reduce_mean(ir, y)), OFR_IR_SHAPE(1, 4, 10));
    expect_shape(ofr_ir_transpose(ir, y, (const uint32_t[]){2, 0, 1}), OFR_IR_SHAPE(10, 1, 4));
    ofr_ir_value parts[2];
    ofr_ir_split(ir, y, 2, (const int64_t[]){3, 7}, 2, parts);
    expect_shape(parts[1], OFR_IR_SHAPE(1, 4, 7));
    expect_shape(ofr_ir_concat(ir, parts, 2, 2), OFR_IR_SHAPE(1, 4, 10));
    ofr_ir_value rows = ofr_ir_parameter(ir, "rows", OFR_IR_I64, OFR_IR_SHAPE(2));
    expect_shape(ofr_ir_gather(ir, w, rows, 0), OFR_IR_SHAPE(2, 6));
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(ofr_ir_write(ir, &text, &size, NULL), 0);
    assert_int_equal(strlen(text), size);
    assert_non_null(strstr(text, "type=\"MatMul\" version=\"opset1\""));
    assert_non_null(strstr(text, "names=\"rows\""));
    free(text);
}

static void expect_failure(const char *word)
{
    char *text = NULL;
    size_t size = 0;
    ofr_error err = {0};
    assert_int_equal(ofr_ir_write(ir, &text, &size, &err), OFR_EINTERNAL);
    assert_null(text);
    if (!strstr(err.text, word))
        fail_msg("'%s' does not name %s", err.text, word);
}

static void misfits_are_errors(void **state)
{
    (void)state;
    ofr_ir_value x = ofr_ir_parameter(ir, "x", OFR_IR_F32, OFR_IR_SHAPE(1, 4, 6));
    ofr_ir_value w = ofr_ir_parameter(ir, "w", OFR_IR_F32, OFR_IR_SHAPE(10, 5));
    ofr_ir_matmul(ir, x, w, 1);
    expect_failure("MatMul of [1, 4, 6] and [10, 5]");
}

static void types_must_agree(void **state)
{
    (void)state;
    ofr_ir_value x = ofr_ir_parameter(ir, "x", OFR_IR_F32, OFR_IR_SHAPE(4));
    ofr_ir_value y = ofr_ir_parameter(ir, "y", OFR_IR_F16, OFR_IR_SHAPE(4));
    ofr_ir_binary(ir, "Add", x, y);
    expect_failure("Add");
}

static void constants_have_the_size_of_their_shape(void **state)
{
    (void)state;
    ofr_ir_tensor(ir, "weight", OFR_IR_I4, OFR_IR_SHAPE(4, 8), 64, 15);
    expect_failure("'weight' has 15 bytes");
}

static void equal_constants_are_stored_once(void **state)
{
    (void)state;
    ofr_ir_i64(ir, 7);
    size_t size = pool.size;
    ofr_ir_i64(ir, 7);
    ofr_ir_i64s(ir, (const int64_t[]){7}, 1);
    assert_int_equal(pool.size, size);
    ofr_ir_f32(ir, 0.5F);
    assert_int_equal(pool.size, size + 8);
    pool.base = 4096;
    ofr_ir_result(ir, "out", ofr_ir_convert(ir, ofr_ir_i64(ir, 7), OFR_IR_F32));
    char *text = NULL;
    size_t length = 0;
    assert_int_equal(ofr_ir_write(ir, &text, &length, NULL), 0);
    assert_non_null(strstr(text, "offset=\"4096\" size=\"8\""));
    assert_non_null(strstr(text, "names=\"out\""));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(shapes_are_inferred, set_up, tear_down),
        cmocka_unit_test_setup_teardown(misfits_are_errors, set_up, tear_down),
        cmocka_unit_test_setup_teardown(types_must_agree, set_up, tear_down),
        cmocka_unit_test_setup_teardown(constants_have_the_size_of_their_shape, set_up, tear_down),
        cmocka_unit_test_setup_teardown(equal_constants_are_stored_once, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
