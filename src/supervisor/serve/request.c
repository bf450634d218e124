/* Requests of the API: parsing and checking. */
#include "supervisor/serve/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/logprobs.h"
#include "supervisor/serve/request_fields.h"

static int parse_stops(ofr_api_request *request, ofr_api_error *err)
{
    const json_t *stop = ofr_field(request->body, "stop");
    if (!stop)
        return 0;
    size_t n = json_is_array(stop) ? json_array_size(stop) : 1;
    if (n > OFR_API_STOPS_MAX)
        return ofr_api_fail(err, "stop", "at most %d stop texts", OFR_API_STOPS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_array(stop) ? json_array_get(stop, i) : stop;
        if (!json_is_string(item))
            return ofr_api_fail(err, "stop", "'stop' must be a text or a list of texts");
        size_t size = json_string_length(item);
        if (size == 0)
            continue;
        if (size > OFR_API_STOP_BYTES_MAX || strlen(json_string_value(item)) != size)
            return ofr_api_fail(err, "stop", "a stop text has 1 to %d bytes and no NUL",
                                OFR_API_STOP_BYTES_MAX);
        request->stops[request->n_stops] = strdup(json_string_value(item));
        if (!request->stops[request->n_stops++])
            return ofr_api_fail(err, "stop", "no memory for the stop texts");
    }
    return 0;
}

static int parse_bias(ofr_api_request *request, uint32_t vocab_size, ofr_api_error *err)
{
    const json_t *bias = ofr_field(request->body, "logit_bias");
    if (!bias)
        return 0;
    if (!json_is_object(bias) || json_object_size(bias) > OFR_API_BIASES_MAX)
        return ofr_api_fail(err, "logit_bias",
                            "'logit_bias' must be an object of at most %d token ids",
                            OFR_API_BIASES_MAX);
    request->biases = calloc(json_object_size(bias) + 1, sizeof *request->biases);
    if (!request->biases)
        return ofr_api_fail(err, "logit_bias", "no memory for the logit bias");
    const char *key;
    const json_t *value;
    json_object_foreach((json_t *)bias, key, value)
    {
        char *end = NULL;
        errno = 0;
        long long token = strtoll(key, &end, 10);
        if (errno || end == key || *end || token < 0 || token >= vocab_size)
            return ofr_api_fail(err, "logit_bias",
                                "'logit_bias' has the key '%.40s': token ids are from 0 to %u", key,
                                vocab_size - 1);
        if (!json_is_number(value) || !(json_number_value(value) >= -100) ||
            !(json_number_value(value) <= 100))
            return ofr_api_fail(err, "logit_bias", "a bias must be a number from -100 to 100");
        request->biases[request->sampling.n_bias++] =
            (ofr_logit_bias){(int32_t)token, (float)json_number_value(value)};
    }
    request->sampling.bias = request->biases;
    return 0;
}

static int parse_sampling(ofr_api_request *request, uint32_t vocab_size, ofr_api_error *err)
{
    const json_t *body = request->body;
    ofr_sampling *s = &request->sampling;
    int64_t seed = 0;
    int r = ofr_field_float(body, "temperature", 0, 100, &s->temperature, err);
    if (r == 0)
        r = ofr_field_float(body, "top_p", 0, 1, &s->top_p, err);
    if (r == 0 && s->top_p <= 0)
        s->top_p = 1e-6F; /* the likeliest token alone */
    if (r == 0)
        r = ofr_field_u32(body, "top_k", 0, 1 << 24, &s->top_k, err);
    if (r == 0)
        r = ofr_field_float(body, "min_p", 0, 0.999999, &s->min_p, err);
    if (r == 0)
        r = ofr_field_float(body, "repetition_penalty", 0.01, 100, &s->repetition_penalty, err);
    if (r == 0)
        r = ofr_field_float(body, "presence_penalty", -2, 2, &s->presence_penalty, err);
    if (r == 0)
        r = ofr_field_float(body, "frequency_penalty", -2, 2, &s->frequency_penalty, err);
    if (r == 0)
        r = ofr_field_int(body, "seed", INT64_MIN, INT64_MAX, &seed, err);
    request->has_seed = r == 0 && ofr_field(body, "seed");
    s->seed = (uint64_t)seed;
    if (r == 0)
        r = parse_bias(request, vocab_size, err);
    return r;
}

