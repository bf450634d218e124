/* Texts and merges for OpenVINO's BPE, from an image of tokenizer.bin. */
#include "graph/tokenizer_vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer_build.h"

/* No UTF-8 text has this byte. */
static const char NEVER[] = "\xFF";

typedef struct merge_list {
    ofr_vocab_merge *data;
    size_t n, room;
} merge_list;

static const void *section(const ofr_graph_vocab *vocab, enum ofr_tokenizer_section index,
                           size_t *ret_size)
{
    const ofr_tokenizer_range *range = &vocab->header->sections[index];
    *ret_size = (size_t)range->size;
    return (const char *)vocab->header + range->offset;
}

static bool has(const ofr_graph_vocab *vocab, uint32_t flag)
{
    return (vocab->header->flags & flag) != 0;
}

uint8_t ofr_graph_vocab_type(const ofr_graph_vocab *vocab, uint32_t id)
{
    size_t size;
    const uint8_t *types = section(vocab, OFR_TOKENIZER_SECTION_TOKEN_TYPES, &size);
    return types[id];
}

/* Tokens that ordinary text may become. */
static bool is_plain(const ofr_graph_vocab *vocab, uint32_t id)
{
    unsigned type = ofr_graph_vocab_type(vocab, id) & OFR_TOKEN_TYPE_MASK;
    return type == OFR_TOKEN_TYPE_NORMAL || type == OFR_TOKEN_TYPE_USER_DEFINED ||
           type == OFR_TOKEN_TYPE_UNUSED;
}

static int out_of_memory(ofr_error *err)
{
    return ofr_fail(err, OFR_ENOMEM, "tokenizer graph: out of memory");
}

/* ---- texts ---- */

static int texts_init(ofr_vocab_texts *texts, uint32_t n, ofr_error *err)
{
    texts->begins = calloc(n + 1, sizeof *texts->begins);
    texts->ends = calloc(n + 1, sizeof *texts->ends);
    return texts->begins && texts->ends ? 0 : out_of_memory(err);
}

static int texts_append(ofr_vocab_texts *texts, size_t *room, uint32_t id, const char *text,
                        size_t size, ofr_error *err)
{
    if (size > (size_t)INT32_MAX - texts->size)
        return ofr_fail(err, OFR_ELIMIT, "tokenizer graph: tokens of more than 2 GiB");
    if (texts->size + size > *room) {
        size_t wanted = (texts->size + size) * 3 / 2 + 4096;
        char *grown = realloc(texts->bytes, wanted);
        if (!grown)
            return out_of_memory(err);
        texts->bytes = grown;
        *room = wanted;
    }
    memcpy(texts->bytes + texts->size, text, size);
    texts->begins[id] = (int32_t)texts->size;
    texts->size += size;
    texts->ends[id] = (int32_t)texts->size;
    return 0;
}

static int make_decoded(ofr_graph_vocab *vocab, ofr_error *err)
{
    size_t room = 0;
    int r = texts_init(&vocab->decoded, vocab->header->n_tokens, err);
    for (uint32_t id = 0; id < vocab->header->n_tokens && r == 0; id++) {
        char *text = NULL;
        size_t size = 0;
        int32_t one = (int32_t)id;
        r = ofr_tokenizer_decode(vocab->tokenizer, &one, 1,
                                 OFR_DETOKENIZE_SPECIAL | OFR_DETOKENIZE_CONTINUATION, &text, &size,
                                 err);
        if (r == 0)
            r = texts_append(&vocab->decoded, &room, id, text, size, err);
        free(text);
    }
    return r;
}

/* What a token is in the text that words are merged from. */
static const char *merged_text(const ofr_graph_vocab *vocab, uint32_t id, size_t *ret_size)
{
    const ofr_vocab_texts *decoded = &vocab->decoded;
    if (vocab->escaped)
        return ofr_tokenizer_token_text(vocab->tokenizer, (int32_t)id, ret_size);
    *ret_size = (size_t)(decoded->ends[id] - decoded->begins[id]);
    return decoded->bytes + decoded->begins[id];
}

/* ---- merges ---- */

static int add_merge(merge_list *list, ofr_vocab_merge merge, ofr_error *err)
{
    if (list->n == list->room) {
        size_t room = list->room ? list->room * 3 / 2 : 1 << 15;
        ofr_vocab_merge *grown = realloc(list->data, room * sizeof *grown);
        if (!grown)
            return out_of_memory(err);
        list->data = grown;
        list->room = room;
    }
    list->data[list->n++] = merge;
    return 0;
}

