/* One token in one launch, third part: attention over the strips. */
/* Attention: a work-group takes a KV head, up to HEADS_AT_ONCE of its query heads, and the keys of
 * one split; KEY_LANES lanes share a key, 8 elements each. */
#define HEADS_AT_ONCE (HEADS < 2 ? HEADS : 2)
#define SUBSETS       ((HEADS + HEADS_AT_ONCE - 1) / HEADS_AT_ONCE)
#define PARTS         (HEAD_DIM / 8)
#if LANES == 1
#define KEY_LANES 1
#elif PARTS <= 4
#define KEY_LANES 4
#elif PARTS <= 8
#define KEY_LANES 8
#elif PARTS <= 16
#define KEY_LANES 16
#else
#define KEY_LANES 32
#endif
#define LANE_PARTS ((PARTS + KEY_LANES - 1) / KEY_LANES)
#define LANE_DIMS  (LANE_PARTS * 8)
#define KEY_SLOTS  (ITEMS / KEY_LANES)
#ifndef KEYS_AHEAD
#define KEYS_AHEAD (LANES == 1 ? 1 : HEADS_AT_ONCE > 2 ? 2 : HEADS_AT_ONCE > 1 ? 4 : 6)
#endif
#define KEYS_STEP        (KEY_SLOTS * KEYS_AHEAD)
#define SPLIT_KEYS_LEAST 16
#define MERGED           8 /* splits put together at a time */
/* In pairs; the last two: a packet of the largest score, the sum, 0, the tag. */
#define PARTIAL_ROW (HEAD_DIM + 2)
#define TURNS       (HEAD_DIM / 2) /* of RoPE, at most */
#define LOG2_E      1.4426950408889634f

inline void widen8(uint4 v, float y[8])
{
    float2 a = two_halves(v.x), b = two_halves(v.y), c = two_halves(v.z), d = two_halves(v.w);
    y[0] = a.x;
    y[1] = a.y;
    y[2] = b.x;
    y[3] = b.y;
    y[4] = c.x;
    y[5] = c.y;
    y[6] = d.x;
    y[7] = d.y;
}

inline float power(float x)
{
#ifdef OFR_NVIDIA
    return native_exp2(x);
#else
    return exp2(x);
#endif
}

/* Keys of the token, cut into equal splits. */
typedef struct cut {
    uint first, keys, splits, split_keys;
} cut;

inline cut cut_keys(local const uint *layer, uint position, uint pairs)
{
    cut c;
    uint window = layer[PLAN_WINDOWED];
    c.first = first_key(position, window);
    c.keys = position + 1 - c.first;
    c.splits = max((uint)get_num_groups(0) / pairs, 1u);
    c.splits =
        min(min(c.splits, (uint)MAX_SPLITS), (c.keys + SPLIT_KEYS_LEAST - 1) / SPLIT_KEYS_LEAST);
    c.split_keys = (c.keys - 1) / c.splits + 1;
    c.splits = (c.keys - 1) / c.split_keys + 1;
    return c;
}

inline float warp_total(float x)
{
#if LANES == 32
    return warp_sum(x);
#else
    return x;
#endif
}

/* A head in place, normed and turned by one warp, times factor. turns: cosines [TURNS] of RoPE's
 * first table, its sines, the second table's. */
inline void turn_head(local float *x, uint norm, global const float *vectors, float epsilon,
                      uint rope, local const float *turns, float factor, uint lane)
{
    uint rope_half = rope & 0xffff;
    turns += (rope >> 16) * 2 * TURNS;
    if (norm != NO_VECTOR) {
        float sum = 0;
        for (uint e = lane; e < HEAD_DIM; e += LANES) {
            sum += x[e] * x[e];
        }
        factor *= rsqrt(warp_total(sum) / (float)HEAD_DIM + epsilon);
    }
    for (uint p = lane; p < HEAD_DIM / 2; p += LANES) {
        bool turned = p < rope_half;
        uint i = turned ? p : p * 2, j = turned ? p + rope_half : p * 2 + 1;
        float a = x[i] * factor, b = x[j] * factor;
        if (norm != NO_VECTOR) {
            a *= vectors[norm + i];
            b *= vectors[norm + j];
        }
        float c = turned ? turns[p] : 1.0f, s = turned ? turns[TURNS + p] : 0.0f;
        x[i] = a * c - b * s;
        x[j] = b * c + a * s;
    }
}

