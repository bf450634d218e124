/* Answers: from a request to sequences of the batch, and back to the sink. */
#include "supervisor/serve/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "supervisor/serve/answer_internal.h"

typedef struct prompt_ids {
    int32_t *ids; /* owned */
    uint32_t n;
} prompt_ids;

static void free_answer(ofr_answer *answer)
{
    for (uint32_t i = 0; answer->parts && i < answer->n_parts; i++) {
        ofr_answer_part *part = &answer->parts[i];
        ofr_choice_done(&part->choice);
        ofr_text_done(&part->content);
        if (part->filter.free)
            part->filter.free(part->filter.user);
        free(part->sums);
    }
    free(answer->parts);
    ofr_structured_done(&answer->structured);
    free(answer->prompt_tokens);
    ofr_api_request_done(&answer->request);
    ofr_text_done(&answer->out);
    free(answer);
}

static void random_id(const char *prefix, char *ret_id, size_t size)
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    unsigned char bytes[24];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (unsigned char)(ofr_clock_ns() >> i);
    size_t used = (size_t)snprintf(ret_id, size, "%s", prefix);
    for (size_t i = 0; i < sizeof bytes && used + 1 < size; i++)
        ret_id[used++] = alphabet[bytes[i] % 36];
    ret_id[used] = 0;
}

void ofr_answer_print_error(ofr_text *text, const ofr_api_error *err)
{
    ofr_text_print(text, "{\"error\":{\"message\":");
    ofr_text_add_json_string(text, err->text);
    ofr_text_print(text, ",\"type\":");
    ofr_text_add_json_string(text, err->type);
    ofr_text_print(text, ",\"param\":");
    ofr_text_add_json_string(text, err->param[0] ? err->param : NULL);
    ofr_text_print(text, ",\"code\":");
    ofr_text_add_json_string(text, err->code);
    ofr_text_print(text, "}}");
}

const char *ofr_answer_finish_name(const ofr_answer_part *part)
{
    if (part->choice.finish == OFR_CHOICE_FINISH_LENGTH)
        return "length";
    return part->called_tools ? "tool_calls" : "stop";
}

ofr_answer_usage ofr_answer_count(const ofr_answer *answer)
{
    ofr_answer_usage usage = {0};
    for (uint32_t i = 0; i < answer->n_prompts; i++)
        usage.prompt += answer->prompt_tokens[i];
    for (uint32_t i = 0; i < answer->n_parts; i++) {
        usage.completion += answer->parts[i].choice.n_generated;
        if (i % answer->request.n == 0)
            usage.cached += answer->parts[i].report.n_reused;
    }
    return usage;
}

static void token_bytes(const ofr_answer *answer, int32_t id, char **ret_text, size_t *ret_size)
{
    *ret_text = NULL;
    *ret_size = 0;
    ofr_tokenizer_decode(answer->service->session->tokenizer, &id, 1,
                         OFR_DETOKENIZE_SPECIAL | OFR_DETOKENIZE_CONTINUATION, ret_text, ret_size,
                         NULL);
}

void ofr_answer_print_token(ofr_text *out, const ofr_answer *answer, int32_t id)
{
    char *text = NULL;
    size_t size = 0;
    ofr_text valid = {0};
    token_bytes(answer, id, &text, &size);
    for (size_t i = 0; i < size;) {
        uint32_t codepoint = 0;
        size_t length = 0;
        char encoded[4];
        ofr_utf8_next(text + i, size - i, &codepoint, &length);
        ofr_text_add(&valid, encoded, ofr_utf8_encode(codepoint, encoded));
        i += length;
    }
    ofr_text_add_json(out, valid.data ? valid.data : "", valid.size);
    ofr_text_done(&valid);
    free(text);
}

void ofr_answer_print_bytes(ofr_text *out, const ofr_answer *answer, int32_t id)
{
    char *text = NULL;
    size_t size = 0;
    token_bytes(answer, id, &text, &size);
    ofr_text_add(out, "[", 1);
    for (size_t i = 0; i < size; i++)
        ofr_text_print(out, "%s%u", i ? "," : "", (unsigned char)text[i]);
    ofr_text_add(out, "]", 1);
    free(text);
}

/* Sends what the format has written. */
static void flush(ofr_answer *answer)
{
    if (answer->out.failed && answer->failure.status == 0)
        ofr_api_fail_as(&answer->failure, 500, "server_error", NULL, "no memory for the answer");
    if (answer->out.size && answer->listening && !answer->out.failed)
        answer->listening =
            answer->sink.write(answer->sink.user, answer->out.data, answer->out.size);
    ofr_text_clear(&answer->out);
}

