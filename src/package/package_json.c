/* model.json: writing and reading it, with every value checked. */
#include "package/package_json.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char PREFIX[] = "{\n  \"checksum\": \"";
enum { PREFIX_SIZE = sizeof PREFIX - 1, HEX_SIZE = OFR_SHA256_HEX_SIZE - 1 };

static const char *const rope_scaling_names[] = {
    [OFR_ROPE_SCALING_NONE] = "none",         [OFR_ROPE_SCALING_LINEAR] = "linear",
    [OFR_ROPE_SCALING_LLAMA3] = "llama3",     [OFR_ROPE_SCALING_YARN] = "yarn",
    [OFR_ROPE_SCALING_LONGROPE] = "longrope",
};
enum { N_ROPE_SCALINGS = sizeof rope_scaling_names / sizeof rope_scaling_names[0] };

/* ---- writing ---- */

/* The shortest decimal that reads back as the same float: 1e-05, not 9.9999997473787516e-06. */
static double shortest(float value)
{
    char text[32];
    for (int digits = 6; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            return strtod(text, NULL);
    }
    return (double)value;
}

static json_t *rope_to_json(const ofr_rope_params *rope)
{
    enum ofr_rope_scaling scaling = rope->scaling;
    bool is_llama3 = scaling == OFR_ROPE_SCALING_LLAMA3, is_yarn = scaling == OFR_ROPE_SCALING_YARN;
    bool is_long = scaling == OFR_ROPE_SCALING_LONGROPE;
    const struct {
        bool present;
        const char *key;
        float value;
    } reals[] = {
        {scaling != OFR_ROPE_SCALING_NONE && !is_long, "factor", rope->factor},
        {is_llama3, "low_freq_factor", rope->low_freq_factor},
        {is_llama3, "high_freq_factor", rope->high_freq_factor},
        {is_yarn, "beta_fast", rope->beta_fast},
        {is_yarn, "beta_slow", rope->beta_slow},
        {is_yarn || is_long, "attention_factor", rope->attention_factor},
    };
    json_t *json = json_pack("{s:I, s:f, s:s}", "dims", (json_int_t)rope->dims, "base",
                             shortest(rope->base), "scaling", rope_scaling_names[scaling]);
    int bad = !json;
    if (is_llama3 || is_yarn || is_long)
        bad |= json_object_set_new(json, "original_context", json_integer(rope->original_context));
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++)
        if (reals[i].present)
            bad |= json_object_set_new(json, reals[i].key, json_real(shortest(reals[i].value)));
    if (bad) {
        json_decref(json);
        return NULL;
    }
    return json;
}

/* The members that a plain llama does not have; where each is in the structure. */
static const struct {
    const char *key;
    size_t offset;
} optional_reals[] = {
    {"embedding_scale", offsetof(ofr_model_params, embedding_scale)},
    {"residual_scale", offsetof(ofr_model_params, residual_scale)},
    {"attention_scale", offsetof(ofr_model_params, attention_scale)},
    {"logit_scale", offsetof(ofr_model_params, logit_scale)},
    {"attention_softcap", offsetof(ofr_model_params, attention_softcap)},
    {"logit_softcap", offsetof(ofr_model_params, logit_softcap)},
};
enum { N_OPTIONAL_REALS = sizeof optional_reals / sizeof optional_reals[0] };

static const struct {
    const char *key;
    enum ofr_layer_flag flag;
} layer_lists[] = {{"windowed_layers", OFR_LAYER_WINDOWED},
                   {"unrotated_layers", OFR_LAYER_UNROTATED}};
enum { N_LAYER_LISTS = sizeof layer_lists / sizeof layer_lists[0] };

