/* The parts of an executive's client. Internal to src/executive_shard.
 *
 *     client.c        connecting, attaching, events, lost workers
 *     client_table.c  the plan's workers, and the routes of jobs through them
 *     client_jobs.c   jobs on their way */
#ifndef OFR_EXECUTIVE_SHARD_CLIENT_INTERNAL_H
#define OFR_EXECUTIVE_SHARD_CLIENT_INTERNAL_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "engine/plan.h"
#include "executive_shard/client.h"
#include "executive_shard/session_abi.h"
#include "executive_shard/slot_ledger.h"

typedef struct ofr_client_table {
    ofr_plan plan; /* concrete, by the workers' names */
    uint32_t n_layers;
    uint32_t n_workers;
    struct {
        char name[OFR_PLAN_NAME_MAX];
        uint32_t chunk; /* tokens of a job that suit it best */
    } workers[OFR_SESSION_WORKERS_MAX];
} ofr_client_table;

typedef struct ofr_client_route {
    struct {
        uint32_t worker; /* index in table and session */
        uint32_t layer_begin, layer_end;
        bool in_place; /* its result may overwrite its input */
    } stages[OFR_PLAN_MAX_STAGES];
    uint32_t n_stages;
    uint32_t chunk; /* tokens of a job that suit the route best */
} ofr_client_route;

/* From what the executive says of a session; everything in it is checked. */
int ofr_client_table_read(ofr_client_table *ret_table, const json_t *session, uint32_t chunk_max,
                          ofr_error *err);
/* The way of a prompt of that many tokens, or (0) of decoding. */
void ofr_client_table_route(const ofr_client_table *table, uint32_t prompt_tokens,
                            ofr_client_route *ret_route);

/* A job on its way. */
typedef struct ofr_client_flight {
    bool used, done;
    ofr_session_job entry; /* of the stage it is in */
    ofr_client_route route;
    uint32_t stage;
    bool has_rows; /* rows of logits or of candidates are written */
    int status;
    uint64_t worker_ns;
    char text[OFR_SESSION_TEXT_BYTES];
    int32_t *ids; /* [chunk_max], owned: what it adds to the ledger */
} ofr_client_flight;

enum ofr_client_state {
    OFR_CLIENT_STATE_UP,
    OFR_CLIENT_STATE_DOWN,
    OFR_CLIENT_STATE_FAILED,
    OFR_CLIENT_STATE_GONE,
};

struct ofr_client {
    ofr_client_info info;
    ofr_client_table table;
    ofr_session_header layout;
    int fd;
    void *base;
    ofr_ring jobs[OFR_SESSION_WORKERS_MAX], completions[OFR_SESSION_WORKERS_MAX];
    ofr_slot_ledger_header ledger_layout;
    ofr_slot_ledger ledger;
    ofr_client_flight flights[OFR_CLIENT_JOBS_MAX]; /* by ticket; buffer i is flight i's */
    uint64_t sequence;
    uint32_t logits_row; /* of the job waited for last */
    ofr_candidate candidates[OFR_SESSION_SEGMENTS_MAX][OFR_CANDIDATES_MAX]; /* likewise */
    void (*notify)(void *user, const char *line);
    void (*tell_changed)(void *user);
    void *user;
    bool watching;
    pthread_t watcher;
    pthread_mutex_t lock; /* guards what follows, and the mapping that is woken */
    pthread_cond_t changed;
    int next_fd, next_ledger_fd; /* of the next session; -1: none */
    json_t *next;                /* and what is said of it; owned */
    char failure[512];
    char notices[1024];                    /* lines that the owner has not been told yet */
    bool conditions_changed, plan_changed; /* of them: of devices' conditions, of refused devices */
    _Atomic int state;                     /* enum ofr_client_state */
};

/* 0 while workers and executive live; else all jobs are lost, and why. */
int ofr_client_check_state(ofr_client *client, ofr_error *err);

#endif
