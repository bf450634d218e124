/* Automata over characters: construction and algebra. */
#include "grammar/dfa.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

ofr_dfa *ofr_dfa_free(ofr_dfa *dfa)
{
    if (dfa) {
        free(dfa->accepts);
        free(dfa->first);
        free(dfa->edges);
        free(dfa);
    }
    return NULL;
}

uint32_t ofr_dfa_add_state(ofr_dfa_builder *builder, bool accepts)
{
    ofr_dfa *d = &builder->dfa;
    if (builder->failure)
        return 0;
    if (d->n_states == OFR_DFA_STATES_MAX) {
        builder->failure = OFR_ELIMIT;
        return 0;
    }
    if (d->n_states == builder->states_room) {
        uint32_t room = builder->states_room ? builder->states_room * 2 : 32;
        bool *grown = realloc(d->accepts, room * sizeof *grown);
        uint32_t *first = grown ? realloc(d->first, (room + 1) * sizeof *first) : NULL;
        d->accepts = grown ? grown : d->accepts;
        d->first = first ? first : d->first;
        if (!grown || !first) {
            builder->failure = OFR_ENOMEM;
            return 0;
        }
        builder->states_room = room;
    }
    d->accepts[d->n_states] = accepts;
    d->first[d->n_states] = UINT32_MAX; /* no edges yet */
    return d->n_states++;
}

static void append_edge(ofr_dfa_builder *builder, ofr_dfa_edge edge)
{
    ofr_dfa *d = &builder->dfa;
    if (builder->failure)
        return;
    if (d->n_edges == OFR_DFA_EDGES_MAX) {
        builder->failure = OFR_ELIMIT;
        return;
    }
    if (d->n_edges == builder->edges_room) {
        uint32_t room = builder->edges_room ? builder->edges_room * 2 : 64;
        ofr_dfa_edge *grown = realloc(d->edges, room * sizeof *grown);
        if (!grown) {
            builder->failure = OFR_ENOMEM;
            return;
        }
        d->edges = grown;
        builder->edges_room = room;
    }
    d->edges[d->n_edges++] = edge;
}

void ofr_dfa_add_edge(ofr_dfa_builder *builder, uint32_t state, uint32_t low, uint32_t high,
                      uint32_t target)
{
    ofr_dfa *d = &builder->dfa;
    if (builder->failure || low > high)
        return;
    if (low <= 0xDFFF && high >= 0xD800) { /* surrogates are no characters */
        if (low < 0xD800)
            ofr_dfa_add_edge(builder, state, low, 0xD7FF, target);
        if (high > 0xDFFF)
            ofr_dfa_add_edge(builder, state, 0xE000, high, target);
        return;
    }
    if (d->first[state] == UINT32_MAX)
        d->first[state] = d->n_edges;
    ofr_dfa_edge *last = d->n_edges > d->first[state] ? &d->edges[d->n_edges - 1] : NULL;
    if (last && last->target == target && last->high + 1 == low)
        last->high = high;
    else
        append_edge(builder, (ofr_dfa_edge){low, high, target});
}

static const char *failure_text(int code)
{
    return code == OFR_ELIMIT ? "the set of strings needs too large an automaton"
                              : "no memory for an automaton";
}

/* States from which an accepting one can be reached. */
static bool *find_live(const ofr_dfa *d)
{
    bool *live = calloc(d->n_states, sizeof *live);
    for (bool changed = live != NULL; changed;) {
        changed = false;
        for (uint32_t s = d->n_states; s-- > 0;) {
            bool now = d->accepts[s];
            for (uint32_t e = d->first[s]; !now && e < d->first[s + 1]; e++)
                now = live[d->edges[e].target];
            if (now && !live[s])
                live[s] = changed = true;
        }
    }
    return live;
}

