/* Small vocabularies that tests and the fuzz target of the tokenizer build in memory. */
#ifndef OFR_TESTS_SMALL_VOCAB_H
#define OFR_TESTS_SMALL_VOCAB_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_build.h"
#include "tokenizer/tokenizer_internal.h"

enum { SMALL_TOKENS_MAX = 700, SMALL_MERGES_MAX = 64 };

typedef struct small_vocab {
    ofr_vocab vocab;
    ofr_bytes tokens[SMALL_TOKENS_MAX];
    int32_t types[SMALL_TOKENS_MAX];
    float scores[SMALL_TOKENS_MAX];
    ofr_bytes merges[SMALL_MERGES_MAX];
    char storage[SMALL_TOKENS_MAX][8];
} small_vocab;

static inline int32_t small_add(small_vocab *small, const char *text, int32_t type, float score)
{
    int32_t id = small->vocab.n_tokens++;
    if (id >= SMALL_TOKENS_MAX)
        abort();
    small->tokens[id] = (ofr_bytes){text, strlen(text)};
    small->types[id] = type;
    small->scores[id] = score;
    return id;
}

static inline int32_t small_add_copy(small_vocab *small, const char *text, int32_t type,
                                     float score)
{
    char *copy = small->storage[small->vocab.n_tokens];
    snprintf(copy, sizeof small->storage[0], "%s", text);
    return small_add(small, copy, type, score);
}

static inline void small_start(small_vocab *small, enum ofr_vocab_kind kind, const char *pre)
{
    memset(small, 0, sizeof *small);
    ofr_vocab_init(&small->vocab, kind, pre);
    small->vocab.tokens = small->tokens;
    small->vocab.types = small->types;
    small->vocab.merges = small->merges;
}

static inline void small_merge(small_vocab *small, const char *merge)
{
    if (small->vocab.n_merges >= SMALL_MERGES_MAX)
        abort();
    small->merges[small->vocab.n_merges++] = (ofr_bytes){merge, strlen(merge)};
}

/* Byte-level: ids 0-255 are the bytes; then merges; <|im_end|> and <|im_start|> are control tokens,
 * "[user]" is user-defined. */
static inline void small_byte_level(small_vocab *small, const char *pre)
{
    small_start(small, OFR_VOCAB_KIND_BPE, pre);
    for (int byte = 0; byte < 256; byte++) {
        char text[8] = "";
        text[ofr_utf8_encode(ofr_byte_alphabet_codepoint((unsigned char)byte), text)] = '\0';
        small_add_copy(small, text, OFR_TOKEN_TYPE_NORMAL, 0.0f);
    }
    static const char *const merges[] = {"h e",
                                         "l l",
                                         "he ll",
                                         "hell o",
                                         "\xC4\xA0 hello",
                                         "\xC4\xA0 \xC4\xA0",
                                         "a a",
                                         "aa aa",
                                         "\xC3\xB0 \xC5\x81",
                                         "1 2",
                                         NULL};
    static const char *const results[] = {"he",
                                          "ll",
                                          "hell",
                                          "hello",
                                          "\xC4\xA0hello",
                                          "\xC4\xA0\xC4\xA0",
                                          "aa",
                                          "aaaa",
                                          "\xC3\xB0\xC5\x81",
                                          "12"};
    for (size_t i = 0; merges[i]; i++) {
        small_merge(small, merges[i]);
        small_add(small, results[i], OFR_TOKEN_TYPE_NORMAL, 0.0f);
    }
    small->vocab.eos_id = small_add(small, "<|im_end|>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    small->vocab.bos_id = small_add(small, "<|im_start|>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    small_add(small, "[user]", OFR_TOKEN_TYPE_USER_DEFINED, 0.0f);
}

/* SentencePiece: <unk> <s> </s>, the byte tokens, then pieces with scores. */
static inline void small_pieces(small_vocab *small, enum ofr_vocab_kind kind)
{
    small_start(small, kind, NULL);
    small->vocab.scores = small->scores;
    small->vocab.unk_id = small_add(small, "<unk>", OFR_TOKEN_TYPE_UNKNOWN, 0.0f);
    small->vocab.bos_id = small_add(small, "<s>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    small->vocab.eos_id = small_add(small, "</s>", OFR_TOKEN_TYPE_CONTROL, 0.0f);
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        small_add_copy(small, text, OFR_TOKEN_TYPE_BYTE, 0.0f);
    }
    static const char *const pieces[] = {"\xE2\x96\x81",
                                         "h",
                                         "e",
                                         "l",
                                         "o",
                                         "a",
                                         "he",
                                         "ll",
                                         "hell",
                                         "hello",
                                         "\xE2\x96\x81hello",
                                         "\xE2\x96\x81\xE2\x96\x81",
                                         "aa",
                                         "aaaa",
                                         "\xC3\xA9",
                                         "\xE2\x96\x81h"};
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++)
        small_add(small, pieces[i], OFR_TOKEN_TYPE_NORMAL,
                  kind == OFR_VOCAB_KIND_SPM ? -(float)i : -8.0f + (float)strlen(pieces[i]) / 4);
    small_add(small, "[user]", OFR_TOKEN_TYPE_USER_DEFINED, 0.0f);
    small->vocab.remove_extra_whitespaces = false;
    small->vocab.add_eos = false;
}

#endif
