/* Executing statements: output, scopes, loops, assignments, macros. */
#include <string.h>

#include "template/interpreter.h"

struct jinja_loop {
    const jinja_node *node;
    jinja_scope *outer;
    jinja_iterator *source;
    jinja_value *queue; /* items that passed the loop's test but were not used yet */
    size_t queue_first, queue_end, queue_capacity;
    int64_t index0, depth0;
    jinja_value before, current, changed;
};

static void exec(jinja_state *s, const jinja_node *node);

/* --- scopes and variables --- */

jinja_scope *jinja_scope_new(jinja_state *s, jinja_scope *parent)
{
    jinja_scope *scope = jinja_alloc(s, sizeof *scope);
    *scope = (jinja_scope){.parent = parent};
    return scope;
}

static jinja_variable *find_variable(jinja_scope *scope, const jinja_string *name)
{
    for (size_t i = 0; i < scope->count; i++) {
        if (jinja_string_equal(scope->variables[i].name, name)) {
            return &scope->variables[i];
        }
    }
    return NULL;
}

jinja_value jinja_variable_get(jinja_state *s, const jinja_string *name)
{
    for (jinja_scope *scope = s->scope; scope; scope = scope->parent) {
        jinja_variable *variable = find_variable(scope, name);
        if (variable) {
            return variable->value;
        }
    }
    const jinja_value *given = jinja_dict_get(s, s->context, jinja_string_value(name));
    if (given) {
        return *given;
    }
    const jinja_function *global = jinja_find_global(name->data, name->size);
    if (global) {
        return (jinja_value){.type = JINJA_FUNCTION, .as.function = global};
    }
    return jinja_undefined_name(s, NULL, name);
}

static void set_in_scope(jinja_state *s, jinja_scope *scope, const jinja_string *name,
                         jinja_value value)
{
    jinja_variable *variable = find_variable(scope, name);
    if (variable) {
        variable->value = value;
        return;
    }
    if (scope->count == scope->capacity) {
        size_t capacity = scope->capacity ? scope->capacity * 2 : 4;
        jinja_variable *grown = jinja_alloc_array(s, capacity, sizeof *grown);
        if (scope->count) {
            memcpy(grown, scope->variables, scope->count * sizeof *grown);
        }
        scope->variables = grown;
        scope->capacity = capacity;
    }
    scope->variables[scope->count++] = (jinja_variable){.name = name, .value = value};
}

void jinja_variable_set(jinja_state *s, const jinja_string *name, jinja_value value)
{
    set_in_scope(s, s->scope, name, value);
}

/* --- assignment --- */

static void check_namespaces(jinja_state *s, const jinja_node *target)
{
    if (target->kind == JINJA_NODE_NAMESPACE_REF &&
        jinja_variable_get(s, target->name).type != JINJA_NAMESPACE) {
        jinja_fail(s, OFR_ETEMPLATE, "cannot assign attribute on non-namespace object");
    }
    for (size_t i = 0; target->kind == JINJA_NODE_TUPLE && i < target->count; i++) {
        check_namespaces(s, target->children[i]);
    }
}

static void assign(jinja_state *s, const jinja_node *target, jinja_value value)
{
    if (target->kind == JINJA_NODE_NAME) {
        jinja_variable_set(s, target->name, value);
    } else if (target->kind == JINJA_NODE_NAMESPACE_REF) {
        jinja_value space = jinja_variable_get(s, target->name);
        if (space.type != JINJA_NAMESPACE) {
            jinja_fail(s, OFR_ETEMPLATE, "cannot assign attribute on non-namespace object");
        }
        jinja_dict_set(s, space.as.dict, jinja_string_value(target->attribute), value);
    } else {
        jinja_array items = jinja_items(s, value);
        if (items.count != target->count) {
            jinja_fail(s, OFR_ETEMPLATE, "%s values to unpack (expected %zu, got %zu)",
                       items.count > target->count ? "too many" : "not enough", target->count,
                       items.count);
        }
        for (size_t i = 0; i < items.count; i++) {
            assign(s, target->children[i], items.items[i]);
        }
    }
}

/* --- captured output --- */

/* What was written since `mark`, taken out of the output. */
static jinja_value take_output(jinja_state *s, size_t mark)
{
    size_t size = s->output_size - mark;
    jinja_charge(s, size / 64);
    const char *data = size ? s->output + mark : "";
    jinja_value value = jinja_string_value(jinja_string_copy(s, data, size));
    s->output_size = mark;
    return value;
}

