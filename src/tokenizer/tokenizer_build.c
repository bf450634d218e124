/* Making tokenizer.bin: the sections are computed one by one, then laid out and sealed. */
#include "tokenizer/tokenizer_build.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/stop_tokens.h"
#include "tokenizer/tokenizer_internal.h"

typedef struct builder_state {
    const ofr_vocab *vocab;
    ofr_tokenizer_preamble preamble;
    void *sections[OFR_TOKENIZER_SECTION_COUNT]; /* owned */
    /* Views of sections, as they come to be. */
    uint32_t *offsets;
    char *text;
    uint8_t *types;
    uint32_t *table;
    uint64_t table_mask;
} builder_state;

void ofr_vocab_init(ofr_vocab *vocab, enum ofr_vocab_kind kind, const char *pre)
{
    *vocab = (ofr_vocab){.kind = kind, .pre = pre};
    vocab->bos_id = vocab->eos_id = vocab->unk_id = vocab->pad_id = vocab->eot_id = -1;
    const ofr_pre_rule *rule = pre ? ofr_pre_rule_find(pre) : NULL;
    if (kind == OFR_VOCAB_KIND_BPE && rule) {
        vocab->ignore_merges = rule->ignore_merges;
        vocab->add_bos = rule->add_bos;
    }
    if (kind == OFR_VOCAB_KIND_SPM)
        vocab->add_bos = true;
    if (kind == OFR_VOCAB_KIND_UNIGRAM) {
        vocab->add_eos = true;
        vocab->remove_extra_whitespaces = true;
    }
    vocab->add_space_prefix = kind != OFR_VOCAB_KIND_BPE;
}

static bool escapes_spaces(const ofr_vocab *vocab)
{
    return vocab->kind != OFR_VOCAB_KIND_BPE || vocab->byte_fallback;
}

/* Room for a section; NULL and an error if there is none. */
static void *add_section(builder_state *builder, enum ofr_tokenizer_section section, size_t count,
                         size_t element_size, ofr_error *err)
{
    void *data = calloc(count ? count : 1, element_size);
    if (!data) {
        ofr_fail(err, OFR_ENOMEM, "tokenizer: out of memory for %zu elements", count);
        return NULL;
    }
    builder->sections[section] = data;
    builder->preamble.header.sections[section].size = count * element_size;
    return data;
}

static int check_vocab(const ofr_vocab *vocab, ofr_error *err)
{
    if (vocab->kind < OFR_VOCAB_KIND_BPE || vocab->kind > OFR_VOCAB_KIND_UNIGRAM)
        return ofr_fail(err, OFR_EINVAL, "vocabulary: unknown kind %d", (int)vocab->kind);
    if (vocab->n_tokens <= 0 || vocab->n_tokens > OFR_TOKENIZER_TOKENS_MAX || !vocab->tokens)
        return ofr_fail(err, OFR_EFORMAT, "vocabulary: %d tokens; from 1 to %d can be used",
                        vocab->n_tokens, OFR_TOKENIZER_TOKENS_MAX);
    uint64_t total = 0;
    for (int32_t id = 0; id < vocab->n_tokens; id++) {
        if (vocab->tokens[id].size > OFR_TOKENIZER_TEXT_MAX)
            return ofr_fail(err, OFR_EFORMAT, "vocabulary: token %d has %zu bytes, more than %d",
                            id, vocab->tokens[id].size, OFR_TOKENIZER_TEXT_MAX);
        if (vocab->scores && !isfinite(vocab->scores[id]))
            return ofr_fail(err, OFR_EFORMAT, "vocabulary: the score of token %d is not finite",
                            id);
        total += vocab->tokens[id].size;
    }
    if (total > UINT32_MAX)
        return ofr_fail(err, OFR_EFORMAT, "vocabulary: its texts exceed 4 GiB");
    if (vocab->kind != OFR_VOCAB_KIND_BPE && !vocab->scores)
        return ofr_fail(err, OFR_EFORMAT,
                        "vocabulary: SentencePiece tokens need scores, and there are none");
    const struct {
        const char *name;
        int32_t id;
    } ids[] = {{"BOS", vocab->bos_id},
               {"EOS", vocab->eos_id},
               {"UNK", vocab->unk_id},
               {"PAD", vocab->pad_id},
               {"EOT", vocab->eot_id}};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (ids[i].id < -1 || ids[i].id >= vocab->n_tokens)
            return ofr_fail(err, OFR_EFORMAT, "vocabulary: the %s token %d is not one of its %d",
                            ids[i].name, ids[i].id, vocab->n_tokens);
    if (vocab->add_bos && vocab->bos_id < 0)
        return ofr_fail(err, OFR_EFORMAT, "vocabulary: asks for a BOS token and has none");
    if (vocab->add_eos && vocab->eos_id < 0)
        return ofr_fail(err, OFR_EFORMAT, "vocabulary: asks for an EOS token and has none");
    return 0;
}

