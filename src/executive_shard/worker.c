/* The worker process: takes jobs from the ring, runs the backend, posts completions. */
#include "executive_shard/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/shm.h"
#include "executive_shard/canary.h"
#include "executive_shard/control.h"
#include "executive_shard/worker_layers.h"

/* A wake-up by futex costs tens of microseconds; the next token of a conversation comes sooner. */
enum { SPIN_NS = 200000, COMMANDS_MAX = 16 };

enum command_kind { COMMAND_OPEN, COMMAND_TEST, COMMAND_SESSION, COMMAND_SESSION_END };

struct command {
    enum command_kind kind;
    int fd;                    /* SESSION: the segment; else -1 */
    uint32_t index, n_workers; /* SESSION */
    uint32_t n_ranges;         /* OPEN */
    uint32_t ranges[OFR_WORKER_RANGES_MAX][2];
};

struct session {
    void *base; /* NULL: no client */
    ofr_session_header layout;
    ofr_ring jobs, completions;
    ofr_ring_header *bell; /* what the client sleeps on */
};

struct worker {
    ofr_worker_options options;
    ofr_board *board;
    ofr_worker_layers layers;
    void *kv;
    char *hidden; /* the hidden segment */
    uint64_t hidden_strip_bytes;
    int32_t *tokens, *targets; /* [chunk_max]: private copies, the client may change its own */
    ofr_candidate *candidates; /* [OFR_SESSION_SEGMENTS_MAX, OFR_CANDIDATES_MAX]: the device's */
    uint64_t copied_bytes;     /* between strips, by jobs of kind COPY */
    struct session session;    /* of the job loop */
    pthread_mutex_t lock;      /* the only one: guards what follows */
    pthread_cond_t changed;
    struct command commands[COMMANDS_MAX]; /* oldest first */
    uint32_t n_commands;
    ofr_ring_header *bell_of; /* job ring that the job loop sleeps on */
};

static void say(const struct worker *worker, const char *event, const char *key, const char *text)
{
    json_t *object = json_pack("{s:s}", "event", event);
    if (object && key)
        json_object_set_new(object, key, json_stringn(text, strlen(text)));
    ofr_control_send(worker->options.control_fd, object, NULL, 0, true, NULL);
    json_decref(object);
}

_Noreturn static void give_up(const struct worker *worker, const ofr_error *err)
{
    say(worker, "failed", "text", err->text);
    _exit(OFR_WORKER_EXIT_FAILED);
}

/* False: no message of the executive's. */
static bool parse_command(const char *data, size_t size, struct command *ret)
{
    json_t *object = NULL;
    char name[16] = "";
    if (ofr_control_parse(data, size, &object, NULL) < 0)
        return false;
    ofr_control_get_text(object, "op", name, sizeof name, NULL);
    bool ok = true;
    if (strcmp(name, "open") == 0) {
        const json_t *ranges = json_object_get(object, "ranges");
        ret->kind = COMMAND_OPEN;
        ret->n_ranges = (uint32_t)json_array_size(ranges);
        ok = ret->n_ranges <= OFR_WORKER_RANGES_MAX;
        for (uint32_t i = 0; ok && i < ret->n_ranges; i++)
            for (uint32_t k = 0; k < 2; k++)
                ret->ranges[i][k] =
                    (uint32_t)json_integer_value(json_array_get(json_array_get(ranges, i), k));
    } else if (strcmp(name, "test") == 0) {
        ret->kind = COMMAND_TEST;
    } else if (strcmp(name, "session") == 0) {
        ret->kind = COMMAND_SESSION;
        ok = ofr_control_get_u32(object, "index", &ret->index, NULL) == 0 &&
             ofr_control_get_u32(object, "n_workers", &ret->n_workers, NULL) == 0 &&
             ret->index < ret->n_workers;
    } else {
        ok = strcmp(name, "session_end") == 0;
        ret->kind = COMMAND_SESSION_END;
    }
    json_decref(object);
    return ok;
}

