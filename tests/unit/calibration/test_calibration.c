/* Calibration of a small random model: the source's stream is the reference's forward pass, the
 * result depends on neither threads nor the order of the held-out text, and bad input is refused.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "calibration/calibration.h"
#include "reference/reference.h"
#include "support/memory_model.h"

enum { TOKENS = 96, HELD_OUT = 40, VOCAB = 70 };

static int read_rows(void *context, const char *name, uint64_t first, uint64_t n, float *ret_values,
                     ofr_error *err)
{
    memory_model *model = context;
    for (size_t i = 0; i < model->n_tensors; i++) {
        const ofr_tensor *t = &model->tensors[i];
        if (strcmp(t->name, name) != 0)
            continue;
        uint64_t rows = t->n_dims == 2 ? t->shape[0] : 1;
        uint64_t columns = t->n_dims == 2 ? t->shape[1] : t->shape[0];
        float *all = malloc(rows * columns * sizeof *all);
        assert_non_null(all);
        int r = memory_model_source(model, name, rows * columns, all, err);
        memcpy(ret_values, all + first * columns, n * columns * sizeof *all);
        free(all);
        return r;
    }
    return 0;
}

static memory_model *make_model(void)
{
    return memory_model_new(&(memory_model_options){.n_layers = 2,
                                                    .d_model = 64,
                                                    .n_heads = 4,
                                                    .n_kv_heads = 2,
                                                    .head_dim = 16,
                                                    .d_ff = 96,
                                                    .vocab_size = VOCAB,
                                                    .weights = OFR_DTYPE_F32,
                                                    .table = OFR_DTYPE_F32,
                                                    .biases = true,
                                                    .freq_factors = true,
                                                    .separate_head = true,
                                                    .seed = 5});
}

static void make_tokens(int32_t *tokens, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        tokens[i] = (int32_t)(seed >> 16) % VOCAB;
        tokens[i] = tokens[i] < 0 ? -tokens[i] : tokens[i];
    }
}

static double reference_nll(memory_model *model, const int32_t *tokens, uint32_t n)
{
    ofr_reference *reference = NULL;
    ofr_error err = {0};
    float *logits = malloc((size_t)n * VOCAB * sizeof *logits);
    assert_non_null(logits);
    assert_int_equal(
        ofr_reference_new(&model->params, memory_model_source, model, n, 1, &reference, &err), 0);
    assert_int_equal(ofr_reference_forward(reference, tokens, n, NULL, logits), 0);
    double nll = 0;
    for (uint32_t t = 0; t + 1 < n; t++) {
        double sum = 0;
        for (uint32_t v = 0; v < VOCAB; v++)
            sum += exp((double)logits[t * VOCAB + v]);
        nll += log(sum) - (double)logits[t * VOCAB + (uint32_t)tokens[t + 1]];
    }
    free(logits);
    ofr_reference_free(reference);
    return nll;
}

typedef struct outcome {
    int8_t values[2][96 * 96]; /* of down_proj in both layers */
    double source_nll, nll;
} outcome;

static void calibrate(memory_model *model, unsigned threads, bool held_out_first, outcome *ret)
{
    static const uint32_t groups[OFR_CALIBRATION_MATRICES] = {64, 64, 32, 64, 64, 64, 32};
    int32_t tokens[TOKENS], held_out[HELD_OUT];
    make_tokens(tokens, TOKENS, 1);
    make_tokens(held_out, HELD_OUT, 2);
    ofr_calibration_sequence sequences[3] = {
        {tokens, 64, false}, {tokens + 64, 32, false}, {held_out, HELD_OUT, true}};
    if (held_out_first) {
        ofr_calibration_sequence last = sequences[2];
        sequences[2] = sequences[1];
        sequences[1] = sequences[0];
        sequences[0] = last;
    }
    ofr_calibration_options options = {
        .damping = 0.01f, .rounds = 2, .correction = 1, .threads = threads};
    ofr_calibration *c = NULL;
    ofr_error err = {0};
    int r = ofr_calibration_new(&model->params, read_rows, model, sequences, 3, &options, &c, &err);
    if (r < 0)
        fail_msg("%s", err.text);
    ofr_calibration_set_groups(c, groups);
    for (uint32_t layer = 0; layer < 2; layer++) {
        r = ofr_calibration_layer(c, layer, &err);
        if (r < 0)
            fail_msg("%s", err.text);
        const ofr_calibration_matrix *m = ofr_calibration_find(c, "mlp.down_proj.weight");
        assert_non_null(m);
        assert_int_equal(m->rows, 64);
        assert_int_equal(m->columns, 96);
        assert_true(m->error > 0 && m->error < 0.05 * m->energy);
        memcpy(ret->values[layer], m->values, m->rows * m->columns);
    }
    assert_null(ofr_calibration_find(c, "mlp.sideways_proj.weight"));
    uint64_t n = 0;
    r = ofr_calibration_loss(c, read_rows, model, &ret->source_nll, &ret->nll, &n, &err);
    if (r < 0)
        fail_msg("%s", err.text);
    assert_int_equal(n, HELD_OUT - 1);
    ofr_calibration_free(c);
}

static void the_source_stream_is_the_reference(void **state)
{
    (void)state;
    memory_model *model = make_model();
    outcome *o = calloc(1, sizeof *o);
    int32_t held_out[HELD_OUT];
    assert_non_null(o);
    make_tokens(held_out, HELD_OUT, 2);
    calibrate(model, 2, false, o);
    double expected = reference_nll(model, held_out, HELD_OUT);
    assert_true(fabs(o->source_nll - expected) < 1e-4 * expected);
    /* Quantized to 4 bits it is another model, but not by much. */
    assert_true(o->nll != o->source_nll && fabs(o->nll - expected) < 0.1 * expected);
    free(o);
    memory_model_free(model);
}

static void threads_and_order_do_not_show(void **state)
{
    (void)state;
    memory_model *model = make_model();
    outcome *first = calloc(1, sizeof *first), *second = calloc(1, sizeof *second);
    assert_non_null(first);
    assert_non_null(second);
    calibrate(model, 1, false, first);
    calibrate(model, 3, true, second);
    assert_memory_equal(first->values, second->values, sizeof first->values);
    assert_true(first->nll == second->nll && first->source_nll == second->source_nll);
    free(first);
    free(second);
    memory_model_free(model);
}

static void bad_input_is_refused(void **state)
{
    (void)state;
    memory_model *model = make_model();
    int32_t tokens[2] = {1, VOCAB};
    ofr_calibration_options options = {.damping = 0.01f, .threads = 1};
    ofr_calibration_sequence sequence = {tokens, 2, false};
    ofr_calibration *c = NULL;
    ofr_error err = {0};
    assert_int_equal(
        ofr_calibration_new(&model->params, read_rows, model, &sequence, 1, &options, &c, &err),
        OFR_EINVAL);
    assert_non_null(strstr(err.text, "token 70"));
    sequence.held_out = true;
    assert_int_equal(
        ofr_calibration_new(&model->params, read_rows, model, &sequence, 1, &options, &c, &err),
        OFR_EINVAL);
    assert_null(c);
    memory_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_source_stream_is_the_reference),
        cmocka_unit_test(threads_and_order_do_not_show),
        cmocka_unit_test(bad_input_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
