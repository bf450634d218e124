/* Parser, statements: blocks of nodes from the tokens of a template. */
#include <string.h>

#include "template/interpreter.h"

static jinja_block parse_nodes(jinja_parser *p, const char *const *ends, uint32_t opened);

static void expect_block_end(jinja_parser *p)
{
    if (p->token->type != JINJA_TOKEN_BLOCK_END) {
        jinja_unexpected(p, "%}");
    }
    p->token++;
}

static bool is_one_of(const jinja_string *name, const char *const *names)
{
    for (; names && *names; names++) {
        if (jinja_string_is(name, *names)) {
            return true;
        }
    }
    return false;
}

/* The rest of a tag and what follows up to one of the NULL-ended `ends`, whose token is left
 * current. `opened` is where the statement began. */
static jinja_block parse_body(jinja_parser *p, const char *const *ends, uint32_t opened)
{
    jinja_skip_operator(p, ":"); /* as jinja2 allows */
    expect_block_end(p);
    jinja_parse_enter(p);
    jinja_block body = parse_nodes(p, ends, opened);
    jinja_parse_leave(p);
    return body;
}

/* A body that ends with `end`, which is skipped. */
static jinja_block parse_body_to(jinja_parser *p, const char *end, uint32_t opened)
{
    const char *const ends[] = {end, NULL};
    jinja_block body = parse_body(p, ends, opened);
    p->token++;
    return body;
}

/* Leaving what is no condition: an unknown filter seen in it is an error for good. */
static void settle_unknown(jinja_parser *p)
{
    p->unknown_is_final |= p->unknown != NULL;
}

static const jinja_node *parse_for(jinja_parser *p, uint32_t offset)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    const jinja_node *outside = p->unknown;
    bool outside_final = p->unknown_is_final;
    jinja_node *node = jinja_node_new(p, JINJA_NODE_FOR, offset);
    unsigned loop_targets = p->loop_targets;
    node->a = jinja_parse_target(p, false, true);
    if (!jinja_skip_name(p, "in")) {
        jinja_unexpected(p, "in");
    }
    node->b = jinja_parse_tuple(p, false, JINJA_TUPLE_FOR_ITER, false);
    if (jinja_skip_name(p, "if")) {
        node->c = jinja_parse_expression(p, true);
    }
    node->flag = jinja_skip_name(p, "recursive");
    const jinja_node *in_head = p->unknown;
    p->unknown = outside;
    unsigned loops = p->loops;
    p->loops = node->flag ? 1 : loops + 1;
    node->body = parse_body(p, ends, offset);
    p->loops = node->flag ? 0 : loops;
    bool has_else = jinja_at_name(p, "else");
    p->token++;
    if (has_else) {
        node->otherwise = parse_body_to(p, "endfor", offset);
    }
    p->loops = loops;
    if (p->unknown != outside) {
        settle_unknown(p);
    } else {
        p->unknown = in_head;
        p->unknown_is_final = outside_final;
    }
    if (p->loop_targets != loop_targets) {
        p->state->offset = offset;
        jinja_fail(p->state, OFR_ETEMPLATE, "the special variable 'loop' cannot be assigned here");
    }
    return node;
}

/* Also an elif: both leave the token behind "endif". */
static const jinja_node *parse_if(jinja_parser *p, uint32_t offset)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    const jinja_node *unknown = p->unknown;
    jinja_node *first = jinja_node_new(p, JINJA_NODE_IF, offset), *node = first;
    for (;;) {
        node->a = jinja_parse_tuple(p, false, JINJA_TUPLE_PLAIN, false);
        node->body = parse_body(p, ends, offset);
        uint32_t at = p->token->offset;
        if (!jinja_skip_name(p, "elif")) {
            break;
        }
        jinja_node *next = jinja_node_new(p, JINJA_NODE_IF, at);
        const jinja_node **nodes = jinja_alloc_array(p->state, 1, sizeof *nodes);
        nodes[0] = next;
        node->otherwise = (jinja_block){.nodes = nodes, .count = 1};
        node->flag = true; /* the only statement of `otherwise` is an elif */
        node = next;
    }
    if (jinja_skip_name(p, "else")) {
        node->otherwise = parse_body_to(p, "endif", offset);
    } else {
        p->token++;
    }
    if (!p->unknown_is_final) {
        p->unknown = unknown;
    }
    return first;
}

