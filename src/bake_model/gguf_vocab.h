/* From the metadata of a GGUF file to tokenizer.bin. */
#ifndef OFR_BAKE_MODEL_GGUF_VOCAB_H
#define OFR_BAKE_MODEL_GGUF_VOCAB_H

#include "bake_model/gguf.h"

/* The image of tokenizer.bin; *ret_data is malloc'ed. *ret_count is the number of tokens. */
int ofr_gguf_vocab_build(const ofr_gguf *gguf, void **ret_data, size_t *ret_size, size_t *ret_count,
                         ofr_error *err);

#endif
