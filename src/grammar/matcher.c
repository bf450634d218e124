/* Following a text through a grammar: all ways to read it at once. */
#include "grammar/matcher.h"

#include <stdlib.h>
#include <string.h>

#include "grammar/matcher_internal.h"

void ofr_items_add(ofr_matcher *m, ofr_items *items, ofr_item item)
{
    if (items->size == items->room) {
        size_t room = items->room ? items->room * 2 : 16;
        ofr_item *grown =
            room > OFR_MATCHER_ITEMS_MAX ? NULL : realloc(items->data, room * sizeof *grown);
        if (!grown) {
            m->overflow = true;
            return;
        }
        items->data = grown;
        items->room = room;
    }
    items->data[items->size++] = item;
}

/* Adds to the work unless it is there. Items at one node are linked. */
static void visit(ofr_matcher *m, ofr_item item)
{
    ofr_items *work = &m->work;
    uint32_t last = m->stamp[item.node] == m->round ? m->head[item.node] : 0;
    for (uint32_t at = last; at && m->work_left; at = m->link[at - 1]) {
        const ofr_item *other = &work->data[at - 1];
        m->work_left--;
        if (other->stack == item.stack && other->count == item.count &&
            other->partial == item.partial)
            return;
    }
    if (m->work_left == 0)
        m->overflow = true;
    if (m->overflow)
        return;
    m->work_left--;
    size_t size = work->size;
    ofr_items_add(m, work, item);
    if (work->size == size)
        return;
    if (work->size > m->link_room) {
        uint32_t *grown = realloc(m->link, work->room * sizeof *grown);
        if (!grown) {
            m->overflow = true;
            work->size = size;
            return;
        }
        m->link = grown;
        m->link_room = work->room;
    }
    m->link[size] = last;
    m->head[item.node] = (uint32_t)size + 1;
    m->stamp[item.node] = m->round;
}

static void begin_visits(ofr_matcher *m)
{
    m->work.size = 0;
    if (++m->round == 0) {
        memset(m->stamp, 0, m->grammar->n_nodes * sizeof *m->stamp);
        m->round = 1;
    }
}

/* Leaves the rule: continues at every frame on top. */
static void pop(ofr_matcher *m, uint32_t stack, ofr_leaves *leaves)
{
    const ofr_stack_set *set = &m->stacks.sets[stack];
    for (uint32_t i = 0; i < set->count; i++) {
        ofr_frame frame = m->stacks.frames[set->first + i];
        if (frame.node == OFR_FRAME_BOTTOM)
            leaves->ends = true;
        else if (frame.node == OFR_FRAME_UNKNOWN)
            leaves->pops = true;
        else
            visit(m, (ofr_item){frame.node, frame.count, 0, frame.below});
    }
}

static uint32_t counted_on(const ofr_loop *loop, uint32_t count)
{
    if (loop->max == OFR_REPEAT_UNBOUNDED)
        return count < loop->min ? count + 1 : count;
    return count + 1;
}

static void call(ofr_matcher *m, const ofr_node *node, ofr_item item)
{
    uint32_t stack = item.stack;
    /* A call at the end of its rule returns where the rule returns. */
    if (m->grammar->nodes[node->next].kind != OFR_NODE_RET) {
        if (m->stacks.sets[stack].depth >= OFR_GRAMMAR_DEPTH_MAX)
            return;
        stack = ofr_stacks_push(&m->stacks, stack, node->next, item.count);
    }
    visit(m, (ofr_item){m->grammar->rules[node->a].start, 0, 0, stack});
}

static void add_leaf(ofr_matcher *m, ofr_leaves *leaves, ofr_item item)
{
    /* Equal places are one leaf with all their stacks. They were linked when visited; a linear
     * search is enough for the few that remain. */
    for (uint32_t at = m->head[item.node]; at; at = m->link[at - 1]) {
        const ofr_item *other = &m->work.data[at - 1];
        if (other->stack == item.stack || other->count != item.count ||
            other->partial != item.partial)
            continue;
        for (size_t i = 0; i < leaves->items.size; i++) {
            ofr_item *leaf = &leaves->items.data[i];
            if (leaf->node == item.node && leaf->count == item.count &&
                leaf->partial == item.partial) {
                leaf->stack = ofr_stacks_unite(&m->stacks, leaf->stack, item.stack);
                return;
            }
        }
        break;
    }
    ofr_items_add(m, &leaves->items, item);
}

