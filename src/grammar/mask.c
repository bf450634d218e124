/* Token masks.
 *
 * What may follow a node is mostly decided inside its rule: that part is found once for each node,
 * with an unknown stack below, and kept. Only tokens that run past the rule's end depend on the
 * stack; the walk through the vocabulary notes where they do, and is taken up there. Tokens of
 * plain characters only, most of a vocabulary, are never walked where any of them may follow. */
#include <stdlib.h>
#include <string.h>

#include "grammar/matcher_internal.h"

static void set_bit(uint32_t *mask, int32_t id)
{
    mask[id >> 5] |= UINT32_C(1) << (id & 31);
}

static void set_tokens(const ofr_trie *trie, const ofr_trie_node *node, uint32_t *mask)
{
    for (uint32_t i = 0; i < node->count; i++)
        set_bit(mask, trie->order[node->first + i]);
}

static void note_resume(ofr_matcher *m, uint32_t node)
{
    if (m->n_resume == m->resume_room) {
        size_t room = m->resume_room ? m->resume_room * 2 : 256;
        uint32_t *grown = realloc(m->resume, room * sizeof *grown);
        if (!grown) {
            m->overflow = true;
            return;
        }
        m->resume = grown;
        m->resume_room = room;
    }
    m->resume[m->n_resume++] = node;
}

/* Sets the tokens below trie node `from`, where `base` is what the grammar allows next. Notes the
 * nodes at which the unknown stack is reached. */
static void walk(ofr_matcher *m, const ofr_trie *trie, uint32_t from, const ofr_leaves *base,
                 uint32_t *mask)
{
    uint32_t end = trie->nodes[from].end, base_depth = trie->nodes[from].depth + 1u;
    for (uint32_t i = from + 1; i < end && !m->overflow;) {
        const ofr_trie_node *node = &trie->nodes[i];
        uint32_t level = node->depth - base_depth;
        const ofr_leaves *at = level ? &m->levels[level - 1] : base;
        if (!ofr_leaves_take(at, node->byte) || !ofr_matcher_step(m, at, node->byte)) {
            i = node->end;
            continue;
        }
        ofr_leaves *after = &m->levels[level];
        bool last = node->end == i + 1;
        if (!last || m->deep) {
            ofr_matcher_expand(m, m->step.data, m->step.size, after);
            if (ofr_leaves_dead(after)) {
                i = node->end;
                continue;
            }
        }
        set_tokens(trie, node, mask);
        if (last) {
            i++;
            continue;
        }
        if (after->pops)
            note_resume(m, i);
        i = after->items.size ? i + 1 : node->end;
    }
}

/* Takes walks up at trie nodes [count], all with the same `base`: what one byte leads to is found
 * once for all of them. */
static void walk_all(ofr_matcher *m, const ofr_trie *trie, const uint32_t *nodes, size_t count,
                     const ofr_leaves *base, uint32_t *mask)
{
    uint64_t dead[4] = {0};
    memset(m->first_used, 0, sizeof m->first_used);
    for (size_t n = 0; n < count && !m->overflow; n++) {
        uint32_t end = trie->nodes[nodes[n]].end;
        for (uint32_t i = nodes[n] + 1; i < end; i = trie->nodes[i].end) {
            const ofr_trie_node *node = &trie->nodes[i];
            uint64_t bit = UINT64_C(1) << (node->byte & 63);
            size_t word = node->byte >> 6;
            if (!ofr_leaves_take(base, node->byte) || dead[word] & bit)
                continue;
            ofr_leaves *after = &m->first[node->byte];
            if (!(m->first_used[word] & bit)) {
                if (!ofr_matcher_step(m, base, node->byte)) {
                    dead[word] |= bit;
                    continue;
                }
                ofr_matcher_expand(m, m->step.data, m->step.size, after);
                m->first_used[word] |= bit;
            }
            set_tokens(trie, node, mask);
            if (after->items.size && node->end > i + 1)
                walk(m, trie, i, after, mask);
        }
    }
}

/* How many more plain characters a plain node takes. */
static uint32_t plain_left(const ofr_grammar *g, const ofr_node *node, uint32_t count)
{
    if (node->kind != OFR_NODE_LOOP || g->loops[node->a].max == OFR_REPEAT_UNBOUNDED)
        return UINT32_MAX;
    return g->loops[node->a].max - count;
}

