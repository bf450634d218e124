/* Fuzz target of the GGUF reader: parse, map to a model, build the tokenizer, dequantize. */
#include <stdint.h>
#include <stdlib.h>

#include "bake_model/gguf_dequantize.h"
#include "bake_model/gguf_model.h"
#include "bake_model/gguf_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_tensor(const ofr_gguf *gguf, const ofr_gguf_tensor *tensor)
{
    if (tensor->bytes > 1 << 20 || tensor->dims[0] > 1 << 20)
        return;
    size_t n = (size_t)tensor->dims[0];
    void *raw = malloc((size_t)tensor->row_bytes);
    float *values = malloc(n * sizeof *values);
    ofr_error err;
    for (uint64_t row = 0; row < tensor->rows && raw && values; row++) {
        if (ofr_gguf_read(gguf, tensor, row * tensor->row_bytes, raw, (size_t)tensor->row_bytes,
                          &err) < 0)
            abort(); /* what the parser accepted can be read */
        ofr_gguf_dequantize(tensor->type, raw, n, values);
    }
    free(raw);
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ofr_gguf *gguf;
    ofr_error err;
    if (ofr_gguf_open_memory("fuzz", data, size, &gguf, &err) < 0)
        return 0;
    for (size_t i = 0; i < ofr_gguf_tensor_count(gguf); i++)
        read_tensor(gguf, ofr_gguf_tensor_at(gguf, i));
    ofr_bake_model model;
    if (ofr_gguf_model_init(&model, (const ofr_gguf *const *)&gguf, 1, 128, 0, &err) == 0)
        ofr_bake_model_done(&model);
    void *tokenizer;
    size_t tokenizer_size, count;
    if (ofr_gguf_vocab_build(gguf, &tokenizer, &tokenizer_size, &count, &err) == 0)
        free(tokenizer);
    ofr_gguf_close(gguf);
    return 0;
}
