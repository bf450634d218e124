/* Writes a package: "<output>.partial" with weights.bin, a state file that lists the finished
 * tensors with their checksums, and one rename at the end. */
#include "package/package_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "package/package_json.h"
#include "package/package_stamp.h"
#include "package/package_writer_internal.h"

/* ---- the output directory ---- */

int ofr_package_writer_check(const char *output, bool overwrite, ofr_error *err)
{
    struct stat st;
    if (lstat(output, &st) < 0) {
        if (errno != ENOENT)
            return ofr_fail_errno(err, errno, "%s: cannot be examined", output);
        return 0;
    }
    if (!S_ISDIR(st.st_mode))
        return ofr_fail(err, OFR_EEXIST, "%s: exists and is not a directory; name another --output",
                        output);
    bool empty;
    int r = ofr_directory_is_empty(output, &empty, err);
    if (r < 0 || empty)
        return r;
    char *model = ofr_path_join(output, "model.json");
    bool is_package = model && access(model, F_OK) == 0;
    free(model);
    if (!is_package)
        return ofr_fail(err, OFR_EEXIST,
                        "%s: exists, is not empty and is not a package; name another --output",
                        output);
    if (!overwrite)
        return ofr_fail(err, OFR_EEXIST,
                        "%s: holds a package already; use --overwrite to replace it, or name "
                        "another --output",
                        output);
    return 0;
}

static int check_space(const ofr_package_writer *writer, uint64_t expected, ofr_error *err)
{
    struct statvfs fs;
    struct stat st;
    if (expected == 0 || statvfs(writer->partial, &fs) < 0 || fstat(writer->weights_fd, &st) < 0)
        return 0;
    uint64_t there = (uint64_t)st.st_blocks * 512;
    uint64_t needed = expected > there ? expected - there : 0;
    uint64_t available = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (needed > available)
        return ofr_fail(err, OFR_ENOSPACE,
                        "%s: no space left: the package needs %llu MiB more, %llu MiB are free; "
                        "free some space, or name another --output",
                        writer->output, (unsigned long long)(needed >> 20) + 1,
                        (unsigned long long)(available >> 20));
    return 0;
}

