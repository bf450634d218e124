/* Lexer: template text to tokens, with the whitespace rules of trim_blocks and lstrip_blocks.
 * Follows jinja2's lexer rule by rule, since templates depend on its corner cases. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

typedef struct lexer {
    jinja_state *state;
    const char *source;
    size_t size, at;
    jinja_token *tokens;
    size_t count, capacity;
    char *balance; /* open brackets of the tag, as their closing ones */
    size_t balance_count, balance_capacity;
    bool line_starting; /* the last match ended a line */
} lexer;

static _Noreturn void lex_fail(lexer *lex, size_t offset, const char *message)
{
    lex->state->offset = (uint32_t)offset;
    jinja_fail(lex->state, OFR_ETEMPLATE, "%s", message);
}

static jinja_token *add_token(lexer *lex, enum jinja_token_type type, size_t offset, size_t size)
{
    if (lex->count == lex->capacity) {
        size_t capacity = lex->capacity ? lex->capacity * 2 : 64;
        jinja_token *grown = jinja_alloc_array(lex->state, capacity, sizeof *grown);
        if (lex->count) {
            memcpy(grown, lex->tokens, lex->count * sizeof *grown);
        }
        lex->tokens = grown;
        lex->capacity = capacity;
    }
    jinja_token *token = &lex->tokens[lex->count++];
    *token = (jinja_token){.type = type, .offset = (uint32_t)offset};
    token->text = (jinja_string){.data = lex->source + offset, .size = size};
    token->text.length = jinja_utf8_length(token->text.data, size);
    return token;
}

static bool starts_with(const lexer *lex, size_t at, const char *text)
{
    size_t size = strlen(text);
    return size <= lex->size - at && memcmp(lex->source + at, text, size) == 0;
}

static size_t skip_space(const lexer *lex, size_t at)
{
    const char *p = lex->source + at, *end = lex->source + lex->size;
    while (p < end) {
        const char *next = p;
        if (!jinja_is_space(jinja_utf8_next(&next, end))) {
            break;
        }
        p = next;
    }
    return (size_t)(p - lex->source);
}

static size_t strip_end(const lexer *lex, size_t start, size_t end)
{
    while (end > start) {
        const char *previous = jinja_utf8_previous(lex->source + start, lex->source + end);
        const char *p = previous;
        if (!jinja_is_space(jinja_utf8_next(&p, lex->source + end))) {
            break;
        }
        end = (size_t)(previous - lex->source);
    }
    return end;
}

static void move_to(lexer *lex, size_t at)
{
    lex->line_starting = at > 0 && lex->source[at - 1] == '\n';
    lex->at = at;
}

/* Template text before a tag whose sign ('-', '+' or 0) and kind decide how much is stripped. */
static void add_text(lexer *lex, size_t start, size_t end, char sign, bool is_variable)
{
    if (sign == '-') {
        end = strip_end(lex, start, end);
    } else if (sign != '+' && !is_variable) {
        size_t line = end;
        while (line > start && lex->source[line - 1] != '\n') {
            line--;
        }
        if ((line > start || lex->line_starting) && strip_end(lex, line, end) == line) {
            end = line;
        }
    }
    if (end > start) {
        add_token(lex, JINJA_TOKEN_TEXT, start, end - start);
    }
}

static char sign_at(const lexer *lex, size_t at)
{
    return at < lex->size && (lex->source[at] == '-' || lex->source[at] == '+') ? lex->source[at]
                                                                                : 0;
}

/* The end of a block or comment whose end text starts at `at`, behind its sign; 0 if none. */
static size_t match_end(const lexer *lex, size_t at, const char *end_text)
{
    char sign = sign_at(lex, at);
    size_t behind = at + (sign ? 1 : 0);
    if (!starts_with(lex, behind, end_text)) {
        return 0;
    }
    behind += 2;
    if (sign == '-') {
        return skip_space(lex, behind);
    }
    if (sign == 0 && behind < lex->size && lex->source[behind] == '\n') {
        behind++; /* trim_blocks */
    }
    return behind;
}

static void lex_comment(lexer *lex, size_t start)
{
    for (size_t at = lex->at; at < lex->size; at++) {
        size_t behind = match_end(lex, at, "#}");
        if (behind) {
            move_to(lex, behind);
            return;
        }
    }
    lex_fail(lex, start, "missing end of comment tag '#}'");
}

