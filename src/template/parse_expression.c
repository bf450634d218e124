/* Parser, expressions: jinja2's grammar and precedence, which is nearly Python's. */
#include <string.h>

#include "template/interpreter.h"

jinja_node *jinja_node_new(jinja_parser *p, jinja_kind kind, uint32_t offset)
{
    jinja_node *node = jinja_alloc(p->state, sizeof *node);
    *node = (jinja_node){.kind = kind, .offset = offset};
    return node;
}

void jinja_node_append(jinja_parser *p, jinja_node_list *list, const jinja_node *node)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 4;
        const jinja_node **grown = jinja_alloc_array(p->state, capacity, sizeof *grown);
        if (list->count) {
            memcpy(grown, list->nodes, list->count * sizeof *grown);
        }
        list->nodes = grown;
        list->capacity = capacity;
    }
    list->nodes[list->count++] = node;
}

void jinja_parse_enter(jinja_parser *p)
{
    if (++p->depth > JINJA_MAX_PARSE_DEPTH) {
        p->state->offset = p->token->offset;
        jinja_fail(p->state, OFR_ELIMIT, "nested more than %d levels deep", JINJA_MAX_PARSE_DEPTH);
    }
}

void jinja_parse_leave(jinja_parser *p)
{
    p->depth--;
}

bool jinja_at_operator(const jinja_parser *p, const char *text)
{
    return p->token->type == JINJA_TOKEN_OPERATOR && jinja_string_is(&p->token->text, text);
}

bool jinja_at_name(const jinja_parser *p, const char *text)
{
    return p->token->type == JINJA_TOKEN_NAME && jinja_string_is(&p->token->text, text);
}

bool jinja_skip_operator(jinja_parser *p, const char *text)
{
    bool found = jinja_at_operator(p, text);
    p->token += found;
    return found;
}

bool jinja_skip_name(jinja_parser *p, const char *text)
{
    bool found = jinja_at_name(p, text);
    p->token += found;
    return found;
}

void jinja_unexpected(jinja_parser *p, const char *expected)
{
    p->state->offset = p->token->offset;
    const char *or_expected = expected ? ", expected " : "";
    expected = expected ? expected : "";
    if (p->token->type == JINJA_TOKEN_END) {
        jinja_fail(p->state, OFR_ETEMPLATE, "unexpected end of template%s%s", or_expected,
                   expected);
    }
    jinja_fail(p->state, OFR_ETEMPLATE, "unexpected '%.*s'%s%s", JINJA_TEXT(&p->token->text),
               or_expected, expected);
}

void jinja_expect_operator(jinja_parser *p, const char *text)
{
    if (!jinja_skip_operator(p, text)) {
        jinja_unexpected(p, text);
    }
}

const jinja_string *jinja_expect_name(jinja_parser *p)
{
    if (p->token->type != JINJA_TOKEN_NAME) {
        jinja_unexpected(p, "a name");
    }
    return &(p->token++)->text;
}

static jinja_node *unary_node(jinja_parser *p, jinja_kind kind, uint32_t offset,
                              const jinja_node *a)
{
    jinja_node *node = jinja_node_new(p, kind, offset);
    node->a = a;
    return node;
}

static jinja_node *binary_node(jinja_parser *p, jinja_kind kind, uint32_t offset,
                               const jinja_node *a, const jinja_node *b)
{
    jinja_node *node = unary_node(p, kind, offset, a);
    node->b = b;
    return node;
}

static void take_children(jinja_node *node, const jinja_node_list *list)
{
    node->children = list->nodes;
    node->count = list->count;
}

static jinja_node *constant_node(jinja_parser *p, uint32_t offset, jinja_value value)
{
    jinja_node *node = jinja_node_new(p, JINJA_NODE_CONSTANT, offset);
    node->constant = value;
    return node;
}

/* --- primaries --- */

