/* OpenVINO's devices, through its C library opened at run time. Only the few functions that list
 * devices are used; their prototypes are those of openvino/c/ov_core.h. */
#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/process.h"
#include "device/runtime_devices.h"

typedef struct ov_core ov_core;
typedef struct available_devices {
    char **devices;
    size_t size;
} available_devices;
typedef struct version {
    const char *build_number;
    const char *description;
} version;

struct functions {
    int (*create)(ov_core **core);
    void (*core_free)(ov_core *core);
    int (*get_version)(version *ret_version);
    int (*list)(const ov_core *core, available_devices *ret_devices);
    void (*list_free)(available_devices *devices);
    int (*property)(const ov_core *core, const char *device, const char *key, char **ret_value);
    void (*text_free)(const char *text);
};

static bool first_match(const char *pattern, char *ret_path, size_t size)
{
    glob_t found;
    bool ok = glob(pattern, 0, NULL, &found) == 0 && found.gl_pathc > 0 &&
              strlen(found.gl_pathv[0]) < size;
    if (ok)
        snprintf(ret_path, size, "%s", found.gl_pathv[0]);
    globfree(&found);
    return ok;
}

bool ofr_openvino_find_library(char *ret_path, size_t size)
{
    static const char inside[] =
        "venv_offering/lib/python3*/site-packages/openvino/libs/libopenvino_c.so*";
    char program[2048];
    char pattern[4096];
    const char *named = getenv("OFFERING_OPENVINO_LIBRARY");
    if (named && named[0] && strlen(named) < size) {
        snprintf(ret_path, size, "%s", named);
        return true;
    }
    if (ofr_process_self_path(program, sizeof program, NULL) == 0) {
        /* From build/<preset>/bin up to the source tree, and from an installation's bin. */
        for (int level = 0; level < 4; level++) {
            char *slash = strrchr(program, '/');
            if (!slash)
                break;
            *slash = 0;
            snprintf(pattern, sizeof pattern, "%s/%s", program, inside);
            if (first_match(pattern, ret_path, size))
                return true;
        }
    }
    return first_match(inside, ret_path, size);
}

static bool look_up(void *library, const char *name, void *ret_function)
{
    void *symbol = dlsym(library, name);
    memcpy(ret_function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static bool read_property(const struct functions *ov, const ov_core *core, const char *device,
                          const char *key, char *ret_text, size_t size)
{
    char *value = NULL;
    if (ov->property(core, device, key, &value) != 0 || !value)
        return false;
    snprintf(ret_text, size, "%s", value);
    ov->text_free(value);
    return true;
}

/* "{domain: 0 bus: 0 device: 0x2 function: 0}" */
static void read_address(const char *text, ofr_pci_address *ret)
{
    unsigned domain;
    unsigned bus;
    unsigned device;
    unsigned function;
    if (sscanf(text, " { domain : %i bus : %i device : %i function : %i", (int *)&domain,
               (int *)&bus, (int *)&device, (int *)&function) == 4 &&
        bus < 256 && device < 32 && function < 8)
        *ret = (ofr_pci_address){true, domain, (uint8_t)bus, (uint8_t)device, (uint8_t)function};
}

static void describe(const struct functions *ov, const ov_core *core, const char *name,
                     ofr_device *d)
{
    char text[256];
    *d = (ofr_device){0};
    d->kind = strncmp(name, "NPU", 3) == 0   ? OFR_DEVICE_KIND_NPU
              : strncmp(name, "GPU", 3) == 0 ? OFR_DEVICE_KIND_INTEGRATED_GPU
                                             : OFR_DEVICE_KIND_CPU;
    snprintf(d->openvino, sizeof d->openvino, "openvino:%.16s", name);
    read_property(ov, core, name, "FULL_DEVICE_NAME", d->model, sizeof d->model);
    if (d->kind != OFR_DEVICE_KIND_CPU &&
        read_property(ov, core, name, "DEVICE_PCI_INFO", text, sizeof text))
        read_address(text, &d->pci);
    if (d->kind == OFR_DEVICE_KIND_INTEGRATED_GPU &&
        read_property(ov, core, name, "DEVICE_TYPE", text, sizeof text) && strstr(text, "discrete"))
        d->kind = OFR_DEVICE_KIND_DISCRETE_GPU;
}

int ofr_openvino_devices(const char *library, ofr_stage_function *stage, void *user,
                         ofr_device *ret_devices, size_t *ret_count, char *ret_version,
                         ofr_error *err)
{
    char found[4096];
    if (!library)
        library = ofr_openvino_find_library(found, sizeof found) ? found : "libopenvino_c.so";
    stage(user, "loading libopenvino_c.so");
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    struct functions ov;
    if (!handle)
        return ofr_fail(err, OFR_ENOENT, "no OpenVINO: %s", dlerror());
    if (!look_up(handle, "ov_core_create", &ov.create) ||
        !look_up(handle, "ov_core_free", &ov.core_free) ||
        !look_up(handle, "ov_get_openvino_version", &ov.get_version) ||
        !look_up(handle, "ov_core_get_available_devices", &ov.list) ||
        !look_up(handle, "ov_available_devices_free", &ov.list_free) ||
        !look_up(handle, "ov_core_get_property", &ov.property) ||
        !look_up(handle, "ov_free", &ov.text_free))
        return ofr_fail(err, OFR_EVERSION, "%s lacks functions of OpenVINO 2022.1", library);
    version numbers = {0};
    if (ov.get_version(&numbers) == 0 && numbers.build_number)
        snprintf(ret_version, 64, "%s", numbers.build_number);
    ov_core *core = NULL;
    stage(user, "ov_core_create");
    int result = ov.create(&core);
    if (result != 0)
        return ofr_fail(err, OFR_EDEVICE, "OpenVINO does not start (ov_core_create: %d)", result);
    available_devices devices = {0};
    stage(user, "ov_core_get_available_devices");
    result = ov.list(core, &devices);
    size_t count = 0;
    for (size_t i = 0; result == 0 && i < devices.size && count < OFR_DEVICES_MAX; i++) {
        char text[64];
        snprintf(text, sizeof text, "properties of OpenVINO's %.16s", devices.devices[i]);
        stage(user, text);
        describe(&ov, core, devices.devices[i], &ret_devices[count++]);
    }
    if (result == 0)
        ov.list_free(&devices);
    ov.core_free(core);
    if (result != 0)
        return ofr_fail(err, OFR_EDEVICE, "OpenVINO lists no devices (%d)", result);
    *ret_count = count;
    return 0;
}
