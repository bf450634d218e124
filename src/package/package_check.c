/* The rules of the format that hold for a writer and for a reader: hyper-parameters, tensor sizes,
 * alignment, overlaps. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "package/package_json.h"

const char *ofr_dtype_name(enum ofr_dtype dtype)
{
    switch (dtype) {
#define DTYPE_NAME(symbol, name, bits)                                                             \
    case symbol:                                                                                   \
        return name;
        OFR_DTYPE_TABLE(DTYPE_NAME)
#undef DTYPE_NAME
    }
    return "unknown";
}

unsigned ofr_dtype_bits(enum ofr_dtype dtype)
{
    switch (dtype) {
#define DTYPE_BITS(symbol, name, bits)                                                             \
    case symbol:                                                                                   \
        return bits;
        OFR_DTYPE_TABLE(DTYPE_BITS)
#undef DTYPE_BITS
    }
    return 0;
}

bool ofr_dtype_is_grouped(enum ofr_dtype dtype)
{
    return ofr_dtype_group_numbers(dtype) > 0;
}

unsigned ofr_dtype_group_numbers(enum ofr_dtype dtype)
{
    if (dtype == OFR_DTYPE_I4M)
        return 2;
    return dtype == OFR_DTYPE_I4 || dtype == OFR_DTYPE_I8 ? 1 : 0;
}

static int check_range(const char *path, const char *name, uint64_t value, uint64_t minimum,
                       uint64_t maximum, ofr_error *err)
{
    if (value < minimum || value > maximum)
        return ofr_fail(err, OFR_EFORMAT, "%s: %s is %llu, which is not within %llu and %llu", path,
                        name, (unsigned long long)value, (unsigned long long)minimum,
                        (unsigned long long)maximum);
    return 0;
}

static int check_positive(const char *path, const char *name, float value, ofr_error *err)
{
    if (!isfinite(value) || value <= 0)
        return ofr_fail(err, OFR_EFORMAT, "%s: %s is %g, which is not a positive number", path,
                        name, (double)value);
    return 0;
}

/* `what` is "rope" or "rope_local". */
static int check_rope(const char *path, const char *what, const ofr_rope_params *rope,
                      uint32_t head_dim, ofr_error *err)
{
    const struct {
        const char *name;
        float value;
        bool checked;
    } reals[] = {
        {"base", rope->base, true},
        {"factor", rope->factor,
         rope->scaling != OFR_ROPE_SCALING_NONE && rope->scaling != OFR_ROPE_SCALING_LONGROPE},
        {"low_freq_factor", rope->low_freq_factor, rope->scaling == OFR_ROPE_SCALING_LLAMA3},
        {"high_freq_factor", rope->high_freq_factor, rope->scaling == OFR_ROPE_SCALING_LLAMA3},
        {"beta_fast", rope->beta_fast, rope->scaling == OFR_ROPE_SCALING_YARN},
        {"beta_slow", rope->beta_slow, rope->scaling == OFR_ROPE_SCALING_YARN},
    };
    char name[64];
    snprintf(name, sizeof name, "%s.dims", what);
    int r = check_range(path, name, rope->dims, 2, head_dim, err);
    if (r == 0 && rope->dims % 2 != 0)
        r = ofr_fail(err, OFR_EFORMAT, "%s: %s.dims is %u, which is odd", path, what, rope->dims);
    for (size_t i = 0; i < sizeof reals / sizeof reals[0] && r == 0; i++) {
        snprintf(name, sizeof name, "%s.%s", what, reals[i].name);
        if (reals[i].checked)
            r = check_positive(path, name, reals[i].value, err);
    }
    if (r < 0 || rope->scaling == OFR_ROPE_SCALING_NONE || rope->scaling == OFR_ROPE_SCALING_LINEAR)
        return r;
    snprintf(name, sizeof name, "%s.original_context", what);
    r = check_range(path, name, rope->original_context, 1, 1u << 30, err);
    if (r == 0 && rope->scaling == OFR_ROPE_SCALING_LLAMA3 &&
        rope->high_freq_factor <= rope->low_freq_factor)
        r = ofr_fail(err, OFR_EFORMAT, "%s: %s.high_freq_factor is not above %s.low_freq_factor",
                     path, what, what);
    if (r == 0 && rope->scaling != OFR_ROPE_SCALING_LLAMA3 &&
        (!isfinite(rope->attention_factor) || rope->attention_factor < 0))
        r = ofr_fail(err, OFR_EFORMAT, "%s: %s.attention_factor is %g", path, what,
                     (double)rope->attention_factor);
    return r;
}

