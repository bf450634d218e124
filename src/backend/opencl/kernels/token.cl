/* One token through all layers, and the head, in one launch: for devices that run all work-groups
 * of a launch at once. The steps are those of dot.cl and attention.cl; between them the work-groups
 * wait for one another (`sync`), and while they do, the weights of the next step are on their way.
 *
 * ITEMS work-items in WARPS warps (of one work-item where the device has none of 32), one
 * work-group per compute unit. A matrix is cut into tiles of 32 rows; tile t belongs to work-group
 * t % groups, each warp makes TEAM_ROWS of its rows, a lane every WARP-th piece of 16 bytes. DEPTH
 * pieces of each row are loaded ahead.
 *
 * HEAD_DIM, HEADS as in attention.cl; SCRATCH_BYTES of local memory for the input of a step;
 * WAVES: the most tiles of a work-group whose results are kept; GATHER: heads whose warps' sums are
 * put together at once. HAS_MINIMA, SOFTCAP: where the model has them. LOADS 1: loads
 * that leave the first-level cache alone (NVIDIA). */
#if WARP == 32
#define LANES 32
#else
#define LANES 1
#endif
#define WARPS (ITEMS / LANES)
#define TEAM_ROWS (32 / WARPS)
#if ITEMS == 1 /* nobody to wait for; compilers for CPUs take minutes over this many barriers */
#define meet(fences)
#else
#define meet(fences) barrier(fences)
#endif
#define MAX_SPLITS 64
#define LOWEST (-1e30f)
#define POLLS_MAX (1 << 24) /* some seconds: then the device does not run all work-groups at once */

/* Words of a matrix in the plan, opencl_token.c writes them. */
#define PLAN_WINDOW 0
#define PLAN_OFFSET 1 /* low, high */
#define PLAN_SCALE_WINDOW 3
#define PLAN_SCALE_OFFSET 4
#define PLAN_ROWS 6
#define PLAN_SHIFT 7
#define PLAN_BIAS 8
#define PLAN_TYPE 9 /* enum ofr_dtype */
#define PLAN_MATRIX_WORDS 10
/* Of a layer: seven matrices, then these. */
#define PLAN_NORM_O 70 /* weight of the norm after O, after down; NO_VECTOR: the last */
#define PLAN_NORM_DOWN 71
#define PLAN_STRIPS 72 /* K low, high, V low, high */
#define PLAN_Q_NORM 76
#define PLAN_K_NORM 77
#define PLAN_ROPE 78     /* half | table << 16 */
#define PLAN_WINDOWED 79 /* keys that a token sees; 0: all */
#define PLAN_LAYER_WORDS 80

#define STEP_QKV 0
#define STEP_ATTENTION 1
#define STEP_O 2
#define STEP_MLP 3
#define STEP_DOWN 4
#define STEPS 5
#define STEP_HEAD 5

#define TYPE_I8 2
#define TYPE_I4M 4

/* sync: words 0 arrivals, 32 fault, 40 on: with TRACE the cycles of the first work-group in each
 * step, before it could begin and from there on; 64 on: arrivals at each pair of attention. */
#define SYNC_FAULT 32
#define SYNC_TRACE 40
#define SYNC_PAIRS 64

inline void arrive(volatile global uint *sync)
{
    meet(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    if (get_local_id(0) == 0) {
#ifdef OFR_NVIDIA
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(sync) : "memory");
#else
        device_fence();
        atomic_inc(sync);
#endif
    }
}

inline uint look(volatile global uint *word)
{
#ifdef OFR_NVIDIA
    uint value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
#else
    return *word;
#endif
}

inline uint cycles(void)
{
    uint now = 0;
#if defined(TRACE) && defined(OFR_NVIDIA)
    asm volatile("mov.u32 %0, %%clock;" : "=r"(now)::"memory");
#endif
    return now;
}

