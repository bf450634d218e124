/* Products of int4 or int8 weights with activations quantized to int8 in units of 32 (records,
 * common.cl). Compiled for BITS 4, also with MINIMA, and 8; NAME(x) adds the type to x.
 *
 * With GEMM only the kernel for many tokens is compiled, without it those for few; with
 * MATRIX_LANES the one of matrix.cl instead.
 *
 * gemv: a work-group makes 32 rows for TOKENS tokens: ROW_GROUPS teams of LANES work-items, each
 * with TEAM_ROWS rows, a lane taking every LANES-th unit of 32 columns. */
#if BITS == 4
#define UNIT_BYTES 16
typedef uint4 NAME(unit);
#else
#define UNIT_BYTES 32
typedef uint8 NAME(unit);
#endif

/* A unit of weights times a unit of activations. scale: (scale, 8 * scale * sum of bytes); minimum:
 * of weights that have one. */
inline float NAME(unit_product)(NAME(unit) w, uint8 a, float2 scale, float weight_scale,
                                float minimum)
{
#if BITS == 4
    int dot = nibble_dot(w, a.lo, a.hi);
#ifdef MINIMA
    return weight_scale * ((float)dot * scale.x) + minimum * (scale.y * 0.125f);
#else
    return weight_scale * ((float)dot * scale.x - scale.y);
#endif
#else
    int dot = byte_dot(w.lo, interleaved_half(a.lo), 0);
    dot = byte_dot(w.hi, interleaved_half(a.hi), dot);
    return weight_scale * ((float)dot * scale.x);
#endif
}

/* The minima lie behind the scales of all rows. */
inline float NAME(minimum)(global const half *scales, uint rows, ulong row, uint groups, uint at)
{
#ifdef MINIMA
    return vload_half((rows + row) * groups + at, scales);
#else
    return 0;
#endif
}

inline NAME(unit) NAME(load_unit)(global const uchar *row, uint u)
{
#if BITS == 4
    return ((global const uint4 *)row)[u];
#else
    uint4 low = ((global const uint4 *)row)[2 * u], high = ((global const uint4 *)row)[2 * u + 1];
    return (uint8)(low, high);
#endif
}

/* Up to three matrices of the same input: data, offset, scales, offset, rows, shift, bias. Rows
 * 0: none. */
#define DOT_MATRIX(i)                                                                              \
    global const uchar *data##i, ulong data_offset##i, global const uchar *scales##i,              \
        ulong scale_offset##i, uint rows##i, uint shift##i, uint bias##i
#define DOT_INPUT                                                                                  \
    uint columns, global const uint4 *values, global const float2 *value_scales,                   \
        global const float *squares, float epsilon, global const float *vectors,                   \
        global const uint *pass, uint count_word
#define DOT_RECORD                                                                                 \
    uint norm, global char *ret_values, global float *ret_scales,                \
        global float *ret_squares

#ifndef GEMM
/* Sums of this lane for TEAM_ROWS rows from `row` on (rows beyond the last repeat it). shift: a
 * unit's scale has index u >> shift. */
inline void NAME(lane_products)(global const uchar *data, global const uchar *scale_bytes,
                                uint rows, uint row, uint columns, uint shift, uint lane,
                                global const uint4 *values, global const float2 *scales,
                                uint first_token, uint n_tokens,
                                float sums[TEAM_ROWS][TOKENS])
{
    uint units = columns / 32, groups = max(units >> shift, 1u);
    global const half *weight_scales = (global const half *)scale_bytes;
    for (uint r = 0; r < TEAM_ROWS; r++) {
        for (uint t = 0; t < TOKENS; t++) {
            sums[r][t] = 0;
        }
    }
    for (uint u = lane; u < units; u += LANES) {
        NAME(unit) w[TEAM_ROWS];
        float scale[TEAM_ROWS], minimum[TEAM_ROWS];
#pragma unroll
        for (uint r = 0; r < TEAM_ROWS; r++) {
            ulong at = min(row + r, rows - 1);
            w[r] = NAME(load_unit)(data + at * units * UNIT_BYTES, u);
            scale[r] = vload_half(at * groups + (u >> shift), weight_scales);
            minimum[r] = NAME(minimum)(weight_scales, rows, at, groups, u >> shift);
        }
#pragma unroll
        for (uint t = 0; t < TOKENS; t++) {
            ulong at = (ulong)min(first_token + t, n_tokens - 1) * units + u;
            uint8 a = (uint8)(values[2 * at], values[2 * at + 1]);
            float2 s = scales[at];
#pragma unroll
            for (uint r = 0; r < TEAM_ROWS; r++) {
                sums[r][t] += NAME(unit_product)(w[r], a, s, scale[r], minimum[r]);
            }
        }
    }
}

