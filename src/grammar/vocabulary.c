/* The tries of a vocabulary. */
#include "grammar/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "grammar/grammar_internal.h"

ofr_vocabulary *ofr_vocabulary_free(ofr_vocabulary *vocabulary)
{
    if (vocabulary) {
        free(vocabulary->bytes);
        free(vocabulary->offsets);
        free(vocabulary->stop_ids);
        free(vocabulary->all.nodes);
        free(vocabulary->all.order);
        free(vocabulary->rest.nodes);
        free(vocabulary->rest.order);
        free(vocabulary->plain);
        free(vocabulary->plain_long);
        free(vocabulary->plain_sizes);
        free(vocabulary);
    }
    return NULL;
}

static bool is_stop(const ofr_vocabulary *v, int32_t id)
{
    for (size_t i = 0; i < v->n_stop_ids; i++)
        if (v->stop_ids[i] == id)
            return true;
    return false;
}

static int append(ofr_vocabulary *v, size_t *room, const char *data, size_t size, uint32_t *used)
{
    if (*used + size + 2 > *room) {
        *room = (*used + size + 2) * 2;
        char *grown = realloc(v->bytes, *room);
        if (!grown)
            return OFR_ENOMEM;
        v->bytes = grown;
    }
    memcpy(v->bytes + *used, data, size);
    *used += (uint32_t)size;
    return 0;
}

/* The bytes of one token; none if no text may hold it. */
static int add_token(ofr_vocabulary *v, const ofr_tokenizer *tokenizer, int32_t id, int32_t unknown,
                     size_t *room, uint32_t *used, ofr_error *err)
{
    static const char mark = (char)OFR_GRAMMAR_TOKEN_BYTE;
    if (id == unknown || is_stop(v, id))
        return 0;
    size_t size = 0;
    if (ofr_tokenizer_is_control(tokenizer, id)) {
        const char *name = ofr_tokenizer_token_text(tokenizer, id, &size);
        if (size == 0 || size + 2 > OFR_VOCABULARY_TOKEN_MAX || memchr(name, mark, size))
            return 0;
        int r = append(v, room, &mark, 1, used);
        if (r == 0)
            r = append(v, room, name, size, used);
        return r < 0 ? r : append(v, room, &mark, 1, used);
    }
    char *text = NULL;
    int r = ofr_tokenizer_decode(tokenizer, &id, 1, OFR_DETOKENIZE_CONTINUATION, &text, &size, err);
    if (r == 0 && size <= OFR_VOCABULARY_TOKEN_MAX && !memchr(text, mark, size))
        r = append(v, room, text, size, used);
    free(text);
    return r;
}

static int compare_tokens(const void *a, const void *b, void *user)
{
    const ofr_vocabulary *v = user;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    uint32_t n = v->offsets[x + 1] - v->offsets[x], m = v->offsets[y + 1] - v->offsets[y];
    int order = memcmp(v->bytes + v->offsets[x], v->bytes + v->offsets[y], n < m ? n : m);
    if (order == 0)
        order = (n > m) - (n < m);
    return order ? order : (x > y) - (x < y);
}

/* Characters if all of them are plain, otherwise 0. */
static size_t plain_characters(const char *text, size_t size)
{
    size_t count = 0;
    while (size) {
        uint32_t codepoint;
        size_t length;
        if (ofr_utf8_next(text, size, &codepoint, &length) != OFR_UTF8_STATE_CHARACTER ||
            !ofr_is_plain(codepoint))
            return 0;
        text += length;
        size -= length;
        count++;
    }
    return count;
}

/* From sorted trie->order. Every token's node follows those of its prefixes. */
static int build_trie(const ofr_vocabulary *v, ofr_trie *trie)
{
    size_t bytes = 1;
    for (uint32_t i = 0; i < trie->n_tokens; i++)
        bytes += v->offsets[trie->order[i] + 1] - v->offsets[trie->order[i]];
    ofr_trie_node *nodes = calloc(bytes, sizeof *nodes);
    if (!nodes)
        return OFR_ENOMEM;
    uint32_t path[OFR_VOCABULARY_TOKEN_MAX + 1] = {0}, depth = 0, n = 1;
    const char *previous = "";
    for (uint32_t i = 0; i < trie->n_tokens; i++) {
        const char *text = v->bytes + v->offsets[trie->order[i]];
        uint32_t size = v->offsets[trie->order[i] + 1] - v->offsets[trie->order[i]], common = 0;
        while (common < depth && common < size && text[common] == previous[common])
            common++;
        while (depth > common)
            nodes[path[depth--]].end = n;
        while (depth < size) {
            nodes[n] = (ofr_trie_node){.byte = (uint8_t)text[depth], .depth = (uint8_t)(depth + 1)};
            path[++depth] = n++;
        }
        ofr_trie_node *node = &nodes[path[depth]];
        if (node->count == 0)
            node->first = i;
        if (node->count < UINT16_MAX)
            node->count++;
        previous = text;
    }
    while (depth > 0)
        nodes[path[depth--]].end = n;
    nodes[0].end = n;
    ofr_trie_node *fitted = realloc(nodes, n * sizeof *nodes);
    trie->nodes = fitted ? fitted : nodes;
    trie->n_nodes = n;
    return 0;
}

