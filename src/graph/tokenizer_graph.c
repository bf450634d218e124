/* Operations of OpenVINO Tokenizers. Strings travel as begins, ends and bytes; words within a text
 * as a second pair of begins and ends in front of these; `skips` marks special tokens, which
 * normalisation and splitting leave alone. */
#include "graph/tokenizer_graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/tokenizer_vocab.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer_build.h"

/* The interface that the graphs are written for; GenAI asks for it before it sets the graphs'
 * options at run time. */
static const char INTERFACE[] = "2025.0.0.0";
#define SPACE_MARK "\xE2\x96\x81"
enum { MAX_TOKENS = INT32_MAX - 64 }; /* no limit: beyond, the operations overflow */

enum { BEGINS, ENDS, BYTES, N_STRINGS };

/* Texts on their way; without special tokens there are no skips. */
typedef struct texts {
    ofr_ir_value rows[2]; /* words of each text: begins, ends */
    ofr_ir_value strings[N_STRINGS];
    ofr_ir_value skips;
    bool has_skips;
} texts;

typedef struct builder {
    ofr_ir *ir;
    const ofr_graph_vocab *vocab;
} builder;

static const ofr_ir_output ANY_I32 = {OFR_IR_I32, {1, {OFR_IR_DYNAMIC}}};
static const ofr_ir_output ANY_U8 = {OFR_IR_U8, {1, {OFR_IR_DYNAMIC}}};
static const ofr_ir_output ANY_BOOLEAN = {OFR_IR_BOOLEAN, {1, {OFR_IR_DYNAMIC}}};

static bool has(const builder *b, uint32_t flag)
{
    return (b->vocab->header->flags & flag) != 0;
}

static int out_of_memory(ofr_error *err)
{
    return ofr_fail(err, OFR_ENOMEM, "tokenizer graph: out of memory");
}

static ofr_ir_value text_constant(ofr_ir *ir, const char *text)
{
    return ofr_ir_u8s(ir, text, strlen(text));
}

/* ---- special tokens ---- */

/* As an expression that matches it and nothing else. */
static void quote(FILE *f, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (text[i] != 0 && strchr("\\^$.[]|()?*+{}-#/ ", text[i]))
            fputc('\\', f);
        fputc(text[i], f);
    }
}

static uint8_t strip_of(const ofr_graph_vocab *vocab, uint32_t id)
{
    return ofr_graph_vocab_type(vocab, id) & (OFR_TOKEN_STRIP_LEFT | OFR_TOKEN_STRIP_RIGHT);
}

/* "a|b|c" of the special tokens with these strip bits (0xFF: of all), those first that others are
 * the beginning of: the list is sorted by text. Returns how many. */
static size_t write_specials(FILE *f, const ofr_graph_vocab *vocab, uint8_t strip)
{
    const ofr_tokenizer_range *range = &vocab->header->sections[OFR_TOKENIZER_SECTION_SPECIALS];
    const int32_t *ids = (const void *)((const char *)vocab->header + range->offset);
    size_t written = 0;
    for (size_t i = range->size / sizeof *ids; i-- > 0;) {
        size_t size;
        const char *text = ofr_tokenizer_token_text(vocab->tokenizer, ids[i], &size);
        if (strip != 0xFF && strip_of(vocab, (uint32_t)ids[i]) != strip)
            continue;
        fputs(written++ > 0 ? "|" : "", f);
        quote(f, text, size);
    }
    return written;
}

/* The expression that finds special tokens, the token in its group: with the white space that it
 * takes along. NULL: out of memory. "" where there are none. */