/* A chain of filters without a subject, as block filters have: the innermost gets `subject`. */
static jinja_value apply_filters(jinja_state *s, const jinja_node *filter, jinja_value subject)
{
    jinja_enter(s);
    if (filter->a) {
        subject = apply_filters(s, filter->a, subject);
    }
    s->offset = filter->offset;
    jinja_call call = jinja_eval_arguments(s, &filter->arguments);
    jinja_value value = jinja_call_filter(s, filter->name, subject, &call);
    jinja_leave(s);
    return value;
}

static void write_value(jinja_state *s, jinja_value value)
{
    const jinja_string *text = jinja_str(s, value);
    jinja_charge(s, text->size / 64);
    jinja_output(s, text->data, text->size);
}

/* --- loops --- */

/* The next item of the source that passes the test. */
static bool fetch(jinja_state *s, jinja_loop *loop, jinja_value *ret_item)
{
    while (jinja_next(loop->source, ret_item)) {
        jinja_charge(s, 1);
        if (!loop->node->c) {
            return true;
        }
        jinja_scope *scope = s->scope;
        s->scope = jinja_scope_new(s, loop->outer);
        assign(s, loop->node->a, *ret_item);
        bool passes = jinja_truth(s, jinja_eval(s, loop->node->c));
        s->scope = scope;
        if (passes) {
            return true;
        }
    }
    return false;
}

/* Makes at least `wanted` items wait, where there are so many. */
static void look_ahead(jinja_state *s, jinja_loop *loop, size_t wanted)
{
    jinja_value item;
    while (loop->queue_end - loop->queue_first < wanted && fetch(s, loop, &item)) {
        if (loop->queue_end == loop->queue_capacity) {
            size_t waiting = loop->queue_end - loop->queue_first;
            size_t capacity = waiting < 4 ? 8 : waiting * 2;
            jinja_value *grown = jinja_alloc_array(s, capacity, sizeof *grown);
            if (waiting) {
                memcpy(grown, loop->queue + loop->queue_first, waiting * sizeof *grown);
            }
            loop->queue = grown;
            loop->queue_first = 0;
            loop->queue_end = waiting;
            loop->queue_capacity = capacity;
        }
        loop->queue[loop->queue_end++] = item;
    }
}

static bool advance(jinja_state *s, jinja_loop *loop)
{
    jinja_value item;
    if (loop->queue_first < loop->queue_end) {
        item = loop->queue[loop->queue_first++];
        if (loop->queue_first == loop->queue_end) {
            loop->queue_first = loop->queue_end = 0;
        }
    } else if (!fetch(s, loop, &item)) {
        return false;
    }
    loop->index0++;
    loop->before = loop->current;
    loop->current = item;
    return true;
}

static bool has_next(jinja_state *s, jinja_loop *loop)
{
    look_ahead(s, loop, 1);
    return loop->queue_first < loop->queue_end;
}

static int64_t loop_length(jinja_state *s, jinja_loop *loop)
{
    look_ahead(s, loop, SIZE_MAX);
    return loop->index0 + 1 + (int64_t)(loop->queue_end - loop->queue_first);
}

static jinja_value loop_cycle(jinja_state *s, jinja_value self, const jinja_call *call)
{
    if (call->count == 0 || call->keyword_count) {
        jinja_fail(s, OFR_ETEMPLATE, "no items for cycling given");
    }
    return call->arguments[(size_t)self.as.loop->index0 % call->count];
}

static jinja_value loop_changed(jinja_state *s, jinja_value self, const jinja_call *call)
{
    if (call->keyword_count) {
        jinja_fail(s, OFR_ETEMPLATE, "changed() takes no keyword arguments");
    }
    jinja_value given = jinja_array_value(s, JINJA_TUPLE, call->arguments, call->count);
    bool changed = !jinja_equal(s, self.as.loop->changed, given);
    self.as.loop->changed = given;
    return jinja_bool(changed);
}

