/* render: a conversation through a chat template. Needs no executive. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "supervisor/commands.h"
#include "supervisor/engine_session.h"
#include "supervisor/input.h"
#include "supervisor/report.h"

static const ofr_command_help help = {
    .name = "render",
    .usage = "supervisor render --messages F.json [options]",
    .text = "Prints what the chat template makes of a conversation, byte for byte. The messages "
            "are an\narray, or an object with \"messages\", \"tools\" and further variables of the "
            "template.\n",
};

struct render_options {
    ofr_common_options common;
    const char *messages, *template, *tools, *bos, *eos;
    int64_t now;
    bool no_generation_prompt;
};

static bool parse(struct render_options *o, int argc, char **argv, int *ret_exit)
{
    const ofr_option table[] = {
        {"messages", OFR_OPTION_STRING, &o->messages, 0, 0, "F.json", "messages, - for stdin"},
        {"template", OFR_OPTION_STRING, &o->template, 0, 0, "F.jinja",
         "template (default: the package's)"},
        {"tools", OFR_OPTION_STRING, &o->tools, 0, 0, "F.json", "array of tools"},
        {"bos", OFR_OPTION_STRING, &o->bos, 0, 0, "S", "bos_token (default: the package's)"},
        {"eos", OFR_OPTION_STRING, &o->eos, 0, 0, "S", "eos_token (default: the package's)"},
        {"no_generation_prompt", OFR_OPTION_FLAG, &o->no_generation_prompt, 0, 0, NULL,
         "add_generation_prompt is false"},
        {"now", OFR_OPTION_INT, &o->now, 0, 253402300799.0, "SECONDS",
         "time for strftime_now, since 1970 (default: now)"},
        OFR_OPTIONS_MODEL(o->common),
        OFR_OPTIONS_JSON(o->common),
        OFR_OPTIONS_HELP(o->common),
    };
    if (!ofr_command_parse(&help, table, sizeof table / sizeof table[0], argc, argv, &o->common,
                           ret_exit))
        return false;
    if (o->messages)
        return true;
    *ret_exit = ofr_command_usage(help.name, "--messages F.json is missing");
    return false;
}

static int load_json(const char *path, json_t **ret_json, ofr_error *err)
{
    char *text = NULL;
    size_t size = 0;
    int r = ofr_input_read(path, &text, &size, err);
    if (r < 0)
        return r;
    json_error_t e;
    *ret_json = json_loadb(text, size, JSON_ALLOW_NUL, &e);
    free(text);
    if (!*ret_json)
        return ofr_fail(err, OFR_EFORMAT, "%s:%d:%d: %s", path, e.line, e.column, e.text);
    return 0;
}

/* Takes messages, tools and the other variables apart; the references are borrowed from `root`,
 * from which messages and tools are removed into *ret_messages and *ret_tools (new references). */
static int split_input(const char *path, json_t *root, json_t **ret_messages, json_t **ret_tools,
                       ofr_error *err)
{
    *ret_messages = json_incref(json_is_array(root) ? root : json_object_get(root, "messages"));
    if (!json_is_array(*ret_messages))
        return ofr_fail(err, OFR_EFORMAT, "%s: there is no array of messages in it", path);
    json_t *tools = json_object_get(root, "tools");
    if (tools && !json_is_null(tools))
        *ret_tools = json_incref(tools);
    if (json_is_object(root)) {
        json_object_del(root, "messages");
        json_object_del(root, "tools");
    }
    return 0;
}

static int compile(const struct render_options *o, ofr_engine_session *session,
                   ofr_chat_template **ret_template, ofr_error *err)
{
    int r = 0;
    /* With a template of its own the command needs no package, but takes one that is named. */
    if (!o->template || o->common.model)
        r = ofr_engine_session_open(session, &o->common, true, !o->template, err);
    if (r < 0 || !o->template) {
        if (r == 0 && !session->chat_template)
            r = ofr_fail(err, OFR_ENOENT, "%s has no chat_template.jinja; give one with --template",
                         ofr_package_directory(session->package));
        return r;
    }
    char *source = NULL;
    size_t size = 0;
    r = ofr_input_read(o->template, &source, &size, err);
    if (r == 0)
        r = ofr_input_check_utf8(o->template, source, size, err);
    if (r == 0)
        r = ofr_chat_template_compile(o->template, source, size, ret_template, err);
    free(source);
    return r;
}

static int render(const struct render_options *o, json_t *root, json_t *messages,
                  const json_t *tools, ofr_error *err)
{
    ofr_engine_session session = {0};
    ofr_chat_template *own = NULL;
    int r = compile(o, &session, &own, err);
    ofr_chat_input input = {
        .messages = messages,
        .tools = tools,
        .extra = json_is_object(root) ? root : NULL,
        .bos_token = o->bos ? o->bos : session.bos_token,
        .eos_token = o->eos ? o->eos : session.eos_token,
        .add_generation_prompt = !o->no_generation_prompt,
    };
    char *text = NULL;
    size_t size = 0;
    if (r == 0)
        r = ofr_chat_template_render_chat(own ? own : session.chat_template, &input,
                                          o->now >= 0 ? (time_t)o->now : time(NULL), &text, &size,
                                          err);
    if (r == 0 && o->common.json)
        r = ofr_report_print(json_pack("{s:o}", "text", json_stringn(text, size)));
    else if (r == 0)
        fwrite(text, 1, size, stdout);
    free(text);
    ofr_chat_template_free(own);
    ofr_engine_session_done(&session);
    return r;
}

int ofr_command_render(int argc, char **argv)
{
    struct render_options o = {.now = -1};
    int exit_code;
    if (!parse(&o, argc, argv, &exit_code))
        return exit_code;
    ofr_error err = {0};
    json_t *root = NULL, *messages = NULL, *tools = NULL;
    int r = load_json(o.messages, &root, &err);
    if (r == 0)
        r = split_input(o.messages, root, &messages, &tools, &err);
    if (r == 0 && o.tools) {
        json_decref(tools);
        tools = NULL;
        r = load_json(o.tools, &tools, &err);
        if (r == 0 && !json_is_array(tools))
            r = ofr_fail(&err, OFR_EFORMAT, "%s: the tools are no array", o.tools);
    }
    if (r == 0)
        r = render(&o, root, messages, tools, &err);
    json_decref(tools);
    json_decref(messages);
    json_decref(root);
    return r < 0 ? ofr_command_fail(help.name, &err) : ofr_command_finish(help.name);
}
