/* The doctor's judgement: one function per area, each finding with its fix. */
#include "executive_shard/doctor.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(ofr_doctor_findings *findings, const char *id, enum ofr_doctor_severity severity,
                const char *fix, const char *format, ...) __attribute__((format(printf, 5, 6)));

static void add(ofr_doctor_findings *findings, const char *id, enum ofr_doctor_severity severity,
                const char *fix, const char *format, ...)
{
    if (findings->count == OFR_DOCTOR_FINDINGS_MAX)
        return;
    ofr_doctor_finding *finding = &findings->items[findings->count++];
    *finding = (ofr_doctor_finding){.id = id, .severity = severity};
    va_list args;
    va_start(args, format);
    vsnprintf(finding->text, sizeof finding->text, format, args);
    va_end(args);
    snprintf(finding->fix, sizeof finding->fix, "%s", fix);
}

#define NOTE     OFR_DOCTOR_SEVERITY_NOTE
#define DEGRADED OFR_DOCTOR_SEVERITY_DEGRADED
#define BROKEN   OFR_DOCTOR_SEVERITY_BROKEN

/* Compares the numbers of two versions, field by field; text after them is ignored. */
static int compare_versions(const char *a, const char *b)
{
    for (int field = 0; field < 4; field++) {
        char *end_a;
        char *end_b;
        unsigned long x = strtoul(a, &end_a, 10);
        unsigned long y = strtoul(b, &end_b, 10);
        if (x != y)
            return x < y ? -1 : 1;
        if (*end_a != '.' || *end_b != '.')
            return 0;
        a = end_a + 1;
        b = end_b + 1;
    }
    return 0;
}

/* The first release of Intel's linux-npu-driver that its notes list the NPU for. */
static const char *oldest_npu_driver(uint32_t device_id)
{
    switch (device_id) {
    case 0xb03e: /* Panther Lake */
        return "1.28.0";
    case 0xfd3e: /* Wildcat Lake */
        return "1.32.0";
    default: /* Meteor Lake, Arrow Lake, Lunar Lake */
        return "1.5.1";
    }
}

static void judge_npu_kernel(const ofr_doctor_facts *f, ofr_doctor_findings *out)
{
    if (!f->npu_module) {
        add(out, "npu.kernel", DEGRADED,
            f->debian
                ? "sudo apt install linux-generic-hwe-24.04   (or another kernel from 6.6 on; "
                  "then reboot)"
                : "install a kernel from 6.6 on that has CONFIG_DRM_ACCEL_IVPU, and reboot",
            "kernel %s has no NPU driver (intel_vpu)", f->kernel);
        return;
    }
    if (!f->npu_firmware)
        add(out, "npu.firmware", DEGRADED,
            f->debian ? "sudo apt install intel-fw-npu   (from "
                        "https://github.com/intel/linux-npu-driver/releases; or a newer "
                        "linux-firmware), then: sudo modprobe -r intel_vpu; sudo modprobe intel_vpu"
                      : "install the NPU firmware (linux-firmware, intel/vpu), then: sudo modprobe "
                        "-r intel_vpu; sudo modprobe intel_vpu",
            "no firmware for the NPU: /lib/firmware/intel/vpu/%s* is absent", f->npu_firmware_name);
    if (!f->npu.kernel_driver[0])
        add(out, "npu.module", DEGRADED, "sudo modprobe intel_vpu; sudo dmesg | grep -i vpu",
            "the kernel has intel_vpu, but it does not drive the NPU at %s", f->npu.address);
    else if (!f->npu.node.exists && f->container[0])
        add(out, "container.npu", DEGRADED,
            "start the container with: --device /dev/accel --group-add $(stat -c %g "
            "/dev/accel/accel0)",
            "in a %s container without %s", f->container, f->npu.node.path);
    else if (!f->npu.node.exists)
        add(out, "npu.node", DEGRADED, "sudo dmesg | grep -i vpu   (and: sudo udevadm trigger)",
            "the NPU is driven by %s, but %s is absent", f->npu.kernel_driver, f->npu.node.path);
    else if (!f->npu.node.usable) {
        char fix[256];
        snprintf(fix, sizeof fix, "sudo usermod -a -G %s %s   (then log in again)",
                 f->npu.node.group, f->user);
        add(out, "npu.access", DEGRADED, fix, "%s cannot be opened by %s: it belongs to group %s",
            f->npu.node.path, f->user, f->npu.node.group);
    }
}

