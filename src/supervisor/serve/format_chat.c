/* The shape of /v1/chat/completions. */
#include "supervisor/serve/answer_internal.h"

static void print_logprob(ofr_text *out, const ofr_answer *answer, int32_t id, float logprob)
{
    ofr_text_print(out, "{\"token\":");
    ofr_answer_print_token(out, answer, id);
    ofr_text_print(out, ",\"logprob\":%.6g,\"bytes\":", (double)logprob);
    ofr_answer_print_bytes(out, answer, id);
}

static void print_logprobs(ofr_text *out, const ofr_answer_part *part, uint32_t from, uint32_t to)
{
    if (!part->answer->request.logprobs) {
        ofr_text_print(out, "null");
        return;
    }
    ofr_text_print(out, "{\"content\":[");
    for (uint32_t i = from; i < to; i++) {
        const ofr_choice_token *token = &part->choice.tokens[i];
        ofr_text_print(out, "%s", i > from ? "," : "");
        print_logprob(out, part->answer, token->id, token->logprob);
        ofr_text_print(out, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < token->n_top; k++) {
            ofr_text_print(out, "%s", k ? "," : "");
            print_logprob(out, part->answer, token->top[k].token, token->top[k].logprob);
            ofr_text_print(out, "}");
        }
        ofr_text_print(out, "]}");
    }
    ofr_text_print(out, "],\"refusal\":null}");
}

static void chunk_head(ofr_answer *answer, uint32_t index)
{
    ofr_text_print(&answer->out, "data: ");
    ofr_answer_print_head(&answer->out, answer, "chat.completion.chunk");
    ofr_text_print(&answer->out, "{\"index\":%u,\"delta\":{", index);
}

static void chunk_tail(ofr_answer *answer)
{
    ofr_text_print(&answer->out, "}]%s}\n\n",
                   answer->request.include_usage ? ",\"usage\":null" : "");
}

static void chat_begin(ofr_answer *answer)
{
    for (uint32_t i = 0; i < answer->n_parts; i++) {
        chunk_head(answer, i);
        ofr_text_print(&answer->out, "\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                                     "\"finish_reason\":null");
        chunk_tail(answer);
    }
}

static void chat_delta(ofr_answer_part *part, const char *text, size_t size, const ofr_text *calls,
                       uint32_t from, uint32_t to)
{
    ofr_answer *answer = part->answer;
    chunk_head(answer, part->index);
    if (size || !calls->size) {
        ofr_text_print(&answer->out, "\"content\":");
        ofr_text_add_json(&answer->out, text, size);
    }
    if (calls->size) {
        ofr_text_print(&answer->out, "%s\"tool_calls\":[", size ? "," : "");
        ofr_text_add(&answer->out, calls->data, calls->size);
        ofr_text_print(&answer->out, "]");
    }
    ofr_text_print(&answer->out, "},\"logprobs\":");
    print_logprobs(&answer->out, part, from, to);
    ofr_text_print(&answer->out, ",\"finish_reason\":null");
    chunk_tail(answer);
}

static void chat_part_end(ofr_answer_part *part)
{
    chunk_head(part->answer, part->index);
    ofr_text_print(&part->answer->out, "},\"logprobs\":null,\"finish_reason\":\"%s\"",
                   ofr_answer_finish_name(part));
    chunk_tail(part->answer);
}

static void chat_end(ofr_answer *answer)
{
    ofr_answer_stream_end(answer, "chat.completion.chunk");
}

static void print_content(ofr_text *out, const ofr_answer_part *part)
{
    const ofr_text *text = part->filter.push ? &part->content : &part->choice.text;
    ofr_text_add_json(out, text->data ? text->data : "", text->size);
}

static void chat_whole(ofr_answer *answer)
{
    ofr_text *out = &answer->out;
    ofr_answer_print_head(out, answer, "chat.completion");
    for (uint32_t i = 0; i < answer->n_parts; i++) {
        const ofr_answer_part *part = &answer->parts[i];
        ofr_text_print(out, "%s{\"index\":%u,\"message\":{\"role\":\"assistant\",\"content\":",
                       i ? "," : "", i);
        if (part->called_tools && part->content.size == 0)
            ofr_text_print(out, "null");
        else
            print_content(out, part);
        if (part->called_tools) {
            ofr_text_print(out, ",\"tool_calls\":[");
            part->filter.tool_calls(part->filter.user, out);
            ofr_text_print(out, "]");
        }
        ofr_text_print(out, ",\"refusal\":null},\"logprobs\":");
        print_logprobs(out, part, 0, part->choice.n_kept);
        ofr_text_print(out, ",\"finish_reason\":\"%s\"}", ofr_answer_finish_name(part));
    }
    ofr_text_print(out, "],\"usage\":");
    ofr_answer_print_usage(out, answer);
    ofr_text_print(out, "}");
}

const ofr_answer_format ofr_answer_format_chat = {
    .id_prefix = "chatcmpl-",
    .begin = chat_begin,
    .delta = chat_delta,
    .part_end = chat_part_end,
    .end = chat_end,
    .fail = ofr_answer_stream_fail,
    .whole = chat_whole,
};
