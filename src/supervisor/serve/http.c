/* Requests and answers over libmicrohttpd. */
#include "supervisor/serve/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/clock.h"
#include "supervisor/serve/http_internal.h"

enum {
    CONNECTION_MEMORY = 32 * 1024, /* request line and headers */
    STREAM_BLOCK = 16 * 1024,
    STREAM_MAX = 16 << 20, /* bytes that wait for one reader; then it is given up */
    COMPACT_MIN = 64 * 1024,
};

void ofr_exchange_release(ofr_exchange *exchange)
{
    if (atomic_fetch_sub(&exchange->references, 1) != 1)
        return;
    pthread_mutex_destroy(&exchange->lock);
    ofr_text_done(&exchange->out);
    free(exchange->body);
    free(exchange);
}

/* With the exchange's lock held. */
static void wake(ofr_exchange *exchange)
{
    if (exchange->waiting)
        MHD_resume_connection(exchange->connection);
    exchange->waiting = false;
}

static void end_exchange(ofr_exchange *exchange, unsigned status, const char *content_type,
                         const char *data, size_t size)
{
    pthread_mutex_lock(&exchange->lock);
    if (!exchange->ended) {
        exchange->ended = true;
        exchange->status = status;
        exchange->content_type = content_type;
        ofr_text_add(&exchange->out, data, size);
        wake(exchange);
    }
    pthread_mutex_unlock(&exchange->lock);
}

void ofr_exchange_reply(ofr_exchange *exchange, unsigned status, const char *content_type,
                        const char *data, size_t size)
{
    end_exchange(exchange, status, content_type, data, size);
}

void ofr_exchange_fail(ofr_exchange *exchange, const ofr_api_error *err)
{
    ofr_text text = {0};
    ofr_answer_print_error(&text, err);
    pthread_mutex_lock(&exchange->lock);
    ofr_text_clear(&exchange->out); /* a stream that was begun and not accepted */
    exchange->stream = false;
    pthread_mutex_unlock(&exchange->lock);
    end_exchange(exchange, err->status, "application/json", text.data, text.size);
    ofr_text_done(&text);
}

static bool sink_write(void *user, const char *data, size_t size)
{
    ofr_exchange *exchange = user;
    pthread_mutex_lock(&exchange->lock);
    if (exchange->taken > COMPACT_MIN) {
        exchange->out.size -= exchange->taken;
        memmove(exchange->out.data, exchange->out.data + exchange->taken, exchange->out.size);
        exchange->taken = 0;
    }
    ofr_text_add(&exchange->out, data, size);
    if (exchange->out.failed || exchange->out.size - exchange->taken > STREAM_MAX)
        atomic_store(&exchange->canceled, true);
    wake(exchange);
    pthread_mutex_unlock(&exchange->lock);
    return !atomic_load(&exchange->canceled);
}

static void sink_end(void *user, unsigned status, const char *data, size_t size)
{
    ofr_exchange *exchange = user;
    end_exchange(exchange, status, "application/json", data, size);
    ofr_exchange_release(exchange);
}

ofr_answer_sink ofr_exchange_sink(ofr_exchange *exchange)
{
    atomic_fetch_add(&exchange->references, 1);
    return (ofr_answer_sink){.write = sink_write, .end = sink_end, .user = exchange};
}

/* libmicrohttpd asks for more of a stream. */
static ssize_t read_stream(void *user, uint64_t position, char *data, size_t room)
{
    ofr_exchange *exchange = user;
    ssize_t n = 0;
    (void)position;
    pthread_mutex_lock(&exchange->lock);
    size_t left = exchange->out.size - exchange->taken;
    if (left > 0) {
        n = (ssize_t)(left < room ? left : room);
        memcpy(data, exchange->out.data + exchange->taken, (size_t)n);
        exchange->taken += (size_t)n;
        if (exchange->taken == exchange->out.size) {
            ofr_text_clear(&exchange->out);
            exchange->taken = 0;
        }
    } else if (exchange->ended) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        exchange->waiting = true;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->lock);
    return n;
}

static void stream_done(void *user)
{
    ofr_exchange_release(user);
}

static void add_headers(const ofr_exchange *exchange, struct MHD_Response *response)
{
    const ofr_http_options *options = &exchange->server->options;
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (options->cors_origin) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", options->cors_origin);
        MHD_add_response_header(response, "Access-Control-Allow-Headers",
                                "Authorization, Content-Type");
        MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        MHD_add_response_header(response, "Vary", "Origin");
    }
}

static enum MHD_Result queue_stream(ofr_exchange *exchange)
{
    atomic_fetch_add(&exchange->references, 1);
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, exchange, stream_done);
    if (!response) {
        ofr_exchange_release(exchange);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                            "text/event-stream; charset=utf-8");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    add_headers(exchange, response);
    enum MHD_Result r = MHD_queue_response(exchange->connection, 200, response);
    MHD_destroy_response(response);
    return r;
}

