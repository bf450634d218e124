/* Arithmetic of fp16 for attention.cl, two numbers at a time: the device's own (cl_khr_fp16), or
 * (HALVES_EMULATED) fp32 with each result rounded to fp16, slow, so that everything but the
 * instructions is tested on devices without it.
 *
 * Sums are fp16 over a piece, SCORE_TERMS or VALUE_TERMS products, and fp32 beyond. No piece
 * overflows, whatever keys and values hold: one factor of each product is scaled by a power of two
 * (exact, and undone in fp32) to at most 1 / terms, the other is at most 65504. Partial sums grow
 * with the products, rounding keeps the order, and with all products at 65504 / 8 or 65504 / 16 the
 * rounded sums end at 65504.
 *   Scores: a row of the query is scaled to a largest element of at most 1 / SCORE_TERMS.
 *   Values: weights are relative to the largest score of the row among the KEY_BLOCK keys at hand,
 *   so at most 1, and divided by VALUE_TERMS. Relative to the largest score so far, the weights of
 *   a whole block behind one strong key would vanish in fp16.
 *
 * What it costs, as root mean squares of products of either sign, u = 2^-11 being half the distance
 * of two numbers near 1: a score's error is 1.4 u of the deviation of scores (8 partial sums, and
 * the rounded query); a result's is that and 2.3 u (weights, 16 partial sums of values, and of
 * weights), 1.3e-3 where scores deviate by 1. It grows with the products: keys that cancel one
 * another after hundreds are coarse in fp16, and such models keep fp32 (ofr_opencl_halves_agree).
 */
#define SCORE_TERMS 8
#define VALUE_TERMS VALUE_KEYS /* of attention.cl */

#ifndef HALVES_EMULATED
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
typedef half2 halves;

inline halves halves_of(uint word)
{
    return as_half2(word);
}

inline uint halves_word(float2 x)
{
    return as_uint(convert_half2_rte(x));
}

inline float2 halves_floats(halves x)
{
    return convert_float2(x);
}

inline halves halves_add(halves a, halves b)
{
    return a + b;
}

inline halves halves_mad(halves a, halves b, halves sum)
{
    return fma(a, b, sum);
}
#else
typedef float2 halves;

inline halves halves_of(uint word)
{
    return vload_half2(0, (private const half *)&word);
}

inline uint halves_word(float2 x)
{
    uint word;
    vstore_half2_rte(x, 0, (private half *)&word);
    return word;
}

inline float2 halves_floats(halves x)
{
    return x;
}

inline halves halves_add(halves a, halves b)
{
    return halves_of(halves_word(a + b));
}

inline halves halves_mad(halves a, halves b, halves sum)
{
    return halves_of(halves_word(fma(a, b, sum)));
}
#endif

/* The power of two that a row with this largest element is divided by. No model's queries come
 * near 2^100. */
inline float score_unit(float largest)
{
    return largest > 0 ? ldexp(2.0f * SCORE_TERMS, clamp(ilogb(largest), -100, 100)) : 1.0f;
}
