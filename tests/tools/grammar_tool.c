/* Grammars for tests and measurements.
 *   grammar_tool gbnf|schema|json FILE accept          JSON array of texts on stdin: which are in
 * it grammar_tool gbnf|schema|json FILE masks TOKENIZER  time of the masks along a text on stdin
 * Prints one JSON object; a grammar that is refused gives {"refused": code, "error": text}. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "grammar/matcher.h"

static char *read_all(FILE *file, size_t *ret_size)
{
    size_t room = 1 << 16, size = 0;
    char *text = malloc(room);
    while (text) {
        size += fread(text + size, 1, room - size, file);
        if (size < room)
            break;
        room *= 2;
        text = realloc(text, room);
    }
    *ret_size = size;
    return text;
}

static int compile(const char *kind, const char *path, ofr_grammar **ret, ofr_error *err)
{
    if (!strcmp(kind, "json"))
        return ofr_grammar_json_object(ret, err);
    void *text = NULL;
    size_t size = 0;
    int r = ofr_file_read(path, 1 << 24, &text, &size, err);
    if (r < 0)
        return r;
    if (!strcmp(kind, "gbnf")) {
        r = ofr_grammar_from_gbnf(text, size, ret, err);
    } else {
        json_error_t e;
        json_t *schema = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
        r = schema ? ofr_grammar_from_json_schema(schema, ret, err)
                   : ofr_fail(err, OFR_EFORMAT, "%s: %s", path, e.text);
        json_decref(schema);
    }
    free(text);
    return r;
}

/* A vocabulary of the single bytes: accepting needs no other. */
static const ofr_vocabulary *no_vocabulary(void)
{
    static uint32_t offsets[2];
    static ofr_trie_node root = {.end = 1};
    static ofr_vocabulary v = {.size = 1, .mask_words = 1, .offsets = offsets, .token_max = 1};
    v.all.nodes = v.rest.nodes = &root;
    v.all.n_nodes = v.rest.n_nodes = 1;
    return &v;
}

static int accept_texts(const ofr_grammar *grammar, json_t *root)
{
    size_t size;
    char *text = read_all(stdin, &size);
    json_error_t e;
    json_t *texts = text ? json_loadb(text, size, JSON_ALLOW_NUL, &e) : NULL,
           *results = json_array();
    free(text);
    ofr_matcher *matcher;
    ofr_error err;
    if (!json_is_array(texts) || ofr_matcher_new(grammar, no_vocabulary(), &matcher, &err) < 0)
        return 1;
    size_t i;
    json_t *value;
    json_array_foreach(texts, i, value)
    {
        ofr_matcher_reset(matcher);
        int r = ofr_matcher_accept_bytes(matcher, json_string_value(value),
                                         json_string_length(value), &err);
        json_array_append_new(results, json_boolean(r == 0 && ofr_matcher_can_end(matcher)));
    }
    ofr_matcher_free(matcher);
    json_decref(texts);
    json_object_set_new(root, "accepted", results);
    return 0;
}

static int time_masks(const ofr_grammar *grammar, const char *path, json_t *root)
{
    ofr_file_map map = OFR_FILE_MAP_EMPTY;
    ofr_tokenizer *tokenizer = NULL;
    ofr_vocabulary *vocabulary = NULL;
    ofr_matcher *matcher = NULL;
    ofr_error err = {0};
    size_t size, count = 0;
    char *text = read_all(stdin, &size);
    int32_t *ids = NULL;
    uint64_t begin = ofr_clock_ns();
    if (ofr_file_map_open(path, &map, &err) < 0 ||
        ofr_tokenizer_open(map.data, map.size, &tokenizer, &err) < 0)
        goto failed;
    begin = ofr_clock_ns();
    if (ofr_vocabulary_new(tokenizer, &vocabulary, &err) < 0)
        goto failed;
    json_object_set_new(root, "vocabulary_ms", json_real((double)(ofr_clock_ns() - begin) / 1e6));
    if (ofr_tokenizer_encode(tokenizer, text, size, 0, &ids, &count, &err) < 0)
        goto failed;
    begin = ofr_clock_ns();
    if (ofr_matcher_new(grammar, vocabulary, &matcher, &err) < 0)
        goto failed;
    json_object_set_new(root, "matcher_ms", json_real((double)(ofr_clock_ns() - begin) / 1e6));
    json_t *passes = json_array();
    for (int pass = 0; pass < 2; pass++) {
        json_t *times = json_array();
        double sum = 0, most = 0;
        ofr_matcher_reset(matcher);
        for (size_t i = 0; i < count; i++) {
            const uint32_t *mask;
            begin = ofr_clock_ns();
            if (ofr_matcher_mask(matcher, &mask, &err) < 0 ||
                ofr_matcher_accept(matcher, ids[i], &err) < 0)
                goto failed;
            double us = (double)(ofr_clock_ns() - begin) / 1e3;
            sum += us;
            most = us > most ? us : most;
            json_array_append_new(times, json_real((double)(int64_t)(us * 10) / 10));
        }
        json_array_append_new(passes, json_pack("{s:f, s:f, s:o}", "mean_us", sum / (double)count,
                                                "max_us", most, "us", times));
    }
    json_object_set_new(root, "passes", passes);
    json_object_set_new(root, "tokens", json_integer((json_int_t)count));
    json_object_set_new(root, "vocabulary", json_integer(vocabulary->size));
    err.text[0] = '\0';
failed:
    if (err.text[0])
        json_object_set_new(root, "error", json_string(err.text));
    ofr_matcher_free(matcher);
    ofr_vocabulary_free(vocabulary);
    ofr_tokenizer_close(tokenizer);
    ofr_file_map_close(&map);
    free(ids);
    free(text);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    ofr_grammar *grammar = NULL;
    ofr_error err = {0};
    json_t *root = json_object();
    uint64_t begin = ofr_clock_ns();
    int r = compile(argv[1], argv[2], &grammar, &err), result = 0;
    json_object_set_new(root, "compile_ms", json_real((double)(ofr_clock_ns() - begin) / 1e6));
    if (r < 0) {
        json_object_set_new(root, "refused", json_integer(r));
        json_object_set_new(root, "error", json_string(err.text));
    } else {
        result = strcmp(argv[3], "accept") == 0 ? accept_texts(grammar, root)
                                                : time_masks(grammar, argv[4], root);
    }
    ofr_grammar_free(grammar);
    char *text = json_dumps(root, JSON_COMPACT);
    puts(text ? text : "{}");
    free(text);
    json_decref(root);
    return result;
}
