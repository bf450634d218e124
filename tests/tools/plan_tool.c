/* A client of the executive that is told on stdin which tokens to forward, for tests of plans.
 *   plan_tool PACKAGE PLAN LOGITS
 * Lines on stdin, each answered by a JSON object on stdout:
 *   forward ID ...            appends the tokens to the sequence in slot 0 and forwards them
 *   overlap ID ... / ID ...   submits the first tokens as a prompt in slot 1 and, while that is on
 *                             its way, forwards the others in slot 0 one by one
 * The logits after the last token of slot 0 (and, for overlap, of slot 1) are appended to the file
 * LOGITS, [vocab_size] fp32 each. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/engine_session.h"

enum { IDS_MAX = 8192, LINE_MAX_BYTES = 1 << 17 };

typedef struct tool {
    ofr_engine_session session;
    FILE *logits;
    int32_t ids[IDS_MAX];
    uint32_t n;
    char *rest; /* of the line, behind a "/" */
} tool;

static void die(const char *what, const ofr_error *err)
{
    fprintf(stderr, "plan_tool: %s: %s\n", what, err ? err->text : "");
    exit(1);
}

static void parse_ids(tool *t, char *text)
{
    char *end = NULL;
    t->n = 0;
    for (long id = strtol(text, &end, 10); end != text && t->n < IDS_MAX;
         id = strtol(text, &end, 10)) {
        t->ids[t->n++] = (int32_t)id;
        text = end;
    }
    while (*text == ' ')
        text++;
    t->rest = *text == '/' ? text + 1 : NULL;
}

/* Keeps the logits; adds the two highest to the answer. */
static void report(tool *t, json_t *answer, const char *key, const float *logits)
{
    uint32_t vocab = t->session.info.vocab_size, best = 0, second = 1;
    if (logits[1] > logits[0]) {
        best = 1;
        second = 0;
    }
    for (uint32_t i = 2; i < vocab; i++) {
        if (logits[i] > logits[best]) {
            second = best;
            best = i;
        } else if (logits[i] > logits[second]) {
            second = i;
        }
    }
    if (fwrite(logits, sizeof *logits, vocab, t->logits) != vocab || fflush(t->logits) != 0)
        die("cannot write the logits", NULL);
    json_object_set_new(answer, key,
                        json_pack("[[i, f], [i, f]]", (int)best, (double)logits[best], (int)second,
                                  (double)logits[second]));
}

static const float *forward(tool *t)
{
    ofr_error err = {0};
    ofr_prediction prediction = {0};
    for (uint32_t i = 0; i < t->n; i++)
        if (ofr_sequence_append(&t->session.sequence, t->ids[i], &err) < 0)
            die("append", &err);
    if (ofr_sequence_forward(&t->session.sequence, NULL, 0, &prediction, &err) < 0)
        die("forward", &err);
    return prediction.logits;
}

static void overlap(tool *t, json_t *answer)
{
    ofr_error err = {0};
    ofr_client *client = t->session.client;
    ofr_segment segment = {.slot = 1, .n_tokens = t->n};
    ofr_client_job job = {
        .segments = &segment, .n_segments = 1, .tokens = t->ids, .output = OFR_FORWARD_OUTPUT_LAST};
    uint32_t ticket = 0;
    int during = 0;
    if (ofr_client_submit(client, &job, &ticket, &err) < 0)
        die("submit", &err);
    int32_t others[64];
    uint32_t n_others = 0;
    parse_ids(t, t->rest);
    for (; n_others < t->n && n_others < 64; n_others++)
        others[n_others] = t->ids[n_others];
    const float *logits = NULL;
    for (uint32_t i = 0; i < n_others; i++) {
        t->ids[0] = others[i];
        t->n = 1;
        logits = forward(t);
        during += !ofr_client_poll(client, ticket);
    }
    report(t, answer, "top", logits);
    ofr_client_result result = {0};
    if (ofr_client_wait(client, ticket, &result, &err) < 0)
        die("wait", &err);
    report(t, answer, "other_top", result.logits);
    json_object_set_new(answer, "during", json_integer(during));
}

static void obey(tool *t, char *line)
{
    json_t *answer = json_object();
    if (strncmp(line, "forward ", 8) == 0) {
        parse_ids(t, line + 8);
        report(t, answer, "top", forward(t));
    } else if (strncmp(line, "overlap ", 8) == 0) {
        parse_ids(t, line + 8);
        overlap(t, answer);
    } else {
        die("unknown command", NULL);
    }
    json_object_set_new(answer, "tokens", json_integer(t->session.sequence.n_tokens));
    json_object_set_new(answer, "recoveries", json_integer(t->session.sequence.recoveries));
    json_object_set_new(answer, "plan", json_string(t->session.info.plan));
    json_dumpf(answer, stdout, JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
    json_decref(answer);
}

int main(int argc, char **argv)
{
    static tool t;
    ofr_error err = {0};
    if (argc != 4)
        die("usage: plan_tool PACKAGE PLAN LOGITS", NULL);
    ofr_common_options common = {.model = argv[1], .plan = argv[2]};
    t.logits = fopen(argv[3], "wbe");
    if (!t.logits)
        die("cannot write the logits", NULL);
    if (ofr_engine_session_open(&t.session, &common, false, false, &err) < 0 ||
        ofr_engine_session_connect(&t.session, &common, &err) < 0)
        die("connect", &err);
    char *line = malloc(LINE_MAX_BYTES);
    while (line && fgets(line, LINE_MAX_BYTES, stdin))
        obey(&t, line);
    free(line);
    ofr_engine_session_done(&t.session);
    fclose(t.logits);
    return 0;
}
