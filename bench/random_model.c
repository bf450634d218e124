/* Random weights: every byte of a tensor is drawn, scales are those of a layer's usual spread. */
#include "bench/random_model.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 2 << 20 };

typedef struct shape {
    const char *name;
    uint32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ff, vocab_size;
    bool tied;
} shape;

static const shape shapes[] = {
    {"mistral-7b", 32, 4096, 32, 8, 128, 14336, 32000, false},
    {"smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, true},
};

/* Huge pages as far as there are any, like the page cache's large folios. */
static void *memory(size_t bytes)
{
    bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    void *p = aligned_alloc(PAGE, bytes);
    if (p != NULL) {
        madvise(p, bytes, MADV_HUGEPAGE);
    }
    return p;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static const ofr_tensor *add_matrix(random_model *m, enum ofr_dtype dtype, uint32_t rows,
                                    uint32_t columns, uint32_t group, uint64_t *state)
{
    ofr_tensor *t = &m->tensors[m->n_tensors];
    size_t bytes = (size_t)rows * columns / (dtype == OFR_DTYPE_I4 ? 2 : 1);
    size_t n_scales = (size_t)rows * (columns / group);
    uint64_t *data = memory(bytes);
    uint16_t *scales = memory(n_scales * sizeof *scales);
    *t = (ofr_tensor){.name = "random", .dtype = dtype, .n_dims = 2, .group_size = group};
    t->shape[0] = rows;
    t->shape[1] = columns;
    t->bytes = bytes;
    t->scale_bytes = n_scales * sizeof *scales;
    t->data = data;
    t->scales = scales;
    m->n_tensors++;
    if (data == NULL || scales == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < bytes / sizeof *data; i++) {
        data[i] = next_random(state);
    }
    for (size_t i = 0; i < n_scales; i++) {
        scales[i] = (uint16_t)(0x1400 + next_random(state) % 0x800); /* fp16, 1e-3 to 4e-3 */
    }
    return t;
}

static const float *add_ones(random_model *m, uint32_t n)
{
    ofr_tensor *t = &m->tensors[m->n_tensors];
    float *data = memory(n * sizeof *data);
    *t = (ofr_tensor){.name = "random", .dtype = OFR_DTYPE_F32, .n_dims = 1, .data = data};
    t->shape[0] = n;
    t->bytes = n * sizeof *data;
    m->n_tensors++;
    for (uint32_t i = 0; data != NULL && i < n; i++) {
        data[i] = 1;
    }
    return data;
}

static bool fill_layer(random_model *m, ofr_layer *layer, uint32_t group, uint64_t *state)
{
    const ofr_model_params *p = &m->params;
    uint32_t q = p->n_heads * p->head_dim, kv = p->n_kv_heads * p->head_dim;
    uint32_t own = p->d_model % group == 0 ? group : 64;
    layer->attention_norm = add_ones(m, p->d_model);
    layer->mlp_norm = add_ones(m, p->d_model);
    layer->q.weight = add_matrix(m, OFR_DTYPE_I4, q, p->d_model, own, state);
    layer->k.weight = add_matrix(m, OFR_DTYPE_I4, kv, p->d_model, own, state);
    layer->v.weight = add_matrix(m, OFR_DTYPE_I4, kv, p->d_model, own, state);
    layer->o.weight = add_matrix(m, OFR_DTYPE_I4, p->d_model, q, own, state);
    layer->gate.weight = add_matrix(m, OFR_DTYPE_I4, p->d_ff, p->d_model, own, state);
    layer->up.weight = add_matrix(m, OFR_DTYPE_I4, p->d_ff, p->d_model, own, state);
    layer->down.weight = add_matrix(m, OFR_DTYPE_I4, p->d_model, p->d_ff, group, state);
    return layer->attention_norm != NULL && layer->mlp_norm != NULL && layer->q.weight != NULL &&
           layer->k.weight != NULL && layer->v.weight != NULL && layer->o.weight != NULL &&
           layer->gate.weight != NULL && layer->up.weight != NULL && layer->down.weight != NULL;
}

static void set_params(ofr_model_params *p, const shape *s)
{
    strcpy(p->architecture, "llama");
    p->n_layers = s->n_layers;
    p->d_model = s->d_model;
    p->n_heads = s->n_heads;
    p->n_kv_heads = s->n_kv_heads;
    p->head_dim = s->head_dim;
    p->d_ff = s->d_ff;
    p->vocab_size = s->vocab_size;
    p->context_length = 32768;
    p->rms_epsilon = 1e-5f;
    p->tied_embedding = s->tied;
    p->rope = (ofr_rope_params){.dims = s->head_dim, .base = 10000};
}

random_model *random_model_new(const char *name, uint32_t group)
{
    const shape *s = NULL;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        s = strcmp(shapes[i].name, name) == 0 ? &shapes[i] : s;
    }
    random_model *m = s != NULL ? calloc(1, sizeof *m) : NULL;
    if (m == NULL) {
        return NULL;
    }
    uint64_t state = 88172645463325252U;
    set_params(&m->params, s);
    m->model.params = &m->params;
    m->tensors = calloc((size_t)s->n_layers * 9 + 3, sizeof *m->tensors);
    m->model.layers = calloc(s->n_layers, sizeof *m->model.layers);
    bool made = m->tensors != NULL && m->model.layers != NULL;
    for (uint32_t i = 0; made && i < s->n_layers; i++) {
        made = fill_layer(m, &m->model.layers[i], group, &state);
    }
    if (made) {
        uint32_t own = s->d_model % group == 0 ? group : 64;
        m->model.final_norm = add_ones(m, s->d_model);
        m->model.embedding = add_matrix(m, OFR_DTYPE_I8, s->vocab_size, s->d_model, own, &state);
        m->model.head.weight =
            s->tied ? m->model.embedding
                    : add_matrix(m, OFR_DTYPE_I8, s->vocab_size, s->d_model, own, &state);
        made = m->model.final_norm != NULL && m->model.embedding != NULL &&
               m->model.head.weight != NULL;
    }
    return made ? m : random_model_free(m);
}

random_model *random_model_free(random_model *m)
{
    if (m == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < m->n_tensors; i++) {
        free((void *)(uintptr_t)m->tensors[i].data);
        free((void *)(uintptr_t)m->tensors[i].scales);
    }
    free(m->tensors);
    free(m->model.layers);
    free(m);
    return NULL;
}
