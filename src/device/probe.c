/* Discovery: the kernel's list, then one child process per driver stack, and the join of it all. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/process.h"
#include "device/child.h"
#include "device/device.h"
#include "device/level_zero.h"
#include "device/runtime_devices.h"
#include "device/sysfs.h"

enum { TIMEOUT_MS = 20000, STAGE_SIZE = 96 };
enum source { SOURCE_LEVEL_ZERO, SOURCE_OPENCL, SOURCE_OPENVINO, SOURCES };
enum record_kind { RECORD_STAGE = 1, RECORD_RESULT = 2 };

/* What a child writes: any number of stages, then one result. */
struct record {
    uint32_t kind; /* enum record_kind */
    int32_t code;  /* RESULT: 0 or OFR_E* */
    uint32_t count;
    uint32_t reserved;
    char stage[STAGE_SIZE];
    char version[64];
    char text[256];
    ofr_device devices[OFR_DEVICES_MAX];
};

struct job {
    enum source source;
    const char *openvino_library;
    int fd; /* of the parent: read end; -1: done */
    pid_t pid;
    size_t used; /* bytes of `record` that have been read */
    bool have_result;
    char stage[STAGE_SIZE]; /* the last that the child told */
    struct record record, result;
};

static void write_record(int fd, const struct record *record)
{
    const char *data = (const char *)record;
    size_t left = sizeof *record;
    while (left) {
        ssize_t n = write(fd, data, left);
        if (n < 0 && errno != EINTR)
            return;
        if (n > 0) {
            data += n;
            left -= (size_t)n;
        }
    }
}

static void tell_stage(void *user, const char *stage)
{
    struct record *record = calloc(1, sizeof *record);
    if (!record)
        return;
    record->kind = RECORD_STAGE;
    snprintf(record->stage, sizeof record->stage, "%s", stage);
    write_record(*(const int *)user, record);
    free(record);
}

static int list_level_zero(int *fd, struct record *record, ofr_error *err)
{
    ofr_level_zero *lz = NULL;
    int r = ofr_level_zero_open(tell_stage, fd, &lz, err);
    if (r < 0)
        return r;
    size_t count = ofr_level_zero_count(lz);
    for (size_t i = 0; i < count && i < OFR_DEVICES_MAX; i++)
        record->devices[record->count++] = *ofr_level_zero_device(lz, i);
    snprintf(record->version, sizeof record->version, "%s", ofr_level_zero_version(lz));
    return 0;
}

/* In the child. */
static void run_source(int fd, void *user)
{
    const struct job *job = user;
    struct record *record = calloc(1, sizeof *record);
    if (!record)
        return;
    ofr_error err = {0};
    size_t count = 0;
    record->kind = RECORD_RESULT;
    switch (job->source) {
    case SOURCE_LEVEL_ZERO:
        record->code = list_level_zero(&fd, record, &err);
        count = record->count;
        break;
    case SOURCE_OPENCL:
        record->code = ofr_runtime_list_opencl(tell_stage, &fd, record->devices, &count,
                                               record->version, &err);
        break;
    case SOURCE_OPENVINO:
        record->code = ofr_runtime_list_openvino(job->openvino_library, tell_stage, &fd,
                                                 record->devices, &count, record->version, &err);
        break;
    case SOURCES:
        break;
    }
    record->count = (uint32_t)count;
    snprintf(record->text, sizeof record->text, "%.255s", record->code < 0 ? err.text : "");
    write_record(fd, record);
    /* Destructors of drivers are code of theirs too. */
    _exit(0);
}

/* Makes a text of a driver's what it claims to be: terminated, printable. */
static void clean_text(char *text, size_t size)
{
    text[size - 1] = 0;
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
}
#define CLEAN(array) clean_text(array, sizeof(array))

static void clean_device(ofr_device *d)
{
    CLEAN(d->name);
    CLEAN(d->model);
    CLEAN(d->kernel_driver);
    CLEAN(d->node);
    CLEAN(d->sysfs);
    CLEAN(d->driver_version);
    CLEAN(d->opencl);
    CLEAN(d->opencl_version);
    CLEAN(d->openvino);
    if (d->pci.known && (d->pci.device > 31 || d->pci.function > 7))
        d->pci = (ofr_pci_address){0};
    if (d->memory_bytes > INT64_MAX)
        d->memory_bytes = 0;
}

static void take_record(struct job *job)
{
    struct record *record = &job->record;
    if (record->kind == RECORD_STAGE) {
        CLEAN(record->stage);
        memcpy(job->stage, record->stage, sizeof job->stage);
        return;
    }
    if (record->kind != RECORD_RESULT || record->count > OFR_DEVICES_MAX || job->have_result)
        return;
    CLEAN(record->version);
    CLEAN(record->text);
    for (uint32_t i = 0; i < record->count; i++) {
        if (record->devices[i].kind < 0 || record->devices[i].kind > OFR_DEVICE_KIND_DISCRETE_GPU)
            return;
        clean_device(&record->devices[i]);
    }
    job->result = *record;
    job->have_result = true;
}

