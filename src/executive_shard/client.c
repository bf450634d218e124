/* The executive's client: connecting, submitting jobs, waiting for completions. */
#include "executive_shard/client.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/process.h"
#include "base/shm.h"
#include "executive_shard/control.h"
#include "executive_shard/instance.h"
#include "executive_shard/session_abi.h"
#include "executive_shard/slot_ledger.h"

enum { SPIN_NS = 100000, ATTACH_PAUSE_US = 10000 };
/* A worker that starts reads a whole package and proves itself before it takes work. */
static const uint64_t ATTACH_LIMIT_NS = 120 * UINT64_C(1000000000);

enum watch_state { STATE_UP, STATE_DOWN, STATE_FAILED, STATE_GONE };

struct ofr_client {
    ofr_client_info info;
    ofr_session_header layout;
    int fd;
    void *base;
    ofr_ring jobs, completions;
    ofr_slot_ledger_header ledger_layout;
    ofr_slot_ledger ledger;
    ofr_session_job in_flight;
    int32_t *in_flight_ids; /* [chunk_max], owned: what the job in flight adds to the ledger */
    uint64_t sequence;
    uint32_t in_flight_tokens; /* 0: no job in flight */
    bool watching;
    pthread_t watcher;
    pthread_mutex_t lock; /* guards next_fd, failure and the bell's target */
    pthread_cond_t changed;
    int next_fd, next_ledger_fd; /* of a restarted worker; -1: none */
    char failure[512];
    _Atomic int state; /* enum watch_state */
};

static void wake(struct ofr_client *client, enum watch_state state)
{
    atomic_store(&client->state, (int)state);
    if (client->base)
        ofr_ring_notify(client->completions.header);
    pthread_cond_signal(&client->changed);
}

static void replace_fd(int *fd, int *by)
{
    if (*fd >= 0)
        close(*fd);
    *fd = *by;
    *by = -1;
}

static void take_event(struct ofr_client *client, const json_t *event, int fds[2])
{
    char name[32] = "";
    ofr_control_get_text(event, "event", name, sizeof name, NULL);
    pthread_mutex_lock(&client->lock);
    ofr_control_get_text(event, "text", client->failure, sizeof client->failure, NULL);
    if (strcmp(name, "worker_down") == 0) {
        wake(client, STATE_DOWN);
    } else if (strcmp(name, "worker_failed") == 0) {
        wake(client, STATE_FAILED);
    } else if (strcmp(name, "worker_up") == 0 && fds[0] >= 0 && fds[1] >= 0) {
        replace_fd(&client->next_fd, &fds[0]);
        replace_fd(&client->next_ledger_fd, &fds[1]);
        wake(client, STATE_DOWN); /* up once this thread's owner has mapped the new segment */
    }
    pthread_mutex_unlock(&client->lock);
}

static void *watch(void *argument)
{
    struct ofr_client *client = argument;
    char *data = malloc(OFR_CONTROL_MESSAGE_MAX);
    for (;;) {
        size_t size = 0;
        size_t count = 0;
        int descriptors[OFR_CONTROL_DESCRIPTORS_MAX];
        json_t *event = NULL;
        if (!data ||
            ofr_control_receive(client->fd, data, true, &size, descriptors, &count, NULL) < 0)
            break;
        int fds[2] = {count > 0 ? descriptors[0] : -1, count > 1 ? descriptors[1] : -1};
        while (count > 2)
            close(descriptors[--count]);
        if (ofr_control_parse(data, size, &event, NULL) == 0)
            take_event(client, event, fds);
        json_decref(event);
        for (int i = 0; i < 2; i++)
            if (fds[i] >= 0)
                close(fds[i]);
    }
    free(data);
    pthread_mutex_lock(&client->lock);
    wake(client, STATE_GONE);
    pthread_mutex_unlock(&client->lock);
    return NULL;
}

