/* Rows of one tensor from the source's type to the package's. */
#include "bake_model/bake_tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/bake_keep.h"
#include "bake_model/gguf_dequantize.h"

enum { BLOCK_ELEMENTS = 1 << 20 };

static uint64_t row_elements(const ofr_bake_tensor *tensor)
{
    return tensor->n_dims == 2 ? tensor->shape[1] : tensor->shape[0];
}

void ofr_bake_tensor_spec(const ofr_bake_tensor *tensor, ofr_tensor *ret_spec)
{
    *ret_spec = (ofr_tensor){.name = tensor->name,
                             .dtype = tensor->dtype,
                             .n_dims = tensor->n_dims,
                             .shape = {tensor->shape[0], tensor->shape[1]},
                             .group_size = tensor->group_size};
}

uint64_t ofr_bake_block_rows(const ofr_bake_tensor *tensor, const ofr_model_params *params)
{
    uint64_t k = row_elements(tensor), rows = k < BLOCK_ELEMENTS ? BLOCK_ELEMENTS / k : 1;
    uint64_t unit = tensor->n_dims == 2 && tensor->rope_heads > 0 ? params->head_dim : 1;
    return (rows + unit - 1) / unit * unit;
}

size_t ofr_bake_row_data_bytes(const ofr_bake_tensor *tensor)
{
    return (size_t)(row_elements(tensor) * ofr_dtype_bits(tensor->dtype) / 8);
}

size_t ofr_bake_row_scale_bytes(const ofr_bake_tensor *tensor)
{
    return tensor->group_size ? (size_t)(row_elements(tensor) / tensor->group_size * 2) : 0;
}

/* Infinity and NaN have all bits of the exponent set. */
static bool all_finite(const float *values, size_t n)
{
    const uint32_t exponent = 0x7f800000;
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bad |= (bits & exponent) == exponent;
    }
    return bad == 0;
}

static int check_finite(const ofr_bake_block *block, uint64_t row, float *values, size_t n,
                        ofr_error *err)
{
    if (all_finite(values, n))
        return 0;
    for (size_t i = 0; i < n; i++) {
        if (isfinite(values[i]))
            continue;
        if (!block->allow_nan)
            return ofr_fail(err, OFR_EFORMAT,
                            "%s: tensor '%s' holds values that are not finite (%s at row %llu, "
                            "column %zu): the file is corrupt, get it again; --allow_nan bakes it "
                            "all the same",
                            block->path, block->tensor->source.name,
                            isnan(values[i]) ? "NaN" : "infinity", (unsigned long long)row, i);
        values[i] = isnan(values[i]) ? 0 : copysignf(65504, values[i]);
    }
    return 0;
}

/* A row that calibration has quantized already. */
static void store_made(ofr_bake_block *block, const float *values, uint64_t row, uint8_t *data,
                       uint16_t *scales)
{
    const ofr_bake_tensor *t = block->tensor;
    size_t data_bytes = ofr_bake_row_data_bytes(t), scale_bytes = ofr_bake_row_scale_bytes(t);
    memcpy(data, t->made + row * data_bytes, data_bytes);
    memcpy(scales, t->made + t->shape[0] * data_bytes + row * scale_bytes, scale_bytes);
    if (t->dtype == OFR_DTYPE_I8)
        ofr_quantize_i8_error(block->kernel, values, (size_t)row_elements(t), t->group_size,
                              (int8_t *)data, scales, &block->error);
    else
        ofr_quantize_i4_error(block->kernel, values, (size_t)row_elements(t), t->group_size, data,
                              scales, &block->error);
}

static void store_row(ofr_bake_block *block, const float *values, const void *raw, uint64_t row)
{
    const ofr_bake_tensor *t = block->tensor;
    size_t k = (size_t)row_elements(t);
    uint64_t at = row - block->row_begin;
    char *data = block->data + at * ofr_bake_row_data_bytes(t);
    uint16_t *scales = (uint16_t *)(void *)(block->scales + at * ofr_bake_row_scale_bytes(t));
    if (t->keep)
        ofr_bake_keep_row(t->source.type, raw, k, (uint8_t *)data, scales,
                          t->dtype == OFR_DTYPE_I4M ? block->minima + at * (k / t->group_size)
                                                    : NULL);
    else if (t->made)
        store_made(block, values, row, (uint8_t *)data, scales);
    else if (t->dtype == OFR_DTYPE_I4)
        ofr_quantize_i4_row(block->kernel, values, k, t->group_size, (uint8_t *)data, scales,
                            &block->error);
    else if (t->dtype == OFR_DTYPE_I8)
        ofr_quantize_i8_row(block->kernel, values, k, t->group_size, (int8_t *)data, scales,
                            &block->error);
    else
        memcpy(data, values, k * sizeof *values);
}

