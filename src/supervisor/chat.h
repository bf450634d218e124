/* The interactive session: its state, and the turn from a message to an answer.
 * One thread; writes to stdout (answers) and stderr (everything else). */
#ifndef OFR_SUPERVISOR_CHAT_H
#define OFR_SUPERVISOR_CHAT_H

#include <stdbool.h>
#include <stdint.h>

#include "supervisor/conversation.h"
#include "supervisor/engine_session.h"
#include "supervisor/generation.h"
#include "supervisor/line_reader.h"
#include "supervisor/options_common.h"

/* What happens when the context is full. */
enum ofr_chat_overflow {
    OFR_CHAT_OVERFLOW_ASK,
    OFR_CHAT_OVERFLOW_DROP, /* drop the oldest turns, with a notice */
    OFR_CHAT_OVERFLOW_STOP, /* say so, and end the answer or refuse the message */
};

typedef struct ofr_chat_figures {
    uint32_t answers;
    uint32_t prompt_tokens; /* of the last answer */
    uint32_t reused_tokens, prefill_tokens, generated_tokens;
    double prefill_rate, decode_rate; /* of the last answer */
} ofr_chat_figures;

typedef struct ofr_chat {
    ofr_common_options common;
    ofr_sampling_options sampling;
    enum ofr_chat_overflow overflow;
    bool terminal; /* input and output are one */
    ofr_engine_session session;
    ofr_conversation conversation;
    ofr_line_reader *reader;
    ofr_chat_figures figures;
} ofr_chat;

/* Answers one message. Errors are told on stderr; the message is then taken back, and the chat can
 * go on. */
void ofr_chat_answer(ofr_chat *chat, const char *text, size_t size);

/* "dim" text on a terminal's stderr, plain otherwise. */
void ofr_chat_tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