static void *control_loop(void *argument)
{
    struct worker *worker = argument;
    char *data = malloc(OFR_CONTROL_MESSAGE_MAX);
    for (;;) {
        size_t size = 0;
        size_t count = 0;
        int descriptors[OFR_CONTROL_DESCRIPTORS_MAX];
        struct command command = {.fd = -1};
        /* The executive is gone, or this worker cannot be told anything any more. */
        if (!data ||
            ofr_control_receive(worker->options.control_fd, data, true, &size, descriptors, &count,
                                NULL) < 0 ||
            !parse_command(data, size, &command))
            _exit(0);
        if (count)
            command.fd = descriptors[0];
        while (count > 1)
            close(descriptors[--count]);
        pthread_mutex_lock(&worker->lock);
        if (worker->n_commands == COMMANDS_MAX)
            _exit(0);
        worker->commands[worker->n_commands++] = command;
        if (worker->bell_of)
            ofr_ring_notify(worker->bell_of);
        pthread_cond_signal(&worker->changed);
        pthread_mutex_unlock(&worker->lock);
    }
    return NULL;
}

/* The oldest command; without a session it is waited for. False: there is none. */
static bool take_command(struct worker *worker, struct command *ret)
{
    pthread_mutex_lock(&worker->lock);
    while (worker->n_commands == 0 && !worker->session.base)
        pthread_cond_wait(&worker->changed, &worker->lock);
    bool have = worker->n_commands > 0;
    if (have) {
        *ret = worker->commands[0];
        memmove(worker->commands, worker->commands + 1,
                --worker->n_commands * sizeof *worker->commands);
    }
    pthread_mutex_unlock(&worker->lock);
    return have;
}

static void end_session(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->bell_of = NULL;
    pthread_mutex_unlock(&worker->lock);
    ofr_shm_unmap(worker->session.base, worker->session.layout.total_bytes);
    worker->session = (struct session){0};
}

/* A segment that is not what it should be is no session: its client will notice. */
static void begin_session(struct worker *worker, const struct command *command)
{
    const ofr_session_header *o = &worker->options.layout;
    ofr_session_header layout;
    ofr_session_header found;
    void *base = NULL;
    end_session(worker);
    if (ofr_session_layout_init(&layout, command->n_workers, o->n_slots, o->vocab_size,
                                o->chunk_max, o->context, NULL) < 0 ||
        ofr_shm_map(command->fd, layout.total_bytes, &base, NULL) < 0)
        return;
    memcpy(&found, base, sizeof found);
    if (ofr_session_header_check(&layout, &found, NULL) < 0) {
        ofr_shm_unmap(base, layout.total_bytes);
        return;
    }
    struct session *session = &worker->session;
    session->base = base;
    session->layout = layout;
    session->bell = ofr_session_bell(base, &layout);
    ofr_session_rings_init(base, &layout, command->index, &session->jobs, &session->completions);
    pthread_mutex_lock(&worker->lock);
    worker->bell_of = session->jobs.header;
    pthread_mutex_unlock(&worker->lock);
}

