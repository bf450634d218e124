/* Requests to the hub: redirects, patience, and what its answers mean. */
#include "bake_model/hub.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bake_model/http.h"
#include "bake_model/hub_listing.h"
#include "bake_model/hub_token.h"
#include "bake_model/source_stream.h"
#include "base/file.h"
#include "base/progress.h"

enum {
    LISTING_CAP = 64 << 20,
    MAX_REDIRECTS = 8,
    MAX_STALE_ADDRESSES = 4,
    FIRST_WAIT_MS = 200,
    LONGEST_WAIT_MS = 10000,
    LONGEST_RETRY_AFTER_S = 600,
    SMALL_FILE_BYTES = 1 << 20,
};

typedef struct hub_file {
    ofr_hub_entry entry;
    char *address;           /* where the hub redirected to last; owned; under `lock` */
    uint64_t address_number; /* changes with it */
} hub_file;

struct ofr_hub {
    ofr_hub_options options;
    char *endpoint, *token;
    char origin[300]; /* of the endpoint: the only one that gets the token */
    char commit[OFR_HUB_COMMIT_SIZE];
    hub_file *files; /* [n_files] */
    size_t n_files;
    size_t added[OFR_SOURCE_MAX_FILES]; /* files of the source, as indices of `files` */
    size_t n_added;
    pthread_mutex_t lock;                      /* of the files' addresses; the only lock here */
    ofr_http *main;                            /* of the thread that opened the hub */
    ofr_http *workers[OFR_SOURCE_MAX_WORKERS]; /* each made and used by its own thread */
};

/* One request with everything that may come between it and its answer. */
typedef struct exchange {
    ofr_hub *hub;
    ofr_http *http;
    const char *what; /* for errors: "config.json"; NULL: the repository itself */
    hub_file *file;   /* keeps the address that the hub redirects to; NULL: none */
    const char *first_url;
    const atomic_bool *stop;
} exchange;

static bool is_stopped(const exchange *x)
{
    const volatile sig_atomic_t *cancel = x->hub->options.cancel;
    return (x->stop && *x->stop) || (cancel && *cancel);
}

static int fail_stopped(ofr_error *err)
{
    return ofr_fail(err, OFR_ECANCELED, "interrupted; run the same command again to continue");
}

/* In short pieces: a signal may reach any thread. */
static int wait_ms(const exchange *x, int64_t ms, ofr_error *err)
{
    for (; ms > 0 && !is_stopped(x); ms -= 50) {
        struct timespec time = {0, 50 * 1000000};
        nanosleep(&time, NULL);
    }
    return is_stopped(x) ? fail_stopped(err) : 0;
}

/* "ORG/NAME" or "ORG/NAME/file". */
static const char *subject(const exchange *x, char text[512])
{
    snprintf(text, 512, "%s%s%s", x->hub->options.model_id, x->what ? "/" : "",
             x->what ? x->what : "");
    return text;
}

/* What an answer means that is neither success nor worth another try. */
static int fail_status(const exchange *x, const ofr_http_response *r, ofr_error *err)
{
    char name[512];
    subject(x, name);
    const char *id = x->hub->options.model_id, *endpoint = x->hub->endpoint;
    const char *revision = x->hub->options.revision ? x->hub->options.revision : "main";
    bool has_token = x->hub->token != NULL;
    if (strcmp(r->error_code, "GatedRepo") == 0 || r->status == 403)
        return ofr_fail(
            err, OFR_EACCESS,
            "%s: access is refused (%ld): the model is gated; ask for access at %s/%s%s", name,
            r->status, endpoint, id,
            has_token ? "" : ", then set HF_TOKEN to a token of that account");
    if (strcmp(r->error_code, "RevisionNotFound") == 0)
        return ofr_fail(err, OFR_ENOENT, "%s: has no revision '%s'", id, revision);
    if (r->status == 401)
        return ofr_fail(err, OFR_EACCESS, "%s: %s", name,
                        has_token
                            ? "the hub does not accept the token: it may have expired, or the "
                              "model does not exist or is private"
                            : "does not exist, or is private: check the name, or set HF_TOKEN "
                              "to a token of the hub");
    if (r->status == 404)
        return ofr_fail(err, OFR_ENOENT, "%s: the hub at %s has no such %s", name, endpoint,
                        x->what ? "file" : "model");
    return ofr_fail(err, OFR_EIO, "%s: the hub answered with status %ld%s%s", name, r->status,
                    r->error_text[0] ? ": " : "", r->error_text);
}

