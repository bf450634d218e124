/* bench: prefill and decode on this machine, beside the memory bandwidth of the same run. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "supervisor/bandwidth.h"
#include "supervisor/commands.h"
#include "supervisor/engine_session.h"
#include "supervisor/interrupt.h"
#include "supervisor/report.h"
#include "supervisor/state_directory.h"

static const ofr_command_help help = {
    .name = "bench",
    .usage = "supervisor bench [--prompt_tokens 512] [--gen_tokens 128] [--depth N] [--repeat 5]",
    .text =
        "Measures prefill and decode apart. Each sample forwards random tokens that no sample saw\n"
        "before; a first sample warms up and is dropped. With --depth the sequence holds N tokens\n"
        "before the measured prompt. The read bandwidth of memory is measured in the same run.\n",
};

struct bench_options {
    ofr_common_options common;
    int64_t prompt_tokens, gen_tokens, depth, repeat;
};

struct bench_samples {
    double *prefill, *decode; /* tokens per second, [repeat] */
    size_t count;
};

static bool parse(struct bench_options *o, int argc, char **argv, int *ret_exit)
{
    const ofr_option table[] = {
        {"prompt_tokens", OFR_OPTION_INT, &o->prompt_tokens, 1, 1 << 24, "N",
         "tokens of a prefill (default 512)"},
        {"gen_tokens", OFR_OPTION_INT, &o->gen_tokens, 1, 1 << 24, "N",
         "decode steps (default 128)"},
        {"depth", OFR_OPTION_INT, &o->depth, 0, 1 << 24, "N",
         "tokens before the prompt, not measured (default 0)"},
        {"repeat", OFR_OPTION_INT, &o->repeat, 1, 1000, "N", "samples (default 5)"},
        OFR_OPTIONS_ENGINE(o->common),
        OFR_OPTIONS_CONTEXT(o->common),
        OFR_OPTIONS_JSON(o->common),
        OFR_OPTIONS_HELP(o->common),
    };
    return ofr_command_parse(&help, table, sizeof table / sizeof table[0], argc, argv, &o->common,
                             ret_exit);
}

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int32_t random_token(const ofr_tokenizer *tokenizer, int32_t vocab_size, uint64_t *state)
{
    int32_t token = 0;
    for (int attempt = 0; attempt < 64; attempt++) {
        token = (int32_t)(next_random(state) % (uint64_t)vocab_size);
        if (!ofr_tokenizer_is_control(tokenizer, token))
            break;
    }
    return token;
}

static int forward(ofr_sequence *sequence, ofr_error *err)
{
    const float *logits;
    return ofr_sequence_forward(sequence, ofr_interrupt_flag(), &logits, err);
}

static int append_random(ofr_engine_session *session, int64_t n, uint64_t *state, ofr_error *err)
{
    int r = 0;
    for (int64_t i = 0; r == 0 && i < n; i++)
        r = ofr_sequence_append(
            &session->sequence,
            random_token(session->tokenizer, session->tokenizer_info.vocab_size, state), err);
    return r;
}

