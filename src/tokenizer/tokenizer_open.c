/* Opening tokenizer.bin: every offset, size and index in it is checked here, once, so that no
 * later call needs to. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer_internal.h"

uint64_t ofr_tokenizer_checksum(const void *data, size_t size)
{
    enum { LANES = 4, CHECKSUM_AT = offsetof(ofr_tokenizer_header, checksum) };
    static_assert(CHECKSUM_AT == 24, "the fourth word of the file, which the fourth lane skips");
    const uint64_t factor = 0x9E3779B97F4A7C15u;
    const char *bytes = data;
    uint64_t lanes[LANES] = {1, 2, 3, 4};
    size_t at = 0;
    for (; size - at >= LANES * sizeof(uint64_t); at += LANES * sizeof(uint64_t)) {
        uint64_t words[LANES];
        memcpy(words, bytes + at, sizeof words);
        if (!at)
            words[3] = 0;
        for (size_t i = 0; i < LANES; i++) {
            uint64_t mixed = (lanes[i] ^ words[i]) * factor;
            lanes[i] = mixed ^ (mixed >> 32);
        }
    }
    for (; at < size; at++) {
        lanes[0] = (lanes[0] ^ (unsigned char)bytes[at]) * factor;
        lanes[0] ^= lanes[0] >> 32;
    }
    uint64_t sum = size;
    for (size_t i = 0; i < LANES; i++)
        sum = ofr_tokenizer_mix(sum ^ lanes[i]);
    return sum;
}

static int refuse(ofr_error *err, const char *what)
{
    return ofr_fail(err, OFR_EFORMAT, "tokenizer.bin is damaged (%s): bake the package again",
                    what);
}

static int check_header(const void *data, size_t size, ofr_error *err)
{
    if (size < sizeof(ofr_tokenizer_preamble) ||
        memcmp(data, OFR_TOKENIZER_MAGIC, sizeof OFR_TOKENIZER_MAGIC) != 0)
        return ofr_fail(err, OFR_EFORMAT, "not a tokenizer.bin: bake the package again");
    const ofr_tokenizer_header *header = data;
    if (header->version != OFR_TOKENIZER_VERSION)
        return ofr_fail(err, OFR_EVERSION,
                        "tokenizer.bin is of version %u and this program reads version %d: "
                        "bake the package again",
                        header->version, OFR_TOKENIZER_VERSION);
    if (header->file_size != size)
        return ofr_fail(err, OFR_EFORMAT,
                        "tokenizer.bin has %zu bytes and should have %llu: bake the package again",
                        size, (unsigned long long)header->file_size);
    if (header->checksum != ofr_tokenizer_checksum(data, size))
        return ofr_fail(err, OFR_ECORRUPT,
                        "tokenizer.bin does not match its checksum: bake the package again");
    if (header->kind > OFR_VOCAB_KIND_UNIGRAM ||
        header->flags & ~(uint32_t)OFR_TOKENIZER_FLAG_ALL ||
        header->n_sections != OFR_TOKENIZER_SECTION_COUNT || !isfinite(header->unknown_score))
        return refuse(err, "header");
    if (!header->n_tokens || header->n_tokens > OFR_TOKENIZER_TOKENS_MAX)
        return refuse(err, "number of tokens");
    const int32_t ids[] = {header->bos_id, header->eos_id, header->unk_id, header->pad_id};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (ids[i] < -1 || ids[i] >= (int64_t)header->n_tokens)
            return refuse(err, "id of a special token");
    if ((header->flags & OFR_TOKENIZER_FLAG_ADD_BOS && header->bos_id < 0) ||
        (header->flags & OFR_TOKENIZER_FLAG_ADD_EOS && header->eos_id < 0))
        return refuse(err, "BOS or EOS asked for but absent");
    for (size_t i = 0; i < OFR_TOKENIZER_SECTION_COUNT; i++) {
        const ofr_tokenizer_range *section = &header->sections[i];
        if (section->offset % OFR_TOKENIZER_ALIGNMENT || section->offset > size ||
            section->size > size - section->offset)
            return refuse(err, "section table");
    }
    const ofr_tokenizer_preamble *preamble = data;
    if (!memchr(preamble->pre, '\0', sizeof preamble->pre))
        return refuse(err, "name of the pre-tokenizer");
    return 0;
}

/* The elements of a section, or NULL if it is absent; *ret_count is 0 then. A size that is no
 * multiple of the element's gives a count that no caller accepts. */
