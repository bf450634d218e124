/* The log sink of the programs: one line per record on stderr. Libraries never log; they return
 * errors. Any thread may log. */
#ifndef OFR_BASE_LOG_H
#define OFR_BASE_LOG_H

#include "base/status.h"

/* The numbers are syslog's, so that journald shows the right priority. */
enum ofr_log_level {
    OFR_LOG_LEVEL_ERROR = 3,
    OFR_LOG_LEVEL_WARNING = 4,
    OFR_LOG_LEVEL_INFO = 6,
    OFR_LOG_LEVEL_DEBUG = 7,
};

/* Records above `level` are dropped; `tag` (borrowed, "executive_shard") opens each line. Under
 * systemd (JOURNAL_STREAM is set) lines carry "<n>" instead of a time. Call once, early in main. */
void ofr_log_setup(const char *tag, enum ofr_log_level level);
void ofr_log(enum ofr_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "error", "warning", "info", "debug". */
int ofr_log_level_parse(const char *name, enum ofr_log_level *ret_level, ofr_error *err);

#endif
