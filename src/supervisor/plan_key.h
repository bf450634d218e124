/* What a plan's figures depend on, as one checksum: the devices that the kernel lists, the driver
 * files as they are on disk (nothing is loaded), the kernel, the package, the threads and the
 * program that has the CPU's kernels. Whoever has another key has to measure again. */
#ifndef OFR_SUPERVISOR_PLAN_KEY_H
#define OFR_SUPERVISOR_PLAN_KEY_H

#include <stdint.h>

#include "base/sha256.h"
#include "base/status.h"

/* `root` of the file system that is looked at; NULL: "/". */
int ofr_plan_key(const char *root, const char *package_fingerprint, uint32_t threads,
                 char ret_key[OFR_SHA256_HEX_SIZE], ofr_error *err);

#endif
