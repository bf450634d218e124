/* Attention of segments of several tokens: tasks are blocks of queries of one group of heads. */
#include <math.h>
#include <string.h>

#include "backend/cpu/attention.h"

/* The online softmax of a block's rows. */
typedef struct row_state {
    float maximum[OFR_CPU_QUERY_ROWS], sum[OFR_CPU_QUERY_ROWS];
    /* What a block of keys changes in the results: old ones times, new ones times. */
    float corrections[OFR_CPU_QUERY_ROWS], factors[OFR_CPU_QUERY_ROWS];
} row_state;

/* A block of keys [key, key + n) as one group of heads reads it. */
typedef struct key_block {
    uint32_t key, n;
    float key_scales[OFR_CPU_KEY_BLOCK], value_scales[OFR_CPU_KEY_BLOCK];
    /* The scale of weights of a row whose last key it is: values' largest scale up to there, over
     * the largest word; NaN from the first NaN on. */
    float weight_scales[OFR_CPU_KEY_BLOCK];
} key_block;

/* Weights of a row that sees the keys [begin, end) of the block, both counted from its first. */
static void weigh_row(ofr_backend_session *session, cpu_scratch *scratch, const key_block *block,
                      uint32_t r, uint32_t begin, uint32_t end, row_state *state)
{
    const ofr_cpu_kernels *kernels = session->kernels;
    float *scores = scratch->scores + (size_t)r * OFR_CPU_KEY_BLOCK;
    int16_t *weights = scratch->weights + (size_t)r * OFR_CPU_KEY_BLOCK;
    memset(weights, 0, begin * sizeof *weights);
    memset(weights + end, 0, (OFR_CPU_KEY_BLOCK - end) * sizeof *weights);
    ofr_cpu_cap_scores(session, scores + begin, end - begin);
    float own = kernels->maximum(scores + begin, end - begin);
    float scale = block->weight_scales[end - 1];
    float sum = kernels->block_weights(scores + begin, block->value_scales + begin, end - begin,
                                       own, ofr_cpu_word_factor(scale), weights + begin);
    float largest = fmaxf(state->maximum[r], own);
    float correction = state->maximum[r] == largest ? 1 : expf(state->maximum[r] - largest);
    float factor = own == largest ? 1 : expf(own - largest);
    state->maximum[r] = largest;
    state->sum[r] = state->sum[r] * correction + sum * factor;
    state->corrections[r] = correction;
    state->factors[r] = factor * scale;
}

/* Weights of all rows; `first` is the position of the first query. */
static void weigh_rows(ofr_backend_session *session, cpu_scratch *scratch, uint32_t layer,
                       const key_block *block, uint32_t rows, uint32_t first, row_state *state)
{
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t keys = first + r / session->heads_per_group + 1; /* that this row may see */
        uint32_t end = keys > block->key ? cpu_min(keys - block->key, block->n) : 0;
        uint32_t visible = ofr_cpu_first_key(session, layer, keys - 1);
        uint32_t begin = visible > block->key ? cpu_min(visible - block->key, end) : 0;
        if (end > begin) {
            weigh_row(session, scratch, block, r, begin, end, state);
        } else {
            memset(scratch->weights + (size_t)r * OFR_CPU_KEY_BLOCK, 0,
                   OFR_CPU_KEY_BLOCK * sizeof *scratch->weights);
            state->corrections[r] = 1;
            state->factors[r] = 0;
        }
    }
}

/* Keys and values of the block as words into the scratch. */
static void load_block(const ofr_backend_session *session, cpu_scratch *scratch, const uint16_t *k,
                       const uint16_t *v, key_block *block)
{
    const ofr_cpu_kernels *kernels = session->kernels;
    uint32_t d = session->params->head_dim;
    size_t row = (size_t)session->params->n_kv_heads * d, at = block->key * row;
    kernels->quantize_keys(k + at, row, block->n, d, scratch->keys, block->key_scales);
    kernels->quantize_values(v + at, row, block->n, d, scratch->values, block->value_scales);
    float largest = 0, limit = (float)ofr_cpu_word_limit(OFR_CPU_KEY_BLOCK);
    for (uint32_t j = 0; j < block->n; j++) {
        if (!isnan(largest)) {
            largest = block->value_scales[j] <= largest ? largest : block->value_scales[j];
        }
        block->weight_scales[j] = largest / limit;
    }
}