/* The bytes that a leaf takes next. */
static void add_first_bytes(const ofr_matcher *m, ofr_leaves *leaves, ofr_item item)
{
    const ofr_node *node = &m->grammar->nodes[item.node];
    if (node->kind == OFR_NODE_BYTE) {
        leaves->first[node->a >> 6] |= UINT64_C(1) << (node->a & 63);
    } else if (item.partial) {
        leaves->first[2] = UINT64_MAX; /* continuation bytes; the step looks closer */
    } else {
        for (int i = 0; i < 4; i++)
            leaves->first[i] |= m->grammar->classes[node->a].bytes[i];
    }
}

void ofr_matcher_expand(ofr_matcher *m, const ofr_item *items, size_t count, ofr_leaves *leaves)
{
    const ofr_grammar *g = m->grammar;
    leaves->items.size = 0;
    memset(leaves->first, 0, sizeof leaves->first);
    leaves->ends = leaves->pops = false;
    begin_visits(m);
    for (size_t i = 0; i < count; i++)
        visit(m, items[i]);
    for (size_t i = 0; i < m->work.size; i++) {
        ofr_item item = m->work.data[i];
        const ofr_node *node = &g->nodes[item.node];
        const ofr_loop *loop;
        switch (node->kind) {
        case OFR_NODE_BYTE:
        case OFR_NODE_CLASS:
            add_leaf(m, leaves, item);
            add_first_bytes(m, leaves, item);
            break;
        case OFR_NODE_SPLIT:
            for (uint32_t e = 0; e < node->b; e++)
                visit(m, (ofr_item){g->edges[node->a + e], item.count, 0, item.stack});
            break;
        case OFR_NODE_CALL:
            call(m, node, item);
            break;
        case OFR_NODE_LOOP:
            loop = &g->loops[node->a];
            if (loop->max == OFR_REPEAT_UNBOUNDED || item.count < loop->max)
                visit(m, (ofr_item){loop->body, item.count, 0, item.stack});
            if (item.count >= loop->min)
                visit(m, (ofr_item){node->next, 0, 0, item.stack});
            break;
        case OFR_NODE_NEXT:
            loop = &g->loops[g->nodes[node->a].a];
            visit(m, (ofr_item){node->a, counted_on(loop, item.count), 0, item.stack});
            break;
        default:
            pop(m, item.stack, leaves);
        }
    }
}

/* Where one byte of a character of the class leads: 0 nowhere, 1 on inside the character
 * (*ret_partial), 2 past it. */
static int step_class(const ofr_grammar *g, const ofr_class *class, uint32_t partial, uint8_t byte,
                      uint32_t *ret_partial)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t value, left, size;
    if (!partial) {
        if (!(class->bytes[byte >> 6] >> (byte & 63) & 1))
            return 0;
        if (byte < 0x80)
            return 2;
        size = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
        left = size - 1;
        value = byte & (0x7Fu >> size);
    } else {
        if ((byte & 0xC0) != 0x80)
            return 0;
        size = partial >> 28;
        left = (partial >> 24 & 15) - 1;
        value = (partial & 0xFFFFFF) << 6 | (byte & 63);
    }
    uint32_t low = value << 6 * left, high = low | ((1u << 6 * left) - 1);
    if (low < least[size])
        low = least[size];
    if (low > high || !ofr_class_meets(g, class, low, high))
        return 0;
    *ret_partial = size << 28 | left << 24 | value;
    return left ? 1 : 2;
}

bool ofr_matcher_step(ofr_matcher *m, const ofr_leaves *leaves, uint8_t byte)
{
    const ofr_grammar *g = m->grammar;
    m->step.size = 0;
    for (size_t i = 0; i < leaves->items.size; i++) {
        ofr_item item = leaves->items.data[i];
        const ofr_node *node = &g->nodes[item.node];
        if (node->kind == OFR_NODE_BYTE) {
            if (node->a == byte)
                ofr_items_add(m, &m->step, (ofr_item){node->next, item.count, 0, item.stack});
            continue;
        }
        uint32_t partial = 0;
        int where = step_class(g, &g->classes[node->a], item.partial, byte, &partial);
        if (where == 1)
            ofr_items_add(m, &m->step, (ofr_item){item.node, item.count, partial, item.stack});
        else if (where == 2)
            ofr_items_add(m, &m->step, (ofr_item){node->next, item.count, 0, item.stack});
    }
    return m->step.size > 0;
}

