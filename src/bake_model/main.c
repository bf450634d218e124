/* bake_model: the command line. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <math.h>

#include "bake_model/bake_report.h"
#include "bake_model/check_package.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/options.h"
#include "graph/ladder.h"

static volatile sig_atomic_t cancelled;

static void on_signal(int number)
{
    (void)number;
    cancelled = 1;
}

typedef struct command_line {
    const char *check_package; /* --check: verify this package, bake nothing */
    const char *gguf, *model_id, *model_dir, *revision, *keep_source, *output;
    int64_t connections, network_timeout, network_retries;
    const char *chunks;
    int64_t group_size, max_context;
    const char *mixed;     /* NULL, "" or a number */
    const char *report;    /* NULL, "" or the SVG to write */
    const char *calibrate; /* NULL: not asked for; "": the built-in text */
    bool data_free, keep_quantization;
    bool tokenizer_only, overwrite, allow_nan, json, help, version;
} command_line;

static void print_json(const command_line *line, const ofr_bake_result *result, double seconds,
                       uint64_t peak_rss)
{
    json_t *dtypes = json_object(), *errors = json_object();
    for (int i = 0; i <= OFR_DTYPE_I4M; i++)
        json_object_set_new(dtypes, ofr_dtype_name((enum ofr_dtype)i),
                            json_integer(result->dtype_counts[i]));
    for (int i = 0; i < OFR_TENSOR_CLASS_VECTOR; i++) {
        const ofr_quantize_error *e = &result->quantization_error[i];
        if (e->energy > 0)
            json_object_set_new(errors, ofr_tensor_class_name((enum ofr_tensor_class)i),
                                json_real(sqrt(e->error / e->energy)));
    }
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:o, s:o}", "path", line->output, "bytes",
        (json_int_t)result->weights_bytes, "tensors", (json_int_t)result->n_tensors,
        "tensors_resumed", (json_int_t)result->n_resumed, "vocab", (json_int_t)result->n_vocab,
        "graphs", (json_int_t)result->n_graphs, "seconds", seconds, "peak_rss_bytes",
        (json_int_t)peak_rss, "dtypes", dtypes, "relative_error", errors);
    if (root && result->loss.fitted_tokens > 0)
        json_object_set_new(root, "loss", ofr_bake_loss_json(&result->loss));
    if (root && line->report)
        json_object_set_new(root, "matrices", ofr_bake_tensors_json(result));
    if (root)
        json_dumpf(root, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    json_decref(root);
    putchar('\n');
}

static void print_summary(const command_line *line, const ofr_bake_result *result, double seconds)
{
    if (line->tokenizer_only)
        printf("%s: tokenizer of %u tokens, %.1f s\n", line->output, result->n_vocab, seconds);
    else
        printf("%s: %u tensors, %.1f MiB of weights, tokenizer of %u tokens, %.1f s\n",
               line->output, result->n_tensors, (double)result->weights_bytes / 1048576.0,
               result->n_vocab, seconds);
}

/* --report: the table, unless JSON has it, and the plot where a file is named. */
static int print_report(const command_line *line, const ofr_bake_result *result, ofr_error *err)
{
    if (!line->json)
        ofr_bake_report_print(result, stdout);
    if (!line->report[0])
        return 0;
    char *svg = NULL;
    size_t size = 0;
    int r = ofr_bake_report_svg(result, line->output, &svg, &size, err);
    if (r == 0)
        r = ofr_file_replace(line->report, svg, size, 0644, err);
    free(svg);
    return r;
}

/* Percent of --mixed: 10 where none is given; below 0: not a number in range. */
static double mixed_percent(const char *text)
{
    char *end = NULL;
    if (!text)
        return 0;
    double percent = text[0] ? strtod(text, &end) : 10;
    return (text[0] && (end == text || *end)) || !(percent > 0 && percent <= 100) ? -1 : percent;
}

static int usage_error(const char *text)
{
    fprintf(stderr, "bake_model: %s\n", text);
    fprintf(stderr, "Try 'bake_model --help'.\n");
    return OFR_EXIT_USAGE;
}

/* Exit code, once everything is printed. */
static int end_output(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    fprintf(stderr, "bake_model: standard output cannot be written\n");
    return OFR_EXIT_FAILURE;
}

static int check_package(const command_line *line)
{
    ofr_check_result result = {0};
    ofr_error err = {0};
    if (ofr_check_package(line->check_package, &result, &err) < 0) {
        fprintf(stderr, "bake_model: %s\n", err.text);
        return OFR_EXIT_FAILURE;
    }
    ofr_check_print(&result, line->check_package, line->json, stdout);
    bool good = result.n_errors == 0;
    ofr_check_result_done(&result);
    return end_output(good ? OFR_EXIT_OK : OFR_EXIT_FAILURE);
}

