/* gemm of dot.cl with the matrix engines of Intel GPUs, "DPAS"
 * (cl_intel_subgroup_matrix_multiply_accumulate): the same arguments and the same arithmetic,
 * 8 tokens x MATRIX_LANES rows x a unit of 32 columns an instruction.
 *
 * MATRIX_LANES: work-items of a sub-group, 8 or 16, as the device says. ITEM_TOKENS (a multiple of
 * 8) by ITEM_ROWS (of MATRIX_LANES) a sub-group, TILE_TOKENS by TILE_ROWS a work-group.
 * MATRIX_EMULATED: for devices without the extension, slow, so that everything but the instruction
 * is tested.
 *
 * Operands, as the extension lays them out: of a, [8 tokens][32] bytes, a lane has the 32 /
 * MATRIX_LANES bytes of each token that begin at its own index times as many; of b, [32]
 * [MATRIX_LANES rows], and of the result, [8][MATRIX_LANES], a lane has its column. A token's unit
 * in a record is thus read by neighbouring lanes, and a lane reads weights of a row of its own.
 *
 * Records have rows for whole tiles: those beyond the last token are read, and nothing is made of
 * them. */
#if MATRIX_LANES == 8
typedef int NAME(part);
typedef int8 NAME(parts);
#else
typedef short NAME(part);
typedef short8 NAME(parts);
#endif
#define TOKEN_BLOCKS (ITEM_TOKENS / 8)
#define ROW_BLOCKS (ITEM_ROWS / MATRIX_LANES)
#define TEAMS_ACROSS (TILE_ROWS / ITEM_ROWS)
#define TEAMS (TEAMS_ACROSS * (TILE_TOKENS / ITEM_TOKENS))
#define GEMM_ITEMS (TEAMS * MATRIX_LANES)

#ifndef MATRIX_EMULATED
#define MATRIX_SUBGROUP __attribute__((intel_reqd_sub_group_size(MATRIX_LANES)))
#define MATRIX_SCRATCH
#define MATRIX_LANE get_sub_group_local_id()
#define MATRIX_TEAM get_sub_group_id()
#define MATRIX_MAD(a, b, sums) intel_sub_group_i8_i8_matrix_mad_k32(a, b, sums)
#if MATRIX_LANES == 8
#define MATRIX_PART(at) as_int(intel_sub_group_block_read((global const uint *)(at)))
#else
#define MATRIX_PART(at) as_short(intel_sub_group_block_read_us((global const ushort *)(at)))
#endif
#define MATRIX_EIGHT(x)                                                                            \
    (float8)(sub_group_broadcast(x, 0), sub_group_broadcast(x, 1), sub_group_broadcast(x, 2),      \
             sub_group_broadcast(x, 3), sub_group_broadcast(x, 4), sub_group_broadcast(x, 5),      \
             sub_group_broadcast(x, 6), sub_group_broadcast(x, 7))
#else
/* Lanes exchange through local memory; all work-items of the group take part. */
#define MATRIX_SUBGROUP
#define MATRIX_SCRATCH local NAME(part) scratch[TEAMS * MATRIX_LANES * 8];
#define MATRIX_LANE (get_local_id(0) % MATRIX_LANES)
#define MATRIX_TEAM (get_local_id(0) / MATRIX_LANES)
#define MATRIX_MAD(a, b, sums) NAME(emulated_mad)(scratch, a, b, sums)
#define MATRIX_PART(at) ((global const NAME(part) *)(at))[MATRIX_LANE]
#define MATRIX_EIGHT(x) NAME(emulated_eight)((local float *)scratch, x)

inline int8 NAME(emulated_mad)(local NAME(part) *scratch, NAME(parts) a, int8 b, int8 sums)
{
    local NAME(part) *own = scratch + MATRIX_TEAM * MATRIX_LANES * 8;
    barrier(CLK_LOCAL_MEM_FENCE);
    vstore8(a, MATRIX_LANE, own); /* [lanes][8 rows] */
    barrier(CLK_LOCAL_MEM_FENCE);
    int column[8], made[8];
    vstore8(b, 0, column);
    vstore8(sums, 0, made);
    /* The function is inlined for each block of a tile: unrolled, that is much to compile. */
#pragma unroll 1
    for (uint k = 0; k < 32; k++) { /* element k of b: byte k % 4 of word k / 4 */
        uint per_lane = 32 / MATRIX_LANES;
        int w = (char)((uint)column[k / 4] >> 8 * (k % 4));
        for (uint m = 0; m < 8; m++) {
            uint part = (uint)own[k / per_lane * 8 + m];
            made[m] += w * (char)(part >> 8 * (k % per_lane));
        }
    }
    return vload8(0, made);
}

