/* From the blocks of GGUF (gguf_dequantize.c has their layouts) to the package's rows. */
#include "bake_model/bake_keep.h"

#include <string.h>

enum { BLOCK = 32 };

static bool kept_as(enum ofr_gguf_type type, enum ofr_dtype *ret_dtype)
{
    switch (type) {
    case OFR_GGUF_TYPE_Q4_0:
        *ret_dtype = OFR_DTYPE_I4;
        return true;
    case OFR_GGUF_TYPE_Q4_1:
        *ret_dtype = OFR_DTYPE_I4M;
        return true;
    case OFR_GGUF_TYPE_Q8_0:
        *ret_dtype = OFR_DTYPE_I8;
        return true;
    default:
        return false;
    }
}

void ofr_bake_keep_quantization(ofr_bake_model *model)
{
    for (size_t i = 0; i < model->n_tensors; i++) {
        ofr_bake_tensor *t = &model->tensors[i];
        if (t->n_dims != 2 || !kept_as(t->source.type, &t->dtype))
            continue;
        t->keep = true;
        t->group_size = BLOCK;
    }
}

/* Element i of a block is in the low nibble of byte i, element i + 16 in the high one; here two
 * neighbours share a byte. XOR 8 takes 8 off, in two's complement. */
static void order_nibbles(const uint8_t *from, uint8_t *to)
{
    for (size_t i = 0; i < BLOCK; i += 2) {
        int shift = i < 16 ? 0 : 4;
        uint8_t low = from[i % 16] >> shift & 15, high = from[i % 16 + 1] >> shift & 15;
        to[i / 2] = (uint8_t)((low | high << 4) ^ 0x88);
    }
}

void ofr_bake_keep_row(enum ofr_gguf_type type, const void *raw, size_t k, uint8_t *ret_data,
                       uint16_t *ret_scales, uint16_t *ret_minima)
{
    const uint8_t *block = raw;
    size_t bytes = ofr_gguf_type_block_bytes(type);
    for (size_t b = 0; b < k / BLOCK; b++, block += bytes) {
        memcpy(&ret_scales[b], block, sizeof *ret_scales);
        if (type == OFR_GGUF_TYPE_Q8_0) {
            memcpy(ret_data + b * BLOCK, block + 2, BLOCK);
        } else if (type == OFR_GGUF_TYPE_Q4_1) {
            memcpy(&ret_minima[b], block + 2, sizeof *ret_minima);
            order_nibbles(block + 4, ret_data + b * BLOCK / 2);
        } else {
            order_nibbles(block + 2, ret_data + b * BLOCK / 2);
        }
    }
}