/* Divides the tokens among the tries and the masks of plain ones. */
static int divide(ofr_vocabulary *v)
{
    size_t n = (size_t)v->size, words = v->mask_words, levels = OFR_VOCABULARY_PLAIN_MAX + 1;
    v->all.order = calloc(n, sizeof *v->all.order);
    v->rest.order = calloc(n, sizeof *v->rest.order);
    v->plain = calloc(levels * words, sizeof *v->plain);
    v->plain_long = calloc(n, sizeof *v->plain_long);
    v->plain_sizes = calloc(n, sizeof *v->plain_sizes);
    if (!v->all.order || !v->rest.order || !v->plain || !v->plain_long || !v->plain_sizes)
        return OFR_ENOMEM;
    for (int32_t id = 0; id < v->size; id++) {
        uint32_t size = v->offsets[id + 1] - v->offsets[id];
        if (size == 0)
            continue;
        v->token_max = size > v->token_max ? size : v->token_max;
        v->all.order[v->all.n_tokens++] = id;
    }
    qsort_r(v->all.order, v->all.n_tokens, sizeof *v->all.order, compare_tokens, v);
    for (uint32_t i = 0; i < v->all.n_tokens; i++) {
        int32_t id = v->all.order[i];
        uint32_t size = v->offsets[id + 1] - v->offsets[id];
        size_t characters = plain_characters(v->bytes + v->offsets[id], size);
        if (characters == 0) {
            v->rest.order[v->rest.n_tokens++] = id;
            continue;
        }
        if (characters > OFR_VOCABULARY_PLAIN_MAX) {
            v->plain_long[v->n_plain_long] = id;
            v->plain_sizes[v->n_plain_long++] = (uint8_t)characters;
        }
        for (size_t level = 0; level < levels; level++)
            if (characters <= level || level == OFR_VOCABULARY_PLAIN_MAX)
                v->plain[level * words + (size_t)id / 32] |= UINT32_C(1) << (id & 31);
    }
    int r = build_trie(v, &v->all);
    return r < 0 ? r : build_trie(v, &v->rest);
}

static int load(ofr_vocabulary *v, const ofr_tokenizer *tokenizer, ofr_error *err)
{
    ofr_tokenizer_info info;
    ofr_tokenizer_get_info(tokenizer, &info);
    v->size = info.vocab_size;
    v->mask_words = ((size_t)v->size + 31) / 32;
    const int32_t *stop_ids = ofr_tokenizer_stop_ids(tokenizer, &v->n_stop_ids);
    v->stop_ids = calloc(v->n_stop_ids + 1, sizeof *v->stop_ids);
    v->offsets = calloc((size_t)v->size + 1, sizeof *v->offsets);
    if (!v->stop_ids || !v->offsets)
        return OFR_ENOMEM;
    if (v->n_stop_ids)
        memcpy(v->stop_ids, stop_ids, v->n_stop_ids * sizeof *stop_ids);
    size_t room = 0;
    uint32_t used = 0;
    bool asked = false; /* one token with a space tells what happens to all of them */
    for (int32_t id = 0; id < v->size; id++) {
        int r = add_token(v, tokenizer, id, info.unk_id, &room, &used, err);
        if (r < 0)
            return r;
        v->offsets[id + 1] = used;
        uint32_t size = used - v->offsets[id];
        if (!asked && size > 1 && v->bytes[v->offsets[id]] == ' ') {
            asked = true;
            char *text = NULL;
            size_t stripped = size;
            r = ofr_tokenizer_decode(tokenizer, &id, 1, 0, &text, &stripped, err);
            free(text);
            if (r < 0)
                return r;
            v->strip_first_space = stripped < size;
        }
    }
    return divide(v);
}

int ofr_vocabulary_new(const ofr_tokenizer *tokenizer, ofr_vocabulary **ret_vocabulary,
                       ofr_error *err)
{
    ofr_vocabulary *v = calloc(1, sizeof *v);
    int r = v ? load(v, tokenizer, err) : OFR_ENOMEM;
    if (r < 0) {
        ofr_vocabulary_free(v);
        return r == OFR_ENOMEM ? ofr_fail(err, r, "no memory for a vocabulary") : r;
    }
    *ret_vocabulary = v;
    return 0;
}
