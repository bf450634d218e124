/* The daemon's event loop: clients on the control socket, the worker process, signals. */
#include "executive_shard/executive.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/process.h"
#include "base/shm.h"
#include "executive_shard/control.h"
#include "executive_shard/instance.h"
#include "executive_shard/kv_cache.h"
#include "executive_shard/monitor.h"
#include "executive_shard/service.h"
#include "executive_shard/slot_ledger.h"
#include "executive_shard/worker.h"

enum {
    CLIENTS_MAX = 16,
    FIXED = 5, /* polled descriptors before those of the clients */
    FAILURES_MAX = 3,
    SLOTS_MAX = OFR_SESSION_SEGMENTS_MAX,
    SLOTS_WANTED = 4,
    CONTEXT_ENOUGH = 8192,
};
static const uint32_t CHUNK_MAX = 512;
/* A client whose work moves on is waited for, at a stop, this long. */
static const uint64_t STOP_LIMIT_NS = 60 * UINT64_C(1000000000);
static const uint64_t STOP_QUIET_NS = 2 * UINT64_C(1000000000);

struct client {
    int fd; /* -1: free */
    pid_t pid;
    bool greeted;
    char program[OFR_CONTROL_PROGRAM_SIZE];
};

struct executive {
    const ofr_executive_options *options;
    int directory_fd, listen_fd, signal_fd;
    ofr_instance_lock lock;
    char *package_directory; /* absolute */
    char fingerprint[65];
    char model_name[128];
    uint32_t vocab_size, n_layers;
    uint64_t weight_bytes;
    ofr_kv_layout kv_layout;
    ofr_session_header layout;
    ofr_slot_ledger_header ledger;
    struct client clients[CLIENTS_MAX];
    struct client *attached; /* NULL: none */
    pid_t worker_pid;        /* 0: none */
    int worker_fd, kv_fd, board_fd, ledger_fd;
    int session_fd; /* of the attached client and this worker; -1: none */
    uint32_t generation;
    bool worker_ready, quarantined, stopping, told;
    bool socket_inherited;
    char device[256], failure[512];
    uint64_t failures_ns[FAILURES_MAX];
    uint32_t n_failures, restarts;
    uint64_t started_ns;
    ofr_monitor monitor;
    ofr_watchdog watchdog;
    ofr_health_work work_before; /* of the workers before this one */
    char fault[256];             /* what the worker or the watchdog said of its end; "": nothing */
    uint64_t stop_asked_ns, stop_moved_ns, stop_progress; /* stop_asked_ns 0: not asked */
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Bytes that KV may take: a quarter of the memory that is free. */
static int kv_budget(uint64_t *ret_budget, ofr_error *err)
{
    uint64_t budget = ofr_memory_available() / 4;
    uint64_t shm_free = 0;
    uint64_t shm_total = 0;
    int r = ofr_shm_space(&shm_free, &shm_total, err);
    if (r < 0)
        return r;
    *ret_budget = shm_free * 3 / 4 < budget ? shm_free * 3 / 4 : budget;
    return 0;
}

/* Where neither is given: the model's context if memory allows it, cut to CONTEXT_ENOUGH where that
 * makes room for SLOTS_WANTED; then as many slots as fit. Pages of a slot that is never used are
 * never committed. */
static int choose_layout(struct executive *x, const ofr_model_params *params, ofr_error *err)
{
    const ofr_executive_options *options = x->options;
    uint32_t context = options->context ? options->context : params->context_length;
    uint32_t wanted = options->n_slots ? options->n_slots : 1;
    uint64_t budget = 0;
    int r = kv_budget(&budget, err);
    if (r < 0)
        return r;
    for (;;) {
        r = ofr_kv_layout_init(&x->kv_layout, params, wanted, context, CHUNK_MAX, err);
        if (r < 0)
            return r;
        uint64_t room = budget / x->kv_layout.slot_bytes;
        bool enough = room >= wanted &&
                      (options->n_slots || room >= SLOTS_WANTED || context <= CONTEXT_ENOUGH);
        if (options->context || enough || context <= 512) {
            if (!options->n_slots)
                wanted = room < 1 ? 1 : room > SLOTS_MAX ? SLOTS_MAX : (uint32_t)room;
            break;
        }
        context /= 2;
    }
    if (!options->context && context < params->context_length)
        ofr_log(OFR_LOG_LEVEL_WARNING,
                "context %u instead of the model's %u: memory for KV is limited to %" PRIu64
                " MiB; --context N asks for more",
                context, params->context_length, budget >> 20);
    return ofr_kv_layout_init(&x->kv_layout, params, wanted, context, CHUNK_MAX, err);
}

static int inspect_package(struct executive *x, ofr_error *err)
{
    ofr_package *package = NULL;
    int r = ofr_package_open(x->options->package_directory, 0, &package, err);
    if (r < 0)
        return r;
    const ofr_model_params *params = ofr_package_params(package);
    size_t bytes = 0;
    ofr_package_weights(package, &bytes);
    x->weight_bytes = bytes;
    x->vocab_size = params->vocab_size;
    x->n_layers = params->n_layers;
    snprintf(x->fingerprint, sizeof x->fingerprint, "%s", ofr_package_fingerprint(package));
    snprintf(x->model_name, sizeof x->model_name, "%s", params->name);
    x->package_directory = strdup(ofr_package_directory(package));
    r = x->package_directory ? choose_layout(x, params, err)
                             : ofr_fail(err, OFR_ENOMEM, "no memory");
    if (r == 0)
        r = ofr_session_layout_init(&x->layout, x->kv_layout.n_slots, x->vocab_size, CHUNK_MAX,
                                    x->kv_layout.context, err);
    if (r == 0)
        r = ofr_slot_ledger_layout(x->kv_layout.n_slots, x->kv_layout.context, x->vocab_size,
                                   &x->ledger, err);
    ofr_package_close(package);
    return r;
}

static int listen_on_socket(struct executive *x, ofr_error *err)
{
    int r = ofr_service_socket(&x->listen_fd, err);
    x->socket_inherited = r == 0 && x->listen_fd >= 0;
    if (r < 0 || x->socket_inherited)
        return r;
    x->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (x->listen_fd < 0)
        return ofr_fail_errno(err, errno, "cannot make the control socket");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/" OFR_CONTROL_SOCKET,
             x->directory_fd);
    /* This process holds the serve lock, so a socket that is there is a killed executive's. */
    unlinkat(x->directory_fd, OFR_CONTROL_SOCKET, 0);
    mode_t mask = umask(0177);
    int failed = bind(x->listen_fd, (struct sockaddr *)&address, sizeof address);
    umask(mask);
    if (failed < 0 || listen(x->listen_fd, CLIENTS_MAX) < 0)
        return ofr_fail_errno(err, errno, "cannot serve the control socket");
    return 0;
}