static bool is_offered(const struct worker *worker, const ofr_session_job *job)
{
    switch (job->output) {
    case OFR_FORWARD_OUTPUT_NONE:
    case OFR_FORWARD_OUTPUT_LAST:
    case OFR_FORWARD_OUTPUT_LOGPROBS:
        return true;
    case OFR_FORWARD_OUTPUT_HIDDEN_SUM: /* one segment, whose row of the logits holds the sums */
        return job->n_segments == 1 && worker->options.d_model <= worker->options.layout.vocab_size;
    case OFR_FORWARD_OUTPUT_CANDIDATES:
        return job->n_candidates > 0 && job->n_candidates <= OFR_CANDIDATES_MAX;
    default:
        return false;
    }
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

/* The job is a private copy. Sums and places are checked here; the backend checks slots and
 * positions. */
static int check_job(const struct worker *worker, const ofr_session_job *job, ofr_error *err)
{
    uint64_t total = 0;
    uint32_t n_slots = worker->options.layout.n_slots;
    if (job->kind != OFR_SESSION_JOB_FORWARD)
        return ofr_fail(err, OFR_EPROTOCOL, "a job of kind %u", job->kind);
    if (job->n_segments == 0 || job->n_segments > OFR_SESSION_SEGMENTS_MAX ||
        job->n_segments > n_slots || job->first_row > n_slots - job->n_segments)
        return ofr_fail(err, OFR_EPROTOCOL, "a job of %u segments", job->n_segments);
    if (job->buffer >= OFR_SESSION_BUFFERS || job->hidden_in > 1 || job->hidden_out > 1)
        return ofr_fail(err, OFR_EPROTOCOL, "a job in buffer %u", job->buffer);
    for (uint32_t i = 0; i < job->n_segments; i++)
        total += job->segments[i].n_tokens;
    if (total != job->n_tokens || total > worker->options.layout.chunk_max)
        return ofr_fail(err, OFR_EPROTOCOL, "a job of %u tokens", job->n_tokens);
    if (!is_offered(worker, job))
        return ofr_fail(err, OFR_EPROTOCOL, "a job with output %u and %u candidates", job->output,
                        job->n_candidates);
    return 0;
}

/* Numbers that are none mean that the device or the strips are broken: this process is not to be
 * trusted with another job. The client gets the answer from the next one. */
static void check_numbers(const struct worker *worker, const ofr_session_job *job,
                          const ofr_forward *forward, bool last)
{
    const float *values = NULL;
    const char *what = "logits";
    size_t n = 0;
    bool finite = true;
    if (!last) {
        values = forward->hidden_out;
        n = (size_t)job->n_tokens * worker->options.d_model;
        what = "hidden states";
    } else if (forward->output == OFR_FORWARD_OUTPUT_LAST) {
        values = forward->logits;
        n = (size_t)job->n_segments * worker->options.layout.vocab_size;
    } else if (forward->output == OFR_FORWARD_OUTPUT_LOGPROBS) {
        values = forward->logprobs;
        n = job->n_tokens;
    } else if (forward->output == OFR_FORWARD_OUTPUT_CANDIDATES) {
        finite = *forward->ret_finite; /* also of the logits that stayed on the device */
    }
    if (!finite || (values && !ofr_canary_finite(values, n))) {
        char reason[96];
        snprintf(reason, sizeof reason, "its %s are not numbers (NaN or infinity)", what);
        say(worker, "fault", "reason", reason);
        _exit(OFR_WORKER_EXIT_FAULT);
    }
}

static float *hidden_strip(const struct worker *worker, uint32_t buffer, uint32_t which)
{
    return (float *)(void *)(worker->hidden + (2 * buffer + which) * worker->hidden_strip_bytes);
}

/* A device that refuses a job that is in order will refuse the next one too: no graph, no memory,
 * device lost. The CPU has nothing behind it, so there the client is told. */
static bool is_the_devices_fault(const struct worker *worker, int code)
{
    return code < 0 && code != OFR_EINVAL && code != OFR_EPROTOCOL &&
           strcmp(worker->options.device, "cpu") != 0;
}

/* Rows of logits, or of candidates only, that came from the device. */
static void count_rows(const struct worker *worker, const ofr_forward *forward)
{
    if (forward->output == OFR_FORWARD_OUTPUT_LAST)
        atomic_fetch_add(&worker->board->logit_rows, forward->n_segments);
    else if (forward->output == OFR_FORWARD_OUTPUT_CANDIDATES)
        atomic_fetch_add(&worker->board->candidate_rows, forward->n_segments);
}

/* Puts the candidates in the job's rows, which are longer than what the device gave; where it gave
 * logits, they are chosen here. */
static void give_candidates(const struct worker *worker, const ofr_session_job *job,
                            const ofr_forward *forward)
{
    const ofr_session_header *layout = &worker->session.layout;
    uint32_t n = job->n_candidates, vocab = layout->vocab_size;
    ofr_candidate *rows = ofr_session_candidates(worker->session.base, layout) +
                          (size_t)job->first_row * OFR_CANDIDATES_MAX;
    for (uint32_t i = 0; i < job->n_segments; i++) {
        ofr_candidate own[OFR_CANDIDATES_MAX];
        const ofr_candidate *from = forward->candidates + (size_t)i * n;
        if (forward->output == OFR_FORWARD_OUTPUT_LAST) {
            ofr_candidates_select(forward->logits + (size_t)i * vocab, (int32_t)vocab, n, own);
            from = own;
        }
        memcpy(rows + (size_t)i * OFR_CANDIDATES_MAX, from, n * sizeof *from);
    }
}

static int run_job(struct worker *worker, const ofr_session_job *job, ofr_error *err)
{
    if (job->kind == OFR_SESSION_JOB_COPY)
        return run_copy(worker, job, err);
    int r = check_job(worker, job, err);
    if (r < 0)
        return r;
    uint32_t n_layers = worker->layers.model.params->n_layers;
    uint32_t end = job->layer_end ? job->layer_end : n_layers;
    ofr_backend_session *layers = ofr_worker_layers_find(&worker->layers, job->layer_begin, end);
    if (!layers)
        return ofr_fail(err, OFR_EPROTOCOL, "a job for layers %u-%u, which are not open",
                        job->layer_begin, end);
    const ofr_session_header *layout = &worker->session.layout;
    void *base = worker->session.base;
    size_t bytes = job->n_tokens * sizeof(int32_t);
    memcpy(worker->tokens, ofr_session_tokens(base, layout, job->buffer), bytes);
    memcpy(worker->targets, ofr_session_targets(base, layout, job->buffer), bytes);
    ofr_segment segments[OFR_SESSION_SEGMENTS_MAX];
    for (uint32_t i = 0; i < job->n_segments; i++)
        segments[i] = (ofr_segment){job->segments[i].slot, job->segments[i].position,
                                    job->segments[i].n_tokens};
    bool last = end == n_layers, finite = true;
    bool wants_candidates = last && job->output == OFR_FORWARD_OUTPUT_CANDIDATES;
    ofr_forward forward = {
        .segments = segments,
        .n_segments = job->n_segments,
        .tokens = worker->tokens,
        .hidden_in = hidden_strip(worker, job->buffer, job->hidden_in),
        .hidden_out = hidden_strip(worker, job->buffer, job->hidden_out),
        .hidden_rows = ofr_hidden_rows(layout->chunk_max),
        .output = wants_candidates && !worker->layers.chooses_candidates
                      ? OFR_FORWARD_OUTPUT_LAST
                      : (enum ofr_forward_output)job->output,
        .logits = ofr_session_logits(base, layout) + (size_t)job->first_row * layout->vocab_size,
        .targets = worker->targets,
        .logprobs = ofr_session_logprobs(base, layout, job->buffer),
        .n_candidates = job->n_candidates,
        .candidates = worker->candidates,
        .ret_finite = &finite,
    };
    r = worker->layers.backend->forward(layers, &forward, err);
    if (r < 0) {
        if (is_the_devices_fault(worker, r))
            give_up(worker, err);
        return r;
    }
    check_numbers(worker, job, &forward, last);
    if (last)
        count_rows(worker, &forward);
    if (wants_candidates)
        give_candidates(worker, job, &forward);
    return 0;
}

static void board_step(const struct worker *worker, uint32_t state)
{
    atomic_store(&worker->board->state, state);
    atomic_store(&worker->board->heartbeat_ns, ofr_clock_ns());
    atomic_fetch_add(&worker->board->progress, 1);
}

/* Tokens count where they leave the last layer. */
static void count_job(const struct worker *worker, const ofr_session_job *job)
{
    ofr_board *board = worker->board;
    atomic_fetch_add(&board->jobs, 1);
    if (job->kind != OFR_SESSION_JOB_FORWARD)
        return;
    if (job->layer_end && job->layer_end != worker->layers.model.params->n_layers)
        return;
    uint32_t decoded = 0;
    for (uint32_t i = 0; i < job->n_segments; i++)
        decoded += job->segments[i].n_tokens == 1;
    atomic_fetch_add(&board->tokens, job->n_tokens);
    atomic_fetch_add(&board->decode_tokens, decoded);
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
        count_job(worker, job);
    }
    ofr_board *board = worker->board;
    atomic_fetch_add(&board->busy_ns, completion.worker_ns);
    atomic_store(&board->handoff_bytes_copied,
                 worker->copied_bytes + ofr_worker_layers_copied(&worker->layers));
    atomic_store(&board->graph_kv_bytes, ofr_worker_layers_graph_kv(&worker->layers));
    board_step(worker, OFR_BOARD_STATE_IDLE);
    /* A client that does not take its completions only harms itself. */
    ofr_ring_push(&worker->session.completions, &completion);
    if (worker->session.bell != worker->session.completions.header)
        ofr_ring_notify(worker->session.bell);
}

