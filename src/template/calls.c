/* Calling functions, methods, filters and tests; the global functions of chat templates. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

int64_t jinja_to_integer(jinja_state *s, jinja_value value)
{
    if (value.type == JINJA_UNDEFINED) {
        jinja_fail_undefined(s, value);
    }
    if (!jinja_is_integral(value)) {
        jinja_fail(s, OFR_ETEMPLATE, "'%s' object cannot be interpreted as an integer",
                   jinja_type_name(value));
    }
    return jinja_integer(value);
}

const jinja_string *jinja_to_string(jinja_state *s, jinja_value value)
{
    if (value.type != JINJA_STRING) {
        jinja_fail(s, OFR_ETEMPLATE, "a str is needed, not '%s'", jinja_type_name(value));
    }
    return value.as.string;
}

/* --- binding arguments to the parameters of a built-in function --- */

enum { MAX_PARAMETERS = 6 };

static size_t split_parameters(const char *text, jinja_string names[MAX_PARAMETERS])
{
    size_t count = 0;
    while (*text && count < MAX_PARAMETERS) {
        size_t size = strcspn(text, ",");
        names[count++] = (jinja_string){.data = text, .size = size, .length = size};
        text += size + (text[size] == ',');
    }
    return count;
}

static void bind_keywords(jinja_state *s, const jinja_function *function, const jinja_call *call,
                          const jinja_string *names, size_t count, jinja_value *values)
{
    for (size_t i = 0; i < call->keyword_count; i++) {
        size_t at = 0;
        while (at < count && !jinja_string_equal(&names[at], call->keywords[i].name)) {
            at++;
        }
        if (at == count || function->parameters[0] == '/') {
            jinja_fail(s, OFR_ETEMPLATE, "%s() got an unexpected keyword argument '%.*s'",
                       function->name, JINJA_TEXT(call->keywords[i].name));
        }
        if (values[at].type != JINJA_MISSING) {
            jinja_fail(s, OFR_ETEMPLATE, "%s() got multiple values for argument '%.*s'",
                       function->name, JINJA_TEXT(call->keywords[i].name));
        }
        values[at] = call->keywords[i].value;
    }
}

/* Runs the function, or makes what will run it when its items are first wanted. */
static jinja_value run(jinja_state *s, const jinja_function *function, jinja_value self,
                       const jinja_call *call)
{
    if (!function->lazy) {
        return function->function(s, self, call);
    }
    struct jinja_deferred *deferred = jinja_alloc(s, sizeof *deferred);
    *deferred = (struct jinja_deferred){.function = function, .self = self, .call = *call};
    jinja_value iterator = jinja_iterator_value(s, NULL, 0);
    iterator.as.iterator->deferred = deferred;
    return iterator;
}

jinja_value jinja_invoke(jinja_state *s, const jinja_function *function, jinja_value self,
                         const jinja_call *call)
{
    if (!function->parameters) {
        return run(s, function, self, call);
    }
    jinja_string names[MAX_PARAMETERS];
    const char *text = function->parameters + (function->parameters[0] == '/');
    size_t count = split_parameters(text, names);
    if (call->count > count) {
        jinja_fail(s, OFR_ETEMPLATE, "%s() takes at most %zu argument(s), %zu given",
                   function->name, count, call->count);
    }
    jinja_value *values = jinja_alloc_array(s, MAX_PARAMETERS, sizeof *values);
    for (size_t i = 0; i < MAX_PARAMETERS; i++) {
        values[i] = i < call->count ? call->arguments[i] : jinja_missing();
    }
    bind_keywords(s, function, call, names, count, values);
    for (size_t i = 0; i < function->required; i++) {
        if (values[i].type == JINJA_MISSING) {
            jinja_fail(s, OFR_ETEMPLATE, "%s() is missing its argument '%.*s'", function->name,
                       JINJA_TEXT(&names[i]));
        }
    }
    jinja_call bound = {.arguments = values, .count = count};
    return run(s, function, self, &bound);
}

jinja_value jinja_call_value(jinja_state *s, jinja_value callee, const jinja_call *call)
{
    switch (callee.type) {
    case JINJA_FUNCTION:
        return jinja_invoke(s, callee.as.function, jinja_none(), call);
    case JINJA_METHOD:
        return jinja_invoke(s, callee.as.method->function, callee.as.method->self, call);
    case JINJA_MACRO:
        return jinja_call_macro(s, callee.as.macro, call);
    case JINJA_LOOP:
        return jinja_call_loop(s, callee.as.loop, call);
    case JINJA_UNDEFINED:
        jinja_fail_undefined(s, callee);
    default:
        jinja_fail(s, OFR_ETEMPLATE, "'%s' object is not callable", jinja_type_name(callee));
    }
}

jinja_value jinja_call_filter(jinja_state *s, const jinja_string *name, jinja_value subject,
                              const jinja_call *call)
{
    const jinja_function *function = jinja_find_filter(name->data, name->size);
    if (!function) {
        jinja_fail(s, OFR_ETEMPLATE, "no filter is named '%.*s'", JINJA_TEXT(name));
    }
    return jinja_invoke(s, function, subject, call);
}

bool jinja_call_test(jinja_state *s, const jinja_string *name, jinja_value subject,
                     const jinja_call *call)
{
    const jinja_function *function = jinja_find_test(name->data, name->size);
    if (!function) {
        jinja_fail(s, OFR_ETEMPLATE, "no test is named '%.*s'", JINJA_TEXT(name));
    }
    return jinja_truth(s, jinja_invoke(s, function, subject, call));
}

