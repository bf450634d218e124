/* Which URL does what, and who may ask. */
#include <math.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/sha256.h"
#include "supervisor/serve/http_internal.h"
#include "supervisor/serve/reports.h"
#include "supervisor/serve/web.h"

static void run_generation(ofr_exchange *exchange, const char *rest)
{
    (void)rest;
    ofr_service *service = exchange->server->options.service;
    ofr_api_request request = {0};
    ofr_api_error err = {0};
    int r = ofr_api_request_parse((enum ofr_api)exchange->route->api, exchange->body,
                                  exchange->body_size, service->vocab_size, &request, &err);
    if (r == 0)
        r = ofr_report_check_model(service, request.model, &err);
    if (r < 0) {
        ofr_api_request_done(&request);
        ofr_exchange_fail(exchange, &err);
        return;
    }
    uint64_t owner = exchange->owner;
    for (const char *c = request.user ? request.user : ""; *c; c++)
        owner = (owner ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
    exchange->stream = request.stream;
    ofr_answer_sink sink = ofr_exchange_sink(exchange);
    r = ofr_answer_start(service, &request, &sink, owner, exchange->arrived_ns, &exchange->canceled,
                         &err);
    if (r < 0) {
        ofr_exchange_release(exchange); /* the sink's */
        ofr_exchange_fail(exchange, &err);
    }
}

static void run_text(ofr_exchange *exchange, const char *rest)
{
    (void)rest;
    ofr_service *service = exchange->server->options.service;
    ofr_api_request request = {0};
    ofr_api_error err = {0};
    ofr_text out = {0};
    int r = ofr_api_request_parse((enum ofr_api)exchange->route->api, exchange->body,
                                  exchange->body_size, service->vocab_size, &request, &err);
    if (r == 0)
        r = request.api == OFR_API_TOKENIZE ? ofr_report_tokenize(service, &request, &out, &err)
                                            : ofr_report_detokenize(service, &request, &out, &err);
    if (r < 0)
        ofr_exchange_fail(exchange, &err);
    else
        ofr_exchange_reply(exchange, 200, "application/json", out.data, out.size);
    ofr_text_done(&out);
    ofr_api_request_done(&request);
}

static void run_models(ofr_exchange *exchange, const char *rest)
{
    ofr_service *service = exchange->server->options.service;
    ofr_text out = {0};
    ofr_api_error err = {0};
    int r = *rest ? ofr_report_check_model(service, rest, &err) : 0;
    if (r < 0) {
        ofr_exchange_fail(exchange, &err);
        return;
    }
    ofr_report_models(service, *rest == 0, &out);
    ofr_exchange_reply(exchange, 200, "application/json", out.data, out.size);
    ofr_text_done(&out);
}

static void run_metrics(ofr_exchange *exchange, const char *rest)
{
    (void)rest;
    ofr_text out = {0};
    ofr_report_metrics(exchange->server->options.service, &out);
    ofr_exchange_reply(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", out.data,
                       out.size);
    ofr_text_done(&out);
}

static void run_status(ofr_exchange *exchange, const char *rest)
{
    (void)rest;
    ofr_text out = {0};
    ofr_report_status(exchange->server->options.service, &out);
    ofr_exchange_reply(exchange, 200, "application/json", out.data, out.size);
    ofr_text_done(&out);
}

static void run_asset(ofr_exchange *exchange, const char *rest)
{
    (void)rest;
    ofr_web_asset asset = {0};
    ofr_web_find(exchange->route->path, &asset);
    ofr_exchange_reply(exchange, 200, asset.content_type, (const char *)asset.data, asset.size);
}

static void run_options(ofr_exchange *exchange, const char *rest)
{
    (void)rest;
    ofr_exchange_reply(exchange, 204, "text/plain", "", 0);
}

/* A token that was chosen so lately is proof enough. */
static const uint64_t HEALTHY_NS = UINT64_C(10000000000), PROBE_NS = UINT64_C(10000000000);

/* One number is enough; beside answers that need logits there are logits. */
static uint32_t probe_candidates_wanted(void *user)
{
    (void)user;
    return 1;
}

static int probe_next(void *user, const ofr_prediction *prediction, int32_t *ret_token,
                      ofr_error *err)
{
    const ofr_exchange *exchange = user;
    ofr_candidate best;
    if (prediction->candidates)
        best = prediction->candidates[0];
    else
        ofr_candidates_select(prediction->logits,
                              (int32_t)exchange->server->options.service->vocab_size, 1, &best);
    if (!isfinite(best.logit))
        return ofr_fail(err, OFR_EDEVICE, "the device returned no usable logits");
    *ret_token = -1;
    return 0;
}

static void probe_end(void *user, int status, const ofr_error *err, const ofr_batch_report *report)
{
    ofr_exchange *exchange = user;
    ofr_text out = {0};
    (void)report;
    ofr_text_print(&out, "{\"status\":\"%s\"", status == 0 ? "ok" : "unavailable");
    if (status < 0) {
        ofr_text_print(&out, ",\"reason\":");
        ofr_text_add_json_string(&out, err->text);
    }
    ofr_text_print(&out, "}");
    ofr_exchange_reply(exchange, status == 0 ? 200 : 503, "application/json", out.data, out.size);
    ofr_text_done(&out);
    ofr_exchange_release(exchange);
}

static void run_health(ofr_exchange *exchange, const char *rest)
{
    (void)rest;
    static const char ok[] = "{\"status\":\"ok\"}";
    ofr_service *service = exchange->server->options.service;
    uint64_t last = atomic_load(&ofr_batch_get_counters(service->batch)->last_token_ns);
    uint64_t now = ofr_clock_ns();
    if (last && now - last < HEALTHY_NS) {
        ofr_exchange_reply(exchange, 200, "application/json", ok, sizeof ok - 1);
        return;
    }
    int32_t bos = service->session->tokenizer_info.bos_id;
    int32_t token = bos >= 0 ? bos : 0;
    ofr_batch_request probe = {.tokens = &token,
                               .n_tokens = 1,
                               .first = true,
                               .canceled = &exchange->canceled,
                               .next = probe_next,
                               .candidates_wanted = probe_candidates_wanted,
                               .end = probe_end,
                               .user = exchange};
    ofr_error err = {0};
    pthread_mutex_lock(&exchange->lock);
    exchange->deadline_ns = now + PROBE_NS;
    pthread_mutex_unlock(&exchange->lock);
    atomic_fetch_add(&exchange->references, 1);
    int r = ofr_batch_submit(service->batch, &probe, 1, &err);
    if (r < 0)
        probe_end(exchange, r, &err, NULL);
}

/* method, path, open, endpoint, run, api */
static const ofr_route routes[] = {
    {"POST", "/v1/chat/completions", false, OFR_ENDPOINT_CHAT, run_generation, OFR_API_CHAT},
    {"POST", "/v1/completions", false, OFR_ENDPOINT_COMPLETIONS, run_generation,
     OFR_API_COMPLETION},
    {"POST", "/v1/responses", false, OFR_ENDPOINT_RESPONSES, run_generation, OFR_API_RESPONSES},
    {"POST", "/v1/embeddings", false, OFR_ENDPOINT_EMBEDDINGS, run_generation, OFR_API_EMBEDDINGS},
    {"POST", "/tokenize", false, OFR_ENDPOINT_TOKENIZE, run_text, OFR_API_TOKENIZE},
    {"POST", "/detokenize", false, OFR_ENDPOINT_DETOKENIZE, run_text, OFR_API_DETOKENIZE},
    {"GET", "/v1/models", false, OFR_ENDPOINT_OTHER, run_models, 0},
    {"GET", "/v1/models/", false, OFR_ENDPOINT_OTHER, run_models, 0},
    {"GET", "/health", true, OFR_ENDPOINT_OTHER, run_health, 0},
    {"GET", "/metrics", false, OFR_ENDPOINT_OTHER, run_metrics, 0},
    {"GET", "/status", false, OFR_ENDPOINT_OTHER, run_status, 0},
    {"GET", "/", true, OFR_ENDPOINT_OTHER, run_asset, 0},
    {"GET", "/style.css", true, OFR_ENDPOINT_OTHER, run_asset, 0},
    {"GET", "/app.js", true, OFR_ENDPOINT_OTHER, run_asset, 0},
    {"GET", "/markdown.js", true, OFR_ENDPOINT_OTHER, run_asset, 0},
};
static const ofr_route preflight = {"OPTIONS", "", true, OFR_ENDPOINT_OTHER, run_options, 0};

/* NULL: another path; otherwise what follows it. */
static const char *match(const char *path, const char *url)
{
    size_t size = strlen(path);
    if (strcmp(path, url) == 0)
        return "";
    if (size > 1 && path[size - 1] == '/' && strncmp(path, url, size) == 0)
        return url + size;
    return NULL;
}

const ofr_route *ofr_route_find(const char *method, const char *url, const char **ret_rest,
                                ofr_api_error *err)
{
    bool known = false;
    *ret_rest = "";
    if (strcmp(method, "OPTIONS") == 0)
        return &preflight;
    /* HEAD is GET without a body, which libmicrohttpd sees to. */
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const char *rest = match(routes[i].path, url);
        if (!rest)
            continue;
        known = true;
        if (strcmp(routes[i].method, wanted) == 0) {
            *ret_rest = rest;
            return &routes[i];
        }
    }
    if (known)
        ofr_api_fail_as(err, 405, "invalid_request_error", "method_not_allowed",
                        "%.20s is not allowed for %.200s", method, url);
    else
        ofr_api_fail_as(err, 404, "invalid_request_error", "unknown_url",
                        "unknown request URL: %.20s %.200s", method, url);
    return NULL;
}

