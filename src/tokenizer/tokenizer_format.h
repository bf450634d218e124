/* Byte layout of tokenizer.bin, version 1. All numbers are little-endian; offsets count from the
 * start of the file; nothing is a pointer, so that a mapping of the file is used as it is.
 *
 *   1. header, 256 bytes (ofr_tokenizer_header)
 *   2. sections in the order of enum ofr_tokenizer_section, each on an 8-byte boundary, with zero
 *      bytes between them; header.sections[i] is where section i lies, size 0 if it is absent:
 *      TOKEN_OFFSETS  u32 [n_tokens + 1]  token i is TOKEN_TEXT[offset i, offset i + 1)
 *      TOKEN_TEXT     u8  [...]           texts as the vocabulary stores them, without separators
 *      TOKEN_TYPES    u8  [n_tokens]      enum ofr_token_type | OFR_TOKEN_STRIP_* bits
 *      SCORES         f32 [n_tokens]      SPM and unigram; finite
 *      TOKEN_TABLE    u32 [power of two]  open addressing by ofr_tokenizer_hash_text(), linear
 *                                         probing: id + 1, or 0 for an empty slot
 *      MERGE_TABLE    ofr_tokenizer_merge [power of two]  BPE; open addressing by
 *                                         ofr_tokenizer_hash_pair(), linear probing
 *      BYTE_IDS       i32 [256]           token that stands for one byte, or -1
 *      SPECIALS       i32 [...]           control, unknown and user-defined tokens, sorted by text
 *      STOP_IDS       i32 [...]           tokens that end generation, ascending
 *      SORTED         i32 [...]           unigram: tokens that text may consist of, sorted by text
 *      SORTED_INDEX   u32 [65537]         unigram: first place in SORTED whose first two bytes (a
 *                                         text of one byte counts as followed by 0) are >= index
 *      CHARSMAP       u8  [...]           SentencePiece's precompiled normaliser table
 *
 * header.checksum covers the whole file with the checksum itself taken as zero.
 *
 * The file is checked in one linear pass when it is opened; see tokenizer_open.c. */
#ifndef OFR_TOKENIZER_TOKENIZER_FORMAT_H
#define OFR_TOKENIZER_TOKENIZER_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define OFR_TOKENIZER_MAGIC "OFRTOKN"

enum {
    OFR_TOKENIZER_VERSION = 1,
    OFR_TOKENIZER_PRE_MAX = 32,
    OFR_TOKENIZER_TOKENS_MAX = 1 << 24,
    OFR_TOKENIZER_TEXT_MAX = 1 << 16, /* bytes of one token */
    OFR_TOKENIZER_ALIGNMENT = 8,
    OFR_TOKENIZER_SORTED_INDEX_COUNT = 65537,
};

enum ofr_tokenizer_section {
    OFR_TOKENIZER_SECTION_TOKEN_OFFSETS,
    OFR_TOKENIZER_SECTION_TOKEN_TEXT,
    OFR_TOKENIZER_SECTION_TOKEN_TYPES,
    OFR_TOKENIZER_SECTION_SCORES,
    OFR_TOKENIZER_SECTION_TOKEN_TABLE,
    OFR_TOKENIZER_SECTION_MERGE_TABLE,
    OFR_TOKENIZER_SECTION_BYTE_IDS,
    OFR_TOKENIZER_SECTION_SPECIALS,
    OFR_TOKENIZER_SECTION_STOP_IDS,
    OFR_TOKENIZER_SECTION_SORTED,
    OFR_TOKENIZER_SECTION_SORTED_INDEX,
    OFR_TOKENIZER_SECTION_CHARSMAP,
    OFR_TOKENIZER_SECTION_COUNT,
};

/* header.flags */
enum ofr_tokenizer_header_flags {
    OFR_TOKENIZER_FLAG_ADD_BOS = 1 << 0,
    OFR_TOKENIZER_FLAG_ADD_EOS = 1 << 1,
    OFR_TOKENIZER_FLAG_SPACE_PREFIX = 1 << 2,
    OFR_TOKENIZER_FLAG_MERGE_SPACES = 1 << 3, /* remove_extra_whitespaces */
    OFR_TOKENIZER_FLAG_IGNORE_MERGES = 1 << 4,
    /* Spaces are written U+2581 and missing characters as <0xHH>, instead of the byte alphabet. */
    OFR_TOKENIZER_FLAG_ESCAPE_SPACES = 1 << 5,
    /* No token has U+2581 after another character, so that no merge crosses a word's beginning. */
    OFR_TOKENIZER_FLAG_WORDS_APART = 1 << 6,
    OFR_TOKENIZER_FLAG_NFC = 1 << 7,
    OFR_TOKENIZER_FLAG_NFKC = 1 << 8,
    /* The space before the text: only at its very beginning, not behind a special token; and only
     * where the text does not begin with one. */
    OFR_TOKENIZER_FLAG_PREFIX_FIRST = 1 << 9,
    OFR_TOKENIZER_FLAG_PREFIX_UNLESS_SPACE = 1 << 10,
    OFR_TOKENIZER_FLAG_ALL = (1 << 11) - 1,
};