static int add_layer_list(json_t *json, const ofr_model_params *p, const char *key,
                          enum ofr_layer_flag flag)
{
    json_t *list = json_array();
    int bad = !list;
    for (uint32_t i = 0; i < p->n_layers && i < OFR_PACKAGE_MAX_LAYERS; i++)
        if (p->layer_flags[i] & flag)
            bad |= json_array_append_new(list, json_integer(i));
    if (!bad && json_array_size(list) > 0)
        return json_object_set_new(json, key, list);
    json_decref(list);
    return bad;
}

static int add_optional_params(json_t *json, const ofr_model_params *p)
{
    int bad = 0;
    if (p->activation == OFR_ACTIVATION_GELU_TANH)
        bad |= json_object_set_new(json, "activation", json_string("gelu_tanh"));
    for (size_t i = 0; i < N_OPTIONAL_REALS; i++) {
        float value;
        memcpy(&value, (const char *)p + optional_reals[i].offset, sizeof value);
        if (value != 0)
            bad |= json_object_set_new(json, optional_reals[i].key, json_real(shortest(value)));
    }
    if (p->sliding_window > 0)
        bad |= json_object_set_new(json, "sliding_window", json_integer(p->sliding_window));
    if (p->rope_local.dims > 0)
        bad |= json_object_set_new(json, "rope_local", rope_to_json(&p->rope_local));
    for (size_t i = 0; i < N_LAYER_LISTS; i++)
        bad |= add_layer_list(json, p, layer_lists[i].key, layer_lists[i].flag);
    return bad;
}

static json_t *params_to_json(const ofr_model_params *p)
{
    json_t *rope = rope_to_json(&p->rope);
    json_t *json =
        !rope ? NULL
              : json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:b, s:o}", "name",
                          p->name, "n_layers", (json_int_t)p->n_layers, "d_model",
                          (json_int_t)p->d_model, "n_heads", (json_int_t)p->n_heads, "n_kv_heads",
                          (json_int_t)p->n_kv_heads, "head_dim", (json_int_t)p->head_dim, "d_ff",
                          (json_int_t)p->d_ff, "vocab_size", (json_int_t)p->vocab_size,
                          "context_length", (json_int_t)p->context_length, "rms_epsilon",
                          shortest(p->rms_epsilon), "tied_embedding", p->tied_embedding, "rope",
                          rope);
    if (json && add_optional_params(json, p) != 0) {
        json_decref(json);
        return NULL;
    }
    return json;
}

static json_t *tensor_to_json(const ofr_tensor *t)
{
    json_t *shape = json_array();
    for (uint32_t i = 0; i < t->n_dims; i++)
        if (json_array_append_new(shape, json_integer((json_int_t)t->shape[i])) < 0) {
            json_decref(shape);
            return NULL;
        }
    json_t *json =
        json_pack("{s:s, s:s, s:o, s:I, s:I}", "name", t->name, "dtype", ofr_dtype_name(t->dtype),
                  "shape", shape, "offset", (json_int_t)t->offset, "bytes", (json_int_t)t->bytes);
    if (json && t->group_size > 0 &&
        (json_object_set_new(json, "group_size", json_integer(t->group_size)) < 0 ||
         json_object_set_new(json, "scale_offset", json_integer((json_int_t)t->scale_offset)) < 0 ||
         json_object_set_new(json, "scale_bytes", json_integer((json_int_t)t->scale_bytes)) < 0)) {
        json_decref(json);
        return NULL;
    }
    return json;
}

