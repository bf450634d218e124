/* Attention over the token-major fp16 strips with online softmax (arXiv 1805.02867) and split
 * context. A work-group takes a block of consecutive tokens of one sequence, the HEADS query heads
 * of one KV head, and the keys of one split; K and V are loaded once for all its rows (row = token
 * of the block * HEADS + head).
 *
 * HEADS: query heads of a KV head. ROWS: the most rows of a block. KEY_BLOCK keys are looked at
 * together. ATTENTION_ITEMS work-items, a multiple of KEY_BLOCK and at least HEAD_DIM / 2. SOFTCAP:
 * where scores are capped. HALVES: products of queries, keys, weights and values in fp16
 * (halves.cl, which comes before this file); HEAD_DIM is a multiple of 16 then. */
#define PAIRS (HEAD_DIM / 2)
#define VALUE_PARTS (ATTENTION_ITEMS / PAIRS)
#define VALUE_ROWS ((ROWS + VALUE_PARTS - 1) / VALUE_PARTS)
#define SCORE_PARTS (ATTENTION_ITEMS / KEY_BLOCK)
#define SCORE_ROWS ((ROWS + SCORE_PARTS - 1) / SCORE_PARTS)
#define MAX_LANES 8
#define KEY_LOADS ((KEY_BLOCK * (PAIRS / 4) + ATTENTION_ITEMS - 1) / ATTENTION_ITEMS)
#define MAX_SPLITS 64 /* opencl_session.h has the same */
#define VALUE_KEYS 16  /* loaded ahead of their use */
#define LOWEST (-1e30f)
#define PARTIAL_ROW (HEAD_DIM + 2)

