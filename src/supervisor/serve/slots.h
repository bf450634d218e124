/* Which slot a new sequence gets: the one whose strips hold the longest beginning of its tokens,
 * with as little as possible lost that a later request may want. Pure functions, no state. */
#ifndef OFR_SUPERVISOR_SERVE_SLOTS_H
#define OFR_SUPERVISOR_SERVE_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ofr_slot_view {
    const int32_t *tokens; /* that the strips hold */
    uint32_t n_tokens;
    bool busy;             /* a sequence runs on it: may be copied from, not taken */
    uint64_t last_used_ns; /* 0: never */
} ofr_slot_view;

typedef struct ofr_slot_choice {
    uint32_t slot;
    uint32_t reused; /* tokens that need not be forwarded, those copied included */
    bool copy;       /* rows [0, reused) are to be copied from copy_from first */
    uint32_t copy_from;
} ofr_slot_choice;

enum { OFR_SLOT_COPY_MIN = 32 }; /* fewer rows are forwarded rather than copied */

/* Longest common prefix of what a slot holds and `tokens`, at most n - 1: the last token must be
 * forwarded for its logits. */
uint32_t ofr_slot_shared(const ofr_slot_view *slot, const int32_t *tokens, uint32_t n);

/* False if every slot is busy. `may_copy`: the engine can copy rows between slots. `may_reuse`:
 * otherwise only an emptied slot is chosen. */
bool ofr_slot_choose(const ofr_slot_view *slots, uint32_t n_slots, const int32_t *tokens,
                     uint32_t n, bool may_reuse, bool may_copy, ofr_slot_choice *ret_choice);

#endif
