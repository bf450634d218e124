/* One token in one launch, second part: the products of a step, from the plan's matrices to the
 * record that the next step reads. */
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
    global const uchar *window0, global const uchar *window1, global const uchar *window2,         \
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

/* A matrix of this layer or the next, in local memory. */
typedef struct matrix_view {
    global const uchar *data, *scales;
    uint rows, pitch, scale_pitch; /* bytes of a row */
    uint pieces, chunks;           /* of a row */
    uint shift;                    /* piece i has scale i >> shift */
    uint type, bias;
} matrix_view;

/* Up to 32 rows of a matrix, from `row` to `end`; this warp's are row + warp, WARPS apart. at: of
 * the matrix's first row in the output. */
typedef struct rows_job {
    local const matrix_view *matrix;
    uint row, end, at;
} rows_job;

typedef struct chunk {
    uint4 weights[TEAM_ROWS][DEPTH];
    raw_scale scales[TEAM_ROWS][DEPTH];
#ifdef HAS_MINIMA
    raw_scale minima[TEAM_ROWS][DEPTH];
#endif
} chunk;

inline matrix_view make_view(WINDOWS, local const uint *words, uint columns)
{
    matrix_view v;
    uint bytes = words[PLAN_TYPE] == TYPE_I8, units = columns / 32;
    v.data = place(WINDOWS_PASSED, words + PLAN_WINDOW);
    v.scales = place(WINDOWS_PASSED, words + PLAN_SCALE_WINDOW);
    v.rows = words[PLAN_ROWS];
    v.pieces = units << bytes;
    v.pitch = v.pieces * 16;
    v.scale_pitch = max(units >> words[PLAN_SHIFT], 1u) * 2;
    v.chunks = (v.pieces - 1) / (LANES * DEPTH) + 1;
    v.shift = min(words[PLAN_SHIFT] + bytes, 31u);
    v.type = words[PLAN_TYPE];
    v.bias = words[PLAN_BIAS];
    return v;
}

