/* The choice of the command, and the program's own help. */
#include "supervisor/commands.h"

#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "supervisor/options_common.h"

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"chat", ofr_command_chat, "interactive session (also without a command)"},
    {"run", ofr_command_run, "answer one prompt"},
    {"serve", ofr_command_serve, "serve the model over HTTP, with a page to chat"},
    {"bench", ofr_command_bench, "measure prefill and decode on this machine"},
    {"tokenize", ofr_command_tokenize, "text to token ids, and back"},
    {"render", ofr_command_render, "render a conversation through a chat template"},
    {"score", ofr_command_score, "perplexity of a text"},
    {"plan", ofr_command_plan, "which device does what, and why"},
};

static int print_help(void)
{
    printf("usage: supervisor [COMMAND] [options]\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        printf("  %-9s %s\n", commands[i].name, commands[i].summary);
    printf("\n'supervisor COMMAND --help' lists the options of a command. All work on the package\n"
           "in " OFR_DEFAULT_MODEL " unless --model DIR names another.\n");
    return ofr_command_finish("--help");
}

/* Text is UTF-8 whatever the locale says; line editing needs to know. */
static void set_locale(void)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
}

int ofr_supervisor_main(int argc, char **argv)
{
    set_locale();
    if (argc < 2)
        return ofr_command_chat(1, (char *[]){"chat", NULL});
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
        return print_help();
    if (strcmp(argv[1], "--version") == 0) {
        printf("supervisor %s\n", OFR_VERSION);
        return ofr_command_finish("--version");
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    if (argv[1][0] == '-') {
        argv[0] = "chat";
        return ofr_command_chat(argc, argv);
    }
    fprintf(stderr, "supervisor: unknown command '%s'; 'supervisor --help' lists the commands\n",
            argv[1]);
    return OFR_EXIT_USAGE;
}