/* What chat, completions and responses share. */
static int parse_generation(ofr_api_request *request, uint32_t vocab_size, ofr_api_error *err)
{
    const json_t *body = request->body;
    bool cache = true;
    int r = parse_sampling(request, vocab_size, err);
    if (r == 0)
        r = ofr_field_bool(body, "stream", &request->stream, err);
    if (r == 0)
        r = ofr_field_bool(body, "ignore_eos", &request->ignore_eos, err);
    if (r == 0)
        r = ofr_field_bool(body, "cache_prompt", &cache, err);
    request->fresh = !cache;
    if (r == 0)
        r = ofr_field_int(body, "min_tokens", 0, 1 << 24, &request->min_tokens, err);
    if (r == 0)
        r = parse_stops(request, err);
    const json_t *options = ofr_field(body, "stream_options");
    if (r == 0 && options && !json_is_object(options))
        r = ofr_api_fail(err, "stream_options", "'stream_options' must be an object");
    if (r == 0 && options)
        r = ofr_field_bool(options, "include_usage", &request->include_usage, err);
    return r;
}

static int parse_n(ofr_api_request *request, ofr_api_error *err)
{
    uint32_t best_of = 0;
    int r = ofr_field_u32(request->body, "n", 1, OFR_API_CHOICES_MAX, &request->n, err);
    if (r == 0)
        r = ofr_field_u32(request->body, "best_of", 1, OFR_API_CHOICES_MAX, &best_of, err);
    if (r == 0 && best_of > request->n)
        r = ofr_api_fail(err, "best_of", "'best_of' above 'n' is not supported");
    return r;
}

static int parse_chat(ofr_api_request *request, uint32_t vocab_size, ofr_api_error *err)
{
    const json_t *body = request->body;
    int r = ofr_messages_from_chat(ofr_field(body, "messages"), &request->messages, err);
    if (r == 0)
        r = parse_generation(request, vocab_size, err);
    if (r == 0)
        r = parse_n(request, err);
    if (r == 0)
        r = ofr_field_int(body, "max_tokens", 1, 1 << 24, &request->max_tokens, err);
    if (r == 0)
        r = ofr_field_int(body, "max_completion_tokens", 1, 1 << 24, &request->max_tokens, err);
    if (r == 0)
        r = ofr_field_bool(body, "logprobs", &request->logprobs, err);
    if (r == 0)
        r = ofr_field_u32(body, "top_logprobs", 0, OFR_LOGPROBS_TOP_MAX, &request->top_logprobs,
                          err);
    if (r == 0 && request->top_logprobs && !request->logprobs)
        r = ofr_api_fail(err, "top_logprobs", "'top_logprobs' needs 'logprobs': true");
    if (r == 0)
        r = ofr_field_refuse(body, "audio", "this model writes text only", err);
    if (r == 0)
        r = ofr_field_refuse(body, "functions", "use 'tools'", err);
    const json_t *tools = ofr_field(body, "tools");
    if (r == 0 && tools && !json_is_array(tools))
        r = ofr_api_fail(err, "tools", "'tools' must be a list");
    if (r == 0 && tools && json_array_size(tools) > 0)
        request->tools = json_incref((json_t *)tools);
    request->tool_choice = ofr_field(body, "tool_choice");
    const json_t *format = ofr_field(body, "response_format");
    if (r == 0 && format)
        request->response_format = json_incref((json_t *)format);
    return r;
}

static int add_prompt(ofr_api_request *request, const json_t *item, uint32_t vocab_size,
                      const char *name, ofr_api_error *err)
{
    ofr_api_prompt *prompt = &request->prompts[request->n_prompts];
    if (json_is_string(item)) {
        prompt->text = json_string_value(item);
        prompt->size = json_string_length(item);
    } else {
        size_t i;
        const json_t *id;
        if (!json_is_array(item) || json_array_size(item) == 0)
            return ofr_api_fail(err, name, "'%s' must be text or token ids, or a list of them",
                                name);
        json_array_foreach(item, i, id)
        {
            if (!json_is_integer(id) || json_integer_value(id) < 0 ||
                json_integer_value(id) >= vocab_size)
                return ofr_api_fail(err, name, "'%s' has an item that is no token id below %u",
                                    name, vocab_size);
        }
        prompt->ids = item;
    }
    request->n_prompts++;
    return 0;
}

