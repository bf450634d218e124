/* The loops of quantize_kernel.h, for the instruction set of the file that includes them: see
 * there. Included once by each of quantize_generic.c and quantize_avx2.c. */
#ifndef OFR_BAKE_MODEL_QUANTIZE_LOOPS_H
#define OFR_BAKE_MODEL_QUANTIZE_LOOPS_H

#include <stdbool.h>
#include <string.h>

#include "bake_model/quantize_kernel.h"

enum {
    LANES = 8,
    CHUNK = 256, /* elements that are kept in units of the extreme */
    /* What the extreme may be mapped to: 6.5, 6.8 .. 8.9. Up to 7.4 no integer is clipped, so that
     * both ends of the range are as good; beyond, each end is a candidate of its own. */
    UNCLIPPED = 4,
    CLIPPED = 5,
    CANDIDATES = UNCLIPPED + 2 * CLIPPED,
    SUMS = 16, /* CANDIDATES, up to whole registers */
};
#define TARGET(i) (6.5f + 0.3f * (float)(i))

typedef float lanes __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t masks __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint64_t pairs __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef uint8_t packed __attribute__((vector_size(LANES / 2), aligned(1), may_alias));

static inline lanes quantize_max(lanes x, lanes y);
static inline lanes quantize_min(lanes x, lanes y);

/* Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, for |x| < 2^22, and leaves it in
 * the low bits; subtracting gives it back as a float. */
#define MAGIC 12582912.0f

static inline lanes load(const float *from)
{
    return *(const lanes *)(const void *)from;
}

static inline lanes spread(float x)
{
    return (lanes){x, x, x, x, x, x, x, x};
}

static inline lanes clip(lanes x, float low, float high)
{
    return quantize_min(quantize_max(x, spread(low)), spread(high));
}

static inline lanes magnitude(lanes x)
{
    return (lanes)((masks)x & 0x7fffffff);
}

/* ---- the search ---- */

/* By lane, for each candidate: sums of c x q and of c q^2. x is in units of -extreme, so that the
 * extreme is -1; q = round(x * target). */
typedef struct candidate_sums {
    lanes xq[SUMS], qq[SUMS];
} candidate_sums;

/* A chunk of the group: x, and with it what its elements weigh. */
typedef struct weighted_chunk {
    _Alignas(32) float x[CHUNK];
    _Alignas(32) float c[CHUNK];
    _Alignas(32) float cx[CHUNK];
    size_t n;
} weighted_chunk;

static inline lanes round_even(lanes x)
{
    return (x + MAGIC) - MAGIC;
}

static void search_unclipped(const weighted_chunk *chunk, candidate_sums *sums)
{
    lanes xq[UNCLIPPED], qq[UNCLIPPED];
    memcpy(xq, sums->xq, sizeof xq);
    memcpy(qq, sums->qq, sizeof qq);
    for (size_t i = 0; i < chunk->n; i += LANES) {
        lanes x = load(chunk->x + i), c = load(chunk->c + i), cx = load(chunk->cx + i);
#pragma GCC unroll 4
        for (size_t j = 0; j < UNCLIPPED; j++) {
            lanes q = round_even(x * TARGET(j));
            xq[j] += cx * q;
            qq[j] += c * q * q;
        }
    }
    memcpy(sums->xq, xq, sizeof xq);
    memcpy(sums->qq, qq, sizeof qq);
}

/* Of a target the candidate that maps the extreme to -target, and the one that maps it to +target:
 * its integers are -q, which changes neither sum's size. */
static inline __attribute__((always_inline)) void add_clipped(lanes x, lanes c, lanes cx,
                                                              float target, lanes *xq, lanes *qq)
{
    lanes q = round_even(x * target), low = clip(q, -8, 7), high = clip(q, -7, 8);
    xq[0] += cx * low;
    qq[0] += c * low * low;
    xq[1] += cx * high;
    qq[1] += c * high * high;
}

/* Targets first and, where `two`, first + 1 of those that clip. */
static inline __attribute__((always_inline)) void search_clipped(const weighted_chunk *chunk,
                                                                 size_t first, bool two,
                                                                 candidate_sums *sums)
{
    lanes xq[4], qq[4];
    size_t at = UNCLIPPED + 2 * first, bytes_of_sums = (two ? 4 : 2) * sizeof(lanes);
    memcpy(xq, sums->xq + at, bytes_of_sums);
    memcpy(qq, sums->qq + at, bytes_of_sums);
    for (size_t i = 0; i < chunk->n; i += LANES) {
        lanes x = load(chunk->x + i), c = load(chunk->c + i), cx = load(chunk->cx + i);
        add_clipped(x, c, cx, TARGET(UNCLIPPED + first), xq, qq);
        if (two)
            add_clipped(x, c, cx, TARGET(UNCLIPPED + first + 1), xq + 2, qq + 2);
    }
    memcpy(sums->xq + at, xq, bytes_of_sums);
    memcpy(sums->qq + at, qq, bytes_of_sums);
}

