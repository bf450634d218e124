/* A conversation: messages, turns, and the file they are saved to. */
#include "supervisor/conversation.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/utf8.h"

int ofr_conversation_init(ofr_conversation *conversation, ofr_error *err)
{
    conversation->messages = json_array();
    return conversation->messages ? 0 : ofr_fail(err, OFR_ENOMEM, "no memory for a conversation");
}

void ofr_conversation_done(ofr_conversation *conversation)
{
    json_decref(conversation->messages);
    conversation->messages = NULL;
}

static const char *role_of(const json_t *messages, size_t index)
{
    const char *role = json_string_value(json_object_get(json_array_get(messages, index), "role"));
    return role ? role : "";
}

static bool has_system(const ofr_conversation *conversation)
{
    return strcmp(role_of(conversation->messages, 0), "system") == 0;
}

static int make_message(const char *role, const char *text, size_t size, json_t **ret_message,
                        ofr_error *err)
{
    size_t offset = 0;
    if (!ofr_utf8_validate(text, size, &offset))
        return ofr_fail(err, OFR_EUTF8, "the %s message is not valid UTF-8 at byte offset %zu",
                        role, offset);
    *ret_message = json_pack("{s:s, s:o}", "role", role, "content", json_stringn(text, size));
    return *ret_message ? 0
                        : ofr_fail(err, OFR_ENOMEM, "no memory for a message of %zu bytes", size);
}

int ofr_conversation_set_system(ofr_conversation *conversation, const char *text, ofr_error *err)
{
    json_t *message = NULL;
    if (*text) {
        int r = make_message("system", text, strlen(text), &message, err);
        if (r < 0)
            return r;
    }
    if (has_system(conversation))
        json_array_remove(conversation->messages, 0);
    if (message && json_array_insert_new(conversation->messages, 0, message) < 0)
        return ofr_fail(err, OFR_ENOMEM, "no memory for the system message");
    return 0;
}

int ofr_conversation_add(ofr_conversation *conversation, const char *role, const char *text,
                         size_t size, ofr_error *err)
{
    json_t *message = NULL;
    int r = make_message(role, text, size, &message, err);
    if (r < 0)
        return r;
    if (json_array_append_new(conversation->messages, message) < 0)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a message");
    return 0;
}

void ofr_conversation_remove_last(ofr_conversation *conversation)
{
    size_t count = json_array_size(conversation->messages);
    if (count)
        json_array_remove(conversation->messages, count - 1);
}

void ofr_conversation_reset(ofr_conversation *conversation)
{
    size_t keep = has_system(conversation) ? 1 : 0;
    while (json_array_size(conversation->messages) > keep)
        ofr_conversation_remove_last(conversation);
}

size_t ofr_conversation_turns(const ofr_conversation *conversation)
{
    size_t turns = 0;
    for (size_t i = 0; i < json_array_size(conversation->messages); i++)
        turns += strcmp(role_of(conversation->messages, i), "user") == 0;
    return turns;
}

bool ofr_conversation_drop_oldest(ofr_conversation *conversation)
{
    if (ofr_conversation_turns(conversation) < 2)
        return false;
    size_t first = has_system(conversation) ? 1 : 0;
    /* What may stand before the first user message goes with it. */
    bool user_gone = false;
    for (;;) {
        bool user = strcmp(role_of(conversation->messages, first), "user") == 0;
        if (user && user_gone)
            return true;
        user_gone = user_gone || user;
        json_array_remove(conversation->messages, first);
    }
}

int ofr_conversation_save(const ofr_conversation *conversation, const char *path, const char *model,
                          ofr_error *err)
{
    json_t *root = json_pack("{s:s, s:O}", "model", model, "messages", conversation->messages);
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text)
        return ofr_fail(err, OFR_ENOMEM, "%s: no memory to write the conversation", path);
    int r = ofr_file_replace(path, text, strlen(text), 0600, err);
    free(text);
    return r;
}

static int check_message(const char *path, size_t index, const json_t *message, ofr_error *err)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    const char *role = json_string_value(json_object_get(message, "role"));
    bool known = false;
    for (size_t i = 0; role && i < sizeof roles / sizeof roles[0]; i++)
        known = known || strcmp(role, roles[i]) == 0;
    if (!known)
        return ofr_fail(err, OFR_EFORMAT,
                        "%s: message %zu has no role among system, user, assistant and tool", path,
                        index);
    if (!json_is_string(json_object_get(message, "content")))
        return ofr_fail(err, OFR_EFORMAT, "%s: message %zu has no text in 'content'", path, index);
    if (index > 0 && strcmp(role, "system") == 0)
        return ofr_fail(err, OFR_EFORMAT,
                        "%s: message %zu is a system message; only the first may be", path, index);
    return 0;
}

int ofr_conversation_load(ofr_conversation *conversation, const char *path, ofr_error *err)
{
    void *data = NULL;
    size_t size = 0;
    int r = ofr_file_read(path, OFR_CONVERSATION_FILE_CAP, &data, &size, err);
    if (r < 0)
        return r;
    json_error_t parse_error;
    json_t *root = json_loadb(data, size, JSON_ALLOW_NUL, &parse_error);
    free(data);
    if (!root)
        return ofr_fail(err, OFR_EFORMAT, "%s:%d: %s", path, parse_error.line, parse_error.text);
    json_t *messages = json_is_array(root) ? root : json_object_get(root, "messages");
    if (!json_is_array(messages))
        r = ofr_fail(err, OFR_EFORMAT, "%s: there is no array of messages in it", path);
    for (size_t i = 0; r == 0 && i < json_array_size(messages); i++)
        r = check_message(path, i, json_array_get(messages, i), err);
    if (r == 0) {
        json_incref(messages);
        json_decref(conversation->messages);
        conversation->messages = messages;
    }
    json_decref(root);
    return r;
}
