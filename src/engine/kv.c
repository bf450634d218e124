/* Arithmetic of the KV strips: sizes and offsets, overflow-checked. */
#include "engine/kv.h"

#include <string.h>

int ofr_kv_layout_init(ofr_kv_layout *layout, const ofr_model_params *params, uint32_t n_slots,
                       uint32_t context, uint32_t chunk_max, ofr_error *err)
{
    if (n_slots == 0 || context == 0 || chunk_max == 0) {
        return ofr_fail(err, OFR_EINVAL,
                        "KV layout: slots, context and chunk must be at least 1 (got %u, %u, %u)",
                        n_slots, context, chunk_max);
    }
    ofr_kv_layout made = {
        .version = OFR_KV_LAYOUT_VERSION,
        .n_slots = n_slots,
        .n_layers = params->n_layers,
        .n_kv_heads = params->n_kv_heads,
        .head_dim = params->head_dim,
        .context = context,
        .chunk_max = chunk_max,
    };
    uint64_t rows = (uint64_t)context + chunk_max;
    bool overflow =
        __builtin_mul_overflow((uint64_t)params->n_kv_heads * 2, params->head_dim,
                               &made.row_bytes) ||
        __builtin_mul_overflow(rows, made.row_bytes, &made.strip_bytes) ||
        __builtin_add_overflow(made.strip_bytes, OFR_KV_STRIP_ALIGN - 1, &made.strip_bytes);
    made.strip_bytes &= ~(uint64_t)(OFR_KV_STRIP_ALIGN - 1);
    overflow = overflow ||
               __builtin_mul_overflow((uint64_t)params->n_layers * 2, made.strip_bytes,
                                      &made.slot_bytes) ||
               __builtin_mul_overflow((uint64_t)n_slots, made.slot_bytes, &made.total_bytes);
    if (overflow || made.total_bytes > (uint64_t)INT64_MAX) {
        return ofr_fail(
            err, OFR_ELIMIT,
            "KV layout: %u slots of %u tokens in %u layers of %u x %u do not fit in the "
            "address space; ask for a shorter context or fewer slots",
            n_slots, context, params->n_layers, params->n_kv_heads, params->head_dim);
    }
    if (made.total_bytes == 0) {
        return ofr_fail(err, OFR_EINVAL, "KV layout: the model has no layers or no KV heads");
    }
    made.layer_bytes = 2 * (uint64_t)n_slots * made.strip_bytes;
    *layout = made;
    return 0;
}

uint64_t ofr_kv_strip_k(const ofr_kv_layout *layout, uint32_t slot, uint32_t layer)
{
    return layer * layout->layer_bytes + 2 * (uint64_t)slot * layout->strip_bytes;
}

uint64_t ofr_kv_strip_v(const ofr_kv_layout *layout, uint32_t slot, uint32_t layer)
{
    return ofr_kv_strip_k(layout, slot, layer) + layout->strip_bytes;
}

int ofr_kv_copy_rows(const ofr_kv_layout *layout, void *arena, uint32_t from, uint32_t to,
                     uint32_t n_rows, uint64_t *ret_bytes, ofr_error *err)
{
    if (from >= layout->n_slots || to >= layout->n_slots || from == to ||
        n_rows > layout->context) {
        return ofr_fail(err, OFR_EINVAL, "KV copy of %u rows from slot %u to slot %u of %u", n_rows,
                        from, to, layout->n_slots);
    }
    size_t bytes = (size_t)(n_rows * layout->row_bytes);
    char *base = arena;
    for (uint32_t layer = 0; layer < layout->n_layers; layer++) {
        memcpy(base + ofr_kv_strip_k(layout, to, layer), base + ofr_kv_strip_k(layout, from, layer),
               bytes);
        memcpy(base + ofr_kv_strip_v(layout, to, layer), base + ofr_kv_strip_v(layout, from, layer),
               bytes);
    }
    *ret_bytes = 2 * (uint64_t)layout->n_layers * bytes;
    return 0;
}
