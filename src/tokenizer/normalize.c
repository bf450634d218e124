/* Normalisation before tokenization: SentencePiece's character map, NFC and NFKC, and spaces.
 * Each step runs only where the vocabulary asks for it. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer_internal.h"

/* SentencePiece's precompiled map is a Darts-clone double array: a unit holds the label of the edge
 * that leads to it (bits 0-7, bit 31 clear), whether a value hangs on it (bit 8), and the offset to
 * its children (bits 10-30, in steps of 256 where bit 9 is set); a unit with bit 31 is a value. */
static uint32_t charsmap_unit(const ofr_tokenizer *tokenizer, size_t index)
{
    uint32_t unit = 0;
    if (index < tokenizer->n_charsmap_units)
        memcpy(&unit, tokenizer->charsmap_units + index * sizeof unit, sizeof unit);
    return unit;
}

static size_t charsmap_children(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 0x200u) >> 6);
}

static bool is_inside_character(char byte)
{
    return ((unsigned char)byte & 0xC0) == 0x80;
}

/* Longest prefix of `text` that the map replaces: its bytes, or 0 for none. */
static size_t charsmap_match(const ofr_tokenizer *tokenizer, const char *text, size_t size,
                             size_t *ret_value)
{
    size_t longest = 0, node = charsmap_children(charsmap_unit(tokenizer, 0));
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (!byte)
            break;
        node ^= byte;
        uint32_t unit = charsmap_unit(tokenizer, node);
        if ((unit & 0x800000FFu) != byte)
            break;
        node ^= charsmap_children(unit);
        if (unit & 0x100u) {
            size_t value = charsmap_unit(tokenizer, node) & 0x7FFFFFFFu;
            /* In a damaged map, a match or a replacement may begin inside a character. */
            if (value < tokenizer->charsmap_texts_size &&
                !is_inside_character(tokenizer->charsmap_texts[value]) &&
                (i + 1 == size || !is_inside_character(text[i + 1]))) {
                longest = i + 1;
                *ret_value = value;
            }
        }
    }
    return longest;
}

static int apply_charsmap(const ofr_tokenizer *tokenizer, const char *text, size_t size,
                          ofr_text_buffer *out, ofr_error *err)
{
    int rc = 0;
    for (size_t at = 0; !rc && at < size;) {
        size_t value = 0;
        size_t matched = charsmap_match(tokenizer, text + at, size - at, &value);
        if (matched) {
            const char *replacement = tokenizer->charsmap_texts + value;
            /* The texts end in a NUL: checked when the file was opened. */
            rc = ofr_text_buffer_append(out, replacement, strlen(replacement), err);
        } else {
            matched = ofr_utf8_length(text[at]);
            rc = ofr_text_buffer_append(out, text + at, matched, err);
        }
        at += matched;
    }
    return rc;
}

/* Puts marks in canonical order: sorts each run of characters with a non-zero combining class,
 * stably. Counting, not insertion: a text may be one run of a million marks. */
static int order_marks(utf8proc_int32_t *codepoints, size_t count, ofr_error *err)
{
    utf8proc_int32_t *sorted = NULL;
    size_t capacity = 0;
    for (size_t begin = 0; begin < count;) {
        if (!utf8proc_get_property(codepoints[begin])->combining_class) {
            begin++;
            continue;
        }
        size_t places[257] = {0}, end = begin;
        while (end < count && utf8proc_get_property(codepoints[end])->combining_class)
            places[utf8proc_get_property(codepoints[end++])->combining_class + 1]++;
        if (end - begin > 1) {
            void *array = sorted;
            int rc = ofr_array_reserve(&array, &capacity, end - begin, sizeof *sorted, err);
            if (rc) {
                free(sorted);
                return rc;
            }
            sorted = array;
            for (size_t i = 1; i < 257; i++)
                places[i] += places[i - 1];
            for (size_t i = begin; i < end; i++)
                sorted[places[utf8proc_get_property(codepoints[i])->combining_class]++] =
                    codepoints[i];
            memcpy(codepoints + begin, sorted, (end - begin) * sizeof *sorted);
        }
        begin = end;
    }
    free(sorted);
    return 0;
}

