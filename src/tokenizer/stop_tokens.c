/* Which tokens end generation, by the names that chat formats give them. */
#include "tokenizer/stop_tokens.h"

#include <stdlib.h>
#include <string.h>

/* `certain`: the name cannot be ordinary text, so the token is a control token whatever the source
 * says. The others count only where the source says so. */
static const struct {
    const char *text;
    bool certain;
} names[] = {
    {"<|im_end|>", true}, /* ChatML: Qwen, SmolLM, Yi */
    {"<|eot_id|>", true}, /* Llama 3 */
    {"<|eom_id|>", true}, /* Llama 3, before a tool's answer */
    {"<|eot|>", true},    /* Llama 4 */
    {"<|eom|>", true},
    {"<|end|>", true},               /* Phi-3, Phi-4-mini */
    {"<|endoftext|>", true},         /* GPT-2 and its descendants */
    {"<|end_of_text|>", true},       /* Llama 3 base, Granite */
    {"<|end_of_turn|>", true},       /* OpenChat, Starling */
    {"<|END_OF_TURN_TOKEN|>", true}, /* Command R */
    {"<|return|>", true},            /* gpt-oss */
    {"<|call|>", true},
    {"<|fim_pad|>", true}, /* Qwen coder: nothing follows these */
    {"<|repo_name|>", true},
    {"<|file_sep|>", true},
    {"<end_of_turn>", true},      /* Gemma */
    {"<end_of_utterance>", true}, /* SmolVLM */
    {"<\xEF\xBD\x9C"
     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
     true},            /* DeepSeek */
    {"<|EOT|>", true}, /* DeepSeek coder */
    {"<EOT>", false},
    {"[EOT]", false},
    {"[EOS]", false},
    {"<eos>", false},
    {"</s>", false},
};

static int32_t find_text(const ofr_vocab *vocab, const uint8_t *types, const char *text)
{
    size_t size = strlen(text);
    int32_t found = -1;
    for (int32_t id = 0; id < vocab->n_tokens; id++) {
        if (vocab->tokens[id].size != size || memcmp(vocab->tokens[id].data, text, size) != 0)
            continue;
        if (types[id] == OFR_TOKEN_TYPE_CONTROL)
            return id;
        if (found < 0)
            found = id;
    }
    return found;
}

static void add(int32_t *ids, size_t *count, int32_t id)
{
    for (size_t i = 0; i < *count; i++)
        if (ids[i] == id)
            return;
    if (*count < OFR_STOP_TOKENS_MAX)
        ids[(*count)++] = id;
}

static int compare_ids(const void *a, const void *b)
{
    int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;
    return (left > right) - (left < right);
}

size_t ofr_stop_tokens_find(const ofr_vocab *vocab, uint8_t *types,
                            int32_t ret_ids[OFR_STOP_TOKENS_MAX])
{
    size_t count = 0;
    int32_t end = -1, returns = -1, calls = -1;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int32_t id = find_text(vocab, types, names[i].text);
        if (id < 0)
            continue;
        if (names[i].certain)
            types[id] = OFR_TOKEN_TYPE_CONTROL;
        if (types[id] != OFR_TOKEN_TYPE_CONTROL)
            continue;
        end = strcmp(names[i].text, "<|end|>") ? end : id;
        returns = strcmp(names[i].text, "<|return|>") ? returns : id;
        calls = strcmp(names[i].text, "<|call|>") ? calls : id;
        add(ret_ids, &count, id);
    }
    if (vocab->eos_id >= 0)
        add(ret_ids, &count, vocab->eos_id);
    if (vocab->eot_id >= 0)
        add(ret_ids, &count, vocab->eot_id);
    /* gpt-oss ends a message, not its turn, with <|end|>. */
    if (end >= 0 && returns >= 0 && calls >= 0) {
        size_t kept = 0;
        for (size_t i = 0; i < count; i++)
            if (ret_ids[i] != end)
                ret_ids[kept++] = ret_ids[i];
        count = kept;
    }
    qsort(ret_ids, count, sizeof *ret_ids, compare_ids);
    return count;
}