static const jinja_node *parse_list(jinja_parser *p)
{
    jinja_node *node = jinja_node_new(p, JINJA_NODE_LIST, p->token->offset);
    jinja_node_list items = {0};
    jinja_expect_operator(p, "[");
    while (!jinja_at_operator(p, "]")) {
        if (items.count) {
            jinja_expect_operator(p, ",");
            if (jinja_at_operator(p, "]")) {
                break;
            }
        }
        jinja_node_append(p, &items, jinja_parse_expression(p, true));
    }
    jinja_expect_operator(p, "]");
    take_children(node, &items);
    return node;
}

static const jinja_node *parse_dict(jinja_parser *p)
{
    jinja_node *node = jinja_node_new(p, JINJA_NODE_DICT, p->token->offset);
    jinja_node_list items = {0};
    jinja_expect_operator(p, "{");
    while (!jinja_at_operator(p, "}")) {
        if (items.count) {
            jinja_expect_operator(p, ",");
            if (jinja_at_operator(p, "}")) {
                break;
            }
        }
        jinja_node_append(p, &items, jinja_parse_expression(p, true));
        jinja_expect_operator(p, ":");
        jinja_node_append(p, &items, jinja_parse_expression(p, true));
    }
    jinja_expect_operator(p, "}");
    take_children(node, &items);
    return node;
}

static const jinja_node *parse_constant(jinja_parser *p)
{
    uint32_t offset = p->token->offset;
    jinja_value value = (p->token++)->value;
    while (value.type == JINJA_STRING && p->token->type == JINJA_TOKEN_CONSTANT &&
           p->token->value.type == JINJA_STRING) {
        value = jinja_concat(p->state, value.as.string, (p->token++)->value.as.string);
    }
    return constant_node(p, offset, value);
}

static const jinja_node *parse_name(jinja_parser *p)
{
    uint32_t offset = p->token->offset;
    const jinja_string *name = &(p->token++)->text;
    if (jinja_string_is(name, "true") || jinja_string_is(name, "True")) {
        return constant_node(p, offset, jinja_bool(true));
    }
    if (jinja_string_is(name, "false") || jinja_string_is(name, "False")) {
        return constant_node(p, offset, jinja_bool(false));
    }
    if (jinja_string_is(name, "none") || jinja_string_is(name, "None")) {
        return constant_node(p, offset, jinja_none());
    }
    p->saw_caller |= jinja_string_is(name, "caller");
    p->saw_kwargs |= jinja_string_is(name, "kwargs");
    p->saw_varargs |= jinja_string_is(name, "varargs");
    jinja_node *node = jinja_node_new(p, JINJA_NODE_NAME, offset);
    node->name = name;
    return node;
}

static const jinja_node *parse_primary(jinja_parser *p)
{
    if (p->token->type == JINJA_TOKEN_NAME) {
        return parse_name(p);
    }
    if (p->token->type == JINJA_TOKEN_CONSTANT) {
        return parse_constant(p);
    }
    if (jinja_skip_operator(p, "(")) {
        const jinja_node *node = jinja_parse_tuple(p, true, JINJA_TUPLE_PLAIN, true);
        jinja_expect_operator(p, ")");
        return node;
    }
    if (jinja_at_operator(p, "[")) {
        return parse_list(p);
    }
    if (jinja_at_operator(p, "{")) {
        return parse_dict(p);
    }
    jinja_unexpected(p, "an expression");
}

/* --- calls, subscripts, filters, tests --- */

typedef struct keyword_list {
    jinja_keyword *items;
    size_t count, capacity;
} keyword_list;

static void append_keyword(jinja_parser *p, keyword_list *list, jinja_keyword keyword)
{
    for (size_t i = 0; i < list->count; i++) {
        if (jinja_string_equal(list->items[i].name, keyword.name)) {
            jinja_fail(p->state, OFR_ETEMPLATE, "keyword argument '%.*s' is repeated",
                       JINJA_TEXT(keyword.name));
        }
    }
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 4;
        jinja_keyword *grown = jinja_alloc_array(p->state, capacity, sizeof *grown);
        if (list->count) {
            memcpy(grown, list->items, list->count * sizeof *grown);
        }
        list->items = grown;
        list->capacity = capacity;
    }
    list->items[list->count++] = keyword;
}

