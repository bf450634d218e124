/* The executive's state, and the parts it is made of. Internal to src/executive_shard.
 *
 *     executive.c          setting up, the event loop, signals, stopping
 *     executive_clients.c  the control socket: requests, attaching, what clients are told
 *     executive_workers.c  processes: starting, messages, deaths, and getting all of them ready
 *     executive_arena.c    sizes, KV arena, slot ledger and hidden segment; KV that outlives it
 *     executive_plan.c     which device does what: devices present, resolving, falling back
 *     executive_status.c   the status as JSON
 *
 * Getting ready ("settling"): a plan needs workers. Until each of them has opened its layers and
 * passed its self-test, nobody is at work and the rows of the KV arena are finite, no client is
 * given a session. */
#ifndef OFR_EXECUTIVE_SHARD_EXECUTIVE_INTERNAL_H
#define OFR_EXECUTIVE_SHARD_EXECUTIVE_INTERNAL_H

#include <jansson.h>

#include "base/log.h"
#include "device/device.h"
#include "engine/plan.h"
#include "executive_shard/control.h"
#include "executive_shard/executive.h"
#include "executive_shard/instance.h"
#include "executive_shard/monitor.h"
#include "executive_shard/session_abi.h"
#include "executive_shard/slot_ledger.h"
#include "executive_shard/worker_layers.h"

enum {
    OFR_EXECUTIVE_CLIENTS_MAX = 16,
    OFR_EXECUTIVE_WORKERS_MAX = OFR_SESSION_WORKERS_MAX,
    OFR_EXECUTIVE_FAILURES_MAX = 3,
    OFR_EXECUTIVE_START_DEATHS_MAX = 2, /* of a worker that never was ready */
    OFR_EXECUTIVE_PLAN_SIZE = 512,
};

typedef struct ofr_executive_client {
    int fd; /* -1: free */
    pid_t pid;
    bool greeted;
    char program[OFR_CONTROL_PROGRAM_SIZE];
} ofr_executive_client;

enum ofr_worker_state {
    OFR_WORKER_STATE_NONE,    /* no process */
    OFR_WORKER_STATE_OPENING, /* layers */
    OFR_WORKER_STATE_OPENED,  /* waits to be told to test */
    OFR_WORKER_STATE_TESTING,
    OFR_WORKER_STATE_READY,
};

/* One device that some plan named, with its process if it has one. */
typedef struct ofr_executive_worker {
    char device[OFR_PLAN_NAME_MAX]; /* "": the entry is free */
    uint32_t ranges[OFR_WORKER_RANGES_MAX][2];
    uint32_t n_ranges, n_asked; /* wanted; the process was told of the first n_asked */
    bool needed;                /* by the plan */
    uint64_t idle_since_ns;     /* when it was first found not needed; 0: it is needed */
    bool refused;               /* failed for good: no plan gets it */
    enum ofr_worker_state state;
    bool in_session, ending; /* has a session; was told of its end */
    uint32_t index;          /* of its rings in the session */
    pid_t pid;               /* 0: none */
    int fd, board_fd;
    uint32_t generation, restarts, start_deaths;
    bool was_ready;
    uint64_t failures_ns[OFR_EXECUTIVE_FAILURES_MAX];
    uint32_t n_failures;
    char text[320];    /* the device in words; "" until it is ready */
    char failure[512]; /* the last */
    char fault[256];   /* what it or the watchdog said of its end; "": nothing */
    uint32_t chunk;    /* tokens of a job that suit it best */
    ofr_watchdog watchdog;
    ofr_health_work work_before; /* of its processes before this one */
    uint64_t copied_before, graph_kv_before;
} ofr_executive_worker;

/* Looking for devices, in a child. */
typedef struct ofr_executive_search {
    pid_t pid; /* 0: none running */
    int fd;    /* -1: none */
    size_t used;
    bool done;
    ofr_device_list list;
} ofr_executive_search;

typedef struct ofr_executive {
    const ofr_executive_options *options;
    int directory_fd, listen_fd, signal_fd;
    ofr_instance_lock lock;
    char *package_directory; /* absolute */
    char fingerprint[65];
    char model_name[128];
    uint32_t vocab_size, n_layers, d_model, chunk_max;
    uint64_t weight_bytes;
    ofr_kv_layout kv_layout;
    ofr_session_header layout; /* of a session with one worker */
    ofr_slot_ledger_header ledger;
    ofr_executive_client clients[OFR_EXECUTIVE_CLIENTS_MAX];
    ofr_executive_client *attached; /* NULL: none */
    ofr_executive_client *pending;  /* asked to attach, not answered yet; NULL: none */
    char pending_plan[OFR_EXECUTIVE_PLAN_SIZE];
    ofr_executive_worker workers[OFR_EXECUTIVE_WORKERS_MAX];
    int kv_fd, ledger_fd, hidden_fd; /* -1: made when the next worker is started */
    int session_fd;                  /* of the attached client; -1: none */
    ofr_session_header session_layout;
    uint32_t generation; /* of sessions */
    ofr_plan plan;       /* concrete */
    char plan_text[OFR_EXECUTIVE_PLAN_SIZE];
    ofr_executive_search search;
    bool choosing;    /* a plan waits for the search */
    bool settled;     /* see above */
    bool arena_dirty; /* a worker died: rows may hold anything */
    bool told, stopping;
    char broken[OFR_ERROR_TEXT_MAX]; /* no device is left: why; "": all is well */
    bool socket_inherited;
    uint64_t started_ns;
    ofr_monitor monitor;
    uint64_t stop_asked_ns, stop_moved_ns, stop_progress; /* stop_asked_ns 0: not asked */
} ofr_executive;

