/* What of a repository is the model, and where it is read from. */
#include "bake_model/hub_source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/gguf_source.h"
#include "bake_model/safetensors.h"
#include "base/file.h"

enum { INDEX_CAP = 64 << 20 };

static bool has_file(const ofr_hub *hub, const char *name)
{
    const char *found;
    for (size_t i = 0; (found = ofr_hub_file_name(hub, i)); i++)
        if (strcmp(found, name) == 0)
            return true;
    return false;
}

static bool is_gguf(const char *name)
{
    size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".gguf") == 0;
}

/* *ret_name NULL: the model is one of safetensors. */
static int choose(const ofr_bake_options *options, const ofr_hub *hub, const char **ret_name,
                  ofr_error *err)
{
    char list[400] = "";
    size_t n = 0;
    const char *name, *only = NULL;
    *ret_name = NULL;
    for (size_t i = 0; (name = ofr_hub_file_name(hub, i)); i++) {
        if (!is_gguf(name))
            continue;
        if (options->gguf && strcmp(options->gguf, name) == 0) {
            *ret_name = name;
            return 0;
        }
        if (ofr_gguf_is_later_part(name)) /* the first stands for all */
            continue;
        size_t used = strlen(list);
        if (used + strlen(name) + 3 < sizeof list)
            snprintf(list + used, sizeof list - used, "%s%s", n ? ", " : "", name);
        only = name;
        n++;
    }
    if (options->gguf)
        return ofr_fail(err, OFR_ENOENT, "%s: has no file '%.200s'%s%s", options->model_id,
                        options->gguf, n ? "; it has " : "", list);
    bool safetensors =
        has_file(hub, "model.safetensors") || has_file(hub, "model.safetensors.index.json");
    if (safetensors || n == 0)
        return 0;
    if (n > 1)
        return ofr_fail(err, OFR_EINVAL, "%s: holds several GGUF files; choose one with --gguf: %s",
                        options->model_id, list);
    *ret_name = only;
    return 0;
}

static int copy_text(const char *text, char **ret_copy, ofr_error *err)
{
    *ret_copy = strdup(text);
    return *ret_copy ? 0 : ofr_fail(err, OFR_ENOMEM, "out of memory");
}

/* The shards that the index in `directory` names. */
static int download_shards(ofr_hub *hub, const char *directory, ofr_error *err)
{
    char *path = ofr_path_join(directory, "model.safetensors.index.json"), **names = NULL;
    void *text = NULL;
    size_t size = 0, count = 0;
    int r = path ? ofr_file_read(path, INDEX_CAP, &text, &size, err)
                 : ofr_fail(err, OFR_ENOMEM, "out of memory");
    if (r == 0)
        r = ofr_safetensors_index_files(path, text, size, &names, &count, err);
    for (size_t i = 0; i < count && r == 0; i++) {
        int found = ofr_hub_download(hub, names[i], directory, err);
        r = found < 0 ? found : 0;
        if (found == 0)
            r = ofr_fail(err, OFR_ENOENT, "%s: names %s, which is missing", path, names[i]);
    }
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
    free(text);
    free(path);
    return r;
}

static int download_all(const ofr_bake_options *options, ofr_hub *hub, ofr_error *err)
{
    static const char *const names[] = {
        "config.json",         "generation_config.json", "tokenizer.json", "tokenizer.model",
        "chat_template.jinja", "tokenizer_config.json",  "README.md",      "chat_template.json",
    };
    const char *directory = options->keep_source;
    int r = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && r >= 0; i++)
        r = ofr_hub_download(hub, names[i], directory, err);
    if (r < 0 || options->tokenizer_only)
        return r;
    r = ofr_hub_download(hub, "model.safetensors.index.json", directory, err);
    if (r == 0)
        r = ofr_hub_download(hub, "model.safetensors", directory, err);
    else if (r > 0)
        r = download_shards(hub, directory, err);
    return r;
}

typedef struct kept_files {
    ofr_hub *hub;
    const char *directory;
} kept_files;

static int add_kept(void *context, const char *name, ofr_source *source, uint32_t *ret_file,
                    ofr_error *err)
{
    const kept_files *kept = context;
    int r = ofr_hub_download(kept->hub, name, kept->directory, err);
    if (r <= 0)
        return r < 0 ? r : ofr_fail(err, OFR_ENOENT, "the repository has no file %s", name);
    char *base = ofr_path_base(name), *path = base ? ofr_path_join(kept->directory, base) : NULL;
    r = path ? ofr_source_add_local(source, path, ret_file, err)
             : ofr_fail(err, OFR_ENOMEM, "out of memory");
    free(path);
    free(base);
    return r;
}

static int load_kept(const ofr_bake_options *options, ofr_hub *hub, const char *gguf,
                     ofr_bake_source *source, ofr_error *err)
{
    const char *directory = options->keep_source;
    int r = ofr_directory_make(directory, 0755, err);
    if (r < 0)
        return r;
    if (!gguf) {
        r = download_all(options, hub, err);
        ofr_bake_options local = *options;
        local.model_dir = directory;
        return r < 0 ? r : ofr_hf_source_load(&local, source, err);
    }
    kept_files kept = {hub, directory};
    return ofr_gguf_source_load(options, gguf, add_kept, &kept, source, err);
}

static int load_streamed(const ofr_bake_options *options, ofr_hub *hub, const char *gguf,
                         ofr_bake_source *source, ofr_error *err)
{
    ofr_hf_files files;
    ofr_hub_files(hub, &files);
    ofr_hub_attach(hub, &source->files);
    if (!gguf)
        return ofr_hf_source_load_files(options, &files, source, err);
    return ofr_gguf_source_load(options, gguf, files.add, files.context, source, err);
}

int ofr_hub_source_load(const ofr_bake_options *options, ofr_hub *hub, ofr_bake_source *source,
                        ofr_error *err)
{
    const char *gguf = NULL;
    int r = choose(options, hub, &gguf, err);
    if (r == 0)
        r = options->keep_source ? load_kept(options, hub, gguf, source, err)
                                 : load_streamed(options, hub, gguf, source, err);
    if (r == 0)
        r = copy_text(options->model_id, &source->repository, err);
    if (r == 0)
        r = copy_text(ofr_hub_commit(hub), &source->revision, err);
    /* The model's name is the repository's, wherever its files were kept. */
    const char *slash = strrchr(options->model_id, '/');
    ofr_model_params *p = &source->model.params;
    if (r == 0 && !gguf)
        snprintf(p->name, sizeof p->name, "%s", slash ? slash + 1 : options->model_id);
    return r;
}