#define GEMV_PARTS (LANES / WARP)

/* Lanes' sums to local memory: parts[row of 32][token][part]. */
inline void NAME(collect)(float sums[TEAM_ROWS][TOKENS], uint team, uint lane, local float *parts)
{
    for (uint r = 0; r < TEAM_ROWS; r++) {
        for (uint t = 0; t < TOKENS; t++) {
            float sum = warp_sum(sums[r][t]);
            if (lane % WARP == 0) {
                parts[((team * TEAM_ROWS + r) * TOKENS + t) * GEMV_PARTS + lane / WARP] = sum;
            }
        }
    }
}

/* This work-item's share of the squares of the input's records: asked for before the weights and
 * added up after them, so that neither waits for the other; epsilon below 0: nothing. */
#define SQUARE_ROUNDS ((32 * TOKENS + GEMV_ITEMS - 1) / GEMV_ITEMS)
#define SQUARE_LOADS 4
inline void NAME(load_squares)(global const float *squares, uint columns, float epsilon,
                               uint first_token, uint n_tokens,
                               float own[SQUARE_ROUNDS][SQUARE_LOADS])
{
    uint units = columns / 32;
#pragma unroll
    for (uint k = 0; k < SQUARE_ROUNDS; k++) {
        uint i = get_local_id(0) + k * GEMV_ITEMS;
        ulong t = min(first_token + i / 32, n_tokens - 1);
#pragma unroll
        for (uint j = 0; j < SQUARE_LOADS; j++) {
            uint u = i % 32 + 32 * j;
            own[k][j] =
                epsilon >= 0 && i < 32 * TOKENS && u < units ? squares[t * units + u] : 0.0f;
        }
        for (uint u = i % 32 + 32 * SQUARE_LOADS; epsilon >= 0 && i < 32 * TOKENS && u < units;
             u += 32) { /* more than 4,096 columns */
            own[k][0] += squares[t * units + u];
        }
    }
}

inline float NAME(own_squares)(float own[SQUARE_LOADS])
{
    return own[0] + own[1] + own[2] + own[3];
}

