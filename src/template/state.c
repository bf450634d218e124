/* The interpreter's state: errors with positions, bounded memory and work, the output buffer and
 * text builders. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

void jinja_position(const char *source, size_t offset, size_t *ret_line, size_t *ret_column)
{
    size_t line = 1, start = 0;
    for (size_t i = 0; i < offset; i++) {
        if (source[i] == '\n') {
            line++;
            start = i + 1;
        }
    }
    *ret_line = line;
    *ret_column = jinja_utf8_length(source + start, offset - start) + 1;
}

void jinja_fail(jinja_state *s, int code, const char *format, ...)
{
    char message[OFR_ERROR_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    for (char *c = message; *c; c++) {
        if (*c == '\n' || *c == '\r') {
            *c = ' '; /* an error is one line */
        }
    }
    size_t line, column;
    size_t offset = s->offset < s->source_size ? s->offset : s->source_size;
    jinja_position(s->source, offset, &line, &column);
    ofr_fail(s->err, code, "%s:%zu:%zu: %s", s->name, line, column, message);
    longjmp(s->failure, code);
}

void jinja_fail_undefined(jinja_state *s, jinja_value undefined)
{
    const jinja_undefined *why = undefined.as.undefined;
    if (why->hint) {
        jinja_fail(s, OFR_ETEMPLATE, "%s", why->hint);
    }
    if (!why->owner) {
        jinja_fail(s, OFR_ETEMPLATE, "'%.*s' is undefined", JINJA_TEXT(why->name));
    }
    jinja_fail(s, OFR_ETEMPLATE, "'%s object' has no attribute or element '%.*s'", why->owner,
               JINJA_TEXT(why->name));
}

void *jinja_alloc(jinja_state *s, size_t size)
{
    bool limit;
    void *memory = jinja_arena_alloc(s->arena, size, &limit);
    if (!memory) {
        if (limit) {
            jinja_fail(s, OFR_ELIMIT, "the template needs more than %zu MiB of memory",
                       s->arena->limit >> 20);
        }
        jinja_fail(s, OFR_ENOMEM, "out of memory");
    }
    return memory;
}

void *jinja_alloc_array(jinja_state *s, size_t count, size_t size)
{
    if (count > SIZE_MAX / 2 / size) {
        jinja_fail(s, OFR_ELIMIT, "a sequence of %zu items is too long", count);
    }
    return jinja_alloc(s, count * size);
}

void jinja_charge(jinja_state *s, size_t work)
{
    s->steps += work;
    if (s->steps > JINJA_MAX_STEPS) {
        jinja_fail(s, OFR_ELIMIT, "the template takes more than %d steps", JINJA_MAX_STEPS);
    }
}

void jinja_enter(jinja_state *s)
{
    if (++s->depth > JINJA_MAX_DEPTH) {
        jinja_fail(s, OFR_ELIMIT, "nested more than %d levels deep", JINJA_MAX_DEPTH);
    }
}

void jinja_leave(jinja_state *s)
{
    s->depth--;
}

void jinja_output(jinja_state *s, const char *data, size_t size)
{
    if (size > JINJA_MAX_OUTPUT - s->output_size) {
        jinja_fail(s, OFR_ELIMIT, "the output is larger than %d MiB", JINJA_MAX_OUTPUT >> 20);
    }
    if (size >= s->output_capacity - s->output_size) { /* keeps room for a final NUL */
        size_t capacity = (s->output_size + size) * 2 + 256;
        char *grown = realloc(s->output, capacity);
        if (!grown) {
            jinja_fail(s, OFR_ENOMEM, "out of memory");
        }
        s->output = grown;
        s->output_capacity = capacity;
    }
    if (size) {
        memcpy(s->output + s->output_size, data, size);
    }
    s->output_size += size;
}

void jinja_builder_put(jinja_builder *builder, const char *data, size_t size)
{
    if (size > builder->capacity - builder->size) {
        jinja_state *s = builder->state;
        if (size > SIZE_MAX / 4 || builder->size > SIZE_MAX / 4) {
            jinja_fail(s, OFR_ELIMIT, "a text of %zu bytes is too long", size);
        }
        size_t wanted = builder->size + size;
        size_t capacity = builder->capacity * 2 > wanted ? builder->capacity * 2 : wanted;
        capacity = capacity < 32 ? 32 : capacity;
        if (builder->data && jinja_arena_extend(s->arena, builder->data + builder->capacity,
                                                capacity - builder->capacity)) {
            builder->capacity = capacity;
        } else {
            char *grown = jinja_alloc(s, capacity);
            if (builder->size) {
                memcpy(grown, builder->data, builder->size);
            }
            builder->data = grown;
            builder->capacity = capacity;
        }
    }
    if (size) {
        memcpy(builder->data + builder->size, data, size);
    }
    builder->size += size;
}

void jinja_builder_text(jinja_builder *builder, const char *text)
{
    jinja_builder_put(builder, text, strlen(text));
}

void jinja_builder_char(jinja_builder *builder, uint32_t code_point)
{
    char bytes[4];
    jinja_builder_put(builder, bytes, jinja_utf8_put(code_point, bytes));
}

void jinja_builder_pad(jinja_builder *builder, uint32_t code_point, int64_t count)
{
    if (count > JINJA_MAX_OUTPUT) {
        jinja_fail(builder->state, OFR_ELIMIT, "padding of %" PRId64 " characters is too long",
                   count);
    }
    for (int64_t i = 0; i < count; i++) {
        jinja_builder_char(builder, code_point);
    }
}

jinja_value jinja_builder_finish(jinja_builder *builder)
{
    jinja_charge(builder->state, builder->size / 64);
    return jinja_part(builder->state, builder->data, builder->size);
}
