/* JSON schemas: the compiler from end to end. */
#include <stdlib.h>

#include "grammar/json_schema_internal.h"

static int compile(ofr_schema_compiler *c, ofr_grammar **ret_grammar)
{
    uint32_t root;
    ofr_literal literal = ofr_literal_of(c->root, false);
    int r = ofr_schema_index(c);
    if (r == 0)
        r = ofr_schema_goal(c, &literal, 1, &root); /* the first rule is the grammar's root */
    if (r == 0)
        r = ofr_schema_emit_shared(c);
    for (size_t i = 0; r == 0 && i < c->n_goals; i++) {
        r = ofr_schema_emit_goal(c, i);
        if (r == 0 && ofr_builder_failed(&c->builder))
            break;
    }
    if (r < 0) {
        ofr_builder_done(&c->builder);
        return r;
    }
    return ofr_builder_finish(&c->builder, "the JSON schema", ret_grammar, c->err);
}

int ofr_grammar_from_json_schema(const json_t *schema, ofr_grammar **ret_grammar, ofr_error *err)
{
    if (!json_is_object(schema) && !json_is_boolean(schema))
        return ofr_fail(err, OFR_EINVAL, "a JSON schema is an object, true or false");
    ofr_error own; /* the compiler reads what it wrote */
    ofr_schema_compiler c = {.root = schema, .err = err ? err : &own};
    int r = ofr_builder_init(&c.builder, err);
    if (r < 0)
        return r;
    r = compile(&c, ret_grammar);
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

int ofr_grammar_json_object(ofr_grammar **ret_grammar, ofr_error *err)
{
    json_t *schema = json_pack("{s:s}", "type", "object");
    int r = schema ? ofr_grammar_from_json_schema(schema, ret_grammar, err)
                   : ofr_fail(err, OFR_ENOMEM, "no memory for a JSON schema");
    json_decref(schema);
    return r;
}
