/* What an answer must look like: response_format, grammar, tools and tool_choice.
 *
 * Prepared once for a request, before any work; then every choice gets a constraint and a filter of
 * its own. */
#ifndef OFR_SUPERVISOR_SERVE_STRUCTURED_H
#define OFR_SUPERVISOR_SERVE_STRUCTURED_H

#include "grammar/matcher.h"
#include "supervisor/serve/answer.h"
#include "tool_calls/tool_calls.h"

enum { OFR_STRUCTURED_SHOWN_MAX = 8 };

typedef struct ofr_structured {
    ofr_grammar *grammar; /* owned; NULL: any text */
    const ofr_vocabulary *vocabulary;
    json_t *tools; /* that may be called; owned; NULL: none */
    enum ofr_tool_dialect dialect;
    int32_t shown[OFR_STRUCTURED_SHOWN_MAX]; /* control tokens that mark calls */
    uint32_t n_shown;
} ofr_structured;

/* Checks and compiles what the request says of its answer; rewrites its messages and tools as the
 * model's template needs them. On failure nothing of *ret_structured is left to free. */
int ofr_structured_prepare(const ofr_service *service, ofr_api_request *request,
                           ofr_structured *ret_structured, ofr_api_error *err);
/* Accepts a zeroed one; after all its constraints and filters were freed. */
void ofr_structured_done(ofr_structured *structured);
/* The constraint of one choice; all NULL where any text will do. */
int ofr_structured_constrain(const ofr_structured *structured, ofr_token_constraint *ret_constraint,
                             ofr_error *err);
/* The filter of one choice; all NULL where there are no tools. */
int ofr_structured_filter(const ofr_structured *structured, ofr_output_filter *ret_filter,
                          ofr_error *err);

#endif
