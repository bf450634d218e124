/* The state file of a package that is being written, and what a later run takes up of it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "package/package_writer_internal.h"

/* The state file: a line that identifies the source, then one line per finished tensor, in order:
 *     <sha256 of data> <sha256 of scales> <dtype> <group_size> <n_dims> <shape ...> <name> <note>
 * A line counts only if it is complete; offsets follow from the order, or from the plan. */
static const char STATE_MAGIC[] = "offering bake state 2 ";
enum { STATE_CAP = 256 << 20 };

/* ---- places ---- */

int ofr_package_writer_append(ofr_package_writer *writer, const written_tensor *tensor, size_t at,
                              ofr_error *err)
{
    if (at >= OFR_PACKAGE_MAX_TENSORS)
        return ofr_fail(err, OFR_ELIMIT, "%s: more than %d tensors", writer->output,
                        OFR_PACKAGE_MAX_TENSORS);
    if (at >= writer->capacity) {
        size_t capacity = writer->capacity ? writer->capacity * 2 : 512;
        written_tensor *tensors = realloc(writer->tensors, capacity * sizeof *tensors);
        if (!tensors)
            return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", writer->output);
        writer->tensors = tensors;
        writer->capacity = capacity;
    }
    writer->tensors[at] = *tensor;
    return 0;
}

/* 1: the plan has a place for the tensor; 0: it does not know it. */
static int place_planned(ofr_package_writer *writer, ofr_tensor *spec, ofr_error *err)
{
    for (size_t i = 0; i < writer->n_plan; i++) {
        size_t at = (writer->plan_next + i) % writer->n_plan;
        const ofr_tensor *planned = &writer->plan[at];
        if (strcmp(planned->name, spec->name) != 0)
            continue;
        if (planned->dtype != spec->dtype || planned->group_size != spec->group_size ||
            planned->n_dims != spec->n_dims ||
            memcmp(planned->shape, spec->shape, sizeof spec->shape) != 0)
            return ofr_fail(err, OFR_EINTERNAL, "tensor '%s' is not as it was planned", spec->name);
        const char *name = spec->name;
        *spec = *planned;
        spec->name = name;
        writer->plan_next = at + 1;
        return 1;
    }
    return 0;
}

/* Behind what is there. */
static int place_behind(const ofr_package_writer *writer, ofr_tensor *spec, uint64_t *ret_end,
                        ofr_error *err)
{
    int r = ofr_package_size_tensor(writer->output, spec, err);
    if (r < 0)
        return r;
    spec->offset = ofr_package_align(writer->end, spec->bytes);
    uint64_t end = spec->offset + spec->bytes;
    spec->scale_offset = 0;
    if (spec->scale_bytes > 0) {
        spec->scale_offset = ofr_package_align(end, spec->scale_bytes);
        end = spec->scale_offset + spec->scale_bytes;
    }
    if (end > (uint64_t)INT64_MAX / 2)
        return ofr_fail(err, OFR_ELIMIT, "%s: weights.bin would be too large", writer->output);
    *ret_end = end;
    return 0;
}

int ofr_package_writer_place(ofr_package_writer *writer, ofr_tensor *spec, uint64_t *ret_end,
                             ofr_error *err)
{
    int r = place_planned(writer, spec, err);
    *ret_end = writer->end;
    if (r != 0)
        return r < 0 ? r : 0;
    return place_behind(writer, spec, ret_end, err);
}

int ofr_package_writer_take_plan(ofr_package_writer *writer, const ofr_tensor *tensors, size_t n,
                                 ofr_error *err)
{
    if (n > OFR_PACKAGE_MAX_TENSORS)
        return ofr_fail(err, OFR_ELIMIT, "%s: more than %d tensors", writer->output,
                        OFR_PACKAGE_MAX_TENSORS);
    ofr_tensor *plan = writer->plan = calloc(n + 1, sizeof *plan);
    if (!plan)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", writer->output);
    int r = 0;
    uint64_t end = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        plan[i] = tensors[i];
        r = place_behind(writer, &plan[i], &end, err);
        writer->end = end;
        plan[i].name = strdup(tensors[i].name);
        writer->n_plan = i + 1;
        if (r == 0 && !plan[i].name)
            r = ofr_fail(err, OFR_ENOMEM, "%s: out of memory", writer->output);
    }
    writer->plan_end = writer->end;
    return r;
}

/* ---- the state file ---- */

