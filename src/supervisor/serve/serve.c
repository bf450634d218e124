/* serve: the HTTP server. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/sha256.h"
#include "supervisor/commands.h"
#include "supervisor/serve/engine.h"
#include "supervisor/serve/http.h"

enum { KEYS_MAX = 1024, KEY_FILE_CAP = 1 << 20 };

static const ofr_command_help help = {
    .name = "serve",
    .usage = "supervisor serve [--host 127.0.0.1] [--port 8000] [--api_key_file F] [options]",
    .text = "Serves the model over HTTP: the API of OpenAI below /v1, and a page to chat at /.\n"
            "Ends with Ctrl-C. documentation/server.md has the endpoints and limits.\n",
};

struct serve_options {
    ofr_common_options common;
    const char *host, *api_key_file, *cors_origin, *model_name, *cache_dir;
    int64_t port, slots, queue, connections, body_bytes, timeout, stall_ms, http_threads;
    bool insecure;
};

static bool parse(struct serve_options *o, int argc, char **argv, int *ret_exit)
{
    const ofr_option table[] = {
        {"host", OFR_OPTION_STRING, &o->host, 0, 0, "ADDRESS",
         "address to listen on (default 127.0.0.1)"},
        {"port", OFR_OPTION_INT, &o->port, 0, 65535, "N", "port (default 8000; 0: any free one)"},
        {"api_key_file", OFR_OPTION_STRING, &o->api_key_file, 0, 0, "F",
         "keys that clients must give, one a line"},
        {"insecure", OFR_OPTION_FLAG, &o->insecure, 0, 0, NULL,
         "listen beyond this machine without keys"},
        {"cors_origin", OFR_OPTION_STRING, &o->cors_origin, 0, 0, "ORIGIN",
         "pages of this origin may ask (default: none)"},
        {"model_name", OFR_OPTION_STRING, &o->model_name, 0, 0, "NAME",
         "the model's id in the API (default: from the package)"},
        {"slots", OFR_OPTION_INT, &o->slots, 1, 64, "N",
         "answers at once, of an executive that this command starts"},
        {"cache_dir", OFR_OPTION_STRING, &o->cache_dir, 0, 0, "DIR",
         "where such an executive keeps the KV of prompts beyond its end"},
        {"queue", OFR_OPTION_INT, &o->queue, 0, 1 << 20, "N",
         "answers that may wait for a slot (default 256); more get 429"},
        {"connections", OFR_OPTION_INT, &o->connections, 1, 1 << 16, "N",
         "most connections at once (default 512)"},
        {"body_bytes", OFR_OPTION_INT, &o->body_bytes, 1024, 1 << 30, "N",
         "largest request (default 8388608)"},
        {"timeout", OFR_OPTION_INT, &o->timeout, 1, 86400, "S",
         "seconds to send a request, or to take a part of an answer (default 60)"},
        {"stall_ms", OFR_OPTION_INT, &o->stall_ms, 1, 10000, "MS",
         "most time that a prompt may hold up running answers at once (default 60)"},
        {"http_threads", OFR_OPTION_INT, &o->http_threads, 1, 64, "N",
         "threads that read requests (default 2)"},
        OFR_OPTIONS_ENGINE(o->common),
        OFR_OPTIONS_CONTEXT(o->common),
        OFR_OPTIONS_HELP(o->common),
    };
    return ofr_command_parse(&help, table, sizeof table / sizeof table[0], argc, argv, &o->common,
                             ret_exit);
}

static int read_keys(const char *path, char (**ret_hashes)[65], uint32_t *ret_n, ofr_error *err)
{
    void *data = NULL;
    size_t size = 0;
    int r = ofr_file_read(path, KEY_FILE_CAP, &data, &size, err);
    if (r < 0)
        return r;
    char(*hashes)[65] = calloc(KEYS_MAX, sizeof *hashes);
    uint32_t n = 0;
    if (!hashes)
        r = ofr_fail(err, OFR_ENOMEM, "no memory for the keys");
    char *rest = data;
    for (char *line = NULL; r == 0 && (line = strsep(&rest, "\n")) != NULL;) {
        while (isspace((unsigned char)*line))
            line++;
        size_t length = strlen(line);
        while (length && isspace((unsigned char)line[length - 1]))
            length--;
        if (length == 0 || *line == '#')
            continue;
        r = n == KEYS_MAX ? ofr_fail(err, OFR_ELIMIT, "%s: more than %d keys", path, KEYS_MAX)
                          : ofr_sha256_hex(line, length, hashes[n++], err);
    }
    if (r == 0 && n == 0)
        r = ofr_fail(err, OFR_EFORMAT, "%s has no key: put one a line", path);
    explicit_bzero(data, size);
    free(data);
    if (r < 0) {
        free(hashes);
        return r;
    }
    *ret_hashes = hashes;
    *ret_n = n;
    return 0;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)address;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *in6 = (const void *)address;
    return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

static int listen_on(const struct addrinfo *found, int *ret_fd, ofr_error *err)
{
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ofr_fail_errno(err, errno, "cannot make a socket");
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0) {
        int r = ofr_fail_errno(err, errno, "cannot listen there");
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static int open_socket(const struct serve_options *o, int *ret_fd, bool *ret_loopback,
                       uint16_t *ret_port, ofr_error *err)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    snprintf(port, sizeof port, "%d", (int)o->port);
    int e = getaddrinfo(o->host, port, &hints, &found);
    if (e != 0)
        return ofr_fail(err, OFR_EINVAL, "--host %s: %s", o->host, gai_strerror(e));
    *ret_loopback = is_loopback(found->ai_addr);
    int r = 0;
    if (!*ret_loopback && !o->api_key_file && !o->insecure)
        r = ofr_fail(err, OFR_EACCESS,
                     "--host %s lets other machines in: give --api_key_file F, or say --insecure",
                     o->host);
    if (r == 0) {
        r = listen_on(found, ret_fd, err);
        if (r < 0)
            ofr_error_prefix(err, r, "%s port %s", o->host, port);
    }
    freeaddrinfo(found);
    if (r == 0) {
        struct sockaddr_storage bound;
        socklen_t size = sizeof bound;
        getsockname(*ret_fd, (struct sockaddr *)&bound, &size);
        *ret_port =
            ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&bound)->sin6_port
                                              : ((struct sockaddr_in *)(void *)&bound)->sin_port);
    }
    return r;
}

/* An id that can stand in a URL: the package's name without spaces. */
static void make_model_id(const ofr_package *package, const char *given, char *ret_id, size_t size)
{
    const char *name = ofr_package_params(package)->name;
    snprintf(ret_id, size, "%s", given ? given : *name ? name : "model");
    for (char *c = ret_id; *c && !given; c++)
        if (isspace((unsigned char)*c) || *c == '/')
            *c = '-';
}