static const jinja_node *parse_set(jinja_parser *p, uint32_t offset)
{
    const jinja_node *target = jinja_parse_target(p, true, false);
    bool is_block = !jinja_skip_operator(p, "=");
    jinja_node *node = jinja_node_new(p, is_block ? JINJA_NODE_SET_BLOCK : JINJA_NODE_SET, offset);
    node->a = target;
    if (is_block) {
        node->b = jinja_parse_filters(p, NULL, false);
        node->body = parse_body_to(p, "endset", offset);
    } else {
        node->b = jinja_parse_tuple(p, true, JINJA_TUPLE_PLAIN, false);
    }
    return node;
}

static void append_name(jinja_parser *p, jinja_parameters *parameters, size_t *capacity,
                        const jinja_string *name)
{
    for (size_t i = 0; i < parameters->count; i++) {
        if (jinja_string_equal(parameters->names[i], name)) {
            jinja_fail(p->state, OFR_ETEMPLATE, "parameter '%.*s' is repeated", JINJA_TEXT(name));
        }
    }
    if (parameters->count == *capacity) {
        *capacity = *capacity ? *capacity * 2 : 4;
        const jinja_string **grown = jinja_alloc_array(p->state, *capacity, sizeof *grown);
        if (parameters->count) {
            memcpy(grown, parameters->names, parameters->count * sizeof *grown);
        }
        parameters->names = grown;
    }
    parameters->names[parameters->count++] = name;
}

static void parse_signature(jinja_parser *p, jinja_parameters *parameters)
{
    jinja_node_list defaults = {0};
    size_t capacity = 0;
    jinja_expect_operator(p, "(");
    while (!jinja_at_operator(p, ")")) {
        if (parameters->count) {
            jinja_expect_operator(p, ",");
        }
        const jinja_token *token = p->token;
        p->state->offset = token->offset;
        append_name(p, parameters, &capacity, jinja_expect_name(p));
        if (jinja_skip_operator(p, "=")) {
            jinja_node_append(p, &defaults, jinja_parse_expression(p, true));
        } else if (defaults.count) {
            p->token = token;
            jinja_unexpected(p, "a default: an earlier parameter has one");
        }
    }
    jinja_expect_operator(p, ")");
    parameters->defaults = defaults.nodes;
    parameters->default_count = defaults.count;
}

/* Signature and body of a macro or call block, in a function of its own: no break leaves it. */
static void parse_callable(jinja_parser *p, jinja_node *node, const char *end, bool has_call)
{
    bool caller = p->saw_caller, kwargs = p->saw_kwargs, varargs = p->saw_varargs;
    unsigned loops = p->loops;
    jinja_parameters *parameters = jinja_alloc(p->state, sizeof *parameters);
    *parameters = (jinja_parameters){0};
    if (!has_call || jinja_at_operator(p, "(")) {
        parse_signature(p, parameters);
    }
    if (has_call) {
        node->a = jinja_parse_expression(p, true);
        if (node->a->kind != JINJA_NODE_CALL) {
            p->state->offset = node->offset;
            jinja_fail(p->state, OFR_ETEMPLATE, "a call block needs a call: {%% call macro() %%}");
        }
    }
    bool head_caller = p->saw_caller;
    bool head_kwargs = p->saw_kwargs;
    bool head_varargs = p->saw_varargs;
    p->saw_caller = p->saw_kwargs = p->saw_varargs = false;
    p->loops = 0;
    node->body = parse_body_to(p, end, node->offset);
    settle_unknown(p);
    p->loops = loops;
    parameters->uses_caller = p->saw_caller;
    parameters->uses_kwargs = p->saw_kwargs;
    parameters->uses_varargs = p->saw_varargs;
    node->parameters = parameters;
    p->saw_caller |= caller || head_caller;
    p->saw_kwargs |= kwargs || head_kwargs;
    p->saw_varargs |= varargs || head_varargs;
}