static void read_job(struct job *job)
{
    ssize_t n = read(job->fd, (char *)&job->record + job->used, sizeof job->record - job->used);
    if (n < 0 && errno == EINTR)
        return;
    if (n <= 0) {
        close(job->fd);
        job->fd = -1;
        return;
    }
    job->used += (size_t)n;
    if (job->used == sizeof job->record) {
        job->used = 0;
        take_record(job);
    }
}

static void wait_for_jobs(struct job *jobs, uint64_t until_ns)
{
    for (;;) {
        struct pollfd polled[SOURCES];
        nfds_t open = 0;
        for (size_t i = 0; i < SOURCES; i++) {
            /* A result is all there is to wait for, even if a driver's thread lingers. */
            polled[i] =
                (struct pollfd){.fd = jobs[i].have_result ? -1 : jobs[i].fd, .events = POLLIN};
            open += polled[i].fd >= 0;
        }
        uint64_t now = ofr_clock_ns();
        if (open == 0 || now >= until_ns)
            return;
        if (poll(polled, SOURCES, (int)((until_ns - now) / 1000000) + 1) < 0 && errno != EINTR)
            return;
        for (size_t i = 0; i < SOURCES; i++)
            if (polled[i].fd >= 0 && polled[i].revents)
                read_job(&jobs[i]);
    }
}

/* Ends the child and says what came of it. */
static void finish_job(struct job *job, uint32_t timeout_ms, ofr_device_source *ret_source)
{
    bool hung = job->fd >= 0 && !job->have_result;
    if (job->fd >= 0)
        close(job->fd);
    int status = 0;
    if (job->have_result || hung)
        kill(job->pid, SIGKILL);
    while (waitpid(job->pid, &status, 0) < 0 && errno == EINTR)
        ;
    *ret_source = (ofr_device_source){.state = OFR_SOURCE_STATE_OK};
    if (job->have_result) {
        memcpy(ret_source->version, job->result.version, sizeof ret_source->version);
        memcpy(ret_source->text, job->result.text, sizeof ret_source->text);
        ret_source->n_devices = job->result.count;
        ret_source->state = job->result.code == 0            ? OFR_SOURCE_STATE_OK
                            : job->result.code == OFR_ENOENT ? OFR_SOURCE_STATE_ABSENT
                                                             : OFR_SOURCE_STATE_FAILED;
        if (job->result.code < 0)
            ret_source->n_devices = 0;
        return;
    }
    char how[96];
    ret_source->state = OFR_SOURCE_STATE_CRASHED;
    ofr_process_describe_status(status, how, sizeof how);
    if (hung)
        snprintf(how, sizeof how, "hung for %u s and was killed", timeout_ms / 1000);
    snprintf(ret_source->text, sizeof ret_source->text, "the driver's process %s in: %s", how,
             job->stage[0] ? job->stage : "starting");
}

/* The entry of the list that is the same device; NULL: a new one. `taken` are those that this
 * source has matched already. */
static ofr_device *find_same(ofr_device_list *list, const ofr_device *found, const bool *taken)
{
    for (size_t i = 0; i < list->count; i++)
        if (ofr_pci_equal(&list->devices[i].pci, &found->pci) ||
            (found->kind == OFR_DEVICE_KIND_CPU && list->devices[i].kind == OFR_DEVICE_KIND_CPU))
            return &list->devices[i];
    bool npu = found->kind == OFR_DEVICE_KIND_NPU;
    for (size_t i = 0; i < list->count; i++) {
        const ofr_device *d = &list->devices[i];
        bool same_class = d->kind != OFR_DEVICE_KIND_CPU && npu == (d->kind == OFR_DEVICE_KIND_NPU);
        bool both_known = d->pci.known && found->pci.known;
        bool same_ids = !d->vendor_id || !found->vendor_id ||
                        (d->vendor_id == found->vendor_id &&
                         (!found->device_id || !d->device_id || d->device_id == found->device_id));
        if (same_class && same_ids && !both_known && !taken[i])
            return &list->devices[i];
    }
    return NULL;
}

