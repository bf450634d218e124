/* The table of pre-tokenizer rules: regular expressions and the names that use them. */
#include <string.h>

#include "tokenizer/pre_tokenizer.h"

/* White_Space as Unicode defines it. PCRE2's \s also takes U+180E, which the expressions' own
 * engines do not. */
#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define SPACE           "[" SPACES "]"
#define NOT_SPACE       "[^" SPACES "]"
#define TRAILING_SPACES SPACE "+(?!" NOT_SPACE ")|" SPACE "+"
#define NEWLINES        SPACE "*[\\r\\n]+"
#define CONTRACTIONS    "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

#define GPT2                                                                                       \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACES "\\p{L}\\p{N}]+|" TRAILING_SPACES

/* The cl100k family: they differ in how many digits make a word. */
#define CL100K(digits)                                                                             \
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" SPACES                           \
                 "\\p{L}\\p{N}]+[\\r\\n]*|" NEWLINES "|" TRAILING_SPACES

#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
/* The o200k family: words end where lower case turns to upper case. */
#define O200K(suffix, digits)                                                                      \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER  \
    "*" suffix "|" digits "| ?[^" SPACES "\\p{L}\\p{N}]+[\\r\\n/]*|" NEWLINES "|" TRAILING_SPACES

#define DEEPSEEK_CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
/* Letters with case, as DeepSeek's tokenizer lists them. */
#define DEEPSEEK_LETTERS                                                                           \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                 \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"         \
    "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"                  \
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}"    \
    "\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}"                 \
    "\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"                 \
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}"         \
    "\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"        \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"                 \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}"         \
    "\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}"         \
    "\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}"                   \
    "\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}"                  \
    "\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}"                 \
    "\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"                 \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"             \
    "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"         \
    "\\x{1e900}-\\x{1e943}"
#define DEEPSEEK_SIGNS                                                                             \
    "!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}"

#define SEPARATED                                                                                  \
    " ?[^(" SPACES "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"

static const char *const gpt2[] = {GPT2, NULL};
static const char *const starcoder[] = {"\\p{N}", GPT2, NULL};
static const char *const llama3[] = {CL100K("\\p{N}{1,3}"), NULL};
static const char *const qwen2[] = {CL100K("\\p{N}"), NULL};
static const char *const qwen35[] = {CONTRACTIONS
                                     "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" SPACES
                                     "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" NEWLINES "|" TRAILING_SPACES,
                                     NULL};
static const char *const tekken[] = {O200K("", "\\p{N}"), NULL};
static const char *const gpt4o[] = {O200K(CONTRACTIONS "?", "\\p{N}{1,3}"), NULL};
static const char *const seed_coder[] = {CONTRACTIONS
                                         "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" SPACES
                                         "\\p{L}\\p{N}\\r\\n]+|" NEWLINES "|" TRAILING_SPACES,
                                         NULL};
static const char *const bailing[] = {
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^" SPACES
    "\\p{L}\\p{N}]++[\\r\\n]*|" SPACE "*[\\r\\n]|" TRAILING_SPACES,
    NULL};
/* "\s+$" is written so that a run of spaces is tried once, not once from each of its spaces. */
static const char *const deepseek_llm[] = {"[\\r\\n]",
                                           SPACE "?[" DEEPSEEK_LETTERS "]+",
                                           SPACE "?[" DEEPSEEK_SIGNS "]+",
                                           "(?<!" SPACE ")" SPACE "++\\z",
                                           DEEPSEEK_CJK,
                                           "\\p{N}+",
                                           NULL};
static const char *const deepseek_coder[] = {"[\\r\\n]",   SPACE "?\\p{L}+", SPACE "?\\p{P}+",
                                             DEEPSEEK_CJK, "\\p{N}",         NULL};
static const char *const deepseek_v3[] = {
    "\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"
    "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" NEWLINES "|" TRAILING_SPACES,
    NULL};
static const char *const falcon[] = {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]", NULL};
static const char *const unnamed[] = {"[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]",
                                      NULL};
static const char *const separated[] = {SEPARATED, NULL};
static const char *const viking[] = {SEPARATED, "\\p{N}", NULL};

/* Sorted by name, for the message that lists them. */
static const ofr_pre_rule rules[] = {
    {"a.x-4.0", gpt2, false, false},
    {"bailingmoe", bailing, false, false},
    {"bailingmoe2", bailing, false, false},
    {"bloom", separated, false, false},
    {"chatglm-bpe", llama3, false, false},
    {"codeshell", starcoder, false, false},
    {"command-r", starcoder, false, false},
    {"dbrx", llama3, false, false},
    {"deepseek-coder", deepseek_coder, false, false},
    {"deepseek-llm", deepseek_llm, false, false},
    {"deepseek-r1-qwen", qwen2, false, false},
    {"deepseek-v3", deepseek_v3, false, false},
    {"default", unnamed, false, false},
    {"exaone", starcoder, false, false},
    {"exaone4", gpt2, false, false},
    {"f2llmv2", qwen2, false, false},
    {"falcon", falcon, false, false},
    {"falcon-h1", llama3, true, true},
    {"falcon3", llama3, true, true},
    {"gigachat", gpt2, false, false},
    {"glm4", llama3, false, false},
    {"gpt-2", gpt2, false, false},
    {"gpt-4o", gpt4o, false, false},
    {"gpt3-finnish", separated, false, false},
    {"granite", starcoder, false, false},
    {"granite-docling", gpt2, false, false},
    {"grok-2", qwen2, false, false},
    {"hunyuan", qwen2, false, false},
    {"hunyuan-dense", deepseek_v3, false, false},
    {"hy_v4", deepseek_v3, false, false},
    {"jais", gpt2, false, false},
    {"joyai-llm", deepseek_v3, false, false},
    {"kanana2", gpt4o, false, false},
    {"kormo", qwen2, false, false},
    {"lfm2", llama3, true, true},
    {"llada-moe", bailing, false, false},
    {"llama-bpe", llama3, true, true},
    {"llama-v3", llama3, true, true},
    {"llama3", llama3, true, true},
    {"llama4", gpt4o, false, false},
    {"megrez", qwen2, false, false},
    {"mellum", gpt2, false, false},
    {"mellum2", starcoder, false, false},
    {"midm-2.0", llama3, true, true},
    {"minerva-7b", starcoder, false, false},
    {"minimax-m2", gpt4o, false, false},
    {"modern-bert", gpt2, false, false},
    {"mpt", gpt2, false, false},
    {"olmo", gpt2, false, false},
    {"phi-2", gpt2, false, false},
    {"pixtral", llama3, true, true},
    {"poro-chat", separated, false, false},
    {"qwen2", qwen2, false, false},
    {"qwen35", qwen35, false, false},
    {"refact", starcoder, false, false},
    {"seed-coder", seed_coder, false, false},
    {"smaug-bpe", llama3, false, false},
    {"smollm", starcoder, false, false},
    {"smollm3", llama3, true, false},
    {"solar-open", qwen2, false, false},
    {"stablelm2", qwen2, false, false},
    {"starcoder", starcoder, false, false},
    {"talkie", gpt4o, false, false},
    {"tekken", tekken, true, true},
    {"trillion", gpt2, false, false},
    {"viking", viking, false, false},
};

const ofr_pre_rule *ofr_pre_rule_all(size_t *ret_count)
{
    *ret_count = sizeof rules / sizeof rules[0];
    return rules;
}

const ofr_pre_rule *ofr_pre_rule_find(const char *name)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (!strcmp(rules[i].name, name))
            return &rules[i];
    return NULL;
}
