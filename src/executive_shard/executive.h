/* The daemon: one event loop over the control socket, its clients and its worker processes, one for
 * each device that the plan uses.
 *
 * The executive never reads or writes memory that a client or worker can write through a mapping:
 * it makes segments, passes their descriptors, and reads the worker's board with pread(). */
#ifndef OFR_EXECUTIVE_SHARD_EXECUTIVE_H
#define OFR_EXECUTIVE_SHARD_EXECUTIVE_H

#include <stdint.h>

#include "base/status.h"

/* Tokens of context that an executive makes room for where nobody asks for more and memory for
 * several slots is scarce. */
enum { OFR_EXECUTIVE_CONTEXT_ENOUGH = 8192 };

typedef struct ofr_executive_options {
    const char *package_directory;
    const char *instance;        /* resolved name */
    const char *root;            /* of the machine that health is read of; NULL: "/" */
    const char *plan;            /* for clients that ask for "auto"; NULL: chosen */
    const char *first_plan;      /* to begin with, as the client that starts it will ask; or NULL */
    uint32_t threads;            /* 0: the backend's default */
    uint32_t context;            /* 0: the model's, or what memory allows */
    uint32_t n_slots;            /* 0: what memory allows */
    const char *cache_directory; /* NULL: KV ends with the executive */
    uint64_t cache_bytes;        /* most that its files may take */
    /* Three deaths of a worker within this time are a defect that a restart does not
     * cure: quarantine. 0: never. */
    uint32_t failure_window_s;
    uint32_t idle_worker_s; /* a worker that no plan has needed for so long is ended; 0: never */
    /* Most private memory that the worker of a device which compiles may take beside what it starts
     * with; 0: half of what is available. */
    uint64_t worker_memory_bytes;
} ofr_executive_options;

/* Serves until told to stop (control message, SIGTERM, SIGINT). `ready` is called once, when the
 * socket serves and all workers of the plan are ready. Needs a process with one thread. */
int ofr_executive_run(const ofr_executive_options *options,
                      void (*ready)(void *user, const char *device), void *user, ofr_error *err);

#endif