static int map_session(struct ofr_client *client, int fd, int ledger_fd, ofr_error *err)
{
    void *base = NULL;
    ofr_slot_ledger ledger = {0};
    int r = ofr_shm_map(fd, client->layout.total_bytes, &base, err);
    if (r < 0)
        return r;
    ofr_session_header found;
    memcpy(&found, base, sizeof found);
    r = ofr_session_header_check(&client->layout, &found, err);
    if (r == 0)
        r = ofr_slot_ledger_open(&ledger, ledger_fd, &client->ledger_layout, err);
    if (r < 0) {
        ofr_shm_unmap(base, client->layout.total_bytes);
        return r;
    }
    ofr_shm_unmap(client->base, client->layout.total_bytes);
    ofr_slot_ledger_close(&client->ledger);
    client->base = base;
    client->ledger = ledger;
    ofr_session_rings_init(base, &client->layout, &client->jobs, &client->completions);
    return 0;
}

static int start_executive(const ofr_client_options *options, const char *instance, ofr_error *err)
{
    char path[4096];
    int r = 0;
    if (options->executive_path) {
        snprintf(path, sizeof path, "%s", options->executive_path);
    } else {
        r = ofr_process_self_path(path, sizeof path, err);
        char *slash = r == 0 ? strrchr(path, '/') : NULL;
        if (slash)
            snprintf(slash, sizeof path - (size_t)(slash - path), "/executive_shard");
    }
    if (r < 0)
        return r;
    char threads[16];
    char context[16];
    char slots[16];
    snprintf(slots, sizeof slots, "%u", options->slots);
    snprintf(threads, sizeof threads, "%u", options->threads);
    snprintf(context, sizeof context, "%u", options->context);
    const char *argv[24] = {path,         "run",    "--model", options->package_directory,
                            "--instance", instance, NULL};
    size_t n = 6;
    if (options->threads) {
        argv[n++] = "--threads";
        argv[n++] = threads;
    }
    if (options->context) {
        argv[n++] = "--context";
        argv[n++] = context;
    }
    if (options->slots) {
        argv[n++] = "--slots";
        argv[n++] = slots;
    }
    if (options->cache_dir) {
        argv[n++] = "--cache_dir";
        argv[n++] = options->cache_dir;
    }
    argv[n] = NULL;
    if (options->notify)
        options->notify(options->user, "starting an executive for this package");
    ofr_spawn_options spawn = {
        .path = path, .argv = argv, .inherit_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
    pid_t pid = 0;
    int status = 0;
    r = ofr_process_spawn(&spawn, &pid, err);
    if (r < 0)
        return r;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return ofr_fail(err, OFR_EDEVICE, "the executive did not start; its message is above");
    return 0;
}

static int connect_instance(const char *instance, int *ret_fd, pid_t *ret_pid, ofr_error *err)
{
    int directory_fd = -1;
    char path[OFR_RUNTIME_PATH_SIZE];
    int r = ofr_runtime_dir_open(instance, false, &directory_fd, path, err);
    if (r < 0)
        return r;
    r = ofr_control_connect(directory_fd, ret_fd, ret_pid, err);
    close(directory_fd);
    if (r == 0) {
        json_t *hello = json_pack("{s:s, s:i, s:s}", "op", "hello", "version", OFR_CONTROL_VERSION,
                                  "program", "supervisor");
        r = ofr_control_call(*ret_fd, hello, NULL, err);
        json_decref(hello);
        if (r < 0)
            close(*ret_fd);
    }
    return r;
}

static int read_attach(struct ofr_client *client, const json_t *answer, ofr_error *err)
{
    ofr_client_info *info = &client->info;
    int r = ofr_control_get_u32(answer, "n_slots", &info->n_slots, err);
    if (r == 0)
        r = ofr_control_get_u32(answer, "context", &info->context, err);
    if (r == 0)
        r = ofr_control_get_u32(answer, "chunk_max", &info->chunk_max, err);
    if (r == 0)
        r = ofr_control_get_u32(answer, "vocab_size", &info->vocab_size, err);
    if (r == 0)
        r = ofr_control_get_text(answer, "device", info->device, sizeof info->device, err);
    if (r == 0)
        r = ofr_control_get_text(answer, "plan", info->plan, sizeof info->plan, err);
    if (r == 0)
        r = ofr_control_get_text(answer, "fingerprint", info->package_fingerprint,
                                 sizeof info->package_fingerprint, err);
    info->chunk_preferred = info->chunk_max;
    if (r == 0)
        r = ofr_session_layout_init(&client->layout, info->n_slots, info->vocab_size,
                                    info->chunk_max, info->context, err);
    if (r == 0)
        r = ofr_slot_ledger_layout(info->n_slots, info->context, info->vocab_size,
                                   &client->ledger_layout, err);
    if (r == 0 && !client->in_flight_ids) {
        client->in_flight_ids = calloc(info->chunk_max, sizeof *client->in_flight_ids);
        if (!client->in_flight_ids)
            r = ofr_fail(err, OFR_ENOMEM, "no memory for the connection");
    }
    return r;
}

static int attach_once(struct ofr_client *client, ofr_error *err)
{
    json_t *request = json_pack("{s:s}", "op", "attach");
    json_t *answer = NULL;
    char *data = malloc(OFR_CONTROL_MESSAGE_MAX);
    size_t size = 0;
    size_t count = 0;
    int descriptors[OFR_CONTROL_DESCRIPTORS_MAX];
    int r = data ? ofr_control_send(client->fd, request, NULL, 0, true, err)
                 : ofr_fail(err, OFR_ENOMEM, "no memory for a control message");
    if (r == 0)
        r = ofr_control_receive(client->fd, data, true, &size, descriptors, &count, err);
    if (r == 0)
        r = ofr_control_parse(data, size, &answer, err);
    if (r == 0)
        r = ofr_control_answer_check(answer, err);
    if (r == 0)
        r = read_attach(client, answer, err);
    if (r == 0)
        r = count == 2 ? map_session(client, descriptors[0], descriptors[1], err)
                       : ofr_fail(err, OFR_EPROTOCOL, "the executive sent no session segment");
    while (count)
        close(descriptors[--count]);
    json_decref(answer);
    json_decref(request);
    free(data);
    return r;
}

static int attach(struct ofr_client *client, ofr_error *err)
{
    /* A client that has just left may not have been noticed yet, nor a worker be back. One that
     * cannot come back is not waited for: the executive then answers that it is quarantined. */
    uint64_t begin = ofr_clock_ns();
    int r = attach_once(client, err);
    while (r == OFR_EAGAIN && ofr_clock_ns() - begin < ATTACH_LIMIT_NS) {
        usleep(ATTACH_PAUSE_US);
        r = attach_once(client, err);
    }
    return r;
}

int ofr_client_connect(const ofr_client_options *options, ofr_client **ret_client, ofr_error *err)
{
    struct ofr_client *client = calloc(1, sizeof *client);
    if (!client)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the connection");
    client->fd = client->next_fd = client->next_ledger_fd = -1;
    pthread_mutex_init(&client->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&client->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    ofr_client_info *info = &client->info;
    int r =
        ofr_instance_resolve(options->package_directory, options->instance, info->instance, err);
    if (r == 0)
        r = connect_instance(info->instance, &client->fd, &info->executive_pid, err);
    if (r == OFR_ENOENT && options->start) {
        r = start_executive(options, info->instance, err);
        info->started = r == 0;
        if (r == 0)
            r = connect_instance(info->instance, &client->fd, &info->executive_pid, err);
    }
    if (r == 0)
        r = attach(client, err);
    if (r == 0 && pthread_create(&client->watcher, NULL, watch, client) != 0)
        r = ofr_fail(err, OFR_ENOMEM, "cannot start a thread");
    else if (r == 0)
        client->watching = true;
    if (r < 0)
        ofr_client_close(client);
    else
        *ret_client = client;
    return r;
}

ofr_client *ofr_client_close(ofr_client *client)
{
    if (!client)
        return NULL;
    if (client->fd >= 0)
        shutdown(client->fd, SHUT_RDWR);
    if (client->watching)
        pthread_join(client->watcher, NULL);
    if (client->fd >= 0)
        close(client->fd);
    if (client->next_fd >= 0)
        close(client->next_fd);
    if (client->next_ledger_fd >= 0)
        close(client->next_ledger_fd);
    ofr_shm_unmap(client->base, client->layout.total_bytes);
    ofr_slot_ledger_close(&client->ledger);
    free(client->in_flight_ids);
    pthread_cond_destroy(&client->changed);
    pthread_mutex_destroy(&client->lock);
    free(client);
    return NULL;
}

const ofr_client_info *ofr_client_get_info(const ofr_client *client)
{
    return &client->info;
}

const float *ofr_client_logits(const ofr_client *client, uint32_t row)
{
    return ofr_session_logits(client->base, &client->layout) +
           (size_t)row * client->layout.vocab_size;
}

static int fail_state(struct ofr_client *client, ofr_error *err)
{
    int state = atomic_load(&client->state);
    if (state == STATE_UP)
        return 0;
    client->in_flight_tokens = 0;
    if (state == STATE_GONE)
        return ofr_fail(err, OFR_EGONE, "the executive (pid %d) is gone; run the command again",
                        (int)client->info.executive_pid);
    pthread_mutex_lock(&client->lock);
    int r = ofr_fail(err, state == STATE_FAILED ? OFR_EINTERNAL : OFR_EDEVICE,
                     "the device failed: %s", client->failure);
    pthread_mutex_unlock(&client->lock);
    return r;
}

int ofr_client_submit(ofr_client *client, const ofr_client_job *job, ofr_error *err)
{
    int r = fail_state(client, err);
    if (r < 0)
        return r;
    uint64_t total = 0;
    for (uint32_t i = 0; i < job->n_segments; i++)
        total += job->segments[i].n_tokens;
    if (client->in_flight_tokens || job->n_segments == 0 ||
        job->n_segments > OFR_SESSION_SEGMENTS_MAX || total == 0 ||
        total > client->layout.chunk_max || job->output == OFR_FORWARD_OUTPUT_ALL)
        return ofr_fail(err, OFR_EINVAL, "a job of %u segments and %llu tokens", job->n_segments,
                        (unsigned long long)total);
    ofr_session_job entry = {.sequence = ++client->sequence,
                             .output = (uint32_t)job->output,
                             .n_segments = job->n_segments,
                             .n_tokens = (uint32_t)total};
    for (uint32_t i = 0; i < job->n_segments; i++) {
        entry.segments[i].slot = job->segments[i].slot;
        entry.segments[i].position = job->segments[i].position;
        entry.segments[i].n_tokens = job->segments[i].n_tokens;
    }
    memcpy(ofr_session_tokens(client->base, &client->layout), job->tokens,
           (size_t)total * sizeof(int32_t));
    if (job->output == OFR_FORWARD_OUTPUT_LOGPROBS)
        memcpy(ofr_session_targets(client->base, &client->layout), job->targets,
               (size_t)total * sizeof(int32_t));
    memcpy(client->in_flight_ids, job->tokens, (size_t)total * sizeof(int32_t));
    for (uint32_t i = 0; i < job->n_segments; i++)
        ofr_slot_ledger_cut(&client->ledger, job->segments[i].slot, job->segments[i].position);
    client->in_flight = entry;
    client->in_flight_tokens = (uint32_t)total;
    r = ofr_ring_push(&client->jobs, &entry);
    return r < 0 ? ofr_fail(err, r, "the worker does not take jobs") : 0;
}

static void note_in_ledger(struct ofr_client *client)
{
    const int32_t *ids = client->in_flight_ids;
    for (uint32_t i = 0; i < client->in_flight.n_segments; i++) {
        uint32_t n = client->in_flight.segments[i].n_tokens;
        ofr_slot_ledger_add(&client->ledger, client->in_flight.segments[i].slot,
                            client->in_flight.segments[i].position, ids, n);
        ids += n;
    }
}

const int32_t *ofr_client_slot_tokens(const ofr_client *client, uint32_t slot, uint32_t *ret_n)
{
    return ofr_slot_ledger_tokens(&client->ledger, slot, ret_n);
}

/* The completion of the job in flight. */
static int wait_completion(struct ofr_client *client, ofr_session_completion *ret, ofr_error *err)
{
    for (;;) {
        uint32_t bell = ofr_ring_bell(&client->completions);
        int r = ofr_ring_pop(&client->completions, ret);
        if (r == 0 && ret->sequence == client->sequence)
            break;
        if (r == 0)
            continue;
        if (r != OFR_EAGAIN)
            return ofr_fail(err, r, "the worker broke the completion ring");
        r = fail_state(client, err);
        if (r < 0)
            return r;
        ofr_ring_wait(&client->completions, bell, SPIN_NS, UINT64_MAX);
    }
    client->in_flight_tokens = 0;
    ret->text[sizeof ret->text - 1] = 0;
    return ret->status < 0 ? ofr_fail(err, ret->status, "the worker: %s", ret->text) : 0;
}

int ofr_client_wait(ofr_client *client, ofr_client_result *ret_result, ofr_error *err)
{
    ofr_session_completion completion;
    int r = wait_completion(client, &completion, err);
    if (r < 0)
        return r;
    note_in_ledger(client);
    ret_result->worker_ns = completion.worker_ns;
    ret_result->logprobs = client->in_flight.output == OFR_FORWARD_OUTPUT_LOGPROBS
                               ? ofr_session_logprobs(client->base, &client->layout)
                               : NULL;
    return 0;
}

int ofr_client_copy(ofr_client *client, uint32_t from, uint32_t to, uint32_t n, ofr_error *err)
{
    int r = fail_state(client, err);
    if (r < 0)
        return r;
    if (client->in_flight_tokens || from >= client->layout.n_slots ||
        to >= client->layout.n_slots || from == to || n == 0 || n > client->layout.context)
        return ofr_fail(err, OFR_EINVAL, "a copy of %u rows from slot %u to slot %u", n, from, to);
    ofr_session_job entry = {
        .sequence = ++client->sequence, .kind = OFR_SESSION_JOB_COPY, .n_segments = 2};
    entry.segments[0].slot = to;
    entry.segments[1].slot = from;
    entry.segments[0].n_tokens = entry.segments[1].n_tokens = n;
    ofr_slot_ledger_cut(&client->ledger, to, 0);
    ofr_session_completion completion;
    r = ofr_ring_push(&client->jobs, &entry);
    if (r < 0)
        return ofr_fail(err, r, "the worker does not take jobs");
    r = wait_completion(client, &completion, err);
    uint32_t held = 0;
    if (r == 0) {
        const int32_t *tokens = ofr_slot_ledger_tokens(&client->ledger, from, &held);
        ofr_slot_ledger_add(&client->ledger, to, 0, tokens, held < n ? held : n);
    }
    return r;
}

int ofr_client_run(ofr_client *client, const ofr_client_job *job, ofr_client_result *ret_result,
                   ofr_error *err)
{
    int r = ofr_client_submit(client, job, err);
    return r < 0 ? r : ofr_client_wait(client, ret_result, err);
}

int ofr_client_wait_ready(ofr_client *client, uint32_t timeout_ms, ofr_error *err)
{
    uint64_t until_ns = ofr_clock_ns() + (uint64_t)timeout_ms * 1000000;
    struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    int r = 0;
    pthread_mutex_lock(&client->lock);
    while (atomic_load(&client->state) == STATE_DOWN && client->next_fd < 0 && r == 0)
        r = pthread_cond_timedwait(&client->changed, &client->lock, &until);
    int fd = client->next_fd;
    client->next_fd = -1;
    if (fd >= 0) {
        r = map_session(client, fd, client->next_ledger_fd, err);
        close(fd);
        close(client->next_ledger_fd);
        client->next_ledger_fd = -1;
        if (r == 0)
            atomic_store(&client->state, STATE_UP);
    } else if (atomic_load(&client->state) == STATE_DOWN) {
        r = ofr_fail(err, OFR_ETIMEDOUT, "the worker did not come back within %u ms", timeout_ms);
    }
    pthread_mutex_unlock(&client->lock);
    return r != 0 ? r : fail_state(client, err);
}

int ofr_client_status(ofr_client *client, char **ret_json, ofr_error *err)
{
    return ofr_client_instance_status(client->info.instance, ret_json, err);
}

int ofr_client_instance_status(const char *instance, char **ret_json, ofr_error *err)
{
    int fd = -1;
    pid_t pid = 0;
    int r = connect_instance(instance, &fd, &pid, err);
    if (r < 0)
        return r;
    json_t *request = json_pack("{s:s}", "op", "status");
    json_t *answer = NULL;
    r = ofr_control_call(fd, request, &answer, err);
    json_decref(request);
    close(fd);
    if (r < 0)
        return r;
    *ret_json = json_dumps(answer, JSON_COMPACT);
    json_decref(answer);
    return *ret_json ? 0 : ofr_fail(err, OFR_ENOMEM, "no memory for the status");
}
