/* The HTTP side: libmicrohttpd, limits, connections that end too early or read too slowly.
 *
 * Threads: libmicrohttpd's, which read requests, run the handlers and write answers; the batch's,
 * which adds to answers; and one that watches for clients that are gone and for deadlines. An
 * exchange (one request and its answer) is shared by the first two and freed by whoever is last.
 * Lock order: server, then exchange. */
#ifndef OFR_SUPERVISOR_SERVE_HTTP_H
#define OFR_SUPERVISOR_SERVE_HTTP_H

#include <stdbool.h>
#include <stdint.h>

#include "supervisor/serve/service.h"

typedef struct ofr_http_server ofr_http_server;

typedef struct ofr_http_options {
    ofr_service *service; /* borrowed */
    int listen_fd;        /* taken over */
    uint32_t threads;     /* of libmicrohttpd */
    uint32_t connections_max;
    uint64_t body_max;      /* bytes */
    uint32_t timeout_s;     /* to send a request, or without any progress */
    char (*key_hashes)[65]; /* [n_keys] sha256 in hex; borrowed; none: everybody may ask */
    uint32_t n_keys;
    const char *cors_origin; /* NULL: no CORS headers */
    bool loopback;           /* only names of this machine are taken as Host without a key */
} ofr_http_options;

int ofr_http_start(const ofr_http_options *options, ofr_http_server **ret_server, ofr_error *err);
/* Takes no new connections and cancels what runs; call before the batch is freed. */
void ofr_http_drain(ofr_http_server *server);
/* After the batch is freed: every answer has ended. Accepts NULL. */
ofr_http_server *ofr_http_stop(ofr_http_server *server);

#endif
