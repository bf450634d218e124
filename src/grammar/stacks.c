/* Sets of stacks. */
#include "grammar/stacks.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"

static uint32_t mix(uint32_t hash, uint32_t value)
{
    hash = (hash ^ value) * 0x9E3779B1u;
    return hash ^ hash >> 15;
}

static uint32_t hash_frames(const ofr_frame *frames, uint32_t count)
{
    uint32_t hash = count;
    for (uint32_t i = 0; i < count; i++)
        hash = mix(mix(mix(hash, frames[i].node), frames[i].count), frames[i].below);
    return hash;
}

static bool reserve(void **data, uint32_t *room, uint64_t wanted, size_t size)
{
    if (wanted <= *room)
        return true;
    uint64_t grown = *room ? *room : 256;
    while (grown < wanted)
        grown *= 2;
    void *moved = realloc(*data, grown * size);
    if (!moved)
        return false;
    *data = moved;
    *room = (uint32_t)grown;
    return true;
}

static bool grow_table(ofr_stacks *s)
{
    uint32_t size = s->table_size ? s->table_size * 2 : 1024;
    uint32_t *table = calloc(size, sizeof *table);
    if (!table)
        return false;
    for (uint32_t i = 0; i < s->n_sets; i++) {
        const ofr_stack_set *set = &s->sets[i];
        uint32_t at = hash_frames(s->frames + set->first, set->count) & (size - 1);
        while (table[at])
            at = (at + 1) & (size - 1);
        table[at] = i + 1;
    }
    free(s->table);
    s->table = table;
    s->table_size = size;
    return true;
}

/* The number of the set with these frames, which lie at frames[n_frames ..) already. */
static uint32_t intern(ofr_stacks *s, uint32_t count)
{
    const ofr_frame *frames = s->frames + s->n_frames;
    uint32_t mask = s->table_size - 1, at = hash_frames(frames, count) & mask;
    for (; s->table[at]; at = (at + 1) & mask) {
        const ofr_stack_set *set = &s->sets[s->table[at] - 1];
        if (set->count == count &&
            memcmp(s->frames + set->first, frames, count * sizeof *frames) == 0)
            return s->table[at] - 1;
    }
    if (!reserve((void **)&s->sets, &s->sets_room, (uint64_t)s->n_sets + 1, sizeof *s->sets) ||
        s->n_frames + count > OFR_STACKS_FRAMES_MAX) {
        s->failed = true;
        return OFR_STACKS_NONE;
    }
    uint32_t depth = 0;
    for (uint32_t i = 0; i < count; i++)
        if (frames[i].node < OFR_FRAME_UNKNOWN && s->sets[frames[i].below].depth >= depth)
            depth = s->sets[frames[i].below].depth + 1;
    s->sets[s->n_sets] = (ofr_stack_set){s->n_frames, count, depth};
    s->n_frames += count;
    s->table[at] = ++s->n_sets;
    if (s->n_sets > s->table_size / 2 && !grow_table(s))
        s->failed = true;
    return s->n_sets - 1;
}

static bool room_for(ofr_stacks *s, uint32_t count)
{
    if (!s->failed && !reserve((void **)&s->frames, &s->frames_room, (uint64_t)s->n_frames + count,
                               sizeof *s->frames))
        s->failed = true;
    return !s->failed;
}

int ofr_stacks_init(ofr_stacks *stacks)
{
    memset(stacks, 0, sizeof *stacks);
    if (!grow_table(stacks) || !room_for(stacks, 4)) {
        ofr_stacks_done(stacks);
        return OFR_ENOMEM;
    }
    stacks->frames[0] = (ofr_frame){.node = OFR_FRAME_BOTTOM};
    intern(stacks, 1);
    stacks->frames[stacks->n_frames] = (ofr_frame){.node = OFR_FRAME_UNKNOWN};
    intern(stacks, 1);
    intern(stacks, 0);
    return stacks->failed ? OFR_ENOMEM : 0;
}

void ofr_stacks_done(ofr_stacks *stacks)
{
    free(stacks->frames);
    free(stacks->sets);
    free(stacks->table);
    memset(stacks, 0, sizeof *stacks);
}

uint32_t ofr_stacks_push(ofr_stacks *stacks, uint32_t below, uint32_t node, uint32_t count)
{
    if (!room_for(stacks, 1))
        return OFR_STACKS_NONE;
    stacks->frames[stacks->n_frames] = (ofr_frame){node, count, below};
    return intern(stacks, 1);
}