static void fill_service(ofr_service *service, ofr_engine_session *session, const char *model_id)
{
    pthread_mutex_init(&service->plan.lock, NULL);
    const ofr_client_info *info = &session->info;
    service->session = session;
    service->model_id = model_id;
    service->metrics.started_ns = ofr_clock_ns();
    service->created = time(NULL);
    service->n_slots = info->n_slots;
    service->context = info->context;
    service->vocab_size = info->vocab_size;
    service->d_model = ofr_package_params(session->package)->d_model;
    snprintf(service->fingerprint, sizeof service->fingerprint, "fp_%.10s",
             ofr_package_fingerprint(session->package));
    snprintf(service->instance, sizeof service->instance, "%s", info->instance);
    ofr_service_set_plan(&service->plan, info);
}

static int wait_for_signal(ofr_error *err)
{
    sigset_t set;
    int caught = 0;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    int e = sigwait(&set, &caught);
    return e ? ofr_fail_errno(err, e, "cannot wait for signals") : 0;
}

static int start_batch(const struct serve_options *o, ofr_serve_engine *engine,
                       ofr_service *service, ofr_error *err)
{
    ofr_batch_options options = {
        .waiting_max = (uint32_t)o->queue,
        .stall_ns = (uint64_t)o->stall_ms * 1000000,
        .notify = ofr_command_notify,
    };
    ofr_serve_engine_fill(engine, &service->plan, &options.engine);
    int r = ofr_batch_new(&options, &service->batch, err);
    if (r == 0)
        ofr_serve_engine_set_batch(engine, service->batch);
    return r;
}