inline float8 NAME(emulated_eight)(local float *scratch, float x)
{
    local float *own = scratch + MATRIX_TEAM * 8;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (MATRIX_LANE < 8) {
        own[MATRIX_LANE] = x;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return vload8(0, own);
}
#endif

#if BITS == 4
/* Nibbles stay in the upper half of their bytes: 16 times their value, with its sign. */
#define COLUMN_SCALE 0.0625f
inline int8 NAME(column)(global const uchar *row)
{
    uint4 w = *(global const uint4 *)row;
    uint4 even = (w << 4) & (uint4)0xf0f0f0f0u, odd = w & (uint4)0xf0f0f0f0u;
    return as_int8((uint8)(even.x, odd.x, even.y, odd.y, even.z, odd.z, even.w, odd.w));
}
#else
#define COLUMN_SCALE 1.0f
/* Even and odd elements of eight, as records have them. */
inline uint2 NAME(parted)(uint2 w)
{
    uchar8 b = as_uchar8(w);
    return as_uint2((uchar8)(b.even, b.odd));
}

inline int8 NAME(column)(global const uchar *row)
{
    uint8 w = vload8(0, (global const uint *)row);
    return as_int8((uint8)(NAME(parted)(w.s01), NAME(parted)(w.s23), NAME(parted)(w.s45),
                           NAME(parted)(w.s67)));
}
#endif

kernel MATRIX_SUBGROUP __attribute__((reqd_work_group_size(GEMM_ITEMS, 1, 1))) void
NAME(gemm)(DOT_MATRIX(0), DOT_INPUT, global float *y, uint y_offset, uint y_stride, float y_scale,
           uint sink)
{
    local float factors[TILE_TOKENS];
    MATRIX_SCRATCH
    uint lane = MATRIX_LANE, team = MATRIX_TEAM;
    uint units = columns / 32, groups = max(units >> shift0, 1u), group_units = units / groups;
    uint n_tokens = row_count(pass, count_word), tile_token = get_group_id(1) * TILE_TOKENS;
    uint own_token = team / TEAMS_ACROSS * ITEM_TOKENS;
    uint first_token = tile_token + own_token;
    uint first_row = get_group_id(0) * TILE_ROWS + team % TEAMS_ACROSS * ITEM_ROWS;
    /* 32-bit offsets from the arguments: compilers make shorter addresses of them. */
    global const uchar *bytes = (global const uchar *)values;
    uint byte_at = first_token * columns, scale_at = (first_token + lane % 8) * units;
    global const uchar *rows[ROW_BLOCKS];
    global const half *row_scales[ROW_BLOCKS];
#ifdef MINIMA
    global const half *row_minima[ROW_BLOCKS];
#endif
    float8 sums[TOKEN_BLOCKS][ROW_BLOCKS];
    NAME(tile_factors)(squares, columns, epsilon, tile_token, n_tokens, GEMM_ITEMS, factors);
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (uint r = 0; r < ROW_BLOCKS; r++) {
        ulong row = min(first_row + r * MATRIX_LANES + lane, rows0 - 1);
        rows[r] = data0 + data_offset0 + row * units * UNIT_BYTES;
        row_scales[r] = (global const half *)(scales0 + scale_offset0) + row * groups;
#ifdef MINIMA /* behind the scales of all rows */
        row_minima[r] = row_scales[r] + (ulong)rows0 * groups;
#endif
#pragma unroll
        for (uint i = 0; i < TOKEN_BLOCKS; i++) {
            sums[i][r] = 0;
        }
    }
    for (uint group = 0; group < groups; group++) {
        float scale[ROW_BLOCKS];
#ifdef MINIMA /* an element is q * scale + 8 * offset */
        float offset[ROW_BLOCKS];
#endif
#pragma unroll
        for (uint r = 0; r < ROW_BLOCKS; r++) {
            scale[r] = vload_half(group, row_scales[r]);
#ifdef MINIMA
            offset[r] = scale[r] + 0.125f * vload_half(group, row_minima[r]);
#endif
            scale[r] *= COLUMN_SCALE;
        }
        for (uint unit = 0; unit < group_units; unit++) {
            int8 b[ROW_BLOCKS];
#pragma unroll
            for (uint r = 0; r < ROW_BLOCKS; r++) {
                b[r] = NAME(column)(rows[r]);
                rows[r] += UNIT_BYTES;
            }
#pragma unroll
            for (uint i = 0; i < TOKEN_BLOCKS; i++) {
#define OWN_PART(m) MATRIX_PART(bytes + (byte_at + (8 * i + m) * columns))
                NAME(parts) a = (NAME(parts))(OWN_PART(0), OWN_PART(1), OWN_PART(2), OWN_PART(3),
                                              OWN_PART(4), OWN_PART(5), OWN_PART(6), OWN_PART(7));
                float2 own = value_scales[scale_at + 8 * i * units];
                float8 scales = MATRIX_EIGHT(own.x);
#ifdef MINIMA
                float8 totals = MATRIX_EIGHT(own.y); /* 8 * scale * sum of bytes */
#endif
#pragma unroll
                for (uint r = 0; r < ROW_BLOCKS; r++) {
                    float8 product = convert_float8(MATRIX_MAD(a, b[r], (int8)0));
                    sums[i][r] += product * (scales * scale[r]);
#ifdef MINIMA
                    sums[i][r] += totals * offset[r];
#endif
                }
            }
            byte_at += 32;
            scale_at++;
        }
    }
#pragma unroll
    for (uint r = 0; r < ROW_BLOCKS; r++) { /* constant indices, so that sums stay in registers */
        uint row = first_row + r * MATRIX_LANES + lane;
        float bias = bias0 != NO_VECTOR ? vectors[bias0 + min(row, rows0 - 1)] : 0.0f;
#pragma unroll
        for (uint i = 0; i < TOKEN_BLOCKS; i++) {
            float own[8];
            vstore8(sums[i][r], 0, own);
#pragma unroll
            for (uint m = 0; m < 8; m++) {
                uint t = first_token + 8 * i + m;
                if (row < rows0 && t < n_tokens) {
                    sink_value(y + y_offset + (ulong)t * y_stride + row,
                               own[m] * factors[own_token + 8 * i + m] + bias, y_scale, sink);
                }
            }
        }
    }
}