static int compare_items(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(ofr_item));
}

/* Makes m->step the state: RET and NEXT are followed, so that what a rule or a turn of a loop leads
 * to is one state however it was reached. Equal places are united, the whole is sorted. */
static void settle(ofr_matcher *m)
{
    const ofr_grammar *g = m->grammar;
    ofr_leaves ended = {0};
    begin_visits(m);
    for (size_t i = 0; i < m->step.size; i++)
        visit(m, m->step.data[i]);
    m->state.size = 0;
    for (size_t i = 0; i < m->work.size; i++) {
        ofr_item item = m->work.data[i];
        const ofr_node *node = &g->nodes[item.node];
        if (item.partial == 0 && node->kind == OFR_NODE_RET) {
            bool before = ended.ends;
            pop(m, item.stack, &ended);
            if (ended.ends && !before) /* the end of the text is a place too */
                ofr_items_add(m, &m->state, (ofr_item){item.node, 0, 0, OFR_STACKS_BOTTOM});
        } else if (item.partial == 0 && node->kind == OFR_NODE_NEXT) {
            const ofr_loop *loop = &g->loops[g->nodes[node->a].a];
            visit(m, (ofr_item){node->a, counted_on(loop, item.count), 0, item.stack});
        } else {
            ofr_items_add(m, &m->state, item);
        }
    }
    qsort(m->state.data, m->state.size, sizeof *m->state.data, compare_items);
    size_t kept = 0;
    for (size_t i = 0; i < m->state.size; i++) {
        ofr_item *item = &m->state.data[i], *last = kept ? &m->state.data[kept - 1] : NULL;
        if (last && last->node == item->node && last->count == item->count &&
            last->partial == item->partial)
            last->stack = ofr_stacks_unite(&m->stacks, last->stack, item->stack);
        else
            m->state.data[kept++] = *item;
    }
    m->state.size = kept;
    ofr_matcher_expand(m, m->state.data, m->state.size, &m->here);
}

void ofr_matcher_reset(ofr_matcher *matcher)
{
    ofr_item start = {matcher->grammar->rules[0].start, 0, 0, OFR_STACKS_BOTTOM};
    matcher->step.size = 0;
    ofr_items_add(matcher, &matcher->step, start);
    matcher->at_start = true;
    matcher->ended = false;
    matcher->overflow = false;
    matcher->work_left = OFR_MATCHER_WORK_MAX;
    settle(matcher);
}

int ofr_matcher_new(const ofr_grammar *grammar, const ofr_vocabulary *vocabulary,
                    ofr_matcher **ret_matcher, ofr_error *err)
{
    ofr_matcher *m = calloc(1, sizeof *m);
    if (m) {
        m->grammar = grammar;
        m->vocabulary = vocabulary;
        m->head = calloc(grammar->n_nodes, sizeof *m->head);
        m->stamp = calloc(grammar->n_nodes, sizeof *m->stamp);
        m->levels = calloc((size_t)vocabulary->token_max + 1, sizeof *m->levels);
        m->first = calloc(256, sizeof *m->first);
        m->local_mask = calloc(vocabulary->mask_words, sizeof *m->local_mask);
        m->mask = calloc(vocabulary->mask_words, sizeof *m->mask);
    }
    if (!m || !m->head || !m->stamp || !m->levels || !m->first || !m->local_mask || !m->mask ||
        ofr_stacks_init(&m->stacks) < 0) {
        ofr_matcher_free(m);
        return ofr_fail(err, OFR_ENOMEM, "no memory to follow a grammar");
    }
    ofr_matcher_reset(m);
    if (m->overflow || m->stacks.failed) {
        ofr_matcher_free(m);
        return ofr_fail(err, OFR_ELIMIT, "the grammar has too many ways to begin");
    }
    *ret_matcher = m;
    return 0;
}

