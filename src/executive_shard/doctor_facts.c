/* Collecting what the doctor judges, below a root. */
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/shm.h"
#include "device/root.h"
#include "engine/kv.h"
#include "executive_shard/doctor.h"
#include "executive_shard/instance.h"
#include "package/package.h"

enum { NAMES_MAX = 256, DPKG_CAP = 64 << 20 };

static const char *const library_directories[] = {
    "/usr/lib/x86_64-linux-gnu",       "/usr/lib64",           "/usr/lib", "/usr/local/lib",
    "/usr/local/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu"};

static void read_node(const ofr_root *root, ofr_doctor_node *node)
{
    struct stat info;
    node->exists = ofr_root_stat(root, node->path, &info);
    if (!node->exists)
        return;
    node->usable = ofr_root_may(root, node->path, R_OK | W_OK);
    const struct group *group = getgrgid(info.st_gid);
    if (group)
        snprintf(node->group, sizeof node->group, "%.31s", group->gr_name);
    else
        snprintf(node->group, sizeof node->group, "%u", (unsigned)info.st_gid);
}

static void read_nodes(const ofr_root *root, ofr_doctor_facts *f)
{
    char names[8][OFR_ROOT_NAME_SIZE];
    if (f->npu.present) {
        snprintf(f->npu.node.path, sizeof f->npu.node.path, "/dev/accel/accel0");
        read_node(root, &f->npu.node);
    }
    for (size_t i = 0; i < f->n_gpus; i++) {
        char path[96];
        ofr_doctor_node *node = &f->gpus[i].node;
        snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/drm", f->gpus[i].address);
        if (ofr_root_list(root, path, "renderD", names, 8) == 0)
            continue;
        snprintf(node->path, sizeof node->path, "/dev/dri/%.40s", names[0]);
        read_node(root, node);
    }
}

static void read_pci(const ofr_root *root, ofr_doctor_facts *f)
{
    char names[NAMES_MAX][OFR_ROOT_NAME_SIZE];
    size_t count = ofr_root_list(root, "/sys/bus/pci/devices", "", names, NAMES_MAX);
    for (size_t i = 0; i < count; i++) {
        static const char base[] = "/sys/bus/pci/devices";
        uint64_t class = 0;
        uint64_t vendor = 0;
        uint64_t id = 0;
        char target[256];
        char path[512];
        if (!ofr_root_read_u64(root, &class, "%s/%s/class", base, names[i]) ||
            !ofr_root_read_u64(root, &vendor, "%s/%s/vendor", base, names[i]) ||
            !ofr_root_read_u64(root, &id, "%s/%s/device", base, names[i]))
            continue;
        bool npu = vendor == 0x8086 && class >> 16 == 0x12;
        bool gpu =
            class >> 16 == 0x03 && (vendor == 0x8086 || vendor == 0x10de || vendor == 0x1002);
        if (!npu && !(gpu && f->n_gpus < OFR_DOCTOR_GPUS_MAX))
            continue;
        ofr_doctor_pci *device = npu ? &f->npu : &f->gpus[f->n_gpus++];
        device->present = true;
        snprintf(device->address, sizeof device->address, "%.23s", names[i]);
        device->vendor_id = (uint32_t)vendor;
        device->device_id = (uint32_t)id;
        snprintf(path, sizeof path, "%s/%s/driver", base, names[i]);
        if (ofr_root_link(root, path, target, sizeof target)) {
            const char *slash = strrchr(target, '/');
            snprintf(device->kernel_driver, sizeof device->kernel_driver, "%.31s",
                     slash ? slash + 1 : target);
        }
    }
}

static bool module_exists(const ofr_root *root, const char *kernel, const char *relative)
{
    static const char *const endings[] = {"", ".zst", ".xz", ".gz"};
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
        if (ofr_root_exists(root, "/lib/modules/%s/kernel/%s%s", kernel, relative, endings[i]) ||
            ofr_root_exists(root, "/usr/lib/modules/%s/kernel/%s%s", kernel, relative, endings[i]))
            return true;
    return false;
}