static json_t *description_to_json(const ofr_package_description *d, const json_t *extra)
{
    json_t *root = json_pack("{s:s, s:i, s:s}", "checksum",
                             "0000000000000000000000000000000000000000000000000000000000000000",
                             "format_version", OFR_PACKAGE_FORMAT_VERSION, "generator",
                             "bake_model " OFR_VERSION);
    int bad = !root;
    if (d->has_params) {
        bad |= json_object_set_new(root, "architecture", json_string(d->params.architecture));
        bad |= json_object_set_new(root, "params", params_to_json(&d->params));
    }
    if (extra)
        bad |= json_object_update_missing(root, (json_t *)(uintptr_t)extra);
    json_t *files = json_object();
    for (size_t i = 0; i < d->n_files; i++)
        bad |= json_object_set_new(files, d->files[i].name,
                                   json_pack("{s:I, s:s}", "size", (json_int_t)d->files[i].size,
                                             "sha256", d->files[i].sha256));
    bad |= json_object_set_new(root, "files", files);
    json_t *tensors = json_array();
    for (size_t i = 0; i < d->n_tensors; i++)
        bad |= json_array_append_new(tensors, tensor_to_json(&d->tensors[i]));
    bad |= json_object_set_new(root, "tensors", tensors);
    if (bad) {
        json_decref(root);
        return NULL;
    }
    return root;
}

int ofr_package_json_write(const ofr_package_description *description, const json_t *extra,
                           char **ret_text, size_t *ret_size, ofr_error *err)
{
    json_t *root = description_to_json(description, extra);
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    if (!text)
        return ofr_fail(err, OFR_ENOMEM,
                        "model.json: cannot be composed (out of memory, or text "
                        "that is not UTF-8)");
    size_t size = strlen(text);
    if (strncmp(text, PREFIX, PREFIX_SIZE) != 0) {
        free(text);
        return ofr_fail(err, OFR_EINTERNAL, "model.json: unexpected layout");
    }
    char hex[OFR_SHA256_HEX_SIZE];
    int r = ofr_sha256_hex(text, size, hex, err);
    if (r < 0) {
        free(text);
        return r;
    }
    memcpy(text + PREFIX_SIZE, hex, HEX_SIZE);
    *ret_text = text;
    *ret_size = size;
    return 0;
}

/* ---- reading ---- */

size_t ofr_package_json_depth(const char *text, size_t size)
{
    size_t depth = 0, deepest = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            if (++depth > deepest)
                deepest = depth;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return deepest;
}

static int check_own_checksum(const char *path, const char *text, size_t size, ofr_error *err)
{
    if (size < PREFIX_SIZE + HEX_SIZE || memcmp(text, PREFIX, PREFIX_SIZE) != 0)
        return ofr_fail(err, OFR_ECORRUPT,
                        "%s: does not begin as a package's model.json does; it is damaged, or not "
                        "from bake_model: run bake_model again",
                        path);
    char zeros[HEX_SIZE];
    memset(zeros, '0', sizeof zeros);
    char hex[OFR_SHA256_HEX_SIZE];
    ofr_sha256 sha;
    int r = ofr_sha256_init(&sha, err);
    if (r < 0)
        return r;
    r = ofr_sha256_update(&sha, text, PREFIX_SIZE, err);
    if (r == 0)
        r = ofr_sha256_update(&sha, zeros, HEX_SIZE, err);
    size_t rest = PREFIX_SIZE + HEX_SIZE;
    if (r == 0)
        r = ofr_sha256_update(&sha, text + rest, size - rest, err);
    if (r == 0)
        r = ofr_sha256_finish_hex(&sha, hex, err);
    ofr_sha256_done(&sha);
    if (r == 0 && memcmp(hex, text + PREFIX_SIZE, HEX_SIZE) != 0)
        r = ofr_fail(err, OFR_ECORRUPT,
                     "%s: its checksum does not match: the file is damaged or was edited; run "
                     "bake_model again",
                     path);
    return r;
}

/* Where values are read from: keeps the first failure, so that a list of gets needs one check. */
typedef struct reader {
    const char *path;
    const char *where; /* "params", a tensor's name */
    ofr_error *err;
    int result;
} reader;

static const json_t *get(reader *in, const json_t *object, const char *key, json_type type)
{
    if (in->result < 0)
        return NULL;
    const json_t *value = json_object_get(object, key);
    bool is_real = type == JSON_REAL && json_is_number(value);
    if (!value || (json_typeof(value) != type && !is_real)) {
        in->result = ofr_fail(in->err, OFR_EFORMAT, "%s: %s: '%s' is missing or of a wrong type",
                              in->path, in->where, key);
        return NULL;
    }
    return value;
}