static bool worth_another_try(long status)
{
    return status == 408 || status == 425 || status == 429 || status >= 500;
}

/* The address to go to: what the hub redirected to before, or its own. malloc'ed. */
static char *current_address(const exchange *x, uint64_t *ret_number)
{
    char *address = NULL;
    if (x->file) {
        pthread_mutex_lock(&x->hub->lock);
        address = x->file->address ? strdup(x->file->address) : NULL;
        *ret_number = x->file->address_number;
        pthread_mutex_unlock(&x->hub->lock);
    }
    return address ? address : strdup(x->first_url);
}

/* NULL: forget it, unless another thread has found a newer one meanwhile. */
static void set_address(const exchange *x, const char *address, uint64_t number)
{
    if (!x->file)
        return;
    pthread_mutex_lock(&x->hub->lock);
    if (address || x->file->address_number == number) {
        free(x->file->address);
        x->file->address = address ? strdup(address) : NULL;
        x->file->address_number++;
    }
    pthread_mutex_unlock(&x->hub->lock);
}

/* From `url` to where it redirects; *ret_url is malloc'ed. */
static int follow(const exchange *x, const char *url, const ofr_http_response *r, char **ret_url,
                  ofr_error *err)
{
    char from[300], to[300], name[512];
    subject(x, name);
    if (!r->location[0] || strlen(r->location) >= sizeof r->location - 1 ||
        !ofr_http_origin(r->location, to, sizeof to) || !ofr_http_origin(url, from, sizeof from))
        return ofr_fail(err, OFR_EPROTOCOL, "%s: redirects (%ld) to no address that can be used",
                        name, r->status);
    if (strncmp(from, "https:", 6) == 0 && strncmp(to, "https:", 6) != 0)
        return ofr_fail(err, OFR_EPROTOCOL, "%s: redirects from https to %s, which is not safe",
                        name, to);
    *ret_url = strdup(r->location);
    return *ret_url ? 0 : ofr_fail(err, OFR_ENOMEM, "out of memory");
}

/* One try: follows redirects until there is an answer. `request->data` is filled from its begin. */
static int try_once(const exchange *x, ofr_http_request *request, ofr_http_response *response,
                    bool *ret_stale, ofr_error *err)
{
    uint64_t number = 0;
    char *url = current_address(x, &number);
    char origin[300] = "";
    *ret_stale = false;
    int r = url ? 0 : ofr_fail(err, OFR_ENOMEM, "out of memory");
    bool found = false;
    char linked_etag[sizeof response->linked_etag] = "";
    int64_t linked_size = -1;
    for (int i = 0; r == 0; i++) {
        origin[0] = '\0';
        ofr_http_origin(url, origin, sizeof origin);
        request->url = url;
        request->token = strcmp(origin, x->hub->origin) == 0 ? x->hub->token : NULL;
        r = ofr_http_get(x->http, request, response, err);
        if (response->linked_etag[0])
            memcpy(linked_etag, response->linked_etag, sizeof linked_etag);
        linked_size = response->linked_size >= 0 ? response->linked_size : linked_size;
        if (r < 0 || response->status < 300 || response->status > 399)
            break;
        if (i == MAX_REDIRECTS) {
            char name[512];
            r = ofr_fail(err, OFR_EPROTOCOL, "%s: redirects in a circle", subject(x, name));
            break;
        }
        char *next = NULL;
        r = follow(x, url, response, &next, err);
        if (r == 0) {
            free(url);
            url = next;
            found = true;
        }
    }
    if (r == 0 && found && response->status / 100 == 2)
        set_address(x, url, number);
    /* Addresses elsewhere are good for a while: the hub gives a fresh one. */
    bool elsewhere =
        url && ofr_http_origin(url, origin, sizeof origin) && strcmp(origin, x->hub->origin) != 0;
    bool refused = r == 0 && response->status / 100 == 4 && response->status != 429;
    if (elsewhere && (r < 0 || refused)) {
        set_address(x, NULL, number);
        *ret_stale = refused;
    }
    memcpy(response->linked_etag, linked_etag, sizeof linked_etag);
    response->linked_size = linked_size;
    free(url);
    return r;
}

