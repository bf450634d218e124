/* Counters and histograms, and the text format of Prometheus. */
#include "supervisor/serve/metrics.h"

#include <inttypes.h>

/* Seconds. */
static const double bounds[OFR_HISTOGRAM_BOUNDS] = {
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1,
    0.15,  0.25,   0.5,   0.75,   1,    2.5,   5,     10,   30,    120};

void ofr_histogram_add(ofr_histogram *histogram, uint64_t ns)
{
    uint32_t i = 0;
    while (i < OFR_HISTOGRAM_BOUNDS && (double)ns > bounds[i] * 1e9)
        i++;
    atomic_fetch_add(&histogram->buckets[i], 1);
    atomic_fetch_add(&histogram->sum_ns, ns);
}

double ofr_histogram_quantile(const ofr_histogram *histogram, double share)
{
    uint64_t total = 0, below = 0;
    for (uint32_t i = 0; i <= OFR_HISTOGRAM_BOUNDS; i++)
        total += atomic_load(&histogram->buckets[i]);
    double wanted = share * (double)total, low = 0;
    for (uint32_t i = 0; total && i < OFR_HISTOGRAM_BOUNDS; i++) {
        uint64_t here = atomic_load(&histogram->buckets[i]);
        if (here && (double)(below + here) >= wanted)
            return low + (bounds[i] - low) * (wanted - (double)below) / (double)here;
        below += here;
        low = bounds[i];
    }
    return total ? bounds[OFR_HISTOGRAM_BOUNDS - 1] : 0;
}

void ofr_histogram_print(ofr_text *text, const char *name, const char *help,
                         const ofr_histogram *histogram)
{
    uint64_t total = 0;
    ofr_text_print(text, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (uint32_t i = 0; i < OFR_HISTOGRAM_BOUNDS; i++) {
        total += atomic_load(&histogram->buckets[i]);
        ofr_text_print(text, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, bounds[i], total);
    }
    total += atomic_load(&histogram->buckets[OFR_HISTOGRAM_BOUNDS]);
    ofr_text_print(text, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_sum %.9g\n%s_count %" PRIu64 "\n",
                   name, total, name, (double)atomic_load(&histogram->sum_ns) / 1e9, name, total);
}

void ofr_metrics_count(ofr_metrics *metrics, enum ofr_endpoint endpoint, unsigned status)
{
    atomic_fetch_add(&metrics->requests[endpoint][status / 100 < 6 ? status / 100 : 5], 1);
}

void ofr_metrics_value(ofr_text *text, const char *name, const char *type, const char *help,
                       const char *labels, double value)
{
    ofr_text_print(text, "# HELP %s %s\n# TYPE %s %s\n%s%s %.15g\n", name, help, name, type, name,
                   labels, value);
}

void ofr_metrics_requests(ofr_text *text, const ofr_metrics *metrics)
{
    static const char *const paths[] = {
#define PATH(symbol, path) path,
        OFR_ENDPOINT_TABLE(PATH)
#undef PATH
    };
    static const char *const classes[] = {"canceled", "1xx", "2xx", "3xx", "4xx", "5xx"};
    const char *name = "offering_requests_total";
    ofr_text_print(text, "# HELP %s Requests by endpoint and result.\n# TYPE %s counter\n", name,
                   name);
    for (uint32_t i = 0; i < OFR_ENDPOINTS; i++)
        for (uint32_t k = 0; k < 6; k++) {
            uint64_t n = atomic_load(&metrics->requests[i][k]);
            if (n)
                ofr_text_print(text, "%s{endpoint=\"%s\",result=\"%s\"} %" PRIu64 "\n", name,
                               paths[i], classes[k], n);
        }
}