/* The exchange has ended: its status and body. */
static enum MHD_Result queue_body(ofr_exchange *exchange)
{
    pthread_mutex_lock(&exchange->lock);
    if (exchange->out.failed)
        exchange->status = 500;
    struct MHD_Response *response = MHD_create_response_from_buffer(
        exchange->out.size, exchange->out.data ? exchange->out.data : (char *)"",
        MHD_RESPMEM_MUST_COPY);
    unsigned status = exchange->status;
    const char *type = exchange->content_type;
    pthread_mutex_unlock(&exchange->lock);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                            type ? type : "application/json");
    if (type && strncmp(type, "text/html", 9) == 0)
        MHD_add_response_header(response, "Content-Security-Policy",
                                "default-src 'none'; script-src 'self'; style-src 'self'; "
                                "img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
                                "form-action 'none'; frame-ancestors 'none'");
    if (status == 401)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (status == 429 || status == 503) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%u",
                 ofr_batch_retry_after(exchange->server->options.service->batch));
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
    add_headers(exchange, response);
    enum MHD_Result r = MHD_queue_response(exchange->connection, status, response);
    MHD_destroy_response(response);
    return r;
}

static void set_deadline(ofr_exchange *exchange, uint64_t seconds)
{
    pthread_mutex_lock(&exchange->server->lock);
    if (exchange->socket)
        exchange->socket->deadline_ns = seconds ? ofr_clock_ns() + seconds * 1000000000 : 0;
    pthread_mutex_unlock(&exchange->server->lock);
}

static ofr_exchange *new_exchange(ofr_http_server *server, struct MHD_Connection *connection)
{
    ofr_exchange *exchange = calloc(1, sizeof *exchange);
    if (!exchange)
        return NULL;
    const union MHD_ConnectionInfo *socket =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    exchange->server = server;
    exchange->connection = connection;
    exchange->socket = socket ? socket->socket_context : NULL;
    exchange->arrived_ns = ofr_clock_ns();
    atomic_init(&exchange->references, 1);
    pthread_mutex_init(&exchange->lock, NULL);
    pthread_mutex_lock(&server->lock);
    exchange->next = server->exchanges;
    if (exchange->next)
        exchange->next->previous = exchange;
    server->exchanges = exchange;
    pthread_mutex_unlock(&server->lock);
    return exchange;
}

/* What can be said before the body is there. */
static int check_head(ofr_exchange *exchange, const char *method, const char *url,
                      ofr_api_error *err)
{
    const ofr_http_options *options = &exchange->server->options;
    const char *rest = NULL;
    exchange->route = ofr_route_find(method, url, &rest, err);
    if (!exchange->route)
        return OFR_EINVAL;
    int r = ofr_route_authorize(exchange, err);
    if (r < 0)
        return r;
    const char *length = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND,
                                                     MHD_HTTP_HEADER_CONTENT_LENGTH);
    const char *encoding = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND,
                                                       MHD_HTTP_HEADER_CONTENT_ENCODING);
    if (encoding && strcasecmp(encoding, "identity") != 0)
        return ofr_api_fail_as(err, 415, "invalid_request_error", NULL,
                               "a body with Content-Encoding '%.40s' is not supported", encoding);
    if (length && strtoull(length, NULL, 10) > options->body_max)
        return ofr_api_fail_as(err, 413, "invalid_request_error", "request_too_large",
                               "the body is larger than %llu bytes",
                               (unsigned long long)options->body_max);
    return 0;
}

static int add_body(ofr_exchange *exchange, const char *data, size_t size, ofr_api_error *err)
{
    uint64_t most = exchange->server->options.body_max;
    if (size > most - exchange->body_size)
        return ofr_api_fail_as(err, 413, "invalid_request_error", "request_too_large",
                               "the body is larger than %llu bytes", (unsigned long long)most);
    if (size > exchange->body_room - exchange->body_size) {
        size_t room = (exchange->body_size + size) * 2;
        char *grown = realloc(exchange->body, room);
        if (!grown)
            return ofr_api_fail_as(err, 503, "server_error", NULL, "no memory for the body");
        exchange->body = grown;
        exchange->body_room = room;
    }
    memcpy(exchange->body + exchange->body_size, data, size);
    exchange->body_size += size;
    return 0;
}

/* The request is complete: answers it, or waits for the answer. */
static enum MHD_Result start(ofr_exchange *exchange, const char *method, const char *url)
{
    ofr_api_error err = {0};
    const char *rest = NULL;
    set_deadline(exchange, 0);
    pthread_mutex_lock(&exchange->server->lock);
    exchange->started = true;
    if (exchange->socket && exchange->socket->left_ns)
        atomic_store(&exchange->canceled, true);
    pthread_mutex_unlock(&exchange->server->lock);
    if (!exchange->ended) {
        ofr_route_find(method, url, &rest, &err);
        exchange->route->run(exchange, rest);
    }
    if (exchange->stream)
        return queue_stream(exchange);
    pthread_mutex_lock(&exchange->lock);
    bool ended = exchange->ended;
    if (!ended) {
        exchange->waiting = true;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->lock);
    return ended ? queue_body(exchange) : MHD_YES;
}

