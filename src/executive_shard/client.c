/* The executive's client: finding or starting an executive, attaching, events, lost workers. */
#include "executive_shard/client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/process.h"
#include "base/shm.h"
#include "executive_shard/client_internal.h"
#include "executive_shard/control.h"
#include "executive_shard/instance.h"

static void wake(ofr_client *client, enum ofr_client_state state)
{
    atomic_store(&client->state, (int)state);
    if (client->base)
        ofr_ring_notify(client->completions[0].header);
    pthread_cond_signal(&client->changed);
}

static void replace_fd(int *fd, int *by)
{
    if (*fd >= 0)
        close(*fd);
    *fd = *by;
    *by = -1;
}

/* "device openvino:NPU is refused: ..."; the condition of a device is a whole sentence already.
 * False: the event is neither. */
static bool format_notice(const json_t *event, char *ret_line, size_t size)
{
    char name[32] = "";
    char device[OFR_PLAN_NAME_MAX] = "";
    char text[480] = "";
    ofr_control_get_text(event, "event", name, sizeof name, NULL);
    ofr_control_get_text(event, "device", device, sizeof device, NULL);
    ofr_control_get_text(event, "text", text, sizeof text, NULL);
    if (strcmp(name, "condition") == 0)
        snprintf(ret_line, size, "%s", text);
    else
        snprintf(ret_line, size, "device %s is refused: %s", device, text);
    return strcmp(name, "condition") == 0 || strcmp(name, "notice") == 0;
}

static void keep_notice(ofr_client *client, const char *line)
{
    size_t used = strlen(client->notices);
    snprintf(client->notices + used, sizeof client->notices - used, "%s%s", used ? "\n" : "", line);
}

static void take_event(ofr_client *client, json_t *event, int fds[2])
{
    char name[32] = "";
    char line[640];
    ofr_control_get_text(event, "event", name, sizeof name, NULL);
    pthread_mutex_lock(&client->lock);
    if (format_notice(event, line, sizeof line)) {
        keep_notice(client, line);
        client->conditions_changed |= strcmp(name, "condition") == 0;
        client->plan_changed |= strcmp(name, "notice") == 0;
        pthread_mutex_unlock(&client->lock);
        if (client->tell_changed && strcmp(name, "condition") == 0)
            client->tell_changed(client->user);
        return;
    }
    ofr_control_get_text(event, "text", client->failure, sizeof client->failure, NULL);
    if (strcmp(name, "worker_down") == 0) {
        wake(client, OFR_CLIENT_STATE_DOWN);
    } else if (strcmp(name, "worker_failed") == 0) {
        wake(client, OFR_CLIENT_STATE_FAILED);
    } else if (strcmp(name, "worker_up") == 0 && fds[0] >= 0 && fds[1] >= 0) {
        replace_fd(&client->next_fd, &fds[0]);
        replace_fd(&client->next_ledger_fd, &fds[1]);
        json_decref(client->next);
        client->next = json_incref(event);
        wake(client, OFR_CLIENT_STATE_DOWN); /* up once the owner has mapped the new segment */
    }
    pthread_mutex_unlock(&client->lock);
}

static void *watch(void *argument)
{
    ofr_client *client = argument;
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
    wake(client, OFR_CLIENT_STATE_GONE);
    pthread_mutex_unlock(&client->lock);
    return NULL;
}