static void read_kernel(const ofr_root *root, ofr_doctor_facts *f)
{
    static const char *const firmware[] = {"/lib/firmware/updates/intel/vpu",
                                           "/lib/firmware/intel/vpu",
                                           "/usr/lib/firmware/intel/vpu"};
    char path[256];
    char names[8][OFR_ROOT_NAME_SIZE];
    ofr_root_read(root, f->kernel, sizeof f->kernel, "/proc/sys/kernel/osrelease");
    f->wsl = strcasestr(f->kernel, "microsoft") != NULL;
    snprintf(path, sizeof path, "/lib/modules/%.95s/modules.builtin", f->kernel);
    char *builtin = ofr_root_load(root, path, 1 << 20);
    f->npu_module = ofr_root_exists(root, "/sys/module/intel_vpu") ||
                    module_exists(root, f->kernel, "drivers/accel/ivpu/intel_vpu.ko") ||
                    (builtin && strstr(builtin, "intel_vpu.ko"));
    free(builtin);
    /* Generations of firmware: the kernel's ivpu driver, ivpu_fw.c. */
    switch (f->npu.device_id) {
    case 0x7d1d:
    case 0xad1d:
        snprintf(f->npu_firmware_name, sizeof f->npu_firmware_name, "vpu_37xx");
        break;
    case 0x643e:
        snprintf(f->npu_firmware_name, sizeof f->npu_firmware_name, "vpu_40xx");
        break;
    case 0xb03e:
    case 0xfd3e:
        snprintf(f->npu_firmware_name, sizeof f->npu_firmware_name, "vpu_50xx");
        break;
    default:
        snprintf(f->npu_firmware_name, sizeof f->npu_firmware_name, "vpu_");
        break;
    }
    for (size_t i = 0; i < sizeof firmware / sizeof firmware[0]; i++)
        f->npu_firmware |= ofr_root_list(root, firmware[i], f->npu_firmware_name, names, 8) > 0 ||
                           (strcmp(f->npu_firmware_name, "vpu_37xx") == 0 &&
                            ofr_root_list(root, firmware[i], "mtl_vpu", names, 8) > 0);
}

static void read_container(const ofr_root *root, ofr_doctor_facts *f)
{
    if (ofr_root_read(root, f->container, sizeof f->container, "/run/systemd/container"))
        return;
    if (ofr_root_exists(root, "/.dockerenv"))
        snprintf(f->container, sizeof f->container, "docker");
    else if (ofr_root_exists(root, "/run/.containerenv"))
        snprintf(f->container, sizeof f->container, "podman");
}

/* The version in the name that the link of a library points to: libze_loader.so.1.8.0. */
static void find_library(const ofr_root *root, const char *name, ofr_doctor_version ret_version)
{
    for (size_t i = 0; i < sizeof library_directories / sizeof library_directories[0]; i++) {
        char path[256];
        char target[256];
        snprintf(path, sizeof path, "%s/%s", library_directories[i], name);
        if (!ofr_root_exists(root, "%s", path))
            continue;
        snprintf(ret_version, OFR_DOCTOR_VERSION_SIZE, "yes");
        const char *so =
            ofr_root_link(root, path, target, sizeof target) ? strstr(target, ".so.") : NULL;
        if (so)
            snprintf(ret_version, OFR_DOCTOR_VERSION_SIZE, "%.63s", so + 4);
        return;
    }
}

static void read_libraries(const ofr_root *root, ofr_doctor_facts *f)
{
    char names[32][OFR_ROOT_NAME_SIZE];
    find_library(root, "libze_loader.so.1", f->ze_loader);
    find_library(root, "libze_intel_gpu.so.1", f->ze_gpu);
    find_library(root, "libze_intel_npu.so.1", f->ze_npu);
    f->ze_npu_new_name = f->ze_npu[0] != 0;
    if (!f->ze_npu[0])
        find_library(root, "libze_intel_vpu.so.1", f->ze_npu);
    find_library(root, "libnpu_driver_compiler.so", f->npu_compiler);
    find_library(root, "libOpenCL.so.1", f->opencl_loader);
    size_t count = ofr_root_list(root, "/etc/OpenCL/vendors", "", names, 32);
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(names[i]);
        if (length < 4 || strcmp(names[i] + length - 4, ".icd") != 0)
            continue;
        f->n_icds++;
        f->icd_intel |= strncmp(names[i], "intel", 5) == 0;
    }
}

static void find_package(const char *status, const char *name, ofr_doctor_version ret_version)
{
    char line[128];
    int length = snprintf(line, sizeof line, "\nPackage: %s\n", name);
    const char *at = status;
    if (strncmp(status, line + 1, (size_t)length - 1) != 0)
        at = strstr(status, line);
    if (!at)
        return;
    const char *end = strstr(at + length, "\n\n");
    const char *installed = strstr(at, "Status: install ok installed");
    const char *version = strstr(at, "\nVersion: ");
    if (!installed || (end && installed > end))
        return;
    snprintf(ret_version, OFR_DOCTOR_VERSION_SIZE, "yes");
    if (version && (!end || version < end))
        snprintf(ret_version, OFR_DOCTOR_VERSION_SIZE, "%.*s", (int)strcspn(version + 10, "\n"),
                 version + 10);
}

