/* Fuzz target of tokenizer.json. */
#include <stdint.h>

#include "fuzz_hf_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ofr_hf_vocab v = {0};
    ofr_error err;
    if (ofr_tokenizer_json_read(&v, "fuzz", (const char *)data, size, &err) == 0)
        fuzz_use_vocab(&v);
    ofr_hf_vocab_done(&v);
    return 0;
}
