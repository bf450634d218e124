/* Dequantization of the GGUF block formats. Each function's comment is the layout of its block. */
#include "bake_model/gguf_dequantize.h"

#include <string.h>

#include "base/fp16.h"

typedef unsigned char byte;

static float load_half(const byte *data)
{
    uint16_t half;
    memcpy(&half, data, sizeof half);
    return ofr_half_to_float(half);
}

/* f16 d; 16 bytes: element i in the low nibbles, i + 16 in the high ones; d * (q - 8). */
static void q4_0(const byte *block, float *values)
{
    float d = load_half(block);
    const byte *q = block + 2;
    for (int i = 0; i < 16; i++) {
        values[i] = d * (float)((q[i] & 15) - 8);
        values[i + 16] = d * (float)((q[i] >> 4) - 8);
    }
}

/* f16 d, f16 m; 16 bytes as in Q4_0; d * q + m. */
static void q4_1(const byte *block, float *values)
{
    float d = load_half(block), m = load_half(block + 2);
    const byte *q = block + 4;
    for (int i = 0; i < 16; i++) {
        values[i] = d * (float)(q[i] & 15) + m;
        values[i + 16] = d * (float)(q[i] >> 4) + m;
    }
}

/* f16 d; u32 with the fifth bit of element i at bit i; 16 bytes as in Q4_0; d * (q - 16). */
static void q5_0(const byte *block, float *values)
{
    float d = load_half(block);
    uint32_t high;
    memcpy(&high, block + 2, sizeof high);
    const byte *q = block + 6;
    for (int i = 0; i < 16; i++) {
        int a = (q[i] & 15) | (int)(high >> i & 1) << 4;
        int b = q[i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
        values[i] = d * (float)(a - 16);
        values[i + 16] = d * (float)(b - 16);
    }
}

/* f16 d, f16 m; then as Q5_0; d * q + m. */
static void q5_1(const byte *block, float *values)
{
    float d = load_half(block), m = load_half(block + 2);
    uint32_t high;
    memcpy(&high, block + 4, sizeof high);
    const byte *q = block + 8;
    for (int i = 0; i < 16; i++) {
        int a = (q[i] & 15) | (int)(high >> i & 1) << 4;
        int b = q[i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
        values[i] = d * (float)a + m;
        values[i + 16] = d * (float)b + m;
    }
}

/* f16 d; 32 int8; q * d. */
static void q8_0(const byte *block, float *values)
{
    float d = load_half(block);
    for (int i = 0; i < 32; i++)
        values[i] = (float)(int8_t)block[2 + i] * d;
}

/* 16 bytes: scale (low nibble) and minimum (high nibble) of each 16 elements; 64 bytes of 2-bit
 * elements: in each half of 32 bytes, bits 2s of byte i are element 32 s + i; f16 d, f16 dmin. */
static void q2_k(const byte *block, float *values)
{
    const byte *scales = block, *q = block + 16;
    float d = load_half(block + 80), dmin = load_half(block + 82);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, shift = i % 128 / 32 * 2;
        float dl = d * (float)(scales[i / 16] & 15);
        float ml = dmin * (float)(scales[i / 16] >> 4);
        int value = q[half * 32 + i % 32] >> shift & 3;
        values[i] = dl * (float)value - ml;
    }
}

/* 32 bytes: bit i / 32 of byte i % 32 is clear where 4 is to be subtracted from element i; 64 bytes
 * of 2-bit elements as in Q2_K; 12 bytes: sixteen 6-bit scales, low nibbles first (8 bytes), then
 * the upper 2 bits; f16 d; d * (scale - 32) * q. */
static void q3_k(const byte *block, float *values)
{
    const byte *mask = block, *q = block + 32, *packed = block + 96;
    float d = load_half(block + 108);
    float scales[16];
    for (int j = 0; j < 16; j++) {
        int low = packed[j % 8] >> (j / 8 * 4) & 15;
        int high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        scales[j] = d * (float)((low | high << 4) - 32);
    }
    for (int i = 0; i < 256; i++) {
        int half = i / 128, shift = i % 128 / 32 * 2;
        int value = q[half * 32 + i % 32] >> shift & 3;
        if (!(mask[i % 32] >> (i / 32) & 1))
            value -= 4;
        values[i] = scales[i / 16] * (float)value;
    }
}

/* Q4_K and Q5_K: 12 bytes hold eight 6-bit scales and eight 6-bit minima: the first four of each in
 * the low 6 bits of bytes 0-3 and 4-7, the last four in nibbles of bytes 8-11 with their upper 2
 * bits on top of bytes 0-3 and 4-7. */
static void unpack_scales(const byte *packed, float d, float dmin, float scales[8], float minima[8])
{
    for (int j = 0; j < 4; j++) {
        scales[j] = d * (float)(packed[j] & 63);
        minima[j] = dmin * (float)(packed[4 + j] & 63);
        scales[4 + j] = d * (float)((packed[8 + j] & 15) | (packed[j] >> 2 & 0x30));
        minima[4 + j] = dmin * (float)(packed[8 + j] >> 4 | (packed[4 + j] >> 2 & 0x30));
    }
}

/* f16 d, f16 dmin, 12 bytes of scales, 128 bytes: each 32 bytes hold 32 elements in their low and
 * the next 32 in their high nibbles. */
static void q4_k(const byte *block, float *values)
{
    float scales[8], minima[8];
    unpack_scales(block + 4, load_half(block), load_half(block + 2), scales, minima);
    const byte *q = block + 16;
    for (int i = 0; i < 256; i++) {
        int value = q[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
        values[i] = scales[i / 32] * (float)value - minima[i / 32];
    }
}

/* As Q4_K, with 32 bytes before the nibbles: bit i / 32 of byte i % 32 is the fifth bit of element
 * i. */
static void q5_k(const byte *block, float *values)
{
    float scales[8], minima[8];
    unpack_scales(block + 4, load_half(block), load_half(block + 2), scales, minima);
    const byte *high = block + 16, *q = block + 48;
    for (int i = 0; i < 256; i++) {
        int value = q[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
        value |= (high[i % 32] >> (i / 32) & 1) << 4;
        values[i] = scales[i / 32] * (float)value - minima[i / 32];
    }
}

/* 128 bytes of low nibbles: each 64 bytes hold 64 elements low, 64 high; 64 bytes of the upper 2
 * bits: in each half of 32 bytes as in Q2_K; 16 int8 scales; f16 d; d * scale * (q - 32). */
static void q6_k(const byte *block, float *values)
{
    const byte *low = block, *high = block + 128, *scales = block + 192;
    float d = load_half(block + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128;
        int value = low[half * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        value |= (high[half * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) << 4;
        values[i] = d * (float)(int8_t)scales[i / 16] * (float)(value - 32);
    }
}

static void half_row(const byte *data, size_t n, float *values)
{
    for (size_t i = 0; i < n; i++)
        values[i] = load_half(data + 2 * i);
}

static void bf16_row(const byte *data, size_t n, float *values)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half; /* the upper half of the float; inline, since most weights come so */
        memcpy(&half, data + 2 * i, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(&values[i], &bits, sizeof bits);
    }
}

void ofr_gguf_dequantize(enum ofr_gguf_type type, const void *data, size_t n, float *ret_values)
{
    void (*block)(const byte *, float *) = NULL;
    switch (type) {
    case OFR_GGUF_TYPE_F32:
        memcpy(ret_values, data, n * sizeof *ret_values);
        return;
    case OFR_GGUF_TYPE_F16:
        half_row(data, n, ret_values);
        return;
    case OFR_GGUF_TYPE_BF16:
        bf16_row(data, n, ret_values);
        return;
    case OFR_GGUF_TYPE_Q4_0:
        block = q4_0;
        break;
    case OFR_GGUF_TYPE_Q4_1:
        block = q4_1;
        break;
    case OFR_GGUF_TYPE_Q5_0:
        block = q5_0;
        break;
    case OFR_GGUF_TYPE_Q5_1:
        block = q5_1;
        break;
    case OFR_GGUF_TYPE_Q8_0:
        block = q8_0;
        break;
    case OFR_GGUF_TYPE_Q2_K:
        block = q2_k;
        break;
    case OFR_GGUF_TYPE_Q3_K:
        block = q3_k;
        break;
    case OFR_GGUF_TYPE_Q4_K:
        block = q4_k;
        break;
    case OFR_GGUF_TYPE_Q5_K:
        block = q5_k;
        break;
    case OFR_GGUF_TYPE_Q6_K:
        block = q6_k;
        break;
    }
    size_t elements = ofr_gguf_type_block_elements(type);
    size_t bytes = ofr_gguf_type_block_bytes(type);
    const byte *from = data;
    for (size_t i = 0; i + elements <= n; i += elements, from += bytes)
        block(from, ret_values + i);
}
