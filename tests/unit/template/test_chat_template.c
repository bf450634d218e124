/* Chat templates: errors say where, limits hold, malformed templates are refused. What templates
 * render is compared with jinja2 in tests/parity/test_chat_template_*.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "template/chat_template.h"

/* Compiles and renders; *ret_text is NULL on failure, *ret_err tells why. */
static int render(const char *source, size_t size, const char *context, char **ret_text,
                  ofr_error *ret_err)
{
    ofr_chat_template *tmpl = NULL;
    *ret_text = NULL;
    memset(ret_err, 0, sizeof *ret_err);
    int rc = ofr_chat_template_compile("t.jinja", source, size, &tmpl, ret_err);
    if (rc < 0) {
        assert_null(tmpl);
        return rc;
    }
    json_t *variables = json_loads(context, 0, NULL);
    assert_non_null(variables);
    size_t text_size = 0;
    rc = ofr_chat_template_render(tmpl, variables, 0, ret_text, &text_size, ret_err);
    if (rc == 0) {
        assert_int_equal(strlen(*ret_text), text_size);
    }
    json_decref(variables);
    ofr_chat_template_free(tmpl);
    return rc;
}

static void expect_text(const char *source, const char *context, const char *expected)
{
    char *text;
    ofr_error err;
    if (render(source, strlen(source), context, &text, &err) < 0) {
        fail_msg("%s: %s", source, err.text);
    }
    assert_string_equal(text, expected);
    free(text);
}

static void expect_error(const char *source, int code, const char *start)
{
    char *text;
    ofr_error err;
    assert_int_equal(render(source, strlen(source), "{\"d\":{},\"n\":1}", &text, &err), code);
    assert_null(text);
    assert_int_equal(err.code, code);
    if (strncmp(err.text, start, strlen(start)) != 0) {
        fail_msg("'%s' does not start with '%s'", err.text, start);
    }
}

static void variables_reach_the_template(void **state)
{
    (void)state;
    expect_text("{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}\n{% endfor %}",
                "{\"messages\":[{\"role\":\"user\",\"content\":\" hi \"}]}", "user: hi\n");
    expect_text("", "{}", "");
    expect_text("{{ a }}|{{ b }}|{{ c }}", "{\"a\":null,\"b\":[1,2.5,true,\"x\"]}",
                "None|[1, 2.5, True, 'x']|");
}

static void chat_input_gives_the_variables_of_transformers(void **state)
{
    (void)state;
    const char *source = "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ documents is none }}"
                         "{{ add_generation_prompt }}{{ messages | length }}{{ x }}";
    ofr_chat_template *tmpl;
    ofr_error err;
    assert_int_equal(ofr_chat_template_compile("t", source, strlen(source), &tmpl, &err), 0);
    json_t *messages = json_pack("[{s:s}]", "role", "user"), *extra = json_pack("{s:i}", "x", 7);
    ofr_chat_input input = {
        .messages = messages, .extra = extra, .bos_token = "<s>", .add_generation_prompt = true};
    char *text = NULL;
    size_t size;
    assert_int_equal(ofr_chat_template_render_chat(tmpl, &input, 0, &text, &size, &err), 0);
    assert_string_equal(text, "<s>TrueTrueTrue17");
    free(text);
    input.messages = extra;
    assert_int_equal(ofr_chat_template_render_chat(tmpl, &input, 0, &text, &size, &err),
                     OFR_EINVAL);
    json_decref(messages);
    json_decref(extra);
    ofr_chat_template_free(tmpl);
}