/* Tokens [token, token + n) of one segment, one group of heads. */
static void attend_block(ofr_backend_session *session, uint32_t thread, uint32_t layer,
                         uint32_t token, uint32_t n, uint32_t group)
{
    const ofr_model_params *params = session->params;
    const ofr_cpu_kernels *kernels = session->kernels;
    const ofr_kv_layout *layout = &session->options.kv_layout;
    cpu_scratch *scratch = &session->scratch[thread];
    uint32_t heads = session->heads_per_group, d = params->head_dim, rows = n * heads;
    uint32_t padded = session->head_dim_padded, slot = session->tokens[token].slot;
    uint32_t first = session->tokens[token].position, n_keys = first + n;
    size_t words = ofr_cpu_query_stride(d), head = (size_t)group * d;
    const uint16_t *k = cpu_kv_strip(session, ofr_kv_strip_k(layout, slot, layer)) + head;
    const uint16_t *v = cpu_kv_strip(session, ofr_kv_strip_v(layout, slot, layer)) + head;
    float query_scales[OFR_CPU_QUERY_ROWS];
    row_state state;
    for (uint32_t t = 0; t < n; t++) {
        ofr_cpu_load_query(session, layer, token + t, group,
                           scratch->query + (size_t)t * heads * d);
    }
    for (uint32_t r = 0; r < rows; r++) {
        state.maximum[r] = -INFINITY;
        state.sum[r] = 0;
        query_scales[r] = kernels->quantize_query(scratch->query + (size_t)r * d, d,
                                                  scratch->query_words + r * words);
    }
    memset(scratch->out, 0, (size_t)rows * padded * sizeof(float));
    uint32_t begin = ofr_cpu_first_key(session, layer, first) / OFR_CPU_KEY_BLOCK;
    for (uint32_t key = begin * OFR_CPU_KEY_BLOCK; key < n_keys; key += OFR_CPU_KEY_BLOCK) {
        key_block block = {.key = key, .n = cpu_min(OFR_CPU_KEY_BLOCK, n_keys - key)};
        load_block(session, scratch, k, v, &block);
        kernels->block_scores(scratch->query_words, query_scales, rows, scratch->keys,
                              block.key_scales, block.n, d, scratch->scores);
        weigh_rows(session, scratch, layer, &block, rows, first, &state);
        kernels->block_values(scratch->weights, state.corrections, state.factors, rows,
                              scratch->values, block.n, d, scratch->out);
    }
    for (uint32_t r = 0; r < rows; r++) {
        float *out = cpu_attention_row(session, token + r / heads, group * heads + r % heads);
        kernels->scale(scratch->out + (size_t)r * padded, d, 1 / state.sum[r]);
        memcpy(out, scratch->out + (size_t)r * padded, d * sizeof *out);
    }
}

void ofr_cpu_attention_blocks(ofr_backend_session *session, uint32_t thread, uint32_t layer)
{
    uint32_t groups = session->params->n_kv_heads;
    uint32_t block = session->query_rows / session->heads_per_group;
    for (;;) {
        uint32_t token = ofr_thread_pool_next(session->pool);
        if (token >= session->n_tokens) {
            break;
        }
        for (uint32_t group = 0; group < groups; group++) {
            ofr_cpu_store_kv(session, layer, token, group);
        }
    }
    ofr_thread_pool_barrier(session->pool);
    uint32_t task = ofr_thread_pool_next(session->pool), passed = 0, token = 0;
    for (uint32_t s = 0; s < session->pass->n_segments; s++) {
        uint32_t n = session->pass->segments[s].n_tokens;
        uint32_t blocks = (n - 1) / block + 1;
        while (task - passed < blocks * groups) {
            /* The last blocks see most keys: they come first, so that threads end together. */
            uint32_t index = blocks - 1 - (task - passed) / groups;
            uint32_t begin = index * block;
            attend_block(session, thread, layer, token + begin, cpu_min(block, n - begin),
                         (task - passed) % groups);
            task = ofr_thread_pool_next(session->pool);
        }
        passed += blocks * groups;
        token += n;
    }
    ofr_thread_pool_barrier(session->pool);
}
