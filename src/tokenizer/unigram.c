/* SentencePiece unigram: the segmentation with the greatest sum of scores, by Viterbi.
 * Sums are kept in double precision and ties go to the earlier beginning, as in the reference. */
#include <stdlib.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer_internal.h"

typedef struct best_path {
    double score;
    uint32_t begin; /* where the last token of the path begins */
    int32_t id;     /* the last token; -1: a character that no token covers */
    bool reached;
} best_path;

static void offer(best_path *path, double score, size_t begin, int32_t id)
{
    if (path->reached && score <= path->score)
        return;
    *path = (best_path){score, (uint32_t)begin, id, true};
}

/* Extends the best path that ends at `begin` by every token that matches there. */
static void extend(const ofr_tokenizer *tokenizer, const char *text, size_t size, size_t begin,
                   best_path *paths)
{
    double base = paths[begin].score;
    size_t character = ofr_utf8_length(text[begin]);
    size_t limit = size - begin;
    if (limit > tokenizer->token_size_max)
        limit = tokenizer->token_size_max;
    bool covered = false;
    uint32_t first = (uint32_t)(unsigned char)text[begin] << 8;
    size_t low = tokenizer->sorted_index[first], high = tokenizer->sorted_index[first + 256];
    for (size_t depth = 1; depth <= limit && low < high; depth++) {
        /* The tokens in [low, high) share their first `depth` bytes with the text; one of exactly
         * that length comes first. */
        size_t token_size;
        token_text(tokenizer, tokenizer->sorted[low], &token_size);
        if (token_size == depth) {
            int32_t id = tokenizer->sorted[low];
            covered = covered || depth == character;
            /* User-defined tokens always win over ordinary ones, whose scores are negative. */
            double score = token_type(tokenizer, id) == OFR_TOKEN_TYPE_USER_DEFINED
                               ? 0.0
                               : (double)tokenizer->scores[id];
            offer(&paths[begin + depth], base + score, begin, id);
        }
        if (depth == limit)
            break;
        unsigned char next = (unsigned char)text[begin + depth];
        if (depth == 1 && next) {
            low = tokenizer->sorted_index[first + next];
            high = tokenizer->sorted_index[first + next + 1u];
        } else {
            ofr_sorted_narrow(tokenizer, tokenizer->sorted, &low, &high, depth, next);
        }
    }
    if (!covered)
        offer(&paths[begin + character], base + (double)tokenizer->header->unknown_score, begin,
              -1);
}

int ofr_unigram_encode(const ofr_tokenizer *tokenizer, const char *text, size_t size,
                       ofr_id_buffer *ids, ofr_error *err)
{
    if (!size)
        return 0;
    best_path *paths = calloc(size + 1, sizeof *paths);
    if (!paths)
        return ofr_fail(err, OFR_ENOMEM, "tokenizer: out of memory for %zu bytes of text", size);
    paths[0].reached = true;
    /* Tokens are whole characters only if the vocabulary's texts are; a path that ends inside a
     * character is never extended. */
    for (size_t at = 0; at < size; at += ofr_utf8_length(text[at]))
        extend(tokenizer, text, size, at, paths);

    /* Backwards along the best path, marking where each of its tokens ends. */
    size_t at = size;
    uint32_t end = 0;
    while (at) {
        size_t begin = paths[at].begin;
        paths[at].begin = end; /* now: where the token after this one ends; 0 after the last */
        end = (uint32_t)at;
        at = begin;
    }
    int rc = 0;
    bool was_unknown = false;
    for (at = 0; !rc && end; end = paths[end].begin) {
        if (paths[end].id >= 0) {
            was_unknown = false;
            rc = ofr_id_buffer_append(ids, paths[end].id, err);
        } else {
            rc = ofr_append_fallback(tokenizer, text + at, end - at, &was_unknown, ids, err);
        }
        at = end;
    }
    free(paths);
    return rc;
}
