/* The worker process: takes jobs from the ring, runs the backend, posts completions. */
#include "executive_shard/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "backend/cpu/cpu_backend.h"
#include "base/clock.h"
#include "base/shm.h"
#include "executive_shard/canary.h"
#include "executive_shard/control.h"

/* A wake-up by futex costs tens of microseconds; the next token of a conversation comes sooner. */
enum { SPIN_NS = 200000 };

struct session {
    void *base; /* NULL: no client */
    ofr_ring jobs, completions;
};

struct worker {
    ofr_worker_options options;
    ofr_board *board;
    ofr_package *package;
    ofr_model model;
    void *kv;
    const ofr_backend *backend;
    ofr_backend_session *backend_session;
    int32_t *tokens, *targets; /* [chunk_max]: private copies, the client may change its own */
    uint64_t copied_bytes;     /* between strips, by jobs of kind COPY */
    struct session session;    /* of the job loop */
    pthread_mutex_t lock;      /* the only one: guards what follows */
    pthread_cond_t changed;
    struct session next;
    bool has_next;
    ofr_ring_header *bell_of; /* job ring that the job loop sleeps on */
};

static void say(const struct worker *worker, const char *event, const char *key, const char *text)
{
    json_t *object = json_pack("{s:s, s:s}", "event", event, key, text);
    ofr_control_send(worker->options.control_fd, object, NULL, 0, true, NULL);
    json_decref(object);
}

static int open_session(const struct worker *worker, int fd, struct session *ret, ofr_error *err)
{
    const ofr_session_header *layout = &worker->options.layout;
    void *base = NULL;
    int r = ofr_shm_map(fd, layout->total_bytes, &base, err);
    if (r < 0)
        return r;
    ofr_session_header found;
    memcpy(&found, base, sizeof found);
    r = ofr_session_header_check(layout, &found, err);
    if (r < 0) {
        ofr_shm_unmap(base, layout->total_bytes);
        return r;
    }
    ret->base = base;
    ofr_session_rings_init(base, layout, &ret->jobs, &ret->completions);
    return 0;
}