static const char *header(const ofr_exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

/* Name and port of "Host"; brackets of an IPv6 address belong to the name. */
static bool is_local_name(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t size = strlen(names[i]);
        if (strncasecmp(host, names[i], size) == 0 && (host[size] == 0 || host[size] == ':'))
            return true;
    }
    return false;
}

/* A page of another site can make a browser send requests here. Such a request has an Origin that
 * is not this server's, or (with a name that was rebound to this machine) another Host. */
static int check_browser(const ofr_exchange *exchange, ofr_api_error *err)
{
    const ofr_http_options *options = &exchange->server->options;
    const char *host = header(exchange, MHD_HTTP_HEADER_HOST);
    const char *origin = header(exchange, MHD_HTTP_HEADER_ORIGIN);
    if (options->loopback && options->n_keys == 0 && host && !is_local_name(host))
        return ofr_api_fail_as(err, 403, "permission_error", "unknown_host",
                               "Host '%.100s' is no name of this machine; with --api_key_file any "
                               "name is taken",
                               host);
    const char *authority = origin ? strstr(origin, "://") : NULL;
    if (!origin || (options->cors_origin && strcmp(options->cors_origin, "*") == 0) ||
        (options->cors_origin && strcasecmp(options->cors_origin, origin) == 0) ||
        (authority && host && strcasecmp(authority + 3, host) == 0))
        return 0;
    return ofr_api_fail_as(err, 403, "permission_error", "unknown_origin",
                           "requests from pages of '%.100s' are refused; --cors_origin allows them",
                           origin);
}

