/* The syntax tree and the parser that makes it. All nodes live in the template's arena and are
 * never changed after parsing. */
#ifndef OFR_TEMPLATE_AST_H
#define OFR_TEMPLATE_AST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "template/value.h"

enum jinja_operator {
    JINJA_OP_ADD,
    JINJA_OP_SUB,
    JINJA_OP_MUL,
    JINJA_OP_DIV,
    JINJA_OP_FLOORDIV,
    JINJA_OP_MOD,
    JINJA_OP_POW,
    JINJA_OP_EQ,
    JINJA_OP_NE,
    JINJA_OP_LT,
    JINJA_OP_LE,
    JINJA_OP_GT,
    JINJA_OP_GE,
    JINJA_OP_IN,
    JINJA_OP_NOT_IN,
};

typedef enum jinja_kind {
    /* expressions */
    JINJA_NODE_CONSTANT,      /* constant */
    JINJA_NODE_NAME,          /* name */
    JINJA_NODE_NAMESPACE_REF, /* name.attribute as a target: name, attribute */
    JINJA_NODE_LIST,          /* children */
    JINJA_NODE_TUPLE,         /* children */
    JINJA_NODE_DICT,          /* children: key, value, key, value ... */
    JINJA_NODE_BINARY,        /* operation, a, b */
    JINJA_NODE_COMPARE,       /* a, children with operators[] */
    JINJA_NODE_AND,           /* a, b */
    JINJA_NODE_OR,            /* a, b */
    JINJA_NODE_NOT,           /* a */
    JINJA_NODE_NEGATE,        /* a */
    JINJA_NODE_PLUS,          /* a */
    JINJA_NODE_CONCAT,        /* children */
    JINJA_NODE_CONDITIONAL,   /* a if b else c (c may be NULL) */
    JINJA_NODE_GETATTR,       /* a.name */
    JINJA_NODE_GETITEM,       /* a[b] */
    JINJA_NODE_SLICE,         /* a[children[0]:children[1]:children[2]], each may be NULL */
    JINJA_NODE_CALL,          /* a(arguments) */
    JINJA_NODE_FILTER,        /* a|name(arguments); a is NULL for a filter block's own text */
    JINJA_NODE_TEST,          /* a is name(arguments) */
    /* statements */
    JINJA_NODE_TEXT,         /* constant */
    JINJA_NODE_OUTPUT,       /* a */
    JINJA_NODE_IF,           /* a, body, otherwise (elif is an if in otherwise) */
    JINJA_NODE_FOR,          /* target a in b if c: body, otherwise; flag: recursive */
    JINJA_NODE_SET,          /* target a = b */
    JINJA_NODE_SET_BLOCK,    /* target a, filter b or NULL, body */
    JINJA_NODE_MACRO,        /* name, parameters, body */
    JINJA_NODE_CALL_BLOCK,   /* call a, parameters, body */
    JINJA_NODE_FILTER_BLOCK, /* filter b, body */
    JINJA_NODE_WITH,         /* children: target, value ..., body */
    JINJA_NODE_SCOPE,        /* body: a generation block */
    JINJA_NODE_BLOCK,        /* name, body */
    JINJA_NODE_BREAK,
    JINJA_NODE_CONTINUE,
} jinja_kind;

typedef struct jinja_node jinja_node;

typedef struct jinja_block {
    const jinja_node **nodes;
    size_t count;
} jinja_block;

typedef struct jinja_keyword {
    const jinja_string *name;
    const jinja_node *value;
} jinja_keyword;

typedef struct jinja_arguments {
    const jinja_node **positional;
    size_t count;
    const jinja_keyword *keywords;
    size_t keyword_count;
    const jinja_node *star, *star_star; /* *args, **kwargs, or NULL */
} jinja_arguments;

