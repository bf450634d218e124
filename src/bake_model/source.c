/* The list of a source's files. */
#include "bake_model/source.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static int add(ofr_source *source, const char *name, const char *path, ofr_error *err)
{
    if (source->n_files == OFR_SOURCE_MAX_FILES)
        return ofr_fail(err, OFR_ELIMIT, "%s: a model of more than %d files", path,
                        OFR_SOURCE_MAX_FILES);
    ofr_source_file *files = realloc(source->files, (source->n_files + 1) * sizeof *files);
    if (!files)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    source->files = files;
    ofr_source_file *file = &files[source->n_files];
    *file = (ofr_source_file){.fd = -1, .name = strdup(name), .path = strdup(path)};
    source->n_files++;
    if (!file->name || !file->path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    return 0;
}

int ofr_source_add_local(ofr_source *source, const char *path, uint32_t *ret_file, ofr_error *err)
{
    char *name = ofr_path_base(path);
    if (!name)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    int r = add(source, name, path, err);
    free(name);
    if (r < 0)
        return r;
    ofr_source_file *file = &source->files[source->n_files - 1];
    r = ofr_file_open_read(path, &file->fd, &file->size, err);
    struct stat st;
    if (r == 0 && fstat(file->fd, &st) == 0)
        file->mtime = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    if (r == 0)
        *ret_file = (uint32_t)source->n_files - 1;
    return r;
}

int ofr_source_add_remote(ofr_source *source, const char *name, const char *path, uint64_t size,
                          const char *sha256, uint32_t *ret_file, ofr_error *err)
{
    int r = add(source, name, path, err);
    if (r < 0)
        return r;
    ofr_source_file *file = &source->files[source->n_files - 1];
    file->size = size;
    if (strlen(sha256) < sizeof file->sha256)
        memcpy(file->sha256, sha256, strlen(sha256) + 1);
    *ret_file = (uint32_t)source->n_files - 1;
    return 0;
}

int ofr_source_read(const ofr_source *source, uint32_t file, uint64_t offset, void *data,
                    size_t size, ofr_error *err)
{
    const ofr_source_file *f = &source->files[file];
    if (offset > f->size || size > f->size - offset)
        return ofr_fail(err, OFR_EFORMAT, "%s: is truncated: byte %llu + %zu of %llu is needed",
                        f->path, (unsigned long long)offset, size, (unsigned long long)f->size);
    if (f->fd >= 0)
        return ofr_file_pread(f->fd, f->path, data, size, offset, err);
    static const atomic_bool never;
    return source->fetch(source->context, 0, file, offset, data, size, &never, err);
}

void ofr_source_done(ofr_source *source)
{
    for (size_t i = 0; i < source->n_files; i++) {
        if (source->files[i].fd >= 0)
            close(source->files[i].fd);
        free(source->files[i].name);
        free(source->files[i].path);
    }
    free(source->files);
    *source = (ofr_source){0};
}