static int sample(const struct bench_options *o, ofr_engine_session *session, uint64_t *state,
                  double *ret_prefill, double *ret_decode, ofr_error *err)
{
    ofr_sequence *sequence = &session->sequence;
    uint32_t recoveries = sequence->recoveries;
    ofr_sequence_invalidate(sequence);
    sequence->n_tokens = 0;
    int r = append_random(session, o->depth, state, err);
    if (r == 0 && o->depth)
        r = forward(sequence, err);
    if (r == 0)
        r = append_random(session, o->prompt_tokens, state, err);
    uint64_t begin = ofr_clock_ns();
    if (r == 0)
        r = forward(sequence, err);
    uint64_t prefilled = ofr_clock_ns();
    for (int64_t i = 0; r == 0 && i < o->gen_tokens; i++) {
        r = append_random(session, 1, state, err);
        if (r == 0)
            r = forward(sequence, err);
    }
    if (r < 0)
        return r;
    if (sequence->recoveries != recoveries)
        return ofr_fail(err, OFR_EDEVICE, "a worker was lost during the measurement; repeat it");
    *ret_prefill = (double)o->prompt_tokens * 1e9 / (double)(prefilled - begin);
    *ret_decode = (double)o->gen_tokens * 1e9 / (double)(ofr_clock_ns() - prefilled);
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

static json_t *make_report(const struct bench_options *o, const ofr_engine_session *session,
                           const json_t *status, struct bench_samples *samples,
                           const ofr_bandwidth *bandwidth)
{
    json_t *root = json_object(), *decode = ofr_report_summary(samples->decode, samples->count);
    double per_token = bytes_per_token(o, session->package);
    double median = json_real_value(json_object_get(decode, "median"));
    char date[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    json_object_set_new(root, "prefill_tok_s",
                        ofr_report_summary(samples->prefill, samples->count));
    json_object_set_new(root, "decode_tok_s", decode);
    json_object_set_new(root, "prompt_tokens", json_integer(o->prompt_tokens));
    json_object_set_new(root, "gen_tokens", json_integer(o->gen_tokens));
    json_object_set_new(root, "depth", json_integer(o->depth));
    json_object_set_new(root, "repeat", json_integer(o->repeat));
    json_object_set(root, "resident_bytes", json_object_get(status, "resident_bytes"));
    json_object_set(root, "handoff_bytes_copied", json_object_get(status, "handoff_bytes_copied"));
    json_object_set_new(root, "bandwidth_gb_s",
                        ofr_report_number(bandwidth->bytes_per_second / 1e9));
    json_object_set_new(root, "bandwidth_threads", json_integer(bandwidth->threads));
    json_object_set_new(root, "bandwidth_buffer_bytes",
                        json_integer((json_int_t)bandwidth->buffer_bytes));
    json_object_set_new(root, "bytes_per_token", json_integer((json_int_t)per_token));
    json_object_set_new(root, "bandwidth_share",
                        ofr_report_number(per_token * median / bandwidth->bytes_per_second));
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
    static const char *const rates[] = {"prefill_tok_s", "decode_tok_s"};
    for (int i = 0; i < 2; i++)
        printf("%-14s %8.1f  (%.1f - %.1f)\n", rates[i], number_of(root, rates[i], "median"),
               number_of(root, rates[i], "min"), number_of(root, rates[i], "max"));
    printf("%-14s %8.1f  (decode reaches %.0f %% of it, %.1f MB a token)\n", "bandwidth_gb_s",
           number_of(root, "bandwidth_gb_s", NULL), number_of(root, "bandwidth_share", NULL) * 100,
           number_of(root, "bytes_per_token", NULL) / 1e6);
    printf("%-14s %s\n", "device", json_string_value(json_object_get(root, "device")));
    printf("%-14s %s\n", "plan", json_string_value(json_object_get(root, "plan")));
}

static int measure(const struct bench_options *o, ofr_engine_session *session, ofr_error *err)
{
    int64_t total = o->depth + o->prompt_tokens + o->gen_tokens;
    if (total > session->info.context)
        return ofr_fail(err, OFR_ELIMIT,
                        "depth, prompt and generated tokens are %lld together; the context holds "
                        "%u",
                        (long long)total, session->info.context);
    size_t repeat = (size_t)o->repeat;
    double *figures = calloc(2 * repeat, sizeof *figures);
    if (!figures)
        return ofr_fail(err, OFR_ENOMEM, "no memory for %zu samples", repeat);
    struct bench_samples samples = {.prefill = figures, .decode = figures + repeat};
    uint64_t state = ofr_clock_ns();
    if (getrandom(&state, sizeof state, 0) < 0)
        state = ofr_clock_ns();
    ofr_bandwidth bandwidth = {0};
    json_t *status = NULL, *root = NULL;
    double dropped[2];
    int r = sample(o, session, &state, &dropped[0], &dropped[1], err);
    for (size_t i = 0; r == 0 && i < repeat; i++) {
        r = sample(o, session, &state, &samples.prefill[i], &samples.decode[i], err);
        samples.count += r == 0;
        if (r == 0)
            fprintf(stderr,
                    "supervisor bench: sample %zu of %zu: prefill %.1f, decode %.1f tok/s\n", i + 1,
                    repeat, samples.prefill[i], samples.decode[i]);
    }
    if (r == 0)
        r = ofr_engine_session_status(session, &status, err);
    if (r == 0)
        r = ofr_bandwidth_measure(worker_threads(session, status), &bandwidth, err);
    if (r == 0) {
        root = make_report(o, session, status, &samples, &bandwidth);
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

int ofr_command_bench(int argc, char **argv)
{
    struct bench_options o = {.prompt_tokens = 512, .gen_tokens = 128, .repeat = 5};
    int exit_code;
    if (!parse(&o, argc, argv, &exit_code))
        return exit_code;
    ofr_error err = {0};
    ofr_engine_session session = {0};
    int r = ofr_engine_session_open(&session, &o.common, false, false, &err);
    if (r == 0)
        r = ofr_engine_session_connect(&session, &o.common, &err);
    if (r == 0) {
        ofr_interrupt_catch(true);
        r = measure(&o, &session, &err);
    }
    ofr_engine_session_done(&session);
    return r < 0 ? ofr_command_fail(help.name, &err) : ofr_command_finish(help.name);
}
