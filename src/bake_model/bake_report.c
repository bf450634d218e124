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
