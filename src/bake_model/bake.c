/* The bake from beginning to end: source, tokenizer, tensors, package. */
#include "bake_model/bake.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bake_model/bake_graphs.h"
#include "bake_model/bake_tensor.h"
#include "bake_model/gguf_vocab.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/sha256.h"

enum { MAX_DEFAULT_THREADS = 8 };

const char *ofr_tensor_class_name(enum ofr_tensor_class tensor_class)
{
    static const char *const names[OFR_TENSOR_CLASS_COUNT] = {
        [OFR_TENSOR_CLASS_EMBEDDING] = "embedding",
        [OFR_TENSOR_CLASS_ATTENTION] = "attention",
        [OFR_TENSOR_CLASS_MLP] = "mlp",
        [OFR_TENSOR_CLASS_VECTOR] = "vector",
    };
    return tensor_class < OFR_TENSOR_CLASS_COUNT ? names[tensor_class] : "unknown";
}

static bool is_cancelled(const ofr_bake_options *options)
{
    return options->cancel && *options->cancel;
}

typedef struct source_hash {
    const ofr_bake_options *options;
    ofr_progress progress;
} source_hash;

static int on_source_bytes(void *context, size_t bytes, ofr_error *err)
{
    source_hash *hash = context;
    ofr_progress_add(&hash->progress, bytes);
    if (is_cancelled(hash->options))
        return ofr_fail(err, OFR_ECANCELED, "interrupted; nothing was written");
    return 0;
}

static int hash_source(const ofr_bake_options *options, const ofr_gguf *gguf,
                       char ret_sha256[OFR_SHA256_HEX_SIZE], ofr_error *err)
{
    source_hash hash = {.options = options};
    ofr_progress_begin(&hash.progress, options->progress_fd, "reading the source",
                       ofr_gguf_size(gguf));
    int r = ofr_sha256_file(ofr_gguf_fd(gguf), ofr_gguf_path(gguf), 0, ofr_gguf_size(gguf),
                            on_source_bytes, &hash, ret_sha256, err);
    if (r < 0)
        ofr_progress_abandon(&hash.progress);
    else
        ofr_progress_end(&hash.progress);
    return r;
}

/* ---- what model.json says beside the format's own members ---- */

/* Text of the file as JSON; text that is not UTF-8 is left out. */
static int set_metadata(json_t *object, const char *member, const ofr_gguf *gguf, const char *key)
{
    ofr_gguf_string text;
    if (ofr_gguf_get_string(gguf, key, &text, NULL) <= 0)
        return 0;
    json_t *value = json_stringn(text.data, text.size);
    return value ? json_object_set_new(object, member, value) : 0;
}

static json_t *describe_source(const ofr_gguf *gguf, const char *sha256)
{
    char *base = ofr_path_base(ofr_gguf_path(gguf));
    json_t *source = json_pack("{s:s, s:s*, s:I, s:s}", "format", "gguf", "file", base ? base : "",
                               "size", (json_int_t)ofr_gguf_size(gguf), "sha256", sha256);
    free(base);
    if (!source)
        return NULL;
    int bad = set_metadata(source, "name", gguf, "general.name");
    bad |= set_metadata(source, "license", gguf, "general.license");
    if (bad) {
        json_decref(source);
        return NULL;
    }
    return source;
}

