/* bench: prefill and decode on this machine, beside the memory bandwidth of the same run. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "supervisor/bandwidth.h"
#include "supervisor/commands.h"
#include "supervisor/engine_session.h"
#include "supervisor/input.h"
#include "supervisor/interrupt.h"
#include "supervisor/measure.h"
#include "supervisor/report.h"
#include "supervisor/state_directory.h"

static const ofr_command_help help = {
    .name = "bench",
    .usage = "supervisor bench [--prompt_tokens 512] [--gen_tokens 128] [--depth N] [--repeat 5]",
    .text =
        "Measures prefill and decode apart. Each sample forwards random tokens, or with "
        "--text_file\n"
        "a piece of that text from a random place, after an empty past; a first sample warms up "
        "and\n"
        "is dropped. With --depth the sequence holds N tokens before the measured prompt. A "
        "prompt\n"
        "or decode of 0 tokens is left out. The read bandwidth of memory is measured in the same "
        "run.\n",
};

struct bench_options {
    ofr_common_options common;
    int64_t prompt_tokens, gen_tokens, depth, repeat;
    const char *text_file; /* NULL: random tokens */
    bool no_bandwidth;
};

struct bench_figures {
    double prefill, decode; /* tokens per second; 0: left out */
    double first_token_ms;  /* from the prompt's ids to the likeliest first token's */
};

struct bench_samples {
    double *prefill, *decode, *first_token; /* [repeat] */
    size_t count;
};

static bool parse(struct bench_options *o, int argc, char **argv, int *ret_exit)
{
    const ofr_option table[] = {
        {"prompt_tokens", OFR_OPTION_INT, &o->prompt_tokens, 0, 1 << 24, "N",
         "tokens of a prefill (default 512)"},
        {"gen_tokens", OFR_OPTION_INT, &o->gen_tokens, 0, 1 << 24, "N",
         "decode steps (default 128)"},
        {"depth", OFR_OPTION_INT, &o->depth, 0, 1 << 24, "N",
         "tokens before the prompt, not measured (default 0)"},
        {"repeat", OFR_OPTION_INT, &o->repeat, 1, 1000, "N", "samples (default 5)"},
        {"text_file", OFR_OPTION_STRING, &o->text_file, 0, 0, "F",
         "text to measure on (default: random tokens)"},
        {"no_bandwidth", OFR_OPTION_FLAG, &o->no_bandwidth, 0, 0, NULL,
         "leave the read bandwidth out"},
        OFR_OPTIONS_ENGINE(o->common),
        OFR_OPTIONS_CONTEXT(o->common),
        OFR_OPTIONS_JSON(o->common),
        OFR_OPTIONS_HELP(o->common),
    };
    if (!ofr_command_parse(&help, table, sizeof table / sizeof table[0], argc, argv, &o->common,
                           ret_exit))
        return false;
    if (o->prompt_tokens || o->gen_tokens)
        return true;
    *ret_exit = ofr_command_usage(help.name, "--prompt_tokens and --gen_tokens are both 0");
    return false;
}