static const char *check(const command_line *line)
{
    if (line->check_package)
        return line->model_id || line->model_dir || line->gguf
                   ? "--check verifies a package that is there; it takes no model to bake"
                   : NULL;
    if (line->model_id ? line->model_dir != NULL : !line->gguf == !line->model_dir)
        return "one of --model_id ORG/NAME, --model_dir DIR and --gguf FILE is needed: the model "
               "to "
               "bake";
    if (!line->model_id && (line->revision || line->keep_source))
        return "--revision and --keep_source go with --model_id";
    if (line->group_size != 128 && line->group_size != 64 && line->group_size != 32 &&
        line->group_size != -1)
        return "--group_size takes 128, 64, 32 or -1 (one group per row)";
    if (mixed_percent(line->mixed) < 0)
        return "--mixed takes how many percent the weights may grow, above 0 up to 100";
    if (line->mixed && line->keep_quantization)
        return "--mixed and --keep_quantization exclude each other";
    if (line->data_free && line->calibrate)
        return "--calibrate and --data_free exclude each other";
    if (line->keep_quantization && line->calibrate)
        return "--calibrate and --keep_quantization exclude each other: what is kept as it is "
               "cannot be fitted";
    ofr_ladder chunks;
    if (line->chunks && ofr_ladder_parse_chunks(line->chunks, UINT32_MAX, &chunks, NULL) < 0)
        return "--chunks takes ascending lengths from 2 to 8192, as in 64,256,1024";
    return NULL;
}

static int run(const command_line *line)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is then an error of write */
    ofr_bake_options options = {.gguf = line->gguf,
                                .model_dir = line->model_dir,
                                .model_id = line->model_id,
                                .revision = line->revision,
                                .keep_source = line->keep_source,
                                .connections = (unsigned)line->connections,
                                .network_timeout_s = (unsigned)line->network_timeout,
                                .network_retries = (unsigned)line->network_retries,
                                .allow_nan = line->allow_nan,
                                .output = line->output,
                                .group_size = (int)line->group_size,
                                .max_context = (uint32_t)line->max_context,
                                .chunks = line->chunks,
                                .tokenizer_only = line->tokenizer_only,
                                .overwrite = line->overwrite,
                                .calibrate = line->calibrate,
                                .calibration_text =
                                    line->calibrate && line->calibrate[0] ? line->calibrate : NULL,
                                .data_free = line->data_free,
                                .keep_quantization = line->keep_quantization,
                                .mixed_percent = mixed_percent(line->mixed),
                                .progress_fd = STDERR_FILENO,
                                .cancel = &cancelled};
    ofr_bake_result result;
    ofr_error err = {0};
    uint64_t begin = ofr_clock_ns();
    if (ofr_bake(&options, &result, &err) < 0) {
        fprintf(stderr, "bake_model: %s\n", err.text);
        return OFR_EXIT_FAILURE;
    }
    if (result.graphs_left_out[0])
        fprintf(stderr,
                "bake_model: no static graphs, so no NPU and no other device of OpenVINO: %s%s\n",
                result.graphs_left_out,
                line->keep_quantization ? "; without --keep_quantization they are written" : "");
    if (result.tokenizer_left_out[0])
        fprintf(stderr, "bake_model: no tokenizer for OpenVINO GenAI, which takes ids only: %s\n",
                result.tokenizer_left_out);
    if (result.not_calibrated[0])
        fprintf(stderr, "bake_model: not calibrated: calibration does not know models with %s\n",
                result.not_calibrated);
    double seconds = (double)(ofr_clock_ns() - begin) * 1e-9;
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    if (line->json)
        print_json(line, &result, seconds, (uint64_t)usage.ru_maxrss * 1024);
    else
        print_summary(line, &result, seconds);
    int reported = line->report ? print_report(line, &result, &err) : 0;
    ofr_bake_result_done(&result);
    if (reported < 0) {
        fprintf(stderr, "bake_model: the package is complete, the report is not: %s\n", err.text);
        return OFR_EXIT_FAILURE;
    }
    return end_output(OFR_EXIT_OK);
}