static uint64_t get_u64(reader *in, const json_t *object, const char *key)
{
    const json_t *value = get(in, object, key, JSON_INTEGER);
    json_int_t number = json_integer_value(value);
    if (value && number < 0)
        in->result =
            ofr_fail(in->err, OFR_EFORMAT, "%s: %s: '%s' is negative", in->path, in->where, key);
    return number < 0 ? 0 : (uint64_t)number;
}

static uint32_t get_u32(reader *in, const json_t *object, const char *key)
{
    uint64_t value = get_u64(in, object, key);
    if (value > UINT32_MAX) {
        in->result =
            ofr_fail(in->err, OFR_EFORMAT, "%s: %s: '%s' is absurd", in->path, in->where, key);
        return 0;
    }
    return (uint32_t)value;
}

static float get_float(reader *in, const json_t *object, const char *key)
{
    const json_t *value = get(in, object, key, JSON_REAL);
    float number = (float)json_number_value(value);
    if (value && !isfinite(number))
        in->result = ofr_fail(in->err, OFR_EFORMAT, "%s: %s: '%s' is not a finite float", in->path,
                              in->where, key);
    return number;
}

static void get_text(reader *in, const json_t *object, const char *key, char *ret, size_t size)
{
    const json_t *value = get(in, object, key, JSON_STRING);
    if (!value)
        return;
    size_t n = json_string_length(value);
    if (n >= size || memchr(json_string_value(value), '\0', n)) {
        in->result =
            ofr_fail(in->err, OFR_EFORMAT, "%s: %s: '%s' is too long", in->path, in->where, key);
        return;
    }
    memcpy(ret, json_string_value(value), n + 1);
}

static void read_rope(reader *in, const json_t *json, ofr_rope_params *rope)
{
    rope->dims = get_u32(in, json, "dims");
    rope->base = get_float(in, json, "base");
    char name[32] = "";
    get_text(in, json, "scaling", name, sizeof name);
    if (in->result < 0)
        return;
    unsigned scaling = 0;
    while (scaling < N_ROPE_SCALINGS && strcmp(rope_scaling_names[scaling], name) != 0)
        scaling++;
    if (scaling == N_ROPE_SCALINGS) {
        in->result =
            ofr_fail(in->err, OFR_EFORMAT, "%s: unknown rope scaling '%s'", in->path, name);
        return;
    }
    rope->scaling = (enum ofr_rope_scaling)scaling;
    bool is_long = rope->scaling == OFR_ROPE_SCALING_LONGROPE;
    if (rope->scaling != OFR_ROPE_SCALING_NONE && !is_long)
        rope->factor = get_float(in, json, "factor");
    if (rope->scaling == OFR_ROPE_SCALING_LLAMA3 || rope->scaling == OFR_ROPE_SCALING_YARN ||
        is_long)
        rope->original_context = get_u32(in, json, "original_context");
    if (rope->scaling == OFR_ROPE_SCALING_LLAMA3) {
        rope->low_freq_factor = get_float(in, json, "low_freq_factor");
        rope->high_freq_factor = get_float(in, json, "high_freq_factor");
    }
    if (rope->scaling == OFR_ROPE_SCALING_YARN) {
        rope->beta_fast = get_float(in, json, "beta_fast");
        rope->beta_slow = get_float(in, json, "beta_slow");
    }
    if (rope->scaling == OFR_ROPE_SCALING_YARN || is_long)
        rope->attention_factor = get_float(in, json, "attention_factor");
}

