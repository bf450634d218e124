/* chat: the interactive session. */
#include "supervisor/chat.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "supervisor/chat_commands.h"
#include "supervisor/commands.h"
#include "supervisor/input.h"
#include "supervisor/interrupt.h"
#include "supervisor/state_directory.h"

static const ofr_command_help help = {
    .name = "chat",
    .usage = "supervisor [chat] [options]",
    .text = "An interactive session; /help inside lists its commands. Without a terminal each line "
            "of\nstdin is a message.\n",
};

void ofr_chat_tell(const char *format, ...)
{
    bool dim = isatty(STDERR_FILENO);
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fputs(dim ? "\033[2m" : "", stderr);
    vfprintf(stderr, format, arguments);
    fputs(dim ? "\033[0m\n" : "\n", stderr);
    va_end(arguments);
}

/* A model's text must not drive the terminal: control characters but newline and tab go, those of
 * the C1 set, which are U+0080 to U+009F, too. */
static int stream_text(void *user, const char *text, size_t size, ofr_error *err)
{
    const ofr_chat *chat = user;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        bool control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ||
                       (c == 0xc2 && i + 1 < size && (unsigned char)text[i + 1] < 0xa0);
        i += control && c == 0xc2;
        if (putchar(chat->terminal && control ? '?' : c) == EOF)
            return ofr_fail(err, OFR_EIO, "stdout: cannot write the answer");
    }
    return fflush(stdout) == 0 ? 0 : ofr_fail(err, OFR_EIO, "stdout: cannot write the answer");
}

/* True: drop the oldest turns and go on. */
static bool may_drop(ofr_chat *chat)
{
    if (ofr_conversation_turns(&chat->conversation) < 2)
        return false;
    if (chat->overflow != OFR_CHAT_OVERFLOW_ASK)
        return chat->overflow == OFR_CHAT_OVERFLOW_DROP;
    char *line = NULL;
    size_t size = 0;
    enum ofr_line got = ofr_line_reader_next(
        chat->reader, "Drop the oldest turns and go on? [Y/n] ", false, &line, &size);
    bool yes = got == OFR_LINE_TEXT && (size == 0 || line[0] == 'y' || line[0] == 'Y');
    free(line);
    return yes;
}

/* Room that a prompt should leave for its answer. */
static uint32_t answer_room(uint32_t context)
{
    return context / 8 < 256 ? context / 8 : 256;
}

/* Drops turns until the rendered conversation and `n_extra` tokens leave room; *ids and *count are
 * replaced. The caller has made sure that dropping is wanted. */
static int drop_until_fits(ofr_chat *chat, uint32_t n_extra, int32_t **ids, size_t *count,
                           ofr_error *err)
{
    size_t limit = chat->session.info.context - answer_room(chat->session.info.context);
    size_t dropped = 0;
    while (*count + n_extra > limit && ofr_conversation_drop_oldest(&chat->conversation)) {
        free(*ids);
        *ids = NULL;
        int r =
            ofr_engine_session_render(&chat->session, chat->conversation.messages, ids, count, err);
        if (r < 0)
            return r;
        dropped++;
    }
    if (dropped)
        ofr_chat_tell("[dropped the oldest %zu turn%s]", dropped, dropped == 1 ? "" : "s");
    return 0;
}

/* The conversation as tokens that fit into the context. */
static int make_prompt(ofr_chat *chat, int32_t **ret_ids, size_t *ret_count, ofr_error *err)
{
    uint32_t context = chat->session.info.context;
    int r = ofr_engine_session_render(&chat->session, chat->conversation.messages, ret_ids,
                                      ret_count, err);
    if (r < 0 || *ret_count <= context - answer_room(context))
        return r;
    bool only_turn = ofr_conversation_turns(&chat->conversation) < 2;
    if (!only_turn) {
        ofr_chat_tell("[the conversation has %zu tokens, the context holds %u]", *ret_count,
                      context);
        if (may_drop(chat))
            r = drop_until_fits(chat, 0, ret_ids, ret_count, err);
        else if (*ret_count >= context)
            return ofr_fail(err, OFR_ELIMIT,
                            "the context is full: the conversation has %zu tokens, the context "
                            "holds %u; /reset begins a new one",
                            *ret_count, context);
    }
    if (r == 0 && *ret_count >= context)
        return ofr_fail(err, OFR_ELIMIT,
                        "the message is too long: %zu tokens with its frame, the context holds %u",
                        *ret_count, context);
    return r;
}

