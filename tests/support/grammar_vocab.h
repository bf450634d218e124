/* A vocabulary for tests of grammars: every byte, some longer tokens that cross the borders of JSON
 * and of characters, two control tokens and an end token. */
#ifndef OFR_TESTS_GRAMMAR_VOCAB_H
#define OFR_TESTS_GRAMMAR_VOCAB_H

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "grammar/matcher.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_build.h"
#include "tokenizer/tokenizer_internal.h"

typedef struct grammar_vocab {
    void *image;
    ofr_tokenizer *tokenizer;
    ofr_vocabulary *vocabulary;
    int32_t end; /* the token that ends a text */
} grammar_vocab;

static const char *const grammar_vocab_texts[] = {"{\"",
                                                  "\":",
                                                  "\",",
                                                  "\"}",
                                                  "\": \"",
                                                  "\", \"",
                                                  ", \"",
                                                  "},",
                                                  "}]",
                                                  "]}",
                                                  "[[",
                                                  "]]",
                                                  "[{",
                                                  "{}",
                                                  "[]",
                                                  "\"\"",
                                                  "true",
                                                  "false",
                                                  "null",
                                                  "\"a",
                                                  "a\"",
                                                  "ab",
                                                  "abc",
                                                  "abcdef",
                                                  "the",
                                                  " the",
                                                  " a",
                                                  "  ",
                                                  "    ",
                                                  "\n",
                                                  "\n\n",
                                                  "\n  ",
                                                  "\t",
                                                  "\\n",
                                                  "\\\"",
                                                  "\\u",
                                                  "\\u00",
                                                  "\\\\",
                                                  "n\"",
                                                  "12",
                                                  "123",
                                                  "1.5",
                                                  ".5",
                                                  "0.",
                                                  "-1",
                                                  "e+",
                                                  "00",
                                                  "10",
                                                  "2024",
                                                  "-0",
                                                  "\xC3\xA9",
                                                  "\xC3\xA9t",
                                                  "\xE2\x82",
                                                  "\xE2\x82\xAC",
                                                  "\xF0\x9F",
                                                  "\xF0\x9F\xA6\x99",
                                                  "\xA6\x99",
                                                  "a\xE2",
                                                  "name",
                                                  "\"name\"",
                                                  "\"name\":",
                                                  "city",
                                                  "location",
                                                  "Paris",
                                                  "foo",
                                                  "bar",
                                                  "\"foo\"",
                                                  "<tool_call>",
                                                  "</tool_call>",
                                                  "<tool",
                                                  "_call",
                                                  "arguments",
                                                  "get_weather",
                                                  "xxxxxxxxxxxxxxxxxxxxxxxx",
                                                  "a b c d e f g h i j k l m n o p",
                                                  "\x7F"
                                                  "a",
                                                  "(",
                                                  "))",
                                                  "+",
                                                  "*("};
enum { GRAMMAR_VOCAB_TEXTS = sizeof grammar_vocab_texts / sizeof grammar_vocab_texts[0] };

/* The spelling of bytes in a byte-level vocabulary. */
static inline size_t grammar_vocab_spell(const char *text, char *out)
{
    size_t size = 0;
    for (; *text; text++)
        size += ofr_utf8_encode(ofr_byte_alphabet_codepoint((unsigned char)*text), out + size);
    out[size] = '\0';
    return size;
}

static inline void grammar_vocab_init(grammar_vocab *v)
{
    enum { COUNT = 256 + GRAMMAR_VOCAB_TEXTS + 3 };
    static char storage[COUNT][128];
    static ofr_bytes tokens[COUNT];
    static int32_t types[COUNT];
    ofr_vocab vocab;
    ofr_error err;
    size_t image_size;
    ofr_vocab_init(&vocab, OFR_VOCAB_KIND_BPE, "gpt-2");
    vocab.tokens = tokens;
    vocab.types = types;
    for (int i = 0; i < 256 + GRAMMAR_VOCAB_TEXTS; i++) {
        size_t size =
            i < 256 ? ofr_utf8_encode(ofr_byte_alphabet_codepoint((unsigned char)i), storage[i])
                    : grammar_vocab_spell(grammar_vocab_texts[i - 256], storage[i]);
        tokens[i] = (ofr_bytes){storage[i], size};
        types[i] = OFR_TOKEN_TYPE_NORMAL;
    }
    static const char *const control[] = {"<|im_end|>", "[TOOL_CALLS]", "<|tool_call|>"};
    for (int i = 0; i < 3; i++) {
        tokens[256 + GRAMMAR_VOCAB_TEXTS + i] = (ofr_bytes){control[i], strlen(control[i])};
        types[256 + GRAMMAR_VOCAB_TEXTS + i] = OFR_TOKEN_TYPE_CONTROL;
    }
    v->end = 256 + GRAMMAR_VOCAB_TEXTS;
    vocab.n_tokens = COUNT;
    vocab.eos_id = v->end;
    if (ofr_tokenizer_build(&vocab, &v->image, &image_size, &err) ||
        ofr_tokenizer_open(v->image, image_size, &v->tokenizer, &err) ||
        ofr_vocabulary_new(v->tokenizer, &v->vocabulary, &err))
        abort();
}

static inline void grammar_vocab_done(grammar_vocab *v)
{
    ofr_vocabulary_free(v->vocabulary);
    ofr_tokenizer_close(v->tokenizer);
    free(v->image);
}

/* Whether the whole text is in the grammar. */
static inline bool grammar_accepts(const ofr_grammar *grammar, const grammar_vocab *v,
                                   const char *text, size_t size)
{
    ofr_matcher *matcher;
    ofr_error err;
    if (ofr_matcher_new(grammar, v->vocabulary, &matcher, &err))
        return false;
    bool accepted =
        ofr_matcher_accept_bytes(matcher, text, size, &err) == 0 && ofr_matcher_can_end(matcher);
    ofr_matcher_free(matcher);
    return accepted;
}

#endif