int ofr_dfa_finish(ofr_dfa_builder *builder, ofr_dfa **ret_dfa, ofr_error *err)
{
    ofr_dfa *d = &builder->dfa;
    if (!builder->failure) {
        d->first[d->n_states] = d->n_edges;
        for (uint32_t s = d->n_states; s-- > 0;)
            if (d->first[s] == UINT32_MAX)
                d->first[s] = d->first[s + 1];
    }
    bool *live = builder->failure ? NULL : find_live(d);
    uint32_t *number = live ? calloc(d->n_states, sizeof *number) : NULL;
    ofr_dfa *made = number ? malloc(sizeof *made) : NULL;
    int r = builder->failure ? builder->failure : made ? 0 : OFR_ENOMEM;
    if (r == 0) {
        uint32_t kept = 1, edges = 0;
        for (uint32_t s = 1; s < d->n_states; s++)
            number[s] = live[s] ? kept++ : 0;
        for (uint32_t s = 0; s < d->n_states; s++) {
            uint32_t from = d->first[s], to = d->first[s + 1];
            if (s && !live[s])
                continue;
            d->first[number[s]] = edges;
            d->accepts[number[s]] = d->accepts[s];
            for (uint32_t e = from; e < to; e++)
                if (live[d->edges[e].target]) {
                    d->edges[edges] = d->edges[e];
                    d->edges[edges++].target = number[d->edges[e].target];
                }
        }
        d->first[kept] = edges;
        d->n_states = kept;
        d->n_edges = edges;
        *made = *d;
        *ret_dfa = made;
    } else {
        free(d->accepts);
        free(d->first);
        free(d->edges);
        free(made);
        ofr_fail(err, r, "%s", failure_text(r));
    }
    free(number);
    free(live);
    *builder = (ofr_dfa_builder){0};
    return r;
}

int ofr_dfa_from_lengths(uint32_t min, uint32_t max, ofr_dfa **ret_dfa, ofr_error *err)
{
    ofr_dfa_builder b = {0};
    uint32_t last = max == OFR_DFA_UNBOUNDED ? min : max;
    if (last >= OFR_DFA_STATES_MAX)
        b.failure = OFR_ELIMIT;
    for (uint32_t i = 0; !b.failure && i <= last; i++)
        ofr_dfa_add_state(&b, i >= min && i <= max);
    for (uint32_t i = 0; !b.failure && i <= last; i++)
        if (i < last || max == OFR_DFA_UNBOUNDED)
            ofr_dfa_add_edge(&b, i, 0, OFR_CODEPOINT_MAX, i < last ? i + 1 : i);
    return ofr_dfa_finish(&b, ret_dfa, err);
}

typedef struct literal {
    const char *text;
    size_t size;
} literal;

static int compare_literals(const void *a, const void *b)
{
    const literal *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->size < y->size ? x->size : y->size);
    return order ? order : (x->size > y->size) - (x->size < y->size);
}

/* One state for each prefix, made breadth first so that each gets its edges in its turn. */
int ofr_dfa_from_literals(const char *const *texts, const size_t *sizes, size_t count,
                          ofr_dfa **ret_dfa, ofr_error *err)
{
    ofr_dfa_builder b = {0};
    literal *sorted = calloc(count + 1, sizeof *sorted);
    struct group {
        size_t from, to, depth; /* sorted[from, to) agree in `depth` bytes */
    } *groups = calloc(OFR_DFA_STATES_MAX, sizeof *groups);
    if (!sorted || !groups)
        b.failure = OFR_ENOMEM;
    for (size_t i = 0; sorted && i < count; i++)
        sorted[i] = (literal){texts[i], sizes[i]};
    if (!b.failure) {
        qsort(sorted, count, sizeof *sorted, compare_literals);
        groups[0] = (struct group){0, count, 0};
        ofr_dfa_add_state(&b, count > 0 && sorted[0].size == 0);
    }
    for (uint32_t s = 0; !b.failure && s < b.dfa.n_states; s++) {
        struct group g = groups[s];
        size_t i = g.from;
        while (i < g.to && sorted[i].size == g.depth)
            i++;
        while (!b.failure && i < g.to) {
            size_t length, from = i;
            uint32_t codepoint = ofr_utf8_decode(sorted[i].text + g.depth, &length);
            while (i < g.to &&
                   memcmp(sorted[i].text + g.depth, sorted[from].text + g.depth, length) == 0)
                i++;
            uint32_t target = ofr_dfa_add_state(&b, sorted[from].size == g.depth + length);
            if (!b.failure)
                groups[target] = (struct group){from, i, g.depth + length};
            ofr_dfa_add_edge(&b, s, codepoint, codepoint, target);
        }
    }
    free(sorted);
    free(groups);
    return ofr_dfa_finish(&b, ret_dfa, err);
}

