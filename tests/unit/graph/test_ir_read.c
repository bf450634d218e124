/* The reader of IR: what it keeps of a graph, and texts that it must refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "graph/ir_read.h"

#define NODE_A                                                                                     \
    "<layer id=\"7\" name=\"a\" type=\"Parameter\" version=\"opset1\"><data shape=\"1,2\" "        \
    "element_type='f32'/><output><port id=\"0\" precision=\"FP32\"><dim>1</dim><dim>-1</dim>"      \
    "</port></output></layer>"
#define NODE_B                                                                                     \
    "<layer id=\"3\" name=\"b\" type=\"Result\" version=\"opset1\"><input><port id=\"0\">"         \
    "<dim>1</dim><dim>-1</dim></port></input></layer>"
#define EDGE "<edge from-layer=\"7\" from-port=\"0\" to-layer=\"3\" to-port=\"0\"/>"
#define GRAPH(layers, edges)                                                                       \
    "<?xml version=\"1.0\"?><!-- a > b --><net name=\"x\"><layers>" layers                         \
    "</layers><edges>" edges "</edges><rt_info><layers><layer/></layers></rt_info></net>"

static void a_graph_is_read(void **state)
{
    (void)state;
    static const char text[] = GRAPH(NODE_A NODE_B, EDGE);
    ofr_ir_document d = {0};
    ofr_error err = {0};
    if (ofr_ir_read(text, strlen(text), &d, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(d.n_nodes, 2);
    assert_int_equal(d.n_ports, 2);
    assert_int_equal(d.n_edges, 1);
    assert_true(ofr_ir_text_is(d.nodes[0].name, "a"));
    assert_true(ofr_ir_text_is(d.nodes[0].element_type, "f32"));
    assert_true(ofr_ir_text_is(d.nodes[0].shape, "1,2"));
    assert_int_equal(d.nodes[1].n_inputs, 1);
    assert_int_equal(d.ports[0].rank, 2);
    assert_int_equal(d.ports[0].dims[1], -1);
    assert_int_equal(d.edges[0].from, 0);
    assert_int_equal(d.edges[0].to, 1);
    assert_int_equal(d.edges[0].to_port, 1);
    ofr_ir_document_done(&d);
}

static void bad_texts_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *what;
    } cases[] = {
        {"", "no graph"},
        {"<net>", "no end"},
        {"<net", "no end"},
        {"<net a=b/>", "quoted"},
        {"<net a=\"b/>", "no end"},
        {"</net>", "not open"},
        {"<net></ten>", "not open"},
        {"<!-- <net/>", "no end"},
        {GRAPH(NODE_A NODE_A, ""), "two layers of one number"},
        {GRAPH(NODE_A, EDGE), "not there"},
        {GRAPH(NODE_A NODE_B,
               "<edge from-layer=\"7\" from-port=\"1\" to-layer=\"3\" to-port=\"0\"/>"),
         "port that is not there"},
        {GRAPH("<layer id=\"x\" type=\"Const\"/>", ""), "without a number"},
        {GRAPH("<layer id=\"99999999999999999999\" type=\"Const\"/>", ""), "without a number"},
        {GRAPH("<layer id=\"1\" type=\"A\"><output><port "
               "id=\"0\"><dim>x</dim></port></output></layer>",
               ""),
         "no number"},
        {GRAPH("<layer id=\"1\" type=\"A\"><output><port "
               "id=\"0\"><dim>1</dim><dim>1</dim><dim>1</dim>"
               "<dim>1</dim><dim>1</dim><dim>1</dim><dim>1</dim><dim>1</dim><dim>1</dim></port>"
               "</output></layer>",
               ""),
         "too many dimensions"},
        {"<a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a><a>",
         "too deeply"},
        {"<net><edges></edges><edges></edges></net>", "second list"},
        {"<net><edges></edges><layers></layers></net>", "behind the edges"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ofr_ir_document d = {0};
        ofr_error err = {0};
        int r = ofr_ir_read(cases[i].text, strlen(cases[i].text), &d, &err);
        if (r != OFR_EFORMAT || !strstr(err.text, cases[i].what))
            fail_msg("case %zu: %d, '%s' instead of '%s'", i, r, err.text, cases[i].what);
        assert_null(d.nodes);
    }
}

static void every_cut_is_refused(void **state)
{
    (void)state;
    static const char text[] = GRAPH(NODE_A NODE_B, EDGE);
    for (size_t size = 0; size + 1 < strlen(text); size++) {
        ofr_ir_document d = {0};
        ofr_error err = {0};
        assert_int_equal(ofr_ir_read(text, size, &d, &err), OFR_EFORMAT);
    }
}

static void numbers_are_bounded(void **state)
{
    (void)state;
    uint64_t value = 5;
    assert_int_equal(ofr_ir_text_number((ofr_ir_text){"1234", 3}, &value), 0);
    assert_int_equal(value, 123);
    assert_int_equal(ofr_ir_text_number((ofr_ir_text){"", 0}, &value), OFR_EFORMAT);
    assert_int_equal(ofr_ir_text_number((ofr_ir_text){"-1", 2}, &value), OFR_EFORMAT);
    assert_int_equal(ofr_ir_text_number((ofr_ir_text){"12345678901234567890", 20}, &value),
                     OFR_EFORMAT);
    assert_int_equal(value, 123);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_graph_is_read),
        cmocka_unit_test(bad_texts_are_refused),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(numbers_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