static void set_plain(const ofr_vocabulary *v, uint32_t left, uint32_t *mask)
{
    size_t words = v->mask_words,
           level = left < OFR_VOCABULARY_PLAIN_MAX ? left : OFR_VOCABULARY_PLAIN_MAX;
    for (size_t i = 0; i < words; i++)
        mask[i] |= v->plain[level * words + i];
    if (left < OFR_VOCABULARY_PLAIN_MAX)
        return;
    for (size_t i = 0; i < v->n_plain_long; i++)
        if (v->plain_sizes[i] > left)
            mask[v->plain_long[i] >> 5] &= ~(UINT32_C(1) << (v->plain_long[i] & 31));
}

static void free_local(ofr_local *local)
{
    free(local->mask);
    free(local->ids);
    free(local->resume);
}

void ofr_matcher_drop_locals(ofr_matcher *m)
{
    for (size_t i = 0; i < m->locals_room; i++)
        if (m->locals[i].used)
            free_local(&m->locals[i]);
    if (m->locals_room)
        memset(m->locals, 0, m->locals_room * sizeof *m->locals);
    m->n_locals = m->locals_bytes = 0;
}

void ofr_matcher_drop_masks(ofr_matcher *m)
{
    for (size_t i = 0; i < m->masks_room; i++)
        free(m->masks[i].items);
    if (m->masks_room)
        memset(m->masks, 0, m->masks_room * sizeof *m->masks);
    m->n_masks = m->masks_bytes = 0;
}

static uint32_t hash_words(const uint32_t *words, size_t count)
{
    uint64_t hash = count;
    for (size_t i = 0; i < count; i++) {
        hash = (hash ^ words[i]) * UINT64_C(0x9E3779B97F4A7C15);
        hash ^= hash >> 29;
    }
    return (uint32_t)(hash ^ hash >> 32);
}

static size_t find_slot(const ofr_local *locals, size_t room, const ofr_local *key)
{
    uint32_t words[] = {key->node, key->partial, key->need, key->left};
    size_t at = hash_words(words, 4) & (room - 1);
    while (locals[at].used && (locals[at].node != key->node || locals[at].partial != key->partial ||
                               locals[at].need != key->need || locals[at].left != key->left))
        at = (at + 1) & (room - 1);
    return at;
}

static bool grow_locals(ofr_matcher *m)
{
    size_t room = m->locals_room ? m->locals_room * 2 : 256;
    ofr_local *locals = calloc(room, sizeof *locals);
    if (!locals)
        return false;
    for (size_t i = 0; i < m->locals_room; i++)
        if (m->locals[i].used)
            locals[find_slot(locals, room, &m->locals[i])] = m->locals[i];
    free(m->locals);
    m->locals = locals;
    m->locals_room = room;
    return true;
}

/* Fills an entry from m->local_mask and m->resume: a list of ids where that is smaller. */
static bool keep_local(ofr_matcher *m, ofr_local *local)
{
    size_t words = m->vocabulary->mask_words, count = 0;
    for (size_t i = 0; i < words; i++)
        count += (size_t)__builtin_popcount(m->local_mask[i]);
    if (count * sizeof *local->ids < words * sizeof *local->mask) {
        local->ids = malloc(count * sizeof *local->ids + 1);
        for (size_t i = 0; local->ids && i < words; i++)
            for (uint32_t bits = m->local_mask[i]; bits; bits &= bits - 1)
                local->ids[local->n_ids++] = (int32_t)(i * 32) + __builtin_ctz(bits);
    } else {
        local->mask = malloc(words * sizeof *local->mask);
        if (local->mask)
            memcpy(local->mask, m->local_mask, words * sizeof *local->mask);
    }
    local->resume = malloc(m->n_resume * sizeof *local->resume + 1);
    if ((!local->ids && !local->mask) || !local->resume) {
        free_local(local);
        return false;
    }
    if (m->n_resume)
        memcpy(local->resume, m->resume, m->n_resume * sizeof *local->resume);
    local->n_resume = m->n_resume;
    m->locals_bytes += sizeof *local + m->n_resume * sizeof *local->resume +
                       (local->mask ? words * sizeof *local->mask : count * sizeof *local->ids);
    return true;
}