/* "{%-  raw -%}": the offset behind it, or 0. */
static size_t match_raw_begin(const lexer *lex, size_t at)
{
    size_t p = at + 2;
    p = skip_space(lex, p + (sign_at(lex, p) ? 1 : 0));
    if (!starts_with(lex, p, "raw")) {
        return 0;
    }
    p = skip_space(lex, p + 3);
    if (starts_with(lex, p, "-%}")) {
        return skip_space(lex, p + 3);
    }
    return starts_with(lex, p, "%}") ? p + 2 : 0;
}

static void lex_raw(lexer *lex, size_t start)
{
    for (size_t at = lex->at; at + 1 < lex->size; at++) {
        if (!starts_with(lex, at, "{%")) {
            continue;
        }
        char sign = sign_at(lex, at + 2);
        size_t p = skip_space(lex, at + 2 + (sign ? 1 : 0));
        if (!starts_with(lex, p, "endraw")) {
            continue;
        }
        size_t behind = match_end(lex, skip_space(lex, p + 6), "%}");
        if (behind) {
            add_text(lex, lex->at, at, sign, false);
            move_to(lex, behind);
            return;
        }
    }
    lex_fail(lex, start, "missing end of raw block '{% endraw %}'");
}

/* --- constants --- */

static int hex_value(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static void hex_escape(lexer *lex, jinja_builder *builder, const char **position, const char *end,
                       int digits)
{
    uint32_t code_point = 0;
    for (int i = 0; i < digits; i++) {
        int value = *position < end ? hex_value(**position) : -1;
        if (value < 0) {
            lex_fail(lex, lex->at, "a string has a truncated \\x, \\u or \\U escape");
        }
        code_point = code_point << 4 | (uint32_t)value;
        (*position)++;
    }
    if (code_point > 0x10FFFF) {
        lex_fail(lex, lex->at, "a string has an escape beyond U+10FFFF");
    }
    jinja_builder_char(builder, code_point);
}

/* What follows a backslash; Python's "unicode-escape" on text whose other characters were escaped
 * first, so that a backslash before one of those gives its escape sequence. */
static void string_escape(lexer *lex, jinja_builder *builder, const char **position,
                          const char *end)
{
    static const char codes[] = "abfnrtv\\'\"";
    static const char values[] = "\a\b\f\n\r\t\v\\'\"";
    const char *start = *position;
    uint32_t c = jinja_utf8_next(position, end);
    const char *known = c && c < 0x80 ? strchr(codes, (int)c) : NULL;
    if (known) {
        jinja_builder_put(builder, &values[known - codes], 1);
    } else if (c == '\n') {
        return;
    } else if (c == 'x' || c == 'u' || c == 'U') {
        hex_escape(lex, builder, position, end, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c == 'N') {
        lex_fail(lex, lex->at, "\\N{...} escapes are not supported in strings");
    } else if (c >= '0' && c <= '7') {
        uint32_t octal = c - '0';
        for (int i = 0; i < 2 && *position < end && **position >= '0' && **position <= '7'; i++) {
            octal = octal << 3 | (uint32_t)(*(*position)++ - '0');
        }
        jinja_builder_char(builder, octal);
    } else if (c >= 0x80) {
        char text[16];
        snprintf(text, sizeof text,
                 c < 0x100     ? "\\x%02x"
                 : c < 0x10000 ? "\\u%04x"
                               : "\\U%08x",
                 (unsigned)c);
        jinja_builder_text(builder, text);
    } else {
        jinja_builder_text(builder, "\\");
        jinja_builder_put(builder, start, (size_t)(*position - start));
    }
}

static bool lex_string(lexer *lex)
{
    char quote = lex->source[lex->at];
    size_t end = lex->at + 1;
    while (end < lex->size && lex->source[end] != quote) {
        end += lex->source[end] == '\\' ? 2 : 1;
    }
    if (end >= lex->size) {
        return false;
    }
    jinja_builder builder = {.state = lex->state};
    const char *p = lex->source + lex->at + 1, *last = lex->source + end;
    while (p < last) {
        const char *run = p;
        while (p < last && *p != '\\') {
            p++;
        }
        jinja_builder_put(&builder, run, (size_t)(p - run));
        if (p < last) {
            p++;
            string_escape(lex, &builder, &p, last);
        }
    }
    jinja_value value = jinja_builder_finish(&builder);
    add_token(lex, JINJA_TOKEN_CONSTANT, lex->at, end + 1 - lex->at)->value = value;
    lex->at = end + 1;
    return true;
}

static bool is_digit(const lexer *lex, size_t at)
{
    return at < lex->size && lex->source[at] >= '0' && lex->source[at] <= '9';
}

/* (\d+_)*\d+ */
static size_t match_digits(const lexer *lex, size_t at)
{
    while (is_digit(lex, at) || (at < lex->size && lex->source[at] == '_' &&
                                 is_digit(lex, at - 1) && is_digit(lex, at + 1))) {
        at++;
    }
    return at;
}

static size_t match_float(const lexer *lex)
{
    size_t at = lex->at;
    if (at > 0 && lex->source[at - 1] == '.') {
        return 0;
    }
    size_t end = match_digits(lex, at);
    bool is_float = false;
    if (end < lex->size && lex->source[end] == '.' && is_digit(lex, end + 1)) {
        end = match_digits(lex, end + 1);
        is_float = true;
    }
    if (end < lex->size && (lex->source[end] | 0x20) == 'e') {
        size_t exponent = end + 1 + (sign_at(lex, end + 1) ? 1 : 0);
        if (is_digit(lex, exponent)) {
            end = match_digits(lex, exponent);
            is_float = true;
        }
    }
    return is_float ? end : 0;
}

static int digit_in_base(const lexer *lex, size_t at, int base)
{
    int value = at < lex->size ? hex_value(lex->source[at]) : -1;
    return value < base ? value : -1;
}

static size_t match_integer(const lexer *lex, int *ret_base)
{
    size_t at = lex->at;
    *ret_base = 10;
    if (lex->source[at] != '0') {
        return match_digits(lex, at);
    }
    char mark = at + 1 < lex->size ? (char)(lex->source[at + 1] | 0x20) : 0;
    int base = mark == 'b' ? 2 : mark == 'o' ? 8 : mark == 'x' ? 16 : 0;
    size_t end = at + 2;
    while (base &&
           (digit_in_base(lex, end, base) >= 0 || (end < lex->size && lex->source[end] == '_' &&
                                                   digit_in_base(lex, end + 1, base) >= 0))) {
        end++;
    }
    if (base && end > at + 2) {
        *ret_base = base;
        return end;
    }
    end = at + 1;
    while (end < lex->size &&
           (lex->source[end] == '0' ||
            (lex->source[end] == '_' && end + 1 < lex->size && lex->source[end + 1] == '0'))) {
        end++;
    }
    return end;
}

static void lex_number(lexer *lex)
{
    int base = 10;
    size_t end = match_float(lex);
    bool is_float = end != 0;
    if (!is_float) {
        end = match_integer(lex, &base);
    }
    size_t size = end - lex->at;
    char *text = jinja_alloc(lex->state, size + 1);
    size_t used = 0;
    for (size_t i = base == 10 ? 0 : 2; i < size; i++) {
        if (lex->source[lex->at + i] != '_') {
            text[used++] = lex->source[lex->at + i];
        }
    }
    text[used] = '\0';
    jinja_token *token = add_token(lex, JINJA_TOKEN_CONSTANT, lex->at, size);
    if (is_float) {
        token->value = jinja_float(strtod(text, NULL));
    } else {
        errno = 0;
        token->value = jinja_int(strtoll(text, NULL, base));
        if (errno) {
            lex_fail(lex, lex->at, "an integer does not fit 64 bits");
        }
    }
    lex->at = end;
}

/* --- tags --- */

static void push_bracket(lexer *lex, char closing)
{
    if (lex->balance_count == lex->balance_capacity) {
        size_t capacity = lex->balance_capacity ? lex->balance_capacity * 2 : 32;
        char *grown = jinja_alloc(lex->state, capacity);
        if (lex->balance_count) {
            memcpy(grown, lex->balance, lex->balance_count);
        }
        lex->balance = grown;
        lex->balance_capacity = capacity;
    }
    lex->balance[lex->balance_count++] = closing;
}

static void lex_operator(lexer *lex)
{
    static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                            "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        if (!starts_with(lex, lex->at, operators[i])) {
            continue;
        }
        char c = operators[i][0];
        if (c == '(' || c == '[' || c == '{') {
            push_bracket(lex, c == '(' ? ')' : c == '[' ? ']' : '}');
        } else if (c == ')' || c == ']' || c == '}') {
            if (lex->balance_count == 0 || lex->balance[--lex->balance_count] != c) {
                lex->state->offset = (uint32_t)lex->at;
                jinja_fail(lex->state, OFR_ETEMPLATE, "unexpected '%c'", c);
            }
        }
        size_t size = strlen(operators[i]);
        add_token(lex, JINJA_TOKEN_OPERATOR, lex->at, size);
        lex->at += size;
        return;
    }
    lex->state->offset = (uint32_t)lex->at;
    const char *p = lex->source + lex->at;
    jinja_utf8_next(&p, lex->source + lex->size);
    jinja_fail(lex->state, OFR_ETEMPLATE, "unexpected character '%.*s'",
               (int)(p - lex->source - (ptrdiff_t)lex->at), lex->source + lex->at);
}

