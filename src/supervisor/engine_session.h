/* The opened package with its tokenizer and chat template, and the connection to the executive
 * that serves it: what every command but the purely textual ones works on.
 *
 * The session owns all its parts. It belongs to one thread. */
#ifndef OFR_SUPERVISOR_ENGINE_SESSION_H
#define OFR_SUPERVISOR_ENGINE_SESSION_H

#include <jansson.h>

#include "engine/planner.h"
#include "executive_shard/client.h"
#include "package/package.h"
#include "supervisor/options_common.h"
#include "supervisor/sequence.h"
#include "template/chat_template.h"
#include "tokenizer/tokenizer.h"

enum { OFR_PLAN_TEXT_MAX = 512 };

typedef struct ofr_engine_session {
    ofr_package *package;
    ofr_tokenizer *tokenizer;
    ofr_tokenizer_info tokenizer_info;
    char *bos_token, *eos_token;      /* texts, "" where the vocabulary has none; owned */
    ofr_chat_template *chat_template; /* NULL: the package has none, or not asked for */
    ofr_client *client;               /* NULL: not connected */
    ofr_client_info info;             /* of the last connection */
    ofr_sequence sequence;            /* slot 0 of the executive; tokens NULL: not connected */
    char plan[OFR_PLAN_TEXT_MAX];     /* what the executive was asked for */
    uint64_t conditions_version;      /* of the devices, when the plan was looked at last */
} ofr_engine_session;

/* Opens package, tokenizer and (if asked) template; no process is started or spoken to. With
 * `text_only` the package may lack its weights. */
int ofr_engine_session_open(ofr_engine_session *session, const ofr_common_options *common,
                            bool text_only, bool with_template, ofr_error *err);
void ofr_engine_session_done(ofr_engine_session *session);
/* Ends the connection only. */
void ofr_engine_session_disconnect(ofr_engine_session *session);

/* Connects, starting an executive where none serves the package; what happens is told on stderr.
 * Again after OFR_EGONE: drops the dead connection and starts anew. */
int ofr_engine_session_connect(ofr_engine_session *session, const ofr_common_options *common,
                               ofr_error *err);

/* What "auto" chooses under the present conditions of the devices, which may have changed: they
 * throttle, run out of memory, are quarantined or recover. */
typedef struct ofr_engine_choice {
    bool other; /* than the session's plan; else the texts are empty */
    char plan[OFR_PLAN_TEXT_MAX];
    char reason[OFR_PLANNER_TEXT_MAX];
} ofr_engine_choice;

/* For a connected session; the session stays as it is. Never another one where a plan was asked for
 * by name, by the command or by whoever started the executive. Costs a question to the executive,
 * and some milliseconds where conditions changed since the choice before. */
int ofr_engine_session_choose(ofr_engine_session *session, const ofr_common_options *common,
                              ofr_engine_choice *ret_choice, ofr_error *err);
/* Says on stderr which plan it is now, and why. */
void ofr_engine_choice_tell(const ofr_engine_choice *choice);

/* Between requests of a connected session: where another plan is chosen, says so on stderr and
 * connects anew. */
int ofr_engine_session_replan(ofr_engine_session *session, const ofr_common_options *common,
                              ofr_error *err);

/* Renders `messages` (borrowed) with the package's template and the generation prompt, and
 * tokenizes the result. *ret_ids is malloc'ed. OFR_ENOENT: the package has no template. */
int ofr_engine_session_render(const ofr_engine_session *session, const json_t *messages,
                              int32_t **ret_ids, size_t *ret_count, ofr_error *err);

/* The executive's status as JSON; a new reference. */
int ofr_engine_session_status(ofr_engine_session *session, json_t **ret_status, ofr_error *err);

#endif