static int compose(const char *text, size_t size, bool compatibility, ofr_text_buffer *out,
                   ofr_error *err)
{
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    utf8proc_option_t decompose = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (compatibility) {
        options |= UTF8PROC_COMPAT;
        decompose |= UTF8PROC_COMPAT;
    }
    utf8proc_int32_t *codepoints = NULL;
    size_t count = 0, capacity = 0;
    int rc = 0;
    for (size_t at = 0; !rc && at < size;) {
        size_t length;
        utf8proc_int32_t codepoint = (utf8proc_int32_t)ofr_utf8_decode(text + at, &length);
        at += length;
        void *array = codepoints;
        /* No character decomposes into more than 18. */
        rc = ofr_array_reserve(&array, &capacity, count + 18, sizeof *codepoints, err);
        if (rc)
            break;
        codepoints = array;
        utf8proc_ssize_t added =
            utf8proc_decompose_char(codepoint, codepoints + count, 18, decompose, NULL);
        if (added < 0 || added > 18)
            rc = ofr_fail(err, OFR_EINTERNAL, "normalisation of U+%04X failed: %s",
                          (unsigned)codepoint, utf8proc_errmsg(added));
        else
            count += (size_t)added;
    }
    if (!rc)
        rc = order_marks(codepoints, count, err);
    if (!rc && count) {
        utf8proc_ssize_t composed =
            utf8proc_normalize_utf32(codepoints, (utf8proc_ssize_t)count, options);
        if (composed < 0)
            rc =
                ofr_fail(err, OFR_EINTERNAL, "normalisation failed: %s", utf8proc_errmsg(composed));
        for (utf8proc_ssize_t i = 0; !rc && i < composed; i++) {
            char bytes[4];
            size_t length = ofr_utf8_encode((uint32_t)codepoints[i], bytes);
            rc = ofr_text_buffer_append(out, bytes, length, err);
        }
    }
    free(codepoints);
    return rc;
}

static bool is_ascii(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] >= 0x80)
            return false;
    return true;
}

/* Spaces become U+2581; a space is put before the text, and runs of spaces are one space, where
 * the flags say so. */
static int escape_spaces(const ofr_tokenizer *tokenizer, const char *text, size_t size, bool first,
                         ofr_text_buffer *out, ofr_error *err)
{
    bool merge = has_flag(tokenizer, OFR_TOKENIZER_FLAG_MERGE_SPACES);
    size_t at = 0;
    while (merge && at < size && text[at] == ' ')
        at++;
    while (merge && size > at && text[size - 1] == ' ')
        size--;
    if (at == size)
        return 0;
    int rc = 0;
    bool spaced = text[at] == ' ' || (size - at >= OFR_SPACE_MARK_SIZE &&
                                      !memcmp(text + at, OFR_SPACE_MARK, OFR_SPACE_MARK_SIZE));
    if (has_flag(tokenizer, OFR_TOKENIZER_FLAG_SPACE_PREFIX) &&
        (first || !has_flag(tokenizer, OFR_TOKENIZER_FLAG_PREFIX_FIRST)) &&
        (!spaced || !has_flag(tokenizer, OFR_TOKENIZER_FLAG_PREFIX_UNLESS_SPACE)))
        rc = ofr_text_buffer_append(out, OFR_SPACE_MARK, OFR_SPACE_MARK_SIZE, err);
    while (!rc && at < size) {
        const char *space = memchr(text + at, ' ', size - at);
        size_t until = space ? (size_t)(space - text) : size;
        rc = ofr_text_buffer_append(out, text + at, until - at, err);
        at = until;
        if (rc || !space)
            continue;
        rc = ofr_text_buffer_append(out, OFR_SPACE_MARK, OFR_SPACE_MARK_SIZE, err);
        at++;
        while (merge && text[at] == ' ')
            at++;
    }
    return rc;
}

int ofr_normalize(const ofr_tokenizer *tokenizer, const char *text, size_t size, bool first,
                  ofr_text_buffer *out, ofr_error *err)
{
    ofr_text_buffer mapped = {0}, composed = {0};
    int rc = 0;
    if (tokenizer->n_charsmap_units) {
        rc = apply_charsmap(tokenizer, text, size, &mapped, err);
        text = mapped.data;
        size = mapped.size;
    }
    bool compatibility = has_flag(tokenizer, OFR_TOKENIZER_FLAG_NFKC);
    if (!rc && (compatibility || has_flag(tokenizer, OFR_TOKENIZER_FLAG_NFC)) &&
        !is_ascii(text, size)) {
        rc = compose(text, size, compatibility, &composed, err);
        text = composed.data;
        size = composed.size;
    }
    out->size = 0;
    if (!rc && size && has_flag(tokenizer, OFR_TOKENIZER_FLAG_ESCAPE_SPACES))
        rc = escape_spaces(tokenizer, text, size, first, out, err);
    else if (!rc)
        rc = ofr_text_buffer_append(out, text, size, err);
    free(mapped.data);
    free(composed.data);
    return rc;
}
