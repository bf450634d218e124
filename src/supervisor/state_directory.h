/* Where the program keeps what outlives it: chat history, the last measurement. */
#ifndef OFR_SUPERVISOR_STATE_DIRECTORY_H
#define OFR_SUPERVISOR_STATE_DIRECTORY_H

#include "base/status.h"

/* $XDG_STATE_HOME/offering/<name>, or ~/.local/state/offering/<name>. The directory is made, mode
 * 0700. *ret_path is malloc'ed. OFR_ENOENT without a home. */
int ofr_state_path(const char *name, char **ret_path, ofr_error *err);

#endif