/* Until `target` work-groups have arrived since the counter was 0; the time when that was so. */
inline uint wait_for(volatile global uint *sync, uint target)
{
    if (get_local_id(0) == 0) {
        for (uint polls = 0; (int)(look(sync) - target) < 0; polls++) {
            if (polls > POLLS_MAX || ((polls & 1023) == 1023 && look(sync + SYNC_FAULT))) {
                sync[SYNC_FAULT] = 1; /* nobody waits any more, and the host looks */
                break;
            }
        }
#ifndef OFR_NVIDIA /* whose look() acquires */
        device_fence();
#endif
    }
    meet(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    return cycles();
}

inline uint4 load_piece(global const uchar *at)
{
#if defined(OFR_NVIDIA) && LOADS == 1
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
#elif defined(OFR_NVIDIA)
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
#else
    return *(global const uint4 *)at;
#endif
}

/* A scale as it lies in memory. */
#ifdef OFR_NVIDIA
typedef ushort raw_scale;
inline raw_scale load_scale(global const uchar *scales, ulong i)
{
    ushort v;
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(scales + 2 * i));
    return v;
}
inline float scale_value(raw_scale v)
{
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
    return f;
}
inline void prefetch_line(global const void *at)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}
inline float2 two_halves(uint v)
{
    float2 f;
    asm("{.reg .b16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}"
        : "=f"(f.x), "=f"(f.y)
        : "r"(v));
    return f;
}
#else
typedef float raw_scale;
inline raw_scale load_scale(global const uchar *scales, ulong i)
{
    return vload_half(i, (global const half *)scales);
}
inline float scale_value(raw_scale v)
{
    return v;
}
inline void prefetch_line(global const void *at)
{
}
inline float2 two_halves(uint v)
{
    return vload_half2(0, (private const half *)&v);
}
#endif

/* The weights' buffers. */
#define WINDOWS                                                                                    \
    global const uchar *window0, global const uchar *window1, global const uchar *window2,        \
        global const uchar *window3
#define WINDOWS_PASSED window0, window1, window2, window3

inline global const uchar *place(WINDOWS, local const uint *words)
{
    global const uchar *base = words[0] == 0   ? window0
                               : words[0] == 1 ? window1
                               : words[0] == 2 ? window2
                                               : window3;
    return base + (words[1] | (ulong)words[2] << 32);
}

/* TEAM_ROWS rows of a matrix that this warp makes at once. */
typedef struct rows_job {
    global const uchar *data, *scales;
    uint row, rows, shift, type, bias, chunks, at; /* at: of the matrix's first row in the output */
} rows_job;

typedef struct chunk {
    uint4 weights[TEAM_ROWS][DEPTH];
    raw_scale scales[TEAM_ROWS][DEPTH];
#ifdef HAS_MINIMA
    raw_scale minima[TEAM_ROWS][DEPTH];
#endif
} chunk;

inline rows_job find_job(WINDOWS, local const uint *matrix, uint columns, uint tile, uint warp,
                         uint at)
{
    rows_job job;
    job.data = place(WINDOWS_PASSED, matrix + PLAN_WINDOW);
    job.scales = place(WINDOWS_PASSED, matrix + PLAN_SCALE_WINDOW);
    job.row = tile * 32 + warp * TEAM_ROWS;
    job.rows = matrix[PLAN_ROWS];
    job.shift = matrix[PLAN_SHIFT];
    job.type = matrix[PLAN_TYPE];
    job.bias = matrix[PLAN_BIAS];
    job.chunks = (columns / (job.type == TYPE_I8 ? 16 : 32) - 1) / (LANES * DEPTH) + 1;
    job.at = at;
    return job;
}

/* Job k of this work-group. K and V follow Q in the plan, up follows gate. */
inline rows_job step_job(WINDOWS, local const uint *matrix, uint columns, uint step, uint k,
                         uint warp)
{
    uint groups = get_num_groups(0), tile = get_group_id(0), at = 0;
    if (step == STEP_MLP) {
        return find_job(WINDOWS_PASSED, matrix + (k & 1) * PLAN_MATRIX_WORDS, columns,
                        tile + (k >> 1) * groups, warp, 0);
    }
    tile += k * groups;
    for (uint m = 0; step == STEP_QKV && m < 2; m++) {
        uint tiles = (matrix[PLAN_ROWS] + 31) / 32;
        if (tile >= tiles) {
            tile -= tiles;
            at += matrix[PLAN_ROWS];
            matrix += PLAN_MATRIX_WORDS;
        } else {
            break;
        }
    }
    return find_job(WINDOWS_PASSED, matrix, columns, tile, warp, at);
}

inline void load_chunk(const rows_job *job, uint columns, uint index, uint lane, chunk *ret)
{
    bool bytes = job->type == TYPE_I8;
    uint units = columns / 32, pieces = bytes ? units * 2 : units;
    uint groups = max(units >> job->shift, 1u);
#pragma unroll
    for (uint r = 0; r < TEAM_ROWS; r++) {
        ulong row = min(job->row + r, job->rows - 1);
        global const uchar *data = job->data + row * pieces * 16;
#pragma unroll
        for (uint j = 0; j < DEPTH; j++) {
            uint piece = min(lane + LANES * (index * DEPTH + j), pieces - 1);
            uint unit = bytes ? piece >> 1 : piece;
            ret->weights[r][j] = load_piece(data + piece * 16);
            ret->scales[r][j] = load_scale(job->scales, row * groups + (unit >> job->shift));
#ifdef HAS_MINIMA
            ret->minima[r][j] =
                job->type == TYPE_I4M
                    ? load_scale(job->scales, (job->rows + row) * groups + (unit >> job->shift))
                    : (raw_scale)0;
#endif
        }
    }
}