/* Parameters of a macro or call block; the last default_count of them have defaults. */
typedef struct jinja_parameters {
    const jinja_string **names;
    size_t count;
    const jinja_node **defaults;
    size_t default_count;
    bool uses_caller, uses_kwargs, uses_varargs; /* the body reads these names */
} jinja_parameters;

struct jinja_node {
    jinja_kind kind;
    enum jinja_operator operation;
    uint32_t offset; /* of its first token in the source, in bytes */
    bool flag;
    const jinja_node *a, *b, *c;
    const jinja_node **children;
    const enum jinja_operator *operators;
    size_t count; /* children */
    const jinja_string *name, *attribute;
    jinja_value constant;
    jinja_arguments arguments;
    jinja_parameters *parameters;
    jinja_block body, otherwise;
};

enum jinja_token_type {
    JINJA_TOKEN_END,
    JINJA_TOKEN_TEXT,
    JINJA_TOKEN_BLOCK_BEGIN,
    JINJA_TOKEN_BLOCK_END,
    JINJA_TOKEN_VARIABLE_BEGIN,
    JINJA_TOKEN_VARIABLE_END,
    JINJA_TOKEN_NAME,
    JINJA_TOKEN_CONSTANT, /* string, integer or float: by the type of its value */
    JINJA_TOKEN_OPERATOR, /* text is the operation */
};

typedef struct jinja_token {
    enum jinja_token_type type;
    uint32_t offset;
    jinja_string text; /* name, operation or template text */
    jinja_value value; /* constants */
} jinja_token;

struct jinja_state;

/* The tokens of the state's source, ended by JINJA_TOKEN_END. */
const jinja_token *jinja_lex(struct jinja_state *s, size_t *ret_count);

/* The statements of the whole template. */
jinja_block jinja_parse(struct jinja_state *s);

/* What parser.c and parse_expression.c share. */
typedef struct jinja_parser {
    struct jinja_state *state;
    const jinja_token *token; /* the current one */
    unsigned depth;
    unsigned loops;        /* for loops that a break here would leave */
    unsigned loop_targets; /* times `loop` was a target so far */
    bool saw_caller, saw_kwargs, saw_varargs;
    /* An unknown filter or test is an error when compiling, but inside a condition only when it
     * is evaluated: the first one seen, and whether a condition may still excuse it. */
    const jinja_node *unknown;
    bool unknown_is_final;
} jinja_parser;

enum jinja_tuple_end { JINJA_TUPLE_PLAIN, JINJA_TUPLE_FOR_TARGET, JINJA_TUPLE_FOR_ITER };
const jinja_node *jinja_parse_expression(jinja_parser *p, bool with_condition);
const jinja_node *jinja_parse_tuple(jinja_parser *p, bool with_condition, enum jinja_tuple_end end,
                                    bool parentheses);
const jinja_node *jinja_parse_target(jinja_parser *p, bool with_namespace, bool is_loop);
const jinja_node *jinja_parse_filters(jinja_parser *p, const jinja_node *node, bool start_inline);
bool jinja_at_operator(const jinja_parser *p, const char *text);
bool jinja_at_name(const jinja_parser *p, const char *text);
bool jinja_skip_operator(jinja_parser *p, const char *text);
bool jinja_skip_name(jinja_parser *p, const char *text);
void jinja_expect_operator(jinja_parser *p, const char *text);
const jinja_string *jinja_expect_name(jinja_parser *p);
_Noreturn void jinja_unexpected(jinja_parser *p, const char *expected);
void jinja_parse_enter(jinja_parser *p);
void jinja_parse_leave(jinja_parser *p);
jinja_node *jinja_node_new(jinja_parser *p, jinja_kind kind, uint32_t offset);

/* A growing list of nodes in the arena. */
typedef struct jinja_node_list {
    const jinja_node **nodes;
    size_t count, capacity;
} jinja_node_list;
void jinja_node_append(jinja_parser *p, jinja_node_list *list, const jinja_node *node);

#endif
