/* Parses safetensors headers and indices; every figure in them is checked before it is used. */
#include "bake_model/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    unsigned bits;
    bool is_float;
    enum ofr_gguf_type type;
} dtypes[] = {
    {"F32", 32, true, OFR_GGUF_TYPE_F32},
    {"F16", 16, true, OFR_GGUF_TYPE_F16},
    {"BF16", 16, true, OFR_GGUF_TYPE_BF16},
    {"F64", 64, false, 0},
    {"I64", 64, false, 0},
    {"U64", 64, false, 0},
    {"I32", 32, false, 0},
    {"U32", 32, false, 0},
    {"I16", 16, false, 0},
    {"U16", 16, false, 0},
    {"I8", 8, false, 0},
    {"U8", 8, false, 0},
    {"BOOL", 8, false, 0},
    {"F8_E4M3", 8, false, 0},
    {"F8_E5M2", 8, false, 0},
    {"F8_E8M0", 8, false, 0},
};

static int fail_tensor(const char *path, const char *name, const char *what, ofr_error *err)
{
    return ofr_fail(err, OFR_EFORMAT, "%s: is corrupt: tensor '%.200s' %s; get the file again",
                    path, name, what);
}

static int parse_dtype(const char *path, ofr_safetensor *t, const json_t *json, unsigned *ret_bits,
                       ofr_error *err)
{
    const char *name = json_string_value(json);
    if (!name || strlen(name) >= sizeof t->dtype)
        return fail_tensor(path, t->name, "has no dtype", err);
    memcpy(t->dtype, name, strlen(name) + 1);
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtypes[i].name, name) == 0) {
            t->is_float = dtypes[i].is_float;
            t->type = dtypes[i].type;
            *ret_bits = dtypes[i].bits;
            return 0;
        }
    return ofr_fail(err, OFR_EUNSUPPORTED,
                    "%s: tensor '%s' has the type '%s', which this build does not know", path,
                    t->name, name);
}

static int get_size(const json_t *json, uint64_t *ret_value)
{
    json_int_t value = json_integer_value(json);
    if (!json_is_integer(json) || value < 0)
        return -1;
    *ret_value = (uint64_t)value;
    return 0;
}

static int parse_tensor(const char *path, const char *name, const json_t *json, uint64_t data_bytes,
                        ofr_safetensor *t, ofr_error *err)
{
    size_t name_size = strlen(name);
    if (name_size == 0 || name_size >= sizeof t->name)
        return ofr_fail(err, OFR_EFORMAT, "%s: is corrupt: a tensor's name has %zu bytes", path,
                        name_size);
    memcpy(t->name, name, name_size + 1);
    const json_t *shape = json_object_get(json, "shape");
    const json_t *offsets = json_object_get(json, "data_offsets");
    size_t n_dims = json_array_size(shape);
    unsigned bits = 0;
    int r = parse_dtype(path, t, json_object_get(json, "dtype"), &bits, err);
    if (r < 0)
        return r;
    if (!json_is_array(shape) || n_dims > OFR_SAFETENSORS_MAX_DIMENSIONS)
        return fail_tensor(path, name, "has no shape that can be used", err);
    uint64_t elements = 1, begin = 0, end = 0;
    t->n_dims = (uint32_t)n_dims;
    for (size_t i = 0; i < n_dims; i++)
        if (get_size(json_array_get(shape, i), &t->shape[i]) < 0 ||
            __builtin_mul_overflow(elements, t->shape[i], &elements) || elements > 1ULL << 56)
            return fail_tensor(path, name, "has an absurd shape", err);
    if (json_array_size(offsets) != 2 || get_size(json_array_get(offsets, 0), &begin) < 0 ||
        get_size(json_array_get(offsets, 1), &end) < 0 || begin > end)
        return fail_tensor(path, name, "has no data_offsets that can be used", err);
    if (end > data_bytes)
        return fail_tensor(path, name, "ends outside the file: it is truncated or corrupt", err);
    if (elements * bits / 8 != end - begin)
        return fail_tensor(path, name, "has data_offsets that its shape and dtype do not have",
                           err);
    t->begin = begin;
    t->bytes = end - begin;
    return 0;
}

static int compare_places(const void *a, const void *b)
{
    const ofr_safetensor *const *x = a, *const *y = b;
    if ((*x)->begin != (*y)->begin)
        return (*x)->begin < (*y)->begin ? -1 : 1;
    return (*x)->bytes < (*y)->bytes ? -1 : (*x)->bytes > (*y)->bytes;
}