static int start_worker(struct executive *x, ofr_error *err)
{
    int pair[2] = {-1, -1};
    close_fd(&x->kv_fd);
    close_fd(&x->board_fd);
    close_fd(&x->ledger_fd);
    /* New arenas: rows that a dead worker left half-written are never read. */
    int r = ofr_shm_create(x->kv_layout.total_bytes, &x->kv_fd, err);
    if (r == 0)
        r = ofr_shm_create(OFR_BOARD_BYTES, &x->board_fd, err);
    if (r == 0)
        r = ofr_slot_ledger_create(&x->ledger, &x->ledger_fd, err);
    if (r == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        r = ofr_fail_errno(err, errno, "cannot make a socket pair");
    if (r < 0)
        return r;
    pid_t executive = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        r = ofr_fail_errno(err, errno, "cannot start the worker");
        close(pair[0]);
        close(pair[1]);
        return r;
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != executive)
            _exit(0);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        /* The lock must end with the executive, not with this process. */
        ofr_instance_lock_release(&x->lock);
        close_fd(&x->listen_fd);
        close_fd(&x->signal_fd);
        close_fd(&x->session_fd);
        ofr_monitor_forget(&x->monitor);
        close(pair[0]);
        for (size_t i = 0; i < CLIENTS_MAX; i++)
            close_fd(&x->clients[i].fd);
        ofr_worker_options options = {
            .package_directory = x->package_directory,
            .kv_layout = x->kv_layout,
            .kv_fd = x->kv_fd,
            .board_fd = x->board_fd,
            .control_fd = pair[1],
            .layout = x->layout,
            .threads = x->options->threads,
        };
        ofr_worker_main(&options);
    }
    close(pair[1]);
    x->worker_fd = pair[0];
    x->worker_pid = pid;
    x->worker_ready = false;
    x->generation++;
    x->watchdog = (ofr_watchdog){0};
    return 0;
}