const jinja_function *jinja_find_filter(const char *name, size_t size)
{
    const jinja_function *found = jinja_find_text_filter(name, size);
    found = found ? found : jinja_find_sequence_filter(name, size);
    return found ? found : jinja_find_selection_filter(name, size);
}

/* --- global functions --- */

static jinja_value global_range(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)self;
    int64_t bounds[3] = {0, 0, 1};
    for (size_t i = 0; i < 3 && call->arguments[i].type != JINJA_MISSING; i++) {
        bounds[i] = jinja_to_integer(s, call->arguments[i]);
    }
    if (call->arguments[1].type == JINJA_MISSING) {
        bounds[1] = bounds[0];
        bounds[0] = 0;
    }
    if (bounds[2] == 0) {
        jinja_fail(s, OFR_ETEMPLATE, "range() arg 3 must not be zero");
    }
    bool up = bounds[2] > 0;
    uint64_t count = 0;
    if (up ? bounds[0] < bounds[1] : bounds[0] > bounds[1]) {
        uint64_t distance = up ? (uint64_t)bounds[1] - (uint64_t)bounds[0]
                               : (uint64_t)bounds[0] - (uint64_t)bounds[1];
        uint64_t step = up ? (uint64_t)bounds[2] : -(uint64_t)bounds[2];
        count = (distance - 1) / step + 1;
    }
    if (count > JINJA_MAX_RANGE) {
        jinja_fail(s, OFR_ELIMIT, "range too big: the sandbox allows %d items", JINJA_MAX_RANGE);
    }
    jinja_range *range = jinja_alloc(s, sizeof *range);
    *range = (jinja_range){bounds[0], bounds[1], bounds[2], (size_t)count};
    return (jinja_value){.type = JINJA_RANGE, .as.range = range};
}

static jinja_dict *make_dict(jinja_state *s, const jinja_call *call, const char *function)
{
    jinja_dict *dict = jinja_dict_new(s);
    if (call->count > 1) {
        jinja_fail(s, OFR_ETEMPLATE, "%s expected at most 1 argument, got %zu", function,
                   call->count);
    }
    if (call->count && (call->arguments[0].type == JINJA_DICT)) {
        const jinja_dict *from = call->arguments[0].as.dict;
        for (size_t i = 0; i < from->count; i++) {
            jinja_dict_set(s, dict, from->entries[i].key, from->entries[i].value);
        }
    } else if (call->count) {
        jinja_array pairs = jinja_items(s, call->arguments[0]);
        for (size_t i = 0; i < pairs.count; i++) {
            jinja_array pair = jinja_items(s, pairs.items[i]);
            if (pair.count != 2) {
                jinja_fail(s, OFR_ETEMPLATE,
                           "dictionary update sequence element #%zu has length %zu; 2 is required",
                           i, pair.count);
            }
            jinja_dict_set(s, dict, pair.items[0], pair.items[1]);
        }
    }
    for (size_t i = 0; i < call->keyword_count; i++) {
        jinja_dict_set(s, dict, jinja_string_value(call->keywords[i].name),
                       call->keywords[i].value);
    }
    return dict;
}

static jinja_value global_dict(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)self;
    return (jinja_value){.type = JINJA_DICT, .as.dict = make_dict(s, call, "dict")};
}

static jinja_value global_namespace(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)self;
    return (jinja_value){.type = JINJA_NAMESPACE, .as.dict = make_dict(s, call, "namespace")};
}

static jinja_value global_raise_exception(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)self;
    const jinja_string *message = jinja_str(s, call->arguments[0]);
    jinja_fail(s, OFR_ETEMPLATE, "%.*s", (int)(message->size > 800 ? 800 : message->size),
               message->data);
}

static jinja_value global_strftime_now(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)self;
    const jinja_string *format = jinja_to_string(s, call->arguments[0]);
    struct tm local;
    if (!localtime_r(&s->now, &local)) {
        jinja_fail(s, OFR_ETEMPLATE, "the time given cannot be expressed as a local time");
    }
    /* datetime.now() knows no time zone: %z and %Z are empty; %f is its microseconds. */
    jinja_builder copy = {.state = s};
    for (const char *p = format->data, *end = p + format->size; p < end; p++) {
        bool directive = *p == '%' && p + 1 < end;
        if (directive && (p[1] == 'z' || p[1] == 'Z')) {
            p++;
        } else if (directive && p[1] == 'f') {
            jinja_builder_text(&copy, "000000");
            p++;
        } else if (*p) {
            jinja_builder_put(&copy, p, directive ? 2 : 1);
            p += directive;
        }
    }
    jinja_builder_put(&copy, "|", 2); /* a mark, so that an empty result differs from failure */
    size_t capacity = copy.size * 16 + 256;
    char *text = jinja_alloc(s, capacity);
    size_t size = strftime(text, capacity, copy.data, &local);
    if (size == 0) {
        jinja_fail(s, OFR_ETEMPLATE, "strftime_now('%.*s') gives too long a text",
                   JINJA_TEXT(format));
    }
    return jinja_part(s, text, size - 1);
}

const jinja_function *jinja_find_global(const char *name, size_t size)
{
    static const jinja_function globals[] = {
        {"range", global_range, "/start,stop,step", 1, false},
        {"dict", global_dict, NULL, 0, false},
        {"namespace", global_namespace, NULL, 0, false},
        {"raise_exception", global_raise_exception, "message", 1, false},
        {"strftime_now", global_strftime_now, "format", 1, false},
        {0},
    };
    return jinja_find_function(globals, name, size);
}
