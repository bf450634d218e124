/* JSON schemas: the compiler from end to end. */
#include <stdlib.h>

#include "grammar/json_schema_internal.h"

static int compile(ofr_schema_compiler *c, ofr_schema_wrap wrap, void *user, const char *what,
                   ofr_grammar **ret_grammar)
{
    ofr_builder *b = &c->builder;
    uint32_t root = ofr_builder_rule(b, NULL, 0), *rules = calloc(c->n_roots, sizeof *rules);
    int r = rules ? ofr_schema_index(c) : ofr_schema_no_memory(c);
    if (r == 0)
        r = ofr_schema_emit_shared(c);
    for (size_t i = 0; r == 0 && i < c->n_roots; i++) {
        ofr_literal literal = ofr_literal_of(c->roots[i], false);
        r = ofr_schema_goal(c, &literal, 1, &rules[i]);
    }
    for (size_t i = 0; r == 0 && !ofr_builder_failed(b) && i < c->n_goals; i++)
        r = ofr_schema_emit_goal(c, i);
    if (r == 0)
        ofr_builder_define(b, root, wrap(b, rules, user));
    free(rules);
    if (r < 0) {
        ofr_builder_done(b);
        return r;
    }
    return ofr_builder_finish(b, what, ret_grammar, c->err);
}

int ofr_grammar_around_schemas(const json_t *const *schemas, size_t count, ofr_schema_wrap wrap,
                               void *user, const char *what, ofr_grammar **ret_grammar,
                               ofr_error *err)
{
    ofr_error own; /* the compiler reads what it wrote */
    ofr_schema_compiler c = {.roots = schemas, .n_roots = count, .err = err ? err : &own};
    int r = ofr_builder_init(&c.builder, err);
    if (r < 0)
        return r;
    r = compile(&c, wrap, user, what, ret_grammar);
    for (size_t i = 0; i < c.n_goals; i++)
        free(c.goals[i].literals);
    free(c.goals);
    while (c.extras) {
        ofr_extra_property *extra = c.extras;
        c.extras = extra->next;
        free(extra);
    }
    ofr_schema_index_done(&c);
    return r;
}

static uint32_t value_alone(ofr_builder *builder, const uint32_t *rules, void *user)
{
    (void)user;
    return ofr_builder_call(builder, rules[0], ofr_builder_end(builder));
}

int ofr_grammar_from_json_schema(const json_t *schema, ofr_grammar **ret_grammar, ofr_error *err)
{
    if (!json_is_object(schema) && !json_is_boolean(schema))
        return ofr_fail(err, OFR_EINVAL, "a JSON schema is an object, true or false");
    return ofr_grammar_around_schemas(&schema, 1, value_alone, NULL, "the JSON schema", ret_grammar,
                                      err);
}

int ofr_grammar_json_object(ofr_grammar **ret_grammar, ofr_error *err)
{
    json_t *schema = json_pack("{s:s}", "type", "object");
    int r = schema ? ofr_grammar_from_json_schema(schema, ret_grammar, err)
                   : ofr_fail(err, OFR_ENOMEM, "no memory for a JSON schema");
    json_decref(schema);
    return r;
}