static void errors_name_line_and_column(void **state)
{
    (void)state;
    expect_error("a\n  {{ d.x.y }}", OFR_ETEMPLATE, "t.jinja:2:9: ");
    expect_error("{% if n %}\nx", OFR_ETEMPLATE, "t.jinja:1:4: ");
    expect_error("é {{ é\n\n + * }}", OFR_ETEMPLATE, "t.jinja:3:4: unexpected '*'");
    expect_error("\n\n{{ raise_exception('No\nway') }}", OFR_ETEMPLATE, "t.jinja:3:19: No way");
    expect_error("{% for x in [1] %}\n{{ x | sort }}{% endfor %}", OFR_ETEMPLATE, "t.jinja:2:8: ");
    expect_error("{{ n | nothing }}", OFR_ETEMPLATE, "t.jinja:1:8: no filter is named 'nothing'");
    expect_error("{% include 'x' %}", OFR_EUNSUPPORTED, "t.jinja:1:4: 'include'");
    expect_error("{% macro m() %}{{ 1 // 0 }}{% endmacro %}\n{{ m() }}", OFR_ETEMPLATE,
                 "t.jinja:1:21: ");
}

static void malformed_templates_are_refused(void **state)
{
    (void)state;
    static const char *const sources[] = {
        "{{",
        "{%",
        "{#",
        "{{ ",
        "{% if",
        "{% for x in",
        "{{ 'open }}",
        "{{ (1 }}",
        "{{ ) }}",
        "{% endfor %}",
        "{{ 1 2 }}",
        "{% set %}",
        "{% set 1=2 %}",
        "{{ a. }}",
        "{{ a[ }}",
        "{{ {1} }}",
        "{% raw %}x",
        "{{ '\\x4' }}",
        "{{ 99999999999999999999 }}",
        "{% break %}",
        "{% nope %}",
        "{{ f(a=1, 2) }}",
        "{{ $ }}",
    };
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        expect_error(sources[i], OFR_ETEMPLATE, "t.jinja:1:");
    }
    char *text;
    ofr_error err;
    assert_int_equal(render("a\n\xff", 3, "{}", &text, &err), OFR_EUTF8);
    assert_string_equal(err.text, "t.jinja:2:1: the template is not valid UTF-8");
    assert_int_equal(render("{{ '\\ud800' }}", 14, "{}", &text, &err), OFR_EUTF8);
}

/* `count` times `open`, then `middle`, then `count` times `close`. */
static char *nested(const char *open, const char *middle, const char *close, size_t count)
{
    char *text = malloc(count * (strlen(open) + strlen(close)) + strlen(middle) + 1);
    assert_non_null(text);
    char *p = text;
    for (size_t i = 0; i < count; i++) {
        p = stpcpy(p, open);
    }
    p = stpcpy(p, middle);
    for (size_t i = 0; i < count; i++) {
        p = stpcpy(p, close);
    }
    return text;
}

static void nesting_is_limited(void **state)
{
    (void)state;
    static const char *const parts[][3] = {
        {"{{ (", "1", ""},
        {"(", "", ""},
        {"{% if n %}", "x", "{% endif %}"},
        {"[", "", ""},
        {"-", "", ""},
        {"{% for x in n %}", "", ""},
        {"not ", "", ""},
        {"{'a':", "", ""},
        {"1 if 1 else ", "", ""},
        {"n|default(", "", ""},
        {"{% macro m() %}", "", ""},
    };
    for (size_t i = 1; i < sizeof parts / sizeof parts[0]; i++) {
        char *body = nested(parts[i][0], parts[i][1], parts[i][2], 20000);
        char *source = parts[i][0][0] == '{' && parts[i][0][1] == '%' ? strdup(body)
                                                                      : nested("{{ ", body, "", 1);
        assert_non_null(source);
        expect_error(source, OFR_ELIMIT, "t.jinja:1:");
        free(source);
        free(body);
    }
    char *sum = nested("1 + ", "1", "", 20000), *source = nested("{{ ", sum, " }}", 1);
    expect_error(source, OFR_ELIMIT, "t.jinja:1:");
    free(source);
    free(sum);
}