/* A vector: its elements reordered like the rows of its matrix (the bias of Q or K), or shifted. */
static void store_vector(ofr_bake_block *block, const float *values)
{
    const ofr_bake_tensor *t = block->tensor;
    const ofr_model_params *p = block->params;
    float *to = (float *)(void *)block->data;
    for (uint64_t i = 0; i < t->shape[0]; i++) {
        uint64_t from = t->rope_heads ? ofr_bake_rope_row(i, p->head_dim, p->rope.dims) : i;
        to[i] = values[from] + t->add;
    }
}

int ofr_bake_block_convert(ofr_bake_block *block, ofr_error *err)
{
    const ofr_bake_tensor *t = block->tensor;
    const ofr_model_params *p = block->params;
    size_t k = (size_t)row_elements(t);
    float *values = malloc(k * sizeof *values);
    if (!values)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", t->source.name);
    int r = 0;
    for (uint64_t row = block->row_begin; row < block->row_end && r == 0; row++) {
        uint64_t from = t->n_dims == 2 && t->rope_heads
                            ? ofr_bake_rope_row(row, p->head_dim, p->rope.dims)
                            : row;
        const char *raw = block->raw + (from - block->row_begin) * t->source.row_bytes;
        ofr_gguf_dequantize(t->source.type, raw, k, values);
        r = check_finite(block, from, values, k, err);
        if (r == 0 && t->n_dims == 1)
            store_vector(block, values);
        else if (r == 0)
            store_row(block, values, raw, row);
    }
    free(values);
    return r;
}

/* Calibration runs before the weights are checked row by row: what is not finite stops it. */
static int check_read(const ofr_source *files, const ofr_bake_tensor *t, const float *values,
                      size_t n, ofr_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return ofr_fail(err, OFR_EFORMAT,
                            "%s: tensor '%s' holds values that are not finite: the file is "
                            "corrupt, get it again; --allow_nan --data_free bakes it all the same",
                            files->files[t->source.file].path, t->source.name);
    return 0;
}

static int read_vector(const ofr_source *files, const ofr_model_params *p, const ofr_bake_tensor *t,
                       float *ret_values, ofr_error *err)
{
    size_t n = (size_t)t->shape[0], bytes = (size_t)t->source.row_bytes;
    if (t->values) {
        memcpy(ret_values, t->values, n * sizeof *ret_values);
        return 0;
    }
    char *raw = malloc(bytes);
    float *values = malloc(n * sizeof *values);
    int r = raw && values
                ? ofr_source_read(files, t->source.file, t->source.offset, raw, bytes, err)
                : ofr_fail(err, OFR_ENOMEM, "%s: out of memory", t->source.name);
    if (r == 0) {
        ofr_gguf_dequantize(t->source.type, raw, n, values);
        for (size_t i = 0; i < n; i++)
            ret_values[i] =
                values[t->rope_heads ? ofr_bake_rope_row(i, p->head_dim, p->rope.dims) : i] +
                t->add;
        r = check_read(files, t, ret_values, n, err);
    }
    free(raw);
    free(values);
    return r;
}

int ofr_bake_tensor_read(const ofr_source *files, const ofr_model_params *params,
                         const ofr_bake_tensor *tensor, uint64_t first, uint64_t n,
                         float *ret_values, ofr_error *err)
{
    const ofr_bake_tensor *t = tensor;
    if (t->n_dims == 1)
        return read_vector(files, params, t, ret_values, err);
    /* Whole heads where their rows are reordered; blocks, so that a remote source is asked seldom.
     */
    uint64_t unit = t->rope_heads ? params->head_dim : 1, block = ofr_bake_block_rows(t, params);
    size_t k = (size_t)row_elements(t), row_bytes = (size_t)t->source.row_bytes;
    uint64_t begin = first / unit * unit, end = first + n;
    if (block > t->shape[0])
        block = t->shape[0];
    if (block > (n + unit) / unit * unit)
        block = (n + unit) / unit * unit;
    char *raw = malloc((size_t)block * row_bytes);
    int r = raw ? 0 : ofr_fail(err, OFR_ENOMEM, "%s: out of memory", t->source.name);
    for (; begin < end && r == 0; begin += block) {
        uint64_t rows = t->shape[0] - begin < block ? t->shape[0] - begin : block;
        r = ofr_source_read(files, t->source.file, t->source.offset + begin * row_bytes, raw,
                            (size_t)rows * row_bytes, err);
        for (uint64_t row = begin < first ? first : begin;
             row < begin + rows && row < end && r == 0; row++) {
            uint64_t from =
                t->rope_heads ? ofr_bake_rope_row(row, params->head_dim, params->rope.dims) : row;
            float *to = ret_values + (row - first) * k;
            ofr_gguf_dequantize(t->source.type, raw + (from - begin) * row_bytes, k, to);
            r = check_read(files, t, to, k, err);
        }
    }
    free(raw);
    return r;
}
