/* What http.c, watch.c and routes.c share. */
#ifndef OFR_SUPERVISOR_SERVE_HTTP_INTERNAL_H
#define OFR_SUPERVISOR_SERVE_HTTP_INTERNAL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "supervisor/serve/answer.h"
#include "supervisor/serve/http.h"

/* A TCP connection; several requests may come over it. Guarded by the server's lock. */
typedef struct ofr_http_connection {
    struct ofr_http_connection *previous, *next;
    int fd;
    uint64_t id;
    uint64_t deadline_ns; /* by when the next request must be here; 0: none is awaited */
    uint64_t left_ns;     /* when the client's end came; 0: it may still send */
} ofr_http_connection;

typedef struct ofr_exchange {
    struct ofr_exchange *previous, *next; /* guarded by the server's lock */
    ofr_http_server *server;
    struct MHD_Connection *connection;
    ofr_http_connection *socket;
    const struct ofr_route *route;
    uint64_t arrived_ns, owner;
    char *body; /* [body_size], owned */
    size_t body_size, body_room;
    bool started; /* guarded by the server's lock */
    atomic_bool canceled;
    atomic_int references;
    pthread_mutex_t lock; /* guards what follows */
    uint64_t deadline_ns; /* answered with 503 then; 0: none */
    bool stream, waiting, ended;
    unsigned status;
    const char *content_type;
    ofr_text out; /* [taken, out.size) is still to be sent */
    size_t taken;
} ofr_exchange;

struct ofr_http_server {
    ofr_http_options options;
    struct MHD_Daemon *daemon;
    pthread_t watcher;
    bool watching;
    int epoll_fd, wake_fd;
    pthread_mutex_t lock; /* guards what follows */
    ofr_exchange *exchanges;
    ofr_http_connection *connections;
    uint64_t next_id;
    bool stopping;
};

/* A URL and what it does. */
typedef struct ofr_route {
    const char *method, *path; /* a path that ends in / takes what follows */
    bool open;                 /* needs no key */
    enum ofr_endpoint endpoint;
    /* Answers now (ofr_exchange_reply) or later (through ofr_exchange_sink). `rest` is what follows
     * the path. Runs once, with the whole body there. */
    void (*run)(ofr_exchange *exchange, const char *rest);
    int api; /* enum ofr_api of run */
} ofr_route;

/* The route of a request; otherwise NULL and the error. *ret_rest points into url. */
const ofr_route *ofr_route_find(const char *method, const char *url, const char **ret_rest,
                                ofr_api_error *err);
/* May this request be answered? Key, Host and Origin. */
int ofr_route_authorize(ofr_exchange *exchange, ofr_api_error *err);

/* Ends the exchange with a body, which is copied. */
void ofr_exchange_reply(ofr_exchange *exchange, unsigned status, const char *content_type,
                        const char *data, size_t size);
void ofr_exchange_fail(ofr_exchange *exchange, const ofr_api_error *err);
/* A sink that holds a reference of its own until its end. */
ofr_answer_sink ofr_exchange_sink(ofr_exchange *exchange);
void ofr_exchange_release(ofr_exchange *exchange);

/* The watcher. */
int ofr_watch_start(ofr_http_server *server, ofr_error *err);
void ofr_watch_stop(ofr_http_server *server);
/* With the server's lock held. The client's leaving cancels what runs for it. */
void ofr_watch_connection(ofr_http_server *server, ofr_http_connection *connection);
void ofr_watch_forget(ofr_http_server *server, ofr_http_connection *connection);

#endif