static int compare(const ofr_frame *a, const ofr_frame *b)
{
    if (a->node != b->node)
        return a->node < b->node ? -1 : 1;
    return (a->count > b->count) - (a->count < b->count);
}

uint32_t ofr_stacks_unite(ofr_stacks *stacks, uint32_t a, uint32_t b)
{
    if (a == b || b == OFR_STACKS_NONE)
        return a;
    if (a == OFR_STACKS_NONE)
        return b;
    if (a > b) {
        uint32_t swap = a;
        a = b;
        b = swap;
    }
    uint32_t slot = mix(mix(0, a), b) % 256;
    if (stacks->unions[slot].a == a && stacks->unions[slot].b == b)
        return stacks->unions[slot].result;
    ofr_stack_set x = stacks->sets[a], y = stacks->sets[b];
    /* Below first: that may add sets and move the arrays. The recursion is as deep as the stacks,
     * which OFR_GRAMMAR_DEPTH_MAX bounds. */
    ofr_frame small[32], *merged = small;
    if (x.count + y.count > 32 && !(merged = malloc((x.count + y.count) * sizeof *merged))) {
        stacks->failed = true;
        return OFR_STACKS_NONE;
    }
    uint32_t n = 0, i = 0, j = 0;
    while (i < x.count || j < y.count) {
        int order = i == x.count ? 1
                    : j == y.count
                        ? -1
                        : compare(&stacks->frames[x.first + i], &stacks->frames[y.first + j]);
        if (order == 0) {
            ofr_frame frame = stacks->frames[x.first + i];
            uint32_t other = stacks->frames[y.first + j].below;
            if (frame.node < OFR_FRAME_UNKNOWN)
                frame.below = ofr_stacks_unite(stacks, frame.below, other);
            merged[n++] = frame;
            i++;
            j++;
        } else if (order < 0) {
            merged[n++] = stacks->frames[x.first + i++];
        } else {
            merged[n++] = stacks->frames[y.first + j++];
        }
    }
    uint32_t result = OFR_STACKS_NONE;
    if (room_for(stacks, n)) {
        memcpy(stacks->frames + stacks->n_frames, merged, n * sizeof *merged);
        result = intern(stacks, n);
    }
    if (merged != small)
        free(merged);
    stacks->unions[slot].a = a;
    stacks->unions[slot].b = b;
    stacks->unions[slot].result = result;
    return result;
}

/* Copies a set and all below it; `moved` [n_sets]: 1 + the new number, 0: not yet. */
static uint32_t copy_set(const ofr_stacks *from, ofr_stacks *to, uint32_t set, uint32_t *moved)
{
    if (set <= OFR_STACKS_NONE)
        return set;
    if (moved[set])
        return moved[set] - 1;
    const ofr_stack_set *s = &from->sets[set];
    ofr_frame small[32], *frames = small;
    if (s->count > 32 && !(frames = malloc(s->count * sizeof *frames))) {
        to->failed = true;
        return OFR_STACKS_NONE;
    }
    for (uint32_t i = 0; i < s->count; i++) {
        frames[i] = from->frames[s->first + i];
        if (frames[i].node < OFR_FRAME_UNKNOWN)
            frames[i].below = copy_set(from, to, frames[i].below, moved);
    }
    uint32_t result = OFR_STACKS_NONE;
    if (room_for(to, s->count)) {
        memcpy(to->frames + to->n_frames, frames, s->count * sizeof *frames);
        result = intern(to, s->count);
    }
    if (frames != small)
        free(frames);
    moved[set] = result + 1;
    return result;
}

int ofr_stacks_compact(ofr_stacks *stacks, uint32_t *const *keep, size_t count)
{
    ofr_stacks *fresh = malloc(sizeof *fresh);
    uint32_t *moved = calloc(stacks->n_sets, sizeof *moved);
    if (!fresh || !moved || ofr_stacks_init(fresh) < 0) {
        free(fresh);
        free(moved);
        return OFR_ENOMEM;
    }
    for (size_t i = 0; i < count; i++)
        *keep[i] = copy_set(stacks, fresh, *keep[i], moved);
    free(moved);
    ofr_stacks_done(stacks);
    *stacks = *fresh;
    free(fresh);
    return stacks->failed ? OFR_ENOMEM : 0;
}