static void open_ranges(struct worker *worker, const struct command *command)
{
    ofr_error err = {0};
    int r = 0;
    for (uint32_t i = 0; i < command->n_ranges && r == 0; i++) {
        r = ofr_worker_layers_add(&worker->layers, command->ranges[i][0], command->ranges[i][1],
                                  &err);
        atomic_fetch_add(&worker->board->progress, 1);
    }
    if (r < 0)
        give_up(worker, &err);
    say(worker, "opened", NULL, NULL);
}

static void test_ranges(struct worker *worker)
{
    ofr_error err = {0};
    if (ofr_worker_layers_test(&worker->layers, hidden_strip(worker, 0, 0),
                               ofr_hidden_rows(worker->options.layout.chunk_max), &err) < 0)
        give_up(worker, &err);
    ofr_backend_capabilities found;
    ofr_worker_layers_describe(&worker->layers, &found);
    uint32_t chunk_max = worker->options.layout.chunk_max;
    uint32_t chunk = found.chunk_preferred && found.chunk_preferred < chunk_max
                         ? found.chunk_preferred
                         : chunk_max;
    char device[sizeof found.device_name + sizeof found.kernels + 64];
    snprintf(device, sizeof device, "%s: %s, %s", worker->options.device, found.device_name,
             found.kernels);
    board_step(worker, OFR_BOARD_STATE_IDLE);
    json_t *event =
        json_pack("{s:s, s:s, s:i}", "event", "ready", "device", device, "chunk", (int)chunk);
    ofr_control_send(worker->options.control_fd, event, NULL, 0, true, NULL);
    json_decref(event);
}