static int set_paths(ofr_package_writer *writer, const char *output, ofr_error *err)
{
    size_t n = strlen(output);
    while (n > 1 && output[n - 1] == '/')
        n--;
    if (n == 0 || strcmp(output, "/") == 0)
        return ofr_fail(err, OFR_EINVAL, "'%s' is no directory to write a package to", output);
    writer->output = strndup(output, n);
    if (!writer->output || asprintf(&writer->partial, "%s.partial", writer->output) < 0) {
        writer->partial = NULL;
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", output);
    }
    writer->parent = ofr_path_parent(writer->output);
    writer->weights_path = ofr_path_join(writer->partial, "weights.bin");
    writer->state_path = ofr_path_join(writer->partial, OFR_PACKAGE_STATE_NAME);
    if (!writer->parent || !writer->weights_path || !writer->state_path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", output);
    return 0;
}

int ofr_package_writer_open(const ofr_package_writer_options *options,
                            ofr_package_writer **ret_writer, ofr_error *err)
{
    ofr_package_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", options->output);
    writer->weights_fd = writer->state_fd = -1;
    writer->overwrite = options->overwrite;
    int r = set_paths(writer, options->output, err);
    if (r == 0)
        r = ofr_package_writer_check(writer->output, writer->overwrite, err);
    if (r == 0 && options->tensors)
        r = ofr_package_writer_take_plan(writer, options->tensors, options->n_tensors, err);
    if (r == 0)
        r = ofr_package_state_open(writer, options->source, err);
    if (r == 0)
        r = check_space(writer, options->expected_bytes, err);
    if (r < 0) {
        ofr_package_writer_close(writer);
        return r;
    }
    *ret_writer = writer;
    return 0;
}

/* A partial directory without a finished tensor is worth nothing: leave no litter. */
static void remove_if_empty(const ofr_package_writer *writer)
{
    if (!writer->locked || writer->n_tensors > 0 || writer->n_resumed > 0)
        return;
    (void)ofr_directory_remove(writer->partial, NULL);
}

ofr_package_writer *ofr_package_writer_close(ofr_package_writer *writer)
{
    if (!writer)
        return NULL;
    remove_if_empty(writer);
    if (writer->weights_fd >= 0)
        close(writer->weights_fd);
    if (writer->state_fd >= 0)
        close(writer->state_fd);
    size_t n = writer->n_tensors > writer->n_resumed ? writer->n_tensors : writer->n_resumed;
    n += writer->active;
    for (size_t i = 0; i < n; i++)
        free((char *)(uintptr_t)writer->tensors[i].spec.name);
    free(writer->tensors);
    for (size_t i = 0; writer->plan && i < writer->n_plan; i++)
        free((char *)(uintptr_t)writer->plan[i].name);
    free(writer->plan);
    ofr_sha256_done(&writer->data_sha);
    ofr_sha256_done(&writer->scales_sha);
    free(writer->output);
    free(writer->partial);
    free(writer->parent);
    free(writer->weights_path);
    free(writer->state_path);
    free(writer);
    return NULL;
}

ofr_package_writer *ofr_package_writer_discard(ofr_package_writer *writer)
{
    if (writer && writer->locked) {
        (void)ofr_directory_remove(writer->partial, NULL);
        writer->locked = false;
    }
    return ofr_package_writer_close(writer);
}

/* ---- writing ---- */

static void advance_end(ofr_package_writer *writer, const ofr_tensor *spec)
{
    uint64_t end =
        spec->scale_bytes > 0 ? spec->scale_offset + spec->scale_bytes : spec->offset + spec->bytes;
    if (end > writer->end)
        writer->end = end;
}

bool ofr_package_writer_has(ofr_package_writer *writer, const char *name)
{
    if (writer->n_tensors >= writer->n_resumed)
        return false;
    const ofr_tensor *spec = &writer->tensors[writer->n_tensors].spec;
    if (strcmp(spec->name, name) != 0)
        return false;
    advance_end(writer, spec);
    writer->n_tensors++;
    return true;
}

const char *ofr_package_writer_note(const ofr_package_writer *writer)
{
    return writer->n_tensors > 0 ? writer->tensors[writer->n_tensors - 1].note : "-";
}

/* Bytes between tensors are always zero, so that equal sources give equal files. */
static int write_gap(const ofr_package_writer *writer, uint64_t from, uint64_t to, ofr_error *err)
{
    static const char zeros[OFR_PACKAGE_PAGE_ALIGN];
    return ofr_file_pwrite(writer->weights_fd, writer->weights_path, zeros, (size_t)(to - from),
                           from, err);
}

int ofr_package_writer_begin(ofr_package_writer *writer, const ofr_tensor *spec, ofr_error *err)
{
    if (writer->active)
        return ofr_fail(err, OFR_EINTERNAL, "tensor '%s' begins before another has ended",
                        spec->name);
    int r = writer->n_tensors < writer->n_resumed ? ofr_package_state_drop_waiting(writer, err) : 0;
    if (r < 0)
        return r;
    written_tensor tensor = {.spec = *spec};
    uint64_t end;
    r = ofr_package_writer_place(writer, &tensor.spec, &end, err);
    if (r < 0)
        return r;
    if (strpbrk(spec->name, " \n\t"))
        return ofr_fail(err, OFR_EINVAL, "tensor '%s': a name must not hold blanks", spec->name);
    const ofr_tensor *s = &tensor.spec;
    if (s->offset >= writer->end) { /* what is planned was made zero in the beginning */
        r = write_gap(writer, writer->end, s->offset, err);
        if (r == 0 && s->scale_bytes > 0)
            r = write_gap(writer, s->offset + s->bytes, s->scale_offset, err);
    }
    if (r < 0)
        return r;
    ofr_sha256_done(&writer->data_sha);
    ofr_sha256_done(&writer->scales_sha);
    r = ofr_sha256_init(&writer->data_sha, err);
    if (r == 0)
        r = ofr_sha256_init(&writer->scales_sha, err);
    if (r < 0)
        return r;
    tensor.spec.name = strdup(spec->name);
    if (!tensor.spec.name)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", writer->output);
    r = ofr_package_writer_append(writer, &tensor, writer->n_tensors, err);
    if (r < 0) {
        free((char *)(uintptr_t)tensor.spec.name);
        return r;
    }
    writer->data_done = writer->scales_done = 0;
    writer->active = true;
    return 0;
}

uint64_t ofr_package_writer_bytes(const ofr_package_writer *writer)
{
    return writer->end;
}

static int write_part(ofr_package_writer *writer, const void *data, size_t size, uint64_t offset,
                      uint64_t bytes, uint64_t *done, ofr_sha256 *sha, ofr_error *err)
{
    if (!writer->active || size > bytes - *done)
        return ofr_fail(err, OFR_EINTERNAL, "%s: more data than the tensor's shape has",
                        writer->weights_path);
    int r =
        ofr_file_pwrite(writer->weights_fd, writer->weights_path, data, size, offset + *done, err);
    if (r == 0)
        r = ofr_sha256_update(sha, data, size, err);
    if (r == 0)
        *done += size;
    return r;
}

int ofr_package_writer_data(ofr_package_writer *writer, const void *data, size_t size,
                            ofr_error *err)
{
    const ofr_tensor *s =
        writer->active ? &writer->tensors[writer->n_tensors].spec : &(const ofr_tensor){0};
    return write_part(writer, data, size, s->offset, s->bytes, &writer->data_done,
                      &writer->data_sha, err);
}

int ofr_package_writer_scales(ofr_package_writer *writer, const void *scales, size_t size,
                              ofr_error *err)
{
    const ofr_tensor *s =
        writer->active ? &writer->tensors[writer->n_tensors].spec : &(const ofr_tensor){0};
    return write_part(writer, scales, size, s->scale_offset, s->scale_bytes, &writer->scales_done,
                      &writer->scales_sha, err);
}

int ofr_package_writer_end(ofr_package_writer *writer, const char *note, ofr_error *err)
{
    if (!writer->active)
        return ofr_fail(err, OFR_EINTERNAL, "%s: no tensor was begun", writer->output);
    written_tensor *tensor = &writer->tensors[writer->n_tensors];
    const ofr_tensor *s = &tensor->spec;
    if (note && (*note == '\0' || strlen(note) >= sizeof tensor->note || strpbrk(note, " \n\t")))
        return ofr_fail(err, OFR_EINVAL, "tensor '%s': a bad note", s->name);
    snprintf(tensor->note, sizeof tensor->note, "%s", note ? note : "-");
    if (writer->data_done != s->bytes || writer->scales_done != s->scale_bytes)
        return ofr_fail(err, OFR_EINTERNAL, "tensor '%s' ends before all of it was written",
                        s->name);
    int r = ofr_sha256_finish_hex(&writer->data_sha, tensor->sha256_data, err);
    if (r == 0)
        r = ofr_sha256_finish_hex(&writer->scales_sha, tensor->sha256_scales, err);
    if (r < 0)
        return r;
    r = ofr_package_state_add(writer, tensor, err);
    if (r < 0)
        return r;
    advance_end(writer, s);
    /* Let the disk begin: what is left to write at the end is what a bake waits for. */
    (void)sync_file_range(writer->weights_fd, (off_t)s->offset, (off_t)s->bytes,
                          SYNC_FILE_RANGE_WRITE);
    writer->n_tensors++;
    writer->n_resumed = writer->n_tensors;
    writer->active = false;
    return 0;
}

const ofr_tensor *ofr_package_writer_tensor(const ofr_package_writer *writer, const char *name)
{
    for (size_t i = 0; i < writer->n_tensors; i++)
        if (strcmp(writer->tensors[i].spec.name, name) == 0)
            return &writer->tensors[i].spec;
    return NULL;
}

static int add_file(ofr_package_writer *writer, const char *name, uint64_t size, const char *sha256,
                    ofr_error *err)
{
    if (writer->n_files == OFR_PACKAGE_MAX_FILES)
        return ofr_fail(err, OFR_ELIMIT, "%s: more than %d files", writer->output,
                        OFR_PACKAGE_MAX_FILES);
    ofr_package_file *file = &writer->files[writer->n_files++];
    snprintf(file->name, sizeof file->name, "%s", name);
    snprintf(file->sha256, sizeof file->sha256, "%s", sha256);
    file->size = size;
    return 0;
}

int ofr_package_writer_file(ofr_package_writer *writer, const char *name, const void *data,
                            size_t size, ofr_error *err)
{
    char sha256[HEX];
    int r = ofr_sha256_hex(data, size, sha256, err);
    if (r < 0)
        return r;
    char *path = ofr_path_join(writer->partial, name);
    if (!path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", writer->output);
    r = ofr_file_replace(path, data, size, 0644, err);
    free(path);
    return r < 0 ? r : add_file(writer, name, size, sha256, err);
}

int ofr_package_writer_link(ofr_package_writer *writer, const char *name, ofr_error *err)
{
    char *path = ofr_path_join(writer->partial, name);
    if (!path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", writer->output);
    int r = 0;
    if (unlink(path) < 0 && errno != ENOENT)
        r = ofr_fail_errno(err, errno, "%s: cannot be removed", path);
    if (r == 0 && link(writer->weights_path, path) < 0 && symlink("weights.bin", path) < 0)
        r = ofr_fail_errno(err, errno, "%s: cannot be linked to weights.bin", path);
    free(path);
    return r;
}

/* ---- finishing ---- */

/* weights.bin to its exact size, its checksum from what the file holds, and all of it on the disk:
 * what the disk still has to write goes there while the checksum is computed. */
static int finish_weights(ofr_package_writer *writer, ofr_package_stamp *ret_stamp,
                          char ret_sha256[HEX], ofr_error *err)
{
    if (ftruncate(writer->weights_fd, (off_t)writer->end) < 0)
        return ofr_fail_errno(err, errno, "%s: cannot be written", writer->weights_path);
    (void)sync_file_range(writer->weights_fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    ofr_package_stamp before;
    ofr_package_stamp_take(writer->weights_fd, "", &before);
    int r = ofr_sha256_file(writer->weights_fd, writer->weights_path, 0, writer->end, NULL, NULL,
                            ret_sha256, err);
    if (r < 0)
        return r;
    if (fsync(writer->weights_fd) < 0)
        return ofr_fail_errno(err, errno, "%s: cannot be written", writer->weights_path);
    ofr_package_stamp after;
    ofr_package_stamp_take(writer->weights_fd, "", &after);
    if (strcmp(before.text, after.text) != 0)
        return ofr_fail(err, OFR_EBUSY, "%s: was changed while it was read", writer->weights_path);
    ofr_package_stamp_take(writer->weights_fd, ret_sha256, ret_stamp);
    return add_file(writer, "weights.bin", writer->end, ret_sha256, err);
}

static int write_model_json(ofr_package_writer *writer, const ofr_model_params *params,
                            const char *extra_json, ofr_error *err)
{
    ofr_package_description description = {.n_files = writer->n_files,
                                           .n_tensors = writer->n_tensors};
    memcpy(description.files, writer->files, sizeof writer->files);
    int r = 0;
    if (params) {
        description.has_params = true;
        description.params = *params;
        r = ofr_package_check_params(writer->output, params, err);
    }
    if (r < 0)
        return r;
    json_t *extra = NULL;
    if (extra_json) {
        extra = json_loads(extra_json, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(extra)) {
            json_decref(extra);
            return ofr_fail(err, OFR_EINVAL, "%s: further members of model.json are no JSON object",
                            writer->output);
        }
    }
    char *text = NULL, *path = NULL;
    size_t size = 0;
    description.tensors = calloc(writer->n_tensors + 1, sizeof *description.tensors);
    path = ofr_path_join(writer->partial, "model.json");
    if (!description.tensors || !path) {
        r = ofr_fail(err, OFR_ENOMEM, "%s: out of memory", writer->output);
        goto out;
    }
    size_t n = 0; /* the planned ones, then what was appended: as they lie */
    for (; n < writer->n_plan; n++)
        description.tensors[n] = writer->plan[n];
    for (size_t i = 0; i < writer->n_tensors; i++)
        if (writer->tensors[i].spec.offset >= writer->plan_end)
            description.tensors[n++] = writer->tensors[i].spec;
    r = ofr_package_check_tensors(writer->output, description.tensors, writer->n_tensors,
                                  writer->end, err);
    if (r == 0)
        r = ofr_package_json_write(&description, extra, &text, &size, err);
    if (r == 0)
        r = ofr_file_replace(path, text, size, 0644, err);
out:
    free(description.tensors);
    free(text);
    free(path);
    json_decref(extra);
    return r;
}

/* Puts the complete directory in the output's place. A package that is there is exchanged in one
 * step, so that there is always one or the other, and then removed. */
static int install(const ofr_package_writer *writer, ofr_error *err)
{
    /* An empty directory is replaced by rename itself. */
    if (rename(writer->partial, writer->output) == 0)
        return ofr_directory_sync(writer->parent, err);
    if ((errno != ENOTEMPTY && errno != EEXIST) || !writer->overwrite)
        return ofr_fail_errno(err, errno, "%s: cannot be put in place", writer->output);
    if (renameat2(AT_FDCWD, writer->partial, AT_FDCWD, writer->output, RENAME_EXCHANGE) == 0) {
        int r = ofr_directory_sync(writer->parent, err);
        return r < 0 ? r : ofr_directory_remove(writer->partial, err);
    }
    /* The file system cannot exchange: for a moment there is no package at this name. */
    char *previous = NULL;
    if (asprintf(&previous, "%s.previous", writer->output) < 0)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", writer->output);
    int r = 0;
    if (rename(writer->output, previous) < 0) {
        r = ofr_fail_errno(err, errno, "%s: cannot be replaced", writer->output);
    } else if (rename(writer->partial, writer->output) < 0) {
        r = ofr_fail_errno(err, errno, "%s: cannot be put in place", writer->output);
        if (rename(previous, writer->output) < 0)
            r = ofr_error_prefix(err, r, "the former package is now %s", previous);
    } else {
        r = ofr_directory_remove(previous, err);
    }
    free(previous);
    return r < 0 ? r : ofr_directory_sync(writer->parent, err);
}

static void record_stamp(const ofr_package_writer *writer, const ofr_package_stamp *stamp,
                         const char *sha256)
{
    char *output = realpath(writer->output, NULL);
    char *path = output ? ofr_path_join(output, "weights.bin") : NULL;
    if (path)
        ofr_package_stamp_record(stamp, path, writer->weights_fd, sha256);
    free(path);
    free(output);
}

int ofr_package_writer_finish(ofr_package_writer *writer, const ofr_model_params *params,
                              const char *extra_json, ofr_error *err)
{
    if (writer->active)
        return ofr_fail(err, OFR_EINTERNAL, "%s: a tensor is unfinished", writer->output);
    size_t n_planned = 0;
    for (size_t i = 0; i < writer->n_tensors; i++)
        n_planned += writer->tensors[i].spec.offset < writer->plan_end;
    if (n_planned != writer->n_plan)
        return ofr_fail(err, OFR_EINTERNAL, "%s: %zu of %zu planned tensors were written",
                        writer->output, n_planned, writer->n_plan);
    char sha256[HEX] = "";
    ofr_package_stamp stamp = {0};
    int r = 0;
    if (params)
        r = finish_weights(writer, &stamp, sha256, err);
    else if (unlink(writer->weights_path) < 0)
        r = ofr_fail_errno(err, errno, "%s: cannot be removed", writer->weights_path);
    if (r == 0)
        r = write_model_json(writer, params, extra_json, err);
    if (r == 0 && unlink(writer->state_path) < 0)
        r = ofr_fail_errno(err, errno, "%s: cannot be removed", writer->state_path);
    if (r == 0)
        r = ofr_directory_sync(writer->partial, err);
    if (r == 0)
        r = install(writer, err);
    if (r < 0)
        return r;
    if (params)
        record_stamp(writer, &stamp, sha256);
    writer->locked = false;
    return 0;
}
