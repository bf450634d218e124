/* A vocabulary as the BPE operation of OpenVINO Tokenizers takes it: byte strings, and merges as
 * pairs of them, best first. The operation looks everything up by text, begins with the longest
 * tokens that no merge makes, and then merges; so tokens that ordinary text cannot become must not
 * be found there, and are left out of `encoded`. */
#ifndef OFR_GRAPH_TOKENIZER_VOCAB_H
#define OFR_GRAPH_TOKENIZER_VOCAB_H

#include <stdbool.h>

#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_format.h"

/* Texts one behind the other: text i is bytes[begins[i], ends[i]). */
typedef struct ofr_vocab_texts {
    int32_t *begins, *ends; /* [n_tokens], owned */
    char *bytes;            /* owned */
    size_t size;
} ofr_vocab_texts;

typedef struct ofr_vocab_merge {
    uint32_t left, right, result; /* token ids */
    float score;                  /* higher first */
    uint32_t rank;                /* smaller first where scores are equal */
} ofr_vocab_merge;

typedef struct ofr_graph_vocab {
    const ofr_tokenizer *tokenizer; /* borrowed */
    const ofr_tokenizer_header *header;
    bool escaped; /* spaces are U+2581, missing characters <0xHH>; else bytes */
    ofr_vocab_texts encoded, decoded;
    ofr_vocab_merge *merges; /* [n_merges], in their order; owned */
    size_t n_merges;
} ofr_graph_vocab;

/* `image` is a tokenizer.bin, `tokenizer` what was opened from it. OFR_EUNSUPPORTED: the operation
 * cannot express this kind of vocabulary; the text says why. */
int ofr_graph_vocab_init(ofr_graph_vocab *vocab, const void *image, const ofr_tokenizer *tokenizer,
                         ofr_error *err);
void ofr_graph_vocab_done(ofr_graph_vocab *vocab); /* accepts a zeroed one */

/* enum ofr_token_type of a token, and its strip bits. */
uint8_t ofr_graph_vocab_type(const ofr_graph_vocab *vocab, uint32_t id);

#endif
