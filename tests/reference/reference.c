/* The fp32 reference: RMSNorm, RoPE (rotate half), GQA with a full softmax, SwiGLU. Every formula
 * is written out here once more, so that an error of the backend cannot hide in shared code. */
#include "reference/reference.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fp16.h"

enum { TOKEN_BLOCK = 16, ROW_BLOCK = 4, ROW_PANEL = 64, MAX_THREADS = 16 };

typedef struct reference_layer {
    float *attention_norm, *mlp_norm;
    float *q, *k, *v, *o, *gate, *up, *down;
    float *attention_output_norm, *mlp_output_norm, *q_norm, *k_norm; /* or NULL */
    unsigned flags;
    float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
    float *keys, *values; /* [context][n_kv_heads * head_dim] */
} reference_layer;

struct ofr_reference {
    ofr_model_params params;
    uint32_t context, position, n_threads;
    float *embedding, *head, *final_norm, *freq_factors, *head_bias;
    reference_layer *layers;
    double *frequencies;       /* [rope.dims / 2] */
    double *local_frequencies; /* of windowed layers: [rope_local.dims / 2], or NULL */
    double magnitude, local_magnitude;
};

static int load(ofr_reference_source source, void *data, const char *name, uint64_t n,
                bool required, float **ret_values, ofr_error *err)
{
    float *values = malloc(n * sizeof *values);
    if (values == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "reference: out of memory for %s", name);
    }
    int result = source(data, name, n, values, err);
    if (result <= 0) {
        free(values);
        if (result == 0 && required) {
            return ofr_fail(err, OFR_ENOENT, "reference: no tensor %s", name);
        }
        return result;
    }
    *ret_values = values;
    return 0;
}

static int load_layer(ofr_reference *r, uint32_t index, ofr_reference_source source, void *data,
                      ofr_error *err)
{
    const ofr_model_params *p = &r->params;
    reference_layer *layer = &r->layers[index];
    layer->flags = p->layer_flags[index];
    uint64_t d = p->d_model, q = (uint64_t)p->n_heads * p->head_dim;
    uint64_t kv = (uint64_t)p->n_kv_heads * p->head_dim, ff = p->d_ff;
    const struct {
        const char *part;
        uint64_t n;
        bool required;
        float **to;
    } parts[] = {
        {"input_layernorm.weight", d, true, &layer->attention_norm},
        {"post_attention_layernorm.weight", d, true, &layer->mlp_norm},
        {"self_attn.q_proj.weight", q * d, true, &layer->q},
        {"self_attn.k_proj.weight", kv * d, true, &layer->k},
        {"self_attn.v_proj.weight", kv * d, true, &layer->v},
        {"self_attn.o_proj.weight", d * q, true, &layer->o},
        {"mlp.gate_proj.weight", ff * d, true, &layer->gate},
        {"mlp.up_proj.weight", ff * d, true, &layer->up},
        {"mlp.down_proj.weight", d * ff, true, &layer->down},
        {"self_attn.q_proj.bias", q, false, &layer->q_bias},
        {"self_attn.k_proj.bias", kv, false, &layer->k_bias},
        {"self_attn.v_proj.bias", kv, false, &layer->v_bias},
        {"self_attn.o_proj.bias", d, false, &layer->o_bias},
        {"mlp.gate_proj.bias", ff, false, &layer->gate_bias},
        {"mlp.up_proj.bias", ff, false, &layer->up_bias},
        {"mlp.down_proj.bias", d, false, &layer->down_bias},
        {"attention_output_norm.weight", d, false, &layer->attention_output_norm},
        {"mlp_output_norm.weight", d, false, &layer->mlp_output_norm},
        {"self_attn.q_norm.weight", p->head_dim, false, &layer->q_norm},
        {"self_attn.k_norm.weight", p->head_dim, false, &layer->k_norm},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.%u.%s", index, parts[i].part);
        int result = load(source, data, name, parts[i].n, parts[i].required, parts[i].to, err);
        if (result < 0) {
            return result;
        }
    }
    layer->keys = calloc((size_t)r->context * kv, sizeof(float));
    layer->values = calloc((size_t)r->context * kv, sizeof(float));
    if (layer->keys == NULL || layer->values == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "reference: out of memory for KV");
    }
    return 0;
}

