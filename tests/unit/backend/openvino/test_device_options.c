/* Options per device: only what the device knows, and what an NPU needs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/openvino/device_options.h"

static const char LIBRARY[] = OFR_TEST_BINARY_DIR "/tests/fake_openvino/libfake_openvino_c.so";

/* "KEY=VALUE " of each. */
static const char *options(const char *behaviour, const char *device, const char *threads)
{
    static char text[512];
    ofr_ov *ov = NULL;
    ofr_error err = {0};
    ofr_ov_option list[OFR_OPENVINO_OPTIONS_MAX];
    setenv("FAKE_OPENVINO", behaviour, 1);
    if (ofr_ov_open(LIBRARY, &ov, &err) < 0)
        fail_msg("%s", err.text);
    size_t n = ofr_openvino_device_options(ov, device, "f16", threads, list), used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < n; i++)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s=%s ", list[i].key, list[i].value);
    ofr_ov_close(ov);
    return text;
}

static void an_npu_is_told_what_it_needs(void **state)
{
    (void)state;
    assert_string_equal(options("", "NPU", "2"),
                        "PERFORMANCE_HINT=LATENCY INFERENCE_PRECISION_HINT=f16 "
                        "NPU_COMPILER_TYPE=DRIVER NPU_COMPILER_DYNAMIC_QUANTIZATION=YES ");
    assert_string_equal(options("no_quantization", "NPU", ""),
                        "PERFORMANCE_HINT=LATENCY INFERENCE_PRECISION_HINT=f16 "
                        "NPU_COMPILER_TYPE=DRIVER ");
}

static void a_cpu_is_told_its_threads(void **state)
{
    (void)state;
    assert_string_equal(options("", "CPU", "2"),
                        "PERFORMANCE_HINT=LATENCY NUM_STREAMS=1 INFERENCE_PRECISION_HINT=f16 "
                        "INFERENCE_NUM_THREADS=2 ENABLE_CPU_PINNING=NO ");
    assert_null(strstr(options("", "CPU", ""), "THREADS"));
}

static void absent_devices_are_told_nothing(void **state)
{
    (void)state;
    assert_string_equal(options("", "GPU", "2"), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_npu_is_told_what_it_needs),
        cmocka_unit_test(a_cpu_is_told_its_threads),
        cmocka_unit_test(absent_devices_are_told_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
