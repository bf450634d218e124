/* Lines that a person types (libedit), or that come from a pipe. */
#include "supervisor/line_reader.h"

#include <histedit.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

enum { HISTORY_ENTRIES = 1000, PASTE_MAX = 1 << 20 };

static const char paste_on[] = "\033[?2004h", paste_off[] = "\033[?2004l";

struct ofr_line_reader {
    EditLine *edit; /* NULL: plain lines */
    History *history;
    char *history_path;
    const char *prompt;
    bool interrupted;     /* by the line being read */
    bool was_interrupted; /* the line before was, and empty */
};

static char *get_prompt(EditLine *edit)
{
    ofr_line_reader *reader = NULL;
    el_get(edit, EL_CLIENTDATA, &reader);
    return (char *)(uintptr_t)reader->prompt; /* libedit only reads it */
}

/* Ctrl-C arrives as a character: the editor's terminal mode makes no signal of it. */
static unsigned char on_interrupt(EditLine *edit, int character)
{
    (void)character;
    ofr_line_reader *reader = NULL;
    el_get(edit, EL_CLIENTDATA, &reader);
    reader->interrupted = true;
    return CC_NEWLINE;
}

/* Ctrl-Z likewise: stops the program as the shell expects, and draws the line again. */
static unsigned char on_suspend(EditLine *edit, int character)
{
    (void)character;
    el_set(edit, EL_PREP_TERM, 0);
    raise(SIGTSTP);
    el_set(edit, EL_PREP_TERM, 1);
    return CC_REDISPLAY;
}

/* After "ESC [ 200 ~": everything up to "ESC [ 201 ~" is text, newlines included. */
static unsigned char on_paste(EditLine *edit, int character)
{
    (void)character;
    static const wchar_t end[] = L"\033[201~";
    const size_t end_size = sizeof end / sizeof end[0] - 1;
    size_t size = 0, room = 1024;
    wchar_t *text = malloc(room * sizeof *text);
    wchar_t c;
    while (text && size < PASTE_MAX && el_wgetc(edit, &c) == 1) {
        text[size++] = c == L'\r' ? L'\n' : c == L'\0' ? L' ' : c;
        if (size >= end_size && wmemcmp(text + size - end_size, end, end_size) == 0) {
            size -= end_size;
            break;
        }
        if (size + 1 == room) {
            wchar_t *grown = realloc(text, (room *= 2) * sizeof *text);
            if (!grown)
                free(text);
            text = grown;
        }
    }
    if (!text)
        return CC_ERROR;
    /* The newline that ends a copied line is not the order to send it. */
    while (size && text[size - 1] == L'\n')
        size--;
    text[size] = L'\0';
    if (size)
        el_winsertstr(edit, text);
    free(text);
    return CC_REFRESH;
}

