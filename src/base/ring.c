/* The single-producer single-consumer ring in shared memory; ring.h names its barriers. */
#include "base/ring.h"

#include <string.h>

#include "base/clock.h"
#include "base/futex.h"

void ofr_ring_init(ofr_ring *ring, void *base, uint32_t capacity, uint32_t entry_bytes)
{
    ring->header = base;
    ring->entries = (unsigned char *)base + OFR_RING_HEADER_BYTES;
    ring->capacity = capacity;
    ring->entry_bytes = entry_bytes;
    ring->index = 0;
}

static unsigned char *entry_at(const ofr_ring *ring)
{
    return ring->entries + (size_t)(ring->index & (ring->capacity - 1)) * ring->entry_bytes;
}

int ofr_ring_push(ofr_ring *ring, const void *entry)
{
    /* (B) acquire: the consumer has copied out what is overwritten below. */
    uint32_t tail = atomic_load_explicit(&ring->header->tail, memory_order_acquire);
    uint32_t used = ring->index - tail;
    if (used > ring->capacity)
        return OFR_EPROTOCOL;
    if (used == ring->capacity)
        return OFR_EAGAIN;
    memcpy(entry_at(ring), entry, ring->entry_bytes);
    ring->index++;
    /* (A) release: the entry is visible before its index. */
    atomic_store_explicit(&ring->header->head, ring->index, memory_order_release);
    ofr_ring_notify(ring->header);
    return 0;
}

int ofr_ring_pop(ofr_ring *ring, void *ret_entry)
{
    /* (A) acquire. */
    uint32_t head = atomic_load_explicit(&ring->header->head, memory_order_acquire);
    uint32_t ready = head - ring->index;
    if (ready == 0)
        return OFR_EAGAIN;
    if (ready > ring->capacity)
        return OFR_EPROTOCOL;
    memcpy(ret_entry, entry_at(ring), ring->entry_bytes);
    ring->index++;
    /* (B) release: the copy is complete before the entry may be reused. */
    atomic_store_explicit(&ring->header->tail, ring->index, memory_order_release);
    return 0;
}

void ofr_ring_notify(ofr_ring_header *header)
{
    /* (C) */
    atomic_fetch_add_explicit(&header->bell, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&header->waiting, memory_order_seq_cst))
        ofr_futex_wake(&header->bell);
}

uint32_t ofr_ring_bell(const ofr_ring *ring)
{
    return atomic_load_explicit(&ring->header->bell, memory_order_seq_cst);
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

int ofr_ring_wait(ofr_ring *ring, uint32_t bell, uint64_t spin_ns, uint64_t timeout_ns)
{
    uint64_t start = ofr_clock_ns();
    while (spin_ns) {
        for (int i = 0; i < 32; i++) {
            if (ofr_ring_bell(ring) != bell)
                return 0;
            relax();
        }
        if (ofr_clock_ns() - start >= spin_ns)
            break;
    }
    int r = 0;
    /* (C) */
    atomic_store_explicit(&ring->header->waiting, 1, memory_order_seq_cst);
    while (ofr_ring_bell(ring) == bell && r == 0) {
        uint64_t left = UINT64_MAX;
        if (timeout_ns != UINT64_MAX) {
            uint64_t spent = ofr_clock_ns() - start;
            left = spent < timeout_ns ? timeout_ns - spent : 0;
        }
        r = ofr_futex_wait(&ring->header->bell, bell, left);
    }
    atomic_store_explicit(&ring->header->waiting, 0, memory_order_seq_cst);
    return ofr_ring_bell(ring) != bell ? 0 : r;
}
