/* The slot ledger: which tokens the KV strips of each slot hold. Layout version 1, little-endian:
 *
 *      0  header   OFR_SLOT_LEDGER_HEADER_BYTES, written by the executive before anyone maps it
 *     64  slots    [n_slots] of { u32 n_tokens, 60 bytes of 0, i32 tokens[context] }, each rounded
 *                  up to 64 bytes
 *
 * A ledger lives as long as the KV arena it describes: it is made with the arena and given to every
 * client that attaches, so that a client finds what its predecessors left in the strips. Clients
 * write it, one at a time: n_tokens goes down before a job that overwrites rows is submitted, and
 * up after that job is complete. A client that dies in between leaves a ledger that says too
 * little, never too much. The executive maps it no more than any other segment. */
#ifndef OFR_EXECUTIVE_SHARD_SLOT_LEDGER_H
#define OFR_EXECUTIVE_SHARD_SLOT_LEDGER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define OFR_SLOT_LEDGER_MAGIC UINT64_C(0x524547444c464f4f) /* "OOFLDGER" */

enum { OFR_SLOT_LEDGER_VERSION = 1, OFR_SLOT_LEDGER_HEADER_BYTES = 64 };

typedef struct ofr_slot_ledger_header {
    uint64_t magic;
    uint32_t version;
    uint32_t owner_pid; /* of the executive */
    uint64_t total_bytes;
    uint32_t n_slots;
    uint32_t context;
    uint32_t vocab_size;
    uint32_t reserved[7]; /* 0 */
} ofr_slot_ledger_header;
_Static_assert(sizeof(ofr_slot_ledger_header) == OFR_SLOT_LEDGER_HEADER_BYTES, "ledger layout");
_Static_assert(offsetof(ofr_slot_ledger_header, n_slots) == 24, "ledger layout");

/* The header of a ledger for these figures; overflow-checked. */
int ofr_slot_ledger_layout(uint32_t n_slots, uint32_t context, uint32_t vocab_size,
                           ofr_slot_ledger_header *ret_header, ofr_error *err);

/* Executive: a fresh ledger, all slots empty. */
int ofr_slot_ledger_create(const ofr_slot_ledger_header *header, int *ret_fd, ofr_error *err);

/* Executive: a new ledger that says what the one in old_fd says, without mapping that one. A client
 * that is gone may still hold the old one: it can no longer truncate or change what the next client
 * maps. A slot that cannot be read, or says what is impossible, is empty in the new one. */
int ofr_slot_ledger_renew(const ofr_slot_ledger_header *header, int old_fd, int *ret_fd,
                          ofr_error *err);

/* Executive: what a slot holds, by pread and pwrite. *ret_tokens [*ret_n] is malloc'ed; a slot that
 * says what is impossible is empty. Rows are written before this is called. */
int ofr_slot_ledger_read(const ofr_slot_ledger_header *header, int fd, uint32_t slot,
                         int32_t **ret_tokens, uint32_t *ret_n, ofr_error *err);
int ofr_slot_ledger_write(const ofr_slot_ledger_header *header, int fd, uint32_t slot,
                          const int32_t *tokens, uint32_t n, ofr_error *err);

/* One client's mapping. Belongs to one thread. */
typedef struct ofr_slot_ledger {
    ofr_slot_ledger_header header;
    unsigned char *base; /* NULL: none */
} ofr_slot_ledger;

/* Maps the ledger in `fd` (which stays the caller's) and compares it with `expected`. A slot whose
 * content is impossible is taken as empty. */
int ofr_slot_ledger_open(ofr_slot_ledger *ledger, int fd, const ofr_slot_ledger_header *expected,
                         ofr_error *err);
void ofr_slot_ledger_close(ofr_slot_ledger *ledger);

/* The tokens that the slot's strips hold; valid until the next call that changes the slot. */
const int32_t *ofr_slot_ledger_tokens(const ofr_slot_ledger *ledger, uint32_t slot,
                                      uint32_t *ret_n);
/* Rows at and beyond `n` are about to change. */
void ofr_slot_ledger_cut(ofr_slot_ledger *ledger, uint32_t slot, uint32_t n);
/* Rows [position, position + n) now hold `tokens`. Ignored unless the slot holds exactly the rows
 * before them. */
void ofr_slot_ledger_add(ofr_slot_ledger *ledger, uint32_t slot, uint32_t position,
                         const int32_t *tokens, uint32_t n);

#endif