/* A fresh session segment, given to the worker and (by the caller) to the client. */
static int make_session(struct executive *x, int *ret_fd, ofr_error *err)
{
    int fd = -1;
    int r = ofr_shm_create(x->layout.total_bytes, &fd, err);
    if (r < 0)
        return r;
    ofr_session_header header = x->layout;
    header.owner_pid = (uint32_t)getpid();
    header.generation = x->generation;
    if (pwrite(fd, &header, sizeof header, 0) != (ssize_t)sizeof header)
        r = ofr_fail_errno(err, errno, "cannot write a session segment");
    if (r == 0) {
        json_t *message = json_pack("{s:s}", "op", "session");
        r = ofr_control_send(x->worker_fd, message, &fd, 1, false, err);
        json_decref(message);
    }
    if (r < 0) {
        close(fd);
        return r;
    }
    close_fd(&x->session_fd);
    x->session_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    *ret_fd = fd;
    return 0;
}

static void drop_client(struct executive *x, struct client *client)
{
    if (x->attached == client) {
        x->attached = NULL;
        json_t *message = json_pack("{s:s}", "op", "session_end");
        if (x->worker_fd >= 0)
            ofr_control_send(x->worker_fd, message, NULL, 0, false, NULL);
        json_decref(message);
        close_fd(&x->session_fd);
    }
    close_fd(&client->fd);
}

static void tell_client(struct executive *x, json_t *message, const int *fds, size_t n)
{
    if (x->attached && ofr_control_send(x->attached->fd, message, fds, n, false, NULL) < 0)
        drop_client(x, x->attached);
    json_decref(message);
}

