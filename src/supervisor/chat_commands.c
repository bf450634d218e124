/* The commands of the chat. */
#include "supervisor/chat_commands.h"

#include <stdio.h>
#include <string.h>

static bool do_help(ofr_chat *chat, const char *argument);

static bool do_reset(ofr_chat *chat, const char *argument)
{
    (void)argument;
    ofr_conversation_reset(&chat->conversation);
    ofr_chat_tell("a new conversation");
    return true;
}

static bool do_save(ofr_chat *chat, const char *argument)
{
    ofr_error err = {0};
    const char *model = ofr_package_params(chat->session.package)->name;
    if (ofr_conversation_save(&chat->conversation, argument, model, &err) < 0)
        ofr_chat_tell("not saved: %s", err.text);
    else
        ofr_chat_tell("saved %zu messages to %s", json_array_size(chat->conversation.messages),
                      argument);
    return true;
}

static bool do_load(ofr_chat *chat, const char *argument)
{
    ofr_error err = {0};
    if (ofr_conversation_load(&chat->conversation, argument, &err) < 0)
        ofr_chat_tell("not loaded: %s", err.text);
    else
        ofr_chat_tell("loaded %zu messages from %s", json_array_size(chat->conversation.messages),
                      argument);
    return true;
}

static bool do_stats(ofr_chat *chat, const char *argument)
{
    (void)argument;
    const ofr_chat_figures *f = &chat->figures;
    const ofr_client_info *info = &chat->session.info;
    ofr_chat_tell("model      %s", ofr_package_params(chat->session.package)->name);
    ofr_chat_tell("device     %s, plan %s", info->device, info->plan);
    ofr_chat_tell("executive  pid %ld, instance %s%s", (long)info->executive_pid, info->instance,
                  chat->session.client ? "" : " (gone)");
    ofr_chat_tell("turns      %zu", ofr_conversation_turns(&chat->conversation));
    ofr_chat_tell("context    %u of %u tokens", f->prompt_tokens + f->generated_tokens,
                  info->context);
    if (f->answers) {
        ofr_chat_tell("prefill    %u tokens (%u more were kept from before), %.1f tok/s",
                      f->prefill_tokens, f->reused_tokens, f->prefill_rate);
        ofr_chat_tell("decode     %u tokens, %.1f tok/s", f->generated_tokens, f->decode_rate);
    }
    return true;
}

static bool do_system(ofr_chat *chat, const char *argument)
{
    ofr_error err = {0};
    if (ofr_conversation_set_system(&chat->conversation, argument, &err) < 0)
        ofr_chat_tell("%s", err.text);
    else
        ofr_chat_tell(*argument ? "the system message is set" : "the system message is removed");
    return true;
}

static bool do_quit(ofr_chat *chat, const char *argument)
{
    (void)chat;
    (void)argument;
    return false;
}

static const struct chat_command {
    const char *name;
    const char *argument; /* NULL: takes none */
    bool required;
    bool (*run)(ofr_chat *chat, const char *argument);
    const char *summary;
} chat_commands[] = {
    {"/help", NULL, false, do_help, "this list"},
    {"/reset", NULL, false, do_reset, "forget the conversation, keep the system message"},
    {"/save", "FILE", true, do_save, "write the conversation to a file"},
    {"/load", "FILE", true, do_load, "go on with the conversation of a file"},
    {"/stats", NULL, false, do_stats, "device, context, speed of the last answer"},
    {"/system", "TEXT", false, do_system, "set the system message; without TEXT, remove it"},
    {"/quit", NULL, false, do_quit, "leave (also Ctrl-D)"},
};
enum { N_CHAT_COMMANDS = sizeof chat_commands / sizeof chat_commands[0] };

static bool do_help(ofr_chat *chat, const char *argument)
{
    (void)argument;
    for (size_t i = 0; i < N_CHAT_COMMANDS; i++)
        ofr_chat_tell("%-8s %-5s %s", chat_commands[i].name,
                      chat_commands[i].argument ? chat_commands[i].argument : "",
                      chat_commands[i].summary);
    ofr_chat_tell("A line that begins with // is a message with one slash.");
    if (chat->terminal)
        ofr_chat_tell("Ctrl-C stops an answer, or clears the line; twice on an empty line leaves.");
    return true;
}

bool ofr_chat_command_line(ofr_chat *chat, const char *line)
{
    size_t size = strcspn(line, " \t\n");
    const char *argument = line + size + strspn(line + size, " \t\n");
    char rest[4096];
    if (snprintf(rest, sizeof rest, "%s", argument) >= (int)sizeof rest) {
        ofr_chat_tell("the argument of %.*s is longer than %zu bytes", (int)size, line,
                      sizeof rest - 1);
        return true;
    }
    for (size_t n = strlen(rest); n && strchr(" \t\n\r", rest[n - 1]); n--)
        rest[n - 1] = '\0';
    for (size_t i = 0; i < N_CHAT_COMMANDS; i++) {
        const struct chat_command *command = &chat_commands[i];
        if (strlen(command->name) != size || strncmp(command->name, line, size) != 0)
            continue;
        if (command->required && !*rest)
            ofr_chat_tell("%s needs a %s", command->name, command->argument);
        else if (!command->argument && *rest)
            ofr_chat_tell("%s takes no argument", command->name);
        else
            return command->run(chat, rest);
        return true;
    }
    ofr_chat_tell("unknown command %.*s; /help lists them", (int)size, line);
    return true;
}
