/* Attention of segments of several tokens: tasks are blocks of queries of one group of heads. */
#include <math.h>
#include <string.h>

#include "backend/cpu/attention.h"

enum {
    ROWS_MAX = OFR_CPU_BLOCK_PARTS * OFR_CPU_QUERY_ROWS,
    TASKS_WANTED = 4, /* for each thread, before blocks become larger than QUERY_ROWS */
};

/* The rows of a block of queries: their scales as words, and the online softmax. */
typedef struct row_state {
    float query_scales[ROWS_MAX], maximum[ROWS_MAX], sum[ROWS_MAX];
    /* What a block of keys changes in the results: old ones times, new ones times. */
    float corrections[ROWS_MAX], factors[ROWS_MAX];
} row_state;

/* A block of keys [key, key + n) as one group of heads reads it. */
typedef struct key_block {
    uint32_t key, n;
    float key_scales[OFR_CPU_KEY_BLOCK], value_scales[OFR_CPU_KEY_BLOCK];
    /* The scale of weights of a row whose last key it is: values' largest scale up to there, over
     * the largest word; NaN from the first NaN on. */
    float weight_scales[OFR_CPU_KEY_BLOCK];
} key_block;

/* Weights of row r of a block, from the scores there, of a row that sees the keys [begin, end) of
 * the block of keys, both counted from its first. */
static void weigh_row(ofr_backend_session *session, float *scores, int16_t *weights,
                      const key_block *block, uint32_t r, uint32_t begin, uint32_t end,
                      row_state *state)
{
    const ofr_cpu_kernels *kernels = session->kernels;
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

/* Rows [row, row + n) of a block whose first query is at position `first`, against a block of keys
 * that is in the scratch. */
static void attend_rows(ofr_backend_session *session, cpu_scratch *scratch, uint32_t layer,
                        const key_block *block, uint32_t first, uint32_t row, uint32_t n,
                        row_state *state)
{
    const ofr_cpu_kernels *kernels = session->kernels;
    uint32_t heads = session->heads_per_group, d = session->params->head_dim;
    uint32_t last = first + (row + n - 1) / heads; /* the last query's position */
    uint32_t hidden = ofr_cpu_first_key(session, layer, first + row / heads);
    if (last < block->key || hidden >= block->key + block->n) {
        return;
    }
    uint32_t n_keys = cpu_min(block->n, last + 1 - block->key);
    kernels->block_scores(scratch->query_words + row * ofr_cpu_query_stride(d),
                          state->query_scales + row, n, scratch->keys, block->key_scales, n_keys, d,
                          scratch->scores);
    for (uint32_t r = row; r < row + n; r++) {
        size_t at = (size_t)(r - row) * OFR_CPU_KEY_BLOCK;
        uint32_t keys = first + r / heads + 1; /* that this row may see */
        uint32_t end = keys > block->key ? cpu_min(keys - block->key, block->n) : 0;
        uint32_t visible = ofr_cpu_first_key(session, layer, keys - 1);
        uint32_t begin = visible > block->key ? cpu_min(visible - block->key, end) : 0;
        if (end > begin) {
            weigh_row(session, scratch->scores + at, scratch->weights + at, block, r, begin, end,
                      state);
        } else {
            memset(scratch->weights + at, 0, OFR_CPU_KEY_BLOCK * sizeof *scratch->weights);
            state->corrections[r] = 1;
            state->factors[r] = 0;
        }
    }
    kernels->block_values(scratch->weights, state->corrections + row, state->factors + row, n,
                          scratch->values, n_keys, d, scratch->out + row * ofr_cpu_value_stride(d));
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

/* The block's queries as words into the scratch. */
static void load_queries(const ofr_backend_session *session, cpu_scratch *scratch, uint32_t layer,
                         uint32_t token, uint32_t n, uint32_t group, row_state *state)
{
    uint32_t heads = session->heads_per_group, d = session->params->head_dim;
    size_t stride = ofr_cpu_query_stride(d);
    for (uint32_t t = 0; t < n; t++) {
        ofr_cpu_load_query(session, layer, token + t, group, scratch->query);
        for (uint32_t h = 0; h < heads; h++) {
            uint32_t r = t * heads + h;
            state->query_scales[r] = session->kernels->quantize_query(
                scratch->query + (size_t)h * d, d, scratch->query_words + r * stride);
            state->maximum[r] = -INFINITY;
            state->sum[r] = 0;
        }
    }
}

/* Tokens [token, token + n) of one segment, one group of heads. Keys and values become words once
 * for all of them; scores and weights are those of QUERY_ROWS at a time, which stay in the
 * first-level cache. */
static void attend_block(ofr_backend_session *session, uint32_t thread, uint32_t layer,
                         uint32_t token, uint32_t n, uint32_t group)
{
    const ofr_model_params *params = session->params;
    const ofr_kv_layout *layout = &session->options.kv_layout;
    cpu_scratch *scratch = &session->scratch[thread];
    uint32_t heads = session->heads_per_group, d = params->head_dim, rows = n * heads;
    uint32_t slot = session->tokens[token].slot;
    uint32_t first = session->tokens[token].position, n_keys = first + n;
    size_t head = (size_t)group * d, stride = ofr_cpu_value_stride(d);
    const uint16_t *k = cpu_kv_strip(session, ofr_kv_strip_k(layout, slot, layer)) + head;
    const uint16_t *v = cpu_kv_strip(session, ofr_kv_strip_v(layout, slot, layer)) + head;
    row_state state;
    load_queries(session, scratch, layer, token, n, group, &state);
    memset(scratch->out, 0, rows * stride * sizeof(float));
    uint32_t begin = ofr_cpu_first_key(session, layer, first) / OFR_CPU_KEY_BLOCK;
    for (uint32_t key = begin * OFR_CPU_KEY_BLOCK; key < n_keys; key += OFR_CPU_KEY_BLOCK) {
        key_block block = {.key = key, .n = cpu_min(OFR_CPU_KEY_BLOCK, n_keys - key)};
        load_block(session, scratch, k, v, &block);
        for (uint32_t row = 0; row < rows; row += session->query_rows) {
            attend_rows(session, scratch, layer, &block, first, row,
                        cpu_min(session->query_rows, rows - row), &state);
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        float *out = cpu_attention_row(session, token + r / heads, group * heads + r % heads);
        session->kernels->scale(scratch->out + r * stride, d, 1 / state.sum[r]);
        memcpy(out, scratch->out + r * stride, d * sizeof *out);
    }
}

/* Tokens of a block: as many as leave each thread some tasks. */
static uint32_t block_tokens(const ofr_backend_session *session)
{
    uint32_t least = session->query_rows / session->heads_per_group, parts = OFR_CPU_BLOCK_PARTS;
    for (; parts > 1; parts--) {
        uint64_t tasks = 0;
        for (uint32_t s = 0; s < session->pass->n_segments; s++) {
            tasks += cpu_divide_up(session->pass->segments[s].n_tokens, parts * least);
        }
        if (tasks * session->params->n_kv_heads >= (uint64_t)TASKS_WANTED * session->n_threads) {
            break;
        }
    }
    return parts * least;
}

void ofr_cpu_attention_blocks(ofr_backend_session *session, uint32_t thread, uint32_t layer)
{
    uint32_t groups = session->params->n_kv_heads;
    uint32_t block = block_tokens(session);
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
        uint32_t blocks = cpu_divide_up(n, block);
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