static void judge_npu_driver(const ofr_doctor_facts *f, ofr_doctor_findings *out)
{
    static const char releases[] = "https://github.com/intel/linux-npu-driver/releases";
    char fix[256];
    if (!f->ze_npu[0]) {
        snprintf(fix, sizeof fix,
                 "install intel-level-zero-npu, intel-driver-compiler-npu and intel-fw-npu from %s",
                 releases);
        add(out, "npu.driver", DEGRADED, fix,
            "the NPU's Level Zero driver is not installed (libze_intel_npu.so.1)");
        return;
    }
    if (!f->npu_compiler[0]) {
        snprintf(fix, sizeof fix, "install intel-driver-compiler-npu from %s", releases);
        add(out, "npu.compiler", DEGRADED, fix,
            "the NPU driver is installed without its compiler (libnpu_driver_compiler.so): no "
            "graph can be compiled for the NPU");
    }
    /* The firmware may come with the kernel's instead of this package. */
    const char *driver = f->package_ze_npu;
    bool compiler_differs =
        driver[0] && f->package_compiler[0] && compare_versions(driver, f->package_compiler) != 0;
    bool firmware_differs =
        driver[0] && f->package_firmware[0] && compare_versions(driver, f->package_firmware) != 0;
    if (compiler_differs || firmware_differs) {
        snprintf(fix, sizeof fix, "install all packages of one release from %s", releases);
        add(out, "npu.mixed", DEGRADED, fix,
            "parts of different NPU driver releases: intel-level-zero-npu %s, %s %s", driver,
            compiler_differs ? "intel-driver-compiler-npu" : "intel-fw-npu",
            compiler_differs ? f->package_compiler : f->package_firmware);
    }
    const char *oldest = oldest_npu_driver(f->npu.device_id);
    if (f->package_ze_npu[0] >= '0' && f->package_ze_npu[0] <= '9' &&
        compare_versions(f->package_ze_npu, oldest) < 0) {
        snprintf(fix, sizeof fix, "install release %s or newer from %s", oldest, releases);
        add(out, "npu.old_driver", DEGRADED, fix,
            "NPU driver %s is older than the first release for this NPU, %s: OpenVINO cannot use "
            "it",
            f->package_ze_npu, oldest);
    }
    if (f->ze_loader[0] && f->ze_npu_new_name && compare_versions(f->ze_loader, "1.17.17") < 0 &&
        f->ze_loader[0] != 'y')
        add(out, "npu.old_loader", DEGRADED,
            "install level-zero 1.17.17 or newer from "
            "https://github.com/oneapi-src/level-zero/releases",
            "Level Zero loader %s looks for libze_intel_vpu.so.1 and does not know the installed "
            "libze_intel_npu.so.1: OpenVINO sees no NPU",
            f->ze_loader);
}

static void judge_npu(const ofr_doctor_facts *f, ofr_doctor_findings *out)
{
    if (f->wsl) {
        add(out, "wsl", DEGRADED,
            "run on Linux itself: WSL passes no NPU, and a GPU only through /dev/dxg",
            "running in WSL (kernel %s)", f->kernel);
        return;
    }
    if (!f->npu.present) {
        add(out, "npu.none", NOTE, "", "this machine shows no Intel NPU on its PCI bus");
        return;
    }
    judge_npu_kernel(f, out);
    judge_npu_driver(f, out);
}

static void judge_gpu(const ofr_doctor_facts *f, const ofr_doctor_pci *gpu,
                      ofr_doctor_findings *out)
{
    char fix[256];
    if (gpu->vendor_id != 0x8086)
        return;
    if (!gpu->kernel_driver[0]) {
        add(out, "gpu.kernel", DEGRADED, "sudo modprobe xe || sudo modprobe i915",
            "no kernel driver for the GPU at %s (8086:%04x)", gpu->address, gpu->device_id);
    } else if (!gpu->node.exists && f->container[0]) {
        add(out, "container.gpu", DEGRADED,
            "start the container with: --device /dev/dri --group-add $(stat -c %g "
            "/dev/dri/renderD128)",
            "in a %s container without the GPU's node in /dev/dri", f->container);
    } else if (gpu->node.exists && !gpu->node.usable) {
        snprintf(fix, sizeof fix, "sudo usermod -a -G %s %s   (then log in again)", gpu->node.group,
                 f->user);
        add(out, "gpu.access", DEGRADED, fix, "%s cannot be opened by %s: it belongs to group %s",
            gpu->node.path, f->user, gpu->node.group);
    }
}

