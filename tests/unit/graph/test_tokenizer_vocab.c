/* Vocabularies for OpenVINO's BPE: merges in their order, and only what text can become. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "graph/tokenizer_vocab.h"
#include "support/small_vocab.h"

typedef struct opened {
    void *image;
    ofr_tokenizer *tokenizer;
    ofr_graph_vocab vocab;
} opened;

static int try_open(const small_vocab *small, opened *o, ofr_error *err)
{
    size_t size = 0;
    *o = (opened){0};
    if (ofr_tokenizer_build(&small->vocab, &o->image, &size, err) < 0 ||
        ofr_tokenizer_open(o->image, size, &o->tokenizer, err) < 0)
        fail_msg("%s", err->text);
    return ofr_graph_vocab_init(&o->vocab, o->image, o->tokenizer, err);
}

static void done(opened *o)
{
    ofr_graph_vocab_done(&o->vocab);
    ofr_tokenizer_close(o->tokenizer);
    free(o->image);
}

static void expect_text(const ofr_vocab_texts *texts, uint32_t id, const char *expected)
{
    size_t size = (size_t)(texts->ends[id] - texts->begins[id]);
    assert_int_equal(size, strlen(expected));
    assert_memory_equal(texts->bytes + texts->begins[id], expected, size);
}

static uint32_t find(const opened *o, const char *text)
{
    int32_t id = ofr_tokenizer_find(o->tokenizer, text, strlen(text));
    assert_true(id >= 0);
    return (uint32_t)id;
}

static void byte_level_texts_are_bytes(void **state)
{
    (void)state;
    small_vocab small;
    opened o;
    ofr_error err = {0};
    small_byte_level(&small, "gpt-2");
    small_merge(&small, "hello zzz"); /* "zzz" is no token: the merge is left out of the file */
    int32_t apart = small_add(&small, "apart", OFR_TOKEN_TYPE_NORMAL, 0); /* no merge makes it */
    assert_int_equal(try_open(&small, &o, &err), 0);
    assert_int_equal(o.vocab.n_merges, 10);
    for (size_t i = 0; i < o.vocab.n_merges; i++)
        assert_int_equal(o.vocab.merges[i].rank, i);
    assert_int_equal(o.vocab.merges[3].left, find(&o, "hell"));
    assert_int_equal(o.vocab.merges[3].right, find(&o, "o"));
    expect_text(&o.vocab.encoded, find(&o, "\xC4\xA0hello"), " hello");
    expect_text(&o.vocab.encoded, find(&o, "<|im_end|>"), "<|im_end|>");
    expect_text(&o.vocab.encoded, find(&o, "\xC3\xB0"), "\xF0");
    expect_text(&o.vocab.encoded, (uint32_t)apart, "\xFF");
    expect_text(&o.vocab.decoded, (uint32_t)apart, "apart");
    done(&o);
}

/* Every cut of a piece into pieces, the best score first. */
static void pieces_merge_by_score(void **state)
{
    (void)state;
    small_vocab small;
    opened o;
    ofr_error err = {0};
    small_pieces(&small, OFR_VOCAB_KIND_SPM);
    assert_int_equal(try_open(&small, &o, &err), 0);
    assert_true(o.vocab.escaped);
    unsigned cuts_of_aaaa = 0;
    for (size_t i = 0; i < o.vocab.n_merges; i++) {
        const ofr_vocab_merge *m = &o.vocab.merges[i];
        assert_true(i == 0 || m[-1].score >= m->score);
        cuts_of_aaaa += m->result == find(&o, "aaaa");
    }
    assert_int_equal(o.vocab.merges[0].result, find(&o, "he"));
    assert_int_equal(cuts_of_aaaa, 1); /* aa|aa: aaa is no piece */
    expect_text(&o.vocab.encoded, find(&o, "<0x0A>"), "<0x0A>");
    expect_text(&o.vocab.decoded, find(&o, "<0x0A>"), "\n");
    expect_text(&o.vocab.encoded, find(&o, "\xE2\x96\x81hello"), "\xE2\x96\x81hello");
    expect_text(&o.vocab.decoded, find(&o, "\xE2\x96\x81hello"), " hello");
    done(&o);
}

static void refuse(small_vocab *small, const char *why)
{
    opened o;
    ofr_error err = {0};
    assert_int_equal(try_open(small, &o, &err), OFR_EUNSUPPORTED);
    if (!strstr(err.text, why))
        fail_msg("'%s' instead of '%s'", err.text, why);
    done(&o);
}

static void what_cannot_be_expressed_is_refused(void **state)
{
    (void)state;
    small_vocab small;
    small_pieces(&small, OFR_VOCAB_KIND_UNIGRAM);
    refuse(&small, "unigram");
    small_pieces(&small, OFR_VOCAB_KIND_SPM);
    small.vocab.remove_extra_whitespaces = true;
    refuse(&small, "runs of spaces");
    small_pieces(&small, OFR_VOCAB_KIND_SPM);
    small.tokens[3 + 0x41] = (ofr_bytes){"zz", 2};
    small.types[3 + 0x41] = OFR_TOKEN_TYPE_NORMAL;
    refuse(&small, "0x41");
    small_byte_level(&small, "gpt-2");
    small.vocab.n_merges = 0;
    refuse(&small, "no merges");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level_texts_are_bytes),
        cmocka_unit_test(pieces_merge_by_score),
        cmocka_unit_test(what_cannot_be_expressed_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
