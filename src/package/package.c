/* Opens a package: reads model.json, maps weights.bin and tokenizer.bin, verifies every file. */
#include "package/package.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/file.h"
#include "package/package_json.h"
#include "package/package_stamp.h"

enum { TEMPLATE_CAP = 16 << 20, FILE_CAP = 64 << 20 };

struct ofr_package {
    char *directory;
    char fingerprint[OFR_SHA256_HEX_SIZE];
    ofr_package_description description;
    const ofr_tensor **by_name; /* [n_tensors], sorted; owned */
    ofr_file_map weights, tokenizer;
    char *chat_template;
    size_t chat_template_size;
    bool has_golden;
    ofr_golden golden; /* arrays owned */
};

static int open_directory(ofr_package *package, const char *directory, ofr_error *err)
{
    package->directory = realpath(directory, NULL);
    if (!package->directory)
        return ofr_fail(err, OFR_ENOENT,
                        "%s: there is no package here; make one with bake_model, or name another "
                        "directory",
                        directory);
    return 0;
}

static int read_description(ofr_package *package, ofr_error *err)
{
    char *path = ofr_path_join(package->directory, "model.json");
    if (!path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", package->directory);
    void *text = NULL;
    size_t size = 0;
    ofr_error problem = {0};
    int r = ofr_file_read(path, OFR_PACKAGE_MODEL_JSON_CAP, &text, &size, &problem);
    if (r == OFR_ENOENT)
        r = ofr_fail(err, OFR_ENOENT,
                     "%s: is not a package: model.json is missing; make one with bake_model, or "
                     "name another directory",
                     package->directory);
    else if (r < 0)
        r = ofr_fail(err, r, "%s", problem.text);
    if (r == 0)
        r = ofr_package_json_read(path, text, size, &package->description, err);
    if (r == 0)
        r = ofr_sha256_hex(text, size, package->fingerprint, err);
    free(text);
    free(path);
    return r;
}

static int fail_missing(const ofr_package *package, const char *name, ofr_error *err)
{
    return ofr_fail(err, OFR_ENOENT, "%s/%s: is missing from the package; run bake_model again",
                    package->directory, name);
}

static int check_size(const ofr_package *package, const ofr_package_file *file, uint64_t size,
                      ofr_error *err)
{
    if (size == file->size)
        return 0;
    return ofr_fail(
        err, OFR_ECORRUPT, "%s/%s: has %llu bytes instead of %llu: %s; run bake_model again",
        package->directory, file->name, (unsigned long long)size, (unsigned long long)file->size,
        size < file->size ? "it is truncated" : "it was changed");
}

static int check_sha256(const ofr_package *package, const ofr_package_file *file,
                        const char *sha256, ofr_error *err)
{
    if (strcmp(sha256, file->sha256) == 0)
        return 0;
    return ofr_fail(err, OFR_ECORRUPT,
                    "%s/%s: its checksum does not match: the file is damaged; run bake_model again",
                    package->directory, file->name);
}

/* *ret_data is NULL where the package lists no such file. */
static int read_small_file(const ofr_package *package, const char *name, size_t cap,
                           char **ret_data, size_t *ret_size, ofr_error *err)
{
    const ofr_package_file *file = ofr_package_description_file(&package->description, name);
    *ret_data = NULL;
    *ret_size = 0;
    if (!file)
        return 0;
    char *path = ofr_path_join(package->directory, name);
    if (!path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", package->directory);
    void *data = NULL;
    size_t size = 0;
    int r = ofr_file_read(path, cap, &data, &size, err);
    free(path);
    if (r == OFR_ENOENT)
        return fail_missing(package, name, err);
    if (r < 0)
        return r;
    char sha256[OFR_SHA256_HEX_SIZE];
    r = check_size(package, file, size, err);
    if (r == 0)
        r = ofr_sha256_hex(data, size, sha256, err);
    if (r == 0)
        r = check_sha256(package, file, sha256, err);
    if (r < 0) {
        free(data);
        return r;
    }
    *ret_data = data;
    *ret_size = size;
    return 0;
}

bool ofr_package_has_file(const ofr_package *package, const char *name)
{
    return ofr_package_description_file(&package->description, name) != NULL;
}

int ofr_package_read_file(const ofr_package *package, const char *name, char **ret_text,
                          size_t *ret_size, ofr_error *err)
{
    char *text = NULL;
    size_t size = 0;
    int r = read_small_file(package, name, FILE_CAP, &text, &size, err);
    if (r == 0 && !text)
        r = ofr_fail(err, OFR_ENOENT, "%s: the package has no %s; bake it again",
                     package->directory, name);
    if (r < 0)
        return r;
    *ret_text = text;
    *ret_size = size;
    return 0;
}

static int map_file(const ofr_package *package, const ofr_package_file *file, ofr_file_map *ret_map,
                    ofr_error *err)
{
    char *path = ofr_path_join(package->directory, file->name);
    if (!path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", package->directory);
    int r = ofr_file_map_open(path, ret_map, err);
    free(path);
    if (r == OFR_ENOENT)
        return fail_missing(package, file->name, err);
    return r < 0 ? r : check_size(package, file, ret_map->size, err);
}

static int map_tokenizer(ofr_package *package, ofr_error *err)
{
    const ofr_package_file *file =
        ofr_package_description_file(&package->description, "tokenizer.bin");
    if (!file)
        return ofr_fail(err, OFR_EFORMAT, "%s: the package lists no tokenizer.bin",
                        package->directory);
    int r = map_file(package, file, &package->tokenizer, err);
    char sha256[OFR_SHA256_HEX_SIZE];
    if (r == 0)
        r = ofr_sha256_hex(package->tokenizer.data, package->tokenizer.size, sha256, err);
    return r < 0 ? r : check_sha256(package, file, sha256, err);
}

static int verify_weights(const ofr_package *package, const ofr_package_file *file, unsigned flags,
                          ofr_error *err)
{
    char *path = ofr_path_join(package->directory, file->name);
    if (!path)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", package->directory);
    int r = 0;
    int fd = package->weights.fd;
    ofr_package_stamp stamp;
    ofr_package_stamp_take(fd, file->sha256, &stamp);
    if ((flags & OFR_PACKAGE_VERIFY_ALL) || !ofr_package_stamp_is_known(&stamp, path)) {
        char sha256[OFR_SHA256_HEX_SIZE];
        r = ofr_sha256_file(fd, path, 0, file->size, NULL, NULL, sha256, err);
        if (r == 0)
            r = check_sha256(package, file, sha256, err);
        if (r == 0)
            ofr_package_stamp_record(&stamp, path, fd, file->sha256);
    }
    free(path);
    return r;
}

static int map_weights(ofr_package *package, unsigned flags, ofr_error *err)
{
    const ofr_package_file *file =
        ofr_package_description_file(&package->description, "weights.bin");
    if (!file || !package->description.has_params)
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "%s: holds a tokenizer only, no weights; bake the model without "
                        "--tokenizer_only",
                        package->directory);
    int r = map_file(package, file, &package->weights, err);
    if (r == 0)
        r = verify_weights(package, file, flags, err);
    if (r < 0)
        return r;
    const char *base = package->weights.data;
    for (size_t i = 0; i < package->description.n_tensors; i++) {
        ofr_tensor *tensor = &package->description.tensors[i];
        tensor->data = base + tensor->offset;
        tensor->scales = tensor->group_size > 0 ? base + tensor->scale_offset : NULL;
    }
    return 0;
}

static int read_ids(const ofr_package *package, const json_t *root, const char *key,
                    const int32_t **ret_ids, size_t *ret_count, ofr_error *err)
{
    const json_t *array = json_object_get(root, key);
    size_t n = json_array_size(array);
    if (!json_is_array(array) || n == 0)
        return ofr_fail(err, OFR_EFORMAT, "%s/golden.json: '%s' is missing or empty",
                        package->directory, key);
    int32_t *ids = calloc(n, sizeof *ids);
    if (!ids)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", package->directory);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id >= package->description.params.vocab_size) {
            free(ids);
            return ofr_fail(err, OFR_EFORMAT, "%s/golden.json: '%s' holds what is no token id",
                            package->directory, key);
        }
        ids[i] = (int32_t)id;
    }
    *ret_ids = ids;
    *ret_count = n;
    return 0;
}