static char *special_pattern(const ofr_graph_vocab *vocab)
{
    char *text = NULL;
    size_t size = 0, parts = 0;
    FILE *f = open_memstream(&text, &size);
    for (unsigned strip = 0; f && strip < 4; strip++) {
        uint8_t bits = (uint8_t)((strip & 1 ? OFR_TOKEN_STRIP_LEFT : 0) |
                                 (strip & 2 ? OFR_TOKEN_STRIP_RIGHT : 0));
        char *list = NULL;
        size_t list_size = 0;
        FILE *own = open_memstream(&list, &list_size);
        size_t n = own ? write_specials(own, vocab, bits) : 0;
        if (!own || fclose(own) != 0) {
            fclose(f);
            free(text);
            free(list);
            return NULL;
        }
        if (n > 0)
            fprintf(f, "%s%s(%s)%s", parts++ > 0 ? "|" : "", strip & 1 ? "\\s*" : "", list,
                    strip & 2 ? "\\s*" : "");
        free(list);
    }
    if (!f || fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

/* Cuts each text at special tokens. */
static int split_specials(const builder *b, texts *t, ofr_error *err)
{
    char *pattern = special_pattern(b->vocab);
    if (!pattern)
        return out_of_memory(err);
    if (pattern[0]) {
        ofr_ir_value in[] = {t->rows[0],       t->rows[1],        t->strings[BEGINS],
                             t->strings[ENDS], t->strings[BYTES], text_constant(b->ir, pattern)};
        const ofr_ir_output out[] = {ANY_I32, ANY_I32, ANY_I32, ANY_I32, ANY_U8, ANY_BOOLEAN};
        ofr_ir_value ret[6] = {{0}};
        ofr_ir_operation(b->ir, "SpecialTokensSplit", "extension", NULL, in, 6, out, 6, ret);
        *t = (texts){{ret[0], ret[1]}, {ret[2], ret[3], ret[4]}, ret[5], true};
    }
    free(pattern);
    return 0;
}

/* ---- normalisation and words ---- */

/* An operation from strings to strings: [skips,] constants behind them. */
static void normalize(const builder *b, texts *t, const char *type, const char *attributes,
                      const ofr_ir_value *constants, uint32_t n_constants)
{
    ofr_ir_value in[8] = {t->strings[BEGINS], t->strings[ENDS], t->strings[BYTES]};
    const ofr_ir_output out[] = {ANY_I32, ANY_I32, ANY_U8, ANY_BOOLEAN};
    ofr_ir_value ret[4] = {{0}};
    uint32_t n = 3;
    if (t->has_skips)
        in[n++] = t->skips;
    for (uint32_t i = 0; i < n_constants; i++)
        in[n++] = constants[i];
    ofr_ir_operation(b->ir, type, "extension", attributes, in, n, out, t->has_skips ? 4 : 3, ret);
    memcpy(t->strings, ret, sizeof t->strings);
    if (t->has_skips)
        t->skips = ret[3];
}

static void replace(const builder *b, texts *t, const char *pattern, const char *with)
{
    ofr_ir_value constants[] = {text_constant(b->ir, pattern), text_constant(b->ir, with)};
    normalize(b, t, "RegexNormalization", "global_replace=\"true\"", constants, 2);
}

/* Unicode's normal form. */
static void compose(const builder *b, texts *t, const char *form)
{
    char attributes[192];
    snprintf(attributes, sizeof attributes,
             "add_dummy_prefix=\"false\" remove_extra_whitespaces=\"false\" "
             "escape_whitespaces=\"false\" normalization_form=\"%s\" case_fold=\"false\" "
             "nmt=\"false\"",
             form);
    normalize(b, t, "CharsMapNormalization", attributes, NULL, 0);
}

/* The mark before a text that does not begin with a special token. */
static int prefix_first(const builder *b, texts *t, const char *unless, ofr_error *err)
{
    char *pattern = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&pattern, &size);
    if (f) {
        fprintf(f, "\\A(?=[\\s\\S])%s", unless);
        char *specials = special_pattern(b->vocab);
        bool any = specials && specials[0];
        fputs(any ? "(?!" : "", f);
        if (any)
            write_specials(f, b->vocab, 0xFF);
        fputs(any ? ")" : "", f);
        free(specials);
    }
    if (!f || fclose(f) != 0) {
        free(pattern);
        return out_of_memory(err);
    }
    replace(b, t, pattern, SPACE_MARK);
    free(pattern);
    return 0;
}

/* Every match of each expression of the rule is a word, and so is what lies between. */
static int split_words(const builder *b, texts *t, ofr_error *err)
{
    const char *name = (const char *)b->vocab->header + sizeof *b->vocab->header;
    const ofr_pre_rule *rule = ofr_pre_rule_find(name);
    if (!rule)
        return ofr_fail(err, OFR_EUNSUPPORTED, "the pre-tokenizer '%s' is not known", name);
    for (const char *const *stage = rule->stages; *stage; stage++) {
        ofr_ir_value in[7] = {t->rows[0], t->rows[1], t->strings[BEGINS], t->strings[ENDS],
                              t->strings[BYTES]};
        const ofr_ir_output out[] = {ANY_I32, ANY_I32, ANY_I32, ANY_I32, ANY_U8, ANY_BOOLEAN};
        ofr_ir_value ret[6] = {{0}};
        uint32_t n = 5;
        if (t->has_skips)
            in[n++] = t->skips;
        in[n++] = text_constant(b->ir, *stage);
        ofr_ir_operation(b->ir, "RegexSplit", "extension",
                         "behaviour=\"isolate\" invert=\"false\" max_splits=\"-1\"", in, n, out,
                         n - 1, ret);
        *t = (texts){{ret[0], ret[1]}, {ret[2], ret[3], ret[4]}, ret[5], t->has_skips};
    }
    return 0;
}

/* ---- merging ---- */

static void vocab_constants(ofr_ir *ir, const ofr_vocab_texts *from, uint32_t n,
                            ofr_ir_value *ret_strings)
{
    ret_strings[BEGINS] = ofr_ir_i32s(ir, from->begins, n);
    ret_strings[ENDS] = ofr_ir_i32s(ir, from->ends, n);
    ret_strings[BYTES] = ofr_ir_u8s(ir, from->bytes, from->size);
}

/* One side of all merges: begins or ends within the texts of the vocabulary. */
static ofr_ir_value merge_constant(const builder *b, const int32_t *from, bool right, int32_t *room)
{
    for (size_t i = 0; i < b->vocab->n_merges; i++) {
        const ofr_vocab_merge *m = &b->vocab->merges[i];
        room[i] = from[right ? m->right : m->left];
    }
    return ofr_ir_i32s(b->ir, room, b->vocab->n_merges);
}

static int merge(const builder *b, const texts *t, ofr_ir_value *ret_ids, ofr_error *err)
{
    const ofr_vocab_texts *encoded = &b->vocab->encoded;
    int32_t *room = malloc((b->vocab->n_merges + 1) * sizeof *room);
    if (!room)
        return out_of_memory(err);
    ofr_ir_value in[14] = {t->rows[0], t->rows[1], t->strings[BEGINS], t->strings[ENDS],
                           t->strings[BYTES]};
    vocab_constants(b->ir, encoded, b->vocab->header->n_tokens, in + 5);
    for (uint32_t side = 0; side < 2; side++) {
        in[8 + 3 * side + BEGINS] = merge_constant(b, encoded->begins, side == 1, room);
        in[8 + 3 * side + ENDS] = merge_constant(b, encoded->ends, side == 1, room);
        in[8 + 3 * side + BYTES] = in[5 + BYTES];
    }
    free(room);
    const ofr_ir_output out[] = {ANY_I32, ANY_I32, ANY_I32};
    char attributes[160];
    snprintf(attributes, sizeof attributes,
             "unk_token=\"\" fuse_unk=\"false\" suffix_indicator=\"\" end_suffix=\"\" "
             "byte_fallback=\"%s\" cache_capacity=\"20000\"",
             b->vocab->escaped ? "true" : "false");
    ofr_ir_operation(b->ir, "BPETokenizer", "extension", attributes, in, 14, out, 3, ret_ids);
    return 0;
}

/* ---- ids of a text ---- */

/* At most so many tokens of each text; GenAI replaces the constant. */
static void truncate_ids(const builder *b, ofr_ir_value *ids)
{
    ofr_ir_value length = ofr_ir_binary(b->ir, "Subtract", ids[ENDS], ids[BEGINS]);
    ofr_ir_value shorter = ofr_ir_binary(b->ir, "Minimum", length, ofr_ir_i32(b->ir, MAX_TOKENS));
    ids[ENDS] = ofr_ir_binary(b->ir, "Add", ids[BEGINS], shorter);
}

/* BOS, the text's ids, EOS. */
static void combine(const builder *b, ofr_ir_value *ids)
{
    const ofr_tokenizer_header *header = b->vocab->header;
    ofr_ir_value in[10];
    uint32_t n = 0, segments = 0;
    const int32_t zeros[3] = {0};
    for (uint32_t part = 0; part < 3; part++) {
        int32_t id = part == 0 ? header->bos_id : header->eos_id;
        if (part == 1) {
            memcpy(in + n, ids, 3 * sizeof *ids);
        } else if (has(b, part == 0 ? OFR_TOKENIZER_FLAG_ADD_BOS : OFR_TOKENIZER_FLAG_ADD_EOS) &&
                   id >= 0) {
            in[n] = ofr_ir_i32(b->ir, 0);
            in[n + 1] = ofr_ir_i32(b->ir, 1);
            in[n + 2] = ofr_ir_i32s(b->ir, &id, 1);
        } else {
            continue;
        }
        n += 3;
        segments++;
    }
    in[n++] = ofr_ir_i32s(b->ir, zeros, segments);
    const ofr_ir_output out[] = {ANY_I32, ANY_I32, ANY_I32, ANY_I32, ANY_I32, ANY_I32};
    ofr_ir_value ret[6] = {{0}};
    ofr_ir_operation(b->ir, "CombineSegments", "extension", NULL, in, n, out, 6, ret);
    memcpy(ids, ret, 3 * sizeof *ids);
}

/* Texts of one batch, padded on the left to the longest. */
static void pad(const builder *b, const ofr_ir_value *ids)
{
    ofr_ir *ir = b->ir;
    const ofr_tokenizer_header *header = b->vocab->header;
    ofr_ir_value longest[] = {ofr_ir_binary(ir, "Subtract", ids[ENDS], ids[BEGINS]),
                              ofr_ir_i32(ir, 0)};
    const ofr_ir_output scalar = {OFR_IR_I32, {0}};
    ofr_ir_value in[5] = {ids[0], ids[1], ids[2]};
    ofr_ir_operation(ir, "ReduceMax", "opset1", "keep_dims=\"false\"", longest, 2, &scalar, 1,
                     &in[3]);
    in[4] = ofr_ir_i32(ir, header->pad_id >= 0 ? header->pad_id : 0);
    const ofr_ir_output out[] = {{OFR_IR_I32, {2, {OFR_IR_DYNAMIC, OFR_IR_DYNAMIC}}},
                                 {OFR_IR_BOOLEAN, {2, {OFR_IR_DYNAMIC, OFR_IR_DYNAMIC}}}};
    ofr_ir_value ret[2] = {{0}};
    ofr_ir_operation(ir, "RaggedToDense", "extension",
                     "pad_right=\"false\" m_pad_max_length=\"false\"", in, 5, out, 2, ret);
    ofr_ir_result(ir, "input_ids", ofr_ir_convert(ir, ret[0], OFR_IR_I64));
    ofr_ir_result(ir, "attention_mask", ofr_ir_convert(ir, ret[1], OFR_IR_I64));
}

/* Each text is one row of one word. */
static void unpack(const builder *b, texts *t)
{
    ofr_ir *ir = b->ir;
    ofr_ir_value in =
        ofr_ir_parameter(ir, "string_input", OFR_IR_STRING, OFR_IR_SHAPE(OFR_IR_DYNAMIC));
    const ofr_ir_output out[] = {ANY_I32, ANY_I32, ANY_U8};
    ofr_ir_operation(ir, "StringTensorUnpack", "opset15", NULL, &in, 1, out, 3, t->strings);
}

static void make_rows(const builder *b, texts *t)
{
    ofr_ir *ir = b->ir;
    ofr_ir_value zero = ofr_ir_i64(ir, 0), one = ofr_ir_i64(ir, 1);
    ofr_ir_value n = ofr_ir_gather(ir, ofr_ir_shape_as_i64(ir, t->strings[BEGINS]), zero, 0);
    t->rows[0] = ofr_ir_convert(ir, ofr_ir_range(ir, zero, n), OFR_IR_I32);
    t->rows[1] =
        ofr_ir_convert(ir, ofr_ir_range(ir, one, ofr_ir_binary(ir, "Add", n, one)), OFR_IR_I32);
}

static int encode(const builder *b, ofr_error *err)
{
    texts t = {0};
    ofr_ir_value ids[3] = {{0}};
    bool prefix = b->vocab->escaped && has(b, OFR_TOKENIZER_FLAG_SPACE_PREFIX);
    bool first = has(b, OFR_TOKENIZER_FLAG_PREFIX_FIRST);
    const char *unless =
        has(b, OFR_TOKENIZER_FLAG_PREFIX_UNLESS_SPACE) ? "(?! |" SPACE_MARK ")" : "";
    int r = 0;
    unpack(b, &t);
    if (prefix && first)
        r = prefix_first(b, &t, unless, err);
    make_rows(b, &t);
    if (r == 0)
        r = split_specials(b, &t, err);
    if (has(b, OFR_TOKENIZER_FLAG_NFC | OFR_TOKENIZER_FLAG_NFKC))
        compose(b, &t, has(b, OFR_TOKENIZER_FLAG_NFKC) ? "nfkc" : "nfc");
    if (prefix && !first) {
        char pattern[64];
        snprintf(pattern, sizeof pattern, "\\A(?=[\\s\\S])%s", unless);
        replace(b, &t, pattern, SPACE_MARK);
    }
    if (b->vocab->escaped)
        replace(b, &t, " ", SPACE_MARK);
    else if (r == 0)
        r = split_words(b, &t, err);
    if (r == 0)
        r = merge(b, &t, ids, err);
    truncate_ids(b, ids);
    combine(b, ids);
    pad(b, ids);
    return r;
}

/* ---- text of ids ---- */

static int decode(const builder *b, ofr_error *err)
{
    ofr_ir *ir = b->ir;
    const ofr_graph_vocab *vocab = b->vocab;
    uint32_t n_tokens = vocab->header->n_tokens, n_skipped = 0;
    int32_t *skipped = calloc(n_tokens + 1, sizeof *skipped);
    if (!skipped)
        return out_of_memory(err);
    for (uint32_t id = 0; id < n_tokens; id++) {
        unsigned type = ofr_graph_vocab_type(vocab, id) & OFR_TOKEN_TYPE_MASK;
        if (type == OFR_TOKEN_TYPE_CONTROL || type == OFR_TOKEN_TYPE_UNKNOWN)
            skipped[n_skipped++] = (int32_t)id;
    }
    if (n_skipped == 0)
        skipped[n_skipped++] = -1; /* a constant cannot be empty */
    ofr_ir_value ids =
        ofr_ir_parameter(ir, "token_ids", OFR_IR_I64, OFR_IR_SHAPE(OFR_IR_DYNAMIC, OFR_IR_DYNAMIC));
    ofr_ir_value in[5] = {ofr_ir_convert(ir, ids, OFR_IR_I32)}, words[5] = {{0}};
    vocab_constants(ir, &vocab->decoded, n_tokens, in + 1);
    in[4] = ofr_ir_i32s(ir, skipped, n_skipped);
    free(skipped);
    const ofr_ir_output out[] = {ANY_I32, ANY_I32, ANY_I32, ANY_I32, ANY_U8};
    ofr_ir_operation(ir, "VocabDecoder", "extension", "skip_tokens=\"\"", in, 5, out, 5, words);
    texts t = {0};
    ofr_ir_operation(ir, "FuzeRagged", "extension", NULL, words, 4, out, 2, t.strings);
    t.strings[BYTES] = words[4];
    if (vocab->escaped && has(b, OFR_TOKENIZER_FLAG_SPACE_PREFIX))
        replace(b, &t, "\\A ([\\s\\S]?)", "$1");
    const ofr_ir_output strings[] = {ANY_I32, ANY_I32, ANY_U8};
    ofr_ir_value valid[3] = {{0}}, text = {0};
    ofr_ir_operation(ir, "UTF8Validate", "extension", "replace_mode=\"true\"", t.strings, 3,
                     strings, 3, valid);
    const ofr_ir_output packed = {OFR_IR_STRING, {1, {OFR_IR_DYNAMIC}}};
    ofr_ir_operation(ir, "StringTensorPack", "opset15", NULL, valid, 3, &packed, 1, &text);
    ofr_ir_result(ir, "string_output", text);
    return 0;
}

/* ---- both ---- */

static void inform(const builder *b, const char *chat_template)
{
    const struct {
        const char *name;
        int32_t id;
    } ids[] = {{"bos_token_id", b->vocab->header->bos_id},
               {"eos_token_id", b->vocab->header->eos_id},
               {"pad_token_id", b->vocab->header->pad_id}};
    ofr_ir_info(b->ir, "openvino_tokenizers_version", INTERFACE);
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", ids[i].id);
        if (ids[i].id >= 0)
            ofr_ir_info(b->ir, ids[i].name, number);
    }
    bool fits = chat_template != NULL; /* XML has no other control characters */
    for (const char *c = chat_template; c && *c; c++)
        fits &= (unsigned char)*c >= ' ' || *c == '\n' || *c == '\t' || *c == '\r';
    if (fits)
        ofr_ir_info(b->ir, "chat_template", chat_template);
}

