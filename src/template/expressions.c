/* Evaluating expressions. */
#include <string.h>

#include "template/interpreter.h"

static jinja_value *eval_all(jinja_state *s, const jinja_node *const *nodes, size_t count)
{
    jinja_value *values = jinja_alloc_array(s, count, sizeof *values);
    for (size_t i = 0; i < count; i++) {
        values[i] = jinja_eval(s, nodes[i]);
    }
    return values;
}

static void append_star(jinja_state *s, jinja_call *call, jinja_value star)
{
    jinja_array more = jinja_items(s, star);
    jinja_value *all = jinja_alloc_array(s, call->count + more.count, sizeof *all);
    if (call->count) {
        memcpy(all, call->arguments, call->count * sizeof *all);
    }
    if (more.count) {
        memcpy(all + call->count, more.items, more.count * sizeof *all);
    }
    call->arguments = all;
    call->count += more.count;
}

static void append_star_star(jinja_state *s, jinja_call *call, jinja_value star_star)
{
    if (star_star.type != JINJA_DICT) {
        jinja_fail(s, OFR_ETEMPLATE, "argument after ** must be a mapping, not %s",
                   jinja_type_name(star_star));
    }
    const jinja_dict *dict = star_star.as.dict;
    jinja_keyword_value *all = jinja_alloc_array(s, call->keyword_count + dict->count, sizeof *all);
    if (call->keyword_count) {
        memcpy(all, call->keywords, call->keyword_count * sizeof *all);
    }
    for (size_t i = 0; i < dict->count; i++) {
        if (dict->entries[i].key.type != JINJA_STRING) {
            jinja_fail(s, OFR_ETEMPLATE, "keywords must be strings");
        }
        const jinja_string *name = dict->entries[i].key.as.string;
        for (size_t j = 0; j < call->keyword_count; j++) {
            if (jinja_string_equal(call->keywords[j].name, name)) {
                jinja_fail(s, OFR_ETEMPLATE, "multiple values for keyword argument '%.*s'",
                           JINJA_TEXT(name));
            }
        }
        all[call->keyword_count + i] = (jinja_keyword_value){name, dict->entries[i].value};
    }
    call->keywords = all;
    call->keyword_count += dict->count;
}

jinja_call jinja_eval_arguments(jinja_state *s, const jinja_arguments *arguments)
{
    jinja_call call = {.count = arguments->count, .keyword_count = arguments->keyword_count};
    if (call.count) {
        call.arguments = eval_all(s, arguments->positional, call.count);
    }
    if (call.keyword_count) {
        jinja_keyword_value *keywords = jinja_alloc_array(s, call.keyword_count, sizeof *keywords);
        for (size_t i = 0; i < call.keyword_count; i++) {
            keywords[i].name = arguments->keywords[i].name;
            keywords[i].value = jinja_eval(s, arguments->keywords[i].value);
        }
        call.keywords = keywords;
    }
    if (arguments->star) {
        append_star(s, &call, jinja_eval(s, arguments->star));
    }
    if (arguments->star_star) {
        append_star_star(s, &call, jinja_eval(s, arguments->star_star));
    }
    return call;
}

static bool compare_once(jinja_state *s, enum jinja_operator operation, jinja_value left,
                         jinja_value right)
{
    switch (operation) {
    case JINJA_OP_EQ:
        return jinja_equal(s, left, right);
    case JINJA_OP_NE:
        return !jinja_equal(s, left, right);
    case JINJA_OP_IN:
        return jinja_contains(s, right, left);
    case JINJA_OP_NOT_IN:
        return !jinja_contains(s, right, left);
    default:
        return jinja_ordered(s, operation, left, right);
    }
}

static jinja_value eval_compare(jinja_state *s, const jinja_node *node)
{
    jinja_value left = jinja_eval(s, node->a);
    for (size_t i = 0; i < node->count; i++) {
        jinja_value right = jinja_eval(s, node->children[i]);
        if (!compare_once(s, node->operators[i], left, right)) {
            return jinja_bool(false);
        }
        left = right;
    }
    return jinja_bool(true);
}

static jinja_value eval_dict(jinja_state *s, const jinja_node *node)
{
    jinja_dict *dict = jinja_dict_new(s);
    for (size_t i = 0; i < node->count; i += 2) {
        jinja_value key = jinja_eval(s, node->children[i]);
        jinja_dict_set(s, dict, key, jinja_eval(s, node->children[i + 1]));
    }
    return (jinja_value){.type = JINJA_DICT, .as.dict = dict};
}

