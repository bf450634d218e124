/* Reads tokenizer.json, the file of the HF tokenizers library: BPE over bytes or over U+2581 words.
 *
 * A normaliser or pre-tokenizer is taken only if it is one whose effect the tokenizer here has, by
 * exact comparison; anything else is refused by name, since a token off is a model off. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/hf_vocab.h"
#include "tokenizer/pre_tokenizer.h"

enum { SIGNATURE_MAX = 4096 };

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define CL100K(digits)                                                                             \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                          \
                 "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(suffix, digits)                                                                      \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER  \
    "*" suffix "|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* Steps of a pre-tokenizer, one a line, and the rule that does the same. */
static const struct {
    const char *signature, *pre;
} pre_tokenizers[] = {
    {"words\n", "gpt-2"},
    {"split " GPT2 "\nbytes\n", "gpt-2"},
    {"digits\nwords\n", "starcoder"},
    {"split " CL100K("\\p{N}{1,3}") "\nbytes\n", "llama-bpe"},
    {"split " CL100K("\\p{N}") "\nbytes\n", "qwen2"},
    {"split " O200K("", "\\p{N}") "\nbytes\n", "tekken"},
    {"split " O200K(CONTRACTIONS "?", "\\p{N}{1,3}") "\nbytes\n", "gpt-4o"},
    {"", ""}, /* none: the text is one word */
};

typedef struct loader {
    ofr_hf_vocab *v;
    const char *path;
    ofr_error *err;
    /* What normaliser and pre-tokenizer amount to. */
    char signature[SIGNATURE_MAX];
    bool escapes, prefix, prefix_first, prefix_unless_space;
} loader;

static int refuse(const loader *in, const char *what, const json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY);
    int r =
        ofr_fail(in->err, OFR_EUNSUPPORTED, "%s: has a %s that this build does not know: %.500s",
                 in->path, what, text ? text : "");
    free(text);
    return r;
}

static bool is_text(const json_t *json, const char *text)
{
    return json_is_string(json) && strcmp(json_string_value(json), text) == 0;
}

static const char *type_of(const json_t *json)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    return type ? type : "";
}

/* ---- normaliser ---- */

static int read_normalizer_step(loader *in, const json_t *json)
{
    const char *type = type_of(json);
    ofr_vocab *vocab = &in->v->vocab;
    const json_t *from = json_object_get(json_object_get(json, "pattern"), "String");
    if (strcmp(type, "NFC") == 0 && !in->escapes) {
        vocab->normalization = OFR_NORMALIZATION_NFC;
    } else if (strcmp(type, "NFKC") == 0 && !in->escapes) {
        vocab->normalization = OFR_NORMALIZATION_NFKC;
    } else if (strcmp(type, "Prepend") == 0 && !in->escapes &&
               is_text(json_object_get(json, "prepend"), "\xE2\x96\x81")) {
        in->prefix = true;
    } else if (strcmp(type, "Replace") == 0 && is_text(from, " ") &&
               is_text(json_object_get(json, "content"), "\xE2\x96\x81")) {
        in->escapes = true;
    } else {
        return refuse(in, "normalizer", json);
    }
    return 0;
}

static int read_normalizer(loader *in, const json_t *json)
{
    if (!json || json_is_null(json))
        return 0;
    if (strcmp(type_of(json), "Sequence") != 0)
        return read_normalizer_step(in, json);
    const json_t *steps = json_object_get(json, "normalizers");
    int r = 0;
    for (size_t i = 0; i < json_array_size(steps) && r == 0; i++)
        r = read_normalizer_step(in, json_array_get(steps, i));
    return r;
}

/* ---- pre-tokenizer ---- */

static int append_step(loader *in, const char *step, const char *argument, const json_t *json)
{
    size_t used = strlen(in->signature);
    int n = snprintf(in->signature + used, SIGNATURE_MAX - used, "%s%s\n", step, argument);
    return n < 0 || (size_t)n >= SIGNATURE_MAX - used ? refuse(in, "pre_tokenizer", json) : 0;
}

