/* Merging one word by ranks (byte-level BPE) or by scores (SentencePiece BPE).
 * Short words are scanned for the best pair; long ones keep the pairs in a heap, so that a word of
 * n symbols costs n log n however it merges. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer_internal.h"

enum { SHORT_WORD_SYMBOLS = 32 };
#define NO_SYMBOL UINT32_MAX

typedef struct symbol {
    uint32_t start, size; /* bytes of the word; size 0: merged into the one before */
    int32_t id;           /* -1: no token */
    uint32_t previous, next;
} symbol;

/* A pair that could merge. Valid as long as both of its symbols have these sizes. */
typedef struct pair {
    uint32_t rank; /* smaller merges first */
    uint32_t left;
    uint32_t left_size, right_size;
    int32_t result;
} pair;

struct ofr_merge_scratch {
    symbol *symbols;
    size_t symbols_capacity;
    pair *heap;
    size_t heap_size, heap_capacity;
    ofr_text_buffer mapped; /* the word in the byte alphabet */
    bool was_unknown;       /* the last thing appended was the unknown token */
};

typedef struct merger_state {
    const ofr_tokenizer *tokenizer;
    const char *word;
    bool by_score; /* pairs are looked up by text and ranked by score */
} merger_state;

int ofr_merge_scratch_new(ofr_merge_scratch **ret_scratch, ofr_error *err)
{
    ofr_merge_scratch *made = calloc(1, sizeof *made);
    if (!made)
        return ofr_fail(err, OFR_ENOMEM, "tokenizer: out of memory");
    *ret_scratch = made;
    return 0;
}

void ofr_merge_begin(ofr_merge_scratch *scratch)
{
    scratch->was_unknown = false;
}

ofr_merge_scratch *ofr_merge_scratch_free(ofr_merge_scratch *scratch)
{
    if (scratch) {
        free(scratch->symbols);
        free(scratch->heap);
        free(scratch->mapped.data);
        free(scratch);
    }
    return NULL;
}

/* Ranks that order as the scores do, best first: the bits of a float are ordered as integers once
 * negative ones are inverted. */
static uint32_t rank_of_score(float score)
{
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

static bool find_pair(const merger_state *merger, const symbol *left, const symbol *right,
                      uint32_t *ret_rank, int32_t *ret_result)
{
    const ofr_tokenizer *tokenizer = merger->tokenizer;
    if (!merger->by_score) {
        if (left->id < 0 || right->id < 0)
            return false;
        const ofr_tokenizer_merge *merge = ofr_tokenizer_find_merge(tokenizer, left->id, right->id);
        if (!merge)
            return false;
        *ret_rank = merge->rank;
        *ret_result = (int32_t)merge->result;
        return true;
    }
    size_t size = (size_t)left->size + right->size;
    if (size > tokenizer->token_size_max)
        return false;
    int32_t id = ofr_tokenizer_find(tokenizer, merger->word + left->start, size);
    if (id < 0 || !is_plain_type(token_type(tokenizer, id)))
        return false;
    *ret_rank = rank_of_score(tokenizer->scores[id]);
    *ret_result = id;
    return true;
}

/* Symbols of the word before any merge: bytes, or characters where spaces are escaped. */
static int make_symbols(const merger_state *merger, size_t size, bool characters,
                        ofr_merge_scratch *scratch, size_t *ret_count, ofr_error *err)
{
    const ofr_tokenizer *tokenizer = merger->tokenizer;
    void *array = scratch->symbols;
    int rc = ofr_array_reserve(&array, &scratch->symbols_capacity, size, sizeof(symbol), err);
    if (rc)
        return rc;
    scratch->symbols = array;
    size_t count = 0;
    for (size_t at = 0; at < size;) {
        symbol *made = &scratch->symbols[count];
        size_t length = characters ? ofr_utf8_length(merger->word[at]) : 1;
        made->start = (uint32_t)at;
        made->size = (uint32_t)length;
        if (characters) {
            made->id = ofr_tokenizer_find(tokenizer, merger->word + at, length);
            if (made->id >= 0 && !is_plain_type(token_type(tokenizer, made->id)))
                made->id = -1;
        } else {
            made->id = tokenizer->byte_ids[(unsigned char)merger->word[at]];
        }
        made->previous = count ? (uint32_t)count - 1 : NO_SYMBOL;
        made->next = (uint32_t)count + 1;
        count++;
        at += length;
    }
    scratch->symbols[count - 1].next = NO_SYMBOL;
    *ret_count = count;
    return 0;
}

/* Merges the best pair until none is left, finding it by looking at all of them; the symbols stay
 * packed. Returns how many remain. */
static size_t merge_short(const merger_state *merger, symbol *symbols, size_t count)
{
    uint32_t ranks[SHORT_WORD_SYMBOLS];
    int32_t results[SHORT_WORD_SYMBOLS]; /* of the pair (i, i + 1); -1: cannot merge */
    for (size_t i = 0; i + 1 < count; i++)
        if (!find_pair(merger, &symbols[i], &symbols[i + 1], &ranks[i], &results[i]))
            results[i] = -1;
    for (;;) {
        size_t best = count;
        for (size_t i = 0; i + 1 < count; i++)
            if (results[i] >= 0 && (best == count || ranks[i] < ranks[best]))
                best = i;
        if (best == count)
            return count;
        symbols[best].size += symbols[best + 1].size;
        symbols[best].id = results[best];
        count--;
        for (size_t i = best + 1; i < count; i++) {
            symbols[i] = symbols[i + 1];
            ranks[i - 1] = ranks[i];
            results[i - 1] = results[i];
        }
        for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < count; i++)
            if (!find_pair(merger, &symbols[i], &symbols[i + 1], &ranks[i], &results[i]))
                results[i] = -1;
    }
}

