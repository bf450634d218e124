/* The daemon: setting up, the event loop over clients, workers and signals, and stopping. */
#include "executive_shard/executive.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "executive_shard/executive_internal.h"
#include "executive_shard/service.h"

/* Polled descriptors: these, then one for each worker, then one for each client. */
enum { SIGNALS, LISTENER, SAMPLER, TIMER, SEARCH, FIXED };
enum {
    POLLED_WORKERS = FIXED,
    POLLED_CLIENTS = POLLED_WORKERS + OFR_EXECUTIVE_WORKERS_MAX,
    POLLED = POLLED_CLIENTS + OFR_EXECUTIVE_CLIENTS_MAX,
};
/* A client whose work moves on is waited for, at a stop, this long. */
static const uint64_t STOP_LIMIT_NS = 60 * UINT64_C(1000000000);
static const uint64_t STOP_QUIET_NS = 2 * UINT64_C(1000000000);

void ofr_executive_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int inspect_package(ofr_executive *x, ofr_error *err)
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
    x->d_model = params->d_model;
    snprintf(x->fingerprint, sizeof x->fingerprint, "%s", ofr_package_fingerprint(package));
    snprintf(x->model_name, sizeof x->model_name, "%s", params->name);
    x->package_directory = strdup(ofr_package_directory(package));
    r = x->package_directory ? ofr_executive_choose_layout(x, package, err)
                             : ofr_fail(err, OFR_ENOMEM, "no memory");
    ofr_package_close(package);
    return r;
}

static int listen_on_socket(ofr_executive *x, ofr_error *err)
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
    if (failed < 0 || listen(x->listen_fd, OFR_EXECUTIVE_CLIENTS_MAX) < 0)
        return ofr_fail_errno(err, errno, "cannot serve the control socket");
    return 0;
}

static void look_at_stop(ofr_executive *x)
{
    uint64_t now = ofr_clock_ns();
    uint64_t progress = 0;
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        ofr_board board = {0};
        if (x->workers[i].needed && ofr_executive_read_board(&x->workers[i], &board))
            progress += atomic_load(&board.progress);
    }
    if (progress != x->stop_progress) {
        x->stop_progress = progress;
        x->stop_moved_ns = now;
    }
    if (!x->attached || now - x->stop_moved_ns > STOP_QUIET_NS ||
        now - x->stop_asked_ns > STOP_LIMIT_NS)
        x->stopping = true;
}

static void take_tick(ofr_executive *x)
{
    ofr_monitor_take_tick(&x->monitor);
    if (x->stop_asked_ns)
        look_at_stop(x);
    ofr_executive_watch_workers(x);
}

static void take_sample(ofr_executive *x)
{
    ofr_health_work work = ofr_executive_work_done(x);
    ofr_monitor_take_sample(&x->monitor, &work);
    ofr_monitor_change change;
    while (ofr_monitor_next_change(&x->monitor, &change)) {
        ofr_log(OFR_LOG_LEVEL_WARNING, "%s", change.text);
        json_t *event =
            json_pack("{s:s, s:s, s:s, s:s}", "event", "condition", "device", change.device,
                      "condition", change.condition, "text", change.text);
        ofr_executive_tell(x, event, NULL, 0);
    }
}

static void read_signals(ofr_executive *x)
{
    struct signalfd_siginfo info;
    while (read(x->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo != SIGCHLD)
            ofr_executive_ask_to_stop(x);
    int status = 0;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == x->monitor.sampler.pid)
            x->monitor.sampler.pid = 0; /* the end of its pipe says the rest */
        if (pid == x->search.pid)
            x->search.pid = 0; /* likewise */
        for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX && !x->stopping; i++)
            if (x->workers[i].pid == pid)
                ofr_executive_worker_died(x, &x->workers[i], status);
    }
}

/* The plan that waited for the search. Of the executive's own plan an error is the end. */
static int take_search(ofr_executive *x, ofr_error *err)
{
    if (!ofr_executive_read_search(x) || !x->choosing)
        return 0;
    x->choosing = false;
    ofr_error why = {0};
    if (x->pending) {
        if (ofr_executive_choose(x, x->pending_plan, &why) < 0)
            ofr_executive_refuse_client(x, &why);
        return 0;
    }
    return x->told ? 0 : ofr_executive_choose(x, NULL, err);
}

static int take_events(ofr_executive *x, const struct pollfd *polled, char *data, ofr_error *err)
{
    int r = 0;
    for (size_t i = 0; i < OFR_EXECUTIVE_CLIENTS_MAX; i++) {
        const struct pollfd *p = &polled[POLLED_CLIENTS + i];
        if (p->revents && x->clients[i].fd == p->fd)
            ofr_executive_read_client(x, &x->clients[i], data);
    }
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        const struct pollfd *p = &polled[POLLED_WORKERS + i];
        if (p->revents && x->workers[i].fd == p->fd)
            ofr_executive_read_worker(x, &x->workers[i], data);
    }
    if (polled[LISTENER].revents)
        ofr_executive_accept(x);
    if (polled[SAMPLER].revents)
        take_sample(x);
    if (polled[SEARCH].revents)
        r = take_search(x, err);
    if (r == 0 && polled[SIGNALS].revents)
        read_signals(x);
    /* After the signals: a worker that has died is not one that hangs. */
    if (r == 0 && polled[TIMER].revents && !x->stopping)
        take_tick(x);
    return r;
}