/* U+2581 for spaces, and one before the text. */
static int read_metaspace(loader *in, const json_t *json)
{
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    if (!scheme)
        scheme = json_is_false(json_object_get(json, "add_prefix_space")) ? "never" : "always";
    if (!is_text(json_object_get(json, "replacement"), "\xE2\x96\x81"))
        return refuse(in, "pre_tokenizer", json);
    in->escapes = true;
    in->prefix_unless_space = strcmp(scheme, "never") != 0;
    in->prefix |= in->prefix_unless_space;
    in->prefix_first = strcmp(scheme, "first") == 0;
    return 0;
}

static int read_pre_step(loader *in, const json_t *json)
{
    const char *type = type_of(json);
    if (strcmp(type, "ByteLevel") == 0) {
        if (json_is_true(json_object_get(json, "add_prefix_space")))
            return refuse(in, "pre_tokenizer", json);
        bool words = !json_is_false(json_object_get(json, "use_regex"));
        return append_step(in, words ? "words" : "bytes", "", json);
    }
    if (strcmp(type, "Digits") == 0 && json_is_true(json_object_get(json, "individual_digits")))
        return append_step(in, "digits", "", json);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(in, json);
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *behavior = json_object_get(json, "behavior");
    if (strcmp(type, "Split") == 0 && json_is_string(json_object_get(pattern, "Regex"))) {
        /* These expressions match all of a text: keeping matches is the same as isolating them. */
        bool inverted = json_is_true(json_object_get(json, "invert"));
        bool isolated = is_text(behavior, "Isolated") && !inverted;
        if (!isolated && !(is_text(behavior, "Removed") && inverted))
            return refuse(in, "pre_tokenizer", json);
        return append_step(in, "split ", json_string_value(json_object_get(pattern, "Regex")),
                           json);
    }
    /* Gemma splits at spaces that its normaliser has replaced: nothing is left to split. */
    if (strcmp(type, "Split") == 0 && in->escapes &&
        is_text(json_object_get(pattern, "String"), " "))
        return 0;
    return refuse(in, "pre_tokenizer", json);
}

static int read_pre_tokenizer(loader *in, const json_t *json)
{
    int r = 0;
    if (json && !json_is_null(json) && strcmp(type_of(json), "Sequence") == 0) {
        const json_t *steps = json_object_get(json, "pretokenizers");
        for (size_t i = 0; i < json_array_size(steps) && r == 0; i++)
            r = read_pre_step(in, json_array_get(steps, i));
    } else if (json && !json_is_null(json)) {
        r = read_pre_step(in, json);
    }
    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof pre_tokenizers / sizeof pre_tokenizers[0]; i++)
        if (strcmp(pre_tokenizers[i].signature, in->signature) == 0) {
            in->v->vocab.pre = pre_tokenizers[i].pre[0] ? pre_tokenizers[i].pre : NULL;
            return 0;
        }
    return refuse(in, "pre_tokenizer", json);
}

/* ---- model ---- */

static int read_vocab(loader *in, const json_t *json)
{
    ofr_hf_vocab *v = in->v;
    const char *text;
    size_t length;
    json_t *value;
    int r = 0;
    if (!json_is_object(json))
        return ofr_fail(in->err, OFR_EFORMAT, "%s: its model has no vocabulary", in->path);
    json_object_keylen_foreach((json_t *)(uintptr_t)json, text, length, value)
    {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= OFR_HF_VOCAB_MAX_TOKENS)
            return ofr_fail(in->err, OFR_EFORMAT, "%s: token '%.64s' has no id that can be used",
                            in->path, text);
        r = ofr_hf_vocab_grow(v, in->path, (size_t)id + 1, in->err);
        if (r < 0)
            return r;
        if (v->types[id] != OFR_TOKEN_TYPE_UNUSED)
            return ofr_fail(in->err, OFR_EFORMAT, "%s: two tokens have the id %lld", in->path,
                            (long long)id);
        v->tokens[id] = (ofr_bytes){text, length};
        v->types[id] = OFR_TOKEN_TYPE_NORMAL;
    }
    return 0;
}

