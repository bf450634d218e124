/* One token in one launch, first of four parts (token.cl says how they work together): what steps
 * hand on to one another, packets with tags, and records of them. */
#if WARP == 32
#define LANES 32
#else
#define LANES 1
#endif
#define WARPS     (ITEMS / LANES)
#define TEAM_ROWS (32 / WARPS)
#if ITEMS == 1 /* nobody to wait for; compilers for CPUs take minutes over this many barriers */
#define meet(fences)
#else
#define meet(fences) barrier(fences)
#endif
#define MAX_SPLITS 64
#define LOWEST     (-1e30f)
#define POLLS_MAX                                                                                  \
    (1 << 22) /* some seconds: then the device does not run all work-groups at once                \
               */

/* Words of a matrix in the plan, opencl_token.c writes them. */
#define PLAN_WINDOW       0
#define PLAN_OFFSET       1 /* low, high */
#define PLAN_SCALE_WINDOW 3
#define PLAN_SCALE_OFFSET 4
#define PLAN_ROWS         6
#define PLAN_SHIFT        7
#define PLAN_BIAS         8
#define PLAN_TYPE         9 /* enum ofr_dtype */
#define PLAN_MATRIX_WORDS 10
#define LAYER_MATRICES    7
/* Of a layer: seven matrices, then these. */
#define PLAN_NORM_O      70 /* weight of the norm after O, after down; NO_VECTOR: the last */
#define PLAN_NORM_DOWN   71
#define PLAN_STRIPS      72 /* K low, high, V low, high */
#define PLAN_Q_NORM      76
#define PLAN_K_NORM      77
#define PLAN_ROPE        78 /* half | table << 16 */
#define PLAN_WINDOWED    79 /* keys that a token sees; 0: all */
#define PLAN_LAYER_WORDS 80

#define STEP_QKV       0
#define STEP_ATTENTION 1
#define STEP_O         2
#define STEP_MLP       3
#define STEP_DOWN      4
#define STEPS          5
#define STEP_HEAD      5

#define TYPE_I8  2
#define TYPE_I4M 4

/* sync: word 0 fault; 8 on: with TRACE the cycles of the first work-group in each step, before it
 * could begin and from there on. */
#define SYNC_FAULT 0
#define SYNC_TRACE 8

inline uint cycles(void)
{
    uint now = 0;
#if defined(TRACE) && defined(OFR_NVIDIA)
    asm volatile("mov.u32 %0, %%clock;" : "=r"(now)::"memory");
#endif
    return now;
}

/* That a step began to wait at `start`, to work at `ready`, and is through now. */
inline void note_cycles(volatile global uint *sync, uint step, uint start, uint ready)
{
#ifdef TRACE
    if (get_group_id(0) == 0 && get_local_id(0) == 0) {
        sync[SYNC_TRACE + 2 * step] += ready - start;
        sync[SYNC_TRACE + 2 * step + 1] += cycles() - ready;
    }
#endif
}

/* Packets of 16 bytes and pairs of 8 are written and read at once, past the first-level cache. */
inline uint4 load_packet(global const uint4 *at)
{
#ifdef OFR_NVIDIA
    uint4 v;
    asm volatile("{.reg .b128 t; .reg .b64 a, b;"
                 " ld.relaxed.gpu.global.b128 t, [%4];"
                 " mov.b128 {a, b}, t; mov.b64 {%0, %1}, a; mov.b64 {%2, %3}, b;}"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at)
                 : "memory");
    return v;
#else
    return *at;
#endif
}