static int check_pre(builder_state *builder, ofr_error *err)
{
    const ofr_vocab *vocab = builder->vocab;
    const char *pre = vocab->pre && *vocab->pre ? vocab->pre : "default";
    if (escapes_spaces(vocab))
        return 0;
    if (ofr_pre_rule_find(pre) && strlen(pre) < OFR_TOKENIZER_PRE_MAX) {
        memcpy(builder->preamble.pre, pre, strlen(pre) + 1);
        return 0;
    }
    char known[OFR_ERROR_TEXT_MAX] = "";
    size_t count, used = 0;
    const ofr_pre_rule *rules = ofr_pre_rule_all(&count);
    for (size_t i = 0; i < count && used < sizeof known; i++) {
        int written =
            snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", rules[i].name);
        used += written > 0 ? (size_t)written : 0;
    }
    return ofr_fail(err, OFR_EUNSUPPORTED, "unknown pre-tokenizer '%.64s'; those known are: %s",
                    pre, known);
}

static bool is_byte_text(ofr_bytes text)
{
    return text.size == 6 && !memcmp(text.data, "<0x", 3) && text.data[5] == '>' &&
           strspn(text.data + 3, "0123456789ABCDEFabcdef") >= 2;
}

static int fill_texts(builder_state *builder, ofr_error *err)
{
    const ofr_vocab *vocab = builder->vocab;
    size_t n = (size_t)vocab->n_tokens, total = 0;
    for (size_t i = 0; i < n; i++)
        total += vocab->tokens[i].size;
    builder->offsets =
        add_section(builder, OFR_TOKENIZER_SECTION_TOKEN_OFFSETS, n + 1, sizeof(uint32_t), err);
    builder->text = add_section(builder, OFR_TOKENIZER_SECTION_TOKEN_TEXT, total, 1, err);
    builder->types = add_section(builder, OFR_TOKENIZER_SECTION_TOKEN_TYPES, n, 1, err);
    if (!builder->offsets || !builder->text || !builder->types)
        return OFR_ENOMEM;
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        ofr_bytes token = vocab->tokens[i];
        if (token.size)
            memcpy(builder->text + at, token.data, token.size);
        at += (uint32_t)token.size;
        builder->offsets[i + 1] = at;
        int32_t type = vocab->types ? vocab->types[i] : OFR_TOKEN_TYPE_NORMAL;
        if (type < OFR_TOKEN_TYPE_NORMAL || type > OFR_TOKEN_TYPE_BYTE)
            type = OFR_TOKEN_TYPE_NORMAL;
        bool byte = escapes_spaces(vocab) && is_byte_text(token);
        /* Sources without types still have byte tokens; a byte token by type only has no byte. */
        if (byte && type == OFR_TOKEN_TYPE_NORMAL)
            type = OFR_TOKEN_TYPE_BYTE;
        else if (!byte && type == OFR_TOKEN_TYPE_BYTE)
            type = OFR_TOKEN_TYPE_NORMAL;
        builder->types[i] = (uint8_t)type;
    }
    if (vocab->scores) {
        float *scores = add_section(builder, OFR_TOKENIZER_SECTION_SCORES, n, sizeof(float), err);
        if (!scores)
            return OFR_ENOMEM;
        for (size_t i = 0; i < n; i++)
            scores[i] = vocab->scores[i] + 0.0f; /* one zero, not two: ranks compare bits */
    }
    return 0;
}

static ofr_bytes stored_text(const builder_state *builder, uint32_t id)
{
    uint32_t offset = builder->offsets[id];
    return (ofr_bytes){builder->text + offset, builder->offsets[id + 1] - offset};
}

static int32_t find_token(const builder_state *builder, const char *text, size_t size)
{
    uint64_t slot = ofr_tokenizer_hash_text(text, size) & builder->table_mask;
    for (; builder->table[slot]; slot = (slot + 1) & builder->table_mask) {
        ofr_bytes stored = stored_text(builder, builder->table[slot] - 1);
        if (stored.size == size && !memcmp(stored.data, text, size))
            return (int32_t)(builder->table[slot] - 1);
    }
    return -1;
}

