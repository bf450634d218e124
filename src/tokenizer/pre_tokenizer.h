/* Pre-tokenizers of byte-level BPE: the rules that cut text into words before merging.
 *
 * A rule is a list of regular expressions. Each is applied to the pieces that the one before left:
 * every match becomes a piece of its own, and so does the text between matches. The expressions
 * are those of the models' tokenizer.json files, under the names that GGUF gives them. */
#ifndef OFR_TOKENIZER_PRE_TOKENIZER_H
#define OFR_TOKENIZER_PRE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* What a name of tokenizer.ggml.pre implies where the file does not say it. */
typedef struct ofr_pre_rule {
    const char *name;          /* as GGUF writes it */
    const char *const *stages; /* NULL-terminated regular expressions */
    bool ignore_merges;        /* a word that is a token is taken whole */
    bool add_bos;              /* a BOS token is added unless the file says otherwise */
} ofr_pre_rule;

/* NULL for a name that is not known. Rules are immutable and never freed. */
const ofr_pre_rule *ofr_pre_rule_find(const char *name);
/* All rules [*ret_count], for messages and tests. */
const ofr_pre_rule *ofr_pre_rule_all(size_t *ret_count);

/* A compiled rule. Immutable: any number of threads may split with it at once. */
typedef struct ofr_pre_tokenizer ofr_pre_tokenizer;
int ofr_pre_tokenizer_new(const ofr_pre_rule *rule, ofr_pre_tokenizer **ret_pre_tokenizer,
                          ofr_error *err);
ofr_pre_tokenizer *ofr_pre_tokenizer_free(ofr_pre_tokenizer *pre_tokenizer);

/* Cuts `text` [size bytes, valid UTF-8, less than 2^31] into words. *ret_ends [*ret_count] holds
 * the offset where each word ends, ascending, the last being `size`; malloc'ed, the caller frees
 * it. No word is empty. */
int ofr_pre_tokenizer_split(const ofr_pre_tokenizer *pre_tokenizer, const char *text, size_t size,
                            uint32_t **ret_ends, size_t *ret_count, ofr_error *err);

#endif
