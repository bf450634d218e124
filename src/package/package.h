/* The package on disk: a directory with model.json, weights.bin, tokenizer.bin, chat_template.jinja
 * and golden.json (documentation/package_format.md has the whole format).
 *
 * A package is opened read-only: weights.bin and tokenizer.bin are mapped, nothing is copied. All
 * pointers obtained from it stay valid until ofr_package_close. Immutable after opening: any number
 * of threads may read it. */
#ifndef OFR_PACKAGE_PACKAGE_H
#define OFR_PACKAGE_PACKAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    OFR_PACKAGE_FORMAT_VERSION = 1,
    OFR_PACKAGE_TENSOR_ALIGN = 64, /* every tensor */
    OFR_PACKAGE_PAGE_ALIGN = 4096, /* tensors of a page and more */
    OFR_PACKAGE_MAX_LAYERS = 1024,
    OFR_PACKAGE_MAX_DIMENSIONS = 4,
};

/* X(symbol, name in model.json, bits per element) */
#define OFR_DTYPE_TABLE(X)                                                                         \
    X(OFR_DTYPE_F32, "f32", 32)                                                                    \
    X(OFR_DTYPE_F16, "f16", 16)                                                                    \
    X(OFR_DTYPE_I8, "i8", 8)                                                                       \
    X(OFR_DTYPE_I4, "i4", 4)                                                                       \
    X(OFR_DTYPE_I4M, "i4m", 4)
enum ofr_dtype {
#define OFR_DTYPE_ENUM(symbol, name, bits) symbol,
    OFR_DTYPE_TABLE(OFR_DTYPE_ENUM)
#undef OFR_DTYPE_ENUM
};

/* One tensor of weights.bin.
 *
 * f32, f16: `shape` row-major, group_size 0, no scales.
 * i4, i8:   a matrix [N, K] = shape[0], shape[1], stored row-major as [N, K/G, G]; element (n, k)
 * is q * scale[n, k/G]. i4 is two's complement (-8 .. 7), two elements a byte, the one with the
 *           even k in the low nibble; a row is K/2 bytes. Scales are f16 [N, K/G].
 *           G = group_size divides K and is a multiple of 32; one group per row: G = K.
 * i4m:      as i4 with G = 32, and a minimum for each group: element (n, k) is
 *           (q + 8) * scale[n, k/G] + minimum[n, k/G]. The minima, f16 [N, K/G], follow the scales.
 *           Each byte XOR 0x88 is OpenVINO's u4. What GGUF calls Q4_1, bit for bit. */
typedef struct ofr_tensor {
    const char *name;
    enum ofr_dtype dtype;
    uint32_t n_dims;
    uint64_t shape[OFR_PACKAGE_MAX_DIMENSIONS];
    uint32_t group_size;
    uint64_t offset, bytes; /* in weights.bin */
    uint64_t scale_offset, scale_bytes;
    const void *data;   /* mapped */
    const void *scales; /* mapped f16, NULL where group_size is 0; the minima behind them */
} ofr_tensor;

enum ofr_rope_scaling {
    OFR_ROPE_SCALING_NONE,
    OFR_ROPE_SCALING_LINEAR,
    OFR_ROPE_SCALING_LLAMA3,
    OFR_ROPE_SCALING_YARN,
    /* The frequency factors hold everything; the long ones for contexts beyond the original. */
    OFR_ROPE_SCALING_LONGROPE,
};

/* Rotary position embedding. Rotation pairs element i with i + dims/2 ("rotate half", as in the HF
 * models); bake_model permutes the rows of Q and K of sources that pair neighbours (GGUF llama). */
typedef struct ofr_rope_params {
    uint32_t dims; /* rotated elements of a head, even, at most head_dim */
    float base;    /* theta */
    enum ofr_rope_scaling scaling;
    float factor;               /* all scalings */
    uint32_t original_context;  /* llama3, yarn, longrope */
    float low_freq_factor;      /* llama3 */
    float high_freq_factor;     /* llama3 */
    float beta_fast, beta_slow; /* yarn */
    /* Multiplies cos and sin. yarn: 0 means 0.1 ln(factor) + 1; longrope: 0 means 1. */
    float attention_factor;
} ofr_rope_params;

enum ofr_activation {
    OFR_ACTIVATION_SILU,
    OFR_ACTIVATION_GELU_TANH, /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
};

/* What a layer differs in from the others. */
enum ofr_layer_flag {
    OFR_LAYER_WINDOWED =
        1 << 0, /* a token sees the last `sliding_window` tokens, itself included */
    OFR_LAYER_UNROTATED = 1 << 1, /* no RoPE */
};

/* Hyper-parameters of a decoder-only transformer with RMSNorm, GQA, RoPE and a gated MLP. What only
 * some architectures have is 0 in the others. */
typedef struct ofr_model_params {
    char architecture[32]; /* "llama", "qwen2", ... */
    char name[128];
    uint32_t n_layers;
    uint32_t d_model;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t d_ff;
    uint32_t vocab_size;
    uint32_t context_length;
    float rms_epsilon;
    bool tied_embedding; /* the head is model.embed_tokens.weight */
    ofr_rope_params rope;
    enum ofr_activation activation; /* of the MLP's gate */
    float embedding_scale;          /* multiplies the embedding; 0: 1 */
    float residual_scale;           /* multiplies what attention and MLP add; 0: 1 */
    float attention_scale;          /* multiplies q.k; 0: 1 / sqrt(head_dim) */
    float logit_scale;              /* multiplies the logits; 0: 1 */
    float attention_softcap;        /* c: scaled scores become c tanh(score / c); 0: as they are */
    float logit_softcap;            /* the same for scaled logits */
    uint32_t sliding_window;        /* tokens, of layers with OFR_LAYER_WINDOWED; else 0 */
    ofr_rope_params rope_local;     /* of windowed layers; dims 0: `rope` */
    uint8_t layer_flags[OFR_PACKAGE_MAX_LAYERS]; /* [n_layers] enum ofr_layer_flag */
} ofr_model_params;

