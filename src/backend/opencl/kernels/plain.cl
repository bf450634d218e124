/* The path for any device and any weights: fp32 activations, no extensions. Compiled once for each
 * data type of weights; TYPE is 0 f32, 1 f16, 2 i8, 3 i4, 4 i4m (enum ofr_dtype), NAME(x) adds its
 * name to x.
 *
 * Matrices are rows of `columns` elements, groups of `group` sharing an f16 scale; offsets in
 * bytes. */
#define MATRIX_ARGUMENTS                                                                           \
    global const uchar *data, ulong data_offset, global const uchar *scales, ulong scale_offset,  \
        uint rows, uint columns, uint group

#if TYPE == 4
/* Of the minima behind all scales; element is (q + 8) * scale + minimum. */
inline float NAME(minimum)(global const uchar *scales, ulong row, uint k, uint rows, uint columns,
                           uint group)
{
    ulong groups = columns / group;
    return vload_half((rows + row) * groups + k / group, (global const half *)scales);
}
#endif

inline float NAME(weight_at)(global const uchar *data, global const uchar *scales, ulong row,
                             uint k, uint rows, uint columns, uint group)
{
#if TYPE == 0
    return ((global const float *)data)[row * columns + k];
#elif TYPE == 1
    return vload_half(row * columns + k, (global const half *)data);
#else
    float scale = vload_half(row * (columns / group) + k / group, (global const half *)scales);
#if TYPE == 2
    return (float)(char)data[row * columns + k] * scale;
#else
    uint pair = data[row * (columns / 2) + k / 2];
    uint value = (k & 1 ? pair >> 4 : pair & 15) ^ 8;
#if TYPE == 4
    return (float)value * scale + NAME(minimum)(scales, row, k, rows, columns, group);
#else
    return ((float)value - 8.0f) * scale;
#endif
#endif
#endif
}

/* hidden[t] = factor * row `id` of the embedding; one work-item per element. */
kernel void NAME(embed)(MATRIX_ARGUMENTS, global const uint *pass, float factor,
                        global float *hidden)
{
    uint k = get_global_id(0), t = get_global_id(1);
    if (k < columns && t < pass[PASS_TOKENS]) {
        hidden[t * columns + k] =
            factor * NAME(weight_at)(data + data_offset, scales + scale_offset,
                                     pass_token(pass, t).x, k, rows, columns, group);
    }
}

/* Eight consecutive elements from k on, k a multiple of 8, times those of x. */
inline float NAME(dot8)(global const uchar *data, global const uchar *scales, ulong row, uint k,
                        uint rows, uint columns, uint group, global const float *x)
{
    float8 a = vload8(0, x + k), w;
#if TYPE == 0
    w = vload8(0, (global const float *)data + row * columns + k);
#elif TYPE == 1
    w = vload_half8(0, (global const half *)data + row * columns + k);
#else
#if TYPE == 2
    w = convert_float8(vload8(0, (global const char *)data + row * columns + k));
#else
    uchar4 p = vload4(0, data + row * (columns / 2) + k / 2) ^ (uchar4)0x88;
    w.even = convert_float4(p & (uchar4)15);
    w.odd = convert_float4(p >> (uchar4)4);
#if TYPE == 3
    w -= 8.0f;
#endif
#endif
    w *= vload_half(row * (columns / group) + k / group, (global const half *)scales);
#if TYPE == 4
    w += NAME(minimum)(scales, row, k, rows, columns, group);
#endif
#endif
    w *= a;
    float4 s = w.lo + w.hi;
    return s.x + s.y + s.z + s.w;
}

/* One row of the matrix for one token a work-group; x [.][x_stride], y [.][y_stride]. */
kernel __attribute__((reqd_work_group_size(PLAIN_LANES, 1, 1))) void
NAME(plain_gemv)(MATRIX_ARGUMENTS, global const float *vectors, uint bias, global const float *x,
                 uint x_stride, global float *y, uint y_offset, uint y_stride, float y_scale,
                 uint sink, global const uint *pass, uint count_word)
{
    local float parts[PLAIN_LANES];
    uint row = get_group_id(0), t = get_group_id(1), lane = get_local_id(0);
    data += data_offset;
    scales += scale_offset;
    y += y_offset;
    float sum = 0;
    global const float *from = x + (ulong)t * x_stride;
    uint whole = columns / 8 * 8;
    for (uint k = lane * 8; k < whole; k += PLAIN_LANES * 8) {
        sum += NAME(dot8)(data, scales, row, k, rows, columns, group, from);
    }
    for (uint k = whole + lane; k < columns; k += PLAIN_LANES) {
        sum += NAME(weight_at)(data, scales, row, k, rows, columns, group) * from[k];
    }
    parts[lane] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane == 0) {
        sum = 0;
        for (uint i = 0; i < PLAIN_LANES; i++) {
            sum += parts[i];
        }
        if (bias != NO_VECTOR) {
            sum += vectors[bias + row];
        }
        sink_value(y + (ulong)t * y_stride + row, sum, y_scale, sink);
    }
}

/* 32 rows and 16 tokens a work-group of 128, 32 columns at a time through local memory. */
kernel __attribute__((reqd_work_group_size(128, 1, 1))) void
NAME(plain_gemm)(MATRIX_ARGUMENTS, global const float *vectors, uint bias, global const float *x,
                 uint x_stride, global float *y, uint y_offset, uint y_stride, float y_scale,
                 uint sink, global const uint *pass, uint count_word)
{
    local float w[32][33], a[16][33];
    uint item = get_local_id(0), r = item % 32, t = item / 32;
    uint row = get_group_id(0) * 32, token = get_group_id(1) * 16, n = row_count(pass, count_word);
    float sum[4] = {0, 0, 0, 0};
    y += y_offset;
    data += data_offset;
    scales += scale_offset;
    for (uint k = 0; k < columns; k += 32) {
        for (uint i = item; i < 32 * 32; i += 128) {
            uint at = row + i / 32, column = k + i % 32;
            w[i / 32][i % 32] =
                at < rows && column < columns
                    ? NAME(weight_at)(data, scales, at, column, rows, columns, group)
                    : 0.0f;
        }
        for (uint i = item; i < 16 * 32; i += 128) {
            uint at = token + i / 32, column = k + i % 32;
            bool there = at < n && column < columns;
            a[i / 32][i % 32] = there ? x[(ulong)at * x_stride + column] : 0.0f;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint i = 0; i < 32; i++) {
            for (uint j = 0; j < 4; j++) {
                sum[j] += w[r][i] * a[t * 4 + j][i];
            }
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (row + r < rows) {
        float add = bias != NO_VECTOR ? vectors[bias + row + r] : 0.0f;
        for (uint j = 0; j < 4; j++) {
            uint at = token + t * 4 + j;
            if (at < n) {
                sink_value(y + (ulong)at * y_stride + row + r, sum[j] + add, y_scale, sink);
            }
        }
    }
}
