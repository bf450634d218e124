/* The doctor: what is missing on this machine, and the line that fixes it.
 *
 * Facts are collected below an injectable root; judging them is pure, so that every finding is
 * tested against a described machine. One thread. */
#ifndef OFR_EXECUTIVE_SHARD_DOCTOR_H
#define OFR_EXECUTIVE_SHARD_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "device/device.h"

enum {
    OFR_DOCTOR_GPUS_MAX = 8,
    OFR_DOCTOR_FINDINGS_MAX = 40,
    OFR_DOCTOR_VERSION_SIZE = 64,
};

/* A file in /dev that a device is used through. */
typedef struct ofr_doctor_node {
    char path[64];
    bool exists, usable; /* usable: this user may read and write it */
    char group[32];      /* that owns it: "render", or its number */
} ofr_doctor_node;

/* A device on the PCI bus. */
typedef struct ofr_doctor_pci {
    bool present;
    char address[OFR_PCI_TEXT_SIZE];
    uint32_t vendor_id, device_id;
    char kernel_driver[32]; /* bound; "" none */
    ofr_doctor_node node;
} ofr_doctor_pci;

/* "" where it is not installed; "yes" where the version is unknown. */
typedef char ofr_doctor_version[OFR_DOCTOR_VERSION_SIZE];

typedef struct ofr_doctor_facts {
    char user[64];
    char kernel[96];
    bool wsl;
    char container[32]; /* "docker", "podman", ...; "" none */
    bool debian;        /* packages are known to dpkg */
    char cpu_model[128];
    bool avx2;
    ofr_doctor_pci npu, gpus[OFR_DOCTOR_GPUS_MAX];
    size_t n_gpus;
    bool npu_module;            /* the kernel has intel_vpu, as a module or built in */
    bool npu_firmware;          /* for this generation of NPU */
    char npu_firmware_name[32]; /* what it would begin with: "vpu_37xx" */
    ofr_doctor_version ze_loader, ze_gpu, ze_npu, npu_compiler, opencl_loader;
    bool ze_npu_new_name; /* libze_intel_npu.so.1, not libze_intel_vpu.so.1 */
    size_t n_icds;        /* in /etc/OpenCL/vendors */
    bool icd_intel;
    ofr_doctor_version package_ze_npu, package_compiler, package_firmware;
    ofr_device_source level_zero; /* what the loader answered; state ABSENT where not asked */
    bool shm_mounted;
    uint64_t shm_total, shm_free;
    uint64_t memlock; /* bytes; UINT64_MAX: no limit */
    char power_profile[32], energy_preference[32];
    bool on_battery;
    bool rapl_present, rapl_readable;
    size_t n_stale_blobs;
    uint64_t stale_blob_bytes;
    char blob_directory[512];
    bool model_given; /* named, or there at the default place */
    char model[512];
    int model_code;       /* 0 or why it cannot be opened, OFR_E* */
    char model_text[512]; /* the reason */
    char model_generator[64];
    uint64_t kv_bytes_minimum; /* shared memory for one sequence of 2048 tokens; 0: unknown */
} ofr_doctor_facts;

typedef struct ofr_doctor_options {
    const char *root;  /* NULL: "/" */
    const char *model; /* NULL: the default place */
    bool skip_drivers;
} ofr_doctor_options;

int ofr_doctor_collect(const ofr_doctor_options *options, ofr_doctor_facts *ret_facts,
                       ofr_error *err);

enum ofr_doctor_severity {
    OFR_DOCTOR_SEVERITY_NOTE,     /* worth knowing; nothing is lost */
    OFR_DOCTOR_SEVERITY_DEGRADED, /* a device or speed is lost */
    OFR_DOCTOR_SEVERITY_BROKEN,   /* nothing can run */
};

typedef struct ofr_doctor_finding {
    const char *id; /* stable: "npu.firmware" */
    enum ofr_doctor_severity severity;
    char text[384]; /* what is wrong, on what */
    char fix[512];  /* the line that fixes it; "" where there is none */
} ofr_doctor_finding;

typedef struct ofr_doctor_findings {
    ofr_doctor_finding items[OFR_DOCTOR_FINDINGS_MAX];
    size_t count;
} ofr_doctor_findings;

void ofr_doctor_judge(const ofr_doctor_facts *facts, ofr_doctor_findings *ret_findings);

/* "ok", "degraded", "broken"; the exit codes are 0, 3 and 1. */
enum { OFR_DOCTOR_EXIT_DEGRADED = 3 };
const char *ofr_doctor_verdict(const ofr_doctor_findings *findings, int *ret_exit_code);
json_t *ofr_doctor_to_json(const ofr_doctor_findings *findings);

/* Collect, judge, print; returns the exit code. */
int ofr_doctor_command(const ofr_doctor_options *options, bool json);

#endif