static int build(const char *name, const void *image, size_t size, const char *chat_template,
                 int (*body)(const builder *b, ofr_error *err), ofr_tokenizer_graph *ret_graph,
                 ofr_error *err)
{
    ofr_tokenizer_graph made = {0};
    ofr_tokenizer *tokenizer = NULL;
    ofr_graph_vocab vocab = {0};
    builder b = {.vocab = &vocab};
    int r = ofr_tokenizer_open(image, size, &tokenizer, err);
    if (r == 0)
        r = ofr_graph_vocab_init(&vocab, image, tokenizer, err);
    if (r == 0)
        r = ofr_ir_new(name, &made.constants, &b.ir, err);
    if (r == 0) {
        r = body(&b, err);
        inform(&b, chat_template);
    }
    if (r == 0)
        r = ofr_ir_write(b.ir, &made.xml, &made.xml_size, err);
    ofr_ir_free(b.ir);
    ofr_graph_vocab_done(&vocab);
    ofr_tokenizer_close(tokenizer);
    if (r < 0)
        ofr_tokenizer_graph_done(&made);
    else
        *ret_graph = made;
    return r;
}

int ofr_tokenizer_graph_encoder(const void *image, size_t size, const char *chat_template,
                                ofr_tokenizer_graph *ret_graph, ofr_error *err)
{
    return build("tokenizer", image, size, chat_template, encode, ret_graph, err);
}

int ofr_tokenizer_graph_decoder(const void *image, size_t size, ofr_tokenizer_graph *ret_graph,
                                ofr_error *err)
{
    return build("detokenizer", image, size, NULL, decode, ret_graph, err);
}

void ofr_tokenizer_graph_done(ofr_tokenizer_graph *graph)
{
    free(graph->xml);
    ofr_ir_pool_done(&graph->constants);
    *graph = (ofr_tokenizer_graph){0};
}