/* The operation finds a merge's result by the text of both parts. */
static bool fits_together(const ofr_graph_vocab *vocab, const ofr_vocab_merge *m)
{
    size_t left, right, whole;
    const char *a = merged_text(vocab, m->left, &left);
    const char *b = merged_text(vocab, m->right, &right);
    const char *c = merged_text(vocab, m->result, &whole);
    return left + right == whole && memcmp(c, a, left) == 0 && memcmp(c + left, b, right) == 0;
}

static int list_table(const ofr_graph_vocab *vocab, merge_list *list, ofr_error *err)
{
    size_t size;
    const ofr_tokenizer_merge *table = section(vocab, OFR_TOKENIZER_SECTION_MERGE_TABLE, &size);
    int r = 0;
    for (size_t i = 0; i < size / sizeof *table && r == 0; i++) {
        ofr_vocab_merge merge = {.left = table[i].left,
                                 .right = table[i].right,
                                 .result = table[i].result,
                                 .rank = table[i].rank};
        if (table[i].left != OFR_TOKENIZER_NO_TOKEN && fits_together(vocab, &merge))
            r = add_merge(list, merge, err);
    }
    return r;
}

/* SentencePiece merges any two symbols whose texts together are a token: every cut of each. */
static int list_cuts(const ofr_graph_vocab *vocab, uint32_t id, float score, merge_list *list,
                     ofr_error *err)
{
    size_t size;
    const char *text = ofr_tokenizer_token_text(vocab->tokenizer, (int32_t)id, &size);
    int r = 0;
    for (size_t cut = size ? ofr_utf8_length(text[0]) : 0; cut < size && r == 0;
         cut += ofr_utf8_length(text[cut])) {
        int32_t left = ofr_tokenizer_find(vocab->tokenizer, text, cut);
        int32_t right = ofr_tokenizer_find(vocab->tokenizer, text + cut, size - cut);
        if (left < 0 || right < 0 || !is_plain(vocab, (uint32_t)left) ||
            !is_plain(vocab, (uint32_t)right))
            continue;
        r = add_merge(list,
                      (ofr_vocab_merge){.left = (uint32_t)left,
                                        .right = (uint32_t)right,
                                        .result = id,
                                        .score = score,
                                        .rank = id},
                      err);
    }
    return r;
}

static int list_scored(const ofr_graph_vocab *vocab, merge_list *list, ofr_error *err)
{
    size_t size;
    const float *scores = section(vocab, OFR_TOKENIZER_SECTION_SCORES, &size);
    int r = 0;
    for (uint32_t id = 0; id < vocab->header->n_tokens && r == 0; id++) {
        size_t length;
        const char *text = ofr_tokenizer_token_text(vocab->tokenizer, (int32_t)id, &length);
        /* Of two tokens of one text, only one is ever found. */
        if (is_plain(vocab, id) &&
            ofr_tokenizer_find(vocab->tokenizer, text, length) == (int32_t)id)
            r = list_cuts(vocab, id, scores[id], list, err);
    }
    return r;
}

static int compare_merges(const void *a, const void *b)
{
    const ofr_vocab_merge *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->left != y->left ? (x->left < y->left ? -1 : 1) : (x->right > y->right) - 1;
}

/* ---- what text can become ---- */

static bool is_one_character(const char *text, size_t size)
{
    return size > 0 && ofr_utf8_length(text[0]) == size;
}

/* Marks the tokens that words begin as. */
static void mark_first(const ofr_graph_vocab *vocab, bool *reached)
{
    size_t size;
    const int32_t *bytes = section(vocab, OFR_TOKENIZER_SECTION_BYTE_IDS, &size);
    for (uint32_t i = 0; i < 256 && !vocab->escaped; i++)
        if (bytes[i] >= 0)
            reached[bytes[i]] = true;
    for (uint32_t id = 0; id < vocab->header->n_tokens && vocab->escaped; id++) {
        size_t length;
        const char *text = ofr_tokenizer_token_text(vocab->tokenizer, (int32_t)id, &length);
        reached[id] = is_plain(vocab, id) && is_one_character(text, length) &&
                      ofr_tokenizer_find(vocab->tokenizer, text, length) == (int32_t)id;
    }
}