static const void *section_elements(const ofr_tokenizer_header *header,
                                    enum ofr_tokenizer_section section, size_t element_size,
                                    size_t *ret_count)
{
    const ofr_tokenizer_range *range = &header->sections[section];
    *ret_count = range->size % element_size ? SIZE_MAX : (size_t)(range->size / element_size);
    return range->size ? (const char *)header + range->offset : NULL;
}

static int check_texts(ofr_tokenizer *tokenizer, ofr_error *err)
{
    const ofr_tokenizer_header *header = tokenizer->header;
    size_t n_offsets, text_size, n_types;
    tokenizer->offsets =
        section_elements(header, OFR_TOKENIZER_SECTION_TOKEN_OFFSETS, sizeof(uint32_t), &n_offsets);
    tokenizer->text = section_elements(header, OFR_TOKENIZER_SECTION_TOKEN_TEXT, 1, &text_size);
    tokenizer->types = section_elements(header, OFR_TOKENIZER_SECTION_TOKEN_TYPES, 1, &n_types);
    if (n_offsets != (size_t)header->n_tokens + 1 || n_types != header->n_tokens ||
        tokenizer->offsets[0] != 0 || tokenizer->offsets[header->n_tokens] != text_size ||
        !tokenizer->text)
        return refuse(err, "token texts");
    size_t longest = 0;
    for (uint32_t i = 0; i < header->n_tokens; i++) {
        uint32_t begin = tokenizer->offsets[i], end = tokenizer->offsets[i + 1];
        if (end < begin || end - begin > OFR_TOKENIZER_TEXT_MAX)
            return refuse(err, "token texts");
        if (end - begin > longest)
            longest = end - begin;
    }
    tokenizer->token_size_max = longest;
    for (uint32_t i = 0; i < header->n_tokens; i++) {
        enum ofr_token_type type = token_type(tokenizer, (int32_t)i);
        if (type < OFR_TOKEN_TYPE_NORMAL || type > OFR_TOKEN_TYPE_BYTE)
            return refuse(err, "token types");
    }
    return 0;
}

static int check_tables(ofr_tokenizer *tokenizer, ofr_error *err)
{
    const ofr_tokenizer_header *header = tokenizer->header;
    uint32_t n = header->n_tokens;
    size_t slots, used = 0;
    tokenizer->table =
        section_elements(header, OFR_TOKENIZER_SECTION_TOKEN_TABLE, sizeof(uint32_t), &slots);
    if (!slots || slots == SIZE_MAX || slots & (slots - 1))
        return refuse(err, "table of tokens");
    uint32_t worst = 0;
    for (size_t i = 0; i < slots; i++) {
        used += tokenizer->table[i] != 0;
        worst = tokenizer->table[i] > worst ? tokenizer->table[i] : worst;
    }
    if (worst > n || used >= slots)
        return refuse(err, "table of tokens");
    tokenizer->table_mask = slots - 1;

    tokenizer->merges = section_elements(header, OFR_TOKENIZER_SECTION_MERGE_TABLE,
                                         sizeof(ofr_tokenizer_merge), &slots);
    if (!tokenizer->merges)
        return 0;
    if (slots == SIZE_MAX || slots & (slots - 1))
        return refuse(err, "table of merges");
    used = 0;
    bool bad = false;
    for (size_t i = 0; i < slots; i++) {
        const ofr_tokenizer_merge *merge = &tokenizer->merges[i];
        if (merge->left == OFR_TOKENIZER_NO_TOKEN)
            continue;
        used++;
        bad |= (merge->left >= n) | (merge->right >= n) | (merge->result >= n);
    }
    if (bad || used >= slots)
        return refuse(err, "table of merges");
    tokenizer->merge_mask = slots - 1;
    return 0;
}

