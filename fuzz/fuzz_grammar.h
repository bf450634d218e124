/* What the fuzz targets of grammars share: a text is followed through a compiled grammar as a model
 * would write it, by tokens of the mask that the input's bytes pick. */
#ifndef OFR_FUZZ_GRAMMAR_H
#define OFR_FUZZ_GRAMMAR_H

#include <stdint.h>
#include <stdlib.h>

#include "../tests/support/grammar_vocab.h"

/* A vocabulary for the life of the process. */
static inline const ofr_vocabulary *fuzz_vocabulary(void)
{
    static grammar_vocab vocab;
    if (!vocab.vocabulary)
        grammar_vocab_init(&vocab);
    return vocab.vocabulary;
}

/* Every token that a mask allows must be taken, and one that it forbids refused. */
static inline void fuzz_follow(const ofr_grammar *grammar, const uint8_t *picks, size_t size)
{
    const ofr_vocabulary *vocabulary = fuzz_vocabulary();
    ofr_matcher *matcher = NULL;
    ofr_error err;
    if (ofr_matcher_new(grammar, vocabulary, &matcher, &err) < 0)
        return;
    for (size_t i = 0; i < size && i < 24 && !ofr_matcher_is_done(matcher); i++) {
        const uint32_t *mask = NULL;
        if (ofr_matcher_mask(matcher, &mask, &err) < 0)
            break;
        int32_t token = picks[i] % vocabulary->size, tries = 0;
        for (; !ofr_mask_allows(mask, token) && tries < vocabulary->size; tries++)
            token = (token + 1) % vocabulary->size;
        if (tries == vocabulary->size)
            abort(); /* a mask allows something, or the call fails */
        if (ofr_matcher_accept(matcher, token, &err) < 0)
            abort();
    }
    ofr_matcher_free(matcher);
}

#endif
