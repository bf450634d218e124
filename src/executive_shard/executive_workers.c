/* The executive's worker processes: starting them, what they say, their deaths, and the way to a
 * set of workers that are all ready. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/process.h"
#include "base/shm.h"
#include "executive_shard/executive_internal.h"
#include "executive_shard/worker.h"

/* A compiler that takes more than this of what is free takes the machine down with it. */
static const uint64_t MEMORY_SHARE = 2;
static const uint64_t MEMORY_MIN = UINT64_C(1) << 30;

ofr_executive_worker *ofr_executive_find_worker(ofr_executive *x, const char *device)
{
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        if (strcmp(x->workers[i].device, device) == 0)
            return &x->workers[i];
    return NULL;
}

bool ofr_executive_read_board(const ofr_executive_worker *worker, ofr_board *ret_board)
{
    return worker->board_fd >= 0 &&
           pread(worker->board_fd, ret_board, sizeof *ret_board, 0) == (ssize_t)sizeof *ret_board;
}

static ofr_health_work worker_work(const ofr_executive_worker *worker)
{
    ofr_board board = {0};
    ofr_health_work work = worker->work_before;
    if (ofr_executive_read_board(worker, &board)) {
        uint64_t decoded = atomic_load(&board.decode_tokens);
        uint64_t all = atomic_load(&board.tokens);
        work.decode_tokens += decoded;
        work.prefill_tokens += all > decoded ? all - decoded : 0;
    }
    return work;
}

/* Its process is no longer of interest; what it did still counts. */
static void forget_process(ofr_executive_worker *worker)
{
    ofr_board board = {0};
    worker->work_before = worker_work(worker);
    if (ofr_executive_read_board(worker, &board)) {
        worker->copied_before += atomic_load(&board.handoff_bytes_copied);
        worker->graph_kv_before += atomic_load(&board.graph_kv_bytes);
    }
    ofr_executive_close(&worker->fd);
    ofr_executive_close(&worker->board_fd);
    worker->pid = 0;
    worker->state = OFR_WORKER_STATE_NONE;
    worker->in_session = worker->ending = false;
    worker->n_asked = 0;
}

static void stop_process(ofr_executive_worker *worker)
{
    if (worker->pid > 0) {
        kill(worker->pid, SIGKILL);
        while (waitpid(worker->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    forget_process(worker);
}

int ofr_executive_end_idle_workers(ofr_executive *x)
{
    static const uint64_t MS = 1000000;
    uint64_t now = ofr_clock_ns(), limit = x->options->idle_worker_s * 1000 * MS; /* 0: never */
    uint64_t next = UINT64_MAX;
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        ofr_executive_worker *worker = &x->workers[i];
        bool idle = worker->pid > 0 && !worker->needed && !worker->in_session;
        if (!idle || limit == 0) {
            worker->idle_since_ns = 0;
            continue;
        }
        if (worker->idle_since_ns == 0)
            worker->idle_since_ns = now;
        uint64_t due = worker->idle_since_ns + limit;
        if (due > now) {
            next = due < next ? due : next;
            continue;
        }
        ofr_log(OFR_LOG_LEVEL_INFO, "%s: worker %d is ended, no plan needs it", worker->device,
                (int)worker->pid);
        stop_process(worker);
        worker->idle_since_ns = 0;
    }
    return next == UINT64_MAX ? -1 : (int)((next - now) / MS) + 1;
}

ofr_executive_worker *ofr_executive_add_worker(ofr_executive *x, const char *device)
{
    ofr_executive_worker *worker = ofr_executive_find_worker(x, device);
    if (worker)
        return worker;
    worker = ofr_executive_find_worker(x, "");
    for (size_t i = 0; !worker && i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        if (!x->workers[i].needed && !x->workers[i].refused)
            worker = &x->workers[i];
    if (!worker)
        return NULL;
    if (worker->device[0])
        stop_process(worker);
    *worker = (ofr_executive_worker){.fd = -1, .board_fd = -1};
    snprintf(worker->device, sizeof worker->device, "%s", device);
    return worker;
}

ofr_health_work ofr_executive_work_done(const ofr_executive *x)
{
    ofr_health_work sum = {0};
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        ofr_health_work work = worker_work(&x->workers[i]);
        sum.decode_tokens += work.decode_tokens;
        sum.prefill_tokens += work.prefill_tokens;
    }
    return sum;
}

uint32_t ofr_executive_count_needed(const ofr_executive *x)
{
    uint32_t n = 0;
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        n += x->workers[i].needed;
    return n;
}

/* In the child: what is the executive's, or another worker's, is not this one's. */
static void leave_executive(ofr_executive *x)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* The lock must end with the executive, not with this process. */
    ofr_instance_lock_release(&x->lock);
    ofr_executive_close(&x->listen_fd);
    ofr_executive_close(&x->signal_fd);
    ofr_executive_close(&x->session_fd);
    ofr_executive_close(&x->ledger_fd);
    ofr_executive_close(&x->search.fd);
    ofr_monitor_forget(&x->monitor);
    for (size_t i = 0; i < OFR_EXECUTIVE_CLIENTS_MAX; i++)
        ofr_executive_close(&x->clients[i].fd);
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        ofr_executive_close(&x->workers[i].fd);
        ofr_executive_close(&x->workers[i].board_fd);
    }
}