static void fill_polled(const ofr_executive *x, struct pollfd polled[POLLED])
{
    polled[SIGNALS] = (struct pollfd){.fd = x->signal_fd, .events = POLLIN};
    polled[LISTENER] = (struct pollfd){.fd = x->listen_fd, .events = POLLIN};
    polled[SAMPLER] = (struct pollfd){.fd = x->monitor.sampler.fd, .events = POLLIN};
    polled[TIMER] = (struct pollfd){.fd = x->monitor.timer_fd, .events = POLLIN};
    polled[SEARCH] = (struct pollfd){.fd = x->search.fd, .events = POLLIN};
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        polled[POLLED_WORKERS + i] = (struct pollfd){.fd = x->workers[i].fd, .events = POLLIN};
    for (size_t i = 0; i < OFR_EXECUTIVE_CLIENTS_MAX; i++)
        polled[POLLED_CLIENTS + i] = (struct pollfd){.fd = x->clients[i].fd, .events = POLLIN};
}

static int serve(ofr_executive *x, void (*ready)(void *, const char *), void *user, ofr_error *err)
{
    char *data = malloc(OFR_CONTROL_MESSAGE_MAX);
    int r = data ? ofr_executive_choose(x, NULL, err)
                 : ofr_fail(err, OFR_ENOMEM, "no memory for control messages");
    r = r == OFR_EAGAIN ? 0 : r;
    while (r == 0 && !x->stopping) {
        ofr_executive_settle(x);
        if (x->settled && !x->told) {
            char device[512];
            x->told = true;
            ofr_executive_devices(x, device, sizeof device);
            ready(user, device);
            ofr_service_notify("READY=1");
        }
        if (x->broken[0] && !x->told) {
            r = ofr_fail(err, OFR_EDEVICE, "no worker can start: %s", x->broken);
            break;
        }
        ofr_monitor_arm(&x->monitor, x->attached || !x->settled || x->stop_asked_ns);
        int timeout_ms = ofr_executive_end_idle_workers(x);
        struct pollfd polled[POLLED];
        fill_polled(x, polled);
        if (poll(polled, POLLED, timeout_ms) < 0) {
            if (errno != EINTR)
                r = ofr_fail_errno(err, errno, "cannot wait for events");
            continue;
        }
        r = take_events(x, polled, data, err);
    }
    free(data);
    return r;
}

static int open_signals(ofr_executive *x, ofr_error *err)
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

static void init(ofr_executive *x, const ofr_executive_options *options)
{
    *x = (ofr_executive){.options = options,
                         .directory_fd = -1,
                         .listen_fd = -1,
                         .signal_fd = -1,
                         .lock = {-1},
                         .kv_fd = -1,
                         .ledger_fd = -1,
                         .hidden_fd = -1,
                         .session_fd = -1,
                         .search = {.fd = -1},
                         .monitor = {.sampler = {.fd = -1}, .timer_fd = -1},
                         .started_ns = ofr_clock_ns()};
    for (size_t i = 0; i < OFR_EXECUTIVE_CLIENTS_MAX; i++)
        x->clients[i].fd = -1;
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        x->workers[i].fd = x->workers[i].board_fd = -1;
}

static void done(ofr_executive *x, bool served)
{
    for (size_t i = 0; i < OFR_EXECUTIVE_CLIENTS_MAX; i++)
        ofr_executive_close(&x->clients[i].fd);
    ofr_executive_end_search(x);
    ofr_monitor_done(&x->monitor);
    /* An inherited socket stays the service manager's, with the clients that wait on it. */
    if (served && x->listen_fd >= 0 && !x->socket_inherited)
        unlinkat(x->directory_fd, OFR_CONTROL_SOCKET, 0);
    ofr_executive_close(&x->listen_fd);
    ofr_executive_drop_arenas(x);
    ofr_executive_close(&x->session_fd);
    ofr_executive_close(&x->signal_fd);
    ofr_instance_lock_release(&x->lock);
    ofr_executive_close(&x->directory_fd);
    free(x->package_directory);
    free(x);
}

int ofr_executive_run(const ofr_executive_options *options,
                      void (*ready)(void *user, const char *device), void *user, ofr_error *err)
{
    ofr_executive *x = malloc(sizeof *x);
    if (!x)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the executive");
    init(x, options);
    char path[OFR_RUNTIME_PATH_SIZE];
    pid_t holder = 0;
    int r = ofr_runtime_dir_open(options->instance, true, &x->directory_fd, path, err);
    if (r == 0)
        r = ofr_instance_lock_acquire(x->directory_fd, &x->lock, &holder, err);
    bool served = r == 0;
    if (r == 0)
        r = inspect_package(x, err);
    if (r == 0)
        r = open_signals(x, err);
    if (r == 0)
        r = listen_on_socket(x, err);
    if (r == 0) {
        ofr_error why = {0};
        ofr_instance_lock_started(&x->lock);
        if (ofr_monitor_init(&x->monitor, x->options->root, &why) < 0)
            ofr_log(OFR_LOG_LEVEL_WARNING, "no health monitoring: %s", why.text);
        r = serve(x, ready, user, err);
    }
    ofr_executive_stop_workers(x);
    if (r == 0)
        ofr_executive_keep_kv(x, false);
    done(x, served);
    return r;
}
