/* What the fuzz targets of tokenizer.json and tokenizer.model do with a vocabulary that was read:
 * it is built, opened, and used on a text. */
#ifndef OFR_FUZZ_HF_VOCAB_H
#define OFR_FUZZ_HF_VOCAB_H

#include <stdlib.h>

#include "bake_model/hf_vocab.h"
#include "tokenizer/tokenizer.h"

static inline void fuzz_use_vocab(const ofr_hf_vocab *v)
{
    static const char text[] = " hello</s> caf\xC3\xA9 12\xF0\x9F\xA6\x99\n\naaaa";
    ofr_error err;
    void *image = NULL;
    size_t image_size = 0, count = 0;
    ofr_tokenizer *tokenizer = NULL;
    int32_t *ids = NULL;
    if (ofr_tokenizer_build(&v->vocab, &image, &image_size, &err) < 0)
        return;
    if (ofr_tokenizer_open(image, image_size, &tokenizer, &err) < 0)
        abort(); /* what was built can be opened */
    if (ofr_tokenizer_encode(tokenizer, text, sizeof text - 1, OFR_TOKENIZE_PARSE_SPECIAL, &ids,
                             &count, &err) == 0)
        free(ids);
    ofr_tokenizer_close(tokenizer);
    free(image);
}

#endif
