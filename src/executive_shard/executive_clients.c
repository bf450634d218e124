/* The executive's clients: the control socket, attaching, and what clients are told. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/shm.h"
#include "executive_shard/executive_internal.h"
#include "executive_shard/service.h"

/* A client whose work moves on is waited for, at a stop, while a heartbeat is not older. */
static const uint64_t STOP_QUIET_NS = 2 * UINT64_C(1000000000);

static void drop_client(ofr_executive *x, ofr_executive_client *client)
{
    if (x->pending == client)
        x->pending = NULL;
    if (x->attached == client) {
        x->attached = NULL;
        ofr_executive_end_session(x);
    }
    ofr_executive_close(&client->fd);
}

void ofr_executive_tell(ofr_executive *x, json_t *event, const int *fds, size_t n_fds)
{
    ofr_executive_client *client = x->attached ? x->attached : x->pending;
    if (client && ofr_control_send(client->fd, event, fds, n_fds, false, NULL) < 0)
        drop_client(x, client);
    json_decref(event);
}

/* A fresh session segment, given to the plan's workers; the caller's to give to the client. */
static int make_session(ofr_executive *x, int *ret_fd, ofr_error *err)
{
    int fd = -1;
    uint32_t n_workers = ofr_executive_count_needed(x);
    const ofr_session_header *o = &x->layout;
    ofr_session_header header;
    int r = ofr_session_layout_init(&header, n_workers, o->n_slots, o->vocab_size, o->chunk_max,
                                    o->context, err);
    if (r == 0)
        r = ofr_shm_create(header.total_bytes, &fd, err);
    if (r < 0)
        return r;
    x->session_layout = header;
    header.owner_pid = (uint32_t)getpid();
    header.generation = ++x->generation;
    if (pwrite(fd, &header, sizeof header, 0) != (ssize_t)sizeof header)
        r = ofr_fail_errno(err, errno, "cannot write a session segment");
    uint32_t index = 0;
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX && r == 0; i++) {
        ofr_executive_worker *worker = &x->workers[i];
        if (!worker->needed)
            continue;
        worker->index = index++;
        worker->in_session = true;
        json_t *message =
            json_pack("{s:s, s:i, s:i, s:i}", "op", "session", "index", (int)worker->index,
                      "n_workers", (int)n_workers, "generation", (int)x->generation);
        r = ofr_control_send(worker->fd, message, &fd, 1, false, err);
        json_decref(message);
    }
    ofr_executive_close(&x->session_fd);
    if (r < 0) {
        ofr_executive_end_session(x);
        close(fd);
        return r;
    }
    x->session_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    *ret_fd = fd;
    return 0;
}

/* What a client must know of its session; a new reference. */
static json_t *describe_session(const ofr_executive *x, const char *kind, const char *name)
{
    char device[512];
    ofr_executive_devices(x, device, sizeof device);
    return json_pack("{s:s, s:b, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:s, s:s, s:s, s:o}", kind,
                     name, "ok", 1, "generation", (int)x->generation, "n_slots",
                     (int)x->layout.n_slots, "context", (int)x->layout.context, "chunk_max",
                     (int)x->layout.chunk_max, "vocab_size", (int)x->layout.vocab_size, "n_layers",
                     (int)x->n_layers, "device", device, "fingerprint", x->fingerprint, "instance",
                     x->options->instance, "plan", x->plan_text, "workers", ofr_executive_table(x));
}

void ofr_executive_refuse_client(ofr_executive *x, const ofr_error *why)
{
    ofr_executive_client *client = x->pending;
    x->pending = NULL;
    if (!client)
        return;
    json_t *answer = ofr_control_error_new("attach", why->code, why->text);
    if (ofr_control_send(client->fd, answer, NULL, 0, false, NULL) < 0)
        drop_client(x, client);
    json_decref(answer);
}

static int renew_ledger(ofr_executive *x, ofr_error *err)
{
    int fd = -1;
    int r = ofr_slot_ledger_renew(&x->ledger, x->ledger_fd, &fd, err);
    if (r < 0)
        return r;
    ofr_executive_close(&x->ledger_fd);
    x->ledger_fd = fd;
    return 0;
}

void ofr_executive_serve_client(ofr_executive *x)
{
    ofr_error err = {0};
    if (!x->pending && !x->attached)
        return;
    if (x->broken[0]) {
        ofr_fail(&err, OFR_EDEVICE, "%s", x->broken);
        ofr_executive_refuse_client(x, &err);
        return;
    }
    int fds[2] = {-1, -1};
    int r = x->pending ? renew_ledger(x, &err) : 0;
    if (r == 0)
        r = make_session(x, &fds[0], &err);
    if (r == OFR_EGONE || r == OFR_EAGAIN) {
        x->settled = false; /* a worker has just died; SIGCHLD brings this back here */
        return;
    }
    if (r < 0) {
        ofr_executive_refuse_client(x, &err);
        return;
    }
    fds[1] = x->ledger_fd;
    bool new_client = x->pending != NULL;
    if (new_client)
        x->attached = x->pending;
    x->pending = NULL;
    ofr_executive_tell(
        x, describe_session(x, new_client ? "op" : "event", new_client ? "attach" : "worker_up"),
        fds, 2);
    close(fds[0]);
}

