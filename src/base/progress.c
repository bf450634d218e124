/* Progress of a long piece of work: when to write a line, and what it says. */
#include "base/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const double TERMINAL_INTERVAL_S = 0.1;
static const double LOG_INTERVAL_S = 5;
enum { BAR_WIDTH_MAX = 30, LINE_MAX_BYTES = 512 };

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void format_bytes(double bytes, char *text, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, size, unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

static void format_duration(double seconds, char *text, size_t size)
{
    if (seconds > 359999)
        seconds = 359999;
    unsigned whole = (unsigned)(seconds + 0.5);
    if (whole >= 3600)
        snprintf(text, size, "%u:%02u:%02u", whole / 3600, whole / 60 % 60, whole % 60);
    else
        snprintf(text, size, "%u:%02u", whole / 60, whole % 60);
}

void ofr_progress_format(const ofr_progress *progress, double elapsed_s, unsigned columns,
                         char *ret_line, size_t size)
{
    uint64_t done = progress->done_bytes, total = progress->total_bytes;
    uint64_t worked = done > progress->skipped_bytes ? done - progress->skipped_bytes : 0;
    double rate = elapsed_s > 0 ? (double)worked / elapsed_s : 0;
    char done_text[32], total_text[32], rate_text[32], time_text[32];
    format_bytes((double)done, done_text, sizeof done_text);
    format_bytes((double)total, total_text, sizeof total_text);
    format_bytes(rate, rate_text, sizeof rate_text);

    char figures[256];
    if (total == 0) {
        snprintf(figures, sizeof figures, "%s, %s/s", done_text, rate_text);
    } else if (done >= total) {
        format_duration(elapsed_s, time_text, sizeof time_text);
        snprintf(figures, sizeof figures, "100 %%, %s, %s/s, took %s", done_text, rate_text,
                 time_text);
    } else {
        if (rate > 0)
            format_duration((double)(total - done) / rate, time_text, sizeof time_text);
        else
            snprintf(time_text, sizeof time_text, "?");
        snprintf(figures, sizeof figures, "%3.0f %%, %s of %s, %s/s, %s left",
                 100.0 * (double)done / (double)total, done_text, total_text, rate_text, time_text);
    }

    char bar[BAR_WIDTH_MAX + 4] = "";
    size_t used = strlen(progress->label) + strlen(figures) + 5;
    if (total > 0 && columns > used + 10) {
        size_t width = columns - used - 3;
        if (width > BAR_WIDTH_MAX)
            width = BAR_WIDTH_MAX;
        double part = done >= total ? 1 : (double)done / (double)total;
        size_t filled = (size_t)(part * (double)width);
        bar[0] = '[';
        memset(bar + 1, '#', filled);
        memset(bar + 1 + filled, '.', width - filled);
        memcpy(bar + 1 + width, "] ", 3);
    }
    snprintf(ret_line, size, "%s: %s%s", progress->label, bar, figures);
}

static void show(ofr_progress *progress, double now, bool last)
{
    char line[LINE_MAX_BYTES], text[LINE_MAX_BYTES + 16];
    unsigned columns = 0;
    if (progress->terminal) {
        struct winsize window = {0};
        columns =
            ioctl(progress->fd, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
    }
    ofr_progress_format(progress, now - progress->begin_s, columns, line, sizeof line);
    if (progress->terminal && strlen(line) >= columns && columns > 1)
        line[columns - 1] = '\0';
    int n = snprintf(text, sizeof text, progress->terminal ? "\r\033[K%s%s" : "%s%s", line,
                     last || !progress->terminal ? "\n" : "");
    /* Nobody acts on a progress line that could not be written. */
    if (n > 0 && write(progress->fd, text, (size_t)n) < 0)
        progress->fd = -1;
    progress->drawn = progress->terminal && !last;
    progress->shown_s = now;
}

void ofr_progress_begin(ofr_progress *progress, int fd, const char *label, uint64_t total_bytes)
{
    double now = now_s();
    *progress = (ofr_progress){.fd = fd,
                               .terminal = fd >= 0 && isatty(fd),
                               .label = label,
                               .total_bytes = total_bytes,
                               .begin_s = now,
                               .shown_s = now};
}

void ofr_progress_add(ofr_progress *progress, uint64_t bytes)
{
    progress->done_bytes += bytes;
    if (progress->fd < 0)
        return;
    double now = now_s();
    if (now - progress->shown_s >= (progress->terminal ? TERMINAL_INTERVAL_S : LOG_INTERVAL_S))
        show(progress, now, false);
}

void ofr_progress_skip(ofr_progress *progress, uint64_t bytes)
{
    progress->skipped_bytes += bytes;
    ofr_progress_add(progress, bytes);
}

void ofr_progress_end(ofr_progress *progress)
{
    if (progress->fd >= 0)
        show(progress, now_s(), true);
    progress->fd = -1;
}

void ofr_progress_abandon(ofr_progress *progress)
{
    if (progress->fd >= 0 && progress->drawn && write(progress->fd, "\n", 1) < 0)
        progress->drawn = false;
    progress->fd = -1;
}
