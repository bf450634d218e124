/* The order of work: for each layer the source's stream first, then matrix after matrix of the
 * quantized one, each fitted to the inputs that the ones before leave it. */
#include "calibration/calibration.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fp16.h"
#include "calibration/calibration_internal.h"
#include "calibration/layer_math.h"

enum { HEAD_ROWS = 4096, HEAD_TOKENS = 512, MAX_SEQUENCE = 1 << 16 };

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* ---- making and freeing ---- */

static void describe_matrices(ofr_calibration *c)
{
    const ofr_model_params *p = &c->params;
    uint64_t d = p->d_model, q = (uint64_t)p->n_heads * p->head_dim;
    uint64_t kv = (uint64_t)p->n_kv_heads * p->head_dim, ff = p->d_ff;
    const struct {
        const char *name;
        uint64_t rows, columns;
    } table[OFR_CALIBRATION_MATRICES] = {
        [MATRIX_Q] = {"self_attn.q_proj.weight", q, d},
        [MATRIX_K] = {"self_attn.k_proj.weight", kv, d},
        [MATRIX_V] = {"self_attn.v_proj.weight", kv, d},
        [MATRIX_O] = {"self_attn.o_proj.weight", d, q},
        [MATRIX_GATE] = {"mlp.gate_proj.weight", ff, d},
        [MATRIX_UP] = {"mlp.up_proj.weight", ff, d},
        [MATRIX_DOWN] = {"mlp.down_proj.weight", d, ff},
    };
    for (int i = 0; i < OFR_CALIBRATION_MATRICES; i++) {
        ofr_calibration_matrix *m = &c->weights[i].public;
        snprintf(m->name, sizeof m->name, "%s", table[i].name);
        m->rows = table[i].rows;
        m->columns = table[i].columns;
    }
}

static int take_sequences(ofr_calibration *c, const ofr_calibration_sequence *sequences, size_t n,
                          ofr_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (sequences[i].n == 0 || sequences[i].n > MAX_SEQUENCE)
            return ofr_fail(err, OFR_EINVAL, "calibration: a sequence of %u tokens",
                            sequences[i].n);
        c->n_tokens += sequences[i].n;
        c->n_fitted += sequences[i].held_out ? 0 : sequences[i].n;
        c->longest = max_size(c->longest, sequences[i].n);
    }
    if (c->n_fitted == 0)
        return ofr_fail(err, OFR_EINVAL, "calibration: the text has no tokens");
    c->tokens = malloc(c->n_tokens * sizeof *c->tokens);
    c->spans = malloc(n * sizeof *c->spans);
    if (!c->tokens || !c->spans)
        return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    size_t at = 0;
    for (int held_out = 0; held_out <= 1; held_out++)
        for (size_t i = 0; i < n; i++) {
            const ofr_calibration_sequence *s = &sequences[i];
            if (s->held_out != (held_out == 1))
                continue;
            memcpy(c->tokens + at, s->tokens, s->n * sizeof *c->tokens);
            c->spans[c->n_spans++] = (calibration_span){at, s->n, s->held_out};
            at += s->n;
        }
    c->chunk = max_size(CHUNK_TOKENS, c->longest);
    return 0;
}

static int allocate(ofr_calibration *c, ofr_error *err)
{
    const ofr_model_params *p = &c->params;
    size_t d = p->d_model, q = (size_t)p->n_heads * p->head_dim;
    size_t kv = (size_t)p->n_kv_heads * p->head_dim;
    size_t widest = max_size(max_size(d, q), p->d_ff), t = c->n_tokens, n = c->chunk;
    c->attention_floats = ofr_layer_attention_work(c->longest, p->head_dim);
    const struct {
        float **to;
        size_t floats;
    } wanted[] = {
        {&c->exact, t * d},
        {&c->exact_middle, t * d},
        {&c->exact_out, t * d},
        {&c->hidden, t * d},
        {&c->kept, t * max_size(q, p->d_ff)},
        {&c->normed, n * d},
        {&c->other, n * widest},
        {&c->q, n * q},
        {&c->k, n * kv},
        {&c->v, n * kv},
        {&c->up, n * p->d_ff},
        {&c->moments, widest * widest},
        {&c->cross, widest * widest},
        {&c->fitted, widest * widest},
        {&c->cosines, c->longest * c->rope.half},
        {&c->sines, c->longest * c->rope.half},
        {&c->attention_norm, d},
        {&c->mlp_norm, d},
        {&c->attention_work, c->attention_floats * c->options.threads},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        *wanted[i].to = malloc(wanted[i].floats * sizeof(float));
        if (!*wanted[i].to)
            return ofr_fail(err, OFR_ENOMEM,
                            "calibration: no memory for %zu tokens; use a shorter "
                            "text, or bake without calibration",
                            c->n_tokens);
    }
    for (int i = 0; i < OFR_CALIBRATION_MATRICES; i++) {
        calibration_weight *w = &c->weights[i];
        size_t elements = w->public.rows * w->public.columns;
        w->source = malloc(elements * sizeof *w->source);
        w->made = malloc(elements * sizeof *w->made);
        w->q = malloc(elements);
        w->scales = malloc(elements / 32 * sizeof *w->scales);
        if (!w->source || !w->made || !w->q || !w->scales)
            return ofr_fail(err, OFR_ENOMEM, "calibration: no memory for a layer of the model");
        w->public.values = w->q;
        w->public.scales = w->scales;
    }
    return 0;
}