/* The tensors cover the data: no overlap, no hole. */
static int check_cover(const char *path, const ofr_safetensor *tensors, size_t n,
                       uint64_t data_bytes, ofr_error *err)
{
    const ofr_safetensor **order = calloc(n + 1, sizeof(const ofr_safetensor *));
    if (!order)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    for (size_t i = 0; i < n; i++)
        order[i] = &tensors[i];
    qsort(order, n, sizeof(const ofr_safetensor *), compare_places);
    uint64_t at = 0;
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        if (order[i]->begin < at)
            r = ofr_fail(err, OFR_EFORMAT, "%s: is corrupt: tensors '%s' and '%s' overlap", path,
                         order[i - 1]->name, order[i]->name);
        else if (order[i]->begin > at)
            r = ofr_fail(err, OFR_EFORMAT,
                         "%s: is corrupt: there is a hole of %llu bytes before tensor '%s'", path,
                         (unsigned long long)(order[i]->begin - at), order[i]->name);
        at = order[i]->begin + order[i]->bytes;
    }
    free(order);
    if (r == 0 && at != data_bytes)
        r = ofr_fail(err, OFR_EFORMAT, "%s: is corrupt: %llu bytes follow the last tensor", path,
                     (unsigned long long)(data_bytes - at));
    return r;
}

static int append(ofr_safetensors *set, const char *path, const json_t *root, uint64_t data_bytes,
                  ofr_error *err)
{
    size_t count = json_object_size(root), n = 0;
    if (count > OFR_SAFETENSORS_MAX_TENSORS - set->n)
        return ofr_fail(err, OFR_ELIMIT, "%s: more than %d tensors", path,
                        OFR_SAFETENSORS_MAX_TENSORS);
    ofr_safetensor *tensors = realloc(set->tensors, (set->n + count + 1) * sizeof *tensors);
    if (!tensors)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    set->tensors = tensors;
    tensors += set->n;
    const char *name;
    json_t *json;
    json_object_foreach((json_t *)(uintptr_t)root, name, json)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        memset(&tensors[n], 0, sizeof tensors[n]);
        int r = parse_tensor(path, name, json, data_bytes, &tensors[n], err);
        if (r < 0)
            return r;
        n++;
    }
    int r = check_cover(path, tensors, n, data_bytes, err);
    if (r == 0)
        set->n += n;
    return r;
}

int ofr_safetensors_parse(ofr_safetensors *set, const char *path, const char *header, size_t size,
                          uint64_t data_bytes, ofr_error *err)
{
    json_error_t problem;
    json_t *root = json_loadb(header, size, JSON_REJECT_DUPLICATES, &problem);
    if (!json_is_object(root)) {
        int r = ofr_fail(err, OFR_EFORMAT, "%s: is corrupt: its header is no JSON object (%s)",
                         path, root ? "another type" : problem.text);
        json_decref(root);
        return r;
    }
    int r = append(set, path, root, data_bytes, err);
    json_decref(root);
    return r;
}

int ofr_safetensors_read(ofr_safetensors *set, const ofr_source *source, uint32_t file,
                         ofr_error *err)
{
    const ofr_source_file *f = &source->files[file];
    unsigned char bytes[8];
    if (f->size < sizeof bytes + 2)
        return ofr_fail(err, OFR_EFORMAT, "%s: %s", f->path,
                        f->size == 0 ? "is empty; get the file again"
                                     : "is too short for a safetensors file; get it again");
    int r = ofr_source_read(source, file, 0, bytes, sizeof bytes, err);
    uint64_t size = 0;
    for (int i = 7; i >= 0; i--)
        size = size << 8 | bytes[i];
    if (r == 0 && size > f->size - sizeof bytes)
        r = ofr_fail(
            err, OFR_EFORMAT,
            "%s: is truncated, or no safetensors file: it states a header of %llu bytes and "
            "has %llu",
            f->path, (unsigned long long)size, (unsigned long long)f->size);
    if (r == 0 && size > OFR_SAFETENSORS_MAX_HEADER)
        r = ofr_fail(err, OFR_ELIMIT, "%s: has a header of %llu MiB; at most %d MiB are read",
                     f->path, (unsigned long long)(size >> 20), OFR_SAFETENSORS_MAX_HEADER >> 20);
    if (r < 0)
        return r;
    char *header = malloc((size_t)size + 1);
    if (!header)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", f->path);
    size_t before = set->n;
    r = ofr_source_read(source, file, sizeof bytes, header, (size_t)size, err);
    if (r == 0)
        r = ofr_safetensors_parse(set, f->path, header, (size_t)size, f->size - sizeof bytes - size,
                                  err);
    free(header);
    for (size_t i = before; i < set->n && r == 0; i++) {
        set->tensors[i].begin += sizeof bytes + size;
        set->tensors[i].file = file;
    }
    return r;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const ofr_safetensor *)a)->name, ((const ofr_safetensor *)b)->name);
}