/* "left right", or [left, right], which becomes the former. */
static int read_merges(loader *in, const json_t *json)
{
    ofr_hf_vocab *v = in->v;
    size_t n = json_array_size(json), bytes = 1;
    if (n > OFR_HF_VOCAB_MAX_MERGES)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: %zu merges are absurd", in->path, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(json, i);
        bytes += json_string_length(json_array_get(item, 0)) +
                 json_string_length(json_array_get(item, 1)) + 1;
    }
    v->merges = calloc(n + 1, sizeof *v->merges);
    char *at = v->kept[0] = malloc(bytes);
    if (!v->merges || !at)
        return ofr_fail(in->err, OFR_ENOMEM, "%s: out of memory", in->path);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(json, i);
        const json_t *left = json_array_get(item, 0), *right = json_array_get(item, 1);
        if (json_is_string(item)) {
            v->merges[i] = (ofr_bytes){json_string_value(item), json_string_length(item)};
        } else if (json_is_string(left) && json_is_string(right) && json_array_size(item) == 2) {
            size_t first = json_string_length(left), second = json_string_length(right);
            v->merges[i] = (ofr_bytes){at, first + second + 1};
            memcpy(at, json_string_value(left), first);
            at[first] = ' ';
            memcpy(at + first + 1, json_string_value(right), second);
            at += first + second + 1;
        } else {
            return ofr_fail(in->err, OFR_EFORMAT, "%s: merge %zu is no pair of texts", in->path, i);
        }
    }
    v->vocab.merges = v->merges;
    v->vocab.n_merges = n;
    return 0;
}

static bool is_empty(const json_t *json)
{
    return !json || json_is_null(json) || is_text(json, "");
}

static int read_model(loader *in, const json_t *json)
{
    const char *type = type_of(json);
    if (!*type && json_object_get(json, "merges"))
        type = "BPE";
    if (strcmp(type, "BPE") != 0)
        return ofr_fail(in->err, OFR_EUNSUPPORTED,
                        "%s: has a model of type '%.64s'; this build reads BPE from tokenizer.json",
                        in->path, type);
    if (!is_empty(json_object_get(json, "continuing_subword_prefix")) ||
        !is_empty(json_object_get(json, "end_of_word_suffix")))
        return ofr_fail(in->err, OFR_EUNSUPPORTED,
                        "%s: has a BPE model with prefixes or suffixes of words, which this build "
                        "does not know",
                        in->path);
    ofr_vocab *vocab = &in->v->vocab;
    vocab->ignore_merges = json_is_true(json_object_get(json, "ignore_merges"));
    int r = read_vocab(in, json_object_get(json, "vocab"));
    if (r == 0)
        r = read_merges(in, json_object_get(json, "merges"));
    const char *unknown = json_string_value(json_object_get(json, "unk_token"));
    if (r == 0 && unknown)
        vocab->unk_id = ofr_hf_vocab_find(in->v, unknown, strlen(unknown));
    return r;
}

/* ---- added tokens and post-processor ---- */

static int read_added(loader *in, const json_t *json)
{
    int r = 0;
    for (size_t i = 0; i < json_array_size(json) && r == 0; i++) {
        const json_t *item = json_array_get(json, i), *id = json_object_get(item, "id");
        const json_t *content = json_object_get(item, "content");
        if (!json_is_integer(id) || !json_is_string(content))
            return ofr_fail(in->err, OFR_EFORMAT, "%s: added token %zu has no id or no content",
                            in->path, i);
        unsigned strip =
            (json_is_true(json_object_get(item, "lstrip")) ? OFR_TOKEN_STRIP_BEFORE : 0u) |
            (json_is_true(json_object_get(item, "rstrip")) ? OFR_TOKEN_STRIP_AFTER : 0u);
        r = ofr_hf_vocab_add(in->v, in->path, json_integer_value(id), json_string_value(content),
                             json_string_length(content),
                             json_is_true(json_object_get(item, "special")), strip, in->err);
    }
    return r;
}

