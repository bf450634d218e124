/* PCI addresses and names of devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "device/device.h"

static void addresses_are_read_and_written(void **state)
{
    (void)state;
    ofr_pci_address address = {0};
    char text[OFR_PCI_TEXT_SIZE];
    assert_true(ofr_pci_parse("0000:00:0b.0", &address));
    assert_true(address.known);
    assert_int_equal(address.device, 11);
    ofr_pci_format(&address, text);
    assert_string_equal(text, "0000:00:0b.0");
    assert_true(ofr_pci_parse("10000:e1:1f.7", &address));
    ofr_pci_format(&address, text);
    assert_string_equal(text, "10000:e1:1f.7");
}

static void what_is_no_address_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "0000:00:0b", "0000:00:20.0", "0000:00:0b.8", "0000:00:0b.0 x", "card0"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ofr_pci_address address = {.bus = 77};
        assert_false(ofr_pci_parse(bad[i], &address));
        assert_int_equal(address.bus, 77);
    }
}

static void unknown_addresses_are_never_equal(void **state)
{
    (void)state;
    ofr_pci_address a = {0};
    ofr_pci_address b = {0};
    char text[OFR_PCI_TEXT_SIZE];
    assert_false(ofr_pci_equal(&a, &b));
    a.known = b.known = true;
    assert_true(ofr_pci_equal(&a, &b));
    b.function = 1;
    assert_false(ofr_pci_equal(&a, &b));
    a.known = false;
    ofr_pci_format(&a, text);
    assert_string_equal(text, "");
}

static void lists_become_json(void **state)
{
    (void)state;
    ofr_device_list list = {.count = 1};
    list.devices[0] = (ofr_device){.name = "npu", .kind = OFR_DEVICE_KIND_NPU, .max_mhz = 1400};
    list.level_zero = (ofr_device_source){.state = OFR_SOURCE_STATE_CRASHED, .text = "why"};
    json_t *object = ofr_devices_to_json(&list);
    assert_non_null(object);
    const json_t *device = json_array_get(json_object_get(object, "devices"), 0);
    assert_string_equal(json_string_value(json_object_get(device, "kind")), "npu");
    assert_int_equal(json_integer_value(json_object_get(device, "max_mhz")), 1400);
    const json_t *sources = json_object_get(object, "sources");
    const json_t *ze = json_object_get(sources, "level_zero");
    assert_string_equal(json_string_value(json_object_get(ze, "state")), "crashed");
    json_decref(object);
    assert_ptr_equal(ofr_devices_find(&list, "npu"), &list.devices[0]);
    assert_null(ofr_devices_find(&list, "igpu"));
}

static void plans_name_devices(void **state)
{
    (void)state;
    ofr_device_list list = {.count = 3};
    list.devices[0] = (ofr_device){.name = "cpu", .openvino = "openvino:CPU", .opencl = "opencl:1"};
    list.devices[1] = (ofr_device){.name = "npu", .openvino = "openvino:NPU"};
    list.devices[2] =
        (ofr_device){.name = "igpu", .openvino = "openvino:GPU", .opencl = "opencl:0"};
    static const struct {
        const char *plan, *name;
    } known[] = {{"cpu", "cpu"},           {"openvino:CPU", "cpu"},   {"openvino:NPU", "npu"},
                 {"opencl", "igpu"},       {"opencl:0", "igpu"},      {"opencl:1", "cpu"},
                 {"openvino:GPU", "igpu"}, {"openvino:GPU.0", "igpu"}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        assert_string_equal(ofr_devices_find_planned(&list, known[i].plan)->name, known[i].name);
    assert_null(ofr_devices_find_planned(&list, "opencl:2"));
    assert_null(ofr_devices_find_planned(&list, "openvino:GPU.1"));
    assert_null(ofr_devices_find_planned(&list, ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_read_and_written),
        cmocka_unit_test(what_is_no_address_is_refused),
        cmocka_unit_test(unknown_addresses_are_never_equal),
        cmocka_unit_test(lists_become_json),
        cmocka_unit_test(plans_name_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
