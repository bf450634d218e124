/* The only file that knows libcurl. */
#include "bake_model/http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct ofr_http {
    CURL *curl;
    /* Of the request that runs. */
    const ofr_http_request *request;
    ofr_http_response *response;
};

int ofr_http_begin(ofr_error *err)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return ofr_fail(err, OFR_EINTERNAL, "libcurl could not be set up");
    return 0;
}

void ofr_http_end(void)
{
    curl_global_cleanup();
}

int ofr_http_new(ofr_http **ret_http, ofr_error *err)
{
    ofr_http *http = calloc(1, sizeof *http);
    if (!http || !(http->curl = curl_easy_init())) {
        free(http);
        return ofr_fail(err, OFR_ENOMEM, "libcurl could not be set up");
    }
    *ret_http = http;
    return 0;
}

ofr_http *ofr_http_free(ofr_http *http)
{
    if (!http)
        return NULL;
    curl_easy_cleanup(http->curl);
    free(http);
    return NULL;
}

static size_t on_body(char *data, size_t unit, size_t count, void *context)
{
    ofr_http *http = context;
    ofr_http_response *response = http->response;
    size_t size = unit * count;
    long status = 0;
    curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 || status > 299)
        return size; /* the page of an error */
    size_t room = http->request->size - response->received;
    size_t taken = size < room ? size : room;
    memcpy(http->request->data + response->received, data, taken);
    response->received += taken;
    response->overflow |= taken < size;
    return taken;
}

static void copy(char *to, size_t size, const char *from, size_t n)
{
    n = n < size - 1 ? n : size - 1;
    for (size_t i = 0; i < n; i++) /* it is shown: nothing that moves a cursor */
        to[i] = (unsigned char)from[i] < 32 || from[i] == 127 ? '?' : from[i];
    to[n] = '\0';
}

static void reset(ofr_http_response *response)
{
    size_t received = response->received;
    *response = (ofr_http_response){
        .retry_after_s = -1, .range_first = -1, .range_total = -1, .linked_size = -1};
    response->received = received;
}

/* "name: value\r\n"; NUL-terminated nowhere. */
static size_t on_header(char *line, size_t unit, size_t count, void *context)
{
    ofr_http *http = context;
    ofr_http_response *r = http->response;
    size_t size = unit * count;
    if (size > 5 && memcmp(line, "HTTP/", 5) == 0)
        reset(r);
    const char *colon = memchr(line, ':', size);
    if (!colon)
        return size;
    size_t name_size = (size_t)(colon - line);
    const char *value = colon + 1, *end = line + size;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && isspace((unsigned char)end[-1]))
        end--;
    char text[320];
    copy(text, sizeof text, value, (size_t)(end - value));
    const struct {
        const char *name;
        char *to;
        size_t size;
    } texts[] = {{"x-linked-etag", r->linked_etag, sizeof r->linked_etag},
                 {"x-error-code", r->error_code, sizeof r->error_code},
                 {"x-error-message", r->error_text, sizeof r->error_text}};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (strlen(texts[i].name) == name_size && strncasecmp(texts[i].name, line, name_size) == 0)
            copy(texts[i].to, texts[i].size, value, (size_t)(end - value));
    long long first, last, total;
    if (name_size == 13 && strncasecmp(line, "content-range", 13) == 0 &&
        sscanf(text, "bytes %lld-%lld/%lld", &first, &last, &total) == 3) {
        r->range_first = first;
        r->range_total = total;
    } else if (name_size == 13 && strncasecmp(line, "x-linked-size", 13) == 0) {
        r->linked_size = isdigit((unsigned char)text[0]) ? strtoll(text, NULL, 10) : -1;
    }
    return size;
}

static int on_progress(void *context, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)a, (void)b, (void)c, (void)d;
    const ofr_http_request *request = ((ofr_http *)context)->request;
    return (request->stop && *request->stop) || (request->cancel && *request->cancel);
}

