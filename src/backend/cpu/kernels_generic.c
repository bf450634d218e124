/* Portable kernels: plain C, exact integer sums, the order of the formats of kernels.h spelled out.
 * They run anywhere and are what the vector kernels are tested against. */
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"
#include "base/fp16.h"

static bool supported(const ofr_cpu_features *features)
{
    (void)features;
    return true;
}

/* Where value k of a row is stored. */
static size_t value_index(const ofr_cpu_activations *a, size_t k)
{
    if (!a->split) {
        return k;
    }
    size_t in_block = k % OFR_CPU_SPLIT_BLOCK;
    return k - in_block + in_block / 2 + in_block % 2 * (OFR_CPU_SPLIT_BLOCK / 2);
}

static void quantize(const float *x, const ofr_cpu_activations *a, size_t row)
{
    int8_t *values = a->values + row * a->value_stride;
    float *scales = a->scales + row * a->group_stride;
    float *sums = a->sums + row * a->group_stride;
    memset(values, 0, a->value_stride);
    memset(scales, 0, a->group_stride * sizeof *scales);
    memset(sums, 0, a->group_stride * sizeof *sums);
    for (uint32_t g = 0; g < a->n_groups; g++) {
        const float *group = x + (size_t)g * OFR_CPU_ACTIVATION_GROUP;
        float largest = 0;
        for (uint32_t i = 0; i < OFR_CPU_ACTIVATION_GROUP; i++) {
            largest = fmaxf(largest, fabsf(group[i]));
        }
        scales[g] = largest / 127;
        float inverse = largest > OFR_CPU_SCALE_TINY ? 127 / largest : 0;
        int32_t sum = 0;
        for (uint32_t i = 0; i < OFR_CPU_ACTIVATION_GROUP; i++) {
            float scaled = fminf(fmaxf(nearbyintf(group[i] * inverse), -127), 127);
            int8_t value = (int8_t)scaled;
            values[value_index(a, (size_t)g * OFR_CPU_ACTIVATION_GROUP + i)] = value;
            sum += value;
        }
        sums[g] = scales[g] * (float)sum;
    }
}

static int32_t weight_at(const ofr_cpu_matrix *w, uint32_t row, size_t k)
{
    size_t index = (size_t)row * w->columns + k;
    if (w->dtype == OFR_DTYPE_I8) {
        return (int8_t)w->data[index];
    }
    int32_t nibble = k % 2 == 0 ? w->data[index / 2] & 15 : w->data[index / 2] >> 4;
    return (nibble ^ 8) - 8;
}

static float weight_scale(const ofr_cpu_matrix *w, uint32_t row, uint32_t group)
{
    size_t k = (size_t)group * OFR_CPU_ACTIVATION_GROUP;
    return ofr_half_to_float(w->scales[(size_t)row * (w->columns / w->group) + k / w->group]);
}

static void gemv(const ofr_cpu_matrix *w, const ofr_cpu_activations *a, size_t row, uint32_t begin,
                 uint32_t end, float *y)
{
    const int8_t *values = a->values + row * a->value_stride;
    const float *scales = a->scales + row * a->group_stride;
    for (uint32_t n = begin; n < end; n++) {
        float total = 0;
        for (uint32_t g = 0; g < a->n_groups; g++) {
            int32_t sum = 0;
            for (size_t k = (size_t)g * OFR_CPU_ACTIVATION_GROUP;
                 k < (size_t)(g + 1) * OFR_CPU_ACTIVATION_GROUP; k++) {
                sum += weight_at(w, n, k) * values[value_index(a, k)];
            }
            total += weight_scale(w, n, g) * scales[g] * (float)sum;
            if (w->minima != NULL) { /* w (q + 8) s + m, of which q s is there */
                float minimum = ofr_half_to_float(w->minima[(size_t)n * a->n_groups + g]);
                total += (8 * weight_scale(w, n, g) + minimum) * a->sums[row * a->group_stride + g];
            }
        }
        y[n - begin] = total;
    }
}

/* values [K][GEMM_ROWS] */
typedef struct int8_tile {
    uint8_t *values;
    float *scales; /* [K/32][GEMM_ROWS] */
    float *minima; /* likewise; NULL: none */
    int32_t zero;  /* the zero point: 8, 128, or 0 with minima */
} int8_tile;

