/* Rows of one tensor from the source's type to the package's. */
#include "bake_model/bake_tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static int check_finite(const ofr_bake_block *block, uint64_t row, float *values, size_t n,
                        ofr_error *err)
{
    float sum = 0; /* x * 0 is 0, or NaN for infinity and NaN */
    for (size_t i = 0; i < n; i++)
        sum += values[i] * 0;
    if (sum == 0)
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

static void store_row(ofr_bake_block *block, const float *values, uint64_t row)
{
    const ofr_bake_tensor *t = block->tensor;
    size_t k = (size_t)row_elements(t);
    uint64_t at = row - block->row_begin;
    char *data = block->data + at * ofr_bake_row_data_bytes(t);
    uint16_t *scales = (uint16_t *)(void *)(block->scales + at * ofr_bake_row_scale_bytes(t));
    if (t->dtype == OFR_DTYPE_I4)
        ofr_quantize_i4_row(values, k, t->group_size, (uint8_t *)data, scales, &block->error);
    else if (t->dtype == OFR_DTYPE_I8)
        ofr_quantize_i8_row(values, k, t->group_size, (int8_t *)data, scales, &block->error);
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
            store_row(block, values, row);
    }
    free(values);
    return r;
}
