/* The slot ledger: its layout, and the two writes that keep it true. */
#include "executive_shard/slot_ledger.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/shm.h"

enum { SLOT_HEADER_BYTES = 64, LINE = 64 };

static uint64_t slot_stride(const ofr_slot_ledger_header *header)
{
    return ((uint64_t)header->context * 4 + SLOT_HEADER_BYTES + LINE - 1) / LINE * LINE;
}

int ofr_slot_ledger_layout(uint32_t n_slots, uint32_t context, uint32_t vocab_size,
                           ofr_slot_ledger_header *ret_header, ofr_error *err)
{
    if (n_slots == 0 || n_slots > 1 << 16 || context == 0 || context > 1 << 28 || vocab_size == 0)
        return ofr_fail(err, OFR_ELIMIT,
                        "no ledger for %" PRIu32 " slots of %" PRIu32 " tokens out of %" PRIu32,
                        n_slots, context, vocab_size);
    ofr_slot_ledger_header header = {.magic = OFR_SLOT_LEDGER_MAGIC,
                                     .version = OFR_SLOT_LEDGER_VERSION,
                                     .n_slots = n_slots,
                                     .context = context,
                                     .vocab_size = vocab_size};
    header.total_bytes = OFR_SLOT_LEDGER_HEADER_BYTES + n_slots * slot_stride(&header);
    *ret_header = header;
    return 0;
}

