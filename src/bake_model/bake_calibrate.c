/* Tokens for calibration, the source's weights for it, and what it makes of them. */
#include "bake_model/bake_calibrate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/bake_mixed.h"
#include "bake_model/bake_tensor.h"
#include "base/file.h"
#include "base/fp16.h"
#include "base/progress.h"
#include "calibration/calibration.h"
#include "calibration/default_text.h"
#include "tokenizer/tokenizer.h"

enum {
    SEQUENCE_TOKENS = 512,
    MIN_SEQUENCE = 16,
    MAX_FITTED = 24576, /* tokens; a longer text is sampled evenly */
    MAX_SEQUENCES = 4096,
    TEXT_CAP = 64 << 20,
    ROUNDS = 3,
};
static const uint64_t DEFAULT_MAX_PARAMETERS = 1300000000;
static const float DAMPING = 0.01f, CORRECTION = 1;

typedef struct text_tokens {
    ofr_calibration_sequence sequences[MAX_SEQUENCES];
    int kinds[MAX_SEQUENCES]; /* index of the loss; of held-out ones */
    size_t n;
    int32_t *ids[MAX_SEQUENCES]; /* owned */
} text_tokens;

/* ---- tokens ---- */

/* Cuts ids into sequences, each with BOS before it where the model has one; at most `limit` tokens,
 * evenly spread. */
static int add_sequences(text_tokens *all, const int32_t *ids, size_t n, int32_t bos, size_t limit,
                         int kind, ofr_error *err)
{
    size_t room = SEQUENCE_TOKENS - (bos >= 0), have = (n + room - 1) / room;
    size_t wanted = have * room > limit ? limit / room + (limit < room) : have;
    for (size_t i = 0; i < wanted; i++) {
        size_t at = have * i / wanted * room, count = n - at < room ? n - at : room;
        if (count < MIN_SEQUENCE)
            continue;
        if (all->n == MAX_SEQUENCES)
            return 0;
        int32_t *copy = malloc((count + 1) * sizeof *copy);
        if (!copy)
            return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
        size_t used = 0;
        if (bos >= 0)
            copy[used++] = bos;
        memcpy(copy + used, ids + at, count * sizeof *copy);
        all->ids[all->n] = copy;
        all->kinds[all->n] = kind;
        all->sequences[all->n++] =
            (ofr_calibration_sequence){copy, (uint32_t)(used + count), kind >= 0};
    }
    return 0;
}

static int add_text(text_tokens *all, const ofr_tokenizer *tokenizer, const char *text, size_t size,
                    size_t limit, int kind, ofr_error *err)
{
    int32_t *ids = NULL;
    size_t n = 0;
    ofr_tokenizer_info info;
    ofr_tokenizer_get_info(tokenizer, &info);
    int r = ofr_tokenizer_encode(tokenizer, text, size, OFR_TOKENIZE_PARSE_SPECIAL, &ids, &n, err);
    if (r == 0)
        r = add_sequences(all, ids, n, info.add_bos ? info.bos_id : -1, limit, kind, err);
    free(ids);
    return r;
}

static int find_kind(ofr_bake_loss *loss, const char *kind)
{
    for (int i = 0; i < loss->n_kinds; i++)
        if (strcmp(loss->kinds[i].name, kind) == 0)
            return i;
    loss->kinds[loss->n_kinds].name = kind;
    return loss->n_kinds++;
}

static int add_file(text_tokens *all, const ofr_tokenizer *tokenizer, const char *path,
                    ofr_error *err)
{
    void *text = NULL;
    size_t size = 0;
    int r = ofr_file_read(path, TEXT_CAP, &text, &size, err);
    if (r == 0)
        r = add_text(all, tokenizer, text, size, MAX_FITTED, -1, err);
    free(text);
    if (r == OFR_EUTF8)
        r = ofr_error_prefix(err, r, "%s: the text to calibrate on", path);
    if (r == 0 && all->n == 0)
        r = ofr_fail(err, OFR_EINVAL, "%s: too short to calibrate on; give at least a few pages",
                     path);
    return r;
}

