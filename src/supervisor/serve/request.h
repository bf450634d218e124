/* Requests of the API: from the bytes of a body to checked values.
 *
 * A field that is known and wrong is an error that names it; a field that is not known is ignored,
 * since clients send many that change nothing here. null means "not given". Nothing in a request is
 * trusted: every number is bounded. Pure functions, any thread. */
#ifndef OFR_SUPERVISOR_SERVE_REQUEST_H
#define OFR_SUPERVISOR_SERVE_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/sampler.h"

enum {
    OFR_API_STOPS_MAX = 16,
    OFR_API_STOP_BYTES_MAX = 256,
    OFR_API_CHOICES_MAX = 128, /* prompts times n */
    OFR_API_BIASES_MAX = 1024,
};

enum ofr_api {
    OFR_API_CHAT,
    OFR_API_COMPLETION,
    OFR_API_RESPONSES,
    OFR_API_EMBEDDINGS,
    OFR_API_TOKENIZE,
    OFR_API_DETOKENIZE,
};

/* An error in the API's own shape. */
typedef struct ofr_api_error {
    unsigned status;  /* HTTP */
    const char *type; /* "invalid_request_error" */
    const char *code; /* NULL: null */
    char param[64];   /* "": null */
    char text[OFR_ERROR_TEXT_MAX];
} ofr_api_error;

/* Fills the error (400, invalid_request_error) and returns OFR_EINVAL. `param` may be NULL. */
int ofr_api_fail(ofr_api_error *err, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same with everything given; returns OFR_EINVAL. */
int ofr_api_fail_as(ofr_api_error *err, unsigned status, const char *type, const char *code,
                    const char *format, ...) __attribute__((format(printf, 5, 6)));
/* What a failure inside the server looks like to a client. Returns err's code. */
int ofr_api_fail_from(ofr_api_error *ret, const ofr_error *err);

/* Something to continue or embed: text, or token ids. */
typedef struct ofr_api_prompt {
    const char *text; /* [size], UTF-8; NULL: ids */
    size_t size;
    const json_t *ids; /* array of integers within the vocabulary */
} ofr_api_prompt;

typedef struct ofr_api_request {
    enum ofr_api api;
    json_t *body;              /* owned; what is borrowed below lives in it */
    json_t *messages;          /* CHAT, RESPONSES: normalized, owned */
    json_t *tools;             /* CHAT, RESPONSES: in chat's form, owned; NULL: none */
    const json_t *tool_choice; /* borrowed; NULL: not given */
    json_t *response_format;   /* in chat's form, owned; NULL: plain text */
    ofr_api_prompt *prompts;   /* the others: [n_prompts], owned */
    uint32_t n_prompts;
    const char *model, *user; /* borrowed; NULL: not given */
    ofr_sampling sampling;    /* bias points to `biases` */
    ofr_logit_bias *biases;   /* owned */
    bool has_seed;
    int64_t max_tokens; /* -1: not given */
    int64_t min_tokens;
    uint32_t n;
    char *stops[OFR_API_STOPS_MAX]; /* owned */
    uint32_t n_stops;
    bool logprobs;
    uint32_t top_logprobs;
    bool stream, include_usage, echo, ignore_eos;
    bool fresh;                    /* cache_prompt is false: reuse nothing */
    bool add_special, with_pieces; /* TOKENIZE */
    bool base64;                   /* EMBEDDINGS: encoding_format */
} ofr_api_request;

/* Parses and checks `body` [size]. On failure nothing is left to free. */
int ofr_api_request_parse(enum ofr_api api, const char *body, size_t size, uint32_t vocab_size,
                          ofr_api_request *ret_request, ofr_api_error *err);
/* Accepts a zeroed request. */
void ofr_api_request_done(ofr_api_request *request);

#endif
