/* The loops of quantize_kernel.h, for the instruction set of the file that includes them: see
 * there. Included once by each of quantize_generic.c, quantize_avx2.c and quantize_avx512.c. */
#ifndef OFR_BAKE_MODEL_QUANTIZE_LOOPS_H
#define OFR_BAKE_MODEL_QUANTIZE_LOOPS_H

#include <math.h>
#include <string.h>

#include "bake_model/quantize_kernel.h"

enum {
    LANES = OFR_QUANTIZE_LANES,
    WIDTH = LANES * QUANTIZE_SETS, /* floats of a register */
    N_REGISTERS = OFR_QUANTIZE_CANDIDATES / QUANTIZE_SETS,
    CHUNK = 256,  /* elements that are kept in units of the extreme */
    TOGETHER = 3, /* registers of candidates that share the loads */
};
_Static_assert(N_REGISTERS % TOGETHER == 0, "candidates go in threes of registers");

typedef float lanes __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t masks __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef float wide __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef int8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

static inline wide quantize_max(wide x, float limit);
static inline wide quantize_min(wide x, float limit);
static inline wide quantize_spread(const float *eight); /* the same eight floats in every set */

/* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, for |x| < 2^22. */
#define ROUND_EVEN(x) (((x) + 12582912.0f) - 12582912.0f)

static void search_chunk(const float *x, const float *c, size_t n, const float *inverses,
                         ofr_quantize_sums *sums)
{
    for (size_t first = 0; first < N_REGISTERS; first += TOGETHER) {
        wide inverse[TOGETHER] = {{0}}, wq[TOGETHER], qq[TOGETHER];
        for (size_t j = 0; j < TOGETHER; j++) {
            size_t candidate = (first + j) * QUANTIZE_SETS;
            for (size_t lane = 0; lane < WIDTH; lane++)
                inverse[j][lane] = inverses[candidate + lane / LANES];
            wq[j] = *(const wide *)(const void *)sums->wq[candidate];
            qq[j] = *(const wide *)(const void *)sums->qq[candidate];
        }
        for (size_t i = 0; i < n; i += LANES) {
            wide w = quantize_spread(x + i), weight = quantize_spread(c + i);
#pragma GCC unroll 3
            for (size_t j = 0; j < TOGETHER; j++) {
                wide q = quantize_min(quantize_max(w * inverse[j], -8), 7);
                q = ROUND_EVEN(q);
                wq[j] += weight * (w * q);
                qq[j] += weight * (q * q);
            }
        }
        for (size_t j = 0; j < TOGETHER; j++) {
            size_t candidate = (first + j) * QUANTIZE_SETS;
            *(wide *)(void *)sums->wq[candidate] = wq[j];
            *(wide *)(void *)sums->qq[candidate] = qq[j];
        }
    }
}

static inline lanes magnitude(lanes x)
{
    return (lanes)((masks)x & 0x7fffffff);
}

static inline lanes load(const float *from)
{
    return *(const lanes *)(const void *)from;
}

static void search(const float *w, size_t group, float unit,
                   const float inverses[OFR_QUANTIZE_CANDIDATES], ofr_quantize_sums *ret_sums)
{
    _Alignas(64) float x[CHUNK], c[CHUNK];
    memset(ret_sums, 0, sizeof *ret_sums);
    for (size_t begin = 0; begin < group; begin += CHUNK) {
        size_t n = group - begin < CHUNK ? group - begin : CHUNK;
        for (size_t i = 0; i < n; i += LANES) {
            lanes value = load(w + begin + i) * unit;
            *(lanes *)(void *)(x + i) = value;
            *(lanes *)(void *)(c + i) =
                group <= OFR_QUANTIZE_SMALL_GROUP ? magnitude(value) + 0.3f : value * value;
        }
        search_chunk(x, c, n, inverses, ret_sums);
    }
}

static float extreme(const float *w, size_t n)
{
    lanes largest = {0};
    for (size_t i = 0; i < n; i += LANES) {
        lanes x = magnitude(load(w + i));
        masks more = x > largest;
        largest = (lanes)(((masks)x & more) | ((masks)largest & ~more));
    }
    float top = 0;
    for (size_t lane = 0; lane < LANES; lane++)
        top = largest[lane] > top ? largest[lane] : top;
    for (size_t i = 0; i < n && top > 0; i++)
        if (fabsf(w[i]) == top)
            return w[i];
    return 0;
}

static void round_all(const float *w, size_t n, float inverse, float low, float high, int8_t *ret_q)
{
    for (size_t i = 0; i < n; i += LANES) {
        lanes q = load(w + i) * inverse;
        masks below = q < low;
        q = (lanes)(((masks)((lanes){0} + low) & below) | ((masks)q & ~below));
        masks above = q > high;
        q = (lanes)(((masks)((lanes){0} + high) & above) | ((masks)q & ~above));
        masks integers = __builtin_convertvector(ROUND_EVEN(q), masks);
        *(bytes *)(void *)(ret_q + i) = __builtin_convertvector(integers, bytes);
    }
}

static void error(const float *w, size_t n, const int8_t *q, float scale,
                  ofr_quantize_error *add_error)
{
    for (size_t begin = 0; begin < n;
         begin += CHUNK) { /* short sums of floats, long ones of doubles */
        size_t end = n - begin < CHUNK ? n : begin + CHUNK;
        lanes errors = {0}, energies = {0};
        for (size_t i = begin; i < end; i += LANES) {
            masks integers = __builtin_convertvector(*(const bytes *)(const void *)(q + i), masks);
            lanes x = load(w + i),
                  difference = x - __builtin_convertvector(integers, lanes) * scale;
            errors += difference * difference;
            energies += x * x;
        }
        for (size_t lane = 0; lane < LANES; lane++) {
            add_error->error += (double)errors[lane];
            add_error->energy += (double)energies[lane];
        }
    }
}

static const ofr_quantize_kernel table = {
    .search = search, .extreme = extreme, .round = round_all, .error = error};

#endif
