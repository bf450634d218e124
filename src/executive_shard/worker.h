/* A worker process: runs one device's backend for the client of the day.
 *
 * It is told over its socket from the executive
 *     {"op":"open","ranges":[[BEGIN,END],...]}     layers to open beside those that are open
 *     {"op":"test"}                                may write to the arena's last slot: self-test
 *     {"op":"session","index":I,"n_workers":N}     with the session segment; its rings are the I-th
 *     {"op":"session_end"}
 * and says
 *     {"event":"opened"}                           after open; waits to be told to test
 *     {"event":"ready","device":TEXT,"chunk":N}    after the test: takes jobs of N tokens at best
 *     {"event":"quiet"}                            after session_end: no job is running
 *     {"event":"failed","text":TEXT}               the device is not to be tried again; ends itself
 *     {"event":"fault","reason":TEXT}              why it ends itself; the next one may do better
 * The end of that socket ends the worker. */
#ifndef OFR_EXECUTIVE_SHARD_WORKER_H
#define OFR_EXECUTIVE_SHARD_WORKER_H

#include "engine/kv.h"
#include "executive_shard/session_abi.h"

enum { OFR_WORKER_EXIT_FAILED = 1, OFR_WORKER_EXIT_FAULT = 3 };

typedef struct ofr_worker_options {
    const char *package_directory;
    const char *device; /* as plans name it */
    ofr_kv_layout kv_layout;
    int kv_fd;                 /* the KV arena, kv_layout.total_bytes */
    int hidden_fd;             /* ofr_hidden_total_bytes() */
    int board_fd;              /* OFR_BOARD_BYTES */
    int control_fd;            /* SOCK_SEQPACKET to the executive */
    ofr_session_header layout; /* of sessions, but for the number of workers */
    uint32_t d_model;
    uint32_t threads;      /* 0: the backend's default */
    uint64_t memory_bytes; /* private memory that it may take beside what it starts with; 0: any */
} ofr_worker_options;

/* Runs in a freshly forked process with one thread; never returns. */
_Noreturn void ofr_worker_main(const ofr_worker_options *options);

#endif