static void judge_runtimes(const ofr_doctor_facts *f, ofr_doctor_findings *out)
{
    bool intel_gpu = false;
    for (size_t i = 0; i < f->n_gpus; i++) {
        judge_gpu(f, &f->gpus[i], out);
        intel_gpu |= f->gpus[i].vendor_id == 0x8086;
    }
    if ((f->npu.present || intel_gpu) && !f->ze_loader[0])
        add(out, "level_zero.loader", DEGRADED,
            f->debian ? "sudo apt install libze1" : "install the Level Zero loader (level-zero)",
            "the Level Zero loader is not installed (libze_loader.so.1)");
    if (intel_gpu && f->ze_loader[0] && !f->ze_gpu[0])
        add(out, "gpu.level_zero", NOTE,
            f->debian ? "sudo apt install intel-level-zero-gpu   (libze-intel-gpu1 on newer "
                        "systems)"
                      : "install Intel's compute runtime (level-zero part)",
            "the GPU's Level Zero driver is not installed: no temperature or power figures");
    if (f->n_gpus > 0 && f->n_icds == 0)
        add(out, "opencl.icd", DEGRADED,
            f->debian ? "sudo apt install intel-opencl-icd" : "install Intel's OpenCL runtime",
            "no OpenCL driver is installed (/etc/OpenCL/vendors is empty): the GPU cannot be used");
    else if (intel_gpu && !f->icd_intel)
        add(out, "opencl.intel", DEGRADED,
            f->debian ? "sudo apt install intel-opencl-icd" : "install Intel's OpenCL runtime",
            "Intel's OpenCL driver is not among those in /etc/OpenCL/vendors");
    if (f->n_gpus > 0 && !f->opencl_loader[0])
        add(out, "opencl.loader", DEGRADED,
            f->debian ? "sudo apt install ocl-icd-libopencl1" : "install an OpenCL ICD loader",
            "the OpenCL loader is not installed (libOpenCL.so.1)");
    if (f->level_zero.state == OFR_SOURCE_STATE_CRASHED)
        add(out, "level_zero.crash", DEGRADED,
            "reinstall or update the driver packages; ZE_ENABLE_ALT_DRIVERS=<one driver's library> "
            "shows which one it is",
            "Level Zero crashed in its own process: %s", f->level_zero.text);
}

static void judge_memory(const ofr_doctor_facts *f, ofr_doctor_findings *out)
{
    char fix[256];
    const uint64_t mib = 1 << 20;
    uint64_t needed = f->kv_bytes_minimum + 64 * mib;
    if (!f->shm_mounted) {
        add(out, "shm.absent", BROKEN,
            "sudo mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm",
            "/dev/shm is not there: no process can share memory");
    } else if (f->shm_free < needed) {
        snprintf(fix, sizeof fix,
                 "sudo mount -o remount,size=%" PRIu64
                 "M /dev/shm   (container: --shm-size=%" PRIu64 "m)",
                 (f->shm_total - f->shm_free + needed) / mib + 256,
                 (f->shm_total - f->shm_free + needed) / mib + 256);
        add(out, "shm.small", BROKEN, fix,
            "/dev/shm has %" PRIu64 " MiB free of %" PRIu64 "; %" PRIu64
            " MiB are needed for 2,048 tokens of context",
            f->shm_free / mib, f->shm_total / mib, needed / mib);
    } else if (f->shm_free < 1024 * mib) {
        add(out, "shm.tight", DEGRADED, "sudo mount -o remount,size=50% /dev/shm",
            "/dev/shm has only %" PRIu64 " MiB free: contexts will be short", f->shm_free / mib);
    }
    if (f->memlock < 1024 * mib && (f->npu.present || f->n_gpus > 0))
        add(out, "memlock", NOTE,
            "echo '* - memlock unlimited' | sudo tee /etc/security/limits.d/offering.conf   (then "
            "log in again)",
            "memory that may be locked is limited to %" PRIu64
            " KiB: a driver that pins what it imports may refuse",
            f->memlock / 1024);
}

static void judge_power(const ofr_doctor_facts *f, ofr_doctor_findings *out)
{
    if (strcmp(f->power_profile, "low-power") == 0 || strcmp(f->power_profile, "quiet") == 0 ||
        strcmp(f->power_profile, "cool") == 0)
        add(out, "power.profile", DEGRADED,
            "powerprofilesctl set balanced   (or: echo balanced | sudo tee "
            "/sys/firmware/acpi/platform_profile)",
            "the platform profile '%s' limits power: everything runs slower", f->power_profile);
    else if (strcmp(f->energy_preference, "power") == 0)
        add(out, "power.preference", DEGRADED,
            "echo balance_performance | sudo tee "
            "/sys/devices/system/cpu/cpu*/cpufreq/energy_performance_preference",
            "the processor's energy preference is 'power': everything runs slower");
    if (f->on_battery)
        add(out, "power.battery", NOTE, "plug in the charger", "running on battery");
    if (f->rapl_present && !f->rapl_readable)
        add(out, "power.counter", NOTE, "sudo chmod o+r /sys/class/powercap/intel-rapl:0/energy_uj",
            "the energy counter may not be read: no energy per token");
}

