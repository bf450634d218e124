/* Tool calls: how each family of models writes them, a grammar that makes a model write them well,
 * and a parser that takes them out of the text as it comes.
 *
 * Tools are the JSON of OpenAI's API: [{"type": "function", "function": {"name", "description",
 * "parameters", "strict"}}]. All functions may be called by any thread; a parser belongs to one. */
#ifndef OFR_TOOL_CALLS_TOOL_CALLS_H
#define OFR_TOOL_CALLS_TOOL_CALLS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "grammar/grammar.h"

/* X(symbol, name) */
#define OFR_TOOL_DIALECT_TABLE(X)                                                                  \
    /* No place for tools in the template: described in a message, called as in Hermes. */         \
    X(OFR_TOOL_DIALECT_DESCRIBED, "described")                                                     \
    /* <tool_call>{"name": ..., "arguments": {...}}</tool_call>, any number: Hermes, Qwen. */      \
    X(OFR_TOOL_DIALECT_HERMES, "hermes")                                                           \
    /* {"name": ..., "parameters": {...}} as the whole message: Llama 3. */                        \
    X(OFR_TOOL_DIALECT_LLAMA3, "llama3")                                                           \
    /* [TOOL_CALLS][{"name": ..., "arguments": {...}, "id": "9 characters"}, ...]: Mistral. */     \
    X(OFR_TOOL_DIALECT_MISTRAL, "mistral")                                                         \
    /* <|tool_call|>[{"name": ..., "arguments": {...}}, ...]: Granite 3. */                        \
    X(OFR_TOOL_DIALECT_GRANITE, "granite")                                                         \
    /* <|tool_calls_begin|> ... name ... ```json ... ```: DeepSeek R1 and V3. */                   \
    X(OFR_TOOL_DIALECT_DEEPSEEK, "deepseek")
enum ofr_tool_dialect {
#define OFR_TOOL_DIALECT_ENUM(symbol, name) symbol,
    OFR_TOOL_DIALECT_TABLE(OFR_TOOL_DIALECT_ENUM)
#undef OFR_TOOL_DIALECT_ENUM
};
const char *ofr_tool_dialect_name(enum ofr_tool_dialect dialect);

/* By what the source of a chat template says; NULL is DESCRIBED. */
enum ofr_tool_dialect ofr_tool_dialect_detect(const char *chat_template, size_t size);

/* Texts that the dialect writes and that vocabularies may have as control tokens: they must be
 * written out for the parser. NULL-terminated. */
const char *const *ofr_tool_dialect_markers(enum ofr_tool_dialect dialect);

/* Checks the tools; errors name the tool. */
int ofr_tools_check(const json_t *tools, ofr_error *err);
/* The messages as the dialect's templates need them: arguments as objects, contents where they are
 * expected; with DESCRIBED, tools and calls as text. A new reference. `tools` may be NULL. */
int ofr_tools_messages(enum ofr_tool_dialect dialect, const json_t *messages, const json_t *tools,
                       json_t **ret_messages, ofr_error *err);

enum ofr_tool_choice {
    OFR_TOOL_CHOICE_AUTO,     /* text, or calls */
    OFR_TOOL_CHOICE_REQUIRED, /* calls */
};

typedef struct ofr_tool_grammar_options {
    enum ofr_tool_dialect dialect;
    const json_t *tools;
    enum ofr_tool_choice choice;
    const char *name;     /* the one tool that may be called, or NULL */
    bool parallel;        /* more than one call */
    const json_t *format; /* AUTO: an answer that is no call satisfies this JSON schema; or NULL */
} ofr_tool_grammar_options;

/* The grammar of an answer. Arguments satisfy the tool's parameters; where those say what a grammar
 * cannot hold, a tool with "strict": true is refused, and the arguments of another are any object.
 * *ret_grammar is NULL where no grammar is needed: Llama 3 with AUTO, whose calls begin like other
 * JSON. */
int ofr_tool_grammar(const ofr_tool_grammar_options *options, ofr_grammar **ret_grammar,
                     ofr_error *err);

/* What a parser finds, in order. A negative return ends the push with it. */
typedef struct ofr_tool_events {
    int (*content)(void *user, const char *text, size_t size, ofr_error *err);
    /* A call begins; calls count from 0. */
    int (*begin)(void *user, uint32_t call, const char *name, ofr_error *err);
    /* More of its arguments, as the model wrote them: JSON once all is there. */
    int (*arguments)(void *user, uint32_t call, const char *text, size_t size, ofr_error *err);
    void *user;
} ofr_tool_events;

typedef struct ofr_tool_parser ofr_tool_parser;
/* `tools` is borrowed. */
int ofr_tool_parser_new(enum ofr_tool_dialect dialect, const json_t *tools,
                        const ofr_tool_events *events, ofr_tool_parser **ret_parser,
                        ofr_error *err);
ofr_tool_parser *ofr_tool_parser_free(ofr_tool_parser *parser);
/* Text [size] that follows what came before; `last`: nothing will. Text that may be the beginning
 * of a call is held back until it is certain. What turns out to be no call is content. */
int ofr_tool_parser_push(ofr_tool_parser *parser, const char *text, size_t size, bool last,
                         ofr_error *err);

#endif
