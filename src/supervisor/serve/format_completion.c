/* The shapes of /v1/completions and /v1/embeddings. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "supervisor/serve/answer_internal.h"

static void print_top(ofr_text *out, const ofr_answer *answer, const ofr_choice_token *token)
{
    ofr_text_print(out, "{");
    for (uint32_t k = 0; k < token->n_top; k++) {
        ofr_text_print(out, "%s", k ? "," : "");
        ofr_answer_print_token(out, answer, token->top[k].token);
        ofr_text_print(out, ":%.6g", (double)token->top[k].logprob);
    }
    ofr_text_print(out, "}");
}

static void print_logprobs(ofr_text *out, const ofr_answer_part *part, uint32_t from, uint32_t to)
{
    const ofr_answer *answer = part->answer;
    if (!answer->request.logprobs) {
        ofr_text_print(out, "null");
        return;
    }
    ofr_text_print(out, "{\"tokens\":[");
    for (uint32_t i = from; i < to; i++) {
        ofr_text_print(out, "%s", i > from ? "," : "");
        ofr_answer_print_token(out, answer, part->choice.tokens[i].id);
    }
    ofr_text_print(out, "],\"token_logprobs\":[");
    for (uint32_t i = from; i < to; i++)
        ofr_text_print(out, "%s%.6g", i > from ? "," : "", (double)part->choice.tokens[i].logprob);
    ofr_text_print(out, "],\"top_logprobs\":[");
    for (uint32_t i = from; i < to; i++) {
        ofr_text_print(out, "%s", i > from ? "," : "");
        print_top(out, answer, &part->choice.tokens[i]);
    }
    ofr_text_print(out, "],\"text_offset\":[");
    for (uint32_t i = from; i < to; i++)
        ofr_text_print(out, "%s%u", i > from ? "," : "", part->choice.tokens[i].text_offset);
    ofr_text_print(out, "]}");
}

/* The prompt as text, where `echo` asks for it; may be of ids. */
static void add_echo(const ofr_answer_part *part, ofr_text *text)
{
    const ofr_answer *answer = part->answer;
    const ofr_api_prompt *prompt = &answer->request.prompts[part->prompt];
    if (!answer->request.echo)
        return;
    if (prompt->text) {
        ofr_text_add(text, prompt->text, prompt->size);
        return;
    }
    ofr_detokenizer *detokenizer = NULL;
    const char *piece = NULL;
    size_t size = 0, i;
    const json_t *id;
    int r = ofr_detokenizer_new(answer->service->session->tokenizer, OFR_DETOKENIZE_SPECIAL,
                                &detokenizer, NULL);
    if (r < 0)
        return;
    json_array_foreach(prompt->ids, i, id)
    {
        if (ofr_detokenizer_push(detokenizer, (int32_t)json_integer_value(id), &piece, &size,
                                 NULL) == 0)
            ofr_text_add(text, piece, size);
    }
    if (ofr_detokenizer_finish(detokenizer, &piece, &size, NULL) == 0)
        ofr_text_add(text, piece, size);
    ofr_detokenizer_free(detokenizer);
}

static void print_choice(ofr_answer_part *part, const char *text, size_t size, uint32_t from,
                         uint32_t to, const char *finish)
{
    ofr_text *out = &part->answer->out;
    ofr_text all = {0};
    if (!part->begun)
        add_echo(part, &all);
    part->begun = true;
    ofr_text_add(&all, text, size);
    ofr_text_print(out, "{\"index\":%u,\"text\":", part->index);
    ofr_text_add_json(out, all.data ? all.data : "", all.size);
    ofr_text_print(out, ",\"logprobs\":");
    print_logprobs(out, part, from, to);
    ofr_text_print(out, ",\"finish_reason\":");
    ofr_text_add_json_string(out, finish);
    ofr_text_print(out, "}");
    ofr_text_done(&all);
}

static void print_chunk(ofr_answer_part *part, const char *text, size_t size, uint32_t from,
                        uint32_t to, const char *finish)
{
    ofr_answer *answer = part->answer;
    ofr_text_print(&answer->out, "data: ");
    ofr_answer_print_head(&answer->out, answer, "text_completion");
    print_choice(part, text, size, from, to, finish);
    ofr_text_print(&answer->out, "]%s}\n\n",
                   answer->request.include_usage ? ",\"usage\":null" : "");
}