static int read_golden(ofr_package *package, ofr_error *err)
{
    char *text;
    size_t size;
    int r = read_small_file(package, "golden.json", OFR_PACKAGE_GOLDEN_JSON_CAP, &text, &size, err);
    if (r < 0 || !text)
        return r;
    json_t *root = NULL;
    if (ofr_package_json_depth(text, size) <= OFR_PACKAGE_MAX_JSON_DEPTH)
        root = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    if (!root)
        return ofr_fail(err, OFR_EFORMAT, "%s/golden.json: is not valid JSON", package->directory);
    ofr_golden *golden = &package->golden;
    r = read_ids(package, root, "prompt_ids", &golden->prompt_ids, &golden->n_prompt, err);
    if (r == 0)
        r = read_ids(package, root, "expected_ids", &golden->expected_ids, &golden->n_expected,
                     err);
    package->has_golden = r == 0;
    json_decref(root);
    return r;
}

static int compare_tensors(const void *a, const void *b)
{
    const ofr_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int index_tensors(ofr_package *package, ofr_error *err)
{
    size_t n = package->description.n_tensors;
    package->by_name = calloc(n > 0 ? n : 1, sizeof *package->by_name);
    if (!package->by_name)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", package->directory);
    for (size_t i = 0; i < n; i++)
        package->by_name[i] = &package->description.tensors[i];
    qsort(package->by_name, n, sizeof *package->by_name, compare_tensors);
    return 0;
}

int ofr_package_open(const char *directory, unsigned flags, ofr_package **ret_package,
                     ofr_error *err)
{
    ofr_package *package = calloc(1, sizeof *package);
    if (!package)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", directory);
    package->weights = (ofr_file_map)OFR_FILE_MAP_EMPTY;
    package->tokenizer = (ofr_file_map)OFR_FILE_MAP_EMPTY;
    int r = open_directory(package, directory, err);
    if (r == 0)
        r = read_description(package, err);
    if (r == 0)
        r = map_tokenizer(package, err);
    if (r == 0)
        r = read_small_file(package, "chat_template.jinja", TEMPLATE_CAP, &package->chat_template,
                            &package->chat_template_size, err);
    if (r == 0 && !(flags & OFR_PACKAGE_TOKENIZER_ONLY))
        r = read_golden(package, err);
    if (r == 0 && !(flags & OFR_PACKAGE_TOKENIZER_ONLY))
        r = map_weights(package, flags, err);
    if (r == 0)
        r = index_tensors(package, err);
    if (r < 0) {
        ofr_package_close(package);
        return r;
    }
    *ret_package = package;
    return 0;
}

ofr_package *ofr_package_close(ofr_package *package)
{
    if (!package)
        return NULL;
    ofr_package_description_done(&package->description);
    free(package->by_name);
    ofr_file_map_close(&package->weights);
    ofr_file_map_close(&package->tokenizer);
    free(package->chat_template);
    free((int32_t *)(uintptr_t)package->golden.prompt_ids);
    free((int32_t *)(uintptr_t)package->golden.expected_ids);
    free(package->directory);
    free(package);
    return NULL;
}

const char *ofr_package_directory(const ofr_package *package)
{
    return package->directory;
}

const char *ofr_package_fingerprint(const ofr_package *package)
{
    return package->fingerprint;
}

const ofr_model_params *ofr_package_params(const ofr_package *package)
{
    return &package->description.params;
}

const char *ofr_package_quantization_json(const ofr_package *package)
{
    return package->description.quantization;
}

size_t ofr_package_tensor_count(const ofr_package *package)
{
    return package->description.n_tensors;
}

const ofr_tensor *ofr_package_tensor(const ofr_package *package, size_t index)
{
    return index < package->description.n_tensors ? &package->description.tensors[index] : NULL;
}

const ofr_tensor *ofr_package_find(const ofr_package *package, const char *name)
{
    ofr_tensor key = {.name = name};
    const ofr_tensor *key_pointer = &key;
    const ofr_tensor **found =
        bsearch(&key_pointer, package->by_name, package->description.n_tensors,
                sizeof *package->by_name, compare_tensors);
    return found ? *found : NULL;
}

const void *ofr_package_weights(const ofr_package *package, size_t *ret_size)
{
    *ret_size = package->weights.size;
    return package->weights.data;
}

int ofr_package_weights_fd(const ofr_package *package)
{
    return package->weights.fd;
}

const void *ofr_package_tokenizer(const ofr_package *package, size_t *ret_size)
{
    *ret_size = package->tokenizer.size;
    return package->tokenizer.data;
}

const char *ofr_package_chat_template(const ofr_package *package, size_t *ret_size)
{
    *ret_size = package->chat_template_size;
    return package->chat_template;
}

const ofr_golden *ofr_package_golden(const ofr_package *package)
{
    return package->has_golden ? &package->golden : NULL;
}
