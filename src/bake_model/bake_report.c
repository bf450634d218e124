/* What a bake says about its quality. */
#include "bake_model/bake_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Six significant digits: what follows is not the loss. */
static double round_6(double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.6g", value);
    return strtod(text, NULL);
}

json_t *ofr_bake_loss_json(const ofr_bake_loss *loss)
{
    json_t *kinds = json_object();
    double nll = 0, source_nll = 0;
    json_int_t tokens = 0;
    int bad = !kinds;
    for (int i = 0; i < loss->n_kinds; i++) {
        const ofr_bake_kind_loss *k = &loss->kinds[i];
        double n = k->tokens > 0 ? (double)k->tokens : 1;
        nll += k->nll;
        source_nll += k->source_nll;
        tokens += (json_int_t)k->tokens;
        bad |= json_object_set_new(kinds, k->name,
                                   json_real(round_6(exp((k->nll - k->source_nll) / n) - 1)));
    }
    double n = tokens > 0 ? (double)tokens : 1;
    json_t *root =
        json_pack("{s:I, s:f, s:f, s:f, s:o}", "tokens", tokens, "perplexity",
                  round_6(exp(nll / n)), "source_perplexity", round_6(exp(source_nll / n)),
                  "increase", round_6(exp((nll - source_nll) / n) - 1), "increase_by_kind", kinds);
    return bad ? NULL : root;
}

/* The relative error, or -1 where it is not known. */
static double relative(const ofr_quantize_error *error)
{
    return error->energy > 0 ? sqrt(error->error / error->energy) : -1;
}

static double weight_error(const ofr_bake_tensor_result *t)
{
    return t->kept ? 0 : relative(&t->weight_error);
}

static json_t *number_or_null(double value)
{
    return value < 0 ? json_null() : json_real(round_6(value));
}

json_t *ofr_bake_tensors_json(const ofr_bake_result *result)
{
    json_t *list = json_array();
    for (size_t i = 0; i < result->n_matrices; i++) {
        const ofr_bake_tensor_result *t = &result->tensors[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I, s:o, s:o}", "name", t->name,
                                              "dtype", ofr_dtype_name(t->dtype), "group_size",
                                              (json_int_t)t->group_size, "bytes",
                                              (json_int_t)t->bytes, "weight_error",
                                              number_or_null(weight_error(t)), "output_error",
                                              number_or_null(relative(&t->output_error))));
    }
    return list;
}

static void print_percent(double value, FILE *out)
{
    if (value < 0)
        fprintf(out, " %9s", "-");
    else
        fprintf(out, " %8.3f%%", 100 * value);
}

void ofr_bake_report_print(const ofr_bake_result *result, FILE *out)
{
    fprintf(out, "%-46s %-5s %6s %12s %9s %9s\n", "matrix", "dtype", "group", "bytes", "weights",
            "outputs");
    uint64_t total = 0;
    for (size_t i = 0; i < result->n_matrices; i++) {
        const ofr_bake_tensor_result *t = &result->tensors[i];
        fprintf(out, "%-46s %-5s %6u %12llu", t->name, ofr_dtype_name(t->dtype), t->group_size,
                (unsigned long long)t->bytes);
        print_percent(weight_error(t), out);
        print_percent(relative(&t->output_error), out);
        fputc('\n', out);
        total += t->bytes;
    }
    fprintf(out, "%zu matrices, %.1f MiB; errors are relative, root of the mean square\n",
            result->n_matrices, (double)total / 1048576);
    const ofr_bake_loss *loss = &result->loss;
    for (int i = 0; i < loss->n_kinds; i++) {
        const ofr_bake_kind_loss *k = &loss->kinds[i];
        double n = k->tokens > 0 ? (double)k->tokens : 1;
        fprintf(out, "%-10s perplexity %8.3f, of the source %8.3f: %+.2f%% (%llu tokens)\n",
                k->name, exp(k->nll / n), exp(k->source_nll / n),
                100 * (exp((k->nll - k->source_nll) / n) - 1), (unsigned long long)k->tokens);
    }
}