static void completion_delta(ofr_answer_part *part, const char *text, size_t size,
                             const ofr_text *calls, uint32_t from, uint32_t to)
{
    (void)calls; /* a completion has no tools */
    print_chunk(part, text, size, from, to, NULL);
}

static void completion_part_end(ofr_answer_part *part)
{
    uint32_t n = part->choice.n_kept;
    print_chunk(part, "", 0, n, n, ofr_answer_finish_name(part));
}

static void completion_begin(ofr_answer *answer)
{
    (void)answer;
}

static void completion_end(ofr_answer *answer)
{
    ofr_answer_stream_end(answer, "text_completion");
}

static void completion_whole(ofr_answer *answer)
{
    ofr_answer_print_head(&answer->out, answer, "text_completion");
    for (uint32_t i = 0; i < answer->n_parts; i++) {
        ofr_answer_part *part = &answer->parts[i];
        ofr_text_print(&answer->out, "%s", i ? "," : "");
        print_choice(part, part->choice.text.data ? part->choice.text.data : "",
                     part->choice.text.size, 0, part->choice.n_kept, ofr_answer_finish_name(part));
    }
    ofr_text_print(&answer->out, "],\"usage\":");
    ofr_answer_print_usage(&answer->out, answer);
    ofr_text_print(&answer->out, "}");
}

const ofr_answer_format ofr_answer_format_completion = {
    .id_prefix = "cmpl-",
    .begin = completion_begin,
    .delta = completion_delta,
    .part_end = completion_part_end,
    .end = completion_end,
    .fail = ofr_answer_stream_fail,
    .whole = completion_whole,
};

static void print_base64(ofr_text *out, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    ofr_text_add(out, "\"", 1);
    for (size_t i = 0; i < size; i += 3) {
        uint32_t n = (uint32_t)bytes[i] << 16;
        n |= i + 1 < size ? (uint32_t)bytes[i + 1] << 8 : 0;
        n |= i + 2 < size ? bytes[i + 2] : 0;
        const char four[4] = {digits[n >> 18], digits[n >> 12 & 63],
                              i + 1 < size ? digits[n >> 6 & 63] : '=',
                              i + 2 < size ? digits[n & 63] : '='};
        ofr_text_add(out, four, 4);
    }
    ofr_text_add(out, "\"", 1);
}

/* The mean over the tokens, scaled to length 1. */
static void print_embedding(ofr_text *out, const ofr_answer_part *part)
{
    uint32_t d = part->answer->service->d_model;
    double length = 0;
    for (uint32_t i = 0; i < d; i++)
        length += part->sums[i] * part->sums[i];
    length = length > 0 ? sqrt(length) : 1;
    if (part->answer->request.base64) {
        float *values = malloc(d * sizeof *values);
        for (uint32_t i = 0; values && i < d; i++)
            values[i] = (float)(part->sums[i] / length);
        out->failed = out->failed || !values;
        if (values)
            print_base64(out, (const unsigned char *)values, d * sizeof *values);
        free(values);
        return;
    }
    for (uint32_t i = 0; i < d; i++)
        ofr_text_print(out, "%c%.7g", i ? ',' : '[', part->sums[i] / length);
    ofr_text_print(out, "]");
}

static void embeddings_whole(ofr_answer *answer)
{
    ofr_text *out = &answer->out;
    ofr_answer_usage usage = ofr_answer_count(answer);
    ofr_text_print(out, "{\"object\":\"list\",\"model\":");
    ofr_text_add_json_string(out, answer->service->model_id);
    ofr_text_print(out, ",\"data\":[");
    for (uint32_t i = 0; i < answer->n_parts; i++) {
        ofr_text_print(out, "%s{\"object\":\"embedding\",\"index\":%u,\"embedding\":", i ? "," : "",
                       i);
        print_embedding(out, &answer->parts[i]);
        ofr_text_print(out, "}");
    }
    ofr_text_print(out, "],\"usage\":{\"prompt_tokens\":%" PRIu64 ",\"total_tokens\":%" PRIu64 "}}",
                   usage.prompt, usage.prompt);
}

const ofr_answer_format ofr_answer_format_embeddings = {
    .id_prefix = "embd-",
    .begin = NULL,
    .delta = NULL,
    .part_end = NULL,
    .end = NULL,
    .fail = NULL,
    .whole = embeddings_whole,
};