inline void store_packet(global uint4 *at, uint4 v)
{
#ifdef OFR_NVIDIA
    asm volatile("{.reg .b128 t; .reg .b64 a, b;"
                 " mov.b64 a, {%1, %2}; mov.b64 b, {%3, %4}; mov.b128 t, {a, b};"
                 " st.relaxed.gpu.global.b128 [%0], t;}" ::"l"(at),
                 "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
#else
    *at = v;
#endif
}

/* A number and its tag. */
inline uint2 load_pair(global const uint2 *at)
{
#ifdef OFR_NVIDIA
    uint2 v;
    asm volatile("{.reg .b64 a; ld.relaxed.gpu.global.b64 a, [%2]; mov.b64 {%0, %1}, a;}"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(at)
                 : "memory");
    return v;
#else
    return *at;
#endif
}

inline void store_pair(global uint2 *at, float x, uint tag)
{
#ifdef OFR_NVIDIA
    asm volatile("{.reg .b64 a; mov.b64 a, {%1, %2}; st.relaxed.gpu.global.b64 [%0], a;}" ::"l"(at),
                 "r"(as_uint(x)), "r"(tag)
                 : "memory");
#else
    *at = (uint2)(as_uint(x), tag);
#endif
}

/* Called each time that a tag was not there yet; false: nobody waits any more, the host looks. */
inline bool keep_waiting(uint polls, volatile global uint *sync)
{
    if (polls > POLLS_MAX || ((polls & 1023) == 1023 && sync[SYNC_FAULT])) {
        sync[SYNC_FAULT] = 1;
        return false;
    }
    return true;
}

inline float await_pair(global const uint2 *at, uint tag, volatile global uint *sync)
{
    uint2 v = load_pair(at);
    for (uint polls = 0; v.y != tag && keep_waiting(polls, sync); polls++) {
        v = load_pair(at);
    }
    return as_float(v.x);
}

/* A record between steps (quantize_units in common.cl says what of): three packets for each unit of
 * 32, packet p of unit u at p * units + u. Words 0 to 7 of the values, then scale, squares:
 *   0, 1, 2, low half of 6 and the tag;  3, 4, 5, high half of 6 and the tag;
 *   7, scale, squares, sum of the bytes (16 bits) and the tag
 * There are COPIES of a record, one after another, so that not all work-groups look at the same
 * lines. */
#define COPIES     (LANES == 32 ? 8 : 1)
#define RECORD_TAG 0xffffu

inline void warp_meet(void)
{
#if LANES == 32
    asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");
#endif
}

/* Whether it holds for any lane. Loops that end so do for all lanes at once: where the compiler
 * cannot tell that, it prepares every exchange between lanes that follows for lanes gone astray. */
inline bool warp_any(bool holds)
{
#if LANES == 32
    uint any;
    asm volatile("{.reg .pred p, q; setp.ne.u32 p, %1, 0; vote.sync.any.pred q, p, 0xffffffff;"
                 " selp.u32 %0, 1, 0, q;}"
                 : "=r"(any)
                 : "r"((uint)holds));
    return any != 0;
#else
    return holds;
#endif
}

/* await_pair for all lanes of a warp. */
inline float await_pairs(global const uint2 *at, uint tag, volatile global uint *sync)
{
    uint2 v;
    uint polls = 0;
    do {
        v = load_pair(at);
    } while (warp_any(v.y != tag && keep_waiting(polls++, sync)));
    return as_float(v.x);
}

#if LANES == 32
/* Of numbers that are not negative. */
inline float warp_largest(float x)
{
#if OFR_NVIDIA >= 80
    uint y;
    asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(y) : "r"(as_uint(x)));
    return as_float(y);
#else
    return warp_max(x);
#endif
}

inline uint warp_shift_bits(uint x, uint distance)
{
    uint y;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;"
                 : "=r"(y)
                 : "r"(x), "r"(distance));
    return y;
}

inline uint warp_take(uint x, uint lane)
{
    uint y;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(y) : "r"(x), "r"(lane));
    return y;
}

inline int warp_total_int(int x)
{
#if OFR_NVIDIA >= 80
    int y;
    asm volatile("redux.sync.add.s32 %0, %1, 0xffffffff;" : "=r"(y) : "r"(x));
    return y;
#else
    for (int d = 1; d < 32; d *= 2) {
        x += (int)warp_shift_bits((uint)x, (uint)d);
    }
    return x;
#endif
}
#endif

/* nibble_products makes 16 times the products. */
#define INPUT_SCALE 0.0625f

/* Packet i of a record to where multiply_chunk wants it; returns its squares. */
inline float place_packet(uint4 v, uint i, uint units, local uint4 *input)
{
    uint part = i < units ? 0 : i < 2 * units ? 1 : 2, unit = i - part * units;
    local uint *low = (local uint *)(input + unit), *high = (local uint *)(input + units + unit);
    if (part == 2) {
        float scale = as_float(v.y), sum = (float)(short)(v.w & 0xffff);
        high[3] = v.x;
        ((local float2 *)(input + 2 * units))[unit] =
            (float2)(INPUT_SCALE * scale, 8.0f * scale * sum);
        return as_float(v.z);
    }
    ((local ushort *)(high + 2))[part] = (ushort)v.w;
    if (part == 0) {
        low[0] = v.x;
        low[1] = v.y;
        low[2] = v.z;
    } else {
        low[3] = v.x;
        high[0] = v.y;
        high[1] = v.z;
    }
    return 0;
}

#define PACKETS_AT_ONCE 3
#define PACKETS_ROUND   (PACKETS_AT_ONCE * ITEMS)
/* This work-item's next packets, the first of them at `first`, when they have the tag. A warp looks
 * at one of its packets until that is there, then at all: polls that fetch all of them hold each
 * other up. */
