/* run: one prompt, one answer. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "supervisor/commands.h"
#include "supervisor/constraint.h"
#include "supervisor/conversation.h"
#include "supervisor/engine_session.h"
#include "supervisor/generation.h"
#include "supervisor/input.h"
#include "supervisor/interrupt.h"
#include "supervisor/report.h"

static const ofr_command_help help = {
    .name = "run",
    .usage = "supervisor run --prompt TEXT | --prompt_file F [options]",
    .text =
        "Answers one prompt and ends. The answer is streamed to stdout; everything else goes to\n"
        "stderr. Greedy unless --temperature says otherwise. Ctrl-C ends the answer.\n",
};

struct run_options {
    ofr_common_options common;
    ofr_sampling_options sampling;
    const char *prompt, *prompt_file, *system;
    const char *grammar, *json_schema;
    bool raw, ignore_eos;
};

static bool parse(struct run_options *o, int argc, char **argv, int *ret_exit)
{
    const ofr_option table[] = {
        {"prompt", OFR_OPTION_STRING, &o->prompt, 0, 0, "TEXT", "the prompt"},
        {"prompt_file", OFR_OPTION_STRING, &o->prompt_file, 0, 0, "F",
         "the prompt from a file, - for stdin"},
        {"system", OFR_OPTION_STRING, &o->system, 0, 0, "TEXT", "system message"},
        OFR_OPTIONS_SAMPLING(o->sampling, "0", "1: off"),
        {"raw", OFR_OPTION_FLAG, &o->raw, 0, 0, NULL,
         "continue the text as it is: no chat template"},
        {"grammar", OFR_OPTION_STRING, &o->grammar, 0, 0, "F",
         "the answer must match this grammar (GBNF)"},
        {"json_schema", OFR_OPTION_STRING, &o->json_schema, 0, 0, "F",
         "the answer must be JSON that satisfies this schema"},
        {"ignore_eos", OFR_OPTION_FLAG, &o->ignore_eos, 0, 0, NULL,
         "do not stop at the model's end tokens"},
        OFR_OPTIONS_ENGINE(o->common),
        OFR_OPTIONS_CONTEXT(o->common),
        OFR_OPTIONS_JSON(o->common),
        OFR_OPTIONS_HELP(o->common),
    };
    if (!ofr_command_parse(&help, table, sizeof table / sizeof table[0], argc, argv, &o->common,
                           ret_exit))
        return false;
    const char *wrong = NULL;
    if (!o->prompt == !o->prompt_file)
        wrong = "give one of --prompt TEXT and --prompt_file F";
    else if (o->raw && o->system)
        wrong = "--system needs the chat template, which --raw leaves out";
    else if (o->grammar && o->json_schema)
        wrong = "give one of --grammar and --json_schema";
    else if ((o->grammar || o->json_schema) && o->ignore_eos)
        wrong = "--ignore_eos and a grammar exclude each other: a grammar says where to end";
    if (wrong)
        *ret_exit = ofr_command_usage(help.name, "%s", wrong);
    return !wrong;
}

static int stream_text(void *user, const char *text, size_t size, ofr_error *err)
{
    (void)user;
    if (fwrite(text, 1, size, stdout) != size || fflush(stdout) != 0)
        return ofr_fail(err, OFR_EIO, "stdout: cannot write the answer");
    return 0;
}

/* The prompt's text, checked, before anything is opened. */
static int read_prompt(const struct run_options *o, char **ret_text, size_t *ret_size,
                       ofr_error *err)
{
    int r = 0;
    if (o->prompt_file) {
        r = ofr_input_read(o->prompt_file, ret_text, ret_size, err);
    } else {
        *ret_text = strdup(o->prompt);
        *ret_size = strlen(o->prompt);
        if (!*ret_text)
            r = ofr_fail(err, OFR_ENOMEM, "no memory for the prompt");
    }
    if (r == 0)
        r = ofr_input_check_utf8("the prompt", *ret_text, *ret_size, err);
    if (r == 0 && o->system)
        r = ofr_input_check_utf8("the system message", o->system, strlen(o->system), err);
    return r;
}

static int make_ids(const struct run_options *o, const ofr_engine_session *session,
                    const char *text, size_t size, int32_t **ret_ids, size_t *ret_count,
                    ofr_error *err)
{
    if (o->raw)
        return ofr_tokenizer_encode(session->tokenizer, text, size,
                                    OFR_TOKENIZE_ADD_BOS_EOS | OFR_TOKENIZE_PARSE_SPECIAL, ret_ids,
                                    ret_count, err);
    ofr_conversation conversation;
    int r = ofr_conversation_init(&conversation, err);
    if (r == 0 && o->system)
        r = ofr_conversation_set_system(&conversation, o->system, err);
    if (r == 0)
        r = ofr_conversation_add(&conversation, "user", text, size, err);
    if (r == 0)
        r = ofr_engine_session_render(session, conversation.messages, ret_ids, ret_count, err);
    ofr_conversation_done(&conversation);
    return r;
}