static bool comes_before(const pair *a, const pair *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->left < b->left);
}

static int push_pair(const merger_state *merger, ofr_merge_scratch *scratch, uint32_t left,
                     ofr_error *err)
{
    const symbol *symbols = scratch->symbols;
    if (left == NO_SYMBOL || symbols[left].next == NO_SYMBOL)
        return 0;
    const symbol *right = &symbols[symbols[left].next];
    pair added = {.left = left, .left_size = symbols[left].size, .right_size = right->size};
    if (!find_pair(merger, &symbols[left], right, &added.rank, &added.result))
        return 0;
    void *array = scratch->heap;
    int rc = ofr_array_reserve(&array, &scratch->heap_capacity, scratch->heap_size + 1,
                               sizeof(pair), err);
    if (rc)
        return rc;
    scratch->heap = array;
    size_t at = scratch->heap_size++;
    while (at && comes_before(&added, &scratch->heap[(at - 1) / 2])) {
        scratch->heap[at] = scratch->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    scratch->heap[at] = added;
    return 0;
}

static pair pop_pair(ofr_merge_scratch *scratch)
{
    pair best = scratch->heap[0];
    pair last = scratch->heap[--scratch->heap_size];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= scratch->heap_size)
            break;
        if (child + 1 < scratch->heap_size &&
            comes_before(&scratch->heap[child + 1], &scratch->heap[child]))
            child++;
        if (!comes_before(&scratch->heap[child], &last))
            break;
        scratch->heap[at] = scratch->heap[child];
        at = child;
    }
    scratch->heap[at] = last;
    return best;
}

static int merge_long(const merger_state *merger, ofr_merge_scratch *scratch, size_t count,
                      ofr_error *err)
{
    scratch->heap_size = 0;
    int rc = 0;
    for (size_t i = 0; !rc && i + 1 < count; i++)
        rc = push_pair(merger, scratch, (uint32_t)i, err);
    while (!rc && scratch->heap_size) {
        pair best = pop_pair(scratch);
        symbol *left = &scratch->symbols[best.left];
        if (left->size != best.left_size || left->next == NO_SYMBOL)
            continue;
        symbol *right = &scratch->symbols[left->next];
        if (right->size != best.right_size)
            continue;
        left->size += right->size;
        left->id = best.result;
        left->next = right->next;
        right->size = 0;
        if (left->next != NO_SYMBOL)
            scratch->symbols[left->next].previous = best.left;
        rc = push_pair(merger, scratch, left->previous, err);
        if (!rc)
            rc = push_pair(merger, scratch, best.left, err);
    }
    return rc;
}