/* Is the answer the range that was asked for? A negative code where it never will be. */
static int check_range(const exchange *x, const ofr_http_request *request,
                       const ofr_http_response *r, uint64_t file_size, ofr_error *err)
{
    char name[512];
    subject(x, name);
    if (r->status == 206 && r->range_first == (int64_t)request->begin &&
        (file_size == 0 || r->range_total == (int64_t)file_size) && !r->overflow)
        return 0;
    if (r->status == 206)
        return ofr_fail(
            err, OFR_EPROTOCOL,
            "%s: bytes from %llu of %llu were asked for, the answer is of bytes from %lld "
            "of %lld",
            name, (unsigned long long)request->begin, (unsigned long long)file_size,
            (long long)r->range_first, (long long)r->range_total);
    if (r->status == 416)
        return ofr_fail(err, OFR_EPROTOCOL,
                        "%s: is shorter than the %llu bytes that the hub states", name,
                        (unsigned long long)file_size);
    return ofr_fail(err, OFR_EPROTOCOL, "%s: the server at %s does not serve parts of files", name,
                    x->hub->endpoint);
}

/* Exactly `size` bytes at `begin` (size 0: the whole body, at most `cap`), with patience.
 * *ret_response is the last one. */
static int get(const exchange *x, bool ranged, uint64_t begin, char *data, size_t cap,
               uint64_t file_size, ofr_http_response *ret_response, ofr_error *err)
{
    size_t have = 0;
    unsigned failures = 0, stale = 0;
    for (;;) {
        ofr_http_request request = {.ranged = ranged,
                                    .begin = begin + have,
                                    .end = begin + cap,
                                    .data = data + have,
                                    .size = cap - have,
                                    .timeout_s = x->hub->options.timeout_s,
                                    .stop = x->stop,
                                    .cancel = x->hub->options.cancel};
        ofr_error problem = {0};
        bool is_stale = false;
        ofr_http_response *r = ret_response;
        int result = try_once(x, &request, r, &is_stale, &problem);
        if (result == OFR_ECANCELED || is_stopped(x))
            return fail_stopped(err);
        if (result < 0 && result != OFR_EIO)
            return ofr_fail(err, result, "%s", problem.text);
        bool success = r->status / 100 == 2;
        /* A server may answer with a small file as a whole. */
        bool whole = ranged && r->status == 200 && begin == 0 && cap == file_size && !r->overflow;
        if (whole && have > 0) {
            have = 0;
            whole = false;
            r->received = 0;
            problem.code = OFR_EIO;
            snprintf(problem.text, sizeof problem.text, "the server does not serve parts of files");
        } else if (success && ranged && !whole &&
                   (result = check_range(x, &request, r, file_size, err)) < 0)
            return result;
        size_t received = success ? r->received : 0;
        if (success && !problem.code && (!ranged || have + received == cap))
            return 0;
        have += ranged && !whole ? received : 0;
        if (ranged && have == cap)
            return 0;
        if (is_stale && ++stale <= MAX_STALE_ADDRESSES)
            continue;
        if (is_stale) {
            char name[512];
            return ofr_fail(err, OFR_EIO, "%s: the host that the hub redirects to refuses (%ld)",
                            subject(x, name), r->status);
        }
        if (!problem.code && !success && !worth_another_try(r->status))
            return fail_status(x, r, err);
        failures = received > 0 ? 1 : failures + 1;
        if (failures > x->hub->options.retries) {
            char name[512];
            if (!problem.code)
                return fail_status(x, r, err);
            return ofr_fail(err, OFR_EIO, "%s: %s; run the same command again to continue",
                            subject(x, name), problem.text);
        }
        int64_t wait = FIRST_WAIT_MS;
        for (unsigned i = 1; i < failures && wait < LONGEST_WAIT_MS; i++)
            wait *= 2;
        if (!problem.code && r->retry_after_s > 0)
            wait = 1000 * (r->retry_after_s < LONGEST_RETRY_AFTER_S ? r->retry_after_s
                                                                    : LONGEST_RETRY_AFTER_S);
        if ((result = wait_ms(x, wait, err)) < 0)
            return result;
    }
}