/* Emits what is certain of the part's text since the last time. */
static int emit(ofr_answer_part *part, bool last, ofr_error *err)
{
    ofr_answer *answer = part->answer;
    const ofr_choice *choice = &part->choice;
    size_t size = choice->text_ready - part->sent;
    const char *text = size ? choice->text.data + part->sent : "";
    uint32_t to = last ? choice->n_kept
                       : ofr_choice_tokens_before(choice, part->sent_tokens, choice->text_ready);
    if (size == 0 && !last && !(choice->options.logprobs && to > part->sent_tokens))
        return 0;
    ofr_text calls = {0};
    size_t content_from = part->content.size;
    int r = 0;
    if (part->filter.push) {
        r = part->filter.push(part->filter.user, text, size, last, &part->content, &calls, err);
        part->called_tools = part->called_tools || calls.size > 0;
        text = part->content.size > content_from ? part->content.data + content_from : "";
        size = part->content.size - content_from;
    }
    bool something = size > 0 || calls.size > 0 || to > part->sent_tokens;
    if (r == 0 && answer->request.stream && answer->format->delta && something)
        answer->format->delta(part, text, size, &calls, part->sent_tokens, to);
    part->sent = choice->text_ready;
    part->sent_tokens = to;
    ofr_text_done(&calls);
    return r;
}

static uint32_t candidates_wanted(void *user)
{
    const ofr_answer_part *part = user;
    return ofr_choice_candidates_wanted(&part->choice);
}

static int next_token(void *user, const ofr_prediction *prediction, int32_t *ret_token,
                      ofr_error *err)
{
    ofr_answer_part *part = user;
    ofr_answer *answer = part->answer;
    uint64_t now = ofr_clock_ns();
    int r = ofr_choice_next(&part->choice, prediction, ret_token, err);
    if (r == 0)
        r = emit(part, *ret_token < 0, err);
    if (r == 0 && part->last_ns == 0)
        ofr_histogram_add(&answer->service->metrics.first_token, now - answer->arrived_ns);
    else if (r == 0)
        ofr_histogram_add(&answer->service->metrics.inter_token, now - part->last_ns);
    part->last_ns = now;
    if (answer->request.stream)
        flush(answer);
    return r;
}

static int add_sums(void *user, const float *sums, uint32_t position, uint32_t n, ofr_error *err)
{
    ofr_answer_part *part = user;
    (void)err;
    if (position == 0) {
        memset(part->sums, 0, part->answer->service->d_model * sizeof *part->sums);
        part->n_summed = 0;
    }
    for (uint32_t i = 0; i < part->answer->service->d_model; i++)
        part->sums[i] += (double)sums[i];
    part->n_summed += n;
    return 0;
}

static void finish_answer(ofr_answer *answer)
{
    const ofr_answer_format *format = answer->format;
    ofr_histogram_add(&answer->service->metrics.request, ofr_clock_ns() - answer->arrived_ns);
    unsigned status = answer->failure.status ? answer->failure.status : 200;
    if (answer->request.stream) {
        if (answer->failure.status)
            format->fail(answer);
        else
            format->end(answer);
        flush(answer);
    } else if (answer->failure.status) {
        ofr_answer_print_error(&answer->out, &answer->failure);
    } else {
        format->whole(answer);
    }
    if (answer->out.failed) {
        status = 500;
        ofr_text_done(&answer->out);
    }
    answer->sink.end(answer->sink.user, status, answer->out.data, answer->out.size);
    free_answer(answer);
}

static void part_ended(void *user, int status, const ofr_error *reason,
                       const ofr_batch_report *report)
{
    ofr_answer_part *part = user;
    ofr_answer *answer = part->answer;
    ofr_error err = *reason;
    part->report = *report;
    ofr_histogram_add(&answer->service->metrics.queued, report->queued_ns);
    if (status == OFR_ELIMIT && part->choice.sampler) {
        status = ofr_choice_cut(&part->choice, &err);
        if (status == 0)
            status = emit(part, true, &err);
    }
    if (status < 0 && answer->failure.status == 0) {
        err.code = status;
        ofr_api_fail_from(&answer->failure, &err);
    }
    part->ended = true;
    if (status == 0 && answer->request.stream && answer->format->part_end)
        answer->format->part_end(part);
    if (answer->request.stream)
        flush(answer);
    if (++answer->n_ended == answer->n_parts)
        finish_answer(answer);
}

