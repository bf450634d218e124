/* Kernels over rows of fp32: RMSNorm, gathering, storing K and V, candidates, log-probabilities. */

/* The sum of squares of a row; all work-items of its group call it. */
inline float row_squares(global const float *x, uint columns, local float *parts)
{
    uint item = get_local_id(0);
    float sum = 0;
    for (uint k = item; k < columns; k += ROW_ITEMS) {
        sum += x[k] * x[k];
    }
    parts[item] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    sum = 0;
    for (uint i = 0; i < ROW_ITEMS; i++) {
        sum += parts[i];
    }
    return sum;
}

/* y[t] = x[t] / rms * weight; one work-group a row. */
kernel __attribute__((reqd_work_group_size(ROW_ITEMS, 1, 1))) void rmsnorm(
    global const float *x, global const float *vectors, uint weight, uint columns, float epsilon,
    global float *y)
{
    local float parts[ROW_ITEMS];
    uint t = get_group_id(0), item = get_local_id(0);
    x += (ulong)t * columns;
    y += (ulong)t * columns;
    float factor = rsqrt(row_squares(x, columns, parts) / (float)columns + epsilon);
    for (uint k = item; k < columns; k += ROW_ITEMS) {
        y[k] = x[k] * factor * vectors[weight + k];
    }
}

/* y[t] += scale * x[t] / rms * weight; one work-group a row. */
kernel __attribute__((reqd_work_group_size(ROW_ITEMS, 1, 1))) void add_normed(
    global const float *x, global const float *vectors, uint weight, uint columns, float epsilon,
    float scale, global float *y)
{
    local float parts[ROW_ITEMS];
    uint t = get_group_id(0), item = get_local_id(0);
    x += (ulong)t * columns;
    y += (ulong)t * columns;
    float factor = scale * rsqrt(row_squares(x, columns, parts) / (float)columns + epsilon);
    for (uint k = item; k < columns; k += ROW_ITEMS) {
        y[k] += x[k] * factor * vectors[weight + k];
    }
}

/* Logits times scale, then capped: cap * tanh(x / cap); 0: not. */
kernel void finish_logits(global float *logits, uint vocab, float scale, float cap)
{
    uint v = get_global_id(0);
    global float *own = logits + (ulong)get_global_id(1) * vocab + v;
    if (v < vocab) {
        float x = *own * scale;
        *own = cap > 0 ? cap * tanh(x / cap) : x;
    }
}

/* y[i] = x[outputs[first + i]] */
kernel void gather_rows(global const float *x, uint columns, global const uint *pass,
                        global float *y, uint first)
{
    uint k = get_global_id(0), i = get_global_id(1);
    if (k < columns) {
        uint from = pass[pass[PASS_OUTPUTS_AT] + first + i];
        y[(ulong)i * columns + k] = x[(ulong)from * columns + k];
    }
}

/* Row `row` of sums: the rows [first, first + n) of x, each after its norm, added up; one
 * work-group, whose items take every ROW_ITEMS-th column. */
kernel __attribute__((reqd_work_group_size(ROW_ITEMS, 1, 1))) void sum_rows(
    global const float *x, global const float *vectors, uint weight, uint columns, float epsilon,
    global float *sums, uint first, uint n, uint row)
{
    local float parts[ROW_ITEMS];
    uint item = get_local_id(0);
    sums += (ulong)row * columns;
    for (uint k = item; k < columns; k += ROW_ITEMS) {
        sums[k] = 0;
    }
    for (uint t = first; t < first + n; t++) {
        global const float *own = x + (ulong)t * columns;
        float sum = 0;
        for (uint k = item; k < columns; k += ROW_ITEMS) {
            sum += own[k] * own[k];
        }
        parts[item] = sum;
        barrier(CLK_LOCAL_MEM_FENCE);
        sum = 0;
        for (uint i = 0; i < ROW_ITEMS; i++) {
            sum += parts[i];
        }
        float factor = rsqrt(sum / (float)columns + epsilon);
        for (uint k = item; k < columns; k += ROW_ITEMS) {
            sums[k] += own[k] * factor * vectors[weight + k];
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}

/* RoPE on K, then K and V into the strips as fp16: one work-item per pair of elements of a KV head
 * of a token. qkv: [n][q_width + 2 * n_kv_heads * head_dim]; strip offsets in halves. */
kernel void store_kv(global const float *qkv, uint q_width, uint n_kv_heads, uint head_dim,
                     HEAD_ARGUMENTS, global half *kv, ulong slot_stride, ulong k_offset,
                     ulong v_offset, global const uint *pass)
{
    uint pair = get_global_id(0), head = get_global_id(1), t = get_global_id(2);
    uint width = n_kv_heads * head_dim;
    global const float *k = qkv + (ulong)t * (q_width + 2 * width) + q_width + head * head_dim;
    global const float *v = k + width;
    uint4 token = pass_token(pass, t);
    ulong row = token.y * slot_stride + (ulong)token.z * width + head * head_dim;
    uint2 place;
    float factor = 1;
    if (k_norm != NO_VECTOR) {
        float sum = 0;
        for (uint e = 0; e < head_dim; e++) {
            sum += k[e] * k[e];
        }
        factor = rsqrt(sum / (float)head_dim + epsilon);
    }
    float2 turned = turned_pair(k, pair, rope_half, pass, rope_table, t, factor,
                                k_norm != NO_VECTOR ? vectors + k_norm : 0, &place);
    vstore_half_rte(turned.x, k_offset + row + place.x, kv);
    vstore_half_rte(turned.y, k_offset + row + place.y, kv);
    vstore_half_rte(v[pair * 2], v_offset + row + pair * 2, kv);
    vstore_half_rte(v[pair * 2 + 1], v_offset + row + pair * 2 + 1, kv);
}

/* Some rows of all strips of a slot, one strip's after another's: words [first, first + n) of each,
 * to rows from word `to` on. A strip is strip_words long, a layer's K and V are neighbours, layers
 * layer_words apart; slot: where its first strip begins. For one transfer instead of as many as
 * there are strips. */
kernel void collect_rows(global const uint *kv, ulong slot, ulong layer_words, ulong strip_words,
                         uint first, uint n, uint to, global uint *rows)
{
    uint i = get_global_id(0), strip = get_global_id(1);
    if (i < n) {
        rows[to + (ulong)strip * n + i] =
            kv[slot + strip / 2 * layer_words + strip % 2 * strip_words + first + i];
    }
}

/* ln p(target) of row first + i into out[i]; 0 for a target of -1. One work-group a row. */
kernel __attribute__((reqd_work_group_size(ROW_ITEMS, 1, 1))) void logprob(
    global const float *logits, uint vocab, global const uint *pass, global float *out, uint first)
{
    local float parts[ROW_ITEMS];
    uint i = get_group_id(0), item = get_local_id(0);
    int target = as_int(pass[pass[PASS_TARGETS_AT] + first + i]);
    logits += (ulong)i * vocab;
    float top = -INFINITY, sum = 0;
    for (uint v = item; v < vocab; v += ROW_ITEMS) {
        top = fmax(top, logits[v]);
    }
    parts[item] = top;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint j = 0; j < ROW_ITEMS; j++) {
        top = fmax(top, parts[j]);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint v = item; v < vocab; v += ROW_ITEMS) {
        sum += exp(logits[v] - top);
    }
    parts[item] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item == 0) {
        sum = 0;
        for (uint j = 0; j < ROW_ITEMS; j++) {
            sum += parts[j];
        }
        out[i] = target < 0 ? 0.0f : logits[target] - top - log(sum);
    }
}