/* input: the first halves of all units, the second halves, then (scale, 8 * scale * sum). */
inline void multiply_chunk(const chunk *c, uint type, uint columns, uint index, uint lane,
                           local const uint4 *input, float sums[TEAM_ROWS])
{
    uint units = columns / 32;
    local const float2 *scales = (local const float2 *)(input + 2 * units);
    if (type == TYPE_I8) {
#pragma unroll
        for (uint j = 0; j < DEPTH; j++) {
            uint piece = lane + LANES * (index * DEPTH + j), at = min(piece, 2 * units - 1);
            uint4 a = interleaved_half(input[(at & 1) * units + (at >> 1)]);
            float scale = piece < 2 * units ? scales[at >> 1].x : 0.0f;
#pragma unroll
            for (uint r = 0; r < TEAM_ROWS; r++) {
                sums[r] += scale_value(c->scales[r][j]) * scale *
                           (float)byte_dot(c->weights[r][j], a, 0);
            }
        }
        return;
    }
#pragma unroll
    for (uint j = 0; j < DEPTH; j++) {
        uint piece = lane + LANES * (index * DEPTH + j), at = min(piece, units - 1);
        uint4 a = input[at], b = input[units + at];
        float2 scale = piece < units ? scales[at] : (float2)0.0f;
#pragma unroll
        for (uint r = 0; r < TEAM_ROWS; r++) {
            float dot = (float)nibble_dot(c->weights[r][j], a, b);
            float own = scale_value(c->scales[r][j]);
#ifdef HAS_MINIMA
            if (type == TYPE_I4M) {
                sums[r] += own * (dot * scale.x) + scale_value(c->minima[r][j]) * scale.y * 0.125f;
                continue;
            }
#endif
            sums[r] += own * (dot * scale.x - scale.y);
        }
    }
}

/* A record to local memory, and 1 / rms of its row (epsilon below 0: 1) to *factor. */
inline void load_input(global const uint4 *values, global const float2 *scales,
                       global const float *squares, uint columns, float epsilon,
                       local uint4 *input, local float *sums, local float *factor)
{
    uint item = get_local_id(0), units = columns / 32;
    local float2 *to = (local float2 *)(input + 2 * units);
    for (uint i = item; i < 3 * units; i += ITEMS) {
        if (i < 2 * units) {
            input[(i & 1) * units + (i >> 1)] = values[i];
        } else {
            to[i - 2 * units] = scales[i - 2 * units];
        }
    }
    float sum = 0;
    for (uint u = item; epsilon >= 0 && u < units; u += ITEMS) {
        sum += squares[u];
    }
#if LANES == 32
    sum = warp_sum(sum);
#endif
    if (item % LANES == 0) {
        sums[item / LANES] = sum;
    }
    meet(CLK_LOCAL_MEM_FENCE);
    if (item == 0) {
        sum = 0;
        for (uint i = 0; i < WARPS; i++) {
            sum += sums[i];
        }
        *factor = epsilon >= 0 ? rsqrt(sum / (float)columns + epsilon) : 1.0f;
    }
}

/* Row r of unit `unit` is x of lane r; without warps one work-item does all 32, x in local
 * memory. */
inline void make_unit(float x, local const float *all, global const float *weight, uint lane,
                      uint unit, global char *values, global float *scales, global float *squares)
{
#if LANES == 32
    quantize_unit(x, weight ? weight[unit * 32 + lane] : 1.0f, lane, unit, values, scales,
                  squares);
#else
    float largest = 0, sum = 0;
    int total = 0;
    for (uint i = 0; i < 32; i++) {
        largest = fmax(largest, fabs(all[i] * (weight ? weight[unit * 32 + i] : 1.0f)));
        sum += all[i] * all[i];
    }
    float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (uint i = 0; i < 32; i++) {
        float own = all[i] * (weight ? weight[unit * 32 + i] : 1.0f);
        char q = convert_char_sat_rte(own * inverse);
        values[unit * 32 + byte_place(i)] = q;
        total += q;
    }
    scales[2 * unit] = largest / 127.0f;
    scales[2 * unit + 1] = 8.0f * (largest / 127.0f) * (float)total;
    if (squares) {
        squares[unit] = sum;
    }
#endif
}