/* The table goes by once, in blocks: single rows would be as many requests of a remote source. */
static int embed(ofr_calibration *c, ofr_error *err)
{
    size_t d = c->params.d_model, vocab = c->params.vocab_size;
    for (size_t t = 0; t < c->n_tokens; t++)
        if (c->tokens[t] < 0 || (size_t)c->tokens[t] >= vocab)
            return ofr_fail(err, OFR_EINVAL, "calibration: token %d is not in the vocabulary",
                            c->tokens[t]);
    float *rows = malloc((vocab < HEAD_ROWS ? vocab : HEAD_ROWS) * d * sizeof *rows);
    if (!rows)
        return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    int r = 1;
    for (size_t first = 0; first < vocab && r > 0; first += HEAD_ROWS) {
        size_t count = vocab - first < HEAD_ROWS ? vocab - first : HEAD_ROWS;
        r = c->read(c->context, "model.embed_tokens.weight", first, count, rows, err);
        for (size_t t = 0; t < c->n_tokens && r > 0; t++) {
            size_t token = (size_t)c->tokens[t];
            if (token >= first && token < first + count)
                memcpy(c->exact + t * d, rows + (token - first) * d, d * sizeof *rows);
        }
    }
    free(rows);
    if (r <= 0)
        return r < 0 ? r : ofr_fail(err, OFR_EFORMAT, "calibration: there is no embedding");
    memcpy(c->hidden, c->exact, c->n_tokens * d * sizeof *c->hidden);
    return 0;
}

static int make_rope(ofr_calibration *c, ofr_error *err)
{
    size_t half = c->params.rope.dims / 2;
    float *factors = malloc((half + 1) * sizeof *factors);
    if (!factors)
        return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    int r = c->read(c->context, "rope_freq_factors", 0, 1, factors, err);
    if (r >= 0)
        r = ofr_rope_init(&c->rope, &c->params.rope, r > 0 ? factors : NULL, err);
    free(factors);
    return r;
}

int ofr_calibration_new(const ofr_model_params *params, ofr_calibration_read read, void *context,
                        const ofr_calibration_sequence *sequences, size_t n_sequences,
                        const ofr_calibration_options *options, ofr_calibration **ret_calibration,
                        ofr_error *err)
{
    ofr_calibration *c = calloc(1, sizeof *c);
    if (!c)
        return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    c->params = *params;
    c->options = *options;
    c->read = read;
    c->context = context;
    describe_matrices(c);
    int r = take_sequences(c, sequences, n_sequences, err);
    if (r == 0)
        r = make_rope(c, err);
    if (r == 0)
        r = allocate(c, err);
    if (r == 0)
        r = ofr_matrix_engine_new(options->threads, &c->engine, err);
    if (r == 0) {
        ofr_rope_fill(&c->rope, 0, (uint32_t)c->longest, c->cosines, c->sines);
        r = embed(c, err);
    }
    if (r < 0) {
        ofr_calibration_free(c);
        return r;
    }
    *ret_calibration = c;
    return 0;
}