static json_t *status_object(const struct executive *x)
{
    ofr_board board = {0};
    if (x->board_fd < 0 || pread(x->board_fd, &board, sizeof board, 0) != (ssize_t)sizeof board)
        board = (ofr_board){0};
    const char *state = x->quarantined                                      ? "quarantined"
                        : !x->worker_ready                                  ? "starting"
                        : atomic_load(&board.state) == OFR_BOARD_STATE_BUSY ? "busy"
                                                                            : "idle";
    uint64_t worker_resident = x->worker_pid ? ofr_process_resident_bytes(x->worker_pid) : 0;
    uint64_t own_resident = ofr_process_resident_bytes(getpid());
    json_t *worker = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name",
        "cpu", "device", x->device, "state", state, "failure", x->failure, "pid",
        (int)x->worker_pid, "generation", (int)x->generation, "restarts", (int)x->restarts,
        "resident_bytes", (json_int_t)worker_resident, "jobs", (json_int_t)atomic_load(&board.jobs),
        "progress", (json_int_t)atomic_load(&board.progress), "decode_tokens",
        (json_int_t)atomic_load(&board.decode_tokens), "tokens",
        (json_int_t)atomic_load(&board.tokens), "busy_ns", (json_int_t)atomic_load(&board.busy_ns),
        "heartbeat_ns", (json_int_t)atomic_load(&board.heartbeat_ns), "handoff_bytes_copied",
        (json_int_t)atomic_load(&board.handoff_bytes_copied));
    json_t *holder = x->attached ? json_pack("{s:s, s:i}", "program", x->attached->program, "pid",
                                             (int)x->attached->pid)
                                 : json_null();
    json_t *status = json_pack(
        "{s:s, s:b, s:s, s:i, s:s, s:s, s:s, s:o, s:I, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:o, "
        "s:[o]}",
        "op", "status", "ok", 1, "instance", x->options->instance, "pid", (int)getpid(), "package",
        x->package_directory, "fingerprint", x->fingerprint, "model", x->model_name, "health",
        ofr_health_to_json(&x->monitor.health, &x->monitor.conditions), "uptime_ms",
        (json_int_t)((ofr_clock_ns() - x->started_ns) / 1000000), "n_slots",
        (int)x->kv_layout.n_slots, "context", (int)x->kv_layout.context, "kv_bytes",
        (json_int_t)x->kv_layout.total_bytes, "kv_committed_bytes",
        (json_int_t)(x->kv_fd >= 0 ? ofr_shm_committed(x->kv_fd) : 0), "weight_bytes",
        (json_int_t)x->weight_bytes, "resident_bytes", (json_int_t)(worker_resident + own_resident),
        "handoff_bytes_copied", (json_int_t)atomic_load(&board.handoff_bytes_copied), "client",
        holder, "workers", worker);
    if (x->options->threads) /* otherwise the backend's default, which its device's name says */
        json_object_set_new(status, "threads", json_integer(x->options->threads));
    return status;
}

static int attach(struct executive *x, struct client *client, json_t **ret_answer, int *ret_fd,
                  ofr_error *err)
{
    if (!client->greeted)
        return ofr_fail(err, OFR_EPROTOCOL, "attach before hello");
    if (x->attached)
        return ofr_fail(err, OFR_EBUSY,
                        "the executive is in use by %s (pid %d); end it, or use another --instance",
                        x->attached->program, (int)x->attached->pid);
    if (x->quarantined)
        return ofr_fail(err, OFR_EDEVICE, "the cpu worker failed %d times: %s", FAILURES_MAX,
                        x->failure);
    if (!x->worker_ready || x->worker_fd < 0)
        return ofr_fail(err, OFR_EAGAIN, "the worker is starting; try again");
    int ledger_fd = -1;
    int r = ofr_slot_ledger_renew(&x->ledger, x->ledger_fd, &ledger_fd, err);
    if (r < 0)
        return r;
    close_fd(&x->ledger_fd);
    x->ledger_fd = ledger_fd;
    r = make_session(x, ret_fd, err);
    if (r == OFR_EGONE)
        return ofr_fail(err, OFR_EAGAIN, "the worker has just died; try again");
    if (r < 0)
        return r;
    x->attached = client;
    *ret_answer =
        json_pack("{s:s, s:b, s:i, s:i, s:i, s:i, s:i, s:s, s:s, s:s, s:s}", "op", "attach", "ok",
                  1, "generation", (int)x->generation, "n_slots", (int)x->layout.n_slots, "context",
                  (int)x->layout.context, "chunk_max", (int)x->layout.chunk_max, "vocab_size",
                  (int)x->layout.vocab_size, "device", x->device, "fingerprint", x->fingerprint,
                  "instance", x->options->instance, "plan", "prefill=cpu,decode=cpu");
    return 0;
}

static bool read_board(const struct executive *x, ofr_board *ret_board)
{
    return x->board_fd >= 0 &&
           pread(x->board_fd, ret_board, sizeof *ret_board, 0) == (ssize_t)sizeof *ret_board;
}

