/* Arithmetic and the other binary operators, with Python's types and errors. */
#include <math.h>
#include <string.h>

#include "template/interpreter.h"

static _Noreturn void fail_types(jinja_state *s, enum jinja_operator operation, jinja_value left,
                                 jinja_value right)
{
    static const char *const names[] = {
        [JINJA_OP_ADD] = "+",          [JINJA_OP_SUB] = "-",       [JINJA_OP_MUL] = "*",
        [JINJA_OP_DIV] = "/",          [JINJA_OP_FLOORDIV] = "//", [JINJA_OP_MOD] = "%",
        [JINJA_OP_POW] = "** or pow()"};
    if (left.type == JINJA_UNDEFINED) {
        jinja_fail_undefined(s, left);
    }
    if (right.type == JINJA_UNDEFINED) {
        jinja_fail_undefined(s, right);
    }
    if (operation == JINJA_OP_ADD && (left.type == JINJA_STRING || jinja_is_array(left))) {
        jinja_fail(s, OFR_ETEMPLATE, "can only concatenate %s (not \"%s\") to %s",
                   jinja_type_name(left), jinja_type_name(right), jinja_type_name(left));
    }
    jinja_fail(s, OFR_ETEMPLATE, "unsupported operand type(s) for %s: '%s' and '%s'",
               names[operation], jinja_type_name(left), jinja_type_name(right));
}

static _Noreturn void fail_overflow(jinja_state *s)
{
    jinja_fail(s, OFR_ETEMPLATE, "an integer does not fit 64 bits");
}

jinja_value jinja_concat(jinja_state *s, const jinja_string *left, const jinja_string *right)
{
    if (right->size > SIZE_MAX / 4 || left->size > SIZE_MAX / 4) {
        jinja_fail(s, OFR_ELIMIT, "a text is too long");
    }
    jinja_charge(s, right->size / 64);
    jinja_string *string = jinja_alloc(s, sizeof *string);
    string->size = left->size + right->size;
    string->length = left->length + right->length;
    if (left->size == 0 || right->size == 0) {
        string->data = left->size ? left->data : right->data;
        return jinja_string_value(string);
    }
    /* A text made last is extended in place: a chain of '+' copies each part once. */
    char *tail = (char *)(uintptr_t)(left->data + left->size);
    char *data;
    if (jinja_arena_extend(s->arena, tail, right->size)) {
        data = (char *)(uintptr_t)left->data;
    } else {
        jinja_charge(s, left->size / 64);
        data = jinja_alloc(s, string->size);
        memcpy(data, left->data, left->size);
    }
    memcpy(data + left->size, right->data, right->size);
    string->data = data;
    return jinja_string_value(string);
}

static jinja_value repeat(jinja_state *s, jinja_value sequence, int64_t times)
{
    size_t count = times < 0 ? 0 : (size_t)times;
    size_t size =
        sequence.type == JINJA_STRING ? sequence.as.string->size : sequence.as.array->count;
    size_t limit = JINJA_MAX_RENDER_BYTES / sizeof(jinja_value);
    if (size && count > limit / size) {
        jinja_fail(s, OFR_ELIMIT, "a sequence repeated %zu times is too long", count);
    }
    jinja_charge(s, size * count / 64);
    if (sequence.type == JINJA_STRING) {
        char *data = jinja_alloc(s, size * count);
        for (size_t i = 0; size && i < count; i++) {
            memcpy(data + i * size, sequence.as.string->data, size);
        }
        return jinja_part(s, data, size * count);
    }
    jinja_value *items = jinja_alloc_array(s, size * count, sizeof *items);
    for (size_t i = 0; size && i < count; i++) {
        memcpy(items + i * size, sequence.as.array->items, size * sizeof *items);
    }
    return jinja_array_value(s, sequence.type, items, size * count);
}

static jinja_value join_arrays(jinja_state *s, jinja_value left, jinja_value right)
{
    const jinja_array *a = left.as.array, *b = right.as.array;
    jinja_value *items = jinja_alloc_array(s, a->count + b->count, sizeof *items);
    if (a->count) {
        memcpy(items, a->items, a->count * sizeof *items);
    }
    if (b->count) {
        memcpy(items + a->count, b->items, b->count * sizeof *items);
    }
    jinja_charge(s, (a->count + b->count) / 4);
    return jinja_array_value(s, left.type, items, a->count + b->count);
}

static int64_t floor_divide(jinja_state *s, int64_t a, int64_t b)
{
    if (b == 0) {
        jinja_fail(s, OFR_ETEMPLATE, "integer division or modulo by zero");
    }
    if (a == INT64_MIN && b == -1) {
        fail_overflow(s);
    }
    int64_t quotient = a / b;
    return quotient - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t floor_modulo(jinja_state *s, int64_t a, int64_t b)
{
    if (b == 0) {
        jinja_fail(s, OFR_ETEMPLATE, "integer division or modulo by zero");
    }
    if (b == -1) {
        return 0;
    }
    int64_t rest = a % b;
    return rest && (rest < 0) != (b < 0) ? rest + b : rest;
}

static double float_modulo(double a, double b)
{
    double rest = fmod(a, b);
    if (rest != 0.0) {
        return (rest < 0) != (b < 0) ? rest + b : rest;
    }
    return copysign(0.0, b);
}

/* As CPython's float_floor_div. */
static double float_floor_divide(double a, double b)
{
    double rest = fmod(a, b);
    double quotient = (a - rest) / b;
    if (rest != 0.0 && (rest < 0) != (b < 0)) {
        quotient -= 1.0;
    }
    if (quotient == 0.0) {
        return copysign(0.0, a / b);
    }
    double whole = floor(quotient);
    return quotient - whole > 0.5 ? whole + 1.0 : whole;
}

static jinja_value float_power(jinja_state *s, double a, double b)
{
    if (a == 0.0 && b < 0) {
        jinja_fail(s, OFR_ETEMPLATE, "0.0 cannot be raised to a negative power");
    }
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b)) {
        jinja_fail(s, OFR_ETEMPLATE, "complex numbers are not supported");
    }
    double result = pow(a, b);
    if (isinf(result) && isfinite(a) && isfinite(b)) {
        jinja_fail(s, OFR_ETEMPLATE, "numerical result out of range");
    }
    return jinja_float(result);
}