/* Bits of TOKEN_TYPES above the type itself: white space to drop around the token in text. */
enum {
    OFR_TOKEN_TYPE_MASK = 0x0F,
    OFR_TOKEN_STRIP_LEFT = 0x10,
    OFR_TOKEN_STRIP_RIGHT = 0x20,
};

typedef struct ofr_tokenizer_range {
    uint64_t offset; /* bytes from the start of the file */
    uint64_t size;   /* bytes */
} ofr_tokenizer_range;

typedef struct ofr_tokenizer_header {
    char magic[8];       /* 0   OFR_TOKENIZER_MAGIC and its NUL */
    uint32_t version;    /* 8 */
    uint32_t kind;       /* 12  enum ofr_vocab_kind */
    uint64_t file_size;  /* 16 */
    uint64_t checksum;   /* 24  ofr_tokenizer_checksum() */
    uint32_t flags;      /* 32 */
    uint32_t n_tokens;   /* 36 */
    int32_t bos_id;      /* 40 */
    int32_t eos_id;      /* 44 */
    int32_t unk_id;      /* 48 */
    int32_t pad_id;      /* 52 */
    float unknown_score; /* 56  unigram: score of a character that no token covers */
    uint32_t n_sections; /* 60 */
    ofr_tokenizer_range sections[OFR_TOKENIZER_SECTION_COUNT]; /* 64 */
} ofr_tokenizer_header;

/* The name of the pre-tokenizer follows the header. */
typedef struct ofr_tokenizer_preamble {
    ofr_tokenizer_header header;
    char pre[OFR_TOKENIZER_PRE_MAX]; /* 256 NUL-terminated, canonical name; "" where none */
} ofr_tokenizer_preamble;

typedef struct ofr_tokenizer_merge {
    uint32_t left, right; /* 0, 4: token ids; left is OFR_TOKENIZER_NO_TOKEN in an empty slot */
    uint32_t rank;        /* 8: smaller merges first */
    uint32_t result;      /* 12: token id */
} ofr_tokenizer_merge;

#define OFR_TOKENIZER_NO_TOKEN UINT32_MAX

static_assert(offsetof(ofr_tokenizer_header, file_size) == 16, "tokenizer.bin layout");
static_assert(offsetof(ofr_tokenizer_header, checksum) == 24, "tokenizer.bin layout");
static_assert(offsetof(ofr_tokenizer_header, bos_id) == 40, "tokenizer.bin layout");
static_assert(offsetof(ofr_tokenizer_header, unknown_score) == 56, "tokenizer.bin layout");
static_assert(offsetof(ofr_tokenizer_header, sections) == 64, "tokenizer.bin layout");
static_assert(sizeof(ofr_tokenizer_header) == 256, "tokenizer.bin layout");
static_assert(sizeof(ofr_tokenizer_preamble) == 288, "tokenizer.bin layout");
static_assert(sizeof(ofr_tokenizer_merge) == 16, "tokenizer.bin layout");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tokenizer.bin is used in place");

/* The finisher of MurmurHash3 (public domain): every input bit reaches every output bit. */
static inline uint64_t ofr_tokenizer_mix(uint64_t value)
{
    value ^= value >> 33;
    value *= 0xFF51AFD7ED558CCDu;
    value ^= value >> 33;
    value *= 0xC4CEB9FE1A85EC53u;
    return value ^ (value >> 33);
}

/* FNV-1a, 64 bits, and the mix above, since the tables use the low bits. */
static inline uint64_t ofr_tokenizer_hash_text(const char *text, size_t size)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
    return ofr_tokenizer_mix(hash);
}

static inline uint64_t ofr_tokenizer_hash_pair(uint32_t left, uint32_t right)
{
    return ofr_tokenizer_mix(((uint64_t)left << 32 | right) + 0x9E3779B97F4A7C15u);
}

/* Checksum of a file image [size bytes, size >= 32], the eight bytes of header.checksum counting as
 * zero: four interleaved multiplicative hashes of 64-bit words, so that any one changed bit shows,
 * at the speed of memory. Against accidents only; the package's sha256 guards against intent. */
uint64_t ofr_tokenizer_checksum(const void *data, size_t size);

#endif