static int collect_tokens(const ofr_bake_calibration *c, text_tokens *all, ofr_bake_loss *loss,
                          ofr_error *err)
{
    ofr_tokenizer *tokenizer = NULL;
    int r = ofr_tokenizer_open(c->source->tokenizer, c->source->tokenizer_size, &tokenizer, err);
    const char *file = c->options->calibration_text;
    if (r == 0 && file)
        r = add_file(all, tokenizer, file, err);
    for (size_t i = 0; i < OFR_DEFAULT_TEXTS && r == 0; i++) {
        ofr_default_text text = ofr_default_text_at(i);
        if (text.held_out)
            r = add_text(all, tokenizer, text.text, text.size, SEQUENCE_TOKENS,
                         find_kind(loss, text.kind), err);
        else if (!file)
            r = add_text(all, tokenizer, text.text, text.size, MAX_FITTED / 4, -1, err);
    }
    ofr_tokenizer_close(tokenizer);
    return r;
}

/* ---- weights ---- */

static ofr_bake_tensor *find_tensor(const ofr_bake_model *model, const char *name)
{
    for (size_t i = 0; i < model->n_tensors; i++)
        if (strcmp(model->tensors[i].name, name) == 0)
            return &model->tensors[i];
    return NULL;
}

static int read_source(void *context, const char *name, uint64_t first, uint64_t n,
                       float *ret_values, ofr_error *err)
{
    const ofr_bake_calibration *c = context;
    const ofr_bake_tensor *tensor = find_tensor(&c->source->model, name);
    if (!tensor)
        return 0;
    int r = ofr_bake_tensor_read(&c->source->files, &c->source->model.params, tensor, first, n,
                                 ret_values, err);
    return r < 0 ? r : 1;
}

/* The embedding and the head as the package will have them. */
static int read_table(void *context, const char *name, uint64_t first, uint64_t n,
                      float *ret_values, ofr_error *err)
{
    const ofr_bake_calibration *c = context;
    const ofr_bake_tensor *tensor = find_tensor(&c->source->model, name);
    int r = read_source(context, name, first, n, ret_values, err);
    if (r <= 0 || tensor->dtype != OFR_DTYPE_I8)
        return r;
    size_t k = (size_t)tensor->shape[1], group = tensor->group_size;
    int8_t *q = malloc(k);
    uint16_t *scales = malloc(k / group * sizeof *scales);
    ofr_quantize_error error = {0};
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    const ofr_quantize_kernel *kernel = ofr_quantize_kernel_choose(&features);
    if (!q || !scales)
        r = ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    for (uint64_t row = 0; row < n && r > 0; row++) {
        float *values = ret_values + row * k;
        ofr_quantize_i8_row(kernel, values, k, group, q, scales, &error);
        for (size_t i = 0; i < k; i++)
            values[i] = (float)q[i] * ofr_half_to_float(scales[i / group]);
    }
    free(q);
    free(scales);
    return r;
}

/* ---- results ---- */

static int keep(ofr_bake_tensor *tensor, const ofr_calibration_matrix *matrix, ofr_error *err)
{
    size_t elements = (size_t)(matrix->rows * matrix->columns), groups = elements / matrix->group;
    free(tensor->made);
    size_t data_bytes = matrix->wide ? elements : elements / 2;
    tensor->made = malloc(data_bytes + groups * sizeof(uint16_t));
    if (!tensor->made)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", tensor->name);
    if (matrix->wide)
        memcpy(tensor->made, matrix->values, elements);
    for (size_t i = 0; i < elements && !matrix->wide; i += 2)
        tensor->made[i / 2] =
            (uint8_t)((matrix->values[i] & 15) | (matrix->values[i + 1] & 15) << 4);
    memcpy(tensor->made + data_bytes, matrix->scales, groups * sizeof(uint16_t));
    tensor->output_error = (ofr_quantize_error){matrix->error, matrix->energy};
    return 0;
}

static uint64_t tensor_bytes(const ofr_bake_tensor *tensor)
{
    return tensor->values ? 0 : tensor->source.rows * tensor->source.row_bytes;
}

