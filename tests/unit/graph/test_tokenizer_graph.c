/* The tokenizer's graphs: well-formed, their constants in their own file, each rule its operations.
 * What they compute is compared in parity/test_genai_tokenizer.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "graph/ir_check.h"
#include "graph/tokenizer_graph.h"
#include "support/small_vocab.h"

static void on_finding(void *user, const ofr_ir_finding *finding)
{
    (void)user;
    fail_msg("'%s': %s", finding->node, finding->what);
}

static void check(const ofr_tokenizer_graph *graph, uint64_t bytes, ofr_ir_report report)
{
    ofr_error err = {0};
    ofr_ir_check_options options = {
        .kind = OFR_IR_CHECK_TOKENIZER, .binary_bytes = bytes, .report = report};
    if (ofr_ir_check(graph->xml, graph->xml_size, &options, &err) < 0)
        fail_msg("%s", err.text);
}

static ofr_tokenizer_graph made(const small_vocab *small, const char *chat_template, bool decoder)
{
    void *image = NULL;
    size_t size = 0;
    ofr_error err = {0};
    ofr_tokenizer_graph graph = {0};
    if (ofr_tokenizer_build(&small->vocab, &image, &size, &err) < 0 ||
        (decoder ? ofr_tokenizer_graph_decoder(image, size, &graph, &err)
                 : ofr_tokenizer_graph_encoder(image, size, chat_template, &graph, &err)) < 0)
        fail_msg("%s", err.text);
    free(image);
    check(&graph, graph.constants.size, on_finding);
    return graph;
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, what)) != NULL; at++)
        n++;
    return n;
}

static void words_are_cut_as_the_rule_says(void **state)
{
    (void)state;
    static const struct {
        const char *pre;
        size_t stages;
    } rules[] = {{"gpt-2", 1}, {"smollm", 2}, {"deepseek-llm", 6}};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        small_vocab small;
        small_byte_level(&small, rules[i].pre);
        ofr_tokenizer_graph graph = made(&small, NULL, false);
        assert_int_equal(count(graph.xml, "type=\"RegexSplit\""), rules[i].stages);
        assert_int_equal(count(graph.xml, "type=\"RegexNormalization\""), 0);
        assert_int_equal(count(graph.xml, "byte_fallback=\"false\""), 1);
        ofr_tokenizer_graph_done(&graph);
    }
}

static void pieces_have_marks_and_bos(void **state)
{
    (void)state;
    small_vocab small;
    small_pieces(&small, OFR_VOCAB_KIND_SPM);
    ofr_tokenizer_graph graph = made(&small, NULL, false);
    assert_int_equal(count(graph.xml, "type=\"RegexNormalization\""), 2);
    assert_int_equal(count(graph.xml, "byte_fallback=\"true\""), 1);
    assert_non_null(strstr(graph.xml, "<bos_token_id value=\"1\"/>"));
    ofr_tokenizer_graph_done(&graph);
    small.vocab.add_space_prefix = false;
    graph = made(&small, NULL, false);
    assert_int_equal(count(graph.xml, "type=\"RegexNormalization\""), 1);
    ofr_tokenizer_graph_done(&graph);
    graph = made(&small, NULL, true);
    assert_int_equal(count(graph.xml, "type=\"RegexNormalization\""), 0);
    assert_int_equal(count(graph.xml, "type=\"VocabDecoder\""), 1);
    ofr_tokenizer_graph_done(&graph);
}

/* All text that XML can hold comes back from an attribute as it was. */
static void the_template_is_escaped(void **state)
{
    (void)state;
    small_vocab small;
    small_byte_level(&small, "gpt-2");
    ofr_tokenizer_graph graph = made(&small, "{{ \"<s>\" & 'x'\n }}", false);
    assert_non_null(strstr(graph.xml, "value=\"{{ &#34;&#60;s>&#34; &#38; 'x'&#10; }}\"/>"));
    ofr_tokenizer_graph_done(&graph);
    graph = made(&small, "\x01", false);
    assert_null(strstr(graph.xml, "chat_template"));
    ofr_tokenizer_graph_done(&graph);
}

static void count_finding(void *user, const ofr_ir_finding *finding)
{
    (void)user;
    assert_true(finding->is_error);
    assert_non_null(strstr(finding->what, "beyond the end of the file beside it"));
    function_called();
}

static void a_short_file_is_found(void **state)
{
    (void)state;
    small_vocab small;
    small_byte_level(&small, "gpt-2");
    ofr_tokenizer_graph graph = made(&small, NULL, true);
    expect_function_call_any(count_finding);
    check(&graph, graph.constants.size / 2, count_finding);
    ofr_tokenizer_graph_done(&graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_cut_as_the_rule_says),
        cmocka_unit_test(pieces_have_marks_and_bos),
        cmocka_unit_test(the_template_is_escaped),
        cmocka_unit_test(a_short_file_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
