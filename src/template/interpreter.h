/* The interpreter's shared state and the operations its parts offer each other.
 *
 * Errors: every operation below returns its result and, on failure, leaves by longjmp to the entry
 * point in chat_template.c, which returns the code. That is safe because nothing here owns anything
 * outside the arena and the output buffer, both of which the entry point frees. It never crosses
 * the public interface. One state belongs to one call, hence to one thread. */
#ifndef OFR_TEMPLATE_INTERPRETER_H
#define OFR_TEMPLATE_INTERPRETER_H

#include <jansson.h>
#include <setjmp.h>
#include <time.h>

#include "base/status.h"
#include "template/arena.h"
#include "template/ast.h"
#include "template/value.h"

enum {
    JINJA_MAX_DEPTH = 1000,      /* nested evaluation, and nesting of data */
    JINJA_MAX_PARSE_DEPTH = 200, /* nested expressions and statements */
    JINJA_MAX_CALLS = 150,       /* nested macro calls */
    JINJA_MAX_STEPS = 50000000,
    JINJA_MAX_RANGE = 100000, /* as jinja2's sandbox */
    JINJA_MAX_OUTPUT = 64 * 1024 * 1024,
    JINJA_MAX_SOURCE = 4 * 1024 * 1024,
};
#define JINJA_MAX_COMPILE_BYTES ((size_t)256 * 1024 * 1024)
#define JINJA_MAX_RENDER_BYTES  ((size_t)768 * 1024 * 1024)

enum jinja_jump { JINJA_JUMP_NONE, JINJA_JUMP_BREAK, JINJA_JUMP_CONTINUE };

typedef struct jinja_variable {
    const jinja_string *name;
    jinja_value value;
} jinja_variable;

typedef struct jinja_scope {
    struct jinja_scope *parent;
    jinja_variable *variables;
    size_t count, capacity;
} jinja_scope;

typedef struct jinja_state {
    jinja_arena *arena;
    ofr_error *err;
    jmp_buf failure; /* receives the status code */
    const char *name, *source;
    size_t source_size;
    uint32_t offset; /* where in the source we are: what an error names */
    unsigned depth, calls;
    uint64_t steps;
    /* rendering only */
    jinja_scope *scope, *globals;
    jinja_dict *context;
    enum jinja_jump jump;
    time_t now;
    char *output; /* malloc'ed */
    size_t output_size, output_capacity;
} jinja_state;

/* Arguments of one call, evaluated. */
typedef struct jinja_keyword_value {
    const jinja_string *name;
    jinja_value value;
} jinja_keyword_value;

typedef struct jinja_call {
    const jinja_value *arguments;
    size_t count;
    const jinja_keyword_value *keywords;
    size_t keyword_count;
} jinja_call;

/* A filter, test, method or global. With `parameters` ("sep,maxsplit"; a leading '/' makes them
 * positional only) the arguments are bound first: `call->arguments` then has one value for each
 * parameter, JINJA_MISSING where none was given. NULL passes the call as it is. */
struct jinja_function {
    const char *name;
    jinja_value (*function)(jinja_state *s, jinja_value self, const jinja_call *call);
    const char *parameters;
    unsigned required;
    bool lazy; /* a generator in Python: runs, and fails, when its result is first used */
};

struct jinja_method {
    const jinja_function *function;
    jinja_value self;
};

/* The call of a lazy function that waits for the first use of its result. */
struct jinja_deferred {
    const jinja_function *function;
    jinja_value self;
    jinja_call call;
};

