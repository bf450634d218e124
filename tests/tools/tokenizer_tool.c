/* The tokenizer library as a program, for the Python tests: lines in, lines out.
 * Texts are written in hexadecimal, so that they may hold anything. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tokenizer/tokenizer.h"
#include "vocab_dump.h"

static const char usage[] =
    "usage: tokenizer_tool build DUMP BIN | info BIN | bench BIN TEXT_FILE\n"
    "       tokenizer_tool encode BIN [bos] [special]    stdin: hex of a text per line\n"
    "       tokenizer_tool decode BIN [special]          stdin: ids of a text per line\n"
    "       tokenizer_tool stream BIN [special]          stdin: ids; stdout: hex of each piece\n";

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int fail(const ofr_error *err)
{
    fprintf(stderr, "tokenizer_tool: %s\n", err->text);
    return 1;
}

static void print_hex(const char *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        printf("%02x", (unsigned)(unsigned char)data[i]);
}

static int build(const char *dump_path, const char *bin_path)
{
    ofr_error err;
    vocab_dump *dump;
    if (vocab_dump_read(dump_path, &dump, &err))
        return fail(&err);
    void *image;
    size_t size;
    int rc = ofr_tokenizer_build(vocab_dump_vocab(dump), &image, &size, &err);
    vocab_dump_free(dump);
    if (rc)
        return fail(&err);
    FILE *file = fopen(bin_path, "wbe");
    rc = !file || fwrite(image, 1, size, file) != size;
    if (file)
        rc |= fclose(file);
    free(image);
    if (rc)
        fprintf(stderr, "tokenizer_tool: cannot write %s\n", bin_path);
    return rc ? 1 : 0;
}

static int encode_line(const ofr_tokenizer *tokenizer, char *line, unsigned flags)
{
    size_t size = strlen(line) / 2, count;
    char *text = malloc(size + 1);
    int32_t *ids;
    ofr_error err;
    for (size_t i = 0; i < size; i++) {
        char pair[3] = {line[2 * i], line[2 * i + 1], '\0'};
        text[i] = (char)strtoul(pair, NULL, 16);
    }
    int rc = ofr_tokenizer_encode(tokenizer, text, size, flags, &ids, &count, &err);
    free(text);
    if (rc)
        return fail(&err);
    for (size_t i = 0; i < count; i++)
        printf(i ? " %" PRId32 : "%" PRId32, ids[i]);
    printf("\n");
    free(ids);
    return 0;
}

static size_t parse_ids(char *line, int32_t **ret_ids)
{
    int32_t *ids = malloc((strlen(line) / 2 + 1) * sizeof *ids);
    size_t count = 0;
    char *end;
    for (long id = strtol(line, &end, 10); end != line; id = strtol(line, &end, 10)) {
        ids[count++] = (int32_t)id;
        line = end;
    }
    *ret_ids = ids;
    return count;
}

static int decode_line(const ofr_tokenizer *tokenizer, char *line, unsigned flags)
{
    int32_t *ids;
    size_t count = parse_ids(line, &ids), size;
    char *text;
    ofr_error err;
    int rc = ofr_tokenizer_decode(tokenizer, ids, count, flags, &text, &size, &err);
    free(ids);
    if (rc)
        return fail(&err);
    print_hex(text, size);
    printf("\n");
    free(text);
    return 0;
}

static int stream_line(const ofr_tokenizer *tokenizer, char *line, unsigned flags)
{
    int32_t *ids;
    size_t count = parse_ids(line, &ids), size;
    const char *text;
    ofr_error err;
    ofr_detokenizer *stream;
    int rc = ofr_detokenizer_new(tokenizer, flags, &stream, &err);
    for (size_t i = 0; !rc && i <= count; i++) {
        rc = i < count ? ofr_detokenizer_push(stream, ids[i], &text, &size, &err)
                       : ofr_detokenizer_finish(stream, &text, &size, &err);
        if (!rc)
            print_hex(text, size);
        printf(i < count ? " " : "\n");
    }
    free(ids);
    if (rc)
        return fail(&err);
    ofr_detokenizer_free(stream);
    return 0;
}

static int print_info(const ofr_tokenizer *tokenizer)
{
    ofr_tokenizer_info info;
    size_t count;
    ofr_tokenizer_get_info(tokenizer, &info);
    const int32_t *stops = ofr_tokenizer_stop_ids(tokenizer, &count);
    printf("%s %s %" PRId32 " %" PRId32 " %" PRId32 " stop", info.kind, *info.pre ? info.pre : "-",
           info.vocab_size, info.bos_id, info.eos_id);
    for (size_t i = 0; i < count; i++)
        printf(" %" PRId32, stops[i]);
    printf("\n");
    return 0;
}

/* Prints seconds to open, bytes, tokens, seconds to encode, seconds to decode. */
static int bench(const ofr_tokenizer *tokenizer, double open_seconds, const char *path)
{
    ofr_error err;
    char *text, *decoded;
    size_t size, count, decoded_size;
    int32_t *ids;
    if (read_whole_file(path, &text, &size, &err))
        return fail(&err);
    double start = seconds();
    int rc = ofr_tokenizer_encode(tokenizer, text, size, 0, &ids, &count, &err);
    double encoded = seconds();
    free(text);
    if (rc)
        return fail(&err);
    rc = ofr_tokenizer_decode(tokenizer, ids, count, 0, &decoded, &decoded_size, &err);
    double done = seconds();
    free(ids);
    if (rc)
        return fail(&err);
    free(decoded);
    printf("%.6f %zu %zu %.6f %.6f\n", open_seconds, size, count, encoded - start, done - encoded);
    return 0;
}

static int run(const ofr_tokenizer *tokenizer, const char *command, unsigned flags)
{
    int (*handle)(const ofr_tokenizer *, char *, unsigned) =
        !strcmp(command, "encode")   ? encode_line
        : !strcmp(command, "decode") ? decode_line
                                     : stream_line;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    int rc = 0;
    while (!rc && (length = getline(&line, &capacity, stdin)) >= 0) {
        if (length && line[length - 1] == '\n')
            line[length - 1] = '\0';
        rc = handle(tokenizer, line, flags);
    }
    free(line);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fputs(usage, stderr);
        return 2;
    }
    if (!strcmp(argv[1], "build") && argc == 4)
        return build(argv[2], argv[3]);
    ofr_error err;
    char *image;
    size_t size;
    ofr_tokenizer *tokenizer;
    if (read_whole_file(argv[2], &image, &size, &err))
        return fail(&err);
    double start = seconds();
    int rc = ofr_tokenizer_open(image, size, &tokenizer, &err);
    double open_seconds = seconds() - start;
    if (rc) {
        free(image);
        return fail(&err);
    }
    bool encoding = !strcmp(argv[1], "encode");
    unsigned flags = 0;
    for (int i = 3; i < argc; i++) {
        if (!strcmp(argv[i], "bos"))
            flags |= OFR_TOKENIZE_ADD_BOS_EOS;
        if (!strcmp(argv[i], "special"))
            flags |=
                encoding ? (unsigned)OFR_TOKENIZE_PARSE_SPECIAL : (unsigned)OFR_DETOKENIZE_SPECIAL;
    }
    if (!strcmp(argv[1], "info"))
        rc = print_info(tokenizer);
    else if (!strcmp(argv[1], "bench") && argc == 4)
        rc = bench(tokenizer, open_seconds, argv[3]);
    else
        rc = run(tokenizer, argv[1], flags);
    ofr_tokenizer_close(tokenizer);
    free(image);
    return rc;
}