/* ---- the repository ---- */

static bool is_model_id(const char *id)
{
    const char *slash = strchr(id, '/');
    size_t n = strlen(id);
    return n > 0 && n < 200 && slash != id && (!slash || (slash[1] && !strchr(slash + 1, '/'))) &&
           !strstr(id, "..") && id[0] != '.' && id[0] != '-' &&
           strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") == n;
}

static int take_listing(ofr_hub *hub, const char *text, size_t size, ofr_error *err)
{
    ofr_hub_listing listing = {0};
    char path[512];
    snprintf(path, sizeof path, "%s: %s", hub->options.model_id, hub->endpoint);
    int r = ofr_hub_listing_parse(&listing, path, text, size, err);
    if (r == 0 && !(hub->files = calloc(listing.n + 1, sizeof *hub->files)))
        r = ofr_fail(err, OFR_ENOMEM, "out of memory");
    for (size_t i = 0; i < listing.n && r == 0; i++) {
        hub->files[hub->n_files++].entry = listing.entries[i];
        listing.entries[i].name = NULL; /* it has moved */
    }
    memcpy(hub->commit, listing.commit, sizeof hub->commit);
    ofr_hub_listing_done(&listing);
    return r;
}

static int list(ofr_hub *hub, ofr_error *err)
{
    char *revision = ofr_http_escape_path(hub->options.revision ? hub->options.revision : "main");
    char *url = NULL, *data = malloc(LISTING_CAP);
    int r = 0;
    if (!revision || !data ||
        asprintf(&url, "%s/api/models/%s/revision/%s?blobs=true", hub->endpoint,
                 hub->options.model_id, revision) < 0) {
        url = NULL;
        r = ofr_fail(err, OFR_ENOMEM, "out of memory");
    }
    exchange x = {.hub = hub, .http = hub->main, .first_url = url};
    ofr_http_response response;
    if (r == 0)
        r = get(&x, false, 0, data, LISTING_CAP, 0, &response, err);
    if (r == 0)
        r = take_listing(hub, data, response.received, err);
    free(url);
    free(data);
    free(revision);
    return r;
}

static int set_up(ofr_hub *hub, ofr_error *err)
{
    int r = ofr_hub_endpoint(&hub->endpoint, err);
    if (r == 0 && !ofr_http_origin(hub->endpoint, hub->origin, sizeof hub->origin))
        r = ofr_fail(err, OFR_EINVAL, "HF_ENDPOINT: '%.200s' is no address of http or https",
                     hub->endpoint);
    if (r == 0)
        r = ofr_hub_token(&hub->token, err);
    if (r == 0 && hub->token && strncmp(hub->origin, "https:", 6) != 0 &&
        !ofr_http_is_loopback(hub->origin))
        r = ofr_fail(
            err, OFR_EINVAL,
            "HF_ENDPOINT: a token is set, and %s would send it in the clear; use https, or "
            "unset the token",
            hub->origin);
    return r < 0 ? r : ofr_http_new(&hub->main, err);
}

int ofr_hub_open(const ofr_hub_options *options, ofr_hub **ret_hub, ofr_error *err)
{
    if (!is_model_id(options->model_id))
        return ofr_fail(err, OFR_EINVAL, "'%.200s' is no model of the hub: ORG/NAME is expected",
                        options->model_id);
    int r = ofr_http_begin(err);
    if (r < 0)
        return r;
    ofr_hub *hub = calloc(1, sizeof *hub);
    if (!hub) {
        ofr_http_end();
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    }
    hub->options = *options;
    pthread_mutex_init(&hub->lock, NULL);
    r = set_up(hub, err);
    if (r == 0)
        r = list(hub, err);
    if (r < 0) {
        ofr_hub_close(hub);
        return r;
    }
    *ret_hub = hub;
    return 0;
}