static int32_t likeliest(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

static int measure_prefill(const struct bench_options *o, ofr_engine_session *session,
                           ofr_measure_source *source, struct bench_figures *figures,
                           ofr_error *err)
{
    const float *logits;
    uint64_t forward_ns = 0;
    int r = ofr_measure_prefill(&session->sequence, source, o->prompt_tokens, &forward_ns, &logits,
                                err);
    if (r < 0)
        return r;
    uint64_t begin = ofr_clock_ns();
    volatile int32_t first = likeliest(logits, session->info.vocab_size);
    (void)first;
    figures->prefill = (double)o->prompt_tokens * 1e9 / (double)forward_ns;
    figures->first_token_ms = (double)(forward_ns + ofr_clock_ns() - begin) / 1e6;
    return 0;
}

static int sample(const struct bench_options *o, ofr_engine_session *session,
                  ofr_measure_source *source, struct bench_figures *ret_figures, ofr_error *err)
{
    ofr_sequence *sequence = &session->sequence;
    struct bench_figures figures = {0};
    uint64_t decode_ns = 0;
    int r = 0;
    ofr_measure_restart(sequence, source);
    if (o->depth)
        r = ofr_measure_prefill(sequence, source, o->depth, NULL, NULL, err);
    if (r == 0 && o->prompt_tokens)
        r = measure_prefill(o, session, source, &figures, err);
    if (r == 0 && o->gen_tokens)
        r = ofr_measure_decode(sequence, source, o->gen_tokens, &decode_ns, err);
    if (r < 0)
        return r;
    if (decode_ns)
        figures.decode = (double)o->gen_tokens * 1e9 / (double)decode_ns;
    *ret_figures = figures;
    return 0;
}

/* Bytes that decoding one token reads: every weight but the rows of an untied embedding that are
 * not the token's, and K and V of the tokens before, at the middle of the decode. */
static double bytes_per_token(const struct bench_options *o, const ofr_package *package)
{
    const ofr_model_params *params = ofr_package_params(package);
    double bytes = 0;
    for (size_t i = 0; i < ofr_package_tensor_count(package); i++) {
        const ofr_tensor *tensor = ofr_package_tensor(package, i);
        double size = (double)(tensor->bytes + tensor->scale_bytes);
        if (!params->tied_embedding && strcmp(tensor->name, "model.embed_tokens.weight") == 0)
            size /= (double)params->vocab_size;
        bytes += size;
    }
    double past = (double)o->depth + (double)o->prompt_tokens + (double)o->gen_tokens / 2;
    double row = 2.0 * 2.0 * (double)params->n_kv_heads * (double)params->head_dim;
    return bytes + past * row * (double)params->n_layers;
}

/* Threads of the worker: what the executive reports, or else the number in the device's name
 * ("..., 2 threads"), or else all processors. */
static uint32_t worker_threads(const ofr_engine_session *session, const json_t *status)
{
    json_int_t threads = json_integer_value(json_object_get(status, "threads"));
    const char *word = strstr(session->info.device, " threads");
    if (threads <= 0 && word) {
        const char *at = word;
        while (at > session->info.device && at[-1] >= '0' && at[-1] <= '9')
            at--;
        threads = strtol(at, NULL, 10);
    }
    if (threads <= 0)
        threads = sysconf(_SC_NPROCESSORS_ONLN);
    return threads > 0 && threads <= 1024 ? (uint32_t)threads : 1;
}

/* What 'plan --why' shows later. That it cannot be kept is no failure of the measurement. */
static void remember(const ofr_engine_session *session, const json_t *root)
{
    char name[64];
    char *path = NULL;
    snprintf(name, sizeof name, "bench_%.16s.json", ofr_package_fingerprint(session->package));
    char *text = json_dumps(root, JSON_INDENT(2));
    if (text && ofr_state_path(name, &path, NULL) == 0)
        ofr_file_replace(path, text, strlen(text), 0600, NULL);
    free(path);
    free(text);
}

/* null for a phase that was left out */
static json_t *summary(int64_t tokens, double *values, const struct bench_samples *samples)
{
    return tokens ? ofr_report_summary(values, samples->count) : json_null();
}

static json_t *make_report(const struct bench_options *o, const ofr_engine_session *session,
                           const json_t *status, struct bench_samples *samples,
                           const ofr_bandwidth *bandwidth)
{
    json_t *root = json_object();
    double per_token = bytes_per_token(o, session->package);
    char date[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    json_object_set_new(root, "prefill_tok_s",
                        summary(o->prompt_tokens, samples->prefill, samples));
    json_object_set_new(root, "decode_tok_s", summary(o->gen_tokens, samples->decode, samples));
    json_object_set_new(root, "first_token_ms",
                        summary(o->prompt_tokens, samples->first_token, samples));
    json_object_set_new(root, "text", json_string(o->text_file ? o->text_file : "random tokens"));
    json_object_set_new(root, "prompt_tokens", json_integer(o->prompt_tokens));
    json_object_set_new(root, "gen_tokens", json_integer(o->gen_tokens));
    json_object_set_new(root, "depth", json_integer(o->depth));
    json_object_set_new(root, "repeat", json_integer(o->repeat));
    json_object_set_new(root, "threads", json_integer(worker_threads(session, status)));
    json_object_set(root, "resident_bytes", json_object_get(status, "resident_bytes"));
    json_object_set(root, "handoff_bytes_copied", json_object_get(status, "handoff_bytes_copied"));
    json_object_set_new(root, "bytes_per_token", json_integer((json_int_t)per_token));
    if (bandwidth->threads) {
        double median =
            json_real_value(json_object_get(json_object_get(root, "decode_tok_s"), "median"));
        json_object_set_new(root, "bandwidth_gb_s",
                            ofr_report_number(bandwidth->bytes_per_second / 1e9));
        json_object_set_new(root, "bandwidth_threads", json_integer(bandwidth->threads));
        json_object_set_new(root, "bandwidth_buffer_bytes",
                            json_integer((json_int_t)bandwidth->buffer_bytes));
        json_object_set_new(root, "bandwidth_share",
                            ofr_report_rate(per_token * median / bandwidth->bytes_per_second));
    }
    json_object_set_new(root, "date", json_string(date));
    ofr_report_add_engine(root, session);
    return root;
}

static double number_of(const json_t *root, const char *name, const char *member)
{
    const json_t *value = json_object_get(root, name);
    return json_number_value(member ? json_object_get(value, member) : value);
}

static void print_text(const json_t *root)
{
    static const char *const rates[] = {"prefill_tok_s", "decode_tok_s", "first_token_ms"};
    for (int i = 0; i < 3; i++)
        if (json_is_object(json_object_get(root, rates[i])))
            printf("%-14s %8.1f  (%.1f - %.1f)\n", rates[i], number_of(root, rates[i], "median"),
                   number_of(root, rates[i], "min"), number_of(root, rates[i], "max"));
    if (json_object_get(root, "bandwidth_gb_s"))
        printf("%-14s %8.1f\n", "bandwidth_gb_s", number_of(root, "bandwidth_gb_s", NULL));
    if (number_of(root, "bandwidth_share", NULL) > 0)
        printf("%-14s %8.2f  (%.1f MB a token)\n", "bandwidth_share",
               number_of(root, "bandwidth_share", NULL),
               number_of(root, "bytes_per_token", NULL) / 1e6);
    printf("%-14s %s\n", "device", json_string_value(json_object_get(root, "device")));
    printf("%-14s %s\n", "plan", json_string_value(json_object_get(root, "plan")));
}

/* Takes the samples, and says each on stderr. */
static int take_samples(const struct bench_options *o, ofr_engine_session *session,
                        ofr_measure_source *source, struct bench_samples *samples, ofr_error *err)
{
    struct bench_figures figures;
    int r = sample(o, session, source, &figures, err);
    for (size_t i = 0; r == 0 && i < (size_t)o->repeat; i++) {
        r = sample(o, session, source, &figures, err);
        if (r < 0)
            break;
        samples->prefill[i] = figures.prefill;
        samples->decode[i] = figures.decode;
        samples->first_token[i] = figures.first_token_ms;
        samples->count++;
        fprintf(stderr, "supervisor bench: sample %zu of %zu: prefill %.1f, decode %.1f tok/s\n",
                i + 1, (size_t)o->repeat, figures.prefill, figures.decode);
    }
    return r;
}

static int measure(const struct bench_options *o, ofr_engine_session *session,
                   ofr_measure_source *source, ofr_error *err)
{
    int64_t total = o->depth + o->prompt_tokens + o->gen_tokens;
    if (total > session->info.context)
        return ofr_fail(err, OFR_ELIMIT,
                        "depth, prompt and generated tokens are %lld together; the context holds "
                        "%u",
                        (long long)total, session->info.context);
    size_t repeat = (size_t)o->repeat;
    double *figures = calloc(3 * repeat, sizeof *figures);
    if (!figures)
        return ofr_fail(err, OFR_ENOMEM, "no memory for %zu samples", repeat);
    struct bench_samples samples = {
        .prefill = figures, .decode = figures + repeat, .first_token = figures + 2 * repeat};
    ofr_bandwidth bandwidth = {0};
    json_t *status = NULL, *root = NULL;
    int r = take_samples(o, session, source, &samples, err);
    if (r == 0)
        r = ofr_engine_session_status(session, &status, err);
    if (r == 0 && !o->no_bandwidth)
        r = ofr_bandwidth_measure(worker_threads(session, status), &bandwidth, err);
    if (r == 0) {
        root = make_report(o, session, status, &samples, &bandwidth);
        if (o->prompt_tokens && o->gen_tokens)
            remember(session, root);
        if (o->common.json)
            r = ofr_report_print(json_incref(root));
        else
            print_text(root);
    }
    json_decref(root);
    json_decref(status);
    free(figures);
    return r;
}

static int open_source(const struct bench_options *o, const ofr_engine_session *session,
                       ofr_measure_source *source, ofr_error *err)
{
    char *text = NULL;
    size_t size = 0;
    ofr_measure_source_init(source, session->tokenizer);
    if (!o->text_file)
        return 0;
    int r = ofr_input_read(o->text_file, &text, &size, err);
    if (r == 0)
        r = ofr_input_check_utf8(o->text_file, text, size, err);
    if (r == 0)
        r = ofr_tokenizer_encode(session->tokenizer, text, size, 0, &source->ids, &source->count,
                                 err);
    if (r == 0 && source->count < (size_t)(o->depth + o->prompt_tokens + o->gen_tokens))
        r = ofr_fail(err, OFR_EINVAL, "%s holds %zu tokens; a sample takes %lld", o->text_file,
                     source->count, (long long)(o->depth + o->prompt_tokens + o->gen_tokens));
    free(text);
    return r;
}

int ofr_command_bench(int argc, char **argv)
{
    struct bench_options o = {.prompt_tokens = 512, .gen_tokens = 128, .repeat = 5};
    int exit_code;
    if (!parse(&o, argc, argv, &exit_code))
        return exit_code;
    ofr_error err = {0};
    ofr_engine_session session = {0};
    ofr_measure_source source = {0};
    int r = ofr_engine_session_open(&session, &o.common, false, false, &err);
    if (r == 0)
        r = open_source(&o, &session, &source, &err);
    if (r == 0)
        r = ofr_engine_session_connect(&session, &o.common, &err);
    if (r == 0) {
        ofr_interrupt_catch(true);
        r = measure(&o, &session, &source, &err);
    }
    free(source.ids);
    ofr_engine_session_done(&session);
    return r < 0 ? ofr_command_fail(help.name, &err) : ofr_command_finish(help.name);
}