/* Hands the next session (or none) to the job loop and wakes it. */
static void offer(struct worker *worker, struct session session)
{
    pthread_mutex_lock(&worker->lock);
    if (worker->has_next)
        ofr_shm_unmap(worker->next.base, worker->options.layout.total_bytes);
    worker->next = session;
    worker->has_next = true;
    if (worker->bell_of)
        ofr_ring_notify(worker->bell_of);
    pthread_cond_signal(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
}

static void *control_loop(void *argument)
{
    struct worker *worker = argument;
    char *data = malloc(OFR_CONTROL_MESSAGE_MAX);
    for (;;) {
        size_t size = 0;
        size_t count = 0;
        int descriptors[OFR_CONTROL_DESCRIPTORS_MAX];
        /* The executive is gone, or this worker cannot be told anything any more. */
        if (!data || ofr_control_receive(worker->options.control_fd, data, true, &size, descriptors,
                                         &count, NULL) < 0)
            _exit(0);
        struct session session = {0};
        if (count == 1 && open_session(worker, descriptors[0], &session, NULL) < 0)
            session.base = NULL;
        while (count)
            close(descriptors[--count]);
        offer(worker, session);
    }
    return NULL;
}

static void take_next(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    while (!worker->has_next && !worker->session.base)
        pthread_cond_wait(&worker->changed, &worker->lock);
    if (worker->has_next) {
        ofr_shm_unmap(worker->session.base, worker->options.layout.total_bytes);
        worker->session = worker->next;
        worker->has_next = false;
        worker->bell_of = worker->session.base ? worker->session.jobs.header : NULL;
    }
    pthread_mutex_unlock(&worker->lock);
}

/* One segment, whose row of the logits holds the sums. */
static bool is_hidden_sum(const struct worker *worker, const ofr_session_job *job)
{
    return job->output == OFR_FORWARD_OUTPUT_HIDDEN_SUM && job->n_segments == 1 &&
           worker->model.params->d_model <= worker->options.layout.vocab_size;
}

static int run_copy(struct worker *worker, const ofr_session_job *job, ofr_error *err)
{
    uint64_t bytes = 0;
    if (job->n_segments != 2 || job->segments[0].n_tokens != job->segments[1].n_tokens)
        return ofr_fail(err, OFR_EPROTOCOL, "a copy of %u segments", job->n_segments);
    int r = ofr_kv_copy_rows(&worker->options.kv_layout, worker->kv, job->segments[1].slot,
                             job->segments[0].slot, job->segments[0].n_tokens, &bytes, err);
    worker->copied_bytes += bytes;
    return r;
}

/* The job is a private copy. Sums are checked here; the backend checks slots and positions. */
static int check_job(const struct worker *worker, const ofr_session_job *job, ofr_error *err)
{
    uint64_t total = 0;
    if (job->kind != OFR_SESSION_JOB_FORWARD)
        return ofr_fail(err, OFR_EPROTOCOL, "a job of kind %u", job->kind);
    if (job->n_segments == 0 || job->n_segments > OFR_SESSION_SEGMENTS_MAX ||
        job->n_segments > worker->options.layout.n_slots)
        return ofr_fail(err, OFR_EPROTOCOL, "a job of %u segments", job->n_segments);
    for (uint32_t i = 0; i < job->n_segments; i++)
        total += job->segments[i].n_tokens;
    if (total != job->n_tokens || total > worker->options.layout.chunk_max)
        return ofr_fail(err, OFR_EPROTOCOL, "a job of %u tokens", job->n_tokens);
    if (job->output != OFR_FORWARD_OUTPUT_NONE && job->output != OFR_FORWARD_OUTPUT_LAST &&
        job->output != OFR_FORWARD_OUTPUT_LOGPROBS && !is_hidden_sum(worker, job))
        return ofr_fail(err, OFR_EPROTOCOL, "a job with output %u", job->output);
    return 0;
}

/* Logits that are no numbers mean that the device or the strips are broken: this process is not to
 * be trusted with another job. The client gets the answer from the next one. */
static void check_numbers(const struct worker *worker, const ofr_session_job *job,
                          const ofr_forward *forward)
{
    const float *values = NULL;
    size_t n = 0;
    if (forward->output == OFR_FORWARD_OUTPUT_LAST) {
        values = forward->logits;
        n = (size_t)job->n_segments * worker->options.layout.vocab_size;
    } else if (forward->output == OFR_FORWARD_OUTPUT_LOGPROBS) {
        values = forward->logprobs;
        n = job->n_tokens;
    }
    if (values && !ofr_canary_finite(values, n)) {
        say(worker, "fault", "reason", "its logits are not numbers (NaN or infinity)");
        _exit(OFR_WORKER_EXIT_FAULT);
    }
}

static int run_job(struct worker *worker, const ofr_session_job *job, ofr_error *err)
{
    if (job->kind == OFR_SESSION_JOB_COPY)
        return run_copy(worker, job, err);
    int r = check_job(worker, job, err);
    if (r < 0)
        return r;
    const ofr_session_header *layout = &worker->options.layout;
    void *base = worker->session.base;
    memcpy(worker->tokens, ofr_session_tokens(base, layout), job->n_tokens * sizeof(int32_t));
    memcpy(worker->targets, ofr_session_targets(base, layout), job->n_tokens * sizeof(int32_t));
    ofr_segment segments[OFR_SESSION_SEGMENTS_MAX];
    for (uint32_t i = 0; i < job->n_segments; i++)
        segments[i] = (ofr_segment){job->segments[i].slot, job->segments[i].position,
                                    job->segments[i].n_tokens};
    ofr_forward forward = {
        .segments = segments,
        .n_segments = job->n_segments,
        .tokens = worker->tokens,
        .output = (enum ofr_forward_output)job->output,
        .logits = ofr_session_logits(base, layout),
        .targets = worker->targets,
        .logprobs = ofr_session_logprobs(base, layout),
    };
    r = worker->backend->forward(worker->backend_session, &forward, err);
    if (r == 0)
        check_numbers(worker, job, &forward);
    return r;
}

static void board_step(const struct worker *worker, uint32_t state)
{
    atomic_store(&worker->board->state, state);
    atomic_store(&worker->board->heartbeat_ns, ofr_clock_ns());
    atomic_fetch_add(&worker->board->progress, 1);
}

static void answer_job(struct worker *worker, const ofr_session_job *job)
{
    ofr_error err = {0};
    board_step(worker, OFR_BOARD_STATE_BUSY);
    uint64_t start = ofr_clock_ns();
    ofr_session_completion completion = {.sequence = job->sequence};
    completion.status = run_job(worker, job, &err);
    completion.worker_ns = ofr_clock_ns() - start;
    if (completion.status < 0) {
        size_t length = strnlen(err.text, sizeof completion.text - 1);
        memcpy(completion.text, err.text, length);
    } else {
        atomic_fetch_add(&worker->board->jobs, 1);
        atomic_fetch_add(&worker->board->tokens, job->n_tokens);
        uint32_t decoded = 0;
        for (uint32_t i = 0; i < job->n_segments; i++)
            decoded += job->segments[i].n_tokens == 1;
        atomic_fetch_add(&worker->board->decode_tokens, decoded);
    }
    atomic_fetch_add(&worker->board->busy_ns, completion.worker_ns);
    uint64_t copied = worker->copied_bytes;
    if (worker->backend->handoff_bytes_copied)
        copied += worker->backend->handoff_bytes_copied(worker->backend_session);
    atomic_store(&worker->board->handoff_bytes_copied, copied);
    board_step(worker, OFR_BOARD_STATE_IDLE);
    /* A client that does not take its completions only harms itself. */
    ofr_ring_push(&worker->session.completions, &completion);
}

static void job_loop(struct worker *worker)
{
    uint64_t spin = 0;
    for (;;) {
        take_next(worker);
        if (!worker->session.base)
            continue;
        uint32_t bell = ofr_ring_bell(&worker->session.jobs);
        ofr_session_job job;
        int r = ofr_ring_pop(&worker->session.jobs, &job);
        if (r == 0) {
            answer_job(worker, &job);
            spin = SPIN_NS;
            continue;
        }
        /* After a broken ring nothing of this session is believed: wait for the next one. */
        ofr_ring_wait(&worker->session.jobs, bell, r == OFR_EAGAIN ? spin : 0, UINT64_MAX);
        spin = r == OFR_EAGAIN && ofr_ring_bell(&worker->session.jobs) != bell ? SPIN_NS : 0;
    }
}

static int open_backend(struct worker *worker, ofr_error *err)
{
    const ofr_worker_options *options = &worker->options;
    void *board = NULL;
    int r = ofr_shm_map(options->board_fd, OFR_BOARD_BYTES, &board, err);
    if (r < 0)
        return r;
    worker->board = board;
    worker->board->magic = OFR_BOARD_MAGIC;
    worker->board->abi_version = OFR_SESSION_ABI_VERSION;
    worker->board->worker_pid = (uint32_t)getpid();
    r = ofr_shm_map(options->kv_fd, options->kv_layout.total_bytes, &worker->kv, err);
    if (r == 0)
        r = ofr_package_open(options->package_directory, 0, &worker->package, err);
    if (r == 0)
        r = ofr_model_init(&worker->model, worker->package, err);
    if (r < 0)
        return r;
    size_t chunk = options->layout.chunk_max;
    worker->tokens = calloc(chunk, sizeof(int32_t));
    worker->targets = calloc(chunk, sizeof(int32_t));
    if (!worker->tokens || !worker->targets)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the worker");
    worker->backend = ofr_cpu_backend();
    ofr_backend_options open = {
        .model = &worker->model,
        .layer_end = worker->model.params->n_layers,
        .kv_layout = options->kv_layout,
        .kv_arena = worker->kv,
        .threads = options->threads,
        .max_batch_tokens = options->layout.chunk_max,
        .progress = &worker->board->progress,
    };
    r = worker->backend->open(&open, &worker->backend_session, err);
    if (r == 0)
        r = ofr_canary_golden(worker->backend, worker->backend_session,
                              ofr_package_golden(worker->package), options->layout.vocab_size,
                              options->layout.chunk_max, err);
    return r;
}

_Noreturn void ofr_worker_main(const ofr_worker_options *options)
{
    prctl(PR_SET_NAME, "offering-cpu");
    static struct worker worker; /* lives as long as the process */
    worker.options = *options;
    pthread_mutex_init(&worker.lock, NULL);
    pthread_cond_init(&worker.changed, NULL);
    ofr_error err = {0};
    ofr_backend_capabilities found = {0};
    int r = open_backend(&worker, &err);
    if (r == 0)
        r = worker.backend->probe(&found, &err);
    pthread_t control;
    if (r == 0 && pthread_create(&control, NULL, control_loop, &worker) != 0)
        r = ofr_fail(&err, OFR_ENOMEM, "cannot start a thread");
    if (r < 0) {
        say(&worker, "failed", "text", err.text);
        _exit(1);
    }
    char device[sizeof found.device_name + sizeof found.kernels + 16];
    snprintf(device, sizeof device, "cpu: %s, %s", found.device_name, found.kernels);
    board_step(&worker, OFR_BOARD_STATE_IDLE);
    say(&worker, "ready", "device", device);
    job_loop(&worker);
    _exit(0);
}