/* Runs the generation, and goes on after dropping turns where the context became full. */
static int generate(ofr_chat *chat, ofr_generation *generation, int32_t **ids, size_t *count,
                    ofr_error *err)
{
    for (;;) {
        ofr_line_reader_echo(chat->reader, false);
        int r =
            ofr_generation_run(generation, &chat->session.sequence, *ids, (uint32_t)*count, err);
        ofr_line_reader_echo(chat->reader, true);
        if (r < 0 || generation->finish != OFR_FINISH_CONTEXT)
            return r;
        if (chat->terminal)
            fputc('\n', stdout);
        ofr_chat_tell("[the context of %u tokens is full]", chat->session.info.context);
        if (may_drop(chat)) {
            r = drop_until_fits(chat, generation->n_ids, ids, count, err);
            if (r < 0)
                return r;
            if (*count + generation->n_ids < chat->session.info.context)
                continue;
        }
        ofr_chat_tell("[the answer is cut here]");
        return ofr_generation_flush(generation, err);
    }
}

static void tell_figures(ofr_chat *chat, const ofr_generation *g)
{
    ofr_chat_figures *f = &chat->figures;
    *f = (ofr_chat_figures){
        .answers = f->answers + 1,
        .prompt_tokens = g->prompt_tokens,
        .reused_tokens = g->reused_tokens,
        .prefill_tokens = g->prefill_tokens,
        .generated_tokens = g->n_ids,
        .prefill_rate = ofr_generation_prefill_rate(g),
        .decode_rate = ofr_generation_decode_rate(g),
    };
    ofr_chat_tell("[prefill %u tokens, %.1f tok/s; decode %u tokens, %.1f tok/s%s]",
                  f->prefill_tokens, f->prefill_rate, f->generated_tokens, f->decode_rate,
                  g->finish == OFR_FINISH_CANCELED ? "; stopped"
                  : g->finish == OFR_FINISH_LENGTH ? "; max_tokens reached"
                                                   : "");
}

static int answer(ofr_chat *chat, ofr_error *err)
{
    int32_t *ids = NULL;
    size_t count = 0;
    int r = 0;
    if (!chat->session.client)
        r = ofr_engine_session_connect(&chat->session, &chat->common, err);
    else
        r = ofr_engine_session_replan(&chat->session, &chat->common, err);
    if (r == 0)
        r = make_prompt(chat, &ids, &count, err);
    ofr_generation_options options = {
        .tokenizer = chat->session.tokenizer,
        .sampling = ofr_sampling_from_options(&chat->sampling),
        .max_tokens = chat->sampling.max_tokens,
        .cancel = ofr_interrupt_flag(),
        .on_text = stream_text,
        .user = chat,
    };
    ofr_generation generation = {0};
    if (r == 0)
        r = ofr_generation_init(&generation, &options, chat->session.tokenizer_info.vocab_size,
                                err);
    if (r == 0)
        r = generate(chat, &generation, &ids, &count, err);
    if (generation.n_ids) {
        fputc('\n', stdout);
        fflush(stdout);
    }
    if (r == 0)
        tell_figures(chat, &generation);
    if (r == 0 && generation.text_size)
        r = ofr_conversation_add(&chat->conversation, "assistant", generation.text,
                                 generation.text_size, err);
    else if (r == 0)
        ofr_conversation_remove_last(&chat->conversation); /* nothing was said to it */
    ofr_generation_done(&generation);
    free(ids);
    return r;
}

void ofr_chat_answer(ofr_chat *chat, const char *text, size_t size)
{
    ofr_error err = {0};
    int r = ofr_input_check_utf8("the message", text, size, &err);
    if (r == 0)
        r = ofr_conversation_add(&chat->conversation, "user", text, size, &err);
    if (r == 0) {
        ofr_interrupt_clear();
        ofr_interrupt_catch(false);
        r = answer(chat, &err);
        if (r < 0)
            ofr_conversation_remove_last(&chat->conversation);
        if (!chat->terminal)
            ofr_interrupt_release();
    }
    if (r == 0)
        return;
    ofr_chat_tell("supervisor chat: %s", err.text[0] ? err.text : ofr_status_message(r));
    if (r == OFR_EGONE || r == OFR_EPROTOCOL) {
        chat->session.client = ofr_client_close(chat->session.client);
        ofr_chat_tell("[the next message starts another executive]");
    }
}