/* The sums over the lanes of eight vectors. */
static inline lanes add_lanes(const lanes v[LANES])
{
    lanes two[4], four[2];
    for (int i = 0; i < 4; i++)
        two[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
                 __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    for (int i = 0; i < 2; i++)
        four[i] = __builtin_shufflevector(two[2 * i], two[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
                  __builtin_shufflevector(two[2 * i], two[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
    return __builtin_shufflevector(four[0], four[1], 0, 1, 2, 3, 8, 9, 10, 11) +
           __builtin_shufflevector(four[0], four[1], 4, 5, 6, 7, 12, 13, 14, 15);
}

/* The scale of the candidate that explains most of sum c x^2 with its best scale. */
static float best_scale(const candidate_sums *sums)
{
    float gains[SUMS], scales[SUMS];
    for (size_t i = 0; i < SUMS; i += LANES) {
        lanes xq = add_lanes(sums->xq + i), qq = add_lanes(sums->qq + i), scale = xq / qq;
        *(lanes *)(void *)(scales + i) = scale;
        *(lanes *)(void *)(gains + i) = xq * scale;
    }
    float gain = 0, scale = 0;
    for (size_t i = 0; i < CANDIDATES; i++)
        if (gains[i] > gain) {
            gain = gains[i];
            scale = i >= UNCLIPPED && (i - UNCLIPPED) % 2 == 1 ? -scales[i] : scales[i];
        }
    return scale;
}

static float search(const float *w, size_t group, float unit)
{
    candidate_sums sums;
    memset(&sums, 0, sizeof sums);
    for (size_t begin = 0; begin < group; begin += CHUNK) {
        weighted_chunk chunk;
        chunk.n = group - begin < CHUNK ? group - begin : CHUNK;
        for (size_t i = 0; i < chunk.n; i += LANES) {
            lanes x = load(w + begin + i) * unit;
            lanes c = group <= OFR_QUANTIZE_SMALL_GROUP ? magnitude(x) + 0.3f : x * x;
            *(lanes *)(void *)(chunk.x + i) = x;
            *(lanes *)(void *)(chunk.c + i) = c;
            *(lanes *)(void *)(chunk.cx + i) = c * x;
        }
        search_unclipped(&chunk, &sums);
        search_clipped(&chunk, 0, true, &sums);
        search_clipped(&chunk, 2, true, &sums);
        search_clipped(&chunk, 4, false, &sums);
    }
    return best_scale(&sums);
}

static float extreme(const float *w, size_t n)
{
    lanes top = {0}, bottom = {0};
    for (size_t i = 0; i < n; i += LANES) {
        lanes x = load(w + i);
        top = quantize_max(top, x);
        bottom = quantize_min(bottom, x);
    }
    float most = 0, least = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        most = top[lane] > most ? top[lane] : most;
        least = bottom[lane] < least ? bottom[lane] : least;
    }
    return most >= -least ? most : least;
}

/* ---- rounding, and what it costs ---- */

typedef struct miss_sums {
    lanes error, energy;
} miss_sums;

static inline void add_miss(miss_sums *misses, lanes x, lanes q, float scale)
{
    lanes miss = x - q * scale;
    misses->error += miss * miss;
    misses->energy += x * x;
}

/* Short sums of floats, long ones of doubles. */
static inline void add_misses(const miss_sums *misses, ofr_quantize_error *add_error)
{
    lanes all[LANES] = {misses->error, misses->energy};
    lanes sums = add_lanes(all);
    add_error->error += (double)sums[0];
    add_error->energy += (double)sums[1];
}

static void round_i4(const float *w, size_t n, float scale, float inverse, uint8_t *ret_data,
                     ofr_quantize_error *add_error)
{
    for (size_t begin = 0; begin < n; begin += CHUNK) {
        size_t end = n - begin < CHUNK ? n : begin + CHUNK;
        miss_sums misses = {{0}, {0}};
        for (size_t i = begin; i < end; i += LANES) {
            lanes x = load(w + i), q = clip(x * inverse, -8, 7) + MAGIC;
            add_miss(&misses, x, q - MAGIC, scale);
            pairs nibbles = (pairs)((masks)q & 15); /* two in each, 32 bits apart */
            *(packed *)(void *)(ret_data + i / 2) =
                __builtin_convertvector(nibbles | nibbles >> 28, packed);
        }
        add_misses(&misses, add_error);
    }
}

static void round_i8(const float *w, size_t n, float scale, float inverse, int8_t *ret_data,
                     ofr_quantize_error *add_error)
{
    for (size_t begin = 0; begin < n; begin += CHUNK) {
        size_t end = n - begin < CHUNK ? n : begin + CHUNK;
        miss_sums misses = {{0}, {0}};
        for (size_t i = begin; i < end; i += LANES) {
            lanes x = load(w + i), q = clip(x * inverse, -127, 127) + MAGIC;
            add_miss(&misses, x, q - MAGIC, scale);
            *(bytes *)(void *)(ret_data + i) = __builtin_convertvector((masks)q, bytes);
        }
        add_misses(&misses, add_error);
    }
}

static void error(const float *w, size_t n, const int8_t *q, float scale,
                  ofr_quantize_error *add_error)
{
    for (size_t begin = 0; begin < n; begin += CHUNK) {
        size_t end = n - begin < CHUNK ? n : begin + CHUNK;
        miss_sums misses = {{0}, {0}};
        for (size_t i = begin; i < end; i += LANES) {
            masks integers = __builtin_convertvector(*(const bytes *)(const void *)(q + i), masks);
            add_miss(&misses, load(w + i), __builtin_convertvector(integers, lanes), scale);
        }
        add_misses(&misses, add_error);
    }
}

static const ofr_quantize_kernel table = {.extreme = extreme,
                                          .search = search,
                                          .round_i4 = round_i4,
                                          .round_i8 = round_i8,
                                          .error = error};

#endif
