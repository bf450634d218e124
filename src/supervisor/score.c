/* score: the perplexity of a text. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "supervisor/commands.h"
#include "supervisor/engine_session.h"
#include "supervisor/input.h"
#include "supervisor/interrupt.h"
#include "supervisor/report.h"

static const ofr_command_help help = {
    .name = "score",
    .usage = "supervisor score --file TEXT [--context 512] [options]",
    .text = "Perplexity of a text. The text is tokenized as plain text (no BOS, no control tokens) "
            "and\n"
            "cut into windows of --context tokens, one after the other, each with an empty past. "
            "Every\n"
            "token of a window but its first is scored. nll is the sum of -ln p over the scored\n"
            "tokens, perplexity = exp(nll / tokens).\n",
};

struct score_options {
    ofr_common_options common;
    const char *file;
    int64_t window;
};

struct score_sums {
    uint64_t tokens;
    double nll;
};

/* One window, in chunks: `targets` follows each token; the last has none. */
static int score_window(ofr_engine_session *session, const int32_t *ids, const int32_t *targets,
                        uint32_t n, struct score_sums *sums, ofr_error *err)
{
    uint32_t chunk =
        session->info.chunk_preferred ? session->info.chunk_preferred : session->info.chunk_max;
    for (uint32_t at = 0; at < n; at += chunk) {
        uint32_t size = n - at < chunk ? n - at : chunk;
        ofr_segment segment = {.slot = 0, .position = at, .n_tokens = size};
        ofr_client_job job = {
            .segments = &segment,
            .n_segments = 1,
            .tokens = ids + at,
            .targets = targets + at,
            .output = OFR_FORWARD_OUTPUT_LOGPROBS,
            .prompt_tokens = n,
        };
        ofr_client_result result = {0};
        if (*ofr_interrupt_flag())
            return ofr_fail(err, OFR_ECANCELED, "interrupted");
        int r = ofr_client_run(session->client, &job, &result, err);
        if (r < 0)
            return r;
        for (uint32_t i = 0; i < size; i++) {
            if (targets[at + i] < 0)
                continue;
            sums->nll -= (double)result.logprobs[i];
            sums->tokens++;
        }
    }
    return 0;
}

/* A window whose worker died is scored again from its start. */
static int score_window_again(ofr_engine_session *session, const int32_t *ids,
                              const int32_t *targets, uint32_t n, struct score_sums *sums,
                              ofr_error *err)
{
    for (int attempt = 0;; attempt++) {
        struct score_sums before = *sums;
        int r = score_window(session, ids, targets, n, sums, err);
        if (r != OFR_EDEVICE || attempt == OFR_SEQUENCE_MAX_RECOVERIES)
            return r;
        *sums = before;
        ofr_command_notify(NULL, err->text);
        r = ofr_client_wait_ready(session->client, OFR_SEQUENCE_READY_TIMEOUT_MS, err);
        if (r < 0)
            return r;
    }
}

static int score(const struct score_options *o, ofr_engine_session *session, const int32_t *ids,
                 size_t count, struct score_sums *sums, ofr_error *err)
{
    size_t window = (size_t)o->window;
    if (window > session->info.context)
        return ofr_fail(err, OFR_ELIMIT,
                        "--context %zu is more than the %u tokens that the executive holds", window,
                        session->info.context);
    if (count < 2)
        return ofr_fail(err, OFR_EINVAL, "%s: %zu tokens; a score needs at least 2", o->file,
                        count);
    int32_t *targets = malloc(window * sizeof *targets);
    if (!targets)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a window of %zu tokens", window);
    int r = 0;
    for (size_t at = 0; r == 0 && at + 1 < count; at += window) {
        size_t n = count - at < window ? count - at : window;
        for (size_t i = 0; i < n; i++)
            targets[i] = i + 1 < n ? ids[at + i + 1] : -1;
        r = score_window_again(session, ids + at, targets, (uint32_t)n, sums, err);
    }
    free(targets);
    return r;
}

static int print(const struct score_options *o, const ofr_engine_session *session,
                 const struct score_sums *sums, double seconds)
{
    double perplexity = exp(sums->nll / (double)sums->tokens);
    if (!o->common.json) {
        printf("perplexity %.4f over %llu tokens (nll %.3f, windows of %lld)\n", perplexity,
               (unsigned long long)sums->tokens, sums->nll, (long long)o->window);
        return 0;
    }
    json_t *root = json_object();
    json_object_set_new(root, "tokens", json_integer((json_int_t)sums->tokens));
    json_object_set_new(root, "nll", json_real(sums->nll));
    json_object_set_new(root, "perplexity",
                        isfinite(perplexity) ? json_real(perplexity) : json_null());
    json_object_set_new(root, "window", json_integer(o->window));
    json_object_set_new(root, "tok_s", ofr_report_rate((double)sums->tokens / seconds));
    ofr_report_add_engine(root, session);
    return ofr_report_print(root);
}

static bool parse(struct score_options *o, int argc, char **argv, int *ret_exit)
{
    const ofr_option table[] = {
        {"file", OFR_OPTION_STRING, &o->file, 0, 0, "TEXT", "text file, - for stdin"},
        {"context", OFR_OPTION_INT, &o->window, 2, 1 << 24, "N", "tokens a window (default 512)"},
        OFR_OPTIONS_ENGINE(o->common),
        OFR_OPTIONS_JSON(o->common),
        OFR_OPTIONS_HELP(o->common),
    };
    if (!ofr_command_parse(&help, table, sizeof table / sizeof table[0], argc, argv, &o->common,
                           ret_exit))
        return false;
    if (o->file)
        return true;
    *ret_exit = ofr_command_usage(help.name, "--file TEXT is missing");
    return false;
}

int ofr_command_score(int argc, char **argv)
{
    struct score_options o = {.window = 512};
    int exit_code;
    if (!parse(&o, argc, argv, &exit_code))
        return exit_code;
    ofr_error err = {0};
    ofr_engine_session session = {0};
    struct score_sums sums = {0};
    char *text = NULL;
    int32_t *ids = NULL;
    size_t size = 0, count = 0;
    uint64_t begin = 0;
    int r = ofr_input_read(o.file, &text, &size, &err);
    if (r == 0)
        r = ofr_input_check_utf8(o.file, text, size, &err);
    if (r == 0)
        r = ofr_engine_session_open(&session, &o.common, false, false, &err);
    if (r == 0)
        r = ofr_tokenizer_encode(session.tokenizer, text, size, 0, &ids, &count, &err);
    if (r == 0)
        r = ofr_engine_session_connect(&session, &o.common, &err);
    if (r == 0) {
        ofr_interrupt_catch(true);
        begin = ofr_clock_ns();
        r = score(&o, &session, ids, count, &sums, &err);
    }
    if (r == 0)
        r = print(&o, &session, &sums, (double)(ofr_clock_ns() - begin) / 1e9);
    free(ids);
    free(text);
    ofr_engine_session_done(&session);
    return r < 0 ? ofr_command_fail(help.name, &err) : ofr_command_finish(help.name);
}
