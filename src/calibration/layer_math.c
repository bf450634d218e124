/* Elementwise parts of a layer. Loops are written over LANES partial sums, so that compilers
 * vectorize them without changing the order of additions. */
#include "calibration/layer_math.h"

#include <math.h>
#include <string.h>

enum { LANES = 16 };

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

/* exp(x) for x <= 88, to about 2 units in the last place: 2^n times a polynomial of 2^f. */
INLINE float exponential(float x)
{
    x = x < -87 ? -87 : x;
    x = x > 88 ? 88 : x;
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    float f = __builtin_fmaf(n, -0.693359375f, x);
    f = __builtin_fmaf(n, 2.12194440e-4f, f);
    float p = 1.9875691500e-4f;
    p = __builtin_fmaf(p, f, 1.3981999507e-3f);
    p = __builtin_fmaf(p, f, 8.3334519073e-3f);
    p = __builtin_fmaf(p, f, 4.1665795894e-2f);
    p = __builtin_fmaf(p, f, 1.6666665459e-1f);
    p = __builtin_fmaf(p, f, 5.0000001201e-1f);
    p = __builtin_fmaf(p * f, f, f + 1);
    union {
        int32_t i;
        float f;
    } power = {.i = ((int32_t)n + 127) * (1 << 23)};
    return p * power.f;
}

CLONES void ofr_layer_rms_norm(const float *x, const float *weight, size_t n, float epsilon,
                               float *y)
{
    float sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            sums[lane] += x[i + lane] * x[i + lane];
    for (; i < n; i++)
        sums[0] += x[i] * x[i];
    float sum = 0;
    for (size_t lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    float factor = 1 / sqrtf(sum / (float)n + epsilon);
    for (i = 0; i < n; i++)
        y[i] = x[i] * factor * weight[i];
}

void ofr_layer_rotate(float *head, const float *cosine, const float *sine, size_t half)
{
    for (size_t i = 0; i < half; i++) {
        float first = head[i], second = head[i + half];
        head[i] = first * cosine[i] - second * sine[i];
        head[i + half] = second * cosine[i] + first * sine[i];
    }
}

CLONES void ofr_layer_swiglu(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1 + exponential(-gate[i])) * up[i];
}

/* Weights of the first n of `padded` scores, not yet divided by the sum, which is returned. */
CLONES static float soften(float *scores, size_t n, size_t padded)
{
    float largest[LANES], sums[LANES] = {0}, top = -INFINITY, sum = 0;
    for (size_t i = n; i < padded; i++)
        scores[i] = -INFINITY;
    for (size_t lane = 0; lane < LANES; lane++)
        largest[lane] = -INFINITY;
    for (size_t i = 0; i < padded; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            largest[lane] = scores[i + lane] > largest[lane] ? scores[i + lane] : largest[lane];
    for (size_t lane = 0; lane < LANES; lane++)
        top = largest[lane] > top ? largest[lane] : top;
    for (size_t i = 0; i < padded; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++) {
            float weight = exponential(scores[i + lane] - top);
            scores[i + lane] = weight;
            sums[lane] += weight;
        }
    /* What the padding added is below 1e-37 each: nothing, in float. */
    for (size_t lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

/* scores[j] = sum_i q[i] keys[i][j], j < width */
CLONES static void score_keys(const float *q, const float *keys, size_t stride, size_t dims,
                              size_t width, float *scores)
{
    for (size_t j = 0; j < width; j += 4 * LANES) {
        size_t count = width - j < 4 * LANES ? width - j : 4 * LANES;
        float sums[4 * LANES] = {0};
        if (count == 4 * LANES)
            for (size_t i = 0; i < dims; i++)
                for (size_t lane = 0; lane < 4 * LANES; lane++)
                    sums[lane] = __builtin_fmaf(q[i], keys[i * stride + j + lane], sums[lane]);
        else
            for (size_t i = 0; i < dims; i++)
                for (size_t lane = 0; lane < count; lane++)
                    sums[lane] = __builtin_fmaf(q[i], keys[i * stride + j + lane], sums[lane]);
        memcpy(scores + j, sums, count * sizeof *scores);
    }
}

CLONES static void add_values(const float *weights, const float *v, size_t stride, size_t n,
                              size_t dims, float factor, float *out)
{
    size_t i = 0;
    for (; i + 4 * LANES <= dims; i += 4 * LANES) {
        float sums[4 * LANES] = {0};
        for (size_t j = 0; j < n; j++)
            for (size_t lane = 0; lane < 4 * LANES; lane++)
                sums[lane] = __builtin_fmaf(weights[j], v[j * stride + i + lane], sums[lane]);
        for (size_t lane = 0; lane < 4 * LANES; lane++)
            out[i + lane] = sums[lane] * factor;
    }
    for (; i < dims; i++) {
        float sum = 0;
        for (size_t j = 0; j < n; j++)
            sum = __builtin_fmaf(weights[j], v[j * stride + i], sum);
        out[i] = sum * factor;
    }
}

static size_t padded_to_lanes(size_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

size_t ofr_layer_attention_work(size_t n, size_t dims)
{
    return padded_to_lanes(n) * (dims + 1) + dims;
}

void ofr_layer_attention(const float *q, size_t q_stride, const float *k, const float *v,
                         size_t kv_stride, size_t n, size_t dims, float *work, float *out)
{
    size_t padded = padded_to_lanes(n);
    float *keys = work, *scores = keys + padded * dims, *query = scores + padded;
    float factor = 1 / sqrtf((float)dims);
    memset(keys, 0, padded * dims * sizeof *keys);
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < dims; i++)
            keys[i * padded + j] = k[j * kv_stride + i];
    for (size_t t = 0; t < n; t++) {
        size_t width = padded_to_lanes(t + 1);
        for (size_t i = 0; i < dims; i++)
            query[i] = q[t * q_stride + i] * factor;
        score_keys(query, keys, padded, dims, width, scores);
        float sum = soften(scores, t + 1, width);
        add_values(scores, v, kv_stride, t + 1, dims, 1 / sum, out + t * q_stride);
    }
}

void ofr_layer_add_logits(float *logits, size_t n, float *maximum, double *sum)
{
    float top = *maximum;
    for (size_t i = 0; i < n; i++)
        top = logits[i] > top ? logits[i] : top;
    double total = *maximum > -INFINITY ? *sum * exp((double)*maximum - (double)top) : 0;
    for (size_t i = 0; i < n; i++)
        logits[i] -= top;
    double parts[LANES] = {0};
    for (size_t i = 0; i < n; i++)
        parts[i % LANES] += (double)exponential(logits[i]);
    for (size_t lane = 0; lane < LANES; lane++)
        total += parts[lane];
    *maximum = top;
    *sum = total;
}