/* The CPU backend compiles nothing. */
static uint64_t memory_limit(const ofr_executive *x, const char *device)
{
    if (x->options->worker_memory_bytes)
        return strcmp(device, "cpu") == 0 ? 0 : x->options->worker_memory_bytes;
    uint64_t share = ofr_memory_available() / MEMORY_SHARE;
    return strcmp(device, "cpu") == 0 ? 0 : share > MEMORY_MIN ? share : MEMORY_MIN;
}

static int start_process(ofr_executive *x, ofr_executive_worker *worker, ofr_error *err)
{
    int pair[2] = {-1, -1};
    int board_fd = -1;
    int r = ofr_executive_make_arenas(x, err);
    if (r == 0)
        r = ofr_shm_create(OFR_BOARD_BYTES, &board_fd, err);
    if (r == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        r = ofr_fail_errno(err, errno, "cannot make a socket pair");
    pid_t executive = getpid();
    pid_t pid = r == 0 ? fork() : -1;
    if (r == 0 && pid < 0)
        r = ofr_fail_errno(err, errno, "cannot start the worker");
    if (r < 0) {
        ofr_executive_close(&board_fd);
        ofr_executive_close(&pair[0]);
        ofr_executive_close(&pair[1]);
        return r;
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != executive)
            _exit(0);
        char device[OFR_PLAN_NAME_MAX];
        snprintf(device, sizeof device, "%s", worker->device);
        ofr_worker_options options = {
            .package_directory = x->package_directory,
            .device = device,
            .kv_layout = x->kv_layout,
            .kv_fd = x->kv_fd,
            .hidden_fd = x->hidden_fd,
            .board_fd = board_fd,
            .control_fd = pair[1],
            .layout = x->layout,
            .d_model = x->d_model,
            .threads = x->options->threads,
            .memory_bytes = memory_limit(x, device),
        };
        close(pair[0]);
        leave_executive(x);
        ofr_worker_main(&options);
    }
    close(pair[1]);
    worker->fd = pair[0];
    worker->board_fd = board_fd;
    worker->pid = pid;
    worker->state = OFR_WORKER_STATE_OPENED; /* nothing is open, and nothing was asked for */
    worker->n_asked = 0;
    worker->generation++;
    worker->watchdog = (ofr_watchdog){0};
    return 0;
}

static int send_to(const ofr_executive_worker *worker, json_t *message, const int *fd)
{
    int r =
        message ? ofr_control_send(worker->fd, message, fd, fd ? 1 : 0, false, NULL) : OFR_ENOMEM;
    json_decref(message);
    return r;
}

/* A process that cannot be told is dead or will be soon; SIGCHLD says so. */
static void ask_for_ranges(ofr_executive_worker *worker)
{
    json_t *ranges = json_array();
    for (uint32_t i = worker->n_asked; i < worker->n_ranges; i++)
        json_array_append_new(
            ranges, json_pack("[i, i]", (int)worker->ranges[i][0], (int)worker->ranges[i][1]));
    worker->n_asked = worker->n_ranges;
    worker->state = OFR_WORKER_STATE_OPENING;
    send_to(worker, json_pack("{s:s, s:o}", "op", "open", "ranges", ranges), NULL);
}

void ofr_executive_end_session(ofr_executive *x)
{
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        ofr_executive_worker *worker = &x->workers[i];
        if (worker->in_session && !worker->ending && worker->pid > 0) {
            worker->ending = true;
            send_to(worker, json_pack("{s:s}", "op", "session_end"), NULL);
        }
    }
    ofr_executive_close(&x->session_fd);
}

