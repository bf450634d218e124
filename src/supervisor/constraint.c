/* Grammars from files. */
#include "supervisor/constraint.h"

#include <jansson.h>
#include <stdlib.h>

#include "supervisor/input.h"

int ofr_constraint_load(ofr_constraint_set *constraint, const char *path, bool json_schema,
                        ofr_error *err)
{
    char *text = NULL;
    size_t size = 0;
    int r = ofr_input_read(path, &text, &size, err);
    if (r < 0)
        return r;
    if (json_schema) {
        json_error_t why;
        json_t *schema = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
        r = schema ? ofr_grammar_from_json_schema(schema, &constraint->grammar, err)
                   : ofr_fail(err, OFR_EFORMAT, "line %d, column %d: %s", why.line, why.column,
                              why.text);
        json_decref(schema);
    } else {
        r = ofr_grammar_from_gbnf(text, size, &constraint->grammar, err);
    }
    free(text);
    return r < 0 ? ofr_error_prefix(err, r, "%s", path) : 0;
}

int ofr_constraint_match(ofr_constraint_set *constraint, const ofr_tokenizer *tokenizer,
                         ofr_error *err)
{
    if (!constraint->grammar)
        return 0;
    int r = ofr_vocabulary_new(tokenizer, &constraint->vocabulary, err);
    if (r == 0)
        r = ofr_matcher_new(constraint->grammar, constraint->vocabulary, &constraint->matcher, err);
    return r;
}

void ofr_constraint_done(ofr_constraint_set *constraint)
{
    ofr_matcher_free(constraint->matcher);
    ofr_vocabulary_free(constraint->vocabulary);
    ofr_grammar_free(constraint->grammar);
    *constraint = (ofr_constraint_set){0};
}