jinja_value jinja_loop_attribute(jinja_state *s, jinja_loop *loop, const jinja_string *name,
                                 bool *ret_found)
{
    static const jinja_function methods[] = {
        {"cycle", loop_cycle, NULL, 0, false}, {"changed", loop_changed, NULL, 0, false}, {0}};
    *ret_found = true;
    if (jinja_string_is(name, "index")) {
        return jinja_int(loop->index0 + 1);
    } else if (jinja_string_is(name, "index0")) {
        return jinja_int(loop->index0);
    } else if (jinja_string_is(name, "first")) {
        return jinja_bool(loop->index0 == 0);
    } else if (jinja_string_is(name, "last")) {
        return jinja_bool(!has_next(s, loop));
    } else if (jinja_string_is(name, "length")) {
        return jinja_int(loop_length(s, loop));
    } else if (jinja_string_is(name, "revindex")) {
        return jinja_int(loop_length(s, loop) - loop->index0);
    } else if (jinja_string_is(name, "revindex0")) {
        return jinja_int(loop_length(s, loop) - loop->index0 - 1);
    } else if (jinja_string_is(name, "depth")) {
        return jinja_int(loop->depth0 + 1);
    } else if (jinja_string_is(name, "depth0")) {
        return jinja_int(loop->depth0);
    } else if (jinja_string_is(name, "previtem")) {
        return loop->index0 == 0 ? jinja_undefined_hint(s, "there is no previous item")
                                 : loop->before;
    } else if (jinja_string_is(name, "nextitem")) {
        return has_next(s, loop) ? loop->queue[loop->queue_first]
                                 : jinja_undefined_hint(s, "there is no next item");
    }
    const jinja_function *function = jinja_find_function(methods, name->data, name->size);
    *ret_found = function != NULL;
    jinja_method *method = jinja_alloc(s, sizeof *method);
    *method = (jinja_method){.function = function, .self = {.type = JINJA_LOOP, .as.loop = loop}};
    return (jinja_value){.type = JINJA_METHOD, .as.method = method};
}

static void run_loop(jinja_state *s, const jinja_node *node, jinja_scope *outer,
                     jinja_value iterable, int64_t depth0)
{
    static const jinja_string loop_name = {"loop", 4, 4};
    jinja_scope *saved = s->scope;
    jinja_loop *loop = jinja_alloc(s, sizeof *loop);
    *loop = (jinja_loop){.node = node, .outer = outer, .index0 = -1, .depth0 = depth0};
    loop->source = jinja_iterate(s, iterable);
    jinja_scope *scope = jinja_scope_new(s, outer);
    bool ran = false;
    while (advance(s, loop)) {
        scope->count = 0;
        s->scope = scope;
        s->offset = node->offset;
        set_in_scope(s, scope, &loop_name, (jinja_value){.type = JINJA_LOOP, .as.loop = loop});
        assign(s, node->a, loop->current);
        jinja_exec_block(s, &node->body);
        enum jinja_jump jump = s->jump;
        s->jump = JINJA_JUMP_NONE;
        /* As jinja2 compiles it: an iteration left by a jump does not count for the else. */
        ran |= jump == JINJA_JUMP_NONE;
        if (jump == JINJA_JUMP_BREAK) {
            break;
        }
    }
    if (!ran && node->otherwise.count) {
        s->scope = jinja_scope_new(s, outer);
        jinja_exec_block(s, &node->otherwise);
    }
    s->scope = saved;
}

jinja_value jinja_call_loop(jinja_state *s, const jinja_loop *loop, const jinja_call *call)
{
    if (!loop->node->flag) {
        jinja_fail(s, OFR_ETEMPLATE,
                   "the loop must have the 'recursive' marker to be called recursively");
    }
    if (call->count != 1 || call->keyword_count) {
        jinja_fail(s, OFR_ETEMPLATE, "a recursive loop takes exactly one argument");
    }
    if (++s->calls > JINJA_MAX_CALLS) {
        jinja_fail(s, OFR_ELIMIT, "loops and macros call each other more than %d levels deep",
                   JINJA_MAX_CALLS);
    }
    size_t mark = s->output_size;
    run_loop(s, loop->node, loop->outer, call->arguments[0], loop->depth0 + 1);
    s->calls--;
    return take_output(s, mark);
}

/* --- macros --- */

