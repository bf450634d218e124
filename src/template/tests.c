/* Tests: what may follow `is`. */
#include <string.h>

#include "template/interpreter.h"

static jinja_value test_defined(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type != JINJA_UNDEFINED);
}

static jinja_value test_undefined(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_UNDEFINED);
}

static jinja_value test_none(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_NONE);
}

static jinja_value test_boolean(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_BOOL);
}

static jinja_value test_true(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_BOOL && self.as.boolean);
}

static jinja_value test_false(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_BOOL && !self.as.boolean);
}

static jinja_value test_integer(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_INT);
}

static jinja_value test_float(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_FLOAT);
}

static jinja_value test_number(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(jinja_is_number(self));
}

static jinja_value test_string(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_STRING);
}

static jinja_value test_mapping(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_DICT);
}

static jinja_value test_sequence(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    bool is_view = self.type == JINJA_KEYS || self.type == JINJA_VALUES || self.type == JINJA_ITEMS;
    return jinja_bool(jinja_length(self) >= 0 && !is_view);
}

static jinja_value test_iterable(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(jinja_is_iterable(self));
}

static jinja_value test_callable(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    /* Undefined and LoopContext define __call__, if only to refuse */
    return jinja_bool(self.type == JINJA_FUNCTION || self.type == JINJA_METHOD ||
                      self.type == JINJA_MACRO || self.type == JINJA_LOOP ||
                      self.type == JINJA_UNDEFINED);
}

static jinja_value test_escaped(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)self, (void)call;
    return jinja_bool(false);
}

static jinja_value modulo_is(jinja_state *s, jinja_value self, jinja_value by, int64_t rest)
{
    jinja_value found = jinja_binary(s, JINJA_OP_MOD, self, by);
    return jinja_bool(jinja_equal(s, found, jinja_int(rest)));
}

static jinja_value test_odd(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return modulo_is(s, self, jinja_int(2), 1);
}

static jinja_value test_even(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return modulo_is(s, self, jinja_int(2), 0);
}

static jinja_value test_divisibleby(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return modulo_is(s, self, call->arguments[0], 0);
}

static jinja_value case_is(jinja_state *s, jinja_value self, const char *method)
{
    static const jinja_call nothing = {0};
    const jinja_function *function = jinja_find_string_method(method, strlen(method));
    return function->function(s, jinja_string_value(jinja_str(s, self)), &nothing);
}

static jinja_value test_lower(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return case_is(s, self, "islower");
}

static jinja_value test_upper(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)call;
    return case_is(s, self, "isupper");
}

/* Python's `is`: identity for objects; small scalars of one type are one object there. */
static jinja_value test_sameas(jinja_state *s, jinja_value self, const jinja_call *call)
{
    jinja_value other = call->arguments[0];
    if (self.type != other.type) {
        return jinja_bool(false);
    }
    bool is_scalar = self.type == JINJA_NONE || self.type == JINJA_BOOL || self.type == JINJA_INT ||
                     self.type == JINJA_STRING;
    return jinja_bool(is_scalar ? jinja_equal(s, self, other)
                                : self.type != JINJA_FLOAT && self.as.dict == other.as.dict);
}

static jinja_value test_in(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_bool(jinja_contains(s, call->arguments[0], self));
}

static jinja_value test_eq(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_bool(jinja_equal(s, self, call->arguments[0]));
}

static jinja_value test_ne(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_bool(!jinja_equal(s, self, call->arguments[0]));
}

static jinja_value test_lt(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_bool(jinja_ordered(s, JINJA_OP_LT, self, call->arguments[0]));
}

static jinja_value test_le(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_bool(jinja_ordered(s, JINJA_OP_LE, self, call->arguments[0]));
}

static jinja_value test_gt(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_bool(jinja_ordered(s, JINJA_OP_GT, self, call->arguments[0]));
}

static jinja_value test_ge(jinja_state *s, jinja_value self, const jinja_call *call)
{
    return jinja_bool(jinja_ordered(s, JINJA_OP_GE, self, call->arguments[0]));
}

static jinja_value test_filter(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_STRING &&
                      jinja_find_filter(self.as.string->data, self.as.string->size));
}

static jinja_value test_test(jinja_state *s, jinja_value self, const jinja_call *call)
{
    (void)s, (void)call;
    return jinja_bool(self.type == JINJA_STRING &&
                      jinja_find_test(self.as.string->data, self.as.string->size));
}

const jinja_function *jinja_find_test(const char *name, size_t size)
{
    static const jinja_function tests[] = {
        {"defined", test_defined, "", 0, false},
        {"undefined", test_undefined, "", 0, false},
        {"none", test_none, "", 0, false},
        {"boolean", test_boolean, "", 0, false},
        {"true", test_true, "", 0, false},
        {"false", test_false, "", 0, false},
        {"integer", test_integer, "", 0, false},
        {"float", test_float, "", 0, false},
        {"number", test_number, "", 0, false},
        {"string", test_string, "", 0, false},
        {"mapping", test_mapping, "", 0, false},
        {"sequence", test_sequence, "", 0, false},
        {"iterable", test_iterable, "", 0, false},
        {"callable", test_callable, "", 0, false},
        {"escaped", test_escaped, "", 0, false},
        {"odd", test_odd, "", 0, false},
        {"even", test_even, "", 0, false},
        {"divisibleby", test_divisibleby, "num", 1, false},
        {"lower", test_lower, "", 0, false},
        {"upper", test_upper, "", 0, false},
        {"sameas", test_sameas, "other", 1, false},
        {"in", test_in, "seq", 1, false},
        {"filter", test_filter, "", 0, false},
        {"test", test_test, "", 0, false},
        {"==", test_eq, "/other", 1, false},
        {"eq", test_eq, "/other", 1, false},
        {"equalto", test_eq, "/other", 1, false},
        {"!=", test_ne, "/other", 1, false},
        {"ne", test_ne, "/other", 1, false},
        {">", test_gt, "/other", 1, false},
        {"gt", test_gt, "/other", 1, false},
        {"greaterthan", test_gt, "/other", 1, false},
        {">=", test_ge, "/other", 1, false},
        {"ge", test_ge, "/other", 1, false},
        {"<", test_lt, "/other", 1, false},
        {"lt", test_lt, "/other", 1, false},
        {"lessthan", test_lt, "/other", 1, false},
        {"<=", test_le, "/other", 1, false},
        {"le", test_le, "/other", 1, false},
        {0},
    };
    return jinja_find_function(tests, name, size);
}
