/* JSON schemas: what the grammar of each keyword holds, and what is refused by which name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "support/grammar_vocab.h"

static grammar_vocab vocab;

static int compile(const char *schema, ofr_grammar **grammar, ofr_error *err)
{
    json_error_t e;
    json_t *json = json_loads(schema, JSON_DECODE_ANY, &e);
    if (!json)
        fail_msg("%s\n%s", schema, e.text);
    int r = ofr_grammar_from_json_schema(json, grammar, err);
    json_decref(json);
    return r;
}

static void check(const char *schema, const char *const *texts, const char *const *others)
{
    ofr_grammar *grammar = NULL;
    ofr_error err = {0};
    if (compile(schema, &grammar, &err) < 0)
        fail_msg("%s\n%s", schema, err.text);
    for (; *texts; texts++)
        if (!grammar_accepts(grammar, &vocab, *texts, strlen(*texts)))
            fail_msg("%s\ndoes not accept %s", schema, *texts);
    for (; *others; others++)
        if (grammar_accepts(grammar, &vocab, *others, strlen(*others)))
            fail_msg("%s\naccepts %s", schema, *others);
    ofr_grammar_free(grammar);
}
#define LIST(...)                                                                                  \
    (const char *const[])                                                                          \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

static void any_value(void **state)
{
    (void)state;
    check("{}",
          LIST("null", "true", "0", "-1.5e-10", "1e299", "\"\"", "\"\\u00e9\\ud83e\\udd99\\n\"",
               "[]", "[1, [2]]", "{\"a\": {\"b\":[]}}", "{\n  \"a\": 1\n}"),
          LIST("", "nul", "01", "1.", ".5", "1e999", "'a'", "\"\\x\"", "\"\\ud83e\"", "[1,]",
               "{\"a\"}", "{a:1}", "1 ", " 1", "\"a\nb\"", "{\"a\":1,}"));
    ofr_grammar *grammar;
    ofr_error err;
    assert_int_equal(ofr_grammar_json_object(&grammar, &err), 0);
    assert_true(grammar_accepts(grammar, &vocab, "{\"a\":[1,{}]}", 12));
    assert_false(grammar_accepts(grammar, &vocab, "[1]", 3));
    ofr_grammar_free(grammar);
}

static void numbers(void **state)
{
    (void)state;
    check("{\"type\":\"integer\"}", LIST("0", "-7", "123456789012345678"),
          LIST("1.0", "-", "00", "1e3", "1234567890123456789"));
    check("{\"type\":\"integer\",\"minimum\":-12,\"maximum\":345}",
          LIST("-12", "-9", "-1", "0", "7", "99", "100", "299", "345"),
          LIST("-13", "-20", "346", "350", "1000"));
    check("{\"type\":\"integer\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":10}", LIST("1", "9"),
          LIST("0", "10", "-1"));
    check("{\"type\":\"number\",\"minimum\":1.25,\"maximum\":20.5}",
          LIST("1.25", "1.250", "1.26", "1.3", "2", "19.999", "20", "20.5", "20.49", "20.50"),
          LIST("1.24", "1", "1.2", "1.249", "20.51", "20.6", "21", "-3"));
    check("{\"type\":\"number\",\"exclusiveMinimum\":-0.5,\"exclusiveMaximum\":0.5}",
          LIST("-0.49", "0", "0.4999", "-0.1"), LIST("-0.5", "0.5", "-0.50", "0.500", "1", "-1"));
    check("{\"type\":\"number\",\"maximum\":-3}", LIST("-3", "-3.0", "-3.01", "-10", "-300"),
          LIST("-2.99", "3", "0", "-0"));
    check("{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":10}", LIST("14", "21", "700"),
          LIST("7", "15", "0"));
    check("{\"type\":\"number\",\"multipleOf\":0.25}", LIST("0", "0.25", "1.5", "-2.75", "3"),
          LIST("0.1", "0.3", "1.26"));
    check("{\"type\":\"number\",\"not\":{\"type\":\"integer\"}}", LIST("0.5", "-1.01", "2.050"),
          LIST("1", "1.0", "0.00"));
    check("{\"type\":\"integer\",\"not\":{\"enum\":[3,5.0]},\"minimum\":2,\"maximum\":6}",
          LIST("2", "4", "6"), LIST("3", "5", "7"));
    check("{\"type\":\"integer\",\"minimum\":5,\"not\":{\"minimum\":8}}", LIST("5", "7"),
          LIST("4", "8"));
}

static void strings(void **state)
{
    (void)state;
    check("{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
          LIST("\"ab\"", "\"\xF0\x9F\xA6\x99\xC3\xA9\"", "\"\\n\\ud83e\\udd99x\""),
          LIST("\"a\"", "\"abcd\"", "\"\\n\"", "\"\\ud83e\\udd99\""));
    check("{\"type\":\"string\",\"pattern\":\"^[A-Z]{2}-\\\\d+$\"}", LIST("\"AB-1\"", "\"ZZ-007\""),
          LIST("\"AB-\"", "\"aB-1\"", "\"AB-1 \""));
    check("{\"type\":\"string\",\"pattern\":\"b|^c\"}", LIST("\"abc\"", "\"cx\""), LIST("\"ac\""));
    check("{\"type\":\"string\",\"pattern\":\"^.{2,5}$\",\"maxLength\":3}",
          LIST("\"ab\"", "\"abc\""), LIST("\"a\"", "\"abcd\""));
    check("{\"type\":\"string\",\"pattern\":\"^\\\"\\\\\\\\\\n[\\\\x00-\\\\x1f]$\"}",
          LIST("\"\\\"\\\\\\n\\u0001\"", "\"\\\"\\\\\\n\\t\""), LIST("\"\\\"\\\\\\n \""));
    check("{\"type\":\"string\",\"pattern\":\"^(?:a|bc)*?d?$\"}", LIST("\"\"", "\"abcad\""),
          LIST("\"b\"", "\"dd\""));
    check("{\"type\":\"string\",\"pattern\":\"^\\\\p{Lu}\\\\w*[^\\\\s]$\"}",
          LIST("\"\xC3\x89\x61\""), LIST("\"ab\"", "\"A \""));
    check("{\"type\":\"string\",\"format\":\"date\"}", LIST("\"2024-02-29\"", "\"1999-12-31\""),
          LIST("\"2023-02-29\"", "\"2024-13-01\"", "\"2024-04-31\""));
    check("{\"type\":\"string\",\"format\":\"date-time\"}",
          LIST("\"2024-01-01T00:00:00Z\"", "\"2024-01-01T23:59:59.5+02:00\""),
          LIST("\"2024-01-01\"", "\"2024-01-01T24:00:00Z\""));
    check("{\"type\":\"string\",\"format\":\"ipv6\"}",
          LIST("\"::\"", "\"2001:db8::1\"", "\"::ffff:1.2.3.4\"", "\"1:2:3:4:5:6:7:8\""),
          LIST("\"1::2::3\"", "\"1:2:3\"", "\"12345::\""));
    check("{\"type\":\"string\",\"format\":\"email\"}", LIST("\"a.b@c.de\""),
          LIST("\"a@\"", "\"a b@c\""));
    check("{\"type\":\"string\",\"not\":{\"const\":\"ab\"},\"maxLength\":2}",
          LIST("\"a\"", "\"aa\""), LIST("\"ab\"", "\"abc\""));
    check("{\"enum\":[\"a\\\"b\",\"\xC3\xA9\",\"a\"]}", LIST("\"a\\\"b\"", "\"\xC3\xA9\"", "\"a\""),
          LIST("\"b\"", "\"a\\u0022b\""));
}

static void arrays(void **state)
{
    (void)state;
    check("{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":3}",
          LIST("[1,2]", "[1, 2, 3]"), LIST("[]", "[1]", "[1,2,3,4]", "[1,\"a\"]"));
    check("{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],"
          "\"items\":{\"type\":\"null\"},\"maxItems\":3}",
          LIST("[]", "[1]", "[1,\"a\"]", "[1,\"a\",null]"),
          LIST("[\"a\"]", "[1,null]", "[1,\"a\",null,null]"));
    check("{\"type\":\"array\",\"prefixItems\":[true,false]}", LIST("[]", "[1]"), LIST("[1,2]"));
    check("{\"type\":\"array\",\"maxItems\":0}", LIST("[]", "[ ]"), LIST("[1]"));
    check("{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},"
          "\"minItems\":1,\"maxItems\":2},\"minItems\":1,\"maxItems\":2}",
          LIST("[[true]]", "[[true,false],[true]]"), LIST("[[]]", "[[true,true,true]]", "[]"));
}

static void objects(void **state)
{
    (void)state;
    static const char closed[] =
        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":"
        "\"string\"},\"c\":{\"type\":\"null\"}},\"required\":[\"b\"],\"additionalProperties\":"
        "false}";
    check(closed,
          LIST("{\"b\":\"\"}", "{\"a\":1,\"b\":\"x\"}", "{ \"a\": 1, \"b\": \"x\", \"c\": null }"),
          LIST("{}", "{\"a\":1}", "{\"b\":\"\",\"a\":1}", "{\"b\":\"\",\"d\":1}", "{\"b\":1}",
               "{\"b\":\"\",}", "{,\"b\":\"\"}"));
    check("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}}}",
          LIST("{}", "{\"a\":1}", "{\"b\":[]}", "{\"a\":1,\"b\":2,\"ab\":3}", "{\"\":0}"),
          LIST("{\"a\":\"x\"}", "{\"b\":1,\"a\":\"x\"}"));
    check("{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"},"
          "\"propertyNames\":{\"pattern\":\"^[a-z]+$\"}}",
          LIST("{}", "{\"ab\":1,\"c\":2}"), LIST("{\"A\":1}", "{\"a\":null}"));
    check("{\"type\":\"object\",\"patternProperties\":{\"^n_\":{\"type\":\"integer\"},\"_s$\":{"
          "\"type\":\"string\"}},\"additionalProperties\":false}",
          LIST("{}", "{\"n_a\":1,\"b_s\":\"\"}"),
          LIST("{\"n_a\":\"\"}", "{\"x\":1}", "{\"n_s\":1}"));
    check("{\"type\":\"object\",\"maxProperties\":2,\"minProperties\":1,\"additionalProperties\":"
          "true}",
          LIST("{\"a\":1}", "{\"a\":1,\"b\":2}"), LIST("{}", "{\"a\":1,\"b\":2,\"c\":3}"));
    check("{\"const\":{\"a\":[1,{\"b\":null}]}}", LIST("{\"a\": [1, {\"b\": null}]}"),
          LIST("{\"a\":[1]}", "{}"));
}

static void combinations(void **state)
{
    (void)state;
    check("{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"string\",\"maxLength\":1}]}",
          LIST("1", "\"a\""), LIST("\"ab\"", "null"));
    check(
        "{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"a\"},\"x\":{"
        "\"type\":\"array\",\"items\":{\"type\":\"integer\"}}},\"required\":[\"kind\",\"x\"],"
        "\"additionalProperties\":false},{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":"
        "\"b\"},\"y\":{\"type\":\"string\"}},\"required\":[\"kind\",\"y\"],"
        "\"additionalProperties\":false}]}",
        LIST("{\"kind\":\"a\",\"x\":[1]}", "{\"kind\":\"b\",\"y\":\"\"}"),
        LIST("{\"kind\":\"a\",\"y\":\"\"}", "{\"kind\":\"c\"}"));
    check(
        "{\"allOf\":[{\"properties\":{\"a\":{\"minimum\":3}}},{\"$ref\":\"#/$defs/n\"}],\"type\":"
        "\"object\",\"$defs\":{\"n\":{\"properties\":{\"a\":{\"type\":\"integer\",\"maximum\":5}},"
        "\"required\":[\"a\"],\"additionalProperties\":false}}}",
        LIST("{\"a\":3}", "{\"a\":5}"), LIST("{\"a\":2}", "{\"a\":6}", "{}"));
    check("{\"$ref\":\"#/$defs/tree\",\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":{"
          "\"v\":{\"type\":\"integer\"},\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":"
          "\"#/$defs/tree\"}}},\"required\":[\"v\"],\"additionalProperties\":false}}}",
          LIST("{\"v\":1}", "{\"v\":1,\"kids\":[{\"v\":2,\"kids\":[{\"v\":3}]}]}"),
          LIST("{\"kids\":[]}", "{\"v\":1,\"kids\":[1]}"));
    check("{\"if\":{\"properties\":{\"t\":{\"const\":1}},\"required\":[\"t\"]},\"then\":{"
          "\"required\":"
          "[\"x\"]},\"else\":{\"required\":[\"y\"]},\"type\":\"object\"}",
          LIST("{\"t\":1,\"x\":0}", "{\"t\":2,\"y\":0}", "{\"y\":0}"),
          LIST("{\"t\":1}", "{\"t\":2}"));
    check("{\"type\":[\"string\",\"null\"],\"not\":{\"enum\":[null]}}", LIST("\"a\""),
          LIST("null"));
    check(
        "{\"type\":\"object\",\"dependentRequired\":{\"a\":[\"b\"]},\"properties\":{\"a\":{},\"b\":"
        "{}},\"additionalProperties\":false}",
        LIST("{}", "{\"b\":1}", "{\"a\":1,\"b\":2}"), LIST("{\"a\":1}"));
    check("{\"enum\":[1,2,3,\"x\"],\"minimum\":2,\"type\":\"integer\"}", LIST("2", "3"),
          LIST("1", "\"x\""));
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *schema;
        int code;
        const char *words;
    } cases[] = {
        {"{\"properties\":{\"a\":{\"uniqueItems\":true}}}", OFR_EUNSUPPORTED,
         "#/properties/a: 'uniqueItems' is not supported"},
        {"{\"contains\":{}}", OFR_EUNSUPPORTED, "'contains' is not supported"},
        {"{\"unevaluatedProperties\":false}", OFR_EUNSUPPORTED, "'unevaluatedProperties'"},
        {"{\"unheard_of\":1}", OFR_EUNSUPPORTED, "'unheard_of' is not supported"},
        {"{\"items\":[{}]}", OFR_EUNSUPPORTED, "'prefixItems' since draft 2020-12"},
        {"{\"$ref\":\"http://other/schema\"}", OFR_EUNSUPPORTED, "other documents"},
        {"{\"$ref\":\"#/missing\"}", OFR_EUNSUPPORTED, "'#/missing' leads to nothing"},
        {"{\"type\":\"string\",\"format\":\"regex\"}", OFR_EUNSUPPORTED, "'format' 'regex'"},
        {"{\"type\":\"string\",\"pattern\":\"a(?=b)\"}", OFR_EUNSUPPORTED, "look-ahead"},
        {"{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", OFR_EUNSUPPORTED, "back-references"},
        {"{\"type\":\"string\",\"pattern\":\"(\"}", OFR_EFORMAT, "not closed"},
        {"{\"type\":\"string\",\"pattern\":\"^.{9999}$\"}", OFR_ELIMIT, "too large"},
        {"{\"type\":\"strin\"}", OFR_EINVAL, "'type' must be"},
        {"{\"minLength\":-1}", OFR_EINVAL, "'minLength' must be"},
        {"{\"required\":\"a\"}", OFR_EINVAL, "'required' must be"},
        {"{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", OFR_EINVAL, "no text at all"},
        {"false", OFR_EINVAL, "no text at all"},
        {"{\"enum\":[]}", OFR_EINVAL, "no text at all"},
        {"{\"type\":\"object\",\"properties\":{\"a\":false},\"required\":[\"a\"]}", OFR_EINVAL,
         "no text at all"},
        {"{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"type\":\"array\",\"items\":{\"$ref\":"
         "\"#/$defs/a\"},\"minItems\":1}}}",
         OFR_EINVAL, "no text at all"},
        {"{\"type\":\"object\",\"minProperties\":2}", OFR_EUNSUPPORTED, "'minProperties' 2"},
        {"{\"type\":\"integer\",\"multipleOf\":99991}", OFR_EUNSUPPORTED, "'multipleOf'"},
        {"{\"oneOf\":[{\"items\":{\"type\":\"integer\"}},{\"items\":{\"minimum\":0}}]}",
         OFR_EUNSUPPORTED, "'items' cannot be negated"},
        {"[]", OFR_EINVAL, "a JSON schema is an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ofr_grammar *grammar = NULL;
        ofr_error err = {0};
        int r = compile(cases[i].schema, &grammar, &err);
        if (r != cases[i].code || !strstr(err.text, cases[i].words))
            fail_msg("%s\n%d: %s\nexpected %d: %s", cases[i].schema, r, err.text, cases[i].code,
                     cases[i].words);
    }
}

/* A recursive schema that can only be endless is refused; one that can end is not. */
static void self_references(void **state)
{
    (void)state;
    check("{\"$ref\":\"#\"}", LIST("1", "\"a\""), LIST("x"));
    check("{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", LIST("null"), LIST("x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_value), cmocka_unit_test(numbers),
        cmocka_unit_test(strings),   cmocka_unit_test(arrays),
        cmocka_unit_test(objects),   cmocka_unit_test(combinations),
        cmocka_unit_test(refusals),  cmocka_unit_test(self_references),
    };
    grammar_vocab_init(&vocab);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    grammar_vocab_done(&vocab);
    return failed;
}
