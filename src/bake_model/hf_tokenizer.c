/* Puts together what a model's several files say of its tokenizer. */
#include "bake_model/hf_tokenizer.h"

#include <jansson.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/hf_vocab.h"

enum { VOCABULARY_CAP = 128 << 20, CONFIG_CAP = 32 << 20, TEMPLATE_CAP = 4 << 20 };

typedef struct loader {
    const ofr_hf_files *files;
    ofr_hf_vocab v;
    json_t *config; /* tokenizer_config.json, or NULL; v keeps it */
    ofr_error *err;
} loader;

/* An object of a JSON file; *ret_root NULL where there is no such file. */
static int read_json(const loader *in, const char *name, json_t **ret_root)
{
    char *text = NULL;
    size_t size = 0;
    int r = in->files->read(in->files->context, name, CONFIG_CAP, &text, &size, in->err);
    *ret_root = NULL;
    if (r <= 0)
        return r;
    json_error_t problem;
    json_t *root = json_loadb(text, size, 0, &problem);
    free(text);
    if (!json_is_object(root)) {
        json_decref(root);
        return ofr_fail(in->err, OFR_EFORMAT, "%s/%s: is no JSON object", in->files->where, name);
    }
    *ret_root = root;
    return 0;
}

static int read_vocabulary(loader *in)
{
    char path[512], *text = NULL;
    size_t size = 0;
    const ofr_hf_files *files = in->files;
    int r = files->read(files->context, "tokenizer.json", VOCABULARY_CAP, &text, &size, in->err);
    if (r > 0) {
        snprintf(path, sizeof path, "%s/tokenizer.json", files->where);
        r = ofr_tokenizer_json_read(&in->v, path, text, size, in->err);
        free(text); /* the parsed texts are copies */
        return r;
    }
    if (r == 0)
        r = files->read(files->context, "tokenizer.model", VOCABULARY_CAP, &text, &size, in->err);
    if (r == 0)
        return ofr_fail(in->err, OFR_ENOENT, "%s: has neither tokenizer.json nor tokenizer.model",
                        files->where);
    if (r < 0)
        return r;
    in->v.kept[1] = text; /* the pieces point into it */
    snprintf(path, sizeof path, "%s/tokenizer.model", files->where);
    return ofr_sentencepiece_read(&in->v, path, text, size, in->err);
}

/* "added_tokens_decoder": {"<id>": {"content", "special", "lstrip", "rstrip"}}: all of it is in
 * tokenizer.json too, where there is one. */
static int add_tokens(loader *in)
{
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(in->config, "added_tokens_decoder"), key, value)
    {
        char *end;
        long id = strtol(key, &end, 10);
        const json_t *content = json_object_get(value, "content");
        if (*end || !*key || !json_is_string(content))
            return ofr_fail(in->err, OFR_EFORMAT,
                            "%s/tokenizer_config.json: an added token has no id or no content",
                            in->files->where);
        unsigned strip =
            (json_is_true(json_object_get(value, "lstrip")) ? OFR_TOKEN_STRIP_BEFORE : 0u) |
            (json_is_true(json_object_get(value, "rstrip")) ? OFR_TOKEN_STRIP_AFTER : 0u);
        int r = ofr_hf_vocab_add(&in->v, in->files->where, id, json_string_value(content),
                                 json_string_length(content),
                                 json_is_true(json_object_get(value, "special")), strip, in->err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* "bos_token": "<s>", or {"content": "<s>", ...}. *id stays where it is not there. */
static int set_token(loader *in, const char *key, int32_t *id)
{
    const json_t *value = json_object_get(in->config, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (!json_is_string(value))
        return 0;
    int32_t found = ofr_hf_vocab_find(&in->v, json_string_value(value), json_string_length(value));
    if (found < 0)
        return ofr_fail(in->err, OFR_EFORMAT,
                        "%s/tokenizer_config.json: '%s' is '%.64s', which is not in the vocabulary",
                        in->files->where, key, json_string_value(value));
    *id = found;
    if (in->v.types[found] != OFR_TOKEN_TYPE_UNKNOWN)
        in->v.types[found] = OFR_TOKEN_TYPE_CONTROL;
    return 0;
}

static bool has_word(const json_t *config, const char *word)
{
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    return name && strstr(name, word);
}

/* Whether BOS and EOS are added: the post-processor of tokenizer.json decides; without one, the
 * classes for SentencePiece models do, and add BOS. */
static void set_additions(loader *in)
{
    ofr_vocab *vocab = &in->v.vocab;
    if (in->v.knows_bos)
        return;
    bool classic = vocab->kind != OFR_VOCAB_KIND_BPE || has_word(in->config, "Llama") ||
                   has_word(in->config, "Gemma");
    const json_t *bos = json_object_get(in->config, "add_bos_token");
    const json_t *eos = json_object_get(in->config, "add_eos_token");
    vocab->add_bos = json_is_boolean(bos) ? json_is_true(bos) && classic : classic;
    vocab->add_eos = json_is_true(eos) && classic;
    vocab->add_bos &= vocab->bos_id >= 0;
    vocab->add_eos &= vocab->eos_id >= 0;
}

/* eos_token_id is a number or a list of them. */
static void set_end_ids(ofr_vocab *vocab, const json_t *json)
{
    const json_t *ids = json_object_get(json, "eos_token_id");
    size_t n = json_is_array(ids) ? json_array_size(ids) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_array(ids) ? json_array_get(ids, i) : ids;
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id >= vocab->n_tokens || id == vocab->eos_id)
            continue;
        if (vocab->eos_id < 0)
            vocab->eos_id = (int32_t)id;
        else if (vocab->eot_id < 0)
            vocab->eot_id = (int32_t)id;
    }
}

static int read_ids(loader *in)
{
    const struct {
        const char *key;
        int32_t *id;
    } tokens[] = {{"bos_token", &in->v.vocab.bos_id},
                  {"eos_token", &in->v.vocab.eos_id},
                  {"unk_token", &in->v.vocab.unk_id},
                  {"pad_token", &in->v.vocab.pad_id}};
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        int r = set_token(in, tokens[i].key, tokens[i].id);
        if (r < 0)
            return r;
    }
    static const char *const names[] = {"generation_config.json", "config.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        json_t *json = NULL;
        int r = read_json(in, names[i], &json);
        if (r < 0)
            return r;
        const json_t *bos = json_object_get(json, "bos_token_id");
        if (in->v.vocab.bos_id < 0 && json_is_integer(bos) && json_integer_value(bos) >= 0 &&
            json_integer_value(bos) < in->v.vocab.n_tokens)
            in->v.vocab.bos_id = (int32_t)json_integer_value(bos);
        if (i == 0 || in->v.vocab.eos_id < 0)
            set_end_ids(&in->v.vocab, json);
        json_decref(json);
    }
    set_additions(in);
    return 0;
}

