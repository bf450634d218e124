/* Status codes and the error object: how every function of the project reports failure.
 *
 * A function returns 0 or a negative OFR_E* code. One table names them all. A function that can
 * fail for a reason a person must act on also takes an `ofr_error *` as its last parameter (NULL is
 * allowed) and writes there what failed, on what, and what to do.
 *
 * Thread rules: codes and names are immutable; an ofr_error belongs to the thread that passes it.
 */
#ifndef OFR_BASE_STATUS_H
#define OFR_BASE_STATUS_H

#include <stdarg.h>

/* X(symbol, value, short name, message) */
#define OFR_STATUS_TABLE(X)                                                                        \
    X(OFR_OK, 0, "ok", "success")                                                                  \
    X(OFR_EINVAL, -1, "invalid", "invalid argument")                                               \
    X(OFR_ENOMEM, -2, "no_memory", "out of memory")                                                \
    X(OFR_EIO, -3, "io", "input or output failed")                                                 \
    X(OFR_ENOENT, -4, "not_found", "not found")                                                    \
    X(OFR_EFORMAT, -5, "format", "malformed data")                                                 \
    X(OFR_ECORRUPT, -6, "corrupt", "checksum mismatch")                                            \
    X(OFR_EVERSION, -7, "version", "unsupported version")                                          \
    X(OFR_EUNSUPPORTED, -8, "unsupported", "not supported")                                        \
    X(OFR_ENOSPACE, -9, "no_space", "no space left")                                               \
    X(OFR_EACCESS, -10, "access", "permission denied")                                             \
    X(OFR_EBUSY, -11, "busy", "in use by another process")                                         \
    X(OFR_EGONE, -12, "gone", "the peer process is gone")                                          \
    X(OFR_EPROTOCOL, -13, "protocol", "the peer broke the protocol")                               \
    X(OFR_ELIMIT, -14, "limit", "a limit was exceeded")                                            \
    X(OFR_ETEMPLATE, -15, "template", "the chat template failed")                                  \
    X(OFR_EUTF8, -16, "utf8", "text is not valid UTF-8")                                           \
    X(OFR_ECANCELED, -17, "canceled", "canceled")                                                  \
    X(OFR_ETIMEDOUT, -18, "timed_out", "timed out")                                                \
    X(OFR_EDEVICE, -19, "device", "a compute device failed")                                       \
    X(OFR_EAGAIN, -20, "again", "not ready yet")                                                   \
    X(OFR_EEXIST, -21, "exists", "already exists")                                                 \
    X(OFR_EINTERNAL, -22, "internal", "internal error")

enum ofr_status {
#define OFR_STATUS_ENUM(symbol, value, name, message) symbol = (value),
    OFR_STATUS_TABLE(OFR_STATUS_ENUM)
#undef OFR_STATUS_ENUM
};

/* Process exit codes of the three programs. */
enum ofr_exit { OFR_EXIT_OK = 0, OFR_EXIT_FAILURE = 1, OFR_EXIT_USAGE = 2 };

enum { OFR_ERROR_TEXT_MAX = 1024 };

/* What failed, on what, what to do. `text` is always NUL-terminated, one line, no trailing newline.
 */
typedef struct ofr_error {
    int code;
    char text[OFR_ERROR_TEXT_MAX];
} ofr_error;

/* Short stable name ("not_found") and sentence ("not found") of a code; never NULL. */
const char *ofr_status_name(int code);
const char *ofr_status_message(int code);

/* The code that stands for an errno value (ENOENT -> OFR_ENOENT, ...; otherwise OFR_EIO). */
int ofr_status_from_errno(int errnum);

/* Writes the error (if err is not NULL) and returns `code`, so that a failure is one statement:
 *     return ofr_fail(err, OFR_EFORMAT, "%s: no such tensor '%s'", path, name); */
int ofr_fail(ofr_error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As ofr_fail, with the code and the reason taken from errnum: "<text>: <strerror>". */
int ofr_fail_errno(ofr_error *err, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "<text>: " before what the error already says; keeps its code. Returns that code. */
int ofr_error_prefix(ofr_error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