/* Where the steps keep what they hand on. */
typedef struct token_state {
    global float *hidden, *qkv, *logits;
    global char *input_values, *attended_values, *gated_values;
    global float *input_scales, *attended_scales, *gated_scales;
    global float *input_squares;
    global const float *vectors;
} token_state;

/* The model's sizes; steps: of the launch, layer after layer, the head's last. */
typedef struct token_sizes {
    uint d_model, d_ff, q_width, kv_width, vocab, layers, steps;
} token_sizes;

inline uint step_of(const token_sizes *sizes, uint s)
{
    return s == sizes->layers * STEPS ? STEP_HEAD : s % STEPS;
}

/* Of a step's products: the first of its matrices in the plan, columns, tiles of its rows. */
typedef struct product {
    uint first, columns, tiles;
} product;

inline product step_product(const token_sizes *sizes, uint step)
{
    product p = {0, sizes->d_model, 0};
    if (step == STEP_QKV) {
        p.tiles = sizes->q_width / 32 + 2 * (sizes->kv_width / 32);
    } else if (step == STEP_O) {
        p.first = 3;
        p.columns = sizes->q_width;
        p.tiles = sizes->d_model / 32;
    } else if (step == STEP_MLP) {
        p.first = 4;
        p.tiles = sizes->d_ff / 32;
    } else if (step == STEP_DOWN) {
        p.first = 6;
        p.columns = sizes->d_ff;
        p.tiles = sizes->d_model / 32;
    } else {
        p.tiles = (sizes->vocab + 31) / 32;
    }
    return p;
}

/* This work-group's jobs of a step. */
inline uint step_jobs(uint step, uint tiles)
{
    uint group = get_group_id(0);
    uint waves = group < tiles ? (tiles - group - 1) / get_num_groups(0) + 1 : 0;
    return step == STEP_MLP ? 2 * waves : waves;
}

/* Sums of the rows of one tile are in `made` ([32], and up's in made + 32); what becomes of
 * them. */
inline void finish_tile(const token_state *state, local const uint *layer, uint step, uint tile,
                        uint lane, float factor, float residual_scale, float old,
                        local float *made)
{
    local const uint *matrix =
        layer + (step == STEP_O ? 3 : step == STEP_MLP ? 4 : 6) * PLAN_MATRIX_WORDS;
    uint bias = matrix[PLAN_BIAS];
    global const float *vectors = state->vectors;
    float x = 0;
    for (uint i = LANES == 32 ? lane : 0; i < 32; i += LANES) {
        uint row = tile * 32 + i;
        x = made[i] * factor + (bias != NO_VECTOR ? vectors[bias + row] : 0.0f);
        if (step == STEP_MLP) {
            uint up_bias = matrix[PLAN_MATRIX_WORDS + PLAN_BIAS];
            float up = made[32 + i] * factor;
            x = activate(x) * (up + (up_bias != NO_VECTOR ? vectors[up_bias + row] : 0.0f));
        } else {
            x = (LANES == 32 ? old : state->hidden[row]) + residual_scale * x;
            state->hidden[row] = x;
        }
        if (LANES == 1) {
            made[i] = x;
        }
    }
    if (step == STEP_MLP) {
        make_unit(x, made, 0, lane, tile, state->gated_values, state->gated_scales, 0);
        return;
    }
    uint norm = layer[step == STEP_O ? PLAN_NORM_O : PLAN_NORM_DOWN];
    if (norm != NO_VECTOR) {
        make_unit(x, made, vectors + norm, lane, tile, state->input_values, state->input_scales,
                  state->input_squares);
    }
}