static void parse_argument(jinja_parser *p, jinja_arguments *arguments, jinja_node_list *positional,
                           keyword_list *keywords)
{
    const char *order = "an argument in this order: positional, keyword, *list, **dict";
    if (jinja_at_operator(p, "*")) {
        if (arguments->star || arguments->star_star) {
            jinja_unexpected(p, order);
        }
        p->token++;
        arguments->star = jinja_parse_expression(p, true);
    } else if (jinja_at_operator(p, "**")) {
        if (arguments->star_star) {
            jinja_unexpected(p, order);
        }
        p->token++;
        arguments->star_star = jinja_parse_expression(p, true);
    } else if (p->token->type == JINJA_TOKEN_NAME && p->token[1].type == JINJA_TOKEN_OPERATOR &&
               jinja_string_is(&p->token[1].text, "=")) {
        if (arguments->star_star) {
            jinja_unexpected(p, order);
        }
        jinja_keyword keyword = {.name = &p->token->text};
        p->token += 2;
        keyword.value = jinja_parse_expression(p, true);
        append_keyword(p, keywords, keyword);
    } else {
        if (arguments->star || arguments->star_star || keywords->count) {
            jinja_unexpected(p, order);
        }
        jinja_node_append(p, positional, jinja_parse_expression(p, true));
    }
}

static jinja_arguments parse_arguments(jinja_parser *p)
{
    jinja_arguments arguments = {0};
    jinja_node_list positional = {0};
    keyword_list keywords = {0};
    bool first = true;
    jinja_expect_operator(p, "(");
    while (!jinja_at_operator(p, ")")) {
        if (!first) {
            jinja_expect_operator(p, ",");
            if (jinja_at_operator(p, ")")) {
                break;
            }
        }
        first = false;
        parse_argument(p, &arguments, &positional, &keywords);
    }
    jinja_expect_operator(p, ")");
    arguments.positional = positional.nodes;
    arguments.count = positional.count;
    arguments.keywords = keywords.items;
    arguments.keyword_count = keywords.count;
    return arguments;
}

static const jinja_node *parse_slice(jinja_parser *p, const jinja_node *object,
                                     const jinja_node *start, uint32_t offset)
{
    const jinja_node **bounds = jinja_alloc_array(p->state, 3, sizeof *bounds);
    bounds[0] = start;
    bounds[1] = bounds[2] = NULL;
    for (int i = 1; i < 3 && jinja_skip_operator(p, ":"); i++) {
        if (!jinja_at_operator(p, ":") && !jinja_at_operator(p, "]") &&
            !jinja_at_operator(p, ",")) {
            bounds[i] = jinja_parse_expression(p, true);
        }
    }
    jinja_node *node = unary_node(p, JINJA_NODE_SLICE, offset, object);
    node->children = bounds;
    node->count = 3;
    return node;
}

