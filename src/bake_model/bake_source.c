/* The tensor list of a bake, shared by all kinds of sources. */
#include "bake_model/bake_source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t group_for(int group_size, uint64_t k)
{
    if (group_size < 0)
        return k % 32 == 0 && k <= UINT32_MAX ? (uint32_t)k : 0;
    for (uint32_t group = (uint32_t)group_size; group >= 32; group /= 2)
        if (k % group == 0)
            return group;
    return 0;
}

int ofr_bake_model_add(ofr_bake_model *model, const char *path, const char *name, uint64_t rows,
                       uint64_t k, enum ofr_tensor_class tensor_class, ofr_bake_tensor **ret_tensor,
                       ofr_error *err)
{
    if (model->n_tensors == model->capacity) {
        size_t capacity = model->capacity ? model->capacity * 2 : 512;
        ofr_bake_tensor *tensors = realloc(model->tensors, capacity * sizeof *tensors);
        if (!tensors)
            return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
        model->tensors = tensors;
        model->capacity = capacity;
    }
    ofr_bake_tensor *t = &model->tensors[model->n_tensors];
    *t = (ofr_bake_tensor){.class = tensor_class, .dtype = OFR_DTYPE_F32, .n_dims = 1};
    snprintf(t->name, sizeof t->name, "%s", name);
    t->shape[0] = k;
    if (rows > 0) {
        t->dtype = tensor_class == OFR_TENSOR_CLASS_EMBEDDING ? OFR_DTYPE_I8 : OFR_DTYPE_I4;
        t->n_dims = 2;
        t->shape[0] = rows;
        t->shape[1] = k;
        t->group_size = group_for(model->group_size, k);
        if (t->group_size == 0)
            return ofr_fail(err, OFR_EUNSUPPORTED,
                            "%s: tensor '%s' has rows of %llu elements, which 32 does not divide",
                            path, name, (unsigned long long)k);
    }
    model->n_tensors++;
    *ret_tensor = t;
    return 0;
}

void ofr_bake_model_done(ofr_bake_model *model)
{
    for (size_t i = 0; i < model->n_tensors; i++) {
        free(model->tensors[i].values);
        free(model->tensors[i].made);
    }
    free(model->tensors);
    *model = (ofr_bake_model){0};
}

uint64_t ofr_bake_rope_row(uint64_t row, uint32_t head_dim, uint32_t rope_dims)
{
    uint64_t head = row / head_dim, i = row % head_dim;
    if (i >= rope_dims)
        return row;
    uint32_t half = rope_dims / 2;
    return head * head_dim + (i < half ? 2 * i : 2 * (i - half) + 1);
}

void ofr_bake_source_done(ofr_bake_source *source)
{
    ofr_source_done(&source->files);
    ofr_bake_model_done(&source->model);
    free(source->tokenizer);
    free(source->chat_template);
    free(source->name);
    free(source->license);
    free(source->repository);
    free(source->revision);
    free(source->identity);
    *source = (ofr_bake_source){0};
}