/* A client at work may finish; asked twice, or with nobody at work, the end is now. */
static void ask_to_stop(struct executive *x)
{
    ofr_board board = {0};
    uint64_t now = ofr_clock_ns();
    bool at_work = x->attached && !x->stop_asked_ns && read_board(x, &board) &&
                   now - atomic_load(&board.heartbeat_ns) < STOP_QUIET_NS;
    if (!at_work) {
        x->stopping = true;
        return;
    }
    ofr_log(OFR_LOG_LEVEL_INFO, "stopping once %s (pid %d) has its answer", x->attached->program,
            (int)x->attached->pid);
    ofr_service_notify("STOPPING=1");
    x->stop_asked_ns = x->stop_moved_ns = now;
    x->stop_progress = atomic_load(&board.progress);
    tell_client(x, json_pack("{s:s}", "event", "stopping"), NULL, 0);
}

static void look_at_stop(struct executive *x)
{
    ofr_board board = {0};
    uint64_t now = ofr_clock_ns();
    if (read_board(x, &board) && atomic_load(&board.progress) != x->stop_progress) {
        x->stop_progress = atomic_load(&board.progress);
        x->stop_moved_ns = now;
    }
    if (!x->attached || now - x->stop_moved_ns > STOP_QUIET_NS ||
        now - x->stop_asked_ns > STOP_LIMIT_NS)
        x->stopping = true;
}

static void take_tick(struct executive *x)
{
    ofr_monitor_take_tick(&x->monitor);
    if (x->stop_asked_ns)
        look_at_stop(x);
    ofr_monitored_worker worker = {
        .pid = x->worker_pid,
        .ready = x->worker_ready,
        .board_fd = x->board_fd,
        .session_fd = x->session_fd,
        .jobs_offset = x->layout.jobs_offset,
    };
    if (ofr_monitor_worker_hangs(&x->watchdog, &worker, x->fault, sizeof x->fault)) {
        ofr_log(OFR_LOG_LEVEL_ERROR, "worker %d hangs: %s", (int)x->worker_pid, x->fault);
        kill(x->worker_pid, SIGKILL); /* SIGCHLD does the rest */
        x->watchdog = (ofr_watchdog){0};
    }
}

/* What the workers have done so far, this one included. */
static ofr_health_work work_done(const struct executive *x)
{
    ofr_board board = {0};
    ofr_health_work work = x->work_before;
    if (read_board(x, &board)) {
        uint64_t decoded = atomic_load(&board.decode_tokens);
        uint64_t all = atomic_load(&board.tokens);
        work.decode_tokens += decoded;
        work.prefill_tokens += all > decoded ? all - decoded : 0;
    }
    return work;
}

static void take_sample(struct executive *x)
{
    ofr_health_work work = work_done(x);
    if (!ofr_monitor_take_sample(&x->monitor, &work))
        return;
    for (size_t i = 0; i < x->monitor.conditions.count; i++) {
        const ofr_condition_entry *entry = &x->monitor.conditions.entries[i];
        ofr_log(OFR_LOG_LEVEL_WARNING, "device %s is %s%s%s", entry->device,
                ofr_condition_name(entry->condition), entry->reason[0] ? ": " : "", entry->reason);
    }
}

static void answer_request(struct executive *x, struct client *client, const char *data,
                           size_t size)
{
    ofr_control_request request = {0};
    ofr_error err = {0};
    json_t *answer = NULL;
    int fds[2] = {-1, -1};
    int r = ofr_control_request_parse(data, size, &request, &err);
    bool drop = r < 0;
    const char *name = r < 0 ? "unknown" : ofr_control_operation_name(request.operation);
    if (r == 0) {
        switch (request.operation) {
        case OFR_CONTROL_OPERATION_HELLO:
            memcpy(client->program, request.program, sizeof client->program);
            client->greeted = true;
            break;
        case OFR_CONTROL_OPERATION_STATUS:
            answer = status_object(x);
            break;
        case OFR_CONTROL_OPERATION_ATTACH:
            r = attach(x, client, &answer, &fds[0], &err);
            fds[1] = x->ledger_fd;
            break;
        case OFR_CONTROL_OPERATION_DETACH:
            drop = true;
            break;
        case OFR_CONTROL_OPERATION_STOP:
            ask_to_stop(x);
            break;
        }
    }
    if (!answer)
        answer = r < 0 ? ofr_control_error_new(name, r, err.text)
                       : json_pack("{s:s, s:b}", "op", name, "ok", 1);
    size_t n_fds = fds[0] >= 0 ? 2 : 0;
    if (ofr_control_send(client->fd, answer, fds, n_fds, false, NULL) < 0 || drop)
        drop_client(x, client);
    json_decref(answer);
    close_fd(&fds[0]);
}

