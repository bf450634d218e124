/* What a bake says about its quality: the loss for model.json, and --report. */
#ifndef OFR_BAKE_MODEL_BAKE_REPORT_H
#define OFR_BAKE_MODEL_BAKE_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "bake_model/bake.h"

/* {"tokens", "perplexity", "source_perplexity", "increase", "increase_by_kind": {"prose": ...}}.
 * NULL without memory. */
json_t *ofr_bake_loss_json(const ofr_bake_loss *loss);
/* [{"name", "dtype", "group_size", "bytes", "weight_error", "output_error"}]: relative errors (root
 * of the sum of squares over that of the source), null where they were not measured. */
json_t *ofr_bake_tensors_json(const ofr_bake_result *result);
/* A table of the same for people, and the loss where it was measured. */
void ofr_bake_report_print(const ofr_bake_result *result, FILE *out);
/* A plot of the errors over the layers, and of the sizes: *ret_text is malloc'ed. */
int ofr_bake_report_svg(const ofr_bake_result *result, const char *title, char **ret_text,
                        size_t *ret_size, ofr_error *err);

#endif