ofr_calibration *ofr_calibration_free(ofr_calibration *c)
{
    if (!c)
        return NULL;
    float *all[] = {c->exact,
                    c->exact_middle,
                    c->exact_out,
                    c->hidden,
                    c->kept,
                    c->normed,
                    c->other,
                    c->q,
                    c->k,
                    c->v,
                    c->up,
                    c->moments,
                    c->cross,
                    c->fitted,
                    c->cosines,
                    c->sines,
                    c->attention_norm,
                    c->mlp_norm,
                    c->attention_work};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    for (int i = 0; i < OFR_CALIBRATION_MATRICES; i++) {
        calibration_weight *w = &c->weights[i];
        free(w->source);
        free(w->made);
        free(w->bias);
        free(w->q);
        free(w->scales);
    }
    ofr_matrix_engine_free(c->engine);
    ofr_rope_done(&c->rope);
    free(c->tokens);
    free(c->spans);
    free(c);
    return NULL;
}

void ofr_calibration_set_groups(ofr_calibration *c, const uint32_t groups[OFR_CALIBRATION_MATRICES])
{
    for (int i = 0; i < OFR_CALIBRATION_MATRICES; i++)
        c->weights[i].public.group = groups[i];
}

void ofr_calibration_set_wide(ofr_calibration *c, const bool wide[OFR_CALIBRATION_MATRICES])
{
    for (int i = 0; i < OFR_CALIBRATION_MATRICES; i++)
        c->weights[i].public.wide = wide[i];
}

const ofr_calibration_matrix *ofr_calibration_find(const ofr_calibration *c, const char *name)
{
    for (int i = 0; i < OFR_CALIBRATION_MATRICES; i++)
        if (strcmp(c->weights[i].public.name, name) == 0)
            return &c->weights[i].public;
    return NULL;
}

/* ---- one layer ---- */

static int read_required(ofr_calibration *c, const char *name, uint64_t rows, float *values,
                         ofr_error *err)
{
    int r = c->read(c->context, name, 0, rows, values, err);
    if (r == 0)
        return ofr_fail(err, OFR_EFORMAT, "calibration: there is no tensor '%s'", name);
    return r < 0 ? r : 0;
}

static int read_layer(ofr_calibration *c, uint32_t layer, ofr_error *err)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%u.input_layernorm.weight", layer);
    int r = read_required(c, name, 1, c->attention_norm, err);
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", layer);
    if (r == 0)
        r = read_required(c, name, 1, c->mlp_norm, err);
    for (int i = 0; i < OFR_CALIBRATION_MATRICES && r == 0; i++) {
        calibration_weight *w = &c->weights[i];
        snprintf(name, sizeof name, "model.layers.%u.%s", layer, w->public.name);
        r = read_required(c, name, w->public.rows, w->source, err);
        if (r < 0)
            break;
        char *end = strrchr(name, '.');
        snprintf(end, sizeof name - (size_t)(end - name), ".bias");
        if (!w->bias)
            w->bias = malloc(w->public.rows * sizeof *w->bias);
        if (!w->bias)
            return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
        r = c->read(c->context, name, 0, 1, w->bias, err);
        if (r == 0) {
            free(w->bias);
            w->bias = NULL;
        }
        r = r < 0 ? r : 0;
    }
    return r;
}

/* The source's stream through the whole layer: exact -> exact_middle -> exact_out. */
static void run_source(ofr_calibration *c)
{
    size_t d = c->params.d_model, span = 0, first, n;
    while ((n = calibration_next_chunk(c, &span, &first)) > 0) {
        const float *x = c->exact + first * d;
        float *middle = c->exact_middle + first * d, *out = c->exact_out + first * d;
        calibration_attend(c, STREAM_SOURCE, x, first, n, c->other);
        calibration_linear(c, STREAM_SOURCE, MATRIX_O, c->other, n, middle);
        for (size_t i = 0; i < n * d; i++)
            middle[i] += x[i];
        calibration_norm(c, middle, c->mlp_norm, n, c->normed);
        calibration_gate(c, STREAM_SOURCE, c->normed, n, c->other);
        calibration_linear(c, STREAM_SOURCE, MATRIX_DOWN, c->other, n, out);
        for (size_t i = 0; i < n * d; i++)
            out[i] += middle[i];
    }
}

static void dequantize(calibration_weight *w)
{
    size_t group = w->public.group, groups = w->public.columns / group;
    for (size_t g = 0; g < w->public.rows * groups; g++) {
        float scale = ofr_half_to_float(w->scales[g]);
        for (size_t i = 0; i < group; i++)
            w->made[g * group + i] = (float)w->q[g * group + i] * scale;
    }
}

