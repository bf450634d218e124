/* The executive's client as the engine of the server's batch: jobs, lost executives, and plans that
 * change while the server runs.
 *
 * Where "auto" was asked for, the choice is made anew when devices throttle, run out of memory or
 * recover. Another plan is taken while nothing runs or waits, or once it has been the better one
 * for ten seconds: then between two jobs, and what the strips hold stays.
 *
 * After ofr_serve_engine_open only the batch's thread touches session and client. */
#ifndef OFR_SUPERVISOR_SERVE_ENGINE_H
#define OFR_SUPERVISOR_SERVE_ENGINE_H

#include <pthread.h>

#include "supervisor/engine_session.h"
#include "supervisor/serve/batch.h"
#include "supervisor/serve/service.h"

typedef struct ofr_serve_engine {
    ofr_engine_session *session;      /* opened, not connected; borrowed */
    const ofr_common_options *common; /* as given; borrowed */
    uint32_t slots;                   /* of an executive that is started; 0: what memory allows */
    const char *cache_dir;            /* likewise; NULL: none. Borrowed */

    /* Its own. */
    ofr_client_info shape;    /* of the last connection */
    ofr_service_plan *told;   /* where the plan is shown; NULL: not yet */
    bool apart;               /* prompts and answers are on different devices */
    bool look;                /* conditions may have changed since looked_ns */
    bool stuck;               /* the plan chosen last could not be taken */
    ofr_engine_choice choice; /* .other: since chosen_ns */
    uint64_t looked_ns, chosen_ns;
    pthread_mutex_t lock; /* guards `batch` */
    ofr_batch *batch;     /* to be woken; NULL: not now */
} ofr_serve_engine;

/* Chooses the plan and connects; an executive is started where none serves. */
int ofr_serve_engine_open(ofr_serve_engine *engine, ofr_error *err);
/* After the session's connection is closed, or ofr_serve_engine_open has failed. */
void ofr_serve_engine_done(ofr_serve_engine *engine);

/* What a batch needs of it; the plan is shown in `told` (borrowed) from now on. */
void ofr_serve_engine_fill(ofr_serve_engine *engine, ofr_service_plan *told,
                           ofr_batch_engine *ret_engine);
/* The batch that is woken when conditions change; NULL before it is freed. Any thread. */
void ofr_serve_engine_set_batch(ofr_serve_engine *engine, ofr_batch *batch);

#endif
