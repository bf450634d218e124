/* Attention on the KV strips: RoPE, storing K and V, and the online softmax (arXiv 1805.02867) over
 * blocks of keys. The heads of a group share every load of K and V. Single tokens are split over
 * heads and context; longer segments over heads and blocks of queries. */
#include <math.h>
#include <string.h>

#include "backend/cpu/session.h"

enum { SPLIT_KEYS_MIN = 128 };

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint16_t *strip(const ofr_backend_session *session, uint64_t offset)
{
    return (uint16_t *)(void *)((char *)session->options.kv_arena + offset);
}

/* One head: rotates the first 2 * half elements, copies the others; times `factor`. x may be y. */
static void rotate(const float *x, const float *cosine, const float *sine, uint32_t half,
                   uint32_t head_dim, float factor, float *y)
{
    for (uint32_t i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        y[i] = (first * cosine[i] - second * sine[i]) * factor;
        y[i + half] = (second * cosine[i] + first * sine[i]) * factor;
    }
    for (uint32_t i = 2 * half; i < head_dim; i++) {
        y[i] = x[i] * factor;
    }
}

/* The RoPE row of a token for a layer. */
typedef struct rope_row {
    const float *cosines, *sines;
    uint32_t half; /* 0: not rotated */
} rope_row;

static rope_row rope_of(const ofr_backend_session *session, const ofr_layer *layer, uint32_t token)
{
    if (layer->flags & OFR_LAYER_UNROTATED) {
        return (rope_row){NULL, NULL, 0};
    }
    uint32_t half = session->rope_local.half;
    if (half > 0 && (layer->flags & OFR_LAYER_WINDOWED)) {
        return (rope_row){session->local_cosines + (size_t)token * half,
                          session->local_sines + (size_t)token * half, half};
    }
    half = session->rope.half;
    return (rope_row){session->cosines + (size_t)token * half,
                      session->sines + (size_t)token * half, half};
}

/* The first key that a query at `position` sees. */
static uint32_t first_key(const ofr_backend_session *session, uint32_t layer, uint32_t position)
{
    uint32_t window = session->params->sliding_window;
    bool windowed = session->model->layers[layer].flags & OFR_LAYER_WINDOWED;
    return windowed && position >= window ? position + 1 - window : 0;
}

/* x = c tanh(x / c) */
static void cap_scores(const ofr_backend_session *session, float *x, size_t n)
{
    float cap = session->params->attention_softcap;
    for (size_t i = 0; cap != 0 && i < n; i++) {
        x[i] = cap * tanhf(x[i] / cap);
    }
}

static void store_kv(ofr_backend_session *session, uint32_t layer, uint32_t token, uint32_t head)
{
    const ofr_model_params *params = session->params;
    const cpu_token *at = &session->tokens[token];
    size_t row = (size_t)params->n_kv_heads * params->head_dim;
    size_t from = token * row + (size_t)head * params->head_dim;
    size_t to = at->position * row + (size_t)head * params->head_dim;
    float *k = session->k + from;
    const ofr_layer *weights = &session->model->layers[layer];
    rope_row rope = rope_of(session, weights, token);
    if (weights->k_norm != NULL) {
        session->kernels->rms_norm(k, weights->k_norm, params->head_dim, params->rms_epsilon, k);
    }
    rotate(k, rope.cosines, rope.sines, rope.half, params->head_dim, 1, k);
    const ofr_kv_layout *layout = &session->options.kv_layout;
    session->kernels->float_to_half(k, params->head_dim,
                                    strip(session, ofr_kv_strip_k(layout, at->slot, layer)) + to);
    session->kernels->float_to_half(session->v + from, params->head_dim,
                                    strip(session, ofr_kv_strip_v(layout, at->slot, layer)) + to);
}

