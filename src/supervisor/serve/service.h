/* What the handlers of the server share: the model's text side, the batch, the figures.
 *
 * Immutable after start but for the batch, the metrics and the plan, which any thread may use. */
#ifndef OFR_SUPERVISOR_SERVE_SERVICE_H
#define OFR_SUPERVISOR_SERVE_SERVICE_H

#include <pthread.h>
#include <time.h>

#include "grammar/vocabulary.h"
#include "supervisor/engine_session.h"
#include "supervisor/serve/batch.h"
#include "supervisor/serve/metrics.h"

/* What runs where; it changes with the conditions of the devices. */
typedef struct ofr_plan_shown {
    char plan[512], device[512]; /* as in ofr_client_info */
    uint64_t changes;            /* of the plan since the start */
} ofr_plan_shown;

typedef struct ofr_service_plan {
    pthread_mutex_t lock;
    ofr_plan_shown shown;
} ofr_service_plan;

void ofr_service_set_plan(ofr_service_plan *plan, const ofr_client_info *info);
void ofr_service_get_plan(ofr_service_plan *plan, ofr_plan_shown *ret_shown);

typedef struct ofr_service {
    ofr_engine_session *session;      /* package, tokenizer, template; borrowed */
    const ofr_vocabulary *vocabulary; /* of the tokenizer, for grammars; borrowed */
    ofr_batch *batch;
    ofr_metrics metrics;
    ofr_service_plan plan;
    const char *model_id;
    char fingerprint[16]; /* "fp_" and 10 digits of the package's */
    char instance[64];
    uint32_t n_slots, context, d_model, vocab_size;
    time_t created;
} ofr_service;

#endif
