/* The worker process: runs a backend for the client of the day.
 *
 * It is told over its socket from the executive: {"op":"session","generation":N} with the session
 * segment's descriptor, or {"op":"session_end"}; it says {"event":"ready","device":TEXT} or
 * {"event":"failed","text":TEXT} once, and {"event":"fault","reason":TEXT} before it ends itself.
 * The end of that socket ends the worker. */
#ifndef OFR_EXECUTIVE_SHARD_WORKER_H
#define OFR_EXECUTIVE_SHARD_WORKER_H

#include "engine/kv.h"
#include "executive_shard/session_abi.h"

enum { OFR_WORKER_EXIT_FAULT = 3 };

typedef struct ofr_worker_options {
    const char *package_directory;
    ofr_kv_layout kv_layout;
    int kv_fd;                 /* the KV arena, kv_layout.total_bytes */
    int board_fd;              /* OFR_BOARD_BYTES */
    int control_fd;            /* SOCK_SEQPACKET to the executive */
    ofr_session_header layout; /* of every session segment */
    uint32_t threads;          /* 0: the backend's default */
} ofr_worker_options;

/* Runs in a freshly forked process with one thread; never returns. */
_Noreturn void ofr_worker_main(const ofr_worker_options *options);

#endif
