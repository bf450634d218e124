/* What the doctor says of facts that a test cannot bring about: sizes, limits, versions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "executive_shard/doctor.h"

static ofr_doctor_facts healthy(void)
{
    ofr_doctor_facts f = {.user = "me",
                          .kernel = "6.11.0",
                          .avx2 = true,
                          .shm_mounted = true,
                          .shm_total = UINT64_C(16) << 30,
                          .shm_free = UINT64_C(15) << 30,
                          .memlock = UINT64_MAX,
                          .model_given = true,
                          .model_generator = "bake_model " OFR_VERSION,
                          .kv_bytes_minimum = UINT64_C(100) << 20};
    return f;
}

static const ofr_doctor_finding *find(const ofr_doctor_findings *findings, const char *id)
{
    for (size_t i = 0; i < findings->count; i++)
        if (strcmp(findings->items[i].id, id) == 0)
            return &findings->items[i];
    return NULL;
}

static void expect(const ofr_doctor_facts *facts, const char *id, const char *verdict, int code,
                   const char *in_text, const char *in_fix)
{
    ofr_doctor_findings findings;
    int got = -1;
    ofr_doctor_judge(facts, &findings);
    const ofr_doctor_finding *finding = find(&findings, id);
    assert_non_null(finding);
    assert_non_null(strstr(finding->text, in_text));
    assert_non_null(strstr(finding->fix, in_fix));
    assert_string_equal(ofr_doctor_verdict(&findings, &got), verdict);
    assert_int_equal(got, code);
}

static void a_healthy_machine(void **state)
{
    (void)state;
    ofr_doctor_facts f = healthy();
    ofr_doctor_findings findings;
    int code = -1;
    ofr_doctor_judge(&f, &findings);
    assert_int_equal(findings.count, 1); /* no NPU: a note */
    assert_string_equal(ofr_doctor_verdict(&findings, &code), "ok");
    assert_int_equal(code, 0);
}

static void shared_memory_by_size(void **state)
{
    (void)state;
    ofr_doctor_facts f = healthy();
    f.shm_total = UINT64_C(64) << 20;
    f.shm_free = UINT64_C(60) << 20;
    expect(&f, "shm.small", "broken", 1, "60 MiB free of 64; 164 MiB", "--shm-size=");
    f.shm_free = f.shm_total = UINT64_C(512) << 20;
    expect(&f, "shm.tight", "degraded", 3, "512 MiB", "remount");
    f.shm_mounted = false;
    expect(&f, "shm.absent", "broken", 1, "/dev/shm", "mount -t tmpfs");
}

static void locked_memory(void **state)
{
    (void)state;
    ofr_doctor_facts f = healthy();
    ofr_doctor_findings findings;
    f.memlock = 8 << 20;
    ofr_doctor_judge(&f, &findings);
    assert_null(find(&findings, "memlock")); /* nothing here pins memory */
    f.n_gpus = 1;
    f.n_icds = 1;
    f.gpus[0] = (ofr_doctor_pci){.present = true, .vendor_id = 0x10de};
    snprintf(f.opencl_loader, sizeof f.opencl_loader, "1.0.0");
    expect(&f, "memlock", "ok", 0, "8192 KiB", "limits.d");
}

static void packages(void **state)
{
    (void)state;
    ofr_doctor_facts f = healthy();
    f.model_code = OFR_EVERSION;
    snprintf(f.model_text, sizeof f.model_text, "format version 9");
    expect(&f, "model.version", "broken", 1, "version 9", "bake");
    f.model_code = OFR_ECORRUPT;
    expect(&f, "model.broken", "broken", 1, "", "bake");
    f.model_code = 0;
    snprintf(f.model_generator, sizeof f.model_generator, "bake_model 0.0.1");
    expect(&f, "model.generator", "ok", 0, "0.0.1", "bake");
    f.model_given = false;
    expect(&f, "model.none", "ok", 0, "package", "make run");
}

static void counters_that_may_not_be_read(void **state)
{
    (void)state;
    ofr_doctor_facts f = healthy();
    f.rapl_present = true;
    expect(&f, "power.counter", "ok", 0, "energy", "chmod");
}

static void everything_at_once_stays_within_bounds(void **state)
{
    (void)state;
    ofr_doctor_facts f = {0};
    ofr_doctor_findings findings;
    int code = 0;
    f.npu.present = true;
    f.npu.device_id = 0xb03e;
    f.n_gpus = OFR_DOCTOR_GPUS_MAX;
    for (size_t i = 0; i < f.n_gpus; i++)
        f.gpus[i] = (ofr_doctor_pci){.present = true, .vendor_id = 0x8086};
    ofr_doctor_judge(&f, &findings);
    assert_in_range(findings.count, 10, OFR_DOCTOR_FINDINGS_MAX);
    assert_string_equal(ofr_doctor_verdict(&findings, &code), "broken");
    json_t *object = ofr_doctor_to_json(&findings);
    assert_int_equal(json_array_size(json_object_get(object, "findings")), findings.count);
    json_decref(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_healthy_machine),
        cmocka_unit_test(shared_memory_by_size),
        cmocka_unit_test(locked_memory),
        cmocka_unit_test(packages),
        cmocka_unit_test(counters_that_may_not_be_read),
        cmocka_unit_test(everything_at_once_stays_within_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