static int check_optional(const char *path, const ofr_model_params *params, ofr_error *err)
{
    const struct {
        const char *name;
        float value;
    } reals[] = {
        {"embedding_scale", params->embedding_scale},
        {"residual_scale", params->residual_scale},
        {"attention_scale", params->attention_scale},
        {"logit_scale", params->logit_scale},
        {"attention_softcap", params->attention_softcap},
        {"logit_softcap", params->logit_softcap},
    };
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        if (reals[i].value != 0) {
            int r = check_positive(path, reals[i].name, reals[i].value, err);
            if (r < 0)
                return r;
        }
    bool windowed = false;
    for (uint32_t i = 0; i < params->n_layers; i++)
        windowed |= (params->layer_flags[i] & OFR_LAYER_WINDOWED) != 0;
    if (windowed != (params->sliding_window > 0))
        return ofr_fail(err, OFR_EFORMAT,
                        "%s: a sliding window of %u tokens, and %s layers that have one", path,
                        params->sliding_window, windowed ? "there are" : "no");
    if (params->rope_local.dims == 0)
        return 0;
    return check_rope(path, "rope_local", &params->rope_local, params->head_dim, err);
}

float ofr_model_params_attention_scale(const ofr_model_params *params)
{
    return params->attention_scale != 0 ? params->attention_scale
                                        : 1 / sqrtf((float)params->head_dim);
}

int ofr_package_check_params(const char *path, const ofr_model_params *params, ofr_error *err)
{
    const struct {
        const char *name;
        uint64_t value, minimum, maximum;
    } ranges[] = {
        {"n_layers", params->n_layers, 1, OFR_PACKAGE_MAX_LAYERS},
        {"d_model", params->d_model, 1, 1u << 20},
        {"n_heads", params->n_heads, 1, 1u << 14},
        {"n_kv_heads", params->n_kv_heads, 1, params->n_heads},
        {"head_dim", params->head_dim, 2, 1u << 12},
        {"d_ff", params->d_ff, 1, 1u << 22},
        {"vocab_size", params->vocab_size, 1, 1u << 24},
        {"context_length", params->context_length, 1, 1u << 30},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        int r = check_range(path, ranges[i].name, ranges[i].value, ranges[i].minimum,
                            ranges[i].maximum, err);
        if (r < 0)
            return r;
    }
    if (params->n_heads % params->n_kv_heads != 0)
        return ofr_fail(err, OFR_EFORMAT, "%s: n_heads %u is not a multiple of n_kv_heads %u", path,
                        params->n_heads, params->n_kv_heads);
    if (params->head_dim % 2 != 0)
        return ofr_fail(err, OFR_EFORMAT, "%s: head_dim %u is odd", path, params->head_dim);
    int r = check_positive(path, "rms_epsilon", params->rms_epsilon, err);
    if (r == 0)
        r = check_rope(path, "rope", &params->rope, params->head_dim, err);
    return r < 0 ? r : check_optional(path, params, err);
}

