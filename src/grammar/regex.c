/* Regular expressions of ECMA 262, as JSON Schema's `pattern` uses them: Thompson's construction,
 * then subsets. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "grammar/dfa.h"

enum { REGEX_NODES_MAX = 20000, REGEX_NESTING_MAX = 60, REGEX_SIZE_MAX = 1 << 14 };

enum regex_kind { FORK, CHARACTERS, BEGIN, END, MATCH };

typedef struct regex_node {
    enum regex_kind kind;
    uint32_t next, other;  /* other: FORK; UINT32_MAX: none */
    uint32_t first, count; /* CHARACTERS: ranges */
} regex_node;

typedef struct regex {
    const char *text;
    size_t size, at;
    int nesting;
    regex_node *nodes;
    ofr_range *ranges;
    uint32_t n_nodes, nodes_room, n_ranges, ranges_room;
    ofr_error *err;
} regex;

#define NONE UINT32_MAX

/* A piece whose last node is a FORK that leads nowhere yet. */
typedef struct piece {
    uint32_t start, end;
} piece;

static int refuse(regex *x, int code, const char *what)
{
    return ofr_fail(x->err, code, "pattern '%.*s', offset %zu: %s",
                    x->size > 200 ? 200 : (int)x->size, x->text, x->at, what);
}

static int add_node(regex *x, regex_node node, uint32_t *ret)
{
    if (x->n_nodes == x->nodes_room) {
        if (x->n_nodes >= REGEX_NODES_MAX)
            return refuse(x, OFR_ELIMIT, "the pattern is too large, with its repetitions");
        uint32_t room = x->nodes_room ? x->nodes_room * 2 : 64;
        regex_node *grown = realloc(x->nodes, room * sizeof *grown);
        if (!grown)
            return ofr_fail(x->err, OFR_ENOMEM, "no memory for a pattern");
        x->nodes = grown;
        x->nodes_room = room;
    }
    x->nodes[x->n_nodes] = node;
    *ret = x->n_nodes++;
    return 0;
}

static int add_range(regex *x, uint32_t low, uint32_t high)
{
    if (x->n_ranges + 2 > x->ranges_room) {
        if (x->n_ranges > 1 << 20)
            return refuse(x, OFR_ELIMIT, "the pattern is too large, with its repetitions");
        uint32_t room = x->ranges_room ? x->ranges_room * 2 : 64;
        ofr_range *grown = realloc(x->ranges, room * sizeof *grown);
        if (!grown)
            return ofr_fail(x->err, OFR_ENOMEM, "no memory for a pattern");
        x->ranges = grown;
        x->ranges_room = room;
    }
    x->ranges[x->n_ranges++] = (ofr_range){low, high};
    return 0;
}

static bool at_end(const regex *x)
{
    return x->at >= x->size;
}

static char peek(const regex *x)
{
    return at_end(x) ? '\0' : x->text[x->at];
}

/* Everything but ranges [first, n_ranges). */
static int invert_ranges(regex *x, uint32_t first)
{
    int r = add_range(x, 1, 0);
    if (r < 0)
        return r;
    size_t count = ofr_ranges_normalize(x->ranges + first, x->n_ranges - 1 - first);
    ofr_range *copy = malloc((count + 1) * sizeof *copy);
    if (!copy)
        return ofr_fail(x->err, OFR_ENOMEM, "no memory for a pattern");
    memcpy(copy, x->ranges + first, count * sizeof *copy);
    x->n_ranges = first;
    uint32_t low = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        if (copy[i].low > low)
            r = add_range(x, low, copy[i].low - 1);
        low = copy[i].high + 1;
    }
    if (r == 0 && low <= OFR_CODEPOINT_MAX)
        r = add_range(x, low, OFR_CODEPOINT_MAX);
    free(copy);
    return r;
}

static int add_ranges(regex *x, const ofr_range *ranges, size_t count, bool inverted)
{
    uint32_t first = x->n_ranges;
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add_range(x, ranges[i].low, ranges[i].high);
    return r == 0 && inverted ? invert_ranges(x, first) : r;
}

