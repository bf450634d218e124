/* A ring of fixed-size entries in shared memory, for one producer and one consumer that may be
 * different processes and do not trust each other. Every barrier of the project's shared memory is
 * in this file and in ring.c.
 *
 * Layout, from the ring's base (64-byte aligned):
 *      0  u32 head      entries ever published, modulo 2^32; written by the producer only
 *     64  u32 tail      entries ever taken, modulo 2^32; written by the consumer only
 *    128  u32 bell      futex word; whoever has news for the consumer adds 1
 *    192  u32 waiting   1 while the consumer sleeps or is about to; written by the consumer only
 *    256  entries       [capacity, entry_bytes]; entry i is at index i % capacity
 *
 * Each side keeps its own index privately and never reads it back; what it reads from the other
 * side is checked, so a hostile peer can lose or repeat messages but cannot lead this side out of
 * the ring. Pairs of acquire and release:
 *   (A) head: release by push after the entry is written; acquire by pop before it is read.
 *   (B) tail: release by pop after the entry is copied; acquire by push before it is overwritten.
 *   (C) bell and waiting: sequentially consistent, because each side writes one and then reads the
 *       other: push adds to bell, then reads waiting; the consumer sets waiting, then reads bell.
 *       At least one of them sees the other's write, so no wake-up is lost. */
#ifndef OFR_BASE_RING_H
#define OFR_BASE_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { OFR_RING_LINE = 64, OFR_RING_HEADER_BYTES = 256 };

typedef struct ofr_ring_header {
    _Alignas(OFR_RING_LINE) _Atomic uint32_t head;
    _Alignas(OFR_RING_LINE) _Atomic uint32_t tail;
    _Alignas(OFR_RING_LINE) _Atomic uint32_t bell;
    _Alignas(OFR_RING_LINE) _Atomic uint32_t waiting;
} ofr_ring_header;

_Static_assert(offsetof(ofr_ring_header, head) == 0, "ring layout");
_Static_assert(offsetof(ofr_ring_header, tail) == 64, "ring layout");
_Static_assert(offsetof(ofr_ring_header, bell) == 128, "ring layout");
_Static_assert(offsetof(ofr_ring_header, waiting) == 192, "ring layout");
_Static_assert(sizeof(ofr_ring_header) == OFR_RING_HEADER_BYTES, "ring layout");
_Static_assert(sizeof(_Atomic uint32_t) == 4, "futex words are 32 bits");

/* One side of a ring: private memory of one thread. Zeroed shared memory is an empty ring. */
typedef struct ofr_ring {
    ofr_ring_header *header; /* borrowed */
    unsigned char *entries;
    uint32_t capacity; /* a power of two */
    uint32_t entry_bytes;
    uint32_t index; /* the producer's head or the consumer's tail */
} ofr_ring;

/* Bytes of a ring; capacity must be a power of two. */
static inline size_t ofr_ring_bytes(uint32_t capacity, uint32_t entry_bytes)
{
    return OFR_RING_HEADER_BYTES + (size_t)capacity * entry_bytes;
}

void ofr_ring_init(ofr_ring *ring, void *base, uint32_t capacity, uint32_t entry_bytes);

/* Producer: copies one entry in and wakes the consumer. OFR_EAGAIN: full; OFR_EPROTOCOL: the
 * consumer's index is impossible. */
int ofr_ring_push(ofr_ring *ring, const void *entry);

/* Consumer: copies one entry out; what the producer changes afterwards is not seen. OFR_EAGAIN:
 * empty; OFR_EPROTOCOL: the producer's index is impossible. */
int ofr_ring_pop(ofr_ring *ring, void *ret_entry);

/* Anyone: wakes the consumer without an entry. */
void ofr_ring_notify(ofr_ring_header *header);

/* Consumer: the bell as it is now. Read it, then look for news (pop, flags), then wait with it. */
uint32_t ofr_ring_bell(const ofr_ring *ring);

/* Consumer: returns once the bell is no longer `bell` (0), or after timeout_ns (OFR_ETIMEDOUT;
 * UINT64_MAX: no limit). Spins for at most spin_ns first: a wake-up costs more than a short wait.
 */
int ofr_ring_wait(ofr_ring *ring, uint32_t bell, uint64_t spin_ns, uint64_t timeout_ns);

#endif
