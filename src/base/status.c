/* Status codes and the error object. */
#include "base/status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *ofr_status_name(int code)
{
    switch (code) {
#define OFR_STATUS_NAME(symbol, value, name, message)                                              \
    case value:                                                                                    \
        return name;
        OFR_STATUS_TABLE(OFR_STATUS_NAME)
#undef OFR_STATUS_NAME
    default:
        return "unknown";
    }
}

const char *ofr_status_message(int code)
{
    switch (code) {
#define OFR_STATUS_MESSAGE(symbol, value, name, message)                                           \
    case value:                                                                                    \
        return message;
        OFR_STATUS_TABLE(OFR_STATUS_MESSAGE)
#undef OFR_STATUS_MESSAGE
    default:
        return "unknown error";
    }
}

int ofr_status_from_errno(int errnum)
{
    switch (errnum) {
    case 0:
        return OFR_OK;
    case ENOENT:
    case ENOTDIR:
        return OFR_ENOENT;
    case ENOMEM:
        return OFR_ENOMEM;
    case EACCES:
    case EPERM:
    case EROFS:
        return OFR_EACCESS;
    case ENOSPC:
    case EDQUOT:
        return OFR_ENOSPACE;
    case EEXIST:
    case ENOTEMPTY:
        return OFR_EEXIST;
    case EINVAL:
    case ENAMETOOLONG:
        return OFR_EINVAL;
    case EBUSY:
    case EADDRINUSE:
        return OFR_EBUSY;
    case EPIPE:
    case ECONNRESET:
    case ECONNREFUSED:
        return OFR_EGONE;
    case EAGAIN:
        return OFR_EAGAIN;
    case ETIMEDOUT:
        return OFR_ETIMEDOUT;
    default:
        return OFR_EIO;
    }
}

static void write_text(ofr_error *err, int code, const char *format, va_list args)
{
    err->code = code;
    vsnprintf(err->text, sizeof err->text, format, args);
}

int ofr_fail(ofr_error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        write_text(err, code, format, args);
        va_end(args);
    }
    return code;
}

int ofr_fail_errno(ofr_error *err, int errnum, const char *format, ...)
{
    int code = ofr_status_from_errno(errnum);
    if (err) {
        va_list args;
        va_start(args, format);
        write_text(err, code, format, args);
        va_end(args);
        size_t used = strlen(err->text);
        char reason[128];
        snprintf(err->text + used, sizeof err->text - used, ": %s",
                 strerror_r(errnum, reason, sizeof reason));
    }
    return code;
}

int ofr_error_prefix(ofr_error *err, int code, const char *format, ...)
{
    if (err) {
        char rest[OFR_ERROR_TEXT_MAX];
        memcpy(rest, err->text, sizeof rest);
        va_list args;
        va_start(args, format);
        write_text(err, code, format, args);
        va_end(args);
        size_t used = strlen(err->text);
        snprintf(err->text + used, sizeof err->text - used, ": %s", rest);
    }
    return code;
}