static bool ids_in_range(const int32_t *ids, size_t count, int32_t least, uint32_t n_tokens)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < least || ids[i] >= (int64_t)n_tokens)
            return false;
    return true;
}

static int check_lists(ofr_tokenizer *tokenizer, ofr_error *err)
{
    const ofr_tokenizer_header *header = tokenizer->header;
    uint32_t n = header->n_tokens;
    size_t count;
    tokenizer->byte_ids =
        section_elements(header, OFR_TOKENIZER_SECTION_BYTE_IDS, sizeof(int32_t), &count);
    if (count != 256 || !ids_in_range(tokenizer->byte_ids, count, -1, n))
        return refuse(err, "byte tokens");
    tokenizer->specials = section_elements(header, OFR_TOKENIZER_SECTION_SPECIALS, sizeof(int32_t),
                                           &tokenizer->n_specials);
    tokenizer->stop_ids = section_elements(header, OFR_TOKENIZER_SECTION_STOP_IDS, sizeof(int32_t),
                                           &tokenizer->n_stop_ids);
    tokenizer->sorted = section_elements(header, OFR_TOKENIZER_SECTION_SORTED, sizeof(int32_t),
                                         &tokenizer->n_sorted);
    if (tokenizer->n_specials > n || tokenizer->n_stop_ids > n || tokenizer->n_sorted > n ||
        !ids_in_range(tokenizer->specials, tokenizer->n_specials, 0, n) ||
        !ids_in_range(tokenizer->stop_ids, tokenizer->n_stop_ids, 0, n) ||
        !ids_in_range(tokenizer->sorted, tokenizer->n_sorted, 0, n))
        return refuse(err, "lists of tokens");
    for (size_t i = 0; i < tokenizer->n_specials; i++) {
        size_t size;
        const char *text = token_text(tokenizer, tokenizer->specials[i], &size);
        /* They cut text: a cut inside a character would leave what is no text. */
        if (!size || !ofr_utf8_validate(text, size, NULL))
            return refuse(err, "text of a special token");
    }
    /* Where in the list of special tokens each first byte begins. */
    size_t at = 0;
    for (uint32_t byte = 0; byte <= 256; byte++) {
        while (at < tokenizer->n_specials) {
            size_t size;
            const char *text = token_text(tokenizer, tokenizer->specials[at], &size);
            if ((unsigned char)text[0] >= byte)
                break;
            at++;
        }
        tokenizer->special_by_first[byte] = (uint32_t)at;
    }
    if (at != tokenizer->n_specials)
        return refuse(err, "order of the special tokens");
    return 0;
}

static int check_scores(ofr_tokenizer *tokenizer, ofr_error *err)
{
    const ofr_tokenizer_header *header = tokenizer->header;
    size_t count;
    tokenizer->scores =
        section_elements(header, OFR_TOKENIZER_SECTION_SCORES, sizeof(float), &count);
    if (tokenizer->scores && count != header->n_tokens)
        return refuse(err, "scores");
    if (!tokenizer->scores && header->kind != OFR_VOCAB_KIND_BPE)
        return refuse(err, "no scores");
    bool finite = true;
    for (uint32_t i = 0; tokenizer->scores && i < header->n_tokens; i++)
        finite &= isfinite(tokenizer->scores[i]) != 0;
    if (!finite)
        return refuse(err, "scores");

    if (header->kind == OFR_VOCAB_KIND_UNIGRAM) {
        tokenizer->sorted_index =
            section_elements(header, OFR_TOKENIZER_SECTION_SORTED_INDEX, sizeof(uint32_t), &count);
        if (count != OFR_TOKENIZER_SORTED_INDEX_COUNT)
            return refuse(err, "index of the sorted tokens");
        for (size_t i = 0; i < count; i++)
            if (tokenizer->sorted_index[i] > tokenizer->n_sorted ||
                (i && tokenizer->sorted_index[i] < tokenizer->sorted_index[i - 1]))
                return refuse(err, "index of the sorted tokens");
        if (!(header->flags & OFR_TOKENIZER_FLAG_ESCAPE_SPACES))
            return refuse(err, "flags");
    }
    if (header->kind == OFR_VOCAB_KIND_SPM && !(header->flags & OFR_TOKENIZER_FLAG_ESCAPE_SPACES))
        return refuse(err, "flags");
    return 0;
}

