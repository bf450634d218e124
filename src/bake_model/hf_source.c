/* Reads configuration, safetensors headers, tokenizer and chat template of a model of the hub. */
#include "bake_model/hf_source.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bake_model/hf_config.h"
#include "bake_model/hf_model.h"
#include "bake_model/hf_tokenizer.h"
#include "bake_model/safetensors.h"
#include "base/file.h"
#include "package/package_json.h"

enum { CONFIG_CAP = 16 << 20, INDEX_CAP = 64 << 20 };

static const char INDEX_NAME[] = "model.safetensors.index.json";

/* "where/name" for errors. */
static const char *path_of(const ofr_hf_files *files, const char *name, char path[512])
{
    snprintf(path, 512, "%s/%s", files->where, name);
    return path;
}

static int read_shards(const ofr_hf_files *files, const char *text, size_t size, ofr_source *source,
                       ofr_safetensors *set, ofr_error *err)
{
    char path[512], **names = NULL;
    size_t count = 0;
    path_of(files, INDEX_NAME, path);
    uint32_t first = (uint32_t)source->n_files;
    int r = ofr_safetensors_index_files(path, text, size, &names, &count, err);
    for (size_t i = 0; i < count && r == 0; i++) {
        uint32_t file = 0;
        r = files->add(files->context, names[i], source, &file, err);
        if (r == OFR_ENOENT)
            r = ofr_fail(err, r, "%s: names %s, which is missing", path, names[i]);
        if (r == 0)
            r = ofr_safetensors_read(set, source, file, err);
    }
    if (r == 0)
        r = ofr_safetensors_sort(set, path, err);
    if (r == 0)
        r = ofr_safetensors_index_check(path, text, size, set, names, count, first, err);
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
    return r;
}

static int read_tensors(const ofr_hf_files *files, ofr_source *source, ofr_safetensors *set,
                        ofr_error *err)
{
    char *text = NULL;
    size_t size = 0;
    int r = files->read(files->context, INDEX_NAME, INDEX_CAP, &text, &size, err);
    if (r > 0) {
        r = read_shards(files, text, size, source, set, err);
        free(text);
        return r;
    }
    uint32_t file = 0;
    if (r == 0)
        r = files->add(files->context, "model.safetensors", source, &file, err);
    if (r == OFR_ENOENT)
        return ofr_fail(
            err, r,
            "%s: has neither model.safetensors nor %s; this build reads safetensors and "
            "GGUF",
            files->where, INDEX_NAME);
    if (r == 0)
        r = ofr_safetensors_read(set, source, file, err);
    return r < 0 ? r : ofr_safetensors_sort(set, files->where, err);
}

static int load_weights(const ofr_bake_options *options, const ofr_hf_files *files,
                        const char *config_text, size_t config_size, ofr_bake_source *source,
                        ofr_error *err)
{
    char path[512];
    ofr_hf_config config = {0};
    ofr_safetensors set = {0};
    int r = ofr_hf_config_parse(&config, path_of(files, "config.json", path), config_text,
                                config_size, options->max_context, err);
    if (r == 0) {
        const char *slash = strrchr(files->where, '/');
        snprintf(config.params.name, sizeof config.params.name, "%s",
                 slash && slash[1] ? slash + 1 : files->where);
        r = ofr_package_check_params(path, &config.params, err);
    }
    if (r == 0)
        r = read_tensors(files, &source->files, &set, err);
    if (r == 0) {
        source->model.params = config.params;
        source->model.group_size = options->group_size;
        r = ofr_hf_model_map(&source->model, files->where, &config, &set, err);
    }
    ofr_safetensors_done(&set);
    ofr_hf_config_done(&config);
    return r;
}

/* The license as the model's README states it in its front matter: "license: apache-2.0". */
static void find_license(const ofr_hf_files *files, ofr_bake_source *source)
{
    char *text = NULL;
    size_t size = 0;
    if (files->read(files->context, "README.md", CONFIG_CAP, &text, &size, NULL) <= 0)
        return;
    char *end = strncmp(text, "---\n", 4) == 0 ? strstr(text + 4, "\n---") : NULL;
    char *at = end ? strstr(text, "\nlicense:") : NULL;
    if (at && at < end) {
        at += strlen("\nlicense:");
        at += strspn(at, " ");
        source->license = strndup(at, strcspn(at, " \r\n"));
    }
    free(text);
}

int ofr_hf_source_load_files(const ofr_bake_options *options, const ofr_hf_files *files,
                             ofr_bake_source *source, ofr_error *err)
{
    char *text = NULL;
    size_t size = 0;
    source->format = "safetensors";
    int r = files->read(files->context, "config.json", CONFIG_CAP, &text, &size, err);
    if (r == 0 && !options->tokenizer_only)
        r = ofr_fail(err, OFR_ENOENT,
                     "%s: has no config.json: this is not a model of the hub's kind", files->where);
    if (r >= 0 && !options->tokenizer_only)
        r = load_weights(options, files, text, size, source, err);
    if (r >= 0 && text) {
        char sha256[OFR_SHA256_HEX_SIZE];
        r = ofr_sha256_hex(text, size, sha256, err);
        source->identity = strdup(sha256);
    }
    free(text);
    if (r >= 0)
        r = ofr_hf_tokenizer_load(files, source, err);
    if (r >= 0)
        find_license(files, source);
    return r < 0 ? r : 0;
}

/* ---- a directory ---- */

static int read_local(void *context, const char *name, size_t cap, char **ret_text,
                      size_t *ret_size, ofr_error *err)
{
    char *path = ofr_path_join(context, name);
    if (!path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", (const char *)context);
    void *data = NULL;
    int r = ofr_file_read(path, cap, &data, ret_size, err);
    free(path);
    if (r == OFR_ENOENT)
        return 0;
    if (r < 0)
        return r;
    *ret_text = data;
    return 1;
}

static int add_local(void *context, const char *name, ofr_source *source, uint32_t *ret_file,
                     ofr_error *err)
{
    char *path = ofr_path_join(context, name);
    if (!path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", (const char *)context);
    int r = ofr_source_add_local(source, path, ret_file, err);
    free(path);
    return r;
}

static int check_directory(const char *path, ofr_error *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return ofr_fail_errno(err, errno, "%s: cannot be read", path);
    if (S_ISDIR(st.st_mode))
        return 0;
    return ofr_fail(err, OFR_EINVAL,
                    "%s: is no directory with config.json and safetensors; a GGUF file is named "
                    "with --gguf",
                    path);
}

int ofr_hf_source_load(const ofr_bake_options *options, ofr_bake_source *source, ofr_error *err)
{
    int r = check_directory(options->model_dir, err);
    if (r < 0)
        return r;
    char *directory = strdup(options->model_dir);
    if (!directory)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", options->model_dir);
    size_t n = strlen(directory);
    while (n > 1 && directory[n - 1] == '/')
        directory[--n] = '\0';
    const ofr_hf_files files = {
        .where = directory, .context = directory, .read = read_local, .add = add_local};
    r = ofr_hf_source_load_files(options, &files, source, err);
    free(directory);
    return r;
}