/* The products of step s; returns when it could begin. */
inline uint multiply_step(WINDOWS, const token_sizes *sizes, local const uint *plan, uint s,
                          float epsilon, float residual_scale, const token_state *state,
                          volatile global uint *sync, uint target, local uint4 *scratch,
                          local float *made, local float *sums_of_warps, local float *factor_place)
{
    uint item = get_local_id(0), lane = item % LANES, warp = item / LANES;
    uint group = get_group_id(0), groups = get_num_groups(0), step = step_of(sizes, s);
    product of = step_product(sizes, step);
    uint columns = of.columns, jobs = step_jobs(step, of.tiles);
    uint waves = step == STEP_MLP ? jobs / 2 : jobs;
    local const uint *layer = plan + s / STEPS % 2 * PLAN_LAYER_WORDS;
    local const uint *matrix = layer + of.first * PLAN_MATRIX_WORDS;
    chunk now, next;
    rows_job job, following;
    float old = 0;
    if (jobs > 0) {
        job = step_job(WINDOWS_PASSED, matrix, columns, step, 0, warp);
        load_chunk(&job, columns, 0, lane, &now);
        if (LANES == 32 && (step == STEP_O || step == STEP_DOWN) && warp < waves) {
            old = state->hidden[(group + warp * groups) * 32 + lane]; /* this warp's own */
        }
    }
    uint begun = wait_for(sync, target);
    global const char *values = step == STEP_O      ? state->attended_values
                                : step == STEP_DOWN ? state->gated_values
                                                    : state->input_values;
    global const float *scales = step == STEP_O      ? state->attended_scales
                                 : step == STEP_DOWN ? state->gated_scales
                                                     : state->input_scales;
    bool normed = step != STEP_O && step != STEP_DOWN;
    load_input((global const uint4 *)values, (global const float2 *)scales, state->input_squares,
               columns, normed ? epsilon : -1.0f, scratch, sums_of_warps, factor_place);
    meet(CLK_LOCAL_MEM_FENCE);
    float factor = *factor_place, sums[TEAM_ROWS];
    for (uint r = 0; r < TEAM_ROWS; r++) {
        sums[r] = 0;
    }
    following = job;
    for (uint k = 0, index = 0; k < jobs;) {
        bool ends = index + 1 >= job.chunks;
        uint next_k = ends ? k + 1 : k, next_index = ends ? 0 : index + 1;
        if (ends && next_k < jobs) {
            following = step_job(WINDOWS_PASSED, matrix, columns, step, next_k, warp);
        }
        if (next_k < jobs) {
            load_chunk(&following, columns, next_index, lane, &next);
        }
        multiply_chunk(&now, job.type, columns, index, lane, scratch, sums);
        if (ends) {
#pragma unroll
            for (uint r = 0; r < TEAM_ROWS; r++) {
#if LANES == 32
                float sum = warp_sum(sums[r]);
#else
                float sum = sums[r];
#endif
                uint row = job.row + r;
                if (step == STEP_QKV || step == STEP_HEAD) {
                    global float *to = step == STEP_HEAD ? state->logits : state->qkv;
                    if (lane == 0 && row < job.rows) {
                        to[job.at + row] =
                            sum * factor +
                            (job.bias != NO_VECTOR ? state->vectors[job.bias + row] : 0.0f);
                    }
                } else if (lane == 0) {
                    made[k * 32 + warp * TEAM_ROWS + r] = sum;
                }
                sums[r] = 0;
            }
        }
        k = next_k;
        index = next_index;
        now = next;
        job = following;
    }
    if (step == STEP_QKV || step == STEP_HEAD) {
        return begun;
    }
    meet(CLK_LOCAL_MEM_FENCE);
    for (uint w = warp; w < waves; w += WARPS) {
        uint tile = group + w * groups;
        if (LANES == 32 && w != warp && step != STEP_MLP) {
            old = state->hidden[tile * 32 + lane];
        }
        finish_tile(state, layer, step, tile, lane, factor, residual_scale, old,
                    made + (step == STEP_MLP ? 64 : 32) * w);
    }
    return begun;
}

/* Attention: a work-group takes a KV head, up to HEADS_AT_ONCE of its query heads, and the keys of
 * one split; KEY_LANES lanes share a key, 8 elements each. */
#define HEADS_AT_ONCE (HEADS < 4 ? HEADS : 4)
#define SUBSETS ((HEADS + HEADS_AT_ONCE - 1) / HEADS_AT_ONCE)
#define PARTS (HEAD_DIM / 8)
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
#define LANE_DIMS (LANE_PARTS * 8)
#define KEY_SLOTS (ITEMS / KEY_LANES)
#ifndef KEYS_AHEAD
#define KEYS_AHEAD (LANES == 1 ? 1 : HEADS_AT_ONCE > 2 ? 2 : 4)
#endif
#define SPLIT_KEYS_LEAST 16
#define MERGED 4 /* splits put together at a time */
#define PARTIAL_ROW (HEAD_DIM + 2)
#define LOG2_E 1.4426950408889634f

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
    c.splits = min(min(c.splits, (uint)MAX_SPLITS),
                   (c.keys + SPLIT_KEYS_LEAST - 1) / SPLIT_KEYS_LEAST);
    c.split_keys = (c.keys - 1) / c.splits + 1;
    c.splits = (c.keys - 1) / c.split_keys + 1;
    return c;
}