static int32_t id_in_template(const json_t *processor, const char *name)
{
    const json_t *token = json_object_get(json_object_get(processor, "special_tokens"), name);
    const json_t *id = json_array_get(json_object_get(token, "ids"), 0);
    return json_is_integer(id) && json_integer_value(id) <= INT32_MAX
               ? (int32_t)json_integer_value(id)
               : -1;
}

/* A template that puts one token before the text is one with BOS; behind it, EOS. */
static int read_template(loader *in, const json_t *json)
{
    ofr_vocab *vocab = &in->v->vocab;
    const json_t *single = json_object_get(json, "single");
    bool after = false;
    vocab->add_bos = vocab->add_eos = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *token = json_object_get(item, "SpecialToken");
        const char *name = json_string_value(json_object_get(token, "id"));
        if (!name) {
            after = true;
            continue;
        }
        int32_t id = id_in_template(json, name);
        bool *added = after ? &vocab->add_eos : &vocab->add_bos;
        if (id < 0 || id >= vocab->n_tokens || *added)
            return refuse(in, "post_processor", json);
        *added = true;
        *(after ? &vocab->eos_id : &vocab->bos_id) = id;
    }
    in->v->knows_bos = true;
    return 0;
}

static int read_post_processor(loader *in, const json_t *json)
{
    if (!json || json_is_null(json) || strcmp(type_of(json), "ByteLevel") == 0)
        return 0;
    if (strcmp(type_of(json), "TemplateProcessing") == 0)
        return read_template(in, json);
    if (strcmp(type_of(json), "Sequence") != 0)
        return refuse(in, "post_processor", json);
    const json_t *steps = json_object_get(json, "processors");
    int r = 0;
    for (size_t i = 0; i < json_array_size(steps) && r == 0; i++) {
        const json_t *step = json_array_get(steps, i);
        if (strcmp(type_of(step), "TemplateProcessing") == 0)
            r = read_template(in, step);
        else if (strcmp(type_of(step), "ByteLevel") != 0)
            r = refuse(in, "post_processor", step);
    }
    return r;
}

int ofr_tokenizer_json_read(ofr_hf_vocab *v, const char *path, const char *text, size_t size,
                            ofr_error *err)
{
    json_error_t problem;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &problem);
    if (!json_is_object(root)) {
        json_decref(root);
        return ofr_fail(err, OFR_EFORMAT, "%s: is no JSON object", path);
    }
    v->kept[2] = root;
    ofr_vocab_init(&v->vocab, OFR_VOCAB_KIND_BPE, NULL);
    loader in = {.v = v, .path = path, .err = err};
    int r = read_normalizer(&in, json_object_get(root, "normalizer"));
    if (r == 0)
        r = read_pre_tokenizer(&in, json_object_get(root, "pre_tokenizer"));
    if (r == 0)
        r = read_model(&in, json_object_get(root, "model"));
    if (r == 0 && in.escapes != (v->vocab.pre == NULL))
        r = refuse(&in, "pre_tokenizer", json_object_get(root, "pre_tokenizer"));
    v->vocab.byte_fallback = in.escapes;
    v->vocab.add_space_prefix = in.prefix;
    v->vocab.prefix_first_only = in.prefix_first;
    v->vocab.prefix_unless_space = in.prefix_unless_space;
    if (r == 0 && in.escapes && v->vocab.unk_id >= 0)
        v->types[v->vocab.unk_id] = OFR_TOKEN_TYPE_UNKNOWN;
    if (r == 0)
        r = read_added(&in, json_object_get(root, "added_tokens"));
    return r < 0 ? r : read_post_processor(&in, json_object_get(root, "post_processor"));
}