static const jinja_node *parse_macro(jinja_parser *p, uint32_t offset)
{
    jinja_node *node = jinja_node_new(p, JINJA_NODE_MACRO, offset);
    node->name = jinja_expect_name(p);
    parse_callable(p, node, "endmacro", false);
    return node;
}

static const jinja_node *parse_call_block(jinja_parser *p, uint32_t offset)
{
    jinja_node *node = jinja_node_new(p, JINJA_NODE_CALL_BLOCK, offset);
    parse_callable(p, node, "endcall", true);
    return node;
}

static const jinja_node *parse_filter_block(jinja_parser *p, uint32_t offset)
{
    jinja_node *node = jinja_node_new(p, JINJA_NODE_FILTER_BLOCK, offset);
    node->b = jinja_parse_filters(p, NULL, true);
    node->body = parse_body_to(p, "endfilter", offset);
    return node;
}

static const jinja_node *parse_with(jinja_parser *p, uint32_t offset)
{
    jinja_node *node = jinja_node_new(p, JINJA_NODE_WITH, offset);
    jinja_node_list pairs = {0};
    while (p->token->type != JINJA_TOKEN_BLOCK_END) {
        if (pairs.count) {
            jinja_expect_operator(p, ",");
        }
        jinja_node_append(p, &pairs, jinja_parse_target(p, false, false));
        jinja_expect_operator(p, "=");
        jinja_node_append(p, &pairs, jinja_parse_expression(p, true));
    }
    node->children = pairs.nodes;
    node->count = pairs.count;
    node->body = parse_body_to(p, "endwith", offset);
    return node;
}

/* The block of the assistant's answer in transformers' templates: plain text to us. */
static const jinja_node *parse_generation(jinja_parser *p, uint32_t offset)
{
    jinja_node *node = jinja_node_new(p, JINJA_NODE_SCOPE, offset);
    unsigned loops = p->loops;
    p->loops = 0;
    node->body = parse_body_to(p, "endgeneration", offset);
    p->loops = loops;
    return node;
}

static const jinja_node *parse_block(jinja_parser *p, uint32_t offset)
{
    jinja_node *node = jinja_node_new(p, JINJA_NODE_BLOCK, offset);
    node->name = jinja_expect_name(p);
    node->flag = jinja_skip_name(p, "scoped");
    unsigned loops = p->loops;
    p->loops = 0;
    node->body = parse_body_to(p, "endblock", offset);
    settle_unknown(p);
    p->loops = loops;
    if (p->token->type == JINJA_TOKEN_NAME && jinja_string_equal(&p->token->text, node->name)) {
        p->token++;
    }
    return node;
}

static const jinja_node *parse_print(jinja_parser *p, uint32_t offset)
{
    jinja_node *node = jinja_node_new(p, JINJA_NODE_SCOPE, offset);
    jinja_node_list outputs = {0};
    while (p->token->type != JINJA_TOKEN_BLOCK_END) {
        if (outputs.count) {
            jinja_expect_operator(p, ",");
        }
        jinja_node *output = jinja_node_new(p, JINJA_NODE_OUTPUT, p->token->offset);
        output->a = jinja_parse_expression(p, true);
        jinja_node_append(p, &outputs, output);
    }
    node->body = (jinja_block){.nodes = outputs.nodes, .count = outputs.count};
    return node;
}

