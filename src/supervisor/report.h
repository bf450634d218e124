/* JSON reports: the one object that --json prints. */
#ifndef OFR_SUPERVISOR_REPORT_H
#define OFR_SUPERVISOR_REPORT_H

#include <jansson.h>

#include "supervisor/engine_session.h"

/* A figure with three decimals at most, so that reports are readable; null unless finite. */
json_t *ofr_report_number(double value);
/* Likewise, but null for 0: a rate that was not measured. */
json_t *ofr_report_rate(double value);

/* {"median", "min", "max"} of n values, which are sorted in place. */
json_t *ofr_report_summary(double *values, size_t n);

/* Adds model, quantization, plan, device and executive. */
void ofr_report_add_engine(json_t *root, const ofr_engine_session *session);

/* One line on stdout; releases `root`, which may be NULL (no memory). */
int ofr_report_print(json_t *root);

#endif