/* The query heads of one group of one token, rotated and scaled, into y [heads][head_dim]. */
static void load_query(const ofr_backend_session *session, uint32_t layer, uint32_t token,
                       uint32_t group, float *y)
{
    const ofr_model_params *params = session->params;
    const ofr_layer *weights = &session->model->layers[layer];
    rope_row rope = rope_of(session, weights, token);
    float factor = ofr_model_params_attention_scale(params);
    const float *q =
        session->q + ((size_t)token * params->n_heads + (size_t)group * session->heads_per_group) *
                         params->head_dim;
    for (uint32_t h = 0; h < session->heads_per_group; h++) {
        const float *from = q + (size_t)h * params->head_dim;
        float *to = y + (size_t)h * params->head_dim;
        if (weights->q_norm != NULL) {
            session->kernels->rms_norm(from, weights->q_norm, params->head_dim, params->rms_epsilon,
                                       to);
            from = to;
        }
        rotate(from, rope.cosines, rope.sines, rope.half, params->head_dim, factor, to);
    }
}

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

static size_t partial_stride(const ofr_backend_session *session)
{
    return (size_t)session->heads_per_group * (session->params->head_dim + 2);
}

size_t ofr_cpu_partial_floats(const ofr_backend_session *session)
{
    return 2 * (size_t)OFR_CPU_SPLIT_TASKS * session->n_threads * partial_stride(session);
}

void ofr_cpu_attention_plan(ofr_backend_session *session)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < session->n_tokens; i++) {
        uint32_t keys = session->tokens[i].position + 1;
        longest = keys > longest ? keys : longest;
    }
    uint64_t tasks = (uint64_t)session->n_tokens * session->params->n_kv_heads;
    uint64_t wanted = (uint64_t)OFR_CPU_SPLIT_TASKS * session->n_threads;
    uint32_t splits =
        session->n_threads > 1 && tasks < wanted ? (uint32_t)((wanted + tasks - 1) / tasks) : 1;
    uint32_t keys = (longest + splits - 1) / splits;
    keys = keys < SPLIT_KEYS_MIN ? SPLIT_KEYS_MIN : keys;
    session->split_keys = (keys + OFR_CPU_KEY_BLOCK - 1) / OFR_CPU_KEY_BLOCK * OFR_CPU_KEY_BLOCK;
    session->max_splits = (longest - 1) / session->split_keys + 1;
}

/* One token, one group of heads, of keys [begin, end) those it sees. Leaves out [heads][head_dim]
 * unnormalized; maximum is -INFINITY and sum 0 where it sees none of them. */
static void attend_single(ofr_backend_session *session, uint32_t thread, uint32_t layer,
                          uint32_t token, uint32_t group, uint32_t begin, uint32_t end,
                          float *maximum, float *sum)
{
    const ofr_model_params *params = session->params;
    const ofr_cpu_kernels *kernels = session->kernels;
    cpu_scratch *scratch = &session->scratch[thread];
    const ofr_kv_layout *layout = &session->options.kv_layout;
    uint32_t slot = session->tokens[token].slot, heads = session->heads_per_group;
    uint32_t d = params->head_dim;
    size_t row = (size_t)params->n_kv_heads * d;
    const uint16_t *k = strip(session, ofr_kv_strip_k(layout, slot, layer)) + (size_t)group * d;
    const uint16_t *v = strip(session, ofr_kv_strip_v(layout, slot, layer)) + (size_t)group * d;
    load_query(session, layer, token, group, scratch->query);
    memset(scratch->out, 0, (size_t)heads * d * sizeof *scratch->out);
    for (uint32_t h = 0; h < heads; h++) {
        maximum[h] = -INFINITY;
        sum[h] = 0;
    }
    uint32_t visible = first_key(session, layer, session->tokens[token].position);
    begin = begin > visible ? begin : visible;
    for (uint32_t key = begin; key < end; key += OFR_CPU_KEY_BLOCK) {
        uint32_t n = min_u32(OFR_CPU_KEY_BLOCK, end - key);
        kernels->attention_scores(scratch->query, d, heads, k + key * row, row, n, d,
                                  scratch->scores);
        for (uint32_t h = 0; h < heads; h++) {
            cap_scores(session, scratch->scores + (size_t)h * OFR_CPU_KEY_BLOCK, n);
        }
        for (uint32_t h = 0; h < heads; h++) {
            float correction = update_softmax(
                kernels, scratch->scores + (size_t)h * OFR_CPU_KEY_BLOCK, n, &maximum[h], &sum[h]);
            if (correction != 1) {
                kernels->scale(scratch->out + (size_t)h * d, d, correction);
            }
        }
        kernels->attention_values(scratch->scores, heads, v + key * row, row, n, d, scratch->out);
    }
}