/* What the item's node allows with an unknown stack; NULL after a failure. Valid until the next
 * call. */
static const ofr_local *find_local(ofr_matcher *m, ofr_item item)
{
    const ofr_grammar *g = m->grammar;
    const ofr_node *node = &g->nodes[item.node];
    uint32_t longest = m->vocabulary->token_max;
    ofr_local key = {.node = item.node, .partial = item.partial};
    if (node->loop) {
        /* A token has too few bytes to tell larger counters apart. */
        const ofr_loop *loop = &g->loops[node->loop - 1];
        uint32_t need = loop->min > item.count ? loop->min - item.count : 0;
        uint32_t left = loop->max - item.count;
        key.need = need < longest ? need : longest;
        key.left = left < longest ? left : longest;
    }
    if (m->locals_bytes > OFR_MATCHER_LOCALS_MAX)
        ofr_matcher_drop_locals(m);
    if (m->n_locals * 2 >= m->locals_room && !grow_locals(m)) {
        m->overflow = true;
        return NULL;
    }
    ofr_local *local = &m->locals[find_slot(m->locals, m->locals_room, &key)];
    if (local->used)
        return local;
    bool plain = node->plain && !item.partial;
    key.trie = plain ? &m->vocabulary->rest : &m->vocabulary->all;
    memset(m->local_mask, 0, m->vocabulary->mask_words * sizeof *m->local_mask);
    m->n_resume = 0;
    item.stack = OFR_STACKS_UNKNOWN;
    /* `first[0]` is free between walk_all's calls. */
    ofr_leaves *base = &m->first[0];
    ofr_matcher_expand(m, &item, 1, base);
    if (base->pops)
        note_resume(m, 0);
    walk(m, key.trie, 0, base, m->local_mask);
    if (plain)
        set_plain(m->vocabulary, plain_left(g, node, item.count), m->local_mask);
    if (m->overflow || m->stacks.failed || !keep_local(m, &key)) {
        m->overflow = true;
        return NULL;
    }
    key.used = true;
    m->n_locals++;
    *local = key;
    return local;
}

/* What the tokens do that run past the end of the item's rule. */
static void resume(ofr_matcher *m, const ofr_local *local, ofr_item item, uint32_t *mask)
{
    ofr_items above = {0};
    const ofr_stack_set set = m->stacks.sets[item.stack];
    for (uint32_t i = 0; i < set.count; i++) {
        ofr_frame frame = m->stacks.frames[set.first + i];
        if (frame.node < OFR_FRAME_UNKNOWN)
            ofr_items_add(m, &above, (ofr_item){frame.node, frame.count, 0, frame.below});
    }
    if (above.size) {
        ofr_leaves base = {0};
        ofr_matcher_expand(m, above.data, above.size, &base);
        walk_all(m, local->trie, local->resume, local->n_resume, &base, mask);
        free(base.items.data);
    }
    free(above.data);
}

/* The first token of a text whose leading space is dropped. */
static void compute_first(ofr_matcher *m, uint32_t *mask)
{
    const ofr_trie *trie = &m->vocabulary->all;
    for (uint32_t i = 1; i < trie->n_nodes; i = trie->nodes[i].end)
        if (trie->nodes[i].byte == ' ')
            walk(m, trie, i, &m->here, mask);
    uint64_t space = m->here.first[0] & UINT64_C(1) << ' ';
    m->here.first[0] &= ~space;
    walk(m, trie, 0, &m->here, mask);
    m->here.first[0] |= space;
}