/* Puts the parts of a block's rows together. weights: [rows][MAX_SPLITS] of local memory. */
inline void merge_weights(global const volatile float *parts, uint rows, uint splits,
                          ulong split_stride, local float *weights, local float *totals)
{
    uint item = get_local_id(0);
    for (uint i = item; i < rows * splits; i += ATTENTION_ITEMS) {
        uint r = i / splits, s = i % splits;
        weights[r * MAX_SPLITS + s] = parts[s * split_stride + r * PARTIAL_ROW];
        totals[r * MAX_SPLITS + s] = parts[s * split_stride + r * PARTIAL_ROW + 1];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint r = item; r < rows; r += ATTENTION_ITEMS) {
        local float *own = weights + r * MAX_SPLITS;
        float top = LOWEST, total = 0;
        for (uint s = 0; s < splits; s++) {
            top = fmax(top, own[s]);
        }
        for (uint s = 0; s < splits; s++) {
            own[s] = exp(own[s] - top);
            total += own[s] * totals[r * MAX_SPLITS + s];
        }
        for (uint s = 0; s < splits; s++) {
            own[s] /= total;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* Element d of a row; parts is the row's. */
inline float merged_element(global const volatile float *parts, uint splits, ulong split_stride,
                            uint d, local const float *weights)
{
    float sum = 0;
    uint s = 0;
    for (; s + 4 <= splits; s += 4) {
        float a = parts[s * split_stride + 2 + d], b = parts[(s + 1) * split_stride + 2 + d];
        float c = parts[(s + 2) * split_stride + 2 + d], e = parts[(s + 3) * split_stride + 2 + d];
        sum += weights[s] * a + weights[s + 1] * b + weights[s + 2] * c + weights[s + 3] * e;
    }
    for (; s < splits; s++) {
        sum += weights[s] * parts[s * split_stride + 2 + d];
    }
    return sum;
}

/* 1 / rms of a head's row from its lanes' squares; 1 without a norm. */
inline float head_factor(local const float *squares, uint norm, float epsilon)
{
    float sum = 0;
    for (uint i = 0; norm != NO_VECTOR && i < MAX_LANES; i++) {
        sum += squares[i];
    }
    return norm != NO_VECTOR ? rsqrt(sum / (float)HEAD_DIM + epsilon) : 1.0f;
}

/* qkv [n][(HEADS + 2) * n_kv_heads * HEAD_DIM], not rotated. store: the block's single token's K
 * and V go into the strips first. out [n][n_kv_heads * HEADS * HEAD_DIM]. partial [blocks *
 * n_kv_heads][splits][ROWS][PARTIAL_ROW]: maximum, sum, unnormalized row. merge: the last split of
 * a block to arrive (counters) puts the parts together; otherwise kernel merge_splits does.
 * quantized: the result goes into a record instead of out; the block is one token then. */
kernel __attribute__((reqd_work_group_size(ATTENTION_ITEMS, 1, 1))) void
attention(global const float *qkv, uint n_kv_heads, HEAD_ARGUMENTS, global half *kv,
          ulong slot_stride, ulong k_offset, ulong v_offset, global const uint *pass, float factor,
          uint store, uint merge, uint quantized, global float *out,
          global float *partial, volatile global int *counters, global char *values,
          global float *scales)
{
    local float query[ROWS * HEAD_DIM];
    local uint tile[KEY_BLOCK * (PAIRS + 1)];
    local float scores[ROWS * KEY_BLOCK];
    local float lanes[(ROWS + 1) * MAX_LANES];
    local float top[ROWS], correction[ROWS];
    local float merged[ROWS * MAX_SPLITS], merged_totals[ROWS * MAX_SPLITS];
    local char bytes[HEADS * HEAD_DIM];
    local int is_last;
#ifdef HALVES
    local uint query_words[ROWS * PAIRS];
    local float unit[ROWS], peak[ROWS], share[ROWS];
#endif
    uint item = get_local_id(0), block = get_group_id(0), head = get_group_id(1);
    uint split = get_group_id(2);
    uint4 cut = vload4(block, pass + pass[PASS_BLOCKS_AT]);
    uint first = cut.x, rows = cut.y * HEADS;
    uint4 token = pass_token(pass, first);
    uint position = token.z, n_keys = position + cut.y;
    uint split_keys = pass[PASS_SPLIT_KEYS], seen_from = first_key(position, window);
    uint splits = (n_keys - seen_from - 1) / split_keys + 1;
    if (split >= splits) {
        return;
    }
    uint begin = seen_from + split * split_keys, end = min(begin + split_keys, n_keys);
    uint width = n_kv_heads * HEAD_DIM;
    global half *k_strip = kv + token.y * slot_stride + k_offset + head * HEAD_DIM;
    global half *v_strip = kv + token.y * slot_stride + v_offset + head * HEAD_DIM;
    if (q_norm != NO_VECTOR) { /* squares of the heads' rows, of K in the last place */
        for (uint i = item; i < (rows + 1) * MAX_LANES; i += ATTENTION_ITEMS) {
            uint r = i / MAX_LANES, t = first + (r < rows ? r / HEADS : 0);
            global const float *x = qkv + (ulong)t * (HEADS + 2) * width +
                                    (r < rows ? (head * HEADS + r % HEADS) * HEAD_DIM
                                              : HEADS * width + head * HEAD_DIM);
            float sum = 0;
            for (uint e = i % MAX_LANES; e < HEAD_DIM; e += MAX_LANES) {
                sum += x[e] * x[e];
            }
            lanes[(r < rows ? r : ROWS) * MAX_LANES + i % MAX_LANES] = sum;
        }
    }
    /* Also without a norm: a barrier within a condition doubles what compilers for CPUs make of all
     * that follows it. */
    barrier(CLK_LOCAL_MEM_FENCE);
    if (store && end == n_keys) {
        float k_factor = head_factor(lanes + ROWS * MAX_LANES, k_norm, epsilon);
        global const float *k = qkv + (ulong)first * (HEADS + 2) * width + HEADS * width +
                                head * HEAD_DIM;
        for (uint p = item; p < PAIRS; p += ATTENTION_ITEMS) {
            uint2 place;
            float2 turned = turned_pair(k, p, rope_half, pass, rope_table, first, k_factor,
                                        k_norm != NO_VECTOR ? vectors + k_norm : 0, &place);
            vstore_half_rte(turned.x, (ulong)position * width + place.x, k_strip);
            vstore_half_rte(turned.y, (ulong)position * width + place.y, k_strip);
            vstore_half_rte(k[width + 2 * p], (ulong)position * width + 2 * p, v_strip);
            vstore_half_rte(k[width + 2 * p + 1], (ulong)position * width + 2 * p + 1, v_strip);
        }
    }
    for (uint i = item; i < rows * PAIRS; i += ATTENTION_ITEMS) {
        uint r = i / PAIRS, t = first + r / HEADS;
        uint2 place;
        global const float *q = qkv + (ulong)t * (HEADS + 2) * width +
                                (head * HEADS + r % HEADS) * HEAD_DIM;
        float2 turned = turned_pair(q, i % PAIRS, rope_half, pass, rope_table, t,
                                    head_factor(lanes + r * MAX_LANES, q_norm, epsilon),
                                    q_norm != NO_VECTOR ? vectors + q_norm : 0, &place);
        query[r * HEAD_DIM + place.x] = turned.x * factor;
        query[r * HEAD_DIM + place.y] = turned.y * factor;
    }
    for (uint r = item; r < ROWS; r += ATTENTION_ITEMS) {
        top[r] = LOWEST;
    }
#ifdef HALVES
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = item; i < rows * MAX_LANES; i += ATTENTION_ITEMS) {
        float largest = 0;
        for (uint e = i % MAX_LANES; e < HEAD_DIM; e += MAX_LANES) {
            largest = fmax(largest, fabs(query[i / MAX_LANES * HEAD_DIM + e]));
        }
        lanes[i] = largest;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint r = item; r < rows; r += ATTENTION_ITEMS) {
        float largest = 0;
        for (uint j = 0; j < MAX_LANES; j++) {
            largest = fmax(largest, lanes[r * MAX_LANES + j]);
        }
        unit[r] = score_unit(largest);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = item; i < rows * PAIRS; i += ATTENTION_ITEMS) {
        query_words[i] = halves_word(vload2(i, query) * (1.0f / unit[i / PAIRS]));
    }
#endif
    float sum_x[VALUE_ROWS], sum_y[VALUE_ROWS], total[VALUE_ROWS];
    for (uint i = 0; i < VALUE_ROWS; i++) {
        sum_x[i] = sum_y[i] = total[i] = 0;
    }
    uint pair = item % PAIRS, part = item / PAIRS; /* of the values; parts beyond are idle */
    for (uint key = begin; key < end; key += KEY_BLOCK) {
        uint n = min((uint)KEY_BLOCK, end - key);
        barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
#if HEAD_DIM % 8 == 0
        /* All loads before the first store: keys beyond the last repeat it. */
        uint4 loaded[KEY_LOADS];
#pragma unroll
        for (uint k = 0; k < KEY_LOADS; k++) {
            uint i = item + k * ATTENTION_ITEMS;
            ulong row = key + min(i / (PAIRS / 4), n - 1);
            loaded[k] = vload4(i % (PAIRS / 4), (global const uint *)(k_strip + row * width));
        }
#pragma unroll
        for (uint k = 0; k < KEY_LOADS; k++) {
            uint i = item + k * ATTENTION_ITEMS;
            if (i < KEY_BLOCK * (PAIRS / 4)) {
                vstore4(loaded[k], 0,
                        tile + i / (PAIRS / 4) * (PAIRS + 1) + i % (PAIRS / 4) * 4);
            }
        }
#else
        for (uint i = item; i < n * PAIRS; i += ATTENTION_ITEMS) {
            global const uint *row =
                (global const uint *)(k_strip + (ulong)(key + i / PAIRS) * width);
            tile[i / PAIRS * (PAIRS + 1) + i % PAIRS] = row[i % PAIRS];
        }
#endif
        barrier(CLK_LOCAL_MEM_FENCE);
        uint own = item % KEY_BLOCK, score_part = item / KEY_BLOCK;
        float score[SCORE_ROWS];
        for (uint i = 0; i < SCORE_ROWS; i++) {
            score[i] = 0;
        }
        if (own < n) {
#ifdef HALVES
            for (uint p = 0; p < PAIRS; p += SCORE_TERMS) {
                halves piece[SCORE_ROWS];
#pragma unroll
                for (uint i = 0; i < SCORE_ROWS; i++) {
                    piece[i] = (halves)(0);
                }
#pragma unroll
                for (uint e = p; e < p + SCORE_TERMS; e++) {
                    halves k = halves_of(tile[own * (PAIRS + 1) + e]);
#pragma unroll
                    for (uint i = 0; i < SCORE_ROWS; i++) {
                        uint r = min(score_part + i * SCORE_PARTS, (uint)ROWS - 1);
                        piece[i] = halves_mad(halves_of(query_words[r * PAIRS + e]), k, piece[i]);
                    }
                }
#pragma unroll
                for (uint i = 0; i < SCORE_ROWS; i++) {
                    float2 sums = halves_floats(piece[i]);
                    score[i] += sums.x + sums.y;
                }
            }
#pragma unroll
            for (uint i = 0; i < SCORE_ROWS; i++) {
                score[i] *= unit[min(score_part + i * SCORE_PARTS, (uint)ROWS - 1)];
            }
#else
            for (uint p = 0; p < PAIRS; p++) {
                float2 k = vload_half2(0, (local const half *)&tile[own * (PAIRS + 1) + p]);
                for (uint i = 0; i < SCORE_ROWS; i++) {
                    uint r = min(score_part + i * SCORE_PARTS, (uint)ROWS - 1);
                    score[i] += query[r * HEAD_DIM + 2 * p] * k.x;
                    score[i] += query[r * HEAD_DIM + 2 * p + 1] * k.y;
                }
            }
#endif
        }
        for (uint i = 0; i < SCORE_ROWS; i++) {
            uint r = score_part + i * SCORE_PARTS;
            /* Row r sees keys up to its own token, as many as the window has. */
            uint last = position + r / HEADS;
            bool seen = own < n && key + own <= last && key + own >= first_key(last, window);
#ifdef SOFTCAP
            score[i] = SOFTCAP * tanh(score[i] / SOFTCAP);
#endif
            if (r < ROWS) {
                scores[r * KEY_BLOCK + own] = seen ? score[i] : LOWEST;
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint i = item; i < rows * MAX_LANES; i += ATTENTION_ITEMS) {
            float largest = LOWEST;
            for (uint j = i % MAX_LANES; j < KEY_BLOCK; j += MAX_LANES) {
                largest = fmax(largest, scores[i / MAX_LANES * KEY_BLOCK + j]);
            }
            lanes[i] = largest;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint r = item; r < rows; r += ATTENTION_ITEMS) {
            float own_top = LOWEST;
            for (uint j = 0; j < MAX_LANES; j++) {
                own_top = fmax(own_top, lanes[r * MAX_LANES + j]);
            }
            float largest = fmax(top[r], own_top);
            correction[r] = exp(top[r] - largest);
            top[r] = largest;
#ifdef HALVES
            peak[r] = own_top;
            share[r] = (float)VALUE_TERMS * exp(own_top - largest);
#endif
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint i = item; i < rows * KEY_BLOCK; i += ATTENTION_ITEMS) {
            float s = scores[i];
#ifdef HALVES /* the same for both elements of a pair of values */
            float weight = s > LOWEST ? exp(s - peak[i / KEY_BLOCK]) : 0.0f;
            scores[i] = as_float(halves_word((float2)(weight / (float)VALUE_TERMS)));
#else
            scores[i] = s > LOWEST ? exp(s - top[i / KEY_BLOCK]) : 0.0f;
#endif
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        if (part < VALUE_PARTS) {
            for (uint i = 0; i < VALUE_ROWS; i++) {
                float c = correction[min(part + i * VALUE_PARTS, (uint)ROWS - 1)];
                sum_x[i] *= c;
                sum_y[i] *= c;
                total[i] *= c;
            }
            for (uint j = 0; j < n; j += VALUE_KEYS) {
#ifdef HALVES
                halves v[VALUE_KEYS], piece[VALUE_ROWS], weights[VALUE_ROWS];
#pragma unroll
                for (uint i = 0; i < VALUE_ROWS; i++) {
                    piece[i] = weights[i] = (halves)(0);
                }
#pragma unroll
                for (uint k = 0; k < VALUE_KEYS; k++) { /* as below */
                    ulong row = key + min(j + k, n - 1);
                    v[k] = halves_of(((global const uint *)(v_strip + row * width))[pair]);
                }
#pragma unroll
                for (uint k = 0; k < VALUE_KEYS; k++) {
#pragma unroll
                    for (uint i = 0; i < VALUE_ROWS; i++) {
                        uint r = min(part + i * VALUE_PARTS, (uint)ROWS - 1);
                        halves weight = halves_of(as_uint(scores[r * KEY_BLOCK + j + k]));
                        piece[i] = halves_mad(weight, v[k], piece[i]);
                        weights[i] = halves_add(weights[i], weight);
                    }
                }
#pragma unroll
                for (uint i = 0; i < VALUE_ROWS; i++) {
                    float own_share = share[min(part + i * VALUE_PARTS, (uint)ROWS - 1)];
                    float2 sums = halves_floats(piece[i]);
                    sum_x[i] += own_share * sums.x;
                    sum_y[i] += own_share * sums.y;
                    total[i] += own_share * halves_floats(weights[i]).x;
                }
#else
                float2 v[VALUE_KEYS]; /* keys beyond the last have weight 0 */
#pragma unroll
                for (uint k = 0; k < VALUE_KEYS; k++) {
                    v[k] = vload_half2(pair, v_strip + (ulong)(key + min(j + k, n - 1)) * width);
                }
#pragma unroll
                for (uint k = 0; k < VALUE_KEYS; k++) {
                    for (uint i = 0; i < VALUE_ROWS; i++) {
                        uint r = min(part + i * VALUE_PARTS, (uint)ROWS - 1);
                        float weight = scores[r * KEY_BLOCK + j + k];
                        sum_x[i] += weight * v[k].x;
                        sum_y[i] += weight * v[k].y;
                        total[i] += weight;
                    }
                }
#endif
            }
        }
    }
    ulong split_stride = ROWS * PARTIAL_ROW;
    global float *parts =
        partial + ((ulong)block * n_kv_heads + head) * pass[PASS_SPLITS] * split_stride;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = 0; i < VALUE_ROWS; i++) {
        uint r = part + i * VALUE_PARTS;
        if (part >= VALUE_PARTS || r >= rows) {
            continue;
        }
        if (splits > 1) {
            global float *to = parts + split * split_stride + r * PARTIAL_ROW;
            to[2 + 2 * pair] = sum_x[i];
            to[3 + 2 * pair] = sum_y[i];
            if (pair == 0) {
                to[0] = top[r];
                to[1] = total[i];
            }
        } else if (quantized) {
            query[r * HEAD_DIM + 2 * pair] = sum_x[i] / total[i];
            query[r * HEAD_DIM + 2 * pair + 1] = sum_y[i] / total[i];
        } else {
            global float *to = out + (ulong)(first + r / HEADS) * HEADS * width +
                               (head * HEADS + r % HEADS) * HEAD_DIM + 2 * pair;
            to[0] = sum_x[i] / total[i];
            to[1] = sum_y[i] / total[i];
        }
    }
    if (splits > 1) {
        if (!merge) {
            return;
        }
        device_fence();
        barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
        if (item == 0) {
            volatile global int *counter = counters + block * n_kv_heads + head;
            is_last = atomic_inc(counter) == (int)splits - 1;
            if (is_last) {
                *counter = 0;
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        if (!is_last) {
            return;
        }
        device_fence();
        merge_weights(parts, rows, splits, split_stride, merged, merged_totals);
        for (uint i = item; i < rows * HEAD_DIM; i += ATTENTION_ITEMS) {
            uint r = i / HEAD_DIM, d = i % HEAD_DIM;
            float y = merged_element(parts + r * PARTIAL_ROW, splits, split_stride, d,
                                     merged + r * MAX_SPLITS);
            if (quantized) {
                query[i] = y;
            } else {
                out[(ulong)(first + r / HEADS) * HEADS * width +
                    (head * HEADS + r % HEADS) * HEAD_DIM + d] = y;
            }
        }
    }
    if (quantized) {
        barrier(CLK_LOCAL_MEM_FENCE);
        ulong row = (ulong)first * HEADS * width;
        quantize_units(query, HEADS * HEAD_DIM, bytes, item, ATTENTION_ITEMS,
                       head * HEADS * HEAD_DIM, 0, values + row, scales + row / 32 * 2, 0);
    }
}

/* What the last split would do, for devices whose work-groups cannot wait for one another: one
 * work-group per block and KV head. */
kernel __attribute__((reqd_work_group_size(ATTENTION_ITEMS, 1, 1))) void
merge_splits(uint n_kv_heads, uint window, global const uint *pass, global const float *partial,
             global float *out)
{
    local float merged[ROWS * MAX_SPLITS], merged_totals[ROWS * MAX_SPLITS];
    uint item = get_local_id(0), block = get_group_id(0), head = get_group_id(1);
    uint4 cut = vload4(block, pass + pass[PASS_BLOCKS_AT]);
    uint position = pass_token(pass, cut.x).z, rows = cut.y * HEADS;
    uint keys = position + cut.y - first_key(position, window);
    uint splits = (keys - 1) / pass[PASS_SPLIT_KEYS] + 1;
    if (splits == 1) {
        return;
    }
    ulong split_stride = ROWS * PARTIAL_ROW;
    global const float *parts =
        partial + ((ulong)block * n_kv_heads + head) * pass[PASS_SPLITS] * split_stride;
    merge_weights(parts, rows, splits, split_stride, merged, merged_totals);
    for (uint i = item; i < rows * HEAD_DIM; i += ATTENTION_ITEMS) {
        uint r = i / HEAD_DIM, d = i % HEAD_DIM;
        out[(ulong)(cut.x + r / HEADS) * HEADS * n_kv_heads * HEAD_DIM +
            (head * HEADS + r % HEADS) * HEAD_DIM + d] =
            merged_element(parts + r * PARTIAL_ROW, splits, split_stride, d,
                           merged + r * MAX_SPLITS);
    }
}
