/* The bake from beginning to end: source, tokenizer, tensors, package. */
#include "bake_model/bake.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bake_model/bake_calibrate.h"
#include "bake_model/bake_genai.h"
#include "bake_model/bake_graphs.h"
#include "bake_model/bake_keep.h"
#include "bake_model/bake_mixed.h"
#include "bake_model/bake_pipeline.h"
#include "bake_model/bake_report.h"
#include "bake_model/bake_tensor.h"
#include "bake_model/gguf_source.h"
#include "bake_model/hf_source.h"
#include "bake_model/hub_source.h"
#include "base/file.h"
#include "base/progress.h"

enum {
    MAX_DEFAULT_THREADS = 8,
    DEFAULT_CONNECTIONS = 4,
    DEFAULT_TIMEOUT_S = 30,
    DEFAULT_RETRIES = 8,
};

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

/* ---- what model.json says beside the format's own members ---- */

static json_t *describe_file(const ofr_source_file *file, const char *sha256)
{
    return json_pack("{s:s, s:I, s:s}", "file", file->name, "size", (json_int_t)file->size,
                     "sha256", sha256);
}

/* Text that is not UTF-8 is left out. */
static int set_text(json_t *object, const char *member, const char *text)
{
    json_t *value = text ? json_string(text) : NULL;
    return value ? json_object_set_new(object, member, value) : 0;
}

/* One file is described by members of "source" itself, several by the list "files". */
static json_t *describe_source(const ofr_bake_source *source, char (*sha256)[OFR_SHA256_HEX_SIZE])
{
    const ofr_source *files = &source->files;
    json_t *root = json_pack("{s:s}", "format", source->format);
    int bad = !root;
    bad |= set_text(root, "repository", source->repository);
    bad |= set_text(root, "revision", source->revision);
    if (files->n_files == 1) {
        bad |= json_object_update_new(root, describe_file(&files->files[0], sha256[0]));
    } else if (files->n_files > 1) {
        json_t *list = json_array();
        for (size_t i = 0; i < files->n_files; i++)
            bad |= json_array_append_new(list, describe_file(&files->files[i], sha256[i]));
        bad |= json_object_set_new(root, "files", list);
    }
    bad |= set_text(root, "name", source->name);
    bad |= set_text(root, "license", source->license);
    if (bad) {
        json_decref(root);
        return NULL;
    }
    return root;
}

static json_t *describe_quantization(const ofr_bake_options *options, const ofr_bake_loss *loss)
{
    const char *weights = options->keep_quantization   ? "as in the source"
                          : options->mixed_percent > 0 ? "i4, sensitive ones i8"
                                                       : "i4";
    bool calibrated = loss->fitted_tokens > 0, kept = options->keep_quantization;
    json_t *root =
        json_pack("{s:s, s:s, s:i, s:s}", "weights", weights, "embedding",
                  kept ? "as in the source" : "i8", "group_size", options->group_size, "method",
                  kept         ? "the source's 4- and 8-bit integers, bit for bit"
                  : calibrated ? "symmetric, GPTQ with activation order, two streams"
                               : "symmetric, w2-weighted scale search");
    if (root && calibrated &&
        (json_object_set_new(root, "calibration_tokens",
                             json_integer((json_int_t)loss->fitted_tokens)) < 0 ||
         json_object_set_new(root, "calibration_text",
                             json_string(options->calibration_text ? "own" : "built-in")) < 0 ||
         json_object_set_new(root, "loss", ofr_bake_loss_json(loss)) < 0)) {
        json_decref(root);
        return NULL;
    }
    return root;
}