static float *attention_row(const ofr_backend_session *session, uint32_t token, uint32_t head)
{
    return session->attention +
           ((size_t)token * session->params->n_heads + head) * session->params->head_dim;
}

static void single_task(ofr_backend_session *session, uint32_t thread, uint32_t layer,
                        uint32_t task)
{
    uint32_t groups = session->params->n_kv_heads, heads = session->heads_per_group;
    uint32_t d = session->params->head_dim;
    uint32_t split = task % session->max_splits, pair = task / session->max_splits;
    uint32_t token = pair / groups, group = pair % groups;
    uint32_t n_keys = session->tokens[token].position + 1;
    uint32_t n_splits = (n_keys - 1) / session->split_keys + 1;
    if (split >= n_splits) {
        return;
    }
    uint32_t begin = split * session->split_keys;
    uint32_t end = min_u32(begin + session->split_keys, n_keys);
    if (end == n_keys) {
        store_kv(session, layer, token, group);
    }
    float maximum[OFR_CPU_QUERY_ROWS], sum[OFR_CPU_QUERY_ROWS];
    attend_single(session, thread, layer, token, group, begin, end, maximum, sum);
    cpu_scratch *scratch = &session->scratch[thread];
    if (session->max_splits == 1) {
        for (uint32_t h = 0; h < heads; h++) {
            session->kernels->scale(scratch->out + (size_t)h * d, d, 1 / sum[h]);
        }
        memcpy(attention_row(session, token, group * heads), scratch->out,
               (size_t)heads * d * sizeof(float));
        return;
    }
    float *partial = session->partial + (size_t)task * partial_stride(session);
    memcpy(partial, maximum, heads * sizeof *maximum);
    memcpy(partial + heads, sum, heads * sizeof *sum);
    memcpy(partial + 2 * (size_t)heads, scratch->out, (size_t)heads * d * sizeof(float));
}

/* Puts the parts of one token's group together. */
static void merge_task(ofr_backend_session *session, uint32_t pair)
{
    uint32_t groups = session->params->n_kv_heads, heads = session->heads_per_group;
    uint32_t d = session->params->head_dim;
    uint32_t token = pair / groups, group = pair % groups;
    uint32_t n_splits = session->tokens[token].position / session->split_keys + 1;
    size_t stride = partial_stride(session);
    const float *parts = session->partial + (size_t)pair * session->max_splits * stride;
    for (uint32_t h = 0; h < heads; h++) {
        float *out = attention_row(session, token, group * heads + h);
        float largest = -INFINITY, total = 0;
        for (uint32_t s = 0; s < n_splits; s++) {
            largest = fmaxf(largest, parts[s * stride + h]);
        }
        memset(out, 0, d * sizeof *out);
        for (uint32_t s = 0; s < n_splits; s++) {
            const float *part = parts + s * stride;
            float weight = part[h] == -INFINITY ? 0 : expf(part[h] - largest);
            total += weight * part[heads + h];
            for (uint32_t i = 0; i < d; i++) {
                out[i] += weight * part[2 * (size_t)heads + (size_t)h * d + i];
            }
        }
        session->kernels->scale(out, d, 1 / total);
    }
}

