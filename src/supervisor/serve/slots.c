/* The choice of a slot. */
#include "supervisor/serve/slots.h"

uint32_t ofr_slot_shared(const ofr_slot_view *slot, const int32_t *tokens, uint32_t n)
{
    uint32_t limit = slot->n_tokens + 1 < n ? slot->n_tokens : n - 1;
    uint32_t shared = 0;
    while (shared < limit && slot->tokens[shared] == tokens[shared])
        shared++;
    return shared;
}

bool ofr_slot_choose(const ofr_slot_view *slots, uint32_t n_slots, const int32_t *tokens,
                     uint32_t n, bool may_reuse, bool may_copy, ofr_slot_choice *ret_choice)
{
    uint32_t best = n_slots, oldest = n_slots, source = n_slots;
    uint32_t best_shared = 0, source_shared = 0;
    for (uint32_t i = 0; i < n_slots; i++) {
        const ofr_slot_view *slot = &slots[i];
        uint32_t shared = may_reuse ? ofr_slot_shared(slot, tokens, n) : 0;
        if (source == n_slots || shared > source_shared) {
            source = i;
            source_shared = shared;
        }
        if (slot->busy)
            continue;
        if (oldest == n_slots || slot->last_used_ns < slots[oldest].last_used_ns)
            oldest = i;
        if (best == n_slots || shared > best_shared) {
            best = i;
            best_shared = shared;
        }
    }
    if (oldest == n_slots)
        return false;
    /* Taking the best one loses what it holds beyond the shared rows. Where that is most of it, the
     * slot that was not used for longest takes a copy instead. */
    bool loses = best_shared < slots[best].n_tokens - slots[best].n_tokens / 4;
    bool better = source_shared > best_shared || (loses && oldest != best);
    if (may_copy && better && source != oldest && source_shared >= OFR_SLOT_COPY_MIN &&
        source_shared > ofr_slot_shared(&slots[oldest], tokens, n)) {
        *ret_choice = (ofr_slot_choice){oldest, source_shared, true, source};
        return true;
    }
    if (best_shared == 0 || (loses && best_shared < OFR_SLOT_COPY_MIN))
        *ret_choice = (ofr_slot_choice){oldest, 0, false, 0};
    else
        *ret_choice = (ofr_slot_choice){best, best_shared, false, 0};
    if (!ret_choice->copy && may_reuse && ret_choice->slot == oldest)
        ret_choice->reused = ofr_slot_shared(&slots[oldest], tokens, n);
    return true;
}