/* 8 bits: scale max|w| / 127, round to nearest. What that loses is not measured. */
static void round_wide(calibration_weight *w, const float *values)
{
    size_t group = w->public.group, n_groups = w->public.rows * w->public.columns / group;
    for (size_t g = 0; g < n_groups; g++) {
        const float *from = values + g * group;
        float largest = 0;
        for (size_t i = 0; i < group; i++)
            largest = fmaxf(largest, fabsf(from[i]));
        w->scales[g] = ofr_float_to_half(fminf(largest / 127, 65504));
        float scale = ofr_half_to_float(w->scales[g]), inverse = scale > 0 ? 1 / scale : 0;
        inverse = isfinite(inverse) ? inverse : 0;
        for (size_t i = 0; i < group; i++)
            w->q[g * group + i] = (int8_t)nearbyintf(fminf(fmaxf(from[i] * inverse, -127), 127));
    }
    w->public.error = w->public.energy = 0;
}

static int quantize_matrix(ofr_calibration *c, int matrix, const ofr_gptq_input *input,
                           const float *cross_rows, ofr_error *err)
{
    calibration_weight *w = &c->weights[matrix];
    size_t n = w->public.rows, k = w->public.columns;
    if (c->options.cancel && *c->options.cancel)
        return ofr_fail(err, OFR_ECANCELED, "interrupted; run the same command again to continue");
    memcpy(c->fitted, w->source, n * k * sizeof *c->fitted);
    int r = 0;
    if (cross_rows && c->options.correction > 0)
        r = ofr_gptq_solve(c->engine, input, cross_rows, n, c->options.correction, c->fitted, err);
    if (r == 0 && w->public.wide)
        round_wide(w, c->fitted);
    else if (r == 0)
        r = ofr_gptq_quantize(c->engine, input, c->fitted, n, c->options.rounds, w->q, w->scales,
                              &w->public.error, &w->public.energy, err);
    if (r == 0)
        dequantize(w);
    return r;
}

/* Matrices that read a normed stream: q, k, v, or gate, up. */
static int fit_normed(ofr_calibration *c, const float *exact, const float *norm, int first_matrix,
                      int n_matrices, ofr_error *err)
{
    size_t d = c->params.d_model, span = 0, first, n;
    memset(c->moments, 0, d * d * sizeof *c->moments);
    memset(c->cross, 0, d * d * sizeof *c->cross);
    while ((n = calibration_next_chunk(c, &span, &first)) > 0 && first < c->n_fitted) {
        calibration_norm(c, c->hidden + first * d, norm, n, c->normed);
        ofr_matrix_add_gram(c->engine, c->normed, c->normed, c->moments, d, d, n);
        calibration_norm(c, exact + first * d, norm, n, c->other);
        for (size_t i = 0; i < n * d; i++)
            c->other[i] -= c->normed[i];
        ofr_matrix_add_gram(c->engine, c->other, c->normed, c->cross, d, d, n);
    }
    float *rows = NULL;
    int r = 0;
    ofr_gptq_input input = {0};
    for (int i = 0; i < n_matrices && r == 0; i++) {
        const calibration_weight *w = &c->weights[first_matrix + i];
        if (input.group != w->public.group) {
            ofr_gptq_input_done(&input);
            r = ofr_gptq_input_init(&input, c->engine, c->moments, d, w->public.group,
                                    c->options.damping, err);
        }
        if (r == 0 && !rows) {
            rows = malloc(max_size(c->weights[MATRIX_Q].public.rows, c->params.d_ff) * d *
                          sizeof *rows);
            if (!rows)
                r = ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
        }
        if (r < 0)
            break;
        ofr_matrix_product product = {.m = w->public.rows,
                                      .n = d,
                                      .k = d,
                                      .a = w->source,
                                      .a_row = d,
                                      .a_column = 1,
                                      .b = c->cross,
                                      .b_row = d,
                                      .b_column = 1,
                                      .c = rows,
                                      .c_row = d};
        ofr_matrix_multiply(c->engine, &product);
        r = quantize_matrix(c, first_matrix + i, &input, rows, err);
    }
    ofr_gptq_input_done(&input);
    free(rows);
    return r;
}

/* Matrices that write to the stream: o and down. Their inputs are in c->kept; the target is the
 * source's stream behind them. */
