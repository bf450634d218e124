/* OpenVINO's C library as we use it, played by tests/fake_openvino: versions, devices, failures,
 * pointers that a plug-in refuses or copies from. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/openvino/ov_runtime.h"
#include "graph/ir.h"

static const char LIBRARY[] = OFR_TEST_BINARY_DIR "/tests/fake_openvino/libfake_openvino_c.so";
enum { N = 2048, BYTES = N * sizeof(float), PAGE = 4096 };

static ofr_ov *opened(const char *behaviour)
{
    ofr_ov *ov = NULL;
    ofr_error err = {0};
    setenv("FAKE_OPENVINO", behaviour, 1);
    if (ofr_ov_open(LIBRARY, &ov, &err) < 0)
        fail_msg("%s", err.text);
    return ov;
}

static int compile(ofr_ov *ov, const char *device, ofr_ov_graph **ret_graph, ofr_error *err)
{
    ofr_ir_pool pool = {0};
    ofr_ir *ir = NULL;
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(ofr_ir_new("g", &pool, &ir, err), 0);
    ofr_ir_value x = ofr_ir_parameter(ir, "x", OFR_IR_F32, OFR_IR_SHAPE(N));
    ofr_ir_result(ir, "y", ofr_ir_unary(ir, "Sqrt", x));
    assert_int_equal(ofr_ir_write(ir, &text, &size, err), 0);
    ofr_ov_compile what = {.device = device,
                           .name = "g.xml",
                           .xml = text,
                           .xml_size = size,
                           .weights = text,
                           .weights_size = size};
    int r = ofr_ov_graph_compile(ov, &what, ret_graph, err);
    free(text);
    ofr_ir_free(ir);
    ofr_ir_pool_done(&pool);
    return r;
}

static ofr_ov_graph *compiled(ofr_ov *ov, const char *device)
{
    ofr_ov_graph *graph = NULL;
    ofr_error err = {0};
    if (compile(ov, device, &graph, &err) < 0)
        fail_msg("%s", err.text);
    return graph;
}

static void libraries_are_judged(void **state)
{
    (void)state;
    ofr_ov *ov = NULL;
    ofr_error err = {0};
    assert_int_equal(ofr_ov_open("/nowhere/libopenvino_c.so", &ov, &err), OFR_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "/nowhere/libopenvino_c.so"));
    assert_int_equal(ofr_ov_open("libm.so.6", &ov, &err), OFR_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "has no function"));
    setenv("FAKE_OPENVINO", "old", 1);
    assert_int_equal(ofr_ov_open(LIBRARY, &ov, &err), OFR_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "2023.3.0-fake"));
    assert_null(ov);
    ov = opened("");
    char names[64];
    assert_int_equal(ofr_ov_devices(ov, names, sizeof names, &err), 0);
    assert_string_equal(names, "CPU,NPU");
    assert_true(ofr_ov_supports(ov, "NPU", "NPU_COMPILER_TYPE"));
    assert_false(ofr_ov_supports(ov, "NPU", "NPU_COMPILER"));
    assert_false(ofr_ov_has_npu_compiler(ov));
    ofr_ov_close(ov);
}

static void failed_compilations_tell_why(void **state)
{
    (void)state;
    ofr_ov *ov = opened("no_compile");
    ofr_ov_graph *graph = NULL;
    ofr_error err = {0};
    assert_int_equal(compile(ov, "NPU", &graph, &err), OFR_EDEVICE);
    assert_null(graph);
    assert_non_null(strstr(err.text, "cannot compile g.xml"));
    assert_non_null(strstr(err.text, "it was asked to fail"));
    assert_null(strchr(err.text, '\n'));
    ofr_ov_close(ov);
}

static void refused_pointers_are_copied_and_counted(void **state)
{
    (void)state;
    ofr_ov *ov = opened("picky");
    ofr_ov_graph *graph = compiled(ov, "CPU");
    ofr_error err = {0};
    uint8_t *memory = aligned_alloc(PAGE, 6 * PAGE);
    uint8_t *in = memory + 64, *out = memory + 3 * PAGE + 128;
    memset(memory, 0, 6 * PAGE);
    int x = ofr_ov_graph_port(graph, "x"), y = ofr_ov_graph_port(graph, "y");
    assert_int_equal(ofr_ov_graph_bind(graph, x, memory, BYTES, &err), 0);
    assert_int_equal(ofr_ov_graph_bind(graph, y, memory + 3 * PAGE, BYTES, &err), 0);
    assert_int_equal(ofr_ov_graph_infer(graph, &err), 0);
    assert_int_equal(ofr_ov_graph_copied(graph), 0);
    assert_int_equal(memory[3 * PAGE], 0x5a);
    memset(memory, 0, 6 * PAGE);
    assert_int_equal(ofr_ov_graph_bind(graph, x, in, BYTES, &err), 0);
    assert_int_equal(ofr_ov_graph_bind(graph, y, out, BYTES, &err), 0);
    assert_int_equal(ofr_ov_graph_infer(graph, &err), 0);
    assert_int_equal(ofr_ov_graph_copied(graph), 2 * BYTES);
    assert_int_equal(out[-1], 0);
    assert_int_equal(out[0], 0x5a);
    assert_int_equal(out[BYTES - 1], 0x5a);
    assert_int_equal(out[BYTES], 0);
    assert_int_equal(ofr_ov_graph_bind(graph, x, in, BYTES - 4, &err), 0); /* the same pointer */
    assert_int_equal(ofr_ov_graph_bind(graph, x, in + 4, BYTES - 4, &err), OFR_EFORMAT);
    assert_int_equal(ofr_ov_graph_bind(graph, 7, in, BYTES, &err), OFR_EINTERNAL);
    free(memory);
    ofr_ov_graph_free(graph);
    ofr_ov_close(ov);
}