inline void await_packets(global const uint4 *record, uint first, uint packets, uint tag,
                          volatile global uint *sync, uint4 v[PACKETS_AT_ONCE])
{
    bool there;
    uint polls = 0;
#if LANES == 32
    uint looked_at = first / 32 * 32 + 13;
    if (looked_at < packets) {
        while (load_packet(record + looked_at).w >> 16 != tag && keep_waiting(polls++, sync)) {
        }
    }
#endif
    do {
        there = true;
#pragma unroll
        for (uint k = 0; k < PACKETS_AT_ONCE; k++) { /* all loads at once */
            if (first + k * ITEMS < packets) {
                v[k] = load_packet(record + first + k * ITEMS);
            }
        }
#pragma unroll
        for (uint k = 0; k < PACKETS_AT_ONCE; k++) {
            there = there && (first + k * ITEMS >= packets || v[k].w >> 16 == tag);
        }
    } while (!there && keep_waiting(polls++, sync));
}

/* Those to where multiply_chunk wants them; returns their squares. */
inline float place_packets(const uint4 v[PACKETS_AT_ONCE], uint first, uint units,
                           local uint4 *input)
{
    float squares = 0;
#pragma unroll
    for (uint k = 0; k < PACKETS_AT_ONCE; k++) {
        if (first + k * ITEMS < 3 * units) {
            squares += place_packet(v[k], first + k * ITEMS, units, input);
        }
    }
    return squares;
}

/* A record to local memory as its tag arrives, and (squared) the sums of squares that each warp
 * saw; ends with a barrier. Returns when all was there. */
inline uint load_input(global const uint4 *record, uint columns, uint tag, bool squared,
                       volatile global uint *sync, local uint4 *input, local float *sums)
{
    uint item = get_local_id(0), units = columns / 32;
    float squares = 0;
    tag &= RECORD_TAG;
    record += get_group_id(0) % COPIES * 3 * units;
    for (uint first = item; first < 3 * units; first += PACKETS_ROUND) {
        uint4 packets[PACKETS_AT_ONCE];
        await_packets(record, first, 3 * units, tag, sync, packets);
        squares += place_packets(packets, first, units, input);
    }
    uint begun = cycles();
    if (squared) {
        squares = warp_sum(squares);
        if (item % LANES == 0) {
            sums[item / LANES] = squares;
        }
    }
    meet(CLK_LOCAL_MEM_FENCE);
    return begun;
}

/* The unit's element of this lane is x (without warps all of them lie in `all`), times the weight
 * of a norm. */
inline void make_unit(float x, local const float *all, float weight, global const float *weights,
                      bool squared, uint lane, uint unit, uint units, uint tag,
                      global uint4 *record)
{
    tag = tag << 16;
#if LANES == 32
    float own = x * weight, squares = squared ? warp_sum(x * x) : 0.0f;
    float largest = warp_largest(fabs(own));
    int q = convert_char_sat_rte(own * (largest > 0 ? 127.0f * native_recip(largest) : 0.0f));
    int sum = warp_total_int(q);
    uint word = ((uint)q & 0xff) << 8 * (lane % 8 / 2);
    word |= warp_shift_bits(word, 2); /* words 2 * (lane / 8) + lane % 2 */
    word |= warp_shift_bits(word, 4);
    uint copy = lane / 3, part = lane % 3;
    uint first = part == 2 ? 7 : part * 3, second = part * 3 + 1, third = part * 3 + 2;
    uint4 v;
    v.x = warp_take(word, first / 2 * 8 + first % 2);
    v.y = warp_take(word, second / 2 * 8 + second % 2);
    v.z = warp_take(word, third / 2 * 8 + third % 2);
    uint sixth = warp_take(word, 24);
    v.w = (part == 0 ? sixth & 0xffff : part == 1 ? sixth >> 16 : (uint)sum & 0xffff) | tag;
    if (part == 2) {
        v.y = as_uint(largest / 127.0f);
        v.z = as_uint(squares);
    }
    if (copy < COPIES) {
        store_packet(record + (copy * 3 + part) * units + unit, v);
    }
#else
    float largest = 0, squares = 0;
    uint words[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    int sum = 0;
    for (uint i = 0; i < 32; i++) {
        largest = fmax(largest, fabs(all[i] * (weights ? weights[i] : 1.0f)));
        squares += all[i] * all[i];
    }
    float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    for (uint i = 0; i < 32; i++) {
        int q = convert_char_sat_rte(all[i] * (weights ? weights[i] : 1.0f) * inverse);
        words[byte_place(i) / 4] |= ((uint)q & 0xff) << 8 * (byte_place(i) % 4);
        sum += q;
    }
    store_packet(record + unit, (uint4)(words[0], words[1], words[2], (words[6] & 0xffff) | tag));
    store_packet(record + units + unit,
                 (uint4)(words[3], words[4], words[5], words[6] >> 16 | tag));
    store_packet(record + 2 * units + unit, (uint4)(words[7], as_uint(largest / 127.0f),
                                                    as_uint(squares), ((uint)sum & 0xffff) | tag));
#endif
}
