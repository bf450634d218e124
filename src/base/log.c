/* The log sink of the programs. */
#include "base/log.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The one sink of the process, set before threads start. */
static struct {
    const char *tag;
    enum ofr_log_level level;
    bool journal;
} sink = {.tag = "offering", .level = OFR_LOG_LEVEL_INFO};

void ofr_log_setup(const char *tag, enum ofr_log_level level)
{
    sink.tag = tag;
    sink.level = level;
    sink.journal = getenv("JOURNAL_STREAM") != NULL;
}

static const char *level_name(enum ofr_log_level level)
{
    switch (level) {
    case OFR_LOG_LEVEL_ERROR:
        return "error";
    case OFR_LOG_LEVEL_WARNING:
        return "warning";
    case OFR_LOG_LEVEL_INFO:
        return "info";
    case OFR_LOG_LEVEL_DEBUG:
        return "debug";
    }
    return "unknown";
}

void ofr_log(enum ofr_log_level level, const char *format, ...)
{
    if (level > sink.level)
        return;
    char line[2048];
    int used;
    if (sink.journal) {
        used = snprintf(line, sizeof line, "<%d>", (int)level);
    } else {
        struct timespec now;
        struct tm local;
        clock_gettime(CLOCK_REALTIME, &now);
        localtime_r(&now.tv_sec, &local);
        char stamp[32];
        strftime(stamp, sizeof stamp, "%H:%M:%S", &local);
        used = snprintf(line, sizeof line, "%s.%03ld %s[%d] %s: ", stamp, now.tv_nsec / 1000000,
                        sink.tag, (int)getpid(), level_name(level));
    }
    if (used < 0)
        return;
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, args);
    va_end(args);
    if (more < 0)
        return;
    size_t size = strlen(line);
    line[size++] = '\n';
    /* One write per record keeps lines of several processes apart. */
    ssize_t written = write(STDERR_FILENO, line, size);
    (void)written;
}

int ofr_log_level_parse(const char *name, enum ofr_log_level *ret_level, ofr_error *err)
{
    static const enum ofr_log_level levels[] = {OFR_LOG_LEVEL_ERROR, OFR_LOG_LEVEL_WARNING,
                                                OFR_LOG_LEVEL_INFO, OFR_LOG_LEVEL_DEBUG};
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        if (strcmp(name, level_name(levels[i])) == 0) {
            *ret_level = levels[i];
            return 0;
        }
    }
    return ofr_fail(err, OFR_EINVAL, "unknown log level '%s'; known: error, warning, info, debug",
                    name);
}