static void gemm_pack(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n, const int8_tile *tile)
{
    memset(tile->values, 0, (size_t)w->columns * OFR_CPU_GEMM_ROWS);
    for (uint32_t r = 0; r < n; r++) {
        for (size_t k = 0; k < w->columns; k++) {
            tile->values[k * OFR_CPU_GEMM_ROWS + r] =
                (uint8_t)(weight_at(w, begin + r, k) + (w->dtype == OFR_DTYPE_I4 ? 8 : 128));
        }
    }
    for (uint32_t g = 0; g < w->columns / OFR_CPU_ACTIVATION_GROUP; g++) {
        for (uint32_t r = 0; r < OFR_CPU_GEMM_ROWS; r++) {
            tile->scales[g * OFR_CPU_GEMM_ROWS + r] = r < n ? weight_scale(w, begin + r, g) : 0;
            if (tile->minima != NULL) {
                size_t at = (size_t)(begin + r) * (w->columns / w->group) + g;
                tile->minima[g * OFR_CPU_GEMM_ROWS + r] =
                    r < n ? ofr_half_to_float(w->minima[at]) : 0;
            }
        }
    }
}

static void gemm_tile(const int8_tile *tile, const ofr_cpu_activations *a, uint32_t n_tokens,
                      float *y, size_t y_stride)
{
    for (size_t t = 0; t < n_tokens; t++) {
        const int8_t *values = a->values + t * a->value_stride;
        const float *scales = a->scales + t * a->group_stride;
        const float *sums = a->sums + t * a->group_stride;
        float *out = y + t * y_stride;
        memset(out, 0, OFR_CPU_GEMM_ROWS * sizeof *out);
        for (uint32_t g = 0; g < a->n_groups; g++) {
            int32_t sum[OFR_CPU_GEMM_ROWS] = {0};
            for (size_t k = (size_t)g * OFR_CPU_ACTIVATION_GROUP;
                 k < (size_t)(g + 1) * OFR_CPU_ACTIVATION_GROUP; k++) {
                const uint8_t *column = tile->values + k * OFR_CPU_GEMM_ROWS;
                int32_t value = values[value_index(a, k)];
                for (uint32_t r = 0; r < OFR_CPU_GEMM_ROWS; r++) {
                    sum[r] += column[r] * value;
                }
            }
            for (uint32_t r = 0; r < OFR_CPU_GEMM_ROWS; r++) {
                out[r] += tile->scales[g * OFR_CPU_GEMM_ROWS + r] *
                          (scales[g] * (float)sum[r] - (float)tile->zero * sums[g]);
                if (tile->minima != NULL) {
                    out[r] += tile->minima[g * OFR_CPU_GEMM_ROWS + r] * sums[g];
                }
            }
        }
    }
}

static float dot_f32(const float *x, const float *y, size_t n)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i] * y[i];
    }
    return sum;
}

static float dot_f16(const float *x, const uint16_t *y, size_t n)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i] * ofr_half_to_float(y[i]);
    }
    return sum;
}

static void rms_norm(const float *x, const float *weight, size_t n, float epsilon, float *y)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i] * x[i];
    }
    float factor = 1 / sqrtf(sum / (float)n + epsilon);
    for (size_t i = 0; i < n; i++) {
        y[i] = x[i] * factor * weight[i];
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
    }
}

static void float_to_half(const float *x, size_t n, uint16_t *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = ofr_float_to_half(x[i]);
    }
}

static void half_to_float(const uint16_t *x, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] = ofr_half_to_float(x[i]);
    }
}

static void attention_scores(const float *q, size_t q_stride, uint32_t n_heads, const uint16_t *k,
                             size_t k_stride, uint32_t n_keys, uint32_t head_dim,
                             const uint16_t *ahead, size_t ahead_stride, float *scores)
{
    (void)ahead;
    (void)ahead_stride;
    for (uint32_t h = 0; h < n_heads; h++) {
        for (uint32_t j = 0; j < n_keys; j++) {
            scores[h * OFR_CPU_KEY_BLOCK + j] =
                dot_f16(q + h * q_stride, k + j * k_stride, head_dim);
        }
    }
}

