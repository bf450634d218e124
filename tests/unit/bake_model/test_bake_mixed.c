/* Which matrices --mixed makes INT8: within the budget, by measured error, else by the rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bake_model/bake_mixed.h"

enum { LAYERS = 8, PARTS = 7, N = LAYERS * PARTS + 1 };

static const char *const parts[PARTS] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                         "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                         "mlp.down_proj"};

static void fill(ofr_bake_model *model, ofr_bake_tensor *tensors)
{
    memset(tensors, 0, N * sizeof *tensors);
    for (int i = 0; i < N - 1; i++) {
        ofr_bake_tensor *t = &tensors[i];
        snprintf(t->name, sizeof t->name, "model.layers.%d.%s.weight", i / PARTS, parts[i % PARTS]);
        t->dtype = OFR_DTYPE_I4;
        t->n_dims = 2;
        t->shape[0] = i % PARTS == 1 || i % PARTS == 2 ? 64 : 256;
        t->shape[1] = 256;
        t->group_size = 128;
    }
    ofr_bake_tensor *embedding = &tensors[N - 1];
    snprintf(embedding->name, sizeof embedding->name, "model.embed_tokens.weight");
    embedding->dtype = OFR_DTYPE_I8;
    embedding->n_dims = 2;
    embedding->shape[0] = embedding->shape[1] = 4096;
    embedding->group_size = 128;
    *model = (ofr_bake_model){.params = {.n_layers = LAYERS}, .tensors = tensors, .n_tensors = N};
}

static double growth(const ofr_bake_tensor *tensors)
{
    double before = 0, added = 0;
    for (int i = 0; i < N - 1; i++) {
        double elements = (double)(tensors[i].shape[0] * tensors[i].shape[1]);
        before += elements / 2 + elements / 128 * 2;
        added += tensors[i].dtype == OFR_DTYPE_I8 ? elements / 2 : 0;
    }
    return 100 * added / before;
}

static void the_budget_holds(void **state)
{
    (void)state;
    static const double budgets[] = {0.1, 3, 10, 50, 100};
    for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
        ofr_bake_tensor tensors[N];
        ofr_bake_model model;
        fill(&model, tensors);
        size_t chosen = ofr_bake_mix(&model, budgets[i]);
        assert_true(growth(tensors) <= budgets[i]);
        /* Nothing that still fits is left out: the smallest matrix is 0.6 % of all. */
        assert_true(growth(tensors) > budgets[i] - 4);
        assert_true((chosen == 0) == (budgets[i] < 0.5));
        assert_int_equal(tensors[N - 1].dtype, OFR_DTYPE_I8);
    }
}

static void the_rule_begins_with_values_of_outer_layers(void **state)
{
    (void)state;
    ofr_bake_tensor tensors[N];
    ofr_bake_model model;
    fill(&model, tensors);
    assert_int_equal(ofr_bake_mix(&model, 1.3), 2);
    assert_int_equal(tensors[2].dtype, OFR_DTYPE_I8);
    assert_int_equal(tensors[(LAYERS - 1) * PARTS + 2].dtype, OFR_DTYPE_I8);
}

static void measured_errors_decide(void **state)
{
    (void)state;
    ofr_bake_tensor tensors[N];
    ofr_bake_model model;
    fill(&model, tensors);
    for (int i = 0; i < N - 1; i++)
        tensors[i].output_error = (ofr_quantize_error){i == 4 * PARTS + 5 ? 0.5 : 0.001, 1};
    tensors[2 * PARTS].keep = true;
    tensors[2 * PARTS].output_error.error = 0.9;
    assert_int_equal(ofr_bake_mix(&model, 2.5), 1);
    assert_int_equal(tensors[4 * PARTS + 5].dtype, OFR_DTYPE_I8);
    assert_int_equal(tensors[2 * PARTS].dtype, OFR_DTYPE_I4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_budget_holds),
        cmocka_unit_test(the_rule_begins_with_values_of_outer_layers),
        cmocka_unit_test(measured_errors_decide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