static int format_state_line(const written_tensor *tensor, char **ret_line, ofr_error *err)
{
    const ofr_tensor *s = &tensor->spec;
    int n = asprintf(ret_line, "%s %s %u %u %u %llu %llu %llu %llu %s %s\n", tensor->sha256_data,
                     tensor->sha256_scales, (unsigned)s->dtype, s->group_size, s->n_dims,
                     (unsigned long long)s->shape[0], (unsigned long long)s->shape[1],
                     (unsigned long long)s->shape[2], (unsigned long long)s->shape[3], s->name,
                     tensor->note);
    return n < 0 ? ofr_fail(err, OFR_ENOMEM, "out of memory") : n;
}

/* False: the line is not one of ours (torn by a kill, or damaged). */
static bool parse_state_line(const char *line, written_tensor *ret, char name[OFR_PACKAGE_NAME_MAX])
{
    unsigned dtype, group, n_dims;
    unsigned long long shape[4];
    int n = sscanf(line, "%64s %64s %u %u %u %llu %llu %llu %llu %255s %255s", ret->sha256_data,
                   ret->sha256_scales, &dtype, &group, &n_dims, &shape[0], &shape[1], &shape[2],
                   &shape[3], name, ret->note);
    if (n != 11 || strlen(ret->sha256_data) != HEX - 1 || strlen(ret->sha256_scales) != HEX - 1)
        return false;
    ret->spec = (ofr_tensor){.dtype = (enum ofr_dtype)dtype, .n_dims = n_dims, .group_size = group};
    for (size_t i = 0; i < 4; i++)
        ret->spec.shape[i] = shape[i];
    return true;
}

/* Does weights.bin hold the tensor with its checksums? */
static bool verify_tensor(const ofr_package_writer *writer, const written_tensor *tensor)
{
    const ofr_tensor *s = &tensor->spec;
    char hex[HEX];
    if (ofr_sha256_file(writer->weights_fd, writer->weights_path, s->offset, s->bytes, NULL, NULL,
                        hex, NULL) < 0 ||
        strcmp(hex, tensor->sha256_data) != 0)
        return false;
    return ofr_sha256_file(writer->weights_fd, writer->weights_path, s->scale_offset,
                           s->scale_bytes, NULL, NULL, hex, NULL) == 0 &&
           strcmp(hex, tensor->sha256_scales) == 0;
}

/* Takes over the finished tensors of an earlier run, up to the first that is not as it was left;
 * cuts the state file there. */
static int resume(ofr_package_writer *writer, char *text, size_t header_size, ofr_error *err)
{
    char *line = text + header_size;
    uint64_t kept_end = writer->end;
    for (char *newline; (newline = strchr(line, '\n')); line = newline + 1) {
        *newline = '\0';
        written_tensor tensor = {0};
        char name[OFR_PACKAGE_NAME_MAX];
        if (!parse_state_line(line, &tensor, name))
            break;
        tensor.spec.name = name;
        uint64_t end = 0;
        if (ofr_package_writer_place(writer, &tensor.spec, &end, NULL) < 0 ||
            !verify_tensor(writer, &tensor))
            break;
        tensor.spec.name = strdup(name);
        if (!tensor.spec.name)
            return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", writer->partial);
        int r = ofr_package_writer_append(writer, &tensor, writer->n_resumed, err);
        if (r < 0) {
            free((char *)(uintptr_t)tensor.spec.name);
            return r;
        }
        writer->n_resumed++;
        writer->end = end;
    }
    uint64_t end = writer->end;
    writer->end = kept_end;
    writer->plan_next = 0;
    if (ftruncate(writer->state_fd, line - text) < 0 ||
        ftruncate(writer->weights_fd, (off_t)end) < 0)
        return ofr_fail_errno(err, errno, "%s: cannot be cut", writer->partial);
    return 0;
}

/* The first line of the state file; any change of the source or of the options changes it. */
static int identity_line(const char *source, char **ret_line, ofr_error *err)
{
    char hex[HEX];
    int r = ofr_sha256_hex(source, strlen(source), hex, err);
    if (r < 0)
        return r;
    if (asprintf(ret_line, "%s%s %s\n", STATE_MAGIC, OFR_VERSION, hex) < 0)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    return 0;
}

/* ---- the partial directory ---- */

/* Only what a writer makes may be in a partial directory that is discarded: never delete a
 * person's files. */