/* 1 / rms of the tokens, into factors; 1 where there is no norm. A barrier must follow. */
inline void NAME(rms_factors)(float own[SQUARE_ROUNDS][SQUARE_LOADS], uint columns, float epsilon,
                              local float *strips, local float *factors)
{
    uint item = get_local_id(0);
#if WARP == 32
    for (uint i = item; i < 32 * TOKENS; i += GEMV_ITEMS) {
        float sum = warp_sum(NAME(own_squares)(own[i / GEMV_ITEMS]));
        if (i % 32 == 0) {
            factors[i / 32] = epsilon >= 0 ? rsqrt(sum / (float)columns + epsilon) : 1.0f;
        }
    }
#else
    for (uint k = 0; k < SQUARE_ROUNDS; k++) {
        if (item + k * GEMV_ITEMS < 32 * TOKENS) {
            strips[item + k * GEMV_ITEMS] = NAME(own_squares)(own[k]);
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item < TOKENS) {
        float sum = 0;
        for (uint i = 0; i < 32; i++) {
            sum += strips[item * 32 + i];
        }
        factors[item] = epsilon >= 0 ? rsqrt(sum / (float)columns + epsilon) : 1.0f;
    }
#endif
}

#define GEMV_HEAD                                                                                  \
    local float parts[32 * TOKENS * GEMV_PARTS];                                                   \
    local float factors[TOKENS];                                                                   \
    local float strips[32 * TOKENS];                                                               \
    uint item = get_local_id(0), lane = item % LANES, team = item / LANES;                         \
    uint n_tokens = TOKENS == 1 ? get_num_groups(1) : row_count(pass, count_word);                 \
    uint first_token = get_group_id(1) * TOKENS;                                                   \
    float sums[TEAM_ROWS][TOKENS], own_squares[SQUARE_ROUNDS][SQUARE_LOADS];                       \
    NAME(load_squares)(squares, columns, epsilon, first_token, n_tokens, own_squares);

/* Row r of 32 of token t, by one work-item; the 32 of a token are neighbours. */
#define GEMV_TAIL                                                                                  \
    uint t = i / 32, r = i % 32, row = tile * 32 + r;                                              \
    if (first_token + t >= n_tokens) {                                                             \
        continue;                                                                                  \
    }
#define GEMV_SUM(result, from)                                                                     \
    float result = 0;                                                                              \
    for (uint p = 0; p < GEMV_PARTS; p++) {                                                        \
        result += from[(r * TOKENS + t) * GEMV_PARTS + p];                                         \
    }                                                                                              \
    result *= factors[t];

/* y[t][rows of all matrices in a row] = products (+ bias). */
kernel SUBGROUP __attribute__((reqd_work_group_size(GEMV_ITEMS, 1, 1))) void
NAME(gemv_store)(DOT_MATRIX(0), DOT_MATRIX(1), DOT_MATRIX(2), DOT_INPUT, global float *y,
                 uint y_offset, uint y_stride)
{
    GEMV_HEAD
    uint tile = get_group_id(0), at = 0, tiles0 = (rows0 + 31) / 32, tiles1 = (rows1 + 31) / 32;
    global const uchar *data = data0 + data_offset0, *scales = scales0 + scale_offset0;
    uint rows = rows0, shift = shift0, bias = bias0;
    if (tile >= tiles0 + tiles1) {
        tile -= tiles0 + tiles1;
        at = rows0 + rows1;
        data = data2 + data_offset2;
        scales = scales2 + scale_offset2;
        rows = rows2;
        shift = shift2;
        bias = bias2;
    } else if (tile >= tiles0) {
        tile -= tiles0;
        at = rows0;
        data = data1 + data_offset1;
        scales = scales1 + scale_offset1;
        rows = rows1;
        shift = shift1;
        bias = bias1;
    }
    NAME(lane_products)(data, scales, rows, tile * 32 + team * TEAM_ROWS, columns, shift, lane,
                        values, value_scales, first_token, n_tokens, sums);
    NAME(rms_factors)(own_squares, columns, epsilon, strips, factors);
    NAME(collect)(sums, team, lane, parts);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = item; i < 32 * TOKENS; i += GEMV_ITEMS) {
        GEMV_TAIL
        if (row < rows) {
            GEMV_SUM(sum, parts)
            y[y_offset + (ulong)(first_token + t) * y_stride + at + row] =
                sum + (bias != NO_VECTOR ? vectors[bias + row] : 0.0f);
        }
    }
}

/* y += y_scale * (products + bias), and the new rows of y, times a norm's weight, as the record of
 * what comes next (norm NO_VECTOR: no record). rows0 is a multiple of 32. */
kernel SUBGROUP __attribute__((reqd_work_group_size(GEMV_ITEMS, 1, 1))) void
NAME(gemv_add)(DOT_MATRIX(0), DOT_INPUT, global float *y, uint y_stride, float y_scale, DOT_RECORD)
{
    GEMV_HEAD
    local float made[TOKENS][32];
    local char bytes[32];
    uint tile = get_group_id(0);
    NAME(lane_products)(data0 + data_offset0, scales0 + scale_offset0, rows0,
                        tile * 32 + team * TEAM_ROWS, columns, shift0, lane, values, value_scales,
                        first_token, n_tokens, sums);
    NAME(rms_factors)(own_squares, columns, epsilon, strips, factors);
    NAME(collect)(sums, team, lane, parts);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = item; i < 32 * TOKENS; i += GEMV_ITEMS) {
        GEMV_TAIL
        GEMV_SUM(sum, parts)
        global float *to = y + (ulong)(first_token + t) * y_stride + row;
        sum = *to + y_scale * (sum + (bias0 != NO_VECTOR ? vectors[bias0 + row] : 0.0f));
        *to = sum;
#if WARP == 32
        if (norm != NO_VECTOR) {
            quantize_unit(sum, vectors[norm + row], r, (first_token + t) * (rows0 / 32) + tile,
                          ret_values, ret_scales, ret_squares);
        }
#else
        made[t][r] = sum;
#endif
    }