/* Serves until a signal. */
static int serve(const struct serve_options *o, ofr_serve_engine *engine, int listen_fd,
                 bool loopback, uint16_t port, char (*keys)[65], uint32_t n_keys, ofr_error *err)
{
    char model_id[160];
    ofr_service service = {0};
    ofr_http_server *server = NULL;
    ofr_vocabulary *vocabulary = NULL;
    make_model_id(engine->session->package, o->model_name, model_id, sizeof model_id);
    fill_service(&service, engine->session, model_id);
    int r = ofr_vocabulary_new(engine->session->tokenizer, &vocabulary, err);
    service.vocabulary = vocabulary;
    if (r == 0)
        r = start_batch(o, engine, &service, err);
    if (r < 0) {
        pthread_mutex_destroy(&service.plan.lock);
        ofr_vocabulary_free(vocabulary);
        close(listen_fd);
        return r;
    }
    ofr_http_options options = {
        .service = &service,
        .listen_fd = listen_fd,
        .threads = (uint32_t)o->http_threads,
        .connections_max = (uint32_t)o->connections,
        .body_max = (uint64_t)o->body_bytes,
        .timeout_s = (uint32_t)o->timeout,
        .key_hashes = keys,
        .n_keys = n_keys,
        .cors_origin = o->cors_origin,
        .loopback = loopback,
    };
    r = ofr_http_start(&options, &server, err);
    if (r == 0) {
        bool v6 = strchr(o->host, ':') != NULL;
        ofr_plan_shown shown;
        ofr_service_get_plan(&service.plan, &shown);
        fprintf(stderr, "supervisor: %s on %s, %u slots of %u tokens\n", model_id, shown.device,
                service.n_slots, service.context);
        fprintf(stderr, "supervisor: listening on http://%s%s%s:%u\n", v6 ? "[" : "", o->host,
                v6 ? "]" : "", port);
        r = wait_for_signal(err);
        fprintf(stderr, "supervisor: stopping\n");
        ofr_http_drain(server);
    }
    ofr_serve_engine_set_batch(engine, NULL);
    ofr_batch_free(service.batch);
    ofr_http_stop(server);
    pthread_mutex_destroy(&service.plan.lock);
    ofr_vocabulary_free(vocabulary);
    return r;
}

int ofr_command_serve(int argc, char **argv)
{
    struct serve_options o = {.host = "127.0.0.1",
                              .port = 8000,
                              .queue = 256,
                              .connections = 512,
                              .body_bytes = 8 << 20,
                              .timeout = 60,
                              .stall_ms = 60,
                              .http_threads = 2};
    int exit_code;
    if (!parse(&o, argc, argv, &exit_code))
        return exit_code;
    ofr_error err = {0};
    ofr_engine_session session = {0};
    ofr_serve_engine engine = {.session = &session,
                               .common = &o.common,
                               .slots = (uint32_t)o.slots,
                               .cache_dir = o.cache_dir};
    char(*keys)[65] = NULL;
    uint32_t n_keys = 0;
    int listen_fd = -1;
    bool loopback = false;
    uint16_t port = 0;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    signal(SIGPIPE, SIG_IGN);
    int r = o.api_key_file ? read_keys(o.api_key_file, &keys, &n_keys, &err) : 0;
    if (r == 0)
        r = open_socket(&o, &listen_fd, &loopback, &port, &err);
    if (r == 0)
        r = ofr_engine_session_open(&session, &o.common, false, true, &err);
    if (r == 0)
        r = ofr_serve_engine_open(&engine, &err);
    if (r == 0) {
        /* Threads inherit the mask: only this one takes the signals. */
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        r = serve(&o, &engine, listen_fd, loopback, port, keys, n_keys, &err);
    } else if (listen_fd >= 0) {
        close(listen_fd);
    }
    free(keys);
    ofr_serve_engine_done(&engine);
    ofr_engine_session_done(&session);
    return r < 0 ? ofr_command_fail(help.name, &err) : ofr_command_finish(help.name);
}