/* The smallest power of two that is above count * 4 / 3. */
static size_t table_slots(size_t count)
{
    size_t slots = 8;
    while (slots <= count + count / 3)
        slots *= 2;
    return slots;
}

static int fill_token_table(builder_state *builder, ofr_error *err)
{
    uint32_t n = (uint32_t)builder->vocab->n_tokens;
    size_t slots = table_slots(n);
    builder->table =
        add_section(builder, OFR_TOKENIZER_SECTION_TOKEN_TABLE, slots, sizeof(uint32_t), err);
    if (!builder->table)
        return OFR_ENOMEM;
    builder->table_mask = slots - 1;
    for (uint32_t id = 0; id < n; id++) {
        ofr_bytes text = stored_text(builder, id);
        if (find_token(builder, text.data, text.size) >= 0)
            continue; /* of two tokens with one text, the first is found */
        uint64_t slot = ofr_tokenizer_hash_text(text.data, text.size) & builder->table_mask;
        while (builder->table[slot])
            slot = (slot + 1) & builder->table_mask;
        builder->table[slot] = id + 1;
    }
    return 0;
}

/* Tokens that a merge may join or make. */
static int32_t find_mergeable(const builder_state *builder, const char *text, size_t size)
{
    int32_t id = find_token(builder, text, size);
    return id >= 0 && is_plain_type((enum ofr_token_type)builder->types[id]) ? id : -1;
}

static int fill_merges(builder_state *builder, ofr_error *err)
{
    const ofr_vocab *vocab = builder->vocab;
    if (vocab->kind != OFR_VOCAB_KIND_BPE || !vocab->n_merges)
        return 0;
    if (vocab->n_merges > OFR_TOKENIZER_TOKENS_MAX)
        return ofr_fail(err, OFR_EFORMAT, "vocabulary: %zu merges are too many", vocab->n_merges);
    size_t slots = table_slots(vocab->n_merges), mask = slots - 1;
    ofr_tokenizer_merge *table = add_section(builder, OFR_TOKENIZER_SECTION_MERGE_TABLE, slots,
                                             sizeof(ofr_tokenizer_merge), err);
    if (!table)
        return OFR_ENOMEM;
    for (size_t i = 0; i < slots; i++)
        table[i].left = OFR_TOKENIZER_NO_TOKEN;
    char joined[OFR_TOKENIZER_TEXT_MAX];
    for (size_t rank = 0; rank < vocab->n_merges; rank++) {
        ofr_bytes merge = vocab->merges[rank];
        const char *space = merge.size > 2 ? memchr(merge.data + 1, ' ', merge.size - 2) : NULL;
        if (!space || merge.size > sizeof joined)
            return ofr_fail(err, OFR_EFORMAT, "vocabulary: merge %zu is not 'left right'", rank);
        size_t left_size = (size_t)(space - merge.data), right_size = merge.size - left_size - 1;
        memcpy(joined, merge.data, left_size);
        memcpy(joined + left_size, space + 1, right_size);
        int32_t left = find_mergeable(builder, merge.data, left_size);
        int32_t right = find_mergeable(builder, space + 1, right_size);
        int32_t result = find_mergeable(builder, joined, left_size + right_size);
        if (left < 0 || right < 0 || result < 0)
            continue;
        uint64_t slot = ofr_tokenizer_hash_pair((uint32_t)left, (uint32_t)right) & mask;
        while (table[slot].left != OFR_TOKENIZER_NO_TOKEN &&
               (table[slot].left != (uint32_t)left || table[slot].right != (uint32_t)right))
            slot = (slot + 1) & mask;
        if (table[slot].left == OFR_TOKENIZER_NO_TOKEN) /* of two ranks, the better one counts */
            table[slot] = (ofr_tokenizer_merge){(uint32_t)left, (uint32_t)right, (uint32_t)rank,
                                                (uint32_t)result};
    }
    return 0;
}

static int fill_bytes(builder_state *builder, ofr_error *err)
{
    int32_t *ids = add_section(builder, OFR_TOKENIZER_SECTION_BYTE_IDS, 256, sizeof *ids, err);
    if (!ids)
        return OFR_ENOMEM;
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        if (escapes_spaces(builder->vocab)) {
            snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
            ids[byte] = find_token(builder, text, 6);
            if (ids[byte] >= 0 && builder->types[ids[byte]] != OFR_TOKEN_TYPE_BYTE)
                ids[byte] = -1;
        } else {
            size_t size = ofr_utf8_encode(ofr_byte_alphabet_codepoint((unsigned char)byte), text);
            ids[byte] = find_mergeable(builder, text, size);
        }
    }
    return 0;
}