/* Of the token whose turn it is. */
typedef struct token_place {
    uint slot, position, kv_heads;
    float factor; /* of scores */
    ulong slot_stride;
    bool rehearsal; /* nobody's KV is written */
    global half *kv;
    global half *rows;     /* new rows of all strips, one after another; 0: not wanted */
    global uint2 *partial; /* [pairs][MAX_SPLITS][HEADS_AT_ONCE][PARTIAL_ROW] */
} token_place;

typedef struct key_block {
    uint4 k[KEYS_AHEAD][LANE_PARTS], v[KEYS_AHEAD][LANE_PARTS];
} key_block;

/* Keys from `base` on, at most `last`. */
inline void load_keys(global const half *k_strip, global const half *v_strip, uint base, uint last,
                      uint width, uint part, uint slot, key_block *ret)
{
#pragma unroll
    for (uint a = 0; a < KEYS_AHEAD; a++) {
        ulong row = (ulong)min(base + a * KEY_SLOTS + slot, last) * width;
#pragma unroll
        for (uint c = 0; c < LANE_PARTS; c++) {
            uint at = min(part + c * KEY_LANES, (uint)PARTS - 1);
            ret->k[a][c] = ((global const uint4 *)(k_strip + row))[at];
            ret->v[a][c] = ((global const uint4 *)(v_strip + row))[at];
        }
    }
}

/* Attention's task: head `head`'s query heads [first_head, first_head + heads), keys [begin, end).
 */
typedef struct attention_task {
    uint pair, head, first_head, heads, split, begin, end;
} attention_task;

inline attention_task find_task(uint i, const cut *keys, uint position)
{
    attention_task t;
    t.pair = i / keys->splits;
    t.split = i % keys->splits;
    t.head = t.pair / SUBSETS;
    t.first_head = t.pair % SUBSETS * HEADS_AT_ONCE;
    t.heads = min((uint)HEADS_AT_ONCE, (uint)HEADS - t.first_head);
    t.begin = keys->first + t.split * keys->split_keys;
    t.end = min(t.begin + keys->split_keys, position + 1);
    return t;
}

/* Query heads of the task, and the new key and value where the task has them, to `raw`: [heads + 2]
 * [HEAD_DIM], K and V after HEADS_AT_ONCE heads. Then normed and turned; ends with a barrier. */
inline uint take_heads(const attention_task *task, const token_place *place,
                       local const uint *layer, uint layer_index, const token_state *state,
                       uint tag, bool newest, local const float *turns, local float *raw,
                       local half *new_key)
{
    uint item = get_local_id(0), lane = item % LANES, warp = item / LANES;
    uint width = place->kv_heads * HEAD_DIM, rope = layer[PLAN_ROPE];
    global const uint2 *q = state->heads + (task->head * HEADS + task->first_head) * HEAD_DIM;
    global const uint2 *k = state->heads + HEADS * width + task->head * HEAD_DIM;
    for (uint i = item; i < (HEADS_AT_ONCE + (newest ? 2 : 0)) * HEAD_DIM; i += ITEMS) {
        uint h = i / HEAD_DIM, e = i % HEAD_DIM;
        if (h < HEADS_AT_ONCE && h >= task->heads) {
            continue;
        }
        global const uint2 *at = h < HEADS_AT_ONCE ? q + i : k + (h - HEADS_AT_ONCE) * width + e;
        raw[i] = await_pair(at, tag, state->sync);
    }
    uint begun = cycles();
    meet(CLK_LOCAL_MEM_FENCE);
    ulong at = (ulong)place->position * width + task->head * HEAD_DIM;
    global half *strips = place->kv + place->slot * place->slot_stride;
    for (uint h = warp; h < HEADS_AT_ONCE + (newest ? 2 : 0); h += WARPS) {
        local float *x = raw + h * HEAD_DIM;
        if (h < task->heads) {
            turn_head(x, layer[PLAN_Q_NORM], state->vectors, state->epsilon, rope, turns,
                      place->factor, lane);
        } else if (h >= HEADS_AT_ONCE) {
            uint of_v = h - HEADS_AT_ONCE;
            if (!of_v) {
                turn_head(x, layer[PLAN_K_NORM], state->vectors, state->epsilon, rope, turns, 1,
                          lane);
                warp_meet();
            }
            global half *strip =
                strips +
                (layer[PLAN_STRIPS + 2 * of_v] | (ulong)layer[PLAN_STRIPS + 2 * of_v + 1] << 32) +
                at;
            global half *row =
                place->rows + (2 * layer_index + of_v) * width + task->head * HEAD_DIM;
            for (uint e = lane; e < HEAD_DIM; e += LANES) {
                vstore_half_rte(x[e], of_v * HEAD_DIM + e, new_key);
                if (!place->rehearsal) {
                    vstore_half_rte(x[e], e, strip);
                }
                if (place->rows) {
                    vstore_half_rte(x[e], e, row);
                }
            }
        }
    }
    meet(CLK_LOCAL_MEM_FENCE);
    return begun;
}