static void attention_values(const float *weights, uint32_t n_heads, const uint16_t *v,
                             size_t v_stride, uint32_t n_keys, uint32_t head_dim,
                             const uint16_t *ahead, size_t ahead_stride, float *out)
{
    (void)ahead;
    (void)ahead_stride;
    for (uint32_t h = 0; h < n_heads; h++) {
        for (uint32_t j = 0; j < n_keys; j++) {
            for (uint32_t i = 0; i < head_dim; i++) {
                out[h * head_dim + i] +=
                    weights[h * OFR_CPU_KEY_BLOCK + j] * ofr_half_to_float(v[j * v_stride + i]);
            }
        }
    }
}

static float exp_sum(float *x, size_t n, float maximum)
{
    float sum = 0;
    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - maximum);
        sum += x[i];
    }
    return sum;
}

static float maximum_of(const float *x, size_t n)
{
    float largest = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        largest = x[i] > largest ? x[i] : largest;
    }
    return largest;
}

static void scale(float *x, size_t n, float factor)
{
    for (size_t i = 0; i < n; i++) {
        x[i] *= factor;
    }
}

static void rotate(const float *x, const float *cosine, const float *sine, uint32_t half,
                   uint32_t head_dim, float factor, float *y)
{
    for (uint32_t i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        y[i] = (first * cosine[i] - second * sine[i]) * factor;
        y[i + half] = (second * cosine[i] + first * sine[i]) * factor;
    }
    for (uint32_t i = 2 * half; i < head_dim; i++) {
        y[i] = x[i] * factor;
    }
}

static int16_t to_word(float x, float factor)
{
    float scaled = x * factor;
    return isfinite(scaled) ? (int16_t)lrintf(scaled) : 0; /* its scale is not finite either */
}

/* The largest magnitude, NaN where there is one. */
static float top_of(const float *x, uint32_t n)
{
    float top = 0;
    for (uint32_t i = 0; i < n; i++) {
        float magnitude = fabsf(x[i]);
        top = magnitude <= top ? top : magnitude;
        if (isnan(top)) {
            break;
        }
    }
    return top;
}

/* y [n] in the order of x; returns their scale. */
static float quantize_words(const float *x, uint32_t n, int32_t limit, int16_t *y)
{
    float scale = top_of(x, n) / (float)limit, factor = ofr_cpu_word_factor(scale);
    for (uint32_t i = 0; i < n; i++) {
        y[i] = to_word(x[i], factor);
    }
    return scale;
}

static float quantize_query(const float *x, uint32_t head_dim, int16_t *y)
{
    memset(y, 0, ofr_cpu_query_stride(head_dim) * sizeof *y);
    return quantize_words(x, head_dim, ofr_cpu_word_limit(head_dim), y);
}

static void quantize_keys(const uint16_t *k, size_t k_stride, uint32_t n_keys, uint32_t head_dim,
                          int16_t *y, float *scales)
{
    memset(y, 0, ofr_cpu_query_stride(head_dim) * OFR_CPU_KEY_BLOCK * sizeof *y);
    memset(scales, 0, OFR_CPU_KEY_BLOCK * sizeof *scales);
    for (uint32_t j = 0; j < n_keys; j++) {
        float row[OFR_CPU_MAX_HEAD_DIM];
        int16_t words[OFR_CPU_MAX_HEAD_DIM];
        half_to_float(k + j * k_stride, head_dim, row);
        scales[j] = quantize_words(row, head_dim, ofr_cpu_word_limit(head_dim), words);
        for (uint32_t e = 0; e < head_dim; e++) {
            y[((size_t)(e / 2) * OFR_CPU_KEY_BLOCK + j) * 2 + e % 2] = words[e];
        }
    }
}

static void quantize_values(const uint16_t *v, size_t v_stride, uint32_t n_keys, uint32_t head_dim,
                            int16_t *y, float *scales)
{
    size_t stride = ofr_cpu_value_stride(head_dim);
    memset(y, 0, stride * OFR_CPU_KEY_BLOCK * sizeof *y);
    memset(scales, 0, OFR_CPU_KEY_BLOCK * sizeof *scales);
    for (uint32_t j = 0; j < n_keys; j++) {
        float row[OFR_CPU_MAX_HEAD_DIM];
        int16_t words[OFR_CPU_MAX_HEAD_DIM];
        half_to_float(v + j * v_stride, head_dim, row);
        scales[j] = quantize_words(row, head_dim, ofr_cpu_word_limit(OFR_CPU_KEY_BLOCK), words);
        for (uint32_t e = 0; e < head_dim; e++) {
            y[(j / 2 * stride + e) * 2 + j % 2] = words[e];
        }
    }
}