static const jinja_node *parse_jump(jinja_parser *p, uint32_t offset, jinja_kind kind)
{
    if (p->loops == 0) {
        p->state->offset = offset;
        jinja_fail(p->state, OFR_ETEMPLATE, "'%s' outside of a loop",
                   kind == JINJA_NODE_BREAK ? "break" : "continue");
    }
    return jinja_node_new(p, kind, offset);
}

/* One statement, from its name to before the end of its (last) tag. */
static const jinja_node *parse_statement(jinja_parser *p)
{
    typedef const jinja_node *parse_function(jinja_parser *, uint32_t);
    static const struct {
        const char *name;
        parse_function *parse;
    } statements[] = {
        {"for", parse_for},         {"if", parse_if},
        {"set", parse_set},         {"macro", parse_macro},
        {"call", parse_call_block}, {"filter", parse_filter_block},
        {"with", parse_with},       {"block", parse_block},
        {"print", parse_print},     {"generation", parse_generation},
    };
    const jinja_token *token = p->token;
    const jinja_string *name = jinja_expect_name(p);
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        if (jinja_string_is(name, statements[i].name)) {
            return statements[i].parse(p, token->offset);
        }
    }
    if (jinja_string_is(name, "break")) {
        return parse_jump(p, token->offset, JINJA_NODE_BREAK);
    }
    if (jinja_string_is(name, "continue")) {
        return parse_jump(p, token->offset, JINJA_NODE_CONTINUE);
    }
    static const char *const files[] = {"include", "import", "from", "extends", NULL};
    p->state->offset = token->offset;
    if (is_one_of(name, files)) {
        jinja_fail(p->state, OFR_EUNSUPPORTED,
                   "'%.*s' needs another file, and a chat template is one file", JINJA_TEXT(name));
    }
    p->token = token;
    jinja_unexpected(p, "a statement that is known here");
}

static jinja_block parse_nodes(jinja_parser *p, const char *const *ends, uint32_t opened)
{
    jinja_node_list list = {0};
    for (;;) {
        const jinja_token *token = p->token;
        if (token->type == JINJA_TOKEN_END) {
            if (ends) {
                p->state->offset = opened;
                jinja_fail(p->state, OFR_ETEMPLATE, "the template ends before this block's '%s'",
                           ends[0]);
            }
            break;
        }
        p->token++;
        if (token->type == JINJA_TOKEN_TEXT) {
            jinja_node *node = jinja_node_new(p, JINJA_NODE_TEXT, token->offset);
            node->constant = jinja_string_value(&token->text);
            jinja_node_append(p, &list, node);
        } else if (token->type == JINJA_TOKEN_VARIABLE_BEGIN) {
            jinja_node *node = jinja_node_new(p, JINJA_NODE_OUTPUT, token->offset);
            node->a = jinja_parse_tuple(p, true, JINJA_TUPLE_PLAIN, false);
            if (p->token->type != JINJA_TOKEN_VARIABLE_END) {
                jinja_unexpected(p, "}}");
            }
            p->token++;
            jinja_node_append(p, &list, node);
        } else {
            if (p->token->type == JINJA_TOKEN_NAME && is_one_of(&p->token->text, ends)) {
                break;
            }
            jinja_node_append(p, &list, parse_statement(p));
            expect_block_end(p);
        }
    }
    return (jinja_block){.nodes = list.nodes, .count = list.count};
}

jinja_block jinja_parse(jinja_state *s)
{
    size_t count;
    jinja_parser p = {.state = s, .token = jinja_lex(s, &count)};
    jinja_block block = parse_nodes(&p, NULL, 0);
    if (p.unknown) {
        s->offset = p.unknown->offset;
        jinja_fail(s, OFR_ETEMPLATE, "no %s is named '%.*s'",
                   p.unknown->kind == JINJA_NODE_TEST ? "test" : "filter",
                   JINJA_TEXT(p.unknown->name));
    }
    return block;
}