/* The definitions of the HF transformers library (modeling_rope_utils), in its order. */
static void set_frequencies(const ofr_rope_params *rope, const float *factors,
                            double *ret_frequencies, double *ret_magnitude)
{
    double pi = 3.14159265358979323846, base = (double)rope->base, factor = (double)rope->factor;
    double original = rope->original_context;
    *ret_magnitude = 1;
    for (uint32_t i = 0; i < rope->dims / 2; i++) {
        double f = 1 / pow(base, 2.0 * i / rope->dims);
        f /= factors != NULL ? (double)factors[i] : 1;
        if (rope->scaling == OFR_ROPE_SCALING_LINEAR) {
            f /= factor;
        } else if (rope->scaling == OFR_ROPE_SCALING_LLAMA3) {
            double low = (double)rope->low_freq_factor, high = (double)rope->high_freq_factor;
            double wave = 2 * pi / f, s = (original / wave - low) / (high - low);
            if (wave > original / low) {
                f /= factor;
            } else if (wave >= original / high) {
                f = (1 - s) * f / factor + s * f;
            }
        } else if (rope->scaling == OFR_ROPE_SCALING_YARN) {
            double first =
                rope->dims * log(original / ((double)rope->beta_fast * 2 * pi)) / (2 * log(base));
            double last =
                rope->dims * log(original / ((double)rope->beta_slow * 2 * pi)) / (2 * log(base));
            first = fmax(floor(first), 0);
            last = fmin(ceil(last), rope->dims - 1);
            double ramp = (i - first) / (last - first == 0 ? 0.001 : last - first);
            ramp = fmin(fmax(ramp, 0), 1);
            f = f / factor * ramp + f * (1 - ramp);
            *ret_magnitude = rope->attention_factor != 0 ? (double)rope->attention_factor
                                                         : 0.1 * log(factor) + 1;
        } else if (rope->scaling == OFR_ROPE_SCALING_LONGROPE) {
            *ret_magnitude = rope->attention_factor != 0 ? (double)rope->attention_factor : 1;
        }
        ret_frequencies[i] = f;
    }
}

int ofr_reference_new(const ofr_model_params *params, ofr_reference_source source, void *data,
                      uint32_t context, uint32_t n_threads, ofr_reference **ret_reference,
                      ofr_error *err)
{
    ofr_reference *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "reference: out of memory");
    }
    r->params = *params;
    r->context = context;
    r->n_threads = n_threads < 1 ? 1 : n_threads > MAX_THREADS ? MAX_THREADS : n_threads;
    r->layers = calloc(params->n_layers, sizeof *r->layers);
    r->frequencies = calloc(params->rope.dims / 2, sizeof *r->frequencies);
    r->local_frequencies = calloc(params->rope_local.dims / 2 + 1, sizeof *r->frequencies);
    bool is_long = params->rope.scaling == OFR_ROPE_SCALING_LONGROPE &&
                   context > params->rope.original_context;
    const char *name = is_long ? "rope_freq_factors_long" : "rope_freq_factors";
    uint64_t table = (uint64_t)params->vocab_size * params->d_model;
    int result =
        r->layers == NULL || r->frequencies == NULL || r->local_frequencies == NULL
            ? ofr_fail(err, OFR_ENOMEM, "reference: out of memory")
            : load(source, data, "model.embed_tokens.weight", table, true, &r->embedding, err);
    if (result == 0) {
        result =
            load(source, data, "model.norm.weight", params->d_model, true, &r->final_norm, err);
    }
    if (result == 0) {
        result = load(source, data, name, params->rope.dims / 2, false, &r->freq_factors, err);
    }
    if (result == 0 && !params->tied_embedding) {
        result = load(source, data, "lm_head.weight", table, true, &r->head, err);
    }
    if (result == 0) {
        result = load(source, data, "lm_head.bias", params->vocab_size, false, &r->head_bias, err);
    }
    for (uint32_t i = 0; i < params->n_layers && result == 0; i++) {
        result = load_layer(r, i, source, data, err);
    }
    if (result < 0) {
        ofr_reference_free(r);
        return result;
    }
    set_frequencies(&params->rope, r->freq_factors, r->frequencies, &r->magnitude);
    if (params->rope_local.dims > 0) {
        set_frequencies(&params->rope_local, NULL, r->local_frequencies, &r->local_magnitude);
    }
    *ret_reference = r;
    return 0;
}

