/* Fuzz target of the tokenizer: damaged tokenizer.bin images, arbitrary texts, arbitrary ids.
 * The first byte chooses the vocabulary and what the rest of the input is. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../tests/support/small_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RULES_TRIED = 16 };

static void decode_ids(const ofr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                       unsigned flags)
{
    ofr_error err;
    char *text;
    size_t size;
    ofr_detokenizer *stream;
    if (!ofr_tokenizer_decode(tokenizer, ids, count, flags, &text, &size, &err))
        free(text);
    if (ofr_detokenizer_new(tokenizer, flags, &stream, &err))
        return;
    for (size_t i = 0; i <= count; i++) {
        const char *piece;
        int rc = i < count ? ofr_detokenizer_push(stream, ids[i], &piece, &size, &err)
                           : ofr_detokenizer_finish(stream, &piece, &size, &err);
        if (!rc && (!ofr_utf8_validate(piece, size, NULL) || piece[size]))
            abort(); /* a stream gives out whole characters */
    }
    ofr_detokenizer_free(stream);
}

/* Encodes; where nothing in the vocabulary loses anything, the text must come back. */
static void encode_text(const ofr_tokenizer *tokenizer, const char *text, size_t size,
                        bool lossless)
{
    for (unsigned special = 0; special < 2; special++) {
        ofr_error err;
        int32_t *ids;
        size_t count, back_size;
        char *back;
        if (ofr_tokenizer_encode(tokenizer, text, size, special ? OFR_TOKENIZE_PARSE_SPECIAL : 0,
                                 &ids, &count, &err))
            return;
        decode_ids(tokenizer, ids, count, special ? OFR_DETOKENIZE_SPECIAL : 0);
        if (lossless &&
            !ofr_tokenizer_decode(tokenizer, ids, count, special ? OFR_DETOKENIZE_SPECIAL : 0,
                                  &back, &back_size, &err)) {
            if (back_size != size || memcmp(back, text, size) != 0)
                abort();
            free(back);
        }
        free(ids);
    }
}

/* Triples of the input: two bytes of place, one of value. The checksum is made right again. */
static void damage(char *image, size_t image_size, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 2 < size; i += 3)
        image[(data[i] | (size_t)data[i + 1] << 8) % image_size] = (char)data[i + 2];
    ((ofr_tokenizer_header *)(void *)image)->checksum = ofr_tokenizer_checksum(image, image_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = " hello</s> caf\xC3\xA9 12[user]\xF0\x9F\xA6\x99\n\naaaaaaaaaa";
    if (size < 2)
        return 0;
    unsigned mode = data[0] & 3u, kind = (data[0] >> 2) % 3u;
    small_vocab *small = malloc(sizeof *small);
    if (!small)
        return 0;
    if (kind == OFR_VOCAB_KIND_BPE) {
        size_t rules;
        const ofr_pre_rule *all = ofr_pre_rule_all(&rules);
        small_byte_level(small, all[(data[0] >> 4) * rules / RULES_TRIED].name);
        small->vocab.normalization = data[1] & 1 ? OFR_NORMALIZATION_NFC : OFR_NORMALIZATION_NONE;
    } else {
        small_pieces(small, (enum ofr_vocab_kind)kind);
        small->vocab.remove_extra_whitespaces = data[1] & 1;
    }
    ofr_error err;
    void *image = NULL;
    size_t image_size;
    ofr_tokenizer *tokenizer = NULL;
    bool lossless = !(data[1] & 1);
    int rc = ofr_tokenizer_build(&small->vocab, &image, &image_size, &err);
    free(small);
    if (rc)
        abort(); /* these vocabularies are sound */
    if (mode == 0)
        damage(image, image_size, data + 2, size - 2);
    if (!ofr_tokenizer_open(image, image_size, &tokenizer, &err)) {
        if (mode == 0) {
            encode_text(tokenizer, text, sizeof text - 1, false);
        } else if (mode == 1) {
            int32_t ids[256];
            size_t count = size - 2 < sizeof ids ? (size - 2) / sizeof ids[0] : 256;
            memcpy(ids, data + 2, count * sizeof ids[0]);
            for (size_t i = 0; i < count; i++)
                ids[i] %= 512; /* some of them still outside the vocabulary */
            decode_ids(tokenizer, ids, count, data[1] & 3);
        } else {
            /* The mark of a space is a space when it comes back. */
            lossless = lossless && !(kind != OFR_VOCAB_KIND_BPE &&
                                     memmem(data + 2, size - 2, OFR_SPACE_MARK, 3));
            encode_text(tokenizer, (const char *)data + 2, size - 2, lossless);
        }
    } else if (mode != 0) {
        abort();
    }
    ofr_tokenizer_close(tokenizer);
    free(image);
    return 0;
}