ofr_hub *ofr_hub_close(ofr_hub *hub)
{
    if (!hub)
        return NULL;
    ofr_http_free(hub->main);
    for (size_t i = 0; i < OFR_SOURCE_MAX_WORKERS; i++)
        ofr_http_free(hub->workers[i]);
    for (size_t i = 0; i < hub->n_files; i++) {
        free(hub->files[i].entry.name);
        free(hub->files[i].address);
    }
    free(hub->files);
    free(hub->endpoint);
    if (hub->token)
        explicit_bzero(hub->token, strlen(hub->token));
    free(hub->token);
    pthread_mutex_destroy(&hub->lock);
    free(hub);
    ofr_http_end();
    return NULL;
}

const char *ofr_hub_commit(const ofr_hub *hub)
{
    return hub->commit;
}

const char *ofr_hub_file_name(const ofr_hub *hub, size_t index)
{
    return index < hub->n_files ? hub->files[index].entry.name : NULL;
}

/* ---- files ---- */

static hub_file *find_file(const ofr_hub *hub, const char *name)
{
    for (size_t i = 0; i < hub->n_files; i++)
        if (strcmp(hub->files[i].entry.name, name) == 0)
            return &hub->files[i];
    return NULL;
}

static char *address_of(const ofr_hub *hub, const hub_file *file)
{
    char *path = ofr_http_escape_path(file->entry.name), *url = NULL;
    if (path && asprintf(&url, "%s/%s/resolve/%s/%s", hub->endpoint, hub->options.model_id,
                         hub->commit, path) < 0)
        url = NULL;
    free(path);
    return url;
}

static int get_range(ofr_hub *hub, ofr_http *http, hub_file *file, uint64_t begin, char *data,
                     size_t size, const atomic_bool *stop, ofr_http_response *response,
                     ofr_error *err)
{
    char *url = address_of(hub, file);
    if (!url)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    exchange x = {.hub = hub,
                  .http = http,
                  .what = file->entry.name,
                  .file = file,
                  .first_url = url,
                  .stop = stop};
    uint64_t file_size = file->entry.size > 0 ? (uint64_t)file->entry.size : 0;
    int r = size > 0 ? get(&x, true, begin, data, size, file_size, response, err) : 0;
    free(url);
    return r;
}

/* A listing without sizes: the first byte's answer has them. */
static int complete_entry(ofr_hub *hub, hub_file *file, ofr_error *err)
{
    if (file->entry.size >= 0)
        return 0;
    char byte;
    ofr_http_response response = {0};
    int r = get_range(hub, hub->main, file, 0, &byte, 1, NULL, &response, err);
    if (r < 0)
        return r;
    file->entry.size = response.range_total;
    if (file->entry.size < 0 ||
        (response.linked_size >= 0 && response.linked_size != file->entry.size))
        return ofr_fail(err, OFR_EPROTOCOL, "%s/%s: the hub does not say how large it is",
                        hub->options.model_id, file->entry.name);
    const char *etag = response.linked_etag + strspn(response.linked_etag, "W/\"");
    if (strspn(etag, "0123456789abcdef") == 64)
        snprintf(file->entry.sha256, sizeof file->entry.sha256, "%.64s", etag);
    return 0;
}

/* git names the content of a file by the sha1 of "blob <size>\0" and the bytes. */
static int check_small(const ofr_hub *hub, const hub_file *file, const char *data, size_t size,
                       ofr_error *err)
{
    char hex[OFR_SHA256_HEX_SIZE] = "";
    int r = 0;
    if (file->entry.sha256[0]) {
        r = ofr_sha256_hex(data, size, hex, err);
    } else if (file->entry.sha1[0]) {
        char head[64];
        int n = snprintf(head, sizeof head, "blob %zu", size) + 1;
        unsigned char digest[EVP_MAX_MD_SIZE];
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        if (!context || EVP_DigestInit_ex(context, EVP_sha1(), NULL) != 1 ||
            EVP_DigestUpdate(context, head, (size_t)n) != 1 ||
            EVP_DigestUpdate(context, data, size) != 1 ||
            EVP_DigestFinal_ex(context, digest, NULL) != 1)
            r = ofr_fail(err, OFR_EINTERNAL, "sha1 failed");
        EVP_MD_CTX_free(context);
        for (size_t i = 0; i < 20 && r == 0; i++)
            snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    }
    const char *wanted = file->entry.sha256[0] ? file->entry.sha256 : file->entry.sha1;
    if (r == 0 && strcmp(hex, wanted) != 0)
        r = ofr_fail(err, OFR_ECORRUPT, "%s/%s: what was received is not what the hub promises",
                     hub->options.model_id, file->entry.name);
    return r;
}