/* With ignore_merges, a word that is a token is that token. */
static int find_whole_word(const ofr_tokenizer *tokenizer, const char *word, size_t size,
                           ofr_merge_scratch *scratch, int32_t *ret_id, ofr_error *err)
{
    *ret_id = -1;
    if (size > tokenizer->token_size_max)
        return 0;
    scratch->mapped.size = 0;
    for (size_t i = 0; i < size; i++) {
        char bytes[4];
        size_t length = ofr_utf8_encode(ofr_byte_alphabet_codepoint((unsigned char)word[i]), bytes);
        int rc = ofr_text_buffer_append(&scratch->mapped, bytes, length, err);
        if (rc)
            return rc;
    }
    int32_t id = ofr_tokenizer_find(tokenizer, scratch->mapped.data, scratch->mapped.size);
    if (id >= 0 && token_type(tokenizer, id) == OFR_TOKEN_TYPE_NORMAL)
        *ret_id = id;
    return 0;
}

int ofr_append_fallback(const ofr_tokenizer *tokenizer, const char *character, size_t size,
                        bool *was_unknown, ofr_id_buffer *ids, ofr_error *err)
{
    bool have_bytes = true;
    for (size_t i = 0; i < size; i++)
        have_bytes = have_bytes && tokenizer->byte_ids[(unsigned char)character[i]] >= 0;
    if (have_bytes) {
        *was_unknown = false;
        for (size_t i = 0; i < size; i++) {
            int rc =
                ofr_id_buffer_append(ids, tokenizer->byte_ids[(unsigned char)character[i]], err);
            if (rc)
                return rc;
        }
        return 0;
    }
    bool repeated = *was_unknown;
    *was_unknown = true;
    if (repeated || tokenizer->header->unk_id < 0)
        return 0;
    return ofr_id_buffer_append(ids, tokenizer->header->unk_id, err);
}

int ofr_merge_word(const ofr_tokenizer *tokenizer, const char *word, size_t size,
                   ofr_merge_scratch *scratch, ofr_id_buffer *ids, ofr_error *err)
{
    if (!size)
        return 0;
    bool characters = has_flag(tokenizer, OFR_TOKENIZER_FLAG_ESCAPE_SPACES);
    if (!characters && has_flag(tokenizer, OFR_TOKENIZER_FLAG_IGNORE_MERGES)) {
        int32_t id;
        int rc = find_whole_word(tokenizer, word, size, scratch, &id, err);
        if (rc)
            return rc;
        if (id >= 0)
            return ofr_id_buffer_append(ids, id, err);
    }
    merger_state merger = {tokenizer, word, tokenizer->header->kind == OFR_VOCAB_KIND_SPM};
    size_t count;
    int rc = make_symbols(&merger, size, characters, scratch, &count, err);
    if (rc)
        return rc;
    if (count <= SHORT_WORD_SYMBOLS)
        count = merge_short(&merger, scratch->symbols, count);
    else
        rc = merge_long(&merger, scratch, count, err);
    for (size_t i = 0; !rc && i < count; i++) {
        const symbol *done = &scratch->symbols[i];
        if (!done->size)
            continue;
        if (done->id >= 0) {
            scratch->was_unknown = false;
            rc = ofr_id_buffer_append(ids, done->id, err);
        } else if (characters) {
            rc = ofr_append_fallback(tokenizer, word + done->start, done->size,
                                     &scratch->was_unknown, ids, err);
        }
        /* Byte-level: a byte that the vocabulary lacks has no token and no unknown token either,
         * as in the tokenizers that made such vocabularies. */
    }
    return rc;
}