/* Maps the segments that `session` tells of, in place of those before. */
static int map_session(ofr_client *client, int fd, int ledger_fd, ofr_error *err)
{
    const ofr_client_info *info = &client->info;
    ofr_session_header layout;
    ofr_slot_ledger ledger = {0};
    void *base = NULL;
    int r = ofr_session_layout_init(&layout, client->table.n_workers, info->n_slots,
                                    info->vocab_size, info->chunk_max, info->context, err);
    if (r == 0)
        r = ofr_shm_map(fd, layout.total_bytes, &base, err);
    if (r < 0)
        return r;
    ofr_session_header found;
    memcpy(&found, base, sizeof found);
    r = ofr_session_header_check(&layout, &found, err);
    if (r == 0)
        r = ofr_slot_ledger_open(&ledger, ledger_fd, &client->ledger_layout, err);
    if (r < 0) {
        ofr_shm_unmap(base, layout.total_bytes);
        return r;
    }
    ofr_shm_unmap(client->base, client->layout.total_bytes);
    ofr_slot_ledger_close(&client->ledger);
    client->base = base;
    client->layout = layout;
    client->ledger = ledger;
    for (uint32_t i = 0; i < layout.n_workers; i++)
        ofr_session_rings_init(base, &layout, i, &client->jobs[i], &client->completions[i]);
    for (uint32_t i = 0; i < OFR_CLIENT_JOBS_MAX; i++)
        client->flights[i].used = false;
    client->logits_row = 0;
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
    const char *argv[26] = {path,         "run",    "--model", options->package_directory,
                            "--instance", instance, NULL};
    size_t n = 6;
    if (options->plan) {
        argv[n++] = "--first_plan";
        argv[n++] = options->plan;
    }
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

static int greet_instance(const char *instance, int *ret_fd, pid_t *ret_pid, ofr_error *err)
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

/* An executive that is about to end still has its socket, but no answer: OFR_ENOENT then, when the
 * socket is gone. */
static int connect_instance(const char *instance, int *ret_fd, pid_t *ret_pid, ofr_error *err)
{
    enum { TRIES = 100, PAUSE_MS = 20 };
    int r = OFR_EGONE;
    for (int i = 0; i < TRIES && r == OFR_EGONE; i++) {
        if (i > 0)
            poll(NULL, 0, PAUSE_MS);
        r = greet_instance(instance, ret_fd, ret_pid, err);
    }
    return r;
}

/* Plan, devices and workers: what may differ from one session to the next. */
static int read_session(ofr_client *client, const json_t *session, ofr_error *err)
{
    ofr_client_info *info = &client->info;
    ofr_client_table table;
    int r = ofr_client_table_read(&table, session, info->chunk_max, err);
    if (r == 0)
        r = ofr_control_get_text(session, "device", info->device, sizeof info->device, err);
    if (r == 0)
        r = ofr_control_get_text(session, "plan", info->plan, sizeof info->plan, err);
    if (r < 0)
        return r;
    client->table = table;
    info->n_workers = table.n_workers;
    info->chunk_preferred = ofr_client_chunk(client, info->context);
    return 0;
}

static int read_attach(ofr_client *client, const json_t *answer, ofr_error *err)
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
        r = ofr_control_get_text(answer, "fingerprint", info->package_fingerprint,
                                 sizeof info->package_fingerprint, err);
    if (r == 0)
        r = read_session(client, answer, err);
    if (r == 0)
        r = ofr_slot_ledger_layout(info->n_slots, info->context, info->vocab_size,
                                   &client->ledger_layout, err);
    for (uint32_t i = 0; i < OFR_CLIENT_JOBS_MAX && r == 0; i++) {
        ofr_client_flight *flight = &client->flights[i];
        if (!flight->ids)
            flight->ids = calloc(info->chunk_max, sizeof *flight->ids);
        if (!flight->ids)
            r = ofr_fail(err, OFR_ENOMEM, "no memory for the connection");
    }
    return r;
}

/* The answer; events that come before it are told. */
static int receive_answer(ofr_client *client, char *data, json_t **ret_answer,
                          int descriptors[OFR_CONTROL_DESCRIPTORS_MAX], size_t *ret_count,
                          ofr_error *err)
{
    for (;;) {
        size_t size = 0;
        json_t *answer = NULL;
        int r = ofr_control_receive(client->fd, data, true, &size, descriptors, ret_count, err);
        if (r == 0)
            r = ofr_control_parse(data, size, &answer, err);
        if (r < 0 || !json_object_get(answer, "event")) {
            *ret_answer = answer;
            return r;
        }
        char line[640];
        if (format_notice(answer, line, sizeof line) && client->notify)
            client->notify(client->user, line);
        json_decref(answer);
        while (*ret_count)
            close(descriptors[--*ret_count]);
    }
}

/* The executive answers when the workers of the plan are ready. */
static int attach(ofr_client *client, const char *plan, ofr_error *err)
{
    json_t *request = json_pack("{s:s, s:s}", "op", "attach", "plan", plan ? plan : "auto");
    json_t *answer = NULL;
    char *data = malloc(OFR_CONTROL_MESSAGE_MAX);
    size_t count = 0;
    int descriptors[OFR_CONTROL_DESCRIPTORS_MAX];
    int r = data ? ofr_control_send(client->fd, request, NULL, 0, true, err)
                 : ofr_fail(err, OFR_ENOMEM, "no memory for a control message");
    if (r == 0)
        r = receive_answer(client, data, &answer, descriptors, &count, err);
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

/* Signals are for the threads of the caller: one that waits for SIGTERM gets it. */
static int start_watching(ofr_client *client, ofr_error *err)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int e = pthread_create(&client->watcher, NULL, watch, client);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    client->watching = e == 0;
    return e == 0 ? 0 : ofr_fail(err, OFR_ENOMEM, "cannot start a thread");
}

