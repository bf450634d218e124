/* Figures of the server for /metrics: counters and histograms that any thread adds to, written in
 * the Prometheus text format (version 0.0.4). */
#ifndef OFR_SUPERVISOR_SERVE_METRICS_H
#define OFR_SUPERVISOR_SERVE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "supervisor/serve/text.h"

enum { OFR_HISTOGRAM_BOUNDS = 20 };

typedef struct ofr_histogram {
    _Atomic uint64_t buckets[OFR_HISTOGRAM_BOUNDS + 1]; /* the last: above every bound */
    _Atomic uint64_t sum_ns;
} ofr_histogram;

/* X(symbol, path) */
#define OFR_ENDPOINT_TABLE(X)                                                                      \
    X(OFR_ENDPOINT_CHAT, "/v1/chat/completions")                                                   \
    X(OFR_ENDPOINT_COMPLETIONS, "/v1/completions")                                                 \
    X(OFR_ENDPOINT_RESPONSES, "/v1/responses")                                                     \
    X(OFR_ENDPOINT_EMBEDDINGS, "/v1/embeddings")                                                   \
    X(OFR_ENDPOINT_TOKENIZE, "/tokenize")                                                          \
    X(OFR_ENDPOINT_DETOKENIZE, "/detokenize")                                                      \
    X(OFR_ENDPOINT_OTHER, "other")
enum ofr_endpoint {
#define OFR_ENDPOINT_ENUM(symbol, path) symbol,
    OFR_ENDPOINT_TABLE(OFR_ENDPOINT_ENUM)
#undef OFR_ENDPOINT_ENUM
        OFR_ENDPOINTS
};

typedef struct ofr_metrics {
    uint64_t started_ns;
    _Atomic uint64_t requests[OFR_ENDPOINTS][6]; /* by first digit of the status; [0]: canceled */
    ofr_histogram first_token;                   /* from the request's arrival */
    ofr_histogram inter_token;                   /* between tokens of one answer */
    ofr_histogram queued;                        /* until a slot was free */
    ofr_histogram request;                       /* whole */
    _Atomic uint64_t connections;
} ofr_metrics;

void ofr_histogram_add(ofr_histogram *histogram, uint64_t ns);
/* Seconds below which `share` (0 to 1) of the observations lie, interpolated; 0 without any. */
double ofr_histogram_quantile(const ofr_histogram *histogram, double share);
void ofr_histogram_print(ofr_text *text, const char *name, const char *help,
                         const ofr_histogram *histogram);
void ofr_metrics_count(ofr_metrics *metrics, enum ofr_endpoint endpoint, unsigned status);

/* One "# HELP", "# TYPE" and value; `labels` ("{a=\"b\"}") may be "". */
void ofr_metrics_value(ofr_text *text, const char *name, const char *type, const char *help,
                       const char *labels, double value);
void ofr_metrics_requests(ofr_text *text, const ofr_metrics *metrics);

#endif
