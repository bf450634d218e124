/* Checked fields of JSON objects, and errors of the API. */
#include "supervisor/serve/request_fields.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int ofr_api_fail(ofr_api_error *err, const char *param, const char *format, ...)
{
    *err = (ofr_api_error){.status = 400, .type = "invalid_request_error"};
    snprintf(err->param, sizeof err->param, "%s", param ? param : "");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->text, sizeof err->text, format, arguments);
    va_end(arguments);
    return OFR_EINVAL;
}

int ofr_api_fail_as(ofr_api_error *err, unsigned status, const char *type, const char *code,
                    const char *format, ...)
{
    *err = (ofr_api_error){.status = status, .type = type, .code = code};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->text, sizeof err->text, format, arguments);
    va_end(arguments);
    return OFR_EINVAL;
}

int ofr_api_fail_from(ofr_api_error *ret, const ofr_error *err)
{
    const char *text = err->text[0] ? err->text : ofr_status_message(err->code);
    switch (err->code) {
    case OFR_EBUSY:
        ofr_api_fail_as(ret, 429, "rate_limit_error", "server_busy", "%s", text);
        break;
    case OFR_ELIMIT:
        ofr_api_fail_as(ret, 400, "invalid_request_error", "context_length_exceeded", "%s", text);
        break;
    case OFR_EINVAL:
    case OFR_EUTF8:
    case OFR_ETEMPLATE:
    case OFR_ENOENT:
        ofr_api_fail_as(ret, 400, "invalid_request_error", NULL, "%s", text);
        break;
    case OFR_ECANCELED:
    case OFR_EGONE:
    case OFR_EDEVICE:
        ofr_api_fail_as(ret, 503, "server_error", "unavailable", "%s", text);
        break;
    default:
        ofr_api_fail_as(ret, 500, "server_error", NULL, "%s", text);
        break;
    }
    return err->code;
}

const json_t *ofr_field(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

int ofr_field_double(const json_t *object, const char *name, double minimum, double maximum,
                     double *value, ofr_api_error *err)
{
    const json_t *field = ofr_field(object, name);
    if (!field)
        return 0;
    if (!json_is_number(field))
        return ofr_api_fail(err, name, "'%s' must be a number", name);
    double number = json_number_value(field);
    if (!isfinite(number) || number < minimum || number > maximum)
        return ofr_api_fail(err, name, "'%s' must be from %g to %g, not %g", name, minimum, maximum,
                            number);
    *value = number;
    return 0;
}

int ofr_field_float(const json_t *object, const char *name, double minimum, double maximum,
                    float *value, ofr_api_error *err)
{
    double number = (double)*value;
    int r = ofr_field_double(object, name, minimum, maximum, &number, err);
    *value = (float)number;
    return r;
}

int ofr_field_int(const json_t *object, const char *name, int64_t minimum, int64_t maximum,
                  int64_t *value, ofr_api_error *err)
{
    const json_t *field = ofr_field(object, name);
    if (!field)
        return 0;
    if (!json_is_integer(field))
        return ofr_api_fail(err, name, "'%s' must be a whole number", name);
    json_int_t number = json_integer_value(field);
    if (number < minimum || number > maximum)
        return ofr_api_fail(err, name, "'%s' must be from %" PRId64 " to %" PRId64 ", not %" PRId64,
                            name, minimum, maximum, (int64_t)number);
    *value = number;
    return 0;
}

int ofr_field_u32(const json_t *object, const char *name, int64_t minimum, int64_t maximum,
                  uint32_t *value, ofr_api_error *err)
{
    int64_t number = *value;
    int r = ofr_field_int(object, name, minimum, maximum, &number, err);
    *value = (uint32_t)number;
    return r;
}

int ofr_field_bool(const json_t *object, const char *name, bool *value, ofr_api_error *err)
{
    const json_t *field = ofr_field(object, name);
    if (!field)
        return 0;
    if (!json_is_boolean(field))
        return ofr_api_fail(err, name, "'%s' must be true or false", name);
    *value = json_is_true(field);
    return 0;
}

int ofr_field_string(const json_t *object, const char *name, const char **value, ofr_api_error *err)
{
    const json_t *field = ofr_field(object, name);
    if (!field)
        return 0;
    if (!json_is_string(field) || strlen(json_string_value(field)) != json_string_length(field))
        return ofr_api_fail(err, name, "'%s' must be a text", name);
    *value = json_string_value(field);
    return 0;
}

int ofr_field_refuse(const json_t *object, const char *name, const char *why, ofr_api_error *err)
{
    const json_t *field = ofr_field(object, name);
    if (!field || json_is_false(field) ||
        (json_is_string(field) && json_string_length(field) == 0) ||
        (json_is_array(field) && json_array_size(field) == 0))
        return 0;
    return ofr_api_fail(err, name, "'%s' is not supported: %s", name, why);
}