ofr_reference *ofr_reference_free(ofr_reference *r)
{
    if (r == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; r->layers != NULL && i < r->params.n_layers; i++) {
        reference_layer *l = &r->layers[i];
        float *all[] = {l->attention_norm,
                        l->mlp_norm,
                        l->q,
                        l->k,
                        l->v,
                        l->o,
                        l->gate,
                        l->up,
                        l->down,
                        l->q_bias,
                        l->k_bias,
                        l->v_bias,
                        l->o_bias,
                        l->gate_bias,
                        l->up_bias,
                        l->down_bias,
                        l->keys,
                        l->values,
                        l->attention_output_norm,
                        l->mlp_output_norm,
                        l->q_norm,
                        l->k_norm};
        for (size_t j = 0; j < sizeof all / sizeof all[0]; j++) {
            free(all[j]);
        }
    }
    free(r->layers);
    free(r->embedding);
    free(r->head);
    free(r->head_bias);
    free(r->final_norm);
    free(r->freq_factors);
    free(r->frequencies);
    free(r->local_frequencies);
    free(r);
    return NULL;
}

void ofr_reference_rewind(ofr_reference *r, uint32_t position)
{
    r->position = position < r->position ? position : r->position;
}

/* Compiled twice, for AVX2 with FMA and for any x86-64. ("arch=haswell" would be taken on that one
 * generation only.) */
#if defined(__GNUC__) && !defined(__clang__)
#define CLONED __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define CLONED
#endif

/* y[t][n] = sum_k w[n][k] x[t][k] + bias[n], rows split over threads. */
typedef struct product {
    const float *w, *bias, *x; /* x transposed in blocks: [blocks][K][TOKEN_BLOCK] */
    float *y;
    uint32_t n_tokens, rows, columns, begin, end;
} product;

typedef float eight __attribute__((vector_size(32)));

CLONED static void product_block(const product *p, uint32_t first, uint32_t begin, uint32_t end)
{
    const float *x = p->x + (size_t)first * p->columns;
    uint32_t count = p->n_tokens - first < TOKEN_BLOCK ? p->n_tokens - first : TOKEN_BLOCK;
    for (uint32_t n = begin; n < end; n += ROW_BLOCK) {
        const float *w[ROW_BLOCK];
        uint32_t rows = end - n < ROW_BLOCK ? end - n : ROW_BLOCK;
        for (uint32_t r = 0; r < ROW_BLOCK; r++) {
            w[r] = p->w + (size_t)(n + (r < rows ? r : 0)) * p->columns;
        }
        /* Variables of their own: the compiler would keep an array of sums in memory. */
        eight a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, b0 = {0}, b1 = {0}, b2 = {0}, b3 = {0};
        for (uint32_t k = 0; k < p->columns; k++) {
            eight a, b;
            memcpy(&a, x + (size_t)k * TOKEN_BLOCK, sizeof a);
            memcpy(&b, x + (size_t)k * TOKEN_BLOCK + 8, sizeof b);
            a0 += a * w[0][k], b0 += b * w[0][k];
            a1 += a * w[1][k], b1 += b * w[1][k];
            a2 += a * w[2][k], b2 += b * w[2][k];
            a3 += a * w[3][k], b3 += b * w[3][k];
        }
        eight sums[ROW_BLOCK][2] = {{a0, b0}, {a1, b1}, {a2, b2}, {a3, b3}};
        float sum[ROW_BLOCK][TOKEN_BLOCK];
        memcpy(sum, sums, sizeof sum);
        for (uint32_t r = 0; r < rows; r++) {
            for (uint32_t t = 0; t < count; t++) {
                p->y[(size_t)(first + t) * p->rows + n + r] =
                    sum[r][t] + (p->bias != NULL ? p->bias[n + r] : 0);
            }
        }
    }
}