/* The member "chat_template" of a file: one text, or a list of named ones. NULL: none. */
static const json_t *find_template(const json_t *config)
{
    const json_t *text = json_object_get(config, "chat_template"), *found = NULL;
    for (size_t i = 0; i < json_array_size(text); i++) {
        const json_t *item = json_array_get(text, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (!found || (name && strcmp(name, "default") == 0))
            found = json_object_get(item, "template");
    }
    if (json_is_array(text))
        text = found;
    return json_is_string(text) ? text : NULL;
}

static int copy_template(const loader *in, const json_t *text, const char *file,
                         ofr_bake_source *source)
{
    size_t size = json_string_length(text);
    if (size > TEMPLATE_CAP)
        return ofr_fail(in->err, OFR_ELIMIT, "%s/%s: a chat template of %zu bytes",
                        in->files->where, file, size);
    source->chat_template = malloc(size + 1);
    if (!source->chat_template)
        return ofr_fail(in->err, OFR_ENOMEM, "%s: out of memory", in->files->where);
    memcpy(source->chat_template, json_string_value(text), size + 1);
    source->chat_template_size = size;
    return 0;
}

/* chat_template.jinja; or a member of tokenizer_config.json, or of chat_template.json. */
static int read_template(loader *in, ofr_bake_source *source)
{
    const ofr_hf_files *files = in->files;
    int r = files->read(files->context, "chat_template.jinja", TEMPLATE_CAP, &source->chat_template,
                        &source->chat_template_size, in->err);
    if (r != 0)
        return r < 0 ? r : 0;
    const json_t *text = find_template(in->config);
    if (text)
        return copy_template(in, text, "tokenizer_config.json", source);
    json_t *json = NULL;
    r = read_json(in, "chat_template.json", &json);
    if (r == 0 && (text = find_template(json)))
        r = copy_template(in, text, "chat_template.json", source);
    json_decref(json);
    return r;
}

int ofr_hf_tokenizer_load(const ofr_hf_files *files, ofr_bake_source *source, ofr_error *err)
{
    loader in = {.files = files, .err = err};
    int r = read_json(&in, "tokenizer_config.json", &in.config);
    in.v.kept[3] = in.config;
    if (r == 0)
        r = read_vocabulary(&in);
    if (r == 0)
        r = add_tokens(&in);
    if (r == 0)
        r = read_ids(&in);
    if (r == 0)
        r = ofr_tokenizer_build(&in.v.vocab, &source->tokenizer, &source->tokenizer_size, err);
    if (r < 0 && err && !strstr(err->text, files->where))
        ofr_error_prefix(err, r, "%s", files->where);
    if (r == 0)
        r = read_template(&in, source);
    source->n_vocab = (size_t)in.v.vocab.n_tokens;
    ofr_hf_vocab_done(&in.v);
    malloc_trim(0); /* a large vocabulary's JSON took a few hundred MiB */
    return r;
}
