/* Look-ups in an opened vocabulary: facts, token texts, tokens by text, merges. */
#include "tokenizer/tokenizer.h"

#include <string.h>

#include "tokenizer/tokenizer_internal.h"

void ofr_tokenizer_get_info(const ofr_tokenizer *tokenizer, ofr_tokenizer_info *ret_info)
{
    static const char *const kinds[] = {
        [OFR_VOCAB_KIND_BPE] = "bpe",
        [OFR_VOCAB_KIND_SPM] = "spm",
        [OFR_VOCAB_KIND_UNIGRAM] = "unigram",
    };
    const ofr_tokenizer_header *header = tokenizer->header;
    *ret_info = (ofr_tokenizer_info){
        .vocab_size = (int32_t)header->n_tokens,
        .bos_id = header->bos_id,
        .eos_id = header->eos_id,
        .unk_id = header->unk_id,
        .pad_id = header->pad_id,
        .add_bos = has_flag(tokenizer, OFR_TOKENIZER_FLAG_ADD_BOS),
        .add_eos = has_flag(tokenizer, OFR_TOKENIZER_FLAG_ADD_EOS),
        .kind = kinds[header->kind],
        .pre = tokenizer->pre,
    };
}

const int32_t *ofr_tokenizer_stop_ids(const ofr_tokenizer *tokenizer, size_t *ret_count)
{
    *ret_count = tokenizer->n_stop_ids;
    return tokenizer->stop_ids;
}

const char *ofr_tokenizer_token_text(const ofr_tokenizer *tokenizer, int32_t id, size_t *ret_size)
{
    if (id < 0 || (uint32_t)id >= tokenizer->header->n_tokens)
        return NULL;
    return token_text(tokenizer, id, ret_size);
}

bool ofr_tokenizer_is_control(const ofr_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && (uint32_t)id < tokenizer->header->n_tokens &&
           token_type(tokenizer, id) == OFR_TOKEN_TYPE_CONTROL;
}

int32_t ofr_tokenizer_find(const ofr_tokenizer *tokenizer, const char *text, size_t size)
{
    uint64_t slot = ofr_tokenizer_hash_text(text, size) & tokenizer->table_mask;
    /* Ends: opening made sure that the table has an empty slot. */
    while (tokenizer->table[slot]) {
        int32_t id = (int32_t)(tokenizer->table[slot] - 1);
        size_t stored;
        const char *token = token_text(tokenizer, id, &stored);
        if (stored == size && !memcmp(token, text, size))
            return id;
        slot = (slot + 1) & tokenizer->table_mask;
    }
    return -1;
}

const ofr_tokenizer_merge *ofr_tokenizer_find_merge(const ofr_tokenizer *tokenizer, int32_t left,
                                                    int32_t right)
{
    if (!tokenizer->merges)
        return NULL;
    uint64_t slot =
        ofr_tokenizer_hash_pair((uint32_t)left, (uint32_t)right) & tokenizer->merge_mask;
    for (;;) {
        const ofr_tokenizer_merge *merge = &tokenizer->merges[slot];
        if (merge->left == (uint32_t)left && merge->right == (uint32_t)right)
            return merge;
        if (merge->left == OFR_TOKENIZER_NO_TOKEN)
            return NULL;
        slot = (slot + 1) & tokenizer->merge_mask;
    }
}

void ofr_sorted_narrow(const ofr_tokenizer *tokenizer, const int32_t *sorted, size_t *low,
                       size_t *high, size_t depth, unsigned char byte)
{
    size_t bounds[2];
    for (int i = 0; i < 2; i++) {
        /* The first whose byte at `depth` is not below byte + i; a text that ends there is. */
        size_t from = *low, to = *high;
        while (from < to) {
            size_t middle = from + (to - from) / 2, size;
            const char *text = token_text(tokenizer, sorted[middle], &size);
            if (size <= depth || (unsigned char)text[depth] < byte + i)
                from = middle + 1;
            else
                to = middle;
        }
        bounds[i] = from;
    }
    *low = bounds[0];
    *high = bounds[1];
}