/* Weights are read from memory once: a panel of rows stays in the cache for all tokens. */
static void *product_main(void *argument)
{
    const product *p = argument;
    for (uint32_t n = p->begin; n < p->end; n += ROW_PANEL) {
        uint32_t end = p->end - n < ROW_PANEL ? p->end : n + ROW_PANEL;
        for (uint32_t first = 0; first < p->n_tokens; first += TOKEN_BLOCK) {
            product_block(p, first, n, end);
        }
    }
    return NULL;
}

static void multiply(const ofr_reference *r, const float *w, const float *bias, const float *x,
                     uint32_t n_tokens, uint32_t rows, uint32_t columns, float *y)
{
    uint32_t padded = (n_tokens + TOKEN_BLOCK - 1) / TOKEN_BLOCK * TOKEN_BLOCK;
    float *turned = calloc((size_t)padded * columns, sizeof *turned);
    if (turned == NULL) {
        abort(); /* a test program out of memory has nothing to report to */
    }
    for (uint32_t t = 0; t < n_tokens; t++) {
        float *block = turned + (size_t)(t / TOKEN_BLOCK * TOKEN_BLOCK) * columns;
        for (uint32_t k = 0; k < columns; k++) {
            block[(size_t)k * TOKEN_BLOCK + t % TOKEN_BLOCK] = x[(size_t)t * columns + k];
        }
    }
    product parts[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    bool started[MAX_THREADS] = {false};
    uint32_t n_parts = rows < 64 ? 1 : r->n_threads;
    for (uint32_t i = 0; i < n_parts; i++) {
        parts[i] = (product){w,
                             bias,
                             turned,
                             y,
                             n_tokens,
                             rows,
                             columns,
                             (uint32_t)((uint64_t)rows * i / n_parts),
                             (uint32_t)((uint64_t)rows * (i + 1) / n_parts)};
        started[i] = i > 0 && pthread_create(&threads[i], NULL, product_main, &parts[i]) == 0;
    }
    for (uint32_t i = 0; i < n_parts; i++) {
        if (started[i]) {
            pthread_join(threads[i], NULL);
        } else {
            product_main(&parts[i]);
        }
    }
    free(turned);
}

static void normalize(const ofr_reference *r, const float *x, const float *weight, uint32_t n,
                      float *y)
{
    uint32_t d = r->params.d_model;
    for (uint32_t t = 0; t < n; t++) {
        double squares = 0;
        for (uint32_t i = 0; i < d; i++) {
            squares += (double)x[t * d + i] * (double)x[t * d + i];
        }
        double factor = 1 / sqrt(squares / d + (double)r->params.rms_epsilon);
        for (uint32_t i = 0; i < d; i++) {
            y[t * d + i] = (float)((double)x[t * d + i] * factor * (double)weight[i]);
        }
    }
}

/* Norm of one head, where the layer has it, and rotation, where it has that. */
static void turn(const ofr_reference *r, const reference_layer *layer, const float *norm,
                 float *head, uint32_t position)
{
    const ofr_model_params *p = &r->params;
    double squares = 0;
    for (uint32_t i = 0; i < p->head_dim; i++) {
        squares += (double)head[i] * (double)head[i];
    }
    double factor = 1 / sqrt(squares / p->head_dim + (double)p->rms_epsilon);
    for (uint32_t i = 0; norm != NULL && i < p->head_dim; i++) {
        head[i] = (float)((double)head[i] * factor * (double)norm[i]);
    }
    bool local = p->rope_local.dims > 0 && (layer->flags & OFR_LAYER_WINDOWED);
    const double *frequencies = local ? r->local_frequencies : r->frequencies;
    double magnitude = local ? r->local_magnitude : r->magnitude;
    uint32_t half = (local ? p->rope_local.dims : p->rope.dims) / 2;
    if (layer->flags & OFR_LAYER_UNROTATED) {
        return;
    }
    for (uint32_t i = 0; i < half; i++) {
        double angle = position * frequencies[i];
        double c = cos(angle) * magnitude, s = sin(angle) * magnitude;
        double a = (double)head[i], b = (double)head[i + half];
        head[i] = (float)(a * c - b * s);
        head[i + half] = (float)(b * c + a * s);
    }
}

/* Attention of every n_parts-th token, from `part` on. */
typedef struct attention {
    const ofr_reference *r;
    const reference_layer *layer;
    float *q, *out;
    uint32_t n, part, n_parts;
} attention;

static inline double dot(const float *x, const float *y, uint32_t n)
{
    double sum[8] = {0};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (uint32_t k = 0; k < 8; k++) {
            sum[k] += (double)x[i + k] * (double)y[i + k];
        }
    }
    for (; i < n; i++) {
        sum[i % 8] += (double)x[i] * (double)y[i];
    }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

CLONED static void attend_head(const attention *a, uint32_t t, uint32_t h, double *weights,
                               double *sum)
{
    const ofr_model_params *p = &a->r->params;
    uint32_t d = p->head_dim, kv = p->n_kv_heads * d, shared = p->n_heads / p->n_kv_heads;
    float *query = a->q + ((size_t)t * p->n_heads + h) * d;
    const float *keys = a->layer->keys + (size_t)(h / shared) * d;
    const float *values = a->layer->values + (size_t)(h / shared) * d;
    uint32_t n_keys = a->r->position + t + 1;
    double top = -INFINITY, total = 0;
    turn(a->r, a->layer, a->layer->q_norm, query, a->r->position + t);
    bool windowed = a->layer->flags & OFR_LAYER_WINDOWED;
    uint32_t first = windowed && n_keys > p->sliding_window ? n_keys - p->sliding_window : 0;
    double scale = p->attention_scale != 0 ? (double)p->attention_scale : 1 / sqrt(d);
    double cap = (double)p->attention_softcap;
    for (uint32_t j = first; j < n_keys; j++) {
        weights[j] = dot(query, keys + (size_t)j * kv, d) * scale;
        weights[j] = cap != 0 ? cap * tanh(weights[j] / cap) : weights[j];
        top = fmax(top, weights[j]);
    }
    memset(sum, 0, d * sizeof *sum);
    for (uint32_t j = first; j < n_keys; j++) {
        double weight = exp(weights[j] - top);
        total += weight;
        for (uint32_t i = 0; i < d; i++) {
            sum[i] += weight * (double)values[(size_t)j * kv + i];
        }
    }
    for (uint32_t i = 0; i < d; i++) {
        a->out[((size_t)t * p->n_heads + h) * d + i] = (float)(sum[i] / total);
    }
}

static void *attention_main(void *argument)
{
    const attention *a = argument;
    double *weights = malloc((a->r->position + (size_t)a->n) * sizeof *weights);
    double *sum = malloc(a->r->params.head_dim * sizeof *sum);
    if (weights == NULL || sum == NULL) {
        abort();
    }
    for (uint32_t t = a->part; t < a->n; t += a->n_parts) {
        for (uint32_t h = 0; h < a->r->params.n_heads; h++) {
            attend_head(a, t, h, weights, sum);
        }
    }
    free(weights);
    free(sum);
    return NULL;
}

static void attend(const ofr_reference *r, const reference_layer *layer, float *q, uint32_t n,
                   float *out)
{
    attention parts[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    bool started[MAX_THREADS] = {false};
    uint32_t n_parts = n < r->n_threads ? 1 : r->n_threads;
    for (uint32_t i = 0; i < n_parts; i++) {
        parts[i] = (attention){r, layer, q, out, n, i, n_parts};
        started[i] = i > 0 && pthread_create(&threads[i], NULL, attention_main, &parts[i]) == 0;
    }
    for (uint32_t i = 0; i < n_parts; i++) {
        if (started[i]) {
            pthread_join(threads[i], NULL);
        } else {
            attention_main(&parts[i]);
        }
    }
}

/* x += y, normed first where `norm` is not NULL. y is overwritten. */
static void add(const ofr_reference *r, float *x, float *y, const float *norm, uint32_t n)
{
    float scale = r->params.residual_scale != 0 ? r->params.residual_scale : 1;
    if (norm != NULL) {
        normalize(r, y, norm, n, y);
    }
    for (size_t i = 0; i < (size_t)n * r->params.d_model; i++) {
        x[i] += y[i] * scale;
    }
}

typedef struct workspace {
    float *normed, *q, *attention, *gate, *up, *out; /* normed and out: [n, d_model] */
} workspace;

static void run_layer(ofr_reference *r, const reference_layer *layer, uint32_t n, float *x,
                      const workspace *w)
{
    const ofr_model_params *p = &r->params;
    uint32_t d = p->d_model, q = p->n_heads * p->head_dim, kv = p->n_kv_heads * p->head_dim;
    float *keys = layer->keys + (size_t)r->position * kv;
    normalize(r, x, layer->attention_norm, n, w->normed);
    multiply(r, layer->q, layer->q_bias, w->normed, n, q, d, w->q);
    multiply(r, layer->k, layer->k_bias, w->normed, n, kv, d, keys);
    multiply(r, layer->v, layer->v_bias, w->normed, n, kv, d,
             layer->values + (size_t)r->position * kv);
    for (uint32_t t = 0; t < n; t++) {
        for (uint32_t h = 0; h < p->n_kv_heads; h++) {
            turn(r, layer, layer->k_norm, keys + (size_t)t * kv + (size_t)h * p->head_dim,
                 r->position + t);
        }
    }
    attend(r, layer, w->q, n, w->attention);
    multiply(r, layer->o, layer->o_bias, w->attention, n, d, q, w->out);
    add(r, x, w->out, layer->attention_output_norm, n);
    normalize(r, x, layer->mlp_norm, n, w->normed);
    multiply(r, layer->gate, layer->gate_bias, w->normed, n, p->d_ff, d, w->gate);
    multiply(r, layer->up, layer->up_bias, w->normed, n, p->d_ff, d, w->up);
    for (size_t i = 0; i < (size_t)n * p->d_ff; i++) {
        double g = (double)w->gate[i];
        double active = g / (1 + exp(-g));
        if (p->activation == OFR_ACTIVATION_GELU_TANH) {
            active =
                0.5 * g * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g)));
        }
        w->gate[i] = (float)(active * (double)w->up[i]);
    }
    multiply(r, layer->down, layer->down_bias, w->gate, n, d, p->d_ff, w->out);
    add(r, x, w->out, layer->mlp_output_norm, n);
}

