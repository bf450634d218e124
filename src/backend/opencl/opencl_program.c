/* Building programs, with a verified cache of binaries. */
#include "backend/opencl/opencl_program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/sha256.h"

enum { OPTIONS_SIZE = 2048, HEADER_BYTES = 144, BINARY_MAX = 64 << 20, LOG_MAX = 1 << 20 };
static const char magic[8] = {'O', 'F', 'R', 'C', 'L', 'B', '1', '\n'};

char *ofr_opencl_cache_directory(void)
{
    const char *own = getenv("OFFERING_CACHE_DIR"), *base = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME"), *parts[2] = {own, "opencl"};
    if (own == NULL || own[0] != '/') {
        bool xdg = base != NULL && base[0] == '/';
        parts[0] = xdg ? base : home;
        parts[1] = xdg ? "offering/opencl" : ".cache/offering/opencl";
    }
    if (parts[0] == NULL || parts[0][0] != '/') {
        return NULL;
    }
    char *path = ofr_path_join(parts[0], parts[1]);
    if (path != NULL && ofr_directory_make(path, 0700, NULL) < 0) {
        free(path);
        path = NULL;
    }
    return path;
}

static int device_options(const ofr_opencl_device *device, const char *own, char *text,
                          ofr_error *err)
{
    char nvidia[32] = "";
    if (device->nvidia > 0) {
        snprintf(nvidia, sizeof nvidia, " -DOFR_NVIDIA=%u", device->nvidia);
    }
    int n = snprintf(text, OPTIONS_SIZE, "%s -cl-mad-enable -DWARP=%u%s%s%s %s",
                     device->opencl_c_3 ? "-cl-std=CL3.0" : "-cl-std=CL1.2", device->warp, nvidia,
                     device->intel_subgroups ? " -DOFR_INTEL" : "",
                     device->device_fence ? " -DDEVICE_FENCE" : "", own);
    if (n < 0 || n >= OPTIONS_SIZE) {
        return ofr_fail(err, OFR_EINTERNAL, "OpenCL backend: compiler options are too long");
    }
    return 0;
}

static int make_key(const ofr_opencl_device *device, const char *const *sources, uint32_t n_sources,
                    const char *options, char key[OFR_SHA256_HEX_SIZE], ofr_error *err)
{
    ofr_sha256 sha = {0};
    const char *texts[] = {device->name, device->vendor, device->driver, device->platform_version,
                           options};
    int result = ofr_sha256_init(&sha, err);
    for (size_t i = 0; result == 0 && i < sizeof texts / sizeof texts[0]; i++) {
        result = ofr_sha256_update(&sha, texts[i], strlen(texts[i]) + 1, err);
    }
    for (uint32_t i = 0; result == 0 && i < n_sources; i++) {
        result = ofr_sha256_update(&sha, sources[i], strlen(sources[i]), err);
    }
    if (result == 0) {
        result = ofr_sha256_finish_hex(&sha, key, err);
    }
    ofr_sha256_done(&sha);
    return result;
}

/* The binary part of a cache file that is whole, else NULL. */
static const unsigned char *check_cached(const unsigned char *file, size_t size, const char *key,
                                         size_t *ret_size)
{
    char sum[OFR_SHA256_HEX_SIZE];
    uint64_t bytes = 0;
    if (size <= HEADER_BYTES || memcmp(file, magic, sizeof magic) != 0 ||
        memcmp(file + 80, key, 64) != 0) {
        return NULL;
    }
    memcpy(&bytes, file + 8, sizeof bytes);
    if (bytes != size - HEADER_BYTES ||
        ofr_sha256_hex(file + HEADER_BYTES, (size_t)bytes, sum, NULL) < 0 ||
        memcmp(file + 16, sum, 64) != 0) {
        return NULL;
    }
    *ret_size = (size_t)bytes;
    return file + HEADER_BYTES;
}

static cl_program load_cached(const ofr_opencl_compiler *compiler, const char *path,
                              const char *key, const char *options)
{
    void *file = NULL;
    size_t size = 0, bytes = 0;
    if (ofr_file_read(path, BINARY_MAX, &file, &size, NULL) < 0) {
        return NULL;
    }
    cl_program program = NULL;
    const unsigned char *binary = check_cached(file, size, key, &bytes);
    if (binary != NULL) {
        cl_int status = CL_SUCCESS, loaded = CL_SUCCESS;
        const ofr_opencl_api *api = compiler->api;
        program = api->CreateProgramWithBinary(compiler->context, 1, &compiler->device->id, &bytes,
                                               &binary, &loaded, &status);
        if (status != CL_SUCCESS || loaded != CL_SUCCESS ||
            api->BuildProgram(program, 1, &compiler->device->id, options, NULL, NULL) !=
                CL_SUCCESS) {
            if (program != NULL) {
                api->ReleaseProgram(program);
            }
            program = NULL;
        }
    }
    free(file);
    return program;
}

