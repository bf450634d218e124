/* tokenize: text to token ids, and back. Needs no executive. */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/commands.h"
#include "supervisor/engine_session.h"
#include "supervisor/input.h"
#include "supervisor/report.h"

static const ofr_command_help help = {
    .name = "tokenize",
    .usage = "supervisor tokenize --text T | --file F | --decode IDS [options]",
    .text = "Prints the token ids of a text, or the text of token ids (\"1,2,3\"). Needs only the\n"
            "tokenizer of the package.\n",
};

struct tokenize_options {
    ofr_common_options common;
    const char *text, *file, *decode;
    bool no_special, no_parse_special;
};

static bool parse(struct tokenize_options *o, int argc, char **argv, int *ret_exit)
{
    const ofr_option table[] = {
        {"text", OFR_OPTION_STRING, &o->text, 0, 0, "T", "text to encode"},
        {"file", OFR_OPTION_STRING, &o->file, 0, 0, "F", "text from a file, - for stdin"},
        {"decode", OFR_OPTION_STRING, &o->decode, 0, 0, "IDS", "ids to decode: \"1,2,3\""},
        {"no_special", OFR_OPTION_FLAG, &o->no_special, 0, 0, NULL,
         "add no BOS and EOS; with --decode, leave control tokens out"},
        {"no_parse_special", OFR_OPTION_FLAG, &o->no_parse_special, 0, 0, NULL,
         "control tokens written in the text are ordinary text"},
        OFR_OPTIONS_MODEL(o->common),
        OFR_OPTIONS_JSON(o->common),
        OFR_OPTIONS_HELP(o->common),
    };
    if (!ofr_command_parse(&help, table, sizeof table / sizeof table[0], argc, argv, &o->common,
                           ret_exit))
        return false;
    if (!!o->text + !!o->file + !!o->decode == 1)
        return true;
    *ret_exit = ofr_command_usage(help.name, "give one of --text, --file and --decode");
    return false;
}

static int encode(const struct tokenize_options *o, const ofr_tokenizer *tokenizer,
                  const char *text, size_t size, ofr_error *err)
{
    unsigned flags = (o->no_special ? 0u : OFR_TOKENIZE_ADD_BOS_EOS) |
                     (o->no_parse_special ? 0u : OFR_TOKENIZE_PARSE_SPECIAL);
    int32_t *ids = NULL;
    size_t count = 0;
    int r = ofr_tokenizer_encode(tokenizer, text, size, flags, &ids, &count, err);
    if (r < 0)
        return r;
    fputs(o->common.json ? "{\"ids\":[" : "", stdout);
    for (size_t i = 0; i < count; i++)
        printf("%s%d", i ? "," : "", ids[i]);
    puts(o->common.json ? "]}" : "");
    free(ids);
    return 0;
}

/* "1,2,3", spaces or brackets around them allowed. */
static int parse_ids(const char *list, int32_t vocab_size, int32_t **ret_ids, size_t *ret_count,
                     ofr_error *err)
{
    size_t room = strlen(list) / 2 + 1, count = 0;
    int32_t *ids = malloc(room * sizeof *ids);
    if (!ids)
        return ofr_fail(err, OFR_ENOMEM, "no memory for %zu ids", room);
    const char *at = list + strspn(list, " [");
    while (*at && *at != ']') {
        char *end;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || errno || id < 0 || id >= vocab_size) {
            int r = ofr_fail(err, OFR_EINVAL,
                             "--decode: '%.24s' is no token id; ids are from 0 to %d, separated by "
                             "commas",
                             at, vocab_size - 1);
            free(ids);
            return r;
        }
        ids[count++] = (int32_t)id;
        at = end + strspn(end, " ");
        if (*at == ',')
            at++;
        at += strspn(at, " ");
    }
    *ret_ids = ids;
    *ret_count = count;
    return 0;
}

/* The text as JSON must be UTF-8: what is no character becomes U+FFFD, as in a stream. */
static int print_decoded_json(const ofr_tokenizer *tokenizer, const int32_t *ids, size_t count,
                              unsigned flags, ofr_error *err)
{
    ofr_detokenizer *detokenizer = NULL;
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    int r = stream ? 0 : ofr_fail(err, OFR_ENOMEM, "no memory for the text");
    if (r == 0)
        r = ofr_detokenizer_new(tokenizer, flags, &detokenizer, err);
    const char *piece;
    size_t piece_size;
    for (size_t i = 0; r == 0 && i < count; i++) {
        r = ofr_detokenizer_push(detokenizer, ids[i], &piece, &piece_size, err);
        if (r == 0)
            fwrite(piece, 1, piece_size, stream);
    }
    if (r == 0)
        r = ofr_detokenizer_finish(detokenizer, &piece, &piece_size, err);
    if (r == 0)
        fwrite(piece, 1, piece_size, stream);
    ofr_detokenizer_free(detokenizer);
    if (stream)
        fclose(stream);
    if (r == 0)
        r = ofr_report_print(json_pack("{s:o}", "text", json_stringn(text, size)));
    free(text);
    return r;
}

static int decode(const struct tokenize_options *o, const ofr_engine_session *session,
                  ofr_error *err)
{
    unsigned flags = o->no_special ? 0u : OFR_DETOKENIZE_SPECIAL;
    int32_t *ids = NULL;
    size_t count = 0;
    int r = parse_ids(o->decode, session->tokenizer_info.vocab_size, &ids, &count, err);
    if (r < 0)
        return r;
    if (o->common.json) {
        r = print_decoded_json(session->tokenizer, ids, count, flags, err);
    } else {
        char *text = NULL;
        size_t size = 0;
        r = ofr_tokenizer_decode(session->tokenizer, ids, count, flags, &text, &size, err);
        if (r == 0)
            fwrite(text, 1, size, stdout);
        free(text);
    }
    free(ids);
    return r;
}

int ofr_command_tokenize(int argc, char **argv)
{
    struct tokenize_options o = {0};
    int exit_code;
    if (!parse(&o, argc, argv, &exit_code))
        return exit_code;
    ofr_error err = {0};
    ofr_engine_session session = {0};
    char *text = NULL;
    size_t size = 0;
    int r = 0;
    if (o.file)
        r = ofr_input_read(o.file, &text, &size, &err);
    if (o.text)
        size = strlen(o.text);
    if (r == 0 && !o.decode)
        r = ofr_input_check_utf8(o.file ? o.file : "--text", o.file ? text : o.text, size, &err);
    if (r == 0)
        r = ofr_engine_session_open(&session, &o.common, true, false, &err);
    if (r == 0)
        r = o.decode ? decode(&o, &session, &err)
                     : encode(&o, session.tokenizer, o.file ? text : o.text, size, &err);
    free(text);
    ofr_engine_session_done(&session);
    return r < 0 ? ofr_command_fail(help.name, &err) : ofr_command_finish(help.name);
}
