/* The check of graphs: what the builder makes passes, and each rule names the node at fault. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "graph/ir.h"
#include "graph/ir_check.h"

enum { BINARY_BYTES = 1 << 20 };

typedef struct found {
    unsigned errors, warnings;
    char first[512]; /* "node: what" of the first error, else of the first warning */
} found;

static void on_finding(void *user, const ofr_ir_finding *finding)
{
    found *f = user;
    unsigned *count = finding->is_error ? &f->errors : &f->warnings;
    if ((*count)++ == 0 && (finding->is_error || f->errors == 0))
        snprintf(f->first, sizeof f->first, "%s: %s", finding->node, finding->what);
}

/* x . (w * scale)^T for INT4 of this type and shape, written by the builder. */
static char *product(enum ofr_ir_type type, ofr_ir_shape w_shape, int64_t tokens, bool zero_point,
                     const char *unary, uint64_t offset)
{
    ofr_ir_pool pool = {.base = BINARY_BYTES / 2};
    ofr_ir *ir = NULL;
    ofr_error err = {0};
    char *text = NULL;
    size_t size = 0;
    int64_t n = w_shape.dims[0], k = w_shape.dims[1] * (w_shape.rank == 3 ? w_shape.dims[2] : 1);
    if (ofr_ir_new("test", &pool, &ir, &err) < 0)
        fail_msg("%s", err.text);
    ofr_ir_value x = ofr_ir_parameter(ir, "x", OFR_IR_F32, OFR_IR_SHAPE(tokens, k));
    ofr_ir_value w = ofr_ir_tensor(ir, "w", type, w_shape, offset, (uint64_t)(n * k / 2));
    w = ofr_ir_convert(ir, w, OFR_IR_F32);
    if (zero_point)
        w = ofr_ir_binary(ir, "Subtract", w, ofr_ir_f32(ir, 8));
    w = ofr_ir_binary(ir, "Multiply", w, ofr_ir_f32(ir, 0.5F));
    w = ofr_ir_reshape(ir, w, OFR_IR_SHAPE(n, k));
    x = ofr_ir_matmul(ir, ofr_ir_unary(ir, unary, x), w, 1);
    ofr_ir_result(ir, "y", x);
    if (ofr_ir_write(ir, &text, &size, &err) < 0)
        fail_msg("%s", err.text);
    ofr_ir_free(ir);
    ofr_ir_pool_done(&pool);
    return text;
}

/* Frees `text`. */
static found judged(char *text, enum ofr_ir_check_kind kind)
{
    found f = {0};
    ofr_error err = {0};
    ofr_ir_check_options options = {
        .kind = kind, .binary_bytes = BINARY_BYTES, .report = on_finding, .user = &f};
    if (ofr_ir_check(text, strlen(text), &options, &err) < 0)
        fail_msg("%s", err.text);
    free(text);
    return f;
}

static void expect_error(found f, const char *what)
{
    if (f.errors == 0 || !strstr(f.first, what))
        fail_msg("%u errors, '%s' instead of '%s'", f.errors, f.first, what);
}

static void good_graphs_pass(void **state)
{
    (void)state;
    found f = judged(product(OFR_IR_I4, OFR_IR_SHAPE(8, 2, 128), 4, false, "Sqrt", 0),
                     OFR_IR_CHECK_FOLDED);
    assert_int_equal(f.errors + f.warnings, 0);
    f = judged(product(OFR_IR_I4, OFR_IR_SHAPE(8, 256), 4, false, "Tanh", 0), OFR_IR_CHECK_FOLDED);
    assert_int_equal(f.errors + f.warnings, 0);
}

static void group_sizes_are_judged(void **state)
{
    (void)state;
    found f = judged(product(OFR_IR_I4, OFR_IR_SHAPE(8, 4, 64), 4, false, "Sqrt", 0),
                     OFR_IR_CHECK_FOLDED);
    assert_int_equal(f.errors, 0);
    assert_int_equal(f.warnings, 1);
    assert_non_null(strstr(f.first, "w: INT4 in groups of 64"));
    expect_error(judged(product(OFR_IR_I4, OFR_IR_SHAPE(8, 16, 16), 4, false, "Sqrt", 0),
                        OFR_IR_CHECK_FOLDED),
                 "w: INT4 in groups of 16");
}

static void asymmetry_is_an_error(void **state)
{
    (void)state;
    expect_error(judged(product(OFR_IR_U4, OFR_IR_SHAPE(8, 2, 128), 4, false, "Sqrt", 0),
                        OFR_IR_CHECK_FOLDED),
                 "w: unsigned INT4");
    expect_error(judged(product(OFR_IR_I4, OFR_IR_SHAPE(8, 2, 128), 4, true, "Sqrt", 0),
                        OFR_IR_CHECK_FOLDED),
                 "a zero point of 'w'");
}

static void unknown_operations_are_errors(void **state)
{
    (void)state;
    found f = judged(product(OFR_IR_I4, OFR_IR_SHAPE(8, 2, 128), 4, false, "FancyNorm", 0),
                     OFR_IR_CHECK_FOLDED);
    expect_error(f, "FancyNorm_");
    expect_error(f, "operation FancyNorm (opset1)");
}

static void dynamic_shapes_are_errors(void **state)
{
    (void)state;
    expect_error(
        judged(product(OFR_IR_I4, OFR_IR_SHAPE(8, 2, 128), OFR_IR_DYNAMIC, false, "Sqrt", 0),
               OFR_IR_CHECK_FOLDED),
        "x: ");
}

static void constants_must_lie_in_the_file(void **state)
{
    (void)state;
    expect_error(
        judged(product(OFR_IR_I4, OFR_IR_SHAPE(8, 2, 128), 4, false, "Sqrt", BINARY_BYTES - 1023),
               OFR_IR_CHECK_FOLDED),
        "w: its bytes");
    expect_error(judged(product(OFR_IR_I4, OFR_IR_SHAPE(8, 2, 128), 4, false, "Sqrt",
                                UINT64_C(9000000000000000000)),
                        OFR_IR_CHECK_FOLDED),
                 "w: its bytes");
}

static void whole_graphs_need_beams(void **state)
{
    (void)state;
    expect_error(judged(product(OFR_IR_I4, OFR_IR_SHAPE(8, 2, 128), 4, false, "Sqrt", 0),
                        OFR_IR_CHECK_WHOLE),
                 "no input beam_idx");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_graphs_pass),
        cmocka_unit_test(group_sizes_are_judged),
        cmocka_unit_test(asymmetry_is_an_error),
        cmocka_unit_test(unknown_operations_are_errors),
        cmocka_unit_test(dynamic_shapes_are_errors),
        cmocka_unit_test(constants_must_lie_in_the_file),
        cmocka_unit_test(whole_graphs_need_beams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
