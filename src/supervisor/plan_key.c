/* The key of a plan's figures. */
#include "supervisor/plan_key.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "device/device.h"

#ifndef OFR_OPENVINO_LIBRARY
#define OFR_OPENVINO_LIBRARY "/usr/lib/libopenvino_c.so"
#endif

/* Loaders and drivers of Level Zero, OpenCL and OpenVINO, and where OpenCL's drivers are named. */
static const char *const driver_files[] = {
    "/etc/OpenCL/vendors/*.icd",
    "/usr/lib*/libze_*.so*",
    "/usr/lib/*-linux-gnu/libze_*.so*",
    "/usr/lib/*-linux-gnu/intel-opencl/*.so*",
    "/usr/lib/*-linux-gnu/libpocl.so*",
    "/usr/lib/*-linux-gnu/libOpenCL.so*",
    "/usr/lib/*-linux-gnu/libopenvino*.so*",
    "/lib/firmware/intel/vpu/*",
};

static int add(ofr_sha256 *sha, const char *text, ofr_error *err)
{
    return ofr_sha256_update(sha, text, strlen(text) + 1, err);
}

/* `path` below a root of `root_length` characters, which do not count. */
static int add_file(ofr_sha256 *sha, const char *path, size_t root_length, ofr_error *err)
{
    struct stat info;
    char text[1200];
    if (stat(path, &info) < 0)
        info = (struct stat){0};
    snprintf(text, sizeof text, "%.1024s %lld %lld", path + root_length, (long long)info.st_size,
             (long long)info.st_mtime);
    return add(sha, text, err);
}

/* The kernels are in the workers' program. */
static int add_program(ofr_sha256 *sha, ofr_error *err)
{
    char path[1024];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash || (size_t)(slash - path) + sizeof "/executive_shard" > sizeof path)
        return 0;
    strcpy(slash, "/executive_shard");
    return add_file(sha, path, 0, err);
}

static int add_drivers(ofr_sha256 *sha, const char *root, ofr_error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof driver_files / sizeof driver_files[0]; i++) {
        char pattern[1200];
        glob_t found = {0};
        snprintf(pattern, sizeof pattern, "%.1024s%s", root, driver_files[i]);
        if (glob(pattern, 0, NULL, &found) == 0) /* sorted */
            for (size_t k = 0; r == 0 && k < found.gl_pathc; k++)
                r = add_file(sha, found.gl_pathv[k], strlen(root), err);
        globfree(&found);
    }
    const char *openvino = getenv("OFFERING_OPENVINO_LIBRARY");
    return r < 0 ? r : add_file(sha, openvino ? openvino : OFR_OPENVINO_LIBRARY, 0, err);
}

static int add_devices(ofr_sha256 *sha, const char *root, ofr_error *err)
{
    ofr_device_options options = {.root = root[0] ? root : "/", .skip_drivers = true};
    ofr_device_list *list = calloc(1, sizeof *list);
    if (!list)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the list of devices");
    int r = ofr_devices_discover(&options, list, err);
    for (size_t i = 0; r == 0 && i < list->count; i++) {
        const ofr_device *d = &list->devices[i];
        char pci[OFR_PCI_TEXT_SIZE];
        char text[512];
        ofr_pci_format(&d->pci, pci);
        snprintf(text, sizeof text, "%s %s %s %04x:%04x %s", d->name, d->model, pci, d->vendor_id,
                 d->device_id, d->kernel_driver);
        r = add(sha, text, err);
    }
    free(list);
    return r;
}

int ofr_plan_key(const char *root, const char *package_fingerprint, uint32_t threads,
                 char ret_key[OFR_SHA256_HEX_SIZE], ofr_error *err)
{
    if (!root || strcmp(root, "/") == 0)
        root = "";
    struct utsname system;
    if (uname(&system) < 0)
        system = (struct utsname){0};
    char text[512];
    snprintf(text, sizeof text, "offering %s, kernel %.128s, %u of %ld threads", OFR_VERSION,
             system.release, threads, sysconf(_SC_NPROCESSORS_ONLN));
    ofr_sha256 sha = {0};
    int r = ofr_sha256_init(&sha, err);
    if (r == 0)
        r = add(&sha, text, err);
    if (r == 0)
        r = add(&sha, package_fingerprint, err);
    if (r == 0)
        r = add_program(&sha, err);
    if (r == 0)
        r = add_devices(&sha, root, err);
    if (r == 0)
        r = add_drivers(&sha, root, err);
    if (r == 0)
        r = ofr_sha256_finish_hex(&sha, ret_key, err);
    ofr_sha256_done(&sha);
    return r;
}