int ofr_reference_forward(ofr_reference *r, const int32_t *tokens, uint32_t n, float *hidden,
                          float *logits)
{
    const ofr_model_params *p = &r->params;
    uint32_t d = p->d_model;
    if (n == 0 || n > r->context - r->position) {
        return OFR_ELIMIT;
    }
    size_t q = (size_t)p->n_heads * p->head_dim;
    size_t floats = (size_t)n * (3 * (size_t)d + 2 * q + 2 * (size_t)p->d_ff);
    float *memory = malloc(floats * sizeof *memory), *x = memory;
    if (memory == NULL) {
        return OFR_ENOMEM;
    }
    workspace w = {.normed = x + (size_t)n * d, .out = x + 2 * (size_t)n * d};
    w.q = x + 3 * (size_t)n * d;
    w.attention = w.q + n * q;
    w.gate = w.attention + n * q;
    w.up = w.gate + (size_t)n * p->d_ff;
    for (uint32_t t = 0; t < n; t++) {
        memcpy(x + (size_t)t * d, r->embedding + (size_t)tokens[t] * d, d * sizeof *x);
    }
    for (size_t i = 0; p->embedding_scale != 0 && i < (size_t)n * d; i++) {
        x[i] *= p->embedding_scale;
    }
    for (uint32_t i = 0; i < p->n_layers; i++) {
        if (hidden != NULL) {
            memcpy(hidden + (size_t)i * n * d, x, (size_t)n * d * sizeof *x);
        }
        run_layer(r, &r->layers[i], n, x, &w);
    }
    if (hidden != NULL) {
        memcpy(hidden + (size_t)p->n_layers * n * d, x, (size_t)n * d * sizeof *x);
    }
    if (logits != NULL) {
        normalize(r, x, r->final_norm, n, w.normed);
        multiply(r, p->tied_embedding ? r->embedding : r->head, r->head_bias, w.normed, n,
                 p->vocab_size, d, logits);
        double scale = p->logit_scale != 0 ? (double)p->logit_scale : 1;
        double cap = (double)p->logit_softcap;
        for (size_t i = 0; i < (size_t)n * p->vocab_size; i++) {
            double value = (double)logits[i] * scale;
            logits[i] = (float)(cap != 0 ? cap * tanh(value / cap) : value);
        }
    }
    r->position += n;
    free(memory);
    return 0;
}

