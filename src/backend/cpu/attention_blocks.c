/* Attention of segments of several tokens: tasks are blocks of queries of one group of heads. */
#include <math.h>
#include <string.h>

#include "backend/cpu/attention.h"

/* Online softmax of one row against a block: turns scores into weights, updates maximum and sum,
 * and returns what earlier results must be multiplied by. */
static float update_softmax(const ofr_cpu_kernels *kernels, float *scores, uint32_t n,
                            float *maximum, float *sum)
{
    float largest = fmaxf(*maximum, kernels->maximum(scores, n));
    float correction = *maximum == largest ? 1 : expf(*maximum - largest);
    *sum = *sum * correction + kernels->exp_sum(scores, n, largest);
    *maximum = largest;
    return correction;
}

/* Softmax of the rows of a block of queries against keys [key, key + n); `first` is the position of
 * the first query. Weights of masked keys become 0. */
static void mask_and_update(ofr_backend_session *session, cpu_scratch *scratch, uint32_t layer,
                            uint32_t rows, uint32_t first, uint32_t key, uint32_t n, float *maximum,
                            float *sum)
{
    uint32_t padded = session->head_dim_padded;
    for (uint32_t r = 0; r < rows; r++) {
        float *scores = scratch->scores + (size_t)r * OFR_CPU_KEY_BLOCK;
        uint32_t keys = first + r / session->heads_per_group + 1; /* that this row may see */
        uint32_t valid = keys > key ? cpu_min(keys - key, n) : 0;
        uint32_t visible = ofr_cpu_first_key(session, layer, keys - 1);
        uint32_t hidden = visible > key ? cpu_min(visible - key, valid) : 0;
        if (valid > hidden) {
            ofr_cpu_cap_scores(session, scores + hidden, valid - hidden);
            float correction = update_softmax(session->kernels, scores + hidden, valid - hidden,
                                              &maximum[r], &sum[r]);
            if (correction != 1) {
                session->kernels->scale(scratch->out + (size_t)r * padded, padded, correction);
            }
        }
        memset(scores, 0, hidden * sizeof *scores);
        memset(scores + valid, 0, (OFR_CPU_KEY_BLOCK - valid) * sizeof *scores);
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
    size_t row = (size_t)params->n_kv_heads * d;
    const uint16_t *k =
        cpu_kv_strip(session, ofr_kv_strip_k(layout, slot, layer)) + (size_t)group * d;
    const uint16_t *v =
        cpu_kv_strip(session, ofr_kv_strip_v(layout, slot, layer)) + (size_t)group * d;
    float maximum[OFR_CPU_QUERY_ROWS], sum[OFR_CPU_QUERY_ROWS];
    for (uint32_t r = 0; r < rows; r++) {
        maximum[r] = -INFINITY;
        sum[r] = 0;
    }
    for (uint32_t t = 0; t < n; t++) {
        ofr_cpu_load_query(session, layer, token + t, group,
                           scratch->query + (size_t)t * heads * d);
    }
    memset(scratch->out, 0, (size_t)rows * padded * sizeof(float));
    memset(scratch->values, 0, (size_t)OFR_CPU_KEY_BLOCK * padded * sizeof(float));
    uint32_t begin =
        ofr_cpu_first_key(session, layer, first) / OFR_CPU_KEY_BLOCK * OFR_CPU_KEY_BLOCK;
    for (uint32_t key = begin; key < n_keys; key += OFR_CPU_KEY_BLOCK) {
        uint32_t count = cpu_min(OFR_CPU_KEY_BLOCK, n_keys - key);
        kernels->transpose_keys(k + key * row, row, count, d, scratch->keys);
        for (uint32_t j = 0; j < count; j++) {
            kernels->half_to_float(v + (key + j) * row, d, scratch->values + (size_t)j * padded);
        }
        memset(scratch->scores, 0, (size_t)rows * OFR_CPU_KEY_BLOCK * sizeof(float));
        kernels->matmul(scratch->query, d, scratch->keys, OFR_CPU_KEY_BLOCK, scratch->scores,
                        OFR_CPU_KEY_BLOCK, rows, cpu_divide_up(count, 16) * 16, d);
        mask_and_update(session, scratch, layer, rows, first, key, count, maximum, sum);
        kernels->matmul(scratch->scores, OFR_CPU_KEY_BLOCK, scratch->values, padded, scratch->out,
                        padded, rows, padded, count);
    }
    for (uint32_t r = 0; r < rows; r++) {
        float *out = cpu_attention_row(session, token + r / heads, group * heads + r % heads);
        kernels->scale(scratch->out + (size_t)r * padded, d, 1 / sum[r]);
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
