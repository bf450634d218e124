/* Which matrices are worth their bytes. */
#include "bake_model/bake_mixed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct candidate {
    ofr_bake_tensor *tensor;
    double worth; /* for each additional byte */
    uint64_t bytes;
} candidate;

/* Best first; equal ones in the order of the package. */
static int compare_worth(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->worth != y->worth)
        return x->worth > y->worth ? -1 : 1;
    return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

static double rule(const ofr_bake_tensor *tensor, uint32_t n_layers)
{
    static const struct {
        const char *part;
        double weight;
    } table[] = {{"v_proj", 8}, {"down_proj", 4}, {"o_proj", 2}, {"k_proj", 2}};
    double weight = 1;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strstr(tensor->name, table[i].part))
            weight = table[i].weight;
    unsigned layer = 0;
    if (sscanf(tensor->name, "model.layers.%u.", &layer) == 1 &&
        (layer < n_layers / 8 || layer >= n_layers - n_layers / 8))
        weight *= 2;
    return weight;
}

static double worth_of(const ofr_bake_tensor *tensor, uint32_t n_layers)
{
    const ofr_quantize_error *e = &tensor->output_error;
    double error = e->energy > 0 ? e->error / e->energy : rule(tensor, n_layers);
    return error / (double)(tensor->shape[0] * tensor->shape[1]);
}

size_t ofr_bake_mix(ofr_bake_model *model, double percent)
{
    candidate *all = calloc(model->n_tensors + 1, sizeof *all);
    uint64_t total = 0;
    size_t n = 0, chosen = 0;
    for (size_t i = 0; i < model->n_tensors && all; i++) {
        ofr_bake_tensor *t = &model->tensors[i];
        if (t->dtype != OFR_DTYPE_I4 || t->keep)
            continue;
        uint64_t bytes = t->shape[0] * t->shape[1] / 2;
        all[n++] = (candidate){t, worth_of(t, model->params.n_layers), bytes};
        total += bytes + t->shape[0] * t->shape[1] / t->group_size * 2;
    }
    if (n > 0)
        qsort(all, n, sizeof *all, compare_worth);
    double left = (double)total * percent / 100;
    for (size_t i = 0; i < n; i++)
        if ((double)all[i].bytes <= left) {
            left -= (double)all[i].bytes;
            all[i].tensor->dtype = OFR_DTYPE_I8;
            chosen++;
        }
    free(all);
    return chosen;
}
