/* The kernel's list of devices: DRM cards, accelerators, the processor. */
#include "device/sysfs.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES_MAX = 64 };

static const char *line_value(const char *text, const char *key, char *ret_value, size_t size)
{
    size_t length = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n')
            line++;
        if (strncmp(line, key, length) == 0) {
            snprintf(ret_value, size, "%.*s", (int)strcspn(line + length, "\n"), line + length);
            return ret_value;
        }
    }
    return NULL;
}

/* PCI address, ids and driver of /sys/class/<class>/<name>/device; false where it is no PCI device.
 */
static bool read_pci(const ofr_root *root, const char *sysfs, ofr_device *device)
{
    char uevent[1024];
    char value[64];
    uint64_t id = 0;
    if (!ofr_root_read(root, uevent, sizeof uevent, "%s/device/uevent", sysfs) ||
        !line_value(uevent, "PCI_SLOT_NAME=", value, sizeof value) ||
        !ofr_pci_parse(value, &device->pci))
        return false;
    if (line_value(uevent, "DRIVER=", value, sizeof value))
        snprintf(device->kernel_driver, sizeof device->kernel_driver, "%.31s", value);
    if (ofr_root_read_u64(root, &id, "%s/device/vendor", sysfs))
        device->vendor_id = (uint32_t)id;
    if (ofr_root_read_u64(root, &id, "%s/device/device", sysfs))
        device->device_id = (uint32_t)id;
    snprintf(device->sysfs, sizeof device->sysfs, "%s", sysfs);
    return true;
}

static ofr_device *add(ofr_device_list *list, enum ofr_device_kind kind)
{
    if (list->count == OFR_DEVICES_MAX)
        return NULL;
    ofr_device *device = &list->devices[list->count++];
    *device = (ofr_device){.kind = kind};
    return device;
}

static uint32_t first_mhz(const ofr_root *root, const char *sysfs, const char *const *files)
{
    uint64_t mhz = 0;
    for (; *files; files++)
        if (ofr_root_read_u64(root, &mhz, "%s/%s", sysfs, *files) && mhz > 0 && mhz < 100000)
            return (uint32_t)mhz;
    return 0;
}

static bool all_digits(const char *text)
{
    for (; *text; text++)
        if (!isdigit((unsigned char)*text))
            return false;
    return true;
}

static const char *vendor_name(uint32_t vendor)
{
    return vendor == 0x8086 ? "Intel" : vendor == 0x1002 ? "AMD" : vendor == 0x10de ? "NVIDIA" : "";
}

static void scan_cards(const ofr_root *root, ofr_device_list *list)
{
    static const char *const max_files[] = {"gt_RP0_freq_mhz", "gt_max_freq_mhz",
                                            "device/tile0/gt0/freq0/rp0_freq",
                                            "device/tile0/gt0/freq0/max_freq", NULL};
    static const char *const min_files[] = {"gt_RPn_freq_mhz", "gt_min_freq_mhz",
                                            "device/tile0/gt0/freq0/rpn_freq",
                                            "device/tile0/gt0/freq0/min_freq", NULL};
    char names[NAMES_MAX][OFR_ROOT_NAME_SIZE];
    size_t count = ofr_root_list(root, "/sys/class/drm", "card", names, NAMES_MAX);
    for (size_t i = 0; i < count; i++) {
        if (!all_digits(names[i] + 4)) /* "card0-eDP-1" is a connector */
            continue;
        char sysfs[64];
        ofr_device found = {0};
        snprintf(sysfs, sizeof sysfs, "/sys/class/drm/%.32s", names[i]);
        if (!read_pci(root, sysfs, &found))
            continue;
        /* An integrated GPU sits on the root bus; drivers know better and correct this. */
        bool integrated = found.pci.bus == 0;
        ofr_device *device =
            add(list, integrated ? OFR_DEVICE_KIND_INTEGRATED_GPU : OFR_DEVICE_KIND_DISCRETE_GPU);
        if (!device)
            return;
        found.kind = device->kind;
        *device = found;
        snprintf(device->model, sizeof device->model, "%s GPU %04x:%04x",
                 vendor_name(found.vendor_id), found.vendor_id & 0xffff, found.device_id & 0xffff);
        device->max_mhz = first_mhz(root, sysfs, max_files);
        device->min_mhz = first_mhz(root, sysfs, min_files);
        char nodes[8][OFR_ROOT_NAME_SIZE];
        char path[128];
        snprintf(path, sizeof path, "%s/device/drm", sysfs);
        if (ofr_root_list(root, path, "renderD", nodes, 8) > 0)
            snprintf(device->node, sizeof device->node, "/dev/dri/%.48s", nodes[0]);
    }
}

static void scan_accelerators(const ofr_root *root, ofr_device_list *list)
{
    char names[NAMES_MAX][OFR_ROOT_NAME_SIZE];
    size_t count = ofr_root_list(root, "/sys/class/accel", "accel", names, NAMES_MAX);
    for (size_t i = 0; i < count; i++) {
        char sysfs[64];
        ofr_device found = {.kind = OFR_DEVICE_KIND_NPU};
        snprintf(sysfs, sizeof sysfs, "/sys/class/accel/%.32s", names[i]);
        /* Other accelerators exist (Habana, Qualcomm); only Intel's NPU is one of ours. */
        if (!read_pci(root, sysfs, &found) || strcmp(found.kernel_driver, "intel_vpu") != 0)
            continue;
        ofr_device *device = add(list, OFR_DEVICE_KIND_NPU);
        if (!device)
            return;
        *device = found;
        snprintf(device->model, sizeof device->model, "Intel NPU %04x:%04x",
                 found.vendor_id & 0xffff, found.device_id & 0xffff);
        snprintf(device->node, sizeof device->node, "/dev/accel/%.48s", names[i]);
        static const char *const max_files[] = {"device/npu_max_frequency_mhz", NULL};
        device->max_mhz = first_mhz(root, sysfs, max_files);
    }
}

static void scan_processor(const ofr_root *root, ofr_device_list *list)
{
    ofr_device *device = add(list, OFR_DEVICE_KIND_CPU);
    char *info = ofr_root_load(root, "/proc/cpuinfo", 65536);
    char value[128] = "";
    if (info && line_value(info, "model name", value, sizeof value)) {
        const char *text = value + strspn(value, "\t :");
        snprintf(device->model, sizeof device->model, "%s", text);
    } else {
        snprintf(device->model, sizeof device->model, "x86-64 processor");
    }
    free(info);
    char names[NAMES_MAX][OFR_ROOT_NAME_SIZE];
    size_t count = ofr_root_list(root, "/sys/devices/system/cpu", "cpu", names, NAMES_MAX);
    for (size_t i = 0; i < count; i++) {
        uint64_t khz = 0;
        if (!all_digits(names[i] + 3))
            continue;
        if (ofr_root_read_u64(root, &khz, "/sys/devices/system/cpu/%s/cpufreq/cpuinfo_max_freq",
                              names[i]) &&
            khz / 1000 > device->max_mhz && khz < 100000000)
            device->max_mhz = (uint32_t)(khz / 1000);
        if (ofr_root_read_u64(root, &khz, "/sys/devices/system/cpu/%s/cpufreq/cpuinfo_min_freq",
                              names[i]) &&
            khz < 100000000 && (device->min_mhz == 0 || khz / 1000 < device->min_mhz))
            device->min_mhz = (uint32_t)(khz / 1000);
    }
}

void ofr_sysfs_scan(const ofr_root *root, ofr_device_list *list)
{
    scan_processor(root, list);
    scan_accelerators(root, list);
    scan_cards(root, list);
}
