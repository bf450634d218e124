/* The commands of the chat: lines that begin with a slash. */
#ifndef OFR_SUPERVISOR_CHAT_COMMANDS_H
#define OFR_SUPERVISOR_CHAT_COMMANDS_H

#include "supervisor/chat.h"

/* Runs the command in `line` ("/save a.json"). False: leave the chat. */
bool ofr_chat_command_line(ofr_chat *chat, const char *line);

#endif