int ofr_safetensors_sort(ofr_safetensors *set, const char *path, ofr_error *err)
{
    if (set->n > 0)
        qsort(set->tensors, set->n, sizeof *set->tensors, compare_names);
    for (size_t i = 1; i < set->n; i++)
        if (compare_names(&set->tensors[i - 1], &set->tensors[i]) == 0)
            return ofr_fail(err, OFR_EFORMAT, "%s: tensor '%s' is in two files", path,
                            set->tensors[i].name);
    return 0;
}

ofr_safetensor *ofr_safetensors_find(const ofr_safetensors *set, const char *name)
{
    size_t low = 0, high = set->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, set->tensors[middle].name);
        if (order == 0)
            return &set->tensors[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void ofr_safetensors_done(ofr_safetensors *set)
{
    free(set->tensors);
    *set = (ofr_safetensors){0};
}

/* ---- index ---- */

static int load_map(const char *path, const char *text, size_t size, json_t **ret_root,
                    const json_t **ret_map, ofr_error *err)
{
    json_error_t problem = {.text = "no object"};
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &problem);
    const json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        json_decref(root);
        return ofr_fail(err, OFR_EFORMAT, "%s: is no index of weights: %s", path,
                        root ? "'weight_map' is missing or empty" : problem.text);
    }
    *ret_root = root;
    *ret_map = map;
    return 0;
}

static bool is_plain_name(const char *name)
{
    return name && *name && name[0] != '.' && strlen(name) < 256 && !strchr(name, '/') &&
           !strchr(name, '\\');
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int collect_names(const char *path, const json_t *map, char **names, size_t *count,
                         ofr_error *err)
{
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (!is_plain_name(name))
            return ofr_fail(
                err, OFR_EFORMAT,
                "%s: puts tensor '%.200s' into '%.200s', which is not the name of a file "
                "beside it",
                path, tensor, name ? name : "(no text)");
        bool known = false;
        for (size_t i = *count; i > 0 && !known; i--)
            known = strcmp(names[i - 1], name) == 0;
        if (known)
            continue;
        if (*count == OFR_SOURCE_MAX_FILES)
            return ofr_fail(err, OFR_ELIMIT, "%s: names more than %d files", path,
                            OFR_SOURCE_MAX_FILES);
        names[*count] = strdup(name);
        if (!names[*count])
            return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
        (*count)++;
    }
    return 0;
}

int ofr_safetensors_index_files(const char *path, const char *text, size_t size, char ***ret_names,
                                size_t *ret_count, ofr_error *err)
{
    json_t *root = NULL;
    const json_t *map = NULL;
    int r = load_map(path, text, size, &root, &map, err);
    if (r < 0)
        return r;
    size_t count = 0;
    char **names = calloc(OFR_SOURCE_MAX_FILES, sizeof *names);
    r = names ? collect_names(path, map, names, &count, err)
              : ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    json_decref(root);
    if (r < 0) {
        for (size_t i = 0; i < count; i++)
            free(names[i]);
        free(names);
        return r;
    }
    qsort(names, count, sizeof *names, compare_texts);
    *ret_names = names;
    *ret_count = count;
    return 0;
}

int ofr_safetensors_index_check(const char *path, const char *text, size_t size,
                                const ofr_safetensors *set, char *const *names, size_t count,
                                uint32_t first_file, ofr_error *err)
{
    json_t *root = NULL;
    const json_t *map = NULL;
    int r = load_map(path, text, size, &root, &map, err);
    if (r < 0)
        return r;
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value)
    {
        const ofr_safetensor *t = ofr_safetensors_find(set, tensor);
        size_t file = t ? t->file - first_file : 0;
        const char *name = json_string_value(value);
        if (r == 0 && (!t || file >= count || !name || strcmp(names[file], name) != 0))
            r = ofr_fail(err, OFR_EFORMAT,
                         "%s: puts tensor '%.200s' into %.200s, which does not hold it", path,
                         tensor, name ? name : "(no text)");
    }
    for (size_t i = 0; i < set->n && r == 0; i++)
        if (!json_object_get(map, set->tensors[i].name))
            r = ofr_fail(err, OFR_EFORMAT, "%s: does not list tensor '%s' of %s", path,
                         set->tensors[i].name, names[set->tensors[i].file - first_file]);
    json_decref(root);
    return r;
}