static void attend_all_single(ofr_backend_session *session, uint32_t thread, uint32_t layer)
{
    uint32_t pairs = session->n_tokens * session->params->n_kv_heads;
    for (;;) {
        uint32_t task = ofr_thread_pool_next(session->pool);
        if (task >= pairs * session->max_splits) {
            break;
        }
        single_task(session, thread, layer, task);
    }
    ofr_thread_pool_barrier(session->pool);
    if (session->max_splits == 1) {
        return;
    }
    for (;;) {
        uint32_t pair = ofr_thread_pool_next(session->pool);
        if (pair >= pairs) {
            break;
        }
        merge_task(session, pair);
    }
    ofr_thread_pool_barrier(session->pool);
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
        uint32_t valid = keys > key ? min_u32(keys - key, n) : 0;
        uint32_t visible = first_key(session, layer, keys - 1);
        uint32_t hidden = visible > key ? min_u32(visible - key, valid) : 0;
        if (valid > hidden) {
            cap_scores(session, scores + hidden, valid - hidden);
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
    const uint16_t *k = strip(session, ofr_kv_strip_k(layout, slot, layer)) + (size_t)group * d;
    const uint16_t *v = strip(session, ofr_kv_strip_v(layout, slot, layer)) + (size_t)group * d;
    float maximum[OFR_CPU_QUERY_ROWS], sum[OFR_CPU_QUERY_ROWS];
    for (uint32_t r = 0; r < rows; r++) {
        maximum[r] = -INFINITY;
        sum[r] = 0;
    }
    for (uint32_t t = 0; t < n; t++) {
        load_query(session, layer, token + t, group, scratch->query + (size_t)t * heads * d);
    }
    memset(scratch->out, 0, (size_t)rows * padded * sizeof(float));
    memset(scratch->values, 0, (size_t)OFR_CPU_KEY_BLOCK * padded * sizeof(float));
    uint32_t begin = first_key(session, layer, first) / OFR_CPU_KEY_BLOCK * OFR_CPU_KEY_BLOCK;
    for (uint32_t key = begin; key < n_keys; key += OFR_CPU_KEY_BLOCK) {
        uint32_t count = min_u32(OFR_CPU_KEY_BLOCK, n_keys - key);
        kernels->transpose_keys(k + key * row, row, count, d, scratch->keys);
        for (uint32_t j = 0; j < count; j++) {
            kernels->half_to_float(v + (key + j) * row, d, scratch->values + (size_t)j * padded);
        }
        memset(scratch->scores, 0, (size_t)rows * OFR_CPU_KEY_BLOCK * sizeof(float));
        kernels->matmul(scratch->query, d, scratch->keys, OFR_CPU_KEY_BLOCK, scratch->scores,
                        OFR_CPU_KEY_BLOCK, rows, OFR_CPU_KEY_BLOCK, d);
        mask_and_update(session, scratch, layer, rows, first, key, count, maximum, sum);
        kernels->matmul(scratch->scores, OFR_CPU_KEY_BLOCK, scratch->values, padded, scratch->out,
                        padded, rows, padded, count);
    }
    for (uint32_t r = 0; r < rows; r++) {
        float *out = attention_row(session, token + r / heads, group * heads + r % heads);
        kernels->scale(scratch->out + (size_t)r * padded, d, 1 / sum[r]);
        memcpy(out, scratch->out + (size_t)r * padded, d * sizeof *out);
    }
}

static void attend_blocks(ofr_backend_session *session, uint32_t thread, uint32_t layer)
{
    uint32_t groups = session->params->n_kv_heads;
    uint32_t block = session->query_rows / session->heads_per_group;
    for (;;) {
        uint32_t token = ofr_thread_pool_next(session->pool);
        if (token >= session->n_tokens) {
            break;
        }
        for (uint32_t group = 0; group < groups; group++) {
            store_kv(session, layer, token, group);
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
            attend_block(session, thread, layer, token + begin, min_u32(block, n - begin),
                         (task - passed) % groups);
            task = ofr_thread_pool_next(session->pool);
        }
        passed += blocks * groups;
        token += n;
    }
    ofr_thread_pool_barrier(session->pool);
}

void ofr_cpu_attention(ofr_backend_session *session, uint32_t thread, uint32_t layer)
{
    if (session->all_single) {
        attend_all_single(session, thread, layer);
    } else {
        attend_blocks(session, thread, layer);
    }
}