static char *describe(const ofr_bake_options *options, const ofr_bake_source *source,
                      char (*sha256)[OFR_SHA256_HEX_SIZE], const ofr_bake_loss *loss)
{
    json_t *root = json_object();
    int bad = json_object_set_new(root, "source", describe_source(source, sha256));
    if (!options->tokenizer_only)
        bad |= json_object_set_new(root, "quantization", describe_quantization(options, loss));
    char *text = bad ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

/* ---- steps ---- */

static int write_tokenizer(ofr_package_writer *writer, const ofr_bake_source *source,
                           ofr_error *err)
{
    int r = ofr_package_writer_file(writer, "tokenizer.bin", source->tokenizer,
                                    source->tokenizer_size, err);
    if (r < 0 || !source->chat_template)
        return r;
    return ofr_package_writer_file(writer, "chat_template.jinja", source->chat_template,
                                   source->chat_template_size, err);
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

static int list_matrices(const ofr_bake_model *model, const ofr_quantize_error *errors,
                         ofr_bake_result *result, ofr_error *err)
{
    result->tensors = calloc(model->n_tensors + 1, sizeof *result->tensors);
    if (!result->tensors)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    for (size_t i = 0; i < model->n_tensors; i++) {
        const ofr_bake_tensor *t = &model->tensors[i];
        if (t->n_dims != 2)
            continue;
        ofr_bake_tensor_result *to = &result->tensors[result->n_matrices++];
        *to = (ofr_bake_tensor_result){.dtype = t->dtype,
                                       .group_size = t->group_size,
                                       .weight_error = errors[i],
                                       .output_error = t->output_error,
                                       .kept = t->keep};
        snprintf(to->name, sizeof to->name, "%s", t->name);
        to->bytes = t->shape[0] * (ofr_bake_row_data_bytes(t) +
                                   ofr_dtype_group_numbers(t->dtype) * ofr_bake_row_scale_bytes(t));
    }
    return 0;
}

void ofr_bake_result_done(ofr_bake_result *result)
{
    free(result->tensors);
    *result = (ofr_bake_result){0};
}

static int write_tensors(const ofr_bake_options *options, const ofr_bake_source *source,
                         ofr_package_writer *writer, char (*sha256)[OFR_SHA256_HEX_SIZE],
                         ofr_bake_result *result, ofr_error *err)
{
    ofr_quantize_error *errors = calloc(source->model.n_tensors + 1, sizeof *errors);
    if (!errors)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", options->output);
    ofr_progress progress;
    ofr_progress_begin(&progress, options->progress_fd,
                       source->files.fetch ? "fetching and quantizing" : "quantizing",
                       ofr_bake_pipeline_bytes(source));
    ofr_bake_pipeline pipeline = {.options = options,
                                  .source = source,
                                  .writer = writer,
                                  .progress = &progress,
                                  .threads = thread_count(options),
                                  .ret_sha256 = sha256,
                                  .tensor_errors = errors,
                                  .result = result};
    int r = ofr_bake_pipeline_run(&pipeline, err);
    if (r < 0)
        ofr_progress_abandon(&progress);
    else
        ofr_progress_end(&progress);
    if (r == 0)
        r = list_matrices(&source->model, errors, result, err);
    free(errors);
    return r;
}

/* The sha256 of the files that no tensor was taken from. */
static int hash_files(const ofr_bake_source *source, char (*sha256)[OFR_SHA256_HEX_SIZE],
                      ofr_error *err)
{
    int r = 0;
    for (size_t i = 0; i < source->files.n_files && r == 0; i++) {
        const ofr_source_file *file = &source->files.files[i];
        if (sha256[i][0])
            continue;
        if (file->fd >= 0)
            r = ofr_sha256_file(file->fd, file->path, 0, file->size, NULL, NULL, sha256[i], err);
        else
            memcpy(sha256[i], file->sha256, sizeof file->sha256);
    }
    return r;
}

/* The text that was calibrated on: "no", "built-in", or the sha256 of a file. */
static int name_calibration(const ofr_bake_options *options, const ofr_bake_loss *loss,
                            char ret_name[OFR_SHA256_HEX_SIZE], ofr_error *err)
{
    if (loss->fitted_tokens == 0 || !options->calibration_text) {
        snprintf(ret_name, OFR_SHA256_HEX_SIZE, "%s", loss->fitted_tokens ? "built-in" : "no");
        return 0;
    }
    int fd = -1;
    uint64_t size = 0;
    int r = ofr_file_open_read(options->calibration_text, &fd, &size, err);
    if (r < 0)
        return r;
    r = ofr_sha256_file(fd, options->calibration_text, 0, size, NULL, NULL, ret_name, err);
    close(fd);
    return r;
}

/* Everything that the finished weights depend on; where it changes, a partial bake is of no use. */
static char *source_identity(const ofr_bake_options *options, const ofr_bake_source *source,
                             const char *calibration)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    if (source->repository)
        fprintf(out, "%s@%s ", source->repository, source->revision);
    fprintf(out, "%s group_size %d tokenizer_only %d allow_nan %d chunks %s %s", source->format,
            options->group_size, (int)options->tokenizer_only, (int)options->allow_nan,
            options->chunks ? options->chunks : "", source->identity ? source->identity : "");
    fprintf(out, " calibrated %s kept %d mixed %g", calibration, (int)options->keep_quantization,
            options->mixed_percent);
    for (size_t i = 0; i < source->files.n_files; i++) {
        const ofr_source_file *file = &source->files.files[i];
        fprintf(out, " file %s %llu %lld %s", file->name, (unsigned long long)file->size,
                (long long)file->mtime, file->sha256);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static int open_writer(const ofr_bake_options *options, const ofr_bake_source *source,
                       const ofr_bake_loss *loss, ofr_package_writer **ret_writer, ofr_error *err)
{
    const ofr_bake_model *model = &source->model;
    char calibration[OFR_SHA256_HEX_SIZE];
    int r = name_calibration(options, loss, calibration, err);
    if (r < 0)
        return r;
    char *identity = source_identity(options, source, calibration);
    ofr_tensor *plan = calloc(model->n_tensors + 1, sizeof *plan);
    uint64_t expected = source->tokenizer_size;
    if (!identity || !plan)
        r = ofr_fail(err, OFR_ENOMEM, "%s: out of memory", options->output);
    for (size_t i = 0; i < model->n_tensors && r == 0; i++) {
        const ofr_bake_tensor *t = &model->tensors[i];
        ofr_bake_tensor_spec(t, &plan[i]);
        uint64_t rows = t->n_dims == 2 ? t->shape[0] : 1;
        expected += rows * (ofr_bake_row_data_bytes(t) +
                            ofr_dtype_group_numbers(t->dtype) * ofr_bake_row_scale_bytes(t)) +
                    2 * OFR_PACKAGE_PAGE_ALIGN;
    }
    ofr_package_writer_options writer_options = {
        .output = options->output,
        .source = identity,
        .overwrite = options->overwrite,
        .expected_bytes = expected,
        .tensors = options->tokenizer_only ? NULL : plan,
        .n_tensors = model->n_tensors,
    };
    if (r == 0)
        r = ofr_package_writer_open(&writer_options, ret_writer, err);
    free(plan);
    free(identity);
    return r;
}

static int write_package(const ofr_bake_options *options, const ofr_bake_source *source,
                         ofr_bake_result *result, ofr_error *err)
{
    ofr_package_writer *writer = NULL;
    char *extra = NULL;
    char(*sha256)[OFR_SHA256_HEX_SIZE] = calloc(source->files.n_files + 1, sizeof *sha256);
    int r = sha256 ? open_writer(options, source, &result->loss, &writer, err)
                   : ofr_fail(err, OFR_ENOMEM, "%s: out of memory", options->output);
    if (r == 0)
        r = write_tokenizer(writer, source, err);
    if (r == 0 && !options->tokenizer_only)
        r = write_tensors(options, source, writer, sha256, result, err);
    if (r == 0)
        r = hash_files(source, sha256, err);
    if (r == 0 && !(extra = describe(options, source, sha256, &result->loss)))
        r = ofr_fail(err, OFR_ENOMEM, "%s: out of memory", options->output);
    if (r == 0 && !options->tokenizer_only)
        r = ofr_bake_graphs(writer, &source->model.params, options->chunks, result, err);
    if (r == 0 && result->n_graphs > 0)
        r = ofr_bake_genai(writer, source, result, err);
    if (r == 0)
        r = ofr_package_writer_finish(
            writer, options->tokenizer_only ? NULL : &source->model.params, extra, err);
    if (r == 0)
        result->weights_bytes = ofr_package_writer_bytes(writer);
    if (r == OFR_EFORMAT || r == OFR_ECORRUPT) /* the source is bad: what is there is worthless */
        ofr_package_writer_discard(writer);
    else
        ofr_package_writer_close(writer);
    free(sha256);
    free(extra);
    return r;
}

static int calibrate(const ofr_bake_options *options, ofr_bake_source *source,
                     ofr_bake_result *result, ofr_error *err)
{
    bool wanted = false;
    const char *why = NULL;
    int r = ofr_bake_wants_calibration(options, &source->model, &wanted, &why, err);
    if (r == 0 && !wanted && options->mixed_percent > 0)
        ofr_bake_mix(&source->model, options->mixed_percent);
    if (why)
        snprintf(result->not_calibrated, sizeof result->not_calibrated, "%s", why);
    if (r < 0 || !wanted)
        return r;
    ofr_bake_calibration calibration = {
        .options = options, .source = source, .threads = thread_count(options)};
    return ofr_bake_calibrate(&calibration, &result->loss, err);
}

static int open_hub(const ofr_bake_options *options, ofr_hub **ret_hub, ofr_error *err)
{
    ofr_hub_options hub = {
        .model_id = options->model_id,
        .revision = options->revision,
        .connections = options->connections ? options->connections : DEFAULT_CONNECTIONS,
        .timeout_s = options->network_timeout_s ? options->network_timeout_s : DEFAULT_TIMEOUT_S,
        .retries = options->network_retries ? options->network_retries : DEFAULT_RETRIES,
        .cancel = options->cancel,
        .progress_fd = options->progress_fd,
    };
    return ofr_hub_open(&hub, ret_hub, err);
}

static int add_local(void *context, const char *name, ofr_source *source, uint32_t *ret_file,
                     ofr_error *err)
{
    (void)context;
    return ofr_source_add_local(source, name, ret_file, err);
}

/* *ret_hub, where there is one, must stay open while the source is used. */
static int load_source(const ofr_bake_options *options, ofr_hub **ret_hub, ofr_bake_source *source,
                       ofr_error *err)
{
    if (options->model_id) {
        int result = open_hub(options, ret_hub, err);
        return result < 0 ? result : ofr_hub_source_load(options, *ret_hub, source, err);
    }
    if (options->model_dir)
        return ofr_hf_source_load(options, source, err);
    return ofr_gguf_source_load(options, options->gguf, add_local, NULL, source, err);
}

static const char *source_name(const ofr_bake_options *options)
{
    const char *name = options->model_dir ? options->model_dir : options->gguf;
    return options->model_id ? options->model_id : name;
}

int ofr_bake(const ofr_bake_options *options, ofr_bake_result *ret_result, ofr_error *err)
{
    ofr_bake_source source = {0};
    ofr_bake_result result = {0};
    ofr_hub *hub = NULL;
    int r = ofr_package_writer_check(options->output, options->overwrite, err);
    if (r == 0)
        r = load_source(options, &hub, &source, err);
    if (r == 0 && !options->tokenizer_only && source.n_vocab > source.model.params.vocab_size)
        r = ofr_fail(err, OFR_EFORMAT, "%s: the vocabulary has %zu tokens, the embedding %u rows",
                     source_name(options), source.n_vocab, source.model.params.vocab_size);
    result.n_vocab = (uint32_t)source.n_vocab;
    if (r == 0 && options->keep_quantization)
        ofr_bake_keep_quantization(&source.model);
    if (r == 0 && !options->tokenizer_only)
        r = calibrate(options, &source, &result, err);
    if (r == 0)
        r = write_package(options, &source, &result, err);
    ofr_bake_source_done(&source);
    ofr_hub_close(hub);
    if (r == 0)
        *ret_result = result;
    else
        ofr_bake_result_done(&result);
    return r;
}