static bool parse_overflow(const char *name, enum ofr_chat_overflow *overflow, bool terminal)
{
    *overflow = terminal ? OFR_CHAT_OVERFLOW_ASK : OFR_CHAT_OVERFLOW_DROP;
    if (!name)
        return true;
    if (strcmp(name, "drop") == 0)
        *overflow = OFR_CHAT_OVERFLOW_DROP;
    else if (strcmp(name, "stop") == 0)
        *overflow = OFR_CHAT_OVERFLOW_STOP;
    else
        return strcmp(name, "ask") == 0;
    return true;
}

static bool parse(ofr_chat *chat, const char **system, int argc, char **argv, int *ret_exit)
{
    const char *overflow = NULL;
    const ofr_option table[] = {
        {"system", OFR_OPTION_STRING, system, 0, 0, "TEXT", "system message"},
        OFR_OPTIONS_SAMPLING(chat->sampling, "0.6", "0.9"),
        {"context_overflow", OFR_OPTION_STRING, &overflow, 0, 0, "WHAT",
         "when the context is full: ask, drop the oldest turns, or stop (default: ask on a "
         "terminal, else drop)"},
        OFR_OPTIONS_ENGINE(chat->common),
        OFR_OPTIONS_CONTEXT(chat->common),
        OFR_OPTIONS_HELP(chat->common),
    };
    if (!ofr_command_parse(&help, table, sizeof table / sizeof table[0], argc, argv, &chat->common,
                           ret_exit))
        return false;
    if (parse_overflow(overflow, &chat->overflow, chat->terminal))
        return true;
    *ret_exit =
        ofr_command_usage(help.name, "--context_overflow is ask, drop or stop, not '%s'", overflow);
    return false;
}

static void talk(ofr_chat *chat)
{
    bool go_on = true;
    while (go_on) {
        char *line = NULL;
        size_t size = 0;
        enum ofr_line got =
            ofr_line_reader_next(chat->reader, chat->terminal ? "> " : "", true, &line, &size);
        if (got == OFR_LINE_END)
            break;
        if (got == OFR_LINE_INTERRUPTED) {
            ofr_chat_tell("(Ctrl-C again or Ctrl-D leaves)");
            continue;
        }
        if (line[0] == '/' && line[1] != '/')
            go_on = ofr_chat_command_line(chat, line);
        else if (line[strspn(line, " \t\r\n")])
            ofr_chat_answer(chat, line + (line[0] == '/'), size - (line[0] == '/'));
        free(line);
    }
}

static int start(ofr_chat *chat, const char *system, ofr_error *err)
{
    int r = 0;
    if (system)
        r = ofr_input_check_utf8("the system message", system, strlen(system), err);
    if (r == 0)
        r = ofr_engine_session_open(&chat->session, &chat->common, false, true, err);
    if (r == 0 && !chat->session.chat_template)
        r = ofr_fail(err, OFR_ENOENT,
                     "%s has no chat_template.jinja: the model is no chat model; 'supervisor run "
                     "--raw' continues plain text",
                     ofr_package_directory(chat->session.package));
    if (r == 0)
        r = ofr_conversation_init(&chat->conversation, err);
    if (r == 0 && system)
        r = ofr_conversation_set_system(&chat->conversation, system, err);
    if (r == 0)
        r = ofr_engine_session_connect(&chat->session, &chat->common, err);
    if (r < 0)
        return r;
    char *history_path = NULL;
    ofr_error no_history = {0};
    if (chat->terminal && ofr_state_path("chat_history", &history_path, &no_history) < 0)
        ofr_chat_tell("no history is kept: %s", no_history.text);
    r = ofr_line_reader_new(chat->terminal, history_path, &chat->reader, err);
    free(history_path);
    return r;
}

int ofr_command_chat(int argc, char **argv)
{
    ofr_chat chat = {
        .sampling = {.temperature = 0.6, .top_p = 0.9, .repetition_penalty = 1, .seed = -1},
        .terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO),
    };
    const char *system = NULL;
    int exit_code;
    if (!parse(&chat, &system, argc, argv, &exit_code))
        return exit_code;
    ofr_error err = {0};
    int r = start(&chat, system, &err);
    if (r == 0) {
        if (chat.terminal) {
            ofr_interrupt_catch(false);
            ofr_chat_tell("%s on %s; /help lists the commands",
                          ofr_package_params(chat.session.package)->name, chat.session.info.device);
        }
        talk(&chat);
    }
    ofr_line_reader_free(chat.reader);
    ofr_conversation_done(&chat.conversation);
    ofr_engine_session_done(&chat.session);
    return r < 0 ? ofr_command_fail(help.name, &err) : ofr_command_finish(help.name);
}