static int fail(const ofr_http *http, CURLcode code, ofr_error *err)
{
    char origin[300] = "the network";
    ofr_http_origin(http->request->url, origin, sizeof origin);
    if (on_progress((void *)(uintptr_t)http, 0, 0, 0, 0))
        return ofr_fail(err, OFR_ECANCELED, "interrupted; run the same command again to continue");
    return ofr_fail(err, OFR_EIO, "%s: %s", origin, curl_easy_strerror(code));
}

static struct curl_slist *authorization(const char *token, ofr_error *err)
{
    char *line = NULL;
    struct curl_slist *list = NULL;
    if (asprintf(&line, "Authorization: Bearer %s", token) >= 0)
        list = curl_slist_append(NULL, line);
    if (!list)
        ofr_fail(err, OFR_ENOMEM, "out of memory");
    if (line) {
        explicit_bzero(line, strlen(line));
        free(line);
    }
    return list;
}

static void set_options(ofr_http *http, const ofr_http_request *request, struct curl_slist *headers,
                        const char *range)
{
    CURL *curl = http->curl;
    curl_easy_reset(curl); /* connections are kept */
    curl_easy_setopt(curl, CURLOPT_URL, request->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "offering/" OFR_VERSION);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_RANGE, range);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)request->timeout_s);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)request->timeout_s);
    curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 512L * 1024);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, http);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, http);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, http);
}

int ofr_http_get(ofr_http *http, const ofr_http_request *request, ofr_http_response *response,
                 ofr_error *err)
{
    struct curl_slist *headers = NULL;
    char range[64];
    if (request->token && !(headers = authorization(request->token, err)))
        return OFR_ENOMEM;
    snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)request->begin,
             (unsigned long long)request->end - 1);
    response->received = 0;
    reset(response);
    http->request = request;
    http->response = response;
    set_options(http, request, headers, request->ranged ? range : NULL);
    CURLcode code = curl_easy_perform(http->curl);
    curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &response->status);
    const char *location = NULL;
    curl_off_t wait = 0;
    if (curl_easy_getinfo(http->curl, CURLINFO_REDIRECT_URL, &location) == CURLE_OK && location)
        copy(response->location, sizeof response->location, location, strlen(location));
    if (curl_easy_getinfo(http->curl, CURLINFO_RETRY_AFTER, &wait) == CURLE_OK && wait > 0)
        response->retry_after_s = wait;
    curl_easy_setopt(http->curl, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    if (response->overflow || code == CURLE_OK)
        return 0;
    return fail(http, code, err);
}

bool ofr_http_origin(const char *url, char *ret_origin, size_t size)
{
    CURLU *parsed = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL, *user = NULL;
    bool good = parsed && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
                curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                curl_url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
                curl_url_get(parsed, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                curl_url_get(parsed, CURLUPART_USER, &user, 0) != CURLUE_OK &&
                (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);
    if (good) {
        int n = snprintf(ret_origin, size, "%s://%s:%s", scheme, host, port);
        good = n > 0 && (size_t)n < size;
        for (char *at = ret_origin; good && *at; at++)
            *at = (char)tolower((unsigned char)*at);
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_free(user);
    curl_url_cleanup(parsed);
    return good;
}

bool ofr_http_is_loopback(const char *origin)
{
    static const char *const hosts[] = {"://localhost:", "://127.0.0.1:", "://[::1]:"};
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++)
        if (strstr(origin, hosts[i]))
            return true;
    return false;
}

char *ofr_http_escape_path(const char *text)
{
    static const char digits[] = "0123456789ABCDEF";
    char *escaped = malloc(3 * strlen(text) + 1), *at = escaped;
    for (; escaped && *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (isalnum(c) || strchr("-._~/", c)) {
            *at++ = (char)c;
        } else {
            *at++ = '%';
            *at++ = digits[c >> 4];
            *at++ = digits[c & 15];
        }
    }
    if (escaped)
        *at = '\0';
    return escaped;
}