static jinja_value integer_power(jinja_state *s, int64_t base, int64_t exponent)
{
    if (exponent < 0) {
        return float_power(s, (double)base, (double)exponent);
    }
    int64_t result = 1;
    while (exponent) {
        if (exponent & 1 && __builtin_mul_overflow(result, base, &result)) {
            fail_overflow(s);
        }
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base)) {
            fail_overflow(s);
        }
    }
    return jinja_int(result);
}

static jinja_value integer_arithmetic(jinja_state *s, enum jinja_operator operation, int64_t a,
                                      int64_t b)
{
    int64_t result;
    switch (operation) {
    case JINJA_OP_ADD:
        if (__builtin_add_overflow(a, b, &result)) {
            fail_overflow(s);
        }
        return jinja_int(result);
    case JINJA_OP_SUB:
        if (__builtin_sub_overflow(a, b, &result)) {
            fail_overflow(s);
        }
        return jinja_int(result);
    case JINJA_OP_MUL:
        if (__builtin_mul_overflow(a, b, &result)) {
            fail_overflow(s);
        }
        return jinja_int(result);
    case JINJA_OP_FLOORDIV:
        return jinja_int(floor_divide(s, a, b));
    case JINJA_OP_MOD:
        return jinja_int(floor_modulo(s, a, b));
    case JINJA_OP_POW:
        return integer_power(s, a, b);
    default:
        if (b == 0) {
            jinja_fail(s, OFR_ETEMPLATE, "division by zero");
        }
        /* long double holds any 64-bit integer, so that only the result is rounded */
        return jinja_float((double)((long double)a / (long double)b));
    }
}

static jinja_value float_arithmetic(jinja_state *s, enum jinja_operator operation, double a,
                                    double b)
{
    if (b == 0.0 && (operation == JINJA_OP_DIV || operation == JINJA_OP_FLOORDIV ||
                     operation == JINJA_OP_MOD)) {
        jinja_fail(s, OFR_ETEMPLATE, "float division or modulo by zero");
    }
    switch (operation) {
    case JINJA_OP_ADD:
        return jinja_float(a + b);
    case JINJA_OP_SUB:
        return jinja_float(a - b);
    case JINJA_OP_MUL:
        return jinja_float(a * b);
    case JINJA_OP_DIV:
        return jinja_float(a / b);
    case JINJA_OP_FLOORDIV:
        return jinja_float(float_floor_divide(a, b));
    case JINJA_OP_MOD:
        return jinja_float(float_modulo(a, b));
    default:
        return float_power(s, a, b);
    }
}

jinja_value jinja_binary(jinja_state *s, enum jinja_operator operation, jinja_value left,
                         jinja_value right)
{
    if (jinja_is_integral(left) && jinja_is_integral(right)) {
        return integer_arithmetic(s, operation, jinja_integer(left), jinja_integer(right));
    }
    if (jinja_is_number(left) && jinja_is_number(right)) {
        return float_arithmetic(s, operation, jinja_real(left), jinja_real(right));
    }
    bool left_sequence = left.type == JINJA_STRING || jinja_is_array(left);
    bool right_sequence = right.type == JINJA_STRING || jinja_is_array(right);
    if (operation == JINJA_OP_ADD && left_sequence && left.type == right.type) {
        return left.type == JINJA_STRING ? jinja_concat(s, left.as.string, right.as.string)
                                         : join_arrays(s, left, right);
    }
    if (operation == JINJA_OP_MUL && left_sequence && jinja_is_integral(right)) {
        return repeat(s, left, jinja_integer(right));
    }
    if (operation == JINJA_OP_MUL && right_sequence && jinja_is_integral(left)) {
        return repeat(s, right, jinja_integer(left));
    }
    if (operation == JINJA_OP_MOD && left.type == JINJA_STRING) {
        return jinja_percent_format(s, left.as.string, right);
    }
    fail_types(s, operation, left, right);
}

jinja_value jinja_negate(jinja_state *s, jinja_value value, bool negative)
{
    if (value.type == JINJA_FLOAT) {
        return jinja_float(negative ? -value.as.real : value.as.real);
    }
    if (!jinja_is_integral(value)) {
        if (value.type == JINJA_UNDEFINED) {
            jinja_fail_undefined(s, value);
        }
        jinja_fail(s, OFR_ETEMPLATE, "bad operand type for unary %c: '%s'", negative ? '-' : '+',
                   jinja_type_name(value));
    }
    int64_t integer = jinja_integer(value);
    if (negative && integer == INT64_MIN) {
        fail_overflow(s);
    }
    return jinja_int(negative ? -integer : integer);
}