static void compute(ofr_matcher *m, uint32_t *mask)
{
    const ofr_vocabulary *v = m->vocabulary;
    memset(mask, 0, v->mask_words * sizeof *mask);
    if (m->here.ends)
        for (size_t i = 0; i < v->n_stop_ids; i++)
            if (v->stop_ids[i] >= 0 && v->stop_ids[i] < v->size)
                set_bit(mask, v->stop_ids[i]);
    m->deep = false;
    for (size_t i = 0; i < m->state.size; i++)
        m->deep = m->deep || m->stacks.sets[m->state.data[i].stack].depth + v->token_max >=
                                 OFR_GRAMMAR_DEPTH_MAX;
    if (m->at_start && v->strip_first_space) {
        compute_first(m, mask);
        return;
    }
    if (m->deep) {
        walk(m, &v->all, 0, &m->here, mask);
        return;
    }
    for (size_t i = 0; i < m->state.size && !m->overflow; i++) {
        const ofr_local *local = find_local(m, m->state.data[i]);
        if (!local)
            return;
        if (local->mask)
            for (size_t w = 0; w < v->mask_words; w++)
                mask[w] |= local->mask[w];
        for (size_t n = 0; n < local->n_ids; n++)
            set_bit(mask, local->ids[n]);
        if (local->n_resume)
            resume(m, local, m->state.data[i], mask);
    }
}

static ofr_state_mask *find_mask(ofr_state_mask *masks, size_t room, uint32_t hash,
                                 const ofr_item *items, size_t count)
{
    size_t at = hash & (room - 1);
    while (masks[at].items && (masks[at].hash != hash || masks[at].n_items != count ||
                               memcmp(masks[at].items, items, count * sizeof *items) != 0))
        at = (at + 1) & (room - 1);
    return &masks[at];
}

static bool grow_masks(ofr_matcher *m)
{
    size_t room = m->masks_room ? m->masks_room * 2 : 256;
    ofr_state_mask *masks = calloc(room, sizeof *masks);
    if (!masks)
        return false;
    for (size_t i = 0; i < m->masks_room; i++)
        if (m->masks[i].items)
            *find_mask(masks, room, m->masks[i].hash, m->masks[i].items, m->masks[i].n_items) =
                m->masks[i];
    free(m->masks);
    m->masks = masks;
    m->masks_room = room;
    return true;
}

/* Keeps m->mask as the mask of the state; without memory it is just not kept. */
static void keep_mask(ofr_matcher *m, ofr_state_mask *entry, uint32_t hash)
{
    size_t items = m->state.size * sizeof *m->state.data;
    size_t words = m->vocabulary->mask_words * sizeof *m->mask;
    entry->items = malloc(items + words);
    if (!entry->items)
        return;
    entry->mask = (uint32_t *)(void *)((char *)entry->items + items);
    entry->hash = hash;
    entry->n_items = m->state.size;
    memcpy(entry->items, m->state.data, items);
    memcpy(entry->mask, m->mask, words);
    m->n_masks++;
    m->masks_bytes += items + words + sizeof *entry;
}

int ofr_matcher_mask(ofr_matcher *matcher, const uint32_t **ret_mask, ofr_error *err)
{
    ofr_matcher *m = matcher;
    if (m->ended)
        return ofr_fail(err, OFR_EINVAL, "the text has ended");
    if (m->masks_bytes > OFR_MATCHER_MASKS_MAX)
        ofr_matcher_drop_masks(m);
    if (m->n_masks * 2 >= m->masks_room && !grow_masks(m))
        return ofr_fail(err, OFR_ENOMEM, "no memory for token masks");
    /* The first mask may differ from that of the same state later. */
    uint32_t hash = hash_words((const uint32_t *)m->state.data, m->state.size * 4) + m->at_start;
    ofr_state_mask *entry = find_mask(m->masks, m->masks_room, hash, m->state.data, m->state.size);
    bool keep = !m->at_start || !m->vocabulary->strip_first_space;
    if (entry->items && keep) {
        *ret_mask = entry->mask;
        return 0;
    }
    m->overflow = false;
    m->work_left = OFR_MATCHER_WORK_MAX;
    compute(m, m->mask);
    if (m->overflow || m->stacks.failed)
        return ofr_fail(err, OFR_ELIMIT,
                        "the grammar is too ambiguous here: more than %d ways to read the text",
                        OFR_MATCHER_ITEMS_MAX);
    bool any = false;
    for (size_t i = 0; i < m->vocabulary->mask_words && !any; i++)
        any = m->mask[i] != 0;
    if (!any && !m->here.ends)
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "no token of the vocabulary can continue what the grammar demands here");
    if (keep && !entry->items)
        keep_mask(m, entry, hash);
    *ret_mask = m->mask;
    return 0;
}