static int keep_layer(const ofr_bake_calibration *c, const ofr_calibration *calibration,
                      uint32_t layer, ofr_progress *progress, ofr_error *err)
{
    char prefix[64];
    int length = snprintf(prefix, sizeof prefix, "model.layers.%u.", layer);
    int r = 0;
    for (size_t i = 0; i < c->source->model.n_tensors && r == 0; i++) {
        ofr_bake_tensor *tensor = &c->source->model.tensors[i];
        if (strncmp(tensor->name, prefix, (size_t)length) != 0)
            continue;
        const ofr_calibration_matrix *matrix =
            ofr_calibration_find(calibration, tensor->name + length);
        if (matrix)
            r = keep(tensor, matrix, err);
        ofr_progress_add(progress, tensor_bytes(tensor));
    }
    return r;
}

static uint64_t layer_bytes(const ofr_bake_model *model)
{
    uint64_t total = 0;
    for (size_t i = 0; i < model->n_tensors; i++)
        if (strncmp(model->tensors[i].name, "model.layers.", 13) == 0)
            total += tensor_bytes(&model->tensors[i]);
    return total;
}

/* The matrices of a layer, in the order of ofr_calibration_set_groups. */
static const char *const parts[OFR_CALIBRATION_MATRICES] = {
    "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
    "self_attn.o_proj.weight", "mlp.gate_proj.weight",    "mlp.up_proj.weight",
    "mlp.down_proj.weight"};

static void set_groups(const ofr_bake_calibration *c, ofr_calibration *calibration)
{
    uint32_t groups[OFR_CALIBRATION_MATRICES];
    for (int i = 0; i < OFR_CALIBRATION_MATRICES; i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.0.%s", parts[i]);
        const ofr_bake_tensor *tensor = find_tensor(&c->source->model, name);
        groups[i] = tensor ? tensor->group_size : 32;
    }
    ofr_calibration_set_groups(calibration, groups);
}

/* The layer's matrices that are to be INT8. */
static void set_wide(const ofr_bake_calibration *c, uint32_t layer, ofr_calibration *calibration)
{
    bool wide[OFR_CALIBRATION_MATRICES];
    for (int i = 0; i < OFR_CALIBRATION_MATRICES; i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.%u.%s", layer, parts[i]);
        const ofr_bake_tensor *tensor = find_tensor(&c->source->model, name);
        wide[i] = tensor && tensor->dtype == OFR_DTYPE_I8;
    }
    ofr_calibration_set_wide(calibration, wide);
}

static int measure(const ofr_bake_calibration *c, ofr_calibration *calibration,
                   const text_tokens *all, ofr_bake_loss *loss, ofr_error *err)
{
    double *source = calloc(all->n + 1, sizeof *source), *made = calloc(all->n + 1, sizeof *made);
    uint64_t *tokens = calloc(all->n + 1, sizeof *tokens);
    int r = !source || !made || !tokens
                ? ofr_fail(err, OFR_ENOMEM, "calibration: out of memory")
                : ofr_calibration_loss(calibration, read_table, (void *)(uintptr_t)c, source, made,
                                       tokens, err);
    size_t index = 0;
    for (size_t i = 0; i < all->n && r == 0; i++) {
        if (!all->sequences[i].held_out)
            continue;
        ofr_bake_kind_loss *kind = &loss->kinds[all->kinds[i]];
        kind->tokens += tokens[index];
        kind->source_nll += source[index];
        kind->nll += made[index];
        index++;
    }
    free(source);
    free(made);
    free(tokens);
    return r;
}

/* What the calibration's forward pass does not do, in words; NULL: nothing. */
static const char *beyond(const ofr_bake_model *model)
{
    const ofr_model_params *p = &model->params;
    if (p->activation != OFR_ACTIVATION_SILU)
        return "an MLP without SiLU";
    if (ofr_scale_or_one(p->embedding_scale) != 1 || ofr_scale_or_one(p->residual_scale) != 1 ||
        ofr_scale_or_one(p->logit_scale) != 1 || p->attention_scale != 0)
        return "multipliers";
    if (p->attention_softcap != 0 || p->logit_softcap != 0)
        return "soft caps";
    if (p->rope.scaling == OFR_ROPE_SCALING_LONGROPE)
        return "long RoPE";
    for (uint32_t i = 0; i < p->n_layers; i++) {
        if (p->layer_flags[i] & OFR_LAYER_UNROTATED)
            return "layers without RoPE";
        if (p->layer_flags[i] & OFR_LAYER_WINDOWED &&
            (p->sliding_window < SEQUENCE_TOKENS || p->rope_local.dims != 0))
            return "sliding windows with a RoPE of their own, or short ones";
    }
    static const char *const suffixes[] = {"q_norm.weight", "attention_output_norm.weight"};
    for (size_t i = 0; i < model->n_tensors; i++)
        for (size_t j = 0; j < sizeof suffixes / sizeof suffixes[0]; j++)
            if (strstr(model->tensors[i].name, suffixes[j]))
                return "norms of heads or of outputs";
    return NULL;
}