/* Starts what is missing. Errors are of the system, not of the device. */
static int start_missing(ofr_executive *x, ofr_error *err)
{
    int r = 0;
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX && r == 0; i++) {
        ofr_executive_worker *worker = &x->workers[i];
        if (!worker->needed)
            continue;
        if (worker->pid == 0)
            r = start_process(x, worker, err);
        bool idle =
            worker->state == OFR_WORKER_STATE_OPENED || worker->state == OFR_WORKER_STATE_READY;
        if (r == 0 && idle && worker->n_asked < worker->n_ranges && !worker->in_session)
            ask_for_ranges(worker);
    }
    return r;
}

static bool somebody_is(const ofr_executive *x, enum ofr_worker_state state)
{
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        if (x->workers[i].state == state)
            return true;
    return false;
}

static bool somebody_is_in_session(const ofr_executive *x)
{
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        if (x->workers[i].in_session)
            return true;
    return false;
}

/* The self-test writes to the last slot, so one at a time, and what that slot held is gone. */
static void let_one_test(ofr_executive *x)
{
    if (somebody_is(x, OFR_WORKER_STATE_TESTING))
        return;
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        ofr_executive_worker *worker = &x->workers[i];
        if (worker->state != OFR_WORKER_STATE_OPENED || worker->n_asked < worker->n_ranges ||
            !worker->needed)
            continue;
        ofr_slot_ledger_write(&x->ledger, x->ledger_fd, x->kv_layout.n_slots - 1, NULL, 0, NULL);
        worker->state = OFR_WORKER_STATE_TESTING;
        send_to(worker, json_pack("{s:s}", "op", "test"), NULL);
        return;
    }
}

static bool all_ready(const ofr_executive *x)
{
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        if (x->workers[i].needed && x->workers[i].state != OFR_WORKER_STATE_READY)
            return false;
    return true;
}

void ofr_executive_settle(ofr_executive *x)
{
    ofr_error err = {0};
    if (x->settled || x->choosing || x->broken[0])
        return;
    int r = start_missing(x, &err);
    if (r == 0 && somebody_is_in_session(x))
        return;
    if (r == 0 && x->arena_dirty)
        r = ofr_executive_clean_arena(x, &err);
    if (r < 0) {
        snprintf(x->broken, sizeof x->broken, "%s", err.text);
        ofr_executive_serve_client(x);
        return;
    }
    let_one_test(x);
    if (!all_ready(x))
        return;
    x->settled = true;
    if (!x->told)
        ofr_executive_keep_kv(x, true);
    ofr_executive_serve_client(x);
}

static void take_ready(ofr_executive_worker *worker, const json_t *event)
{
    uint32_t chunk = 0;
    ofr_control_get_text(event, "device", worker->text, sizeof worker->text, NULL);
    ofr_control_get_u32(event, "chunk", &chunk, NULL);
    worker->chunk = chunk;
    worker->state = OFR_WORKER_STATE_READY;
    worker->was_ready = true;
    worker->start_deaths = 0;
}

static void take_event(ofr_executive *x, ofr_executive_worker *worker, const json_t *event)
{
    char name[16] = "";
    char text[sizeof worker->failure];
    ofr_control_get_text(event, "event", name, sizeof name, NULL);
    if (strcmp(name, "opened") == 0 && worker->state == OFR_WORKER_STATE_OPENING) {
        worker->state = OFR_WORKER_STATE_OPENED;
    } else if (strcmp(name, "ready") == 0 && worker->state == OFR_WORKER_STATE_TESTING) {
        take_ready(worker, event);
    } else if (strcmp(name, "quiet") == 0) {
        worker->in_session = worker->ending = false;
    } else if (strcmp(name, "failed") == 0 &&
               ofr_control_get_text(event, "text", text, sizeof text, NULL) == 0) {
        ofr_executive_refuse(x, worker, text);
    } else {
        ofr_control_get_text(event, "reason", worker->fault, sizeof worker->fault, NULL);
    }
}

void ofr_executive_read_worker(ofr_executive *x, ofr_executive_worker *worker, char *data)
{
    size_t size = 0;
    size_t count = 0;
    int descriptors[OFR_CONTROL_DESCRIPTORS_MAX];
    json_t *event = NULL;
    int r = ofr_control_receive(worker->fd, data, false, &size, descriptors, &count, NULL);
    while (r == 0 && count)
        close(descriptors[--count]);
    if (r < 0 || ofr_control_parse(data, size, &event, NULL) < 0) {
        if (r != OFR_EAGAIN)
            ofr_executive_close(&worker->fd); /* its end is told by SIGCHLD */
        return;
    }
    take_event(x, worker, event);
    json_decref(event);
}