static int ids_from_json(const json_t *array, prompt_ids *ret, ofr_error *err)
{
    size_t n = json_array_size(array), i;
    const json_t *id;
    ret->ids = malloc((n + 1) * sizeof *ret->ids);
    if (!ret->ids)
        return ofr_fail(err, OFR_ENOMEM, "no memory for %zu tokens", n);
    json_array_foreach(array, i, id) ret->ids[i] = (int32_t)json_integer_value(id);
    ret->n = (uint32_t)n;
    return 0;
}

static int render(const ofr_service *service, const ofr_api_request *request, prompt_ids *ret,
                  ofr_error *err)
{
    const ofr_engine_session *session = service->session;
    if (!session->chat_template)
        return ofr_fail(err, OFR_ENOENT,
                        "the model has no chat template; /v1/completions continues plain text");
    const json_t *extra = json_object_get(request->body, "chat_template_kwargs");
    ofr_chat_input input = {
        .messages = request->messages,
        .tools = request->tools,
        .extra = json_is_object(extra) ? extra : NULL,
        .bos_token = session->bos_token,
        .eos_token = session->eos_token,
        .add_generation_prompt = true,
    };
    char *text = NULL;
    size_t size = 0, count = 0;
    int r = ofr_chat_template_render_chat(session->chat_template, &input, time(NULL), &text, &size,
                                          err);
    if (r == 0)
        r = ofr_tokenizer_encode(session->tokenizer, text, size, OFR_TOKENIZE_PARSE_SPECIAL,
                                 &ret->ids, &count, err);
    free(text);
    if (r == 0 && count > INT32_MAX)
        r = ofr_fail(err, OFR_ELIMIT, "the prompt has %zu tokens", count);
    ret->n = (uint32_t)count;
    return r;
}

static int make_prompt(const ofr_service *service, const ofr_api_request *request, uint32_t index,
                       prompt_ids *ret, ofr_error *err)
{
    if (request->messages)
        return render(service, request, ret, err);
    const ofr_api_prompt *prompt = &request->prompts[index];
    if (prompt->ids)
        return ids_from_json(prompt->ids, ret, err);
    size_t count = 0;
    int r = ofr_tokenizer_encode(service->session->tokenizer, prompt->text, prompt->size,
                                 OFR_TOKENIZE_ADD_BOS_EOS | OFR_TOKENIZE_PARSE_SPECIAL, &ret->ids,
                                 &count, err);
    if (r == 0 && count > INT32_MAX)
        r = ofr_fail(err, OFR_ELIMIT, "the prompt has %zu tokens", count);
    ret->n = (uint32_t)count;
    return r;
}

static int init_part(ofr_answer *answer, uint32_t index, const prompt_ids *prompt, ofr_error *err)
{
    ofr_api_request *request = &answer->request;
    ofr_answer_part *part = &answer->parts[index];
    part->answer = answer;
    part->index = index;
    part->prompt = index / request->n;
    if (request->api == OFR_API_EMBEDDINGS) {
        part->sums = calloc(answer->service->d_model, sizeof *part->sums);
        return part->sums ? 0 : ofr_fail(err, OFR_ENOMEM, "no memory for an embedding");
    }
    ofr_choice_options options = {
        .tokenizer = answer->service->session->tokenizer,
        .sampling = request->sampling,
        .max_tokens = request->max_tokens > 0 ? request->max_tokens : 0,
        .min_tokens = request->min_tokens,
        .ignore_eos = request->ignore_eos,
        .stops = request->stops,
        .n_stops = request->n_stops,
        .logprobs = request->logprobs,
        .top_logprobs = request->top_logprobs,
        .shown = answer->structured.shown,
        .n_shown = answer->structured.n_shown,
    };
    options.sampling.seed += index;
    int r = ofr_structured_filter(&answer->structured, &part->filter, err);
    if (r == 0)
        r = ofr_structured_constrain(&answer->structured, &options.constraint, err);
    if (r == 0)
        r = ofr_choice_init(&part->choice, &options, err);
    if (r == 0)
        ofr_choice_prompt(&part->choice, prompt->ids, prompt->n);
    return r;
}