static void read_layer_list(reader *in, const json_t *json, const char *key,
                            enum ofr_layer_flag flag, ofr_model_params *p)
{
    if (in->result < 0 || !json_object_get(json, key))
        return;
    const json_t *list = get(in, json, key, JSON_ARRAY);
    for (size_t i = 0; i < json_array_size(list) && in->result == 0; i++) {
        const json_t *item = json_array_get(list, i);
        json_int_t layer = json_integer_value(item);
        if (!json_is_integer(item) || layer < 0 || layer >= p->n_layers ||
            layer >= OFR_PACKAGE_MAX_LAYERS)
            in->result = ofr_fail(in->err, OFR_EFORMAT, "%s: %s: '%s' names no layer", in->path,
                                  in->where, key);
        else
            p->layer_flags[layer] = (uint8_t)(p->layer_flags[layer] | flag);
    }
}

static void read_optional_params(reader *in, const json_t *json, ofr_model_params *p)
{
    char activation[32] = "silu";
    if (in->result == 0 && json_object_get(json, "activation"))
        get_text(in, json, "activation", activation, sizeof activation);
    if (in->result == 0 && strcmp(activation, "gelu_tanh") == 0)
        p->activation = OFR_ACTIVATION_GELU_TANH;
    else if (in->result == 0 && strcmp(activation, "silu") != 0)
        in->result =
            ofr_fail(in->err, OFR_EFORMAT, "%s: unknown activation '%s'", in->path, activation);
    for (size_t i = 0; i < N_OPTIONAL_REALS && in->result == 0; i++)
        if (json_object_get(json, optional_reals[i].key)) {
            float value = get_float(in, json, optional_reals[i].key);
            memcpy((char *)p + optional_reals[i].offset, &value, sizeof value);
        }
    if (in->result == 0 && json_object_get(json, "sliding_window"))
        p->sliding_window = get_u32(in, json, "sliding_window");
    if (in->result == 0 && json_object_get(json, "rope_local")) {
        const json_t *local = get(in, json, "rope_local", JSON_OBJECT);
        if (in->result == 0)
            read_rope(in, local, &p->rope_local);
        if (in->result == 0 && p->rope_local.dims == 0)
            in->result = ofr_fail(in->err, OFR_EFORMAT, "%s: rope_local.dims is 0", in->path);
    }
    for (size_t i = 0; i < N_LAYER_LISTS; i++)
        read_layer_list(in, json, layer_lists[i].key, layer_lists[i].flag, p);
}

static int read_params(reader *in, const json_t *root, ofr_model_params *p)
{
    const json_t *json = get(in, root, "params", JSON_OBJECT);
    get_text(in, root, "architecture", p->architecture, sizeof p->architecture);
    get_text(in, json, "name", p->name, sizeof p->name);
    p->n_layers = get_u32(in, json, "n_layers");
    p->d_model = get_u32(in, json, "d_model");
    p->n_heads = get_u32(in, json, "n_heads");
    p->n_kv_heads = get_u32(in, json, "n_kv_heads");
    p->head_dim = get_u32(in, json, "head_dim");
    p->d_ff = get_u32(in, json, "d_ff");
    p->vocab_size = get_u32(in, json, "vocab_size");
    p->context_length = get_u32(in, json, "context_length");
    p->rms_epsilon = get_float(in, json, "rms_epsilon");
    const json_t *tied = in->result < 0 ? NULL : json_object_get(json, "tied_embedding");
    if (in->result == 0 && !json_is_boolean(tied))
        in->result = ofr_fail(in->err, OFR_EFORMAT,
                              "%s: params: 'tied_embedding' is missing or of "
                              "a wrong type",
                              in->path);
    p->tied_embedding = json_is_true(tied);
    const json_t *rope = get(in, json, "rope", JSON_OBJECT);
    if (in->result == 0)
        read_rope(in, rope, &p->rope);
    read_optional_params(in, json, p);
    return in->result < 0 ? in->result : ofr_package_check_params(in->path, p, in->err);
}