typedef struct sortable {
    ofr_bytes text;
    int32_t id;
} sortable;

static int compare_texts(const void *a, const void *b)
{
    const sortable *left = a, *right = b;
    size_t common = left->text.size < right->text.size ? left->text.size : right->text.size;
    int order = common ? memcmp(left->text.data, right->text.data, common) : 0;
    if (!order)
        order = (left->text.size > right->text.size) - (left->text.size < right->text.size);
    return order ? order : (left->id > right->id) - (left->id < right->id);
}

/* Ids of the tokens that `wanted` takes, sorted by text; a text that came before is left out. */
static int fill_sorted(builder_state *builder, enum ofr_tokenizer_section section,
                       bool (*wanted)(enum ofr_token_type), ofr_error *err)
{
    uint32_t n = (uint32_t)builder->vocab->n_tokens;
    size_t count = 0, kept = 0;
    sortable *list = malloc(n * sizeof *list);
    int32_t *ids = list ? add_section(builder, section, n, sizeof *ids, err) : NULL;
    if (!ids) {
        free(list);
        return ofr_fail(err, OFR_ENOMEM, "tokenizer: out of memory for %u tokens", n);
    }
    for (uint32_t id = 0; id < n; id++) {
        ofr_bytes text = stored_text(builder, id);
        if (text.size && wanted((enum ofr_token_type)builder->types[id]) &&
            ofr_utf8_validate(text.data, text.size, NULL))
            list[count++] = (sortable){text, (int32_t)id};
    }
    qsort(list, count, sizeof *list, compare_texts);
    for (size_t i = 0; i < count; i++)
        if (!i || list[i].text.size != list[i - 1].text.size ||
            memcmp(list[i].text.data, list[i - 1].text.data, list[i].text.size) != 0)
            ids[kept++] = list[i].id;
    free(list);
    builder->preamble.header.sections[section].size = kept * sizeof *ids;
    return 0;
}

static bool is_special_type(enum ofr_token_type type)
{
    return type == OFR_TOKEN_TYPE_CONTROL || type == OFR_TOKEN_TYPE_UNKNOWN ||
           type == OFR_TOKEN_TYPE_USER_DEFINED;
}

static int fill_unigram(builder_state *builder, ofr_error *err)
{
    if (builder->vocab->kind != OFR_VOCAB_KIND_UNIGRAM)
        return 0;
    int rc = fill_sorted(builder, OFR_TOKENIZER_SECTION_SORTED, is_plain_type, err);
    if (rc)
        return rc;
    uint32_t *index = add_section(builder, OFR_TOKENIZER_SECTION_SORTED_INDEX,
                                  OFR_TOKENIZER_SORTED_INDEX_COUNT, sizeof *index, err);
    if (!index)
        return OFR_ENOMEM;
    const int32_t *sorted = builder->sections[OFR_TOKENIZER_SECTION_SORTED];
    size_t count =
        builder->preamble.header.sections[OFR_TOKENIZER_SECTION_SORTED].size / sizeof *sorted;
    size_t at = 0;
    for (uint32_t prefix = 0; prefix < OFR_TOKENIZER_SORTED_INDEX_COUNT; prefix++) {
        for (; at < count; at++) {
            ofr_bytes text = stored_text(builder, (uint32_t)sorted[at]);
            uint32_t second = text.size > 1 ? (unsigned char)text.data[1] : 0;
            if (((uint32_t)(unsigned char)text.data[0] << 8 | second) >= prefix)
                break;
        }
        index[prefix] = (uint32_t)at;
    }
    /* What a character that no token covers costs: SentencePiece's penalty of 10. */
    float least = 0.0f;
    bool any = false;
    for (int32_t id = 0; id < builder->vocab->n_tokens; id++)
        if (builder->types[id] == OFR_TOKEN_TYPE_NORMAL &&
            (!any || builder->vocab->scores[id] < least)) {
            least = builder->vocab->scores[id];
            any = true;
        }
    builder->preamble.header.unknown_score = least - 10.0f;
    if (!isfinite(builder->preamble.header.unknown_score))
        return ofr_fail(err, OFR_EFORMAT, "vocabulary: a score of %g is too low", (double)least);
    return 0;
}

