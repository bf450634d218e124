/* Reads the protocol buffer of a SentencePiece model. The messages and fields that count
 * (sentencepiece_model.proto of the SentencePiece library):
 *
 *   ModelProto      1 pieces (SentencePiece, repeated)  2 trainer_spec  3 normalizer_spec
 *   SentencePiece   1 piece (text)  2 score (float)  3 type (1 normal, 2 unknown, 3 control,
 *                   4 user defined, 5 unused, 6 byte)
 *   TrainerSpec     3 model_type (1 unigram, 2 BPE)  40 unk_id  41 bos_id  42 eos_id  43 pad_id
 *   NormalizerSpec  2 precompiled_charsmap (bytes)  3 add_dummy_prefix  4 remove_extra_whitespaces
 *                   5 escape_whitespaces
 *
 * Every length is checked against the bytes that are left. */
#include <stdlib.h>
#include <string.h>

#include "bake_model/hf_vocab.h"

typedef struct message {
    const unsigned char *at, *end;
} message;

typedef struct field {
    uint32_t number;
    unsigned wire;  /* 0 varint, 1 64 bits, 2 bytes, 5 32 bits */
    uint64_t value; /* varint; the raw bits of the fixed ones */
    message bytes;  /* wire 2 */
} field;

static bool take_varint(message *in, uint64_t *ret_value)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && in->at < in->end; shift += 7) {
        unsigned char byte = *in->at++;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            *ret_value = value;
            return true;
        }
    }
    return false;
}

/* 1, 0 at the end, -1 where the bytes are no message. */
static int take_field(message *in, field *f)
{
    if (in->at == in->end)
        return 0;
    uint64_t key, size;
    if (!take_varint(in, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX)
        return -1;
    *f = (field){.number = (uint32_t)(key >> 3), .wire = key & 7};
    size_t left = (size_t)(in->end - in->at);
    switch (f->wire) {
    case 0:
        return take_varint(in, &f->value) ? 1 : -1;
    case 1:
    case 5:
        size = f->wire == 1 ? 8 : 4;
        if (left < size)
            return -1;
        memcpy(&f->value, in->at, (size_t)size);
        in->at += size;
        return 1;
    case 2:
        if (!take_varint(in, &size) || size > (uint64_t)(in->end - in->at))
            return -1;
        f->bytes = (message){in->at, in->at + size};
        in->at += size;
        return 1;
    default:
        return -1;
    }
}

static float load_float(uint64_t bits)
{
    uint32_t low = (uint32_t)bits;
    float value;
    memcpy(&value, &low, sizeof value);
    return value;
}

static int read_piece(ofr_hf_vocab *v, const char *path, message in, ofr_error *err)
{
    size_t id = (size_t)v->vocab.n_tokens;
    int more, r = ofr_hf_vocab_grow(v, path, id + 1, err);
    if (r < 0)
        return r;
    v->types[id] = OFR_TOKEN_TYPE_NORMAL;
    field f;
    while ((more = take_field(&in, &f)) > 0) {
        if (f.number == 1 && f.wire == 2)
            v->tokens[id] =
                (ofr_bytes){(const char *)f.bytes.at, (size_t)(f.bytes.end - f.bytes.at)};
        else if (f.number == 2 && f.wire == 5)
            v->scores[id] = load_float(f.value);
        else if (f.number == 3 && f.wire == 0)
            v->types[id] = f.value >= 1 && f.value <= 6 ? (int32_t)f.value : OFR_TOKEN_TYPE_NORMAL;
    }
    return more;
}

static int read_trainer(ofr_vocab *vocab, message in, uint64_t *ret_type)
{
    field f;
    int more;
    while ((more = take_field(&in, &f)) > 0) {
        int32_t id = f.value > INT32_MAX ? -1 : (int32_t)f.value; /* -1 is ten bytes of ones */
        if (f.wire != 0)
            continue;
        if (f.number == 3)
            *ret_type = f.value;
        else if (f.number == 40)
            vocab->unk_id = id;
        else if (f.number == 41)
            vocab->bos_id = id;
        else if (f.number == 42)
            vocab->eos_id = id;
        else if (f.number == 43)
            vocab->pad_id = id;
    }
    return more;
}

static int read_normalizer(ofr_vocab *vocab, message in, bool *ret_escapes)
{
    field f;
    int more;
    while ((more = take_field(&in, &f)) > 0) {
        if (f.number == 2 && f.wire == 2) {
            vocab->precompiled_charsmap = f.bytes.at;
            vocab->precompiled_charsmap_size = (size_t)(f.bytes.end - f.bytes.at);
        } else if (f.number == 3 && f.wire == 0) {
            vocab->add_space_prefix = f.value != 0;
        } else if (f.number == 4 && f.wire == 0) {
            vocab->remove_extra_whitespaces = f.value != 0;
        } else if (f.number == 5 && f.wire == 0) {
            *ret_escapes = f.value != 0;
        }
    }
    return more;
}

int ofr_sentencepiece_read(ofr_hf_vocab *v, const char *path, const void *data, size_t size,
                           ofr_error *err)
{
    message in = {data, (const unsigned char *)data + size};
    uint64_t type = 1;
    bool escapes = true;
    ofr_vocab_init(&v->vocab, OFR_VOCAB_KIND_SPM, NULL);
    ofr_vocab *vocab = &v->vocab;
    vocab->unk_id = 0; /* the defaults of the format */
    vocab->bos_id = 1;
    vocab->eos_id = 2;
    vocab->remove_extra_whitespaces = true;
    v->scores = malloc(sizeof *v->scores);
    int r = v->scores ? 0 : ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path), more = 1;
    field f;
    while (r == 0 && (more = take_field(&in, &f)) > 0) {
        if (f.wire != 2)
            continue;
        if (f.number == 1)
            r = read_piece(v, path, f.bytes, err);
        else if (f.number == 2)
            more = read_trainer(vocab, f.bytes, &type);
        else if (f.number == 3)
            more = read_normalizer(vocab, f.bytes, &escapes);
        if (r == -1 || more < 0)
            break;
    }
    if (r == -1 || more < 0 || (r == 0 && vocab->n_tokens == 0))
        return ofr_fail(err, OFR_EFORMAT, "%s: is no SentencePiece model, or a damaged one", path);
    if (r < 0)
        return r;
    if ((type != 1 && type != 2) || !escapes)
        return ofr_fail(
            err, OFR_EUNSUPPORTED,
            "%s: is a SentencePiece model of a kind that this build does not know; known "
            "are BPE and unigram that escape white space",
            path);
    vocab->kind = type == 1 ? OFR_VOCAB_KIND_UNIGRAM : OFR_VOCAB_KIND_SPM;
    int32_t *ids[] = {&vocab->unk_id, &vocab->bos_id, &vocab->eos_id, &vocab->pad_id};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (*ids[i] >= vocab->n_tokens)
            *ids[i] = -1;
    return 0;
}
