/* The kernel's list of devices, and the names that they get, on described machines. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "device/sysfs.h"

static char root[] = "/tmp/offering_sysfs_XXXXXX";

static void put(const char *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(const char *text, const char *format, ...)
{
    char path[512];
    char full[600];
    va_list args;
    va_start(args, format);
    vsnprintf(path, sizeof path, format, args);
    va_end(args);
    snprintf(full, sizeof full, "%s%s", root, path);
    char *parent = ofr_path_parent(full);
    ofr_error err = {0};
    assert_int_equal(ofr_directory_make(parent, 0700, &err), 0);
    free(parent);
    int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* A device of a class: "accel0" of "accel", "card1" of "drm". */
static void add(const char *class, const char *name, const char *pci, const char *driver,
                const char *vendor, const char *device)
{
    char uevent[256];
    snprintf(uevent, sizeof uevent, "DRIVER=%s\nPCI_CLASS=30000\nPCI_SLOT_NAME=%s\n", driver, pci);
    put(uevent, "/sys/class/%s/%s/device/uevent", class, name);
    put(vendor, "/sys/class/%s/%s/device/vendor", class, name);
    put(device, "/sys/class/%s/%s/device/device", class, name);
}

static int begin(void **state)
{
    (void)state;
    ofr_directory_remove(root, NULL);
    return mkdir(root, 0700);
}

static void scan(ofr_device_list *list)
{
    ofr_device_options options = {.root = root, .skip_drivers = true};
    ofr_error err = {0};
    assert_int_equal(ofr_devices_discover(&options, list, &err), 0);
}

static void a_laptop_with_a_card(void **state)
{
    (void)state;
    ofr_device_list list;
    put("processor\t: 0\nmodel name\t: Intel(R) Core(TM) Ultra 7 258V\n", "/proc/cpuinfo");
    for (int i = 0; i < 8; i++) {
        put(i < 4 ? "4800000\n" : "3700000\n",
            "/sys/devices/system/cpu/cpu%d/cpufreq/cpuinfo_max_freq", i);
        put("400000\n", "/sys/devices/system/cpu/cpu%d/cpufreq/cpuinfo_min_freq", i);
    }
    put("x", "/sys/devices/system/cpu/cpuidle/current_driver"); /* no processor */
    add("accel", "accel0", "0000:00:0b.0", "intel_vpu", "0x8086\n", "0x643e\n");
    put("1950\n", "/sys/class/accel/accel0/device/npu_max_frequency_mhz");
    add("drm", "card10", "0000:03:00.0", "xe", "0x8086\n", "0x56a0\n");
    add("drm", "card0", "0000:00:02.0", "xe", "0x8086\n", "0x64a0\n");
    put("2050\n", "/sys/class/drm/card0/device/tile0/gt0/freq0/rp0_freq");
    put("400\n", "/sys/class/drm/card0/device/tile0/gt0/freq0/rpn_freq");
    put("", "/sys/class/drm/card0/device/drm/renderD128/dev");
    put("", "/sys/class/drm/card10/device/drm/renderD129/dev");
    put("connected\n", "/sys/class/drm/card0-eDP-1/status");
    scan(&list);
    assert_int_equal(list.count, 4);
    static const char *const names[] = {"cpu", "npu", "igpu", "dgpu"};
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(list.devices[i].name, names[i]);
    assert_string_equal(list.devices[0].model, "Intel(R) Core(TM) Ultra 7 258V");
    assert_int_equal(list.devices[0].max_mhz, 4800);
    assert_int_equal(list.devices[0].min_mhz, 400);
    assert_int_equal(list.devices[1].max_mhz, 1950);
    assert_int_equal(list.devices[1].device_id, 0x643e);
    assert_string_equal(list.devices[1].node, "/dev/accel/accel0");
    assert_int_equal(list.devices[2].max_mhz, 2050);
    assert_string_equal(list.devices[2].node, "/dev/dri/renderD128");
    assert_int_equal(list.devices[3].kind, OFR_DEVICE_KIND_DISCRETE_GPU);
    assert_string_equal(list.devices[3].node, "/dev/dri/renderD129");
    assert_string_equal(list.devices[3].kernel_driver, "xe");
}

static void names_follow_addresses_not_numbers(void **state)
{
    (void)state;
    ofr_device_list list;
    /* The kernel may number cards in any order from one start to the next. */
    add("drm", "card0", "0000:0a:00.0", "xe", "0x8086\n", "0x56a1\n");
    add("drm", "card1", "0000:03:00.0", "xe", "0x8086\n", "0x56a0\n");
    scan(&list);
    assert_int_equal(list.count, 3);
    assert_string_equal(list.devices[1].name, "dgpu");
    assert_int_equal(list.devices[1].device_id, 0x56a0);
    assert_string_equal(list.devices[2].name, "dgpu1");
    assert_int_equal(list.devices[2].device_id, 0x56a1);
}

static void what_is_not_ours_or_not_whole_is_left_out(void **state)
{
    (void)state;
    ofr_device_list list;
    add("accel", "accel0", "0000:01:00.0", "habanalabs", "0x1da3\n", "0x1020\n");
    put("DRIVER=simple-framebuffer\n", "/sys/class/drm/card0/device/uevent"); /* no PCI device */
    add("drm", "card1", "not an address", "xe", "0x8086\n", "0x64a0\n");
    scan(&list);
    assert_int_equal(list.count, 1);
    assert_string_equal(list.devices[0].name, "cpu");
    assert_string_equal(list.devices[0].model, "x86-64 processor");
    assert_int_equal(list.devices[0].max_mhz, 0);
}

static void more_than_there_is_room_for(void **state)
{
    (void)state;
    ofr_device_list list;
    for (int i = 0; i < 40; i++) {
        char name[16];
        char pci[32];
        snprintf(name, sizeof name, "card%d", i);
        snprintf(pci, sizeof pci, "0000:%02x:00.0", i + 1);
        add("drm", name, pci, "xe", "0x8086\n", "0x56a0\n");
    }
    scan(&list);
    assert_int_equal(list.count, OFR_DEVICES_MAX);
    assert_string_equal(list.devices[OFR_DEVICES_MAX - 1].name, "dgpu14");
}

static void a_root_that_is_not_there(void **state)
{
    (void)state;
    ofr_device_list list;
    ofr_error err = {0};
    ofr_device_options options = {.root = "/absent/root", .skip_drivers = true};
    assert_int_equal(ofr_devices_discover(&options, &list, &err), OFR_ENOENT);
    assert_non_null(strstr(err.text, "/absent/root"));
}

static int clean(void **state)
{
    (void)state;
    return ofr_directory_remove(root, NULL);
}

int main(void)
{
    if (!mkdtemp(root))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_laptop_with_a_card, begin),
        cmocka_unit_test_setup(names_follow_addresses_not_numbers, begin),
        cmocka_unit_test_setup(what_is_not_ours_or_not_whole_is_left_out, begin),
        cmocka_unit_test_setup(more_than_there_is_room_for, begin),
        cmocka_unit_test(a_root_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, clean);
}