/* \p{L}, \p{Letter}, \p{Lu}, \p{General_Category=Lu}: general categories. */
static int add_property(regex *x, bool inverted)
{
    static const struct {
        const char *name, *code;
    } names[] = {{"Letter", "L"},
                 {"Uppercase_Letter", "Lu"},
                 {"Lowercase_Letter", "Ll"},
                 {"Titlecase_Letter", "Lt"},
                 {"Modifier_Letter", "Lm"},
                 {"Other_Letter", "Lo"},
                 {"Mark", "M"},
                 {"Number", "N"},
                 {"Decimal_Number", "Nd"},
                 {"digit", "Nd"},
                 {"Punctuation", "P"},
                 {"punct", "P"},
                 {"Symbol", "S"},
                 {"Separator", "Z"},
                 {"Space_Separator", "Zs"}};
    if (peek(x) != '{')
        return refuse(x, OFR_EFORMAT, "expected { after \\p");
    const char *begin = x->text + x->at + 1;
    const char *end = memchr(begin, '}', x->size - x->at - 1);
    if (!end)
        return refuse(x, OFR_EFORMAT, "expected } after \\p{");
    const char *equals = memchr(begin, '=', (size_t)(end - begin));
    if (equals && (strncmp(begin, "gc=", 3) == 0 || strncmp(begin, "General_Category=", 17) == 0))
        begin = equals + 1;
    char code[24] = "";
    snprintf(code, sizeof code, "%.*s", (int)(end - begin), begin);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(code, names[i].name) == 0)
            snprintf(code, sizeof code, "%s", names[i].code);
    uint32_t first = x->n_ranges, low = 0;
    bool inside = false, known = false;
    int r = 0;
    for (uint32_t c = 0; r == 0 && c <= OFR_CODEPOINT_MAX + 1; c++) {
        const char *category =
            c > OFR_CODEPOINT_MAX ? "--" : utf8proc_category_string((utf8proc_int32_t)c);
        bool in = code[0] == category[0] && (!code[1] || (code[1] == category[1] && !code[2]));
        if (in && !inside)
            low = c;
        if (!in && inside)
            r = add_range(x, low, c - 1);
        inside = in;
        known = known || in;
    }
    if (!known)
        return refuse(x, OFR_EUNSUPPORTED, "only general categories are supported in \\p{...}");
    x->at = (size_t)(end - x->text) + 1;
    return r == 0 && inverted ? invert_ranges(x, first) : r;
}