static char *describe(const ofr_bake_options *options, const ofr_gguf *gguf, const char *sha256)
{
    json_t *root = json_object();
    json_t *source = describe_source(gguf, sha256);
    int bad = json_object_set_new(root, "source", source);
    if (!options->tokenizer_only)
        bad |= json_object_set_new(root, "quantization",
                                   json_pack("{s:s, s:s, s:i, s:s}", "weights", "i4", "embedding",
                                             "i8", "group_size", options->group_size, "method",
                                             "symmetric, w2-weighted scale search"));
    char *text = bad ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

/* ---- steps ---- */

static int write_tokenizer(ofr_package_writer *writer, const ofr_gguf *gguf, void *data,
                           size_t size, ofr_error *err)
{
    int r = ofr_package_writer_file(writer, "tokenizer.bin", data, size, err);
    if (r < 0)
        return r;
    ofr_gguf_string text;
    r = ofr_gguf_get_string(gguf, "tokenizer.chat_template", &text, err);
    if (r <= 0)
        return r;
    return ofr_package_writer_file(writer, "chat_template.jinja", text.data, text.size, err);
}

static uint64_t expected_bytes(const ofr_bake_model *model)
{
    uint64_t total = 0;
    for (size_t i = 0; i < model->n_tensors; i++) {
        const ofr_bake_tensor *t = &model->tensors[i];
        uint64_t elements = t->shape[0] * (t->n_dims == 2 ? t->shape[1] : 1);
        total += elements * ofr_dtype_bits(t->dtype) / 8;
        total += t->group_size ? elements / t->group_size * 2 : 0;
        total += 2 * OFR_PACKAGE_PAGE_ALIGN;
    }
    return total;
}

static unsigned thread_count(const ofr_bake_options *options)
{
    if (options->threads > 0)
        return options->threads;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (online < 1)
        return 1;
    return online < MAX_DEFAULT_THREADS ? (unsigned)online : MAX_DEFAULT_THREADS;
}

static int write_tensors(const ofr_bake_options *options, const ofr_gguf *gguf,
                         const ofr_bake_model *model, ofr_package_writer *writer,
                         ofr_bake_result *result, ofr_error *err)
{
    uint64_t total = 0;
    for (size_t i = 0; i < model->n_tensors; i++)
        total += model->tensors[i].source->bytes;
    ofr_progress progress;
    ofr_progress_begin(&progress, options->progress_fd, "quantizing", total);
    ofr_bake_context context = {.options = options,
                                .gguf = gguf,
                                .params = &model->params,
                                .writer = writer,
                                .progress = &progress,
                                .threads = thread_count(options)};
    int r = 0;
    for (size_t i = 0; i < model->n_tensors && r == 0; i++) {
        const ofr_bake_tensor *t = &model->tensors[i];
        result->n_tensors++;
        result->dtype_counts[t->dtype]++;
        if (is_cancelled(options)) {
            r = ofr_fail(err, OFR_ECANCELED, "interrupted; run the same command again to continue");
        } else if (ofr_package_writer_has(writer, t->name)) {
            result->n_resumed++;
            ofr_progress_skip(&progress, t->source->bytes);
        } else {
            r = ofr_bake_tensor_convert(&context, t, &result->quantization_error[t->class], err);
        }
    }
    if (r < 0)
        ofr_progress_abandon(&progress);
    else
        ofr_progress_end(&progress);
    ofr_bake_buffers_done(&context.buffers);
    return r;
}

/* Everything that the finished weights depend on; where it changes, a partial bake is of no use. */
static char *source_identity(const ofr_bake_options *options, const char *sha256)
{
    char *identity = NULL;
    if (asprintf(&identity, "gguf %s group_size %d tokenizer_only %d chunks %s", sha256,
                 options->group_size, (int)options->tokenizer_only,
                 options->chunks ? options->chunks : "") < 0)
        return NULL;
    return identity;
}

static int write_package(const ofr_bake_options *options, const ofr_gguf *gguf,
                         const ofr_bake_model *model, void *tokenizer, size_t tokenizer_size,
                         const char *sha256, ofr_bake_result *result, ofr_error *err)
{
    ofr_package_writer *writer = NULL;
    char *identity = source_identity(options, sha256);
    char *extra = describe(options, gguf, sha256);
    int r = 0;
    if (!identity || !extra)
        r = ofr_fail(err, OFR_ENOMEM, "%s: out of memory", options->output);
    ofr_package_writer_options writer_options = {.output = options->output,
                                                 .source = identity,
                                                 .overwrite = options->overwrite,
                                                 .expected_bytes =
                                                     expected_bytes(model) + tokenizer_size};
    if (r == 0)
        r = ofr_package_writer_open(&writer_options, &writer, err);
    if (r == 0)
        r = write_tokenizer(writer, gguf, tokenizer, tokenizer_size, err);
    if (r == 0)
        r = write_tensors(options, gguf, model, writer, result, err);
    if (r == 0 && !options->tokenizer_only)
        r = ofr_bake_graphs(writer, &model->params, options->chunks, result, err);
    if (r == 0)
        r = ofr_package_writer_finish(writer, options->tokenizer_only ? NULL : &model->params,
                                      extra, err);
    if (r == 0)
        result->weights_bytes = ofr_package_writer_bytes(writer);
    if (r == OFR_EFORMAT) /* the source is bad: running again cannot help */
        ofr_package_writer_discard(writer);
    else
        ofr_package_writer_close(writer);
    free(identity);
    free(extra);
    return r;
}

static int bake_gguf(const ofr_bake_options *options, const ofr_gguf *gguf, ofr_bake_model *model,
                     ofr_bake_result *result, ofr_error *err)
{
    void *tokenizer = NULL;
    size_t tokenizer_size = 0, n_vocab = 0;
    int r = 0;
    if (!options->tokenizer_only)
        r = ofr_gguf_model_init(model, gguf, options->group_size, options->max_context, err);
    if (r == 0)
        r = ofr_gguf_vocab_build(gguf, &tokenizer, &tokenizer_size, &n_vocab, err);
    if (r == 0 && !options->tokenizer_only && n_vocab > model->params.vocab_size)
        r = ofr_fail(err, OFR_EFORMAT, "%s: the vocabulary has %zu tokens, the embedding %u rows",
                     ofr_gguf_path(gguf), n_vocab, model->params.vocab_size);
    result->n_vocab = (uint32_t)n_vocab;
    char sha256[OFR_SHA256_HEX_SIZE];
    if (r == 0)
        r = hash_source(options, gguf, sha256, err);
    if (r == 0)
        r = write_package(options, gguf, model, tokenizer, tokenizer_size, sha256, result, err);
    free(tokenizer);
    return r;
}

int ofr_bake(const ofr_bake_options *options, ofr_bake_result *ret_result, ofr_error *err)
{
    ofr_gguf *gguf = NULL;
    ofr_bake_model model = {0};
    ofr_bake_result result = {0};
    int r = ofr_package_writer_check(options->output, options->overwrite, err);
    if (r == 0)
        r = ofr_gguf_open(options->gguf, &gguf, err);
    if (r == 0)
        r = bake_gguf(options, gguf, &model, &result, err);
    ofr_gguf_model_done(&model);
    ofr_gguf_close(gguf);
    if (r == 0)
        *ret_result = result;
    return r;
}