static void read_packages(const ofr_root *root, ofr_doctor_facts *f)
{
    struct stat info;
    if (!ofr_root_stat(root, "/var/lib/dpkg/status", &info) || info.st_size > DPKG_CAP)
        return;
    char *status = ofr_root_load(root, "/var/lib/dpkg/status", (size_t)info.st_size);
    f->debian = status != NULL;
    if (status) {
        find_package(status, "intel-level-zero-npu", f->package_ze_npu);
        find_package(status, "intel-driver-compiler-npu", f->package_compiler);
        find_package(status, "intel-fw-npu", f->package_firmware);
    }
    free(status);
}

static void read_power(const ofr_root *root, ofr_doctor_facts *f)
{
    char names[16][OFR_ROOT_NAME_SIZE];
    ofr_root_read(root, f->power_profile, sizeof f->power_profile,
                  "/sys/firmware/acpi/platform_profile");
    ofr_root_read(root, f->energy_preference, sizeof f->energy_preference,
                  "/sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference");
    size_t count = ofr_root_list(root, "/sys/class/power_supply", "", names, 16);
    bool mains = false;
    bool online = false;
    for (size_t i = 0; i < count; i++) {
        char type[32];
        uint64_t value = 0;
        if (!ofr_root_read(root, type, sizeof type, "/sys/class/power_supply/%s/type", names[i]) ||
            strcmp(type, "Mains") != 0)
            continue;
        mains = true;
        online |=
            ofr_root_read_u64(root, &value, "/sys/class/power_supply/%s/online", names[i]) && value;
    }
    f->on_battery = mains && !online;
    struct stat info;
    f->rapl_present = ofr_root_stat(root, "/sys/class/powercap/intel-rapl:0/energy_uj", &info);
    f->rapl_readable =
        f->rapl_present && ofr_root_may(root, "/sys/class/powercap/intel-rapl:0/energy_uj", R_OK);
}

/* The size= of the tmpfs on /dev/shm in a table of mounts; 0: it has none, or is not there. */
static uint64_t mounted_size(const char *mounts)
{
    for (const char *line = mounts; line && *line; line = strchr(line, '\n')) {
        char options[512];
        char unit = 0;
        unsigned long long size = 0;
        line += *line == '\n';
        if (sscanf(line, "%*s /dev/shm tmpfs %511s", options) != 1)
            continue;
        const char *at = strstr(options, "size=");
        if (!at || sscanf(at, "size=%llu%c", &size, &unit) < 1)
            return 0;
        return unit == 'k'   ? size << 10
               : unit == 'm' ? size << 20
               : unit == 'g' ? size << 30
                             : size;
    }
    return 0;
}

/* What the files of a described machine say; nothing is known of what they do not. */
static void read_described_memory(const ofr_root *root, ofr_doctor_facts *f)
{
    char names[NAMES_MAX][OFR_ROOT_NAME_SIZE];
    char *mounts = ofr_root_load(root, "/proc/self/mounts", 65536);
    uint64_t total = mounted_size(mounts);
    free(mounts);
    if (total) {
        uint64_t used = 0;
        size_t count = ofr_root_list(root, "/dev/shm", "", names, NAMES_MAX);
        for (size_t i = 0; i < count; i++) {
            char path[300];
            struct stat info;
            snprintf(path, sizeof path, "/dev/shm/%s", names[i]);
            if (ofr_root_stat(root, path, &info))
                used += (uint64_t)info.st_size;
        }
        f->shm_total = total;
        f->shm_free = total > used ? total - used : 0;
    }
    char *limits = ofr_root_load(root, "/proc/self/limits", 65536);
    const char *line = limits ? strstr(limits, "Max locked memory") : NULL;
    unsigned long long bytes = 0;
    if (line && sscanf(line, "Max locked memory %llu", &bytes) == 1)
        f->memlock = bytes;
    free(limits);
}

static void read_memory(const ofr_root *root, ofr_doctor_facts *f)
{
    struct stat info;
    struct rlimit limit;
    f->shm_mounted = ofr_root_stat(root, "/dev/shm", &info) && S_ISDIR(info.st_mode);
    f->shm_total = f->shm_free = UINT64_MAX;
    f->memlock = UINT64_MAX;
    if (!root->actual) {
        read_described_memory(root, f);
        return;
    }
    if (ofr_shm_space(&f->shm_free, &f->shm_total, NULL) < 0)
        f->shm_mounted = false;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        f->memlock = limit.rlim_cur;
}