/* Pairs of states under construction, numbered as they are found. */
typedef struct pairs {
    uint64_t *keys;  /* [OFR_DFA_STATES_MAX] by number */
    uint32_t *table; /* 1 + number */
} pairs;
enum { PAIRS_TABLE = OFR_DFA_STATES_MAX * 4 };

static uint32_t find_pair(pairs *p, ofr_dfa_builder *b, uint32_t x, uint32_t y, bool accepts)
{
    uint64_t key = (uint64_t)x << 32 | y, hash = key * UINT64_C(0x9E3779B97F4A7C15);
    size_t at = (size_t)(hash >> 40) % PAIRS_TABLE;
    for (; p->table[at]; at = (at + 1) % PAIRS_TABLE)
        if (p->keys[p->table[at] - 1] == key)
            return p->table[at] - 1;
    uint32_t number = ofr_dfa_add_state(b, accepts);
    if (!b->failure) {
        p->keys[number] = key;
        p->table[at] = number + 1;
    }
    return number;
}

int ofr_dfa_intersect(const ofr_dfa *a, const ofr_dfa *b, ofr_dfa **ret_dfa, ofr_error *err)
{
    ofr_dfa_builder made = {0};
    pairs p = {.keys = calloc(OFR_DFA_STATES_MAX, sizeof *p.keys),
               .table = calloc(PAIRS_TABLE, sizeof *p.table)};
    if (!p.keys || !p.table)
        made.failure = OFR_ENOMEM;
    else
        find_pair(&p, &made, 0, 0, a->accepts[0] && b->accepts[0]);
    for (uint32_t s = 0; !made.failure && s < made.dfa.n_states; s++) {
        uint32_t x = (uint32_t)(p.keys[s] >> 32), y = (uint32_t)p.keys[s];
        uint32_t i = a->first[x], j = b->first[y];
        while (!made.failure && i < a->first[x + 1] && j < b->first[y + 1]) {
            const ofr_dfa_edge *e = &a->edges[i], *f = &b->edges[j];
            uint32_t low = e->low > f->low ? e->low : f->low;
            uint32_t high = e->high < f->high ? e->high : f->high;
            if (low <= high)
                ofr_dfa_add_edge(&made, s, low, high,
                                 find_pair(&p, &made, e->target, f->target,
                                           a->accepts[e->target] && b->accepts[f->target]));
            if (e->high < f->high)
                i++;
            else
                j++;
        }
    }
    free(p.keys);
    free(p.table);
    return ofr_dfa_finish(&made, ret_dfa, err);
}

int ofr_dfa_complement(const ofr_dfa *a, ofr_dfa **ret_dfa, ofr_error *err)
{
    ofr_dfa_builder made = {0};
    for (uint32_t s = 0; s < a->n_states; s++)
        ofr_dfa_add_state(&made, !a->accepts[s]);
    uint32_t sink = ofr_dfa_add_state(&made, true);
    for (uint32_t s = 0; !made.failure && s < a->n_states; s++) {
        uint32_t low = 0;
        for (uint32_t e = a->first[s]; e < a->first[s + 1]; e++) {
            const ofr_dfa_edge *edge = &a->edges[e];
            if (edge->low > low)
                ofr_dfa_add_edge(&made, s, low, edge->low - 1, sink);
            ofr_dfa_add_edge(&made, s, edge->low, edge->high, edge->target);
            low = edge->high + 1;
        }
        if (low <= OFR_CODEPOINT_MAX)
            ofr_dfa_add_edge(&made, s, low, OFR_CODEPOINT_MAX, sink);
    }
    if (!made.failure)
        ofr_dfa_add_edge(&made, sink, 0, OFR_CODEPOINT_MAX, sink);
    return ofr_dfa_finish(&made, ret_dfa, err);
}

int ofr_dfa_narrow(ofr_dfa **dfa, ofr_dfa *other, ofr_error *err)
{
    if (!*dfa) {
        *dfa = other;
        return 0;
    }
    ofr_dfa *both = NULL;
    int r = ofr_dfa_intersect(*dfa, other, &both, err);
    ofr_dfa_free(other);
    if (r == 0) {
        ofr_dfa_free(*dfa);
        *dfa = both;
    }
    return r;
}

