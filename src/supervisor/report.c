/* JSON reports. */
#include "supervisor/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

json_t *ofr_report_number(double value)
{
    if (!isfinite(value))
        return json_null();
    return json_real(fabs(value) < 1e12 ? round(value * 1000) / 1000 : value);
}

json_t *ofr_report_rate(double value)
{
    return value > 0 ? ofr_report_number(value) : json_null();
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

json_t *ofr_report_summary(double *values, size_t n)
{
    if (n == 0)
        return json_null();
    qsort(values, n, sizeof *values, compare_doubles);
    double median = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    return json_pack("{s:o, s:o, s:o}", "median", ofr_report_number(median), "min",
                     ofr_report_number(values[0]), "max", ofr_report_number(values[n - 1]));
}

void ofr_report_add_engine(json_t *root, const ofr_engine_session *session)
{
    json_object_set_new(root, "model", json_string(ofr_package_params(session->package)->name));
    json_t *quantization = json_loads(ofr_package_quantization_json(session->package), 0, NULL);
    json_object_set_new(root, "quantization", quantization ? quantization : json_null());
    json_object_set_new(root, "package_fingerprint",
                        json_string(ofr_package_fingerprint(session->package)));
    json_object_set_new(root, "plan", json_string(session->info.plan));
    json_object_set_new(root, "device", json_string(session->info.device));
    json_object_set_new(root, "context", json_integer(session->info.context));
    json_object_set_new(root, "executive_pid", json_integer(session->info.executive_pid));
    json_object_set_new(root, "executive_started", json_boolean(session->info.started));
    json_object_set_new(root, "version", json_string(OFR_VERSION));
}

int ofr_report_print(json_t *root)
{
    char *text = root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(root);
    if (!text)
        return OFR_ENOMEM;
    puts(text);
    free(text);
    return 0;
}