static bool is_hex_sha256(const char *text)
{
    return strlen(text) == HEX_SIZE && strspn(text, "0123456789abcdef") == HEX_SIZE;
}

static int read_files(reader *in, const json_t *root, ofr_package_description *d)
{
    in->where = "files";
    const json_t *files = get(in, root, "files", JSON_OBJECT);
    if (in->result < 0)
        return in->result;
    const char *name;
    json_t *json;
    json_object_foreach((json_t *)(uintptr_t)files, name, json)
    {
        if (d->n_files == OFR_PACKAGE_MAX_FILES)
            return ofr_fail(in->err, OFR_EFORMAT, "%s: lists more than %d files", in->path,
                            OFR_PACKAGE_MAX_FILES);
        ofr_package_file *file = &d->files[d->n_files];
        size_t n = strlen(name);
        if (n == 0 || n >= sizeof file->name || name[0] == '.' || strchr(name, '/'))
            return ofr_fail(in->err, OFR_EFORMAT, "%s: lists a file with a bad name", in->path);
        memcpy(file->name, name, n + 1);
        in->where = file->name;
        file->size = get_u64(in, json, "size");
        get_text(in, json, "sha256", file->sha256, sizeof file->sha256);
        if (in->result == 0 && !is_hex_sha256(file->sha256))
            in->result = ofr_fail(in->err, OFR_EFORMAT, "%s: %s: 'sha256' is not 64 hex digits",
                                  in->path, file->name);
        if (in->result < 0)
            return in->result;
        d->n_files++;
    }
    return 0;
}

static int read_tensor(reader *in, const json_t *json, ofr_tensor *t)
{
    char name[OFR_PACKAGE_NAME_MAX] = "", dtype[16] = "";
    in->where = "a tensor";
    get_text(in, json, "name", name, sizeof name);
    in->where = name;
    get_text(in, json, "dtype", dtype, sizeof dtype);
    const json_t *shape = get(in, json, "shape", JSON_ARRAY);
    t->offset = get_u64(in, json, "offset");
    uint64_t bytes = get_u64(in, json, "bytes"), scale_bytes = 0;
    if (in->result == 0 && json_object_get(json, "group_size")) {
        t->group_size = get_u32(in, json, "group_size");
        t->scale_offset = get_u64(in, json, "scale_offset");
        scale_bytes = get_u64(in, json, "scale_bytes");
    }
    if (in->result < 0)
        return in->result;
    bool known = false;
#define DTYPE_PARSE(symbol, text, bits)                                                            \
    if (strcmp(dtype, text) == 0) {                                                                \
        t->dtype = symbol;                                                                         \
        known = true;                                                                              \
    }
    OFR_DTYPE_TABLE(DTYPE_PARSE)
#undef DTYPE_PARSE
    if (!known)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: tensor '%s' has the unknown dtype '%s'",
                        in->path, name, dtype);
    size_t n_dims = json_array_size(shape);
    if (n_dims < 1 || n_dims > OFR_PACKAGE_MAX_DIMENSIONS)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: tensor '%s' has %zu dimensions", in->path, name,
                        n_dims);
    t->n_dims = (uint32_t)n_dims;
    for (size_t i = 0; i < n_dims; i++) {
        json_int_t size = json_integer_value(json_array_get(shape, i));
        if (size <= 0)
            return ofr_fail(in->err, OFR_EFORMAT, "%s: tensor '%s' has a bad shape", in->path,
                            name);
        t->shape[i] = (uint64_t)size;
    }
    char *copy = strdup(name);
    if (!copy)
        return ofr_fail(in->err, OFR_ENOMEM, "%s: out of memory", in->path);
    t->name = copy;
    int r = ofr_package_size_tensor(in->path, t, in->err);
    if (r == 0 && (t->bytes != bytes || t->scale_bytes != scale_bytes))
        r = ofr_fail(in->err, OFR_EFORMAT,
                     "%s: tensor '%s' states a size that its shape does not "
                     "have",
                     in->path, name);
    return r;
}