int ofr_client_connect(const ofr_client_options *options, ofr_client **ret_client, ofr_error *err)
{
    ofr_client *client = calloc(1, sizeof *client);
    if (!client)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the connection");
    client->fd = client->next_fd = client->next_ledger_fd = -1;
    client->notify = options->notify;
    client->tell_changed = options->conditions_changed;
    client->user = options->user;
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
        r = attach(client, options->plan, err);
    if (r == 0)
        r = start_watching(client, err);
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
    bool gone = client->watching && atomic_load(&client->state) == OFR_CLIENT_STATE_GONE;
    if (client->fd >= 0)
        shutdown(client->fd, SHUT_RDWR);
    if (client->watching)
        pthread_join(client->watcher, NULL);
    if (gone)
        ofr_instance_clear(client->info.instance);
    if (client->fd >= 0)
        close(client->fd);
    if (client->next_fd >= 0)
        close(client->next_fd);
    if (client->next_ledger_fd >= 0)
        close(client->next_ledger_fd);
    ofr_shm_unmap(client->base, client->layout.total_bytes);
    ofr_slot_ledger_close(&client->ledger);
    for (uint32_t i = 0; i < OFR_CLIENT_JOBS_MAX; i++)
        free(client->flights[i].ids);
    json_decref(client->next);
    pthread_cond_destroy(&client->changed);
    pthread_mutex_destroy(&client->lock);
    free(client);
    return NULL;
}

const ofr_client_info *ofr_client_get_info(const ofr_client *client)
{
    return &client->info;
}

int ofr_client_check_state(ofr_client *client, ofr_error *err)
{
    int state = atomic_load(&client->state);
    if (state == OFR_CLIENT_STATE_UP)
        return 0;
    if (state == OFR_CLIENT_STATE_GONE)
        return ofr_fail(err, OFR_EGONE, "the executive (pid %d) is gone; run the command again",
                        (int)client->info.executive_pid);
    pthread_mutex_lock(&client->lock);
    int r = ofr_fail(err, state == OFR_CLIENT_STATE_FAILED ? OFR_EINTERNAL : OFR_EDEVICE,
                     "the device failed: %s", client->failure);
    pthread_mutex_unlock(&client->lock);
    return r;
}

/* With the lock held: the session that the executive has announced. */
static int take_next(ofr_client *client, ofr_error *err)
{
    json_t *next = client->next;
    int fd = client->next_fd, ledger_fd = client->next_ledger_fd;
    client->next = NULL;
    client->next_fd = client->next_ledger_fd = -1;
    int r = read_session(client, next, err);
    if (r == 0)
        r = map_session(client, fd, ledger_fd, err);
    close(fd);
    close(ledger_fd);
    json_decref(next);
    if (r == 0)
        atomic_store(&client->state, OFR_CLIENT_STATE_UP);
    return r;
}

/* What the watcher has noted, line by line, and the plan that came of it. */
static void tell_notices(ofr_client *client)
{
    char notices[sizeof client->notices];
    pthread_mutex_lock(&client->lock);
    memcpy(notices, client->notices, sizeof notices);
    client->notices[0] = 0;
    bool plan_changed = client->plan_changed;
    client->plan_changed = false;
    pthread_mutex_unlock(&client->lock);
    if (!client->notify || !notices[0])
        return;
    char *rest = NULL;
    for (char *line = strtok_r(notices, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        client->notify(client->user, line);
    if (!plan_changed)
        return;
    char line[sizeof client->info.plan + 32];
    snprintf(line, sizeof line, "the plan is now %s", client->info.plan);
    client->notify(client->user, line);
}

bool ofr_client_take_conditions(ofr_client *client)
{
    pthread_mutex_lock(&client->lock);
    bool changed = client->conditions_changed;
    client->conditions_changed = false;
    pthread_mutex_unlock(&client->lock);
    if (changed)
        tell_notices(client);
    return changed;
}

int ofr_client_wait_ready(ofr_client *client, uint32_t timeout_ms, ofr_error *err)
{
    uint64_t until_ns = ofr_clock_ns() + (uint64_t)timeout_ms * 1000000;
    struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    int r = 0;
    pthread_mutex_lock(&client->lock);
    while (atomic_load(&client->state) == OFR_CLIENT_STATE_DOWN && client->next_fd < 0 && r == 0)
        r = pthread_cond_timedwait(&client->changed, &client->lock, &until);
    if (client->next_fd >= 0)
        r = take_next(client, err);
    else if (atomic_load(&client->state) == OFR_CLIENT_STATE_DOWN)
        r = ofr_fail(err, OFR_ETIMEDOUT, "the worker did not come back within %u ms", timeout_ms);
    pthread_mutex_unlock(&client->lock);
    tell_notices(client);
    return r != 0 ? r : ofr_client_check_state(client, err);
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
