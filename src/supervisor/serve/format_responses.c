/* The shape of /v1/responses: one output message, and the events of its stream. */
#include <inttypes.h>
#include <stdlib.h>

#include "supervisor/serve/answer_internal.h"

static const char *content_of(const ofr_answer_part *part, size_t *ret_size)
{
    const ofr_text *text = part->filter.push ? &part->content : &part->choice.text;
    /* Held back text is not content yet. */
    *ret_size = part->filter.push ? text->size : part->sent;
    return text->data ? text->data : "";
}

static void print_part(ofr_text *out, const ofr_answer_part *part)
{
    size_t size = 0;
    const char *text = content_of(part, &size);
    ofr_text_print(out, "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":");
    ofr_text_add_json(out, text, size);
    ofr_text_print(out, "}");
}

static const char *item_id(const ofr_answer *answer)
{
    /* "resp_..." without its prefix. */
    return answer->id + 5;
}

static void print_item(ofr_text *out, const ofr_answer_part *part, const char *status,
                       bool with_content)
{
    ofr_text_print(out,
                   "{\"id\":\"msg_%s\",\"type\":\"message\",\"role\":\"assistant\","
                   "\"status\":\"%s\",\"content\":[",
                   item_id(part->answer), status);
    if (with_content)
        print_part(out, part);
    ofr_text_print(out, "]}");
}

static bool cut_short(const ofr_answer *answer)
{
    return answer->parts[0].choice.finish == OFR_CHOICE_FINISH_LENGTH;
}

static void print_json(ofr_text *out, const char *name, const json_t *value, const char *otherwise)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    ofr_text_print(out, ",\"%s\":%s", name, text ? text : otherwise);
    free(text);
}

static void print_items(ofr_text *out, const ofr_answer_part *part, const char *status)
{
    bool message = !part->called_tools || part->content.size > 0;
    if (message)
        print_item(out, part, status, true);
    if (!part->called_tools)
        return;
    /* The chat form of the calls, as items. */
    ofr_text calls = {0};
    ofr_text_add(&calls, "[", 1);
    part->filter.tool_calls(part->filter.user, &calls);
    ofr_text_add(&calls, "]", 1);
    json_t *array = calls.failed ? NULL : json_loadb(calls.data, calls.size, 0, NULL);
    size_t i;
    json_t *call;
    json_array_foreach(array, i, call)
    {
        const json_t *function = json_object_get(call, "function");
        json_t *item =
            json_pack("{s:s, s:s?, s:O?, s:O?, s:O?, s:s}", "type", "function_call", "id",
                      json_string_value(json_object_get(call, "id")), "call_id",
                      json_object_get(call, "id"), "name", json_object_get(function, "name"),
                      "arguments", json_object_get(function, "arguments"), "status", "completed");
        char *text = item ? json_dumps(item, JSON_COMPACT) : NULL;
        ofr_text_print(out, "%s%s", message || i ? "," : "", text ? text : "{}");
        free(text);
        json_decref(item);
    }
    json_decref(array);
    ofr_text_done(&calls);
}

static void print_response(ofr_answer *answer, const char *status)
{
    ofr_text *out = &answer->out;
    const ofr_api_request *request = &answer->request;
    bool done = answer->n_ended == answer->n_parts;
    ofr_text_print(out,
                   "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\","
                   "\"background\":false,\"error\":",
                   answer->id, (long long)answer->created, status);
    if (answer->failure.status) {
        ofr_text_print(out, "{\"code\":\"server_error\",\"message\":");
        ofr_text_add_json_string(out, answer->failure.text);
        ofr_text_print(out, "}");
    } else {
        ofr_text_print(out, "null");
    }
    ofr_text_print(out, ",\"incomplete_details\":%s,\"model\":",
                   done && cut_short(answer) ? "{\"reason\":\"max_output_tokens\"}" : "null");
    ofr_text_add_json_string(out, answer->service->model_id);
    print_json(out, "instructions", json_object_get(request->body, "instructions"), "null");
    print_json(out, "max_output_tokens", json_object_get(request->body, "max_output_tokens"),
               "null");
    print_json(out, "metadata", json_object_get(request->body, "metadata"), "{}");
    print_json(out, "tool_choice", request->tool_choice, "\"auto\"");
    print_json(out, "tools", json_object_get(request->body, "tools"), "[]");
    print_json(out, "text", json_object_get(request->body, "text"),
               "{\"format\":{\"type\":\"text\"}}");
    ofr_text_print(out,
                   ",\"temperature\":%g,\"top_p\":%g,\"parallel_tool_calls\":true,"
                   "\"previous_response_id\":null,\"reasoning\":{\"effort\":null,\"summary\":null},"
                   "\"store\":false,\"truncation\":\"disabled\",\"user\":null,\"output\":[",
                   (double)request->sampling.temperature, (double)request->sampling.top_p);
    if (done && !answer->failure.status)
        print_items(out, &answer->parts[0], cut_short(answer) ? "incomplete" : "completed");
    ofr_text_print(out, "],\"usage\":");
    if (done) {
        ofr_answer_usage usage = ofr_answer_count(answer);
        ofr_text_print(
            out,
            "{\"input_tokens\":%" PRIu64 ",\"input_tokens_details\":{\"cached_tokens\":%" PRIu64
            "},\"output_tokens\":%" PRIu64
            ",\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%" PRIu64 "}}",
            usage.prompt, usage.cached, usage.completion, usage.prompt + usage.completion);
    } else {
        ofr_text_print(out, "null}");
    }
}