static int read_small(void *context, const char *name, size_t cap, char **ret_text,
                      size_t *ret_size, ofr_error *err)
{
    ofr_hub *hub = context;
    hub_file *file = find_file(hub, name);
    if (!file)
        return 0;
    int r = complete_entry(hub, file, err);
    if (r < 0)
        return r;
    if ((uint64_t)file->entry.size > cap)
        return ofr_fail(err, OFR_ELIMIT, "%s/%s: has %lld bytes; at most %zu are read",
                        hub->options.model_id, name, (long long)file->entry.size, cap);
    size_t size = (size_t)file->entry.size;
    char *data = malloc(size + 1);
    if (!data)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    ofr_http_response response;
    r = get_range(hub, hub->main, file, 0, data, size, NULL, &response, err);
    if (r == 0)
        r = check_small(hub, file, data, size, err);
    if (r < 0) {
        free(data);
        return r;
    }
    data[size] = '\0';
    *ret_text = data;
    *ret_size = size;
    return 1;
}

static int add_remote(void *context, const char *name, ofr_source *source, uint32_t *ret_file,
                      ofr_error *err)
{
    ofr_hub *hub = context;
    hub_file *file = find_file(hub, name);
    if (!file || hub->n_added == OFR_SOURCE_MAX_FILES)
        return ofr_fail(err, OFR_ENOENT, "%s: has no file %s", hub->options.model_id, name);
    char path[512];
    snprintf(path, sizeof path, "%s/%s", hub->options.model_id, name);
    int r = complete_entry(hub, file, err);
    if (r == 0)
        r = ofr_source_add_remote(source, name, path, (uint64_t)file->entry.size,
                                  file->entry.sha256, ret_file, err);
    if (r == 0)
        hub->added[hub->n_added++] = (size_t)(file - hub->files);
    return r;
}

static int fetch(void *context, unsigned worker, uint32_t number, uint64_t offset, void *data,
                 size_t size, const atomic_bool *stop, ofr_error *err)
{
    ofr_hub *hub = context;
    ofr_http_response response;
    int r = hub->workers[worker] ? 0 : ofr_http_new(&hub->workers[worker], err);
    if (r < 0)
        return r;
    return get_range(hub, hub->workers[worker], &hub->files[hub->added[number]], offset, data, size,
                     stop, &response, err);
}

void ofr_hub_files(ofr_hub *hub, ofr_hf_files *ret_files)
{
    *ret_files = (ofr_hf_files){
        .where = hub->options.model_id, .context = hub, .read = read_small, .add = add_remote};
}

void ofr_hub_attach(ofr_hub *hub, ofr_source *source)
{
    source->fetch = fetch;
    source->context = hub;
    source->workers = hub->options.connections;
    hub->n_added = 0;
}

/* ---- keeping a file ---- */

/* The hash of what an earlier call has left. */
static int hash_part(int fd, const char *path, uint64_t size, ofr_sha256 *sha, ofr_error *err)
{
    char *buffer = malloc(SMALL_FILE_BYTES);
    int r = buffer ? 0 : ofr_fail(err, OFR_ENOMEM, "out of memory");
    for (uint64_t at = 0; at < size && r == 0;) {
        size_t n = size - at < SMALL_FILE_BYTES ? (size_t)(size - at) : SMALL_FILE_BYTES;
        r = ofr_file_pread(fd, path, buffer, n, at, err);
        if (r == 0)
            r = ofr_sha256_update(sha, buffer, n, err);
        at += n;
    }
    free(buffer);
    return r;
}