inline void load_chunk(const rows_job *job, uint index, uint warp, uint lane, chunk *ret)
{
    local const matrix_view *m = job->matrix;
    uint pieces = m->pieces, shift = m->shift, offsets[DEPTH], groups[DEPTH];
#pragma unroll
    for (uint j = 0; j < DEPTH; j++) {
        uint piece = min(lane + LANES * (index * DEPTH + j), pieces - 1);
        offsets[j] = piece * 16;
        groups[j] = piece >> shift;
    }
#pragma unroll
    for (uint r = 0; r < TEAM_ROWS; r++) {
        uint row = min(job->row + warp + r * WARPS, job->end - 1);
        global const uchar *data = m->data + (ulong)row * m->pitch;
        global const uchar *scales = m->scales + (ulong)row * m->scale_pitch;
#pragma unroll
        for (uint j = 0; j < DEPTH; j++) {
            ret->weights[r][j] = load_piece(data + offsets[j]);
            ret->scales[r][j] = load_scale(scales, groups[j]);
#ifdef HAS_MINIMA
            ret->minima[r][j] =
                m->type == TYPE_I4M
                    ? load_scale(scales + (ulong)m->rows * m->scale_pitch, groups[j])
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
                sums[r] +=
                    scale_value(c->scales[r][j]) * scale * (float)byte_dot(c->weights[r][j], a, 0);
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

/* Where the steps keep what they hand on: records, and pairs for what attention reads. */
typedef struct token_state {
    global float *hidden, *logits;
    global uint2 *heads;
    global uint4 *input, *attended, *gated;
    global const float *vectors;
    volatile global uint *sync;
    uint tag; /* of what the first step reads; step s reads tag + s and makes tag + s + 1 */
    float epsilon, residual_scale;
    bool keeps_hidden; /* the last layer's goes to `hidden` */
} token_state;

/* The model's sizes; steps: of the launch, layer after layer, the head's last. */
typedef struct token_sizes {
    uint d_model, d_ff, q_width, kv_width, vocab, layers, steps;
} token_sizes;

/* x, so that nothing made of it is kept from step to step: that would cost registers. */
inline uint opaque(uint x)
{
#ifdef OFR_NVIDIA
    asm volatile("" : "+r"(x)::"memory");
#endif
    return x;
}

inline uint step_of(const token_sizes *sizes, uint s)
{
    return s == sizes->layers * STEPS ? STEP_HEAD : s % STEPS;
}

/* What a kind of step is for this work-group, made once, in local memory. Its jobs follow one
 * another by `at`: of Q, K, V and of the head, of which it takes rows next to one another, that is
 * the job's first row of all matrices', else its number. */
typedef struct step_kind {
    uint columns;
    uint matrix;      /* the first, as the plan has them */
    uint first, last; /* at, from first to before last */
} step_kind;

inline bool takes_rows(uint step)
{
    return step == STEP_QKV || step == STEP_HEAD;
}

inline step_kind make_kind(const token_sizes *sizes, uint step)
{
    uint group = get_group_id(0), groups = get_num_groups(0), rows = sizes->d_model, matrix = 0;
    step_kind k = {sizes->d_model, 0, 0, 0};
    if (step == STEP_QKV) {
        rows = sizes->q_width + 2 * sizes->kv_width;
    } else if (step == STEP_O) {
        matrix = 3;
        k.columns = sizes->q_width;
    } else if (step == STEP_MLP) {
        matrix = 4;
        rows = sizes->d_ff;
    } else if (step == STEP_DOWN) {
        matrix = 6;
        k.columns = sizes->d_ff;
    } else {
        rows = sizes->vocab;
    }
    k.matrix = matrix;
    if (takes_rows(step)) {
        uint own = (((rows + 15) / 16 - 1) / groups + 1) * 16;
        k.first = min(group * own, rows);
        k.last = min(k.first + own, rows);
    } else {
        uint tiles = rows / 32, own = group < tiles ? (tiles - group - 1) / groups + 1 : 0;
        k.last = step == STEP_MLP ? 2 * own : own;
    }
    return k;
}

/* What the kernel keeps in local memory for products. Layers take turns in it, two at a time. */
typedef struct step_plan {
    matrix_view views[2][LAYER_MATRICES];
    step_kind kinds[STEP_HEAD + 1];
    uint words[2][PLAN_LAYER_WORDS];
} step_plan;

/* Of a layer whose words are there. Called by all, ends with a barrier. */
inline void make_views(WINDOWS, uint layer, local step_plan *plan)
{
    for (uint i = get_local_id(0); i < LAYER_MATRICES; i += ITEMS) {
        uint step = i < 3 ? STEP_QKV : i == 3 ? STEP_O : i < 6 ? STEP_MLP : STEP_DOWN;
        plan->views[layer % 2][i] =
            make_view(WINDOWS_PASSED, plan->words[layer % 2] + i * PLAN_MATRIX_WORDS,
                      plan->kinds[step].columns);
    }
    meet(CLK_LOCAL_MEM_FENCE);
}

inline rows_job find_job(local const step_plan *plan, uint s, uint step, uint at)
{
    local const step_kind *kind = plan->kinds + step;
    rows_job job = {plan->views[s / STEPS % 2] + kind->matrix, 0, 0, 0};
    if (takes_rows(step)) {
        for (uint m = 0; step == STEP_QKV && m < 2 && at - job.at >= job.matrix->rows; m++) {
            job.at += job.matrix->rows; /* K and V follow Q in the plan */
            job.matrix++;
        }
        job.row = at - job.at;
        job.end = min(min(job.row + 32, kind->last - job.at), job.matrix->rows);
    } else {
        if (step == STEP_MLP) { /* up follows gate */
            job.matrix += at & 1;
        }
        job.row = (get_group_id(0) + (step == STEP_MLP ? at >> 1 : at) * get_num_groups(0)) * 32;
        job.end = job.row + 32;
    }
    return job;
}

/* Sums of the rows of one tile are in `made` ([32], and up's in made + 32); what becomes of them.
 * weight: this lane's of the norm that follows; *old: this lane's hidden state. */
inline void finish_tile(const token_state *state, const token_sizes *sizes, local const uint *layer,
                        uint step, uint s, uint tile, uint lane, float factor, float weight,
                        float *old, local float *made)
{
    local const uint *matrix = layer + (step == STEP_O     ? 3
                                        : step == STEP_MLP ? 4
                                                           : 6) *
                                           PLAN_MATRIX_WORDS;
    uint bias = matrix[PLAN_BIAS], tag = state->tag + s + 1;
    global const float *vectors = state->vectors;
    bool keeps = LANES == 1 || (state->keeps_hidden && s + 1 == sizes->layers * STEPS);
    float x = 0;
    for (uint i = LANES == 32 ? lane : 0; i < 32; i += LANES) {
        uint row = tile * 32 + i;
        x = made[i] * factor + (bias != NO_VECTOR ? vectors[bias + row] : 0.0f);
        if (step == STEP_MLP) {
            uint up_bias = matrix[PLAN_MATRIX_WORDS + PLAN_BIAS];
            float up = made[32 + i] * factor;
            x = activate(x) * (up + (up_bias != NO_VECTOR ? vectors[up_bias + row] : 0.0f));
        } else {
            x = (LANES == 32 ? *old : state->hidden[row]) + state->residual_scale * x;
            if (keeps) {
                state->hidden[row] = x;
            }
        }
        if (LANES == 1) {
            made[i] = x;
        }
    }
    if (step == STEP_MLP) {
        make_unit(x, made, 1, 0, lane, tile, sizes->d_ff / 32, tag, state->gated);
        return;
    }
    *old = x;
    uint norm = layer[step == STEP_O ? PLAN_NORM_O : PLAN_NORM_DOWN];
    if (norm != NO_VECTOR) {
        make_unit(x, made, weight, vectors + norm + tile * 32, lane, tile, sizes->d_model / 32, tag,
                  state->input);
    }
}

/* The products of step s. *old: hidden state of this warp's tile. Returns when it could begin. */
inline uint multiply_step(const token_sizes *sizes, local const step_plan *plan, uint s,
                          const token_state *state, float *old, local uint4 *scratch,
                          local float *made, local float *sums_of_warps)
{
    uint item = opaque(get_local_id(0)), lane = item % LANES, warp = item / LANES;
    uint group = get_group_id(0), groups = get_num_groups(0), step = step_of(sizes, s);
    local const step_kind *kind = plan->kinds + step;
    local const uint *layer = plan->words[s / STEPS % 2];
    bool adds = step == STEP_O || step == STEP_DOWN;
    uint at = kind->first, columns = kind->columns, ready = cycles();
    if (at >= kind->last) {
        return ready;
    }
    chunk now, next;
    rows_job job = find_job(plan, s, step, at), following = job;
    load_chunk(&job, 0, warp, lane, &now);
    uint waves = takes_rows(step) ? 0 : step == STEP_MLP ? kind->last / 2 : kind->last;
    float weight = 1, own = *old;
    if (LANES == 32 && adds && warp < waves) {
        uint norm = layer[step == STEP_O ? PLAN_NORM_O : PLAN_NORM_DOWN];
        weight = norm != NO_VECTOR ? state->vectors[norm + (group + warp * groups) * 32 + lane] : 1;
    }
    global const uint4 *record = step == STEP_O      ? state->attended
                                 : step == STEP_DOWN ? state->gated
                                                     : state->input;
    ready = load_input(record, columns, state->tag + s, state->sync, scratch, sums_of_warps);
    float factor = 1, sums[TEAM_ROWS];
    if (!adds) {
        factor = 0;
        for (uint i = 0; i < WARPS; i++) {
            factor += sums_of_warps[i];
        }
        factor = rsqrt(factor / (float)columns + state->epsilon);
    }
#pragma unroll
    for (uint r = 0; r < TEAM_ROWS; r++) {
        sums[r] = 0;
    }
    for (uint index = 0; at < kind->last;) {
        bool ends = index + 1 >= job.matrix->chunks;
        uint next_at = !ends ? at : takes_rows(step) ? job.at + job.end : at + 1;
        uint next_index = ends ? 0 : index + 1;
        if (next_at < kind->last) {
            following = find_job(plan, s, step, next_at);
            load_chunk(&following, next_index, warp, lane, &next);
        }
        multiply_chunk(&now, job.matrix->type, columns, index, lane, scratch, sums);
        if (ends) {
            uint bias = job.matrix->bias;
#if LANES == 32
#pragma unroll
            for (int d = 16; d > 0; d /= 2) {
#pragma unroll
                for (uint r = 0; r < TEAM_ROWS; r++) {
                    sums[r] += warp_shift(sums[r], d);
                }
            }
#endif
#pragma unroll
            for (uint r = 0; r < TEAM_ROWS; r++) {
                float sum = sums[r];
                uint row = job.row + warp + r * WARPS;
                if (takes_rows(step)) {
                    if (lane == r % LANES && row < job.end) {
                        sum =
                            sum * factor + (bias != NO_VECTOR ? state->vectors[bias + row] : 0.0f);
                        if (step == STEP_HEAD) {
                            state->logits[row] = sum;
                        } else {
                            store_pair(state->heads + job.at + row, sum, state->tag + s + 1);
                        }
                    }
                } else if (lane == 0) {
                    made[at * 32 + warp + r * WARPS] = sum;
                }
                sums[r] = 0;
            }
        }
        now = next;
        job = following;
        at = next_at;
        index = next_index;
    }
    meet(CLK_LOCAL_MEM_FENCE);
    for (uint w = warp; w < waves; w += WARPS) {
        finish_tile(state, sizes, layer, step, s, group + w * groups, lane, factor, weight, &own,
                    made + (step == STEP_MLP ? 64 : 32) * w);
    }
    *old = own;
#ifndef OFR_NVIDIA
    meet(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
#endif
    return ready;
}
