/* The sampler process on a described machine: sysman through the real loader, sysfs, a driver that
 * crashes. */
#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
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
#include "device/root.h"
#include "device/sysfs.h"
#include "device/telemetry.h"

static char root[] = "/tmp/offering_telemetry_XXXXXX";

static void put(const char *path, const char *text)
{
    char full[512];
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

static const char gpu[] = "driver gpu\nversion 1 3 29735\n%sdevice gpu discrete\n"
                          "name Intel(R) Arc(TM) A770 Graphics\nids 0x8086 0x56a0\n"
                          "pci 0000:03:00.0\nclock 2400\nmemory 16000000000\n"
                          "temperature 55 70 97\nfrequency 2400 2100 900\nthrottle 0 0 8\n"
                          "utilisation 0 0.25 0.75\npower 0 80 190\nmemory_used 2e9 8e9 15.9e9\n";

static ofr_device_list card(void)
{
    ofr_device_list list = {.count = 1};
    list.devices[0] = (ofr_device){.name = "dgpu",
                                   .kind = OFR_DEVICE_KIND_DISCRETE_GPU,
                                   .pci = {true, 0, 3, 0, 0},
                                   .sysfs = "/sys/class/drm/card0"};
    return list;
}

/* The next record; NaN-filled and false at the sampler's end. */
static bool next(ofr_sampler *sampler, ofr_telemetry *record)
{
    struct pollfd polled = {.fd = sampler->fd, .events = POLLIN};
    int r = OFR_EAGAIN;
    while (r == OFR_EAGAIN) {
        assert_int_equal(poll(&polled, 1, 60000), 1);
        r = ofr_sampler_read(sampler, record, NULL);
    }
    return r == 0;
}

static bool play(const char *behaviour)
{
    char text[1024];
    char path[512];
    static const char library[] = OFR_TEST_BINARY_DIR "/tests/fake_ze_driver/libfake_ze_gpu.so";
    if (access(library, R_OK) != 0 || !dlopen("libze_loader.so.1", RTLD_LAZY))
        return false;
    snprintf(text, sizeof text, gpu, behaviour);
    put("/ze.txt", text);
    snprintf(path, sizeof path, "%s/ze.txt", root);
    setenv("OFFERING_FAKE_ZE", path, 1);
    setenv("ZE_ENABLE_ALT_DRIVERS", library, 1);
    put("/sys/class/drm/card0/gt_act_freq_mhz", "1111\n");
    return true;
}

static void sysman_is_followed(void **state)
{
    (void)state;
    if (!play(""))
        skip();
    ofr_device_list list = card();
    ofr_sampler sampler = {.fd = -1};
    ofr_telemetry record;
    ofr_error err = {0};
    assert_int_equal(ofr_sampler_start(&sampler, &list, root, 10, &err), 0);
    assert_true(next(&sampler, &record));
    assert_int_equal(record.n_devices, 1);
    /* The last values of the series stay. */
    bool throttled = false;
    for (int i = 0; i < 1000 && !throttled; i++) {
        assert_true(next(&sampler, &record));
        throttled = record.devices[0].throttled;
    }
    assert_true(next(&sampler, &record));
    ofr_sampler_stop(&sampler);
    const ofr_device_sample *s = &record.devices[0];
    assert_int_equal(record.level_zero, 1);
    assert_true(throttled);
    assert_string_equal(s->throttle_reason, "thermal");
    assert_true(s->temperature_c == 97 && s->frequency_mhz == 900);
    assert_true(fabs(s->utilisation - 0.75) < 1e-6);
    assert_true(fabs(s->power_w - 190) < 1e-3 && s->energy_j >= 190);
    assert_true(s->memory_total == 16e9 && fabs(s->memory_used - 15.9e9) < 1);
}

static void a_crash_leaves_the_kernels_figures(void **state)
{
    (void)state;
    if (!play("sysman crash\n"))
        skip();
    ofr_device_list list = card();
    ofr_sampler sampler = {.fd = -1};
    ofr_telemetry record;
    ofr_error err = {0};
    assert_int_equal(ofr_sampler_start(&sampler, &list, root, 10, &err), 0);
    assert_true(next(&sampler, &record));
    assert_true(record.devices[0].frequency_mhz == 1111);
    while (next(&sampler, &record))
        ;
    assert_int_equal(sampler.crashes, 1);
    assert_int_equal(sampler.fd, -1);
    assert_int_equal(ofr_sampler_start(&sampler, &list, root, 10, &err), 0);
    for (int i = 0; i < 5; i++) {
        assert_true(next(&sampler, &record));
        assert_int_equal(record.level_zero, 0);
        assert_true(record.devices[0].frequency_mhz == 1111);
        assert_true(isnan(record.devices[0].temperature_c));
    }
    ofr_sampler_stop(&sampler);
}

static void counters_of_the_kernel(void **state)
{
    (void)state;
    ofr_root r;
    ofr_error err = {0};
    ofr_sysfs_counters counters = {0};
    ofr_device_sample s;
    ofr_device npu = {.kind = OFR_DEVICE_KIND_NPU, .sysfs = "/sys/class/accel/accel0"};
    ofr_device cpu = {.kind = OFR_DEVICE_KIND_CPU};
    assert_int_equal(ofr_root_open(root, &r, &err), 0);
    put("/sys/class/accel/accel0/device/npu_busy_time_us", "1000\n");
    put("/sys/class/accel/accel0/device/npu_current_frequency_mhz", "1400\n");
    put("/sys/class/accel/accel0/device/npu_memory_utilization", "123456\n");
    ofr_device_sample_init(&s);
    ofr_sysfs_sample(&r, &npu, 1000000000, &counters, &s);
    assert_true(isnan(s.utilisation) && s.frequency_mhz == 1400 && s.memory_used == 123456);
    put("/sys/class/accel/accel0/device/npu_busy_time_us", "251000\n");
    ofr_device_sample_init(&s);
    ofr_sysfs_sample(&r, &npu, 2000000000, &counters, &s);
    assert_true(fabs(s.utilisation - 0.25) < 1e-9);
    /* RAPL wraps. */
    counters = (ofr_sysfs_counters){0};
    put("/sys/class/powercap/intel-rapl:0/name", "package-0\n");
    put("/sys/class/powercap/intel-rapl:0/max_energy_range_uj", "100000000\n");
    put("/sys/class/powercap/intel-rapl:0/energy_uj", "95000000\n");
    put("/proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\n");
    ofr_device_sample_init(&s);
    ofr_sysfs_sample(&r, &cpu, 1000000000, &counters, &s);
    assert_true(isnan(s.power_w) && s.energy_j == 0);
    put("/sys/class/powercap/intel-rapl:0/energy_uj", "5000000\n");
    put("/proc/stat", "cpu  150 0 150 900 0 0 0 0 0 0\n");
    ofr_device_sample_init(&s);
    ofr_sysfs_sample(&r, &cpu, 3000000000, &counters, &s);
    assert_true(fabs(s.energy_j - 10) < 1e-9 && fabs(s.power_w - 5) < 1e-9);
    assert_true(fabs(s.utilisation - 0.5) < 1e-9);
    ofr_root_close(&r);
}

static void a_root_is_a_root(void **state)
{
    (void)state;
    ofr_root r;
    ofr_error err = {0};
    char text[64];
    uint64_t number = 7;
    char path[512];
    put("/etc/inside", "0x7d1d\n");
    put("/etc/number", "-5\n");
    snprintf(path, sizeof path, "%s/etc/absolute", root);
    assert_int_equal(symlink("/etc/inside", path), 0);
    snprintf(path, sizeof path, "%s/etc/out", root);
    assert_int_equal(symlink("../../../../../../etc/inside", path), 0);
    assert_int_equal(ofr_root_open(root, &r, &err), 0);
    assert_true(ofr_root_read_u64(&r, &number, "/etc/%s", "absolute"));
    assert_int_equal(number, 0x7d1d);
    assert_true(ofr_root_read(&r, text, sizeof text, "/etc/out"));
    assert_string_equal(text, "0x7d1d");
    assert_false(ofr_root_read_u64(&r, &number, "/etc/number"));
    assert_false(ofr_root_exists(&r, "/etc/passwd"));
    char names[4][OFR_ROOT_NAME_SIZE];
    assert_int_equal(ofr_root_list(&r, "/etc", "n", names, 4), 1);
    assert_string_equal(names[0], "number");
    ofr_root_close(&r);
    snprintf(path, sizeof path, "%s/absent", root);
    assert_int_equal(ofr_root_open(path, &r, &err), OFR_ENOENT);
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
        cmocka_unit_test(sysman_is_followed),
        cmocka_unit_test(a_crash_leaves_the_kernels_figures),
        cmocka_unit_test(counters_of_the_kernel),
        cmocka_unit_test(a_root_is_a_root),
    };
    return cmocka_run_group_tests(tests, NULL, clean);
}
