/* A vocabulary as the Python tests write it down, for the tokenizer tool to read.
 *
 * Little-endian: "OFRVOCAB"; 11 x i32: kind, n_tokens, n_merges, bos, eos, unk, pad, eot, flags
 * (enum vocab_dump_flags), bytes of the pre-tokenizer's name, bytes of the character map; the name;
 * the map; n_tokens and then n_merges times u32 size and text; where the flags say so n_tokens
 * scores (f32), types (i32), strip bits (u8). tests/support/vocab_dump.py is the other side. */
#ifndef OFR_TESTS_VOCAB_DUMP_H
#define OFR_TESTS_VOCAB_DUMP_H

#include "tokenizer/tokenizer_build.h"

enum vocab_dump_flags {
    VOCAB_DUMP_ADD_BOS = 1 << 0,
    VOCAB_DUMP_ADD_EOS = 1 << 1,
    VOCAB_DUMP_SPACE_PREFIX = 1 << 2,
    VOCAB_DUMP_REMOVE_EXTRA_WHITESPACES = 1 << 3,
    VOCAB_DUMP_IGNORE_MERGES = 1 << 4,
    VOCAB_DUMP_BYTE_FALLBACK = 1 << 5,
    VOCAB_DUMP_SCORES = 1 << 6,
    VOCAB_DUMP_TYPES = 1 << 7,
    VOCAB_DUMP_NFC = 1 << 8,
    VOCAB_DUMP_NFKC = 1 << 9,
    VOCAB_DUMP_STRIP = 1 << 10,
    VOCAB_DUMP_PREFIX_FIRST = 1 << 11,
    VOCAB_DUMP_PREFIX_UNLESS_SPACE = 1 << 12,
};

/* Reads `path`. *ret_vocab points into memory that vocab_dump_free frees. */
typedef struct vocab_dump vocab_dump;
int vocab_dump_read(const char *path, vocab_dump **ret_dump, ofr_error *err);
const ofr_vocab *vocab_dump_vocab(const vocab_dump *dump);
void vocab_dump_free(vocab_dump *dump);

/* The whole file [*ret_size bytes], malloc'ed. */
int read_whole_file(const char *path, char **ret_data, size_t *ret_size, ofr_error *err);

#endif