bool ofr_dfa_is_empty(const ofr_dfa *dfa)
{
    return !dfa->accepts[0] && dfa->first[1] == dfa->first[0];
}

bool ofr_dfa_matches(const ofr_dfa *dfa, const char *text, size_t size)
{
    uint32_t state = 0;
    while (size) {
        uint32_t codepoint;
        size_t length;
        if (ofr_utf8_next(text, size, &codepoint, &length) != OFR_UTF8_STATE_CHARACTER)
            return false;
        uint32_t e = dfa->first[state];
        while (e < dfa->first[state + 1] && dfa->edges[e].high < codepoint)
            e++;
        if (e == dfa->first[state + 1] || dfa->edges[e].low > codepoint)
            return false;
        state = dfa->edges[e].target;
        text += length;
        size -= length;
    }
    return dfa->accepts[state];
}

bool ofr_dfa_lengths(const ofr_dfa *dfa, uint32_t *ret_min, uint32_t *ret_max)
{
    if (ofr_dfa_is_empty(dfa))
        return false;
    /* Sets of states by length: after as many steps as there are states, the rest repeats. */
    bool *now = calloc(dfa->n_states, sizeof *now), *then = calloc(dfa->n_states, sizeof *then);
    uint32_t min = OFR_DFA_UNBOUNDED, max = 0;
    *ret_min = 0;
    *ret_max = OFR_DFA_UNBOUNDED;
    if (now && then) {
        now[0] = true;
        for (uint32_t length = 0; length <= dfa->n_states; length++) {
            bool any = false;
            memset(then, 0, dfa->n_states * sizeof *then);
            for (uint32_t s = 0; s < dfa->n_states; s++) {
                if (!now[s])
                    continue;
                any = true;
                if (dfa->accepts[s]) {
                    min = min == OFR_DFA_UNBOUNDED ? length : min;
                    max = length;
                }
                for (uint32_t e = dfa->first[s]; e < dfa->first[s + 1]; e++)
                    then[dfa->edges[e].target] = true;
            }
            bool *swap = now;
            now = then;
            then = swap;
            if (!any)
                break;
            if (length == dfa->n_states)
                max = OFR_DFA_UNBOUNDED;
        }
        *ret_min = min;
        *ret_max = max;
    }
    free(now);
    free(then);
    return true;
}

/* The characters of `ranges` that JSON escapes in a string, as nodes that lead to `target`; 0 if
 * there are none. */
static uint32_t emit_escapes(ofr_builder *builder, const ofr_range *ranges, size_t count,
                             uint32_t target)
{
    static const char shorts[][2] = {{'"', '"'},  {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'},
                                     {'\n', 'n'}, {'\r', 'r'},  {'\t', 't'}};
    ofr_range letters[8], digits[2][64];
    size_t n_letters = 0, n_digits[2] = {0, 0};
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < 7; k++)
            if ((uint32_t)shorts[k][0] >= ranges[i].low && (uint32_t)shorts[k][0] <= ranges[i].high)
                letters[n_letters++] = (ofr_range){(uint32_t)shorts[k][1], (uint32_t)shorts[k][1]};
        for (uint32_t c = ranges[i].low; c <= ranges[i].high && c < 0x20; c++) {
            if (strchr("\b\f\n\r\t", (int)c) && c)
                continue;
            uint32_t half = c >> 4, digit = (uint32_t) "0123456789abcdef"[c & 15];
            digits[half][n_digits[half]++] = (ofr_range){digit, digit};
            if (digit >= 'a')
                digits[half][n_digits[half]++] = (ofr_range){digit - 32, digit - 32};
        }
    }
    uint32_t entries[3], n = 0;
    if (n_letters)
        entries[n++] = ofr_builder_class(builder, letters, n_letters, target);
    for (size_t half = 0; half < 2; half++)
        if (n_digits[half])
            entries[n++] =
                ofr_builder_bytes(builder, half ? "u001" : "u000", 4,
                                  ofr_builder_class(builder, digits[half], n_digits[half], target));
    if (n == 0)
        return 0;
    uint32_t split = entries[0];
    if (n > 1) {
        split = ofr_builder_split(builder, n);
        for (uint32_t i = 0; i < n; i++)
            ofr_builder_edge(builder, split, i, entries[i]);
    }
    return ofr_builder_bytes(builder, "\\", 1, split);
}

