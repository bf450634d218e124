/* Attention of single tokens: tasks are parts of the context, for some or all groups of heads,
 * whose results are then put together. */
#include <math.h>
#include <string.h>

#include "backend/cpu/attention.h"

enum { SPLIT_KEYS_MIN = 128 };

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
    return cpu_min(fitting, session->params->n_kv_heads);
}

/* A pass of single tokens has less than two times the wanted tasks, each with its groups. */
size_t ofr_cpu_partial_floats(const ofr_backend_session *session)
{
    return 2 * (size_t)OFR_CPU_SPLIT_TASKS * session->n_threads * groups_at_most(session) *
           partial_stride(session);
}

/* How attention to at most `keys` keys is cut into tasks. K and V of all heads of a token lie side
 * by side: a task that takes them all reads memory in one stream, one head of each token would
 * jump. So the context is cut first, and heads only where that gives too few tasks. */
static cpu_split split_for(const ofr_backend_session *session, uint32_t keys)
{
    uint32_t groups = session->params->n_kv_heads, at_once = groups_at_most(session);
    uint32_t wanted = OFR_CPU_SPLIT_TASKS * session->n_threads;
    uint32_t most = session->n_threads > 1 ? cpu_divide_up(keys, SPLIT_KEYS_MIN) : 1;
    uint64_t parts = (uint64_t)session->n_tokens * most;
    while (at_once > 1 && session->n_threads > 1 &&
           parts * cpu_divide_up(groups, at_once) < wanted) {
        at_once = (at_once + 1) / 2;
    }
    uint64_t tasks = (uint64_t)session->n_tokens * cpu_divide_up(groups, at_once);
    uint32_t splits = tasks < wanted ? (uint32_t)((wanted + tasks - 1) / tasks) : 1;
    splits = cpu_min(splits, most);
    uint32_t own =
        cpu_divide_up(cpu_divide_up(keys, splits), OFR_CPU_KEY_BLOCK) * OFR_CPU_KEY_BLOCK;
    return (cpu_split){.groups = at_once, .keys = own, .n = cpu_divide_up(keys, own)};
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
    session->split_windowed = split_for(session, window > 0 ? cpu_min(window, longest) : longest);
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
    const uint16_t *k =
        cpu_kv_strip(session, ofr_kv_strip_k(layout, slot, layer)) + (size_t)group * d;
    const uint16_t *v =
        cpu_kv_strip(session, ofr_kv_strip_v(layout, slot, layer)) + (size_t)group * d;
    for (uint32_t i = 0; i < n; i++) {
        ofr_cpu_load_query(session, layer, token, group + i,
                           scratch->query + group_rows(session, i) * d);
    }
    memset(scratch->out, 0, group_rows(session, n) * d * sizeof *scratch->out);
    for (uint32_t h = 0; h < n * heads; h++) {
        maximum[h] = -INFINITY;
        sum[h] = 0;
    }
    for (uint32_t key = begin; key < end; key += OFR_CPU_KEY_BLOCK) {
        uint32_t count = cpu_min(OFR_CPU_KEY_BLOCK, end - key);
        for (uint32_t i = 0; i < n; i++) {
            size_t first = group_rows(session, i), at = key * row + (size_t)i * d;
            kernels->attention_scores(scratch->query + first * d, d, heads, k + at, row, count, d,
                                      k + next_rows(key, i, row, stride, d), stride,
                                      scratch->scores + first * OFR_CPU_KEY_BLOCK);
        }
        for (uint32_t h = 0; h < n * heads; h++) {
            float *scores = scratch->scores + (size_t)h * OFR_CPU_KEY_BLOCK;
            ofr_cpu_cap_scores(session, scores, count);
            float correction = update_softmax(kernels, scores, count, &maximum[h], &sum[h]);
            if (correction != 1) {
                kernels->scale(scratch->out + (size_t)h * d, d, correction);
            }
        }
        for (uint32_t i = 0; i < n; i++) {
            size_t first = group_rows(session, i), at = key * row + (size_t)i * d;
            kernels->attention_values(scratch->scores + first * OFR_CPU_KEY_BLOCK, heads, v + at,
                                      row, count, d, v + next_rows(key, i, row, stride, d), stride,
                                      scratch->out + first * d);
        }
    }
}

/* The first key that a token's splits cover, and how many splits it has. */
static uint32_t splits_of(const ofr_backend_session *session, uint32_t layer,
                          const cpu_split *split, uint32_t token, uint32_t *ret_first)
{
    uint32_t position = session->tokens[token].position;
    uint32_t first = ofr_cpu_first_key(session, layer, position);
    *ret_first = first;
    return cpu_divide_up(position + 1 - first, split->keys);
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
    uint32_t blocks = cpu_divide_up(session->params->n_kv_heads, split->groups);
    uint32_t index = task % split->n, token = task / split->n / blocks;
    uint32_t group = task / split->n % blocks * split->groups;
    uint32_t n = cpu_min(split->groups, session->params->n_kv_heads - group);
    uint32_t n_keys = session->tokens[token].position + 1, first;
    if (index >= splits_of(session, layer, split, token, &first)) {
        return;
    }
    uint32_t begin = first + index * split->keys, end = cpu_min(begin + split->keys, n_keys);
    for (uint32_t i = 0; end == n_keys && i < n; i++) {
        ofr_cpu_store_kv(session, layer, token, group + i);
    }
    float maximum[OFR_CPU_QUERY_ROWS], sum[OFR_CPU_QUERY_ROWS];
    attend_single(session, thread, layer, token, group, n, begin, end, maximum, sum);
    const float *out = session->scratch[thread].out;
    if (split->n == 1) {
        float *to = cpu_attention_row(session, token, group * heads);
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
        float *out = cpu_attention_row(session, token, group * heads + h);
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

void ofr_cpu_attention_single(ofr_backend_session *session, uint32_t thread, uint32_t layer)
{
    bool windowed = session->model->layers[layer].flags & OFR_LAYER_WINDOWED;
    const cpu_split *split = windowed ? &session->split_windowed : &session->split;
    uint32_t groups = session->params->n_kv_heads;
    uint32_t tasks = session->n_tokens * cpu_divide_up(groups, split->groups) * split->n;
    uint32_t task;
    while (ofr_thread_pool_take(session->pool, thread, tasks, &task)) {
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