static int fit_writer(ofr_calibration *c, int matrix, const float *target, ofr_error *err)
{
    calibration_weight *w = &c->weights[matrix];
    size_t d = c->params.d_model, k = w->public.columns, span = 0, first, n;
    memset(c->moments, 0, k * k * sizeof *c->moments);
    memset(c->cross, 0, d * k * sizeof *c->cross);
    while ((n = calibration_next_chunk(c, &span, &first)) > 0 && first < c->n_fitted) {
        const float *x = c->kept + first * k, *hidden = c->hidden + first * d;
        const float *wanted = target + first * d;
        ofr_matrix_add_gram(c->engine, x, x, c->moments, k, k, n);
        calibration_linear(c, STREAM_SOURCE, matrix, x, n, c->other);
        for (size_t i = 0; i < n * d; i++)
            c->other[i] = wanted[i] - hidden[i] - c->other[i];
        ofr_matrix_add_gram(c->engine, c->other, x, c->cross, d, k, n);
    }
    ofr_gptq_input input;
    int r = ofr_gptq_input_init(&input, c->engine, c->moments, k, w->public.group,
                                c->options.damping, err);
    if (r == 0)
        r = quantize_matrix(c, matrix, &input, c->cross, err);
    ofr_gptq_input_done(&input);
    span = 0;
    while (r == 0 && (n = calibration_next_chunk(c, &span, &first)) > 0) {
        float *hidden = c->hidden + first * d;
        calibration_linear(c, STREAM_MADE, matrix, c->kept + first * k, n, c->other);
        for (size_t i = 0; i < n * d; i++)
            hidden[i] += c->other[i];
    }
    return r;
}

int ofr_calibration_layer(ofr_calibration *c, uint32_t layer, ofr_error *err)
{
    if (layer != c->n_layers_done || layer >= c->params.n_layers)
        return ofr_fail(err, OFR_EINTERNAL, "calibration: layer %u is out of order", layer);
    size_t d = c->params.d_model, q = (size_t)c->params.n_heads * c->params.head_dim;
    int r = read_layer(c, layer, err);
    if (r < 0)
        return r;
    run_source(c);
    r = fit_normed(c, c->exact, c->attention_norm, MATRIX_Q, 3, err);
    size_t span = 0, first, n;
    while (r == 0 && (n = calibration_next_chunk(c, &span, &first)) > 0)
        calibration_attend(c, STREAM_MADE, c->hidden + first * d, first, n, c->kept + first * q);
    if (r == 0)
        r = fit_writer(c, MATRIX_O, c->exact_middle, err);
    if (r == 0)
        r = fit_normed(c, c->exact_middle, c->mlp_norm, MATRIX_GATE, 2, err);
    span = 0;
    while (r == 0 && (n = calibration_next_chunk(c, &span, &first)) > 0) {
        calibration_norm(c, c->hidden + first * d, c->mlp_norm, n, c->normed);
        calibration_gate(c, STREAM_MADE, c->normed, n, c->kept + first * c->params.d_ff);
    }
    if (r == 0)
        r = fit_writer(c, MATRIX_DOWN, c->exact_out, err);
    if (r < 0)
        return r;
    float *swap = c->exact;
    c->exact = c->exact_out;
    c->exact_out = swap;
    c->n_layers_done++;
    return 0;
}

/* ---- loss ---- */

/* One stream's held-out tokens behind the final norm, and what the head says of them so far. */
typedef struct head_run {
    ofr_calibration *c;
    ofr_calibration_read read;
    void *context;
    const char *name;
    const float *bias; /* [vocab] or NULL */
    float *normed;     /* [n][d_model] */
    float *rows;       /* [HEAD_ROWS][d_model] */
    float *logits;     /* [HEAD_TOKENS][HEAD_ROWS] */
    float *maximum, *chosen;
    double *sums;
    size_t first, n; /* tokens */
} head_run;

/* The logits of tokens [at, at + n) for rows [row, row + count) of the head. */
static void take_logits(const head_run *run, size_t at, size_t n, size_t row, size_t count)
{
    size_t d = run->c->params.d_model;
    ofr_matrix_multiply_nt(run->c->engine, run->normed + at * d, run->rows, run->logits, n, count,
                           d, false);
    for (size_t t = 0; t < n; t++) {
        float *logits = run->logits + t * count;
        /* The last token of all has none behind it; its score is not used. */
        size_t behind = run->first + at + t + 1;
        size_t next = behind < run->c->n_tokens ? (size_t)run->c->tokens[behind] : 0;
        for (size_t i = 0; i < count && run->bias; i++)
            logits[i] += run->bias[row + i];
        if (next >= row && next < row + count)
            run->chosen[at + t] = logits[next - row];
        ofr_layer_add_logits(logits, count, &run->maximum[at + t], &run->sums[at + t]);
    }
}

