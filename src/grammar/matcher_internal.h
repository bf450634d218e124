/* What the files of the matcher share. Nothing outside src/grammar includes this. */
#ifndef OFR_GRAMMAR_MATCHER_INTERNAL_H
#define OFR_GRAMMAR_MATCHER_INTERNAL_H

#include "grammar/grammar_internal.h"
#include "grammar/matcher.h"
#include "grammar/stacks.h"

enum {
    OFR_MATCHER_ITEMS_MAX = 1 << 16,   /* ways to read a text at once */
    OFR_MATCHER_WORK_MAX = 1 << 25,    /* steps of one call: about a second */
    OFR_MATCHER_MASKS_MAX = 32 << 20,  /* bytes of masks kept by state */
    OFR_MATCHER_LOCALS_MAX = 32 << 20, /* bytes of masks kept by node */
    OFR_MATCHER_FRAMES_KEPT = 1 << 17, /* frames beyond which unused ones are dropped */
};

/* A place in the grammar: at a node, with a counter, inside of a character or not.
 * partial: 0, or bytes of the character: 24 bits of its value so far, then bytes still to come,
 * then its bytes in all. */
typedef struct ofr_item {
    uint32_t node, count, partial, stack;
} ofr_item;

typedef struct ofr_items {
    ofr_item *data;
    size_t size, room;
} ofr_items;

/* What items lead to without a byte: BYTE and CLASS nodes. */
typedef struct ofr_leaves {
    ofr_items items;
    uint64_t first[4]; /* bytes that any of them takes */
    bool ends;         /* the text may end here */
    bool pops;         /* what is above the unknown stack may end here */
} ofr_leaves;

/* What a node allows, whatever it returns to. */
typedef struct ofr_local {
    uint32_t node, partial, need, left; /* the key; need and left: of the counter */
    bool used;
    const ofr_trie *trie; /* of `resume` */
    uint32_t *mask;       /* [mask_words] or NULL: sparse */
    int32_t *ids;         /* [n_ids] sparse */
    uint32_t *resume;     /* [n_resume] trie nodes from which the stack decides */
    size_t n_ids, n_resume;
} ofr_local;

/* The mask of a state. */
typedef struct ofr_state_mask {
    uint32_t hash;
    size_t n_items;
    ofr_item *items; /* the key; NULL: unused. One allocation with the mask. */
    uint32_t *mask;
} ofr_state_mask;

struct ofr_matcher {
    const ofr_grammar *grammar;
    const ofr_vocabulary *vocabulary;
    ofr_stacks stacks;
    ofr_items state; /* sorted; no RET and NEXT nodes */
    ofr_leaves here; /* of `state` */
    bool at_start, ended;
    bool deep;          /* a token may reach OFR_GRAMMAR_DEPTH_MAX: masks by node do not hold */
    bool overflow;      /* since it was cleared: too many items, too much work, or no memory */
    uint32_t work_left; /* of OFR_MATCHER_WORK_MAX */

    /* Scratch of ofr_matcher_expand: which items of `work` are at a node. */
    ofr_items work;
    uint32_t *head;  /* [nodes] 1 + the last of them in `work`, valid if stamp[node] == round */
    uint32_t *stamp; /* [nodes] */
    uint32_t *link;  /* [link_room] 1 + the one before */
    size_t link_room;
    uint32_t round;

    ofr_items step;     /* what a byte leads to */
    ofr_leaves *levels; /* [token_max + 1] of a walk */
    ofr_leaves *first;  /* [256] after one byte; first_used says which are valid */
    uint64_t first_used[4];
    uint32_t *resume; /* scratch [resume_room] */
    size_t n_resume, resume_room;
    uint32_t *local_mask; /* scratch [mask_words] */

    uint32_t *mask; /* [mask_words], of a state whose mask is not kept */
    ofr_state_mask *masks;
    size_t n_masks, masks_room, masks_bytes;
    ofr_local *locals;
    size_t n_locals, locals_room, locals_bytes;
};

void ofr_items_add(ofr_matcher *m, ofr_items *items, ofr_item item);
/* Follows what needs no byte from `items` [count], replacing *leaves. */
void ofr_matcher_expand(ofr_matcher *m, const ofr_item *items, size_t count, ofr_leaves *leaves);
/* Replaces m->step with what `byte` leads to; false if nothing. */
bool ofr_matcher_step(ofr_matcher *m, const ofr_leaves *leaves, uint8_t byte);
static inline bool ofr_leaves_take(const ofr_leaves *leaves, uint8_t byte)
{
    return leaves->first[byte >> 6] >> (byte & 63) & 1;
}
/* Nothing can follow: only where the text would be too deep. */
static inline bool ofr_leaves_dead(const ofr_leaves *leaves)
{
    return leaves->items.size == 0 && !leaves->ends && !leaves->pops;
}

/* mask.c */
void ofr_matcher_drop_masks(ofr_matcher *m);
void ofr_matcher_drop_locals(ofr_matcher *m);

#endif