/* Splits `ranges` at what JSON escapes; returns how many remain, in `out` [2 * count + 2]. */
static size_t unescaped(const ofr_range *ranges, size_t count, ofr_range *out)
{
    static const ofr_range keep[] = {
        {0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, OFR_CODEPOINT_MAX}};
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < 3; k++) {
            uint32_t low = ranges[i].low > keep[k].low ? ranges[i].low : keep[k].low;
            uint32_t high = ranges[i].high < keep[k].high ? ranges[i].high : keep[k].high;
            if (low <= high)
                out[n++] = (ofr_range){low, high};
        }
    return n;
}

/* The edges of state `s`, one class for each target, as a SPLIT that was made before. */
static void emit_state(ofr_builder *builder, const ofr_dfa *dfa, uint32_t s, bool json,
                       const uint32_t *nodes, ofr_range *scratch, uint32_t *entries, uint32_t next,
                       uint32_t *ret_count)
{
    uint32_t n = 0, from = dfa->first[s], to = dfa->first[s + 1];
    for (uint32_t e = from; e < to; e++) {
        uint32_t target = dfa->edges[e].target;
        bool done = false;
        for (uint32_t f = from; f < e && !done; f++)
            done = dfa->edges[f].target == target;
        if (done)
            continue;
        size_t count = 0;
        for (uint32_t f = e; f < to; f++)
            if (dfa->edges[f].target == target)
                scratch[count++] = (ofr_range){dfa->edges[f].low, dfa->edges[f].high};
        ofr_range *raw = scratch;
        size_t n_raw = count;
        if (json) {
            uint32_t escapes = emit_escapes(builder, scratch, count, nodes[target]);
            if (escapes)
                entries[n++] = escapes;
            raw = scratch + count;
            n_raw = unescaped(scratch, count, raw);
        }
        if (n_raw)
            entries[n++] = ofr_builder_class(builder, raw, n_raw, nodes[target]);
    }
    if (dfa->accepts[s])
        entries[n++] = next;
    *ret_count = n;
}

/* `until`: accepting states are `found`, and `next` is an alternative at all others. */
static uint32_t emit(ofr_builder *builder, const ofr_dfa *dfa, bool json, bool until,
                     uint32_t found, uint32_t next)
{
    uint32_t *nodes = calloc(dfa->n_states, sizeof *nodes);
    ofr_range *scratch = calloc(4 * (size_t)dfa->n_edges + 8, sizeof *scratch);
    uint32_t *entries = calloc(2 * (size_t)dfa->n_edges + 2, sizeof *entries);
    if (!nodes || !scratch || !entries)
        ofr_builder_fail(builder, OFR_ENOMEM, "no memory for a grammar");
    for (uint32_t s = 0; !ofr_builder_failed(builder) && s < dfa->n_states; s++) {
        uint32_t targets = 2 * (dfa->first[s + 1] - dfa->first[s]) + 1;
        nodes[s] = until && dfa->accepts[s] ? found : ofr_builder_split(builder, targets);
    }
    for (uint32_t s = 0; !ofr_builder_failed(builder) && s < dfa->n_states; s++) {
        uint32_t count = 0;
        if (until && dfa->accepts[s])
            continue;
        emit_state(builder, dfa, s, json, nodes, scratch, entries, next, &count);
        if (until)
            entries[count++] = next;
        for (uint32_t i = 0; i < count; i++)
            ofr_builder_edge(builder, nodes[s], i, entries[i]);
        if (!ofr_builder_failed(builder))
            builder->grammar->nodes[nodes[s]].b = count;
    }
    uint32_t start = ofr_builder_failed(builder) ? 0 : nodes[0];
    free(nodes);
    free(scratch);
    free(entries);
    return start;
}

uint32_t ofr_dfa_emit(ofr_builder *builder, const ofr_dfa *dfa, bool json, uint32_t next)
{
    return emit(builder, dfa, json, false, 0, next);
}

uint32_t ofr_dfa_emit_until(ofr_builder *builder, const ofr_dfa *dfa, uint32_t found, uint32_t stop)
{
    return emit(builder, dfa, false, true, found, stop);
}
