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

/* Where no group of the model is narrower than four pieces a chunk has no more groups of a row than
 * a warp has lanes: each lane loads the scale of one and gets others' from their lanes. */
#if defined(WIDE_GROUPS) && LANES == 32
#define SCALES 1
#else
#define SCALES DEPTH
#endif

typedef struct chunk {
    uint4 weights[TEAM_ROWS][DEPTH];
    raw_scale scales[TEAM_ROWS][SCALES];
#ifdef HAS_MINIMA
    raw_scale minima[TEAM_ROWS][SCALES];
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
    uint pieces = m->pieces, shift = m->shift, first = lane + LANES * DEPTH * index;
    bool whole = LANES * DEPTH * (index + 1) <= pieces; /* most are: offsets are constants then */
    global const uchar *all = m->data + (ulong)job->row * m->pitch;
    global const uchar *all_scales = m->scales + (ulong)job->row * m->scale_pitch;
    uint groups[SCALES];
#if SCALES == 1 && DEPTH > 1
    groups[0] = min((LANES * DEPTH * index >> shift) + lane, (pieces - 1) >> shift);
#else
#pragma unroll
    for (uint j = 0; j < SCALES; j++) {
        groups[j] = min(first + LANES * j, pieces - 1) >> shift;
    }
#endif
#pragma unroll
    for (uint r = 0; r < TEAM_ROWS; r++) {
        uint row = min(warp + r * WARPS, job->end - 1 - job->row);
        global const uchar *data = all + row * m->pitch;
        global const uchar *scales = all_scales + row * m->scale_pitch;
        if (whole) {
            data += first * 16;
#pragma unroll
            for (uint j = 0; j < DEPTH; j++) {
                ret->weights[r][j] = load_piece(data + LANES * 16 * j);
            }
        } else {
#pragma unroll
            for (uint j = 0; j < DEPTH; j++) {
                ret->weights[r][j] = load_piece(data + min(first + LANES * j, pieces - 1) * 16);
            }
        }
#pragma unroll
        for (uint j = 0; j < SCALES; j++) {
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

/* As nibble_dot, times 16: nibbles stay where they are in their bytes, which saves shifting. */
inline int nibble_products(uint4 w, uint4 a, uint4 b)
{
    uint4 low = (w ^ (uint4)0x08080808u) & (uint4)0x0f0f0f0fu;
    uint4 high = (w ^ (uint4)0x80808080u) & (uint4)0xf0f0f0f0u;
    int lower = dot4_us(low.x, a.x, 0), upper = dot4_us(high.x, a.y, 0);
    lower = dot4_us(low.y, a.z, lower);
    upper = dot4_us(high.y, a.w, upper);
    lower = dot4_us(low.z, b.x, lower);
    upper = dot4_us(high.z, b.y, upper);
    lower = dot4_us(low.w, b.z, lower);
    upper = dot4_us(high.w, b.w, upper);
    return lower * 16 + upper;
}

/* Of the lane's piece j of a chunk whose first is `first`, among what the lanes loaded. */
inline float scale_of(const float scales[SCALES], uint j, uint shift, uint first, uint lane)
{
#if SCALES == 1 && DEPTH > 1
    return as_float(
        warp_take(as_uint(scales[0]), ((first + LANES * j) >> shift) - ((first - lane) >> shift)));
#else
    return scales[j];
#endif
}

/* input: the first halves of all units, the second halves, then (scale / 16, 8 * scale * sum). */
inline void multiply_chunk(const chunk *c, uint type, uint shift, uint columns, uint index,
                           uint lane, local const uint4 *input, float sums[TEAM_ROWS])
{
    uint units = columns / 32, first = lane + LANES * DEPTH * index;
    local const float2 *scales = (local const float2 *)(input + 2 * units);
    float of_rows[TEAM_ROWS][SCALES], minima[TEAM_ROWS][SCALES];
#pragma unroll
    for (uint r = 0; r < TEAM_ROWS; r++) {
#pragma unroll
        for (uint j = 0; j < SCALES; j++) {
            of_rows[r][j] = scale_value(c->scales[r][j]);
#ifdef HAS_MINIMA
            minima[r][j] = scale_value(c->minima[r][j]);
#endif
        }
    }
    if (type == TYPE_I8) {
#pragma unroll
        for (uint j = 0; j < DEPTH; j++) {
            uint piece = first + LANES * j, at = min(piece, 2 * units - 1);
            uint4 a = interleaved_half(input[(at & 1) * units + (at >> 1)]);
            float scale = scales[at >> 1].x * (piece < 2 * units ? 1.0f / INPUT_SCALE : 0.0f);
#pragma unroll
            for (uint r = 0; r < TEAM_ROWS; r++) {
                float own = scale_of(of_rows[r], j, shift, first, lane);
                sums[r] += own * scale * (float)byte_dot(c->weights[r][j], a, 0);
            }
        }
        return;
    }
#pragma unroll
    for (uint j = 0; j < DEPTH; j++) {
        uint piece = first + LANES * j, at = min(piece, units - 1);
        uint4 a = input[at], b = input[units + at];
        float2 scale = scales[at] * (piece < units ? 1.0f : 0.0f); /* a branch doubles the code */
#pragma unroll
        for (uint r = 0; r < TEAM_ROWS; r++) {
            float dot = (float)nibble_products(c->weights[r][j], a, b);
            float own = scale_of(of_rows[r], j, shift, first, lane);
#ifdef HAS_MINIMA
            if (type == TYPE_I4M) {
                sums[r] += own * (dot * scale.x) +
                           scale_of(minima[r], j, shift, first, lane) * scale.y * 0.125f;
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
    global uint2 *heads, *helped;
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
    /* Of the MLP, where some work-groups have a tile more than others: whether this one makes up's
     * rows for another (1, its first job), and which; whether another makes them for its last tile.
     */
    uint helps, help_tile, helped;
} step_kind;

inline bool takes_rows(uint step)
{
    return step == STEP_QKV || step == STEP_HEAD;
}

/* Where there is one helper at least for each work-group with a tile more than the others. Helpers
 * begin with that, so that nobody waits for them. */
inline void share_last_tiles(uint tiles, uint own, step_kind *k)
{
    uint group = get_group_id(0), groups = get_num_groups(0), left = tiles % groups;
    if (left == 0 || groups - left < left) {
        return;
    }
    if (group < left) {
        k->helped = 1;
        k->last--;
    } else if (group - left < left) {
        k->helps = 1;
        k->help_tile = own * groups + group - left;
        k->last++;
    }
}

inline step_kind make_kind(const token_sizes *sizes, uint step)
{
    uint group = get_group_id(0), groups = get_num_groups(0), rows = sizes->d_model, matrix = 0;
    step_kind k = {sizes->d_model, 0, 0, 0, 0, 0, 0};
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
        if (step == STEP_MLP) {
            share_last_tiles(tiles, own, &k);
        }
    }
    return k;
}

/* What the kernel keeps in local memory for products. Layers take turns in it, two at a time. */
typedef struct step_plan {
    matrix_view views[2][LAYER_MATRICES + 1]; /* the last: up for others */
    step_kind kinds[STEP_HEAD + 1];
    uint words[2][PLAN_LAYER_WORDS];
} step_plan;

/* Of a layer whose words are there. Called by all; a barrier is to follow. */
inline void make_views(WINDOWS, uint layer, local step_plan *plan)
{
    for (uint i = get_local_id(0); i < LAYER_MATRICES + 1; i += ITEMS) {
        uint matrix = i < LAYER_MATRICES ? i : 5;
        uint step = matrix < 3    ? STEP_QKV
                    : matrix == 3 ? STEP_O
                    : matrix < 6  ? STEP_MLP
                                  : STEP_DOWN;
        matrix_view v =
            make_view(WINDOWS_PASSED, plan->words[layer % 2] + matrix * PLAN_MATRIX_WORDS,
                      plan->kinds[step].columns);
        if (i == LAYER_MATRICES) {
            ulong row = plan->kinds[STEP_MLP].help_tile * 32;
            v.data += row * v.pitch;
            v.scales += row * v.scale_pitch;
        }
        plan->views[layer % 2][i] = v;
    }
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
        uint own = at - kind->helps, tile = step == STEP_MLP ? own >> 1 : own;
        job.row = (get_group_id(0) + tile * get_num_groups(0)) * 32;
        if (step == STEP_MLP) { /* up follows gate */
            job.matrix += own & 1;
        }
        if (at < kind->helps) {
            job.matrix = plan->views[s / STEPS % 2] + LAYER_MATRICES;
            job.row = 0;
        }
        job.end = job.row + 32;
    }
    return job;
}

/* Sums of the rows of one tile are in `made` ([32], and up's in made + 32); what becomes of them.
 * weight: this lane's of the norm that follows; *old: this lane's hidden state. */
inline void finish_tile(const token_state *state, const token_sizes *sizes, local const uint *layer,
                        uint step, uint s, uint tile, bool helped, uint lane, float factor,
                        float weight, float *old, local float *made)
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
            float up = helped
                           ? await_pairs(state->helped + get_group_id(0) * 32 + i, tag, state->sync)
                           : made[32 + i];
            up *= factor;
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
        make_unit(x, made, 1, 0, false, lane, tile, sizes->d_ff / 32, tag, state->gated);
        return;
    }
    *old = x;
    uint norm = layer[step == STEP_O ? PLAN_NORM_O : PLAN_NORM_DOWN];
    if (norm != NO_VECTOR) {
        make_unit(x, made, weight, vectors + norm + tile * 32, true, lane, tile,
                  sizes->d_model / 32, tag, state->input);
    }
}

/* Of the squares that the warps saw. */
inline float norm_factor(local const float *sums_of_warps, uint columns, float epsilon)
{
    float sum = 0;
#if WARPS % 4 == 0
    float4 four = 0;
#pragma unroll
    for (uint i = 0; i < WARPS / 4; i++) {
        four += ((local const float4 *)sums_of_warps)[i];
    }
    sum = (four.x + four.y) + (four.z + four.w);
#else
    for (uint i = 0; i < WARPS; i++) {
        sum += sums_of_warps[i];
    }
#endif
    return rsqrt(sum / (float)columns + epsilon);
}

/* sums of a warp's lanes, for all lanes */
inline void sum_lanes(float sums[TEAM_ROWS])
{
#if LANES == 32
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
#pragma unroll
        for (uint r = 0; r < TEAM_ROWS; r++) {
            sums[r] += warp_shift(sums[r], d);
        }
    }
#endif
}

/* A work-item's way through a step: the job and its chunk at hand. */
typedef struct walk {
    rows_job job, following;
    uint at, index;
} walk;

/* What does not change on it. */
typedef struct walked_step {
    local const step_plan *plan;
    local const step_kind *kind;
    const token_state *state;
    local const uint4 *input;
    local float *made, *sums_of_warps;
    uint s, step, columns, lane, warp;
} walked_step;

/* A job's rows are added up: results to where they belong. */
inline void store_sums(const walk *w, const walked_step *of, float sums[TEAM_ROWS])
{
    const token_state *state = of->state;
    uint step = of->step, lane = of->lane, tag = state->tag + of->s + 1;
    uint bias = w->job.matrix->bias, helps = of->kind->helps;
    float factor = 1;
    sum_lanes(sums);
    if (takes_rows(step)) {
        factor = norm_factor(of->sums_of_warps, of->columns, state->epsilon);
    }
#pragma unroll
    for (uint r = 0; r < TEAM_ROWS; r++) {
        uint row = w->job.row + of->warp + r * WARPS;
        if (takes_rows(step)) {
            if (lane == r % LANES && row < w->job.end) {
                float x =
                    sums[r] * factor + (bias != NO_VECTOR ? state->vectors[bias + row] : 0.0f);
                if (step == STEP_HEAD) {
                    state->logits[row] = x;
                } else {
                    store_pair(state->heads + w->job.at + row, x, tag);
                }
            }
        } else if (lane == 0 && w->at < helps) {
            store_pair(state->helped + of->kind->help_tile % get_num_groups(0) * 32 + row, sums[r],
                       tag);
        } else if (lane == 0) {
            of->made[(w->at - helps) * 32 + of->warp + r * WARPS] = sums[r];
        }
        sums[r] = 0;
    }
}

/* Loads the next chunk, then multiplies the one at hand; false: that was the last. */
inline bool take_turn(const chunk *now, chunk *next, walk *w, const walked_step *of,
                      float sums[TEAM_ROWS])
{
    uint last = of->kind->last, step = of->step;
    bool ends = w->index + 1 >= w->job.matrix->chunks;
    uint next_at = !ends ? w->at : takes_rows(step) ? w->job.at + w->job.end : w->at + 1;
    uint next_index = ends ? 0 : w->index + 1;
    if (next_at < last) {
        w->following = find_job(of->plan, of->s, step, next_at);
        load_chunk(&w->following, next_index, of->warp, of->lane, next);
    }
    multiply_chunk(now, w->job.matrix->type, w->job.matrix->shift, of->columns, w->index, of->lane,
                   of->input, sums);
    if (ends) {
        store_sums(w, of, sums);
    }
    w->job = w->following;
    w->at = next_at;
    w->index = next_index;
    return next_at < last;
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
    uint at = kind->first, last = kind->last, columns = kind->columns, ready = cycles();
    if (at >= last) {
        meet(CLK_LOCAL_MEM_FENCE); /* as every step has one */
        return ready;
    }
    chunk now, next;
    rows_job job = find_job(plan, s, step, at);
    load_chunk(&job, 0, warp, lane, &now);
    uint helps = kind->helps;
    uint waves = takes_rows(step) ? 0 : step == STEP_MLP ? (last - helps + 1) / 2 : last;
    float weight = 1, own = *old, factor = 1;
    if (LANES == 32 && adds && warp < waves) {
        uint norm = layer[step == STEP_O ? PLAN_NORM_O : PLAN_NORM_DOWN];
        weight = norm != NO_VECTOR ? state->vectors[norm + (group + warp * groups) * 32 + lane] : 1;
    }
    global const uint4 *record = step == STEP_O      ? state->attended
                                 : step == STEP_DOWN ? state->gated
                                                     : state->input;
    ready = load_input(record, columns, state->tag + s, !adds, state->sync, scratch, sums_of_warps);
    float sums[TEAM_ROWS];
#pragma unroll
    for (uint r = 0; r < TEAM_ROWS; r++) {
        sums[r] = 0;
    }
    walk w = {job, job, at, 0};
    const walked_step walked = {plan, kind, state,   scratch, made, sums_of_warps,
                                s,    step, columns, lane,    warp};
    while (take_turn(&now, &next, &w, &walked, sums)) {
        now = next;
    }
    if (step == STEP_MLP && warp < waves) {
        factor = norm_factor(sums_of_warps, columns, state->epsilon);
    }
    meet(CLK_LOCAL_MEM_FENCE);
    for (uint i = warp; i < waves; i += WARPS) {
        finish_tile(state, sizes, layer, step, s, group + i * groups,
                    kind->helped && i + 1 == waves, lane, factor, weight, &own,
                    made + (step == STEP_MLP ? 64 : 32) * i);
    }
    *old = own;
#ifndef OFR_NVIDIA
    meet(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
#endif
    return ready;
}
