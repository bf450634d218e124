/* What a bake says about its quality: the loss for model.json, and --report. */
#ifndef OFR_BAKE_MODEL_BAKE_REPORT_H
#define OFR_BAKE_MODEL_BAKE_REPORT_H

#include <jansson.h>

#include "bake_model/bake.h"

/* {"tokens", "perplexity", "source_perplexity", "increase", "increase_by_kind": {"prose": ...}}.
 * NULL without memory. */
json_t *ofr_bake_loss_json(const ofr_bake_loss *loss);

#endif