/* With the defaults that a 0 stands for. */
float ofr_model_params_attention_scale(const ofr_model_params *params);
static inline float ofr_scale_or_one(float scale)
{
    return scale != 0 ? scale : 1;
}

/* Tensor names, in the terms of the HF models:
 *   model.embed_tokens.weight            [vocab, d_model] i8
 *   model.layers.<i>.input_layernorm.weight      [d_model] f32, before attention
 *   model.layers.<i>.post_attention_layernorm.weight   [d_model] f32, before the MLP
 *   model.layers.<i>.{attention,mlp}_output_norm.weight   [d_model] f32, optional: RMSNorm of what
 *       attention and MLP add to the residual (gemma)
 *   model.layers.<i>.self_attn.{q,k}_norm.weight   [head_dim] f32, optional, both or none: RMSNorm
 *       of each head before RoPE (qwen3, gemma3)
 *   model.layers.<i>.self_attn.{q,k,v,o}_proj.weight   i4; optional .bias f32
 *   model.layers.<i>.mlp.{gate,up,down}_proj.weight    i4; optional .bias f32
 *   model.norm.weight                    [d_model] f32
 *   lm_head.weight                       [vocab, d_model] i8, absent where the embedding is tied
 *   rope_freq_factors                    [rope.dims/2] f32, optional: divides each inverse
 *       frequency of `rope`
 *   rope_freq_factors_long               [rope.dims/2] f32, with longrope only: used instead where
 *       the context exceeds rope.original_context
 * Norm weights multiply as they are: what a source stores as w - 1 (gemma), the bake adds up. */

typedef struct ofr_package ofr_package;

enum ofr_package_open_flags {
    /* Compare the sha256 of weights.bin too. Without it, the small files are compared and
     * weights.bin only if it changed (size, mtime, ctime, inode) since it was last found good. */
    OFR_PACKAGE_VERIFY_ALL = 1 << 0,
    /* Only the tokenizer, the template and model.json are needed: weights.bin may be absent. */
    OFR_PACKAGE_TOKENIZER_ONLY = 1 << 1,
};

/* Opens and checks the package in `directory`: format version, structure, bounds, sizes, checksums.
 * Errors name the file and what is wrong with it (OFR_ENOENT, OFR_EFORMAT, OFR_ECORRUPT,
 * OFR_EVERSION). */
int ofr_package_open(const char *directory, unsigned flags, ofr_package **ret_package,
                     ofr_error *err);
ofr_package *ofr_package_close(ofr_package *package);

const char *ofr_package_directory(const ofr_package *package); /* absolute path */
/* sha256 of model.json in hex, which covers the checksums of all files: the package's identity. */
const char *ofr_package_fingerprint(const ofr_package *package);
const ofr_model_params *ofr_package_params(const ofr_package *package);
/* Quantization as written by the bake, for reports: {"weights":"i4","group_size":128,...}; JSON
 * text. */
const char *ofr_package_quantization_json(const ofr_package *package);

size_t ofr_package_tensor_count(const ofr_package *package);
const ofr_tensor *ofr_package_tensor(const ofr_package *package, size_t index);
const ofr_tensor *ofr_package_find(const ofr_package *package, const char *name); /* NULL: absent */

/* The whole mappings. */
const void *ofr_package_weights(const ofr_package *package, size_t *ret_size);
int ofr_package_weights_fd(const ofr_package *package);
const void *ofr_package_tokenizer(const ofr_package *package, size_t *ret_size);
const char *ofr_package_chat_template(const ofr_package *package,
                                      size_t *ret_size); /* NULL: none */

/* A file that the package lists, whole and with a good checksum, for the graphs: *ret_text is
 * malloc'ed, a NUL byte follows it. OFR_ENOENT: the package lists no such file. */
int ofr_package_read_file(const ofr_package *package, const char *name, char **ret_text,
                          size_t *ret_size, ofr_error *err);
/* Does the package list it? */
bool ofr_package_has_file(const ofr_package *package, const char *name);

/* golden.json: what greedy decoding of `prompt_ids` must give. */
typedef struct ofr_golden {
    const int32_t *prompt_ids;
    size_t n_prompt;
    const int32_t *expected_ids;
    size_t n_expected;
} ofr_golden;
/* NULL where the package has none. */
const ofr_golden *ofr_package_golden(const ofr_package *package);

/* i4, i8, i4m: integers with group scales. */
bool ofr_dtype_is_grouped(enum ofr_dtype dtype);
/* f16 numbers for each group: 2 for i4m (scale and minimum), 1 for i4 and i8, else 0. */
unsigned ofr_dtype_group_numbers(enum ofr_dtype dtype);
const char *ofr_dtype_name(enum ofr_dtype dtype);
unsigned ofr_dtype_bits(enum ofr_dtype dtype);

#endif
