/* The command `executive_shard status`: once, or as a live view. */
#ifndef OFR_EXECUTIVE_SHARD_STATUS_COMMAND_H
#define OFR_EXECUTIVE_SHARD_STATUS_COMMAND_H

#include <stdbool.h>
#include <stdio.h>

#include <jansson.h>

#include "base/status.h"

/* Asks over `fd`, an open control connection (it stays the caller's), and prints. With `watch`
 * again every second until the executive ends, Ctrl-C or, on a terminal, 'q'; with `json` too, one
 * object per line. Returns the exit code. */
int ofr_status_command(int fd, bool json, bool watch);

/* One status as text; `before` (may be NULL) is an earlier one, for rates. */
void ofr_status_print(const json_t *status, const json_t *before, FILE *out);

#endif