static enum MHD_Result handle(void *user, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **state)
{
    ofr_http_server *server = user;
    ofr_exchange *exchange = *state;
    ofr_api_error err = {0};
    (void)version;
    if (!exchange) {
        exchange = new_exchange(server, connection);
        if (!exchange)
            return MHD_NO;
        *state = exchange;
        set_deadline(exchange, server->options.timeout_s);
        /* A refused body is read all the same, within the time for a request: closing the
         * connection on a client that still writes would lose it the answer. */
        if (check_head(exchange, method, url, &err) < 0)
            ofr_exchange_fail(exchange, &err);
        return MHD_YES;
    }
    if (*size > 0) {
        if (!exchange->ended && add_body(exchange, data, *size, &err) < 0)
            ofr_exchange_fail(exchange, &err);
        *size = 0;
        return MHD_YES;
    }
    if (!exchange->started)
        return start(exchange, method, url);
    return queue_body(exchange);
}

static void completed(void *user, struct MHD_Connection *connection, void **state,
                      enum MHD_RequestTerminationCode how)
{
    ofr_http_server *server = user;
    ofr_exchange *exchange = *state;
    (void)connection;
    if (!exchange)
        return;
    *state = NULL;
    atomic_store(&exchange->canceled, true);
    set_deadline(exchange, server->options.timeout_s);
    bool whole = how == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    ofr_metrics_count(&server->options.service->metrics,
                      exchange->route ? exchange->route->endpoint : OFR_ENDPOINT_OTHER,
                      !whole             ? 0
                      : exchange->stream ? 200
                                         : exchange->status);
    pthread_mutex_lock(&server->lock);
    if (exchange->previous)
        exchange->previous->next = exchange->next;
    else
        server->exchanges = exchange->next;
    if (exchange->next)
        exchange->next->previous = exchange->previous;
    pthread_mutex_unlock(&server->lock);
    ofr_exchange_release(exchange);
}

static void connection_changed(void *user, struct MHD_Connection *connection, void **context,
                               enum MHD_ConnectionNotificationCode what)
{
    ofr_http_server *server = user;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        ofr_http_connection *made = calloc(1, sizeof *made);
        *context = made;
        if (!made || !info)
            return;
        made->fd = info->connect_fd;
        made->deadline_ns = ofr_clock_ns() + server->options.timeout_s * UINT64_C(1000000000);
        pthread_mutex_lock(&server->lock);
        made->next = server->connections;
        if (made->next)
            made->next->previous = made;
        server->connections = made;
        made->id = ++server->next_id;
        ofr_watch_connection(server, made);
        pthread_mutex_unlock(&server->lock);
        atomic_fetch_add(&server->options.service->metrics.connections, 1);
        return;
    }
    ofr_http_connection *gone = *context;
    if (!gone)
        return;
    pthread_mutex_lock(&server->lock);
    ofr_watch_forget(server, gone);
    if (gone->previous)
        gone->previous->next = gone->next;
    else
        server->connections = gone->next;
    if (gone->next)
        gone->next->previous = gone->previous;
    pthread_mutex_unlock(&server->lock);
    atomic_fetch_sub(&server->options.service->metrics.connections, 1);
    free(gone);
    *context = NULL;
}

int ofr_http_start(const ofr_http_options *options, ofr_http_server **ret_server, ofr_error *err)
{
    ofr_http_server *server = calloc(1, sizeof *server);
    if (!server) {
        close(options->listen_fd);
        return ofr_fail(err, OFR_ENOMEM, "no memory for the server");
    }
    server->options = *options;
    server->epoll_fd = server->wake_fd = -1;
    pthread_mutex_init(&server->lock, NULL);
    int r = ofr_watch_start(server, err);
    if (r == 0) {
        server->daemon = MHD_start_daemon(
            MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, server,
            MHD_OPTION_LISTEN_SOCKET, options->listen_fd, MHD_OPTION_NOTIFY_COMPLETED, completed,
            server, MHD_OPTION_NOTIFY_CONNECTION, connection_changed, server,
            MHD_OPTION_CONNECTION_LIMIT, options->connections_max, MHD_OPTION_CONNECTION_TIMEOUT,
            options->timeout_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
            MHD_OPTION_THREAD_POOL_SIZE, options->threads, MHD_OPTION_END);
        if (!server->daemon)
            r = ofr_fail(err, OFR_EIO, "the HTTP server does not start");
    }
    if (r < 0) {
        close(options->listen_fd);
        ofr_http_stop(server);
        return r;
    }
    *ret_server = server;
    return 0;
}

void ofr_http_drain(ofr_http_server *server)
{
    int fd = MHD_quiesce_daemon(server->daemon);
    if (fd >= 0)
        close(fd);
    pthread_mutex_lock(&server->lock);
    for (ofr_exchange *exchange = server->exchanges; exchange; exchange = exchange->next)
        atomic_store(&exchange->canceled, true);
    pthread_mutex_unlock(&server->lock);
}

ofr_http_server *ofr_http_stop(ofr_http_server *server)
{
    if (!server)
        return NULL;
    if (server->daemon)
        MHD_stop_daemon(server->daemon);
    ofr_watch_stop(server);
    pthread_mutex_destroy(&server->lock);
    free(server);
    return NULL;
}