/* A text, a list of texts, a list of ids, or a list of lists of ids. */
static int parse_prompts(ofr_api_request *request, const char *name, uint32_t vocab_size,
                         ofr_api_error *err)
{
    const json_t *value = ofr_field(request->body, name);
    if (!value)
        return ofr_api_fail(err, name, "'%s' is missing", name);
    bool list = json_is_array(value) && !json_is_integer(json_array_get(value, 0));
    size_t n = list ? json_array_size(value) : 1;
    if (n == 0 || n > 2048)
        return ofr_api_fail(err, name, "'%s' must have 1 to 2048 items", name);
    request->prompts = calloc(n, sizeof *request->prompts);
    if (!request->prompts)
        return ofr_api_fail(err, name, "no memory for %zu prompts", n);
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++)
        r = add_prompt(request, list ? json_array_get(value, i) : value, vocab_size, name, err);
    return r;
}

static int parse_completion(ofr_api_request *request, uint32_t vocab_size, ofr_api_error *err)
{
    const json_t *body = request->body;
    int64_t logprobs = -1;
    int r = parse_prompts(request, "prompt", vocab_size, err);
    if (r == 0)
        r = parse_generation(request, vocab_size, err);
    if (r == 0)
        r = parse_n(request, err);
    request->max_tokens = 16;
    if (r == 0)
        r = ofr_field_int(body, "max_tokens", 1, 1 << 24, &request->max_tokens, err);
    if (r == 0)
        r = ofr_field_int(body, "logprobs", 0, OFR_LOGPROBS_TOP_MAX, &logprobs, err);
    request->logprobs = logprobs >= 0;
    request->top_logprobs = logprobs > 0 ? (uint32_t)logprobs : 0;
    if (r == 0)
        r = ofr_field_bool(body, "echo", &request->echo, err);
    if (r == 0 && request->echo && request->logprobs)
        r = ofr_api_fail(err, "echo", "'echo' together with 'logprobs' is not supported");
    if (r == 0)
        r = ofr_field_refuse(body, "suffix", "this model continues text, it does not fill gaps",
                             err);
    const json_t *format = ofr_field(body, "response_format");
    if (r == 0 && format)
        request->response_format = json_incref((json_t *)format);
    if (r == 0 && (uint64_t)request->n * request->n_prompts > OFR_API_CHOICES_MAX)
        r = ofr_api_fail(err, "n", "at most %d answers in one request", OFR_API_CHOICES_MAX);
    return r;
}

static int parse_responses(ofr_api_request *request, uint32_t vocab_size, ofr_api_error *err)
{
    const json_t *body = request->body;
    const char *instructions = NULL;
    int r = ofr_field_string(body, "instructions", &instructions, err);
    if (r == 0)
        r = ofr_messages_from_input(ofr_field(body, "input"), instructions, &request->messages,
                                    err);
    if (r == 0)
        r = parse_generation(request, vocab_size, err);
    if (r == 0)
        r = ofr_field_int(body, "max_output_tokens", 1, 1 << 24, &request->max_tokens, err);
    if (r == 0)
        r = ofr_field_refuse(body, "previous_response_id",
                             "responses are not stored; send the conversation as 'input'", err);
    if (r == 0)
        r = ofr_field_refuse(body, "background", "there is no queue that outlives a request", err);
    const json_t *tools = ofr_field(body, "tools");
    if (r == 0 && tools && json_array_size(tools) > 0)
        r = ofr_tools_from_responses(tools, &request->tools, err);
    request->tool_choice = ofr_field(body, "tool_choice");
    const json_t *format = ofr_field(ofr_field(body, "text"), "format");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (r == 0 && type && strcmp(type, "json_schema") == 0) {
        json_t *schema = json_copy((json_t *)format);
        json_object_del(schema, "type");
        request->response_format =
            json_pack("{s:s, s:o}", "type", "json_schema", "json_schema", schema);
    } else if (r == 0 && format) {
        request->response_format = json_incref((json_t *)format);
    }
    return r;
}