static bool lex_name(lexer *lex)
{
    const char *p = lex->source + lex->at, *end = lex->source + lex->size;
    while (p < end) {
        const char *next = p;
        uint32_t c = jinja_utf8_next(&next, end);
        if (c != '_' && !jinja_is_alnum(c)) {
            break;
        }
        p = next;
    }
    size_t size = (size_t)(p - lex->source) - lex->at;
    if (size == 0) {
        return false;
    }
    add_token(lex, JINJA_TOKEN_NAME, lex->at, size);
    lex->at += size;
    return true;
}

/* Tokens up to the end of a block or variable tag. */
static void lex_tag(lexer *lex, bool is_variable)
{
    lex->balance_count = 0;
    while (lex->at < lex->size) {
        if (lex->balance_count == 0) {
            size_t behind = 0;
            if (!is_variable) {
                behind = match_end(lex, lex->at, "%}");
            } else if (starts_with(lex, lex->at, "-}}")) {
                behind = skip_space(lex, lex->at + 3);
            } else if (starts_with(lex, lex->at, "}}")) {
                behind = lex->at + 2;
            }
            if (behind) {
                add_token(lex, is_variable ? JINJA_TOKEN_VARIABLE_END : JINJA_TOKEN_BLOCK_END,
                          lex->at, 2);
                move_to(lex, behind);
                return;
            }
        }
        size_t behind_space = skip_space(lex, lex->at);
        if (behind_space > lex->at) {
            lex->at = behind_space;
            continue;
        }
        char c = lex->source[lex->at];
        if (c >= '0' && c <= '9') {
            lex_number(lex);
        } else if (!lex_name(lex) && !((c == '\'' || c == '"') && lex_string(lex))) {
            lex_operator(lex);
        }
    }
}

