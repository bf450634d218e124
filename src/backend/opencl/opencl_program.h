/* Programs: kernels compiled for a device, and the cache of their binaries.
 *
 * A cached binary is a file <key>.bin in the user's cache directory; its key is the SHA-256 of
 * everything that the binary depends on: sources, options, device, driver, platform. Layout, little
 * endian:
 *   0  "OFRCLB1\n"   8  bytes of the binary, u64   16  SHA-256 of the binary, 64 hex digits
 *   80  SHA-256 of the key's text, 64 hex digits   144  the binary
 * A file that does not check is ignored and replaced: the cache never decides whether something
 * works. */
#ifndef OFR_BACKEND_OPENCL_OPENCL_PROGRAM_H
#define OFR_BACKEND_OPENCL_OPENCL_PROGRAM_H

#include "backend/opencl/opencl_device.h"

enum { OFR_OPENCL_SOURCES_MAX = 16 };

typedef struct ofr_opencl_compiler {
    const ofr_opencl_api *api;
    const ofr_opencl_device *device;
    cl_context context;
    const char *cache_directory; /* NULL: no cache */
    uint32_t builds, cache_hits; /* what happened so far */
} ofr_opencl_compiler;

/* Compiles the sources, concatenated, with -D options of the caller after those of the device
 * (WARP, OFR_NVIDIA, ...). Errors carry the head of the compiler's log. */
int ofr_opencl_program_build(ofr_opencl_compiler *compiler, const char *const *sources,
                             uint32_t n_sources, const char *options, cl_program *ret_program,
                             ofr_error *err);

/* $OFFERING_CACHE_DIR, $XDG_CACHE_HOME/offering or ~/.cache/offering, then "/opencl"; made with
 * mode 0700. malloc'ed; NULL where there is none: the cache is then not used. */
char *ofr_opencl_cache_directory(void);

#endif