void ofr_executive_close(int *fd);

/* executive_clients.c */
void ofr_executive_accept(ofr_executive *x);
/* `data` has room for a control message. */
void ofr_executive_read_client(ofr_executive *x, ofr_executive_client *client, char *data);
/* Sends an event to the attached client or the one that is attaching; releases it. */
void ofr_executive_tell(ofr_executive *x, json_t *event, const int *fds, size_t n_fds);
/* All workers are ready: the client that waits gets its session. */
void ofr_executive_serve_client(ofr_executive *x);
/* The plan that a client waits for cannot be: its answer is this error. */
void ofr_executive_refuse_client(ofr_executive *x, const ofr_error *why);
/* Asked by a client or a signal. */
void ofr_executive_ask_to_stop(ofr_executive *x);

/* executive_workers.c */
ofr_executive_worker *ofr_executive_find_worker(ofr_executive *x, const char *device);
/* Likewise, or a new entry; an entry that no plan needs makes room. NULL: all are needed. */
ofr_executive_worker *ofr_executive_add_worker(ofr_executive *x, const char *device);
/* Does what can be done now to get ready. Called after each round of events, never by what handles
 * one. */
void ofr_executive_settle(ofr_executive *x);
/* Tells every worker in the session that it ends. */
void ofr_executive_end_session(ofr_executive *x);
void ofr_executive_read_worker(ofr_executive *x, ofr_executive_worker *worker, char *data);
/* Its process is ended, or has ended. What its session's client computed is lost. */
void ofr_executive_lose_worker(ofr_executive *x, ofr_executive_worker *worker);
void ofr_executive_worker_died(ofr_executive *x, ofr_executive_worker *worker, int wait_status);
/* Ends those that no plan has needed for long: what was only measured keeps no memory. Returns ms
 * until the next one is due; -1: none. */
int ofr_executive_end_idle_workers(ofr_executive *x);
/* Kills those that hang. */
void ofr_executive_watch_workers(ofr_executive *x);
void ofr_executive_stop_workers(ofr_executive *x);
bool ofr_executive_read_board(const ofr_executive_worker *worker, ofr_board *ret_board);
ofr_health_work ofr_executive_work_done(const ofr_executive *x);
uint32_t ofr_executive_count_needed(const ofr_executive *x);

/* executive_arena.c */
/* Slots, context and chunks that memory and package allow. */
int ofr_executive_choose_layout(ofr_executive *x, const ofr_package *package, ofr_error *err);
/* Makes the segments that there are not. */
int ofr_executive_make_arenas(ofr_executive *x, ofr_error *err);
/* Nobody maps them: the next worker gets new ones. */
void ofr_executive_drop_arenas(ofr_executive *x);
/* Zeroes the rows in place, since workers that live have it mapped; all slots are empty then. */
int ofr_executive_clean_arena(ofr_executive *x, ofr_error *err);
/* The KV cache: into the arena, or out of it. */
void ofr_executive_keep_kv(const ofr_executive *x, bool load);

/* executive_plan.c */
/* Makes `text` (NULL: "auto") the plan and marks the workers that it needs. OFR_EAGAIN: the search
 * for devices has begun; ofr_executive_choose is to be called again when it is over. */
int ofr_executive_choose(ofr_executive *x, const char *text, ofr_error *err);
/* No plan gets the device any more. Its process is ended; the plan goes on without it. */
void ofr_executive_refuse(ofr_executive *x, ofr_executive_worker *worker, const char *why);
/* After POLLIN or POLLHUP on search.fd; true once the search is over. */
bool ofr_executive_read_search(ofr_executive *x);
void ofr_executive_end_search(ofr_executive *x);

/* executive_status.c */
json_t *ofr_executive_status(const ofr_executive *x);
/* [{"name","device","chunk"}]: the plan's workers, by their index in the session. */
json_t *ofr_executive_table(const ofr_executive *x);
/* The devices of the plan in words. */
void ofr_executive_devices(const ofr_executive *x, char *ret_text, size_t size);

#endif