/* Phi-3's special tokens take the white space after them, all but three; its GGUF files do not say
 * so, but its vocabulary is like no other. */
static void strip_as_phi3(builder_state *builder)
{
    static const char *const telling[] = {"<|placeholder1|>", "<|assistant|>", "<|end|>"};
    static const char *const exempt[] = {"<unk>", "<s>", "<|endoftext|>"};
    if (builder->vocab->kind != OFR_VOCAB_KIND_SPM)
        return;
    for (size_t i = 0; i < 3; i++)
        if (find_token(builder, telling[i], strlen(telling[i])) < 0)
            return;
    for (int32_t id = 0; id < builder->vocab->n_tokens; id++)
        if (is_special_type((enum ofr_token_type)builder->types[id]))
            builder->types[id] |= OFR_TOKEN_STRIP_RIGHT;
    for (size_t i = 0; i < 3; i++) {
        int32_t id = find_token(builder, exempt[i], strlen(exempt[i]));
        if (id >= 0)
            builder->types[id] &= OFR_TOKEN_TYPE_MASK;
    }
}

static int fill_specials(builder_state *builder, ofr_error *err)
{
    const ofr_vocab *vocab = builder->vocab;
    int32_t stops[OFR_STOP_TOKENS_MAX];
    size_t count = ofr_stop_tokens_find(vocab, builder->types, stops);
    int32_t *ids = add_section(builder, OFR_TOKENIZER_SECTION_STOP_IDS, count, sizeof *ids, err);
    if (!ids)
        return OFR_ENOMEM;
    memcpy(ids, stops, count * sizeof *ids);
    int rc = fill_sorted(builder, OFR_TOKENIZER_SECTION_SPECIALS, is_special_type, err);
    if (rc)
        return rc;
    for (int32_t id = 0; vocab->strip && id < vocab->n_tokens; id++) {
        if (vocab->strip[id] & OFR_TOKEN_STRIP_BEFORE)
            builder->types[id] |= OFR_TOKEN_STRIP_LEFT;
        if (vocab->strip[id] & OFR_TOKEN_STRIP_AFTER)
            builder->types[id] |= OFR_TOKEN_STRIP_RIGHT;
    }
    return 0;
}

static int fill_charsmap(builder_state *builder, ofr_error *err)
{
    const ofr_vocab *vocab = builder->vocab;
    if (!vocab->precompiled_charsmap || !vocab->precompiled_charsmap_size)
        return 0;
    if (vocab->precompiled_charsmap_size > (1u << 28))
        return ofr_fail(err, OFR_EFORMAT, "vocabulary: a character map of %zu bytes is too large",
                        vocab->precompiled_charsmap_size);
    void *map = add_section(builder, OFR_TOKENIZER_SECTION_CHARSMAP,
                            vocab->precompiled_charsmap_size, 1, err);
    if (!map)
        return OFR_ENOMEM;
    memcpy(map, vocab->precompiled_charsmap, vocab->precompiled_charsmap_size);
    return 0;
}

static bool words_are_apart(const builder_state *builder)
{
    for (uint32_t id = 0; id < (uint32_t)builder->vocab->n_tokens; id++) {
        if (!is_plain_type((enum ofr_token_type)(builder->types[id] & OFR_TOKEN_TYPE_MASK)))
            continue;
        ofr_bytes text = stored_text(builder, id);
        while (text.size >= OFR_SPACE_MARK_SIZE &&
               !memcmp(text.data, OFR_SPACE_MARK, OFR_SPACE_MARK_SIZE)) {
            text.data += OFR_SPACE_MARK_SIZE;
            text.size -= OFR_SPACE_MARK_SIZE;
        }
        if (memmem(text.data, text.size, OFR_SPACE_MARK, OFR_SPACE_MARK_SIZE))
            return false;
    }
    return true;
}