#if WARP != 32
    if (norm == NO_VECTOR) {
        return;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint t = 0; t < TOKENS && first_token + t < n_tokens; t++) {
        ulong row = (ulong)(first_token + t) * rows0;
        quantize_units(made[t], 32, bytes, item, GEMV_ITEMS, tile * 32, vectors + norm,
                       ret_values + row, ret_scales + row / 32 * 2,
                       ret_squares + row / 32);
    }
#endif
}

/* The record of activate(gate) * up. rows0 = rows1, a multiple of 32. */
kernel SUBGROUP __attribute__((reqd_work_group_size(GEMV_ITEMS, 1, 1))) void
NAME(gemv_swiglu)(DOT_MATRIX(0), DOT_MATRIX(1), DOT_INPUT, DOT_RECORD)
{
    GEMV_HEAD
    local float made[TOKENS][32];
    local float up_parts[32 * TOKENS * GEMV_PARTS];
    local char bytes[32];
    uint tile = get_group_id(0), row0 = tile * 32 + team * TEAM_ROWS;
    NAME(lane_products)(data0 + data_offset0, scales0 + scale_offset0, rows0, row0, columns, shift0,
                        lane, values, value_scales, first_token, n_tokens, sums);
    NAME(collect)(sums, team, lane, parts);
    NAME(lane_products)(data1 + data_offset1, scales1 + scale_offset1, rows1, row0, columns, shift1,
                        lane, values, value_scales, first_token, n_tokens, sums);
    NAME(rms_factors)(own_squares, columns, epsilon, strips, factors);
    NAME(collect)(sums, team, lane, up_parts);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = item; i < 32 * TOKENS; i += GEMV_ITEMS) {
        GEMV_TAIL
        GEMV_SUM(gate, parts)
        GEMV_SUM(up, up_parts)
        gate += bias0 != NO_VECTOR ? vectors[bias0 + row] : 0.0f;
        up += bias1 != NO_VECTOR ? vectors[bias1 + row] : 0.0f;
#if WARP == 32
        quantize_unit(activate(gate) * up, 1.0f, r, (first_token + t) * (rows0 / 32) + tile,
                      ret_values, ret_scales, 0);
#else
        made[t][r] = activate(gate) * up;
#endif
    }
#if WARP != 32
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint t = 0; t < TOKENS && first_token + t < n_tokens; t++) {
        ulong row = (ulong)(first_token + t) * rows0;
        quantize_units(made[t], 32, bytes, item, GEMV_ITEMS, tile * 32, 0,
                       ret_values + row, ret_scales + row / 32 * 2, 0);
    }
#endif
}

#else
/* 1 / rms of a tile's tokens, into factors; 1 where there is no norm. A barrier must follow. */
inline void NAME(tile_factors)(global const float *squares, uint columns, float epsilon,
                               uint first_token, uint n_tokens, uint items, local float *factors)
{
    uint units = columns / 32;
    for (uint i = get_local_id(0); i < TILE_TOKENS; i += items) {
        float sum = 0;
        ulong t = min(first_token + i, n_tokens - 1);
        for (uint u = 0; epsilon >= 0 && u < units; u++) {
            sum += squares[t * units + u];
        }
        factors[i] = epsilon >= 0 ? rsqrt(sum / (float)columns + epsilon) : 1.0f;
    }
}

#ifndef MATRIX_LANES
/* gemm: TILE_TOKENS tokens by TILE_ROWS rows a work-group of GEMM_ITEMS, each work-item ITEM_TOKENS
 * by ITEM_ROWS, GEMM_UNITS units of columns at a time through local memory. Rows of units are
 * padded against bank conflicts. */