static int make_answer(ofr_service *service, ofr_api_request *request, const ofr_answer_sink *sink,
                       uint64_t arrived_ns, ofr_answer **ret_answer, ofr_error *err)
{
    static const ofr_answer_format *const formats[] = {
        [OFR_API_CHAT] = &ofr_answer_format_chat,
        [OFR_API_COMPLETION] = &ofr_answer_format_completion,
        [OFR_API_RESPONSES] = &ofr_answer_format_responses,
        [OFR_API_EMBEDDINGS] = &ofr_answer_format_embeddings,
    };
    ofr_answer *answer = calloc(1, sizeof *answer);
    if (!answer)
        return ofr_fail(err, OFR_ENOMEM, "no memory for an answer");
    answer->service = service;
    answer->request = *request;
    *request = (ofr_api_request){0};
    answer->sink = *sink;
    answer->format = formats[answer->request.api];
    answer->created = time(NULL);
    answer->arrived_ns = arrived_ns;
    answer->listening = true;
    answer->n_prompts = answer->request.messages ? 1 : answer->request.n_prompts;
    answer->n_parts = answer->n_prompts * answer->request.n;
    random_id(answer->format->id_prefix, answer->id, sizeof answer->id);
    if (!answer->request.has_seed &&
        getrandom(&answer->request.sampling.seed, sizeof answer->request.sampling.seed, 0) < 0)
        answer->request.sampling.seed = ofr_clock_ns();
    answer->parts = calloc(answer->n_parts, sizeof *answer->parts);
    answer->prompt_tokens = calloc(answer->n_prompts, sizeof *answer->prompt_tokens);
    *ret_answer = answer;
    return answer->parts && answer->prompt_tokens
               ? 0
               : ofr_fail(err, OFR_ENOMEM, "no memory for %u answers", answer->n_parts);
}

/* Everything is ready: submits all parts. */
static int submit(ofr_answer *answer, const prompt_ids *prompts, uint64_t owner,
                  const atomic_bool *canceled, ofr_error *err)
{
    ofr_batch_request *requests = calloc(answer->n_parts, sizeof *requests);
    if (!requests)
        return ofr_fail(err, OFR_ENOMEM, "no memory for %u answers", answer->n_parts);
    bool embed = answer->request.api == OFR_API_EMBEDDINGS;
    for (uint32_t i = 0; i < answer->n_parts; i++)
        requests[i] = (ofr_batch_request){
            .tokens = prompts[answer->parts[i].prompt].ids,
            .n_tokens = prompts[answer->parts[i].prompt].n,
            .owner = owner,
            .fresh = answer->request.fresh,
            .embed = embed,
            .canceled = canceled,
            .next = next_token,
            .candidates_wanted = candidates_wanted,
            .embed_sum = add_sums,
            .end = part_ended,
            .user = &answer->parts[i],
        };
    if (answer->request.stream) {
        answer->format->begin(answer);
        flush(answer);
    }
    /* From here on the batch's thread owns the answer. */
    int r = ofr_batch_submit(answer->service->batch, requests, answer->n_parts, err);
    free(requests);
    return r;
}

int ofr_answer_start(ofr_service *service, ofr_api_request *request, const ofr_answer_sink *sink,
                     uint64_t owner, uint64_t arrived_ns, const atomic_bool *canceled,
                     ofr_api_error *err)
{
    ofr_answer *answer = NULL;
    prompt_ids *prompts = NULL;
    ofr_error reason = {0};
    ofr_structured structured = {0};
    int r = ofr_structured_prepare(service, request, &structured, err);
    if (r < 0) {
        ofr_api_request_done(request);
        return r;
    }
    r = make_answer(service, request, sink, arrived_ns, &answer, &reason);
    if (answer)
        answer->structured = structured;
    else
        ofr_structured_done(&structured);
    uint32_t n = answer ? answer->n_prompts : 0;
    if (r == 0) {
        prompts = calloc(n, sizeof *prompts);
        if (!prompts)
            r = ofr_fail(&reason, OFR_ENOMEM, "no memory for %u prompts", n);
    }
    for (uint32_t i = 0; i < n && r == 0; i++) {
        r = make_prompt(service, &answer->request, i, &prompts[i], &reason);
        if (r == 0)
            answer->prompt_tokens[i] = prompts[i].n;
    }
    for (uint32_t i = 0; r == 0 && i < answer->n_parts; i++)
        r = init_part(answer, i, &prompts[i / answer->request.n], &reason);
    if (r == 0)
        r = submit(answer, prompts, owner, canceled, &reason);
    for (uint32_t i = 0; prompts && i < n; i++)
        free(prompts[i].ids);
    free(prompts);
    if (r < 0) {
        reason.code = r;
        ofr_api_fail_from(err, &reason);
        if (answer)
            free_answer(answer);
        ofr_api_request_done(request);
    }
    return r;
}
