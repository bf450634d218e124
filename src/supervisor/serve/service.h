/* What the handlers of the server share: the model's text side, the batch, the figures.
 *
 * Immutable after start but for the batch and the metrics, which any thread may use. */
#ifndef OFR_SUPERVISOR_SERVE_SERVICE_H
#define OFR_SUPERVISOR_SERVE_SERVICE_H

#include <time.h>

#include "grammar/vocabulary.h"
#include "supervisor/engine_session.h"
#include "supervisor/serve/batch.h"
#include "supervisor/serve/metrics.h"

typedef struct ofr_service {
    ofr_engine_session *session;      /* package, tokenizer, template; borrowed */
    const ofr_vocabulary *vocabulary; /* of the tokenizer, for grammars; borrowed */
    ofr_batch *batch;
    ofr_metrics metrics;
    const char *model_id;
    char fingerprint[16]; /* "fp_" and 10 digits of the package's */
    char instance[64];
    char device[512], plan[512];
    uint32_t n_slots, context, d_model, vocab_size;
    time_t created;
} ofr_service;

#endif