const jinja_token *jinja_lex(jinja_state *s, size_t *ret_count)
{
    lexer lex = {.state = s, .source = s->source, .size = s->source_size, .line_starting = true};
    while (lex.at < lex.size) {
        size_t start = lex.at, tag = start;
        while (tag + 1 < lex.size && !(lex.source[tag] == '{' &&
                                       (lex.source[tag + 1] == '%' || lex.source[tag + 1] == '{' ||
                                        lex.source[tag + 1] == '#'))) {
            tag++;
        }
        if (tag + 1 >= lex.size) {
            add_token(&lex, JINJA_TOKEN_TEXT, start, lex.size - start);
            break;
        }
        char kind = lex.source[tag + 1], sign = sign_at(&lex, tag + 2);
        add_text(&lex, start, tag, sign, kind == '{');
        size_t raw = kind == '%' ? match_raw_begin(&lex, tag) : 0;
        if (raw) {
            move_to(&lex, raw);
            lex_raw(&lex, tag);
            continue;
        }
        move_to(&lex, tag + 2 + (sign ? 1 : 0));
        if (kind == '#') {
            lex_comment(&lex, tag);
        } else {
            add_token(&lex, kind == '{' ? JINJA_TOKEN_VARIABLE_BEGIN : JINJA_TOKEN_BLOCK_BEGIN, tag,
                      2);
            lex_tag(&lex, kind == '{');
        }
    }
    add_token(&lex, JINJA_TOKEN_END, lex.size, 0);
    *ret_count = lex.count;
    return lex.tokens;
}