#define GEMM_ACROSS (TILE_ROWS / ITEM_ROWS)
#define GEMM_ITEMS (GEMM_ACROSS * (TILE_TOKENS / ITEM_TOKENS))
#define GEMM_PITCH (2 * GEMM_UNITS + 1)
/* 1.5 * 2^23: an int within 2^22 added to its bits is added to its value. */
#define MAGIC_BITS 0x4b400000
#define MAGIC 12582912.0f

#if BITS == 4
/* Nibbles to signed bytes: offset 8 taken off each byte without borrowing from the next. */
inline uint4 NAME(spread)(uint4 nibbles)
{
    return (((nibbles ^ (uint4)0x08080808u) | (uint4)0x80808080u) - (uint4)0x08080808u) ^
           (uint4)0x80808080u;
}
#endif

inline void NAME(stage_weights)(global const uchar *data, global const half *weight_scales,
                                uint rows, uint first, uint unit, uint units, uint shift,
                                local uint4 *tile, local float *scales, local float *offsets)
{
    uint groups = max(units >> shift, 1u);
    for (uint i = get_local_id(0); i < TILE_ROWS * GEMM_UNITS; i += GEMM_ITEMS) {
        uint r = i / GEMM_UNITS, u = i % GEMM_UNITS;
        ulong row = min(first + r, rows - 1);
        uint from = min(unit + u, units - 1);
        NAME(unit) w = NAME(load_unit)(data + row * units * UNIT_BYTES, from);
#if BITS == 4
        uint4 low = NAME(spread)(w & (uint4)0x0f0f0f0fu);
        uint4 high = NAME(spread)((w >> 4) & (uint4)0x0f0f0f0fu);
        tile[r * GEMM_PITCH + 2 * u] = (uint4)(low.x, high.x, low.y, high.y);
        tile[r * GEMM_PITCH + 2 * u + 1] = (uint4)(low.z, high.z, low.w, high.w);
#else
        tile[r * GEMM_PITCH + 2 * u] = w.lo;
        tile[r * GEMM_PITCH + 2 * u + 1] = w.hi;
#endif
        scales[u * TILE_ROWS + r] =
            unit + u < units ? vload_half(row * groups + (from >> shift), weight_scales) : 0.0f;
#ifdef MINIMA
        offsets[u * TILE_ROWS + r] =
            unit + u < units
                ? scales[u * TILE_ROWS + r] +
                      0.125f * NAME(minimum)(weight_scales, rows, row, groups, from >> shift)
                : 0.0f;
#endif
    }
}

inline void NAME(stage_activations)(global const uint4 *values, global const float2 *value_scales,
                                    uint n_tokens, uint first, uint unit, uint units,
                                    local uint4 *tile, local float *scales, local float *sums)
{
    for (uint i = get_local_id(0); i < TILE_TOKENS * GEMM_UNITS; i += GEMM_ITEMS) {
        uint t = i / GEMM_UNITS, u = i % GEMM_UNITS;
        ulong at = (ulong)min(first + t, n_tokens - 1) * units + min(unit + u, units - 1);
#if BITS == 4
        tile[t * GEMM_PITCH + 2 * u] = values[2 * at];
        tile[t * GEMM_PITCH + 2 * u + 1] = values[2 * at + 1];
#else
        tile[t * GEMM_PITCH + 2 * u] = interleaved_half(values[2 * at]);
        tile[t * GEMM_PITCH + 2 * u + 1] = interleaved_half(values[2 * at + 1]);
#endif
        scales[u * TILE_TOKENS + t] = value_scales[at].x;
#ifdef MINIMA
        sums[u * TILE_TOKENS + t] = value_scales[at].y;
#endif
    }
}