static int score_stream(head_run *run, const float *stream, const float *norm, double *ret_nll,
                        ofr_error *err)
{
    ofr_calibration *c = run->c;
    size_t d = c->params.d_model, vocab = c->params.vocab_size;
    for (size_t t = 0; t < run->n; t++) {
        run->maximum[t] = -INFINITY;
        run->sums[t] = 0;
    }
    calibration_norm(c, stream + run->first * d, norm, run->n, run->normed);
    for (size_t row = 0; row < vocab; row += HEAD_ROWS) {
        size_t count = vocab - row < HEAD_ROWS ? vocab - row : HEAD_ROWS;
        int r = run->read(run->context, run->name, row, count, run->rows, err);
        if (r <= 0)
            return r < 0 ? r : ofr_fail(err, OFR_EFORMAT, "calibration: there is no head");
        for (size_t at = 0; at < run->n; at += HEAD_TOKENS)
            take_logits(run, at, run->n - at < HEAD_TOKENS ? run->n - at : HEAD_TOKENS, row, count);
    }
    size_t index = 0;
    for (size_t s = 0; s < c->n_spans; s++) {
        if (!c->spans[s].held_out)
            continue;
        ret_nll[index] = 0;
        for (size_t t = c->spans[s].first - run->first, i = 0; i + 1 < c->spans[s].n; i++, t++)
            ret_nll[index] += (double)run->maximum[t] + log(run->sums[t]) - (double)run->chosen[t];
        index++;
    }
    return 0;
}

static int prepare_head(head_run *run, ofr_error *err)
{
    size_t d = run->c->params.d_model, n = run->n;
    run->name = run->c->params.tied_embedding ? "model.embed_tokens.weight" : "lm_head.weight";
    run->normed = malloc(n * d * sizeof *run->normed);
    run->rows = malloc((size_t)HEAD_ROWS * d * sizeof *run->rows);
    run->logits = malloc((size_t)HEAD_ROWS * HEAD_TOKENS * sizeof *run->logits);
    run->maximum = calloc(n, sizeof *run->maximum);
    run->chosen = calloc(n, sizeof *run->chosen);
    run->sums = calloc(n, sizeof *run->sums);
    if (!run->normed || !run->rows || !run->logits || !run->maximum || !run->chosen || !run->sums)
        return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    return 0;
}

static void free_head(head_run *run)
{
    free(run->normed);
    free(run->rows);
    free(run->logits);
    free(run->maximum);
    free(run->chosen);
    free(run->sums);
}

int ofr_calibration_loss(ofr_calibration *c, ofr_calibration_read head_read, void *head_context,
                         double *ret_source_nll, double *ret_nll, uint64_t *ret_tokens,
                         ofr_error *err)
{
    head_run run = {.c = c,
                    .read = c->read,
                    .context = c->context,
                    .first = c->n_fitted,
                    .n = c->n_tokens - c->n_fitted};
    if (run.n == 0)
        return 0;
    float *norm = malloc(c->params.d_model * sizeof *norm);
    float *bias = malloc(c->params.vocab_size * sizeof *bias);
    int r = norm && bias ? prepare_head(&run, err)
                         : ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    if (r == 0)
        r = read_required(c, "model.norm.weight", 1, norm, err);
    if (r == 0)
        r = c->read(c->context, "lm_head.bias", 0, 1, bias, err);
    run.bias = r > 0 ? bias : NULL;
    if (r >= 0)
        r = score_stream(&run, c->exact, norm, ret_source_nll, err);
    run.read = head_read;
    run.context = head_context;
    if (r == 0)
        r = score_stream(&run, c->hidden, norm, ret_nll, err);
    size_t index = 0;
    for (size_t s = 0; s < c->n_spans && r == 0; s++)
        if (c->spans[s].held_out)
            ret_tokens[index++] = c->spans[s].n - 1;
    free_head(&run);
    free(norm);
    free(bias);
    return r;
}