#if LANES == 32
/* Element `lane` of a unit of head h of the pair, out of what all splits found. */
inline float merge_splits(global const uint2 *parts, uint h, uint e, uint splits, uint tag,
                          volatile global uint *sync)
{
    global const uint2 *from = parts + h * PARTIAL_ROW;
    uint stride = HEADS_AT_ONCE * PARTIAL_ROW;
    float best = LOWEST, all = 0, own = 0;
    for (uint first = 0; first < splits; first += MERGED) {
        uint4 sums_of[MERGED];
        uint2 own_of[MERGED];
        float now = best;
        bool there;
        uint polls = 0;
        do {
            there = true;
#pragma unroll
            for (uint k = 0; k < MERGED; k++) { /* all loads at once */
                global const uint2 *row = from + min(first + k, splits - 1) * stride;
                own_of[k] = load_pair(row + e);
                sums_of[k] = load_packet((global const uint4 *)(row + HEAD_DIM));
            }
#pragma unroll
            for (uint k = 0; k < MERGED; k++) {
                there = there && own_of[k].y == tag && sums_of[k].w == tag;
            }
        } while (!there && keep_waiting(polls++, sync));
#pragma unroll
        for (uint k = 0; k < MERGED; k++) {
            now = fmax(now, as_float(sums_of[k].x));
        }
        float correction = power(best - now);
        all *= correction;
        own *= correction;
        best = now;
#pragma unroll
        for (uint k = 0; k < MERGED; k++) {
            float weight = first + k < splits ? power(as_float(sums_of[k].x) - best) : 0.0f;
            all += weight * as_float(sums_of[k].y);
            own += weight * as_float(own_of[k].x);
        }
    }
    return own / all;
}
#endif

/* The next layer's part of the plan, of which this work-item has loaded a word already. */
inline void keep_words(local uint *next, uint word, global const uint *following)
{
    uint item = get_local_id(0);
    for (uint w = item; w < PLAN_LAYER_WORDS; w += ITEMS) {
        next[w] = w == item ? word : following[w];
    }
}