static int check_key(ofr_exchange *exchange, ofr_api_error *err)
{
    const ofr_http_options *options = &exchange->server->options;
    const char *given = header(exchange, MHD_HTTP_HEADER_AUTHORIZATION);
    char hash[OFR_SHA256_HEX_SIZE];
    bool bearer = given && strncasecmp(given, "Bearer ", 7) == 0;
    if (options->n_keys == 0)
        return 0;
    /* Hashes have one length, and all of them are compared, whatever the first ones say. */
    uint32_t found = 0;
    if (bearer && ofr_sha256_hex(given + 7, strlen(given + 7), hash, NULL) == 0)
        for (uint32_t i = 0; i < options->n_keys; i++)
            if (CRYPTO_memcmp(hash, options->key_hashes[i], OFR_SHA256_HEX_SIZE - 1) == 0)
                found = i + 1;
    if (!found)
        return ofr_api_fail_as(err, 401, "authentication_error", "invalid_api_key",
                               given ? "the API key is wrong"
                                     : "an API key is needed: Authorization: Bearer KEY");
    exchange->owner = (exchange->owner ^ found) * UINT64_C(0x100000001b3);
    return 0;
}

int ofr_route_authorize(ofr_exchange *exchange, ofr_api_error *err)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    exchange->owner = UINT64_C(0xcbf29ce484222325);
    const struct sockaddr *address = info ? info->client_addr : NULL;
    const unsigned char *bytes = NULL;
    size_t size = 0;
    if (address && address->sa_family == AF_INET) {
        bytes =
            (const unsigned char *)&((const struct sockaddr_in *)(const void *)address)->sin_addr;
        size = 4;
    } else if (address && address->sa_family == AF_INET6) {
        bytes =
            (const unsigned char *)&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
        size = 16;
    }
    for (size_t i = 0; i < size; i++)
        exchange->owner = (exchange->owner ^ bytes[i]) * UINT64_C(0x100000001b3);
    int r = check_browser(exchange, err);
    if (r == 0 && !exchange->route->open)
        r = check_key(exchange, err);
    return r;
}