int ofr_bake_wants_calibration(const ofr_bake_options *options, const ofr_bake_model *model,
                               bool *ret_wanted, const char **ret_why, ofr_error *err)
{
    uint64_t parameters = 0;
    bool quantized = false;
    for (size_t i = 0; i < model->n_tensors; i++) {
        const ofr_bake_tensor *t = &model->tensors[i];
        parameters += t->n_dims == 2 ? t->shape[0] * t->shape[1] : 0;
        quantized |= t->dtype == OFR_DTYPE_I4 && !t->keep;
    }
    *ret_wanted = false;
    *ret_why = NULL;
    if (options->data_free || options->keep_quantization || !quantized)
        return 0;
    if (!options->calibrate && parameters > DEFAULT_MAX_PARAMETERS)
        return 0;
    const char *why = beyond(model);
    if (why && options->calibrate)
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "--calibrate does not know models with %s; bake with --data_free", why);
    *ret_wanted = !why;
    *ret_why = why;
    return 0;
}

/* All layers; then the loss, unless `loss` is NULL. */
static int calibrate_once(const ofr_bake_calibration *c, const text_tokens *all, const char *label,
                          ofr_bake_loss *loss, ofr_error *err)
{
    ofr_calibration *engine = NULL;
    ofr_progress progress;
    ofr_calibration_options options = {.damping = DAMPING,
                                       .rounds = ROUNDS,
                                       .correction = CORRECTION,
                                       .threads = c->threads,
                                       .cancel = c->options->cancel};
    uint32_t n_layers = c->source->model.params.n_layers;
    ofr_progress_begin(&progress, c->options->progress_fd, label, layer_bytes(&c->source->model));
    int r = ofr_calibration_new(&c->source->model.params, read_source, (void *)(uintptr_t)c,
                                all->sequences, all->n, &options, &engine, err);
    if (r == 0)
        set_groups(c, engine);
    for (uint32_t layer = 0; layer < n_layers && r == 0; layer++) {
        set_wide(c, layer, engine);
        r = ofr_calibration_layer(engine, layer, err);
        if (r == 0)
            r = keep_layer(c, engine, layer, &progress, err);
    }
    if (r == 0 && loss)
        r = measure(c, engine, all, loss, err);
    if (r < 0)
        ofr_progress_abandon(&progress);
    else
        ofr_progress_end(&progress);
    ofr_calibration_free(engine);
    return r;
}

int ofr_bake_calibrate(const ofr_bake_calibration *calibration, ofr_bake_loss *ret_loss,
                       ofr_error *err)
{
    const ofr_bake_calibration *c = calibration;
    ofr_bake_loss loss = {0};
    text_tokens *all = calloc(1, sizeof *all);
    if (!all)
        return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    int r = collect_tokens(c, all, &loss, err);
    for (size_t i = 0; i < all->n; i++)
        loss.fitted_tokens += all->sequences[i].held_out ? 0 : all->sequences[i].n;
    if (r == 0 && c->options->mixed_percent > 0) {
        r = calibrate_once(c, all, "measuring what is sensitive", NULL, err);
        if (r == 0)
            ofr_bake_mix(&c->source->model, c->options->mixed_percent);
    }
    if (r == 0)
        r = calibrate_once(c, all, "calibrating", &loss, err);
    for (size_t i = 0; i < all->n; i++)
        free(all->ids[i]);
    free(all);
    if (r == 0)
        *ret_loss = loss;
    return r;
}