int ofr_reference_from_tensor(const ofr_tensor *tensor, uint64_t n, float *ret_values,
                              ofr_error *err)
{
    uint64_t elements = tensor->shape[0] * (tensor->n_dims > 1 ? tensor->shape[1] : 1);
    if (elements != n) {
        return ofr_fail(err, OFR_EFORMAT, "reference: %s has %llu elements, not %llu", tensor->name,
                        (unsigned long long)elements, (unsigned long long)n);
    }
    const uint8_t *bytes = tensor->data;
    const uint16_t *scales = tensor->scales;
    for (uint64_t i = 0; i < n; i++) {
        switch (tensor->dtype) {
        case OFR_DTYPE_F32:
            ret_values[i] = ((const float *)tensor->data)[i];
            break;
        case OFR_DTYPE_F16:
            ret_values[i] = ofr_half_to_float(((const uint16_t *)tensor->data)[i]);
            break;
        case OFR_DTYPE_I8:
            ret_values[i] =
                (float)(int8_t)bytes[i] * ofr_half_to_float(scales[i / tensor->group_size]);
            break;
        case OFR_DTYPE_I4M: {
            uint64_t group = i / tensor->group_size, groups = n / tensor->group_size;
            int unsigned_nibble = ((i % 2 == 0 ? bytes[i / 2] : bytes[i / 2] >> 4) & 15) ^ 8;
            ret_values[i] = (float)unsigned_nibble * ofr_half_to_float(scales[group]) +
                            ofr_half_to_float(scales[groups + group]);
            break;
        }
        case OFR_DTYPE_I4: {
            int nibble = i % 2 == 0 ? bytes[i / 2] % 16 : bytes[i / 2] / 16;
            ret_values[i] = (float)(nibble < 8 ? nibble : nibble - 16) *
                            ofr_half_to_float(scales[i / tensor->group_size]);
            break;
        }
        }
    }
    return 1;
}

int ofr_reference_from_package(void *data, const char *name, uint64_t n, float *ret_values,
                               ofr_error *err)
{
    const ofr_tensor *tensor = ofr_package_find(data, name);
    return tensor == NULL ? 0 : ofr_reference_from_tensor(tensor, n, ret_values, err);
}
