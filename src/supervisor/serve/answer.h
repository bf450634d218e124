/* Answers: a request of the API as one or more sequences of the batch, and what they say, in the
 * shape of the API: events of a stream, or one JSON object.
 *
 * An answer is made on the thread that parsed the request and lives until its last sequence has
 * ended; then it tells its sink and frees itself. All calls of the sink come from the batch's
 * thread, but those during ofr_answer_start. */
#ifndef OFR_SUPERVISOR_SERVE_ANSWER_H
#define OFR_SUPERVISOR_SERVE_ANSWER_H

#include <stdatomic.h>

#include "supervisor/serve/choice.h"
#include "supervisor/serve/request.h"
#include "supervisor/serve/service.h"

/* Where an answer goes. */
typedef struct ofr_answer_sink {
    /* Part of a stream; false: nobody reads it any more. */
    bool (*write)(void *user, const char *data, size_t size);
    /* The end: of a stream (status 200, no data), or with the whole body. Exactly once, last. */
    void (*end)(void *user, unsigned status, const char *data, size_t size);
    void *user;
} ofr_answer_sink;

/* Turns an answer's text into what the client sees: tool calls out of content. One per choice. */
typedef struct ofr_output_filter {
    /* `text` [size] follows what came before; `last`: nothing will. Appends to `content` what is
     * content, and to `tool_calls` elements of a delta's "tool_calls", separated by commas. */
    int (*push)(void *user, const char *text, size_t size, bool last, ofr_text *content,
                ofr_text *tool_calls, ofr_error *err);
    /* The elements of the message's "tool_calls" after the end; nothing where there are none. */
    void (*tool_calls)(void *user, ofr_text *tool_calls);
    void (*free)(void *user);
    void *user;
} ofr_output_filter;

/* Starts the answer to `request`, which is taken over (zeroed) in any case. `owner` stands for who
 * asks; `canceled` outlives the answer's end. On failure the sink is not called. */
int ofr_answer_start(ofr_service *service, ofr_api_request *request, const ofr_answer_sink *sink,
                     uint64_t owner, uint64_t arrived_ns, const atomic_bool *canceled,
                     ofr_api_error *err);

/* {"error":{...}} */
void ofr_answer_print_error(ofr_text *text, const ofr_api_error *err);

#endif