static int parse_embeddings(ofr_api_request *request, uint32_t vocab_size, ofr_api_error *err)
{
    const char *encoding = "float";
    int r = parse_prompts(request, "input", vocab_size, err);
    if (r == 0)
        r = ofr_field_string(request->body, "encoding_format", &encoding, err);
    if (r == 0 && strcmp(encoding, "float") != 0 && strcmp(encoding, "base64") != 0)
        r = ofr_api_fail(err, "encoding_format", "'encoding_format' is 'float' or 'base64'");
    request->base64 = r == 0 && strcmp(encoding, "base64") == 0;
    if (r == 0 && request->n_prompts > OFR_API_CHOICES_MAX)
        r = ofr_api_fail(err, "input", "at most %d inputs in one request", OFR_API_CHOICES_MAX);
    if (r == 0)
        r = ofr_field_refuse(request->body, "dimensions", "the model has one size", err);
    return r;
}

static int parse_tokenize(ofr_api_request *request, uint32_t vocab_size, ofr_api_error *err)
{
    const json_t *body = request->body;
    int r = 0;
    request->add_special = true;
    if (ofr_field(body, "messages"))
        r = ofr_messages_from_chat(ofr_field(body, "messages"), &request->messages, err);
    else
        r = parse_prompts(request, ofr_field(body, "content") ? "content" : "prompt", vocab_size,
                          err);
    if (r == 0 && request->prompts && (request->n_prompts != 1 || !request->prompts[0].text))
        r = ofr_api_fail(err, "prompt", "'prompt' must be one text");
    if (r == 0)
        r = ofr_field_bool(body, "add_special_tokens", &request->add_special, err);
    if (r == 0)
        r = ofr_field_bool(body, "return_token_strs", &request->with_pieces, err);
    return r;
}

static int parse_detokenize(ofr_api_request *request, uint32_t vocab_size, ofr_api_error *err)
{
    const json_t *ids = ofr_field(request->body, "tokens");
    if (!json_is_array(ids))
        return ofr_api_fail(err, "tokens", "'tokens' must be a list of token ids");
    request->prompts = calloc(1, sizeof *request->prompts);
    if (!request->prompts)
        return ofr_api_fail(err, "tokens", "no memory for the tokens");
    if (json_array_size(ids) > 0)
        return add_prompt(request, ids, vocab_size, "tokens", err);
    return 0;
}

int ofr_api_request_parse(enum ofr_api api, const char *body, size_t size, uint32_t vocab_size,
                          ofr_api_request *ret_request, ofr_api_error *err)
{
    ofr_api_request request = {.api = api, .n = 1, .max_tokens = -1};
    request.sampling = (ofr_sampling)OFR_SAMPLING_DEFAULT;
    request.sampling.temperature = 1;
    json_error_t why;
    request.body = json_loadb(body ? body : "", size, JSON_ALLOW_NUL, &why);
    if (!request.body)
        return ofr_api_fail(err, NULL, "the body is not JSON: %s at byte %d", why.text,
                            why.position);
    int r = 0;
    if (!json_is_object(request.body))
        r = ofr_api_fail(err, NULL, "the body is not a JSON object");
    if (r == 0)
        r = ofr_field_string(request.body, "model", &request.model, err);
    if (r == 0)
        r = ofr_field_string(request.body, "user", &request.user, err);
    if (r == 0) {
        static int (*const parsers[])(ofr_api_request *, uint32_t, ofr_api_error *) = {
            [OFR_API_CHAT] = parse_chat,           [OFR_API_COMPLETION] = parse_completion,
            [OFR_API_RESPONSES] = parse_responses, [OFR_API_EMBEDDINGS] = parse_embeddings,
            [OFR_API_TOKENIZE] = parse_tokenize,   [OFR_API_DETOKENIZE] = parse_detokenize,
        };
        r = parsers[api](&request, vocab_size, err);
    }
    if (r < 0) {
        ofr_api_request_done(&request);
        return r;
    }
    *ret_request = request;
    return 0;
}

void ofr_api_request_done(ofr_api_request *request)
{
    for (uint32_t i = 0; i < request->n_stops; i++)
        free(request->stops[i]);
    free(request->biases);
    free(request->prompts);
    json_decref(request->response_format);
    json_decref(request->tools);
    json_decref(request->messages);
    json_decref(request->body);
    *request = (ofr_api_request){0};
}