/* Follows the merges until they make nothing new, and drops those that cannot happen. */
static void follow_merges(merge_list *list, bool *reached)
{
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < list->n; i++) {
            const ofr_vocab_merge *m = &list->data[i];
            if (reached[m->left] && reached[m->right] && !reached[m->result])
                more = reached[m->result] = true;
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < list->n; i++)
        if (reached[list->data[i].left] && reached[list->data[i].right])
            list->data[kept++] = list->data[i];
    list->n = kept;
}

static int make_encoded(ofr_graph_vocab *vocab, const bool *reached, ofr_error *err)
{
    size_t room = 0;
    int r = texts_init(&vocab->encoded, vocab->header->n_tokens, err);
    for (uint32_t id = 0; id < vocab->header->n_tokens && r == 0; id++) {
        unsigned type = ofr_graph_vocab_type(vocab, id) & OFR_TOKEN_TYPE_MASK;
        bool special = type == OFR_TOKEN_TYPE_CONTROL || type == OFR_TOKEN_TYPE_UNKNOWN ||
                       type == OFR_TOKEN_TYPE_USER_DEFINED;
        bool fallback = vocab->escaped && type == OFR_TOKEN_TYPE_BYTE;
        size_t size;
        const char *text = merged_text(vocab, id, &size);
        if (size == 0 || (!special && !fallback && !reached[id])) {
            text = NEVER;
            size = sizeof NEVER - 1;
        }
        r = texts_append(&vocab->encoded, &room, id, text, size, err);
    }
    return r;
}

static int make_merges(ofr_graph_vocab *vocab, ofr_error *err)
{
    merge_list list = {0};
    bool *reached = calloc(vocab->header->n_tokens + 1, sizeof *reached);
    int r = !reached                                    ? out_of_memory(err)
            : vocab->header->kind == OFR_VOCAB_KIND_SPM ? list_scored(vocab, &list, err)
                                                        : list_table(vocab, &list, err);
    if (r == 0) {
        mark_first(vocab, reached);
        if (list.n > 0)
            qsort(list.data, list.n, sizeof *list.data, compare_merges);
        follow_merges(&list, reached);
        r = make_encoded(vocab, reached, err);
    }
    vocab->merges = list.data;
    vocab->n_merges = list.n;
    free(reached);
    return r < 0 || list.n > 0 ? r
                               : ofr_fail(err, OFR_EUNSUPPORTED, "the vocabulary has no merges");
}

static int check_kind(const ofr_graph_vocab *vocab, ofr_error *err)
{
    size_t size;
    section(vocab, OFR_TOKENIZER_SECTION_CHARSMAP, &size);
    if (vocab->header->kind == OFR_VOCAB_KIND_UNIGRAM)
        return ofr_fail(err, OFR_EUNSUPPORTED, "the vocabulary is a unigram one");
    if (size > 0)
        return ofr_fail(err, OFR_EUNSUPPORTED, "the vocabulary has a character map of its own");
    if (has(vocab, OFR_TOKENIZER_FLAG_MERGE_SPACES))
        return ofr_fail(err, OFR_EUNSUPPORTED, "the vocabulary makes runs of spaces one");
    const int32_t *bytes = section(vocab, OFR_TOKENIZER_SECTION_BYTE_IDS, &size);
    for (uint32_t i = 0; i < 256 && vocab->escaped; i++)
        if (bytes[i] < 0)
            return ofr_fail(err, OFR_EUNSUPPORTED,
                            "the vocabulary has no token for the byte 0x%02X", (unsigned)i);
    return 0;
}

int ofr_graph_vocab_init(ofr_graph_vocab *vocab, const void *image, const ofr_tokenizer *tokenizer,
                         ofr_error *err)
{
    *vocab = (ofr_graph_vocab){.tokenizer = tokenizer, .header = image};
    vocab->escaped = has(vocab, OFR_TOKENIZER_FLAG_ESCAPE_SPACES);
    int r = check_kind(vocab, err);
    if (r == 0)
        r = make_decoded(vocab, err);
    if (r == 0)
        r = make_merges(vocab, err);
    if (r < 0)
        ofr_graph_vocab_done(vocab);
    return r;
}

static void texts_done(ofr_vocab_texts *texts)
{
    free(texts->begins);
    free(texts->ends);
    free(texts->bytes);
}

void ofr_graph_vocab_done(ofr_graph_vocab *vocab)
{
    texts_done(&vocab->encoded);
    texts_done(&vocab->decoded);
    free(vocab->merges);
    *vocab = (ofr_graph_vocab){0};
}