ofr_matcher *ofr_matcher_free(ofr_matcher *matcher)
{
    if (!matcher)
        return NULL;
    ofr_matcher_drop_masks(matcher);
    ofr_matcher_drop_locals(matcher);
    free(matcher->masks);
    free(matcher->locals);
    ofr_stacks_done(&matcher->stacks);
    for (size_t i = 0; matcher->levels && i <= matcher->vocabulary->token_max; i++)
        free(matcher->levels[i].items.data);
    for (size_t i = 0; matcher->first && i < 256; i++)
        free(matcher->first[i].items.data);
    free(matcher->state.data);
    free(matcher->here.items.data);
    free(matcher->work.data);
    free(matcher->step.data);
    free(matcher->head);
    free(matcher->stamp);
    free(matcher->link);
    free(matcher->levels);
    free(matcher->first);
    free(matcher->resume);
    free(matcher->local_mask);
    free(matcher->mask);
    free(matcher);
    return NULL;
}

/* Drops stacks that no reading of the text needs any more, and the masks that name them. */
static int compact(ofr_matcher *m, ofr_error *err)
{
    uint32_t **keep = calloc(m->state.size + 1, sizeof *keep);
    int r = keep ? 0 : OFR_ENOMEM;
    if (r == 0) {
        for (size_t i = 0; i < m->state.size; i++)
            keep[i] = &m->state.data[i].stack;
        ofr_matcher_drop_masks(m);
        r = ofr_stacks_compact(&m->stacks, keep, m->state.size);
    }
    free(keep);
    if (r < 0)
        return ofr_fail(err, r, "no memory to follow a grammar");
    ofr_matcher_expand(m, m->state.data, m->state.size, &m->here);
    return 0;
}

int ofr_matcher_accept_bytes(ofr_matcher *matcher, const char *bytes, size_t size, ofr_error *err)
{
    ofr_matcher *m = matcher;
    if (size == 0)
        return 0;
    if (m->ended)
        return ofr_fail(err, OFR_EINVAL, "the text has ended");
    m->overflow = false;
    m->work_left = OFR_MATCHER_WORK_MAX;
    const ofr_leaves *at = &m->here;
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)bytes[i];
        bool taken = ofr_leaves_take(at, byte) && ofr_matcher_step(m, at, byte);
        if (taken)
            ofr_matcher_expand(m, m->step.data, m->step.size, &m->levels[0]);
        at = &m->levels[0];
        if (!taken || ofr_leaves_dead(at))
            return ofr_fail(err, OFR_EINVAL, "the grammar does not allow byte 0x%02x here", byte);
    }
    /* A failure from here on would leave half a state. */
    if (!m->overflow && !m->stacks.failed)
        settle(m);
    if (m->overflow || m->stacks.failed) {
        m->ended = true;
        return ofr_fail(err, OFR_ELIMIT,
                        "the grammar is too ambiguous here: more than %d ways to "
                        "read the text",
                        OFR_MATCHER_ITEMS_MAX);
    }
    m->at_start = false;
    return m->stacks.n_frames > OFR_MATCHER_FRAMES_KEPT ? compact(m, err) : 0;
}

int ofr_matcher_accept(ofr_matcher *matcher, int32_t token, ofr_error *err)
{
    const ofr_vocabulary *v = matcher->vocabulary;
    if (token < 0 || token >= v->size)
        return ofr_fail(err, OFR_EINVAL, "token %d is outside the vocabulary of %d", token,
                        v->size);
    for (size_t i = 0; i < v->n_stop_ids; i++)
        if (v->stop_ids[i] == token) {
            if (!ofr_matcher_can_end(matcher))
                return ofr_fail(err, OFR_EINVAL, "the grammar does not let the text end here");
            matcher->ended = true;
            return 0;
        }
    const char *bytes = v->bytes + v->offsets[token];
    size_t size = v->offsets[token + 1] - v->offsets[token];
    if (matcher->at_start && v->strip_first_space && size && bytes[0] == ' ') {
        bytes++;
        size--;
    }
    if (size == 0)
        return ofr_fail(err, OFR_EINVAL, "token %d is not part of any text", token);
    int r = ofr_matcher_accept_bytes(matcher, bytes, size, err);
    return r < 0 ? ofr_error_prefix(err, r, "token %d", token) : 0;
}

bool ofr_matcher_can_end(const ofr_matcher *matcher)
{
    return matcher->ended || matcher->here.ends;
}

bool ofr_matcher_is_done(const ofr_matcher *matcher)
{
    return matcher->ended || (matcher->here.ends && matcher->here.items.size == 0);
}