static int read_tensors(reader *in, const json_t *root, ofr_package_description *d)
{
    in->where = "tensors";
    const json_t *tensors = get(in, root, "tensors", JSON_ARRAY);
    if (in->result < 0)
        return in->result;
    size_t n = json_array_size(tensors);
    if (n > OFR_PACKAGE_MAX_TENSORS)
        return ofr_fail(in->err, OFR_EFORMAT, "%s: lists %zu tensors", in->path, n);
    d->tensors = calloc(n > 0 ? n : 1, sizeof *d->tensors);
    if (!d->tensors)
        return ofr_fail(in->err, OFR_ENOMEM, "%s: out of memory", in->path);
    d->n_tensors = n;
    for (size_t i = 0; i < n; i++) {
        int r = read_tensor(in, json_array_get(tensors, i), &d->tensors[i]);
        if (r < 0)
            return r;
    }
    const ofr_package_file *weights = ofr_package_description_file(d, "weights.bin");
    return ofr_package_check_tensors(in->path, d->tensors, n, weights ? weights->size : 0, in->err);
}

static int read_root(reader *in, const json_t *root, ofr_package_description *d)
{
    in->where = "model.json";
    uint64_t version = get_u64(in, root, "format_version");
    if (in->result == 0 && version != OFR_PACKAGE_FORMAT_VERSION)
        return ofr_fail(in->err, OFR_EVERSION,
                        "%s: the package has format version %llu, this build reads %d: %s",
                        in->path, (unsigned long long)version, OFR_PACKAGE_FORMAT_VERSION,
                        version > OFR_PACKAGE_FORMAT_VERSION ? "update Offering"
                                                             : "run bake_model again");
    in->where = "params";
    d->has_params = json_object_get(root, "params") != NULL;
    if (in->result == 0 && d->has_params)
        in->result = read_params(in, root, &d->params);
    if (in->result == 0)
        in->result = read_files(in, root, d);
    if (in->result == 0)
        in->result = read_tensors(in, root, d);
    if (in->result < 0)
        return in->result;
    const json_t *quantization = json_object_get(root, "quantization");
    d->quantization = quantization ? json_dumps(quantization, JSON_COMPACT) : strdup("{}");
    if (!d->quantization)
        return ofr_fail(in->err, OFR_ENOMEM, "%s: out of memory", in->path);
    return 0;
}

int ofr_package_json_read(const char *path, const char *text, size_t size,
                          ofr_package_description *ret_description, ofr_error *err)
{
    int r = check_own_checksum(path, text, size, err);
    if (r < 0)
        return r;
    if (ofr_package_json_depth(text, size) > OFR_PACKAGE_MAX_JSON_DEPTH)
        return ofr_fail(err, OFR_EFORMAT, "%s: is nested too deeply", path);
    json_error_t problem;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &problem);
    if (!root)
        return ofr_fail(err, OFR_EFORMAT, "%s:%d: %s", path, problem.line, problem.text);
    ofr_package_description description = {0};
    reader in = {.path = path, .err = err};
    r = read_root(&in, root, &description);
    json_decref(root);
    if (r < 0)
        ofr_package_description_done(&description);
    else
        *ret_description = description;
    return r;
}

const ofr_package_file *ofr_package_description_file(const ofr_package_description *description,
                                                     const char *name)
{
    for (size_t i = 0; i < description->n_files; i++)
        if (strcmp(description->files[i].name, name) == 0)
            return &description->files[i];
    return NULL;
}

void ofr_package_description_done(ofr_package_description *description)
{
    for (size_t i = 0; i < description->n_tensors; i++)
        free((char *)(uintptr_t)description->tensors[i].name);
    free(description->tensors);
    free(description->quantization);
    *description = (ofr_package_description){0};
}