int ofr_package_size_tensor(const char *path, ofr_tensor *tensor, ofr_error *err)
{
    size_t name_size = strlen(tensor->name);
    if (name_size == 0 || name_size >= OFR_PACKAGE_NAME_MAX)
        return ofr_fail(err, OFR_EFORMAT, "%s: a tensor's name has %zu bytes", path, name_size);
    const char *name = tensor->name;
    unsigned bits = ofr_dtype_bits(tensor->dtype);
    if (bits == 0)
        return ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' has an unknown dtype", path, name);
    if (tensor->n_dims < 1 || tensor->n_dims > OFR_PACKAGE_MAX_DIMENSIONS)
        return ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' has %u dimensions", path, name,
                        tensor->n_dims);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        if (tensor->shape[i] == 0 || __builtin_mul_overflow(elements, tensor->shape[i], &elements))
            return ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' has an absurd shape", path, name);
    if (elements > (uint64_t)INT64_MAX / 32)
        return ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' has an absurd shape", path, name);

    if (!ofr_dtype_is_grouped(tensor->dtype)) {
        if (tensor->group_size != 0)
            return ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' has a group size but is %s", path,
                            name, ofr_dtype_name(tensor->dtype));
        tensor->scale_bytes = 0;
    } else {
        if (tensor->n_dims != 2)
            return ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' is %s but no matrix", path, name,
                            ofr_dtype_name(tensor->dtype));
        uint64_t group = tensor->group_size;
        if (group == 0 || group % 32 != 0 || tensor->shape[1] % group != 0)
            return ofr_fail(err, OFR_EFORMAT,
                            "%s: tensor '%s' has rows of %llu elements, which groups of %llu do "
                            "not divide",
                            path, name, (unsigned long long)tensor->shape[1],
                            (unsigned long long)group);
        if (tensor->dtype == OFR_DTYPE_I4M && group != 32)
            return ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' is i4m in groups of %llu, not of 32",
                            path, name, (unsigned long long)group);
        tensor->scale_bytes = elements / group * 2 * ofr_dtype_group_numbers(tensor->dtype);
    }
    tensor->bytes = elements * bits / 8;
    return 0;
}

uint64_t ofr_package_align(uint64_t offset, uint64_t bytes)
{
    uint64_t align =
        bytes >= OFR_PACKAGE_PAGE_ALIGN ? OFR_PACKAGE_PAGE_ALIGN : OFR_PACKAGE_TENSOR_ALIGN;
    return (offset + align - 1) / align * align;
}

typedef struct byte_range {
    uint64_t begin, end;
    const char *name;
} byte_range;

static int compare_ranges(const void *a, const void *b)
{
    const byte_range *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static int compare_names(const void *a, const void *b)
{
    const byte_range *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int check_range_in_file(const char *path, const char *name, uint64_t offset, uint64_t bytes,
                               uint64_t weights_size, ofr_error *err)
{
    if (offset > weights_size || bytes > weights_size - offset)
        return ofr_fail(err, OFR_EFORMAT,
                        "%s: tensor '%s' lies at byte %llu + %llu, outside weights.bin of %llu "
                        "bytes",
                        path, name, (unsigned long long)offset, (unsigned long long)bytes,
                        (unsigned long long)weights_size);
    if (offset != ofr_package_align(offset, bytes))
        return ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' lies at byte %llu, which is not aligned",
                        path, name, (unsigned long long)offset);
    return 0;
}

int ofr_package_check_tensors(const char *path, const ofr_tensor *tensors, size_t n_tensors,
                              uint64_t weights_size, ofr_error *err)
{
    if (n_tensors == 0)
        return 0;
    byte_range *ranges = calloc(n_tensors * 2, sizeof *ranges);
    if (!ranges)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    int r = 0;
    size_t n = 0;
    for (size_t i = 0; i < n_tensors && r == 0; i++) {
        const ofr_tensor *t = &tensors[i];
        r = check_range_in_file(path, t->name, t->offset, t->bytes, weights_size, err);
        if (r == 0 && t->scale_bytes > 0)
            r = check_range_in_file(path, t->name, t->scale_offset, t->scale_bytes, weights_size,
                                    err);
        ranges[n++] = (byte_range){t->offset, t->offset + t->bytes, t->name};
        if (t->scale_bytes > 0)
            ranges[n++] = (byte_range){t->scale_offset, t->scale_offset + t->scale_bytes, t->name};
    }
    if (r == 0)
        qsort(ranges, n, sizeof *ranges, compare_ranges);
    for (size_t i = 1; i < n && r == 0; i++)
        if (ranges[i].begin < ranges[i - 1].end)
            r = ofr_fail(err, OFR_EFORMAT, "%s: tensors '%s' and '%s' overlap in weights.bin", path,
                         ranges[i - 1].name, ranges[i].name);
    if (r == 0) {
        for (size_t i = 0; i < n_tensors; i++)
            ranges[i].name = tensors[i].name;
        qsort(ranges, n_tensors, sizeof *ranges, compare_names);
        for (size_t i = 1; i < n_tensors && r == 0; i++)
            if (strcmp(ranges[i - 1].name, ranges[i].name) == 0)
                r = ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' appears twice", path,
                             ranges[i].name);
    }
    free(ranges);
    return r;
}