static void read_client(struct executive *x, struct client *client, char *data)
{
    size_t size = 0;
    size_t count = 0;
    int descriptors[OFR_CONTROL_DESCRIPTORS_MAX];
    int r = ofr_control_receive(client->fd, data, false, &size, descriptors, &count, NULL);
    while (r == 0 && count)
        close(descriptors[--count]);
    if (r == 0)
        answer_request(x, client, data, size);
    else if (r != OFR_EAGAIN)
        drop_client(x, client);
}

static void accept_client(struct executive *x)
{
    int fd = accept4(x->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct ucred peer;
    socklen_t size = sizeof peer;
    bool ours = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
    for (size_t i = 0; ours && i < CLIENTS_MAX; i++) {
        if (x->clients[i].fd < 0) {
            x->clients[i] = (struct client){.fd = fd, .pid = peer.pid};
            return;
        }
    }
    close(fd);
}

static int read_worker(struct executive *x, char *data, ofr_error *err)
{
    size_t size = 0;
    size_t count = 0;
    int descriptors[OFR_CONTROL_DESCRIPTORS_MAX];
    json_t *event = NULL;
    int r = ofr_control_receive(x->worker_fd, data, false, &size, descriptors, &count, NULL);
    while (r == 0 && count)
        close(descriptors[--count]);
    if (r < 0 || ofr_control_parse(data, size, &event, NULL) < 0) {
        if (r != OFR_EAGAIN)
            close_fd(&x->worker_fd); /* its end is told by SIGCHLD */
        return 0;
    }
    r = 0;
    if (x->worker_pid > 0 &&
        ofr_control_get_text(event, "device", x->device, sizeof x->device, NULL) == 0) {
        x->worker_ready = true;
        int fds[2] = {-1, x->ledger_fd};
        if (x->attached && make_session(x, &fds[0], NULL) == 0)
            tell_client(
                x, json_pack("{s:s, s:i}", "event", "worker_up", "generation", (int)x->generation),
                fds, 2);
        close_fd(&fds[0]);
    } else if (ofr_control_get_text(event, "text", x->failure, sizeof x->failure, NULL) == 0) {
        snprintf(x->fault, sizeof x->fault, "%.255s", x->failure);
        /* At first this ends the executive with the reason; later it counts as a failure. */
        if (!x->told)
            r = ofr_fail(err, OFR_EDEVICE, "the cpu worker cannot start: %s", x->failure);
    } else {
        ofr_control_get_text(event, "reason", x->fault, sizeof x->fault, NULL);
    }
    json_decref(event);
    return r;
}

/* What a dead worker said last may still be unread. */
static void read_last_words(struct executive *x)
{
    char *data = malloc(OFR_CONTROL_MESSAGE_MAX);
    ofr_error err = {0};
    for (int i = 0; data && x->worker_fd >= 0 && i < 4; i++)
        read_worker(x, data, &err);
    free(data);
}

static void worker_died(struct executive *x, int wait_status)
{
    char how[128];
    ofr_process_describe_status(wait_status, how, sizeof how);
    pid_t pid = x->worker_pid;
    x->worker_pid = 0;
    x->work_before = work_done(x);
    read_last_words(x);
    snprintf(x->failure, sizeof x->failure, "worker %d %s%s%s", (int)pid, how,
             x->fault[0] ? ": " : "", x->fault);
    x->fault[0] = 0;
    ofr_log(OFR_LOG_LEVEL_ERROR, "%s", x->failure);
    x->worker_ready = false;
    close_fd(&x->worker_fd);
    x->restarts++;
    uint64_t now = ofr_clock_ns();
    uint64_t oldest = x->failures_ns[x->n_failures % FAILURES_MAX];
    x->failures_ns[x->n_failures++ % FAILURES_MAX] = now;
    x->quarantined = x->n_failures > FAILURES_MAX &&
                     now - oldest < (uint64_t)x->options->failure_window_s * 1000000000;
    tell_client(x,
                json_pack("{s:s, s:i, s:s}", "event", "worker_down", "generation",
                          (int)x->generation, "text", x->failure),
                NULL, 0);
    ofr_error err = {0};
    if (!x->quarantined && start_worker(x, &err) < 0) {
        snprintf(x->failure, sizeof x->failure, "%.500s", err.text);
        x->quarantined = true;
    }
    if (x->quarantined) {
        ofr_log(OFR_LOG_LEVEL_ERROR, "the cpu worker is not started again: %s", x->failure);
        ofr_conditions_set(&x->monitor.conditions, "cpu", OFR_CONDITION_QUARANTINED, x->failure);
        tell_client(x, json_pack("{s:s, s:s}", "event", "worker_failed", "text", x->failure), NULL,
                    0);
    }
}

static void read_signals(struct executive *x)
{
    struct signalfd_siginfo info;
    while (read(x->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo != SIGCHLD)
            ask_to_stop(x);
    int status = 0;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == x->monitor.sampler.pid)
            x->monitor.sampler.pid = 0; /* the end of its pipe says the rest */
        if (pid == x->worker_pid && !x->stopping)
            worker_died(x, status);
    }
}

