/* What all kernels share: the pass descriptor, byte products, fences, quantization to int8.
 *
 * Macros set by the host: WARP (work-items that share registers; 1: none), OFR_NVIDIA, OFR_INTEL,
 * DEVICE_FENCE; what else a file needs is at its head.
 *
 * The pass descriptor, uint words (opencl_session.h writes it):
 *   0 tokens  2 splits  3 keys of a split
 *   offsets in words of: 5 blocks  6 outputs  7 targets  8 cosines  9 sines  10, 11 those of the
 *   second table of RoPE
 *   16 tokens [n][4]: id, slot, position, 0;  blocks [n][4]: first token, tokens, 0, 0 */
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define NAME(x) PASTE(x, SUFFIX) /* SUFFIX: _f32, _i4, ... */

#define PASS_TOKENS 0
#define PASS_SPLITS 2
#define PASS_SPLIT_KEYS 3
#define PASS_BLOCKS_AT 5
#define PASS_OUTPUTS_AT 6
#define PASS_TARGETS_AT 7
#define PASS_COSINES_AT 8
#define PASS_SINES_AT 9
#define PASS_HEADER 16
#define NO_VECTOR 0xffffffffu

#define SINK_STORE 0
#define SINK_ADD 1
#define SINK_SWIGLU 2

#ifdef OFR_INTEL
#define SUBGROUP __attribute__((intel_reqd_sub_group_size(WARP)))
#else
#define SUBGROUP
#endif

inline uint4 pass_token(global const uint *pass, uint i)
{
    return vload4(i, pass + PASS_HEADER);
}

/* Rows of a call: a header word of the descriptor, or with the top bit the number itself. */
inline uint row_count(global const uint *pass, uint count_word)
{
    return count_word & 0x80000000u ? count_word & 0x7fffffffu : pass[count_word];
}

/* Pair p of a head of token t, times factor and (weight not 0) the weights of a norm, turned by
 * RoPE table `table`: elements p and p + rope_half while p is below rope_half, two neighbours
 * beyond, as they are. ret_place: where the two belong. */
inline float2 turned_pair(global const float *x, uint p, uint rope_half, global const uint *pass,
                          uint table, uint t, float factor, global const float *weight,
                          uint2 *ret_place)
{
    bool turns = p < rope_half;
    uint2 place = turns ? (uint2)(p, p + rope_half) : (uint2)(p * 2, p * 2 + 1);
    float a = x[place.x] * factor, b = x[place.y] * factor;
    if (weight) {
        a *= weight[place.x];
        b *= weight[place.y];
    }
    if (turns) {
        uint at = t * rope_half + p;
        float c = as_float(pass[pass[PASS_COSINES_AT + 2 * table] + at]);
        float s = as_float(pass[pass[PASS_SINES_AT + 2 * table] + at]);
        float turned = a * c - b * s;
        b = b * c + a * s;
        a = turned;
    }
    *ret_place = place;
    return (float2)(a, b);
}

/* What heads go through before they meet, per layer. Norms NO_VECTOR: none (both or neither).
 * window: keys that a token sees; 0: all. */
#define HEAD_ARGUMENTS                                                                             \
    uint rope_half, uint rope_table, uint q_norm, uint k_norm, uint window,                        \
        global const float *vectors, float epsilon

inline uint first_key(uint position, uint window)
{
    return window > 0 && position >= window ? position + 1 - window : 0;
}

/* Of the MLP's gate; GELU: tanh's approximation instead of SiLU. */
inline float activate(float x)
{
#ifdef GELU
    return 0.5f * x * (1.0f + tanh(0.7978845608028654f * (x + 0.044715f * x * x * x)));
#else
    return x / (1.0f + exp(-x));
#endif
}

/* What a product does to its place. */
inline void sink_value(global float *y, float value, float y_scale, uint sink)
{
    *y = sink == SINK_STORE ? value
         : sink == SINK_ADD ? *y + y_scale * value
                            : activate(*y) * value;
}

/* c plus the products of four bytes: u unsigned, s signed; and both signed. */
#ifdef OFR_NVIDIA
inline int dot4_us(uint u, uint s, int c)
{
    int d;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(u), "r"(s), "r"(c));
    return d;
}
inline int dot4_ss(uint a, uint s, int c)
{
    int d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(s), "r"(c));
    return d;
}
#elif defined(__opencl_c_integer_dot_product_input_4x8bit_packed) && !defined(OFR_INTEL)
inline int dot4_us(uint u, uint s, int c)
{
    return c + dot_4x8packed_us_int(u, s);
}
inline int dot4_ss(uint a, uint s, int c)
{
    return c + dot_4x8packed_ss_int(a, s);
}
#else /* Intel's compiler makes dp4a of this, and some versions lack what the header declares */
inline int dot4_us(uint u, uint s, int c)
{
    int4 p = convert_int4(as_uchar4(u)) * convert_int4(as_char4(s));
    return c + p.x + p.y + p.z + p.w;
}
inline int dot4_ss(uint a, uint s, int c)
{
    int4 p = convert_int4(as_char4(a)) * convert_int4(as_char4(s));
    return c + p.x + p.y + p.z + p.w;
}
#endif

/* 32 int4 weights times the first (a) and the second 16 (b) activations of a unit. */
inline int nibble_dot(uint4 w, uint4 a, uint4 b)
{
    w ^= (uint4)0x88888888u; /* two's complement to offset 8 */
    uint4 low = w & (uint4)0x0f0f0f0fu, high = (w >> 4) & (uint4)0x0f0f0f0fu;
    int dot = dot4_us(low.x, a.x, 0);
    dot = dot4_us(high.x, a.y, dot);
    dot = dot4_us(low.y, a.z, dot);
    dot = dot4_us(high.y, a.w, dot);
    dot = dot4_us(low.z, b.x, dot);
    dot = dot4_us(high.z, b.y, dot);
    dot = dot4_us(low.w, b.z, dot);
    return dot4_us(high.w, b.w, dot);
}