static int check_charsmap(ofr_tokenizer *tokenizer, ofr_error *err)
{
    size_t size;
    const char *map = section_elements(tokenizer->header, OFR_TOKENIZER_SECTION_CHARSMAP, 1, &size);
    if (!map)
        return 0;
    uint32_t units_size;
    if (size < sizeof units_size)
        return refuse(err, "character map");
    memcpy(&units_size, map, sizeof units_size);
    if (units_size % sizeof(uint32_t) || units_size > size - sizeof units_size)
        return refuse(err, "character map");
    tokenizer->n_charsmap_units = units_size / sizeof(uint32_t);
    tokenizer->charsmap_units = map + sizeof units_size;
    tokenizer->charsmap_texts = tokenizer->charsmap_units + units_size;
    tokenizer->charsmap_texts_size = size - sizeof units_size - units_size;
    if (tokenizer->charsmap_texts_size &&
        tokenizer->charsmap_texts[tokenizer->charsmap_texts_size - 1])
        return refuse(err, "character map");
    /* Every replacement is text that the rest of the tokenizer may take for valid UTF-8. */
    if (!ofr_utf8_validate(tokenizer->charsmap_texts, tokenizer->charsmap_texts_size, NULL))
        return refuse(err, "character map");
    return 0;
}

int ofr_tokenizer_open(const void *data, size_t size, ofr_tokenizer **ret_tokenizer, ofr_error *err)
{
    if (!data || (uintptr_t)data % OFR_TOKENIZER_ALIGNMENT)
        return ofr_fail(err, OFR_EINVAL, "tokenizer.bin must be mapped on an 8-byte boundary");
    int rc = check_header(data, size, err);
    if (rc)
        return rc;
    ofr_tokenizer *opened = calloc(1, sizeof *opened);
    if (!opened)
        return ofr_fail(err, OFR_ENOMEM, "tokenizer: out of memory");
    opened->header = data;
    opened->pre = ((const ofr_tokenizer_preamble *)data)->pre;
    if ((rc = check_texts(opened, err)) || (rc = check_tables(opened, err)) ||
        (rc = check_lists(opened, err)) || (rc = check_scores(opened, err)) ||
        (rc = check_charsmap(opened, err))) {
        ofr_tokenizer_close(opened);
        return rc;
    }
    if (opened->header->kind == OFR_VOCAB_KIND_BPE &&
        !has_flag(opened, OFR_TOKENIZER_FLAG_ESCAPE_SPACES)) {
        const ofr_pre_rule *rule = ofr_pre_rule_find(opened->pre);
        rc = rule ? ofr_pre_tokenizer_new(rule, &opened->pre_tokenizer, err)
                  : ofr_fail(err, OFR_EUNSUPPORTED,
                             "tokenizer.bin uses the pre-tokenizer '%s', which this program does "
                             "not know: update it",
                             opened->pre);
        if (rc) {
            ofr_tokenizer_close(opened);
            return rc;
        }
    }
    *ret_tokenizer = opened;
    return 0;
}

ofr_tokenizer *ofr_tokenizer_close(ofr_tokenizer *tokenizer)
{
    if (tokenizer) {
        ofr_pre_tokenizer_free(tokenizer->pre_tokenizer);
        free(tokenizer);
    }
    return NULL;
}
