/* Answers that need no generation: models, tokens, figures. Any thread. */
#ifndef OFR_SUPERVISOR_SERVE_REPORTS_H
#define OFR_SUPERVISOR_SERVE_REPORTS_H

#include "supervisor/serve/request.h"
#include "supervisor/serve/service.h"
#include "supervisor/serve/text.h"

/* 404 unless `model` is NULL or the one that is served. */
int ofr_report_check_model(const ofr_service *service, const char *model, ofr_api_error *err);
/* The list, or the one model. */
void ofr_report_models(const ofr_service *service, bool list, ofr_text *out);
int ofr_report_tokenize(const ofr_service *service, const ofr_api_request *request, ofr_text *out,
                        ofr_api_error *err);
int ofr_report_detokenize(const ofr_service *service, const ofr_api_request *request, ofr_text *out,
                          ofr_api_error *err);
/* Prometheus. */
void ofr_report_metrics(ofr_service *service, ofr_text *out);
/* The live view of the page: {"server": ..., "slots": [...], "executive": {...}}. */
void ofr_report_status(ofr_service *service, ofr_text *out);

#endif