/* Row `from` of a head, normed and turned, by one warp: element i to where(i). */
#define TURN_HEAD(x, norm, store)                                                                  \
    {                                                                                              \
        float turn_factor = 1;                                                                     \
        if ((norm) != NO_VECTOR) {                                                                 \
            float turn_sum = 0;                                                                    \
            for (uint e = lane; e < HEAD_DIM; e += LANES) {                                        \
                turn_sum += (x)[e] * (x)[e];                                                       \
            }                                                                                      \
            turn_factor = rsqrt(warp_total(turn_sum) / (float)HEAD_DIM + epsilon);                 \
        }                                                                                          \
        for (uint p = lane; p < HEAD_DIM / 2; p += LANES) {                                        \
            uint2 at;                                                                              \
            float2 turned = turned_pair(x, p, rope & 0xffff, pass, rope >> 16, 0, turn_factor,     \
                                        (norm) != NO_VECTOR ? vectors + (norm) : 0, &at);          \
            store;                                                                                 \
        }                                                                                          \
    }

inline float warp_total(float x)
{
#if LANES == 32
    return warp_sum(x);
#else
    return x;
#endif
}

inline uint attend(local const uint *layer, uint n_kv_heads, float factor, float epsilon,
                   global half *kv, ulong slot_stride, global const uint *pass,
                   const token_state *state, volatile global uint *sync, uint target,
                   global float *partial, local float *scratch, local int *is_last)
{
    uint item = get_local_id(0), lane = item % LANES, warp = item / LANES;
    uint4 token = pass_token(pass, 0);
    uint position = token.z, width = n_kv_heads * HEAD_DIM, pairs = n_kv_heads * SUBSETS;
    uint rope = layer[PLAN_ROPE], q_norm = layer[PLAN_Q_NORM], k_norm = layer[PLAN_K_NORM];
    cut keys = cut_keys(layer, position, pairs);
    global const float *vectors = state->vectors;
    local float *query = scratch, *out = scratch + HEADS_AT_ONCE * HEAD_DIM;
    local float *gathered = out + HEADS_AT_ONCE * HEAD_DIM; /* [GATHER][WARPS][HEAD_DIM] */
    local float *tops = gathered + GATHER * WARPS * HEAD_DIM, *totals = tops + GATHER * WARPS;
    global half *strips = kv + token.y * slot_stride;
    global half *k_strips = strips + (layer[PLAN_STRIPS] | (ulong)layer[PLAN_STRIPS + 1] << 32);
    global half *v_strips = strips + (layer[PLAN_STRIPS + 2] | (ulong)layer[PLAN_STRIPS + 3] << 32);
#ifdef OFR_NVIDIA
    if (get_group_id(0) < pairs * keys.splits) { /* keys of earlier tokens are there already */
        uint head = get_group_id(0) / keys.splits / SUBSETS;
        uint begin = keys.first + get_group_id(0) % keys.splits * keys.split_keys;
        uint lines = (HEAD_DIM + 63) / 64;
        for (uint i = item; i < keys.split_keys * lines * 2; i += ITEMS) {
            uint key = min(begin + i / (2 * lines), position);
            global half *strip = i / lines % 2 ? v_strips : k_strips;
            prefetch_line(strip + (ulong)key * width + head * HEAD_DIM + i % lines * 64);
        }
    }
#endif
    uint begun = wait_for(sync, target);
    for (uint i = get_group_id(0); i < pairs * keys.splits; i += get_num_groups(0)) {
        uint pair = i / keys.splits, split = i % keys.splits;
        uint head = pair / SUBSETS, first_head = pair % SUBSETS * HEADS_AT_ONCE;
        uint heads = min((uint)HEADS_AT_ONCE, (uint)HEADS - first_head);
        uint begin = keys.first + split * keys.split_keys;
        uint end = min(begin + keys.split_keys, position + 1);
        global half *k_strip = k_strips + head * HEAD_DIM, *v_strip = v_strips + head * HEAD_DIM;
        for (uint h = warp; h < HEADS_AT_ONCE + 2; h += WARPS) {
            global const float *x = state->qkv + (head * HEADS + first_head + h) * HEAD_DIM;
            if (h < heads) {
                local float *to = query + h * HEAD_DIM;
                TURN_HEAD(x, q_norm, to[at.x] = turned.x * factor; to[at.y] = turned.y * factor)
            } else if (h == HEADS_AT_ONCE && end == position + 1) {
                x = state->qkv + HEADS * width + head * HEAD_DIM;
                global half *to = k_strip + (ulong)position * width;
                TURN_HEAD(x, k_norm, vstore_half_rte(turned.x, at.x, to);
                          vstore_half_rte(turned.y, at.y, to))
            } else if (h == HEADS_AT_ONCE + 1 && end == position + 1) {
                x = state->qkv + (HEADS + 1) * width + head * HEAD_DIM;
                for (uint e = lane; e < HEAD_DIM; e += LANES) {
                    vstore_half_rte(x[e], (ulong)position * width + e, v_strip);
                }
            }
        }
        meet(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
        float q[HEADS_AT_ONCE][LANE_DIMS], sum[HEADS_AT_ONCE][LANE_DIMS];
        float top[HEADS_AT_ONCE], total[HEADS_AT_ONCE];
        uint part = item % KEY_LANES, slot = item / KEY_LANES;
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
        for (uint base = begin; base < end; base += KEY_SLOTS * KEYS_AHEAD) {
            uint4 k[KEYS_AHEAD][LANE_PARTS], v[KEYS_AHEAD][LANE_PARTS];
#pragma unroll
            for (uint a = 0; a < KEYS_AHEAD; a++) {
                ulong row = (ulong)min(base + a * KEY_SLOTS + slot, end - 1) * width;
#pragma unroll
                for (uint c = 0; c < LANE_PARTS; c++) {
                    uint at = min(part + c * KEY_LANES, (uint)PARTS - 1);
                    k[a][c] = vload4(at, (global const uint *)(k_strip + row));
                    v[a][c] = vload4(at, (global const uint *)(v_strip + row));
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
                    widen8(k[a][c], wide);
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
                    score[a][h] =
                        base + a * KEY_SLOTS + slot < end ? score[a][h] : LOWEST;
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
                    widen8(v[a][c], wide);
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
        global float *parts = partial + (ulong)pair * MAX_SPLITS * HEADS_AT_ONCE * PARTIAL_ROW;
#pragma unroll
        for (uint h0 = 0; h0 < HEADS_AT_ONCE; h0 += GATHER) { /* the warps, GATHER heads at once */
            meet(CLK_LOCAL_MEM_FENCE);
            if (lane < KEY_LANES) {
#pragma unroll
                for (uint h = h0; h < h0 + GATHER && h < HEADS_AT_ONCE; h++) {
                    uint place = (h - h0) * WARPS + warp;
#pragma unroll
                    for (uint e = 0; e < LANE_DIMS; e++) {
                        uint at = (part + e / 8 * KEY_LANES) * 8 + e % 8;
                        if (at < HEAD_DIM) {
                            gathered[place * HEAD_DIM + at] = sum[h][e];
                        }
                    }
                    if (lane == 0) {
                        tops[place] = top[h];
                        totals[place] = total[h];
                    }
                }
            }
            meet(CLK_LOCAL_MEM_FENCE);
            for (uint i = item; i < GATHER * HEAD_DIM; i += ITEMS) {
                uint h = h0 + i / HEAD_DIM, e = i % HEAD_DIM, place = i / HEAD_DIM * WARPS;
                float best = LOWEST, all = 0, own = 0;
                if (h >= heads) {
                    break;
                }
                for (uint w = 0; w < WARPS; w++) {
                    best = fmax(best, tops[place + w]);
                }
                for (uint w = 0; w < WARPS; w++) {
                    float weight = power(tops[place + w] - best);
                    all += weight * totals[place + w];
                    own += weight * gathered[(place + w) * HEAD_DIM + e];
                }
                if (keys.splits == 1) {
                    out[h * HEAD_DIM + e] = own / all;
                    continue;
                }
                global float *to = parts + (split * HEADS_AT_ONCE + h) * PARTIAL_ROW;
                to[2 + e] = own;
                if (e == 0) {
                    to[0] = best;
                    to[1] = all;
                }
            }
        }
        if (keys.splits > 1) { /* the last split to arrive puts them together */
            device_fence();
            meet(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
            if (item == 0) {
                volatile global int *counter = (volatile global int *)sync + SYNC_PAIRS + pair;
                *is_last = atomic_inc(counter) == (int)keys.splits - 1;
                if (*is_last) {
                    *counter = 0;
                }
            }
            meet(CLK_LOCAL_MEM_FENCE);
            bool last = *is_last;
            meet(CLK_LOCAL_MEM_FENCE);
            if (!last) {
                continue;
            }
            device_fence();
            for (uint e = item; e < heads * HEAD_DIM; e += ITEMS) {
                global const float *from = parts + e / HEAD_DIM * PARTIAL_ROW;
                uint stride = HEADS_AT_ONCE * PARTIAL_ROW;
                float best = LOWEST, all = 0, own = 0;
                for (uint first = 0; first < keys.splits; first += MERGED) {
                    float tops_of[MERGED], all_of[MERGED], own_of[MERGED], now = best;
#pragma unroll
                    for (uint k = 0; k < MERGED; k++) { /* all loads at once */
                        global const float *row = from + min(first + k, keys.splits - 1) * stride;
                        tops_of[k] = row[0];
                        all_of[k] = row[1];
                        own_of[k] = row[2 + e % HEAD_DIM];
                    }
#pragma unroll
                    for (uint k = 0; k < MERGED; k++) {
                        now = fmax(now, tops_of[k]);
                    }
                    float correction = power(best - now);
                    all *= correction;
                    own *= correction;
                    best = now;
#pragma unroll
                    for (uint k = 0; k < MERGED; k++) {
                        float weight = first + k < keys.splits ? power(tops_of[k] - best) : 0.0f;
                        all += weight * all_of[k];
                        own += weight * own_of[k];
                    }
                }
                out[e] = own / all;
            }
        }
        meet(CLK_LOCAL_MEM_FENCE);
        uint unit = (head * HEADS + first_head) * (HEAD_DIM / 32);
        for (uint u = warp; u < heads * HEAD_DIM / 32; u += WARPS) {
            make_unit(out[u * 32 + lane], out + u * 32, 0, lane, unit + u, state->attended_values,
                      state->attended_scales, 0);
        }
        meet(CLK_LOCAL_MEM_FENCE);
    }
    return begun;
}

/* Layers [0, n_layers) of the plan, then the head, whose matrix follows them. flags: 1 with the
 * head, 2 without attention (a rehearsal must not touch anybody's KV). The input record holds the
 * first layer's input. epoch: arrivals before this launch. */
kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void
token_layers(WINDOWS, global const uint *plan, uint n_layers, uint flags, uint epoch,
             volatile global uint *sync, global const float *vectors, global const uint *pass,
             uint d_model, uint d_ff, uint n_kv_heads, uint vocab, float epsilon, float factor,
             float residual_scale, global half *kv, ulong slot_stride, global float *hidden,
             global float *qkv, global float *logits, global float *partial,
             global char *input_values, global float *input_scales, global float *input_squares,
             global char *attended_values, global float *attended_scales,
             global char *gated_values, global float *gated_scales)
{
    local uint4 scratch[SCRATCH_BYTES / 16];
    local float made[WAVES * 64], sums_of_warps[WARPS], factor_place;
    local uint words[2 * PLAN_LAYER_WORDS]; /* of this layer and of the next, by turns */
    local int is_last;
    token_state state = {hidden,       qkv,           logits,          input_values,
                         attended_values, gated_values, input_scales,   attended_scales,
                         gated_scales, input_squares, vectors};
    token_sizes sizes = {d_model, d_ff, n_kv_heads * HEADS * HEAD_DIM, n_kv_heads * HEAD_DIM, vocab,
                         n_layers, n_layers * STEPS + (flags & 1)};
    uint target = epoch;
    for (uint i = get_local_id(0); i < PLAN_LAYER_WORDS; i += ITEMS) {
        words[i] = plan[i];
    }
    meet(CLK_LOCAL_MEM_FENCE);
    for (uint s = 0; s < sizes.steps; s++) {
        uint step = step_of(&sizes, s), start = cycles(), begun;
        if (step == STEP_ATTENTION) {
            local const uint *layer = words + s / STEPS % 2 * PLAN_LAYER_WORDS;
            local uint *next = words + (s / STEPS + 1) % 2 * PLAN_LAYER_WORDS;
            for (uint i = get_local_id(0); i < PLAN_LAYER_WORDS; i += ITEMS) {
                next[i] = plan[(s / STEPS + 1) * PLAN_LAYER_WORDS + i];
            }
            begun = flags & 2 ? wait_for(sync, target)
                              : attend(layer, n_kv_heads, factor, epsilon, kv, slot_stride, pass,
                                       &state, sync, target, partial, (local float *)scratch,
                                       &is_last);
        } else {
            begun = multiply_step(WINDOWS_PASSED, &sizes, words, s, epsilon, residual_scale,
                                  &state, sync, target, scratch, made, sums_of_warps,
                                  &factor_place);
        }
#ifdef TRACE
        if (get_group_id(0) == 0 && get_local_id(0) == 0) {
            sync[SYNC_TRACE + 2 * step] += begun - start;
            sync[SYNC_TRACE + 2 * step + 1] += cycles() - begun;
        }
#endif
        arrive(sync);
        target += get_num_groups(0);
    }
}