int main(int argc, char **argv)
{
    command_line line = {.output = "./offering_int4_binary", .group_size = 128};
    const ofr_option table[] = {
        {"model_id", OFR_OPTION_STRING, &line.model_id, 0, 0, "ORG/NAME",
         "model to bake, from the hub (HF_ENDPOINT, HF_TOKEN)"},
        {"revision", OFR_OPTION_STRING, &line.revision, 0, 0, "R",
         "branch, tag or commit of --model_id (default main)"},
        {"keep_source", OFR_OPTION_STRING, &line.keep_source, 0, 0, "DIR",
         "keep the files of --model_id there (default: they are never stored)"},
        {"model_dir", OFR_OPTION_STRING, &line.model_dir, 0, 0, "DIR",
         "model to bake, a directory with config.json and safetensors"},
        {"gguf", OFR_OPTION_STRING, &line.gguf, 0, 0, "FILE",
         "model to bake, a GGUF file; with --model_id, one in the repository"},
        {"output", OFR_OPTION_STRING, &line.output, 0, 0, "DIR",
         "package to write (default ./offering_int4_binary)"},
        {"group_size", OFR_OPTION_INT, &line.group_size, -1, 128, "N",
         "INT4 group: 128 (default), 64, 32, or -1: one per row"},
        {"calibrate", OFR_OPTION_OPTIONAL, &line.calibrate, 0, 0, "[TEXT]",
         "fit the weights to what a text makes of their inputs: a file, or the built-in text "
         "(default for models of up to 1.3 billion weights)"},
        {"data_free", OFR_OPTION_FLAG, &line.data_free, 0, 0, NULL,
         "no calibration, whatever the model's size"},
        {"keep_quantization", OFR_OPTION_FLAG, &line.keep_quantization, 0, 0, NULL,
         "take Q4_0, Q4_1 and Q8_0 tensors of a GGUF bit for bit; an NPU cannot use Q4_1"},
        {"mixed", OFR_OPTION_OPTIONAL, &line.mixed, 0, 0, "[PERCENT]",
         "keep the most sensitive matrices at INT8, as long as the weights grow by at most this "
         "much (default 10)"},
        {"report", OFR_OPTION_OPTIONAL, &line.report, 0, 0, "[SVG]",
         "print error and size of each matrix; plot them to a file"},
        {"max_context", OFR_OPTION_INT, &line.max_context, 1, 1 << 30, "N",
         "longest context, if shorter than the model's own"},
        {"chunks", OFR_OPTION_STRING, &line.chunks, 0, 0, "LIST",
         "prompt lengths of the static graphs (default " OFR_LADDER_DEFAULT_CHUNKS ")"},
        {"tokenizer_only", OFR_OPTION_FLAG, &line.tokenizer_only, 0, 0, NULL,
         "write the tokenizer and the chat template, no weights"},
        {"overwrite", OFR_OPTION_FLAG, &line.overwrite, 0, 0, NULL,
         "replace the package that is there"},
        {"allow_nan", OFR_OPTION_FLAG, &line.allow_nan, 0, 0, NULL,
         "bake weights that are not finite: NaN as 0, infinity as 65504"},
        {"connections", OFR_OPTION_INT, &line.connections, 1, 16, "N",
         "connections to the hub at once (default 4)"},
        {"network_timeout", OFR_OPTION_INT, &line.network_timeout, 1, 3600, "SECONDS",
         "without a byte from the network until a new try (default 30)"},
        {"network_retries", OFR_OPTION_INT, &line.network_retries, 1, 1000, "N",
         "tries without progress before giving up (default 8)"},
        {"check", OFR_OPTION_STRING, &line.check_package, 0, 0, "DIR",
         "verify a package and its graphs instead: checksums, and what an NPU takes"},
        {"json", OFR_OPTION_FLAG, &line.json, 0, 0, NULL, "print the result as JSON"},
        {"help", OFR_OPTION_FLAG, &line.help, 0, 0, NULL, "print this text"},
        {"version", OFR_OPTION_FLAG, &line.version, 0, 0, NULL, "print the version"},
    };
    size_t count = sizeof table / sizeof table[0];
    int positional = 0;
    ofr_error err = {0};
    if (ofr_options_parse(table, count, argc, argv, &positional, &err) < 0)
        return usage_error(err.text);
    if (line.help) {
        printf("Usage: bake_model --model_id ORG/NAME | --model_dir DIR | --gguf FILE [options]\n"
               "       bake_model --check DIR\n\n"
               "Quantizes a model to INT4 and writes the package that the other programs use.\n"
               "A bake that was interrupted continues when it is run again.\n\n");
        ofr_options_print(table, count, stdout);
        return OFR_EXIT_OK;
    }
    if (line.version) {
        printf("bake_model %s\n", OFR_VERSION);
        return OFR_EXIT_OK;
    }
    if (positional > 0)
        return usage_error("takes no arguments besides options");
    const char *problem = check(&line);
    if (problem)
        return usage_error(problem);
    return line.check_package ? check_package(&line) : run(&line);
}