/* A cache that cannot be written is no error: the next start compiles again. */
static void store_cached(const ofr_opencl_compiler *compiler, cl_program program, const char *path,
                         const char *key)
{
    const ofr_opencl_api *api = compiler->api;
    size_t size = 0;
    if (api->GetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, NULL) !=
            CL_SUCCESS ||
        size == 0 || size > BINARY_MAX - HEADER_BYTES) {
        return;
    }
    unsigned char *file = malloc(HEADER_BYTES + size);
    if (file == NULL) {
        return;
    }
    unsigned char *binary = file + HEADER_BYTES;
    char sum[OFR_SHA256_HEX_SIZE];
    uint64_t bytes = size;
    if (api->GetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL) ==
            CL_SUCCESS &&
        ofr_sha256_hex(binary, size, sum, NULL) == 0) {
        memcpy(file, magic, sizeof magic);
        memcpy(file + 8, &bytes, sizeof bytes);
        memcpy(file + 16, sum, 64);
        memcpy(file + 80, key, 64);
        ofr_file_replace(path, file, HEADER_BYTES + size, 0600, NULL);
    }
    free(file);
}

static int fail_build(const ofr_opencl_compiler *compiler, cl_program program, cl_int status,
                      ofr_error *err)
{
    char *log = calloc(1, LOG_MAX);
    if (log != NULL) {
        compiler->api->GetProgramBuildInfo(program, compiler->device->id, CL_PROGRAM_BUILD_LOG,
                                           LOG_MAX - 1, log, NULL);
        for (char *at = log; *at != '\0'; at++) {
            *at = *at == '\n' || *at == '\t' ? ' ' : *at;
        }
    }
    int result = ofr_fail(err, OFR_EDEVICE,
                          "OpenCL backend: the driver of %s (%s) cannot compile our kernels (%s): "
                          "%.600s",
                          compiler->device->name, compiler->device->driver,
                          ofr_opencl_status_name(status), log != NULL ? log : "");
    free(log);
    return result;
}

static int compile(ofr_opencl_compiler *compiler, const char *const *sources, uint32_t n_sources,
                   const char *options, cl_program *ret_program, ofr_error *err)
{
    const ofr_opencl_api *api = compiler->api;
    cl_int status = CL_SUCCESS;
    const char *texts[OFR_OPENCL_SOURCES_MAX];
    memcpy(texts, sources, n_sources * sizeof *texts);
    cl_program program =
        api->CreateProgramWithSource(compiler->context, n_sources, texts, NULL, &status);
    if (status != CL_SUCCESS) {
        return ofr_fail(err, ofr_opencl_status_code(status),
                        "OpenCL backend: cannot make a program on %s (%s)", compiler->device->name,
                        ofr_opencl_status_name(status));
    }
    compiler->builds++;
    status = api->BuildProgram(program, 1, &compiler->device->id, options, NULL, NULL);
    if (status != CL_SUCCESS) {
        int result = fail_build(compiler, program, status, err);
        api->ReleaseProgram(program);
        return result;
    }
    *ret_program = program;
    return 0;
}

int ofr_opencl_program_build(ofr_opencl_compiler *compiler, const char *const *sources,
                             uint32_t n_sources, const char *options, cl_program *ret_program,
                             ofr_error *err)
{
    char all[OPTIONS_SIZE], key[OFR_SHA256_HEX_SIZE], name[OFR_SHA256_HEX_SIZE + 8];
    if (n_sources == 0 || n_sources > OFR_OPENCL_SOURCES_MAX) {
        return ofr_fail(err, OFR_EINTERNAL, "OpenCL backend: a program of %u sources", n_sources);
    }
    int result = device_options(compiler->device, options, all, err);
    char *path = NULL;
    if (result == 0 && compiler->cache_directory != NULL) {
        result = make_key(compiler->device, sources, n_sources, all, key, err);
        if (result == 0) {
            snprintf(name, sizeof name, "%s.bin", key);
            path = ofr_path_join(compiler->cache_directory, name);
        }
    }
    if (result < 0) {
        return result;
    }
    cl_program program = path != NULL ? load_cached(compiler, path, key, all) : NULL;
    if (program != NULL) {
        compiler->cache_hits++;
    } else {
        result = compile(compiler, sources, n_sources, all, &program, err);
        if (result == 0 && path != NULL) {
            store_cached(compiler, program, path, key);
        }
    }
    free(path);
    if (result == 0) {
        *ret_program = program;
    }
    return result;
}