static const jinja_node *parse_subscript(jinja_parser *p, const jinja_node *object)
{
    uint32_t offset = p->token->offset;
    if (jinja_skip_operator(p, ".")) {
        if (p->token->type == JINJA_TOKEN_NAME) {
            jinja_node *node = unary_node(p, JINJA_NODE_GETATTR, offset, object);
            node->name = &(p->token++)->text;
            return node;
        }
        if (p->token->type != JINJA_TOKEN_CONSTANT || p->token->value.type != JINJA_INT) {
            jinja_unexpected(p, "a name or number");
        }
        const jinja_node *key = constant_node(p, p->token->offset, p->token->value);
        p->token++;
        return binary_node(p, JINJA_NODE_GETITEM, offset, object, key);
    }
    jinja_expect_operator(p, "[");
    jinja_node_list keys = {0};
    bool is_tuple = jinja_at_operator(p, "]");
    const jinja_node *slice = NULL;
    while (!jinja_at_operator(p, "]")) {
        if (keys.count || slice) {
            jinja_expect_operator(p, ",");
            is_tuple = true;
        }
        const jinja_node *key = jinja_at_operator(p, ":") ? NULL : jinja_parse_expression(p, true);
        if (jinja_at_operator(p, ":")) {
            slice = parse_slice(p, object, key, offset);
        } else {
            jinja_node_append(p, &keys, key);
        }
    }
    jinja_expect_operator(p, "]");
    if (slice && (is_tuple || keys.count)) {
        p->state->offset = offset;
        jinja_fail(p->state, OFR_ETEMPLATE, "a slice cannot be one of several subscripts");
    }
    if (slice) {
        return slice;
    }
    if (keys.count == 1) {
        return binary_node(p, JINJA_NODE_GETITEM, offset, object, keys.nodes[0]);
    }
    jinja_node *tuple = jinja_node_new(p, JINJA_NODE_TUPLE, offset);
    take_children(tuple, &keys);
    return binary_node(p, JINJA_NODE_GETITEM, offset, object, tuple);
}

static const jinja_node *parse_call(jinja_parser *p, const jinja_node *callee)
{
    jinja_node *node = unary_node(p, JINJA_NODE_CALL, p->token->offset, callee);
    node->arguments = parse_arguments(p);
    return node;
}

static const jinja_node *parse_postfix(jinja_parser *p, const jinja_node *node)
{
    for (;;) {
        if (jinja_at_operator(p, ".") || jinja_at_operator(p, "[")) {
            node = parse_subscript(p, node);
        } else if (jinja_at_operator(p, "(")) {
            node = parse_call(p, node);
        } else {
            return node;
        }
    }
}

static const jinja_string *parse_dotted_name(jinja_parser *p)
{
    const jinja_string *name = jinja_expect_name(p);
    while (jinja_skip_operator(p, ".")) {
        const jinja_string *dot = jinja_string_new(p->state, ".", 1);
        name = jinja_concat(p->state, name, dot).as.string;
        name = jinja_concat(p->state, name, jinja_expect_name(p)).as.string;
    }
    return name;
}

static void note_unknown(jinja_parser *p, const jinja_node *node, bool is_known)
{
    if (!is_known && !p->unknown) {
        p->unknown = node;
    }
}

const jinja_node *jinja_parse_filters(jinja_parser *p, const jinja_node *node, bool start_inline)
{
    while (start_inline || jinja_skip_operator(p, "|")) {
        start_inline = false;
        jinja_node *filter = unary_node(p, JINJA_NODE_FILTER, p->token->offset, node);
        filter->name = parse_dotted_name(p);
        if (jinja_at_operator(p, "(")) {
            filter->arguments = parse_arguments(p);
        }
        note_unknown(p, filter, jinja_find_filter(filter->name->data, filter->name->size));
        node = filter;
    }
    return node;
}

static const jinja_node *parse_test(jinja_parser *p, const jinja_node *subject)
{
    uint32_t offset = (p->token++)->offset; /* "is" */
    bool negated = jinja_skip_name(p, "not");
    jinja_node *test = unary_node(p, JINJA_NODE_TEST, offset, subject);
    test->name = parse_dotted_name(p);
    bool is_operand = p->token->type == JINJA_TOKEN_NAME ||
                      p->token->type == JINJA_TOKEN_CONSTANT || jinja_at_operator(p, "[") ||
                      jinja_at_operator(p, "{");
    if (jinja_at_operator(p, "(")) {
        test->arguments = parse_arguments(p);
    } else if (is_operand && !jinja_at_name(p, "else") && !jinja_at_name(p, "or") &&
               !jinja_at_name(p, "and")) {
        if (jinja_at_name(p, "is")) {
            jinja_unexpected(p, "no second 'is': tests cannot be chained");
        }
        jinja_node_list arguments = {0};
        jinja_node_append(p, &arguments, parse_postfix(p, parse_primary(p)));
        test->arguments.positional = arguments.nodes;
        test->arguments.count = arguments.count;
    }
    note_unknown(p, test, jinja_find_test(test->name->data, test->name->size));
    return negated ? unary_node(p, JINJA_NODE_NOT, offset, test) : test;
}

