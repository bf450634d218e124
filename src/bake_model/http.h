/* HTTP GET over libcurl, one request at a time, with nothing decided: redirects are not followed,
 * nothing is tried again, and a token goes only where the caller says.
 *
 * An ofr_http keeps its connection between requests; it belongs to one thread at a time. */
#ifndef OFR_BAKE_MODEL_HTTP_H
#define OFR_BAKE_MODEL_HTTP_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct ofr_http ofr_http;

typedef struct ofr_http_request {
    const char *url;   /* http or https */
    const char *token; /* sent as a bearer token to exactly this host; NULL: none */
    bool ranged;
    uint64_t begin, end; /* bytes [begin, end), with `ranged` */
    /* Where the body of a 2xx response goes; more than `size` bytes end the request. */
    char *data;
    size_t size;
    unsigned timeout_s;                  /* without a byte for so long, it has failed */
    const atomic_bool *stop;             /* ends it soon after one of these is set; either may be */
    const volatile sig_atomic_t *cancel; /* NULL */
} ofr_http_request;

typedef struct ofr_http_response {
    long status;           /* 0: no response came */
    size_t received;       /* bytes in `data`, also where the connection broke */
    bool overflow;         /* the body is longer than there was room for */
    char location[4096];   /* where a 3xx sends to, absolute; "" */
    int64_t retry_after_s; /* -1: not stated */
    /* "bytes <first>-<last>/<total>"; -1: not stated */
    int64_t range_first, range_total;
    char linked_etag[128]; /* what the hub says of a file that lies elsewhere: its sha256, ... */
    int64_t linked_size;   /* ... and size; "" and -1: not stated */
    char error_code[64];   /* X-Error-Code of the hub */
    char error_text[256];  /* X-Error-Message */
} ofr_http_response;

/* Around all other calls, before there are threads. Counted: every begin needs its end. */
int ofr_http_begin(ofr_error *err);
void ofr_http_end(void);

int ofr_http_new(ofr_http **ret_http, ofr_error *err);
/* Accepts NULL; returns NULL. */
ofr_http *ofr_http_free(ofr_http *http);

/* 0 where a complete response came, whatever its status; OFR_EIO where the network failed (the text
 * names the host, never more of the address); OFR_ECANCELED. The response is filled as far as it
 * came in any case. */
int ofr_http_get(ofr_http *http, const ofr_http_request *request, ofr_http_response *response,
                 ofr_error *err);

/* "https://host:port" of an address, in lower case, the port always written. False: not an address
 * of http or https, or one with a user name in it. */
bool ofr_http_origin(const char *url, char *ret_origin, size_t size);
/* Is the origin this machine, by its name or address? */
bool ofr_http_is_loopback(const char *origin);
/* `text` escaped for a path; slashes stay. malloc'ed; NULL: out of memory. */
char *ofr_http_escape_path(const char *text);

#endif
