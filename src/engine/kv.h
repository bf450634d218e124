/* KV strips: the layout of the key/value cache that every backend reads and writes in place.
 *
 * Layout version 2. An arena holds, for each layer, for each slot, a K strip and then a V strip:
 *     [rows, n_kv_heads, head_dim] fp16, token-major
 * so that a chunk of T tokens is one contiguous range that a static graph can write and a decode
 * kernel can read. Layers are outermost: a device that runs some of them, or whose buffers do not
 * hold all of them, binds ranges of the arena. (In version 1 slots were outermost.)
 * rows = context + chunk_max: a padded last chunk cannot run over the end. Each
 * strip starts on a page. Rows at and beyond a sequence's end hold finite values (a masked row has
 * weight 0, and 0 * NaN is NaN); a fresh arena is zero. K is stored after RoPE.
 *
 * The arena itself is shared memory made by the executive; this file only does the arithmetic. */
#ifndef OFR_ENGINE_KV_H
#define OFR_ENGINE_KV_H

#include <stddef.h>
#include <stdint.h>

#include "package/package.h"

enum { OFR_KV_LAYOUT_VERSION = 2, OFR_KV_STRIP_ALIGN = 4096 };

typedef struct ofr_kv_layout {
    uint32_t version;
    uint32_t n_slots, n_layers;
    uint32_t n_kv_heads, head_dim;
    uint32_t context;     /* tokens a sequence may have */
    uint32_t chunk_max;   /* tokens one forward call may add */
    uint64_t row_bytes;   /* n_kv_heads * head_dim * 2 */
    uint64_t strip_bytes; /* (context + chunk_max) * row_bytes, rounded up to a page */
    uint64_t slot_bytes;  /* n_layers * 2 * strip_bytes: what one sequence takes, in all layers */
    uint64_t layer_bytes; /* n_slots * 2 * strip_bytes: from one layer to the next */
    uint64_t total_bytes;
} ofr_kv_layout;

/* Overflow-checked; OFR_ELIMIT names the figures. */
int ofr_kv_layout_init(ofr_kv_layout *layout, const ofr_model_params *params, uint32_t n_slots,
                       uint32_t context, uint32_t chunk_max, ofr_error *err);

/* Byte offset of a strip from the arena's base. */
uint64_t ofr_kv_strip_k(const ofr_kv_layout *layout, uint32_t slot, uint32_t layer);
uint64_t ofr_kv_strip_v(const ofr_kv_layout *layout, uint32_t slot, uint32_t layer);

/* Copies rows [0, n_rows) of every strip of slot `from` to slot `to`: a prefix that two sequences
 * share. `arena` is the arena's base. *ret_bytes is what was moved. */
int ofr_kv_copy_rows(const ofr_kv_layout *layout, void *arena, uint32_t from, uint32_t to,
                     uint32_t n_rows, uint64_t *ret_bytes, ofr_error *err);

#endif
