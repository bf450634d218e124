/* Fields of a JSON request, checked: what the parsers of request*.c share. A field that is absent
 * or null leaves the value as it was. */
#ifndef OFR_SUPERVISOR_SERVE_REQUEST_FIELDS_H
#define OFR_SUPERVISOR_SERVE_REQUEST_FIELDS_H

#include "supervisor/serve/request.h"

/* The field's value, NULL where absent or null. */
const json_t *ofr_field(const json_t *object, const char *name);
int ofr_field_double(const json_t *object, const char *name, double minimum, double maximum,
                     double *value, ofr_api_error *err);
int ofr_field_float(const json_t *object, const char *name, double minimum, double maximum,
                    float *value, ofr_api_error *err);
int ofr_field_int(const json_t *object, const char *name, int64_t minimum, int64_t maximum,
                  int64_t *value, ofr_api_error *err);
int ofr_field_u32(const json_t *object, const char *name, int64_t minimum, int64_t maximum,
                  uint32_t *value, ofr_api_error *err);
int ofr_field_bool(const json_t *object, const char *name, bool *value, ofr_api_error *err);
/* Borrowed from the object. */
int ofr_field_string(const json_t *object, const char *name, const char **value,
                     ofr_api_error *err);
/* OFR_EINVAL where a field that would change the answer is given with another value than `only`. */
int ofr_field_refuse(const json_t *object, const char *name, const char *why, ofr_api_error *err);

/* The messages of /v1/chat/completions and the input of /v1/responses, in the form that templates
 * take. *ret_messages is the caller's. */
int ofr_messages_from_chat(const json_t *messages, json_t **ret_messages, ofr_api_error *err);
int ofr_messages_from_input(const json_t *input, const char *instructions, json_t **ret_messages,
                            ofr_api_error *err);
/* Tools of /v1/responses in the form of /v1/chat/completions. */
int ofr_tools_from_responses(const json_t *tools, json_t **ret_tools, ofr_api_error *err);

#endif