static const jinja_node *parse_unary(jinja_parser *p, bool with_filter)
{
    jinja_parse_enter(p);
    uint32_t offset = p->token->offset;
    const jinja_node *node;
    if (jinja_skip_operator(p, "-")) {
        node = unary_node(p, JINJA_NODE_NEGATE, offset, parse_unary(p, false));
    } else if (jinja_skip_operator(p, "+")) {
        node = unary_node(p, JINJA_NODE_PLUS, offset, parse_unary(p, false));
    } else {
        node = parse_primary(p);
    }
    node = parse_postfix(p, node);
    while (with_filter) {
        if (jinja_at_operator(p, "|")) {
            node = jinja_parse_filters(p, node, false);
        } else if (jinja_at_name(p, "is")) {
            node = parse_test(p, node);
        } else if (jinja_at_operator(p, "(")) {
            node = parse_call(p, node);
        } else {
            break;
        }
    }
    jinja_parse_leave(p);
    return node;
}

/* --- operators, tightest first --- */

static bool take_operator(jinja_parser *p, const char *const *texts,
                          const enum jinja_operator *operators, size_t count,
                          enum jinja_operator *ret_operator)
{
    for (size_t i = 0; i < count; i++) {
        if (jinja_skip_operator(p, texts[i])) {
            *ret_operator = operators[i];
            return true;
        }
    }
    return false;
}

static const jinja_node *arithmetic_node(jinja_parser *p, uint32_t offset,
                                         enum jinja_operator operation, const jinja_node *a,
                                         const jinja_node *b)
{
    jinja_node *node = binary_node(p, JINJA_NODE_BINARY, offset, a, b);
    node->operation = operation;
    return node;
}

static const jinja_node *parse_power(jinja_parser *p)
{
    const jinja_node *left = parse_unary(p, true);
    while (jinja_at_operator(p, "**")) {
        uint32_t offset = (p->token++)->offset;
        left = arithmetic_node(p, offset, JINJA_OP_POW, left, parse_unary(p, true));
    }
    return left;
}

static const jinja_node *parse_product(jinja_parser *p)
{
    static const char *const texts[] = {"*", "/", "//", "%"};
    static const enum jinja_operator operators[] = {JINJA_OP_MUL, JINJA_OP_DIV, JINJA_OP_FLOORDIV,
                                                    JINJA_OP_MOD};
    const jinja_node *left = parse_power(p);
    enum jinja_operator operation;
    uint32_t offset = p->token->offset;
    while (take_operator(p, texts, operators, 4, &operation)) {
        left = arithmetic_node(p, offset, operation, left, parse_power(p));
        offset = p->token->offset;
    }
    return left;
}

static const jinja_node *parse_concat(jinja_parser *p)
{
    uint32_t offset = p->token->offset;
    const jinja_node *first = parse_product(p);
    if (!jinja_at_operator(p, "~")) {
        return first;
    }
    jinja_node_list parts = {0};
    jinja_node_append(p, &parts, first);
    while (jinja_skip_operator(p, "~")) {
        jinja_node_append(p, &parts, parse_product(p));
    }
    jinja_node *node = jinja_node_new(p, JINJA_NODE_CONCAT, offset);
    take_children(node, &parts);
    return node;
}