static int receive(ofr_hub *hub, const ofr_source *source, int fd, const char *path, uint64_t at,
                   ofr_sha256 *sha, ofr_error *err)
{
    const ofr_source_file *file = &source->files[0];
    ofr_source_span span = {0, at, file->size};
    ofr_source_stream *stream = NULL;
    ofr_progress progress;
    ofr_progress_begin(&progress, hub->options.progress_fd, file->name, file->size);
    ofr_progress_skip(&progress, at);
    int r = ofr_source_stream_open(source, &span, 1, &stream, err);
    while (at < file->size && r == 0) {
        const void *data = NULL;
        size_t n = 0;
        r = ofr_source_stream_next(stream, SMALL_FILE_BYTES, &data, &n, err);
        if (r == 0)
            r = ofr_file_pwrite(fd, path, data, n, at, err);
        if (r == 0)
            r = ofr_sha256_update(sha, data, n, err);
        at += n;
        ofr_progress_add(&progress, n);
    }
    ofr_source_stream_close(stream);
    if (r < 0)
        ofr_progress_abandon(&progress);
    else
        ofr_progress_end(&progress);
    return r;
}

static int receive_checked(ofr_hub *hub, const ofr_source *source, const char *part,
                           const char *target, ofr_error *err)
{
    const ofr_source_file *file = &source->files[0];
    struct stat st;
    ofr_sha256 sha = {0};
    char hex[OFR_SHA256_HEX_SIZE] = "";
    int fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0 || fstat(fd, &st) < 0)
        return ofr_fail_errno(err, errno, "%s: cannot be opened", part);
    uint64_t at = (uint64_t)st.st_size <= file->size ? (uint64_t)st.st_size : 0;
    int r = ofr_sha256_init(&sha, err);
    if (r == 0)
        r = hash_part(fd, part, at, &sha, err);
    if (r == 0)
        r = receive(hub, source, fd, part, at, &sha, err);
    if (r == 0)
        r = ofr_sha256_finish_hex(&sha, hex, err);
    ofr_sha256_done(&sha);
    if (r == 0 && file->sha256[0] && strcmp(hex, file->sha256) != 0) {
        r = ofr_fail(err, OFR_ECORRUPT,
                     "%s: what was received is not what the hub promises; nothing "
                     "was kept: run the same command again",
                     file->path);
        (void)unlink(part);
    }
    if (r == 0 && (ftruncate(fd, (off_t)file->size) < 0 || fsync(fd) < 0))
        r = ofr_fail_errno(err, errno, "%s: cannot be written", part);
    if (r == 0 && rename(part, target) < 0)
        r = ofr_fail_errno(err, errno, "%s: cannot be put in place", target);
    char *parent = r == 0 ? ofr_path_parent(target) : NULL;
    if (parent)
        r = ofr_directory_sync(parent, err);
    free(parent);
    close(fd);
    return r;
}

int ofr_hub_download(ofr_hub *hub, const char *name, const char *directory, ofr_error *err)
{
    hub_file *file = find_file(hub, name);
    if (!file)
        return 0;
    char *base = ofr_path_base(name), *target = base ? ofr_path_join(directory, base) : NULL;
    char *part = NULL;
    struct stat st;
    ofr_source source = {0};
    uint32_t number;
    int r = target && asprintf(&part, "%s.part", target) >= 0
                ? complete_entry(hub, file, err)
                : ofr_fail(err, OFR_ENOMEM, "out of memory");
    bool there = r == 0 && stat(target, &st) == 0 && st.st_size == file->entry.size;
    if (file->entry.size <= SMALL_FILE_BYTES) /* may be of another revision: asked for again */
        there = false;
    if (there && file->entry.sha256[0]) {
        char hex[OFR_SHA256_HEX_SIZE] = "";
        int fd = open(target, O_RDONLY | O_CLOEXEC);
        there = fd >= 0 &&
                ofr_sha256_file(fd, target, 0, (uint64_t)file->entry.size, NULL, NULL, hex, NULL) ==
                    0 &&
                strcmp(hex, file->entry.sha256) == 0;
        if (fd >= 0)
            close(fd);
    }
    if (r == 0 && !there && file->entry.size <= SMALL_FILE_BYTES) {
        char *text = NULL;
        size_t size = 0;
        r = read_small(hub, name, SMALL_FILE_BYTES, &text, &size, err);
        r = r < 0 ? r : ofr_file_replace(target, text, size, 0644, err);
        free(text);
    } else if (r == 0 && !there) {
        ofr_hub_attach(hub, &source);
        r = add_remote(hub, name, &source, &number, err);
        if (r == 0)
            r = receive_checked(hub, &source, part, target, err);
    }
    ofr_source_done(&source);
    free(part);
    free(target);
    free(base);
    return r < 0 ? r : 1;
}
