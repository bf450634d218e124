/* KV that outlives the executive: the rows of each slot in a file, written when the executive ends
 * in order and read when it starts. Version 1 of the file, little-endian:
 *
 *      0  u64 magic, u32 version, u32 version of the KV layout
 *     16  char[64] fingerprint of the package
 *     80  u32 n_layers, n_kv_heads, head_dim, bytes of an element (2: fp16)
 *     96  u32 n_tokens, u32 0
 *    104  u64 bytes that follow the header
 *    112  char[64] sha256 of them
 *    176  16 bytes of 0
 *    192  i32 tokens[n_tokens], rounded up to 64 bytes
 *      …  for each layer: rows [0, n_tokens) of its K strip, then of its V strip
 *
 * A file is named after package and tokens. Strips and ledger are read and written through their
 * descriptors, never mapped. Single thread, while no worker has a job. */
#ifndef OFR_EXECUTIVE_SHARD_KV_CACHE_H
#define OFR_EXECUTIVE_SHARD_KV_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/kv.h"
#include "executive_shard/slot_ledger.h"

#define OFR_KV_CACHE_MAGIC UINT64_C(0x454843434156464f) /* "OFVACCHE" */

enum { OFR_KV_CACHE_VERSION = 1, OFR_KV_CACHE_HEADER_BYTES = 192, OFR_KV_CACHE_TOKENS_MIN = 32 };

typedef struct ofr_kv_cache_header {
    uint64_t magic;
    uint32_t version, layout_version;
    char fingerprint[64];
    uint32_t n_layers, n_kv_heads, head_dim, element_bytes;
    uint32_t n_tokens, reserved;
    uint64_t payload_bytes;
    char sha256[64];
    char padding[16];
} ofr_kv_cache_header;
_Static_assert(sizeof(ofr_kv_cache_header) == OFR_KV_CACHE_HEADER_BYTES, "cache layout");
_Static_assert(offsetof(ofr_kv_cache_header, n_tokens) == 96, "cache layout");
_Static_assert(offsetof(ofr_kv_cache_header, sha256) == 112, "cache layout");

typedef struct ofr_kv_cache {
    const char *directory;   /* made where absent, mode 0700 */
    const char *fingerprint; /* of the package, 64 hex digits */
    uint64_t max_bytes;      /* of all files in the directory together */
    const ofr_kv_layout *layout;
    const ofr_slot_ledger_header *ledger;
    int kv_fd, ledger_fd;
} ofr_kv_cache;

/* Writes what the slots hold; files of other contents go, the ones not used for longest first,
 * until all fit. A slot whose tokens are the beginning of another's is left out. *ret_tokens is
 * what was kept. */
int ofr_kv_cache_save(const ofr_kv_cache *cache, uint64_t *ret_tokens, ofr_error *err);

/* Fills empty slots with this package's files, latest first. A file that is damaged or of another
 * shape is removed and left out. *ret_tokens is what was read. */
int ofr_kv_cache_load(const ofr_kv_cache *cache, uint64_t *ret_tokens, ofr_error *err);

#endif
