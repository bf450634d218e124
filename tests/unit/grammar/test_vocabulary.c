/* The tries of a vocabulary: every token is where its bytes lead, sorted, once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/grammar_vocab.h"

static grammar_vocab vocab;

static size_t bytes_of(const ofr_vocabulary *v, int32_t id, const char **ret_bytes)
{
    *ret_bytes = v->bytes + v->offsets[id];
    return v->offsets[id + 1] - v->offsets[id];
}

static void check_trie(const ofr_vocabulary *v, const ofr_trie *trie, uint8_t *seen)
{
    char path[OFR_VOCABULARY_TOKEN_MAX + 1];
    assert_int_equal(trie->nodes[0].end, trie->n_nodes);
    for (uint32_t i = 0; i < trie->n_nodes; i++) {
        const ofr_trie_node *node = &trie->nodes[i];
        assert_true(node->end > i && node->end <= trie->n_nodes);
        if (node->depth)
            path[node->depth - 1] = (char)node->byte;
        for (uint32_t k = node->first; k < node->first + node->count; k++) {
            const char *bytes;
            int32_t id = trie->order[k];
            size_t size = bytes_of(v, id, &bytes);
            assert_int_equal(size, node->depth);
            assert_memory_equal(bytes, path, size);
            assert_false(seen[id]);
            seen[id] = 1;
        }
    }
}

static void tries(void **state)
{
    (void)state;
    const ofr_vocabulary *v = vocab.vocabulary;
    uint8_t *all = calloc((size_t)v->size, 1), *rest = calloc((size_t)v->size, 1);
    check_trie(v, &v->all, all);
    check_trie(v, &v->rest, rest);
    for (int32_t id = 0; id < v->size; id++) {
        const char *bytes;
        size_t size = bytes_of(v, id, &bytes);
        assert_int_equal(all[id], size > 0);
        assert_true(!rest[id] || all[id]);
        if (id == vocab.end)
            assert_int_equal(size, 0); /* what ends a text is none of it */
    }
    assert_int_equal(v->n_stop_ids, 1);
    assert_int_equal(v->stop_ids[0], vocab.end);
    assert_int_equal(v->mask_words, ((size_t)v->size + 31) / 32);
    free(all);
    free(rest);
}

/* Tokens of plain characters only are in masks instead of the second trie. */
static void plain_tokens(void **state)
{
    (void)state;
    const ofr_vocabulary *v = vocab.vocabulary;
    const uint32_t *any = v->plain + OFR_VOCABULARY_PLAIN_MAX * v->mask_words;
    for (size_t i = 0; i < GRAMMAR_VOCAB_TEXTS; i++) {
        int32_t id = 256 + (int32_t)i;
        const char *text = grammar_vocab_texts[i];
        bool quoted = strpbrk(text, "\"\\\n\t") != NULL;
        if (quoted)
            assert_false(ofr_mask_allows(any, id));
        if (strcmp(text, "abcdef") == 0) {
            assert_true(ofr_mask_allows(v->plain + 6 * v->mask_words, id));
            assert_false(ofr_mask_allows(v->plain + 5 * v->mask_words, id));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tries), cmocka_unit_test(plain_tokens)};
    grammar_vocab_init(&vocab);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    grammar_vocab_done(&vocab);
    return failed;
}
