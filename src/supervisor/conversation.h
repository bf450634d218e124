/* A conversation: the messages of a chat, and the file it is saved to.
 *
 * Messages are the JSON objects that templates take: {"role": ..., "content": ...}. A turn is a
 * user message and what follows it up to the next user message. A conversation belongs to one
 * thread. */
#ifndef OFR_SUPERVISOR_CONVERSATION_H
#define OFR_SUPERVISOR_CONVERSATION_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum { OFR_CONVERSATION_FILE_CAP = 64 << 20 };

typedef struct ofr_conversation {
    json_t *messages; /* array, owned */
} ofr_conversation;

int ofr_conversation_init(ofr_conversation *conversation, ofr_error *err);
void ofr_conversation_done(ofr_conversation *conversation);

/* The system message, always first; an empty text removes it. The text must be UTF-8. */
int ofr_conversation_set_system(ofr_conversation *conversation, const char *text, ofr_error *err);
/* `text` [size], UTF-8 (OFR_EUTF8 otherwise); may contain NUL. */
int ofr_conversation_add(ofr_conversation *conversation, const char *role, const char *text,
                         size_t size, ofr_error *err);
/* Takes back the last message, if there is one. */
void ofr_conversation_remove_last(ofr_conversation *conversation);
/* Removes all but the system message. */
void ofr_conversation_reset(ofr_conversation *conversation);
size_t ofr_conversation_turns(const ofr_conversation *conversation);
/* Removes the oldest turn, keeping the system message. False if only one is left: it stays. */
bool ofr_conversation_drop_oldest(ofr_conversation *conversation);

/* {"model": ..., "messages": [...]}, mode 0600; an existing file is replaced whole or not at all.
 */
int ofr_conversation_save(const ofr_conversation *conversation, const char *path, const char *model,
                          ofr_error *err);
/* Reads what _save wrote, or a plain array of messages. Unchanged on error. */
int ofr_conversation_load(ofr_conversation *conversation, const char *path, ofr_error *err);

#endif
