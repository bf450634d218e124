/* A bound on what compiling a graph may take of memory: compilers of accelerators need several
 * times the bytes of what they compile, and a machine that swaps or a killed worker is worse than a
 * graph that is refused.
 *
 * Private writable memory of the process (RLIMIT_DATA) may grow by half of what the system has
 * available when compiling begins, or by $OFFERING_COMPILE_MIB; beyond that, allocations fail and
 * OpenVINO reports it. The limit is the process's: one thread compiles at a time. */
#ifndef OFR_BACKEND_OPENVINO_COMPILE_LIMIT_H
#define OFR_BACKEND_OPENVINO_COMPILE_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include <sys/resource.h>

#include "base/status.h"

typedef struct ofr_compile_limit {
    bool active;
    uint64_t bytes; /* what it may grow by */
    struct rlimit before;
} ofr_compile_limit;

/* Does nothing where the limit cannot be known or set. */
void ofr_compile_limit_begin(ofr_compile_limit *ret_limit);
/* Takes the limit away. Where *result is an error, the text in `err` names the limit. */
void ofr_compile_limit_end(const ofr_compile_limit *limit, const int *result, ofr_error *err);

#endif