/* Its end of the connection is closed, which may not have been read yet. */
static bool has_left(const ofr_executive_client *client)
{
    struct pollfd polled = {.fd = client->fd, .events = POLLRDHUP};
    return poll(&polled, 1, 0) == 1 && (polled.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* The answer comes when the plan's workers are ready. */
static int attach(ofr_executive *x, ofr_executive_client *client, const char *plan, ofr_error *err)
{
    if (!client->greeted)
        return ofr_fail(err, OFR_EPROTOCOL, "attach before hello");
    ofr_executive_client *holder = x->attached ? x->attached : x->pending;
    if (holder && holder != client && has_left(holder)) {
        drop_client(x, holder);
        holder = NULL;
    }
    if (holder)
        return ofr_fail(err, OFR_EBUSY,
                        "the executive is in use by %s (pid %d); end it, or use another --instance",
                        holder->program, (int)holder->pid);
    x->pending = client;
    snprintf(x->pending_plan, sizeof x->pending_plan, "%s", plan);
    int r = ofr_executive_choose(x, x->pending_plan, err);
    if (r == OFR_EAGAIN)
        return 0;
    if (r < 0)
        x->pending = NULL;
    return r;
}

void ofr_executive_ask_to_stop(ofr_executive *x)
{
    uint64_t now = ofr_clock_ns();
    uint64_t progress = 0;
    bool at_work = false;
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        ofr_board board = {0};
        if (!x->workers[i].needed || !ofr_executive_read_board(&x->workers[i], &board))
            continue;
        at_work = at_work || now - atomic_load(&board.heartbeat_ns) < STOP_QUIET_NS;
        progress += atomic_load(&board.progress);
    }
    /* A client at work may finish; asked twice, or with nobody at work, the end is now. */
    if (!x->attached || x->stop_asked_ns || !at_work) {
        x->stopping = true;
        return;
    }
    ofr_log(OFR_LOG_LEVEL_INFO, "stopping once %s (pid %d) has its answer", x->attached->program,
            (int)x->attached->pid);
    ofr_service_notify("STOPPING=1");
    x->stop_asked_ns = x->stop_moved_ns = now;
    x->stop_progress = progress;
    ofr_executive_tell(x, json_pack("{s:s}", "event", "stopping"), NULL, 0);
}

static void answer_request(ofr_executive *x, ofr_executive_client *client, const char *data,
                           size_t size)
{
    ofr_control_request request = {0};
    ofr_error err = {0};
    json_t *answer = NULL;
    int r = ofr_control_request_parse(data, size, &request, &err);
    bool drop = r < 0;
    bool later = false;
    const char *name = r < 0 ? "unknown" : ofr_control_operation_name(request.operation);
    if (r == 0) {
        switch (request.operation) {
        case OFR_CONTROL_OPERATION_HELLO:
            memcpy(client->program, request.program, sizeof client->program);
            client->greeted = true;
            break;
        case OFR_CONTROL_OPERATION_STATUS:
            answer = ofr_executive_status(x);
            break;
        case OFR_CONTROL_OPERATION_ATTACH:
            r = attach(x, client, request.plan, &err);
            later = r == 0;
            break;
        case OFR_CONTROL_OPERATION_DETACH:
            drop = true;
            break;
        case OFR_CONTROL_OPERATION_STOP:
            ofr_executive_ask_to_stop(x);
            break;
        }
    }
    if (later)
        return;
    if (!answer)
        answer = r < 0 ? ofr_control_error_new(name, r, err.text)
                       : json_pack("{s:s, s:b}", "op", name, "ok", 1);
    if (ofr_control_send(client->fd, answer, NULL, 0, false, NULL) < 0 || drop)
        drop_client(x, client);
    json_decref(answer);
}

void ofr_executive_read_client(ofr_executive *x, ofr_executive_client *client, char *data)
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

void ofr_executive_accept(ofr_executive *x)
{
    int fd = accept4(x->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct ucred peer;
    socklen_t size = sizeof peer;
    bool ours = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
    for (size_t i = 0; ours && i < OFR_EXECUTIVE_CLIENTS_MAX; i++) {
        if (x->clients[i].fd < 0) {
            x->clients[i] = (ofr_executive_client){.fd = fd, .pid = peer.pid};
            return;
        }
    }
    close(fd);
}
