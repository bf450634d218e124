/* Cutting text into words with compiled regular expressions.
 * Each expression runs over the pieces of the one before; pieces are kept as end offsets. */
#include "tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

enum { STAGES_MAX = 8 };

struct ofr_pre_tokenizer {
    size_t n_stages;
    pcre2_code *stages[STAGES_MAX];
    bool jit[STAGES_MAX];
    pcre2_match_context *context; /* limits only: read by every match, written by none */
};

ofr_pre_tokenizer *ofr_pre_tokenizer_free(ofr_pre_tokenizer *pre_tokenizer)
{
    if (!pre_tokenizer)
        return NULL;
    for (size_t i = 0; i < pre_tokenizer->n_stages; i++)
        pcre2_code_free(pre_tokenizer->stages[i]);
    pcre2_match_context_free(pre_tokenizer->context);
    free(pre_tokenizer);
    return NULL;
}

int ofr_pre_tokenizer_new(const ofr_pre_rule *rule, ofr_pre_tokenizer **ret_pre_tokenizer,
                          ofr_error *err)
{
    ofr_pre_tokenizer *made = calloc(1, sizeof *made);
    if (!made)
        return ofr_fail(err, OFR_ENOMEM, "pre-tokenizer '%s': out of memory", rule->name);
    made->context = pcre2_match_context_create(NULL);
    if (!made->context) {
        ofr_pre_tokenizer_free(made);
        return ofr_fail(err, OFR_ENOMEM, "pre-tokenizer '%s': out of memory", rule->name);
    }
    /* The limits guard against expressions that explode; ours are linear in the text, and a text
     * of many megabytes without a word boundary is legitimate. */
    pcre2_set_match_limit(made->context, UINT32_MAX);
    for (const char *const *stage = rule->stages; *stage && made->n_stages < STAGES_MAX; stage++) {
        int code;
        PCRE2_SIZE offset;
        pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)*stage, PCRE2_ZERO_TERMINATED,
                                             PCRE2_UTF | PCRE2_UCP, &code, &offset, NULL);
        if (!compiled) {
            char reason[120] = "";
            pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
            ofr_pre_tokenizer_free(made);
            return ofr_fail(err, OFR_EINTERNAL,
                            "pre-tokenizer '%s': expression %zu does not compile at %zu: %s",
                            rule->name, (size_t)(stage - rule->stages), (size_t)offset, reason);
        }
        made->jit[made->n_stages] = pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE) == 0;
        made->stages[made->n_stages++] = compiled;
    }
    *ret_pre_tokenizer = made;
    return 0;
}

/* Ends of pieces; room for one end per byte is never more than needed twice over. */
typedef struct end_list {
    uint32_t *ends;
    size_t count, capacity;
} end_list;

static int add_end(end_list *list, size_t end)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 256;
        uint32_t *grown = realloc(list->ends, capacity * sizeof *grown);
        if (!grown)
            return OFR_ENOMEM;
        list->ends = grown;
        list->capacity = capacity;
    }
    list->ends[list->count++] = (uint32_t)end;
    return 0;
}

static int match_at(const ofr_pre_tokenizer *pre_tokenizer, size_t stage, const char *piece,
                    size_t size, size_t at, pcre2_match_data *match)
{
    const pcre2_code *code = pre_tokenizer->stages[stage];
    if (pre_tokenizer->jit[stage]) {
        int rc = pcre2_jit_match(code, (PCRE2_SPTR)piece, size, at, PCRE2_NO_UTF_CHECK, match,
                                 pre_tokenizer->context);
        if (rc != PCRE2_ERROR_JIT_STACKLIMIT)
            return rc;
    }
    /* The interpreter keeps its backtracking points on the heap. */
    return pcre2_match(code, (PCRE2_SPTR)piece, size, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match,
                       pre_tokenizer->context);
}

/* Cuts the piece text[begin, end) by one expression. */
static int split_piece(const ofr_pre_tokenizer *pre_tokenizer, size_t stage, const char *text,
                       size_t begin, size_t end, pcre2_match_data *match, end_list *out,
                       ofr_error *err)
{
    const char *piece = text + begin;
    size_t size = end - begin, at = 0, covered = 0;
    const PCRE2_SIZE *vector = pcre2_get_ovector_pointer(match);
    while (at < size) {
        int rc = match_at(pre_tokenizer, stage, piece, size, at, match);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0)
            return ofr_fail(err, rc == PCRE2_ERROR_NOMEMORY ? OFR_ENOMEM : OFR_EINTERNAL,
                            "pre-tokenizer: matching expression %zu failed at byte %zu with "
                            "PCRE2 error %d",
                            stage, begin + at, rc);
        size_t from = vector[0], to = vector[1];
        if (to <= from) {
            at = from + (from < size ? ofr_utf8_length(piece[from]) : 1);
            continue;
        }
        if ((from > covered && add_end(out, begin + from)) || add_end(out, begin + to))
            return ofr_fail(err, OFR_ENOMEM, "pre-tokenizer: out of memory");
        covered = at = to;
    }
    if (covered < size && add_end(out, end))
        return ofr_fail(err, OFR_ENOMEM, "pre-tokenizer: out of memory");
    return 0;
}

int ofr_pre_tokenizer_split(const ofr_pre_tokenizer *pre_tokenizer, const char *text, size_t size,
                            uint32_t **ret_ends, size_t *ret_count, ofr_error *err)
{
    if (size > INT32_MAX)
        return ofr_fail(err, OFR_ELIMIT, "pre-tokenizer: %zu bytes of text are too many", size);
    end_list now = {0}, next = {0};
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    int rc = match ? 0 : ofr_fail(err, OFR_ENOMEM, "pre-tokenizer: out of memory");
    if (!rc && size && add_end(&now, size))
        rc = ofr_fail(err, OFR_ENOMEM, "pre-tokenizer: out of memory");
    for (size_t stage = 0; !rc && stage < pre_tokenizer->n_stages; stage++) {
        size_t begin = 0;
        next.count = 0;
        for (size_t i = 0; !rc && i < now.count; i++) {
            rc = split_piece(pre_tokenizer, stage, text, begin, now.ends[i], match, &next, err);
            begin = now.ends[i];
        }
        end_list swapped = now;
        now = next;
        next = swapped;
    }
    pcre2_match_data_free(match);
    free(next.ends);
    if (rc) {
        free(now.ends);
        return rc;
    }
    *ret_ends = now.ends;
    *ret_count = now.count;
    return 0;
}