static const jinja_node *parse_sum(jinja_parser *p)
{
    static const char *const texts[] = {"+", "-"};
    static const enum jinja_operator operators[] = {JINJA_OP_ADD, JINJA_OP_SUB};
    const jinja_node *left = parse_concat(p);
    enum jinja_operator operation;
    uint32_t offset = p->token->offset;
    while (take_operator(p, texts, operators, 2, &operation)) {
        left = arithmetic_node(p, offset, operation, left, parse_concat(p));
        offset = p->token->offset;
    }
    return left;
}

static bool take_comparison(jinja_parser *p, enum jinja_operator *ret_operator)
{
    static const char *const texts[] = {"==", "!=", "<", "<=", ">", ">="};
    static const enum jinja_operator operators[] = {JINJA_OP_EQ, JINJA_OP_NE, JINJA_OP_LT,
                                                    JINJA_OP_LE, JINJA_OP_GT, JINJA_OP_GE};
    if (take_operator(p, texts, operators, 6, ret_operator)) {
        return true;
    }
    if (jinja_skip_name(p, "in")) {
        *ret_operator = JINJA_OP_IN;
        return true;
    }
    if (jinja_at_name(p, "not") && p->token[1].type == JINJA_TOKEN_NAME &&
        jinja_string_is(&p->token[1].text, "in")) {
        p->token += 2;
        *ret_operator = JINJA_OP_NOT_IN;
        return true;
    }
    return false;
}

static const jinja_node *parse_compare(jinja_parser *p)
{
    uint32_t offset = p->token->offset;
    const jinja_node *left = parse_sum(p);
    jinja_node_list operands = {0};
    enum jinja_operator operation, *operators = NULL;
    size_t capacity = 0;
    while (take_comparison(p, &operation)) {
        if (operands.count == capacity) {
            capacity = capacity ? capacity * 2 : 4;
            enum jinja_operator *grown = jinja_alloc_array(p->state, capacity, sizeof *grown);
            if (operands.count) {
                memcpy(grown, operators, operands.count * sizeof *grown);
            }
            operators = grown;
        }
        operators[operands.count] = operation;
        jinja_node_append(p, &operands, parse_sum(p));
    }
    if (!operands.count) {
        return left;
    }
    jinja_node *node = unary_node(p, JINJA_NODE_COMPARE, offset, left);
    take_children(node, &operands);
    node->operators = operators;
    return node;
}

static const jinja_node *parse_not(jinja_parser *p)
{
    uint32_t offset = p->token->offset;
    if (!jinja_skip_name(p, "not")) {
        return parse_compare(p);
    }
    jinja_parse_enter(p);
    const jinja_node *node = unary_node(p, JINJA_NODE_NOT, offset, parse_not(p));
    jinja_parse_leave(p);
    return node;
}

static const jinja_node *parse_and(jinja_parser *p)
{
    uint32_t offset = p->token->offset;
    const jinja_node *left = parse_not(p);
    while (jinja_skip_name(p, "and")) {
        left = binary_node(p, JINJA_NODE_AND, offset, left, parse_not(p));
    }
    return left;
}

static const jinja_node *parse_or(jinja_parser *p)
{
    uint32_t offset = p->token->offset;
    const jinja_node *left = parse_and(p);
    while (jinja_skip_name(p, "or")) {
        left = binary_node(p, JINJA_NODE_OR, offset, left, parse_and(p));
    }
    return left;
}

static const jinja_node *parse_conditional(jinja_parser *p)
{
    uint32_t offset = p->token->offset;
    const jinja_node *unknown = p->unknown;
    const jinja_node *node = parse_or(p);
    while (jinja_skip_name(p, "if")) {
        jinja_node *conditional = unary_node(p, JINJA_NODE_CONDITIONAL, offset, node);
        conditional->b = parse_or(p);
        if (jinja_skip_name(p, "else")) {
            jinja_parse_enter(p);
            conditional->c = parse_conditional(p);
            jinja_parse_leave(p);
        }
        node = conditional;
        p->unknown = unknown; /* whatever is unknown in here fails when it is evaluated */
    }
    return node;
}