static void judge_model(const ofr_doctor_facts *f, ofr_doctor_findings *out)
{
    char fix[640];
    if (!f->model_given)
        add(out, "model.none", NOTE, "make run   (or: bake_model --gguf FILE)",
            "no package at the default place; --model DIR names one");
    else if (f->model_code == OFR_EVERSION)
        add(out, "model.version", BROKEN, "bake it again with this version's bake_model", "%s",
            f->model_text);
    else if (f->model_code < 0)
        add(out, "model.broken", BROKEN, "bake it again with bake_model", "%.380s", f->model_text);
    else if (f->model_generator[0] && strcmp(f->model_generator, "bake_model " OFR_VERSION) != 0)
        add(out, "model.generator", NOTE, "bake it again to get what newer versions write",
            "the package was written by '%s', this is version " OFR_VERSION, f->model_generator);
    if (f->n_stale_blobs > 0) {
        snprintf(fix, sizeof fix, "rm %.480s/*.blob", f->blob_directory);
        add(out, "cache.stale", NOTE, fix,
            "%zu compiled graphs (%" PRIu64 " MiB) are older than the NPU driver and will not be "
            "used",
            f->n_stale_blobs, f->stale_blob_bytes >> 20);
    }
}

void ofr_doctor_judge(const ofr_doctor_facts *facts, ofr_doctor_findings *ret_findings)
{
    ret_findings->count = 0;
    if (!facts->avx2)
        add(ret_findings, "cpu.avx2", BROKEN,
            "use a processor from 2013 or later, or let the "
            "virtual machine pass the host's CPU model",
            "the processor (%s) has no AVX2", facts->cpu_model);
    judge_npu(facts, ret_findings);
    judge_runtimes(facts, ret_findings);
    judge_memory(facts, ret_findings);
    judge_power(facts, ret_findings);
    judge_model(facts, ret_findings);
}

const char *ofr_doctor_verdict(const ofr_doctor_findings *findings, int *ret_exit_code)
{
    enum ofr_doctor_severity worst = NOTE;
    for (size_t i = 0; i < findings->count; i++)
        if (findings->items[i].severity > worst)
            worst = findings->items[i].severity;
    *ret_exit_code = worst == BROKEN     ? OFR_EXIT_FAILURE
                     : worst == DEGRADED ? OFR_DOCTOR_EXIT_DEGRADED
                                         : OFR_EXIT_OK;
    return worst == BROKEN ? "broken" : worst == DEGRADED ? "degraded" : "ok";
}

static const char *severity_name(enum ofr_doctor_severity severity)
{
    return severity == BROKEN ? "broken" : severity == DEGRADED ? "degraded" : "note";
}

json_t *ofr_doctor_to_json(const ofr_doctor_findings *findings)
{
    int code;
    json_t *items = json_array();
    for (size_t i = 0; i < findings->count; i++)
        json_array_append_new(
            items, json_pack("{s:s, s:s, s:s, s:s}", "id", findings->items[i].id, "severity",
                             severity_name(findings->items[i].severity), "text",
                             findings->items[i].text, "fix", findings->items[i].fix));
    return json_pack("{s:s, s:o}", "verdict", ofr_doctor_verdict(findings, &code), "findings",
                     items);
}

int ofr_doctor_command(const ofr_doctor_options *options, bool json)
{
    ofr_error err = {0};
    int code = OFR_EXIT_FAILURE;
    ofr_doctor_facts *facts = calloc(1, sizeof *facts);
    ofr_doctor_findings *findings = calloc(1, sizeof *findings);
    if (!facts || !findings || ofr_doctor_collect(options, facts, &err) < 0) {
        fprintf(stderr, "executive_shard: %s\n", err.text[0] ? err.text : "no memory");
    } else {
        ofr_doctor_judge(facts, findings);
        const char *verdict = ofr_doctor_verdict(findings, &code);
        if (json) {
            json_t *object = ofr_doctor_to_json(findings);
            json_dumpf(object, stdout, JSON_INDENT(2));
            putchar('\n');
            json_decref(object);
        } else {
            for (size_t i = 0; i < findings->count; i++) {
                const ofr_doctor_finding *finding = &findings->items[i];
                printf("%-8s  %s\n", severity_name(finding->severity), finding->text);
                if (finding->fix[0])
                    printf("          fix: %s\n", finding->fix);
            }
            printf("%s\n", verdict);
        }
    }
    free(facts);
    free(findings);
    return code;
}