static void deep_data_is_limited(void **state)
{
    (void)state;
    json_t *value = json_array();
    for (int i = 0; i < 1500; i++) {
        value = json_pack("[o]", value);
    }
    json_t *context = json_pack("{s:o}", "v", value);
    ofr_chat_template *tmpl;
    ofr_error err;
    char *text = NULL;
    size_t size;
    assert_int_equal(ofr_chat_template_compile("t", "{{ v }}", 7, &tmpl, &err), 0);
    assert_int_equal(ofr_chat_template_render(tmpl, context, 0, &text, &size, &err), OFR_ELIMIT);
    assert_null(text);
    json_decref(context);
    ofr_chat_template_free(tmpl);
}

static void work_memory_and_output_are_limited(void **state)
{
    (void)state;
    expect_error("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                 OFR_ELIMIT, "t.jinja:1:");
    expect_error("{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}", OFR_ELIMIT,
                 "t.jinja:1:");
    expect_error("{{ 'x' * 99999999999 }}", OFR_ELIMIT, "t.jinja:1:");
    expect_error("{{ [1] * 999999999 }}", OFR_ELIMIT, "t.jinja:1:");
    expect_error("{{ range(100001) }}", OFR_ELIMIT, "t.jinja:1:");
    expect_error("{{ '%999999999999d' % 1 }}", OFR_ELIMIT, "t.jinja:1:");
    expect_error("{{ 'x'.center(99999999999) }}", OFR_ELIMIT, "t.jinja:1:");
    expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", OFR_ELIMIT, "t.jinja:1:");
    expect_error("{% set ns = namespace(s='x') %}{% for i in range(64) %}"
                 "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                 OFR_ELIMIT, "t.jinja:1:");
    expect_error("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", OFR_ELIMIT, "t.jinja:1:");
}

static void integers_do_not_wrap(void **state)
{
    (void)state;
    expect_error("{{ 9223372036854775807 + 1 }}", OFR_ETEMPLATE, "t.jinja:1:24: ");
    expect_error("{{ -9223372036854775807 - 2 }}", OFR_ETEMPLATE, "t.jinja:1:25: ");
    expect_error("{{ 3037000500 * 3037000500 }}", OFR_ETEMPLATE, "t.jinja:1:15: ");
    expect_error("{{ 2 ** 63 }}", OFR_ETEMPLATE, "t.jinja:1:");
    expect_error("{{ (-9223372036854775807 - 1) // -1 }}", OFR_ETEMPLATE, "t.jinja:1:");
    expect_error("{{ 1e30 | int }}", OFR_ETEMPLATE, "t.jinja:1:");
    expect_text("{{ (-9223372036854775807 - 1) % -1 }}{{ 'ab'[-9223372036854775807:] }}"
                "{{ [1,2,3][::-9223372036854775807] }}",
                "{}", "0ab[3]");
}

static void a_template_renders_again_and_again(void **state)
{
    (void)state;
    const char *source = "{% set x = x ~ '!' %}{{ x }}{{ ['a', 'b'] | join('-') }}";
    ofr_chat_template *tmpl;
    ofr_error err;
    assert_int_equal(ofr_chat_template_compile("t", source, strlen(source), &tmpl, &err), 0);
    for (int i = 0; i < 3; i++) {
        json_t *context = json_pack("{s:i}", "x", i);
        char *text, expected[32];
        size_t size;
        assert_int_equal(ofr_chat_template_render(tmpl, context, 0, &text, &size, &err), 0);
        snprintf(expected, sizeof expected, "%d!a-b", i);
        assert_string_equal(text, expected);
        free(text);
        json_decref(context);
    }
    ofr_chat_template_free(tmpl);
    assert_null(ofr_chat_template_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(variables_reach_the_template),
        cmocka_unit_test(chat_input_gives_the_variables_of_transformers),
        cmocka_unit_test(errors_name_line_and_column),
        cmocka_unit_test(malformed_templates_are_refused),
        cmocka_unit_test(nesting_is_limited),
        cmocka_unit_test(deep_data_is_limited),
        cmocka_unit_test(work_memory_and_output_are_limited),
        cmocka_unit_test(integers_do_not_wrap),
        cmocka_unit_test(a_template_renders_again_and_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
