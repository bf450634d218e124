/* Rows of GGUF blocks taken as they are: every element is what ofr_gguf_dequantize says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bake_model/bake_keep.h"
#include "bake_model/gguf_dequantize.h"
#include "base/fp16.h"

enum { K = 96, BLOCKS = K / 32 };

static void every_element_is_kept(void **state)
{
    (void)state;
    static const enum ofr_gguf_type types[] = {OFR_GGUF_TYPE_Q4_0, OFR_GGUF_TYPE_Q4_1,
                                               OFR_GGUF_TYPE_Q8_0};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        uint32_t bytes = ofr_gguf_type_block_bytes(types[t]);
        uint8_t raw[BLOCKS * 34], data[K];
        uint16_t scales[BLOCKS], minima[BLOCKS] = {0};
        for (size_t i = 0; i < sizeof raw; i++)
            raw[i] = (uint8_t)(i * 101 + 7 * i * i + t);
        for (size_t b = 0; b < BLOCKS; b++) { /* finite scales and minima */
            raw[b * bytes + 1] = 0x30;
            if (types[t] == OFR_GGUF_TYPE_Q4_1)
                raw[b * bytes + 3] = 0xb1;
        }
        float expected[K];
        ofr_gguf_dequantize(types[t], raw, K, expected);
        ofr_bake_keep_row(types[t], raw, K, data, scales, minima);
        for (size_t i = 0; i < K; i++) {
            float scale = ofr_half_to_float(scales[i / 32]);
            int nibble = (data[i / 2] >> (i % 2 * 4) & 15) ^ 8;
            float got = types[t] == OFR_GGUF_TYPE_Q8_0 ? (float)(int8_t)data[i] * scale
                        : types[t] == OFR_GGUF_TYPE_Q4_0
                            ? (float)(nibble - 8) * scale
                            : (float)nibble * scale + ofr_half_to_float(minima[i / 32]);
            assert_true(got == expected[i]);
        }
    }
}

static void types_find_their_dtypes(void **state)
{
    (void)state;
    static const enum ofr_gguf_type types[] = {OFR_GGUF_TYPE_Q4_0, OFR_GGUF_TYPE_Q4_1,
                                               OFR_GGUF_TYPE_Q8_0, OFR_GGUF_TYPE_Q6_K,
                                               OFR_GGUF_TYPE_Q8_0};
    ofr_bake_tensor tensors[5] = {0};
    static const enum ofr_dtype expected[] = {OFR_DTYPE_I4, OFR_DTYPE_I4M, OFR_DTYPE_I8,
                                              OFR_DTYPE_I4, OFR_DTYPE_F32};
    for (size_t i = 0; i < 5; i++) {
        tensors[i].source.type = types[i];
        tensors[i].n_dims = i == 4 ? 1 : 2; /* a vector is never kept as integers */
        tensors[i].dtype = i == 4 ? OFR_DTYPE_F32 : OFR_DTYPE_I4;
        tensors[i].group_size = i == 4 ? 0 : 128;
    }
    ofr_bake_model model = {.tensors = tensors, .n_tensors = 5};
    ofr_bake_keep_quantization(&model);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(tensors[i].dtype, expected[i]);
        assert_int_equal(tensors[i].keep, i < 3);
        assert_int_equal(tensors[i].group_size, i < 3 ? 32 : i == 3 ? 128 : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_element_is_kept),
        cmocka_unit_test(types_find_their_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