/* A candidate: token (0xffffffff: none) and the bits of its logit. As one number, its key, the
 * better candidate is the larger: the logit's bits in the order of logits (zeros are equal), then
 * the lower token. What is NaN is none. */
#define NO_CANDIDATE ((uint2)(0xffffffffu, 0xff800000u))

ulong candidate_key(uint2 entry)
{
    uint bits = entry.y == 0x80000000u ? 0 : entry.y;
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (ulong)bits << 32 | ~entry.x;
}

uint2 candidate_of(ulong key)
{
    uint bits = (uint)(key >> 32);
    return (uint2)(~(uint)key, bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

/* Largest first; `size` is a power of two. Bitonic (K. Batcher, 1968): the same steps for whatever
 * the keys are. */
void sort_keys(local ulong *keys, uint size)
{
    for (uint run = 2; run <= size; run *= 2) {
        for (uint stride = run / 2; stride > 0; stride /= 2) {
            for (uint pair = get_local_id(0); pair < size / 2; pair += ROW_ITEMS) {
                uint low = 2 * pair - (pair & (stride - 1));
                ulong first = keys[low], second = keys[low + stride];
                bool descending = (low & run) == 0;
                if ((first < second) == descending) {
                    keys[low] = second;
                    keys[low + stride] = first;
                }
            }
            barrier(CLK_LOCAL_MEM_FENCE);
        }
    }
}

/* The largest of the first ROW_ITEMS keys to their front. */
void largest_key(local ulong *keys)
{
    uint item = get_local_id(0);
    for (uint step = ROW_ITEMS / 2; step > 0; step /= 2) {
        if (item < step) {
            keys[item] = max(keys[item], keys[item + step]);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}

/* The `k` best, at most ROW_ITEMS, of `count` entries of row group_id(1), from chunks of TOP_CHUNK:
 * chunk c writes its best k, best first, at [(row * chunks + c) * k]. An entry is a logit, or
 * (from_entries) a candidate; where a chunk has fewer than k, the rest are none. Repeated until one
 * chunk is left. *not_finite is set where a logit is NaN or infinite, which is seen in its bits:
 * compilers may take comparisons with NaN as they like. */
kernel __attribute__((reqd_work_group_size(ROW_ITEMS, 1, 1))) void top_k(
    global const float *logits, global const uint2 *entries, uint from_entries, uint count, uint k,
    global uint2 *chosen, global uint *not_finite)
{
    local ulong keys[TOP_CHUNK];
    uint item = get_local_id(0), chunk = get_group_id(0), row = get_group_id(1);
    uint begin = chunk * TOP_CHUNK, n = min((uint)TOP_CHUNK, count - begin);
    ulong first = (ulong)row * count + begin, best = 0;
    uint size = ROW_ITEMS;
    while (size < n) {
        size *= 2;
    }
    for (uint at = item; at < size; at += ROW_ITEMS) {
        uint2 entry = NO_CANDIDATE;
        if (at < n && from_entries) {
            entry = entries[first + at];
        } else if (at < n) {
            entry = (uint2)(begin + at, as_uint(logits[first + at]));
            uint magnitude = entry.y & 0x7fffffffu;
            if (magnitude >= 0x7f800000u) {
                *not_finite = 1;
            }
            entry = magnitude > 0x7f800000u ? NO_CANDIDATE : entry;
        }
        keys[at] = candidate_key(entry);
        best = max(best, keys[at]);
    }
    if (k == 1) {
        keys[item] = best;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (k == 1) {
        largest_key(keys);
    } else {
        sort_keys(keys, size);
    }
    for (uint rank = item; rank < k; rank += ROW_ITEMS) {
        chosen[((ulong)row * get_num_groups(0) + chunk) * k + rank] = candidate_of(keys[rank]);
    }
}
