/* What answer.c and the formats share. */
#ifndef OFR_SUPERVISOR_SERVE_ANSWER_INTERNAL_H
#define OFR_SUPERVISOR_SERVE_ANSWER_INTERNAL_H

#include "supervisor/serve/answer.h"
#include "supervisor/serve/structured.h"

struct ofr_answer;

/* One choice of an answer. */
typedef struct ofr_answer_part {
    struct ofr_answer *answer;
    uint32_t index;
    uint32_t prompt; /* of the request's prompts */
    ofr_choice choice;
    ofr_output_filter filter; /* push NULL: none */
    ofr_text content;         /* filtered: what the message's content is so far */
    bool called_tools;
    size_t sent;          /* bytes of the choice's text that were emitted */
    uint32_t sent_tokens; /* kept tokens that were emitted */
    bool begun, ended;
    uint64_t last_ns; /* of the last token */
    ofr_batch_report report;
    double *sums; /* embeddings: [d_model], owned */
    uint32_t n_summed;
} ofr_answer_part;

struct ofr_answer_format;

typedef struct ofr_answer {
    ofr_service *service;
    ofr_api_request request;
    const struct ofr_answer_format *format;
    ofr_answer_sink sink;
    char id[40];
    time_t created;
    uint64_t arrived_ns;
    bool listening;         /* the sink wants more */
    ofr_answer_part *parts; /* [n_parts], owned */
    uint32_t n_parts, n_ended;
    uint32_t *prompt_tokens; /* [n_prompts], owned */
    uint32_t n_prompts, sequence_number;
    ofr_api_error failure; /* status 0: none */
    ofr_text out;
    ofr_structured structured; /* what the answer must look like */
} ofr_answer;

/* How an API looks. Slots append to answer->out; NULL slots say nothing. */
typedef struct ofr_answer_format {
    const char *id_prefix;
    /* Stream: before the first event. */
    void (*begin)(ofr_answer *answer);
    /* Stream: new content of a part, new tool calls (elements of the delta), and the tokens
     * [from, to) that go with it. */
    void (*delta)(ofr_answer_part *part, const char *text, size_t size, const ofr_text *calls,
                  uint32_t from_token, uint32_t to_token);
    void (*part_end)(ofr_answer_part *part);
    /* Stream: after all parts. */
    void (*end)(ofr_answer *answer);
    /* Stream: a failure after it began. */
    void (*fail)(ofr_answer *answer);
    /* The whole answer. */
    void (*whole)(ofr_answer *answer);
} ofr_answer_format;

extern const ofr_answer_format ofr_answer_format_chat;
extern const ofr_answer_format ofr_answer_format_completion;
extern const ofr_answer_format ofr_answer_format_responses;
extern const ofr_answer_format ofr_answer_format_embeddings;

/* "stop", "length", "tool_calls" */
const char *ofr_answer_finish_name(const ofr_answer_part *part);
/* Sums over the parts. */
typedef struct ofr_answer_usage {
    uint64_t prompt, cached, completion;
} ofr_answer_usage;
ofr_answer_usage ofr_answer_count(const ofr_answer *answer);
/* The text of one token as a JSON string; bytes that are no character become U+FFFD. */
void ofr_answer_print_token(ofr_text *out, const ofr_answer *answer, int32_t id);
/* The bytes of one token as a JSON array. */
void ofr_answer_print_bytes(ofr_text *out, const ofr_answer *answer, int32_t id);

/* What chat completions and completions share (format_shared.c): an object up to its choices,
 * {"id":...,"choices":[; their usage object; the end of a stream, after all parts; a failure. */
void ofr_answer_print_head(ofr_text *out, const ofr_answer *answer, const char *object);
void ofr_answer_print_usage(ofr_text *out, const ofr_answer *answer);
void ofr_answer_stream_end(ofr_answer *answer, const char *object);
void ofr_answer_stream_fail(ofr_answer *answer);

#endif