/* An NPU's plug-in refuses nothing: it copies from what is neither imported nor whole pages. */
static void what_an_npu_copies_is_counted(void **state)
{
    (void)state;
    ofr_ov *ov = opened("");
    ofr_ov_graph *graph = compiled(ov, "NPU");
    ofr_error err = {0};
    uint8_t *memory = aligned_alloc(PAGE, 8 * PAGE), *other = aligned_alloc(PAGE, 4 * PAGE);
    memset(memory, 0, 8 * PAGE);
    assert_int_equal(ofr_ov_import_memory(ov, "NPU", memory, 8 * PAGE, &err), 0);
    int x = ofr_ov_graph_port(graph, "x"), y = ofr_ov_graph_port(graph, "y");
    assert_int_equal(ofr_ov_graph_bind(graph, x, memory + 64, BYTES, &err), 0);
    assert_int_equal(ofr_ov_graph_bind(graph, y, memory + 4 * PAGE + 64, BYTES, &err), 0);
    assert_int_equal(ofr_ov_graph_infer(graph, &err), 0);
    assert_int_equal(ofr_ov_graph_copied(graph), 0);
    /* Whole pages outside, then not even these; and past the end of what was imported. */
    assert_int_equal(ofr_ov_graph_bind(graph, y, other, BYTES, &err), 0);
    assert_int_equal(ofr_ov_graph_infer(graph, &err), 0);
    assert_int_equal(ofr_ov_graph_copied(graph), 0);
    assert_int_equal(ofr_ov_graph_bind(graph, y, other + 64, BYTES, &err), 0);
    assert_int_equal(ofr_ov_graph_infer(graph, &err), 0);
    assert_int_equal(ofr_ov_graph_copied(graph), BYTES);
    free(memory);
    free(other);
    ofr_ov_graph_free(graph);
    ofr_ov_close(ov);
    ov = opened("no_import");
    assert_int_equal(ofr_ov_import_memory(ov, "NPU", &err, PAGE, &err), OFR_EUNSUPPORTED);
    assert_int_equal(ofr_ov_import_memory(ov, "CPU", &err, PAGE, &err), 0);
    ofr_ov_close(ov);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(libraries_are_judged),
        cmocka_unit_test(failed_compilations_tell_why),
        cmocka_unit_test(refused_pointers_are_copied_and_counted),
        cmocka_unit_test(what_an_npu_copies_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
