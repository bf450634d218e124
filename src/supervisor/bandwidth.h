/* Read bandwidth of memory, measured: the ceiling that decode is compared with. */
#ifndef OFR_SUPERVISOR_BANDWIDTH_H
#define OFR_SUPERVISOR_BANDWIDTH_H

#include <stdint.h>

#include "base/status.h"

typedef struct ofr_bandwidth {
    double bytes_per_second; /* best pass */
    uint64_t buffer_bytes;   /* all threads together */
    uint32_t threads;
} ofr_bandwidth;

/* `threads` (at least 1) threads each read their part of a buffer, several passes. The buffer is 8
 * times the last-level cache, 512 MiB at least, but at most a quarter of the free memory. Takes
 * about a second. */
int ofr_bandwidth_measure(uint32_t threads, ofr_bandwidth *ret_bandwidth, ofr_error *err);

#endif