static int print_json(const ofr_engine_session *session, const ofr_generation *g, uint64_t begin,
                      const ofr_error *failure)
{
    json_t *ids = json_array();
    for (uint32_t i = 0; i < g->n_ids; i++)
        json_array_append_new(ids, json_integer(g->ids[i]));
    json_t *root = json_object();
    json_object_set_new(root, "text", json_stringn(g->text ? g->text : "", g->text_size));
    json_object_set_new(root, "ids", ids);
    json_object_set_new(root, "prompt_tokens", json_integer(g->prompt_tokens));
    json_object_set_new(root, "generated_tokens", json_integer(g->n_ids));
    json_object_set_new(root, "finish_reason",
                        json_string(failure ? "error" : ofr_finish_name(g->finish)));
    if (failure)
        json_object_set_new(root, "error", json_string(failure->text));
    double model_ms = (double)session->sequence.worker_ns / 1e6;
    double total_ms = (double)(ofr_clock_ns() - begin) / 1e6;
    json_object_set_new(root, "prefill_ms", ofr_report_number((double)g->prefill_ns / 1e6));
    json_object_set_new(root, "decode_ms", ofr_report_number((double)g->decode_ns / 1e6));
    json_object_set_new(root, "prefill_tok_s", ofr_report_rate(ofr_generation_prefill_rate(g)));
    json_object_set_new(root, "decode_tok_s", ofr_report_rate(ofr_generation_decode_rate(g)));
    json_object_set_new(root, "model_ms", ofr_report_number(model_ms));
    json_object_set_new(root, "total_ms", ofr_report_number(total_ms));
    json_object_set_new(root, "seed", json_integer((json_int_t)g->options.sampling.seed));
    json_object_set_new(root, "worker_restarts", json_integer(session->sequence.recoveries));
    ofr_report_add_engine(root, session);
    return ofr_report_print(root);
}

static int generate(const struct run_options *o, ofr_engine_session *session, ofr_matcher *matcher,
                    const int32_t *ids, size_t count, uint64_t begin, ofr_error *err)
{
    ofr_generation_options options = {
        .tokenizer = session->tokenizer,
        .sampling = ofr_sampling_from_options(&o->sampling),
        .max_tokens = o->sampling.max_tokens,
        .ignore_stop = o->ignore_eos,
        .cancel = ofr_interrupt_flag(),
        .matcher = matcher,
        .on_text = o->common.json ? NULL : stream_text,
    };
    if (count > UINT32_MAX / 2)
        return ofr_fail(err, OFR_ELIMIT, "the prompt has %zu tokens", count);
    ofr_generation generation;
    int r = ofr_generation_init(&generation, &options, session->tokenizer_info.vocab_size, err);
    if (r < 0)
        return r;
    r = ofr_generation_run(&generation, &session->sequence, ids, (uint32_t)count, err);
    if (r == 0 && generation.finish == OFR_FINISH_CONTEXT)
        r = ofr_generation_flush(&generation, err);
    if (!o->common.json && generation.text_size &&
        generation.text[generation.text_size - 1] != '\n')
        putchar('\n');
    fflush(stdout);
    if (r == 0 && generation.finish == OFR_FINISH_CONTEXT)
        fprintf(stderr,
                "supervisor run: stopped: the context of %u tokens is full (%u prompt, %u "
                "generated)\n",
                session->info.context, generation.prompt_tokens, generation.n_ids);
    if (r < 0 && generation.n_ids)
        fprintf(stderr, "supervisor run: the answer is cut after %u tokens\n", generation.n_ids);
    if (o->common.json && (r == 0 || generation.n_ids))
        print_json(session, &generation, begin, r < 0 ? err : NULL);
    if (r == 0 && matcher && !ofr_matcher_can_end(matcher))
        fprintf(stderr, "supervisor run: the answer is cut before it matches the whole grammar\n");
    if (r == 0 && generation.finish == OFR_FINISH_CANCELED)
        r = ofr_fail(err, OFR_ECANCELED, "interrupted");
    ofr_generation_done(&generation);
    return r;
}

int ofr_command_run(int argc, char **argv)
{
    uint64_t begin = ofr_clock_ns();
    struct run_options o = {
        .sampling = {.top_p = 1, .repetition_penalty = 1, .seed = -1},
    };
    int exit_code;
    if (!parse(&o, argc, argv, &exit_code))
        return exit_code;
    ofr_error err = {0};
    ofr_engine_session session = {0};
    ofr_constraint_set constraint = {0};
    char *text = NULL;
    int32_t *ids = NULL;
    size_t size = 0, count = 0;
    int r = read_prompt(&o, &text, &size, &err);
    if (r == 0 && o.grammar)
        r = ofr_constraint_load(&constraint, o.grammar, false, &err);
    if (r == 0 && o.json_schema)
        r = ofr_constraint_load(&constraint, o.json_schema, true, &err);
    if (r == 0)
        r = ofr_engine_session_open(&session, &o.common, false, !o.raw, &err);
    if (r == 0)
        r = make_ids(&o, &session, text, size, &ids, &count, &err);
    if (r == 0)
        r = ofr_constraint_match(&constraint, session.tokenizer, &err);
    if (r == 0)
        r = ofr_engine_session_connect(&session, &o.common, &err);
    if (r == 0) {
        ofr_interrupt_catch(true);
        r = generate(&o, &session, constraint.matcher, ids, count, begin, &err);
    }
    free(ids);
    free(text);
    ofr_constraint_done(&constraint);
    ofr_engine_session_done(&session);
    return r < 0 ? ofr_command_fail(help.name, &err) : ofr_command_finish(help.name);
}