/* state.c */
_Noreturn void jinja_fail(jinja_state *s, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
_Noreturn void jinja_fail_undefined(jinja_state *s, jinja_value undefined);
void *jinja_alloc(jinja_state *s, size_t size);
void *jinja_alloc_array(jinja_state *s, size_t count, size_t size);
void jinja_charge(jinja_state *s, size_t work); /* counts work against the step limit */
void jinja_enter(jinja_state *s);               /* one level deeper; every enter has its leave */
void jinja_leave(jinja_state *s);
/* Position of a byte offset, both from 1; the column counts characters. */
void jinja_position(const char *source, size_t offset, size_t *ret_line, size_t *ret_column);
void jinja_output(jinja_state *s, const char *data, size_t size);

/* For "%.*s". */
#define JINJA_TEXT(string) (int)((string)->size > 200 ? 200 : (string)->size), (string)->data

/* Text being made in the arena. */
typedef struct jinja_builder {
    jinja_state *state;
    char *data;
    size_t size, capacity;
} jinja_builder;
void jinja_builder_put(jinja_builder *builder, const char *data, size_t size);
void jinja_builder_text(jinja_builder *builder, const char *text);
void jinja_builder_char(jinja_builder *builder, uint32_t code_point);
void jinja_builder_pad(jinja_builder *builder, uint32_t code_point, int64_t count);
jinja_value jinja_builder_finish(jinja_builder *builder);

/* value.c */
const char *jinja_type_name(jinja_value value);
const jinja_string *jinja_string_new(jinja_state *s, const char *data, size_t size);
const jinja_string *jinja_string_copy(jinja_state *s, const char *data, size_t size);
jinja_value jinja_text(jinja_state *s, const char *text);
jinja_value jinja_part(jinja_state *s, const char *data, size_t size); /* shares the memory */
jinja_value jinja_array_value(jinja_state *s, jinja_type type, const jinja_value *items,
                              size_t count);
jinja_value jinja_pair(jinja_state *s, jinja_value first, jinja_value second);
jinja_value jinja_iterator_value(jinja_state *s, const jinja_value *items, size_t count);
jinja_value jinja_undefined_hint(jinja_state *s, const char *hint);
jinja_value jinja_undefined_name(jinja_state *s, const char *owner, const jinja_string *name);
jinja_dict *jinja_dict_new(jinja_state *s);
void jinja_dict_set(jinja_state *s, jinja_dict *dict, jinja_value key, jinja_value value);
/* NULL where there is none; fails for a key that cannot be hashed. */
const jinja_value *jinja_dict_get(jinja_state *s, const jinja_dict *dict, jinja_value key);
bool jinja_truth(jinja_state *s, jinja_value value);
/* len(): -1 where the type has none. */
int64_t jinja_length(jinja_value value);
bool jinja_is_iterable(jinja_value value);
jinja_iterator *jinja_iterate(jinja_state *s, jinja_value value);
bool jinja_next(jinja_iterator *iterator, jinja_value *ret_item);
/* All (remaining) items; consumes an iterator. */
jinja_array jinja_items(jinja_state *s, jinja_value value);
jinja_value jinja_from_json(jinja_state *s, const json_t *json);

/* compare.c */
bool jinja_equal(jinja_state *s, jinja_value left, jinja_value right);
/* <0, 0, >0; fails where Python raises TypeError. `operation` is for the message. Not for NaN. */
int jinja_compare(jinja_state *s, jinja_value left, jinja_value right, const char *operation);
bool jinja_ordered(jinja_state *s, enum jinja_operator operation, jinja_value left,
                   jinja_value right);
bool jinja_contains(jinja_state *s, jinja_value container, jinja_value item);
uint64_t jinja_hash(jinja_state *s, jinja_value value);
bool jinja_string_equal(const jinja_string *left, const jinja_string *right);
bool jinja_string_is(const jinja_string *string, const char *text);
/* Stable; keys[] order items[]. */
void jinja_sort(jinja_state *s, jinja_value *keys, jinja_value *items, size_t count, bool reverse);

/* repr.c */
const jinja_string *jinja_str(jinja_state *s, jinja_value value);
void jinja_write_str(jinja_builder *builder, jinja_value value);
void jinja_write_repr(jinja_builder *builder, jinja_value value);
/* As ascii(): repr() with all beyond ASCII escaped. */
void jinja_write_ascii(jinja_builder *builder, jinja_value value);
void jinja_write_float(jinja_builder *builder, double real);
void jinja_write_json(jinja_builder *builder, jinja_value value, const char *indent,
                      size_t indent_size, const jinja_string *item_separator,
                      const jinja_string *key_separator, bool ensure_ascii, bool sort_keys);

/* operators.c */
jinja_value jinja_binary(jinja_state *s, enum jinja_operator operation, jinja_value left,
                         jinja_value right);
jinja_value jinja_negate(jinja_state *s, jinja_value value, bool negative);
jinja_value jinja_concat(jinja_state *s, const jinja_string *left, const jinja_string *right);

/* attributes.c */
jinja_value jinja_getattr(jinja_state *s, jinja_value object, const jinja_string *name);
jinja_value jinja_getitem(jinja_state *s, jinja_value object, jinja_value key);
/* Bounds that are MISSING or none are open. */
jinja_value jinja_slice(jinja_state *s, jinja_value object, jinja_value start, jinja_value stop,
                        jinja_value step);
/* The attribute itself, without falling back to items; false where there is none. */
bool jinja_find_attribute(jinja_state *s, jinja_value object, const jinja_string *name,
                          jinja_value *ret_value);
/* "a.b.0" as make_attrgetter of jinja2 does. */
jinja_value jinja_lookup_path(jinja_state *s, jinja_value item, jinja_value path,
                              jinja_value default_value);

/* calls.c */
jinja_value jinja_invoke(jinja_state *s, const jinja_function *function, jinja_value self,
                         const jinja_call *call);
jinja_value jinja_call_value(jinja_state *s, jinja_value callee, const jinja_call *call);
jinja_value jinja_call_filter(jinja_state *s, const jinja_string *name, jinja_value subject,
                              const jinja_call *call);
bool jinja_call_test(jinja_state *s, const jinja_string *name, jinja_value subject,
                     const jinja_call *call);
/* Argument of an integer parameter; fails with Python's TypeError otherwise. */
int64_t jinja_to_integer(jinja_state *s, jinja_value value);
const jinja_string *jinja_to_string(jinja_state *s, jinja_value value);

/* Tables; NULL where the name is unknown. */
const jinja_function *jinja_find_filter(const char *name, size_t size);
const jinja_function *jinja_find_test(const char *name, size_t size);
const jinja_function *jinja_find_global(const char *name, size_t size);
const jinja_function *jinja_find_string_method(const char *name, size_t size);
const jinja_function *jinja_find_text_filter(const char *name, size_t size);
const jinja_function *jinja_find_sequence_filter(const char *name, size_t size);
const jinja_function *jinja_find_selection_filter(const char *name, size_t size);
const jinja_function *jinja_find_function(const jinja_function *table, const char *name,
                                          size_t size);

/* string_methods.c, string_search.c: shared with the filters */
extern const jinja_function jinja_search_methods[];
jinja_value jinja_replace(jinja_state *s, const jinja_string *text, const jinja_string *old,
                          const jinja_string *new_text, int64_t limit);
jinja_value jinja_strip(jinja_state *s, const jinja_string *text, jinja_value chars, bool left,
                        bool right);
jinja_array jinja_split_lines(jinja_state *s, const jinja_string *text, bool keep_ends);
/* Byte offset of the first match at or after `from`, or -1. */
int64_t jinja_search(jinja_state *s, const jinja_string *text, size_t from,
                     const jinja_string *needle);
/* Byte offset of code point number `index` (at most length). */
size_t jinja_string_offset(const jinja_string *string, size_t index);

enum jinja_case { JINJA_CASE_UPPER, JINJA_CASE_LOWER, JINJA_CASE_CAPITALIZE, JINJA_CASE_TITLE };
jinja_value jinja_change_case(jinja_state *s, const jinja_string *text, enum jinja_case form);

/* format.c, format_spec.c */
jinja_value jinja_percent_format(jinja_state *s, const jinja_string *format, jinja_value arguments);
jinja_value jinja_brace_format(jinja_state *s, const jinja_string *format, const jinja_call *call,
                               const jinja_dict *mapping);
void jinja_format_value(jinja_builder *builder, jinja_value value, const jinja_string *spec);

/* numbers.c */
jinja_value jinja_round(jinja_state *s, jinja_value value, int64_t precision);
bool jinja_parse_integer(const jinja_string *text, int64_t base, int64_t *ret_integer);
bool jinja_parse_float(const jinja_string *text, double *ret_real);

/* expressions.c */
jinja_value jinja_eval(jinja_state *s, const jinja_node *node);
jinja_call jinja_eval_arguments(jinja_state *s, const jinja_arguments *arguments);

/* statements.c */
void jinja_exec_block(jinja_state *s, const jinja_block *block);
jinja_value jinja_call_macro(jinja_state *s, const jinja_macro *macro, const jinja_call *call);
jinja_value jinja_call_loop(jinja_state *s, const jinja_loop *loop, const jinja_call *call);
jinja_value jinja_loop_attribute(jinja_state *s, jinja_loop *loop, const jinja_string *name,
                                 bool *ret_found);
jinja_scope *jinja_scope_new(jinja_state *s, jinja_scope *parent);
jinja_value jinja_variable_get(jinja_state *s, const jinja_string *name);
void jinja_variable_set(jinja_state *s, const jinja_string *name, jinja_value value);

struct jinja_macro {
    const jinja_node *node;    /* macro or call block */
    const jinja_string *label; /* NULL for a call block's body */
    jinja_scope *closure;
};

#endif