static void bind_extra(jinja_state *s, const jinja_macro *macro, const jinja_call *call,
                       const bool *used)
{
    static const jinja_string varargs_name = {"varargs", 7, 7}, kwargs_name = {"kwargs", 6, 6},
                              caller_name = {"caller", 6, 6};
    const jinja_parameters *parameters = macro->node->parameters;
    jinja_dict *kwargs = jinja_dict_new(s);
    jinja_value caller = jinja_missing();
    for (size_t i = 0; i < call->keyword_count; i++) {
        if (used[i]) {
            continue;
        }
        if (parameters->uses_caller && jinja_string_equal(call->keywords[i].name, &caller_name)) {
            caller = call->keywords[i].value;
            continue;
        }
        if (!parameters->uses_kwargs) {
            jinja_fail(s, OFR_ETEMPLATE, "the macro takes no keyword argument '%.*s'",
                       JINJA_TEXT(call->keywords[i].name));
        }
        jinja_dict_set(s, kwargs, jinja_string_value(call->keywords[i].name),
                       call->keywords[i].value);
    }
    if (parameters->uses_caller && !find_variable(s->scope, &caller_name)) {
        bool given = caller.type != JINJA_MISSING && caller.type != JINJA_NONE;
        jinja_variable_set(s, &caller_name,
                           given ? caller : jinja_undefined_hint(s, "no caller defined"));
    }
    if (parameters->uses_kwargs && !find_variable(s->scope, &kwargs_name)) {
        jinja_variable_set(s, &kwargs_name, (jinja_value){.type = JINJA_DICT, .as.dict = kwargs});
    }
    bool too_many = call->count > parameters->count;
    if (too_many && !parameters->uses_varargs) {
        jinja_fail(s, OFR_ETEMPLATE, "the macro takes not more than %zu argument(s)",
                   parameters->count);
    }
    if (parameters->uses_varargs && !find_variable(s->scope, &varargs_name)) {
        jinja_variable_set(s, &varargs_name,
                           jinja_array_value(s, JINJA_TUPLE,
                                             too_many ? call->arguments + parameters->count : NULL,
                                             too_many ? call->count - parameters->count : 0));
    }
}

static void bind_parameters(jinja_state *s, const jinja_macro *macro, const jinja_call *call)
{
    const jinja_parameters *parameters = macro->node->parameters;
    jinja_value *values = jinja_alloc_array(s, parameters->count, sizeof *values);
    bool *used = jinja_alloc_array(s, call->keyword_count, sizeof *used);
    memset(used, 0, call->keyword_count * sizeof *used);
    for (size_t i = 0; i < parameters->count; i++) {
        values[i] = i < call->count ? call->arguments[i] : jinja_missing();
        for (size_t j = 0; i >= call->count && j < call->keyword_count; j++) {
            if (jinja_string_equal(parameters->names[i], call->keywords[j].name)) {
                values[i] = call->keywords[j].value;
                used[j] = true;
            }
        }
        if (values[i].type != JINJA_MISSING) {
            jinja_variable_set(s, parameters->names[i], values[i]);
        }
    }
    bind_extra(s, macro, call, used);
    size_t first_default = parameters->count - parameters->default_count;
    for (size_t i = 0; i < parameters->count; i++) {
        if (values[i].type == JINJA_MISSING) {
            jinja_variable_set(s, parameters->names[i],
                               i >= first_default
                                   ? jinja_eval(s, parameters->defaults[i - first_default])
                                   : jinja_undefined_name(s, NULL, parameters->names[i]));
        }
    }
}

jinja_value jinja_call_macro(jinja_state *s, const jinja_macro *macro, const jinja_call *call)
{
    if (++s->calls > JINJA_MAX_CALLS) {
        jinja_fail(s, OFR_ELIMIT, "loops and macros call each other more than %d levels deep",
                   JINJA_MAX_CALLS);
    }
    jinja_scope *scope = s->scope;
    s->scope = jinja_scope_new(s, macro->closure);
    size_t mark = s->output_size;
    bind_parameters(s, macro, call);
    jinja_exec_block(s, &macro->node->body);
    s->scope = scope;
    s->calls--;
    return take_output(s, mark);
}

static jinja_value make_macro(jinja_state *s, const jinja_node *node)
{
    jinja_macro *macro = jinja_alloc(s, sizeof *macro);
    *macro = (jinja_macro){.node = node, .label = node->name, .closure = s->scope};
    return (jinja_value){.type = JINJA_MACRO, .as.macro = macro};
}

static void exec_call_block(jinja_state *s, const jinja_node *node)
{
    static const jinja_string caller_name = {"caller", 6, 6};
    jinja_value callee = jinja_eval(s, node->a->a);
    jinja_call call = jinja_eval_arguments(s, &node->a->arguments);
    jinja_keyword_value *keywords = jinja_alloc_array(s, call.keyword_count + 1, sizeof *keywords);
    for (size_t i = 0; i < call.keyword_count; i++) {
        keywords[i] = call.keywords[i];
    }
    jinja_value caller = make_macro(s, node);
    keywords[call.keyword_count] = (jinja_keyword_value){.name = &caller_name, .value = caller};
    call.keywords = keywords;
    call.keyword_count++;
    write_value(s, jinja_call_value(s, callee, &call));
}

