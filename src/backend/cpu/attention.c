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
    session->kernels->rotate(k, rope.cosines, rope.sines, rope.half, params->head_dim, 1, k);
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
        session->kernels->rotate(from, rope.cosines, rope.sines, rope.half, params->head_dim,
                                 factor, to);
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

/* Groups of heads whose rows of queries, scores and results fit into a thread's scratch. */
static uint32_t groups_at_most(const ofr_backend_session *session)
{
    uint32_t fitting = session->query_rows / session->heads_per_group;
    return min_u32(fitting, session->params->n_kv_heads);
}

/* A pass of single tokens has less than two times the wanted tasks, each with its groups. */
size_t ofr_cpu_partial_floats(const ofr_backend_session *session)
{
    return 2 * (size_t)OFR_CPU_SPLIT_TASKS * session->n_threads * groups_at_most(session) *
           partial_stride(session);
}

static uint32_t divide_up(uint32_t a, uint32_t b)
{
    return (a - 1) / b + 1;
}

/* How attention to at most `keys` keys is cut into tasks. K and V of all heads of a token lie side
 * by side: a task that takes them all reads memory in one stream, one head of each token would
 * jump. So the context is cut first, and heads only where that gives too few tasks. */
static cpu_split split_for(const ofr_backend_session *session, uint32_t keys)
{
    uint32_t groups = session->params->n_kv_heads, at_once = groups_at_most(session);
    uint32_t wanted = OFR_CPU_SPLIT_TASKS * session->n_threads;
    uint32_t most = session->n_threads > 1 ? divide_up(keys, SPLIT_KEYS_MIN) : 1;
    uint64_t parts = (uint64_t)session->n_tokens * most;
    while (at_once > 1 && session->n_threads > 1 && parts * divide_up(groups, at_once) < wanted) {
        at_once = (at_once + 1) / 2;
    }
    uint64_t tasks = (uint64_t)session->n_tokens * divide_up(groups, at_once);
    uint32_t splits = tasks < wanted ? (uint32_t)((wanted + tasks - 1) / tasks) : 1;
    splits = min_u32(splits, most);
    uint32_t own = divide_up(divide_up(keys, splits), OFR_CPU_KEY_BLOCK) * OFR_CPU_KEY_BLOCK;
    return (cpu_split){.groups = at_once, .keys = own, .n = divide_up(keys, own)};
}

void ofr_cpu_attention_plan(ofr_backend_session *session)
{
    uint32_t longest = 1;
    for (uint32_t i = 0; i < session->n_tokens; i++) {
        uint32_t keys = session->tokens[i].position + 1;
        longest = keys > longest ? keys : longest;
    }
    session->split = split_for(session, longest);
    uint32_t window = session->params->sliding_window;
    session->split_windowed = split_for(session, window > 0 ? min_u32(window, longest) : longest);
}

/* Rows of heads of groups [group, group + n): where those of group `group + i` begin. */
static size_t group_rows(const ofr_backend_session *session, uint32_t i)
{
    return (size_t)i * session->heads_per_group;
}

/* Where what is prefetched of K and of V begins while group i is attended in the block at `key`:
 * its part of the next block. `stride`: from row to row of it; head_dim where the groups are all
 * there are and the block is taken in the order of memory. */
static size_t next_rows(uint32_t key, uint32_t i, size_t row, size_t stride, uint32_t head_dim)
{
    size_t next = (size_t)(key + OFR_CPU_KEY_BLOCK) * row;
    return next + (size_t)i * head_dim * (stride == head_dim ? OFR_CPU_KEY_BLOCK : 1);
}

/* One token, `n` groups of heads from `group` on, keys [begin, end). Leaves out [heads of the
 * groups][head_dim], not yet divided by the sum, and maximum and sum of each head. */
static void attend_single(ofr_backend_session *session, uint32_t thread, uint32_t layer,
                          uint32_t token, uint32_t group, uint32_t n, uint32_t begin, uint32_t end,
                          float *maximum, float *sum)
{
    const ofr_model_params *params = session->params;
    const ofr_cpu_kernels *kernels = session->kernels;
    cpu_scratch *scratch = &session->scratch[thread];
    const ofr_kv_layout *layout = &session->options.kv_layout;
    uint32_t slot = session->tokens[token].slot, heads = session->heads_per_group;
    uint32_t d = params->head_dim;
    size_t row = (size_t)params->n_kv_heads * d, stride = n == params->n_kv_heads ? d : row;
    const uint16_t *k = strip(session, ofr_kv_strip_k(layout, slot, layer)) + (size_t)group * d;
    const uint16_t *v = strip(session, ofr_kv_strip_v(layout, slot, layer)) + (size_t)group * d;
    for (uint32_t i = 0; i < n; i++) {
        load_query(session, layer, token, group + i, scratch->query + group_rows(session, i) * d);
    }
    memset(scratch->out, 0, group_rows(session, n) * d * sizeof *scratch->out);
    for (uint32_t h = 0; h < n * heads; h++) {
        maximum[h] = -INFINITY;
        sum[h] = 0;
    }
    for (uint32_t key = begin; key < end; key += OFR_CPU_KEY_BLOCK) {
        uint32_t count = min_u32(OFR_CPU_KEY_BLOCK, end - key);
        for (uint32_t i = 0; i < n; i++) {
            size_t first = group_rows(session, i), at = key * row + (size_t)i * d;
            float *out = scratch->out + first * d;
            size_t ahead = next_rows(key, i, row, stride, d);
            kernels->attention_scores(scratch->query + first * d, d, heads, k + at, row, count, d,
                                      k + ahead, stride, scratch->scores);
            for (uint32_t h = 0; h < heads; h++) {
                float *scores = scratch->scores + (size_t)h * OFR_CPU_KEY_BLOCK;
                cap_scores(session, scores, count);
                float correction =
                    update_softmax(kernels, scores, count, &maximum[first + h], &sum[first + h]);
                if (correction != 1) {
                    kernels->scale(out + (size_t)h * d, d, correction);
                }
            }
            kernels->attention_values(scratch->scores, heads, v + at, row, count, d, v + ahead,
                                      stride, out);
        }
    }
}