static int serve(struct executive *x, void (*ready)(void *, const char *), void *user,
                 ofr_error *err)
{
    char *data = malloc(OFR_CONTROL_MESSAGE_MAX);
    int r = data ? 0 : ofr_fail(err, OFR_ENOMEM, "no memory for control messages");
    while (r == 0 && !x->stopping) {
        ofr_monitor_arm(&x->monitor, x->attached || !x->worker_ready || x->stop_asked_ns);
        struct pollfd polled[FIXED + CLIENTS_MAX] = {
            {.fd = x->signal_fd, .events = POLLIN},
            {.fd = x->listen_fd, .events = POLLIN},
            {.fd = x->worker_fd, .events = POLLIN},
            {.fd = x->monitor.sampler.fd, .events = POLLIN},
            {.fd = x->monitor.timer_fd, .events = POLLIN}};
        for (size_t i = 0; i < CLIENTS_MAX; i++)
            polled[FIXED + i] = (struct pollfd){.fd = x->clients[i].fd, .events = POLLIN};
        if (poll(polled, FIXED + CLIENTS_MAX, -1) < 0) {
            if (errno != EINTR)
                r = ofr_fail_errno(err, errno, "cannot wait for events");
            continue;
        }
        for (size_t i = 0; i < CLIENTS_MAX; i++)
            if (polled[FIXED + i].revents && x->clients[i].fd == polled[FIXED + i].fd)
                read_client(x, &x->clients[i], data);
        if (polled[2].revents && x->worker_fd == polled[2].fd)
            r = read_worker(x, data, err);
        if (polled[1].revents)
            accept_client(x);
        if (polled[3].revents)
            take_sample(x);
        if (r == 0 && polled[0].revents)
            read_signals(x);
        /* After the signals: a worker that has died is not one that hangs. */
        if (r == 0 && polled[4].revents && !x->stopping)
            take_tick(x);
        if (r == 0 && x->worker_ready && !x->told) {
            x->told = true;
            ready(user, x->device);
            ofr_service_notify("READY=1");
        }
        if (r == 0 && x->quarantined && !x->told)
            r = ofr_fail(err, OFR_EDEVICE, "the cpu worker cannot start: %s", x->failure);
    }
    free(data);
    return r;
}