static void fill_header(builder_state *builder)
{
    const ofr_vocab *vocab = builder->vocab;
    ofr_tokenizer_header *header = &builder->preamble.header;
    memcpy(header->magic, OFR_TOKENIZER_MAGIC, sizeof header->magic);
    header->version = OFR_TOKENIZER_VERSION;
    header->kind = (uint32_t)vocab->kind;
    header->n_tokens = (uint32_t)vocab->n_tokens;
    header->bos_id = vocab->bos_id;
    header->eos_id = vocab->eos_id;
    header->unk_id = vocab->unk_id;
    header->pad_id = vocab->pad_id;
    header->n_sections = OFR_TOKENIZER_SECTION_COUNT;
    bool escapes = escapes_spaces(vocab);
    const struct {
        bool set;
        uint32_t flag;
    } flags[] = {
        {vocab->add_bos, OFR_TOKENIZER_FLAG_ADD_BOS},
        {vocab->add_eos, OFR_TOKENIZER_FLAG_ADD_EOS},
        {escapes && vocab->add_space_prefix, OFR_TOKENIZER_FLAG_SPACE_PREFIX},
        {escapes && vocab->add_space_prefix && vocab->prefix_first_only,
         OFR_TOKENIZER_FLAG_PREFIX_FIRST},
        {escapes && vocab->add_space_prefix && vocab->prefix_unless_space,
         OFR_TOKENIZER_FLAG_PREFIX_UNLESS_SPACE},
        {escapes && vocab->remove_extra_whitespaces, OFR_TOKENIZER_FLAG_MERGE_SPACES},
        {vocab->ignore_merges, OFR_TOKENIZER_FLAG_IGNORE_MERGES},
        {escapes, OFR_TOKENIZER_FLAG_ESCAPE_SPACES},
        {escapes && words_are_apart(builder), OFR_TOKENIZER_FLAG_WORDS_APART},
        {vocab->normalization == OFR_NORMALIZATION_NFC, OFR_TOKENIZER_FLAG_NFC},
        {vocab->normalization == OFR_NORMALIZATION_NFKC, OFR_TOKENIZER_FLAG_NFKC},
    };
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        header->flags |= flags[i].set ? flags[i].flag : 0;
}

static int lay_out(builder_state *builder, void **ret_data, size_t *ret_size, ofr_error *err)
{
    ofr_tokenizer_header *header = &builder->preamble.header;
    size_t at = sizeof builder->preamble;
    for (size_t i = 0; i < OFR_TOKENIZER_SECTION_COUNT; i++) {
        header->sections[i].offset = at;
        at += (size_t)header->sections[i].size;
        at = (at + OFR_TOKENIZER_ALIGNMENT - 1) & ~(size_t)(OFR_TOKENIZER_ALIGNMENT - 1);
    }
    header->file_size = at;
    char *image = calloc(1, at);
    if (!image)
        return ofr_fail(err, OFR_ENOMEM, "tokenizer: out of memory for %zu bytes", at);
    memcpy(image, &builder->preamble, sizeof builder->preamble);
    for (size_t i = 0; i < OFR_TOKENIZER_SECTION_COUNT; i++)
        if (header->sections[i].size)
            memcpy(image + header->sections[i].offset, builder->sections[i],
                   (size_t)header->sections[i].size);
    ((ofr_tokenizer_header *)image)->checksum = ofr_tokenizer_checksum(image, at);
    *ret_data = image;
    *ret_size = at;
    return 0;
}

int ofr_tokenizer_build(const ofr_vocab *vocab, void **ret_data, size_t *ret_size, ofr_error *err)
{
    int rc = check_vocab(vocab, err);
    if (rc)
        return rc;
    builder_state *made = calloc(1, sizeof *made);
    if (!made)
        return ofr_fail(err, OFR_ENOMEM, "tokenizer: out of memory");
    made->vocab = vocab;
    void *image = NULL;
    size_t size = 0;
    if (!(rc = check_pre(made, err)) && !(rc = fill_texts(made, err)) &&
        !(rc = fill_token_table(made, err)) && !(rc = fill_merges(made, err)) &&
        !(rc = fill_bytes(made, err)) && !(rc = fill_unigram(made, err)) &&
        !(rc = fill_specials(made, err)) && !(rc = fill_charsmap(made, err))) {
        if (!vocab->strip)
            strip_as_phi3(made);
        fill_header(made);
        rc = lay_out(made, &image, &size, err);
    }
    for (size_t i = 0; i < OFR_TOKENIZER_SECTION_COUNT; i++)
        free(made->sections[i]);
    free(made);
    if (rc)
        return rc;
    /* What was made must open: a vocabulary that it cannot be opened from is refused here, where
     * the source is at hand. */
    ofr_tokenizer *opened;
    rc = ofr_tokenizer_open(image, size, &opened, err);
    if (rc) {
        free(image);
        return rc;
    }
    ofr_tokenizer_close(opened);
    *ret_data = image;
    *ret_size = size;
    return 0;
}
