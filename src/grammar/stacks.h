/* Sets of stacks: where rules that are open return to.
 *
 * A set is a number. Its frames say where the innermost rule may return to, each with the set of
 * what may be below. Equal sets have equal numbers, so that sets are compared as numbers, and
 * stacks that differ only at their top share what is below: the number of frames grows with the
 * text's nesting, not with the number of ways to read it. Belongs to one thread. */
#ifndef OFR_GRAMMAR_STACKS_H
#define OFR_GRAMMAR_STACKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    OFR_STACKS_BOTTOM,  /* the set of the one empty stack: the root's end is the text's end */
    OFR_STACKS_UNKNOWN, /* the set of one stack of which nothing is known */
    OFR_STACKS_NONE,    /* the empty set; what failing functions return */
};
/* Nodes of the frames of the first two sets. */
#define OFR_FRAME_BOTTOM  (UINT32_MAX - 0)
#define OFR_FRAME_UNKNOWN (UINT32_MAX - 1)

typedef struct ofr_frame {
    uint32_t node, count; /* where to continue, with which counter */
    uint32_t below;       /* set */
} ofr_frame;

typedef struct ofr_stack_set {
    uint32_t first, count; /* frames, ascending by node and count */
    uint32_t depth;        /* of its deepest stack */
} ofr_stack_set;

typedef struct ofr_stacks {
    ofr_frame *frames;
    ofr_stack_set *sets;
    uint32_t n_frames, frames_room, n_sets, sets_room;
    uint32_t *table; /* [table_size] 1 + set, 0: empty */
    uint32_t table_size;
    struct {
        uint32_t a, b, result;
    } unions[256]; /* what was united last, by hash */
    bool failed;   /* no memory, or a limit */
} ofr_stacks;

enum { OFR_STACKS_FRAMES_MAX = 1 << 22 };

int ofr_stacks_init(ofr_stacks *stacks); /* 0 or OFR_ENOMEM */
void ofr_stacks_done(ofr_stacks *stacks);

uint32_t ofr_stacks_push(ofr_stacks *stacks, uint32_t below, uint32_t node, uint32_t count);
uint32_t ofr_stacks_unite(ofr_stacks *stacks, uint32_t a, uint32_t b);
/* Drops all sets but those of `keep` [count], whose numbers change in place. */
int ofr_stacks_compact(ofr_stacks *stacks, uint32_t *const *keep, size_t count);

#endif