const jinja_node *jinja_parse_expression(jinja_parser *p, bool with_condition)
{
    jinja_parse_enter(p);
    const jinja_node *node = with_condition ? parse_conditional(p) : parse_or(p);
    jinja_parse_leave(p);
    return node;
}

/* --- tuples and targets --- */

static bool at_tuple_end(const jinja_parser *p, enum jinja_tuple_end end)
{
    return p->token->type == JINJA_TOKEN_VARIABLE_END || p->token->type == JINJA_TOKEN_BLOCK_END ||
           jinja_at_operator(p, ")") || (end == JINJA_TUPLE_FOR_TARGET && jinja_at_name(p, "in")) ||
           (end == JINJA_TUPLE_FOR_ITER && jinja_at_name(p, "recursive"));
}

static const jinja_node *parse_simple(jinja_parser *p, bool with_namespace)
{
    if (with_namespace && p->token->type == JINJA_TOKEN_NAME &&
        p->token[1].type == JINJA_TOKEN_OPERATOR && jinja_string_is(&p->token[1].text, ".")) {
        jinja_node *node = jinja_node_new(p, JINJA_NODE_NAMESPACE_REF, p->token->offset);
        node->name = &p->token->text;
        p->token += 2;
        node->attribute = jinja_expect_name(p);
        return node;
    }
    return parse_primary(p);
}

static const jinja_node *parse_elements(jinja_parser *p, bool with_condition, bool is_target,
                                        bool with_namespace, enum jinja_tuple_end end,
                                        bool parentheses)
{
    uint32_t offset = p->token->offset;
    jinja_node_list items = {0};
    bool is_tuple = false;
    for (;;) {
        if (items.count) {
            jinja_expect_operator(p, ",");
        }
        if (at_tuple_end(p, end)) {
            break;
        }
        jinja_node_append(p, &items,
                          is_target ? parse_simple(p, with_namespace)
                                    : jinja_parse_expression(p, with_condition));
        if (!jinja_at_operator(p, ",")) {
            break;
        }
        is_tuple = true;
    }
    if (!is_tuple && items.count) {
        return items.nodes[0];
    }
    if (!is_tuple && !parentheses) {
        jinja_unexpected(p, "an expression");
    }
    jinja_node *node = jinja_node_new(p, JINJA_NODE_TUPLE, offset);
    take_children(node, &items);
    return node;
}

const jinja_node *jinja_parse_tuple(jinja_parser *p, bool with_condition, enum jinja_tuple_end end,
                                    bool parentheses)
{
    return parse_elements(p, with_condition, false, false, end, parentheses);
}

static void check_target(jinja_parser *p, const jinja_node *node)
{
    if (node->kind == JINJA_NODE_TUPLE) {
        for (size_t i = 0; i < node->count; i++) {
            check_target(p, node->children[i]);
        }
    } else if (node->kind == JINJA_NODE_NAME) {
        p->loop_targets += jinja_string_is(node->name, "loop");
    } else if (node->kind != JINJA_NODE_NAMESPACE_REF) {
        p->state->offset = node->offset;
        jinja_fail(p->state, OFR_ETEMPLATE, "cannot assign to this expression");
    }
}

const jinja_node *jinja_parse_target(jinja_parser *p, bool with_namespace, bool is_loop)
{
    bool caller = p->saw_caller, kwargs = p->saw_kwargs, varargs = p->saw_varargs;
    const jinja_node *node = parse_elements(
        p, true, true, with_namespace, is_loop ? JINJA_TUPLE_FOR_TARGET : JINJA_TUPLE_PLAIN, false);
    check_target(p, node);
    p->saw_caller = caller; /* a target is not a use */
    p->saw_kwargs = kwargs;
    p->saw_varargs = varargs;
    return node;
}