/* Compiled graphs that are older than the driver which would use them. */
static void read_blobs(const ofr_root *root, ofr_doctor_facts *f)
{
    const char *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (cache && cache[0] == '/')
        snprintf(f->blob_directory, sizeof f->blob_directory, "%.400s/offering/blobs", cache);
    else if (home && home[0] == '/')
        snprintf(f->blob_directory, sizeof f->blob_directory, "%.400s/.cache/offering/blobs", home);
    else
        return;
    time_t newest_driver = 0;
    static const char *const drivers[] = {"libze_intel_npu.so.1", "libze_intel_vpu.so.1",
                                          "libnpu_driver_compiler.so"};
    struct stat info;
    char path[1024];
    for (size_t i = 0; i < sizeof drivers / sizeof drivers[0]; i++)
        for (size_t k = 0; k < sizeof library_directories / sizeof library_directories[0]; k++) {
            snprintf(path, sizeof path, "%s/%s", library_directories[k], drivers[i]);
            /* The time it appeared here, not the time it was built. */
            if (ofr_root_stat(root, path, &info) && info.st_ctime > newest_driver)
                newest_driver = info.st_ctime;
        }
    DIR *directory = newest_driver ? opendir(f->blob_directory) : NULL;
    struct dirent *entry;
    while (directory && (entry = readdir(directory)) != NULL) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".blob") != 0 ||
            fstatat(dirfd(directory), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) < 0 ||
            info.st_mtime >= newest_driver)
            continue;
        f->n_stale_blobs++;
        f->stale_blob_bytes += (uint64_t)info.st_size;
    }
    if (directory)
        closedir(directory);
}

static void read_model(const char *model, ofr_doctor_facts *f)
{
    ofr_package *package = NULL;
    ofr_error err = {0};
    const char *path = model ? model : OFR_DEFAULT_PACKAGE;
    f->model_given = model || access(path, F_OK) == 0;
    if (!f->model_given)
        return;
    snprintf(f->model, sizeof f->model, "%.511s", path);
    f->model_code = ofr_package_open(path, 0, &package, &err);
    if (f->model_code < 0) {
        snprintf(f->model_text, sizeof f->model_text, "%.511s", err.text);
        return;
    }
    ofr_kv_layout layout;
    if (ofr_kv_layout_init(&layout, ofr_package_params(package), 1, 2048, 512, NULL) == 0)
        f->kv_bytes_minimum = layout.total_bytes;
    ofr_package_close(package);
    char file[1024];
    snprintf(file, sizeof file, "%s/model.json", f->model);
    json_t *json = json_load_file(file, 0, NULL);
    const char *generator = json_string_value(json_object_get(json, "generator"));
    if (generator)
        snprintf(f->model_generator, sizeof f->model_generator, "%.63s", generator);
    json_decref(json);
}

static void read_processor(const ofr_root *root, ofr_doctor_facts *f)
{
    char *info = ofr_root_load(root, "/proc/cpuinfo", 65536);
    const char *flags = info ? strstr(info, "\nflags") : NULL;
    const char *model = info ? strstr(info, "model name") : NULL;
    if (model) {
        model += strcspn(model, ":\n");
        model += strspn(model, ": ");
        snprintf(f->cpu_model, sizeof f->cpu_model, "%.*s", (int)strcspn(model, "\n"), model);
    }
    if (flags) {
        const char *avx2 = strstr(flags, " avx2");
        f->avx2 =
            avx2 && (avx2[5] == ' ' || avx2[5] == '\n') && avx2 < strchrnul(flags + 1, '\n') + 1;
    }
    free(info);
}

int ofr_doctor_collect(const ofr_doctor_options *options, ofr_doctor_facts *ret_facts,
                       ofr_error *err)
{
    ofr_root root;
    int r = ofr_root_open(options->root, &root, err);
    if (r < 0)
        return r;
    ofr_doctor_facts *f = calloc(1, sizeof *f);
    ofr_device_list *list = calloc(1, sizeof *list);
    if (!f || !list)
        r = ofr_fail(err, OFR_ENOMEM, "no memory for the facts");
    if (r == 0) {
        const struct passwd *user = getpwuid(geteuid());
        snprintf(f->user, sizeof f->user, "%.63s", user ? user->pw_name : "$USER");
        read_processor(&root, f);
        read_pci(&root, f);
        read_kernel(&root, f);
        read_nodes(&root, f);
        read_container(&root, f);
        read_libraries(&root, f);
        read_packages(&root, f);
        read_power(&root, f);
        read_memory(&root, f);
        read_blobs(&root, f);
        read_model(options->model, f);
        f->level_zero.state = OFR_SOURCE_STATE_ABSENT;
        ofr_device_options devices = {.root = options->root, .skip_drivers = options->skip_drivers};
        r = ofr_devices_discover(&devices, list, err);
    }
    if (r == 0) {
        f->level_zero = list->level_zero;
        *ret_facts = *f;
    }
    free(list);
    free(f);
    ofr_root_close(&root);
    return r;
}
