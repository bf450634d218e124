/* What the shapes of /v1/chat/completions and /v1/completions share. */
#include <inttypes.h>

#include "supervisor/serve/answer_internal.h"

void ofr_answer_print_head(ofr_text *out, const ofr_answer *answer, const char *object)
{
    ofr_text_print(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", answer->id,
                   object, (long long)answer->created);
    ofr_text_add_json_string(out, answer->service->model_id);
    ofr_text_print(out, ",\"system_fingerprint\":\"%s\",\"choices\":[",
                   answer->service->fingerprint);
}

void ofr_answer_print_usage(ofr_text *out, const ofr_answer *answer)
{
    ofr_answer_usage usage = ofr_answer_count(answer);
    ofr_text_print(out,
                   "{\"prompt_tokens\":%" PRIu64 ",\"completion_tokens\":%" PRIu64
                   ",\"total_tokens\":%" PRIu64
                   ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRIu64 "}}",
                   usage.prompt, usage.completion, usage.prompt + usage.completion, usage.cached);
}

void ofr_answer_stream_end(ofr_answer *answer, const char *object)
{
    ofr_text *out = &answer->out;
    if (answer->request.include_usage) {
        ofr_text_print(out, "data: ");
        ofr_answer_print_head(out, answer, object);
        ofr_text_print(out, "],\"usage\":");
        ofr_answer_print_usage(out, answer);
        ofr_text_print(out, "}\n\n");
    }
    ofr_text_print(out, "data: [DONE]\n\n");
}

void ofr_answer_stream_fail(ofr_answer *answer)
{
    ofr_text_print(&answer->out, "data: ");
    ofr_answer_print_error(&answer->out, &answer->failure);
    ofr_text_print(&answer->out, "\n\n");
}