static void merge(ofr_device *into, const ofr_device *found, bool knows_kind)
{
#define TAKE_TEXT(field)                                                                           \
    if (found->field[0])                                                                           \
    memcpy(into->field, found->field, sizeof into->field)
    if (into->kind != OFR_DEVICE_KIND_CPU && into->kind != OFR_DEVICE_KIND_NPU && knows_kind)
        into->kind = found->kind;
    if (!into->pci.known)
        into->pci = found->pci;
    if (!into->vendor_id)
        into->vendor_id = found->vendor_id;
    if (!into->device_id)
        into->device_id = found->device_id;
    if (into->kind != OFR_DEVICE_KIND_CPU)
        TAKE_TEXT(model);
    TAKE_TEXT(driver_version);
    if (!into->opencl[0])
        TAKE_TEXT(opencl);
    TAKE_TEXT(opencl_version);
    if (!into->openvino[0])
        TAKE_TEXT(openvino);
#undef TAKE_TEXT
    if (found->memory_bytes && !into->memory_bytes)
        into->memory_bytes = found->memory_bytes;
    if (!into->max_mhz)
        into->max_mhz = found->max_mhz;
    if (!into->compute_engines)
        into->compute_engines = found->compute_engines;
    if (!into->copy_engines)
        into->copy_engines = found->copy_engines;
}

static void join(ofr_device_list *list, const struct job *job)
{
    bool taken[OFR_DEVICES_MAX] = {false};
    for (uint32_t i = 0; i < job->result.count; i++) {
        const ofr_device *found = &job->result.devices[i];
        ofr_device *same = find_same(list, found, taken);
        if (!same) {
            if (list->count == OFR_DEVICES_MAX)
                return;
            same = &list->devices[list->count++];
            *same = (ofr_device){.kind = found->kind};
        }
        /* OpenVINO's word on integrated or discrete is the least certain. */
        merge(same, found, job->source != SOURCE_OPENVINO);
        taken[same - list->devices] = true;
    }
}

static int compare_devices(const void *a, const void *b)
{
    const ofr_device *x = a;
    const ofr_device *y = b;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    uint64_t px = (uint64_t)x->pci.domain << 24 | (uint64_t)x->pci.bus << 16 |
                  (uint64_t)x->pci.device << 8 | x->pci.function;
    uint64_t py = (uint64_t)y->pci.domain << 24 | (uint64_t)y->pci.bus << 16 |
                  (uint64_t)y->pci.device << 8 | y->pci.function;
    return px < py ? -1 : px > py;
}

static void name_devices(ofr_device_list *list)
{
    static const char *const names[] = {"cpu", "npu", "igpu", "dgpu"};
    unsigned counts[4] = {0};
    qsort(list->devices, list->count, sizeof list->devices[0], compare_devices);
    for (size_t i = 0; i < list->count; i++) {
        ofr_device *d = &list->devices[i];
        unsigned number = counts[d->kind]++;
        if (number)
            snprintf(d->name, sizeof d->name, "%s%u", names[d->kind], number);
        else
            snprintf(d->name, sizeof d->name, "%s", names[d->kind]);
    }
}

static int probe_drivers(const ofr_device_options *options, ofr_device_list *list, ofr_error *err)
{
    uint32_t timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS;
    struct job *jobs = calloc(SOURCES, sizeof *jobs);
    if (!jobs)
        return ofr_fail(err, OFR_ENOMEM, "no memory to look for devices");
    ofr_device_source *sources[SOURCES] = {&list->level_zero, &list->opencl, &list->openvino};
    int r = 0;
    size_t started = 0;
    for (; started < SOURCES && r == 0; started += r == 0) {
        struct job *job = &jobs[started];
        job->source = (enum source)started;
        job->openvino_library = options->openvino_library;
        r = ofr_child_start(run_source, job, 1, &job->pid, &job->fd, err);
    }
    for (size_t i = started; i < SOURCES; i++)
        jobs[i].fd = -1;
    if (r == 0)
        wait_for_jobs(jobs, ofr_clock_ns() + (uint64_t)timeout_ms * 1000000);
    for (size_t i = 0; i < started; i++) {
        finish_job(&jobs[i], timeout_ms, sources[i]);
        if (r == 0 && sources[i]->state == OFR_SOURCE_STATE_OK)
            join(list, &jobs[i]);
    }
    free(jobs);
    return r;
}

int ofr_devices_discover(const ofr_device_options *options, ofr_device_list *ret_list,
                         ofr_error *err)
{
    ofr_root root;
    int r = ofr_root_open(options->root, &root, err);
    if (r < 0)
        return r;
    ofr_device_list *list = calloc(1, sizeof *list);
    if (!list) {
        ofr_root_close(&root);
        return ofr_fail(err, OFR_ENOMEM, "no memory to look for devices");
    }
    ofr_device_source skipped = {.state = OFR_SOURCE_STATE_ABSENT, .text = "not asked"};
    list->level_zero = list->opencl = list->openvino = skipped;
    ofr_sysfs_scan(&root, list);
    ofr_root_close(&root);
    if (!options->skip_drivers)
        r = probe_drivers(options, list, err);
    name_devices(list);
    if (r == 0)
        *ret_list = *list;
    free(list);
    return r;
}