int ofr_slot_ledger_create(const ofr_slot_ledger_header *header, int *ret_fd, ofr_error *err)
{
    int fd = -1;
    int r = ofr_shm_create(header->total_bytes, &fd, err);
    if (r < 0)
        return r;
    ofr_slot_ledger_header written = *header;
    written.owner_pid = (uint32_t)getpid();
    if (pwrite(fd, &written, sizeof written, 0) != (ssize_t)sizeof written) {
        r = ofr_fail_errno(err, errno, "cannot write a slot ledger");
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

/* One slot by pread() and pwrite(); its count last, so that a failure leaves it empty. */
static void copy_slot(int old_fd, int new_fd, uint64_t at, uint32_t context)
{
    int32_t tokens[4096];
    uint32_t n = 0;
    if (pread(old_fd, &n, sizeof n, (off_t)at) != (ssize_t)sizeof n || n == 0 || n > context)
        return;
    uint64_t from = at + SLOT_HEADER_BYTES;
    for (uint64_t done = 0; done < (uint64_t)n * 4;) {
        size_t size = (uint64_t)n * 4 - done < sizeof tokens ? (size_t)((uint64_t)n * 4 - done)
                                                             : sizeof tokens;
        if (pread(old_fd, tokens, size, (off_t)(from + done)) != (ssize_t)size ||
            pwrite(new_fd, tokens, size, (off_t)(from + done)) != (ssize_t)size)
            return;
        done += size;
    }
    if (pwrite(new_fd, &n, sizeof n, (off_t)at) != (ssize_t)sizeof n)
        return;
}

int ofr_slot_ledger_renew(const ofr_slot_ledger_header *header, int old_fd, int *ret_fd,
                          ofr_error *err)
{
    int fd = -1;
    int r = ofr_slot_ledger_create(header, &fd, err);
    if (r < 0)
        return r;
    for (uint32_t slot = 0; slot < header->n_slots; slot++)
        copy_slot(old_fd, fd, OFR_SLOT_LEDGER_HEADER_BYTES + slot * slot_stride(header),
                  header->context);
    *ret_fd = fd;
    return 0;
}

static bool tokens_are_possible(const ofr_slot_ledger_header *header, const int32_t *tokens,
                                uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= header->vocab_size)
            return false;
    return true;
}

int ofr_slot_ledger_read(const ofr_slot_ledger_header *header, int fd, uint32_t slot,
                         int32_t **ret_tokens, uint32_t *ret_n, ofr_error *err)
{
    off_t at = (off_t)(OFR_SLOT_LEDGER_HEADER_BYTES + slot * slot_stride(header));
    uint32_t n = 0;
    if (pread(fd, &n, sizeof n, at) != (ssize_t)sizeof n || n > header->context)
        n = 0;
    int32_t *tokens = malloc(((size_t)n + 1) * sizeof *tokens);
    if (!tokens)
        return ofr_fail(err, OFR_ENOMEM, "no memory for %" PRIu32 " tokens", n);
    ssize_t size = (ssize_t)n * 4;
    if (pread(fd, tokens, (size_t)size, at + SLOT_HEADER_BYTES) != size ||
        !tokens_are_possible(header, tokens, n))
        n = 0;
    *ret_tokens = tokens;
    *ret_n = n;
    return 0;
}

int ofr_slot_ledger_write(const ofr_slot_ledger_header *header, int fd, uint32_t slot,
                          const int32_t *tokens, uint32_t n, ofr_error *err)
{
    off_t at = (off_t)(OFR_SLOT_LEDGER_HEADER_BYTES + slot * slot_stride(header));
    ssize_t size = (ssize_t)n * 4;
    if (slot >= header->n_slots || n > header->context || !tokens_are_possible(header, tokens, n))
        return ofr_fail(err, OFR_EINVAL, "slot %" PRIu32 " cannot hold these tokens", slot);
    if (pwrite(fd, tokens, (size_t)size, at + SLOT_HEADER_BYTES) != size ||
        pwrite(fd, &n, sizeof n, at) != (ssize_t)sizeof n)
        return ofr_fail_errno(err, errno, "cannot write a slot ledger");
    return 0;
}

static unsigned char *slot_at(const ofr_slot_ledger *ledger, uint32_t slot)
{
    return ledger->base + OFR_SLOT_LEDGER_HEADER_BYTES + slot * slot_stride(&ledger->header);
}

static _Atomic uint32_t *count_of(const ofr_slot_ledger *ledger, uint32_t slot)
{
    return (_Atomic uint32_t *)(void *)slot_at(ledger, slot);
}

static int32_t *tokens_of(const ofr_slot_ledger *ledger, uint32_t slot)
{
    return (int32_t *)(void *)(slot_at(ledger, slot) + SLOT_HEADER_BYTES);
}

static bool slot_is_possible(const ofr_slot_ledger *ledger, uint32_t slot)
{
    uint32_t n = atomic_load(count_of(ledger, slot));
    return n <= ledger->header.context &&
           tokens_are_possible(&ledger->header, tokens_of(ledger, slot), n);
}

int ofr_slot_ledger_open(ofr_slot_ledger *ledger, int fd, const ofr_slot_ledger_header *expected,
                         ofr_error *err)
{
    void *base = NULL;
    int r = ofr_shm_map(fd, expected->total_bytes, &base, err);
    if (r < 0)
        return r;
    ofr_slot_ledger_header found;
    memcpy(&found, base, sizeof found);
    if (found.magic != expected->magic || found.version != expected->version ||
        found.total_bytes != expected->total_bytes || found.n_slots != expected->n_slots ||
        found.context != expected->context || found.vocab_size != expected->vocab_size) {
        ofr_shm_unmap(base, expected->total_bytes);
        return ofr_fail(err, OFR_EPROTOCOL, "the slot ledger has another layout than announced");
    }
    ledger->header = *expected;
    ledger->base = base;
    for (uint32_t slot = 0; slot < expected->n_slots; slot++)
        if (!slot_is_possible(ledger, slot))
            atomic_store(count_of(ledger, slot), 0);
    return 0;
}

void ofr_slot_ledger_close(ofr_slot_ledger *ledger)
{
    ofr_shm_unmap(ledger->base, ledger->header.total_bytes);
    *ledger = (ofr_slot_ledger){0};
}

const int32_t *ofr_slot_ledger_tokens(const ofr_slot_ledger *ledger, uint32_t slot, uint32_t *ret_n)
{
    uint32_t n = atomic_load(count_of(ledger, slot));
    *ret_n = n <= ledger->header.context ? n : 0;
    return tokens_of(ledger, slot);
}

void ofr_slot_ledger_cut(ofr_slot_ledger *ledger, uint32_t slot, uint32_t n)
{
    if (slot < ledger->header.n_slots && atomic_load(count_of(ledger, slot)) > n)
        atomic_store(count_of(ledger, slot), n);
}

void ofr_slot_ledger_add(ofr_slot_ledger *ledger, uint32_t slot, uint32_t position,
                         const int32_t *tokens, uint32_t n)
{
    if (slot >= ledger->header.n_slots || position > ledger->header.context ||
        n > ledger->header.context - position || atomic_load(count_of(ledger, slot)) != position)
        return;
    memcpy(tokens_of(ledger, slot) + position, tokens, (size_t)n * sizeof *tokens);
    /* The tokens are there before they count. */
    atomic_store_explicit(count_of(ledger, slot), position + n, memory_order_release);
}