/* sum + 16 int8 weights times 16 activations. */
inline int byte_dot(uint4 w, uint4 a, int sum)
{
    sum = dot4_ss(w.x, a.x, sum);
    sum = dot4_ss(w.y, a.y, sum);
    sum = dot4_ss(w.z, a.z, sum);
    return dot4_ss(w.w, a.w, sum);
}

/* Sum over the WARP work-items of a sub-group; all of them call it. */
#if WARP > 1
#ifdef OFR_NVIDIA
inline float warp_shift(float x, int distance)
{
    float y;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;"
                 : "=f"(y)
                 : "f"(x), "r"(distance));
    return y;
}
inline float warp_sum(float x)
{
    for (int d = 16; d > 0; d /= 2) {
        x += warp_shift(x, d);
    }
    return x;
}
inline float warp_max(float x)
{
    for (int d = 16; d > 0; d /= 2) {
        x = fmax(x, warp_shift(x, d));
    }
    return x;
}
#else
inline float warp_sum(float x)
{
    return sub_group_reduce_add(x);
}
#endif
#else
inline float warp_sum(float x)
{
    return x;
}
#endif

/* Makes writes of this work-item visible to the whole device before what follows. */
inline void device_fence(void)
{
#ifdef OFR_NVIDIA
    asm volatile("membar.gl;" ::: "memory");
#elif defined(DEVICE_FENCE)
    atomic_work_item_fence(CLK_GLOBAL_MEM_FENCE, memory_order_acq_rel, memory_scope_device);
#else
    mem_fence(CLK_GLOBAL_MEM_FENCE);
#endif
}

/* Where element i of a unit of 32 goes, in bytes: even and odd elements of eight in words of their
 * own, as the low and high nibbles of int4 weights are. int8 weights want them interleaved. */
inline uint byte_place(uint i)
{
    return (i & ~7u) + (i & 1u) * 4 + (i % 8) / 2;
}

inline uint2 interleaved(uint even, uint odd)
{
#ifdef OFR_NVIDIA
    uint2 v;
    asm("prmt.b32 %0, %1, %2, 0x5140;" : "=r"(v.x) : "r"(even), "r"(odd));
    asm("prmt.b32 %0, %1, %2, 0x7362;" : "=r"(v.y) : "r"(even), "r"(odd));
    return v;
#else
    uchar4 e = as_uchar4(even), o = as_uchar4(odd);
    return (uint2)(as_uint((uchar4)(e.x, o.x, e.y, o.y)), as_uint((uchar4)(e.z, o.z, e.w, o.w)));
#endif
}

inline uint4 interleaved_half(uint4 a)
{
    return (uint4)(interleaved(a.x, a.y), interleaved(a.z, a.w));
}

#if WARP == 32
/* The same for one unit that a warp holds, an element a lane. */
inline void quantize_unit(float x, float weight, uint lane, uint unit, global char *values,
                          global float *scales, global float *squares)
{
    float own = x * weight, largest = warp_max(fabs(own));
    char q = convert_char_sat_rte(own * (largest > 0 ? 127.0f / largest : 0.0f));
    float total = warp_sum((float)q), sum = squares ? warp_sum(x * x) : 0.0f;
    values[unit * 32 + byte_place(lane)] = q;
    if (lane == 0) {
        vstore2((float2)(largest / 127.0f, 8.0f * (largest / 127.0f) * total), unit, scales);
        if (squares) {
            squares[unit] = sum;
        }
    }
}
#endif

/* A record is a row of activations quantized in units of 32: bytes, per unit the scale and eight
 * times scale times the sum of the bytes (what an offset of 8 in the weights adds), and the sum of
 * squares of the elements before they were multiplied by a norm's weight.
 *
 * x: n elements (a multiple of 32) in local memory, the first of them at element `at` of the row;
 * called by all work-items, ends with a barrier. weight may be 0. */
inline void quantize_units(local const float *x, uint n, local char *scratch, uint item, uint items,
                           uint at, global const float *weight, global char *values,
                           global float *scales, global float *squares)
{
#if WARP == 32
    for (uint i = item; i < n; i += items) { /* items is a multiple of 32: whole warps */
        quantize_unit(x[i], weight ? weight[at + i] : 1.0f, i % 32, (at + i) / 32, values,
                      scales, squares);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#else
    for (uint i = item; i < n; i += items) {
        uint unit = i & ~31u;
        float largest = 0;
        for (uint j = 0; j < 32; j++) {
            float w = weight ? weight[at + unit + j] : 1.0f;
            largest = fmax(largest, fabs(x[unit + j] * w));
        }
        float inverse = largest > 0 ? 127.0f / largest : 0.0f;
        float own = x[i] * (weight ? weight[at + i] : 1.0f);
        char q = convert_char_sat_rte(own * inverse);
        scratch[i] = q;
        values[at + unit + byte_place(i - unit)] = q;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint u = item; u < n / 32; u += items) {
        float largest = 0, sum = 0;
        int total = 0;
        for (uint j = 0; j < 32; j++) {
            float v = x[u * 32 + j];
            float w = weight ? weight[at + u * 32 + j] : 1.0f;
            largest = fmax(largest, fabs(v * w));
            sum += v * v;
            total += scratch[u * 32 + j];
        }
        float scale = largest / 127.0f;
        scales[(at / 32 + u) * 2] = scale;
        scales[(at / 32 + u) * 2 + 1] = 8.0f * scale * (float)total;
        if (squares) {
            squares[at / 32 + u] = sum;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#endif
}
