/* The watcher: clients that are gone, and deadlines. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "supervisor/serve/http_internal.h"

enum { EVENTS = 32, TICK_MS = 500 };
static const uint64_t LEFT_NS = 1000000000;

void ofr_watch_connection(ofr_http_server *server, ofr_http_connection *connection)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = connection->id};
    epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event);
}

void ofr_watch_forget(ofr_http_server *server, ofr_http_connection *connection)
{
    epoll_ctl(server->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
}

/* With the server's lock held, so that nobody frees what is looked at. */
static void client_left(ofr_http_server *server, uint64_t id)
{
    ofr_http_connection *connection = server->connections;
    while (connection && connection->id != id)
        connection = connection->next;
    if (!connection)
        return;
    connection->left_ns = ofr_clock_ns();
    for (ofr_exchange *exchange = server->exchanges; exchange; exchange = exchange->next)
        if (exchange->socket == connection && exchange->started)
            atomic_store(&exchange->canceled, true);
}

static void pass_deadline(ofr_exchange *exchange, uint64_t now)
{
    static const char text[] = "{\"status\":\"unavailable\",\"reason\":\"no token in time\"}";
    pthread_mutex_lock(&exchange->lock);
    if (exchange->deadline_ns && now > exchange->deadline_ns && !exchange->ended) {
        exchange->ended = true;
        exchange->status = 503;
        ofr_text_clear(&exchange->out);
        ofr_text_add(&exchange->out, text, sizeof text - 1);
        atomic_store(&exchange->canceled, true);
        if (exchange->waiting)
            MHD_resume_connection(exchange->connection);
        exchange->waiting = false;
    }
    pthread_mutex_unlock(&exchange->lock);
}

static void pass_deadlines(ofr_http_server *server)
{
    uint64_t now = ofr_clock_ns();
    pthread_mutex_lock(&server->lock);
    /* libmicrohttpd sees the end and cleans up. It can overlook the end of a client that came
     * together with data: a request that is not here by then will not come. */
    for (ofr_http_connection *c = server->connections; c; c = c->next)
        if (c->deadline_ns && (now > c->deadline_ns || (c->left_ns && now > c->left_ns + LEFT_NS)))
            shutdown(c->fd, SHUT_RDWR);
    for (ofr_exchange *exchange = server->exchanges; exchange; exchange = exchange->next)
        pass_deadline(exchange, now);
    pthread_mutex_unlock(&server->lock);
}

static void *watch(void *argument)
{
    ofr_http_server *server = argument;
    uint64_t last_ns = ofr_clock_ns();
    for (;;) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(server->epoll_fd, events, EVENTS, TICK_MS);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == 0)
                return NULL;
            pthread_mutex_lock(&server->lock);
            client_left(server, events[i].data.u64);
            pthread_mutex_unlock(&server->lock);
        }
        if (n < 0 && errno != EINTR)
            return NULL;
        if (ofr_clock_ns() - last_ns > TICK_MS * UINT64_C(1000000)) {
            pass_deadlines(server);
            last_ns = ofr_clock_ns();
        }
    }
}

int ofr_watch_start(ofr_http_server *server, ofr_error *err)
{
    server->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0};
    if (server->epoll_fd < 0 || server->wake_fd < 0 ||
        epoll_ctl(server->epoll_fd, EPOLL_CTL_ADD, server->wake_fd, &event) < 0)
        return ofr_fail_errno(err, errno, "cannot watch connections");
    if (pthread_create(&server->watcher, NULL, watch, server) != 0)
        return ofr_fail(err, OFR_ENOMEM, "cannot start a thread");
    server->watching = true;
    return 0;
}

void ofr_watch_stop(ofr_http_server *server)
{
    if (server->watching) {
        uint64_t one = 1;
        ssize_t written = write(server->wake_fd, &one, sizeof one);
        (void)written;
        pthread_join(server->watcher, NULL);
    }
    server->watching = false;
    if (server->epoll_fd >= 0)
        close(server->epoll_fd);
    if (server->wake_fd >= 0)
        close(server->wake_fd);
    server->epoll_fd = server->wake_fd = -1;
}
