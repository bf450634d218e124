/* Progress of a long piece of work on a terminal: a bar with bytes, rate and time left.
 *
 * On a terminal one line is redrawn about ten times a second. Elsewhere (a log, a pipe) a plain
 * line is written at most every five seconds and at the end, so that logs stay short. One thread.
 */
#ifndef OFR_BASE_PROGRESS_H
#define OFR_BASE_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ofr_progress {
    int fd;
    bool terminal;
    bool drawn; /* the terminal's line is not empty */
    const char *label;
    uint64_t total_bytes, done_bytes;
    uint64_t skipped_bytes; /* done before: not counted in the rate */
    double begin_s, shown_s;
} ofr_progress;

/* `label` ("quantizing") is borrowed until ofr_progress_end. total_bytes 0: unknown. fd -1: quiet.
 */
void ofr_progress_begin(ofr_progress *progress, int fd, const char *label, uint64_t total_bytes);
/* `bytes` more are done; `skip` is the same for work that an earlier run had done. */
void ofr_progress_add(ofr_progress *progress, uint64_t bytes);
void ofr_progress_skip(ofr_progress *progress, uint64_t bytes);
/* Writes the last state and ends the line. */
void ofr_progress_end(ofr_progress *progress);
/* Ends the line as it is: the work failed. */
void ofr_progress_abandon(ofr_progress *progress);

/* What a line says after `elapsed_s` seconds, for a terminal of `columns` (0: no bar), NUL
 * terminated within `size`. Pure. */
void ofr_progress_format(const ofr_progress *progress, double elapsed_s, unsigned columns,
                         char *ret_line, size_t size);

#endif