static jinja_value eval_concat(jinja_state *s, const jinja_node *node)
{
    const jinja_value *values = eval_all(s, node->children, node->count);
    jinja_builder builder = {.state = s};
    for (size_t i = 0; i < node->count; i++) {
        jinja_write_str(&builder, values[i]);
    }
    return jinja_builder_finish(&builder);
}

static jinja_value eval_slice(jinja_state *s, const jinja_node *node)
{
    jinja_value object = jinja_eval(s, node->a), bounds[3];
    for (int i = 0; i < 3; i++) {
        bounds[i] = node->children[i] ? jinja_eval(s, node->children[i]) : jinja_missing();
    }
    return jinja_slice(s, object, bounds[0], bounds[1], bounds[2]);
}

static jinja_value eval_conditional(jinja_state *s, const jinja_node *node)
{
    if (jinja_truth(s, jinja_eval(s, node->b))) {
        return jinja_eval(s, node->a);
    }
    if (node->c) {
        return jinja_eval(s, node->c);
    }
    return jinja_undefined_hint(
        s, "the inline if-expression evaluated to false and no else section was defined");
}

static jinja_value eval_call(jinja_state *s, const jinja_node *node)
{
    jinja_value callee = jinja_eval(s, node->a);
    jinja_call call = jinja_eval_arguments(s, &node->arguments);
    return jinja_call_value(s, callee, &call);
}

static jinja_value eval_applied(jinja_state *s, const jinja_node *node)
{
    jinja_value subject = jinja_eval(s, node->a);
    jinja_call call = jinja_eval_arguments(s, &node->arguments);
    if (node->kind == JINJA_NODE_FILTER) {
        return jinja_call_filter(s, node->name, subject, &call);
    }
    return jinja_bool(jinja_call_test(s, node->name, subject, &call));
}

static jinja_value eval_logical(jinja_state *s, const jinja_node *node)
{
    jinja_value left = jinja_eval(s, node->a);
    bool decided = jinja_truth(s, left) == (node->kind == JINJA_NODE_OR);
    return decided ? left : jinja_eval(s, node->b);
}

static jinja_value eval_kind(jinja_state *s, const jinja_node *node)
{
    switch (node->kind) {
    case JINJA_NODE_CONSTANT:
        return node->constant;
    case JINJA_NODE_NAME:
        return jinja_variable_get(s, node->name);
    case JINJA_NODE_LIST:
        return jinja_array_value(s, JINJA_LIST, eval_all(s, node->children, node->count),
                                 node->count);
    case JINJA_NODE_TUPLE:
        return jinja_array_value(s, JINJA_TUPLE, eval_all(s, node->children, node->count),
                                 node->count);
    case JINJA_NODE_DICT:
        return eval_dict(s, node);
    case JINJA_NODE_BINARY: {
        jinja_value left = jinja_eval(s, node->a);
        return jinja_binary(s, node->operation, left, jinja_eval(s, node->b));
    }
    case JINJA_NODE_COMPARE:
        return eval_compare(s, node);
    case JINJA_NODE_AND:
    case JINJA_NODE_OR:
        return eval_logical(s, node);
    case JINJA_NODE_NOT:
        return jinja_bool(!jinja_truth(s, jinja_eval(s, node->a)));
    case JINJA_NODE_NEGATE:
    case JINJA_NODE_PLUS:
        return jinja_negate(s, jinja_eval(s, node->a), node->kind == JINJA_NODE_NEGATE);
    case JINJA_NODE_CONCAT:
        return eval_concat(s, node);
    case JINJA_NODE_CONDITIONAL:
        return eval_conditional(s, node);
    case JINJA_NODE_GETATTR:
        return jinja_getattr(s, jinja_eval(s, node->a), node->name);
    case JINJA_NODE_GETITEM: {
        jinja_value object = jinja_eval(s, node->a);
        return jinja_getitem(s, object, jinja_eval(s, node->b));
    }
    case JINJA_NODE_SLICE:
        return eval_slice(s, node);
    case JINJA_NODE_CALL:
        return eval_call(s, node);
    case JINJA_NODE_FILTER:
    case JINJA_NODE_TEST:
        return eval_applied(s, node);
    default:
        jinja_fail(s, OFR_EINTERNAL, "a statement where an expression belongs");
    }
}

jinja_value jinja_eval(jinja_state *s, const jinja_node *node)
{
    uint32_t offset = s->offset;
    jinja_enter(s);
    jinja_charge(s, 1);
    s->offset = node->offset;
    jinja_value value = eval_kind(s, node);
    s->offset = offset;
    jinja_leave(s);
    return value;
}