static void event(ofr_answer *answer, const char *type)
{
    ofr_text_print(&answer->out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%u,", type,
                   type, answer->sequence_number++);
}

static void event_response(ofr_answer *answer, const char *type, const char *status)
{
    event(answer, type);
    ofr_text_print(&answer->out, "\"response\":");
    print_response(answer, status);
    ofr_text_print(&answer->out, "}\n\n");
}

static void responses_begin(ofr_answer *answer)
{
    event_response(answer, "response.created", "in_progress");
    event_response(answer, "response.in_progress", "in_progress");
}

static void begin_item(ofr_answer_part *part)
{
    ofr_answer *answer = part->answer;
    part->begun = true;
    event(answer, "response.output_item.added");
    ofr_text_print(&answer->out, "\"output_index\":0,\"item\":");
    print_item(&answer->out, part, "in_progress", false);
    ofr_text_print(&answer->out, "}\n\n");
    event(answer, "response.content_part.added");
    ofr_text_print(
        &answer->out,
        "\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0,\"part\":{"
        "\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"\"}}\n\n",
        item_id(answer));
}

static void responses_delta(ofr_answer_part *part, const char *text, size_t size,
                            const ofr_text *calls, uint32_t from, uint32_t to)
{
    ofr_answer *answer = part->answer;
    (void)calls; /* told whole, at the end */
    (void)from;
    (void)to;
    if (size == 0)
        return;
    if (!part->begun)
        begin_item(part);
    event(answer, "response.output_text.delta");
    ofr_text_print(&answer->out,
                   "\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0,\"logprobs\":[],"
                   "\"delta\":",
                   item_id(answer));
    ofr_text_add_json(&answer->out, text, size);
    ofr_text_print(&answer->out, "}\n\n");
}

static void end_message(ofr_answer_part *part)
{
    ofr_answer *answer = part->answer;
    size_t size = 0;
    const char *text = content_of(part, &size);
    if (!part->begun)
        begin_item(part);
    event(answer, "response.output_text.done");
    ofr_text_print(&answer->out,
                   "\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0,\"logprobs\":[],"
                   "\"text\":",
                   item_id(answer));
    ofr_text_add_json(&answer->out, text, size);
    ofr_text_print(&answer->out, "}\n\n");
    event(answer, "response.content_part.done");
    ofr_text_print(
        &answer->out,
        "\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0,\"part\":", item_id(answer));
    print_part(&answer->out, part);
    ofr_text_print(&answer->out, "}\n\n");
    event(answer, "response.output_item.done");
    ofr_text_print(&answer->out, "\"output_index\":0,\"item\":");
    print_item(&answer->out, part, cut_short(answer) ? "incomplete" : "completed", true);
    ofr_text_print(&answer->out, "}\n\n");
}

static void responses_part_end(ofr_answer_part *part)
{
    if (!part->called_tools || part->content.size > 0)
        end_message(part);
}

static void responses_end(ofr_answer *answer)
{
    bool cut = cut_short(answer);
    event_response(answer, cut ? "response.incomplete" : "response.completed",
                   cut ? "incomplete" : "completed");
}

static void responses_fail(ofr_answer *answer)
{
    event_response(answer, "response.failed", "failed");
}

static void responses_whole(ofr_answer *answer)
{
    answer->parts[0].sent = answer->parts[0].choice.text.size;
    print_response(answer, cut_short(answer) ? "incomplete" : "completed");
}

const ofr_answer_format ofr_answer_format_responses = {
    .id_prefix = "resp_",
    .begin = responses_begin,
    .delta = responses_delta,
    .part_end = responses_part_end,
    .end = responses_end,
    .fail = responses_fail,
    .whole = responses_whole,
};