static int check_discardable(const char *partial, ofr_error *err)
{
    /* Graphs are block_<T>_<S>.xml, prefill_<T>.xml, decode.xml, openvino_<what>.{xml,bin}. */
    static const char *const known[] = {
        OFR_PACKAGE_STATE_NAME, "weights.bin", "model.json", "tokenizer.bin", "golden.json",
        "chat_template.jinja",  "block_",      "prefill_",   "decode.xml",    "openvino_"};
    DIR *directory = opendir(partial);
    if (!directory)
        return ofr_fail_errno(err, errno, "%s: cannot be opened", partial);
    int r = 0;
    const struct dirent *entry;
    while (r == 0 && (entry = readdir(directory))) {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            /* What ofr_file_replace was killed at is "<known name>.XXXXXX". */
            found |= strncmp(entry->d_name, known[i], strlen(known[i])) == 0;
        found |= strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
        if (!found)
            r = ofr_fail(err, OFR_EEXIST,
                         "%s: holds '%s', which bake_model did not write; move it away, or name "
                         "another --output",
                         partial, entry->d_name);
    }
    closedir(directory);
    return r;
}

static int open_in(const char *path, int flags, int *ret_fd, ofr_error *err)
{
    int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return ofr_fail_errno(err, errno, "%s: cannot be opened", path);
    *ret_fd = fd;
    return 0;
}

static int lock_state(ofr_package_writer *writer, ofr_error *err)
{
    if (flock(writer->state_fd, LOCK_EX | LOCK_NB) == 0) {
        writer->locked = true;
        return 0;
    }
    if (errno == EWOULDBLOCK)
        return ofr_fail(err, OFR_EBUSY, "%s: another bake is writing it; wait for it to end",
                        writer->partial);
    return ofr_fail_errno(err, errno, "%s: cannot be locked", writer->state_path);
}

int ofr_package_state_open(ofr_package_writer *writer, const char *source, ofr_error *err)
{
    char *identity = NULL;
    void *text = NULL;
    size_t size = 0;
    int r = identity_line(source, &identity, err);
    if (r < 0)
        return r;
    if (mkdir(writer->partial, 0755) < 0 && errno != EEXIST) {
        r = ofr_fail_errno(err, errno, "%s: cannot be made", writer->partial);
        goto out;
    }
    r = check_discardable(writer->partial, err);
    if (r == 0)
        r = open_in(writer->state_path, O_RDWR | O_CREAT | O_APPEND, &writer->state_fd, err);
    if (r == 0)
        r = lock_state(writer, err);
    if (r == 0)
        r = open_in(writer->weights_path, O_RDWR | O_CREAT, &writer->weights_fd, err);
    if (r == 0)
        r = ofr_file_read(writer->state_path, STATE_CAP, &text, &size, err);
    if (r < 0)
        goto out;
    size_t identity_size = strlen(identity);
    if (size >= identity_size && memcmp(text, identity, identity_size) == 0) {
        r = resume(writer, text, identity_size, err);
        goto out;
    }
    if (ftruncate(writer->state_fd, 0) < 0 || ftruncate(writer->weights_fd, 0) < 0)
        r = ofr_fail_errno(err, errno, "%s: cannot be emptied", writer->partial);
    else if (ftruncate(writer->weights_fd, (off_t)writer->end) < 0)
        r = ofr_fail_errno(err, errno, "%s: cannot get its size of %llu bytes",
                           writer->weights_path, (unsigned long long)writer->end);
    if (r == 0)
        r = ofr_file_write_all(writer->state_fd, writer->state_path, identity, identity_size, err);
out:
    free(text);
    free(identity);
    return r;
}

int ofr_package_state_add(const ofr_package_writer *writer, const written_tensor *tensor,
                          ofr_error *err)
{
    char *line;
    int n = format_state_line(tensor, &line, err);
    if (n < 0)
        return n;
    int r = ofr_file_write_all(writer->state_fd, writer->state_path, line, (size_t)n, err);
    free(line);
    return r;
}

int ofr_package_state_drop_waiting(ofr_package_writer *writer, ofr_error *err)
{
    for (size_t i = writer->n_tensors; i < writer->n_resumed; i++)
        free((char *)(uintptr_t)writer->tensors[i].spec.name);
    writer->n_resumed = writer->n_tensors;
    void *text = NULL;
    size_t size = 0;
    int r = ofr_file_read(writer->state_path, STATE_CAP, &text, &size, err);
    if (r < 0)
        return r;
    const char *line = text;
    for (size_t lines = 0; lines < writer->n_tensors + 1; lines++) {
        const char *newline = strchr(line, '\n');
        if (!newline)
            break;
        line = newline + 1;
    }
    if (ftruncate(writer->state_fd, line - (const char *)text) < 0)
        r = ofr_fail_errno(err, errno, "%s: cannot be cut", writer->state_path);
    free(text);
    return r;
}