/* --- the other statements --- */

static void exec_if(jinja_state *s, const jinja_node *node)
{
    for (;;) {
        if (jinja_truth(s, jinja_eval(s, node->a))) {
            jinja_exec_block(s, &node->body);
            return;
        }
        if (!node->flag) {
            jinja_exec_block(s, &node->otherwise);
            return;
        }
        node = node->otherwise.nodes[0]; /* elif */
    }
}

/* A body in a scope of its own whose output is captured; false when a jump left it. */
static bool capture_body(jinja_state *s, const jinja_node *node, jinja_value *ret_text)
{
    jinja_scope *scope = s->scope;
    size_t mark = s->output_size;
    s->scope = jinja_scope_new(s, scope);
    jinja_exec_block(s, &node->body);
    *ret_text = take_output(s, mark);
    if (s->jump == JINJA_JUMP_NONE && node->b) {
        *ret_text = apply_filters(s, node->b, *ret_text);
    }
    s->scope = scope;
    return s->jump == JINJA_JUMP_NONE;
}

static void exec_with(jinja_state *s, const jinja_node *node)
{
    jinja_scope *outer = s->scope, *scope = jinja_scope_new(s, outer);
    for (size_t i = 0; i < node->count; i += 2) {
        s->scope = outer; /* the values do not see each other's targets */
        jinja_value value = jinja_eval(s, node->children[i + 1]);
        s->scope = scope;
        assign(s, node->children[i], value);
    }
    s->scope = scope;
    jinja_exec_block(s, &node->body);
    s->scope = outer;
}

static void exec_scope(jinja_state *s, const jinja_node *node, jinja_scope *parent)
{
    jinja_scope *scope = s->scope;
    s->scope = jinja_scope_new(s, parent);
    jinja_exec_block(s, &node->body);
    s->scope = scope;
}

static void exec(jinja_state *s, const jinja_node *node)
{
    jinja_value value;
    s->offset = node->offset;
    switch (node->kind) {
    case JINJA_NODE_TEXT:
        jinja_output(s, node->constant.as.string->data, node->constant.as.string->size);
        break;
    case JINJA_NODE_OUTPUT:
        write_value(s, jinja_eval(s, node->a));
        break;
    case JINJA_NODE_IF:
        exec_if(s, node);
        break;
    case JINJA_NODE_FOR:
        run_loop(s, node, s->scope, jinja_eval(s, node->b), 0);
        break;
    case JINJA_NODE_SET:
        check_namespaces(s, node->a);
        assign(s, node->a, jinja_eval(s, node->b));
        break;
    case JINJA_NODE_SET_BLOCK:
        if (capture_body(s, node, &value)) {
            assign(s, node->a, value);
        }
        break;
    case JINJA_NODE_FILTER_BLOCK:
        if (capture_body(s, node, &value)) {
            write_value(s, value);
        }
        break;
    case JINJA_NODE_MACRO:
        jinja_variable_set(s, node->name, make_macro(s, node));
        break;
    case JINJA_NODE_CALL_BLOCK:
        exec_call_block(s, node);
        break;
    case JINJA_NODE_WITH:
        exec_with(s, node);
        break;
    case JINJA_NODE_SCOPE:
        exec_scope(s, node, s->scope);
        break;
    case JINJA_NODE_BLOCK:
        exec_scope(s, node, node->flag ? s->scope : s->globals);
        break;
    case JINJA_NODE_BREAK:
        s->jump = JINJA_JUMP_BREAK;
        break;
    case JINJA_NODE_CONTINUE:
        s->jump = JINJA_JUMP_CONTINUE;
        break;
    default:
        jinja_fail(s, OFR_EINTERNAL, "an expression where a statement belongs");
    }
}

void jinja_exec_block(jinja_state *s, const jinja_block *block)
{
    jinja_enter(s);
    for (size_t i = 0; i < block->count && s->jump == JINJA_JUMP_NONE; i++) {
        jinja_charge(s, 1);
        exec(s, block->nodes[i]);
    }
    jinja_leave(s);
}