kernel __attribute__((reqd_work_group_size(GEMM_ITEMS, 1, 1))) void
NAME(gemm)(DOT_MATRIX(0), DOT_INPUT, global float *y, uint y_offset, uint y_stride, float y_scale,
           uint sink)
{
    local uint4 w_tile[TILE_ROWS * GEMM_PITCH], a_tile[TILE_TOKENS * GEMM_PITCH];
    local float w_scales[TILE_ROWS * GEMM_UNITS], a_scales[TILE_TOKENS * GEMM_UNITS];
#ifdef MINIMA /* an element is q * scale + 8 * offset */
    local float offsets[TILE_ROWS * GEMM_UNITS], a_sums[TILE_TOKENS * GEMM_UNITS];
#else
    local float *offsets = 0, *a_sums = 0;
#endif
    local float factors[TILE_TOKENS];
    uint item = get_local_id(0), x = item % GEMM_ACROSS, z = item / GEMM_ACROSS;
    uint units = columns / 32, n_tokens = row_count(pass, count_word);
    uint first_row = get_group_id(0) * TILE_ROWS, first_token = get_group_id(1) * TILE_TOKENS;
    float sums[ITEM_TOKENS][ITEM_ROWS];
    NAME(tile_factors)(squares, columns, epsilon, first_token, n_tokens, GEMM_ITEMS, factors);
    for (uint m = 0; m < ITEM_TOKENS; m++) {
        for (uint n = 0; n < ITEM_ROWS; n++) {
            sums[m][n] = 0;
        }
    }
    for (uint unit = 0; unit < units; unit += GEMM_UNITS) {
        barrier(CLK_LOCAL_MEM_FENCE);
        NAME(stage_weights)(data0 + data_offset0,
                            (global const half *)(scales0 + scale_offset0), rows0, first_row, unit,
                            units, shift0, w_tile, w_scales, offsets);
        NAME(stage_activations)(values, value_scales, n_tokens, first_token, unit, units, a_tile,
                                a_scales, a_sums);
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint u = 0; u < GEMM_UNITS; u++) {
            int dots[ITEM_TOKENS][ITEM_ROWS];
#pragma unroll
            for (uint m = 0; m < ITEM_TOKENS; m++) {
#pragma unroll
                for (uint n = 0; n < ITEM_ROWS; n++) {
                    dots[m][n] = MAGIC_BITS;
                }
            }
#pragma unroll
            for (uint h = 0; h < 2; h++) {
                uint4 w[ITEM_ROWS];
#pragma unroll
                for (uint n = 0; n < ITEM_ROWS; n++) {
                    w[n] = w_tile[(x + n * GEMM_ACROSS) * GEMM_PITCH + 2 * u + h];
                }
#pragma unroll
                for (uint m = 0; m < ITEM_TOKENS; m++) {
                    uint4 a = a_tile[(z * ITEM_TOKENS + m) * GEMM_PITCH + 2 * u + h];
#pragma unroll
                    for (uint n = 0; n < ITEM_ROWS; n++) {
                        dots[m][n] = byte_dot(w[n], a, dots[m][n]);
                    }
                }
            }
#pragma unroll
            for (uint m = 0; m < ITEM_TOKENS; m++) {
                float scale = a_scales[u * TILE_TOKENS + z * ITEM_TOKENS + m];
#pragma unroll
                for (uint n = 0; n < ITEM_ROWS; n++) {
                    float both = scale * w_scales[u * TILE_ROWS + x + n * GEMM_ACROSS];
                    sums[m][n] += (as_float(dots[m][n]) - MAGIC) * both;
#ifdef MINIMA
                    sums[m][n] += a_sums[u * TILE_TOKENS + z * ITEM_TOKENS + m] *
                                  offsets[u * TILE_ROWS + x + n * GEMM_ACROSS];
#endif
                }
            }
        }
    }
    for (uint m = 0; m < ITEM_TOKENS; m++) {
        uint t = first_token + z * ITEM_TOKENS + m;
        for (uint n = 0; t < n_tokens && n < ITEM_ROWS; n++) {
            uint row = first_row + x + n * GEMM_ACROSS;
            if (row < rows0) {
                float value = sums[m][n] * factors[z * ITEM_TOKENS + m] +
                              (bias0 != NO_VECTOR ? vectors[bias0 + row] : 0.0f);
                sink_value(y + y_offset + (ulong)t * y_stride + row, value, y_scale, sink);
            }
        }
    }
}
#endif
#endif
