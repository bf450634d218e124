/* Histograms and the text format of Prometheus. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "supervisor/serve/metrics.h"

static double value_of(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    if (!at)
        fail_msg("no %s in:\n%s", name, text);
    return strtod(at + strlen(name), NULL);
}

static void histograms(void **state)
{
    (void)state;
    ofr_histogram h = {0};
    assert_true(ofr_histogram_quantile(&h, 0.5) == 0);
    for (int i = 0; i < 90; i++)
        ofr_histogram_add(&h, 8000000); /* 8 ms: between 7.5 and 10 */
    for (int i = 0; i < 10; i++)
        ofr_histogram_add(&h, 200000000000); /* 200 s: above every bound */
    double median = ofr_histogram_quantile(&h, 0.5);
    assert_true(median > 0.0075 && median <= 0.01);
    assert_true(ofr_histogram_quantile(&h, 0.99) == 120);
    ofr_text text = {0};
    ofr_histogram_print(&text, "x_seconds", "Help.", &h);
    assert_non_null(strstr(text.data, "# TYPE x_seconds histogram\n"));
    assert_true(value_of(text.data, "x_seconds_bucket{le=\"0.0075\"} ") == 0);
    assert_true(value_of(text.data, "x_seconds_bucket{le=\"0.01\"} ") == 90);
    assert_true(value_of(text.data, "x_seconds_bucket{le=\"120\"} ") == 90);
    assert_true(value_of(text.data, "x_seconds_bucket{le=\"+Inf\"} ") == 100);
    assert_true(value_of(text.data, "x_seconds_count ") == 100);
    double sum = value_of(text.data, "x_seconds_sum ");
    assert_true(sum > 2000.71 && sum < 2000.73);
    ofr_text_done(&text);
}

static void requests(void **state)
{
    (void)state;
    static ofr_metrics m;
    ofr_metrics_count(&m, OFR_ENDPOINT_CHAT, 200);
    ofr_metrics_count(&m, OFR_ENDPOINT_CHAT, 200);
    ofr_metrics_count(&m, OFR_ENDPOINT_CHAT, 429);
    ofr_metrics_count(&m, OFR_ENDPOINT_OTHER, 0);
    ofr_metrics_count(&m, OFR_ENDPOINT_OTHER, 999);
    ofr_text text = {0};
    ofr_metrics_requests(&text, &m);
    assert_true(value_of(text.data, "{endpoint=\"/v1/chat/completions\",result=\"2xx\"} ") == 2);
    assert_true(value_of(text.data, "{endpoint=\"/v1/chat/completions\",result=\"4xx\"} ") == 1);
    assert_true(value_of(text.data, "{endpoint=\"other\",result=\"canceled\"} ") == 1);
    assert_true(value_of(text.data, "{endpoint=\"other\",result=\"5xx\"} ") == 1);
    assert_null(strstr(text.data, "/tokenize"));
    ofr_text_clear(&text);
    ofr_metrics_value(&text, "y", "gauge", "Help.", "{a=\"b\"}", 1.5);
    assert_string_equal(text.data, "# HELP y Help.\n# TYPE y gauge\ny{a=\"b\"} 1.5\n");
    ofr_text_done(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(histograms), cmocka_unit_test(requests)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
