/* A vocabulary as grammars see it: the bytes of every token, in tries.
 *
 * Made once per tokenizer; immutable; any number of matchers in any threads may use it. It keeps
 * nothing of the tokenizer.
 *
 * Tokens that a grammar can allow are those whose bytes may be part of UTF-8 text, and control
 * tokens, which only a grammar that names them reaches. Tokens that end generation are apart: they
 * are allowed where the text may end. Unknown tokens, tokens without text and tokens of more than
 * OFR_VOCABULARY_TOKEN_MAX bytes are never allowed. */
#ifndef OFR_GRAMMAR_VOCABULARY_H
#define OFR_GRAMMAR_VOCABULARY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

enum {
    OFR_VOCABULARY_TOKEN_MAX = 250,
    OFR_VOCABULARY_PLAIN_MAX = 16, /* characters up to which plain tokens have masks */
};

/* Nodes in preorder; node 0 is the root. */
typedef struct ofr_trie_node {
    uint32_t end;   /* the first node that is not below this one */
    uint32_t first; /* its tokens: order[first .. first + count) */
    uint16_t count;
    uint8_t byte;
    uint8_t depth;
} ofr_trie_node;

typedef struct ofr_trie {
    ofr_trie_node *nodes;
    uint32_t n_nodes;
    int32_t *order; /* [n_tokens] ids, sorted by bytes */
    uint32_t n_tokens;
} ofr_trie;

typedef struct ofr_vocabulary {
    int32_t size;
    size_t mask_words; /* of 32 bits */
    char *bytes;       /* of all tokens */
    uint32_t *offsets; /* [size + 1]; nothing for tokens that are never allowed */
    int32_t *stop_ids; /* [n_stop_ids] */
    size_t n_stop_ids;
    ofr_trie all;         /* every token */
    ofr_trie rest;        /* those that are not plain characters throughout */
    uint32_t *plain;      /* [PLAIN_MAX + 1][mask_words] plain tokens of up to i characters; in the
                             last mask, of any number */
    int32_t *plain_long;  /* [n_plain_long] plain tokens of more than PLAIN_MAX characters, as
                             they are sorted */
    uint8_t *plain_sizes; /* [n_plain_long] their characters */
    size_t n_plain_long;
    uint32_t token_max;     /* bytes of the longest token in `all` */
    bool strip_first_space; /* the tokenizer drops the space that a text begins with */
} ofr_vocabulary;

int ofr_vocabulary_new(const ofr_tokenizer *tokenizer, ofr_vocabulary **ret_vocabulary,
                       ofr_error *err);
ofr_vocabulary *ofr_vocabulary_free(ofr_vocabulary *vocabulary);

#endif