static void block_scores(const int16_t *q, const float *q_scales, uint32_t rows,
                         const int16_t *keys, const float *key_scales, uint32_t n_keys,
                         uint32_t head_dim, float *scores)
{
    size_t stride = ofr_cpu_query_stride(head_dim);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t j = 0; j < n_keys; j++) {
            int32_t sum = 0;
            for (uint32_t e = 0; e < head_dim; e++) {
                sum +=
                    q[r * stride + e] * keys[((size_t)(e / 2) * OFR_CPU_KEY_BLOCK + j) * 2 + e % 2];
            }
            scores[(size_t)r * OFR_CPU_KEY_BLOCK + j] = (float)sum * (q_scales[r] * key_scales[j]);
        }
    }
}

static float block_weights(const float *scores, const float *value_scales, uint32_t n,
                           float largest, float factor, int16_t *weights)
{
    float sum = 0;
    for (uint32_t j = 0; j < n; j++) {
        float e = expf(scores[j] - largest);
        weights[j] = to_word(e, value_scales[j] * factor);
        sum += e;
    }
    return sum;
}

static void block_values(const int16_t *weights, const float *corrections, const float *factors,
                         uint32_t rows, const int16_t *values, uint32_t n_keys, uint32_t head_dim,
                         float *out)
{
    size_t stride = ofr_cpu_value_stride(head_dim);
    for (uint32_t r = 0; r < rows; r++) {
        for (size_t e = 0; e < stride; e++) {
            int32_t sum = 0;
            for (uint32_t j = 0; j < n_keys; j++) {
                sum += weights[(size_t)r * OFR_CPU_KEY_BLOCK + j] *
                       values[(j / 2 * stride + e) * 2 + j % 2];
            }
            float *to = &out[r * stride + e];
            *to = *to * corrections[r] + factors[r] * (float)sum;
        }
    }
}

static size_t gemm_scratch(uint32_t columns, uint32_t n_tokens)
{
    (void)n_tokens;
    return (size_t)columns * OFR_CPU_GEMM_ROWS +
           2 * (size_t)columns / OFR_CPU_ACTIVATION_GROUP * OFR_CPU_GEMM_ROWS * sizeof(float);
}

static void gemm_multiply(const ofr_cpu_matrix *w, uint32_t begin, uint32_t n,
                          const ofr_cpu_activations *a, uint32_t n_tokens, void *scratch, float *y,
                          size_t y_stride)
{
    size_t size = (size_t)w->columns * OFR_CPU_GEMM_ROWS;
    float *scales = (float *)(void *)((char *)scratch + size);
    int8_tile tile = {
        .values = scratch,
        .scales = scales,
        .minima = w->minima != NULL ? scales + size / OFR_CPU_ACTIVATION_GROUP : NULL,
        .zero = w->minima != NULL          ? 0
                : w->dtype == OFR_DTYPE_I4 ? 8
                                           : 128,
    };
    gemm_pack(w, begin, n, &tile);
    gemm_tile(&tile, a, n_tokens, y, y_stride);
}

static const ofr_cpu_gemm gemm_int8 = {
    .name = "int8",
    .min_tokens = 4,
    .max_rows = OFR_CPU_GEMM_ROWS,
    .value_bytes = 1,
    .prepare = quantize,
    .scratch_bytes = gemm_scratch,
    .multiply = gemm_multiply,
};

static const ofr_cpu_kernels table = {
    .name = "generic",
    .supported = supported,
    .quantize = quantize,
    .gemv = gemv,
    .gemms = {&gemm_int8},
    .dot_f32 = dot_f32,
    .dot_f16 = dot_f16,
    .rms_norm = rms_norm,
    .swiglu = swiglu,
    .float_to_half = float_to_half,
    .half_to_float = half_to_float,
    .attention_scores = attention_scores,
    .attention_values = attention_values,
    .exp_sum = exp_sum,
    .maximum = maximum_of,
    .scale = scale,
    .rotate = rotate,
    .quantize_query = quantize_query,
    .quantize_keys = quantize_keys,
    .quantize_values = quantize_values,
    .block_scores = block_scores,
    .block_weights = block_weights,
    .block_values = block_values,
};

const ofr_cpu_kernels *ofr_cpu_kernels_generic(void)
{
    return &table;
}