static int parse_hex(regex *x, size_t digits, uint32_t *ret)
{
    uint32_t value = 0;
    for (size_t i = 0; i < digits; i++, x->at++) {
        char c = peek(x);
        bool letter = (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        if (!letter && !(c >= '0' && c <= '9'))
            return refuse(x, OFR_EFORMAT, "expected hexadecimal digits");
        value = value << 4 | (uint32_t)(letter ? (c | 32) - 'a' + 10 : c - '0');
    }
    *ret = value;
    return 0;
}

static int parse_unicode_escape(regex *x, uint32_t *ret)
{
    int r = 0;
    if (peek(x) == '{') {
        size_t n = 0;
        x->at++;
        while (x->at + n < x->size && x->text[x->at + n] != '}')
            n++;
        r = n == 0 || n > 6 ? refuse(x, OFR_EFORMAT, "expected \\u{H...}") : parse_hex(x, n, ret);
        x->at++;
    } else {
        r = parse_hex(x, 4, ret);
        if (r == 0 && *ret >= 0xD800 && *ret < 0xDC00 && x->size - x->at >= 6 &&
            x->text[x->at] == '\\' && x->text[x->at + 1] == 'u') {
            uint32_t low = 0;
            x->at += 2;
            r = parse_hex(x, 4, &low);
            *ret = 0x10000 + ((*ret - 0xD800) << 10) + (low - 0xDC00);
        }
    }
    if (r == 0 && (*ret > OFR_CODEPOINT_MAX || (*ret >= 0xD800 && *ret <= 0xDFFF)))
        r = refuse(x, OFR_EFORMAT, "the escape is no character");
    return r;
}

/* After a backslash: a set of characters (*ret_single NONE, ranges appended) or one. */
static int parse_escape(regex *x, uint32_t *ret_single)
{
    static const ofr_range digit[] = {{'0', '9'}};
    static const ofr_range word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const ofr_range space[] = {
        {'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
        {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
    static const char controls[] = "t\tn\nr\rf\fv\v";
    if (at_end(x))
        return refuse(x, OFR_EFORMAT, "a backslash at the end");
    char c = x->text[x->at++];
    *ret_single = NONE;
    if (c == 'd' || c == 'D')
        return add_ranges(x, digit, 1, c == 'D');
    if (c == 'w' || c == 'W')
        return add_ranges(x, word, 4, c == 'W');
    if (c == 's' || c == 'S')
        return add_ranges(x, space, 10, c == 'S');
    if (c == 'p' || c == 'P')
        return add_property(x, c == 'P');
    if (c == 'u')
        return parse_unicode_escape(x, ret_single);
    if (c == 'x')
        return parse_hex(x, 2, ret_single);
    if (c == 'c' && ((peek(x) | 32) >= 'a' && (peek(x) | 32) <= 'z')) {
        *ret_single = (uint32_t)x->text[x->at++] & 31;
        return 0;
    }
    for (size_t i = 0; i < sizeof controls - 1; i += 2)
        if (controls[i] == c) {
            *ret_single = (unsigned char)controls[i + 1];
            return 0;
        }
    if (c == '0' && !(peek(x) >= '0' && peek(x) <= '9')) {
        *ret_single = 0;
        return 0;
    }
    x->at--;
    if (c == 'b' || c == 'B')
        return refuse(x, OFR_EUNSUPPORTED, "\\b and \\B are not supported");
    if ((c >= '1' && c <= '9') || c == 'k')
        return refuse(x, OFR_EUNSUPPORTED, "back-references are not supported");
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '0')
        return refuse(x, OFR_EFORMAT, "unknown escape");
    size_t length = 1;
    ofr_utf8_next(x->text + x->at, x->size - x->at, ret_single, &length);
    x->at += length;
    return 0;
}

static int parse_class_member(regex *x, uint32_t *ret_single)
{
    if (peek(x) == '\\') {
        x->at++;
        if (peek(x) == 'b') {
            x->at++;
            *ret_single = '\b';
            return 0;
        }
        if (peek(x) == '-') {
            x->at++;
            *ret_single = '-';
            return 0;
        }
        return parse_escape(x, ret_single);
    }
    size_t length = 1;
    ofr_utf8_next(x->text + x->at, x->size - x->at, ret_single, &length);
    x->at += length;
    return 0;
}

static int parse_class(regex *x)
{
    uint32_t first = x->n_ranges;
    bool inverted = peek(x) == '^';
    x->at += inverted;
    int r = 0;
    while (r == 0 && peek(x) != ']') {
        uint32_t low = NONE, high = NONE;
        if (at_end(x))
            return refuse(x, OFR_EFORMAT, "the class is not closed");
        r = parse_class_member(x, &low);
        if (r < 0 || low == NONE)
            continue;
        high = low;
        if (peek(x) == '-' && x->at + 1 < x->size && x->text[x->at + 1] != ']') {
            x->at++;
            r = parse_class_member(x, &high);
            if (r == 0 && (high == NONE || high < low))
                r = refuse(x, OFR_EFORMAT, "the range ends before it begins");
        }
        if (r == 0)
            r = add_range(x, low, high);
    }
    x->at++;
    return r == 0 && inverted ? invert_ranges(x, first) : r;
}

static int characters(regex *x, uint32_t first, piece *ret)
{
    int r = add_node(x, (regex_node){FORK, NONE, NONE, 0, 0}, &ret->end);
    return r < 0 ? r
                 : add_node(x, (regex_node){CHARACTERS, ret->end, NONE, first, x->n_ranges - first},
                            &ret->start);
}

static int empty_piece(regex *x, piece *ret)
{
    int r = add_node(x, (regex_node){FORK, NONE, NONE, 0, 0}, &ret->start);
    ret->end = ret->start;
    return r;
}

static int parse_choice(regex *x, piece *ret);

static int parse_group(regex *x, piece *ret)
{
    if (++x->nesting > REGEX_NESTING_MAX)
        return refuse(x, OFR_ELIMIT, "too many groups inside each other");
    if (peek(x) == '?') {
        if (x->size - x->at >= 2 && x->text[x->at + 1] == ':') {
            x->at += 2;
        } else if (x->size - x->at >= 3 && x->text[x->at + 1] == '<' && x->text[x->at + 2] != '=' &&
                   x->text[x->at + 2] != '!') {
            while (!at_end(x) && peek(x) != '>') /* the name of a group */
                x->at++;
            x->at++;
        } else {
            return refuse(x, OFR_EUNSUPPORTED, "look-ahead and look-behind are not supported");
        }
    }
    int r = parse_choice(x, ret);
    x->nesting--;
    if (r == 0 && peek(x) != ')')
        r = refuse(x, OFR_EFORMAT, "the group is not closed");
    x->at++;
    return r;
}

static int parse_atom(regex *x, piece *ret)
{
    static const ofr_range lines[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
    uint32_t first = x->n_ranges, single = NONE;
    char c = x->text[x->at];
    int r;
    if (c == '^' || c == '$') {
        x->at++;
        r = add_node(x, (regex_node){FORK, NONE, NONE, 0, 0}, &ret->end);
        return r < 0 ? r
                     : add_node(x, (regex_node){c == '^' ? BEGIN : END, ret->end, NONE, 0, 0},
                                &ret->start);
    }
    if (c == '*' || c == '+' || c == '?' || c == '{' || c == '}' || c == ']')
        return refuse(x, OFR_EFORMAT, "nothing to repeat, or a lone bracket");
    size_t length = 1;
    if (c == '(') {
        x->at++;
        return parse_group(x, ret);
    }
    if (c == '[') {
        x->at++;
        r = parse_class(x);
    } else if (c == '.') {
        x->at++;
        r = add_ranges(x, lines, 3, true);
    } else if (c == '\\') {
        x->at++;
        r = parse_escape(x, &single);
    } else {
        r = ofr_utf8_next(x->text + x->at, x->size - x->at, &single, &length) ==
                    OFR_UTF8_STATE_CHARACTER
                ? 0
                : refuse(x, OFR_EUTF8, "not valid UTF-8");
        x->at += length;
    }
    if (r == 0 && single != NONE)
        r = add_range(x, single, single);
    return r < 0 ? r : characters(x, first, ret);
}

static int parse_count(regex *x, uint32_t *ret)
{
    uint32_t value = 0, digits = 0;
    for (; peek(x) >= '0' && peek(x) <= '9'; x->at++, digits++)
        value = value > REGEX_NODES_MAX ? value : value * 10 + (uint32_t)(peek(x) - '0');
    if (digits == 0)
        return refuse(x, OFR_EFORMAT, "expected a number of repetitions");
    *ret = value;
    return 0;
}

/* *, +, ?, {m}, {m,}, {m,n}, each perhaps followed by ?; *ret_any is false if there is none. */
static int parse_quantifier(regex *x, uint32_t *ret_min, uint32_t *ret_max, bool *ret_any)
{
    char c = peek(x);
    int r = 0;
    *ret_any = c == '*' || c == '+' || c == '?' || c == '{';
    if (!*ret_any)
        return 0;
    x->at++;
    *ret_min = c == '+';
    *ret_max = c == '?' ? 1 : NONE;
    if (c == '{') {
        r = parse_count(x, ret_min);
        *ret_max = *ret_min;
        if (r == 0 && peek(x) == ',') {
            x->at++;
            *ret_max = NONE;
            if (peek(x) != '}')
                r = parse_count(x, ret_max);
        }
        if (r == 0 && (peek(x) != '}' || *ret_max < *ret_min))
            r = refuse(x, OFR_EFORMAT, "expected {m}, {m,} or {m,n}");
        x->at++;
    }
    if (r == 0 && peek(x) == '?')
        x->at++; /* lazy: the same set of strings */
    return r;
}

static void join(regex *x, piece *to, piece more)
{
    x->nodes[to->end].next = more.start;
    to->end = more.end;
}

/* min copies, then a loop or max - min optional ones. The atom's text is read again for each. */
static int repeat(regex *x, size_t from, uint32_t min, uint32_t max, piece *ret)
{
    size_t after = x->at;
    int r = empty_piece(x, ret);
    uint32_t copies = max == NONE ? min + 1 : max;
    uint32_t last_forks = NONE; /* forks whose `other` must lead to the end: a list */
    for (uint32_t i = 0; r == 0 && i < copies; i++) {
        piece one;
        x->at = from;
        r = parse_atom(x, &one);
        if (r < 0)
            break;
        if (i >= min) {
            uint32_t fork;
            r = add_node(x, (regex_node){FORK, one.start, last_forks, 0, 0}, &fork);
            if (r < 0)
                break;
            if (max == NONE) {
                uint32_t out;
                r = add_node(x, (regex_node){FORK, NONE, NONE, 0, 0}, &out);
                if (r < 0)
                    break;
                x->nodes[fork].other = out;
                x->nodes[one.end].next = fork;
                join(x, ret, (piece){fork, out});
                continue;
            }
            last_forks = fork;
            one.start = fork;
        }
        join(x, ret, one);
    }
    while (r == 0 && last_forks != NONE) {
        uint32_t before = x->nodes[last_forks].other;
        x->nodes[last_forks].other = ret->end;
        last_forks = before;
    }
    x->at = after;
    return r;
}

static int parse_sequence(regex *x, piece *ret)
{
    int r = empty_piece(x, ret);
    while (r == 0 && !at_end(x) && peek(x) != '|' && peek(x) != ')') {
        size_t from = x->at;
        uint32_t min = 1, max = 1, nodes = x->n_nodes, ranges = x->n_ranges;
        bool any = false;
        piece one;
        r = parse_atom(x, &one);
        if (r == 0)
            r = parse_quantifier(x, &min, &max, &any);
        if (r == 0 && any) {
            x->n_nodes = nodes; /* the copies replace it */
            x->n_ranges = ranges;
            r = repeat(x, from, min, max, &one);
        }
        if (r == 0)
            join(x, ret, one);
    }
    return r;
}

static int parse_choice(regex *x, piece *ret)
{
    int r = parse_sequence(x, ret);
    while (r == 0 && peek(x) == '|') {
        piece other;
        uint32_t fork, end;
        x->at++;
        r = parse_sequence(x, &other);
        if (r == 0)
            r = add_node(x, (regex_node){FORK, ret->start, other.start, 0, 0}, &fork);
        if (r == 0)
            r = add_node(x, (regex_node){FORK, NONE, NONE, 0, 0}, &end);
        if (r < 0)
            return r;
        x->nodes[ret->end].next = end;
        x->nodes[other.end].next = end;
        *ret = (piece){fork, end};
    }
    return r;
}

/* Sets of CHARACTERS and MATCH nodes: the states of the automaton. */
typedef struct subsets {
    const regex *x;
    uint32_t **sets; /* [states] nodes, ascending; owned */
    uint32_t *sizes;
    uint32_t *table;        /* 1 + state */
    uint32_t *stack, *mark; /* [n_nodes] */
    uint32_t round;
    uint32_t *scratch; /* [n_nodes] */
    uint32_t match;    /* the MATCH node */
} subsets;
enum { SUBSETS_TABLE = OFR_DFA_STATES_MAX * 4 };

/* Closes `nodes` [count] over what needs no character; the result is in scratch. `matches`: MATCH
 * can be reached, at the end of the string. */
static uint32_t close_set(subsets *s, const uint32_t *nodes, uint32_t count, bool at_begin,
                          bool text_end, bool *ret_matches)
{
    uint32_t size = 0, used = 0;
    s->round++;
    *ret_matches = false;
    for (uint32_t i = 0; i < count; i++)
        if (s->mark[nodes[i]] != s->round) {
            s->mark[nodes[i]] = s->round;
            s->stack[size++] = nodes[i];
        }
    while (size) {
        uint32_t n = s->stack[--size];
        const regex_node *node = &s->x->nodes[n];
        if (node->kind == CHARACTERS || node->kind == MATCH || node->kind == END)
            s->scratch[used++] = n;
        *ret_matches = *ret_matches || node->kind == MATCH;
        bool on = node->kind == FORK || (node->kind == BEGIN && at_begin) ||
                  (node->kind == END && text_end);
        uint32_t follow[2] = {on ? node->next : NONE, node->kind == FORK ? node->other : NONE};
        for (int i = 0; i < 2; i++)
            if (follow[i] != NONE && s->mark[follow[i]] != s->round) {
                s->mark[follow[i]] = s->round;
                s->stack[size++] = follow[i];
            }
    }
    return used;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t find_subset(subsets *s, ofr_dfa_builder *b, const uint32_t *nodes, uint32_t count,
                            bool at_begin)
{
    bool accepts, matched;
    close_set(s, nodes, count, at_begin, true, &accepts);
    uint32_t size = close_set(s, nodes, count, at_begin, false, &matched);
    if (matched) { /* whatever follows: the match is enough */
        s->scratch[0] = s->match;
        size = 1;
    }
    qsort(s->scratch, size, sizeof *s->scratch, compare_numbers);
    uint32_t hash = size * 2 + accepts;
    for (uint32_t i = 0; i < size; i++)
        hash = (hash ^ s->scratch[i]) * 0x9E3779B1u;
    size_t at = (hash >> 8) % SUBSETS_TABLE;
    for (; s->table[at]; at = (at + 1) % SUBSETS_TABLE) {
        uint32_t state = s->table[at] - 1;
        if (s->sizes[state] == size && b->dfa.accepts[state] == accepts &&
            memcmp(s->sets[state], s->scratch, size * sizeof *nodes) == 0)
            return state;
    }
    uint32_t state = ofr_dfa_add_state(b, accepts);
    if (b->failure)
        return 0;
    s->sets[state] = malloc(size * sizeof *nodes + 1);
    if (!s->sets[state]) {
        b->failure = OFR_ENOMEM;
        return 0;
    }
    memcpy(s->sets[state], s->scratch, size * sizeof *nodes);
    s->sizes[state] = size;
    s->table[at] = state + 1;
    return state;
}

/* The edges of one state: between any two borders of ranges, all characters lead alike. */
static void add_edges(subsets *s, ofr_dfa_builder *b, uint32_t state, uint32_t *borders,
                      uint32_t *targets)
{
    const regex *x = s->x;
    const uint32_t *set = s->sets[state];
    uint32_t n = 0;
    if (s->sizes[state] == 1 && set[0] == s->match) {
        ofr_dfa_add_edge(b, state, 0, OFR_CODEPOINT_MAX, state);
        return;
    }
    for (uint32_t i = 0; i < s->sizes[state]; i++) {
        const regex_node *node = &x->nodes[set[i]];
        for (uint32_t k = 0; node->kind == CHARACTERS && k < node->count; k++) {
            borders[n++] = x->ranges[node->first + k].low;
            borders[n++] = x->ranges[node->first + k].high + 1;
        }
    }
    qsort(borders, n, sizeof *borders, compare_numbers);
    for (uint32_t i = 0; !b->failure && i + 1 < n; i++) {
        uint32_t low = borders[i], high = borders[i + 1], count = 0;
        if (low == high)
            continue;
        for (uint32_t j = 0; j < s->sizes[state]; j++) {
            const regex_node *node = &x->nodes[set[j]];
            for (uint32_t k = 0; node->kind == CHARACTERS && k < node->count; k++)
                if (x->ranges[node->first + k].low <= low &&
                    x->ranges[node->first + k].high >= low) {
                    targets[count++] = node->next;
                    break;
                }
        }
        if (count)
            ofr_dfa_add_edge(b, state, low, high - 1, find_subset(s, b, targets, count, false));
    }
}

static int make_dfa(regex *x, uint32_t start, uint32_t match, ofr_dfa **ret_dfa)
{
    ofr_dfa_builder b = {0};
    subsets s = {
        .x = x,
        .match = match,
        .sets = calloc(OFR_DFA_STATES_MAX, sizeof *s.sets),
        .sizes = calloc(OFR_DFA_STATES_MAX, sizeof *s.sizes),
        .table = calloc(SUBSETS_TABLE, sizeof *s.table),
        .stack = calloc(x->n_nodes, sizeof *s.stack),
        .mark = calloc(x->n_nodes, sizeof *s.mark),
        .scratch = calloc(x->n_nodes, sizeof *s.scratch),
    };
    uint32_t *borders = calloc(2 * (size_t)x->n_ranges + 2, sizeof *borders);
    uint32_t *targets = calloc(x->n_nodes, sizeof *targets);
    if (!s.sets || !s.sizes || !s.table || !s.stack || !s.mark || !s.scratch || !borders ||
        !targets)
        b.failure = OFR_ENOMEM;
    else
        find_subset(&s, &b, &start, 1, true);
    uint64_t work = 0; /* a pattern must not take long to compile either */
    for (uint32_t state = 0; !b.failure && state < b.dfa.n_states; state++) {
        work += (uint64_t)s.sizes[state] * s.sizes[state];
        if (work > 200000000)
            b.failure = OFR_ELIMIT;
        else
            add_edges(&s, &b, state, borders, targets);
    }
    for (uint32_t i = 0; s.sets && i < OFR_DFA_STATES_MAX; i++)
        free(s.sets[i]);
    free(s.sets);
    free(s.sizes);
    free(s.table);
    free(s.stack);
    free(s.mark);
    free(s.scratch);
    free(borders);
    free(targets);
    return ofr_dfa_finish(&b, ret_dfa, x->err);
}

int ofr_dfa_from_regex(const char *pattern, size_t size, ofr_dfa **ret_dfa, ofr_error *err)
{
    regex x = {.text = pattern, .size = size, .err = err};
    if (size > REGEX_SIZE_MAX)
        return ofr_fail(err, OFR_ELIMIT, "a pattern of %zu bytes: at most %d are supported", size,
                        REGEX_SIZE_MAX);
    /* Anything may come before: a loop that leads into the pattern. */
    piece body;
    uint32_t any = 0, start = 0, match = 0;
    int r = add_range(&x, 0, OFR_CODEPOINT_MAX);
    if (r == 0)
        r = add_node(&x, (regex_node){FORK, NONE, NONE, 0, 0}, &start);
    if (r == 0)
        r = add_node(&x, (regex_node){CHARACTERS, start, NONE, 0, 1}, &any);
    if (r == 0)
        r = parse_choice(&x, &body);
    if (r == 0 && !at_end(&x))
        r = refuse(&x, OFR_EFORMAT, "a parenthesis that was not opened");
    if (r == 0)
        r = add_node(&x, (regex_node){MATCH, NONE, NONE, 0, 0}, &match);
    if (r == 0) {
        x.nodes[start].next = body.start;
        x.nodes[start].other = any;
        x.nodes[body.end].next = match;
        r = make_dfa(&x, start, match, ret_dfa);
    }
    free(x.nodes);
    free(x.ranges);
    return r;
}