/* What a dead worker said last may still be unread. */
static void read_last_words(ofr_executive *x, ofr_executive_worker *worker)
{
    char *data = malloc(OFR_CONTROL_MESSAGE_MAX);
    for (int i = 0; data && worker->fd >= 0 && i < 8; i++)
        ofr_executive_read_worker(x, worker, data);
    free(data);
}

/* True: a restart would not cure it. */
static bool died_too_often(const ofr_executive *x, ofr_executive_worker *worker)
{
    if (!worker->was_ready && ++worker->start_deaths >= OFR_EXECUTIVE_START_DEATHS_MAX)
        return true;
    uint64_t now = ofr_clock_ns();
    worker->failures_ns[worker->n_failures++ % OFR_EXECUTIVE_FAILURES_MAX] = now;
    uint64_t oldest = worker->failures_ns[worker->n_failures % OFR_EXECUTIVE_FAILURES_MAX];
    return worker->n_failures >= OFR_EXECUTIVE_FAILURES_MAX &&
           now - oldest < (uint64_t)x->options->failure_window_s * 1000000000;
}

static bool somebody_lives(const ofr_executive *x)
{
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        if (x->workers[i].pid > 0)
            return true;
    return false;
}

void ofr_executive_lose_worker(ofr_executive *x, ofr_executive_worker *worker)
{
    bool wrote = worker->in_session || worker->state == OFR_WORKER_STATE_TESTING ||
                 worker->state == OFR_WORKER_STATE_READY;
    stop_process(worker);
    if (!worker->needed)
        return;
    x->settled = false;
    x->arena_dirty = x->arena_dirty || wrote;
    if (x->attached)
        ofr_executive_tell(x,
                           json_pack("{s:s, s:i, s:s%}", "event", "worker_down", "generation",
                                     (int)x->generation, "text", worker->failure,
                                     strlen(worker->failure)),
                           NULL, 0);
    ofr_executive_end_session(x);
    if (!somebody_lives(x)) {
        ofr_executive_drop_arenas(x);
        x->arena_dirty = false;
    }
}

void ofr_executive_worker_died(ofr_executive *x, ofr_executive_worker *worker, int wait_status)
{
    char how[128];
    ofr_process_describe_status(wait_status, how, sizeof how);
    pid_t pid = worker->pid;
    worker->pid = 0;
    worker->restarts++;
    read_last_words(x, worker);
    if (worker->refused)
        return;
    snprintf(worker->failure, sizeof worker->failure, "worker %d %s%s%s", (int)pid, how,
             worker->fault[0] ? ": " : "", worker->fault);
    worker->fault[0] = 0;
    ofr_log(OFR_LOG_LEVEL_ERROR, "%s: %s", worker->device, worker->failure);
    if (died_too_often(x, worker)) {
        char why[sizeof worker->failure];
        memcpy(why, worker->failure, sizeof why);
        ofr_executive_refuse(x, worker, why);
    } else {
        ofr_executive_lose_worker(x, worker);
    }
}

void ofr_executive_watch_workers(ofr_executive *x)
{
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        ofr_executive_worker *worker = &x->workers[i];
        ofr_monitored_worker monitored = {
            .pid = worker->pid,
            .ready =
                worker->state == OFR_WORKER_STATE_READY || worker->state == OFR_WORKER_STATE_OPENED,
            .device = strcmp(worker->device, "cpu") != 0,
            .board_fd = worker->board_fd,
            .session_fd = worker->in_session ? x->session_fd : -1,
            .jobs_offset =
                x->session_layout.jobs_offset + worker->index * x->session_layout.ring_stride,
        };
        if (!ofr_monitor_worker_hangs(&worker->watchdog, &monitored, worker->fault,
                                      sizeof worker->fault))
            continue;
        ofr_log(OFR_LOG_LEVEL_ERROR, "worker %d hangs: %s", (int)worker->pid, worker->fault);
        kill(worker->pid, SIGKILL); /* SIGCHLD does the rest */
        worker->watchdog = (ofr_watchdog){0};
    }
}

void ofr_executive_stop_workers(ofr_executive *x)
{
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        stop_process(&x->workers[i]);
}