static void obey(struct worker *worker, const struct command *command)
{
    switch (command->kind) {
    case COMMAND_OPEN:
        open_ranges(worker, command);
        break;
    case COMMAND_TEST:
        test_ranges(worker);
        break;
    case COMMAND_SESSION:
        begin_session(worker, command);
        break;
    case COMMAND_SESSION_END:
        end_session(worker);
        say(worker, "quiet", NULL, NULL);
        break;
    }
    if (command->fd >= 0)
        close(command->fd);
}

static void job_loop(struct worker *worker)
{
    uint64_t spin = 0;
    for (;;) {
        uint32_t bell = worker->session.base ? ofr_ring_bell(&worker->session.jobs) : 0;
        struct command command;
        if (take_command(worker, &command)) {
            obey(worker, &command);
            continue;
        }
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

/* What compilers take is private memory; mappings of files and of shared memory do not count. */
static void limit_memory(uint64_t bytes)
{
    unsigned long data = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return;
    if (fscanf(file, "%*u %*u %*u %*u %*u %lu", &data) == 1) {
        uint64_t most = (uint64_t)data * (uint64_t)sysconf(_SC_PAGESIZE) + bytes;
        struct rlimit limit = {most, most};
        setrlimit(RLIMIT_DATA, &limit);
    }
    fclose(file);
}

static int prepare(struct worker *worker, ofr_error *err)
{
    const ofr_worker_options *options = &worker->options;
    uint32_t chunk_max = options->layout.chunk_max;
    void *board = NULL, *hidden = NULL;
    int r = ofr_shm_map(options->board_fd, OFR_BOARD_BYTES, &board, err);
    if (r < 0)
        return r;
    worker->board = board;
    worker->board->magic = OFR_BOARD_MAGIC;
    worker->board->abi_version = OFR_SESSION_ABI_VERSION;
    worker->board->worker_pid = (uint32_t)getpid();
    r = ofr_shm_map(options->kv_fd, options->kv_layout.total_bytes, &worker->kv, err);
    if (r == 0)
        r = ofr_shm_map(options->hidden_fd, ofr_hidden_total_bytes(chunk_max, options->d_model),
                        &hidden, err);
    if (r < 0)
        return r;
    worker->hidden = hidden;
    worker->hidden_strip_bytes = ofr_hidden_strip_bytes(chunk_max, options->d_model);
    worker->tokens = calloc(chunk_max, sizeof(int32_t));
    worker->targets = calloc(chunk_max, sizeof(int32_t));
    worker->candidates =
        calloc((size_t)OFR_SESSION_SEGMENTS_MAX * OFR_CANDIDATES_MAX, sizeof(ofr_candidate));
    if (!worker->tokens || !worker->targets || !worker->candidates)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the worker");
    if (options->memory_bytes)
        limit_memory(options->memory_bytes);
    ofr_backend_options backend = {
        .kv_layout = options->kv_layout,
        .kv_arena = worker->kv,
        .threads = options->threads,
        .max_batch_tokens = chunk_max,
        .progress = &worker->board->progress,
        .preparing = &worker->board->preparing,
    };
    return ofr_worker_layers_open(&worker->layers, options->package_directory, options->device,
                                  &backend, err);
}

_Noreturn void ofr_worker_main(const ofr_worker_options *options)
{
    char name[16];
    snprintf(name, sizeof name, "offering-%.6s", options->device);
    prctl(PR_SET_NAME, name);
    static struct worker worker; /* lives as long as the process */
    worker.options = *options;
    pthread_mutex_init(&worker.lock, NULL);
    pthread_cond_init(&worker.changed, NULL);
    ofr_error err = {0};
    int r = prepare(&worker, &err);
    pthread_t control;
    if (r == 0 && pthread_create(&control, NULL, control_loop, &worker) != 0)
        r = ofr_fail(&err, OFR_ENOMEM, "cannot start a thread");
    if (r < 0)
        give_up(&worker, &err);
    job_loop(&worker);
    _exit(0);
}