static int open_editor(ofr_line_reader *reader, ofr_error *err)
{
    HistEvent event;
    reader->edit = el_init("supervisor", stdin, stdout, stderr);
    reader->history = history_init();
    if (!reader->edit || !reader->history)
        return ofr_fail(err, OFR_ENOMEM, "cannot set up line editing on this terminal (TERM=%s)",
                        getenv("TERM") ? getenv("TERM") : "");
    history(reader->history, &event, H_SETSIZE, HISTORY_ENTRIES);
    history(reader->history, &event, H_SETUNIQUE, 1);
    if (reader->history_path)
        history(reader->history, &event, H_LOAD, reader->history_path);
    el_set(reader->edit, EL_CLIENTDATA, reader);
    el_set(reader->edit, EL_PROMPT, get_prompt);
    el_set(reader->edit, EL_EDITOR, "emacs");
    el_set(reader->edit, EL_HIST, history, reader->history);
    /* The wide form: el_set would copy the names and never free them. */
    el_wset(reader->edit, EL_ADDFN, L"interrupt", L"Drop the line", on_interrupt);
    el_wset(reader->edit, EL_ADDFN, L"paste", L"Insert a paste", on_paste);
    el_wset(reader->edit, EL_ADDFN, L"suspend", L"Stop the program", on_suspend);
    el_set(reader->edit, EL_SETTY, "-d", "-isig", NULL);
    el_set(reader->edit, EL_BIND, "^C", "interrupt", NULL);
    el_set(reader->edit, EL_BIND, "^Z", "suspend", NULL);
    el_set(reader->edit, EL_BIND, "\\e[200~", "paste", NULL);
    el_set(reader->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    return 0;
}

int ofr_line_reader_new(bool terminal, const char *history_path, ofr_line_reader **ret_reader,
                        ofr_error *err)
{
    ofr_line_reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return ofr_fail(err, OFR_ENOMEM, "no memory to read lines");
    int r = 0;
    if (terminal && history_path) {
        reader->history_path = strdup(history_path);
        if (!reader->history_path)
            r = ofr_fail(err, OFR_ENOMEM, "no memory to read lines");
    }
    if (r == 0 && terminal)
        r = open_editor(reader, err);
    if (r < 0)
        ofr_line_reader_free(reader);
    else
        *ret_reader = reader;
    return r;
}

ofr_line_reader *ofr_line_reader_free(ofr_line_reader *reader)
{
    if (!reader)
        return NULL;
    if (reader->edit)
        el_end(reader->edit);
    if (reader->history)
        history_end(reader->history);
    free(reader->history_path);
    free(reader);
    return NULL;
}

static enum ofr_line next_plain(char **ret_line, size_t *ret_size)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n = getline(&line, &room, stdin);
    if (n < 0) {
        free(line);
        return OFR_LINE_END;
    }
    if (n > 0 && line[n - 1] == '\n')
        line[--n] = '\0';
    *ret_line = line;
    *ret_size = (size_t)n;
    return OFR_LINE_TEXT;
}

static void keep(ofr_line_reader *reader, const char *line)
{
    HistEvent event;
    if (line[strspn(line, " \t\n")] == '\0')
        return;
    history(reader->history, &event, H_ENTER, line);
    if (reader->history_path)
        history(reader->history, &event, H_SAVE, reader->history_path);
}

static enum ofr_line next_edited(ofr_line_reader *reader, const char *prompt, bool remember,
                                 char **ret_line, size_t *ret_size)
{
    int count = 0;
    reader->prompt = prompt;
    reader->interrupted = false;
    /* Before the prompt shows, so that a key pressed at once finds the editor's terminal mode. */
    el_set(reader->edit, EL_PREP_TERM, 1);
    fputs(paste_on, stdout);
    fflush(stdout);
    const char *line = el_gets(reader->edit, &count);
    fputs(paste_off, stdout);
    if (reader->interrupted) {
        fputs("^C\n", stdout);
        fflush(stdout);
        bool twice = reader->was_interrupted && count <= 0;
        reader->was_interrupted = count <= 0;
        return twice ? OFR_LINE_END : OFR_LINE_INTERRUPTED;
    }
    reader->was_interrupted = false;
    fflush(stdout);
    if (!line || count <= 0)
        return OFR_LINE_END;
    size_t size = (size_t)count;
    if (line[size - 1] == '\n')
        size--;
    char *copy = strndup(line, size);
    if (!copy)
        return OFR_LINE_END;
    if (remember)
        keep(reader, copy);
    *ret_line = copy;
    *ret_size = strlen(copy);
    return OFR_LINE_TEXT;
}

enum ofr_line ofr_line_reader_next(ofr_line_reader *reader, const char *prompt, bool remember,
                                   char **ret_line, size_t *ret_size)
{
    if (reader->edit)
        return next_edited(reader, prompt, remember, ret_line, ret_size);
    return next_plain(ret_line, ret_size);
}

void ofr_line_reader_echo(const ofr_line_reader *reader, bool on)
{
    struct termios mode;
    if (!reader->edit || tcgetattr(STDIN_FILENO, &mode) < 0)
        return;
    mode.c_lflag = on ? mode.c_lflag | ECHO : mode.c_lflag & ~(tcflag_t)ECHO;
    tcsetattr(STDIN_FILENO, TCSANOW, &mode);
}