static int open_signals(struct executive *x, ofr_error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    x->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return x->signal_fd < 0 ? ofr_fail_errno(err, errno, "cannot receive signals") : 0;
}

/* A cache that cannot be used costs time, not the session. */
static void keep_kv(const struct executive *x, bool load)
{
    ofr_kv_cache cache = {.directory = x->options->cache_directory,
                          .fingerprint = x->fingerprint,
                          .max_bytes = x->options->cache_bytes,
                          .layout = &x->kv_layout,
                          .ledger = &x->ledger,
                          .kv_fd = x->kv_fd,
                          .ledger_fd = x->ledger_fd};
    ofr_error why = {0};
    uint64_t tokens = 0;
    if (!cache.directory || x->kv_fd < 0 || x->ledger_fd < 0)
        return;
    int r =
        load ? ofr_kv_cache_load(&cache, &tokens, &why) : ofr_kv_cache_save(&cache, &tokens, &why);
    if (r < 0)
        ofr_log(OFR_LOG_LEVEL_WARNING, "KV cache: %s", why.text);
    else
        ofr_log(OFR_LOG_LEVEL_INFO, "KV cache: %s %" PRIu64 " tokens", load ? "read" : "wrote",
                tokens);
}

int ofr_executive_run(const ofr_executive_options *options,
                      void (*ready)(void *user, const char *device), void *user, ofr_error *err)
{
    struct executive x = {.options = options,
                          .directory_fd = -1,
                          .listen_fd = -1,
                          .signal_fd = -1,
                          .lock = {-1},
                          .worker_fd = -1,
                          .kv_fd = -1,
                          .board_fd = -1,
                          .ledger_fd = -1,
                          .session_fd = -1,
                          .monitor = {.sampler = {.fd = -1}, .timer_fd = -1},
                          .started_ns = ofr_clock_ns()};
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        x.clients[i].fd = -1;
    char path[OFR_RUNTIME_PATH_SIZE];
    pid_t holder = 0;
    int r = ofr_runtime_dir_open(options->instance, true, &x.directory_fd, path, err);
    if (r == 0)
        r = ofr_instance_lock_acquire(x.directory_fd, &x.lock, &holder, err);
    bool served = r == 0;
    if (r == 0)
        r = inspect_package(&x, err);
    if (r == 0)
        r = open_signals(&x, err);
    if (r == 0)
        r = listen_on_socket(&x, err);
    if (r == 0) {
        ofr_instance_lock_started(&x.lock);
        r = start_worker(&x, err);
    }
    if (r == 0) {
        ofr_error why = {0};
        if (ofr_monitor_init(&x.monitor, &why) < 0)
            ofr_log(OFR_LOG_LEVEL_WARNING, "no health monitoring: %s", why.text);
    }
    if (r == 0) {
        keep_kv(&x, true);
        r = serve(&x, ready, user, err);
    }
    if (x.worker_pid > 0) {
        kill(x.worker_pid, SIGKILL);
        waitpid(x.worker_pid, NULL, 0);
    }
    if (r == 0)
        keep_kv(&x, false);
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        close_fd(&x.clients[i].fd);
    ofr_monitor_done(&x.monitor);
    /* An inherited socket stays the service manager's, with the clients that wait on it. */
    if (served && x.listen_fd >= 0 && !x.socket_inherited)
        unlinkat(x.directory_fd, OFR_CONTROL_SOCKET, 0);
    close_fd(&x.listen_fd);
    close_fd(&x.worker_fd);
    close_fd(&x.kv_fd);
    close_fd(&x.board_fd);
    close_fd(&x.ledger_fd);
    close_fd(&x.session_fd);
    close_fd(&x.signal_fd);
    ofr_instance_lock_release(&x.lock);
    close_fd(&x.directory_fd);
    free(x.package_directory);
    return r;
}