/* Attention of step s over the token's keys. Returns when it could begin. */
inline uint attend(local const uint *layer, uint s, const token_place *place,
                   const token_sizes *sizes, const token_state *state, local const float *turns,
                   local float *scratch, local half *new_key, global const uint *following,
                   local step_plan *plan)
{
    uint item = opaque(get_local_id(0)), lane = item % LANES, warp = item / LANES;
    uint begun = cycles();
    uint position = place->position, width = place->kv_heads * HEAD_DIM;
    uint pairs = place->kv_heads * SUBSETS, tag = state->tag + s;
    cut keys = cut_keys(layer, position, pairs);
    local float *query = scratch, *out = scratch + (HEADS_AT_ONCE + 2) * HEAD_DIM;
    local float *gathered = out + HEADS_AT_ONCE * HEAD_DIM; /* [GATHER][WARPS][HEAD_DIM] */
    local float *tops = gathered + GATHER * WARPS * HEAD_DIM, *totals = tops + GATHER * WARPS;
    global half *strips = place->kv + place->slot * place->slot_stride;
    global half *k_strips = strips + (layer[PLAN_STRIPS] | (ulong)layer[PLAN_STRIPS + 1] << 32);
    global half *v_strips = strips + (layer[PLAN_STRIPS + 2] | (ulong)layer[PLAN_STRIPS + 3] << 32);
    uint part = item % KEY_LANES, slot = item / KEY_LANES;
    uint word = item < PLAN_LAYER_WORDS ? following[item] : 0;
    local uint *next = plan->words[(s / STEPS + 1) % 2];
    bool kept = false;                 /* those words */
    uint held = max(position, 1u) - 1; /* the newest key that is in the strips already */
    for (uint i = get_group_id(0); i < pairs * keys.splits; i += get_num_groups(0)) {
        attention_task task = find_task(i, &keys, position);
        global half *k_strip = k_strips + task.head * HEAD_DIM;
        global half *v_strip = v_strips + task.head * HEAD_DIM;
        uint last = min(task.end - 1, held);
        key_block block;
        load_keys(k_strip, v_strip, task.begin, last, width, part, slot, &block);
        uint lines = (HEAD_DIM + 63) / 64;
        for (uint l = KEYS_STEP * 2 * lines + item; /* those of later blocks */
             LANES == 32 && l < (task.end - task.begin) * 2 * lines; l += ITEMS) {
            uint key = min(task.begin + l / (2 * lines), held);
            prefetch_line((l / lines % 2 ? v_strip : k_strip) + (ulong)key * width +
                          l % lines * 64);
        }
        begun = take_heads(&task, place, layer, s / STEPS, state, tag, task.end == position + 1,
                           turns, query, new_key);
        if (!kept) {
            keep_words(next, word, following);
            kept = true;
        }
        uint heads = task.heads, begin = task.begin, end = task.end;
        float q[HEADS_AT_ONCE][LANE_DIMS], sum[HEADS_AT_ONCE][LANE_DIMS];
        float top[HEADS_AT_ONCE], total[HEADS_AT_ONCE];
#pragma unroll
        for (uint h = 0; h < HEADS_AT_ONCE; h++) {
            top[h] = LOWEST;
            total[h] = 0;
#pragma unroll
            for (uint e = 0; e < LANE_DIMS; e++) {
                uint at = (part + e / 8 * KEY_LANES) * 8 + e % 8;
                q[h][e] = at < HEAD_DIM && h < heads ? query[h * HEAD_DIM + at] : 0.0f;
                sum[h][e] = 0;
            }
        }
        for (uint base = begin; base < end; base += KEYS_STEP) {
            if (base != begin) {
                load_keys(k_strip, v_strip, base, last, width, part, slot, &block);
            }
#pragma unroll
            for (uint a = 0; a < KEYS_AHEAD; a++) {
                uint key = base + a * KEY_SLOTS + slot;
                if (key == position && key < end) { /* nobody else has set new_key */
#pragma unroll
                    for (uint c = 0; c < LANE_PARTS; c++) {
                        uint at = min(part + c * KEY_LANES, (uint)PARTS - 1);
                        block.k[a][c] = vload4(at, (local const uint *)new_key);
                        block.v[a][c] = vload4(at, (local const uint *)(new_key + HEAD_DIM));
                    }
                }
            }
            float score[KEYS_AHEAD][HEADS_AT_ONCE];
#pragma unroll
            for (uint a = 0; a < KEYS_AHEAD; a++) {
#pragma unroll
                for (uint h = 0; h < HEADS_AT_ONCE; h++) {
                    score[a][h] = 0;
                }
#pragma unroll
                for (uint c = 0; c < LANE_PARTS; c++) {
                    float wide[8];
                    widen8(block.k[a][c], wide);
#pragma unroll
                    for (uint h = 0; h < HEADS_AT_ONCE; h++) {
#pragma unroll
                        for (uint e = 0; e < 8; e++) {
                            score[a][h] += q[h][c * 8 + e] * wide[e];
                        }
                    }
                }
#pragma unroll
                for (uint h = 0; h < HEADS_AT_ONCE; h++) {
#if LANES == 32
#pragma unroll
                    for (int d = KEY_LANES / 2; d > 0; d /= 2) {
                        score[a][h] += warp_shift(score[a][h], d);
                    }
#endif
#ifdef SOFTCAP
                    score[a][h] = SOFTCAP * tanh(score[a][h] / SOFTCAP);
#endif
                    score[a][h] *= LOG2_E;
                    score[a][h] = base + a * KEY_SLOTS + slot < end ? score[a][h] : LOWEST;
                }
            }
#pragma unroll
            for (uint h = 0; h < HEADS_AT_ONCE; h++) {
                float best = top[h];
#pragma unroll
                for (uint a = 0; a < KEYS_AHEAD; a++) {
                    best = fmax(best, score[a][h]);
                }
                float correction = power(top[h] - best);
                top[h] = best;
                total[h] *= correction;
#pragma unroll
                for (uint e = 0; e < LANE_DIMS; e++) {
                    sum[h][e] *= correction;
                }
#pragma unroll
                for (uint a = 0; a < KEYS_AHEAD; a++) {
                    score[a][h] = score[a][h] > LOWEST ? power(score[a][h] - best) : 0.0f;
                    total[h] += score[a][h];
                }
            }
#pragma unroll
            for (uint a = 0; a < KEYS_AHEAD; a++) {
#pragma unroll
                for (uint c = 0; c < LANE_PARTS; c++) {
                    float wide[8];
                    widen8(block.v[a][c], wide);
#pragma unroll
                    for (uint h = 0; h < HEADS_AT_ONCE; h++) {
#pragma unroll
                        for (uint e = 0; e < 8; e++) {
                            sum[h][c * 8 + e] += score[a][h] * wide[e];
                        }
                    }
                }
            }
        }
#if LANES == 32
#pragma unroll
        for (int d = KEY_LANES; d < 32; d *= 2) { /* the keys of a warp */
#pragma unroll
            for (uint h = 0; h < HEADS_AT_ONCE; h++) {
                float best = fmax(top[h], warp_shift(top[h], d));
                float correction = power(top[h] - best);
                top[h] = best;
                total[h] *= correction;
                total[h] += warp_shift(total[h], d);
#pragma unroll
                for (uint e = 0; e < LANE_DIMS; e++) {
                    sum[h][e] *= correction;
                    sum[h][e] += warp_shift(sum[h][e], d);
                }
            }
        }
#endif
        global uint2 *parts =
            place->partial + (ulong)task.pair * MAX_SPLITS * HEADS_AT_ONCE * PARTIAL_ROW;
#pragma unroll
        for (uint h0 = 0; h0 < HEADS_AT_ONCE; h0 += GATHER) { /* the warps, GATHER heads at once */
            if (h0 > 0) {
                meet(CLK_LOCAL_MEM_FENCE);
            }
            if (lane < KEY_LANES) {
#pragma unroll
                for (uint h = h0; h < h0 + GATHER && h < HEADS_AT_ONCE; h++) {
                    uint place_of = (h - h0) * WARPS + warp;
#pragma unroll
                    for (uint e = 0; e < LANE_DIMS; e++) {
                        uint at = (part + e / 8 * KEY_LANES) * 8 + e % 8;
                        if (at < HEAD_DIM) {
                            gathered[place_of * HEAD_DIM + at] = sum[h][e];
                        }
                    }
                    if (lane == 0) {
                        tops[place_of] = top[h];
                        totals[place_of] = total[h];
                    }
                }
            }
            meet(CLK_LOCAL_MEM_FENCE);
            for (uint j = item; j < GATHER * HEAD_DIM; j += ITEMS) {
                uint h = h0 + j / HEAD_DIM, e = j % HEAD_DIM, first = j / HEAD_DIM * WARPS;
                float best = LOWEST, all = 0, own = 0;
                if (h >= heads) {
                    break;
                }
                for (uint w = 0; w < WARPS; w++) {
                    best = fmax(best, tops[first + w]);
                }
                for (uint w = 0; w < WARPS; w++) {
                    float weight = power(tops[first + w] - best);
                    all += weight * totals[first + w];
                    own += weight * gathered[(first + w) * HEAD_DIM + e];
                }
                if (keys.splits == 1) {
                    out[h * HEAD_DIM + e] = own / all;
                    continue;
                }
                global uint2 *to = parts + (task.split * HEADS_AT_ONCE + h) * PARTIAL_ROW;
                store_pair(to + e, own, tag);
                if (e == 0) {
                    store_packet((global uint4 *)(to + HEAD_DIM),
                                 (uint4)(as_uint(best), as_uint(all), 0, tag));
                }
            }
        }
        uint unit = (task.head * HEADS + task.first_head) * (HEAD_DIM / 32);
        uint units = heads * HEAD_DIM / 32, all_units = sizes->q_width / 32;
        if (keys.splits == 1) {
            meet(CLK_LOCAL_MEM_FENCE);
            for (uint u = warp; u < units; u += WARPS) {
                make_unit(out[u * 32 + lane], out + u * 32, 1, 0, false, lane, unit + u, all_units,
                          tag + 1, state->attended);
            }
        }
#if LANES == 32
        else { /* splits share the units out */
            for (uint u = task.split + warp * keys.splits; u < units; u += WARPS * keys.splits) {
                uint e = u * 32 % HEAD_DIM + lane;
                float x = merge_splits(parts, u * 32 / HEAD_DIM, e, keys.splits, tag, state->sync);
                make_unit(x, 0, 1, 0, false, lane, unit + u, all_units, tag + 1, state->attended);
            }
        }
#endif
        meet(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    }
    if (!kept) {
        keep_words(next, word, following);
        meet(CLK_LOCAL_MEM_FENCE);
    }
    return begun;
}
