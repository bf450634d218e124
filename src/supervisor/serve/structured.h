/* What an answer must look like: response_format and grammar.
 *
 * Prepared once for a request, before any work; then every choice gets a constraint of its own. */
#ifndef OFR_SUPERVISOR_SERVE_STRUCTURED_H
#define OFR_SUPERVISOR_SERVE_STRUCTURED_H

#include "grammar/matcher.h"
#include "supervisor/serve/choice.h"
#include "supervisor/serve/request.h"
#include "supervisor/serve/service.h"

typedef struct ofr_structured {
    ofr_grammar *grammar; /* owned; NULL: any text */
    const ofr_vocabulary *vocabulary;
} ofr_structured;

/* Checks and compiles what the request says of its answer. On failure nothing is left to free. */
int ofr_structured_prepare(const ofr_service *service, const ofr_api_request *request,
                           ofr_structured *ret_structured, ofr_api_error *err);
/* Accepts a zeroed one; after all its constraints were freed. */
void ofr_structured_done(ofr_structured *structured);
/* The constraint of one choice; all NULL where any text will do. */
int ofr_structured_constrain(const ofr_structured *structured, ofr_token_constraint *ret_constraint,
                             ofr_error *err);

#endif