static float *attention_row(const ofr_backend_session *session, uint32_t token, uint32_t head)
{
    return session->attention +
           ((size_t)token * session->params->n_heads + head) * session->params->head_dim;
}

/* The first key that a token's splits cover, and how many splits it has. */
static uint32_t splits_of(const ofr_backend_session *session, uint32_t layer,
                          const cpu_split *split, uint32_t token, uint32_t *ret_first)
{
    uint32_t position = session->tokens[token].position;
    uint32_t first = first_key(session, layer, position);
    *ret_first = first;
    return divide_up(position + 1 - first, split->keys);
}

/* Where the results of a part of the context of one group are kept until they are merged: its
 * heads' maxima, sums, and rows. */
static float *partial_at(const ofr_backend_session *session, const cpu_split *split, uint32_t token,
                         uint32_t group, uint32_t index)
{
    size_t pair = (size_t)token * session->params->n_kv_heads + group;
    return session->partial + (pair * split->n + index) * partial_stride(session);
}

static void single_task(ofr_backend_session *session, uint32_t thread, uint32_t layer,
                        const cpu_split *split, uint32_t task)
{
    uint32_t heads = session->heads_per_group, d = session->params->head_dim;
    uint32_t blocks = divide_up(session->params->n_kv_heads, split->groups);
    uint32_t index = task % split->n, token = task / split->n / blocks;
    uint32_t group = task / split->n % blocks * split->groups;
    uint32_t n = min_u32(split->groups, session->params->n_kv_heads - group);
    uint32_t n_keys = session->tokens[token].position + 1, first;
    if (index >= splits_of(session, layer, split, token, &first)) {
        return;
    }
    uint32_t begin = first + index * split->keys, end = min_u32(begin + split->keys, n_keys);
    for (uint32_t i = 0; end == n_keys && i < n; i++) {
        store_kv(session, layer, token, group + i);
    }
    float maximum[OFR_CPU_QUERY_ROWS], sum[OFR_CPU_QUERY_ROWS];
    attend_single(session, thread, layer, token, group, n, begin, end, maximum, sum);
    const float *out = session->scratch[thread].out;
    if (split->n == 1) {
        float *to = attention_row(session, token, group * heads);
        memcpy(to, out, (size_t)n * heads * d * sizeof *to);
        for (uint32_t h = 0; h < n * heads; h++) {
            session->kernels->scale(to + (size_t)h * d, d, 1 / sum[h]);
        }
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        size_t from = group_rows(session, i);
        float *partial = partial_at(session, split, token, group + i, index);
        memcpy(partial, maximum + from, heads * sizeof *maximum);
        memcpy(partial + heads, sum + from, heads * sizeof *sum);
        memcpy(partial + 2 * (size_t)heads, out + from * d, (size_t)heads * d * sizeof *out);
    }
}

/* Puts the parts of one token's group together. */
static void merge_task(ofr_backend_session *session, uint32_t layer, const cpu_split *split,
                       uint32_t pair)
{
    uint32_t groups = session->params->n_kv_heads, heads = session->heads_per_group;
    uint32_t d = session->params->head_dim;
    uint32_t token = pair / groups, group = pair % groups, first;
    uint32_t n_splits = splits_of(session, layer, split, token, &first);
    size_t stride = partial_stride(session);
    const float *parts = partial_at(session, split, token, group, 0);
    for (uint32_t h = 0; h < heads; h++) {
        float *out = attention_row(session, token, group * heads + h);
        float largest = -INFINITY, total = 0;
        for (uint32_t s = 0; s < n_splits; s++) {
            largest = fmaxf(largest, parts[s * stride + h]);
        }
        memset(out, 0, d * sizeof *out);
        for (uint32_t s = 0; s < n_splits; s++) {
            const float *part = parts + s * stride;
            float weight = expf(part[h] - largest);
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
    bool windowed = session->model->layers[layer].flags & OFR_LAYER_WINDOWED;
    const cpu_split *split = windowed ? &session->split_windowed : &session->split;
    uint32_t groups = session->params->n_kv_heads;
    uint32_t tasks = session->n_tokens * divide_up(groups, split->groups) * split->n;
    for (;;) {
        uint32_t task = ofr_thread_pool_next(session->pool);
        if (task >= tasks) {
            break;
        }
        single_task(session, thread, layer, split, task);
    }
    ofr_thread_pool_barrier(session->pool);
    if (split->n == 1) {
        return;
    }
    for (;;) {
        uint32_t pair = ofr_thread_pool_next(session->pool);
        if (pair >= session->n_tokens * groups) {
            break;
        }
        merge_task(session, layer, split, pair);
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
                        OFR_CPU_KEY_BLOCK, rows, divide_up(count, 16) * 16, d);
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
